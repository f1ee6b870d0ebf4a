/* attn_csa2.c: see attn_csa2.h. */
#include "model/attn_csa2.h"

#include <math.h>

#include "base/json.h"
#include "model/attn_csa.h"
#include "ops/learn.h"

#define SLACK 64
#define LAYER_MAX 1024
#define DIM_MAX ((int64_t)1 << 24)

enum { PART_WINDOW, PART_ENTRY, PART_KEY, PART_GROUP };

/* ---- configuration ---- */

/* A list of layer ids, ascending; how many. */
static int read_ids(const json_t *c, const char *key, int64_t n_layer, int64_t *out, int max, int *n, const char *file, struct hd_err *err)
{
    const json_t *a = json_object_get(c, key);

    *n = (int)json_array_size(a);
    if (*n > max)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: %s: found %d layers; expected at most %d", file, key, *n, max);
    for (int i = 0; i < *n; i++) {
        const json_t *v = json_array_get(a, (size_t)i);

        out[i] = json_is_integer(v) ? json_integer_value(v) : -1;
        if (out[i] < 0 || out[i] >= n_layer || (i && out[i] <= out[i - 1])) {
            char brief[64];

            return hd_err_set(err, HD_ERR_FORMAT, "%s: %s: found %s; expected ascending layers below %lld", file, key, hd_json_brief(v, brief), (long long)n_layer);
        }
    }
    return HD_OK;
}

static int read_layers(struct hd_csa2_layer *plan, int64_t ratios_used[2], const json_t *c, int64_t n_layer, const char *file, struct hd_err *err)
{
    const json_t *ratios = json_object_get(c, "compress_ratios");
    int64_t owners[LAYER_MAX], sources[LAYER_MAX];
    int n_owner, n_source, n_ratio = 0, owner = -1, source = -1;

    HD_TRY(read_ids(c, "kv_source_layer_ids", n_layer, owners, LAYER_MAX, &n_owner, file, err));
    HD_TRY(read_ids(c, "index_source_layer_ids", n_layer, sources, LAYER_MAX, &n_source, file, err));
    for (int i = 0, o = 0, q = 0; i < n_layer; i++) {
        const json_t *r = json_array_get(ratios, (size_t)i);
        struct hd_csa2_layer *l = &plan[i];
        bool owns = o < n_owner && owners[o] == i, chooses = q < n_source && sources[q] == i;

        l->ratio = json_is_integer(r) ? json_integer_value(r) : -1;
        if (l->ratio < 0 || l->ratio > 256)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: compress_ratios: expected a number from 0 to 256 for each of %lld layers; layer %d has none", file,
                              (long long)n_layer, i);
        if (owns) {
            owner = i;
            o++;
        }
        if (chooses) {
            source = i;
            q++;
        }
        l->owner = l->ratio ? owner : -1;
        l->source = l->ratio ? source : -1;
        if (!l->ratio && (owns || chooses))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: layer %d makes or chooses entries, but its compress_ratio is 0", file, i);
        if (l->ratio && (owner < 0 || source < 0 || plan[owner].ratio != l->ratio || source < owner))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: layer %d: its entries (of layer %d) or their choice (of layer %d) do not fit its compress_ratio %lld", file, i, owner,
                              source, (long long)l->ratio);
        if (owns) {
            int k = 0;

            while (k < n_ratio && ratios_used[k] != l->ratio)
                k++;
            if (k == 2)
                return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: compress_ratios: found more than two different ones", file);
            if (k == n_ratio)
                ratios_used[n_ratio++] = l->ratio;
        }
    }
    return HD_OK;
}

int hd_csa2_config(struct hd_csa2_hp *hp, struct hd_csa2_layer *plan, int64_t ratios_used[2], const json_t *c, int64_t n_layer, const char *f, struct hd_err *err)
{
    HD_TRY(hd_json_int(c, "num_attention_heads", 1, 65536, &hp->n_head, f, err));
    HD_TRY(hd_json_int(c, "head_dim", 2, 65536, &hp->head_dim, f, err));
    HD_TRY(hd_json_int(c, "qk_rope_head_dim", 2, 65536, &hp->rope_dim, f, err));
    HD_TRY(hd_json_int(c, "q_lora_rank", 1, DIM_MAX, &hp->q_rank, f, err));
    HD_TRY(hd_json_int(c, "o_lora_rank", 1, DIM_MAX, &hp->o_rank, f, err));
    HD_TRY(hd_json_int(c, "o_groups", 1, 65536, &hp->o_groups, f, err));
    HD_TRY(hd_json_int(c, "sliding_window", 1, (int64_t)1 << 20, &hp->window, f, err));
    HD_TRY(hd_json_int_or(c, "index_n_heads", 1, 65536, 32, &hp->index_heads, f, err));
    HD_TRY(hd_json_int_or(c, "index_head_dim", 2, 65536, 128, &hp->index_dim, f, err));
    HD_TRY(hd_json_int_or(c, "index_topk", 1, (int64_t)1 << 20, 512, &hp->index_top_k, f, err));
    HD_TRY(hd_json_int_or(c, "candidate_source_layer_id", -1, n_layer - 1, -1, &hp->cand_source, f, err));
    HD_TRY(hd_json_int_or(c, "candidate_topk_blocks", 1, (int64_t)1 << 24, 2048, &hp->n_cand, f, err));
    HD_TRY(hd_json_int_or(c, "candidate_block_size", 1, 65536, 8, &hp->cand_block, f, err));
    if (hp->rope_dim % 2 || hp->rope_dim > hp->head_dim || hp->rope_dim > hp->index_dim)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: qk_rope_head_dim: found %lld; expected an even number up to head_dim %lld and index_head_dim %lld", f,
                          (long long)hp->rope_dim, (long long)hp->head_dim, (long long)hp->index_dim);
    if (hp->n_head % hp->o_groups)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: o_groups: found %lld; expected a divisor of %lld heads", f, (long long)hp->o_groups, (long long)hp->n_head);
    HD_TRY(read_layers(plan, ratios_used, c, n_layer, f, err));
    for (int i = 0; i < n_layer; i++)
        if (plan[i].owner == i)
            hp->decoder = i;
    if (hp->cand_source >= 0 && plan[hp->cand_source].source != hp->cand_source)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: candidate_source_layer_id: found %lld; expected one of index_source_layer_ids", f, (long long)hp->cand_source);
    return HD_OK;
}

/* ---- cache ---- */

/* How window rows, entries and index keys are kept. */
enum row_kind { ROW_WINDOW, ROW_ENTRY, ROW_KEY };

static struct hd_kv_row row_of(const struct hd_csa2_hp *hp, enum row_kind kind)
{
    if (!hp->native)
        return (struct hd_kv_row){0};
    return kind == ROW_WINDOW ? hd_kv_row(HD_KV_FP8, 32, hp->head_dim, 0) : kind == ROW_ENTRY ? hd_kv_row(HD_KV_FP4_E4M3, 16, hp->head_dim, 0)
                                                                                             : hd_kv_row(HD_KV_FP4, 32, hp->index_dim, 0);
}

static int64_t packed_bytes(struct hd_kv_row r)
{
    return r.code ? hd_kv_row_bytes(&r) : 0;
}

int hd_csa2_parts(const struct hd_csa2_hp *hp, const struct hd_csa2_layer *l, int layer, struct hd_cache_part *part)
{
    int n = 0;

    part[n++] = (struct hd_cache_part){.name = "window", .layer = layer, .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = hp->head_dim, .pack = row_of(hp, ROW_WINDOW), .ratio = 1,
                                       .window = (int)hp->window, .slack = SLACK};
    if (l->owner != layer)
        return n;
    part[n++] = (struct hd_cache_part){.name = "entries", .layer = layer, .kind = HD_PART_PAGED, .type = HD_F32, .row_len = hp->head_dim, .pack = row_of(hp, ROW_ENTRY), .ratio = (int)l->ratio};
    part[n++] = (struct hd_cache_part){.name = "index keys", .layer = layer, .kind = HD_PART_PAGED, .type = HD_F32, .row_len = hp->index_dim, .pack = row_of(hp, ROW_KEY), .panels = true, .ratio = (int)l->ratio};
    if (l->ratio > 1)
        part[n++] = (struct hd_cache_part){.name = "groups", .layer = layer, .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = 2 * hp->head_dim, .ratio = 1,
                                           .window = (int)l->ratio, .slack = SLACK};
    return n;
}

/* ---- forward ---- */

static void norm(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *w, float eps)
{
    hd_rmsnorm(s, x, x, w, eps);
    hd_bf16(s, x);
}

static void rotate(struct hd_stream *s, struct hd_tensor *x, const struct hd_tensor *table, int64_t head_dim, int64_t rope_dim, bool inverse)
{
    hd_rope_at(s, x, table, head_dim, true, head_dim - rope_dim, inverse);
    hd_bf16(s, x);
}

/* An owner's entries and index keys of this step, into the cache. */
static void own_entries(struct hd_stream *s, const struct hd_csa2_hp *hp, const struct hd_csa2_weights *w, const struct hd_csa2_layer *l, const struct hd_csa2_step *st,
                        const struct hd_tensor *u, int layer)
{
    int k = st->ratio[0] == l->ratio ? 0 : 1;
    const struct hd_ragged *eb = st->e[k];
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *e = hd_new(s, HD_F32, eb->n_tok, hp->head_dim), *key = hd_new(s, HD_F32, eb->n_tok, hp->index_dim);

    if (l->ratio == 1) {
        hd_linear(s, e, u, &w->comp_wkv, 0);
    } else {
        struct hd_tensor *z = hd_new(s, HD_F32, hd_rows(u), hp->head_dim), *g = hd_new(s, HD_F32, hd_rows(u), hp->head_dim);

        hd_matmul_n(s, 2, (struct hd_tensor *[]){z, g}, u, (const struct hd_tensor *[]){&w->comp_wkv, &w->comp_wgate});
        hd_pool(s, e, z, g, NULL, st->b, l->part0 + PART_GROUP, l->ratio, false);
        hd_bf16(s, e);
    }
    norm(s, e, &w->comp_norm, hp->norm_eps);
    hd_trace(s, e, "layers.%d.attn.comp.norm", layer);
    hd_linear(s, key, hd_learn_input(s, e), &w->index_wk, 0);
    norm(s, key, &w->index_k_norm, hp->norm_eps);
    rotate(s, key, st->rope_e[k], hp->index_dim, hp->rope_dim, false);
    hd_sim(s, key, HD_SIM_FP4, 32, hp->index_dim, 0, hp->index_dim);
    hd_trace(s, key, "layers.%d.attn.index.k", layer);
    hd_kv_put(s, key, eb, l->part0 + PART_KEY, HD_F32);
    rotate(s, e, st->rope_e[k], hp->head_dim, hp->rope_dim, false);
    hd_sim(s, e, HD_SIM_FP4_E4M3, 16, hp->head_dim, 0, hp->head_dim);
    hd_trace(s, e, "layers.%d.attn.ckv", layer);
    hd_kv_put(s, e, eb, l->part0 + PART_ENTRY, HD_F32);
    hd_stream_rewind(s, mark);
}

void hd_csa2_begin(struct hd_stream *s, const struct hd_csa2_hp *hp, const int64_t ratios_used[2], const struct hd_ragged *b, const struct hd_tensor *inv_freq,
                   const struct hd_tensor *inv_freq_comp, struct hd_csa2_step *st)
{
    int64_t rd = hp->rope_dim;

    *st = (struct hd_csa2_step){.b = b};
    st->rope = hd_new(s, HD_F32, b->n_tok, rd);
    st->rope_comp = hd_new(s, HD_F32, b->n_tok, rd);
    hd_rope_table(s, st->rope, b, inv_freq, 1);
    hd_rope_table(s, st->rope_comp, b, inv_freq_comp, 1);
    for (int k = 0; k < 2 && ratios_used[k]; k++) {
        st->ratio[k] = ratios_used[k];
        st->e[k] = hd_entries(s, b, ratios_used[k]);
        st->rope_e[k] = hd_new(s, HD_F32, st->e[k]->n_tok, rd);
        hd_rope_table(s, st->rope_e[k], st->e[k], inv_freq_comp, 1);
    }
    st->sel = hd_new(s, HD_I32, b->n_tok, hp->index_top_k);
    if (hp->cand_source >= 0)
        st->cand = hd_new(s, HD_I32, b->n_tok, hp->n_cand);
}

static void choose(struct hd_stream *s, const struct hd_csa2_hp *hp, const struct hd_csa2_weights *w, const struct hd_csa2_layer *all, int layer, struct hd_csa2_step *st,
                   const struct hd_tensor *u, const struct hd_tensor *qr)
{
    int64_t n = hd_rows(u), dim = hp->index_dim;
    struct hd_index_hp ih = {.n_head = hp->index_heads, .head_dim = dim, .ratio = all[layer].ratio, .top_k = hp->index_top_k, .ascending = true,
                             .block = hp->cand_block, .n_block = hp->n_cand, .row_bytes = packed_bytes(row_of(hp, ROW_KEY))};
    bool behind = hp->cand_source >= 0 && layer > hp->cand_source && all[layer].owner == all[hp->cand_source].owner;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *q = hd_new_kept(s, HD_F32, n, hp->index_heads * dim), *wt = hd_new_kept(s, HD_F32, n, hp->index_heads);      /* while the indexer learns, of the layers behind too */

    hd_linear(s, q, hd_learn_input(s, qr), &w->index_wq_b, hp->act_block);
    rotate(s, q, st->rope_comp, dim, hp->rope_dim, false);
    hd_sim(s, q, HD_SIM_FP4, 32, dim, 0, dim);
    hd_trace(s, q, "layers.%d.attn.index.q", layer);
    hd_linear(s, wt, hd_learn_input(s, u), &w->index_weights, 0);
    hd_scale(s, wt, (float)(1 / sqrt((double)dim) / sqrt((double)hp->index_heads)));
    hd_bf16(s, wt);
    st->index_q = q;
    st->index_w = wt;
    if (hd_learn_dense(s))
        return;
    hd_index(s, st->sel, q, wt, st->b, all[all[layer].owner].part0 + PART_KEY, &ih, layer == hp->cand_source ? st->cand : NULL, behind ? st->cand : NULL);
    hd_stream_rewind(s, mark);
}

void hd_csa2_encode(struct hd_stream *s, const struct hd_csa2_hp *hp, const struct hd_csa2_weights *w, const struct hd_csa2_layer *all, int layer,
                    const struct hd_csa2_step *st, const struct hd_tensor *u)
{
    own_entries(s, hp, w, &all[layer], st, u, layer);
}

/* kv[T, head_dim], u times wkv: rotated, and rounded to what the cache holds. */
static void latents(struct hd_stream *s, const struct hd_csa2_hp *hp, const struct hd_csa2_weights *w, const struct hd_tensor *rope, struct hd_tensor *kv, int layer)
{
    norm(s, kv, &w->kv_norm, hp->norm_eps);
    rotate(s, kv, rope, hp->head_dim, hp->rope_dim, false);
    hd_sim_kv(s, kv, HD_SIM_FP8, 32, hp->head_dim, hp->head_dim, hp->native);
    hd_trace(s, kv, "layers.%d.attn.kv", layer);
}

/* Those of u[T, D] alone. */
static struct hd_tensor *latents_of(struct hd_stream *s, const struct hd_csa2_hp *hp, const struct hd_csa2_weights *w, const struct hd_tensor *rope, const struct hd_tensor *u, int layer)
{
    struct hd_tensor *kv = hd_new(s, HD_F32, hd_rows(u), hp->head_dim);

    hd_linear(s, kv, u, &w->wkv, hp->act_block);
    latents(s, hp, w, rope, kv, layer);
    return kv;
}

void hd_csa2_keep(struct hd_stream *s, const struct hd_csa2_hp *hp, const struct hd_csa2_weights *w, const struct hd_csa2_layer *l, const struct hd_csa2_step *st,
                  const struct hd_tensor *u, int layer)
{
    struct hd_stream_mark mark = hd_stream_mark(s);

    hd_ring_put(s, latents_of(s, hp, w, st->rope, u, layer), st->b, l->part0 + PART_WINDOW);
    hd_stream_rewind(s, mark);
}

void hd_attn_csa2(struct hd_stream *s, const struct hd_csa2_hp *hp, const struct hd_csa2_weights *w, const struct hd_csa2_layer *all, int layer, struct hd_csa2_step *st,
                  const struct hd_tensor *u, struct hd_tensor *out)
{
    const struct hd_csa2_layer *l = &all[layer];
    int64_t n = hd_rows(u), d = hp->head_dim;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *qr = hd_new(s, HD_F32, n, hp->q_rank), *q = hd_new(s, HD_F32, n, hp->n_head * d), *kv = hd_new(s, HD_F32, n, d), *o;
    struct hd_tensor *rope = l->ratio ? st->rope_comp : st->rope;
    struct hd_attend_sel_hp ah = {hp->n_head, d, hp->window, l->ratio, l->part0 + PART_WINDOW, l->ratio ? all[l->owner].part0 + PART_ENTRY : -1,
                                  (float)(1 / sqrt((double)d)), 0, packed_bytes(row_of(hp, ROW_ENTRY)), layer >= hp->decoder, st->block, hd_attends_bf16(s, &w->wo_b, hp->n_head)};

    hd_linear_n(s, 2, (struct hd_tensor *[]){qr, kv}, u, (const struct hd_tensor *[]){&w->wq_a, &w->wkv}, hp->act_block);
    norm(s, qr, &w->q_norm, hp->norm_eps);
    hd_linear(s, q, qr, &w->wq_b, hp->act_block);
    rotate(s, q, rope, d, hp->rope_dim, false);
    hd_trace(s, q, "layers.%d.attn.q", layer);
    latents(s, hp, w, rope, kv, layer);
    if (l->owner == layer)
        own_entries(s, hp, w, l, st, u, layer);
    if (l->source == layer)
        choose(s, hp, w, all, layer, st, u, qr);
    if (l->ratio)
        hd_trace(s, st->sel, "layers.%d.attn.selected", layer);
    o = hd_new(s, HD_F32, n, hp->n_head * d);
    if (l->ratio && hd_learns(s, HD_LEARN_INDEX))
        hd_learn_index(s, st->index_q, st->index_w, q, kv, hd_learn_dense(s) ? NULL : st->sel, &w->sink, st->b,
                       &(struct hd_index_loss_hp){ah, hp->index_heads, hp->index_dim, all[l->owner].part0 + PART_KEY});
    if (st->learn)
        hd_attend_drafts(s, o, q, kv, latents_of(s, hp, w, st->learn->rope, st->learn->main, layer), &w->sink, st->learn, hp->n_head, d, hp->window);
    else
        hd_attend_sel(s, o, q, kv, l->ratio && !hd_learn_dense(s) ? st->sel : NULL, &w->sink, st->b, &ah);
    hd_bf16(s, o);
    hd_trace(s, o, "layers.%d.attn.o_rope", layer);
    if (!st->block && !st->learn)
        hd_ring_put(s, kv, st->b, l->part0 + PART_WINDOW);
    rotate(s, o, rope, d, hp->rope_dim, true);
    hd_grouped_out(s, o, &w->wo_a, &w->wo_b, hp->o_groups, hp->act_block, out, layer);
    hd_trace(s, out, "layers.%d.attn.out", layer);
    hd_stream_rewind(s, mark);
}
