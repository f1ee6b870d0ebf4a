/* engine.c: opening a model with all that runs it, and steps. See engine.h; plan.c says what they need, session.c has sessions. */
#include "engine/engine_inside.h"

#include <string.h>

#include "base/mem.h"
#include "engine/model_tokenizer.h"
#include "token/token_classes.h"

/* Architectures that hash n-grams want to know which tokens are alike: the tokenizer says so. */
static int give_classes(struct hd_model *m, const char *path, struct hd_err *err)
{
    int64_t n_class, n = m->hp.n_vocab;
    struct hd_tokenizer *t;
    int32_t *map;
    int rc;

    if (!m->wants_classes)
        return HD_OK;
    rc = hd_model_tokenizer(&t, path, err);
    if (rc < 0)
        return hd_err_prepend(err, "the model's n-gram memory needs its tokenizer");
    map = hd_malloc((size_t)n * sizeof *map);
    rc = map ? hd_token_classes(t, n, map, &n_class, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for the classes of %lld tokens", (long long)n);
    if (rc == HD_OK)
        rc = m->arch->take_classes(m, map, n, n_class, err);
    hd_free(map);
    hd_tokenizer_free(t);
    return rc;
}

static void gather_rest(void *arg, const struct hd_tensor *w)
{
    struct hd_engine *e = arg;

    if (!hd_experts_holds(e->experts, w))
        hd_packs_gather(&e->packs, w);
}

static void no_experts(void *arg, const struct hd_tensor *gate, const struct hd_tensor *up, const struct hd_tensor *down, int64_t n, const struct hd_tensor *route)
{
}

/* Exact modes multiply weights as they lie. With experts on disk everything else is copied, so that nothing depends on the files' maps. */
static int pack(struct hd_engine *e, struct hd_err *err)
{
    struct hd_meet meet = {.arg = &e->packs, .matrix = hd_packs_gather, .experts = e->experts ? no_experts : NULL};
    struct hd_cost cost;

    if (e->opt.exact != HD_EXACT_NONE && !e->experts)
        return HD_OK;
    HD_TRY(hd_engine_dry_run(&e->model, e->opt.exact, 0, 1, 1, &cost, &meet, err));
    if (e->model.draft.depth)
        HD_TRY(hd_engine_dry_draft(&e->model, e->opt.exact, 1, 1, &cost, &meet, err));
    e->packs.n_matrix = e->opt.exact == HD_EXACT_NONE ? e->packs.n : 0;
    if (e->experts)
        e->model.arch->each_weight(&e->model, gather_rest, e);
    if (e->experts && e->model.draft.depth)
        e->model.arch->each_draft(&e->model, gather_rest, e);
    HD_TRY(hd_packs_make(&e->packs, e->pool, e->opt.loading, e->opt.loading_arg, err));
    if (e->experts)
        HD_TRY(hd_experts_open(e->experts, &e->model.store, e->plan.n_slot, err));
    hd_store_cool(&e->model.store);
    return HD_OK;
}

int hd_engine_open(struct hd_engine *e, const char *path, const struct hd_engine_options *opt, struct hd_err *err)
{
    int rc;

    memset(e, 0, sizeof *e);
    e->opt = *opt;
    hd_arena_init(&e->step, 0);
    hd_arena_init(&e->batch, 0);
    HD_TRY(hd_backend_cpu_init(opt->cpu, err));
    HD_TRY(hd_model_open(&e->model, path, opt->exact ? HD_KV_F32 : opt->kv, opt->draft_if_whole ? HD_MODEL_DRAFT_IF_WHOLE : opt->draft ? HD_MODEL_DRAFT : 0, err));
    hd_engine_defaults(&e->opt, &e->model);
    if ((rc = give_classes(&e->model, path, err)) < 0 || (rc = hd_engine_make_plan(&e->model, &e->opt, !opt->chunk, 1, &e->plan, &e->experts, err)) < 0 ||
        (e->experts && !e->plan.n_slot && (rc = hd_engine_no_memory(&e->plan, &e->opt, err)) < 0))
        goto fail;
    if (opt->planned)
        opt->planned(&e->plan);
    if ((rc = hd_pool_create(&e->pool, opt->n_thread, err)) < 0 || (rc = hd_backend_cpu_create(&e->backend, e->pool, err)) < 0 || (rc = pack(e, err)) < 0 ||
        (rc = hd_cache_init(&e->cache, &e->model.spec, e->opt.n_ctx, err)) < 0)
        goto fail;
    if (!hd_arena_reserve(&e->step, (size_t)e->plan.step_bytes + 65536)) {
        rc = hd_err_set(err, HD_ERR_MEMORY, "no memory for a step of %lld tokens (%lld bytes)", (long long)e->opt.chunk, (long long)e->plan.step_bytes);
        goto fail;
    }
    return HD_OK;
fail:
    hd_engine_close(e);
    return rc;
}

void hd_engine_close(struct hd_engine *e)
{
    hd_cache_release(&e->cache);
    if (e->backend.self)
        hd_backend_cpu_free(&e->backend);
    hd_pool_free(e->pool);
    hd_packs_release(&e->packs);
    hd_experts_free(e->experts);
    hd_arena_release(&e->step);
    hd_arena_release(&e->batch);
    hd_model_close(&e->model);
    memset(e, 0, sizeof *e);
}

/* ---- steps ---- */

struct batch {
    struct hd_ragged ragged;
    int32_t *out_rows;
    int64_t n_out;
};

static int check_items(const struct hd_engine *e, const struct hd_step_item *it, int n_item, int64_t *n_tok, struct hd_err *err)
{
    int64_t total = 0;

    for (int i = 0; i < n_item; i++) {
        if (it[i].n_tok < 1)
            return hd_err_set(err, HD_ERR_USAGE, "step: item %d has no tokens", i);
        if (it[i].encode != it[0].encode || (it[i].encode && (it[i].want != HD_WANT_NONE || !e->model.shortcut)))
            return hd_err_set(err, HD_ERR_USAGE, "step: item %d: the encoder half only is for all items or none, of a model with halves, without logits", i);
        for (int64_t t = 0; t < it[i].n_tok; t++)
            if (it[i].ids[t] < 0 || it[i].ids[t] >= e->model.hp.n_vocab)
                return hd_err_set(err, HD_ERR_USAGE, "token %lld: found id %d; expected 0 to %lld", (long long)(it[i].session->n + (size_t)t), it[i].ids[t],
                                  (long long)e->model.hp.n_vocab - 1);
        if ((int64_t)it[i].session->n + it[i].n_tok > e->model.hp.n_ctx)
            return hd_err_set(err, HD_ERR_LIMIT, "context overflow: %lld tokens; the model's context is %lld", (long long)it[i].session->n + it[i].n_tok,
                              (long long)e->model.hp.n_ctx);
        total += it[i].n_tok;
    }
    if (total > e->opt.chunk)
        return hd_err_set(err, HD_ERR_USAGE, "step: %lld tokens; at most %lld expected", (long long)total, (long long)e->opt.chunk);
    *n_tok = total;
    return HD_OK;
}

/* Lays the step out: ids, positions, spans, pages. Sequences have their rows reserved already. */
static bool build_batch(struct hd_engine *e, struct hd_step_item *it, int n_item, int64_t n_tok, struct batch *out)
{
    int n_part = e->model.spec.n_part;
    int32_t *ids, *pos, *rows;
    struct hd_span *span;
    struct hd_paged *part;
    int64_t t = 0, n_out = 0;

    hd_arena_reset(&e->batch);
    ids = hd_arena_alloc(&e->batch, (size_t)n_tok * 4);
    pos = hd_arena_alloc(&e->batch, (size_t)n_tok * 4);
    rows = hd_arena_alloc(&e->batch, (size_t)n_tok * 4);
    span = hd_arena_alloc(&e->batch, (size_t)n_item * sizeof *span);
    part = hd_arena_alloc(&e->batch, (size_t)(n_item * n_part) * sizeof *part);
    if (!ids || !pos || !rows || !span || !part)
        return false;
    *out = (struct batch){.out_rows = rows};
    out->ragged = (struct hd_ragged){.n_tok = n_tok, .n_seq = n_item, .ids = ids, .pos = pos, .span = span, .part = part, .n_part = n_part, .encode = it[0].encode};
    for (int i = 0; i < n_item; i++) {
        struct hd_session *ss = it[i].session;

        span[i] = (struct hd_span){t, it[i].n_tok, (int64_t)ss->n, ss->raw0};
        for (int64_t k = 0; k < it[i].n_tok; k++, t++) {
            ids[t] = it[i].ids[k];
            pos[t] = (int32_t)((int64_t)ss->n + k);
            if (it[i].want == HD_WANT_ALL || (it[i].want == HD_WANT_LAST && k == it[i].n_tok - 1))
                rows[n_out++] = (int32_t)t;
        }
        if (span[i].pos0 + span[i].n_tok > out->ragged.max_pos)
            out->ragged.max_pos = span[i].pos0 + span[i].n_tok;
        for (int p = 0; p < n_part; p++)
            hd_seq_paged(ss->seq, p, &part[i * n_part + p]);
    }
    out->n_out = n_out;
    return true;
}

static void retract(struct hd_step_item *it, int n_item)
{
    for (int i = 0; i < n_item; i++)
        hd_seq_retract(it[i].session->seq, it[i].n_tok);
}

/* Reserves cache rows and id slots for every item; on failure takes back what it did. */
static int reserve(struct hd_step_item *it, int n_item, struct hd_err *err)
{
    for (int i = 0; i < n_item; i++) {
        struct hd_session *ss = it[i].session;
        int rc = hd_seq_append(ss->seq, it[i].n_tok, err);

        if (rc == HD_OK && !HD_GROW(ss->ids, ss->cap, ss->n + (size_t)it[i].n_tok, (size_t)1 << 31)) {
            hd_seq_retract(ss->seq, it[i].n_tok);
            rc = hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu token ids", ss->n + (size_t)it[i].n_tok);
        }
        if (rc < 0) {
            retract(it, i);
            return rc;
        }
    }
    return HD_OK;
}

void hd_engine_stream(struct hd_engine *e, struct hd_stream *s, const int32_t *ids, int64_t n)
{
    hd_arena_reset(&e->step);
    hd_stream_init(s, &e->backend, &e->step, e->opt.exact);
    s->profile = e->profile;
    s->trace = e->trace;
    s->trace_arg = e->trace_arg;
    if (e->experts) {
        hd_experts_step(e->experts, ids, n, e->stop, e->stop_arg);
        s->source = hd_experts_source(e->experts);
    }
}

int hd_engine_step(struct hd_engine *e, struct hd_step_item *it, int n_item, struct hd_err *err)
{
    struct hd_tensor *logits;
    struct hd_stream s;
    struct batch b;
    int64_t n_tok = 0, row = 0;
    int rc;

    HD_TRY(check_items(e, it, n_item, &n_tok, err));
    HD_TRY(reserve(it, n_item, err));
    if (!build_batch(e, it, n_item, n_tok, &b)) {
        retract(it, n_item);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a batch of %lld tokens", (long long)n_tok);
    }
    hd_engine_stream(e, &s, b.ragged.ids, n_tok);
    logits = e->model.arch->forward(&e->model, &s, &b.ragged, b.out_rows, b.n_out);
    rc = hd_stream_end(&s, err);
    for (int i = 0; i < n_item; i++) {
        struct hd_session *ss = it[i].session;

        if (rc < 0) {
            int64_t reached;

            hd_seq_rewind(ss->seq, (int64_t)ss->n, &reached, NULL);
            ss->n = (size_t)reached;          /* less only where rings were overwritten */
            ss->raw0 = ss->raw0 < reached ? ss->raw0 : reached;
            continue;
        }
        memcpy(ss->ids + ss->n, it[i].ids, (size_t)it[i].n_tok * sizeof *ss->ids);
        ss->n += (size_t)it[i].n_tok;
        if (it[i].encode)
            ss->raw0 = (int64_t)ss->n;
        it[i].logits = it[i].want == HD_WANT_NONE ? NULL : (const float *)((const char *)logits->data + row * logits->row_bytes);
        row += it[i].want == HD_WANT_ALL ? it[i].n_tok : it[i].want == HD_WANT_LAST;
    }
    if (rc == HD_OK)
        e->last = s.cost;
    return rc;
}
