/* roofline.h: the probes of kernels/probe.h on a whole team, and shares of what they allow. */
#ifndef HD_ENGINE_ROOFLINE_H
#define HD_ENGINE_ROOFLINE_H

#include "base/pool.h"
#include "ops/stream.h"

struct hd_roofline {
    double read_gbs, fma_gflops, int8_gops;
};

/* About 0.3 s. Errors: MEMORY. */
int hd_roofline_measure(struct hd_roofline *r, struct hd_pool *pool, struct hd_err *err);

/* Seconds that the cost would take at the roofline: bytes at read_gbs or flops at fma_gflops, whichever is longer. */
double hd_roofline_seconds(const struct hd_roofline *r, const struct hd_cost *c);

#endif
