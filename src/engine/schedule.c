/* schedule.c: see schedule.h: the doors: what other threads may call. They put requests into an inbox and leave flags; the scheduler's thread
 * empties the inbox between two steps, so that the lock is never held while anything is computed or told. */
#include "engine/schedule.h"

#include <pthread.h>

#include "base/mem.h"
#include "engine/turns.h"

struct hd_schedule {
    struct hd_turns turns;            /* the thread's own, but for its atomic counters */
    pthread_t thread;
    bool manual;

    pthread_mutex_t lock;             /* for what follows */
    pthread_cond_t news, quiet;
    struct hd_request *inbox, **inbox_end;
    struct hd_request *oldest, *newest;       /* everything that has not ended */
    uint64_t last_id;
    bool closed, stop, flush, changed, ignore_pause;
    bool busy;                        /* the thread is between emptying the inbox and publishing statistics */
    double rate;
    struct hd_run_stats stats;        /* as of the last step */
};

/* ---- the thread's side ---- */

static void gone(void *arg, struct hd_request *r)
{
    struct hd_schedule *s = arg;

    pthread_mutex_lock(&s->lock);
    *(r->older ? &r->older->newer : &s->oldest) = r->newer;
    *(r->newer ? &r->newer->older : &s->newest) = r->older;
    pthread_mutex_unlock(&s->lock);
}

static void publish(struct hd_schedule *s)
{
    pthread_mutex_lock(&s->lock);
    hd_turns_stats(&s->turns, &s->stats);
    s->rate = s->turns.rate;
    s->busy = false;
    if (!s->oldest)
        pthread_cond_broadcast(&s->quiet);
    pthread_mutex_unlock(&s->lock);
}

/* What was left at the doors since the last time. */
static void take_in(struct hd_schedule *s)
{
    struct hd_request *list, *next;
    bool flush;

    pthread_mutex_lock(&s->lock);
    list = s->inbox;
    s->inbox = NULL;
    s->inbox_end = &s->inbox;
    flush = s->flush;
    s->flush = s->changed = false;
    s->busy = true;
    s->turns.ignore_pause = s->ignore_pause;
    pthread_mutex_unlock(&s->lock);
    if (flush)
        hd_turns_flush(&s->turns);
    for (; list; list = next) {
        next = list->next;
        hd_turns_add(&s->turns, list);
    }
}

static bool work(struct hd_schedule *s)
{
    bool any;

    take_in(s);
    any = hd_turns_step(&s->turns);
    publish(s);
    return any;
}

static void *thread_main(void *arg)
{
    struct hd_schedule *s = arg;

    for (;;) {
        bool any = work(s);

        pthread_mutex_lock(&s->lock);
        while (!any && !s->changed && !s->stop)
            pthread_cond_wait(&s->news, &s->lock);
        if (s->stop && !s->oldest) {
            pthread_mutex_unlock(&s->lock);
            return NULL;
        }
        pthread_mutex_unlock(&s->lock);
    }
}

bool hd_schedule_step(struct hd_schedule *s)
{
    HD_ASSERT(s->manual);
    return work(s);
}

/* ---- everybody's ---- */

static void wake(struct hd_schedule *s)
{
    s->changed = true;
    pthread_cond_signal(&s->news);
}

static void news(void *arg)
{
    struct hd_schedule *s = arg;

    pthread_mutex_lock(&s->lock);
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

static int check(const struct hd_schedule *s, const struct hd_run_request *r, struct hd_err *err)
{
    int64_t n_vocab = s->turns.engine->model.hp.n_vocab;

    if (r->n_prompt < 1)
        return hd_err_set(err, HD_ERR_USAGE, "the prompt is empty");
    if (r->n_prompt > s->turns.n_ctx)
        return hd_err_set(err, HD_ERR_USAGE, "the prompt is %lld tokens; the context has room for %lld", (long long)r->n_prompt, (long long)s->turns.n_ctx);
    for (int64_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= n_vocab)
            return hd_err_set(err, HD_ERR_USAGE, "token %lld: found id %d; expected 0 to %lld", (long long)i, r->prompt[i], (long long)n_vocab - 1);
    return hd_sample_check(&r->sample, n_vocab, err);
}

/* When a place may be free: what is ahead, at the speed of the last steps. */
static double retry_after(const struct hd_schedule *s)
{
    double n = (double)atomic_load(&s->turns.waiting_tokens) / (double)(atomic_load(&s->turns.n_waiting) + 1), t = s->rate > 0 ? n / s->rate : 1;

    return t < 1 ? 1 : t > 600 ? 600 : t;
}

/* With the lock held. */
static int admit(struct hd_schedule *s, const struct hd_run_request *r, double *retry_s, struct hd_err *err)
{
    const struct hd_schedule_options *o = &s->turns.opt;
    int64_t n = atomic_load(&s->turns.n_waiting), tokens = atomic_load(&s->turns.waiting_tokens);

    if (s->closed)
        return hd_err_set(err, HD_ERR_CANCELLED, "the scheduler accepts no more requests: it is shutting down");
    if (n < o->max_waiting && (!n || tokens + r->n_prompt <= o->max_waiting_tokens))
        return HD_OK;
    if (retry_s)
        *retry_s = retry_after(s);
    return hd_err_set(err, HD_ERR_LIMIT, "the queue is full: %lld requests with %lld tokens wait; at most %lld and %lld", (long long)n, (long long)tokens,
                      (long long)o->max_waiting, (long long)o->max_waiting_tokens);
}

static void enqueue(struct hd_schedule *s, struct hd_request *r)
{
    r->id = ++s->last_id;
    r->older = s->newest;
    *(s->newest ? &s->newest->newer : &s->oldest) = r;
    s->newest = r;
    *s->inbox_end = r;
    s->inbox_end = &r->next;
    atomic_fetch_add(&s->turns.n_waiting, 1);
    atomic_fetch_add(&s->turns.waiting_tokens, r->n_prompt);
    wake(s);
}

static int submit(void *self, const struct hd_run_request *q, uint64_t *id, double *retry_s, struct hd_err *err)
{
    struct hd_schedule *s = self;
    struct hd_request *r;
    int rc;

    HD_TRY(check(s, q, err));
    if (!(r = hd_request_create(q)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a request of %lld tokens", (long long)q->n_prompt);
    pthread_mutex_lock(&s->lock);
    if ((rc = admit(s, q, retry_s, err)) == HD_OK) {
        enqueue(s, r);
        *id = r->id;
    }
    pthread_mutex_unlock(&s->lock);
    if (rc < 0) {
        r->constraint.free = NULL;            /* still the caller's */
        hd_request_free(r);
    }
    return rc;
}

/* With the lock held; NULL when it has ended. */
static struct hd_request *find(struct hd_schedule *s, uint64_t id)
{
    struct hd_request *r = s->newest;

    while (r && r->id != id)
        r = r->older;
    return r;
}

static void cancel(void *self, uint64_t id)
{
    struct hd_schedule *s = self;
    struct hd_request *r;

    pthread_mutex_lock(&s->lock);
    if ((r = find(s, id))) {
        atomic_store(&r->cancel, true);
        wake(s);
    }
    pthread_mutex_unlock(&s->lock);
}

static void pause_reader(void *self, uint64_t id, bool on)
{
    struct hd_schedule *s = self;
    struct hd_request *r;

    pthread_mutex_lock(&s->lock);
    if ((r = find(s, id))) {
        atomic_store(&r->paused, on);
        wake(s);
    }
    pthread_mutex_unlock(&s->lock);
}

static void stats(void *self, struct hd_run_stats *out)
{
    struct hd_schedule *s = self;

    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    out->n_waiting = atomic_load(&s->turns.n_waiting);
    pthread_mutex_unlock(&s->lock);
}

static void flush(void *self)
{
    struct hd_schedule *s = self;

    pthread_mutex_lock(&s->lock);
    s->flush = true;
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

void hd_schedule_runner(struct hd_schedule *s, struct hd_runner *out)
{
    *out = (struct hd_runner){.self = s, .n_ctx = s->turns.n_ctx, .submit = submit, .cancel = cancel, .pause = pause_reader, .stats = stats, .flush = flush};
}

/* ---- life ---- */

void hd_schedule_drain(struct hd_schedule *s, bool finish)
{
    pthread_mutex_lock(&s->lock);
    s->closed = s->ignore_pause = true;
    for (struct hd_request *r = finish ? NULL : s->oldest; r; r = r->newer)
        atomic_store(&r->cancel, true);
    wake(s);
    while ((s->oldest || s->busy) && !s->manual)
        pthread_cond_wait(&s->quiet, &s->lock);
    pthread_mutex_unlock(&s->lock);
    while (s->manual && work(s)) {
    }
}

static void destroy(struct hd_schedule *s)
{
    pthread_cond_destroy(&s->news);
    pthread_cond_destroy(&s->quiet);
    pthread_mutex_destroy(&s->lock);
    hd_free(s);
}

int hd_schedule_create(struct hd_schedule **out, struct hd_engine *e, const struct hd_schedule_options *opt, struct hd_err *err)
{
    struct hd_schedule *s = hd_calloc(1, sizeof *s);
    int rc;

    if (!s)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a scheduler");
    s->manual = opt->manual;
    s->inbox_end = &s->inbox;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->news, NULL);
    pthread_cond_init(&s->quiet, NULL);
    if ((rc = hd_turns_init(&s->turns, e, opt, news, s, err)) < 0) {
        destroy(s);
        return rc;
    }
    s->turns.gone = gone;
    s->turns.gone_arg = s;
    publish(s);
    if (!s->manual && pthread_create(&s->thread, NULL, thread_main, s)) {
        hd_turns_release(&s->turns);
        destroy(s);
        return hd_err_set(err, HD_ERR_MEMORY, "cannot start the scheduler's thread");
    }
    *out = s;
    return HD_OK;
}

void hd_schedule_free(struct hd_schedule *s)
{
    if (!s)
        return;
    hd_schedule_drain(s, false);
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    wake(s);
    pthread_mutex_unlock(&s->lock);
    if (!s->manual)
        pthread_join(s->thread, NULL);
    hd_turns_release(&s->turns);
    destroy(s);
}
