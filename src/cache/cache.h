/* cache.h: what a sequence keeps between steps, by spec.
 *
 * An attention variant declares its parts; everything here works from the declaration and knows no more:
 *   PAGED    a row every `ratio` tokens, for all tokens (keys, values, latents, compressed entries, index keys)
 *   WINDOW   a row per token, only the last `window` are ever read: a ring of window + slack rows per sequence
 *   STATE    fixed bytes per sequence (partial groups, n-gram history)
 *
 * PAGED rows live in pages of page_tokens tokens, all parts of a page together, part after part. Pages are shared between
 * forks and copied when one of them writes. Memory is taken from the system in slabs when first needed and never moves.
 *
 * Threads: the engine thread creates, appends, rewinds, forks and frees; workers read and write reserved rows in a step.
 */
#ifndef HD_CACHE_CACHE_H
#define HD_CACHE_CACHE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "ops/paged.h"
#include "tensor/dtype.h"

/* What keys and values are kept in: plainly, or in the packed rows that architectures have of their own (f32 where they do not). AUTO: packed when
 * the weights are quantised too, since such a model was trained with both. */
enum hd_kv { HD_KV_F32, HD_KV_F16, HD_KV_NATIVE, HD_KV_AUTO };

enum hd_part_kind { HD_PART_PAGED, HD_PART_WINDOW, HD_PART_STATE };

struct hd_cache_part {
    const char *name;             /* "k", "v", ...: for inspect and messages */
    int layer;
    enum hd_part_kind kind;
    enum hd_dtype type;
    int64_t row_len;              /* elements; STATE: elements in all */
    struct hd_kv_row pack;        /* code not NONE: rows are packed so, instead of row_len elements of type */
    bool panels;                  /* PAGED: rows may lie in panels (kv_row.h), where format and page allow it. In snapshots they are rows all the same */
    int ratio;                    /* PAGED: tokens a row; 1 otherwise */
    int window, slack;            /* WINDOW: rows needed; rows more, so that small rewinds are exact */
    bool behind;                  /* PAGED: a step may write the row before its first, too */
    bool hint;                    /* what is read from it decides no token (draft modules): a rewind that cannot restore it goes there all the same */
};

struct hd_cache_spec {
    int n_part;
    const struct hd_cache_part *part;
};

int64_t hd_cache_row_bytes(const struct hd_cache_part *p);

/* Exact: bytes each further token adds (a ratio of 128 adds 1/128 row), and bytes a sequence takes before its first. */
double hd_cache_spec_token_bytes(const struct hd_cache_spec *spec);
int64_t hd_cache_spec_seq_bytes(const struct hd_cache_spec *spec);
/* What n_seq sequences that share n_tok tokens of cache take, in whole pages. */
int64_t hd_cache_spec_bytes(const struct hd_cache_spec *spec, int64_t n_tok, int64_t n_seq);

struct hd_page;
struct hd_slab;

struct hd_cache {
    const struct hd_cache_spec *spec;
    int64_t page_tokens, page_bytes, seq_bytes;
    int64_t *offset;              /* of each part in a page, or in a sequence's private block */
    int64_t n_page_max, n_page, n_page_used;
    struct hd_page *free;
    struct hd_slab *slabs;
    uint64_t spec_hash, epoch;
    bool behind;                  /* some part is */
    int n_seq;
};

/* n_tok: the budget, rounded up to pages. Errors: USAGE for a spec that makes no sense, MEMORY. */
int hd_cache_init(struct hd_cache *c, const struct hd_cache_spec *spec, int64_t n_tok, struct hd_err *err);
void hd_cache_release(struct hd_cache *c);         /* all sequences must be freed before */

struct hd_seq;

int hd_seq_create(struct hd_cache *c, struct hd_seq **out, struct hd_err *err);
void hd_seq_free(struct hd_seq *s);
int64_t hd_seq_len(const struct hd_seq *s);

/* Reserves rows for n more tokens; they are garbage until a step writes them. Errors: LIMIT (budget), MEMORY; unchanged then. */
int hd_seq_append(struct hd_seq *s, int64_t n, struct hd_err *err);

/* Takes back the last append, of n tokens, before a step has written any of their rows: nothing is lost. */
void hd_seq_retract(struct hd_seq *s, int64_t n);

/* Forgets tokens from len on. *reached (may be NULL) is the nearest position <= len that the parts can restore: len itself
 * for PAGED parts; a WINDOW part whose ring has moved past, or a STATE part, makes it 0. The sequence then has that length. */
int hd_seq_rewind(struct hd_seq *s, int64_t len, int64_t *reached, struct hd_err *err);
/* What a rewind to len would reach; and the same of a sequence of n tokens that was high long once. */
int64_t hd_seq_reach(const struct hd_seq *s, int64_t len);
int64_t hd_seq_high(const struct hd_seq *s);
int64_t hd_cache_spec_reach(const struct hd_cache_spec *spec, int64_t n, int64_t high, int64_t len);

/* The least length but 0 that such a rewind reaches. */
int64_t hd_cache_spec_lowest(const struct hd_cache_spec *spec, int64_t n, int64_t high);

/* Pages of s that no call with this epoch has counted before: what several sequences hold together, shared pages once. A new epoch is
 * ++cache.epoch. */
int64_t hd_seq_count_pages(struct hd_seq *s, uint64_t epoch);

int hd_seq_fork(struct hd_seq *s, struct hd_seq **out, struct hd_err *err);

/* The rows of a part as ops see them. Valid until the sequence changes. */
void hd_seq_paged(struct hd_seq *s, int part, struct hd_paged *out);
/* A row of any part that does not lie in panels: PAGED row index, WINDOW position, STATE 0. */
void *hd_seq_row(struct hd_seq *s, int part, int64_t row);
/* A row of any part, as it is when it does not lie in panels: where it lies, or copied to buf (hd_cache_row_bytes()). */
const void *hd_seq_read(struct hd_seq *s, int part, int64_t row, void *buf);

/* A snapshot, from any thread as long as s stays as it is (forks and their owner may go on): everything the sequence holds and the caller's blob (token ids), with a checksum and the spec's hash. */
typedef void (*hd_sink_fn)(void *arg, const void *p, size_t n);
void hd_seq_save(struct hd_seq *s, const void *blob, size_t n_blob, hd_sink_fn sink, void *arg);
int64_t hd_seq_save_bytes(const struct hd_seq *s, size_t n_blob);     /* all that the sink gets */
/* What a snapshot says of itself, unread: its length is right, its checksum has not been looked at. Errors: FORMAT. */
struct hd_snapshot {
    int64_t len, high;            /* high: its largest length, for hd_cache_spec_reach() */
    const void *blob;             /* into data */
    size_t n_blob;
};
int hd_seq_peek(const struct hd_cache *c, const void *data, size_t n, struct hd_snapshot *out, struct hd_err *err);
/* Does the checksum match? From any thread. */
bool hd_seq_intact(const void *data, size_t n);
/* Fills an empty sequence from a snapshot that is known to be intact; blob points into data. Errors: FORMAT (truncated, of another model),
 * LIMIT, MEMORY; the sequence is empty then. */
int hd_seq_fill(struct hd_seq *s, const void *data, size_t n, const void **blob, size_t *n_blob, struct hd_err *err);
/* The same, after looking at the checksum (FORMAT). */
int hd_seq_load(struct hd_seq *s, const void *data, size_t n, const void **blob, size_t *n_blob, struct hd_err *err);

#endif
