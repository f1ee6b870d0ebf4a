/* mem.h: the one place that asks the system for memory.
 *
 * Every allocation of hadal (and of jansson and PCRE2, which are pointed here) goes through these, so that a test can
 * make the n-th one fail: hd_fault_arm() in fault.h. Sizes are checked for overflow by the callers' hd_mul() / hd_add().
 */
#ifndef HD_BASE_MEM_H
#define HD_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *hd_malloc(size_t n);                                /* NULL when there is none; n = 0 gives a unique pointer */
void *hd_calloc(size_t n, size_t size);                   /* zeroed; NULL on overflow too */
void *hd_realloc(void *p, size_t n);
void *hd_aligned(size_t align, size_t n);                 /* align a power of two; hd_free() frees it */
void hd_free(void *p);
char *hd_strdup(const char *s);
char *hd_strndup(const char *s, size_t n);

/* Big, 2 MiB aligned, huge-page advised, zero-filled on first touch; NULL when there is none. Freed by hd_pages_free(p, n). */
void *hd_pages_alloc(size_t n);
void hd_pages_free(void *p, size_t n);

/* Makes room for need elements of size bytes in *p (capacity *cap), doubling; false when memory or max is exceeded. */
bool hd_grow(void **p, size_t *cap, size_t need, size_t size, size_t max);
#define HD_GROW(ptr, cap, need, max) hd_grow((void **)&(ptr), &(cap), (need), sizeof *(ptr), (max))

/* *r = a op b; false when it does not fit. */
static inline bool hd_mul64(int64_t a, int64_t b, int64_t *r) { return !__builtin_mul_overflow(a, b, r); }
static inline bool hd_add64(int64_t a, int64_t b, int64_t *r) { return !__builtin_add_overflow(a, b, r); }

/* What the machine still has, in bytes: MemAvailable bounded by the cgroup's limit. 0 when unknown. */
int64_t hd_mem_available(void);
int64_t hd_mem_peak_rss(void);

#endif
