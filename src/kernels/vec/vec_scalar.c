/* vec_scalar.c: the definitions of the row kernels. */
#include <math.h>

#include "kernels/table.h"
#include "tensor/blocks.h"

static void rmsnorm(int64_t n, const float *x, const float *w, float eps, float *out)
{
    double ss = 0;
    float r;

    for (int64_t i = 0; i < n; i++)
        ss += (double)x[i] * (double)x[i];
    r = (float)(1 / sqrt(ss / (double)n + (double)eps));
    for (int64_t i = 0; i < n; i++)
        out[i] = x[i] * r * w[i];
}

static void silu_mul(int64_t n, const float *gate, const float *up, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void silu_bwd(int64_t n, const float *gate, const float *up, const float *d, float limit, float *act, float *dgate, float *dup)
{
    for (int64_t i = 0; i < n; i++) {
        float g = gate[i], u = up[i], di = d[i], a = limit > 0 ? fminf(g, limit) : g, b = limit > 0 ? fminf(fmaxf(u, -limit), limit) : u, y = 1 / (1 + expf(-a));

        act[i] = a * y * b;
        dgate[i] = limit > 0 && g >= limit ? 0 : di * b * y * (1 + a * (1 - y));
        dup[i] = limit > 0 && fabsf(u) >= limit ? 0 : di * a * y;
    }
}

static float exp_sum(int64_t n, float *x, float max)
{
    float sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - max);
    return sum;
}

static float dot_f32(int64_t n, const float *a, const float *b)
{
    float sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum = fmaf(a[i], b[i], sum);
    return sum;
}

static float dot_f16(int64_t n, const uint16_t *a, const float *b)
{
    float sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum = fmaf(hd_f16_f32(a[i]), b[i], sum);
    return sum;
}

static void axpy_f32(int64_t n, float a, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = fmaf(a, x[i], y[i]);
}

static void axpy_f16(int64_t n, float a, const uint16_t *x, float *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = fmaf(a, hd_f16_f32(x[i]), y[i]);
}

static void scale(int64_t n, float a, float *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] *= a;
}

static void add(int64_t n, const float *a, const float *b, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] + b[i];
}

static void f32_to_f16(int64_t n, const float *x, uint16_t *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = hd_f32_f16(x[i]);
}

/* Row by row with whatever dot and axpy the table holds. */
static void rows_dot(int64_t d, int64_t n, const void *const *row, bool f16, float scale, const float *q, int64_t n_head, float (*p)[HD_ROWS_MAX])
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < n_head; h++)
            p[h][i] = scale * (f16 ? hd_k.dot_f16(d, row[i], q + h * d) : hd_k.dot_f32(d, row[i], q + h * d));
}

static void rows_mix(int64_t d, int64_t n, const void *const *row, bool f16, const float (*p)[HD_ROWS_MAX], int64_t n_head, float *out)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < n_head; h++) {
            if (f16)
                hd_k.axpy_f16(d, p[h][i], row[i], out + h * d);
            else
                hd_k.axpy_f32(d, p[h][i], row[i], out + h * d);
        }
}

static void bf16_operand(int64_t n, const float *x, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = hd_bf16_operand(x[i]);
}

static void relu_mix(int64_t n_head, int64_t n, const float (*p)[HD_ROWS_MAX], const float *w, float *out)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < n_head; h++)
            out[i] = fmaf(p[h][i] > 0 ? p[h][i] : 0, w[h], out[i]);
}

static void mix_streams(int64_t n, int64_t n_hc, const float *a, const float *post, const float *comb, float *x)
{
    for (int64_t i = 0; i < n; i++) {
        float old[HD_HC_MAX];

        for (int64_t j = 0; j < n_hc; j++)
            old[j] = x[j * n + i];
        for (int64_t k = 0; k < n_hc; k++) {
            float sum = post[k] * a[i];

            for (int64_t j = 0; j < n_hc; j++)
                sum += comb[j * n_hc + k] * old[j];
            x[k * n + i] = sum;
        }
    }
}

void hd_fill_vec_scalar(struct hd_kernels *k)
{
    k->q16_encode = hd_q16_encode;
    k->rmsnorm = rmsnorm;
    k->silu_mul = silu_mul;
    k->silu_bwd = silu_bwd;
    k->exp_sum = exp_sum;
    k->dot_f32 = dot_f32;
    k->dot_f16 = dot_f16;
    k->rows_dot = rows_dot;
    k->rows_mix = rows_mix;
    k->bf16_operand = bf16_operand;
    k->relu_mix = relu_mix;
    k->mix_streams = mix_streams;
    k->kv_decode = hd_kv_decode;
    k->axpy_f32 = axpy_f32;
    k->axpy_f16 = axpy_f16;
    k->scale = scale;
    k->add = add;
    k->f32_to_f16 = f32_to_f16;
}
