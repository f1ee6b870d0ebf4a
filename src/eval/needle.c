/* needle.c: see needle.h. */
#include "eval/needle.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/str.h"

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int32_t best_of(const float *logits, int64_t n)
{
    int64_t best = 0;

    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

static void count(struct hd_needle_result *r, int64_t place, int64_t n_tok, bool right)
{
    int64_t d = place * HD_NEEDLE_DEPTHS / (n_tok > 0 ? n_tok : 1);

    d = d < HD_NEEDLE_DEPTHS ? d : HD_NEEDLE_DEPTHS - 1;
    r->n_query++;
    r->n_right += right;
    r->depth_query[d]++;
    r->depth_right[d] += right;
}

/* Feeds ids and counts how many of them the logits before name: next[i] is expected after ids[i], -1 nothing. said: what is most probable there. */
static int ask(struct hd_session *ss, const int32_t *ids, int64_t n, const int32_t *next, int32_t *said, struct hd_err *err)
{
    int64_t V = ss->engine->model.hp.n_vocab, chunk = ss->engine->opt.chunk;

    for (int64_t done = 0; done < n;) {
        struct hd_step_item it = {.session = ss, .ids = ids + done, .n_tok = n - done < chunk ? n - done : chunk, .want = HD_WANT_ALL};

        HD_TRY(hd_engine_step(ss->engine, &it, 1, err));
        for (int64_t i = 0; i < it.n_tok; i++)
            said[done + i] = next[done + i] < 0 ? -1 : best_of(it.logits + i * V, V);
        done += it.n_tok;
    }
    return HD_OK;
}

static int check_room(const struct hd_engine *e, int64_t n, struct hd_err *err)
{
    int64_t most = e->opt.n_ctx < e->model.hp.n_ctx ? e->opt.n_ctx : e->model.hp.n_ctx;

    return n <= most ? HD_OK : hd_err_set(err, HD_ERR_LIMIT, "a context of %lld tokens; the model's is %lld, and the engine has room for %lld", (long long)n, (long long)e->model.hp.n_ctx,
                                          (long long)e->opt.n_ctx);
}

/* ---- the recall task ---- */

/* id, target and said[n_ctx], place[n_query] */
static int recall(struct hd_session *ss, const struct hd_needle *n, int64_t body, const int32_t *id, const int32_t *target, int32_t *said, const int64_t *place, struct hd_needle_result *r,
                  struct hd_err *err)
{
    double t0 = now();

    HD_TRY(hd_session_feed(ss, id, body, n->progress, n->arg, NULL, err));
    r->fed_s = now() - t0;
    t0 = now();
    HD_TRY(ask(ss, id + body, n->n_ctx - body, target + body, said + body, err));
    r->asked_s = now() - t0;
    for (int64_t i = body, k = 0; i < n->n_ctx; i++)
        if (target[i] >= 0)
            count(r, place[k++], body, said[i] == target[i]);
    return HD_OK;
}

int hd_needle_ids(struct hd_engine *e, const struct hd_recall *task, const struct hd_needle *n, struct hd_needle_result *r, struct hd_err *err)
{
    struct hd_recall_size size = {n->n_ctx, n->n_record, n->n_query, task->n_symbol, task->n_symbol};
    struct hd_session ss;
    struct hd_rng rng;
    int32_t *id = NULL;
    int64_t *place = NULL;
    int rc;

    memset(r, 0, sizeof *r);
    if (hd_recall_vocab(task) > e->model.hp.n_vocab)
        return hd_err_set(err, HD_ERR_FORMAT, "the recall task has %lld ids; the model has %lld", (long long)hd_recall_vocab(task), (long long)e->model.hp.n_vocab);
    HD_TRY(check_room(e, n->n_ctx, err));
    id = hd_malloc(3 * (size_t)n->n_ctx * sizeof *id);
    place = hd_malloc((size_t)n->n_query * sizeof *place);
    hd_rng_seed(&rng, n->seed);
    rc = id && place ? hd_recall_make(task, &rng, &size, id, id + n->n_ctx, place, err)
                     : hd_err_set(err, HD_ERR_MEMORY, "no memory for a context of %lld tokens", (long long)n->n_ctx);
    if (rc == HD_OK)
        rc = hd_session_open(&ss, e, err);
    if (rc == HD_OK) {
        r->n_tok = n->n_ctx;
        rc = recall(&ss, n, n->n_ctx - 3 * n->n_query, id, id + n->n_ctx, id + 2 * n->n_ctx, place, r, err);
        hd_session_close(&ss);
    }
    hd_free(id);
    hd_free(place);
    return rc;
}

/* ---- text ---- */

static const char *const adjectives[] = {"amber", "ancient", "blue", "brass", "broken", "calm", "copper", "crimson", "distant", "eastern", "empty", "gentle", "golden", "green", "grey", "hidden",
                                         "hollow", "iron", "ivory", "lonely", "northern", "old", "pale", "quiet", "red", "silent", "silver", "small", "southern", "stone", "western", "white"};
static const char *const nouns[] = {"archive", "bakery", "bridge", "castle", "chapel", "cottage", "ferry", "forge", "garden", "harbour", "inn", "island", "library", "lighthouse", "market", "mill",
                                    "mine", "museum", "orchard", "palace", "quarry", "school", "station", "tavern", "temple", "theatre", "tower", "valley", "village", "vineyard", "well", "windmill"};
#define N_WORD (HD_LEN(adjectives) * HD_LEN(nouns))

static const char *const subjects[] = {"The teacher", "A traveller", "My neighbour", "The old clock", "A grey cat", "The river", "The morning train", "A young painter"};
static const char *const verbs[] = {"waited near", "passed slowly by", "turned towards", "stayed close to", "could be seen from", "was remembered in"};
static const char *const objects[] = {"the open field", "the long road", "the wooden fence", "the quiet square", "the edge of the wood", "the kitchen window", "the winter garden"};

struct text {
    const struct hd_needle *n;
    struct hd_tokenizer *tok;
    struct hd_session *base;
    struct hd_rng rng;
    struct hd_ids hay;
    int64_t *key, *place;             /* [n_record]: which pair of words; token where the sentence begins */
    int32_t *code;                    /* [n_record] four digits */
};

static int64_t below(struct text *t, int64_t n)
{
    return (int64_t)(hd_rng_next(&t->rng) % (uint64_t)n);
}

static int add(struct text *t, const char *s, size_t n, struct hd_ids *to, struct hd_err *err)
{
    return hd_tokenize(t->tok, s, n, 0, to, err);
}

static int add_record(struct text *t, int64_t i, struct hd_err *err)
{
    char line[160];

    t->place[i] = (int64_t)t->hay.n;
    return add(t, line, (size_t)snprintf(line, sizeof line, " The code of the %s %s is %d.", adjectives[t->key[i] / HD_LEN(nouns)], nouns[t->key[i] % HD_LEN(nouns)], t->code[i]), &t->hay, err);
}

/* Some hay: a sentence of the caller's text (up to the next full stop), from *at on; or of our own. */
static int add_hay(struct text *t, size_t *at, struct hd_err *err)
{
    char line[160];
    const char *hay = t->n->hay, *stop;
    size_t n;

    if (!hay || !*hay)
        return add(t, line, (size_t)snprintf(line, sizeof line, " %s %s %s.", subjects[below(t, HD_LEN(subjects))], verbs[below(t, HD_LEN(verbs))], objects[below(t, HD_LEN(objects))]), &t->hay, err);
    if (!hay[*at])
        *at = 0;
    stop = strpbrk(hay + *at + 1, ".\n");
    n = stop ? (size_t)(stop + 1 - hay) - *at : strlen(hay + *at);
    HD_TRY(add(t, hay + *at, n, &t->hay, err));
    *at += n;
    return HD_OK;
}

#define ASK_ROOM 64                   /* tokens that a question and its answer need */

/* Hay of n_ctx - ASK_ROOM tokens with the records spread over it. */
static int make_hay(struct text *t, struct hd_err *err)
{
    int64_t most = t->n->n_ctx - ASK_ROOM, next = 0;
    size_t at = 0;

    while ((int64_t)t->hay.n < most) {
        int64_t due = next < t->n->n_record ? most * next / t->n->n_record + below(t, most / t->n->n_record / 2 + 1) : INT64_MAX;
        size_t before = t->hay.n;

        if ((int64_t)t->hay.n >= due)
            HD_TRY(add_record(t, next++, err));
        else
            HD_TRY(add_hay(t, &at, err));
        if (t->hay.n == before && t->n->hay && !t->n->hay[at])
            return hd_err_set(err, HD_ERR_FORMAT, "the hay has no tokens");
    }
    if (next < t->n->n_record)
        return hd_err_set(err, HD_ERR_USAGE, "%lld records; %lld of them fit into %lld tokens", (long long)t->n->n_record, (long long)next, (long long)t->n->n_ctx);
    return HD_OK;
}

/* Is the code what the model would say behind the question? Fed with the answer behind it: each of its tokens must be the most probable one. */
static int ask_one(struct text *t, int64_t i, bool *right, struct hd_err *err)
{
    struct hd_session ss;
    struct hd_ids q = {0};
    int32_t next[ASK_ROOM], said[ASK_ROOM];
    char line[240], code[16];
    size_t n_question;
    int rc = add(t, line, (size_t)snprintf(line, sizeof line, "\nWhat is the code of the %s %s? The code of the %s %s is", adjectives[t->key[i] / HD_LEN(nouns)], nouns[t->key[i] % HD_LEN(nouns)],
                                           adjectives[t->key[i] / HD_LEN(nouns)], nouns[t->key[i] % HD_LEN(nouns)]), &q, err);

    n_question = q.n;
    if (rc == HD_OK)
        rc = add(t, code, (size_t)snprintf(code, sizeof code, " %d", t->code[i]), &q, err);
    if (rc == HD_OK && (q.n > ASK_ROOM || q.n == n_question))
        rc = hd_err_set(err, HD_ERR_LIMIT, "a question of %zu tokens; at most %d expected", q.n, ASK_ROOM);
    if (rc == HD_OK && (rc = hd_session_fork(&ss, t->base, err)) == HD_OK) {
        for (size_t k = 0; k < q.n; k++)
            next[k] = k + 1 >= n_question && k + 1 < q.n ? q.id[k + 1] : -1;
        rc = ask(&ss, q.id, (int64_t)q.n - 1, next, said, err);
        *right = true;
        for (size_t k = n_question - 1; k + 1 < q.n; k++)
            *right &= said[k] == next[k];
        hd_session_close(&ss);
    }
    hd_ids_release(&q);
    return rc;
}

static int run_text(struct text *t, struct hd_needle_result *r, struct hd_err *err)
{
    int64_t order[N_WORD];
    double t0 = now();

    for (int64_t i = 0; i < N_WORD; i++)
        order[i] = i;
    for (int64_t i = 0; i < t->n->n_record; i++) {
        int64_t k = i + below(t, N_WORD - i);

        t->key[i] = order[k];
        order[k] = order[i];
        t->code[i] = (int32_t)(1000 + below(t, 9000));
    }
    if (hd_tokenizer_bos(t->tok) >= 0) {
        if (!HD_GROW(t->hay.id, t->hay.cap, 1, (size_t)1 << 31))
            return hd_err_set(err, HD_ERR_MEMORY, "no memory for the context");
        t->hay.id[t->hay.n++] = hd_tokenizer_bos(t->tok);
    }
    HD_TRY(make_hay(t, err));
    r->n_tok = (int64_t)t->hay.n;
    HD_TRY(hd_session_feed(t->base, t->hay.id, (int64_t)t->hay.n, t->n->progress, t->n->arg, NULL, err));
    r->fed_s = now() - t0;
    t0 = now();
    for (int64_t k = 0; k < t->n->n_query; k++) {
        int64_t i = k * t->n->n_record / t->n->n_query;
        bool right = false;

        HD_TRY(ask_one(t, i, &right, err));
        count(r, t->place[i], r->n_tok, right);
    }
    r->asked_s = now() - t0;
    return HD_OK;
}

int hd_needle_text(struct hd_engine *e, struct hd_tokenizer *tok, const struct hd_needle *n, struct hd_needle_result *r, struct hd_err *err)
{
    struct hd_session ss;
    struct text t = {.n = n, .tok = tok, .base = &ss};
    int rc;

    memset(r, 0, sizeof *r);
    if (n->n_record < 1 || n->n_record > N_WORD || n->n_query < 1 || n->n_query > n->n_record)
        return hd_err_set(err, HD_ERR_USAGE, "%lld records and %lld questions; expected at most %d records, and no more questions than records", (long long)n->n_record, (long long)n->n_query, (int)N_WORD);
    HD_TRY(check_room(e, n->n_ctx, err));
    HD_TRY(hd_session_open(&ss, e, err));
    hd_rng_seed(&t.rng, n->seed);
    t.key = hd_malloc((size_t)n->n_record * sizeof *t.key);
    t.place = hd_malloc((size_t)n->n_record * sizeof *t.place);
    t.code = hd_malloc((size_t)n->n_record * sizeof *t.code);
    rc = t.key && t.place && t.code ? run_text(&t, r, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for %lld records", (long long)n->n_record);
    hd_session_close(&ss);
    hd_ids_release(&t.hay);
    hd_free(t.key);
    hd_free(t.place);
    hd_free(t.code);
    return rc;
}
