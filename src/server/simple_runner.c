/* simple_runner.c: see simple_runner.h. */
#include "server/simple_runner.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

#define QUEUE_MAX 64

struct job {
    struct job *next;
    uint64_t id;
    struct hd_run_request r;
    int32_t *prompt;
    struct hd_logit_bias *bias;
    char *tenant;
    double born;
    bool cancelled, paused;
};

struct hd_simple_runner {
    struct hd_engine *engine;
    const struct hd_tokenizer *tok;
    struct hd_session session;
    char *tenant;                     /* whose tokens the session holds */
    pthread_t thread;
    bool started, closing;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct job *jobs;                 /* the first one runs */
    int64_t n_job;
    uint64_t last_id;
    struct hd_run_stats st;
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Waits while the job is paused; false: it is cancelled. */
static bool go_on(struct hd_simple_runner *s, const struct job *j)
{
    bool on;

    pthread_mutex_lock(&s->lock);
    while (j->paused && !j->cancelled)
        pthread_cond_wait(&s->wake, &s->lock);
    on = !j->cancelled;
    pthread_mutex_unlock(&s->lock);
    return on;
}

static void send_event(const struct job *j, struct hd_run_event e)
{
    e.id = j->id;
    j->r.event(j->r.arg, &e);
}

/* The pick that a prompt's token would have been, from the logits before it. */
static void score(const float *logits, int64_t n_vocab, int32_t id, int n_top, struct hd_pick *out)
{
    double max = -INFINITY, sum = 0, log_sum;

    *out = (struct hd_pick){.id = id, .n_top = n_top < 0 ? 0 : n_top};
    for (int64_t i = 0; i < n_vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    for (int64_t i = 0; i < n_vocab; i++)
        sum += exp(logits[i] - max);
    log_sum = max + log(sum);
    out->logprob = logits[id] - log_sum;
    for (int k = 0; k < out->n_top; k++) {
        int64_t best = -1;

        for (int64_t i = 0; i < n_vocab; i++) {
            bool lower = k == 0 || logits[i] < logits[out->top_id[k - 1]] || (logits[i] == logits[out->top_id[k - 1]] && i > out->top_id[k - 1]);

            if (lower && (best < 0 || logits[i] > logits[best]))
                best = i;
        }
        out->top_id[k] = (int32_t)best;
        out->top_logprob[k] = logits[best] - log_sum;
    }
}

static void score_rows(const struct hd_simple_runner *s, const struct job *j, const float *logits, int64_t at, int64_t n)
{
    int64_t n_vocab = s->engine->model.hp.n_vocab;
    struct hd_pick pick;

    for (int64_t i = 0; i < n && at + i + 1 < j->r.n_prompt; i++) {
        score(logits + i * n_vocab, n_vocab, j->prompt[at + i + 1], j->r.sample.n_logprob, &pick);
        send_event(j, (struct hd_run_event){.kind = HD_RUN_PROMPT, .pick = &pick});
    }
}

/* Chunk by chunk; *logits of the last token. */
static int prefill(struct hd_simple_runner *s, const struct job *j, int64_t at, const float **logits, struct hd_err *err)
{
    int64_t chunk = s->engine->opt.chunk, n_vocab = s->engine->model.hp.n_vocab, cached = at;

    send_event(j, (struct hd_run_event){.kind = HD_RUN_PROGRESS, .done = at, .total = j->r.n_prompt, .cached = cached});
    while (at < j->r.n_prompt) {
        int64_t n = j->r.n_prompt - at < chunk ? j->r.n_prompt - at : chunk;
        struct hd_step_item it = {.session = &s->session, .ids = j->prompt + at, .n_tok = n, .want = j->r.prompt_logprobs ? HD_WANT_ALL : HD_WANT_LAST};

        if (!go_on(s, j))
            return HD_ERR_CANCELLED;
        HD_TRY(hd_engine_step(s->engine, &it, 1, err));
        if (j->r.prompt_logprobs)
            score_rows(s, j, it.logits, at, n);
        *logits = it.want == HD_WANT_ALL ? it.logits + (n - 1) * n_vocab : it.logits;
        at += n;
        send_event(j, (struct hd_run_event){.kind = HD_RUN_PROGRESS, .done = at, .total = j->r.n_prompt, .cached = cached});
    }
    return HD_OK;
}

static int decode(struct hd_simple_runner *s, const struct job *j, struct hd_sampler *sampler, const float *logits, struct hd_run_event *end, struct hd_err *err)
{
    int64_t n_vocab = s->engine->model.hp.n_vocab;
    struct hd_pick pick;

    end->finish = HD_FINISH_LENGTH;
    while (j->r.n_max < 0 || end->n_generated < j->r.n_max) {
        struct hd_step_item it = {.session = &s->session, .n_tok = 1, .want = HD_WANT_LAST, .ids = &pick.id};

        if (j->r.constraint.mask)
            j->r.constraint.mask(j->r.constraint.self, (float *)logits, n_vocab);
        HD_TRY(hd_sampler_pick(sampler, logits, s->session.ids, (int64_t)s->session.n, &pick, err));
        if (hd_tokenizer_is_end(s->tok, pick.id) && !j->r.ignore_end) {
            end->finish = HD_FINISH_END;
            return HD_OK;
        }
        if (j->r.constraint.take)
            j->r.constraint.take(j->r.constraint.self, pick.id);
        end->n_generated++;
        send_event(j, (struct hd_run_event){.kind = HD_RUN_TOKEN, .pick = &pick});
        if (!go_on(s, j))
            return HD_ERR_CANCELLED;
        if (end->n_generated == j->r.n_max)
            break;
        if ((int64_t)s->session.n >= s->engine->opt.n_ctx) {
            end->finish = HD_FINISH_CONTEXT;
            break;
        }
        HD_TRY(hd_engine_step(s->engine, &it, 1, err));
        logits = it.logits;
    }
    return HD_OK;
}

/* How much of the session the prompt begins with; all logits are wanted: nothing. */
static int64_t reusable(const struct hd_simple_runner *s, const struct job *j)
{
    int64_t k = 0;

    if (j->r.prompt_logprobs || !s->tenant || strcmp(s->tenant, j->tenant))
        return 0;
    while (k < (int64_t)s->session.n && k + 1 < j->r.n_prompt && s->session.ids[k] == j->prompt[k])
        k++;
    return k;
}

static int answer(struct hd_simple_runner *s, const struct job *j, struct hd_run_event *end, struct hd_err *err)
{
    struct hd_sampler sampler;
    const float *logits = NULL;
    int64_t same = reusable(s, j);
    double t = now();
    int rc;

    HD_TRY(hd_session_rewind(&s->session, same, err));
    same = (int64_t)s->session.n;
    hd_free(s->tenant);
    s->tenant = hd_strdup(j->tenant);
    HD_TRY(hd_sampler_init(&sampler, &j->r.sample, s->engine->model.hp.n_vocab, err));
    rc = prefill(s, j, same, &logits, err);
    end->prefill_s = now() - t;
    t = now();
    if (rc == HD_OK)
        rc = decode(s, j, &sampler, logits, end, err);
    end->decode_s = now() - t;
    hd_sampler_release(&sampler);
    pthread_mutex_lock(&s->lock);
    s->st.n_prompt += (uint64_t)j->r.n_prompt;
    s->st.n_cached += (uint64_t)same;
    s->st.n_generated += (uint64_t)end->n_generated;
    s->st.prefill_s += end->prefill_s;
    s->st.decode_s += end->decode_s;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static void free_job(struct job *j)
{
    if (j->r.constraint.free)
        j->r.constraint.free(j->r.constraint.self);
    hd_free(j->prompt);
    hd_free(j->bias);
    hd_free(j->tenant);
    hd_free(j);
}

static void run_job(struct hd_simple_runner *s, struct job *j)
{
    struct hd_run_event end = {.kind = HD_RUN_END, .queue_s = now() - j->born};
    struct hd_err err = {0};
    int rc = go_on(s, j) ? answer(s, j, &end, &err) : HD_ERR_CANCELLED;

    if (rc == HD_ERR_CANCELLED)
        end.finish = HD_FINISH_CANCELLED;
    else if (rc < 0)
        end.err = &err;
    pthread_mutex_lock(&s->lock);
    s->jobs = j->next;
    s->n_job--;
    pthread_mutex_unlock(&s->lock);
    send_event(j, end);
    free_job(j);
}

static void *work(void *arg)
{
    struct hd_simple_runner *s = arg;

    for (;;) {
        struct job *j;

        pthread_mutex_lock(&s->lock);
        while (!s->jobs && !s->closing)
            pthread_cond_wait(&s->wake, &s->lock);
        j = s->jobs;
        pthread_mutex_unlock(&s->lock);
        if (!j)
            return NULL;
        run_job(s, j);
    }
}

/* ---- the runner ---- */

static struct job *new_job(const struct hd_run_request *r)
{
    struct job *j = hd_calloc(1, sizeof *j);

    if (!j)
        return NULL;
    j->r = *r;
    j->r.constraint.free = NULL;      /* the caller's, until the job is accepted */
    j->born = now();
    j->prompt = hd_malloc((size_t)r->n_prompt * sizeof *j->prompt);
    j->bias = hd_malloc(((size_t)r->sample.n_bias + 1) * sizeof *j->bias);
    j->tenant = hd_strdup(r->tenant ? r->tenant : "");
    if (!j->prompt || !j->bias || !j->tenant) {
        free_job(j);
        return NULL;
    }
    memcpy(j->prompt, r->prompt, (size_t)r->n_prompt * sizeof *j->prompt);
    if (r->sample.n_bias)
        memcpy(j->bias, r->sample.bias, (size_t)r->sample.n_bias * sizeof *j->bias);
    j->r.sample.bias = j->bias;
    return j;
}

static int submit(void *self, const struct hd_run_request *r, uint64_t *id, double *retry_s, struct hd_err *err)
{
    struct hd_simple_runner *s = self;
    struct job *j, **at;
    int rc = HD_OK;

    if (r->n_prompt < 1 || r->n_prompt >= s->engine->opt.n_ctx)
        return hd_err_set(err, HD_ERR_USAGE, "the prompt has %lld tokens, the window %lld", (long long)r->n_prompt, (long long)s->engine->opt.n_ctx);
    for (int64_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= s->engine->model.hp.n_vocab)
            return hd_err_set(err, HD_ERR_USAGE, "the prompt holds the token %d; the model has %lld", r->prompt[i], (long long)s->engine->model.hp.n_vocab);
    HD_TRY(hd_sample_check(&r->sample, s->engine->model.hp.n_vocab, err));
    if (!(j = new_job(r)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a request");
    pthread_mutex_lock(&s->lock);
    if (s->n_job > QUEUE_MAX) {
        *retry_s = 1;
        rc = hd_err_set(err, HD_ERR_LIMIT, "too many requests are waiting");
    } else {
        j->r.constraint.free = r->constraint.free;
        *id = j->id = ++s->last_id;
        for (at = &s->jobs; *at; at = &(*at)->next)
            ;
        *at = j;
        s->n_job++;
        pthread_cond_broadcast(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (rc < 0)
        free_job(j);
    return rc;
}

static void change(struct hd_simple_runner *s, uint64_t id, bool cancel, bool paused)
{
    pthread_mutex_lock(&s->lock);
    for (struct job *j = s->jobs; j; j = j->next)
        if (j->id == id) {
            j->cancelled |= cancel;
            j->paused = paused;
        }
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void cancel(void *self, uint64_t id)
{
    change(self, id, true, false);
}

static void pause_job(void *self, uint64_t id, bool on)
{
    change(self, id, false, on);
}

static void stats(void *self, struct hd_run_stats *out)
{
    struct hd_simple_runner *s = self;

    pthread_mutex_lock(&s->lock);
    *out = s->st;
    out->n_running = s->n_job > 0;
    out->n_waiting = s->n_job > 0 ? s->n_job - 1 : 0;
    out->n_session = s->tenant != NULL;
    out->ctx_tokens = s->engine->opt.n_ctx;
    pthread_mutex_unlock(&s->lock);
}

static void flush(void *self)
{
    /* The next prompt that begins otherwise forgets what is kept. */
}

void hd_simple_runner_get(struct hd_simple_runner *s, struct hd_runner *out)
{
    int64_t n_model = s->engine->model.hp.n_ctx, n_ctx = s->engine->opt.n_ctx;

    *out = (struct hd_runner){s, n_ctx < n_model ? n_ctx : n_model, submit, cancel, pause_job, stats, flush};
}

int hd_simple_runner_create(struct hd_simple_runner **out, struct hd_engine *e, const struct hd_tokenizer *tok, struct hd_err *err)
{
    struct hd_simple_runner *s = hd_calloc(1, sizeof *s);

    if (!s)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a runner");
    s->engine = e;
    s->tok = tok;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    if (hd_session_open(&s->session, e, err) < 0) {
        hd_free(s);
        return err->code;
    }
    if (pthread_create(&s->thread, NULL, work, s)) {
        hd_simple_runner_free(s);
        return hd_err_set(err, HD_ERR_MEMORY, "cannot start a thread");
    }
    s->started = true;
    *out = s;
    return HD_OK;
}

void hd_simple_runner_free(struct hd_simple_runner *s)
{
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->closing = true;
        for (struct job *j = s->jobs; j; j = j->next)
            j->cancelled = true;
        pthread_cond_broadcast(&s->wake);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    hd_session_close(&s->session);
    hd_free(s->tenant);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    hd_free(s);
}
