/* cpu_moe.c: choosing experts, and their sum.
 *
 * Tokens are grouped by expert, so that an expert's weights are read once a step however many tokens chose it. The rows of
 * all experts that somebody chose form one list of tiles, shared by the team: first gate and up of every slot, then (after
 * the activation) down. A token's experts are added in ascending order: who else is in the batch does not change a bit.
 * Experts that are not all in memory come in groups, as the stream's source has them: the same work on shorter lists.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"
#include "tensor/simulate.h"

#define TILE_BYTES (48 * 1024)
#define TILE_PANEL (128 * 1024)       /* of panels, few tokens an expert */
#define TILE_ROWS 256                 /* many */
#define MAX_EXPERT 4096

/* ---- the gate ---- */

static float score_of(enum hd_gate_fn fn, float x)
{
    return fn == HD_GATE_SIGMOID ? 1 / (1 + expf(-x)) : sqrtf(x > 20 ? x : log1pf(expf(x)));
}

static void scores(const struct hd_call *c, const float *logit, float *s)
{
    int64_t n = c->i[0];

    if (c->i[4] == HD_GATE_SOFTMAX) {
        float top = logit[0], sum = 0;

        for (int64_t e = 1; e < n; e++)
            top = fmaxf(top, logit[e]);
        for (int64_t e = 0; e < n; e++)
            sum += s[e] = expf(logit[e] / c->f[2] - top / c->f[2]);
        for (int64_t e = 0; e < n; e++)
            s[e] /= sum;
        return;
    }
    for (int64_t e = 0; e < n; e++)
        s[e] = score_of((enum hd_gate_fn)c->i[4], logit[e] / c->f[2]);
}

/* The k largest of v[n], best first, the earlier among equals; chosen ones become -inf. */
static void take_best(float *v, int64_t n, int64_t k, int32_t *idx)
{
    for (int64_t i = 0; i < k; i++) {
        int64_t best = -1;

        for (int64_t e = 0; e < n; e++)
            if (!isnan(v[e]) && (best < 0 || v[e] > v[best]))
                best = e;
        idx[i] = (int32_t)(best < 0 ? i : best);
        if (best >= 0)
            v[best] = NAN;
    }
}

/* Experts outside the best groups cannot be chosen. */
static void limit_groups(const struct hd_call *c, float *v)
{
    int64_t n_group = c->i[2], size = c->i[0] / n_group;
    float best[MAX_EXPERT];
    int32_t keep[MAX_EXPERT];
    bool kept[MAX_EXPERT] = {false};

    for (int64_t g = 0; g < n_group; g++) {
        float one = -INFINITY, two = -INFINITY;

        for (int64_t e = g * size; e < (g + 1) * size; e++) {
            if (v[e] > one) {
                two = one;
                one = v[e];
            } else if (v[e] > two) {
                two = v[e];
            }
        }
        best[g] = c->i[6] ? one + two : one;
    }
    take_best(best, n_group, c->i[3], keep);
    for (int64_t i = 0; i < c->i[3]; i++)
        kept[keep[i]] = true;
    for (int64_t e = 0; e < c->i[0]; e++)
        if (!kept[e / size])
            v[e] = -INFINITY;
}

static void gate_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n = c->i[0], k = c->i[1];
    float s[MAX_EXPERT], v[MAX_EXPERT];

    for (int64_t t = begin; t < end; t++) {
        int32_t *idx = (int32_t *)hd_cpu_row(c->out[0], t);
        float *w = hd_cpu_row(c->out[1], t), sum = 0;

        scores(c, hd_cpu_row(c->in[0], t), s);
        if (c->in[2]) {
            const struct hd_tensor *table = c->in[2];
            const char *row = (const char *)table->data + c->batch->ids[t] * table->row_bytes;

            for (int64_t i = 0; i < k; i++) {
                int64_t e = hd_int_at(table->type, row, i);

                idx[i] = (int32_t)(e < 0 || e >= n ? 0 : e);      /* validated when loaded; never out of bounds */
            }
        } else {
            memcpy(v, s, (size_t)n * sizeof *v);
            if (c->in[1])
                hd_k.add(n, v, c->in[1]->data, v);
            if (c->i[2] > 1)
                limit_groups(c, v);
            take_best(v, n, k, idx);
        }
        for (int64_t i = 0; i < k; i++)
            sum += w[i] = s[idx[i]];
        for (int64_t i = 0; i < k; i++)
            w[i] = (c->i[5] ? w[i] / (sum + c->f[0]) : w[i]) * c->f[1];
    }
}

void hd_cpu_gate(void *self, struct hd_stream *s, const struct hd_call *c)
{
    HD_ASSERT(c->i[0] <= MAX_EXPERT);
    hd_cpu_rows(self, c->batch->n_tok, 16 * c->i[0], gate_range, (void *)c);
}

/* ---- the experts ---- */

enum { X, IDX, WEIGHT, ORDER, XS, XQ, H, U, HQ, Y };

struct job {
    const struct hd_call *c;
    const int32_t *first;             /* [E + 1]: an expert's slots */
    const int32_t *slot_tok, *slot_of;/* token of a sorted slot; sorted slot of (token, choice) */
    const float *slot_weight;
    int64_t tile, n_out;              /* rows a tile; rows of the product now running */
    const struct hd_tensor *w[2];
    const struct hd_tensor *out[2];
    struct hd_acts in;
    int64_t tiles;                    /* per expert */
    int32_t *pick, *pick_tok;         /* experts that are computed now, and (of all that are chosen) how many tokens each has: scratch */
    int64_t n_pick;
    int64_t slot0;                    /* first sorted slot of the range that is activated now */
};

static void product_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;

    for (int64_t i = begin; i < end; i++) {
        int64_t e = j->pick[i / j->tiles], row0 = i % j->tiles * j->tile;
        int64_t n_row = j->n_out - row0 < j->tile ? j->n_out - row0 : j->tile;

        for (int k = 0; k < 2; k++) {
            int64_t some = j->w[k] ? hd_cpu_tok_block(&j->w[k][e]) : 0;

            for (int64_t t = j->first[e]; j->w[k] && t < j->first[e + 1]; t += some)
                hd_cpu_mul_rows(&j->w[k][e], row0, n_row, &j->in, t, j->first[e + 1] - t < some ? j->first[e + 1] - t : some, hd_cpu_row(j->out[k], t) + row0,
                               j->out[k]->row_bytes / 4);
        }
    }
}

static void product(struct hd_cpu *cpu, struct hd_stream *s, struct job *j, const struct hd_tensor *w0, const struct hd_tensor *w1, const struct hd_tensor *in, const struct hd_tensor *in_q,
                    const struct hd_tensor *out0, const struct hd_tensor *out1)
{
    const struct hd_tensor *any = &w0[j->pick[0]];
    bool one = j->first[j->c->i[0]] == j->n_pick;     /* token an expert: see cpu_matmul.c */
    int64_t step = !any->panels ? 8 : one ? 4 * HD_PANEL_ROWS : 2 * HD_PANEL_ROWS, tile = (any->panels ? TILE_PANEL : TILE_BYTES) / (any->row_bytes > 0 ? any->row_bytes : 1) / step * step;

    j->n_out = hd_rows(any);
    j->tile = any->panels && j->first[j->c->i[0]] > 2 * j->n_pick ? TILE_ROWS : tile < step ? step : tile;
    j->tiles = (j->n_out + j->tile - 1) / j->tile;
    j->w[0] = w0;
    j->w[1] = w1;
    j->in = (struct hd_acts){.f32 = in};
    hd_acts_add(&j->in, in_q);
    j->out[0] = out0;
    j->out[1] = out1;
    if (s->tape) {                    /* training: see cpu_matmul.c */
        for (int64_t i = 0; i < j->n_pick; i++)
            for (int k = 0; k < 2; k++)
                if (j->w[k]) {
                    int64_t e = j->pick[i];
                    struct hd_tensor x = hd_cpu_rows_of(in, j->first[e], j->first[e + 1] - j->first[e]), y = hd_cpu_rows_of(j->out[k], j->first[e], hd_rows(&x));

                    hd_cpu_product(cpu, s, &y, &x, &j->w[k][e], 0);
                }
        return;
    }
    hd_pool_for(cpu->pool, j->tiles * j->n_pick, 1, product_range, j);
}

/* Slots sorted by expert, then by token. order's rows: first[E + 1] | token of a slot, chosen experts[E] | slot of (token, choice), their tokens[E]. */
static void sort_slots(struct job *j)
{
    const struct hd_call *c = j->c;
    const struct hd_tensor *const *l = c->list;
    int64_t n_tok = hd_rows(l[X]), k = hd_cols(l[IDX]), n_expert = c->i[0];
    int32_t *first = (int32_t *)hd_cpu_row(l[ORDER], 0), *tok = (int32_t *)hd_cpu_row(l[ORDER], 1), *of = (int32_t *)hd_cpu_row(l[ORDER], 2);

    memset(first, 0, (size_t)(n_expert + 1) * sizeof *first);
    for (int64_t t = 0; t < n_tok; t++)
        for (int64_t i = 0; i < k; i++)
            first[((const int32_t *)hd_cpu_row(l[IDX], t))[i] + 1]++;
    for (int64_t e = 0; e < n_expert; e++)
        first[e + 1] += first[e];
    for (int64_t t = 0; t < n_tok; t++)
        for (int64_t i = 0; i < k; i++) {
            int32_t e = ((const int32_t *)hd_cpu_row(l[IDX], t))[i], s = first[e]++;

            tok[s] = (int32_t)t;
            of[t * k + i] = s;
        }
    memmove(first + 1, first, (size_t)n_expert * sizeof *first);
    first[0] = 0;
    j->first = first;
    j->slot_tok = tok;
    j->slot_of = of;
    j->pick = tok + n_tok * k;
    j->pick_tok = of + n_tok * k;
    for (int64_t e = 0; e < n_expert; e++)
        if (first[e + 1] > first[e]) {
            j->pick[j->n_pick] = (int32_t)e;
            j->pick_tok[j->n_pick++] = first[e + 1] - first[e];
        }
}

/* A token is quantised once, for its first choice; the others get copies. */
static void gather_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_tensor *const *l = j->c->list;
    int64_t d = hd_cols(l[X]), k = hd_cols(l[IDX]);

    for (int64_t t = begin; t < end; t++) {
        const int32_t *slot = j->slot_of + t * k;
        float *x = hd_cpu_row(l[XS], slot[0]);

        memcpy(x, hd_cpu_row(l[X], t), (size_t)d * sizeof *x);
        if (j->c->i[3] && j->c->i[1])
            hd_simulate(HD_SIM_FP8, j->c->i[1], x, d);
        if (l[XQ])
            hd_cpu_quantise(l[XQ]->type, x, d, hd_cpu_row(l[XQ], slot[0]));
        for (int64_t i = 1; i < k; i++) {
            memcpy(hd_cpu_row(l[XS], slot[i]), x, (size_t)d * sizeof *x);
            if (l[XQ])
                memcpy(hd_cpu_row(l[XQ], slot[i]), hd_cpu_row(l[XQ], slot[0]), (size_t)l[XQ]->row_bytes);
        }
    }
}

/* The routing weight of a sorted slot. */
static float weight_of(const struct job *j, int64_t s)
{
    const struct hd_tensor *const *l = j->c->list;
    int64_t t = j->slot_tok[s], k = hd_cols(l[IDX]);

    for (int64_t i = 0; i < k; i++)
        if (j->slot_of[t * k + i] == s)
            return hd_cpu_row(l[WEIGHT], t)[i];
    return 0;
}

static void act_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_tensor *const *l = j->c->list;
    int64_t f = hd_cols(l[H]);
    float limit = j->c->f[0];
    bool official = j->c->i[3];

    for (int64_t s = j->slot0 + begin; s < j->slot0 + end; s++) {
        float *h = hd_cpu_row(l[H], s), *u = hd_cpu_row(l[U], s);

        if (official) {
            hd_simulate(HD_SIM_BF16, 0, h, f);
            hd_simulate(HD_SIM_BF16, 0, u, f);
        }
        if (limit > 0)
            for (int64_t i = 0; i < f; i++) {
                h[i] = h[i] > limit ? limit : h[i];
                u[i] = u[i] > limit ? limit : u[i] < -limit ? -limit : u[i];
            }
        hd_k.silu_mul(f, h, u, h);
        if (j->c->i[2])
            hd_k.scale(f, weight_of(j, s), h);
        if (official) {
            hd_simulate(HD_SIM_BF16, 0, h, f);
            if (j->c->i[1])
                hd_simulate(HD_SIM_FP8, j->c->i[1], h, f);
        }
        if (l[HQ])
            hd_cpu_quantise(l[HQ]->type, h, f, hd_cpu_row(l[HQ], s));
    }
}

static void sum_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_tensor *const *l = j->c->list;
    int64_t d = hd_cols(l[X]), k = hd_cols(l[IDX]);

    for (int64_t t = begin; t < end; t++) {
        float *out = hd_cpu_row(j->c->out[0], t);
        int32_t last = -1;

        memset(out, 0, (size_t)d * sizeof *out);
        for (int64_t i = 0; i < k; i++) {             /* sorted slots ascend with the expert */
            int32_t next = INT32_MAX;
            float *y;

            for (int64_t n = 0; n < k; n++)
                if (j->slot_of[t * k + n] > last && j->slot_of[t * k + n] < next)
                    next = j->slot_of[t * k + n];
            y = hd_cpu_row(l[Y], next);
            if (j->c->i[3])
                hd_simulate(HD_SIM_BF16, 0, y, d);
            if (!j->c->i[2])
                hd_k.scale(d, weight_of(j, next), y);
            hd_k.add(d, out, y, out);
            last = next;
        }
    }
}

static double picked_slots(const struct job *j)
{
    int64_t n = 0;

    for (int64_t i = 0; i < j->n_pick; i++)
        n += j->first[j->pick[i] + 1] - j->first[j->pick[i]];
    return (double)n;
}

/* The picked experts, which lie together among the sorted slots or come one by one. */
static void compute(struct hd_cpu *cpu, struct hd_stream *s, struct job *j, bool together)
{
    const struct hd_call *c = j->c;
    const struct hd_tensor *const *l = c->list;

    product(cpu, s, j, c->in[2], c->in[3], l[XS], l[XQ], l[H], l[U]);
    hd_profile_lap(s->profile, "moe: gate, up", 4 * picked_slots(j) * (double)(hd_cols(l[X]) * hd_cols(l[H])));
    for (int64_t i = 0; i < (together ? 1 : j->n_pick); i++) {
        int64_t n = together ? hd_rows(l[XS]) : j->first[j->pick[i] + 1] - j->first[j->pick[i]];

        j->slot0 = together ? 0 : j->first[j->pick[i]];
        hd_cpu_rows(cpu, n, 8 * hd_cols(l[H]), act_range, j);
    }
    hd_profile_lap(s->profile, "moe: activation", 0);
    product(cpu, s, j, c->in[4], NULL, l[H], l[HQ], l[Y], NULL);
    hd_profile_lap(s->profile, "moe: down", 2 * picked_slots(j) * (double)(hd_cols(l[X]) * hd_cols(l[H])));
}

/* In groups, as the source has them ready. */
static void compute_sourced(struct hd_cpu *cpu, struct hd_stream *s, struct job *j)
{
    const struct hd_source *src = s->source;
    struct hd_err err;

    while ((j->n_pick = src->take(src->self, j->pick, j->c->i[0], &err)) > 0) {
        compute(cpu, s, j, false);
        src->give(src->self, j->pick, j->n_pick);
    }
    src->drop(src->self);
    if (j->n_pick < 0)
        hd_stream_fail(s, (int)j->n_pick, "%s", err.msg);
}

void hd_cpu_moe(void *self, struct hd_stream *s, const struct hd_call *c)
{
    const struct hd_tensor *const *l = c->list;
    struct job j = {.c = c};
    int64_t slots = hd_rows(l[XS]);
    bool sourced;

    if (!slots)
        return;
    sort_slots(&j);
    sourced = s->source && s->source->want(s->source->self, c->in[2], j.pick, j.pick_tok, j.n_pick);
    hd_cpu_rows(self, hd_rows(l[X]), 2 * hd_cols(l[XS]) * hd_cols(l[IDX]), gather_range, &j);
    hd_profile_lap(s->profile, "moe: gather", 0);
    if (sourced)
        compute_sourced(self, s, &j);
    else
        compute(self, s, &j, true);
    if (hd_stream_ok(s))
        hd_cpu_rows(self, hd_rows(l[X]), hd_cols(l[XS]) * hd_cols(l[IDX]), sum_range, &j);
}
