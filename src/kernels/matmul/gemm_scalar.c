/* gemm_scalar.c: 4 x 4 tiles of plain C: the definition. */
#include "kernels/kernels.h"
#include "tensor/blocks.h"

static inline void v_quads(const float *row, int64_t ld, int n, int cols, float *out)
{
    for (int c = 0; c < cols; c++)
        out[c] = n > 0 ? row[c] : 0;
}

#define V float
#define V_LANES 1
#define MR 4
#define NV 4
#define v_load(p) (*(p))
#define v_store(p, v) (*(p) = (v))
#define v_stream v_store
#define v_set(x) (x)
#define v_add(a, b) ((a) + (b))
#define v_fma(a, b, c) ((a) * (b) + (c))
#define v_part(p, n) ((n) > 0 ? *(p) : 0)
#define QUAD 2
#define v_bf16(v) hd_bf16_operand(v)
#define NAME(fn) fn##_scalar

#include "kernels/matmul/gemm_body.h"
