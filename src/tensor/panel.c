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

/* Sixteen bytes of nibbles with columns 2j and 2j + 1 in byte j: as j and 16 + j. */
static void unzip(const uint8_t *in, uint8_t *out)
{
    for (int j = 0; j < 8; j++) {
        out[2 * j] = (uint8_t)((in[j] & 15) | (in[8 + j] & 15) << 4);
        out[2 * j + 1] = (uint8_t)(in[j] >> 4 | (in[8 + j] & 0xF0));
    }
}

static void pack_blocks(const struct hd_tensor *w, const struct hd_panels *p, int64_t row, int lane, uint8_t *out)
{
    const uint8_t *in = (const uint8_t *)w->data + row * w->row_bytes, *scale = (const uint8_t *)w->scale.data + row * w->scale.n_col;
    int words = p->kind == HD_PANEL_BYTES ? 8 : 4;
    bool mx = w->type == HD_MXFP4, f4 = w->type == HD_F4_E2M1;
    int head = f4 ? 0 : mx ? 1 : w->type == HD_Q4_1 ? 4 : 2;

    for (int64_t b = 0; b < p->n / 32; b++, in += head + 4 * words) {
        const uint8_t *code = in + head;
        uint8_t zip[16];

        if (f4) {
            unzip(code, zip);
            code = zip;
        }
        for (int g = 0; g < words; g++)
            memcpy(out + ((b * words + g) * 16 + lane) * 4, code + 4 * g, 4);
        if (mx || f4)
            out[p->scale_at + b * 16 + lane] = mx ? in[0] : scale[b];
        else
            memcpy(out + p->scale_at + (b * 16 + lane) * 2, in, 2);
        if (w->type == HD_Q4_1)
            memcpy(out + p->min_at + (b * 16 + lane) * 2, in + 2, 2);
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

/* Four bytes a lane: four columns of fp8, two of bf16. */
static void pack_words(const struct hd_tensor *w, const struct hd_panels *p, int64_t row, int lane, uint8_t *out)
{
    const uint8_t *in = (const uint8_t *)w->data + row * w->row_bytes;

    if (p->kind == HD_PANEL_FP8) {
        for (int64_t c = 0; c < p->n / 4; c++) {
            uint8_t *o = out + (c * 16 + lane) * 4;

            o[0] = in[4 * c];
            o[1] = in[4 * c + 2];
            o[2] = in[4 * c + 1];
            o[3] = in[4 * c + 3];
        }
        return;
    }
    for (int64_t c = 0; c < p->n; c++) {
        uint16_t v = hd_load16(in + 2 * c);

        v = (v & 0x7F80) < HD_BF16_WEIGHT_MIN ? v & 0x8000 : v;
        memcpy(out + (c / 2 * 16 + lane) * 4 + c % 2 * 2, &v, 2);
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
    if ((i + 1) * HD_PANEL_ROWS > p->n_row)
        memset(out, 0, (size_t)p->bytes);
    else
        memset((char *)out + p->bytes - 64, 0, 64);       /* what pads a whole panel */
    for (int lane = 0; lane < HD_PANEL_ROWS && i * HD_PANEL_ROWS + lane < p->n_row; lane++) {
        int64_t row = i * HD_PANEL_ROWS + lane;

        if (hd_dtypes[p->type].block_len == 256) {
            pack_super(w, p, row, lane, out);
        } else if (p->type == HD_Q5_0 || p->type == HD_Q5_1) {
            pack_fives(w, p, row, lane, out);
        } else if (p->kind == HD_PANEL_NIBBLES || p->kind == HD_PANEL_BYTES) {
            pack_blocks(w, p, row, lane, out);
        } else {
            pack_words(w, p, row, lane, out);
            if (p->kind == HD_PANEL_FP8 && (lane == 0 || p->scale_rows))
                pack_fp8_scales(w, p, row, lane, out);
        }
    }
}
