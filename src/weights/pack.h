/* pack.h: a model's matrices once more, in huge pages and in the order in which kernels read them (tensor/panel.h).
 *
 * Weights are gathered in the order in which a step meets them (hd_stream's weight hook, in a dry run), so that a decode step is one walk
 * through memory. Formats that panels are not made for are copied as they lie, with their scales. Afterwards nothing but table and embedding rows is read
 * from the files, whose pages the system may have back.
 *
 * Owns     the copies; tensors point into them until hd_packs_release()
 * Threads  packing is shared by the pool's team; each page is first touched by whoever packs it
 */
#ifndef HD_WEIGHTS_PACK_H
#define HD_WEIGHTS_PACK_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/pool.h"
#include "tensor/panel.h"

struct hd_packs {
    const struct hd_tensor **w;       /* gathered */
    size_t n, cap;
    bool failed;                      /* no memory while gathering */
    size_t n_matrix;                  /* of the first gathered, the only ones that panels may be made of: set by whoever gathers */
    struct hd_panels *panels;         /* [n] */
    char *data;
    int64_t bytes;
};

/* How far something long is; returning false cancels it. */
typedef bool (*hd_progress_fn)(void *arg, int64_t done, int64_t total);

/* Gathers a weight; again is fine. A hook of struct hd_stream: arg is the hd_packs (zeroed before the first). */
void hd_packs_gather(void *packs, const struct hd_tensor *w);
/* Packs what was gathered and points the tensors' panels (or data) there. progress (of bytes) may be NULL. Errors: MEMORY, CANCELLED; no
 * tensor has changed then. */
int hd_packs_make(struct hd_packs *p, struct hd_pool *pool, hd_progress_fn progress, void *arg, struct hd_err *err);
void hd_packs_release(struct hd_packs *p);

#endif
