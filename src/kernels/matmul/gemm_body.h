/* gemm_body.h: products of f32 matrices: a tile (gemm_tile_body.h, which says what to define) and packing, in f32 and rounded to bf16. Beside what the tile needs:
 *
 *   v_part(p, n): n < V_LANES values and zeros; v_quads(rows, ld, i, n, out): below; v_bf16(v): v rounded to bf16, zero below HD_BF16_OPERAND_MIN
 *   (NaN stays NaN); NAME(fn) for the function's suffix */
#include "kernels/matmul/gemm_tile_body.h"

#define INLINE static inline __attribute__((always_inline))

/* Rows as they lie; rounded: each two swapped, and an odd last one behind zeros. Vectors may hang over a row's end: what they spoil is written next. */
INLINE void plain(bool bf16, int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    for (int64_t i = 0; i < k + (bf16 && k % 2); i++, to += wide) {
        int64_t row = bf16 ? i ^ 1 : i;

        for (int e = 0; e < wide; e += V_LANES) {
            const float *p = from + row * ld + e;
            V v = row == k ? v_set(0) : n - e >= V_LANES ? v_load(p) : v_part(p, n - e);

            v_store(to + e, bf16 ? v_bf16(v) : v);
        }
    }
}

/* Turned by V_LANES rows and up to QUAD columns at a time, which v_quads() makes of them. */
INLINE void turned(bool bf16, int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    for (int64_t i = 0; i < k; i += QUAD)
        for (int e = 0; e < wide; e += V_LANES) {
            int rows = n - e < V_LANES ? n - e : V_LANES, cols = k - i < QUAD ? (int)(k - i) : QUAD;
            V out[QUAD + 1];

            if (cols == QUAD)
                v_quads(from + e * ld + i, ld, rows, QUAD, out);
            else
                v_quads(from + e * ld + i, ld, rows, cols, out);
            out[cols] = v_set(0);
            for (int c = 0; c < cols + (bf16 && cols % 2); c++)
                v_store(to + (i + c) * wide + e, bf16 ? v_bf16(out[c ^ 1]) : out[c]);
        }
}

static void pack_plain(int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    plain(false, k, n, wide, from, ld, to);
}

static void pack_turned(int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    turned(false, k, n, wide, from, ld, to);
}

static void pack_plain_bf16(int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    plain(true, k, n, wide, from, ld, to);
}

static void pack_turned_bf16(int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    turned(true, k, n, wide, from, ld, to);
}

void NAME(hd_fill_gemm)(struct hd_kernels *k)
{
    k->gemm[HD_GEMM_F32] = (struct hd_gemm_kernels){tile, pack_plain, pack_turned, false};
    k->gemm[HD_GEMM_BF16] = (struct hd_gemm_kernels){tile, pack_plain_bf16, pack_turned_bf16, false};
    k->gemm_mr = MR;
    k->gemm_nr = NR;
}
