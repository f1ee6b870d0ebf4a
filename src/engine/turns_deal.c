/* turns_deal.c: from a step's logits to what requests hear: tokens, scores of prompts, ends; and checkpoints. See turns.h. */
#include "engine/turns.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

#define CHECKPOINTS 8                 /* inside one prompt, at most */

static bool is_end(const struct hd_turns *t, int32_t id)
{
    for (int i = 0; i < t->n_end; i++)
        if (t->end[i] == id)
            return true;
    return false;
}

/* Log-probabilities are of the model's own logits, also where a constraint has masked some. */
static int pick(struct hd_turns *t, struct hd_request *r, const float *logits, struct hd_pick *out, struct hd_err *err)
{
    struct hd_sampler *s = &t->sampler;
    const float *x = logits;
    bool masked = r->constraint.mask;
    int rc;

    s->params = r->sample;
    s->rng = r->rng;
    if (masked) {
        memcpy(t->masked, logits, (size_t)s->n_vocab * sizeof *logits);
        r->constraint.mask(r->constraint.self, t->masked, s->n_vocab);
        x = t->masked;
        s->params.n_logprob = -1;
    }
    rc = hd_sampler_pick(s, x, r->ids, (int64_t)r->n, out, err);
    r->rng = s->rng;
    s->params.n_logprob = r->sample.n_logprob;
    if (rc == HD_OK && masked && r->sample.n_logprob >= 0)
        rc = hd_sampler_score(s, logits, out->id, out, err);
    return rc;
}

/* The next token of r, whose session holds everything before it; the last one ends it. */
static void take_token(struct hd_turns *t, struct hd_request *r, const float *logits)
{
    struct hd_pick p;
    struct hd_err err;

    r->state = HD_REQUEST_DECODING;
    if (!r->first)
        r->first = hd_now();
    if (r->n_generated == r->n_max) {
        hd_turns_end(t, r, HD_FINISH_LENGTH, NULL);
        return;
    }
    if (!HD_GROW(r->ids, r->cap, r->n + 1, (size_t)1 << 31)) {
        hd_err_set(&err, HD_ERR_MEMORY, "no memory for token %zu", r->n);
        hd_turns_end(t, r, HD_FINISH_CANCELLED, &err);
        return;
    }
    if (pick(t, r, logits, &p, &err) < 0) {
        hd_turns_end(t, r, HD_FINISH_CANCELLED, &err);
        return;
    }
    if (!r->ignore_end && is_end(t, p.id)) {
        hd_turns_end(t, r, HD_FINISH_END, NULL);
        return;
    }
    r->ids[r->n++] = p.id;
    r->n_generated++;
    t->stats.n_generated++;
    if (r->constraint.take)
        r->constraint.take(r->constraint.self, p.id);
    hd_request_tell_pick(r, HD_RUN_TOKEN, &p);
    if (r->n_generated == r->n_max)
        hd_turns_end(t, r, HD_FINISH_LENGTH, NULL);
    else if ((int64_t)r->n > t->n_ctx)
        hd_turns_end(t, r, HD_FINISH_CONTEXT, NULL);
}

/* Row k of logits tells of the token behind the k-th that was fed. */
static int score_prompt(struct hd_turns *t, struct hd_request *r, const struct hd_step_item *it, struct hd_err *err)
{
    int64_t from = (int64_t)r->session.n - it->n_tok, n_vocab = t->sampler.n_vocab;
    struct hd_pick p;

    for (int64_t k = 0; k < it->n_tok; k++) {
        int64_t at = from + k + 1;

        if (at <= r->n_scored || at >= r->n_prompt)
            continue;
        t->sampler.params = r->sample;
        HD_TRY(hd_sampler_score(&t->sampler, it->logits + k * n_vocab, r->ids[at], &p, err));
        r->n_scored = at;
        hd_request_tell_pick(r, HD_RUN_PROMPT, &p);
    }
    return HD_OK;
}

int64_t hd_turns_spacing(const struct hd_turns *t, const struct hd_request *r)
{
    int64_t c = t->opt.checkpoint_tokens;

    if (t->rewinds || c < 0)
        return 0;
    return r->n_prompt / CHECKPOINTS < c ? c : (r->n_prompt / CHECKPOINTS + c - 1) / c * c;
}

/* Caches with rings do not go back far: a copy stays where others may want to go on from. */
static void checkpoint(struct hd_turns *t, struct hd_request *r)
{
    int64_t n = (int64_t)r->session.n, every = hd_turns_spacing(t, r);
    bool whole = n == r->n_prompt;
    struct hd_session copy;

    if (t->rewinds || (t->opt.keep_bytes < 0 && !t->prefix.disk) || n > r->n_prompt || (!whole && (!every || n % every)))
        return;
    if (hd_session_fork(&copy, &r->session, NULL) == HD_OK)
        hd_prefix_keep(&t->prefix, r->tenant, &copy, whole ? HD_PREFIX_PROMPT : HD_PREFIX_BORDER);
}

void hd_turns_deal(struct hd_turns *t, const struct hd_step_item *it, struct hd_request *r)
{
    struct hd_err err;

    r->planned = 0;
    if (it->want == HD_WANT_ALL && score_prompt(t, r, it, &err) < 0) {
        hd_turns_end(t, r, HD_FINISH_CANCELLED, &err);
        return;
    }
    if (r->state == HD_REQUEST_FEEDING) {
        checkpoint(t, r);
        hd_request_tell_progress(r);
    }
    if (!hd_request_left(r))
        take_token(t, r, it->want == HD_WANT_ALL ? it->logits + (it->n_tok - 1) * t->sampler.n_vocab : it->logits);
}

