/* gemm_avx512bf16.c: products of matrices in bf16: tiles of 14 x 32 sums, two rows of k an instruction (vdpbf16ps). A packed word is a pair of bf16. */
#pragma GCC optimize("O3")
#include "kernels/kernels.h"
#include "kernels/matmul/gemm_turn_avx512.h"

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

/* Lanes whose number does not count as zero. */
INLINE __mmask16 counts(__m512 x)
{
    return hd_cmpge_epu32(_mm512_slli_epi32(_mm512_castps_si512(x), 1), _mm512_set1_epi32((int)(HD_GEMM_BF16_MIN << 1)));
}

INLINE __m512 first(const float *p, int n)
{
    return n >= 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps((__mmask16)((1u << (n > 0 ? n : 0)) - 1), p);
}

/* Two rows side by side become one of pairs. */
INLINE void pairs_of(int n, int wide, const float *row, const float *next, float *to)
{
    for (int e = 0; e < wide; e += 16) {
        __m512 x = first(row + e, n - e), y = next ? first(next + e, n - e) : _mm512_setzero_ps();

        _mm512_storeu_ps(to + e, _mm512_castsi512_ps(hd_pair_bf16(x, counts(x), y, counts(y))));
    }
}

static void pack_plain_bf16(int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    for (int64_t i = 0; i < k; i += 2, from += 2 * ld, to += wide)
        pairs_of(n, wide, from, i + 1 < k ? from + ld : NULL, to);
}

/* Eight columns of sixteen rows: a row of them is four pairs. */
INLINE void turn8(int n, const float *from, int64_t ld, int cols, __m512 out[4])
{
    __m128 lane[16];

    for (int r = 0; r < 16; r += 2) {
        __m512 x = _mm512_setzero_ps();
        __m256i h;

        if (cols == 8 && r + 1 < n)
            x = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(from + r * ld)), _mm256_loadu_ps(from + (r + 1) * ld), 1);
        else if (r < n)
            x = _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_castps512_ps256(first(from + r * ld, cols))),
                                   r + 1 < n ? _mm512_castps512_ps256(first(from + (r + 1) * ld, cols)) : _mm256_setzero_ps(), 1);
        h = hd_cvt_bf16(counts(x), x);
        lane[r] = _mm_castsi128_ps(_mm256_castsi256_si128(h));
        lane[r + 1] = _mm_castsi128_ps(_mm256_extracti128_si256(h, 1));
    }
    hd_turn16(lane, out);
}

static void pack_turned_bf16(int64_t k, int n, int wide, const float *from, int64_t ld, float *to)
{
    for (int64_t i = 0; i < k; i += 8)
        for (int e = 0; e < wide; e += 16) {
            int cols = k - i < 8 ? (int)(k - i) : 8;
            __m512 out[4];

            if (cols == 8 && n - e >= 16)
                turn8(16, from + e * ld + i, ld, 8, out);
            else
                turn8(n - e, from + e * ld + i, ld, cols, out);
            for (int c = 0; c < (cols + 1) / 2; c++)
                _mm512_storeu_ps(to + (i / 2 + c) * wide + e, out[c]);
        }
}

void hd_fill_gemm_avx512bf16(struct hd_kernels *k)
{
    k->gemm[HD_GEMM_BF16] = (struct hd_gemm_kernels){tile, pack_plain_bf16, pack_turned_bf16, true};
}
