/* panel_amx.c: panels of integer codes and sixteen tokens at a time in AMX's tiles: a block of 32 columns is one product of sixteen tokens by sixteen rows,
 * whose integer sums are exact, so scales are met and blocks added as everywhere (panel_scalar.c), to the bit.
 *
 * A block's codes are in the order that TDPBSSD wants of its second operand as they lie: four columns of sixteen rows after the other. They
 * are made signed bytes on the way. Fewer than sixteen tokens, and what is left of more, go the way of AVX-512 VNNI.
 *
 * fp8 and bf16 stay with vdpbf16ps: TDPBF16PS adds the even and the odd columns up apart and joins them at the end, which rounds otherwise.
 * No machine with AMX was at hand: checkamx holds this file to the scalar bits with tiles emulated (amx.h); nothing is known of its speed.
 */
#pragma GCC optimize("O3")
#include "kernels/panel/panel_avx512.h"

#include "kernels/amx.h"

#define w_byte(v) (v)

#include "kernels/panel/panel_block.h"

#define TOKENS 16

/* Two of each, used in turns; products of half a block for q6_k, which has a scale for every 16 columns. */
#define SUM0 0
#define SUM1 1
#define X0 2
#define X1 3
#define W0 4
#define W1 5
#define X_HALF 6
#define W_HALF 7

static const struct hd_tile_config config = {.palette = 1, .row_bytes = {64, 64, 32, 32, 64, 64, 16, 64}, .rows = {16, 16, 16, 16, 8, 8, 16, 4}};

/* A kernel's results for few tokens. */
static hd_panel_fn few[HD_N_DTYPE];

struct work {
    _Alignas(64) uint8_t code[2][8][64];
    int32_t sum[2][TOKENS][HD_PANEL_ROWS];
};

/* What unsigned codes have too much. */
INLINE int offset_of(enum hd_dtype t)
{
    return t == HD_Q4_0 ? 8 : t == HD_Q5_0 || t == HD_MXFP4 ? 16 : t == HD_Q6_K ? 32 : 0;
}

/* The sums of a block, or of half of one; x: a token's 32 or 16 activations, others x_bytes further. */
INLINE void products(const void *code, const int8_t *x, int64_t x_bytes, bool half, bool odd, int32_t (*sum)[HD_PANEL_ROWS])
{
    hd_tile_fence();
    if (half) {
        hd_tile_zero(SUM0);
        hd_tile_load(X_HALF, x, x_bytes);
        hd_tile_load(W_HALF, code, 64);
        hd_tile_dot(SUM0, X_HALF, W_HALF);
        hd_tile_store(SUM0, sum, 64);
    } else if (odd) {
        hd_tile_zero(SUM1);
        hd_tile_load(X1, x, x_bytes);
        hd_tile_load(W1, code, 64);
        hd_tile_dot(SUM1, X1, W1);
        hd_tile_store(SUM1, sum, 64);
    } else {
        hd_tile_zero(SUM0);
        hd_tile_load(X0, x, x_bytes);
        hd_tile_load(W0, code, 64);
        hd_tile_dot(SUM0, X0, W0);
        hd_tile_store(SUM0, sum, 64);
    }
    hd_tile_fence();
}

INLINE const struct hd_q8 *row_of(const char *x, int64_t x_bytes, int t)
{
    return (const struct hd_q8 *)(x + t * x_bytes);
}

/* Fine: the sums are those of fine parts, which count where a block has one. */
INLINE void add_sums(const int32_t (*sum)[HD_PANEL_ROWS], V s, const char *x, int64_t x_bytes, int64_t b, bool fine, V *acc)
{
    for (int t = 0; t < TOKENS; t++) {
        const struct hd_q8 *q = row_of(x, x_bytes, t) + b;

        if (!fine || q->has_fine)
            acc[t] = v_fma(v_of_int(vi_load(sum[t])), v_mul(s, v_set1(fine ? q->d * HD_Q8_FINE : q->d)), acc[t]);
    }
}

/* Block b, its activations or their fine parts, from column 0 on at a. */
INLINE void add_block(enum hd_dtype t, const struct block *k, const void *code, const int8_t *a, const char *x, int64_t x_bytes, int64_t b, bool fine, struct work *z, V *acc)
{
    int32_t(*sum)[HD_PANEL_ROWS] = z->sum[b & 1];

    if (t != HD_Q6_K) {
        if (b & 1)
            products(code, a, x_bytes, false, true, sum);
        else
            products(code, a, x_bytes, false, false, sum);
        add_sums((const int32_t(*)[HD_PANEL_ROWS])sum, k->s, x, x_bytes, b, fine, acc);
        return;
    }
    products(code, a, x_bytes, true, false, z->sum[0]);
    products((const uint8_t *)code + 4 * 64, a + 16, x_bytes, true, false, z->sum[1]);
    add_sums((const int32_t(*)[HD_PANEL_ROWS])z->sum[0], k->s, x, x_bytes, b, fine, acc);
    add_sums((const int32_t(*)[HD_PANEL_ROWS])z->sum[1], k->s2, x, x_bytes, b, fine, acc);
}

INLINE bool any_fine(const char *x, int64_t x_bytes, int64_t b)
{
    int any = 0;

    for (int t = 0; t < TOKENS; t++)
        any |= row_of(x, x_bytes, t)[b].has_fine;
    return any;
}

/* A panel and sixteen tokens. */
INLINE void tile(enum hd_dtype t, const struct hd_panels *w, const uint8_t *panel, int64_t n_row, const char *x, int64_t x_bytes, float *out, int64_t ld_out)
{
    const __m512i less = _mm512_set1_epi8((char)offset_of(t));
    struct work z;
    V acc[TOKENS];

    for (int k = 0; k < TOKENS; k++)
        acc[k] = v_zero();
    for (int64_t b = 0; b < w->n / 32; b++) {
        const void *code = t == HD_Q8_0 ? (const void *)(panel + b * hd_panel_block_bytes(t)) : z.code[b & 1];
        struct block k;

        load_block(t, w, panel, 0, b, &k);
        for (int g = 0; g < 8 && t != HD_Q8_0; g++)
            _mm512_store_si512(z.code[b & 1][g], offset_of(t) ? _mm512_sub_epi8(k.w[g], less) : k.w[g]);
        add_block(t, &k, code, row_of(x, x_bytes, 0)[b].q, x, x_bytes, b, false, &z, acc);
        for (int i = 0; i < TOKENS && hd_panel_has_min(t); i++)
            acc[i] = v_fma(k.m, v_set1(row_of(x, x_bytes, i)[b].sum), acc[i]);
        if (__builtin_expect(any_fine(x, x_bytes, b), 0))
            add_block(t, &k, code, hd_q8_fine(row_of(x, x_bytes, 0), w->n) + b * 32, x, x_bytes, b, true, &z, acc);
    }
    for (int k = 0; k < TOKENS; k++)
        put(out + k * ld_out, t == HD_MXFP4 ? v_mul(acc[k], v_set1(hd_panel_factor(w))) : acc[k], 0, n_row);
}

INLINE void tiles(enum hd_dtype t, const struct hd_panels *w, int64_t row0, int64_t n_row, const char *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    int64_t whole = n_tok / TOKENS * TOKENS;

    if (whole)
        hd_tile_config(&config);
    for (int64_t r = 0; r < n_row && whole; r += HD_PANEL_ROWS)
        for (int64_t k = 0; k < whole; k += TOKENS)
            tile(t, w, w->data + (row0 + r) / HD_PANEL_ROWS * w->bytes, n_row - r, x + k * x_bytes, x_bytes, out + k * ld_out + r, ld_out);
    if (whole)
        hd_tile_release();            /* what a thread need not save when it is taken off its core */
    if (whole < n_tok)
        few[w->type](w, row0, n_row, x + whole * x_bytes, x_bytes, n_tok - whole, out + whole * ld_out, ld_out);
}

#define FORMATS(M) M(Q4_0) M(Q4_1) M(Q5_0) M(Q5_1) M(Q8_0) M(Q4_K) M(Q5_K) M(Q6_K) M(MXFP4)

#define DEFINE(t)                                                                                                                                      \
    static void panel_##t(const struct hd_panels *w, int64_t row0, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out) \
    {                                                                                                                                                  \
        tiles(HD_##t, w, row0, n_row, x, x_bytes, n_tok, out, ld_out);                                                                                 \
    }
FORMATS(DEFINE)

void hd_fill_panel_amx(struct hd_kernels *k)
{
    memcpy(few, k->matmul_panel, sizeof few);
#define FILL(t) k->matmul_panel[HD_##t] = panel_##t;
    FORMATS(FILL)
    k->matmul_panel[HD_F4_E2M1] = panel_MXFP4;
}
