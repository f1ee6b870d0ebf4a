/* probe_avx2.h: the AVX2 loops of probe.c, in a file of their own because of its flags. */
#ifndef HD_KERNELS_PROBE_AVX2_H
#define HD_KERNELS_PROBE_AVX2_H

#include <stdint.h>

uint64_t hd_probe_read_avx2(const void *p, int64_t n);
int64_t hd_probe_fma_avx2(int64_t n);
int64_t hd_probe_int8_avx2(int64_t n);

#endif
