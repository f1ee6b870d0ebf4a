/* sparse_avx512.c: sparse_body.h on AVX-512, and relu_mix in wider vectors: the same sums in the same order, so the same bits. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define V __m512
#define L 16
#define HEADS 4
#define v_zero _mm512_setzero_ps
#define v_set1 _mm512_set1_ps
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_mul _mm512_mul_ps
#define v_fma _mm512_fmadd_ps
#define v_max _mm512_max_ps
#define v_above(a, b) (unsigned)_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)

#include <stdint.h>

/* 4 x 4 words inside each of the four quarters of sixteen rows, then the quarters themselves. */
static inline void interleave(const void *const row[16], int64_t k, uint32_t *out)
{
    __m512i a[16], b[16];

    for (int r = 0; r < 16; r++)
        a[r] = _mm512_loadu_si512((const uint32_t *)row[r] + k);
    for (int r = 0; r < 16; r += 2) {
        b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
        b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
    }
    for (int r = 0; r < 16; r += 4)
        for (int h = 0; h < 2; h++) {
            a[r + 2 * h] = _mm512_unpacklo_epi64(b[r + h], b[r + 2 + h]);
            a[r + 2 * h + 1] = _mm512_unpackhi_epi64(b[r + h], b[r + 2 + h]);
        }
    for (int i = 0; i < 4; i++) {             /* a[4 r + i]: column i + 4 quarter of rows 4 r .. 4 r + 3 */
        __m512i p = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x44), q = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x44);
        __m512i s = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xEE), t = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xEE);

        _mm512_storeu_si512(out + i * 16, _mm512_shuffle_i32x4(p, q, 0x88));
        _mm512_storeu_si512(out + (4 + i) * 16, _mm512_shuffle_i32x4(p, q, 0xDD));
        _mm512_storeu_si512(out + (8 + i) * 16, _mm512_shuffle_i32x4(s, t, 0x88));
        _mm512_storeu_si512(out + (12 + i) * 16, _mm512_shuffle_i32x4(s, t, 0xDD));
    }
}

#include "kernels/sparse/sparse_body.h"

static void relu_mix(int64_t n_head, int64_t n, const float (*p)[HD_ROWS_MAX], const float *w, float *out)
{
    int64_t i = 0;

    for (; i + 4 * L <= n; i += 4 * L) {
        V sum[4];

        for (int v = 0; v < 4; v++)
            sum[v] = v_load(out + i + L * v);
        for (int64_t h = 0; h < n_head; h++) {
            V wv = v_set1(w[h]);

            for (int v = 0; v < 4; v++)
                sum[v] = v_fma(_mm512_max_ps(v_load(p[h] + i + L * v), v_zero()), wv, sum[v]);
        }
        for (int v = 0; v < 4; v++)
            v_store(out + i + L * v, sum[v]);
    }
    for (; i < n; i++)
        for (int64_t h = 0; h < n_head; h++)
            out[i] = __builtin_fmaf(p[h][i] > 0 ? p[h][i] : 0, w[h], out[i]);
}

void hd_fill_sparse_avx512(struct hd_kernels *k)
{
    k->interleave16 = interleave16;
    k->rows16_dot = rows16_dot;
    k->above = above;
    k->largest = largest;
    k->relu_mix = relu_mix;
}
