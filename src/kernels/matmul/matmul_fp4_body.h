/* matmul_fp4_body.h: e2m1 weights times q16 activations: f4_e2m1 with a ue8m0 scale a row and 32 columns, and mxfp4.
 *
 * A byte shuffle turns nibbles into twice their value; shifted into the upper bytes of int16 lanes, even bytes and odd bytes apart,
 * they meet activations that were put into that order once a call, and 2^-9 undoes both factors in the scale. Scales of eight blocks
 * are made together. Two values a byte lie side by side in f4_e2m1 and sixteen apart in mxfp4: only the activations' order differs.
 *
 * An element's order is fixed whatever the tile: blocks ascending into the accumulator's lanes, then one tree. The including file defines
 * fp4_acc, fp4_zero, fp4_weights, fp4_load (16 bytes), fp4_madd (accumulator, weights, 32 activations, scale), fp4_total and FP4_FILL,
 * the function that enters the kernels.
 */
#include <string.h>

#include "kernels/table.h"

#define NB_MAX 1024                   /* longer rows (n > 32768) go to the general kernels */
#define T_MAX 4
#define R_MAX 4
#define AHEAD 2048                    /* bytes between a load and its prefetch, at least */

struct packed {
    _Alignas(64) int16_t q[T_MAX][NB_MAX][32];
    _Alignas(64) float d[T_MAX][NB_MAX];
};

static _Thread_local struct packed tls;

/* Four rows of eight: low nibbles of even bytes, high ones of even bytes, low and high ones of odd bytes. */
static inline void order_block(const int16_t *q, int16_t *out, bool apart)
{
    __m128i v[4];

    for (int i = 0; i < 4; i++)
        v[i] = _mm_loadu_si128((const __m128i *)(q + 8 * i));
    if (apart) {                      /* byte j holds elements j and j + 16 */
        const __m128i split = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);

        for (int i = 0; i < 4; i++)
            v[i] = _mm_shuffle_epi8(v[i], split);
        _mm_store_si128((__m128i *)out, _mm_unpacklo_epi64(v[0], v[1]));
        _mm_store_si128((__m128i *)(out + 8), _mm_unpacklo_epi64(v[2], v[3]));
        _mm_store_si128((__m128i *)(out + 16), _mm_unpackhi_epi64(v[0], v[1]));
        _mm_store_si128((__m128i *)(out + 24), _mm_unpackhi_epi64(v[2], v[3]));
    } else {                          /* byte j holds elements 2 j and 2 j + 1: a 4 by 8 transposition */
        const __m128i pairs = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
        __m128i a, b, c, d;

        for (int i = 0; i < 4; i++)
            v[i] = _mm_shuffle_epi8(v[i], pairs);
        a = _mm_unpacklo_epi32(v[0], v[1]);
        b = _mm_unpackhi_epi32(v[0], v[1]);
        c = _mm_unpacklo_epi32(v[2], v[3]);
        d = _mm_unpackhi_epi32(v[2], v[3]);
        _mm_store_si128((__m128i *)out, _mm_unpacklo_epi64(a, c));
        _mm_store_si128((__m128i *)(out + 8), _mm_unpackhi_epi64(a, c));
        _mm_store_si128((__m128i *)(out + 16), _mm_unpacklo_epi64(b, d));
        _mm_store_si128((__m128i *)(out + 24), _mm_unpackhi_epi64(b, d));
    }
}

static void pack(const struct hd_q16 *x, int64_t nb, int k, bool apart)
{
    for (int64_t i = 0; i < nb; i++) {
        order_block(x[i].q, tls.q[k][i], apart);
        tls.d[k][i] = x[i].d * 0x1p-9f;
    }
}

/* 2^(e - 127) of eight bytes. */
static inline __m256 ue8m0(uint64_t bytes)
{
    __m256i e = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes)), bits = _mm256_slli_epi32(e, 23);

    return _mm256_castsi256_ps(_mm256_blendv_epi8(bits, _mm256_set1_epi32(0x400000), _mm256_cmpeq_epi32(e, _mm256_setzero_si256())));
}

/* Where a row's blocks and scales lie. */
struct rows {
    const uint8_t *code, *scale;
};

static inline __attribute__((always_inline)) void group(bool mx, int R, int T, const struct rows *row, int64_t i, int n, int64_t ahead, fp4_acc acc[R_MAX][T_MAX])
{
    int64_t bytes = mx ? 17 : 16;
    float s[R_MAX][T_MAX][8];

    for (int r = 0; r < R; r++) {
        uint64_t e = 0;
        __m256 scale;

        if (!mx && n == 8)
            memcpy(&e, row[r].scale + i, 8);
        else
            for (int j = 0; j < n; j++)
                e |= (uint64_t)row[r].scale[(i + j) * (mx ? 17 : 1)] << (8 * j);
        scale = ue8m0(e);
        if (T == 1 && n == 8) {           /* the next tile's rows: streams of a few hundred bytes are too short for the hardware's prefetchers */
            _mm_prefetch((const char *)row[r].code + i * bytes + ahead, _MM_HINT_T0);
            _mm_prefetch((const char *)row[r].code + i * bytes + ahead + 64, _MM_HINT_T0);
        }
        for (int k = 0; k < T; k++) {
            float d[8] = {0};

            if (n < 8)
                memcpy(d, tls.d[k] + i, (size_t)n * sizeof *d);
            _mm256_storeu_ps(s[r][k], _mm256_mul_ps(scale, n < 8 ? _mm256_loadu_ps(d) : _mm256_loadu_ps(tls.d[k] + i)));
        }
    }
    for (int j = 0; j < n; j++)
        for (int r = 0; r < R; r++) {
            fp4_weights w = fp4_load(row[r].code + (i + j) * bytes);

            for (int k = 0; k < T; k++)
                acc[r][k] = fp4_madd(acc[r][k], w, tls.q[k][i + j], s[r][k][j]);
        }
}

static inline __attribute__((always_inline)) void tile(bool mx, int R, int T, int64_t nb, const struct hd_wrows *w, int64_t row0, float *out, int64_t ld_out)
{
    fp4_acc acc[R_MAX][T_MAX];
    struct rows row[R_MAX];
    int64_t i = 0, ahead = R * w->row_bytes > AHEAD ? R * w->row_bytes : AHEAD;

    for (int r = 0; r < R; r++) {
        const uint8_t *p = (const uint8_t *)w->data + (row0 + r) * w->row_bytes;

        row[r] = mx ? (struct rows){p + 1, p} : (struct rows){p, (const uint8_t *)w->scale->data + (row0 + r) * w->scale->n_col};
        for (int k = 0; k < T; k++)
            acc[r][k] = fp4_zero();
    }
    for (; i + 8 <= nb; i += 8)
        group(mx, R, T, row, i, 8, ahead, acc);
    if (i < nb)
        group(mx, R, T, row, i, (int)(nb - i), ahead, acc);
    for (int r = 0; r < R; r++)
        for (int k = 0; k < T; k++)
            out[k * ld_out + r] = fp4_total(acc[r][k]) * (mx ? 1 : w->scale->global);
}

static inline __attribute__((always_inline)) void matmul_fp4(bool mx, int64_t nb, const struct hd_wrows *w, int64_t n_row, const char *x, int64_t x_bytes, int64_t n_tok,
                                                             float *out, int64_t ld_out)
{
    for (int64_t k = 0; k < n_tok; k += T_MAX) {
        int T = n_tok - k < T_MAX ? (int)(n_tok - k) : T_MAX;
        float *o = out + k * ld_out;
        int64_t r = 0;

        for (int j = 0; j < T; j++)
            pack((const struct hd_q16 *)(x + (k + j) * x_bytes), nb, j, mx);
        if (T == 1)
            for (; r + 4 <= n_row; r += 4)
                tile(mx, 4, 1, nb, w, w->row0 + r, o + r, ld_out);
        for (; r < n_row; r++)
            switch (T) {
            case 1: tile(mx, 1, 1, nb, w, w->row0 + r, o + r, ld_out); break;
            case 2: tile(mx, 1, 2, nb, w, w->row0 + r, o + r, ld_out); break;
            case 3: tile(mx, 1, 3, nb, w, w->row0 + r, o + r, ld_out); break;
            default: tile(mx, 1, 4, nb, w, w->row0 + r, o + r, ld_out); break;
            }
    }
}

static hd_matmul_fn other_f4, other_mx;

/* Scales as published; any other form, and rows that are too long, go where they went before. */
static void f4_e2m1(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    const struct hd_scale *s = w->scale;

    if (!s || s->type != HD_F8_E8M0 || s->block_rows != 1 || s->block_cols != 32 || n / 32 > NB_MAX)
        other_f4(n, w, n_row, x, x_bytes, n_tok, out, ld_out);
    else
        matmul_fp4(false, n / 32, w, n_row, x, x_bytes, n_tok, out, ld_out);
}

static void mxfp4(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    if (n / 32 > NB_MAX)
        other_mx(n, w, n_row, x, x_bytes, n_tok, out, ld_out);
    else
        matmul_fp4(true, n / 32, w, n_row, x, x_bytes, n_tok, out, ld_out);
}

void FP4_FILL(struct hd_kernels *k)
{
    other_f4 = k->matmul_q16[HD_F4_E2M1];
    other_mx = k->matmul_q16[HD_MXFP4];
    k->matmul_q16[HD_F4_E2M1] = f4_e2m1;
    k->matmul_q16[HD_MXFP4] = mxfp4;
}
