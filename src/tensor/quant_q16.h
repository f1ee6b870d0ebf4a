/* quant_q16.h: activations of the fast mode: int16 in blocks of 32 with an f32 scale.
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

/* FP4 weights meet eight of the sixteen bits: what they stand for is known to 10 % anyway, DeepSeek's own code rounds these activations
 * to fp8 (3 bits), and int8 products are twice as fast. q8 d HD_Q8_SCALE = q16 d within d 2^7. */
#define HD_Q8_SCALE (32768.0f / 127)

static inline int hd_q16_to_q8(int q)
{
    return (q * 127 + 0x4000) >> 15;
}

void hd_q16_encode(const float *x, int64_t n, struct hd_q16 *out);    /* n % 32 == 0; the scalar definition */

#endif
