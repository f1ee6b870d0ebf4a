/* experts.c: who is in memory. See experts.h; expert_gather.c says who there is, expert_read.c how they get there. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "weights/experts_inside.h"

#define HALF_LIFE 128.0               /* tokens; see docs/log.md */
#define GUESS_WORTH 0.5               /* of what is wanted must have been guessed lately */
#define GUESS_MEMORY 32.0             /* mixtures that "lately" means */
#define STOP_EVERY 0.1                /* seconds after which a wait asks again whether it should end */

/* ---- slots ---- */

static void bind(struct hd_experts *x, struct hd_expert *e)
{
    char *p = x->data + e->slot * x->slot_bytes;

    for (int m = 0; m < 3; m++) {
        if (e->panels[m].kind) {
            e->panels[m].data = (const uint8_t *)p;
        } else {
            e->w[m]->data = p;
            if (e->scale[m])
                e->w[m]->scale.data = p + (hd_tensor_bytes(e->w[m]) + 63) / 64 * 64;
        }
        p += hd_expert_part(e, m);
    }
}

static void unbind(struct hd_expert *e)
{
    for (int m = 0; m < 3; m++) {
        e->panels[m].data = NULL;
        e->w[m]->data = NULL;
        e->w[m]->scale.data = NULL;
    }
}

static void release_slot(struct hd_experts *x, struct hd_expert *e)
{
    x->owner[e->slot] = -1;
    e->slot = -1;
    e->state = HD_EXPERT_ABSENT;
    e->ahead = false;
    unbind(e);
}

/* Worth less than: in a sweep, layers that this step has passed come before those that it will meet; then the key. */
static bool worth_less(const struct hd_experts *x, const struct hd_expert *a, const struct hd_expert *b)
{
    bool past_a = x->sweep && a->step == x->step, past_b = x->sweep && b->step == x->step;

    return past_a != past_b ? past_a : a->key < b->key;
}

/* A slot that is free, or was that of the expert worth least. ahead: experts read ahead do not push each other out. -1: none now. */
static int32_t find_slot(struct hd_experts *x, bool ahead)
{
    int32_t best = -1;

    for (int64_t s = 0; s < x->n_slot; s++) {
        const struct hd_expert *o;

        if (x->owner[s] < 0)
            return (int32_t)s;
        o = &x->e[x->owner[s]];
        if (o->state != HD_EXPERT_READY || o->pinned || o->wanted || (ahead && o->ahead))
            continue;
        if (best < 0 || worth_less(x, o, &x->e[x->owner[best]]))
            best = (int32_t)s;
    }
    if (best >= 0)
        release_slot(x, &x->e[x->owner[best]]);
    return best;
}

/* Both lists have room for every expert: see hd_experts_open(). */
static void put(struct hd_expert_list *l, int32_t id)
{
    l->id[l->n++] = id;
}

static bool enqueue(struct hd_experts *x, int32_t i, bool ahead)
{
    struct hd_expert *e = &x->e[i];
    int32_t slot = find_slot(x, ahead);

    if (slot < 0)
        return false;
    x->owner[slot] = i;
    e->slot = slot;
    e->state = HD_EXPERT_QUEUED;
    e->wanted = !ahead;
    e->ahead = ahead;
    e->given_up = false;
    x->n_ahead += ahead;
    put(&x->queue, i);
    pthread_cond_broadcast(&x->work); /* which reader may is for readers to say */
    return true;
}

/* Slots for what the mixture misses, as long as there are any. */
static void assign(struct hd_experts *x)
{
    size_t n = 0;

    while (n < x->miss.n && enqueue(x, x->miss.id[n], false))
        n++;
    memmove(x->miss.id, x->miss.id + n, (x->miss.n - n) * sizeof *x->miss.id);
    x->miss.n -= n;
}

/* No more than half of the cache waits for what may come. */
static void read_ahead(struct hd_experts *x, int32_t i)
{
    if (x->e[i].state == HD_EXPERT_ABSENT && x->n_ahead < x->n_slot / 2)
        enqueue(x, i, true);
}

static void read_layer_ahead(struct hd_experts *x, int32_t layer)
{
    const struct hd_expert_layer *l = &x->layer[(size_t)layer < x->n_main ? layer : 0];

    for (int64_t k = 0; (size_t)layer < x->n_main && k < l->n; k++)
        read_ahead(x, l->first + (int32_t)k);
}

void hd_experts_done(struct hd_experts *x, int32_t i, int rc, const struct hd_err *err)
{
    struct hd_expert *e = &x->e[i];

    x->n_ahead -= e->ahead && !e->wanted;
    if (rc != HD_OK) {                /* HD_AGAIN: given up */
        if (e->wanted && rc < 0 && !x->err.code)
            x->err = *err;
        if (e->wanted && rc == HD_AGAIN)
            put(&x->miss, i);
        e->wanted = false;
        release_slot(x, e);
    } else {
        e->state = HD_EXPERT_READY;
        bind(x, e);
        if (e->wanted) {
            e->wanted = false;
            e->pinned = true;
            put(&x->ready, i);
        }
    }
    assign(x);                        /* what was read ahead may go again */
    pthread_cond_signal(&x->arrived);
}

static bool guessed(const struct hd_expert_guess *g, int32_t i)
{
    for (int k = 0; g && k < g->n; k++)
        if (g->id[k] == i)
            return true;
    return false;
}

/* What was read ahead of a layer's experts, is not wanted and has not come is given up, unless keep (which may be NULL) names it again. */
static void give_up(struct hd_experts *x, int32_t layer, const struct hd_expert_guess *keep)
{
    size_t n = 0;

    for (size_t k = 0; k < x->queue.n; k++) {
        struct hd_expert *e = &x->e[x->queue.id[k]];

        if (e->wanted || e->layer != layer || guessed(keep, x->queue.id[k])) {
            x->queue.id[n++] = x->queue.id[k];
        } else {
            x->n_ahead--;
            release_slot(x, e);
        }
    }
    x->queue.n = n;
    for (int i = 0; i < HD_EXPERTS_READERS; i++) {
        int32_t now = x->reader[i].now;

        if (now >= 0 && x->e[now].layer == layer)
            x->e[now].given_up = !x->e[now].wanted && !guessed(keep, now);
    }
}

/* The mixture runs: what was read ahead for it in vain is an expert like any other, and goes before those that are used more. */
static void end_guesses(struct hd_experts *x, const struct hd_expert_layer *l)
{
    give_up(x, x->layer_now, NULL);
    for (int32_t i = l->first; i < l->first + l->n; i++)
        if (x->e[i].state == HD_EXPERT_READY)
            x->e[i].ahead = false;
}

/* ---- a mixture ---- */

/* More uses: the count of uses halves every HALF_LIFE tokens. As a key that does not change while nothing happens: log2 of the count that one
 * would have to have had at the beginning to have as much now. */
static void count_use(struct hd_experts *x, struct hd_expert *e, int32_t n_tok)
{
    double now = x->n_tok / HALF_LIFE;

    e->key = log2(exp2(e->key - now) + n_tok) + now;
    e->step = x->step;
}

/* How much of what a mixture wants was guessed before, whether it was read or not: guesses that come true too rarely are not read any more. */
static void judge_guess(struct hd_experts *x, struct hd_expert_guess *g, const struct hd_expert_layer *l, const int32_t *expert, int64_t n)
{
    int64_t right = 0;

    if (g->n && x->e[g->id[0]].layer == (int32_t)(l - x->layer)) {
        for (int64_t k = 0; k < n; k++)
            right += guessed(g, l->first + expert[k]);
        g->worth += ((double)right / (double)n - g->worth) / GUESS_MEMORY;
    }
    g->n = 0;
}

/* The drive has nothing left to begin for the mixture: what comes next, certain or guessed, the newer guess first. */
static void read_on(struct hd_experts *x)
{
    if (x->miss.n)
        return;
    if (x->sweep)
        read_layer_ahead(x, x->layer_now + 1);
    for (int k = HD_LEN(x->guess) - 1; k >= 0; k--)
        for (int i = 0; i < x->guess[k].n && x->guess[k].worth >= GUESS_WORTH; i++)
            read_ahead(x, x->guess[k].id[i]);
}

/* The lock is held. */
static void begin(struct hd_experts *x, const struct hd_expert_layer *l, const int32_t *expert, const int32_t *n_tok, int64_t n)
{
    HD_ASSERT(!x->n_left && !x->ready.n && !x->miss.n);
    x->layer_now = (int32_t)(l - x->layer);
    x->sweep = 2 * n > l->n && l->n > 2;
    x->n_left = n;
    for (int k = 0; k < HD_LEN(x->guess); k++)
        judge_guess(x, &x->guess[k], l, expert, n);
    for (int64_t k = 0; k < n; k++) {
        int32_t i = l->first + expert[k];
        struct hd_expert *e = &x->e[i];

        count_use(x, e, n_tok[k]);
        if (e->ahead || e->state != HD_EXPERT_READY)
            x->stats.needed_bytes += hd_expert_needed(e);
        if (e->ahead) {
            x->stats.ahead_used += e->state != HD_EXPERT_QUEUED;
            x->n_ahead -= e->state != HD_EXPERT_READY;
            e->ahead = false;
        }
        if (e->state == HD_EXPERT_READY) {
            x->stats.hit++;
            e->pinned = true;
            put(&x->ready, i);
            continue;
        }
        x->stats.miss++;
        if (e->state == HD_EXPERT_ABSENT) {
            put(&x->miss, i);
        } else {
            x->stats.late += e->state != HD_EXPERT_QUEUED;
            e->wanted = true;
            e->given_up = false;
            pthread_cond_broadcast(&x->work);         /* whoever reads it need not let others go first any more */
        }
    }
    end_guesses(x, l);
    assign(x);
    read_on(x);
}

static void drop(void *self);

static void soon(void *self, const struct hd_tensor *gate, const int32_t *expert, int64_t n)
{
    struct hd_experts *x = self;
    const struct hd_expert_layer *l = hd_expert_layer_of(x, gate);
    int64_t n_pick = 0;

    if (!l)
        return;
    if (x->begun)                     /* that mixture never ran: its step failed */
        drop(x);
    memset(x->count, 0, (size_t)l->n * sizeof *x->count);
    for (int64_t k = 0; k < n; k++)
        x->count[expert[k]]++;
    for (int32_t k = 0; k < l->n; k++)
        if (x->count[k]) {
            x->count[n_pick] = x->count[k];
            x->pick[n_pick++] = k;
        }
    pthread_mutex_lock(&x->lock);
    begin(x, l, x->pick, x->count, n_pick);
    x->begun = true;
    pthread_mutex_unlock(&x->lock);
}

static bool want(void *self, const struct hd_tensor *gate, const int32_t *expert, const int32_t *n_tok, int64_t n)
{
    struct hd_experts *x = self;
    const struct hd_expert_layer *l = hd_expert_layer_of(x, gate);
    bool begun = x->begun && l == &x->layer[x->layer_now];

    if (x->begun && !begun)
        drop(x);
    x->begun = false;
    if (!l)
        return false;
    pthread_mutex_lock(&x->lock);
    if (!begun)
        begin(x, l, expert, n_tok, n);
    HD_ASSERT(x->n_left == n);
    pthread_mutex_unlock(&x->lock);
    return true;
}

/* Asks now and then whether to go on; the lock is held, but not meanwhile. */
static bool stopped(struct hd_experts *x)
{
    double now = hd_now();
    bool yes;

    if (!x->stop || now - x->asked < STOP_EVERY)
        return false;
    x->asked = now;
    pthread_mutex_unlock(&x->lock);
    yes = x->stop(x->stop_arg);
    pthread_mutex_lock(&x->lock);
    return yes;
}

/* Waits for an expert to arrive, or for the moment to ask again; the lock is held. */
static void wait_arrival(struct hd_experts *x)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += (long)(STOP_EVERY * 1e9);
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&x->arrived, &x->lock, &t);
}

static int64_t take(void *self, int32_t *ready, int64_t max, struct hd_err *err)
{
    struct hd_experts *x = self;
    int32_t first = x->layer[x->layer_now].first;
    int64_t n = 0;
    double t0 = 0;

    pthread_mutex_lock(&x->lock);
    if (!x->ready.n && x->n_left)
        t0 = hd_now();
    while (!x->ready.n && x->n_left && !x->err.code)
        if (stopped(x))
            hd_err_set(&x->err, HD_ERR_CANCELLED, "cancelled while experts were read");
        else if (!x->ready.n && !x->err.code)
            wait_arrival(x);
    if (t0 > 0)
        x->stats.wait_s += hd_now() - t0;
    if (x->err.code) {
        n = hd_err_set(err, x->err.code, "%s", x->err.msg);
    } else {
        for (; n < max && x->ready.n; n++)
            ready[n] = x->ready.id[--x->ready.n] - first;
        x->n_left -= n;
        read_on(x);
    }
    pthread_mutex_unlock(&x->lock);
    return n;
}

static void give(void *self, const int32_t *expert, int64_t n)
{
    struct hd_experts *x = self;

    pthread_mutex_lock(&x->lock);
    for (int64_t k = 0; k < n; k++)
        x->e[x->layer[x->layer_now].first + expert[k]].pinned = false;
    assign(x);
    pthread_mutex_unlock(&x->lock);
}

static void drop(void *self)
{
    struct hd_experts *x = self;
    const struct hd_expert_layer *l = &x->layer[x->layer_now];

    pthread_mutex_lock(&x->lock);
    for (int64_t k = 0; k < l->n; k++) {
        struct hd_expert *e = &x->e[l->first + k];

        if (e->wanted) {              /* on its way: nobody waits any more */
            e->wanted = false;
            e->ahead = true;
            x->n_ahead++;
            x->stats.ahead += e->state != HD_EXPERT_QUEUED;
        }
        e->pinned = false;
    }
    x->miss.n = x->ready.n = 0;
    x->n_left = 0;
    x->begun = false;
    x->err = (struct hd_err){0};
    pthread_mutex_unlock(&x->lock);
}

static void ahead(void *self, const struct hd_tensor *gate, const int32_t *expert, int64_t n)
{
    struct hd_experts *x = self;
    const struct hd_expert_layer *l = hd_expert_layer_of(x, gate);
    struct hd_expert_guess *g;

    if (!l)
        return;
    pthread_mutex_lock(&x->lock);
    g = &x->guess[!x->begun && !x->n_left];
    g->n = 0;
    for (int64_t k = 0; k < n && g->n < HD_SOURCE_AHEAD_MAX; k++)
        g->id[g->n++] = l->first + expert[k];
    if (g == &x->guess[1] && g->worth >= GUESS_WORTH) {       /* it knows better than the one before */
        give_up(x, (int32_t)(l - x->layer), g);
        x->guess[0].n = 0;
    }
    read_on(x);
    pthread_mutex_unlock(&x->lock);
}

void hd_experts_step(struct hd_experts *x, const int32_t *ids, int64_t n, bool (*stop)(void *arg), void *arg)
{
    if (x->begun)                     /* the step before failed between soon() and want() */
        drop(x);
    pthread_mutex_lock(&x->lock);
    x->step++;
    x->n_tok += (double)n;
    x->guess[0].n = x->guess[1].n = 0;
    x->sweep = false;
    x->stop = stop;
    x->stop_arg = arg;
    x->asked = 0;
    for (size_t i = 0; i < x->n_layer; i++) {
        const struct hd_tensor *table = x->layer[i].route;

        for (int64_t t = 0; table && t < n && x->n_ahead < x->n_slot / 2; t++)
            for (int64_t k = 0; k < hd_cols(table); k++) {
                int64_t e = hd_int_at(table->type, (const char *)table->data + ids[t] * table->row_bytes, k);

                read_ahead(x, x->layer[i].first + (int32_t)(e < 0 || e >= x->layer[i].n ? 0 : e));
            }
    }
    pthread_mutex_unlock(&x->lock);
}

/* ---- opening ---- */

int hd_experts_open(struct hd_experts *x, const struct hd_store *st, int64_t n_slot, struct hd_err *err)
{
    struct hd_experts_size size;
    int64_t n_most = 1;

    HD_TRY(hd_experts_size(x, &size, err));
    for (size_t i = 0; i < x->n_layer; i++)
        n_most = x->layer[i].n > n_most ? x->layer[i].n : n_most;
    x->store = st;
    x->n_slot = n_slot < size.n_expert ? n_slot : size.n_expert;
    x->slot_bytes = size.slot_bytes;
    x->buf_bytes = size.buffer_bytes;
    x->owner = hd_malloc((size_t)x->n_slot * sizeof *x->owner);
    x->queue.id = hd_malloc(x->n * sizeof *x->queue.id);
    x->miss.id = hd_malloc(x->n * sizeof *x->miss.id);
    x->ready.id = hd_malloc(x->n * sizeof *x->ready.id);
    x->count = hd_malloc((size_t)n_most * sizeof *x->count);
    x->pick = hd_malloc((size_t)n_most * sizeof *x->pick);
    x->data = hd_pages_alloc((size_t)(x->n_slot * x->slot_bytes));
    if (!x->count || !x->pick || !x->owner || !x->queue.id || !x->miss.id || !x->ready.id || !x->data)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %lld experts of %lld bytes", (long long)x->n_slot, (long long)x->slot_bytes);
    for (int64_t s = 0; s < x->n_slot; s++)
        x->owner[s] = -1;
    HD_TRY(hd_experts_open_files(x, err));
    for (size_t i = 0; i < x->n; i++) {
        unbind(&x->e[i]);
        for (int m = 0; m < 3; m++)
            x->e[i].w[m]->panels = x->e[i].panels[m].kind ? &x->e[i].panels[m] : NULL;
    }
    x->source = (struct hd_source){x, want, take, give, drop, soon, ahead, hd_experts_has_rows, hd_experts_row, hd_experts_rows_ahead};
    x->locks = !pthread_mutex_init(&x->lock, NULL) && !pthread_cond_init(&x->work, NULL) && !pthread_cond_init(&x->arrived, NULL);
    return x->locks && hd_experts_start(x) ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory or threads for reading experts");
}

void hd_experts_free(struct hd_experts *x)
{
    if (!x)
        return;
    if (x->locks) {
        hd_experts_stop(x);
        pthread_mutex_destroy(&x->lock);
        pthread_cond_destroy(&x->work);
        pthread_cond_destroy(&x->arrived);
    }
    hd_experts_close_files(x);
    hd_expert_pack_close(x);
    if (x->data)
        hd_pages_free(x->data, (size_t)(x->n_slot * x->slot_bytes));
    hd_free(x->owner);
    hd_free(x->queue.id);
    hd_free(x->miss.id);
    hd_free(x->ready.id);
    hd_free(x->count);
    hd_free(x->pick);
    hd_free(x->table);
    hd_free(x->layer);
    hd_free(x->e);
    hd_free(x);
}

const struct hd_source *hd_experts_source(struct hd_experts *x)
{
    return &x->source;
}

int64_t hd_experts_slots(const struct hd_experts *x)
{
    return x->n_slot;
}

bool hd_experts_direct(const struct hd_experts *x)
{
    bool all = !x->pack.path || x->pack.direct >= 0;

    for (int i = 0; i < x->store->n_file; i++)
        all = all && x->direct[i] >= 0;
    return all;
}

void hd_experts_stats(struct hd_experts *x, struct hd_experts_stats *out)
{
    pthread_mutex_lock(&x->lock);
    *out = x->stats;
    pthread_mutex_unlock(&x->lock);
    out->n_row = __atomic_load_n(&x->stats.n_row, __ATOMIC_RELAXED);
    out->n_row_ahead = __atomic_load_n(&x->stats.n_row_ahead, __ATOMIC_RELAXED);
    out->row_bytes = __atomic_load_n(&x->stats.row_bytes, __ATOMIC_RELAXED);
}
