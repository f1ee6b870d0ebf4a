/* moe.h: a mixture of experts with a shared one: y = sum_e w_e expert_e(x) + shared(x); experts are SwiGLU.
 *
 * Source   DeepSeekMoE (Dai et al. 2024), DeepSeek-V3 and V4 inference code
 * Traps    the bias changes who is chosen, never the weight; V4 multiplies the routing weight before the down projection,
 *          V2 and V3 after; the shared expert's clamp is the routed ones'
 */
#ifndef HD_MODEL_MOE_H
#define HD_MODEL_MOE_H

#include "ops/ops.h"

struct hd_moe_weights {
    struct hd_tensor gate_inp;                        /* [E, D] */
    struct hd_tensor gate_bias, gate_table;           /* f32 [E], i64 [V, k]; dim 0 when absent */
    struct hd_tensor *gate, *up, *down;               /* arrays [E]: [F, D], [F, D], [D, F] */
    struct hd_tensor sh_gate, sh_up, sh_down;         /* the shared expert; dim 0 when absent */
};

struct hd_moe_block_hp {
    struct hd_gate_hp gate;
    struct hd_moe_hp moe;
};

/* out[T, D] from x[T, D]. next: the next layer's, or NULL: where experts are on disk, what its router says to this layer's x is a good guess at
 * what will be wanted there. */
void hd_moe_block(struct hd_stream *s, const struct hd_moe_block_hp *hp, const struct hd_moe_weights *w, const struct hd_moe_weights *next, const struct hd_ragged *b, const struct hd_tensor *x,
                  struct hd_tensor *out, int layer);

/* Before a layer's attention: where experts are on disk, what the layer's router says to the attention's input x is a better guess than the one that hd_moe_block() of
 * the layer before made, and comes later. */
void hd_moe_guess(struct hd_stream *s, const struct hd_moe_block_hp *hp, const struct hd_moe_weights *w, const struct hd_ragged *b, const struct hd_tensor *x);

/* transformers' fused form, gate_up[E, 2 F, D] (gate rows first) and down[E, D, F], as views of one expert each; t: room for
 * 3 E tensors. */
void hd_moe_split(struct hd_moe_weights *w, const struct hd_tensor *gate_up, const struct hd_tensor *down, struct hd_tensor *t);

#endif
