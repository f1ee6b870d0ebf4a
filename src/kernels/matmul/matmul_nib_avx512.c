/* matmul_nib_avx512.c: q4_0 and q4_1 on AVX-512, a block in one vector: its four quarters are the low nibbles of even and odd bytes,
 * then the high ones. */
#pragma GCC optimize("O3")
#include "kernels/matmul/block_q16_avx2.h"

typedef __m512 nib_acc;
typedef __m512i nib_weights;

static inline nib_acc nib_zero(void)
{
    return _mm512_setzero_ps();
}

static inline nib_weights nib_load(const uint8_t *p)
{
    const __m512i mask = _mm512_set_epi64(0x0F000F000F000F00, 0x0F000F000F000F00, 0x000F000F000F000F, 0x000F000F000F000F, 0x0F000F000F000F00, 0x0F000F000F000F00,
                                          0x000F000F000F000F, 0x000F000F000F000F);
    const __m512i shift = _mm512_set_epi64(0x0004000400040004, 0x0004000400040004, 0x0004000400040004, 0x0004000400040004, 0, 0, 0, 0);

    return _mm512_and_si512(_mm512_srlv_epi16(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p)), shift), mask);
}

static inline nib_acc nib_madd(nib_acc acc, nib_weights w, const int16_t *q, float scale)
{
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_madd_epi16(w, _mm512_loadu_si512(q))), _mm512_set1_ps(scale), acc);
}

static inline __m128 nib_lanes(nib_acc acc)
{
    __m128 even = _mm_add_ps(_mm512_castps512_ps128(acc), _mm512_extractf32x4_ps(acc, 2)), odd = _mm_add_ps(_mm512_extractf32x4_ps(acc, 1), _mm512_extractf32x4_ps(acc, 3));

    return _mm_fmadd_ps(odd, _mm_set1_ps(0x1p-8f), even);
}

#define NIB_FILL hd_fill_matmul_nib_avx512
#include "kernels/matmul/matmul_nib_body.h"
