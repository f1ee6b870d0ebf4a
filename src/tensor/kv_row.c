/* kv_row.c: see kv_row.h. */
#include "tensor/kv_row.h"

#include <math.h>
#include <string.h>

#include "tensor/blocks.h"
#include "tensor/panel.h"
#include "tensor/simulate.h"

static int64_t code_bytes(const struct hd_kv_row *r)
{
    return r->code == HD_KV_FP8 ? r->n : r->n / 2;
}

static int64_t n_block(const struct hd_kv_row *r)
{
    return (r->n + r->block - 1) / r->block;
}

static int64_t tail_at(const struct hd_kv_row *r)
{
    return (code_bytes(r) + n_block(r) + 1) & ~(int64_t)1;
}

struct hd_kv_row hd_kv_row(enum hd_kv_code code, int block, int64_t n, int64_t tail)
{
    if (n % 2 || n < 0 || tail < 0 || n + tail < 1 || n + tail > HD_KV_ROW_MAX)
        return (struct hd_kv_row){0};
    return (struct hd_kv_row){code, block, n, tail};
}

int64_t hd_kv_row_bytes(const struct hd_kv_row *r)
{
    return (tail_at(r) + 2 * r->tail + 3) & ~(int64_t)3;
}

static float scale_value(enum hd_kv_code code, uint8_t s)
{
    return code == HD_KV_FP4_E4M3 ? hd_e4m3_f32(s) : hd_e8m0_f32(s);
}

static float max_abs(const float *x, int64_t n)
{
    float m = 0;

    for (int64_t i = 0; i < n; i++)
        m = fmaxf(m, fabsf(x[i]));
    return m;
}

/* Vectors that were rounded before must come back as they are. A scale in e4m3 is too small for that when its own rounding
 * went down among the subnormal ones; the one that had been used is then a step or two above. */
static uint8_t fp4_scale(const float *x, int64_t n, uint8_t s)
{
    for (uint8_t t = s; t < s + 3 && t < 0x7E; t++) {
        float scale = hd_e4m3_f32(t);
        bool same = true;

        for (int64_t i = 0; i < n && same; i++)
            same = hd_round_e2m1(x[i] / scale) * scale == x[i];
        if (same)
            return t;
    }
    return s;
}

void hd_kv_encode(const struct hd_kv_row *r, const float *x, void *row)
{
    uint8_t *code = row, *scales = code + code_bytes(r);

    memset(row, 0, (size_t)hd_kv_row_bytes(r));
    for (int64_t b = 0; b < n_block(r); b++) {
        int64_t first = b * r->block, n = r->n - first < r->block ? r->n - first : r->block;
        const float *v = x + first;
        enum hd_sim sim = r->code == HD_KV_FP8 ? HD_SIM_FP8 : r->code == HD_KV_FP4 ? HD_SIM_FP4 : HD_SIM_FP4_E4M3;
        float scale = hd_sim_scale(sim, max_abs(v, n));

        scales[b] = sim == HD_SIM_FP4_E4M3 ? hd_f32_e4m3(scale) : (uint8_t)(hd_f32_bits(scale) >> 23);
        if (sim == HD_SIM_FP4_E4M3 && scales[b] < 0x10)
            scales[b] = fp4_scale(v, n, scales[b]);
        scale = scale_value(r->code, scales[b]);
        for (int64_t i = 0; i < n; i++) {
            if (r->code == HD_KV_FP8)
                code[first + i] = hd_f32_e4m3(v[i] / scale);
            else
                code[(first + i) / 2] |= (uint8_t)(hd_e2m1_code(v[i] / scale) << ((first + i) % 2 * 4));
        }
    }
    for (int64_t i = 0; i < r->tail; i++) {
        uint16_t h = hd_f32_bf16(x[r->n + i]);

        memcpy(code + tail_at(r) + 2 * i, &h, 2);
    }
}

void hd_kv_decode(const struct hd_kv_row *r, const void *row, float *x)
{
    const uint8_t *code = row, *scales = code + code_bytes(r);

    for (int64_t b = 0; b < n_block(r); b++) {
        int64_t first = b * r->block, n = r->n - first < r->block ? r->n - first : r->block;
        float scale = scale_value(r->code, scales[b]);

        if (r->code == HD_KV_FP8) {
            for (int64_t i = 0; i < n; i++)
                x[first + i] = hd_e4m3_f32(code[first + i]) * scale;
        } else {
            for (int64_t i = 0; i < n; i++)
                x[first + i] = hd_e2m1_f32(code[(first + i) / 2] >> ((first + i) % 2 * 4)) * scale;
        }
    }
    for (int64_t i = 0; i < r->tail; i++)
        x[r->n + i] = hd_bf16_f32(hd_load16(code + tail_at(r) + 2 * i));
}

/* ---- panels ---- */

bool hd_kv_in_panels(const struct hd_kv_row *r)
{
    return r->code == HD_KV_FP4 && r->block == 32 && r->n % 32 == 0 && !r->tail;
}

void hd_kv_panel_put(const struct hd_kv_row *r, const void *row, int lane, void *panel)
{
    const uint8_t *from = row;
    uint8_t *to = panel;

    for (int64_t k = 0; k < r->n / 8; k++)
        memcpy(to + (k * HD_PANEL_ROWS + lane) * 4, from + 4 * k, 4);
    for (int64_t b = 0; b < r->n / 32; b++)
        to[r->n / 2 * HD_PANEL_ROWS + b * HD_PANEL_ROWS + lane] = from[r->n / 2 + b];
}

void hd_kv_panel_get(const struct hd_kv_row *r, const void *panel, int lane, void *row)
{
    const uint8_t *from = panel;
    uint8_t *to = row;

    memset(to, 0, (size_t)hd_kv_row_bytes(r));
    for (int64_t k = 0; k < r->n / 8; k++)
        memcpy(to + 4 * k, from + (k * HD_PANEL_ROWS + lane) * 4, 4);
    for (int64_t b = 0; b < r->n / 32; b++)
        to[r->n / 2 + b] = from[r->n / 2 * HD_PANEL_ROWS + b * HD_PANEL_ROWS + lane];
}
