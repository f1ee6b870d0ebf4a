/* quant_q8.h: activations of the fast mode where weights lie in panels: int8 in blocks of 32 with an f32 scale.
 *
 * d = amax / 127, q = rint(x / d). Kernels multiply unsigned weights (value plus an offset) by signed activations; what the offset adds is
 * taken off with the sum of q, kept negated.
 */
#ifndef HD_TENSOR_QUANT_Q8_H
#define HD_TENSOR_QUANT_Q8_H

#include <stdint.h>

struct hd_q8 {
    float d;
    float sum;              /* d * (q[0] + ... + q[31]), computed from the exact integer sum */
    int32_t neg;            /* -(q[0] + ... + q[31]) */
    int32_t pad;            /* 0 */
    int8_t q[32];
};

_Static_assert(sizeof(struct hd_q8) == 48, "dtype.def says 48");

void hd_q8_encode(const float *x, int64_t n, struct hd_q8 *out);      /* n % 32 == 0; the scalar definition */

#endif
