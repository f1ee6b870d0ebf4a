/* panel_avx2.c: panels in vectors of eight lanes, each panel in two halves. */
#pragma GCC optimize("O3")
#include <stdint.h>
#include <string.h>

#include "kernels/x86.h"

#define V __m256
#define VI __m256i
#define L 8
#define P_TILE 1
#define P_MAX 4
#define F_TOK 6
#define v_zero _mm256_setzero_ps
#define v_set1 _mm256_set1_ps
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_mul _mm256_mul_ps
#define v_fma _mm256_fmadd_ps
#define v_of_int _mm256_cvtepi32_ps
#define v_f16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define v_i8(p) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p))))
#define w_shl _mm256_slli_epi16
#define w_shr _mm256_srli_epi16
#define w_or(w, v, mask) _mm256_or_si256(w, _mm256_and_si256(v, _mm256_set1_epi8(mask)))
#define vi_load(p) _mm256_loadu_si256((const __m256i *)(p))
#define VS VI
#define vs_word _mm256_set1_epi32
#define vs_shl _mm256_slli_epi32
#define prefetch_near(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define prefetch_far(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

#define NIBBLE_SHIFT 4                /* e2m1 codes come with 16 added */
#define BYTE_SHIFT 0                  /* bytes stay signed */

static inline __m256 v_e8m0(const uint8_t *p)
{
    __m256i e = _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)), 23);

    return _mm256_castsi256_ps(_mm256_max_epi32(e, _mm256_set1_epi32(0x400000)));
}

static inline void w_nibbles(__m256i v, __m256i *lo, __m256i *hi)
{
    const __m256i mask = _mm256_set1_epi8(15);

    *lo = _mm256_and_si256(v, mask);
    *hi = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
}

static inline __m256i w_e2m1(__m256i nibble)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_setr_epi8(16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4)), nibble);
}

#define w_byte(v) (v)

static inline __m256i maddubs_at(__m256i w, const int8_t *x)
{
    int32_t word;

    memcpy(&word, x, 4);
    return _mm256_maddubs_epi16(w, _mm256_set1_epi32(word));
}

/* Four words of 4 products at most 31 x 127 x 2 each fit into int16. */
static inline __m256i dot8(const __m256i w[8], const int8_t *x, __m256i init)
{
    const __m256i one = _mm256_set1_epi16(1);

    for (int h = 0; h < 8; h += 4) {
        __m256i s[4];

        for (int g = 0; g < 4; g++)
            s[g] = maddubs_at(w[h + g], x + 4 * (h + g));
        s[0] = _mm256_add_epi16(_mm256_add_epi16(s[0], s[1]), _mm256_add_epi16(s[2], s[3]));
        init = _mm256_add_epi32(init, _mm256_madd_epi16(s[0], one));
    }
    return init;
}

/* Two words of 4 products at most 63 x 127 x 2 each fit into int16. */
static inline __m256i dot4_six(const __m256i w[4], const int8_t *x, __m256i init)
{
    const __m256i one = _mm256_set1_epi16(1);

    for (int g = 0; g < 4; g += 2)
        init = _mm256_add_epi32(init, _mm256_madd_epi16(_mm256_add_epi16(maddubs_at(w[g], x + 4 * g), maddubs_at(w[g + 1], x + 4 * g + 4)), one));
    return init;
}

static inline __m256i dot8_bytes(const __m256i w[8], const int8_t *x, __m256i init)
{
    const __m256i one = _mm256_set1_epi16(1);

    for (int g = 0; g < 8; g++) {
        int32_t word;

        memcpy(&word, x + 4 * g, 4);
        init = _mm256_add_epi32(init, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w[g]), _mm256_sign_epi8(_mm256_set1_epi32(word), w[g])), one));
    }
    return init;
}

/* e4m3 in the upper bytes of words as bf16, times 2^-120. */
static inline __m256i move_bits(__m256i v)
{
    return _mm256_or_si256(_mm256_and_si256(v, _mm256_set1_epi16((short)0x8000)), _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi16(0x07F0)));
}

static inline void v_fp8(const uint8_t *p, __m256 out[4])
{
    const __m256i high = _mm256_set1_epi32((int)0xFFFF0000);
    __m256i v = vi_load(p), even = move_bits(_mm256_slli_epi16(v, 8)), odd = move_bits(v);

    out[0] = _mm256_castsi256_ps(_mm256_slli_epi32(even, 16));
    out[1] = _mm256_castsi256_ps(_mm256_and_si256(even, high));
    out[2] = _mm256_castsi256_ps(_mm256_slli_epi32(odd, 16));
    out[3] = _mm256_castsi256_ps(_mm256_and_si256(odd, high));
}

static inline void v_bf16(const uint8_t *p, __m256 out[4])
{
    for (int j = 0; j < 2; j++) {
        __m256i v = vi_load(p + j * 64);

        out[2 * j] = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
        out[2 * j + 1] = _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xFFFF0000)));
    }
}

#define PANEL_FILL hd_fill_panel_avx2
#include "kernels/panel/panel_body.h"
