/* attn_csa2.h: DeepSeek-V4.1's attention: a window per layer, and compressed entries that several layers share: an owner makes
 * them, an index source chooses among them, the layers behind use both.
 *
 * Math     as attn_csa.h without the per-head norm; entries pool `ratio` tokens without overlap (ratio 1: one token each)
 * Source   the published V4.1 inference code and report
 * Traps    index keys come from the latent before its rotation; the candidate source itself chooses among all entries, the
 *          sources behind it among its candidates; an owner's keys are its own at every step
 */
#ifndef HD_MODEL_ATTN_CSA2_H
#define HD_MODEL_ATTN_CSA2_H

#include "base/json.h"
#include "cache/cache.h"
#include "model/attn_csa.h"
#include "ops/ops.h"

struct hd_csa2_hp {
    int64_t n_head, head_dim, rope_dim, q_rank, o_rank, o_groups, window;
    int64_t index_heads, index_dim, index_top_k;
    int64_t cand_source, cand_block, n_cand;          /* cand_source -1: none */
    float norm_eps;
    int64_t act_block;
    int decoder;                      /* the first layer of the decoder half: the last that makes entries */
    bool native;                      /* the cache is packed: latents are rounded to what it holds in the fast mode too */
};

struct hd_csa2_weights {
    struct hd_tensor wq_a, q_norm, wq_b, wkv, kv_norm, sink, wo_a, wo_b;
    struct hd_tensor comp_wkv, comp_wgate, comp_norm; /* owners; wgate when ratio > 1 */
    struct hd_tensor index_wk, index_k_norm;          /* owners */
    struct hd_tensor index_wq_b, index_weights;       /* index sources */
};

struct hd_csa2_layer {
    int64_t ratio;
    int owner, source;                                /* layers whose entries and whose selection are used; -1 */
    int part0;                                        /* window; owners: entries, index keys, groups (ratio > 1) */
};

/* The fields of a config, and who owns and who chooses: plan[n_layer]; ratios_used: the owners' different ratios, at most two. Errors:
 * FORMAT names what contradicts what; UNSUPPORTED. */
int hd_csa2_config(struct hd_csa2_hp *hp, struct hd_csa2_layer *plan, int64_t ratios_used[2], const json_t *c, int64_t n_layer, const char *file, struct hd_err *err);

#define HD_CSA2_PARTS 4
int hd_csa2_parts(const struct hd_csa2_hp *hp, const struct hd_csa2_layer *l, int layer, struct hd_cache_part *part);

/* What the layers of a step share. */
struct hd_csa2_step {
    const struct hd_ragged *b;
    struct hd_tensor *rope, *rope_comp;
    const struct hd_ragged *e[2];                     /* entries of the ratios in use, and their tables */
    struct hd_tensor *rope_e[2];
    int64_t ratio[2];
    struct hd_tensor *sel, *cand;                     /* the latest selection; candidate blocks */
    const struct hd_tensor *index_q, *index_w;        /* what it was made with, while the indexer learns */
    bool block;                                       /* the tokens of a sequence are a draft: all see one another, and the window stays as it is */
    const struct hd_csa_blocks *learn;                /* drafts all over a batch, while the module learns; NULL: none */
};

/* Before the first layer: tables, the groups that the batch completes, room for selections. */
void hd_csa2_begin(struct hd_stream *s, const struct hd_csa2_hp *hp, const int64_t ratios_used[2], const struct hd_ragged *b, const struct hd_tensor *inv_freq,
                   const struct hd_tensor *inv_freq_comp, struct hd_csa2_step *st);

/* What the decoder half needs of tokens that it does not see: the entries of layer (an owner), from u[T, D], its attention's input. */
void hd_csa2_encode(struct hd_stream *s, const struct hd_csa2_hp *hp, const struct hd_csa2_weights *w, const struct hd_csa2_layer *all, int layer,
                    const struct hd_csa2_step *st, const struct hd_tensor *u);

/* The latents of u[T, D] into a layer's window, and nothing else: what a layer of ratio 0 keeps. */
void hd_csa2_keep(struct hd_stream *s, const struct hd_csa2_hp *hp, const struct hd_csa2_weights *w, const struct hd_csa2_layer *l, const struct hd_csa2_step *st,
                  const struct hd_tensor *u, int layer);

void hd_attn_csa2(struct hd_stream *s, const struct hd_csa2_hp *hp, const struct hd_csa2_weights *w, const struct hd_csa2_layer *all, int layer, struct hd_csa2_step *st,
                  const struct hd_tensor *u, struct hd_tensor *out);

#endif
