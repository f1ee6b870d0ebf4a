/* arch_deepseek_v41.c: DeepSeek-V4.1-Flash: shared compressed entries, delayed hyper-connections, Engram, experts.
 *
 * Source   the published config.json (everything in text_config) and inference code
 * Traps    a half-layer collapses the streams with the pre of the half-layer before it; the last one replaces a head
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/attn_csa2.h"
#include "model/draft_learn.h"
#include "model/dspark.h"
#include "model/engram.h"
#include "model/mhc.h"
#include "model/model.h"
#include "model/moe.h"
#include "model/rope.h"
#include "model/vit.h"
#include "weights/bind.h"

#define LAYER_MAX 1024
#define DIM_MAX ((int64_t)1 << 24)
#define DRAFT_MAX 16                  /* stages of DSpark */

struct layer {
    struct hd_tensor attn_norm, ffn_norm, bias_vl;
    struct hd_mhc_weights hc_attn, hc_ffn;
    struct hd_csa2_weights attn;
    struct hd_moe_weights ffn;
    struct hd_engram_weights engram;
    struct hd_tensor main_proj, main_norm, norm, markov_embed, markov_head, confidence;      /* stages of the draft module only */
};

struct v41 {
    int64_t n_layer, d_model, n_vocab, d_expert, n_shared;
    struct hd_csa2_hp attn;
    struct hd_moe_block_hp moe;
    struct hd_mhc_hp mhc;
    struct hd_rope_hp rope, rope_comp;
    float norm_eps;
    bool norm_topk;
    int64_t image_token;
    struct hd_engram engram;
    struct hd_tensor embed, norm, head;
    struct hd_tensor inv_freq, inv_freq_comp;
    struct layer *layer;
    struct hd_csa2_layer *plan;                       /* who owns, who chooses; the draft's stages behind the layers */
    int64_t ratios[2];                                /* of the owners, at most two */
    int64_t n_draft;                                  /* stages of DSpark; 0: none */
    struct layer *draft;
    struct hd_dspark spark;
    struct hd_moe_block_hp draft_moe;
    struct hd_vit vit;
    struct hd_weight_list list[3];                    /* the model, the draft module, vision */
};

/* ---- weights ---- */

#define G(f) offsetof(struct v41, f)
#define L(f) offsetof(struct layer, f)
#define M HD_W_MATRIX
#define V HD_W_VECTOR

static const struct hd_weight_row rows[] = {
    {G(embed), M, HD_W_GLOBAL, "embed.weight", NULL, "V,D", NULL},
    {G(norm), V, HD_W_GLOBAL, "norm.weight", NULL, "D", NULL},
    {G(head), M, HD_W_GLOBAL, "head.weight", NULL, "V,D", NULL},
    {L(attn_norm), V, 0, "@attn_norm.weight", NULL, "D", NULL},
    {L(ffn_norm), V, 0, "@ffn_norm.weight", NULL, "D", NULL},
    {L(hc_attn.fn), V, 0, "@hc_attn_fn", NULL, "Cm,C*D", NULL},
    {L(hc_attn.base), V, 0, "@hc_attn_base", NULL, "Cm", NULL},
    {L(hc_attn.scale), V, 0, "@hc_attn_scale", NULL, "3", NULL},
    {L(hc_ffn.fn), V, 0, "@hc_ffn_fn", NULL, "Cm,C*D", NULL},
    {L(hc_ffn.base), V, 0, "@hc_ffn_base", NULL, "Cm", NULL},
    {L(hc_ffn.scale), V, 0, "@hc_ffn_scale", NULL, "3", NULL},
    {L(attn.wq_a), M, HD_W_FP8, "@attn.wq_a.weight", NULL, "Rq,D", NULL},
    {L(attn.q_norm), V, 0, "@attn.q_norm.weight", NULL, "Rq", NULL},
    {L(attn.wq_b), M, HD_W_FP8, "@attn.wq_b.weight", NULL, "H*Dh,Rq", NULL},
    {L(attn.wkv), M, HD_W_FP8, "@attn.wkv.weight", NULL, "Dh,D", NULL},
    {L(attn.kv_norm), V, 0, "@attn.kv_norm.weight", NULL, "Dh", NULL},
    {L(attn.sink), V, 0, "@attn.attn_sink", NULL, "H", NULL},
    {L(attn.wo_a), M, HD_W_FP8, "@attn.wo_a.weight", NULL, "Og*Or,Oc", NULL},
    {L(attn.wo_b), M, HD_W_FP8, "@attn.wo_b.weight", NULL, "D,Og*Or", NULL},
    {L(attn.comp_wkv), M, 0, "@attn.compressor.wkv.weight", NULL, "Dh,D", "owner"},
    {L(attn.comp_wgate), M, 0, "@attn.compressor.wgate.weight", NULL, "Dh,D", "pool"},
    {L(attn.comp_norm), V, 0, "@attn.compressor.norm.weight", NULL, "Dh", "owner"},
    {L(attn.index_wk), M, 0, "@attn.indexer.wk.weight", NULL, "Id,Dh", "owner"},
    {L(attn.index_k_norm), V, 0, "@attn.indexer.k_norm.weight", NULL, "Id", "owner"},
    {L(attn.index_wq_b), M, HD_W_FP8, "@attn.indexer.wq_b.weight", NULL, "Ih*Id,Rq", "source"},
    {L(attn.index_weights), M, 0, "@attn.indexer.weights_proj.weight", NULL, "Ih,D", "source"},
    {L(engram.wkv), M, HD_W_FP8, "@engram.wkv.weight", NULL, "Ckv*D,Ne*De", "engram"},
    {L(engram.q_weight), V, 0, "@engram.q_weight", NULL, "C,D", "engram"},
    {L(engram.k_weight), V, 0, "@engram.k_weight", NULL, "C,D", "engram"},
    {L(ffn.gate_inp), M, 0, "@ffn.gate.weight", NULL, "E,D", NULL},
    {L(ffn.gate_bias), V, 0, "@ffn.gate.bias", NULL, "E", NULL},
    {L(bias_vl), V, HD_W_OPTIONAL | HD_W_PLANNED, "@ffn.gate.bias_vl", NULL, "E", NULL},
    {L(ffn.gate), M, HD_W_EXPERT, "@ffn.experts.%d.w1.weight", NULL, "F,D", NULL},
    {L(ffn.up), M, HD_W_EXPERT, "@ffn.experts.%d.w3.weight", NULL, "F,D", NULL},
    {L(ffn.down), M, HD_W_EXPERT, "@ffn.experts.%d.w2.weight", NULL, "D,F", NULL},
    {L(ffn.sh_gate), M, HD_W_FP8, "@ffn.shared_experts.w1.weight", NULL, "Es*F,D", NULL},
    {L(ffn.sh_up), M, HD_W_FP8, "@ffn.shared_experts.w3.weight", NULL, "Es*F,D", NULL},
    {L(ffn.sh_down), M, HD_W_FP8, "@ffn.shared_experts.w2.weight", NULL, "D,Es*F", NULL},
};

/* the tables differ in size: one row each, by their place in engram_layer_ids */
static const struct hd_weight_row table_rows[] = {
#define TABLE(i) {L(engram.embed), M, HD_W_FP8_ROWS, "@engram.embed.weight", NULL, "N" #i ",De", "engram" #i}
    TABLE(0), TABLE(1), TABLE(2), TABLE(3), TABLE(4), TABLE(5), TABLE(6), TABLE(7),
};

/* beside rows[], in the stages of DSpark */
static const struct hd_weight_row draft_rows[] = {
    {L(main_proj), M, HD_W_FP8, "@main_proj.weight", NULL, "D,Tap*D", "first"},
    {L(main_norm), V, 0, "@main_norm.weight", NULL, "D", "first"},
    {L(norm), V, 0, "@norm.weight", NULL, "D", "last"},
    {L(markov_embed), M, 0, "@markov_head.embed.weight", NULL, "V,Mr", "last"},
    {L(markov_head), M, 0, "@markov_head.head.weight", NULL, "V,Mr", "last"},
    {L(confidence), M, 0, "@confidence_head.proj.weight", NULL, "1,Cf", "last"},
};

static bool exists(const void *arg, const char *when, int64_t layer)
{
    const struct v41 *d = arg;
    const struct hd_csa2_layer *l = &d->plan[layer];

    if (!strcmp(when, "owner"))
        return l->owner == layer;
    if (!strcmp(when, "pool"))
        return l->owner == layer && l->ratio > 1;
    if (!strcmp(when, "source"))
        return l->source == layer;
    return when[6] ? hd_engram_index(&d->engram, layer) == when[6] - '0' : hd_engram_index(&d->engram, layer) >= 0;
}

static bool exists_draft(const void *arg, const char *when, int64_t layer)
{
    const struct v41 *d = arg;

    return !strcmp(when, "first") ? layer == 0 : !strcmp(when, "last") && layer == d->n_draft - 1;
}

/* ---- hyper-parameters ---- */

static int read_config(struct hd_model *m, struct v41 *d, struct hd_err *err)
{
    const json_t *c = json_object_get(m->store.config, "text_config"), *q = json_object_get(m->store.config, "quantization_config"), *b;
    const char *f = m->store.config_path, *scoring, *act;
    double eps, scale, limit, hc_eps, temp, theta, theta_comp;
    int64_t n_ctx, block = 32;
    bool norm;

    if (!json_is_object(c))
        c = m->store.config;
    if (!q)
        q = json_object_get(c, "quantization_config");
    HD_TRY(hd_json_int(c, "num_hidden_layers", 1, LAYER_MAX, &d->n_layer, f, err));
    HD_TRY(hd_json_int(c, "hidden_size", 1, DIM_MAX, &d->d_model, f, err));
    HD_TRY(hd_json_int(c, "vocab_size", 1, DIM_MAX, &d->n_vocab, f, err));
    HD_TRY(hd_json_int(c, "moe_intermediate_size", 1, DIM_MAX, &d->d_expert, f, err));
    HD_TRY(hd_json_int(c, "n_routed_experts", 1, 4096, &d->moe.gate.n_expert, f, err));
    HD_TRY(hd_json_int(c, "num_experts_per_tok", 1, 64, &d->moe.gate.n_used, f, err));
    HD_TRY(hd_json_int_or(c, "n_shared_experts", 1, 64, 1, &d->n_shared, f, err));
    HD_TRY(hd_json_int_or(c, "hc_mult", 1, 8, 4, &d->mhc.n_hc, f, err));
    HD_TRY(hd_json_int_or(c, "hc_sinkhorn_iters", 1, 1000, 20, &d->mhc.n_iter, f, err));
    HD_TRY(hd_json_real_or(c, "hc_eps", 0, 1, 1e-6, &hc_eps, f, err));
    HD_TRY(hd_json_real_or(c, "rms_norm_eps", 0, 1, 1e-20, &eps, f, err));
    HD_TRY(hd_json_real_or(c, "routed_scaling_factor", 0, 1e6, 1, &scale, f, err));
    HD_TRY(hd_json_real_or(c, "gate_temp", 1e-6, 1e6, 1, &temp, f, err));
    HD_TRY(hd_json_real_or(c, "swiglu_limit", 0, 1e6, 0, &limit, f, err));
    HD_TRY(hd_json_bool_or(c, "norm_topk_prob", true, &norm, f, err));
    HD_TRY(hd_json_str_or(c, "scoring_func", "sqrtsoftplus", &scoring, f, err));
    HD_TRY(hd_json_str_or(c, "hidden_act", "silu", &act, f, err));
    HD_TRY(hd_json_int_or(c, "max_position_embeddings", 1, (int64_t)1 << 30, 1048576, &n_ctx, f, err));
    HD_TRY(hd_json_real_or(c, "rope_theta", 1, 1e12, 10000, &theta, f, err));
    HD_TRY(hd_json_real_or(c, "compress_rope_theta", 1, 1e12, 160000, &theta_comp, f, err));
    HD_TRY(hd_json_int_or(m->store.config, "image_token_id", 0, d->n_vocab - 1, -1, &d->image_token, f, err));
    if (strcmp(act, "silu"))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: hidden_act: found \"%s\"; expected silu", f, act);
    if (strcmp(scoring, "sqrtsoftplus"))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: scoring_func: found \"%s\"; expected sqrtsoftplus", f, scoring);
    if (d->moe.gate.n_used > d->moe.gate.n_expert)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: num_experts_per_tok: found %lld of %lld experts", f, (long long)d->moe.gate.n_used, (long long)d->moe.gate.n_expert);
    b = json_array_get(json_object_get(q, "weight_block_size"), 1);
    if (json_is_integer(b) && json_integer_value(b) > 0)
        block = json_integer_value(b);
    d->norm_eps = d->attn.norm_eps = (float)eps;
    d->attn.act_block = d->moe.moe.act_block = q ? block : 0;
    d->attn.native = m->kv == HD_KV_NATIVE || (m->kv == HD_KV_AUTO && q);
    d->mhc.norm_eps = (float)eps;
    d->mhc.eps = (float)hc_eps;
    d->moe.gate.fn = HD_GATE_SQRTSOFTPLUS;
    d->norm_topk = norm;
    d->moe.gate.norm = norm && d->moe.gate.n_used > 1;
    d->moe.gate.norm_eps = 1e-20f;
    d->moe.gate.scale = (float)scale;
    d->moe.gate.temp = (float)temp;
    d->moe.moe.n_expert = d->moe.gate.n_expert;
    d->moe.moe.limit = (float)limit;
    d->moe.moe.weight_first = true;
    d->layer = hd_arena_zalloc(&m->arena, (size_t)d->n_layer * sizeof *d->layer);
    d->plan = hd_arena_zalloc(&m->arena, (size_t)(d->n_layer + DRAFT_MAX) * sizeof *d->plan);
    if (!d->layer || !d->plan)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld layers", f, (long long)d->n_layer);
    HD_TRY(hd_csa2_config(&d->attn, d->plan, d->ratios, c, d->n_layer, f, err));
    HD_TRY(hd_engram_config(&d->engram, c, d->n_layer, d->n_vocab, true, f, err));
    d->rope = (struct hd_rope_hp){.dim = d->attn.rope_dim, .theta = theta, .factor = 1, .n_ctx_orig = n_ctx};
    d->rope_comp = (struct hd_rope_hp){.dim = d->attn.rope_dim};
    HD_TRY(hd_rope_config(&d->rope_comp, c, n_ctx, f, err));
    d->rope_comp.theta = theta_comp;
    d->rope_comp.attn_factor = 1;
    d->rope_comp.truncate = true;
    m->hp = (struct hd_hparams){d->n_layer, d->d_model, d->n_vocab, n_ctx};
    return HD_OK;
}

/* ---- loading ---- */

static int take_classes(struct hd_model *m, const int32_t *map, int64_t n, int64_t n_class, struct hd_err *err)
{
    struct v41 *d = m->impl;

    return hd_engram_classes(&d->engram, &m->arena, map, n, n_class, m->store.config_path, err);
}

/* The draft module's stages: as many as lie there; of a plan, as many as the config says. */
static int find_draft(struct hd_model *m, struct v41 *d, const json_t *c, struct hd_err *err)
{
    char name[64];

    if (m->planned)
        HD_TRY(hd_json_int_or(c, "num_nextn_predict_layers", 0, DRAFT_MAX, 0, &d->n_draft, m->store.config_path, err));
    else
        for (; d->n_draft < DRAFT_MAX; d->n_draft++) {
            snprintf(name, sizeof name, "mtp.%d.attn_norm.weight", (int)d->n_draft);
            if (!hd_store_find(&m->store, name))
                break;
        }
    HD_TRY(hd_dspark_config(&d->spark, c, d->n_layer, d->n_vocab, d->n_draft && (m->wants_draft || m->planned), m->store.config_path, err));
    m->draft_learns = d->n_draft && d->spark.block > 0;
    if (d->n_draft && m->wants_draft)
        m->draft = (struct hd_draft){d->spark.block, d->spark.block, (int32_t)d->spark.noise, false};
    if (d->n_draft && !(d->draft = hd_arena_zalloc(&m->arena, (size_t)d->n_draft * sizeof *d->draft)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld draft stages", m->store.path, (long long)d->n_draft);
    return HD_OK;
}

/* The model's rows and a list's own behind them. */
static struct hd_weight_row *join(struct hd_arena *arena, const struct hd_weight_row *more, int n_more, int first, int *n)
{
    struct hd_weight_row *out = hd_arena_alloc(arena, sizeof rows + (size_t)n_more * sizeof *more);

    *n = HD_LEN(rows) - first + n_more;
    if (out) {
        memcpy(out, rows + first, sizeof rows - (size_t)first * sizeof *rows);
        memcpy(out + HD_LEN(rows) - first, more, (size_t)n_more * sizeof *more);
    }
    return out;
}

static int bind(struct hd_model *m, struct v41 *d, struct hd_err *err)
{
    const json_t *c = json_object_get(m->store.config, "text_config");
    struct hd_csa2_hp *a = &d->attn;
    struct hd_symbol *sym = hd_arena_zalloc(&m->arena, 64 * sizeof *sym), *sym_draft = sym + 32;
    int64_t n_expert, n_used;
    int n = 0;

    if (!json_is_object(c))
        c = m->store.config;
    HD_TRY(hd_json_int_or(c, "dspark_n_routed_experts", 1, 4096, d->moe.gate.n_expert, &n_expert, m->store.config_path, err));
    HD_TRY(hd_json_int_or(c, "dspark_num_experts_per_tok", 1, 64, d->moe.gate.n_used < n_expert ? d->moe.gate.n_used : n_expert, &n_used, m->store.config_path, err));
    if (n_used > n_expert)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: dspark_num_experts_per_tok: found %lld of %lld experts", m->store.config_path, (long long)n_used, (long long)n_expert);
    d->draft_moe = d->moe;
    d->draft_moe.gate.n_used = n_used;
    d->draft_moe.gate.n_expert = d->draft_moe.moe.n_expert = n_expert;
    d->draft_moe.gate.norm = d->norm_topk && n_used > 1;
    HD_TRY(find_draft(m, d, c, err));
    if (!sym)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    const struct hd_symbol known[] = {{"V", d->n_vocab}, {"D", d->d_model}, {"F", d->d_expert}, {"Es", d->n_shared}, {"H", a->n_head}, {"Dh", a->head_dim},
                                      {"Rq", a->q_rank}, {"Or", a->o_rank}, {"Og", a->o_groups}, {"Oc", a->n_head / a->o_groups * a->head_dim},
                                      {"Ih", a->index_heads}, {"Id", a->index_dim}, {"C", d->mhc.n_hc}, {"Cm", d->mhc.n_hc * (2 + d->mhc.n_hc)},
                                      {"Ckv", d->mhc.n_hc + 1}, {"Ne", d->engram.n_order * d->engram.n_head}, {"De", d->engram.dim}, {"Mr", d->spark.rank},
                                      {"Cf", d->d_model + d->spark.rank}, {"Tap", d->spark.n_tap}};
    static const char *const sizes[] = {"N0", "N1", "N2", "N3", "N4", "N5", "N6", "N7"};

    for (; n < HD_LEN(known); n++)
        sym[n] = known[n];
    for (int i = 0; i < HD_LEN(sizes); i++)
        sym[n++] = (struct hd_symbol){sizes[i], d->engram.rows[i]};
    sym[n++] = (struct hd_symbol){"E", d->moe.gate.n_expert};
    memcpy(sym_draft, sym, 32 * sizeof *sym);
    sym_draft[n - 1].value = n_expert;
    d->list[0] = (struct hd_weight_list){.sym = sym, .n_sym = n, .n_layer = d->n_layer, .globals = d, .layers = d->layer, .layer_bytes = sizeof *d->layer,
                                         .prefix = "layers.%d.", .n_expert = d->moe.gate.n_expert, .exists = exists, .arg = d};
    d->list[1] = d->list[0];
    d->list[1].sym = sym_draft;
    d->list[1].n_layer = d->n_draft;
    d->list[1].layers = d->draft;
    d->list[1].prefix = "mtp.%d.";
    d->list[1].n_expert = n_expert;
    d->list[1].exists = exists_draft;
    d->list[0].row = join(&m->arena, table_rows, HD_LEN(table_rows), 0, &d->list[0].n_row);
    d->list[1].row = join(&m->arena, draft_rows, HD_LEN(draft_rows), 3, &d->list[1].n_row);       /* without embed, norm, head */
    if (!d->list[0].row || !d->list[1].row)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    HD_TRY(hd_vit_list(m, &d->vit, d->d_model, &d->list[2], err));
    return hd_bind_lists(&m->store, d->list, 3, &m->arena, m->planned, err);
}

static int set_cache(struct hd_model *m, struct v41 *d, struct hd_err *err)
{
    struct hd_cache_part *part = hd_arena_zalloc(&m->arena, (size_t)(HD_CSA2_PARTS * d->n_layer + 1 + d->n_draft) * sizeof *part);
    int n = 0;

    if (!part)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the cache's description", m->store.path);
    for (int64_t i = 0; i < d->n_layer; i++) {
        d->plan[i].part0 = n;
        n += hd_csa2_parts(&d->attn, &d->plan[i], (int)i, part + n);
    }
    n += hd_engram_parts(&d->engram, d->mhc.n_hc * d->d_model, n, part + n);
    for (int64_t i = d->n_layer; m->draft.depth && i < d->n_layer + d->n_draft; i++) {
        d->plan[i] = (struct hd_csa2_layer){.owner = -1, .source = -1, .part0 = n};
        hd_csa2_parts(&d->attn, &d->plan[i], (int)i, part + n);
        part[n++].hint = true;
    }
    m->spec = (struct hd_cache_spec){n, part};
    return HD_OK;
}

static int load(struct hd_model *m, struct hd_err *err)
{
    struct v41 *d = hd_arena_zalloc(&m->arena, sizeof *d);
    float *f, scale;

    if (!d)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    if (m->store.kind == HD_STORE_GGUF)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: found GGUF; expected a directory for deepseek_v41", m->store.path);
    m->impl = d;
    HD_TRY(read_config(m, d, err));
    HD_TRY(bind(m, d, err));
    if (!(f = hd_arena_alloc(&m->arena, (size_t)d->attn.rope_dim * sizeof *f)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    hd_rope_freqs(&d->rope, f, &scale);
    hd_rope_freqs(&d->rope_comp, f + d->attn.rope_dim / 2, &scale);
    d->inv_freq = hd_view1(HD_F32, f, d->attn.rope_dim / 2);
    d->inv_freq_comp = hd_view1(HD_F32, f + d->attn.rope_dim / 2, d->attn.rope_dim / 2);
    m->wants_classes = d->engram.n_layer > 0;
    m->shortcut = d->attn.decoder > 0 ? d->attn.window : 0;
    return set_cache(m, d, err);
}

/* ---- forward ---- */

/* What the layers of a step work on. */
struct work {
    struct hd_tensor *x, *mix_a, *mix_f, *u, *y;      /* streams [T, C D], the mixes of both half-layers, a half-layer's input and output [T, D] */
    struct hd_csa2_step st;
};

static void work_new(struct hd_stream *s, const struct v41 *d, int64_t n, struct work *k)
{
    int64_t hc = d->mhc.n_hc;

    k->x = hd_new(s, HD_F32, n, hc * d->d_model);
    k->u = hd_new(s, HD_F32, n, d->d_model);
    k->y = hd_new(s, HD_F32, n, d->d_model);
    k->mix_a = hd_new(s, HD_F32, n, hc * (2 + hc));
    k->mix_f = hd_new(s, HD_F32, n, hc * (2 + hc));
}

/* Before a half-layer: its mix, and its input in u by the mix of the half-layer before (NULL: there is none). */
static void enter(struct hd_stream *s, const struct v41 *d, const struct hd_mhc_weights *hc, const struct hd_tensor *norm, const char *name, int layer, struct hd_tensor *mix,
                  const struct hd_tensor *before, struct work *k)
{
    hd_mhc_mix(s, mix, k->x, &hc->fn, &hc->base, &hc->scale, &d->mhc);
    hd_trace(s, mix, "layers.%d.%s_mix", layer, name);
    hd_mhc_pre(s, k->u, k->x, before, d->mhc.n_hc);
    hd_bf16(s, k->u);
    hd_trace(s, k->u, "layers.%d.%s_in", layer, name);
    hd_rmsnorm(s, k->u, k->u, norm, d->norm_eps);
    hd_bf16(s, k->u);
    hd_trace(s, k->u, "layers.%d.%s_norm", layer, name);
}

/* From attention's input in u to the end of the layer. next: the layer whose experts may be read ahead, or NULL. */
static void layer_run(struct hd_stream *s, const struct v41 *d, const struct layer *l, const struct layer *next, const struct hd_moe_block_hp *moe, const struct hd_ragged *b, int layer, struct work *k)
{
    hd_moe_guess(s, moe, &l->ffn, b, k->u);
    hd_attn_csa2(s, &d->attn, &l->attn, d->plan, layer, &k->st, k->u, k->y);
    hd_mhc_post(s, k->x, k->y, k->mix_a, d->mhc.n_hc);
    hd_bf16(s, k->x);
    hd_trace(s, k->x, "layers.%d.stream_attn", layer);
    enter(s, d, &l->hc_ffn, &l->ffn_norm, "ffn", layer, k->mix_f, k->mix_a, k);
    hd_moe_block(s, moe, &l->ffn, next ? &next->ffn : NULL, b, k->u, k->y, layer);
    hd_mhc_post(s, k->x, k->y, k->mix_f, d->mhc.n_hc);
    hd_bf16(s, k->x);
    hd_trace(s, k->x, "layers.%d.stream", layer);
    hd_layer_end(s);
}

static void head(struct hd_stream *s, const struct v41 *d, const struct hd_tensor *norm, struct hd_tensor *y, struct hd_tensor *logits)
{
    hd_rmsnorm(s, y, y, norm, d->norm_eps);
    hd_bf16(s, y);
    hd_trace(s, y, "final.norm");
    hd_logits(s, logits, y, &d->head);
}

/* ---- the draft module ---- */

static void draft_begin(struct hd_stream *s, const struct v41 *d, const struct hd_ragged *b, bool block, struct hd_csa2_step *st)
{
    *st = (struct hd_csa2_step){.b = b, .rope = hd_new(s, HD_F32, b->n_tok, d->attn.rope_dim), .block = block};
    hd_rope_table(s, st->rope, b, &d->inv_freq, 1);
}

/* The latents of all stages, from the taps. */
static void draft_keep(struct hd_stream *s, const struct v41 *d, const struct hd_ragged *b, const struct hd_tensor *taps)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *main = hd_new(s, HD_F32, b->n_tok, d->d_model);
    struct hd_csa2_step st;

    hd_dspark_main(s, main, taps, &d->draft[0].main_proj, &d->draft[0].main_norm, d->attn.act_block, d->norm_eps);
    draft_begin(s, d, b, false, &st);
    for (int i = 0; i < d->n_draft; i++)
        hd_csa2_keep(s, &d->attn, &d->draft[i].attn, &d->plan[d->n_layer + i], &st, main, (int)d->n_layer + i);
    hd_stream_rewind(s, mark);
}

/* All stages on the tokens in k->u; the collapsed stream behind them into y. */
static void draft_stages(struct hd_stream *s, const struct v41 *d, const struct hd_ragged *b, struct work *k, struct hd_tensor *y)
{
    hd_copies(s, k->x, k->u);
    for (int i = 0; i < d->n_draft; i++) {
        const struct layer *l = &d->draft[i];

        hd_layer_begin(s, k->x);
        enter(s, d, &l->hc_attn, &l->attn_norm, "attn", (int)d->n_layer + i, k->mix_a, i ? k->mix_f : NULL, k);
        layer_run(s, d, l, NULL, &d->draft_moe, b, (int)d->n_layer + i, k);
        hd_trace(s, k->x, "draft.stage.%d", i);
    }
    hd_mhc_pre(s, y, k->x, k->mix_f, d->mhc.n_hc);
    hd_bf16(s, y);
}

static void draft(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, struct hd_draft_out *out)
{
    const struct v41 *d = m->impl;
    struct hd_tensor *y = hd_new(s, HD_F32, b->n_tok, d->d_model);
    struct work k;

    *out = (struct hd_draft_out){.logits = hd_new(s, HD_F32, b->n_tok, d->n_vocab), .y = hd_new(s, HD_F32, b->n_tok, d->d_model)};
    work_new(s, d, b->n_tok, &k);
    hd_embed(s, k.u, &d->embed, b);
    draft_begin(s, d, b, true, &k.st);
    draft_stages(s, d, b, &k, out->y);
    hd_copies(s, y, out->y);
    head(s, d, &d->draft[d->n_draft - 1].norm, y, out->logits);
}

/* The module's losses on blocks all over the batch. rope: the batch's table of the plain window. */
static void draft_learn(struct hd_stream *s, const struct v41 *d, const struct hd_ragged *b, const struct hd_tensor *taps, const struct hd_tensor *rope)
{
    const struct layer *last = &d->draft[d->n_draft - 1];
    struct hd_tensor *seen = hd_new(s, HD_F32, b->n_tok, hd_cols(taps)), *main = hd_new(s, HD_F32, b->n_tok, d->d_model), *e, *y;
    struct hd_draft_blocks blocks;
    struct hd_csa_blocks window;
    struct work k;

    if (!hd_draft_blocks(s, &d->spark, b, &blocks))
        return;
    hd_detach(s, seen, taps);
    hd_dspark_main(s, main, seen, &d->draft[0].main_proj, &d->draft[0].main_norm, d->attn.act_block, d->norm_eps);
    window = (struct hd_csa_blocks){b, main, rope, blocks.anchor, d->spark.block};
    work_new(s, d, blocks.b->n_tok, &k);
    e = hd_new(s, HD_F32, blocks.b->n_tok, d->d_model);
    y = hd_new(s, HD_F32, blocks.b->n_tok, d->d_model);
    hd_embed(s, e, &d->embed, blocks.b);
    hd_detach(s, k.u, e);
    draft_begin(s, d, blocks.b, true, &k.st);
    k.st.learn = &window;
    draft_stages(s, d, blocks.b, &k, y);
    hd_draft_losses(s, &blocks, y, &(struct hd_draft_head){&last->norm, &d->head, &last->markov_embed, &last->markov_head, &last->confidence, d->norm_eps});
}

static struct hd_tensor *draft_next(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *prev, const int32_t *which, const struct hd_draft_out *of,
                                    struct hd_tensor **confidence)
{
    const struct v41 *d = m->impl;
    const struct layer *last = &d->draft[d->n_draft - 1];

    return hd_dspark_next(s, &last->markov_embed, &last->markov_head, &last->confidence, prev, which, of, confidence);
}

/* ---- the model ---- */

static struct hd_tensor *forward(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, const int32_t *out_rows, int64_t n_out)
{
    const struct v41 *d = m->impl;
    int64_t n = b->n_tok, hc = d->mhc.n_hc, D = d->d_model;
    bool learn = m->draft_learns && hd_learns(s, HD_LEARN_DRAFT);
    struct hd_tensor *logits = hd_logits_new(s, n_out, d->n_vocab), *class = hd_new(s, HD_I32, n, 1), *last;
    struct hd_tensor *taps = (m->draft.depth && !b->encode) || learn ? hd_new(s, HD_F32, n, d->spark.n_tap * D) : NULL;
    struct work k;

    work_new(s, d, n, &k);
    hd_embed(s, k.u, &d->embed, b);
    hd_trace(s, k.u, "embed");
    hd_copies(s, k.x, k.u);
    hd_csa2_begin(s, &d->attn, d->ratios, b, &d->inv_freq, &d->inv_freq_comp, &k.st);
    for (int i = 0; i < d->engram.n_layer; i++)
        hd_engram_ahead(s, &d->engram, &d->layer[d->engram.layer[i]].engram, i, b, class);
    for (int64_t i = 0; i < d->n_layer; i++) {
        const struct layer *l = &d->layer[i];

        hd_layer_begin(s, k.x);
        if (hd_engram_index(&d->engram, i) >= 0)
            hd_engram_add(s, &d->engram, &l->engram, hd_engram_index(&d->engram, i), b, hc, d->norm_eps, d->attn.act_block, k.x, class);
        if (taps && hd_dspark_tap(&d->spark, i) >= 0)
            hd_mhc_mean(s, hd_slice(s, taps, hd_dspark_tap(&d->spark, i) * D, D), k.x, hc);
        enter(s, d, &l->hc_attn, &l->attn_norm, "attn", (int)i, k.mix_a, i ? k.mix_f : NULL, &k);
        if (b->encode && i == d->attn.decoder) {
            hd_csa2_encode(s, &d->attn, &l->attn, d->plan, (int)i, &k.st, k.u);
            break;
        }
        layer_run(s, d, l, i + 1 < d->n_layer ? &l[1] : NULL, &d->moe, b, (int)i, &k);
    }
    hd_engram_done(s, &d->engram, b, class, b->encode ? d->attn.decoder + 1 : d->n_layer);
    if (learn && hd_stream_ok(s))
        draft_learn(s, d, b, taps, k.st.rope);
    else if (taps)
        draft_keep(s, d, b, taps);
    if (n_out == 0 || b->encode)
        return logits;
    hd_mhc_pre(s, k.u, k.x, k.mix_f, hc);
    last = hd_new(s, HD_F32, n_out, D);
    hd_gather(s, last, k.u, out_rows);
    hd_bf16(s, last);
    hd_trace(s, last, "final.y");
    head(s, d, &d->norm, last, logits);
    hd_trace(s, logits, "logits");
    return logits;
}

static void each_weight(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    hd_bind_each(&((const struct v41 *)m->impl)->list[0], fn, arg);
}

static void each_aside(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    const struct v41 *d = m->impl;

    hd_bind_each(&d->list[1], fn, arg);
    hd_bind_each(&d->list[2], fn, arg);
}

static void each_draft(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    hd_bind_each(&((const struct v41 *)m->impl)->list[1], fn, arg);
}

static int64_t n_idle(const struct hd_model *m)
{
    const struct v41 *d = m->impl;

    return (d->n_vocab - 1) * d->d_model + d->n_layer * (d->moe.gate.n_expert - d->moe.gate.n_used) * 3 * d->d_model * d->d_expert + hd_engram_idle(&d->engram);
}

const struct hd_arch hd_arch_deepseek_v41 = {.name = "deepseek_v41", .gguf_name = "", .load = load, .forward = forward, .each_weight = each_weight, .each_aside = each_aside,
                                             .each_draft = each_draft, .draft = draft, .next = draft_next, .n_idle = n_idle, .take_classes = take_classes};
