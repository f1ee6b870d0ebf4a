/* cpu_xent.c: cross-entropy fused with the head (drafts: and their Markov head): rounds of rows of logits, as many as the caller gave room for.
 *
 * With p = softmax(x w^T): loss = -log p[target], dlogits = (p - [target]) dloss; with a teacher's chances q of some ids and its share a, (1 - a) [target] + a q
 * stands for [target]; z = log(sum of exp(logits))^2, dlogits = 2 log(sum) p dz. Where one round takes all rows, what the
 * forward pass made of the logits (exp(logit - the row's largest), and each row's sum) is what the way back begins with; otherwise each round is computed again, since the logits of all
 * tokens of a long batch would not even fit into memory beside a model with a large vocabulary. On the way back some columns at a time become gradients and meet weights and
 * activations while they are in cache. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"
#include "ops/learn.h"

#define COLS 4096                     /* of logits, at a time on the way back */

enum { SUM, LOG };                    /* of a row: the sum of exp(logit - the largest), the logarithm of the sum of exp(logit) */

struct job {
    const int32_t *target;
    struct hd_tensor logits, sums;    /* of the round; sums[n, 2] */
    const struct hd_tensor *out, *z;  /* its losses; NULL on the way back. z: where there is a z-loss */
    const struct hd_tensor *dout, *dz;                /* gradients of its losses */
    int64_t col0, n_col;              /* that become gradients */
    struct hd_tensor soft_id, soft_p; /* [tokens, n_soft] of the round */
    int64_t n_soft;                   /* 0: there is no teacher */
    float share;                      /* the teacher's */
};

/* The logits that the loss wants high, in their shares; of the columns that become gradients, d times those shares are taken off. */
static float wanted(const struct job *j, int64_t t, float *l, float d)
{
    const int32_t *id = j->n_soft ? (const int32_t *)((const char *)j->soft_id.data + t * j->soft_id.row_bytes) : NULL;
    const float *p = j->n_soft ? hd_cpu_row(&j->soft_p, t) : NULL;
    float sum = 0;

    for (int64_t i = -1; i < j->n_soft; i++) {        /* the target, then the teacher's */
        int64_t at = i < 0 ? j->target[t] : id[i];
        float share = i >= 0 ? j->share * p[i] : j->n_soft ? 1 - j->share : 1;

        sum += share * l[at];
        if (at >= j->col0 && at < j->col0 + j->n_col)
            l[at] -= share * d;
    }
    return sum;
}

static void exp_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n = hd_cols(&j->logits);

    for (int64_t t = begin; t < end; t++) {
        float *l = hd_cpu_row(&j->logits, t), *sums = hd_cpu_row(&j->sums, t), top = hd_k.largest(n, l);
        int32_t target = j->target[t];
        float own = target < 0 ? 0 : wanted(j, t, l, 0);
        double z;

        sums[SUM] = hd_k.exp_sum(n, l, top);
        z = log((double)sums[SUM]) + (double)top;
        sums[LOG] = (float)z;
        if (j->out)
            *hd_cpu_row(j->out, t) = target < 0 ? 0 : (float)(z - (double)own);
        if (j->z)
            *hd_cpu_row(j->z, t) = target < 0 ? 0 : (float)(z * z);
    }
}

/* Some columns of exponentials become gradients of logits. */
static void slope_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t t = begin; t < end; t++) {
        float *l = hd_cpu_row(&j->logits, t), *sums = hd_cpu_row(&j->sums, t), d, p;
        int32_t target = j->target[t];

        p = d = target < 0 ? 0 : *hd_cpu_row(j->dout, t);
        if (j->dz && target >= 0)
            p += 2 * sums[LOG] * *hd_cpu_row(j->dz, t);
        hd_k.scale(j->n_col, p / sums[SUM], l + j->col0);
        if (target >= 0)
            wanted(j, t, l, d);
    }
}

static void product(void *self, struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w)
{
    if (s->tape)
        hd_cpu_product(self, s, out, x, w, 0);
    else
        hd_cpu_matmul(self, s, &(struct hd_call){.op = HD_OP_MATMUL, .n_out = 1, .out = {out}, .in = {x, NULL, w}});
}

/* Tokens t0 .., as many as fit. A row of the room: logits, in whole cache lines, and a line for its sums. */
static void begin_round(const struct hd_call *c, int64_t t0, struct job *j, struct hd_tensor *x)
{
    int64_t n = hd_rows(c->in[2]), left = hd_rows(c->in[0]) - t0;
    struct hd_tensor room = hd_cpu_rows_of(c->in[2], 0, left < n ? left : n);

    j->logits = hd_cpu_cols(&room, 0, hd_rows(c->in[1]));
    j->sums = hd_cpu_cols(&room, hd_cols(&room) - HD_XENT_SUMS, 2);
    j->target = c->rows + t0;
    j->share = c->f[0];
    if (c->in[5]) {
        j->n_soft = hd_cols(c->in[5]);
        j->soft_id = hd_cpu_rows_of(c->in[5], t0, hd_rows(&room));
        j->soft_p = hd_cpu_rows_of(c->in[6], t0, hd_rows(&room));
    }
    *x = hd_cpu_rows_of(c->in[0], t0, hd_rows(&room));
}

/* Logits of a round; with a second product (drafts: only on a tape) added. */
static void logits_of(void *self, struct hd_stream *s, const struct hd_call *c, int64_t t0, struct job *j, const struct hd_tensor *x)
{
    product(self, s, &j->logits, x, c->in[1]);
    if (c->in[3]) {
        struct hd_arena_mark mark = hd_arena_mark(&s->tape->scratch);
        struct hd_tensor x2 = hd_cpu_rows_of(c->in[3], t0, hd_rows(x)), more = hd_view2(HD_F32, hd_tape_scratch(s, hd_rows(x), hd_cols(&j->logits)), hd_rows(x), hd_cols(&j->logits));

        if (hd_stream_ok(s)) {
            product(self, s, &more, &x2, c->in[4]);
            hd_cpu_add_to(self, &j->logits, &more);
        }
        hd_arena_rewind(&s->tape->scratch, mark);
    }
}

void hd_cpu_xent(void *self, struct hd_stream *s, const struct hd_call *c)
{
    for (int64_t t0 = 0; t0 < hd_rows(c->in[0]); t0 += hd_rows(c->in[2])) {
        struct job j = {.out = NULL};
        struct hd_tensor x, out, z;

        begin_round(c, t0, &j, &x);
        logits_of(self, s, c, t0, &j, &x);
        hd_profile_lap(s->profile, "head", 2 * (double)hd_elems(&j.logits) * (double)hd_cols(&x));
        out = hd_cpu_rows_of(c->out[0], t0, hd_rows(&x));
        j.out = &out;
        if (c->out[1]) {
            z = hd_cpu_rows_of(c->out[1], t0, hd_rows(&x));
            j.z = &z;
        }
        hd_cpu_rows(self, hd_rows(&x), 4 * hd_cols(&j.logits), exp_range, &j);
    }
}

/* What a round's columns give to x and w. back_w: w learns, dw its rows that belong to these columns. */
static void give(void *self, struct hd_stream *s, const struct job *j, const struct hd_tensor *x, const struct hd_tensor *dx, const struct hd_tensor *w, const struct hd_tensor *dw)
{
    struct hd_tensor d = hd_cpu_cols(&j->logits, j->col0, j->n_col), rows;

    if (dx->data)
        hd_cpu_back_x(self, s, dx, &d, w, j->col0);
    if (dw->data) {
        rows = hd_cpu_rows_of(dw, j->col0, j->n_col);
        hd_cpu_back_w(self, s, &rows, &d, x);
    }
}

static struct hd_tensor rows_if(const struct hd_tensor *x, int64_t row0, int64_t n)
{
    return x->data ? hd_cpu_rows_of(x, row0, n) : *x;
}

HD_CPU_BACK(xent)
{
    struct hd_tensor none = {0}, dx = hd_grad(s, c->in[0]), dw = c->i[0] ? none : hd_grad_place(s, c->in[1]), dx2 = none, dw2 = none;
    bool kept = hd_rows(c->in[2]) >= hd_rows(c->in[0]);

    if (c->in[3]) {
        dx2 = hd_grad(s, c->in[3]);
        dw2 = hd_grad_place(s, c->in[4]);
    }
    for (int64_t t0 = 0; t0 < hd_rows(c->in[0]) && hd_stream_ok(s); t0 += hd_rows(c->in[2])) {
        struct job j = {.out = NULL};
        struct hd_tensor x, x2, d, dz, part, part2;
        int64_t n;

        begin_round(c, t0, &j, &x);
        n = hd_rows(&x);
        if (!kept) {
            logits_of(self, s, c, t0, &j, &x);
            hd_cpu_rows(self, n, 4 * hd_cols(&j.logits), exp_range, &j);
        }
        d = hd_cpu_rows_of(dout[0], t0, n);
        j.dout = &d;
        if (c->out[1]) {
            dz = hd_cpu_rows_of(dout[1], t0, n);
            j.dz = &dz;
        }
        part = rows_if(&dx, t0, n);
        part2 = rows_if(&dx2, t0, n);
        for (j.col0 = 0; j.col0 < hd_cols(&j.logits) && hd_stream_ok(s); j.col0 += COLS) {
            j.n_col = hd_cols(&j.logits) - j.col0 < COLS ? hd_cols(&j.logits) - j.col0 : COLS;
            hd_cpu_rows(self, n, j.n_col, slope_range, &j);
            hd_profile_lap(s->profile, "xent, back", 0);
            give(self, s, &j, &x, &part, c->in[1], &dw);
            if (c->in[3]) {
                x2 = hd_cpu_rows_of(c->in[3], t0, n);
                give(self, s, &j, &x2, &part2, c->in[4], &dw2);
            }
        }
    }
}
