/* mhc.h: manifold-constrained hyper-connections: n_hc residual streams, mixed around every half-layer.
 *
 * Math     u = sum_j pre[j] X[j];  X'[k] = post[k] f(u) + sum_j comb[j][k] X[j], comb doubly stochastic by Sinkhorn
 * Source   the mHC paper; DeepSeek-V4's hc_split_sinkhorn (order: rows by softmax first, columns last)
 * Traps    comb sums over its first index; in V4.1 a half-layer collapses with the pre of the one before
 */
#ifndef HD_MODEL_MHC_H
#define HD_MODEL_MHC_H

#include "ops/ops.h"

struct hd_mhc_weights {
    struct hd_tensor fn, base, scale;                 /* f32 [(2 + n_hc) n_hc, n_hc D], [..], [3]; a head: [n_hc, n_hc D], [n_hc], [1] */
};

#endif
