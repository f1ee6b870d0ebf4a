/* panel_scalar.c: the definitions of products of panels (tensor/panel.h), element by element.
 *
 * Nibbles and bytes meet int8 activations: a block's integer sums are exact; acc = fma(sum, scale d, acc), the same with the fine part where
 * the block has one, then (q4_1) acc = fma(minimum, sum of the activations, acc), blocks ascending. fp8 and bf16 meet bf16 activations as
 * vdpbf16ps does it: f32 FMAs over pairs of columns ascending, the second of a pair first, into one sum for each scale, those ascending
 * into the result. Every level computes just this, so that levels agree to the bit.
 */
#include <math.h>

#include "kernels/table.h"
#include "tensor/blocks.h"
#include "tensor/quant_q8.h"

static int code_at(const struct hd_panels *w, const uint8_t *panel, int64_t b, int lane, int i)
{
    if (w->kind == HD_PANEL_BYTES)
        return (int8_t)panel[((b * 8 + i / 4) * 16 + lane) * 4 + i % 4];
    uint8_t v = panel[((b * 4 + i % 16 / 4) * 16 + lane) * 4 + i % 4];
    int nibble = i < 16 ? v & 15 : v >> 4;

    return w->type == HD_Q4_0 ? nibble - 8 : w->type == HD_Q4_1 ? nibble : hd_e2m1_x2(nibble);
}

static float scale_at(const struct hd_panels *w, const uint8_t *panel, int64_t b, int lane)
{
    const uint8_t *p = panel + w->scale_at;

    return w->type == HD_MXFP4 || w->type == HD_F4_E2M1 ? hd_e8m0_f32(p[b * 16 + lane]) : hd_f16_f32(hd_load16(p + (b * 16 + lane) * 2));
}

static float dot_blocks(const struct hd_panels *w, const uint8_t *panel, int lane, const struct hd_q8 *x)
{
    const int8_t *fine = hd_q8_fine(x, w->n);
    float acc = 0;

    for (int64_t b = 0; b < w->n / 32; b++) {
        float s = scale_at(w, panel, b, lane);
        int32_t sum = 0, rest = 0;

        for (int i = 0; i < 32; i++) {
            sum += code_at(w, panel, b, lane, i) * x[b].q[i];
            rest += code_at(w, panel, b, lane, i) * fine[b * 32 + i];
        }
        acc = fmaf((float)sum, s * x[b].d, acc);
        if (x[b].has_fine)
            acc = fmaf((float)rest, s * (x[b].d * HD_Q8_FINE), acc);
        if (w->type == HD_Q4_1)
            acc = fmaf(hd_f16_f32(hd_load16(panel + w->min_at + (b * 16 + lane) * 2)), x[b].sum, acc);
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
