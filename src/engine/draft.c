/* draft.c: see draft.h. */
#include "engine/draft.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

#define LOOK_MIN 2                    /* tokens that must be the same before one is believed to follow */
#define LOOK_MAX 24                   /* as good as it gets */

int64_t hd_draft_lookup(const int32_t *ids, int64_t n, int64_t depth, int32_t *out)
{
    int64_t best = LOOK_MIN - 1, at = -1, k;

    for (int64_t i = n - 1; i-- > LOOK_MIN - 1 && best < LOOK_MAX;) {
        if (ids[i] != ids[n - 1])
            continue;
        for (k = 1; k <= i && k < LOOK_MAX && ids[i - k] == ids[n - 1 - k]; k++) {
        }
        if (k > best) {
            best = k;
            at = i + 1;
        }
    }
    for (k = 0; at >= 0 && k < depth; k++)
        out[k] = at + k < n ? ids[at + k] : out[at + k - n];      /* what repeats goes on repeating */
    return k;
}

/* ---- the draft module ---- */

/* A pass of the module: what is alive is in the engine's two arenas. */
struct pass {
    struct hd_engine *e;
    struct hd_stream s;
    struct hd_ragged b, prev;         /* prev: a token an item, without places */
    struct hd_draft_item **item;      /* those that take part */
    int n;
    int32_t *ids, *pos, *rows, *prev_ids;
    struct hd_span *span;
    struct hd_paged *part;
    double *odds;                     /* that everything proposed so far stands, by the module's own word */
};

static bool alloc(struct pass *p, int n_item)
{
    struct hd_arena *a = &p->e->batch;
    size_t n = (size_t)n_item, block = (size_t)p->e->model.draft.block;

    hd_arena_reset(a);
    p->item = hd_arena_alloc(a, n * sizeof *p->item);
    p->ids = hd_arena_alloc(a, n * block * sizeof *p->ids);
    p->pos = hd_arena_alloc(a, n * block * sizeof *p->pos);
    p->rows = hd_arena_alloc(a, n * sizeof *p->rows);
    p->prev_ids = hd_arena_alloc(a, n * sizeof *p->prev_ids);
    p->span = hd_arena_alloc(a, n * sizeof *p->span);
    p->part = hd_arena_alloc(a, n * (size_t)p->e->model.spec.n_part * sizeof *p->part);
    p->odds = hd_arena_alloc(a, n * sizeof *p->odds);
    return p->item && p->ids && p->pos && p->rows && p->prev_ids && p->span && p->part && p->odds;
}

/* The batch of the items' tokens at ids[n - 1 + ahead]: one each, or a block that noise fills. */
static void lay_out(struct pass *p, int64_t ahead)
{
    const struct hd_model *m = &p->e->model;
    int64_t block = m->draft.block;

    p->b = (struct hd_ragged){.n_tok = p->n * block, .n_seq = p->n, .ids = p->ids, .pos = p->pos, .span = p->span, .part = p->part, .n_part = m->spec.n_part};
    for (int i = 0; i < p->n; i++) {
        const struct hd_draft_item *it = p->item[i];
        int64_t pos0 = it->n - 1 + ahead;

        p->span[i] = (struct hd_span){i * block, block, pos0, it->session->raw0};
        for (int64_t k = 0; k < block; k++) {
            p->ids[i * block + k] = k ? m->draft.noise : it->ids[pos0];
            p->pos[i * block + k] = (int32_t)(pos0 + k);
        }
        p->b.max_pos = pos0 + block > p->b.max_pos ? pos0 + block : p->b.max_pos;
        for (int k = 0; k < m->spec.n_part; k++)
            hd_seq_paged(it->session->seq, k, &p->part[i * m->spec.n_part + k]);
    }
}

/* The items' next proposals, from a row of logits each. */
static int choose(struct pass *p, struct hd_sampler *sm, const struct hd_tensor *logits, const struct hd_tensor *confidence, double threshold, struct hd_err *err)
{
    for (int i = 0; i < p->n; i++) {
        struct hd_draft_item *it = p->item[i];
        struct hd_pick pick;

        if (confidence)
            p->odds[i] /= 1 + exp(-(double)*(const float *)((const char *)confidence->data + i * confidence->row_bytes));
        if (it->n_draft == it->depth || (confidence && p->odds[i] < threshold)) {
            it->depth = it->n_draft;          /* it goes along until all are done */
            continue;
        }
        sm->params = *it->sample;
        sm->params.n_logprob = -1;
        sm->rng = it->rng;
        HD_TRY(hd_sampler_pick(sm, (const float *)((const char *)logits->data + i * logits->row_bytes), it->ids, it->n + it->n_draft, &pick, err));
        it->rng = sm->rng;
        it->ids[it->n + it->n_draft++] = pick.id;
    }
    return HD_OK;
}

static int64_t most(const struct pass *p)
{
    int64_t n = 0;

    for (int i = 0; i < p->n; i++)
        n = p->item[i]->depth > n ? p->item[i]->depth : n;
    return n;
}

/* Token after token: each is a pass, fed with the one before. */
static int run_chain(struct pass *p, struct hd_sampler *sm, struct hd_err *err)
{
    const struct hd_model *m = &p->e->model;
    struct hd_draft_out out;

    for (int64_t k = 0; k < most(p); k++) {
        int n = 0;

        for (int i = 0; i < p->n; i++)        /* only those that still want something */
            if (p->item[i]->depth > k)
                p->item[n++] = p->item[i];
        p->n = n;
        hd_arena_reset(&p->e->step);
        hd_stream_init(&p->s, &p->e->backend, &p->e->step, p->e->opt.exact);
        p->s.trace = p->e->trace;
        p->s.trace_arg = p->e->trace_arg;
        lay_out(p, k);
        m->arch->draft(m, &p->s, &p->b, &out);
        HD_TRY(hd_stream_end(&p->s, err));
        HD_TRY(choose(p, sm, out.logits, NULL, 0, err));
    }
    return HD_OK;
}

/* A block at once: then its rows in order, each knowing the token before. */
static int run_block(struct pass *p, struct hd_sampler *sm, double threshold, struct hd_err *err)
{
    const struct hd_model *m = &p->e->model;
    struct hd_draft_out out;

    hd_arena_reset(&p->e->step);
    hd_stream_init(&p->s, &p->e->backend, &p->e->step, p->e->opt.exact);
    p->s.trace = p->e->trace;
    p->s.trace_arg = p->e->trace_arg;
    lay_out(p, 0);
    for (int i = 0; i < p->n; i++)
        p->odds[i] = 1;
    m->arch->draft(m, &p->s, &p->b, &out);
    p->prev = (struct hd_ragged){.n_tok = p->n, .n_seq = p->n, .ids = p->prev_ids};
    for (int64_t k = 0; k < most(p); k++) {
        struct hd_stream_mark mark = hd_stream_mark(&p->s);
        struct hd_tensor *logits, *confidence;

        for (int i = 0; i < p->n; i++) {
            const struct hd_draft_item *it = p->item[i];

            p->rows[i] = (int32_t)(i * m->draft.block + k);
            p->prev_ids[i] = it->ids[it->n - 1 + it->n_draft];
        }
        logits = m->arch->next(m, &p->s, &p->prev, p->rows, &out, &confidence);
        hd_trace(&p->s, logits, "draft.logits.%d", (int)k);
        hd_trace(&p->s, confidence, "draft.confidence.%d", (int)k);
        HD_TRY(hd_stream_end(&p->s, err));
        HD_TRY(choose(p, sm, logits, confidence, threshold, err));
        hd_stream_rewind(&p->s, mark);
    }
    return HD_OK;
}

/* MTP's further rows lie behind what the session holds. */
static bool reserve(const struct hd_engine *e, struct hd_draft_item *it)
{
    if (it->depth > e->model.draft.depth)
        it->depth = e->model.draft.depth;
    if (it->depth > e->model.hp.n_ctx - it->n)
        it->depth = e->model.hp.n_ctx - it->n;
    return it->depth > 0 && it->n > 1 && (!e->model.draft.chain || hd_seq_append(it->session->seq, it->depth, NULL) == HD_OK);
}

int hd_draft_run(struct hd_engine *e, struct hd_sampler *scratch, struct hd_draft_item *it, int n_item, double threshold, struct hd_err *err)
{
    struct hd_sample_params params = scratch->params;
    struct hd_rng rng = scratch->rng;
    struct pass p = {.e = e};
    int rc = HD_OK;

    for (int i = 0; i < n_item; i++)
        it[i].n_draft = 0;
    if (!e->model.draft.depth)
        return HD_OK;
    if (!alloc(&p, n_item))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for drafts of %d sequences", n_item);
    for (int i = 0; i < n_item; i++)
        if ((p.n + 1) * e->model.draft.block <= e->opt.chunk && reserve(e, &it[i]))
            p.item[p.n++] = &it[i];
    if (p.n)
        rc = e->model.draft.chain ? run_chain(&p, scratch, err) : run_block(&p, scratch, threshold, err);
    for (int i = 0; i < n_item; i++)
        if (hd_seq_len(it[i].session->seq) > (int64_t)it[i].session->n)
            hd_seq_rewind(it[i].session->seq, (int64_t)it[i].session->n, NULL, NULL);
    scratch->params = params;
    scratch->rng = rng;
    return rc;
}
