/* test_grad.c: the gradient of whole models, a tiny checkpoint of every family, along the gradient itself.
 *
 * The loss is a fixed random sum of all logits of two documents in one batch. Where ref/ knows the family, its double-precision forward
 * pass says how fast the loss changes when a weight tensor moves along its gradient: 1e-5 or better everywhere. Steps begin at 2e-5 of the
 * tensor's norm and shrink while the distance is larger, because two things have no slope to be found with long steps: a choice on an edge, and
 * the root in Engram's gate (v41-f32-a at engram.wkv: 3e-1, 2e-3, 4e-5, 1e-6 with steps of 2e-5 / 5^k; in f32, whose steps cannot be
 * that short, the same tensor was 1.5e-2 off). hadal is not in ref/: its own f32 forward pass is moved, and the best of a few step sizes
 * counts; the bound is f32's noise. A part of a gradient that is orthogonal to the rest would not be seen here: checkgrad has every op by itself. */
#include "golden.h"

#include <fcntl.h>
#include <math.h>

#include "backend/backend.h"
#include "base/hash.h"
#include "base/rng.h"
#include "weights/safetensors_write.h"
#include "ops/tape.h"

#include <sys/mman.h>

#include "../../ref/ref.h"

#define N_DOC 2
#define MAX_WEIGHT 4096

static int n_worker = 2;

struct weight {
    struct hd_tensor *t;
    float *grad;
};

struct trial {
    struct golden g;
    struct hd_engine e;
    struct hd_arena step;
    struct hd_tape tape;
    struct hd_cache cache;
    struct hd_seq *seq[N_DOC];
    struct weight w[MAX_WEIGHT];
    int n_weight;
    struct hd_span span[N_DOC];
    struct hd_paged *part;
    struct hd_ragged b;
    int32_t ids[4096], pos[4096], rows[4096];
    float *r;                         /* d loss / d logits */
    char *step_base, *step_grad;
    size_t n_step;
    uint64_t chosen;
};

/* Weights become f32 copies with room for a gradient; integers stay. */
static void take_weight(void *arg, const struct hd_tensor *w)
{
    struct trial *a = arg;
    struct hd_tensor *t = (struct hd_tensor *)w;
    int64_t rows = hd_rows(w), cols = hd_cols(w);
    float *copy, *grad;

    if (!w->n_dim || !w->data || w->type == HD_I32 || w->type == HD_I64)
        return;
    for (int i = 0; i < a->n_weight; i++)
        if (a->w[i].t == t)
            return;
    assert_true(a->n_weight < MAX_WEIGHT);
    copy = hd_malloc((size_t)(rows * cols) * sizeof *copy);
    grad = hd_calloc((size_t)(rows * cols), sizeof *grad);
    for (int64_t i = 0; i < rows; i++)
        hd_decode_row(w->type, w->data, w->row_bytes, w->scale.data ? &w->scale : NULL, i, cols, copy + i * cols);
    t->type = HD_F32;
    t->data = copy;
    t->row_bytes = cols * 4;
    memset(&t->scale, 0, sizeof t->scale);
    a->w[a->n_weight++] = (struct weight){t, grad};
    assert_ok(hd_tape_range(&a->tape, copy, grad, (size_t)(rows * cols) * 4, false, &test_err));
}

static void open_step(struct trial *a)
{
    struct hd_stream s;
    struct hd_arena dry;
    struct hd_tape none;

    hd_tape_init(&none);
    hd_arena_init(&dry, 0);
    hd_stream_init(&s, NULL, &dry, HD_EXACT_F32);
    s.tape = &none;
    a->e.model.arch->forward(&a->e.model, &s, &a->b, a->rows, a->b.n_tok);
    assert_ok(hd_stream_end(&s, &test_err));
    a->n_step = ((size_t)s.cost.arena_peak + 65536) / 4096 * 4096;
    hd_arena_release(&dry);
    hd_tape_release(&none);
    hd_arena_init(&a->step, a->n_step);
    assert_true(hd_arena_reserve(&a->step, a->n_step));
    a->step_base = hd_arena_alloc(&a->step, 64);
    assert_non_null(a->step_grad = hd_calloc(a->n_step, 1));
    assert_ok(hd_tape_range(&a->tape, a->step_base, a->step_grad, a->n_step, true, &test_err));
}

static void open_trial(struct trial *a, const char *name, int64_t first)
{
    struct hd_engine *e = &a->e;
    int64_t n_part, at = 0, len[N_DOC];
    struct hd_rng rng;
    char numbers[512];

    memset(a, 0, sizeof *a);
    assert_true(golden_numbers(name, numbers));
    memcpy(a->g.numbers, numbers, sizeof numbers);
    snprintf(a->g.path, sizeof a->g.path, "tests/golden/%s", name);
    golden_load(&a->g);
    golden_open(e, &a->g, HD_EXACT_F32, n_worker, NULL);
    hd_tape_init(&a->tape);
    e->model.arch->each_weight(&e->model, take_weight, a);
    n_part = e->model.spec.n_part;
    len[0] = a->g.n < first ? a->g.n : first;
    len[1] = len[0] * 2 / 3;
    assert_ok(hd_cache_init(&a->cache, &e->model.spec, 4 * len[0] + 512, &test_err));
    a->part = hd_calloc((size_t)(N_DOC * n_part), sizeof *a->part);
    for (int d = 0; d < N_DOC; d++) {
        a->span[d] = (struct hd_span){.tok0 = at, .n_tok = len[d]};
        for (int64_t i = 0; i < len[d]; i++, at++) {
            a->ids[at] = a->g.ids[d ? len[0] - 1 - i : i];
            a->pos[at] = (int32_t)i;
            a->rows[at] = (int32_t)at;
        }
        assert_ok(hd_seq_create(&a->cache, &a->seq[d], &test_err));
        assert_ok(hd_seq_append(a->seq[d], len[d], &test_err));
        for (int p = 0; p < n_part; p++)
            hd_seq_paged(a->seq[d], p, &a->part[d * n_part + p]);
        for (int p = 0; p < n_part; p++)
            if (a->part[d * n_part + p].page) {
                for (int64_t i = 0; i * a->cache.page_tokens < len[d]; i++)
                    assert_ok(hd_tape_range(&a->tape, a->part[d * n_part + p].page[i], hd_calloc((size_t)a->cache.page_bytes, 1), (size_t)a->cache.page_bytes, false, &test_err));
                break;
            }
    }
    a->b = (struct hd_ragged){.n_tok = at, .n_seq = N_DOC, .ids = a->ids, .pos = a->pos, .span = a->span, .part = a->part, .n_part = (int)n_part, .max_pos = len[0]};
    open_step(a);
    a->r = hd_malloc((size_t)(at * a->g.n_vocab) * sizeof *a->r);
    hd_rng_seed(&rng, 7);
    for (int64_t i = 0; i < at * a->g.n_vocab; i++)
        a->r[i] = (float)((double)(hd_rng_next(&rng) >> 11) / 4503599627370496.0 - 1);
}

static void close_trial(struct trial *a)
{
    for (size_t i = 0; i < a->tape.n_range; i++)
        hd_free(a->tape.range[i].grad);
    for (int i = 0; i < a->n_weight; i++)
        hd_free(a->w[i].t->data);
    for (int d = 0; d < N_DOC; d++)
        hd_seq_free(a->seq[d]);
    hd_cache_release(&a->cache);
    hd_tape_release(&a->tape);
    hd_arena_release(&a->step);
    hd_engine_close(&a->e);
    golden_unload(&a->g);
    hd_free(a->part);
    hd_free(a->r);
}

/* Who was chosen: experts of every token, entries of every query. The loss is smooth only while that stays. */
static uint64_t choices(const struct trial *a)
{
    uint64_t sum = 14695981039346656037u;

    for (size_t i = 0; i < a->tape.n; i++) {
        const struct hd_call *c = &a->tape.entry[i].call;
        int64_t n = c->op == HD_OP_GATE ? hd_cols(c->out[0]) : c->op == HD_OP_INDEX ? hd_cols(c->out[0]) / 2 : 0;

        for (int64_t t = 0; n && t < hd_rows(c->out[0]); t++)
            for (int64_t k = 0; k < n; k++)
                sum = (sum ^ (uint64_t)(uint32_t)((const int32_t *)((const char *)c->out[0]->data + t * c->out[0]->row_bytes))[k]) * 1099511628211u;
    }
    return sum;
}

static double loss(struct trial *a, bool grad)
{
    struct hd_stream s;
    struct hd_tensor *logits;
    double sum = 0;

    hd_arena_reset(&a->step);
    hd_stream_init(&s, &a->e.backend, &a->step, HD_EXACT_F32);
    hd_tape_begin(&a->tape);
    if (grad)
        for (size_t i = 0; i < a->tape.n_range; i++)
            memset(a->tape.range[i].grad, 0, a->tape.range[i].n);
    s.tape = &a->tape;
    logits = a->e.model.arch->forward(&a->e.model, &s, &a->b, a->rows, a->b.n_tok);
    if (!hd_stream_ok(&s))
        fail_msg("forward: %s", s.err.msg);
    for (int64_t i = 0; i < hd_elems(logits); i++)
        sum += (double)((const float *)logits->data)[i] * (double)a->r[i];
    if (grad) {
        memcpy(hd_grad(&s, logits).data, a->r, (size_t)hd_elems(logits) * sizeof *a->r);
        hd_tape_backward(&s);
        for (size_t i = 0; i < a->n_step; i++)        /* every gradient was taken: the next step need not clear them */
            if (a->step_grad[i])
                fail_msg("a gradient of the step was left at byte %zu", i);
    }
    assert_ok(hd_stream_end(&s, &test_err));
    return sum;
}

/* ---- the same loss by the reference, in double ---- */

/* The checkpoint once more, all floats as f32, in a file that we and the reference have mapped: what we write there it reads. */
struct mirror {
    double *(*logits)(const struct ref *m, int64_t T, const int64_t *id);
    struct ref ref;
    char dir[512];
    float **at;                       /* of every weight of the trial */
    void *map;
    size_t n_map;
};

static const struct {
    const char *type;
    double *(*logits)(const struct ref *m, int64_t T, const int64_t *id);
} ref_families[] = {{"llama", ref_llama}, {"qwen2", ref_llama}, {"deepseek_v2", ref_latent}, {"deepseek_v3", ref_latent}, {"deepseek_v32", ref_latent}, {"deepseek_v4", ref_v4},
                    {"deepseek_v41", ref_v41}};

static void link_others(const struct mirror *m, const char *from)
{
    DIR *d = opendir(from);
    struct dirent *f;

    assert_non_null(d);
    while ((f = readdir(d))) {
        char old[1200], new[1200], abs[4096];

        if (f->d_name[0] == '.' || !strncmp(f->d_name, "model", 5))
            continue;
        snprintf(old, sizeof old, "%s/%s", from, f->d_name);
        snprintf(new, sizeof new, "%s/%s", m->dir, f->d_name);
        assert_non_null(realpath(old, abs));
        unlink(new);
        assert_int_equal(symlink(abs, new), 0);
    }
    closedir(d);
}

static void open_mirror(struct mirror *m, struct trial *a, const char *name)
{
    struct hd_st_writer w;
    char path[600];
    int fd;
    size_t head;
    struct stat st;
    const struct hd_store *store = &a->e.model.store;

    memset(m, 0, sizeof *m);
    for (int i = 0; i < HD_LEN(ref_families); i++)
        if (!strcmp(ref_families[i].type, a->e.model.arch->name))
            m->logits = ref_families[i].logits;
    if (!m->logits)
        return;
    snprintf(m->dir, sizeof m->dir, "%s", tmp_path(name));
    mkdir(m->dir, 0777);
    link_others(m, a->g.path);
    snprintf(path, sizeof path, "%s/model.safetensors", m->dir);
    hd_st_writer_init(&w);
    for (int i = 0; i < a->n_weight; i++)
        hd_st_writer_declare(&w, a->w[i].t->name, HD_F32, a->w[i].t->n_dim, a->w[i].t->dim);
    for (size_t i = 0; i < store->n_entry; i++)
        if (store->entry[i].type == HD_I64)
            hd_st_writer_declare(&w, store->entry[i].name.p, HD_I64, store->entry[i].n_dim, store->entry[i].dim);
    assert_ok(hd_st_writer_begin(&w, path, &test_err));
    for (int i = 0; i < a->n_weight; i++)
        hd_st_writer_data(&w, a->w[i].t->data, (size_t)hd_elems(a->w[i].t) * 4);
    for (size_t i = 0; i < store->n_entry; i++)
        if (store->entry[i].type == HD_I64)
            hd_st_writer_data(&w, store->entry[i].data, (size_t)store->entry[i].bytes);
    assert_ok(hd_st_writer_commit(&w, &test_err));
    fd = open(path, O_RDWR);
    assert_int_equal(fstat(fd, &st), 0);
    m->n_map = (size_t)st.st_size;
    m->map = mmap(NULL, m->n_map, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(m->map != MAP_FAILED);
    close(fd);
    memcpy(&head, m->map, 8);
    m->at = hd_malloc((size_t)a->n_weight * sizeof *m->at);
    for (int i = 0; i < a->n_weight; i++)
        m->at[i] = i ? m->at[i - 1] + hd_elems(a->w[i - 1].t) : (float *)((char *)m->map + 8 + head);
    ref_open(&m->ref, m->dir);
}

static void close_mirror(struct mirror *m)
{
    if (!m->logits)
        return;
    ref_close(&m->ref);
    munmap(m->map, m->n_map);
    hd_free(m->at);
}

static double mirror_loss(struct mirror *m, const struct trial *a)
{
    double sum = 0;

    for (int d = 0; d < N_DOC; d++) {
        int64_t id[512], n = a->span[d].n_tok, V = a->g.n_vocab;
        const double *l;

        for (int64_t i = 0; i < n; i++)
            id[i] = a->ids[a->span[d].tok0 + i];
        l = m->logits(&m->ref, n, id);
        for (int64_t i = 0; i < n * V; i++)
            sum += l[i] * (double)a->r[a->span[d].tok0 * V + i];
        release(0);
    }
    return sum;
}

static double mirror_slope(struct mirror *m, const struct trial *a, int which, const float *dir, double h)
{
    int64_t n = hd_elems(a->w[which].t);
    float *x = m->at[which], *old = hd_malloc((size_t)n * sizeof *old);
    double d[2], moved[2] = {0, 0};

    memcpy(old, x, (size_t)n * sizeof *old);
    for (int sign = 0; sign < 2; sign++) {
        for (int64_t i = 0; i < n; i++) {
            x[i] = old[i] + (float)((sign ? -h : h) * (double)dir[i]);
            moved[sign] += ((double)x[i] - (double)old[i]) * (double)dir[i];
        }
        d[sign] = mirror_loss(m, a);
    }
    memcpy(x, old, (size_t)n * sizeof *old);
    hd_free(old);
    return (d[0] - d[1]) / (moved[0] - moved[1]);
}

/* ---- */

/* The loss's slope when tensor w moves along dir (to +-h), by Richardson's rule; false where a choice changes on the way. */
static bool slope(struct trial *a, struct weight *w, const float *dir, double h, double *out)
{
    bool same = true;
    int64_t n = hd_elems(w->t);
    float *x = w->t->data, *old = hd_malloc((size_t)n * sizeof *old);
    double d[2];

    memcpy(old, x, (size_t)n * sizeof *old);
    for (int k = 0; k < 2; k++) {
        double side[2], moved[2] = {0, 0};

        for (int sign = 0; sign < 2; sign++) {
            for (int64_t i = 0; i < n; i++)
                x[i] = old[i] + (float)((sign ? -h : h) / (k + 1) * (double)dir[i]);
            for (int64_t i = 0; i < n; i++)           /* how far it went in f32, along dir */
                moved[sign] += ((double)x[i] - (double)old[i]) * (double)dir[i];
            side[sign] = loss(a, false);
            same &= choices(a) == a->chosen;
        }
        d[k] = (side[0] - side[1]) / (moved[0] - moved[1]);
    }
    memcpy(x, old, (size_t)n * sizeof *old);
    hd_free(old);
    *out = (4 * d[1] - d[0]) / 3;
    return same;
}

static double norm(const float *x, int64_t n)
{
    double s = 0;

    for (int64_t i = 0; i < n; i++)
        s += (double)x[i] * (double)x[i];
    return sqrt(s);
}

/* The first expert stands for the others. */
static bool one_of_many(const char *name)
{
    const char *e = strstr(name, "experts.");

    return e && e[8] != '0';
}

struct family {
    const char *name;
    double bound;
};

static void test_family(void **state)
{
    const struct family *f = *state;
    const char *name = f->name;
    struct trial *a = hd_malloc(sizeof *a);
    double worst = 0, top = 0;
    int n_flat = 0, n_seen = 0, n_edge = 0;
    float *dir;
    struct mirror mir;

    open_trial(a, name, strncmp(name, "hadal", 5) ? 24 : 40);
    open_mirror(&mir, a, name);

    loss(a, false);
    a->chosen = choices(a);
    loss(a, true);
    for (int i = 0; i < a->n_weight; i++)
        top = fmax(top, norm(a->w[i].grad, hd_elems(a->w[i].t)) * norm(a->w[i].t->data, hd_elems(a->w[i].t)));
    for (int i = 0; i < a->n_weight; i++) {
        struct weight *w = &a->w[i];
        int64_t n = hd_elems(w->t);
        double g = norm(w->grad, n), size = norm(w->t->data, n), got, err, h = 4e-3 * size;

        n_flat += g == 0;
        if (g * size < 3e-3 * top || one_of_many(w->t->name))      /* below f32's noise, or no gradient at all */
            continue;
        dir = hd_malloc((size_t)n * sizeof *dir);
        for (int64_t k = 0; k < n; k++)
            dir[k] = (float)((double)w->grad[k] / g);
        err = INFINITY;
        if (mir.logits)
            for (h = 2e-5 * size; h > 1e-8 * size && err > 1e-5; h /= 5)
                err = fmin(err, fabs((got = mirror_slope(&mir, a, i, dir, h)) - g) / g);
        else                                          /* long steps bend, short ones drown in f32's noise: the best of a few that leave all choices alone */
            for (; h > 1e-5 * size && err > 5e-4; h /= 3)
                if (slope(a, w, dir, h, &got))
                    err = fmin(err, fabs(got - g) / g);
        if (isinf(err)) {                             /* a choice on the edge: f32 has no room for a smaller step */
            n_edge++;
            hd_free(dir);
            continue;
        }
        worst = fmax(worst, err);
        n_seen++;
        if (!(err <= f->bound))
            print_error("%s %s: along its gradient %.6g; expected %.6g (%.2e)\n", name, w->t->name ? w->t->name : "?", g, got, err);
        hd_free(dir);
    }
    print_message("# %s: %d tensors moved, %d of %d without gradient, worst %.2e, %d on an edge\n", name, n_seen, n_flat, a->n_weight, worst, n_edge);
    assert_true(n_seen > 5);
    assert_true(worst <= f->bound);
    close_mirror(&mir);
    close_trial(a);
    hd_free(a);
}

/* Gradients' bits with one worker and with two. */
static void test_threads(void **state)
{
    static const char *const names[] = {"llama-a", "v32-a", "v41-f32-a", "hadal-b"};

    for (int k = 0; k < HD_LEN(names); k++) {
        uint64_t sum[2];

        for (int n = 0; n < 2; n++) {
            struct trial *a = hd_malloc(sizeof *a);

            n_worker = n + 1;
            open_trial(a, names[k], 40);
            loss(a, true);
            sum[n] = HD_HASH_INIT;
            for (int i = 0; i < a->n_weight; i++)
                sum[n] = hd_hash(sum[n], a->w[i].grad, (size_t)hd_elems(a->w[i].t) * 4);
            close_trial(a);
            hd_free(a);
        }
        assert_true(sum[0] == sum[1]);
    }
}

static struct family families[] = {
    {"llama-a", 2e-5}, {"qwen2-a", 2e-5}, {"v2-lite", 2e-5}, {"v3-a", 2e-5}, {"v32-a", 2e-5}, {"v4-f32-a", 2e-5}, {"v41-f32-a", 2e-5},
    {"hadal-a", 2e-3}, {"hadal-b", 4e-3}, {"hadal-c", 2e-3}, {"hadal-d", 2e-3}, {"hadal-e", 2e-3}, {"hadal-f", 2e-3},
};

int main(void)
{
    struct CMUnitTest test[HD_LEN(families) + 1] = {{"one worker and two", test_threads, NULL, NULL, NULL}};

    for (int i = 0; i < HD_LEN(families); i++)
        test[i + 1] = (struct CMUnitTest){families[i].name, test_family, NULL, NULL, &families[i]};
    return _cmocka_run_group_tests("grad", test, HD_LEN(families) + 1, NULL, NULL);
}
