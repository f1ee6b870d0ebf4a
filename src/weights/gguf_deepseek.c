/* gguf_deepseek.c: see gguf_deepseek.h. What maps one to one is a row of a table; what GGUF leaves out or counts differently has a
 * function. */
#include "weights/gguf_deepseek.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define KEY 160
#define LAYER_MAX 1024

enum kind { INT, REAL, BOOL, LIST };

/* gguf: behind "ARCH."; json: the field; must: its absence is an error. Where two keys stand for one field they must agree. A list
 * whose elements agree stands for a number. */
struct rule {
    const char *gguf, *json;
    enum kind kind;
    double lo, hi;
    bool must;
};

#define DIM_MAX 16777216.0

static const struct rule common[] = {
    {"context_length", "max_position_embeddings", INT, 1, 1073741824, false},
    {"embedding_length", "hidden_size", INT, 1, DIM_MAX, true},
    {"attention.head_count", "num_attention_heads", INT, 1, 65536, true},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", REAL, 0, 1, true},
    {"rope.dimension_count", "qk_rope_head_dim", INT, 2, 65536, true},
    {"rope.freq_base", "rope_theta", REAL, 1, 1e12, false},
    {"expert_used_count", "num_experts_per_tok", INT, 1, 64, false},
    {"expert_shared_count", "n_shared_experts", INT, 0, 64, false},
    {"expert_weights_scale", "routed_scaling_factor", REAL, 0, 1e6, false},
    {"expert_weights_norm", "norm_topk_prob", BOOL, 0, 1, false},
    {"expert_feed_forward_length", "moe_intermediate_size", INT, 1, DIM_MAX, true},
};

static const struct rule latent[] = {
    {"feed_forward_length", "intermediate_size", INT, 1, DIM_MAX, true},
    {"attention.q_lora_rank", "q_lora_rank", INT, 0, DIM_MAX, false},
    {"attention.kv_lora_rank", "kv_lora_rank", INT, 1, 4096, true},
    {"leading_dense_block_count", "first_k_dense_replace", INT, 0, LAYER_MAX, false},
    {"expert_count", "n_routed_experts", INT, 1, 4096, false},
    {"expert_group_count", "n_group", INT, 1, 4096, false},
    {"expert_group_used_count", "topk_group", INT, 1, 4096, false},
};

static const struct rule indexer[] = {
    {"attention.indexer.head_count", "index_n_heads", INT, 1, 65536, true},
    {"attention.indexer.key_length", "index_head_dim", INT, 2, 65536, true},
    {"attention.indexer.top_k", "index_topk", INT, 1, 1048576, true},
};

static const struct rule v4[] = {
    {"attention.key_length", "head_dim", INT, 2, 65536, true},
    {"attention.value_length", "head_dim", INT, 2, 65536, false},
    {"attention.q_lora_rank", "q_lora_rank", INT, 1, DIM_MAX, true},
    {"attention.output_lora_rank", "o_lora_rank", INT, 1, DIM_MAX, true},
    {"attention.output_group_count", "o_groups", INT, 1, 65536, true},
    {"attention.sliding_window", "sliding_window", INT, 1, 1048576, true},
    {"attention.compress_ratios", "compress_ratios", LIST, 0, 128, true},
    {"attention.compress_rope_freq_base", "compress_rope_theta", REAL, 1, 1e12, true},
    {"expert_count", "n_routed_experts", INT, 1, 4096, true},
    {"hash_layer_count", "num_hash_layers", INT, 0, LAYER_MAX, true},
    {"hyper_connection.count", "hc_mult", INT, 1, 8, true},
    {"hyper_connection.sinkhorn_iterations", "hc_sinkhorn_iters", INT, 1, 1000, true},
    {"hyper_connection.epsilon", "hc_eps", REAL, 0, 1, true},
    {"swiglu_clamp_exp", "swiglu_limit", REAL, 0, 1e6, true},
    {"swiglu_clamp_shexp", "swiglu_limit", REAL, 0, 1e6, false},
};

/* Two names for messages only: these fields are made from several keys. */
static const struct rule derived[] = {
    {"block_count", "num_hidden_layers", INT, 1, LAYER_MAX, true},
    {"attention.value_length_mla", "v_head_dim", INT, 1, 65536, true},
    {"attention.key_length_mla", "qk_nope_head_dim", INT, 1, 65536, true},
};

struct table {
    const struct rule *rule;
    int n;
};

#define TABLE(rules) {rules, HD_LEN(rules)}
#define TABLE_MAX 4

static const struct family {
    const char *arch;
    struct table table[TABLE_MAX];
} families[] = {{"deepseek2", {TABLE(common), TABLE(latent), TABLE(derived)}},
                {"deepseek32", {TABLE(common), TABLE(latent), TABLE(indexer), TABLE(derived)}},
                {"deepseek4", {TABLE(common), TABLE(v4), TABLE(indexer), TABLE(derived)}}};

static const struct family *family_of(const struct hd_store *st)
{
    struct hd_view arch;

    if (st->kind == HD_STORE_GGUF && hd_gguf_str(st, "general.architecture", &arch))
        for (int i = 0; i < HD_LEN(families); i++)
            if (hd_view_is(arch, families[i].arch))
                return &families[i];
    return NULL;
}

struct reader {
    struct hd_store *st;
    const char *arch;
    json_t *out;
    struct hd_err *err;
};

static const char *key_of(char buf[KEY], const struct reader *r, const char *suffix)
{
    snprintf(buf, KEY, "%s.%s", r->arch, suffix);
    return buf;
}

static const struct hd_gguf_kv *find(const struct reader *r, const char *suffix)
{
    char k[KEY];

    return hd_gguf_find(r->st, key_of(k, r, suffix));
}

static int put(struct reader *r, const char *field, json_t *v)
{
    return json_object_set_new(r->out, field, v) ? hd_err_set(r->err, HD_ERR_MEMORY, "%s: no memory", field) : HD_OK;
}

static bool is_list(const struct hd_gguf_kv *kv)
{
    return kv->type == HD_GGUF_ARR && kv->elem != HD_GGUF_STR && kv->elem != HD_GGUF_BOOL && kv->n > 0;
}

/* The number of a key that is there, or of a list of equal ones. */
static int number(struct reader *r, const char *suffix, const struct rule *u, double *out)
{
    const struct hd_gguf_kv *kv = find(r, suffix);
    char k[KEY];
    double v;

    key_of(k, r, suffix);
    if (!kv)
        return hd_err_set(r->err, HD_ERR_FORMAT, "%s: found nothing; expected a number from %.10g to %.10g", k, u->lo, u->hi);
    if (is_list(kv)) {
        v = hd_gguf_elem_real(kv, 0);
        for (uint64_t i = 1; i < kv->n; i++)
            if (!(hd_gguf_elem_real(kv, i) == v))
                return hd_err_set(r->err, HD_ERR_UNSUPPORTED, "%s: found %g and %g; expected the same for every layer", k, v, hd_gguf_elem_real(kv, i));
        if (!(v >= u->lo && v <= u->hi))
            return hd_err_set(r->err, HD_ERR_FORMAT, "%s: found %g; expected a number from %.10g to %.10g", k, v, u->lo, u->hi);
    } else {
        HD_TRY(hd_gguf_real_or(r->st, k, u->lo, u->hi, 0, &v, r->err));
    }
    if (u->kind == INT && v != floor(v))
        return hd_err_set(r->err, HD_ERR_FORMAT, "%s: found %g; expected an integer", k, v);
    *out = v;
    return HD_OK;
}

static int integer(struct reader *r, const char *suffix, int64_t lo, int64_t hi, int64_t *out)
{
    struct rule u = {.kind = INT, .lo = (double)lo, .hi = (double)hi};
    double v;

    HD_TRY(number(r, suffix, &u, &v));
    *out = (int64_t)v;
    return HD_OK;
}

static int take_list(struct reader *r, const struct rule *u)
{
    const struct hd_gguf_kv *kv = find(r, u->gguf);
    json_t *list;
    char k[KEY];

    if (!is_list(kv) || kv->n > 2 * LAYER_MAX)
        return hd_err_set(r->err, HD_ERR_FORMAT, "%s: expected a list of integers, one a layer", key_of(k, r, u->gguf));
    if (!(list = json_array()))
        return put(r, u->json, NULL);
    for (uint64_t i = 0; i < kv->n; i++) {
        double v = hd_gguf_elem_real(kv, i);

        if (!(v >= u->lo && v <= u->hi) || v != floor(v)) {
            json_decref(list);
            return hd_err_set(r->err, HD_ERR_FORMAT, "%s: found %g for layer %llu; expected an integer from %g to %g", key_of(k, r, u->gguf), v, (unsigned long long)i, u->lo,
                              u->hi);
        }
        if (json_array_append_new(list, json_integer((json_int_t)v))) {
            json_decref(list);
            return put(r, u->json, NULL);
        }
    }
    return put(r, u->json, list);
}

static int take(struct reader *r, const struct rule *u)
{
    const struct hd_gguf_kv *kv = find(r, u->gguf);
    const json_t *have = json_object_get(r->out, u->json);
    char k[KEY];
    double v;

    if (!kv && !u->must)
        return HD_OK;
    if (kv && u->kind == BOOL) {
        if (kv->type != HD_GGUF_BOOL)
            return hd_err_set(r->err, HD_ERR_FORMAT, "%s: expected true or false", key_of(k, r, u->gguf));
        return put(r, u->json, json_boolean(*kv->p != 0));
    }
    if (kv && u->kind == LIST)
        return take_list(r, u);
    HD_TRY(number(r, u->gguf, u, &v));
    if (have && json_number_value(have) != v)
        return hd_err_set(r->err, HD_ERR_UNSUPPORTED, "%s: found %g; expected %g, as the key before it says", key_of(k, r, u->gguf), v, json_number_value(have));
    return put(r, u->json, u->kind == INT ? json_integer((json_int_t)v) : json_real(v));
}

/* ---- what no row can say ---- */

static bool has_tensor(const struct reader *r, int64_t layer, const char *stem)
{
    char name[96];

    snprintf(name, sizeof name, "blk.%lld.%s.weight", (long long)layer, stem);
    return hd_store_find(r->st, name) != NULL;
}

/* Draft modules lie behind the layers and are counted with them, except where a file says that there are some and has none. */
static int take_layers(struct reader *r)
{
    int64_t n_block, n_draft = 0, n;

    HD_TRY(integer(r, "block_count", 1, LAYER_MAX, &n_block));
    if (find(r, "nextn_predict_layers"))
        HD_TRY(integer(r, "nextn_predict_layers", 0, n_block - 1, &n_draft));
    n = n_block - n_draft;
    if (n_draft && !has_tensor(r, n, "nextn.eh_proj") && has_tensor(r, n, "attn_norm"))
        n = n_block;
    for (size_t i = 0; i < r->st->n_entry; i++) {
        long long k;

        if (sscanf(r->st->entry[i].name.p, "blk.%lld.", &k) == 1 && k >= n && k < n_block)
            r->st->entry[i].used = true;
    }
    return put(r, "num_hidden_layers", json_integer(n));
}

static int take_vocabulary(struct reader *r)
{
    const struct hd_entry *embd = hd_store_find(r->st, "token_embd.weight");
    int64_t n = embd && embd->n_dim == 2 ? embd->dim[0] : 1;

    if (find(r, "vocab_size"))
        HD_TRY(integer(r, "vocab_size", 1, (int64_t)DIM_MAX, &n));
    HD_TRY(put(r, "vocab_size", json_integer(n)));
    return put(r, "tie_word_embeddings", json_boolean(!hd_store_find(r->st, "output.weight")));
}

/* Head sizes: files that keep key and value projections apart describe attention in the latent space and give the heads' own
 * sizes under _mla; older ones give those only. */
static int take_heads(struct reader *r)
{
    bool mla = find(r, "attention.key_length_mla") != NULL;
    const char *key_name = mla ? "attention.key_length_mla" : "attention.key_length", *value_name = mla ? "attention.value_length_mla" : "attention.value_length";
    int64_t rope, rank, key, value, wide, latent_value;
    char a[KEY], b[KEY];

    HD_TRY(integer(r, "rope.dimension_count", 2, 65536, &rope));
    HD_TRY(integer(r, "attention.kv_lora_rank", 1, 4096, &rank));
    HD_TRY(integer(r, key_name, 1, 65536, &key));
    HD_TRY(integer(r, value_name, 1, 65536, &value));
    if (key <= rope)
        return hd_err_set(r->err, HD_ERR_FORMAT, "%s: found %lld; expected more than %s %lld", key_of(a, r, key_name), (long long)key, key_of(b, r, "rope.dimension_count"),
                          (long long)rope);
    if (mla && find(r, "attention.key_length")) {
        HD_TRY(integer(r, "attention.key_length", 1, 65536, &wide));
        if (wide != rank + rope)
            return hd_err_set(r->err, HD_ERR_FORMAT, "%s: found %lld; expected %lld: kv_lora_rank and rope.dimension_count together", key_of(a, r, "attention.key_length"),
                              (long long)wide, (long long)(rank + rope));
    }
    if (mla && find(r, "attention.value_length")) {
        HD_TRY(integer(r, "attention.value_length", 1, 65536, &latent_value));
        if (latent_value != rank)
            return hd_err_set(r->err, HD_ERR_FORMAT, "%s: found %lld; expected kv_lora_rank %lld", key_of(a, r, "attention.value_length"), (long long)latent_value,
                              (long long)rank);
    }
    HD_TRY(put(r, "qk_nope_head_dim", json_integer(key - rope)));
    return put(r, "v_head_dim", json_integer(value));
}

static int take_rope(struct reader *r)
{
    static const struct rule yarn[] = {{"rope.scaling.factor", "factor", REAL, 1e-3, 1e6, true},
                                       {"rope.scaling.original_context_length", "original_max_position_embeddings", INT, 1, 1e12, false},
                                       {"rope.scaling.yarn_beta_fast", "beta_fast", REAL, 1e-6, 1e6, false},
                                       {"rope.scaling.yarn_beta_slow", "beta_slow", REAL, 1e-6, 1e6, false},
                                       {"rope.scaling.yarn_attn_factor", "attention_factor", REAL, 0, 1e6, false},
                                       {"rope.scaling.yarn_log_multiplier", "mscale_all_dim", REAL, 0, 1e5, false}};
    struct reader in = *r;
    struct hd_view type;
    const json_t *tenth;
    char k[KEY];
    int rc = HD_OK;

    if (!hd_gguf_str(r->st, key_of(k, r, "rope.scaling.type"), &type) || hd_view_is(type, "none"))
        return HD_OK;
    if (!hd_view_is(type, "yarn") && !hd_view_is(type, "linear"))
        return hd_err_set(r->err, HD_ERR_UNSUPPORTED, "%s: found \"%.*s\"; expected none, linear or yarn", k, (int)(type.n > 60 ? 60 : type.n), type.p);
    if (!(in.out = json_object()))
        return put(r, "rope_scaling", NULL);
    rc = put(&in, "type", json_stringn(type.p, type.n));
    for (int i = 0; i < HD_LEN(yarn) && rc == HD_OK; i++)
        rc = take(&in, &yarn[i]);
    tenth = json_object_get(in.out, "mscale_all_dim");
    if (rc == HD_OK && tenth) {
        double all = json_real_value(tenth) / 0.1;

        rc = put(&in, "mscale_all_dim", json_real(all));
        if (rc == HD_OK)                              /* V2 sets both alike, V3 and V3.2 to 1 */
            rc = put(&in, "mscale", json_real(!strcmp(r->arch, "deepseek2") ? all : 1));
    }
    if (rc < 0) {
        json_decref(in.out);
        return rc;
    }
    return put(r, "rope_scaling", in.out);
}

/* Files from before expert_group_count: the published models of these sizes route within groups all the same. */
static int take_groups(struct reader *r)
{
    static const struct {
        int64_t n_layer, n_expert, n_group, n_used;
    } known[] = {{60, 160, 8, 3}, {61, 256, 8, 4}};      /* V2; V3, R1 and V3.2 */
    int64_t n_layer = json_integer_value(json_object_get(r->out, "num_hidden_layers")), n_expert = json_integer_value(json_object_get(r->out, "n_routed_experts"));

    for (int i = 0; i < HD_LEN(known) && !find(r, "expert_group_count"); i++)
        if (known[i].n_layer == n_layer && known[i].n_expert == n_expert) {
            HD_TRY(put(r, "n_group", json_integer(known[i].n_group)));
            HD_TRY(put(r, "topk_group", json_integer(known[i].n_used)));
        }
    return HD_OK;
}

/* Who it is, by the gate; and what goes without saying for that gate. */
static int take_gate(struct reader *r)
{
    static const char *const fn[] = {"", "softmax", "sigmoid", "", "sqrtsoftplus"};
    bool two = !strcmp(r->arch, "deepseek2"), four = !strcmp(r->arch, "deepseek4");
    int64_t gate = 1, want = four ? 4 : 2;
    char k[KEY];

    if (!two || find(r, "expert_gating_func"))
        HD_TRY(integer(r, "expert_gating_func", 0, 255, &gate));
    if (two && gate == 0)                             /* "none": V2's files from before the key */
        gate = 1;
    if (two ? gate != 1 && gate != 2 : gate != want)
        return hd_err_set(r->err, HD_ERR_UNSUPPORTED, "%s: found %lld; expected %s%lld (%s)", key_of(k, r, "expert_gating_func"), (long long)gate, two ? "1 (softmax) or " : "",
                          (long long)want, fn[want]);
    if (!json_object_get(r->out, "norm_topk_prob"))
        HD_TRY(put(r, "norm_topk_prob", json_false()));
    if (two && gate == 1) {
        if (json_is_true(json_object_get(r->out, "norm_topk_prob")))
            return hd_err_set(r->err, HD_ERR_UNSUPPORTED, "%s: found true; expected false with a softmax gate", key_of(k, r, "expert_weights_norm"));
        HD_TRY(put(r, "topk_method", json_string(json_integer_value(json_object_get(r->out, "n_group")) > 1 ? "group_limited_greedy" : "greedy")));
    }
    HD_TRY(put(r, "scoring_func", json_string(fn[gate])));
    return put(r, "model_type", json_string(four ? "deepseek_v4" : !two ? "deepseek_v32" : gate == 1 ? "deepseek_v2" : "deepseek_v3"));
}

static int read_all(struct reader *r, const struct family *f)
{
    HD_TRY(take_layers(r));
    for (int t = 0; t < TABLE_MAX; t++)
        for (int i = 0; i < f->table[t].n && f->table[t].rule != derived; i++)
            HD_TRY(take(r, &f->table[t].rule[i]));
    HD_TRY(take_vocabulary(r));
    if (strcmp(r->arch, "deepseek4")) {
        HD_TRY(take_heads(r));
        HD_TRY(take_groups(r));
    }
    HD_TRY(take_rope(r));
    return take_gate(r);
}

int hd_gguf_deepseek_config(struct hd_store *st, struct hd_err *err)
{
    const struct family *f = family_of(st);
    struct reader r = {.st = st, .err = err};
    int rc;

    if (!f)
        return HD_OK;
    hd_json_init();
    r.arch = f->arch;
    if (!(r.out = json_object()))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", st->path);
    rc = read_all(&r, f);
    if (rc < 0) {
        json_decref(r.out);
        return hd_err_prepend(err, "%s", st->path);
    }
    st->config = r.out;
    return HD_OK;
}

void hd_gguf_deepseek_explain(const struct hd_store *st, struct hd_err *err)
{
    const struct family *f = family_of(st);
    char text[sizeof err->msg], from[96];

    for (int t = 0; f && err && t < TABLE_MAX; t++)
        for (int i = 0; i < f->table[t].n; i++) {
            const struct rule *u = &f->table[t].rule[i];
            char *at;

            snprintf(from, sizeof from, ": %s: ", u->json);
            if (!(at = strstr(err->msg, from)))
                continue;
            snprintf(text, sizeof text, "%.*s: %s.%s: %s", (int)(at - err->msg), err->msg, f->arch, u->gguf, at + strlen(from));
            memcpy(err->msg, text, sizeof text);
            return;
        }
}
