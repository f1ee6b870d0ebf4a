/* clock.h: seconds since some moment, never backwards; seconds that this process has used. */
#ifndef HD_BASE_CLOCK_H
#define HD_BASE_CLOCK_H

#include <time.h>

static inline double hd_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of all cores together: what a wall clock says on a machine with other work means little. */
static inline double hd_cpu_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
