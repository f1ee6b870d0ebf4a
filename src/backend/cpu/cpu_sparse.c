/* cpu_sparse.c: windows, pooled entries, the indexer and attention over what it selects.
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
#define MAX_GROUP 16
#define MAX_POOL 512

/* A cached row as f32: where it lies, or unpacked into buf. */
static const float *cached(const struct hd_paged *p, int64_t r, float *buf)
{
    if (!p->pack)
        return hd_paged_row(p, r);
    hd_kv_decode(p->pack, hd_paged_row(p, r), buf);
    return buf;
}

static const struct hd_paged *part_of(const struct hd_ragged *b, int64_t seq, int64_t part)
{
    return &b->part[seq * b->n_part + part];
}

void hd_cpu_ring_put(void *self, struct hd_stream *s, const struct hd_call *c)
{
    const struct hd_ragged *b = c->batch;

    for (int64_t q = 0; q < b->n_seq; q++) {
        const struct hd_paged *p = part_of(b, q, c->i[0]);
        const struct hd_span *sp = &b->span[q];

        for (int64_t k = sp->n_tok > p->ring ? sp->n_tok - p->ring : 0; k < sp->n_tok; k++) {
            if (p->pack)
                hd_kv_encode(p->pack, hd_cpu_row(c->in[0], sp->tok0 + k), hd_paged_row(p, sp->pos0 + k));
            else
                memcpy(hd_paged_row(p, sp->pos0 + k), hd_cpu_row(c->in[0], sp->tok0 + k), (size_t)p->row_bytes);
        }
    }
}

/* ---- pooling ---- */

static void pool_entry(const struct hd_call *c, int64_t e, int64_t seq, int64_t group)
{
    const struct hd_ragged *b = c->batch;
    const struct hd_span *sp = &b->span[seq];
    const struct hd_paged *ring = part_of(b, seq, c->i[0]);
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
        const struct hd_paged *p = part_of(b, q, c->i[0]);
        const struct hd_span *sp = &b->span[q];

        for (int64_t k = sp->n_tok > p->ring ? sp->n_tok - p->ring : 0; k < sp->n_tok; k++) {
            char *row = hd_paged_row(p, sp->pos0 + k);

            memcpy(row, hd_cpu_row(c->out[1], sp->tok0 + k), bytes);
            memcpy(row + bytes, hd_cpu_row(c->out[2], sp->tok0 + k), bytes);
        }
    }
}

/* ---- the indexer ---- */

/* The k best of a stream of scores: a heap with the worst on top; among equals the earlier index is better. */
struct best {
    float *score;
    int32_t *idx;
    int64_t n, k;
};

static bool worse(const struct best *h, int64_t a, int64_t b)
{
    return h->score[a] < h->score[b] || (h->score[a] == h->score[b] && h->idx[a] > h->idx[b]);
}

static void swap(struct best *h, int64_t a, int64_t b)
{
    float s = h->score[a];
    int32_t i = h->idx[a];

    h->score[a] = h->score[b];
    h->idx[a] = h->idx[b];
    h->score[b] = s;
    h->idx[b] = i;
}

static void sift(struct best *h, int64_t i, int64_t n)
{
    for (;;) {
        int64_t l = 2 * i + 1, m = i;

        if (l < n && worse(h, l, m))
            m = l;
        if (l + 1 < n && worse(h, l + 1, m))
            m = l + 1;
        if (m == i)
            return;
        swap(h, i, m);
        i = m;
    }
}

static void offer(struct best *h, float score, int32_t idx)
{
    if (h->n < h->k) {
        int64_t i = h->n++;

        h->score[i] = score;
        h->idx[i] = idx;
        for (; i > 0 && worse(h, i, (i - 1) / 2); i = (i - 1) / 2)
            swap(h, i, (i - 1) / 2);
        return;
    }
    if (score <= h->score[0])                 /* later ones lose against equals */
        return;
    h->score[0] = score;
    h->idx[0] = idx;
    sift(h, 0, h->n);
}

/* Best first. */
static void sort_best(struct best *h)
{
    for (int64_t n = h->n; n > 1; n--) {
        swap(h, 0, n - 1);
        sift(h, 0, n - 1);
    }
}

static void sort_ascending(int32_t *v, int64_t n)
{
    for (int64_t gap = n / 2; gap > 0; gap /= 2)
        for (int64_t i = gap; i < n; i++) {
            int32_t x = v[i];
            int64_t j = i;

            for (; j >= gap && v[j - gap] > x; j -= gap)
                v[j] = v[j - gap];
            v[j] = x;
        }
}

static float index_score(const struct hd_call *c, const float *q, const float *w, const float *key)
{
    int64_t n_head = c->i[1], dim = c->i[2];
    float sum = 0;

    if (!c->i[8]) {
        for (int64_t h = 0; h < n_head; h++) {
            float d = hd_k.dot_f32(dim, q + h * dim, key);

            sum += (d > 0 ? d : 0) * w[h];
        }
        return sum;
    }
    for (int64_t h = 0; h < n_head; h++) {
        float d = hd_round_bf16(hd_k.dot_f32(dim, q + h * dim, key));

        sum += hd_round_bf16((d > 0 ? d : 0) * w[h]);
    }
    return hd_round_bf16(sum);
}

static bool listed(const int32_t *list, int64_t n, int32_t x)
{
    int64_t lo = 0, hi = n;                   /* ascending, -1 behind */

    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;

        if (list[mid] >= 0 && list[mid] < x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && list[lo] == x;
}

static void index_token(const struct hd_call *c, int64_t t, int64_t seq)
{
    const struct hd_ragged *b = c->batch;
    const struct hd_paged *keys = part_of(b, seq, c->i[0]);
    const float *q = hd_cpu_row(c->in[0], t), *w = hd_cpu_row(c->in[1], t);
    int64_t len = (b->pos[t] + 1) / c->i[3], block = c->i[6];
    const int32_t *cand_in = c->in[2] ? (const int32_t *)hd_cpu_row(c->in[2], t) : NULL;
    int64_t n_in = cand_in ? hd_cols(c->in[2]) / 2 : 0;
    /* scores live behind the indices: sel has 2 top_k columns, cand 2 n_block */
    struct best sel = {.idx = (int32_t *)hd_cpu_row(c->out[0], t), .k = c->i[4]};
    struct best cand = {0};
    float top = -INFINITY;

    sel.score = (float *)(sel.idx + sel.k);
    if (c->out[1]) {
        cand = (struct best){.idx = (int32_t *)hd_cpu_row(c->out[1], t), .k = c->i[7]};
        cand.score = (float *)(cand.idx + cand.k);
    }
    for (int64_t g = 0; g < len; g++) {
        float buf[HD_KV_ROW_MAX], score = index_score(c, q, w, cached(keys, g, buf));

        if (cand.k) {
            top = fmaxf(top, score);
            if ((g + 1) % block == 0 || g + 1 == len) {
                offer(&cand, g / block == (len - 1) / block ? INFINITY : top, (int32_t)(g / block));
                top = -INFINITY;
            }
        }
        if (cand_in && !listed(cand_in, n_in, (int32_t)(g / block)))
            score = -INFINITY;
        offer(&sel, score, (int32_t)g);
    }
    if (c->i[5])
        sort_ascending(sel.idx, sel.n);
    else
        sort_best(&sel);
    for (int64_t i = sel.n; i < sel.k; i++)
        sel.idx[i] = -1;
    sort_ascending(cand.idx, cand.n);
    for (int64_t i = cand.n; i < cand.k; i++)
        cand.idx[i] = -1;
}

static void index_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t seq = 0;

    for (int64_t t = begin; t < end; t++) {
        hd_cpu_span(c->batch, t, &seq);
        index_token(c, t, seq);
    }
}

void hd_cpu_index(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, c->batch->n_tok, hd_cols(c->in[0]) * (c->batch->max_pos / c->i[3] + 1), index_range, (void *)c);
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
        return p >= v->span->pos0 ? hd_cpu_row(v->kv, v->span->tok0 + p - v->span->pos0) : cached(v->ring, p, buf);
    if (i < v->pad)
        return NULL;
    g = v->sel ? v->sel[i - v->pad] : i - v->pad;
    return g < 0 ? NULL : cached(v->entry, g, buf);
}

static void look(const struct hd_call *c, int64_t t, int64_t seq, struct view *v)
{
    const struct hd_ragged *b = c->batch;
    int64_t pos = b->pos[t], window = c->i[4], len = c->i[1] >= 0 ? (pos + 1) / c->i[5] : 0, total;

    *v = (struct view){.span = &b->span[seq], .kv = c->in[1], .ring = c->i[0] >= 0 ? part_of(b, seq, c->i[0]) : NULL};
    v->lo = pos + 1 > window ? pos + 1 - window : 0;
    if (c->i[9] && v->lo < v->span->raw0)
        v->lo = v->span->raw0;
    v->n_window = v->pad = pos + 1 - v->lo;
    if (c->i[6]) {                            /* official: the window is padded to what the whole prefill needs */
        total = v->span->pos0 + v->span->n_tok;
        v->pad = total < window ? total : window;
    }
    if (c->i[1] >= 0) {
        v->entry = part_of(b, seq, c->i[1]);
        v->sel = c->in[2] ? (const int32_t *)hd_cpu_row(c->in[2], t) : NULL;
        if (v->sel && c->i[7] < len)
            len = c->i[7];
    }
    v->n = v->pad + len;
}

static void attend_heads(const struct hd_call *c, int64_t t, int64_t seq, int64_t h0, int64_t n_head)
{
    int64_t dim = c->i[3], vdim = c->i[8];
    const float *q = hd_cpu_row(c->in[0], t) + h0 * dim, *sink = c->in[3] ? (const float *)c->in[3]->data + h0 : NULL;
    float *out = hd_cpu_row(c->out[0], t) + h0 * vdim, m[MAX_GROUP], den[MAX_GROUP], p[MAX_GROUP][BLOCK];
    float unpacked[BLOCK * HD_KV_ROW_MAX];
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
            if ((row[n] = place(&v, i, unpacked + n * HD_KV_ROW_MAX)))
                n++;
        if (!n)
            continue;
        hd_k.rows_dot(dim, n, row, false, c->f[0], q, n_head, p);
        for (int64_t h = 0; h < n_head; h++) {
            float top = m[h], corr;

            for (int64_t i = 0; i < n; i++)
                top = fmaxf(top, p[h][i]);
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
    for (int64_t h = 0; h < n_head; h++)
        if (den[h] > 0)
            hd_k.scale(vdim, 1 / (den[h] + (sink ? expf(sink[h] - m[h]) : 0)), out + h * vdim);
}

static void attend_sel_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n_head = c->i[2], groups = (n_head + MAX_GROUP - 1) / MAX_GROUP, seq = 0;

    for (int64_t i = begin; i < end; i++) {
        int64_t t = i / groups, h = i % groups * MAX_GROUP;

        hd_cpu_span(c->batch, t, &seq);
        attend_heads(c, t, seq, h, n_head - h < MAX_GROUP ? n_head - h : MAX_GROUP);
    }
}

void hd_cpu_attend_sel(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;
    int64_t n = c->batch->n_tok * ((c->i[2] + MAX_GROUP - 1) / MAX_GROUP);

    if (c->batch->n_tok * hd_cols(c->in[0]) * (c->i[1] < 0 && c->i[4] < c->batch->max_pos ? c->i[4] : c->batch->max_pos) <= 4 * HD_CPU_SMALL)
        attend_sel_range((void *)c, 0, n);
    else
        hd_pool_for(cpu->pool, n, 1, attend_sel_range, (void *)c);
}
