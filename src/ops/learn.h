/* learn.h: what model code does only while a model learns: losses beside that of its logits, and the ops that they are made of.
 *
 * A stream with `learn` asks for them; model code hands over the per-row losses by hd_learn_loss(), the trainer gives each its weight. Everything here
 * needs a tape.
 *
 * Source   indexer: V3.2's report (KL from the main attention summed over heads to the indexer's softmax, inputs detached), for V4 over compressed entries;
 *          DSpark: V4.1's inference code, trained behind a detached backbone as its card says; the confidence's target is ours: the chance of the next token
 */
#ifndef HD_OPS_LEARN_H
#define HD_OPS_LEARN_H

#include "ops/ops.h"

enum hd_learn_kind { HD_LEARN_INDEX, HD_LEARN_DRAFT, HD_LEARN_CONFIDENCE, HD_LEARN_Z, HD_LEARN_KINDS };

#define HD_LEARN_MAX 160
#define HD_XENT_SUMS 16               /* floats behind a row of logits, where XENT keeps what it knows of the row */

struct hd_learn {
    double weight[HD_LEARN_KINDS];    /* of each kind, 0: without */
    bool index_dense;                 /* attention sees every entry and the indexer learns over all of them; otherwise over those it selects */
    uint32_t draw;                    /* any number: where draft blocks begin */
    /* filled in by model code: */
    struct {
        enum hd_learn_kind kind;
        const struct hd_tensor *loss; /* [n, 1]; rows whose target is -1 are 0 */
        const int32_t *target;        /* [n] */
    } loss[HD_LEARN_MAX];
    int n;
};

/* Is this kind asked for? */
bool hd_learns(const struct hd_stream *s, enum hd_learn_kind kind);
/* Errors: sticky: LIMIT. */
void hd_learn_loss(struct hd_stream *s, enum hd_learn_kind kind, const struct hd_tensor *loss, const int32_t *target);

/* out = x, and no gradient passes. */
void hd_detach(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x);

/* kv and sink: NULL without a window, without a sink. out[T, 1] = KL(p, softmax(I)) over the entries that hd_attend_sel() with hp and sel would see, 0 where target is -1 or there is none: p = the attention on them
 * of q and kv, summed over heads, as shares of their sum; I = sum_h wt[h] relu(iq[h] . key). Gradients: iq, wt and the keys of part_key. */
struct hd_index_loss_hp {
    struct hd_attend_sel_hp attend;
    int64_t index_heads, index_dim;
    int part_key;
};
void hd_index_loss(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *iq, const struct hd_tensor *wt, const struct hd_tensor *q, const struct hd_tensor *kv,
                   const struct hd_tensor *sel, const struct hd_tensor *sink, const struct hd_ragged *b, const int32_t *target, const struct hd_index_loss_hp *hp);

/* The same as a loss of the indexer, whoever made the choice: every layer that uses it tells what its attention was. */
void hd_learn_index(struct hd_stream *s, const struct hd_tensor *iq, const struct hd_tensor *wt, const struct hd_tensor *q, const struct hd_tensor *kv, const struct hd_tensor *sel,
                    const struct hd_tensor *sink, const struct hd_ragged *b, const struct hd_index_loss_hp *hp);
/* What an indexer sees of x: while it learns, a copy that no gradient passes. */
const struct hd_tensor *hd_learn_input(struct hd_stream *s, const struct hd_tensor *x);
/* Is every entry to be seen, whatever the indexer says? */
bool hd_learn_dense(const struct hd_stream *s);

/* Attention of draft blocks: out[n, n_head head_dim] for rows q and kv[n, head_dim], block rows to a block; a block behind token anchor[i] of the batch
 * b sees the last `window` rows of main[T, head_dim] up to it, and all of its own. kv and main are key and value of all heads. */
struct hd_attend_block_hp {
    int64_t n_head, head_dim, window, block;
    float scale;
};
void hd_attend_block(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *q, const struct hd_tensor *kv, const struct hd_tensor *main, const struct hd_tensor *sink,
                     const struct hd_ragged *b, const int32_t *anchor, const struct hd_attend_block_hp *hp);

/* A batch's tokens and targets shifted: id[t] is the token `ahead` places behind t, target[t] the one after that; 0 and -1 where the sequence has ended. The
 * batch that is returned lives as long as the step. */
const struct hd_ragged *hd_ahead(struct hd_stream *s, const struct hd_ragged *b, int64_t ahead, const int32_t **target);

/* What hd_logits() does while a model learns: losses against s->target, mixed with those against s->soft where there is one; asked for HD_LEARN_Z also their z-loss, log(sum of exp(logits))^2 a row (Chowdhery et al.
 * 2022, 5: it keeps logits from drifting). */
void hd_model_loss(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w);

/* hd_logits() against any target[n]. */
void hd_token_loss(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, const int32_t *target);

/* hd_logits() against target[n] with a second product and a head that learns nothing from it: losses of x w^T + x2 w2^T. */
void hd_draft_loss(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, const struct hd_tensor *x2, const struct hd_tensor *w2,
                   const int32_t *target);

/* out[n, 1] = cross-entropy of sigmoid(z[n, 1]) against the chance exp(-loss[n, 1]); 0 where target is -1. Gradient: z only. */
void hd_confidence_loss(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *z, const struct hd_tensor *loss, const int32_t *target);

#endif
