/* matmul_q16_avx512vnni.c: AVX-512 with VNNI: see matmul_q16_avx512_body.h. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define MADD(a, b) _mm512_dpwssd_epi32(_mm512_setzero_si512(), a, b)
#define NAME(fn) fn##_avx512vnni

#include "kernels/matmul/matmul_q16_avx512_body.h"
