/* gain.h: how far mixes of residual streams, one behind the other, can carry a signal away from what it was.
 *
 * Math     C_t = comb_1 comb_2 ... of token t, all half-layers; gain = the largest absolute sum of a row or a column of C_t, the mean over tokens.
 *          Doubly stochastic mixes: 1, but for what Sinkhorn leaves
 * Source   the mHC paper (arXiv 2512.24880), "Amax gain magnitude" of the composite mapping: rows for the way back, columns for the way forward */
#ifndef HD_TRAIN_GAIN_H
#define HD_TRAIN_GAIN_H

#include "ops/stream.h"

struct hd_gain {
    double *c;                        /* composites so far, [n_row] n_hc x n_hc */
    int64_t n_row, n_hc;              /* 0: no mix so far */
};

void hd_gain_release(struct hd_gain *g);

/* A stream's trace (arg: struct hd_gain): takes the mixes among what the model names, "..._mix", in their order. Those of a draft module, which have other
 * rows than the first, do not count. */
void hd_gain_take(void *arg, const char *name, const struct hd_tensor *x);

/* The mean over tokens; 0 where there are no streams, or no memory. */
double hd_gain_mean(const struct hd_gain *g);

#endif
