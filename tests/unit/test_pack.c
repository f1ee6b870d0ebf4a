/* test_pack.c: packs of experts: the same bits as from the checkpoint, and which packs are not believed. */
#include "disk.h"

#include <signal.h>
#include <sys/resource.h>
#include <utime.h>

#include "base/hash.h"
#include "weights/expert_pack.h"

/* With its draft module, where it is complete. */
static int open_model(struct hd_model *m, const char *path)
{
    return hd_model_open(m, path, HD_KV_AUTO, HD_MODEL_DRAFT_IF_WHOLE, &test_err);
}

static int write_pack(const char *model, const char *path, hd_progress_fn progress, int64_t *bytes)
{
    struct hd_experts *x = NULL;
    struct hd_pool *pool = NULL;
    struct hd_model m;
    int rc = open_model(&m, model);

    if (rc < 0)
        return rc;
    if ((rc = hd_pool_create(&pool, 2, &test_err)) == HD_OK && (rc = hd_experts_create(&x, false, &test_err)) == HD_OK &&
        (rc = hd_engine_gather_experts(&m, HD_EXACT_NONE, x, &test_err)) == HD_OK && (!bytes || (rc = hd_expert_pack_bytes(x, &m.store, bytes, &test_err)) == HD_OK))
        rc = hd_expert_pack_write(x, &m.store, path, pool, progress, NULL, &test_err);
    hd_experts_free(x);
    hd_pool_free(pool);
    hd_model_close(&m);
    return rc;
}

static int check_pack(const char *model, const char *path)
{
    struct hd_experts *x = NULL;
    struct hd_model m;
    int rc;

    assert_ok(open_model(&m, model));
    assert_ok(hd_experts_create(&x, false, &test_err));
    assert_ok(hd_engine_gather_experts(&m, HD_EXACT_NONE, x, &test_err));
    if ((rc = hd_experts_take_pack(x, &m.store, path, &test_err)) == HD_OK)
        rc = hd_expert_pack_check(x, NULL, NULL, &test_err);
    hd_experts_free(x);
    hd_model_close(&m);
    return rc;
}

static void open_packed(struct hd_engine *e, const struct golden *g, enum hd_exact exact, int n_thread, int extra, const char *pack, bool draft)
{
    struct hd_engine_options o = options(g, exact, n_thread);

    o.n_slot = HD_EXPERTS_SLOTS_MIN + extra;
    o.pack = pack;
    o.draft = draft;
    assert_ok(hd_engine_open(e, g->file, &o, &test_err));
}

/* With and without drafts, few and many experts in memory, any threads; exact modes leave packs alone. */
static void compare(const struct golden *g, const char *pack)
{
    float *base = in_memory(g, HD_EXACT_NONE), *exact = in_memory(g, HD_EXACT_F32);
    struct hd_model m;
    bool draft;

    assert_ok(open_model(&m, g->file));
    draft = m.draft.depth > 0;
    hd_model_close(&m);

    for (int i = 0; i < 4; i++) {
        struct hd_experts_stats st;
        struct hd_experts_size size;
        struct hd_engine e;
        float *x;

        open_packed(&e, g, i == 3 ? HD_EXACT_F32 : HD_EXACT_NONE, 1 + i, i * 5, pack, draft && i == 2);
        assert_non_null(e.experts);
        assert_string_equal(e.plan.pack_note, "");
        assert_ok(hd_experts_size(e.experts, &size, &test_err));
        assert_int_equal(e.plan.n_packed, i == 3 ? 0 : size.n_expert);
        assert_true((size.reader_bytes == 0) == (i < 3));
        x = golden_forward(&e, g, i == 1 ? 3 : 0);
        same(i == 3 ? exact : base, x, g->n * g->n_vocab, g->path);
        hd_experts_stats(e.experts, &st);
        assert_true(st.n_read > 0 && st.n_damaged == 0 && st.needed_bytes > 0 && st.needed_bytes <= st.bytes);
        hd_free(x);
        hd_engine_close(&e);
    }
    hd_free(base);
    hd_free(exact);
}

static bool same_bits(const struct golden *g)
{
    const char *pack = tmp_path("pack-same");
    struct stat st;
    int64_t bytes = 0;
    int rc = write_pack(g->file, pack, NULL, &bytes);

    if (rc != HD_OK) {
        assert_int_equal(rc, HD_ERR_UNSUPPORTED);
        assert_non_null(strstr(test_err.msg, "has no routed experts"));
        return false;
    }
    assert_true(!stat(pack, &st) && st.st_size == bytes);
    compare(g, pack);
    assert_ok(check_pack(g->file, pack));
    return true;
}

static void test_same_bits(void **state)
{
    assert_true(each_golden(same_bits) >= 15);
}

/* ---- packs that are harmed ---- */

struct harm {
    struct golden g;
    char file[600], pack[700];        /* the checkpoint's tensors; the pack beside them */
    float *base;
    char *good;
    size_t n;
};

static void harm_begin(struct harm *h)
{
    load_copy(&h->g, h->file);
    h->base = in_memory(&h->g, HD_EXACT_NONE);
    snprintf(h->pack, sizeof h->pack, "%s/experts.hdpack", h->g.file);
    assert_ok(write_pack(h->g.file, h->pack, NULL, NULL));
    assert_ok(hd_file_read(h->pack, (size_t)1 << 30, &h->good, &h->n, &test_err));
}

static void harm_end(struct harm *h)
{
    unlink(h->pack);
    hd_free(h->good);
    hd_free(h->base);
    golden_unload(&h->g);
}

/* Whatever lies beside the model: the same bits. note: what the plan says of it, NULL: it is believed. */
static void answer(struct harm *h, const char *note, int64_t damaged)
{
    struct hd_experts_stats st;
    struct hd_engine e;
    float *x;

    open_packed(&e, &h->g, HD_EXACT_NONE, 2, 2, NULL, false);
    if (note && !strstr(e.plan.pack_note, note))
        fail_msg("found \"%s\", expected something with \"%s\"", e.plan.pack_note, note);
    if (note)
        assert_non_null(strstr(e.plan.pack_note, "experts.hdpack"));
    else
        assert_string_equal(e.plan.pack_note, "");
    assert_true((e.plan.n_packed == 0) == (note != NULL));
    x = golden_forward(&e, &h->g, 0);
    same(h->base, x, h->g.n * h->g.n_vocab, "beside a pack");
    hd_free(x);
    hd_experts_stats(e.experts, &st);
    assert_true(damaged ? st.n_damaged > 0 : !st.n_damaged);
    hd_engine_close(&e);
}

#define HEAD_SUM 56                   /* places in the file, as expert_pack.h says */
#define LAYER 48
#define SUMS 16

static uint64_t number(const char *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

static void put(char *p, uint64_t v)
{
    memcpy(p, &v, sizeof v);
}

static void fix_sums(char *p, size_t n)
{
    uint64_t at = number(p + 32);

    put(p + HEAD_SUM, hd_hash(HD_HASH_INIT, p, HEAD_SUM));
    if (at < n - 8)
        put(p + n - 8, hd_hash(HD_HASH_INIT, p + at, n - 8 - at));
}

static void test_not_believed(void **state)
{
    struct harm h;
    char *p, *layer;
    uint32_t n_file;

    harm_begin(&h);
    memcpy(&n_file, h.good + 40, 4);
    p = hd_malloc(h.n + 100);
    layer = p + number(h.good + 32) + n_file * 24;
    for (int i = 0; i < 17; i++) {
        static const char *const notes[] = {"not copied to its end", "not copied to its end", "no pack",    "no pack",   "is no pack",       "of version 2",     "head is damaged", "another layout", "index is damaged",
                                            "lies outside",          "lies outside",          "lies outside", "lies outside", "impossible sizes", "impossible sizes", "another model",   "of version 1"};
        size_t n = i == 0 ? h.n - 1 : i == 1 ? h.n + 100 : i == 2 ? 100 : i == 3 ? 0 : h.n;

        memset(p, 0, h.n + 100);
        memcpy(p, h.good, h.n);
        switch (i) {
        case 4: p[0] = 'X'; break;
        case 5: p[12] = 2; break;
        case 6: p[50] ^= 1; break;
        case 7: p[16] ^= 1; break;
        case 8: p[h.n - 20] ^= 1; break;
        case 9: put(layer + 16, number(layer + 16) + ((uint64_t)1 << 40)); break;
        case 10: put(layer + 24, (uint64_t)1 << 63); break;
        case 11: put(layer + 32, UINT64_MAX / 2); break;
        case 12: put(layer + 40, UINT64_MAX - 1); break;
        case 13: put(p + 48, (uint64_t)1 << 60); break;
        case 14: put(p + 32, number(p + 32) + 4096); break;
        case 15:
            for (uint32_t k = 0; k < *(uint32_t *)(void *)(p + 44); k++)
                layer[k * LAYER] ^= 1;
            break;
        case 16: p[8] = 9; break;
        default: break;
        }
        if (i == 7 || (i >= 9 && i <= 15))
            fix_sums(p, h.n);
        write_file(h.pack, p, n);
        answer(&h, notes[i], 0);
    }
    write_file(h.pack, h.good, h.n);
    answer(&h, NULL, 0);
    hd_free(p);
    harm_end(&h);
}

/* Any byte of head and index, with sums that fit: the same bits, whatever it does to the pack. */
static void test_noise(void **state)
{
    uint64_t seed = 7, at;
    struct harm h;
    char *p;

    harm_begin(&h);
    at = number(h.good + 32);
    p = hd_malloc(h.n);
    for (int i = 0; i < 150; i++) {
        struct hd_engine e;
        float *x;

        memcpy(p, h.good, h.n);
        for (int k = 0; k <= i % 3; k++) {
            uint64_t place;

            seed = seed * 6364136223846793005u + 1442695040888963407u;
            place = i % 2 ? (seed >> 33) % HEAD_SUM : at + (seed >> 33) % (h.n - at);
            p[place] = (char)(seed >> 20);
        }
        fix_sums(p, h.n);
        write_file(h.pack, p, h.n);
        open_packed(&e, &h.g, HD_EXACT_NONE, 2, 2, NULL, false);
        x = golden_forward(&e, &h.g, 0);
        same(h.base, x, h.g.n * h.g.n_vocab, "noise");
        hd_free(x);
        hd_engine_close(&e);
    }
    hd_free(p);
    harm_end(&h);
}

/* Records that an interrupted copy left empty come from the checkpoint; a bit that turned is found by who reads everything. */
static void test_torn(void **state)
{
    struct harm h;
    char *p;
    size_t at;

    harm_begin(&h);
    at = (size_t)number(h.good + 32);
    p = hd_malloc(h.n);
    memcpy(p, h.good, h.n);
    memset(p + 4096 * 3, 0, at - 4096 * 3);
    write_file(h.pack, p, h.n);
    answer(&h, NULL, 1);
    assert_int_equal(check_pack(h.g.file, h.pack), HD_ERR_FORMAT);
    memcpy(p, h.good, h.n);
    p[4096 + 1000] ^= 4;
    write_file(h.pack, p, h.n);
    assert_int_equal(check_pack(h.g.file, h.pack), HD_ERR_FORMAT);
    assert_non_null(strstr(test_err.msg, "damaged"));
    write_file(h.pack, h.good, h.n);
    assert_ok(check_pack(h.g.file, h.pack));
    hd_free(p);
    harm_end(&h);
}

/* It ends while it is open: whatever is missing comes from the checkpoint. */
static void test_shorter_pack(void **state)
{
    struct hd_experts_stats st;
    struct hd_engine e;
    struct harm h;
    float *x;

    harm_begin(&h);
    open_packed(&e, &h.g, HD_EXACT_NONE, 2, 0, NULL, false);
    assert_true(e.plan.n_packed > 0);
    assert_int_equal(truncate(h.pack, 8192), 0);
    for (int i = 0; i < 2; i++) {
        x = golden_forward(&e, &h.g, 0);
        same(h.base, x, h.g.n * h.g.n_vocab, "a pack that ended");
        hd_free(x);
    }
    hd_experts_stats(e.experts, &st);
    assert_true(st.n_damaged > 0);
    hd_engine_close(&e);
    harm_end(&h);
}

/* ---- packs of another checkpoint ---- */

static void test_outdated(void **state)
{
    struct utimbuf then = {1000000000, 1000000000};
    struct hd_file_map m;
    char *weights, whole[700];
    struct hd_model model;
    const void *at = NULL;
    size_t n;
    struct harm h;

    harm_begin(&h);
    snprintf(whole, sizeof whole, "%s/model.safetensors", h.g.path);
    assert_int_equal(utime(h.file, &then), 0);     /* as a copy may */
    answer(&h, NULL, 0);
    assert_ok(hd_model_open(&model, h.g.file, HD_KV_AUTO, 0, &test_err));
    for (size_t i = 0; i < model.store.n_entry && !at; i++)
        if (strstr(model.store.entry[i].name.p, "experts.1.w2.weight"))
            at = (const char *)model.store.entry[i].data + model.store.entry[i].bytes / 2;
    assert_non_null(at);
    n = (size_t)((const char *)at - (const char *)model.store.files[0].data);
    hd_model_close(&model);
    assert_ok(hd_file_map(&m, whole, &test_err));
    weights = hd_malloc(m.n);
    memcpy(weights, m.data, m.n);
    weights[n] ^= 0x11;
    write_file(h.file, weights, m.n);
    hd_free(h.base);
    h.base = in_memory(&h.g, HD_EXACT_NONE);
    answer(&h, "before the model's weights changed", 0);
    assert_ok(write_pack(h.g.file, h.pack, NULL, NULL));
    answer(&h, NULL, 0);
    hd_file_unmap(&m);
    hd_free(weights);
    harm_end(&h);
}

static void test_foreign(void **state)
{
    struct hd_engine_options o;
    struct hd_engine e;
    struct harm h;

    harm_begin(&h);
    assert_ok(write_pack("tests/golden/v4-f32-b", h.pack, NULL, NULL));
    answer(&h, "another model", 0);
    o = options(&h.g, HD_EXACT_NONE, 1);
    o.n_slot = HD_EXPERTS_SLOTS_MIN;
    o.pack = tmp_path("no-such-pack");
    assert_int_equal(hd_engine_open(&e, h.g.file, &o, &test_err), HD_ERR_IO);      /* named, and not there */
    assert_non_null(strstr(test_err.msg, "no-such-pack"));
    o.pack = "off";
    assert_ok(hd_engine_open(&e, h.g.file, &o, &test_err));
    assert_true(!e.plan.n_packed && !e.plan.pack_note[0]);
    hd_engine_close(&e);
    harm_end(&h);
}

/* ---- writing ---- */

static int files_in(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static bool stop_at_five(void *arg, int64_t done, int64_t total)
{
    return done < 5;
}

/* The n-th write, read or allocation fails, the disk is full, somebody interrupts: an error, and the pack that was there stays as it was. */
static void test_failing_writes(void **state)
{
    static const enum hd_fault_kind kinds[] = {HD_FAULT_WRITE, HD_FAULT_READ, HD_FAULT_ALLOC};
    struct rlimit old, small;
    struct harm h;
    int files;

    harm_begin(&h);
    files = files_in(h.g.file);
    for (int k = 0; k < HD_LEN(kinds); k++)
        for (int n = 0, rc = -1; rc < 0; n += k == 2 ? 9 : 1) {
            hd_fault_arm(kinds[k], n);
            rc = write_pack(h.g.file, h.pack, NULL, NULL);
            hd_fault_disarm();
            assert_true(rc == HD_OK || rc == HD_ERR_IO || rc == HD_ERR_MEMORY || rc == HD_ERR_FORMAT);
            assert_int_equal(files_in(h.g.file), files);
        }
    assert_int_equal(write_pack(h.g.file, h.pack, stop_at_five, NULL), HD_ERR_CANCELLED);
    assert_int_equal(files_in(h.g.file), files);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){h.n / 2, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(write_pack(h.g.file, h.pack, NULL, NULL), HD_ERR_IO);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(files_in(h.g.file), files);
    answer(&h, NULL, 0);
    harm_end(&h);
}

/* While a pack is taken, reads and allocations fail: the checkpoint serves, or opening fails with an error. */
static void test_failing_opens(void **state)
{
    struct harm h;

    harm_begin(&h);
    for (int k = 0; k < 2; k++)
        for (int n = 0, rc = -1; rc < 0; n += k ? 7 : 1) {
            struct hd_engine_options o = options(&h.g, HD_EXACT_NONE, 2);
            struct hd_engine e;

            o.n_slot = HD_EXPERTS_SLOTS_MIN;
            hd_fault_arm(k ? HD_FAULT_ALLOC : HD_FAULT_READ, n);
            rc = hd_engine_open(&e, h.g.file, &o, &test_err);
            hd_fault_disarm();
            if (rc == HD_OK) {
                float *x = golden_forward(&e, &h.g, 0);

                same(h.base, x, h.g.n * h.g.n_vocab, "after a fault");
                hd_free(x);
                hd_engine_close(&e);
            }
        }
    harm_end(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_not_believed), cmocka_unit_test(test_noise),          cmocka_unit_test(test_torn),          cmocka_unit_test(test_shorter_pack),
        cmocka_unit_test(test_outdated),  cmocka_unit_test(test_foreign),      cmocka_unit_test(test_failing_writes), cmocka_unit_test(test_failing_opens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
