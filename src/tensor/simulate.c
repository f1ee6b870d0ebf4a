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

/* Nearest of 0 .5 1 1.5 2 3 4 6, ties to the even code. */
static float round_e2m1(float x)
{
    static const float bound[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f}, value[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float a = fabsf(x);
    int code = 0;

    while (code < 7 && (code & 1 ? a >= bound[code] : a > bound[code]))
        code++;
    return copysignf(value[code], x);
}

static void block_sim(enum hd_sim kind, float *x, int64_t n)
{
    float amax = 0, scale;

    for (int64_t i = 0; i < n; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    switch (kind) {
    case HD_SIM_FP8:
        scale = power_above(fmaxf(amax, 1e-4f) * (1.0f / 448));
        for (int64_t i = 0; i < n; i++)
            x[i] = hd_round_bf16(hd_e4m3_f32(hd_f32_e4m3(x[i] / scale)) * scale);
        break;
    case HD_SIM_FP4:
        scale = power_above(fmaxf(amax, 6 * 0x1p-126f) * (1.0f / 6));
        for (int64_t i = 0; i < n; i++)
            x[i] = hd_round_bf16(round_e2m1(x[i] / scale) * scale);
        break;
    case HD_SIM_FP4_E4M3:
        scale = hd_e4m3_f32(hd_f32_e4m3(fmaxf(amax, 6 * 0x1p-9f) / 6));
        for (int64_t i = 0; i < n; i++)
            x[i] = hd_round_bf16(round_e2m1(x[i] / scale) * scale);
        break;
    default: break;
    }
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
