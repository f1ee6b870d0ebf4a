/* matmul_fp4_body.h: e2m1 weights times int8 activations: f4_e2m1 with a ue8m0 scale a row and 32 columns, and mxfp4.
 *
 * The activations' int16 are rounded to int8 (hd_q16_to_q8), once a call, into the order in which nibbles come out of the weights: low
 * ones and high ones apart. A byte shuffle turns a nibble into twice its value plus 12, an unsigned byte, so that unsigned times signed
 * products can be summed in integers; sum of x times 12 is taken off block by block in f32. Scales of eight blocks are made together.
 * Two values a byte lie side by side in f4_e2m1 and sixteen apart in mxfp4: only the activations' order differs.
 *
 * An element's order is fixed whatever the tile: groups of eight blocks ascending (a row's last one filled up with zeros) into the
 * accumulator's lanes, then one tree. The including file defines
 *   V, v_zero, v_fma, v_mul, v_total          vectors of f32
 *   W, FP4_BLOCKS                              a vector of bytes, of that many blocks
 *   w_load(p, stride), w_low, w_high           FP4_BLOCKS times 16 bytes, stride apart; the values of their nibbles
 *   v_dot(lo, hi, x)                           integer sums of products, four lanes a block, as f32
 *   v_spread(s8, k)                            of eight scales, those of blocks k FP4_BLOCKS .., four lanes each; v_widen: eight lanes and zeros
 *   FP4_FILL                                   the function that enters the kernels
 */
#include <string.h>

#include "kernels/table.h"

#define NB_MAX (HD_FP4_Q8_MAX / 32)
#define T_MAX 4
#define R_MAX 4
#define AHEAD 2048                    /* bytes between a load and its prefetch, at least */

struct packed {
    _Alignas(64) int8_t q[T_MAX][NB_MAX][32];         /* by FP4_BLOCKS blocks: what low nibbles meet, what high ones meet */
    _Alignas(64) float d[T_MAX][NB_MAX][4];           /* half the scale, since weights come out doubled; four times */
    _Alignas(64) float off[T_MAX][NB_MAX];            /* -12 d sum(q) */
};

static _Thread_local struct packed tls;

/* int8 of a block: even elements then odd ones, or (apart) as they are. */
static inline __m256i round_block(const int16_t *q, bool apart)
{
    const __m256i f = _mm256_set1_epi16(127), split = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    __m256i a = _mm256_mulhrs_epi16(_mm256_loadu_si256((const __m256i *)q), f), b = _mm256_mulhrs_epi16(_mm256_loadu_si256((const __m256i *)(q + 16)), f);
    __m256i v = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xD8);

    return apart ? v : _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, split), 0xD8);
}

/* The sums of eight blocks. */
static inline __m256 sum_blocks(const __m256i *q)
{
    const __m256i one8 = _mm256_set1_epi8(1), one16 = _mm256_set1_epi16(1);
    __m256i s[8], a, b;

    for (int i = 0; i < 8; i++)
        s[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(one8, q[i]), one16);
    for (int i = 0; i < 8; i += 2)
        s[i / 2] = _mm256_hadd_epi32(s[i], s[i + 1]);
    a = _mm256_hadd_epi32(s[0], s[1]);            /* both halves of blocks 0 to 3 */
    b = _mm256_hadd_epi32(s[2], s[3]);
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)));
}

static void pack(const struct hd_q16 *x, int64_t nb, int k, bool apart)
{
    for (int64_t i = 0; i < nb; i += 8) {
        __m256i v[8];
        _Alignas(32) float d[8];

        for (int j = 0; j < 8; j++) {
            int8_t *p = tls.q[k][(i + j) / FP4_BLOCKS * FP4_BLOCKS] + (i + j) % FP4_BLOCKS * 16;
            bool there = i + j < nb;

            v[j] = there ? round_block(x[i + j].q, apart) : _mm256_setzero_si256();
            d[j] = there ? x[i + j].d * (0.5f * HD_Q8_SCALE) : 0;
            _mm_store_si128((__m128i *)p, _mm256_castsi256_si128(v[j]));
            _mm_store_si128((__m128i *)(p + FP4_BLOCKS * 16), _mm256_extracti128_si256(v[j], 1));
            _mm_store_ps(tls.d[k][i + j], _mm_set1_ps(d[j]));
        }
        _mm256_store_ps(tls.off[k] + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(-12), _mm256_load_ps(d)), sum_blocks(v)));
    }
}

/* 2^(e - 127) of eight bytes. */
static inline __m256 ue8m0(uint64_t bytes)
{
    __m256i e = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes)), bits = _mm256_slli_epi32(e, 23);

    return _mm256_castsi256_ps(_mm256_blendv_epi8(bits, _mm256_set1_epi32(0x400000), _mm256_cmpeq_epi32(e, _mm256_setzero_si256())));
}

/* Where a row's blocks and scales lie. */
struct row {
    const uint8_t *code, *scale;
};

static inline __attribute__((always_inline)) uint64_t scales(bool mx, const struct row *row, int64_t i)
{
    uint64_t e = 0;

    if (mx)
        for (int j = 0; j < 8; j++)
            e |= (uint64_t)row->scale[(i + j) * 17] << (8 * j);
    else
        memcpy(&e, row->scale + i, 8);
    return e;
}

/* Blocks i .. i + 8 of a row against T tokens. */
static inline __attribute__((always_inline)) void group(int T, const uint8_t *code, int64_t stride, uint64_t scale_bytes, int64_t i, V *acc)
{
    __m256 s = ue8m0(scale_bytes);

    __asm__("" ::: "memory");         /* or the compiler keeps activations from the row before: in memory, where they are already */
    for (int k = 0; k < T; k++)
        acc[k] = v_fma(v_widen(s), v_widen(_mm256_load_ps(tls.off[k] + i)), acc[k]);
    for (int b = 0; b < 8; b += FP4_BLOCKS) {
        W w = w_load(code + b * stride, stride), lo = w_low(w), hi = w_high(w);
        V sv = v_spread(s, b / FP4_BLOCKS);

        for (int k = 0; k < T; k++)
            acc[k] = v_fma(v_dot(lo, hi, tls.q[k][i + b]), v_mul(sv, v_load(tls.d[k][i + b])), acc[k]);
    }
}

static inline __attribute__((always_inline)) void tile(bool mx, int R, int T, int64_t nb, const struct hd_wrows *w, int64_t row0, float *out, int64_t ld_out)
{
    int64_t i = 0, ahead = R * w->row_bytes > AHEAD ? R * w->row_bytes : AHEAD, stride = mx ? 17 : 16;
    V acc[R_MAX][T_MAX];
    struct row row[R_MAX];

    for (int r = 0; r < R; r++) {
        const uint8_t *p = (const uint8_t *)w->data + (row0 + r) * w->row_bytes;

        row[r] = mx ? (struct row){p + 1, p} : (struct row){p, (const uint8_t *)w->scale->data + (row0 + r) * w->scale->n_col};
        for (int k = 0; k < T; k++)
            acc[r][k] = v_zero();
    }
    for (; i + 8 <= nb; i += 8)
        for (int r = 0; r < R; r++) {
            if (T == 1) {             /* the next tile's rows: streams of a few hundred bytes are too short for the hardware's prefetchers */
                _mm_prefetch((const char *)row[r].code + i * stride + ahead, _MM_HINT_T0);
                _mm_prefetch((const char *)row[r].code + i * stride + ahead + 64, _MM_HINT_T0);
            }
            group(T, row[r].code + i * stride, stride, scales(mx, &row[r], i), i, acc[r]);
        }
    if (i < nb)
        for (int r = 0; r < R; r++) {
            uint8_t code[8 * 16] = {0};
            uint64_t e = 0;

            for (int64_t j = 0; j < nb - i; j++) {
                memcpy(code + j * 16, row[r].code + (i + j) * stride, 16);
                e |= (uint64_t)row[r].scale[(i + j) * (mx ? 17 : 1)] << (8 * j);
            }
            group(T, code, 16, e, i, acc[r]);
        }
    for (int r = 0; r < R; r++)
        for (int k = 0; k < T; k++)
            out[k * ld_out + r] = v_total(acc[r][k]) * (mx ? 1 : w->scale->global);
}

static inline __attribute__((always_inline)) void matmul_fp4(bool mx, int64_t nb, const struct hd_wrows *w, int64_t n_row, const char *x, int64_t x_bytes, int64_t n_tok,
                                                             float *out, int64_t ld_out)
{
    for (int64_t k = 0; k < n_tok; k += T_MAX) {
        int T = n_tok - k < T_MAX ? (int)(n_tok - k) : T_MAX, step = T == 1 ? 4 : 2;
        float *o = out + k * ld_out;
        int64_t r = 0;

        for (int j = 0; j < T; j++)
            pack((const struct hd_q16 *)(x + (k + j) * x_bytes), nb, j, mx);
        for (; r + step <= n_row; r += step)
            switch (T) {
            case 1: tile(mx, 4, 1, nb, w, w->row0 + r, o + r, ld_out); break;
            case 2: tile(mx, 2, 2, nb, w, w->row0 + r, o + r, ld_out); break;
            case 3: tile(mx, 2, 3, nb, w, w->row0 + r, o + r, ld_out); break;
            default: tile(mx, 2, 4, nb, w, w->row0 + r, o + r, ld_out); break;
            }
        for (; r < n_row; r++)
            switch (T) {
            case 1: tile(mx, 1, 1, nb, w, w->row0 + r, o + r, ld_out); break;
            case 2: tile(mx, 1, 2, nb, w, w->row0 + r, o + r, ld_out); break;
            case 3: tile(mx, 1, 3, nb, w, w->row0 + r, o + r, ld_out); break;
            default: tile(mx, 1, 4, nb, w, w->row0 + r, o + r, ld_out); break;
            }
    }
}

static hd_matmul_fn other_f4, other_mx;

/* Scales as published; any other form, and rows that are too long, go where they went before. */
static void f4_e2m1(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    if (hd_fp4_by_q8(HD_F4_E2M1, n, w->scale))
        matmul_fp4(false, n / 32, w, n_row, x, x_bytes, n_tok, out, ld_out);
    else
        other_f4(n, w, n_row, x, x_bytes, n_tok, out, ld_out);
}

static void mxfp4(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out)
{
    if (hd_fp4_by_q8(HD_MXFP4, n, NULL))
        matmul_fp4(true, n / 32, w, n_row, x, x_bytes, n_tok, out, ld_out);
    else
        other_mx(n, w, n_row, x, x_bytes, n_tok, out, ld_out);
}

void FP4_FILL(struct hd_kernels *k)
{
    other_f4 = k->matmul_q16[HD_F4_E2M1];
    other_mx = k->matmul_q16[HD_MXFP4];
    k->matmul_q16[HD_F4_E2M1] = f4_e2m1;
    k->matmul_q16[HD_MXFP4] = mxfp4;
}
