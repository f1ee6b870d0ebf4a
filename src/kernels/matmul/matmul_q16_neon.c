/* matmul_q16_neon.c: quantised weights times q16 activations on NEON.
 *
 * A block of 32 weights becomes 32 int8, widened to int16; smlal sums products exactly in int32 (8 products a lane at most,
 * |w| <= 128: far from overflow), which are scaled into 4 f32 lanes. An element's order is fixed: blocks ascending, one tree.
 */
#pragma GCC optimize("O3")
#include <arm_neon.h>
#include <math.h>

#include "kernels/table.h"
#include "tensor/decode_rows.h"

struct block {
    int8x16_t w0, w1;             /* weights 0..15 and 16..31 */
    float s0, s1, m;              /* scale of each half, minimum */
};

static inline void nibbles(const uint8_t *p, struct block *b)
{
    uint8x16_t v = vld1q_u8(p);

    b->w0 = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
    b->w1 = vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
}

/* Bit i of hi becomes bit 4 of weight i. */
static inline void fifth_bit(const uint8_t *p, struct block *b)
{
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t bits = vld1q_u8(bit), sixteen = vdupq_n_u8(16);
    uint8x16_t lo = vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1])), hi = vcombine_u8(vdup_n_u8(p[2]), vdup_n_u8(p[3]));

    b->w0 = vorrq_s8(b->w0, vreinterpretq_s8_u8(vandq_u8(vtstq_u8(lo, bits), sixteen)));
    b->w1 = vorrq_s8(b->w1, vreinterpretq_s8_u8(vandq_u8(vtstq_u8(hi, bits), sixteen)));
}

static inline float f16(const uint8_t *p)
{
    return hd_f16_f32(hd_load16(p));
}

static inline __attribute__((always_inline)) void get_block(enum hd_dtype t, const uint8_t *row, const struct hd_scale *scale, int64_t base, int64_t i,
                                                            struct block *b)
{
    static const int8_t e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    int j = (int)(i % 8), sc, mn;
    const uint8_t *p;

    b->m = 0;
    switch (t) {
    case HD_Q8_0:
        p = row + i * 34;
        b->w0 = vld1q_s8((const int8_t *)p + 2);
        b->w1 = vld1q_s8((const int8_t *)p + 18);
        b->s0 = f16(p);
        break;
    case HD_Q4_0:
        p = row + i * 18;
        nibbles(p + 2, b);
        b->s0 = f16(p);
        b->m = b->s0 * -8;
        break;
    case HD_Q4_1:
        p = row + i * 20;
        nibbles(p + 4, b);
        b->s0 = f16(p);
        b->m = f16(p + 2);
        break;
    case HD_Q5_0:
        p = row + i * 22;
        nibbles(p + 6, b);
        fifth_bit(p + 2, b);
        b->s0 = f16(p);
        b->m = b->s0 * -16;
        break;
    case HD_Q5_1:
        p = row + i * 24;
        nibbles(p + 8, b);
        fifth_bit(p + 4, b);
        b->s0 = f16(p);
        b->m = f16(p + 2);
        break;
    case HD_MXFP4:
        p = row + i * 17;
        nibbles(p + 1, b);
        b->w0 = vqtbl1q_s8(vld1q_s8(e2m1), vreinterpretq_u8_s8(b->w0));
        b->w1 = vqtbl1q_s8(vld1q_s8(e2m1), vreinterpretq_u8_s8(b->w1));
        b->s0 = hd_mxfp4_scale(p[0]);
        break;
    case HD_F4_E2M1: {
        int8x16_t lo, hi;

        nibbles(row + i * 16, b);
        lo = vqtbl1q_s8(vld1q_s8(e2m1), vreinterpretq_u8_s8(b->w0));
        hi = vqtbl1q_s8(vld1q_s8(e2m1), vreinterpretq_u8_s8(b->w1));
        b->w0 = vzip1q_s8(lo, hi);
        b->w1 = vzip2q_s8(lo, hi);
        b->s0 = 0.5f * hd_scale_value(scale, base + i * 32 / scale->block_cols);
        b->s1 = 0.5f * hd_scale_value(scale, base + (i * 32 + 16) / scale->block_cols);
        return;
    }
    case HD_Q4_K: {
        uint8x16_t v0, v1;

        p = row + i / 8 * 144;
        v0 = vld1q_u8(p + 16 + j / 2 * 32);
        v1 = vld1q_u8(p + 32 + j / 2 * 32);
        b->w0 = vreinterpretq_s8_u8(j % 2 ? vshrq_n_u8(v0, 4) : vandq_u8(v0, vdupq_n_u8(15)));
        b->w1 = vreinterpretq_s8_u8(j % 2 ? vshrq_n_u8(v1, 4) : vandq_u8(v1, vdupq_n_u8(15)));
        hd_k4_scale(p + 4, j, &sc, &mn);
        b->s0 = f16(p) * (float)sc;
        b->m = -(f16(p + 2) * (float)mn);
        break;
    }
    case HD_Q6_K: {
        int k = j % 4;
        const uint8_t *ql, *qh;
        const int8_t *s8;
        int8x16_t *w[2] = {&b->w0, &b->w1};

        p = row + i / 8 * 210;
        ql = p + j / 4 * 64 + (k & 1) * 32;
        qh = p + 128 + j / 4 * 32;
        s8 = (const int8_t *)p + 192 + j / 4 * 8;
        for (int h = 0; h < 2; h++) {
            uint8x16_t lo = vld1q_u8(ql + 16 * h), hi = vshlq_u8(vld1q_u8(qh + 16 * h), vdupq_n_s8((int8_t)(-2 * k)));

            lo = k < 2 ? vandq_u8(lo, vdupq_n_u8(15)) : vshrq_n_u8(lo, 4);
            hi = vshlq_n_u8(vandq_u8(hi, vdupq_n_u8(3)), 4);
            *w[h] = vsubq_s8(vreinterpretq_s8_u8(vorrq_u8(lo, hi)), vdupq_n_s8(32));
        }
        b->s0 = f16(p + 208) * (float)s8[2 * k];
        b->s1 = f16(p + 208) * (float)s8[2 * k + 1];
        return;
    }
    default: __builtin_unreachable();
    }
    b->s1 = b->s0;
}

/* Exact sum of 16 products, in four lanes. */
static inline int32x4_t madd16(int8x16_t w, const int16_t *x)
{
    int16x8_t lo = vmovl_s8(vget_low_s8(w)), hi = vmovl_s8(vget_high_s8(w)), x0 = vld1q_s16(x), x1 = vld1q_s16(x + 8);
    int32x4_t s;

    s = vmull_s16(vget_low_s16(lo), vget_low_s16(x0));
    s = vmlal_s16(s, vget_high_s16(lo), vget_high_s16(x0));
    s = vmlal_s16(s, vget_low_s16(hi), vget_low_s16(x1));
    return vmlal_s16(s, vget_high_s16(hi), vget_high_s16(x1));
}

#define T_MAX 4

static inline __attribute__((always_inline)) void tile(enum hd_dtype t, int T, int64_t n_block, const struct hd_wrows *w, int64_t row, const char *x, int64_t x_bytes,
                                                       float *out, int64_t ld_out)
{
    const uint8_t *p = (const uint8_t *)w->data + row * w->row_bytes;
    int64_t base = w->scale ? row / w->scale->block_rows * w->scale->n_col : 0;
    float32x4_t acc[T_MAX];
    float min[T_MAX] = {0};

    for (int k = 0; k < T; k++)
        acc[k] = vdupq_n_f32(0);
    for (int64_t i = 0; i < n_block; i++) {
        struct block b;

        get_block(t, p, w->scale, base, i, &b);
        for (int k = 0; k < T; k++) {
            const struct hd_q16 *q = (const struct hd_q16 *)(x + k * x_bytes) + i;
            acc[k] = vfmaq_n_f32(acc[k], vcvtq_f32_s32(madd16(b.w0, q->q)), b.s0 * q->d);
            acc[k] = vfmaq_n_f32(acc[k], vcvtq_f32_s32(madd16(b.w1, q->q + 16)), b.s1 * q->d);
            min[k] = fmaf(b.m, q->sum, min[k]);
        }
    }
    for (int k = 0; k < T; k++)
        out[k * ld_out] = vaddvq_f32(acc[k]) + min[k];
}

static inline __attribute__((always_inline)) void matmul_q16(enum hd_dtype t, int64_t n, const struct hd_wrows *w, int64_t n_row, const char *x, int64_t x_bytes,
                                                             int64_t n_tok, float *out, int64_t ld_out)
{
    for (int64_t r = 0; r < n_row; r++) {
        int64_t k = 0;

        for (; k + 4 <= n_tok; k += 4)
            tile(t, 4, n / 32, w, w->row0 + r, x + k * x_bytes, x_bytes, out + k * ld_out + r, ld_out);
        for (; k < n_tok; k++)
            tile(t, 1, n / 32, w, w->row0 + r, x + k * x_bytes, x_bytes, out + k * ld_out + r, ld_out);
    }
}

#define HD_EACH_Q16(M) M(Q4_0) M(Q4_1) M(Q5_0) M(Q5_1) M(Q8_0) M(Q4_K) M(Q6_K) M(MXFP4) M(F4_E2M1)

#define DEFINE_Q16(t)                                                                                                                          \
    static void q16_##t(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out,          \
                        int64_t ld_out)                                                                                                        \
    {                                                                                                                                          \
        matmul_q16(HD_##t, n, w, n_row, x, x_bytes, n_tok, out, ld_out);                                                                       \
    }
HD_EACH_Q16(DEFINE_Q16)

void hd_fill_matmul_q16_neon(struct hd_kernels *k)
{
#define FILL_Q16(t) k->matmul_q16[HD_##t] = q16_##t;
    HD_EACH_Q16(FILL_Q16)
}
