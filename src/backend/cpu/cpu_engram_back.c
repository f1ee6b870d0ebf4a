/* cpu_engram_back.c: gradients of table rows, the n-gram gate and the short convolution. */
#include <math.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

struct job {
    const struct hd_call *c;
    const struct hd_tensor *dout;
    struct hd_tensor d[4];
    float *dot;                       /* engram: the gradient of every token's and stream's raw product */
};

static void table_cols(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n = hd_cols(j->c->in[0]), d = hd_cols(j->c->in[1]);

    for (int64_t t = 0; t < hd_rows(j->dout); t++)
        for (int64_t i = 0; i < n; i++) {
            float *dw = hd_cpu_row(&j->d[0], ((const int32_t *)hd_cpu_row(j->c->in[0], t))[i]);

            hd_k.add(end - begin, dw + begin, hd_cpu_row(j->dout, t) + i * d + begin, dw + begin);
        }
}

HD_CPU_BACK(table)
{
    struct hd_cpu *cpu = self;
    struct job j = {c, dout[0], {hd_grad(s, c->in[1])}, NULL};

    if (j.d[0].data && hd_rows(dout[0]))
        hd_pool_for(cpu->pool, hd_cols(c->in[1]), hd_cpu_grain(cpu, hd_cols(c->in[1])), table_cols, &j);
}

/* gate = sigmoid(sgn(a) sqrt(max(|a|, 1e-6))), a = dot rx rk / sqrt(d), dot = sum x q k key, r = (mean square + eps)^-1/2 */
static void engram_stream(const struct job *j, int64_t t, int64_t h, int64_t n_hc, int64_t d)
{
    const struct hd_call *c = j->c;
    const float *kv = hd_cpu_row(c->in[0], t), *value = kv + n_hc * d, *key = kv + h * d, *x = hd_cpu_row(c->in[3] ? c->in[3] : c->out[0], t) + h * d;
    const float *q = (const float *)c->in[1]->data + h * d, *k = (const float *)c->in[2]->data + h * d, *dy = hd_cpu_row(j->dout, t) + h * d;
    float *dkv = j->d[0].data ? hd_cpu_row(&j->d[0], t) : NULL, *dx = j->d[3].data ? hd_cpu_row(&j->d[3], t) + h * d : NULL;
    double dot = 0, sx = 0, sk = 0, rx, rk, a, root, gate, dgate = 0, da, ddot;

    for (int64_t i = 0; i < d; i++) {
        dot += (double)(x[i] * q[i]) * (double)(k[i] * key[i]);
        sx += (double)x[i] * (double)x[i];
        sk += (double)key[i] * (double)key[i];
        dgate += (double)dy[i] * (double)value[i];
    }
    rx = 1 / sqrt(sx / (double)d + (double)c->f[0]);
    rk = 1 / sqrt(sk / (double)d + (double)c->f[0]);
    a = dot * rx * rk / sqrt((double)d);
    root = sqrt(fmax(fabs(a), 1e-6));
    gate = 1 / (1 + exp(-copysign(root, a)));
    da = fabs(a) > 1e-6 ? dgate * gate * (1 - gate) / (2 * root) : 0;
    ddot = da * rx * rk / sqrt((double)d);
    j->dot[t * n_hc + h] = (float)ddot;
    for (int64_t i = 0; i < d; i++) {
        if (dkv) {
            dkv[n_hc * d + i] += (float)(gate * (double)dy[i]);
            dkv[h * d + i] += (float)(ddot * (double)(x[i] * q[i] * k[i]) - da * a * rk * rk * (double)key[i] / (double)d);
        }
        if (dx)
            dx[i] += (float)(ddot * (double)(key[i] * q[i] * k[i]) - da * a * rx * rx * (double)x[i] / (double)d);
    }
}

static void engram_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    int64_t n_hc = j->c->i[0], d = hd_cols(j->dout) / n_hc;

    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < n_hc; h++)
            engram_stream(j, t, h, n_hc, d);
}

static void engram_cols(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_call *c = j->c;
    int64_t n_hc = c->i[0], d = hd_cols(j->dout) / n_hc;
    const float *q = c->in[1]->data, *k = c->in[2]->data;
    float *dq = j->d[1].data, *dk = j->d[2].data;

    for (int64_t t = 0; t < hd_rows(j->dout); t++) {
        const float *key = hd_cpu_row(c->in[0], t), *x = hd_cpu_row(c->in[3] ? c->in[3] : c->out[0], t);

        for (int64_t i = begin; i < end; i++) {
            float common = j->dot[t * n_hc + i / d] * x[i] * key[i];

            if (dq)
                dq[i] += common * k[i];
            if (dk)
                dk[i] += common * q[i];
        }
    }
}

HD_CPU_BACK(engram)
{
    struct hd_cpu *cpu = self;
    struct job j = {c, dout[0], {hd_grad(s, c->in[0]), hd_grad(s, c->in[1]), hd_grad(s, c->in[2]), hd_grad(s, c->in[3] ? c->in[3] : c->out[0])}, NULL};

    if (!(j.dot = hd_tape_scratch(s, hd_rows(dout[0]), c->i[0])))
        return;
    if (!c->in[3])
        hd_cpu_add_to(self, &j.d[3], dout[0]);
    hd_cpu_rows(self, hd_rows(dout[0]), 8 * hd_cols(dout[0]), engram_range, &j);
    hd_pool_for(cpu->pool, hd_cols(dout[0]), hd_cpu_grain(cpu, hd_cols(dout[0])), engram_cols, &j);
}

static void conv_cols(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_call *c = j->c;
    int64_t K = hd_cols(c->in[2]), seq = 0;

    for (int64_t t = 0; t < hd_rows(j->dout); t++) {
        const struct hd_span *sp = hd_cpu_span(c->batch, t, &seq);
        const float *u[16];
        float *du[16];

        for (int64_t k = 0; k < K; k++) {
            int64_t p = c->batch->pos[t] - (K - 1 - k) * c->i[1];

            u[k] = p < 0 ? NULL : hd_cpu_row(c->in[1], sp->tok0 + p);
            du[k] = p < 0 || !j->d[1].data ? NULL : hd_cpu_row(&j->d[1], sp->tok0 + p);
        }
        for (int64_t i = begin; i < end; i++) {
            const float *w = hd_cpu_row(c->in[2], i);
            float y = 0, sg, dy;

            for (int64_t k = 0; k < K; k++)
                if (u[k])
                    y += w[k] * u[k][i];
            sg = 1 / (1 + expf(-y));
            dy = hd_cpu_row(j->dout, t)[i] * sg * (1 + y * (1 - sg));
            for (int64_t k = 0; k < K; k++) {
                if (du[k])
                    du[k][i] += dy * w[k];
                if (u[k] && j->d[2].data)
                    hd_cpu_row(&j->d[2], i)[k] += dy * u[k][i];
            }
        }
    }
}

HD_CPU_BACK(short_conv)
{
    struct hd_cpu *cpu = self;
    struct job j = {c, dout[0], {hd_grad(s, c->in[0]), hd_grad(s, c->in[1]), hd_grad(s, c->in[2]), hd_grad(s, c->out[0])}, NULL};

    for (int64_t i = 0; i < c->batch->n_seq; i++)
        HD_ASSERT(c->batch->span[i].pos0 == 0);
    hd_cpu_add_to(self, &j.d[3], dout[0]);
    if (j.d[0].data)
        hd_cpu_add_to(self, &j.d[0], dout[0]);
    hd_pool_for(cpu->pool, hd_cols(dout[0]), hd_cpu_grain(cpu, hd_cols(dout[0])), conv_cols, &j);
}
