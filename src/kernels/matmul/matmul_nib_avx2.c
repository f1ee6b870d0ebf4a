/* matmul_nib_avx2.c: q4_0 and q4_1 on AVX2, a block in two vectors: low nibbles, high nibbles; odd bytes in the upper halves. */
#pragma GCC optimize("O3")
#include "kernels/matmul/block_q16_avx2.h"

typedef __m256 nib_acc;
typedef struct {
    __m256i low, high;
} nib_weights;

static inline nib_acc nib_zero(void)
{
    return _mm256_setzero_ps();
}

static inline nib_weights nib_load(const uint8_t *p)
{
    const __m256i mask = _mm256_setr_epi32(0x000F000F, 0x000F000F, 0x000F000F, 0x000F000F, 0x0F000F00, 0x0F000F00, 0x0F000F00, 0x0F000F00);
    __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));

    return (nib_weights){_mm256_and_si256(v, mask), _mm256_and_si256(_mm256_srli_epi16(v, 4), mask)};
}

static inline nib_acc nib_madd(nib_acc acc, nib_weights w, const int16_t *q, float scale)
{
    const __m256i *x = (const __m256i *)q;
    __m256i p = _mm256_add_epi32(_mm256_madd_epi16(w.low, x[0]), _mm256_madd_epi16(w.high, x[1]));

    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(p), _mm256_set1_ps(scale), acc);
}

static inline __m128 nib_lanes(nib_acc acc)
{
    return _mm_fmadd_ps(_mm256_extractf128_ps(acc, 1), _mm_set1_ps(0x1p-8f), _mm256_castps256_ps128(acc));
}

#define NIB_FILL hd_fill_matmul_nib_avx2
#include "kernels/matmul/matmul_nib_body.h"
