/* cpu_attend.c: causal grouped-query attention over cached rows.
 *
 * Positions are walked in blocks cut at absolute multiples of BLOCK, each with sums of its own (cpu_sums.h): a token sees the same blocks, hence the
 * same sums in the same order, whether it came alone, in a chunk or in a batch. A task is one key/value head and a token, or several that follow
 * each other: the query heads that share the head's rows go through them together, so that each row is fetched once (fewer heads where there are fewer
 * such tasks than workers could do). Few tokens that see many positions are shared out by blocks instead, each for all heads.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "backend/cpu/cpu_sums.h"

#define BLOCK HD_ROWS_MAX
#define MAX_GROUP 16                  /* query heads done together, of one token or of several; more are done in rounds */
#define MAX_DIM 256                   /* of heads of several tokens, which are laid side by side */
#define MAX_HEAD 256                  /* of a token whose blocks are shared out */
#define PART (MAX_GROUP * MAX_DIM)    /* outputs of a block at once */

_Static_assert(BLOCK == HD_SUMS_RUN, "what scratch is made for");

/* Query heads that go through the same rows: of one token or of several, dim values apart. */
struct heads {
    const float *q;
    float *out, m[MAX_GROUP], den[MAX_GROUP];
};

/* A head's n logits: p[i] = exp(p[i] - m), and their sum. */
static void weigh(int64_t n, float *p, float *m, float *den)
{
    *m = hd_cpu_max(n, p, -INFINITY);
    *den = hd_k.exp_sum(n, p, *m);
}

/* Adds what n rows give to heads h0 .. h0 + n_head. */
static void attend_rows(const struct hd_call *c, int64_t n, const void *const *row, const void *const *val, bool f16, struct heads *s, int64_t h0, int64_t n_head)
{
    int64_t dim = c->i[3], cols = dim < PART ? dim : PART, some = PART / cols;
    float p[MAX_GROUP][BLOCK], m[MAX_GROUP], den[MAX_GROUP], part[PART];
    struct hd_cpu_shares share[MAX_GROUP];

    hd_k.rows_dot(dim, n, row, f16, c->f[0], s->q + h0 * dim, n_head, p);
    for (int64_t h = 0; h < n_head; h++) {
        weigh(n, p[h], &m[h], &den[h]);
        share[h] = hd_cpu_merge_sums(&s->m[h0 + h], &s->den[h0 + h], m[h], den[h]);
    }
    for (int64_t k = 0; k < dim; k += cols) {
        int64_t w = dim - k < cols ? dim - k : cols;
        const void *at[BLOCK];

        for (int64_t i = 0; i < n; i++)
            at[i] = (const char *)val[i] + k * (f16 ? 2 : 4);
        for (int64_t h = 0; h < n_head; h += some) {
            int64_t now = n_head - h < some ? n_head - h : some;

            memset(part, 0, (size_t)(now * w) * sizeof *part);
            hd_k.rows_mix(w, n, at, f16, (const float(*)[BLOCK])p + h, now, part);
            for (int64_t i = 0; i < now; i++)
                hd_cpu_merge_out(w, share[h + i], part + i * w, s->out + (h0 + h + i) * dim + k);
        }
    }
}

static int64_t first_seen(int64_t pos, int64_t window)
{
    return window > 0 && pos + 1 > window ? pos + 1 - window : 0;
}

/* Positions base .. end, within a block, for n_tok tokens that follow each other from pos on: those that see all of them together. */
static void attend_block(const struct hd_call *c, const struct hd_paged *const part[2], int64_t skip, int64_t base, int64_t end, int64_t pos, int64_t n_tok, int64_t n_head, struct heads *s)
{
    const void *row[2][BLOCK];
    int64_t run;

    for (int k = 0; k < 2; k++) {
        hd_paged_rows(part[k], base, end - base, row[k]);
        for (int64_t i = 0; i < end - base; i++)
            row[k][i] = (const char *)row[k][i] + skip;
    }
    for (int64_t t = 0; t < n_tok; t += run) {
        int64_t lo = first_seen(pos + t, c->i[4]), a = lo > base ? lo : base, b = pos + t + 1 < end ? pos + t + 1 : end;

        for (run = 1; a == base && b == end && t + run < n_tok && first_seen(pos + t + run, c->i[4]) <= base;)
            run++;
        if (a < b)
            attend_rows(c, b - a, row[0] + (a - base), row[1] + (a - base), part[0]->type == HD_F16, s, t * n_head, run * n_head);
    }
}

/* Heads h0 .. of tokens t .. t + n_tok of one sequence: n_tok n_head at most MAX_GROUP, and dim at most MAX_DIM where there are several tokens. */
static void attend_task(const struct hd_call *c, int64_t seq, int64_t t, int64_t n_tok, int64_t kv_head, int64_t h0, int64_t n_head)
{
    const struct hd_ragged *b = c->batch;
    const struct hd_paged *const part[2] = {hd_cpu_part(b, seq, c->i[0]), hd_cpu_part(b, seq, c->i[1])};
    int64_t dim = c->i[3], pos = b->pos[t], skip = kv_head * dim * (part[0]->type == HD_F16 ? 2 : 4), bytes = n_head * dim * (int64_t)sizeof(float);
    float q[MAX_GROUP * MAX_DIM], out[MAX_GROUP * MAX_DIM];
    struct heads s = {.q = hd_cpu_row(c->in[0], t) + h0 * dim, .out = hd_cpu_row(c->out[0], t) + h0 * dim};

    if (n_tok > 1) {
        s.q = q;
        s.out = out;
        for (int64_t k = 0; k < n_tok; k++)
            memcpy(q + k * n_head * dim, hd_cpu_row(c->in[0], t + k) + h0 * dim, (size_t)bytes);
    }
    for (int64_t h = 0; h < n_tok * n_head; h++) {
        s.m[h] = -INFINITY;
        s.den[h] = 0;
    }
    memset(s.out, 0, (size_t)(n_tok * bytes));
    for (int64_t a = first_seen(pos, c->i[4]), end; a < pos + n_tok; a = end) {
        end = (a / BLOCK + 1) * BLOCK < pos + n_tok ? (a / BLOCK + 1) * BLOCK : pos + n_tok;
        attend_block(c, part, skip, a, end, pos, n_tok, n_head, &s);
    }
    for (int64_t h = 0; h < n_tok * n_head; h++)
        hd_k.scale(dim, 1 / s.den[h], s.out + h * dim);
    for (int64_t k = 0; k < n_tok && n_tok > 1; k++)
        memcpy(hd_cpu_row(c->out[0], t + k) + h0 * dim, out + k * n_head * dim, (size_t)bytes);
}

struct job {
    const struct hd_call *c;
    int64_t group, heads, parts;      /* query heads that share a key/value head; of a task; tasks that make up a group */
    int64_t tokens;                   /* of a task */
};

static int64_t runs_of(const struct job *j, int64_t seq)
{
    return (j->c->batch->span[seq].n_tok + j->tokens - 1) / j->tokens;
}

static void attend_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_span *span = j->c->batch->span;
    int64_t n_kv = j->c->i[2], seq = 0, base = 0;

    for (int64_t i = begin; i < end; i++) {
        int64_t run = i / (n_kv * j->parts), kv_head = i / j->parts % n_kv, h = i % j->parts * j->heads, n = j->group - h, t, left;

        while (run >= base + runs_of(j, seq))
            base += runs_of(j, seq++);
        t = (run - base) * j->tokens;
        left = span[seq].n_tok - t;
        attend_task(j->c, seq, span[seq].tok0 + t, left < j->tokens ? left : j->tokens, kv_head, kv_head * j->group + h, n < j->heads ? n : j->heads);
    }
}

/* ---- a token whose blocks are shared out ---- */

/* A round is as many blocks as there is room for sums, from block first on. */
struct pieces {
    const struct hd_call *c;
    const struct hd_paged *part[2];
    int64_t t, lo, end;               /* the token; what it sees */
    int64_t first, n;
    float *m, *den;                   /* [n_head] */
};

static float *piece_sums(const struct pieces *p, int64_t i, float **m, float **den)
{
    float *out = hd_cpu_row(p->c->in[1], i);

    *m = out + hd_cols(p->c->in[0]);
    *den = *m + hd_cols(p->c->in[0]) / p->c->i[3];
    return out;
}

/* Keys and values of a block; how many it has. */
static int64_t block_rows(const struct pieces *p, int64_t block, const void *row[2][BLOCK])
{
    int64_t a = block * BLOCK > p->lo ? block * BLOCK : p->lo, b = (block + 1) * BLOCK < p->end ? (block + 1) * BLOCK : p->end;

    for (int k = 0; k < 2 && a < b; k++)
        hd_paged_rows(p->part[k], a, b - a, row[k]);
    return a < b ? b - a : 0;
}

static void piece_range(void *arg, int64_t begin, int64_t end)
{
    const struct pieces *p = arg;
    const struct hd_call *c = p->c;
    bool f16 = p->part[0]->type == HD_F16;
    int64_t n_kv = c->i[2], dim = c->i[3], n_head = hd_cols(c->in[0]) / dim, group = n_head / n_kv, bytes = dim * (f16 ? 2 : 4);
    const float *q = hd_cpu_row(c->in[0], p->t);

    for (int64_t i = begin; i < end; i++) {
        float *m, *den, *out = piece_sums(p, i, &m, &den), w[MAX_GROUP][BLOCK];
        const void *row[2][BLOCK], *at[2][BLOCK];
        int64_t n = block_rows(p, p->first + i, row);

        memset(out, 0, (size_t)(n_head * dim) * sizeof *out);
        for (int64_t g = 0; g < n_kv; g++) {
            for (int k = 0; k < 2; k++)
                for (int64_t r = 0; r < n; r++)
                    at[k][r] = (const char *)row[k][r] + g * bytes;
            for (int64_t h = g * group; h < (g + 1) * group; h += MAX_GROUP) {
                int64_t some = (g + 1) * group - h < MAX_GROUP ? (g + 1) * group - h : MAX_GROUP;

                hd_k.rows_dot(dim, n, at[0], f16, c->f[0], q + h * dim, some, w);
                for (int64_t x = 0; x < some; x++)
                    weigh(n, w[x], &m[h + x], &den[h + x]);
                hd_k.rows_mix(dim, n, at[1], f16, (const float(*)[BLOCK])w, some, out + h * dim);
            }
        }
    }
}

/* Heads begin .. end. */
static void merge_range(void *arg, int64_t begin, int64_t end)
{
    const struct pieces *p = arg;
    int64_t dim = p->c->i[3];
    float *out = hd_cpu_row(p->c->out[0], p->t), *m, *den;

    for (int64_t h = begin; h < end; h++) {
        for (int64_t i = 0; i < p->n; i++) {
            const float *part = piece_sums(p, i, &m, &den);

            hd_cpu_merge_out(dim, hd_cpu_merge_sums(&p->m[h], &p->den[h], m[h], den[h]), part + h * dim, out + h * dim);
        }
        if (p->first + p->n == (p->end + BLOCK - 1) / BLOCK)
            hd_k.scale(dim, 1 / p->den[h], out + h * dim);
    }
}

static void attend_pieces(struct hd_cpu *cpu, const struct hd_call *c, int64_t seq, int64_t t)
{
    int64_t pos = c->batch->pos[t], dim = c->i[3], n_head = hd_cols(c->in[0]) / dim, last = pos / BLOCK + 1, room = hd_rows(c->in[1]), n_task = 4 * hd_pool_threads(cpu->pool);
    struct pieces p = {.c = c, .part = {hd_cpu_part(c->batch, seq, c->i[0]), hd_cpu_part(c->batch, seq, c->i[1])}, .t = t, .lo = first_seen(pos, c->i[4]), .end = pos + 1};
    float m[MAX_HEAD], den[MAX_HEAD];

    p.m = m;
    p.den = den;
    memset(hd_cpu_row(c->out[0], t), 0, (size_t)(n_head * dim) * sizeof(float));
    for (int64_t h = 0; h < n_head; h++) {
        m[h] = -INFINITY;
        den[h] = 0;
    }
    for (p.first = p.lo / BLOCK; p.first < last; p.first += p.n) {
        p.n = last - p.first < room ? last - p.first : room;
        hd_pool_for(cpu->pool, p.n, (p.n + n_task - 1) / n_task, piece_range, &p);
        hd_cpu_rows(cpu, n_head, p.n * dim, merge_range, &p);
    }
}

/* Few tokens far into a text: there are too few heads to share out. */
static bool by_blocks(const struct hd_call *c, int64_t n_thread)
{
    const struct hd_ragged *b = c->batch;

    if (!c->in[1] || n_thread < 2 || b->n_tok * c->i[2] >= 6 * n_thread || hd_cols(c->in[0]) / c->i[3] > MAX_HEAD)
        return false;
    for (int64_t t = 0; t < b->n_tok; t++)
        if (b->pos[t] - first_seen(b->pos[t], c->i[4]) < 2 * BLOCK * n_thread)
            return false;
    return true;
}

/* ---- the op ---- */

void hd_cpu_attend(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;
    struct job j = {.c = c, .group = hd_cols(c->in[0]) / (c->i[2] * c->i[3]), .tokens = 1};
    int64_t n = c->batch->n_tok * c->i[2], runs = 0, work = 0, few = 3 * hd_pool_threads(cpu->pool);

    if (s->tape) {                    /* training: whole sequences */
        hd_cpu_attend_taped(self, s, c);
        return;
    }
    if (by_blocks(c, hd_pool_threads(cpu->pool))) {
        int64_t seq = 0;

        for (int64_t t = 0; t < c->batch->n_tok; t++) {
            hd_cpu_span(c->batch, t, &seq);
            attend_pieces(cpu, c, seq, t);
        }
        return;
    }
    for (int64_t i = 0; i < c->batch->n_seq; i++)
        work += c->batch->span[i].n_tok * (c->batch->span[i].pos0 + c->batch->span[i].n_tok) * hd_cols(c->in[0]);
    j.heads = j.group < MAX_GROUP ? j.group : MAX_GROUP;
    while (j.heads > 1 && n * ((j.group + j.heads - 1) / j.heads) < few)
        j.heads = (j.heads + 1) / 2;      /* too few tasks for the team: fewer heads each, though rows are fetched more often */
    j.parts = (j.group + j.heads - 1) / j.heads;
    while (c->i[3] <= MAX_DIM && 2 * j.tokens * j.heads <= MAX_GROUP && n * j.parts / (2 * j.tokens) >= 2 * few)
        j.tokens *= 2;
    for (int64_t i = 0; i < c->batch->n_seq; i++)
        runs += runs_of(&j, i);
    n = runs * c->i[2] * j.parts;
    if (work <= 4 * HD_CPU_SMALL)
        attend_range(&j, 0, n);
    else
        hd_pool_for(cpu->pool, n, 1, attend_range, &j);
}
