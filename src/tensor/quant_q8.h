/* quant_q8.h: activations of the fast mode where weights lie in panels: int8 in blocks of 32 with an f32 scale.
 *
 * d = amax / 127, q = rint(x / d). A block whose largest value is more than four times its root mean square would lose too much beside that
 * one: it keeps 254ths of what rounding took away too, x = d (q + fine / 254). On SmolLM2 these are a fifth of all blocks and take the
 * mean KL to exact activations from 3.8e-3 to 3e-4; among normally distributed values they are rare.
 *
 * A row of n values is n / 32 blocks, behind them n / 32 fine parts (hd_q8_fine()), so that the usual ones lie close together, and behind
 * those sums of halves of blocks (hd_q8_half()), for weights with a scale every 16 columns.
 *
 * Kernels multiply unsigned weights (value plus an offset) by signed activations; what the offset adds is taken off with the sums, kept
 * negated.
 */
#ifndef HD_TENSOR_QUANT_Q8_H
#define HD_TENSOR_QUANT_Q8_H

#include <stdint.h>

struct hd_q8 {
    float d;
    float sum;              /* of the values that the block stands for */
    int32_t neg;            /* -(q[0] + ... + q[31]) */
    int16_t fine_neg;       /* the same of the fine part */
    uint16_t has_fine;
    int8_t q[32];
};

_Static_assert(sizeof(struct hd_q8) == 48, "dtype.def says 48, 32 and 4");

#define HD_Q8_FINE (1.0f / 254)
/* amax > 4 sqrt(sum(x^2) / 32) is 2 amax^2 > sum(x^2): in q, whose largest is 127, exact. */
#define HD_Q8_OUTLIER (2 * 127 * 127)

/* The fine parts of a row of n values, 32 each. */
static inline const int8_t *hd_q8_fine(const struct hd_q8 *row, int64_t n)
{
    return (const int8_t *)(row + n / 32);
}

/* Of a block's first sixteen values what neg and fine_neg are of all. */
struct hd_q8_half {
    int16_t neg, fine_neg;
};

static inline const struct hd_q8_half *hd_q8_half(const struct hd_q8 *row, int64_t n)
{
    return (const struct hd_q8_half *)(hd_q8_fine(row, n) + n);
}

void hd_q8_encode(const float *x, int64_t n, struct hd_q8 *out);      /* n % 32 == 0; the scalar definition */

#endif
