/* attn_mla.c: see attn_mla.h. Always absorbed: one form for prefill and decode, so that their bits agree. */
#include "model/attn_mla.h"

#include <math.h>

#include "ops/learn.h"

#define DIM_MAX ((int64_t)1 << 24)

static double mscale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

int hd_mla_config(struct hd_mla_hp *hp, const json_t *c, const char *f, struct hd_err *err)
{
    HD_TRY(hd_json_int(c, "num_attention_heads", 1, 65536, &hp->n_head, f, err));
    HD_TRY(hd_json_int(c, "qk_nope_head_dim", 1, 65536, &hp->nope_dim, f, err));
    HD_TRY(hd_json_int(c, "qk_rope_head_dim", 2, 65536, &hp->rope_dim, f, err));
    HD_TRY(hd_json_int(c, "v_head_dim", 1, 65536, &hp->v_dim, f, err));
    HD_TRY(hd_json_int(c, "kv_lora_rank", 1, 4096, &hp->kv_rank, f, err));
    HD_TRY(hd_json_int_or(c, "q_lora_rank", 0, DIM_MAX, 0, &hp->q_rank, f, err));
    HD_TRY(hd_json_bool_or(c, "rope_interleave", true, &hp->rope_interleaved, f, err));
    if (hp->rope_dim % 2)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: qk_rope_head_dim: found %lld; expected an even number", f, (long long)hp->rope_dim);
    hp->latent_eps = 1e-6f;
    hp->scale = (float)(1 / sqrt((double)(hp->nope_dim + hp->rope_dim)));
    return HD_OK;
}

void hd_mla_stretch(struct hd_mla_hp *hp, const struct hd_rope_hp *rope)
{
    if (rope->kind != HD_ROPE_DEFAULT && rope->mscale_all > 0)
        hp->scale *= (float)(mscale(rope->factor, rope->mscale_all) * mscale(rope->factor, rope->mscale_all));
}

int hd_mla_parts(const struct hd_mla_hp *hp, int layer, struct hd_cache_part *part)
{
    struct hd_kv_row row = {0}, key = {0};

    if (hp->native) {
        row = hd_kv_row(HD_KV_FP8, 64, 0, hp->kv_rank + hp->rope_dim);
        key = hd_kv_row(HD_KV_FP8, 64, 0, hp->index_dim);
    }
    part[0] = (struct hd_cache_part){.name = "latent", .layer = layer, .kind = HD_PART_PAGED, .type = HD_F32, .row_len = hp->kv_rank + hp->rope_dim, .pack = row, .ratio = 1};
    if (!hp->index_heads)
        return 1;
    part[1] = (struct hd_cache_part){.name = "index keys", .layer = layer, .kind = HD_PART_PAGED, .type = HD_F32, .row_len = hp->index_dim, .pack = key, .ratio = 1};
    return 2;
}

static void add_bias(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *bias)
{
    if (bias->n_dim)
        hd_add_row(s, x, bias);
}

static void keep_latents(struct hd_stream *s, const struct hd_mla_hp *hp, const struct hd_mla_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope, int part,
                         const struct hd_tensor *x, int layer)
{
    int64_t wide = hp->kv_rank + hp->rope_dim;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *kv = hd_new(s, HD_F32, hd_rows(x), wide), *c;

    hd_matmul(s, kv, x, &w->kv_a);
    add_bias(s, kv, &w->kv_a_bias);
    c = hd_slice(s, kv, 0, hp->kv_rank);
    hd_rmsnorm(s, c, c, &w->kv_norm, hp->latent_eps);
    hd_rope_at(s, kv, rope, wide, hp->rope_interleaved, hp->kv_rank, false);
    hd_trace(s, kv, "layers.%d.attn.kv", layer);
    hd_kv_put(s, kv, b, part, HD_F32);
    hd_stream_rewind(s, mark);
}

static void keep_index_keys(struct hd_stream *s, const struct hd_mla_hp *hp, const struct hd_mla_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope, int part,
                            const struct hd_tensor *x)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *k = hd_new(s, HD_F32, hd_rows(x), hp->index_dim);

    hd_matmul(s, k, x, &w->index_k);
    hd_layernorm(s, k, k, &w->index_k_norm, &w->index_k_bias, 1e-6f);
    hd_rope(s, k, rope, hp->index_dim, false);
    hd_kv_put(s, k, b, part, HD_F32);
    hd_stream_rewind(s, mark);
}

void hd_mla_keep(struct hd_stream *s, const struct hd_mla_hp *hp, const struct hd_mla_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope, int part0,
                 const struct hd_tensor *x, int layer)
{
    keep_latents(s, hp, w, b, rope, part0, x, layer);
    if (hp->index_heads)
        keep_index_keys(s, hp, w, b, rope, part0 + 1, x);
}

/* index: the indexer's queries and weights, for its loss. NULL while it learns over all tokens: attention sees them all. */
static struct hd_tensor *select_tokens(struct hd_stream *s, const struct hd_mla_hp *hp, const struct hd_mla_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope,
                                       int part, const struct hd_tensor *x, const struct hd_tensor *qr, int layer, struct hd_tensor *index[2])
{
    int64_t n = hd_rows(x), dim = hp->index_dim;
    struct hd_index_hp ih = {.n_head = hp->index_heads, .head_dim = dim, .ratio = 1, .top_k = hp->index_top_k, .ascending = true, .row_bytes = hp->native ? 2 * dim : 0};
    struct hd_tensor *sel = hd_new(s, HD_I32, n, hp->index_top_k), *q, *wt;
    struct hd_stream_mark mark = hd_stream_mark(s);

    x = hd_learn_input(s, x);
    index[0] = q = hd_new(s, HD_F32, n, hp->index_heads * dim);
    index[1] = wt = hd_new(s, HD_F32, n, hp->index_heads);
    hd_matmul(s, q, hd_learn_input(s, qr), &w->index_q_b);
    hd_rope(s, q, rope, dim, false);
    keep_index_keys(s, hp, w, b, rope, part, x);
    hd_matmul(s, wt, x, &w->index_weights);
    hd_scale(s, wt, (float)(1 / sqrt((double)dim) / sqrt((double)hp->index_heads)));
    if (hd_learn_dense(s))
        return NULL;
    hd_index(s, sel, q, wt, b, part, &ih, NULL, NULL);
    hd_trace(s, sel, "layers.%d.attn.selected", layer);
    hd_stream_rewind(s, mark);
    return sel;
}

static void absorb_keys(struct hd_stream *s, const struct hd_mla_hp *hp, const struct hd_mla_weights *w, struct hd_tensor *ql, const struct hd_tensor *q)
{
    if (w->k_b.n_dim)
        hd_absorb_t(s, ql, q, &w->k_b, hp->n_head, hp->nope_dim);
    else
        hd_absorb(s, ql, q, &w->kv_b, hp->n_head, hp->nope_dim, hp->nope_dim + hp->v_dim);
}

static void expand_values(struct hd_stream *s, const struct hd_mla_hp *hp, const struct hd_mla_weights *w, struct hd_tensor *o, const struct hd_tensor *u)
{
    if (w->v_b.n_dim)
        hd_group_matmul(s, o, u, &w->v_b, hp->n_head, hp->v_dim, 0);
    else
        hd_group_matmul(s, o, u, &w->kv_b, hp->n_head, hp->nope_dim + hp->v_dim, hp->nope_dim);
}

void hd_attn_mla(struct hd_stream *s, const struct hd_mla_hp *hp, const struct hd_mla_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope, int part0,
                 const struct hd_tensor *x, struct hd_tensor *out, int layer)
{
    int64_t n = hd_rows(x), H = hp->n_head, qd = hp->nope_dim + hp->rope_dim, wide = hp->kv_rank + hp->rope_dim;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *q = hd_new(s, HD_F32, n, H * qd), *ql = hd_new(s, HD_F32, n, H * wide), *sel = NULL, *qr = NULL, *index[2] = {NULL, NULL}, *u, *o;
    struct hd_attend_sel_hp ah = {.n_head = H, .head_dim = wide, .window = 0, .ratio = 1, .part_window = -1, .part_entry = part0, .scale = hp->scale, .value_dim = hp->kv_rank,
                                  .row_bytes = hp->native ? 2 * wide : 0, .bf16 = hd_attends_bf16(s, &w->o, H)};

    if (hp->q_rank) {
        qr = hd_new(s, HD_F32, n, hp->q_rank);
        hd_matmul(s, qr, x, &w->q_a);
        add_bias(s, qr, &w->q_a_bias);
        hd_rmsnorm(s, qr, qr, &w->q_norm, hp->latent_eps);
        hd_matmul(s, q, qr, &w->q_b);
    } else {
        hd_matmul(s, q, x, &w->q);
    }
    hd_rope_at(s, q, rope, qd, hp->rope_interleaved, hp->nope_dim, false);
    keep_latents(s, hp, w, b, rope, part0, x, layer);
    if (hp->index_heads)
        sel = select_tokens(s, hp, w, b, rope, part0 + 1, x, qr, layer, index);
    absorb_keys(s, hp, w, ql, q);
    if (hp->index_heads && hd_learns(s, HD_LEARN_INDEX))
        hd_learn_index(s, index[0], index[1], ql, NULL, sel, NULL, b, &(struct hd_index_loss_hp){ah, hp->index_heads, hp->index_dim, part0 + 1});
    u = hd_new(s, HD_F32, n, H * hp->kv_rank);
    hd_attend_sel(s, u, ql, NULL, sel, NULL, b, &ah);
    o = hd_new(s, HD_F32, n, H * hp->v_dim);
    expand_values(s, hp, w, o, u);
    hd_matmul(s, out, o, &w->o);
    add_bias(s, out, &w->o_bias);
    hd_trace(s, out, "layers.%d.attn_out", layer);
    hd_stream_rewind(s, mark);
}
