/* engram_hash.h: the constants of Engram's hashes: multipliers from numpy's generator, primes counted up.
 *
 * Source   numpy's SeedSequence and PCG64 (O'Neill 2014), Lemire 2019 for bounded integers; DeepSeek-V4.1's engram code
 */
#ifndef HD_MODEL_ENGRAM_HASH_H
#define HD_MODEL_ENGRAM_HASH_H

#include <stdbool.h>
#include <stdint.h>

/* numpy.random.default_rng(seed).integers(0, bound, n, int64) for bound above 2^32. */
void hd_numpy_integers(uint64_t seed, uint64_t bound, int64_t n, int64_t *out);
/* The next n primes above from that are not among seen[n_seen]; false when they do not exist below 2^31. */
bool hd_next_primes(int64_t from, const int64_t *seen, int64_t n_seen, int64_t n, int64_t *out);

#endif
