/* matmul_fp4_avx512.c: e2m1 on AVX-512 without VNNI. */
#pragma GCC optimize("O3")
#include "kernels/matmul/fp4_avx512.h"

static inline __m512 v_dot(__m512i lo, __m512i hi, const int8_t *x)      /* 24 * 127 * 4 < 2^15 */
{
    __m512i s = _mm512_add_epi16(_mm512_maddubs_epi16(lo, _mm512_loadu_si512(x)), _mm512_maddubs_epi16(hi, _mm512_loadu_si512(x + 64)));

    return _mm512_cvtepi32_ps(_mm512_madd_epi16(s, _mm512_set1_epi16(1)));
}

#define FP4_FILL hd_fill_matmul_fp4_avx512
#include "kernels/matmul/matmul_fp4_body.h"
