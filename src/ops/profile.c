/* profile.c: see profile.h. */
#include "ops/profile.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

void hd_profile_reset(struct hd_profile *p)
{
    p->n = 0;
    p->wall = hd_now();
    p->cpu = hd_cpu_seconds();
}

/* Behind the last number between dots: layers, and experts that are matrices of their own. */
static const char *without_layer(const char *name)
{
    const char *at = name;

    for (const char *c = name; *c; c++)
        if (*c == '.' && isdigit((unsigned char)c[1])) {
            while (isdigit((unsigned char)*++c))
                ;
            if (*c == '.')
                at = c + 1;
            c--;
        }
    return at;
}

static struct hd_profile_row *row_of(struct hd_profile *p, const char *name)
{
    struct hd_profile_row *r;
    char cut[sizeof r->name];
    size_t n = strlen(name) < sizeof cut - 1 ? strlen(name) : sizeof cut - 1;

    memcpy(cut, name, n);
    cut[n] = 0;
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->row[i].name, cut))
            return &p->row[i];
    if (p->n == HD_PROFILE_ROWS) {
        memcpy(p->row[p->n - 1].name, "others", 7);
        return &p->row[p->n - 1];
    }
    r = &p->row[p->n++];
    *r = (struct hd_profile_row){.n = 0};
    memcpy(r->name, cut, n + 1);
    return r;
}

void hd_profile_lap(struct hd_profile *p, const char *name, double ops)
{
    struct hd_profile_row *r;
    double wall, cpu;

    if (!p)
        return;
    r = row_of(p, without_layer(name));
    wall = hd_now();
    cpu = hd_cpu_seconds();
    r->wall_s += wall - p->wall;
    r->cpu_s += cpu - p->cpu;
    r->ops += ops;
    r->n++;
    p->wall = wall;
    p->cpu = cpu;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const struct hd_profile_row *)a)->wall_s, y = ((const struct hd_profile_row *)b)->wall_s;

    return (x < y) - (x > y);
}

void hd_profile_sort(struct hd_profile *p)
{
    qsort(p->row, (size_t)p->n, sizeof *p->row, by_time);
}
