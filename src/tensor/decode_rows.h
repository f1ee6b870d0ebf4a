/* decode_rows.h: a row of any weight format as f32. Static inline: dtype.c compiles it plainly, kernels/vec/decode_*.c under
 * the flags of their ISA for the compiler to vectorise. The result is the same bit for bit: no contraction, no reordering. */
#ifndef HD_TENSOR_DECODE_ROWS_H
#define HD_TENSOR_DECODE_ROWS_H

#include "tensor/blocks.h"
#include "tensor/dtype.h"

static inline float hd_scale_value(const struct hd_scale *s, int64_t i)
{
    const uint8_t *p = s->data;

    switch (s->type) {
    case HD_F32: {
        float f;

        memcpy(&f, p + 4 * i, 4);
        return f;
    }
    case HD_BF16: return hd_bf16_f32(hd_load16(p + 2 * i));
    case HD_F8_E8M0: return hd_e8m0_f32(p[i]);
    case HD_F8_E4M3: return hd_e4m3_f32(p[i]) * s->global;
    default: return 1;
    }
}

#define HD_DECODE_BLOCKS(fmt, len, bytes)           \
    for (int64_t i = 0; i < n / (len); i++)         \
        hd_block_##fmt(p + i * (bytes), out + i * (len));

/* p: the row's first byte; r: its index, for the scales. */
static inline void hd_decode_any(enum hd_dtype t, const uint8_t *p, const struct hd_scale *s, int64_t r, int64_t n, float *out)
{
    int64_t base = s && s->data ? r / s->block_rows * s->n_col : 0;

    switch (t) {
    case HD_F32: memcpy(out, p, (size_t)n * 4); break;
    case HD_F16:
        for (int64_t i = 0; i < n; i++)
            out[i] = hd_f16_f32(hd_load16(p + 2 * i));
        break;
    case HD_BF16:
        for (int64_t i = 0; i < n; i++)
            out[i] = hd_bf16_f32(hd_load16(p + 2 * i));
        break;
    case HD_F64:
        for (int64_t i = 0; i < n; i++) {
            double d;

            memcpy(&d, p + 8 * i, 8);
            out[i] = (float)d;
        }
        break;
    case HD_F8_E4M3:
        for (int64_t i = 0; i < n;) {
            int64_t end = s && s->data ? (i / s->block_cols + 1) * s->block_cols : n;
            float scale = s && s->data ? hd_scale_value(s, base + i / s->block_cols) : 1;

            for (end = end < n ? end : n; i < end; i++)
                out[i] = hd_e4m3_f32(p[i]) * scale;
        }
        break;
    case HD_F4_E2M1:
        for (int64_t i = 0; i < n;) {
            int64_t end = s && s->data ? (i / s->block_cols + 1) * s->block_cols : n;
            float scale = s && s->data ? hd_scale_value(s, base + i / s->block_cols) : 1;

            for (end = end < n ? end : n; i < end; i++)
                out[i] = hd_e2m1_f32(i & 1 ? p[i / 2] >> 4 : p[i / 2] & 15) * scale;
        }
        break;
    case HD_Q4_0: HD_DECODE_BLOCKS(q4_0, 32, 18) break;
    case HD_Q4_1: HD_DECODE_BLOCKS(q4_1, 32, 20) break;
    case HD_Q5_0: HD_DECODE_BLOCKS(q5_0, 32, 22) break;
    case HD_Q5_1: HD_DECODE_BLOCKS(q5_1, 32, 24) break;
    case HD_Q8_0: HD_DECODE_BLOCKS(q8_0, 32, 34) break;
    case HD_Q2_K: HD_DECODE_BLOCKS(q2_k, 256, 84) break;
    case HD_Q3_K: HD_DECODE_BLOCKS(q3_k, 256, 110) break;
    case HD_Q4_K: HD_DECODE_BLOCKS(q4_k, 256, 144) break;
    case HD_Q5_K: HD_DECODE_BLOCKS(q5_k, 256, 176) break;
    case HD_Q6_K: HD_DECODE_BLOCKS(q6_k, 256, 210) break;
    case HD_MXFP4: HD_DECODE_BLOCKS(mxfp4, 32, 17) break;
    default: __builtin_unreachable();
    }
}

#endif
