/* gemm_tile_body.h: a tile of a product of two packed matrices, for whatever vector the including file defines:
 *
 *   V, V_LANES, v_load(p), v_store(p, v), v_set(x), v_add(a, b), v_fma(a, b, c), MR rows and NV vectors a tile; v_stream(p, v): v_store() past the caches
 *   where the machine has that, p aligned to 64
 *
 * Outer products: a column of a[k][MR] times a row of b[k][NV V_LANES], summed in registers over k ascending; no sum within a vector, which is
 * what makes short k as fast as long. The tile's last columns may be missing: they are computed and not stored; of its rows, whole or half as many are
 * computed. Where an element is a pair of bf16, v_fma() adds both products and nothing else differs. */
#include <string.h>

#include "kernels/table.h"

#define NR (NV * V_LANES)
#define FETCH_EVERY 4                 /* rows of k: what comes next is fetched as this is computed, not in a burst that would hold it up */

/* put a constant. */
static inline __attribute__((always_inline)) void put_rows(int rows, V acc[MR][NV], float *c, int64_t ld, enum hd_gemm_put put)
{
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < NV; v++) {
            float *p = c + r * ld + v * V_LANES;

            if (put == HD_GEMM_STREAM)
                v_stream(p, acc[r][v]);
            else
                v_store(p, put == HD_GEMM_ADD ? v_add(acc[r][v], v_load(p)) : acc[r][v]);
        }
}

/* rows, a constant, of c. */
static inline __attribute__((always_inline)) void tile_rows(int rows, int64_t k, const float *a, const float *b, float *c, int64_t ld, int m, int n, enum hd_gemm_put put, const struct hd_gemm_next *next)
{
    const float *fetch = next->p;
    int64_t fetch_end = next->n * FETCH_EVERY;
    V acc[MR][NV];

    for (int r = 0; r < rows; r++)
        for (int v = 0; v < NV; v++)
            acc[r][v] = v_set(0);
    for (int r = 0; r < m && put != HD_GEMM_STREAM; r++)      /* c's lines come while sums are made */
        for (int e = 0; e < n; e += 16)
            __builtin_prefetch(c + r * ld + e, 1);
    for (int64_t i = 0; i < k; i++, a += MR, b += NR) {
        V bv[NV];

        if (i % FETCH_EVERY == 0 && i < fetch_end) {
            __builtin_prefetch(fetch, 0, 2);
            __builtin_prefetch(fetch + 16, 0, 2);
            fetch += next->step;
        }
        for (int v = 0; v < NV; v++)
            bv[v] = v_load(b + v * V_LANES);
        for (int r = 0; r < rows; r++) {
            V av = v_set(a[r]);

            for (int v = 0; v < NV; v++)
                acc[r][v] = v_fma(av, bv[v], acc[r][v]);
        }
    }
    if (m == rows && n == NR) {
        if (put == HD_GEMM_ADD)
            put_rows(rows, acc, c, ld, HD_GEMM_ADD);
        else if (put == HD_GEMM_STREAM)
            put_rows(rows, acc, c, ld, HD_GEMM_STREAM);
        else
            put_rows(rows, acc, c, ld, HD_GEMM_PUT);
        return;
    }
    for (int r = 0; r < rows; r++) {
        _Alignas(64) float row[NR];

        if (r >= m)
            break;
        for (int v = 0; v < NV; v++)
            v_store(row + v * V_LANES, acc[r][v]);
        for (int i = 0; i < n; i++)
            c[r * ld + i] = put == HD_GEMM_ADD ? row[i] + c[r * ld + i] : row[i];
    }
}

static void tile(int64_t k, const float *a, const float *b, float *c, int64_t ld, int m, int n, enum hd_gemm_put put, const struct hd_gemm_next *next)
{
    if (m <= MR / 2)
        tile_rows(MR / 2, k, a, b, c, ld, m, n, put, next);
    else
        tile_rows(MR, k, a, b, c, ld, m, n, put, next);
}
