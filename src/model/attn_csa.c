/* attn_csa.c: see attn_csa.h. */
#include "model/attn_csa.h"

#include <math.h>

#include "ops/learn.h"

#define SLACK 64                      /* rows that rings keep beyond their need: rewinding that far is exact without recomputation */

enum { PART_WINDOW, PART_ENTRY, PART_STATE, PART_KEY, PART_KEY_STATE };

/* How latents and index keys are kept. */
static struct hd_kv_row latent_row(const struct hd_csa_hp *hp)
{
    return hp->native ? hd_kv_row(HD_KV_FP8, (int)hp->kv_block, hp->head_dim - hp->rope_dim, hp->rope_dim) : (struct hd_kv_row){0};
}

static struct hd_kv_row key_row(const struct hd_csa_hp *hp)
{
    return hp->native ? hd_kv_row(HD_KV_FP4, 32, hp->index_dim, 0) : (struct hd_kv_row){0};
}

static int64_t packed_bytes(struct hd_kv_row r)
{
    return r.code ? hd_kv_row_bytes(&r) : 0;
}

int hd_csa_parts(const struct hd_csa_hp *hp, int64_t ratio, int layer, struct hd_cache_part *part)
{
    struct hd_kv_row row = latent_row(hp), key = key_row(hp);
    int lanes = ratio == 4 ? 2 : 1, n = 0;

    part[n++] = (struct hd_cache_part){.name = "window", .layer = layer, .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = hp->head_dim, .pack = row, .ratio = 1,
                                       .window = (int)hp->window, .slack = SLACK};
    if (!ratio)
        return n;
    part[n++] = (struct hd_cache_part){.name = "entries", .layer = layer, .kind = HD_PART_PAGED, .type = HD_F32, .row_len = hp->head_dim, .pack = row, .ratio = (int)ratio};
    part[n++] = (struct hd_cache_part){.name = "groups", .layer = layer, .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = 2 * lanes * hp->head_dim, .ratio = 1,
                                       .window = (int)(lanes * ratio), .slack = SLACK};
    if (ratio != 4)
        return n;
    part[n++] = (struct hd_cache_part){.name = "index keys", .layer = layer, .kind = HD_PART_PAGED, .type = HD_F32, .row_len = hp->index_dim, .pack = key, .panels = true, .ratio = (int)ratio};
    part[n++] = (struct hd_cache_part){.name = "index groups", .layer = layer, .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = 2 * lanes * hp->index_dim, .ratio = 1,
                                       .window = (int)(lanes * ratio), .slack = SLACK};
    return n;
}

static void norm(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *w, float eps)
{
    hd_rmsnorm(s, x, x, w, eps);
    hd_bf16(s, x);
}

/* Rotates the last rope_dim dims of every head. */
static void rotate(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *table, int64_t head_dim, int64_t rope_dim, bool inverse)
{
    hd_rope_at(s, x, table, head_dim, true, head_dim - rope_dim, inverse);
    hd_bf16(s, x);
}

/* The entries that this step completes: pooled, normalised, rotated at their first position. */
static struct hd_tensor *entries(struct hd_stream *s, const struct hd_csa_hp *hp, const struct hd_pool_weights *w, int64_t ratio, int64_t dim, int state,
                                 const struct hd_csa_step *st, const struct hd_tensor *u)
{
    const struct hd_ragged *e = ratio == 4 ? st->e4 : st->e128;
    struct hd_tensor *out = hd_new(s, HD_F32, e->n_tok, dim);
    int64_t cols = hd_rows(&w->wkv);
    struct hd_tensor *z = hd_new(s, HD_F32, hd_rows(u), cols), *g = hd_new(s, HD_F32, hd_rows(u), cols);

    hd_matmul_n(s, 2, (struct hd_tensor *[]){z, g}, u, (const struct hd_tensor *[]){&w->wkv, &w->wgate});
    hd_pool(s, out, z, g, &w->ape, st->b, state, ratio, ratio == 4);
    hd_bf16(s, out);
    norm(s, out, &w->norm, hp->norm_eps);
    rotate(s, out, ratio == 4 ? st->rope_e4 : st->rope_e128, dim, hp->rope_dim, false);
    return out;
}

/* Entries that the queries want to see. */
static struct hd_tensor *select_entries(struct hd_stream *s, const struct hd_csa_hp *hp, const struct hd_csa_weights *w, int part0, const struct hd_csa_step *st,
                                        const struct hd_tensor *u, const struct hd_tensor *qr, int layer, struct hd_tensor *index[2])
{
    int64_t n = hd_rows(u), dim = hp->index_dim;
    struct hd_index_hp ih = {.n_head = hp->index_heads, .head_dim = dim, .ratio = 4, .top_k = hp->index_top_k, .ascending = s->exact != HD_EXACT_OFFICIAL, .row_bytes = packed_bytes(key_row(hp))};
    struct hd_tensor *sel = hd_new(s, HD_I32, n, hp->index_top_k), *q, *wt, *key;
    struct hd_stream_mark mark = hd_stream_mark(s);

    u = hd_learn_input(s, u);
    qr = hd_learn_input(s, qr);
    index[0] = q = hd_new(s, HD_F32, n, hp->index_heads * dim);
    index[1] = wt = hd_new(s, HD_F32, n, hp->index_heads);
    key = entries(s, hp, &w->index_comp, 4, dim, part0 + PART_KEY_STATE, st, u);
    hd_linear(s, q, qr, &w->index_wq_b, hp->act_block);
    rotate(s, q, st->rope_comp, dim, hp->rope_dim, false);
    if (!(dim & (dim - 1)) && s->exact != HD_EXACT_F32) {
        hd_hadamard(s, q, dim);               /* orthogonal on both sides: it matters to the rounding only */
        hd_bf16(s, q);
        hd_hadamard(s, key, dim);
        hd_bf16(s, key);
    }
    hd_sim(s, q, HD_SIM_FP4, 32, dim, 0, dim);
    hd_sim(s, key, HD_SIM_FP4, 32, dim, 0, dim);
    hd_trace(s, key, "layers.%d.attn.index.k", layer);
    hd_trace(s, q, "layers.%d.attn.index.q", layer);
    hd_kv_put(s, key, st->e4, part0 + PART_KEY, HD_F32);
    hd_linear(s, wt, u, &w->index_weights, 0);
    hd_scale(s, wt, (float)(1 / sqrt((double)dim) / sqrt((double)hp->index_heads)));
    hd_bf16(s, wt);
    hd_trace(s, wt, "layers.%d.attn.index.weights", layer);
    if (hd_learn_dense(s))
        return NULL;
    hd_index(s, sel, q, wt, st->b, part0 + PART_KEY, &ih, NULL, NULL);
    hd_trace(s, sel, "layers.%d.attn.selected", layer);
    hd_stream_rewind(s, mark);
    return sel;
}

void hd_grouped_out(struct hd_stream *s, const struct hd_tensor *o, const struct hd_tensor *wo_a, const struct hd_tensor *wo_b, int64_t n_group, int64_t act_block,
                    struct hd_tensor *y, int layer)
{
    struct hd_tensor *r = hd_new(s, HD_F32, hd_rows(o), hd_rows(wo_a));

    hd_group_matmul(s, r, o, wo_a, n_group, hd_rows(wo_a) / n_group, 0);
    hd_bf16(s, r);
    hd_trace(s, r, "layers.%d.attn.o_a", layer);
    hd_linear(s, y, r, wo_b, act_block);
}

/* kv[T, head_dim], u times wkv: rotated, and rounded to what the cache holds. */
static void latents(struct hd_stream *s, const struct hd_csa_hp *hp, const struct hd_csa_weights *w, const struct hd_tensor *rope, struct hd_tensor *kv, int layer)
{
    norm(s, kv, &w->kv_norm, hp->norm_eps);
    rotate(s, kv, rope, hp->head_dim, hp->rope_dim, false);
    hd_sim_kv(s, kv, HD_SIM_FP8, hp->kv_block, hp->head_dim, hp->head_dim - hp->rope_dim, hp->native);
    hd_trace(s, kv, "layers.%d.attn.kv", layer);
}

/* Those of u[T, D] alone. */
static struct hd_tensor *latents_of(struct hd_stream *s, const struct hd_csa_hp *hp, const struct hd_csa_weights *w, const struct hd_tensor *rope, const struct hd_tensor *u, int layer)
{
    struct hd_tensor *kv = hd_new(s, HD_F32, hd_rows(u), hp->head_dim);

    hd_linear(s, kv, u, &w->wkv, hp->act_block);
    latents(s, hp, w, rope, kv, layer);
    return kv;
}

void hd_csa_keep(struct hd_stream *s, const struct hd_csa_hp *hp, const struct hd_csa_weights *w, int part0, const struct hd_csa_step *st, const struct hd_tensor *u, int layer)
{
    struct hd_stream_mark mark = hd_stream_mark(s);

    hd_ring_put(s, latents_of(s, hp, w, st->rope, u, layer), st->b, part0 + PART_WINDOW);
    hd_stream_rewind(s, mark);
}

void hd_attend_drafts(struct hd_stream *s, struct hd_tensor *o, const struct hd_tensor *q, const struct hd_tensor *kv, const struct hd_tensor *main, const struct hd_tensor *sink,
                      const struct hd_csa_blocks *k, int64_t n_head, int64_t head_dim, int64_t window)
{
    struct hd_attend_block_hp bh = {n_head, head_dim, window, k->block, (float)(1 / sqrt((double)head_dim))};

    hd_attend_block(s, o, q, kv, main, sink, k->b, k->anchor, &bh);
}

void hd_attn_csa(struct hd_stream *s, const struct hd_csa_hp *hp, const struct hd_csa_weights *w, int64_t ratio, int part0, const struct hd_csa_step *st,
                 const struct hd_tensor *u, struct hd_tensor *out, int layer)
{
    int64_t n = hd_rows(u), d = hp->head_dim, plain = d - hp->rope_dim;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *qr = hd_new(s, HD_F32, n, hp->q_rank), *q = hd_new(s, HD_F32, n, hp->n_head * d), *kv = hd_new(s, HD_F32, n, d), *o, *sel = NULL, *index[2];
    struct hd_tensor *rope = ratio ? st->rope_comp : st->rope;
    struct hd_attend_sel_hp ah = {hp->n_head, d, hp->window, ratio, part0 < 0 ? -1 : part0 + PART_WINDOW, ratio ? part0 + PART_ENTRY : -1,
                                 (float)(1 / sqrt((double)d)), 0, packed_bytes(latent_row(hp)), false, st->block, hd_attends_bf16(s, &w->wo_b, hp->n_head)};

    hd_linear_n(s, 2, (struct hd_tensor *[]){qr, kv}, u, (const struct hd_tensor *[]){&w->wq_a, &w->wkv}, hp->act_block);
    norm(s, qr, &w->q_norm, hp->norm_eps);
    hd_trace(s, qr, "layers.%d.attn.q_a_norm", layer);
    hd_linear(s, q, qr, &w->wq_b, hp->act_block);
    hd_head_norm(s, q, d, hp->norm_eps);
    rotate(s, q, rope, d, hp->rope_dim, false);
    hd_trace(s, q, "layers.%d.attn.q", layer);
    latents(s, hp, w, rope, kv, layer);
    if (ratio) {
        struct hd_stream_mark inner = hd_stream_mark(s);
        struct hd_tensor *e = entries(s, hp, &w->comp, ratio, d, part0 + PART_STATE, st, u);

        hd_sim(s, e, HD_SIM_FP8, hp->kv_block, d, 0, plain);
        hd_trace(s, e, "layers.%d.attn.ckv", layer);
        hd_kv_put(s, e, ratio == 4 ? st->e4 : st->e128, part0 + PART_ENTRY, HD_F32);
        hd_stream_rewind(s, inner);
    }
    if (ratio == 4)
        sel = select_entries(s, hp, w, part0, st, u, qr, layer, index);
    if (ratio == 4 && hd_learns(s, HD_LEARN_INDEX))
        hd_learn_index(s, index[0], index[1], q, kv, sel, &w->sink, st->b, &(struct hd_index_loss_hp){ah, hp->index_heads, hp->index_dim, part0 + PART_KEY});
    o = hd_new(s, HD_F32, n, hp->n_head * d);
    if (st->learn)
        hd_attend_drafts(s, o, q, kv, latents_of(s, hp, w, st->learn->rope, st->learn->main, layer), &w->sink, st->learn, hp->n_head, d, hp->window);
    else
        hd_attend_sel(s, o, q, kv, sel, &w->sink, st->b, &ah);
    hd_bf16(s, o);
    hd_trace(s, o, "layers.%d.attn.o_rope", layer);
    if (part0 >= 0 && !st->block && !st->learn)
        hd_ring_put(s, kv, st->b, part0 + PART_WINDOW);
    rotate(s, o, rope, d, hp->rope_dim, true);
    hd_grouped_out(s, o, &w->wo_a, &w->wo_b, hp->o_groups, hp->act_block, out, layer);
    hd_trace(s, out, "layers.%d.attn.out", layer);
    hd_stream_rewind(s, mark);
}
