/* cpu_sums.h: attention in blocks: each block of rows has sums of its own, and they are added up in the order of blocks, so that it does not
 * matter who computed which. Of a head: unscaled outputs, the largest logit m, and den, the sum of exponentials below it. */
#ifndef HD_BACKEND_CPU_CPU_SUMS_H
#define HD_BACKEND_CPU_CPU_SUMS_H

#include <math.h>

#include "kernels/kernels.h"

/* What sums below m count for below top. Nothing yet (-inf): all of its zeros. */
static inline float hd_cpu_share(float m, float top)
{
    return m == top || m == -INFINITY ? 1 : expf(m - top);
}

/* What outputs so far, and a block's, count for in those of both. */
struct hd_cpu_shares {
    float old, new;
};

static inline struct hd_cpu_shares hd_cpu_merge_sums(float *m, float *den, float part_m, float part_den)
{
    float top = part_m > *m ? part_m : *m;
    struct hd_cpu_shares s = {hd_cpu_share(*m, top), hd_cpu_share(part_m, top)};

    *m = top;
    *den = *den * s.old + part_den * s.new;
    return s;
}

static inline void hd_cpu_merge_out(int64_t dim, struct hd_cpu_shares s, const float *part, float *out)
{
    if (s.old != 1)
        hd_k.scale(dim, s.old, out);
    hd_k.axpy_f32(dim, s.new, part, out);
}

#endif
