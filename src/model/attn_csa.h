/* attn_csa.h: DeepSeek-V4's attention: one latent vector per token is key and value of all heads; a window of raw ones, and
 * behind it compressed entries of 4 tokens (chosen by an indexer) or of 128 (all of them).
 *
 * Math     q = norm_head(Wq_b norm(Wq_a u)), kv = norm(Wkv u), RoPE on the last dims; o = softmax(q kv^T, sink) kv over window
 *          and entries; inverse RoPE on o; grouped output projection
 * Source   DeepSeek-V4 technical report; the published inference code
 * Traps    entries are rotated at their group's first position, outputs back at the query's; a group of 4 also pools the group
 *          before it, from the other half of the channels
 */
#ifndef HD_MODEL_ATTN_CSA_H
#define HD_MODEL_ATTN_CSA_H

#include "cache/cache.h"
#include "ops/ops.h"

struct hd_csa_hp {
    int64_t n_head, head_dim, rope_dim, q_rank, o_rank, o_groups, window;
    int64_t index_heads, index_dim, index_top_k;
    float norm_eps;
    int64_t act_block, kv_block;      /* official rounding: inputs of linear layers, the latent's unrotated dims */
    bool native;                      /* the cache is packed: latents are rounded to what it holds in the fast mode too */
};

struct hd_pool_weights {
    struct hd_tensor ape, wkv, wgate, norm;           /* f32 [m, C], [C, D], [C, D], f32 [c]; C = 2 c for groups of 4 */
};

struct hd_csa_weights {
    struct hd_tensor wq_a, q_norm, wq_b, wkv, kv_norm, sink, wo_a, wo_b;
    struct hd_pool_weights comp;                      /* ratio > 0 */
    struct hd_tensor index_wq_b, index_weights;       /* ratio 4: [ih id, q_rank], [ih, D] */
    struct hd_pool_weights index_comp;
};

#define HD_CSA_PARTS 5

/* The cache parts of a layer, appended to part[]; how many. */
int hd_csa_parts(const struct hd_csa_hp *hp, int64_t ratio, int layer, struct hd_cache_part *part);

/* Draft blocks of a batch whose tokens are all known: block rows each, which see the latents of main up to their anchor instead of a cached window. */
struct hd_csa_blocks {
    const struct hd_ragged *b;                        /* the batch that they lie in */
    const struct hd_tensor *main, *rope;              /* [T, D] and its table of the plain window */
    const int32_t *anchor;                            /* rows of main, one a block */
    int64_t block;
};

/* What the layers of a step share. */
struct hd_csa_step {
    const struct hd_ragged *b, *e4, *e128;            /* the tokens; the groups that they complete */
    struct hd_tensor *rope, *rope_comp, *rope_e4, *rope_e128;
    bool block;                                       /* the tokens of a sequence are a draft: all see one another, and the window stays as it is */
    const struct hd_csa_blocks *learn;                /* drafts all over a batch, while the module learns; NULL: none */
};

/* out[T, D] from u[T, D]; parts from part0 on (-1: none, of whole sequences with ratio 0). */
void hd_attn_csa(struct hd_stream *s, const struct hd_csa_hp *hp, const struct hd_csa_weights *w, int64_t ratio, int part0, const struct hd_csa_step *st,
                 const struct hd_tensor *u, struct hd_tensor *out, int layer);

/* The latents of u[T, D] into the window at part0, and nothing else: what attention of ratio 0 keeps. */
void hd_csa_keep(struct hd_stream *s, const struct hd_csa_hp *hp, const struct hd_csa_weights *w, int part0, const struct hd_csa_step *st, const struct hd_tensor *u, int layer);

/* Draft blocks while they learn: o[T', H Dh] of queries q[T', H Dh] over the latents kv[T', Dh] of their block and main[T, Dh], those of k->main: the window is in the
 * batch, not in the cache. Shared with attn_csa2.c. */
void hd_attend_drafts(struct hd_stream *s, struct hd_tensor *o, const struct hd_tensor *q, const struct hd_tensor *kv, const struct hd_tensor *main, const struct hd_tensor *sink,
                      const struct hd_csa_blocks *k, int64_t n_head, int64_t head_dim, int64_t window);

/* y[T, D] = wo_b(concat_g wo_a[g] o[g]): o in o_groups column blocks. Shared with attn_csa2.c. */
void hd_grouped_out(struct hd_stream *s, const struct hd_tensor *o, const struct hd_tensor *wo_a, const struct hd_tensor *wo_b, int64_t n_group, int64_t act_block,
                    struct hd_tensor *y, int layer);

#endif
