/* probe_avx512bf16.h: the loop of bf16 products, in a file of its own because of its flags. */
#ifndef HD_KERNELS_PROBE_AVX512BF16_H
#define HD_KERNELS_PROBE_AVX512BF16_H

#include <stdint.h>

int64_t hd_probe_bf16_avx512bf16(int64_t n);

#endif
