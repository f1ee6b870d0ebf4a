/* cpu_attend_gqa.c: grouped-query attention of training, there and back: blocks of queries against all keys that they see, as products of matrices.
 *
 * With p = softmax(scale q k), out = sum p v: dp = dout v, ds = p (dp - sum p dp) scale, dq = sum ds k, dk += ds q, dv += p dout. Probabilities are computed again on
 * the way back, from the same products: nothing of the forward pass is kept. Rows of keys are shared by tokens, so a task of the way back is a whole sequence and key/value
 * head; forward it may be some blocks of it, each of which packs the keys for itself. */
#pragma GCC optimize("O3")            /* loops over columns, in vectors */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "backend/cpu/gemm.h"

#define QUERIES 56                    /* of a block: whole tiles, and few products above the diagonal */

/* One head's rows of a sequence side by side, the same packed, and a block's probabilities. */
struct work {
    float *k, *v, *dk, *dv;           /* [T, dim] */
    float *k_turned, *v_turned, *k_plain, *v_plain, *rows;      /* packed: [dim, T] twice, [T, dim] twice in one place: k_plain on the way back, v_plain forward, [QUERIES, dim] */
    float *p, *ds;                    /* [QUERIES, keys]; ds: dp first */
};

struct job {
    struct hd_stream *s;
    const struct hd_call *c;
    const struct hd_tensor *dout;     /* NULL forward */
    struct hd_tensor dq;
    int64_t parts;                    /* of a sequence and head that are tasks; on the way back 1 */
    float *space;                     /* every worker's, n_space floats each; a task takes what is free */
    int64_t n_space, n_worker;
    atomic_bool *taken;
};

static struct work lay_out(enum hd_gemm_kind kind, float *at, int64_t n, int64_t dim)
{
    struct work w;

    w.k = at;
    w.v = w.k + n * dim;
    w.dk = w.v + n * dim;
    w.dv = w.dk + n * dim;
    w.p = w.dv + n * dim;
    w.ds = w.p + QUERIES * n;
    w.rows = w.ds + QUERIES * n;
    w.k_turned = w.rows + hd_gemm_packed(kind, dim, QUERIES);
    w.v_turned = w.k_turned + hd_gemm_packed(kind, n, dim);
    w.k_plain = w.v_turned + hd_gemm_packed(kind, n, dim);
    w.v_plain = w.k_plain;
    return w;
}

static int64_t work_floats(enum hd_gemm_kind kind, int64_t n, int64_t dim)
{
    return 4 * n * dim + 2 * QUERIES * n + hd_gemm_packed(kind, dim, QUERIES) + 2 * hd_gemm_packed(kind, n, dim) + hd_gemm_packed(kind, dim, n);
}

static float largest(int64_t n, const float *x)
{
    float top[16], all;
    int64_t i = 16;

    if (n < 16) {
        all = x[0];
        for (i = 1; i < n; i++)
            all = x[i] > all ? x[i] : all;
        return all;
    }
    memcpy(top, x, sizeof top);
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++)
            top[k] = x[i + k] > top[k] ? x[i + k] : top[k];
    for (; i < n; i++)
        top[0] = x[i] > top[0] ? x[i] : top[0];
    all = top[0];
    for (int k = 1; k < 16; k++)
        all = top[k] > all ? top[k] : all;
    return all;
}

/* p[n]: q k becomes exp(scale q k - the largest); their sum. */
static float exps(int64_t n, float scale, float *p)
{
    hd_k.scale(n, scale, p);
    return hd_k.exp_sum(n, p, largest(n, p));
}

static void zero_beside(float *p, int64_t n, int64_t first, int64_t end)
{
    memset(p, 0, (size_t)first * sizeof *p);
    memset(p + end, 0, (size_t)(n - end) * sizeof *p);
}

/* Keys first .. end of n: p becomes the probabilities and zeros beside them, ds from dp likewise. */
static void undo_softmax(float *p, float *ds, int64_t n, int64_t first, int64_t end, float scale)
{
    float sum = exps(end - first, scale, p + first), along;

    hd_k.scale(end - first, 1 / sum, p + first);
    along = hd_k.dot_f32(end - first, p + first, ds + first);
    for (int64_t i = first; i < end; i++)
        ds[i] = scale * p[i] * (ds[i] - along);
    zero_beside(p, n, first, end);
    zero_beside(ds, n, first, end);
}

/* The first key that is looked at for queries from q0 on: the first that q0 sees, or one up to a panel before it. */
static int64_t first_key(int64_t q0, int64_t window)
{
    return window > 0 && q0 + 1 > window ? (q0 + 1 - window) / hd_gemm_panel() * hd_gemm_panel() : 0;
}

/* Queries q0 .. q0 + m of head h, tokens tok0 + q0 .., against the keys that they see. */
static void attend_block(const struct job *j, const struct work *w, int64_t tok0, int64_t q0, int64_t m, int64_t h, int64_t len)
{
    const struct hd_call *c = j->c;
    enum hd_gemm_kind kind = hd_gemm_of(j->s);
    int64_t dim = c->i[3], window = c->i[4], lo = first_key(q0, window), n = q0 + m - lo;
    float *out = hd_cpu_row(c->out[0], tok0 + q0) + h * dim, sum[QUERIES];

    hd_gemm_alone(kind, m, n, dim, (struct hd_gemm_view){hd_cpu_row(c->in[0], tok0 + q0) + h * dim, c->in[0]->row_bytes / 4, 1}, w->k_turned + hd_gemm_at(kind, dim, 0, lo), dim, w->p, n,
                  false);
    for (int64_t r = 0; r < m; r++) {
        int64_t pos = q0 + r, first = window > 0 && pos + 1 > window ? pos + 1 - window - lo : 0;

        sum[r] = exps(pos + 1 - lo - first, c->f[0], w->p + r * n + first);
        zero_beside(w->p + r * n, n, first, pos + 1 - lo);
    }
    hd_gemm_alone(kind, m, dim, n, (struct hd_gemm_view){w->p, n, 1}, w->v_plain + hd_gemm_at(kind, len, lo, 0), len, out, c->out[0]->row_bytes / 4, false);
    for (int64_t r = 0; r < m; r++)
        hd_k.scale(dim, 1 / sum[r], out + r * (c->out[0]->row_bytes / 4));
}

static void undo_block(const struct job *j, const struct work *w, int64_t tok0, int64_t q0, int64_t m, int64_t h, int64_t len)
{
    const struct hd_call *c = j->c;
    enum hd_gemm_kind kind = hd_gemm_of(j->s);
    int64_t dim = c->i[3], window = c->i[4], lo = first_key(q0, window), n = q0 + m - lo;
    struct hd_gemm_view q = {hd_cpu_row(c->in[0], tok0 + q0) + h * dim, c->in[0]->row_bytes / 4, 1}, d = {hd_cpu_row(j->dout, tok0 + q0) + h * dim, j->dout->row_bytes / 4, 1};

    hd_gemm_alone(kind, m, n, dim, q, w->k_turned + hd_gemm_at(kind, dim, 0, lo), dim, w->p, n, false);
    hd_gemm_alone(kind, m, n, dim, d, w->v_turned + hd_gemm_at(kind, dim, 0, lo), dim, w->ds, n, false);
    for (int64_t r = 0; r < m; r++) {
        int64_t pos = q0 + r, first = window > 0 && pos + 1 > window ? pos + 1 - window : 0;

        undo_softmax(w->p + r * n, w->ds + r * n, n, first - lo, pos + 1 - lo, c->f[0]);
    }
    if (j->dq.data)
        hd_gemm_alone(kind, m, dim, n, (struct hd_gemm_view){w->ds, n, 1}, w->k_plain + hd_gemm_at(kind, len, lo, 0), len, hd_cpu_row(&j->dq, tok0 + q0) + h * dim, j->dq.row_bytes / 4, true);
    hd_gemm_pack(kind, dim, m, q, w->rows);
    hd_gemm_alone(kind, n, dim, m, (struct hd_gemm_view){w->ds, 1, n}, w->rows, m, w->dk + lo * dim, dim, true);
    hd_gemm_pack(kind, dim, m, d, w->rows);
    hd_gemm_alone(kind, n, dim, m, (struct hd_gemm_view){w->p, 1, n}, w->rows, m, w->dv + lo * dim, dim, true);
}

/* Rows of a part, one head's columns of them, into x; or x added to their gradients. */
static void gather(const struct hd_paged *part, int64_t n, int64_t skip, int64_t dim, float *x)
{
    HD_ASSERT(part->type == HD_F32 && !part->pack);
    for (int64_t i = 0; i < n; i++)
        memcpy(x + i * dim, (const float *)hd_paged_row(part, i) + skip, (size_t)dim * sizeof *x);
}

static void scatter(const struct job *j, const struct hd_paged *part, int64_t n, int64_t skip, int64_t dim, const float *x)
{
    for (int64_t i = 0; i < n; i++) {
        float *d = hd_grad_at(j->s, (const float *)hd_paged_row(part, i) + skip);

        if (d)
            hd_k.add(dim, d, x + i * dim, d);
    }
}

static void attend_head(const struct job *a, int64_t task, float *space)
{
    const struct hd_call *c = a->c;
    const struct hd_ragged *b = c->batch;
    enum hd_gemm_kind kind = hd_gemm_of(a->s);
    int64_t n_kv = c->i[2], dim = c->i[3], group = hd_cols(c->in[0]) / (n_kv * dim), seq = task / a->parts / n_kv, head = task / a->parts % n_kv, part = task % a->parts;
    int64_t blocks = (b->span[seq].n_tok + QUERIES - 1) / QUERIES, first = blocks * part / a->parts, end = blocks * (part + 1) / a->parts;
    int64_t n = end * QUERIES < b->span[seq].n_tok ? end * QUERIES : b->span[seq].n_tok;      /* keys that these queries see */
    const struct hd_paged *pk = &b->part[seq * b->n_part + c->i[0]], *pv = &b->part[seq * b->n_part + c->i[1]];
    struct work w;

    if (first == end)
        return;
    w = lay_out(kind, space, n, dim);
    gather(pk, n, head * dim, dim, w.k);
    gather(pv, n, head * dim, dim, w.v);
    hd_gemm_pack(kind, n, dim, (struct hd_gemm_view){w.k, 1, dim}, w.k_turned);
    if (!a->dout)
        hd_gemm_pack(kind, dim, n, (struct hd_gemm_view){w.v, dim, 1}, w.v_plain);
    if (a->dout) {
        memset(w.dk, 0, (size_t)(2 * n * dim) * sizeof(float));       /* dv too */
        hd_gemm_pack(kind, n, dim, (struct hd_gemm_view){w.v, 1, dim}, w.v_turned);
        hd_gemm_pack(kind, dim, n, (struct hd_gemm_view){w.k, dim, 1}, w.k_plain);
    }
    for (int64_t q0 = first * QUERIES; q0 < n; q0 += QUERIES)
        for (int64_t h = head * group; h < (head + 1) * group; h++)
            (a->dout ? undo_block : attend_block)(a, &w, b->span[seq].tok0, q0, n - q0 < QUERIES ? n - q0 : QUERIES, h, n);
    if (!a->dout)
        return;
    scatter(a, pk, n, head * dim, dim, w.dk);
    scatter(a, pv, n, head * dim, dim, w.dv);
}

static void attend_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *a = arg;
    int64_t mine = 0;

    while (atomic_exchange(&a->taken[mine], true))
        mine = (mine + 1) % a->n_worker;              /* as many places as workers: one is free */
    for (int64_t i = begin; i < end; i++)
        attend_head(a, i, a->space + mine * a->n_space);
    atomic_store(&a->taken[mine], false);
}

static void on_team(struct hd_cpu *cpu, struct job *a)
{
    const struct hd_call *c = a->c;
    const struct hd_ragged *b = c->batch;
    struct hd_arena_mark mark = hd_arena_mark(&a->s->tape->scratch);
    int64_t longest = 0, n_task = b->n_seq * c->i[2];

    a->n_worker = hd_pool_threads(cpu->pool);
    for (int64_t i = 0; i < b->n_seq; i++) {
        HD_ASSERT(b->span[i].pos0 == 0);
        longest = b->span[i].n_tok > longest ? b->span[i].n_tok : longest;
    }
    a->parts = 1;
    while (!a->dout && n_task * a->parts < 3 * a->n_worker && a->parts * QUERIES < longest)
        a->parts++;
    a->n_space = work_floats(hd_gemm_of(a->s), longest, c->i[3]);
    a->space = hd_tape_scratch(a->s, a->n_worker, a->n_space);
    a->taken = (void *)hd_tape_scratch(a->s, 1, a->n_worker);
    for (int64_t i = 0; hd_stream_ok(a->s) && i < a->n_worker; i++)
        atomic_init(&a->taken[i], false);
    if (hd_stream_ok(a->s))
        hd_pool_for(cpu->pool, n_task * a->parts, 1, attend_range, a);
    hd_arena_rewind(&a->s->tape->scratch, mark);
}

void hd_cpu_attend_taped(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct job a = {.s = s, .c = c};

    on_team(self, &a);
}

HD_CPU_BACK(attend)
{
    struct job a = {s, c, dout[0], hd_grad(s, c->in[0]), 0, NULL, 0, 0, NULL};

    on_team(self, &a);
}
