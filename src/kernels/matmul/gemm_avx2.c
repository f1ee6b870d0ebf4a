/* gemm_avx2.c: 6 x 16 tiles: 12 of 16 registers hold sums. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define V __m256
#define V_LANES 8
#define MR 6
#define NV 2
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_set _mm256_set1_ps
#define v_add _mm256_add_ps
#define v_fma _mm256_fmadd_ps
#define NAME(fn) fn##_avx2

#include "kernels/matmul/gemm_body.h"
