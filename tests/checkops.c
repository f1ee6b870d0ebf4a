/* checkops.c: every op of ops.def on the CPU backend against a plain double-precision reading of its header.
 *
 * One case list, three questions: is the result right (within the bound beside the case), are the bits the same with one
 * worker and with four, and are they the same when the tokens come one by one instead of together? --bench times the cases.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/backend.h"
#include "kernels/kernels.h"
#include "ops/ops.h"
#include "draw.h"
#include "report.h"

static bool bench;

static float *random_f32(int64_t n, float scale)
{
    float *p = malloc((size_t)n * sizeof *p);

    for (int64_t i = 0; i < n; i++)
        p[i] = draw() * scale;
    return p;
}

struct world {
    struct hd_pool *pool;
    struct hd_backend be;
    struct hd_arena arena;
    struct hd_stream s;
};

static void world_open(struct world *w, int n_thread)
{
    struct hd_err err;

    hd_arena_init(&w->arena, 0);
    if (hd_pool_create(&w->pool, n_thread, &err) < 0 || hd_backend_cpu_create(&w->be, w->pool, &err) < 0) {
        printf("%s\n", err.msg);
        exit(1);
    }
    hd_stream_init(&w->s, &w->be, &w->arena, HD_EXACT_NONE);
}

static void world_close(struct world *w)
{
    hd_backend_cpu_free(&w->be);
    hd_pool_free(w->pool);
    hd_arena_release(&w->arena);
}

static double max_error(const float *a, const double *ref, int64_t n)
{
    double worst = 0, top = 1e-30;

    for (int64_t i = 0; i < n; i++) {
        if (isnan(a[i]))
            return 1e30;
        worst = fmax(worst, fabs((double)a[i] - ref[i]));
        top = fmax(top, fabs(ref[i]));
    }
    return worst / top;
}

static void compare(const char *what, const float *one, const float *many, const float *split, const double *ref, int64_t n, double bound)
{
    double e = max_error(one, ref, n);

    report(e <= bound, "%s: error %.3g of the largest value; at most %.3g expected", what, e, bound);
    report(!memcmp(one, many, (size_t)n * sizeof *one), "%s: 4 workers and 1 worker differ", what);
    report(!split || !memcmp(one, split, (size_t)n * sizeof *one), "%s: token by token and together differ", what);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- matmul ---- */

struct matmul_case {
    enum hd_dtype type;
    int64_t n_tok, n_in, n_out;
    bool exact;
    double bound;
};

static void time_matmul(const struct matmul_case *k, const char *what, struct hd_stream *s, struct hd_tensor *out, struct hd_tensor *x, struct hd_tensor *w)
{
    double best = 1e9;

    for (int rep = 0; rep < 20; rep++) {
        double t0 = now();

        hd_matmul(s, out, x, w);
        best = fmin(best, now() - t0);
    }
    printf("%-48s %8.2f us  %7.2f GF/s  %6.2f GB/s of weights\n", what, best * 1e6, 2e-9 * (double)(k->n_tok * k->n_in * k->n_out) / best,
           1e-9 * (double)hd_tensor_bytes(w) / best);
}

static void check_matmul(const struct matmul_case *k)
{
    int64_t row_bytes = hd_row_bytes(k->type, k->n_in);
    char *data = malloc((size_t)(k->n_out * row_bytes)), what[128];
    float *x = random_f32(k->n_tok * k->n_in, 1), *w = random_f32(k->n_out * k->n_in, 1), *row = malloc((size_t)k->n_in * sizeof *row);
    double *ref = calloc((size_t)(k->n_tok * k->n_out), sizeof *ref);
    float *got[3];

    snprintf(what, sizeof what, "matmul %s T=%lld K=%lld N=%lld %s", hd_dtypes[k->type].name, (long long)k->n_tok, (long long)k->n_in, (long long)k->n_out,
             k->exact ? "f32" : "fast");
    for (int64_t r = 0; r < k->n_out; r++) {
        report(hd_encode_row(k->type, w + r * k->n_in, k->n_in, data + r * row_bytes), "%s: cannot encode", what);
        hd_decode_row(k->type, data, row_bytes, NULL, r, k->n_in, row);
        for (int64_t t = 0; t < k->n_tok; t++)
            for (int64_t i = 0; i < k->n_in; i++)
                ref[t * k->n_out + r] += (double)row[i] * (double)x[t * k->n_in + i];
    }
    for (int way = 0; way < 3; way++) {
        int64_t step = way == 2 ? 1 : k->n_tok;
        struct hd_tensor wt = hd_view2(k->type, data, k->n_out, k->n_in);
        struct world wd;

        got[way] = malloc((size_t)(k->n_tok * k->n_out) * sizeof(float));
        world_open(&wd, way == 0 ? 1 : 4);
        wd.s.exact = k->exact ? HD_EXACT_F32 : HD_EXACT_NONE;
        for (int64_t t = 0; t < k->n_tok; t += step) {
            struct hd_tensor xt = hd_view2(HD_F32, x + t * k->n_in, step, k->n_in), out = hd_view2(HD_F32, got[way] + t * k->n_out, step, k->n_out);

            hd_matmul(&wd.s, &out, &xt, &wt);
            if (bench && way == 0)
                time_matmul(k, what, &wd.s, &out, &xt, &wt);
        }
        report(hd_stream_ok(&wd.s), "%s: %s", what, wd.s.err.msg);
        world_close(&wd);
    }
    compare(what, got[0], got[1], got[2], ref, k->n_tok * k->n_out, k->bound);
    for (int i = 0; i < 3; i++)
        free(got[i]);
    free(data);
    free(x);
    free(w);
    free(row);
    free(ref);
}

/* ---- attention, with pages, two sequences, and the cache written through kv_put ---- */

struct attend_case {
    int64_t n_head, n_kv, dim, window;
    enum hd_dtype type;
    double bound;
    int64_t value;                    /* latents: keys' first values are the values, of all heads */
    bool bf16;
};

#define PAGE_ROWS 8
#define N_SEQ 2
#define MAX_LEN 400                   /* more than two blocks of 64 for each of two workers: they are shared out then */
#define N_PAGE (MAX_LEN / PAGE_ROWS + 1)

static const int64_t seq_len[N_SEQ] = {MAX_LEN, 37};

struct attend_data {
    int64_t nq, nkv, no, total;
    float *q, *k, *v;
};

static void attend_ref(const struct attend_case *c, const struct attend_data *a, double *ref)
{
    for (int64_t t = 0; t < a->total; t++) {
        int64_t base = t < seq_len[0] ? 0 : seq_len[0], pos = t - base, lo = c->window && pos + 1 > c->window ? pos + 1 - c->window : 0;

        for (int64_t h = 0; h < c->n_head; h++) {
            int64_t g = h / (c->n_head / c->n_kv);
            double p[MAX_LEN], top = -1e300, den = 0;

            for (int64_t j = lo; j <= pos; j++) {
                p[j] = 0;
                for (int64_t d = 0; d < c->dim; d++)
                    p[j] += (double)a->q[t * a->nq + h * c->dim + d] * (double)a->k[(base + j) * a->nkv + g * c->dim + d] * 0.25;
                top = fmax(top, p[j]);
            }
            for (int64_t j = lo; j <= pos; j++)
                den += p[j] = exp(p[j] - top);
            for (int64_t j = lo; j <= pos; j++)
                for (int64_t d = 0; d < c->dim; d++)
                    if (!c->value || d < c->value)
                        ref[t * a->no + h * (c->value ? c->value : c->dim) + d] += p[j] / den * (double)(c->value ? a->k : a->v)[(base + j) * a->nkv + g * c->dim + d];
        }
    }
}

/* One way through all tokens: all at once, or (small) chunks of 1 and 3 tokens with both sequences in the same step. */
static void attend_way(const struct attend_case *c, const struct attend_data *a, int n_thread, bool small, float *got)
{
    int64_t row_bytes = hd_row_bytes(c->type, a->nkv), done[N_SEQ] = {0, 0};
    void *page[N_SEQ][N_PAGE];
    struct hd_paged part[N_SEQ * 2];
    struct world wd;

    for (int i = 0; i < N_SEQ; i++) {
        for (int j = 0; j < N_PAGE; j++)
            page[i][j] = calloc(2 * PAGE_ROWS, (size_t)row_bytes);
        for (int p = 0; p < 2; p++)
            part[i * 2 + p] = (struct hd_paged){.page = page[i], .page_rows = PAGE_ROWS, .offset = p * PAGE_ROWS * row_bytes, .row_bytes = row_bytes, .ratio = 1, .type = c->type};
    }
    world_open(&wd, n_thread);
    while (done[0] < seq_len[0] || done[1] < seq_len[1]) {
        struct hd_span span[N_SEQ];
        struct hd_paged live[N_SEQ * 2];
        int32_t pos[2 * MAX_LEN];
        int64_t from[2 * MAX_LEN], n_tok = 0, n_seq = 0;

        for (int i = 0; i < N_SEQ; i++) {
            int64_t left = seq_len[i] - done[i], chunk = !small ? left : left < 1 + 2 * i ? left : 1 + 2 * i;

            if (!chunk)
                continue;
            span[n_seq] = (struct hd_span){.tok0 = n_tok, .n_tok = chunk, .pos0 = done[i]};
            memcpy(&live[n_seq * 2], &part[i * 2], 2 * sizeof *part);
            n_seq++;
            for (int64_t j = 0; j < chunk; j++, n_tok++) {
                pos[n_tok] = (int32_t)(done[i] + j);
                from[n_tok] = (i ? seq_len[0] : 0) + done[i] + j;
            }
            done[i] += chunk;
        }
        struct hd_ragged b = {.n_tok = n_tok, .n_seq = n_seq, .pos = pos, .max_pos = MAX_LEN, .span = span, .part = live, .n_part = 2};
        struct hd_tensor *tq = hd_new(&wd.s, HD_F32, n_tok, a->nq), *tk = hd_new(&wd.s, HD_F32, n_tok, a->nkv), *tv = hd_new(&wd.s, HD_F32, n_tok, a->nkv),
                         *to = hd_new(&wd.s, HD_F32, n_tok, a->no);

        for (int64_t t = 0; t < n_tok; t++) {
            memcpy((float *)tq->data + t * a->nq, a->q + from[t] * a->nq, (size_t)a->nq * 4);
            memcpy((float *)tk->data + t * a->nkv, a->k + from[t] * a->nkv, (size_t)a->nkv * 4);
            memcpy((float *)tv->data + t * a->nkv, a->v + from[t] * a->nkv, (size_t)a->nkv * 4);
        }
        hd_kv_put(&wd.s, tk, &b, 0, c->type);
        hd_kv_put(&wd.s, tv, &b, 1, c->type);
        if (c->value)
            hd_attend_sel(&wd.s, to, tq, NULL, NULL, NULL, &b,
                          &(struct hd_attend_sel_hp){.n_head = c->n_head, .head_dim = c->dim, .ratio = 1, .part_window = -1, .scale = 0.25f, .value_dim = c->value, .bf16 = c->bf16});
        else
            hd_attend(&wd.s, to, tq, &b, 0, 1, c->type, c->n_kv, c->dim, c->window, 0.25f);
        for (int64_t t = 0; t < n_tok; t++)
            memcpy(got + from[t] * a->no, (float *)to->data + t * a->no, (size_t)a->no * 4);
    }
    report(hd_stream_ok(&wd.s), "attend: %s", wd.s.err.msg);
    world_close(&wd);
    for (int i = 0; i < N_SEQ; i++)
        for (int j = 0; j < N_PAGE; j++)
            free(page[i][j]);
}

static void check_attend(const struct attend_case *c)
{
    struct attend_data a = {c->n_head * c->dim, c->n_kv * c->dim, c->n_head * (c->value ? c->value : c->dim), seq_len[0] + seq_len[1], NULL, NULL, NULL};
    double *ref = calloc((size_t)(a.total * a.no), sizeof *ref);
    float *got[3];
    char what[128];

    snprintf(what, sizeof what, "attend H=%lld G=%lld Dh=%lld window=%lld %s%s", (long long)c->n_head, (long long)c->n_kv, (long long)c->dim, (long long)c->window,
             hd_dtypes[c->type].name, c->bf16 ? ", latents as bf16" : c->value ? ", latents" : "");
    a.q = random_f32(a.total * a.nq, 2);
    a.k = random_f32(a.total * a.nkv, 1);
    a.v = random_f32(a.total * a.nkv, 1);
    for (int64_t i = 0; c->bf16 && i < a.total * a.nq; i++)
        a.q[i] = hd_bf16_operand(a.q[i]);
    for (int64_t i = 0; c->bf16 && i < a.total * a.nkv; i++)
        a.k[i] = hd_bf16_operand(a.k[i]);
    attend_ref(c, &a, ref);
    for (int way = 0; way < 3; way++) {
        got[way] = calloc((size_t)(a.total * a.no), sizeof(float));
        attend_way(c, &a, (int[]){1, 4, 2}[way], way == 2, got[way]);
    }
    compare(what, got[0], got[1], got[2], ref, a.total * a.no, c->bound);
    for (int i = 0; i < 3; i++)
        free(got[i]);
    free(a.q);
    free(a.k);
    free(a.v);
    free(ref);
}

/* ---- row ops: one runner, one reference each ---- */

enum row_op { ROW_RMSNORM, ROW_SILU, ROW_ADD, ROW_ADD_ROW, ROW_ROPE, ROW_ROPE_PAIRS, ROW_GATHER, ROW_EMBED, N_ROW };
static const char *const row_name[N_ROW] = {"rmsnorm", "silu_mul", "add", "add_row", "rope", "rope interleaved", "gather", "embed"};
static const double row_bound[N_ROW] = {2e-6, 3e-6, 1e-7, 1e-7, 1e-6, 1e-6, 0, 0};

static void rope_ref(bool pairs, int64_t t, int64_t n, const float *x, const float *w, double *out)
{
    int64_t half = n / 8;                                     /* two heads, half of each rotated */

    for (int64_t h = 0; h < n; h += n / 2)
        for (int64_t i = 0; i < n / 2; i++) {
            int64_t k = pairs ? i / 2 : i % half, lo = pairs ? 2 * k : k, hi = pairs ? 2 * k + 1 : k + half;
            double ang = i < 2 * half ? (double)((float)(t * 7) * w[k]) : 0, c = (double)(float)cos(ang) * 1.5, s = (double)(float)sin(ang) * 1.5;

            out[h + i] = i >= 2 * half ? (double)x[h + i]
                         : i == lo     ? (double)x[h + lo] * c - (double)x[h + hi] * s
                                       : (double)x[h + hi] * c + (double)x[h + lo] * s;
        }
}

static void row_ref(enum row_op op, int64_t t, int64_t n, const float *a, const float *b, const float *w, const int32_t *ids, int64_t n_tok, double *out)
{
    const float *x = a + t * n, *y = b + t * n;
    double ss = 0;

    if (op == ROW_ROPE || op == ROW_ROPE_PAIRS) {
        rope_ref(op == ROW_ROPE_PAIRS, t, n, x, w, out);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        ss += (double)x[i] * (double)x[i];
    for (int64_t i = 0; i < n; i++) {
        switch (op) {
        case ROW_RMSNORM: out[i] = (double)x[i] / sqrt(ss / (double)n + 1e-5) * (double)w[i]; break;
        case ROW_SILU: out[i] = (double)x[i] / (1 + exp(-(double)x[i])) * (double)y[i]; break;
        case ROW_ADD: out[i] = (double)x[i] + (double)y[i]; break;
        case ROW_ADD_ROW: out[i] = (double)x[i] + (double)w[i]; break;
        case ROW_GATHER: out[i] = (double)a[(n_tok - 1 - t) * n + i]; break;
        case ROW_EMBED: out[i] = (double)a[ids[t] * n + i]; break;
        default: break;
        }
    }
}

static void row_run(enum row_op op, struct hd_stream *s, int64_t n_tok, int64_t t, int64_t step, int64_t n, float *a, float *b, float *w, const int32_t *ids,
                    const int32_t *pos, float *got)
{
    struct hd_tensor x = hd_view2(HD_F32, a + t * n, step, n), y = hd_view2(HD_F32, b + t * n, step, n), out = hd_view2(HD_F32, got + t * n, step, n),
                     wt = hd_view1(HD_F32, w, n), table = hd_view2(HD_F32, a, n_tok, n), freq = hd_view1(HD_F32, w, n / 8);
    struct hd_span span = {.n_tok = step, .pos0 = 0};
    struct hd_ragged batch = {.n_tok = step, .n_seq = 1, .ids = ids + t, .pos = pos + t, .span = &span};
    int32_t rows[256];

    for (int64_t i = 0; i < n_tok; i++)
        rows[i] = (int32_t)(n_tok - 1 - i);
    switch (op) {
    case ROW_RMSNORM: hd_rmsnorm(s, &out, &x, &wt, 1e-5f); return;
    case ROW_SILU: hd_silu_mul(s, &out, &x, &y); return;
    case ROW_ADD: hd_add(s, &out, &x, &y); return;
    case ROW_EMBED: hd_embed(s, &out, &table, &batch); return;
    case ROW_GATHER: hd_gather(s, &out, &x, rows); return;
    default: break;
    }
    memcpy(out.data, x.data, (size_t)(step * n) * 4);
    if (op == ROW_ADD_ROW) {
        hd_add_row(s, &out, &wt);
    } else {
        struct hd_tensor *rope = hd_new(s, HD_F32, step, n / 4);

        hd_rope_table(s, rope, &batch, &freq, 1.5f);
        hd_rope(s, &out, rope, n / 2, op == ROW_ROPE_PAIRS);
    }
}

static void check_row(enum row_op op, int64_t n_tok, int64_t n)
{
    float *a = random_f32(n_tok * n, 3), *b = random_f32(n_tok * n, 1), *w = random_f32(n, 1), *got[3];
    double *ref = calloc((size_t)(n_tok * n), sizeof *ref);
    int32_t *ids = malloc((size_t)n_tok * 4), *pos = malloc((size_t)n_tok * 4);
    char what[128];

    snprintf(what, sizeof what, "%s T=%lld n=%lld", row_name[op], (long long)n_tok, (long long)n);
    for (int64_t t = 0; t < n_tok; t++) {
        ids[t] = (int32_t)((t * 5 + 3) % n_tok);
        pos[t] = (int32_t)(t * 7);
    }
    for (int64_t t = 0; t < n_tok; t++)
        row_ref(op, t, n, a, b, w, ids, n_tok, ref + t * n);
    for (int way = 0; way < 3; way++) {
        int64_t step = way == 2 && op != ROW_GATHER ? 1 : n_tok;
        struct world wd;

        got[way] = malloc((size_t)(n_tok * n) * sizeof(float));
        world_open(&wd, way == 1 ? 4 : 1);
        for (int64_t t = 0; t < n_tok; t += step)
            row_run(op, &wd.s, n_tok, t, step, n, a, b, w, ids, pos, got[way]);
        report(hd_stream_ok(&wd.s), "%s: %s", what, wd.s.err.msg);
        world_close(&wd);
    }
    compare(what, got[0], got[1], got[2], ref, n_tok * n, row_bound[op]);
    for (int i = 0; i < 3; i++)
        free(got[i]);
    free(a);
    free(b);
    free(w);
    free(ref);
    free(ids);
    free(pos);
}

/* The first failure stays, later calls do nothing, the end reports it once. */
static void check_sticky(void)
{
    float x[8] = {0};
    struct hd_tensor a = hd_view2(HD_F32, x, 2, 4), b = hd_view2(HD_F32, x, 4, 2);
    struct hd_err err = {0};
    struct world wd;

    world_open(&wd, 1);
    hd_add(&wd.s, &a, &a, &b);
    hd_matmul(&wd.s, &b, &b, &a);
    report(hd_stream_end(&wd.s, &err) == HD_ERR_SHAPE && strstr(err.msg, "op add") != NULL, "sticky error: %s", err.msg);
    world_close(&wd);
}

/* ---- the indexer over fp4 keys: one by one or in panels, together or shared out, the same choice ---- */

struct index_case {
    int64_t dim, n_head, ratio, page_rows, n_key, n_tok, top_k;
    int64_t block, n_block;           /* 0: no candidates */
};

/* Keys in pages that lie in any order, as rows and in panels. */
static void fill_keys(const struct index_case *k, const struct hd_kv_row *row, struct hd_paged out[2])
{
    int64_t bytes = hd_kv_row_bytes(row), n_page = k->n_key / k->page_rows + 1, page_bytes = (k->page_rows * bytes + 63) / 64 * 64;
    float *x = malloc((size_t)k->dim * sizeof *x);

    for (int i = 0; i < 2; i++) {
        char *mem = aligned_alloc(64, (size_t)(n_page * page_bytes));
        void **page = malloc((size_t)n_page * sizeof *page);

        for (int64_t p = 0; p < n_page; p++)
            page[p] = mem + (n_page - 1 - p) * page_bytes;
        out[i] = (struct hd_paged){.page = page, .page_rows = k->page_rows, .row_bytes = bytes, .ratio = (int)k->ratio, .pack = row, .panels = i};
    }
    for (int64_t r = 0; r < k->n_key; r++) {
        unsigned char back[HD_KV_ROW_MAX];

        for (int64_t i = 0; i < k->dim; i++)
            x[i] = draw() * (r % 3 ? 1 : 0.01f);
        hd_kv_encode(row, x, hd_paged_row(&out[0], r));
        hd_kv_panel_put(row, hd_paged_row(&out[0], r), (int)(r % 16), hd_paged_panel(&out[1], r));
        hd_kv_panel_get(row, hd_paged_panel(&out[1], r), (int)(r % 16), back);
        report(!memcmp(back, hd_paged_row(&out[0], r), (size_t)bytes), "index: row %lld comes back changed", (long long)r);
    }
    free(x);
}

/* Both lists for the tokens behind all keys. */
static void choose(const struct index_case *k, const struct hd_paged *keys, int n_thread, const float *q, const float *w, int32_t *sel, int32_t *cand)
{
    struct hd_index_hp hp = {.n_head = k->n_head, .head_dim = k->dim, .ratio = k->ratio, .top_k = k->top_k, .ascending = true, .block = k->block ? k->block : 1,
                             .n_block = k->n_block};
    struct hd_span span = {.n_tok = k->n_tok, .pos0 = k->n_key * k->ratio - k->n_tok};
    int32_t *pos = malloc((size_t)k->n_tok * sizeof *pos);
    struct hd_ragged b = {.n_tok = k->n_tok, .n_seq = 1, .pos = pos, .span = &span, .part = keys, .n_part = 1, .max_pos = k->n_key * k->ratio};
    struct hd_tensor tq = hd_view2(HD_F32, (void *)q, k->n_tok, k->n_head * k->dim), tw = hd_view2(HD_F32, (void *)w, k->n_tok, k->n_head);
    struct hd_tensor ts = hd_view2(HD_I32, sel, k->n_tok, k->top_k), tc = hd_view2(HD_I32, cand, k->n_tok, k->n_block);
    struct world wd;
    struct hd_err err;

    for (int64_t t = 0; t < k->n_tok; t++)
        pos[t] = (int32_t)(span.pos0 + t);
    world_open(&wd, n_thread);
    if (k->n_block)
        hd_index(&wd.s, &ts, &tq, &tw, &b, 0, &hp, &tc, NULL);
    hd_index(&wd.s, &ts, &tq, &tw, &b, 0, &hp, NULL, k->n_block ? &tc : NULL);
    report(hd_stream_end(&wd.s, &err) == HD_OK, "index: %s", err.msg);
    world_close(&wd);
    free(pos);
}

static void check_index(const struct index_case *k)
{
    struct hd_kv_row row = hd_kv_row(HD_KV_FP4, 32, k->dim, 0);
    int64_t n_sel = k->n_tok * k->top_k, n_cand = k->n_tok * k->n_block + 1;
    float *q = random_f32(k->n_tok * k->n_head * k->dim, 1), *w = random_f32(k->n_tok * k->n_head, 1);
    int32_t *sel[4], *cand[4];
    struct hd_paged keys[2];

    fill_keys(k, &row, keys);
    for (int i = 0; i < 4; i++) {
        sel[i] = calloc((size_t)n_sel, 4);
        cand[i] = calloc((size_t)n_cand, 4);
        choose(k, &keys[i & 1], i & 2 ? 4 : 1, q, w, sel[i], cand[i]);
        report(!memcmp(sel[i], sel[0], (size_t)n_sel * 4) && !memcmp(cand[i], cand[0], (size_t)n_cand * 4), "index of %lld keys of %lld, %lld tokens: %s, %d workers choose others",
               (long long)k->n_key, (long long)k->dim, (long long)k->n_tok, i & 1 ? "panels" : "rows", i & 2 ? 4 : 1);
        free(i ? sel[i] : NULL);
        free(i ? cand[i] : NULL);
    }
    report(sel[0][0] >= 0 && sel[0][n_sel - 1] > sel[0][n_sel - k->top_k], "index: nothing was chosen");
    for (int i = 0; i < 2; i++) {
        free(keys[i].page[k->n_key / k->page_rows]);
        free((void *)keys[i].page);
    }
    free(sel[0]);
    free(cand[0]);
    free(q);
    free(w);
}

int main(int argc, char **argv)
{
    static const struct matmul_case mm[] = {
        {HD_F32, 1, 576, 64, true, 2e-6},      {HD_F32, 70, 192, 130, true, 2e-6},    {HD_F32, 3, 33, 7, true, 2e-6},       {HD_BF16, 5, 320, 257, true, 2e-6},
        {HD_F16, 5, 320, 257, true, 2e-6},     {HD_Q4_1, 1, 576, 192, true, 2e-6},    {HD_Q4_1, 1, 576, 1536, false, 5e-5}, {HD_Q4_1, 70, 576, 192, false, 5e-5},
        {HD_Q8_0, 1, 576, 1536, false, 5e-5},  {HD_Q8_0, 9, 64, 33, false, 5e-5},     {HD_Q4_0, 9, 64, 33, false, 5e-5},    {HD_Q4_K, 50, 512, 100, false, 5e-5},
        {HD_Q6_K, 50, 512, 100, false, 5e-5},  {HD_MXFP4, 50, 512, 100, false, 1e-2}, {HD_Q5_0, 4, 64, 40, false, 5e-5},    {HD_Q5_1, 4, 64, 40, false, 5e-5},
        {HD_F8_E4M3, 4, 256, 40, false, 2e-6}, {HD_F32, 1, 1536, 576, true, 2e-6},    {HD_Q4_1, 256, 576, 1536, false, 5e-5}};
    static const struct attend_case at[] = {{4, 2, 16, 0, HD_F32, 2e-6, 0, false}, {9, 3, 64, 0, HD_F32, 2e-6, 0, false},  {4, 4, 24, 10, HD_F32, 2e-6, 0, false},
                                            {40, 2, 8, 0, HD_F32, 2e-6, 0, false}, {4, 1, 32, 64, HD_F32, 2e-6, 0, false}, {4, 2, 64, 0, HD_F16, 2e-3, 0, false},
                                            {20, 1, 300, 290, HD_F32, 4e-6, 0, false}, {2, 1, 4200, 20, HD_F32, 5e-5, 0, false},
                                            {16, 1, 576, 0, HD_F32, 2e-5, 512, false}, {16, 1, 576, 0, HD_F32, 4e-3, 512, true},
                                            {21, 1, 47, 0, HD_F32, 4e-3, 33, true}, {40, 1, 70, 0, HD_F32, 4e-3, 70, true}};

    static const struct index_case ix[] = {{128, 8, 4, 16, 9000, 1, 16, 0, 0},    {128, 8, 4, 32, 9001, 5, 70, 0, 0},  {32, 3, 2, 32, 2500, 40, 20, 0, 0},
                                           {96, 12, 1, 64, 5000, 1, 40, 0, 0},    {128, 8, 2, 32, 7003, 1, 50, 8, 300}, {128, 2, 2, 32, 3000, 40, 50, 12, 100},
                                           {160, 100, 4, 16, 1200, 2, 30, 5, 64}, {128, 4, 4, 48, 900, 5, 64, 16, 7}};

    bench = argc > 1 && !strcmp(argv[1], "--bench");
    draw_seed(1);
    if (!hd_kernels_init(getenv("HD_CPU"))) {
        printf("HD_CPU=%s: not available here\n", getenv("HD_CPU"));
        return 1;
    }
    for (size_t i = 0; i < sizeof mm / sizeof mm[0]; i++)
        check_matmul(&mm[i]);
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++)
        check_attend(&at[i]);
    for (int op = 0; op < N_ROW; op++)
        for (int i = 0; i < 3; i++)
            check_row((enum row_op)op, (int64_t[]){1, 5, 130}[i], (int64_t[]){576, 40, 256}[i]);
    for (size_t i = 0; i < sizeof ix / sizeof ix[0]; i++)
        check_index(&ix[i]);
    check_sticky();
    printf("%d passed, %d failed\n", n_pass, n_fail);
    return n_fail != 0;
}
