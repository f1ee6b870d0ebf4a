/* panel_avx512bf16.c: panels of fp8 and bf16 on vdpbf16ps, two columns of sixteen rows an instruction.
 *
 * fp8 becomes bf16 by two byte look-ups (vpermi2b, which ignores the sign's bit), exact for subnormal codes too. With many tokens a slab
 * of columns is decoded for a pair of panels and met by twelve tokens at a time; sixteen panels share the slab's activations.
 */
#pragma GCC optimize("O3")
#include <string.h>

#include "kernels/table.h"
#include "kernels/x86.h"
#include "tensor/blocks.h"

#define INLINE static inline __attribute__((always_inline))
#define AHEAD 2048                    /* bytes between a load and its prefetch */
#define SLAB 128                      /* columns that are decoded at a time */
#define PAIRS (SLAB / 2)
#define TOK 144                       /* tokens that share a decoded slab */
#define TILE 12                       /* tokens that a tile keeps sums of, times two panels */
#define GROUP 16                      /* panels that share a slab of activations */
#define FEW 8                         /* sums of few tokens */

static uint8_t e4m3_low[128], e4m3_high[128];

struct codes {
    __m512i low[2], high[2];
};

INLINE struct codes load_codes(void)
{
    return (struct codes){{_mm512_loadu_si512(e4m3_low), _mm512_loadu_si512(e4m3_low + 64)}, {_mm512_loadu_si512(e4m3_high), _mm512_loadu_si512(e4m3_high + 64)}};
}

/* Four columns of a panel as two vectors of pairs. */
INLINE void load_pairs(enum hd_panel_kind kind, const struct codes *t, const uint8_t *p, __m512i out[2])
{
    __m512i v = _mm512_loadu_si512(p), low, high;

    if (kind == HD_PANEL_BF16) {
        out[0] = v;
        out[1] = _mm512_loadu_si512(p + 64);
        return;
    }
    low = _mm512_permutex2var_epi8(t->low[0], v, t->low[1]);
    high = _mm512_permutex2var_epi8(t->high[0], v, t->high[1]);
    high = _mm512_ternarylogic_epi32(high, v, _mm512_set1_epi8((char)0x80), 0xF8);        /* high | (v & 0x80) */
    out[0] = _mm512_ternarylogic_epi32(_mm512_slli_epi16(high, 8), low, _mm512_set1_epi16(0xFF), 0xF8);
    out[1] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(low, 8), high, _mm512_set1_epi16((short)0xFF00), 0xF8);
}

INLINE __m512i pair_at(const void *x)
{
    int32_t word;

    memcpy(&word, x, 4);
    return _mm512_set1_epi32(word);
}

/* The scale of columns from c on. */
INLINE __m512 scale_at(enum hd_panel_kind kind, const struct hd_panels *w, const uint8_t *panel, int64_t c)
{
    const float *scale = (const float *)(panel + w->scale_at);

    if (kind == HD_PANEL_BF16)
        return _mm512_set1_ps(1);
    return w->scale_rows ? _mm512_loadu_ps(scale + c / w->scale_cols * 16) : _mm512_set1_ps(scale[c / w->scale_cols]);
}

/* Where a token's result goes: n_row of the panel's rows. */
static inline void put(float *out, __m512 v, int64_t n_row)
{
    float lane[HD_PANEL_ROWS];

    if (n_row >= HD_PANEL_ROWS) {
        _mm512_storeu_ps(out, v);
        return;
    }
    _mm512_storeu_ps(lane, v);
    memcpy(out, lane, (size_t)n_row * sizeof *out);
}

/* ---- few tokens: weights go through registers once ---- */

/* What one of P streams needs soon, n bytes at p, which lie at bytes behind its panel's begin: behind the panel's end that is the panel that the
 * stream goes on with. */
INLINE void fetch_ahead(const struct hd_panels *w, const uint8_t *p, int64_t at, int64_t n, int P)
{
    p += AHEAD + (at + AHEAD < w->scale_at ? 0 : P * w->bytes - w->scale_at);
    for (int64_t i = 0; i < n; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T1);
}

/* P panels side by side, T tokens: P T sums that do not wait for each other. */
INLINE void few(enum hd_panel_kind kind, int P, int T, const struct hd_panels *w, const uint8_t *panel, int64_t n_row, const char *x, int64_t x_bytes, float *out, int64_t ld_out)
{
    int col_bytes = kind == HD_PANEL_FP8 ? 16 : 32;
    const struct codes table = load_codes();
    __m512 acc[FEW];

    for (int k = 0; k < P * T; k++)
        acc[k] = _mm512_setzero_ps();
    for (int64_t c = 0; c < w->n; c += w->scale_cols) {
        int64_t end = c + w->scale_cols < w->n ? c + w->scale_cols : w->n;
        __m512 sum[FEW];

        for (int k = 0; k < P * T; k++)
            sum[k] = _mm512_setzero_ps();
        for (int64_t i = c; i < end; i += 4)
            for (int p = 0; p < P; p++) {
                const uint8_t *code = panel + p * w->bytes + i * col_bytes;
                __m512i v[2];

                fetch_ahead(w, code, i * col_bytes, 4 * col_bytes, P);
                load_pairs(kind, &table, code, v);
                for (int j = 0; j < 2; j++)
                    for (int t = 0; t < T; t++)
                        sum[p * T + t] = hd_dpbf16(sum[p * T + t], v[j], pair_at(x + t * x_bytes + (i + 2 * j) * 2));
            }
        for (int p = 0; p < P; p++) {
            __m512 s = scale_at(kind, w, panel + p * w->bytes, c);

            if (kind == HD_PANEL_FP8)
                _mm_prefetch((const char *)panel + (P + p) * w->bytes + w->scale_at + c / w->scale_cols * (w->scale_rows ? 64 : 4), _MM_HINT_T1);
            for (int k = p * T; k < (p + 1) * T; k++)
                acc[k] = _mm512_fmadd_ps(sum[k], s, acc[k]);
        }
    }
    for (int p = 0; p < P; p++)
        for (int t = 0; t < T; t++)
            put(out + t * ld_out + p * HD_PANEL_ROWS, acc[p * T + t], n_row - p * HD_PANEL_ROWS);
}

INLINE void few_panels(enum hd_panel_kind kind, int T, const struct hd_panels *w, const uint8_t *panel, int64_t n_row, const char *x, int64_t x_bytes, float *out, int64_t ld_out)
{
    int P = FEW / T, half = kind == HD_PANEL_FP8 ? (P + 1) / 2 : P;       /* decoding one panel of fp8 alone waits for itself */
    int64_t r = 0;

    for (; r + P * HD_PANEL_ROWS <= n_row; r += P * HD_PANEL_ROWS, panel += P * w->bytes)
        few(kind, P, T, w, panel, n_row - r, x, x_bytes, out + r, ld_out);
    for (; r + half * HD_PANEL_ROWS <= n_row; r += half * HD_PANEL_ROWS, panel += half * w->bytes)
        few(kind, half, T, w, panel, n_row - r, x, x_bytes, out + r, ld_out);
    for (; r < n_row; r += HD_PANEL_ROWS, panel += w->bytes)
        few(kind, 1, T, w, panel, n_row - r, x, x_bytes, out + r, ld_out);
}

/* ---- many tokens ---- */

struct work {
    _Alignas(64) __m512i w[2][PAIRS];                         /* decoded, of a pair of panels */
    uint32_t x[TOK][PAIRS + 16];                              /* activations beside each other: rows of 2^n bytes would evict one another */
    _Alignas(64) float sum[GROUP][TOK][HD_PANEL_ROWS];        /* of a scale that several slabs share */
    _Alignas(64) float acc[GROUP][TOK][HD_PANEL_ROWS];
};

/* Columns c .. c + n, n at most SLAB: several scales whole, or a part of one's, its first or its last among them. */
struct slab {
    int64_t c, n, cols;               /* cols: that a scale of this slab is for */
    bool first, last;
};

static struct slab slab_at(const struct hd_panels *w, int64_t c)
{
    int64_t cols = w->scale_cols, end = (c / cols + 1) * cols, n = cols < SLAB ? SLAB / cols * cols : SLAB;

    if (cols <= SLAB) {
        n = n < w->n - c ? n : w->n - c;
        return (struct slab){c, n, cols, true, true};
    }
    end = end < w->n ? end : w->n;
    n = n < end - c ? n : end - c;
    return (struct slab){c, n, n, c % cols == 0, c + n == end};
}

/* T tokens from k on, the panels p0 and p0 + 1. */
INLINE void tile(enum hd_panel_kind kind, int T, const struct hd_panels *w, const uint8_t *const panel[2], const struct slab *b, struct work *z, int p0, int64_t k)
{
    for (int64_t c = 0; c < b->n; c += b->cols) {
        int64_t end = c + b->cols < b->n ? c + b->cols : b->n;
        __m512 s[TILE][2];

        for (int t = 0; t < T; t++)
            for (int p = 0; p < 2; p++)
                s[t][p] = b->first ? _mm512_setzero_ps() : _mm512_load_ps(z->sum[p0 + p][k + t]);
        for (int64_t i = c / 2; i < end / 2; i++) {
            __m512i w0 = z->w[0][i], w1 = z->w[1][i];

            for (int t = 0; t < T; t++) {
                __m512i x = pair_at(&z->x[k + t][i]);

                s[t][0] = hd_dpbf16(s[t][0], w0, x);
                s[t][1] = hd_dpbf16(s[t][1], w1, x);
            }
        }
        for (int p = 0; p < 2; p++) {
            __m512 scale = scale_at(kind, w, panel[p], b->c + c);

            for (int t = 0; t < T; t++) {
                float *acc = z->acc[p0 + p][k + t];

                if (b->last)
                    _mm512_store_ps(acc, _mm512_fmadd_ps(s[t][p], scale, _mm512_load_ps(acc)));
                else
                    _mm512_store_ps(z->sum[p0 + p][k + t], s[t][p]);
            }
        }
    }
}

/* The columns of two panels that come after those of p0 and p0 + 1: of the next panels, or the next slab's of the first ones. Only hints. */
INLINE void fetch_next(enum hd_panel_kind kind, const struct hd_panels *w, const uint8_t *panel, const struct slab *b, int p0, int n_panel)
{
    int64_t col_bytes = kind == HD_PANEL_FP8 ? 16 : 32, at = p0 + 2 < n_panel ? (p0 + 2) * w->bytes + b->c * col_bytes : (b->c + b->n) * col_bytes;

    for (int64_t i = 0; i < b->n * col_bytes; i += 64) {
        _mm_prefetch((const char *)panel + at + i, _MM_HINT_T1);
        _mm_prefetch((const char *)panel + at + w->bytes + i, _MM_HINT_T1);
    }
}

/* The slab's columns of panels p0 and p0 + 1 (the one before it where the last has no partner) times all tokens. */
INLINE void slab_pair(enum hd_panel_kind kind, const struct hd_panels *w, const uint8_t *panel, const struct slab *b, struct work *z, int p0, int n_panel, int64_t n_tok)
{
    const uint8_t *const at[2] = {panel + p0 * w->bytes, panel + (p0 + 1 < n_panel ? p0 + 1 : p0) * w->bytes};
    const struct codes table = load_codes();
    int64_t k = 0;

    fetch_next(kind, w, panel, b, p0, n_panel);
    for (int p = 0; p < 2; p++)
        for (int64_t i = 0; i < b->n; i += 4)
            load_pairs(kind, &table, at[p] + (b->c + i) * (kind == HD_PANEL_FP8 ? 16 : 32), &z->w[p][i / 2]);
    for (; k + TILE <= n_tok; k += TILE)
        tile(kind, TILE, w, at, b, z, p0, k);
    for (; k + 4 <= n_tok; k += 4)
        tile(kind, 4, w, at, b, z, p0, k);
    for (; k < n_tok; k++)
        tile(kind, 1, w, at, b, z, p0, k);
}

/* Up to TOK tokens, up to GROUP panels. */
INLINE void many(enum hd_panel_kind kind, const struct hd_panels *w, const uint8_t *panel, int64_t n_row, const char *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    int P = n_row >= GROUP * HD_PANEL_ROWS ? GROUP : (int)((n_row + HD_PANEL_ROWS - 1) / HD_PANEL_ROWS);
    struct work z;

    for (int p = 0; p < P + P % 2; p++)
        memset(z.acc[p], 0, (size_t)n_tok * sizeof z.acc[p][0]);
    for (int64_t c = 0; c < w->n;) {
        struct slab b = slab_at(w, c);

        for (int64_t k = 0; k < n_tok; k++)
            memcpy(z.x[k], x + k * x_bytes + c * 2, (size_t)b.n * 2);
        for (int p = 0; p < P; p += 2)
            slab_pair(kind, w, panel, &b, &z, p, P, n_tok);
        c += b.n;
    }
    for (int64_t k = 0; k < n_tok; k++)
        for (int p = 0; p < P; p++)
            put(out + k * ld_out + p * HD_PANEL_ROWS, _mm512_load_ps(z.acc[p][k]), n_row - p * HD_PANEL_ROWS);
}

INLINE void panels(enum hd_panel_kind kind, const struct hd_panels *w, int64_t row0, int64_t n_row, const char *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    const uint8_t *panel = w->data + row0 / HD_PANEL_ROWS * w->bytes;

    switch (n_tok) {
    case 1: few_panels(kind, 1, w, panel, n_row, x, x_bytes, out, ld_out); return;
    case 2: few_panels(kind, 2, w, panel, n_row, x, x_bytes, out, ld_out); return;
    case 3: few_panels(kind, 3, w, panel, n_row, x, x_bytes, out, ld_out); return;
    case 4: few_panels(kind, 4, w, panel, n_row, x, x_bytes, out, ld_out); return;
    case 6: few_panels(kind, 6, w, panel, n_row, x, x_bytes, out, ld_out); return;
    case 8: few_panels(kind, 8, w, panel, n_row, x, x_bytes, out, ld_out); return;
    }
    for (int64_t r = 0; r < n_row; r += GROUP * HD_PANEL_ROWS, panel += GROUP * w->bytes)
        for (int64_t k = 0; k < n_tok; k += TOK)
            many(kind, w, panel, n_row - r, x + k * x_bytes, x_bytes, n_tok - k < TOK ? n_tok - k : TOK, out + k * ld_out + r, ld_out);
}

static void panel_F8_E4M3(const struct hd_panels *w, int64_t row0, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    panels(HD_PANEL_FP8, w, row0, n_row, x, x_bytes, n_tok, out, ld_out);
}

static void panel_BF16(const struct hd_panels *w, int64_t row0, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    panels(HD_PANEL_BF16, w, row0, n_row, x, x_bytes, n_tok, out, ld_out);
}

void hd_fill_panel_avx512bf16(struct hd_kernels *k)
{
    for (int i = 0; i < 128; i++) {       /* the codes of NaN count as 480, the number next to them */
        uint16_t v = i == 127 ? 0x43F0 : hd_f32_bf16(hd_e4m3_f32((uint8_t)i));

        e4m3_low[i] = (uint8_t)v;
        e4m3_high[i] = (uint8_t)(v >> 8);
    }
    k->matmul_panel[HD_F8_E4M3] = panel_F8_E4M3;
    k->matmul_panel[HD_BF16] = panel_BF16;
}
