/* matmul_f32_body.h: weights of any format times f32 activations, for whatever vector the including file defines:
 *
 *   V, V_LANES, v_load(p), v_store(p, v), v_fma(a, b, c), DECODE, and NAME(fn) for the function's suffix
 *
 * Rows are decoded in panels of CHUNK columns, four rows at a time, into a buffer that stays in L1; tiles of R rows and T
 * tokens then run over the panel. All rows of a group take a chunk of columns before the next one begins, so that the activations of
 * a chunk are read from L2. An element's sum is V_LANES partial sums over k = lane (mod V_LANES), ascending, then one fixed tree: the
 * same whatever the tile.
 */
#include <math.h>
#include <string.h>

#include "kernels/table.h"
#include "tensor/decode_rows.h"

#define CHUNK 1024
#define ROWS 4
#define GROUP 32                      /* rows */
#define TOKS 3
#define TOK_MAX 48

typedef float sums[TOK_MAX][V_LANES];

struct panel {
    _Alignas(64) float w[ROWS][CHUNK];
    _Alignas(64) sums acc[GROUP];
};

static _Thread_local struct panel tls;

static inline __attribute__((always_inline)) void tile(int R, int T, int64_t n, const float *const *w, const float *const *x, sums *sum, int t0)
{
    V acc[ROWS][TOKS];

    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            acc[r][t] = v_load(sum[r][t0 + t]);
    for (int64_t i = 0; i < n; i += V_LANES) {
        V xv[TOKS];

        for (int t = 0; t < T; t++)
            xv[t] = v_load(x[t] + i);
        for (int r = 0; r < R; r++) {
            V wv = v_load(w[r] + i);

            for (int t = 0; t < T; t++)
                acc[r][t] = v_fma(wv, xv[t], acc[r][t]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            v_store(sum[r][t0 + t], acc[r][t]);
}

/* One chunk of up to 4 rows against up to TOK_MAX tokens; n a multiple of V_LANES. */
static void chunk(int n_row, int64_t n, const float *const *w, const char *x, int64_t x_bytes, int n_tok, sums *sum)
{
    for (int t = 0; t < n_tok; t += TOKS) {
        const float *xs[TOKS];
        int k = n_tok - t < TOKS ? n_tok - t : TOKS;

        for (int i = 0; i < k; i++)
            xs[i] = (const float *)(x + (t + i) * x_bytes);
        switch (n_row * 4 + k) {
        case 4 * 4 + 3: tile(4, 3, n, w, xs, sum, t); break;
        case 4 * 4 + 2: tile(4, 2, n, w, xs, sum, t); break;
        case 4 * 4 + 1: tile(4, 1, n, w, xs, sum, t); break;
        default:
            for (int r = 0; r < n_row; r++)
                for (int i = 0; i < k; i++)
                    tile(1, 1, n, &w[r], &xs[i], sum + r, t + i);
        }
    }
}

static float reduce(float *lane)
{
    for (int half = V_LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

/* Rows row0 .. row0 + nr, columns c .. of them, against nt tokens. */
static inline __attribute__((always_inline)) void panel(enum hd_dtype type, int64_t n, const struct hd_wrows *w, int64_t row0, int nr, int64_t c, const char *x, int64_t x_bytes,
                                                        int nt, sums *sum)
{
    int64_t len = n - c < CHUNK ? n - c : CHUNK, whole = len / V_LANES * V_LANES;
    const char *xc = x + c * 4;
    const float *rows[ROWS];

    for (int r = 0; r < nr; r++) {
        int64_t row = w->row0 + row0 + r;
        const uint8_t *p = (const uint8_t *)w->data + row * w->row_bytes + c / hd_dtypes[type].block_len * hd_dtypes[type].block_bytes;

        if (type == HD_F32) {
            rows[r] = (const float *)p;
        } else {
            struct hd_scale s = {0};

            if (w->scale) {           /* the row's scales begin c / block_cols entries further */
                s = *w->scale;
                s.data = (const uint8_t *)s.data + c / s.block_cols * hd_dtypes[s.type].block_bytes;
            }
            DECODE(type, p, w->scale ? &s : NULL, row, len, tls.w[r]);
            rows[r] = tls.w[r];
        }
    }
    chunk(nr, whole, rows, xc, x_bytes, nt, sum);
    for (int r = 0; r < nr && whole < len; r++)
        for (int t = 0; t < nt; t++)
            for (int64_t i = whole; i < len; i++)
                sum[r][t][i - whole] = fmaf(rows[r][i], ((const float *)(xc + t * x_bytes))[i], sum[r][t][i - whole]);
}

static inline __attribute__((always_inline)) void matmul_any(enum hd_dtype type, int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x,
                                                             int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    for (int64_t t0 = 0; t0 < n_tok; t0 += TOK_MAX)
        for (int64_t g = 0; g < n_row; g += GROUP) {
            int nt = (int)(n_tok - t0 < TOK_MAX ? n_tok - t0 : TOK_MAX), ng = (int)(n_row - g < GROUP ? n_row - g : GROUP);

            memset(tls.acc, 0, sizeof tls.acc[0] * (size_t)ng);
            for (int64_t c = 0; c < n; c += CHUNK)
                for (int r0 = 0; r0 < ng; r0 += ROWS)
                    panel(type, n, w, g + r0, ng - r0 < ROWS ? ng - r0 : ROWS, c, (const char *)x + t0 * x_bytes, x_bytes, nt, tls.acc + r0);
            for (int t = 0; t < nt; t++)
                for (int r = 0; r < ng; r++)
                    out[(t0 + t) * ld_out + g + r] = reduce(tls.acc[r][t]);
        }
}

/* One function a format, so that the decoder is inlined without its switch. */
#define HD_EACH_FLOAT(M)                                                                                                                      \
    M(F32) M(F16) M(BF16) M(F64) M(F8_E4M3) M(F4_E2M1) M(Q4_0) M(Q4_1) M(Q5_0) M(Q5_1) M(Q8_0) M(Q2_K) M(Q3_K) M(Q4_K) M(Q5_K) M(Q6_K) M(MXFP4)

#define DEFINE(t)                                                                                                                             \
    static void matmul_##t(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out,      \
                           int64_t ld_out)                                                                                                    \
    {                                                                                                                                         \
        matmul_any(HD_##t, n, w, n_row, x, x_bytes, n_tok, out, ld_out);                                                                      \
    }                                                                                                                                         \
    static void decode_##t(const struct hd_wrows *w, int64_t n, float *out)                                                                   \
    {                                                                                                                                         \
        DECODE(HD_##t, (const uint8_t *)w->data + w->row0 * w->row_bytes, w->scale, w->row0, n, out);                                          \
    }
HD_EACH_FLOAT(DEFINE)

#define FILL(t)                                   \
    k->matmul_f32[HD_##t] = matmul_##t;           \
    k->decode[HD_##t] = decode_##t;

void NAME(hd_fill_matmul_f32)(struct hd_kernels *k)
{
    HD_EACH_FLOAT(FILL)
}
