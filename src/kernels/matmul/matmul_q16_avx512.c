/* matmul_q16_avx512.c: AVX-512 without VNNI: see matmul_q16_avx512_body.h. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define MADD(a, b) _mm512_madd_epi16(a, b)
#define NAME(fn) fn##_avx512

#include "kernels/matmul/matmul_q16_avx512_body.h"
