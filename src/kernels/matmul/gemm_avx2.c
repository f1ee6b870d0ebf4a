/* gemm_avx2.c: 6 x 16 tiles: 12 of 16 registers hold sums. */
#pragma GCC optimize("O3")
#include "kernels/kernels.h"
#include "kernels/matmul/gemm_few_x86.h"

#define V __m256
#define V_LANES 8
#define MR 6
#define NV 2
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_stream _mm256_stream_ps
#define v_set _mm256_set1_ps
#define v_add _mm256_add_ps
#define v_fma _mm256_fmadd_ps
#define v_part(p, n) hd_load_part(p, n)
#define QUAD 4

/* As in gemm_avx512.c, with two lanes. */
static inline __attribute__((always_inline)) void v_quads(const float *rows, int64_t ld, int n, int cols, __m256 out[4])
{
    __m256 r[4], t[4];

    for (int i = 0; i < 4; i++) {
        __m128 lane[2];

        for (int q = 0; q < 2; q++)
            lane[q] = 4 * q + i >= n ? _mm_setzero_ps() : cols == 4 ? _mm_loadu_ps(rows + (4 * q + i) * ld) : hd_load_few(rows + (4 * q + i) * ld, cols);
        r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(lane[0]), lane[1], 1);
    }
    t[0] = _mm256_unpacklo_ps(r[0], r[1]);
    t[1] = _mm256_unpackhi_ps(r[0], r[1]);
    t[2] = _mm256_unpacklo_ps(r[2], r[3]);
    t[3] = _mm256_unpackhi_ps(r[2], r[3]);
    for (int i = 0; i < 2; i++) {
        out[2 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(t[i]), _mm256_castps_pd(t[2 + i])));
        out[2 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(t[i]), _mm256_castps_pd(t[2 + i])));
    }
}

static inline __m256 hd_load_part(const float *p, int n)
{
    return n <= 0 ? _mm256_setzero_ps() : _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}
#define v_bf16(v) hd_bf16_operand8(v)
#define NAME(fn) fn##_avx2

#include "kernels/matmul/gemm_body.h"
