/* matmul_q16_avx2.c: quantised weights times q16 activations on AVX2.
 *
 * A block of 32 weights becomes two vectors of 16 int16; pmaddwd with the activations' int16 gives exact int32 sums, which
 * are scaled into 8 f32 lanes. Decoded once, a block serves all tokens of a tile; a single token walks two rows, so that
 * two chains are in flight. An element's order is fixed: blocks ascending into 8 lanes, minima into a scalar, one tree.
 */
#pragma GCC optimize("O3")
#include <math.h>

#include "kernels/matmul/block_q16_avx2.h"
#include "kernels/table.h"

static inline float hsum(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    a = _mm_add_ss(a, _mm_movehdup_ps(a));
    return _mm_cvtss_f32(a);
}

#define R_MAX 2
#define T_MAX 4
#define AHEAD 2048                    /* bytes between a load and its prefetch, at least */

static inline __attribute__((always_inline)) void tile(enum hd_dtype t, int R, int T, int64_t n_block, const struct hd_wrows *w, int64_t row0, const char *x,
                                                       int64_t x_bytes, float *out, int64_t ld_out)
{
    const uint8_t *row[R_MAX];
    const struct hd_q16 *xq[T_MAX];
    int64_t base[R_MAX] = {0};
    __m256 acc[R_MAX][T_MAX];
    float min[R_MAX][T_MAX];
    int64_t ahead = R * w->row_bytes > AHEAD ? R * w->row_bytes : AHEAD, block_bytes = w->row_bytes / n_block;

    for (int r = 0; r < R; r++) {
        row[r] = (const uint8_t *)w->data + (row0 + r) * w->row_bytes;
        if (w->scale)
            base[r] = (row0 + r) / w->scale->block_rows * w->scale->n_col;
        for (int k = 0; k < T; k++) {
            acc[r][k] = _mm256_setzero_ps();
            min[r][k] = 0;
        }
    }
    for (int k = 0; k < T; k++)
        xq[k] = (const struct hd_q16 *)(x + k * x_bytes);
    for (int64_t i = 0; i < n_block; i++)
        for (int r = 0; r < R; r++) {
            struct block b;

            if (T == 1)                   /* the next rows: streams of a few hundred bytes are too short for the hardware's prefetchers */
                _mm_prefetch((const char *)row[r] + i * block_bytes + ahead, _MM_HINT_T0);
            get_block(t, row[r], w->scale, base[r], i, &b);
            for (int k = 0; k < T; k++) {
                const struct hd_q16 *q = &xq[k][i];
                __m256i p0 = _mm256_madd_epi16(b.w0, _mm256_loadu_si256((const __m256i *)q->q)),
                        p1 = _mm256_madd_epi16(b.w1, _mm256_loadu_si256((const __m256i *)(q->q + 16)));

                if (has_halves(t)) {
                    acc[r][k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(p0), _mm256_set1_ps(b.s0 * q->d), acc[r][k]);
                    acc[r][k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(p1), _mm256_set1_ps(b.s1 * q->d), acc[r][k]);
                } else {
                    acc[r][k] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(p0, p1)), _mm256_set1_ps(b.s0 * q->d), acc[r][k]);
                }
                if (has_min(t))
                    min[r][k] = fmaf(b.m, q->sum, min[r][k]);
            }
        }
    for (int r = 0; r < R; r++)
        for (int k = 0; k < T; k++)
            out[k * ld_out + r] = hsum(acc[r][k]) + min[r][k];
}

static inline __attribute__((always_inline)) void matmul_q16(enum hd_dtype t, int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x,
                                                             int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    const char *xc = x;
    int64_t nb = n / 32, r, k;

    if (n_tok == 1) {
        for (r = 0; r + 2 <= n_row; r += 2)
            tile(t, 2, 1, nb, w, w->row0 + r, xc, x_bytes, out + r, ld_out);
        if (r < n_row)
            tile(t, 1, 1, nb, w, w->row0 + r, xc, x_bytes, out + r, ld_out);
        return;
    }
    for (r = 0; r < n_row; r++) {
        for (k = 0; k + 4 <= n_tok; k += 4)
            tile(t, 1, 4, nb, w, w->row0 + r, xc + k * x_bytes, x_bytes, out + k * ld_out + r, ld_out);
        for (; k < n_tok; k++)
            tile(t, 1, 1, nb, w, w->row0 + r, xc + k * x_bytes, x_bytes, out + k * ld_out + r, ld_out);
    }
}

#define DEFINE_Q16(t)                                                                                                                          \
    static void q16_##t(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out,          \
                        int64_t ld_out)                                                                                                        \
    {                                                                                                                                          \
        matmul_q16(HD_##t, n, w, n_row, x, x_bytes, n_tok, out, ld_out);                                                                       \
    }
HD_EACH_Q16(DEFINE_Q16)

void hd_fill_matmul_q16_avx2(struct hd_kernels *k)
{
#define FILL_Q16(t) k->matmul_q16[HD_##t] = q16_##t;
    HD_EACH_Q16(FILL_Q16)
}
