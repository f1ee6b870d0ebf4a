/* ops.c: the front end of every op: shape rule, cost, then whoever is behind the stream. */
#include "ops/ops.h"
#include "ops/dispatch.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "ops/tape.h"

/* Products go by the name of their first weight; on the way back by that of the op. */
void hd_lap(struct hd_profile *p, const struct hd_call *c, bool back)
{
    char name[sizeof p->row[0].name];
    double ops = 0;

    if (!p)
        return;
    for (int i = 0; i < c->n_out && c->op == HD_OP_MATMUL && !back; i++)
        ops += 2.0 * (double)hd_elems(c->out[i]) * (double)hd_cols(c->in[0]);
    snprintf(name, sizeof name, "%s, back", hd_ops[c->op].name);
    hd_profile_lap(p, back ? name : c->op == HD_OP_MATMUL && c->in[2]->name ? c->in[2]->name : hd_ops[c->op].name, ops);
}

void hd_dispatch(struct hd_stream *s, const struct hd_call *c)
{
    if (!hd_stream_ok(s))
        return;
    s->cost.n_call++;
    if (s->tape && !hd_tape_record(s, c))
        return;
    if (!s->be)
        return;
    hd_profile_lap(s->profile, "between ops", 0);
    s->be->run[c->op](s->be->self, s, c);
    hd_lap(s->profile, c, false);
}

bool hd_require(struct hd_stream *s, bool ok, enum hd_op op, const struct hd_tensor *a, const struct hd_tensor *b)
{
    char sa[96], sb[96];

    if (!ok && hd_stream_ok(s))
        hd_stream_fail(s, HD_ERR_SHAPE, "op %s: shapes %s and %s do not fit%s%s", hd_ops[op].name, hd_shape_str(sa, a->n_dim, a->dim),
                       hd_shape_str(sb, b->n_dim, b->dim), b->name ? " at " : "", b->name ? b->name : "");
    return ok && hd_stream_ok(s);
}

static bool same_shape(const struct hd_tensor *a, const struct hd_tensor *b)
{
    return hd_rows(a) == hd_rows(b) && hd_cols(a) == hd_cols(b);
}

static double weight_bytes(const struct hd_tensor *w)
{
    double n = (double)hd_tensor_bytes(w);

    if (w->scale.n_row)
        n += (double)(w->scale.n_row * hd_row_bytes(w->scale.type, w->scale.n_col));
    return n;
}

void hd_embed(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *w, const struct hd_ragged *b)
{
    if (!hd_require(s, hd_cols(out) == hd_cols(w) && hd_rows(out) == b->n_tok, HD_OP_EMBED, out, w))
        return;
    s->cost.weight_bytes += (double)b->n_tok * (double)hd_row_bytes(w->type, hd_cols(w));
    if (s->meet.table && !s->be)
        s->meet.table(s->meet.arg, w);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_EMBED, .n_out = 1, .out = {out}, .in = {w}, .batch = b});
}

void hd_gather(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const int32_t *rows)
{
    if (hd_require(s, hd_cols(out) == hd_cols(x), HD_OP_GATHER, out, x))
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_GATHER, .n_out = 1, .out = {out}, .in = {x}, .rows = rows});
}

void hd_rmsnorm(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, float eps)
{
    if (!hd_require(s, same_shape(out, x) && hd_cols(w) && hd_cols(x) % hd_cols(w) == 0 && w->type == HD_F32, HD_OP_RMSNORM, x, w))
        return;
    s->cost.flops += 4.0 * (double)hd_elems(x);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_RMSNORM, .n_out = 1, .out = {out}, .in = {x, w}, .f = {eps}});
}

enum hd_dtype hd_act_type(const struct hd_stream *s, const struct hd_tensor *w, int64_t row0)
{
    return s->exact != HD_EXACT_NONE || hd_cols(w) % 32 ? HD_F32 : s->be ? s->be->act_type(s->be->self, w, row0) : HD_Q16;
}

void hd_meet_weight(struct hd_stream *s, const struct hd_tensor *w)
{
    if (s->meet.matrix && !s->be)
        s->meet.matrix(s->meet.arg, w);
}

const struct hd_tensor *hd_quantise(struct hd_stream *s, enum hd_dtype type, const struct hd_tensor *x)
{
    struct hd_tensor *q = hd_new(s, type, hd_rows(x), hd_cols(x));

    hd_dispatch(s, &(struct hd_call){.op = HD_OP_QUANT, .n_out = 1, .out = {q}, .in = {x}});
    return q;
}

/* A dry run without a backend cannot know which activations a weight will meet, and reserves for all kinds. */
static void matmul_at(struct hd_stream *s, int n, struct hd_tensor *const *out, const struct hd_tensor *x, const struct hd_tensor *const *w, int64_t row0)
{
    struct hd_call c = {.op = HD_OP_MATMUL, .n_out = n};
    struct hd_stream_mark mark = hd_stream_mark(s);
    enum hd_dtype act;
    bool q16 = false, q8 = false, bf16 = false, f32 = false;

    HD_ASSERT(n >= 1 && n <= 3);
    for (int i = 0; i < n; i++) {
        if (!hd_require(s, hd_cols(w[i]) == hd_cols(x) && hd_rows(out[i]) == hd_rows(x) && (row0 < 0 ? hd_cols(out[i]) == hd_rows(w[i]) : row0 + hd_cols(out[i]) <= hd_rows(w[i])), HD_OP_MATMUL, x, w[i]))
            return;
        s->cost.flops += 2.0 * (double)hd_rows(x) * (double)(hd_cols(out[i]) * hd_cols(x));
        s->cost.weight_bytes += weight_bytes(w[i]) * (double)hd_cols(out[i]) / (double)hd_rows(w[i]);
        c.out[i] = out[i];
        c.in[i + 2] = w[i];
        hd_meet_weight(s, w[i]);
        act = hd_act_type(s, w[i], row0 < 0 ? 0 : row0);
        q16 |= act == HD_Q16 || !s->be;
        q8 |= act == HD_Q8 || !s->be;
        bf16 |= act == HD_BF16 || !s->be;
        f32 |= act == HD_F32;
    }
    if (s->exact != HD_EXACT_NONE || hd_cols(x) % 32)
        q16 = q8 = bf16 = false;
    c.in[0] = x;
    c.i[0] = f32;
    c.i[1] = row0 < 0 ? 0 : row0;
    if (q16)
        c.in[1] = hd_quantise(s, HD_Q16, x);
    if (q8)
        c.in[5] = hd_quantise(s, HD_Q8, x);
    if (bf16)
        c.in[6] = hd_quantise(s, HD_BF16, x);
    hd_dispatch(s, &c);
    hd_stream_rewind(s, mark);
}

void hd_matmul_n(struct hd_stream *s, int n, struct hd_tensor *const *out, const struct hd_tensor *x, const struct hd_tensor *const *w)
{
    matmul_at(s, n, out, x, w, -1);
}

void hd_matmul_rows(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, int64_t row0)
{
    matmul_at(s, 1, &out, x, &w, row0);
}

void hd_matmul(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w)
{
    hd_matmul_n(s, 1, &out, x, &w);
}

void hd_add_row(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *b)
{
    if (!hd_require(s, hd_cols(x) == hd_elems(b) && b->type == HD_F32, HD_OP_ADD_ROW, x, b))
        return;
    s->cost.flops += (double)hd_elems(x);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_ADD_ROW, .n_out = 1, .out = {x}, .in = {b}});
}

void hd_add(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *a, const struct hd_tensor *b)
{
    if (!hd_require(s, same_shape(a, b) && same_shape(out, a), HD_OP_ADD, a, b))
        return;
    s->cost.flops += (double)hd_elems(a);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_ADD, .n_out = 1, .out = {out}, .in = {a, b}});
}

void hd_silu_mul(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *gate, const struct hd_tensor *up)
{
    if (!hd_require(s, same_shape(gate, up) && same_shape(out, gate), HD_OP_SILU_MUL, gate, up))
        return;
    s->cost.flops += 6.0 * (double)hd_elems(gate);
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_SILU_MUL, .n_out = 1, .out = {out}, .in = {gate, up}});
}

void hd_rope_table(struct hd_stream *s, struct hd_tensor *out, const struct hd_ragged *b, const struct hd_tensor *inv_freq, float scale)
{
    if (hd_require(s, hd_rows(out) == b->n_tok && hd_cols(out) == 2 * hd_elems(inv_freq), HD_OP_ROPE_TABLE, out, inv_freq))
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_ROPE_TABLE, .n_out = 1, .out = {out}, .in = {inv_freq}, .batch = b, .f = {scale}});
}

void hd_rope_at(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *table, int64_t head_dim, bool interleaved, int64_t first, bool inverse)
{
    if (!hd_require(s, hd_rows(x) == hd_rows(table) && hd_cols(x) % head_dim == 0 && first + hd_cols(table) <= head_dim, HD_OP_ROPE, x, table))
        return;
    s->cost.flops += 3.0 * (double)(hd_rows(x) * (hd_cols(x) / head_dim) * hd_cols(table));
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_ROPE, .n_out = 1, .out = {x}, .in = {table}, .i = {head_dim, interleaved, first, inverse}});
}

void hd_rope(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *table, int64_t head_dim, bool interleaved)
{
    hd_rope_at(s, x, table, head_dim, interleaved, 0, false);
}

void hd_kv_put(struct hd_stream *s, const struct hd_tensor *x, const struct hd_ragged *b, int part, enum hd_dtype type)
{
    if (!hd_require(s, hd_rows(x) == b->n_tok && (type == HD_F32 || type == HD_F16), HD_OP_KV_PUT, x, x))
        return;
    s->cost.kv_bytes += (double)(b->n_tok * hd_row_bytes(type, hd_cols(x)));
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_KV_PUT, .in = {x}, .batch = b, .i = {part}});
}

#define SUMS_SCRATCH ((int64_t)1 << 20)

struct hd_tensor *hd_sums_scratch(struct hd_stream *s, int64_t n_entry, int64_t n_head, int64_t out_cols)
{
    int64_t cols = out_cols + 2 * n_head, rows = SUMS_SCRATCH / cols, most = 1 + (n_entry + HD_SUMS_RUN - 1) / HD_SUMS_RUN;

    rows = rows > 8 ? rows : 8;
    return hd_new(s, HD_F32, rows < most ? rows : most, cols);
}

void hd_attend(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *q, const struct hd_ragged *b, int part_k, int part_v,
               enum hd_dtype type, int64_t n_kv_head, int64_t head_dim, int64_t window, float scale)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *sums = NULL;
    double seen = 0;

    if (!hd_require(s, same_shape(out, q) && hd_rows(q) == b->n_tok && hd_cols(q) % (n_kv_head * head_dim) == 0, HD_OP_ATTEND, out, q))
        return;
    for (int64_t i = 0; i < b->n_seq; i++) {
        double len = (double)(b->span[i].pos0 + b->span[i].n_tok), mean = (double)b->span[i].pos0 + ((double)b->span[i].n_tok + 1) / 2;

        if (window > 0 && mean > (double)window)
            mean = (double)window;
        seen += (double)b->span[i].n_tok * mean;
        s->cost.kv_bytes += 2 * (window > 0 && len > (double)window ? (double)window : len) * (double)hd_row_bytes(type, n_kv_head * head_dim);
    }
    s->cost.flops += 4.0 * seen * (double)hd_cols(q);
    if (!s->tape)
        sums = hd_sums_scratch(s, b->max_pos, hd_cols(q) / head_dim, hd_cols(q));
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_ATTEND,
                                  .n_out = 1,
                                  .out = {out},
                                  .in = {q, sums},
                                  .batch = b,
                                  .i = {part_k, part_v, n_kv_head, head_dim, window},
                                  .f = {scale}});
    if (sums)
        hd_stream_rewind(s, mark);
}
