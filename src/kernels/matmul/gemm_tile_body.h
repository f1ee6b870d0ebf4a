/* gemm_tile_body.h: a tile of a product of two packed matrices, for whatever vector the including file defines:
 *
 *   V, V_LANES, v_load(p), v_store(p, v), v_set(x), v_add(a, b), v_fma(a, b, c), MR rows and NV vectors a tile
 *
 * Outer products: a column of a[k][MR] times a row of b[k][NV V_LANES], summed in registers over k ascending; no sum within a vector, which is
 * what makes short k as fast as long. The tile's last rows and columns may be missing: they are computed and not stored. Where an element is a pair of
 * bf16, v_fma() adds both products and nothing else differs. */
#include <string.h>

#include "kernels/table.h"

#define NR (NV * V_LANES)

static void tile(int64_t k, const float *a, const float *b, float *c, int64_t ld, int m, int n, bool add)
{
    V acc[MR][NV];

    for (int r = 0; r < MR; r++)
        for (int v = 0; v < NV; v++)
            acc[r][v] = v_set(0);
    for (int r = 0; r < m; r++)           /* c's lines come while sums are made */
        for (int e = 0; e < n; e += 16)
            __builtin_prefetch(c + r * ld + e, 1);
    for (int64_t i = 0; i < k; i++, a += MR, b += NR) {
        V bv[NV];

        for (int v = 0; v < NV; v++)
            bv[v] = v_load(b + v * V_LANES);
        for (int r = 0; r < MR; r++) {
            V av = v_set(a[r]);

            for (int v = 0; v < NV; v++)
                acc[r][v] = v_fma(av, bv[v], acc[r][v]);
        }
    }
    if (m == MR && n == NR) {
        for (int r = 0; r < MR; r++)
            for (int v = 0; v < NV; v++) {
                float *p = c + r * ld + v * V_LANES;

                v_store(p, add ? v_add(acc[r][v], v_load(p)) : acc[r][v]);
            }
        return;
    }
    for (int r = 0; r < MR; r++) {
        _Alignas(64) float row[NR];

        if (r >= m)
            break;
        for (int v = 0; v < NV; v++)
            v_store(row + v * V_LANES, acc[r][v]);
        for (int i = 0; i < n; i++)
            c[r * ld + i] = add ? row[i] + c[r * ld + i] : row[i];
    }
}
