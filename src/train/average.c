/* average.c: see average.h. */
#include "train/average.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

#define PIECE 65536

int hd_average_init(struct hd_average *a, double decay, const struct hd_params *ps, struct hd_err *err)
{
    *a = (struct hd_average){.n = ps->n_float, .decay = decay};
    if (decay <= 0)
        return HD_OK;
    if (!(a->w = hd_pages_alloc(a->n * sizeof *a->w)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the average of %zu weights", a->n);
    memcpy(a->w, ps->w, a->n * sizeof *a->w);
    return HD_OK;
}

void hd_average_release(struct hd_average *a)
{
    if (a->w)
        hd_pages_free(a->w, a->n * sizeof *a->w);
    memset(a, 0, sizeof *a);
}

struct job {
    float *a;
    const float *w;
    size_t n;
    float share;                      /* 1 - d */
};

static void update_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (size_t i = (size_t)begin * PIECE; i < (size_t)end * PIECE && i < j->n; i++)
        j->a[i] += j->share * (j->w[i] - j->a[i]);
}

void hd_average_update(struct hd_average *a, const struct hd_params *ps, int64_t step, struct hd_pool *pool)
{
    struct job j = {.a = a->w, .w = ps->w, .n = a->n, .share = (float)(1 - fmin(a->decay, (1 + (double)step) / (10 + (double)step)))};

    if (a->w)
        hd_pool_for(pool, (int64_t)((a->n + PIECE - 1) / PIECE), 1, update_range, &j);
}

void hd_average_swap(struct hd_average *a, struct hd_params *ps)
{
    for (size_t i = 0; a->w && i < a->n; i++) {
        float t = a->w[i];

        a->w[i] = ps->w[i];
        ps->w[i] = t;
    }
}
