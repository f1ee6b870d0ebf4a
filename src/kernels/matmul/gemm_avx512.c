/* gemm_avx512.c: 14 x 32 tiles: 28 of 32 registers hold sums. */
#pragma GCC optimize("O3")
#include "kernels/matmul/gemm_few_x86.h"

#define V __m512
#define V_LANES 16
#define MR 14
#define NV 2
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_set _mm512_set1_ps
#define v_add _mm512_add_ps
#define v_fma _mm512_fmadd_ps
#define v_part(p, n) _mm512_maskz_loadu_ps((__mmask16)((n) > 0 ? (1u << (n)) - 1 : 0), p)
#define QUAD 4

/* Column c of 16 rows in out[c]: a 128-bit lane holds four columns of a row, so four vectors of four lanes hold all; unpacking turns each lane's 4 x 4. */
static inline __attribute__((always_inline)) void v_quads(const float *rows, int64_t ld, int n, int cols, __m512 out[4])
{
    __m512 r[4], t[4];

    for (int i = 0; i < 4; i++) {
        __m128 lane[4];

        for (int q = 0; q < 4; q++)
            lane[q] = 4 * q + i >= n ? _mm_setzero_ps() : cols == 4 ? _mm_loadu_ps(rows + (4 * q + i) * ld) : hd_load_few(rows + (4 * q + i) * ld, cols);
        r[i] = _mm512_insertf32x4(_mm512_insertf32x4(_mm512_insertf32x4(_mm512_castps128_ps512(lane[0]), lane[1], 1), lane[2], 2), lane[3], 3);
    }
    t[0] = _mm512_unpacklo_ps(r[0], r[1]);
    t[1] = _mm512_unpackhi_ps(r[0], r[1]);
    t[2] = _mm512_unpacklo_ps(r[2], r[3]);
    t[3] = _mm512_unpackhi_ps(r[2], r[3]);
    for (int i = 0; i < 2; i++) {
        out[2 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[2 + i])));
        out[2 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[2 + i])));
    }
}
#define NAME(fn) fn##_avx512

#include "kernels/matmul/gemm_body.h"
