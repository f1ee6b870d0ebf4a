/* hash.h: FNV-1a, 64 bits: checksums and table keys; not for anything an attacker may choose. */
#ifndef HD_BASE_HASH_H
#define HD_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HD_HASH_INIT 0xcbf29ce484222325u

static inline uint64_t hd_hash(uint64_t h, const void *p, size_t n)
{
    const unsigned char *s = p;

    for (size_t i = 0; i < n; i++)
        h = (h ^ s[i]) * 0x100000001b3u;
    return h;
}

#endif
