/* prep.h: from a request's body to the ids of its prompt. Long bodies, and those with schemas, are parsed, rendered and tokenised on a thread of
 * their own, one after the other, so that nobody else's tokens wait for them; others where they are.
 *
 * Threads  hd_prep() and done() on the loop's; prepare() on either: of the server it reads what never changes, the replay map (which has a lock)
 *          and counts with hd_metrics_count()
 */
#ifndef HD_SERVER_PREP_H
#define HD_SERVER_PREP_H

#include "server/ask.h"

#define HD_PREP_BYTES (32 << 10)      /* longer bodies are long */

struct hd_prep_kind {
    /* Fills *a (hd_ask_init() first, always). x: body, id, tenant and head only. */
    int (*prepare)(struct hd_server *s, const struct hd_exchange *x, struct hd_ask *a, struct hd_problem *p);
    /* Replies; takes what is in *a. */
    void (*done)(struct hd_server *s, struct hd_exchange *x, int rc, struct hd_ask *a, struct hd_problem *p);
    void (*free_extra)(void *extra);  /* a->extra of a request whose client has gone; or NULL */
};

int hd_prep_init(struct hd_server *s, struct hd_err *err);
void hd_prep_release(struct hd_server *s);            /* what waits is dropped */

void hd_prep(struct hd_server *s, struct hd_exchange *x, const struct hd_prep_kind *kind);
void hd_prep_gone(struct hd_exchange *x);             /* its client has gone */

/* The calling thread's tokenizer. */
struct hd_tokenizer *hd_prep_tokenizer(const struct hd_server *s);

#endif
