/* runner.h: what turns requests into tokens, many at once. engine/schedule.h is one on a model; tests have one that reads a script.
 *
 * The server above knows ids and text, no tensors; a runner knows ids, no text: stop strings, parsing and text belong to the caller, who
 * cancels when an answer is over for such a reason.
 *
 * Threads  the operations may be called from any thread. Events come from the runner's own thread, one at a time, and must not block; those of
 *          one request in order, END last and once, also after a cancel. Nothing that an event points to outlives the call.
 */
#ifndef HD_ENGINE_RUNNER_H
#define HD_ENGINE_RUNNER_H

#include "engine/generate.h"

enum hd_run_kind {
    HD_RUN_PROGRESS,                  /* done, total, cached: prompt tokens; once when admitted, then a chunk at a time */
    HD_RUN_PROMPT,                    /* with prompt_logprobs: pick of each prompt token but the first, in order */
    HD_RUN_TOKEN,                     /* pick; an end token is none */
    HD_RUN_END
};

struct hd_run_event {
    enum hd_run_kind kind;
    uint64_t id;                      /* of the request */
    int64_t done, total, cached;
    const struct hd_pick *pick;
    enum hd_finish finish;            /* END */
    const struct hd_err *err;         /* END: what went wrong, or NULL */
    int64_t n_generated, n_drafted, n_accepted;
    double queue_s, prefill_s, decode_s;
};

typedef void (*hd_run_event_fn)(void *arg, const struct hd_run_event *e);

/* What the next token may be: called between the model and the sampler. Logits of tokens that may not come become -INFINITY.
 * For each position of an answer, in order: mask() of its logits, then take() of the token that was picked there, an end too. Nothing is
 * taken back: whoever verifies drafts masks and takes position by position, and stops at the first token that is not the draft's. */
struct hd_constraint {
    void *self;
    void (*mask)(void *self, float *logits, int64_t n_vocab);
    void (*take)(void *self, int32_t id);
    void (*free)(void *self);         /* the runner's to call, once, after END */
};

struct hd_run_request {
    const int32_t *prompt;            /* copied */
    int64_t n_prompt, n_max;          /* n_max < 0: as many as fit */
    struct hd_sample_params sample;   /* bias is copied */
    bool prompt_logprobs, ignore_end;
    const char *tenant;               /* prefixes are reused within one; NULL is one too. Copied */
    const char *user;                 /* fairness is between these; copied */
    struct hd_constraint constraint;  /* mask NULL: none */
    hd_run_event_fn event;
    void *arg;
};

struct hd_run_stats {
    int64_t n_running, n_waiting, n_session;      /* sessions: kept prefixes */
    int64_t ctx_tokens, ctx_used;                 /* of the cache */
    uint64_t n_step, n_prompt, n_cached, n_generated, n_drafted, n_accepted, n_preempted;
    uint64_t disk_bytes, disk_hits, disk_evictions;
    double prefill_s, decode_s;                   /* time in steps */
    /* experts on disk: of those that were wanted, in memory or not; read ahead and used; bytes read; records of their pack that were not believed; time in which
     * the engine waited */
    uint64_t expert_hits, expert_misses, expert_ahead, expert_ahead_used, expert_bytes, row_bytes, expert_damaged;
    double expert_wait_s;
};

struct hd_runner {
    void *self;
    int64_t n_ctx;                                /* longest prompt and answer together */
    /* *id is set before the first event. Errors: LIMIT (queue full; *retry_s an estimate of when to come again), USAGE (too long). */
    int (*submit)(void *self, const struct hd_run_request *r, uint64_t *id, double *retry_s, struct hd_err *err);
    void (*cancel)(void *self, uint64_t id);      /* END follows, CANCELLED; unknown ids are fine */
    void (*pause)(void *self, uint64_t id, bool on);          /* its reader is slow */
    void (*stats)(void *self, struct hd_run_stats *out);
    void (*flush)(void *self);                    /* forgets kept prefixes, the disk's too */
};

#endif
