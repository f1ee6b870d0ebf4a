/* script.c: see script.h. One thread plays all requests: it looks for the one whose time comes next and sleeps until then. */
#include "server/script.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"

#define N_REMEMBERED 256

struct run {
    char *when, *error, *refuse;
    struct hd_ids ids;
    double start_s, delay_s, retry_s;
    int64_t burst, repeat, random;
    int finish, error_code;
    int64_t n_used;
};

struct play {
    struct play *next;
    uint64_t id;
    const struct run *run;
    struct hd_run_request r;          /* prompt, tenant: ours */
    struct hd_ids prompt, said;
    char *tenant;
    double born, began, first, due;
    struct hd_rng rng;
    int64_t at, n_cached;
    bool running, paused, cancelled;
};

struct memory {
    struct hd_ids ids;
    char *tenant;
};

struct hd_script {
    struct hd_tokenizer *tok;
    int32_t think_end;
    float *logits;                    /* scratch */
    struct run *run;
    size_t n_run, cap_run;
    int64_t n_ctx, slots, queue;
    size_t turn;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct play *plays;               /* in order of arrival */
    int64_t n_running, n_waiting;
    uint64_t last_id, n_prompt, n_cached, n_generated;
    struct memory memory[N_REMEMBERED];
    size_t n_memory;
    bool closing, flushed;            /* flushed: what is remembered is to be forgotten */
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the file ---- */

static int read_ids(struct hd_script *s, const json_t *o, struct run *r, const char *where, struct hd_err *err)
{
    const json_t *ids = json_object_get(o, "ids"), *text = json_object_get(o, "text"), *v;
    size_t i;

    if (json_is_string(text))
        return hd_tokenize(s->tok, json_string_value(text), json_string_length(text), HD_TOK_SPECIAL, &r->ids, err);
    json_array_foreach((json_t *)ids, i, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= hd_tokenizer_size(s->tok))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: ids[%zu]: expected a token id", where, i);
        if (!HD_GROW(r->ids.id, r->ids.cap, r->ids.n + 1, (size_t)1 << 26))
            return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", where);
        r->ids.id[r->ids.n++] = (int32_t)json_integer_value(v);
    }
    return HD_OK;
}

static int read_word(const json_t *o, const char *key, const char *const *words, int n, int *out, const char *where, struct hd_err *err)
{
    const char *s = words[0];

    HD_TRY(hd_json_str_or(o, key, s, &s, where, err));
    for (*out = 0; *out < n; ++*out)
        if (!strcmp(s, words[*out]))
            return HD_OK;
    return hd_err_set(err, HD_ERR_FORMAT, "%s: %s: found \"%.40s\"", where, key, s);
}

static char *copy_text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? hd_strdup(s) : NULL;
}

static int read_run(struct hd_script *s, const json_t *o, size_t i, struct hd_err *err)
{
    static const char *const finishes[] = {"stop", "length", "context", "cancelled"}, *const codes[] = {"io", "memory", "limit"};
    static const int finish_of[] = {HD_FINISH_END, HD_FINISH_LENGTH, HD_FINISH_CONTEXT, HD_FINISH_CANCELLED}, code_of[] = {HD_ERR_IO, HD_ERR_MEMORY, HD_ERR_LIMIT};
    double start_ms, delay_ms;
    struct run *r;
    char where[40];
    int k;

    snprintf(where, sizeof where, "runs[%zu]", i);
    if (!HD_GROW(s->run, s->cap_run, s->n_run + 1, 100000))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", where);
    r = &s->run[s->n_run++];
    memset(r, 0, sizeof *r);
    HD_TRY(hd_json_real_or(o, "start_ms", 0, 1e9, 0, &start_ms, where, err));
    HD_TRY(hd_json_real_or(o, "delay_ms", 0, 1e9, 0, &delay_ms, where, err));
    HD_TRY(hd_json_real_or(o, "retry_s", 0, 1e6, 1, &r->retry_s, where, err));
    HD_TRY(hd_json_int_or(o, "burst", 1, 1 << 20, 1, &r->burst, where, err));
    HD_TRY(hd_json_int_or(o, "repeat", 1, 1 << 30, 1, &r->repeat, where, err));
    HD_TRY(hd_json_int_or(o, "random", 0, INT32_MAX, 0, &r->random, where, err));
    HD_TRY(read_word(o, "finish", finishes, 4, &k, where, err));
    r->finish = finish_of[k];
    HD_TRY(read_word(o, "error_code", codes, 3, &k, where, err));
    r->error_code = code_of[k];
    r->start_s = start_ms / 1e3;
    r->delay_s = delay_ms / 1e3;
    r->when = copy_text(o, "when");
    r->error = copy_text(o, "error");
    r->refuse = copy_text(o, "refuse");
    return read_ids(s, o, r, where, err);
}

static int read_file(struct hd_script *s, const char *path, struct hd_err *err)
{
    json_t *doc = hd_json_read(path, (size_t)64 << 20, err), *runs, *o;
    size_t i;
    int rc = HD_OK;

    if (!doc)
        return err->code;
    runs = json_object_get(doc, "runs");
    if (!json_array_size(runs))
        rc = hd_err_set(err, HD_ERR_FORMAT, "%s: runs: expected a list that is not empty", path);
    if (rc == HD_OK)
        rc = hd_json_int_or(doc, "n_ctx", 1, (int64_t)1 << 40, 4096, &s->n_ctx, path, err);
    if (rc == HD_OK)
        rc = hd_json_int_or(doc, "slots", 1, 100000, 64, &s->slots, path, err);
    if (rc == HD_OK)
        rc = hd_json_int_or(doc, "queue", 0, 100000, 64, &s->queue, path, err);
    json_array_foreach(runs, i, o)
    {
        if (rc == HD_OK && (rc = read_run(s, o, i, err)) < 0)
            hd_err_prepend(err, "%s", path);
    }
    json_decref(doc);
    return rc;
}

/* ---- playing ---- */

static double made_up(int32_t id)
{
    return -(1 + id % 97) / 10.0;
}

static void make_pick(const struct hd_script *s, const struct play *p, int32_t id, struct hd_pick *out)
{
    int n = p->r.sample.n_logprob;

    *out = (struct hd_pick){.id = id, .logprob = made_up(id), .n_top = n < 0 ? 0 : n};
    for (int i = 0; i < out->n_top; i++) {
        out->top_id[i] = (int32_t)((id + i) % hd_tokenizer_size(s->tok));
        out->top_logprob[i] = i ? made_up(id) - i : made_up(id);
    }
}

/* The likeliest token of noise, through the constraint. */
static int32_t draw(struct hd_script *s, struct play *p)
{
    static const char likely[] = "\"}],: 0";
    int64_t n = hd_tokenizer_size(s->tok), best = 0;

    for (int64_t i = 0; i < n; i++) {
        struct hd_view v = hd_token_text(s->tok, (int32_t)i, false);

        s->logits[i] = (float)hd_rng_double(&p->rng);
        if (hd_tokenizer_is_end(s->tok, (int32_t)i) || (v.n == 1 && v.p[0] && strchr(likely, v.p[0])))
            s->logits[i] += (float)(0.15 * hd_rng_double(&p->rng));
        if (i == s->think_end)
            s->logits[i] += 0.05f;
    }
    if (p->r.constraint.mask)
        p->r.constraint.mask(p->r.constraint.self, s->logits, n);
    for (int64_t i = 1; i < n; i++)
        best = s->logits[i] > s->logits[best] ? i : best;
    return (int32_t)best;
}

static void free_play(struct play *p)
{
    if (p->r.constraint.free)
        p->r.constraint.free(p->r.constraint.self);
    hd_ids_release(&p->prompt);
    hd_ids_release(&p->said);
    hd_free(p->tenant);
    hd_free(p);
}

/* Takes p off the list and lets the next one that waits begin. */
static void take_off(struct hd_script *s, struct play *p)
{
    for (struct play **at = &s->plays; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            break;
        }
    if (p->running)
        s->n_running--;
    else
        s->n_waiting--;
}

static void remember(struct memory *m, struct play *p)
{
    hd_ids_release(&m->ids);
    hd_free(m->tenant);
    m->ids = p->prompt;
    m->tenant = p->tenant;
    if (HD_GROW(m->ids.id, m->ids.cap, m->ids.n + p->said.n, (size_t)1 << 28)) {
        if (p->said.n)
            memcpy(m->ids.id + m->ids.n, p->said.id, p->said.n * sizeof *p->said.id);
        m->ids.n += p->said.n;
    }
    p->prompt = (struct hd_ids){0};
    p->tenant = NULL;
}

static int64_t count_cached(const struct hd_script *s, const struct play *p)
{
    int64_t best = 0;

    for (size_t i = 0; i < N_REMEMBERED; i++) {
        const struct memory *m = &s->memory[i];
        size_t k = 0;

        if (!m->tenant || strcmp(m->tenant, p->tenant))
            continue;
        while (k < m->ids.n && k + 1 < p->prompt.n && m->ids.id[k] == p->prompt.id[k])
            k++;
        best = (int64_t)k > best ? (int64_t)k : best;
    }
    return best;
}

static void begin(struct hd_script *s, struct play *p)
{
    struct hd_run_event e = {.kind = HD_RUN_PROGRESS, .id = p->id, .total = (int64_t)p->prompt.n};
    struct hd_pick pick;

    p->began = now();
    p->due = p->began + p->run->start_s;
    p->n_cached = count_cached(s, p);
    e.done = e.cached = p->n_cached;
    p->r.event(p->r.arg, &e);
    if (!p->r.prompt_logprobs)
        return;
    for (size_t i = 1; i < p->prompt.n; i++) {
        make_pick(s, p, p->prompt.id[i], &pick);
        p->r.event(p->r.arg, &(struct hd_run_event){.kind = HD_RUN_PROMPT, .id = p->id, .pick = &pick});
    }
}

/* The last event of a play; p is freed. Without the lock. */
static void end(struct hd_script *s, struct play *p, enum hd_finish finish)
{
    const struct run *r = p->run;
    struct hd_err err = {0};
    struct hd_run_event e = {.kind = HD_RUN_END, .id = p->id, .finish = finish, .n_generated = (int64_t)p->said.n};
    struct memory *m;
    double t = now();

    if (r->error && finish != HD_FINISH_CANCELLED) {
        hd_err_set(&err, r->error_code, "%s", r->error);
        e.err = &err;
    }
    e.queue_s = p->began - p->born;
    e.prefill_s = p->first - p->began;
    e.decode_s = t - p->first;
    pthread_mutex_lock(&s->lock);
    s->n_prompt += (uint64_t)p->prompt.n;
    s->n_cached += (uint64_t)p->n_cached;
    s->n_generated += (uint64_t)p->said.n;
    m = &s->memory[s->n_memory++ % N_REMEMBERED];
    pthread_mutex_unlock(&s->lock);
    p->r.event(p->r.arg, &e);
    remember(m, p);
    free_play(p);
}

/* A burst of tokens. false: that was all, *finish says why. */
static bool say(struct hd_script *s, struct play *p, enum hd_finish *finish)
{
    const struct run *r = p->run;
    int64_t n_text = (int64_t)r->ids.n * r->repeat;
    struct hd_pick pick;

    if (!p->at)
        p->first = now();
    for (int64_t k = 0; k < r->burst; k++) {
        if (p->at == p->r.n_max) {
            *finish = HD_FINISH_LENGTH;
            return false;
        }
        if (!r->random && p->at >= n_text) {
            *finish = r->finish;
            return false;
        }
        make_pick(s, p, r->random ? draw(s, p) : r->ids.id[p->at % (int64_t)r->ids.n], &pick);
        p->at++;
        if (p->r.constraint.take && !hd_tokenizer_is_end(s->tok, pick.id))
            p->r.constraint.take(p->r.constraint.self, pick.id);
        if (hd_tokenizer_is_end(s->tok, pick.id) && !p->r.ignore_end) {
            *finish = HD_FINISH_END;
            return false;
        }
        if (HD_GROW(p->said.id, p->said.cap, p->said.n + 1, (size_t)1 << 28))
            p->said.id[p->said.n++] = pick.id;
        p->r.event(p->r.arg, &(struct hd_run_event){.kind = HD_RUN_TOKEN, .id = p->id, .pick = &pick});
    }
    p->due = (p->due > now() ? p->due : now()) + r->delay_s;
    return true;
}

/* The play whose turn it is, or NULL and *wait until there may be one. With the lock. */
static struct play *next_play(struct hd_script *s, double *wait)
{
    struct play *best = NULL;
    double t = now();

    *wait = 3600;
    for (struct play *p = s->plays; p; p = p->next) {
        if (p->cancelled)
            return p;
        if (p->running ? p->paused : s->n_running >= s->slots)
            continue;
        if (!p->running)
            return p;
        if (!best || p->due < best->due)
            best = p;
    }
    if (best && best->due > t) {
        *wait = best->due - t;
        return NULL;
    }
    return best;
}

static void sleep_for(struct hd_script *s, double seconds)
{
    struct timespec t;
    double at;

    clock_gettime(CLOCK_MONOTONIC, &t);
    at = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec + seconds;
    t.tv_sec = (time_t)at;
    t.tv_nsec = (long)((at - floor(at)) * 1e9);
    pthread_cond_timedwait(&s->wake, &s->lock, &t);
}

static void forget(struct hd_script *s)
{
    for (size_t i = 0; i < N_REMEMBERED; i++) {
        hd_ids_release(&s->memory[i].ids);
        hd_free(s->memory[i].tenant);
        s->memory[i] = (struct memory){0};
    }
    s->n_memory = 0;
}

static void *play_all(void *arg)
{
    struct hd_script *s = arg;
    double wait;

    pthread_mutex_lock(&s->lock);
    while (!s->closing || s->plays) {
        struct play *p = next_play(s, &wait);
        enum hd_finish finish = HD_FINISH_CANCELLED;
        bool on = false;

        if (s->flushed)
            forget(s);
        s->flushed = false;
        if (!p) {
            sleep_for(s, wait);
            continue;
        }
        if (!p->cancelled && !p->running) {
            s->n_waiting--;
            s->n_running++;
            p->running = true;
            pthread_mutex_unlock(&s->lock);
            begin(s, p);
            pthread_mutex_lock(&s->lock);
            continue;
        }
        if (!p->cancelled) {
            pthread_mutex_unlock(&s->lock);
            on = say(s, p, &finish);
            pthread_mutex_lock(&s->lock);
        }
        if (!on) {
            take_off(s, p);
            pthread_mutex_unlock(&s->lock);
            end(s, p, finish);
            pthread_mutex_lock(&s->lock);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- the runner ---- */

#define ENDS 8192                     /* tokens of a prompt's beginning, and of its end, that "when" looks at */

static const struct run *choose(struct hd_script *s, const struct hd_run_request *q)
{
    size_t n = (size_t)q->n_prompt, n_first = n > 2 * ENDS ? ENDS : n;
    const struct run *found = NULL;
    struct hd_str text;

    hd_str_init(&text, 0);
    hd_detokenize(s->tok, q->prompt, n_first, true, &text);
    if (n_first < n)
        hd_detokenize(s->tok, q->prompt + n - ENDS, ENDS, true, &text);
    for (size_t i = 0; i < s->n_run && !found; i++)
        if (s->run[i].when && strstr(hd_str_get(&text), s->run[i].when))
            found = &s->run[i];
    hd_str_release(&text);
    for (size_t i = 0; i < s->n_run && !found; i++) {
        const struct run *r = &s->run[s->turn++ % s->n_run];

        if (!r->when)
            found = r;
    }
    return found ? found : &s->run[0];
}

static int refuse(const struct run *r, double *retry_s, struct hd_err *err)
{
    *retry_s = r->retry_s;
    return !strcmp(r->refuse, "long") ? hd_err_set(err, HD_ERR_USAGE, "the prompt is too long") : hd_err_set(err, HD_ERR_LIMIT, "too many requests are waiting");
}

static struct play *new_play(const struct hd_run_request *q, const struct run *r)
{
    struct play *p = hd_calloc(1, sizeof *p);

    if (!p)
        return NULL;
    p->r = *q;
    p->r.constraint.free = NULL;      /* the caller's, until the play is accepted */
    p->run = r;
    hd_rng_seed(&p->rng, (uint64_t)r->random * 1000003 + q->sample.seed);
    p->born = p->began = p->first = now();
    p->tenant = hd_strdup(q->tenant ? q->tenant : "");
    if (!p->tenant || !HD_GROW(p->prompt.id, p->prompt.cap, (size_t)q->n_prompt, (size_t)1 << 28)) {
        free_play(p);
        return NULL;
    }
    memcpy(p->prompt.id, q->prompt, (size_t)q->n_prompt * sizeof *q->prompt);
    p->prompt.n = (size_t)q->n_prompt;
    return p;
}

static int submit(void *self, const struct hd_run_request *q, uint64_t *id, double *retry_s, struct hd_err *err)
{
    struct hd_script *s = self;
    const struct run *r = choose(s, q);
    struct play *p, **at;
    int rc = HD_OK;

    if (r->refuse)
        return refuse(r, retry_s, err);
    if (!(p = new_play(q, r)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a request");
    pthread_mutex_lock(&s->lock);
    if (s->n_running + s->n_waiting >= s->slots + s->queue) {
        *retry_s = 1;
        rc = hd_err_set(err, HD_ERR_LIMIT, "too many requests are waiting");
    } else {
        p->r.constraint.free = q->constraint.free;
        *id = p->id = ++s->last_id;
        s->n_waiting++;
        for (at = &s->plays; *at; at = &(*at)->next)
            ;
        *at = p;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (rc < 0)
        free_play(p);
    return rc;
}

static struct play *find_play(struct hd_script *s, uint64_t id)
{
    struct play *p = s->plays;

    while (p && p->id != id)
        p = p->next;
    return p;
}

static void cancel(void *self, uint64_t id)
{
    struct hd_script *s = self;
    struct play *p;

    pthread_mutex_lock(&s->lock);
    if ((p = find_play(s, id)))
        p->cancelled = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void pause_play(void *self, uint64_t id, bool on)
{
    struct hd_script *s = self;
    struct play *p;

    pthread_mutex_lock(&s->lock);
    if ((p = find_play(s, id)))
        p->paused = on;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void stats(void *self, struct hd_run_stats *out)
{
    struct hd_script *s = self;

    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&s->lock);
    out->n_running = s->n_running;
    out->n_waiting = s->n_waiting;
    out->n_session = (int64_t)(s->n_memory < N_REMEMBERED ? s->n_memory : N_REMEMBERED);
    out->ctx_tokens = s->n_ctx;
    out->n_prompt = s->n_prompt;
    out->n_cached = s->n_cached;
    out->n_generated = s->n_generated;
    pthread_mutex_unlock(&s->lock);
}

static void flush(void *self)
{
    struct hd_script *s = self;

    pthread_mutex_lock(&s->lock);
    s->flushed = true;                /* the thread that plays owns it */
    pthread_mutex_unlock(&s->lock);
}

void hd_script_runner(struct hd_script *s, struct hd_runner *out)
{
    *out = (struct hd_runner){s, s->n_ctx, submit, cancel, pause_play, stats, flush};
}

int hd_script_open(struct hd_script **out, const char *path, struct hd_tokenizer *tok, struct hd_err *err)
{
    struct hd_script *s = hd_calloc(1, sizeof *s);
    pthread_condattr_t attr;
    int rc;

    if (!s)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a script");
    s->tok = tok;
    s->think_end = hd_tokenizer_find(tok, "</think>");
    s->logits = hd_calloc((size_t)hd_tokenizer_size(tok) + 1, sizeof *s->logits);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    rc = s->logits ? read_file(s, path, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a script");
    if (rc == HD_OK && pthread_create(&s->thread, NULL, play_all, s))
        rc = hd_err_set(err, HD_ERR_MEMORY, "cannot start a thread");
    s->started = rc == HD_OK;
    if (rc < 0)
        hd_script_close(s);
    else
        *out = s;
    return rc;
}

void hd_script_close(struct hd_script *s)
{
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->closing = true;
        for (struct play *p = s->plays; p; p = p->next)
            p->cancelled = true;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    for (size_t i = 0; i < s->n_run; i++) {
        hd_ids_release(&s->run[i].ids);
        hd_free(s->run[i].when);
        hd_free(s->run[i].error);
        hd_free(s->run[i].refuse);
    }
    forget(s);
    hd_free(s->run);
    hd_free(s->logits);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    hd_free(s);
}
