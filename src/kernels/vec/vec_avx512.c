/* vec_avx512.c: attention over cached rows on AVX-512: four rows by up to four heads, four vectors by up to four heads (eight
 * by up to two), in registers.
 *
 * Sums go over 16 lanes, then a fixed tree, whatever the tile: an element's bits do not depend on its neighbours. Sixteen values that a row
 * does not have are zero. */
#pragma GCC optimize("O3")
#include <math.h>
#include <string.h>

#include "kernels/table.h"
#include "kernels/x86.h"

#define INLINE static inline __attribute__((always_inline))
#define L 16
#define ROWS 4
#define HEADS 4
#define VECTORS 8

/* Values i .. of a row, n of them or sixteen. */
INLINE __m512 load(const void *row, bool f16, int64_t i, int64_t n)
{
    if (f16) {
        const uint16_t *p = (const uint16_t *)row + i;
        uint16_t t[L] = {0};

        if (n >= L)
            return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
        memcpy(t, p, (size_t)n * sizeof *t);
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)t));
    }
    const float *p = (const float *)row + i;
    float t[L] = {0};

    if (n >= L)
        return _mm512_loadu_ps(p);
    memcpy(t, p, (size_t)n * sizeof *t);
    return _mm512_loadu_ps(t);
}

INLINE void store(float *p, int64_t n, __m512 v)
{
    float t[L];

    if (n >= L) {
        _mm512_storeu_ps(p, v);
        return;
    }
    _mm512_storeu_ps(t, v);
    memcpy(p, t, (size_t)n * sizeof *t);
}

/* The sums of four vectors. */
INLINE __m128 sums(const __m512 v[4])
{
    __m256 h[4], a, b;

    for (int i = 0; i < 4; i++)
        h[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v[i]), 1)));
    a = _mm256_add_ps(_mm256_unpacklo_ps(h[0], h[1]), _mm256_unpackhi_ps(h[0], h[1]));
    b = _mm256_add_ps(_mm256_unpacklo_ps(h[2], h[3]), _mm256_unpackhi_ps(h[2], h[3]));
    a = _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xEE));
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}

/* ---- exponentials ---- */

/* As exp8() in vec_avx2.c, for arguments of a softmax, at most 0: below -87.3 nothing, above 88 infinity. NaN stays NaN: of a min and a max the
 * second one counts then. */
INLINE __m512 exp16(__m512 x)
{
    __m512 xc = _mm512_min_ps(_mm512_set1_ps(89), _mm512_max_ps(_mm512_set1_ps(-87.33654f), x)), n, r, p = _mm512_set1_ps(1.98412698e-4f);

    n = _mm512_cvtepi32_ps(_mm512_cvtps_epi32(_mm512_mul_ps(xc, _mm512_set1_ps(1.44269504f))));
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), xc);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.38888889e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.33333333e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.16666667e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.66666667e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23)));
    return _mm512_mask_mov_ps(p, _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.33654f), _CMP_LT_OQ), _mm512_setzero_ps());
}

static float exp_sum(int64_t n, float *x, float max)
{
    __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()}, m = _mm512_set1_ps(max);
    float part[4];

    for (int64_t i = 0; i < n; i += L) {
        float t[L];
        __m512 e;

        if (n - i < L) {
            for (int k = 0; k < L; k++)
                t[k] = k < n - i ? x[i + k] : -INFINITY;
            e = exp16(_mm512_sub_ps(_mm512_loadu_ps(t), m));
        } else {
            e = exp16(_mm512_sub_ps(_mm512_loadu_ps(x + i), m));
        }
        store(x + i, n - i, e);
        sum[0] = _mm512_add_ps(sum[0], e);
    }
    _mm_storeu_ps(part, sums(sum));
    return part[0];
}

/* ---- rows times heads ---- */

/* The row after next is on its way while this one is used: heads take short pieces of rows, which no hardware prefetcher follows. */
static inline void fetch_row(const void *row, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)row + i, _MM_HINT_T0);
}

/* n more columns from k on. */
INLINE void dot_step(const void *const *row, bool f16, const float *q, int64_t d, int64_t k, int64_t n, int nh, __m512 acc[HEADS][ROWS])
{
    __m512 v[ROWS];

    for (int r = 0; r < ROWS; r++)
        v[r] = load(row[r], f16, k, n);
    for (int h = 0; h < nh; h++) {
        __m512 qv = load(q + h * d, false, k, n);

        for (int r = 0; r < ROWS; r++)
            acc[h][r] = _mm512_fmadd_ps(v[r], qv, acc[h][r]);
    }
}

/* Rows behind the last one are it again. */
INLINE void dot_tile(int64_t d, int64_t n, const void *const *row, bool f16, float scale, const float *q, int nh, float (*p)[HD_ROWS_MAX])
{
    const void *at[ROWS];
    __m512 acc[HEADS][ROWS];
    int64_t k = 0;

    for (int r = 0; r < ROWS; r++)
        at[r] = row[r < n ? r : n - 1];
    for (int h = 0; h < nh; h++)
        for (int r = 0; r < ROWS; r++)
            acc[h][r] = _mm512_setzero_ps();
    for (; k + L <= d; k += L)
        dot_step(at, f16, q, d, k, L, nh, acc);
    if (k < d)
        dot_step(at, f16, q, d, k, d - k, nh, acc);
    for (int h = 0; h < nh; h++) {
        __m128 s = _mm_mul_ps(_mm_set1_ps(scale), sums(acc[h]));
        float t[ROWS];

        if (n >= ROWS) {
            _mm_storeu_ps(p[h], s);
            continue;
        }
        _mm_storeu_ps(t, s);
        memcpy(p[h], t, (size_t)n * sizeof *t);
    }
}

INLINE void dot_heads(int64_t d, int64_t n, const void *const *row, bool f16, float scale, const float *q, int nh, float (*p)[HD_ROWS_MAX])
{
    int64_t i = 0;

    for (; i + ROWS <= n; i += ROWS) {
        for (int64_t r = i + 2 * ROWS; r < i + 3 * ROWS && r < n; r++)
            fetch_row(row[r], d * (f16 ? 2 : 4));
        dot_tile(d, ROWS, row + i, f16, scale, q, nh, (float(*)[HD_ROWS_MAX])(p[0] + i));
    }
    if (i < n)
        dot_tile(d, n - i, row + i, f16, scale, q, nh, (float(*)[HD_ROWS_MAX])(p[0] + i));
}

/* nv vectors of columns from k on, the last of them of len values. */
INLINE void mix_tile(int64_t d, int64_t n, const void *const *row, bool f16, const float (*p)[HD_ROWS_MAX], int nh, int nv, int64_t k, int64_t len, float *out)
{
    __m512 acc[HEADS][VECTORS];

    for (int h = 0; h < nh; h++)
        for (int v = 0; v < nv; v++)
            acc[h][v] = load(out + h * d, false, k + L * v, v < nv - 1 ? L : len);
    for (int64_t i = 0; i < n; i++) {
        __m512 x[VECTORS];

        for (int v = 0; v < nv; v++)
            x[v] = load(row[i], f16, k + L * v, v < nv - 1 ? L : len);
        for (int h = 0; h < nh; h++) {
            __m512 w = _mm512_set1_ps(p[h][i]);

            for (int v = 0; v < nv; v++)
                acc[h][v] = _mm512_fmadd_ps(w, x[v], acc[h][v]);
        }
    }
    for (int h = 0; h < nh; h++)
        for (int v = 0; v < nv; v++)
            store(out + h * d + k + L * v, v < nv - 1 ? L : len, acc[h][v]);
}

INLINE void mix_heads(int64_t d, int64_t n, const void *const *row, bool f16, const float (*p)[HD_ROWS_MAX], int nh, float *out)
{
    int64_t k = 0;

    for (; nh <= 2 && k + VECTORS * L <= d; k += VECTORS * L)
        mix_tile(d, n, row, f16, p, nh, VECTORS, k, L, out);
    for (; k + 4 * L <= d; k += 4 * L)
        mix_tile(d, n, row, f16, p, nh, 4, k, L, out);
    for (; k + L <= d; k += L)
        mix_tile(d, n, row, f16, p, nh, 1, k, L, out);
    if (k < d)
        mix_tile(d, n, row, f16, p, nh, 1, k, d - k, out);
}

#define EACH_HEADS(call)                                        \
    {                                                           \
        int64_t h = 0;                                          \
        for (; h + 4 <= n_head; h += 4)                         \
            call(4);                                            \
        if (n_head - h == 3)                                    \
            call(3);                                            \
        else if (n_head - h == 2)                               \
            call(2);                                            \
        else if (n_head - h == 1)                               \
            call(1);                                            \
    }

static void rows_dot(int64_t d, int64_t n, const void *const *row, bool f16, float scale, const float *q, int64_t n_head, float (*p)[HD_ROWS_MAX])
{
#define DOT16(nh) dot_heads(d, n, row, true, scale, q + h * d, nh, p + h)
#define DOT32(nh) dot_heads(d, n, row, false, scale, q + h * d, nh, p + h)
    if (f16)
        EACH_HEADS(DOT16)
    else
        EACH_HEADS(DOT32)
}

static void rows_mix(int64_t d, int64_t n, const void *const *row, bool f16, const float (*p)[HD_ROWS_MAX], int64_t n_head, float *out)
{
#define MIX16(nh) mix_heads(d, n, row, true, p + h, nh, out + h * d)
#define MIX32(nh) mix_heads(d, n, row, false, p + h, nh, out + h * d)
    if (f16)
        EACH_HEADS(MIX16)
    else
        EACH_HEADS(MIX32)
}

void hd_fill_vec_avx512(struct hd_kernels *k)
{
    k->exp_sum = exp_sum;
    k->rows_dot = rows_dot;
    k->rows_mix = rows_mix;
}
