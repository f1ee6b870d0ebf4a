/* matmul_few_body.h: e4m3, bf16 and f16 weights times f32 activations of a few tokens: decoded in registers, never stored.
 *
 * The bits are those of matmul_f32_body.h, which keeps the many-token case: partial sums by lane, ascending, the same tree. E4M3: a byte
 * in the upper half of an int16, shifted right by one with its sign, is an f16 of 2^-8 times the value once bit 14 is cleared.
 * 0x7F and 0xFF, the NaNs, do not fit that: a row that has one goes the other way. A scale that is a power of two and that all rows of a
 * tile share multiplies the activations instead of the weights: the same products, fewer instructions.
 *
 * The including file defines V, V_LANES, v_fma, v_mul, v_zero, v_set1, v_load, v_store; 32 values each: f8_load(p, V *), times 2^-8,
 * which returns the 32 bytes, bf16_load(p, V *), f16_load(p, V *); and FEW_FILL, the function that enters the kernels.
 */
#include <string.h>

#include "kernels/table.h"
#include "tensor/decode_rows.h"

#define STEP 32                       /* columns a round */
#define R_MAX 4
#define T_MAX 4
#define AHEAD 2048                    /* bytes between a load and its prefetch, at least */

static hd_matmul_fn many[HD_N_DTYPE];

static inline float reduce(V acc)
{
    float lane[V_LANES];

    v_store(lane, acc);
    for (int half = V_LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

static inline __attribute__((always_inline)) __m256i load32(enum hd_dtype type, const uint8_t *p, V *v)
{
    if (type == HD_F8_E4M3)
        return f8_load(p, v);
    if (type == HD_BF16)
        bf16_load(p, v);
    else
        f16_load(p, v);
    return _mm256_setzero_si256();
}

/* false: a NaN of e4m3 was met, nothing is written. shared: one scale for all rows, a power of two (or none). */
static inline __attribute__((always_inline)) bool tile(enum hd_dtype type, bool shared, int R, int T, int64_t n, const struct hd_wrows *w, int64_t row0, const char *x, int64_t x_bytes,
                                                       float *out, int64_t ld_out)
{
    const __m256i magnitude = _mm256_set1_epi8(0x7F);
    __m256i most = _mm256_setzero_si256();
    V acc[R_MAX][T_MAX];
    const uint8_t *row[R_MAX];
    bool f8 = type == HD_F8_E4M3;
    int64_t size = f8 ? 1 : 2, base[R_MAX], ahead = R * w->row_bytes > AHEAD ? R * w->row_bytes : AHEAD, block = w->scale ? w->scale->block_cols : n;

    for (int r = 0; r < R; r++) {
        row[r] = (const uint8_t *)w->data + (row0 + r) * w->row_bytes;
        base[r] = w->scale ? (row0 + r) / w->scale->block_rows * w->scale->n_col : 0;
        for (int t = 0; t < T; t++)
            acc[r][t] = v_zero();
    }
    for (int64_t b = 0; b * block < n; b++) {
        int64_t end = (b + 1) * block < n ? (b + 1) * block : n;
        V scale[R_MAX];

        for (int r = 0; r < (shared ? 1 : R) && f8; r++)
            scale[r] = v_set1(256 * (w->scale ? hd_scale_value(w->scale, base[r] + b) : 1));
        for (int64_t i = b * block; i < end; i += STEP) {
            V xv[T_MAX][STEP / V_LANES];

            for (int t = 0; t < T; t++)
                for (int j = 0; j < STEP / V_LANES; j++) {
                    xv[t][j] = v_load((const float *)(x + t * x_bytes) + i + j * V_LANES);
                    if (shared && f8)
                        xv[t][j] = v_mul(xv[t][j], scale[0]);
                }
            for (int r = 0; r < R; r++) {
                V v[STEP / V_LANES];
                __m256i bytes = load32(type, row[r] + i * size, v);

                if (f8)
                    most = _mm256_max_epu8(most, _mm256_and_si256(bytes, magnitude));
                if (T == 1)
                    _mm_prefetch((const char *)row[r] + i * size + ahead, _MM_HINT_T0);
                for (int j = 0; j < STEP / V_LANES; j++) {
                    V wv = shared ? v[j] : v_mul(v[j], scale[r]);

                    for (int t = 0; t < T; t++)
                        acc[r][t] = v_fma(wv, xv[t][j], acc[r][t]);
                }
            }
        }
    }
    if (f8 && _mm256_movemask_epi8(_mm256_cmpeq_epi8(most, magnitude)))
        return false;
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            out[t * ld_out + r] = reduce(acc[r][t]);
    return true;
}

static inline __attribute__((always_inline)) bool few(enum hd_dtype type, bool shared, int R, int T, int64_t n, const struct hd_wrows *w, int64_t row0, const char *x,
                                                      int64_t x_bytes, float *out, int64_t ld_out)
{
    switch (R * 8 + T) {
    case 4 * 8 + 1: return tile(type, shared, 4, 1, n, w, row0, x, x_bytes, out, ld_out);
    case 4 * 8 + 2: return tile(type, shared, 4, 2, n, w, row0, x, x_bytes, out, ld_out);
    case 2 * 8 + 3: return tile(type, shared, 2, 3, n, w, row0, x, x_bytes, out, ld_out);
    case 2 * 8 + 4: return tile(type, shared, 2, 4, n, w, row0, x, x_bytes, out, ld_out);
    case 1 * 8 + 1: return tile(type, shared, 1, 1, n, w, row0, x, x_bytes, out, ld_out);
    case 1 * 8 + 2: return tile(type, shared, 1, 2, n, w, row0, x, x_bytes, out, ld_out);
    case 1 * 8 + 3: return tile(type, shared, 1, 3, n, w, row0, x, x_bytes, out, ld_out);
    default: return tile(type, shared, 1, 4, n, w, row0, x, x_bytes, out, ld_out);
    }
}

/* Do rows row0 .. row0 + R share a scale that is a power of two? */
static inline bool one_scale(const struct hd_wrows *w, int64_t row0, int R)
{
    return !w->scale || (w->scale->type == HD_F8_E8M0 && w->scale->global == 1 && row0 / w->scale->block_rows == (row0 + R - 1) / w->scale->block_rows);
}

static inline __attribute__((always_inline)) void matmul_few(enum hd_dtype type, int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok,
                                                             float *out, int64_t ld_out)
{
    int64_t step = n_tok > 2 ? 2 : 4;

    if (n_tok > T_MAX || n % STEP || (type == HD_F8_E4M3 && w->scale && w->scale->block_cols % STEP)) {
        many[type](n, w, n_row, x, x_bytes, n_tok, out, ld_out);
        return;
    }
    for (int64_t r = 0; r < n_row;) {
        int R = n_row - r >= step ? (int)step : 1;
        bool done = type != HD_F8_E4M3 || one_scale(w, w->row0 + r, R) ? few(type, true, R, (int)n_tok, n, w, w->row0 + r, x, x_bytes, out + r, ld_out)
                                                                        : few(type, false, R, (int)n_tok, n, w, w->row0 + r, x, x_bytes, out + r, ld_out);

        if (!done) {
            struct hd_wrows part = *w;

            part.row0 += r;
            many[type](n, &part, R, x, x_bytes, n_tok, out + r, ld_out);
        }
        r += R;
    }
}

#define DEFINE(t)                                                                                                                             \
    static void few_##t(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out,         \
                        int64_t ld_out)                                                                                                       \
    {                                                                                                                                         \
        matmul_few(HD_##t, n, w, n_row, x, x_bytes, n_tok, out, ld_out);                                                                      \
    }
DEFINE(F8_E4M3)
DEFINE(BF16)
DEFINE(F16)

void FEW_FILL(struct hd_kernels *k)
{
#define FILL(t)                           \
    many[HD_##t] = k->matmul_f32[HD_##t]; \
    k->matmul_f32[HD_##t] = few_##t;
    FILL(F8_E4M3)
    FILL(BF16)
    FILL(F16)
}
