/* needle.h: does a model find what its context says? Records or sentences all over a long context, questions at its end, answered by the engine as it
 * always runs: prefill in chunks, entries chosen by the indexer where the architecture has one, the most probable token.
 *
 * Two forms: ids of the recall task (train/recall.h), for models trained on it; text, for every model with a tokenizer. */
#ifndef HD_EVAL_NEEDLE_H
#define HD_EVAL_NEEDLE_H

#include "engine/engine.h"
#include "token/token.h"
#include "train/recall.h"

#define HD_NEEDLE_DEPTHS 10

struct hd_needle {
    int64_t n_ctx, n_record, n_query;
    uint64_t seed;
    const char *hay;                  /* text form: UTF-8 to hide needles in; NULL: sentences of our own */
    hd_progress_fn progress;          /* tokens of the context fed so far; may be NULL */
    void *arg;
};

struct hd_needle_result {
    int64_t n_tok;                    /* of the context, questions included */
    int64_t n_query, n_right;
    int64_t depth_query[HD_NEEDLE_DEPTHS], depth_right[HD_NEEDLE_DEPTHS];      /* by where the record lies in the context, in tenths */
    double fed_s, asked_s;
};

/* Errors: USAGE (too many records for the context), LIMIT (the engine has no room for it), and the engine's. */
int hd_needle_ids(struct hd_engine *e, const struct hd_recall *task, const struct hd_needle *n, struct hd_needle_result *r, struct hd_err *err);
int hd_needle_text(struct hd_engine *e, struct hd_tokenizer *tok, const struct hd_needle *n, struct hd_needle_result *r, struct hd_err *err);

#endif
