/* probe_avx2.c: see probe.h. */
#include "kernels/probe_avx2.h"

#include "kernels/x86.h"

#if !defined(HD_EMULATE)              /* nothing to measure there */

uint64_t hd_probe_read_avx2(const void *p, int64_t n)
{
    const char *s[4];
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    uint64_t lane[4];

    for (int i = 0; i < 4; i++)
        s[i] = (const char *)p + n / 4 * i;
    for (int64_t i = 0; i + 64 <= n / 4; i += 64) {
        for (int k = 0; k < 4; k++)
            _mm_prefetch(s[k] + i + 1024, _MM_HINT_T0);
        a = _mm256_xor_si256(a, _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(s[0] + i)), _mm256_loadu_si256((const __m256i *)(s[0] + i + 32))));
        b = _mm256_xor_si256(b, _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(s[1] + i)), _mm256_loadu_si256((const __m256i *)(s[1] + i + 32))));
        c = _mm256_xor_si256(c, _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(s[2] + i)), _mm256_loadu_si256((const __m256i *)(s[2] + i + 32))));
        d = _mm256_xor_si256(d, _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(s[3] + i)), _mm256_loadu_si256((const __m256i *)(s[3] + i + 32))));
    }
    _mm256_storeu_si256((__m256i *)lane, _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d)));
    return lane[0] ^ lane[1] ^ lane[2] ^ lane[3];
}

#define TWELVE(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)

int64_t hd_probe_fma_avx2(int64_t n)
{
#define DECLARE_F(i) __m256 f##i = _mm256_set1_ps((float)i);
#define STEP_F(i) __asm__ volatile("vfmadd231ps %1, %2, %0" : "+x"(f##i) : "x"(x), "x"(y));
    __m256 x = _mm256_set1_ps(1e-9f), y = _mm256_set1_ps(0.5f);

    TWELVE(DECLARE_F)
    for (int64_t i = 0; i < n; i++) {
        TWELVE(STEP_F)
    }
    return n * 12 * 16;
}

int64_t hd_probe_int8_avx2(int64_t n)
{
#define DECLARE_I(i) __m256i a##i = _mm256_set1_epi16(i);
#define STEP_I(i) __asm__ volatile("vpmaddubsw %1, %2, %%ymm15\n\tvpaddw %%ymm15, %0, %0" : "+x"(a##i) : "x"(u), "x"(s) : "ymm15");
    __m256i u = _mm256_set1_epi8(1), s = _mm256_set1_epi8(1);

    TWELVE(DECLARE_I)
    for (int64_t i = 0; i < n; i++) {
        TWELVE(STEP_I)
    }
    return n * 12 * 64;
}

#endif
