/* cpu_xent.c: cross-entropy fused with the head (drafts: and their Markov head): some rows of logits at a time, forward and (computed again) on the way back.
 *
 * With p = softmax(x w^T): loss = -log p[target], dlogits = (p - [target]) dloss; with a teacher's chances q of some ids and its share a, (1 - a) [target] + a q stands for [target]; z = log(sum of exp(logits))^2, dlogits = 2 log(sum) p dz. The logits of one round stay in cache; those of all
 * tokens of a long batch would not even fit into memory beside a model with a large vocabulary. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

struct job {
    const int32_t *target;
    struct hd_tensor logits;          /* of the round */
    const struct hd_tensor *out, *z;  /* its losses, forward; NULL on the way back. z: where there is a z-loss */
    const struct hd_tensor *dout, *dz;                /* gradients of its losses; logits become gradients */
    struct hd_tensor soft_id, soft_p; /* [tokens, n_soft] of the round */
    int64_t n_soft;                   /* 0: there is no teacher */
    float share;                      /* the teacher's */
};

/* The logits that the loss wants high, in their shares; or, d not 0, takes d times those shares off them. */
static float wanted(const struct job *j, int64_t t, float *l, float d)
{
    const int32_t *id = j->n_soft ? (const int32_t *)((const char *)j->soft_id.data + t * j->soft_id.row_bytes) : NULL;
    const float *p = j->n_soft ? hd_cpu_row(&j->soft_p, t) : NULL;
    float own = j->n_soft ? 1 - j->share : 1, sum = own * l[j->target[t]];

    l[j->target[t]] -= own * d;
    for (int64_t i = 0; i < j->n_soft; i++) {
        sum += j->share * p[i] * l[id[i]];
        l[id[i]] -= j->share * p[i] * d;
    }
    return sum;
}

static void loss_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n = hd_cols(&j->logits);

    for (int64_t t = begin; t < end; t++) {
        float *l = hd_cpu_row(&j->logits, t), top = l[0], sum, d, p;
        int32_t target = j->target[t];
        float own = target < 0 ? 0 : wanted(j, t, l, 0);

        for (int64_t i = 1; i < n; i++)
            top = l[i] > top ? l[i] : top;
        sum = hd_k.exp_sum(n, l, top);
        if (j->out) {
            double z = log((double)sum) + (double)top;

            *hd_cpu_row(j->out, t) = target < 0 ? 0 : (float)(z - (double)own);
            if (j->z)
                *hd_cpu_row(j->z, t) = target < 0 ? 0 : (float)(z * z);
            continue;
        }
        p = d = target < 0 ? 0 : *hd_cpu_row(j->dout, t);
        if (j->dz && target >= 0)
            p += (float)(2 * (log((double)sum) + (double)top) * (double)*hd_cpu_row(j->dz, t));
        hd_k.scale(n, p / sum, l);
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

/* Logits of tokens t0 .., as many as fit; with a second product (drafts: only on a tape) added. */
static void round_of(void *self, struct hd_stream *s, const struct hd_call *c, int64_t t0, struct job *j, struct hd_tensor *x)
{
    int64_t n = hd_rows(c->in[2]), left = hd_rows(c->in[0]) - t0;

    j->logits = hd_cpu_rows_of(c->in[2], 0, left < n ? left : n);
    j->target = c->rows + t0;
    j->share = c->f[0];
    if (c->in[5]) {
        j->n_soft = hd_cols(c->in[5]);
        j->soft_id = hd_cpu_rows_of(c->in[5], t0, hd_rows(&j->logits));
        j->soft_p = hd_cpu_rows_of(c->in[6], t0, hd_rows(&j->logits));
    }
    *x = hd_cpu_rows_of(c->in[0], t0, hd_rows(&j->logits));
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

        round_of(self, s, c, t0, &j, &x);
        out = hd_cpu_rows_of(c->out[0], t0, hd_rows(&x));
        j.out = &out;
        if (c->out[1]) {
            z = hd_cpu_rows_of(c->out[1], t0, hd_rows(&x));
            j.z = &z;
        }
        hd_cpu_rows(self, hd_rows(&x), 4 * hd_cols(&j.logits), loss_range, &j);
    }
}

HD_CPU_BACK(xent)
{
    struct hd_tensor dx = hd_grad(s, c->in[0]), dw = hd_grad(s, c->in[1]), dx2 = {0}, dw2 = {0};

    if (c->in[3]) {
        dx2 = hd_grad(s, c->in[3]);
        dw2 = hd_grad(s, c->in[4]);
    }
    for (int64_t t0 = 0; t0 < hd_rows(c->in[0]) && hd_stream_ok(s); t0 += hd_rows(c->in[2])) {
        struct hd_arena_mark mark = hd_arena_mark(&s->tape->scratch);
        struct job j = {.out = NULL};
        struct hd_tensor x, d, dz, part;

        round_of(self, s, c, t0, &j, &x);
        d = hd_cpu_rows_of(dout[0], t0, hd_rows(&x));
        j.dout = &d;
        if (c->out[1]) {
            dz = hd_cpu_rows_of(dout[1], t0, hd_rows(&x));
            j.dz = &dz;
        }
        hd_cpu_rows(self, hd_rows(&x), 4 * hd_cols(&j.logits), loss_range, &j);
        if (dx.data) {
            part = hd_cpu_rows_of(&dx, t0, hd_rows(&x));
            hd_cpu_back_x(self, s, &part, &j.logits, c->in[1], 0);
        }
        if (dx2.data) {
            part = hd_cpu_rows_of(&dx2, t0, hd_rows(&x));
            hd_cpu_back_x(self, s, &part, &j.logits, c->in[4], 0);
        }
        if (!c->i[0])
            hd_cpu_back_w(self, s, &dw, &j.logits, &x);
        if (dw2.data) {
            part = hd_cpu_rows_of(c->in[3], t0, hd_rows(&x));
            hd_cpu_back_w(self, s, &dw2, &j.logits, &part);
        }
        hd_arena_rewind(&s->tape->scratch, mark);
    }
}
