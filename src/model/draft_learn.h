/* draft_learn.h: how a DSpark module of V4.1 learns beside its model: blocks of drafts all over a batch, every token known. The module runs as in drafting.
 *
 * Math     a block behind token p: rows [t_(p+1), noise ..] at positions p + 1 .., all of which see the window of main latents up to p and one another;
 *          row i is asked for t_(p+2+i), its Markov head given t_(p+1+i); one block for each `block` tokens, shifted by learn.draw
 * Source   V4.1's inference code and card: the backbone is frozen for it; here it learns beside the module, and the module's gradient stops at taps, embedding
 *          and head
 * Traps    taps are what a layer gets, after its n-gram memory; the last collapse replaces a head */
#ifndef HD_MODEL_DRAFT_LEARN_H
#define HD_MODEL_DRAFT_LEARN_H

#include "model/dspark.h"
#include "ops/learn.h"

/* The blocks of a batch. Everything lives as long as the step. */
struct hd_draft_blocks {
    struct hd_ragged *b;              /* every block a sequence of its own */
    struct hd_ragged *before;         /* the same rows, each the token before what it is asked for */
    int32_t *anchor, *target;         /* [n]: the token that a block lies behind; of every row, -1: none */
    int64_t n;
};

/* False: there are none, or the stream has failed. */
bool hd_draft_blocks(struct hd_stream *s, const struct hd_dspark *d, const struct hd_ragged *b, struct hd_draft_blocks *k);

struct hd_draft_head {
    const struct hd_tensor *norm, *head, *markov_embed, *markov_head, *confidence;
    float norm_eps;
};

/* Losses of the blocks' rows, y[n, D]: the module's output before its last norm. */
void hd_draft_losses(struct hd_stream *s, const struct hd_draft_blocks *k, const struct hd_tensor *y, const struct hd_draft_head *d);

#endif
