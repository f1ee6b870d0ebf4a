/* sparse_avx2.c: sparse_body.h on AVX2. */
#pragma GCC optimize("O3")
#include "kernels/x86.h"

#define V __m256
#define L 8
#define HEADS 2
#define v_zero _mm256_setzero_ps
#define v_set1 _mm256_set1_ps
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_mul _mm256_mul_ps
#define v_fma _mm256_fmadd_ps
#define v_max _mm256_max_ps
#define v_above(a, b) (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ))

#include <stdint.h>

/* Words k .. k + 8 of eight rows, a row a lane. */
static inline void turn8(const void *const row[8], int64_t k, uint32_t *out)
{
    __m256 a[8], b[8];

    for (int r = 0; r < 8; r++)
        a[r] = _mm256_loadu_ps((const float *)row[r] + k);
    for (int r = 0; r < 8; r += 2) {
        b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
        b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
    }
    for (int r = 0; r < 8; r += 4)
        for (int h = 0; h < 2; h++) {
            a[r + 2 * h] = _mm256_shuffle_ps(b[r + h], b[r + 2 + h], 0x44);
            a[r + 2 * h + 1] = _mm256_shuffle_ps(b[r + h], b[r + 2 + h], 0xEE);
        }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps((float *)out + i * 16, _mm256_permute2f128_ps(a[i], a[4 + i], 0x20));
        _mm256_storeu_ps((float *)out + (4 + i) * 16, _mm256_permute2f128_ps(a[i], a[4 + i], 0x31));
    }
}

static inline void interleave(const void *const row[16], int64_t k, uint32_t *out)
{
    turn8(row, k, out);
    turn8(row + 8, k, out + 8);
}

#include "kernels/sparse/sparse_body.h"

void hd_fill_sparse_avx2(struct hd_kernels *k)
{
    k->interleave16 = interleave16;
    k->rows16_dot = rows16_dot;
    k->above = above;
    k->largest = largest;
}
