/* panel_avx512.h: what panel_body.h asks for, on AVX-512, a panel's rows in one vector; the including file defines dot8, dot8_bytes,
 * w_byte and P_TILE. */
#ifndef HD_KERNELS_PANEL_PANEL_AVX512_H
#define HD_KERNELS_PANEL_PANEL_AVX512_H

#include <stdint.h>
#include <string.h>

#include "kernels/x86.h"

#define V __m512
#define VI __m512i
#define L 16
#define P_MAX 8
#define F_TOK 12
#define v_zero _mm512_setzero_ps
#define v_set1 _mm512_set1_ps
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_mul _mm512_mul_ps
#define v_fma _mm512_fmadd_ps
#define v_of_int _mm512_cvtepi32_ps
#define v_f16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define v_i8(p) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p))))
#define vi_load(p) _mm512_loadu_si512(p)
#define w_shl _mm512_slli_epi16
#define w_shr _mm512_srli_epi16
#define w_or(w, v, mask) _mm512_ternarylogic_epi32(w, v, _mm512_set1_epi8(mask), 0xF8)
#define VS VI
#define vs_word _mm512_set1_epi32
#define vs_shl _mm512_slli_epi32
#define prefetch_near(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define prefetch_far(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

#define NIBBLE_SHIFT 4                /* e2m1 codes come with 16 added */

static inline __m512 v_e8m0(const uint8_t *p)
{
    __m512i e = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)), 23);

    return _mm512_castsi512_ps(_mm512_max_epi32(e, _mm512_set1_epi32(0x400000)));
}

static inline void w_nibbles(__m512i v, __m512i *lo, __m512i *hi)
{
    const __m512i mask = _mm512_set1_epi8(15);

    *lo = _mm512_and_si512(v, mask);
    *hi = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
}

static inline __m512i w_e2m1(__m512i nibble)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_setr_epi8(16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4)), nibble);
}

/* e4m3 in the upper bytes of words as bf16, times 2^-120: the sign from v, the rest four bits lower. */
static inline __m512i move_bits(__m512i v)
{
    const __m512i sign = _mm512_set1_epi16((short)0x8000), keep = _mm512_set1_epi16((short)0x87F0);

    return _mm512_and_si512(_mm512_ternarylogic_epi32(sign, v, _mm512_srli_epi16(v, 4), 0xCA), keep);
}

static inline void v_fp8(const uint8_t *p, __m512 out[4])
{
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000);
    __m512i v = vi_load(p), even = move_bits(_mm512_slli_epi16(v, 8)), odd = move_bits(v);

    out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(even, 16));
    out[1] = _mm512_castsi512_ps(_mm512_and_si512(even, high));
    out[2] = _mm512_castsi512_ps(_mm512_slli_epi32(odd, 16));
    out[3] = _mm512_castsi512_ps(_mm512_and_si512(odd, high));
}

static inline void v_bf16(const uint8_t *p, __m512 out[4])
{
    for (int j = 0; j < 2; j++) {
        __m512i v = vi_load(p + j * 64);

        out[2 * j] = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
        out[2 * j + 1] = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xFFFF0000)));
    }
}

static inline __m512i word_at(const int8_t *x)
{
    int32_t word;

    memcpy(&word, x, 4);
    return _mm512_set1_epi32(word);
}

#endif
