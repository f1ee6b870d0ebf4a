/* test_index.c: which of many fp4 keys the indexer selects: the same ones however many workers look, however many tokens look together, and at
 * every level; and they are the best ones as plain arithmetic sees it. */
#include "support.h"

#include <math.h>

#include "backend/backend.h"
#include "kernels/kernels.h"
#include "ops/ops.h"
#include "tensor/kv_row.h"

#define DIM 128
#define RATIO 4
#define PAGE_ROWS 64
#define TOP 128
#define N_TOK 5

struct keys {
    struct hd_kv_row pack;
    struct hd_paged part;
    float *value;                     /* [n, DIM] as they come back */
    void **page;
    int64_t n;
};

static uint64_t seed = 88172645463325252u;

static float rnd(void)
{
    float sum = 0;

    for (int i = 0; i < 4; i++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        sum += (float)((double)(seed >> 11) / 4503599627370496.0 - 1.0);
    }
    return sum;
}

/* Rounded to fp4 and back. */
static void draw(const struct hd_kv_row *pack, float *x, void *row)
{
    for (int i = 0; i < DIM; i++)
        x[i] = rnd();
    hd_kv_encode(pack, x, row);
    hd_kv_decode(pack, row, x);
}

static void make_keys(struct keys *k, int64_t n)
{
    int64_t bytes, n_page = (n + PAGE_ROWS - 1) / PAGE_ROWS;
    char row[DIM];

    *k = (struct keys){.pack = hd_kv_row(HD_KV_FP4, 32, DIM, 0), .n = n};
    bytes = hd_kv_row_bytes(&k->pack);
    assert_true(hd_kv_in_panels(&k->pack));
    k->value = malloc((size_t)(n * DIM) * sizeof *k->value);
    k->page = malloc((size_t)n_page * sizeof *k->page);
    for (int64_t i = 0; i < n_page; i++)
        k->page[i] = aligned_alloc(64, (size_t)(PAGE_ROWS * bytes));
    k->part = (struct hd_paged){.page = k->page, .page_rows = PAGE_ROWS, .row_bytes = bytes, .ratio = RATIO, .pack = &k->pack, .panels = true};
    for (int64_t i = 0; i < n; i++) {
        draw(&k->pack, k->value + i * DIM, row);
        hd_kv_panel_put(&k->pack, row, (int)(i % 16), hd_paged_panel(&k->part, i));
    }
}

static void free_keys(struct keys *k)
{
    for (int64_t i = 0; i * PAGE_ROWS < k->n; i++)
        free(k->page[i]);
    free(k->page);
    free(k->value);
}

struct query {
    float *q, *w;
    int64_t n_head;
};

/* n_up of a token's weights are positive, in no order. */
static void make_queries(struct query *x, int64_t n_head, int64_t n_up)
{
    struct hd_kv_row pack = hd_kv_row(HD_KV_FP4, 32, DIM, 0);
    char row[DIM];

    *x = (struct query){malloc((size_t)(N_TOK * n_head * DIM) * sizeof(float)), malloc((size_t)(N_TOK * n_head) * sizeof(float)), n_head};
    for (int64_t i = 0; i < N_TOK * n_head; i++) {
        draw(&pack, x->q + i * DIM, row);
        x->w[i] = (fabsf(rnd()) + 0.01f) * ((i * 5 + i / n_head) % n_head < n_up ? 1 : -1);
    }
}

static void free_queries(struct query *x)
{
    free(x->q);
    free(x->w);
}

/* Tokens t0 .. t0 + n, whose last one sees all keys. */
static void choose(const struct keys *k, const struct query *x, int n_thread, int64_t t0, int64_t n, int32_t *out)
{
    struct hd_index_hp hp = {.n_head = x->n_head, .head_dim = DIM, .ratio = RATIO, .top_k = TOP, .ascending = true};
    struct hd_tensor q = hd_view2(HD_F32, x->q + t0 * x->n_head * DIM, n, x->n_head * DIM), w = hd_view2(HD_F32, x->w + t0 * x->n_head, n, x->n_head), sel = hd_view2(HD_I32, out, n, TOP);
    int32_t pos[N_TOK], zero[N_TOK] = {0};
    struct hd_span span = {.n_tok = n, .pos0 = k->n * RATIO - N_TOK + t0};
    struct hd_ragged b = {.n_tok = n, .n_seq = 1, .ids = zero, .pos = pos, .span = &span, .part = &k->part, .n_part = 1, .max_pos = k->n * RATIO};
    struct hd_backend be;
    struct hd_arena arena;
    struct hd_stream s;
    struct hd_pool *pool;

    for (int64_t i = 0; i < n; i++)
        pos[i] = (int32_t)(span.pos0 + i);
    hd_arena_init(&arena, 0);
    assert_ok(hd_pool_create(&pool, n_thread, &test_err));
    assert_ok(hd_backend_cpu_create(&be, pool, &test_err));
    hd_stream_init(&s, &be, &arena, HD_EXACT_NONE);
    hd_index(&s, &sel, &q, &w, &b, 0, &hp, NULL, NULL);
    assert_ok(hd_stream_end(&s, &test_err));
    hd_backend_cpu_free(&be);
    hd_pool_free(pool);
    hd_arena_release(&arena);
}

static double score_of(const struct keys *k, const struct query *x, int64_t t, int64_t key)
{
    double sum = 0;

    for (int64_t h = 0; h < x->n_head; h++) {
        const float *q = x->q + (t * x->n_head + h) * DIM, *v = k->value + key * DIM;
        double dot = 0;

        for (int i = 0; i < DIM; i++)
            dot += (double)q[i] * v[i];
        sum += fmax(dot, 0) * x->w[t * x->n_head + h];
    }
    return sum;
}

/* Nothing that was left out is better than the least that was chosen. */
static void check_best(const struct keys *k, const struct query *x, int64_t t, const int32_t *sel)
{
    int64_t n = (k->n * RATIO - N_TOK + t + 1) / RATIO, at = 0;
    double in = INFINITY, out = -INFINITY;

    for (int64_t key = 0; key < n; key++) {
        double s = score_of(k, x, t, key);

        if (at < TOP && sel[at] == key) {
            in = fmin(in, s);
            at++;
        } else {
            out = fmax(out, s);
        }
    }
    assert_int_equal(at, n < TOP ? n : TOP);
    if (out > in + 1e-4 * fabs(in) + 1e-5)
        fail_msg("%lld keys, %lld heads, token %lld: one of %g was left out, one of %g is in", (long long)k->n, (long long)x->n_head, (long long)t, out, in);
}

static void check_keys(int64_t n, int64_t n_head, int64_t n_up)
{
    int32_t first[N_TOK * TOP], other[N_TOK * TOP];
    struct query x;
    struct keys k;

    make_keys(&k, n);
    make_queries(&x, n_head, n_up);
    assert_true(hd_kernels_init("scalar"));
    choose(&k, &x, 1, 0, N_TOK, first);
    for (int64_t t = 0; t < N_TOK; t += 2)
        check_best(&k, &x, t, first + t * TOP);
    for (int l = 0; hd_backend_cpu_levels[l]; l++) {
        if (!hd_kernels_init(hd_backend_cpu_levels[l]))
            continue;
        for (int n_thread = 1; n_thread <= 3; n_thread++) {
            choose(&k, &x, n_thread, 0, N_TOK, other);
            if (memcmp(first, other, sizeof other))
                fail_msg("%lld keys, %lld of %lld heads, %s, %d threads: another choice", (long long)n, (long long)n_up, (long long)n_head, hd_backend_cpu_levels[l], n_thread);
            for (int64_t t = 0; t < N_TOK; t++)
                choose(&k, &x, n_thread, t, 1, other + t * TOP);
            if (memcmp(first, other, sizeof other))
                fail_msg("%lld keys, %lld of %lld heads, %s, %d threads: alone another choice", (long long)n, (long long)n_up, (long long)n_head, hd_backend_cpu_levels[l], n_thread);
        }
    }
    free_queries(&x);
    free_keys(&k);
}

static void test_choice(void **state)
{
    check_keys(100, 8, 4);
    check_keys(1000, 5, 2);
    check_keys(20011, 8, 4);
    check_keys(20000, 8, 8);
    check_keys(18000, 11, 3);
    check_keys(20000, 3, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_choice)};

    return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
