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

/* Muon's matrices go through Newton-Schulz whole, or every head's rows of a query projection for themselves. */
static int64_t heads_of(const struct hd_optim *o, const struct hd_param *p)
{
    return o->hp.muon_heads && p->heads > 1 ? p->heads : 1;
}

int hd_optim_init(struct hd_optim *o, const struct hd_optim_hp *hp, struct hd_params *ps, struct hd_pool *pool, const struct hd_backend *be, struct hd_err *err)
{
    size_t n_matrix = 1;

    *o = (struct hd_optim){.hp = *hp, .ps = ps, .pool = pool};
    HD_TRY(hd_newton_schulz_init(&o->ns, pool, be, hp->ns_steps, hp->ns_last, err));
    for (int i = 0; i < ps->n; i++) {
        o->n_part += (size_t)pieces(&ps->p[i]);
        n_matrix += (size_t)heads_of(o, &ps->p[i]);
    }
    o->matrix = hd_calloc(n_matrix, sizeof *o->matrix);
    o->m = hd_pages_alloc(ps->n_float * sizeof(float));
    o->v = hd_pages_alloc(ps->n_float * sizeof(float));
    o->part = hd_calloc(o->n_part, sizeof *o->part);
    if (o->m && o->v && o->part && o->matrix)
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
    hd_free(o->matrix);
    hd_newton_schulz_release(&o->ns);
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
    return b.n + 3 * b.muon;              /* the team's, and small ones side by side */
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

/* Eight sums side by side. */
static void add_squares(double sum[8], int64_t n, const float *x)
{
    double s[8];
    int64_t i = 0;

    memcpy(s, sum, sizeof s);
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            s[k] += (double)x[i + k] * (double)x[i + k];
    for (; i < n; i++)
        s[i % 8] += (double)x[i] * (double)x[i];
    memcpy(sum, s, sizeof s);
}

static void norm_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t k = begin; k < end; k++) {
        int64_t stop = (k + 1) * PIECE < j->p->n ? (k + 1) * PIECE : j->p->n, step;
        double sum[8] = {0};

        for (int64_t i = k * PIECE; i < stop; i += step) {
            step = j->p->touched ? j->p->cols - i % j->p->cols : stop - i;
            if (step > stop - i)
                step = stop - i;
            if (!skips(j->p, i))
                add_squares(sum, step, j->p->grad + i);
        }
        j->part[k] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
    }
}

double hd_grad_norm(struct hd_optim *o, double scale)
{
    double sum = 0;

    for (int i = 0; i < o->ps->n; i++) {
        const struct hd_param *p = &o->ps->p[i];
        struct job j = {.o = o, .p = p, .part = o->part};
        double own = 0;

        if (!hd_param_learns(p))
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
            }
            if (p->touched)
                memset(p->grad + i, 0, (size_t)step * sizeof *p->grad);
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
    }
}

static void apply_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t e = begin * PIECE; e < end * PIECE && e < j->p->n; e++) {
        j->p->w[e] -= j->lr * (j->decay * j->p->w[e] + j->scale * j->v[e]);
        j->v[e] = 0;
    }
}

/* ---- one update ---- */

static struct job job_of(struct hd_optim *o, const struct hd_param *p, double scale)
{
    bool decays = p->kind == HD_PARAM_MATRIX || p->kind == HD_PARAM_EMBED;

    return (struct job){.o = o, .p = p, .m = o->m + (p->w - o->ps->w), .v = o->v + (p->w - o->ps->w), .scale = (float)scale, .decay = decays ? (float)o->hp.decay : 0};
}

static void adam(struct hd_optim *o, struct hd_param *p, double lr, double scale)
{
    struct job j = job_of(o, p, scale);

    j.lr = (float)(p->kind == HD_PARAM_TABLE ? lr * o->hp.table_lr : lr);
    j.b1 = (float)o->hp.beta1;
    j.b2 = (float)o->hp.beta2;
    j.eps = (float)o->hp.eps;
    j.c1 = (float)(1 / (1 - pow(o->hp.beta1, (double)o->step)));
    j.c2 = (float)(1 / (1 - pow(o->hp.beta2, (double)o->step)));
    hd_pool_for(o->pool, pieces(p), 1, adam_range, &j);
    if (p->touched)
        memset(p->touched, 0, (size_t)p->rows / 8 + 1);
}

static void momentum(struct hd_optim *o, const struct hd_param *p, double scale)
{
    struct job j = job_of(o, p, scale);

    j.b1 = (float)o->hp.momentum;
    hd_pool_for(o->pool, pieces(p), 1, momentum_range, &j);
}

/* v, orthogonal now, as a step; v becomes zero, so that a checkpoint holds nothing that does not count. */
static void apply(struct hd_optim *o, const struct hd_param *p, double lr)
{
    struct job j = job_of(o, p, 0);
    int64_t rows = p->rows / heads_of(o, p);

    j.scale = (float)(0.18 * sqrt((double)(rows > p->cols ? rows : p->cols)));
    j.lr = (float)lr;
    hd_pool_for(o->pool, pieces(p), 1, apply_range, &j);
}

int hd_optim_step(struct hd_optim *o, double lr, double scale, struct hd_err *err)
{
    int64_t n = 0;

    o->step++;
    for (int i = 0; i < o->ps->n; i++) {
        struct hd_param *p = &o->ps->p[i];

        if (!hd_param_learns(p))
            continue;             /* its w may lie elsewhere */
        if (!has_muon(&o->hp, p->name, p->kind)) {
            adam(o, p, lr, scale);
            continue;
        }
        momentum(o, p, scale);
        for (int64_t h = 0, rows = p->rows / heads_of(o, p); h < heads_of(o, p); h++)
            o->matrix[n++] = (struct hd_ns_matrix){o->v + (p->w - o->ps->w) + h * rows * p->cols, rows, p->cols};
    }
    HD_TRY(hd_newton_schulz(&o->ns, o->matrix, n, err));
    for (int i = 0; i < o->ps->n; i++)
        if (hd_param_learns(&o->ps->p[i]) && has_muon(&o->hp, o->ps->p[i].name, o->ps->p[i].kind))
            apply(o, &o->ps->p[i], lr);
    return HD_OK;
}
