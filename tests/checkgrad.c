/* checkgrad.c: the gradient section of checkops: every op with a backward, one case list, awkward shapes among them.
 *
 * Asked of each: is the gradient that of the op's definition (ops.h, written down once more in double below), do gradients add up, are
 * their bits the same with one worker and with two? -v prints the distances, --bench times training's products. */
#include "grad_trial.h"
#include "backend/cpu/gemm.h"
#include "ops/learn.h"

#include <time.h>

#define T ((int64_t)t->b.n_tok)

static int one(struct trial *t, const struct hd_tensor *out)
{
    t->out[0] = out;
    return 1;
}

/* t->list as a tensor of the step: what the tape keeps must outlive the call. */
static struct hd_tensor *list_of(struct trial *t, struct hd_stream *s, int64_t n)
{
    struct hd_tensor *x = hd_new(s, HD_I32, t->b.n_tok ? T : hd_rows(&t->in[0]), n);

    memcpy(x->data, t->list, (size_t)hd_elems(x) * 4);
    return x;
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double dot(int64_t n, const double *a, const double *b)
{
    double s = 0;

    for (int64_t i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

static int64_t seq_of(const struct trial *t, int64_t tok)
{
    int64_t q = 0;

    while (tok >= t->span[q].tok0 + t->span[q].n_tok)
        q++;
    return q;
}

static int64_t rows(const struct trial *t, int k) { return t->c->shape[k].rows; }
static int64_t cols(const struct trial *t, int k) { return t->c->shape[k].cols; }

/* ---- rows of tables, products ---- */

static int run_embed(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *o = hd_new(s, HD_F32, T, cols(t, 0));

    hd_embed(s, o, &t->in[0], &t->b);
    return one(t, o);
}

static void ref_embed(const struct trial *t, const double *const *in, double *out)
{
    for (int64_t i = 0; i < T; i++)
        memcpy(out + i * cols(t, 0), in[0] + t->ids[i] * cols(t, 0), (size_t)cols(t, 0) * sizeof *out);
}

static int run_gather(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *o = hd_new(s, HD_F32, t->c->n[0], cols(t, 0));

    for (int64_t i = 0; i < t->c->n[0]; i++)
        t->list[i] = (int32_t)((i * 2 + 1) % rows(t, 0));
    hd_gather(s, o, &t->in[0], t->list);
    return one(t, o);
}

static void ref_gather(const struct trial *t, const double *const *in, double *out)
{
    for (int64_t i = 0; i < t->c->n[0]; i++)
        memcpy(out + i * cols(t, 0), in[0] + t->list[i] * cols(t, 0), (size_t)cols(t, 0) * sizeof *out);
}

/* n[0]: rows a token; the rows meet. */
static int run_table(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *o = hd_new(s, HD_F32, T, t->c->n[0] * cols(t, 0));

    for (int64_t i = 0; i < T * t->c->n[0]; i++)
        t->list[i] = (int32_t)(i * i % rows(t, 0));
    hd_table(s, o, list_of(t, s, t->c->n[0]), &t->in[0]);
    return one(t, o);
}

static void ref_table(const struct trial *t, const double *const *in, double *out)
{
    for (int64_t i = 0; i < T * t->c->n[0]; i++)
        memcpy(out + i * cols(t, 0), in[0] + t->list[i] * cols(t, 0), (size_t)cols(t, 0) * sizeof *out);
}

static void product(int64_t n_tok, int64_t k, int64_t n, const double *x, int64_t ld, const double *w, double *out, int64_t ld_out)
{
    for (int64_t i = 0; i < n_tok; i++)
        for (int64_t r = 0; r < n; r++)
            out[i * ld_out + r] = dot(k, x + i * ld, w + r * k);
}

static int run_matmul(struct trial *t, struct hd_stream *s)
{
    const struct hd_tensor *w[3];
    struct hd_tensor *o[3];
    int n = t->n_in - 1;

    for (int i = 0; i < n; i++) {
        w[i] = &t->in[i + 1];
        t->out[i] = o[i] = hd_new(s, HD_F32, rows(t, 0), hd_rows(w[i]));
    }
    hd_matmul_n(s, n, o, &t->in[0], w);
    return n;
}

static void ref_matmul(const struct trial *t, const double *const *in, double *out)
{
    for (int i = 1; i < t->n_in; i++) {
        product(rows(t, 0), cols(t, 0), rows(t, i), in[0], cols(t, 0), in[i], out, rows(t, i));
        out += rows(t, 0) * rows(t, i);
    }
}

/* Columns n[0] .. of x times rows n[1] .. of w, into columns of something wider: all views. */
static int run_matmul_rows(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0), *wide = hd_new(s, HD_F32, rows(t, 0), 20);

    t->out[0] = hd_slice(s, wide, 3, t->c->n[2]);
    hd_matmul_rows(s, (struct hd_tensor *)t->out[0], hd_slice(s, x, t->c->n[0], cols(t, 1)), &t->in[1], t->c->n[1]);
    return 1;
}

static void ref_matmul_rows(const struct trial *t, const double *const *in, double *out)
{
    product(rows(t, 0), cols(t, 1), t->c->n[2], in[0] + t->c->n[0], cols(t, 0), in[1] + t->c->n[1] * cols(t, 1), out, t->c->n[2]);
}

/* n: groups, stride, first, columns a group */
static int run_group(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *o = hd_new(s, HD_F32, rows(t, 0), t->c->n[0] * t->c->n[3]);

    hd_group_matmul(s, o, &t->in[0], &t->in[1], t->c->n[0], t->c->n[1], t->c->n[2]);
    return one(t, o);
}

static void ref_group(const struct trial *t, const double *const *in, double *out)
{
    int64_t n = t->c->n[3], k = cols(t, 1);

    for (int64_t g = 0; g < t->c->n[0]; g++)
        product(rows(t, 0), k, n, in[0] + g * k, cols(t, 0), in[1] + (g * t->c->n[1] + t->c->n[2]) * k, out + g * n, t->c->n[0] * n);
}

/* n: heads, nope, stride (0: transposed), rope */
static int run_absorb(struct trial *t, struct hd_stream *s)
{
    int64_t h = t->c->n[0], nope = t->c->n[1], rank = t->c->n[2] ? cols(t, 1) : rows(t, 1) / h;
    struct hd_tensor *o = hd_new(s, HD_F32, rows(t, 0), h * (rank + t->c->n[3]));

    if (t->c->n[2])
        hd_absorb(s, o, &t->in[0], &t->in[1], h, nope, t->c->n[2]);
    else
        hd_absorb_t(s, o, &t->in[0], &t->in[1], h, nope);
    return one(t, o);
}

static void ref_absorb(const struct trial *t, const double *const *in, double *out)
{
    int64_t n_head = t->c->n[0], nope = t->c->n[1], stride = t->c->n[2], rope = t->c->n[3], rank = stride ? cols(t, 1) : rows(t, 1) / n_head;

    for (int64_t i = 0; i < rows(t, 0); i++)
        for (int64_t h = 0; h < n_head; h++) {
            const double *q = in[0] + i * cols(t, 0) + h * (nope + rope);

            for (int64_t r = 0; r < rank; r++, out++) {
                *out = 0;
                for (int64_t k = 0; k < nope; k++)
                    *out += q[k] * (stride ? in[1][(h * stride + k) * rank + r] : in[1][(h * rank + r) * nope + k]);
            }
            for (int64_t k = 0; k < rope; k++)
                *out++ = q[nope + k];
        }
}

/* Every fourth token has no target. */
static int run_xent(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *o;

    for (int64_t i = 0; i < rows(t, 0); i++)
        t->list[i] = (int32_t)(i % 4 == 3 ? -1 : i * 5 % rows(t, 1));
    s->target = t->list;
    o = hd_logits_new(s, rows(t, 0), rows(t, 1));
    hd_logits(s, o, &t->in[0], &t->in[1]);
    return one(t, o);
}

static void ref_xent(const struct trial *t, const double *const *in, double *out)
{
    int64_t n = cols(t, 0);

    for (int64_t i = 0; i < rows(t, 0); i++) {
        double sum = 0;

        for (int64_t v = 0; v < rows(t, 1); v++)
            sum += exp(dot(n, in[0] + i * n, in[1] + v * n));
        out[i] = t->list[i] < 0 ? 0 : log(sum) - dot(n, in[0] + i * n, in[1] + t->list[i] * n);
    }
}

/* A teacher gives three ids of each row chances, one of them twice and sometimes the target among them, and has 0.7 of the loss. */
#define N_SOFT 3
static const float soft_p[N_SOFT] = {0.5f, 0.375f, 0.125f};

static int32_t soft_id(const struct trial *t, int64_t i, int k)
{
    return (int32_t)((i * 5 + 2 * (k % 2) * (i % 3)) % rows(t, 1));
}

static int run_soft(struct trial *t, struct hd_stream *s)
{
    static int32_t id[128][N_SOFT];
    static float p[128][N_SOFT];
    static struct hd_soft soft;

    for (int64_t i = 0; i < rows(t, 0); i++)
        for (int k = 0; k < N_SOFT; k++) {
            id[i][k] = soft_id(t, i, k);
            p[i][k] = soft_p[k];
        }
    soft = (struct hd_soft){hd_view2(HD_I32, id, rows(t, 0), N_SOFT), hd_view2(HD_F32, p, rows(t, 0), N_SOFT), 0.7f};
    s->soft = &soft;
    return run_xent(t, s);
}

static void ref_soft(const struct trial *t, const double *const *in, double *out)
{
    int64_t n = cols(t, 0);

    ref_xent(t, in, out);
    for (int64_t i = 0; i < rows(t, 0); i++) {
        double own = t->list[i] < 0 ? 0 : dot(n, in[0] + i * n, in[1] + t->list[i] * n), mixed = (1 - 0.7) * own;

        for (int k = 0; k < N_SOFT; k++)
            mixed += 0.7 * (double)soft_p[k] * dot(n, in[0] + i * n, in[1] + soft_id(t, i, k) * n);
        out[i] = t->list[i] < 0 ? 0 : out[i] + own - mixed;
    }
}

/* The same as run_xent(), and the z-loss. */
static int run_z(struct trial *t, struct hd_stream *s)
{
    static struct hd_learn learn;

    learn = (struct hd_learn){.weight = {[HD_LEARN_Z] = 1}};
    s->learn = &learn;
    run_xent(t, s);
    t->out[1] = (struct hd_tensor *)learn.loss[0].loss;
    return 2;
}

static void ref_z(const struct trial *t, const double *const *in, double *out)
{
    ref_xent(t, in, out);
    for (int64_t i = 0; i < rows(t, 0); i++) {
        double z = out[i] + (t->list[i] < 0 ? 0 : dot(cols(t, 0), in[0] + i * cols(t, 0), in[1] + t->list[i] * cols(t, 0)));

        out[rows(t, 0) + i] = t->list[i] < 0 ? 0 : z * z;
    }
}

/* ---- row ops ---- */

static int run_rmsnorm(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *o = t->c->n[0] ? fresh(t, s, 0) : hd_new(s, HD_F32, rows(t, 0), cols(t, 0));

    hd_rmsnorm(s, o, t->c->n[0] ? o : &t->in[0], &t->in[1], t->c->f[0]);      /* n[0]: onto itself */
    return one(t, o);
}

static void norm_rows(int64_t n, int64_t dim, const double *x, const double *w, double eps, double *out)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < dim; k++)
            out[i * dim + k] = x[i * dim + k] / sqrt(dot(dim, x + i * dim, x + i * dim) / (double)dim + eps) * (w ? w[k] : 1);
}

static void ref_rmsnorm(const struct trial *t, const double *const *in, double *out)
{
    norm_rows(rows(t, 0) * cols(t, 0) / cols(t, 1), cols(t, 1), in[0], in[1], (double)t->c->f[0], out);
}

static int run_head_norm(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0);

    hd_head_norm(s, x, t->c->n[0], t->c->f[0]);
    return one(t, x);
}

static void ref_head_norm(const struct trial *t, const double *const *in, double *out)
{
    norm_rows(rows(t, 0) * cols(t, 0) / t->c->n[0], t->c->n[0], in[0], NULL, (double)t->c->f[0], out);
}

static int run_layernorm(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0), *o = t->c->n[0] ? x : hd_new(s, HD_F32, rows(t, 0), cols(t, 0));

    hd_layernorm(s, o, x, &t->in[1], &t->in[2], t->c->f[0]);
    return one(t, o);
}

static void ref_layernorm(const struct trial *t, const double *const *in, double *out)
{
    int64_t n = cols(t, 0);

    for (int64_t i = 0; i < rows(t, 0); i++) {
        const double *x = in[0] + i * n;
        double mean = 0, var = 0;

        for (int64_t k = 0; k < n; k++)
            mean += x[k] / (double)n;
        for (int64_t k = 0; k < n; k++)
            var += (x[k] - mean) * (x[k] - mean) / (double)n;
        for (int64_t k = 0; k < n; k++)
            *out++ = (x[k] - mean) / sqrt(var + (double)t->c->f[0]) * in[1][k] + in[2][k];
    }
}

static int run_add(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *o = t->c->n[0] ? fresh(t, s, 0) : hd_new(s, HD_F32, rows(t, 0), cols(t, 0));

    hd_add(s, o, t->c->n[0] ? o : &t->in[0], t->n_in > 1 ? &t->in[1] : &t->in[0]);
    return one(t, o);
}

static void ref_add(const struct trial *t, const double *const *in, double *out)
{
    for (int64_t i = 0; i < rows(t, 0) * cols(t, 0); i++)
        out[i] = in[0][i] + in[t->n_in - 1][i];
}

static int run_add_row(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0);

    hd_add_row(s, x, &t->in[1]);
    return one(t, x);
}

static void ref_add_row(const struct trial *t, const double *const *in, double *out)
{
    for (int64_t i = 0; i < rows(t, 0) * cols(t, 0); i++)
        out[i] = in[0][i] + in[1][i % cols(t, 0)];
}

static void wide(struct trial *t)
{
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < hd_elems(&t->in[k]); i++)
            ((float *)t->in[k].data)[i] *= 3;
}

static int run_silu(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *g = fresh(t, s, 0), *u = fresh(t, s, 1), *o = t->c->n[0] ? g : hd_new(s, HD_F32, rows(t, 0), cols(t, 0));

    hd_swiglu(s, o, g, u, t->c->f[0]);
    return one(t, o);
}

static double swiglu(double g, double u, double limit)
{
    if (limit > 0) {
        g = fmin(g, limit);
        u = fmin(fmax(u, -limit), limit);
    }
    return g * sigmoid(g) * u;
}

static void ref_silu(const struct trial *t, const double *const *in, double *out)
{
    for (int64_t i = 0; i < rows(t, 0) * cols(t, 0); i++)
        out[i] = swiglu(in[0][i], in[1][i], (double)t->c->f[0]);
}

/* n: head_dim, pairs, first, frequencies, inverse */
static int run_rope(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0), *table = hd_new(s, HD_F32, T, 2 * t->c->n[3]);
    struct hd_tensor *freq = hd_new(s, HD_F32, 1, t->c->n[3]);

    for (int64_t i = 0; i < t->c->n[3]; i++)
        ((float *)freq->data)[i] = 0.7f / (float)(i + 1);
    hd_rope_table(s, table, &t->b, freq, 1.5f);
    hd_rope_at(s, x, table, t->c->n[0], t->c->n[1], t->c->n[2], t->c->n[4]);
    return one(t, x);
}

static void ref_rope(const struct trial *t, const double *const *in, double *out)
{
    int64_t dim = t->c->n[0], n = t->c->n[3], step = t->c->n[1] ? 2 : 1, far = t->c->n[1] ? 1 : n;

    memcpy(out, in[0], (size_t)(T * cols(t, 0)) * sizeof *out);
    for (int64_t i = 0; i < T; i++)
        for (int64_t h = 0; h < cols(t, 0); h += dim)
            for (int64_t k = 0; k < n; k++) {
                double *a = out + i * cols(t, 0) + h + t->c->n[2] + k * step, *b = a + far, x = *a, y = *b;
                double ang = (double)((float)t->pos[i] * (0.7f / (float)(k + 1))), c = 1.5 * cos(ang), sn = (t->c->n[4] ? -1.5 : 1.5) * sin(ang);

                *a = x * c - y * sn;
                *b = y * c + x * sn;
            }
}

static int run_scale(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0);

    hd_scale(s, x, t->c->f[0]);
    return one(t, x);
}

static void ref_scale(const struct trial *t, const double *const *in, double *out)
{
    for (int64_t i = 0; i < rows(t, 0) * cols(t, 0); i++)
        out[i] = in[0][i] * (double)t->c->f[0];
}

static int run_hadamard(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0);

    hd_hadamard(s, x, t->c->n[0]);
    return one(t, x);
}

static void ref_hadamard(const struct trial *t, const double *const *in, double *out)
{
    int64_t n = t->c->n[0];

    for (int64_t i = 0; i < rows(t, 0) * cols(t, 0); i++) {
        out[i] = 0;
        for (int64_t k = 0; k < n; k++)
            out[i] += in[0][i / n * n + k] * (__builtin_popcountll((unsigned long long)(i % n & k)) % 2 ? -1 : 1) / sqrt((double)n);
    }
}

static int run_simulate(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0);

    hd_sim_kv(s, x, HD_SIM_FP8, 8, cols(t, 0), 8, true);
    return one(t, x);
}

static void ref_same(const struct trial *t, const double *const *in, double *out)
{
    memcpy(out, in[0], (size_t)(rows(t, 0) * cols(t, 0)) * sizeof *out);
}

static int run_copies(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = hd_new(s, HD_F32, rows(t, 0), cols(t, 0) * t->c->n[0]);

    hd_copies(s, x, &t->in[0]);
    return one(t, x);
}

static void ref_copies(const struct trial *t, const double *const *in, double *out)
{
    for (int64_t i = 0; i < rows(t, 0) * t->c->n[0]; i++)
        memcpy(out + i * cols(t, 0), in[0] + i / t->c->n[0] * cols(t, 0), (size_t)cols(t, 0) * sizeof *out);
}

/* ---- hyper-connections: n: n_hc, iterations, form ---- */

static int run_mix(struct trial *t, struct hd_stream *s)
{
    struct hd_mhc_hp hp = {t->c->n[0], t->c->n[1], t->c->f[0], t->c->f[1], t->c->n[2]};
    struct hd_tensor *m = hd_new(s, HD_F32, rows(t, 0), rows(t, 1));

    hd_mhc_mix(s, m, &t->in[0], &t->in[1], &t->in[2], &t->in[3], &hp);
    return one(t, m);
}

/* m becomes the doubly stochastic comb: rows and columns divided by their sums in turn. */
static void ref_sinkhorn(int64_t n, int64_t n_iter, double eps, bool paper, double *m)
{
    double y[64];

    for (int64_t i = 0; i < n * n; i++)
        m[i] = exp(m[i]);
    for (int64_t it = 0; it < 2 * n_iter; it++) {
        bool by_row = it % 2 == (paper ? 1 : 0);

        for (int64_t i = 0; i < n * n; i++) {
            double sum = 0;

            for (int64_t k = 0; k < n; k++)
                sum += m[by_row ? i / n * n + k : k * n + i % n];
            y[i] = paper ? m[i] / sum : it == 0 ? m[i] / sum + eps : m[i] / (sum + eps);
        }
        memcpy(m, y, (size_t)(n * n) * sizeof *m);
    }
    for (int64_t i = 0; i < n * n && paper; i++)
        m[i] = y[i % n * n + i / n];
}

static void ref_mix(const struct trial *t, const double *const *in, double *out)
{
    int64_t n_hc = t->c->n[0], n_mix = rows(t, 1), n = cols(t, 0);

    for (int64_t i = 0; i < rows(t, 0); i++, out += n_mix) {
        const double *x = in[0] + i * n;
        double r = 1 / sqrt(dot(n, x, x) / (double)n + (double)t->c->f[0]);

        for (int64_t k = 0; k < n_mix; k++) {
            double raw = dot(n, x, in[1] + k * n) * r, a = in[3][k < 2 * n_hc ? k / n_hc : 2], z = raw * a + in[2][k];

            if (t->c->n[2] == HD_MHC_FREE) {
                out[k] = tanh(raw) * a + in[2][k];
                continue;
            }
            out[k] = k < n_hc ? sigmoid(z) + (t->c->n[2] ? 0 : (double)t->c->f[1]) : k < 2 * n_hc ? 2 * sigmoid(z) : z;
        }
        if (n_mix > n_hc && t->c->n[2] != HD_MHC_FREE)
            ref_sinkhorn(n_hc, t->c->n[1], (double)t->c->f[1], t->c->n[2], out + 2 * n_hc);
    }
}

/* n[1]: 0 by mix, 1 the mean, 2 stream 0 */
static int run_pre(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *u = hd_new(s, HD_F32, rows(t, 0), cols(t, 0) / t->c->n[0]);

    if (t->c->n[1] == 1)
        hd_mhc_mean(s, u, &t->in[0], t->c->n[0]);
    else
        hd_mhc_pre(s, u, &t->in[0], t->c->n[1] ? NULL : &t->in[1], t->c->n[0]);
    return one(t, u);
}

static void ref_pre(const struct trial *t, const double *const *in, double *out)
{
    int64_t n_hc = t->c->n[0], n = cols(t, 0) / n_hc;

    for (int64_t i = 0; i < rows(t, 0); i++)
        for (int64_t k = 0; k < n; k++, out++) {
            *out = 0;
            for (int64_t j = 0; j < n_hc; j++)
                *out += in[0][(i * n_hc + j) * n + k] * (t->c->n[1] == 1 ? 1 / (double)n_hc : t->c->n[1] ? j == 0 : in[1][i * cols(t, 1) + j]);
        }
}

static int run_post(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0);

    hd_mhc_post(s, x, &t->in[1], &t->in[2], t->c->n[0]);
    return one(t, x);
}

static void ref_post(const struct trial *t, const double *const *in, double *out)
{
    int64_t n_hc = t->c->n[0], n = cols(t, 1);

    for (int64_t i = 0; i < rows(t, 0); i++)
        for (int64_t k = 0; k < n_hc; k++)
            for (int64_t e = 0; e < n; e++, out++) {
                const double *mix = in[2] + i * cols(t, 2);

                *out = mix[n_hc + k] * in[1][i * n + e];
                for (int64_t j = 0; j < n_hc; j++)
                    *out += mix[(2 + j) * n_hc + k] * in[0][(i * n_hc + j) * n + e];
            }
}

/* ---- attention ---- */

/* n: key heads, head_dim, window */
static int run_attend(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *o = hd_new(s, HD_F32, T, cols(t, 0));

    make_parts(t, cols(t, 1), 1, false);
    hd_kv_put(s, &t->in[1], &t->b, 0, HD_F32);
    hd_kv_put(s, &t->in[2], &t->b, 1, HD_F32);
    hd_attend(s, o, &t->in[0], &t->b, 0, 1, HD_F32, t->c->n[0], t->c->n[1], t->c->n[2], t->c->f[0]);
    return one(t, o);
}

/* out[vdim] = softmax(scale q k, sink) v over n keys and values, sink NULL: none. */
static void ref_softmax(int64_t n, int64_t dim, int64_t vdim, double scale, const double *q, const double *const *key, const double *const *value, const double *sink, double *out)
{
    double den = sink ? exp(*sink) : 0;

    memset(out, 0, (size_t)vdim * sizeof *out);
    for (int64_t i = 0; i < n; i++) {
        double p = exp(scale * dot(dim, q, key[i]));

        den += p;
        for (int64_t k = 0; k < vdim; k++)
            out[k] += p * value[i][k];
    }
    for (int64_t k = 0; k < vdim; k++)
        out[k] /= den;
}

static void ref_attend(const struct trial *t, const double *const *in, double *out)
{
    int64_t dim = t->c->n[1], window = t->c->n[2], n_head = cols(t, 0) / dim, group = n_head / t->c->n[0];
    const double *key[128], *value[128];

    for (int64_t i = 0; i < T; i++)
        for (int64_t h = 0; h < n_head; h++) {
            int64_t n = 0, first = t->span[seq_of(t, i)].tok0;

            for (int64_t j = window && i + 1 - window > first ? i + 1 - window : first; j <= i; j++, n++) {
                key[n] = in[1] + j * cols(t, 1) + h / group * dim;
                value[n] = in[2] + j * cols(t, 1) + h / group * dim;
            }
            ref_softmax(n, dim, dim, (double)t->c->f[0], in[0] + i * cols(t, 0) + h * dim, key, value, NULL, out + (i * n_head + h) * dim);
        }
}

/* Inputs q, kv, entries, sink. n: heads, head_dim, window, ratio (0: no entries), top_k (0: all of them), value_dim, no sink */
static int run_sel(struct trial *t, struct hd_stream *s)
{
    const int64_t *n = t->c->n;
    int64_t vdim = n[5] ? n[5] : n[1];
    struct hd_tensor *o = hd_new(s, HD_F32, T, n[0] * vdim);
    struct hd_attend_sel_hp hp = {.n_head = n[0], .head_dim = n[1], .window = n[2], .ratio = n[3] ? n[3] : 1, .part_window = 0, .part_entry = n[3] ? 1 : -1, .scale = t->c->f[0], .value_dim = n[5]};

    make_parts(t, n[1], (int)n[3], false);
    for (int q = 0; q < t->b.n_seq; q++)
        t->part[q * 2] = (struct hd_paged){.own = t->ring, .ring = 64, .row_bytes = n[1] * 4, .ratio = 1, .type = HD_F32};
    if (n[3])
        hd_kv_put(s, &t->in[2], hd_entries(s, &t->b, n[3]), 1, HD_F32);
    for (int64_t i = 0; i < T; i++)                   /* the newest entries, every second one left out; -1 behind them */
        for (int64_t k = 0; k < n[4]; k++)
            t->list[i * n[4] + k] = (int32_t)((t->pos[i] + 1) / n[3] - 1 - 2 * k < 0 ? -1 : (t->pos[i] + 1) / n[3] - 1 - 2 * k);
    hd_attend_sel(s, o, &t->in[0], &t->in[1], n[4] ? list_of(t, s, n[4]) : NULL, n[6] ? NULL : &t->in[t->n_in - 1], &t->b, &hp);
    return one(t, o);
}

static void ref_sel(const struct trial *t, const double *const *in, double *out)
{
    const int64_t *n = t->c->n;
    int64_t vdim = n[5] ? n[5] : n[1];
    const double *key[256];

    for (int64_t i = 0; i < T; i++)
        for (int64_t h = 0; h < n[0]; h++) {
            int64_t q = seq_of(t, i), first = t->span[q].tok0, m = 0, e0 = 0, count = n[3] ? (t->pos[i] + 1) / n[3] : 0;

            for (int64_t k = 0; k < q && n[3]; k++)
                e0 += t->span[k].n_tok / n[3];
            for (int64_t j = i + 1 - n[2] > first ? i + 1 - n[2] : first; j <= i; j++)
                key[m++] = in[1] + j * n[1];
            for (int64_t k = 0; k < (n[4] ? n[4] : count); k++)
                if (!n[4] || t->list[i * n[4] + k] >= 0)
                    key[m++] = in[2] + (e0 + (n[4] ? t->list[i * n[4] + k] : k)) * n[1];
            ref_softmax(m, n[1], vdim, (double)t->c->f[0], in[0] + (i * n[0] + h) * n[1], key, key, n[6] ? NULL : in[t->n_in - 1] + h, out + (i * n[0] + h) * vdim);
        }
}

/* ---- what learns beside the logits ---- */

/* Inputs iq, wt, keys, and behind them q, kv, entries, sink made from n alone: their gradients are none. n: heads, head_dim, window, ratio, top_k (0: all), index heads, index dim */
static struct hd_tensor *fixed(struct hd_stream *s, int64_t n_row, int64_t n_col, double f)
{
    struct hd_tensor *x = hd_new(s, HD_F32, n_row, n_col);

    for (int64_t i = 0; i < n_row * n_col; i++)
        ((float *)x->data)[i] = (float)sin(f * (double)(i + 1));
    return x;
}

static int run_index_loss(struct trial *t, struct hd_stream *s)
{
    const int64_t *n = t->c->n;
    struct hd_tensor *o = hd_new(s, HD_F32, T, 1), *key = hd_new(s, HD_F32, rows(t, 2), n[6]);
    struct hd_index_loss_hp hp = {.attend = {.n_head = n[0], .head_dim = n[1], .window = n[2], .ratio = n[3], .part_window = -1, .part_entry = 0, .scale = t->c->f[0]},
                                  .index_heads = n[5], .index_dim = n[6], .part_key = 1};

    make_parts(t, n[1], (int)n[3], false);
    for (int q = 0; q < t->b.n_seq; q++)
        t->part[q * 2].ratio = (int)n[3];
    hd_copies(s, key, &t->in[2]);
    hd_kv_put(s, fixed(s, rows(t, 2), n[1], 0.7), hd_entries(s, &t->b, n[3]), 0, HD_F32);
    hd_kv_put(s, key, hd_entries(s, &t->b, n[3]), 1, HD_F32);
    for (int64_t i = 0; i < T; i++) {
        t->ids[i] = i % 5 == 3 ? -1 : 0;              /* here: targets */
        for (int64_t k = 0; k < n[4]; k++)
            t->list[i * n[4] + k] = (int32_t)((t->pos[i] + 1) / n[3] - 1 - 2 * k < 0 ? -1 : (t->pos[i] + 1) / n[3] - 1 - 2 * k);
    }
    hd_index_loss(s, o, &t->in[0], &t->in[1], fixed(s, T, n[0] * n[1], 0.9), n[2] ? fixed(s, T, n[1], 1.3) : NULL, n[4] ? list_of(t, s, n[4]) : NULL, fixed(s, 1, n[0], 0.4), &t->b, t->ids, &hp);
    return one(t, o);
}

static double wave(double f, int64_t i)
{
    return (double)(float)sin(f * (double)(i + 1));
}

static void ref_index_loss(const struct trial *t, const double *const *in, double *out)
{
    const int64_t *n = t->c->n;

    for (int64_t i = 0; i < T; i++) {
        int64_t q = seq_of(t, i), first = t->span[q].tok0, e0 = 0, m = 0, at[256];
        double p[256] = {0}, score[256], all = 0, lse = 0;

        for (int64_t k = 0; k < q; k++)
            e0 += t->span[k].n_tok / n[3];
        for (int64_t k = 0; k < (n[4] ? n[4] : (t->pos[i] + 1) / n[3]); k++)
            if (!n[4] || t->list[i * n[4] + k] >= 0)
                at[m++] = e0 + (n[4] ? t->list[i * n[4] + k] : k);
        for (int64_t h = 0; h < n[0]; h++) {
            double e[512], sum = exp(wave(0.4, h));
            int64_t c = 0;

            for (int64_t k = 0; k < m; k++, c++)
                for (int64_t d = e[c] = 0; d < n[1]; d++)
                    e[c] += (double)t->c->f[0] * wave(0.9, (i * n[0] + h) * n[1] + d) * wave(0.7, at[k] * n[1] + d);
            for (int64_t j = i + 1 - n[2] > first ? i + 1 - n[2] : first; j <= i; j++, c++)
                for (int64_t d = e[c] = 0; d < n[1]; d++)
                    e[c] += (double)t->c->f[0] * wave(0.9, (i * n[0] + h) * n[1] + d) * wave(1.3, j * n[1] + d);
            for (int64_t k = 0; k < c; k++)
                sum += exp(e[k]);
            for (int64_t k = 0; k < m; k++)
                p[k] += exp(e[k]) / sum;
        }
        for (int64_t k = 0; k < m; k++) {
            score[k] = 0;
            all += p[k];
            for (int64_t h = 0; h < n[5]; h++)
                score[k] += in[1][i * n[5] + h] * fmax(0, dot(n[6], in[0] + (i * n[5] + h) * n[6], in[2] + at[k] * n[6]));
            lse += exp(score[k]);
        }
        out[i] = 0;
        for (int64_t k = 0; k < m && t->ids[i] >= 0; k++)
            out[i] += p[k] / all * (log(p[k] / all) - score[k] + log(lse));
    }
}

/* Inputs q, kv (both of the blocks' rows), main, sink. n: heads, head_dim, window, block */
static int run_block(struct trial *t, struct hd_stream *s)
{
    const int64_t *n = t->c->n;
    struct hd_tensor *o = hd_new(s, HD_F32, rows(t, 0), cols(t, 0));
    struct hd_attend_block_hp hp = {n[0], n[1], n[2], n[3], t->c->f[0]};

    for (int64_t i = 0; i < rows(t, 0) / n[3]; i++)
        t->list[i] = (int32_t)((i * 5 + 1) % T);
    hd_attend_block(s, o, &t->in[0], &t->in[1], &t->in[2], &t->in[3], &t->b, t->list, &hp);
    return one(t, o);
}

static void ref_block(const struct trial *t, const double *const *in, double *out)
{
    const int64_t *n = t->c->n;
    const double *key[256];

    for (int64_t i = 0; i < rows(t, 0); i++) {
        int64_t a = t->list[i / n[3]], first = t->span[seq_of(t, a)].tok0, m = 0;

        for (int64_t j = a + 1 - n[2] > first ? a + 1 - n[2] : first; j <= a; j++)
            key[m++] = in[2] + j * n[1];
        for (int64_t j = i / n[3] * n[3]; j < (i / n[3] + 1) * n[3]; j++)
            key[m++] = in[1] + j * n[1];
        for (int64_t h = 0; h < n[0]; h++)
            ref_softmax(m, n[1], n[1], (double)t->c->f[0], in[0] + (i * n[0] + h) * n[1], key, key, in[3] + h, out + (i * n[0] + h) * n[1]);
    }
}

/* Inputs x, x2, w2; the head, which learns nothing from it, is made from n[0] alone. */
static int run_draft_loss(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *o = hd_new(s, HD_F32, rows(t, 0), 1);

    for (int64_t i = 0; i < rows(t, 0); i++)
        t->list[i] = i % 4 == 2 ? -1 : (int32_t)(i * 3 % rows(t, 2));
    hd_draft_loss(s, o, &t->in[0], fixed(s, rows(t, 2), cols(t, 0), 0.3), &t->in[1], &t->in[2], t->list);
    return one(t, o);
}

static void ref_draft_loss(const struct trial *t, const double *const *in, double *out)
{
    for (int64_t i = 0; i < rows(t, 0); i++) {
        double sum = 0, own = 0;

        for (int64_t v = 0; v < rows(t, 2); v++) {
            double l = dot(cols(t, 1), in[1] + i * cols(t, 1), in[2] + v * cols(t, 1));

            for (int64_t d = 0; d < cols(t, 0); d++)
                l += in[0][i * cols(t, 0) + d] * wave(0.3, v * cols(t, 0) + d);
            sum += exp(l);
            own = v == t->list[i] ? l : own;
        }
        out[i] = t->list[i] < 0 ? 0 : log(sum) - own;
    }
}

/* Input z; losses are made from nothing. */
static int run_confidence(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *o = hd_new(s, HD_F32, rows(t, 0), 1), *loss = hd_new(s, HD_F32, rows(t, 0), 1);

    for (int64_t i = 0; i < rows(t, 0); i++) {
        t->list[i] = i % 4 == 2 ? -1 : 0;
        ((float *)loss->data)[i] = 0.25f * (float)i;
    }
    hd_confidence_loss(s, o, &t->in[0], loss, t->list);
    return one(t, o);
}

static void ref_confidence(const struct trial *t, const double *const *in, double *out)
{
    for (int64_t i = 0; i < rows(t, 0); i++) {
        double p = sigmoid(in[0][i]), c = exp(-0.25 * (double)i);

        out[i] = t->list[i] < 0 ? 0 : -c * log(p) - (1 - c) * log(1 - p);
    }
}

/* Inputs z, g and perhaps ape. n: ratio, overlap, entries in all */
static int run_pool(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *e = hd_new(s, HD_F32, t->c->n[2], cols(t, 0) / (t->c->n[1] ? 2 : 1)), *z = fresh(t, s, 0), *g = fresh(t, s, 1);

    make_parts(t, 2 * cols(t, 0), 1, true);
    hd_pool(s, e, z, g, t->n_in > 2 ? &t->in[2] : NULL, &t->b, 0, t->c->n[0], t->c->n[1]);
    t->out[0] = e;
    t->out[1] = z;
    t->out[2] = g;
    return 3;
}

static void ref_pool(const struct trial *t, const double *const *in, double *out)
{
    int64_t ratio = t->c->n[0], wide_n = cols(t, 0), n = wide_n / (t->c->n[1] ? 2 : 1);

    for (int64_t q = 0; q < t->b.n_seq; q++)
        for (int64_t e = 0; e < t->span[q].n_tok / ratio; e++)
            for (int64_t i = 0; i < n; i++, out++) {
                double sum = 0, acc = 0;

                for (int64_t p = (e - (t->c->n[1] ? 1 : 0)) * ratio; p < (e + 1) * ratio; p++) {
                    int64_t at = i + (t->c->n[1] && p >= e * ratio ? n : 0);
                    double w;

                    if (p < 0)
                        continue;
                    w = exp(in[1][(t->span[q].tok0 + p) * wide_n + at] + (t->n_in > 2 ? in[2][p % ratio * wide_n + at] : 0));
                    sum += w;
                    acc += w * in[0][(t->span[q].tok0 + p) * wide_n + at];
                }
                *out = acc / sum;
            }
    memcpy(out, in[0], (size_t)(T * wide_n) * sizeof *out);
    out += T * wide_n;
    for (int64_t i = 0; i < T * wide_n; i++)
        out[i] = in[1][i] + (t->n_in > 2 ? in[2][t->pos[i / wide_n] % ratio * wide_n + i % wide_n] : 0);
}

/* ---- experts ---- */

/* n: chosen, groups, groups chosen, fn, norm, by bias, by table */
static int run_gate(struct trial *t, struct hd_stream *s)
{
    const int64_t *n = t->c->n;
    struct hd_gate_hp hp = {.n_expert = cols(t, 0), .n_used = n[0], .n_group = n[1], .n_group_used = n[2], .fn = (enum hd_gate_fn)n[3], .norm = n[4], .group_top2 = true,
                            .norm_eps = 1e-3f, .scale = t->c->f[0], .temp = t->c->f[1]};
    struct hd_tensor *idx = hd_new(s, HD_I32, T, n[0]), *w = hd_new(s, HD_F32, T, n[0]), *bias = hd_new(s, HD_F32, 1, hp.n_expert), *table = hd_new(s, HD_I64, 5, n[0]);

    for (int64_t i = 0; i < hp.n_expert; i++)
        ((float *)bias->data)[i] = (float)(i % 3);
    for (int64_t i = 0; i < 5 * n[0]; i++)            /* some name an expert twice */
        ((int64_t *)table->data)[i] = i * i % hp.n_expert;
    hd_gate(s, idx, w, &t->in[0], n[5] ? bias : NULL, n[6] ? table : NULL, &t->b, &hp);
    for (int64_t i = 0; i < T * n[0]; i++)
        t->list[i] = ((int32_t *)idx->data)[i];
    return one(t, w);
}

static void ref_gate(const struct trial *t, const double *const *in, double *out)
{
    int64_t n = cols(t, 0), used = t->c->n[0];

    for (int64_t i = 0; i < T; i++, out += used) {
        double score[64], sum = 1e-3, all = 0;

        for (int64_t e = 0; e < n; e++) {
            double x = in[0][i * n + e] / (double)t->c->f[1];

            all += score[e] = t->c->n[3] == HD_GATE_SOFTMAX ? exp(x) : t->c->n[3] == HD_GATE_SIGMOID ? sigmoid(x) : sqrt(log1p(exp(x)));
        }
        for (int64_t e = 0; e < n && t->c->n[3] == HD_GATE_SOFTMAX; e++)
            score[e] /= all;
        for (int64_t k = 0; k < used; k++)
            sum += score[t->list[i * used + k]];
        for (int64_t k = 0; k < used; k++)
            out[k] = score[t->list[i * used + k]] / (t->c->n[4] ? sum : 1) * (double)t->c->f[0];
    }
}

/* Inputs x, weight, gate, up, down (all experts'). n: experts, chosen, weight first; expert 1 is nobody's */
static int run_moe(struct trial *t, struct hd_stream *s)
{
    int64_t E = t->c->n[0], k = t->c->n[1], d = cols(t, 0), f = rows(t, 2) / E;
    struct hd_moe_hp hp = {.n_expert = E, .limit = t->c->f[0], .weight_first = t->c->n[2]};
    struct hd_tensor *o = hd_new(s, HD_F32, rows(t, 0), d);
    static struct hd_tensor gate[16], up[16], down[16];

    for (int64_t e = 0; e < E; e++) {
        gate[e] = hd_view2(HD_F32, (float *)t->in[2].data + e * f * d, f, d);
        up[e] = hd_view2(HD_F32, (float *)t->in[3].data + e * f * d, f, d);
        down[e] = hd_view2(HD_F32, (float *)t->in[4].data + e * f * d, d, f);
    }
    for (int64_t i = 0; i < rows(t, 0); i++)
        for (int64_t c = 0; c < k; c++)
            t->list[i * k + c] = (int32_t)((i + 2 * c) % E == 1 ? 0 : (i + 2 * c) % E);
    hd_moe(s, o, &t->in[0], list_of(t, s, k), &t->in[1], gate, up, down, &hp);
    return one(t, o);
}

static void ref_moe(const struct trial *t, const double *const *in, double *out)
{
    int64_t E = t->c->n[0], k = t->c->n[1], d = cols(t, 0), f = rows(t, 2) / E;

    memset(out, 0, (size_t)(rows(t, 0) * d) * sizeof *out);
    for (int64_t i = 0; i < rows(t, 0); i++)
        for (int64_t c = 0; c < k; c++) {
            int64_t e = t->list[i * k + c];

            for (int64_t r = 0; r < f; r++) {
                double a = swiglu(dot(d, in[0] + i * d, in[2] + (e * f + r) * d), dot(d, in[0] + i * d, in[3] + (e * f + r) * d), (double)t->c->f[0]);

                for (int64_t o = 0; o < d; o++)
                    out[i * d + o] += in[1][i * k + c] * a * in[4][(e * d + o) * f + r];
            }
        }
}

/* ---- n-gram memory ---- */

/* Keys along the streams, up to noise and sign: the gate's root has no slope at 0. */
static void along(struct trial *t)
{
    int64_t n_hc = t->c->n[0], d = cols(t, 0) / n_hc;

    for (int64_t i = 0; i < rows(t, 0) * n_hc * d; i++) {
        int64_t tok = i / (n_hc * d), k = i % (n_hc * d);
        float *key = (float *)t->in[1].data + tok * cols(t, 1) + k;

        *key = *key * 0.3f + ((float *)t->in[0].data)[i] * ((tok + k / d) % 2 ? -1.0f : 1.0f);
    }
    for (int k = 2; k < 4; k++)
        for (int64_t i = 0; i < n_hc * d; i++)
            ((float *)t->in[k].data)[i] = 1 + 0.3f * ((float *)t->in[k].data)[i];
}

/* Inputs X, kv, q, k. n: n_hc, value only */
static int run_engram(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0), *v = t->c->n[1] ? hd_new(s, HD_F32, rows(t, 0), cols(t, 0)) : x;

    if (t->c->n[1])
        hd_engram_value(s, v, x, &t->in[1], &t->in[2], &t->in[3], t->c->n[0], t->c->f[0]);
    else
        hd_engram(s, x, &t->in[1], &t->in[2], &t->in[3], t->c->n[0], t->c->f[0]);
    return one(t, v);
}

static void ref_engram(const struct trial *t, const double *const *in, double *out)
{
    int64_t n_hc = t->c->n[0], d = cols(t, 0) / n_hc;

    for (int64_t i = 0; i < rows(t, 0); i++)
        for (int64_t c = 0; c < n_hc; c++, out += d) {
            const double *x = in[0] + (i * n_hc + c) * d, *kv = in[1] + i * cols(t, 1), *key = kv + c * d;
            double a = 0, gate, eps = (double)t->c->f[0];

            for (int64_t k = 0; k < d; k++)
                a += x[k] * in[2][c * d + k] * in[3][c * d + k] * key[k];
            a /= sqrt(dot(d, x, x) / (double)d + eps) * sqrt(dot(d, key, key) / (double)d + eps) * sqrt((double)d);
            gate = sigmoid(copysign(sqrt(fmax(fabs(a), 1e-6)), a));
            for (int64_t k = 0; k < d; k++)
                out[k] = (t->c->n[1] ? 0 : x[k]) + gate * kv[n_hc * d + k];
        }
}

/* Inputs x, v, u, w. n: dilation */
static int run_conv(struct trial *t, struct hd_stream *s)
{
    struct hd_tensor *x = fresh(t, s, 0);

    make_parts(t, cols(t, 0), 1, true);
    hd_short_conv(s, x, &t->in[1], &t->in[2], &t->in[3], &t->b, cols(t, 3) > 1 ? 0 : -1, t->c->n[0]);
    return one(t, x);
}

static void ref_conv(const struct trial *t, const double *const *in, double *out)
{
    int64_t n = cols(t, 0), K = cols(t, 3);

    for (int64_t i = 0; i < T; i++)
        for (int64_t c = 0; c < n; c++) {
            double y = 0;

            for (int64_t k = 0; k < K; k++)
                if (t->pos[i] >= (K - 1 - k) * t->c->n[0])
                    y += in[3][c * K + k] * in[2][(i - (K - 1 - k) * t->c->n[0]) * n + c];
            out[i * n + c] = in[0][i * n + c] + in[1][i * n + c] + y * sigmoid(y);
        }
}

/* ---- the list ---- */

static const struct grad_case cases[] = {
    {"embed", run_embed, ref_embed, .shape = {{5, 12}}, .len = {7}},
    {"embed, one token", run_embed, ref_embed, .shape = {{5, 3}}, .len = {1}},
    {"embed, wide", run_embed, ref_embed, .shape = {{5, 400}}, .len = {30, 40}},
    {"gather", run_gather, ref_gather, .shape = {{6, 9}}, .n = {4}},
    {"gather, rows meet", run_gather, ref_gather, .shape = {{3, 5}}, .n = {8}},
    {"table", run_table, ref_table, .shape = {{9, 4}}, .n = {3}, .len = {5, 1}},
    {"table, one row", run_table, ref_table, .shape = {{1, 6}}, .n = {2}, .len = {4}},
    {"matmul", run_matmul, ref_matmul, .shape = {{5, 24}, {7, 24}}},
    {"matmul, one token", run_matmul, ref_matmul, .shape = {{1, 33}, {3, 33}}},
    {"matmul, three weights", run_matmul, ref_matmul, .shape = {{50, 20}, {9, 20}, {1, 20}, {17, 20}}},
    {"matmul, many tokens", run_matmul, ref_matmul, .shape = {{130, 64}, {70, 64}}},
    {"matmul, views", run_matmul_rows, ref_matmul_rows, .shape = {{6, 18}, {15, 8}}, .n = {5, 4, 9}},
    {"xent", run_xent, ref_xent, .shape = {{6, 5}, {9, 5}}},
    {"xent, one token", run_xent, ref_xent, .shape = {{1, 8}, {3, 8}}},
    {"xent, in rounds", run_xent, ref_xent, .shape = {{70, 4}, {20000, 4}}},
    {"xent, with a teacher", run_soft, ref_soft, .shape = {{6, 5}, {9, 5}}},
    {"xent, with a teacher, in rounds", run_soft, ref_soft, .shape = {{70, 4}, {20000, 4}}},
    {"xent, z-loss", run_z, ref_z, .shape = {{6, 5}, {9, 5}}},
    {"xent, z-loss, in rounds", run_z, ref_z, .shape = {{70, 4}, {20000, 4}}},
    {"group_matmul", run_group, ref_group, .shape = {{5, 12}, {14, 4}}, .n = {3, 5, 1, 3}},
    {"group_matmul, one token", run_group, ref_group, .shape = {{1, 16}, {6, 8}}, .n = {2, 3, 0, 3}},
    {"absorb", run_absorb, ref_absorb, .shape = {{5, 21}, {24, 6}}, .n = {3, 4, 8, 3}},
    {"absorb, no rope", run_absorb, ref_absorb, .shape = {{1, 8}, {10, 5}}, .n = {2, 4, 5, 0}},
    {"absorb_t", run_absorb, ref_absorb, .shape = {{5, 21}, {18, 4}}, .n = {3, 4, 0, 3}},
    {"rmsnorm", run_rmsnorm, ref_rmsnorm, .shape = {{5, 24}, {1, 24}}, .f = {1e-5f}},
    {"rmsnorm, onto itself", run_rmsnorm, ref_rmsnorm, .shape = {{5, 24}, {1, 24}}, .n = {1}, .f = {1e-5f}},
    {"rmsnorm, heads, large eps", run_rmsnorm, ref_rmsnorm, .shape = {{3, 40}, {1, 8}}, .f = {0.3f}},
    {"rmsnorm, many", run_rmsnorm, ref_rmsnorm, .shape = {{90, 256}, {1, 256}}, .f = {1e-6f}},
    {"head_norm", run_head_norm, ref_head_norm, .shape = {{4, 24}}, .n = {6}, .f = {1e-4f}},
    {"head_norm, many", run_head_norm, ref_head_norm, .shape = {{70, 256}}, .n = {64}, .f = {1e-6f}},
    {"layernorm", run_layernorm, ref_layernorm, .shape = {{5, 11}, {1, 11}, {1, 11}}, .f = {1e-5f}},
    {"layernorm, onto itself", run_layernorm, ref_layernorm, .shape = {{1, 16}, {1, 16}, {1, 16}}, .n = {1}, .f = {0.1f}},
    {"add", run_add, ref_add, .shape = {{4, 9}, {4, 9}}},
    {"add, onto itself", run_add, ref_add, .shape = {{4, 9}, {4, 9}}, .n = {1}},
    {"add, twice the same", run_add, ref_add, .shape = {{4, 9}}},
    {"add_row", run_add_row, ref_add_row, .shape = {{4, 9}, {1, 9}}},
    {"add_row, many", run_add_row, ref_add_row, .shape = {{80, 300}, {1, 300}}},
    {"silu_mul", run_silu, ref_silu, .shape = {{4, 9}, {4, 9}}},
    {"silu_mul, limit", run_silu, ref_silu, .prepare = wide, .shape = {{5, 20}, {5, 20}}, .f = {1.5f}},
    {"silu_mul, limit, onto gate", run_silu, ref_silu, .prepare = wide, .shape = {{5, 20}, {5, 20}}, .n = {1}, .f = {1.5f}},
    {"silu_mul, many", run_silu, ref_silu, .prepare = wide, .shape = {{60, 300}, {60, 300}}},
    {"rope", run_rope, ref_rope, .shape = {{6, 24}}, .n = {12, 0, 0, 4, 0}, .len = {4, 2}},
    {"rope, pairs behind", run_rope, ref_rope, .shape = {{5, 24}}, .n = {12, 1, 6, 3, 0}, .len = {5}},
    {"rope, inverse", run_rope, ref_rope, .shape = {{5, 24}}, .n = {8, 1, 2, 3, 1}, .len = {1, 4}},
    {"scale", run_scale, ref_scale, .shape = {{3, 7}}, .f = {-2.5f}},
    {"hadamard", run_hadamard, ref_hadamard, .shape = {{3, 16}}, .n = {8}},
    {"simulate", run_simulate, ref_same, .shape = {{4, 12}}, .rounds = true},
    {"copies", run_copies, ref_copies, .shape = {{3, 7}}, .n = {4}},
    {"mhc_mix", run_mix, ref_mix, .shape = {{5, 24}, {24, 24}, {1, 24}, {1, 3}}, .n = {4, 20}, .f = {1e-6f, 1e-6f}},
    {"mhc_mix, two streams, large eps", run_mix, ref_mix, .shape = {{3, 10}, {8, 10}, {1, 8}, {1, 3}}, .n = {2, 3}, .f = {0.1f, 0.05f}},
    {"mhc_mix, one iteration", run_mix, ref_mix, .shape = {{1, 12}, {15, 12}, {1, 15}, {1, 3}}, .n = {3, 1}, .f = {1e-6f, 1e-3f}},
    {"mhc_mix, the paper's", run_mix, ref_mix, .shape = {{5, 24}, {24, 24}, {1, 24}, {1, 3}}, .n = {4, 20, 1}, .f = {1e-6f, 0}},
    {"mhc_mix, the paper's, few", run_mix, ref_mix, .shape = {{4, 9}, {15, 9}, {1, 15}, {1, 3}}, .n = {3, 2, 1}, .f = {1e-6f, 0}},
    {"mhc_mix, free", run_mix, ref_mix, .shape = {{5, 24}, {24, 24}, {1, 24}, {1, 3}}, .n = {4, 1, 2}, .f = {1e-6f, 0}},
    {"mhc_mix, free, two streams", run_mix, ref_mix, .shape = {{3, 10}, {8, 10}, {1, 8}, {1, 3}}, .n = {2, 1, 2}, .f = {0.1f, 0}},
    {"mhc_mix, head", run_mix, ref_mix, .shape = {{5, 24}, {4, 24}, {1, 4}, {1, 1}}, .n = {4, 20}, .f = {1e-6f, 1e-6f}},
    {"mhc_pre", run_pre, ref_pre, .shape = {{5, 24}, {5, 24}}, .n = {4}},
    {"mhc_pre, mean", run_pre, ref_pre, .shape = {{5, 24}}, .n = {4, 1}},
    {"mhc_pre, stream 0", run_pre, ref_pre, .shape = {{5, 24}}, .n = {4, 2}},
    {"mhc_post", run_post, ref_post, .shape = {{5, 24}, {5, 6}, {5, 24}}, .n = {4}},
    {"mhc_post, one token", run_post, ref_post, .shape = {{1, 10}, {1, 5}, {1, 8}}, .n = {2}},
    {"attend", run_attend, ref_attend, .shape = {{9, 24}, {9, 12}, {9, 12}}, .n = {2, 6, 0}, .f = {0.7f}, .len = {6, 1, 2}},
    {"attend, window", run_attend, ref_attend, .shape = {{10, 16}, {10, 8}, {10, 8}}, .n = {1, 8, 3}, .f = {0.7f}, .len = {9, 1}},
    {"attend, more than a block", run_attend, ref_attend, .shape = {{80, 8}, {80, 4}, {80, 4}}, .n = {1, 4, 0}, .f = {1}, .len = {70, 10}},
    {"attend, one token", run_attend, ref_attend, .shape = {{1, 8}, {1, 8}, {1, 8}}, .n = {1, 8, 0}, .f = {1}, .len = {1}},
    {"attend_sel, window only", run_sel, ref_sel, .shape = {{8, 24}, {8, 8}, {1, 3}}, .n = {3, 8, 4}, .f = {0.6f}, .len = {7, 1}},
    {"attend_sel, all entries", run_sel, ref_sel, .shape = {{12, 24}, {12, 8}, {5, 8}, {1, 3}}, .n = {3, 8, 3, 2}, .f = {0.6f}, .len = {5, 1, 6}},
    {"attend_sel, selected", run_sel, ref_sel, .shape = {{17, 12}, {17, 6}, {8, 6}, {1, 2}}, .n = {2, 6, 3, 2, 2}, .f = {0.6f}, .len = {12, 5}},
    {"attend_sel, narrow values", run_sel, ref_sel, .shape = {{17, 12}, {17, 6}, {8, 6}}, .n = {2, 6, 2, 2, 3, 4, 1}, .f = {0.6f}, .len = {12, 5}},
    {"attend_sel, no group complete", run_sel, ref_sel, .shape = {{5, 12}, {5, 6}, {0, 6}, {1, 2}}, .n = {2, 6, 3, 4}, .f = {0.6f}, .len = {3, 2}},
    {"attend_sel, many rounds", run_sel, ref_sel, .shape = {{90, 36}, {90, 12}, {22, 12}, {1, 3}}, .n = {3, 12, 16, 4, 5}, .f = {0.6f}, .len = {70, 20}},
    {"index_loss, all", run_index_loss, ref_index_loss, .shape = {{12, 8}, {12, 2}, {5, 4}}, .n = {3, 8, 3, 2, 0, 2, 4}, .f = {0.6f}, .len = {5, 1, 6}},
    {"index_loss, no window", run_index_loss, ref_index_loss, .shape = {{12, 8}, {12, 2}, {12, 4}}, .n = {3, 8, 0, 1, 3, 2, 4}, .f = {0.6f}, .len = {5, 1, 6}},
    {"index_loss, selected", run_index_loss, ref_index_loss, .shape = {{17, 12}, {17, 2}, {17, 6}}, .n = {2, 6, 3, 1, 2, 2, 6}, .f = {0.6f}, .len = {12, 5}},
    {"index_loss, many rounds", run_index_loss, ref_index_loss, .shape = {{90, 24}, {90, 3}, {22, 8}}, .n = {3, 12, 16, 4, 5, 3, 8}, .f = {0.6f}, .len = {70, 20}},
    {"attend_block", run_block, ref_block, .shape = {{9, 16}, {9, 8}, {11, 8}, {1, 2}}, .n = {2, 8, 4, 3}, .f = {0.6f}, .len = {7, 4}},
    {"attend_block, many rounds", run_block, ref_block, .shape = {{85, 36}, {85, 12}, {60, 12}, {1, 3}}, .n = {3, 12, 16, 5}, .f = {0.6f}, .len = {40, 20}},
    {"xent, of drafts", run_draft_loss, ref_draft_loss, .shape = {{9, 12}, {9, 5}, {21, 5}}},
    {"xent, of drafts, many", run_draft_loss, ref_draft_loss, .shape = {{130, 24}, {130, 8}, {70, 8}}},
    {"confidence", run_confidence, ref_confidence, .shape = {{10, 1}}},
    {"pool", run_pool, ref_pool, .shape = {{9, 5}, {9, 5}, {3, 5}}, .n = {3, 0, 2}, .len = {7, 2}},
    {"pool, overlap", run_pool, ref_pool, .shape = {{13, 10}, {13, 10}, {4, 10}}, .n = {4, 1, 3}, .len = {8, 1, 4}},
    {"pool, overlap, no ape", run_pool, ref_pool, .shape = {{9, 6}, {9, 6}}, .n = {2, 1, 4}, .len = {4, 5}},
    {"pool, ratio 1", run_pool, ref_pool, .shape = {{3, 4}, {3, 4}}, .n = {1, 0, 3}, .len = {3}},
    {"pool, no group complete", run_pool, ref_pool, .shape = {{4, 5}, {4, 5}, {3, 5}}, .n = {3, 0, 0}, .len = {2, 2}},
    {"gate, softmax", run_gate, ref_gate, .shape = {{6, 8}}, .n = {3, 0, 0, HD_GATE_SOFTMAX, 0}, .f = {1.7f, 1}, .len = {6}},
    {"gate, softmax, normalised", run_gate, ref_gate, .shape = {{6, 8}}, .n = {3, 4, 2, HD_GATE_SOFTMAX, 1}, .f = {1.7f, 0.5f}, .len = {6}},
    {"gate, sigmoid, groups", run_gate, ref_gate, .shape = {{6, 12}}, .n = {4, 4, 2, HD_GATE_SIGMOID, 1, 1}, .f = {2.5f, 1}, .len = {5, 1}},
    {"gate, sqrtsoftplus", run_gate, ref_gate, .shape = {{6, 8}}, .n = {2, 0, 0, HD_GATE_SQRTSOFTPLUS, 1, 1}, .f = {1.5f, 0.7f}, .len = {6}},
    {"gate, by table", run_gate, ref_gate, .shape = {{6, 8}}, .n = {3, 0, 0, HD_GATE_SQRTSOFTPLUS, 1, 0, 1}, .f = {1.5f, 1}, .len = {6}},
    {"gate, softmax, by table", run_gate, ref_gate, .shape = {{6, 8}}, .n = {3, 0, 0, HD_GATE_SOFTMAX, 1, 0, 1}, .f = {1.5f, 1}, .len = {6}},
    {"gate, one expert", run_gate, ref_gate, .shape = {{2, 1}}, .n = {1, 0, 0, HD_GATE_SIGMOID, 0}, .f = {1, 1}, .len = {2}},
    {"moe", run_moe, ref_moe, .shape = {{7, 10}, {7, 2}, {24, 10}, {24, 10}, {40, 6}}, .n = {4, 2, 0}},
    {"moe, weight first, limit", run_moe, ref_moe, .prepare = wide, .shape = {{7, 10}, {7, 2}, {24, 10}, {24, 10}, {40, 6}}, .n = {4, 2, 1}, .f = {1.2f}},
    {"moe, weight last, limit", run_moe, ref_moe, .prepare = wide, .shape = {{7, 10}, {7, 3}, {30, 10}, {30, 10}, {50, 6}}, .n = {5, 3, 0}, .f = {1.2f}},
    {"moe, one token", run_moe, ref_moe, .shape = {{1, 8}, {1, 2}, {24, 8}, {24, 8}, {32, 6}}, .n = {4, 2, 1}},
    {"moe, many tokens", run_moe, ref_moe, .shape = {{120, 32}, {120, 2}, {96, 32}, {96, 32}, {128, 24}}, .n = {4, 2, 1}, .f = {10}},
    {"engram", run_engram, ref_engram, .prepare = along, .shape = {{5, 24}, {5, 32}, {3, 8}, {3, 8}}, .n = {3}, .f = {1e-6f}},
    {"engram, value", run_engram, ref_engram, .prepare = along, .shape = {{5, 24}, {5, 32}, {3, 8}, {3, 8}}, .n = {3, 1}, .f = {1e-2f}},
    {"engram, one stream, one token", run_engram, ref_engram, .prepare = along, .shape = {{1, 8}, {1, 16}, {1, 8}, {1, 8}}, .n = {1}, .f = {1e-6f}},
    {"engram, many", run_engram, ref_engram, .prepare = along, .shape = {{90, 128}, {90, 160}, {4, 32}, {4, 32}}, .n = {4}, .f = {1e-6f}},
    {"short_conv", run_conv, ref_conv, .shape = {{12, 5}, {12, 5}, {12, 5}, {5, 3}}, .n = {2}, .len = {7, 1, 4}},
    {"short_conv, one tap", run_conv, ref_conv, .shape = {{3, 5}, {3, 5}, {3, 5}, {5, 1}}, .n = {1}, .len = {3}},
    {"short_conv, many", run_conv, ref_conv, .shape = {{70, 40}, {70, 40}, {70, 40}, {40, 4}}, .n = {3}, .len = {40, 30}},
};

/* Whether a case's op goes through products that a step may round. */
static bool multiplies(const struct grad_case *c)
{
    static const char *const ops[] = {"matmul", "group_matmul", "absorb", "moe", "xent", "attend"};

    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (!strncmp(c->name, ops[i], strlen(ops[i])) && strncmp(c->name, "attend_", 7))
            return true;
    return false;
}

/* Every op that claims a backward has a case. */
static void check_complete(void)
{
    for (int op = 0; op < HD_N_OP; op++) {
        bool seen = hd_ops[op].bwd >= HD_BWD_FLAT || op == HD_OP_KV_PUT;      /* attend's and attend_sel's cases put rows */

        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            seen |= !strncmp(cases[i].name, hd_ops[op].name, strlen(hd_ops[op].name));
        report(seen, "op %s has a backward and no case", hd_ops[op].name);
    }
}

/* A matrix that is packed before and one that is packed by whoever multiplies give the same bits; so does either put into c's place, past the caches, or added to zeros. */
static void check_ways(enum hd_gemm_kind kind, int64_t m, int64_t n, int64_t k, bool turned)
{
    float *a = malloc((size_t)(m * k) * 4), *b = malloc((size_t)(n * k) * 4), *c[4];
    struct hd_gemm_view va = {a, k, 1}, vb = turned ? (struct hd_gemm_view){b, 1, k} : (struct hd_gemm_view){b, n, 1};
    int64_t ld = (n + 15) / 16 * 16;
    size_t bytes = (size_t)(m * ld) * 4;
    struct hd_pool *pool;
    struct hd_backend be;
    struct hd_tape tape;
    struct hd_stream s;
    struct hd_err err;

    for (int64_t i = 0; i < m * k; i++)
        a[i] = (float)((double)(i * 7919 % 1009) / 1009 - 0.5);
    for (int64_t i = 0; i < n * k; i++)
        b[i] = (float)((double)(i * 104729 % 997) / 997 - 0.5);
    hd_pool_create(&pool, 2, &err);
    hd_backend_cpu_create(&be, pool, &err);
    hd_tape_init(&tape);
    hd_stream_init(&s, &be, NULL, HD_EXACT_F32);
    s.tape = &tape;
    for (int i = 0; i < 4; i++) {
        struct hd_gemm_part part = {.b = vb, .n = n, .ld = ld};

        c[i] = aligned_alloc(64, (bytes + 63) / 64 * 64);
        memset(c[i], i == 3 ? 0 : 0xFF, bytes);       /* NaN */
        for (int64_t r = 0; r < m; r++)
            memset(c[i] + r * ld + n, 0, (size_t)(ld - n) * 4);
        part.c = c[i];
        if (i == 0)
            part.packed = hd_cpu_gemm_pack(be.self, &s, kind, n, k, vb);
        hd_cpu_gemm_parts(be.self, &s, kind, m, k, va, 1, &part, i == 2 ? HD_GEMM_STREAM : i == 3 ? HD_GEMM_ADD : HD_GEMM_PUT);
        report(hd_stream_ok(&s) && !memcmp(c[0], c[i], bytes), "gemm %s %lld x %lld x %lld%s, way %d", kind ? "bf16" : "f32", (long long)m, (long long)n, (long long)k, turned ? " turned" : "", i);
    }
    for (int i = 0; i < 4; i++)
        free(c[i]);
    hd_tape_release(&tape);
    hd_backend_cpu_free(&be);
    hd_pool_free(pool);
    free(a);
    free(b);
}

static void check_all_ways(void)
{
    static const int64_t size[][3] = {{1, 1, 1}, {5, 40, 9}, {20, 131, 257}, {64, 200, 1000}, {33, 64, 1600}};

    for (size_t i = 0; i < sizeof size / sizeof size[0]; i++)
        for (int turned = 0; turned < 2; turned++)
            for (int kind = 0; kind < HD_N_GEMM; kind++)
                check_ways((enum hd_gemm_kind)kind, size[i][0], size[i][1], size[i][2], turned);
}

/* ---- --bench: the three products of training, beside the FMA probe ---- */

/* One worker: its processor time, which others on the machine do not change much. */
static double now(int n_thread)
{
    struct timespec t;

    clock_gettime(n_thread == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct timed {
    struct hd_backend be;
    struct hd_arena arena;
    struct hd_tape tape;
    struct hd_tensor x, w;
    float *dx, *dw;
    char *shadow;
};

/* Best seconds of the product, or (back) of its way back; which of x and w have gradients: tape ranges. */
static double time_product(struct timed *a, bool back, int n_thread)
{
    double best = 1e9;

    for (int rep = 0; rep < 7; rep++) {
        struct hd_stream s;
        struct hd_tensor *o;
        double t0, t1;

        hd_arena_reset(&a->arena);
        hd_stream_init(&s, &a->be, &a->arena, HD_EXACT_F32);
        hd_tape_begin(&a->tape);
        s.tape = &a->tape;
        o = hd_new(&s, HD_F32, hd_rows(&a->x), hd_rows(&a->w));
        t0 = now(n_thread);
        hd_matmul(&s, o, &a->x, &a->w);
        t1 = now(n_thread);
        if (back) {
            memset(hd_grad(&s, o).data, 0, (size_t)hd_elems(o) * 4);
            t0 = now(n_thread);
            hd_tape_backward(&s);
            t1 = now(n_thread);
        }
        best = fmin(best, t1 - t0);
    }
    return best;
}

static void bench_products(int n_thread, bool bf16)
{
    static const int64_t shape[][3] = {{768, 128, 128}, {768, 128, 352}, {768, 352, 128}, {4096, 384, 384}, {4096, 384, 1536}, {4096, 1536, 384}, {2048, 256, 256}, {128, 256, 256}, {64, 256, 128}, {256, 768, 768}, {256, 768, 2048}, {256, 2048, 768}, {256, 768, 50257}};
    struct hd_pool *pool;
    struct hd_roofline roof;
    struct hd_err err;
    double peak;

    if (hd_pool_create(&pool, n_thread, &err) < 0 || hd_roofline_measure(&roof, pool, &err) < 0)
        return;
    peak = bf16 && roof.bf16_gflops > 0 ? roof.bf16_gflops : roof.fma_gflops;
    printf("%d workers, %s, %s probe %.0f GF/s: GF/s and share of the probe\n%6s %6s %6s   %-14s %-14s %-14s\n", n_thread, bf16 ? "bf16" : "f32", bf16 && roof.bf16_gflops > 0 ? "bf16" : "FMA", peak, "T", "K", "N", "Y = X W^T", "dX = dY W", "dW = dY^T X");
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        int64_t n_tok = shape[i][0], k = shape[i][1], n = shape[i][2];
        size_t bytes = (size_t)(n_tok * n) * 4 + (1 << 16);
        double flops = 2e-9 * (double)(n_tok * k * n);

        printf("%6lld %6lld %6lld ", (long long)n_tok, (long long)k, (long long)n);
        for (int way = 0; way < 3; way++) {
            struct timed a = {.x = hd_view2(HD_F32, calloc((size_t)(n_tok * k), 4), n_tok, k), .w = hd_view2(HD_F32, calloc((size_t)(n * k), 4), n, k)};
            double sec;

            hd_backend_cpu_create(&a.be, pool, &err);
            hd_tape_init(&a.tape);
            a.tape.bf16 = bf16;
            hd_arena_init(&a.arena, 0);
            hd_arena_reserve(&a.arena, bytes);
            a.dx = calloc((size_t)(n_tok * k), 4);
            a.dw = calloc((size_t)(n * k), 4);
            a.shadow = calloc(1, bytes);
            hd_tape_range(&a.tape, hd_arena_alloc(&a.arena, 64), a.shadow, bytes, true, &err);
            if (way == 1)
                hd_tape_range(&a.tape, a.x.data, a.dx, (size_t)(n_tok * k) * 4, false, &err);
            if (way == 2)
                hd_tape_range(&a.tape, a.w.data, a.dw, (size_t)(n * k) * 4, false, &err);
            sec = time_product(&a, way > 0, n_thread);
            printf("  %6.1f %4.0f %% ", flops / sec, 100 * flops / sec / peak);
            hd_tape_release(&a.tape);
            hd_arena_release(&a.arena);
            hd_backend_cpu_free(&a.be);
            free(a.x.data);
            free(a.w.data);
            free(a.dx);
            free(a.dw);
            free(a.shadow);
        }
        printf("\n");
    }
    hd_pool_free(pool);
}

int main(int argc, char **argv)
{
    bool verbose = argc > 1 && !strcmp(argv[1], "-v");

    if (!hd_kernels_init(getenv("HD_CPU"))) {
        printf("HD_CPU=%s: not available here\n", getenv("HD_CPU"));
        return 1;
    }
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        for (int n_thread = 1; n_thread <= 2; n_thread++)
            for (int bf16 = 0; bf16 < 2; bf16++)
                bench_products(n_thread, bf16);
        return 0;
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct grad_case rounded = cases[i];

        check_case(&cases[i], verbose);
        rounded.bf16 = true;
        if (multiplies(&rounded))
            check_case(&rounded, verbose);
    }
    check_complete();
    check_all_ways();
    printf("%d passed, %d failed\n", n_pass, n_fail);
    return n_fail != 0;
}
