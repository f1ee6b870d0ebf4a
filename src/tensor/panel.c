/* panel.c: see panel.h. */
#include "tensor/panel.h"

#include <string.h>

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
    if (p->kind == HD_PANEL_NONE || n % 32 || !n || !p->n_row || !scales_fit(w))
        return false;
    switch (p->kind) {
    case HD_PANEL_NIBBLES:
        p->scale_at = nb * 256;
        scale_bytes = nb * 16 * (e8m0 ? 1 : 2);
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
    p->bytes = up64(p->min_at + (w->type == HD_Q4_1 ? scale_bytes : 0));
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

/* Four bytes a lane: four columns of fp8, two of bf16. Pieces of rows, as above. */
static void pack_words(const struct hd_tensor *w, const struct hd_panels *p, int64_t row0, int n_lane, uint8_t *out)
{
    int64_t n = p->n / (p->kind == HD_PANEL_FP8 ? 4 : 2), few = FEW * 8;

    for (int64_t c = 0; c < n; c += few)
        for (int lane = 0; lane < n_lane; lane++) {
            const uint8_t *in = (const uint8_t *)w->data + (row0 + lane) * w->row_bytes + c * 4;
            uint8_t *to = out + (c * 16 + lane) * 4;

            for (int64_t k = 0; k < (n - c < few ? n - c : few); k++) {
                __builtin_prefetch(in + few * 4 + k * 4);
                memcpy(to + k * 64, in + k * 4, 4);
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

    if ((i + 1) * HD_PANEL_ROWS > p->n_row)
        memset(out, 0, (size_t)p->bytes);
    else
        memset((char *)out + p->bytes - 64, 0, 64);       /* what pads a whole panel */
    if (p->kind == HD_PANEL_NIBBLES || p->kind == HD_PANEL_BYTES) {
        pack_blocks(w, p, row0, n_lane, out);
        return;
    }
    pack_words(w, p, row0, n_lane, out);
    for (int lane = 0; p->kind == HD_PANEL_FP8 && lane < (p->scale_rows ? n_lane : 1); lane++)
        pack_fp8_scales(w, p, row0 + lane, lane, out);
}
