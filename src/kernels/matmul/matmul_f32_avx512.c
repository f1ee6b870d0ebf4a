/* matmul_f32_avx512.c: exact products on AVX-512: see matmul_f32_body.h. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define V __m512
#define V_LANES 16
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_fma _mm512_fmadd_ps
#define NAME(fn) fn##_avx512

#include "kernels/matmul/decode_fast_avx2.h"
#define DECODE hd_decode_fast

#include "kernels/matmul/matmul_f32_body.h"
