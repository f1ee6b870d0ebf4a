/* arena.c: see arena.h. Chunks double, so that the number of system calls stays logarithmic. */
#include "base/arena.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"

struct hd_arena_chunk {
    struct hd_arena_chunk *next;
    size_t size;
    char *data;
};

#define ALIGN 64
#define CHUNK_MIN ((size_t)64 << 10)
#define CHUNK_PAGES ((size_t)4 << 20)     /* from here on chunks are huge-page advised maps */

static struct hd_arena_chunk *chunk_new(size_t size)
{
    struct hd_arena_chunk *c = hd_malloc(sizeof *c);

    if (!c)
        return NULL;
    c->next = NULL;
    c->size = size;
    c->data = size >= CHUNK_PAGES ? hd_pages_alloc(size) : hd_aligned(ALIGN, size);
    if (!c->data) {
        hd_free(c);
        return NULL;
    }
    return c;
}

void hd_arena_init(struct hd_arena *a, size_t max)
{
    memset(a, 0, sizeof *a);
    a->max = max;
}

void hd_arena_release(struct hd_arena *a)
{
    struct hd_arena_chunk *next;

    for (struct hd_arena_chunk *c = a->first; c; c = next) {
        next = c->next;
        if (c->size >= CHUNK_PAGES)
            hd_pages_free(c->data, c->size);
        else
            hd_free(c->data);
        hd_free(c);
    }
    hd_arena_init(a, a->max);
}

bool hd_arena_reserve(struct hd_arena *a, size_t n)
{
    HD_ASSERT(!a->first);
    a->first = a->cur = chunk_new(n < CHUNK_MIN ? CHUNK_MIN : n);
    return a->first != NULL;
}

void *hd_arena_alloc(struct hd_arena *a, size_t n)
{
    size_t need = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    char *p;

    if (need < n || (a->max && need > a->max - a->total))
        return NULL;
    if (need == 0)
        need = ALIGN;
    while (!a->cur || a->cur->size - a->used < need) {
        struct hd_arena_chunk **link = a->cur ? &a->cur->next : &a->first;

        if (!*link) {
            size_t size = a->cur ? a->cur->size * 2 : CHUNK_MIN;

            if (!(*link = chunk_new(size < need ? need : size)) && !(*link = chunk_new(need)))
                return NULL;
        }
        a->cur = *link;
        a->used = 0;
    }
    p = a->cur->data + a->used;
    a->used += need;
    a->total += need;
    if (a->total > a->peak)
        a->peak = a->total;
    return p;
}

void *hd_arena_zalloc(struct hd_arena *a, size_t n)
{
    void *p = hd_arena_alloc(a, n);

    return p ? memset(p, 0, n) : NULL;
}

char *hd_arena_strdup(struct hd_arena *a, const char *s, size_t n)
{
    char *p = hd_arena_alloc(a, n + 1);

    if (p) {
        memcpy(p, s, n);
        p[n] = 0;
    }
    return p;
}

void hd_arena_reset(struct hd_arena *a)
{
    a->cur = a->first;
    a->used = a->total = 0;
}

struct hd_arena_mark hd_arena_mark(const struct hd_arena *a)
{
    return (struct hd_arena_mark){a->cur, a->used, a->total};
}

void hd_arena_rewind(struct hd_arena *a, struct hd_arena_mark m)
{
    a->cur = m.cur ? m.cur : a->first;
    a->used = m.used;
    a->total = m.total;
}
