/* arch_hadal.c: models of hadal's own: any attention, residual form, memory and feed-forward block of this folder, by config.
 *
 * attention_type   mla (V3's latent attention), gqa, csa2 (V4.1's shared compressed entries)
 * residual_type    plain, hc, mhc_paper, mhc_v4, mhc_v41
 * engram_type      none, paper (biases, short convolution), v41
 * layers below first_k_dense_replace, or all without n_routed_experts, are dense; the others experts: scoring_func softmax,
 * sigmoid or sqrtsoftplus, groups, a bias for the choice unless topk_bias is false, shared experts
 * num_nextn_predict_layers   MTP modules in V3's form (mtp.h), each with a layer as the model's are, but without memory
 *
 * The rest of a config is named as DeepSeek's are; docs/models.md has the list. Tensors: names as V4's and V4.1's.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/attn_csa2.h"
#include "model/attn_gqa.h"
#include "model/attn_mla.h"
#include "model/engram.h"
#include "model/ffn.h"
#include "model/mhc.h"
#include "model/model.h"
#include "model/moe.h"
#include "model/mtp.h"
#include "model/rope.h"
#include "ops/learn.h"
#include "weights/bind.h"

#define LAYER_MAX 1024
#define DIM_MAX ((int64_t)1 << 24)

enum attention { MLA, GQA, CSA2 };

struct layer {
    struct hd_tensor attn_norm, ffn_norm;
    struct hd_mhc_weights hc_attn, hc_ffn;
    struct hd_mla_weights mla;
    struct hd_gqa_weights gqa;
    struct hd_csa2_weights csa2;
    struct hd_ffn_weights ffn;
    struct hd_moe_weights moe;
    struct hd_engram_weights engram;
    struct hd_mtp_weights draft;                      /* MTP modules only */
    bool dense;
    int part0;
};

struct own {
    enum attention attention;
    enum hd_residual residual;
    int64_t n_layer, n_mtp, d_model, n_vocab, d_ff, d_expert, n_shared;
    bool tied, biased;
    float norm_eps, rope_scale;
    struct hd_mla_hp mla;
    struct hd_gqa_hp gqa;
    struct hd_csa2_hp csa2;
    struct hd_csa2_layer *plan;
    int64_t ratios[2];
    struct hd_moe_block_hp moe;
    struct hd_mhc_hp mhc;
    struct hd_engram engram;
    struct hd_rope_hp rope, rope_comp;
    struct hd_tensor embed, norm, head, inv_freq, inv_freq_comp;
    struct hd_mhc_weights hc_head;
    struct layer *layer;                              /* [n_layer + n_mtp]: the modules' behind the model's */
    struct hd_mtp mtp;
    struct hd_symbol sym[48];
    struct hd_weight_list list[2];                    /* the model, MTP modules */
};

/* ---- weights ---- */

#define G(f) offsetof(struct own, f)
#define L(f) offsetof(struct layer, f)
#define M HD_W_MATRIX
#define V HD_W_VECTOR
#define F8 HD_W_FP8

static const struct hd_weight_row globals[] = {
    {G(embed), M, HD_W_GLOBAL, "embed.weight", NULL, "V,D", NULL},
    {G(norm), V, HD_W_GLOBAL, "norm.weight", NULL, "D", NULL},
    {G(head), M, HD_W_GLOBAL, "head.weight", NULL, "V,D", "untied"},
    {G(hc_head.fn), V, HD_W_GLOBAL, "hc_head_fn", NULL, "C,C*D", "hc_head"},
    {G(hc_head.base), V, HD_W_GLOBAL, "hc_head_base", NULL, "C", "hc_head"},
    {G(hc_head.scale), V, HD_W_GLOBAL, "hc_head_scale", NULL, "1", "hc_head"},
};

static const struct hd_weight_row rows[] = {
    {L(attn_norm), V, 0, "@attn_norm.weight", NULL, "D", NULL},
    {L(ffn_norm), V, 0, "@ffn_norm.weight", NULL, "D", NULL},
    {L(hc_attn.fn), V, 0, "@hc_attn_fn", NULL, "Cm,C*D", "streams"},
    {L(hc_attn.base), V, 0, "@hc_attn_base", NULL, "Cm", "mhc"},
    {L(hc_attn.base), V, 0, "@hc_attn_static", NULL, "Cm", "hc"},
    {L(hc_attn.scale), V, 0, "@hc_attn_scale", NULL, "3", "streams"},
    {L(hc_ffn.fn), V, 0, "@hc_ffn_fn", NULL, "Cm,C*D", "streams"},
    {L(hc_ffn.base), V, 0, "@hc_ffn_base", NULL, "Cm", "mhc"},
    {L(hc_ffn.base), V, 0, "@hc_ffn_static", NULL, "Cm", "hc"},
    {L(hc_ffn.scale), V, 0, "@hc_ffn_scale", NULL, "3", "streams"},

    {L(mla.q), M, F8, "@attn.wq.weight", NULL, "H*Dq,D", "mla q"},
    {L(mla.q_a), M, F8, "@attn.wq_a.weight", NULL, "Rq,D", "mla q_rank"},
    {L(mla.q_norm), V, 0, "@attn.q_norm.weight", NULL, "Rq", "mla q_rank"},
    {L(mla.q_b), M, F8, "@attn.wq_b.weight", NULL, "H*Dq,Rq", "mla q_rank"},
    {L(mla.kv_a), M, F8, "@attn.wkv_a.weight", NULL, "Wide,D", "mla"},
    {L(mla.kv_norm), V, 0, "@attn.kv_norm.weight", NULL, "Rkv", "mla"},
    {L(mla.kv_b), M, F8, "@attn.wkv_b.weight", NULL, "H*Dkv,Rkv", "mla"},
    {L(mla.o), M, F8, "@attn.wo.weight", NULL, "D,H*Dv", "mla"},

    {L(gqa.q), M, F8, "@attn.wq.weight", NULL, "H*Dh,D", "gqa"},
    {L(gqa.k), M, F8, "@attn.wk.weight", NULL, "Hkv*Dh,D", "gqa"},
    {L(gqa.v), M, F8, "@attn.wv.weight", NULL, "Hkv*Dh,D", "gqa"},
    {L(gqa.o), M, F8, "@attn.wo.weight", NULL, "D,H*Dh", "gqa"},

    {L(csa2.wq_a), M, F8, "@attn.wq_a.weight", NULL, "Rq,D", "csa2"},
    {L(csa2.q_norm), V, 0, "@attn.q_norm.weight", NULL, "Rq", "csa2"},
    {L(csa2.wq_b), M, F8, "@attn.wq_b.weight", NULL, "H*Dh,Rq", "csa2"},
    {L(csa2.wkv), M, F8, "@attn.wkv.weight", NULL, "Dh,D", "csa2"},
    {L(csa2.kv_norm), V, 0, "@attn.kv_norm.weight", NULL, "Dh", "csa2"},
    {L(csa2.sink), V, 0, "@attn.attn_sink", NULL, "H", "csa2"},
    {L(csa2.wo_a), M, F8, "@attn.wo_a.weight", NULL, "Og*Or,Oc", "csa2"},
    {L(csa2.wo_b), M, F8, "@attn.wo_b.weight", NULL, "D,Og*Or", "csa2"},
    {L(csa2.comp_wkv), M, 0, "@attn.compressor.wkv.weight", NULL, "Dh,D", "owner"},
    {L(csa2.comp_wgate), M, 0, "@attn.compressor.wgate.weight", NULL, "Dh,D", "pool"},
    {L(csa2.comp_norm), V, 0, "@attn.compressor.norm.weight", NULL, "Dh", "owner"},
    {L(csa2.index_wk), M, 0, "@attn.indexer.wk.weight", NULL, "Id,Dh", "owner"},
    {L(csa2.index_k_norm), V, 0, "@attn.indexer.k_norm.weight", NULL, "Id", "owner"},
    {L(csa2.index_wq_b), M, F8, "@attn.indexer.wq_b.weight", NULL, "Ih*Id,Rq", "source"},
    {L(csa2.index_weights), M, 0, "@attn.indexer.weights_proj.weight", NULL, "Ih,D", "source"},

    {L(ffn.gate), M, F8, "@ffn.w1.weight", NULL, "F,D", "dense"},
    {L(ffn.up), M, F8, "@ffn.w3.weight", NULL, "F,D", "dense"},
    {L(ffn.down), M, F8, "@ffn.w2.weight", NULL, "D,F", "dense"},
    {L(moe.gate_inp), M, 0, "@ffn.gate.weight", NULL, "E,D", "moe"},
    {L(moe.gate_bias), V, 0, "@ffn.gate.bias", NULL, "E", "bias"},
    {L(moe.gate), M, HD_W_EXPERT, "@ffn.experts.%d.w1.weight", NULL, "Fe,D", "moe"},
    {L(moe.up), M, HD_W_EXPERT, "@ffn.experts.%d.w3.weight", NULL, "Fe,D", "moe"},
    {L(moe.down), M, HD_W_EXPERT, "@ffn.experts.%d.w2.weight", NULL, "D,Fe", "moe"},
    {L(moe.sh_gate), M, F8, "@ffn.shared_experts.w1.weight", NULL, "Es*Fe,D", "shared"},
    {L(moe.sh_up), M, F8, "@ffn.shared_experts.w3.weight", NULL, "Es*Fe,D", "shared"},
    {L(moe.sh_down), M, F8, "@ffn.shared_experts.w2.weight", NULL, "D,Es*Fe", "shared"},

    {L(engram.wkv), M, F8, "@engram.wkv.weight", NULL, "Ckv*D,Ne*De", "engram"},
    {L(engram.bias), V, 0, "@engram.wkv.bias", NULL, "Ckv*D", "engram paper"},
    {L(engram.q_weight), V, 0, "@engram.q_weight", NULL, "C,D", "engram"},
    {L(engram.k_weight), V, 0, "@engram.k_weight", NULL, "C,D", "engram"},
    {L(engram.conv), V, 0, "@engram.conv.weight", NULL, "C*D,Kc", "engram paper"},
    {L(engram.conv_norm), V, 0, "@engram.conv_norm.weight", NULL, "C,D", "engram paper"},
    /* the tables differ in size: one row each, by their place in engram_layer_ids */
#define TABLE(i) {L(engram.embed), M, HD_W_FP8_ROWS, "@engram.embed.weight", NULL, "N" #i ",De", "engram" #i}
    TABLE(0), TABLE(1), TABLE(2), TABLE(3), TABLE(4), TABLE(5), TABLE(6), TABLE(7),

    {L(draft.enorm), V, 0, "@enorm.weight", NULL, "D", "mtp"},
    {L(draft.hnorm), V, 0, "@hnorm.weight", NULL, "D", "mtp"},
    {L(draft.eh_proj), M, F8, "@eh_proj.weight", NULL, "D,2*D", "mtp"},
    {L(draft.norm), V, 0, "@norm.weight", NULL, "D", "mtp"},
};

/* What holds for every layer, whether the model's or an MTP module's; -1: says nothing. */
static int exists_anywhere(const struct own *d, const char *when, bool dense)
{
    struct {
        const char *when;
        bool holds;
    } all[] = {{"streams", d->residual != HD_RESIDUAL_PLAIN},
               {"hc", d->residual == HD_RESIDUAL_HC},
               {"mhc", d->residual != HD_RESIDUAL_PLAIN && d->residual != HD_RESIDUAL_HC},
               {"mla", d->attention == MLA},
               {"mla q", d->attention == MLA && !d->mla.q_rank},
               {"mla q_rank", d->attention == MLA && d->mla.q_rank},
               {"gqa", d->attention == GQA},
               {"csa2", d->attention == CSA2},
               {"dense", dense},
               {"moe", !dense},
               {"bias", !dense && d->biased},
               {"shared", !dense && d->n_shared > 0}};

    for (int i = 0; i < HD_LEN(all); i++)
        if (!strcmp(all[i].when, when))
            return all[i].holds;
    return -1;
}

static bool exists(const void *arg, const char *when, int64_t layer)
{
    const struct own *d = arg;
    const struct hd_csa2_layer *l = d->plan ? &d->plan[layer] : NULL;
    int any = exists_anywhere(d, when, d->layer[layer].dense), at = hd_engram_index(&d->engram, layer);

    if (any >= 0)
        return any;
    if (!strcmp(when, "untied"))
        return !d->tied;
    if (!strcmp(when, "hc_head"))
        return d->residual == HD_RESIDUAL_MHC_V4;
    if (!strncmp(when, "engram", 6))
        return at >= 0 && (!when[6] || (when[6] == ' ' ? d->engram.paper : at == when[6] - '0'));
    if (!strcmp(when, "owner"))
        return l && l->owner == layer;
    if (!strcmp(when, "pool"))
        return l && l->owner == layer && l->ratio > 1;
    return !strcmp(when, "source") && l && l->source == layer;
}

/* MTP modules are layers with experts where the model has some, without memory, and with a window only where attention is csa2. */
static bool exists_mtp(const void *arg, const char *when, int64_t layer)
{
    const struct own *d = arg;
    int any = exists_anywhere(d, when, !d->moe.gate.n_expert);

    return any >= 0 ? any : !strcmp(when, "mtp");
}

/* ---- hyper-parameters ---- */

/* The place of a config's word among words[n]. */
static int read_word(const json_t *c, const char *key, const char *const *words, int n, const char *dflt, int *out, const char *f, struct hd_err *err)
{
    char known[128] = "";
    const char *word;

    HD_TRY(hd_json_str_or(c, key, dflt, &word, f, err));
    for (*out = 0; *out < n; ++*out) {
        if (!strcmp(word, words[*out]))
            return HD_OK;
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", *out ? ", " : "", words[*out]);
    }
    return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: %s: found \"%s\"; expected one of %s", f, key, word, known);
}

static int read_attention(struct hd_model *m, struct own *d, const json_t *c, int64_t n_ctx, const char *f, struct hd_err *err)
{
    static const char *const words[] = {"mla", "gqa", "csa2"};
    bool native = m->kv == HD_KV_NATIVE || (m->kv == HD_KV_AUTO && json_object_get(c, "quantization_config"));
    double theta_comp;
    int word;

    HD_TRY(read_word(c, "attention_type", words, 3, "mla", &word, f, err));
    d->attention = (enum attention)word;
    switch (d->attention) {
    case MLA:
        HD_TRY(hd_mla_config(&d->mla, c, f, err));
        d->mla.native = native || m->kv == HD_KV_F16;
        d->rope.dim = d->mla.rope_dim;
        break;
    case GQA:
        HD_TRY(hd_json_int(c, "num_attention_heads", 1, 65536, &d->gqa.n_head, f, err));
        HD_TRY(hd_json_int_or(c, "num_key_value_heads", 1, 65536, d->gqa.n_head, &d->gqa.n_kv_head, f, err));
        HD_TRY(hd_json_int_or(c, "head_dim", 2, 65536, d->d_model / d->gqa.n_head, &d->gqa.head_dim, f, err));
        HD_TRY(hd_json_int_or(c, "sliding_window", 1, (int64_t)1 << 30, 0, &d->gqa.window, f, err));
        if (d->gqa.n_head % d->gqa.n_kv_head || d->gqa.head_dim % 2)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: num_key_value_heads: found %lld for %lld heads of %lld; expected a divisor, and an even head_dim", f,
                              (long long)d->gqa.n_kv_head, (long long)d->gqa.n_head, (long long)d->gqa.head_dim);
        d->gqa.kv_type = m->kv == HD_KV_F16 ? HD_F16 : HD_F32;
        d->rope.dim = d->gqa.head_dim;
        break;
    case CSA2:
        if (!(d->plan = hd_arena_zalloc(&m->arena, (size_t)(d->n_layer + d->n_mtp) * sizeof *d->plan)))
            return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld layers", f, (long long)d->n_layer);
        HD_TRY(hd_csa2_config(&d->csa2, d->plan, d->ratios, c, d->n_layer, f, err));
        d->csa2.norm_eps = d->norm_eps;
        d->csa2.native = native;
        d->rope.dim = d->csa2.rope_dim;
        break;
    }
    HD_TRY(hd_rope_config(&d->rope, c, n_ctx, f, err));
    if (d->attention == MLA)
        hd_mla_stretch(&d->mla, &d->rope);
    if (d->attention == CSA2) {                       /* as in V4.1: raw tokens turn plainly, compressed ones stretched */
        HD_TRY(hd_json_real_or(c, "compress_rope_theta", 1, 1e12, d->rope.theta, &theta_comp, f, err));
        d->rope_comp = d->rope;
        d->rope_comp.theta = theta_comp;
        d->rope_comp.attn_factor = 1;
        d->rope_comp.truncate = true;
        d->rope = (struct hd_rope_hp){.dim = d->csa2.rope_dim, .theta = d->rope.theta, .factor = 1, .n_ctx_orig = n_ctx};
    }
    return HD_OK;
}

static int read_experts(struct own *d, const json_t *c, const char *f, struct hd_err *err)
{
    static const char *const words[] = {[HD_GATE_SOFTMAX] = "softmax", [HD_GATE_SIGMOID] = "sigmoid", [HD_GATE_SQRTSOFTPLUS] = "sqrtsoftplus"};
    struct hd_gate_hp *g = &d->moe.gate;
    double scale, temp, limit;
    bool bias, norm;
    int word;

    HD_TRY(hd_json_int_or(c, "n_routed_experts", 0, 4096, 0, &g->n_expert, f, err));
    if (!g->n_expert)
        return HD_OK;
    HD_TRY(hd_json_int(c, "moe_intermediate_size", 1, DIM_MAX, &d->d_expert, f, err));
    HD_TRY(hd_json_int(c, "num_experts_per_tok", 1, 64, &g->n_used, f, err));
    HD_TRY(hd_json_int_or(c, "n_shared_experts", 0, 64, 0, &d->n_shared, f, err));
    HD_TRY(hd_json_int_or(c, "n_group", 1, 4096, 1, &g->n_group, f, err));
    HD_TRY(hd_json_int_or(c, "topk_group", 1, 4096, 1, &g->n_group_used, f, err));
    HD_TRY(hd_json_real_or(c, "routed_scaling_factor", 0, 1e6, 1, &scale, f, err));
    HD_TRY(hd_json_real_or(c, "gate_temp", 1e-6, 1e6, 1, &temp, f, err));
    HD_TRY(hd_json_real_or(c, "swiglu_limit", 0, 1e6, 0, &limit, f, err));
    HD_TRY(hd_json_bool_or(c, "norm_topk_prob", true, &norm, f, err));
    HD_TRY(read_word(c, "scoring_func", words, 3, "sigmoid", &word, f, err));
    HD_TRY(hd_json_bool_or(c, "topk_bias", word != HD_GATE_SOFTMAX, &bias, f, err));
    if (g->n_used > g->n_expert || g->n_expert % g->n_group || g->n_group_used > g->n_group || g->n_used > g->n_expert / g->n_group * g->n_group_used)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: num_experts_per_tok: found %lld of %lld experts in %lld groups, %lld of them used", f, (long long)g->n_used,
                          (long long)g->n_expert, (long long)g->n_group, (long long)g->n_group_used);
    g->fn = (enum hd_gate_fn)word;
    g->norm = norm && g->n_used > 1;
    g->norm_eps = 1e-20f;
    g->group_top2 = word != HD_GATE_SOFTMAX;            /* V3 counts a group by its two best, V2 by its best */
    g->scale = (float)scale;
    g->temp = (float)temp;
    d->biased = bias;
    d->moe.moe.n_expert = g->n_expert;
    d->moe.moe.limit = (float)limit;
    d->moe.moe.weight_first = word == HD_GATE_SQRTSOFTPLUS;       /* as V4; V3's sigmoid weighs afterwards */
    return HD_OK;
}

static int read_config(struct hd_model *m, struct own *d, struct hd_err *err)
{
    static const char *const residuals[] = {"plain", "hc", "mhc_paper", "mhc_v4", "mhc_v41"}, *const engrams[] = {"none", "paper", "v41"};
    const json_t *c = m->store.config;
    const char *f = m->store.config_path, *act;
    int64_t n_ctx, first, every;
    double eps, hc_eps;
    int residual, engram;

    HD_TRY(hd_json_int(c, "num_hidden_layers", 1, LAYER_MAX, &d->n_layer, f, err));
    HD_TRY(hd_json_int(c, "hidden_size", 1, DIM_MAX, &d->d_model, f, err));
    HD_TRY(hd_json_int(c, "vocab_size", 1, DIM_MAX, &d->n_vocab, f, err));
    HD_TRY(hd_json_int_or(c, "num_nextn_predict_layers", 0, 16, 0, &d->n_mtp, f, err));
    HD_TRY(hd_json_int_or(c, "max_position_embeddings", 1, (int64_t)1 << 30, 4096, &n_ctx, f, err));
    HD_TRY(hd_json_real_or(c, "rms_norm_eps", 0, 1, 1e-6, &eps, f, err));
    HD_TRY(hd_json_bool_or(c, "tie_word_embeddings", false, &d->tied, f, err));
    HD_TRY(hd_json_str_or(c, "hidden_act", "silu", &act, f, err));
    HD_TRY(hd_json_int_or(c, "first_k_dense_replace", 0, LAYER_MAX, 0, &first, f, err));
    HD_TRY(hd_json_int_or(c, "moe_layer_freq", 1, LAYER_MAX, 1, &every, f, err));
    HD_TRY(read_word(c, "residual_type", residuals, 5, "plain", &residual, f, err));
    HD_TRY(read_word(c, "engram_type", engrams, 3, json_object_get(c, "engram_layer_ids") ? "v41" : "none", &engram, f, err));
    HD_TRY(hd_json_int_or(c, "hc_mult", 2, 8, 4, &d->mhc.n_hc, f, err));
    HD_TRY(hd_json_int_or(c, "hc_sinkhorn_iters", 1, 1000, 20, &d->mhc.n_iter, f, err));
    HD_TRY(hd_json_real_or(c, "hc_eps", 0, 1, 1e-6, &hc_eps, f, err));
    if (strcmp(act, "silu"))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: hidden_act: found \"%s\"; expected silu", f, act);
    d->norm_eps = (float)eps;
    d->residual = (enum hd_residual)residual;
    d->mhc.norm_eps = (float)eps;
    d->mhc.eps = (float)hc_eps;
    d->mhc.form = d->residual == HD_RESIDUAL_HC ? HD_MHC_FREE : d->residual == HD_RESIDUAL_MHC_PAPER ? HD_MHC_PAPER : HD_MHC_RELEASED;
    if (d->residual == HD_RESIDUAL_PLAIN)
        d->mhc.n_hc = 1;
    HD_TRY(read_experts(d, c, f, err));
    if (first > 0 || every > 1 || !d->moe.gate.n_expert)
        HD_TRY(hd_json_int(c, "intermediate_size", 1, DIM_MAX, &d->d_ff, f, err));
    HD_TRY(read_attention(m, d, c, n_ctx, f, err));
    d->engram.paper = engram == 1;
    if (engram)
        HD_TRY(hd_engram_config(&d->engram, c, d->n_layer, d->n_vocab, false, f, err));
    if (!(d->layer = hd_arena_zalloc(&m->arena, (size_t)(d->n_layer + d->n_mtp) * sizeof *d->layer)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld layers", f, (long long)d->n_layer);
    for (int64_t i = 0; i < d->n_layer + d->n_mtp; i++)
        d->layer[i].dense = !d->moe.gate.n_expert || (i < d->n_layer && (i < first || i % every));
    m->hp = (struct hd_hparams){d->n_layer, d->d_model, d->n_vocab, n_ctx};
    return HD_OK;
}

/* ---- loading ---- */

static void set_draft(struct hd_model *m, struct own *d);

static int bind(struct hd_model *m, struct own *d, struct hd_err *err)
{
    const struct hd_csa2_hp *a = &d->csa2;
    bool csa2 = d->attention == CSA2;
    static const char *const sizes[] = {"N0", "N1", "N2", "N3", "N4", "N5", "N6", "N7"};
    struct hd_symbol known[] = {{"V", d->n_vocab}, {"D", d->d_model}, {"F", d->d_ff}, {"Fe", d->d_expert}, {"E", d->moe.gate.n_expert}, {"Es", d->n_shared},
                                {"H", csa2 ? a->n_head : d->attention == GQA ? d->gqa.n_head : d->mla.n_head}, {"Hkv", d->gqa.n_kv_head},
                                {"Dh", csa2 ? a->head_dim : d->gqa.head_dim}, {"Dq", d->mla.nope_dim + d->mla.rope_dim}, {"Dkv", d->mla.nope_dim + d->mla.v_dim},
                                {"Dv", d->mla.v_dim}, {"Rq", csa2 ? a->q_rank : d->mla.q_rank}, {"Rkv", d->mla.kv_rank}, {"Wide", d->mla.kv_rank + d->mla.rope_dim},
                                {"Or", a->o_rank}, {"Og", a->o_groups}, {"Oc", csa2 ? a->n_head / a->o_groups * a->head_dim : 0}, {"Ih", a->index_heads}, {"Id", a->index_dim},
                                {"C", d->mhc.n_hc}, {"Cm", d->mhc.n_hc * (2 + d->mhc.n_hc)}, {"Ckv", d->mhc.n_hc + 1}, {"Ne", d->engram.n_order * d->engram.n_head},
                                {"De", d->engram.dim}, {"Kc", d->engram.kernel}};
    struct hd_weight_row *all = hd_arena_alloc(&m->arena, sizeof globals + sizeof rows);
    int n = 0;

    if (!all)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    memcpy(all, globals, sizeof globals);
    memcpy(all + HD_LEN(globals), rows, sizeof rows);
    for (; n < HD_LEN(known); n++)
        d->sym[n] = known[n];
    for (int i = 0; i < HD_LEN(sizes); i++)
        d->sym[n++] = (struct hd_symbol){sizes[i], d->engram.rows[i]};
    HD_ASSERT(n <= HD_LEN(d->sym));
    d->list[0] = (struct hd_weight_list){.row = all, .n_row = HD_LEN(globals) + HD_LEN(rows), .sym = d->sym, .n_sym = n, .n_layer = d->n_layer, .globals = d,
                                         .layers = d->layer, .layer_bytes = sizeof *d->layer, .prefix = "layers.%d.", .n_expert = d->moe.gate.n_expert,
                                         .exists = exists, .arg = d};
    d->list[1] = d->list[0];
    d->list[1].row = rows;
    d->list[1].n_row = HD_LEN(rows);
    d->list[1].n_layer = d->n_mtp;
    d->list[1].layers = &d->layer[d->n_layer];
    d->list[1].prefix = "mtp.%d.";
    d->list[1].exists = exists_mtp;
    return hd_bind_lists(&m->store, d->list, 2, &m->arena, m->planned, err);
}

static int attention_parts(struct own *d, int64_t layer, int first, struct hd_cache_part *part)
{
    d->layer[layer].part0 = first;
    switch (d->attention) {
    case MLA: return hd_mla_parts(&d->mla, (int)layer, part);
    case GQA: return hd_gqa_parts(&d->gqa, (int)layer, part);
    case CSA2: d->plan[layer].part0 = first;
    }
    return hd_csa2_parts(&d->csa2, &d->plan[layer], (int)layer, part);
}

static int set_cache(struct hd_model *m, struct own *d, struct hd_err *err)
{
    struct hd_cache_part *part = hd_arena_zalloc(&m->arena, (size_t)(4 * (d->n_layer + d->n_mtp) + HD_ENGRAM_LAYERS + 2) * sizeof *part);
    int64_t modules = m->draft_learns ? d->n_mtp : m->draft.depth > 0;
    int n = 0, first = 0;

    if (!part)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the cache's description", m->store.path);
    for (int64_t i = 0; i < d->n_layer; i++)
        n += attention_parts(d, i, n, part + n);
    n += hd_engram_parts(&d->engram, d->mhc.n_hc * d->d_model, n, part + n);
    first = n;
    for (int64_t i = d->n_layer; i < d->n_layer + modules; i++) {
        if (d->plan)
            d->plan[i] = (struct hd_csa2_layer){.owner = -1, .source = -1};
        n += attention_parts(d, i, n, part + n);
    }
    if (modules)
        n += hd_mtp_part(&d->mtp, (int)d->n_layer, n, part + first, n - first);
    m->spec = (struct hd_cache_spec){n, part};
    return HD_OK;
}

static int load(struct hd_model *m, struct hd_err *err)
{
    struct own *d = hd_arena_zalloc(&m->arena, sizeof *d);
    float *f, scale;

    if (!d)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    if (m->store.kind == HD_STORE_GGUF)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: found GGUF; expected a directory for hadal", m->store.path);
    m->impl = d;
    HD_TRY(read_config(m, d, err));
    HD_TRY(bind(m, d, err));
    set_draft(m, d);
    if (!(f = hd_arena_alloc(&m->arena, (size_t)d->rope.dim * sizeof *f)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    hd_rope_freqs(&d->rope, f, &d->rope_scale);
    d->inv_freq = hd_view1(HD_F32, f, d->rope.dim / 2);
    if (d->attention == CSA2) {
        hd_rope_freqs(&d->rope_comp, f + d->rope.dim / 2, &scale);
        d->inv_freq_comp = hd_view1(HD_F32, f + d->rope.dim / 2, d->rope.dim / 2);
    }
    m->wants_classes = d->engram.n_layer > 0;
    m->shortcut = d->attention == CSA2 && d->csa2.decoder > 0 && !d->engram.paper ? d->csa2.window : 0;
    return set_cache(m, d, err);
}

static int take_classes(struct hd_model *m, const int32_t *map, int64_t n, int64_t n_class, struct hd_err *err)
{
    struct own *d = m->impl;

    return hd_engram_classes(&d->engram, &m->arena, map, n, n_class, m->store.config_path, err);
}

/* ---- forward ---- */

/* What the layers of a step share. */
struct step {
    const struct hd_ragged *b;
    struct hd_tensor *rope;
    struct hd_csa2_step csa2;
};

static void prepare(struct hd_stream *s, const struct own *d, const struct hd_ragged *b, struct step *st)
{
    *st = (struct step){.b = b, .rope = hd_new(s, HD_F32, b->n_tok, d->rope.dim)};
    hd_rope_table(s, st->rope, b, &d->inv_freq, d->rope_scale);
    if (d->attention == CSA2)
        hd_csa2_begin(s, &d->csa2, d->ratios, b, &d->inv_freq, &d->inv_freq_comp, &st->csa2);
}

static void attention(struct hd_stream *s, const struct own *d, int layer, struct step *st, const struct hd_tensor *u, struct hd_tensor *y)
{
    const struct layer *l = &d->layer[layer];

    switch (d->attention) {
    case MLA: hd_attn_mla(s, &d->mla, &l->mla, st->b, st->rope, l->part0, u, y, layer); break;
    case GQA: hd_attn_gqa(s, &d->gqa, &l->gqa, st->b, st->rope, l->part0, u, y, layer); break;
    case CSA2: hd_attn_csa2(s, &d->csa2, &l->csa2, d->plan, layer, &st->csa2, u, y); break;
    }
}

/* A layer's two halves. False: the encoder half ends in this layer. */
static bool layer_run(struct hd_stream *s, const struct own *d, int i, struct step *st, struct hd_streams *x, struct hd_tensor *u, struct hd_tensor *y)
{
    const struct layer *l = &d->layer[i];

    hd_streams_enter(s, x, &l->hc_attn, u);
    hd_rmsnorm(s, u, u, &l->attn_norm, d->norm_eps);
    if (st->b->encode && i == d->csa2.decoder) {
        hd_csa2_encode(s, &d->csa2, &l->csa2, d->plan, i, &st->csa2, u);
        return false;
    }
    if (!l->dense)
        hd_moe_guess(s, &d->moe, &l->moe, st->b, u);
    attention(s, d, i, st, u, y);
    hd_streams_leave(s, x, y);
    hd_trace(s, x->x, "layers.%d.stream_attn", i);
    hd_streams_enter(s, x, &l->hc_ffn, u);
    hd_rmsnorm(s, u, u, &l->ffn_norm, d->norm_eps);
    if (l->dense)
        hd_ffn(s, &l->ffn, u, y);
    else
        hd_moe_block(s, &d->moe, &l->moe, i + 1 < d->n_layer && !l[1].dense ? &l[1].moe : NULL, st->b, u, y, i);
    hd_streams_leave(s, x, y);
    hd_trace(s, x->x, "layers.%d.stream", i);
    return true;
}

static struct hd_tensor *forward(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, const int32_t *out_rows, int64_t n_out)
{
    const struct own *d = m->impl;
    int64_t n = b->n_tok, D = d->d_model;
    struct hd_tensor *logits = hd_logits_new(s, n_out, d->n_vocab), *u = hd_new(s, HD_F32, n, D), *y = hd_new(s, HD_F32, n, D), *class = hd_new(s, HD_I32, n, 1), *last;
    bool learn = m->draft_learns && hd_learns(s, HD_LEARN_DRAFT), keep = m->draft.depth && !b->encode;
    struct hd_streams x;
    struct step st;

    hd_embed(s, u, &d->embed, b);
    hd_trace(s, u, "embed");
    hd_streams_begin(s, &x, d->residual, &d->mhc, u);
    prepare(s, d, b, &st);
    for (int i = 0; i < d->engram.n_layer; i++)
        hd_engram_ahead(s, &d->engram, &d->layer[d->engram.layer[i]].engram, i, b, class);
    for (int i = 0; i < d->n_layer; i++) {
        int memory = hd_engram_index(&d->engram, i);

        hd_layer_begin(s, x.x);
        if (memory >= 0)
            hd_engram_add(s, &d->engram, &d->layer[i].engram, memory, b, d->mhc.n_hc, d->norm_eps, 0, x.x, class);
        if (!layer_run(s, d, i, &st, &x, u, y))
            break;
        hd_layer_end(s);
    }
    hd_engram_done(s, &d->engram, b, class, b->encode ? d->csa2.decoder + 1 : d->n_layer);
    if (b->encode || (n_out == 0 && !keep && !learn))
        return logits;
    hd_streams_end(s, &x, &d->hc_head, u);
    if (keep)
        hd_mtp_keep(s, &d->mtp, b, u);
    if (learn)
        hd_mtp_learn(s, &d->mtp, b, u);
    if (n_out == 0)
        return logits;
    last = hd_new(s, HD_F32, n_out, D);
    hd_gather(s, last, u, out_rows);
    hd_rmsnorm(s, last, last, &d->norm, d->norm_eps);
    hd_trace(s, last, "final.norm");
    hd_logits(s, logits, last, d->tied ? &d->embed : &d->head);
    hd_trace(s, logits, "logits");
    return logits;
}

/* ---- MTP modules ---- */

static const struct hd_mtp_weights *module_weights(const void *arch, int i)
{
    const struct own *d = arch;

    return &d->layer[d->n_layer + i].draft;
}

/* The tables of a module's step: of csa2 only the window is there. */
static void module_begin(struct hd_stream *s, const struct own *d, const struct hd_ragged *b, struct step *st)
{
    *st = (struct step){.b = b, .rope = hd_new(s, HD_F32, b->n_tok, d->rope.dim)};
    hd_rope_table(s, st->rope, b, &d->inv_freq, d->rope_scale);
    st->csa2 = (struct hd_csa2_step){.b = b, .rope = st->rope};
}

static void module_run(struct hd_stream *s, const void *arch, int i, const struct hd_ragged *b, struct hd_tensor *z)
{
    const struct own *d = arch;
    struct hd_tensor *u = hd_new(s, HD_F32, b->n_tok, d->d_model), *y = hd_new(s, HD_F32, b->n_tok, d->d_model);
    struct hd_streams x;
    struct step st;

    hd_streams_begin(s, &x, d->residual, &d->mhc, z);
    module_begin(s, d, b, &st);
    hd_layer_begin(s, x.x);
    layer_run(s, d, (int)d->n_layer + i, &st, &x, u, y);
    hd_layer_end(s);
    hd_streams_end(s, &x, &d->hc_head, z);
}

static void module_keep(struct hd_stream *s, const void *arch, int i, const struct hd_ragged *b, const struct hd_tensor *z)
{
    const struct own *d = arch;
    int layer = (int)d->n_layer + i;
    const struct layer *l = &d->layer[layer];
    struct hd_tensor *u = hd_new(s, HD_F32, b->n_tok, d->d_model);
    struct hd_streams x;
    struct step st;

    hd_streams_begin(s, &x, d->residual, &d->mhc, z);
    module_begin(s, d, b, &st);
    hd_streams_enter(s, &x, &l->hc_attn, u);
    hd_rmsnorm(s, u, u, &l->attn_norm, d->norm_eps);
    switch (d->attention) {
    case MLA: hd_mla_keep(s, &d->mla, &l->mla, b, st.rope, l->part0, u, layer); break;
    case GQA: hd_gqa_keep(s, &d->gqa, &l->gqa, b, st.rope, l->part0, u, layer); break;
    case CSA2: hd_csa2_keep(s, &d->csa2, &l->csa2, &d->plan[layer], &st.csa2, u, layer); break;
    }
}

static void set_draft(struct hd_model *m, struct own *d)
{
    d->mtp = (struct hd_mtp){d->n_mtp, d->d_model, d->n_vocab, d->norm_eps, &d->embed, &d->norm, d->tied ? &d->embed : &d->head, .run = module_run, .keep = module_keep,
                             .weights = module_weights, .arch = d};
    m->draft_learns = m->wants_learn && d->n_mtp > 0;
    if (m->wants_draft && d->n_mtp)
        m->draft = hd_mtp_draft_kind();
}

static void draft(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, struct hd_draft_out *out)
{
    hd_mtp_draft(s, &((const struct own *)m->impl)->mtp, b, out);
}

/* ---- what others ask ---- */

static void each_weight(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    hd_bind_each(&((const struct own *)m->impl)->list[0], fn, arg);
}

static void each_aside(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    hd_bind_each(&((const struct own *)m->impl)->list[1], fn, arg);
}

static int64_t n_idle(const struct hd_model *m)
{
    const struct own *d = m->impl;
    int64_t n = d->tied ? 0 : (d->n_vocab - 1) * d->d_model;

    for (int64_t i = 0; i < d->n_layer; i++)
        if (!d->layer[i].dense)
            n += (d->moe.gate.n_expert - d->moe.gate.n_used) * 3 * d->d_model * d->d_expert;
    return n + hd_engram_idle(&d->engram);
}

const struct hd_arch hd_arch_hadal = {.name = "hadal", .gguf_name = "", .load = load, .forward = forward, .each_weight = each_weight, .each_aside = each_aside, .each_draft = each_aside, .draft = draft, .n_idle = n_idle,
                                      .take_classes = take_classes};
