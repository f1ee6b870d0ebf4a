/* api.c: the public API of hadal.h over engine, tokenizer and sampler. Thin on purpose: nothing here but translation. */
#include "hadal.h"

#include <string.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "engine/generate.h"
#include "engine/model_tokenizer.h"
#include "token/chat.h"

struct hadal_model {
    struct hd_engine engine;
    struct hd_tokenizer *tok;         /* NULL: the checkpoint has none */
    struct hd_err tok_err;            /* why */
};

struct hadal_session {
    struct hd_session session;
    struct hadal_model *model;
};

_Static_assert((int)HADAL_ERR_CANCELLED == (int)HD_ERR_CANCELLED && (int)HADAL_ERR_IO == (int)HD_ERR_IO, "public codes are the library's");
_Static_assert((int)HADAL_EXACT_OFFICIAL == (int)HD_EXACT_OFFICIAL && (int)HADAL_FINISH_CONTEXT == (int)HD_FINISH_CONTEXT, "so are modes and reasons");
_Static_assert(sizeof(struct hadal_err) == sizeof(struct hd_err), "struct hadal_err is struct hd_err under its public name");

static int give(struct hadal_err *out, const struct hd_err *err, int rc)
{
    if (rc < 0 && out) {
        out->code = err->code;
        memcpy(out->msg, err->msg, sizeof out->msg);
    }
    return rc < 0 ? rc : HADAL_OK;
}

int hadal_open(struct hadal_model **out, const char *path, const struct hadal_options *opt, struct hadal_err *err)
{
    struct hd_engine_options o = {.kv = HD_KV_AUTO};
    struct hadal_model *m = hd_calloc(1, sizeof *m);
    struct hd_err e = {0};
    int rc;

    if (!m)
        return give(err, &e, hd_err_set(&e, HD_ERR_MEMORY, "%s: no memory", path));
    if (opt) {
        o.n_thread = opt->threads;
        o.cpu = opt->cpu;
        o.exact = (enum hd_exact)opt->exact;
        o.n_ctx = opt->context;
        o.chunk = opt->chunk;
        o.kv = opt->kv == HADAL_KV_F32 ? HD_KV_F32 : opt->kv == HADAL_KV_F16 ? HD_KV_F16 : opt->kv == HADAL_KV_NATIVE ? HD_KV_NATIVE : HD_KV_AUTO;
    }
    if (o.n_thread < 0 || o.n_ctx < 0 || o.chunk < 0)
        rc = hd_err_set(&e, HD_ERR_USAGE, "options: threads, context and chunk are 0 or more");
    else
        rc = hd_engine_open(&m->engine, path, &o, &e);
    if (rc < 0) {
        hd_free(m);
        return give(err, &e, rc);
    }
    if (hd_model_tokenizer(&m->tok, path, &m->tok_err) < 0)
        m->tok = NULL;
    *out = m;
    return HADAL_OK;
}

void hadal_close(struct hadal_model *m)
{
    if (!m)
        return;
    hd_tokenizer_free(m->tok);
    hd_engine_close(&m->engine);
    hd_free(m);
}

void hadal_describe(const struct hadal_model *m, struct hadal_info *out)
{
    const struct hd_engine *e = &m->engine;
    struct hd_counts c;

    hd_model_count(&e->model, &c);
    *out = (struct hadal_info){.arch = e->model.arch->name,
                               .n_layer = e->model.hp.n_layer,
                               .d_model = e->model.hp.d_model,
                               .n_vocab = e->model.hp.n_vocab,
                               .n_ctx = e->model.hp.n_ctx,
                               .params_total = c.total,
                               .params_active = c.active,
                               .weight_bytes = e->plan.weight_bytes,
                               .cache_bytes = e->plan.cache_bytes,
                               .step_bytes = e->plan.step_bytes};
}

/* ---- text and ids ---- */

static int need_tokenizer(const struct hadal_model *m, struct hd_err *e)
{
    return m->tok ? HD_OK : hd_err_set(e, HD_ERR_UNSUPPORTED, "no tokenizer: %.400s", m->tok_err.msg);
}

int hadal_tokenize(struct hadal_model *m, const char *text, size_t n, int special, int32_t **ids, size_t *n_ids, struct hadal_err *err)
{
    struct hd_err e = {0};
    struct hd_ids out = {0};
    int rc = need_tokenizer(m, &e);

    if (rc == HD_OK)
        rc = hd_tokenize(m->tok, text, n, special ? HD_TOK_SPECIAL : 0, &out, &e);
    if (rc < 0) {
        hd_ids_release(&out);
        return give(err, &e, rc);
    }
    *ids = out.id;
    *n_ids = out.n;
    return HADAL_OK;
}

int hadal_chat_tokens(struct hadal_model *m, const char *messages_json, int32_t **ids, size_t *n_ids, struct hadal_err *err)
{
    struct hd_chat_options opt = {0};
    struct hd_err e = {0};
    struct hd_ids out = {0};
    struct hd_chat_text c;
    json_t *doc = NULL;
    int rc = need_tokenizer(m, &e);

    hd_chat_text_init(&c);
    if (rc == HD_OK)
        opt.thinking = hd_tokenizer_thinking(m->tok);
    if (rc == HD_OK && !(doc = hd_json_parse(messages_json, strlen(messages_json), "messages", &e)))
        rc = e.code;
    if (rc == HD_OK)
        rc = hd_chat_render(m->tok, doc, &opt, &c, &e);
    if (rc == HD_OK)
        rc = hd_chat_ids(m->tok, &c, &out, &e);
    hd_chat_text_release(&c);
    if (doc)
        json_decref(doc);
    if (rc < 0) {
        hd_ids_release(&out);
        return give(err, &e, rc);
    }
    *ids = out.id;
    *n_ids = out.n;
    return HADAL_OK;
}

int hadal_detokenize(struct hadal_model *m, const int32_t *ids, size_t n_ids, char **text, size_t *n, struct hadal_err *err)
{
    struct hd_err e = {0};
    struct hd_str s;
    int rc = need_tokenizer(m, &e);

    hd_str_init(&s, 0);
    for (size_t i = 0; rc == HD_OK && i < n_ids; i++)
        if (ids[i] < 0 || ids[i] >= hd_tokenizer_size(m->tok))
            rc = hd_err_set(&e, HD_ERR_USAGE, "token %zu: found id %d; expected 0 to %lld", i, ids[i], (long long)hd_tokenizer_size(m->tok) - 1);
    if (rc == HD_OK) {
        hd_detokenize(m->tok, ids, n_ids, true, &s);
        hd_str_add(&s, "", 0);
        if (s.failed || (!s.s && !(s.s = hd_strdup(""))))
            rc = hd_err_set(&e, HD_ERR_MEMORY, "no memory for the text of %zu ids", n_ids);
    }
    if (rc < 0) {
        hd_str_release(&s);
        return give(err, &e, rc);
    }
    *text = s.s;
    *n = s.n;
    return HADAL_OK;
}

void hadal_free(void *p)
{
    hd_free(p);
}

/* ---- sessions ---- */

int hadal_session_open(struct hadal_session **out, struct hadal_model *m, struct hadal_err *err)
{
    struct hadal_session *s = hd_calloc(1, sizeof *s);
    struct hd_err e = {0};
    int rc = s ? hd_session_open(&s->session, &m->engine, &e) : hd_err_set(&e, HD_ERR_MEMORY, "no memory for a session");

    if (rc < 0) {
        hd_free(s);
        return give(err, &e, rc);
    }
    s->model = m;
    *out = s;
    return HADAL_OK;
}

void hadal_session_close(struct hadal_session *s)
{
    if (!s)
        return;
    hd_session_close(&s->session);
    hd_free(s);
}

size_t hadal_session_length(const struct hadal_session *s)
{
    return s->session.n;
}

const int32_t *hadal_session_ids(const struct hadal_session *s)
{
    return s->session.ids;
}

int hadal_session_rewind(struct hadal_session *s, size_t n, struct hadal_err *err)
{
    struct hd_err e = {0};

    return give(err, &e, hd_session_rewind(&s->session, n > INT64_MAX ? INT64_MAX : (int64_t)n, &e));
}

int hadal_session_fork(struct hadal_session **out, struct hadal_session *from, struct hadal_err *err)
{
    struct hadal_session *s = hd_calloc(1, sizeof *s);
    struct hd_err e = {0};
    int rc = s ? hd_session_fork(&s->session, &from->session, &e) : hd_err_set(&e, HD_ERR_MEMORY, "no memory for a session");

    if (rc < 0) {
        hd_free(s);
        return give(err, &e, rc);
    }
    s->model = from->model;
    *out = s;
    return HADAL_OK;
}

int hadal_session_save(struct hadal_session *s, const char *path, struct hadal_err *err)
{
    struct hd_err e = {0};

    return give(err, &e, hd_session_save(&s->session, path, &e));
}

int hadal_session_load(struct hadal_session *s, const char *path, struct hadal_err *err)
{
    struct hd_err e = {0};

    return give(err, &e, hd_session_load(&s->session, path, &e));
}

/* ---- an answer ---- */

void hadal_sampling_init(struct hadal_sampling *s)
{
    *s = (struct hadal_sampling){.temperature = 0.7, .top_p = 1, .min_p = 0.05, .repetition = 1};
}

struct sink {
    hadal_text_fn fn;
    void *arg;
};

static bool on_text(void *arg, const char *p, size_t n, const struct hd_pick *pick)
{
    const struct sink *k = arg;

    return !k->fn || k->fn(k->arg, p, n) == 0;
}

int hadal_generate(struct hadal_session *s, const int32_t *ids, size_t n_ids, int64_t n_max, const struct hadal_sampling *sampling,
                   const char *const *stop, int n_stop, hadal_text_fn text, void *arg, struct hadal_answer *answer, struct hadal_err *err)
{
    struct sink k = {text, arg};
    struct hd_generate g = {.session = &s->session,
                            .tok = s->model->tok,
                            .prompt = ids,
                            .n_prompt = (int64_t)n_ids,
                            .n_max = n_max,
                            .stop = stop,
                            .n_stop = stop ? n_stop : 0,
                            .text = on_text,
                            .arg = &k};
    struct hd_sample_params p;
    struct hd_sampler sampler;
    struct hd_err e = {0};
    int rc = need_tokenizer(s->model, &e);

    hd_sample_defaults(&p);
    if (sampling) {
        p.temperature = sampling->temperature;
        p.top_k = sampling->top_k;
        p.top_p = sampling->top_p;
        p.min_p = sampling->min_p;
        p.repetition = sampling->repetition;
        p.presence = sampling->presence;
        p.frequency = sampling->frequency;
        p.seed = sampling->seed;
    }
    if (rc < 0 || (rc = hd_sampler_init(&sampler, &p, s->model->engine.model.hp.n_vocab, &e)) < 0)
        return give(err, &e, rc);
    g.sampler = &sampler;
    rc = hd_generate(&g, &e);
    hd_sampler_release(&sampler);
    if (rc >= 0 && answer)
        *answer = (struct hadal_answer){(enum hadal_finish)g.finish, g.n_generated, g.prefill_s, g.decode_s};
    return give(err, &e, rc);
}

/* ---- batches ---- */

int hadal_step(struct hadal_model *m, struct hadal_step *items, int n_items, struct hadal_err *err)
{
    struct hd_step_item few[16], *it = few;
    struct hd_err e = {0};
    int rc;

    if (n_items < 1)
        return give(err, &e, hd_err_set(&e, HD_ERR_USAGE, "step: no items"));
    if (n_items > HD_LEN(few) && !(it = hd_malloc((size_t)n_items * sizeof *it)))
        return give(err, &e, hd_err_set(&e, HD_ERR_MEMORY, "no memory for a step of %d items", n_items));
    for (int i = 0; i < n_items; i++)
        it[i] = (struct hd_step_item){.session = &items[i].session->session,
                                      .ids = items[i].ids,
                                      .n_tok = (int64_t)items[i].n_ids,
                                      .want = items[i].all_logits ? HD_WANT_ALL : HD_WANT_LAST};
    rc = hd_engine_step(&m->engine, it, n_items, &e);
    for (int i = 0; i < n_items && rc == HD_OK; i++)
        items[i].logits = it[i].logits;
    if (it != few)
        hd_free(it);
    return give(err, &e, rc);
}
