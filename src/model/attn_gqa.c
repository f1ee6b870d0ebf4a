/* attn_gqa.c: see attn_gqa.h. */
#include "model/attn_gqa.h"

#include <math.h>

int hd_gqa_parts(const struct hd_gqa_hp *hp, int layer, struct hd_cache_part *part)
{
    for (int i = 0; i < HD_GQA_PARTS; i++)
        part[i] = (struct hd_cache_part){.name = i ? "v" : "k", .layer = layer, .kind = HD_PART_PAGED, .type = hp->kv_type, .row_len = hp->n_kv_head * hp->head_dim, .ratio = 1};
    return HD_GQA_PARTS;
}

static void add_bias(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *bias)
{
    if (hd_elems(bias))
        hd_add_row(s, x, bias);
}

/* Rows of this step, as the caller's products gave them. */
static void keep_rows(struct hd_stream *s, const struct hd_gqa_hp *hp, const struct hd_gqa_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope, int part_k,
                      struct hd_tensor *k, struct hd_tensor *v, int layer)
{
    add_bias(s, k, &w->k_bias);
    add_bias(s, v, &w->v_bias);
    hd_rope(s, k, rope, hp->head_dim, hp->rope_interleaved);
    hd_trace(s, k, "layers.%d.k", layer);
    hd_kv_put(s, k, b, part_k, hp->kv_type);
    hd_kv_put(s, v, b, part_k + 1, hp->kv_type);
}

void hd_attn_gqa(struct hd_stream *s, const struct hd_gqa_hp *hp, const struct hd_gqa_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope,
                 int part_k, const struct hd_tensor *x, struct hd_tensor *out, int layer)
{
    int64_t n_q = hp->n_head * hp->head_dim, n_kv = hp->n_kv_head * hp->head_dim;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *q = hd_new(s, HD_F32, b->n_tok, n_q), *k = hd_new(s, HD_F32, b->n_tok, n_kv), *v = hd_new(s, HD_F32, b->n_tok, n_kv);

    hd_matmul_n(s, 3, (struct hd_tensor *[]){q, k, v}, x, (const struct hd_tensor *[]){&w->q, &w->k, &w->v});
    add_bias(s, q, &w->q_bias);
    hd_rope(s, q, rope, hp->head_dim, hp->rope_interleaved);
    hd_trace(s, q, "layers.%d.q", layer);
    keep_rows(s, hp, w, b, rope, part_k, k, v, layer);

    struct hd_tensor *o = hd_new(s, HD_F32, b->n_tok, n_q);

    hd_attend(s, o, q, b, part_k, part_k + 1, hp->kv_type, hp->n_kv_head, hp->head_dim, hp->window, (float)(1.0 / sqrt((double)hp->head_dim)));
    hd_matmul(s, out, o, &w->o);
    add_bias(s, out, &w->o_bias);
    hd_trace(s, out, "layers.%d.attn_out", layer);
    hd_stream_rewind(s, mark);
}

void hd_gqa_keep(struct hd_stream *s, const struct hd_gqa_hp *hp, const struct hd_gqa_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope, int part_k,
                 const struct hd_tensor *x, int layer)
{
    int64_t n_kv = hp->n_kv_head * hp->head_dim;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *k = hd_new(s, HD_F32, b->n_tok, n_kv), *v = hd_new(s, HD_F32, b->n_tok, n_kv);

    hd_matmul_n(s, 2, (struct hd_tensor *[]){k, v}, x, (const struct hd_tensor *[]){&w->k, &w->v});
    keep_rows(s, hp, w, b, rope, part_k, k, v, layer);
    hd_stream_rewind(s, mark);
}
