/* cpu_latent_back.c: gradients of per-head products and of the layer norm. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_back.h"

HD_CPU_BACK(layernorm)
{
    struct hd_tensor dx = hd_grad(s, c->in[0]), dw = hd_grad(s, c->in[1]), db = hd_grad(s, c->in[2]);
    int64_t n = hd_cols(c->in[0]);
    const float *w = c->in[1]->data;
    float *sw = dw.data, *sb = db.data;

    for (int64_t t = 0; t < hd_rows(c->in[0]); t++) {
        const float *x = hd_cpu_row(c->in[0], t), *d = hd_cpu_row(dout[0], t);
        double mean = 0, var = 0, r, sum = 0, along = 0;

        for (int64_t i = 0; i < n; i++)
            mean += (double)x[i];
        mean /= (double)n;
        for (int64_t i = 0; i < n; i++)
            var += ((double)x[i] - mean) * ((double)x[i] - mean);
        r = 1 / sqrt(var / (double)n + (double)c->f[0]);
        for (int64_t i = 0; i < n; i++) {
            double y = ((double)x[i] - mean) * r, g = (double)d[i] * (double)w[i];

            sum += g;
            along += g * y;
            if (sw)
                sw[i] += (float)((double)d[i] * y);
            if (sb)
                sb[i] += d[i];
        }
        for (int64_t i = 0; i < n && dx.data; i++)
            hd_cpu_row(&dx, t)[i] += (float)(r * ((double)d[i] * (double)w[i] - sum / (double)n - ((double)x[i] - mean) * r * along / (double)n));
    }
}

HD_CPU_BACK(group_matmul)
{
    const struct hd_tensor *x = c->in[0], *w = c->in[1];
    struct hd_tensor dx = hd_grad(s, x), dw = hd_grad(s, w);
    int64_t n_group = c->i[0], n = hd_cols(dout[0]) / n_group, k = hd_cols(w);

    for (int64_t g = 0; g < n_group && hd_rows(x); g++) {
        struct hd_tensor dy = hd_cpu_cols(dout[0], g * n, n), xg = hd_cpu_cols(x, g * k, k), d;

        if (dx.data) {
            d = hd_cpu_cols(&dx, g * k, k);
            hd_cpu_back_x(self, s, &d, &dy, w, g * c->i[1] + c->i[2]);
        }
        if (dw.data) {
            d = hd_cpu_rows_of(&dw, g * c->i[1] + c->i[2], n);
            hd_cpu_back_w(self, s, &d, &dy, &xg);
        }
    }
}

/* The rope dims of a head passed through. */
static void pass_rope(const struct hd_tensor *dq, const struct hd_tensor *dy, int64_t h, int64_t n_head, int64_t nope)
{
    int64_t dim = hd_cols(dq) / n_head, rope = dim - nope, wide = hd_cols(dy) / n_head;

    for (int64_t t = 0; t < hd_rows(dq); t++)
        for (int64_t i = 0; i < rope; i++)
            hd_cpu_row(dq, t)[h * dim + nope + i] += hd_cpu_row(dy, t)[(h + 1) * wide - rope + i];
}

HD_CPU_BACK(absorb)
{
    const struct hd_tensor *q = c->in[0], *w = c->in[1];
    struct hd_tensor dq = hd_grad(s, q), dw = hd_grad(s, w);
    int64_t n_head = c->i[0], nope = c->i[1], stride = c->i[2], rank = hd_cols(w), dim = hd_cols(q) / n_head, wide = hd_cols(dout[0]) / n_head;

    for (int64_t h = 0; h < n_head && hd_rows(q); h++) {
        struct hd_tensor dy = hd_cpu_cols(dout[0], h * wide, rank), qh = hd_cpu_cols(q, h * dim, nope), d;

        if (dq.data) {
            struct hd_tensor sum = hd_view2(HD_F32, hd_tape_scratch(s, hd_rows(q), nope), hd_rows(q), nope);

            if (!sum.data)
                return;
            hd_cpu_product(self, s, &sum, &dy, w, h * stride);
            d = hd_cpu_cols(&dq, h * dim, nope);
            hd_cpu_add_to(self, &d, &sum);
            pass_rope(&dq, dout[0], h, n_head, nope);
        }
        if (dw.data) {
            d = hd_cpu_rows_of(&dw, h * stride, nope);
            hd_cpu_back_w(self, s, &d, &qh, &dy);
        }
    }
}

HD_CPU_BACK(absorb_t)
{
    const struct hd_tensor *q = c->in[0], *w = c->in[1];
    struct hd_tensor dq = hd_grad(s, q), dw = hd_grad(s, w);
    int64_t n_head = c->i[0], nope = c->i[1], rank = hd_rows(w) / n_head, dim = hd_cols(q) / n_head, wide = hd_cols(dout[0]) / n_head;

    for (int64_t h = 0; h < n_head && hd_rows(q); h++) {
        struct hd_tensor dy = hd_cpu_cols(dout[0], h * wide, rank), qh = hd_cpu_cols(q, h * dim, nope), d;

        if (dq.data) {
            d = hd_cpu_cols(&dq, h * dim, nope);
            hd_cpu_back_x(self, s, &d, &dy, w, h * rank);
            pass_rope(&dq, dout[0], h, n_head, nope);
        }
        if (dw.data) {
            d = hd_cpu_rows_of(&dw, h * rank, rank);
            hd_cpu_back_w(self, s, &d, &dy, &qh);
        }
    }
}
