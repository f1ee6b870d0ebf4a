/* ref_v4.c: deepseek_v4 (Flash, Pro): windows and compressed entries, hyper-connections, hash-routed experts.
 *
 * How to read  from the end: ref_v4() is the model, attention() a layer's first half, moe() its second; between them the pieces
 *              in the order of the paper: mHC, compressor, indexer, attention with a sink. Functions without "static" are what
 *              V4.1 kept (ref_v41.c).
 * Symbols      C = n_hc copies X_j of the stream; u the input of a half; d head_dim, of which the last dr are rotated; entries:
 *              compressed rows, one per `ratio` tokens, key and value at once, as all rows here are
 * Official     bf16 wherever round_bf16(), linear() or rmsnorm() stand; matmul() marks what the published code keeps in fp32
 * Traps        comb mixes over its FIRST index; Sinkhorn ends on columns; entries are rotated at their group's first position;
 *              a query sees entries of complete groups only; the output is rotated back at the query's position
 * Source       the published inference code; the paper's CSA (ratio 4) and HCA (ratio 128)
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ref.h"

/* ---- hyper-connections ---- */

struct mhc mhc_of(const json_t *c, double norm_eps)
{
    struct mhc h = {get_int(c, "hc_mult", 4), need_int(c, "hidden_size"), get_int(c, "hc_sinkhorn_iters", 20), norm_eps, get_real(c, "hc_eps", 1e-6)};

    if (h.n_hc < 1 || h.n_hc > HC_MAX)
        die("config.json: hc_mult: expected 1 to %d", HC_MAX);
    return h;
}

/* Rows, then columns, to sums of one; the first row pass is a softmax; eps everywhere; columns last. */
static void sinkhorn(const struct mhc *h, double c[HC_MAX][HC_MAX])
{
    int64_t n = h->n_hc;

    for (int64_t j = 0; j < n; j++) {
        softmax(c[j], n);
        for (int64_t k = 0; k < n; k++)
            c[j][k] += h->eps;
    }
    for (int64_t it = 0; it < h->iters; it++) {
        for (int64_t j = 0; j < n && it > 0; j++) {
            double sum = h->eps;

            for (int64_t k = 0; k < n; k++)
                sum += c[j][k];
            for (int64_t k = 0; k < n; k++)
                c[j][k] /= sum;
        }
        for (int64_t k = 0; k < n; k++) {
            double sum = h->eps;

            for (int64_t j = 0; j < n; j++)
                sum += c[j][k];
            for (int64_t j = 0; j < n; j++)
                c[j][k] /= sum;
        }
    }
}

/* v = [X_0 .. X_C-1],  m = (fn v) / sqrt(mean(v^2) + eps)
 * pre = sigmoid(m s_0 + b) + eps,  post = 2 sigmoid(m s_1 + b),  comb = sinkhorn(m s_2 + b)
 * The weights are named layers.<layer>.<half>_{fn,base,scale}; the head's have pre only. */
struct mix *mhc_mix(const struct ref *m, const struct mhc *h, int64_t T, const double *X, const char *half, int64_t layer)
{
    int64_t n = h->n_hc, wide = n * h->d_model;
    struct mix *mix = space(T, sizeof *mix);
    char name[64];

    if (layer < 0)
        snprintf(name, sizeof name, "%s", half);
    else
        snprintf(name, sizeof name, "layers.%d.%s", (int)layer, half);

    struct mat fn = ref_mat(m, layer < 0 ? n : (2 + n) * n, wide, "%s_fn", name);
    const double *base = ref_vec(m, fn.n_out, "%s_base", name), *scale = ref_vec(m, layer < 0 ? 1 : 3, "%s_scale", name);
    double *raw = array(fn.n_out);

    for (int64_t t = 0; t < T; t++) {
        const double *v = X + t * wide, r = 1 / sqrt(dot(wide, v, v) / (double)wide + h->norm_eps);

        matmul(1, raw, &fn, v);
        for (int64_t j = 0; j < n; j++)
            mix[t].pre[j] = sigmoid(raw[j] * r * scale[0] + base[j]) + h->eps;
        if (layer < 0)
            continue;
        for (int64_t j = 0; j < n; j++)
            mix[t].post[j] = 2 * sigmoid(raw[n + j] * r * scale[1] + base[n + j]);
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = 0; k < n; k++)
                mix[t].comb[j][k] = raw[2 * n + j * n + k] * r * scale[2] + base[2 * n + j * n + k];
        sinkhorn(h, mix[t].comb);
    }
    return mix;
}

/* u = sum_j pre_j X_j */
void mhc_collapse(const struct ref *m, const struct mhc *h, int64_t T, double *u, const double *X, const struct mix *mix)
{
    int64_t D = h->d_model;

    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < D; i++) {
            u[t * D + i] = 0;
            for (int64_t j = 0; j < h->n_hc; j++)
                u[t * D + i] += mix[t].pre[j] * X[(t * h->n_hc + j) * D + i];
        }
    round_bf16(m, u, T * D);
}

/* X'_k = post_k a + sum_j comb_jk X_j */
void mhc_expand(const struct ref *m, const struct mhc *h, int64_t T, double *X, const double *a, const struct mix *mix)
{
    int64_t D = h->d_model, n = h->n_hc;

    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < D; i++) {
            double old[HC_MAX];

            for (int64_t j = 0; j < n; j++)
                old[j] = X[(t * n + j) * D + i];
            for (int64_t k = 0; k < n; k++) {
                double sum = mix[t].post[k] * a[t * D + i];

                for (int64_t j = 0; j < n; j++)
                    sum += mix[t].comb[j][k] * old[j];
                X[(t * n + k) * D + i] = sum;
            }
        }
    round_bf16(m, X, T * n * D);
}

/* ---- the compressor ---- */

/* Entry G, channel i: sum_t w_t z_t, w = softmax_t(g_t), over the tokens of group G. With overlap z and g have 2 dim columns and
 * the group before takes part too: its tokens with columns 0 .. dim - 1, G's own with the others; group 0 has none before. */
double *pool(int64_t n, int64_t ratio, int64_t dim, const double *z, const double *g, bool overlap)
{
    double *E = array(n * dim), *w = array(2 * ratio);
    int64_t cols = overlap ? 2 * dim : dim;

    for (int64_t G = 0; G < n; G++)
        for (int64_t i = 0; i < dim; i++) {
            int64_t first = overlap && G > 0 ? (G - 1) * ratio : G * ratio, count = (G + 1) * ratio - first;

            for (int64_t k = 0; k < count; k++)
                w[k] = g[(first + k) * cols + i + (overlap && first + k >= G * ratio ? dim : 0)];
            softmax(w, count);
            for (int64_t k = 0; k < count; k++)
                E[G * dim + i] += w[k] * z[(first + k) * cols + i + (overlap && first + k >= G * ratio ? dim : 0)];
        }
    return E;
}

struct hp {
    int64_t L, D, H, d, dr, Rq, Ro, window, n_group, index_heads, index_dim, index_topk, n_hash;
    double eps;
    struct mhc mhc;
    struct moe moe;
    struct rope rope, rope_comp;      /* of layers without and with entries */
};

/* z = Wkv u, g = Wgate u + ape[t mod ratio];  e = rope(norm(pool(z, g)), ratio G) */
static double *entries(const struct ref *m, const struct hp *p, const char *where, int64_t ratio, int64_t dim, int64_t T, const double *u)
{
    int64_t n = T / ratio, cols = ratio == 4 ? 2 * dim : dim;
    struct mat wkv = ref_mat(m, cols, p->D, "%s.wkv.weight", where), wgate = ref_mat(m, cols, p->D, "%s.wgate.weight", where);
    const double *ape = ref_vec(m, ratio * cols, "%s.ape", where);
    double *z = array(T * cols), *g = array(T * cols), *e;

    matmul(T, z, &wkv, u);
    matmul(T, g, &wgate, u);
    for (int64_t i = 0; i < T * cols; i++)
        g[i] += ape[i % (ratio * cols)];
    e = pool(n, ratio, dim, z, g, ratio == 4);
    round_bf16(m, e, n * dim);
    rmsnorm(m, n, dim, e, e, ref_vec(m, dim, "%s.norm.weight", where), p->eps);
    for (int64_t G = 0; G < n; G++)
        rotate(&p->rope_comp, e + G * dim + dim - p->dr, ratio * G, NEIGHBOURS, false);
    round_bf16(m, e, n * dim);
    return e;
}

/* ---- the indexer (ratio 4) ---- */

/* w = (Wproj u) / sqrt(dim heads) */
void index_weights(const struct ref *m, int64_t T, double *w, const struct mat *proj, const double *u, int64_t n_head, int64_t dim)
{
    linear(m, T, w, proj, u);
    for (int64_t i = 0; i < T * n_head; i++)
        w[i] /= sqrt((double)(dim * n_head));
    round_bf16(m, w, T * n_head);
}

/* sum_h w_h relu(q_h . k) */
double index_score(const struct ref *m, int64_t n_head, int64_t dim, const double *q, const double *k, const double *w)
{
    double sum = 0;

    for (int64_t h = 0; h < n_head; h++) {
        double s = dot(dim, q + h * dim, k);

        round_bf16(m, &s, 1);
        s = fmax(s, 0) * w[h];
        round_bf16(m, &s, 1);
        sum += s;
    }
    round_bf16(m, &sum, 1);
    return sum;
}

/* sel[t, k]: entries G < (t + 1) / 4 with the best scores, best first, -1 where there are fewer. */
static int64_t *choose(const struct ref *m, const struct hp *p, int64_t layer, int64_t T, const double *u, const double *qr)
{
    int64_t h = p->index_heads, dim = p->index_dim, K = p->index_topk, *sel = space(T * K, sizeof *sel);
    double *q = array(T * h * dim), *w = array(T * h), *score = array(T), *key;
    struct mat wq_b = ref_mat(m, h * dim, p->Rq, "layers.%d.attn.indexer.wq_b.weight", (int)layer),
               proj = ref_mat(m, h, p->D, "layers.%d.attn.indexer.weights_proj.weight", (int)layer);
    char where[64];

    snprintf(where, sizeof where, "layers.%d.attn.indexer.compressor", (int)layer);
    key = entries(m, p, where, 4, dim, T, u);
    linear(m, T, q, &wq_b, qr);
    for (int64_t i = 0; i < T * h; i++)
        rotate(&p->rope_comp, q + i * dim + dim - p->dr, i / h, NEIGHBOURS, false);
    round_bf16(m, q, T * h * dim);
    if (!(dim & (dim - 1))) {         /* orthogonal on both sides: scores change by rounding only */
        for (int64_t i = 0; i < T * h; i++)
            hadamard(q + i * dim, dim);
        for (int64_t i = 0; i < T / 4; i++)
            hadamard(key + i * dim, dim);
        round_bf16(m, q, T * h * dim);
        round_bf16(m, key, T / 4 * dim);
    }
    for (int64_t i = 0; i < T * h; i++)
        fp4_sim(m, q + i * dim, dim);
    for (int64_t i = 0; i < T / 4; i++)
        fp4_sim(m, key + i * dim, dim);
    index_weights(m, T, w, &proj, u, h, dim);
    for (int64_t t = 0; t < T; t++) {
        int64_t n = (t + 1) / 4, k = n < K ? n : K;

        for (int64_t G = 0; G < n; G++)
            score[G] = index_score(m, h, dim, q + t * h * dim, key + G * dim, w + t * h);
        top_k(score, n, k, sel + t * K);
        for (int64_t i = k; i < K; i++)
            sel[t * K + i] = -1;
    }
    return sel;
}

/* ---- attention over a list of rows, each key and value at once; NULL: an empty place ---- */

/* l_i = q . e_i / sqrt(d);  o = sum_i p_i e_i,  p = softmax of [l, sink] without the sink's share */
static void attend_plain(int64_t d, const double *q, const double *const *row, int64_t n, double sink, double *o)
{
    int64_t start = mark();
    double *l = array(n + 1);

    for (int64_t i = 0; i < n; i++)
        l[i] = row[i] ? dot(d, q, row[i]) / sqrt((double)d) : -INFINITY;
    l[n] = sink;
    softmax(l, n + 1);
    memset(o, 0, (size_t)d * sizeof *o);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d && row[i]; j++)
            o[j] += l[i] * row[i][j];
    release(start);
}

/* The same as the published kernel goes: blocks of 64 places, P = exp(l - running maximum) as bf16 in the sum of values. */
static void attend_official(int64_t d, const double *q, const double *const *row, int64_t n, double sink, double *o)
{
    double top = -1e30, den = 0;

    memset(o, 0, (size_t)d * sizeof *o);
    for (int64_t a = 0; a < n; a += 64) {
        int64_t len = n - a < 64 ? n - a : 64;
        double l[64], new_top = top;

        for (int64_t i = 0; i < len; i++) {
            l[i] = row[a + i] ? dot(d, q, row[a + i]) / sqrt((double)d) : -INFINITY;
            new_top = fmax(new_top, l[i]);
        }
        den *= exp(top - new_top);
        for (int64_t j = 0; j < d; j++)
            o[j] *= exp(top - new_top);
        top = new_top;
        for (int64_t i = 0; i < len; i++) {
            double P = exp(l[i] - top);

            den += P;
            for (int64_t j = 0; j < d && row[a + i]; j++)
                o[j] += bf16(P) * row[a + i][j];
        }
    }
    den += exp(sink - top);
    for (int64_t j = 0; j < d; j++)
        o[j] = bf16(o[j] / den);
}

void attend_rows(const struct ref *m, int64_t n_head, int64_t d, const double *q, const double *const *row, int64_t n, const double *sink, double *o)
{
    for (int64_t h = 0; h < n_head; h++)
        (m->official ? attend_official : attend_plain)(d, q + h * d, row, n, sink[h], o + h * d);
}

/* r_g = Wo_a,g o_g (heads in n_group groups);  y = Wo_b [r_0 r_1 ..] */
void grouped_out(const struct ref *m, int64_t layer, int64_t T, int64_t n_group, int64_t rank, int64_t n_in, int64_t D, double *y, const double *o)
{
    struct mat wo_a = ref_mat(m, n_group * rank, n_in / n_group, "layers.%d.attn.wo_a.weight", (int)layer),
               wo_b = ref_mat(m, D, n_group * rank, "layers.%d.attn.wo_b.weight", (int)layer);
    double *r = array(T * wo_a.n_out);

    for (int64_t t = 0; t < T; t++)
        for (int64_t g = 0; g < n_group; g++) {
            struct mat part = rows(&wo_a, g * rank, rank);

            matmul(1, r + t * wo_a.n_out + g * rank, &part, o + (t * n_group + g) * wo_a.n_in);
        }
    round_bf16(m, r, T * wo_a.n_out);         /* bf16 x bf16 there: the input is not quantised */
    linear(m, T, y, &wo_b, r);
}

/* q / sqrt(mean(q^2) + eps) of one head; official: on bf16 tensors, every step's result is one. */
static void head_norm(const struct ref *m, double *q, int64_t d, double eps)
{
    double mean = 0, r;

    for (int64_t i = 0; i < d; i++)
        mean += m->official ? bf16(q[i] * q[i]) : q[i] * q[i];
    mean /= (double)d;
    r = m->official ? bf16(1 / sqrt(bf16(bf16(mean) + eps))) : 1 / sqrt(mean + eps);
    for (int64_t i = 0; i < d; i++)
        q[i] *= r;
    round_bf16(m, q, d);
}

/* qr = norm(Wq_a u), q = rope(headnorm(Wq_b qr)), kv = rope(norm(Wkv u)); rows: the window, then entries */
static void attention(const struct ref *m, const struct hp *p, int64_t layer, int64_t ratio, int64_t T, double *y, const double *u)
{
    int64_t H = p->H, d = p->d, Rq = p->Rq, plain = d - p->dr, n_entry = ratio ? T / ratio : 0, *sel = NULL, pad = m->official ? (T < p->window ? T : p->window) : 0;
    const struct rope *rope = ratio ? &p->rope_comp : &p->rope;
    struct mat wq_a = ref_mat(m, Rq, p->D, "layers.%d.attn.wq_a.weight", (int)layer), wq_b = ref_mat(m, H * d, Rq, "layers.%d.attn.wq_b.weight", (int)layer),
               wkv = ref_mat(m, d, p->D, "layers.%d.attn.wkv.weight", (int)layer);
    const double *sink = ref_vec(m, H, "layers.%d.attn.attn_sink", (int)layer), **row = space(p->window + n_entry, sizeof *row);
    double *qr = array(T * Rq), *q = array(T * H * d), *kv = array(T * d), *entry = NULL, *o = array(T * H * d);

    linear(m, T, qr, &wq_a, u);
    rmsnorm(m, T, Rq, qr, qr, ref_vec(m, Rq, "layers.%d.attn.q_norm.weight", (int)layer), p->eps);
    linear(m, T, q, &wq_b, qr);
    for (int64_t i = 0; i < T * H; i++) {
        head_norm(m, q + i * d, d, p->eps);
        rotate(rope, q + i * d + plain, i / H, NEIGHBOURS, false);
    }
    round_bf16(m, q, T * H * d);
    linear(m, T, kv, &wkv, u);
    rmsnorm(m, T, d, kv, kv, ref_vec(m, d, "layers.%d.attn.kv_norm.weight", (int)layer), p->eps);
    for (int64_t t = 0; t < T; t++)
        rotate(rope, kv + t * d + plain, t, NEIGHBOURS, false);
    round_bf16(m, kv, T * d);
    for (int64_t t = 0; t < T; t++)
        fp8_sim(m, kv + t * d, plain, 64);
    if (ratio) {
        char where[64];

        snprintf(where, sizeof where, "layers.%d.attn.compressor", (int)layer);
        entry = entries(m, p, where, ratio, d, T, u);
        for (int64_t G = 0; G < n_entry; G++)
            fp8_sim(m, entry + G * d, plain, 64);
    }
    if (ratio == 4)
        sel = choose(m, p, layer, T, u, qr);
    for (int64_t t = 0; t < T; t++) {
        int64_t n = 0;

        for (int64_t s = t < p->window ? 0 : t - p->window + 1; s <= t; s++)
            row[n++] = kv + s * d;
        while (n < pad)
            row[n++] = NULL;                  /* the official kernel counts them when it cuts its list into blocks */
        for (int64_t G = 0; G < (ratio ? (t + 1) / ratio : 0) && !sel; G++)
            row[n++] = entry + G * d;
        for (int64_t i = 0; sel && i < p->index_topk && sel[t * p->index_topk + i] >= 0; i++)
            row[n++] = entry + sel[t * p->index_topk + i] * d;
        attend_rows(m, H, d, q + t * H * d, row, n, sink, o + t * H * d);
    }
    for (int64_t i = 0; i < T * H; i++)
        rotate(rope, o + i * d + plain, i / H, NEIGHBOURS, true);
    round_bf16(m, o, T * H * d);
    grouped_out(m, layer, T, p->n_group, p->Ro, H * d, p->D, y, o);
}

/* ---- experts ---- */

struct moe moe_of(const json_t *c)
{
    return (struct moe){.n_expert = need_int(c, "n_routed_experts"),
                        .n_used = need_int(c, "num_experts_per_tok"),
                        .d_model = need_int(c, "hidden_size"),
                        .d_expert = need_int(c, "moe_intermediate_size"),
                        .n_shared = get_int(c, "n_shared_experts", 1),
                        .scale = get_real(c, "routed_scaling_factor", 1),
                        .limit = get_real(c, "swiglu_limit", 0),
                        .temp = get_real(c, "gate_temp", 1),
                        .norm = get_bool(c, "norm_topk_prob", true)};
}

/* y += W2 (w silu(min(W1 x, limit)) clamp(W3 x, +-limit)) */
static void expert(const struct ref *m, const struct mat w[3], double limit, double weight, double *y, const double *x)
{
    int64_t start = mark(), F = w[0].n_out, D = w[1].n_out;
    double *g = array(F), *v = array(F), *out = array(D);

    linear(m, 1, g, &w[0], x);
    linear(m, 1, v, &w[2], x);
    for (int64_t i = 0; i < F; i++) {
        if (limit > 0) {
            g[i] = fmin(g[i], limit);
            v[i] = fmin(fmax(v[i], -limit), limit);
        }
        g[i] = silu(g[i]) * v[i] * weight;
    }
    round_bf16(m, g, F);
    linear(m, 1, out, &w[1], g);
    add(y, out, D);
    release(start);
}

/* s = sqrt(softplus(Wgate u));  chosen: the best of s + bias, or what the table says for this token (hash layers);
 * w = s / sum of the chosen s * scale;  y = sum_e w_e E_e(u) + shared(u) */
void moe(const struct ref *m, const struct moe *hp, int64_t layer, bool hash, int64_t T, const int64_t *id, const double *u, double *y)
{
    int64_t E = hp->n_expert, K = hp->n_used, D = hp->d_model, *best = space(K, sizeof *best);
    struct mat wg = ref_mat(m, E, D, "layers.%d.ffn.gate.weight", (int)layer), table = {0}, w[3];
    const double *bias = hash ? NULL : ref_vec(m, E, "layers.%d.ffn.gate.bias", (int)layer);
    double *s = array(E), *choice = array(E), *weight = array(T * E);
    bool *chosen = space(T * E, sizeof *chosen);

    if (hash)
        table = ref_mat(m, m->n_vocab, K, "layers.%d.ffn.gate.tid2eid", (int)layer);
    for (int64_t t = 0; t < T; t++) {
        double sum = 0;

        matmul(1, s, &wg, u + t * D);
        for (int64_t e = 0; e < E; e++) {
            s[e] /= hp->temp;
            s[e] = sqrt(s[e] > 20 ? s[e] : log1p(exp(s[e])));
            choice[e] = s[e] + (bias ? bias[e] : 0);
        }
        if (hash)
            for (int64_t i = 0; i < K; i++) {
                best[i] = (int64_t)table.w[id[t] * K + i];
                if (best[i] < 0 || best[i] >= E)
                    die("layers.%d.ffn.gate.tid2eid: expert %lld", (int)layer, (long long)best[i]);
            }
        else
            top_k(choice, E, K, best);
        for (int64_t i = 0; i < K; i++)
            sum += s[best[i]];
        for (int64_t i = 0; i < K; i++) {
            chosen[t * E + best[i]] = true;
            weight[t * E + best[i]] = s[best[i]] * hp->scale / (hp->norm ? sum + hp->norm_eps : 1);
        }
    }
    memset(y, 0, (size_t)(T * D) * sizeof *y);
    for (int64_t e = 0; e <= E; e++) {        /* ascending, the shared one last: the order of the official sum */
        int64_t start = mark(), F = e < E ? hp->d_expert : hp->d_expert * hp->n_shared;
        char name[64];

        if (e == E && !hp->n_shared)
            break;
        snprintf(name, sizeof name, e < E ? "layers.%d.ffn.experts.%d" : "layers.%d.ffn.shared_experts", (int)layer, (int)e);
        for (int i = 0; i < 3; i++)
            w[i] = ref_mat(m, i == 1 ? D : F, i == 1 ? F : D, "%s.w%d.weight", name, i + 1);
        for (int64_t t = 0; t < T; t++)
            if (e == E || chosen[t * E + e])
                expert(m, w, hp->limit, e < E ? weight[t * E + e] : 1, y + t * D, u + t * D);
        release(start);
    }
    round_bf16(m, y, T * D);
}

/* ---- the model ---- */

static int64_t ratio_of(const json_t *c, int64_t layer)
{
    const json_t *r = json_array_get(json_object_get(c, "compress_ratios"), (size_t)layer);
    const char *type = json_string_value(json_array_get(json_object_get(c, "layer_types"), (size_t)layer));

    if (json_is_integer(r))
        return json_integer_value(r);
    return !type || !strcmp(type, "sliding_attention") ? 0 : !strcmp(type, "compressed_sparse_attention") ? 4 : 128;
}

static struct hp read_hp(const json_t *c)
{
    const json_t *ropes = json_object_get(c, "rope_parameters"), *comp = json_object_get(ropes, "compress");
    struct hp p = {.L = need_int(c, "num_hidden_layers"),
                   .D = need_int(c, "hidden_size"),
                   .H = need_int(c, "num_attention_heads"),
                   .d = need_int(c, "head_dim"),
                   .dr = need_int(c, "qk_rope_head_dim"),
                   .Rq = need_int(c, "q_lora_rank"),
                   .Ro = need_int(c, "o_lora_rank"),
                   .window = need_int(c, "sliding_window"),
                   .n_group = need_int(c, "o_groups"),
                   .index_heads = get_int(c, "index_n_heads", 64),
                   .index_dim = get_int(c, "index_head_dim", 128),
                   .index_topk = get_int(c, "index_topk", 512),
                   .n_hash = get_int(c, "num_hash_layers", -1),
                   .eps = get_real(c, "rms_norm_eps", 1e-6),
                   .moe = moe_of(c)};
    json_t *none = json_object(), *said = comp ? json_pack("{s:O}", "rope_parameters", comp) : NULL;

    p.mhc = mhc_of(c, p.eps);
    p.rope = rope_of(none, p.dr, get_real(c, "rope_theta", 10000));
    p.rope_comp = rope_of(said ? said : c, p.dr, get_real(c, "compress_rope_theta", 160000));
    p.rope_comp.scale = 1;            /* no magnitude here */
    json_decref(none);
    json_decref(said);
    if (p.n_hash < 0)                 /* transformers' way to say it */
        for (p.n_hash = 0; p.n_hash < p.L; p.n_hash++) {
            const char *type = json_string_value(json_array_get(json_object_get(c, "mlp_layer_types"), (size_t)p.n_hash));

            if (!type || strcmp(type, "hash_moe"))
                break;
        }
    return p;
}

/* A layer: u = norm(collapse(X)), X = expand(X, attention(u)); the same with the experts. In the end y = collapse(X) with a mix
 * of its own, logits = W norm(y). */
double *ref_v4(const struct ref *m, int64_t T, const int64_t *id)
{
    struct hp p = read_hp(m->config);
    int64_t D = p.D, C = p.mhc.n_hc;
    double *logits = array(T * m->n_vocab), *X = array(T * C * D), *u = array(T * D), *a = array(T * D);
    struct mat head;

    embed(m, T, id, D, u, "embed.weight");
    for (int64_t i = 0; i < T * C; i++)
        memcpy(X + i * D, u + i / C * D, (size_t)D * sizeof *X);
    for (int64_t i = 0; i < p.L; i++) {
        int64_t start = mark();
        struct mix *mix;

        mix = mhc_mix(m, &p.mhc, T, X, "hc_attn", i);
        mhc_collapse(m, &p.mhc, T, u, X, mix);
        rmsnorm(m, T, D, u, u, ref_vec(m, D, "layers.%d.attn_norm.weight", (int)i), p.eps);
        attention(m, &p, i, ratio_of(m->config, i), T, a, u);
        mhc_expand(m, &p.mhc, T, X, a, mix);

        mix = mhc_mix(m, &p.mhc, T, X, "hc_ffn", i);
        mhc_collapse(m, &p.mhc, T, u, X, mix);
        rmsnorm(m, T, D, u, u, ref_vec(m, D, "layers.%d.ffn_norm.weight", (int)i), p.eps);
        moe(m, &p.moe, i, i < p.n_hash, T, id, u, a);
        mhc_expand(m, &p.mhc, T, X, a, mix);
        release(start);
    }
    mhc_collapse(m, &p.mhc, T, u, X, mhc_mix(m, &p.mhc, T, X, "hc_head", -1));
    rmsnorm(m, T, D, u, u, ref_vec(m, D, "norm.weight"), p.eps);
    head = ref_mat(m, m->n_vocab, D, "head.weight");
    matmul(T, logits, &head, u);
    return logits;
}
