/* matmul_fp4_avx2.c: e2m1 on AVX2, two blocks in a vector. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define V __m256
#define W __m256i
#define FP4_BLOCKS 2
#define v_zero _mm256_setzero_ps
#define v_fma _mm256_fmadd_ps
#define v_mul _mm256_mul_ps
#define v_load _mm256_load_ps
#define v_widen(x) (x)

#include <stdint.h>

static inline __m256i w_load(const uint8_t *p, int64_t stride)
{
    if (stride == 16)
        return _mm256_loadu_si256((const __m256i *)p);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p)), _mm_loadu_si128((const __m128i *)(p + stride)), 1);
}

static inline __m256i value(__m256i nibble)
{
    return _mm256_shuffle_epi8(_mm256_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0, 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0), nibble);
}

static inline __m256i w_low(__m256i v)
{
    return value(_mm256_and_si256(v, _mm256_set1_epi8(15)));
}

static inline __m256i w_high(__m256i v)
{
    return value(_mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15)));
}

static inline __m256 v_dot(__m256i lo, __m256i hi, const int8_t *x)      /* 24 * 127 * 4 < 2^15 */
{
    const __m256i *q = (const __m256i *)x;

    return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_add_epi16(_mm256_maddubs_epi16(lo, q[0]), _mm256_maddubs_epi16(hi, q[1])), _mm256_set1_epi16(1)));
}

static inline __m256 v_spread(__m256 s, int k)
{
    return _mm256_permutevar8x32_ps(s, _mm256_add_epi32(_mm256_set1_epi32(2 * k), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)));
}

static inline float v_total(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

#define FP4_FILL hd_fill_matmul_fp4_avx2
#include "kernels/matmul/matmul_fp4_body.h"
