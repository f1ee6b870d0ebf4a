/* pool.h: one persistent team of workers.
 *
 * A team stays hot inside a step: workers spin for a bounded time between two calls and sleep on a futex afterwards, so
 * that an idle program costs nothing and an oversubscribed machine is not made worse. Work is cut into chunks by the
 * caller's shape, never by the number of workers, and handed out dynamically: a worker that the system takes off the CPU
 * holds one chunk and nobody waits for a worker that holds none. What a chunk computes does not depend on who runs it. A team that is
 * waited for so much that its caller were faster alone (a machine with other work) rests, for 0.04 to 0.64 seconds, and is
 * tried again; not where the caller alone would have no core to itself.
 */
#ifndef HD_BASE_POOL_H
#define HD_BASE_POOL_H

#include <stdint.h>

#include "base/err.h"

struct hd_pool;

/* Computes [begin, end) of the caller's range; called on any worker, the caller's thread included. */
typedef void (*hd_range_fn)(void *arg, int64_t begin, int64_t end);

/* n_thread counts the calling thread; 0: one per physical core that this process may use. */
int hd_pool_create(struct hd_pool **out, int n_thread, struct hd_err *err);
void hd_pool_free(struct hd_pool *p);
int hd_pool_threads(const struct hd_pool *p);

/* Runs fn over [0, n) in chunks of grain and returns when all are done. Not reentrant: one caller at a time. */
void hd_pool_for(struct hd_pool *p, int64_t n, int64_t grain, hd_range_fn fn, void *arg);

/* Seconds that the calling threads of hd_pool_for() have spent on the team rather than on work, since the pool was made: waking workers that slept, and
 * waiting for others after the last chunk was taken. Read by that thread. */
double hd_pool_team_seconds(const struct hd_pool *p);

/* Physical cores this process may run on (affinity mask and cgroup quota considered), at least 1. */
int hd_cpu_count(void);

#endif
