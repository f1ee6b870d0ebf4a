/* ops.h: the operations that models are made of. T tokens of a ragged batch; activations f32 [T, n] unless said.
 *
 * Outputs are made by the caller with hd_new(). Errors are sticky in the stream: SHAPE for shapes that do not fit (a bug
 * of the model or a checkpoint that was not validated).
 */
#ifndef HD_OPS_OPS_H
#define HD_OPS_OPS_H

#include "ops/stream.h"

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

/* Rows x[T, n] into the sequences' part; the row of token t is its position. Converts to the part's format (f32 or f16). */
void hd_kv_put(struct hd_stream *s, const struct hd_tensor *x, const struct hd_ragged *b, int part, enum hd_dtype type);

/* Causal grouped-query attention: out[T, n_head * head_dim], q the same; keys and values are rows of n_kv_head * head_dim in
 * the parts k and v, positions 0 .. pos[t] (the last window of them when window > 0), softmax(scale q k).
 * Blocks of positions are cut at absolute multiples of 64, so that results do not depend on how the tokens were batched. */
void hd_attend(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *q, const struct hd_ragged *b, int part_k, int part_v,
               enum hd_dtype type, int64_t n_kv_head, int64_t head_dim, int64_t window, float scale);

#endif
