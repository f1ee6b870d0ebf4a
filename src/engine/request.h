/* request.h: a request while the scheduler has it: a copy of what was asked, how far it is, and how it tells.
 *
 * Threads  the scheduler's, but for cancel and paused
 */
#ifndef HD_ENGINE_REQUEST_H
#define HD_ENGINE_REQUEST_H

#include <stdatomic.h>

#include "engine/runner.h"

struct hd_user;

enum hd_request_state { HD_REQUEST_WAITING, HD_REQUEST_FEEDING, HD_REQUEST_DECODING };

struct hd_request {
    struct hd_request *next;          /* in the inbox, then among its user's waiting ones */
    struct hd_request *older, *newer; /* of all that the scheduler has */
    uint64_t id;
    atomic_bool cancel, paused;

    int32_t *ids;                     /* prompt, then what was generated */
    size_t n, cap;
    int64_t n_prompt, n_max;
    struct hd_sample_params sample;
    struct hd_logit_bias *bias;
    struct hd_rng rng;
    bool prompt_logprobs, ignore_end;
    char *tenant, *user_name;
    struct hd_constraint constraint;
    hd_run_event_fn event;
    void *arg;

    enum hd_request_state state;
    struct hd_user *user;             /* NULL in the inbox */
    struct hd_session session;        /* open unless waiting; holds ids[0 .. session.n) */
    int64_t raw0;                     /* tokens of the prompt that the encoder half alone sees */
    int64_t planned;                  /* tokens of the step in the making, proposals too */
    int64_t n_draft;                  /* proposals of that step: they lie at ids + n */
    int64_t passed;                   /* tokens that younger ones got while this one waited for some */
    int64_t n_generated, n_scored, n_cached, n_drafted, n_accepted;
    int64_t n_told;                   /* progress told so far; -1: not yet */
    uint64_t refused;                 /* the last plan that had no room for it */
    uint64_t ended_before;            /* preempted: how many requests had ended then */
    bool preempted;
    double submitted, admitted, first;        /* clock; 0: not yet */
};

/* NULL: no memory. The constraint is taken over by success only. */
struct hd_request *hd_request_create(const struct hd_run_request *r);
void hd_request_free(struct hd_request *r);   /* its session is closed; frees the constraint */

/* Tokens that the session lacks before the next one can be sampled; and those of them that take the encoder half only. */
static inline int64_t hd_request_left(const struct hd_request *r) { return (int64_t)(r->n - r->session.n); }
static inline int64_t hd_request_encode_left(const struct hd_request *r) { return r->raw0 > (int64_t)r->session.n ? r->raw0 - (int64_t)r->session.n : 0; }

/* Of the prompt; nothing where it has been told before (r may be feeding again what it had fed once). */
void hd_request_tell_progress(struct hd_request *r);
void hd_request_tell_pick(const struct hd_request *r, enum hd_run_kind kind, const struct hd_pick *pick);
void hd_request_tell_end(const struct hd_request *r, enum hd_finish finish, const struct hd_err *err);

#endif
