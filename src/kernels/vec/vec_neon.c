/* vec_neon.c: the row kernels on NEON where they pay; the others stay scalar (the compiler vectorises the element-wise ones). */
#pragma GCC optimize("O3")
#include <arm_neon.h>
#include <math.h>

#include "kernels/table.h"
#include "tensor/blocks.h"

static float dot_f32(int64_t n, const float *a, const float *b)
{
    float32x4_t s[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    int64_t i = 0;
    float sum;

    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 4; k++)
            s[k] = vfmaq_f32(s[k], vld1q_f32(a + i + 4 * k), vld1q_f32(b + i + 4 * k));
    sum = vaddvq_f32(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
    for (; i < n; i++)
        sum = fmaf(a[i], b[i], sum);
    return sum;
}

static float32x4_t half4(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

static float dot_f16(int64_t n, const uint16_t *a, const float *b)
{
    float32x4_t s0 = vdupq_n_f32(0), s1 = s0;
    int64_t i = 0;
    float sum;

    for (; i + 8 <= n; i += 8) {
        s0 = vfmaq_f32(s0, half4(a + i), vld1q_f32(b + i));
        s1 = vfmaq_f32(s1, half4(a + i + 4), vld1q_f32(b + i + 4));
    }
    sum = vaddvq_f32(vaddq_f32(s0, s1));
    for (; i < n; i++)
        sum = fmaf(hd_f16_f32(a[i]), b[i], sum);
    return sum;
}

static void axpy_f32(int64_t n, float a, const float *x, float *y)
{
    int64_t i = 0;

    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vfmaq_n_f32(vld1q_f32(y + i), vld1q_f32(x + i), a));
    for (; i < n; i++)
        y[i] = fmaf(a, x[i], y[i]);
}

static void axpy_f16(int64_t n, float a, const uint16_t *x, float *y)
{
    int64_t i = 0;

    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vfmaq_n_f32(vld1q_f32(y + i), half4(x + i), a));
    for (; i < n; i++)
        y[i] = fmaf(a, hd_f16_f32(x[i]), y[i]);
}

static void f32_to_f16(int64_t n, const float *x, uint16_t *out)
{
    int64_t i = 0;

    for (; i + 4 <= n; i += 4)
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    for (; i < n; i++)
        out[i] = hd_f32_f16(x[i]);
}

static void q16_encode(const float *x, int64_t n, struct hd_q16 *out)
{
    for (int64_t b = 0; b < n / 32; b++, x += 32, out++) {
        float32x4_t m = vdupq_n_f32(0);
        int32x4_t sum = vdupq_n_s32(0);
        float amax, id;

        for (int i = 0; i < 8; i++)
            m = vmaxq_f32(m, vabsq_f32(vld1q_f32(x + 4 * i)));
        amax = vmaxvq_f32(m);
        id = amax > 1e-30f ? 32767 / amax : 0;
        for (int i = 0; i < 8; i++) {
            int32x4_t q = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), id));

            sum = vaddq_s32(sum, q);
            vst1_s16(out->q + 4 * i, vqmovn_s32(q));
        }
        out->d = amax / 32767;
        out->sum = out->d * (float)vaddvq_s32(sum);
    }
}

void hd_fill_vec_neon(struct hd_kernels *k)
{
    k->q16_encode = q16_encode;
    k->dot_f32 = dot_f32;
    k->dot_f16 = dot_f16;
    k->axpy_f32 = axpy_f32;
    k->axpy_f16 = axpy_f16;
    k->f32_to_f16 = f32_to_f16;
}
