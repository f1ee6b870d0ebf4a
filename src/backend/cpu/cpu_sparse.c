/* cpu_sparse.c: windows, pooled entries, and attention over what the indexer selects.
 *
 * A token's own step is read from the step's tensors, older tokens from the window part: it is written after the attention
 * of a layer, so that a step of many tokens needs no larger ring. Lists are walked in blocks of 64 places, windows first, so
 * that a token's bits do not depend on how its neighbours were batched (the official mode pads the window as its code does).
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "kernels/kernels.h"
#include "tensor/simulate.h"

#define BLOCK 64
#define MAX_GROUP 16                  /* query heads that go through rows together */
#define MAX_HEAD 256                  /* of a task */
#define MAX_POOL 512

const float *hd_cpu_cached(const struct hd_paged *p, int64_t r, float *buf)
{
    if (!p->pack)
        return hd_paged_row(p, r);
    hd_k.kv_decode(p->pack, hd_paged_row(p, r), buf);
    return buf;
}

void hd_cpu_ring_put(void *self, struct hd_stream *s, const struct hd_call *c)
{
    const struct hd_ragged *b = c->batch;

    for (int64_t q = 0; q < b->n_seq; q++) {
        const struct hd_paged *p = hd_cpu_part(b, q, c->i[0]);
        const struct hd_span *sp = &b->span[q];

        for (int64_t k = sp->n_tok > p->ring ? sp->n_tok - p->ring : 0; k < sp->n_tok; k++) {
            if (p->pack)
                hd_kv_encode(p->pack, hd_cpu_row(c->in[0], sp->tok0 + k), hd_paged_row(p, sp->pos0 + k));
            else
                memcpy(hd_paged_row(p, sp->pos0 + k), hd_cpu_row(c->in[0], sp->tok0 + k), (size_t)p->row_bytes);
        }
    }
}

void hd_cpu_shift(void *self, struct hd_stream *s, const struct hd_call *c)
{
    const struct hd_ragged *b = c->batch;
    size_t bytes = (size_t)hd_cols(c->out[0]) * sizeof(float);

    for (int64_t q = 0; q < b->n_seq; q++) {
        const struct hd_span *sp = &b->span[q];

        if (sp->n_tok && sp->pos0)
            memcpy(hd_cpu_row(c->out[0], sp->tok0), hd_paged_row(hd_cpu_part(b, q, c->i[0]), sp->pos0 - 1), bytes);
        else if (sp->n_tok)
            memset(hd_cpu_row(c->out[0], sp->tok0), 0, bytes);
        for (int64_t k = 1; k < sp->n_tok; k++)
            memcpy(hd_cpu_row(c->out[0], sp->tok0 + k), hd_cpu_row(c->in[0], sp->tok0 + k - 1), bytes);
    }
}

/* ---- pooling ---- */

static void pool_entry(const struct hd_call *c, int64_t e, int64_t seq, int64_t group)
{
    const struct hd_ragged *b = c->batch;
    const struct hd_span *sp = &b->span[seq];
    const struct hd_paged *ring = hd_cpu_part(b, seq, c->i[0]);
    int64_t ratio = c->i[1], cols = hd_cols(c->out[1]), n = hd_cols(c->out[0]), lanes = c->i[2] ? 2 : 1, count = 0;
    const float *z[MAX_POOL], *g[MAX_POOL];
    float *out = hd_cpu_row(c->out[0], e);

    for (int64_t lane = 0; lane < lanes; lane++) {
        int64_t first = (group - (lanes - 1 - lane)) * ratio, skip = lanes == 2 ? lane * n : 0;

        for (int64_t p = first; p < first + ratio && first >= 0; p++, count++) {
            if (p >= sp->pos0) {
                z[count] = hd_cpu_row(c->out[1], sp->tok0 + p - sp->pos0) + skip;
                g[count] = hd_cpu_row(c->out[2], sp->tok0 + p - sp->pos0) + skip;
            } else {
                z[count] = (const float *)hd_paged_row(ring, p) + skip;
                g[count] = (const float *)hd_paged_row(ring, p) + cols + skip;
            }
        }
    }
    for (int64_t i = 0; i < n; i++) {
        float top = g[0][i], sum = 0, acc = 0;

        for (int64_t k = 1; k < count; k++)
            top = fmaxf(top, g[k][i]);
        for (int64_t k = 0; k < count; k++) {
            float w = expf(g[k][i] - top);

            sum += w;
            acc += w * z[k][i];
        }
        out[i] = acc / sum;
    }
}

static void pool_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    const struct hd_ragged *b = c->batch;
    int64_t ratio = c->i[1], seq = 0, base = 0;

    for (int64_t e = begin; e < end; e++) {
        int64_t first, n;

        for (;; seq++, base += n) {
            first = b->span[seq].pos0 / ratio;
            n = (b->span[seq].pos0 + b->span[seq].n_tok) / ratio - first;
            if (e < base + n)
                break;
        }
        pool_entry(c, e, seq, first + e - base);
    }
}

static void bias_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;

    for (int64_t t = begin; t < end; t++) {
        float *g = hd_cpu_row(c->out[2], t);

        hd_k.add(hd_cols(c->out[2]), g, hd_cpu_row(c->in[0], c->batch->pos[t] % c->i[1]), g);
    }
}

void hd_cpu_pool(void *self, struct hd_stream *s, const struct hd_call *c)
{
    const struct hd_ragged *b = c->batch;
    size_t bytes = (size_t)hd_cols(c->out[1]) * sizeof(float);

    HD_ASSERT((c->i[2] ? 2 : 1) * c->i[1] <= MAX_POOL);
    if (c->in[0])
        hd_cpu_rows(self, b->n_tok, hd_cols(c->out[2]), bias_range, (void *)c);
    hd_cpu_rows(self, hd_rows(c->out[0]), 8 * c->i[1] * hd_cols(c->out[1]), pool_range, (void *)c);
    for (int64_t q = 0; q < b->n_seq; q++) {
        const struct hd_paged *p = hd_cpu_part(b, q, c->i[0]);
        const struct hd_span *sp = &b->span[q];

        for (int64_t k = sp->n_tok > p->ring ? sp->n_tok - p->ring : 0; k < sp->n_tok; k++) {
            char *row = hd_paged_row(p, sp->pos0 + k);

            memcpy(row, hd_cpu_row(c->out[1], sp->tok0 + k), bytes);
            memcpy(row + bytes, hd_cpu_row(c->out[2], sp->tok0 + k), bytes);
        }
    }
}

/* ---- attention ---- */

/* What a token looks at: places 0 .. n of a list; NULL where a place is empty. */
struct view {
    const struct hd_span *span;
    const struct hd_paged *ring, *entry;
    const struct hd_tensor *kv;
    const int32_t *sel;
    int64_t lo, n_window, pad, n;
};

static const float *place(const struct view *v, int64_t i, float *buf)
{
    int64_t p = v->lo + i, g;

    if (i < v->n_window)
        return p >= v->span->pos0 ? hd_cpu_row(v->kv, v->span->tok0 + p - v->span->pos0) : hd_cpu_cached(v->ring, p, buf);
    if (i < v->pad)
        return NULL;
    g = v->sel ? v->sel[i - v->pad] : i - v->pad;
    return g < 0 ? NULL : hd_cpu_cached(v->entry, g, buf);
}

static void look(const struct hd_call *c, int64_t t, int64_t seq, struct view *v)
{
    const struct hd_ragged *b = c->batch;
    int64_t pos = b->pos[t], window = c->i[4], len = c->i[1] >= 0 ? (pos + 1) / c->i[5] : 0, total;

    *v = (struct view){.span = &b->span[seq], .kv = c->in[1], .ring = c->i[0] >= 0 ? hd_cpu_part(b, seq, c->i[0]) : NULL};
    v->lo = pos + 1 > window ? pos + 1 - window : 0;
    if (c->i[10]) {                           /* all of a block alike: the window ends before it */
        pos = v->span->pos0 + v->span->n_tok - 1;
        v->lo = v->span->pos0 > window ? v->span->pos0 - window : 0;
    }
    if (c->i[9] && v->lo < v->span->raw0)
        v->lo = v->span->raw0;
    v->n_window = v->pad = pos + 1 - v->lo;
    if (c->i[6] && !c->i[10]) {               /* official: the window is padded to what the whole prefill needs */
        total = v->span->pos0 + v->span->n_tok;
        v->pad = total < window ? total : window;
    }
    if (c->i[1] >= 0) {
        v->entry = hd_cpu_part(b, seq, c->i[1]);
        v->sel = c->in[2] ? (const int32_t *)hd_cpu_row(c->in[2], t) : NULL;
        if (v->sel && c->i[7] < len)
            len = c->i[7];
    }
    v->n = v->pad + len;
}

/* One block of rows for up to MAX_GROUP heads: their sums so far are m, den and out. */
static void attend_block(const struct hd_call *c, int64_t n, const void *const *row, const float *q, int64_t n_head, float *m, float *den, float *out)
{
    int64_t dim = c->i[3], vdim = c->i[8];
    float p[MAX_GROUP][BLOCK];

    hd_k.rows_dot(dim, n, row, false, c->f[0], q, n_head, p);
    for (int64_t h = 0; h < n_head; h++) {
        float top = m[h], corr;

        for (int64_t i = 0; i < n; i++)
            top = p[h][i] > top ? p[h][i] : top;
        corr = m[h] == top ? 1 : expf(m[h] - top);
        den[h] = den[h] * corr + hd_k.exp_sum(n, p[h], top);
        m[h] = top;
        if (corr != 1)
            hd_k.scale(vdim, corr, out + h * vdim);
        if (c->i[6])
            for (int64_t i = 0; i < n; i++)
                p[h][i] = hd_round_bf16(p[h][i]);
    }
    hd_k.rows_mix(vdim, n, row, false, (const float(*)[BLOCK])p, n_head, out);
}

/* Rows are unpacked once for all heads of a task. */
static void attend_heads(const struct hd_call *c, int64_t t, int64_t seq, int64_t h0, int64_t n_head)
{
    int64_t dim = c->i[3], vdim = c->i[8], ld = dim + 16;     /* rows of 2^n bytes would evict one another */
    const float *q = hd_cpu_row(c->in[0], t) + h0 * dim, *sink = c->in[3] ? (const float *)c->in[3]->data + h0 : NULL;
    float *out = hd_cpu_row(c->out[0], t) + h0 * vdim, m[MAX_HEAD], den[MAX_HEAD];
    float unpacked[BLOCK * (HD_KV_ROW_MAX + 16)];
    struct view v;

    look(c, t, seq, &v);
    for (int64_t h = 0; h < n_head; h++) {
        m[h] = -INFINITY;
        den[h] = 0;
    }
    memset(out, 0, (size_t)(n_head * vdim) * sizeof *out);
    for (int64_t a = 0; a < v.n; a += BLOCK) {
        int64_t end = a + BLOCK < v.n ? a + BLOCK : v.n, n = 0;
        const void *row[BLOCK];

        for (int64_t i = a; i < end; i++)
            if ((row[n] = place(&v, i, unpacked + n * ld)))
                n++;
        for (int64_t h = 0; h < n_head && n; h += MAX_GROUP)
            attend_block(c, n, row, q + h * dim, n_head - h < MAX_GROUP ? n_head - h : MAX_GROUP, m + h, den + h, out + h * vdim);
    }
    for (int64_t h = 0; h < n_head; h++)
        if (den[h] > 0)
            hd_k.scale(vdim, 1 / (den[h] + (sink ? expf(sink[h] - m[h]) : 0)), out + h * vdim);
}

/* Heads of a task: all of them when there are tokens enough for everybody; whole groups. */
static int64_t heads_of_task(const struct hd_call *c, int n_thread)
{
    int64_t n = c->i[2], parts = c->batch->n_tok >= 2 * n_thread ? 1 : n_thread, per = (n + parts - 1) / parts;

    per = (per + MAX_GROUP - 1) / MAX_GROUP * MAX_GROUP;
    return per < MAX_HEAD ? per : MAX_HEAD;
}

struct attend_job {
    const struct hd_call *c;
    int64_t heads;
};

static void attend_sel_range(void *arg, int64_t begin, int64_t end)
{
    const struct attend_job *j = arg;
    int64_t n_head = j->c->i[2], groups = (n_head + j->heads - 1) / j->heads, seq = 0;

    for (int64_t i = begin; i < end; i++) {
        int64_t t = i / groups, h = i % groups * j->heads;

        hd_cpu_span(j->c->batch, t, &seq);
        attend_heads(j->c, t, seq, h, n_head - h < j->heads ? n_head - h : j->heads);
    }
}

void hd_cpu_attend_sel(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;
    struct attend_job j = {c, heads_of_task(c, hd_pool_threads(cpu->pool))};
    int64_t n = c->batch->n_tok * ((c->i[2] + j.heads - 1) / j.heads);

    if (c->batch->n_tok * hd_cols(c->in[0]) * (c->i[1] < 0 && c->i[4] < c->batch->max_pos ? c->i[4] : c->batch->max_pos) <= 4 * HD_CPU_SMALL)
        attend_sel_range(&j, 0, n);
    else
        hd_pool_for(cpu->pool, n, 1, attend_sel_range, &j);
}
