/* turns.c: see turns.h. */
#include "engine/turns.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/prefix_disk.h"

#define PROMPT_MIN 16                 /* tokens of prompts in a step, however many decode */
#define OVERTAKE 4                    /* chunks of younger prompts that may pass an older one of their user */
#define DISK_GAIN 32                  /* tokens more than memory has that are worth reading a file */
#define WAIT_GAIN 64                  /* the same, of a prompt that is being fed, for waiting until it has them */
#define REFUSALS 8                    /* admissions that a step tries in vain: each compares ids with all that is kept */
#define CHECKPOINTS 8                 /* inside one prompt, at most */

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
    t->masked = hd_malloc((size_t)e->model.hp.n_vocab * sizeof *t->masked);
    rc = t->running && t->item && t->of_item && t->masked ? find_ends(t, opt->tok, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a scheduler of %zu requests", n);
    if (rc == HD_OK)
        rc = hd_sampler_init(&t->sampler, &greedy, e->model.hp.n_vocab, err);
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
    hd_free(t->masked);
    hd_free(t->end);
    memset(t, 0, sizeof *t);
}

/* ---- coming and going ---- */

static bool is_paused(const struct hd_turns *t, const struct hd_request *r)
{
    return !t->ignore_pause && atomic_load(&r->paused);
}

static void unlist(struct hd_turns *t, struct hd_request *r)
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
    r->planned = 0;
}

/* The last that is heard of r. What its session holds may serve others, unless something went wrong with it. */
static void end(struct hd_turns *t, struct hd_request *r, enum hd_finish finish, const struct hd_err *err)
{
    t->n_ended++;
    hd_request_tell_end(r, finish, err);
    if (r->user) {
        if (r->state == HD_REQUEST_WAITING) {
            unlist(t, r);
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
    struct hd_request **p;
    struct hd_err err;

    r->next = NULL;
    r->raw0 = t->engine->opt.shortcut && !r->prompt_logprobs && r->n_prompt > t->engine->model.shortcut ? r->n_prompt - t->engine->model.shortcut : 0;
    if (!t->engine->model.shortcut)
        r->raw0 = 0;
    if (!(r->user = hd_fair_join(&t->fair, r->user_name))) {
        hd_err_set(&err, HD_ERR_MEMORY, "no memory for a request");
        atomic_fetch_sub(&t->n_waiting, 1);
        atomic_fetch_sub(&t->waiting_tokens, r->n_prompt);
        end(t, r, HD_FINISH_CANCELLED, &err);
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
                end(t, r, HD_FINISH_CANCELLED, NULL);
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
            end(t, t->running[i], HD_FINISH_CANCELLED, NULL);
            any = true;
        }
    while (sweep_waiting(t))
        any = true;
    return any;
}

/* ---- the cache's room ---- */

static int64_t pages(const struct hd_turns *t, int64_t n)
{
    return (n + t->engine->cache.page_tokens - 1) / t->engine->cache.page_tokens;
}

/* Would r fit beside what runs, if all kept prefixes went but the one that r begins with (from, n tokens of it)? */
static bool has_room(struct hd_turns *t, const struct hd_request *r, const struct hd_session *from, int64_t n)
{
    struct hd_cache *c = &t->engine->cache;
    uint64_t epoch = ++c->epoch;
    int64_t need = pages(t, (int64_t)r->n + 1) + 1, shared;

    if (!t->n_running)
        return true;
    for (int i = 0; i < t->n_running; i++) {
        const struct hd_request *o = t->running[i];

        /* what it holds, what its prompt still takes, and a page to grow into */
        need += hd_seq_count_pages(o->session.seq, epoch) + pages(t, (int64_t)o->n) - pages(t, (int64_t)o->session.n) + 1;
    }
    if (from) {
        shared = pages(t, (int64_t)from->n) - hd_seq_count_pages(from->seq, epoch);
        need -= shared < pages(t, n) ? shared : pages(t, n);
    }
    return need <= c->n_page_max;
}

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
        if (is_paused(t, t->running[i])) {
            victim = i;
            break;
        }
    preempt(t, t->running[victim]);
    return true;
}

/* ---- admission ---- */

/* Distance of checkpoints inside r's prompt. */
static int64_t spacing(const struct hd_turns *t, const struct hd_request *r)
{
    int64_t c = t->opt.checkpoint_tokens;

    if (t->rewinds || c < 0)
        return 0;
    return r->n_prompt / CHECKPOINTS < c ? c : (r->n_prompt / CHECKPOINTS + c - 1) / c * c;
}

static bool admissible(const struct hd_turns *t, const struct hd_request *r)
{
    if (t->n_running == t->opt.max_running || (t->opt.max_per_user && r->user->n_running >= t->opt.max_per_user) || is_paused(t, r) || r->refused == t->step)
        return false;
    /* coming back before anybody has left would only push somebody else out */
    return !r->preempted || r->ended_before != t->n_ended || !t->n_running;
}

struct source {
    struct hd_session *session;       /* NULL: none */
    struct hd_prefix *kept;           /* NULL: the session of a running request */
    struct hd_prefix_file *file;      /* instead of a session */
    int64_t n;
};

/* A cached token has no logits. */
static bool may_reuse(const struct hd_request *r)
{
    return !r->prompt_logprobs || r->n_scored >= r->n_prompt - 1;
}

static bool same_tenant(const struct hd_request *a, const struct hd_request *b)
{
    return a->tenant && b->tenant ? !strcmp(a->tenant, b->tenant) : a->tenant == b->tenant;
}

/* The longest beginning that memory has for r. */
static struct source find_source(struct hd_turns *t, const struct hd_request *r, const struct hd_prefix_want *w)
{
    struct source s = {0};

    if (!may_reuse(r))
        return s;
    if ((s.kept = hd_prefix_find(&t->prefix, w, &s.n)))
        s.session = &s.kept->session;
    for (int i = 0; i < t->n_running; i++) {
        struct hd_request *o = t->running[i];
        struct hd_prefix_span span = hd_prefix_span_of(&o->session);
        int64_t n = same_tenant(o, r) ? hd_prefix_usable(&t->engine->model.spec, &span, w) : 0;

        if (n > s.n)
            s = (struct source){.session = &o->session, .n = n};
    }
    return s;
}

/* Is somebody just feeding what r begins with? n tokens are there for it now. Requests that come together with a long beginning in common
 * would otherwise all compute it. */
static bool is_coming(const struct hd_turns *t, const struct hd_request *r, int64_t n)
{
    for (int i = 0; i < t->n_running; i++) {
        const struct hd_request *o = t->running[i];
        int64_t k = 0, most = o->n_prompt < (int64_t)r->n - 1 ? o->n_prompt : (int64_t)r->n - 1, every = spacing(t, o);

        if (o->state != HD_REQUEST_FEEDING || is_paused(t, o) || !same_tenant(o, r) || most < n + WAIT_GAIN)
            continue;
        while (k < most && o->ids[k] == r->ids[k])
            k++;
        if (!t->rewinds && k < o->n_prompt)   /* what checkpoints will have of it */
            k = every ? k / every * every : 0;
        if (o->raw0 != r->raw0 && k > r->raw0)
            k = r->raw0;
        if (k >= n + WAIT_GAIN && (int64_t)o->session.n < k)
            return true;
    }
    return false;
}

/* A file, if one has clearly more. HD_AGAIN: it is being checked. */
static int find_file(struct hd_turns *t, const struct hd_prefix_want *w, struct source *s)
{
    struct hd_prefix_file *f;
    int64_t n;

    while ((f = hd_prefix_disk_find(t->prefix.disk, w, s->n + DISK_GAIN, &n))) {
        int rc = hd_prefix_disk_check(t->prefix.disk, f);

        if (rc == HD_OK)
            *s = (struct source){.file = f, .n = n};
        if (rc != HD_AGAIN)
            return HD_OK;
        if (!t->opt.manual)
            return HD_AGAIN;
    }
    return HD_OK;
}

/* Kept prefixes make room for what a file holds. false: it cannot be had. */
static bool load_file(struct hd_turns *t, const struct source *from, const struct hd_prefix_want *w, struct hd_session *out)
{
    int rc;

    do
        rc = hd_prefix_disk_load(t->prefix.disk, from->file, w, from->n, out, NULL);
    while ((rc == HD_ERR_LIMIT || rc == HD_ERR_MEMORY) && hd_prefix_evict(&t->prefix));
    return rc == HD_OK;
}

static int open_session(struct hd_turns *t, const struct source *from, const struct hd_prefix_want *w, struct hd_session *out, struct hd_err *err)
{
    int rc;

    if (from->file && load_file(t, from, w, out))
        return HD_OK;
    rc = !from->session ? hd_session_open(out, t->engine, err) :
         from->kept     ? hd_prefix_take(&t->prefix, from->kept, w, from->n, out, err) :
                          hd_prefix_fork(from->session, w, from->n, out, err);

    while (rc == HD_ERR_MEMORY && hd_prefix_evict(&t->prefix))
        rc = hd_session_open(out, t->engine, err);
    return rc;
}

/* false: there is no room now, something better to begin with is coming, or there is no memory at all (r has ended then). */
static bool admit(struct hd_turns *t, struct hd_request *r)
{
    struct hd_prefix_want w = {r->tenant, r->ids, (int64_t)r->n, r->raw0};
    struct source from = find_source(t, r, &w);
    struct hd_session ss;
    struct hd_err err;

    r->refused = t->step;
    if (may_reuse(r) && ((t->prefix.disk && find_file(t, &w, &from) == HD_AGAIN) || is_coming(t, r, from.n)))
        return false;
    if (!has_room(t, r, from.session, from.n)) {
        t->hold = t->hold || r->passed > OVERTAKE * t->engine->opt.chunk;
        return false;
    }
    if (open_session(t, &from, &w, &ss, &err) < 0) {
        end(t, r, HD_FINISH_CANCELLED, &err);
        return false;
    }
    unlist(t, r);
    r->session = ss;
    r->state = HD_REQUEST_FEEDING;
    r->passed = 0;
    r->user->n_running++;
    t->running[t->n_running++] = r;
    if (!r->preempted) {
        r->admitted = hd_now();
        r->n_cached = (int64_t)ss.n;
        t->stats.n_prompt += (uint64_t)r->n_prompt;
        t->stats.n_cached += ss.n;
        hd_request_tell_progress(r);
    }
    return true;
}

/* ---- planning a step ---- */

/* Tokens that this step may still take of r: of the step's kind, and not beyond a checkpoint. */
static int64_t piece(const struct hd_turns *t, const struct hd_request *r)
{
    int64_t encode = hd_request_encode_left(r), n = (t->encode ? encode : encode ? 0 : hd_request_left(r)), every = spacing(t, r);
    int64_t border = every ? every - (int64_t)r->session.n % every : n;

    if (r->state != HD_REQUEST_FEEDING || is_paused(t, r))
        return 0;
    return (n < border ? n : border) - (n ? r->planned : 0);
}

static bool overdue(const struct hd_turns *t, const struct hd_request *r)
{
    return r->passed > OVERTAKE * t->engine->opt.chunk;
}

static bool goes_before(const struct hd_turns *t, const struct hd_request *a, const struct hd_request *b)
{
    if (overdue(t, a) != overdue(t, b))
        return overdue(t, a);
    if (!overdue(t, a) && hd_request_left(a) != hd_request_left(b))
        return hd_request_left(a) < hd_request_left(b);
    return a->id < b->id;
}

/* What u would feed next: one that runs, or one that waits and may be admitted; NULL: nothing now. */
static struct hd_request *best_prompt(const struct hd_turns *t, const struct hd_user *u)
{
    struct hd_request *best = NULL;

    for (int i = 0; i < t->n_running; i++)
        if (t->running[i]->user == u && piece(t, t->running[i]) > 0 && (!best || goes_before(t, t->running[i], best)))
            best = t->running[i];
    for (struct hd_request *r = t->hold ? NULL : u->waiting; r; r = r->next)
        if (admissible(t, r) && (!best || goes_before(t, r, best)))
            best = r;
    return best;
}

/* Gives r what its user's account and the budget allow; how much. */
static int64_t give(struct hd_turns *t, struct hd_request *r, int64_t budget)
{
    int64_t n = piece(t, r);

    n = n < budget ? n : budget;
    n = n < r->user->deficit ? n : r->user->deficit;
    r->planned += n;
    hd_fair_charge(&t->fair, r->user, n);
    return n;
}

/* Shares budget tokens between the prompts of all users. Who is in debt is not even admitted: a slot is worth more than a quantum. */
static void share(struct hd_turns *t, int64_t budget)
{
    int idle = 0;

    while (budget > 0 && t->fair.turn && idle < t->fair.n_user) {
        struct hd_user *u = t->fair.turn;
        struct hd_request *r = best_prompt(t, u);

        if (!r) {
            hd_fair_skip(&t->fair);
            idle++;
            continue;
        }
        idle = 0;
        if (u->deficit <= 0)
            hd_fair_grant(&t->fair);
        else if (r->state != HD_REQUEST_WAITING)
            budget -= give(t, r, budget);
        else if (!admit(t, r) && ++t->n_refused == REFUSALS)
            t->hold = true;
    }
}

/* Older prompts that could have had these tokens have been passed. */
static void count_passed(struct hd_turns *t, struct hd_request *o)
{
    for (int i = 0; i < t->n_running; i++) {
        const struct hd_request *r = t->running[i];

        if (r->state == HD_REQUEST_FEEDING && r->id > o->id && (r->user == o->user || o->refused == t->step))
            o->passed += r->planned;
    }
}

static void age(struct hd_turns *t)
{
    struct hd_user *u = t->fair.turn;

    for (int i = 0; i < t->n_running; i++)
        if (t->running[i]->state == HD_REQUEST_FEEDING && !t->running[i]->planned)
            count_passed(t, t->running[i]);
    for (int i = 0; i < t->fair.n_user; i++, u = u->next)
        for (struct hd_request *r = u->waiting; r; r = r->next)
            count_passed(t, r);
}

static bool decodes(const struct hd_turns *t, const struct hd_request *r)
{
    return r->state == HD_REQUEST_DECODING && !is_paused(t, r);
}

/* Steps of the encoder half and whole ones take turns where both have something to do. */
static void choose_kind(struct hd_turns *t)
{
    bool encode = false, whole = false;

    for (int i = 0; i < t->n_running; i++) {
        const struct hd_request *r = t->running[i];

        if (is_paused(t, r))
            continue;
        if (hd_request_encode_left(r))
            encode = true;
        else
            whole = true;
    }
    t->encode = encode && (!whole || !t->encode);
}

static enum hd_want wants(const struct hd_request *r)
{
    if (!may_reuse(r))
        return HD_WANT_ALL;
    return r->planned == hd_request_left(r) ? HD_WANT_LAST : HD_WANT_NONE;
}

static int lay_out(struct hd_turns *t)
{
    int n = 0;

    for (int i = 0; i < t->n_running; i++) {
        struct hd_request *r = t->running[i];

        if (!r->planned)
            continue;
        t->item[n] = (struct hd_step_item){.session = &r->session, .ids = r->ids + r->session.n, .n_tok = r->planned, .want = wants(r), .encode = t->encode};
        t->of_item[n++] = r;
    }
    return n;
}

/* Fills t->item; how many. */
static int plan(struct hd_turns *t)
{
    int64_t n_decode = 0, budget, rest;
    bool busy = false;

    t->step++;
    t->hold = false;
    t->n_refused = 0;
    choose_kind(t);
    for (int i = 0; i < t->n_running; i++) {
        struct hd_request *r = t->running[i];

        busy |= decodes(t, r);
        r->planned = !t->encode && decodes(t, r);
        n_decode += r->planned;
        hd_fair_charge(&t->fair, r->user, r->planned);
    }
    budget = busy ? t->opt.chunk_busy : t->engine->opt.chunk;
    rest = budget - n_decode > PROMPT_MIN ? budget - n_decode : PROMPT_MIN;
    share(t, rest < t->engine->opt.chunk - n_decode ? rest : t->engine->opt.chunk - n_decode);
    age(t);
    return lay_out(t);
}

/* ---- from logits to tokens ---- */

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

/* The next token of r, whose session holds everything before it; the last one ends it. */
static void take_token(struct hd_turns *t, struct hd_request *r, const float *logits)
{
    struct hd_pick p;
    struct hd_err err;

    r->state = HD_REQUEST_DECODING;
    if (!r->first)
        r->first = hd_now();
    if (r->n_generated == r->n_max) {
        end(t, r, HD_FINISH_LENGTH, NULL);
        return;
    }
    if (!HD_GROW(r->ids, r->cap, r->n + 1, (size_t)1 << 31)) {
        hd_err_set(&err, HD_ERR_MEMORY, "no memory for token %zu", r->n);
        end(t, r, HD_FINISH_CANCELLED, &err);
        return;
    }
    if (pick(t, r, logits, &p, &err) < 0) {
        end(t, r, HD_FINISH_CANCELLED, &err);
        return;
    }
    if (!r->ignore_end && is_end(t, p.id)) {
        end(t, r, HD_FINISH_END, NULL);
        return;
    }
    r->ids[r->n++] = p.id;
    r->n_generated++;
    t->stats.n_generated++;
    if (r->constraint.take)
        r->constraint.take(r->constraint.self, p.id);
    hd_request_tell_pick(r, HD_RUN_TOKEN, &p);
    if (r->n_generated == r->n_max)
        end(t, r, HD_FINISH_LENGTH, NULL);
    else if ((int64_t)r->n > t->n_ctx)
        end(t, r, HD_FINISH_CONTEXT, NULL);
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

/* Caches with rings do not go back far: a copy stays where others may want to go on from. */
static void checkpoint(struct hd_turns *t, const struct hd_request *r)
{
    int64_t n = (int64_t)r->session.n, every = spacing(t, r);
    bool whole = n == r->n_prompt;
    struct hd_session copy;

    if (t->rewinds || (t->opt.keep_bytes < 0 && !t->prefix.disk) || n > r->n_prompt || (!whole && (!every || n % every)))
        return;
    if (hd_session_fork(&copy, (struct hd_session *)&r->session, NULL) == HD_OK)
        hd_prefix_keep(&t->prefix, r->tenant, &copy, whole ? HD_PREFIX_PROMPT : HD_PREFIX_BORDER);
}

static void deal(struct hd_turns *t, const struct hd_step_item *it, struct hd_request *r)
{
    struct hd_err err;

    r->planned = 0;
    if (it->want == HD_WANT_ALL && score_prompt(t, r, it, &err) < 0) {
        end(t, r, HD_FINISH_CANCELLED, &err);
        return;
    }
    if (r->state == HD_REQUEST_FEEDING && !r->n_generated) {
        checkpoint(t, r);
        hd_request_tell_progress(r);
    }
    if (!hd_request_left(r))
        take_token(t, r, it->want == HD_WANT_ALL ? it->logits + (it->n_tok - 1) * t->sampler.n_vocab : it->logits);
}

/* ---- running a step ---- */

/* Kept prefixes go as long as the step finds no room. */
static int attempt(struct hd_turns *t, struct hd_step_item *it, int n, struct hd_err *err)
{
    int rc;

    do
        rc = hd_engine_step(t->engine, it, n, err);
    while ((rc == HD_ERR_LIMIT || rc == HD_ERR_MEMORY) && hd_prefix_evict(&t->prefix));
    return rc;
}

/* Something failed that room would not help: one by one, so that only those end who cannot go on. */
static void run_apart(struct hd_turns *t, int n_item)
{
    for (int i = 0; i < n_item; i++) {
        struct hd_request *r = t->of_item[i];
        struct hd_err err;
        int rc = attempt(t, &t->item[i], 1, &err);

        if (rc == HD_OK)
            deal(t, &t->item[i], r);
        else if (rc != HD_ERR_LIMIT || t->n_running == 1)
            end(t, r, rc == HD_ERR_LIMIT ? HD_FINISH_CONTEXT : HD_FINISH_CANCELLED, &err);
    }
}

/* A mixed step's time is split by tokens. */
static void account(struct hd_turns *t, int n_item, double s)
{
    int64_t n_tok = 0, n_decode = 0;

    for (int i = 0; i < n_item; i++) {
        n_tok += t->item[i].n_tok;
        n_decode += t->of_item[i]->state == HD_REQUEST_DECODING;
    }
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
    int rc = attempt(t, t->item, n_item, &err);

    if (rc == HD_OK) {
        account(t, n_item, hd_now() - t0);
        for (int i = 0; i < n_item; i++)
            deal(t, &t->item[i], t->of_item[i]);
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
    n_item = plan(t);
    if (!n_item && !t->encode)
        n_item = plan(t);                     /* all that was admitted begins with the encoder half */
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
}

void hd_turns_flush(struct hd_turns *t)
{
    hd_prefix_flush(&t->prefix);
}
