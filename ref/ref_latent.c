/* ref_latent.c: deepseek_v2, deepseek_v3 (R1) and deepseek_v32: latent attention (MLA), experts, and V3.2's indexer.
 *
 * How to read  ref_latent() is the model; attention() is MLA in its naive form, with the keys and values of every head written
 *              out (an engine caches the latent c instead and absorbs Wkv_b); indexer() is V3.2's choice of tokens; experts()
 *              the mixture, whose gate() is where V2 and V3 differ.
 * Symbols      H heads; q = [nope | rope] of width dn + dr; c the latent of width Rkv; v of width dv; E experts, k of them used
 * Source       DeepSeek's papers; DeepSeek-V3 and V3.2-Exp inference code; transformers, whose numbers the goldens are
 * Traps        the latents' norms have eps 1e-6 whatever the config says; experts outside the best groups are out (-inf), also
 *              where a biased score is negative; the indexer rotates the FIRST dims of its heads, by halves, the attention the
 *              LAST, by neighbours
 */
#include <math.h>
#include <string.h>

#include "ref.h"

struct hp {
    int64_t L, D, F, H, dn, dr, dv, Rq, Rkv;
    int64_t E, k, Es, Fe, n_group, group_used;
    int64_t index_heads, index_dim, index_topk;      /* V3.2 */
    double eps, latent_eps, scale, routed_scale;
    bool v2, v32, norm_topk;
    enum pairs pairs;
    struct rope rope;
};

static struct hp read_hp(const json_t *c)
{
    const char *type = get_str(c, "model_type", "");
    struct hp p = {.L = need_int(c, "num_hidden_layers"),
                   .D = need_int(c, "hidden_size"),
                   .F = need_int(c, "intermediate_size"),
                   .H = need_int(c, "num_attention_heads"),
                   .dn = need_int(c, "qk_nope_head_dim"),
                   .dr = need_int(c, "qk_rope_head_dim"),
                   .dv = need_int(c, "v_head_dim"),
                   .Rq = get_int(c, "q_lora_rank", 0),
                   .Rkv = need_int(c, "kv_lora_rank"),
                   .E = get_int(c, "n_routed_experts", 0),
                   .k = get_int(c, "num_experts_per_tok", 0),
                   .Es = get_int(c, "n_shared_experts", 0),
                   .Fe = get_int(c, "moe_intermediate_size", 0),
                   .n_group = get_int(c, "n_group", 1),
                   .group_used = get_int(c, "topk_group", 1),
                   .index_heads = get_int(c, "index_n_heads", 64),
                   .index_dim = get_int(c, "index_head_dim", 128),
                   .index_topk = get_int(c, "index_topk", 2048),
                   .eps = get_real(c, "rms_norm_eps", 1e-6),
                   .latent_eps = 1e-6,
                   .routed_scale = get_real(c, "routed_scaling_factor", 1),
                   .v2 = !strcmp(type, "deepseek_v2"),
                   .v32 = !strcmp(type, "deepseek_v32"),
                   .pairs = get_bool(c, "rope_interleave", true) ? NEIGHBOURS : HALVES};
    const json_t *r = json_object_get(c, "rope_parameters");

    if (!json_is_object(r))
        r = json_object_get(c, "rope_scaling");
    if (p.v2 && !strcmp(get_str(c, "topk_method", "greedy"), "greedy"))
        p.n_group = 1;
    if (p.v32 && !p.Rq)
        die("config.json: q_lora_rank: the indexer needs it");
    p.norm_topk = !p.v2 && get_bool(c, "norm_topk_prob", true);
    p.rope = rope_of(c, p.dr, 0);
    /* scale = (dn + dr)^-1/2 m^2,  m = 0.1 mscale_all_dim ln(factor) + 1 with YaRN */
    p.scale = 1 / sqrt((double)(p.dn + p.dr));
    if (get_real(r, "mscale_all_dim", 0) > 0 && get_real(r, "factor", 1) > 1)
        p.scale *= pow(0.1 * get_real(r, "mscale_all_dim", 0) * log(get_real(r, "factor", 1)) + 1, 2);
    return p;
}

static void project(const struct ref *m, int64_t layer, const char *part, int64_t n_out, int64_t n_in, int64_t T, double *y, const double *x)
{
    struct mat w = ref_mat(m, n_out, n_in, "model.layers.%d.%s.weight", (int)layer, part);

    matmul(T, y, &w, x);
    if (ref_has(m, "model.layers.%d.%s.bias", (int)layer, part))
        add_bias(T, y, n_out, ref_vec(m, n_out, "model.layers.%d.%s.bias", (int)layer, part));
}

/* y = (x - mean) / sqrt(var + 1e-6) w + b */
static void layernorm(int64_t T, int64_t n, double *x, const double *w, const double *b)
{
    for (int64_t t = 0; t < T; t++, x += n) {
        double mean = 0, var = 0;

        for (int64_t i = 0; i < n; i++)
            mean += x[i] / (double)n;
        for (int64_t i = 0; i < n; i++)
            var += (x[i] - mean) * (x[i] - mean) / (double)n;
        for (int64_t i = 0; i < n; i++)
            x[i] = (x[i] - mean) / sqrt(var + 1e-6) * w[i] + b[i];
    }
}

/* V3.2: I[t, s] = sum_h w_h[t] relu(qI_h[t] . kI[s]) / sqrt(d heads); visible[t, s]: s among the best index_topk of 0 .. t.
 * qI = Wq_b c_q (from the latent of q), kI = layernorm(Wk x), both rotated. The published Hadamard rotation of both changes no
 * score. */
static void indexer(const struct ref *m, const struct hp *p, int64_t layer, int64_t T, bool *visible, const double *x, const double *c_q)
{
    int64_t h = p->index_heads, d = p->index_dim, *best = space(T, sizeof *best);
    double *q = array(T * h * d), *k = array(T * d), *w = array(T * h), *score = array(T);

    project(m, layer, "self_attn.indexer.wq_b", h * d, p->Rq, T, q, c_q);
    project(m, layer, "self_attn.indexer.weights_proj", h, p->D, T, w, x);
    project(m, layer, "self_attn.indexer.wk", d, p->D, T, k, x);
    layernorm(T, d, k, ref_vec(m, d, "model.layers.%d.self_attn.indexer.k_norm.weight", (int)layer),
              ref_vec(m, d, "model.layers.%d.self_attn.indexer.k_norm.bias", (int)layer));
    for (int64_t t = 0; t < T; t++) {
        rotate(&p->rope, k + t * d, t, HALVES, false);
        for (int64_t i = 0; i < h; i++)
            rotate(&p->rope, q + (t * h + i) * d, t, HALVES, false);
    }
    for (int64_t t = 0; t < T; t++) {
        int64_t n = t + 1 < p->index_topk ? t + 1 : p->index_topk;

        for (int64_t s = 0; s <= t; s++) {
            score[s] = 0;
            for (int64_t i = 0; i < h; i++)
                score[s] += w[t * h + i] * fmax(dot(d, q + (t * h + i) * d, k + s * d), 0) / sqrt((double)(d * h));
        }
        top_k(score, t + 1, n, best);
        memset(visible + t * T, 0, (size_t)T);
        for (int64_t i = 0; i < n; i++)
            visible[t * T + best[i]] = true;
    }
}

/* c_q = norm(Wq_a x), q = Wq_b c_q (or q = Wq x);  [c' | k_r] = Wkv_a x, c = norm(c');  [k_n,h | v_h] = Wkv_b c
 * k_h = [k_n,h | rope(k_r)];  o_h = sum_s softmax_s(scale q_h . k_h[s]) v_h[s];  y = Wo [o_1 .. o_H] */
static void attention(const struct ref *m, const struct hp *p, int64_t layer, int64_t T, double *y, const double *x)
{
    int64_t D = p->D, H = p->H, dn = p->dn, dr = p->dr, dv = p->dv, dq = dn + dr, R = p->Rkv, wide = R + dr;
    double *q = array(T * H * dq), *a = array(T * wide), *c = array(T * R), *b = array(T * H * (dn + dv));
    double *k = array(T * H * dq), *v = array(T * H * dv), *o = array(T * H * dv), *s = array(T), *c_q = NULL;
    bool *visible = space(T * T, sizeof *visible);

    if (p->Rq) {
        c_q = array(T * p->Rq);
        project(m, layer, "self_attn.q_a_proj", p->Rq, D, T, c_q, x);
        rmsnorm(m, T, p->Rq, c_q, c_q, ref_vec(m, p->Rq, "model.layers.%d.self_attn.q_a_layernorm.weight", (int)layer), p->latent_eps);
        project(m, layer, "self_attn.q_b_proj", H * dq, p->Rq, T, q, c_q);
    } else {
        project(m, layer, "self_attn.q_proj", H * dq, D, T, q, x);
    }
    project(m, layer, "self_attn.kv_a_proj_with_mqa", wide, D, T, a, x);
    for (int64_t t = 0; t < T; t++)
        memcpy(c + t * R, a + t * wide, (size_t)R * sizeof *c);
    rmsnorm(m, T, R, c, c, ref_vec(m, R, "model.layers.%d.self_attn.kv_a_layernorm.weight", (int)layer), p->latent_eps);
    project(m, layer, "self_attn.kv_b_proj", H * (dn + dv), R, T, b, c);
    for (int64_t t = 0; t < T; t++) {
        rotate(&p->rope, a + t * wide + R, t, p->pairs, false);
        for (int64_t h = 0; h < H; h++) {
            const double *from = b + (t * H + h) * (dn + dv);

            rotate(&p->rope, q + (t * H + h) * dq + dn, t, p->pairs, false);
            memcpy(k + (t * H + h) * dq, from, (size_t)dn * sizeof *k);
            memcpy(k + (t * H + h) * dq + dn, a + t * wide + R, (size_t)dr * sizeof *k);
            memcpy(v + (t * H + h) * dv, from + dn, (size_t)dv * sizeof *v);
        }
    }
    memset(visible, true, (size_t)(T * T));
    if (p->v32)
        indexer(m, p, layer, T, visible, x, c_q);
    for (int64_t t = 0; t < T; t++)
        for (int64_t h = 0; h < H; h++) {
            for (int64_t i = 0; i <= t; i++)
                s[i] = visible[t * T + i] ? p->scale * dot(dq, q + (t * H + h) * dq, k + (i * H + h) * dq) : -INFINITY;
            softmax(s, t + 1);
            for (int64_t i = 0; i <= t; i++)
                for (int64_t j = 0; j < dv; j++)
                    o[(t * H + h) * dv + j] += s[i] * v[(i * H + h) * dv + j];
        }
    project(m, layer, "self_attn.o_proj", D, H * dv, T, y, o);
}

/* The experts of one token: w[e] > 0 for the k chosen ones.
 * V2: s = softmax(logits); groups by their best; w = s.
 * V3: s = sigmoid(logits), choice by s + b; groups by the sum of their two best; w = s / sum of the chosen. */
static void gate(const struct hp *p, const double *logit, const double *bias, double *w)
{
    int64_t E = p->E, size = E / p->n_group, *best = space(E, sizeof *best);
    double *s = array(E), *choice = array(E), *group = array(p->n_group), sum = 0;
    bool *kept = space(p->n_group, sizeof *kept);

    memcpy(s, logit, (size_t)E * sizeof *s);
    if (p->v2)
        softmax(s, E);
    for (int64_t e = 0; e < E; e++) {
        s[e] = p->v2 ? s[e] : sigmoid(logit[e]);
        choice[e] = s[e] + (bias ? bias[e] : 0);
    }
    for (int64_t g = 0; g < p->n_group; g++) {
        top_k(choice + g * size, size, size < 2 ? size : 2, best);
        group[g] = choice[g * size + best[0]] + (p->v2 || size < 2 ? 0 : choice[g * size + best[1]]);
    }
    top_k(group, p->n_group, p->group_used < p->n_group ? p->group_used : p->n_group, best);
    for (int64_t i = 0; i < p->group_used && i < p->n_group; i++)
        kept[best[i]] = true;
    for (int64_t e = 0; e < E; e++)
        if (!kept[e / size])
            choice[e] = -INFINITY;
    top_k(choice, E, p->k, best);
    for (int64_t i = 0; i < p->k; i++)
        sum += s[best[i]];
    for (int64_t i = 0; i < p->k; i++)
        w[best[i]] = s[best[i]] * p->routed_scale / (p->norm_topk ? sum + 1e-20 : 1);
}

/* y += scale W2 (silu(W1 x) W3 x) for one token */
static void swiglu(const struct mat *gate_w, const struct mat *up_w, const struct mat *down_w, double scale, double *y, const double *x)
{
    int64_t start = mark();
    double *a = array(gate_w->n_out), *b = array(gate_w->n_out), *out = array(down_w->n_out);

    matmul(1, a, gate_w, x);
    matmul(1, b, up_w, x);
    for (int64_t i = 0; i < gate_w->n_out; i++)
        a[i] = silu(a[i]) * b[i];
    matmul(1, out, down_w, a);
    for (int64_t i = 0; i < down_w->n_out; i++)
        y[i] += scale * out[i];
    release(start);
}

/* One SwiGLU for all tokens: a dense layer, or the shared expert. */
static void ffn(const struct ref *m, int64_t layer, const char *part, int64_t D, int64_t F, int64_t T, double *y, const double *x)
{
    struct mat g = ref_mat(m, F, D, "model.layers.%d.%s.gate_proj.weight", (int)layer, part), u = ref_mat(m, F, D, "model.layers.%d.%s.up_proj.weight", (int)layer, part),
               d = ref_mat(m, D, F, "model.layers.%d.%s.down_proj.weight", (int)layer, part);

    for (int64_t t = 0; t < T; t++)
        swiglu(&g, &u, &d, 1, y + t * D, x + t * D);
}

/* y = sum_e w_e E_e(x) + shared(x). Some checkpoints hold all experts in two matrices, gate rows before up rows. */
static void experts(const struct ref *m, const struct hp *p, int64_t layer, int64_t T, double *y, const double *x)
{
    int64_t E = p->E, Fe = p->Fe, D = p->D;
    bool fused = ref_has(m, "model.layers.%d.mlp.experts.gate_up_proj", (int)layer);
    const double *bias = ref_has(m, "model.layers.%d.mlp.gate.e_score_correction_bias", (int)layer)
                             ? ref_vec(m, E, "model.layers.%d.mlp.gate.e_score_correction_bias", (int)layer) : NULL;
    double *logit = array(T * E), *w = array(T * E);
    struct mat all_gu = {0}, all_d = {0};

    project(m, layer, "mlp.gate", E, D, T, logit, x);
    for (int64_t t = 0; t < T; t++)
        gate(p, logit + t * E, bias, w + t * E);
    if (fused) {
        all_gu = ref_mat(m, 2 * E * Fe, D, "model.layers.%d.mlp.experts.gate_up_proj", (int)layer);
        all_d = ref_mat(m, E * D, Fe, "model.layers.%d.mlp.experts.down_proj", (int)layer);
    }
    for (int64_t e = 0; e < E; e++) {
        int64_t start = mark();
        struct mat g = fused ? rows(&all_gu, 2 * e * Fe, Fe) : ref_mat(m, Fe, D, "model.layers.%d.mlp.experts.%d.gate_proj.weight", (int)layer, (int)e);
        struct mat u = fused ? rows(&all_gu, (2 * e + 1) * Fe, Fe) : ref_mat(m, Fe, D, "model.layers.%d.mlp.experts.%d.up_proj.weight", (int)layer, (int)e);
        struct mat d = fused ? rows(&all_d, e * D, D) : ref_mat(m, D, Fe, "model.layers.%d.mlp.experts.%d.down_proj.weight", (int)layer, (int)e);

        for (int64_t t = 0; t < T; t++)
            if (w[t * E + e] != 0)
                swiglu(&g, &u, &d, w[t * E + e], y + t * D, x + t * D);
        release(start);
    }
    if (p->Es)
        ffn(m, layer, "mlp.shared_experts", D, p->Es * Fe, T, y, x);
}

static bool is_dense(const json_t *c, int64_t layer)
{
    const char *type = json_string_value(json_array_get(json_object_get(c, "mlp_layer_types"), (size_t)layer));

    return type ? !strcmp(type, "dense") : layer < get_int(c, "first_k_dense_replace", 0) || layer % get_int(c, "moe_layer_freq", 1);
}

double *ref_latent(const struct ref *m, int64_t T, const int64_t *id)
{
    struct hp p = read_hp(m->config);
    int64_t D = p.D;
    double *logits = array(T * m->n_vocab), *x = array(T * D), *u = array(T * D);
    struct mat head;

    embed(m, T, id, D, x, "model.embed_tokens.weight");
    for (int64_t i = 0; i < p.L; i++) {
        int64_t start = mark();
        double *a = array(T * D), *f = array(T * D);

        rmsnorm(m, T, D, u, x, ref_vec(m, D, "model.layers.%d.input_layernorm.weight", (int)i), p.eps);
        attention(m, &p, i, T, a, u);
        add(x, a, T * D);
        rmsnorm(m, T, D, u, x, ref_vec(m, D, "model.layers.%d.post_attention_layernorm.weight", (int)i), p.eps);
        if (is_dense(m->config, i))
            ffn(m, i, "mlp", D, p.F, T, f, u);
        else
            experts(m, &p, i, T, f, u);
        add(x, f, T * D);
        release(start);
    }
    rmsnorm(m, T, D, u, x, ref_vec(m, D, "model.norm.weight"), p.eps);
    head = ref_mat(m, m->n_vocab, D, get_bool(m->config, "tie_word_embeddings", false) ? "model.embed_tokens.weight" : "lm_head.weight");
    matmul(T, logits, &head, u);
    return logits;
}
