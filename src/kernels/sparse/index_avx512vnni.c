/* index_avx512vnni.c: the indexer's scores of sixteen keys at a time: a panel of fp4 keys is decoded in registers, meets eight heads, and what
 * comes out is cut off and added up there: no product goes to memory. The same sums in the same order as panel_body.h and relu_mix have.
 */
#pragma GCC optimize("O3")
#include <string.h>

#include "kernels/table.h"
#include "kernels/x86.h"

#define INLINE static inline __attribute__((always_inline))
#define HEADS(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
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

INLINE __m512 products(const struct block *k, const struct hd_q8 *q, __m512 acc)
{
    __m512i sum = _mm512_slli_epi32(_mm512_set1_epi32(q->neg), 4);

    for (int g = 0; g < 8; g++)
        sum = _mm512_dpbusd_epi32(sum, k->w[g], word_at(q->q + 4 * g));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(k->s, _mm512_set1_ps(q->d)), acc);
}

INLINE __m512 add_head(__m512 acc, float factor, float w, __m512 out)
{
    return _mm512_fmadd_ps(_mm512_max_ps(_mm512_mul_ps(acc, _mm512_set1_ps(factor)), _mm512_setzero_ps()), _mm512_set1_ps(w), out);
}

INLINE const struct hd_q8 *block_of(const char *q, int64_t q_bytes, int64_t h, int64_t b)
{
    return (const struct hd_q8 *)(q + h * q_bytes) + b;
}

/* The sums have names of their own: an array of them would lie in memory. */
static __m512 eight_heads(const struct hd_panels *p, const uint8_t *panel, const char *q, int64_t q_bytes, const float *w, __m512 out)
{
#define BEGIN(i) __m512 acc##i = _mm512_setzero_ps();
#define PRODUCTS(i) acc##i = products(&k, block_of(q, q_bytes, i, b), acc##i);
#define ADD(i) out = add_head(acc##i, hd_panel_factor(p), w[i], out);
    HEADS(BEGIN)
    for (int64_t b = 0; b < p->n / 32; b++) {
        struct block k;

        load_block(p, panel, b, &k);
        HEADS(PRODUCTS)
    }
    HEADS(ADD)
    return out;
}

static __m512 one_head(const struct hd_panels *p, const uint8_t *panel, const char *q, float w, __m512 out)
{
    __m512 acc = _mm512_setzero_ps();

    for (int64_t b = 0; b < p->n / 32; b++) {
        struct block k;

        load_block(p, panel, b, &k);
        acc = products(&k, block_of(q, 0, 0, b), acc);
    }
    return add_head(acc, hd_panel_factor(p), w, out);
}

static void index_panels(const struct hd_panels *p, int64_t row0, int64_t n_row, const void *q, int64_t q_bytes, int64_t n_head, const float *w, float *out)
{
    for (int64_t r = row0; r < row0 + n_row; r += HD_PANEL_ROWS, out += HD_PANEL_ROWS) {
        const uint8_t *panel = p->data + r / HD_PANEL_ROWS * p->bytes;
        __m512 sum = _mm512_setzero_ps();
        int64_t h = 0;

        for (; h + N_HEADS <= n_head; h += N_HEADS)
            sum = eight_heads(p, panel, (const char *)q + h * q_bytes, q_bytes, w + h, sum);
        for (; h < n_head; h++)
            sum = one_head(p, panel, (const char *)q + h * q_bytes, w[h], sum);
        _mm512_storeu_ps(out, sum);
    }
}

void hd_fill_index_avx512vnni(struct hd_kernels *k)
{
    k->index_panels = index_panels;
}
