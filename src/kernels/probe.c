/* probe.c: see probe.h: plain loops where no better ones exist. */
#include "kernels/probe.h"

#include <math.h>
#include <string.h>

#include "kernels/table.h"
#if HD_HAVE_X86 && !defined(HD_EMULATE)
#include "kernels/probe_avx2.h"
#include "kernels/probe_avx512bf16.h"
#endif

uint64_t hd_probe_read(const void *p, int64_t n)
{
    uint64_t sum[4] = {0};

#if HD_HAVE_X86 && !defined(HD_EMULATE)
    if (hd_k.isa >= HD_ISA_AVX2)
        return hd_probe_read_avx2(p, n);
#endif
    for (int64_t i = 0; i + 8 <= n / 4; i += 8)
        for (int k = 0; k < 4; k++) {
            uint64_t v;

            memcpy(&v, (const char *)p + n / 4 * k + i, 8);
            sum[k] ^= v;
        }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

int64_t hd_probe_fma(int64_t n)
{
    float acc[16];
    volatile float x = 1e-9f, keep;
    float xv = x;

#if HD_HAVE_X86 && !defined(HD_EMULATE)
    if (hd_k.isa >= HD_ISA_AVX2)
        return hd_probe_fma_avx2(n);
#endif
    for (int i = 0; i < 16; i++)
        acc[i] = (float)i;
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < 16; k++)
            acc[k] = acc[k] * xv + xv;
    for (int i = 0; i < 16; i++)
        keep = acc[i];
    (void)keep;
    return n * 32;
}

int64_t hd_probe_int8(int64_t n)
{
    int32_t acc[16] = {0};
    volatile int8_t x = 3;
    volatile int32_t keep;
    int8_t xv = x;

#if HD_HAVE_X86 && !defined(HD_EMULATE)
    if (hd_k.isa >= HD_ISA_AVX2)
        return hd_probe_int8_avx2(n);
#endif
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < 16; k++)
            acc[k] += xv * (int8_t)(acc[k] + k);
    for (int i = 0; i < 16; i++)
        keep = acc[i];
    (void)keep;
    return n * 32;
}

int64_t hd_probe_bf16(int64_t n)
{
#if HD_HAVE_X86 && !defined(HD_EMULATE)
    if (hd_k.isa == HD_ISA_AVX512BF16 || hd_k.isa == HD_ISA_AMX)
        return hd_probe_bf16_avx512bf16(n);
#endif
    return 0 * n;
}
