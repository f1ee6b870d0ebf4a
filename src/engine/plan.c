/* plan.c: what weights, cache and steps will take, told by the model code itself, run dry, before anything is loaded. See engine.h. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "engine/engine_inside.h"
#include "weights/expert_pack.h"

#define CHUNK_DEFAULT 512
#define CTX_DEFAULT 8192
#define CHUNK_STREAMED 8192                   /* most tokens of a step that reads experts from disk */
#define MARGIN_MIN ((int64_t)256 << 20)       /* what a cache of experts leaves to the rest of the system, or a twentieth */
#define HEADROOM ((int64_t)64 << 20)          /* what the program itself may need beside the plan */

void hd_engine_defaults(struct hd_engine_options *o, const struct hd_model *m)
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

int hd_engine_dry_run(const struct hd_model *m, enum hd_exact exact, int64_t pos0, int64_t n_tok, int64_t n_out, struct hd_cost *cost, const struct hd_meet *meet, struct hd_err *err)
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

int hd_engine_dry_draft(const struct hd_model *m, enum hd_exact exact, int64_t pos0, int64_t n_row, struct hd_cost *cost, const struct hd_meet *meet, struct hd_err *err)
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

    HD_TRY(hd_engine_dry_run(m, o->exact, 0, o->chunk, 1, &plan->prefill, NULL, err));
    HD_TRY(hd_engine_dry_run(m, o->exact, 0, o->chunk, o->chunk, &all, NULL, err));
    plan->step_bytes = all.arena_peak > plan->prefill.arena_peak ? all.arena_peak : plan->prefill.arena_peak;
    if (m->draft.depth) {
        HD_TRY(hd_engine_dry_draft(m, o->exact, o->n_ctx, o->chunk, &plan->draft, NULL, err));
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

    HD_TRY(hd_engine_dry_run(m, exact, 0, 1, 1, &cost, &meet, err));
    hd_experts_draft(x);
    return m->draft.depth ? hd_engine_dry_draft(m, exact, 1, 1, &cost, &meet, err) : HD_OK;
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

int hd_engine_make_plan(const struct hd_model *m, struct hd_engine_options *o, bool any_chunk, int64_t n_seq, struct hd_plan *plan, struct hd_experts **x, struct hd_err *err)
{
    int64_t limit, margin;

    *x = NULL;
    memset(plan, 0, sizeof *plan);
    plan->draft_note = m->draft_note;
    m->arch->each_weight(m, add_weight_bytes, &plan->weight_bytes);
    if (m->draft.depth)
        m->arch->each_draft(m, add_weight_bytes, &plan->weight_bytes);
    HD_TRY(hd_engine_dry_run(m, o->exact, o->n_ctx - 1, 1, 1, &plan->decode, NULL, err));
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

    hd_engine_defaults(&o, m);
    rc = hd_engine_make_plan(m, &o, !opt->chunk, n_seq, plan, &x, err);
    hd_experts_free(x);
    return rc;
}

int hd_engine_no_memory(const struct hd_plan *p, const struct hd_engine_options *o, struct hd_err *err)
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
