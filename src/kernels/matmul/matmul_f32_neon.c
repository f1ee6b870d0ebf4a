/* matmul_f32_neon.c: exact products on NEON: see matmul_f32_body.h. Two registers make a vector of eight lanes. */
#pragma GCC optimize("O3")
#include <arm_neon.h>

struct v8 {
    float32x4_t lo, hi;
};

static inline struct v8 load8(const float *p)
{
    return (struct v8){vld1q_f32(p), vld1q_f32(p + 4)};
}

static inline void store8(float *p, struct v8 v)
{
    vst1q_f32(p, v.lo);
    vst1q_f32(p + 4, v.hi);
}

static inline struct v8 fma8(struct v8 a, struct v8 b, struct v8 c)
{
    return (struct v8){vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)};
}

#define V struct v8
#define V_LANES 8
#define v_load load8
#define v_store store8
#define v_fma fma8
#define NAME(fn) fn##_neon
#include "tensor/decode_rows.h"
#define DECODE hd_decode_any

#include "kernels/matmul/matmul_f32_body.h"
