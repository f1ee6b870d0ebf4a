/* cpu_attend_back.c: gradients of attention. Probabilities are computed again from queries and keys: nothing of the forward pass is kept.
 *
 * With p = softmax(scale q k), out = sum p v: dp = dout v, ds = p (dp - sum p dp) scale, dq = sum ds k, dk += ds q, dv += p dout. Rows are
 * shared by tokens, so their sums must not depend on the team: a task is a whole sequence and key/value head (attend), or (attend_sel, one
 * row for all heads) tokens come in rounds: a pass by token finds p and ds, a second by column adds them to the rows, tokens ascending. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

struct job {
    struct hd_stream *s;
    const struct hd_call *c;
    const struct hd_tensor *dout;
    struct hd_tensor dq;
    float *p;                         /* scratch of every task: p and dp of a token */
    const float **row;                /* likewise: keys, values and their gradients by position */
    int64_t per_task;                 /* the longest sequence */
};

/* ---- grouped-query attention ---- */

/* Where a task's rows are: looked up once, read by every later position. */
struct rows {
    const float **k, **v;
    float **dk, **dv;
};

static struct rows find_rows(const struct job *j, int64_t task)
{
    const struct hd_call *c = j->c;
    const struct hd_ragged *b = c->batch;
    int64_t seq = task / c->i[2], skip = task % c->i[2] * c->i[3], most = j->per_task;
    const struct hd_paged *pk = &b->part[seq * b->n_part + c->i[0]], *pv = &b->part[seq * b->n_part + c->i[1]];
    const float **at = j->row + task * 4 * most;
    struct rows r = {at, at + most, (float **)(at + 2 * most), (float **)(at + 3 * most)};

    for (int64_t i = 0; i < b->span[seq].n_tok; i++) {
        r.k[i] = (const float *)hd_paged_row(pk, i) + skip;
        r.v[i] = (const float *)hd_paged_row(pv, i) + skip;
        r.dk[i] = hd_grad_at(j->s, r.k[i]);
        r.dv[i] = hd_grad_at(j->s, r.v[i]);
    }
    return r;
}

static void attend_token(const struct job *j, const struct rows *r, int64_t t, int64_t kv_head, float *p)
{
    const struct hd_call *c = j->c;
    const struct hd_ragged *b = c->batch;
    int64_t dim = c->i[3], window = c->i[4], pos = b->pos[t], lo = window > 0 && pos + 1 > window ? pos + 1 - window : 0, n = pos + 1 - lo;
    int64_t group = hd_cols(c->in[0]) / (c->i[2] * dim);
    float *dp = p + j->per_task;

    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
        const float *q = hd_cpu_row(c->in[0], t) + h * dim, *d = hd_cpu_row(j->dout, t) + h * dim;
        float top = -INFINITY, sum, along = 0;

        for (int64_t i = 0; i < n; i++) {
            p[i] = c->f[0] * hd_k.dot_f32(dim, q, r->k[lo + i]);
            dp[i] = hd_k.dot_f32(dim, d, r->v[lo + i]);
            top = fmaxf(top, p[i]);
        }
        sum = hd_k.exp_sum(n, p, top);
        hd_k.scale(n, 1 / sum, p);
        for (int64_t i = 0; i < n; i++)
            along += p[i] * dp[i];
        for (int64_t i = 0; i < n; i++) {
            float ds = c->f[0] * p[i] * (dp[i] - along);

            if (j->dq.data)
                hd_k.axpy_f32(dim, ds, r->k[lo + i], hd_cpu_row(&j->dq, t) + h * dim);
            if (r->dk[lo + i])
                hd_k.axpy_f32(dim, ds, q, r->dk[lo + i]);
            if (r->dv[lo + i])
                hd_k.axpy_f32(dim, p[i], d, r->dv[lo + i]);
        }
    }
}

static void attend_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_ragged *b = j->c->batch;

    for (int64_t i = begin; i < end; i++) {
        const struct hd_span *sp = &b->span[i / j->c->i[2]];
        struct rows r = find_rows(j, i);

        for (int64_t t = sp->tok0; t < sp->tok0 + sp->n_tok; t++)
            attend_token(j, &r, t, i % j->c->i[2], j->p + i * 2 * j->per_task);
    }
}

HD_CPU_BACK(attend)
{
    struct hd_cpu *cpu = self;
    const struct hd_ragged *b = c->batch;
    struct job j = {s, c, dout[0], hd_grad(s, c->in[0]), NULL, NULL, 0};

    for (int64_t i = 0; i < b->n_seq; i++) {
        HD_ASSERT(b->span[i].pos0 == 0);
        j.per_task = b->span[i].n_tok > j.per_task ? b->span[i].n_tok : j.per_task;
    }
    j.p = hd_tape_scratch(s, b->n_seq * c->i[2], 2 * j.per_task);
    j.row = (void *)hd_tape_scratch(s, b->n_seq * c->i[2], 8 * j.per_task);
    if (hd_stream_ok(s))
        hd_pool_for(cpu->pool, b->n_seq * c->i[2], 1, attend_range, &j);
}

/* ---- a window and selected entries ---- */

#define ROUND 32                      /* tokens whose p and ds are kept at once */

struct sel_job {
    struct job j;
    struct hd_tensor dkv;
    int64_t t0, n_tok, places;        /* of the round; places: the most a token looks at */
    float *p, *ds;                    /* [ROUND, n_head, places] */
    const float **row;                /* [ROUND, places] */
    float **drow;
    int64_t *n_row;                   /* [ROUND] */
    float *dsink;                     /* [ROUND, n_head] */
};

/* What token t looks at, as the forward pass walks it, and where those rows' gradients are. */
static int64_t look(const struct sel_job *a, int64_t t, int64_t seq, const float **row, float **drow)
{
    const struct hd_call *c = a->j.c;
    const struct hd_ragged *b = c->batch;
    const struct hd_span *sp = &b->span[seq];
    int64_t pos = b->pos[t], lo = pos + 1 > c->i[4] ? pos + 1 - c->i[4] : 0, n = 0, len;

    for (int64_t p = lo; p <= pos; p++, n++) {
        row[n] = hd_cpu_row(c->in[1], sp->tok0 + p);
        drow[n] = a->dkv.data ? hd_cpu_row(&a->dkv, sp->tok0 + p) : NULL;
    }
    if (c->i[1] < 0)
        return n;
    const struct hd_paged *entry = &b->part[seq * b->n_part + c->i[1]];
    const int32_t *sel = c->in[2] ? (const int32_t *)hd_cpu_row(c->in[2], t) : NULL;

    HD_ASSERT(!entry->pack && entry->type == HD_F32);
    len = (pos + 1) / c->i[5];
    if (sel && c->i[7] < len)
        len = c->i[7];
    for (int64_t i = 0; i < len; i++) {
        int64_t g = sel ? sel[i] : i;

        if (g < 0)
            continue;
        row[n] = hd_paged_row(entry, g);
        drow[n] = hd_grad_at(a->j.s, row[n]);
        n++;
    }
    return n;
}

static void sel_token_range(void *arg, int64_t begin, int64_t end)
{
    const struct sel_job *a = arg;
    const struct hd_call *c = a->j.c;
    int64_t n_head = c->i[2], dim = c->i[3], vdim = c->i[8], seq = 0;

    for (int64_t k = begin; k < end; k++) {
        int64_t t = a->t0 + k, n;
        const float **row = a->row + k * a->places;

        hd_cpu_span(c->batch, t, &seq);
        n = a->n_row[k] = look(a, t, seq, row, a->drow + k * a->places);
        for (int64_t h = 0; h < n_head; h++) {
            const float *q = hd_cpu_row(c->in[0], t) + h * dim, *d = hd_cpu_row(a->j.dout, t) + h * vdim;
            float *p = a->p + (k * n_head + h) * a->places, *ds = a->ds + (k * n_head + h) * a->places, top = -INFINITY, sink = 0, sum, along = 0;

            for (int64_t i = 0; i < n; i++) {
                p[i] = c->f[0] * hd_k.dot_f32(dim, q, row[i]);
                ds[i] = hd_k.dot_f32(vdim, d, row[i]);
                top = fmaxf(top, p[i]);
            }
            sum = hd_k.exp_sum(n, p, top);
            if (c->in[3])
                sum += sink = expf(((const float *)c->in[3]->data)[h] - top);
            hd_k.scale(n, 1 / sum, p);
            for (int64_t i = 0; i < n; i++)
                along += p[i] * ds[i];
            a->dsink[k * n_head + h] = -sink / sum * along;
            for (int64_t i = 0; i < n; i++) {
                ds[i] = c->f[0] * p[i] * (ds[i] - along);
                if (a->j.dq.data)
                    hd_k.axpy_f32(dim, ds[i], row[i], hd_cpu_row(&a->j.dq, t) + h * dim);
            }
        }
    }
}

static void sel_cols(void *arg, int64_t begin, int64_t end)
{
    const struct sel_job *a = arg;
    const struct hd_call *c = a->j.c;
    int64_t n_head = c->i[2], dim = c->i[3], vdim = c->i[8];

    for (int64_t k = 0; k < a->n_tok; k++)
        for (int64_t h = 0; h < n_head; h++) {
            const float *q = hd_cpu_row(c->in[0], a->t0 + k) + h * dim, *d = hd_cpu_row(a->j.dout, a->t0 + k) + h * vdim;
            const float *p = a->p + (k * n_head + h) * a->places, *ds = a->ds + (k * n_head + h) * a->places;

            for (int64_t i = 0; i < a->n_row[k]; i++) {
                float *g = a->drow[k * a->places + i];

                if (!g)
                    continue;
                hd_k.axpy_f32(end - begin, ds[i], q + begin, g + begin);
                if (begin < vdim)
                    hd_k.axpy_f32((end < vdim ? end : vdim) - begin, p[i], d + begin, g + begin);
            }
        }
}

HD_CPU_BACK(attend_sel)
{
    struct hd_cpu *cpu = self;
    const struct hd_ragged *b = c->batch;
    struct sel_job a = {.j = {.s = s, .c = c, .dout = dout[0], .dq = hd_grad(s, c->in[0])}};
    struct hd_tensor dsink = {0};
    int64_t longest = 0, n_head = c->i[2];

    if (c->in[1])
        a.dkv = hd_grad(s, c->in[1]);
    if (c->in[3])
        dsink = hd_grad(s, c->in[3]);
    for (int64_t i = 0; i < b->n_seq; i++) {
        HD_ASSERT(b->span[i].pos0 == 0);
        longest = b->span[i].n_tok > longest ? b->span[i].n_tok : longest;
    }
    a.places = (c->i[4] < longest ? c->i[4] : longest) + (c->i[1] < 0 ? 0 : c->in[2] && c->i[7] < longest / c->i[5] ? c->i[7] : longest / c->i[5]);
    a.p = hd_tape_scratch(s, ROUND * n_head, a.places);
    a.ds = hd_tape_scratch(s, ROUND * n_head, a.places);
    a.dsink = hd_tape_scratch(s, ROUND, n_head);
    a.row = (void *)hd_tape_scratch(s, 2 * ROUND, a.places);
    a.drow = (void *)hd_tape_scratch(s, 2 * ROUND, a.places);
    a.n_row = (void *)hd_tape_scratch(s, 2, ROUND);
    for (a.t0 = 0; hd_stream_ok(s) && a.t0 < b->n_tok; a.t0 += ROUND) {
        a.n_tok = b->n_tok - a.t0 < ROUND ? b->n_tok - a.t0 : ROUND;
        hd_pool_for(cpu->pool, a.n_tok, 1, sel_token_range, &a);
        hd_pool_for(cpu->pool, c->i[3], 16, sel_cols, &a);
        for (int64_t k = 0; dsink.data && k < a.n_tok; k++)
            hd_k.add(n_head, dsink.data, a.dsink + k * n_head, dsink.data);
    }
}

/* ---- pooling ---- */

struct pool_job {
    const struct hd_call *c;
    const struct hd_tensor *de, *dg_in;
    struct hd_tensor dz, dg, dape;
};

/* Every row of z and g serves one entry only, column by column: entries do not meet. */
static void pool_entry(const struct pool_job *j, int64_t e, const struct hd_span *sp, int64_t group)
{
    const struct hd_call *c = j->c;
    int64_t ratio = c->i[1], n = hd_cols(c->out[0]), lanes = c->i[2] ? 2 : 1;
    const float *d = hd_cpu_row(j->de, e);

    for (int64_t i = 0; i < n; i++) {
        float top = -INFINITY, sum = 0, mean = 0;

        for (int pass = 0; pass < 3; pass++)
            for (int64_t lane = 0; lane < lanes; lane++) {
                int64_t first = (group - (lanes - 1 - lane)) * ratio, at = (lanes == 2 ? lane * n : 0) + i;

                for (int64_t p = first; p < first + ratio && first >= 0; p++) {
                    float z = hd_cpu_row(c->out[1], sp->tok0 + p)[at], g = hd_cpu_row(c->out[2], sp->tok0 + p)[at], w;

                    if (c->in[0])
                        g += hd_cpu_row(c->in[0], p % ratio)[at];
                    if (pass == 0) {
                        top = fmaxf(top, g);
                        continue;
                    }
                    w = expf(g - top);
                    if (pass == 1) {
                        sum += w;
                        mean += w * z;
                        continue;
                    }
                    hd_cpu_row(&j->dz, sp->tok0 + p)[at] += d[i] * w / sum;
                    hd_cpu_row(&j->dg, sp->tok0 + p)[at] += d[i] * w / sum * (z - mean / sum);
                }
            }
    }
}

static void pool_range(void *arg, int64_t begin, int64_t end)
{
    const struct pool_job *j = arg;
    const struct hd_ragged *b = j->c->batch;
    int64_t seq = 0, base = 0;

    for (int64_t e = begin; e < end; e++) {
        while (e >= base + b->span[seq].n_tok / j->c->i[1])
            base += b->span[seq++].n_tok / j->c->i[1];
        pool_entry(j, e, &b->span[seq], e - base);
    }
}

static void ape_cols(void *arg, int64_t begin, int64_t end)
{
    const struct pool_job *j = arg;

    for (int64_t t = 0; t < j->c->batch->n_tok; t++) {
        float *d = hd_cpu_row(&j->dape, j->c->batch->pos[t] % j->c->i[1]);

        hd_k.add(end - begin, d + begin, hd_cpu_row(&j->dg, t) + begin, d + begin);
    }
}

HD_CPU_BACK(pool)
{
    struct hd_cpu *cpu = self;
    struct pool_job j = {.c = c, .de = dout[0], .dz = hd_grad(s, c->out[1]), .dg = hd_grad(s, c->out[2])};

    for (int64_t i = 0; i < c->batch->n_seq; i++)
        HD_ASSERT(c->batch->span[i].pos0 == 0);
    hd_cpu_add_to(self, &j.dz, dout[1]);
    hd_cpu_add_to(self, &j.dg, dout[2]);
    if (hd_rows(c->out[0]))                           /* no group may be complete: dout[0] is NULL then */
        hd_pool_for(cpu->pool, hd_rows(c->out[0]), 1, pool_range, &j);
    if (c->in[0] && (j.dape = hd_grad(s, c->in[0])).data)
        hd_pool_for(cpu->pool, hd_cols(&j.dg), 16, ape_cols, &j);
}
