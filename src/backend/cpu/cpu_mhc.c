/* cpu_mhc.c: hyper-connections, per token, and the row ops that come with them. Sums over streams ascend. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "kernels/kernels.h"
#include "tensor/simulate.h"

#define MAX_HC 8                     /* at most HD_HC_MAX */

static void simulate_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;

    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < hd_cols(c->out[0]); h += c->i[2])
            hd_simulate((enum hd_sim)c->i[0], c->i[1], hd_cpu_row(c->out[0], t) + h + c->i[3], c->i[4]);
}

void hd_cpu_simulate(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), 8 * hd_cols(c->out[0]), simulate_range, (void *)c);
}

static void scale_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;

    for (int64_t t = begin; t < end; t++)
        hd_k.scale(hd_cols(c->out[0]), c->f[0], hd_cpu_row(c->out[0], t));
}

void hd_cpu_scale(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), hd_cols(c->out[0]), scale_range, (void *)c);
}

static void head_norm(float *x, int64_t n, float eps)
{
    double ss = 0;

    for (int64_t i = 0; i < n; i++)
        ss += (double)x[i] * (double)x[i];
    hd_k.scale(n, (float)(1 / sqrt(ss / (double)n + (double)eps)), x);
}

/* On bf16 tensors every step's result is one: the square, the mean, its sum with eps, the root, the product. */
static void head_norm_official(float *x, int64_t n, float eps)
{
    float sum = 0, r;

    for (int64_t i = 0; i < n; i++)
        sum += hd_round_bf16(x[i] * x[i]);
    r = hd_round_bf16(hd_round_bf16(sum / (float)n) + eps);
    r = hd_round_bf16(1 / sqrtf(r));
    for (int64_t i = 0; i < n; i++)
        x[i] = hd_round_bf16(x[i] * r);
}

static void head_norm_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;

    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < hd_cols(c->out[0]); h += c->i[0])
            (c->i[1] ? head_norm_official : head_norm)(hd_cpu_row(c->out[0], t) + h, c->i[0], c->f[0]);
}

void hd_cpu_head_norm(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), 2 * hd_cols(c->out[0]), head_norm_range, (void *)c);
}

static void hadamard_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n = c->i[0];

    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < hd_cols(c->out[0]); h += n) {
            float *x = hd_cpu_row(c->out[0], t) + h;

            for (int64_t step = 1; step < n; step *= 2)
                for (int64_t i = 0; i < n; i += 2 * step)
                    for (int64_t j = i; j < i + step; j++) {
                        float a = x[j], b = x[j + step];

                        x[j] = a + b;
                        x[j + step] = a - b;
                    }
            hd_k.scale(n, (float)(1 / sqrt((double)n)), x);
        }
}

void hd_cpu_hadamard(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), 8 * hd_cols(c->out[0]), hadamard_range, (void *)c);
}

static void copies_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n = hd_cols(c->in[0]);

    for (int64_t t = begin; t < end; t++)
        for (int64_t i = 0; i < hd_cols(c->out[0]); i += n)
            memcpy(hd_cpu_row(c->out[0], t) + i, hd_cpu_row(c->in[0], t), (size_t)n * sizeof(float));
}

void hd_cpu_copies(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), hd_cols(c->out[0]), copies_range, (void *)c);
}

/* ---- mixes ---- */

static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

/* Rows by softmax plus eps, columns, then rows and columns n_iter - 1 times: columns last. */
static void sinkhorn(float *m, int64_t n, int64_t n_iter, float eps)
{
    for (int64_t j = 0; j < n; j++) {
        float top = m[j * n], sum = 0;

        for (int64_t k = 1; k < n; k++)
            top = fmaxf(top, m[j * n + k]);
        for (int64_t k = 0; k < n; k++)
            sum += m[j * n + k] = expf(m[j * n + k] - top);
        for (int64_t k = 0; k < n; k++)
            m[j * n + k] = m[j * n + k] / sum + eps;
    }
    for (int64_t it = 0; it < n_iter; it++) {
        for (int64_t j = 0; j < n && it > 0; j++) {
            float sum = 0;

            for (int64_t k = 0; k < n; k++)
                sum += m[j * n + k];
            for (int64_t k = 0; k < n; k++)
                m[j * n + k] /= sum + eps;
        }
        for (int64_t k = 0; k < n; k++) {
            float sum = 0;

            for (int64_t j = 0; j < n; j++)
                sum += m[j * n + k];
            for (int64_t j = 0; j < n; j++)
                m[j * n + k] /= sum + eps;
        }
    }
}

/* The paper's order: exp, then columns and rows in turn, rows last. m[k][j] takes from stream j to stream k; what is returned has the
 * source first, as comb has. */
static void sinkhorn_paper(float *m, int64_t n, int64_t n_iter)
{
    float top = m[0], t[MAX_HC * MAX_HC];

    for (int64_t i = 1; i < n * n; i++)
        top = fmaxf(top, m[i]);
    for (int64_t i = 0; i < n * n; i++)
        t[i] = expf(m[i] - top);
    for (int64_t it = 0; it < n_iter; it++) {
        for (int64_t j = 0; j < n; j++) {
            float sum = 0;

            for (int64_t k = 0; k < n; k++)
                sum += t[k * n + j];
            for (int64_t k = 0; k < n; k++)
                t[k * n + j] /= sum;
        }
        for (int64_t k = 0; k < n; k++) {
            float sum = 0;

            for (int64_t j = 0; j < n; j++)
                sum += t[k * n + j];
            for (int64_t j = 0; j < n; j++)
                t[k * n + j] /= sum;
        }
    }
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < n; k++)
            m[j * n + k] = t[k * n + j];
}

static void mix_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n_hc = c->i[0], n_mix = hd_cols(c->out[0]), n = hd_cols(c->in[0]);
    const float *base = c->in[2]->data, *scale = c->in[3]->data;

    for (int64_t t = begin; t < end; t++) {
        const float *x = hd_cpu_row(c->in[0], t);
        float *m = hd_cpu_row(c->out[0], t), r;
        double ss = 0;

        for (int64_t i = 0; i < n; i++)
            ss += (double)x[i] * (double)x[i];
        r = (float)(1 / sqrt(ss / (double)n + (double)c->f[0]));
        for (int64_t i = 0; i < n_mix; i++)
            m[i] = hd_k.dot_f32(n, hd_cpu_row(c->in[1], i), x) * r;
        if (c->i[2] == HD_MHC_FREE) {
            for (int64_t j = 0; j < n_mix; j++)
                m[j] = tanhf(m[j]) * scale[j < 2 * n_hc ? j / n_hc : 2] + base[j];
            continue;
        }
        for (int64_t j = 0; j < n_hc; j++)
            m[j] = sigmoid(m[j] * scale[0] + base[j]) + (c->i[2] == HD_MHC_PAPER ? 0 : c->f[1]);
        if (n_mix == n_hc)
            continue;
        for (int64_t j = n_hc; j < 2 * n_hc; j++)
            m[j] = 2 * sigmoid(m[j] * scale[1] + base[j]);
        for (int64_t j = 2 * n_hc; j < n_mix; j++)
            m[j] = m[j] * scale[2] + base[j];
        if (c->i[2] == HD_MHC_PAPER)
            sinkhorn_paper(m + 2 * n_hc, n_hc, c->i[1]);
        else
            sinkhorn(m + 2 * n_hc, n_hc, c->i[1], c->f[1]);
    }
}

void hd_cpu_mhc_mix(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), hd_cols(c->out[0]) * hd_cols(c->in[0]), mix_range, (void *)c);
}

static void pre_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n_hc = c->i[0], n = hd_cols(c->out[0]);

    for (int64_t t = begin; t < end; t++) {
        const float *x = hd_cpu_row(c->in[0], t), *w = c->in[1] ? hd_cpu_row(c->in[1], t) : NULL;
        float *u = hd_cpu_row(c->out[0], t);

        if (!w && !c->i[1]) {
            memcpy(u, x, (size_t)n * sizeof *u);
            continue;
        }
        for (int64_t i = 0; i < n; i++)
            u[i] = (w ? w[0] : 1 / (float)n_hc) * x[i];
        for (int64_t j = 1; j < n_hc; j++)
            for (int64_t i = 0; i < n; i++)
                u[i] += (w ? w[j] : 1 / (float)n_hc) * x[j * n + i];
    }
}

void hd_cpu_mhc_pre(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), hd_cols(c->in[0]), pre_range, (void *)c);
}

static void post_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n_hc = c->i[0], n = hd_cols(c->in[0]);

    for (int64_t t = begin; t < end; t++) {
        float *x = hd_cpu_row(c->out[0], t);
        const float *a = hd_cpu_row(c->in[0], t), *post = hd_cpu_row(c->in[1], t) + n_hc, *comb = post + n_hc;

        hd_k.mix_streams(n, n_hc, a, post, comb, x);
    }
}

void hd_cpu_mhc_post(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->out[0]), 4 * hd_cols(c->out[0]), post_range, (void *)c);
}
