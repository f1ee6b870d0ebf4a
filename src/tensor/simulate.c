/* simulate.c: see simulate.h. */
#include "tensor/simulate.h"

#include <math.h>
#include <string.h>

#include "tensor/blocks.h"

float hd_round_bf16(float x)
{
    return hd_bf16_f32(hd_f32_bf16(x));
}

/* 2^ceil(log2(x)) of a positive normal number, by its bits. */
static float power_above(float x)
{
    uint32_t b;
    float p;

    memcpy(&b, &x, 4);
    b = (b & 0x7FFFFF ? (b >> 23) + 1 : b >> 23) << 23;
    memcpy(&p, &b, 4);
    return p;
}

int hd_e2m1_code(float x)
{
    static const float bound[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
    float a = fabsf(x);
    int code = 0;

    while (code < 7 && (code & 1 ? a >= bound[code] : a > bound[code]))
        code++;
    return signbit(x) ? code | 8 : code;
}

float hd_round_e2m1(float x)
{
    return hd_e2m1_f32(hd_e2m1_code(x));
}

float hd_sim_scale(enum hd_sim kind, float amax)
{
    switch (kind) {
    case HD_SIM_FP8: return power_above(fmaxf(amax, 1e-4f) * (1.0f / 448));
    case HD_SIM_FP4: return power_above(fmaxf(amax, 6 * 0x1p-126f) * (1.0f / 6));
    case HD_SIM_FP4_E4M3: return hd_e4m3_f32(hd_f32_e4m3(fmaxf(amax, 6 * 0x1p-9f) / 6));
    default: return 1;
    }
}

static void block_sim(enum hd_sim kind, float *x, int64_t n)
{
    float amax = 0, scale;

    for (int64_t i = 0; i < n; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    scale = hd_sim_scale(kind, amax);
    if (kind == HD_SIM_FP8)
        for (int64_t i = 0; i < n; i++)
            x[i] = hd_round_bf16(hd_e4m3_f32(hd_f32_e4m3(x[i] / scale)) * scale);
    else
        for (int64_t i = 0; i < n; i++)
            x[i] = hd_round_bf16(hd_round_e2m1(x[i] / scale) * scale);
}

void hd_simulate(enum hd_sim kind, int64_t block, float *x, int64_t n)
{
    if (kind == HD_SIM_BF16) {
        for (int64_t i = 0; i < n; i++)
            x[i] = hd_round_bf16(x[i]);
        return;
    }
    for (int64_t i = 0; i < n; i += block)
        block_sim(kind, x + i, n - i < block ? n - i : block);
}
