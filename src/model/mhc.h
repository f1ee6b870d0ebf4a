/* mhc.h: residual streams: one, added to, or n_hc of them, mixed around every half-layer (hyper-connections, manifold-constrained or not).
 *
 * Math     u = sum_j pre[j] X[j];  X'[k] = post[k] f(u) + sum_j comb[j][k] X[j], comb doubly stochastic by Sinkhorn (HC: free)
 * Source   the papers (HC: arXiv 2409.19606; mHC: 2512.24880); DeepSeek-V4's hc_split_sinkhorn (order: rows by softmax first, columns last)
 * Traps    comb sums over its first index; in V4.1 a half-layer collapses with the pre of the one before
 */
#ifndef HD_MODEL_MHC_H
#define HD_MODEL_MHC_H

#include "ops/ops.h"

struct hd_mhc_weights {
    struct hd_tensor fn, base, scale;                 /* f32 [(2 + n_hc) n_hc, n_hc D], [..], [3]; a head: [n_hc, n_hc D], [n_hc], [1] */
};

enum hd_residual {
    HD_RESIDUAL_PLAIN,
    HD_RESIDUAL_HC,                   /* mixes are unconstrained; the end is the streams' mean, the paper's sum before a norm */
    HD_RESIDUAL_MHC_PAPER,            /* the end is the streams' mean */
    HD_RESIDUAL_MHC_V4,               /* a learned head collapses the streams at the end */
    HD_RESIDUAL_MHC_V41               /* a half-layer's pre serves the next one, the last one's the end */
};

/* The streams of a step, for models that choose their form by config. */
struct hd_streams {
    enum hd_residual form;
    const struct hd_mhc_hp *hp;       /* n_hc 1 for PLAIN */
    struct hd_tensor *x, *mix, *before;               /* before: the half-layer's mix before this one; NULL: none yet */
};

/* Streams that all hold h[T, D]. */
void hd_streams_begin(struct hd_stream *s, struct hd_streams *st, enum hd_residual form, const struct hd_mhc_hp *hp, const struct hd_tensor *h);
/* What a half-layer sees, u[T, D]; then what it gives back, y[T, D]. w: NULL for PLAIN. */
void hd_streams_enter(struct hd_stream *s, struct hd_streams *st, const struct hd_mhc_weights *w, struct hd_tensor *u);
void hd_streams_leave(struct hd_stream *s, struct hd_streams *st, const struct hd_tensor *y);
/* u[T, D] after the last layer; head: V4's, NULL otherwise. */
void hd_streams_end(struct hd_stream *s, struct hd_streams *st, const struct hd_mhc_weights *head, struct hd_tensor *u);

#endif
