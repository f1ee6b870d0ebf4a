/* ngram_loss.h: what counting alone makes of a split: an interpolated Kneser-Ney model of the training tokens, its loss on the validation tokens.
 *
 * Math     c: counts of the longest n-grams, below them of different continuations; D_o = n1 / (n1 + 2 n2);
 *          p_o(w | h) = max(c(h w) - D_o, 0) / c(h .) + D_o types(h .) / c(h .) p_(o-1)(w | h'), p_0 = 1 / V
 * Source   Kneser and Ney 1995; Chen and Goodman 1999, one discount an order
 * Traps    an n-gram ends at a document's begin: a document's first tokens have shorter histories, counted as they stand */
#ifndef HD_TRAIN_NGRAM_LOSS_H
#define HD_TRAIN_NGRAM_LOSS_H

#include "train/data.h"

#define HD_NGRAM_ORDER_MAX 8

/* Mean loss in nats over val's targets, documents whole. order: 1 .. HD_NGRAM_ORDER_MAX. Errors: MEMORY, FORMAT (nothing to predict). */
int hd_ngram_loss(const struct hd_data *train, const struct hd_data *val, int order, int64_t n_vocab, double *loss, struct hd_err *err);

#endif
