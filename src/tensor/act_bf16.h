/* act_bf16.h: activations of the fast mode where weights are fp8 or bf16 in panels: bf16, rounded to nearest even.
 *
 * Why: one instruction (vdpbf16ps, AMX's tdpbf16ps, Arm's bfmmla) multiplies twice as many as an f32 FMA. DeepSeek's own kernels round these
 * activations to fp8 in blocks of 128, published models of bf16 weights run on bf16 activations: this is the finer or the same.
 *
 * Such instructions count subnormal f32 as zero, before and after. Activations below 2^-60 and weights below 2^-50 are zero here, at
 * every level, so that no product and no sum of products is subnormal (both are multiples of 2^-124) and levels agree to the bit.
 */
#ifndef HD_TENSOR_ACT_BF16_H
#define HD_TENSOR_ACT_BF16_H

#include <stdint.h>

#include "tensor/blocks.h"

#define HD_BF16_ACT_MIN (67u << 23)        /* bits of 2^-60 as f32 */
#define HD_BF16_WEIGHT_MIN (77u << 7)      /* bits of 2^-50 as bf16 */

/* Where both operands are activations (attention, matrices in training) each is zero below 2^-56: products are multiples of 2^-126. */
#define HD_BF16_OPERAND_MIN (71u << 23)

static inline float hd_bf16_operand(float x)
{
    return (hd_f32_bits(x) & 0x7FFFFFFFu) < HD_BF16_OPERAND_MIN ? 0 : hd_bf16_f32(hd_f32_bf16(x));
}

static inline void hd_act_bf16_encode(const float *x, int64_t n, uint16_t *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (hd_f32_bits(x[i]) & 0x7FFFFFFFu) < HD_BF16_ACT_MIN ? (uint16_t)(hd_f32_bits(x[i]) >> 16 & 0x8000) : hd_f32_bf16(x[i]);
}

#endif
