/* gemm_scalar.c: 4 x 4 tiles of plain C: the definition. */
#define V float
#define V_LANES 1
#define MR 4
#define NV 4
#define v_load(p) (*(p))
#define v_store(p, v) (*(p) = (v))
#define v_set(x) (x)
#define v_add(a, b) ((a) + (b))
#define v_fma(a, b, c) ((a) * (b) + (c))
#define v_part(p, n) ((n) > 0 ? *(p) : 0)
#define QUAD 1
#define v_quads(rows, ld, n, cols, out) (*(out) = (n) > 0 ? *(rows) : 0)
#define NAME(fn) fn##_scalar

#include "kernels/matmul/gemm_body.h"
