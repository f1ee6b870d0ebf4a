/* cpu_attend_sel.c: attention over a window and compressed entries, all of them or those that the indexer selects.
 *
 * A token's own step is read from the step's tensors, older tokens from the window part. A list is walked in blocks of 64 places: the window from
 * its beginning, then selected entries, or all entries cut at absolute multiples of 64. So a token's bits do not depend on how its
 * neighbours were batched (the official mode walks window and entries as one list, the window padded as its code does). A block's rows are
 * unpacked and laid side by side once for all heads of a task, entries that everybody sees once for several tokens.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "kernels/kernels.h"
#include "tensor/simulate.h"

#define BLOCK HD_ROWS_MAX
#define TOKENS 16                     /* that go through the same entries together */
#define MAX_GROUP 16                  /* query heads that go through rows together */
#define MAX_HEAD 256                  /* of a task */

/* What a token looks at: places 0 .. n of a list, the window's first. */
struct view {
    const struct hd_span *span;
    const struct hd_paged *ring, *entry;
    const struct hd_tensor *kv;
    const int32_t *sel;
    int64_t lo, n_window, pad, n;
};

/* A token's heads so far. */
struct sums {
    const float *q;
    float *out;
    float m[MAX_HEAD], den[MAX_HEAD];
};

struct rows {
    int64_t n;
    const void *row[BLOCK];
    _Alignas(64) float unpacked[BLOCK * (HD_KV_ROW_MAX + 16)];            /* rows of 2^n bytes would evict one another */
    _Alignas(64) float turned[BLOCK * HD_KV_ROW_MAX];                      /* the same, sixteen side by side */
};

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

/* NULL where a place is empty. */
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

/* Brings what lies at a place nearer: rows that follow each other in a list lie apart. */
static void fetch(const struct view *v, int64_t i)
{
    int64_t p = v->lo + i, g;

    if (i < v->n_window) {
        if (p < v->span->pos0)
            hd_paged_fetch(v->ring, p, 1, p + 1);
    } else if (i >= v->pad && i < v->n) {
        g = v->sel ? v->sel[i - v->pad] : i - v->pad;
        if (g >= 0)
            hd_paged_fetch(v->entry, g, 1, g + 1);
    }
}

/* Lays the rows side by side; the last sixteen are filled up. */
static void turn(struct rows *r, int64_t dim)
{
    for (int64_t i = 0; i < r->n; i += 16) {
        const void *row[16];

        for (int64_t k = 0; k < 16; k++)
            row[k] = r->row[i + k < r->n ? i + k : r->n - 1];
        hd_k.interleave16(dim, row, r->turned + i * dim);
    }
}

/* n rows for n_head heads from h on. */
static void attend_block(const struct hd_call *c, const struct rows *r, int64_t n, struct sums *s, int64_t h0, int64_t n_head)
{
    int64_t dim = c->i[3], vdim = c->i[8];
    float p[MAX_GROUP][BLOCK], *out = s->out + h0 * vdim;

    hd_k.rows16_dot(dim, n, r->turned, c->f[0], s->q + h0 * dim, n_head, p);
    for (int64_t h = 0; h < n_head; h++) {
        float *m = &s->m[h0 + h], *den = &s->den[h0 + h], top = hd_k.largest(n, p[h]), corr;

        top = top > *m ? top : *m;
        corr = *m == top ? 1 : expf(*m - top);
        *den = *den * corr + hd_k.exp_sum(n, p[h], top);
        *m = top;
        if (corr != 1)
            hd_k.scale(vdim, corr, out + h * vdim);
        if (c->i[6])
            for (int64_t i = 0; i < n; i++)
                p[h][i] = hd_round_bf16(p[h][i]);
    }
    hd_k.rows_mix(vdim, n, r->row, false, (const float(*)[BLOCK])p, n_head, out);
}

static void attend_heads(const struct hd_call *c, const struct rows *r, int64_t n, struct sums *s, int64_t n_head)
{
    for (int64_t h = 0; h < n_head; h += MAX_GROUP)
        attend_block(c, r, n, s, h, n_head - h < MAX_GROUP ? n_head - h : MAX_GROUP);
}

/* Places a .. end of one token's list. */
static void walk(const struct hd_call *c, const struct view *v, int64_t a, int64_t end, struct sums *s, int64_t n_head, struct rows *r)
{
    int64_t dim = c->i[3];

    for (; a < end; a += BLOCK) {
        r->n = 0;
        for (int64_t i = a; i < a + BLOCK && i < end; i++) {
            fetch(v, i + BLOCK);
            if ((r->row[r->n] = place(v, i, r->unpacked + r->n * (dim + 16))))
                r->n++;
        }
        if (!r->n)
            continue;
        turn(r, dim);
        attend_heads(c, r, r->n, s, n_head);
    }
}

/* Entries of a sequence for its tokens v[0 .. n_tok), each as many as it sees. */
static void walk_entries(const struct hd_call *c, const struct view *v, int64_t n_tok, struct sums *s, int64_t n_head, struct rows *r)
{
    int64_t dim = c->i[3], len = v[n_tok - 1].n - v[n_tok - 1].pad;
    const struct hd_paged *p = v->entry;
    const void *next[BLOCK];          /* rows of the next block, which are fetched meanwhile */

    hd_paged_rows(p, 0, len < BLOCK ? len : BLOCK, next);
    for (int64_t e = 0; e < len; e += BLOCK) {
        int64_t n_next = len - e - BLOCK < BLOCK ? len - e - BLOCK : BLOCK;

        r->n = len - e < BLOCK ? len - e : BLOCK;
        memcpy(r->row, next, (size_t)r->n * sizeof *next);
        if (n_next > 0)
            hd_paged_rows(p, e + BLOCK, n_next, next);
        for (int64_t i = 0; i < r->n && p->pack; i++) {
            for (int64_t at = 0; i < n_next && at < p->row_bytes; at += 64)
                __builtin_prefetch((const char *)next[i] + at, 0, 2);
            hd_k.kv_decode(p->pack, r->row[i], r->unpacked + i * (dim + 16));
            r->row[i] = r->unpacked + i * (dim + 16);
        }
        turn(r, dim);
        for (int64_t k = 0; k < n_tok; k++) {
            int64_t n = v[k].n - v[k].pad - e;

            if (n > 0)
                attend_heads(c, r, n < r->n ? n : r->n, &s[k], n_head);
        }
    }
}

/* Heads h0 .. of tokens t .. t + n_tok of one sequence. */
static void attend_tokens(const struct hd_call *c, int64_t seq, int64_t t, int64_t n_tok, int64_t h0, int64_t n_head, struct rows *r)
{
    int64_t dim = c->i[3], vdim = c->i[8];
    const float *sink = c->in[3] ? (const float *)c->in[3]->data + h0 : NULL;
    struct sums s[TOKENS];
    struct view v[TOKENS];

    HD_ASSERT(n_tok > 0 && n_tok <= TOKENS);
    for (int64_t k = 0; k < n_tok; k++) {
        look(c, t + k, seq, &v[k]);
        s[k].q = hd_cpu_row(c->in[0], t + k) + h0 * dim;
        s[k].out = hd_cpu_row(c->out[0], t + k) + h0 * vdim;
        memset(s[k].out, 0, (size_t)(n_head * vdim) * sizeof *s[k].out);
        for (int64_t h = 0; h < n_head; h++) {
            s[k].m[h] = -INFINITY;
            s[k].den[h] = 0;
        }
        walk(c, &v[k], 0, c->i[6] ? v[k].n : v[k].n_window, &s[k], n_head, r);
        if (!c->i[6] && v[k].sel)
            walk(c, &v[k], v[k].pad, v[k].n, &s[k], n_head, r);
    }
    if (!c->i[6] && c->i[1] >= 0 && !c->in[2])
        walk_entries(c, v, n_tok, s, n_head, r);
    for (int64_t k = 0; k < n_tok; k++)
        for (int64_t h = 0; h < n_head; h++)
            if (s[k].den[h] > 0)
                hd_k.scale(vdim, 1 / (s[k].den[h] + (sink ? expf(sink[h] - s[k].m[h]) : 0)), s[k].out + h * vdim);
}

struct job {
    const struct hd_call *c;
    int64_t tokens, heads;            /* of a task */
};

static int64_t head_parts(const struct job *j)
{
    return (j->c->i[2] + j->heads - 1) / j->heads;
}

static void attend_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_span *span = j->c->batch->span;
    int64_t seq = 0, base = 0, parts = head_parts(j);
    struct rows r;

    for (int64_t i = begin; i < end; i++) {
        int64_t g = i / parts, h = i % parts * j->heads, t, left;

        while (g >= base + (span[seq].n_tok + j->tokens - 1) / j->tokens)
            base += (span[seq++].n_tok + j->tokens - 1) / j->tokens;
        t = span[seq].tok0 + (g - base) * j->tokens;
        left = span[seq].tok0 + span[seq].n_tok - t;
        attend_tokens(j->c, seq, t, left < j->tokens ? left : j->tokens, h, j->c->i[2] - h < j->heads ? j->c->i[2] - h : j->heads, &r);
    }
}

/* Several tokens share entries where there are enough for everybody; where there are not even tokens enough, heads are shared out. */
void hd_cpu_attend_sel(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;
    const struct hd_ragged *b = c->batch;
    int64_t n_thread = hd_pool_threads(cpu->pool), n_head = c->i[2], n = 0, parts, seen = c->i[1] < 0 && c->i[4] < b->max_pos ? c->i[4] : b->max_pos;
    struct job j = {.c = c, .tokens = b->n_tok / (4 * n_thread)};

    HD_ASSERT(c->i[3] <= HD_KV_ROW_MAX);
    j.tokens = j.tokens < 1 ? 1 : j.tokens < TOKENS ? j.tokens : TOKENS;
    for (int64_t seq = 0; seq < b->n_seq; seq++)
        n += (b->span[seq].n_tok + j.tokens - 1) / j.tokens;
    parts = n >= 2 * n_thread ? 1 : n_thread;
    j.heads = ((n_head + parts - 1) / parts + 3) / 4 * 4;
    j.heads = j.heads < MAX_HEAD ? j.heads : MAX_HEAD;
    n *= head_parts(&j);
    if (b->n_tok * hd_cols(c->in[0]) * seen <= 4 * HD_CPU_SMALL)
        attend_range(&j, 0, n);
    else
        hd_pool_for(cpu->pool, n, 1, attend_range, &j);
}
