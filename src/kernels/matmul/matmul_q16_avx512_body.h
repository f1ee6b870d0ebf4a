/* matmul_q16_avx512_body.h: quantised weights times q16 activations in one 512-bit vector a block: 32 int16 products, 16 int32
 * pair sums by MADD (vpmaddwd, or vpdpwssd onto zero where the CPU has VNNI), 16 f32 lanes. Lanes 0..7 hold a block's first
 * half, 8..15 its second. Otherwise as matmul_q16_avx2.c. The including file defines MADD(a, b) and NAME(fn). */
#include <math.h>

#include "kernels/matmul/block_q16_avx2.h"
#include "kernels/table.h"

static inline float hsum16(__m512 v)
{
    float lane[16];

    _mm512_storeu_ps(lane, v);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

#define R_MAX 2
#define T_MAX 4

static inline __attribute__((always_inline)) void tile(enum hd_dtype t, int R, int T, int64_t n_block, const struct hd_wrows *w, int64_t row0, const char *x,
                                                       int64_t x_bytes, float *out, int64_t ld_out)
{
    const uint8_t *row[R_MAX];
    const struct hd_q16 *xq[T_MAX];
    int64_t base[R_MAX] = {0};
    __m512 acc[R_MAX][T_MAX];
    float min[R_MAX][T_MAX];

    for (int r = 0; r < R; r++) {
        row[r] = (const uint8_t *)w->data + (row0 + r) * w->row_bytes;
        if (w->scale)
            base[r] = (row0 + r) / w->scale->block_rows * w->scale->n_col;
        for (int k = 0; k < T; k++) {
            acc[r][k] = _mm512_setzero_ps();
            min[r][k] = 0;
        }
    }
    for (int k = 0; k < T; k++)
        xq[k] = (const struct hd_q16 *)(x + k * x_bytes);
    for (int64_t i = 0; i < n_block; i++)
        for (int r = 0; r < R; r++) {
            struct block b;
            __m512i wv;

            get_block(t, row[r], w->scale, base[r], i, &b);
            wv = _mm512_inserti64x4(_mm512_castsi256_si512(b.w0), b.w1, 1);
            for (int k = 0; k < T; k++) {
                const struct hd_q16 *q = &xq[k][i];
                __m512 p = _mm512_cvtepi32_ps(MADD(wv, _mm512_loadu_si512(q->q))), s = _mm512_set1_ps(b.s0 * q->d);

                if (has_halves(t))
                    s = _mm512_mask_blend_ps(0xFF00, s, _mm512_set1_ps(b.s1 * q->d));
                acc[r][k] = _mm512_fmadd_ps(p, s, acc[r][k]);
                if (has_min(t))
                    min[r][k] = fmaf(b.m, q->sum, min[r][k]);
            }
        }
    for (int r = 0; r < R; r++)
        for (int k = 0; k < T; k++)
            out[k * ld_out + r] = hsum16(acc[r][k]) + min[r][k];
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

void NAME(hd_fill_matmul_q16)(struct hd_kernels *k)
{
#define FILL_Q16(t) k->matmul_q16[HD_##t] = q16_##t;
    HD_EACH_Q16(FILL_Q16)
}
