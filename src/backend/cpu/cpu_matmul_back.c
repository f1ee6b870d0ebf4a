/* cpu_matmul_back.c: gradients of products: dX = dY W and dW = dY^T X, added where they belong by gemm.c, which reads a matrix either way round. */
#include <string.h>

#include "backend/cpu/cpu_back.h"
#include "backend/cpu/gemm.h"
#include "kernels/kernels.h"

#define CACHES (32 << 20)

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

/* How w, or w's gradient, is multiplied. */
static enum hd_gemm_kind kind_of(const struct hd_stream *s, const struct hd_tensor *w)
{
    return w->exact ? HD_GEMM_F32 : hd_gemm_of(s);
}

/* c[m, n] was a sum over k. */
static void lap(const struct hd_stream *s, const char *name, const struct hd_tensor *c, int64_t k)
{
    hd_profile_lap(s->profile, name, 2 * (double)hd_elems(c) * (double)k);
}

void hd_cpu_product(void *self, struct hd_stream *s, const struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, int64_t row0)
{
    struct hd_tensor f;

    if (hd_rows(x) && as_f32(s, w, row0, hd_cols(out), &f))
        hd_cpu_gemm(self, s, kind_of(s, w), hd_rows(x), hd_cols(out), hd_cols(w), hd_gemm_plain(x), hd_gemm_turned(&f), hd_cpu_row(out, 0), out->row_bytes / 4, HD_GEMM_PUT);
}

void hd_cpu_products(void *self, struct hd_stream *s, const struct hd_call *c)
{
    const struct hd_tensor *x = c->in[0];
    struct hd_arena_mark mark = hd_arena_mark(&s->tape->scratch);
    struct hd_gemm_part part[HD_GEMM_PARTS];
    struct hd_tensor f;
    bool alike = true;

    for (int i = 1; i < c->n_out; i++)
        alike &= c->in[2 + i]->exact == c->in[2]->exact;
    for (int i = 0; i < c->n_out && !alike; i++)
        hd_cpu_product(self, s, c->out[i], x, c->in[2 + i], c->i[1]);
    if (!alike)
        return;
    for (int i = 0; i < c->n_out && hd_rows(x); i++) {
        int64_t n = hd_cols(c->out[i]);

        if (!as_f32(s, c->in[2 + i], c->i[1], n, &f))
            break;
        part[i] = (struct hd_gemm_part){NULL, hd_gemm_turned(&f), n, hd_cpu_row(c->out[i], 0), c->out[i]->row_bytes / 4};
    }
    if (hd_rows(x) && hd_stream_ok(s))
        hd_cpu_gemm_parts(self, s, kind_of(s, c->in[2]), hd_rows(x), hd_cols(x), hd_gemm_plain(x), c->n_out, part, HD_GEMM_PUT);
    hd_arena_rewind(&s->tape->scratch, mark);
}

void hd_cpu_back_x(void *self, struct hd_stream *s, const struct hd_tensor *dx, const struct hd_tensor *dy, const struct hd_tensor *w, int64_t row0)
{
    struct hd_tensor f;

    if (dx->data && hd_rows(dy) && as_f32(s, w, row0, hd_cols(dy), &f))
        hd_cpu_gemm(self, s, kind_of(s, w), hd_rows(dx), hd_cols(dx), hd_cols(dy), hd_gemm_plain(dy), hd_gemm_plain(&f), hd_cpu_row(dx, 0), dx->row_bytes / 4, HD_GEMM_ADD);
    lap(s, "products dX", dx, hd_cols(dy));
}

/* How a gradient goes to dw: where nothing of the step lies yet it takes the place; past the caches where all gradients together are more than those hold. */
static enum hd_gemm_put put_at(const struct hd_stream *s, const struct hd_tensor *dw)
{
    size_t bytes = dw->row_bytes == hd_cols(dw) * 4 ? (size_t)(hd_rows(dw) * dw->row_bytes) : SIZE_MAX;      /* rows apart are no whole */

    if (!hd_tape_claim(s, dw->data, bytes))
        return HD_GEMM_ADD;
    return s->tape->blank_bytes > CACHES ? HD_GEMM_STREAM : HD_GEMM_PUT;
}

void hd_cpu_back_w(void *self, struct hd_stream *s, const struct hd_tensor *dw, const struct hd_tensor *dy, const struct hd_tensor *x)
{
    if (dw->data && hd_rows(dy))
        hd_cpu_gemm(self, s, kind_of(s, dw), hd_rows(dw), hd_cols(dw), hd_rows(dy), hd_gemm_turned(dy), hd_gemm_plain(x), hd_cpu_row(dw, 0), dw->row_bytes / 4, put_at(s, dw));
    lap(s, "products dW", dw, hd_rows(dy));
}

HD_CPU_BACK(matmul)
{
    const struct hd_tensor *x = c->in[0];
    struct hd_tensor dx = hd_grad(s, x);
    struct hd_gemm_part part[HD_N_GEMM] = {{.n = hd_cols(x)}, {.n = hd_cols(x)}};      /* x is packed once (a kind) for the gradients of all weights */

    for (int i = 0; i < c->n_out && hd_stream_ok(s); i++) {
        const struct hd_tensor *w = c->in[2 + i];
        struct hd_tensor dw = hd_grad_place(s, w);

        if (!dout[i] || !hd_rows(dout[i]))
            continue;
        hd_cpu_back_x(self, s, &dx, dout[i], w, c->i[1]);
        if (!dw.data)
            continue;
        struct hd_gemm_part *p = &part[kind_of(s, w)];

        if (!p->packed && !(p->packed = hd_cpu_gemm_pack(self, s, kind_of(s, w), hd_cols(x), hd_rows(x), hd_gemm_plain(x))))
            return;
        dw = hd_cpu_rows_of(&dw, c->i[1], hd_cols(dout[i]));
        p->c = dw.data;
        p->ld = dw.row_bytes / 4;
        hd_cpu_gemm_parts(self, s, kind_of(s, w), hd_cols(dout[i]), hd_rows(x), hd_gemm_turned(dout[i]), 1, p, put_at(s, &dw));
        lap(s, "products dW", &dw, hd_rows(x));
    }
}
