/* blocks.h: the block formats, byte by byte: how each is laid out and what its elements are worth.
 *
 * Static inline, so that the exact decoders (dtype.c) and the vectorised ones (kernels/decode_*.c, the same text under other
 * compiler flags) cannot disagree. Layouts follow ggml's ggml-common.h and quants (facts, cited there), MX from OCP MX 1.0,
 * FP8 E4M3 "fn" from Micikevicius et al. 2022: no infinities, 0x7F / 0xFF are NaN, largest value 448.
 */
#ifndef HD_TENSOR_BLOCKS_H
#define HD_TENSOR_BLOCKS_H

#include <stdint.h>
#include <string.h>

static inline float hd_bits_f32(uint32_t b)
{
    float f;

    memcpy(&f, &b, 4);
    return f;
}

static inline uint32_t hd_f32_bits(float f)
{
    uint32_t b;

    memcpy(&b, &f, 4);
    return b;
}

static inline uint16_t hd_load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline float hd_f16_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 1023;

    if (exp == 31)
        return hd_bits_f32(sign | 0x7F800000u | man << 13 | (man ? 0x400000u : 0));     /* a NaN comes out quiet, as F16C does */
    if (exp)
        return hd_bits_f32(sign | (exp + 112) << 23 | man << 13);
    return hd_bits_f32(sign | hd_f32_bits((float)man * 0x1p-24f));
}

/* Round to nearest even; overflow goes to infinity, NaN stays NaN. */
static inline uint16_t hd_f32_f16(float f)
{
    uint32_t b = hd_f32_bits(f), sign = b >> 16 & 0x8000, a = b & 0x7FFFFFFFu;

    if (a > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00 | (a >> 13 & 0x3FF));
    if (a >= 0x477FF000u)                           /* 65520 and above */
        return (uint16_t)(sign | 0x7C00);
    if (a < 0x38800000u)                            /* subnormal: adding 0.5 puts the result into the low bits, rounded */
        return (uint16_t)(sign | (hd_f32_bits(hd_bits_f32(a) + 0.5f) - 0x3F000000u));
    return (uint16_t)(sign | (a + 0xFFF + (a >> 13 & 1) - 0x38000000u) >> 13);
}

static inline float hd_bf16_f32(uint16_t h)
{
    return hd_bits_f32((uint32_t)h << 16);
}

static inline uint16_t hd_f32_bf16(float f)
{
    uint32_t b = hd_f32_bits(f);

    if ((b & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(b >> 16 | 0x40);
    return (uint16_t)((b + 0x7FFF + (b >> 16 & 1)) >> 16);
}

static inline float hd_e4m3_f32(uint8_t v)
{
    uint32_t sign = (uint32_t)(v & 0x80) << 24, exp = v >> 3 & 15, man = v & 7;

    if ((v & 0x7F) == 0x7F)
        return hd_bits_f32(sign | 0x7FC00000u);
    if (exp)
        return hd_bits_f32(sign | (exp + 120) << 23 | man << 20);
    return hd_bits_f32(sign | hd_f32_bits((float)man * 0x1p-9f));
}

/* Round to nearest even after clamping to 448; NaN stays NaN. */
static inline uint8_t hd_f32_e4m3(float f)
{
    uint32_t b = hd_f32_bits(f), sign = b >> 24 & 0x80, a = b & 0x7FFFFFFFu;

    if (a > 0x7F800000u)
        return (uint8_t)(sign | 0x7F);
    if (a >= 0x43E00000u)                           /* 448 and above */
        return (uint8_t)(sign | 0x7E);
    if (a < 0x3C800000u)                            /* below 2^-6: steps of 2^-9 */
        return (uint8_t)(sign | (hd_f32_bits(hd_bits_f32(a) + 0x1p14f) - 0x46800000u));
    a += 0x7FFFF + (a >> 20 & 1);
    return (uint8_t)(sign | ((a - 0x3C000000u) >> 20 & 0x7F));
}

static inline float hd_e8m0_f32(uint8_t e)
{
    return e == 255 ? hd_bits_f32(0x7FC00000u) : e ? hd_bits_f32((uint32_t)e << 23) : hd_bits_f32(0x400000u);
}

/* E2M1: 0 .5 1 1.5 2 3 4 6; as integers, twice that. */
static inline int hd_e2m1_x2(int code)
{
    static const int8_t v[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

    return v[code & 15];
}

static inline float hd_e2m1_f32(int code)
{
    float v = (float)hd_e2m1_x2(code & 7) * 0.5f;

    return code & 8 ? -v : v;
}

/* ---- blocks of 32 ---- */

static inline void hd_block_q4_0(const uint8_t *p, float *y)
{
    float d = hd_f16_f32(hd_load16(p));

    for (int j = 0; j < 16; j++) {
        y[j] = (float)((p[2 + j] & 15) - 8) * d;
        y[j + 16] = (float)((p[2 + j] >> 4) - 8) * d;
    }
}

static inline void hd_block_q4_1(const uint8_t *p, float *y)
{
    float d = hd_f16_f32(hd_load16(p)), m = hd_f16_f32(hd_load16(p + 2));

    for (int j = 0; j < 16; j++) {
        y[j] = (float)(p[4 + j] & 15) * d + m;
        y[j + 16] = (float)(p[4 + j] >> 4) * d + m;
    }
}

static inline void hd_block_q5_0(const uint8_t *p, float *y)
{
    float d = hd_f16_f32(hd_load16(p));
    uint32_t hi = (uint32_t)hd_load16(p + 2) | (uint32_t)hd_load16(p + 4) << 16;

    for (int j = 0; j < 16; j++) {
        y[j] = (float)((int)((p[6 + j] & 15) | (hi >> j & 1) << 4) - 16) * d;
        y[j + 16] = (float)((int)((p[6 + j] >> 4) | (hi >> (j + 16) & 1) << 4) - 16) * d;
    }
}

static inline void hd_block_q5_1(const uint8_t *p, float *y)
{
    float d = hd_f16_f32(hd_load16(p)), m = hd_f16_f32(hd_load16(p + 2));
    uint32_t hi = (uint32_t)hd_load16(p + 4) | (uint32_t)hd_load16(p + 6) << 16;

    for (int j = 0; j < 16; j++) {
        y[j] = (float)((p[8 + j] & 15) | (hi >> j & 1) << 4) * d + m;
        y[j + 16] = (float)((p[8 + j] >> 4) | (hi >> (j + 16) & 1) << 4) * d + m;
    }
}

static inline void hd_block_q8_0(const uint8_t *p, float *y)
{
    float d = hd_f16_f32(hd_load16(p));

    for (int j = 0; j < 32; j++)
        y[j] = (float)(int8_t)p[2 + j] * d;
}

/* The exponent counts halves: the codes stand for e2m1 x 2. */
static inline float hd_mxfp4_scale(uint8_t e)
{
    return e < 2 ? hd_bits_f32(0x200000u << e) : hd_bits_f32((uint32_t)(e - 1) << 23);
}

static inline void hd_block_mxfp4(const uint8_t *p, float *y)
{
    float d = hd_mxfp4_scale(p[0]);

    for (int j = 0; j < 16; j++) {
        y[j] = (float)hd_e2m1_x2(p[1 + j]) * d;
        y[j + 16] = (float)hd_e2m1_x2(p[1 + j] >> 4) * d;
    }
}

/* ---- super-blocks of 256 ---- */

static inline void hd_block_q2_k(const uint8_t *p, float *y)
{
    const uint8_t *scale = p, *q = p + 16;
    float d = hd_f16_f32(hd_load16(p + 80)), dmin = hd_f16_f32(hd_load16(p + 82));

    for (int i = 0; i < 256; i++) {
        int half = i / 128, j = i % 128 / 32, l = i % 32, sc = scale[i / 16];

        y[i] = d * (float)(sc & 15) * (float)(q[half * 32 + l] >> (2 * j) & 3) - dmin * (float)(sc >> 4);
    }
}

static inline int hd_q3_k_scale(const uint8_t *s, int i)
{
    return (int)((i < 8 ? s[i] & 15 : s[i - 8] >> 4) | (s[8 + i % 4] >> (2 * (i / 4)) & 3) << 4) - 32;
}

static inline void hd_block_q3_k(const uint8_t *p, float *y)
{
    const uint8_t *hm = p, *q = p + 32, *s = p + 96;
    float d = hd_f16_f32(hd_load16(p + 108));

    for (int i = 0; i < 256; i++) {
        int half = i / 128, j = i % 128 / 32, l = i % 32, v = (q[half * 32 + l] >> (2 * j) & 3) - (hm[l] >> (half * 4 + j) & 1 ? 0 : 4);

        y[i] = d * (float)hd_q3_k_scale(s, i / 16) * (float)v;
    }
}

/* 6-bit scale and minimum of sub-block j in the 12 bytes that q4_k and q5_k share. */
static inline void hd_k4_scale(const uint8_t *q, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = q[j] & 63;
        *min = q[j + 4] & 63;
    } else {
        *scale = (q[j + 4] & 15) | (q[j - 4] >> 6) << 4;
        *min = q[j + 4] >> 4 | (q[j] >> 6) << 4;
    }
}

static inline void hd_block_q4_k(const uint8_t *p, float *y)
{
    float d = hd_f16_f32(hd_load16(p)), dmin = hd_f16_f32(hd_load16(p + 2));

    for (int j = 0; j < 8; j++) {
        const uint8_t *q = p + 16 + j / 2 * 32;
        int sc, mn;

        hd_k4_scale(p + 4, j, &sc, &mn);
        float ds = d * (float)sc, dm = dmin * (float)mn;

        for (int l = 0; l < 32; l++)
            y[j * 32 + l] = ds * (float)(j % 2 ? q[l] >> 4 : q[l] & 15) - dm;
    }
}

static inline void hd_block_q5_k(const uint8_t *p, float *y)
{
    float d = hd_f16_f32(hd_load16(p)), dmin = hd_f16_f32(hd_load16(p + 2));
    const uint8_t *qh = p + 16;

    for (int j = 0; j < 8; j++) {
        const uint8_t *q = p + 48 + j / 2 * 32;
        int sc, mn;

        hd_k4_scale(p + 4, j, &sc, &mn);
        float ds = d * (float)sc, dm = dmin * (float)mn;

        for (int l = 0; l < 32; l++)
            y[j * 32 + l] = ds * (float)((j % 2 ? q[l] >> 4 : q[l] & 15) + (qh[l] >> j & 1) * 16) - dm;
    }
}

static inline void hd_block_q6_k(const uint8_t *p, float *y)
{
    float d = hd_f16_f32(hd_load16(p + 208));

    for (int half = 0; half < 2; half++) {
        const uint8_t *ql = p + half * 64, *qh = p + 128 + half * 32;
        const int8_t *sc = (const int8_t *)p + 192 + half * 8;

        for (int k = 0; k < 4; k++)
            for (int l = 0; l < 32; l++) {
                int lo = k < 2 ? ql[(k & 1) * 32 + l] & 15 : ql[(k & 1) * 32 + l] >> 4, v = (lo | (qh[l] >> (2 * k) & 3) << 4) - 32;

                y[half * 128 + k * 32 + l] = d * (float)sc[2 * k + l / 16] * (float)v;
            }
    }
}

#endif
