/* cpu_vec_back.c: gradients of row ops. */
#pragma GCC optimize("O3")            /* loops over columns, in vectors */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

struct job {
    const struct hd_call *c;
    const struct hd_tensor *dout;
    struct hd_tensor d[3];            /* gradients of inputs, data NULL where there are none */
};

/* Sums over tokens are cut by column: whole columns a task, tokens ascending. */
static void by_column(void *self, int64_t cols, int64_t rows, hd_range_fn fn, void *arg)
{
    struct hd_cpu *cpu = self;

    if (cols * rows <= HD_CPU_SMALL)
        fn(arg, 0, cols);
    else
        hd_pool_for(cpu->pool, cols, hd_cpu_grain(cpu, cols), fn, arg);
}

static void embed_cols(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t t = 0; t < hd_rows(j->dout); t++) {
        float *dw = hd_cpu_row(&j->d[0], j->c->batch->ids[t]);

        hd_k.add(end - begin, dw + begin, hd_cpu_row(j->dout, t) + begin, dw + begin);
    }
}

HD_CPU_BACK(embed)
{
    struct job j = {c, dout[0], {hd_grad(s, c->in[0])}};

    if (j.d[0].data)
        by_column(self, hd_cols(dout[0]), hd_rows(dout[0]), embed_cols, &j);
}

HD_CPU_BACK(gather)
{
    struct hd_tensor dx = hd_grad(s, c->in[0]);

    for (int64_t i = 0; dx.data && i < hd_rows(dout[0]); i++) {
        float *d = hd_cpu_row(&dx, c->rows[i]);

        hd_k.add(hd_cols(&dx), d, hd_cpu_row(dout[0], i), d);
    }
}

/* y = x r w, r = (mean x^2 + eps)^-1/2: dx = r (d w) - x r^3 mean(d w x). w NULL: ones. */
static void norm_row(int64_t n, const float *x, const float *w, float eps, const float *d, float *dx)
{
    double ss = hd_cpu_squares(n, x), along = 0, sum[8] = {0}, r;
    int64_t k = 0;
    float a, b;

    for (; k + 8 <= n; k += 8)
        for (int i = 0; i < 8; i++)
            sum[i] += (double)(w ? d[k + i] * w[k + i] : d[k + i]) * (double)x[k + i];
    for (; k < n; k++)
        along += (double)(w ? d[k] * w[k] : d[k]) * (double)x[k];
    for (int i = 0; i < 8; i++)
        along += sum[i];
    r = 1 / sqrt(ss / (double)n + (double)eps);
    a = (float)r;
    b = (float)(r * r * r * along / (double)n);
    for (int64_t i = 0; i < n; i++)
        dx[i] += a * (w ? d[i] * w[i] : d[i]) - b * x[i];
}

static void rmsnorm_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n = hd_elems(j->c->in[1]);

    for (int64_t t = begin; t < end; t++)
        for (int64_t i = 0; i < hd_cols(j->dout); i += n)
            norm_row(n, hd_cpu_row(j->c->in[0], t) + i, j->c->in[1]->data, j->c->f[0], hd_cpu_row(j->dout, t) + i, hd_cpu_row(&j->d[0], t) + i);
}

/* d[2][T, heads] holds every norm's r. */
static void rmsnorm_scale_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n = hd_elems(j->c->in[1]);

    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < hd_cols(&j->d[2]); h++) {
            const float *x = hd_cpu_row(j->c->in[0], t) + h * n;

            hd_cpu_row(&j->d[2], t)[h] = (float)(1 / sqrt(hd_cpu_squares(n, x) / (double)n + (double)j->c->f[0]));
        }
}

static void rmsnorm_cols(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n = hd_elems(j->c->in[1]);
    float *dw = j->d[1].data;

    for (int64_t t = 0; t < hd_rows(j->dout); t++)
        for (int64_t h = 0; h < hd_cols(&j->d[2]); h++) {
            const float *x = hd_cpu_row(j->c->in[0], t) + h * n, *d = hd_cpu_row(j->dout, t) + h * n;
            float r = hd_cpu_row(&j->d[2], t)[h];

            for (int64_t i = begin; i < end; i++)
                dw[i] += d[i] * x[i] * r;
        }
}

HD_CPU_BACK(rmsnorm)
{
    int64_t rows = hd_rows(dout[0]), heads = hd_cols(dout[0]) / hd_elems(c->in[1]);
    struct job j = {c, dout[0], {hd_grad(s, c->in[0]), hd_grad(s, c->in[1]), hd_view2(HD_F32, hd_tape_scratch(s, rows, heads), rows, heads)}};

    if (j.d[1].data && j.d[2].data) {                 /* before dx: x may lie where dx's own out did, its values are still whole */
        hd_cpu_rows(self, rows, hd_cols(dout[0]), rmsnorm_scale_range, &j);
        by_column(self, hd_elems(c->in[1]), rows * heads, rmsnorm_cols, &j);
    }
    if (j.d[0].data)
        hd_cpu_rows(self, rows, 4 * hd_cols(dout[0]), rmsnorm_range, &j);
}

static void head_norm_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n = j->c->i[0];

    for (int64_t t = begin; t < end; t++)
        for (int64_t i = 0; i < hd_cols(j->dout); i += n)
            norm_row(n, hd_cpu_row(j->c->out[0], t) + i, NULL, j->c->f[0], hd_cpu_row(j->dout, t) + i, hd_cpu_row(&j->d[0], t) + i);
}

HD_CPU_BACK(head_norm)
{
    struct job j = {c, dout[0], {hd_grad(s, c->out[0])}};

    hd_cpu_rows(self, hd_rows(dout[0]), 4 * hd_cols(dout[0]), head_norm_range, &j);
}

static void row_cols(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    float *db = j->d[0].data;

    for (int64_t t = 0; t < hd_rows(j->dout); t++)
        hd_k.add(end - begin, db + begin, hd_cpu_row(j->dout, t) + begin, db + begin);
}

/* What was added to goes on as it is. */
static void pass(void *self, struct hd_stream *s, const struct hd_tensor *x, const struct hd_tensor *d)
{
    struct hd_tensor dx = hd_grad(s, x);

    if (dx.data)
        hd_cpu_add_to(self, &dx, d);
}

HD_CPU_BACK(add_row)
{
    struct job j = {c, dout[0], {hd_grad(s, c->in[0])}};

    if (j.d[0].data)
        by_column(self, hd_cols(dout[0]), hd_rows(dout[0]), row_cols, &j);
    pass(self, s, c->out[0], dout[0]);
}

HD_CPU_BACK(add)
{
    if (hd_grad(s, c->in[0]).data != dout[0]->data)   /* x += y: it is there already */
        pass(self, s, c->in[0], dout[0]);
    pass(self, s, c->in[1], dout[0]);
}

HD_CPU_BACK(simulate)
{
    pass(self, s, c->out[0], dout[0]);                /* straight through the rounding */
}

HD_CPU_BACK(scale)
{
    for (int64_t t = 0; t < hd_rows(dout[0]); t++)
        hd_k.scale(hd_cols(dout[0]), c->f[0], hd_cpu_row(dout[0], t));
    pass(self, s, c->out[0], dout[0]);
}

#define PIECE 512                     /* columns at a time */

static void silu_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n = hd_cols(j->dout);

    /* the forward op cut gate and up off where they lie: at the limit nothing passes */
    for (int64_t t = begin; t < end; t++)
        for (int64_t i = 0; i < n; i += PIECE) {
            int64_t m = n - i < PIECE ? n - i : PIECE;
            float act[PIECE], dg[PIECE], du[PIECE];

            hd_k.silu_bwd(m, hd_cpu_row(j->c->in[0], t) + i, hd_cpu_row(j->c->in[1], t) + i, hd_cpu_row(j->dout, t) + i, j->c->f[0], act, dg, du);
            if (j->d[0].data)
                hd_k.add(m, hd_cpu_row(&j->d[0], t) + i, dg, hd_cpu_row(&j->d[0], t) + i);
            if (j->d[1].data)
                hd_k.add(m, hd_cpu_row(&j->d[1], t) + i, du, hd_cpu_row(&j->d[1], t) + i);
        }
}

HD_CPU_BACK(silu_mul)
{
    struct job j = {c, dout[0], {hd_grad(s, c->in[0]), hd_grad(s, c->in[1])}};

    hd_cpu_rows(self, hd_rows(dout[0]), 8 * hd_cols(dout[0]), silu_range, &j);
}

/* The transpose of a rotation: the other way round. */
HD_CPU_BACK(rope)
{
    struct hd_call back = *c;
    struct hd_tensor d = *dout[0];

    back.out[0] = &d;
    back.i[3] = !c->i[3];
    hd_cpu_rope(self, s, &back);
    pass(self, s, c->out[0], &d);
}

HD_CPU_BACK(hadamard)
{
    struct hd_call back = *c;
    struct hd_tensor d = *dout[0];

    back.out[0] = &d;                                 /* symmetric */
    hd_cpu_hadamard(self, s, &back);
    pass(self, s, c->out[0], &d);
}

static void copies_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n = hd_cols(&j->d[0]);

    for (int64_t t = begin; t < end; t++)
        for (int64_t i = 0; i < hd_cols(j->dout); i += n)
            hd_k.add(n, hd_cpu_row(&j->d[0], t), hd_cpu_row(j->dout, t) + i, hd_cpu_row(&j->d[0], t));
}

HD_CPU_BACK(copies)
{
    struct job j = {c, dout[0], {hd_grad(s, c->in[0])}};

    if (j.d[0].data)
        hd_cpu_rows(self, hd_rows(dout[0]), hd_cols(dout[0]), copies_range, &j);
}

HD_CPU_BACK(kv_put)
{
    const struct hd_ragged *b = c->batch;
    struct hd_tensor dx = hd_grad(s, c->in[0]);
    int64_t seq = 0;

    for (int64_t t = 0; dx.data && t < b->n_tok; t++) {
        const struct hd_paged *p;
        const float *d;

        hd_cpu_span(b, t, &seq);
        p = &b->part[seq * b->n_part + c->i[0]];
        HD_ASSERT(!p->pack && p->type == HD_F32);
        if ((d = hd_grad_at(s, hd_paged_row(p, b->pos[t] / p->ratio))))
            hd_k.add(hd_cols(&dx), hd_cpu_row(&dx, t), d, hd_cpu_row(&dx, t));
    }
}
