/* test_schedule.c: many requests at once give what each gives alone: the same ids and the same log-probabilities, bit by bit, however steps are
 * cut, wherever a prompt's beginning comes from, whatever is preempted, whoever guesses tokens ahead. Nothing here depends on time: most schedulers
 * are stepped by hand. */
#include "support.h"

#include <pthread.h>

#include "engine/model_tokenizer.h"
#include "engine/schedule.h"

#define MAX_TOK 512

/* What is known of one request. */
struct heard {
    const struct hd_runner *runner;
    uint64_t id;
    int32_t ids[MAX_TOK];
    double logprob[MAX_TOK], prompt_logprob[MAX_TOK];
    int n, n_prompt_pick, n_progress, n_end;
    int64_t cached, done, total;
    enum hd_finish finish;
    int rc;
    int cancel_at;                    /* cancels itself after so many tokens; 0: never */
};

static void hear(void *arg, const struct hd_run_event *e)
{
    struct heard *h = arg;

    assert_int_equal(h->n_end, 0);
    assert_int_equal(e->id, h->id);
    switch (e->kind) {
    case HD_RUN_PROGRESS:
        assert_true(e->done >= h->done && e->done <= e->total);
        h->done = e->done;
        h->total = e->total;
        h->cached = e->cached;
        h->n_progress++;
        break;
    case HD_RUN_PROMPT:
        assert_true(h->n_prompt_pick < MAX_TOK && h->n == 0);
        h->prompt_logprob[h->n_prompt_pick++] = e->pick->logprob;
        break;
    case HD_RUN_TOKEN:
        assert_true(h->n < MAX_TOK);
        h->ids[h->n] = e->pick->id;
        h->logprob[h->n++] = e->pick->logprob;
        if (h->n == h->cancel_at)
            h->runner->cancel(h->runner->self, h->id);
        break;
    case HD_RUN_END:
        assert_int_equal(e->n_generated, h->n);
        h->n_end++;
        h->finish = e->finish;
        h->rc = e->err ? e->err->code : HD_OK;
        if (e->err)
            assert_true(e->err->msg[0]);
    }
}

/* ---- a model, prompts, and answers alone ---- */

struct bench {
    struct hd_engine e;
    struct hd_schedule *s;
    struct hd_runner runner;
    struct hd_tokenizer *tok;
};

static enum hd_kv bench_kv = HD_KV_F32;
static struct hd_speculate_options bench_draft;       /* of schedulers that say nothing of their own */

static void open_engine(struct bench *b, const char *model, int64_t n_ctx, int64_t chunk, int n_thread, bool shortcut)
{
    struct hd_engine_options o = {.n_thread = n_thread, .n_ctx = n_ctx, .chunk = chunk, .kv = bench_kv, .shortcut = shortcut, .draft = bench_draft.kind != HD_DRAFT_OFF};
    char path[200];

    memset(b, 0, sizeof *b);
    snprintf(path, sizeof path, "tests/golden/%s", model);
    assert_ok(hd_engine_open(&b->e, path, &o, &test_err));
    assert_ok(hd_model_tokenizer(&b->tok, "tests/golden/v41-f32-mini", &test_err));
}

static void start(struct bench *b, struct hd_schedule_options o)
{
    o.tok = b->tok;
    if (o.draft.kind == HD_DRAFT_OFF)
        o.draft = bench_draft;
    assert_ok(hd_schedule_create(&b->s, &b->e, &o, &test_err));
    hd_schedule_runner(b->s, &b->runner);
}

static void stop(struct bench *b)
{
    hd_schedule_free(b->s);
    assert_int_equal(b->e.cache.n_seq, 0);
    assert_int_equal(b->e.cache.n_page_used, 0);
    b->s = NULL;
}

static void close_engine(struct bench *b)
{
    hd_engine_close(&b->e);
    hd_tokenizer_free(b->tok);
}

/* Deterministic ids that are no end tokens; prompts of different seeds differ from the first token on. */
static void fill(const struct bench *b, int32_t *ids, int64_t n, uint64_t seed)
{
    struct hd_rng rng;

    hd_rng_seed(&rng, seed);
    for (int64_t i = 0; i < n; i++)
        do
            ids[i] = (int32_t)(hd_rng_next(&rng) % (uint64_t)(b->e.model.hp.n_vocab < 128 ? b->e.model.hp.n_vocab : 128));
        while (hd_tokenizer_is_end(b->tok, ids[i]));
}

struct ask {
    int32_t ids[600];
    int64_t n, n_max;
    struct hd_sample_params sample;
};

static struct ask make_ask(const struct bench *b, int64_t n, int64_t n_max, uint64_t seed)
{
    struct ask a = {.n = n, .n_max = n_max};

    assert_true(n <= 600);
    fill(b, a.ids, n, seed);
    hd_sample_defaults(&a.sample);
    a.sample.seed = seed;
    a.sample.n_logprob = 0;
    if (seed % 3 == 0)
        a.sample.temperature = 0;
    if (seed % 3 == 1)
        a.sample.frequency = 0.5;
    return a;
}

/* Who knows the answers guesses well, but not always: answers of alone(), a token in four spoiled. */
struct known {
    struct ask ask;
    int32_t ids[MAX_TOK];
    int n;
};
static struct known known[64];
static uint64_t n_known, n_guess;

static void guess_one(const struct known *k, struct hd_draft_item *it)
{
    int64_t have = it->n - k->ask.n;

    if (have < 0 || have > k->n || memcmp(it->ids, k->ask.ids, (size_t)k->ask.n * sizeof *it->ids) || memcmp(it->ids + k->ask.n, k->ids, (size_t)have * sizeof *it->ids))
        return;
    for (it->n_draft = 0; it->n_draft < it->depth && have + it->n_draft < k->n; it->n_draft++, n_guess++)
        it->ids[it->n + it->n_draft] = k->ids[have + it->n_draft] ^ (n_guess % 4 == 3);
}

static void guess(void *arg, struct hd_draft_item *it, int n_item)
{
    for (int i = 0; i < n_item; i++)
        for (uint64_t k = n_known; k > 0 && k + HD_LEN(known) > n_known && !it[i].n_draft; k--)      /* the latest first: other models had the same prompts */
            guess_one(&known[(k - 1) % HD_LEN(known)], &it[i]);
}

/* The answer without a scheduler. */
static void alone(struct bench *b, const struct ask *a, struct heard *out)
{
    struct hd_session ss;
    struct hd_sampler sm;
    const float *lg;

    memset(out, 0, sizeof *out);
    assert_ok(hd_session_open(&ss, &b->e, &test_err));
    assert_ok(hd_sampler_init(&sm, &a->sample, b->e.model.hp.n_vocab, &test_err));
    assert_ok(hd_session_feed(&ss, a->ids, a->n, NULL, NULL, &lg, &test_err));
    for (;;) {
        struct hd_step_item it = {.session = &ss, .n_tok = 1, .want = HD_WANT_LAST};
        struct hd_pick p;

        out->finish = HD_FINISH_LENGTH;
        if (out->n == a->n_max)
            break;
        assert_ok(hd_sampler_pick(&sm, lg, ss.ids, (int64_t)ss.n, &p, &test_err));
        out->finish = HD_FINISH_END;
        if (hd_tokenizer_is_end(b->tok, p.id))
            break;
        out->ids[out->n] = p.id;
        out->logprob[out->n++] = p.logprob;
        out->finish = HD_FINISH_LENGTH;
        if (out->n == a->n_max)
            break;
        out->finish = HD_FINISH_CONTEXT;
        if ((int64_t)ss.n + 1 > b->e.opt.n_ctx)
            break;
        it.ids = &p.id;
        assert_ok(hd_engine_step(&b->e, &it, 1, &test_err));
        lg = it.logits;
    }
    known[n_known % HD_LEN(known)].ask = *a;
    known[n_known % HD_LEN(known)].n = out->n;
    memcpy(known[n_known++ % HD_LEN(known)].ids, out->ids, (size_t)out->n * sizeof *out->ids);
    hd_sampler_release(&sm);
    hd_session_close(&ss);
}

static struct hd_run_request request(const struct ask *a, struct heard *h)
{
    return (struct hd_run_request){.prompt = a->ids, .n_prompt = a->n, .n_max = a->n_max, .sample = a->sample, .event = hear, .arg = h};
}

static void submit(struct bench *b, const struct hd_run_request *r)
{
    struct heard *h = r->arg;

    memset(h, 0, sizeof *h);
    h->runner = &b->runner;
    assert_ok(b->runner.submit(b->runner.self, r, &h->id, NULL, &test_err));
}

static void run_all(struct bench *b)
{
    while (hd_schedule_step(b->s)) {
    }
}

static void same(const struct heard *got, const struct heard *want, const char *what)
{
    if (got->n_end != 1 || got->rc != HD_OK || got->finish != want->finish || got->n != want->n || memcmp(got->ids, want->ids, (size_t)want->n * sizeof *want->ids))
        fail_msg("%s: %d tokens, finish %d, rc %d, ends %d; expected %d tokens, finish %d", what, got->n, (int)got->finish, got->rc, got->n_end, want->n, (int)want->finish);
    for (int i = 0; i < want->n; i++)
        if (memcmp(&got->logprob[i], &want->logprob[i], sizeof(double)))
            fail_msg("%s: log-probability %d: %.17g; expected %.17g", what, i, got->logprob[i], want->logprob[i]);
}

static struct hd_run_stats stats(struct bench *b)
{
    struct hd_run_stats st;

    b->runner.stats(b->runner.self, &st);
    return st;
}

/* ---- batches ---- */

static bool collect(void *arg, int32_t id)
{
    struct heard *h = arg;

    h->ids[h->n++] = id;
    return true;
}

/* What this file calls an answer alone is hd_generate()'s. */
static void check_alone(struct bench *b, const struct ask *a, const struct heard *want)
{
    struct hd_session ss;
    struct hd_sampler sm;
    struct heard got = {0};
    struct hd_speculate sp;
    struct hd_generate g = {.session = &ss, .tok = b->tok, .speculate = &sp, .sampler = &sm, .prompt = a->ids, .n_prompt = a->n, .n_max = a->n_max, .token = collect, .arg = &got};

    assert_ok(hd_session_open(&ss, &b->e, &test_err));
    assert_ok(hd_sampler_init(&sm, &a->sample, b->e.model.hp.n_vocab, &test_err));
    assert_ok(hd_speculate_init(&sp, &b->e, &bench_draft, &test_err));
    assert_ok(hd_generate(&g, &test_err));
    assert_true(g.n_accepted <= g.n_drafted && (g.n_drafted == 0 || bench_draft.kind != HD_DRAFT_OFF));
    assert_int_equal(g.n_decoded + (g.n_generated > 0), g.n_generated + (g.finish == HD_FINISH_END));
    assert_int_equal(g.finish, want->finish);
    assert_int_equal(got.n, want->n);
    assert_memory_equal(got.ids, want->ids, (size_t)want->n * sizeof *want->ids);
    hd_sampler_release(&sm);
    hd_session_close(&ss);
}

static const int64_t lengths[] = {40, 1, 100, 7, 64, 129, 3, 90};

static void mixed(const char *model, int64_t chunk, int n_thread, bool shortcut, bool manual)
{
    struct heard want[HD_LEN(lengths)], got[HD_LEN(lengths)];
    struct ask a[HD_LEN(lengths)];
    struct bench b;
    char what[100];

    open_engine(&b, model, 1024, chunk, n_thread, shortcut);
    for (int i = 0; i < HD_LEN(lengths); i++) {
        a[i] = make_ask(&b, lengths[i], 4 + 2 * i, 10 + (uint64_t)i);
        alone(&b, &a[i], &want[i]);
        if (manual && chunk == 7)
            check_alone(&b, &a[i], &want[i]);
    }
    start(&b, (struct hd_schedule_options){.chunk_busy = chunk > 8 ? chunk / 2 : chunk, .quantum = 5, .checkpoint_tokens = 32, .manual = manual});
    for (int i = 0; i < HD_LEN(lengths); i++) {
        struct hd_run_request r = request(&a[i], &got[i]);

        r.user = i % 2 ? "odd" : "even";
        submit(&b, &r);
        if (manual && i > 3)
            hd_schedule_step(b.s);            /* some come while others run */
    }
    if (manual)
        run_all(&b);
    else
        hd_schedule_drain(b.s, true);
    for (int i = 0; i < HD_LEN(lengths); i++) {
        snprintf(what, sizeof what, "%s, chunk %d, %d threads, request %d", model, (int)chunk, n_thread, i);
        same(&got[i], &want[i], what);
        assert_true(got[i].n_progress >= 1);
        assert_int_equal(got[i].done, got[i].total);
    }
    assert_int_equal(stats(&b).n_waiting, 0);
    assert_int_equal(stats(&b).n_running, 0);
    stop(&b);
    close_engine(&b);
}

static void test_mixed(void **state)
{
    static const char *const models[] = {"llama-a", "v4-f32-a", "v41-f32-a", "v32-a", "v4-f32-mini", "v41-f32-mini", "hadal-a", "qwen2-window"};
    static const int64_t chunks[] = {1, 2, 7, 32, 512};

    for (int m = 0; m < HD_LEN(models); m++)
        for (int c = 0; c < HD_LEN(chunks); c++)
            if (m == 0 || c == 2 + m % 2 || (c == 4 && m < 4))
                mixed(models[m], chunks[c], 1 + (m + c) % 2, false, true);
}

static void test_thread(void **state)
{
    mixed("llama-a", 32, 2, false, false);
    mixed("v41-f32-a", 64, 2, false, false);
}

/* DeepSeek-V4.1's encoder half takes steps of its own. */
static void test_shortcut(void **state)
{
    mixed("v41-f32-a", 16, 2, true, true);
    mixed("v41-f32-mini", 7, 1, true, true);
}

/* ---- prefixes ---- */

static void ask_one(struct bench *b, const struct ask *a, const char *tenant, int64_t least, int64_t most, const char *what)
{
    struct heard want, got;
    struct hd_run_request r = request(a, &got);

    alone(b, a, &want);
    r.tenant = tenant;
    submit(b, &r);
    run_all(b);
    same(&got, &want, what);
    if (got.cached < least || got.cached > most)
        fail_msg("%s: %lld tokens came from the cache; expected %lld to %lld", what, (long long)got.cached, (long long)least, (long long)most);
}

/* A conversation, a second answer to the same prompt, prompts that part from it here and there. slack: how far back a session goes. */
static void conversation(const char *model, int64_t chunk, bool shortcut, int64_t checkpoint, int64_t slack)
{
    struct bench b;
    struct ask first, next, other;
    struct heard answer;
    char what[100];
    int64_t window;

    open_engine(&b, model, 8192, chunk, 2, shortcut);
    window = shortcut ? b.e.model.shortcut : 0;
    start(&b, (struct hd_schedule_options){.manual = true, .checkpoint_tokens = checkpoint, .keep_bytes = (int64_t)1 << 30});
    snprintf(what, sizeof what, "%s, chunk %d, %s", model, (int)chunk, shortcut ? "shortcut" : "whole");
    first = make_ask(&b, 150, 20, 6);
    alone(&b, &first, &answer);
    ask_one(&b, &first, "t", 0, 0, what);
    ask_one(&b, &first, "t", 149, 149, what);                                     /* the same again */
    ask_one(&b, &first, NULL, 0, 0, what);                                        /* another tenant's */
    ask_one(&b, &first, NULL, 149, 149, what);
    next = first;                                                                 /* the next turn */
    memcpy(next.ids + 150, answer.ids, (size_t)answer.n * sizeof *answer.ids);
    next.n = 150 + answer.n + 30;
    fill(&b, next.ids + 150 + answer.n, 30, 77);
    ask_one(&b, &next, "t", window ? 150 : 150 + answer.n - 1, 150 + answer.n, what);
    other = next;                                                                 /* parts inside the prompt, near its end */
    fill(&b, other.ids + 145, 60, 78);
    other.n = 205;
    ask_one(&b, &other, "t", slack && slack < 5 ? 128 : 145, 148, what);
    other = next;                                                                 /* and far from it */
    fill(&b, other.ids + 70, 140, 79);
    other.n = 210;
    ask_one(&b, &other, "t", checkpoint < 0 ? 0 : slack ? 64 : 70, 73, what);
    assert_true(stats(&b).n_session > 1);
    b.runner.flush(b.runner.self);
    ask_one(&b, &first, "t", 0, 0, what);
    stop(&b);
    close_engine(&b);
}

static void test_prefix(void **state)
{
    conversation("llama-a", 512, false, 32, 0);
    conversation("llama-a", 16, false, 32, 0);
    conversation("v32-a", 64, false, 32, 0);
    conversation("v4-f32-a", 512, false, 32, 64);
    conversation("v4-f32-mini", 48, false, 32, 64);
    conversation("v41-f32-mini", 512, false, 32, 64);
    conversation("hadal-a", 32, false, 32, 64);
    bench_kv = HD_KV_NATIVE;                  /* packed rows */
    conversation("v4-f32-a", 48, false, 32, 64);
    bench_kv = HD_KV_F32;
}

static void test_prefix_shortcut(void **state)
{
    conversation("v41-f32-mini", 48, true, 32, 64);
    conversation("v41-f32-a", 512, true, 32, 64);
}

/* A prompt that is being fed, or answered, serves others as well. */
static void test_running_prefix(void **state)
{
    struct heard got[3], want[3];
    struct ask a[3];
    struct bench b;

    open_engine(&b, "llama-a", 1024, 64, 1, false);
    for (int i = 0; i < 3; i++) {
        a[i] = make_ask(&b, 120, 30, 5);
        if (i == 2)
            a[i].ids[100] ^= 1;
        a[i].sample.seed = (uint64_t)i;
        alone(&b, &a[i], &want[i]);
    }
    start(&b, (struct hd_schedule_options){.manual = true});
    for (int i = 0; i < 3; i++) {
        struct hd_run_request r = request(&a[i], &got[i]);

        submit(&b, &r);
        hd_schedule_step(b.s);
        if (i != 1)
            hd_schedule_step(b.s);
    }
    run_all(&b);
    for (int i = 0; i < 3; i++)
        same(&got[i], &want[i], "from a running one");
    assert_int_equal(got[1].cached, 119);
    assert_int_equal(got[2].cached, 100);
    stop(&b);
    close_engine(&b);
}

/* Requests that come together share what they have in common, though nobody has it yet. */
static void together(const char *model, int64_t least)
{
    struct heard got[4], want[4];
    struct ask a[4];
    struct bench b;
    int64_t cached = 0;

    open_engine(&b, model, 2048, 32, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true, .checkpoint_tokens = 32});
    for (int i = 0; i < 4; i++) {
        a[i] = make_ask(&b, 200, 5, 7);
        a[i].sample.seed = (uint64_t)i;
        fill(&b, a[i].ids + 150, 50, 90 + (uint64_t)i);
        struct hd_run_request r = request(&a[i], &got[i]);

        submit(&b, &r);
    }
    run_all(&b);
    stop(&b);
    for (int i = 0; i < 4; i++) {
        alone(&b, &a[i], &want[i]);
        same(&got[i], &want[i], "together");
        cached += got[i].cached;
    }
    assert_true(cached >= 3 * least);
    close_engine(&b);
}

static void test_together(void **state)
{
    together("llama-a", 150);
    together("v4-f32-a", 128);
}

/* The least recently used goes when bytes run out. */
static void test_evict(void **state)
{
    struct bench b;
    struct ask a[4];

    open_engine(&b, "llama-a", 1024, 64, 1, false);
    for (int i = 0; i < 4; i++)
        a[i] = make_ask(&b, 100, 2, 20 + (uint64_t)i);
    start(&b, (struct hd_schedule_options){.manual = true, .keep_bytes = 7 * b.e.cache.page_bytes});      /* of two pages each: three */
    for (int i = 0; i < 3; i++)
        ask_one(&b, &a[i], NULL, 0, 0, "first");
    ask_one(&b, &a[0], NULL, 99, 99, "touched");
    ask_one(&b, &a[3], NULL, 0, 0, "one too many");
    ask_one(&b, &a[0], NULL, 99, 99, "still there");
    ask_one(&b, &a[2], NULL, 99, 99, "still there");
    ask_one(&b, &a[1], NULL, 0, 0, "gone");
    stop(&b);
    start(&b, (struct hd_schedule_options){.manual = true, .keep_bytes = -1});
    ask_one(&b, &a[0], NULL, 0, 0, "nothing is kept");
    ask_one(&b, &a[0], NULL, 0, 0, "nothing is kept");
    assert_int_equal(stats(&b).n_session, 0);
    stop(&b);
    close_engine(&b);
}

/* ---- disk ---- */

static int n_files(const char *dir, char *last)
{
    DIR *d = opendir(dir);
    struct dirent *de;
    int n = 0;

    while (d && (de = readdir(d)))
        if (strstr(de->d_name, ".prefix")) {
            if (last)
                snprintf(last, 600, "%s/%s", dir, de->d_name);
            n++;
        }
    if (d)
        closedir(d);
    return n;
}

static void clear_dir(const char *dir)
{
    char path[600];

    while (n_files(dir, path))
        assert_int_equal(unlink(path), 0);
}

/* What is on disk serves after a restart, one engine later; and only those whom it should. */
static void restart(const char *model, bool shortcut)
{
    char *dir = tmp_path("prefixes"), other_model[600], one[600];
    struct hd_schedule_options o = {.manual = true, .disk_dir = dir, .disk_tokens_min = 40, .checkpoint_tokens = 32};
    struct ask a, longer;
    struct heard answer;
    struct bench b;
    int64_t page;

    clear_dir(dir);
    open_engine(&b, model, 4096, 48, 2, shortcut);
    page = b.e.cache.page_tokens;
    a = make_ask(&b, 150, 20, 6);
    alone(&b, &a, &answer);
    start(&b, o);
    ask_one(&b, &a, "t", 0, 0, "first");
    assert_true(n_files(dir, NULL) > 0);
    assert_true(stats(&b).disk_bytes > 0);
    longer = make_ask(&b, 39, 1, 7);
    longer.n_max = 0;
    struct stat st;
    int n = n_files(dir, one);

    assert_int_equal(stat(one, &st), 0);
    assert_int_equal(st.st_mode & 077, 0);                                    /* what people wrote is theirs */
    ask_one(&b, &longer, "t", 0, 0, "too short for a file");
    assert_int_equal(n_files(dir, NULL), n);
    stop(&b);
    close_engine(&b);
    snprintf(other_model, sizeof other_model, "%s/0123456789abcdef-0000000000000000-0000000000000000.prefix", dir);
    write_file(other_model, "?", 1);

    open_engine(&b, model, 4096, 48, 1, shortcut);
    start(&b, o);
    ask_one(&b, &a, "u", 0, 0, "another tenant");
    ask_one(&b, &a, "t", 149, 149, "after a restart");
    assert_int_equal(stats(&b).disk_hits, 1);
    longer = a;
    memcpy(longer.ids + 150, answer.ids, (size_t)answer.n * sizeof *answer.ids);
    longer.n = 150 + answer.n + page;
    fill(&b, longer.ids + 150 + answer.n, page, 90);
    ask_one(&b, &longer, "t", 150, 150 + answer.n, "the next turn");
    b.runner.flush(b.runner.self);
    ask_one(&b, &longer, "t", 0, 0, "flushed");
    stop(&b);
    assert_true(hd_file_exists(other_model));
    unlink(other_model);
    close_engine(&b);
    clear_dir(dir);
}

static void test_restart(void **state)
{
    restart("llama-a", false);
    restart("v32-a", false);
    restart("v4-f32-a", false);
    restart("v41-f32-mini", true);
}

/* Files that broke are noticed, do no harm, and go. */
static void test_torn(void **state)
{
    char *dir = tmp_path("torn"), path[600], left[700];
    struct hd_schedule_options o = {.manual = true, .disk_dir = dir, .disk_tokens_min = 40};
    struct bench b;
    struct ask a;

    clear_dir(dir);
    for (int how = 0; how < 4; how++) {
        char *data;
        size_t n;

        open_engine(&b, "llama-a", 4096, 48, 1, false);
        a = make_ask(&b, 150, 2, 6);
        start(&b, o);
        ask_one(&b, &a, NULL, 0, 0, "first");
        stop(&b);
        assert_int_equal(n_files(dir, path), 1);
        assert_ok(hd_file_read(path, 1 << 24, &data, &n, &test_err));
        data[how == 1 ? n / 2 : how == 2 ? 60 : n - 1] ^= 1;              /* rows, the head, the checksum */
        write_file(path, data, how == 0 ? n - 5 : n);
        snprintf(left, sizeof left, "%s.tmpAbCdEf", path);
        write_file(left, data, 10);
        start(&b, o);
        assert_false(hd_file_exists(left));
        if (how == 0)
            assert_int_equal(n_files(dir, NULL), 0);
        ask_one(&b, &a, NULL, 0, 0, "from a broken file");
        assert_int_equal(stats(&b).disk_hits, 0);
        stop(&b);
        start(&b, o);
        ask_one(&b, &a, NULL, 149, 149, "written again");
        b.runner.flush(b.runner.self);
        hd_schedule_step(b.s);
        stop(&b);
        assert_int_equal(n_files(dir, NULL), 0);
        hd_free(data);
        close_engine(&b);
    }
}

/* Another number format or mode computes other bits: its files are others. */
static void test_fingerprint(void **state)
{
    char *dir = tmp_path("modes");
    struct hd_schedule_options o = {.manual = true, .disk_dir = dir, .disk_tokens_min = 40};
    struct bench b;
    struct ask a;

    clear_dir(dir);
    open_engine(&b, "llama-a", 4096, 48, 1, false);
    a = make_ask(&b, 150, 2, 6);
    for (int exact = 0; exact < 2; exact++) {
        b.e.opt.exact = exact ? HD_EXACT_F32 : HD_EXACT_NONE;
        start(&b, o);
        ask_one(&b, &a, NULL, 0, 0, "first of its mode");
        stop(&b);
        assert_int_equal(n_files(dir, NULL), 1 + exact);
    }
    close_engine(&b);
    clear_dir(dir);
}

static void test_disk_evict(void **state)
{
    char *dir = tmp_path("lru");
    struct hd_schedule_options o = {.manual = true, .disk_dir = dir, .disk_tokens_min = 40, .keep_bytes = -1};
    struct bench b;
    struct ask a[4];

    clear_dir(dir);
    open_engine(&b, "llama-a", 4096, 48, 1, false);
    for (int i = 0; i < 4; i++)
        a[i] = make_ask(&b, 100, 2, 20 + (uint64_t)i);
    start(&b, o);
    ask_one(&b, &a[0], NULL, 0, 0, "first");
    o.disk_bytes = (int64_t)stats(&b).disk_bytes * 7 / 2;                     /* three */
    stop(&b);
    start(&b, o);
    ask_one(&b, &a[1], NULL, 0, 0, "second");
    ask_one(&b, &a[2], NULL, 0, 0, "third");
    ask_one(&b, &a[0], NULL, 99, 99, "touched");
    ask_one(&b, &a[3], NULL, 0, 0, "one too many");
    assert_int_equal(stats(&b).disk_evictions, 1);
    assert_int_equal(n_files(dir, NULL), 3);
    stop(&b);
    start(&b, o);
    ask_one(&b, &a[2], NULL, 99, 99, "still there");
    ask_one(&b, &a[0], NULL, 99, 99, "still there");
    ask_one(&b, &a[1], NULL, 0, 0, "gone");
    stop(&b);
    close_engine(&b);
    clear_dir(dir);
}

/* With the helper's thread: writing while others decode, checking while a request waits. */
static void test_helper(void **state)
{
    char *dir = tmp_path("helper");
    struct hd_schedule_options o = {.disk_dir = dir, .disk_tokens_min = 40, .checkpoint_tokens = 32, .max_running = 3};
    struct heard got[8], want[8];
    struct ask a[8];
    struct bench b;

    clear_dir(dir);
    for (int round = 0; round < 2; round++) {
        open_engine(&b, "v4-f32-a", 2048, 32, 2, false);
        for (int i = 0; i < 8; i++) {
            a[i] = make_ask(&b, 100 + i, 10, 33 + (uint64_t)i);
            alone(&b, &a[i], &want[i]);
        }
        start(&b, o);
        for (int i = 0; i < 8; i++) {
            struct hd_run_request r = request(&a[i], &got[i]);

            submit(&b, &r);
        }
        hd_schedule_drain(b.s, true);
        for (int i = 0; i < 8; i++)
            same(&got[i], &want[i], "beside the helper");
        if (round)
            assert_true(stats(&b).disk_hits > 0);
        stop(&b);
        close_engine(&b);
    }
    clear_dir(dir);
}

/* ---- a cache too small ---- */

static void crowded(const char *model, int64_t page, bool shortcut, int64_t keep)
{
    struct heard want[3], got[3];
    struct ask a[3];
    struct bench b;

    open_engine(&b, model, 4 * page, 32, 2, shortcut);
    assert_int_equal(b.e.cache.page_tokens, page);
    start(&b, (struct hd_schedule_options){.manual = true, .keep_bytes = keep});
    for (int i = 0; i < 3; i++) {
        a[i] = make_ask(&b, 50 + i, 2 * page - 35, 30 + 3 * (uint64_t)i);
        struct hd_run_request r = request(&a[i], &got[i]);

        submit(&b, &r);
    }
    run_all(&b);
    assert_true(stats(&b).n_preempted > 0);
    stop(&b);
    for (int i = 0; i < 3; i++) {
        alone(&b, &a[i], &want[i]);
        same(&got[i], &want[i], model);
    }
    close_engine(&b);
}

static void test_preempt(void **state)
{
    crowded("llama-a", 64, false, 0);
    crowded("llama-a", 64, false, -1);
    crowded("v4-f32-a", 128, false, 0);
    crowded("v41-f32-a", 64, true, 0);
}

/* Somebody is pushed out in the middle of a prompt, and progress does not go back. */
static void test_preempt_prompt(void **state)
{
    struct heard want[3], got[3];
    struct hd_logit_bias bias = {5, 100};      /* nobody ends early */
    struct ask a[3];
    struct bench b;
    bool in_prompt = false;

    open_engine(&b, "v32-a", 12 * 64, 4, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true});
    for (int i = 0; i < 3; i++) {
        a[i] = make_ask(&b, i < 2 ? 62 : 300, i < 2 ? 190 : 5, 33 + 3 * (uint64_t)i);
        a[i].sample.bias = &bias;
        a[i].sample.n_bias = 1;
        if (i == 2)
            while (!got[0].n || !got[1].n)
                hd_schedule_step(b.s);
        struct hd_run_request r = request(&a[i], &got[i]);

        submit(&b, &r);
    }
    while (hd_schedule_step(b.s))
        in_prompt |= stats(&b).n_preempted && !got[2].n;
    assert_true(in_prompt);
    stop(&b);
    for (int i = 0; i < 3; i++) {
        alone(&b, &a[i], &want[i]);
        same(&got[i], &want[i], "pushed out");
    }
    close_engine(&b);
}

/* One request may fill the whole cache, and ends there. */
static void test_context(void **state)
{
    struct heard want, got;
    struct ask a, full;
    struct bench b;

    open_engine(&b, "llama-a", 128, 32, 1, false);
    a = make_ask(&b, 100, -1, 3);
    a.sample.bias = (struct hd_logit_bias[]){{0, 100}};                    /* never an end token */
    a.sample.n_bias = 1;
    full = make_ask(&b, 128, 5, 4);
    start(&b, (struct hd_schedule_options){.manual = true});
    assert_int_equal(b.runner.n_ctx, 128);
    for (int i = 0; i < 2; i++) {
        struct hd_run_request r = request(&a, &got);

        submit(&b, &r);
        run_all(&b);
        alone(&b, &a, &want);
        same(&got, &want, "to the context's end");
        assert_int_equal(got.finish, HD_FINISH_CONTEXT);
        assert_int_equal(got.n, 29);
    }
    ask_one(&b, &full, NULL, 0, 0, "a full prompt");
    full.n = 129;
    struct hd_run_request r = request(&full, &got);
    uint64_t id;

    assert_int_equal(b.runner.submit(b.runner.self, &r, &id, NULL, &test_err), HD_ERR_USAGE);
    stop(&b);
    close_engine(&b);
}

/* A step that finds the cache full leaves sessions as they were: rings too. */
static void test_full_step(void **state)
{
    struct hd_session ss[2];
    struct hd_step_item it[2];
    const float *lg;
    struct ask a;
    float *want;
    struct bench b;

    open_engine(&b, "v4-f32-a", 512, 512, 1, false);
    a = make_ask(&b, 600, 1, 9);
    want = hd_malloc((size_t)b.e.model.hp.n_vocab * sizeof *want);
    for (int i = 0; i < 2; i++)
        assert_ok(hd_session_open(&ss[i], &b.e, &test_err));
    assert_ok(hd_session_feed(&ss[0], a.ids, 201, NULL, NULL, &lg, &test_err));
    memcpy(want, lg, (size_t)b.e.model.hp.n_vocab * sizeof *want);
    hd_session_close(&ss[0]);
    assert_ok(hd_session_open(&ss[0], &b.e, &test_err));
    assert_ok(hd_session_feed(&ss[0], a.ids, 200, NULL, NULL, NULL, &test_err));
    assert_ok(hd_session_feed(&ss[1], a.ids, 100, NULL, NULL, NULL, &test_err));
    it[0] = (struct hd_step_item){.session = &ss[0], .ids = a.ids + 200, .n_tok = 250, .want = HD_WANT_LAST};
    it[1] = (struct hd_step_item){.session = &ss[1], .ids = a.ids + 100, .n_tok = 250, .want = HD_WANT_LAST};
    assert_int_equal(hd_engine_step(&b.e, it, 2, &test_err), HD_ERR_LIMIT);
    it[0].n_tok = 1;
    assert_ok(hd_engine_step(&b.e, it, 1, &test_err));
    assert_memory_equal(it[0].logits, want, (size_t)b.e.model.hp.n_vocab * sizeof *want);
    for (int i = 0; i < 2; i++)
        hd_session_close(&ss[i]);
    hd_free(want);
    close_engine(&b);
}

/* ---- doors ---- */

static void test_cancel(void **state)
{
    struct heard got[4], want;
    struct ask a[4];
    struct bench b;
    int n;

    open_engine(&b, "llama-a", 1024, 32, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true, .max_running = 3});
    for (int i = 0; i < 4; i++) {
        a[i] = make_ask(&b, 40, 40, 40 + 3 * (uint64_t)i);
        struct hd_run_request r = request(&a[i], &got[i]);

        submit(&b, &r);
    }
    got[0].cancel_at = 2;
    while (got[1].n < 4)
        assert_true(hd_schedule_step(b.s));
    assert_int_equal(got[0].n, 2);
    assert_int_equal(got[0].n_end, 1);
    assert_int_equal(got[0].finish, HD_FINISH_CANCELLED);
    b.runner.cancel(b.runner.self, got[0].id);                        /* already over */
    b.runner.cancel(b.runner.self, 12345);
    b.runner.cancel(b.runner.self, got[1].id);
    n = got[1].n;
    assert_true(hd_schedule_step(b.s));                               /* within one step */
    assert_int_equal(got[1].n, n);
    assert_int_equal(got[1].n_end, 1);
    run_all(&b);
    for (int i = 2; i < 4; i++) {
        alone(&b, &a[i], &want);
        same(&got[i], &want, "not cancelled");
    }
    /* a waiting one, and one in the middle of its prompt */
    for (int i = 0; i < 4; i++) {
        struct hd_run_request r;

        a[i] = make_ask(&b, 100, 10, 60 + (uint64_t)i);
        r = request(&a[i], &got[i]);
        submit(&b, &r);
    }
    hd_schedule_step(b.s);
    for (int i = 0; i < 4; i++)
        b.runner.cancel(b.runner.self, got[i].id);
    hd_schedule_step(b.s);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(got[i].n_end, 1);
        assert_int_equal(got[i].n, 0);
    }
    assert_false(hd_schedule_step(b.s));
    stop(&b);
    close_engine(&b);
}

static void test_pause(void **state)
{
    struct heard got[2], want;
    struct ask a[2];
    struct bench b;
    int n;

    open_engine(&b, "llama-a", 512, 32, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true});
    for (int i = 0; i < 2; i++) {
        a[i] = make_ask(&b, 40, 30, 45);
        struct hd_run_request r = request(&a[i], &got[i]);

        submit(&b, &r);
    }
    while (!got[0].n)
        hd_schedule_step(b.s);
    b.runner.pause(b.runner.self, got[0].id, true);
    n = got[0].n;
    run_all(&b);
    assert_int_equal(got[1].n_end, 1);
    assert_int_equal(got[0].n, n);
    b.runner.pause(b.runner.self, got[0].id, false);
    run_all(&b);
    for (int i = 0; i < 2; i++) {
        alone(&b, &a[i], &want);
        same(&got[i], &want, "paused");
    }
    stop(&b);
    close_engine(&b);
}

static int n_freed;

static void count_free(void *self)
{
    n_freed++;
}

static void test_queue_full(void **state)
{
    struct heard got[8] = {0};
    struct hd_run_request r;
    struct ask a;
    struct bench b;
    double retry = 0;
    uint64_t id;

    open_engine(&b, "llama-a", 256, 32, 1, false);
    a = make_ask(&b, 100, 1, 1);
    start(&b, (struct hd_schedule_options){.manual = true, .max_waiting = 3, .max_waiting_tokens = 250, .max_running = 1});
    for (int i = 0; i < 2; i++) {
        r = request(&a, &got[i]);
        submit(&b, &r);
    }
    r = request(&a, &got[2]);
    r.constraint = (struct hd_constraint){.free = count_free};
    n_freed = 0;
    assert_int_equal(b.runner.submit(b.runner.self, &r, &id, &retry, &test_err), HD_ERR_LIMIT);       /* tokens */
    assert_true(retry > 0);
    assert_int_equal(n_freed, 0);                                      /* still ours */
    r.constraint.free = NULL;
    r.n_prompt = 1;
    submit(&b, &r);
    r.arg = &got[3];
    retry = 0;
    assert_int_equal(b.runner.submit(b.runner.self, &r, &id, &retry, &test_err), HD_ERR_LIMIT);       /* requests */
    assert_true(retry > 0);
    hd_schedule_step(b.s);
    submit(&b, &r);                                                     /* one has left the queue */
    run_all(&b);
    for (int i = 0; i < 4; i++)
        assert_int_equal(got[i].n_end, 1);
    a = make_ask(&b, 255, 1, 1);                                        /* longer than all that may wait, but alone */
    r = request(&a, &got[4]);
    submit(&b, &r);
    run_all(&b);
    assert_int_equal(got[4].n_end, 1);
    /* what cannot be */
    a.ids[3] = -1;
    assert_int_equal(b.runner.submit(b.runner.self, &r, &id, &retry, &test_err), HD_ERR_USAGE);
    a.ids[3] = (int32_t)b.e.model.hp.n_vocab;
    assert_int_equal(b.runner.submit(b.runner.self, &r, &id, &retry, &test_err), HD_ERR_USAGE);
    a.ids[3] = 3;
    r.sample.top_p = 2;
    assert_int_equal(b.runner.submit(b.runner.self, &r, &id, &retry, &test_err), HD_ERR_USAGE);
    r.sample.top_p = 1;
    r.n_prompt = 0;
    assert_int_equal(b.runner.submit(b.runner.self, &r, &id, &retry, &test_err), HD_ERR_USAGE);
    stop(&b);
    close_engine(&b);
}

/* Draining: finishes what was accepted, even paused, and accepts no more. */
static void test_drain(void **state)
{
    struct heard got[3], want;
    struct ask a[3];
    struct bench b;
    uint64_t id;

    open_engine(&b, "llama-a", 512, 32, 2, false);
    for (int finish = 0; finish < 2; finish++) {
        start(&b, (struct hd_schedule_options){.max_running = 2});
        for (int i = 0; i < 3; i++) {
            a[i] = make_ask(&b, 30, 100, 42 + 3 * (uint64_t)i);
            struct hd_run_request r = request(&a[i], &got[i]);

            submit(&b, &r);
            b.runner.pause(b.runner.self, got[i].id, true);
        }
        hd_schedule_drain(b.s, finish);
        struct hd_run_request r = request(&a[0], &want);
        assert_int_equal(b.runner.submit(b.runner.self, &r, &id, NULL, &test_err), HD_ERR_CANCELLED);
        stop(&b);
        for (int i = 0; i < 3; i++) {
            alone(&b, &a[i], &want);
            if (finish || got[i].finish != HD_FINISH_CANCELLED)        /* it may have been quicker than the pause */
                same(&got[i], &want, "drained");
            assert_int_equal(got[i].n_end, 1);
        }
    }
    close_engine(&b);
}

/* The same, by hand: whoever waits or runs is cancelled. */
static void test_drain_cancel(void **state)
{
    struct heard got[3];
    struct ask a[3];
    struct bench b;

    open_engine(&b, "llama-a", 512, 32, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true, .max_running = 2});
    for (int i = 0; i < 3; i++) {
        a[i] = make_ask(&b, 60, 100, 42);
        struct hd_run_request r = request(&a[i], &got[i]);

        submit(&b, &r);
    }
    hd_schedule_step(b.s);
    hd_schedule_drain(b.s, false);
    for (int i = 0; i < 3; i++)
        assert_true(got[i].n_end == 1 && got[i].finish == HD_FINISH_CANCELLED && got[i].n == 0);
    stop(&b);
    close_engine(&b);
}

/* Everybody at the doors at once: each request ends once, and those that nobody cancelled have their answers. */
#define N_VISITOR 3
#define N_VISIT 12

struct visitor {
    struct bench *b;
    struct ask ask;
    struct heard heard[N_VISIT];
    uint64_t seed;
};

static void *visit(void *arg)
{
    struct visitor *v = arg;
    struct hd_runner *r = &v->b->runner;
    struct hd_run_stats st;
    struct hd_err err;

    for (int i = 0; i < N_VISIT; i++) {
        struct hd_run_request q = request(&v->ask, &v->heard[i]);
        char user[2] = {(char)('a' + v->seed), 0};
        double retry;

        v->heard[i].runner = r;
        q.user = user;
        if (r->submit(r->self, &q, &v->heard[i].id, &retry, &err) < 0)
            v->heard[i].n_end = 1;            /* refused: nothing will come */
        if (i % 3 == 1)
            r->cancel(r->self, v->heard[i].id);
        if (i % 3 == 2)
            r->pause(r->self, v->heard[i].id, true);
        r->stats(r->self, &st);
        if (i == 7)
            r->flush(r->self);
        if (i % 3 == 2)
            r->pause(r->self, v->heard[i].id, false);
    }
    return NULL;
}

static void test_doors(void **state)
{
    static struct visitor v[N_VISITOR];
    struct heard want[N_VISITOR];
    pthread_t thread[N_VISITOR];
    char *dir = tmp_path("doors");
    struct bench b;

    open_engine(&b, "v4-f32-mini", 640, 32, 2, false);
    for (int i = 0; i < N_VISITOR; i++) {
        memset(&v[i], 0, sizeof v[i]);
        v[i].b = &b;
        v[i].seed = (uint64_t)i;
        v[i].ask = make_ask(&b, 50 + 10 * i, 8, 33 + (uint64_t)i);
        alone(&b, &v[i].ask, &want[i]);
    }
    start(&b, (struct hd_schedule_options){.max_running = 4, .max_waiting = 20, .checkpoint_tokens = 32, .disk_dir = dir, .disk_tokens_min = 40});
    for (int i = 0; i < N_VISITOR; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, visit, &v[i]), 0);
    for (int i = 0; i < N_VISITOR; i++)
        pthread_join(thread[i], NULL);
    hd_schedule_drain(b.s, true);
    for (int i = 0; i < N_VISITOR; i++)
        for (int k = 0; k < N_VISIT; k++) {
            const struct heard *h = &v[i].heard[k];

            assert_int_equal(h->n_end, 1);
            if (h->id && k % 3 != 1)
                same(h, &want[i], "at the doors");
        }
    stop(&b);
    close_engine(&b);
    clear_dir(dir);
}

/* ---- fairness, counted in tokens of others ---- */

/* A user of ten prompts and one of a single prompt, of the same length: the latter's share of the steps is a half, not an eleventh. */
static void test_fair(void **state)
{
    struct heard got[11];
    struct ask a[11];
    struct bench b;
    int n_step = 0;

    open_engine(&b, "llama-a", 2048, 64, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true, .quantum = 16});
    for (int i = 0; i < 11; i++) {
        a[i] = make_ask(&b, 128, 1, 300 + (uint64_t)i);
        struct hd_run_request r = request(&a[i], &got[i]);

        r.user = i < 10 ? "many" : "one";
        submit(&b, &r);
    }
    while (!got[10].n_end) {
        assert_true(hd_schedule_step(b.s));
        n_step++;
    }
    assert_in_range(n_step, 4, 5);            /* 128 tokens at 32 a step */
    run_all(&b);
    stop(&b);
    close_engine(&b);
}

/* A slot that becomes free goes to who has had less, not to who has waited in greater numbers. */
static void test_fair_slots(void **state)
{
    struct heard got[8];
    struct ask a[8];
    struct bench b;
    int n_before = 0;

    open_engine(&b, "llama-a", 2048, 64, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true, .quantum = 16, .max_running = 2, .keep_bytes = -1});
    for (int i = 0; i < 8; i++) {
        a[i] = make_ask(&b, 40, 20, 303 + 3 * (uint64_t)i);
        a[i].sample.bias = (struct hd_logit_bias[]){{5, 100}};
        a[i].sample.n_bias = 1;
        struct hd_run_request r = request(&a[i], &got[i]);

        r.user = i < 7 ? "many" : "one";
        submit(&b, &r);
        if (i == 1)
            while (!got[1].n)
                hd_schedule_step(b.s);
    }
    while (!got[7].n_end)
        assert_true(hd_schedule_step(b.s));
    for (int i = 0; i < 7; i++)
        n_before += got[i].n_end;
    assert_in_range(n_before, 1, 3);
    run_all(&b);
    stop(&b);
    close_engine(&b);
}

/* A long prompt takes no more than a busy chunk from those who decode, and they get a token every step. */
static void test_no_stall(void **state)
{
    struct heard got[3];
    struct ask a[3];
    struct bench b;

    open_engine(&b, "llama-a", 2048, 64, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true, .chunk_busy = 20});
    for (int i = 0; i < 2; i++) {
        a[i] = make_ask(&b, 10, 60, 303);
        a[i].sample.bias = (struct hd_logit_bias[]){{5, 100}};
        a[i].sample.n_bias = 1;
        struct hd_run_request r = request(&a[i], &got[i]);

        submit(&b, &r);
    }
    while (got[0].n < 2 || got[1].n < 2)
        hd_schedule_step(b.s);
    a[2] = make_ask(&b, 200, 1, 8);
    struct hd_run_request r = request(&a[2], &got[2]);

    submit(&b, &r);
    for (int64_t before = 0; !got[2].n_end; before = got[2].done) {
        int n = got[0].n;

        hd_schedule_step(b.s);
        assert_int_equal(got[0].n, n + 1);
        assert_true(got[2].done - before <= 18);
    }
    run_all(&b);
    stop(&b);
    close_engine(&b);
}

/* Short prompts overtake a long one, but not for ever. */
static void test_overtake(void **state)
{
    struct heard got[60] = {0};
    struct ask a, s;
    struct bench b;
    int n = 1;

    open_engine(&b, "llama-a", 2048, 32, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true, .keep_bytes = -1});
    a = make_ask(&b, 250, 1, 500);
    struct hd_run_request r = request(&a, &got[0]);
    submit(&b, &r);
    hd_schedule_step(b.s);
    for (; !got[0].n_end && n < 60; n++) {                               /* always a short one more */
        s = make_ask(&b, 32, 1, 600 + (uint64_t)n);
        r = request(&s, &got[n]);
        submit(&b, &r);
        hd_schedule_step(b.s);
        if (n == 1)
            assert_int_equal(got[1].n_end, 1);                           /* it did overtake */
    }
    assert_in_range(n, 4, 40);
    run_all(&b);
    stop(&b);
    close_engine(&b);
}

static void test_per_user(void **state)
{
    struct heard got[4];
    struct ask a[4];
    struct bench b;

    open_engine(&b, "llama-a", 1024, 64, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true, .max_per_user = 1});
    for (int i = 0; i < 4; i++) {
        a[i] = make_ask(&b, 10, 8, 303);
        struct hd_run_request r = request(&a[i], &got[i]);

        r.user = i < 3 ? "greedy" : "modest";
        submit(&b, &r);
    }
    hd_schedule_step(b.s);
    assert_int_equal(stats(&b).n_running, 2);
    assert_int_equal(stats(&b).n_waiting, 2);
    run_all(&b);
    for (int i = 0; i < 4; i++)
        assert_int_equal(got[i].n_end, 1);
    stop(&b);
    close_engine(&b);
}

/* ---- what a request may ask for ---- */

static void test_prompt_logprobs(void **state)
{
    static const char *const models[] = {"llama-a", "v4-f32-mini", "v41-f32-mini"};

    for (int m = 0; m < HD_LEN(models); m++) {
        struct heard got, plain;
        struct hd_run_request r;
        struct hd_session ss;
        struct hd_sampler sm;
        double want[MAX_TOK];
        struct ask a;
        struct bench b;

        open_engine(&b, models[m], 512, 100, 1, true);
        a = make_ask(&b, 90, 0, 7);
        struct hd_step_item it = {.session = &ss, .ids = a.ids, .n_tok = a.n, .want = HD_WANT_ALL};

        assert_ok(hd_session_open(&ss, &b.e, &test_err));
        assert_ok(hd_sampler_init(&sm, &a.sample, b.e.model.hp.n_vocab, &test_err));
        assert_ok(hd_engine_step(&b.e, &it, 1, &test_err));
        for (int64_t i = 0; i + 1 < a.n; i++) {
            struct hd_pick p;

            assert_ok(hd_sampler_score(&sm, it.logits + i * b.e.model.hp.n_vocab, a.ids[i + 1], &p, &test_err));
            want[i] = p.logprob;
        }
        hd_sampler_release(&sm);
        hd_session_close(&ss);
        b.e.opt.chunk = 17;
        start(&b, (struct hd_schedule_options){.manual = true});
        r = request(&a, &plain);
        submit(&b, &r);
        run_all(&b);
        assert_int_equal(plain.n_prompt_pick, 0);
        assert_int_equal(plain.n, 0);
        assert_int_equal(plain.finish, HD_FINISH_LENGTH);
        r = request(&a, &got);
        r.prompt_logprobs = true;
        submit(&b, &r);
        run_all(&b);
        assert_int_equal(got.cached, 0);
        assert_int_equal(got.n_prompt_pick, a.n - 1);
        assert_memory_equal(got.prompt_logprob, want, (size_t)(a.n - 1) * sizeof *want);
        stop(&b);
        close_engine(&b);
    }
}

struct only {
    int32_t next;                     /* the one id that may come; then the next one */
    int n_mask, n_take;
};

static void only_mask(void *self, float *logits, int64_t n_vocab)
{
    struct only *o = self;

    for (int64_t i = 0; i < n_vocab; i++)
        if (i != o->next)
            logits[i] = -INFINITY;
    o->n_mask++;
}

static void only_take(void *self, int32_t id)
{
    struct only *o = self;

    assert_int_equal(id, o->next);
    o->next++;
    o->n_take++;
}

/* What may come is decided from outside; other requests of the same step do not notice. */
static void test_constraint(void **state)
{
    struct only o = {.next = 20};
    struct heard got[2], want;
    struct ask a[2];
    struct bench b;

    open_engine(&b, "llama-a", 512, 64, 1, false);
    start(&b, (struct hd_schedule_options){.manual = true});
    n_freed = 0;
    for (int i = 0; i < 2; i++) {
        a[i] = make_ask(&b, 20, 10, 46);
        struct hd_run_request r = request(&a[i], &got[i]);

        if (i == 0)
            r.constraint = (struct hd_constraint){&o, only_mask, only_take, count_free};
        submit(&b, &r);
    }
    run_all(&b);
    alone(&b, &a[1], &want);
    same(&got[1], &want, "beside a constraint");
    assert_int_equal(got[0].n, 10);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(got[0].ids[i], 20 + i);
        assert_true(got[0].logprob[i] < 0);               /* the model's own, not that of the only choice */
    }
    assert_int_equal(o.n_take, 10);
    assert_int_equal(n_freed, 1);
    o.next = 1 << 20;                                     /* nothing may come */
    struct hd_run_request r = request(&a[0], &got[0]);
    r.constraint = (struct hd_constraint){&o, only_mask, only_take, count_free};
    submit(&b, &r);
    run_all(&b);
    assert_int_equal(got[0].n_end, 1);
    assert_int_equal(got[0].rc, HD_ERR_FORMAT);
    assert_int_equal(n_freed, 2);
    stop(&b);
    close_engine(&b);
}

static void test_end_token(void **state)
{
    struct heard got;
    struct ask a;
    struct bench b;
    int32_t end = 0;

    open_engine(&b, "llama-a", 512, 64, 1, false);
    while (end < b.e.model.hp.n_vocab && !hd_tokenizer_is_end(b.tok, end))
        end++;
    if (end == b.e.model.hp.n_vocab)
        end = -1;
    start(&b, (struct hd_schedule_options){.manual = true});
    a = make_ask(&b, 20, 10, 46);
    a.sample.bias = &(struct hd_logit_bias){end < 0 ? 0 : end, 1000};
    a.sample.n_bias = end >= 0;
    for (int ignore = 0; ignore < 2 && end >= 0; ignore++) {
        struct hd_run_request r = request(&a, &got);

        r.ignore_end = ignore;
        submit(&b, &r);
        run_all(&b);
        assert_int_equal(got.finish, ignore ? HD_FINISH_LENGTH : HD_FINISH_END);
        assert_int_equal(got.n, ignore ? 10 : 0);
    }
    assert_true(end >= 0);
    stop(&b);
    close_engine(&b);
}

/* ---- trouble ---- */

/* The n-th allocation and all after it fail, for every n, until nothing fails: every request that was accepted ends, once. */
static void faults(const char *model, enum hd_fault_kind kind, const char *dir)
{
    struct heard got[3];
    struct ask a[3];
    struct bench b;
    int n = 0, failed;

    open_engine(&b, model, 256, 32, 1, false);
    for (int i = 0; i < 3; i++)
        a[i] = make_ask(&b, 40 + 20 * i, 6, 50 + (uint64_t)i);
    do {
        struct hd_schedule_options o = {.manual = true, .tok = b.tok, .checkpoint_tokens = 16, .disk_dir = dir, .disk_tokens_min = 30};
        struct heard *h;

        if (dir && n % 2 == 0)
            clear_dir(dir);

        failed = 0;
        memset(got, 0, sizeof got);
        hd_fault_arm(kind, n);
        if (hd_schedule_create(&b.s, &b.e, &o, &test_err) == HD_OK) {
            hd_schedule_runner(b.s, &b.runner);
            for (int i = 0; i < 3; i++) {
                struct hd_run_request r = request(&a[i], &got[i]);

                r.tenant = "t";
                r.user = i ? "u" : "v";
                got[i].runner = &b.runner;
                if (b.runner.submit(b.runner.self, &r, &got[i].id, NULL, &test_err) < 0)
                    failed++;
                hd_schedule_step(b.s);
            }
            run_all(&b);
            hd_fault_disarm();
            for (h = got; h < got + 3; h++) {
                if (h->id)
                    assert_int_equal(h->n_end, 1);
                failed += h->rc != HD_OK;
            }
            stop(&b);
        } else {
            failed++;
        }
        hd_fault_disarm();
        hd_cache_release(&b.e.cache);         /* so that the next round takes pages again */
        assert_ok(hd_cache_init(&b.e.cache, &b.e.model.spec, 256, &test_err));
        n++;
    } while (failed && n < 5000);
    assert_int_equal(failed, 0);
    print_message("# %s: %d failures survived\n", model, n - 1);
    assert_true(n > 20 || kind != HD_FAULT_ALLOC);
    close_engine(&b);
}

static void test_faults(void **state)
{
    char *dir = tmp_path("faults");

    faults("llama-a", HD_FAULT_ALLOC, NULL);
    faults("v4-f32-mini", HD_FAULT_ALLOC, NULL);
    faults("v4-f32-mini", HD_FAULT_ALLOC, dir);
    clear_dir(dir);
}

/* Files that cannot be written or read cost nothing but their use. */
static void test_disk_faults(void **state)
{
    char *dir = tmp_path("disk_faults");
    struct hd_schedule_options o = {.manual = true, .disk_dir = dir, .disk_tokens_min = 30, .keep_bytes = -1};
    struct bench b;
    struct ask a;

    clear_dir(dir);
    open_engine(&b, "llama-a", 1024, 32, 1, false);
    a = make_ask(&b, 100, 4, 9);
    for (int n = 0; n < 12; n++) {
        hd_fault_arm(n % 2 ? HD_FAULT_READ : HD_FAULT_WRITE, n / 2);
        start(&b, o);
        ask_one(&b, &a, NULL, 0, 99, "with a failing disk");
        hd_fault_disarm();
        stop(&b);
        for (char path[600]; n_files(dir, path) && strstr(path, ".tmp");)
            fail_msg("%s was left behind", path);
    }
    close_engine(&b);
    clear_dir(dir);
}

static int guessing(void **state)
{
    bench_draft = (struct hd_speculate_options){.kind = HD_DRAFT_CALLER, .depth = 5, .propose = guess};
    return 0;
}

/* Every kind of guess, in batches: nothing changes, and some stand. */
static void guesses(const char *model, enum hd_draft_kind kind, int64_t depth, int64_t chunk, int n_thread)
{
    struct hd_speculate_options before = bench_draft;

    bench_draft = (struct hd_speculate_options){.kind = kind, .depth = depth, .propose = guess};
    mixed(model, chunk, n_thread, false, true);
    bench_draft = before;
}

static void test_guesses(void **state)
{
    static const char *const modules[] = {"v4-f32-a", "v41-f32-dspark-a", "v3-mtp"};

    for (int m = 0; m < HD_LEN(modules); m++)
        for (int64_t depth = 0; depth < 6; depth += 1 + m % 2)
            guesses(modules[m], HD_DRAFT_MODULE, depth, depth % 2 ? 512 : 64, 1 + (int)depth % 2);
    guesses("llama-a", HD_DRAFT_LOOKUP, 0, 512, 2);
    guesses("v41-f32-a", HD_DRAFT_LOOKUP, 16, 512, 1);
    guesses("v32-a", HD_DRAFT_CALLER, 16, 512, 2);
    guesses("qwen2-window", HD_DRAFT_CALLER, 1, 64, 1);
}

/* What stands is counted, of a request and in all. */
static void hear_guesses(void *arg, const struct hd_run_event *e)
{
    int64_t *n = arg;

    n[0] += e->kind == HD_RUN_TOKEN;
    if (e->kind == HD_RUN_END) {
        n[1] = e->n_drafted;
        n[2] = e->n_accepted;
    }
}

static void test_guess_counts(void **state)
{
    struct heard want;
    struct hd_run_request r;
    int64_t n[3] = {0};
    struct bench b;
    struct ask a;

    open_engine(&b, "llama-a", 512, 512, 1, false);
    a = make_ask(&b, 40, 60, 12);
    alone(&b, &a, &want);
    start(&b, (struct hd_schedule_options){.manual = true});
    r = request(&a, NULL);
    r.event = hear_guesses;
    r.arg = n;
    n_guess = 0;
    assert_ok(b.runner.submit(b.runner.self, &r, &(uint64_t){0}, NULL, &test_err));
    run_all(&b);
    assert_int_equal(n[0], want.n);
    assert_true(n[1] > n[2] && n[2] > n[0] / 3);
    assert_int_equal(stats(&b).n_drafted, n[1]);
    assert_int_equal(stats(&b).n_accepted, n[2]);
    assert_true(stats(&b).n_step + (uint64_t)n[2] >= (uint64_t)want.n && stats(&b).n_step < (uint64_t)want.n);
    stop(&b);
    close_engine(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixed),       cmocka_unit_test(test_thread),          cmocka_unit_test(test_shortcut),  cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_prefix_shortcut), cmocka_unit_test(test_running_prefix), cmocka_unit_test(test_together), cmocka_unit_test(test_doors), cmocka_unit_test(test_drain_cancel), cmocka_unit_test(test_preempt_prompt), cmocka_unit_test(test_fair_slots), cmocka_unit_test(test_evict),  cmocka_unit_test(test_preempt),
        cmocka_unit_test(test_restart),     cmocka_unit_test(test_torn),            cmocka_unit_test(test_fingerprint), cmocka_unit_test(test_disk_evict),
        cmocka_unit_test(test_helper),      cmocka_unit_test(test_disk_faults),
        cmocka_unit_test(test_context),     cmocka_unit_test(test_full_step),       cmocka_unit_test(test_cancel),    cmocka_unit_test(test_pause),
        cmocka_unit_test(test_queue_full),  cmocka_unit_test(test_drain),           cmocka_unit_test(test_fair),      cmocka_unit_test(test_no_stall),
        cmocka_unit_test(test_overtake),    cmocka_unit_test(test_per_user),        cmocka_unit_test(test_prompt_logprobs), cmocka_unit_test(test_constraint),
        cmocka_unit_test(test_end_token),   cmocka_unit_test(test_faults)};

    const struct CMUnitTest again[] = {
        cmocka_unit_test(test_guesses),     cmocka_unit_test(test_guess_counts),    cmocka_unit_test(test_mixed),     cmocka_unit_test(test_thread),
        cmocka_unit_test(test_shortcut),    cmocka_unit_test(test_prefix),          cmocka_unit_test(test_running_prefix), cmocka_unit_test(test_evict),
        cmocka_unit_test(test_preempt),     cmocka_unit_test(test_restart),         cmocka_unit_test(test_context),   cmocka_unit_test(test_full_step),
        cmocka_unit_test(test_cancel),      cmocka_unit_test(test_pause),           cmocka_unit_test(test_prompt_logprobs), cmocka_unit_test(test_constraint),
        cmocka_unit_test(test_end_token),   cmocka_unit_test(test_faults)};
    int failed = cmocka_run_group_tests_name("schedule", tests, NULL, NULL);

    return failed + cmocka_run_group_tests_name("schedule, with guesses", again, guessing, NULL);
}
