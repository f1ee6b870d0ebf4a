/* test_draft.c: the draft modules against DeepSeek's own numbers, and what proposals may and may not do: nothing that is said changes by them. */
#include "support.h"

#include "base/json.h"
#include "base/rng.h"
#include "engine/generate.h"
#include "engine/model_tokenizer.h"

struct model {
    struct hd_engine e;
    struct hd_store ref;
    struct hd_sampler sm;
    int32_t ids[512];
    int64_t n;
    int64_t n_vocab;
};

static void open_model(struct model *m, const char *name, enum hd_exact exact, int n_thread)
{
    struct hd_engine_options o = {.n_thread = n_thread, .n_ctx = 512, .exact = exact, .draft = true, .kv = HD_KV_F32};
    struct hd_sample_params p;
    char path[300];
    json_t *j, *ids;

    memset(m, 0, sizeof *m);
    snprintf(path, sizeof path, "tests/golden/%s", name);
    assert_ok(hd_engine_open(&m->e, path, &o, &test_err));
    m->n_vocab = m->e.model.hp.n_vocab;
    snprintf(path, sizeof path, "tests/golden/%s/tokens.json", name);
    if (hd_file_exists(path)) {
        assert_non_null(j = hd_json_read(path, 1 << 20, &test_err));
        ids = json_object_get(j, "tokens");
        m->n = (int64_t)json_array_size(ids);
        for (int64_t i = 0; i < m->n && i < 500; i++)
            m->ids[i] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
        json_decref(j);
        snprintf(path, sizeof path, "tests/golden/%s/expected.safetensors", name);
    } else {
        const struct hd_entry *t;

        snprintf(path, sizeof path, "tests/golden/%s/golden.safetensors", name);
        open_tensors(&m->ref, path);
        t = get_tensor(&m->ref, "tokens");
        m->n = t->dim[0];
        for (int64_t i = 0; i < m->n && i < 500; i++)
            m->ids[i] = (int32_t)((const int64_t *)t->data)[i];
        hd_store_close(&m->ref);
        snprintf(path, sizeof path, "tests/golden/%s/mtp.safetensors", name);
    }
    assert_true(m->n < 500);
    open_tensors(&m->ref, path);
    hd_sample_defaults(&p);
    p.temperature = 0;
    assert_ok(hd_sampler_init(&m->sm, &p, m->n_vocab, &test_err));
}

static void close_model(struct model *m)
{
    hd_sampler_release(&m->sm);
    hd_store_close(&m->ref);
    hd_engine_close(&m->e);
}

/* Everything that the module names in one pass, by name. */
struct heard {
    char name[16][64];
    float *x[16];
    int64_t len[16];
    int n;
};

static void hear(void *arg, const char *name, const struct hd_tensor *x)
{
    struct heard *h = arg;

    if (strncmp(name, "draft.", 6))
        return;
    assert_true(h->n < 16);
    snprintf(h->name[h->n], sizeof h->name[0], "%s", name);
    h->len[h->n] = hd_elems(x);
    h->x[h->n] = hd_malloc((size_t)hd_elems(x) * sizeof(float));
    memcpy(h->x[h->n++], x->data, (size_t)hd_elems(x) * sizeof(float));
}

static void forget(struct heard *h)
{
    while (h->n)
        hd_free(h->x[--h->n]);
}

static const float *get(const struct heard *h, const char *name, int64_t len)
{
    for (int i = 0; i < h->n; i++)
        if (!strcmp(h->name[i], name)) {
            assert_int_equal(h->len[i], len);
            return h->x[i];
        }
    fail_msg("the module named no %s", name);
    return NULL;
}

/* One call for a session that holds all but the last of ids[n]; proposals in out. */
static int64_t propose(struct model *m, struct hd_session *ss, int64_t n, int64_t depth, int32_t *out)
{
    int32_t ids[600];
    struct hd_draft_item it = {.session = ss, .ids = ids, .n = n, .depth = depth, .sample = &m->sm.params, .rng = m->sm.rng};

    assert_true(n + depth < 600);
    memcpy(ids, m->ids, (size_t)n * sizeof *ids);
    assert_ok(hd_draft_run(&m->e, &m->sm, &it, 1, 0, &test_err));
    assert_int_equal(ss->n, n - 1);
    assert_int_equal(hd_seq_len(ss->seq), n - 1);
    memcpy(out, ids + n, (size_t)it.n_draft * sizeof *ids);
    return it.n_draft;
}

/* The MTP module's logits for every position, however the tokens before came in. */
static void mtp_logits(const char *name, int64_t chunk)
{
    const struct hd_entry *want;
    struct heard h = {0};
    struct hd_session ss;
    double worst = 0;
    struct model m;
    int32_t out[4];

    open_model(&m, name, HD_EXACT_F32, 2);
    assert_true(m.e.model.draft.chain);
    want = get_tensor(&m.ref, "mtp_logits");
    assert_int_equal(want->dim[0], m.n - 1);
    assert_ok(hd_session_open(&ss, &m.e, &test_err));
    for (int64_t q = 0; q < m.n - 1;) {
        int64_t step = q + chunk < m.n - 1 ? chunk : m.n - 1 - q;
        double d;

        assert_ok(hd_session_feed(&ss, m.ids + q, step, NULL, NULL, NULL, &test_err));
        q += step;
        m.e.trace = hear;
        m.e.trace_arg = &h;
        assert_int_equal(propose(&m, &ss, q + 1, 1, out), 1);
        m.e.trace = NULL;
        d = rel_distance(get(&h, "draft.logits", m.n_vocab), (const float *)want->data + (q - 1) * m.n_vocab, m.n_vocab);
        assert_int_equal(out[0], argmax((const float *)want->data + (q - 1) * m.n_vocab, m.n_vocab));
        worst = d > worst ? d : worst;
        forget(&h);
    }
    print_message("# %s: mtp_logits %.2e\n", name, worst);
    assert_true(worst <= 3e-5);
    hd_session_close(&ss);
    close_model(&m);
}

static void test_mtp(void **state)
{
    static const char *const names[] = {"v4-f32-a", "v3-mtp", "hadal-a", "hadal-f"};

    for (int i = 0; i < HD_LEN(names); i++) {
        mtp_logits(names[i], 1);
        mtp_logits(names[i], 7);
        mtp_logits(names[i], 100);
    }
}

/* DSpark's drafts: logits with the chain's bias, ids, confidence, and the stream after every stage. */
static void spark_drafts(int64_t chunk)
{
    const struct hd_entry *pos, *ids, *logits, *conf, *stage[3];
    double worst = 0, worst_conf = 0;
    struct hd_session ss;
    struct model m;
    char name[40];

    open_model(&m, "v41-f32-dspark-a", HD_EXACT_F32, 2);
    assert_int_equal(m.e.model.draft.block, 5);
    pos = get_tensor(&m.ref, "draft.positions");
    ids = get_tensor(&m.ref, "draft.ids");
    logits = get_tensor(&m.ref, "draft.logits");
    conf = get_tensor(&m.ref, "draft.confidence");
    for (int k = 0; k < 3; k++) {
        snprintf(name, sizeof name, "draft.stage.%d", k);
        stage[k] = get_tensor(&m.ref, name);
    }
    assert_ok(hd_session_open(&ss, &m.e, &test_err));
    for (int64_t i = 0; i < pos->dim[0]; i++) {
        int64_t p = ((const int32_t *)pos->data)[i], width = stage[0]->dim[1] * stage[0]->dim[2] * stage[0]->dim[3];
        const int32_t *want = (const int32_t *)ids->data + i * 6;
        struct heard h = {0};
        int32_t out[8];

        while ((int64_t)ss.n < p + 1) {
            int64_t n = (int64_t)ss.n + chunk < p + 1 ? chunk : p + 1 - (int64_t)ss.n;

            assert_ok(hd_session_feed(&ss, m.ids + ss.n, n, NULL, NULL, NULL, &test_err));
        }
        m.ids[p + 1] = want[0];
        m.e.trace = hear;
        m.e.trace_arg = &h;
        assert_int_equal(propose(&m, &ss, p + 2, 5, out), 5);
        m.e.trace = NULL;
        for (int k = 0; k < 3; k++) {
            snprintf(name, sizeof name, "draft.stage.%d", k);
            assert_true(rel_distance(get(&h, name, width), (const float *)stage[k]->data + i * width, width) <= 3e-5);
        }
        for (int k = 0; k < 5; k++) {
            double d, c;

            snprintf(name, sizeof name, "draft.logits.%d", k);
            d = rel_distance(get(&h, name, m.n_vocab), (const float *)logits->data + (i * 5 + k) * m.n_vocab, m.n_vocab);
            snprintf(name, sizeof name, "draft.confidence.%d", k);
            c = fabs((double)*get(&h, name, 1) - ((const float *)conf->data)[i * 5 + k]);
            worst = d > worst ? d : worst;
            worst_conf = c > worst_conf ? c : worst_conf;
            assert_int_equal(out[k], want[k + 1]);
        }
        forget(&h);
    }
    print_message("# v41-f32-dspark-a: draft logits %.2e, confidence within %.2e\n", worst, worst_conf);
    assert_true(worst <= 3e-5 && worst_conf <= 1e-3);
    hd_session_close(&ss);
    close_model(&m);
}

static void test_spark(void **state)
{
    spark_drafts(1);
    spark_drafts(4);
    spark_drafts(100);
}

/* The longest earlier copy of the end wins, the latest of equals; what repeats goes on. */
static void test_lookup(void **state)
{
    const int32_t a[] = {1, 2, 3, 4, 9, 2, 3, 7, 8, 5, 1, 2, 3}, b[] = {5, 6, 1, 5, 6, 2, 5, 6}, c[] = {4, 4, 4, 4}, d[] = {1, 2, 3, 1};
    int32_t out[8];

    assert_int_equal(hd_draft_lookup(a, HD_LEN(a), 4, out), 4);
    assert_memory_equal(out, ((int32_t[]){4, 9, 2, 3}), 16);
    assert_int_equal(hd_draft_lookup(b, HD_LEN(b), 2, out), 2);
    assert_memory_equal(out, ((int32_t[]){2, 5}), 8);
    assert_int_equal(hd_draft_lookup(c, HD_LEN(c), 3, out), 3);
    assert_memory_equal(out, ((int32_t[]){4, 4, 4}), 12);
    assert_int_equal(hd_draft_lookup(b, HD_LEN(b), 6, out), 6);
    assert_memory_equal(out, ((int32_t[]){2, 5, 6, 2, 5, 6}), 24);
    assert_int_equal(hd_draft_lookup(d, HD_LEN(d), 4, out), 0);
    assert_int_equal(hd_draft_lookup(d, 1, 4, out), 0);
    assert_int_equal(hd_draft_lookup(d, 0, 4, out), 0);
    assert_int_equal(hd_draft_lookup(a, HD_LEN(a), 0, out), 0);
}

/* ---- answers ---- */

struct answer {
    int32_t ids[80];
    int n;
};

static bool collect(void *arg, int32_t id)
{
    struct answer *a = arg;

    assert_true(a->n < HD_LEN(a->ids));
    a->ids[a->n++] = id;
    return true;
}

static struct hd_tokenizer *any_tokenizer(void)
{
    struct hd_tokenizer *t;

    assert_ok(hd_model_tokenizer(&t, "tests/golden/v41-f32-mini", &test_err));
    return t;
}

/* Goes on from ss, which keeps what comes. */
static void answer(struct model *m, struct hd_tokenizer *tok, struct hd_session *ss, const int32_t *prompt, int64_t n_prompt, int64_t n_max, const struct hd_sample_params *p,
                   const struct hd_speculate_options *how, struct answer *out, struct hd_generate *g)
{
    struct hd_speculate sp;
    struct hd_sampler sm;

    out->n = 0;
    assert_ok(hd_sampler_init(&sm, p, m->n_vocab, &test_err));
    *g = (struct hd_generate){.session = ss, .tok = tok, .sampler = &sm, .prompt = prompt, .n_prompt = n_prompt, .n_max = n_max, .token = collect, .arg = out};
    if (how) {
        assert_ok(hd_speculate_init(&sp, &m->e, how, &test_err));
        g->speculate = &sp;
    }
    assert_ok(hd_generate(g, &test_err));
    hd_sampler_release(&sm);
}

/* Knows the answer to the golden prompt's first n tokens; every third token is spoiled. */
struct oracle {
    const struct answer *answer;
    int64_t n_prompt;
    uint64_t n;
};

static void foretell(void *arg, struct hd_draft_item *it, int n_item)
{
    struct oracle *o = arg;

    for (int i = 0; i < n_item; i++)
        for (int64_t k = it[i].n - o->n_prompt; it[i].n_draft < it[i].depth && k < o->answer->n; k++, o->n++)
            it[i].ids[it[i].n + it[i].n_draft++] = o->answer->ids[k] ^ (o->n % 3 == 2);
}

/* The module's logits behind everything that ss holds and id. */
static void module_says(struct model *m, struct hd_session *ss, int32_t id, struct heard *h)
{
    int32_t out[4];

    memcpy(m->ids, ss->ids, ss->n * sizeof *m->ids);
    m->ids[ss->n] = id;
    m->e.trace = hear;
    m->e.trace_arg = h;
    assert_int_equal(propose(m, ss, (int64_t)ss->n + 1, 1, out), 1);
    m->e.trace = NULL;
}

/* What stood, what was spoiled and what was proposed by the module itself leave the module's cache as a session finds it that was fed the same tokens. */
static void keeps_step(const char *name, enum hd_exact exact, bool own)
{
    struct hd_session ss, fresh;
    struct heard a = {0}, b = {0};
    struct hd_tokenizer *tok = any_tokenizer();
    struct hd_sample_params p;
    struct answer want, got;
    struct hd_generate g;
    struct model m;

    open_model(&m, name, exact, 2);
    hd_sample_defaults(&p);
    p.seed = 7;
    assert_ok(hd_session_open(&ss, &m.e, &test_err));
    answer(&m, tok, &ss, m.ids, 20, 60, &p, NULL, &want, &g);
    hd_session_close(&ss);
    for (int64_t depth = 1; depth <= 5; depth += 2) {
        struct oracle o = {&want, 20, 0};
        struct hd_speculate_options how = {.kind = own ? HD_DRAFT_MODULE : HD_DRAFT_CALLER, .depth = depth, .propose = foretell, .arg = &o};

        assert_ok(hd_session_open(&ss, &m.e, &test_err));
        answer(&m, tok, &ss, m.ids, 20, 60, &p, &how, &got, &g);
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.ids, want.ids, (size_t)want.n * sizeof *want.ids);
        assert_true(g.n_drafted > g.n_accepted && (own || g.n_accepted > want.n / 4));
        assert_int_equal(ss.n, 20 + want.n - (g.finish == HD_FINISH_LENGTH));
        assert_ok(hd_session_open(&fresh, &m.e, &test_err));
        assert_ok(hd_session_feed(&fresh, ss.ids, (int64_t)ss.n, NULL, NULL, NULL, &test_err));
        module_says(&m, &ss, 5, &a);
        module_says(&m, &fresh, 5, &b);
        for (int i = 0; i < a.n; i++)
            assert_memory_equal(a.x[i], b.x[i], (size_t)a.len[i] * sizeof(float));
        forget(&a);
        forget(&b);
        hd_session_close(&ss);
        hd_session_close(&fresh);
    }
    hd_tokenizer_free(tok);
    close_model(&m);
}

static void test_step(void **state)
{
    static const char *const names[] = {"v4-f32-a", "v3-mtp", "v41-f32-dspark-a", "hadal-a"};

    for (int i = 0; i < HD_LEN(names); i++) {
        keeps_step(names[i], i % 2 ? HD_EXACT_F32 : HD_EXACT_NONE, false);
        keeps_step(names[i], HD_EXACT_NONE, true);
    }
}

/* A session that goes back far, as kept prefixes do, and one that was forked: proposals may be worse, answers not. */
static void test_far_back(void **state)
{
    struct hd_speculate_options how = {.kind = HD_DRAFT_MODULE, .depth = 3};
    struct hd_tokenizer *tok = any_tokenizer();
    struct hd_session ss, fork, plain;
    struct hd_sample_params p;
    struct answer want, got;
    struct hd_generate g;
    struct model m;

    open_model(&m, "v3-mtp", HD_EXACT_NONE, 1);
    hd_sample_defaults(&p);
    p.seed = 3;
    assert_ok(hd_session_open(&plain, &m.e, &test_err));
    answer(&m, tok, &plain, m.ids, 30, 40, &p, NULL, &want, &g);
    assert_ok(hd_session_open(&ss, &m.e, &test_err));
    assert_ok(hd_session_feed(&ss, m.ids, m.n, NULL, NULL, NULL, &test_err));
    assert_ok(hd_session_fork(&fork, &ss, &test_err));
    assert_int_equal(hd_seq_reach(ss.seq, 20), 20);
    assert_ok(hd_session_rewind(&ss, 20, &test_err));
    answer(&m, tok, &ss, m.ids + 20, 10, 40, &p, &how, &got, &g);
    assert_int_equal(got.n, want.n);
    assert_memory_equal(got.ids, want.ids, (size_t)want.n * sizeof *want.ids);
    assert_ok(hd_session_rewind(&fork, 30 - 1, &test_err));
    answer(&m, tok, &fork, m.ids + 29, 1, 40, &p, &how, &got, &g);
    assert_memory_equal(got.ids, want.ids, (size_t)want.n * sizeof *want.ids);
    hd_session_close(&plain);
    hd_session_close(&ss);
    hd_session_close(&fork);
    hd_tokenizer_free(tok);
    close_model(&m);
}

/* ---- the distribution ---- */

#define TOP 3

/* The TOP likeliest ids and their probabilities among themselves. */
static void top_of(const float *logits, int64_t n, int32_t id[TOP], double p[TOP])
{
    double sum = 0;

    for (int k = 0; k < TOP; k++) {
        id[k] = -1;
        for (int64_t i = 0; i < n; i++)
            if ((id[k] < 0 || logits[i] > logits[id[k]]) && (k < 1 || i != id[0]) && (k < 2 || i != id[1]))
                id[k] = (int32_t)i;
        sum += p[k] = exp(((double)logits[id[k]] - (double)logits[id[0]]) / 2);
    }
    for (int k = 0; k < TOP; k++)
        p[k] /= sum;
}

/* Proposes what it has been given, in turns: right or wrong, it must not show. */
struct cards {
    int32_t id[TOP];
    uint64_t n;
};

static void deal_cards(void *arg, struct hd_draft_item *it, int n_item)
{
    struct cards *c = arg;

    while (it->n_draft < it->depth)
        it->ids[it->n + it->n_draft++] = c->id[c->n++ % TOP];
}

/* Two tokens, drawn with guesses under many seeds: as often as their probabilities say (chi-square, 8 degrees of freedom: 26.1 is passed once in a
 * thousand), and for each seed the tokens that are drawn without. */
static void distribution(struct model *m, struct hd_tokenizer *tok, struct hd_session *start, const struct hd_speculate_options *how, const int32_t first[TOP], int32_t second[TOP][TOP],
                         double p[TOP][TOP])
{
    const int n_seed = 600;
    int count[TOP][TOP] = {0};
    double chi = 0;
    int64_t drafted = 0, accepted = 0;

    for (int seed = 0; seed < n_seed; seed++) {
        struct hd_sample_params sample;
        struct answer want, got;
        struct hd_session ss;
        struct hd_generate g;
        int a = 0, b = 0;

        hd_sample_defaults(&sample);
        sample.top_k = TOP;
        sample.temperature = 2;
        sample.seed = (uint64_t)seed;
        for (int k = 0; k < 2; k++) {
            assert_ok(hd_session_fork(&ss, start, &test_err));
            answer(m, tok, &ss, &m->ids[start->n], 1, 3, &sample, k ? how : NULL, k ? &got : &want, &g);
            hd_session_close(&ss);
        }
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.ids, want.ids, (size_t)want.n * sizeof *want.ids);
        drafted += g.n_drafted;
        accepted += g.n_accepted;
        assert_true(got.n >= 2);
        while (a < TOP - 1 && first[a] != got.ids[0])
            a++;
        while (b < TOP - 1 && second[a][b] != got.ids[1])
            b++;
        assert_true(first[a] == got.ids[0] && second[a][b] == got.ids[1]);
        count[a][b]++;
    }
    for (int a = 0; a < TOP; a++)
        for (int b = 0; b < TOP; b++)
            chi += (count[a][b] - n_seed * p[a][b]) * (count[a][b] - n_seed * p[a][b]) / (n_seed * p[a][b]);
    print_message("# %s: chi-square %.1f, %lld of %lld stood\n", how->kind == HD_DRAFT_MODULE ? "module" : "cards", chi, (long long)accepted, (long long)drafted);
    assert_true(chi < 26.1 && drafted > accepted && (accepted > 0 || how->kind == HD_DRAFT_MODULE));
}

static void test_distribution(void **state)
{
    struct hd_tokenizer *tok = any_tokenizer();
    struct cards cards = {.n = 0};
    int32_t first[TOP], second[TOP][TOP];
    double p1[TOP], p[TOP][TOP];
    struct hd_session start, ss;
    struct model m;
    const float *lg;

    open_model(&m, "v3-mtp", HD_EXACT_NONE, 1);
    assert_ok(hd_session_open(&start, &m.e, &test_err));
    assert_ok(hd_session_feed(&start, m.ids, 24, NULL, NULL, NULL, &test_err));
    assert_ok(hd_session_fork(&ss, &start, &test_err));
    assert_ok(hd_session_feed(&ss, m.ids + 24, 1, NULL, NULL, &lg, &test_err));
    top_of(lg, m.n_vocab, first, p1);
    for (int a = 0; a < TOP; a++) {
        assert_false(hd_tokenizer_is_end(tok, first[a]));
        assert_ok(hd_session_rewind(&ss, 25, &test_err));
        assert_ok(hd_session_feed(&ss, &first[a], 1, NULL, NULL, &lg, &test_err));
        top_of(lg, m.n_vocab, second[a], p[a]);
        cards.id[a] = second[a][0];
        for (int b = 0; b < TOP; b++) {
            assert_false(hd_tokenizer_is_end(tok, second[a][b]));
            p[a][b] *= p1[a];
        }
    }
    hd_session_close(&ss);
    distribution(&m, tok, &start, &(struct hd_speculate_options){.kind = HD_DRAFT_CALLER, .depth = 2, .propose = deal_cards, .arg = &cards}, first, second, p);
    distribution(&m, tok, &start, &(struct hd_speculate_options){.kind = HD_DRAFT_MODULE, .depth = 2}, first, second, p);
    hd_session_close(&start);
    hd_tokenizer_free(tok);
    close_model(&m);
}

/* ---- how many ---- */

/* n steps of one sequence on a machine where a step takes 1 + per_row for each row behind the first, and guesses stand with this probability; how many
 * steps had some. */
static int steps(struct hd_speculate *sp, int n, double per_row, double stands, int64_t *deepest)
{
    struct hd_rng rng;
    int some = 0;

    hd_rng_seed(&rng, 5);
    *deepest = 0;
    for (int i = 0; i < n; i++) {
        int64_t k = hd_speculate_depth(sp, 1), right = 0;

        while (right < k && hd_rng_double(&rng) < stands)
            right++;
        hd_speculate_timed(sp, 1 + k, 1 + per_row * (double)k);
        hd_speculate_learn(sp, k, right);
        some += k > 0;
        *deepest = k > *deepest ? k : *deepest;
    }
    return some;
}

static void nothing(void *arg, struct hd_draft_item *it, int n_item)
{
}

static void test_depth(void **state)
{
    static struct hd_engine e;
    struct hd_speculate_options o = {.kind = HD_DRAFT_CALLER, .propose = nothing};
    struct hd_speculate sp;
    int64_t deepest;

    assert_ok(hd_speculate_init(&sp, &e, &o, &test_err));
    assert_true(steps(&sp, 400, 0.02, 0.9, &deepest) > 380 && deepest == 8);      /* nearly free: as many as there are */
    assert_true(steps(&sp, 400, 0.1, 0.01, &deepest) < 150);                      /* hopeless: off, after a while */
    assert_true(steps(&sp, 2000, 0.5, 0.02, &deepest) < 60);
    assert_true(steps(&sp, 4000, 0.02, 0.9, &deepest) > 2500);                    /* and on again */
    assert_ok(hd_speculate_init(&sp, &e, &o, &test_err));
    steps(&sp, 300, 0.3, 0.5, &deepest);
    assert_true(steps(&sp, 300, 0.3, 0.5, &deepest) > 200 && deepest <= 3);       /* dear: one or two */
    assert_ok(hd_speculate_init(&sp, &e, &o, &test_err));
    assert_true(steps(&sp, 400, 1, 0.9, &deepest) < 40);                          /* a row costs a step: never */
    assert_int_equal(hd_speculate_depth(&sp, 100), 0);                            /* batches large enough on their own */
    o.depth = 5;
    assert_ok(hd_speculate_init(&sp, &e, &o, &test_err));
    assert_int_equal(hd_speculate_depth(&sp, 1), 5);
    assert_int_equal(hd_speculate_depth(&sp, 32), 3);
    o.depth = 17;
    assert_int_equal(hd_speculate_init(&sp, &e, &o, &test_err), HD_ERR_USAGE);
    o = (struct hd_speculate_options){.kind = HD_DRAFT_MODULE};
    e.model.store.path = "somewhere";
    assert_int_equal(hd_speculate_init(&sp, &e, &o, &test_err), HD_ERR_UNSUPPORTED);
    o.kind = HD_DRAFT_AUTO;
    assert_ok(hd_speculate_init(&sp, &e, &o, &test_err));
    assert_int_equal(hd_speculate_depth(&sp, 1), 0);
}

/* Fields that make no sense are refused by name where the module is wanted, and are nobody's concern where it is not. */
static void test_config(void **state)
{
    static const struct {
        const char *field, *value, *says;     /* value NULL: absent */
    } all[] = {{"dspark_block_size", "0", "dspark_block_size"},
               {"dspark_block_size", "65", "dspark_block_size"},
               {"dspark_block_size", NULL, "dspark_block_size"},
               {"dspark_noise_token_id", "280", "dspark_noise_token_id"},
               {"dspark_noise_token_id", "-1", "dspark_noise_token_id"},
               {"dspark_target_layer_ids", "[2, 3, 5]", "dspark_target_layer_ids"},
               {"dspark_target_layer_ids", "[2, 2, 3]", "dspark_target_layer_ids"},
               {"dspark_target_layer_ids", "[2, \"x\", 3]", "dspark_target_layer_ids"}};
    static const char *const files[] = {"model.safetensors", "tokenizer.json"};
    char *dir = tmp_path("draft-config"), from[1200], to[600], here[400];

    mkdir(dir, 0755);
    assert_non_null(getcwd(here, sizeof here));
    for (int i = 0; i < HD_LEN(files); i++) {
        snprintf(from, sizeof from, "%s/tests/golden/v41-f32-dspark-a/%s", here, files[i]);
        snprintf(to, sizeof to, "%s/%s", dir, files[i]);
        unlink(to);
        assert_int_equal(symlink(from, to), 0);
    }
    for (int i = 0; i < HD_LEN(all); i++) {
        struct hd_engine_options o = {.n_thread = 1, .n_ctx = 64, .draft = true};
        struct hd_engine e;
        json_t *c, *v = NULL;

        assert_non_null(c = hd_json_read("tests/golden/v41-f32-dspark-a/config.json", 1 << 20, &test_err));
        if (all[i].value)
            assert_non_null(v = json_loads(all[i].value, JSON_DECODE_ANY, NULL));
        if (v)
            json_object_set_new(json_object_get(c, "text_config"), all[i].field, v);
        else
            json_object_del(json_object_get(c, "text_config"), all[i].field);
        snprintf(to, sizeof to, "%s/config.json", dir);
        assert_int_equal(json_dump_file(c, to, 0), 0);
        json_decref(c);
        assert_int_equal(hd_engine_open(&e, dir, &o, &test_err), HD_ERR_FORMAT);
        if (!strstr(test_err.msg, all[i].says))
            fail_msg("found \"%s\"; expected something of %s", test_err.msg, all[i].says);
        o.draft = false;
        assert_ok(hd_engine_open(&e, dir, &o, &test_err));
        assert_true(!e.model.draft.depth && !e.plan.draft_note[0]);
        hd_engine_close(&e);
        o.draft_if_whole = true;
        assert_ok(hd_engine_open(&e, dir, &o, &test_err));
        assert_int_equal(e.model.draft.depth, 0);
        assert_non_null(strstr(e.plan.draft_note, all[i].says));
        hd_engine_close(&e);
    }
}

/* A module of which only some tensors lie there is refused where it is wanted, and left out where it may be. */
static void test_incomplete(void **state)
{
    static const char *const path = "tests/golden/gguf-v3-k/model.gguf";
    struct hd_engine_options o = {.n_thread = 1, .n_ctx = 64, .draft = true};
    struct hd_engine e;

    assert_int_equal(hd_engine_open(&e, path, &o, &test_err), HD_ERR_FORMAT);
    assert_non_null(strstr(test_err.msg, "blk."));
    o = (struct hd_engine_options){.n_thread = 1, .n_ctx = 64, .draft_if_whole = true};
    assert_ok(hd_engine_open(&e, path, &o, &test_err));
    assert_int_equal(e.model.draft.depth, 0);
    assert_non_null(strstr(e.plan.draft_note, "blk."));
    hd_engine_close(&e);
    assert_int_equal(hd_engine_open(&e, "tests/golden/nothing", &o, &test_err), HD_ERR_IO);
    assert_ok(hd_engine_open(&e, "tests/golden/v41-f32-dspark-a", &o, &test_err));       /* a whole one is taken */
    assert_true(e.model.draft.depth > 0 && !e.plan.draft_note[0]);
    hd_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mtp), cmocka_unit_test(test_spark), cmocka_unit_test(test_lookup), cmocka_unit_test(test_step),
                                       cmocka_unit_test(test_far_back), cmocka_unit_test(test_distribution), cmocka_unit_test(test_depth), cmocka_unit_test(test_config), cmocka_unit_test(test_incomplete)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
