/* sparse_body.h: sparse_scalar.c's definitions in vectors of L lanes; the including file defines V, L, HEADS (sums of as many heads fit into
 * registers), v_zero v_set1 v_load v_store v_mul v_fma v_max v_above (a mask of lanes) and interleave(row, k, out): L words of sixteen rows from word k on. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/table.h"

#define INLINE static inline __attribute__((always_inline))
#define PER_PANEL (16 / L)            /* vectors a word of sixteen rows */

static void interleave16(int64_t n, const void *const row[16], void *out)
{
    uint32_t *w = out;
    int64_t k = 0;

    for (; k + L <= n; k += L)
        interleave(row, k, w + k * 16);
    for (; k < n; k++)
        for (int r = 0; r < 16; r++)
            memcpy(w + k * 16 + r, (const char *)row[r] + 4 * k, 4);
}

/* nv vectors of rows by nh heads, all sums in registers: nv and nh are constants. Vector v lies at rows + v / PER_PANEL panels. */
INLINE void dot_tile(int64_t d, const float *rows, int nv, float scale, const float *q, int nh, float *p)
{
    V sum[HEADS][4];

    for (int h = 0; h < nh; h++)
        for (int v = 0; v < nv; v++)
            sum[h][v] = v_zero();
    for (int64_t k = 0; k < d; k++) {
        V x[4];

        for (int v = 0; v < nv; v++)
            x[v] = v_load(rows + v / PER_PANEL * 16 * d + k * 16 + v % PER_PANEL * L);
        for (int h = 0; h < nh; h++) {
            V qv = v_set1(q[h * d + k]);

            for (int v = 0; v < nv; v++)
                sum[h][v] = v_fma(x[v], qv, sum[h][v]);
        }
    }
    for (int h = 0; h < nh; h++)
        for (int v = 0; v < nv; v++)
            v_store(p + h * HD_ROWS_MAX + v * L, v_mul(v_set1(scale), sum[h][v]));
}

/* Panels of 4 vectors, or what is left: 2 or 1 panels of them. */
INLINE void dot_heads(int64_t d, int64_t n, const float *rows, float scale, const float *q, int nh, float *p)
{
    int64_t i = 0;

    for (; i + 3 * L < n; i += 4 * L)
        dot_tile(d, rows + i * d, 4, scale, q, nh, p + i);
    for (; i < n; i += 16)
        dot_tile(d, rows + i * d, PER_PANEL, scale, q, nh, p + i);
}

static void rows16_dot(int64_t d, int64_t n, const float *rows, float scale, const float *q, int64_t n_head, float (*p)[HD_ROWS_MAX])
{
    int64_t h = 0;

    for (; h + HEADS <= n_head; h += HEADS)
        dot_heads(d, n, rows, scale, q + h * d, HEADS, p[h]);
    for (; h + 2 <= n_head; h += 2)
        dot_heads(d, n, rows, scale, q + h * d, 2, p[h]);
    if (h < n_head)
        dot_heads(d, n, rows, scale, q + h * d, 1, p[h]);
}

static int64_t above(int64_t n, const float *x, float least, int32_t first, float *value, int32_t *idx)
{
    V limit = v_set1(least);
    int64_t found = 0, i = 0;

    for (; i + L <= n; i += L)
        for (unsigned mask = v_above(v_load(x + i), limit); mask; mask &= mask - 1) {
            int lane = __builtin_ctz(mask);

            value[found] = x[i + lane];
            idx[found++] = first + (int32_t)i + lane;
        }
    for (; i < n; i++)
        if (x[i] > least) {
            value[found] = x[i];
            idx[found++] = first + (int32_t)i;
        }
    return found;
}

/* Where a lane is not a number v_max has its second operand. */
static float largest(int64_t n, const float *x)
{
    V m[2] = {v_set1(-INFINITY), v_set1(-INFINITY)};
    float lane[L], top = -INFINITY;
    int64_t i = 0;

    for (; i + 2 * L <= n; i += 2 * L)
        for (int v = 0; v < 2; v++)
            m[v] = v_max(v_load(x + i + v * L), m[v]);
    v_store(lane, v_max(m[0], m[1]));
    for (int k = 0; k < L; k++)
        top = lane[k] > top ? lane[k] : top;
    for (; i < n; i++)
        top = x[i] > top ? x[i] : top;
    return top;
}
