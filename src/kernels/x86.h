/* x86.h: intrinsics: the compiler's own, or SIMDe's emulation of them when checkkern tests levels that this CPU lacks. */
#ifndef HD_KERNELS_X86_H
#define HD_KERNELS_X86_H

#include "tensor/act_bf16.h"

#if defined(HD_EMULATE)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

/* What SIMDe 0.7.4 lacks. */
#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_NO_EXC 8
#endif
#undef _mm512_madd_epi16
static inline __m512i _mm512_madd_epi16(__m512i a, __m512i b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_madd_epi16(_mm512_castsi512_si256(a), _mm512_castsi512_si256(b))),
                              _mm256_madd_epi16(_mm512_extracti64x4_epi64(a, 1), _mm512_extracti64x4_epi64(b, 1)), 1);
}
#undef _mm512_cvtepi32_ps
static inline __m512 _mm512_cvtepi32_ps(__m512i a)
{
    __m512d lo = _mm512_castps_pd(_mm512_castps256_ps512(_mm256_cvtepi32_ps(_mm512_castsi512_si256(a))));

    return _mm512_castpd_ps(_mm512_insertf64x4(lo, _mm256_castps_pd(_mm256_cvtepi32_ps(_mm512_extracti64x4_epi64(a, 1))), 1));
}
#undef _mm512_cvtepu8_epi16
static inline __m512i _mm512_cvtepu8_epi16(__m256i a)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(a))), _mm256_cvtepu8_epi16(_mm256_extracti128_si256(a, 1)), 1);
}
#undef _mm512_cvtepu16_epi32
static inline __m512i _mm512_cvtepu16_epi32(__m256i a)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(a))), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1)), 1);
}
#undef _mm512_cvtepu8_epi32
static inline __m512i _mm512_cvtepu8_epi32(__m128i a)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_cvtepu8_epi32(a)), _mm256_cvtepu8_epi32(_mm_srli_si128(a, 8)), 1);
}
#undef _mm512_cvtepi8_epi32
static inline __m512i _mm512_cvtepi8_epi32(__m128i a)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_cvtepi8_epi32(a)), _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8)), 1);
}
#undef _mm512_cvtps_epi32
static inline __m512i _mm512_cvtps_epi32(__m512 a)
{
    __m256 hi = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));

    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_cvtps_epi32(_mm512_castps512_ps256(a))), _mm256_cvtps_epi32(hi), 1);
}
#undef _mm512_cvtph_ps
static inline __m512 _mm512_cvtph_ps(__m256i a)
{
    __m512d lo = _mm512_castps_pd(_mm512_castps256_ps512(_mm256_cvtph_ps(_mm256_castsi256_si128(a))));

    return _mm512_castpd_ps(_mm512_insertf64x4(lo, _mm256_castps_pd(_mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))), 1));
}
#undef __mmask16
#define __mmask16 unsigned short
#undef _mm512_maskz_loadu_ps
static inline __m512 _mm512_maskz_loadu_ps(__mmask16 m, const void *p)
{
    float t[16];

    for (int i = 0; i < 16; i++)
        t[i] = m >> i & 1 ? ((const float *)p)[i] : 0;
    return _mm512_loadu_ps(t);
}
static inline __m512i _mm512_maskz_loadu_epi32(__mmask16 m, const void *p)
{
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(m, p));
}
static inline void _mm512_mask_storeu_epi32(void *p, __mmask16 m, __m512i x)
{
    uint32_t t[16];

    _mm512_storeu_si512(t, x);
    for (int i = 0; i < 16; i++)
        if (m >> i & 1)
            ((uint32_t *)p)[i] = t[i];
}
static inline void _mm512_mask_storeu_ps(void *p, __mmask16 m, __m512 x)
{
    _mm512_mask_storeu_epi32(p, m, _mm512_castps_si512(x));
}
#undef _mm512_stream_ps
static inline void _mm512_stream_ps(void *p, __m512 x)
{
    _mm512_storeu_ps(p, x);
}
static inline float _cvtsh_ss(unsigned short h)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}
#else
#include <immintrin.h>
#endif

#if defined(HD_EMULATE)
#include "tensor/blocks.h"
#endif

/* vdpbf16ps: acc and the products of the pairs of bf16 in each lane, the second of a pair first. For files compiled with AVX512_BF16. */
#if defined(HD_EMULATE)
static inline __m512 hd_dpbf16(__m512 acc, __m512i a, __m512i b)
{
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000);

    acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, high)), _mm512_castsi512_ps(_mm512_and_si512(b, high)), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), acc);
}
static inline unsigned short hd_cmpge_epu32(__m512i a, __m512i b)
{
    uint32_t x[16], y[16];
    unsigned short m = 0;

    _mm512_storeu_si512(x, a);
    _mm512_storeu_si512(y, b);
    for (int i = 0; i < 16; i++)
        m = (unsigned short)(m | (x[i] >= y[i]) << i);
    return m;
}
static inline __m256i hd_cvt_bf16(unsigned short keep, __m512 x)
{
    float f[16];
    uint16_t h[16];

    _mm512_storeu_ps(f, x);
    for (int i = 0; i < 16; i++)
        h[i] = keep >> i & 1 ? hd_f32_bf16(f[i]) : 0;
    return _mm256_loadu_si256((const void *)h);
}
static inline __m512i hd_cvt2_bf16(__m512 low, unsigned short keep_low, __m512 high, unsigned short keep_high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(hd_cvt_bf16(keep_low, low)), hd_cvt_bf16(keep_high, high), 1);
}
static inline __m512i hd_pair_bf16(__m512 low, unsigned short keep_low, __m512 high, unsigned short keep_high)
{
    uint16_t x[16], y[16], h[32];

    _mm256_storeu_si256((void *)x, hd_cvt_bf16(keep_low, low));
    _mm256_storeu_si256((void *)y, hd_cvt_bf16(keep_high, high));
    for (int i = 0; i < 16; i++) {
        h[2 * i] = x[i];
        h[2 * i + 1] = y[i];
    }
    return _mm512_loadu_si512(h);
}
#elif defined(__AVX512BF16__)
static inline __m512 hd_dpbf16(__m512 acc, __m512i a, __m512i b)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}
static inline __mmask16 hd_cmpge_epu32(__m512i a, __m512i b)
{
    return _mm512_cmpge_epu32_mask(a, b);
}
/* bf16, zero where keep has no bit. */
static inline __m256i hd_cvt_bf16(__mmask16 keep, __m512 x)
{
    return (__m256i)_mm512_maskz_cvtneps_pbh(keep, x);
}
/* The same of two vectors, one behind the other. */
static inline __m512i hd_cvt2_bf16(__m512 low, __mmask16 keep_low, __m512 high, __mmask16 keep_high)
{
    return (__m512i)_mm512_maskz_cvtne2ps_pbh(_mm512_kunpackw(keep_high, keep_low), high, low);
}
/* The same, lane by lane in pairs. */
static inline __m512i hd_pair_bf16(__m512 low, __mmask16 keep_low, __m512 high, __mmask16 keep_high)
{
    return _mm512_permutexvar_epi16(_mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0),
                                    hd_cvt2_bf16(low, keep_low, high, keep_high));
}
#endif

#if defined(HD_EMULATE) || defined(__AVX512BF16__)
/* Lanes whose number hd_bf16_operand() does not make zero. */
static inline __mmask16 hd_bf16_counts(__m512 x)
{
    return hd_cmpge_epu32(_mm512_slli_epi32(_mm512_castps_si512(x), 1), _mm512_set1_epi32((int)(HD_BF16_OPERAND_MIN << 1)));
}
#endif

/* hd_bf16_operand() of eight numbers. */
static inline __m256 hd_bf16_operand8(__m256 x)
{
    __m256i u = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_and_si256(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd), _mm256_set1_epi32((int)0xFFFF0000));
    __m256i least = _mm256_cmpgt_epi32(_mm256_and_si256(u, _mm256_set1_epi32(0x7FFFFFFF)), _mm256_set1_epi32((int)HD_BF16_OPERAND_MIN - 1));
    __m256 kept = _mm256_and_ps(_mm256_castsi256_ps(r), _mm256_castsi256_ps(least));

    return _mm256_blendv_ps(kept, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

#endif
