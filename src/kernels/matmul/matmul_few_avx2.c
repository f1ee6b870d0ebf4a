/* matmul_few_avx2.c: thirty-two values a round, on AVX2. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define V __m256
#define V_LANES 8
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_fma _mm256_fmadd_ps
#define v_mul _mm256_mul_ps
#define v_zero _mm256_setzero_ps
#define v_set1 _mm256_set1_ps

#include <stdint.h>

static inline __m256i f8_load(const uint8_t *p, __m256 *v)
{
    const __m256i clear = _mm256_set1_epi16((short)0xBFFF), zero = _mm256_setzero_si256();
    __m256i b = _mm256_loadu_si256((const __m256i *)p);
    __m256i lo = _mm256_and_si256(_mm256_srai_epi16(_mm256_unpacklo_epi8(zero, b), 1), clear), hi = _mm256_and_si256(_mm256_srai_epi16(_mm256_unpackhi_epi8(zero, b), 1), clear);

    v[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(lo));
    v[1] = _mm256_cvtph_ps(_mm256_castsi256_si128(hi));
    v[2] = _mm256_cvtph_ps(_mm256_extracti128_si256(lo, 1));
    v[3] = _mm256_cvtph_ps(_mm256_extracti128_si256(hi, 1));
    return b;
}

static inline void bf16_load(const uint8_t *p, __m256 *v)
{
    for (int j = 0; j < 4; j++)
        v[j] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p + j)), 16));
}

static inline void f16_load(const uint8_t *p, __m256 *v)
{
    for (int j = 0; j < 4; j++)
        v[j] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + j));
}

#define FEW_FILL hd_fill_matmul_few_avx2
#include "kernels/matmul/matmul_few_body.h"
