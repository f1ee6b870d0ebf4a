/* trainer.c: see trainer.h. */
#include "train/trainer.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "train/gain.h"
#include "train/quant.h"

#define SLACK 65536

/* ---- sizes ---- */

static struct hd_learn learning(const struct hd_trainer_hp *hp, uint32_t draw)
{
    struct hd_learn l = {.index_dense = hp->index_dense, .draw = draw};

    memcpy(l.weight, hp->learn, sizeof l.weight);
    return l;
}

/* Runs the model dry over a full batch of n_seq sequences. */
static int dry(const struct hd_model *m, const struct hd_trainer_hp *hp, int64_t n_seq, struct hd_cost *cost, struct hd_err *err)
{
    struct hd_loader l = {.batch_tokens = hp->batch_tokens, .max_seq = n_seq};
    struct hd_ragged r;
    struct hd_batch b;
    struct hd_stream s;
    struct hd_arena arena;
    struct hd_tape none;
    struct hd_learn learn = learning(hp, 0);
    int rc;

    learn.index_dense = false;        /* which needs more: validation, and stages of a task, choose */
    HD_TRY(hd_batch_init(&b, &l, err));
    for (int64_t i = 0; i < n_seq; i++) {
        int64_t first = hp->batch_tokens * i / n_seq, end = hp->batch_tokens * (i + 1) / n_seq;

        b.span[i] = (struct hd_span){.tok0 = first, .n_tok = end - first};
        for (int64_t t = first; t < end; t++) {
            b.id[t] = b.target[t] = 0;
            b.pos[t] = (int32_t)(t - first);
            b.row[t] = (int32_t)t;
        }
    }
    r = (struct hd_ragged){.n_tok = hp->batch_tokens, .n_seq = n_seq, .ids = b.id, .pos = b.pos, .span = b.span, .max_pos = (hp->batch_tokens + n_seq - 1) / n_seq};
    hd_tape_init(&none);
    if (hp->again)
        HD_TRY(hd_tape_layers(&none, 0, err));
    hd_arena_init(&arena, 0);
    hd_stream_init(&s, NULL, &arena, HD_EXACT_F32);
    s.tape = &none;                   /* keeps every tensor, as a step does */
    s.target = b.target;
    s.learn = &learn;
    m->arch->forward(m, &s, &r, b.row, hp->batch_tokens);
    rc = hd_stream_end(&s, err);
    *cost = s.cost;
    hd_arena_release(&arena);
    hd_tape_release(&none);
    hd_batch_release(&b);
    return rc;
}

static int64_t most_sequences(const struct hd_trainer_hp *hp)
{
    return hp->batch_tokens / 16 + 8;
}

/* What a step needs at most: its batch may be of whole contexts, or of many short documents. flops: of whole contexts. */
static int step_cost(const struct hd_model *m, const struct hd_trainer_hp *hp, struct hd_cost *cost, struct hd_err *err)
{
    int64_t whole = (hp->batch_tokens + hp->context - 1) / hp->context;
    struct hd_cost many;

    HD_TRY(dry(m, hp, whole, cost, err));
    HD_TRY(dry(m, hp, most_sequences(hp) < hp->batch_tokens ? most_sequences(hp) : hp->batch_tokens, &many, err));
    cost->arena_peak = (many.arena_peak > cost->arena_peak ? many.arena_peak : cost->arena_peak) + SLACK;
    cost->layer_peak = (many.layer_peak > cost->layer_peak ? many.layer_peak : cost->layer_peak) + (hp->again ? SLACK : 0);
    return HD_OK;
}

int hd_trainer_plan(const struct hd_model *m, const struct hd_trainer_hp *hp, struct hd_trainer_plan *plan, struct hd_err *err)
{
    struct hd_cost c;

    memset(plan, 0, sizeof *plan);
    HD_TRY(step_cost(m, hp, &c, err));
    plan->flops = c.flops;
    plan->step = 2 * (c.arena_peak + c.layer_peak) + (c.arena_peak + c.layer_peak) / 32;
    plan->kept = c.arena_peak * 3 / 2 + 2 * c.layer_peak + 3 * c.layer_in;  /* what is overwritten, and scratch: they grow as they must; as measured */
    plan->weights = hd_params_bytes(m);
    plan->optim = hd_optim_bytes(m, &hp->optim);
    plan->cache = 2 * hd_cache_spec_bytes(&m->spec, 2 * hp->batch_tokens, most_sequences(hp));
    plan->total = plan->weights + plan->optim + plan->step + plan->kept + plan->cache;
    return HD_OK;
}

/* ---- opening ---- */

/* Every page of the cache gets a place for gradients. */
static int open_cache(struct hd_trainer *t, struct hd_err *err)
{
    const struct hd_cache_spec *spec = &t->m->spec;
    struct hd_seq *all = NULL;
    struct hd_paged paged;
    int64_t n_page;
    int rc = HD_OK;

    /* a sequence wastes at most a page */
    HD_TRY(hd_cache_init(&t->cache, spec, t->hp.batch_tokens, err));
    t->cache.n_page_max += t->max_seq;
    n_page = t->cache.n_page_max;
    t->part = hd_calloc((size_t)(t->max_seq * spec->n_part), sizeof *t->part);
    t->seq = hd_calloc((size_t)t->max_seq, sizeof(struct hd_seq *));
    if (!t->part || !t->seq)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %lld sequences", (long long)t->max_seq);
    for (int p = 0; p < spec->n_part; p++) {
        if (spec->part[p].kind != HD_PART_PAGED)
            continue;
        t->n_page_grad = (size_t)(n_page * t->cache.page_bytes);
        if (!(t->page_grad = hd_pages_alloc(t->n_page_grad)))
            return hd_err_set(err, HD_ERR_MEMORY, "no memory for gradients of %lld cache pages", (long long)n_page);
        rc = hd_seq_create(&t->cache, &all, err);
        if (rc == HD_OK)
            rc = hd_seq_append(all, n_page * t->cache.page_tokens, err);
        if (rc == HD_OK)
            hd_seq_paged(all, p, &paged);
        for (int64_t i = 0; rc == HD_OK && i < n_page; i++)
            rc = hd_tape_range(&t->tape, paged.page[i], t->page_grad + i * t->cache.page_bytes, (size_t)t->cache.page_bytes, false, err);
        if (all)
            hd_seq_free(all);
        break;
    }
    return rc;
}

static int open_step(struct hd_trainer *t, struct hd_err *err)
{
    struct hd_cost c;

    HD_TRY(step_cost(t->m, &t->hp, &c, err));
    t->n_step = (size_t)(c.arena_peak + 4095) / 4096 * 4096;
    if (t->hp.again)
        HD_TRY(hd_tape_layers(&t->tape, (size_t)c.layer_peak, err));
    hd_arena_init(&t->step, t->n_step);
    t->step_grad = hd_pages_alloc(t->n_step);
    if (!t->step_grad || !hd_arena_reserve(&t->step, t->n_step) || !(t->step_base = hd_arena_alloc(&t->step, 64)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a step of %zu bytes and its gradients", t->n_step);
    hd_arena_reset(&t->step);
    return hd_tape_range(&t->tape, t->step_base, t->step_grad, t->n_step, true, err);
}

/* Gradients of weights need no clearing; but a step touches only some rows of a table. */
static int blank_gradients(struct hd_trainer *t, struct hd_err *err)
{
    for (int i = 0; i < t->ps.n; i++)
        if (hd_param_learns(&t->ps.p[i]) && !t->ps.p[i].touched)
            HD_TRY(hd_tape_blank(&t->tape, t->ps.p[i].grad, (size_t)t->ps.p[i].n * sizeof(float), err));
    return HD_OK;
}

int hd_trainer_open(struct hd_trainer *t, struct hd_model *m, const struct hd_trainer_hp *hp, struct hd_pool *pool, const struct hd_backend *be, struct hd_err *err)
{
    int rc;

    memset(t, 0, sizeof *t);
    *t = (struct hd_trainer){.hp = *hp, .m = m, .pool = pool, .be = be, .max_seq = most_sequences(hp), .balance = {.speed = hp->bias_speed, .alpha = hp->balance, .sign = hp->bias_sign}};
    hd_tape_init(&t->tape);
    rc = hd_params_take(&t->ps, m, err);
    if (rc == HD_OK)
        rc = hd_optim_init(&t->optim, &hp->optim, &t->ps, pool, be, err);
    t->optim.ns.bf16 = hp->bf16;
    if (rc == HD_OK)
        rc = hd_tape_range(&t->tape, t->ps.w, t->ps.grad, t->ps.n_float * sizeof(float), false, err);
    if (rc == HD_OK)
        rc = blank_gradients(t, err);
    if (rc == HD_OK)
        rc = open_step(t, err);
    if (rc == HD_OK)
        rc = open_cache(t, err);
    if (rc < 0)
        hd_trainer_close(t);
    return rc;
}

void hd_trainer_close(struct hd_trainer *t)
{
    for (int64_t i = 0; t->seq && i < t->max_seq; i++)
        if (t->seq[i])
            hd_seq_free(t->seq[i]);
    hd_free(t->seq);
    hd_free(t->part);
    if (t->cache.spec)
        hd_cache_release(&t->cache);
    hd_pages_free(t->page_grad, t->n_page_grad);
    hd_pages_free(t->step_grad, t->n_step);
    hd_arena_release(&t->step);
    hd_tape_release(&t->tape);
    hd_balance_release(&t->balance);
    hd_balance_release(&t->seen);
    hd_optim_release(&t->optim);
    hd_params_release(&t->ps);
    memset(t, 0, sizeof *t);
}

/* ---- a batch ---- */

static int lay_out(struct hd_trainer *t, const struct hd_batch *b, struct hd_ragged *r, struct hd_err *err)
{
    int n_part = t->m->spec.n_part;

    HD_ASSERT(b->n_seq <= t->max_seq && b->n_tok <= t->hp.batch_tokens);
    for (int64_t i = 0; i < t->max_seq; i++)
        if (t->seq[i])
            HD_TRY(hd_seq_rewind(t->seq[i], 0, NULL, err));
    for (int64_t i = 0; i < b->n_seq; i++) {
        if (!t->seq[i])
            HD_TRY(hd_seq_create(&t->cache, &t->seq[i], err));
        HD_TRY(hd_seq_append(t->seq[i], b->span[i].n_tok, err));
        for (int p = 0; p < n_part; p++)
            hd_seq_paged(t->seq[i], p, &t->part[i * n_part + p]);
    }
    *r = (struct hd_ragged){.n_tok = b->n_tok, .n_seq = b->n_seq, .ids = b->id, .pos = b->pos, .span = b->span, .part = t->part, .n_part = n_part, .max_pos = b->max_len};
    return HD_OK;
}

/* The first named tensor that holds something that is no number. */
struct suspect {
    char name[128];
};

static void look_at(void *arg, const char *name, const struct hd_tensor *x)
{
    struct suspect *s = arg;

    if (s->name[0] || x->type != HD_F32)
        return;
    for (int64_t r = 0; r < hd_rows(x); r++)
        for (int64_t i = 0; i < hd_cols(x); i++)
            if (!isfinite(((const float *)((const char *)x->data + r * x->row_bytes))[i])) {
                snprintf(s->name, sizeof s->name, "%s", name);
                return;
            }
}

/* learn: NULL when nothing does, as in evaluations. */
static const struct hd_tensor *forward(struct hd_trainer *t, struct hd_stream *s, const struct hd_ragged *r, const struct hd_batch *b, struct hd_learn *learn)
{
    hd_arena_reset(&t->step);
    hd_stream_init(s, t->be, &t->step, HD_EXACT_F32);
    s->target = b->target;
    s->learn = learn;
    s->profile = learn ? t->profile : NULL;
    s->soft = learn ? t->soft : NULL;
    hd_tape_begin(&t->tape);
    t->tape.bf16 = t->hp.bf16 && learn;
    s->tape = &t->tape;
    return t->m->arch->forward(t->m, s, r, b->row, b->n_tok);
}

static int not_finite(struct hd_trainer *t, const struct hd_ragged *r, const struct hd_batch *b, struct hd_err *err)
{
    struct suspect who = {""};
    struct hd_arena arena;
    struct hd_stream s;

    hd_arena_init(&arena, 0);
    hd_stream_init(&s, t->be, &arena, HD_EXACT_F32);
    s.target = b->target;
    s.trace = look_at;
    s.trace_arg = &who;
    t->m->arch->forward(t->m, &s, r, b->row, b->n_tok);
    hd_arena_release(&arena);
    return hd_err_set(err, HD_ERR_FORMAT, "the loss is not finite; the first tensor that is not is %s", who.name[0] ? who.name : "the loss itself");
}

static double sum_losses(const struct hd_tensor *x)
{
    double sum = 0;

    for (int64_t i = 0; i < hd_rows(x); i++)
        sum += (double)((const float *)x->data)[i];
    return sum;
}

/* Gives every other loss its gradient, as a mean over its own targets, and adds up what it was. */
static double seed_learning(struct hd_trainer *t, const struct hd_stream *s, const struct hd_learn *l, const struct hd_batch *b)
{
    double all = 0, n_layer = 0;

    for (int i = 0; i < l->n; i++)
        n_layer += l->loss[i].kind == HD_LEARN_INDEX;
    for (int i = 0; i < l->n; i++) {
        const struct hd_tensor *x = l->loss[i].loss;
        struct hd_tensor d = hd_grad(s, x);
        int64_t n = 0;
        double share;

        for (int64_t r = 0; r < hd_rows(x); r++)
            n += l->loss[i].target[r] >= 0;
        share = n ? (double)b->n_target / (double)n : 0;
        for (int64_t r = 0; r < hd_rows(x); r++)
            ((float *)d.data)[r] = l->loss[i].target[r] >= 0 ? (float)(l->weight[l->loss[i].kind] * share) : 0;
        share *= sum_losses(x);
        all += share;
        t->learnt[l->loss[i].kind] += share / (l->loss[i].kind == HD_LEARN_INDEX ? n_layer : 1);
    }
    return all;
}

/* Which rows of tables had gradients. */
static void touch(struct hd_trainer *t)
{
    for (size_t i = 0; i < t->tape.n; i++) {
        const struct hd_call *c = &t->tape.entry[i].call;

        if (c->op != HD_OP_TABLE)
            continue;
        for (int k = 0; k < t->ps.n; k++) {
            struct hd_param *p = &t->ps.p[k];

            if (!p->touched || p->t->data != c->in[1]->data)
                continue;
            for (int64_t e = 0; e < hd_rows(c->in[0]); e++)
                for (int64_t j = 0; j < hd_cols(c->in[0]); j++) {
                    int32_t row = ((const int32_t *)((const char *)c->in[0]->data + e * c->in[0]->row_bytes))[j];

                    p->touched[row / 8] |= (unsigned char)(1 << row % 8);
                }
        }
    }
}

int hd_trainer_round(struct hd_trainer *t, struct hd_err *err)
{
    if (t->rounded)
        return HD_OK;
    HD_TRY(hd_quant_show(&t->ps, true, err));
    t->rounded = t->stale = true;
    return hd_tape_range(&t->tape, t->ps.q, t->ps.grad, t->ps.n_float * sizeof(float), false, err);
}

static void refresh(struct hd_trainer *t)
{
    if (t->rounded && t->stale)
        hd_quant_round(&t->ps, t->pool);
    t->stale = false;
}

/* Gradients of the cache pages that sequences of a batch use. */
struct page_job {
    const struct hd_trainer *t;
    const struct hd_stream *s;
    const struct hd_batch *b;
};

static void clear_pages(void *arg, int64_t begin, int64_t end)
{
    const struct page_job *j = arg;
    const struct hd_cache *c = &j->t->cache;
    int p = 0;

    while (c->spec->part[p].kind != HD_PART_PAGED)
        p++;
    for (int64_t i = begin; i < end; i++)
        for (int64_t at = 0; at < j->b->span[i].n_tok; at += c->page_tokens)
            memset(hd_grad_at(j->s, j->t->part[i * c->spec->n_part + p].page[at / c->page_tokens]), 0, (size_t)c->page_bytes);
}

int hd_trainer_batch(struct hd_trainer *t, const struct hd_batch *b, struct hd_err *err)
{
    const struct hd_tensor *losses;
    struct hd_ragged r;
    struct hd_stream s;
    struct hd_tensor d;
    struct hd_learn learn = learning(&t->hp, (uint32_t)(t->optim.step * 61 + t->n_batch++));
    double sum;

    hd_profile_lap(t->profile, "between steps", 0);
    HD_TRY(lay_out(t, b, &r, err));
    refresh(t);
    losses = forward(t, &s, &r, b, &learn);
    if (!hd_stream_ok(&s))
        return hd_stream_end(&s, err);
    sum = sum_losses(losses);
    if (!isfinite(sum) || !isfinite(seed_learning(t, &s, &learn, b)))
        return not_finite(t, &r, b, err);
    for (int64_t i = 0; i < b->n_tok; i++)                         /* the way back may put older bytes where the losses are */
        t->n_sure += b->target[i] >= 0 && ((const float *)losses->data)[i] < (float)M_LN2;
    if (t->page_grad)
        hd_pool_for(t->pool, b->n_seq, 1, clear_pages, &(struct page_job){t, &s, b});
    d = hd_grad(&s, losses);
    for (int64_t i = 0; i < b->n_tok; i++)
        ((float *)d.data)[i] = b->target[i] >= 0 ? 1 : 0;
    HD_TRY(hd_balance_batch(&t->balance, &s, 1, err));
    touch(t);
    hd_profile_lap(t->profile, "between ways", 0);
    hd_tape_backward(&s);
    hd_profile_lap(t->profile, "tape", 0);
    HD_TRY(hd_stream_end(&s, err));
    t->loss += sum;
    t->aux += t->balance.loss;
    t->n_target += b->n_target;
    t->n_tok += b->n_tok;
    t->flops += 3 * s.cost.flops;
    return HD_OK;
}

static int name_weight(const struct hd_trainer *t, struct hd_err *err)
{
    for (int i = 0; i < t->ps.n; i++)
        for (int64_t k = 0; t->ps.p[i].grad && k < t->ps.p[i].n; k++)
            if (!isfinite(t->ps.p[i].grad[k]))
                return hd_err_set(err, HD_ERR_FORMAT, "the gradient is not finite, at %s", t->ps.p[i].name);
    return hd_err_set(err, HD_ERR_FORMAT, "the gradient's norm is not finite");
}

int hd_trainer_update(struct hd_trainer *t, double lr, double bias_scale, struct hd_step_result *r, struct hd_err *err)
{
    double scale = 1 / (double)t->n_target, clip = t->hp.optim.clip, norm;

    hd_tape_fill(&(struct hd_stream){.be = t->be, .tape = &t->tape});
    norm = hd_grad_norm(&t->optim, scale);
    hd_profile_lap(t->profile, "norm of gradients", 0);
    if (!isfinite(norm))
        return name_weight(t, err);
    *r = (struct hd_step_result){.loss = t->loss * scale, .aux = t->aux * scale, .grad_norm = norm, .flops = t->flops, .n_tok = t->n_tok};
    r->sure = (double)t->n_sure * scale;
    for (int k = 0; k < HD_LEARN_KINDS; k++)
        r->learnt[k] = t->learnt[k] * scale;
    HD_TRY(hd_optim_step(&t->optim, lr, clip > 0 && norm > clip ? scale * clip / norm : scale, err));
    hd_profile_lap(t->profile, "update", 0);
    hd_tape_blank_all(&t->tape);
    r->max_vio = hd_balance_vio(&t->balance, false);
    hd_balance_update(&t->balance, bias_scale);
    r->max_vio_window = hd_balance_vio(&t->balance, true);
    t->stale = true;
    t->loss = t->aux = t->flops = 0;
    t->n_target = t->n_tok = t->n_batch = t->n_sure = 0;
    memset(t->learnt, 0, sizeof t->learnt);
    return HD_OK;
}

int hd_trainer_eval(struct hd_trainer *t, const struct hd_batch *b, double *loss, int64_t *n, struct hd_err *err)
{
    const struct hd_tensor *losses;
    struct hd_ragged r;
    struct hd_stream s;

    HD_TRY(lay_out(t, b, &r, err));
    refresh(t);
    losses = forward(t, &s, &r, b, NULL);
    HD_TRY(hd_stream_end(&s, err));
    HD_TRY(hd_balance_count(&t->seen, &s, err));
    *loss = sum_losses(losses);
    *n = b->n_target;
    return HD_OK;
}

int hd_trainer_gain(struct hd_trainer *t, const struct hd_batch *b, double *gain, struct hd_err *err)
{
    struct hd_arena arena;            /* off the tape tensors make room for one another */
    struct hd_gain g = {0};
    struct hd_ragged r;
    struct hd_stream s;

    HD_TRY(lay_out(t, b, &r, err));
    refresh(t);
    hd_arena_init(&arena, 0);
    hd_stream_init(&s, t->be, &arena, HD_EXACT_F32);
    s.target = b->target;
    s.trace = hd_gain_take;
    s.trace_arg = &g;
    t->m->arch->forward(t->m, &s, &r, b->row, b->n_tok);
    *gain = hd_gain_mean(&g);
    hd_gain_release(&g);
    hd_arena_release(&arena);
    return hd_stream_end(&s, err);
}
