/* matmul_fp4_avx512vnni.c: e2m1 on AVX-512 VNNI. */
#pragma GCC optimize("O3")
#include "kernels/matmul/fp4_avx512.h"

static inline __m512 v_dot(__m512i lo, __m512i hi, const int8_t *x)
{
    __m512i s = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lo, _mm512_loadu_si512(x));

    return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(s, hi, _mm512_loadu_si512(x + 64)));
}

#define FP4_FILL hd_fill_matmul_fp4_avx512vnni
#include "kernels/matmul/matmul_fp4_body.h"
