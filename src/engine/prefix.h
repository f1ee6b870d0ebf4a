/* prefix.h: kept sessions: what finished and running requests leave behind for later ones to begin with.
 *
 * A prompt begins with the kept session that has the longest run of tokens in common with it, of the same tenant. Which part of a session can be
 * used is the cache spec's to say: PAGED parts go back to any token, rings only a little, so that for models with rings checkpoints are kept
 * too (at a prompt's end, and at borders inside it). The first tokens of a session are the same bits whoever computed them, so a hit changes
 * no answer. Least recently used sessions go first when bytes run out.
 *
 * Kept sessions are few (their bytes are bounded): a look-up compares ids with each of them.
 *
 * Threads  the engine's
 */
#ifndef HD_ENGINE_PREFIX_H
#define HD_ENGINE_PREFIX_H

#include "engine/engine.h"

enum hd_prefix_kind {
    HD_PREFIX_DONE,                   /* its owner is finished: the next turn takes it over */
    HD_PREFIX_PROMPT,                 /* a checkpoint at a prompt's end: stays for others */
    HD_PREFIX_BORDER                  /* a checkpoint inside a prompt: the same, and not worth a file */
};

struct hd_prefix {
    struct hd_session session;
    char *tenant;                     /* NULL is one too */
    enum hd_prefix_kind kind;
};

struct hd_prefix_disk;

struct hd_prefix_store {
    struct hd_engine *engine;
    struct hd_prefix *entry;          /* the least recently used first */
    size_t n, cap;
    int64_t bytes_max;                /* pages and rings of all entries; below zero: nothing is kept */
    struct hd_prefix_disk *disk;      /* NULL: none. Owned, once it is put here */
    int64_t disk_tokens_min;          /* shorter sessions are not written */
};

/* What a request wants to begin with. */
struct hd_prefix_want {
    const char *tenant;
    const int32_t *ids;
    int64_t n;                        /* at most n - 1 of them are taken from anywhere: the last one's logits are wanted */
    int64_t raw0;                     /* where a cold run's decoder half would begin (engine.h: shortcut); 0 without */
};

void hd_prefix_init(struct hd_prefix_store *p, struct hd_engine *e, int64_t bytes_max);
void hd_prefix_release(struct hd_prefix_store *p);

/* What a session holds, or a file. */
struct hd_prefix_span {
    const int32_t *ids;
    int64_t n, high, raw0;            /* high: its largest length so far */
};
struct hd_prefix_span hd_prefix_span_of(const struct hd_session *ss);
/* How many tokens of it could begin w with the same bits as a cold run; 0: none. */
int64_t hd_prefix_usable(const struct hd_cache_spec *spec, const struct hd_prefix_span *have, const struct hd_prefix_want *w);
/* Would a serve whoever b serves? */
bool hd_prefix_covers(const struct hd_cache_spec *spec, const struct hd_prefix_span *a, const struct hd_prefix_span *b);
/* A session that has n usable tokens becomes one of just these. Errors: none, if they are. */
int hd_prefix_cut(struct hd_session *ss, const struct hd_prefix_want *w, int64_t n, struct hd_err *err);

/* The kept session with most of them; NULL and *n = 0: none has any. Valid until the store changes. */
struct hd_prefix *hd_prefix_find(struct hd_prefix_store *p, const struct hd_prefix_want *w, int64_t *n);

/* out becomes a session of w's first n tokens: from a kept session, which it takes over when nothing of that is lost and forks otherwise;
 * from any other session, by a fork. n: what the functions above said. Errors: MEMORY. */
int hd_prefix_take(struct hd_prefix_store *p, struct hd_prefix *from, const struct hd_prefix_want *w, int64_t n, struct hd_session *out, struct hd_err *err);
int hd_prefix_fork(struct hd_session *from, const struct hd_prefix_want *w, int64_t n, struct hd_session *out, struct hd_err *err);

/* Takes ss over (it is empty then) and keeps it, or closes it where nothing would be gained or bytes do not allow. */
void hd_prefix_keep(struct hd_prefix_store *p, const char *tenant, struct hd_session *ss, enum hd_prefix_kind kind);
/* Drops the least recently used; false: there is none. */
bool hd_prefix_evict(struct hd_prefix_store *p);
/* Everything, files too. */
void hd_prefix_flush(struct hd_prefix_store *p);

/* Can a session of this model go back to any of its tokens? */
bool hd_prefix_rewinds(const struct hd_engine *e);

#endif
