/* probe.h: what this machine can do, measured by loops that do nothing else: the roofline that every report is held against.
 *
 * Leaves: one thread each; a caller runs them on as many workers as it reports. Four streams with prefetch: a single
 * sequential stream understates the bandwidth by a third on many machines.
 */
#ifndef HD_KERNELS_PROBE_H
#define HD_KERNELS_PROBE_H

#include <stdint.h>

/* Reads n bytes (a multiple of 4096) once; the returned value keeps the loads alive. */
uint64_t hd_probe_read(const void *p, int64_t n);
/* n rounds of independent multiply-adds; returns operations done (a multiply-add is two). */
int64_t hd_probe_fma(int64_t n);
int64_t hd_probe_int8(int64_t n);
int64_t hd_probe_bf16(int64_t n);      /* 0: no instruction for it */

#endif
