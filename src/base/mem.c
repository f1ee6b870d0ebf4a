/* mem.c: see mem.h. */
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/fault.h"

void *hd_malloc(size_t n)
{
    if (hd_fault_hit(HD_FAULT_ALLOC))
        return NULL;
    return malloc(n ? n : 1);
}

void *hd_calloc(size_t n, size_t size)
{
    if (hd_fault_hit(HD_FAULT_ALLOC))
        return NULL;
    return calloc(n ? n : 1, size ? size : 1);
}

void *hd_realloc(void *p, size_t n)
{
    if (hd_fault_hit(HD_FAULT_ALLOC))
        return NULL;
    return realloc(p, n ? n : 1);
}

void *hd_aligned(size_t align, size_t n)
{
    void *p = NULL;

    if (hd_fault_hit(HD_FAULT_ALLOC))
        return NULL;
    if (posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, n ? n : 1))
        return NULL;
    return p;
}

void hd_free(void *p)
{
    free(p);
}

char *hd_strndup(const char *s, size_t n)
{
    char *p = hd_malloc(n + 1);

    if (p) {
        memcpy(p, s, n);
        p[n] = 0;
    }
    return p;
}

char *hd_strdup(const char *s)
{
    return hd_strndup(s, strlen(s));
}

#define HUGE_PAGE ((size_t)2 << 20)

void *hd_pages_alloc(size_t n)
{
    size_t span;
    char *p, *a;

    if (n == 0)
        n = 1;
    if (hd_fault_hit(HD_FAULT_ALLOC) || n > SIZE_MAX - 2 * HUGE_PAGE)
        return NULL;
    span = (n + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    p = mmap(NULL, span + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    a = (char *)(((uintptr_t)p + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    if (a > p)
        munmap(p, (size_t)(a - p));
    if (p + HUGE_PAGE > a)
        munmap(a + span, (size_t)(p + HUGE_PAGE - a));
    madvise(a, span, MADV_HUGEPAGE);   /* advice: refusal changes nothing but speed */
    return a;
}

void hd_pages_free(void *p, size_t n)
{
    if (p)
        munmap(p, ((n ? n : 1) + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
}

bool hd_grow(void **p, size_t *cap, size_t need, size_t size, size_t max)
{
    size_t n = *cap ? *cap : 16;
    void *q;

    if (need <= *cap)
        return true;
    if (need > max)
        return false;
    while (n < need)
        n = n > max / 2 ? max : n * 2;
    if (n > SIZE_MAX / size)
        return false;
    q = hd_realloc(*p, n * size);
    if (!q)
        return false;
    *p = q;
    *cap = n;
    return true;
}

/* The number after KEY in a "KEY: n kB" file, in bytes; 0 when it is not there. */
static int64_t read_kb(const char *path, const char *key)
{
    char line[256];
    long long kb = 0;
    FILE *f = fopen(path, "re");

    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), " %lld", &kb) == 1)
            break;
    fclose(f);
    return kb * 1024;
}

static int64_t read_number(const char *path)
{
    long long n = 0;
    FILE *f = fopen(path, "re");

    if (!f)
        return 0;
    if (fscanf(f, "%lld", &n) != 1)
        n = 0;
    fclose(f);
    return n;
}

int64_t hd_mem_available(void)
{
    int64_t have = read_kb("/proc/meminfo", "MemAvailable:");
    int64_t max = read_number("/sys/fs/cgroup/memory.max"), used = read_number("/sys/fs/cgroup/memory.current");
    struct rlimit rl;

    if (max > 0 && max - used < have)
        have = max > used ? max - used : 0;
    if (!getrlimit(RLIMIT_AS, &rl) && rl.rlim_cur != RLIM_INFINITY && (int64_t)rl.rlim_cur < have)
        have = (int64_t)rl.rlim_cur;
    return have;
}

int64_t hd_mem_peak_rss(void)
{
    return read_kb("/proc/self/status", "VmHWM:");
}
