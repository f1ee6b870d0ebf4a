/* gemm_body.h: a tile of a product of two packed f32 matrices, for whatever vector the including file defines:
 *
 *   V, V_LANES, v_load(p), v_store(p, v), v_set(x), v_fma(a, b, c), MR rows and NV vectors a tile, and NAME(fn) for the function's suffix
 *
 *   and for packing v_part(p, n): n < V_LANES values and zeros; v_quads(rows, ld, i, n, out): below
 *
 * Outer products: a column of a[k][MR] times a row of b[k][NV V_LANES], summed in registers over k ascending; no sum within a vector, which is
 * what makes short k as fast as long. The tile's last rows and columns may be missing: they are computed and not stored. */
#include <string.h>

#include "kernels/table.h"

#define NR (NV * V_LANES)

static void tile(int64_t k, const float *a, const float *b, float *c, int64_t ld, int m, int n, bool add)
{
    V acc[MR][NV];

    for (int r = 0; r < MR; r++)
        for (int v = 0; v < NV; v++)
            acc[r][v] = v_set(0);
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

/* Rows as they lie. Vectors may hang over a row's end: what they spoil is written next. */
static void pack_plain(int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    for (int64_t i = 0; i < k; i++, from += ld, to += wide)
        for (int e = 0; e < wide; e += V_LANES)
            v_store(to + e, n - e >= V_LANES ? v_load(from + e) : v_part(from + e, n - e));
}

/* Turned by V_LANES rows and up to four columns at a time, which v_quads() makes of them. */
static void pack_turned(int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    for (int64_t i = 0; i < k; i += QUAD)
        for (int e = 0; e < wide; e += V_LANES) {
            int rows = n - e < V_LANES ? n - e : V_LANES, cols = k - i < QUAD ? (int)(k - i) : QUAD;
            V out[QUAD];

            if (cols == QUAD)
                v_quads(from + e * ld + i, ld, rows, QUAD, out);
            else
                v_quads(from + e * ld + i, ld, rows, cols, out);
            for (int c = 0; c < cols; c++)
                v_store(to + (i + c) * wide + e, out[c]);
        }
}

void NAME(hd_fill_gemm)(struct hd_kernels *k)
{
    k->gemm_tile = tile;
    k->gemm_pack_plain = pack_plain;
    k->gemm_pack_turned = pack_turned;
    k->gemm_mr = MR;
    k->gemm_nr = NR;
}
