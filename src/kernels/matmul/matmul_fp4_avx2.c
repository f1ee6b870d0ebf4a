/* matmul_fp4_avx2.c: e2m1 on AVX2, a block in two vectors: even bytes, odd bytes; low nibbles in the lower halves. */
#pragma GCC optimize("O3")
#include "kernels/matmul/block_q16_avx2.h"

typedef __m256 fp4_acc;
typedef struct {
    __m256i even, odd;
} fp4_weights;

static inline fp4_acc fp4_zero(void)
{
    return _mm256_setzero_ps();
}

static inline fp4_weights fp4_load(const uint8_t *p)
{
    const __m256i twice = _mm256_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12, 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));

    v = _mm256_and_si256(_mm256_srlv_epi64(v, _mm256_setr_epi64x(0, 0, 4, 4)), _mm256_set1_epi8(15));
    v = _mm256_shuffle_epi8(twice, v);
    return (fp4_weights){_mm256_slli_epi16(v, 8), _mm256_and_si256(v, _mm256_set1_epi16((short)0xFF00))};
}

static inline fp4_acc fp4_madd(fp4_acc acc, fp4_weights w, const int16_t *q, float scale)
{
    const __m256i *x = (const __m256i *)q;
    __m256i p = _mm256_add_epi32(_mm256_madd_epi16(w.even, x[0]), _mm256_madd_epi16(w.odd, x[1]));

    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(p), _mm256_set1_ps(scale), acc);
}

static inline float fp4_total(fp4_acc acc)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));

    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

#define FP4_FILL hd_fill_matmul_fp4_avx2
#include "kernels/matmul/matmul_fp4_body.h"
