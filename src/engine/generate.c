/* generate.c: see generate.h. */
#include "engine/generate.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

static bool emit(struct hd_generate *g, struct hd_str *s, const struct hd_pick *pick)
{
    bool go = !s->n || g->text(g->arg, s->s, s->n, pick);

    hd_str_reset(s);
    return go;
}

/* false: this was the last token. */
static bool take(struct hd_generate *g, struct hd_text_stream *ts, struct hd_str *ready, const struct hd_pick *pick)
{
    if (g->token)
        return g->token(g->arg, pick->id);
    hd_text_stream_push(ts, pick->id, ready);
    return !ts->stopped && emit(g, ready, pick);
}

/* Tokens that a step fed: the newest one and proposals behind it; logits has a row for each. */
struct round {
    const float *logits;
    int32_t ids[1 + HD_DRAFT_MAX];
    int64_t n_draft;
};

/* Tokens from the rows of a round, as long as its proposals are what comes. *last: the newest, which the session lacks. false: the answer is over. */
static bool take_rows(struct hd_generate *g, const struct round *r, struct hd_text_stream *ts, struct hd_str *ready, int32_t *last, int *rc, struct hd_err *err)
{
    struct hd_session *ss = g->session;
    int64_t base = (int64_t)ss->n - r->n_draft, row = 0, n_vocab = ss->engine->model.hp.n_vocab;
    bool go = true;
    struct hd_pick pick;

    for (;; row++) {
        if ((*rc = hd_sampler_pick(g->sampler, r->logits + row * n_vocab, ss->ids, base + row, &pick, err)) < 0)
            return false;
        g->n_decoded += g->n_step > 0;
        if (g->tok && hd_tokenizer_is_end(g->tok, pick.id)) {
            g->finish = HD_FINISH_END;
            go = false;
            break;
        }
        g->n_generated++;
        if (!take(g, ts, ready, &pick))
            g->finish = HD_FINISH_STOP;
        else if (g->cancelled && g->cancelled(g->arg))
            g->finish = HD_FINISH_CANCELLED;
        go = g->finish == HD_FINISH_LENGTH && g->n_generated != g->n_max;
        if (!go || row == r->n_draft || r->ids[1 + row] != pick.id)
            break;
    }
    if (r->n_draft) {
        g->n_drafted += r->n_draft;
        g->n_accepted += row;
        hd_speculate_learn(g->speculate, go ? r->n_draft : row, row);
        *rc = hd_session_rewind(ss, base + row, err);
    }
    *last = pick.id;
    return go && *rc == HD_OK;
}

/* Proposals behind last. */
static void propose(struct hd_generate *g, int32_t last, struct round *r)
{
    struct hd_session *ss = g->session;
    int64_t n_ctx = ss->engine->opt.n_ctx < ss->engine->model.hp.n_ctx ? ss->engine->opt.n_ctx : ss->engine->model.hp.n_ctx;
    int64_t left = g->n_max < 0 ? INT64_MAX : g->n_max - g->n_generated - 1, room = n_ctx - (int64_t)ss->n - 1;
    struct hd_draft_item it = {.session = ss, .sample = &g->sampler->params, .rng = g->sampler->rng, .n = (int64_t)ss->n + 1};

    r->ids[0] = last;
    r->n_draft = 0;
    it.depth = g->speculate ? hd_speculate_depth(g->speculate, 1) : 0;
    it.depth = it.depth < left ? it.depth : left;
    it.depth = it.depth < room ? it.depth : room;
    room = ss->engine->opt.chunk - 1;
    it.depth = it.depth < room ? it.depth : room;
    if (it.depth <= 0 || !HD_GROW(ss->ids, ss->cap, ss->n + 1 + (size_t)it.depth, (size_t)1 << 31))
        return;
    it.ids = ss->ids;
    ss->ids[ss->n] = last;
    hd_speculate_propose(g->speculate, g->sampler, &it, 1);
    r->n_draft = it.n_draft;
    memcpy(r->ids + 1, ss->ids + it.n, (size_t)it.n_draft * sizeof *r->ids);
}

/* The next round; proposals that find no room are dropped. */
static int step(struct hd_generate *g, struct round *r, struct hd_err *err)
{
    struct hd_engine *e = g->session->engine;
    struct hd_step_item it = {.session = g->session, .ids = r->ids, .n_tok = 1 + r->n_draft, .want = HD_WANT_ALL};
    double t0 = hd_now();
    int rc = hd_engine_step(e, &it, 1, err);

    if (r->n_draft && (rc == HD_ERR_LIMIT || rc == HD_ERR_MEMORY)) {
        it.n_tok = 1;
        r->n_draft = 0;
        rc = hd_engine_step(e, &it, 1, err);
    }
    HD_TRY(rc);
    if (g->speculate)
        hd_speculate_timed(g->speculate, it.n_tok, hd_now() - t0);
    r->logits = it.logits;
    g->n_step++;
    g->decode_cost.weight_bytes += e->last.weight_bytes;
    g->decode_cost.kv_bytes += e->last.kv_bytes;
    g->decode_cost.flops += e->last.flops;
    return HD_OK;
}

static int loop(struct hd_generate *g, const float *logits, struct hd_text_stream *ts, struct hd_str *ready, struct hd_err *err)
{
    struct hd_session *ss = g->session;
    struct round r = {.logits = logits};
    int32_t last;
    int rc = HD_OK;

    g->finish = HD_FINISH_LENGTH;
    if (g->n_max == 0)
        return HD_OK;
    while (take_rows(g, &r, ts, ready, &last, &rc, err)) {
        if ((int64_t)ss->n + 1 > ss->engine->opt.n_ctx) {
            g->finish = HD_FINISH_CONTEXT;
            break;
        }
        propose(g, last, &r);
        HD_TRY(step(g, &r, err));
    }
    return rc < 0 ? rc : HD_OK;
}

int hd_generate(struct hd_generate *g, struct hd_err *err)
{
    struct hd_text_stream ts;
    struct hd_str ready;
    const float *logits = NULL;
    double t0 = hd_now();
    int rc;

    if ((int64_t)g->session->n + g->n_prompt > g->session->engine->opt.n_ctx)
        return hd_err_set(err, HD_ERR_LIMIT, "the prompt is %lld tokens; the context has room for %lld (--ctx makes it larger)",
                          (long long)g->session->n + g->n_prompt, (long long)g->session->engine->opt.n_ctx);
    if (g->n_prompt < 1)
        return hd_err_set(err, HD_ERR_USAGE, "the prompt is empty");
    g->n_generated = g->n_step = g->n_decoded = g->n_drafted = g->n_accepted = 0;
    g->decode_cost = (struct hd_cost){0};
    HD_TRY(hd_session_feed(g->session, g->prompt, g->n_prompt, g->progress, g->arg, &logits, err));
    g->prefill_s = hd_now() - t0;
    t0 = hd_now();
    hd_text_stream_init(&ts, g->tok, g->stop, g->n_stop);
    hd_str_init(&ready, (size_t)1 << 24);
    rc = loop(g, logits, &ts, &ready, err);
    hd_text_stream_finish(&ts, &ready);
    if (rc == HD_OK && ready.n)
        emit(g, &ready, NULL);
    hd_str_release(&ready);
    hd_text_stream_release(&ts);
    g->decode_s = hd_now() - t0;
    return rc;
}
