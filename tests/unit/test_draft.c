/* test_draft.c: the draft modules against DeepSeek's own numbers, and what proposals may and may not do: nothing that is said changes by them. */
#include "support.h"

#include "base/json.h"
#include "base/rng.h"
#include "engine/draft.h"

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
    static const char *const names[] = {"v4-f32-a", "v3-mtp"};

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

/* The longest earlier copy of the end wins, the latest of equals; never further than the text goes. */
static void test_lookup(void **state)
{
    const int32_t a[] = {1, 2, 3, 4, 9, 2, 3, 7, 8, 5, 1, 2, 3}, b[] = {5, 6, 1, 5, 6, 2, 5, 6}, c[] = {4, 4, 4, 4}, d[] = {1, 2, 3, 1};
    int32_t out[8];

    assert_int_equal(hd_draft_lookup(a, HD_LEN(a), 4, out), 4);
    assert_memory_equal(out, ((int32_t[]){4, 9, 2, 3}), 16);
    assert_int_equal(hd_draft_lookup(b, HD_LEN(b), 2, out), 2);
    assert_memory_equal(out, ((int32_t[]){2, 5}), 8);
    assert_int_equal(hd_draft_lookup(c, HD_LEN(c), 8, out), 1);
    assert_int_equal(out[0], 4);
    assert_int_equal(hd_draft_lookup(d, HD_LEN(d), 4, out), 0);
    assert_int_equal(hd_draft_lookup(d, 1, 4, out), 0);
    assert_int_equal(hd_draft_lookup(d, 0, 4, out), 0);
    assert_int_equal(hd_draft_lookup(a, HD_LEN(a), 0, out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mtp), cmocka_unit_test(test_spark), cmocka_unit_test(test_lookup)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
