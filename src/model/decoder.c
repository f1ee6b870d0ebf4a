/* decoder.c: see decoder.h. */
#include "model/decoder.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define L(f) offsetof(struct hd_decoder_layer, f)
#define G(f) offsetof(struct hd_decoder, f)

const struct hd_weight_row hd_decoder_rows[] = {
    {G(token_embd), HD_W_MATRIX, HD_W_GLOBAL, "model.embed_tokens.weight", "token_embd.weight", "V,D", NULL},
    {G(output_norm), HD_W_VECTOR, HD_W_GLOBAL, "model.norm.weight", "output_norm.weight", "D", NULL},
    {G(output), HD_W_MATRIX, HD_W_GLOBAL | HD_W_OPTIONAL, "lm_head.weight", "output.weight", "V,D", NULL},
    {G(rope_div), HD_W_VECTOR, HD_W_GLOBAL | HD_W_OPTIONAL, NULL, "rope_freqs.weight", "Dr", NULL},
    {L(attn_norm), HD_W_VECTOR, 0, "model.layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight", "D", NULL},
    {L(attn.q), HD_W_MATRIX, 0, "model.layers.%d.self_attn.q_proj.weight", "blk.%d.attn_q.weight", "H*Dh,D", NULL},
    {L(attn.q_bias), HD_W_VECTOR, 0, "model.layers.%d.self_attn.q_proj.bias", "blk.%d.attn_q.bias", "H*Dh", "q_bias"},
    {L(attn.k), HD_W_MATRIX, 0, "model.layers.%d.self_attn.k_proj.weight", "blk.%d.attn_k.weight", "G*Dh,D", NULL},
    {L(attn.k_bias), HD_W_VECTOR, 0, "model.layers.%d.self_attn.k_proj.bias", "blk.%d.attn_k.bias", "G*Dh", "q_bias"},
    {L(attn.v), HD_W_MATRIX, 0, "model.layers.%d.self_attn.v_proj.weight", "blk.%d.attn_v.weight", "G*Dh,D", NULL},
    {L(attn.v_bias), HD_W_VECTOR, 0, "model.layers.%d.self_attn.v_proj.bias", "blk.%d.attn_v.bias", "G*Dh", "q_bias"},
    {L(attn.o), HD_W_MATRIX, 0, "model.layers.%d.self_attn.o_proj.weight", "blk.%d.attn_output.weight", "D,H*Dh", NULL},
    {L(attn.o_bias), HD_W_VECTOR, 0, "model.layers.%d.self_attn.o_proj.bias", "blk.%d.attn_output.bias", "D", "o_bias"},
    {L(ffn_norm), HD_W_VECTOR, 0, "model.layers.%d.post_attention_layernorm.weight", "blk.%d.ffn_norm.weight", "D", NULL},
    {L(ffn.gate), HD_W_MATRIX, 0, "model.layers.%d.mlp.gate_proj.weight", "blk.%d.ffn_gate.weight", "F,D", NULL},
    {L(ffn.gate_bias), HD_W_VECTOR, 0, "model.layers.%d.mlp.gate_proj.bias", "blk.%d.ffn_gate.bias", "F", "ffn_bias"},
    {L(ffn.up), HD_W_MATRIX, 0, "model.layers.%d.mlp.up_proj.weight", "blk.%d.ffn_up.weight", "F,D", NULL},
    {L(ffn.up_bias), HD_W_VECTOR, 0, "model.layers.%d.mlp.up_proj.bias", "blk.%d.ffn_up.bias", "F", "ffn_bias"},
    {L(ffn.down), HD_W_MATRIX, 0, "model.layers.%d.mlp.down_proj.weight", "blk.%d.ffn_down.weight", "D,F", NULL},
    {L(ffn.down_bias), HD_W_VECTOR, 0, "model.layers.%d.mlp.down_proj.bias", "blk.%d.ffn_down.bias", "D", "ffn_bias"},
    {0, HD_W_VECTOR, HD_W_STORED_ONLY, "model.layers.%d.self_attn.rotary_emb.inv_freq", "blk.%d.attn_rot_embd", "", NULL},
    {0, HD_W_VECTOR, HD_W_STORED_ONLY | HD_W_GLOBAL, "model.rotary_emb.inv_freq", "rope_freqs", "", NULL},
};
const int hd_decoder_n_row = HD_LEN(hd_decoder_rows);

#define DIM_MAX ((int64_t)1 << 24)
#define LAYER_MAX 4096

static int config_json(const struct hd_model *m, struct hd_decoder *d, int64_t *n_ctx, struct hd_err *err)
{
    const json_t *c = m->store.config;
    const char *file = m->store.config_path, *act;
    double eps;
    int64_t head_dim;
    bool tied;

    HD_TRY(hd_json_int(c, "num_hidden_layers", 1, LAYER_MAX, &d->n_layer, file, err));
    HD_TRY(hd_json_int(c, "hidden_size", 1, DIM_MAX, &d->d_model, file, err));
    HD_TRY(hd_json_int(c, "intermediate_size", 1, DIM_MAX, &d->d_ff, file, err));
    HD_TRY(hd_json_int(c, "vocab_size", 1, DIM_MAX, &d->n_vocab, file, err));
    HD_TRY(hd_json_int(c, "num_attention_heads", 1, 65536, &d->attn.n_head, file, err));
    HD_TRY(hd_json_int_or(c, "num_key_value_heads", 1, 65536, d->attn.n_head, &d->attn.n_kv_head, file, err));
    HD_TRY(hd_json_int_or(c, "max_position_embeddings", 1, (int64_t)1 << 30, 2048, n_ctx, file, err));
    HD_TRY(hd_json_real_or(c, "rms_norm_eps", 0, 1, 1e-6, &eps, file, err));
    HD_TRY(hd_json_str_or(c, "hidden_act", "silu", &act, file, err));
    HD_TRY(hd_json_bool_or(c, "tie_word_embeddings", false, &tied, file, err));
    if (strcmp(act, "silu") && strcmp(act, "swish"))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: hidden_act: found \"%s\"; expected silu", file, act);
    if (!json_is_integer(json_object_get(c, "head_dim")) && d->d_model % d->attn.n_head)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: hidden_size %lld is no multiple of num_attention_heads %lld, and head_dim is absent", file,
                          (long long)d->d_model, (long long)d->attn.n_head);
    HD_TRY(hd_json_int_or(c, "head_dim", 1, 65536, d->d_model / d->attn.n_head, &head_dim, file, err));
    d->attn.head_dim = head_dim;
    d->norm_eps = (float)eps;
    d->tied = tied;
    d->rope.dim = head_dim;
    return hd_rope_config(&d->rope, c, *n_ctx, file, err);
}

static const char *key(char buf[160], const struct hd_model *m, const char *suffix)
{
    snprintf(buf, 160, "%s.%s", m->arch->name, suffix);
    return buf;
}

static int config_gguf(const struct hd_model *m, struct hd_decoder *d, int64_t *n_ctx, struct hd_err *err)
{
    const struct hd_store *st = &m->store;
    const struct hd_entry *embd = hd_store_find(st, "token_embd.weight");
    const struct hd_gguf_kv *tokens = hd_gguf_find(st, "tokenizer.ggml.tokens");
    int64_t dflt, v_dim;
    struct hd_view type;
    char k[160];
    double eps;

    HD_TRY(hd_gguf_int(st, key(k, m, "block_count"), 1, LAYER_MAX, &d->n_layer, err));
    HD_TRY(hd_gguf_int(st, key(k, m, "embedding_length"), 1, DIM_MAX, &d->d_model, err));
    HD_TRY(hd_gguf_int(st, key(k, m, "feed_forward_length"), 1, DIM_MAX, &d->d_ff, err));
    HD_TRY(hd_gguf_int(st, key(k, m, "attention.head_count"), 1, 65536, &d->attn.n_head, err));
    HD_TRY(hd_gguf_int_or(st, key(k, m, "attention.head_count_kv"), 1, 65536, d->attn.n_head, &d->attn.n_kv_head, err));
    HD_TRY(hd_gguf_int_or(st, key(k, m, "context_length"), 1, (int64_t)1 << 30, 2048, n_ctx, err));
    HD_TRY(hd_gguf_real_or(st, key(k, m, "attention.layer_norm_rms_epsilon"), 0, 1, 1e-6, &eps, err));
    dflt = d->d_model / d->attn.n_head;
    HD_TRY(hd_gguf_int_or(st, key(k, m, "attention.key_length"), 1, 65536, dflt > 0 ? dflt : 1, &d->attn.head_dim, err));
    HD_TRY(hd_gguf_int_or(st, key(k, m, "attention.value_length"), 1, 65536, d->attn.head_dim, &v_dim, err));
    if (v_dim != d->attn.head_dim)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: found %lld; expected the key length %lld", key(k, m, "attention.value_length"), (long long)v_dim,
                          (long long)d->attn.head_dim);
    dflt = embd && embd->n_dim == 2 ? embd->dim[0] : tokens && tokens->n > 0 && tokens->n < (uint64_t)DIM_MAX ? (int64_t)tokens->n : 1;
    HD_TRY(hd_gguf_int_or(st, key(k, m, "vocab_size"), 1, DIM_MAX, dflt, &d->n_vocab, err));
    HD_TRY(hd_gguf_int_or(st, key(k, m, "rope.dimension_count"), 1, 65536, d->attn.head_dim, &d->rope.dim, err));
    HD_TRY(hd_gguf_real_or(st, key(k, m, "rope.freq_base"), 1, 1e12, 10000, &d->rope.theta, err));
    HD_TRY(hd_gguf_real_or(st, key(k, m, "rope.scaling.factor"), 1e-3, 1e6, 1, &d->rope.factor, err));
    HD_TRY(hd_gguf_int_or(st, key(k, m, "rope.scaling.original_context_length"), 1, (int64_t)1 << 40, *n_ctx, &d->rope.n_ctx_orig, err));
    d->rope.kind = HD_ROPE_DEFAULT;
    d->rope.beta_fast = 32;
    d->rope.beta_slow = 1;
    d->rope.truncate = true;
    if (hd_gguf_str(st, key(k, m, "rope.scaling.type"), &type)) {
        if (hd_view_is(type, "linear"))
            d->rope.kind = HD_ROPE_LINEAR;
        else if (hd_view_is(type, "yarn"))
            d->rope.kind = HD_ROPE_YARN;
        else if (!hd_view_is(type, "none") && !hd_view_is(type, "llama3"))
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: found \"%.*s\"; expected none, linear or yarn", key(k, m, "rope.scaling.type"),
                              (int)(type.n > 60 ? 60 : type.n), type.p);
    }
    d->norm_eps = (float)eps;
    d->tied = !hd_store_find(st, "output.weight");
    return HD_OK;
}

int hd_decoder_config(struct hd_model *m, struct hd_decoder **out, struct hd_err *err)
{
    struct hd_decoder *d = hd_arena_zalloc(&m->arena, sizeof *d);
    const char *where = m->store.config_path;
    int64_t n_ctx, prod;
    int rc;

    if (!d)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", where);
    rc = m->store.kind == HD_STORE_GGUF ? config_gguf(m, d, &n_ctx, err) : config_json(m, d, &n_ctx, err);
    if (rc < 0)
        return m->store.kind == HD_STORE_GGUF ? hd_err_prepend(err, "%s", where) : rc;
    if (d->attn.n_head % d->attn.n_kv_head)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: %lld attention heads; expected a multiple of the %lld key/value heads", where, (long long)d->attn.n_head,
                          (long long)d->attn.n_kv_head);
    if (d->rope.dim % 2 || d->rope.dim > d->attn.head_dim)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: %lld rotated dims of a head of %lld; expected an even number up to that", where, (long long)d->rope.dim,
                          (long long)d->attn.head_dim);
    if (!hd_mul64(d->attn.n_head * d->attn.head_dim, d->d_model, &prod) || !hd_mul64(d->n_vocab, d->d_model, &prod) || prod > (int64_t)1 << 50)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: the dimensions are absurd: their products overflow", where);
    if (!(d->layer = hd_arena_zalloc(&m->arena, (size_t)d->n_layer * sizeof *d->layer)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld layers", where, (long long)d->n_layer);
    d->attn.kv_type = m->kv == HD_KV_F16 ? HD_F16 : HD_F32;
    m->hp = (struct hd_hparams){d->n_layer, d->d_model, d->n_vocab, n_ctx};
    m->impl = d;
    *out = d;
    return HD_OK;
}

static int set_cache_spec(struct hd_model *m, const struct hd_decoder *d, struct hd_err *err)
{
    struct hd_cache_part *part = hd_arena_zalloc(&m->arena, (size_t)(2 * d->n_layer) * sizeof *part);

    if (!part)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the cache's description", m->store.path);
    for (int64_t i = 0; i < d->n_layer; i++)
        hd_gqa_parts(&d->attn, (int)i, part + HD_GQA_PARTS * i);
    m->spec = (struct hd_cache_spec){(int)(2 * d->n_layer), part};
    return HD_OK;
}

int hd_decoder_bind(struct hd_model *m, struct hd_decoder *d, const struct hd_weight_row *rows, int n_row, int q_bias, int o_bias, int ffn_bias,
                    struct hd_err *err)
{
    struct hd_symbol sym[] = {{"V", d->n_vocab}, {"D", d->d_model},        {"F", d->d_ff},        {"H", d->attn.n_head},  {"G", d->attn.n_kv_head},
                              {"Dh", d->attn.head_dim}, {"Dr", d->rope.dim / 2}, {"q_bias", q_bias}, {"o_bias", o_bias}, {"ffn_bias", ffn_bias}};
    float *f;

    memcpy(d->sym, sym, sizeof sym);
    d->list = (struct hd_weight_list){.row = rows, .n_row = n_row, .sym = d->sym, .n_sym = HD_LEN(sym), .n_layer = d->n_layer, .globals = d, .layers = d->layer,
                                      .layer_bytes = sizeof *d->layer};
    HD_TRY(hd_bind(&m->store, &d->list, &m->arena, m->planned, err));
    if (!d->output.n_dim) {
        if (!d->tied && !m->planned)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: lm_head.weight is missing, and tie_word_embeddings is false", m->store.path);
        if (!d->tied) {
            d->output = d->token_embd;
            d->output.name = "lm_head.weight";
        }
    } else if (d->tied) {
        memset(&d->output, 0, sizeof d->output);      /* a tied checkpoint that stores the head anyway: the embedding counts */
    }
    if (!(f = hd_arena_alloc(&m->arena, (size_t)(d->rope.dim / 2) * sizeof *f)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    hd_rope_freqs(&d->rope, f, &d->rope_scale);
    for (int64_t i = 0; d->rope_div.data && i < d->rope.dim / 2; i++)
        f[i] /= ((const float *)d->rope_div.data)[i];
    d->inv_freq = hd_view1(HD_F32, f, d->rope.dim / 2);
    return set_cache_spec(m, d, err);
}

void hd_decoder_each_weight(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    hd_bind_each(&((const struct hd_decoder *)m->impl)->list, fn, arg);
}

struct hd_tensor *hd_decoder_forward(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, const int32_t *out_rows, int64_t n_out)
{
    const struct hd_decoder *d = m->impl;
    struct hd_tensor *logits = hd_logits_new(s, n_out, d->n_vocab), *x = hd_new(s, HD_F32, b->n_tok, d->d_model);
    struct hd_tensor *norm = hd_new(s, HD_F32, b->n_tok, d->d_model), *y = hd_new(s, HD_F32, b->n_tok, d->d_model);
    struct hd_tensor *rope = hd_new(s, HD_F32, b->n_tok, d->rope.dim), *last;

    hd_embed(s, x, &d->token_embd, b);
    hd_trace(s, x, "embed");
    hd_rope_table(s, rope, b, &d->inv_freq, d->rope_scale);
    for (int64_t i = 0; i < d->n_layer; i++) {
        const struct hd_decoder_layer *w = &d->layer[i];
        struct hd_gqa_hp hp = d->attn;

        hp.window = w->window;
        hd_layer_begin(s, x);
        hd_rmsnorm(s, norm, x, &w->attn_norm, d->norm_eps);
        hd_trace(s, norm, "layers.%d.attn_norm", (int)i);
        hd_attn_gqa(s, &hp, &w->attn, b, rope, (int)(2 * i), norm, y, (int)i);
        hd_add(s, x, x, y);
        hd_rmsnorm(s, norm, x, &w->ffn_norm, d->norm_eps);
        hd_trace(s, norm, "layers.%d.ffn_norm", (int)i);
        hd_ffn(s, &w->ffn, norm, y);
        hd_trace(s, y, "layers.%d.ffn_out", (int)i);
        hd_add(s, x, x, y);
        hd_trace(s, x, "layers.%d.out", (int)i);
        hd_layer_end(s);
    }
    if (n_out == 0)
        return logits;
    last = hd_new(s, HD_F32, n_out, d->d_model);
    hd_gather(s, last, x, out_rows);
    hd_rmsnorm(s, last, last, &d->output_norm, d->norm_eps);
    hd_trace(s, last, "norm");
    hd_logits(s, logits, last, d->output.n_dim ? &d->output : &d->token_embd);
    hd_trace(s, logits, "logits");
    return logits;
}
