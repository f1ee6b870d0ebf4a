/* gemm_avx512.c: 14 x 32 tiles: 28 of 32 registers hold sums. */
#pragma GCC optimize("O3")
#include "kernels/kernels.h"
#include "kernels/matmul/gemm_few_x86.h"
#include "kernels/matmul/gemm_turn_avx512.h"

#define V __m512
#define V_LANES 16
#define MR 14
#define NV 2
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_stream _mm512_stream_ps
#define v_set _mm512_set1_ps
#define v_add _mm512_add_ps
#define v_fma _mm512_fmadd_ps
#define v_part(p, n) _mm512_maskz_loadu_ps((__mmask16)((n) > 0 ? (1u << (n)) - 1 : 0), p)
#define QUAD 4

#define v_bf16(v) hd_gemm_round(v)

static inline __m512 hd_gemm_round(__m512 x)
{
    __m512i u = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_and_si512(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd), _mm512_set1_epi32((int)0xFFFF0000));
    __mmask16 kept = _mm512_cmpgt_epi32_mask(_mm512_and_si512(u, _mm512_set1_epi32(0x7FFFFFFF)), _mm512_set1_epi32((int)HD_BF16_OPERAND_MIN - 1));

    return _mm512_mask_mov_ps(_mm512_castsi512_ps(_mm512_maskz_mov_epi32(kept, r)), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

static inline __attribute__((always_inline)) void v_quads(const float *rows, int64_t ld, int n, int cols, __m512 out[4])
{
    __m128 lane[16];

    for (int r = 0; r < 16; r++)
        lane[r] = r >= n ? _mm_setzero_ps() : cols == 4 ? _mm_loadu_ps(rows + r * ld) : hd_load_few(rows + r * ld, cols);
    hd_turn16(lane, out);
}
#define NAME(fn) fn##_avx512

#include "kernels/matmul/gemm_body.h"
