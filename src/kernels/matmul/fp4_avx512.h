/* fp4_avx512.h: what matmul_fp4_body.h asks for, on AVX-512, four blocks in a vector; the including file defines v_dot. */
#ifndef HD_KERNELS_MATMUL_FP4_AVX512_H
#define HD_KERNELS_MATMUL_FP4_AVX512_H

#include <stdint.h>

#include "kernels/x86.h"

#define V __m512
#define W __m512i
#define FP4_BLOCKS 4
#define v_zero _mm512_setzero_ps
#define v_fma _mm512_fmadd_ps
#define v_mul _mm512_mul_ps
#define v_load _mm512_load_ps

static inline __m512 v_widen(__m256 x)
{
    return _mm512_castpd_ps(_mm512_insertf64x4(_mm512_setzero_pd(), _mm256_castps_pd(x), 0));
}

static inline __m512i w_load(const uint8_t *p, int64_t stride)
{
    __m512i v;

    if (stride == 16)
        return _mm512_loadu_si512(p);
    v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + stride)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + 2 * stride)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + 3 * stride)), 3);
}

static inline __m512i value(__m512i nibble)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0)), nibble);
}

static inline __m512i w_low(__m512i v)
{
    return value(_mm512_and_si512(v, _mm512_set1_epi8(15)));
}

static inline __m512i w_high(__m512i v)
{
    return value(_mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)));
}

static inline __m512 v_spread(__m256 s, int k)
{
    const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);

    return _mm512_permutexvar_ps(_mm512_add_epi32(_mm512_set1_epi32(4 * k), lane), _mm512_castps256_ps512(s));
}

static inline float v_total(__m512 v)
{
    __m128 a = _mm_add_ps(_mm_add_ps(_mm512_castps512_ps128(v), _mm512_extractf32x4_ps(v, 2)), _mm_add_ps(_mm512_extractf32x4_ps(v, 1), _mm512_extractf32x4_ps(v, 3)));

    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

#endif
