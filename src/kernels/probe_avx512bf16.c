/* probe_avx512bf16.c: see probe.h. */
#include "kernels/probe_avx512bf16.h"

#include "kernels/x86.h"

#if !defined(HD_EMULATE)              /* nothing to measure there */

#define TWELVE(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)

int64_t hd_probe_bf16_avx512bf16(int64_t n)
{
#define DECLARE(i) __m512 f##i = _mm512_set1_ps((float)i);
#define STEP(i) __asm__ volatile("vdpbf16ps %1, %2, %0" : "+v"(f##i) : "v"(x), "v"(y));
    __m512i x = _mm512_set1_epi16(0x3000), y = _mm512_set1_epi16(0x3F00);

    TWELVE(DECLARE)
    for (int64_t i = 0; i < n; i++) {
        TWELVE(STEP)
    }
    return n * 12 * 64;
}

#endif
