/* panel_avx512vnni.c: panels on AVX-512 with VNNI. */
#pragma GCC optimize("O3")
#include "kernels/panel/panel_avx512.h"

#define P_TILE 2
#define BYTE_SHIFT 7                  /* bytes come with 128 added */
#define w_byte(v) _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80))

static inline __m512i dot8(const __m512i w[8], const int8_t *x, __m512i init)
{
    for (int g = 0; g < 8; g++)
        init = _mm512_dpbusd_epi32(init, w[g], word_at(x + 4 * g));
    return init;
}

#define dot8_bytes dot8

static inline __m512i dot4_six(const __m512i w[4], const int8_t *x, __m512i init)
{
    for (int g = 0; g < 4; g++)
        init = _mm512_dpbusd_epi32(init, w[g], word_at(x + 4 * g));
    return init;
}

#define PANEL_FILL hd_fill_panel_avx512vnni
#include "kernels/panel/panel_body.h"
