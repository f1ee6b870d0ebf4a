/* test_parse.c: completions told apart: as the official parsers do, cut anywhere, damaged, and rendered back.
 *
 * Arguments are further files in the shape of tests/golden/chat/KIND/parse.json, named KIND:PATH (tools/golden/parse.py makes any number). */
#include "draw.h"
#include "support.h"

#include "base/json.h"
#include "token/chat.h"
#include "token/chat_r1.h"
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
    if (e->kind == HD_PARSE_CALL_ARGS && l->open != e->index)
        fail_msg("arguments of call %d outside of it:%s", e->index, hd_str_get(&l->text));
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

static size_t below(size_t n)
{
    return draw_bits() % n;
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
    for (size_t cut = 1; n < 240 && cut < n; cut++)
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

/* ---- written by hand ---- */

#define D "｜DSML｜"
#define EOS "<｜end▁of▁sentence｜>"
#define OPEN "\n\n<" D "tool_calls>\n"
#define CLOSE "</" D "tool_calls>"
#define INVOKE(name) "<" D "invoke name=\"" name "\">\n"
#define STR(key, value) "<" D "parameter name=\"" key "\" string=\"true\">" value "</" D "parameter>\n"
#define RAW(key, value) "<" D "parameter name=\"" key "\" string=\"false\">" value "</" D "parameter>\n"
#define END "</" D "invoke>\n"
#define R1_CALLS "<｜tool▁calls▁begin｜>"
#define R1_CALLS_END "<｜tool▁calls▁end｜>"
#define R1_CALL "<｜tool▁call▁begin｜>"
#define R1_CALL_END "<｜tool▁call▁end｜>"
#define R1_SEP "<｜tool▁sep｜>"
#define EOS_ HD_PARSE_HOW_EOS
#define BAD HD_PARSE_HOW_MALFORMED
#define CUT_R HD_PARSE_HOW_CUT_REASONING
#define CUT_C HD_PARSE_HOW_CUT_CONTENT
#define CUT_T HD_PARSE_HOW_CUT_CALL

/* calls: name(arguments) joined by a space, "!" behind one that is not complete */
static const struct by_hand {
    enum hd_parse_family family;
    enum hd_parse_start start;
    const char *in, *reasoning, *content, *calls;
    enum hd_parse_how how;
} by_hand[] = {
    /* plain */
    {HD_PARSE_PLAIN, 0, "a</think>" EOS "<" D "x", "", "a</think>" EOS "<" D "x", "", CUT_C},
    {HD_PARSE_PLAIN, 0, "", "", "", "", CUT_C},
    /* ends */
    {HD_PARSE_V4, 0, "hi" EOS, "", "hi", "", EOS_},
    {HD_PARSE_V4, 0, "hi", "", "hi", "", CUT_C},
    {HD_PARSE_V4, 1, "hm", "hm", "", "", CUT_R},
    {HD_PARSE_V4, 1, "hm" EOS, "hm", "", "", BAD},
    {HD_PARSE_V4, 1, "hm</think>hi" EOS, "hm", "hi", "", EOS_},
    {HD_PARSE_V4, 1, "\nhm\n</think>\n\nhi\n" EOS, "\nhm\n", "\n\nhi\n", "", EOS_},
    {HD_PARSE_V4, 0, "hi" EOS "more", "", "hi", "", BAD},
    {HD_PARSE_V4, HD_PARSE_IN_TASK, "Search" EOS, "", "Search", "", HD_PARSE_HOW_TASK},
    {HD_PARSE_V4, HD_PARSE_IN_TASK, "Sea", "", "Sea", "", CUT_C},
    /* what looks like markers */
    {HD_PARSE_V4, 0, "<|DSM </thinkx> <｜DSM <｜end▁of \n\n<" EOS, "", "<|DSM </thinkx> <｜DSM <｜end▁of \n\n<", "", EOS_},
    {HD_PARSE_V4, 0, "<<<think<</think<" EOS, "", "<<<think<</think<", "", EOS_},
    {HD_PARSE_V4, 1, "</think</think></think" EOS, "</think", "</think", "", EOS_},
    {HD_PARSE_V4, 0, "a\n\n\n<｜DSML\n", "", "a\n\n\n<｜DSML\n", "", CUT_C},
    {HD_PARSE_V4, 0, "&lt;&amp;" OPEN INVOKE("f") STR("k", "&lt;") END CLOSE EOS, "", "&lt;&amp;", "f({\"k\": \"&lt;\"})", EOS_},
    /* stray markers */
    {HD_PARSE_V4, 0, "a</think>b" EOS, "", "ab", "", BAD},
    {HD_PARSE_V4, 0, "a<think>b" EOS, "", "a<think>b", "", BAD},
    {HD_PARSE_V4, 0, "<think>a</think>b" EOS, "a", "b", "", BAD},
    {HD_PARSE_V4, 1, "<think>a</think>b" EOS, "a", "b", "", BAD},
    {HD_PARSE_V4, 0, "a " D " b" EOS, "", "a " D " b", "", BAD},
    {HD_PARSE_V4, 0, "a</" D "invoke>" EOS, "", "a</" D "invoke>", "", BAD},
    {HD_PARSE_V4, 0, "<｜begin▁of▁sentence｜>a" EOS, "", "<｜begin▁of▁sentence｜>a", "", BAD},
    /* calls */
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "\n" END CLOSE EOS, "", "", "f({})", EOS_},
    {HD_PARSE_V4, 0, "a\n" OPEN INVOKE("f") STR("k", "v\n\"\\\x01") RAW("n", "[1, {\"a\": null}]") END INVOKE("g") RAW("", "-1.5e+3") END CLOSE EOS, "", "a\n",
     "f({\"k\": \"v\\n\\\"\\\\\\u0001\", \"n\": [1, {\"a\": null}]}) g({\"\": -1.5e+3})", EOS_},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") STR("k", "1 < 2 </ </｜DSM <" D "invoke> <think></think>") END CLOSE, "", "", "f({\"k\": \"1 < 2 </ </｜DSM <" D "invoke> <think></think>\"})", EOS_},
    {HD_PARSE_V4, 0, OPEN INVOKE("say \"x\"") STR("a\"b", "true") END CLOSE EOS, "", "", "say \"x\"({\"a\\\"b\": \"true\"})", EOS_},
    {HD_PARSE_V4, 0, OPEN CLOSE EOS, "", "", "", EOS_},
    {HD_PARSE_V4, HD_PARSE_IN_CALLS, INVOKE("f") STR("k", "v") END CLOSE EOS, "", "", "f({\"k\": \"v\"})", EOS_},
    {HD_PARSE_V4, HD_PARSE_IN_CALLS, "I will not" EOS, "", "I will not", "", BAD},
    {HD_PARSE_V41, 0, "a\n\n<" D " calls>\n<" D " invoke name=\"f\">\n<" D " parameter name=\"k\" string=\"true\">v</" D " parameter>\n</" D " invoke>\n</" D " calls>" EOS, "", "a",
     "f({\"k\": \"v\"})", EOS_},
    /* other names for the tags, fewer newlines, no block, no end of reasoning */
    {HD_PARSE_V41, 0, "a" OPEN INVOKE("f") STR("k", "v") END CLOSE EOS, "", "a", "f({\"k\": \"v\"})", BAD},
    {HD_PARSE_V4, 0, "a\n\n<" D "function_calls>\n" INVOKE("f") END "</" D "function_calls>" EOS, "", "a", "f({})", BAD},
    {HD_PARSE_V4, 0, "a\n\n<" D "toolcalls>\n" INVOKE("f") END "</" D "toolcalls>" EOS, "", "a", "f({})", BAD},
    {HD_PARSE_V4, 0, "a\n<" D "tool_calls>\n" INVOKE("f") END CLOSE EOS, "", "a", "f({})", BAD},
    {HD_PARSE_V4, 0, "a " INVOKE("f") STR("k", "v") END EOS, "", "a ", "f({\"k\": \"v\"})", BAD},
    {HD_PARSE_V4, 1, "hm" OPEN INVOKE("f") END CLOSE EOS, "hm", "", "f({})", BAD},
    {HD_PARSE_V4, 1, "one writes <" D "tool_calls> and so on.</think>yes" EOS, "one writes <" D "tool_calls> and so on.", "yes", "", BAD},
    {HD_PARSE_V4, 1, "one writes <" D "invoke name=\"f\" so</think>yes" EOS, "one writes <" D "invoke name=\"f\" so", "yes", "", BAD},
    /* text where none belongs */
    {HD_PARSE_V4, 0, OPEN "so: " INVOKE("f") "x" STR("k", "v") "y\n" END "z" CLOSE "bye" EOS, "", "", "f({\"k\": \"v\"})", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") END CLOSE OPEN INVOKE("g") END CLOSE EOS, "", "", "f({}) g({})", BAD},
    {HD_PARSE_V4, 0, "a" OPEN "nothing here\n" CLOSE "b" EOS, "", "a" OPEN "nothing here\n" CLOSE "b", "", BAD},
    {HD_PARSE_V4, 0, "a" OPEN "<" D "invoke>x" EOS, "", "a" OPEN "<" D "invoke>x", "", BAD},
    {HD_PARSE_V4, 0, "a" OPEN "{\"name\": 1}" EOS, "", "a" OPEN "{\"name\": 1}", "", BAD},
    /* tags that are not closed */
    {HD_PARSE_V4, 0, OPEN INVOKE("f") STR("k", "v") INVOKE("g") STR("k", "w") END CLOSE EOS, "", "", "f({\"k\": \"v\"})! g({\"k\": \"w\"})", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter name=\"k\" string=\"true\">v" END CLOSE EOS, "", "", "f({\"k\": \"v\"})", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter name=\"k\" string=\"true\">v" CLOSE EOS, "", "", "f({\"k\": \"v\"})!", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") STR("k", "v") CLOSE EOS, "", "", "f({\"k\": \"v\"})!", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") STR("k", "v") EOS, "", "", "f({\"k\": \"v\"})!", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") STR("k", "v") "</" D "invoke" INVOKE("g") END CLOSE EOS, "", "", "f({\"k\": \"v\"}) g({})", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter name=\"k" STR("l", "v") END CLOSE EOS, "", "", "f({\"l\": \"v\"})", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter>v</" D "parameter>\n" END CLOSE EOS, "", "", "f({})", BAD},
    /* cut */
    {HD_PARSE_V4, 0, "a\n\n", "", "a\n\n", "", CUT_C},
    {HD_PARSE_V4, 0, "a\n\n<" D "tool", "", "a\n\n<" D "tool", "", CUT_T},
    {HD_PARSE_V4, 0, "a" OPEN "<" D "invoke name=\"f", "", "a" OPEN "<" D "invoke name=\"f", "", CUT_T},
    {HD_PARSE_V4, 0, "a" OPEN INVOKE("f"), "", "a", "f({})!", CUT_T},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter name=\"k\" str", "", "", "f({})!", CUT_T},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter name=\"k\" string=\"true\">v\xe4\xb8", "", "", "f({\"k\": \"v\xEF\xBF\xBD\xEF\xBF\xBD\"})!", CUT_T},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter name=\"k\" string=\"false\">[1, {\"a\": tr", "", "", "f({\"k\": [1, {\"a\": true}]})!", CUT_T},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter name=\"k\" string=\"false\">{\"a\": \"b\\u00", "", "", "f({\"k\": {\"a\": \"b\\u0000\"}})!", CUT_T},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter name=\"k\" string=\"false\">{\"a\"", "", "", "f({\"k\": {\"a\":null}})!", CUT_T},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter name=\"k\" string=\"false\">-", "", "", "f({\"k\": \"-\"})!", CUT_T},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") STR("k", "v") END, "", "", "f({\"k\": \"v\"})", CUT_T},
    /* values */
    {HD_PARSE_V4, 0, OPEN INVOKE("f") STR("k", "007") STR("l", "null") STR("m", "") END CLOSE EOS, "", "", "f({\"k\": \"007\", \"l\": \"null\", \"m\": \"\"})", EOS_},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") RAW("k", " 7 ") RAW("l", "\"x\"") END CLOSE EOS, "", "", "f({\"k\":  7 , \"l\": \"x\"})", EOS_},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") RAW("k", "hello \"x\"") RAW("l", "") RAW("m", "007") RAW("n", "12 apples") END CLOSE EOS, "", "",
     "f({\"k\": \"hello \\\"x\\\"\", \"l\": \"\", \"m\": \"007\", \"n\": \"12 apples\"})", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") RAW("k", "[\"a\nb\"]") END CLOSE EOS, "", "", "f({\"k\": [\"a\\nb\"]})", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") RAW("k", "[1") RAW("l", "{}") END CLOSE EOS, "", "", "f({\"k\": [1], \"l\": {}})", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") RAW("k", "{a: 1}") END CLOSE EOS, "", "", "f({\"k\": {a: 1}})!", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") STR("k", "1") STR("k", "2") END CLOSE EOS, "", "", "f({\"k\": \"1\", \"k\": \"2\"})", BAD},
    {HD_PARSE_V4, 0, OPEN INVOKE("f") "<" D "parameter name=\"k\">text</" D "parameter>\n<" D "parameter name=\"l\">[1]</" D "parameter>\n" END CLOSE EOS, "", "",
     "f({\"k\": \"text\", \"l\": [1]})", BAD},
    {HD_PARSE_V4, 0, "\xff\xe4\xb8" "a\xe4\xb8\xad" EOS, "", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD" "a\xe4\xb8\xad", "", EOS_},
    /* V3, R1 */
    {HD_PARSE_R1, 1, "hm\n</think>\n\nhi" EOS, "hm", "hi", "", EOS_},
    {HD_PARSE_R1, 0, "<think>\nhm\n</think>\n\nhi\n" EOS, "hm", "hi\n", "", EOS_},
    {HD_PARSE_R1, 1, "\nhm\n\n</think>\n\n\nhi" EOS, "hm\n", "\nhi", "", EOS_},
    {HD_PARSE_R1, 1, "hm\n</thinkx", "hm\n</thinkx", "", "", CUT_R},
    {HD_PARSE_R1, 0, "a" R1_CALLS R1_CALL "function" R1_SEP "f\n```json\n{\"k\": \"```\"}\n```" R1_CALL_END "\n" R1_CALL "function" R1_SEP "g\n```json\n{}\n```" R1_CALL_END R1_CALLS_END EOS,
     "", "a", "f({\"k\": \"```\"}) g({})", EOS_},
    {HD_PARSE_R1, 0, R1_CALLS R1_CALL "function" R1_SEP "f\n```json\nnot json\n```" R1_CALL_END R1_CALLS_END EOS, "", "", "f(not json)!", EOS_},
    {HD_PARSE_R1, 0, R1_CALL "function" R1_SEP "f\n```json\n{}\n```" R1_CALL_END EOS, "", "", "f({})", BAD},
    {HD_PARSE_R1, 0, R1_CALLS R1_CALL "function" R1_SEP "f\n```json\n{\"a\": [1\n```" R1_CALL_END R1_CALLS_END EOS, "", "", "f({\"a\": [1)!", EOS_},
    {HD_PARSE_R1, 0, R1_CALLS R1_CALL "function" R1_SEP "f\n```json\n{\"a\": [1", "", "", "f({\"a\": [1]})!", CUT_T},
    {HD_PARSE_R1, 0, R1_CALLS R1_CALL "function" R1_SEP "f\n```json\n", "", "", "f({})!", CUT_T},
    {HD_PARSE_R1, 0, "a" R1_CALLS R1_CALL "function" R1_SEP "f\n``", "", "a" R1_CALLS R1_CALL "function" R1_SEP "f\n``", "", CUT_T},
    {HD_PARSE_R1, 0, "a" R1_CALLS "b" EOS, "", "a" R1_CALLS "b", "", BAD},
    {HD_PARSE_R1, 0, R1_CALLS R1_CALL "function" R1_SEP "f" R1_CALL_END R1_CALLS_END EOS, "", "", "f({})!", BAD},
    {HD_PARSE_R1, 0, R1_CALLS R1_CALL "f" R1_SEP "{\"a\": 1}" R1_CALL_END R1_CALLS_END EOS, "", "", "f({\"a\": 1})", BAD},
    {HD_PARSE_R1, 0, R1_CALLS R1_CALL "function" R1_SEP "f\n```json\n{}" R1_CALL "function" R1_SEP "g\n```json\n{}\n```" R1_CALL_END R1_CALLS_END EOS, "", "", "f({})! g({})", BAD},
    {HD_PARSE_R1, 0, "a" R1_SEP R1_CALL_END "b" EOS, "", "a" R1_SEP R1_CALL_END "b", "", BAD},
    {HD_PARSE_R1, 0, "<" D "invoke name=\"f\">" EOS, "", "<" D "invoke name=\"f\">", "", EOS_},
    {HD_PARSE_R1, 1, "so" R1_CALLS R1_CALL "function" R1_SEP "f\n```json\n{}\n```" R1_CALL_END R1_CALLS_END EOS, "so", "", "f({})", BAD},
    /* V3.1 */
    {HD_PARSE_V31, 0, "a" R1_CALLS R1_CALL "f" R1_SEP "{\"a\": 1}" R1_CALL_END R1_CALL "g" R1_SEP "{}" R1_CALL_END R1_CALLS_END EOS, "", "a", "f({\"a\": 1}) g({})", EOS_},
    {HD_PARSE_V31, 1, "hm\n</think>\nhi" EOS, "hm\n", "\nhi", "", EOS_},
    {HD_PARSE_V31, 0, "a" R1_CALLS R1_CALL "f" R1_SEP "{\"a\": \"x", "", "a", "f({\"a\": \"x\"})!", CUT_T},
    {HD_PARSE_V31, 0, "a" R1_CALLS R1_CALL "f", "", "a" R1_CALLS R1_CALL "f", "", CUT_T},
};

static void calls_text(const struct hd_parse_message *m, struct hd_str *out)
{
    for (size_t i = 0; i < m->n_call; i++)
        hd_str_printf(out, "%s%s(%s)%s", i ? " " : "", hd_str_get(&m->call[i].name), hd_str_get(&m->call[i].arguments), m->call[i].complete ? "" : "!");
}

static void test_by_hand(void **state)
{
    for (int i = 0; i < HD_LEN(by_hand); i++) {
        const struct by_hand *b = &by_hand[i];
        struct hd_str calls;
        struct log l;
        int bad = parse(&l, b->family, b->start, b->in, strlen(b->in), NULL, NULL);

        hd_str_init(&calls, 0);
        calls_text(&l.m, &calls);
        if (strcmp(hd_str_get(&l.m.reasoning), b->reasoning) || strcmp(hd_str_get(&l.m.content), b->content) || strcmp(hd_str_get(&calls), b->calls) || l.m.how != b->how)
            fail_msg("\"%s\":%s\n%s, expected reasoning \"%s\" content \"%s\" calls \"%s\", %s", b->in, hd_str_get(&l.text), hd_parse_how_name(l.m.how), b->reasoning, b->content,
                     b->calls, hd_parse_how_name(b->how));
        assert_true((l.m.how == BAD) <= (bad > 0));
        hd_str_release(&calls);
        log_release(&l);
        every_split(b->family, b->start, b->in, strlen(b->in));
    }
}

/* Text leaves as soon as it cannot be a marker: what is held is the beginning of one, or of a character. */
static void test_early(void **state)
{
    static const struct {
        const char *in, *content;
    } step[] = {{"a", "a"}, {"b<", "ab"}, {"｜DSM", "ab"}, {"X", "ab<｜DSMX"}, {"\n\n", "ab<｜DSMX"}, {"\n", "ab<｜DSMX\n"}, {"c\xe4\xb8", "ab<｜DSMX\n\n\nc"}, {"\xad", "ab<｜DSMX\n\n\nc中"}};
    static const char *const args[][2] = {{OPEN INVOKE("f"), ""}, {"<" D "parameter name=\"k\" string=\"true\">", "{\"k\": \""}, {"a", "{\"k\": \"a"}, {"\n<", "{\"k\": \"a\\n"},
                                          {"b", "{\"k\": \"a\\n<b"}, {"</" D "parameter>\n", "{\"k\": \"a\\n<b\""}};
    struct log l;
    struct hd_parse_options o = {.family = HD_PARSE_V4, .event = on_event, .arg = &l};
    struct hd_parse p;

    log_init(&l);
    hd_parse_init(&p, &o);
    for (int i = 0; i < HD_LEN(step); i++) {
        assert_ok(hd_parse_feed(&p, step[i].in, strlen(step[i].in), false, &test_err));
        assert_string_equal(hd_str_get(&l.m.content), step[i].content);
    }
    for (int i = 0; i < HD_LEN(args); i++) {
        assert_ok(hd_parse_feed(&p, args[i][0], strlen(args[i][0]), false, &test_err));
        assert_int_equal(l.m.n_call, 1);
        assert_string_equal(hd_str_get(&l.m.call[0].arguments), args[i][1]);
    }
    assert_ok(hd_parse_finish(&p, false, &test_err));
    assert_string_equal(hd_str_get(&l.m.call[0].arguments), "{\"k\": \"a\\n<b\"}");
    log_release(&l);
}

/* Spelled by ordinary tokens, a marker is text; so is markup of calls where the request has no tools. */
static void test_literal(void **state)
{
    static const char spelled[] = "</think>" EOS OPEN INVOKE("f") END CLOSE;
    struct log l;
    struct hd_parse_options o = {.family = HD_PARSE_V4, .start = HD_PARSE_IN_REASONING, .event = on_event, .arg = &l};
    struct hd_parse p;

    log_init(&l);
    hd_parse_init(&p, &o);
    assert_ok(hd_parse_feed(&p, spelled, sizeof spelled - 1, true, &test_err));
    assert_ok(hd_parse_feed(&p, "</think>", 8, false, &test_err));
    assert_ok(hd_parse_feed(&p, spelled, sizeof spelled - 1, true, &test_err));
    assert_ok(hd_parse_feed(&p, "\n\n<", 3, true, &test_err));
    assert_ok(hd_parse_feed(&p, D, strlen(D), false, &test_err));
    assert_ok(hd_parse_feed(&p, "tool_calls>\n<", 13, true, &test_err));
    assert_ok(hd_parse_feed(&p, D, strlen(D), false, &test_err));
    assert_ok(hd_parse_feed(&p, "invoke name=\"g\">\n\n</", 20, true, &test_err));
    assert_ok(hd_parse_feed(&p, D, strlen(D), false, &test_err));
    assert_ok(hd_parse_feed(&p, "invoke>\n</", 10, true, &test_err));
    assert_ok(hd_parse_feed(&p, D, strlen(D), false, &test_err));
    assert_ok(hd_parse_feed(&p, "tool_calls>", 11, true, &test_err));
    assert_ok(hd_parse_finish(&p, true, &test_err));
    assert_string_equal(hd_str_get(&l.m.reasoning), spelled);
    assert_string_equal(hd_str_get(&l.m.content), spelled);
    assert_int_equal(l.m.n_call, 1);
    assert_int_equal(l.m.how, HD_PARSE_HOW_EOS);
    log_release(&l);

    log_init(&l);
    o.no_tools = true;
    hd_parse_init(&p, &o);
    assert_ok(hd_parse_feed(&p, spelled, sizeof spelled - 1, false, &test_err));
    assert_true(hd_parse_ended(&p));
    assert_ok(hd_parse_finish(&p, true, &test_err));
    log_release(&l);
    log_init(&l);
    hd_parse_init(&p, &o);
    assert_ok(hd_parse_feed(&p, "x</think>a" OPEN INVOKE("f"), strlen("x</think>a" OPEN INVOKE("f")), false, &test_err));
    assert_ok(hd_parse_finish(&p, true, &test_err));
    assert_string_equal(hd_str_get(&l.m.content), "a" OPEN INVOKE("f"));
    log_release(&l);
}

static void test_starts(void **state)
{
    static const struct {
        enum hd_parse_family family;
        const char *prompt;
        enum hd_parse_start start;
    } c[] = {{HD_PARSE_V4, "x<｜Assistant｜><think>", HD_PARSE_IN_REASONING}, {HD_PARSE_V4, "x<｜Assistant｜></think>", HD_PARSE_IN_CONTENT},
             {HD_PARSE_V4, "</think>\n\n<" D "tool_calls>\n", HD_PARSE_IN_CALLS}, {HD_PARSE_V41, "</think>\n\n<" D " calls>\n", HD_PARSE_IN_CALLS},
             {HD_PARSE_V4, "x<｜title｜>", HD_PARSE_IN_TASK}, {HD_PARSE_R1, "<｜Assistant｜><think>\n", HD_PARSE_IN_REASONING}, {HD_PARSE_R1, "<｜Assistant｜>", HD_PARSE_IN_CONTENT},
             {HD_PARSE_PLAIN, "<think>", HD_PARSE_IN_CONTENT}, {HD_PARSE_V4, "", HD_PARSE_IN_CONTENT}};

    for (int i = 0; i < HD_LEN(c); i++)
        assert_int_equal(hd_parse_start(c[i].family, c[i].prompt, strlen(c[i].prompt)), c[i].start);
    assert_int_equal(hd_parse_family("deepseek-v4.1"), HD_PARSE_V41);
    assert_int_equal(hd_parse_family("chatml"), HD_PARSE_PLAIN);
    assert_int_equal(hd_parse_family(NULL), HD_PARSE_PLAIN);
}

/* ---- damaged at random: every cut the same, calls well nested, JSON where complete says so ---- */

static const char *const scrap[] = {EOS, "</think>", "<think>", "\n\n<" D, "<" D, "</" D, D, "tool_calls>\n", "invoke name=\"", "f\">\n", "parameter name=\"", "k\" string=\"true\">",
                                    "k\" string=\"false\">", "{\"a\": [1, ", "]}", "tru", "\"", ">\n", "\n", "text", "\xe4\xb8\xad", "\xe4", "\xff", "parameter>\n", "invoke>\n", " calls>\n",
                                    " invoke name=\"g\">\n", R1_CALLS, R1_CALL, R1_CALL_END, R1_CALLS_END, R1_SEP, "function", "\n```json\n", "\n```", "{}", "\\", "&lt;"};

static void test_scraps(void **state)
{
    for (int round = 0; round < 4000; round++) {
        enum hd_parse_family family = (enum hd_parse_family)below(5);
        enum hd_parse_start start = (enum hd_parse_start)below(4);
        struct hd_str s;
        struct log l;

        hd_str_init(&s, 0);
        for (size_t n = 1 + below(24); n; n--)
            hd_str_puts(&s, scrap[below((size_t)HD_LEN(scrap) - (below(4) > 0))]);
        parse(&l, family, start, hd_str_get(&s), s.n, NULL, NULL);
        for (size_t i = 0; i < l.m.n_call; i++) {
            json_t *v = json_loadb(hd_str_get(&l.m.call[i].arguments), l.m.call[i].arguments.n, JSON_ALLOW_NUL, NULL);

            if (l.m.call[i].complete && !json_is_object(v))
                fail_msg("\"%s\": these are complete: %s", hd_str_get(&s), hd_str_get(&l.m.call[i].arguments));
            json_decref(v);
        }
        log_release(&l);
        if (round % 8 == 0)
            every_split(family, start, hd_str_get(&s), s.n);
        else
            every_split(family, start, hd_str_get(&s), s.n < 60 ? s.n : 60);
        hd_str_release(&s);
    }
}

/* Linear: 4 MB of what is worst take seconds at most, in a struct that does not grow. */
static void test_long(void **state)
{
    static const char *const worst[] = {"<", "\n", "<｜DSML｜invoke name=\"", "</think", "\n\n<｜DSML", "a", "<｜end▁of▁sentence", R1_CALLS};

    for (int i = 0; i < HD_LEN(worst); i++) {
        struct hd_str s;
        struct log l;

        hd_str_init(&s, 0);
        while (s.n < (size_t)1 << 20)
            hd_str_puts(&s, worst[i]);
        parse(&l, i == HD_LEN(worst) - 1 ? HD_PARSE_R1 : HD_PARSE_V4, HD_PARSE_IN_CONTENT, hd_str_get(&s), s.n, NULL, NULL);
        assert_true(l.m.content.n == s.n);
        log_release(&l);
        hd_str_release(&s);
    }
}

/* ---- rendered and read again ---- */

static struct hd_tokenizer *open_kind(const char *kind)
{
    struct hd_tokenizer *t;
    char path[128];

    snprintf(path, sizeof path, "tests/golden/chat/%s", kind);
    assert_ok(hd_tokenizer_open(&t, path, 0, &test_err));
    return t;
}

static void render(const struct hd_tokenizer *t, const json_t *doc, struct hd_chat_text *c)
{
    struct hd_chat_options opt = {0};

    hd_chat_text_init(c);
    assert_ok(hd_chat_render(t, doc, &opt, c, &test_err));
}

/* What was rendered behind from, fed as the tokens would come: only the format's own markers are markers. */
static json_t *read_back(enum hd_parse_family family, const struct hd_chat_text *c, size_t from, enum hd_parse_how *how)
{
    struct log l;
    struct hd_parse_options o = {.family = family, .start = hd_parse_start(family, hd_str_get(&c->text), from), .event = on_event, .arg = &l};
    struct hd_parse p;
    json_t *m;

    log_init(&l);
    hd_parse_init(&p, &o);
    for (size_t i = 0; i < c->n_span; i++) {
        size_t begin = c->span[i].begin > from ? c->span[i].begin : from;

        if (c->span[i].end > begin)
            assert_ok(hd_parse_feed(&p, hd_str_get(&c->text) + begin, c->span[i].end - begin, !c->span[i].marker, &test_err));
    }
    assert_ok(hd_parse_finish(&p, false, &test_err));
    assert_non_null(m = hd_parse_message_json(&l.m));
    *how = l.m.how;
    log_release(&l);
    return m;
}

static void same_value(const json_t *m, const json_t *back, const char *key)
{
    const json_t *a = json_object_get(m, key), *b = json_object_get(back, key);

    assert_string_equal(json_is_string(a) ? json_string_value(a) : "", json_is_string(b) ? json_string_value(b) : "");
}

/* The answer at place i: read from its rendering, it renders to the same bytes. false: nothing was asked there. */
static bool check_fixed_point(const struct hd_tokenizer *t, enum hd_parse_family family, const json_t *doc, size_t i)
{
    json_t *before = json_deep_copy(doc), *with = json_deep_copy(doc), *list = json_object_get(before, "messages"), *m, *back;
    struct hd_chat_text a, b, c;
    enum hd_parse_how how;
    size_t from;

    while (json_array_size(list) > i)
        json_array_remove(list, i);
    list = json_object_get(with, "messages");
    while (json_array_size(list) > i + 1)
        json_array_remove(list, i + 1);
    m = json_array_get(list, i);
    render(t, before, &a);
    render(t, with, &b);
    from = a.text.n;
    if (b.text.n < from || memcmp(hd_str_get(&a.text), hd_str_get(&b.text), from) ||
        (!memmem(hd_str_get(&a.text) + (from > 40 ? from - 40 : 0), from > 40 ? 40 : from, "think>", 6) && hd_parse_start(family, hd_str_get(&a.text), from) != HD_PARSE_IN_TASK)) {
        hd_chat_text_release(&a);
        hd_chat_text_release(&b);
        json_decref(before);
        json_decref(with);
        return false;
    }
    back = read_back(family, &b, from, &how);
    if (json_is_true(json_object_get(m, "wo_eos")) || json_is_true(json_object_get(m, "prefix")))
        json_object_set_new(back, "wo_eos", json_true());
    else if (how != HD_PARSE_HOW_EOS && how != HD_PARSE_HOW_TASK)
        fail_msg("%s: %s", hd_str_get(&b.text) + from, hd_parse_how_name(how));
    same_value(m, back, "content");
    if (hd_parse_start(family, hd_str_get(&a.text), from) == HD_PARSE_IN_REASONING)
        same_value(m, back, "reasoning_content");
    assert_int_equal(json_array_size(json_object_get(m, "tool_calls")), json_array_size(json_object_get(back, "tool_calls")));
    json_array_set(list, i, back);
    render(t, with, &c);
    if (c.text.n != b.text.n || memcmp(hd_str_get(&b.text), hd_str_get(&c.text), b.text.n))
        fail_msg("rendered:\n%s\nread and rendered again:\n%s", hd_str_get(&b.text) + from, hd_str_get(&c.text) + from);
    json_decref(back);
    hd_chat_text_release(&a);
    hd_chat_text_release(&b);
    hd_chat_text_release(&c);
    json_decref(before);
    json_decref(with);
    return true;
}

static int check_turns(const struct hd_tokenizer *t, enum hd_parse_family family, const json_t *doc)
{
    const json_t *list = json_object_get(doc, "messages");
    int n = 0;

    for (size_t i = 1; i < json_array_size(list); i++)
        if (!strcmp(json_string_value(json_object_get(json_array_get(list, i), "role")), "assistant"))
            n += check_fixed_point(t, family, doc, i);
    return n;
}

static void fixed_points_of_cases(const char *kind)
{
    struct hd_tokenizer *t = open_kind(kind);
    char path[128];
    json_t *cases, *c;
    size_t i;
    int n = 0;

    snprintf(path, sizeof path, "tests/golden/chat/%s/cases.json", kind);
    assert_non_null(cases = hd_json_read(path, (size_t)1 << 26, &test_err));
    json_array_foreach(cases, i, c) n += check_turns(t, family_of(kind), json_object_get(c, "doc"));
    assert_true(n >= 100);
    json_decref(cases);
    hd_tokenizer_free(t);
}

/* Texts of scraps: spelled markers among them, which must stay text. */
static json_t *random_text(void)
{
    struct hd_str s;
    json_t *out;

    hd_str_init(&s, 0);
    for (size_t n = below(5); n; n--) {
        const char *p = scrap[below(HD_LEN(scrap))];

        hd_str_puts(&s, !strcmp(p, "\xe4") || !strcmp(p, "\xff") ? "中" : p);
    }
    out = json_stringn(hd_str_get(&s), s.n);
    hd_str_release(&s);
    return out;
}

static json_t *random_value(int depth)
{
    json_t *v;

    switch (below(depth > 3 ? 5 : 8)) {
    case 0: return random_text();
    case 1: return json_integer((json_int_t)below(1000) - 500);
    case 2: return json_real((double)below(1u << 20) / 64);
    case 3: return json_boolean(below(2));
    case 4: return json_null();
    case 5:
        v = json_array();
        for (size_t n = below(4); n; n--)
            json_array_append_new(v, random_value(depth + 1));
        return v;
    default:
        v = json_object();
        for (size_t n = below(4); n; n--) {
            json_t *key = random_text();

            if (!strstr(json_string_value(key), "\">") && !strstr(json_string_value(key), " string="))
                json_object_set_new(v, json_string_value(key), random_value(depth + 1));
            json_decref(key);
        }
        return v;
    }
}

static json_t *random_call(void)
{
    static const char *const names[] = {"f", "打开", "ns::get", "a \"b\""};
    json_t *args = random_value(4), *out;
    char *text;

    while (!json_is_object(args)) {
        json_decref(args);
        args = random_value(0);
    }
    text = json_dumps(args, below(2) ? JSON_COMPACT : JSON_ENSURE_ASCII);
    out = json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", "x", "type", "function", "function", "name", names[below(4)], "arguments", below(12) ? text : "not json");
    hd_free(text);
    json_decref(args);
    return out;
}

static void random_fixed_points(const char *kind)
{
    static const char *const thinking[] = {"on", "off", "max"};
    struct hd_tokenizer *t = open_kind(kind);
    int n = 0;

    for (int round = 0; round < 600; round++) {
        json_t *m = json_pack("{s:s, s:o, s:o}", "role", "assistant", "content", random_text(), "reasoning_content", random_text()), *doc;

        if (below(3)) {
            json_object_set_new(m, "tool_calls", json_array());
            for (size_t k = 1 + below(3); k; k--)
                json_array_append_new(json_object_get(m, "tool_calls"), random_call());
        }
        doc = json_pack("{s:[{s:s, s:s}, o], s:s}", "messages", "role", "user", "content", "x", m, "thinking", thinking[below(3)]);
        assert_non_null(doc);
        n += check_turns(t, family_of(kind), doc);
        json_decref(doc);
    }
    assert_int_equal(n, 600);
    hd_tokenizer_free(t);
}

/* V3, R1: the same, of both editions of the template (recognised by what its text holds, as in test_chat.c). The older one ends the
 * sentence behind every call but the conversation's first: what no model can say is left out. */
#define R1_HAS "is_output_first '<｜User｜>' '<｜tool▁calls▁begin｜>' split('</think>') "
static const char newer[] = R1_HAS "is_first_sp 'tool_calls' in message '<｜Assistant｜><think>\\n'", older[] = R1_HAS "'\\n<｜tool▁output▁begin｜>' '<｜Assistant｜>'";

static void render_r1(const char *tpl, const json_t *messages, struct hd_chat_text *c)
{
    struct hd_chat_options opt = {.no_generation_prompt = true};

    hd_chat_text_init(c);
    assert_ok(hd_chat_r1(tpl, messages, &opt, c, &test_err));
}

static bool check_fixed_point_r1(const char *tpl, const json_t *messages, size_t i)
{
    json_t *list = json_deep_copy(messages), *back;
    struct hd_chat_text a, b, c;
    enum hd_parse_how how;
    size_t from;
    bool skip;

    while (json_array_size(list) > i + 1)
        json_array_remove(list, i + 1);
    render_r1(tpl, list, &b);
    json_array_remove(list, i);
    render_r1(tpl, list, &a);
    from = a.text.n;
    if (!strncmp(hd_str_get(&b.text) + from, "<｜Assistant｜>", strlen("<｜Assistant｜>")))
        from += strlen("<｜Assistant｜>");
    back = read_back(HD_PARSE_R1, &b, from, &how);
    skip = tpl == older && how == HD_PARSE_HOW_MALFORMED;     /* text behind the end */
    json_array_append_new(list, back);
    render_r1(tpl, list, &c);
    if (!skip && (c.text.n != b.text.n || memcmp(hd_str_get(&b.text), hd_str_get(&c.text), b.text.n)))
        fail_msg("rendered:\n%s\nread and rendered again:\n%s", hd_str_get(&b.text) + from, hd_str_get(&c.text) + from);
    hd_chat_text_release(&a);
    hd_chat_text_release(&b);
    hd_chat_text_release(&c);
    json_decref(list);
    return !skip;
}

static void fixed_points_r1(const char *tpl, const char *path)
{
    json_t *cases = hd_json_read(path, (size_t)1 << 26, &test_err), *c, *m;
    size_t i, k;
    int n = 0;

    assert_non_null(cases);
    json_array_foreach(cases, i, c)
    {
        json_t *list = json_object_get(json_object_get(c, "doc"), "messages");

        json_array_foreach(list, k, m) if (!strcmp(json_string_value(json_object_get(m, "role")), "assistant"))
            n += check_fixed_point_r1(tpl, list, k);
    }
    assert_true(n >= 50);
    json_decref(cases);
}

static void test_fixed_points_r1(void **state)
{
    fixed_points_r1(newer, "tests/golden/chat/r1/cases_newer.json");
    fixed_points_r1(older, "tests/golden/chat/r1/cases_older.json");
}

static void test_fixed_points(void **state)
{
    fixed_points_of_cases("v4");
    fixed_points_of_cases("v41");
    random_fixed_points("v4");
    random_fixed_points("v41");
}

/* ---- token by token ---- */

/* A tokenizer of single bytes and the markers of V4. */
static struct hd_tokenizer *byte_tokenizer(bool with_markers)
{
    static const char *const marker[] = {"<｜end▁of▁sentence｜>", "<think>", "</think>", D};
    struct hd_tokenizer *t;
    struct hd_str s;

    hd_str_init(&s, 0);
    hd_str_puts(&s, "{\"added_tokens\": [");
    for (int i = 0; with_markers && i < HD_LEN(marker); i++)
        hd_str_printf(&s, "%s{\"id\": %d, \"content\": \"%s\", \"special\": %s, \"normalized\": false}", i ? ", " : "", 100 + i, marker[i], i % 2 ? "false" : "true");
    hd_str_puts(&s, "], \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"decoder\": {\"type\": \"ByteLevel\"}, "
                    "\"model\": {\"type\": \"BPE\", \"merges\": [], \"vocab\": {\"Ġ\": 94, \"Ċ\": 95");
    for (int c = 33; c < 127; c++)
        hd_str_printf(&s, ", \"%s%c\": %d", c == '"' || c == '\\' ? "\\" : "", c, c - 33);
    for (int c = 0; c < 94; c++)          /* bytes from 0xA1 on stand for themselves; 0x80 to 0xA0 and 0xAD are U+0122 on */
        if (c + 0xA1 != 0xAD)
            hd_str_printf(&s, ", \"%c%c\": %d", 0xC0 | (c + 0xA1) >> 6, 0x80 | ((c + 0xA1) & 63), 200 + c);
    for (int c = 0; c < 34; c++)
        hd_str_printf(&s, ", \"%c%c\": %d", 0xC0 | (0x122 + c) >> 6, 0x80 | ((0x122 + c) & 63), 300 + c);
    hd_str_puts(&s, "}}}");
    assert_ok(hd_tokenizer_parse(&t, hd_str_get(&s), s.n, "bytes", 0, &test_err));
    hd_str_release(&s);
    return t;
}

static void parse_ids(struct log *l, struct hd_tokenizer *t, const char *s, int flags)
{
    struct hd_parse_options o = {.family = HD_PARSE_V4, .start = HD_PARSE_IN_REASONING, .tok = t, .event = on_event, .arg = l};
    struct hd_ids ids = {0};
    struct hd_parse p;

    log_init(l);
    hd_parse_init(&p, &o);
    assert_ok(hd_tokenize(t, s, strlen(s), flags, &ids, &test_err));
    for (size_t i = 0; i < ids.n; i++)
        assert_ok(hd_parse_token(&p, ids.id[i], &test_err));
    assert_ok(hd_parse_finish(&p, true, &test_err));
    hd_ids_release(&ids);
}

static void test_tokens(void **state)
{
    static const char in[] = "hm 中</think>hi" OPEN INVOKE("f") STR("k", "v <中") END CLOSE;
    struct hd_tokenizer *t = byte_tokenizer(true);
    struct log l;

    parse_ids(&l, t, in, HD_TOK_SPECIAL);     /* the markers are ids */
    assert_string_equal(hd_str_get(&l.m.reasoning), "hm 中");
    assert_string_equal(hd_str_get(&l.m.content), "hi");
    assert_int_equal(l.m.n_call, 1);
    assert_string_equal(hd_str_get(&l.m.call[0].arguments), "{\"k\": \"v <中\"}");
    assert_int_equal(l.m.how, HD_PARSE_HOW_EOS);
    log_release(&l);
    parse_ids(&l, t, in, 0);                  /* spelled where ids exist: text */
    assert_string_equal(hd_str_get(&l.m.reasoning), in);
    assert_int_equal(l.m.n_call, 0);
    log_release(&l);
    hd_tokenizer_free(t);
    t = byte_tokenizer(false);
    parse_ids(&l, t, in, 0);                  /* a tokenizer without them: spelled ones count */
    assert_string_equal(hd_str_get(&l.m.content), "hi");
    assert_int_equal(l.m.n_call, 1);
    log_release(&l);
    hd_tokenizer_free(t);
}

/* ---- trouble ---- */

static int refuse(void *arg, const struct hd_parse_event *e, struct hd_err *err)
{
    return ++*(int *)arg == 3 ? hd_err_set(err, HD_ERR_CANCELLED, "enough") : HD_OK;
}

static void test_refused(void **state)
{
    int n = 0;
    struct hd_parse_options o = {.family = HD_PARSE_V4, .start = HD_PARSE_IN_REASONING, .event = refuse, .arg = &n};
    struct hd_parse p;

    hd_parse_init(&p, &o);
    assert_ok(hd_parse_feed(&p, "a", 1, false, &test_err));
    assert_int_equal(hd_parse_feed(&p, "b</think>c" OPEN INVOKE("f"), strlen("b</think>c" OPEN INVOKE("f")), false, &test_err), HD_ERR_CANCELLED);
    assert_string_equal(test_err.msg, "enough");
    assert_int_equal(hd_parse_feed(&p, "d", 1, false, &test_err), HD_ERR_CANCELLED);
    assert_int_equal(hd_parse_finish(&p, true, &test_err), HD_ERR_CANCELLED);
    assert_int_equal(n, 3);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden), cmocka_unit_test(test_by_hand), cmocka_unit_test(test_early), cmocka_unit_test(test_literal),
                                       cmocka_unit_test(test_starts), cmocka_unit_test(test_scraps), cmocka_unit_test(test_long), cmocka_unit_test(test_fixed_points), cmocka_unit_test(test_fixed_points_r1), cmocka_unit_test(test_tokens),
                                       cmocka_unit_test(test_refused)};

    draw_seed(1);
    more = (const char *const *)argv + 1;
    n_more = argc - 1;
    return cmocka_run_group_tests_name("parse", tests, NULL, NULL);
}
