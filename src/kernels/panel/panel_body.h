/* panel_body.h: products of panels (tensor/panel.h) in vectors of L lanes, a row a lane; see panel_scalar.c for what is computed.
 *
 * The including file defines
 *   V, VI, VS, L                                vectors of L f32, of 4 L bytes, of L int32
 *   F_TOK, P_MAX                                tokens that a tile of floats keeps sums of; panels at once in a mat-vec of floats
 *   P_TILE                                      panels at once in a tile of integers: as many blocks of them as registers hold
 *   v_zero v_set1 v_load v_store v_mul v_fma v_of_int, vi_load, vs_word (a word, in all lanes) vs_shl(v, n), prefetch_near prefetch_far
 *   v_f16(p), v_e8m0(p), v_i8(p)                L scales
 *   w_nibbles(v, lo, hi), w_e2m1(v), w_byte(v)  codes to what dot8 takes: unsigned ones with NIBBLE_SHIFT's and BYTE_SHIFT's offset
 *   w_or(w, v, mask), w_shl(v, n), w_shr(v, n)  w | (v & mask); shifts that may carry bits between bytes, for high bits of codes
 *   dot8(w[8], x, init), dot8_bytes             init + sums of 32 products
 *   dot4_six(w[4], x, init)                     init + sums of 16 products of codes of six bits
 *   v_fp8(p, out[4]), v_bf16(p, out[4])         four columns of L rows as f32, fp8 times 2^-120: its bits moved to where f32 has them. Subnormal
 *                                               fp8 are subnormal f32 then, rare among weights; where one token meets them its values are
 *                                               raised by 2^80 first, so that no product is
 *   PANEL_FILL
 */
#include "kernels/panel/panel_block.h"

#define HALVES (HD_PANEL_ROWS / L)
#define AHEAD 512                     /* bytes between a load and its prefetch */
#define CODES_AHEAD 2048              /* the same of one of several streams: codes; bytes of rows that are not short; what lies behind codes */
#define BYTES_AHEAD 1024
#define REST_AHEAD 512
#define TOK_INT 48                    /* tokens that share a block of integers */
#define I_PANELS 16                   /* panels whose sums are kept meanwhile */
#define IN_WORK 1536                  /* blocks of activations that stay near while panels go by */
#define P_INT 4                       /* panels at once when there is one token: memory gives more to several streams */

/* ---- integer codes times int8 activations ---- */

/* The offset times the sum of x, negated: where a block's sum begins. */
INLINE VS offset(enum hd_dtype t, int32_t neg)
{
    switch (t) {
    case HD_Q4_0: return vs_shl(vs_word(neg), 3);
    case HD_Q5_0: return vs_shl(vs_word(neg), 4);
    case HD_Q6_K: return vs_shl(vs_word(neg), 5);
    case HD_Q8_0: return BYTE_SHIFT ? vs_shl(vs_word(neg), BYTE_SHIFT) : vs_word(0);
    case HD_MXFP4: return NIBBLE_SHIFT ? vs_shl(vs_word(neg), NIBBLE_SHIFT) : vs_word(0);
    default: return vs_word(0);
    }
}

/* acc and the products of a block with x, whose sums are neg and, of the first half, neg0, negated. */
INLINE V int_products(enum hd_dtype t, const struct block *k, const int8_t *x, int32_t neg, int32_t neg0, float d, V acc)
{
    if (t == HD_Q6_K) {
        acc = v_fma(v_of_int(dot4_six(k->w, x, offset(t, neg0))), v_mul(k->s, v_set1(d)), acc);
        return v_fma(v_of_int(dot4_six(k->w + 4, x + 16, offset(t, neg - neg0))), v_mul(k->s2, v_set1(d)), acc);
    }
    return v_fma(v_of_int(t == HD_Q8_0 ? dot8_bytes(k->w, x, offset(t, neg)) : dot8(k->w, x, offset(t, neg))), v_mul(k->s, v_set1(d)), acc);
}

/* acc and the product of block b with a row of n activations. */
INLINE V int_block(enum hd_dtype t, const struct block *k, const struct hd_q8 *row, int64_t n, int64_t b, V acc)
{
    const struct hd_q8_half *half = hd_q8_half(row, n) + b;
    const struct hd_q8 *q = row + b;

    acc = int_products(t, k, q->q, q->neg, t == HD_Q6_K ? half->neg : 0, q->d, acc);
    if (hd_panel_has_min(t))
        acc = v_fma(k->m, v_set1(q->sum), acc);
    if (__builtin_expect(q->has_fine, 0))
        acc = int_products(t, k, hd_q8_fine(row, n) + b * 32, q->fine_neg, t == HD_Q6_K ? half->fine_neg : 0, q->d * HD_Q8_FINE, acc);
    return acc;
}

/* What one of P streams needs soon after block b of its panel: codes, and scales from behind them; after a panel's end those of the panel that
 * it goes on with. */
INLINE void fetch_stream(enum hd_dtype t, int P, int64_t nb, const struct hd_panels *w, const uint8_t *panel, int64_t b)
{
    int64_t block = hd_panel_block_bytes(t), codes = nb * block, all = codes + (w->bytes - codes) / nb * nb;
    int64_t at = b * block + (t == HD_Q8_0 && nb > 32 ? BYTES_AHEAD : CODES_AHEAD), rest = codes + (w->bytes - codes) / nb * b + REST_AHEAD;

    at += at < codes ? 0 : P * w->bytes - codes;
    for (int64_t i = 0; i < block; i += 64)
        prefetch_far(panel + at + i);
    prefetch_far(panel + (rest < all ? rest : rest + P * w->bytes - all + codes));
}

/* One token, P panels side by side. */
INLINE void int_vec(enum hd_dtype t, int P, int64_t nb, const struct hd_panels *w, const uint8_t *panel, int half, int64_t n_row, const struct hd_q8 *x, float *out)
{
    V acc[P_MAX];

    for (int p = 0; p < P; p++)
        acc[p] = v_zero();
    for (int64_t b = 0; b < nb; b++)
        for (int p = 0; p < P; p++) {
            const uint8_t *base = panel + p * w->bytes;
            struct block c;

            if (half == 0)
                fetch_stream(t, P, nb, w, base, b);
            load_block(t, w, base, half, b, &c);
            acc[p] = int_block(t, &c, x, w->n, b, acc[p]);
        }
    for (int p = 0; p < P; p++)
        put(out + p * HD_PANEL_ROWS, t == HD_MXFP4 ? v_mul(acc[p], v_set1(hd_panel_factor(w))) : acc[p], half, n_row - p * HD_PANEL_ROWS);
}

/* The same for rows r .. as long as there are P panels of them; where they end. */
INLINE int64_t int_vecs(enum hd_dtype t, int P, const struct hd_panels *w, int64_t row0, int64_t r, int64_t n_row, const char *x, float *out)
{
    for (; n_row - r > (P - 1) * HD_PANEL_ROWS; r += P * HD_PANEL_ROWS)
        for (int half = 0; half < HALVES; half++)
            int_vec(t, P, w->n / 32, w, w->data + (row0 + r) / HD_PANEL_ROWS * w->bytes, half, n_row - r, (const struct hd_q8 *)x, out + r);
    return r;
}

/* Activations of several tokens in the order in which a tile meets them: a block of each token, then the next blocks; fine parts likewise, only
 * those that there are, since which ones cannot be guessed and a wrong guess costs more than a block. fine_neg is the first half's neg here, of
 * a fine part has_fine is its token. */
struct int_work {
    struct hd_q8 x[IN_WORK], fine[IN_WORK];
    int32_t end[IN_WORK];             /* of a block's fine parts */
    _Alignas(64) float sum[I_PANELS / P_TILE][TOK_INT][P_TILE][HD_PANEL_ROWS];        /* panels that are walked together lie beside each other */
};

/* Blocks b0 .. b0 + nb of T rows of n activations. Rows are read one after the other: there are more of them than memory streams well. */
INLINE void int_gather(enum hd_dtype t, int64_t n, const char *x, int64_t x_bytes, int T, int64_t b0, int64_t nb, struct int_work *z)
{
    struct hd_q8 *f = z->fine;

    for (int k = 0; k < T; k++) {
        const struct hd_q8 *row = (const struct hd_q8 *)(x + k * x_bytes);
        struct hd_q8 *to = z->x + k;

        for (int64_t b = b0; b < b0 + nb; b++, to += T) {
            *to = row[b];
            if (t == HD_Q6_K)
                to->fine_neg = hd_q8_half(row, n)[b].neg;
        }
    }
    for (int64_t b = 0; b < nb; b++) {
        uint64_t fine = 0;            /* bit T - 1 - k: token k has one */

        for (int k = 0; k < T; k++)
            fine = 2 * fine + z->x[b * T + k].has_fine;
        for (; fine; f++) {
            int k = T - 64 + __builtin_clzll(fine);
            const struct hd_q8 *row = (const struct hd_q8 *)(x + k * x_bytes), *q = row + b0 + b;

            *f = (struct hd_q8){.d = q->d * HD_Q8_FINE, .neg = q->fine_neg, .has_fine = (uint16_t)k};
            if (t == HD_Q6_K)
                f->fine_neg = hd_q8_half(row, n)[b0 + b].fine_neg;
            memcpy(f->q, hd_q8_fine(row, n) + (b0 + b) * 32, sizeof f->q);
            fine &= ~((uint64_t)1 << (T - 1 - k));
        }
        z->end[b] = (int32_t)(f - z->fine);
    }
}

INLINE void fetch_ahead(const uint8_t *p, int64_t step)
{
    for (int64_t i = 0; i < step; i += 64)
        prefetch_far(p + AHEAD + i);
}

/* What was gathered of blocks b0 .. for T tokens, times P panels side by side, which share what is loaded of the tokens. */
INLINE void int_tile(enum hd_dtype t, int P, int T, int64_t b0, int64_t nb, const struct hd_panels *w, const uint8_t *panel, int half, const struct int_work *z,
                     float (*sum)[P_TILE][HD_PANEL_ROWS])
{
    int64_t step = w->bytes / (w->n / 32);
    const struct hd_q8 *q = z->x, *f = z->fine;

    for (int64_t b = 0; b < nb; b++) {
        struct block c[P_TILE];

        for (int p = 0; p < P; p++) {
            if (T <= 2 && half == 0)
                fetch_ahead(panel + p * w->bytes + (b0 + b) * step, hd_panel_block_bytes(t) + 32);
            load_block(t, w, panel + p * w->bytes, half, b0 + b, &c[p]);
        }
        for (int k = 0; k < T; k++, q++)
            for (int p = 0; p < P; p++) {
                V acc = int_products(t, &c[p], q->q, q->neg, q->fine_neg, q->d, v_load(sum[k][p] + half * L));

                v_store(sum[k][p] + half * L, hd_panel_has_min(t) ? v_fma(c[p].m, v_set1(q->sum), acc) : acc);
            }
        for (; f < z->fine + z->end[b]; f++)
            for (int p = 0; p < P; p++) {
                float *s = sum[f->has_fine][p] + half * L;

                v_store(s, int_products(t, &c[p], f->q, f->neg, f->fine_neg, f->d, v_load(s)));
            }
    }
}

/* T tokens, at most TOK_INT, and up to I_PANELS panels; of long rows a piece at a time. */
INLINE void int_many(enum hd_dtype t, const struct hd_panels *w, const uint8_t *panel, int64_t n_row, const char *x, int64_t x_bytes, int T, float *out, int64_t ld_out)
{
    int64_t nb = w->n / 32, piece = IN_WORK / T;
    int P = n_row >= I_PANELS * HD_PANEL_ROWS ? I_PANELS : (int)((n_row + HD_PANEL_ROWS - 1) / HD_PANEL_ROWS);
    struct int_work z;

    for (int p = 0; p < P; p += P_TILE)
        memset(z.sum[p / P_TILE], 0, (size_t)T * sizeof z.sum[0][0]);
    for (int64_t b = 0; b < nb; b += piece) {
        int64_t n = nb - b < piece ? nb - b : piece;

        int_gather(t, w->n, x, x_bytes, T, b, n, &z);
        for (int p = 0; p < P; p += P_TILE)
            for (int half = 0; half < HALVES; half++)
                if (P - p >= P_TILE)
                    int_tile(t, P_TILE, T, b, n, w, panel + p * w->bytes, half, &z, z.sum[p / P_TILE]);
                else
                    int_tile(t, 1, T, b, n, w, panel + p * w->bytes, half, &z, z.sum[p / P_TILE]);
    }
    for (int k = 0; k < T; k++)
        for (int p = 0; p < P; p++)
            for (int half = 0; half < HALVES; half++) {
                V v = v_load(z.sum[p / P_TILE][k][p % P_TILE] + half * L);

                put(out + k * ld_out + p * HD_PANEL_ROWS, t == HD_MXFP4 ? v_mul(v, v_set1(hd_panel_factor(w))) : v, half, n_row - p * HD_PANEL_ROWS);
            }
}

/* What is less than P_INT panels, a function of its own: inside the other one it made that slower. */
typedef void (*int_rest_fn)(const struct hd_panels *w, int64_t row0, int64_t r, int64_t n_row, const char *x, float *out);

INLINE void int_panels(enum hd_dtype t, const struct hd_panels *w, int64_t row0, int64_t n_row, const char *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out, int_rest_fn rest)
{
    int64_t r = 0;

    if (n_tok == 1) {
        for (; r + P_INT * HD_PANEL_ROWS <= n_row; r += P_INT * HD_PANEL_ROWS)
            for (int half = 0; half < HALVES; half++)
                int_vec(t, P_INT, w->n / 32, w, w->data + (row0 + r) / HD_PANEL_ROWS * w->bytes, half, n_row - r, (const struct hd_q8 *)x, out + r);
        if (r < n_row)
            rest(w, row0, r, n_row, x, out);
        return;
    }
    for (; r < n_row; r += I_PANELS * HD_PANEL_ROWS)
        for (int64_t k = 0; k < n_tok; k += TOK_INT)
            int_many(t, w, w->data + (row0 + r) / HD_PANEL_ROWS * w->bytes, n_row - r, x + k * x_bytes, x_bytes, n_tok - k < TOK_INT ? (int)(n_tok - k) : TOK_INT,
                     out + k * ld_out + r, ld_out);
}

#define DEFINE_INT(t)                                                                                                                                  \
    static __attribute__((noinline)) void rest_##t(const struct hd_panels *w, int64_t row0, int64_t r, int64_t n_row, const char *x, float *out)       \
    {                                                                                                                                                  \
        r = int_vecs(HD_##t, 2, w, row0, r, n_row, x, out);                                                                                            \
        int_vecs(HD_##t, 1, w, row0, r, n_row, x, out);                                                                                                \
    }                                                                                                                                                  \
    static void panel_##t(const struct hd_panels *w, int64_t row0, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out) \
    {                                                                                                                                                  \
        int_panels(HD_##t, w, row0, n_row, x, x_bytes, n_tok, out, ld_out, rest_##t);                                                                            \
    }
DEFINE_INT(Q4_0)
DEFINE_INT(Q4_1)
DEFINE_INT(Q5_0)
DEFINE_INT(Q5_1)
DEFINE_INT(Q8_0)
DEFINE_INT(Q4_K)
DEFINE_INT(Q5_K)
DEFINE_INT(Q6_K)
DEFINE_INT(MXFP4)

/* ---- fp8 and bf16 times bf16 activations ---- */

#define SLAB 64                       /* columns that are decoded at a time */
#define TOK 48                        /* tokens that share a decoded slab */
#define F_PANELS 16                   /* panels that share a slab of activations */

struct work {
    _Alignas(64) float w[2][SLAB][HD_PANEL_ROWS];             /* decoded, of a pair of panels */
    float x[TOK][SLAB + 16];                                  /* activations beside each other: rows of 2^n bytes would evict one another */
    float sum[F_PANELS][TOK][HD_PANEL_ROWS], acc[F_PANELS][TOK][HD_PANEL_ROWS];
};

/* Four columns of a panel's half. */
INLINE void float_cols(enum hd_panel_kind kind, const uint8_t *code, int half, V v[4])
{
    if (kind == HD_PANEL_FP8)
        v_fp8(code + half * 4 * L, v);
    else
        v_bf16(code + half * 4 * L, v);
}

#define RAISE 0x1p80f
#define RAISE_MAX 65536               /* values of few tokens; more go the way of many */

/* n bf16 as f32, times by. */
INLINE void widen(int64_t n, const uint16_t *x, float by, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = hd_bf16_f32(x[i]) * by;
}

/* The scale of columns from c on. */
INLINE V float_scale(enum hd_panel_kind kind, const struct hd_panels *w, const uint8_t *panel, int64_t c, int half)
{
    const float *scale = (const float *)(panel + w->scale_at);

    if (kind == HD_PANEL_BF16)
        return v_set1(1);
    return w->scale_rows ? v_load(scale + c / w->scale_cols * 16 + half * L) : v_set1(scale[c / w->scale_cols]);
}

/* T tokens, P panels side by side, P * T at most P_MAX: as many sums that do not wait for each other. x rows lie ld floats apart, raised where
 * weights are fp8. Of a pair of columns the second goes first (panel_scalar.c). */
INLINE void float_vec(enum hd_panel_kind kind, int P, int T, const struct hd_panels *w, const uint8_t *panel, int half, int64_t n_row, const float *x, int64_t ld, float *out,
                      int64_t ld_out)
{
    int col_bytes = kind == HD_PANEL_FP8 ? 16 : 32;
    V acc[P_MAX];

    for (int k = 0; k < P * T; k++)
        acc[k] = v_zero();
    for (int64_t c = 0; c < w->n; c += w->scale_cols) {
        int64_t end = c + w->scale_cols < w->n ? c + w->scale_cols : w->n;
        V sum[P_MAX];

        for (int k = 0; k < P * T; k++)
            sum[k] = v_zero();
        for (int64_t i = c; i < end; i += 4)
            for (int p = 0; p < P; p++) {
                const uint8_t *code = panel + p * w->bytes + i * col_bytes;
                V v[4];

                if (half == 0)
                    prefetch_near(code + AHEAD);
                float_cols(kind, code, half, v);
                for (int j = 0; j < 4; j++)
                    for (int t = 0; t < T; t++)
                        sum[p * T + t] = v_fma(v[j ^ 1], v_set1(x[t * ld + i + (j ^ 1)]), sum[p * T + t]);
            }
        for (int p = 0; p < P; p++) {
            V s = float_scale(kind, w, panel + p * w->bytes, c, half);

            for (int k = p * T; k < (p + 1) * T; k++)
                acc[k] = v_fma(kind == HD_PANEL_FP8 ? v_mul(sum[k], v_set1(0x1p120f / RAISE)) : sum[k], s, acc[k]);
        }
    }
    for (int p = 0; p < P; p++)
        for (int t = 0; t < T; t++)
            put(out + t * ld_out + p * HD_PANEL_ROWS, acc[p * T + t], half, n_row - p * HD_PANEL_ROWS);
}

/* Columns c .. c + n of a panel. */
INLINE void decode_slab(enum hd_panel_kind kind, const uint8_t *panel, int64_t c, int64_t n, float (*out)[HD_PANEL_ROWS])
{
    int col_bytes = kind == HD_PANEL_FP8 ? 16 : 32;

    for (int64_t i = 0; i < n; i += 4)
        for (int half = 0; half < HALVES; half++) {
            V v[4];

            float_cols(kind, panel + (c + i) * col_bytes, half, v);
            for (int j = 0; j < 4; j++)
                v_store(out[i + j] + half * L, kind == HD_PANEL_FP8 ? v_mul(v[j], v_set1(0x1p120f)) : v[j]);
        }
}

/* The sums of T tokens from k on and the pair of panels at p0 over n more columns. */
INLINE void float_tile(int T, int64_t n, struct work *z, int p0, int64_t k)
{
    for (int half = 0; half < HALVES; half++) {
        V s[F_TOK][2];

        for (int t = 0; t < T; t++)
            for (int p = 0; p < 2; p++)
                s[t][p] = v_load(z->sum[p0 + p][k + t] + half * L);
        for (int64_t i = 0; i < n; i++) {
            V w0 = v_load(z->w[0][i ^ 1] + half * L), w1 = v_load(z->w[1][i ^ 1] + half * L);

            for (int t = 0; t < T; t++) {
                V x = v_set1(z->x[k + t][i ^ 1]);

                s[t][0] = v_fma(w0, x, s[t][0]);
                s[t][1] = v_fma(w1, x, s[t][1]);
            }
        }
        for (int t = 0; t < T; t++)
            for (int p = 0; p < 2; p++)
                v_store(z->sum[p0 + p][k + t] + half * L, s[t][p]);
    }
}

/* acc += sum times the scale of columns from c on; sum = 0. */
INLINE void float_scaled(enum hd_panel_kind kind, const struct hd_panels *w, const uint8_t *panel, int p, int64_t c, int64_t n_tok, struct work *z)
{
    for (int half = 0; half < HALVES; half++) {
        V s = float_scale(kind, w, panel, c, half);

        for (int64_t k = 0; k < n_tok; k++) {
            float *sum = z->sum[p][k] + half * L, *acc = z->acc[p][k] + half * L;

            v_store(acc, v_fma(v_load(sum), s, v_load(acc)));
            v_store(sum, v_zero());
        }
    }
}

/* Any number of tokens up to TOK, panels up to F_PANELS. */
INLINE void float_many(enum hd_panel_kind kind, const struct hd_panels *w, const uint8_t *panel, int64_t n_row, const char *x, int64_t x_bytes, int64_t n_tok, float *out,
                       int64_t ld_out)
{
    int P = n_row >= F_PANELS * HD_PANEL_ROWS ? F_PANELS : (int)((n_row + HD_PANEL_ROWS - 1) / HD_PANEL_ROWS);
    struct work z;

    for (int p = 0; p < P + P % 2; p++) {
        memset(z.sum[p], 0, (size_t)n_tok * sizeof z.sum[p][0]);
        memset(z.acc[p], 0, (size_t)n_tok * sizeof z.acc[p][0]);
    }
    memset(z.w, 0, sizeof z.w);               /* the other one of a pair may not be there */
    for (int64_t c = 0, n; c < w->n; c += n) {
        int64_t end = (c / w->scale_cols + 1) * w->scale_cols;

        end = end < w->n ? end : w->n;
        n = end - c < SLAB ? end - c : SLAB;
        for (int64_t k = 0; k < n_tok; k++)
            widen(n, (const uint16_t *)(x + k * x_bytes) + c, 1, z.x[k]);
        for (int p = 0; p < P; p += 2) {
            for (int i = 0; i < 2 && p + i < P; i++)
                decode_slab(kind, panel + (p + i) * w->bytes, c, n, z.w[i]);
            for (int64_t k = 0; k < n_tok;) {
                int64_t left = n_tok - k;

                if (left >= F_TOK) {
                    float_tile(F_TOK, n, &z, p, k);
                    k += F_TOK;
                } else if (left >= 4) {
                    float_tile(4, n, &z, p, k);
                    k += 4;
                } else {
                    float_tile(1, n, &z, p, k);
                    k++;
                }
            }
        }
        for (int p = 0; p < P && c + n == end; p++)
            float_scaled(kind, w, panel + p * w->bytes, p, c, n_tok, &z);
    }
    for (int64_t k = 0; k < n_tok; k++)
        for (int p = 0; p < P; p++)
            for (int half = 0; half < HALVES; half++)
                put(out + k * ld_out + p * HD_PANEL_ROWS, v_load(z.acc[p][k] + half * L), half, n_row - p * HD_PANEL_ROWS);
}

/* A few tokens: weights go through registers once. */
INLINE void float_few(enum hd_panel_kind kind, int T, const struct hd_panels *w, int64_t row0, int64_t n_row, const char *x, int64_t x_bytes, float *out, int64_t ld_out)
{
    const uint8_t *panel = w->data + row0 / HD_PANEL_ROWS * w->bytes;
    int P = P_MAX / T;
    float xf[RAISE_MAX];
    int64_t r = 0, ld = w->n;

    for (int t = 0; t < T; t++)
        widen(ld, (const uint16_t *)(x + t * x_bytes), kind == HD_PANEL_FP8 ? RAISE : 1, xf + t * ld);
    for (; r + P * HD_PANEL_ROWS <= n_row; r += P * HD_PANEL_ROWS, panel += P * w->bytes)
        for (int half = 0; half < HALVES; half++)
            float_vec(kind, P, T, w, panel, half, n_row - r, xf, ld, out + r, ld_out);
    for (; r < n_row; r += HD_PANEL_ROWS, panel += w->bytes)
        for (int half = 0; half < HALVES; half++)
            float_vec(kind, 1, T, w, panel, half, n_row - r, xf, ld, out + r, ld_out);
}

INLINE void float_panels(enum hd_panel_kind kind, const struct hd_panels *w, int64_t row0, int64_t n_row, const char *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    const uint8_t *panel = w->data + row0 / HD_PANEL_ROWS * w->bytes;

    if (n_tok <= P_MAX && n_tok * w->n <= RAISE_MAX)
        switch (n_tok) {
        case 1: float_few(kind, 1, w, row0, n_row, x, x_bytes, out, ld_out); return;
        case 2: float_few(kind, 2, w, row0, n_row, x, x_bytes, out, ld_out); return;
        case 3: float_few(kind, 3, w, row0, n_row, x, x_bytes, out, ld_out); return;
        case 4: float_few(kind, 4, w, row0, n_row, x, x_bytes, out, ld_out); return;
#if P_MAX > 4
        case 6: float_few(kind, 6, w, row0, n_row, x, x_bytes, out, ld_out); return;
        case 8: float_few(kind, 8, w, row0, n_row, x, x_bytes, out, ld_out); return;
#endif
        }
    for (int64_t r = 0; r < n_row; r += F_PANELS * HD_PANEL_ROWS, panel += F_PANELS * w->bytes)
        for (int64_t k = 0; k < n_tok; k += TOK)
            float_many(kind, w, panel, n_row - r, x + k * x_bytes, x_bytes, n_tok - k < TOK ? n_tok - k : TOK, out + k * ld_out + r, ld_out);
}

#define DEFINE_FLOAT(t, kind)                                                                                                                          \
    static void panel_##t(const struct hd_panels *w, int64_t row0, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out) \
    {                                                                                                                                                  \
        float_panels(kind, w, row0, n_row, x, x_bytes, n_tok, out, ld_out);                                                                            \
    }
DEFINE_FLOAT(F8_E4M3, HD_PANEL_FP8)
DEFINE_FLOAT(BF16, HD_PANEL_BF16)

void PANEL_FILL(struct hd_kernels *k)
{
    k->matmul_panel[HD_Q4_0] = panel_Q4_0;
    k->matmul_panel[HD_Q4_1] = panel_Q4_1;
    k->matmul_panel[HD_Q5_0] = panel_Q5_0;
    k->matmul_panel[HD_Q5_1] = panel_Q5_1;
    k->matmul_panel[HD_Q8_0] = panel_Q8_0;
    k->matmul_panel[HD_Q4_K] = panel_Q4_K;
    k->matmul_panel[HD_Q5_K] = panel_Q5_K;
    k->matmul_panel[HD_Q6_K] = panel_Q6_K;
    k->matmul_panel[HD_MXFP4] = k->matmul_panel[HD_F4_E2M1] = panel_MXFP4;
    k->matmul_panel[HD_F8_E4M3] = panel_F8_E4M3;
    k->matmul_panel[HD_BF16] = panel_BF16;
}
