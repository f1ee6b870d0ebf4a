/* newton_schulz.c: see newton_schulz.h. */
#pragma GCC optimize("O3")           /* loops over all elements, in vectors */
#include "train/newton_schulz.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "ops/ops.h"
#include "ops/tape.h"

#define PIECE 16384

/* Where a matrix is worked on: a team, or one worker with a team of itself. */
struct place {
    struct hd_pool *pool;
    const struct hd_backend *be;
    struct hd_arena arena;
    struct hd_tape tape;              /* a stream with a tape multiplies at training's speed; nothing goes back */
    /* of one worker */
    struct hd_backend own;
    atomic_bool taken;
    struct hd_err err;
};

struct hd_newton_schulz_places {
    struct place team, *alone;
    int n_alone;
};

/* ---- beside products ---- */

struct mat_job {
    const float *x;
    float *y;
    int64_t m, n;
    float a, b;
};

#define STRIP 16                      /* rows of a transposition that share cache lines of the result */

static void transpose_range(void *arg, int64_t begin, int64_t end)
{
    const struct mat_job *j = arg;

    for (int64_t i = begin * STRIP; i < end * STRIP && i < j->m; i += STRIP)
        for (int64_t k = 0; k < j->n; k++)
            for (int64_t r = i; r < j->m && r < i + STRIP; r++)
                j->y[k * j->m + r] = j->x[r * j->n + k];
}

static void transpose(struct place *o, const float *x, int64_t m, int64_t n, float *out)
{
    struct mat_job j = {.x = x, .y = out, .m = m, .n = n};

    hd_pool_for(o->pool, (m + STRIP - 1) / STRIP, 1, transpose_range, &j);
}

static void mix_range(void *arg, int64_t begin, int64_t end)
{
    const struct mat_job *j = arg;

    for (int64_t i = begin * PIECE; i < end * PIECE && i < j->n; i++)
        j->y[i] = j->a * j->x[i] + j->b * j->y[i];
}

/* y = a x + b y */
static void mix(struct place *o, float *y, float a, const float *x, float b, int64_t n)
{
    struct mat_job j = {.x = x, .y = y, .n = n, .a = a, .b = b};

    hd_pool_for(o->pool, (n + PIECE - 1) / PIECE, 1, mix_range, &j);
}

static double sum_of_squares(const float *x, int64_t n)
{
    double sum[4] = {0};

    for (int64_t i = 0; i < n; i++)
        sum[i % 4] += (double)x[i] * (double)x[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* x -> c0 x + c1 x^3 + c2 x^5 for every singular value: first steps that lift small ones fast, last steps that settle all of them at 1. */
static void coefficients(bool settle, float c[3])
{
    static const float lift[3] = {3.4445f, -4.7750f, 2.0315f}, last[3] = {2, -1.5f, 0.5f};

    memcpy(c, settle ? last : lift, 3 * sizeof *c);
}

static int orthogonalise(struct place *o, const struct hd_newton_schulz *ns, const struct hd_ns_matrix *in, struct hd_err *err)
{
    int64_t m = in->m, n = in->n;
    bool tall = m > n;
    int64_t a = tall ? n : m, b = tall ? m : n;
    struct hd_stream s;
    struct hd_tensor *X, *Xt, *A, *A2, *Y;
    double sum = sum_of_squares(in->x, m * n);

    hd_arena_reset(&o->arena);
    hd_stream_init(&s, o->be, &o->arena, HD_EXACT_F32);
    hd_tape_begin(&o->tape);
    o->tape.bf16 = ns->bf16;
    s.tape = &o->tape;
    X = hd_new(&s, HD_F32, a, b);
    Y = hd_new(&s, HD_F32, a, b);
    Xt = hd_new(&s, HD_F32, b, a);
    A = hd_new(&s, HD_F32, a, a);
    A2 = hd_new(&s, HD_F32, a, a);
    if (!hd_stream_ok(&s))
        return hd_stream_end(&s, err);
    if (tall)
        transpose(o, in->x, m, n, X->data);
    else
        memcpy(X->data, in->x, (size_t)(m * n) * sizeof(float));
    mix(o, X->data, 0, X->data, sum > 0 ? (float)(1 / sqrt(sum)) : 0, m * n);
    for (int k = 0; k < ns->n_lift + ns->n_settle && hd_stream_ok(&s); k++) {
        float c[3];
        struct hd_tensor *t = X;

        coefficients(k >= ns->n_lift, c);
        transpose(o, X->data, a, b, Xt->data);
        hd_matmul(&s, A, X, X);                       /* X X^T; symmetric, as is its square */
        hd_matmul(&s, A2, A, A);
        mix(o, A2->data, c[1], A->data, c[2], a * a);    /* b A + c A^2 */
        hd_matmul(&s, Y, A2, Xt);
        mix(o, Y->data, c[0], X->data, 1, a * b);
        X = Y;
        Y = t;
    }
    if (tall)
        transpose(o, X->data, a, b, in->x);
    else
        memcpy(in->x, X->data, (size_t)(m * n) * sizeof(float));
    return hd_stream_end(&s, err);
}

/* ---- places ---- */

static void open_place(struct place *o, struct hd_pool *pool, const struct hd_backend *be)
{
    o->pool = pool;
    o->be = be;
    hd_arena_init(&o->arena, 0);
    hd_tape_init(&o->tape);
}

int hd_newton_schulz_init(struct hd_newton_schulz *ns, struct hd_pool *pool, const struct hd_backend *be, int n_lift, int n_settle, struct hd_err *err)
{
    *ns = (struct hd_newton_schulz){.n_lift = n_lift, .n_settle = n_settle, .places = hd_calloc(1, sizeof *ns->places)};
    if (!ns->places)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for Newton-Schulz");
    open_place(&ns->places->team, pool, be);
    return HD_OK;
}

void hd_newton_schulz_release(struct hd_newton_schulz *ns)
{
    struct hd_newton_schulz_places *p = ns->places;

    if (!p)
        return;
    for (int i = 0; i < p->n_alone; i++) {
        hd_arena_release(&p->alone[i].arena);
        hd_tape_release(&p->alone[i].tape);
        hd_backend_cpu_free(&p->alone[i].own);
        hd_pool_free(p->alone[i].pool);
    }
    hd_free(p->alone);
    hd_arena_release(&p->team.arena);
    hd_tape_release(&p->team.tape);
    hd_free(p);
    ns->places = NULL;
}

/* A place for every worker, when matrices are first done side by side. */
static int open_alone(struct hd_newton_schulz_places *p, struct hd_err *err)
{
    int n = hd_pool_threads(p->team.pool);

    if (!p->alone && !(p->alone = hd_calloc((size_t)n, sizeof *p->alone)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for Newton-Schulz on %d workers", n);
    for (; p->n_alone < n; p->n_alone++) {
        struct place *o = &p->alone[p->n_alone];
        struct hd_pool *pool;
        int rc;

        HD_TRY(hd_pool_create(&pool, 1, err));
        rc = hd_backend_cpu_create(&o->own, pool, err);
        if (rc < 0) {
            hd_pool_free(pool);
            return rc;
        }
        open_place(o, pool, &o->own);
    }
    return HD_OK;
}

/* ---- all matrices of an update ---- */

struct side_job {
    struct hd_newton_schulz *ns;
    const struct hd_ns_matrix *const *x;
};

static void side_range(void *arg, int64_t begin, int64_t end)
{
    const struct side_job *j = arg;
    struct hd_newton_schulz_places *p = j->ns->places;
    int k = 0;

    while (atomic_exchange(&p->alone[k].taken, true))
        k = (k + 1) % p->n_alone;                     /* as many places as workers: one is free */
    for (int64_t i = begin; i < end && p->alone[k].err.code == HD_OK; i++)
        orthogonalise(&p->alone[k], j->ns, j->x[i], &p->alone[k].err);
    atomic_store(&p->alone[k].taken, false);
}

static double work_of(const struct hd_ns_matrix *x)
{
    return (double)x->m * (double)x->n * (double)(x->m < x->n ? x->m : x->n);
}

/* The small ones (no more than a quarter of a worker's share each), on a worker each. */
static int side_by_side(struct hd_newton_schulz *ns, const struct hd_ns_matrix **x, int64_t n, struct hd_err *err)
{
    struct hd_newton_schulz_places *p = ns->places;

    HD_TRY(open_alone(p, err));
    for (int i = 0; i < p->n_alone; i++)
        p->alone[i].err = (struct hd_err){0};
    hd_pool_for(p->team.pool, n, 1, side_range, &(struct side_job){ns, x});
    for (int i = 0; i < p->n_alone; i++)
        if (p->alone[i].err.code != HD_OK) {
            *err = p->alone[i].err;
            return err->code;
        }
    return HD_OK;
}

int hd_newton_schulz(struct hd_newton_schulz *ns, const struct hd_ns_matrix *x, int64_t n, struct hd_err *err)
{
    const struct hd_ns_matrix **small;
    double all = 0;
    int64_t n_small = 0;
    int workers, rc = HD_OK;

    if (!n)
        return HD_OK;
    workers = hd_pool_threads(ns->places->team.pool);
    if (!(small = hd_calloc((size_t)n, sizeof *small)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a list of %lld matrices", (long long)n);
    for (int64_t i = 0; i < n; i++)
        all += work_of(&x[i]);
    for (int64_t i = 0; i < n && rc == HD_OK; i++)
        if (workers > 1 && 4 * workers * work_of(&x[i]) <= all)
            small[n_small++] = &x[i];
        else
            rc = orthogonalise(&ns->places->team, ns, &x[i], err);
    if (rc == HD_OK && n_small)
        rc = side_by_side(ns, small, n_small, err);
    hd_free(small);
    return rc;
}
