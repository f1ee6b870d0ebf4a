/* cpu_draft.c: how draft blocks learn: attention over the window before a block and the block itself, and the confidence's loss.
 *
 * Rows of the window serve several blocks, so gradients come in rounds as attend_sel's do: p and ds by row, then rows by column, ascending. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

#define ROUND 32

struct job {
    const struct hd_call *c;
    const struct hd_tensor *dout;     /* NULL: forward */
    struct hd_tensor dq, dkv, dmain;
    int64_t r0, n_row, places;
    float *p, *ds, *dsink;            /* [ROUND, n_head, places], [ROUND, n_head] */
};

/* Where row r looks: window rows main[lo .. lo + n_win), then rows own .. own + block of its block. */
struct look {
    int64_t lo, n_win, own;
};

static struct look look(const struct hd_call *c, int64_t r)
{
    const struct hd_ragged *b = c->batch;
    int64_t anchor = c->rows[r / c->i[3]], n = b->pos[anchor] + 1 < c->i[2] ? b->pos[anchor] + 1 : c->i[2];

    return (struct look){anchor + 1 - n, n, r / c->i[3] * c->i[3]};
}

static const float *row_of(const struct hd_call *c, const struct look *l, int64_t i)
{
    return i < l->n_win ? hd_cpu_row(c->in[2], l->lo + i) : hd_cpu_row(c->in[1], l->own + i - l->n_win);
}

/* p of head h, in place; returns the sink's share. */
static float softmax(const struct hd_call *c, const struct look *l, int64_t r, int64_t h, int64_t n, float *p)
{
    const float *q = hd_cpu_row(c->in[0], r) + h * c->i[1];
    float top = -INFINITY, sum, sink;

    for (int64_t i = 0; i < n; i++) {
        p[i] = c->f[0] * hd_k.dot_f32(c->i[1], q, row_of(c, l, i));
        top = fmaxf(top, p[i]);
    }
    sum = hd_k.exp_sum(n, p, top);
    sum += sink = expf(((const float *)c->in[3]->data)[h] - top);
    hd_k.scale(n, 1 / sum, p);
    return sink / sum;
}

static void row_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_call *c = j->c;
    int64_t n_head = c->i[0], dim = c->i[1];

    for (int64_t k = begin; k < end; k++) {
        int64_t r = j->r0 + k, n;
        struct look l = look(c, r);

        n = l.n_win + c->i[3];
        for (int64_t h = 0; h < n_head; h++) {
            float *p = j->p + (k * n_head + h) * j->places, *ds = j->ds + (k * n_head + h) * j->places, sink = softmax(c, &l, r, h, n, p), along = 0;

            if (!j->dout) {
                float *out = hd_cpu_row(c->out[0], r) + h * dim;

                memset(out, 0, (size_t)dim * sizeof *out);
                for (int64_t i = 0; i < n; i++)
                    hd_k.axpy_f32(dim, p[i], row_of(c, &l, i), out);
                continue;
            }
            for (int64_t i = 0; i < n; i++)
                along += p[i] * (ds[i] = hd_k.dot_f32(dim, hd_cpu_row(j->dout, r) + h * dim, row_of(c, &l, i)));
            j->dsink[k * n_head + h] = -sink * along;
            for (int64_t i = 0; i < n; i++) {
                ds[i] = c->f[0] * p[i] * (ds[i] - along);
                if (j->dq.data)
                    hd_k.axpy_f32(dim, ds[i], row_of(c, &l, i), hd_cpu_row(&j->dq, r) + h * dim);
            }
        }
    }
}

static void col_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_call *c = j->c;
    int64_t n_head = c->i[0], dim = c->i[1];

    for (int64_t k = 0; k < j->n_row; k++) {
        struct look l = look(c, j->r0 + k);

        for (int64_t h = 0; h < n_head; h++) {
            const float *q = hd_cpu_row(c->in[0], j->r0 + k) + h * dim, *d = hd_cpu_row(j->dout, j->r0 + k) + h * dim;
            const float *p = j->p + (k * n_head + h) * j->places, *ds = j->ds + (k * n_head + h) * j->places;

            for (int64_t i = 0; i < l.n_win + c->i[3]; i++) {
                const struct hd_tensor *to = i < l.n_win ? &j->dmain : &j->dkv;
                float *g = to->data ? hd_cpu_row(to, i < l.n_win ? l.lo + i : l.own + i - l.n_win) : NULL;

                if (!g)
                    continue;
                hd_k.axpy_f32(end - begin, ds[i], q + begin, g + begin);
                hd_k.axpy_f32(end - begin, p[i], d + begin, g + begin);
            }
        }
    }
}

static void rounds(void *self, struct hd_stream *s, struct job *j, const struct hd_tensor *dsink)
{
    struct hd_cpu *cpu = self;
    const struct hd_call *c = j->c;
    struct hd_arena_mark mark = hd_arena_mark(&s->tape->scratch);
    int64_t n_head = c->i[0];

    j->places = c->i[2] + c->i[3];
    j->p = hd_tape_scratch(s, ROUND * n_head, j->places);
    j->ds = hd_tape_scratch(s, ROUND * n_head, j->places);
    j->dsink = hd_tape_scratch(s, ROUND, n_head);
    for (j->r0 = 0; hd_stream_ok(s) && j->r0 < hd_rows(c->in[0]); j->r0 += ROUND) {
        j->n_row = hd_rows(c->in[0]) - j->r0 < ROUND ? hd_rows(c->in[0]) - j->r0 : ROUND;
        hd_pool_for(cpu->pool, j->n_row, 1, row_range, j);
        if (j->dout)
            hd_pool_for(cpu->pool, c->i[1], 16, col_range, j);
        for (int64_t k = 0; dsink && dsink->data && k < j->n_row; k++)
            hd_k.add(n_head, dsink->data, j->dsink + k * n_head, dsink->data);
    }
    hd_arena_rewind(&s->tape->scratch, mark);
}

void hd_cpu_attend_block(void *self, struct hd_stream *s, const struct hd_call *c)
{
    rounds(self, s, &(struct job){.c = c}, NULL);
}

HD_CPU_BACK(attend_block)
{
    struct hd_tensor dsink = hd_grad(s, c->in[3]);

    rounds(self, s, &(struct job){.c = c, .dout = dout[0], .dq = hd_grad(s, c->in[0]), .dkv = hd_grad(s, c->in[1]), .dmain = hd_grad(s, c->in[2])}, &dsink);
}

/* ---- confidence: softplus(z) - z exp(-loss) ---- */

void hd_cpu_confidence(void *self, struct hd_stream *s, const struct hd_call *c)
{
    for (int64_t t = 0; t < hd_rows(c->in[0]); t++) {
        float z = *hd_cpu_row(c->in[0], t), chance = expf(-*hd_cpu_row(c->in[1], t));

        *hd_cpu_row(c->out[0], t) = c->rows[t] < 0 ? 0 : fmaxf(z, 0) + log1pf(expf(-fabsf(z))) - z * chance;
    }
}

HD_CPU_BACK(confidence)
{
    struct hd_tensor dz = hd_grad(s, c->in[0]);

    for (int64_t t = 0; dz.data && t < hd_rows(c->in[0]); t++)
        if (c->rows[t] >= 0)
            *hd_cpu_row(&dz, t) += *hd_cpu_row(dout[0], t) * (1 / (1 + expf(-*hd_cpu_row(c->in[0], t))) - expf(-*hd_cpu_row(c->in[1], t)));
}

void hd_cpu_detach(void *self, struct hd_stream *s, const struct hd_call *c)
{
    for (int64_t t = 0; t < hd_rows(c->in[0]); t++)
        memcpy(hd_cpu_row(c->out[0], t), hd_cpu_row(c->in[0], t), (size_t)hd_cols(c->in[0]) * sizeof(float));
}
