/* speculate.h: how many tokens to propose before a step, by what came of it before.
 *
 * A step over a token and its k proposals gives 1 + (how many of them stand) tokens and costs more than one over the token alone. Both sides are
 * measured: how often the i-th proposal stands once those before it do, what steps of so many rows take, what proposing takes. The depth is the one
 * with the most expected tokens a second, and 0 where that is best; then a proposal is tried now and then, more seldom every time it does not pay.
 * What is said does not depend on the depth (draft.h), so nothing here needs to be repeatable.
 *
 * Threads  the engine's
 */
#ifndef HD_ENGINE_SPECULATE_H
#define HD_ENGINE_SPECULATE_H

#include "engine/draft.h"

#define HD_SPECULATE_ROWS 128         /* steps of more rows are not extended by proposals */

enum hd_draft_kind {
    HD_DRAFT_OFF,
    HD_DRAFT_AUTO,                    /* the draft module where there is one, nothing otherwise */
    HD_DRAFT_MODULE,                  /* the draft module, which must be there */
    HD_DRAFT_LOOKUP,                  /* earlier text: any model */
    HD_DRAFT_CALLER                   /* whatever propose() knows: any model */
};

struct hd_speculate_options {
    enum hd_draft_kind kind;
    int64_t depth;                    /* tokens at once; 0: as measured */
    /* CALLER: up to depth ids behind each item's, and how many in n_draft (what is behind one that is no token of the model does not count); sessions
     * stay as they are. */
    void (*propose)(void *arg, struct hd_draft_item *it, int n_item);
    void *arg;
};

struct hd_speculate {
    struct hd_engine *engine;
    enum hd_draft_kind kind;          /* never AUTO */
    void (*propose)(void *arg, struct hd_draft_item *it, int n_item);
    void *arg;
    int64_t depth, depth_max;         /* 0: as measured; the most */
    double step_s[HD_SPECULATE_ROWS + 1];     /* seconds of a step of so many rows; 0: not measured */
    double draft_s[HD_DRAFT_MAX + 1];         /* of proposing so many */
    double tried[HD_DRAFT_MAX], stood[HD_DRAFT_MAX];      /* of the i-th proposal where all before it stood; old ones fade */
    int64_t asked, patience, last;    /* choices since the last trial; between trials; the last choice */
    uint64_t n_step, n_drafted, n_accepted;   /* steps with proposals */
};

/* Errors: UNSUPPORTED (MODULE, and the model has none), USAGE (a depth beyond what the module or HD_DRAFT_MAX allows). */
int hd_speculate_init(struct hd_speculate *sp, struct hd_engine *e, const struct hd_speculate_options *opt, struct hd_err *err);

/* How many to propose for each of n_seq sequences in the next step. */
int64_t hd_speculate_depth(struct hd_speculate *sp, int64_t n_seq);

/* Proposes for all of them; what fails is proposed nothing. Logits of the last step are gone. */
void hd_speculate_propose(struct hd_speculate *sp, struct hd_sampler *scratch, struct hd_draft_item *it, int n_item);

/* A step without prompts took so long; of a sequence's proposals so many stood. */
void hd_speculate_timed(struct hd_speculate *sp, int64_t n_row, double seconds);
void hd_speculate_learn(struct hd_speculate *sp, int64_t n_drafted, int64_t n_accepted);

/* Expected tokens of a step with k proposals, by what has been learned. */
double hd_speculate_expect(const struct hd_speculate *sp, int64_t k);

#endif
