/* draw.h: the check programs' random numbers: the same on every machine, and again from draw_seed(). */
#ifndef HD_TESTS_DRAW_H
#define HD_TESTS_DRAW_H

#include "base/rng.h"

static struct hd_rng draws;

static inline void draw_seed(uint64_t seed)
{
    hd_rng_seed(&draws, seed);
}

static inline uint64_t draw_bits(void)
{
    return hd_rng_next(&draws);
}

/* In [-1, 1). */
static inline double draw(void)
{
    return 2 * hd_rng_double(&draws) - 1;
}

#endif
