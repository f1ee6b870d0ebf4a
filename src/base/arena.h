/* arena.h: memory with one lifetime.
 *
 * A bump allocator over chunks. Pointers stay valid until the arena is reset or released past them. With a budget of
 * one chunk reserved up front (hd_arena_reserve) a step allocates nothing from the system.
 */
#ifndef HD_BASE_ARENA_H
#define HD_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hd_arena_chunk;

struct hd_arena {
    struct hd_arena_chunk *first, *cur;
    size_t used;           /* bytes in use in cur */
    size_t total, peak;    /* bytes handed out now, and the most ever */
    size_t max;            /* hd_arena_alloc() refuses to go beyond; 0: no limit */
};

struct hd_arena_mark {
    struct hd_arena_chunk *cur;
    size_t used, total;
};

void hd_arena_init(struct hd_arena *a, size_t max);
void hd_arena_release(struct hd_arena *a);                      /* gives everything back */
bool hd_arena_reserve(struct hd_arena *a, size_t n);            /* one chunk of at least n bytes, before the first use */
void *hd_arena_alloc(struct hd_arena *a, size_t n);             /* 64-byte aligned, not cleared; NULL when there is none */
void *hd_arena_zalloc(struct hd_arena *a, size_t n);            /* cleared */
char *hd_arena_strdup(struct hd_arena *a, const char *s, size_t n);
void hd_arena_reset(struct hd_arena *a);                        /* keeps the chunks */
struct hd_arena_mark hd_arena_mark(const struct hd_arena *a);
void hd_arena_rewind(struct hd_arena *a, struct hd_arena_mark m);

#endif
