/* ops.h: the operations that models are made of. T tokens of a ragged batch; activations f32 [T, n] unless said.
 *
 * Outputs are made by the caller with hd_new(). Errors are sticky in the stream: SHAPE for shapes that do not fit (a bug
 * of the model or a checkpoint that was not validated).
 */
#ifndef HD_OPS_OPS_H
#define HD_OPS_OPS_H

#include "ops/stream.h"
#include "tensor/simulate.h"

/* out[T, D] f32 = row ids[t] of w[V, D]; ids are checked by the caller. */
void hd_embed(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *w, const struct hd_ragged *b);

/* out[n, D] = x[rows[i], D]; n = rows of out. */
void hd_gather(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const int32_t *rows);

/* out = x * rsqrt(mean(x^2) + eps) * w, over rows of w's length (a head or the whole width); w f32 [n]. out may be x. */
void hd_rmsnorm(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, float eps);

/* out[T, N] = x[T, K] w[N, K]^T. With n weights the input is converted once and workers see all rows together. */
void hd_matmul(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w);
void hd_matmul_n(struct hd_stream *s, int n, struct hd_tensor *const *out, const struct hd_tensor *x, const struct hd_tensor *const *w);

void hd_add_row(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *b);     /* x[T, N] += b[N] f32 */
void hd_add(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *a, const struct hd_tensor *b);
void hd_silu_mul(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *gate, const struct hd_tensor *up);

/* out[T, 2 n]: cos and sin of pos[t] * inv_freq[i], times scale; angle rounded to f32 as the references do. */
void hd_rope_table(struct hd_stream *s, struct hd_tensor *out, const struct hd_ragged *b, const struct hd_tensor *inv_freq, float scale);

/* Rotates the first 2 n dims of every head of x[T, n_head * head_dim] in place. interleaved: pairs (2i, 2i + 1), else (i, i + n). */
void hd_rope(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *table, int64_t head_dim, bool interleaved);
/* The same for 2 n dims from first on; inverse: the other way round. */
void hd_rope_at(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *table, int64_t head_dim, bool interleaved, int64_t first, bool inverse);

/* out[T, N] = x[T, K] times rows row0 .. row0 + N of w: a matrix that holds several. x and out may be columns of something wider. */
void hd_matmul_rows(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, int64_t row0);
/* Columns col0 .. col0 + n of x as a view. */
struct hd_tensor *hd_slice(struct hd_stream *s, const struct hd_tensor *x, int64_t col0, int64_t n);
/* Row r of x as a vector. */
struct hd_tensor *hd_row(struct hd_stream *s, const struct hd_tensor *x, int64_t r);

/* Rows x[T, n] into the sequences' part; the row of token t is its position / the part's ratio. Converts to the part's format (f32 or f16). */
void hd_kv_put(struct hd_stream *s, const struct hd_tensor *x, const struct hd_ragged *b, int part, enum hd_dtype type);

/* Causal grouped-query attention: out[T, n_head * head_dim], q the same; keys and values are rows of n_kv_head * head_dim in
 * the parts k and v, positions 0 .. pos[t] (the last window of them when window > 0), softmax(scale q k).
 * Blocks of positions are cut at absolute multiples of 64, so that results do not depend on how the tokens were batched. */
void hd_attend(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *q, const struct hd_ragged *b, int part_k, int part_v,
               enum hd_dtype type, int64_t n_kv_head, int64_t head_dim, int64_t window, float scale);

/* out = (x - mean) / sqrt(var + eps) * w + b over whole rows; w, b f32. out may be x. */
void hd_layernorm(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, const struct hd_tensor *b, float eps);

/* Column block g of out = column block g of x times rows g * stride + first .. + cols(out) / n_group of w; products in f32. */
void hd_group_matmul(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, int64_t n_group, int64_t stride, int64_t first);

/* Per head h of q[T, n_head (nope + rope)]: out[T, n_head (rank + rope)] = [sum_r q[r] w[h stride + r] | q's last rope dims]:
 * w[n_head stride, rank] holds each head's key rows first. */
void hd_absorb(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *q, const struct hd_tensor *w, int64_t n_head, int64_t nope, int64_t stride);

/* The same with every head's key rows transposed, as GGUF stores them: w[n_head rank, nope]; products in f32. */
void hd_absorb_t(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *q, const struct hd_tensor *w, int64_t n_head, int64_t nope);

/* ---- official rounding: these do nothing unless the stream is in the official mode ---- */

/* A latent rounded to what its cache row holds: fp8 blocks over the first n columns of every head_dim, bf16 behind them. packed: the
 * cache is, so it happens in every mode. */
void hd_sim_kv(struct hd_stream *s, struct hd_tensor *x, enum hd_sim kind, int64_t block, int64_t head_dim, int64_t n, bool packed);
/* n columns from first on of every head_dim columns of x, rounded in blocks. */
void hd_sim(struct hd_stream *s, struct hd_tensor *x, enum hd_sim kind, int64_t block, int64_t head_dim, int64_t first, int64_t n);
void hd_bf16(struct hd_stream *s, struct hd_tensor *x);
/* out = x w^T as an official linear layer: in the official mode the input is rounded to fp8 in blocks of act_block (0: not),
 * the result to bf16; otherwise hd_matmul(). */
void hd_linear(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, int64_t act_block);
void hd_linear_n(struct hd_stream *s, int n, struct hd_tensor *const *out, const struct hd_tensor *x, const struct hd_tensor *const *w, int64_t act_block);      /* as hd_matmul_n() */

void hd_scale(struct hd_stream *s, struct hd_tensor *x, float a);
/* x *= rsqrt(mean(x^2) + eps) over every head; official: each step rounded to bf16, as on bf16 tensors. */
void hd_head_norm(struct hd_stream *s, struct hd_tensor *x, int64_t head_dim, float eps);
/* Walsh-Hadamard in natural order over every head, times head_dim^-1/2; head_dim a power of two. */
void hd_hadamard(struct hd_stream *s, struct hd_tensor *x, int64_t head_dim);

/* ---- hyper-connections: n_hc streams X[T, n_hc D]; mix[T, n_hc (2 + n_hc)]: pre, post, comb (row-major, source first) ---- */

enum hd_mhc_form {
    HD_MHC_RELEASED,                  /* as DeepSeek's code has it */
    HD_MHC_PAPER,                     /* as the paper prints it: exp, columns first and rows last, no eps; comb sums over its second index */
    HD_MHC_FREE                       /* hyper-connections before they were constrained (2409.19606): every number is tanh(raw) scale + base */
};

struct hd_mhc_hp {
    int64_t n_hc, n_iter;
    float norm_eps, eps;
    enum hd_mhc_form form;
};

void hd_copies(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *h);
/* fn[n, n_hc D], base[n], scale f32: n = n_hc (2 + n_hc) with scale[3], or (a head) n = n_hc, pre only, with scale[1]. */
void hd_mhc_mix(struct hd_stream *s, struct hd_tensor *mix, const struct hd_tensor *x, const struct hd_tensor *fn, const struct hd_tensor *base,
                const struct hd_tensor *scale, const struct hd_mhc_hp *hp);
/* u[T, D] = sum_j mix[j] X[j]; mix NULL: stream 0. */
void hd_mhc_pre(struct hd_stream *s, struct hd_tensor *u, const struct hd_tensor *x, const struct hd_tensor *mix, int64_t n_hc);
/* u[T, D] = the streams' mean */
void hd_mhc_mean(struct hd_stream *s, struct hd_tensor *u, const struct hd_tensor *x, int64_t n_hc);
void hd_mhc_post(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *a, const struct hd_tensor *mix, int64_t n_hc);

/* ---- compressed and sparse attention ---- */

/* The groups of ratio tokens that the batch completes, as a batch of their own: token e is a group, its position the group's
 * first. Lives in the step arena. */
const struct hd_ragged *hd_entries(struct hd_stream *s, const struct hd_ragged *b, int64_t ratio);

/* Rows x[T, n] into a WINDOW part (the last ones, when there are more than it holds). */
void hd_ring_put(struct hd_stream *s, const struct hd_tensor *x, const struct hd_ragged *b, int part);

/* out[T, n] f32: for every token x's row of the token before it in its sequence: of this step, or row pos0 - 1 of the WINDOW part for a span's first
 * one; zeros at position 0. x NULL: no span has a second token. */
void hd_shift(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_ragged *b, int part);

/* The same tokens, each one position earlier; a sequence's first token is in no span. Lives in the step arena. */
const struct hd_ragged *hd_before(struct hd_stream *s, const struct hd_ragged *b);

/* e[groups, n] = per channel softmax(g) . z over a group's tokens. z and g [T, n], or [T, 2 n] with overlap: the first half
 * serves the next group, the second its own. ape f32 [ratio, cols] is added to g (may be NULL). part: a WINDOW of rows
 * [2 cols] f32 that carries z and g of the last groups from step to step. */
void hd_pool(struct hd_stream *s, struct hd_tensor *e, struct hd_tensor *z, struct hd_tensor *g, const struct hd_tensor *ape, const struct hd_ragged *b, int part,
             int64_t ratio, bool overlap);

struct hd_index_hp {
    int64_t n_head, head_dim, ratio, top_k;
    bool ascending;                   /* selected entries by position; otherwise best first */
    int64_t block, n_block;           /* candidate blocks: their size and how many are kept */
    int64_t row_bytes;                /* of a cached key, for the cost; 0: f32 */
};

/* The indexer writes down scores, and behind a token's the largest of every so many of them. */
#define HD_INDEX_RUN 64

/* Scratch that choosing k of a stream takes, in words of 32 bits. */
static inline int64_t hd_choose_words(int64_t k)
{
    return 4 * k + 256;
}

/* sel[T, top_k] i32: the entries G < (pos + 1) / ratio with the largest sum_h w[h] relu(q[h] . key[G]), -1 behind them.
 * cand_out[T, n_block] (likewise, ascending; may be NULL): the best blocks by their best entry, the newest always among them. cand_in (may be
 * NULL; not with cand_out): entries outside these blocks come last, the earliest first. */
void hd_index(struct hd_stream *s, struct hd_tensor *sel, const struct hd_tensor *q, const struct hd_tensor *w, const struct hd_ragged *b, int part,
              const struct hd_index_hp *hp, struct hd_tensor *cand_out, const struct hd_tensor *cand_in);

struct hd_attend_sel_hp {
    int64_t n_head, head_dim, window, ratio;
    int part_window, part_entry;      /* part_entry -1: the window only; part_window -1: entries only (window 0) */
    float scale;
    int64_t value_dim;                /* 0: values are whole vectors; otherwise their first value_dim dims */
    int64_t row_bytes;                /* of a cached vector, for the cost; 0: f32 */
    bool from_raw0;                   /* the window begins at the span's raw0 */
    bool block;                       /* every row of a span sees all of them, and the window before the first */
    bool bf16;                        /* operands are rounded to bf16 (act_bf16.h), and q is used up */
};

/* Does attention round its operands? Where the product behind it, of w, rounds its own, and heads are enough to pay for making bf16 of rows. */
bool hd_attends_bf16(const struct hd_stream *s, const struct hd_tensor *w, int64_t n_head);

/* Positions of plain caches, and entries that everybody sees, have sums of their own for every so many of them. */
#define HD_SUMS_RUN 64

/* out[T, n_head value_dim]: one vector per token is key and value of all heads: kv[T, head_dim] of this step and the window
 * part for the last `window` positions, then entries of part_entry: those of sel, or all G < (pos + 1) / ratio when sel is
 * NULL. sink f32 [n_head] is one more logit without a value. */
void hd_attend_sel(struct hd_stream *s, struct hd_tensor *out, struct hd_tensor *q, const struct hd_tensor *kv, const struct hd_tensor *sel,
                   const struct hd_tensor *sink, const struct hd_ragged *b, const struct hd_attend_sel_hp *hp);

/* ---- experts ---- */

enum hd_gate_fn { HD_GATE_SOFTMAX, HD_GATE_SIGMOID, HD_GATE_SQRTSOFTPLUS };

struct hd_gate_hp {
    int64_t n_expert, n_used, n_group, n_group_used;      /* n_group 0 or 1: no groups */
    enum hd_gate_fn fn;
    bool norm, group_top2;            /* weights normalised; a group counts by its two best (V3) rather than its best (V2) */
    float norm_eps, scale, temp;
};

/* idx[T, n_used] i32 and weight[T, n_used] f32 from logits[T, E]. bias f32 [E] (may be NULL) changes the choice only; table
 * i64 [V, n_used] (may be NULL) makes the choice by token id. */
void hd_gate(struct hd_stream *s, struct hd_tensor *idx, struct hd_tensor *weight, const struct hd_tensor *logits, const struct hd_tensor *bias,
             const struct hd_tensor *table, const struct hd_ragged *b, const struct hd_gate_hp *hp);

struct hd_moe_hp {
    int64_t n_expert, act_block;      /* act_block: of the official mode's inputs */
    float limit;                      /* clamps gate from above and up on both sides; 0: not */
    bool weight_first;                /* the routing weight multiplies before the down projection (V4) or after (V2, V3) */
};

/* out[T, D] = sum over the chosen experts, ascending, of down(silu(gate x) * up x); gate, up [F, D] and down [D, F]: arrays [E]. */
void hd_moe(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *idx, const struct hd_tensor *weight,
            const struct hd_tensor *gate, const struct hd_tensor *up, const struct hd_tensor *down, const struct hd_moe_hp *hp);

/* act = silu(min(gate, limit)) * clamp(up, limit): hd_silu_mul() with a limit (0: none). */
void hd_swiglu(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *gate, const struct hd_tensor *up, float limit);

/* ---- what a model ends with ---- */

/* Room for hd_logits(): [n, V], or [n, 1] on a stream with targets. */
struct hd_tensor *hd_logits_new(struct hd_stream *s, int64_t n, int64_t n_vocab);
/* out = x[n, D] w[V, D]^T. On a stream with targets instead out[n, 1] = logsumexp(x w^T) - (x w^T)[target], nats; 0 where the target is -1;
 * a few rows of logits at a time, never [n, V]. */
void hd_logits(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w);

/* ---- n-gram memory ---- */

struct hd_ngram {
    int64_t n_order, n_head, n_map;   /* orders 2 .. n_order + 1 */
    const int32_t *map;               /* [V] id to class */
    int32_t pad;                      /* the class before a sequence's begin */
    const int64_t *mult;              /* [n_order + 1] */
    const int64_t *prime, *offset;    /* [n_order n_head] */
};

/* rows[T, n_order n_head] i32: offset + (xor_j class[t - j] mult[j]) mod prime. part: a WINDOW of i32 with the classes of the
 * tokens before the step. class_out[T, 1] i32 is what belongs there afterwards (hd_ring_put). */
void hd_ngram_rows(struct hd_stream *s, struct hd_tensor *rows, struct hd_tensor *class_out, const struct hd_ragged *b, int part, const struct hd_ngram *g);

/* out[T, n D] f32 = the n rows of w[N, D] that rows[T, n] names. */
void hd_table(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *rows, const struct hd_tensor *w);

/* v[T, C D] = that gate times the value, instead of adding it to x. */
void hd_engram_value(struct hd_stream *s, struct hd_tensor *v, const struct hd_tensor *x, const struct hd_tensor *kv, const struct hd_tensor *q, const struct hd_tensor *k,
                     int64_t n_hc, float eps);
/* x[T, n] += v + silu(y), y[t][c] = sum_k w[c][k] u[t - (K - 1 - k) dilation][c]: causal, per channel, zeros before the sequence's
 * begin. w f32 [n, K]. part: a WINDOW of u's last (K - 1) dilation rows; the caller puts this step's there afterwards. -1: K is 1. */
void hd_short_conv(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *v, const struct hd_tensor *u, const struct hd_tensor *w, const struct hd_ragged *b,
                   int part, int64_t dilation);

/* X[T, C D]: X[c] += sigmoid(sign(d) sqrt(max(|d|, 1e-6))) value, d = sum X[c] q[c] k[c] key[c] / (|X[c]| |key[c]| sqrt(D)) with
 * root mean squares for norms. kv[T, (C + 1) D]: keys, then the value. */
void hd_engram(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *kv, const struct hd_tensor *q, const struct hd_tensor *k, int64_t n_hc, float eps);

#endif
