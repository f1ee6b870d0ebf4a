/* cpu_matmul_back.c: gradients of products. dX = dY W and dW = dY^T X are forward products of transposed copies, so that they run at the
 * forward kernels' speed; the copies cost a pass over memory, the products T or N passes. */
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "kernels/kernels.h"

#define STRIP 16                      /* columns a task transposes: one cache line of each row */

struct turn {
    const struct hd_tensor *x;
    int64_t row0, rows;
    float *out;                       /* [cols, rows] */
};

static void turn_range(void *arg, int64_t begin, int64_t end)
{
    const struct turn *j = arg;
    int64_t cols = hd_cols(j->x);

    for (int64_t i = begin; i < end; i++)
        for (int64_t r = 0; r < j->rows; r++) {
            const float *x = hd_cpu_row(j->x, j->row0 + r);

            for (int64_t k = i * STRIP; k < cols && k < (i + 1) * STRIP; k++)
                j->out[k * j->rows + r] = x[k];
        }
}

/* Rows row0 .. of x, transposed into scratch. */
static bool turned(void *self, struct hd_stream *s, const struct hd_tensor *x, int64_t row0, int64_t rows, struct hd_tensor *out)
{
    struct hd_cpu *cpu = self;
    float *p = hd_tape_scratch(s, hd_cols(x), rows);
    struct turn j = {x, row0, rows, p};

    if (!p)
        return false;
    hd_pool_for(cpu->pool, (hd_cols(x) + STRIP - 1) / STRIP, 1, turn_range, &j);
    *out = hd_view2(HD_F32, p, hd_cols(x), rows);
    return true;
}

static void add_to_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_tensor *const *p = arg;

    for (int64_t t = begin; t < end; t++)
        hd_k.add(hd_cols(p[0]), hd_cpu_row(p[0], t), hd_cpu_row(p[1], t), hd_cpu_row(p[0], t));
}

void hd_cpu_add_to(void *self, const struct hd_tensor *dst, const struct hd_tensor *src)
{
    const struct hd_tensor *p[2] = {dst, src};

    hd_cpu_rows(self, hd_rows(dst), hd_cols(dst), add_to_range, (void *)p);
}

void hd_cpu_product(void *self, struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w)
{
    if (hd_rows(x))
        hd_cpu_matmul(self, s, &(struct hd_call){.op = HD_OP_MATMUL, .n_out = 1, .out = {out}, .in = {x, NULL, w}});
}

/* w's rows as f32: itself, or decoded. */
static bool as_f32(struct hd_stream *s, const struct hd_tensor *w, int64_t row0, int64_t rows, struct hd_tensor *out)
{
    struct hd_wrows at = {w->data, w->row_bytes, w->scale.data ? &w->scale : NULL, 0};
    float *p;

    if (w->type == HD_F32) {
        *out = hd_cpu_rows_of(w, row0, rows);
        return true;
    }
    if (!(p = hd_tape_scratch(s, rows, hd_cols(w))))
        return false;
    for (int64_t r = 0; r < rows; r++) {
        at.row0 = row0 + r;
        hd_k.decode[w->type](&at, hd_cols(w), p + r * hd_cols(w));
    }
    *out = hd_view2(HD_F32, p, rows, hd_cols(w));
    return true;
}

void hd_cpu_back_x(void *self, struct hd_stream *s, const struct hd_tensor *dx, const struct hd_tensor *dy, const struct hd_tensor *w, int64_t row0)
{
    struct hd_tensor f, wt, sum;
    float *p;

    if (!dx->data || !as_f32(s, w, row0, hd_cols(dy), &f) || !turned(self, s, &f, 0, hd_rows(&f), &wt) || !(p = hd_tape_scratch(s, hd_rows(dx), hd_cols(dx))))
        return;
    sum = hd_view2(HD_F32, p, hd_rows(dx), hd_cols(dx));
    hd_cpu_product(self, s, &sum, dy, &wt);
    hd_cpu_add_to(self, dx, &sum);
}

void hd_cpu_back_w(void *self, struct hd_stream *s, const struct hd_tensor *dw, const struct hd_tensor *dy, const struct hd_tensor *x)
{
    struct hd_tensor dyt, xt, sum;
    float *p;

    if (!dw->data || !turned(self, s, dy, 0, hd_rows(dy), &dyt) || !turned(self, s, x, 0, hd_rows(x), &xt) || !(p = hd_tape_scratch(s, hd_rows(dw), hd_cols(dw))))
        return;
    sum = hd_view2(HD_F32, p, hd_rows(dw), hd_cols(dw));
    hd_cpu_product(self, s, &sum, &dyt, &xt);
    hd_cpu_add_to(self, dw, &sum);
}

HD_CPU_BACK(matmul)
{
    struct hd_tensor dx = hd_grad(s, c->in[0]);

    for (int i = 0; i < c->n_out; i++) {
        const struct hd_tensor *w = c->in[2 + i];
        struct hd_tensor dw = hd_grad(s, w);

        if (!dout[i] || !hd_rows(dout[i]))
            continue;
        hd_cpu_back_x(self, s, &dx, dout[i], w, c->i[1]);
        if (!dw.data)
            continue;
        dw = hd_cpu_rows_of(&dw, c->i[1], hd_cols(dout[i]));
        hd_cpu_back_w(self, s, &dw, dout[i], c->in[0]);
    }
}
