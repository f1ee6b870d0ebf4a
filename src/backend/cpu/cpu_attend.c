/* cpu_attend.c: causal grouped-query attention over cached rows, with an online softmax.
 *
 * A task is one key/value head and a token, or several that follow each other: the query heads that share the head's rows go through them together,
 * so that each row is fetched once (fewer heads where there are fewer such tasks than workers could do). Positions are walked in blocks cut at absolute
 * multiples of BLOCK: a token sees the same blocks, hence the same sums in the same order, whether it came alone, in a chunk or in a batch.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

#define BLOCK HD_ROWS_MAX
#define MAX_GROUP 16                  /* query heads done together, of one token or of several; more are done in rounds */
#define MAX_DIM 256                   /* of heads of several tokens, which are laid side by side */

/* Query heads that go through the same rows: of one token or of several, dim values apart. */
struct heads {
    const float *q;
    float *out, m[MAX_GROUP], den[MAX_GROUP];
};

/* n rows for heads h0 .. h0 + n_head. */
static void attend_rows(const struct hd_call *c, int64_t n, const void *const *row, const void *const *val, bool f16, struct heads *s, int64_t h0, int64_t n_head)
{
    int64_t dim = c->i[3];
    float p[MAX_GROUP][BLOCK], *out = s->out + h0 * dim;

    hd_k.rows_dot(dim, n, row, f16, c->f[0], s->q + h0 * dim, n_head, p);
    for (int64_t h = 0; h < n_head; h++) {
        float *m = &s->m[h0 + h], *den = &s->den[h0 + h], top = hd_cpu_max(n, p[h], *m), corr = *m == top ? 1 : expf(*m - top);

        *den = *den * corr + hd_k.exp_sum(n, p[h], top);
        *m = top;
        if (corr != 1)
            hd_k.scale(dim, corr, out + h * dim);
    }
    hd_k.rows_mix(dim, n, val, f16, (const float(*)[BLOCK])p, n_head, out);
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

void hd_cpu_attend(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;
    struct job j = {.c = c, .group = hd_cols(c->in[0]) / (c->i[2] * c->i[3]), .tokens = 1};
    int64_t n = c->batch->n_tok * c->i[2], runs = 0, work = 0, few = 3 * hd_pool_threads(cpu->pool);

    if (s->tape) {                    /* training: whole sequences */
        hd_cpu_attend_taped(self, s, c);
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
