/* balance.h: experts that are used alike: biases without a loss, the sequence-wise loss, and how far the loads are apart.
 *
 * Everything is read off the tape: each call of the gate tells its logits, its choice and the bias that changed it.
 *
 * Math     bias[e] += speed clamp((mean - load[e]) / mean, -1, 1) after a step, mean: of the loads; or, by the rule of signs, speed sign(mean - load[e])
 *          loss = alpha sum_e f_e P_e per sequence and layer: f_e = E / (k T) times the tokens that chose e, P_e the mean over tokens of the
 *          scores, normalised over experts; f is a constant
 *          MaxVio = (largest load - mean) / mean, the mean over layers whose gate chooses (a table of token ids does not)
 *          Of a step's loads it is mostly noise: n choices an expert are uneven by 1 / sqrt(n) and more. That of a whole split is what papers call global.
 * Source   DeepSeek-V3's report, 2.1.2; Wang et al. 2024 (2408.15664), whose table 3 has both rules: the proportional one balances better */
#ifndef HD_TRAIN_BALANCE_H
#define HD_TRAIN_BALANCE_H

#include "ops/stream.h"

#define HD_BALANCE_EXPERTS 4096

struct hd_balance {
    double speed, alpha;
    bool sign;                        /* the rule */
    struct hd_gate_load {
        float *bias;                  /* the layer's, NULL: none */
        bool chosen;                  /* by a table: nothing to balance, and no part of MaxVio */
        int64_t n;
        int64_t *load;                /* [n] choices since the last update */
        double *window;               /* [n] the same over many updates: each counts 2 % less with every one that follows */
    } *gate;                          /* in the order of the calls */
    int n_gate, cap;
    double loss;                      /* the sequence-wise loss of the last call, for all its sequences and layers, times their tokens */
};

void hd_balance_release(struct hd_balance *b);

/* After a forward pass: counts loads, nothing else. Errors: MEMORY. */
int hd_balance_count(struct hd_balance *b, const struct hd_stream *s, struct hd_err *err);

/* After the forward pass of a batch, before the way back: counts loads, adds weight times the loss's gradient to those of the gates' logits.
 * The loss is weighed by tokens: sum over sequences of T_seq times the sequence's loss. Errors: MEMORY. */
int hd_balance_batch(struct hd_balance *b, struct hd_stream *s, double weight, struct hd_err *err);

/* MaxVio of the loads since the last update, or of the window; 0 where there are no experts. */
double hd_balance_vio(const struct hd_balance *b, bool window);

/* After the update: moves biases by `scale` times the speed, and loads from those since the last update into the window. */
void hd_balance_update(struct hd_balance *b, double scale);

#endif
