/* kl.h: how far two models' logits are apart at a position: the divergence of their distributions, in nats. */
#ifndef HD_TESTS_KL_H
#define HD_TESTS_KL_H

#include <math.h>

#include "support.h"

static inline double log_sum_exp(const float *x, int64_t n)
{
    double top = x[argmax(x, n)], sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i] - top);
    return top + log(sum);
}

static inline double kl(const float *p, const float *q, int64_t n)
{
    double lp = log_sum_exp(p, n), lq = log_sum_exp(q, n), sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += exp(p[i] - lp) * ((p[i] - lp) - (q[i] - lq));
    return sum;
}

#endif
