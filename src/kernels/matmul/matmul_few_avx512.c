/* matmul_few_avx512.c: thirty-two values a round, on AVX-512. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define V __m512
#define V_LANES 16
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_fma _mm512_fmadd_ps
#define v_mul _mm512_mul_ps
#define v_zero _mm512_setzero_ps
#define v_set1 _mm512_set1_ps

#include <stdint.h>

static inline __m256i f8_load(const uint8_t *p, __m512 *v)
{
    __m256i b = _mm256_loadu_si256((const __m256i *)p);
    __m512i h = _mm512_and_si512(_mm512_srai_epi16(_mm512_slli_epi16(_mm512_cvtepu8_epi16(b), 8), 1), _mm512_set1_epi16((short)0xBFFF));

    v[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(h));
    v[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1));
    return b;
}

static inline void bf16_load(const uint8_t *p, __m512 *v)
{
    for (int j = 0; j < 2; j++)
        v[j] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p + j)), 16));
}

static inline void f16_load(const uint8_t *p, __m512 *v)
{
    for (int j = 0; j < 2; j++)
        v[j] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p + j));
}

#define FEW_FILL hd_fill_matmul_few_avx512
#include "kernels/matmul/matmul_few_body.h"
