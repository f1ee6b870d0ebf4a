/* moe.c: see moe.h. */
#include "model/moe.h"

static const struct hd_tensor *maybe(const struct hd_tensor *t)
{
    return t->n_dim ? t : NULL;
}

#define GUESS_MAX 8                   /* tokens: more of them want most of a layer anyway */

/* Tells the source of experts what w, the next mixture to run, will probably choose. */
void hd_moe_guess(struct hd_stream *s, const struct hd_moe_block_hp *hp, const struct hd_moe_weights *w, const struct hd_ragged *b, const struct hd_tensor *x)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    int64_t n = hd_rows(x), k = hp->gate.n_used;
    struct hd_tensor *logits, *idx, *weight;

    if (!s->source || !w || w->gate_table.n_dim || n > GUESS_MAX)
        return;
    logits = hd_new(s, HD_F32, n, hp->gate.n_expert);
    idx = hd_new(s, HD_I32, n, k);
    weight = hd_new(s, HD_F32, n, k);
    hd_matmul(s, logits, x, &w->gate_inp);
    hd_gate(s, idx, weight, logits, maybe(&w->gate_bias), NULL, b, &hp->gate);
    if (hd_stream_ok(s))
        s->source->ahead(s->source->self, w->gate, idx->data, n * k);
    hd_stream_rewind(s, mark);
}

void hd_moe_block(struct hd_stream *s, const struct hd_moe_block_hp *hp, const struct hd_moe_weights *w, const struct hd_moe_weights *next, const struct hd_ragged *b, const struct hd_tensor *x,
                  struct hd_tensor *out, int layer)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    int64_t n = hd_rows(x), k = hp->gate.n_used;
    struct hd_tensor *logits = hd_new_kept(s, HD_F32, n, hp->gate.n_expert), *idx = hd_new_kept(s, HD_I32, n, k);      /* the trainer balances by them */
    struct hd_tensor *weight = hd_new(s, HD_F32, n, k), *y = NULL;

    hd_matmul(s, logits, x, &w->gate_inp);
    hd_trace(s, logits, "layers.%d.ffn.router_logits", layer);
    hd_gate(s, idx, weight, logits, maybe(&w->gate_bias), maybe(&w->gate_table), b, &hp->gate);
    hd_trace(s, idx, "layers.%d.ffn.experts", layer);
    hd_trace(s, weight, "layers.%d.ffn.weights", layer);
    if (s->source && hd_stream_ok(s))
        s->source->soon(s->source->self, w->gate, idx->data, n * k);
    hd_moe_guess(s, hp, next, b, x);
    if (w->sh_gate.n_dim) {           /* first: what experts are missing are on their way */
        int64_t f = hd_rows(&w->sh_gate), block = hp->moe.act_block;
        struct hd_stream_mark inner;
        struct hd_tensor *gate, *up;

        y = hd_new(s, HD_F32, n, hd_cols(out));
        inner = hd_stream_mark(s);
        gate = hd_new(s, HD_F32, n, f);
        up = hd_new(s, HD_F32, n, f);
        hd_linear_n(s, 2, (struct hd_tensor *[]){gate, up}, x, (const struct hd_tensor *[]){&w->sh_gate, &w->sh_up}, block);
        hd_swiglu(s, gate, gate, up, hp->moe.limit);
        hd_bf16(s, gate);
        hd_linear(s, y, gate, &w->sh_down, block);
        hd_trace(s, y, "layers.%d.ffn.shared", layer);
        hd_stream_rewind(s, inner);
    }
    hd_moe(s, out, x, idx, weight, w->gate, w->up, w->down, &hp->moe);
    hd_trace(s, out, "layers.%d.ffn.routed", layer);
    if (y)
        hd_add(s, out, out, y);
    hd_bf16(s, out);
    hd_trace(s, out, "layers.%d.ffn.out", layer);
    hd_stream_rewind(s, mark);
}

void hd_moe_split(struct hd_moe_weights *w, const struct hd_tensor *gate_up, const struct hd_tensor *down, struct hd_tensor *t)
{
    int64_t n = gate_up->dim[0], f = gate_up->dim[1] / 2, d = gate_up->dim[2];
    char *gu = gate_up->data, *dn = down->data;

    w->gate = t;
    w->up = t + n;
    w->down = t + 2 * n;
    for (int64_t e = 0; e < n; e++) {
        t[e] = hd_view2(gate_up->type, gu ? gu + e * 2 * f * gate_up->row_bytes : NULL, f, d);
        t[n + e] = hd_view2(gate_up->type, gu ? gu + (e * 2 + 1) * f * gate_up->row_bytes : NULL, f, d);
        t[2 * n + e] = hd_view2(down->type, dn ? dn + e * d * down->row_bytes : NULL, d, f);
    }
}
