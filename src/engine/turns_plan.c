/* turns_plan.c: who takes part in the next step, with how many tokens: admission, and the shares of prompts. See turns.h. */
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

/* ---- admission ---- */

static bool admissible(const struct hd_turns *t, const struct hd_request *r)
{
    if (t->n_running == t->opt.max_running || (t->opt.max_per_user && r->user->n_running >= t->opt.max_per_user) || hd_turns_paused(t, r) || r->refused == t->step)
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

static bool same_tenant(const struct hd_request *a, const struct hd_request *b)
{
    return a->tenant && b->tenant ? !strcmp(a->tenant, b->tenant) : a->tenant == b->tenant;
}

/* The longest beginning that memory has for r. */
static struct source find_source(struct hd_turns *t, const struct hd_request *r, const struct hd_prefix_want *w)
{
    struct source s = {0};

    if (!hd_turns_may_reuse(r))
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
        int64_t k = 0, most = o->n_prompt < (int64_t)r->n - 1 ? o->n_prompt : (int64_t)r->n - 1, every = hd_turns_spacing(t, o);

        if (o->state != HD_REQUEST_FEEDING || hd_turns_paused(t, o) || !same_tenant(o, r) || most < n + WAIT_GAIN)
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

/* Has it been passed too often? */
static bool overdue(const struct hd_turns *t, const struct hd_request *r)
{
    return r->passed > OVERTAKE * t->engine->opt.chunk;
}

/* false: there is no room now, something better to begin with is coming, or there is no memory at all (r has ended then). */
static bool admit(struct hd_turns *t, struct hd_request *r)
{
    struct hd_prefix_want w = {r->tenant, r->ids, (int64_t)r->n, r->raw0};
    struct source from = find_source(t, r, &w);
    struct hd_session ss;
    struct hd_err err;

    r->refused = t->step;
    if (hd_turns_may_reuse(r) && ((t->prefix.disk && find_file(t, &w, &from) == HD_AGAIN) || is_coming(t, r, from.n)))
        return false;
    if (!has_room(t, r, from.session, from.n)) {
        t->hold = t->hold || overdue(t, r);
        return false;
    }
    if (open_session(t, &from, &w, &ss, &err) < 0) {
        hd_turns_end(t, r, HD_FINISH_CANCELLED, &err);
        return false;
    }
    hd_turns_unlist(t, r);
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
    }
    hd_request_tell_progress(r);
    return true;
}

/* ---- planning a step ---- */

/* Tokens that this step may still take of r: of the step's kind, and not beyond a checkpoint. */
static int64_t piece(const struct hd_turns *t, const struct hd_request *r)
{
    int64_t encode = hd_request_encode_left(r), n = (t->encode ? encode : encode ? 0 : hd_request_left(r)), every = hd_turns_spacing(t, r);
    int64_t border = every ? every - (int64_t)r->session.n % every : n;

    if (r->state != HD_REQUEST_FEEDING || hd_turns_paused(t, r))
        return 0;
    return (n < border ? n : border) - (n ? r->planned : 0);
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
    return r->state == HD_REQUEST_DECODING && !hd_turns_paused(t, r);
}

/* Steps of the encoder half and whole ones take turns where both have something to do. */
static void choose_kind(struct hd_turns *t)
{
    bool encode = false, whole = false;

    for (int i = 0; i < t->n_running; i++) {
        const struct hd_request *r = t->running[i];

        if (hd_turns_paused(t, r))
            continue;
        if (hd_request_encode_left(r))
            encode = true;
        else
            whole = true;
    }
    t->encode = encode && (!whole || !t->encode);
}

/* Proposals for everybody whose turn it is, as far as a busy step has room. */
static int64_t plan_drafts(struct hd_turns *t, int64_t n_decode)
{
    int64_t depth = hd_speculate_depth(&t->speculate, n_decode), room = n_decode ? (t->opt.chunk_busy - PROMPT_MIN) / n_decode - 1 : 0, all = 0;
    int n = 0;

    depth = depth < room ? depth : room;
    for (int i = 0; i < t->n_running && depth > 0; i++) {
        struct hd_request *r = t->running[i];
        int64_t left = r->n_max < 0 ? INT64_MAX : r->n_max - r->n_generated - 1, k = t->n_ctx - (int64_t)r->n;

        k = k < left ? k : left;
        k = k < depth ? k : depth;
        if (!r->planned || k <= 0 || !HD_GROW(r->ids, r->cap, r->n + 1 + (size_t)k, (size_t)1 << 31))
            continue;
        t->of_item[n] = r;
        t->draft[n++] = (struct hd_draft_item){.session = &r->session, .ids = r->ids, .n = (int64_t)r->n, .depth = k, .sample = &r->sample, .rng = r->rng};
    }
    if (n)
        hd_speculate_propose(&t->speculate, &t->sampler, t->draft, n);
    for (int i = 0; i < n; i++) {
        t->of_item[i]->n_draft = t->draft[i].n_draft;
        t->of_item[i]->planned += t->draft[i].n_draft;
        all += t->draft[i].n_draft;
        hd_fair_charge(&t->fair, t->of_item[i]->user, t->draft[i].n_draft);
    }
    return all;
}

static enum hd_want wants(const struct hd_request *r)
{
    if (!hd_turns_may_reuse(r) || r->n_draft)
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

int hd_turns_plan(struct hd_turns *t)
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
        r->n_draft = 0;
        r->planned = !t->encode && decodes(t, r);
        n_decode += r->planned;
        hd_fair_charge(&t->fair, r->user, r->planned);
    }
    n_decode += plan_drafts(t, n_decode);
    budget = busy ? t->opt.chunk_busy : t->engine->opt.chunk;
    rest = budget - n_decode > PROMPT_MIN ? budget - n_decode : PROMPT_MIN;
    share(t, rest < t->engine->opt.chunk - n_decode ? rest : t->engine->opt.chunk - n_decode);
    age(t);
    return lay_out(t);
}

