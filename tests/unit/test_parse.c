/* test_parse.c: completions told apart: as the official parsers do, cut anywhere, damaged, and rendered back.
 *
 * Arguments are further files in the shape of tests/golden/chat/KIND/parse.json, named KIND:PATH (tools/golden/parse.py makes any number). */
#include "support.h"

#include "base/json.h"
#include "token/chat.h"
#include "token/parse.h"

static const char *const *more;
static int n_more;

static enum hd_parse_family family_of(const char *kind)
{
    static const char *const name[] = {"plain", "r1", "v31", "v4", "v41"};
    int i = 0;

    while (strncmp(kind, name[i], strlen(name[i])) || (kind[strlen(name[i])] && kind[strlen(name[i])] != ':'))
        i++;
    return (enum hd_parse_family)i;
}

/* Events as text, deltas of the same kind joined: what must not depend on the cuts. */
struct log {
    struct hd_parse_message m;
    struct hd_str text;
    int last, n_end, open;
};

static int on_event(void *arg, const struct hd_parse_event *e, struct hd_err *err)
{
    struct log *l = arg;
    bool delta = e->kind == HD_PARSE_REASONING || e->kind == HD_PARSE_CONTENT || e->kind == HD_PARSE_CALL_ARGS;

    assert_int_equal(l->n_end, 0);
    assert_true(!delta || e->text.n > 0);
    assert_true(e->kind != HD_PARSE_CALL_ARGS || l->open == e->index);
    if (e->kind == HD_PARSE_CALL_BEGIN) {
        assert_int_equal(l->open, -1);
        assert_int_equal(e->index, l->m.n_call);
        l->open = e->index;
    } else if (e->kind == HD_PARSE_CALL_END) {
        assert_int_equal(l->open, e->index);
        l->open = -1;
    } else if (e->kind == HD_PARSE_END) {
        assert_int_equal(l->open, -1);
        l->n_end++;
    }
    if (!delta || (int)e->kind != l->last)
        hd_str_printf(&l->text, "\n%d.%d ", e->kind, e->index);
    l->last = (int)e->kind;
    for (size_t i = 0; i < e->text.n;) {      /* whole characters only */
        int len;

        assert_true(hd_utf8_get(e->text.p + i, e->text.n - i, &len) >= 0);
        i += (size_t)len;
    }
    hd_str_add(&l->text, e->text.p, e->text.n);
    hd_str_printf(&l->text, "%.*s/%.*s/%.*s/%d/%d", (int)e->name.n, e->name.n ? e->name.p : "", (int)e->id.n, e->id.n ? e->id.p : "", (int)e->type.n,
                  e->type.n ? e->type.p : "", e->complete, e->how);
    if (delta)                        /* the marks above belong to whole events */
        l->text.n -= strlen("///0/0");
    return hd_parse_gather(&l->m, e, err);
}

static void log_init(struct log *l)
{
    memset(l, 0, sizeof *l);
    l->last = l->open = -1;
    hd_parse_message_init(&l->m);
    hd_str_init(&l->text, 0);
}

static void log_release(struct log *l)
{
    hd_parse_message_release(&l->m);
    hd_str_release(&l->text);
}

/* Pieces end where next() says; n_malformed returned. */
static int parse(struct log *l, enum hd_parse_family family, enum hd_parse_start start, const char *s, size_t n, size_t (*next)(size_t at, size_t n, void *arg), void *arg)
{
    struct hd_parse_options o = {.family = family, .start = start, .event = on_event, .arg = l};
    struct hd_parse *p = hd_malloc(sizeof *p);
    int bad;

    log_init(l);
    hd_parse_init(p, &o);
    for (size_t at = 0; at < n;) {
        size_t to = next ? next(at, n, arg) : n;
        char *copy = hd_malloc(to - at);      /* of exactly that size: sanitizers see further reads */

        memcpy(copy, s + at, to - at);
        assert_ok(hd_parse_feed(p, copy, to - at, false, &test_err));
        hd_free(copy);
        at = to;
    }
    assert_ok(hd_parse_finish(p, false, &test_err));
    assert_int_equal(l->n_end, 1);
    bad = p->n_malformed;
    hd_free(p);
    return bad;
}

static size_t by_one(size_t at, size_t n, void *arg)
{
    return at + 1;
}

static size_t one_cut(size_t at, size_t n, void *arg)
{
    size_t cut = *(size_t *)arg;

    return at < cut ? cut : n;
}

static uint64_t rng = 88172645463325252;

static size_t below(size_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng % n;
}

static size_t random_cut(size_t at, size_t n, void *arg)
{
    size_t len = 1 + below(*(size_t *)arg);

    return at + len < n ? at + len : n;
}

static void same_events(const struct log *want, enum hd_parse_family family, enum hd_parse_start start, const char *s, size_t n,
                        size_t (*next)(size_t, size_t, void *), void *arg)
{
    struct log l;

    parse(&l, family, start, s, n, next, arg);
    if (l.text.n != want->text.n || memcmp(hd_str_get(&l.text), hd_str_get(&want->text), l.text.n))
        fail_msg("cut, \"%.*s\" gives%s\ninstead of%s", (int)n, s, hd_str_get(&l.text), hd_str_get(&want->text));
    log_release(&l);
}

/* Byte by byte, in two at every place (short ones), in random pieces. */
static void every_split(enum hd_parse_family family, enum hd_parse_start start, const char *s, size_t n)
{
    struct log want;

    parse(&want, family, start, s, n, NULL, NULL);
    same_events(&want, family, start, s, n, by_one, NULL);
    for (size_t cut = 1; n < 400 && cut < n; cut++)
        same_events(&want, family, start, s, n, one_cut, &cut);
    for (size_t len = 2; len < 60; len = len * 3 / 2 + 1)
        same_events(&want, family, start, s, n, random_cut, &len);
    log_release(&want);
}

static void same_text(const char *what, const char *in, const struct hd_str *got, const json_t *want)
{
    const char *w = json_string_value(want);
    size_t n = json_string_length(want);

    if (got->n != n || (n && memcmp(hd_str_get(got), w, n)))
        fail_msg("%s of \"%s\":\n%s\nexpected\n%s", what, in, hd_str_get(got), w ? w : "");
}

static void check_case(enum hd_parse_family family, const json_t *c)
{
    const json_t *in = json_object_get(c, "text"), *want = json_object_get(c, "want"), *calls = json_object_get(want, "tool_calls");
    const char *s = json_string_value(in);
    enum hd_parse_start start = !strcmp(json_string_value(json_object_get(c, "start")), "reasoning") ? HD_PARSE_IN_REASONING : HD_PARSE_IN_CONTENT;
    struct log l;

    parse(&l, family, start, s, json_string_length(in), NULL, NULL);
    if (json_is_null(want)) {
        if (l.m.how == HD_PARSE_HOW_EOS)
            fail_msg("\"%s\" passes for well-formed:%s", s, hd_str_get(&l.text));
    } else {
        if (l.m.how == HD_PARSE_HOW_MALFORMED)
            fail_msg("\"%s\" passes for malformed:%s", s, hd_str_get(&l.text));
        same_text("reasoning", s, &l.m.reasoning, json_object_get(want, "reasoning_content"));
        same_text("content", s, &l.m.content, json_object_get(want, "content"));
        if (l.m.n_call != json_array_size(calls))
            fail_msg("\"%s\": %zu calls, expected %zu", s, l.m.n_call, json_array_size(calls));
        for (size_t i = 0; i < l.m.n_call; i++) {
            const json_t *f = json_object_get(json_array_get(calls, i), "function");

            same_text("name", s, &l.m.call[i].name, json_object_get(f, "name"));
            same_text("arguments", s, &l.m.call[i].arguments, json_object_get(f, "arguments"));
            assert_true(l.m.call[i].complete || l.m.how == HD_PARSE_HOW_CUT_CALL);
        }
    }
    log_release(&l);
    every_split(family, start, s, json_string_length(in));
}

static void check_cases(const char *kind, const char *path)
{
    json_t *cases = hd_json_read(path, (size_t)1 << 28, &test_err), *c;
    size_t i;

    assert_non_null(cases);
    assert_true(json_array_size(cases) >= 25);
    json_array_foreach(cases, i, c) check_case(family_of(kind), c);
    json_decref(cases);
}

static void test_golden(void **state)
{
    check_cases("v4", "tests/golden/chat/v4/parse.json");
    check_cases("v41", "tests/golden/chat/v41/parse.json");
    check_cases("r1", "tests/golden/chat/r1/parse.json");
    for (int i = 0; i < n_more; i++)
        check_cases(more[i], strchr(more[i], ':') + 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden)};

    more = (const char *const *)argv + 1;
    n_more = argc - 1;
    return cmocka_run_group_tests_name("parse", tests, NULL, NULL);
}
