/* index_avx512vnni.c: the indexer's scores of sixteen keys at a time: a panel of fp4 keys is decoded in registers, meets eight heads, and what
 * comes out is cut off and added up there: no product goes to memory. The same sums in the same order as panel_body.h and relu_mix have.
 */
#pragma GCC optimize("O3")
#include <string.h>

#include "kernels/table.h"
#include "kernels/x86.h"

#define INLINE static inline __attribute__((always_inline))
#define N_HEADS 8

/* A block of 32 columns of sixteen keys: codes with 16 added, scales. */
struct block {
    __m512i w[8];
    __m512 s;
};

INLINE void load_block(const struct hd_panels *p, const uint8_t *panel, int64_t b, struct block *k)
{
    const __m512i mask = _mm512_set1_epi8(15), low = _mm512_set1_epi32(0x400000);
    const __m512i e2m1 = _mm512_broadcast_i32x4(_mm_setr_epi8(16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4));
    const __m128i e8m0 = _mm_loadu_si128((const __m128i *)(panel + p->scale_at + b * HD_PANEL_ROWS));

    for (int g = 0; g < 4; g++) {
        __m512i v = _mm512_loadu_si512(panel + b * 256 + g * 64);

        k->w[g] = _mm512_shuffle_epi8(e2m1, _mm512_and_si512(v, mask));
        k->w[4 + g] = _mm512_shuffle_epi8(e2m1, _mm512_and_si512(_mm512_srli_epi16(v, 4), mask));
    }
    k->s = _mm512_castsi512_ps(_mm512_max_epi32(_mm512_slli_epi32(_mm512_cvtepu8_epi32(e8m0), 23), low));
}

INLINE __m512i word_at(const int8_t *x)
{
    int32_t word;

    memcpy(&word, x, 4);
    return _mm512_set1_epi32(word);
}

INLINE __m512 add_head(__m512 acc, float factor, float w, __m512 out)
{
    return _mm512_fmadd_ps(_mm512_max_ps(_mm512_mul_ps(acc, _mm512_set1_ps(factor)), _mm512_setzero_ps()), _mm512_set1_ps(w), out);
}

INLINE const struct hd_q8 *block_of(const char *q, int64_t q_bytes, int64_t h, int64_t b)
{
    return (const struct hd_q8 *)(q + h * q_bytes) + b;
}

/* n heads: a constant, so that all sums stay in registers. They take turns: the products of one wait for each other. */
INLINE __m512 heads(const struct hd_panels *p, const uint8_t *panel, const char *q, int64_t q_bytes, int n, const float *w, __m512 out)
{
    __m512 acc[N_HEADS];
    __m512i sum[N_HEADS];

    for (int i = 0; i < n; i++)
        acc[i] = _mm512_setzero_ps();
    for (int64_t b = 0; b < p->n / 32; b++) {
        struct block k;

        load_block(p, panel, b, &k);
        for (int i = 0; i < n; i++)
            sum[i] = _mm512_slli_epi32(_mm512_set1_epi32(block_of(q, q_bytes, i, b)->neg), 4);
        for (int g = 0; g < 8; g++)
            for (int i = 0; i < n; i++)
                sum[i] = _mm512_dpbusd_epi32(sum[i], k.w[g], word_at(block_of(q, q_bytes, i, b)->q + 4 * g));
        for (int i = 0; i < n; i++)
            acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i]), _mm512_mul_ps(k.s, _mm512_set1_ps(block_of(q, q_bytes, i, b)->d)), acc[i]);
    }
    for (int i = 0; i < n; i++)
        out = add_head(acc[i], hd_panel_factor(p), w[i], out);
    return out;
}

static void index_panels(const struct hd_panels *p, const uint8_t *const *panel, const uint8_t *const *soon, int64_t n, const void *q, int64_t q_bytes, int64_t n_head,
                         const float *w, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        __m512 sum = _mm512_setzero_ps();
        int64_t h = 0;

        for (int64_t at = 0; soon && at < p->bytes; at += 64)
            __builtin_prefetch(soon[i] + at, 0, 2);
        for (; h + N_HEADS <= n_head; h += N_HEADS)
            sum = heads(p, panel[i], (const char *)q + h * q_bytes, q_bytes, N_HEADS, w + h, sum);
        for (; h < n_head; h++)
            sum = heads(p, panel[i], (const char *)q + h * q_bytes, q_bytes, 1, w + h, sum);
        _mm512_storeu_ps(out + i * HD_PANEL_ROWS, sum);
    }
}

void hd_fill_index_avx512vnni(struct hd_kernels *k)
{
    k->index_panels = index_panels;
}
