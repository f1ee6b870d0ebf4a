/* optim.c: see optim.h. Tensors are walked in pieces of PIECE elements (tables: rows), whatever the number of workers. */
#pragma GCC optimize("O3")           /* loops over all weights, in vectors */
#include "train/optim.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

#define PIECE 16384

const struct hd_optim_hp hd_optim_default = {.muon = true, .muon_experts = true, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .momentum = 0.95, .ns_steps = 8,
                                             .ns_last = 2, .table_lr = 5, .clip = 1};

static int64_t pieces(const struct hd_param *p)
{
    return (p->n + PIECE - 1) / PIECE;
}

int hd_optim_init(struct hd_optim *o, const struct hd_optim_hp *hp, struct hd_params *ps, struct hd_pool *pool, const struct hd_backend *be, struct hd_err *err)
{
    memset(o, 0, sizeof *o);
    *o = (struct hd_optim){.hp = *hp, .ps = ps, .pool = pool, .be = be};
    hd_arena_init(&o->arena, 0);
    hd_tape_init(&o->tape);
    for (int i = 0; i < ps->n; i++)
        o->n_part += (size_t)pieces(&ps->p[i]);
    o->m = hd_pages_alloc(ps->n_float * sizeof(float));
    o->v = hd_pages_alloc(ps->n_float * sizeof(float));
    o->part = hd_calloc(o->n_part, sizeof *o->part);
    if (o->m && o->v && o->part)
        return HD_OK;
    hd_optim_release(o);
    return hd_err_set(err, HD_ERR_MEMORY, "no memory for the optimiser of %zu weights", ps->n_float);
}

void hd_optim_release(struct hd_optim *o)
{
    if (!o->ps)
        return;
    hd_pages_free(o->m, o->ps->n_float * sizeof(float));
    hd_pages_free(o->v, o->ps->n_float * sizeof(float));
    hd_free(o->part);
    hd_arena_release(&o->arena);
    hd_tape_release(&o->tape);
    memset(o, 0, sizeof *o);
}

static bool has_muon(const struct hd_optim_hp *hp, const char *name, enum hd_param_kind kind)
{
    return hp->muon && kind == HD_PARAM_MATRIX && (hp->muon_experts || !strstr(name, ".experts."));
}

struct bytes {
    const struct hd_optim_hp *hp;
    int64_t n, muon;
};

static void count(void *arg, const struct hd_tensor *t)
{
    struct bytes *b = arg;
    int64_t n = hd_elems(t), m = hd_rows(t) < hd_cols(t) ? hd_rows(t) : hd_cols(t);

    if (t->type == HD_I32 || t->type == HD_I64)
        return;
    b->n += 8 * n;
    if (has_muon(b->hp, t->name, hd_param_kind(t->name, t->n_dim)) && 4 * (4 * n + 3 * m * m) > b->muon)
        b->muon = 4 * (4 * n + 3 * m * m);
}

int64_t hd_optim_bytes(const struct hd_model *m, const struct hd_optim_hp *hp)
{
    struct bytes b = {.hp = hp};

    hd_params_each(m, count, &b);
    return b.n + b.muon;
}

/* ---- the norm ---- */

struct job {
    struct hd_optim *o;
    const struct hd_param *p;
    double *part;
    float *m, *v;
    float scale, lr, decay, b1, b2, eps, c1, c2;      /* c: corrections of the averages' begin */
};

static bool skips(const struct hd_param *p, int64_t i)
{
    return p->touched && !hd_param_touched(p, i / p->cols);
}

static void norm_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t k = begin; k < end; k++) {
        int64_t stop = (k + 1) * PIECE < j->p->n ? (k + 1) * PIECE : j->p->n, step;
        double sum[4] = {0};

        for (int64_t i = k * PIECE; i < stop; i += step) {
            step = j->p->touched ? j->p->cols - i % j->p->cols : stop - i;
            if (step > stop - i)
                step = stop - i;
            if (skips(j->p, i))
                continue;
            for (int64_t e = i; e < i + step; e++)
                sum[e % 4] += (double)j->p->grad[e] * (double)j->p->grad[e];
        }
        j->part[k] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

static bool learns(const struct hd_param *p)
{
    return p->kind != HD_PARAM_FROZEN && p->kind != HD_PARAM_BALANCE;
}

double hd_grad_norm(struct hd_optim *o, double scale)
{
    double sum = 0;

    for (int i = 0; i < o->ps->n; i++) {
        const struct hd_param *p = &o->ps->p[i];
        struct job j = {.o = o, .p = p, .part = o->part};
        double own = 0;

        if (!learns(p))
            continue;
        hd_pool_for(o->pool, pieces(p), 1, norm_range, &j);
        for (int64_t k = 0; k < pieces(p); k++)
            own += o->part[k];
        sum += own;
    }
    return sqrt(sum) * scale;
}

/* ---- AdamW ---- */

static void adam_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_param *p = j->p;

    for (int64_t k = begin; k < end; k++) {
        int64_t stop = (k + 1) * PIECE < p->n ? (k + 1) * PIECE : p->n, step;

        for (int64_t i = k * PIECE; i < stop; i += step) {
            step = p->touched ? p->cols - i % p->cols : stop - i;
            if (step > stop - i)
                step = stop - i;
            if (skips(p, i))
                continue;
            for (int64_t e = i; e < i + step; e++) {
                float g = p->grad[e] * j->scale;

                j->m[e] += (1 - j->b1) * (g - j->m[e]);
                j->v[e] += (1 - j->b2) * (g * g - j->v[e]);
                p->w[e] -= j->lr * (j->decay * p->w[e] + j->c1 * j->m[e] / (sqrtf(j->c2 * j->v[e]) + j->eps));
                p->grad[e] = 0;
            }
        }
    }
}

/* ---- Muon ---- */

static void momentum_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t e = begin * PIECE; e < end * PIECE && e < j->p->n; e++) {
        float g = j->p->grad[e] * j->scale;

        j->m[e] = j->b1 * j->m[e] + g;
        j->v[e] = g + j->b1 * j->m[e];                /* v here: the step to be orthogonalised */
        j->p->grad[e] = 0;
    }
}

static void apply_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t e = begin * PIECE; e < end * PIECE && e < j->p->n; e++)
        j->p->w[e] -= j->lr * (j->decay * j->p->w[e] + j->scale * j->v[e]);
}

/* ---- on the team: what Newton and Schulz need beside products ---- */

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

static void transpose(struct hd_optim *o, const float *x, int64_t m, int64_t n, float *out)
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
static void mix(struct hd_optim *o, float *y, float a, const float *x, float b, int64_t n)
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

int hd_orthogonalise(struct hd_optim *o, float *x, int64_t m, int64_t n, struct hd_err *err)
{
    bool tall = m > n;
    int64_t a = tall ? n : m, b = tall ? m : n;
    struct hd_stream s;
    struct hd_tensor *X, *Xt, *A, *A2, *Y;
    double sum = sum_of_squares(x, m * n);

    hd_arena_reset(&o->arena);
    hd_stream_init(&s, o->be, &o->arena, HD_EXACT_F32);
    hd_tape_begin(&o->tape);
    s.tape = &o->tape;
    X = hd_new(&s, HD_F32, a, b);
    Y = hd_new(&s, HD_F32, a, b);
    Xt = hd_new(&s, HD_F32, b, a);
    A = hd_new(&s, HD_F32, a, a);
    A2 = hd_new(&s, HD_F32, a, a);
    if (!hd_stream_ok(&s))
        return hd_stream_end(&s, err);
    if (tall)
        transpose(o, x, m, n, X->data);
    else
        memcpy(X->data, x, (size_t)(m * n) * sizeof *x);
    mix(o, X->data, 0, X->data, sum > 0 ? (float)(1 / sqrt(sum)) : 0, m * n);
    for (int k = 0; k < o->hp.ns_steps + o->hp.ns_last && hd_stream_ok(&s); k++) {
        float c[3];
        struct hd_tensor *t = X;

        coefficients(k >= o->hp.ns_steps, c);
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
        transpose(o, X->data, a, b, x);
    else
        memcpy(x, X->data, (size_t)(m * n) * sizeof *x);
    return hd_stream_end(&s, err);
}

/* ---- one update ---- */

static int muon(struct hd_optim *o, struct job *j, double lr, struct hd_err *err)
{
    const struct hd_param *p = j->p;

    j->b1 = (float)o->hp.momentum;
    hd_pool_for(o->pool, pieces(p), 1, momentum_range, j);
    HD_TRY(hd_orthogonalise(o, j->v, p->rows, p->cols, err));
    j->scale = (float)(0.18 * sqrt((double)(p->rows > p->cols ? p->rows : p->cols)));
    j->lr = (float)lr;
    hd_pool_for(o->pool, pieces(p), 1, apply_range, j);
    memset(j->v, 0, (size_t)p->n * sizeof *j->v);     /* so that a checkpoint holds nothing that does not count */
    return HD_OK;
}

int hd_optim_step(struct hd_optim *o, double lr, double scale, struct hd_err *err)
{
    o->step++;
    for (int i = 0; i < o->ps->n; i++) {
        struct hd_param *p = &o->ps->p[i];
        bool decays = p->kind == HD_PARAM_MATRIX || p->kind == HD_PARAM_EMBED;
        double b1 = o->hp.beta1, b2 = o->hp.beta2;
        struct job j = {.o = o, .p = p, .scale = (float)scale, .decay = decays ? (float)o->hp.decay : 0};

        if (!learns(p))
            continue;             /* its w may lie elsewhere */
        j.m = o->m + (p->w - o->ps->w);
        j.v = o->v + (p->w - o->ps->w);
        if (has_muon(&o->hp, p->name, p->kind)) {
            HD_TRY(muon(o, &j, lr, err));
            continue;
        }
        j.lr = (float)(p->kind == HD_PARAM_TABLE ? lr * o->hp.table_lr : lr);
        j.b1 = (float)b1;
        j.b2 = (float)b2;
        j.eps = (float)o->hp.eps;
        j.c1 = (float)(1 / (1 - pow(b1, (double)o->step)));
        j.c2 = (float)(1 / (1 - pow(b2, (double)o->step)));
        hd_pool_for(o->pool, pieces(p), 1, adam_range, &j);
        if (p->touched)
            memset(p->touched, 0, (size_t)p->rows / 8 + 1);
    }
    return HD_OK;
}
