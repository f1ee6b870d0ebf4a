/* best.c: see best.h. */
#include "backend/cpu/best.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "kernels/kernels.h"

void hd_best_begin(struct hd_best *b, int64_t k, void *mem)
{
    *b = (struct hd_best){.score = mem, .idx = (int32_t *)mem + hd_best_room(k), .k = k, .least = -INFINITY};
}

/* Floats as integers of the same order; 0 and -0 are one. */
static uint32_t order(float x)
{
    uint32_t u;

    x += 0.0f;
    memcpy(&u, &x, 4);
    return u >> 31 ? ~u : u | (uint32_t)1 << 31;
}

/* The k-th largest of more than k, byte by byte: how many have the larger ones is counted on the way (*above). */
static uint32_t kth(const float *x, int64_t n, int64_t k, int64_t *above)
{
    uint32_t prefix = 0;

    *above = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t count[256] = {0};
        int byte = 255;

        for (int64_t i = 0; i < n; i++) {
            uint32_t u = order(x[i]);

            if (shift == 24 || u >> (shift + 8) == prefix >> (shift + 8))
                count[u >> shift & 255]++;
        }
        while (*above + count[byte] < k)
            *above += count[byte--];
        prefix |= (uint32_t)byte << shift;
    }
    return prefix;
}

float hd_best_kth(const float *x, int64_t n, int64_t k)
{
    int64_t above;
    uint32_t u = kth(x, n, k, &above);
    float least;

    u = u >> 31 ? u & ~((uint32_t)1 << 31) : ~u;
    memcpy(&least, &u, 4);
    return least;
}

/* Drops all but the k best. */
static void drop(struct hd_best *b)
{
    int64_t above, equal, n = 0;
    uint32_t limit = kth(b->score, b->n, b->k, &above);

    equal = b->k - above;
    for (int64_t i = 0; i < b->n; i++) {
        uint32_t u = order(b->score[i]);

        if (u < limit || (u == limit && equal-- <= 0))
            continue;
        if (u == limit)
            b->least = b->score[i];
        b->score[n] = b->score[i];
        b->idx[n++] = b->idx[i];
    }
    b->n = n;
}

/* The first k are kept whatever they are. */
static int64_t take_first(struct hd_best *b, int64_t n, const float *x, int32_t first)
{
    int64_t i = 0;

    for (; i < n && b->n < b->k; i++) {
        b->score[b->n] = x[i] == x[i] ? x[i] : -INFINITY;
        b->idx[b->n++] = first + (int32_t)i;
    }
    if (b->n == b->k && b->k > 0) {
        b->least = b->score[0];
        for (int64_t j = 1; j < b->k; j++)
            b->least = b->score[j] < b->least ? b->score[j] : b->least;
    }
    return i;
}

void hd_best_offer(struct hd_best *b, int64_t n, const float *x, int32_t first)
{
    int64_t i = b->n < b->k ? take_first(b, n, x, first) : 0;

    HD_ASSERT(n <= HD_BEST_RUN);
    if (i == n || b->k == 0)
        return;
    b->n += hd_k.above(n - i, x + i, b->least, first + (int32_t)i, b->score + b->n, b->idx + b->n);
    if (b->n > hd_best_room(b->k) - HD_BEST_RUN)
        drop(b);
}

void hd_best_end(struct hd_best *b)
{
    if (b->n > b->k)
        drop(b);
}

static bool before(const struct hd_best *b, int64_t i, float score, int32_t idx)
{
    return b->score[i] > score || (b->score[i] == score && b->idx[i] < idx);
}

void hd_best_sort(struct hd_best *b)
{
    for (int64_t gap = b->n / 2; gap > 0; gap /= 2)
        for (int64_t i = gap; i < b->n; i++) {
            float score = b->score[i];
            int32_t idx = b->idx[i];
            int64_t j = i;

            for (; j >= gap && !before(b, j - gap, score, idx); j -= gap) {
                b->score[j] = b->score[j - gap];
                b->idx[j] = b->idx[j - gap];
            }
            b->score[j] = score;
            b->idx[j] = idx;
        }
}
