/* source.h: weights that are not all in memory: an op that meets some asks here for what it needs.
 *
 * A mixture names the experts that somebody chose (perhaps a while before it runs), then takes them as they become ready, in any order, computes, and gives them back; what it
 * was given may stay, or make room. Rows of tables are read one at a time. Who reads ahead is told what is coming.
 *
 * Threads  row: any worker; everything else: the engine thread, one mixture at a time
 */
#ifndef HD_OPS_SOURCE_H
#define HD_OPS_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "tensor/tensor.h"

#define HD_SOURCE_AHEAD_MAX 256
#define HD_SOURCE_ROW_MAX 65536       /* bytes of a row, and of its scales */

struct hd_source {
    void *self;
    /* Experts of the mixture whose gate matrices begin at gate: n of them, all different, and how many tokens each has. false: they are all in memory. */
    bool (*want)(void *self, const struct hd_tensor *gate, const int32_t *expert, const int32_t *n_tok, int64_t n);
    /* Waits for at least one of them and names what is ready, at most max: their gate, up and down have data (or panels) now. 0: all were
     * taken. Below 0: a status. */
    int64_t (*take)(void *self, int32_t *ready, int64_t max, struct hd_err *err);
    void (*give)(void *self, const int32_t *expert, int64_t n);
    void (*drop)(void *self);         /* ends what want() began, whatever was taken */
    /* What the next mixture will want(), n choices in any order, may be said before: it is on its way then while something else is computed. */
    void (*soon)(void *self, const struct hd_tensor *gate, const int32_t *expert, int64_t n);
    /* What the next mixture will probably want, all different or not: at most HD_SOURCE_AHEAD_MAX are remembered, and read when nothing that is wanted is left to read.
     * Said while a mixture runs, of the one behind it, and again between the two: the newer guess counts, if guesses of its kind have come true. */
    void (*ahead)(void *self, const struct hd_tensor *gate, const int32_t *expert, int64_t n);
    /* Is w read from files by the row? Then: row of w into data (w->row_bytes) and its row of scales, if any, into scale. */
    bool (*has_rows)(void *self, const struct hd_tensor *w);
    int (*row)(void *self, const struct hd_tensor *w, int64_t row, void *data, void *scale, struct hd_err *err);
    /* Rows that will be read: the drive may begin. Nothing happens where they cannot be. */
    void (*rows_ahead)(void *self, const struct hd_tensor *w, const int32_t *row, int64_t n);
};

#endif
