/* turns.c: see turns.h. */
#include "engine/turns.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/prefix_disk.h"

/* ---- set-up ---- */

static void defaults(struct hd_schedule_options *o, const struct hd_engine *e)
{
    const struct hd_cache *c = &e->cache;
    int64_t rings = hd_mem_available() / 4 / (c->seq_bytes + 1);      /* sessions whose own blocks take a quarter of the memory */

    rings = rings < 1 ? 1 : rings > 32 ? 32 : rings;
    o->max_running = o->max_running ? o->max_running : (int)rings;
    if (o->max_running >= e->opt.chunk)
        o->max_running = e->opt.chunk > 1 ? (int)e->opt.chunk - 1 : 1;
    o->max_waiting = o->max_waiting ? o->max_waiting : 256;
    o->max_waiting_tokens = o->max_waiting_tokens ? o->max_waiting_tokens : (int64_t)1 << 20;
    o->chunk_busy = o->chunk_busy ? o->chunk_busy : 128;
    if (o->chunk_busy > e->opt.chunk)
        o->chunk_busy = e->opt.chunk;
    o->quantum = o->quantum ? o->quantum : 64;
    o->keep_bytes = o->keep_bytes ? o->keep_bytes : c->n_page_max * c->page_bytes + rings * c->seq_bytes;
    o->checkpoint_tokens = o->checkpoint_tokens ? o->checkpoint_tokens : 2048;
    o->disk_bytes = o->disk_bytes ? o->disk_bytes : (int64_t)16 << 30;
    o->disk_tokens_min = o->disk_tokens_min ? o->disk_tokens_min : 512;
}

static int find_ends(struct hd_turns *t, const struct hd_tokenizer *tok, struct hd_err *err)
{
    size_t cap = 0;

    for (int32_t id = 0; tok && id < t->engine->model.hp.n_vocab; id++) {
        if (!hd_tokenizer_is_end(tok, id))
            continue;
        if (!HD_GROW(t->end, cap, (size_t)t->n_end + 1, (size_t)1 << 20))
            return hd_err_set(err, HD_ERR_MEMORY, "no memory for a list of end tokens");
        t->end[t->n_end++] = id;
    }
    return HD_OK;
}

static int open_disk(struct hd_turns *t, void (*wake)(void *arg), void *arg, struct hd_err *err)
{
    struct hd_prefix_disk_options o = {.dir = t->opt.disk_dir, .bytes_max = t->opt.disk_bytes, .inline_jobs = t->opt.manual, .wake = wake, .arg = arg};

    t->prefix.disk_tokens_min = t->opt.disk_tokens_min;
    return hd_prefix_disk_open(&t->prefix.disk, t->engine, &o, err);
}

int hd_turns_init(struct hd_turns *t, struct hd_engine *e, const struct hd_schedule_options *opt, void (*wake)(void *arg), void *arg, struct hd_err *err)
{
    struct hd_sample_params greedy;
    size_t n;
    int rc;

    memset(t, 0, sizeof *t);
    t->engine = e;
    t->opt = *opt;
    if (opt->max_running < 0 || opt->max_per_user < 0 || opt->max_waiting < 0 || opt->max_waiting_tokens < 0 || opt->chunk_busy < 0 || opt->quantum < 0)
        return hd_err_set(err, HD_ERR_USAGE, "scheduler: a limit is below zero");
    defaults(&t->opt, e);
    t->n_ctx = e->opt.n_ctx < e->model.hp.n_ctx ? e->opt.n_ctx : e->model.hp.n_ctx;
    t->fair.quantum = t->opt.quantum;
    t->rewinds = hd_prefix_rewinds(e);
    hd_prefix_init(&t->prefix, e, t->opt.keep_bytes);
    hd_sample_defaults(&greedy);
    n = (size_t)t->opt.max_running;
    t->running = hd_calloc(n, sizeof *t->running);
    t->item = hd_calloc(n, sizeof *t->item);
    t->of_item = hd_calloc(n, sizeof *t->of_item);
    t->draft = hd_calloc(n, sizeof *t->draft);
    t->masked = hd_malloc((size_t)e->model.hp.n_vocab * sizeof *t->masked);
    rc = t->running && t->item && t->of_item && t->draft && t->masked ? find_ends(t, opt->tok, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a scheduler of %zu requests", n);
    if (rc == HD_OK)
        rc = hd_sampler_init(&t->sampler, &greedy, e->model.hp.n_vocab, err);
    if (rc == HD_OK)
        rc = hd_speculate_init(&t->speculate, e, &opt->draft, err);
    if (rc == HD_OK && opt->disk_dir)
        rc = open_disk(t, wake, arg, err);
    if (rc < 0)
        hd_turns_release(t);
    return rc;
}

void hd_turns_release(struct hd_turns *t)
{
    HD_ASSERT(t->n_running == 0 && !t->fair.turn);
    hd_prefix_release(&t->prefix);
    hd_sampler_release(&t->sampler);
    hd_free(t->running);
    hd_free(t->item);
    hd_free(t->of_item);
    hd_free(t->draft);
    hd_free(t->masked);
    hd_free(t->end);
    memset(t, 0, sizeof *t);
}

/* ---- coming and going ---- */

void hd_turns_unlist(struct hd_turns *t, struct hd_request *r)
{
    struct hd_request **p = &r->user->waiting;

    while (*p != r)
        p = &(*p)->next;
    *p = r->next;
    r->next = NULL;
    atomic_fetch_sub(&t->n_waiting, 1);
    atomic_fetch_sub(&t->waiting_tokens, r->n_prompt);
}

static void stop_running(struct hd_turns *t, struct hd_request *r)
{
    int i = 0;

    while (t->running[i] != r)
        i++;
    memmove(&t->running[i], &t->running[i + 1], (size_t)(--t->n_running - i) * sizeof *t->running);
    r->user->n_running--;
    r->planned = r->n_draft = 0;
}

void hd_turns_end(struct hd_turns *t, struct hd_request *r, enum hd_finish finish, const struct hd_err *err)
{
    t->n_ended++;
    hd_request_tell_end(r, finish, err);
    if (r->user) {
        if (r->state == HD_REQUEST_WAITING) {
            hd_turns_unlist(t, r);
        } else {
            stop_running(t, r);
            if (err)
                hd_session_close(&r->session);
            else
                hd_prefix_keep(&t->prefix, r->tenant, &r->session, HD_PREFIX_DONE);
        }
        hd_fair_leave(&t->fair, r->user);
    }
    t->gone(t->gone_arg, r);
    hd_request_free(r);
}

void hd_turns_add(struct hd_turns *t, struct hd_request *r)
{
    int64_t whole = t->engine->opt.shortcut ? t->engine->model.shortcut : 0;
    struct hd_request **p;
    struct hd_err err;

    r->next = NULL;
    if (whole && !r->prompt_logprobs && r->n_prompt > whole)
        r->raw0 = r->n_prompt - whole;
    if (!(r->user = hd_fair_join(&t->fair, r->user_name))) {
        hd_err_set(&err, HD_ERR_MEMORY, "no memory for a request");
        atomic_fetch_sub(&t->n_waiting, 1);
        atomic_fetch_sub(&t->waiting_tokens, r->n_prompt);
        hd_turns_end(t, r, HD_FINISH_CANCELLED, &err);
        return;
    }
    for (p = &r->user->waiting; *p; p = &(*p)->next) {
    }
    *p = r;
}

static bool sweep_waiting(struct hd_turns *t)
{
    struct hd_user *u = t->fair.turn;

    for (int i = 0; i < t->fair.n_user; i++, u = u->next)
        for (struct hd_request *r = u->waiting; r; r = r->next)
            if (atomic_load(&r->cancel)) {
                hd_turns_end(t, r, HD_FINISH_CANCELLED, NULL);
                return true;                  /* u may be gone */
            }
    return false;
}

/* Ends what was cancelled; was there any? */
static bool sweep(struct hd_turns *t)
{
    bool any = false;

    for (int i = t->n_running; i-- > 0;)
        if (atomic_load(&t->running[i]->cancel)) {
            hd_turns_end(t, t->running[i], HD_FINISH_CANCELLED, NULL);
            any = true;
        }
    while (sweep_waiting(t))
        any = true;
    return any;
}

/* ---- a full cache ---- */

/* Back to waiting, before others of its user. */
static void preempt(struct hd_turns *t, struct hd_request *r)
{
    stop_running(t, r);
    hd_session_close(&r->session);
    r->state = HD_REQUEST_WAITING;
    r->preempted = true;
    r->ended_before = t->n_ended;
    r->next = r->user->waiting;
    r->user->waiting = r;
    atomic_fetch_add(&t->n_waiting, 1);
    atomic_fetch_add(&t->waiting_tokens, r->n_prompt);
    t->stats.n_preempted++;
}

/* Nothing is kept any more, and the cache is still too full: somebody has to wait. The youngest, but first those whose readers do. */
static bool make_room(struct hd_turns *t)
{
    int victim = t->n_running - 1;

    if (t->n_running < 2)
        return t->prefix.disk && hd_prefix_disk_settle(t->prefix.disk, true);       /* pages that are being written */
    for (int i = t->n_running; i-- > 0;)
        if (hd_turns_paused(t, t->running[i])) {
            victim = i;
            break;
        }
    preempt(t, t->running[victim]);
    return true;
}

/* ---- running a step ---- */

/* Do the items still follow on what their sessions hold? A step that broke off in the middle may have cost some their rings. */
static bool still_fits(const struct hd_turns *t, int i)
{
    return t->item[i].ids == t->of_item[i]->ids + t->of_item[i]->session.n;
}

static bool all_fit(const struct hd_turns *t, int first, int n)
{
    for (int i = first; i < first + n; i++)
        if (!still_fits(t, i))
            return false;
    return true;
}

/* Nobody loses anything for the sake of guesses: they go first. false: there are none. */
static bool drop_drafts(struct hd_turns *t, int first, int n)
{
    bool any = false;

    for (int i = first; i < first + n; i++) {
        struct hd_request *r = t->of_item[i];

        if (!r->n_draft)
            continue;
        hd_fair_charge(&t->fair, r->user, -r->n_draft);
        t->item[i].n_tok -= r->n_draft;
        r->n_draft = 0;
        any = true;
    }
    return any;
}

/* Proposals, then kept prefixes, go as long as the step finds no room. */
static int attempt(struct hd_turns *t, int first, int n, struct hd_err *err)
{
    int rc;

    do
        rc = hd_engine_step(t->engine, &t->item[first], n, err);
    while ((rc == HD_ERR_LIMIT || rc == HD_ERR_MEMORY) && all_fit(t, first, n) && (drop_drafts(t, first, n) || hd_prefix_evict(&t->prefix)));
    return rc;
}

/* Something failed that room would not help: one by one, so that only those end who cannot go on. */
static void run_apart(struct hd_turns *t, int n_item)
{
    for (int i = 0; i < n_item; i++) {
        struct hd_request *r = t->of_item[i];
        struct hd_err err;
        int rc;

        if (!still_fits(t, i)) {
            r->state = HD_REQUEST_FEEDING;    /* again, what was lost */
            r->n_draft = 0;
            continue;
        }
        rc = attempt(t, i, 1, &err);
        if (rc == HD_OK)
            hd_turns_deal(t, &t->item[i], r);
        else if (rc != HD_ERR_LIMIT || t->n_running == 1)
            hd_turns_end(t, r, rc == HD_ERR_LIMIT ? HD_FINISH_CONTEXT : HD_FINISH_CANCELLED, &err);
    }
}

/* A mixed step's time is split by tokens. */
static void account(struct hd_turns *t, int n_item, double s)
{
    int64_t n_tok = 0, n_decode = 0;

    for (int i = 0; i < n_item; i++) {
        n_tok += t->item[i].n_tok;
        n_decode += t->of_item[i]->state == HD_REQUEST_DECODING ? t->item[i].n_tok : 0;
    }
    if (n_decode == n_tok)
        hd_speculate_timed(&t->speculate, n_tok, s);
    t->stats.n_step++;
    t->stats.decode_s += s * (double)n_decode / (double)n_tok;
    t->stats.prefill_s += s * (double)(n_tok - n_decode) / (double)n_tok;
    if (s > 0)
        t->rate = t->rate > 0 ? 0.9 * t->rate + 0.1 * (double)n_tok / s : (double)n_tok / s;
}

static void run(struct hd_turns *t, int n_item)
{
    struct hd_err err;
    double t0 = hd_now();
    int rc = attempt(t, 0, n_item, &err);

    if (rc == HD_OK) {
        account(t, n_item, hd_now() - t0);
        for (int i = 0; i < n_item; i++)
            hd_turns_deal(t, &t->item[i], t->of_item[i]);
        return;
    }
    for (int i = 0; i < n_item; i++)
        hd_fair_charge(&t->fair, t->of_item[i]->user, -t->item[i].n_tok);
    if (rc != HD_ERR_LIMIT || !make_room(t))
        run_apart(t, n_item);
}

bool hd_turns_step(struct hd_turns *t)
{
    bool swept = sweep(t);
    int n_item;

    if (t->prefix.disk)
        hd_prefix_disk_settle(t->prefix.disk, false);
    n_item = hd_turns_plan(t);
    if (!n_item && !t->encode)
        n_item = hd_turns_plan(t);            /* all that was admitted begins with the encoder half */
    if (n_item)
        run(t, n_item);
    return n_item || swept;
}

void hd_turns_stats(struct hd_turns *t, struct hd_run_stats *out)
{
    const struct hd_cache *c = &t->engine->cache;

    *out = t->stats;
    out->n_running = t->n_running;
    out->n_waiting = atomic_load(&t->n_waiting);
    out->n_session = (int64_t)t->prefix.n;
    out->ctx_tokens = c->n_page_max * c->page_tokens;
    out->ctx_used = c->n_page_used * c->page_tokens;
    if (t->prefix.disk)
        hd_prefix_disk_stats(t->prefix.disk, out);
    if (t->engine->experts) {
        struct hd_experts_stats x;

        hd_experts_stats(t->engine->experts, &x);
        out->expert_hits = (uint64_t)x.hit;
        out->expert_misses = (uint64_t)x.miss;
        out->expert_ahead = (uint64_t)x.ahead;
        out->expert_ahead_used = (uint64_t)x.ahead_used;
        out->expert_bytes = (uint64_t)x.bytes;
        out->row_bytes = (uint64_t)x.row_bytes;
        out->expert_damaged = (uint64_t)x.n_damaged;
        out->expert_wait_s = x.wait_s;
    }
}

void hd_turns_flush(struct hd_turns *t)
{
    hd_prefix_flush(&t->prefix);
}
