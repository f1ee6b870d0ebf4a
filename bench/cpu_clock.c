/* cpu_clock.c: a library to preload, with which a program's clocks show the processor time of its threads instead of the time of day: what a
 * program with one thread took is then told even on a machine with other work. compare.sh --cpu-clock runs every engine with it. */
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <sys/syscall.h>

int clock_gettime(clockid_t id, struct timespec *out)
{
    if (id == CLOCK_REALTIME || id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_RAW)
        id = CLOCK_PROCESS_CPUTIME_ID;
    return (int)syscall(SYS_clock_gettime, id, out);
}
