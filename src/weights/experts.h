/* experts.h: routed experts that stay on disk, and a cache of them in memory, in the kernels' order.
 *
 * Experts are gathered in a dry run, layer after layer (a hook of struct hd_stream). Opened with room for some of them, hd_experts is a
 * struct hd_source: threads of its own read what a mixture misses, past the system's page cache where the file system allows it, pack it into
 * panels on arrival and tell the engine thread, which computes what is there meanwhile. An expert's tensors point into its slot while it has one
 * and have no data otherwise. Rows of tables (embeddings, n-gram memories) are read one at a time, through the page cache.
 *
 * Eviction: the expert with the least decayed count of uses goes (a token's use counts half after 128 more tokens); docs/log.md has the policies that were
 * compared. When most of a layer's experts are wanted, as in a long prompt, layers already passed go first, and the next layer's are read ahead.
 *
 * Errors   a file that has become shorter or cannot be read: IO, with file, tensor and place; the step fails, the next one may succeed
 * Threads  everything but row() on the engine thread
 */
#ifndef HD_WEIGHTS_EXPERTS_H
#define HD_WEIGHTS_EXPERTS_H

#include "ops/source.h"
#include "weights/store.h"

struct hd_experts;

#define HD_EXPERTS_READERS 5          /* threads: two read what is wanted, two ahead, one packs */
#define HD_EXPERTS_SLOTS_MIN 4

/* raw: rows as they lie, no panels (exact modes). Errors: MEMORY. */
int hd_experts_create(struct hd_experts **out, bool raw, struct hd_err *err);
void hd_experts_free(struct hd_experts *x);

/* Hooks of struct hd_meet; arg is the hd_experts. route: the table that chooses by token id, or NULL. Again is fine. */
void hd_experts_meet(void *x, const struct hd_tensor *gate, const struct hd_tensor *up, const struct hd_tensor *down, int64_t n, const struct hd_tensor *route);
void hd_experts_meet_table(void *x, const struct hd_tensor *w);
/* The model's own layers are all met: those that may follow are a draft module's, which is no part of a step. */
void hd_experts_draft(struct hd_experts *x);

struct hd_experts_size {
    int64_t n_expert, n_layer;
    int64_t bytes;                    /* of all experts, as stored */
    int64_t table_bytes;              /* of tables that are read by the row */
    int64_t slot_bytes;               /* of an expert in the cache: the largest one's */
    int64_t buffer_bytes;             /* of a reader's buffer */
    int64_t reader_bytes;             /* of all of them; 0 where a pack has every expert, and buffers are not touched */
};
/* Errors: MEMORY if gathering ran out of it. */
int hd_experts_size(const struct hd_experts *x, struct hd_experts_size *out, struct hd_err *err);
/* Is w one of the gathered tensors, or the stack that they are views of? */
bool hd_experts_holds(const struct hd_experts *x, const struct hd_tensor *w);

/* Experts come from the pack at path (expert_pack.h) from now on, as far as it has them; before hd_experts_size() and hd_experts_open(). Errors: IO, FORMAT, UNSUPPORTED,
 * MEMORY: why it is not believed; then everything comes from the checkpoint, as before. */
int hd_experts_take_pack(struct hd_experts *x, const struct hd_store *st, const char *path, struct hd_err *err);
int64_t hd_experts_packed(const struct hd_experts *x);    /* how many come from a pack */

/* Room for n_slot experts; readers start. The store must outlive it. Errors: MEMORY, IO. */
int hd_experts_open(struct hd_experts *x, const struct hd_store *st, int64_t n_slot, struct hd_err *err);
const struct hd_source *hd_experts_source(struct hd_experts *x);
int64_t hd_experts_slots(const struct hd_experts *x);

/* A step begins: ids[n] are its tokens, none for a draft module; experts that they choose by table are read at once. stop(arg) ends a wait with CANCELLED when it
 * says so; NULL: nobody does. */
void hd_experts_step(struct hd_experts *x, const int32_t *ids, int64_t n, bool (*stop)(void *arg), void *arg);

struct hd_experts_stats {
    int64_t hit, miss;                /* experts that a mixture wanted: in memory, or not */
    int64_t late;                     /* of the misses: on their way already, because they were read ahead */
    int64_t ahead, ahead_used;        /* experts whose reading ahead began; those that a mixture then wanted */
    int64_t n_read, bytes;            /* experts read, and bytes of them (also of those given up), as the drive sees it */
    int64_t needed_bytes;             /* of experts that a mixture wanted and that had to be read, before or then, as stored */
    int64_t n_row, row_bytes;         /* table rows */
    int64_t n_row_ahead;              /* rows that the system was told of before, the same ones more than once */
    int64_t n_damaged;                /* experts whose record in the pack was not believed: they come from the checkpoint */
    double wait_s;                    /* engine thread, with nothing to compute */
    double read_s, pack_s;            /* summed over the readers */
};
void hd_experts_stats(struct hd_experts *x, struct hd_experts_stats *out);

/* What the drive gives when readers do nothing but read experts, at random, for about that many seconds: bytes a second. Errors: IO, MEMORY. */
int hd_experts_probe(struct hd_experts *x, double seconds, double *bytes_per_s, struct hd_err *err);
bool hd_experts_direct(const struct hd_experts *x);       /* reads go past the page cache */

#endif
