/* draft.h: proposals: tokens that may come next, from the model's draft module or from what has been said before.
 *
 * Tokens are proposed in the way in which they will be drawn: with the same parameters and the same random numbers as the sampler will use. A guess
 * stands when the sampler then draws the same token from the model's own logits, so that what is said is what would be said without guesses, token
 * for token, for a given seed; the better the module knows the model's distribution, the more often both draw the same.
 *
 * Source   Daliri, Musco, Suresh, "Coupling without Communication and Drafter-Invariant Speculative Decoding", 2024, for drawing both from one
 *          source of randomness; for a fixed guess it is the rejection sampling of Leviathan, Kalman, Matias, 2023: accepted with probability p(guess),
 *          otherwise drawn from what is left of p
 * Threads  the engine's
 */
#ifndef HD_ENGINE_DRAFT_H
#define HD_ENGINE_DRAFT_H

#include "engine/engine.h"
#include "sample/sample.h"

#define HD_DRAFT_MAX 16               /* tokens that anybody proposes at once */

struct hd_draft_item {
    struct hd_session *session;       /* holds all of ids but the last */
    int32_t *ids;                     /* [n]; proposals are written behind them, depth of them at most */
    int64_t n, depth;
    const struct hd_sample_params *sample;
    struct hd_rng rng;                /* a copy of what the next token will be drawn with */
    int64_t n_draft;                  /* out: how many were proposed */
};

/* From the draft module, one pass for all items. scratch is a sampler of this vocabulary; its parameters and random numbers are restored. threshold: a
 * block ends before a token whose odds to stand, all before it included, are less, by what the module itself says; 0: never. Logits of the last step are
 * gone. An item whose cache has no room gets no proposals. Errors: whatever a step may say; sessions are as before. */
int hd_draft_run(struct hd_engine *e, struct hd_sampler *scratch, struct hd_draft_item *it, int n_item, double threshold, struct hd_err *err);

/* From the text itself: what stood behind the longest earlier copy of its last tokens (two at least; the latest of equals), and behind its end what
 * is proposed there; how many. */
int64_t hd_draft_lookup(const int32_t *ids, int64_t n, int64_t depth, int32_t *out);

#endif
