/* generate.c: see generate.h. */
#include "engine/generate.h"

#include "base/clock.h"

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

static int loop(struct hd_generate *g, const float *logits, struct hd_text_stream *ts, struct hd_str *ready, struct hd_err *err)
{
    struct hd_session *ss = g->session;
    int64_t room = ss->engine->opt.n_ctx;

    g->finish = HD_FINISH_LENGTH;
    while (g->n_max < 0 || g->n_generated < g->n_max) {
        struct hd_step_item it = {.session = ss, .n_tok = 1, .want = HD_WANT_LAST};
        struct hd_pick pick;

        HD_TRY(hd_sampler_pick(g->sampler, logits, ss->ids, (int64_t)ss->n, &pick, err));
        if (hd_tokenizer_is_end(g->tok, pick.id)) {
            g->finish = HD_FINISH_END;
            break;
        }
        g->n_generated++;
        if (!take(g, ts, ready, &pick)) {
            g->finish = HD_FINISH_STOP;
            break;
        }
        if (g->cancelled && g->cancelled(g->arg)) {
            g->finish = HD_FINISH_CANCELLED;
            break;
        }
        if (g->n_generated == g->n_max)
            break;
        if ((int64_t)ss->n + 1 > room) {
            g->finish = HD_FINISH_CONTEXT;
            break;
        }
        it.ids = &pick.id;
        HD_TRY(hd_engine_step(ss->engine, &it, 1, err));
        logits = it.logits;
        g->n_step++;
        g->decode_cost.weight_bytes += ss->engine->last.weight_bytes;
        g->decode_cost.kv_bytes += ss->engine->last.kv_bytes;
        g->decode_cost.flops += ss->engine->last.flops;
    }
    return HD_OK;
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
    g->n_generated = g->n_step = 0;
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
