/* cpu_attend_back.c: gradients of attention over a window and selected entries, and of pooling. Probabilities are computed again from queries and keys: nothing of the
 * forward pass is kept. (Grouped-query attention: cpu_attend_gqa.c.)
 *
 * With p = softmax(scale q k), out = sum p v: dp = dout v, ds = p (dp - sum p dp) scale, dq = sum ds k, dk += ds q, dv += p dout. Rows are
 * shared by tokens, so their sums must not depend on the team: one row serves all heads, so tokens come in rounds: a pass by token finds p and ds, in a second
 * every row's owner adds them to it, tokens ascending. */
#pragma GCC optimize("O3")            /* loops over columns, in vectors */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

struct job {
    struct hd_stream *s;
    const struct hd_call *c;
    const struct hd_tensor *dout;
    struct hd_tensor dq;
};

/* ---- a window and selected entries ---- */

#define ROUND 32                      /* tokens whose p and ds are kept at once */

struct sel_job {
    struct job j;
    struct hd_tensor dkv;
    int64_t t0, n_tok, places, n_block;               /* of the round; places: the most a token looks at, in blocks of HD_ROWS_MAX */
    float (*p)[HD_ROWS_MAX], (*ds)[HD_ROWS_MAX];      /* [ROUND, n_block, n_head] */
    const float **row;                /* [ROUND, places] */
    float **drow;
    int64_t *n_row;                   /* [ROUND] */
    float *dsink;                     /* [ROUND, n_head] */
    int64_t n_task;
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

/* p and ds of a head of token k, block by block: ds is dp before. */
static void sel_softmax(const struct sel_job *a, int64_t k, int64_t h)
{
    const struct hd_call *c = a->j.c;
    int64_t n_head = c->i[2], first = k * a->n_block * n_head + h, n = a->n_row[k];
    float top = -INFINITY, sum = 0, sink = 0, along = 0;

    for (int64_t i = 0; i < n; i++)
        top = fmaxf(top, a->p[first + i / HD_ROWS_MAX * n_head][i % HD_ROWS_MAX]);
    for (int64_t i = 0; i < n; i += HD_ROWS_MAX)
        sum += hd_k.exp_sum(n - i < HD_ROWS_MAX ? n - i : HD_ROWS_MAX, a->p[first + i / HD_ROWS_MAX * n_head], top);
    if (c->in[3])
        sum += sink = expf(((const float *)c->in[3]->data)[h] - top);
    for (int64_t i = 0; i < n; i += HD_ROWS_MAX) {
        float *p = a->p[first + i / HD_ROWS_MAX * n_head], *ds = a->ds[first + i / HD_ROWS_MAX * n_head];
        int64_t m = n - i < HD_ROWS_MAX ? n - i : HD_ROWS_MAX;

        hd_k.scale(m, 1 / sum, p);
        along += hd_k.dot_f32(m, p, ds);
    }
    a->dsink[k * n_head + h] = -sink / sum * along;
    for (int64_t i = 0; i < n; i += HD_ROWS_MAX) {
        float *p = a->p[first + i / HD_ROWS_MAX * n_head], *ds = a->ds[first + i / HD_ROWS_MAX * n_head];

        for (int64_t e = 0; e < HD_ROWS_MAX && i + e < n; e++)
            ds[e] = c->f[0] * p[e] * (ds[e] - along);
    }
}

static void sel_token_range(void *arg, int64_t begin, int64_t end)
{
    const struct sel_job *a = arg;
    const struct hd_call *c = a->j.c;
    int64_t n_head = c->i[2], dim = c->i[3], vdim = c->i[8], seq = 0;

    for (int64_t k = begin; k < end; k++) {
        int64_t t = a->t0 + k, n, at = k * a->n_block * n_head;
        const float **row = a->row + k * a->places;

        hd_cpu_span(c->batch, t, &seq);
        n = a->n_row[k] = look(a, t, seq, row, a->drow + k * a->places);
        for (int64_t i = 0; i < n; i += HD_ROWS_MAX) {
            int64_t m = n - i < HD_ROWS_MAX ? n - i : HD_ROWS_MAX, block = at + i / HD_ROWS_MAX * n_head;

            hd_k.rows_dot(dim, m, (const void *const *)row + i, false, c->f[0], hd_cpu_row(c->in[0], t), n_head, a->p + block);
            hd_k.rows_dot(vdim, m, (const void *const *)row + i, false, 1, hd_cpu_row(a->j.dout, t), n_head, a->ds + block);
        }
        for (int64_t h = 0; h < n_head; h++)
            sel_softmax(a, k, h);
        for (int64_t i = 0; i < n && a->j.dq.data; i += HD_ROWS_MAX)
            hd_k.rows_mix(dim, n - i < HD_ROWS_MAX ? n - i : HD_ROWS_MAX, (const void *const *)row + i, false, (const float (*)[HD_ROWS_MAX])(a->ds + at + i / HD_ROWS_MAX * n_head), n_head,
                          hd_cpu_row(&a->j.dq, t));
    }
}

#define RUN 16                        /* neighbouring rows that one task owns */

/* m gradient rows from g on, places i .. of token k: += sum_h ds q, += sum_h p dout, heads ascending. */
static void sel_add(const struct sel_job *a, int64_t k, int64_t i, int64_t m, float *g)
{
    const struct hd_call *c = a->j.c;
    int64_t n_head = c->i[2], dim = c->i[3], vdim = c->i[8];

    for (int pass = 0; pass < 2; pass++) {
        const float *x = pass ? hd_cpu_row(a->j.dout, a->t0 + k) : hd_cpu_row(c->in[0], a->t0 + k);
        float (*from)[HD_ROWS_MAX] = (pass ? a->p : a->ds) + k * a->n_block * n_head;
        int64_t d = pass ? vdim : dim;

        for (int64_t h0 = 0; h0 < n_head; h0 += HD_ROWS_MAX) {
            int64_t n = n_head - h0 < HD_ROWS_MAX ? n_head - h0 : HD_ROWS_MAX;
            float share[RUN][HD_ROWS_MAX];
            const void *head[HD_ROWS_MAX];

            for (int64_t h = 0; h < n; h++) {
                head[h] = x + (h0 + h) * d;
                for (int64_t r = 0; r < m; r++)
                    share[r][h] = from[(i + r) / HD_ROWS_MAX * n_head + h0 + h][(i + r) % HD_ROWS_MAX];
            }
            if (d == dim)
                hd_k.rows_mix(d, n, head, false, (const float (*)[HD_ROWS_MAX])share, m, g);
            for (int64_t r = 0; r < m && d != dim; r++)
                hd_k.rows_mix(d, n, head, false, (const float (*)[HD_ROWS_MAX])share + r, 1, g + r * dim);
        }
    }
}

/* A row of gradients belongs to one task, and there its tokens come in order: no bit depends on how many tasks there are. */
static void sel_rows(void *arg, int64_t begin, int64_t end)
{
    const struct sel_job *a = arg;
    int64_t dim = a->j.c->i[3];

    for (int64_t k = 0; k < a->n_tok; k++) {
        float *const *g = a->drow + k * a->places;

        for (int64_t i = 0, m; i < a->n_row[k]; i += m) {
            int64_t run = (int64_t)((uintptr_t)g[i] / ((uintptr_t)dim * sizeof(float))) / RUN, task = run % a->n_task;

            for (m = 1; m < RUN && i + m < a->n_row[k] && g[i] && g[i + m] == g[i] + m * dim && (int64_t)((uintptr_t)g[i + m] / ((uintptr_t)dim * sizeof(float))) / RUN == run;)
                m++;
            if (g[i] && task >= begin && task < end)
                sel_add(a, k, i, m, g[i]);
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
    a.n_block = (a.places + HD_ROWS_MAX - 1) / HD_ROWS_MAX;
    a.n_task = hd_pool_threads(cpu->pool) > 1 ? 4 * hd_pool_threads(cpu->pool) : 1;
    a.p = (void *)hd_tape_scratch(s, ROUND * n_head * a.n_block, HD_ROWS_MAX);
    a.ds = (void *)hd_tape_scratch(s, ROUND * n_head * a.n_block, HD_ROWS_MAX);
    a.dsink = hd_tape_scratch(s, ROUND, n_head);
    a.row = (void *)hd_tape_scratch(s, 2 * ROUND, a.places);
    a.drow = (void *)hd_tape_scratch(s, 2 * ROUND, a.places);
    a.n_row = (void *)hd_tape_scratch(s, 2, ROUND);
    for (a.t0 = 0; hd_stream_ok(s) && a.t0 < b->n_tok; a.t0 += ROUND) {
        a.n_tok = b->n_tok - a.t0 < ROUND ? b->n_tok - a.t0 : ROUND;
        hd_pool_for(cpu->pool, a.n_tok, 1, sel_token_range, &a);
        hd_pool_for(cpu->pool, a.n_task, 1, sel_rows, &a);
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
        hd_pool_for(cpu->pool, hd_cols(&j.dg), hd_cpu_grain(cpu, hd_cols(&j.dg)), ape_cols, &j);
}
