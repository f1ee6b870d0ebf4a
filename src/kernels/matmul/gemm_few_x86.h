/* gemm_few_x86.h: a row's last values, for packing. */
#ifndef HD_KERNELS_GEMM_FEW_X86_H
#define HD_KERNELS_GEMM_FEW_X86_H

#include "kernels/x86.h"

static inline __m128 hd_load_few(const float *p, int n)
{
    float t[4] = {0};

    for (int i = 0; i < n; i++)
        t[i] = p[i];
    return _mm_loadu_ps(t);
}

#endif
