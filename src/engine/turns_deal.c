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

enum outcome { GOES_ON, ENDS, FAILS };

/* The next token of r, by logits; finish or err say why it was the last, or is none. */
static enum outcome take_token(struct hd_turns *t, struct hd_request *r, const float *logits, enum hd_finish *finish, struct hd_err *err)
{
    struct hd_pick p;

    *finish = HD_FINISH_LENGTH;
    if (r->n_generated == r->n_max)
        return ENDS;
    if (!HD_GROW(r->ids, r->cap, r->n + 1, (size_t)1 << 31)) {
        hd_err_set(err, HD_ERR_MEMORY, "no memory for token %zu", r->n);
        return FAILS;
    }
    if (pick(t, r, logits, &p, err) < 0)
        return FAILS;
    if (!r->ignore_end && is_end(t, p.id)) {
        *finish = HD_FINISH_END;
        return ENDS;
    }
    r->ids[r->n++] = p.id;
    r->n_generated++;
    t->stats.n_generated++;
    if (r->constraint.take)
        r->constraint.take(r->constraint.self, p.id);
    hd_request_tell_pick(r, HD_RUN_TOKEN, &p);
    if (r->n_generated == r->n_max)
        return ENDS;
    *finish = HD_FINISH_CONTEXT;
    return (int64_t)r->n > t->n_ctx ? ENDS : GOES_ON;
}

/* The tokens that rows of logits give, one behind what was there before and one behind every proposal that stood. The session then holds what counts,
 * everything before the newest token. */
static void take_tokens(struct hd_turns *t, struct hd_request *r, const float *logits)
{
    int64_t n_draft = r->n_draft, base = (int64_t)r->session.n - n_draft, row = 0;
    enum outcome o;
    enum hd_finish finish;
    struct hd_err err;

    r->state = HD_REQUEST_DECODING;
    r->n_draft = 0;
    if (!r->first)
        r->first = hd_now();
    for (;; row++) {
        int32_t guess = row < n_draft ? r->ids[r->n] : -1;

        o = take_token(t, r, logits + row * t->sampler.n_vocab, &finish, &err);
        if (o != GOES_ON || r->ids[r->n - 1] != guess || atomic_load(&r->cancel))
            break;
    }
    if (n_draft) {
        r->n_drafted += n_draft;
        r->n_accepted += row;
        t->stats.n_drafted += (uint64_t)n_draft;
        t->stats.n_accepted += (uint64_t)row;
        hd_speculate_learn(&t->speculate, o == GOES_ON ? n_draft : row, row);
        if (hd_session_rewind(&r->session, base + row, &err) < 0)
            o = FAILS;
    }
    if (o != GOES_ON)
        hd_turns_end(t, r, o == FAILS ? HD_FINISH_CANCELLED : finish, o == FAILS ? &err : NULL);
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
    if (r->n_draft || !hd_request_left(r))
        take_tokens(t, r, it->want == HD_WANT_ALL ? it->logits + (it->n_tok - 1 - r->n_draft) * t->sampler.n_vocab : it->logits);
}

