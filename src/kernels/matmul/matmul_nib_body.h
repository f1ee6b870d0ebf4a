/* matmul_nib_body.h: q4_0 and q4_1 weights times q16 activations: the formats where unpacking nibbles costs most.
 *
 * Sixteen bytes, broadcast over a vector and masked with 0x000F in some lanes and 0x0F00 in others, are int16 weights without a single
 * widening shuffle: the even bytes' nibbles, and 256 times the odd bytes', which one multiplication by 1/256 undoes after the last
 * block. The activations are put into that order once a call. Scales and minima of four blocks are converted together and meet the
 * activations' (d, sum) pairs in one product: even lanes scale the blocks' sums, odd lanes add up the minima.
 *
 * An element's order is fixed whatever the tile: blocks ascending into the accumulator's lanes, groups of four minima into 4 lanes,
 * one tree. The including file defines nib_acc, nib_zero, nib_weights, nib_load (16 bytes), nib_madd (accumulator, weights, 32
 * activations, scale), nib_lanes (an accumulator as four lanes) and NIB_FILL, the function that enters the kernels.
 */
#include <string.h>

#include "kernels/table.h"

#define NB_MAX 1024                   /* longer rows (n > 32768) go to matmul_q16_avx2.c */
#define T_MAX 4
#define R_MAX 4
#define AHEAD 2048                    /* bytes between a load and its prefetch, at least */

struct packed {
    _Alignas(64) int16_t q[T_MAX][NB_MAX][32];
    _Alignas(64) float ds[T_MAX][NB_MAX][2];
};

static _Thread_local struct packed tls;

/* q[0], q[2] .. q[14], q[1] .. q[15] of each half of a block; pairs behind the last block are zero up to a multiple of 4. */
static void pack(const struct hd_q16 *x, int64_t nb, int k)
{
    const __m256i even_odd = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);

    for (int64_t i = 0; i < nb; i++) {
        for (int h = 0; h < 2; h++) {
            __m256i v = _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i *)(x[i].q + 16 * h)), even_odd);

            _mm256_store_si256((__m256i *)(tls.q[k][i] + 16 * h), _mm256_permute4x64_epi64(v, 0xD8));
        }
        tls.ds[k][i][0] = x[i].d;
        tls.ds[k][i][1] = x[i].sum;
    }
    for (int64_t i = nb; i % 4; i++)
        tls.ds[k][i][0] = tls.ds[k][i][1] = 0;
}

/* (scale, minimum) of up to four blocks from block i on; zeros behind the row's end. */
static inline __attribute__((always_inline)) __m256 scales(enum hd_dtype t, const uint8_t *row, int64_t i, int n)
{
    int bytes = t == HD_Q4_1 ? 20 : 18;
    uint32_t v[4] = {0};

    for (int j = 0; j < n; j++) {
        const uint8_t *p = row + (i + j) * bytes;

        if (t == HD_Q4_1)
            memcpy(&v[j], p, 4);
        else
            v[j] = hd_load16(p) * 0x10001u;
    }
    __m256 s = _mm256_cvtph_ps(_mm_setr_epi32((int)v[0], (int)v[1], (int)v[2], (int)v[3]));

    return t == HD_Q4_1 ? s : _mm256_mul_ps(s, _mm256_setr_ps(1, -8, 1, -8, 1, -8, 1, -8));
}

static inline __attribute__((always_inline)) void group(enum hd_dtype t, int R, int T, const uint8_t *const *row, int64_t i, int n, int64_t ahead, nib_acc acc[R_MAX][T_MAX],
                                                        __m256 min[R_MAX][T_MAX])
{
    int bytes = t == HD_Q4_1 ? 20 : 18, head = t == HD_Q4_1 ? 4 : 2;
    float s[R_MAX][T_MAX][8];

    for (int r = 0; r < R; r++) {
        __m256 dm = scales(t, row[r], i, n);

        if (T == 1 && n == 4) {           /* the next tile's rows: streams of a few hundred bytes are too short for the hardware's prefetchers */
            _mm_prefetch((const char *)row[r] + i * bytes + ahead, _MM_HINT_T0);
            _mm_prefetch((const char *)row[r] + i * bytes + ahead + 64, _MM_HINT_T0);
        }

        for (int k = 0; k < T; k++) {
            __m256 p = _mm256_mul_ps(dm, _mm256_load_ps(tls.ds[k][i]));

            min[r][k] = _mm256_add_ps(min[r][k], p);
            _mm256_storeu_ps(s[r][k], p);
        }
    }
    for (int j = 0; j < n; j++)
        for (int r = 0; r < R; r++) {
            nib_weights v = nib_load(row[r] + (i + j) * bytes + head);

            for (int k = 0; k < T; k++)
                acc[r][k] = nib_madd(acc[r][k], v, tls.q[k][i + j], s[r][k][2 * j]);
        }
}

/* low: the lanes' sum over four lanes; minima in the odd lanes. */
static inline float total(__m128 low, __m256 min)
{
    __m128 m = _mm_add_ps(_mm256_castps256_ps128(min), _mm256_extractf128_ps(min, 1));

    low = _mm_add_ps(low, _mm_movehl_ps(low, low));
    low = _mm_add_ss(low, _mm_movehdup_ps(low));
    m = _mm_movehdup_ps(m);
    m = _mm_add_ss(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_add_ss(low, m));
}

static inline __attribute__((always_inline)) void tile(enum hd_dtype t, int R, int T, int64_t nb, const struct hd_wrows *w, int64_t row0, float *out, int64_t ld_out)
{
    nib_acc acc[R_MAX][T_MAX];
    __m256 min[R_MAX][T_MAX];
    const uint8_t *row[R_MAX];
    int64_t i = 0, ahead = R * w->row_bytes > AHEAD ? R * w->row_bytes : AHEAD;

    for (int r = 0; r < R; r++) {
        row[r] = (const uint8_t *)w->data + (row0 + r) * w->row_bytes;
        for (int k = 0; k < T; k++) {
            min[r][k] = _mm256_setzero_ps();
            acc[r][k] = nib_zero();
        }
    }
    for (; i + 4 <= nb; i += 4)
        group(t, R, T, row, i, 4, ahead, acc, min);
    switch (nb - i) {
    case 1: group(t, R, T, row, i, 1, ahead, acc, min); break;
    case 2: group(t, R, T, row, i, 2, ahead, acc, min); break;
    case 3: group(t, R, T, row, i, 3, ahead, acc, min); break;
    }
    for (int r = 0; r < R; r++)
        for (int k = 0; k < T; k++)
            out[k * ld_out + r] = total(nib_lanes(acc[r][k]), min[r][k]);
}

static inline __attribute__((always_inline)) void matmul_nib(enum hd_dtype t, int64_t nb, const struct hd_wrows *w, int64_t n_row, const char *x, int64_t x_bytes,
                                                             int64_t n_tok, float *out, int64_t ld_out)
{
    for (int64_t k = 0; k < n_tok; k += T_MAX) {
        int T = n_tok - k < T_MAX ? (int)(n_tok - k) : T_MAX;
        float *o = out + k * ld_out;
        int64_t r = 0;

        for (int j = 0; j < T; j++)
            pack((const struct hd_q16 *)(x + (k + j) * x_bytes), nb, j);
        if (T == 1)
            for (; r + 4 <= n_row; r += 4)
                tile(t, 4, 1, nb, w, w->row0 + r, o + r, ld_out);
        for (; r < n_row; r++)
            switch (T) {
            case 1: tile(t, 1, 1, nb, w, w->row0 + r, o + r, ld_out); break;
            case 2: tile(t, 1, 2, nb, w, w->row0 + r, o + r, ld_out); break;
            case 3: tile(t, 1, 3, nb, w, w->row0 + r, o + r, ld_out); break;
            default: tile(t, 1, 4, nb, w, w->row0 + r, o + r, ld_out); break;
            }
    }
}

static hd_matmul_fn long_q4_0, long_q4_1;

static void nib_q4_0(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    if (n / 32 > NB_MAX)
        long_q4_0(n, w, n_row, x, x_bytes, n_tok, out, ld_out);
    else
        matmul_nib(HD_Q4_0, n / 32, w, n_row, x, x_bytes, n_tok, out, ld_out);
}

static void nib_q4_1(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    if (n / 32 > NB_MAX)
        long_q4_1(n, w, n_row, x, x_bytes, n_tok, out, ld_out);
    else
        matmul_nib(HD_Q4_1, n / 32, w, n_row, x, x_bytes, n_tok, out, ld_out);
}

void NIB_FILL(struct hd_kernels *k)
{
    long_q4_0 = k->matmul_q16[HD_Q4_0];
    long_q4_1 = k->matmul_q16[HD_Q4_1];
    k->matmul_q16[HD_Q4_0] = nib_q4_0;
    k->matmul_q16[HD_Q4_1] = nib_q4_1;
}
