/* matmul_fp4_avx512.c: e2m1 on AVX-512, a block in one vector: even bytes' low and high nibbles, then odd bytes'. */
#pragma GCC optimize("O3")
#include "kernels/matmul/block_q16_avx2.h"

typedef __m512 fp4_acc;
typedef __m512i fp4_weights;

static inline fp4_acc fp4_zero(void)
{
    return _mm512_setzero_ps();
}

static inline fp4_weights fp4_load(const uint8_t *p)
{
    const __m512i twice = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    const __m512i right = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0), left = _mm512_set_epi64(0, 0, 0, 0, 0x0008000800080008, 0x0008000800080008, 0x0008000800080008, 0x0008000800080008);
    __m512i v = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));

    v = _mm512_shuffle_epi8(twice, _mm512_and_si512(_mm512_srlv_epi64(v, right), _mm512_set1_epi8(15)));
    return _mm512_and_si512(_mm512_sllv_epi16(v, left), _mm512_set1_epi16((short)0xFF00));
}

static inline fp4_acc fp4_madd(fp4_acc acc, fp4_weights w, const int16_t *q, float scale)
{
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_madd_epi16(w, _mm512_loadu_si512(q))), _mm512_set1_ps(scale), acc);
}

static inline float fp4_total(fp4_acc acc)
{
    __m128 a = _mm_add_ps(_mm_add_ps(_mm512_castps512_ps128(acc), _mm512_extractf32x4_ps(acc, 2)), _mm_add_ps(_mm512_extractf32x4_ps(acc, 1), _mm512_extractf32x4_ps(acc, 3)));

    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

#define FP4_FILL hd_fill_matmul_fp4_avx512
#include "kernels/matmul/matmul_fp4_body.h"
