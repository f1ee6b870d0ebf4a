/* balance.c: see balance.h. */
#include "train/balance.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "ops/ops.h"
#include "ops/tape.h"

#define FADE 0.98

void hd_balance_release(struct hd_balance *b)
{
    for (int i = 0; i < b->n_gate; i++) {
        hd_free(b->gate[i].load);
        hd_free(b->gate[i].window);
    }
    hd_free(b->gate);
    b->gate = NULL;
    b->n_gate = b->cap = 0;
}

static const float *row(const struct hd_tensor *t, int64_t r)
{
    return (const float *)((const char *)t->data + r * t->row_bytes);
}

static struct hd_gate_load *gate_at(struct hd_balance *b, int which, const struct hd_call *c, struct hd_err *err)
{
    size_t cap = (size_t)b->cap;
    struct hd_gate_load *g;

    if (which < b->n_gate)
        return &b->gate[which];
    if (!HD_GROW(b->gate, cap, (size_t)which + 1, 4096)) {
        hd_err_set(err, HD_ERR_MEMORY, "no memory for the loads of %d layers", which + 1);
        return NULL;
    }
    b->cap = (int)cap;
    g = &b->gate[which];
    *g = (struct hd_gate_load){.bias = c->in[1] ? c->in[1]->data : NULL, .chosen = c->in[2] != NULL, .n = c->i[0], .load = hd_calloc((size_t)c->i[0], sizeof *g->load),
                               .window = hd_calloc((size_t)c->i[0], sizeof *g->window)};
    b->n_gate = which + 1;
    if (g->load && g->window)
        return g;
    hd_err_set(err, HD_ERR_MEMORY, "no memory for the loads of %lld experts", (long long)c->i[0]);
    return NULL;
}

/* Scores as the gate makes them, divided by their sum; slope: of the score before that. Softmax: slope unused. */
static double scores(const struct hd_call *c, const float *x, double *score, double *slope)
{
    int64_t n = c->i[0];
    double sum = 0, top = -INFINITY;

    for (int64_t e = 0; e < n; e++)
        top = fmax(top, (double)x[e]);
    for (int64_t e = 0; e < n; e++) {
        double z = (double)x[e] / (double)c->f[2], sg = 1 / (1 + exp(-z));

        if (c->i[4] == HD_GATE_SOFTMAX) {
            score[e] = exp(z - top / (double)c->f[2]);
        } else if (c->i[4] == HD_GATE_SIGMOID) {
            score[e] = sg;
            slope[e] = sg * (1 - sg);
        } else {
            score[e] = sqrt(z > 20 ? z : log1p(exp(z)));
            slope[e] = sg / (2 * score[e]);
        }
        sum += score[e];
    }
    for (int64_t e = 0; e < n; e++)
        score[e] /= sum;
    return sum;
}

/* One sequence of one gate: alpha sum_e f_e P_e, and its gradient in the logits'. */
static double sequence(const struct hd_balance *b, const struct hd_call *c, const struct hd_span *sp, const struct hd_tensor *d, double weight)
{
    int64_t n = c->i[0], k = c->i[1];
    double f[HD_BALANCE_EXPERTS], score[HD_BALANCE_EXPERTS], slope[HD_BALANCE_EXPERTS], loss = 0;

    memset(f, 0, (size_t)n * sizeof *f);
    for (int64_t t = sp->tok0; t < sp->tok0 + sp->n_tok; t++)
        for (int64_t i = 0; i < k; i++)
            f[((const int32_t *)row(c->out[0], t))[i]] += (double)n / (double)(k * sp->n_tok);
    for (int64_t t = sp->tok0; t < sp->tok0 + sp->n_tok; t++) {
        double sum = scores(c, row(c->in[0], t), score, slope), mean = 0;
        float *to = d->data ? (float *)((char *)d->data + t * d->row_bytes) : NULL;

        for (int64_t e = 0; e < n; e++)
            mean += f[e] * score[e];
        loss += mean / (double)sp->n_tok;
        /* d(score_e) = (f_e - mean) / sum d(raw_e), for softmax score_e (f_e - mean); times alpha, and T_seq / T_seq from weighing by tokens */
        for (int64_t e = 0; e < n && to; e++)
            to[e] += (float)(weight * b->alpha * (f[e] - mean) * (c->i[4] == HD_GATE_SOFTMAX ? score[e] : slope[e] / sum) / (double)c->f[2]);
    }
    return b->alpha * loss * (double)sp->n_tok;
}

int hd_balance_count(struct hd_balance *b, const struct hd_stream *s, struct hd_err *err)
{
    int which = 0;

    for (size_t i = 0; i < s->tape->n; i++) {
        const struct hd_call *c = &s->tape->entry[i].call;
        struct hd_gate_load *g;

        if (c->op != HD_OP_GATE)
            continue;
        HD_ASSERT(c->i[0] <= HD_BALANCE_EXPERTS);
        if (!(g = gate_at(b, which++, c, err)))
            return HD_ERR_MEMORY;
        for (int64_t t = 0; t < hd_rows(c->out[0]); t++)
            for (int64_t e = 0; e < c->i[1]; e++)
                g->load[((const int32_t *)row(c->out[0], t))[e]]++;
    }
    return HD_OK;
}

int hd_balance_batch(struct hd_balance *b, struct hd_stream *s, double weight, struct hd_err *err)
{
    b->loss = 0;
    HD_TRY(hd_balance_count(b, s, err));
    for (size_t i = 0; i < s->tape->n && b->alpha > 0; i++) {
        const struct hd_call *c = &s->tape->entry[i].call;
        struct hd_tensor d;

        if (c->op != HD_OP_GATE || c->in[2])
            continue;
        d = hd_grad(s, c->in[0]);
        for (int64_t q = 0; q < c->batch->n_seq; q++)
            b->loss += sequence(b, c, &c->batch->span[q], &d, weight);
    }
    return HD_OK;
}

static double load_at(const struct hd_gate_load *g, int64_t e, bool window)
{
    return window ? g->window[e] : (double)g->load[e];
}

double hd_balance_vio(const struct hd_balance *b, bool window)
{
    double vio = 0;
    int n = 0;

    for (int i = 0; i < b->n_gate; i++) {
        const struct hd_gate_load *g = &b->gate[i];
        double mean = 0, top = 0;

        for (int64_t e = 0; e < g->n; e++) {
            mean += load_at(g, e, window) / (double)g->n;
            top = fmax(top, load_at(g, e, window));
        }
        if (g->chosen || mean <= 0)
            continue;
        vio += (top - mean) / mean;
        n++;
    }
    return n ? vio / n : 0;
}

/* How far a bias moves, of the speed: load is what the expert had, mean its share. */
static double move(bool sign, double load, double mean)
{
    double gap = mean > 0 ? (mean - load) / mean : 0;

    return sign ? (gap > 0) - (gap < 0) : fmin(fmax(gap, -1), 1);
}

void hd_balance_update(struct hd_balance *b, double scale)
{
    for (int i = 0; i < b->n_gate; i++) {
        struct hd_gate_load *g = &b->gate[i];
        double mean = 0;

        for (int64_t e = 0; e < g->n; e++)
            mean += (double)g->load[e] / (double)g->n;
        for (int64_t e = 0; e < g->n; e++) {
            if (g->bias)
                g->bias[e] += (float)(scale * b->speed * move(b->sign, (double)g->load[e], mean));
            g->window[e] = FADE * g->window[e] + (double)g->load[e];
            g->load[e] = 0;
        }
    }
}
