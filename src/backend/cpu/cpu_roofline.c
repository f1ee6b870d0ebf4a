/* cpu_roofline.c: the probes of kernels/probe.h on a whole team. The best of a few short repetitions: other programs can only slow a probe down. */

#include <stdatomic.h>
#include <string.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/mem.h"
#include "kernels/probe.h"

#define BUFFER ((int64_t)256 << 20)
#define PIECE ((int64_t)2 << 20)

struct job {
    const char *p;
    _Atomic uint64_t sink;
    _Atomic int64_t ops;
    int64_t (*fn)(int64_t n);
};

static void read_range(void *arg, int64_t begin, int64_t end)
{
    struct job *j = arg;

    atomic_fetch_xor(&j->sink, hd_probe_read(j->p + begin, end - begin));
}

static void ops_range(void *arg, int64_t begin, int64_t end)
{
    struct job *j = arg;

    atomic_fetch_add(&j->ops, j->fn((end - begin) * 20000));
}

static double best_ops(struct job *j, struct hd_pool *pool, int64_t (*fn)(int64_t))
{
    double best = 0;

    j->fn = fn;
    for (int rep = 0; rep < 4; rep++) {
        double t0 = hd_now(), rate;

        atomic_store(&j->ops, 0);
        hd_pool_for(pool, 8 * hd_pool_threads(pool), 1, ops_range, j);
        rate = 1e-9 * (double)atomic_load(&j->ops) / (hd_now() - t0);
        best = rate > best ? rate : best;
    }
    return best;
}

int hd_roofline_measure(struct hd_roofline *r, struct hd_pool *pool, struct hd_err *err)
{
    struct job j = {0};
    char *p = hd_pages_alloc((size_t)BUFFER);

    if (!p)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the read probe (%lld bytes)", (long long)BUFFER);
    memset(p, 1, (size_t)BUFFER);
    j.p = p;
    *r = (struct hd_roofline){0};
    for (int rep = 0; rep < 5; rep++) {
        double t0 = hd_now(), rate;

        hd_pool_for(pool, BUFFER, PIECE, read_range, &j);
        rate = 1e-9 * (double)BUFFER / (hd_now() - t0);
        r->read_gbs = rate > r->read_gbs ? rate : r->read_gbs;
    }
    r->fma_gflops = best_ops(&j, pool, hd_probe_fma);
    r->int8_gops = best_ops(&j, pool, hd_probe_int8);
    r->bf16_gflops = best_ops(&j, pool, hd_probe_bf16);
    hd_pages_free(p, (size_t)BUFFER);
    return HD_OK;
}

double hd_roofline_seconds(const struct hd_roofline *r, const struct hd_cost *c)
{
    double bytes = 1e-9 * (c->weight_bytes + c->kv_bytes) / r->read_gbs, flops = 1e-9 * c->flops / r->fma_gflops;

    return bytes > flops ? bytes : flops;
}
