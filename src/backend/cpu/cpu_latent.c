/* cpu_latent.c: per-head products of latent attention: a head's rows of a matrix times its columns, and the transposed way.
 *
 * A task is a head: its weights are decoded once for all tokens. Sums ascend over a head's own rows, whatever the batch.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "kernels/kernels.h"

#define MAX_RANK 4096

static void layernorm_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    int64_t n = hd_cols(c->in[0]);
    const float *w = c->in[1]->data, *b = c->in[2]->data;

    for (int64_t t = begin; t < end; t++) {
        const float *x = hd_cpu_row(c->in[0], t);
        float *out = hd_cpu_row(c->out[0], t), r;
        double mean = 0, var = 0;

        for (int64_t i = 0; i < n; i++)
            mean += (double)x[i];
        mean /= (double)n;
        for (int64_t i = 0; i < n; i++)
            var += ((double)x[i] - mean) * ((double)x[i] - mean);
        r = (float)(1 / sqrt(var / (double)n + (double)c->f[0]));
        for (int64_t i = 0; i < n; i++)
            out[i] = (x[i] - (float)mean) * r * w[i] + b[i];
    }
}

void hd_cpu_layernorm(void *self, struct hd_stream *s, const struct hd_call *c)
{
    hd_cpu_rows(self, hd_rows(c->in[0]), 4 * hd_cols(c->in[0]), layernorm_range, (void *)c);
}

/* Group g of every token: x is [n_tok, n_group * n], or the same with a row a group. */
static struct hd_tensor group_of(const struct hd_tensor *x, int64_t g, int64_t n_group, int64_t n_tok)
{
    bool apart = hd_rows(x) != n_tok || n_group == 1;
    int64_t row_bytes = apart ? x->row_bytes : x->row_bytes / n_group;
    struct hd_tensor t = *x;

    t.data = (char *)x->data + g * row_bytes;
    t.row_bytes = row_bytes * n_group;
    return t;
}

/* Into how many runs of rows a group is cut: long ones, since kernels share activations among a run's rows. */
static int64_t group_pieces(const struct hd_call *c)
{
    int64_t n = hd_cols(c->out[0]) / c->i[0], run = hd_rows(c->out[0]) > 8 ? 256 : 128;

    return (n + run - 1) / run;
}

static void group_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    const struct hd_tensor *w = c->in[1], *out = c->out[0];
    int64_t n_group = c->i[0], n = hd_cols(out) / n_group, n_tok = hd_rows(out), pieces = group_pieces(c), step = (n + pieces - 1) / pieces;

    step = (step + HD_PANEL_ROWS - 1) / HD_PANEL_ROWS * HD_PANEL_ROWS;
    for (int64_t i = begin; i < end; i++) {
        int64_t g = i / pieces, row = i % pieces * step, n_row = n - row < step ? n - row : step;
        struct hd_tensor x = group_of(c->in[0], g, n_group, n_tok), q;
        struct hd_acts acts = {.f32 = &x};

        if (c->in[2]) {
            q = group_of(c->in[2], g, n_group, n_tok);
            hd_acts_add(&acts, &q);
        }
        if (n_row > 0)
            hd_cpu_mul_rows(w, g * c->i[1] + c->i[2] + row, n_row, &acts, 0, n_tok, hd_cpu_row(out, 0) + g * n + row, out->row_bytes / 4);
    }
}

void hd_cpu_group_matmul(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;

    if (hd_rows(c->in[0]))
        hd_pool_for(cpu->pool, c->i[0] * group_pieces(c), 1, group_range, (void *)c);
}

/* A head's output is [rank | rope]: the rope dims pass through. */
static void pass_rope(const struct hd_tensor *q, const struct hd_tensor *out, int64_t h, int64_t n_head, int64_t nope)
{
    int64_t dim = hd_cols(q) / n_head, rope = dim - nope, wide = hd_cols(out) / n_head;

    for (int64_t t = 0; t < hd_rows(q); t++)
        memcpy(hd_cpu_row(out, t) + (h + 1) * wide - rope, hd_cpu_row(q, t) + h * dim + nope, (size_t)rope * sizeof(float));
}

static void absorb_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    const struct hd_tensor *q = c->in[0], *w = c->in[1], *out = c->out[0];
    int64_t n_head = c->i[0], nope = c->i[1], rank = hd_cols(w), dim = hd_cols(q) / n_head, wide = hd_cols(out) / n_head;
    float row[MAX_RANK];

    for (int64_t h = begin; h < end; h++) {
        pass_rope(q, out, h, n_head, nope);
        for (int64_t t = 0; t < hd_rows(q); t++)
            memset(hd_cpu_row(out, t) + h * wide, 0, (size_t)rank * sizeof(float));
        for (int64_t r = 0; r < nope; r++) {
            struct hd_wrows rows = {w->data, w->row_bytes, w->scale.data ? &w->scale : NULL, h * c->i[2] + r};

            hd_k.decode[w->type](&rows, rank, row);
            for (int64_t t = 0; t < hd_rows(q); t++)
                hd_k.axpy_f32(rank, hd_cpu_row(q, t)[h * dim + r], row, hd_cpu_row(out, t) + h * wide);
        }
    }
}

void hd_cpu_absorb(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;

    HD_ASSERT(hd_cols(c->in[1]) <= MAX_RANK);
    if (hd_rows(c->in[0]))
        hd_pool_for(cpu->pool, c->i[0], 1, absorb_range, (void *)c);
}

static void absorb_t_range(void *arg, int64_t begin, int64_t end)
{
    const struct hd_call *c = arg;
    const struct hd_tensor *q = c->in[0], *w = c->in[1], *out = c->out[0];
    int64_t n_head = c->i[0], nope = c->i[1], rank = hd_rows(w) / n_head, wide = hd_cols(out) / n_head, n_tok = hd_rows(q);

    for (int64_t h = begin; h < end; h++) {
        struct hd_tensor x = group_of(q, h, n_head, n_tok), a;
        struct hd_acts acts = {.f32 = &x};

        if (c->in[2]) {
            a = group_of(c->in[2], h, n_head, n_tok);
            hd_acts_add(&acts, &a);
        }
        hd_cpu_mul_rows(w, h * rank, rank, &acts, 0, n_tok, hd_cpu_row(out, 0) + h * wide, out->row_bytes / 4);
        pass_rope(q, out, h, n_head, nope);
    }
}

void hd_cpu_absorb_t(void *self, struct hd_stream *s, const struct hd_call *c)
{
    struct hd_cpu *cpu = self;

    if (hd_rows(c->in[0]))
        hd_pool_for(cpu->pool, c->i[0], 1, absorb_t_range, (void *)c);
}
