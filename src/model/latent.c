/* latent.c: see latent.h. */
#include "model/latent.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops/learn.h"

#define LAYER_MAX 1024
#define DIM_MAX ((int64_t)1 << 24)

#define G(f) offsetof(struct hd_latent, f)
#define L(f) offsetof(struct hd_latent_layer, f)
#define M HD_W_MATRIX
#define V HD_W_VECTOR

/* Names as Hugging Face stores them, and as DeepSeek's convert.py renames them. */
#define ATTN(hf, own) "model.layers.%d.self_attn." hf "|layers.%d.attn." own
#define MLP(hf, own) "model.layers.%d.mlp." hf "|layers.%d.ffn." own
#define BLK(gguf) "blk.%d." gguf

#define N_GLOBAL 3                    /* rows before the layers' */
static const struct hd_weight_row rows[] = {
    {G(embed), M, HD_W_GLOBAL, "model.embed_tokens.weight|embed.weight", "token_embd.weight", "V,D", NULL},
    {G(norm), V, HD_W_GLOBAL, "model.norm.weight|norm.weight", "output_norm.weight", "D", NULL},
    {G(head), M, HD_W_GLOBAL | HD_W_OPTIONAL, "lm_head.weight|head.weight", "output.weight", "V,D", NULL},
    {L(attn_norm), V, 0, "model.layers.%d.input_layernorm.weight|layers.%d.attn_norm.weight", BLK("attn_norm.weight"), "D", NULL},
    {L(ffn_norm), V, 0, "model.layers.%d.post_attention_layernorm.weight|layers.%d.ffn_norm.weight", BLK("ffn_norm.weight"), "D", NULL},
    {L(attn.q), M, HD_W_FP8, ATTN("q_proj.weight", "wq.weight"), BLK("attn_q.weight"), "H*Dq,D", "q"},
    {L(attn.q_a), M, HD_W_FP8, ATTN("q_a_proj.weight", "wq_a.weight"), BLK("attn_q_a.weight"), "Rq,D", "q_rank"},
    {L(attn.q_a_bias), V, 0, ATTN("q_a_proj.bias", "wq_a.bias"), NULL, "Rq", "q_bias"},
    {L(attn.q_norm), V, 0, ATTN("q_a_layernorm.weight", "q_norm.weight"), BLK("attn_q_a_norm.weight"), "Rq", "q_rank"},
    {L(attn.q_b), M, HD_W_FP8, ATTN("q_b_proj.weight", "wq_b.weight"), BLK("attn_q_b.weight"), "H*Dq,Rq", "q_rank"},
    {L(attn.kv_a), M, HD_W_FP8, ATTN("kv_a_proj_with_mqa.weight", "wkv_a.weight"), BLK("attn_kv_a_mqa.weight"), "Wide,D", NULL},
    {L(attn.kv_a_bias), V, 0, ATTN("kv_a_proj_with_mqa.bias", "wkv_a.bias"), NULL, "Wide", "bias"},
    {L(attn.kv_norm), V, 0, ATTN("kv_a_layernorm.weight", "kv_norm.weight"), BLK("attn_kv_a_norm.weight"), "Rkv", NULL},
    {L(attn.kv_b), M, HD_W_FP8, ATTN("kv_b_proj.weight", "wkv_b.weight"), BLK("attn_kv_b.weight"), "H*Dkv,Rkv", "kv_b"},
    {L(attn.k_b), M, 0, NULL, BLK("attn_k_b.weight"), "H,Rkv,Dn", "k_b"},
    {L(attn.v_b), M, 0, NULL, BLK("attn_v_b.weight"), "H,Dv,Rkv", "k_b"},
    {L(attn.o), M, HD_W_FP8, ATTN("o_proj.weight", "wo.weight"), BLK("attn_output.weight"), "D,H*Dv", NULL},
    {L(attn.o_bias), V, 0, ATTN("o_proj.bias", "wo.bias"), NULL, "D", "bias"},
    {L(attn.index_q_b), M, HD_W_FP8, ATTN("indexer.wq_b.weight", "indexer.wq_b.weight"), BLK("indexer.attn_q_b.weight"), "Ih*Id,Rq", "index"},
    {L(attn.index_k), M, HD_W_FP8, ATTN("indexer.wk.weight", "indexer.wk.weight"), BLK("indexer.attn_k.weight"), "Id,D", "index"},
    {L(attn.index_k_norm), V, 0, ATTN("indexer.k_norm.weight", "indexer.k_norm.weight"), BLK("indexer.k_norm.weight"), "Id", "index"},
    {L(attn.index_k_bias), V, 0, ATTN("indexer.k_norm.bias", "indexer.k_norm.bias"), BLK("indexer.k_norm.bias"), "Id", "index"},
    {L(attn.index_weights), M, 0, ATTN("indexer.weights_proj.weight", "indexer.weights_proj.weight"), BLK("indexer.proj.weight"), "Ih,D", "index"},
    {L(ffn.gate), M, HD_W_FP8, MLP("gate_proj.weight", "w1.weight"), BLK("ffn_gate.weight"), "F,D", "dense"},
    {L(ffn.up), M, HD_W_FP8, MLP("up_proj.weight", "w3.weight"), BLK("ffn_up.weight"), "F,D", "dense"},
    {L(ffn.down), M, HD_W_FP8, MLP("down_proj.weight", "w2.weight"), BLK("ffn_down.weight"), "D,F", "dense"},
    {L(moe.gate_inp), M, 0, MLP("gate.weight", "gate.weight"), BLK("ffn_gate_inp.weight"), "E,D", "moe"},
    {L(moe.gate_bias), V, 0, MLP("gate.e_score_correction_bias", "gate.bias"), BLK("exp_probs_b.bias"), "E", "gate_bias"},
    {L(moe.gate), M, HD_W_EXPERT, MLP("experts.%d.gate_proj.weight", "experts.%d.w1.weight"), BLK("ffn_gate_exps.weight"), "Fe,D", "split"},
    {L(moe.up), M, HD_W_EXPERT, MLP("experts.%d.up_proj.weight", "experts.%d.w3.weight"), BLK("ffn_up_exps.weight"), "Fe,D", "split"},
    {L(moe.down), M, HD_W_EXPERT, MLP("experts.%d.down_proj.weight", "experts.%d.w2.weight"), BLK("ffn_down_exps.weight"), "D,Fe", "split"},
    {L(gate_up_exps), M, 0, "model.layers.%d.mlp.experts.gate_up_proj", BLK("ffn_gate_up_exps.weight"), "E,2*Fe,D", "fused"},
    {L(down_exps), M, 0, "model.layers.%d.mlp.experts.down_proj", BLK("ffn_down_exps.weight"), "E,D,Fe", "fused"},
    {L(moe.sh_gate), M, HD_W_FP8, MLP("shared_experts.gate_proj.weight", "shared_experts.w1.weight"), BLK("ffn_gate_shexp.weight"), "Fs,D", "shared"},
    {L(moe.sh_up), M, HD_W_FP8, MLP("shared_experts.up_proj.weight", "shared_experts.w3.weight"), BLK("ffn_up_shexp.weight"), "Fs,D", "shared"},
    {L(moe.sh_down), M, HD_W_FP8, MLP("shared_experts.down_proj.weight", "shared_experts.w2.weight"), BLK("ffn_down_shexp.weight"), "D,Fs", "shared"},
    {0, V, HD_W_STORED_ONLY, "model.layers.%d.self_attn.rotary_emb.inv_freq", BLK("attn_rot_embd.weight"), "", NULL},
    {0, V, HD_W_STORED_ONLY | HD_W_GLOBAL, NULL, "rope_freqs.weight", "", NULL},
    {0, M, HD_W_STORED_ONLY, NULL, BLK("attn_kv_b.weight"), "", NULL},      /* beside its halves, in some files */
};

static bool exists(const void *arg, const char *when, int64_t layer)
{
    const struct hd_latent *d = arg;
    bool dense = d->layer[layer].dense;
    struct {
        const char *when;
        bool holds;
    } all[] = {{"q", !d->attn.q_rank},
               {"q_rank", d->attn.q_rank > 0},
               {"q_bias", d->attn.q_rank > 0 && d->attn_bias},
               {"bias", d->attn_bias},
               {"kv_b", !d->kv_halves},
               {"k_b", d->kv_halves},
               {"index", d->attn.index_heads > 0},
               {"dense", dense},
               {"moe", !dense},
               {"gate_bias", !dense && d->gate_bias},
               {"split", !dense && !d->fused},
               {"fused", !dense && d->fused},
               {"shared", !dense && d->n_shared > 0}};

    for (int i = 0; i < HD_LEN(all); i++)
        if (!strcmp(all[i].when, when))
            return all[i].holds;
    return false;
}

static int read_config(struct hd_model *m, struct hd_latent *d, int64_t *n_ctx, struct hd_err *err)
{
    const json_t *c = m->store.config;
    const char *f = m->store.config_path, *act;
    struct hd_mla_hp *a = &d->attn;
    struct hd_gate_hp *g = &d->moe.gate;
    double eps, scale;

    HD_TRY(hd_json_int(c, "num_hidden_layers", 1, LAYER_MAX, &d->n_layer, f, err));
    HD_TRY(hd_json_int(c, "hidden_size", 1, DIM_MAX, &d->d_model, f, err));
    HD_TRY(hd_json_int(c, "vocab_size", 1, DIM_MAX, &d->n_vocab, f, err));
    HD_TRY(hd_json_int(c, "intermediate_size", 1, DIM_MAX, &d->d_ff, f, err));
    HD_TRY(hd_json_int_or(c, "moe_intermediate_size", 1, DIM_MAX, d->d_ff, &d->d_expert, f, err));
    HD_TRY(hd_mla_config(a, c, f, err));
    a->native = m->kv == HD_KV_NATIVE || m->kv == HD_KV_F16 || (m->kv == HD_KV_AUTO && hd_store_quantised(&m->store));
    HD_TRY(hd_json_int_or(c, "num_nextn_predict_layers", 0, 1024, 0, &d->n_mtp, f, err));
    if (m->wants_learn && d->n_mtp > 1)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: num_nextn_predict_layers: found %lld; expected at most 1 to train", f, (long long)d->n_mtp);
    HD_TRY(hd_json_int_or(c, "n_routed_experts", 1, 4096, 1, &g->n_expert, f, err));
    HD_TRY(hd_json_int_or(c, "num_experts_per_tok", 1, 64, 1, &g->n_used, f, err));
    HD_TRY(hd_json_int_or(c, "n_shared_experts", 0, 64, 0, &d->n_shared, f, err));
    HD_TRY(hd_json_int_or(c, "n_group", 1, 4096, 1, &g->n_group, f, err));
    HD_TRY(hd_json_int_or(c, "topk_group", 1, 4096, 1, &g->n_group_used, f, err));
    HD_TRY(hd_json_real_or(c, "routed_scaling_factor", 0, 1e6, 1, &scale, f, err));
    HD_TRY(hd_json_real_or(c, "rms_norm_eps", 0, 1, 1e-6, &eps, f, err));
    HD_TRY(hd_json_bool_or(c, "attention_bias", false, &d->attn_bias, f, err));
    HD_TRY(hd_json_bool_or(c, "tie_word_embeddings", false, &d->tied, f, err));
    HD_TRY(hd_json_str_or(c, "hidden_act", "silu", &act, f, err));
    HD_TRY(hd_json_int_or(c, "max_position_embeddings", 1, (int64_t)1 << 30, 163840, n_ctx, f, err));
    if (strcmp(act, "silu"))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: hidden_act: found \"%s\"; expected silu", f, act);
    if (g->n_used > g->n_expert || g->n_expert % g->n_group || g->n_group_used > g->n_group || g->n_used > g->n_expert / g->n_group * g->n_group_used)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: num_experts_per_tok: found %lld of %lld experts in %lld groups, %lld of them used", f, (long long)g->n_used,
                          (long long)g->n_expert, (long long)g->n_group, (long long)g->n_group_used);
    d->norm_eps = (float)eps;
    g->scale = (float)scale;
    g->temp = 1;
    d->moe.moe.n_expert = g->n_expert;
    d->rope.dim = a->rope_dim;
    HD_TRY(hd_rope_config(&d->rope, c, *n_ctx, f, err));
    hd_mla_stretch(a, &d->rope);
    return HD_OK;
}

int hd_latent_config(struct hd_model *m, struct hd_latent **out, struct hd_err *err)
{
    struct hd_latent *d = hd_arena_zalloc(&m->arena, sizeof *d);
    const json_t *types = m->store.config ? json_object_get(m->store.config, "mlp_layer_types") : NULL;
    const char *f = m->store.config_path;
    int64_t n_ctx, first, every;

    if (!d)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", f);
    HD_TRY(read_config(m, d, &n_ctx, err));
    HD_TRY(hd_json_int_or(m->store.config, "first_k_dense_replace", 0, LAYER_MAX, 0, &first, f, err));
    HD_TRY(hd_json_int_or(m->store.config, "moe_layer_freq", 1, LAYER_MAX, 1, &every, f, err));
    if (!(d->layer = hd_arena_zalloc(&m->arena, (size_t)(d->n_layer + 1) * sizeof *d->layer)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld layers", f, (long long)d->n_layer);
    for (int64_t i = 0; i < d->n_layer; i++) {
        const char *t = json_string_value(json_array_get(types, (size_t)i));

        d->layer[i].dense = t ? !strcmp(t, "dense") : i < first || i % every;
    }
    m->hp = (struct hd_hparams){d->n_layer, d->d_model, d->n_vocab, n_ctx};
    m->impl = d;
    *out = d;
    return HD_OK;
}

/* Draft modules lie behind the last layer: known, and left alone. */
static void set_aside(struct hd_store *st, int64_t n_layer)
{
    for (size_t i = 0; i < st->n_entry; i++) {
        const char *p = st->entry[i].name.p;
        long long k;

        if ((sscanf(p, "model.layers.%lld.", &k) == 1 || sscanf(p, "layers.%lld.", &k) == 1) && k >= n_layer && k < n_layer + 8)
            st->entry[i].used = true;
    }
}

static int split_experts(struct hd_model *m, struct hd_latent *d, struct hd_err *err)
{
    for (int64_t i = 0; i < d->n_layer && d->fused; i++) {
        struct hd_latent_layer *l = &d->layer[i];
        struct hd_tensor *t;

        if (l->dense)
            continue;
        if (l->gate_up_exps.scale.data || l->down_exps.scale.data)
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: layer %lld: experts in one quantised matrix; expected float ones, or a matrix per expert", m->store.path, (long long)i);
        if (!(t = hd_arena_zalloc(&m->arena, (size_t)(3 * d->moe.gate.n_expert) * sizeof *t)))
            return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld experts", m->store.path, (long long)d->moe.gate.n_expert);
        hd_moe_split(&l->moe, &l->gate_up_exps, &l->down_exps, t);
    }
    return HD_OK;
}

int hd_latent_bind(struct hd_model *m, struct hd_latent *d, struct hd_err *err)
{
    struct hd_mla_hp *a = &d->attn;
    struct hd_symbol sym[] = {{"V", d->n_vocab}, {"D", d->d_model}, {"F", d->d_ff}, {"Fe", d->d_expert}, {"Fs", d->n_shared * d->d_expert}, {"E", d->moe.gate.n_expert},
                              {"H", a->n_head}, {"Dq", a->nope_dim + a->rope_dim}, {"Dkv", a->nope_dim + a->v_dim}, {"Dv", a->v_dim}, {"Dn", a->nope_dim}, {"Rq", a->q_rank},
                              {"Rkv", a->kv_rank}, {"Wide", a->kv_rank + a->rope_dim}, {"Ih", a->index_heads}, {"Id", a->index_dim}};
    struct hd_cache_part *part = hd_arena_zalloc(&m->arena, (size_t)(HD_MLA_PARTS * d->n_layer + HD_LATENT_MTP_PARTS) * sizeof *part);
    float *f = hd_arena_alloc(&m->arena, (size_t)(a->rope_dim / 2) * sizeof *f);
    char name[96];
    int n = 0;

    if (!part || !f)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    _Static_assert(sizeof sym <= sizeof d->sym, "room for every symbol");
    memcpy(d->sym, sym, sizeof sym);
    for (int64_t i = 0; i < d->n_layer && !d->fused; i++) {
        snprintf(name, sizeof name, m->store.kind == HD_STORE_GGUF ? "blk.%d.ffn_gate_up_exps.weight" : "model.layers.%d.mlp.experts.gate_up_proj", (int)i);
        d->fused = hd_store_find(&m->store, name) != NULL;
    }
    d->kv_halves = hd_store_find(&m->store, "blk.0.attn_k_b.weight") != NULL;
    d->list[0] = (struct hd_weight_list){.row = rows, .n_row = HD_LEN(rows), .sym = d->sym, .n_sym = HD_LEN(sym), .n_layer = d->n_layer, .globals = d, .layers = d->layer,
                                      .layer_bytes = sizeof *d->layer, .n_expert = d->moe.gate.n_expert, .exists = exists, .arg = d};
    m->draft_learns = m->wants_learn && (m->planned ? d->n_mtp > 0 : hd_latent_has_mtp(m, d->n_layer));
    if (m->draft_learns || (m->wants_draft && hd_latent_has_mtp(m, d->n_layer)))
        HD_TRY(hd_latent_mtp_list(m, d, rows + N_GLOBAL, HD_LEN(rows) - N_GLOBAL, err));
    set_aside(&m->store, d->n_layer + d->list[1].n_layer);
    HD_TRY(hd_bind_lists(&m->store, d->list, 2, &m->arena, m->planned, err));
    if (!d->head.n_dim) {
        if (!d->tied && !m->planned)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: lm_head.weight is missing, and tie_word_embeddings is false", m->store.path);
        if (!d->tied) {
            d->head = d->embed;
            d->head.name = "lm_head.weight";
        }
    } else if (d->tied) {
        memset(&d->head, 0, sizeof d->head);
    }
    HD_TRY(split_experts(m, d, err));
    hd_rope_freqs(&d->rope, f, &d->rope_scale);
    d->inv_freq = hd_view1(HD_F32, f, a->rope_dim / 2);
    for (int64_t i = 0; i < d->n_layer; i++) {
        d->layer[i].part0 = n;
        n += hd_mla_parts(a, (int)i, part + n);
    }
    if (m->draft.depth || m->draft_learns)
        n += hd_latent_mtp_parts(d, n, part + n);
    m->spec = (struct hd_cache_spec){n, part};
    return HD_OK;
}

void hd_latent_layer_run(struct hd_stream *s, const struct hd_latent *d, int layer, const struct hd_ragged *b, const struct hd_tensor *rope, struct hd_tensor *z,
                         struct hd_tensor *u, struct hd_tensor *y)
{
    const struct hd_latent_layer *l = &d->layer[layer];

    hd_layer_begin(s, z);
    hd_rmsnorm(s, u, z, &l->attn_norm, d->norm_eps);
    if (!l->dense)
        hd_moe_guess(s, &d->moe, &l->moe, b, u);
    hd_attn_mla(s, &d->attn, &l->attn, b, rope, l->part0, u, y, layer);
    hd_add(s, z, z, y);
    hd_rmsnorm(s, u, z, &l->ffn_norm, d->norm_eps);
    if (l->dense)
        hd_ffn(s, &l->ffn, u, y);
    else
        hd_moe_block(s, &d->moe, &l->moe, layer + 1 < d->n_layer && !l[1].dense ? &l[1].moe : NULL, b, u, y, layer);
    hd_add(s, z, z, y);
    hd_trace(s, z, "layers.%d.out", layer);
    hd_layer_end(s);
}

struct hd_tensor *hd_latent_forward(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, const int32_t *out_rows, int64_t n_out)
{
    const struct hd_latent *d = m->impl;
    int64_t n = b->n_tok, D = d->d_model;
    struct hd_tensor *logits = hd_logits_new(s, n_out, d->n_vocab), *x = hd_new(s, HD_F32, n, D), *u = hd_new(s, HD_F32, n, D), *y = hd_new(s, HD_F32, n, D);
    struct hd_tensor *rope = hd_new(s, HD_F32, n, d->attn.rope_dim), *last;

    hd_embed(s, x, &d->embed, b);
    hd_trace(s, x, "embed");
    hd_rope_table(s, rope, b, &d->inv_freq, d->rope_scale);
    for (int64_t i = 0; i < d->n_layer; i++)
        hd_latent_layer_run(s, d, (int)i, b, rope, x, u, y);
    if (m->draft.depth)
        hd_mtp_keep(s, &d->mtp, b, x);
    if (m->draft_learns && hd_learns(s, HD_LEARN_DRAFT))
        hd_mtp_learn(s, &d->mtp, b, x);
    if (n_out == 0)
        return logits;
    last = hd_new(s, HD_F32, n_out, D);
    hd_gather(s, last, x, out_rows);
    hd_rmsnorm(s, last, last, &d->norm, d->norm_eps);
    hd_trace(s, last, "norm");
    hd_logits(s, logits, last, d->head.n_dim ? &d->head : &d->embed);
    hd_trace(s, logits, "logits");
    return logits;
}

void hd_latent_each_weight(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    hd_bind_each(&((const struct hd_latent *)m->impl)->list[0], fn, arg);
}

int64_t hd_latent_idle(const struct hd_model *m)
{
    const struct hd_latent *d = m->impl;
    int64_t n = 0;

    for (int64_t i = 0; i < d->n_layer; i++)
        n += !d->layer[i].dense;
    return (d->n_vocab - 1) * d->d_model * (d->head.n_dim > 0) + n * (d->moe.gate.n_expert - d->moe.gate.n_used) * 3 * d->d_model * d->d_expert;
}
