/* ops_deep.c: front ends of the ops behind DeepSeek's blocks: rounding points, hyper-connections, sparse attention, experts. */
#include "ops/ops.h"

#include <math.h>
#include <string.h>

#include "ops/dispatch.h"
#include "ops/learn.h"
#include "tensor/panel.h"
#include "tensor/quant_q8.h"

struct hd_tensor *hd_slice(struct hd_stream *s, const struct hd_tensor *x, int64_t col0, int64_t n)
{
    struct hd_tensor *v = hd_new(s, x->type, 0, n);

    if (!hd_stream_ok(s))
        return v;
    *v = hd_view2(x->type, x->data ? (char *)x->data + hd_row_bytes(x->type, col0) : NULL, hd_rows(x), n);
    v->row_bytes = x->row_bytes;
    return v;
}

struct hd_tensor *hd_row(struct hd_stream *s, const struct hd_tensor *x, int64_t r)
{
    struct hd_tensor *v = hd_new(s, x->type, 0, hd_cols(x));

    if (hd_stream_ok(s))
        *v = hd_view1(x->type, x->data ? (char *)x->data + r * x->row_bytes : NULL, hd_cols(x));
    return v;
}

static void simulate(struct hd_stream *s, struct hd_tensor *x, enum hd_sim kind, int64_t block, int64_t head_dim, int64_t first, int64_t n)
{
    if (n > 0 && hd_require(s, hd_cols(x) % head_dim == 0 && first + n <= head_dim, HD_OP_SIMULATE, x, x))
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_SIMULATE, .n_out = 1, .out = {x}, .i = {kind, block, head_dim, first, n}});
}

void hd_sim(struct hd_stream *s, struct hd_tensor *x, enum hd_sim kind, int64_t block, int64_t head_dim, int64_t first, int64_t n)
{
    if (s->exact == HD_EXACT_OFFICIAL)
        simulate(s, x, kind, block, head_dim, first, n);
}

void hd_sim_kv(struct hd_stream *s, struct hd_tensor *x, enum hd_sim kind, int64_t block, int64_t head_dim, int64_t n, bool packed)
{
    if (!packed && s->exact != HD_EXACT_OFFICIAL)
        return;
    simulate(s, x, kind, block, head_dim, 0, n);
    if (packed)
        simulate(s, x, HD_SIM_BF16, 0, head_dim, n, head_dim - n);
}

void hd_bf16(struct hd_stream *s, struct hd_tensor *x)
{
    hd_sim(s, x, HD_SIM_BF16, 0, hd_cols(x), 0, hd_cols(x));
}

void hd_linear_n(struct hd_stream *s, int n, struct hd_tensor *const *out, const struct hd_tensor *x, const struct hd_tensor *const *w, int64_t act_block)
{
    struct hd_stream_mark mark = hd_stream_mark(s);

    if (s->exact == HD_EXACT_OFFICIAL && act_block) {
        struct hd_tensor *q = hd_new(s, HD_F32, hd_rows(x), hd_cols(x));

        hd_copies(s, q, x);
        hd_sim(s, q, HD_SIM_FP8, act_block, hd_cols(x), 0, hd_cols(x));
        x = q;
    }
    hd_matmul_n(s, n, out, x, w);
    for (int i = 0; i < n; i++)
        hd_bf16(s, out[i]);
    hd_stream_rewind(s, mark);
}

void hd_linear(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, int64_t act_block)
{
    hd_linear_n(s, 1, &out, x, &w, act_block);
}

void hd_scale(struct hd_stream *s, struct hd_tensor *x, float a)
{
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_SCALE, .n_out = 1, .out = {x}, .f = {a}});
}

void hd_head_norm(struct hd_stream *s, struct hd_tensor *x, int64_t head_dim, float eps)
{
    if (!hd_require(s, hd_cols(x) % head_dim == 0, HD_OP_HEAD_NORM, x, x))
        return;
    s->cost.flops += 3.0 * (double)hd_elems(x);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_HEAD_NORM, .n_out = 1, .out = {x}, .i = {head_dim, s->exact == HD_EXACT_OFFICIAL}, .f = {eps}});
}

void hd_hadamard(struct hd_stream *s, struct hd_tensor *x, int64_t head_dim)
{
    if (hd_require(s, hd_cols(x) % head_dim == 0 && !(head_dim & (head_dim - 1)), HD_OP_HADAMARD, x, x))
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_HADAMARD, .n_out = 1, .out = {x}, .i = {head_dim}});
}

/* ---- hyper-connections ---- */

void hd_copies(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *h)
{
    if (hd_require(s, hd_rows(x) == hd_rows(h) && hd_cols(h) && hd_cols(x) % hd_cols(h) == 0, HD_OP_COPIES, x, h))
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_COPIES, .n_out = 1, .out = {x}, .in = {h}});
}

void hd_mhc_mix(struct hd_stream *s, struct hd_tensor *mix, const struct hd_tensor *x, const struct hd_tensor *fn, const struct hd_tensor *base,
                const struct hd_tensor *scale, const struct hd_mhc_hp *hp)
{
    int64_t n = hd_cols(mix);

    if (!hd_require(s, hd_cols(fn) == hd_cols(x) && hd_rows(fn) == n && hd_elems(base) == n && (n == hp->n_hc || n == hp->n_hc * (2 + hp->n_hc)), HD_OP_MHC_MIX, x, fn) ||
        !hd_require(s, hd_rows(mix) == hd_rows(x) && hp->n_hc <= 8 && hd_elems(scale) >= (n == hp->n_hc ? 1 : 3), HD_OP_MHC_MIX, mix, scale))
        return;
    s->cost.flops += 2.0 * (double)(hd_rows(x) * hd_elems(fn));
    s->cost.weight_bytes += (double)hd_tensor_bytes(fn);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_MHC_MIX, .n_out = 1, .out = {mix}, .in = {x, fn, base, scale}, .i = {hp->n_hc, hp->n_iter, hp->form}, .f = {hp->norm_eps, hp->eps}});
}

void hd_mhc_pre(struct hd_stream *s, struct hd_tensor *u, const struct hd_tensor *x, const struct hd_tensor *mix, int64_t n_hc)
{
    if (!hd_require(s, hd_rows(u) == hd_rows(x) && hd_cols(u) * n_hc == hd_cols(x) && (!mix || hd_cols(mix) >= n_hc), HD_OP_MHC_PRE, u, x))
        return;
    s->cost.flops += 2.0 * (double)hd_elems(x);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_MHC_PRE, .n_out = 1, .out = {u}, .in = {x, mix}, .i = {n_hc}});
}

void hd_mhc_mean(struct hd_stream *s, struct hd_tensor *u, const struct hd_tensor *x, int64_t n_hc)
{
    if (hd_require(s, hd_rows(u) == hd_rows(x) && hd_cols(u) * n_hc == hd_cols(x), HD_OP_MHC_PRE, u, x))
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_MHC_PRE, .n_out = 1, .out = {u}, .in = {x}, .i = {n_hc, true}});
}

void hd_mhc_post(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *a, const struct hd_tensor *mix, int64_t n_hc)
{
    if (!hd_require(s, hd_rows(a) == hd_rows(x) && hd_cols(a) * n_hc == hd_cols(x) && hd_cols(mix) == n_hc * (2 + n_hc), HD_OP_MHC_POST, x, a))
        return;
    s->cost.flops += 2.0 * (double)((n_hc + 1) * hd_elems(x));
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_MHC_POST, .n_out = 1, .out = {x}, .in = {a, mix}, .i = {n_hc}});
}

/* ---- compressed and sparse attention ---- */

const struct hd_ragged *hd_entries(struct hd_stream *s, const struct hd_ragged *b, int64_t ratio)
{
    static const struct hd_ragged none;
    struct hd_ragged *e = hd_stream_ok(s) ? hd_arena_alloc(s->step, sizeof *e) : NULL;
    struct hd_span *span = e ? hd_arena_alloc(s->step, (size_t)b->n_seq * sizeof *span) : NULL;
    int64_t n = 0;
    int32_t *pos;

    if (span)
        for (int64_t i = 0; i < b->n_seq; i++) {
            int64_t first = b->span[i].pos0 / ratio, end = (b->span[i].pos0 + b->span[i].n_tok) / ratio;

            span[i] = (struct hd_span){.tok0 = n, .n_tok = end - first, .pos0 = first * ratio};
            n += end - first;
        }
    if (!span || !(pos = hd_arena_alloc(s->step, (size_t)(n ? n : 1) * sizeof *pos))) {
        hd_stream_fail(s, HD_ERR_MEMORY, "step: no memory for the groups of %lld tokens", (long long)b->n_tok);
        return &none;
    }
    for (int64_t i = 0; i < b->n_seq; i++)
        for (int64_t k = 0; k < span[i].n_tok; k++)
            pos[span[i].tok0 + k] = (int32_t)(span[i].pos0 + k * ratio);
    s->used += 3 * 64 + (int64_t)sizeof *e + b->n_seq * (int64_t)sizeof *span + n * 4;
    if (s->used > s->cost.arena_peak)
        s->cost.arena_peak = s->used;
    *e = (struct hd_ragged){.n_tok = n, .n_seq = b->n_seq, .pos = pos, .span = span, .part = b->part, .n_part = b->n_part, .max_pos = b->max_pos};
    return e;
}

void hd_ring_put(struct hd_stream *s, const struct hd_tensor *x, const struct hd_ragged *b, int part)
{
    if (!hd_require(s, hd_rows(x) == b->n_tok, HD_OP_RING_PUT, x, x))
        return;
    s->cost.kv_bytes += (double)hd_tensor_bytes(x);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_RING_PUT, .in = {x}, .batch = b, .i = {part}});
}

void hd_pool(struct hd_stream *s, struct hd_tensor *e, struct hd_tensor *z, struct hd_tensor *g, const struct hd_tensor *ape, const struct hd_ragged *b, int part,
             int64_t ratio, bool overlap)
{
    if (!hd_require(s, hd_cols(z) == hd_cols(g) && hd_rows(z) == b->n_tok && hd_cols(z) == (overlap ? 2 : 1) * hd_cols(e), HD_OP_POOL, z, e) ||
        !hd_require(s, !ape || hd_elems(ape) == ratio * hd_cols(g), HD_OP_POOL, g, ape ? ape : g))
        return;
    s->cost.flops += 8.0 * (double)hd_elems(z);
    s->cost.kv_bytes += 2.0 * (double)hd_tensor_bytes(z);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_POOL, .n_out = 3, .out = {e, z, g}, .in = {ape}, .batch = b, .i = {part, ratio, overlap}});
}

#define INDEX_SCRATCH ((int64_t)4 << 20)      /* scores of as many tokens as fit, and of one at least, are written down */

void hd_index(struct hd_stream *s, struct hd_tensor *sel, const struct hd_tensor *q, const struct hd_tensor *w, const struct hd_ragged *b, int part,
              const struct hd_index_hp *hp, struct hd_tensor *cand_out, const struct hd_tensor *cand_in)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *score, *q8 = NULL, *best;
    int64_t n_key, rows;
    double seen = 0;

    if (!hd_require(s, hd_rows(q) == b->n_tok && hd_cols(q) == hp->n_head * hp->head_dim && hd_cols(w) == hp->n_head && hd_cols(sel) == hp->top_k && hp->head_dim <= HD_KV_ROW_MAX && !(cand_in && cand_out), HD_OP_INDEX, q, w))
        return;
    for (int64_t i = 0; i < b->n_seq; i++)
        seen += (double)b->span[i].n_tok * ((double)b->span[i].pos0 + (double)b->span[i].n_tok / 2) / (double)hp->ratio;
    s->cost.flops += 2.0 * seen * (double)hd_cols(q);
    s->cost.kv_bytes += (double)(hp->row_bytes ? hp->row_bytes : 4 * hp->head_dim) * (double)b->max_pos / (double)hp->ratio * (double)b->n_seq;
    n_key = b->max_pos / hp->ratio + 1;
    rows = INDEX_SCRATCH / n_key < 1 ? 1 : INDEX_SCRATCH / n_key < b->n_tok ? INDEX_SCRATCH / n_key : b->n_tok;
    score = hd_new(s, HD_F32, rows, n_key + n_key / HD_INDEX_RUN + 1);
    if (s->exact == HD_EXACT_NONE && hp->head_dim % 32 == 0)
        q8 = hd_new(s, HD_I32, b->n_tok * hp->n_head, hp->head_dim / 32 * (int64_t)sizeof(struct hd_q8) / 4);    /* without fine parts */
    best = hd_new(s, HD_I32, b->n_tok, hd_choose_words(hp->top_k) + (cand_out ? hd_choose_words(hp->n_block) : 0));
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_INDEX,
                                     .n_out = 2,
                                     .out = {sel, cand_out},
                                     .in = {q, w, cand_in, score, q8, best},
                                     .batch = b,
                                     .i = {part, hp->n_head, hp->head_dim, hp->ratio, hp->top_k, hp->ascending, hp->block, hp->n_block, s->exact == HD_EXACT_OFFICIAL}});
    hd_stream_rewind(s, mark);
}

#define BF16_HEADS 16

bool hd_attends_bf16(const struct hd_stream *s, const struct hd_tensor *w, int64_t n_head)
{
    return !s->tape && n_head >= BF16_HEADS && hd_act_type(s, w, 0) != HD_F32;
}

void hd_attend_sel(struct hd_stream *s, struct hd_tensor *out, struct hd_tensor *q, const struct hd_tensor *kv, const struct hd_tensor *sel,
                   const struct hd_tensor *sink, const struct hd_ragged *b, const struct hd_attend_sel_hp *hp)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *sums = NULL;
    double seen = 0;

    if (!hd_require(s, hd_rows(q) == b->n_tok && hd_cols(q) == hp->n_head * hp->head_dim && hp->head_dim <= HD_KV_ROW_MAX && (!kv || hd_cols(kv) == hp->head_dim), HD_OP_ATTEND_SEL, q, kv ? kv : q) ||
        !hd_require(s, hd_cols(out) == hp->n_head * (hp->value_dim ? hp->value_dim : hp->head_dim) && (!sink || hd_elems(sink) == hp->n_head) && (!sel || hd_rows(sel) == b->n_tok), HD_OP_ATTEND_SEL, out, q))
        return;
    for (int64_t i = 0; i < b->n_seq; i++) {
        double mean = (double)b->span[i].pos0 + ((double)b->span[i].n_tok + 1) / 2, n = fmin(mean, (double)hp->window);

        if (hp->part_entry >= 0)
            n += fmin(mean / (double)hp->ratio, sel ? (double)hd_cols(sel) : 1e18);
        seen += (double)b->span[i].n_tok * n;
        s->cost.kv_bytes += n * (double)(hp->row_bytes ? hp->row_bytes : 4 * hp->head_dim);
    }
    s->cost.flops += 4.0 * seen * (double)hd_cols(q);
    if (hp->part_entry >= 0 && !sel && !s->tape && s->exact != HD_EXACT_OFFICIAL)
        sums = hd_sums_scratch(s, b->max_pos / hp->ratio, hp->n_head, hd_cols(out));
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_ATTEND_SEL,
                                     .n_out = 1,
                                     .out = {out},
                                     .in = {q, kv, sel, sink, sums},
                                     .batch = b,
                                     .i = {hp->part_window, hp->part_entry, hp->n_head, hp->head_dim, hp->window, hp->ratio, s->exact == HD_EXACT_OFFICIAL, sel ? hd_cols(sel) : 0, hp->value_dim ? hp->value_dim : hp->head_dim, hp->from_raw0, hp->block,
                                           hp->bf16},
                                     .f = {hp->scale}});
    if (sums)
        hd_stream_rewind(s, mark);
}

/* ---- experts ---- */

void hd_gate(struct hd_stream *s, struct hd_tensor *idx, struct hd_tensor *weight, const struct hd_tensor *logits, const struct hd_tensor *bias,
             const struct hd_tensor *table, const struct hd_ragged *b, const struct hd_gate_hp *hp)
{
    if (!hd_require(s, hd_rows(logits) == b->n_tok && hd_cols(logits) == hp->n_expert && hd_cols(idx) == hp->n_used && hd_cols(weight) == hp->n_used, HD_OP_GATE, logits, idx) ||
        !hd_require(s, (!bias || hd_elems(bias) == hp->n_expert) && (!table || hd_cols(table) == hp->n_used), HD_OP_GATE, logits, bias ? bias : logits))
        return;
    s->cost.flops += 8.0 * (double)hd_elems(logits);
    s->route = table;
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_GATE,
                                     .n_out = 2,
                                     .out = {idx, weight},
                                     .in = {logits, bias, table},
                                     .batch = b,
                                     .i = {hp->n_expert, hp->n_used, hp->n_group, hp->n_group_used, hp->fn, hp->norm, hp->group_top2},
                                     .f = {hp->norm_eps, hp->scale, hp->temp}});
}

void hd_moe(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *idx, const struct hd_tensor *weight,
            const struct hd_tensor *gate, const struct hd_tensor *up, const struct hd_tensor *down, const struct hd_moe_hp *hp)
{
    int64_t n = hd_rows(x), k = hd_cols(idx), d = hd_cols(x), f = hd_rows(gate), slots = n * k;
    double share = 1 - pow(1 - (double)k / (double)hp->n_expert, (double)n), bytes = 0;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *order, *xs, *xq = NULL, *h, *u, *hq = NULL, *y;
    enum hd_dtype act_in, act_mid;

    if (!hd_require(s, hd_rows(out) == n && hd_cols(out) == d && hd_rows(idx) == n && hd_cols(gate) == d, HD_OP_MOE, x, gate) ||
        !hd_require(s, hd_cols(down) == f && hd_rows(down) == d && hd_rows(up) == f && hd_cols(up) == d, HD_OP_MOE, up, down))
        return;
    act_in = hd_act_type(s, gate, 0);
    act_mid = hd_act_type(s, down, 0);
    if (s->meet.experts && !s->be)
        s->meet.experts(s->meet.arg, gate, up, down, hp->n_expert, s->route);
    for (int64_t e = 0; e < hp->n_expert; e++) {
        if (!s->meet.experts) {
            hd_meet_weight(s, &gate[e]);
            hd_meet_weight(s, &up[e]);
            hd_meet_weight(s, &down[e]);
        }
        bytes += (double)(hd_tensor_bytes(&gate[e]) + hd_tensor_bytes(&up[e]) + hd_tensor_bytes(&down[e]));
    }
    s->cost.flops += 6.0 * (double)slots * (double)(d * f);
    s->cost.weight_bytes += bytes * share;
    order = hd_new(s, HD_I32, 3, slots + hp->n_expert + 1);
    xs = hd_new(s, HD_F32, slots, d);
    h = hd_new(s, HD_F32, slots, f);
    u = hd_new(s, HD_F32, slots, f);
    y = hd_new(s, HD_F32, slots, d);
    if (act_in != HD_F32)
        xq = hd_new(s, act_in, slots, d);
    if (act_mid != HD_F32)
        hq = hd_new(s, act_mid, slots, f);
    /* scratch goes along as a list of tensors: the backend allocates nothing */
    const struct hd_tensor **list = hd_stream_ok(s) ? hd_arena_alloc(s->step, 10 * sizeof *list) : NULL;

    if (list) {
        const struct hd_tensor *all[] = {x, idx, weight, order, xs, xq, h, u, hq, y};

        s->used += 128;
        if (s->used > s->cost.arena_peak)
            s->cost.arena_peak = s->used;
        memcpy(list, all, sizeof all);
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_MOE,
                                         .n_out = 1,
                                         .out = {out},
                                         .in = {x, idx, gate, up, down},
                                         .list = list,
                                         .i = {hp->n_expert, hp->act_block, hp->weight_first, s->exact == HD_EXACT_OFFICIAL},
                                         .f = {hp->limit}});
    } else {
        hd_stream_fail(s, HD_ERR_MEMORY, "step: no memory for experts");
    }
    hd_stream_rewind(s, mark);
}

void hd_swiglu(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *gate, const struct hd_tensor *up, float limit)
{
    if (!hd_require(s, hd_rows(gate) == hd_rows(up) && hd_cols(gate) == hd_cols(up) && hd_cols(out) == hd_cols(gate), HD_OP_SILU_MUL, gate, up))
        return;
    s->cost.flops += 6.0 * (double)hd_elems(gate);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_SILU_MUL, .n_out = 1, .out = {out}, .in = {gate, up}, .f = {limit}});
}

/* ---- what a model ends with ---- */

struct hd_tensor *hd_logits_new(struct hd_stream *s, int64_t n, int64_t n_vocab)
{
    return hd_new(s, HD_F32, n, s->target ? 1 : n_vocab);
}

void hd_logits(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w)
{
    if (!s->target) {
        hd_matmul(s, out, x, w);
        return;
    }
    s->cost.weight_bytes += (double)hd_tensor_bytes(w);
    hd_model_loss(s, out, x, w);
}

/* ---- n-gram memory ---- */

void hd_ngram_rows(struct hd_stream *s, struct hd_tensor *rows, struct hd_tensor *class_out, const struct hd_ragged *b, int part, const struct hd_ngram *g)
{
    if (hd_require(s, hd_rows(rows) == b->n_tok && hd_cols(rows) == g->n_order * g->n_head && hd_rows(class_out) == b->n_tok, HD_OP_NGRAM, rows, class_out))
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_NGRAM, .n_out = 2, .out = {rows, class_out}, .batch = b, .ngram = g, .i = {part}});
}

void hd_table(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *rows, const struct hd_tensor *w)
{
    if (!hd_require(s, hd_rows(out) == hd_rows(rows) && hd_cols(out) == hd_cols(rows) * hd_cols(w), HD_OP_TABLE, out, w))
        return;
    s->cost.weight_bytes += (double)hd_elems(rows) * (double)hd_row_bytes(w->type, hd_cols(w));
    if (s->meet.table && !s->be)
        s->meet.table(s->meet.arg, w);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_TABLE, .n_out = 1, .out = {out}, .in = {rows, w}});
}

void hd_engram(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *kv, const struct hd_tensor *q, const struct hd_tensor *k, int64_t n_hc, float eps)
{
    if (!hd_require(s, hd_rows(x) == hd_rows(kv) && hd_cols(kv) * n_hc == hd_cols(x) * (n_hc + 1) && hd_elems(q) == hd_cols(x) && hd_elems(k) == hd_cols(x), HD_OP_ENGRAM, x, kv))
        return;
    s->cost.flops += 10.0 * (double)hd_elems(x);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_ENGRAM, .n_out = 1, .out = {x}, .in = {kv, q, k}, .i = {n_hc}, .f = {eps}});
}

void hd_engram_value(struct hd_stream *s, struct hd_tensor *v, const struct hd_tensor *x, const struct hd_tensor *kv, const struct hd_tensor *q, const struct hd_tensor *k,
                     int64_t n_hc, float eps)
{
    if (!hd_require(s, hd_rows(x) == hd_rows(kv) && hd_cols(kv) * n_hc == hd_cols(x) * (n_hc + 1) && hd_elems(q) == hd_cols(x) && hd_elems(k) == hd_cols(x), HD_OP_ENGRAM, x, kv) ||
        !hd_require(s, hd_rows(v) == hd_rows(x) && hd_cols(v) == hd_cols(x), HD_OP_ENGRAM, v, x))
        return;
    s->cost.flops += 10.0 * (double)hd_elems(x);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_ENGRAM, .n_out = 1, .out = {v}, .in = {kv, q, k, x}, .i = {n_hc}, .f = {eps}});
}

void hd_short_conv(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *v, const struct hd_tensor *u, const struct hd_tensor *w, const struct hd_ragged *b,
                   int part, int64_t dilation)
{
    if (!hd_require(s, hd_rows(x) == b->n_tok && hd_rows(v) == b->n_tok && hd_rows(u) == b->n_tok && hd_cols(v) == hd_cols(x) && hd_cols(u) == hd_cols(x), HD_OP_SHORT_CONV, x, u) ||
        !hd_require(s, hd_rows(w) == hd_cols(x) && (part >= 0 || hd_cols(w) == 1), HD_OP_SHORT_CONV, x, w))
        return;
    s->cost.flops += 2.0 * (double)(hd_elems(x) * hd_cols(w));
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_SHORT_CONV, .n_out = 1, .out = {x}, .in = {v, u, w}, .batch = b, .i = {part, dilation}});
}

/* ---- latent attention ---- */

void hd_layernorm(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, const struct hd_tensor *b, float eps)
{
    if (hd_require(s, hd_cols(x) == hd_elems(w) && hd_elems(b) == hd_elems(w) && hd_cols(out) == hd_cols(x), HD_OP_LAYERNORM, x, w))
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_LAYERNORM, .n_out = 1, .out = {out}, .in = {x, w, b}, .f = {eps}});
}

void hd_group_matmul(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, int64_t n_group, int64_t stride, int64_t first)
{
    struct hd_call c = {.op = HD_OP_GROUP_MATMUL, .n_out = 1, .out = {out}, .in = {x, w}, .i = {n_group, stride, first}};
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor groups = hd_view2(HD_F32, x->data, hd_rows(x) * n_group, hd_cols(w));
    enum hd_dtype act;

    if (!hd_require(s, hd_cols(out) % n_group == 0 && hd_cols(x) == n_group * hd_cols(w) && (n_group - 1) * stride + first + hd_cols(out) / n_group <= hd_rows(w),
                    HD_OP_GROUP_MATMUL, x, w) ||
        !hd_require(s, x->row_bytes == hd_cols(x) * 4, HD_OP_GROUP_MATMUL, x, w))
        return;
    hd_meet_weight(s, w);
    s->cost.flops += 2.0 * (double)hd_elems(out) * (double)hd_cols(w);
    s->cost.weight_bytes += (double)hd_tensor_bytes(w) * (double)hd_cols(out) / (double)hd_rows(w);
    act = hd_act_type(s, w, stride % HD_PANEL_ROWS ? 1 : first);
    if (act != HD_F32)
        c.in[2] = hd_quantise(s, act, &groups);
    hd_dispatch(s, &c);
    hd_stream_rewind(s, mark);
}

void hd_absorb(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *q, const struct hd_tensor *w, int64_t n_head, int64_t nope, int64_t stride)
{
    int64_t rope = hd_cols(q) / n_head - nope;

    if (!hd_require(s, hd_cols(q) % n_head == 0 && rope >= 0 && hd_cols(out) == n_head * (hd_cols(w) + rope) && hd_rows(w) == n_head * stride && nope <= stride, HD_OP_ABSORB, q, w))
        return;
    s->cost.flops += 2.0 * (double)(hd_rows(q) * n_head * nope * hd_cols(w));
    s->cost.weight_bytes += (double)hd_tensor_bytes(w) * (double)nope / (double)stride;
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_ABSORB, .n_out = 1, .out = {out}, .in = {q, w}, .i = {n_head, nope, stride}});
}

void hd_absorb_t(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *q, const struct hd_tensor *w, int64_t n_head, int64_t nope)
{
    struct hd_call c = {.op = HD_OP_ABSORB_T, .n_out = 1, .out = {out}, .in = {q, w}, .i = {n_head, nope}};
    struct hd_stream_mark mark = hd_stream_mark(s);
    int64_t rope = hd_cols(q) / n_head - nope;
    struct hd_tensor keys;
    enum hd_dtype act;

    if (!hd_require(s, hd_cols(q) % n_head == 0 && rope >= 0 && hd_rows(w) % n_head == 0 && hd_cols(w) == nope && hd_cols(out) == hd_rows(w) + n_head * rope, HD_OP_ABSORB_T, q, w) ||
        !hd_require(s, q->row_bytes == hd_cols(q) * 4, HD_OP_ABSORB_T, q, w))
        return;
    hd_meet_weight(s, w);
    s->cost.flops += 2.0 * (double)hd_rows(q) * (double)hd_elems(w);
    s->cost.weight_bytes += (double)hd_tensor_bytes(w);
    keys = hd_view2(HD_F32, q->data, hd_rows(q) * n_head, nope);
    keys.row_bytes = (nope + rope) * 4;
    act = hd_act_type(s, w, hd_rows(w) / n_head % HD_PANEL_ROWS);
    if (act != HD_F32)
        c.in[2] = hd_quantise(s, act, &keys);
    hd_dispatch(s, &c);
    hd_stream_rewind(s, mark);
}
