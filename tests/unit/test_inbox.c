/* test_inbox.c: events on their way to the loop's thread: in order, and every request's END whatever memory there is. */
#include "support.h"

#include "base/fault.h"
#include "server/inbox.h"

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    ++*(int *)arg;
}

static void tell(struct hd_inbox_slot *slot, enum hd_run_kind kind, int32_t id)
{
    struct hd_pick pick = {.id = id};
    struct hd_run_event e = {.kind = kind, .pick = &pick, .finish = HD_FINISH_END, .done = id, .total = id};

    hd_inbox_event(slot, &e);
}

static void test_order(void **state)
{
    struct event_base *base = event_base_new();
    int woken = 0, a = 0, b = 0;
    struct hd_inbox box;
    struct hd_inbox_slot one = {.inbox = &box, .arg = &a}, two = {.inbox = &box, .arg = &b};
    struct hd_note n;

    assert_ok(hd_inbox_init(&box, base, on_wake, &woken, &test_err));
    tell(&one, HD_RUN_PROGRESS, 3);
    tell(&two, HD_RUN_TOKEN, 7);
    tell(&one, HD_RUN_END, 0);
    assert_true(hd_inbox_take(&box, &n) && n.arg == &a && n.kind == HD_RUN_PROGRESS && n.total == 3);
    assert_true(hd_inbox_take(&box, &n) && n.arg == &b && n.kind == HD_RUN_TOKEN && n.pick.id == 7);
    assert_true(hd_inbox_take(&box, &n) && n.arg == &a && n.kind == HD_RUN_END && !n.failed);
    assert_false(hd_inbox_take(&box, &n));
    event_base_loop(base, EVLOOP_NONBLOCK);
    assert_int_equal(woken, 1);
    hd_inbox_release(&box);
    event_base_free(base);
}

/* A token that found no memory: nothing of that request comes any more but an END that failed; others do not notice. */
static void test_lost(void **state)
{
    struct event_base *base = event_base_new();
    int woken = 0, a = 0, b = 0;
    struct hd_inbox box;
    struct hd_inbox_slot one = {.inbox = &box, .arg = &a}, two = {.inbox = &box, .arg = &b};
    struct hd_note n;

    assert_ok(hd_inbox_init(&box, base, on_wake, &woken, &test_err));
    hd_fault_arm(HD_FAULT_ALLOC, 0);
    tell(&one, HD_RUN_TOKEN, 1);
    hd_fault_disarm();
    tell(&two, HD_RUN_TOKEN, 2);
    tell(&one, HD_RUN_TOKEN, 3);
    tell(&one, HD_RUN_END, 0);
    tell(&two, HD_RUN_END, 0);
    assert_true(hd_inbox_take(&box, &n) && n.arg == &b && n.kind == HD_RUN_TOKEN && n.pick.id == 2);
    assert_true(hd_inbox_take(&box, &n) && n.arg == &b && n.kind == HD_RUN_END && !n.failed);
    assert_true(hd_inbox_take(&box, &n) && n.arg == &a && n.kind == HD_RUN_END && n.failed);
    assert_int_equal(n.err.code, HD_ERR_MEMORY);
    assert_false(hd_inbox_take(&box, &n));
    hd_inbox_release(&box);
    event_base_free(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order), cmocka_unit_test(test_lost)};

    return cmocka_run_group_tests_name("inbox", tests, NULL, NULL);
}
