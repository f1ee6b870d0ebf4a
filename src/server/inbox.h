/* inbox.h: events of a runner on their way to the loop's thread.
 *
 * The runner's thread puts copies in; the loop is woken, and takes them out in order.
 *
 * Threads  hd_inbox_event() from the runner's thread, everything else from the loop's
 */
#ifndef HD_SERVER_INBOX_H
#define HD_SERVER_INBOX_H

#include <pthread.h>

#include <event2/event.h>

#include "engine/runner.h"

/* An hd_run_event that owns what it needs. pick.top_* behind n_top are not set. */
struct hd_note {
    void *arg;                        /* of the request */
    enum hd_run_kind kind;
    int64_t done, total, cached;
    struct hd_pick pick;
    enum hd_finish finish;
    bool failed;
    struct hd_err err;
    int64_t n_generated, n_drafted, n_accepted;
    double queue_s, prefill_s, decode_s;
};

/* A request's arg as the runner sees it; lives until its END was taken. */
struct hd_inbox_slot {
    struct hd_inbox *inbox;
    void *arg;
    bool lost;                        /* there was no memory for one of its events: it ends with an error */
    struct hd_inbox_slot *next;       /* on the inbox's list of those that ended so */
};

struct hd_inbox {
    pthread_mutex_t lock;
    struct hd_str filling, taking;    /* notes, packed */
    size_t at;
    struct hd_inbox_slot *broken;
    struct event *wake;
};

/* on_wake runs in the loop when there is something. Errors: MEMORY. */
int hd_inbox_init(struct hd_inbox *b, struct event_base *base, event_callback_fn on_wake, void *arg, struct hd_err *err);
void hd_inbox_release(struct hd_inbox *b);

/* An hd_run_event_fn; arg is a struct hd_inbox_slot. */
void hd_inbox_event(void *arg, const struct hd_run_event *e);

/* The next note; false: no more. Every request's END comes, whatever memory there was: of one that lost an event, as failed. */
bool hd_inbox_take(struct hd_inbox *b, struct hd_note *out);

#endif
