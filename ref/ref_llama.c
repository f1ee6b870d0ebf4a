/* ref_llama.c: llama and qwen2: the plain transformer the other families depart from.
 *
 * How to read  ref_llama() is the model, attention() and ffn() its two halves. H heads of width d share G key/value heads, H / G
 *              each. qwen2 differs by biases on q, k, v and by sliding windows in some layers; a bias is there when stored.
 * Formulas     x += Wo attention(norm(x)),  x += ffn(norm(x)),  logits = W norm(x)
 * Source       transformers' llama and qwen2
 */
#include <math.h>
#include <string.h>

#include "ref.h"

/* y = W x + b, b where it is stored. Names are model.layers.<layer>.<part>.{weight,bias} */
static void project(const struct ref *m, int64_t layer, const char *part, int64_t n_out, int64_t n_in, int64_t T, double *y, const double *x)
{
    struct mat w = ref_mat(m, n_out, n_in, "model.layers.%d.%s.weight", (int)layer, part);

    matmul(T, y, &w, x);
    if (ref_has(m, "model.layers.%d.%s.bias", (int)layer, part))
        add_bias(T, y, n_out, ref_vec(m, n_out, "model.layers.%d.%s.bias", (int)layer, part));
}

/* How many of the latest positions, its own included, a query of this layer sees; 0: all. */
static int64_t window_of(const json_t *c, int64_t layer)
{
    const char *type = json_string_value(json_array_get(json_object_get(c, "layer_types"), (size_t)layer));

    if (strcmp(get_str(c, "model_type", ""), "qwen2") || !get_bool(c, "use_sliding_window", false))
        return 0;
    if (type ? strcmp(type, "sliding_attention") != 0 : layer < get_int(c, "max_window_layers", 28))
        return 0;
    return get_int(c, "sliding_window", 4096);
}

/* o_h[t] = sum_s p_s v_g[s],  p = softmax_s(q_h[t] . k_g[s] / sqrt(d)),  s <= t,  g = h G / H */
static void attention(const struct ref *m, int64_t layer, const struct rope *rope, int64_t D, int64_t H, int64_t G, int64_t d, int64_t T, double *y, const double *u)
{
    double *q = array(T * H * d), *k = array(T * G * d), *v = array(T * G * d), *o = array(T * H * d), *p = array(T);
    int64_t window = window_of(m->config, layer);

    project(m, layer, "self_attn.q_proj", H * d, D, T, q, u);
    project(m, layer, "self_attn.k_proj", G * d, D, T, k, u);
    project(m, layer, "self_attn.v_proj", G * d, D, T, v, u);
    for (int64_t t = 0; t < T; t++) {
        for (int64_t h = 0; h < H; h++)
            rotate(rope, q + (t * H + h) * d, t, HALVES, false);
        for (int64_t g = 0; g < G; g++)
            rotate(rope, k + (t * G + g) * d, t, HALVES, false);
    }
    for (int64_t t = 0; t < T; t++)
        for (int64_t h = 0; h < H; h++) {
            int64_t g = h * G / H;

            for (int64_t s = 0; s <= t; s++)
                p[s] = window && s <= t - window ? -INFINITY : dot(d, q + (t * H + h) * d, k + (s * G + g) * d) / sqrt((double)d);
            softmax(p, t + 1);
            for (int64_t s = 0; s <= t; s++)
                for (int64_t i = 0; i < d; i++)
                    o[(t * H + h) * d + i] += p[s] * v[(s * G + g) * d + i];
        }
    project(m, layer, "self_attn.o_proj", D, H * d, T, y, o);
}

/* Wdown (silu(Wgate u) Wup u) */
static void ffn(const struct ref *m, int64_t layer, int64_t D, int64_t F, int64_t T, double *y, const double *u)
{
    double *a = array(T * F), *b = array(T * F);

    project(m, layer, "mlp.gate_proj", F, D, T, a, u);
    project(m, layer, "mlp.up_proj", F, D, T, b, u);
    for (int64_t i = 0; i < T * F; i++)
        a[i] = silu(a[i]) * b[i];
    project(m, layer, "mlp.down_proj", D, F, T, y, a);
}

double *ref_llama(const struct ref *m, int64_t T, const int64_t *id)
{
    const json_t *c = m->config;
    int64_t L = need_int(c, "num_hidden_layers"), D = need_int(c, "hidden_size"), F = need_int(c, "intermediate_size"), V = m->n_vocab;
    int64_t H = need_int(c, "num_attention_heads"), G = get_int(c, "num_key_value_heads", H), d = get_int(c, "head_dim", D / H);
    double eps = get_real(c, "rms_norm_eps", 1e-6);
    double *logits = array(T * V), *x = array(T * D), *u = array(T * D), *y = array(T * D);
    struct rope rope = rope_of(c, d, 0);
    struct mat head;

    embed(m, T, id, D, x, "model.embed_tokens.weight");
    for (int64_t i = 0; i < L; i++) {
        int64_t start = mark();

        rmsnorm(m, T, D, u, x, ref_vec(m, D, "model.layers.%d.input_layernorm.weight", (int)i), eps);
        attention(m, i, &rope, D, H, G, d, T, y, u);
        add(x, y, T * D);
        rmsnorm(m, T, D, u, x, ref_vec(m, D, "model.layers.%d.post_attention_layernorm.weight", (int)i), eps);
        ffn(m, i, D, F, T, y, u);
        add(x, y, T * D);
        release(start);
    }
    rmsnorm(m, T, D, u, x, ref_vec(m, D, "model.norm.weight"), eps);
    head = ref_mat(m, V, D, get_bool(c, "tie_word_embeddings", false) ? "model.embed_tokens.weight" : "lm_head.weight");
    matmul(T, logits, &head, u);
    return logits;
}
