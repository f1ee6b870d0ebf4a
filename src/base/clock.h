/* clock.h: seconds since some moment, never backwards. */
#ifndef HD_BASE_CLOCK_H
#define HD_BASE_CLOCK_H

#include <time.h>

static inline double hd_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
