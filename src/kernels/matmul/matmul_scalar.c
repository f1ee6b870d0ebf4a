/* matmul_scalar.c: the definitions: any format, one element after the other. */
#include <math.h>

#include "kernels/table.h"
#include "tensor/blocks.h"
#include "tensor/decode_rows.h"

#define V float
#define V_LANES 1
#define v_load(p) (*(p))
#define v_store(p, v) (*(p) = (v))
#define v_fma(a, b, c) fmaf(a, b, c)
#define NAME(fn) fn##_scalar
#define DECODE hd_decode_any

#include "kernels/matmul/matmul_f32_body.h"

/* One block of 32 weights as integers with a scale for each half and a minimum: value = s[half] * q + m. */
struct block {
    int q[32];
    float s[2], m;
};

static void get_block(enum hd_dtype t, const uint8_t *row, const struct hd_scale *scale, int64_t r, int64_t b, struct block *o)
{
    const uint8_t *p = row + (t == HD_F4_E2M1 ? b * 16 : b * 32 / hd_dtypes[t].block_len * hd_dtypes[t].block_bytes);
    int j = (int)(b % 8), sc, mn;
    uint32_t hi = 0;

    o->m = 0;
    switch (t) {
    case HD_Q8_0:
        for (int i = 0; i < 32; i++)
            o->q[i] = (int8_t)p[2 + i];
        o->s[0] = hd_f16_f32(hd_load16(p));
        break;
    case HD_Q4_0:
    case HD_Q4_1:
    case HD_Q5_0:
    case HD_Q5_1: {
        int five = t == HD_Q5_0 || t == HD_Q5_1, min = t == HD_Q4_1 || t == HD_Q5_1, head = 2 + 2 * min;

        if (five) {
            hi = (uint32_t)hd_load16(p + head) | (uint32_t)hd_load16(p + head + 2) << 16;
            head += 4;
        }
        for (int i = 0; i < 32; i++)
            o->q[i] = (int)((i < 16 ? p[head + i] & 15 : p[head + i - 16] >> 4) | (hi >> i & 1) << 4);
        o->s[0] = hd_f16_f32(hd_load16(p));
        o->m = min ? hd_f16_f32(hd_load16(p + 2)) : o->s[0] * (five ? -16.0f : -8.0f);
        break;
    }
    case HD_MXFP4:
        for (int i = 0; i < 32; i++)
            o->q[i] = hd_e2m1_x2(i < 16 ? p[1 + i] : p[1 + i - 16] >> 4);
        o->s[0] = hd_mxfp4_scale(p[0]);
        break;
    case HD_F4_E2M1:
        for (int i = 0; i < 32; i++)
            o->q[i] = hd_e2m1_x2(i & 1 ? p[i / 2] >> 4 : p[i / 2]);
        for (int h = 0; h < 2; h++)
            o->s[h] = 0.5f * hd_scale_value(scale, r / scale->block_rows * scale->n_col + (b * 32 + h * 16) / scale->block_cols);
        return;
    case HD_Q4_K:
        hd_k4_scale(p + 4, j, &sc, &mn);
        for (int i = 0; i < 32; i++)
            o->q[i] = j % 2 ? p[16 + j / 2 * 32 + i] >> 4 : p[16 + j / 2 * 32 + i] & 15;
        o->s[0] = hd_f16_f32(hd_load16(p)) * (float)sc;
        o->m = -(hd_f16_f32(hd_load16(p + 2)) * (float)mn);
        break;
    case HD_Q6_K: {
        const uint8_t *ql = p + j / 4 * 64, *qh = p + 128 + j / 4 * 32;
        const int8_t *s8 = (const int8_t *)p + 192 + j / 4 * 8;
        int k = j % 4;

        for (int i = 0; i < 32; i++)
            o->q[i] = (int)((k < 2 ? ql[(k & 1) * 32 + i] & 15 : ql[(k & 1) * 32 + i] >> 4) | (qh[i] >> (2 * k) & 3) << 4) - 32;
        for (int h = 0; h < 2; h++)
            o->s[h] = hd_f16_f32(hd_load16(p + 208)) * (float)s8[2 * k + h];
        return;
    }
    default: __builtin_unreachable();
    }
    o->s[1] = o->s[0];
}

static void matmul_q16(enum hd_dtype t, int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out,
                       int64_t ld_out)
{
    for (int64_t r = 0; r < n_row; r++)
        for (int64_t tok = 0; tok < n_tok; tok++) {
            const struct hd_q16 *xq = (const struct hd_q16 *)((const char *)x + tok * x_bytes);
            float sum = 0;

            for (int64_t b = 0; b < n / 32; b++) {
                int64_t half[2] = {0, 0};
                struct block k;

                get_block(t, (const uint8_t *)w->data + (w->row0 + r) * w->row_bytes, w->scale, w->row0 + r, b, &k);
                for (int i = 0; i < 32; i++)
                    half[i / 16] += (int64_t)k.q[i] * xq[b].q[i];
                sum += k.s[0] * xq[b].d * (float)half[0] + k.s[1] * xq[b].d * (float)half[1] + k.m * xq[b].sum;
            }
            out[tok * ld_out + r] = sum;
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

void hd_fill_matmul_q16_scalar(struct hd_kernels *k)
{
#define FILL_Q16(t) k->matmul_q16[HD_##t] = q16_##t;
    HD_EACH_Q16(FILL_Q16)
}
