/* kernels.h: the table of inner loops, filled once by hd_kernels_init() from what the CPU can do.
 *
 * Leaves: primitive arguments, no threads, no memory, no errors. The scalar version of each is the definition; faster
 * ones agree within the bound that checkkern states. Whatever the ISA, an output element depends on its own row of w and
 * its own row of x only, in an order fixed by n: results do not change with n_row, n_tok, or how a caller tiles.
 */
#ifndef HD_KERNELS_KERNELS_H
#define HD_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/act_bf16.h"
#include "tensor/kv_row.h"
#include "tensor/panel.h"
#include "tensor/quant_q16.h"
#include "tensor/quant_q8.h"

enum hd_isa { HD_ISA_SCALAR, HD_ISA_AVX2, HD_ISA_AVX512, HD_ISA_AVX512VNNI, HD_ISA_AVX512BF16, HD_ISA_AMX, HD_ISA_NEON, HD_N_ISA };

/* Rows row0 .. of a weight matrix. */
struct hd_wrows {
    const void *data;             /* row 0 of the matrix */
    int64_t row_bytes;
    const struct hd_scale *scale; /* NULL when the format has its scales inside */
    int64_t row0;
};

/* out[t * ld_out + r] = sum_k w[row0 + r, k] x[t, k] for r < n_row, t < n_tok; any n_row, n_tok >= 1; n a multiple of the
 * format's block length (and of 32 for q16). x rows lie x_bytes apart: f32 or struct hd_q16[n / 32]. */
typedef void (*hd_matmul_fn)(int64_t n, const struct hd_wrows *w, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out);

/* The same for weights in panels; row0 a multiple of 16. x: struct hd_q8[n / 32] where hd_panel_by_q8(kind), else bf16[n]
 * as bf16_encode makes them. The definition in
 * panel_scalar.c fixes every rounding: all levels give the same bits. (Not for what no checkpoint has: NaN codes among fp8 weights and
 * ue8m0 scales count as the numbers next to them.) */
typedef void (*hd_panel_fn)(const struct hd_panels *w, int64_t row0, int64_t n_row, const void *x, int64_t x_bytes, int64_t n_tok, float *out, int64_t ld_out);

static inline bool hd_panel_by_q8(enum hd_panel_kind k)
{
    return k == HD_PANEL_NIBBLES || k == HD_PANEL_BYTES;
}

/* What remains to be multiplied at the end: e2m1 codes count halves. */
static inline float hd_panel_factor(const struct hd_panels *w)
{
    return w->type == HD_MXFP4 || w->type == HD_F4_E2M1 ? 0.5f * w->global : 1;
}

/* ---- products of matrices, for training ----
 *
 * HD_GEMM_F32: as they are. HD_GEMM_BF16: operands are rounded to bf16 when they are packed (act_bf16.h), products are exact, sums f32, of every
 * two neighbours of k the second first. That is what vdpbf16ps does with pairs, and what FMAs do with the rounded numbers as f32, each two swapped: the same bits at
 * every level. (It counts subnormal numbers as zero: products of what is at least 2^-56 are multiples of 2^-126, and so are their sums.) */
enum hd_gemm_kind { HD_GEMM_F32, HD_GEMM_BF16, HD_N_GEMM };

/* What becomes of a product: it takes c's place, is added to c, or takes its place past the caches (c aligned to 64, ld % 16 == 0; a fence before others read). */
enum hd_gemm_put { HD_GEMM_PUT, HD_GEMM_ADD, HD_GEMM_STREAM };

/* What will be read next: n times 128 bytes, from p on every step floats, are fetched into L2 as work goes on (or fewer). Only a hint: any address will do. */
struct hd_gemm_next {
    const float *p;
    int64_t step, n;
};

/* c[m, n] (put) sum_i a[i][.]^T b[i][.] over packed a[k][gemm_mr] and b[k][gemm_nr], i ascending; rows of c lie ld apart. 1 <= m <= gemm_mr,
 * 1 <= n <= gemm_nr; a and b are whole, whatever m and n. An element's sum depends on k and its own row and column only. k counts packed rows. */
typedef void (*hd_gemm_fn)(int64_t k, const float *a, const float *b, float *c, int64_t ld, int m, int n, enum hd_gemm_put put, const struct hd_gemm_next *next);

/* Panels for it: to[i * wide + e] = from[i * ld + e] (plain) or from[e * ld + i] (turned), 0 where n <= e < wide; i < k. wide: gemm_mr or gemm_nr.
 * BF16 in pairs: the 32 bits at to[i / 2 * wide + e] hold i and, in the high half, i + 1; not in pairs: to[(i ^ 1) * wide + e]. An odd k's last row is met by zeros.
 * HD_GEMM_SLACK floats after the panel may be overwritten. */
typedef void (*hd_gemm_pack_fn)(int64_t k, int n, int wide, const float *from, int64_t ld, float *to);
#define HD_GEMM_SLACK 16

struct hd_gemm_kernels {
    hd_gemm_fn tile;
    hd_gemm_pack_fn pack_plain, pack_turned;
    bool pairs;                               /* BF16: an instruction takes two rows of k: packed rows are half as many */
};

/* One row of a matrix as f32 (vectorised hd_decode_row, bit-equal to it). */
typedef void (*hd_decode_fn)(const struct hd_wrows *w, int64_t n, float *out);

#define HD_HC_MAX 16              /* residual streams */
#define HD_ROWS_MAX 64            /* cached rows that the attention kernels take at once */

/* Attention of bf16 operands where an instruction multiplies two of them (vdpbf16ps): words of two, the first in the high half, since its product is added first.
 * The same bits as rows16_dot and rows_mix on bf16_operand's numbers, except that sums which are subnormal count as zero. All NULL where there is no such instruction. */
struct hd_pair_kernels {
    /* (n + 1) / 2 words; an odd n's last low half is zero. word may be x. */
    void (*encode)(int64_t n, const float *x, uint32_t *word);
    /* rows: words that interleave16 laid side by side, 16 rows after 16, each of n words; query h's at q + h ld. p as of rows16_dot. */
    void (*rows16_dot)(int64_t n, int64_t n_row, const uint32_t *rows, float scale, const uint32_t *q, int64_t ld, int64_t n_head, float (*p)[HD_ROWS_MAX]);
    /* Rows of d values, encoded, become words of one's (high) and the next's (low) value each. b NULL: zeros. */
    void (*couple)(int64_t d, const uint32_t *a, const uint32_t *b, uint32_t *out);
    /* out[h][k] += sum_i p[h][i] row i[k] over n such rows of couples, ld apart, p[h] encoded. */
    void (*rows_mix)(int64_t d, int64_t n, const uint32_t *row, int64_t ld, const float (*p)[HD_ROWS_MAX], int64_t n_head, float *out);
};

struct hd_kernels {
    enum hd_isa isa;
    hd_matmul_fn matmul_f32[HD_N_DTYPE];    /* x f32, every product and sum in f32 or wider; set for every weight format */
    hd_matmul_fn matmul_q16[HD_N_DTYPE];    /* x q16; NULL where the fast mode uses f32 activations too */
    hd_panel_fn matmul_panel[HD_N_DTYPE];   /* of the format that panels were made from */
    hd_decode_fn decode[HD_N_DTYPE];
    struct hd_gemm_kernels gemm[HD_N_GEMM];
    int gemm_mr, gemm_nr;                   /* of every kind */
    void (*q16_encode)(const float *x, int64_t n, struct hd_q16 *out);
    void (*q8_encode)(const float *x, int64_t n, struct hd_q8 *out);
    void (*bf16_encode)(const float *x, int64_t n, uint16_t *out);      /* act_bf16.h */

    /* out[i] = x[i] * rsqrt(mean(x^2) + eps) * w[i]; w f32; the sum of squares in double or 8+ lanes of f32. out may be x. */
    void (*rmsnorm)(int64_t n, const float *x, const float *w, float eps, float *out);
    void (*silu_mul)(int64_t n, const float *gate, const float *up, float *out);      /* gate / (1 + exp(-gate)) * up; out may be gate */
    /* The way back of silu_mul with both inputs cut off at limit (0: never): with a = min(gate, limit), b = up within +-limit, y = 1 / (1 + exp(-a)):
     * act = a y b, dgate = d b y (1 + a (1 - y)), dup = d a y, 0 where an input was cut off. Outputs may be inputs. */
    void (*silu_bwd)(int64_t n, const float *gate, const float *up, const float *d, float limit, float *act, float *dgate, float *dup);
    float (*exp_sum)(int64_t n, float *x, float max);                                  /* x[i] = exp(x[i] - max); returns their sum */
    float (*dot_f32)(int64_t n, const float *a, const float *b);
    float (*dot_f16)(int64_t n, const uint16_t *a, const float *b);
    /* Attention over n <= HD_ROWS_MAX cached rows of d values (f32 or f16, at row[i]), for n_head query heads at once:
     * p[h][i] = scale row[i] . q[h]; out[h] += sum_i p[h][i] row[i], in the order of i. q and out rows lie d apart. */
    void (*rows_dot)(int64_t d, int64_t n, const void *const *row, bool f16, float scale, const float *q, int64_t n_head, float (*p)[HD_ROWS_MAX]);
    void (*rows_mix)(int64_t d, int64_t n, const void *const *row, bool f16, const float (*p)[HD_ROWS_MAX], int64_t n_head, float *out);
    /* Sixteen rows of n words side by side, as panels have them: out[k * 16 + r] = word k of row[r]. */
    void (*interleave16)(int64_t n, const void *const row[16], void *out);
    /* Cached rows that lie so, 16 after 16: p[h][i] = scale sum_k row i [k] q[h][k], k ascending, fused; i up to n rounded up to 16. */
    void (*rows16_dot)(int64_t d, int64_t n, const float *rows, float scale, const float *q, int64_t n_head, float (*p)[HD_ROWS_MAX]);
    /* hd_bf16_operand() of each; out may be x. */
    void (*bf16_operand)(int64_t n, const float *x, float *out);
    struct hd_pair_kernels pair;
    /* Every x[i] > least goes behind value, first + i behind idx; how many. */
    int64_t (*above)(int64_t n, const float *x, float least, int32_t first, float *value, int32_t *idx);
    /* The largest number of x[n]; -inf where there is none. Of 0 and -0 either. */
    float (*largest)(int64_t n, const float *x);
    /* out[i] += sum_h max(p[h][i], 0) w[h], n <= HD_ROWS_MAX, in the order of h, fused. */
    void (*relu_mix)(int64_t n_head, int64_t n, const float (*p)[HD_ROWS_MAX], const float *w, float *out);
    /* The indexer's scores: out[16 i + lane] = sum_h max(key . q[h], 0) w[h] for the fp4 keys of n panels, panel i at panel[i] and like *p, whose data is not
     * looked at. q: rows of struct hd_q8 without fine parts. soon: panels that are brought nearer meanwhile, one for each; may be NULL.
     * NULL: no better way than matmul_panel and relu_mix, which give the same bits. */
    void (*index_panels)(const struct hd_panels *p, const uint8_t *const *panel, const uint8_t *const *soon, int64_t n, const void *q, int64_t q_bytes, int64_t n_head,
                         const float *w, float *out);
    /* x[k] = post[k] a + sum_j comb[j][k] x[j], in the order of j: n_hc <= HD_HC_MAX streams of n values. */
    void (*mix_streams)(int64_t n, int64_t n_hc, const float *a, const float *post, const float *comb, float *x);
    void (*kv_decode)(const struct hd_kv_row *r, const void *row, float *x);          /* vectorised hd_kv_decode (kv_row.h), equal to it */
    void (*axpy_f32)(int64_t n, float a, const float *x, float *y);                    /* y += a x, fma */
    void (*axpy_f16)(int64_t n, float a, const uint16_t *x, float *y);
    void (*scale)(int64_t n, float a, float *y);                                       /* y *= a */
    void (*add)(int64_t n, const float *a, const float *b, float *out);
    void (*f32_to_f16)(int64_t n, const float *x, uint16_t *out);
};

extern struct hd_kernels hd_k;

/* Packed rows that k rows make. */
static inline int64_t hd_gemm_rows(enum hd_gemm_kind kind, int64_t k)
{
    return kind == HD_GEMM_F32 ? k : hd_k.gemm[kind].pairs ? (k + 1) / 2 : (k + 1) / 2 * 2;
}

/* level: "scalar" "avx2" "avx512" "avx512vnni" "avx512bf16" "amx" "neon", or NULL for the best the CPU has. false when the CPU lacks it or
 * the name is unknown. Call before any thread uses hd_k. */
bool hd_kernels_init(const char *level);
bool hd_isa_available(enum hd_isa isa);
const char *hd_isa_name(enum hd_isa isa);

#endif
