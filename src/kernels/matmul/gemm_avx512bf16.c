/* gemm_avx512bf16.c: products of matrices in bf16: tiles of 14 x 32 sums, two rows of k an instruction (vdpbf16ps). A packed word is a pair of bf16. */
#pragma GCC optimize("O3")
#include "kernels/kernels.h"
#include "kernels/x86.h"

#define V __m512
#define V_LANES 16
#define MR 14
#define NV 2
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_stream _mm512_stream_ps
#define v_set _mm512_set1_ps
#define v_add _mm512_add_ps
#define v_fma(a, b, c) hd_dpbf16(c, _mm512_castps_si512(a), _mm512_castps_si512(b))

#include "kernels/matmul/gemm_tile_body.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m512 first(const float *p, int n)
{
    return n >= 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps((__mmask16)((1u << (n > 0 ? n : 0)) - 1), p);
}

/* Two rows side by side become one of pairs. */
INLINE void pairs_of(int n, int wide, const float *row, const float *next, float *to)
{
    for (int e = 0; e < wide; e += 16) {
        __m512 x = first(row + e, n - e), y = next ? first(next + e, n - e) : _mm512_setzero_ps();

        _mm512_storeu_ps(to + e, _mm512_castsi512_ps(hd_pair_bf16(x, hd_bf16_counts(x), y, hd_bf16_counts(y))));
    }
}

static void pack_plain_bf16(int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    for (int64_t i = 0; i < k; i += 2, from += 2 * ld, to += wide)
        pairs_of(n, wide, from, i + 1 < k ? from + ld : NULL, to);
}

/* Four rows of words in each lane turned: out[c] holds word c of the four. */
INLINE void turn4(const __m512i x[4], __m512i out[4])
{
    __m512i t[4];

    for (int i = 0; i < 2; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        out[2 * i] = _mm512_unpacklo_epi64(t[i], t[2 + i]);
        out[2 * i + 1] = _mm512_unpackhi_epi64(t[i], t[2 + i]);
    }
}

/* Sixteen columns, a cache line, of sixteen rows: a row of them is eight pairs. Rows r and r + 4 become one vector, so that lanes of half[0] hold rows 0-3 of words 0-3, of words 4-7, and
 * rows 4-7 likewise; half[1] rows 8-15. */
INLINE void turn16x16(int n, const float *from, int64_t ld, int cols, __m512i out[8])
{
    __m512i half[2][4];

    for (int h = 0; h < 2; h++) {
        __m512i both[4];

        for (int i = 0; i < 4; i++) {
            int r = 8 * h + i;
            __m512 x = r < n ? first(from + r * ld, cols) : _mm512_setzero_ps(), y = r + 4 < n ? first(from + (r + 4) * ld, cols) : _mm512_setzero_ps();

            both[i] = hd_cvt2_bf16(x, hd_bf16_counts(x), y, hd_bf16_counts(y));
        }
        turn4(both, half[h]);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm512_shuffle_i32x4(half[0][i], half[1][i], 0x88);
        out[4 + i] = _mm512_shuffle_i32x4(half[0][i], half[1][i], 0xDD);
    }
}

static void pack_turned_bf16(int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    for (int64_t i = 0; i < k; i += 16)
        for (int e = 0; e < wide; e += 16) {
            int cols = k - i < 16 ? (int)(k - i) : 16;
            __m512i out[8];

            if (cols == 16 && n - e >= 16)
                turn16x16(16, from + e * ld + i, ld, 16, out);
            else if (cols == 16 && n - e == 14)
                turn16x16(14, from + e * ld + i, ld, 16, out);
            else
                turn16x16(n - e, from + e * ld + i, ld, cols, out);
            for (int c = 0; c < (cols + 1) / 2; c++)
                _mm512_storeu_si512(to + (i / 2 + c) * wide + e, out[c]);
        }
}

void hd_fill_gemm_avx512bf16(struct hd_kernels *k)
{
    k->gemm[HD_GEMM_BF16] = (struct hd_gemm_kernels){tile, pack_plain_bf16, pack_turned_bf16, true};
}
