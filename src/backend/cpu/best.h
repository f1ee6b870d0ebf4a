/* best.h: the k best of a stream of scores that come in the order of their indices; among equals the earlier one is better.
 *
 * Whatever exceeds the k-th best so far is kept until the room is full; then that k-th best is found again and what it beats is dropped. So a
 * score costs a comparison (sixteen at once), and each of the few that pass it a little more, whatever k. Exact: the same choice however
 * the stream is cut. A score that is not a number counts as the least.
 */
#ifndef HD_BACKEND_CPU_BEST_H
#define HD_BACKEND_CPU_BEST_H

#include <stdint.h>

#include "ops/ops.h"

#define HD_BEST_RUN 64                /* scores offered at once, at most */

struct hd_best {
    float *score;                     /* [hd_best_room(k)] both, ascending indices */
    int32_t *idx;
    int64_t k, n;
    float least;                      /* with k or more so far: what a later one must exceed */
};

static inline int64_t hd_best_room(int64_t k)
{
    return hd_choose_words(k) / 2;        /* 2 k + 2 HD_BEST_RUN */
}

/* The k-th largest of x[n], 0 < k <= n, no NaNs. */
float hd_best_kth(const float *x, int64_t n, int64_t k);
/* mem: 2 hd_best_room(k) words. */
void hd_best_begin(struct hd_best *b, int64_t k, void *mem);
void hd_best_offer(struct hd_best *b, int64_t n, const float *x, int32_t first);
/* Leaves the k best, or all that there were, by index. */
void hd_best_end(struct hd_best *b);
/* After the end: best first. */
void hd_best_sort(struct hd_best *b);

#endif
