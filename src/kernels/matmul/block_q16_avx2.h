/* block_q16_avx2.h: 32 weights of a quantised format as two vectors of int16, with what turns them into numbers. */
#ifndef HD_KERNELS_MATMUL_BLOCK_Q16_AVX2_H
#define HD_KERNELS_MATMUL_BLOCK_Q16_AVX2_H

#include "kernels/x86.h"
#include "tensor/decode_rows.h"

struct block {
    __m256i w0, w1;               /* weights 0..15 and 16..31 */
    float s0, s1, m;              /* scale of each half, minimum */
};

static inline float f16(const uint8_t *p)
{
    return _cvtsh_ss(hd_load16(p));
}

static inline void nibbles(const uint8_t *p, struct block *b)
{
    __m128i v = _mm_loadu_si128((const __m128i *)p), mask = _mm_set1_epi8(15);

    b->w0 = _mm256_cvtepu8_epi16(_mm_and_si128(v, mask));
    b->w1 = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(v, 4), mask));
}

/* Bit i of hi becomes bit 4 of weight i. */
static inline void fifth_bit(uint32_t hi, struct block *b)
{
    __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768), sixteen = _mm256_set1_epi16(16);
    __m256i h0 = _mm256_and_si256(_mm256_set1_epi16((short)hi), bit), h1 = _mm256_and_si256(_mm256_set1_epi16((short)(hi >> 16)), bit);

    b->w0 = _mm256_or_si256(b->w0, _mm256_and_si256(_mm256_cmpeq_epi16(h0, bit), sixteen));
    b->w1 = _mm256_or_si256(b->w1, _mm256_and_si256(_mm256_cmpeq_epi16(h1, bit), sixteen));
}

static inline uint32_t load32(const uint8_t *p)
{
    return (uint32_t)hd_load16(p) | (uint32_t)hd_load16(p + 2) << 16;
}

#define E2M1_TABLE _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

static inline __attribute__((always_inline)) void get_block(enum hd_dtype t, const uint8_t *row, const struct hd_scale *scale, int64_t base, int64_t i,
                                                            struct block *b)
{
    const uint8_t *p;
    int sc, mn, j = (int)(i % 8);

    b->m = 0;
    switch (t) {
    case HD_Q8_0:
        p = row + i * 34;
        b->w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(p + 2)));
        b->w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(p + 18)));
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
        fifth_bit(load32(p + 2), b);
        b->s0 = f16(p);
        b->m = b->s0 * -16;
        break;
    case HD_Q5_1:
        p = row + i * 24;
        nibbles(p + 8, b);
        fifth_bit(load32(p + 4), b);
        b->s0 = f16(p);
        b->m = f16(p + 2);
        break;
    case HD_MXFP4: {
        __m128i v, mask = _mm_set1_epi8(15);

        p = row + i * 17;
        v = _mm_loadu_si128((const __m128i *)(p + 1));
        b->w0 = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(E2M1_TABLE, _mm_and_si128(v, mask)));
        b->w1 = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(E2M1_TABLE, _mm_and_si128(_mm_srli_epi16(v, 4), mask)));
        b->s0 = hd_mxfp4_scale(p[0]);
        break;
    }
    case HD_F4_E2M1: {
        __m128i v, mask = _mm_set1_epi8(15), lo, hi;

        p = row + i * 16;
        v = _mm_loadu_si128((const __m128i *)p);
        lo = _mm_shuffle_epi8(E2M1_TABLE, _mm_and_si128(v, mask));
        hi = _mm_shuffle_epi8(E2M1_TABLE, _mm_and_si128(_mm_srli_epi16(v, 4), mask));
        b->w0 = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(lo, hi));
        b->w1 = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(lo, hi));
        b->s0 = 0.5f * hd_scale_value(scale, base + i * 32 / scale->block_cols);
        b->s1 = 0.5f * hd_scale_value(scale, base + (i * 32 + 16) / scale->block_cols);
        return;
    }
    case HD_Q4_K: {
        __m256i v, mask = _mm256_set1_epi8(15);

        p = row + i / 8 * 144;
        v = _mm256_loadu_si256((const __m256i *)(p + 16 + j / 2 * 32));
        v = _mm256_and_si256(j % 2 ? _mm256_srli_epi16(v, 4) : v, mask);
        b->w0 = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(v));
        b->w1 = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(v, 1));
        hd_k4_scale(p + 4, j, &sc, &mn);
        b->s0 = f16(p) * (float)sc;
        b->m = -(f16(p + 2) * (float)mn);
        break;
    }
    case HD_Q6_K: {
        __m256i lo, hi, v;
        int k = j % 4;
        const int8_t *s8;
        float d;

        p = row + i / 8 * 210;
        s8 = (const int8_t *)p + 192 + j / 4 * 8;
        d = f16(p + 208);
        lo = _mm256_loadu_si256((const __m256i *)(p + j / 4 * 64 + (k & 1) * 32));
        lo = _mm256_and_si256(k < 2 ? lo : _mm256_srli_epi16(lo, 4), _mm256_set1_epi8(15));
        hi = _mm256_srl_epi16(_mm256_loadu_si256((const __m256i *)(p + 128 + j / 4 * 32)), _mm_cvtsi32_si128(2 * k));
        hi = _mm256_slli_epi16(_mm256_and_si256(hi, _mm256_set1_epi8(3)), 4);
        v = _mm256_sub_epi8(_mm256_or_si256(lo, hi), _mm256_set1_epi8(32));
        b->w0 = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v));
        b->w1 = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1));
        b->s0 = d * (float)s8[2 * k];
        b->s1 = d * (float)s8[2 * k + 1];
        return;
    }
    default: __builtin_unreachable();
    }
    b->s1 = b->s0;
}

/* Formats that the fast mode multiplies with q16 activations. */
#define HD_EACH_Q16(M) M(Q4_0) M(Q4_1) M(Q5_0) M(Q5_1) M(Q8_0) M(Q4_K) M(Q6_K) M(MXFP4) M(F4_E2M1)

/* Two scales a block, or a minimum? (constants once inlined) */
static inline bool has_halves(enum hd_dtype t)
{
    return t == HD_Q6_K || t == HD_F4_E2M1;
}

static inline bool has_min(enum hd_dtype t)
{
    return t != HD_Q8_0 && t != HD_MXFP4 && !has_halves(t);
}

#endif
