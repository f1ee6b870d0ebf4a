/* recall.h: the recall task: records among filler, then questions about some of them. One generator for training and for `hadal eval needle`.
 *
 * Ids        0 .. n_symbol - 1 symbols, then n_filler fillers, then R and Q
 * Sequence   filler with records [R a b v] at places of their own, then questions [Q a b]; the answer to the last token of a question is v
 * Keys       (a, b) of a sequence are all different */
#ifndef HD_TRAIN_RECALL_H
#define HD_TRAIN_RECALL_H

#include <stdint.h>

#include "base/err.h"
#include "base/rng.h"

struct hd_recall {
    int64_t n_symbol, n_filler;
};

#define HD_RECALL_FILE "recall.json"  /* beside a model that was trained on it: {"symbols", "fillers"} */

static inline int64_t hd_recall_vocab(const struct hd_recall *r)
{
    return r->n_symbol + r->n_filler + 2;
}

/* Most records that a sequence with n_query questions has room for. */
int64_t hd_recall_room(int64_t n_tok, int64_t n_query);

/* What a sequence asks for: only the first n_symbol symbols appear, in keys only n_key of these, drawn anew for each sequence: with few, many records
 * share half of their key, as they do among very many records. */
struct hd_recall_size {
    int64_t n_tok, n_record, n_query, n_symbol, n_key;
};

/* id[n_tok]; target[n_tok]: v where a question ends, -1 elsewhere; place[n_query] (may be NULL): where each question's record begins.
 * Errors: USAGE: more records than room or keys, more questions than records; MEMORY. */
int hd_recall_make(const struct hd_recall *r, struct hd_rng *rng, const struct hd_recall_size *n, int32_t *id, int32_t *target, int64_t *place, struct hd_err *err);

#endif
