/* sample.h: from logits to the next token.
 *
 * Order: logit bias and penalties change logits; temperature 0 takes the largest (the lowest id among equals); otherwise
 * logits / temperature, then top-k, top-p, min-p cut the candidates, each on what the one before left, and one is drawn.
 *
 *   repetition   logits of ids among the last penalty_window: divided by r when positive, multiplied when not
 *   presence     minus p once for each id that occurred; frequency: minus f for each occurrence
 *   top-p        the smallest set of most probable candidates whose mass reaches p;  min-p: at least p times the best
 *
 * Drawing gives every token a number of its own (Gumbel noise, from one random number a draw) and takes the largest sum with its logit. Two samplers with
 * the same random numbers and nearly the same logits so draw the same token nearly always: with the chance (1 - d) / (1 + d) at least, d the total
 * variation distance of their distributions. Guesses of a draft module (engine/draft.h) live on that.
 *
 * Log-probabilities are those of the raw logits (no penalties, temperature 1), in double.
 */
#ifndef HD_SAMPLE_SAMPLE_H
#define HD_SAMPLE_SAMPLE_H

#include <stdint.h>

#include "base/err.h"
#include "base/rng.h"

#define HD_LOGPROBS_MAX 64

struct hd_logit_bias {
    int32_t id;
    float bias;
};

struct hd_sample_params {
    double temperature, top_p, min_p;         /* top_p 1, min_p 0: off */
    int64_t top_k;                            /* 0: off */
    double repetition, presence, frequency;   /* 1, 0, 0: off */
    int64_t penalty_window;                   /* last tokens that penalties look at; -1: all */
    const struct hd_logit_bias *bias;
    int n_bias;
    uint64_t seed;
    int n_logprob;                            /* alternatives to report, 0 .. HD_LOGPROBS_MAX; -1: none, not even the pick's */
};

/* Temperature 1, everything else off. */
void hd_sample_defaults(struct hd_sample_params *p);
/* Names the first parameter that is out of range. */
int hd_sample_check(const struct hd_sample_params *p, int64_t n_vocab, struct hd_err *err);

struct hd_candidate {
    int32_t id;
    float logit;
};

struct hd_sampler {
    struct hd_sample_params params;
    struct hd_rng rng;
    int64_t n_vocab;
    struct hd_candidate *cand;                /* [n_vocab] scratch */
    float *logits;                            /* [n_vocab] scratch: the caller's stay untouched */
    int32_t *count;                           /* [n_vocab] occurrences, kept zero between calls */
};

struct hd_pick {
    int32_t id;
    double logprob;                           /* of the raw distribution */
    int n_top;
    int32_t top_id[HD_LOGPROBS_MAX];
    double top_logprob[HD_LOGPROBS_MAX];
};

int hd_sampler_init(struct hd_sampler *s, const struct hd_sample_params *p, int64_t n_vocab, struct hd_err *err);
void hd_sampler_release(struct hd_sampler *s);

/* history: the ids so far, the prompt's included. Errors: FORMAT when no logit is a number. */
int hd_sampler_pick(struct hd_sampler *s, const float *logits, const int32_t *history, int64_t n_history, struct hd_pick *out, struct hd_err *err);

/* As if id had been picked: its log-probability and the alternatives (params.n_logprob, below 0 as 0). Errors: as above. */
int hd_sampler_score(struct hd_sampler *s, const float *logits, int32_t id, struct hd_pick *out, struct hd_err *err);

#endif
