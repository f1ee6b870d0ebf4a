/* rng.h: reproducible random numbers: the same seed gives the same stream on every machine.
 *
 * Source   Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2018: xoshiro256**, seeded by splitmix64
 */
#ifndef HD_BASE_RNG_H
#define HD_BASE_RNG_H

#include <stdint.h>

struct hd_rng {
    uint64_t s[4];
};

static inline void hd_rng_seed(struct hd_rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        uint64_t z = seed += 0x9E3779B97F4A7C15u;

        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        r->s[i] = z ^ z >> 31;
    }
}

static inline uint64_t hd_rng_next(struct hd_rng *r)
{
    uint64_t *s = r->s, m = s[1] * 5, out = (m << 7 | m >> 57) * 9, t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = s[3] << 45 | s[3] >> 19;
    return out;
}

/* In [0, 1), 53 bits. */
static inline double hd_rng_double(struct hd_rng *r)
{
    return (double)(hd_rng_next(r) >> 11) * 0x1p-53;
}

#endif
