/* gemm_avx512.c: 14 x 32 tiles: 28 of 32 registers hold sums. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define V __m512
#define V_LANES 16
#define MR 14
#define NV 2
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_set _mm512_set1_ps
#define v_add _mm512_add_ps
#define v_fma _mm512_fmadd_ps
#define NAME(fn) fn##_avx512

#include "kernels/matmul/gemm_body.h"
