/* test_disk.c: models bigger than memory: the same bits as with everything in memory, and what happens when the files do not play along. */
#include "disk.h"

#include <fcntl.h>

#include "engine/draft.h"

/* With room for extra experts more than the fewest possible. false: the model has none. */
static bool open_streamed(struct hd_engine *e, const struct golden *g, enum hd_exact exact, int n_thread, int extra)
{
    struct hd_engine_options o = options(g, exact, n_thread);

    o.n_slot = HD_EXPERTS_SLOTS_MIN + extra;
    assert_ok(hd_engine_open(e, g->file, &o, &test_err));
    if (!e->experts)
        hd_engine_close(e);
    else
        assert_true(hd_experts_slots(e->experts) <= HD_EXPERTS_SLOTS_MIN + extra);
    return e->experts;
}

static void compare(const struct golden *g, enum hd_exact exact)
{
    static const int extra[] = {0, 2, 7, 1000}, chunk[] = {0, 3, 11, 0};
    int64_t n = g->n * g->n_vocab;
    float *base = in_memory(g, exact), *x;

    for (int i = 0; i < HD_LEN(extra); i += exact ? 2 : 1) {
        struct hd_experts_stats st;
        struct hd_engine e;

        open_streamed(&e, g, exact, i + 1, extra[i]);
        for (int again = 0; again < (chunk[i] ? 1 : 2); again++) {
            x = golden_forward(&e, g, chunk[i]);
            same(base, x, n, g->path);
            hd_free(x);
        }
        hd_experts_stats(e.experts, &st);
        print_message("# %s: %lld hit, %lld missed (%lld late), %lld ahead (%lld used), %lld read, %lld rows\n", g->path, (long long)st.hit, (long long)st.miss, (long long)st.late,
                      (long long)st.ahead, (long long)st.ahead_used, (long long)st.n_read, (long long)st.n_row);
        assert_true(st.miss + st.ahead_used > 0 && st.n_read > 0 && st.bytes > 0 && st.n_row >= g->n && st.row_bytes > 0);
        assert_true(st.n_read <= st.miss + st.ahead && st.ahead_used <= st.ahead && st.late <= st.miss);
        if (extra[i] == 1000)         /* everything stays: read once */
            assert_true(st.hit > 0 && st.n_read <= e.plan.n_slot);
        assert_true(st.needed_bytes > 0 && st.needed_bytes <= st.bytes);
        if (st.n_row > 4 * g->n)      /* memories of n-grams, a few rows a token: all were announced */
            assert_true(st.n_row_ahead >= st.n_row - 2 * g->n);
        hd_engine_close(&e);
    }
    hd_free(base);
}

static bool same_bits(const struct golden *g)
{
    struct hd_engine e;

    if (!open_streamed(&e, g, HD_EXACT_NONE, 1, 0))
        return false;
    hd_engine_close(&e);
    compare(g, HD_EXACT_NONE);
    compare(g, HD_EXACT_F32);
    return true;
}

static void test_same_bits(void **state)
{
    assert_true(each_golden(same_bits) >= 15);
}

/* ---- drafts ---- */

/* What the draft module says, as it comes. */
struct heard {
    float *x;
    size_t n, cap;
};

static void hear(void *arg, const char *name, const struct hd_tensor *t)
{
    struct heard *h = arg;
    size_t n = (size_t)hd_elems(t);

    if (strncmp(name, "draft.", 6))
        return;
    assert_true(HD_GROW(h->x, h->cap, h->n + n, SIZE_MAX));
    memcpy(h->x + h->n, t->data, n * sizeof *h->x);
    h->n += n;
}

/* Proposals behind half and behind all of g's tokens; what the module named on the way. */
static void drafts(struct hd_engine *e, const struct golden *g, struct heard *h, int32_t out[2][HD_DRAFT_MAX])
{
    struct hd_sample_params p;
    struct hd_sampler sm;
    struct hd_session ss;
    int32_t *ids = hd_calloc((size_t)g->n + HD_DRAFT_MAX, sizeof *ids);

    hd_sample_defaults(&p);
    p.temperature = 0;
    assert_ok(hd_sampler_init(&sm, &p, g->n_vocab, &test_err));
    assert_ok(hd_session_open(&ss, e, &test_err));
    memcpy(ids, g->ids, (size_t)g->n * sizeof *ids);
    e->trace = hear;
    e->trace_arg = h;
    for (int i = 0; i < 2; i++) {
        int64_t n = i ? g->n : g->n / 2;
        struct hd_draft_item it = {.session = &ss, .ids = ids, .n = n, .depth = e->model.draft.depth, .sample = &p, .rng = sm.rng};

        assert_ok(hd_session_feed(&ss, g->ids + ss.n, n - 1 - (int64_t)ss.n, NULL, NULL, NULL, &test_err));
        assert_ok(hd_draft_run(e, &sm, &it, 1, 0, &test_err));
        assert_true(it.n_draft > 0 && it.n_draft <= HD_DRAFT_MAX);
        memset(out[i], 0, sizeof out[i]);
        memcpy(out[i], ids + n, (size_t)it.n_draft * sizeof *ids);
        memcpy(ids, g->ids, (size_t)g->n * sizeof *ids);
    }
    hd_session_close(&ss);
    hd_sampler_release(&sm);
    hd_free(ids);
}

static void test_drafts(void **state)
{
    static const char *const names[] = {"v4-f32-a", "v3-mtp", "v41-f32-dspark-a"};

    for (int i = 0; i < HD_LEN(names) * 2; i++) {
        struct golden g = {0};
        struct hd_engine_options o;
        struct hd_engine e;
        struct heard h[2] = {0};
        int32_t out[2][2][HD_DRAFT_MAX];

        assert_true(golden_numbers(names[i / 2], g.numbers));
        snprintf(g.path, sizeof g.path, "tests/golden/%s", names[i / 2]);
        golden_load(&g);
        for (int k = 0; k < 2; k++) {
            o = options(&g, i % 2 ? HD_EXACT_F32 : HD_EXACT_NONE, 2);
            o.draft = true;
            o.n_slot = k ? HD_EXPERTS_SLOTS_MIN : 0;
            assert_ok(hd_engine_open(&e, g.file, &o, &test_err));
            assert_true(e.model.draft.depth > 0 && !e.experts == !k);
            drafts(&e, &g, &h[k], out[k]);
            hd_engine_close(&e);
        }
        assert_true(h[0].n > 0);
        assert_int_equal(h[0].n, h[1].n);
        same(h[0].x, h[1].x, (int64_t)h[0].n, names[i / 2]);
        assert_memory_equal(out[0], out[1], sizeof out[0]);
        hd_free(h[0].x);
        hd_free(h[1].x);
        golden_unload(&g);
    }
}

/* ---- trouble ---- */

/* The copy open with few experts in memory, a session on it, and what it says with all of them there. */
struct trouble {
    struct golden g;
    struct hd_engine e;
    struct hd_session ss;
    char file[600];
    float *base;
    const float *lg;
};

static void trouble_begin(struct trouble *t, int extra)
{
    load_copy(&t->g, t->file);
    t->base = in_memory(&t->g, HD_EXACT_NONE);
    open_streamed(&t->e, &t->g, HD_EXACT_NONE, 2, extra);
    assert_ok(hd_session_open(&t->ss, &t->e, &test_err));
}

static int trouble_step(struct trouble *t)
{
    return hd_session_feed(&t->ss, t->g.ids, t->g.n, NULL, NULL, &t->lg, &test_err);
}

/* In the end a step works, with the bits that it would have had. */
static void trouble_end(struct trouble *t, const char *what)
{
    assert_ok(trouble_step(t));
    same(t->base + (t->g.n - 1) * t->g.n_vocab, t->lg, t->g.n_vocab, what);
    hd_session_close(&t->ss);
    hd_engine_close(&t->e);
    hd_free(t->base);
    golden_unload(&t->g);
}

static void test_shorter_file(void **state)
{
    struct trouble t;
    char whole[700];
    struct stat st;
    int fd;

    trouble_begin(&t, 0);
    assert_int_equal(stat(t.file, &st), 0);
    snprintf(whole, sizeof whole, "%s/model.safetensors", t.g.path);
    fd = open(t.file, O_WRONLY);
    assert_true(fd >= 0 && !ftruncate(fd, st.st_size / 16));
    assert_int_equal(trouble_step(&t), HD_ERR_IO);
    assert_non_null(strstr(test_err.msg, "model.safetensors"));
    assert_non_null(strstr(test_err.msg, "shorter"));
    assert_int_equal(t.ss.n, 0);
    close(fd);
    copy_file(whole, t.file);         /* in place: the engine's descriptors see it whole again */
    trouble_end(&t, "after a failure");
}

static void test_vanished_file(void **state)
{
    struct trouble t;

    trouble_begin(&t, 0);
    unlink(t.file);
    trouble_end(&t, "a file without a name");      /* open files stay */
}

/* The n-th read fails: an error with the file's name, the session as before, and afterwards the same bits. */
static void test_failing_reads(void **state)
{
    struct trouble t;
    int failures = 0;

    trouble_begin(&t, 2);
    for (int n = 0; n < 40; n += 3) {
        int rc;

        hd_fault_arm(HD_FAULT_READ, n);
        rc = trouble_step(&t);
        hd_fault_disarm();
        if (rc < 0) {
            failures++;
            assert_int_equal(rc, HD_ERR_IO);
            assert_non_null(strstr(test_err.msg, "model.safetensors"));
            assert_int_equal(t.ss.n, 0);
        }
        assert_ok(hd_session_rewind(&t.ss, 0, &test_err));
    }
    assert_true(failures > 5);
    trouble_end(&t, "after failures");
}

static bool never(void *arg, int64_t done, int64_t total)
{
    return false;
}

static void test_cancelled(void **state)
{
    struct trouble t;

    trouble_begin(&t, 0);
    assert_true(t.g.n <= t.e.opt.chunk);           /* one step: only its waits can ask */
    assert_int_equal(hd_session_feed(&t.ss, t.g.ids, t.g.n, never, NULL, &t.lg, &test_err), HD_ERR_CANCELLED);
    assert_int_equal(t.ss.n, 0);
    trouble_end(&t, "after a cancelled step");
}

/* Refused before anything is read, with what would be needed; allocations that fail while it opens leave nothing behind. */
static void test_refused(void **state)
{
    struct golden g;
    char file[600];
    struct hd_engine_options o;
    struct hd_engine e;
    struct hd_model m;
    struct hd_plan p;
    int n = 0;

    load_copy(&g, file);
    o = options(&g, HD_EXACT_NONE, 2);
    o.memory = 1;
    assert_int_equal(hd_engine_open(&e, g.file, &o, &test_err), HD_ERR_MEMORY);
    assert_non_null(strstr(test_err.msg, "experts on disk"));
    assert_ok(hd_model_open(&m, g.file, HD_KV_F32, 0, &test_err));
    assert_ok(hd_engine_plan(&m, &o, 1, &p, &test_err));
    assert_true(p.slot_bytes > 0 && p.disk_bytes > 0 && p.least_bytes > p.resident_bytes + p.cache_bytes + p.step_bytes && !p.n_slot);
    hd_model_close(&m);
    o.memory = 0;
    o.n_slot = HD_EXPERTS_SLOTS_MIN;
    for (;; n++) {
        int rc;

        hd_fault_arm(HD_FAULT_ALLOC, 7 * n);
        rc = hd_engine_open(&e, g.file, &o, &test_err);
        hd_fault_disarm();
        if (rc == HD_OK)
            break;
        assert_true(rc == HD_ERR_MEMORY || rc == HD_ERR_FORMAT || rc == HD_ERR_IO);
    }
    assert_true(n > 3);
    hd_engine_close(&e);
    golden_unload(&g);
}

static void test_probe(void **state)
{
    struct hd_engine e;
    struct golden g;
    char file[600];
    double rate = 0;

    load_copy(&g, file);
    open_streamed(&e, &g, HD_EXACT_NONE, 1, 0);
    assert_ok(hd_experts_probe(e.experts, 0.01, &rate, &test_err));
    assert_true(rate > 0);
    hd_engine_close(&e);
    golden_unload(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),     cmocka_unit_test(test_shorter_file), cmocka_unit_test(test_vanished_file), cmocka_unit_test(test_failing_reads),
        cmocka_unit_test(test_cancelled),     cmocka_unit_test(test_refused),      cmocka_unit_test(test_probe),
        cmocka_unit_test(test_drafts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
