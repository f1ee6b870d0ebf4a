/* print_profile.c: see print_profile.h. */
#include "cli/print_profile.h"

#include "cli/cli.h"

void hd_print_profile(const struct hd_profile *p, const char *unit, double n, bool json)
{
    double all = 0;

    for (int i = 0; i < p->n; i++)
        all += p->row[i].wall_s;
    for (int i = 0; i < p->n; i++) {
        const struct hd_profile_row *r = &p->row[i];

        if (!json && r->wall_s < 1e-3 * all)
            break;
        hd_out_printf(json ? "%s{\"name\": \"%s\", \"share\": %.4f, \"ms\": %.5f, \"cpu_ms\": %.5f, \"gops\": %.1f}" : "%s  %-36s %5.1f %%  %9.4f ms, %9.4f cpu ms a ", json && i ? ", " : "", r->name,
                      (json ? 1 : 100) * r->wall_s / all, 1e3 * r->wall_s / n, 1e3 * r->cpu_s / n, 1e-9 * r->ops / (r->cpu_s + 1e-12));
        if (!json)
            hd_out_printf(r->ops > 0 ? "%s  %7.1f GOP/s and core\n" : "%s\n", unit, 1e-9 * r->ops / r->cpu_s);
    }
}
