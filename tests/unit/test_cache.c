/* test_cache.c: the cache against a plain model of it: random appends, rewinds, forks and snapshots of several sequences.
 *
 * Every row is stamped with its sequence's history; after each operation all rows of all sequences must be what the plain
 * copy says. Sizes are held against the formulas of cache.h.
 */
#include "support.h"

#include <math.h>

#include "base/rng.h"
#include "cache/cache.h"
#include "model/model.h"
#include "tensor/simulate.h"

static const struct hd_cache_part parts[] = {
    {.name = "k", .layer = 0, .kind = HD_PART_PAGED, .type = HD_F32, .row_len = 3, .ratio = 1},
    {.name = "v", .layer = 0, .kind = HD_PART_PAGED, .type = HD_F16, .row_len = 5, .ratio = 1},
    {.name = "compressed", .layer = 1, .kind = HD_PART_PAGED, .type = HD_F32, .row_len = 2, .ratio = 4},
};
static const struct hd_cache_spec spec = {HD_LEN(parts), parts};

#define N_SEQ 6
#define MAX_LEN 400

struct plain {
    struct hd_seq *seq;
    int64_t n;
    float stamp[MAX_LEN];             /* what row i of part 0 holds in its first value */
};

static void stamp(struct plain *p, int64_t from, int64_t to, float value)
{
    for (int64_t i = from; i < to; i++) {
        p->stamp[i] = value + (float)i;
        *(float *)hd_seq_row(p->seq, 0, i) = p->stamp[i];
        *(uint16_t *)hd_seq_row(p->seq, 1, i) = (uint16_t)p->stamp[i];
        if (i % 4 == 3)
            *(float *)hd_seq_row(p->seq, 2, i / 4) = p->stamp[i];
    }
}

static void verify(struct plain *p)
{
    assert_int_equal(hd_seq_len(p->seq), p->n);
    for (int64_t i = 0; i < p->n; i++) {
        if (*(float *)hd_seq_row(p->seq, 0, i) != p->stamp[i])
            fail_msg("row %lld of %lld: %g; expected %g", (long long)i, (long long)p->n, *(float *)hd_seq_row(p->seq, 0, i), p->stamp[i]);
        assert_int_equal(*(uint16_t *)hd_seq_row(p->seq, 1, i), (uint16_t)p->stamp[i]);
        if (i % 4 == 3)
            assert_true(*(float *)hd_seq_row(p->seq, 2, i / 4) == p->stamp[i]);
    }
}

struct bytes {
    char *p;
    size_t n, cap;
};

static void keep(void *arg, const void *p, size_t n)
{
    struct bytes *b = arg;

    assert_true(HD_GROW(b->p, b->cap, b->n + n, (size_t)1 << 30));
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void snapshot(struct hd_cache *c, struct plain *from, struct plain *to)
{
    struct bytes b = {0};
    const void *blob;
    size_t n_blob;

    hd_seq_save(from->seq, "ids", 3, keep, &b);
    hd_seq_free(to->seq);
    assert_ok(hd_seq_create(c, &to->seq, &test_err));
    to->n = 0;
    if (hd_seq_load(to->seq, b.p, b.n, &blob, &n_blob, &test_err) == HD_OK) {
        assert_int_equal(n_blob, 3);
        assert_memory_equal(blob, "ids", 3);
        to->n = from->n;
        memcpy(to->stamp, from->stamp, sizeof to->stamp);
    } else {
        assert_int_equal(test_err.code, HD_ERR_LIMIT);        /* the budget */
    }
    /* any damage is noticed and leaves the sequence empty */
    if (b.n > 20) {
        struct hd_seq *s;

        assert_ok(hd_seq_create(c, &s, &test_err));
        b.p[b.n / 2] ^= 1;
        assert_true(hd_seq_load(s, b.p, b.n, &blob, &n_blob, &test_err) < 0);
        b.p[b.n / 2] ^= 1;
        assert_true(hd_seq_load(s, b.p, b.n - 1, &blob, &n_blob, &test_err) < 0);
        assert_int_equal(hd_seq_len(s), 0);
        hd_seq_free(s);
    }
    hd_free(b.p);
}

static void test_random(void **state)
{
    struct hd_cache c;
    struct plain p[N_SEQ] = {0};
    struct hd_rng rng;
    int full = 0;

    hd_rng_seed(&rng, 4);
    assert_ok(hd_cache_init(&c, &spec, 1200, &test_err));
    for (int i = 0; i < N_SEQ; i++)
        assert_ok(hd_seq_create(&c, &p[i].seq, &test_err));
    for (int step = 0; step < 3000; step++) {
        int i = (int)(hd_rng_next(&rng) % N_SEQ), k = (int)(hd_rng_next(&rng) % N_SEQ);
        int64_t n = (int64_t)(hd_rng_next(&rng) % 40), reached;

        switch (hd_rng_next(&rng) % 8) {
        case 0: case 1: case 2: case 3:
            if (p[i].n + n > MAX_LEN)
                break;
            if (hd_seq_append(p[i].seq, n, &test_err) < 0) {
                assert_int_equal(test_err.code, HD_ERR_LIMIT);
                full++;
                break;
            }
            stamp(&p[i], p[i].n, p[i].n + n, (float)(step % 7919) * 512);
            p[i].n += n;
            break;
        case 4:
            n = p[i].n ? (int64_t)(hd_rng_next(&rng) % (uint64_t)(p[i].n + 1)) : 0;
            assert_ok(hd_seq_rewind(p[i].seq, n, &reached, &test_err));
            assert_int_equal(reached, n);
            p[i].n = n;
            break;
        case 5: case 6:
            if (i == k)
                break;
            hd_seq_free(p[k].seq);
            assert_ok(hd_seq_fork(p[i].seq, &p[k].seq, &test_err));
            p[k].n = p[i].n;
            memcpy(p[k].stamp, p[i].stamp, sizeof p[i].stamp);
            break;
        default:
            if (i != k)
                snapshot(&c, &p[i], &p[k]);
        }
        for (int s = 0; s < N_SEQ; s++)
            if (step % 50 == 0 || s == i || s == k)
                verify(&p[s]);
    }
    assert_true(full > 0);                     /* the budget was met, too */
    for (int i = 0; i < N_SEQ; i++)
        hd_seq_free(p[i].seq);
    assert_int_equal(c.n_page_used, 0);        /* nothing leaked */
    hd_cache_release(&c);
}

static void test_sizes(void **state)
{
    static const struct hd_cache_part all[] = {
        {.name = "k", .kind = HD_PART_PAGED, .type = HD_F32, .row_len = 64, .ratio = 1},
        {.name = "c", .kind = HD_PART_PAGED, .type = HD_F16, .row_len = 512, .ratio = 128},
        {.name = "w", .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = 32, .ratio = 1, .window = 128, .slack = 16},
        {.name = "s", .kind = HD_PART_STATE, .type = HD_F32, .row_len = 100, .ratio = 1},
    };
    static const struct hd_cache_spec s = {HD_LEN(all), all};

    assert_true(hd_cache_spec_token_bytes(&s) == 64 * 4 + 512.0 * 2 / 128);
    assert_int_equal(hd_cache_spec_seq_bytes(&s), (128 + 16) * 32 * 4 + 448);       /* 400 rounded up to 64 */
    /* pages hold 128 tokens here, since a compressed row needs them whole */
    assert_int_equal(hd_cache_spec_bytes(&s, 1000, 2), 8 * (128 * 64 * 4 + 512 * 2) + 2 * hd_cache_spec_seq_bytes(&s));
}

/* Rings and states: rewinding inside the slack is exact, beyond it says so. */
static void test_window(void **state)
{
    static const struct hd_cache_part w[] = {{.name = "w", .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = 1, .ratio = 1, .window = 8, .slack = 4}};
    static const struct hd_cache_spec s = {1, w};
    struct hd_cache c;
    struct hd_seq *q;
    int64_t reached;

    assert_ok(hd_cache_init(&c, &s, 100, &test_err));
    assert_ok(hd_seq_create(&c, &q, &test_err));
    for (int i = 0; i < 40; i++) {
        assert_ok(hd_seq_append(q, 1, &test_err));
        *(float *)hd_seq_row(q, 0, i) = (float)i;
    }
    assert_ok(hd_seq_rewind(q, 37, &reached, &test_err));
    assert_int_equal(reached, 37);
    for (int i = 29; i < 37; i++)
        assert_true(*(float *)hd_seq_row(q, 0, i) == (float)i);
    /* reserving and giving back forgets nothing, however much it was */
    assert_ok(hd_seq_append(q, 50, &test_err));
    hd_seq_retract(q, 50);
    assert_int_equal(hd_seq_len(q), 37);
    assert_int_equal(hd_seq_reach(q, 36), 36);
    assert_int_equal(hd_seq_reach(q, 35), 0);
    assert_ok(hd_seq_rewind(q, 20, &reached, &test_err));
    assert_int_equal(reached, 0);
    assert_int_equal(hd_seq_len(q), 0);
    hd_seq_free(q);
    hd_cache_release(&c);
}

/* Vectors that were rounded come back unchanged from a packed row; others come back as the rounding says. */
static void test_packed_rows(void **state)
{
    static const struct {
        enum hd_kv_code code;
        enum hd_sim sim;
        int block, n, tail, bytes;
    } c[] = {{HD_KV_FP8, HD_SIM_FP8, 64, 448, 64, 584}, {HD_KV_FP4_E4M3, HD_SIM_FP4_E4M3, 16, 512, 0, 288}, {HD_KV_FP4, HD_SIM_FP4, 32, 128, 0, 68},
             {HD_KV_FP8, HD_SIM_FP8, 32, 512, 0, 528},  {HD_KV_FP8, HD_SIM_FP8, 64, 24, 8, 44},             {HD_KV_FP4_E4M3, HD_SIM_FP4_E4M3, 16, 30, 2, 24}};
    struct hd_rng rng;

    hd_rng_seed(&rng, 7);
    for (int k = 0; k < HD_LEN(c); k++) {
        struct hd_kv_row r = hd_kv_row(c[k].code, c[k].block, c[k].n, c[k].tail);
        float x[512 + 64], want[512 + 64], got[512 + 64];
        unsigned char row[1200];

        assert_int_equal(hd_kv_row_bytes(&r), c[k].bytes);
        for (int round = 0; round < 3000; round++) {
            float size = ldexpf(1, (int)(hd_rng_next(&rng) % 40) - 30);

            for (int i = 0; i < c[k].n + c[k].tail; i++)
                x[i] = hd_round_bf16(size * ldexpf((float)hd_rng_double(&rng) - 0.5f, -(int)(hd_rng_next(&rng) % 8)));
            memcpy(want, x, sizeof want);
            hd_simulate(c[k].sim, c[k].block, want, c[k].n);
            hd_kv_encode(&r, want, row);
            hd_kv_decode(&r, row, got);
            for (int i = 0; i < c[k].n + c[k].tail; i++)
                if (got[i] != want[i])
                    fail_msg("case %d, size %g, value %d: %.9g; expected %.9g", k, size, i, got[i], want[i]);
        }
    }
    assert_int_equal(hd_kv_row(HD_KV_FP4, 32, 7, 0).code, HD_KV_NONE);
    assert_int_equal(hd_kv_row(HD_KV_FP8, 64, 2000, 64).code, HD_KV_NONE);
}

/* The published models as their configs alone tell: cache bytes a token (windows are fixed, entries and index keys count), tensors,
 * parameters. */
static void test_published_sizes(void **state)
{
    static const struct {
        const char *preset;
        double bytes;
        int64_t tensors;
        double total, active;         /* in 1e8, rounded as they are published */
    } c[] = {{"v4-flash", 21 * (584 + 68) / 4.0 + 20 * 584 / 128.0, 69187, 2843, 133},
             {"v4-pro", 30 * (584 + 68) / 4.0 + 31 * 584 / 128.0, 145116, 15730, 489},
             {"v41-flash", 3 * (288 + 68) / 2.0 + 356, 96085, 7485, 161},
             {"seed-1t", 61 * 576 * 2, 109366, 10031, 372},
             {"seed-lite-200b", 43 * 576 * 2, 38402, 2016, 110},
             {"v3", 61 * 576 * 2, 90427, 6710, 366}};

    for (int i = 0; i < HD_LEN(c); i++) {
        struct hd_counts n;
        struct hd_model m;
        char path[128];

        snprintf(path, sizeof path, "models/presets/%s", c[i].preset);
        assert_ok(hd_model_open(&m, path, HD_KV_AUTO, HD_STORE_PLAN, &test_err));
        assert_true(hd_cache_spec_token_bytes(&m.spec) == c[i].bytes);
        hd_model_count(&m, &n);
        assert_int_equal(n.n_tensor, c[i].tensors);
        assert_true(round((double)n.total / 1e8) == c[i].total);
        assert_true(round((double)n.active / 1e8) == c[i].active);
        hd_model_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_sizes), cmocka_unit_test(test_window), cmocka_unit_test(test_packed_rows),
                                       cmocka_unit_test(test_published_sizes)};

    return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}
