/* vec_avx2.c: the row kernels on AVX2. Element-wise ones equal the scalar definitions bit for bit, except those that take an
 * exponential (a polynomial, within 2 ulp of expf) and sums (8 or 16 lanes, then a fixed tree). */
#pragma GCC optimize("O3")
#include <math.h>

#include "kernels/matmul/decode_fast_avx2.h"
#include "kernels/table.h"
#include "kernels/x86.h"
#include "tensor/blocks.h"

static inline float hsum(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    a = _mm_add_ss(a, _mm_movehdup_ps(a));
    return _mm_cvtss_f32(a);
}

/* exp(x) = 2^n e^r, |r| <= ln 2 / 2; Taylor to degree 7 (error below 1 ulp of the result's f32). Clamped to [-87.3, 88.7]:
 * below, 0 is exact enough for a softmax; above, callers never go (x - max <= 0, and silu wants exp(-x) -> inf there). */
static inline __m256 exp8(__m256 x)
{
    __m256 lo = _mm256_cmp_ps(x, _mm256_set1_ps(-87.33654f), _CMP_LT_OQ), hi = _mm256_cmp_ps(x, _mm256_set1_ps(88.72283f), _CMP_GT_OQ);
    __m256 xc = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.33654f)), _mm256_set1_ps(88.72283f));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(xc, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), xc), p = _mm256_set1_ps(1.98412698e-4f);
    __m256i e, half;

    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.38888889e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.33333333e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.16666667e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.66666667e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    /* 2^n in two factors, since n = 128 alone would overflow */
    e = _mm256_cvtps_epi32(n);
    half = _mm256_srai_epi32(e, 1);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, _mm256_set1_epi32(127)), 23)));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(e, half), _mm256_set1_epi32(127)), 23)));
    p = _mm256_blendv_ps(_mm256_andnot_ps(lo, p), _mm256_set1_ps(INFINITY), hi);
    return _mm256_blendv_ps(p, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

/* The last n % 8 values, padded with fill. */
static inline __m256 tail(const float *p, int64_t n, float fill)
{
    float t[8];

    for (int i = 0; i < 8; i++)
        t[i] = i < n ? p[i] : fill;
    return _mm256_loadu_ps(t);
}

static inline void put_tail(float *p, int64_t n, __m256 v)
{
    float t[8];

    _mm256_storeu_ps(t, v);
    for (int i = 0; i < n; i++)
        p[i] = t[i];
}

static void rmsnorm(int64_t n, const float *x, const float *w, float eps, float *out)
{
    __m256d s0 = _mm256_setzero_pd(), s1 = s0;
    double part[4], ss;
    int64_t i = 0;
    __m256 rv;
    float r;

    for (; i + 8 <= n; i += 8) {
        __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(x + i)), b = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4));

        s0 = _mm256_fmadd_pd(a, a, s0);
        s1 = _mm256_fmadd_pd(b, b, s1);
    }
    _mm256_storeu_pd(part, _mm256_add_pd(s0, s1));
    ss = (part[0] + part[2]) + (part[1] + part[3]);
    for (; i < n; i++)
        ss += (double)x[i] * (double)x[i];
    r = (float)(1 / sqrt(ss / (double)n + (double)eps));
    rv = _mm256_set1_ps(r);
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), rv), _mm256_loadu_ps(w + i)));
    for (; i < n; i++)
        out[i] = x[i] * r * w[i];
}

static inline __m256 silu8(__m256 g, __m256 u)
{
    __m256 one = _mm256_set1_ps(1), e = exp8(_mm256_sub_ps(_mm256_setzero_ps(), g));

    return _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, e)), u);
}

static void silu_mul(int64_t n, const float *gate, const float *up, float *out)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, silu8(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i < n)
        put_tail(out + i, n - i, silu8(tail(gate + i, n - i, 0), tail(up + i, n - i, 0)));
}

static inline void silu_bwd8(__m256 g, __m256 u, __m256 d, __m256 limit, __m256 *act, __m256 *dg, __m256 *du)
{
    const __m256 one = _mm256_set1_ps(1), sign = _mm256_set1_ps(-0.0f);
    __m256 a = _mm256_min_ps(limit, g), b = _mm256_min_ps(limit, _mm256_max_ps(_mm256_xor_ps(limit, sign), u));      /* a NaN in the second place stays one */
    __m256 y = _mm256_div_ps(one, _mm256_add_ps(one, exp8(_mm256_xor_ps(a, sign)))), ay = _mm256_mul_ps(a, y);

    *act = _mm256_mul_ps(ay, b);
    *dg = _mm256_mul_ps(_mm256_mul_ps(_mm256_mul_ps(d, b), y), _mm256_add_ps(one, _mm256_mul_ps(a, _mm256_sub_ps(one, y))));
    *dg = _mm256_andnot_ps(_mm256_cmp_ps(g, limit, _CMP_GE_OQ), *dg);
    *du = _mm256_andnot_ps(_mm256_cmp_ps(_mm256_andnot_ps(sign, u), limit, _CMP_GE_OQ), _mm256_mul_ps(d, ay));
}

static void silu_bwd(int64_t n, const float *gate, const float *up, const float *d, float limit, float *act, float *dgate, float *dup)
{
    __m256 lim = _mm256_set1_ps(limit > 0 ? limit : INFINITY), y, dg, du;
    int64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        silu_bwd8(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i), _mm256_loadu_ps(d + i), lim, &y, &dg, &du);
        _mm256_storeu_ps(act + i, y);
        _mm256_storeu_ps(dgate + i, dg);
        _mm256_storeu_ps(dup + i, du);
    }
    if (i < n) {
        silu_bwd8(tail(gate + i, n - i, 0), tail(up + i, n - i, 0), tail(d + i, n - i, 0), lim, &y, &dg, &du);
        put_tail(act + i, n - i, y);
        put_tail(dgate + i, n - i, dg);
        put_tail(dup + i, n - i, du);
    }
}

static float exp_sum(int64_t n, float *x, float max)
{
    __m256 sum = _mm256_setzero_ps(), m = _mm256_set1_ps(max);
    int64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), m));

        _mm256_storeu_ps(x + i, e);
        sum = _mm256_add_ps(sum, e);
    }
    if (i < n) {
        __m256 e = exp8(_mm256_sub_ps(tail(x + i, n - i, -INFINITY), m));

        put_tail(x + i, n - i, e);
        sum = _mm256_add_ps(sum, e);
    }
    return hsum(sum);
}

static float dot_f32(int64_t n, const float *a, const float *b)
{
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    int64_t i = 0;
    float sum;

    for (; i + 16 <= n; i += 16) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
        s1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), s1);
    }
    if (i + 8 <= n) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
        i += 8;
    }
    sum = hsum(_mm256_add_ps(s0, s1));
    for (; i < n; i++)
        sum = fmaf(a[i], b[i], sum);
    return sum;
}

static float dot_f16(int64_t n, const uint16_t *a, const float *b)
{
    __m256 s0 = _mm256_setzero_ps();
    int64_t i = 0;
    float sum;

    for (; i + 8 <= n; i += 8)
        s0 = _mm256_fmadd_ps(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(a + i))), _mm256_loadu_ps(b + i), s0);
    sum = hsum(s0);
    for (; i < n; i++)
        sum = fmaf(hd_f16_f32(a[i]), b[i], sum);
    return sum;
}

static void axpy_f32(int64_t n, float a, const float *x, float *y)
{
    __m256 av = _mm256_set1_ps(a);
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(av, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    for (; i < n; i++)
        y[i] = fmaf(a, x[i], y[i]);
}

static void axpy_f16(int64_t n, float a, const uint16_t *x, float *y)
{
    __m256 av = _mm256_set1_ps(a);
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(av, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))), _mm256_loadu_ps(y + i)));
    for (; i < n; i++)
        y[i] = fmaf(a, hd_f16_f32(x[i]), y[i]);
}

static void scale(int64_t n, float a, float *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] *= a;
}

static void add(int64_t n, const float *a, const float *b, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] + b[i];
}

static void f32_to_f16(int64_t n, const float *x, uint16_t *out)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (; i < n; i++)
        out[i] = hd_f32_f16(x[i]);
}

/* A block of 32 values, and the largest magnitude among them. */
static inline float load_block(const float *x, __m256 v[4])
{
    const __m256 abs_mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    __m256 m = _mm256_setzero_ps();
    __m128 t;

    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        m = _mm256_max_ps(m, _mm256_and_ps(v[i], abs_mask));
    }
    t = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}

static inline int32_t sum_four(__m128i s)
{
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

static inline int32_t sum_words(__m256i v)
{
    return sum_four(_mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

static void q16_encode(const float *x, int64_t n, struct hd_q16 *out)
{
    for (int64_t b = 0; b < n / 32; b++, x += 32, out++) {
        __m256 v[4], idv;
        __m256i q[4], p0, p1;
        float amax = load_block(x, v);

        idv = _mm256_set1_ps(amax > 1e-30f ? 32767 / amax : 0);
        for (int i = 0; i < 4; i++)
            q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], idv));
        p0 = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[0], q[1]), 0xD8);
        p1 = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[2], q[3]), 0xD8);
        out->d = amax / 32767;
        out->sum = out->d * (float)sum_words(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
        _mm256_storeu_si256((__m256i *)out->q, p0);
        _mm256_storeu_si256((__m256i *)(out->q + 16), p1);
    }
}

/* Four vectors of int32 as bytes in order, the sum of all and of the first two. */
static inline __m256i to_bytes(const __m256i q[4], int32_t *sum, int32_t *first)
{
    __m256i v = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])), s;

    v = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    s = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), v), _mm256_set1_epi16(1));
    *first = sum_four(_mm256_castsi256_si128(s));
    *sum = *first + sum_four(_mm256_extracti128_si256(s, 1));
    return v;
}

static void q8_encode(const float *x, int64_t n, struct hd_q8 *out)
{
    int8_t *fine = (int8_t *)(out + n / 32);
    struct hd_q8_half *half = (struct hd_q8_half *)(fine + n);

    for (int64_t b = 0; b < n / 32; b++, x += 32, out++, fine += 32, half++) {
        __m256 v[4], idv;
        __m256i q[4], f[4], squares = _mm256_setzero_si256();
        float amax = load_block(x, v);
        int32_t sum, rest, sum0, rest0;

        idv = _mm256_set1_ps(amax > 1e-30f ? 127 / amax : 0);
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_mul_ps(v[i], idv);
            q[i] = _mm256_cvtps_epi32(v[i]);
            f[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(v[i], _mm256_cvtepi32_ps(q[i])), _mm256_set1_ps(254)));
            squares = _mm256_add_epi32(squares, _mm256_mullo_epi32(q[i], q[i]));
        }
        _mm256_storeu_si256((__m256i *)out->q, to_bytes(q, &sum, &sum0));
        _mm256_storeu_si256((__m256i *)fine, to_bytes(f, &rest, &rest0));
        out->has_fine = sum_words(squares) < HD_Q8_OUTLIER && amax > 1e-30f;
        out->d = amax / 127;
        out->sum = out->d * (out->has_fine ? (float)sum + (float)rest * HD_Q8_FINE : (float)sum);
        out->neg = -sum;
        out->fine_neg = (int16_t)-rest;
        *half = (struct hd_q8_half){(int16_t)-sum0, (int16_t)-rest0};
    }
}

static void bf16_encode(const float *x, int64_t n, uint16_t *out)
{
    hd_act_bf16_encode(x, n, out);
}

/* ---- attention over cached rows: four rows by up to three heads, and four vectors by up to two heads, in registers ---- */

static inline __m256 load8(const void *row, bool f16, int64_t i)
{
    return f16 ? _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint16_t *)row + i))) : _mm256_loadu_ps((const float *)row + i);
}

static inline float value(const void *row, bool f16, int64_t i)
{
    return f16 ? hd_f16_f32(((const uint16_t *)row)[i]) : ((const float *)row)[i];
}

/* nr and nh are constants: the arrays are registers. */
static inline __attribute__((always_inline)) void dot_tile(int64_t d, const void *const *row, bool f16, int nr, float scale, const float *q, int nh, float (*p)[HD_ROWS_MAX])
{
    __m256 acc[3][4];
    int64_t k = 0;

    for (int h = 0; h < nh; h++)
        for (int r = 0; r < nr; r++)
            acc[h][r] = _mm256_setzero_ps();
    for (; k + 8 <= d; k += 8) {
        __m256 v[4];

        for (int r = 0; r < nr; r++)
            v[r] = load8(row[r], f16, k);
        for (int h = 0; h < nh; h++) {
            __m256 qv = _mm256_loadu_ps(q + h * d + k);

            for (int r = 0; r < nr; r++)
                acc[h][r] = _mm256_fmadd_ps(v[r], qv, acc[h][r]);
        }
    }
    for (int h = 0; h < nh; h++) {
        float s[4];

        for (int r = 0; r < nr; r++)
            s[r] = hsum(acc[h][r]);
        for (int r = 0; r < nr; r++) {
            for (int64_t i = k; i < d; i++)
                s[r] = fmaf(value(row[r], f16, i), q[h * d + i], s[r]);
            p[h][r] = scale * s[r];
        }
    }
}

/* The row after next is on its way while this one is used: heads take short pieces of rows, which no hardware prefetcher follows. */
static inline void fetch_row(const void *row, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)row + i, _MM_HINT_T0);
}

static inline __attribute__((always_inline)) void dot_heads(int64_t d, int64_t n, const void *const *row, bool f16, float scale, const float *q, int nh, float (*p)[HD_ROWS_MAX])
{
    int64_t i = 0;

    for (; i + 4 <= n; i += 4) {
        for (int64_t r = i + 8; r < i + 12 && r < n; r++)
            fetch_row(row[r], d * (f16 ? 2 : 4));
        dot_tile(d, row + i, f16, 4, scale, q, nh, (float(*)[HD_ROWS_MAX])(p[0] + i));
    }
    for (; i < n; i++)
        dot_tile(d, row + i, f16, 1, scale, q, nh, (float(*)[HD_ROWS_MAX])(p[0] + i));
}

static inline __attribute__((always_inline)) void rows_dot_as(int64_t d, int64_t n, const void *const *row, bool f16, float scale, const float *q, int64_t n_head,
                                                              float (*p)[HD_ROWS_MAX])
{
    int64_t h = 0;

    for (; h + 3 <= n_head; h += 3)
        dot_heads(d, n, row, f16, scale, q + h * d, 3, p + h);
    if (n_head - h == 2)
        dot_heads(d, n, row, f16, scale, q + h * d, 2, p + h);
    else if (n_head - h == 1)
        dot_heads(d, n, row, f16, scale, q + h * d, 1, p + h);
}

static void rows_dot(int64_t d, int64_t n, const void *const *row, bool f16, float scale, const float *q, int64_t n_head, float (*p)[HD_ROWS_MAX])
{
    if (f16)
        rows_dot_as(d, n, row, true, scale, q, n_head, p);
    else
        rows_dot_as(d, n, row, false, scale, q, n_head, p);
}

static inline __attribute__((always_inline)) void mix_tile(int64_t d, int64_t n, const void *const *row, bool f16, const float (*p)[HD_ROWS_MAX], int nh, int nv, int64_t k, float *out)
{
    __m256 acc[2][4];

    for (int h = 0; h < nh; h++)
        for (int v = 0; v < nv; v++)
            acc[h][v] = _mm256_loadu_ps(out + h * d + k + 8 * v);
    for (int64_t i = 0; i < n; i++) {
        __m256 x[4];

        for (int v = 0; v < nv; v++)
            x[v] = load8(row[i], f16, k + 8 * v);
        for (int h = 0; h < nh; h++) {
            __m256 w = _mm256_broadcast_ss(&p[h][i]);

            for (int v = 0; v < nv; v++)
                acc[h][v] = _mm256_fmadd_ps(w, x[v], acc[h][v]);
        }
    }
    for (int h = 0; h < nh; h++)
        for (int v = 0; v < nv; v++)
            _mm256_storeu_ps(out + h * d + k + 8 * v, acc[h][v]);
}

static inline __attribute__((always_inline)) void mix_heads(int64_t d, int64_t n, const void *const *row, bool f16, const float (*p)[HD_ROWS_MAX], int nh, float *out)
{
    int64_t k = 0;

    for (; k + 32 <= d; k += 32)
        mix_tile(d, n, row, f16, p, nh, 4, k, out);
    for (; k + 8 <= d; k += 8)
        mix_tile(d, n, row, f16, p, nh, 1, k, out);
    for (; k < d; k++)
        for (int h = 0; h < nh; h++)
            for (int64_t i = 0; i < n; i++)
                out[h * d + k] = fmaf(p[h][i], value(row[i], f16, k), out[h * d + k]);
}

static inline __attribute__((always_inline)) void rows_mix_as(int64_t d, int64_t n, const void *const *row, bool f16, const float (*p)[HD_ROWS_MAX], int64_t n_head, float *out)
{
    int64_t h = 0;

    for (; h + 2 <= n_head; h += 2)
        mix_heads(d, n, row, f16, p + h, 2, out + h * d);
    if (h < n_head)
        mix_heads(d, n, row, f16, p + h, 1, out + h * d);
}

static void rows_mix(int64_t d, int64_t n, const void *const *row, bool f16, const float (*p)[HD_ROWS_MAX], int64_t n_head, float *out)
{
    if (f16)
        rows_mix_as(d, n, row, true, p, n_head, out);
    else
        rows_mix_as(d, n, row, false, p, n_head, out);
}

static void bf16_operand(int64_t n, const float *x, float *out)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, hd_bf16_operand8(_mm256_loadu_ps(x + i)));
    for (; i < n; i++)
        out[i] = hd_bf16_operand(x[i]);
}

static void relu_mix(int64_t n_head, int64_t n, const float (*p)[HD_ROWS_MAX], const float *w, float *out)
{
    int64_t i = 0;

    for (; i + 32 <= n; i += 32) {
        __m256 acc[4];

        for (int v = 0; v < 4; v++)
            acc[v] = _mm256_loadu_ps(out + i + 8 * v);
        for (int64_t h = 0; h < n_head; h++)
            for (int v = 0; v < 4; v++)
                acc[v] = _mm256_fmadd_ps(_mm256_max_ps(_mm256_loadu_ps(p[h] + i + 8 * v), _mm256_setzero_ps()), _mm256_broadcast_ss(w + h), acc[v]);
        for (int v = 0; v < 4; v++)
            _mm256_storeu_ps(out + i + 8 * v, acc[v]);
    }
    for (; i < n; i++)
        for (int64_t h = 0; h < n_head; h++)
            out[i] = fmaf(p[h][i] > 0 ? p[h][i] : 0, w[h], out[i]);
}

static void mix_streams(int64_t n, int64_t n_hc, const float *a, const float *post, const float *comb, float *x)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 old[HD_HC_MAX], av = _mm256_loadu_ps(a + i);

        for (int64_t j = 0; j < n_hc; j++)
            old[j] = _mm256_loadu_ps(x + j * n + i);
        for (int64_t k = 0; k < n_hc; k++) {
            __m256 sum = _mm256_mul_ps(_mm256_broadcast_ss(post + k), av);

            for (int64_t j = 0; j < n_hc; j++)
                sum = _mm256_add_ps(sum, _mm256_mul_ps(_mm256_broadcast_ss(comb + j * n_hc + k), old[j]));
            _mm256_storeu_ps(x + k * n + i, sum);
        }
    }
    for (; i < n; i++) {
        float old[HD_HC_MAX];

        for (int64_t j = 0; j < n_hc; j++)
            old[j] = x[j * n + i];
        for (int64_t k = 0; k < n_hc; k++) {
            float sum = post[k] * a[i];

            for (int64_t j = 0; j < n_hc; j++)
                sum += comb[j * n_hc + k] * old[j];
            x[k * n + i] = sum;
        }
    }
}

/* ---- packed cache rows ---- */

/* Sixteen e2m1 as f32. */
static inline void fp4_16(const uint8_t *p, __m256 half_scale, float *x)
{
    const __m128i value = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), low = _mm_set1_epi8(15);
    __m128i b = _mm_loadl_epi64((const __m128i *)p), c = _mm_shuffle_epi8(value, _mm_unpacklo_epi8(_mm_and_si128(b, low), _mm_and_si128(_mm_srli_epi16(b, 4), low)));

    _mm256_storeu_ps(x, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(c)), half_scale));
    _mm256_storeu_ps(x + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(c, 8))), half_scale));
}

static void kv_decode(const struct hd_kv_row *r, const void *row, float *x)
{
    const uint8_t *code = row, *scale = code + (r->code == HD_KV_FP8 ? r->n : r->n / 2);
    int64_t n_block = (r->n + r->block - 1) / r->block, tail = (scale + n_block - code + 1) & ~(int64_t)1, i = 0;

    if (r->n % r->block || r->block % 16) {
        hd_kv_decode(r, row, x);
        return;
    }
    for (int64_t b = 0; b < n_block; b++) {
        float s = r->code == HD_KV_FP4_E4M3 ? hd_e4m3_f32(scale[b]) : hd_e8m0_f32(scale[b]);
        int64_t first = b * r->block, end = first + r->block;

        if (r->code != HD_KV_FP8)
            for (int64_t k = first; k < end; k += 16)
                fp4_16(code + k / 2, _mm256_set1_ps(0.5f * s), x + k);
        else if (r->block % 32 || !hd_e4m3_avx2(code + first, r->block, s, x + first))
            for (int64_t k = first; k < end; k += 8)
                _mm256_storeu_ps(x + k, _mm256_mul_ps(hd_e4m3x8_avx2(code + k), _mm256_set1_ps(s)));
    }
    x += r->n;
    for (; i + 8 <= r->tail; i += 8)
        _mm256_storeu_ps(x + i, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(code + tail + 2 * i))), 16)));
    for (; i < r->tail; i++)
        x[i] = hd_bf16_f32(hd_load16(code + tail + 2 * i));
}

void hd_fill_vec_avx2(struct hd_kernels *k)
{
    k->q16_encode = q16_encode;
    k->q8_encode = q8_encode;
    k->bf16_encode = bf16_encode;
    k->rmsnorm = rmsnorm;
    k->silu_mul = silu_mul;
    k->silu_bwd = silu_bwd;
    k->exp_sum = exp_sum;
    k->dot_f32 = dot_f32;
    k->dot_f16 = dot_f16;
    k->rows_dot = rows_dot;
    k->rows_mix = rows_mix;
    k->bf16_operand = bf16_operand;
    k->relu_mix = relu_mix;
    k->mix_streams = mix_streams;
    k->kv_decode = kv_decode;
    k->axpy_f32 = axpy_f32;
    k->axpy_f16 = axpy_f16;
    k->scale = scale;
    k->add = add;
    k->f32_to_f16 = f32_to_f16;
}
