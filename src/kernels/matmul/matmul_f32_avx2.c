/* matmul_f32_avx2.c: exact products on AVX2 with FMA: see matmul_f32_body.h. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define V __m256
#define V_LANES 8
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_fma _mm256_fmadd_ps
#define NAME(fn) fn##_avx2

#include "kernels/matmul/decode_fast_avx2.h"
#define DECODE hd_decode_fast

#include "kernels/matmul/matmul_f32_body.h"
