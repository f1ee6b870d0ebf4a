/* simulate.h: rounding f32 values to what a narrower format can hold, and back: the rounding points of official code.
 *
 * Source   DeepSeek's act_quant kernels: scales are powers of two taken from the exponent's bits, never from log2
 */
#ifndef HD_TENSOR_SIMULATE_H
#define HD_TENSOR_SIMULATE_H

#include <stdint.h>

enum hd_sim {
    HD_SIM_BF16,
    HD_SIM_FP8,               /* e4m3, blocks with a ue8m0 scale 2^ceil(log2(max(amax, 1e-4) / 448)); then bf16 */
    HD_SIM_FP4,               /* e2m1, blocks with a ue8m0 scale 2^ceil(log2(amax / 6)); then bf16 */
    HD_SIM_FP4_E4M3           /* e2m1, blocks with an e4m3 scale max(amax, 6 2^-9) / 6; then bf16 */
};

float hd_round_bf16(float x);                                              /* nearest, ties to even */
float hd_round_e2m1(float x);                                              /* nearest of 0 .5 1 1.5 2 3 4 6, ties to the even code */
int hd_e2m1_code(float x);                                                 /* its code, the sign in bit 3 */
float hd_sim_scale(enum hd_sim kind, float amax);                          /* the scale of a block whose largest magnitude is amax */
/* x[n] in place, in blocks of block values (the last may be shorter); block is ignored for BF16. */
void hd_simulate(enum hd_sim kind, int64_t block, float *x, int64_t n);

#endif
