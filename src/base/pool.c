/* pool.c: see pool.h.
 *
 * One 64-bit word holds the job: generation (16 bits), number of chunks (24), next chunk (24). A claim is one fetch_add;
 * since the claim itself says how many chunks there are, a late worker can never mix two jobs up: if the chunk it got
 * exists, the job cannot end before that chunk is done, so fn and arg are stable while it reads them.
 *
 * Where other programs want the cores too, a worker is taken off its core in the middle of a chunk, for milliseconds, and the caller waits
 * that long again and again: two workers can be slower than one. So the caller keeps account of its waiting, and where a team
 * cannot have been faster than the caller alone, the team rests for a while and is then tried again, unless the caller alone has no core to itself.
 */
#include "base/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

#define MAX_THREADS 1024
#define MAX_CHUNKS ((int64_t)1 << 22)
#define SPIN 4000                     /* pauses before a worker sleeps: roughly 50-150 us */

#define WATCH_S 0.02                  /* of calls after which a team is judged */
#define WORTH 1.25                    /* as many workers a team must have been worth: some of it is lost to shared memory and caches */
#define REST_MIN_S 0.04
#define REST_MAX_S 0.64
#define OWN_CORE 0.6                  /* of a core at least, for a rest to pay */
#define NO_REST_S 10.0                /* until that is tried again */

#define FIELD 24
#define MASK (((uint64_t)1 << FIELD) - 1)

struct hd_pool {
    _Alignas(64) _Atomic uint64_t word;
    _Alignas(64) _Atomic uint32_t left;       /* chunks not finished */
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t wake;       /* futex of sleeping workers */
    _Atomic uint32_t n_sleeping;
    _Atomic bool stop;
    hd_range_fn fn;
    void *arg;
    int64_t n, grain;
    uint64_t gen;
    double team_s;                    /* hd_pool_team_seconds() */
    double watch_s;                   /* calls since the team was last judged */
    double watch_team_s, watch_cpu_s; /* then: team_s, workers_cpu() */
    double watch_clock[2];            /* caller_clock() when the team began to rest */
    double rest_s, rest_end;          /* how long the team rests, and until when */
    double no_rest_end;
    int n_thread, n_started;
    pthread_t thread[];
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *p, uint32_t val)
{
    syscall(SYS_futex, p, FUTEX_WAIT_PRIVATE, val, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *p, int n)
{
    syscall(SYS_futex, p, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static bool has_work(uint64_t w)
{
    return (w & MASK) < (w >> FIELD & MASK);
}

/* Claims and runs chunks until none is left. */
static void work(struct hd_pool *p)
{
    while (has_work(atomic_load_explicit(&p->word, memory_order_relaxed))) {
        uint64_t w = atomic_fetch_add_explicit(&p->word, 1, memory_order_acq_rel);
        int64_t begin, end;

        if (!has_work(w))
            return;
        begin = (int64_t)(w & MASK) * p->grain;
        end = begin + p->grain < p->n ? begin + p->grain : p->n;
        p->fn(p->arg, begin, end);
        if (atomic_fetch_sub_explicit(&p->left, 1, memory_order_seq_cst) == 1 && atomic_load(&p->caller_sleeps))
            futex_wake(&p->left, 1);
    }
}

static void *worker_main(void *arg)
{
    struct hd_pool *p = arg;

    for (;;) {
        bool found = false;

        for (int i = 0; i < SPIN && !found; i++) {
            found = has_work(atomic_load_explicit(&p->word, memory_order_relaxed)) || atomic_load_explicit(&p->stop, memory_order_relaxed);
            if (!found)
                relax();
        }
        if (!found) {
            uint32_t ticket = atomic_load(&p->wake);

            atomic_fetch_add(&p->n_sleeping, 1);
            if (!has_work(atomic_load(&p->word)) && !atomic_load(&p->stop))
                futex_wait(&p->wake, ticket);
            atomic_fetch_sub(&p->n_sleeping, 1);
        }
        if (atomic_load(&p->stop))
            return NULL;
        work(p);
    }
}

int hd_pool_create(struct hd_pool **out, int n_thread, struct hd_err *err)
{
    struct hd_pool *p;

    if (n_thread <= 0)
        n_thread = hd_cpu_count();
    if (n_thread > MAX_THREADS)
        return hd_err_set(err, HD_ERR_USAGE, "threads: found %d; at most %d expected", n_thread, MAX_THREADS);
    p = hd_aligned(64, sizeof *p + (size_t)n_thread * sizeof p->thread[0]);
    if (!p)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a pool of %d workers", n_thread);
    memset(p, 0, sizeof *p);
    p->n_thread = n_thread;
    for (int i = 1; i < n_thread; i++) {
        int rc = pthread_create(&p->thread[p->n_started], NULL, worker_main, p);

        if (rc) {
            hd_pool_free(p);
            errno = rc;
            return hd_err_errno(err, HD_ERR_MEMORY, "cannot start worker %d of %d", i, n_thread - 1);
        }
        p->n_started++;
    }
    *out = p;
    return HD_OK;
}

void hd_pool_free(struct hd_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->wake, 1);
    futex_wake(&p->wake, MAX_THREADS);
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->thread[i], NULL);
    hd_free(p);
}

int hd_pool_threads(const struct hd_pool *p)
{
    return p->n_thread;
}

static void wake_team(struct hd_pool *p)
{
    double t0 = hd_now();

    atomic_fetch_add(&p->wake, 1);
    futex_wake(&p->wake, MAX_THREADS);
    p->team_s += hd_now() - t0;
}

/* Others still hold chunks. */
static void wait_for_team(struct hd_pool *p)
{
    double t0 = hd_now();
    uint32_t left;

    for (int spin = 0; spin < SPIN && atomic_load_explicit(&p->left, memory_order_acquire); spin++)
        relax();
    while (atomic_load_explicit(&p->left, memory_order_acquire)) {
        atomic_store(&p->caller_sleeps, 1);
        if ((left = atomic_load(&p->left)))
            futex_wait(&p->left, left);
        atomic_store(&p->caller_sleeps, 0);
    }
    p->team_s += hd_now() - t0;
}

double hd_pool_team_seconds(const struct hd_pool *p)
{
    return p->team_s;
}

/* What the system has given to the workers, the caller aside. */
static double workers_cpu(const struct hd_pool *p)
{
    double sum = 0;

    for (int i = 0; i < p->n_started; i++) {
        struct timespec t;
        clockid_t clock;

        if (!pthread_getcpuclockid(p->thread[i], &clock) && !clock_gettime(clock, &t))
            sum += (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
    return sum;
}

/* What the calling thread has had of a core, and what it has waited for one, in nanoseconds (Documentation/scheduler/sched-stats.rst); else nothing. */
static void caller_clock(double out[2])
{
    FILE *f = fopen("/proc/thread-self/schedstat", "re");

    if (!f || fscanf(f, "%lf %lf", &out[0], &out[1]) != 2)
        out[0] = out[1] = 0;
    if (f)
        fclose(f);
}

/* The share of a core that the caller got when it wanted one, since the last time. */
static double caller_share(struct hd_pool *p)
{
    double now[2], cpu, wait;

    caller_clock(now);
    cpu = now[0] - p->watch_clock[0];
    wait = now[1] - p->watch_clock[1];
    memcpy(p->watch_clock, now, sizeof now);
    return cpu > 0 && wait >= 0 ? cpu / (cpu + wait) : 1;
}

/* A rest pays where the caller alone has a core to itself. Where it must share one with many, two threads get more of the machine than one,
 * whatever they lose by waiting for each other: then teams go on, for long. */
static void end_rest(struct hd_pool *p, double now)
{
    if (caller_share(p) < OWN_CORE) {
        p->rest_s = 0;
        p->no_rest_end = now + NO_REST_S;
    }
    p->rest_end = 0;
}

/* A call took s seconds. In that time the caller worked unless it waited, and workers did no more than the system let them. */
static void judge(struct hd_pool *p, double s, double now)
{
    double caller_s, cpu_s;

    p->watch_s += s;
    if (p->watch_s < WATCH_S)
        return;
    caller_s = p->watch_s - (p->team_s - p->watch_team_s);
    cpu_s = workers_cpu(p);
    if (now >= p->no_rest_end && caller_s + cpu_s - p->watch_cpu_s < WORTH * p->watch_s) {
        caller_share(p);
        p->rest_s = p->rest_s > 0 ? fmin(2 * p->rest_s, REST_MAX_S) : REST_MIN_S;
        p->rest_end = now + p->rest_s;
    } else {
        p->rest_s = 0;
    }
    p->watch_s = 0;
    p->watch_team_s = p->team_s;
    p->watch_cpu_s = cpu_s;
}

static void run_alone(int64_t n, int64_t grain, hd_range_fn fn, void *arg)
{
    for (int64_t b = 0; b < n; b += grain)
        fn(arg, b, b + grain < n ? b + grain : n);
}

static void run_together(struct hd_pool *p, int64_t n, int64_t grain, int64_t chunks, hd_range_fn fn, void *arg)
{
    p->fn = fn;
    p->arg = arg;
    p->n = n;
    p->grain = grain;
    p->gen++;
    atomic_store_explicit(&p->left, (uint32_t)chunks, memory_order_relaxed);
    atomic_store(&p->word, p->gen << (2 * FIELD) | (uint64_t)chunks << FIELD);
    if (atomic_load(&p->n_sleeping))
        wake_team(p);
    work(p);
    if (atomic_load_explicit(&p->left, memory_order_acquire))
        wait_for_team(p);
}

void hd_pool_for(struct hd_pool *p, int64_t n, int64_t grain, hd_range_fn fn, void *arg)
{
    int64_t chunks;
    double t0, t1;

    if (n <= 0)
        return;
    HD_ASSERT(grain > 0);
    chunks = (n + grain - 1) / grain;
    if (p->n_thread == 1 || chunks == 1) {
        run_alone(n, grain, fn, arg);
        return;
    }
    HD_ASSERT(chunks <= MAX_CHUNKS);
    t0 = hd_now();
    if (t0 < p->rest_end) {
        run_alone(n, grain, fn, arg);
        return;
    }
    if (p->rest_end > 0)
        end_rest(p, t0);
    run_together(p, n, grain, chunks, fn, arg);
    t1 = hd_now();
    judge(p, t1 - t0, t1);
}

/* Threads of one core share a core_id within a package: count distinct pairs among the CPUs we may use. */
static int physical_cores(const cpu_set_t *set)
{
    int seen[CPU_SETSIZE], n = 0;

    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        char path[128];
        int core = cpu, package = 0, key, known = 0;
        FILE *f;

        if (!CPU_ISSET(cpu, set))
            continue;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/core_id", cpu);
        if ((f = fopen(path, "re"))) {
            if (fscanf(f, "%d", &core) != 1)
                core = cpu;
            fclose(f);
        }
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu);
        if ((f = fopen(path, "re"))) {
            if (fscanf(f, "%d", &package) != 1)
                package = 0;
            fclose(f);
        }
        key = package * 65536 + core;
        for (int i = 0; i < n; i++)
            known |= seen[i] == key;
        if (!known)
            seen[n++] = key;
    }
    return n;
}

int hd_cpu_count(void)
{
    cpu_set_t set;
    long long quota, period;
    int n = 1;
    FILE *f;

    if (!sched_getaffinity(0, sizeof set, &set))
        n = physical_cores(&set);
    if ((f = fopen("/sys/fs/cgroup/cpu.max", "re"))) {
        if (fscanf(f, "%lld %lld", &quota, &period) == 2 && period > 0 && quota > 0 && (quota + period - 1) / period < n)
            n = (int)((quota + period - 1) / period);
        fclose(f);
    }
    return n > 0 ? n : 1;
}
