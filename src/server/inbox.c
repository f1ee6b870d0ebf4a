/* inbox.c: see inbox.h. Notes are packed one behind the other, without what an event of their kind does not use, into a buffer that is
 * swapped with an empty one when the loop comes to read. */
#include "server/inbox.h"

#include <string.h>

#include "base/str.h"

#define INBOX_BYTES ((size_t)256 << 20)

int hd_inbox_init(struct hd_inbox *b, struct event_base *base, event_callback_fn on_wake, void *arg, struct hd_err *err)
{
    memset(b, 0, sizeof *b);
    pthread_mutex_init(&b->lock, NULL);
    hd_str_init(&b->filling, INBOX_BYTES);
    hd_str_init(&b->taking, INBOX_BYTES);
    b->wake = event_new(base, -1, EV_PERSIST, on_wake, arg);
    return b->wake ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for the server");
}

void hd_inbox_release(struct hd_inbox *b)
{
    if (b->wake)
        event_free(b->wake);
    hd_str_release(&b->filling);
    hd_str_release(&b->taking);
    pthread_mutex_destroy(&b->lock);
}

/* What every note has, before what its kind has. */
struct packed {
    void *arg;
    enum hd_run_kind kind;
};
struct packed_pick {
    int32_t id, n_top;
    double logprob;
};
struct packed_end {
    enum hd_finish finish;
    bool failed;
    int64_t n_generated, n_drafted, n_accepted;
    double queue_s, prefill_s, decode_s;
};

static void pack(struct hd_str *s, void *arg, const struct hd_run_event *e)
{
    struct packed head = {arg, e->kind};
    struct packed_end end = {e->finish, e->err != NULL, e->n_generated, e->n_drafted, e->n_accepted, e->queue_s, e->prefill_s, e->decode_s};
    int64_t progress[3] = {e->done, e->total, e->cached};

    hd_str_add(s, &head, sizeof head);
    if (e->kind == HD_RUN_PROGRESS) {
        hd_str_add(s, progress, sizeof progress);
    } else if (e->kind == HD_RUN_END) {
        hd_str_add(s, &end, sizeof end);
        if (e->err)
            hd_str_add(s, e->err, sizeof *e->err);
    } else {
        struct packed_pick pick = {e->pick->id, e->pick->n_top, e->pick->logprob};

        hd_str_add(s, &pick, sizeof pick);
        hd_str_add(s, e->pick->top_id, (size_t)pick.n_top * sizeof *e->pick->top_id);
        hd_str_add(s, e->pick->top_logprob, (size_t)pick.n_top * sizeof *e->pick->top_logprob);
    }
}

void hd_inbox_event(void *arg, const struct hd_run_event *e)
{
    struct hd_inbox_slot *slot = arg;
    struct hd_inbox *b = slot->inbox;
    size_t before;
    bool first;

    pthread_mutex_lock(&b->lock);
    before = b->filling.n;
    first = before == 0 || slot->lost;
    if (!slot->lost)
        pack(&b->filling, slot->arg, e);
    if (b->filling.failed) {          /* nothing half-written stays */
        b->filling.failed = false;
        b->filling.n = before;
        slot->lost = first = true;
    }
    if (slot->lost && e->kind == HD_RUN_END) {
        slot->next = b->broken;
        b->broken = slot;
    }
    pthread_mutex_unlock(&b->lock);
    if (first)
        event_active(b->wake, EV_READ, 0);
}

/* The END of a request that lost an event. */
static bool take_broken(struct hd_inbox *b, struct hd_note *out)
{
    struct hd_inbox_slot *slot;

    pthread_mutex_lock(&b->lock);
    slot = b->broken;
    if (slot)
        b->broken = slot->next;
    pthread_mutex_unlock(&b->lock);
    if (!slot)
        return false;
    *out = (struct hd_note){.arg = slot->arg, .kind = HD_RUN_END, .finish = HD_FINISH_CANCELLED, .failed = true};
    hd_err_set(&out->err, HD_ERR_MEMORY, "no memory for what the model said");
    return true;
}

static void unpack(struct hd_inbox *b, void *out, size_t n)
{
    HD_ASSERT(b->at + n <= b->taking.n);
    memcpy(out, b->taking.s + b->at, n);
    b->at += n;
}

bool hd_inbox_take(struct hd_inbox *b, struct hd_note *out)
{
    struct packed head;

    if (b->at == b->taking.n) {
        struct hd_str empty;

        hd_str_reset(&b->taking);
        b->at = 0;
        pthread_mutex_lock(&b->lock);
        empty = b->taking;
        b->taking = b->filling;
        b->filling = empty;
        pthread_mutex_unlock(&b->lock);
        if (!b->taking.n)
            return take_broken(b, out);
    }
    unpack(b, &head, sizeof head);
    out->arg = head.arg;
    out->kind = head.kind;
    if (head.kind == HD_RUN_PROGRESS) {
        int64_t progress[3];

        unpack(b, progress, sizeof progress);
        out->done = progress[0];
        out->total = progress[1];
        out->cached = progress[2];
    } else if (head.kind == HD_RUN_END) {
        struct packed_end end;

        unpack(b, &end, sizeof end);
        out->finish = end.finish;
        out->failed = end.failed;
        out->n_generated = end.n_generated;
        out->n_drafted = end.n_drafted;
        out->n_accepted = end.n_accepted;
        out->queue_s = end.queue_s;
        out->prefill_s = end.prefill_s;
        out->decode_s = end.decode_s;
        if (end.failed)
            unpack(b, &out->err, sizeof out->err);
    } else {
        struct packed_pick pick;

        unpack(b, &pick, sizeof pick);
        out->pick.id = pick.id;
        out->pick.logprob = pick.logprob;
        out->pick.n_top = pick.n_top;
        unpack(b, out->pick.top_id, (size_t)pick.n_top * sizeof *out->pick.top_id);
        unpack(b, out->pick.top_logprob, (size_t)pick.n_top * sizeof *out->pick.top_logprob);
    }
    return true;
}
