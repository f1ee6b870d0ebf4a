/* panel_scalar.c: the definitions of products of panels (tensor/panel.h), element by element.
 *
 * Nibbles and bytes meet int8 activations: a block's integer sums are exact; acc = fma(sum, scale d, acc) for each scale, then (where weights have minima)
 * acc = fma(minimum, sum of the activations, acc), then fma() with the fine part where the block has one, blocks ascending. fp8 and bf16 meet bf16 activations as
 * vdpbf16ps does it: f32 FMAs over pairs of columns ascending, the second of a pair first, into one sum for each scale, those ascending
 * into the result. Every level computes just this, so that levels agree to the bit.
 */
#include <math.h>

#include "kernels/table.h"
#include "tensor/blocks.h"
#include "tensor/quant_q8.h"

static int code_at(const struct hd_panels *w, const uint8_t *panel, int64_t b, int lane, int i)
{
    const uint8_t *block = panel + b * hd_panel_block_bytes(w->type) + lane * 4 + i % 4;

    if (w->kind == HD_PANEL_BYTES)
        return (int8_t)block[i / 4 * 64];
    int nibble = i < 16 ? block[i / 4 * 64] & 15 : block[i % 16 / 4 * 64] >> 4;

    switch (w->type) {
    case HD_Q4_0: return nibble - 8;
    case HD_Q4_1:
    case HD_Q4_K: return nibble;
    case HD_Q5_0: return (nibble | (block[256] >> (i / 4) & 1) << 4) - 16;
    case HD_Q5_1:
    case HD_Q5_K: return nibble | (block[256] >> (i / 4) & 1) << 4;
    case HD_Q6_K: return (nibble | (block[256 + i / 16 * 64] >> (i % 16 / 4 * 2) & 3) << 4) - 32;
    default: return hd_e2m1_x2(nibble);
    }
}

/* Of columns i .. of a block: only q6_k has two. */
static float scale_at(const struct hd_panels *w, const uint8_t *panel, int64_t b, int lane, int i)
{
    const uint8_t *p = panel + w->scale_at;
    const struct hd_panel_k4 *k4 = (const struct hd_panel_k4 *)p + b / 8;
    const struct hd_panel_k6 *k6 = (const struct hd_panel_k6 *)p + b / 8;

    if (w->type == HD_Q6_K)
        return hd_f16_f32(k6->d[lane]) * (float)k6->scale[b % 8 * 2 + i / 16][lane];
    if (w->type == HD_Q4_K || w->type == HD_Q5_K)
        return hd_f16_f32(k4->d[lane]) * (float)k4->scale[b % 8][lane];
    return w->type == HD_MXFP4 || w->type == HD_F4_E2M1 ? hd_e8m0_f32(p[b * 16 + lane]) : hd_f16_f32(hd_load16(p + (b * 16 + lane) * 2));
}

static float min_at(const struct hd_panels *w, const uint8_t *panel, int64_t b, int lane)
{
    const struct hd_panel_k4 *k4 = (const struct hd_panel_k4 *)(panel + w->scale_at) + b / 8;

    if (w->type == HD_Q4_K || w->type == HD_Q5_K)
        return hd_f16_f32(k4->dmin[lane]) * -(float)k4->min[b % 8][lane];
    return hd_f16_f32(hd_load16(panel + w->min_at + (b * 16 + lane) * 2));
}

static float dot_blocks(const struct hd_panels *w, const uint8_t *panel, int lane, const struct hd_q8 *x)
{
    const int8_t *fine = hd_q8_fine(x, w->n);
    int len = w->type == HD_Q6_K ? 16 : 32;      /* columns that share a scale */
    float acc = 0;

    for (int64_t b = 0; b < w->n / 32; b++)
        for (int f = 0; f < 1 + x[b].has_fine; f++) {
            for (int i = 0; i < 32; i += len) {
                const int8_t *q = f ? fine + b * 32 : x[b].q;
                int32_t sum = 0;

                for (int k = i; k < i + len; k++)
                    sum += code_at(w, panel, b, lane, k) * q[k];
                acc = fmaf((float)sum, scale_at(w, panel, b, lane, i) * (f ? x[b].d * HD_Q8_FINE : x[b].d), acc);
            }
            if (!f && hd_panel_has_min(w->type))
                acc = fmaf(min_at(w, panel, b, lane), x[b].sum, acc);
        }
    return acc * hd_panel_factor(w);
}

/* Column i; the two pairs of four fp8 columns interleave. */
static float float_code(const struct hd_panels *w, const uint8_t *panel, int lane, int64_t i)
{
    if (w->kind == HD_PANEL_FP8)
        return hd_e4m3_f32(panel[(i / 4 * 16 + lane) * 4 + (i % 2 * 2 + i / 2 % 2)]);
    return hd_bf16_f32(hd_load16(panel + (i / 2 * 16 + lane) * 4 + i % 2 * 2));
}

static float dot_floats(const struct hd_panels *w, const uint8_t *panel, int lane, const uint16_t *x)
{
    const float *scale = (const float *)(panel + w->scale_at);
    float acc = 0;

    for (int64_t c = 0; c < w->n; c += w->scale_cols) {
        float sum = 0, s = w->kind == HD_PANEL_BF16 ? 1 : scale[w->scale_rows ? c / w->scale_cols * 16 + lane : c / w->scale_cols];

        for (int64_t k = c; k < c + w->scale_cols && k < w->n; k++) {
            int64_t i = k ^ 1;

            sum = fmaf(float_code(w, panel, lane, i), hd_bf16_f32(x[i]), sum);
        }
        acc = fmaf(sum, s, acc);
    }
    return acc * hd_panel_factor(w);
}

static void matmul_panel(const struct hd_panels *w, int64_t row0, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    for (int64_t r = 0; r < n_row; r++) {
        const uint8_t *panel = w->data + (row0 + r) / HD_PANEL_ROWS * w->bytes;
        int lane = (int)((row0 + r) % HD_PANEL_ROWS);

        for (int64_t t = 0; t < n_tok; t++) {
            const void *xt = (const char *)x + t * x_bytes;

            out[t * ld_out + r] = hd_panel_by_q8(w->kind) ? dot_blocks(w, panel, lane, xt) : dot_floats(w, panel, lane, xt);
        }
    }
}

void hd_fill_panel_scalar(struct hd_kernels *k)
{
    k->q8_encode = hd_q8_encode;
    k->bf16_encode = hd_act_bf16_encode;
    for (int t = 0; t < HD_N_DTYPE; t++)
        k->matmul_panel[t] = matmul_panel;
}
