/* cpu_back.h: the way back of the CPU backend's ops: every hd_cpu_*_back has hd_back_fn's shape.
 *
 * Gradients are sums over tokens, and a sum's order may not depend on the team: rows of activations are cut by token, sums over tokens
 * (weights, tables, shared rows) by column, each column's tokens ascending. Products go through gemm.h. Gradients where c's inputs have none (frozen weights, integers) are skipped. */
#ifndef HD_BACKEND_CPU_CPU_BACK_H
#define HD_BACKEND_CPU_CPU_BACK_H

#include "backend/cpu/cpu.h"
#include "ops/tape.h"

/* dx[T, K] += dy[T, N] w[row0 .. row0 + N, K]; w of any format. */
void hd_cpu_back_x(void *self, struct hd_stream *s, const struct hd_tensor *dx, const struct hd_tensor *dy, const struct hd_tensor *w, int64_t row0);
/* dw[N, K] += dy[T, N]^T x[T, K]; dw: hd_grad_place()'s, or hd_grad()'s. */
void hd_cpu_back_w(void *self, struct hd_stream *s, const struct hd_tensor *dw, const struct hd_tensor *dy, const struct hd_tensor *x);
/* out[T, N] = x[T, K] w[row0 .. row0 + N, K]^T in f32; needs a tape's scratch, forward or on the way back. */
void hd_cpu_product(void *self, struct hd_stream *s, const struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, int64_t row0);
/* A call of hd_matmul() on a tape. */
void hd_cpu_products(void *self, struct hd_stream *s, const struct hd_call *c);
/* hd_attend() on a tape. */
void hd_cpu_attend_taped(void *self, struct hd_stream *s, const struct hd_call *c);
/* dst += src, both [T, N] */
void hd_cpu_add_to(void *self, const struct hd_tensor *dst, const struct hd_tensor *src);

/* Columns of a task that sums over tokens: two tasks a worker, whole cache lines. Columns do not meet, so no bit depends on it. */
static inline int64_t hd_cpu_grain(const struct hd_cpu *cpu, int64_t cols)
{
    int64_t n = cols / (2 * hd_pool_threads(cpu->pool)) / 16 * 16;

    return n < 16 ? 16 : n;
}

/* The sum of squares of x[n], in double: eight sums side by side, added in a fixed order. */
static inline double hd_cpu_squares(int64_t n, const float *x)
{
    double sum[8] = {0}, all = 0;
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            sum[k] += (double)x[i + k] * (double)x[i + k];
    for (; i < n; i++)
        all += (double)x[i] * (double)x[i];
    for (int k = 0; k < 8; k++)
        all += sum[k];
    return all;
}

/* Columns col0 .. col0 + n of x; rows row0 .. row0 + n. */
static inline struct hd_tensor hd_cpu_cols(const struct hd_tensor *x, int64_t col0, int64_t n)
{
    struct hd_tensor v = hd_view2(HD_F32, hd_cpu_row(x, 0) + col0, hd_rows(x), n);

    v.row_bytes = x->row_bytes;
    v.exact = x->exact;
    return v;
}

static inline struct hd_tensor hd_cpu_rows_of(const struct hd_tensor *x, int64_t row0, int64_t n)
{
    struct hd_tensor v = hd_view2(HD_F32, hd_cpu_row(x, row0), n, hd_cols(x));

    v.row_bytes = x->row_bytes;
    v.exact = x->exact;
    return v;
}

#define HD_CPU_BACK(name) void hd_cpu_##name##_back(void *self, struct hd_stream *s, const struct hd_call *c, const struct hd_tensor *const *dout)
HD_CPU_BACK(embed);
HD_CPU_BACK(gather);
HD_CPU_BACK(rmsnorm);
HD_CPU_BACK(matmul);
HD_CPU_BACK(add_row);
HD_CPU_BACK(add);
HD_CPU_BACK(silu_mul);
HD_CPU_BACK(rope);
HD_CPU_BACK(kv_put);
HD_CPU_BACK(attend);
HD_CPU_BACK(simulate);
HD_CPU_BACK(scale);
HD_CPU_BACK(head_norm);
HD_CPU_BACK(hadamard);
HD_CPU_BACK(copies);
HD_CPU_BACK(mhc_mix);
HD_CPU_BACK(mhc_pre);
HD_CPU_BACK(mhc_post);
HD_CPU_BACK(pool);
HD_CPU_BACK(attend_sel);
HD_CPU_BACK(gate);
HD_CPU_BACK(moe);
HD_CPU_BACK(table);
HD_CPU_BACK(engram);
HD_CPU_BACK(short_conv);
HD_CPU_BACK(xent);
HD_CPU_BACK(index_loss);
HD_CPU_BACK(attend_block);
HD_CPU_BACK(confidence);
HD_CPU_BACK(layernorm);
HD_CPU_BACK(group_matmul);
HD_CPU_BACK(absorb);
HD_CPU_BACK(absorb_t);

#endif
