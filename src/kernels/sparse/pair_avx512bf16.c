/* pair_avx512bf16.c: struct hd_pair_kernels on vdpbf16ps: tiles of eight heads by two vectors, all sums in registers. */
#pragma GCC optimize("O3")
#include "kernels/table.h"
#include "kernels/x86.h"

#define INLINE static inline __attribute__((always_inline))
#define HEADS 8
#define NV 2                          /* vectors of a tile */

INLINE __mmask16 lanes(int64_t n)
{
    return n >= 16 ? 0xFFFF : (__mmask16)((1u << (n > 0 ? n : 0)) - 1);
}

static void encode(int64_t n, const float *x, uint32_t *word)
{
    int64_t i = 0;

    for (; i + 32 <= n; i += 32) {
        __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + 16);

        _mm512_storeu_si512(word + i / 2, _mm512_rol_epi32(hd_cvt2_bf16(a, hd_bf16_counts(a), b, hd_bf16_counts(b)), 16));
    }
    if (i < n) {
        __m512 a = _mm512_maskz_loadu_ps(lanes(n - i), x + i), b = _mm512_maskz_loadu_ps(lanes(n - i - 16), x + i + 16);

        _mm512_mask_storeu_epi32(word + i / 2, lanes((n - i + 1) / 2), _mm512_rol_epi32(hd_cvt2_bf16(a, hd_bf16_counts(a), b, hd_bf16_counts(b)), 16));
    }
}

/* nv panels of sixteen rows by nh heads. */
INLINE void dot_tile(int64_t n, const uint32_t *rows, int nv, float scale, const uint32_t *q, int64_t ld, int nh, float *p)
{
    __m512 sum[HEADS][NV];

    for (int h = 0; h < nh; h++)
        for (int v = 0; v < nv; v++)
            sum[h][v] = _mm512_setzero_ps();
    for (int64_t k = 0; k < n; k++) {
        __m512i x[NV];

        for (int v = 0; v < nv; v++)
            x[v] = _mm512_loadu_si512(rows + (v * n + k) * 16);
        for (int h = 0; h < nh; h++) {
            __m512i w = _mm512_set1_epi32((int)q[h * ld + k]);

            for (int v = 0; v < nv; v++)
                sum[h][v] = hd_dpbf16(sum[h][v], x[v], w);
        }
    }
    for (int h = 0; h < nh; h++)
        for (int v = 0; v < nv; v++)
            _mm512_storeu_ps(p + h * HD_ROWS_MAX + v * 16, _mm512_mul_ps(_mm512_set1_ps(scale), sum[h][v]));
}

INLINE void dot_heads(int64_t n, int64_t n_row, const uint32_t *rows, float scale, const uint32_t *q, int64_t ld, int nh, float *p)
{
    int64_t i = 0;

    for (; i + 16 < n_row; i += 32)
        dot_tile(n, rows + i * n, NV, scale, q, ld, nh, p + i);
    if (i < n_row)
        dot_tile(n, rows + i * n, 1, scale, q, ld, nh, p + i);
}

static void rows16_dot(int64_t n, int64_t n_row, const uint32_t *rows, float scale, const uint32_t *q, int64_t ld, int64_t n_head, float (*p)[HD_ROWS_MAX])
{
    int64_t h = 0;

    for (; h + HEADS <= n_head; h += HEADS)
        dot_heads(n, n_row, rows, scale, q + h * ld, ld, HEADS, p[h]);
    for (; h + 4 <= n_head; h += 4)
        dot_heads(n, n_row, rows, scale, q + h * ld, ld, 4, p[h]);
    for (; h < n_head; h++)
        dot_heads(n, n_row, rows, scale, q + h * ld, ld, 1, p[h]);
}

static void couple(int64_t d, const uint32_t *a, const uint32_t *b, uint32_t *out)
{
    /* of the words at lane / 2 of both, b's half below a's: the high halves where the lane is even, 16-bit lanes of b counted from 32 on */
    const __m512i first = _mm512_set_epi16(14, 46, 15, 47, 12, 44, 13, 45, 10, 42, 11, 43, 8, 40, 9, 41, 6, 38, 7, 39, 4, 36, 5, 37, 2, 34, 3, 35, 0, 32, 1, 33);
    const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));

    for (int64_t k = 0; k < d; k += 32) {
        __mmask16 some = lanes((d - k + 1) / 2);
        __m512i x = _mm512_maskz_loadu_epi32(some, a + k / 2), y = b ? _mm512_maskz_loadu_epi32(some, b + k / 2) : _mm512_setzero_si512();

        _mm512_mask_storeu_epi32(out + k, lanes(d - k), _mm512_permutex2var_epi16(x, first, y));
        _mm512_mask_storeu_epi32(out + k + 16, lanes(d - k - 16), _mm512_permutex2var_epi16(x, second, y));
    }
}

/* nv vectors of columns, the last of them of len. */
INLINE void mix_tile(int64_t d, int64_t n, const uint32_t *row, int64_t ld, const float (*p)[HD_ROWS_MAX], int nh, int nv, int64_t len, float *out)
{
    __mmask16 last = lanes(len);
    __m512 acc[HEADS][NV];

    for (int h = 0; h < nh; h++)
        for (int v = 0; v < nv; v++)
            acc[h][v] = _mm512_maskz_loadu_ps(v < nv - 1 ? 0xFFFF : last, out + h * d + v * 16);
    for (int64_t i = 0; i < n; i++) {
        __m512i x[NV];

        for (int v = 0; v < nv; v++)
            x[v] = _mm512_maskz_loadu_epi32(v < nv - 1 ? 0xFFFF : last, row + i * ld + v * 16);
        for (int h = 0; h < nh; h++) {
            __m512i w = _mm512_castps_si512(_mm512_set1_ps(p[h][i]));

            for (int v = 0; v < nv; v++)
                acc[h][v] = hd_dpbf16(acc[h][v], x[v], w);
        }
    }
    for (int h = 0; h < nh; h++)
        for (int v = 0; v < nv; v++)
            _mm512_mask_storeu_ps(out + h * d + v * 16, v < nv - 1 ? 0xFFFF : last, acc[h][v]);
}

INLINE void mix_heads(int64_t d, int64_t n, const uint32_t *row, int64_t ld, const float (*p)[HD_ROWS_MAX], int nh, float *out)
{
    int64_t k = 0;

    for (; k + 32 <= d; k += 32)
        mix_tile(d, n, row + k, ld, p, nh, NV, 16, out + k);
    for (; k < d; k += 16)
        mix_tile(d, n, row + k, ld, p, nh, 1, d - k, out + k);
}

static void rows_mix(int64_t d, int64_t n, const uint32_t *row, int64_t ld, const float (*p)[HD_ROWS_MAX], int64_t n_head, float *out)
{
    int64_t h = 0;

    for (; h + HEADS <= n_head; h += HEADS)
        mix_heads(d, n, row, ld, p + h, HEADS, out + h * d);
    for (; h + 4 <= n_head; h += 4)
        mix_heads(d, n, row, ld, p + h, 4, out + h * d);
    for (; h < n_head; h++)
        mix_heads(d, n, row, ld, p + h, 1, out + h * d);
}

void hd_fill_pair_avx512bf16(struct hd_kernels *k)
{
    k->pair = (struct hd_pair_kernels){encode, rows16_dot, couple, rows_mix};
}
