/* engram.h: Engram: rows of big tables, named by hashes of the last tokens, let into the residual streams by a gate.
 *
 * Math     e = concat of the rows; key[c], value = Wkv e (+ bias); X[c] += gate_c value, gate_c = sigmoid(signed sqrt of the
 *          normalised X[c] . key[c]). Paper form: v[c] = gate_c value, X[c] += v[c] + silu(conv(norm(v[c]))), conv causal,
 *          per channel, dilated by the largest n-gram
 * Source   Cheng et al. 2026 (arXiv 2601.07372) and its demo; DeepSeek-V4.1's inference code for the released form
 * Traps    classes, not ids, are hashed; before a sequence's begin stands the class of the padding token; primes are unique over
 *          all layers; the paper prints no signed root, its code has it
 */
#ifndef HD_MODEL_ENGRAM_H
#define HD_MODEL_ENGRAM_H

#include "base/json.h"
#include "cache/cache.h"
#include "ops/ops.h"

#define HD_ENGRAM_LAYERS 8
#define HD_ENGRAM_HASHES 256          /* orders times heads */

struct hd_engram {
    bool paper;                       /* with biases and the short convolution */
    int64_t n_layer, n_order, n_head, dim, pad, n_class, kernel;
    int64_t layer[HD_ENGRAM_LAYERS], rows[HD_ENGRAM_LAYERS], vocab[16];
    int64_t mult[HD_ENGRAM_LAYERS][32], prime[HD_ENGRAM_LAYERS][HD_ENGRAM_HASHES], offset[HD_ENGRAM_LAYERS][HD_ENGRAM_HASHES];
    struct hd_ngram ngram[HD_ENGRAM_LAYERS];
    int part_ngram, part_conv[HD_ENGRAM_LAYERS];
};

struct hd_engram_weights {
    struct hd_tensor embed;           /* [rows, dim] */
    struct hd_tensor wkv, bias;       /* [(C + 1) D, n dim]: keys, then the value; f32 [(C + 1) D], dim 0 when absent */
    struct hd_tensor q_weight, k_weight;              /* f32 [C, D]: norms of streams and keys */
    struct hd_tensor conv, conv_norm; /* paper: f32 [C D, kernel], [C, D] */
};

/* engram_* of a config. tables_named: engram_num_embeddings must be there and fit the primes; otherwise it follows from them. */
int hd_engram_config(struct hd_engram *e, const json_t *c, int64_t n_layer, int64_t n_vocab, bool tables_named, const char *file, struct hd_err *err);
/* The classes of token ids, once they are known; map is copied. */
int hd_engram_classes(struct hd_engram *e, struct hd_arena *arena, const int32_t *map, int64_t n, int64_t n_class, const char *file, struct hd_err *err);

int hd_engram_index(const struct hd_engram *e, int64_t layer);         /* its place in layer[], -1: none */
int64_t hd_engram_idle(const struct hd_engram *e);                     /* table elements that a token does not meet */

/* Cache parts from number part0 on; width = C D. How many. */
int hd_engram_parts(struct hd_engram *e, int64_t width, int part0, struct hd_cache_part *part);

/* At a step's beginning: tells the source of rows, if there is one, what layer[index] will read. class as below. */
void hd_engram_ahead(struct hd_stream *s, const struct hd_engram *e, const struct hd_engram_weights *w, int index, const struct hd_ragged *b, struct hd_tensor *class);
/* Adds layer[index]'s memory to x[T, C D]. class[T, 1] i32: scratch that all layers of a step share; eps of the norms. */
void hd_engram_add(struct hd_stream *s, const struct hd_engram *e, const struct hd_engram_weights *w, int index, const struct hd_ragged *b, int64_t n_hc, float eps,
                   int64_t act_block, struct hd_tensor *x, struct hd_tensor *class);
/* After the last of the n_layer layers that ran: the step's classes go where the next step looks for them. */
void hd_engram_done(struct hd_stream *s, const struct hd_engram *e, const struct hd_ragged *b, struct hd_tensor *class, int64_t n_layer);

#endif
