/* seq.h: the inside of the cache that cache.c and seq.c share: pages and slabs. */
#ifndef HD_CACHE_SEQ_H
#define HD_CACHE_SEQ_H

#include "cache/cache.h"

struct hd_page {
    void *data;
    struct hd_page *next;         /* on the free list */
    int n_ref;
    uint64_t epoch;               /* the last one that counted it */
};

struct hd_slab {
    struct hd_slab *next;
    void *data;
    int64_t bytes;
    struct hd_page page[];
};

int hd_page_take(struct hd_cache *c, struct hd_page **out, struct hd_err *err);
void hd_page_drop(struct hd_cache *c, struct hd_page *p);

#endif
