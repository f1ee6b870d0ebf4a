/* gemm_turn_avx512.h: sixteen rows of four words turned, for packing. */
#ifndef HD_KERNELS_GEMM_TURN_AVX512_H
#define HD_KERNELS_GEMM_TURN_AVX512_H

#include "kernels/x86.h"

/* lane[r]: row r's four words; out[c]: word c of all rows. Four vectors of four lanes hold the rows (4 q + i in lane q of vector i), and unpacking turns each lane's 4 x 4. */
static inline __attribute__((always_inline)) void hd_turn16(const __m128 lane[16], __m512 out[4])
{
    __m512 r[4], t[4];

    for (int i = 0; i < 4; i++)
        r[i] = _mm512_insertf32x4(_mm512_insertf32x4(_mm512_insertf32x4(_mm512_castps128_ps512(lane[i]), lane[4 + i], 1), lane[8 + i], 2), lane[12 + i], 3);
    t[0] = _mm512_unpacklo_ps(r[0], r[1]);
    t[1] = _mm512_unpackhi_ps(r[0], r[1]);
    t[2] = _mm512_unpacklo_ps(r[2], r[3]);
    t[3] = _mm512_unpackhi_ps(r[2], r[3]);
    for (int i = 0; i < 2; i++) {
        out[2 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[2 + i])));
        out[2 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[2 + i])));
    }
}

#endif
