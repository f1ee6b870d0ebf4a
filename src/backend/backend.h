/* backend.h: the backends, as seen from outside: a name in, a table of ops out. */
#ifndef HD_BACKEND_BACKEND_H
#define HD_BACKEND_BACKEND_H

#include "base/pool.h"
#include "ops/stream.h"

/* The CPU: kernels of src/kernels, chosen before by hd_kernels_init(), tiled over the pool's workers (borrowed). */
int hd_backend_cpu_create(struct hd_backend *be, struct hd_pool *pool, struct hd_err *err);
void hd_backend_cpu_free(struct hd_backend *be);

/* Chooses the kernels: "scalar" "avx2" "avx512" "avx512vnni" "avx512bf16" "amx" "neon", or NULL for the best the CPU has. Once, before the first backend. Errors: USAGE when the CPU lacks the level or the name is unknown. */
int hd_backend_cpu_init(const char *level, struct hd_err *err);
const char *hd_backend_cpu_level(void);                    /* the level in use */
bool hd_backend_cpu_has(const char *level);                /* does this CPU have it? */
bool hd_backend_cpu_bf16(void);                            /* does the level in use multiply bf16 faster than f32? */
extern const char *const hd_backend_cpu_levels[];          /* all names, slowest first, NULL at the end */

/* What the machine can do, by probes that do nothing else, on the pool's whole team. */
struct hd_roofline {
    double read_gbs, fma_gflops, int8_gops;
    double bf16_gflops;               /* 0: the level in use has no instruction for it */
};

/* About 0.3 s. Errors: MEMORY. */
int hd_roofline_measure(struct hd_roofline *r, struct hd_pool *pool, struct hd_err *err);

/* A matrix product alone: format, w[rows, cols], tokens; weights read and operations done a second, medians. */
struct hd_kernel_rate {
    const char *format;
    int64_t rows, cols, n_tok;
    double gbs, gops;
};

int hd_n_kernel_rate(void);
int hd_kernel_rate(int i, struct hd_pool *pool, struct hd_kernel_rate *out, struct hd_err *err);      /* 0 <= i < hd_n_kernel_rate(); about a second. Errors: MEMORY. */

/* Seconds that the cost would take at the roofline: bytes at read_gbs or flops at fma_gflops, whichever is longer. */
double hd_roofline_seconds(const struct hd_roofline *r, const struct hd_cost *c);

#endif
