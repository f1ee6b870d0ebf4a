/* arch_deepseek_v41.c: DeepSeek-V4.1-Flash: shared compressed entries, delayed hyper-connections, Engram, experts.
 *
 * Source   the published config.json (everything in text_config) and inference code
 * Traps    a half-layer collapses the streams with the pre of the half-layer before it; the last one replaces a head
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/attn_csa2.h"
#include "model/engram_hash.h"
#include "model/mhc.h"
#include "model/model.h"
#include "model/moe.h"
#include "model/rope.h"
#include "weights/bind.h"

#define LAYER_MAX 1024
#define DIM_MAX ((int64_t)1 << 24)
#define ENGRAM_MAX 16
#define HASH_MAX 256                  /* orders times heads */

struct engram {
    struct hd_tensor embed, wkv, q_weight, k_weight;
};

struct layer {
    struct hd_tensor attn_norm, ffn_norm, bias_vl;
    struct hd_mhc_weights hc_attn, hc_ffn;
    struct hd_csa2_weights attn;
    struct hd_moe_weights ffn;
    struct engram engram;
    int engram_index;                                 /* -1: none */
};

struct v41 {
    int64_t n_layer, d_model, n_vocab, d_expert, n_shared;
    struct hd_csa2_hp attn;
    struct hd_moe_block_hp moe;
    struct hd_mhc_hp mhc;
    struct hd_rope_hp rope, rope_comp;
    float norm_eps;
    int64_t n_engram, engram_order, engram_heads, engram_dim, engram_vocab, engram_pad, n_class, image_token;
    int64_t engram_layer[ENGRAM_MAX], engram_rows[ENGRAM_MAX];
    int64_t mult[ENGRAM_MAX][32], prime[ENGRAM_MAX][HASH_MAX], offset[ENGRAM_MAX][HASH_MAX];
    struct hd_ngram ngram[ENGRAM_MAX];
    struct hd_tensor embed, norm, head;
    struct hd_tensor inv_freq, inv_freq_comp;
    struct layer *layer;
    struct hd_csa2_layer *plan;                       /* who owns, who chooses */
    int64_t ratios[2];                                /* of the owners, at most two */
    int part_ngram;
    struct hd_symbol sym[24];
    struct hd_weight_list list;
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
    {L(attn.wq_a), M, 0, "@attn.wq_a.weight", NULL, "Rq,D", NULL},
    {L(attn.q_norm), V, 0, "@attn.q_norm.weight", NULL, "Rq", NULL},
    {L(attn.wq_b), M, 0, "@attn.wq_b.weight", NULL, "H*Dh,Rq", NULL},
    {L(attn.wkv), M, 0, "@attn.wkv.weight", NULL, "Dh,D", NULL},
    {L(attn.kv_norm), V, 0, "@attn.kv_norm.weight", NULL, "Dh", NULL},
    {L(attn.sink), V, 0, "@attn.attn_sink", NULL, "H", NULL},
    {L(attn.wo_a), M, 0, "@attn.wo_a.weight", NULL, "Og*Or,Oc", NULL},
    {L(attn.wo_b), M, 0, "@attn.wo_b.weight", NULL, "D,Og*Or", NULL},
    {L(attn.comp_wkv), M, 0, "@attn.compressor.wkv.weight", NULL, "Dh,D", "owner"},
    {L(attn.comp_wgate), M, 0, "@attn.compressor.wgate.weight", NULL, "Dh,D", "pool"},
    {L(attn.comp_norm), V, 0, "@attn.compressor.norm.weight", NULL, "Dh", "owner"},
    {L(attn.index_wk), M, 0, "@attn.indexer.wk.weight", NULL, "Id,Dh", "owner"},
    {L(attn.index_k_norm), V, 0, "@attn.indexer.k_norm.weight", NULL, "Id", "owner"},
    {L(attn.index_wq_b), M, 0, "@attn.indexer.wq_b.weight", NULL, "Ih*Id,Rq", "source"},
    {L(attn.index_weights), M, 0, "@attn.indexer.weights_proj.weight", NULL, "Ih,D", "source"},
    {L(engram.wkv), M, 0, "@engram.wkv.weight", NULL, "Ckv*D,Ne*De", "engram"},
    {L(engram.q_weight), V, 0, "@engram.q_weight", NULL, "C,D", "engram"},
    {L(engram.k_weight), V, 0, "@engram.k_weight", NULL, "C,D", "engram"},
    {L(ffn.gate_inp), M, 0, "@ffn.gate.weight", NULL, "E,D", NULL},
    {L(ffn.gate_bias), V, 0, "@ffn.gate.bias", NULL, "E", NULL},
    {L(bias_vl), V, HD_W_OPTIONAL, "@ffn.gate.bias_vl", NULL, "E", NULL},
    {L(ffn.gate), M, HD_W_EXPERT, "@ffn.experts.%d.w1.weight", NULL, "F,D", NULL},
    {L(ffn.up), M, HD_W_EXPERT, "@ffn.experts.%d.w3.weight", NULL, "F,D", NULL},
    {L(ffn.down), M, HD_W_EXPERT, "@ffn.experts.%d.w2.weight", NULL, "D,F", NULL},
    {L(ffn.sh_gate), M, 0, "@ffn.shared_experts.w1.weight", NULL, "Es*F,D", NULL},
    {L(ffn.sh_up), M, 0, "@ffn.shared_experts.w3.weight", NULL, "Es*F,D", NULL},
    {L(ffn.sh_down), M, 0, "@ffn.shared_experts.w2.weight", NULL, "D,Es*F", NULL},
    /* the tables differ in size: one row each, by their place in engram_layer_ids */
#define TABLE(i) {L(engram.embed), M, 0, "@engram.embed.weight", NULL, "N" #i ",De", "engram" #i}
    TABLE(0), TABLE(1), TABLE(2), TABLE(3), TABLE(4), TABLE(5), TABLE(6), TABLE(7),
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
    return when[6] ? d->layer[layer].engram_index == when[6] - '0' : d->layer[layer].engram_index >= 0;
}

/* ---- hyper-parameters ---- */

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

static int read_layers(const json_t *c, struct v41 *d, const char *file, struct hd_err *err)
{
    const json_t *ratios = json_object_get(c, "compress_ratios");
    int64_t owners[LAYER_MAX], sources[LAYER_MAX];
    int n_owner, n_source, n_ratio = 0, owner = -1, source = -1;

    HD_TRY(read_ids(c, "kv_source_layer_ids", d->n_layer, owners, LAYER_MAX, &n_owner, file, err));
    HD_TRY(read_ids(c, "index_source_layer_ids", d->n_layer, sources, LAYER_MAX, &n_source, file, err));
    for (int i = 0, o = 0, q = 0; i < d->n_layer; i++) {
        const json_t *r = json_array_get(ratios, (size_t)i);
        struct hd_csa2_layer *l = &d->plan[i];
        bool owns = o < n_owner && owners[o] == i, chooses = q < n_source && sources[q] == i;

        l->ratio = json_is_integer(r) ? json_integer_value(r) : -1;
        if (l->ratio < 0 || l->ratio > 256)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: compress_ratios: expected a number from 0 to 256 for each of %lld layers; layer %d has none", file,
                              (long long)d->n_layer, i);
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
        if (l->ratio && (owner < 0 || source < 0 || d->plan[owner].ratio != l->ratio || source < owner))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: layer %d: its entries (of layer %d) or their choice (of layer %d) do not fit its compress_ratio %lld", file, i, owner,
                              source, (long long)l->ratio);
        if (owns) {
            int k = 0;

            while (k < n_ratio && d->ratios[k] != l->ratio)
                k++;
            if (k == 2)
                return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: compress_ratios: found more than two different ones", file);
            if (k == n_ratio)
                d->ratios[n_ratio++] = l->ratio;
        }
    }
    return HD_OK;
}

static int read_engram(const json_t *c, struct v41 *d, const char *f, struct hd_err *err)
{
    const json_t *sizes = json_object_get(c, "engram_num_embeddings");
    int64_t order;
    int n;

    HD_TRY(read_ids(c, "engram_layer_ids", d->n_layer, d->engram_layer, 8, &n, f, err));
    d->n_engram = n;
    for (int64_t i = 0; i < d->n_layer; i++)
        d->layer[i].engram_index = -1;
    if (!n)
        return HD_OK;
    for (int i = 0; i < n; i++) {
        const json_t *v = json_array_get(sizes, (size_t)i);

        d->layer[d->engram_layer[i]].engram_index = i;
        d->engram_rows[i] = json_is_integer(v) ? json_integer_value(v) : 0;
        if (d->engram_rows[i] < 1 || d->engram_rows[i] > INT32_MAX)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: engram_num_embeddings: expected a number from 1 to 2147483647 for each of %d layers", f, n);
    }
    HD_TRY(hd_json_int_or(c, "engram_max_ngram", 2, 15, 4, &order, f, err));
    HD_TRY(hd_json_int_or(c, "engram_max_ngram_size", 2, 15, order, &order, f, err));
    HD_TRY(hd_json_int(c, "engram_n_heads", 1, 16, &d->engram_heads, f, err));
    HD_TRY(hd_json_int(c, "engram_head_dim", 1, DIM_MAX, &d->engram_dim, f, err));
    HD_TRY(hd_json_int(c, "engram_vocab_size", 2, INT32_MAX, &d->engram_vocab, f, err));
    HD_TRY(hd_json_int_or(c, "engram_pad_token_id", 0, d->n_vocab - 1, 2, &d->engram_pad, f, err));
    HD_TRY(hd_json_int(c, "engram_compressed_vocab_size", 1, d->n_vocab, &d->n_class, f, err));
    d->engram_order = order - 1;
    return HD_OK;
}

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
    HD_TRY(hd_json_int(c, "num_attention_heads", 1, 65536, &d->attn.n_head, f, err));
    HD_TRY(hd_json_int(c, "head_dim", 2, 65536, &d->attn.head_dim, f, err));
    HD_TRY(hd_json_int(c, "qk_rope_head_dim", 2, 65536, &d->attn.rope_dim, f, err));
    HD_TRY(hd_json_int(c, "q_lora_rank", 1, DIM_MAX, &d->attn.q_rank, f, err));
    HD_TRY(hd_json_int(c, "o_lora_rank", 1, DIM_MAX, &d->attn.o_rank, f, err));
    HD_TRY(hd_json_int(c, "o_groups", 1, 65536, &d->attn.o_groups, f, err));
    HD_TRY(hd_json_int(c, "sliding_window", 1, (int64_t)1 << 20, &d->attn.window, f, err));
    HD_TRY(hd_json_int_or(c, "index_n_heads", 1, 65536, 32, &d->attn.index_heads, f, err));
    HD_TRY(hd_json_int_or(c, "index_head_dim", 2, 65536, 128, &d->attn.index_dim, f, err));
    HD_TRY(hd_json_int_or(c, "index_topk", 1, (int64_t)1 << 20, 512, &d->attn.index_top_k, f, err));
    HD_TRY(hd_json_int_or(c, "candidate_source_layer_id", -1, d->n_layer - 1, -1, &d->attn.cand_source, f, err));
    HD_TRY(hd_json_int_or(c, "candidate_topk_blocks", 1, (int64_t)1 << 24, 2048, &d->attn.n_cand, f, err));
    HD_TRY(hd_json_int_or(c, "candidate_block_size", 1, 65536, 8, &d->attn.cand_block, f, err));
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
    if (d->attn.rope_dim % 2 || d->attn.rope_dim > d->attn.head_dim || d->attn.rope_dim > d->attn.index_dim)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: qk_rope_head_dim: found %lld; expected an even number up to head_dim %lld and index_head_dim %lld", f,
                          (long long)d->attn.rope_dim, (long long)d->attn.head_dim, (long long)d->attn.index_dim);
    if (d->attn.n_head % d->attn.o_groups)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: o_groups: found %lld; expected a divisor of %lld heads", f, (long long)d->attn.o_groups, (long long)d->attn.n_head);
    if (d->moe.gate.n_used > d->moe.gate.n_expert)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: num_experts_per_tok: found %lld of %lld experts", f, (long long)d->moe.gate.n_used, (long long)d->moe.gate.n_expert);
    b = json_array_get(json_object_get(q, "weight_block_size"), 1);
    if (json_is_integer(b) && json_integer_value(b) > 0)
        block = json_integer_value(b);
    d->norm_eps = d->attn.norm_eps = (float)eps;
    d->attn.act_block = d->moe.moe.act_block = q ? block : 0;
    d->mhc.norm_eps = (float)eps;
    d->mhc.eps = (float)hc_eps;
    d->moe.gate.fn = HD_GATE_SQRTSOFTPLUS;
    d->moe.gate.norm = norm && d->moe.gate.n_used > 1;
    d->moe.gate.norm_eps = 1e-20f;
    d->moe.gate.scale = (float)scale;
    d->moe.gate.temp = (float)temp;
    d->moe.moe.n_expert = d->moe.gate.n_expert;
    d->moe.moe.limit = (float)limit;
    d->moe.moe.weight_first = true;
    d->layer = hd_arena_zalloc(&m->arena, (size_t)d->n_layer * sizeof *d->layer);
    d->plan = hd_arena_zalloc(&m->arena, (size_t)d->n_layer * sizeof *d->plan);
    if (!d->layer || !d->plan)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld layers", f, (long long)d->n_layer);
    HD_TRY(read_layers(c, d, f, err));
    HD_TRY(read_engram(c, d, f, err));
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

/* Primes and offsets follow from the sizes alone; the multipliers from the number of classes. */
static int make_hashes(struct hd_model *m, struct v41 *d, struct hd_err *err)
{
    int64_t seen[ENGRAM_MAX * HASH_MAX], n_seen = 0, n = d->engram_order * d->engram_heads;

    for (int64_t i = 0; i < d->n_engram; i++) {
        int64_t sum = 0;

        if (!hd_next_primes(d->engram_vocab - 1, seen, n_seen, n, d->prime[i]))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: engram_vocab_size: found %lld; expected room for %lld primes", m->store.config_path, (long long)d->engram_vocab,
                              (long long)(d->n_engram * n));
        for (int64_t k = 0; k < n; k++) {
            d->offset[i][k] = sum;
            sum += d->prime[i][k];
            seen[n_seen++] = d->prime[i][k];
        }
        if (sum != d->engram_rows[i])
            return hd_err_set(err, HD_ERR_FORMAT, "%s: engram_num_embeddings: found %lld rows for layer %lld; its %lld primes sum to %lld", m->store.config_path,
                              (long long)d->engram_rows[i], (long long)d->engram_layer[i], (long long)n, (long long)sum);
        hd_numpy_integers(10007u * (uint64_t)d->engram_layer[i], (uint64_t)(INT64_MAX / d->n_class / 2 > 1 ? INT64_MAX / d->n_class / 2 : 1), d->engram_order + 1, d->mult[i]);
        for (int64_t j = 0; j <= d->engram_order; j++)
            d->mult[i][j] = d->mult[i][j] * 2 + 1;
        d->ngram[i] = (struct hd_ngram){.n_order = d->engram_order, .n_head = d->engram_heads, .mult = d->mult[i], .prime = d->prime[i], .offset = d->offset[i]};
    }
    return HD_OK;
}

static int take_classes(struct hd_model *m, const int32_t *map, int64_t n, int64_t n_class, struct hd_err *err)
{
    struct v41 *d = m->impl;
    int32_t *copy;

    if (!d->n_engram)
        return HD_OK;
    if (n_class != d->n_class)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: engram_compressed_vocab_size: found %lld; the tokenizer makes %lld", m->store.config_path, (long long)d->n_class,
                          (long long)n_class);
    if (!(copy = hd_arena_alloc(&m->arena, (size_t)n * sizeof *copy)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the classes of %lld tokens", m->store.path, (long long)n);
    memcpy(copy, map, (size_t)n * sizeof *copy);
    for (int64_t i = 0; i < d->n_engram; i++) {
        d->ngram[i].map = copy;
        d->ngram[i].n_map = n;
        d->ngram[i].pad = map[d->engram_pad];
    }
    return HD_OK;
}

/* The vision tower and the draft module are known, and wait for their own code. */
static void set_aside(struct hd_store *st)
{
    static const char *const prefix[] = {"vision.", "aligner.", "image_start", "image_newline", "image_end", "image_pad", "mtp."};

    for (size_t i = 0; i < st->n_entry; i++)
        for (int k = 0; k < HD_LEN(prefix); k++)
            if (!strncmp(st->entry[i].name.p, prefix[k], strlen(prefix[k])))
                st->entry[i].used = true;
}

static int bind(struct hd_model *m, struct v41 *d, struct hd_err *err)
{
    struct hd_csa2_hp *a = &d->attn;
    struct hd_symbol sym[] = {{"V", d->n_vocab}, {"D", d->d_model}, {"F", d->d_expert}, {"E", d->moe.gate.n_expert}, {"Es", d->n_shared}, {"H", a->n_head},
                              {"Dh", a->head_dim}, {"Rq", a->q_rank}, {"Or", a->o_rank}, {"Og", a->o_groups}, {"Oc", a->n_head / a->o_groups * a->head_dim},
                              {"Ih", a->index_heads}, {"Id", a->index_dim}, {"C", d->mhc.n_hc}, {"Cm", d->mhc.n_hc * (2 + d->mhc.n_hc)}, {"Ckv", d->mhc.n_hc + 1},
                              {"Ne", d->engram_order * d->engram_heads}, {"De", d->engram_dim}};
    static const char *const sizes[] = {"N0", "N1", "N2", "N3", "N4", "N5", "N6", "N7"};
    struct hd_symbol *all = hd_arena_alloc(&m->arena, sizeof sym + sizeof sizes / sizeof sizes[0] * sizeof *all);

    if (!all)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    memcpy(all, sym, sizeof sym);
    for (int i = 0; i < HD_LEN(sizes); i++)
        all[HD_LEN(sym) + i] = (struct hd_symbol){sizes[i], d->engram_rows[i]};
    set_aside(&m->store);
    d->list = (struct hd_weight_list){.row = rows, .n_row = HD_LEN(rows), .sym = all, .n_sym = HD_LEN(sym) + HD_LEN(sizes), .n_layer = d->n_layer, .globals = d,
                                      .layers = d->layer, .layer_bytes = sizeof *d->layer, .prefix = "layers.%d.", .n_expert = d->moe.gate.n_expert, .exists = exists,
                                      .arg = d};
    return hd_bind(&m->store, &d->list, &m->arena, m->planned, err);
}

static int set_cache(struct hd_model *m, struct v41 *d, struct hd_err *err)
{
    struct hd_cache_part *part = hd_arena_zalloc(&m->arena, (size_t)(HD_CSA2_PARTS * d->n_layer + 1) * sizeof *part);
    int n = 0;

    if (!part)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the cache's description", m->store.path);
    for (int64_t i = 0; i < d->n_layer; i++) {
        d->plan[i].part0 = n;
        n += hd_csa2_parts(&d->attn, &d->plan[i], (int)i, part + n);
    }
    d->part_ngram = n;
    if (d->n_engram)
        part[n++] = (struct hd_cache_part){.name = "n-grams", .kind = HD_PART_WINDOW, .type = HD_I32, .row_len = 1, .ratio = 1, .window = (int)d->engram_order, .slack = 64};
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
    HD_TRY(make_hashes(m, d, err));
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

static void prepare(struct hd_stream *s, const struct v41 *d, const struct hd_ragged *b, struct hd_csa2_step *st)
{
    int64_t rd = d->attn.rope_dim;

    *st = (struct hd_csa2_step){.b = b};
    st->rope = hd_new(s, HD_F32, b->n_tok, rd);
    st->rope_comp = hd_new(s, HD_F32, b->n_tok, rd);
    hd_rope_table(s, st->rope, b, &d->inv_freq, 1);
    hd_rope_table(s, st->rope_comp, b, &d->inv_freq_comp, 1);
    for (int k = 0; k < 2 && d->ratios[k]; k++) {
        st->ratio[k] = d->ratios[k];
        st->e[k] = hd_entries(s, b, d->ratios[k]);
        st->rope_e[k] = hd_new(s, HD_F32, st->e[k]->n_tok, rd);
        hd_rope_table(s, st->rope_e[k], st->e[k], &d->inv_freq_comp, 1);
    }
    st->sel = hd_new(s, HD_I32, b->n_tok, 2 * d->attn.index_top_k);
    if (d->attn.cand_source >= 0)
        st->cand = hd_new(s, HD_I32, b->n_tok, 2 * d->attn.n_cand);
}

/* Looks the n-grams of every token up and lets what is found into the streams. */
static void engram(struct hd_stream *s, const struct v41 *d, const struct hd_ragged *b, int64_t layer, struct hd_tensor *x, struct hd_tensor *class)
{
    const struct layer *l = &d->layer[layer];
    int64_t n = d->engram_order * d->engram_heads, C = d->mhc.n_hc;
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *rows_of = hd_new(s, HD_I32, b->n_tok, n), *e = hd_new(s, HD_F32, b->n_tok, n * d->engram_dim), *kv = hd_new(s, HD_F32, b->n_tok, (C + 1) * d->d_model);

    hd_ngram_rows(s, rows_of, class, b, d->part_ngram, &d->ngram[l->engram_index]);
    hd_table(s, e, rows_of, &l->engram.embed);
    hd_trace(s, e, "layers.%d.engram.embed", (int)layer);
    hd_linear(s, kv, e, &l->engram.wkv, d->attn.act_block);
    hd_engram(s, x, kv, &l->engram.q_weight, &l->engram.k_weight, C, d->norm_eps);
    hd_bf16(s, x);
    hd_trace(s, x, "layers.%d.engram.stream", (int)layer);
    hd_stream_rewind(s, mark);
}

static struct hd_tensor *forward(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, const int32_t *out_rows, int64_t n_out)
{
    const struct v41 *d = m->impl;
    int64_t n = b->n_tok, hc = d->mhc.n_hc, D = d->d_model;
    struct hd_tensor *logits = hd_new(s, HD_F32, n_out, d->n_vocab), *x = hd_new(s, HD_F32, n, hc * D), *u = hd_new(s, HD_F32, n, D), *y = hd_new(s, HD_F32, n, D);
    struct hd_tensor *mix_a = hd_new(s, HD_F32, n, hc * (2 + hc)), *mix_f = hd_new(s, HD_F32, n, hc * (2 + hc)), *class = hd_new(s, HD_I32, n, 1), *last;
    struct hd_csa2_step st;

    hd_embed(s, u, &d->embed, b);
    hd_trace(s, u, "embed");
    hd_copies(s, x, u);
    prepare(s, d, b, &st);
    for (int64_t i = 0; i < d->n_layer; i++) {
        const struct layer *l = &d->layer[i];

        if (l->engram_index >= 0)
            engram(s, d, b, i, x, class);
        hd_mhc_mix(s, mix_a, x, &l->hc_attn.fn, &l->hc_attn.base, &l->hc_attn.scale, &d->mhc);
        hd_mhc_pre(s, u, x, i ? mix_f : NULL, hc);
        hd_bf16(s, u);
        hd_trace(s, u, "layers.%d.attn_in", (int)i);
        hd_rmsnorm(s, u, u, &l->attn_norm, d->norm_eps);
        hd_bf16(s, u);
        hd_attn_csa2(s, &d->attn, &l->attn, d->plan, (int)i, &st, u, y);
        hd_mhc_post(s, x, y, mix_a, hc);
        hd_bf16(s, x);
        hd_trace(s, x, "layers.%d.stream_attn", (int)i);
        hd_mhc_mix(s, mix_f, x, &l->hc_ffn.fn, &l->hc_ffn.base, &l->hc_ffn.scale, &d->mhc);
        hd_mhc_pre(s, u, x, mix_a, hc);
        hd_bf16(s, u);
        hd_rmsnorm(s, u, u, &l->ffn_norm, d->norm_eps);
        hd_bf16(s, u);
        hd_trace(s, u, "layers.%d.ffn_norm", (int)i);
        hd_moe_block(s, &d->moe, &l->ffn, b, u, y, (int)i);
        hd_mhc_post(s, x, y, mix_f, hc);
        hd_bf16(s, x);
        hd_trace(s, x, "layers.%d.stream", (int)i);
    }
    if (d->n_engram)
        hd_ring_put(s, class, b, d->part_ngram);
    if (n_out == 0)
        return logits;
    hd_mhc_pre(s, u, x, mix_f, hc);
    last = hd_new(s, HD_F32, n_out, D);
    hd_gather(s, last, u, out_rows);
    hd_bf16(s, last);
    hd_trace(s, last, "final.y");
    hd_rmsnorm(s, last, last, &d->norm, d->norm_eps);
    hd_bf16(s, last);
    hd_trace(s, last, "final.norm");
    hd_matmul(s, logits, last, &d->head);
    hd_trace(s, logits, "logits");
    return logits;
}

static void each_weight(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    hd_bind_each(&((const struct v41 *)m->impl)->list, fn, arg);
}

static int64_t n_idle(const struct hd_model *m)
{
    const struct v41 *d = m->impl;
    int64_t idle = d->n_layer * (d->moe.gate.n_expert - d->moe.gate.n_used) * 3 * d->d_model * d->d_expert;

    for (int64_t i = 0; i < d->n_engram; i++)
        idle += (d->engram_rows[i] - d->engram_order * d->engram_heads) * d->engram_dim;
    return idle;
}

const struct hd_arch hd_arch_deepseek_v41 = {
    .name = "deepseek_v41", .gguf_name = "", .load = load, .forward = forward, .each_weight = each_weight, .n_idle = n_idle, .take_classes = take_classes};
