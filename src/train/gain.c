/* gain.c: see gain.h. */
#include "train/gain.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

#define MAX_HC 8

void hd_gain_release(struct hd_gain *g)
{
    hd_free(g->c);
    *g = (struct hd_gain){0};
}

/* c = c m, n x n each. */
static void times(int64_t n, double *c, const float *m)
{
    double y[MAX_HC * MAX_HC];

    for (int64_t i = 0; i < n * n; i++) {
        y[i] = 0;
        for (int64_t k = 0; k < n; k++)
            y[i] += c[i / n * n + k] * (double)m[k * n + i % n];
    }
    memcpy(c, y, (size_t)(n * n) * sizeof *c);
}

static double largest_sum(int64_t n, const double *c)
{
    double top = 0;

    for (int64_t i = 0; i < n; i++) {
        double row = 0, col = 0;

        for (int64_t k = 0; k < n; k++) {
            row += fabs(c[i * n + k]);
            col += fabs(c[k * n + i]);
        }
        top = fmax(top, fmax(row, col));
    }
    return top;
}

/* Unit matrices for the rows of the first mix: pre, post and comb in cols columns. */
static void begin(struct hd_gain *g, int64_t rows, int64_t cols)
{
    int64_t n_hc = 1;

    while (n_hc * (2 + n_hc) < cols)
        n_hc++;
    HD_ASSERT(n_hc <= MAX_HC && n_hc * (2 + n_hc) == cols);
    if (!(g->c = hd_malloc((size_t)(rows * n_hc * n_hc) * sizeof *g->c)))
        return;
    g->n_hc = n_hc;
    g->n_row = rows;
    for (int64_t i = 0; i < rows * n_hc * n_hc; i++)
        g->c[i] = i % (n_hc * n_hc) % (n_hc + 1) == 0;
}

void hd_gain_take(void *arg, const char *name, const struct hd_tensor *x)
{
    struct hd_gain *g = arg;

    if (!hd_ends_with(name, "_mix"))
        return;
    if (!g->c)
        begin(g, hd_rows(x), hd_cols(x));
    for (int64_t t = 0; t < g->n_row && g->n_row == hd_rows(x); t++)
        times(g->n_hc, g->c + t * g->n_hc * g->n_hc, (const float *)(const void *)((const char *)x->data + t * x->row_bytes) + 2 * g->n_hc);
}

double hd_gain_mean(const struct hd_gain *g)
{
    double sum = 0;

    for (int64_t t = 0; t < g->n_row; t++)
        sum += largest_sum(g->n_hc, g->c + t * g->n_hc * g->n_hc) / (double)g->n_row;
    return sum;
}
