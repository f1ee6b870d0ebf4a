/* turns.h: the scheduler's own half: requests in, steps of the engine, events out. schedule.h is the half with doors and locks.
 *
 * A turn is one step: a token of every request that decodes, with what is proposed behind it, then pieces of prompts up to a budget, shared between users by fair.h. Within a user
 * the prompt with least left goes first, until a longer one has been passed too often.
 *
 * When the cache is full, kept prefixes go, then the youngest request goes back to waiting: what it generated becomes part of what it feeds
 * when it comes back, so that no token is told twice.
 *
 * Threads  one: the engine's. Counters marked atomic may be read from others
 */
#ifndef HD_ENGINE_TURNS_H
#define HD_ENGINE_TURNS_H

#include "engine/fair.h"
#include "engine/prefix.h"
#include "engine/request.h"
#include "engine/schedule.h"

struct hd_turns {
    struct hd_engine *engine;
    struct hd_schedule_options opt;   /* defaults filled in */
    int64_t n_ctx;                    /* longest prompt and answer together */
    struct hd_fair fair;
    struct hd_prefix_store prefix;
    struct hd_speculate speculate;
    struct hd_draft_item *draft;      /* [opt.max_running], of the step in the making */
    struct hd_request **running;      /* [opt.max_running], the longest admitted first */
    int n_running;
    bool encode;                      /* the last step was one of the encoder half */
    bool rewinds;                     /* the cache goes back to any token: no checkpoints */
    bool ignore_pause;                /* draining */
    bool hold;                        /* nobody more is admitted in this step: one who was passed too often waits for room */
    int n_refused;                    /* in this step */
    uint64_t step;                    /* plans made */
    int32_t *end;                     /* end tokens */
    int n_end;
    struct hd_sampler sampler;        /* scratch of all requests; each has its own parameters and random numbers */
    float *masked;                    /* [V] */
    struct hd_step_item *item;
    struct hd_request **of_item;
    void (*gone)(void *arg, struct hd_request *r);        /* after END, before r is freed */
    void *gone_arg;
    uint64_t n_ended;
    double rate;                      /* tokens a second, lately; 0: not measured */
    struct hd_run_stats stats;        /* totals */
    atomic_int_fast64_t n_waiting, waiting_tokens;        /* requests, tokens of their prompts: the inbox included */
};

/* wake(arg) is called from a helper when something that a request waits for is there. Errors: MEMORY, USAGE, IO. */
int hd_turns_init(struct hd_turns *t, struct hd_engine *e, const struct hd_schedule_options *opt, void (*wake)(void *arg), void *arg, struct hd_err *err);
void hd_turns_release(struct hd_turns *t);            /* no requests are left */

/* Takes r over from the inbox. */
void hd_turns_add(struct hd_turns *t, struct hd_request *r);
/* false: there was nothing to do. */
bool hd_turns_step(struct hd_turns *t);
void hd_turns_stats(struct hd_turns *t, struct hd_run_stats *out);
void hd_turns_flush(struct hd_turns *t);

/* ---- between turns.c, turns_plan.c and turns_deal.c ---- */

/* Admits, and fills t->item and t->of_item; how many. */
int hd_turns_plan(struct hd_turns *t);
/* An item of a step that was taken. */
void hd_turns_deal(struct hd_turns *t, const struct hd_step_item *it, struct hd_request *r);
/* The last that is heard of r. What its session holds may serve others, unless something went wrong with it. */
void hd_turns_end(struct hd_turns *t, struct hd_request *r, enum hd_finish finish, const struct hd_err *err);
/* Out of the list of its user's waiting ones. */
void hd_turns_unlist(struct hd_turns *t, struct hd_request *r);
/* Distance of checkpoints inside r's prompt; 0: there are none. */
int64_t hd_turns_spacing(const struct hd_turns *t, const struct hd_request *r);

static inline bool hd_turns_paused(const struct hd_turns *t, const struct hd_request *r) { return !t->ignore_pause && atomic_load(&r->paused); }
/* A cached token has no logits, which scores of a prompt are made of. */
static inline bool hd_turns_may_reuse(const struct hd_request *r) { return !r->prompt_logprobs || r->n_scored >= r->n_prompt - 1; }

#endif
