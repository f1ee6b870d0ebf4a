/* backend.h: the backends, as seen from outside: a name in, a table of ops out. */
#ifndef HD_BACKEND_BACKEND_H
#define HD_BACKEND_BACKEND_H

#include "base/pool.h"
#include "ops/stream.h"

/* The CPU: kernels of src/kernels, chosen before by hd_kernels_init(), tiled over the pool's workers (borrowed). */
int hd_backend_cpu_create(struct hd_backend *be, struct hd_pool *pool, struct hd_err *err);
void hd_backend_cpu_free(struct hd_backend *be);

#endif
