/* cpu_matmul_back.c: gradients of products: dX = dY W and dW = dY^T X, added where they belong by gemm.c, which reads a matrix either way round. */
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "backend/cpu/gemm.h"
#include "kernels/kernels.h"

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

void hd_cpu_product(void *self, struct hd_stream *s, const struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, int64_t row0)
{
    struct hd_tensor f;

    if (hd_rows(x) && as_f32(s, w, row0, hd_cols(out), &f))
        hd_cpu_gemm(self, s, hd_rows(x), hd_cols(out), hd_cols(w), hd_gemm_plain(x), hd_gemm_turned(&f), hd_cpu_row(out, 0), out->row_bytes / 4, false);
}

void hd_cpu_back_x(void *self, struct hd_stream *s, const struct hd_tensor *dx, const struct hd_tensor *dy, const struct hd_tensor *w, int64_t row0)
{
    struct hd_tensor f;

    if (dx->data && hd_rows(dy) && as_f32(s, w, row0, hd_cols(dy), &f))
        hd_cpu_gemm(self, s, hd_rows(dx), hd_cols(dx), hd_cols(dy), hd_gemm_plain(dy), hd_gemm_plain(&f), hd_cpu_row(dx, 0), dx->row_bytes / 4, true);
}

void hd_cpu_back_w(void *self, struct hd_stream *s, const struct hd_tensor *dw, const struct hd_tensor *dy, const struct hd_tensor *x)
{
    if (dw->data && hd_rows(dy))
        hd_cpu_gemm(self, s, hd_rows(dw), hd_cols(dw), hd_rows(dy), hd_gemm_turned(dy), hd_gemm_plain(x), hd_cpu_row(dw, 0), dw->row_bytes / 4, true);
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
