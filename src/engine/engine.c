/* engine.c: see engine.h. */
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "engine/model_tokenizer.h"
#include "token/token_classes.h"
#include "weights/expert_pack.h"

#define CHUNK_DEFAULT 512
#define CTX_DEFAULT 8192
#define CHUNK_STREAMED 8192                   /* most tokens of a step that reads experts from disk */
#define MARGIN_MIN ((int64_t)256 << 20)       /* what a cache of experts leaves to the rest of the system, or a twentieth */
#define HEADROOM ((int64_t)64 << 20)          /* what the program itself may need beside the plan */

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

static void defaults(struct hd_engine_options *o, const struct hd_model *m)
{
    const struct hd_hparams *hp = &m->hp;

    if (!o->n_ctx) {
        double each = hd_cache_spec_token_bytes(&m->spec), room = each > 0 ? o->cache_share * (double)hd_mem_available() / each : 0, most = 8 * (double)hp->n_ctx;

        o->n_ctx = hp->n_ctx < CTX_DEFAULT ? hp->n_ctx : CTX_DEFAULT;
        room = room < most ? room : most;
        if (room > (double)o->n_ctx)
            o->n_ctx = (int64_t)room;
    }
    if (!o->chunk)
        o->chunk = CHUNK_DEFAULT;
    if (o->chunk > o->n_ctx)
        o->chunk = o->n_ctx;
}

/* Runs the model dry over one span: n_tok tokens from pos0, logits for n_out of them. meet: who is told of the weights met, or NULL. */
static int dry_run(const struct hd_model *m, enum hd_exact exact, int64_t pos0, int64_t n_tok, int64_t n_out, struct hd_cost *cost, const struct hd_meet *meet, struct hd_err *err)
{
    struct hd_span span = {.n_tok = n_tok, .pos0 = pos0};
    struct hd_ragged b = {.n_tok = n_tok, .n_seq = 1, .span = &span, .n_part = m->spec.n_part, .max_pos = pos0 + n_tok};
    struct hd_arena arena;
    struct hd_stream s;
    int rc;

    hd_arena_init(&arena, 0);
    hd_stream_init(&s, NULL, &arena, exact);
    if (meet)
        s.meet = *meet;
    m->arch->forward(m, &s, &b, NULL, n_out);
    rc = hd_stream_end(&s, err);
    *cost = s.cost;
    hd_arena_release(&arena);
    return rc;
}

/* The draft module over n_row rows of as many sequences as take them; meet as above. */
static int dry_draft(const struct hd_model *m, enum hd_exact exact, int64_t pos0, int64_t n_row, struct hd_cost *cost, const struct hd_meet *meet, struct hd_err *err)
{
    int64_t block = m->draft.block, n_seq = n_row / block > 0 ? n_row / block : 1;
    struct hd_span *span = hd_malloc((size_t)n_seq * sizeof *span);
    struct hd_ragged b = {.n_tok = n_seq * block, .n_seq = n_seq, .span = span, .n_part = m->spec.n_part, .max_pos = pos0 + block}, prev = b;
    struct hd_tensor *confidence;
    struct hd_draft_out out;
    struct hd_arena arena;
    struct hd_stream s;
    int rc;

    if (!span)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a plan of %lld sequences", (long long)n_seq);
    for (int64_t i = 0; i < n_seq; i++)
        span[i] = (struct hd_span){.tok0 = i * block, .n_tok = block, .pos0 = pos0};
    prev.n_tok = n_seq;
    hd_arena_init(&arena, 0);
    hd_stream_init(&s, NULL, &arena, exact);
    if (meet)
        s.meet = *meet;
    m->arch->draft(m, &s, &b, &out);
    if (!m->draft.chain)
        m->arch->next(m, &s, &prev, NULL, &out, &confidence);
    rc = hd_stream_end(&s, err);
    *cost = s.cost;
    hd_arena_release(&arena);
    hd_free(span);
    return rc;
}

static void add_weight_bytes(void *arg, const struct hd_tensor *w)
{
    *(int64_t *)arg += hd_tensor_bytes(w) + (w->scale.n_row ? w->scale.n_row * hd_row_bytes(w->scale.type, w->scale.n_col) : 0);
}

/* What a step of o->chunk tokens needs, whether all of them want logits or not. */
static int plan_step(const struct hd_model *m, const struct hd_engine_options *o, struct hd_plan *plan, struct hd_err *err)
{
    struct hd_cost all;

    HD_TRY(dry_run(m, o->exact, 0, o->chunk, 1, &plan->prefill, NULL, err));
    HD_TRY(dry_run(m, o->exact, 0, o->chunk, o->chunk, &all, NULL, err));
    plan->step_bytes = all.arena_peak > plan->prefill.arena_peak ? all.arena_peak : plan->prefill.arena_peak;
    if (m->draft.depth) {
        HD_TRY(dry_draft(m, o->exact, o->n_ctx, o->chunk, &plan->draft, NULL, err));
        plan->step_bytes = plan->draft.arena_peak > plan->step_bytes ? plan->draft.arena_peak : plan->step_bytes;
    }
    return HD_OK;
}

/* The steps of long prompts read every expert: the longer they are, the less is read for each token. */
static int longer_steps(const struct hd_model *m, struct hd_engine_options *o, struct hd_plan *plan, int64_t limit, struct hd_err *err)
{
    while (2 * o->chunk <= CHUNK_STREAMED && 2 * o->chunk <= o->n_ctx) {
        struct hd_engine_options next = *o;
        struct hd_plan p = *plan;

        next.chunk *= 2;
        HD_TRY(plan_step(m, &next, &p, err));
        if (p.step_bytes > limit / 8)
            break;
        *o = next;
        *plan = p;
    }
    return HD_OK;
}

int hd_engine_gather_experts(const struct hd_model *m, enum hd_exact exact, struct hd_experts *x, struct hd_err *err)
{
    struct hd_meet meet = {.arg = x, .experts = hd_experts_meet, .table = hd_experts_meet_table};
    struct hd_cost cost;

    HD_TRY(dry_run(m, exact, 0, 1, 1, &cost, &meet, err));
    hd_experts_draft(x);
    return m->draft.depth ? dry_draft(m, exact, 1, 1, &cost, &meet, err) : HD_OK;
}

/* Experts come from their pack where there is one that may be believed. Errors: one that was named is not there. */
static int take_pack(const struct hd_model *m, const struct hd_engine_options *o, struct hd_plan *plan, struct hd_experts *x, struct hd_err *err)
{
    struct hd_err why = {0};
    char *path;

    if (m->planned || o->exact != HD_EXACT_NONE || (o->pack && !strcmp(o->pack, "off")))      /* exact modes compute with rows as they lie */
        return HD_OK;
    path = o->pack ? hd_strdup(o->pack) : hd_expert_pack_path(&m->store);
    if (!path)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a pack's name");
    if (!o->pack && !hd_file_exists(path)) {
        hd_free(path);
        return HD_OK;
    }
    if (hd_experts_take_pack(x, &m->store, path, &why) < 0) {
        if (o->pack && !hd_file_exists(path)) {
            hd_free(path);
            return hd_err_set(err, why.code, "%s", why.msg);
        }
        snprintf(plan->pack_note, sizeof plan->pack_note, "%.399s", why.msg);
    }
    hd_free(path);
    plan->n_packed = hd_experts_packed(x);
    return HD_OK;
}

/* Experts on disk: what must be in memory, and what is left for a cache of experts. */
static int plan_experts(const struct hd_model *m, struct hd_engine_options *o, bool any_chunk, struct hd_plan *plan, int64_t limit, struct hd_experts *x, struct hd_err *err)
{
    struct hd_experts_size size;
    int64_t left;

    HD_TRY(hd_engine_gather_experts(m, o->exact, x, err));
    HD_TRY(hd_experts_size(x, &size, err));
    if (!size.n_expert)
        return HD_OK;
    HD_TRY(take_pack(m, o, plan, x, err));
    HD_TRY(hd_experts_size(x, &size, err));
    if (any_chunk)
        HD_TRY(longer_steps(m, o, plan, limit, err));
    plan->disk_bytes = size.bytes + size.table_bytes;
    plan->resident_bytes = plan->weight_bytes - plan->disk_bytes + size.reader_bytes;
    plan->slot_bytes = size.slot_bytes;
    plan->least_bytes = plan->resident_bytes + plan->cache_bytes + plan->step_bytes + HEADROOM + HD_EXPERTS_SLOTS_MIN * size.slot_bytes;
    left = limit - plan->least_bytes;
    plan->n_slot = left < 0 ? 0 : left / size.slot_bytes + HD_EXPERTS_SLOTS_MIN;
    if (left >= 0 && o->n_slot)
        plan->n_slot = o->n_slot;
    plan->n_slot = plan->n_slot < size.n_expert ? plan->n_slot : size.n_expert;
    return HD_OK;
}

static int64_t whole(const struct hd_plan *p)
{
    return p->weight_bytes + p->cache_bytes + p->step_bytes + HEADROOM;
}

/* What may be used: what the caller says, what the machine has. Experts in a cache leave a margin to the rest of the system. */
static int64_t memory_limit(const struct hd_engine_options *o, int64_t available)
{
    if (o->memory)
        return available && available < o->memory ? available : o->memory;
    return available ? available : INT64_MAX;
}

/* any_chunk: o->chunk is nobody's wish. *x: the experts' directory where not everything fits, else NULL. */
static int make_plan(const struct hd_model *m, struct hd_engine_options *o, bool any_chunk, int64_t n_seq, struct hd_plan *plan, struct hd_experts **x, struct hd_err *err)
{
    int64_t limit, margin;

    *x = NULL;
    memset(plan, 0, sizeof *plan);
    m->arch->each_weight(m, add_weight_bytes, &plan->weight_bytes);
    if (m->draft.depth)
        m->arch->each_draft(m, add_weight_bytes, &plan->weight_bytes);
    HD_TRY(dry_run(m, o->exact, o->n_ctx - 1, 1, 1, &plan->decode, NULL, err));
    HD_TRY(plan_step(m, o, plan, err));
    plan->cache_bytes = hd_cache_spec_bytes(&m->spec, o->n_ctx, n_seq);
    plan->available_bytes = hd_mem_available();
    limit = memory_limit(o, plan->available_bytes);
    margin = o->memory ? 0 : limit / 20 > MARGIN_MIN ? limit / 20 : MARGIN_MIN;
    plan->chunk = o->chunk;
    if (whole(plan) <= limit && !o->n_slot)
        return HD_OK;
    HD_TRY(hd_experts_create(x, o->exact != HD_EXACT_NONE, err));
    HD_TRY(plan_experts(m, o, any_chunk, plan, limit - margin, *x, err));
    plan->chunk = o->chunk;
    if (!plan->slot_bytes && whole(plan) <= limit) {          /* no experts */
        hd_experts_free(*x);
        *x = NULL;
    }
    return HD_OK;
}

int hd_engine_plan(const struct hd_model *m, const struct hd_engine_options *opt, int64_t n_seq, struct hd_plan *plan, struct hd_err *err)
{
    struct hd_engine_options o = *opt;
    struct hd_experts *x;
    int rc;

    defaults(&o, m);
    rc = make_plan(m, &o, !opt->chunk, n_seq, plan, &x, err);
    hd_experts_free(x);
    return rc;
}

static int no_memory(const struct hd_plan *p, const struct hd_engine_options *o, struct hd_err *err)
{
    char w[32], c[32], s[32], n[32], a[32], r[32];

    hd_fmt_bytes(c, p->cache_bytes);
    hd_fmt_bytes(s, p->step_bytes);
    hd_fmt_bytes(a, memory_limit(o, p->available_bytes));
    if (!p->slot_bytes)
        return hd_err_set(err, HD_ERR_MEMORY, "not enough memory: weights %s + cache for %lld tokens %s + step of %lld tokens %s = %s, but %s is available (--ctx makes the cache smaller)",
                          hd_fmt_bytes(w, p->weight_bytes), (long long)o->n_ctx, c, (long long)o->chunk, s, hd_fmt_bytes(n, whole(p)), a);
    return hd_err_set(err, HD_ERR_MEMORY,
                      "not enough memory even with experts on disk: %s of other weights + cache for %lld tokens %s + step of %lld tokens %s + at least %d experts %s = %s, but %s "
                      "is available (--ctx and --chunk make it less)",
                      hd_fmt_bytes(w, p->resident_bytes), (long long)o->n_ctx, c, (long long)o->chunk, s, HD_EXPERTS_SLOTS_MIN,
                      hd_fmt_bytes(r, HD_EXPERTS_SLOTS_MIN * p->slot_bytes),
                      hd_fmt_bytes(n, p->least_bytes), a);
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
    HD_TRY(dry_run(&e->model, e->opt.exact, 0, 1, 1, &cost, &meet, err));
    if (e->model.draft.depth)
        HD_TRY(dry_draft(&e->model, e->opt.exact, 1, 1, &cost, &meet, err));
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
    HD_TRY(hd_model_open(&e->model, path, opt->exact ? HD_KV_F32 : opt->kv, opt->draft ? HD_MODEL_DRAFT : 0, err));
    defaults(&e->opt, &e->model);
    if ((rc = give_classes(&e->model, path, err)) < 0 || (rc = make_plan(&e->model, &e->opt, !opt->chunk, 1, &e->plan, &e->experts, err)) < 0 ||
        (e->experts && !e->plan.n_slot && (rc = no_memory(&e->plan, &e->opt, err)) < 0))
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

/* ---- sessions ---- */

int hd_session_open(struct hd_session *ss, struct hd_engine *e, struct hd_err *err)
{
    memset(ss, 0, sizeof *ss);
    ss->engine = e;
    return hd_seq_create(&e->cache, &ss->seq, err);
}

void hd_session_close(struct hd_session *ss)
{
    if (ss->seq)
        hd_seq_free(ss->seq);
    hd_free(ss->ids);
    memset(ss, 0, sizeof *ss);
}

int hd_session_rewind(struct hd_session *ss, int64_t n, struct hd_err *err)
{
    int64_t reached;

    if (n < 0 || n > (int64_t)ss->n)
        return hd_err_set(err, HD_ERR_USAGE, "rewind to token %lld of a session of %zu", (long long)n, ss->n);
    HD_TRY(hd_seq_rewind(ss->seq, n, &reached, err));
    ss->n = (size_t)reached;
    if (ss->raw0 > reached)
        ss->raw0 = reached;
    if (reached < n) {
        /* the cache spec could not restore this point: recompute from the nearest one */
        int64_t missing = n - reached;
        int32_t *again = hd_malloc((size_t)missing * sizeof *again);
        int rc;

        if (!again)
            return hd_err_set(err, HD_ERR_MEMORY, "no memory to recompute %lld tokens", (long long)missing);
        memcpy(again, ss->ids + reached, (size_t)missing * sizeof *again);
        rc = hd_session_feed(ss, again, missing, NULL, NULL, NULL, err);
        hd_free(again);
        return rc;
    }
    return HD_OK;
}

int hd_session_fork(struct hd_session *to, struct hd_session *from, struct hd_err *err)
{
    memset(to, 0, sizeof *to);
    to->engine = from->engine;
    HD_TRY(hd_seq_fork(from->seq, &to->seq, err));
    if (!HD_GROW(to->ids, to->cap, from->n + 1, (size_t)1 << 31)) {
        hd_session_close(to);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu token ids", from->n);
    }
    if (from->n)
        memcpy(to->ids, from->ids, from->n * sizeof *to->ids);
    to->n = from->n;
    to->raw0 = from->raw0;
    return HD_OK;
}

static void to_file(void *arg, const void *p, size_t n)
{
    hd_out_write(arg, p, n);
}

int hd_session_save(struct hd_session *ss, const char *path, struct hd_err *err)
{
    struct hd_out out;

    if (ss->raw0 > 0 && (int64_t)ss->n - ss->raw0 < ss->engine->model.shortcut)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: the session ends where a prefill shortcut left it; %lld more tokens make it whole", path,
                          (long long)(ss->raw0 + ss->engine->model.shortcut - (int64_t)ss->n));
    HD_TRY(hd_out_open(&out, path, err));
    hd_seq_save(ss->seq, ss->ids, ss->n * sizeof *ss->ids, to_file, &out);
    return hd_out_commit(&out, err);
}

int hd_session_take_ids(struct hd_session *ss, const void *blob, size_t n_blob, struct hd_err *err)
{
    size_t n = n_blob / sizeof *ss->ids;

    if (n_blob % sizeof *ss->ids || (int64_t)n != hd_seq_len(ss->seq))
        return hd_err_set(err, HD_ERR_FORMAT, "snapshot: holds %zu bytes of ids for %lld tokens", n_blob, (long long)hd_seq_len(ss->seq));
    if (!HD_GROW(ss->ids, ss->cap, n + 1, (size_t)1 << 31))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu token ids", n);
    memcpy(ss->ids, blob, n_blob);
    for (size_t i = 0; i < n; i++)
        if (ss->ids[i] < 0 || ss->ids[i] >= ss->engine->model.hp.n_vocab)
            return hd_err_set(err, HD_ERR_FORMAT, "snapshot: token %zu: found id %d; expected 0 to %lld", i, ss->ids[i], (long long)ss->engine->model.hp.n_vocab - 1);
    ss->n = n;
    return HD_OK;
}

int hd_session_load(struct hd_session *ss, const char *path, struct hd_err *err)
{
    struct hd_file_map map;
    const void *blob;
    size_t n_blob;
    int rc;

    HD_TRY(hd_session_rewind(ss, 0, err));
    HD_TRY(hd_file_map(&map, path, err));
    rc = hd_seq_load(ss->seq, map.data, map.n, &blob, &n_blob, err);
    if (rc == HD_OK && (rc = hd_session_take_ids(ss, blob, n_blob, err)) < 0)
        hd_seq_rewind(ss->seq, 0, NULL, NULL);
    hd_file_unmap(&map);
    return rc < 0 ? hd_err_prepend(err, "%s", path) : HD_OK;
}

/* A step that waits for the disk asks the caller whether it still wants it. */
struct feeding {
    hd_progress_fn progress;
    void *arg;
    int64_t done, n;
};

static bool unwanted(void *arg)
{
    const struct feeding *f = arg;

    return !f->progress(f->arg, f->done, f->n);
}

static int feed_step(struct hd_engine *e, struct hd_step_item *it, struct feeding *f, struct hd_err *err)
{
    int rc;

    e->stop = f->progress ? unwanted : NULL;
    e->stop_arg = f;
    rc = hd_engine_step(e, it, 1, err);
    e->stop = NULL;
    return rc;
}

int hd_session_feed(struct hd_session *ss, const int32_t *ids, int64_t n, hd_progress_fn progress, void *arg, const float **logits, struct hd_err *err)
{
    for (int64_t done = 0; done < n;) {
        const struct hd_engine *e = ss->engine;
        int64_t left = n - done, chunk = e->opt.chunk, whole = e->opt.shortcut && e->model.shortcut ? e->model.shortcut : left;
        bool encode = left > whole;

        if (encode && chunk > left - whole)
            chunk = left - whole;

        struct hd_step_item it = {.session = ss, .ids = ids + done, .n_tok = left < chunk ? left : chunk, .encode = encode};

        it.want = logits && it.n_tok == left ? HD_WANT_LAST : HD_WANT_NONE;
        HD_TRY(feed_step(ss->engine, &it, &(struct feeding){progress, arg, done, n}, err));
        done += it.n_tok;
        if (it.want == HD_WANT_LAST)
            *logits = it.logits;
        if (progress && !progress(arg, done, n) && done < n)
            return hd_err_set(err, HD_ERR_CANCELLED, "cancelled after %lld of %lld tokens", (long long)done, (long long)n);
    }
    return HD_OK;
}
