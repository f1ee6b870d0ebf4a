/* panel_avx512.c: panels on AVX-512 without VNNI. */
#pragma GCC optimize("O3")
#include "kernels/panel/panel_avx512.h"

#define P_TILE 1
#define BYTE_SHIFT 0                  /* bytes stay signed */
#define w_byte(v) (v)

/* Four words of 4 products at most 31 x 127 x 2 each fit into int16. */
static inline __m512i dot8(const __m512i w[8], const int8_t *x, __m512i init)
{
    const __m512i one = _mm512_set1_epi16(1);

    for (int h = 0; h < 8; h += 4) {
        __m512i s[4];

        for (int g = 0; g < 4; g++)
            s[g] = _mm512_maddubs_epi16(w[h + g], word_at(x + 4 * (h + g)));
        s[0] = _mm512_add_epi16(_mm512_add_epi16(s[0], s[1]), _mm512_add_epi16(s[2], s[3]));
        init = _mm512_add_epi32(init, _mm512_madd_epi16(s[0], one));
    }
    return init;
}

/* |w| times x with w's sign: x negated where w is. */
static inline __m512i dot8_bytes(const __m512i w[8], const int8_t *x, __m512i init)
{
    const __m512i one = _mm512_set1_epi16(1), zero = _mm512_setzero_si512();

    for (int g = 0; g < 8; g++) {
        __m512i v = word_at(x + 4 * g), s = _mm512_mask_sub_epi8(v, _mm512_movepi8_mask(w[g]), zero, v);

        init = _mm512_add_epi32(init, _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_abs_epi8(w[g]), s), one));
    }
    return init;
}

/* Two words of 4 products at most 63 x 127 x 2 each fit into int16. */
static inline __m512i dot4_six(const __m512i w[4], const int8_t *x, __m512i init)
{
    const __m512i one = _mm512_set1_epi16(1);

    for (int g = 0; g < 4; g += 2)
        init = _mm512_add_epi32(init, _mm512_madd_epi16(_mm512_add_epi16(_mm512_maddubs_epi16(w[g], word_at(x + 4 * g)), _mm512_maddubs_epi16(w[g + 1], word_at(x + 4 * g + 4))), one));
    return init;
}

#define PANEL_FILL hd_fill_panel_avx512
#include "kernels/panel/panel_body.h"
