/* panel_neon.c: panels on NEON with dot products, four lanes: each panel in four quarters. */
#pragma GCC optimize("O3")
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define V float32x4_t
#define VI int8x16_t
#define VS int32x4_t
#define L 4
#define P_TILE 1
#define P_MAX 4
#define F_TOK 6
#define v_zero() vdupq_n_f32(0)
#define v_set1 vdupq_n_f32
#define v_load vld1q_f32
#define v_store vst1q_f32
#define v_mul vmulq_f32
#define v_fma(a, b, c) vfmaq_f32(c, a, b)
#define v_of_int vcvtq_f32_s32
#define v_f16(p) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)(p))))
#define v_i8(p) vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(load_four(p)))))
#define w_shl vshlq_n_s8
#define w_shr(v, n) vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), n))
#define w_or(w, v, mask) vorrq_s8(w, vandq_s8(v, vdupq_n_s8(mask)))
#define vi_load(p) vld1q_s8((const int8_t *)(p))
#define vs_word vdupq_n_s32
#define vs_shl vshlq_n_s32
#define prefetch_near(p) __builtin_prefetch(p, 0, 3)
#define prefetch_far(p) __builtin_prefetch(p, 0, 2)

#define NIBBLE_SHIFT 0                /* signed times signed: no offsets but q4_0's own */
#define BYTE_SHIFT 0

static inline int8x8_t load_four(const void *p)
{
    uint32_t word;

    memcpy(&word, p, 4);
    return vcreate_s8(word);
}

static inline float32x4_t v_e8m0(const uint8_t *p)
{
    uint32x4_t e = vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_s8(load_four(p)))));

    return vreinterpretq_f32_u32(vmaxq_u32(vshlq_n_u32(e, 23), vdupq_n_u32(0x400000)));
}

static inline void w_nibbles(int8x16_t v, int8x16_t *lo, int8x16_t *hi)
{
    uint8x16_t u = vreinterpretq_u8_s8(v);

    *lo = vreinterpretq_s8_u8(vandq_u8(u, vdupq_n_u8(15)));
    *hi = vreinterpretq_s8_u8(vshrq_n_u8(u, 4));
}

static inline int8x16_t w_e2m1(int8x16_t nibble)
{
    static const int8_t value[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

    return vqtbl1q_s8(vld1q_s8(value), vreinterpretq_u8_s8(nibble));
}

#define w_byte(v) (v)

static inline int32x4_t dot8(const int8x16_t w[8], const int8_t *x, int32x4_t init)
{
    for (int g = 0; g < 8; g++) {
        int32_t word;

        memcpy(&word, x + 4 * g, 4);
        init = vdotq_s32(init, w[g], vreinterpretq_s8_s32(vdupq_n_s32(word)));
    }
    return init;
}

#define dot8_bytes dot8

static inline int32x4_t dot4_six(const int8x16_t w[4], const int8_t *x, int32x4_t init)
{
    for (int g = 0; g < 4; g++) {
        int32_t word;

        memcpy(&word, x + 4 * g, 4);
        init = vdotq_s32(init, w[g], vreinterpretq_s8_s32(vdupq_n_s32(word)));
    }
    return init;
}

/* e4m3 in the upper bytes of words as bf16, times 2^-120. */
static inline uint32x4_t move_bits(uint16x8_t v)
{
    return vreinterpretq_u32_u16(vorrq_u16(vandq_u16(v, vdupq_n_u16(0x8000)), vandq_u16(vshrq_n_u16(v, 4), vdupq_n_u16(0x07F0))));
}

static inline void v_fp8(const uint8_t *p, float32x4_t out[4])
{
    const uint32x4_t high = vdupq_n_u32(0xFFFF0000);
    uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(p));
    uint32x4_t even = move_bits(vshlq_n_u16(v, 8)), odd = move_bits(v);

    out[0] = vreinterpretq_f32_u32(vshlq_n_u32(even, 16));
    out[1] = vreinterpretq_f32_u32(vandq_u32(even, high));
    out[2] = vreinterpretq_f32_u32(vshlq_n_u32(odd, 16));
    out[3] = vreinterpretq_f32_u32(vandq_u32(odd, high));
}

static inline void v_bf16(const uint8_t *p, float32x4_t out[4])
{
    for (int j = 0; j < 2; j++) {
        uint32x4_t v = vld1q_u32((const uint32_t *)(p + j * 64));

        out[2 * j] = vreinterpretq_f32_u32(vshlq_n_u32(v, 16));
        out[2 * j + 1] = vreinterpretq_f32_u32(vandq_u32(v, vdupq_n_u32(0xFFFF0000)));
    }
}

#define PANEL_FILL hd_fill_panel_neon
#include "kernels/panel/panel_body.h"
