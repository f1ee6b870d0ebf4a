/* ffn.h: the dense feed-forward block: out = (silu(x Wgate) * (x Wup)) Wdown, biases where a checkpoint has them. */
#ifndef HD_MODEL_FFN_H
#define HD_MODEL_FFN_H

#include "ops/ops.h"

struct hd_ffn_weights {
    struct hd_tensor gate, up, down;                  /* [F, D], [F, D], [D, F] */
    struct hd_tensor gate_bias, up_bias, down_bias;   /* f32, dim 0 when absent */
};

/* x[T, D] -> out[T, D] */
void hd_ffn(struct hd_stream *s, const struct hd_ffn_weights *w, const struct hd_tensor *x, struct hd_tensor *out);

#endif
