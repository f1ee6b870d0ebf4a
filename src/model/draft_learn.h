/* draft_learn.h: how a DSpark module of V4.1 learns beside its model: blocks of drafts all over a batch, every token known.
 *
 * Math     a block behind token p: rows [t_(p+1), noise ..] at positions p + 1 .., all of which see the window of main latents up to p and one another;
 *          row i is asked for t_(p+2+i), its Markov head given t_(p+1+i); one block for each `block` tokens, shifted by learn.draw
 * Source   V4.1's inference code and card: the backbone is frozen for it; here it learns beside the module, and the module's gradient stops at taps, embedding
 *          and head
 * Traps    taps are what a layer gets, after its n-gram memory; the last collapse replaces a head */
#ifndef HD_MODEL_DRAFT_LEARN_H
#define HD_MODEL_DRAFT_LEARN_H

#include "base/json.h"
#include "model/attn_csa2.h"
#include "model/mhc.h"
#include "model/moe.h"
#include "ops/learn.h"

#define HD_DRAFT_TAPS 16

struct hd_draft_stage {
    const struct hd_tensor *attn_norm, *ffn_norm;
    const struct hd_mhc_weights *hc_attn, *hc_ffn;
    const struct hd_csa2_weights *attn;
    const struct hd_moe_weights *ffn;
};

struct hd_draft_learn {
    int64_t block, noise, n_tap, tap[HD_DRAFT_TAPS];
    struct hd_moe_block_hp moe;
    /* the model's, filled in by the architecture */
    const struct hd_csa2_hp *attn;
    const struct hd_mhc_hp *mhc;
    float norm_eps;
    const struct hd_tensor *inv_freq, *embed, *head, *main_proj, *main_norm, *norm, *markov_embed, *markov_head, *confidence;
    const struct hd_draft_stage *stage;
    int64_t n_stage;
};

/* The config's dspark fields; moe: the model's own. Errors: FORMAT. */
int hd_draft_learn_config(struct hd_draft_learn *d, const struct hd_moe_block_hp *moe, const json_t *c, int64_t n_layer, int64_t n_vocab, const char *file, struct hd_err *err);

/* Before layer: keeps its tap, if it is tapped, in taps[T, n_tap D]; x: streams. */
void hd_draft_learn_tap(struct hd_stream *s, const struct hd_draft_learn *d, struct hd_tensor *taps, const struct hd_tensor *x, int64_t layer);

/* Behind the last layer: the module's losses. rope: the batch's table of the plain window. */
void hd_draft_learn(struct hd_stream *s, const struct hd_draft_learn *d, const struct hd_ragged *b, const struct hd_tensor *taps, const struct hd_tensor *rope);

#endif
