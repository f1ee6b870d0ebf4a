/* prep.c: see prep.h. */
#include "server/prep.h"

#include <pthread.h>
#include <string.h>

#include "base/mem.h"
#include "engine/model_tokenizer.h"

struct job {
    struct job *next;
    struct hd_exchange *x;            /* NULL: the client has gone; the loop's */
    struct hd_exchange seen;          /* a copy, for prepare() */
    struct hd_str body;
    const struct hd_prep_kind *kind;
    struct hd_ask ask;
    struct hd_problem problem;
    int rc;
};

struct hd_prep_queue {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct job *first, **last;        /* to do */
    struct job *done;                 /* newest first */
    struct event *ready;
    bool closing;
    struct hd_tokenizer *tok;         /* the thread's own: a tokenizer serves one thread at a time */
};

static _Thread_local struct hd_tokenizer *own_tok;

struct hd_tokenizer *hd_prep_tokenizer(const struct hd_server *s)
{
    return own_tok ? own_tok : s->tok;
}

static void free_job(struct job *j)
{
    hd_str_release(&j->body);
    hd_free(j);
}

/* ---- the thread ---- */

static struct job *next_job(struct hd_prep_queue *q)
{
    struct job *j;

    pthread_mutex_lock(&q->lock);
    while (!q->first && !q->closing)
        pthread_cond_wait(&q->wake, &q->lock);
    j = q->closing ? NULL : q->first;
    if (j && !(q->first = j->next))
        q->last = &q->first;
    pthread_mutex_unlock(&q->lock);
    return j;
}

static void *work(void *arg)
{
    struct hd_server *s = arg;
    struct hd_prep_queue *q = s->prep;
    struct job *j;

    own_tok = q->tok;
    while ((j = next_job(q))) {
        j->rc = j->kind->prepare(s, &j->seen, &j->ask, &j->problem);
        if (j->rc == HD_OK && j->ask.doc)
            json_object_clear(j->ask.doc);        /* large, and rendered: freed here rather than on the loop */
        if (j->rc == HD_OK) {
            json_object_del(j->ask.body, "messages");
            json_object_del(j->ask.body, "input");
        }
        hd_str_release(&j->body);
        pthread_mutex_lock(&q->lock);
        j->next = q->done;
        q->done = j;
        pthread_mutex_unlock(&q->lock);
        event_active(q->ready, EV_TIMEOUT, 0);
    }
    return NULL;
}

/* ---- the loop ---- */

static void finish(struct hd_server *s, struct job *j)
{
    if (j->x) {
        j->x->pending = NULL;
        j->kind->done(s, j->x, j->rc, &j->ask, &j->problem);
    } else {
        if (j->rc == HD_OK && j->kind->free_extra && j->ask.extra)
            j->kind->free_extra(j->ask.extra);
        hd_ask_release(&j->ask);
    }
    s->n_prep--;
    free_job(j);
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
    struct hd_server *s = arg;
    struct job *done, *list = NULL;

    pthread_mutex_lock(&s->prep->lock);
    done = s->prep->done;
    s->prep->done = NULL;
    pthread_mutex_unlock(&s->prep->lock);
    while (done) {                    /* in the order in which they came */
        struct job *j = done;

        done = j->next;
        j->next = list;
        list = j;
    }
    while (list) {
        struct job *j = list;

        list = j->next;
        finish(s, j);
    }
    hd_server_stop_if_idle(s);
}

/* Schemas are compiled: a small one can take as long as a large body. */
static bool is_long(const struct hd_exchange *x)
{
    static const char *const words[] = {"schema", "strict", "tool_choice", "guided_", "structured_outputs"};

    if (x->n_body > HD_PREP_BYTES)
        return true;
    for (int i = 0; x->n_body && i < HD_LEN(words); i++)
        if (memmem(x->body, x->n_body, words[i], strlen(words[i])))
            return true;
    return false;
}

void hd_prep(struct hd_server *s, struct hd_exchange *x, const struct hd_prep_kind *kind)
{
    struct hd_prep_queue *q = s->prep;
    struct hd_problem p = {0};
    struct hd_ask a;
    struct job *j = q && is_long(x) ? hd_calloc(1, sizeof *j) : NULL;

    if (!j) {
        int rc = kind->prepare(s, x, &a, &p);

        kind->done(s, x, rc, &a, &p);
        return;
    }
    j->x = x;
    j->kind = kind;
    hd_exchange_take_body(x, &j->body);
    j->seen = *x;
    j->seen.body = hd_str_get(&j->body);
    x->pending = j;
    s->n_prep++;
    pthread_mutex_lock(&q->lock);
    *q->last = j;
    q->last = &j->next;
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&q->lock);
}

void hd_prep_gone(struct hd_exchange *x)
{
    struct job *j = x->pending;

    if (j)
        j->x = NULL;
    x->pending = NULL;
}

/* Without a second tokenizer, or a thread, everything is done on the loop. */
int hd_prep_init(struct hd_server *s, struct hd_err *err)
{
    struct hd_prep_queue *q;
    struct hd_err why;

    if (!s->opt.tokenizer)
        return HD_OK;
    if (!(q = hd_calloc(1, sizeof *q)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the server");
    q->last = &q->first;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->wake, NULL);
    q->ready = event_new(s->base, -1, 0, on_ready, s);
    s->prep = q;
    if (!q->ready || hd_model_tokenizer(&q->tok, s->opt.tokenizer, &why) < 0 || pthread_create(&q->thread, NULL, work, s)) {
        q->closing = true;            /* there is no thread */
        hd_prep_release(s);
    }
    return HD_OK;
}

void hd_prep_release(struct hd_server *s)
{
    struct hd_prep_queue *q = s->prep;

    if (!q)
        return;
    pthread_mutex_lock(&q->lock);
    if (!q->closing) {
        q->closing = true;
        pthread_cond_signal(&q->wake);
        pthread_mutex_unlock(&q->lock);
        pthread_join(q->thread, NULL);
    } else {
        pthread_mutex_unlock(&q->lock);
    }
    for (struct job *j = q->first, *next; j; j = next) {
        next = j->next;
        if (j->x)
            j->x->pending = NULL;
        free_job(j);
    }
    for (struct job *j = q->done, *next; j; j = next) {
        next = j->next;
        if (j->x)
            j->x->pending = NULL;
        j->x = NULL;
        finish(s, j);
    }
    if (q->ready)
        event_free(q->ready);
    hd_tokenizer_free(q->tok);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->wake);
    hd_free(q);
    s->prep = NULL;
}
