/* cpu_attend_sel.c: attention over a window and compressed entries, all of them or those that the indexer selects.
 *
 * A token's own step is read from the step's tensors, older tokens from the window part. A list is walked in blocks of 64 places: the window from
 * its beginning, then selected entries, or all entries cut at absolute multiples of 64. So a token's bits do not depend on how its
 * neighbours were batched (the official mode walks window and entries as one list, the window padded as its code does). A block's rows are
 * unpacked and laid side by side once for all heads of a task, entries that everybody sees once for several tokens.
 *
 * Where products round their activations, so does attention (i[11]): rows (those of native caches are bf16 anyway), queries and shares of rows become bf16, sums
 * are f32. DeepSeek's own kernels do the same.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/cpu_sums.h"
#include "tensor/simulate.h"

#define BLOCK HD_ROWS_MAX
#define TOKENS 16                     /* that go through the same entries together */
#define MAX_GROUP 16                  /* query heads that go through rows together */
#define MAX_HEAD 256                  /* of a task */
#define FETCH BLOCK                   /* entries that are brought nearer while others are unpacked */
#define WIDE (HD_KV_ROW_MAX + 16)     /* rows of 2^n bytes would evict one another */

_Static_assert(BLOCK == HD_SUMS_RUN, "what scratch is made for");

/* What a token looks at: places 0 .. n of a list, the window's first. */
struct view {
    const struct hd_span *span;
    const struct hd_paged *ring, *entry;
    const struct hd_tensor *kv;
    const int32_t *sel;
    int64_t lo, n_window, pad, n;
};

/* Some heads of a token so far: unscaled outputs, the largest logits and the sums of exponentials below them. */
struct sums {
    const float *q;
    float *out, *m, *den;
};

/* As f32, or as words of two bf16 (struct hd_pair_kernels). */
struct rows {
    int64_t n;
    const void *row[BLOCK + FETCH];
    union {
        struct {
            _Alignas(64) float unpacked[BLOCK * WIDE];
            _Alignas(64) float turned[BLOCK * HD_KV_ROW_MAX];              /* the same, sixteen side by side */
        };
        struct {
            float one[HD_KV_ROW_MAX];
            _Alignas(64) uint32_t word[BLOCK * (HD_KV_ROW_MAX / 2 + 16)];
            _Alignas(64) uint32_t word_turned[BLOCK * HD_KV_ROW_MAX / 2];
            _Alignas(64) uint32_t couple[BLOCK / 2 * WIDE];                /* values of one row and the next */
        };
    };
};

/* Are operands rounded to bf16? */
static bool rounds(const struct hd_call *c)
{
    return c->i[11];
}

static bool paired(const struct hd_call *c)
{
    return rounds(c) && hd_k.pair.encode;
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

/* Where row i is unpacked. */
static float *place_for(const struct hd_call *c, struct rows *r, int64_t i)
{
    return paired(c) ? r->one : r->unpacked + i * (c->i[3] + 16);
}

/* Row i, unpacked or as it lies in a cache of f32, in the form that its products take. */
static void keep(const struct hd_call *c, struct rows *r, int64_t i, const float *row)
{
    int64_t dim = c->i[3];
    uint32_t *word = r->word + i * (dim / 2 + 16);
    float *own = place_for(c, r, i);

    if (paired(c))
        hd_k.pair.encode(dim, row, word);
    else if (rounds(c))
        hd_k.bf16_operand(dim, row, own);
    r->row[i] = paired(c) ? (const void *)word : rounds(c) ? own : row;
}

/* Lays the rows side by side; the last sixteen are filled up. */
static void turn(const struct hd_call *c, struct rows *r)
{
    int64_t dim = paired(c) ? (c->i[3] + 1) / 2 : c->i[3];

    for (int64_t i = 0; i < r->n; i += 16) {
        const void *row[16];

        for (int64_t k = 0; k < 16; k++)
            row[k] = r->row[i + k < r->n ? i + k : r->n - 1];
        hd_k.interleave16(dim, row, (paired(c) ? (float *)r->word_turned : r->turned) + i * dim);
    }
    for (int64_t i = 0; paired(c) && i < r->n; i += 2)
        hd_k.pair.couple(c->i[8], r->row[i], i + 1 < r->n ? r->row[i + 1] : NULL, r->couple + i / 2 * (c->i[8] + 16));
}

/* Queries of n_head heads in the form that their products take, in their place. */
static void take_queries(const struct hd_call *c, float *q, int64_t n_head)
{
    int64_t dim = c->i[3];

    if (paired(c))
        for (int64_t h = 0; h < n_head; h++)
            hd_k.pair.encode(dim, q + h * dim, (uint32_t *)(q + h * dim));
    else if (rounds(c))
        hd_k.bf16_operand(n_head * dim, q, q);
}

/* Heads h0 .. h0 + n_head of a token from the beginning. */
static void clear(const struct hd_call *c, const struct sums *s, int64_t n_head)
{
    memset(s->out, 0, (size_t)(n_head * c->i[8]) * sizeof *s->out);
    for (int64_t h = 0; h < n_head; h++) {
        s->m[h] = -INFINITY;
        s->den[h] = 0;
    }
}

static struct sums from_head(const struct hd_call *c, const struct sums *s, int64_t h)
{
    return (struct sums){s->q + h * c->i[3], s->out + h * c->i[8], s->m + h, s->den + h};
}

/* The first n rows for n_head heads. */
static void attend_block(const struct hd_call *c, const struct rows *r, int64_t n, const struct sums *s, int64_t n_head)
{
    int64_t dim = c->i[3], vdim = c->i[8];
    float p[MAX_GROUP][BLOCK];

    if (paired(c))
        hd_k.pair.rows16_dot((dim + 1) / 2, n, r->word_turned, c->f[0], (const uint32_t *)s->q, dim, n_head, p);
    else
        hd_k.rows16_dot(dim, n, r->turned, c->f[0], s->q, n_head, p);
    for (int64_t h = 0; h < n_head; h++) {
        float top = hd_cpu_max(n, p[h], s->m[h]), corr = hd_cpu_share(s->m[h], top);

        s->den[h] = s->den[h] * corr + hd_k.exp_sum(n, p[h], top);
        s->m[h] = top;
        if (corr != 1)
            hd_k.scale(vdim, corr, s->out + h * vdim);
        if (c->i[6])
            for (int64_t i = 0; i < n; i++)
                p[h][i] = hd_round_bf16(p[h][i]);
        if (paired(c))
            hd_k.pair.encode(n, p[h], (uint32_t *)p[h]);
        else if (rounds(c))
            hd_k.bf16_operand(n, p[h], p[h]);
    }
    if (paired(c))
        hd_k.pair.rows_mix(vdim, (n + 1) / 2, r->couple, vdim + 16, (const float(*)[BLOCK])p, n_head, s->out);
    else
        hd_k.rows_mix(vdim, n, r->row, false, (const float(*)[BLOCK])p, n_head, s->out);
}

/* Places a .. end of one token's list. */
static void walk(const struct hd_call *c, const struct view *v, int64_t a, int64_t end, const struct sums *s, int64_t n_head, struct rows *r)
{
    for (; a < end; a += BLOCK) {
        r->n = 0;
        for (int64_t i = a; i < a + BLOCK && i < end; i++) {
            const float *row;

            fetch(v, i + BLOCK);
            if ((row = place(v, i, place_for(c, r, r->n))))
                keep(c, r, r->n++, row);
        }
        if (!r->n)
            continue;
        turn(c, r);
        for (int64_t h = 0; h < n_head; h += MAX_GROUP) {
            struct sums some = from_head(c, s, h);

            attend_block(c, r, r->n, &some, n_head - h < MAX_GROUP ? n_head - h : MAX_GROUP);
        }
    }
}

/* ---- entries that everybody sees ---- */

/* A block from entry e on, as many as there are below end. */
static void unpack_block(const struct hd_call *c, const struct hd_paged *p, int64_t e, int64_t end, struct rows *r)
{
    int64_t n = end - e < BLOCK + FETCH ? end - e : BLOCK + FETCH;           /* where those behind it lie, too */

    r->n = n < BLOCK ? n : BLOCK;
    hd_paged_rows(p, e, n, r->row);
    for (int64_t i = 0; i < r->n; i++) {
        const float *row = r->row[i];

        if (p->pack) {
            for (int64_t at = 0; i + FETCH < n && at < p->row_bytes; at += 64)
                __builtin_prefetch((const char *)r->row[i + FETCH] + at, 0, 2);
            row = place_for(c, r, i);
            hd_k.kv_decode(p->pack, r->row[i], place_for(c, r, i));
        }
        keep(c, r, i, row);
    }
    turn(c, r);
}

/* Adds a block's sums to those of what lies before it. */
static void merge(const struct hd_call *c, const struct sums *s, const struct sums *part, int64_t n_head)
{
    int64_t vdim = c->i[8];

    for (int64_t h = 0; h < n_head; h++)
        hd_cpu_merge_out(vdim, hd_cpu_merge_sums(&s->m[h], &s->den[h], part->m[h], part->den[h]), part->out + h * vdim, s->out + h * vdim);
}

/* Entries of a sequence for its tokens v[0 .. n_tok), each as many as it sees. */
static void walk_entries(const struct hd_call *c, const struct view *v, int64_t n_tok, const struct sums *s, int64_t n_head, struct rows *r)
{
    int64_t len = v[n_tok - 1].n - v[n_tok - 1].pad;
    float out[MAX_GROUP * HD_KV_ROW_MAX], m[MAX_GROUP], den[MAX_GROUP];

    for (int64_t e = 0; e < len; e += BLOCK) {
        unpack_block(c, v->entry, e, len, r);
        for (int64_t k = 0; k < n_tok; k++) {
            int64_t n = v[k].n - v[k].pad - e;

            for (int64_t h = 0; h < n_head && n > 0; h += MAX_GROUP) {
                int64_t heads = n_head - h < MAX_GROUP ? n_head - h : MAX_GROUP;
                struct sums some = from_head(c, &s[k], h), part = {some.q, out, m, den};

                clear(c, &part, heads);
                attend_block(c, r, n < r->n ? n : r->n, &part, heads);
                merge(c, &some, &part, heads);
            }
        }
    }
}

/* ---- tokens and heads ---- */

/* Sums become means; sink: of the first head, or NULL. */
static void divide(const struct hd_call *c, const struct sums *s, const float *sink, int64_t n_head)
{
    int64_t vdim = c->i[8];

    for (int64_t h = 0; h < n_head; h++)
        if (s->den[h] > 0)
            hd_k.scale(vdim, 1 / (s->den[h] + (sink ? expf(sink[h] - s->m[h]) : 0)), s->out + h * vdim);
}

static const float *sink_of(const struct hd_call *c, int64_t h)
{
    return c->in[3] ? (const float *)c->in[3]->data + h : NULL;
}

/* Heads h0 .. of tokens t .. t + n_tok of one sequence. */
static void attend_tokens(const struct hd_call *c, int64_t seq, int64_t t, int64_t n_tok, int64_t h0, int64_t n_head, struct rows *r)
{
    float m[TOKENS][MAX_HEAD], den[TOKENS][MAX_HEAD];
    struct sums s[TOKENS];
    struct view v[TOKENS];

    HD_ASSERT(n_tok > 0 && n_tok <= TOKENS);
    for (int64_t k = 0; k < n_tok; k++) {
        look(c, t + k, seq, &v[k]);
        s[k] = (struct sums){hd_cpu_row(c->in[0], t + k) + h0 * c->i[3], hd_cpu_row(c->out[0], t + k) + h0 * c->i[8], m[k], den[k]};
        clear(c, &s[k], n_head);
        take_queries(c, hd_cpu_row(c->in[0], t + k) + h0 * c->i[3], n_head);
        walk(c, &v[k], 0, c->i[6] ? v[k].n : v[k].n_window, &s[k], n_head, r);
        if (!c->i[6] && v[k].sel)
            walk(c, &v[k], v[k].pad, v[k].n, &s[k], n_head, r);
    }
    if (!c->i[6] && c->i[1] >= 0 && !c->in[2])
        walk_entries(c, v, n_tok, s, n_head, r);
    for (int64_t k = 0; k < n_tok; k++)
        divide(c, &s[k], sink_of(c, h0), n_head);
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

/* ---- a token whose blocks of entries are shared out ---- */

/* Piece 0 is the window, piece 1 + i block i. A round is as many pieces as there is room for sums. */
struct pieces {
    const struct hd_call *c;
    struct view v;
    struct sums s;
    float m[MAX_HEAD], den[MAX_HEAD];
    int64_t first, n;                 /* of the round */
};

static struct sums piece_sums(const struct pieces *p, int64_t i)
{
    float *out = hd_cpu_row(p->c->in[4], i), *m = out + p->c->i[2] * p->c->i[8];

    return (struct sums){p->s.q, out, m, m + p->c->i[2]};
}

static void piece_range(void *arg, int64_t begin, int64_t end)
{
    const struct pieces *p = arg;
    const struct hd_call *c = p->c;
    int64_t n_head = c->i[2];
    struct rows r;

    for (int64_t i = begin; i < end; i++) {
        struct sums part = piece_sums(p, i);

        if (p->first + i == 0) {
            clear(c, &p->s, n_head);
            walk(c, &p->v, 0, p->v.n_window, &p->s, n_head, &r);
            continue;
        }
        unpack_block(c, p->v.entry, (p->first + i - 1) * BLOCK, p->v.n - p->v.pad, &r);
        clear(c, &part, n_head);
        for (int64_t h = 0; h < n_head; h += MAX_GROUP) {
            struct sums some = from_head(c, &part, h);

            attend_block(c, &r, r.n, &some, n_head - h < MAX_GROUP ? n_head - h : MAX_GROUP);
        }
    }
}

static void merge_range(void *arg, int64_t begin, int64_t end)
{
    const struct pieces *p = arg;
    struct sums to = from_head(p->c, &p->s, begin);

    for (int64_t i = p->first ? 0 : 1; i < p->n; i++) {
        struct sums part = piece_sums(p, i);

        part = from_head(p->c, &part, begin);
        merge(p->c, &to, &part, end - begin);
    }
}

static int64_t n_block(const struct view *v)
{
    return (v->n - v->pad + BLOCK - 1) / BLOCK;
}

static void attend_pieces(struct hd_cpu *cpu, const struct hd_call *c, int64_t seq, int64_t t)
{
    struct pieces p = {.c = c, .s = {hd_cpu_row(c->in[0], t), hd_cpu_row(c->out[0], t), NULL, NULL}};
    int64_t n, room = hd_rows(c->in[4]);

    look(c, t, seq, &p.v);
    take_queries(c, hd_cpu_row(c->in[0], t), c->i[2]);
    n = 1 + n_block(&p.v);
    p.s.m = p.m;
    p.s.den = p.den;
    for (; p.first < n; p.first += p.n) {
        p.n = n - p.first < room ? n - p.first : room;
        hd_pool_for(cpu->pool, p.n, 1, piece_range, &p);
        hd_cpu_rows(cpu, c->i[2], p.n * c->i[8], merge_range, &p);
    }
    divide(c, &p.s, sink_of(c, 0), c->i[2]);
}

/* Where a few heads go through many entries, whoever takes a part of the heads would unpack all of the entries for them. */
static bool by_blocks(const struct hd_call *c, int64_t n_thread, int64_t n_part)
{
    int64_t seq = 0, n_head = c->i[2];
    struct view v;

    if (!c->in[4] || c->i[6] || n_thread < 2 || n_head > MAX_HEAD || n_head >= MAX_GROUP * n_thread)
        return false;
    for (int64_t t = 0; t < c->batch->n_tok; t++) {
        hd_cpu_span(c->batch, t, &seq);
        look(c, t, seq, &v);
        if (n_block(&v) <= n_part)
            return false;
    }
    return true;
}

/* ---- the op ---- */

static void attend_each(struct hd_cpu *cpu, const struct hd_call *c)
{
    int64_t seq = 0;

    for (int64_t t = 0; t < c->batch->n_tok; t++) {
        hd_cpu_span(c->batch, t, &seq);
        attend_pieces(cpu, c, seq, t);
    }
}

/* Several tokens share entries where there are enough for everybody; where there are not even tokens enough, blocks or heads are shared out. */
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
    if (b->n_tok * hd_cols(c->in[0]) * seen <= 4 * HD_CPU_SMALL)
        attend_range(&j, 0, n * head_parts(&j));
    else if (parts > 1 && by_blocks(c, n_thread, head_parts(&j)))
        attend_each(cpu, c);
    else
        hd_pool_for(cpu->pool, n * head_parts(&j), 1, attend_range, &j);
}
