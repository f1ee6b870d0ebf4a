/* request.c: see request.h. */
#include "engine/request.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

static bool copy_text(char **out, const char *s)
{
    return !s || (*out = hd_strdup(s));
}

struct hd_request *hd_request_create(const struct hd_run_request *q)
{
    struct hd_request *r = hd_calloc(1, sizeof *r);
    size_t n_bias = (size_t)q->sample.n_bias;

    if (!r)
        return NULL;
    if (!HD_GROW(r->ids, r->cap, (size_t)q->n_prompt + 1, (size_t)1 << 31) || !copy_text(&r->tenant, q->tenant) || !copy_text(&r->user_name, q->user ? q->user : "") ||
        (n_bias && !(r->bias = hd_malloc(n_bias * sizeof *r->bias)))) {
        hd_request_free(r);
        return NULL;
    }
    memcpy(r->ids, q->prompt, (size_t)q->n_prompt * sizeof *r->ids);
    r->n = (size_t)q->n_prompt;
    r->n_prompt = q->n_prompt;
    r->n_max = q->n_max;
    r->sample = q->sample;
    if (n_bias)
        memcpy(r->bias, q->sample.bias, n_bias * sizeof *r->bias);
    r->sample.bias = r->bias;
    hd_rng_seed(&r->rng, q->sample.seed);
    r->prompt_logprobs = q->prompt_logprobs;
    r->ignore_end = q->ignore_end;
    r->constraint = q->constraint;
    r->event = q->event;
    r->arg = q->arg;
    r->n_told = -1;
    r->submitted = hd_now();
    return r;
}

void hd_request_free(struct hd_request *r)
{
    if (r->constraint.free)
        r->constraint.free(r->constraint.self);
    hd_free(r->ids);
    hd_free(r->bias);
    hd_free(r->tenant);
    hd_free(r->user_name);
    hd_free(r);
}

static void tell(const struct hd_request *r, struct hd_run_event *e)
{
    e->id = r->id;
    if (r->event)
        r->event(r->arg, e);
}

static int64_t fed(const struct hd_request *r)
{
    return (int64_t)r->session.n < r->n_prompt ? (int64_t)r->session.n : r->n_prompt;
}

void hd_request_tell_progress(struct hd_request *r)
{
    struct hd_run_event e = {.kind = HD_RUN_PROGRESS, .done = fed(r), .total = r->n_prompt, .cached = r->n_cached};

    if (e.done <= r->n_told)
        return;
    r->n_told = e.done;
    tell(r, &e);
}

void hd_request_tell_pick(const struct hd_request *r, enum hd_run_kind kind, const struct hd_pick *pick)
{
    struct hd_run_event e = {.kind = kind, .pick = pick};

    tell(r, &e);
}

void hd_request_tell_end(const struct hd_request *r, enum hd_finish finish, const struct hd_err *err)
{
    double now = hd_now(), admitted = r->admitted ? r->admitted : now, first = r->first ? r->first : now;
    struct hd_run_event e = {.kind = HD_RUN_END, .finish = finish, .err = err, .n_generated = r->n_generated, .n_drafted = r->n_drafted, .n_accepted = r->n_accepted};

    e.done = fed(r);
    e.total = r->n_prompt;
    e.cached = r->n_cached;
    e.queue_s = admitted - r->submitted;
    e.prefill_s = first - admitted;
    e.decode_s = now - first;
    tell(r, &e);
}
