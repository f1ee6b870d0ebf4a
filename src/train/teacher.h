/* teacher.h: distillation: a larger model of the same vocabulary says of every target how likely which ids are, and the student learns that too.
 *
 *     loss = (1 - share) (-log p[target]) + share sum over k of q[k] (-log p[id[k]])
 *
 * with q the teacher's chances of its `top` likeliest ids as shares of their sum. Up to the entropy of q, which no student changes, the second part is KL(q, p).
 * The teacher runs as any model does that answers: every format and architecture, in the fast mode; the same bits for any number of workers, so that a run
 * resumes exactly.
 *
 * Source   Hinton et al. 2015 (soft targets beside hard ones); the cut to the likeliest ids is what keeps them small */
#ifndef HD_TRAIN_TEACHER_H
#define HD_TRAIN_TEACHER_H

#include "engine/engine.h"
#include "train/data.h"

#define HD_TEACHER_TOP_MAX 1024

struct hd_teacher {
    struct hd_engine engine;
    struct hd_session *session;       /* [max_seq], opened as batches need them */
    int64_t n_session, max_seq, batch_tokens;
    int64_t top, n_vocab;             /* ids kept; ids that the student has */
    struct hd_soft soft;              /* of the last batch: id, p [its tokens, top] */
    int32_t *id;                      /* [batch_tokens, top] */
    float *p;
    bool opened;
};

/* model: a directory or .gguf. tok: the student's, NULL where its ids have no text; l: whose batches will be asked about.
 * Errors: those of hd_engine_open(); USAGE: another vocabulary, a context shorter than the batches' pieces; MEMORY. */
int hd_teacher_open(struct hd_teacher *t, const char *model, const struct hd_tokenizer *tok, int64_t n_vocab, const struct hd_loader *l, int64_t top, float share, int n_thread, struct hd_err *err);
void hd_teacher_close(struct hd_teacher *t);          /* after a failed open too */

/* Fills t->soft for the tokens of b that have targets. Errors: those of a step; FORMAT: its logits are not finite. */
int hd_teacher_ask(struct hd_teacher *t, const struct hd_batch *b, struct hd_err *err);

#endif
