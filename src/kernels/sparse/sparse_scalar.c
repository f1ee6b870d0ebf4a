/* sparse_scalar.c: the definitions of what sparse attention and the indexer need: see kernels.h. Written so that compilers keep the sixteen
 * lanes in vectors. */
#include <math.h>
#include <string.h>

#include "kernels/table.h"

static void interleave16(int64_t n, const void *const row[16], void *out)
{
    uint32_t *w = out;

    for (int64_t k = 0; k < n; k++)
        for (int r = 0; r < 16; r++)
            memcpy(w + k * 16 + r, (const char *)row[r] + 4 * k, 4);
}

static void rows16_dot(int64_t d, int64_t n, const float *rows, float scale, const float *q, int64_t n_head, float (*p)[HD_ROWS_MAX])
{
    for (int64_t i = 0; i < n; i += 16, rows += 16 * d)
        for (int64_t h = 0; h < n_head; h++) {
            float sum[16] = {0};

            for (int64_t k = 0; k < d; k++)
                for (int r = 0; r < 16; r++)
                    sum[r] = fmaf(rows[k * 16 + r], q[h * d + k], sum[r]);
            for (int r = 0; r < 16; r++)
                p[h][i + r] = scale * sum[r];
        }
}

static int64_t above(int64_t n, const float *x, float least, int32_t first, float *value, int32_t *idx)
{
    int64_t found = 0;

    for (int64_t i = 0; i < n; i++)
        if (x[i] > least) {
            value[found] = x[i];
            idx[found++] = first + (int32_t)i;
        }
    return found;
}

static float largest(int64_t n, const float *x)
{
    float m = -INFINITY;

    for (int64_t i = 0; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

void hd_fill_sparse_scalar(struct hd_kernels *k)
{
    k->interleave16 = interleave16;
    k->rows16_dot = rows16_dot;
    k->above = above;
    k->largest = largest;
}
