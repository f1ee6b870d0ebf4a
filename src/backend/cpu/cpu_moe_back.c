/* cpu_moe_back.c: gradients of the gate's weights (the choice itself has none) and of the experts.
 *
 * Experts one by one, ascending, each with its slots' tokens as matrices: gate and up are multiplied again, because the forward pass
 * wrote its activation over them. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

#define MAX_EXPERT 4096

struct gate_job {
    const struct hd_call *c;
    const struct hd_tensor *dw;
    struct hd_tensor dlogits;
};

/* score and its slope at x. */
static float score_of(enum hd_gate_fn fn, float x, float *slope)
{
    float sg = 1 / (1 + expf(-x)), y;

    if (fn == HD_GATE_SIGMOID) {
        *slope = sg * (1 - sg);
        return sg;
    }
    y = sqrtf(x > 20 ? x : log1pf(expf(x)));
    *slope = sg / (2 * y);
    return y;
}

static void gate_range(void *arg, int64_t begin, int64_t end)
{
    const struct gate_job *j = arg;
    const struct hd_call *c = j->c;
    int64_t n = c->i[0], k = c->i[1];
    float score[MAX_EXPERT], slope[MAX_EXPERT], ds[MAX_EXPERT];

    for (int64_t t = begin; t < end; t++) {
        const float *x = hd_cpu_row(c->in[0], t), *dw = hd_cpu_row(j->dw, t);
        const int32_t *idx = (const int32_t *)hd_cpu_row(c->out[0], t);
        float *d = hd_cpu_row(&j->dlogits, t), top = x[0], sum = 0, along = 0;

        if (c->i[4] == HD_GATE_SOFTMAX) {
            for (int64_t e = 1; e < n; e++)
                top = fmaxf(top, x[e]);
            for (int64_t e = 0; e < n; e++)
                sum += score[e] = expf(x[e] / c->f[2] - top / c->f[2]);
            for (int64_t e = 0; e < n; e++)
                score[e] /= sum;
        } else {
            for (int64_t e = 0; e < n; e++)
                score[e] = score_of((enum hd_gate_fn)c->i[4], x[e] / c->f[2], &slope[e]);
        }
        sum = c->f[0];
        for (int64_t i = 0; i < k; i++) {
            sum += score[idx[i]];
            along += dw[i] * score[idx[i]];
        }
        memset(ds, 0, (size_t)n * sizeof *ds);
        for (int64_t i = 0; i < k; i++)
            ds[idx[i]] += c->f[1] * (c->i[5] ? (dw[i] - along / sum) / sum : dw[i]);
        if (c->i[4] == HD_GATE_SOFTMAX) {
            along = 0;
            for (int64_t e = 0; e < n; e++)
                along += ds[e] * score[e];
            for (int64_t e = 0; e < n; e++)
                d[e] += score[e] * (ds[e] - along) / c->f[2];
        } else {
            for (int64_t i = 0; i < k; i++) {
                d[idx[i]] += ds[idx[i]] * slope[idx[i]] / c->f[2];
                ds[idx[i]] = 0;                       /* a table may name an expert twice */
            }
        }
    }
}

HD_CPU_BACK(gate)
{
    struct gate_job j = {c, dout[1], hd_grad(s, c->in[0])};

    if (j.dlogits.data)
        hd_cpu_rows(self, c->batch->n_tok, 16 * c->i[0], gate_range, &j);
}

/* ---- the experts ---- */

enum { X, IDX, WEIGHT, ORDER, XS };

struct job {
    const struct hd_call *c;
    const struct hd_tensor *dout;
    const int32_t *tok, *of;
    int64_t s0;                       /* the expert's first slot */
    struct hd_tensor h, u, dy, da, act;       /* of its slots; da: the activation's gradient; h becomes dh, u du */
    struct hd_tensor dweight;
};

static int64_t choice_of(const struct job *j, int64_t slot)
{
    int64_t t = j->tok[slot], k = hd_cols(j->c->list[IDX]);

    for (int64_t i = 0; i < k; i++)
        if (j->of[t * k + i] == slot)
            return i;
    HD_ASSERT(!"slot without a token");
    return 0;
}

static void gather_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t i = begin; i < end; i++)
        memcpy(hd_cpu_row(&j->dy, i), hd_cpu_row(j->dout, j->tok[j->s0 + i]), (size_t)hd_cols(&j->dy) * sizeof(float));
}

/* From raw h and u and da = dy Wd (without the routing weight): act times weight, dh (in h), du (in u), the weight's own gradient. */
static void act_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t f = hd_cols(&j->h);

    for (int64_t i = begin; i < end; i++) {
        float *h = hd_cpu_row(&j->h, i), *u = hd_cpu_row(&j->u, i), *act = hd_cpu_row(&j->act, i);
        int64_t choice = choice_of(j, j->s0 + i), t = j->tok[j->s0 + i];
        float w = hd_cpu_row(j->c->list[WEIGHT], t)[choice];

        hd_k.silu_bwd(f, h, u, hd_cpu_row(&j->da, i), j->c->f[0], act, h, u);
        if (j->dweight.data)
            hd_cpu_row(&j->dweight, t)[choice] += hd_k.dot_f32(f, act, hd_cpu_row(&j->da, i));
        hd_k.scale(f, w, act);
        hd_k.scale(f, w, h);
        hd_k.scale(f, w, u);
    }
}

static bool make(struct hd_stream *s, struct hd_tensor *t, int64_t rows, int64_t cols)
{
    *t = hd_view2(HD_F32, hd_tape_scratch(s, rows, cols), rows, cols);
    return t->data != NULL;
}

static void expert(void *self, struct hd_stream *s, struct job *j, int64_t e, int64_t n)
{
    const struct hd_call *c = j->c;
    const struct hd_tensor *gate = &c->in[2][e], *up = &c->in[3][e], *down = &c->in[4][e];
    struct hd_tensor xs = hd_cpu_rows_of(c->list[XS], j->s0, n), dx = hd_grad(s, c->list[X]), dg = hd_grad_place(s, gate), du = hd_grad_place(s, up), dd = hd_grad_place(s, down), dxs;
    int64_t d = hd_cols(&xs), f = hd_rows(gate);

    if (!make(s, &j->h, n, f) || !make(s, &j->u, n, f) || !make(s, &j->dy, n, d) || !make(s, &j->da, n, f) || !make(s, &j->act, n, f) || !make(s, &dxs, n, d))
        return;
    hd_cpu_product(self, s, &j->h, &xs, gate, 0);
    hd_cpu_product(self, s, &j->u, &xs, up, 0);
    hd_cpu_rows(self, n, d, gather_range, j);
    memset(j->da.data, 0, (size_t)(n * f) * sizeof(float));
    hd_cpu_back_x(self, s, &j->da, &j->dy, down, 0);
    hd_cpu_rows(self, n, 8 * f, act_range, j);
    hd_cpu_back_w(self, s, &dd, &j->dy, &j->act);
    hd_cpu_back_w(self, s, &dg, &j->h, &xs);
    hd_cpu_back_w(self, s, &du, &j->u, &xs);
    if (!dx.data)
        return;
    memset(dxs.data, 0, (size_t)(n * d) * sizeof(float));
    hd_cpu_back_x(self, s, &dxs, &j->h, gate, 0);
    hd_cpu_back_x(self, s, &dxs, &j->u, up, 0);
    for (int64_t i = 0; i < n && hd_stream_ok(s); i++) {
        float *to = hd_cpu_row(&dx, j->tok[j->s0 + i]);

        hd_k.add(d, to, hd_cpu_row(&dxs, i), to);
    }
}

HD_CPU_BACK(moe)
{
    const struct hd_tensor *const *l = c->list;
    const int32_t *first = (const int32_t *)hd_cpu_row(l[ORDER], 0);
    struct job j = {.c = c, .dout = dout[0], .tok = (const int32_t *)hd_cpu_row(l[ORDER], 1), .of = (const int32_t *)hd_cpu_row(l[ORDER], 2), .dweight = hd_grad(s, l[WEIGHT])};

    for (int64_t e = 0; hd_rows(l[XS]) && e < c->i[0]; e++) {
        j.s0 = first[e];
        if (first[e + 1] > first[e]) {
            struct hd_arena_mark mark = hd_arena_mark(&s->tape->scratch);

            expert(self, s, &j, e, first[e + 1] - first[e]);
            hd_arena_rewind(&s->tape->scratch, mark);
        }
    }
}
