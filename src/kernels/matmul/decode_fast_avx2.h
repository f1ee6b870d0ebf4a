/* decode_fast_avx2.h: hd_decode_any() with hand-written AVX2 for the formats that a compiler does not vectorise well; the
 * others are the same text under -O3. Bit-equal to it. */
#ifndef HD_KERNELS_MATMUL_DECODE_FAST_AVX2_H
#define HD_KERNELS_MATMUL_DECODE_FAST_AVX2_H

#include "kernels/x86.h"
#include "tensor/decode_rows.h"

/* E4M3 through FP16 bits: exact, subnormals included, at full speed; x 256 undoes the difference of the exponents' biases.
 * (Bits placed raw into an f32 exponent would make denormals, at a tenth of the speed.) */
static inline __m256 hd_e4m3x8_avx2(const uint8_t *p)
{
    __m128i v = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p)), low = _mm_and_si128(v, _mm_set1_epi16(0x7F));
    __m128i h = _mm_or_si128(_mm_slli_epi16(_mm_and_si128(v, _mm_set1_epi16(0x80)), 8), _mm_slli_epi16(low, 7));
    __m128i nan = _mm_cmpeq_epi16(low, _mm_set1_epi16(0x7F));
    __m256 f = _mm256_mul_ps(_mm256_cvtph_ps(h), _mm256_set1_ps(256));

    return _mm256_or_ps(f, _mm256_and_ps(_mm256_castsi256_ps(_mm256_cvtepi16_epi32(nan)), _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000))));
}

/* out[i] = p[i] * scale for n values, n a multiple of 32. A byte in the upper half of an int16, shifted right by one with its sign, is an
 * f16 of 2^-8 times the value once bit 14 is cleared. False where there was a NaN, which does not fit that. */
static inline bool hd_e4m3_avx2(const uint8_t *p, int64_t n, float scale, float *out)
{
    const __m256i clear = _mm256_set1_epi16((short)0xBFFF), magnitude = _mm256_set1_epi8(0x7F), zero = _mm256_setzero_si256();
    const __m256 f = _mm256_set1_ps(256 * scale);
    __m256i most = zero;

    for (int64_t i = 0; i < n; i += 32) {
        __m256i b = _mm256_loadu_si256((const __m256i *)(p + i));
        __m256i lo = _mm256_and_si256(_mm256_srai_epi16(_mm256_unpacklo_epi8(zero, b), 1), clear), hi = _mm256_and_si256(_mm256_srai_epi16(_mm256_unpackhi_epi8(zero, b), 1), clear);

        most = _mm256_max_epu8(most, _mm256_and_si256(b, magnitude));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(lo)), f));
        _mm256_storeu_ps(out + i + 8, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(hi)), f));
        _mm256_storeu_ps(out + i + 16, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(lo, 1)), f));
        _mm256_storeu_ps(out + i + 24, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(hi, 1)), f));
    }
    return !_mm256_movemask_epi8(_mm256_cmpeq_epi8(most, magnitude));
}

static inline void hd_decode_fast(enum hd_dtype t, const uint8_t *p, const struct hd_scale *s, int64_t r, int64_t n, float *out)
{
    int64_t i = 0;

    switch (t) {
    case HD_F16:
        for (; i + 8 <= n; i += 8)
            _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 2 * i))));
        hd_decode_any(t, p + 2 * i, s, r, n - i, out + i);
        return;
    case HD_BF16:
        for (; i + 8 <= n; i += 8)
            _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 2 * i))), 16)));
        hd_decode_any(t, p + 2 * i, s, r, n - i, out + i);
        return;
    case HD_F8_E4M3: {
        int64_t base = s && s->data ? r / s->block_rows * s->n_col : 0, block = s && s->data ? s->block_cols : n;

        while (i < n) {
            int64_t end = (i / block + 1) * block;
            float scale = s && s->data ? hd_scale_value(s, base + i / block) : 1;

            end = end < n ? end : n;
            if (hd_e4m3_avx2(p + i, (end - i) / 32 * 32, scale, out + i))
                i += (end - i) / 32 * 32;
            for (; i + 8 <= end; i += 8)
                _mm256_storeu_ps(out + i, _mm256_mul_ps(hd_e4m3x8_avx2(p + i), _mm256_set1_ps(scale)));
            for (; i < end; i++)
                out[i] = hd_e4m3_f32(p[i]) * scale;
        }
        return;
    }
    default: hd_decode_any(t, p, s, r, n, out);
    }
}

#endif
