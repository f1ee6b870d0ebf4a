/* cpu_attend.c: causal grouped-query attention over cached rows, with an online softmax.
 *
 * A task is one token and one key/value head: the query heads that share the head's rows go through them together, so that
 * each row is fetched once (or some of them, where there are fewer such tasks than workers could do). Positions are walked in blocks cut at absolute multiples of BLOCK: a token sees the same
 * blocks, hence the same sums in the same order, whether it came alone, in a chunk or in a batch.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

#define BLOCK HD_ROWS_MAX
#define MAX_GROUP 16                  /* query heads done together; more are done in rounds */

static void attend_task(const struct hd_call *c, int64_t seq, int64_t t, int64_t kv_head, int64_t h0, int64_t n_head)
{
    const struct hd_ragged *b = c->batch;
    const struct hd_paged *pk = &b->part[seq * b->n_part + c->i[0]], *pv = &b->part[seq * b->n_part + c->i[1]];
    int64_t dim = c->i[3], window = c->i[4], pos = b->pos[t], lo = window > 0 && pos + 1 > window ? pos + 1 - window : 0;
    const float *q = (const float *)((const char *)c->in[0]->data + t * c->in[0]->row_bytes) + h0 * dim;
    float *out = (float *)((char *)c->out[0]->data + t * c->out[0]->row_bytes) + h0 * dim;
    float m[MAX_GROUP], den[MAX_GROUP], p[MAX_GROUP][BLOCK];
    bool f16 = pk->type == HD_F16;
    size_t skip = (size_t)(kv_head * dim) * (f16 ? 2 : 4);

    for (int64_t h = 0; h < n_head; h++) {
        m[h] = -INFINITY;
        den[h] = 0;
    }
    memset(out, 0, (size_t)(n_head * dim) * sizeof(float));
    for (int64_t a = lo; a <= pos;) {
        int64_t end = (a / BLOCK + 1) * BLOCK, n = (end > pos + 1 ? pos + 1 : end) - a;
        const void *rows[BLOCK], *vals[BLOCK];
        float corr[MAX_GROUP];

        for (int64_t i = 0; i < n; i++) {
            rows[i] = (const char *)hd_paged_row(pk, a + i) + skip;
            vals[i] = (const char *)hd_paged_row(pv, a + i) + skip;
        }
        hd_k.rows_dot(dim, n, rows, f16, c->f[0], q, n_head, p);
        for (int64_t h = 0; h < n_head; h++) {
            float top = m[h], sum;

            for (int64_t i = 0; i < n; i++)
                top = p[h][i] > top ? p[h][i] : top;
            corr[h] = m[h] == top ? 1 : expf(m[h] - top);
            sum = hd_k.exp_sum(n, p[h], top);
            den[h] = den[h] * corr[h] + sum;
            m[h] = top;
            if (corr[h] != 1)
                hd_k.scale(dim, corr[h], out + h * dim);
        }
        hd_k.rows_mix(dim, n, vals, f16, (const float(*)[BLOCK])p, n_head, out);
        a += n;
    }
    for (int64_t h = 0; h < n_head; h++)
        hd_k.scale(dim, 1 / den[h], out + h * dim);
}

struct job {
    const struct hd_call *c;
    int64_t group, heads, parts;      /* query heads that share a key/value head; of a task; tasks that make up a group */
};

static void attend_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_ragged *b = j->c->batch;
    int64_t n_kv = j->c->i[2], seq = 0;

    for (int64_t i = begin; i < end; i++) {
        int64_t t = i / (n_kv * j->parts), kv_head = i / j->parts % n_kv, h = i % j->parts * j->heads, n = j->group - h;

        hd_cpu_span(b, t, &seq);
        attend_task(j->c, seq, t, kv_head, kv_head * j->group + h, n < j->heads ? n : j->heads);
    }
}

void hd_cpu_attend(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;
    struct job j = {.c = c, .group = hd_cols(c->in[0]) / (c->i[2] * c->i[3])};
    int64_t n = c->batch->n_tok * c->i[2], work = 0;

    if (s->tape) {                    /* training: whole sequences */
        hd_cpu_attend_taped(self, s, c);
        return;
    }
    for (int64_t i = 0; i < c->batch->n_seq; i++)
        work += c->batch->span[i].n_tok * (c->batch->span[i].pos0 + c->batch->span[i].n_tok) * hd_cols(c->in[0]);
    j.heads = j.group < MAX_GROUP ? j.group : MAX_GROUP;
    while (j.heads > 1 && n * ((j.group + j.heads - 1) / j.heads) < 3 * hd_pool_threads(cpu->pool))
        j.heads = (j.heads + 1) / 2;      /* too few tasks for the team: fewer heads each, though rows are fetched more often */
    j.parts = (j.group + j.heads - 1) / j.heads;
    n *= j.parts;
    if (work <= 4 * HD_CPU_SMALL)
        attend_range(&j, 0, n);
    else
        hd_pool_for(cpu->pool, n, 1, attend_range, &j);
}
