/* cpu_index_loss.c: what an indexer learns from: how far its softmax is from the main attention's shares, forward and on the way back.
 *
 * Nothing of the forward pass is kept. Tokens come in rounds: a pass by token finds shares and scores (and gradients of queries and weights); keys are
 * shared by tokens, so a second pass adds to them by column, tokens ascending: the bits do not depend on the team. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

#define ROUND 32

struct job {
    struct hd_stream *s;
    const struct hd_call *c;
    const struct hd_tensor *dout;     /* NULL: forward */
    struct hd_tensor diq, dwt;
    int64_t t0, n_tok, places;        /* of the round; the most rows a token looks at */
    float *share, *score, *tmp;       /* [ROUND, places] */
    float *dot;                       /* [ROUND, index_heads, places]: products; on the way back coefficients of the keys' gradients */
    int32_t *entry;                   /* [ROUND, places] */
    int64_t *n_entry;                 /* [ROUND] */
};

static int64_t n_head(const struct hd_call *c) { return c->i[7]; }
static int64_t key_dim(const struct hd_call *c) { return c->i[8]; }

static const struct hd_paged *part_of(const struct hd_call *c, int64_t seq, int64_t part)
{
    return &c->batch->part[seq * c->batch->n_part + part];
}

/* The entries of token t: those selected, or all that are complete. */
static int64_t entries_of(const struct hd_call *c, int64_t t, int32_t *out)
{
    int64_t len = (c->batch->pos[t] + 1) / c->i[5], n = 0;
    const int32_t *sel = c->in[4] ? (const int32_t *)hd_cpu_row(c->in[4], t) : NULL;

    if (sel && c->i[6] < len)
        len = c->i[6];
    for (int64_t i = 0; i < len; i++)
        if (!sel || sel[i] >= 0)
            out[n++] = sel ? sel[i] : (int32_t)i;
    return n;
}

/* Attention on the entries, summed over heads, as shares of 1; false when they have none of it. */
static bool shares(const struct job *j, int64_t t, int64_t seq, const int32_t *entry, int64_t n, float *share, float *p)
{
    const struct hd_call *c = j->c;
    const struct hd_paged *rows = part_of(c, seq, c->i[0]);
    int64_t dim = c->i[3], pos = c->batch->pos[t], lo = pos + 1 > c->i[4] ? pos + 1 - c->i[4] : 0, n_win = pos + 1 - lo, first = c->batch->span[seq].tok0;
    double all = 0;

    memset(share, 0, (size_t)n * sizeof *share);
    for (int64_t h = 0; h < c->i[2]; h++) {
        const float *q = hd_cpu_row(c->in[2], t) + h * dim;
        float top = -INFINITY, sum;

        for (int64_t i = 0; i < n + n_win; i++) {
            p[i] = c->f[0] * hd_k.dot_f32(dim, q, i < n ? hd_paged_row(rows, entry[i]) : hd_cpu_row(c->in[3], first + lo + i - n));
            top = fmaxf(top, p[i]);
        }
        sum = hd_k.exp_sum(n + n_win, p, top);
        if (c->in[5])
            sum += expf(((const float *)c->in[5]->data)[h] - top);
        hd_k.axpy_f32(n, 1 / sum, p, share);
    }
    for (int64_t i = 0; i < n; i++)
        all += (double)share[i];
    if (all < 1e-30)
        return false;
    hd_k.scale(n, (float)(1 / all), share);
    return true;
}

/* Scores of the entries, their products by head in dot; returns log sum exp. */
static float scores(const struct job *j, int64_t t, int64_t seq, const int32_t *entry, int64_t n, float *score, float *dot)
{
    const struct hd_call *c = j->c;
    const struct hd_paged *keys = part_of(c, seq, c->i[1]);
    const float *q = hd_cpu_row(c->in[0], t), *w = hd_cpu_row(c->in[1], t);
    float top = -INFINITY, sum = 0;

    for (int64_t i = 0; i < n; i++) {
        const float *k = hd_paged_row(keys, entry[i]);

        score[i] = 0;
        for (int64_t h = 0; h < n_head(c); h++) {
            float d = hd_k.dot_f32(key_dim(c), q + h * key_dim(c), k);

            dot[h * j->places + i] = d;
            score[i] += w[h] * fmaxf(d, 0);
        }
        top = fmaxf(top, score[i]);
    }
    for (int64_t i = 0; i < n; i++)
        sum += expf(score[i] - top);
    return top + logf(sum);
}

/* d loss / d score is softmax(score) - share: the query's and the weights' gradients now, the keys' coefficients into dot. */
static void back_token(const struct job *j, int64_t t, int64_t seq, int64_t k, float lse)
{
    const struct hd_call *c = j->c;
    const struct hd_paged *keys = part_of(c, seq, c->i[1]);
    const float *w = hd_cpu_row(c->in[1], t), *share = j->share + k * j->places, *score = j->score + k * j->places;
    float *dot = j->dot + k * n_head(c) * j->places, d = *hd_cpu_row(j->dout, t);

    for (int64_t i = 0; i < j->n_entry[k]; i++) {
        float ds = d * (expf(score[i] - lse) - share[i]);
        const float *key = hd_paged_row(keys, j->entry[k * j->places + i]);

        for (int64_t h = 0; h < n_head(c); h++) {
            float *x = &dot[h * j->places + i];

            if (j->dwt.data)
                hd_cpu_row(&j->dwt, t)[h] += ds * fmaxf(*x, 0);
            *x = *x > 0 ? ds * w[h] : 0;
            if (j->diq.data)
                hd_k.axpy_f32(key_dim(c), *x, key, hd_cpu_row(&j->diq, t) + h * key_dim(c));
        }
    }
}

static void token_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_call *c = j->c;
    int64_t seq = 0;

    for (int64_t k = begin; k < end; k++) {
        int64_t t = j->t0 + k, n;
        int32_t *entry = j->entry + k * j->places;
        float *share = j->share + k * j->places, *score = j->score + k * j->places, lse, loss = 0;

        hd_cpu_span(c->batch, t, &seq);
        n = j->n_entry[k] = c->rows[t] < 0 ? 0 : entries_of(c, t, entry);
        if (n && !shares(j, t, seq, entry, n, share, j->tmp + k * j->places))
            n = j->n_entry[k] = 0;
        if (n)
            lse = scores(j, t, seq, entry, n, score, j->dot + k * n_head(c) * j->places);
        if (n && j->dout)
            back_token(j, t, seq, k, lse);
        for (int64_t i = 0; i < n && !j->dout; i++)
            loss += share[i] > 0 ? share[i] * (logf(share[i]) - score[i] + lse) : 0;
        if (!j->dout)
            *hd_cpu_row(c->out[0], t) = loss;
    }
}

static void key_cols(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_call *c = j->c;
    int64_t seq = 0;

    for (int64_t k = 0; k < j->n_tok; k++) {
        const struct hd_paged *keys;

        hd_cpu_span(c->batch, j->t0 + k, &seq);
        keys = part_of(c, seq, c->i[1]);
        for (int64_t i = 0; i < j->n_entry[k]; i++) {
            float *g = hd_grad_at(j->s, hd_paged_row(keys, j->entry[k * j->places + i]));

            for (int64_t h = 0; g && h < n_head(c); h++)
                hd_k.axpy_f32(end - begin, j->dot[(k * n_head(c) + h) * j->places + i], hd_cpu_row(c->in[0], j->t0 + k) + h * key_dim(c) + begin, g + begin);
        }
    }
}

static void rounds(void *self, struct job *j)
{
    struct hd_cpu *cpu = self;
    const struct hd_call *c = j->c;
    const struct hd_ragged *b = c->batch;
    struct hd_stream *s = j->s;
    struct hd_arena_mark mark = hd_arena_mark(&s->tape->scratch);
    int64_t longest = 0;

    for (int64_t i = 0; i < b->n_seq; i++) {
        HD_ASSERT(b->span[i].pos0 == 0);
        longest = b->span[i].n_tok > longest ? b->span[i].n_tok : longest;
    }
    j->places = (longest < c->i[4] ? longest : c->i[4]) + (c->in[4] && c->i[6] < longest / c->i[5] ? c->i[6] : longest / c->i[5]) + 1;
    j->share = hd_tape_scratch(s, ROUND, j->places);
    j->score = hd_tape_scratch(s, ROUND, j->places);
    j->tmp = hd_tape_scratch(s, ROUND, j->places);
    j->dot = hd_tape_scratch(s, ROUND * n_head(c), j->places);
    j->entry = (void *)hd_tape_scratch(s, ROUND, j->places);
    j->n_entry = (void *)hd_tape_scratch(s, 2, ROUND);
    for (j->t0 = 0; hd_stream_ok(s) && j->t0 < b->n_tok; j->t0 += ROUND) {
        j->n_tok = b->n_tok - j->t0 < ROUND ? b->n_tok - j->t0 : ROUND;
        hd_pool_for(cpu->pool, j->n_tok, 1, token_range, j);
        if (j->dout)
            hd_pool_for(cpu->pool, key_dim(c), 16, key_cols, j);
    }
    hd_arena_rewind(&s->tape->scratch, mark);
}

void hd_cpu_index_loss(void *self, struct hd_stream *s, const struct hd_call *c)
{
    rounds(self, &(struct job){.s = s, .c = c});
}

HD_CPU_BACK(index_loss)
{
    rounds(self, &(struct job){.s = s, .c = c, .dout = dout[0], .diq = hd_grad(s, c->in[0]), .dwt = hd_grad(s, c->in[1])});
}
