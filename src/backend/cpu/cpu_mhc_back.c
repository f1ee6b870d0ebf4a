/* cpu_mhc_back.c: gradients of hyper-connections. Sinkhorn's steps are run again and kept, then undone one by one, in double: some forty
 * divisions in a row. */
#pragma GCC optimize("O3")            /* loops over columns, in vectors */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

#define MAX_HC 8
#define MAX_ITER 64

struct job {
    const struct hd_call *c;
    const struct hd_tensor *dout;
    struct hd_tensor d[4];
    struct hd_tensor raw, dm;         /* fn x and the gradient of fn x r, [T, n_mix]; dm becomes that of fn x */
};

/* y = x / (sum of the group + eps); groups are rows (first index fixed) or columns of m[n][n]. dy becomes dx. */
static void undo_divide(int64_t n, bool rows, double eps, const double *x, double *dy)
{
    for (int64_t g = 0; g < n; g++) {
        double sum = eps, along = 0;

        for (int64_t i = 0; i < n; i++) {
            int64_t at = rows ? g * n + i : i * n + g;

            sum += x[at];
            along += dy[at] * x[at];
        }
        for (int64_t i = 0; i < n; i++) {
            int64_t at = rows ? g * n + i : i * n + g;

            dy[at] = (dy[at] - along / sum) / sum;
        }
    }
}

static void divide(int64_t n, bool rows, double eps, const double *x, double *y)
{
    for (int64_t g = 0; g < n; g++) {
        double sum = eps;

        for (int64_t i = 0; i < n; i++)
            sum += x[rows ? g * n + i : i * n + g];
        for (int64_t i = 0; i < n; i++) {
            int64_t at = rows ? g * n + i : i * n + g;

            y[at] = x[at] / sum;
        }
    }
}

/* d[n][n], the gradient of comb, becomes that of its logits m. */
static void undo_sinkhorn(const float *m, int64_t n, int64_t n_iter, double eps, bool paper, double *d)
{
    double step[2 * MAX_ITER + 1][MAX_HC * MAX_HC], t[MAX_HC * MAX_HC];
    int64_t n_step = paper ? 2 * n_iter : n_iter > 0 ? 2 * n_iter - 1 : 0, nn = n * n;

    for (int64_t j = 0; j < n; j++) {
        double top = -INFINITY, sum = 0;

        for (int64_t k = 0; k < nn; k++)
            top = paper || k / n == j ? fmax(top, (double)m[k]) : top;
        for (int64_t k = 0; k < n; k++)
            sum += step[0][j * n + k] = exp((double)m[j * n + k] - top);
        for (int64_t k = 0; k < n && !paper; k++)
            step[0][j * n + k] = step[0][j * n + k] / sum + eps;
    }
    /* columns, rows, columns, ...: rows at odd steps, both ways; the paper's matrix is the transposed one */
    for (int64_t i = 0; i < n_step; i++)
        divide(n, i % 2, paper ? 0 : eps, step[i], step[i + 1]);
    for (int64_t k = 0; k < nn && paper; k++)
        t[k % n * n + k / n] = d[k];
    if (paper)
        memcpy(d, t, (size_t)nn * sizeof *d);
    for (int64_t i = n_step; i-- > 0;)
        undo_divide(n, i % 2, paper ? 0 : eps, step[i], d);
    for (int64_t j = 0; j < n; j++) {
        double along = 0;

        for (int64_t k = 0; k < n && !paper; k++)
            along += d[j * n + k] * (step[0][j * n + k] - eps);
        for (int64_t k = 0; k < n; k++)
            d[j * n + k] = paper ? d[j * n + k] * step[0][j * n + k] : (step[0][j * n + k] - eps) * (d[j * n + k] - along);
    }
}

/* dm[n_mix], the gradient of what scale and base made of raw r, from that of the mix. */
static void undo_mix(const struct hd_call *c, int64_t n_mix, const float *raw, double r, const float *dy, float *dm)
{
    const float *base = c->in[2]->data, *scale = c->in[3]->data;
    int64_t n_hc = c->i[0];
    float z[MAX_HC * MAX_HC] = {0};
    double comb[MAX_HC * MAX_HC];

    for (int64_t i = 0; i < n_mix && i < 2 * n_hc; i++) {
        float y = 1 / (1 + expf(-((float)(raw[i] * r) * scale[i / n_hc] + base[i])));

        dm[i] = dy[i] * y * (1 - y) * (i < n_hc ? 1 : 2);
    }
    if (n_mix == n_hc)
        return;
    for (int64_t i = 0; i < n_hc * n_hc; i++) {
        z[i] = (float)(raw[2 * n_hc + i] * r) * scale[2] + base[2 * n_hc + i];
        comb[i] = (double)dy[2 * n_hc + i];
    }
    undo_sinkhorn(z, n_hc, c->i[1], (double)c->f[1], c->i[2] == HD_MHC_PAPER, comb);
    for (int64_t i = 0; i < n_hc * n_hc; i++)
        dm[2 * n_hc + i] = (float)comb[i];
}

/* The slope of tanh at raw r where mixes are free, 1 elsewhere: there raw r itself is scaled. */
static float slope(const struct hd_call *c, double z)
{
    float y = c->i[2] == HD_MHC_FREE ? tanhf((float)z) : 0;

    return 1 - y * y;
}

static void mix_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_call *c = j->c;
    int64_t n_hc = c->i[0], n_mix = hd_cols(c->out[0]), n = hd_cols(c->in[0]);
    const float *scale = c->in[3]->data;

    for (int64_t t = begin; t < end; t++) {
        const float *x = hd_cpu_row(c->in[0], t), *raw = hd_cpu_row(&j->raw, t), *dy = hd_cpu_row(j->dout, t);
        float *dm = hd_cpu_row(&j->dm, t), *dx = j->d[0].data ? hd_cpu_row(&j->d[0], t) : NULL;
        double r, dr = 0;

        r = 1 / sqrt(hd_cpu_squares(n, x) / (double)n + (double)c->f[0]);
        if (c->i[2] == HD_MHC_FREE)
            memcpy(dm, dy, (size_t)n_mix * sizeof *dm);
        else
            undo_mix(c, n_mix, raw, r, dy, dm);
        for (int64_t i = 0; i < n_mix; i++)
            dr += (double)(dm[i] * scale[i < 2 * n_hc ? i / n_hc : 2] * slope(c, raw[i] * r)) * (double)raw[i];
        for (int64_t i = 0; dx && i < n; i++)
            dx[i] -= (float)(dr * r * r * r / (double)n) * x[i];
        hd_cpu_row(&j->raw, t)[n_mix] = (float)r;
    }
}

HD_CPU_BACK(mhc_mix)
{
    int64_t rows = hd_rows(dout[0]), n_hc = c->i[0], n_mix = hd_cols(dout[0]);
    struct job j = {.c = c, .dout = dout[0], .d = {hd_grad(s, c->in[0]), hd_grad(s, c->in[1]), hd_grad(s, c->in[2]), hd_grad(s, c->in[3])}};
    struct hd_tensor raw;
    float *dbase = j.d[2].data, *dscale = j.d[3].data;

    HD_ASSERT(c->i[1] <= MAX_ITER);
    j.raw = hd_view2(HD_F32, hd_tape_scratch(s, rows, n_mix + 1), rows, n_mix + 1);
    j.dm = hd_view2(HD_F32, hd_tape_scratch(s, rows, n_mix), rows, n_mix);
    if (!j.raw.data || !j.dm.data || !rows)
        return;
    raw = hd_cpu_cols(&j.raw, 0, n_mix);
    hd_cpu_product(self, s, &raw, c->in[0], c->in[1], 0);
    hd_cpu_rows(self, rows, 4 * hd_cols(c->in[0]), mix_range, &j);
    for (int64_t t = 0; t < rows; t++) {
        float *dm = hd_cpu_row(&j.dm, t), r = hd_cpu_row(&j.raw, t)[n_mix];

        for (int64_t i = 0; i < n_mix; i++) {
            int64_t k = i < 2 * n_hc ? i / n_hc : 2;
            float z = hd_cpu_row(&j.raw, t)[i] * r;

            if (dbase)
                dbase[i] += dm[i];
            if (dscale)
                dscale[k] += dm[i] * (c->i[2] == HD_MHC_FREE ? tanhf(z) : z);
            dm[i] *= ((const float *)c->in[3]->data)[k] * slope(c, z) * r;
        }
    }
    hd_cpu_back_x(self, s, &j.d[0], &j.dm, c->in[1], 0);
    hd_cpu_back_w(self, s, &j.d[1], &j.dm, c->in[0]);
}

static void pre_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_call *c = j->c;
    int64_t n_hc = c->i[0], n = hd_cols(j->dout);

    for (int64_t t = begin; t < end; t++)
        for (int64_t k = 0; k < (c->in[1] || c->i[1] ? n_hc : 1); k++) {
            const float *d = hd_cpu_row(j->dout, t), *x = hd_cpu_row(c->in[0], t) + k * n;
            float w = c->in[1] ? hd_cpu_row(c->in[1], t)[k] : c->i[1] ? 1 / (float)n_hc : 1;

            if (j->d[0].data)
                hd_k.axpy_f32(n, w, d, hd_cpu_row(&j->d[0], t) + k * n);
            if (j->d[1].data)
                hd_cpu_row(&j->d[1], t)[k] += hd_k.dot_f32(n, d, x);
        }
}

HD_CPU_BACK(mhc_pre)
{
    struct job j = {.c = c, .dout = dout[0], .d = {hd_grad(s, c->in[0])}};

    if (c->in[1])
        j.d[1] = hd_grad(s, c->in[1]);
    hd_cpu_rows(self, hd_rows(dout[0]), 2 * hd_cols(c->in[0]), pre_range, &j);
}

static void post_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    const struct hd_call *c = j->c;
    int64_t n_hc = c->i[0], n = hd_cols(c->in[0]);

    for (int64_t t = begin; t < end; t++) {
        const float *x = hd_cpu_row(c->out[0], t), *a = hd_cpu_row(c->in[0], t), *post = hd_cpu_row(c->in[1], t) + n_hc, *comb = post + n_hc, *d = hd_cpu_row(j->dout, t);
        float *dx = hd_cpu_row(&j->d[2], t), *da = j->d[0].data ? hd_cpu_row(&j->d[0], t) : NULL, *dm = j->d[1].data ? hd_cpu_row(&j->d[1], t) : NULL;

        for (int64_t k = 0; k < n_hc; k++) {
            if (da)
                hd_k.axpy_f32(n, post[k], d + k * n, da);
            if (dm)
                dm[n_hc + k] += hd_k.dot_f32(n, a, d + k * n);
            for (int64_t i = 0; i < n_hc; i++) {
                hd_k.axpy_f32(n, comb[i * n_hc + k], d + k * n, dx + i * n);
                if (dm)
                    dm[(2 + i) * n_hc + k] += hd_k.dot_f32(n, x + i * n, d + k * n);
            }
        }
    }
}

HD_CPU_BACK(mhc_post)
{
    struct job j = {.c = c, .dout = dout[0], .d = {hd_grad(s, c->in[0]), hd_grad(s, c->in[1]), hd_grad(s, c->out[0])}};

    hd_cpu_rows(self, hd_rows(dout[0]), 8 * hd_cols(dout[0]), post_range, &j);
}
