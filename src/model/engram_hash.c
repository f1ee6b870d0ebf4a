/* engram_hash.c: see engram_hash.h. */
#include "model/engram_hash.h"

typedef unsigned __int128 u128;

struct pcg {
    u128 state, inc;
};

static uint32_t hash_mix(uint32_t v, uint32_t *k)
{
    v ^= *k;
    *k *= 0x931E8875u;
    v *= *k;
    return v ^ v >> 16;
}

static uint32_t mix(uint32_t x, uint32_t y)
{
    uint32_t r = 0xCA01F9DDu * x - 0x4973F715u * y;

    return r ^ r >> 16;
}

/* SeedSequence(seed).generate_state(4, uint64): a pool of four words, stirred. */
static void seed_state(uint64_t seed, uint64_t out[4])
{
    uint32_t entropy[4] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, pool[4], k = 0x43B0D7E5u, word[8];

    for (int i = 0; i < 4; i++)
        pool[i] = hash_mix(entropy[i], &k);
    for (int src = 0; src < 4; src++)
        for (int dst = 0; dst < 4; dst++)
            if (src != dst)
                pool[dst] = mix(pool[dst], hash_mix(pool[src], &k));
    k = 0x8B51F9DDu;
    for (int i = 0; i < 8; i++) {
        uint32_t v = pool[i % 4] ^ k;

        k *= 0x58F38DEDu;
        v *= k;
        word[i] = v ^ v >> 16;
    }
    for (int i = 0; i < 4; i++)
        out[i] = word[2 * i] | (uint64_t)word[2 * i + 1] << 32;
}

static void step(struct pcg *g)
{
    g->state = g->state * ((u128)0x2360ED051FC65DA4u << 64 | 0x4385DF649FCCF645u) + g->inc;
}

static uint64_t next(struct pcg *g)
{
    uint64_t hi, x;
    unsigned rot;

    step(g);
    hi = (uint64_t)(g->state >> 64);
    x = hi ^ (uint64_t)g->state;
    rot = (unsigned)(hi >> 58);
    return x >> rot | x << (-rot & 63);
}

void hd_numpy_integers(uint64_t seed, uint64_t bound, int64_t n, int64_t *out)
{
    struct pcg g = {0};
    uint64_t s[4];

    seed_state(seed, s);
    g.inc = ((u128)s[2] << 64 | s[3]) << 1 | 1;
    step(&g);
    g.state += (u128)s[0] << 64 | s[1];
    step(&g);
    for (int64_t i = 0; i < n; i++) {
        u128 m = (u128)next(&g) * bound;

        if ((uint64_t)m < bound)
            for (uint64_t threshold = -bound % bound; (uint64_t)m < threshold;)
                m = (u128)next(&g) * bound;
        out[i] = (int64_t)(m >> 64);
    }
}

static bool is_prime(int64_t x)
{
    if (x < 4)
        return x > 1;
    if (x % 2 == 0)
        return false;
    for (int64_t d = 3; d * d <= x; d += 2)
        if (x % d == 0)
            return false;
    return true;
}

bool hd_next_primes(int64_t from, const int64_t *seen, int64_t n_seen, int64_t n, int64_t *out)
{
    for (int64_t i = 0, x = from + 1; i < n; x++) {
        bool fresh = true;

        if (x >= (int64_t)1 << 31)
            return false;
        for (int64_t k = 0; k < n_seen && fresh; k++)
            fresh = seen[k] != x;
        if (fresh && is_prime(x))
            out[i++] = x;
    }
    return true;
}
