/* panel.c: see panel.h. */
#include "tensor/panel.h"

#include <string.h>

#include "tensor/act_bf16.h"
#include "tensor/blocks.h"
#include "tensor/decode_rows.h"

static int64_t up64(int64_t n)
{
    return (n + 63) & ~(int64_t)63;
}

static enum hd_panel_kind kind_of(enum hd_dtype t)
{
    switch (t) {
    case HD_Q4_0:
    case HD_Q4_1:
    case HD_Q5_0:
    case HD_Q5_1:
    case HD_Q4_K:
    case HD_Q5_K:
    case HD_Q6_K:
    case HD_MXFP4:
    case HD_F4_E2M1: return HD_PANEL_NIBBLES;
    case HD_Q8_0: return HD_PANEL_BYTES;
    case HD_F8_E4M3: return HD_PANEL_FP8;
    case HD_BF16: return HD_PANEL_BF16;
    default: return HD_PANEL_NONE;
    }
}

/* Scales beside the data in a form that panels keep: ue8m0 a row and 32 columns for fp4; for fp8 the same, or blocks of rows that a panel
 * does not straddle, of columns in whole 32s. */
static bool scales_fit(const struct hd_tensor *w)
{
    const struct hd_scale *s = &w->scale;

    if (w->type == HD_F4_E2M1)
        return s->data && s->type == HD_F8_E8M0 && s->block_rows == 1 && s->block_cols == 32;
    if (w->type == HD_F8_E4M3 && s->data)
        return s->block_cols % 32 == 0 && (s->block_rows % HD_PANEL_ROWS == 0 || (s->block_rows == 1 && s->block_cols == 32));
    return true;
}

bool hd_panels_describe(const struct hd_tensor *w, struct hd_panels *p)
{
    int64_t n = hd_cols(w), nb = n / 32, scale_bytes = 0;
    bool e8m0 = w->type == HD_F4_E2M1 || w->type == HD_MXFP4;

    *p = (struct hd_panels){.type = w->type, .kind = kind_of(w->type), .n = n, .n_row = hd_rows(w), .scale_cols = 32, .scale_rows = true, .global = 1};
    if (p->kind == HD_PANEL_NONE || n % 32 || n % hd_dtypes[w->type].block_len || !n || !p->n_row || !scales_fit(w))
        return false;
    switch (p->kind) {
    case HD_PANEL_NIBBLES:
        p->scale_at = nb * hd_panel_block_bytes(w->type);
        scale_bytes = nb * 16 * (e8m0 ? 1 : 2);
        if (hd_dtypes[w->type].block_len == 256)
            scale_bytes = nb / 8 * (int64_t)(w->type == HD_Q6_K ? sizeof(struct hd_panel_k6) : sizeof(struct hd_panel_k4));
        break;
    case HD_PANEL_BYTES:
        p->scale_at = nb * 512;
        scale_bytes = nb * 32;
        break;
    case HD_PANEL_FP8:
        p->scale_at = n * 16;
        p->scale_rows = w->scale.data && w->scale.block_rows == 1;
        p->scale_cols = w->scale.data ? w->scale.block_cols : n;
        scale_bytes = (n + p->scale_cols - 1) / p->scale_cols * (p->scale_rows ? 64 : 4);
        break;
    case HD_PANEL_BF16:
        p->scale_at = n * 32;
        p->scale_rows = false;
        p->scale_cols = n;
        break;
    default: return false;
    }
    if (w->type == HD_F4_E2M1)
        p->global = w->scale.global;
    p->min_at = p->scale_at + scale_bytes;
    p->bytes = up64(p->min_at + (w->type == HD_Q4_1 || w->type == HD_Q5_1 ? scale_bytes : 0));
    return true;
}

#define FEW 16                        /* blocks of a row that are packed before the next row's */

/* The low four bytes of x, two apart. */
static inline uint64_t spread(uint64_t x)
{
    x &= 0xFFFFFFFFu;
    x = (x | x << 16) & 0x0000FFFF0000FFFFu;
    return (x | x << 8) & 0x00FF00FF00FF00FFu;
}

/* Sixteen bytes of nibbles with columns 2j and 2j + 1 in byte j: as j and 16 + j; eight bytes a register. */
static inline void unzip(const uint8_t *in, uint64_t out[2])
{
    const uint64_t low = 0x0F0F0F0F0F0F0F0Fu;
    uint64_t a, b, even, odd;

    memcpy(&a, in, 8);
    memcpy(&b, in + 8, 8);
    even = (a & low) | (b & low) << 4;
    odd = (a >> 4 & low) | (b & ~low);
    out[0] = spread(even) | spread(odd) << 8;
    out[1] = spread(even >> 32) | spread(odd >> 32) << 8;
}

/* Codes of n blocks of one row: groups of four bytes, 64 bytes apart. */
static inline void pack_codes(const uint8_t *in, int64_t block, int head, int words, bool f4, int64_t n, uint8_t *out)
{
    for (int64_t b = 0; b < n; b++, in += block, out += words * 64) {
        uint64_t zip[2];

        if (f4)
            unzip(in, zip);
        for (int g = 0; g < words; g++) {
            uint32_t v = (uint32_t)(f4 ? zip[g / 2] >> 32 * (g & 1) : 0);

            if (!f4)
                memcpy(&v, in + head + 4 * g, 4);
            memcpy(out + g * 64, &v, 4);
        }
    }
}

/* A few blocks of 32 columns of every lane, then the next few: what is written lies together, and rows are read in whole cache lines that were
 * asked for before. */
static void pack_blocks(const struct hd_tensor *w, const struct hd_panels *p, int64_t row0, int n_lane, uint8_t *out)
{
    bool mx = w->type == HD_MXFP4, f4 = w->type == HD_F4_E2M1, q8 = p->kind == HD_PANEL_BYTES;
    int head = f4 ? 0 : mx ? 1 : w->type == HD_Q4_1 ? 4 : 2, words = q8 ? 8 : 4;
    int64_t nb = p->n / 32, block = head + 4 * words;

    for (int64_t b = 0; b < nb; b += FEW) {
        int64_t n = nb - b < FEW ? nb - b : FEW;

        for (int lane = 0; lane < n_lane; lane++) {
            const uint8_t *in = (const uint8_t *)w->data + (row0 + lane) * w->row_bytes + b * block;
            uint8_t *to = out + b * words * 64 + lane * 4;

            for (int64_t k = 0; k < n * block; k += 64)
                __builtin_prefetch(in + FEW * block * 2 + k);
            if (f4)
                pack_codes(in, block, 0, 4, true, n, to);
            else if (q8)
                pack_codes(in, block, 2, 8, false, n, to);
            else
                pack_codes(in, block, head, 4, false, n, to);
            for (int64_t k = b; k < b + n; k++, in += block) {
                if (f4)
                    out[p->scale_at + k * 16 + lane] = ((const uint8_t *)w->scale.data)[(row0 + lane) * w->scale.n_col + k];
                else if (mx)
                    out[p->scale_at + k * 16 + lane] = in[0];
                else
                    memcpy(out + p->scale_at + (k * 16 + lane) * 2, in, 2);
                if (w->type == HD_Q4_1)
                    memcpy(out + p->min_at + (k * 16 + lane) * 2, in + 2, 2);
            }
        }
    }
}

/* 32 codes of up to six bits. */
static void put_codes(const struct hd_panels *p, const uint8_t *code, int64_t b, int lane, uint8_t *out)
{
    int high = hd_panel_high_bits(p->type);

    out += b * hd_panel_block_bytes(p->type) + lane * 4;
    for (int j = 0; j < 16; j++)
        out[j / 4 * 64 + j % 4] = (uint8_t)((code[j] & 15) | (code[16 + j] & 15) << 4);
    for (int i = 0; i < high; i++)
        for (int k = 0; k < 4; k++) {
            int v = 0;

            for (int g = 0; g < 8 / high; g++)
                v |= code[16 * i + 4 * g + k] >> 4 << (high * g);
            out[256 + 64 * i + k] = (uint8_t)v;
        }
}

/* q5_0 and q5_1: scale, minimum, fifth bits, nibbles. */
static void pack_fives(const struct hd_tensor *w, const struct hd_panels *p, int64_t row, int lane, uint8_t *out)
{
    const uint8_t *in = (const uint8_t *)w->data + row * w->row_bytes;
    int head = w->type == HD_Q5_1 ? 4 : 2;

    for (int64_t b = 0; b < p->n / 32; b++, in += head + 20) {
        const uint8_t *q = in + head + 4;
        uint32_t high;
        uint8_t code[32];

        memcpy(&high, in + head, 4);
        for (int j = 0; j < 16; j++) {
            code[j] = (uint8_t)((q[j] & 15) | (high >> j & 1) << 4);
            code[16 + j] = (uint8_t)(q[j] >> 4 | (high >> (16 + j) & 1) << 4);
        }
        put_codes(p, code, b, lane, out);
        memcpy(out + p->scale_at + (b * 16 + lane) * 2, in, 2);
        if (head == 4)
            memcpy(out + p->min_at + (b * 16 + lane) * 2, in + 2, 2);
    }
}

/* q4_k and q5_k, 256 columns: blocks.h. */
static void pack_k4(const struct hd_panels *p, const uint8_t *in, int64_t c, int lane, uint8_t *out)
{
    struct hd_panel_k4 *s = (struct hd_panel_k4 *)(out + p->scale_at) + c;
    bool five = p->type == HD_Q5_K;

    s->d[lane] = hd_load16(in);
    s->dmin[lane] = hd_load16(in + 2);
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = in + (five ? 48 : 16) + j / 2 * 32;
        uint8_t code[32];
        int scale, min;

        hd_k4_scale(in + 4, j, &scale, &min);
        s->scale[j][lane] = (uint8_t)scale;
        s->min[j][lane] = (uint8_t)min;
        for (int l = 0; l < 32; l++)
            code[l] = (uint8_t)((j % 2 ? q[l] >> 4 : q[l] & 15) | (five ? (in[16 + l] >> j & 1) << 4 : 0));
        put_codes(p, code, c * 8 + j, lane, out);
    }
}

static void pack_k6(const struct hd_panels *p, const uint8_t *in, int64_t c, int lane, uint8_t *out)
{
    struct hd_panel_k6 *s = (struct hd_panel_k6 *)(out + p->scale_at) + c;

    s->d[lane] = hd_load16(in + 208);
    for (int j = 0; j < 16; j++)
        s->scale[j][lane] = (int8_t)in[192 + j];
    for (int j = 0; j < 8; j++) {
        const uint8_t *low = in + j / 4 * 64 + j % 2 * 32, *high = in + 128 + j / 4 * 32;
        uint8_t code[32];

        for (int l = 0; l < 32; l++)
            code[l] = (uint8_t)((j % 4 < 2 ? low[l] & 15 : low[l] >> 4) | (high[l] >> (2 * (j % 4)) & 3) << 4);
        put_codes(p, code, c * 8 + j, lane, out);
    }
}

static void pack_super(const struct hd_tensor *w, const struct hd_panels *p, int64_t row, int lane, uint8_t *out)
{
    const uint8_t *in = (const uint8_t *)w->data + row * w->row_bytes;

    for (int64_t c = 0; c < p->n / 256; c++, in += hd_dtypes[p->type].block_bytes)
        if (p->type == HD_Q6_K)
            pack_k6(p, in, c, lane, out);
        else
            pack_k4(p, in, c, lane, out);
}

/* Four columns of fp8 as the kernels want them in a lane: 0, 2, 1, 3. */
static inline uint32_t fp8_word(uint32_t v)
{
    return (v & 0xFF0000FFu) | (v & 0xFF00u) << 8 | (v >> 8 & 0xFF00u);
}

/* Two columns of bf16, either 0 where it is tiny. */
static inline uint32_t bf16_word(uint32_t v)
{
    uint32_t low = (v & 0x7F80u) < HD_BF16_WEIGHT_MIN ? v & 0x8000u : v & 0xFFFFu, high = v >> 16;

    return low | ((high & 0x7F80u) < HD_BF16_WEIGHT_MIN ? high & 0x8000u : high) << 16;
}

/* Four bytes a lane: four columns of fp8, two of bf16. Pieces of rows, as above. */
static void pack_words(const struct hd_tensor *w, const struct hd_panels *p, int64_t row0, int n_lane, uint8_t *out)
{
    bool fp8 = p->kind == HD_PANEL_FP8;
    int64_t n = p->n / (fp8 ? 4 : 2), few = FEW * 8;

    for (int64_t c = 0; c < n; c += few)
        for (int lane = 0; lane < n_lane; lane++) {
            const uint8_t *in = (const uint8_t *)w->data + (row0 + lane) * w->row_bytes + c * 4;
            uint8_t *to = out + (c * 16 + lane) * 4;

            for (int64_t k = 0; k < (n - c < few ? n - c : few); k++) {
                uint32_t v;

                __builtin_prefetch(in + few * 4 + k * 4);
                memcpy(&v, in + k * 4, 4);
                v = fp8 ? fp8_word(v) : bf16_word(v);
                memcpy(to + k * 64, &v, 4);
            }
        }
}

static void pack_fp8_scales(const struct hd_tensor *w, const struct hd_panels *p, int64_t row, int lane, uint8_t *out)
{
    const struct hd_scale *s = &w->scale;

    for (int64_t c = 0; c < (p->n + p->scale_cols - 1) / p->scale_cols; c++) {
        float v = s->data ? hd_scale_value(s, row / s->block_rows * s->n_col + c) : 1;

        memcpy(out + p->scale_at + (p->scale_rows ? c * 16 + lane : c) * 4, &v, 4);
    }
}

void hd_panel_pack(const struct hd_tensor *w, const struct hd_panels *p, int64_t i, void *out)
{
    int64_t row0 = i * HD_PANEL_ROWS;
    int n_lane = (int)(p->n_row - row0 < HD_PANEL_ROWS ? p->n_row - row0 : HD_PANEL_ROWS);
    bool super = hd_dtypes[p->type].block_len == 256, fives = p->type == HD_Q5_0 || p->type == HD_Q5_1;

    if ((i + 1) * HD_PANEL_ROWS > p->n_row)
        memset(out, 0, (size_t)p->bytes);
    else
        memset((char *)out + p->bytes - 64, 0, 64);       /* what pads a whole panel */
    for (int lane = 0; (super || fives) && lane < n_lane; lane++)
        if (super)
            pack_super(w, p, row0 + lane, lane, out);
        else
            pack_fives(w, p, row0 + lane, lane, out);
    if (super || fives)
        return;
    if (p->kind == HD_PANEL_NIBBLES || p->kind == HD_PANEL_BYTES) {
        pack_blocks(w, p, row0, n_lane, out);
        return;
    }
    pack_words(w, p, row0, n_lane, out);
    for (int lane = 0; p->kind == HD_PANEL_FP8 && lane < (p->scale_rows ? n_lane : 1); lane++)
        pack_fp8_scales(w, p, row0 + lane, lane, out);
}
