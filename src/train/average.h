/* average.h: the exponential moving average of weights: often a better model than the last step's, while the rate is high.
 *
 * Math     a += (1 - d) (w - a) after each update, d = min(decay, (1 + step) / (10 + step)): early steps are forgotten sooner */
#ifndef HD_TRAIN_AVERAGE_H
#define HD_TRAIN_AVERAGE_H

#include "base/pool.h"
#include "train/param.h"

struct hd_average {
    float *w;                         /* laid out as ps->w; NULL: none is kept */
    size_t n;
    double decay;
};

/* Begins as the weights are. decay 0: none. Errors: MEMORY. */
int hd_average_init(struct hd_average *a, double decay, const struct hd_params *ps, struct hd_err *err);
void hd_average_release(struct hd_average *a);
/* step: updates done, this one included. */
void hd_average_update(struct hd_average *a, const struct hd_params *ps, int64_t step, struct hd_pool *pool);
/* The weights and their average change places. */
void hd_average_swap(struct hd_average *a, struct hd_params *ps);

#endif
