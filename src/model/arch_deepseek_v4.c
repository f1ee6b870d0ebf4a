/* arch_deepseek_v4.c: DeepSeek-V4 (Flash, Pro; base, April and DSpark checkpoints).
 *
 * Source   the published config.json and inference code; names as stored there, and as transformers writes them
 */
#include <stdio.h>
#include <string.h>

#include "model/v4.h"
#include "ops/learn.h"

#define LAYER_MAX 1024
#define DIM_MAX ((int64_t)1 << 24)

/* ---- weights ---- */

#define G(f) offsetof(struct hd_v4, f)
#define L(f) offsetof(struct hd_v4_layer, f)
#define M HD_W_MATRIX
#define V HD_W_VECTOR
#define FUSED HD_W_OPTIONAL

static const struct hd_weight_row globals[] = {
    {G(embed), M, HD_W_GLOBAL, "embed.weight|model.embed_tokens.weight|model.embed.weight", "token_embd.weight", "V,D", NULL},
    {G(norm), V, HD_W_GLOBAL, "norm.weight|model.norm.weight", "output_norm.weight", "D", NULL},
    {G(head), M, HD_W_GLOBAL, "head.weight|lm_head.weight", "output.weight", "V,D", NULL},
    {G(hc_head.fn), V, HD_W_GLOBAL, "hc_head_fn|model.hc_head.hc_fn", "output_hc_fn.weight", "C,C*D", NULL},
    {G(hc_head.base), V, HD_W_GLOBAL, "hc_head_base|model.hc_head.hc_base", "output_hc_base.weight", "C", NULL},
    {G(hc_head.scale), V, HD_W_GLOBAL, "hc_head_scale|model.hc_head.hc_scale", "output_hc_scale.weight", "1", NULL},
};

/* '@' names are the published ones; transformers' save_pretrained mixes "model.layers.N." with both spellings. */
#define BLK(gguf) "blk.%d." gguf
#define NAME(own, hf) "@" own "|model.layers.%d." own "|model.layers.%d." hf
static const struct hd_weight_row rows[] = {
    {L(attn_norm), V, 0, NAME("attn_norm.weight", "input_layernorm.weight"), BLK("attn_norm.weight"), "D", NULL},
    {L(ffn_norm), V, 0, NAME("ffn_norm.weight", "post_attention_layernorm.weight"), BLK("ffn_norm.weight"), "D", NULL},
    {L(hc_attn.fn), V, 0, NAME("hc_attn_fn", "attn_hc.fn"), BLK("hc_attn_fn.weight"), "Cm,C*D", NULL},
    {L(hc_attn.base), V, 0, NAME("hc_attn_base", "attn_hc.base"), BLK("hc_attn_base.weight"), "Cm", NULL},
    {L(hc_attn.scale), V, 0, NAME("hc_attn_scale", "attn_hc.scale"), BLK("hc_attn_scale.weight"), "3", NULL},
    {L(hc_ffn.fn), V, 0, NAME("hc_ffn_fn", "ffn_hc.fn"), BLK("hc_ffn_fn.weight"), "Cm,C*D", NULL},
    {L(hc_ffn.base), V, 0, NAME("hc_ffn_base", "ffn_hc.base"), BLK("hc_ffn_base.weight"), "Cm", NULL},
    {L(hc_ffn.scale), V, 0, NAME("hc_ffn_scale", "ffn_hc.scale"), BLK("hc_ffn_scale.weight"), "3", NULL},
    {L(attn.wq_a), M, HD_W_FP8, NAME("attn.wq_a.weight", "self_attn.q_a_proj.weight"), BLK("attn_q_a.weight"), "Rq,D", NULL},
    {L(attn.q_norm), V, 0, NAME("attn.q_norm.weight", "self_attn.q_a_norm.weight"), BLK("attn_q_a_norm.weight"), "Rq", NULL},
    {L(attn.wq_b), M, HD_W_FP8, NAME("attn.wq_b.weight", "self_attn.q_b_proj.weight"), BLK("attn_q_b.weight"), "H*Dh,Rq", NULL},
    {L(attn.wkv), M, HD_W_FP8, NAME("attn.wkv.weight", "self_attn.kv_proj.weight"), BLK("attn_kv.weight"), "Dh,D", NULL},
    {L(attn.kv_norm), V, 0, NAME("attn.kv_norm.weight", "self_attn.kv_norm.weight") "|model.layers.%d.attn.norm.weight", BLK("attn_kv_a_norm.weight"), "Dh", NULL},
    {L(attn.sink), V, 0, NAME("attn.attn_sink", "self_attn.sinks"), BLK("attn_sinks.weight"), "H", NULL},
    {L(attn.wo_a), M, HD_W_FP8, NAME("attn.wo_a.weight", "self_attn.o_a_proj.weight"), BLK("attn_output_a.weight"), "Og*Or,Oc", NULL},
    {L(attn.wo_b), M, HD_W_FP8, NAME("attn.wo_b.weight", "self_attn.o_b_proj.weight"), BLK("attn_output_b.weight"), "D,Og*Or", NULL},
    {L(attn.comp.ape), V, 0, NAME("attn.compressor.ape", "self_attn.compressor.position_bias"), BLK("attn_compressor_ape.weight"), "4,2*Dh", "r4"},
    {L(attn.comp.wkv), M, 0, NAME("attn.compressor.wkv.weight", "self_attn.compressor.kv_proj.weight"), BLK("attn_compressor_kv.weight"), "2*Dh,D", "r4"},
    {L(attn.comp.wgate), M, 0, NAME("attn.compressor.wgate.weight", "self_attn.compressor.gate_proj.weight"), BLK("attn_compressor_gate.weight"), "2*Dh,D", "r4"},
    {L(attn.comp.ape), V, 0, NAME("attn.compressor.ape", "self_attn.compressor.position_bias"), BLK("attn_compressor_ape.weight"), "128,Dh", "r128"},
    {L(attn.comp.wkv), M, 0, NAME("attn.compressor.wkv.weight", "self_attn.compressor.kv_proj.weight"), BLK("attn_compressor_kv.weight"), "Dh,D", "r128"},
    {L(attn.comp.wgate), M, 0, NAME("attn.compressor.wgate.weight", "self_attn.compressor.gate_proj.weight"), BLK("attn_compressor_gate.weight"), "Dh,D", "r128"},
    {L(attn.comp.norm), V, 0, NAME("attn.compressor.norm.weight", "self_attn.compressor.kv_norm.weight"), BLK("attn_compressor_norm.weight"), "Dh", "r"},
    {L(attn.index_wq_b), M, HD_W_FP8, NAME("attn.indexer.wq_b.weight", "self_attn.compressor.indexer.q_b_proj.weight"), BLK("indexer.attn_q_b.weight"), "Ih*Id,Rq", "r4"},
    {L(attn.index_weights), M, 0,
     NAME("attn.indexer.weights_proj.weight", "self_attn.compressor.indexer.weights_proj.weight") "|model.layers.%d.self_attn.compressor.indexer.scorer.weights_proj.weight",
     BLK("indexer.proj.weight"), "Ih,D", "r4"},
    {L(attn.index_comp.ape), V, 0, NAME("attn.indexer.compressor.ape", "self_attn.compressor.indexer.position_bias"), BLK("indexer_compressor_ape.weight"), "4,2*Id", "r4"},
    {L(attn.index_comp.wkv), M, 0, NAME("attn.indexer.compressor.wkv.weight", "self_attn.compressor.indexer.kv_proj.weight"), BLK("indexer_compressor_kv.weight"), "2*Id,D", "r4"},
    {L(attn.index_comp.wgate), M, 0, NAME("attn.indexer.compressor.wgate.weight", "self_attn.compressor.indexer.gate_proj.weight"),
     BLK("indexer_compressor_gate.weight"), "2*Id,D", "r4"},
    {L(attn.index_comp.norm), V, 0, NAME("attn.indexer.compressor.norm.weight", "self_attn.compressor.indexer.kv_norm.weight"), BLK("indexer_compressor_norm.weight"), "Id", "r4"},
    {L(ffn.gate_inp), M, 0, NAME("ffn.gate.weight", "mlp.gate.weight"), BLK("ffn_gate_inp.weight"), "E,D", NULL},
    {L(ffn.gate_bias), V, 0, NAME("ffn.gate.bias", "mlp.gate.e_score_correction_bias"), BLK("exp_probs_b.bias"), "E", "bias"},
    {L(bias_vl), V, HD_W_OPTIONAL, "@ffn.gate.bias_vl|model.layers.%d.ffn.gate.bias_vl", BLK("exp_probs_b_vl.bias"), "E", NULL},      /* for image tokens */
    {L(ffn.gate_table), HD_W_TABLE, 0, NAME("ffn.gate.tid2eid", "mlp.gate.tid2eid"), BLK("ffn_gate_tid2eid.weight"), "V,k", "hash"},
    {L(ffn.gate), M, HD_W_EXPERT, "@ffn.experts.%d.w1.weight|model.layers.%d.ffn.experts.%d.w1.weight|model.layers.%d.mlp.experts.%d.gate_proj.weight",
     BLK("ffn_gate_exps.weight"), "F,D", "split"},
    {L(ffn.up), M, HD_W_EXPERT, "@ffn.experts.%d.w3.weight|model.layers.%d.ffn.experts.%d.w3.weight|model.layers.%d.mlp.experts.%d.up_proj.weight",
     BLK("ffn_up_exps.weight"), "F,D", "split"},
    {L(ffn.down), M, HD_W_EXPERT, "@ffn.experts.%d.w2.weight|model.layers.%d.ffn.experts.%d.w2.weight|model.layers.%d.mlp.experts.%d.down_proj.weight",
     BLK("ffn_down_exps.weight"), "D,F", "split"},
    {L(gate_up_exps), M, FUSED, "model.layers.%d.mlp.experts.gate_up_proj|model.layers.%d.ffn.experts.gate_up_proj", BLK("ffn_gate_up_exps.weight"), "E,2*F,D", "fused"},
    {L(down_exps), M, FUSED, "model.layers.%d.mlp.experts.down_proj|model.layers.%d.ffn.experts.down_proj", BLK("ffn_down_exps.weight"), "E,D,F", "fused"},
    {L(ffn.sh_gate), M, HD_W_FP8, NAME("ffn.shared_experts.w1.weight", "mlp.shared_experts.gate_proj.weight"), BLK("ffn_gate_shexp.weight"), "Es*F,D", NULL},
    {L(ffn.sh_up), M, HD_W_FP8, NAME("ffn.shared_experts.w3.weight", "mlp.shared_experts.up_proj.weight"), BLK("ffn_up_shexp.weight"), "Es*F,D", NULL},
    {L(ffn.sh_down), M, HD_W_FP8, NAME("ffn.shared_experts.w2.weight", "mlp.shared_experts.down_proj.weight"), BLK("ffn_down_shexp.weight"), "D,Es*F", NULL},
    /* draft modules: the MTP module of the April checkpoints, or the stages of DSpark */
    {L(e_proj), M, HD_W_FP8, "@e_proj.weight", NULL, "D,D", "mtp"},
    {L(h_proj), M, HD_W_FP8, "@h_proj.weight", NULL, "D,D", "mtp"},
    {L(enorm), V, 0, "@enorm.weight", NULL, "D", "mtp"},
    {L(hnorm), V, 0, "@hnorm.weight", NULL, "D", "mtp"},
    {L(norm), V, 0, "@norm.weight", NULL, "D", "last"},
    {L(hc_head.fn), V, 0, "@hc_head_fn", NULL, "C,C*D", "last"},
    {L(hc_head.base), V, 0, "@hc_head_base", NULL, "C", "last"},
    {L(hc_head.scale), V, 0, "@hc_head_scale", NULL, "1", "last"},
    {L(main_proj), M, HD_W_FP8, "@main_proj.weight", NULL, "D,Tap*D", "spark first"},
    {L(main_norm), V, 0, "@main_norm.weight", NULL, "D", "spark first"},
    {L(markov_w1), M, 0, "@markov_head.markov_w1.weight", NULL, "V,Mr", "spark last"},
    {L(markov_w2), M, 0, "@markov_head.markov_w2.weight", NULL, "V,Mr", "spark last"},
    {L(confidence), M, 0, "@confidence_head.proj.weight", NULL, "1,Cf", "spark last"},
    {0, V, HD_W_STORED_ONLY, "@emb.tok_emb.weight|@embed.weight", NULL, "", NULL},
    {0, V, HD_W_STORED_ONLY, "@head.weight", NULL, "", NULL},
};

static bool exists(const void *arg, const char *when, int64_t layer)
{
    const struct hd_v4 *d = arg;
    int64_t r = d->layer[layer].ratio;

    if (when[0] == 'r')
        return !strcmp(when, "r4") ? r == 4 : !strcmp(when, "r128") ? r == 128 : r > 0;
    if (!strcmp(when, "hash"))
        return layer < d->n_hash;
    if (!strcmp(when, "bias"))
        return layer >= d->n_hash;
    if (!strcmp(when, "split"))
        return !d->fused;
    return !strcmp(when, "fused") && d->fused;
}

static bool exists_draft(const void *arg, const char *when, int64_t layer)
{
    const struct hd_v4 *d = arg;
    bool last = layer == d->n_mtp - 1;

    if (!strcmp(when, "mtp"))
        return !d->dspark;
    if (!strcmp(when, "last"))
        return !d->dspark || last;
    if (!strcmp(when, "spark first"))
        return d->dspark && layer == 0;
    if (!strcmp(when, "spark last"))
        return d->dspark && last;
    return !strcmp(when, "bias") || !strcmp(when, "split");
}

/* ---- hyper-parameters ---- */

static int read_ratios(const json_t *c, struct hd_v4 *d, const char *file, struct hd_err *err)
{
    const json_t *ratios = json_object_get(c, "compress_ratios"), *types = json_object_get(c, "layer_types");

    for (int64_t i = 0; i < d->n_layer; i++) {
        const json_t *r = json_array_get(ratios, (size_t)i), *t = json_array_get(types, (size_t)i);
        const char *name = json_string_value(t);

        if (json_is_integer(r))
            d->layer[i].ratio = json_integer_value(r);
        else if (!ratios && name)
            d->layer[i].ratio = !strcmp(name, "sliding_attention") ? 0 : !strcmp(name, "compressed_sparse_attention") ? 4 : !strcmp(name, "heavily_compressed_attention") ? 128 : -1;
        else
            return hd_err_set(err, HD_ERR_FORMAT, "%s: compress_ratios: found nothing for layer %lld; expected 0, 4 or 128 for each of %lld layers", file, (long long)i,
                              (long long)d->n_layer);
        if (d->layer[i].ratio != 0 && d->layer[i].ratio != 4 && d->layer[i].ratio != 128)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: compress_ratios: found %lld for layer %lld; expected 0, 4 or 128", file, (long long)d->layer[i].ratio, (long long)i);
    }
    return HD_OK;
}

static int64_t hash_layers(const json_t *c)
{
    const json_t *types = json_object_get(c, "mlp_layer_types"), *t;
    int64_t n = 0;
    size_t i;

    json_array_foreach((json_t *)types, i, t)
    {
        if (!json_is_string(t) || strcmp(json_string_value(t), "hash_moe"))
            break;
        n++;
    }
    return n;
}

static int read_rope(const json_t *c, struct hd_v4 *d, int64_t n_ctx, const char *file, struct hd_err *err)
{
    const json_t *both = json_object_get(c, "rope_parameters"), *main_rope = json_object_get(both, "main"), *comp = json_object_get(both, "compress");
    double theta, theta_comp;

    HD_TRY(hd_json_real_or(c, "rope_theta", 1, 1e12, 10000, &theta, file, err));
    HD_TRY(hd_json_real_or(c, "compress_rope_theta", 1, 1e12, 160000, &theta_comp, file, err));
    d->rope = (struct hd_rope_hp){.dim = d->attn.rope_dim, .theta = theta, .factor = 1, .n_ctx_orig = n_ctx};
    d->rope_comp = (struct hd_rope_hp){.dim = d->attn.rope_dim, .theta = theta_comp};
    if (json_is_object(main_rope))
        HD_TRY(hd_json_real_or(main_rope, "rope_theta", 1, 1e12, theta, &d->rope.theta, file, err));
    if (json_is_object(comp)) {
        json_t *w = json_pack("{s:O}", "rope_parameters", comp);
        int rc = w ? hd_rope_config(&d->rope_comp, w, n_ctx, file, err) : hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", file);

        json_decref(w);
        HD_TRY(rc);
    } else {
        HD_TRY(hd_rope_config(&d->rope_comp, c, n_ctx, file, err));
        d->rope_comp.theta = theta_comp;
    }
    d->rope_comp.attn_factor = 1;                     /* cos and sin stay 1 here: the reference has no magnitude term */
    d->rope_comp.truncate = true;
    return HD_OK;
}

static int read_config(struct hd_model *m, struct hd_v4 *d, struct hd_err *err)
{
    const json_t *c = m->store.config;
    const char *f = m->store.config_path, *scoring, *act;
    int64_t n_ctx, block[2] = {128, 128};
    double eps, scale, limit, hc_eps;
    bool norm;
    const json_t *q = json_object_get(json_object_get(c, "quantization_config"), "weight_block_size");

    HD_TRY(hd_json_int(c, "num_hidden_layers", 1, LAYER_MAX, &d->n_layer, f, err));
    HD_TRY(hd_json_int(c, "hidden_size", 1, DIM_MAX, &d->d_model, f, err));
    HD_TRY(hd_json_int(c, "vocab_size", 1, DIM_MAX, &d->n_vocab, f, err));
    HD_TRY(hd_json_int(c, "moe_intermediate_size", 1, DIM_MAX, &d->d_expert, f, err));
    HD_TRY(hd_json_int(c, "num_attention_heads", 1, 65536, &d->attn.n_head, f, err));
    HD_TRY(hd_json_int(c, "head_dim", 2, 65536, &d->attn.head_dim, f, err));
    HD_TRY(hd_json_int(c, "qk_rope_head_dim", 2, 65536, &d->attn.rope_dim, f, err));
    HD_TRY(hd_json_int(c, "q_lora_rank", 1, DIM_MAX, &d->attn.q_rank, f, err));
    HD_TRY(hd_json_int(c, "o_lora_rank", 1, DIM_MAX, &d->attn.o_rank, f, err));
    HD_TRY(hd_json_int(c, "o_groups", 1, 65536, &d->attn.o_groups, f, err));
    HD_TRY(hd_json_int(c, "sliding_window", 1, (int64_t)1 << 20, &d->attn.window, f, err));
    HD_TRY(hd_json_int_or(c, "index_n_heads", 1, 65536, 64, &d->attn.index_heads, f, err));
    HD_TRY(hd_json_int_or(c, "index_head_dim", 2, 65536, 128, &d->attn.index_dim, f, err));
    HD_TRY(hd_json_int_or(c, "index_topk", 1, (int64_t)1 << 20, 512, &d->attn.index_top_k, f, err));
    HD_TRY(hd_json_int(c, "n_routed_experts", 1, 4096, &d->moe.gate.n_expert, f, err));
    HD_TRY(hd_json_int(c, "num_experts_per_tok", 1, 64, &d->moe.gate.n_used, f, err));
    HD_TRY(hd_json_int_or(c, "n_shared_experts", 1, 64, 1, &d->n_shared, f, err));
    HD_TRY(hd_json_int_or(c, "num_hash_layers", 0, d->n_layer, hash_layers(c), &d->n_hash, f, err));
    HD_TRY(hd_json_int_or(c, "hc_mult", 1, 8, 4, &d->mhc.n_hc, f, err));
    HD_TRY(hd_json_int_or(c, "hc_sinkhorn_iters", 1, 1000, 20, &d->mhc.n_iter, f, err));
    HD_TRY(hd_json_real_or(c, "hc_eps", 0, 1, 1e-6, &hc_eps, f, err));
    HD_TRY(hd_json_real_or(c, "rms_norm_eps", 0, 1, 1e-6, &eps, f, err));
    HD_TRY(hd_json_real_or(c, "routed_scaling_factor", 0, 1e6, 1, &scale, f, err));
    HD_TRY(hd_json_real_or(c, "swiglu_limit", 0, 1e6, 0, &limit, f, err));
    HD_TRY(hd_json_bool_or(c, "norm_topk_prob", true, &norm, f, err));
    HD_TRY(hd_json_str_or(c, "scoring_func", "sqrtsoftplus", &scoring, f, err));
    HD_TRY(hd_json_str_or(c, "hidden_act", "silu", &act, f, err));
    HD_TRY(hd_json_int_or(c, "max_position_embeddings", 1, (int64_t)1 << 30, 1048576, &n_ctx, f, err));
    if (strcmp(act, "silu"))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: hidden_act: found \"%s\"; expected silu", f, act);
    if (strcmp(scoring, "sqrtsoftplus") && strcmp(scoring, "sigmoid") && strcmp(scoring, "softmax"))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: scoring_func: found \"%s\"; expected sqrtsoftplus, sigmoid or softmax", f, scoring);
    if (d->attn.rope_dim % 2 || d->attn.rope_dim > d->attn.head_dim || d->attn.rope_dim > d->attn.index_dim)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: qk_rope_head_dim: found %lld; expected an even number up to head_dim %lld and index_head_dim %lld", f,
                          (long long)d->attn.rope_dim, (long long)d->attn.head_dim, (long long)d->attn.index_dim);
    if (d->attn.n_head % d->attn.o_groups)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: o_groups: found %lld; expected a divisor of %lld heads", f, (long long)d->attn.o_groups, (long long)d->attn.n_head);
    if (d->moe.gate.n_used > d->moe.gate.n_expert)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: num_experts_per_tok: found %lld of %lld experts", f, (long long)d->moe.gate.n_used, (long long)d->moe.gate.n_expert);
    for (size_t i = 0; i < 2; i++)
        if (json_is_integer(json_array_get(q, i)) && json_integer_value(json_array_get(q, i)) > 0)
            block[i] = json_integer_value(json_array_get(q, i));
    d->norm_eps = d->attn.norm_eps = (float)eps;
    d->attn.act_block = d->moe.moe.act_block = json_object_get(c, "quantization_config") ? block[1] : 0;
    d->attn.kv_block = 64;
    d->attn.native = m->kv == HD_KV_NATIVE || (m->kv == HD_KV_AUTO && d->attn.act_block);
    d->mhc.norm_eps = (float)eps;
    d->mhc.eps = (float)hc_eps;
    d->moe.gate.fn = !strcmp(scoring, "sigmoid") ? HD_GATE_SIGMOID : !strcmp(scoring, "softmax") ? HD_GATE_SOFTMAX : HD_GATE_SQRTSOFTPLUS;
    d->moe.gate.norm = norm;
    d->moe.gate.scale = (float)scale;
    d->moe.gate.temp = 1;
    d->moe.moe.n_expert = d->moe.gate.n_expert;
    d->moe.moe.limit = (float)limit;
    d->moe.moe.weight_first = true;
    if (!(d->layer = hd_arena_zalloc(&m->arena, (size_t)d->n_layer * sizeof *d->layer)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld layers", f, (long long)d->n_layer);
    HD_TRY(read_ratios(c, d, f, err));
    HD_TRY(read_rope(c, d, n_ctx, f, err));
    m->hp = (struct hd_hparams){d->n_layer, d->d_model, d->n_vocab, n_ctx};
    return HD_OK;
}

/* ---- loading ---- */

/* The fused form's matrices as views of one expert each. */
static int split_experts(struct hd_model *m, struct hd_v4 *d, struct hd_err *err)
{
    int64_t n = d->moe.gate.n_expert;

    for (int64_t i = 0; i < d->n_layer && d->fused; i++) {
        struct hd_v4_layer *l = &d->layer[i];
        struct hd_tensor *t = hd_arena_zalloc(&m->arena, (size_t)(3 * n) * sizeof *t);

        if (!t)
            return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld experts", m->store.path, (long long)n);
        if (!l->gate_up_exps.n_dim || !l->down_exps.n_dim)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: layer %lld: experts.gate_up_proj or down_proj is missing", m->store.path, (long long)i);
        if (l->gate_up_exps.scale.data || l->down_exps.scale.data)
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: layer %lld: experts in one quantised matrix; expected float ones, or a matrix per expert", m->store.path, (long long)i);
        hd_moe_split(&l->ffn, &l->gate_up_exps, &l->down_exps, t);
    }
    return HD_OK;
}

/* Hash tables must name experts that exist. */
static int check_tables(const struct hd_model *m, const struct hd_v4 *d, struct hd_err *err)
{
    for (int64_t i = 0; i < d->n_hash; i++) {
        const struct hd_tensor *t = &d->layer[i].ffn.gate_table;

        for (int64_t k = 0; t->data && k < hd_elems(t); k++) {
            int64_t e = hd_int_at(t->type, t->data, k);

            if (e < 0 || e >= d->moe.gate.n_expert)
                return hd_err_set(err, HD_ERR_FORMAT, "%s: tensor %s: found expert %lld for token %lld; expected 0 to %lld", m->store.path, t->name, (long long)e,
                                  (long long)(k / hd_cols(t)), (long long)d->moe.gate.n_expert - 1);
        }
    }
    return HD_OK;
}

static int bind(struct hd_model *m, struct hd_v4 *d, struct hd_err *err)
{
    struct hd_csa_hp *a = &d->attn;

    struct hd_symbol sym[] = {{"V", d->n_vocab},       {"D", d->d_model},       {"F", d->d_expert},   {"E", d->moe.gate.n_expert}, {"k", d->moe.gate.n_used},
                              {"Es", d->n_shared},     {"H", a->n_head},        {"Dh", a->head_dim},  {"Rq", a->q_rank},           {"Or", a->o_rank},
                              {"Og", a->o_groups},     {"Oc", a->n_head / a->o_groups * a->head_dim}, {"Ih", a->index_heads},      {"Id", a->index_dim},
                              {"C", d->mhc.n_hc},      {"Cm", d->mhc.n_hc * (2 + d->mhc.n_hc)},       {"Tap", d->spark.n_tap},     {"Mr", d->spark.rank},
                              {"Cf", d->d_model + d->spark.rank}};

    _Static_assert(sizeof sym <= sizeof d->sym, "room for every symbol");
    memcpy(d->sym, sym, sizeof sym);
    struct hd_weight_row *all = hd_arena_alloc(&m->arena, sizeof globals + sizeof rows);

    if (!all)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    memcpy(all, globals, sizeof globals);
    memcpy(all + HD_LEN(globals), rows, sizeof rows);
    d->list[0] = (struct hd_weight_list){.row = all, .n_row = HD_LEN(globals) + HD_LEN(rows) - 15, .sym = d->sym, .n_sym = HD_LEN(sym), .n_layer = d->n_layer, .globals = d,
                                         .layers = d->layer, .layer_bytes = sizeof *d->layer, .prefix = "layers.%d.", .n_expert = d->moe.gate.n_expert,
                                         .exists = exists, .arg = d};
    d->list[1] = d->list[0];
    d->list[1].row = rows;
    d->list[1].n_row = HD_LEN(rows);
    d->list[1].n_layer = d->n_mtp;
    d->list[1].layers = d->mtp;
    d->list[1].prefix = "mtp.%d.";
    d->list[1].exists = exists_draft;
    HD_TRY(hd_vit_list(m, &d->vit, d->d_model, &d->list[2], err));
    HD_TRY(hd_bind_lists(&m->store, d->list, 3, &m->arena, m->planned, err));
    HD_TRY(split_experts(m, d, err));
    return check_tables(m, d, err);
}

static int set_cache(struct hd_model *m, struct hd_v4 *d, struct hd_err *err)
{
    struct hd_cache_part *part = hd_arena_zalloc(&m->arena, (size_t)(HD_CSA_PARTS * d->n_layer + d->n_mtp + 1) * sizeof *part);
    int n = 0;

    if (!part)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the cache's description", m->store.path);
    for (int64_t i = 0; i < d->n_layer; i++) {
        d->layer[i].part0 = n;
        n += hd_csa_parts(&d->attn, d->layer[i].ratio, (int)i, part + n);
    }
    n += hd_v4_draft_parts(m, d, n, part + n);
    m->spec = (struct hd_cache_spec){n, part};
    return HD_OK;
}

static int load(struct hd_model *m, struct hd_err *err)
{
    struct hd_v4 *d = hd_arena_zalloc(&m->arena, sizeof *d);
    float *f, scale;

    if (!d)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    m->impl = d;
    HD_TRY(read_config(m, d, err));
    HD_TRY(hd_v4_draft_find(m, d, err));
    HD_TRY(bind(m, d, err));
    if (!(f = hd_arena_alloc(&m->arena, (size_t)d->attn.rope_dim * sizeof *f)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    hd_rope_freqs(&d->rope, f, &scale);
    hd_rope_freqs(&d->rope_comp, f + d->attn.rope_dim / 2, &scale);
    d->inv_freq = hd_view1(HD_F32, f, d->attn.rope_dim / 2);
    d->inv_freq_comp = hd_view1(HD_F32, f + d->attn.rope_dim / 2, d->attn.rope_dim / 2);
    return set_cache(m, d, err);
}

/* ---- forward ---- */

static void prepare(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, struct hd_csa_step *st)
{
    int64_t rd = d->attn.rope_dim;

    *st = (struct hd_csa_step){.b = b};
    st->e4 = hd_entries(s, b, 4);
    st->e128 = hd_entries(s, b, 128);
    st->rope = hd_new(s, HD_F32, b->n_tok, rd);
    st->rope_comp = hd_new(s, HD_F32, b->n_tok, rd);
    st->rope_e4 = hd_new(s, HD_F32, st->e4->n_tok, rd);
    st->rope_e128 = hd_new(s, HD_F32, st->e128->n_tok, rd);
    hd_rope_table(s, st->rope, b, &d->inv_freq, 1);
    hd_rope_table(s, st->rope_comp, b, &d->inv_freq_comp, 1);
    hd_rope_table(s, st->rope_e4, st->e4, &d->inv_freq_comp, 1);
    hd_rope_table(s, st->rope_e128, st->e128, &d->inv_freq_comp, 1);
}

void hd_v4_work_new(struct hd_stream *s, const struct hd_v4 *d, int64_t n, struct hd_v4_work *k)
{
    int64_t hc = d->mhc.n_hc;

    k->x = hd_new(s, HD_F32, n, hc * d->d_model);
    k->u = hd_new(s, HD_F32, n, d->d_model);
    k->y = hd_new(s, HD_F32, n, d->d_model);
    k->mix = hd_new(s, HD_F32, n, hc * (2 + hc));
}

void hd_v4_enter(struct hd_stream *s, const struct hd_v4 *d, const struct hd_mhc_weights *hc, const struct hd_tensor *norm, const char *name, int layer, struct hd_v4_work *k)
{
    hd_mhc_mix(s, k->mix, k->x, &hc->fn, &hc->base, &hc->scale, &d->mhc);
    hd_mhc_pre(s, k->u, k->x, k->mix, d->mhc.n_hc);
    hd_bf16(s, k->u);
    hd_trace(s, k->u, "layers.%d.%s_in", layer, name);
    hd_rmsnorm(s, k->u, k->u, norm, d->norm_eps);
    hd_bf16(s, k->u);
    hd_trace(s, k->u, "layers.%d.%s_norm", layer, name);
}

void hd_v4_layer_run(struct hd_stream *s, const struct hd_v4 *d, const struct hd_v4_layer *l, const struct hd_v4_layer *next, const struct hd_ragged *b, int layer, struct hd_v4_work *k)
{
    hd_layer_begin(s, k->x);
    hd_v4_enter(s, d, &l->hc_attn, &l->attn_norm, "attn", layer, k);
    hd_attn_csa(s, &d->attn, &l->attn, l->ratio, l->part0, &k->st, k->u, k->y, layer);
    hd_mhc_post(s, k->x, k->y, k->mix, d->mhc.n_hc);
    hd_bf16(s, k->x);
    hd_trace(s, k->x, "layers.%d.stream_attn", layer);
    hd_v4_enter(s, d, &l->hc_ffn, &l->ffn_norm, "ffn", layer, k);
    hd_moe_block(s, &d->moe, &l->ffn, next ? &next->ffn : NULL, b, k->u, k->y, layer);
    hd_mhc_post(s, k->x, k->y, k->mix, d->mhc.n_hc);
    hd_bf16(s, k->x);
    hd_trace(s, k->x, "layers.%d.stream", layer);
    hd_layer_end(s);
}

struct hd_tensor *hd_v4_collapse(struct hd_stream *s, const struct hd_v4 *d, const struct hd_mhc_weights *w, const struct hd_tensor *x)
{
    struct hd_tensor *pre = hd_new(s, HD_F32, hd_rows(x), d->mhc.n_hc), *u = hd_new(s, HD_F32, hd_rows(x), d->d_model);

    hd_mhc_mix(s, pre, x, &w->fn, &w->base, &w->scale, &d->mhc);
    hd_mhc_pre(s, u, x, pre, d->mhc.n_hc);
    hd_bf16(s, u);
    return u;
}

void hd_v4_head(struct hd_stream *s, const struct hd_v4 *d, const struct hd_tensor *norm, struct hd_tensor *u, struct hd_tensor *logits)
{
    hd_rmsnorm(s, u, u, norm, d->norm_eps);
    hd_bf16(s, u);
    hd_trace(s, u, "final.norm");
    hd_logits(s, logits, u, &d->head);
}

/* ---- the model ---- */

static struct hd_tensor *forward(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, const int32_t *out_rows, int64_t n_out)
{
    const struct hd_v4 *d = m->impl;
    bool learn = m->draft_learns && hd_learns(s, HD_LEARN_DRAFT), keep = m->draft.depth > 0, spark = d->dspark && (learn || keep);
    int64_t n = b->n_tok, D = d->d_model;
    struct hd_tensor *logits = hd_logits_new(s, n_out, d->n_vocab), *taps = spark ? hd_new(s, HD_F32, n, d->spark.n_tap * D) : NULL, *last, *u;
    struct hd_v4_work k;

    hd_v4_work_new(s, d, n, &k);
    hd_embed(s, k.u, &d->embed, b);
    hd_trace(s, k.u, "embed");
    hd_copies(s, k.x, k.u);
    prepare(s, d, b, &k.st);
    for (int64_t i = 0; i < d->n_layer; i++) {
        hd_v4_layer_run(s, d, &d->layer[i], i + 1 < d->n_layer ? &d->layer[i + 1] : NULL, b, (int)i, &k);
        if (spark && hd_dspark_tap(&d->spark, i) >= 0)
            hd_mhc_mean(s, hd_slice(s, taps, hd_dspark_tap(&d->spark, i) * D, D), k.x, d->mhc.n_hc);
    }
    if (keep)
        hd_v4_draft_keep(s, d, b, k.x, taps);
    if (learn)
        hd_v4_draft_learn(s, d, b, k.x, taps);
    if (n_out == 0)
        return logits;
    last = hd_new(s, HD_F32, n_out, d->mhc.n_hc * D);
    hd_gather(s, last, k.x, out_rows);
    u = hd_v4_collapse(s, d, &d->hc_head, last);
    hd_trace(s, u, "final.y");
    hd_v4_head(s, d, &d->norm, u, logits);
    hd_trace(s, logits, "logits");
    return logits;
}

static void each_weight(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    const struct hd_v4 *d = m->impl;

    hd_bind_each(&d->list[0], fn, arg);
}

static void each_aside(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    const struct hd_v4 *d = m->impl;

    hd_bind_each(&d->list[1], fn, arg);
    hd_bind_each(&d->list[2], fn, arg);
}

static void each_draft(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    hd_bind_each(&((const struct hd_v4 *)m->impl)->list[1], fn, arg);
}

static int64_t n_idle(const struct hd_model *m)
{
    const struct hd_v4 *d = m->impl;

    return (d->n_vocab - 1) * d->d_model + d->n_layer * (d->moe.gate.n_expert - d->moe.gate.n_used) * 3 * d->d_model * d->d_expert;
}

const struct hd_arch hd_arch_deepseek_v4 = {.name = "deepseek_v4", .gguf_name = "deepseek4", .load = load, .forward = forward, .each_weight = each_weight,
                                            .each_aside = each_aside, .each_draft = each_draft, .draft = hd_v4_draft, .next = hd_v4_draft_next, .n_idle = n_idle};
