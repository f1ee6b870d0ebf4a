/* quant_q16.h: activations of the fast mode for formats that panels are not made for (q5_0 q5_1 q4_k q6_k): int16 in blocks of 32 with an f32
 * scale.
 *
 * Why 16 bits: against 4- and 8-bit weights an int16 activation costs one pmaddwd (vpdpwssd) more per 32 products than an
 * int8 one, and its rounding error (1.5e-5 of a block's largest value) vanishes beside that of the weights, so that the
 * fast mode follows the exact one. d = amax / 32767, q = rint(x / d); sum = d * sum of q, for formats with a minimum.
 */
#ifndef HD_TENSOR_QUANT_Q16_H
#define HD_TENSOR_QUANT_Q16_H

#include <stdint.h>

struct hd_q16 {
    float d;
    float sum;              /* d * (q[0] + ... + q[31]), computed from the exact integer sum */
    int16_t q[32];
};

_Static_assert(sizeof(struct hd_q16) == 72, "dtype.def says 72");

void hd_q16_encode(const float *x, int64_t n, struct hd_q16 *out);    /* n % 32 == 0; the scalar definition */

#endif
