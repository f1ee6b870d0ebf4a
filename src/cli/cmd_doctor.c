/* cmd_doctor.c: hadal doctor: what this machine can do, and what stands in the way. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "backend/backend.h"

/* The value after "key" and a colon in a file, without spaces around it. */
static void lookup(const char *path, const char *key, char *out, size_t n)
{
    char line[256];
    FILE *f = fopen(path, "re");

    snprintf(out, n, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        char *v = key ? strchr(line, ':') : line;

        if (!v || (key && strncmp(line, key, strlen(key))))
            continue;
        v += key ? 1 : 0;
        v += strspn(v, " \t");
        v[strcspn(v, "\n")] = 0;
        snprintf(out, n, "%s", v);
        break;
    }
    if (f)
        fclose(f);
}

static int run(struct hd_args *a, struct hd_err *err)
{
    char model[128], total[64], thp[128], levels[96] = "", avail[32], advice[512] = "";
    bool json = hd_args_has(a, "json");
    const char *cpu = hd_args_text(a, "cpu", getenv("HD_CPU"));
    struct hd_roofline r;
    struct hd_pool *pool;
    struct hd_str s;
    int rc;

    HD_TRY(hd_backend_cpu_init(cpu, err));
    lookup("/proc/cpuinfo", "model name", model, sizeof model);
    lookup("/proc/meminfo", "MemTotal", total, sizeof total);
    lookup("/sys/kernel/mm/transparent_hugepage/enabled", NULL, thp, sizeof thp);
    for (const char *const *l = hd_backend_cpu_levels; *l; l++)
        if (hd_backend_cpu_has(*l))
            snprintf(levels + strlen(levels), sizeof levels - strlen(levels), "%s%s", levels[0] ? ", " : "", *l);
    if (strstr(thp, "[never]"))
        snprintf(advice, sizeof advice, "huge pages are off (transparent_hugepage is never): madvise would make large models a little faster");
    else if (!strcmp(hd_backend_cpu_level(), "scalar"))
        snprintf(advice, sizeof advice, "no vector unit that hadal knows: everything runs on scalar kernels, many times slower");
    HD_TRY(hd_pool_create(&pool, (int)hd_args_int(a, "threads", 0), err));
    rc = hd_roofline_measure(&r, pool, err);
    if (rc == HD_OK && json) {
        hd_str_init(&s, 0);
        hd_str_puts(&s, "{\"cpu\": ");
        hd_str_json(&s, model, strlen(model));
        hd_str_printf(&s, ", \"levels\": \"%s\", \"threads\": %d, \"available_bytes\": %lld,\n \"probes\": {\"read_gbs\": %.2f, \"fma_gflops\": %.2f, \"int8_gops\": %.2f},\n \"advice\": ",
                      levels, hd_pool_threads(pool), (long long)hd_mem_available(), r.read_gbs, r.fma_gflops, r.int8_gops);
        hd_str_json(&s, advice, strlen(advice));
        hd_str_puts(&s, "}\n");
        hd_out_text(hd_str_get(&s), s.n);
        hd_str_release(&s);
    } else if (rc == HD_OK) {
        hd_out_printf("CPU          %s\nlevels       %s; using %s\nworkers      %d\nmemory       %s, %s available\nhuge pages   %s\n", model, levels, hd_backend_cpu_level(),
                      hd_pool_threads(pool), total, hd_fmt_bytes(avail, hd_mem_available()), thp);
        hd_out_printf("read         %.1f GB/s\nFMA          %.0f GF/s (float32)\nint8         %.0f GOP/s\n%s%s\n", r.read_gbs, r.fma_gflops, r.int8_gops,
                      advice[0] ? "in the way:  " : "nothing stands in the way", advice);
    }
    hd_pool_free(pool);
    return rc;
}

const struct hd_cmd hd_cmd_doctor = {"doctor", "what this machine can do, and what stands in the way", "doctor [--json]",
                                     "Measures read bandwidth, FMA and int8 rates with all workers.", NULL, 0, 0, run, NULL};
