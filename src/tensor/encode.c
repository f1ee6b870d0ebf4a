/* encode.c: f32 rows into the formats that hadal writes: nearest values, scales from a block's extremes. */
#include <math.h>
#include <string.h>

#include "tensor/blocks.h"
#include "tensor/dtype.h"
#include "tensor/quant_q16.h"
#include "tensor/quant_q8.h"

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static int clampi(float v, int lo, int hi)
{
    int i = (int)nearbyintf(v);

    return i < lo ? lo : i > hi ? hi : i;
}

static float amax_of(const float *x, int n)
{
    float a = 0;

    for (int i = 0; i < n; i++)
        a = fabsf(x[i]) > a ? fabsf(x[i]) : a;
    return a;
}

/* The value of largest magnitude, with its sign: symmetric formats give it the code with the wider side. */
static float extreme(const float *x, int n)
{
    float e = 0;

    for (int i = 0; i < n; i++)
        e = fabsf(x[i]) > fabsf(e) ? x[i] : e;
    return e;
}

static void min_max(const float *x, int n, float *lo, float *hi)
{
    *lo = *hi = x[0];
    for (int i = 1; i < n; i++) {
        *lo = x[i] < *lo ? x[i] : *lo;
        *hi = x[i] > *hi ? x[i] : *hi;
    }
}

static void pack_nibbles(const int q[32], uint8_t *out)
{
    for (int j = 0; j < 16; j++)
        out[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
}

/* q4_0, q5_0: bits 4 or 5, codes centred on half. */
static void encode_centred(const float *x, int bits, uint8_t *out)
{
    int half = 1 << (bits - 1), q[32];
    uint16_t d16 = hd_f32_f16(extreme(x, 32) / (float)-half);
    float d = hd_f16_f32(d16), id = d != 0 ? 1 / d : 0;
    uint32_t hi = 0;

    put16(out, d16);
    for (int i = 0; i < 32; i++) {
        q[i] = clampi(x[i] * id, -half, half - 1) + half;
        hi |= (uint32_t)(q[i] >> 4 & 1) << i;
    }
    if (bits == 5) {
        put16(out + 2, (uint16_t)hi);
        put16(out + 4, (uint16_t)(hi >> 16));
    }
    pack_nibbles(q, out + (bits == 5 ? 6 : 2));
}

/* q4_1, q5_1: codes from a minimum. */
static void encode_from_min(const float *x, int bits, uint8_t *out)
{
    int top = (1 << bits) - 1, q[32];
    float lo, hi, d, m, id;
    uint32_t high = 0;

    min_max(x, 32, &lo, &hi);
    put16(out, hd_f32_f16((hi - lo) / (float)top));
    put16(out + 2, hd_f32_f16(lo));
    d = hd_f16_f32(hd_load16(out));
    m = hd_f16_f32(hd_load16(out + 2));
    id = d != 0 ? 1 / d : 0;
    for (int i = 0; i < 32; i++) {
        q[i] = clampi((x[i] - m) * id, 0, top);
        high |= (uint32_t)(q[i] >> 4 & 1) << i;
    }
    if (bits == 5) {
        put16(out + 4, (uint16_t)high);
        put16(out + 6, (uint16_t)(high >> 16));
    }
    pack_nibbles(q, out + (bits == 5 ? 8 : 4));
}

static void encode_q8_0(const float *x, uint8_t *out)
{
    uint16_t d16 = hd_f32_f16(amax_of(x, 32) / 127);
    float d = hd_f16_f32(d16), id = d != 0 ? 1 / d : 0;

    put16(out, d16);
    for (int i = 0; i < 32; i++)
        out[2 + i] = (uint8_t)(int8_t)clampi(x[i] * id, -127, 127);
}

static int nearest_e2m1(float v)
{
    static const float edge[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5};
    float a = fabsf(v);
    int code = 0;

    while (code < 7 && (a > edge[code] || (a == edge[code] && code % 2)))      /* ties go to the even code */
        code++;
    return code | (v < 0 ? 8 : 0);
}

static void encode_mxfp4(const float *x, uint8_t *out)
{
    float amax = amax_of(x, 32);
    int e = 0, q[32];

    if (amax > 0) {
        int exp;

        frexpf(amax, &exp);                     /* amax in [2^(exp-1), 2^exp): the shared exponent makes it at most 6 or rounds to it */
        e = exp - 1 - 2 + 127;
        e = e < 0 ? 0 : e > 254 ? 254 : e;
    }
    out[0] = (uint8_t)e;
    for (int i = 0; i < 32; i++)
        q[i] = nearest_e2m1(x[i] / hd_e8m0_f32((uint8_t)e));
    pack_nibbles(q, out + 1);
}

static void encode_q4_k(const float *x, uint8_t *out)
{
    float scale[8], min[8], max_scale = 0, max_min = 0, d, dmin;
    int sc[8], mn[8];

    for (int j = 0; j < 8; j++) {
        float lo, hi;

        min_max(x + 32 * j, 32, &lo, &hi);
        lo = lo > 0 ? 0 : lo;
        scale[j] = (hi - lo) / 15;
        min[j] = -lo;
        max_scale = scale[j] > max_scale ? scale[j] : max_scale;
        max_min = min[j] > max_min ? min[j] : max_min;
    }
    memset(out, 0, 144);
    put16(out, hd_f32_f16(max_scale / 63));
    put16(out + 2, hd_f32_f16(max_min / 63));
    d = hd_f16_f32(hd_load16(out));
    dmin = hd_f16_f32(hd_load16(out + 2));
    for (int j = 0; j < 8; j++) {
        uint8_t *q = out + 16 + j / 2 * 32;
        float ds, dm;

        sc[j] = d != 0 ? clampi(scale[j] / d, 0, 63) : 0;
        mn[j] = dmin != 0 ? clampi(min[j] / dmin, 0, 63) : 0;
        ds = d * (float)sc[j];
        dm = dmin * (float)mn[j];
        for (int l = 0; l < 32; l++) {
            int v = ds != 0 ? clampi((x[32 * j + l] + dm) / ds, 0, 15) : 0;

            q[l] |= (uint8_t)(j % 2 ? v << 4 : v);
        }
    }
    for (int j = 0; j < 4; j++) {
        out[4 + j] = (uint8_t)(sc[j] | sc[j + 4] >> 4 << 6);
        out[8 + j] = (uint8_t)(mn[j] | mn[j + 4] >> 4 << 6);
        out[12 + j] = (uint8_t)((sc[j + 4] & 15) | (mn[j + 4] & 15) << 4);
    }
}

static void encode_q6_k(const float *x, uint8_t *out)
{
    float scale[16], top = 0, d;

    for (int j = 0; j < 16; j++) {
        scale[j] = extreme(x + 16 * j, 16) / -32;
        top = fabsf(scale[j]) > fabsf(top) ? scale[j] : top;
    }
    memset(out, 0, 210);
    put16(out + 208, hd_f32_f16(top / -128));
    d = hd_f16_f32(hd_load16(out + 208));
    for (int j = 0; j < 16; j++)
        out[192 + j] = (uint8_t)(int8_t)(d != 0 ? clampi(scale[j] / d, -128, 127) : 0);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, k = i % 128 / 32, l = i % 32;
        float ds = d * (float)(int8_t)out[192 + i / 16];
        int v = ds != 0 ? clampi(x[i] / ds, -32, 31) + 32 : 32;

        out[half * 64 + (k & 1) * 32 + l] |= (uint8_t)(k < 2 ? v & 15 : (v & 15) << 4);
        out[128 + half * 32 + l] |= (uint8_t)(v >> 4 << (2 * k));
    }
}

bool hd_encode_row(enum hd_dtype t, const float *x, int64_t n, void *dst)
{
    uint8_t *out = dst;
    int64_t len = hd_dtypes[t].block_len, bytes = hd_dtypes[t].block_bytes;

    if (t == HD_Q16) {
        hd_q16_encode(x, n, dst);
        return true;
    }
    if (t == HD_Q8) {
        hd_q8_encode(x, n, dst);
        return true;
    }
    for (int64_t i = 0; i < n / len; i++, x += len, out += bytes) {
        switch (t) {
        case HD_F32: memcpy(out, x, 4); break;
        case HD_F16: put16(out, hd_f32_f16(*x)); break;
        case HD_BF16: put16(out, hd_f32_bf16(*x)); break;
        case HD_F8_E4M3: *out = hd_f32_e4m3(*x); break;
        case HD_Q4_0: encode_centred(x, 4, out); break;
        case HD_Q5_0: encode_centred(x, 5, out); break;
        case HD_Q4_1: encode_from_min(x, 4, out); break;
        case HD_Q5_1: encode_from_min(x, 5, out); break;
        case HD_Q8_0: encode_q8_0(x, out); break;
        case HD_MXFP4: encode_mxfp4(x, out); break;
        case HD_Q4_K: encode_q4_k(x, out); break;
        case HD_Q6_K: encode_q6_k(x, out); break;
        default: return false;
        }
    }
    return true;
}

void hd_q16_encode(const float *x, int64_t n, struct hd_q16 *out)
{
    for (int64_t b = 0; b < n / 32; b++, x += 32, out++) {
        float amax = amax_of(x, 32), id = amax > 1e-30f ? 32767 / amax : 0;     /* below, 32767 / amax could overflow */
        int32_t sum = 0;

        out->d = amax / 32767;
        for (int i = 0; i < 32; i++) {
            out->q[i] = (int16_t)nearbyintf(x[i] * id);
            sum += out->q[i];
        }
        out->sum = out->d * (float)sum;
    }
}

void hd_q8_encode(const float *x, int64_t n, struct hd_q8 *out)
{
    int8_t *fine = (int8_t *)(out + n / 32);
    struct hd_q8_half *half = (struct hd_q8_half *)(fine + n);

    for (int64_t b = 0; b < n / 32; b++, x += 32, out++, fine += 32, half++) {
        float amax = amax_of(x, 32), id = amax > 1e-30f ? 127 / amax : 0;
        int32_t sum = 0, squares = 0, rest = 0;

        for (int i = 0; i < 32; i++) {
            float t = x[i] * id, q = nearbyintf(t);

            out->q[i] = (int8_t)q;
            fine[i] = (int8_t)nearbyintf((t - q) * 254);
            sum += out->q[i];
            squares += out->q[i] * out->q[i];
            rest += fine[i];
            if (i == 15)
                *half = (struct hd_q8_half){(int16_t)-sum, (int16_t)-rest};
        }
        out->has_fine = squares < HD_Q8_OUTLIER && id > 0;
        out->d = amax / 127;
        out->sum = out->d * (out->has_fine ? (float)sum + (float)rest * HD_Q8_FINE : (float)sum);
        out->neg = -sum;
        out->fine_neg = (int16_t)-rest;
    }
}
