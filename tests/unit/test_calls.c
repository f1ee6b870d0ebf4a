/* test_calls.c: calls that noise writes under a grammar of tools: every one that came to its end is read by the parser as calls of declared tools,
 * complete, with arguments that fit their schemas. */
#include "support.h"

#include "base/json.h"
#include "sample/call_grammar.h"
#include "schema_noise.h"
#include "token/py_json.h"

#define N_BYTE 256
static const char *const markers[] = {"｜DSML｜", "<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜end▁of▁sentence｜>"};
static const char *const words[] = {"tool_calls", "invoke", " name", "=\"", "\">\n", "parameter", "string", "true", "false", "</", "> ", "\n\n", "ab", "a b", "\"}", "\", \"", "{\"", "]}", ": ", "function", "```", "é", "<"};
#define N_PIECE (N_BYTE + HD_LEN(markers) + HD_LEN(words))

static struct hd_tokenizer *tok;
static struct hd_json_vocab *vocab;
static float logits[N_PIECE];

/* In GPT-2's spelling of bytes. */
static size_t spell(const char *s, char *out)
{
    size_t n = 0;

    for (; *s; s++) {
        int b = (unsigned char)*s, moved = 0;

        for (int i = 0; i < b; i++)
            moved += !((i > 32 && i < 127) || (i > 160 && i != 173));
        n += (size_t)hd_utf8_put(out + n, (uint32_t)((b > 32 && b < 127) || (b > 160 && b != 173) ? b : 256 + moved));
    }
    return n;
}

static int set_up(void **state)
{
    static char text[N_PIECE][80];
    struct hd_view piece[N_PIECE];
    int32_t type[N_PIECE];
    struct hd_vocab_source src = {.n_piece = N_PIECE, .piece = piece, .type = type, .pre = {"gpt-2", 5}, .bos = -1, .eos = N_BYTE + HD_LEN(markers) - 1, .what = "calls"};
    int n_moved = 0;

    for (int i = 0; i < N_PIECE; i++) {
        bool itself = (i > 32 && i < 127) || (i > 160 && i != 173);

        type[i] = i >= N_BYTE && i < N_BYTE + HD_LEN(markers) ? 3 : 1;
        if (i < N_BYTE)
            piece[i] = (struct hd_view){text[i], (size_t)hd_utf8_put(text[i], (uint32_t)(itself ? i : 256 + n_moved++))};
        else if (type[i] == 3)
            piece[i] = (struct hd_view){markers[i - N_BYTE], strlen(markers[i - N_BYTE])};
        else
            piece[i] = (struct hd_view){text[i], spell(words[i - N_BYTE - HD_LEN(markers)], text[i])};
    }
    assert_ok(hd_tokenizer_create(&tok, &src, &test_err));
    assert_ok(hd_json_vocab_create(&vocab, tok, &test_err));
    assert_true(vocab->spells);
    return 0;
}

static int tear_down(void **state)
{
    hd_json_vocab_free(vocab);
    hd_tokenizer_free(tok);
    return 0;
}

static int32_t id_of(const char *marker)
{
    int32_t id = hd_tokenizer_find(tok, marker);

    assert_true(id >= 0);
    return id;
}

/* ---- noise ---- */

static int32_t choose(bool hurry)
{
    static const char closers[] = "<}]\"\n,0";

    for (int k = 0; k < HD_LEN(markers) - 1 && hurry; k++)
        if (logits[N_BYTE + k] == 0)
            return N_BYTE + k;
    for (int k = 0; k < HD_LEN(closers) - 1 && (hurry || below(4) == 0); k++)
        if (logits[vocab->byte[(unsigned char)closers[k]]] == 0)
            return vocab->byte[(unsigned char)closers[k]];
    for (int64_t k = 0, at = below(N_PIECE); k < N_PIECE; k++, at = (at + 1) % N_PIECE)
        if (logits[at] == 0)
            return (int32_t)at;
    return -1;
}

/* Ids up to an end, which only comes where it may; false: not within n tokens. first: fed before, unless -1. */
static bool scribble(struct hd_grammar *g, int32_t behind, const struct hd_grammar_trigger *trigger, int n, struct hd_ids *out)
{
    struct hd_grammar_mask *m;
    bool ended = false;

    assert_ok(hd_grammar_mask_create(&m, g, vocab, behind, trigger, &test_err));
    for (size_t i = 0; i < out->n; i++)
        hd_grammar_mask_take(m, out->id[i]);
    for (int i = 0; i < n && !ended; i++) {
        int32_t id;

        memset(logits, 0, sizeof logits);
        hd_grammar_mask_apply(m, logits, N_PIECE);
        id = choose(i > n / 3);
        if (logits[N_PIECE - HD_LEN(words) - 1] == 0 && (i > n / 3 || below(3) == 0))
            id = N_PIECE - HD_LEN(words) - 1;
        assert_true(id >= 0);
        ended = hd_tokenizer_is_end(tok, id);
        assert_true(HD_GROW(out->id, out->cap, out->n + 1, 1 << 20));
        out->id[out->n++] = id;
        hd_grammar_mask_take(m, id);
    }
    hd_grammar_mask_free(m);
    return ended;
}

/* ---- reading it back ---- */

static void parse(enum hd_parse_family family, enum hd_parse_start start, const struct hd_ids *ids, struct hd_parse_message *m)
{
    struct hd_parse p;

    hd_parse_message_init(m);
    hd_parse_init(&p, &(struct hd_parse_options){.family = family, .start = start, .tok = tok, .event = hd_parse_gather, .arg = m});
    for (size_t i = 0; i < ids->n; i++)
        assert_ok(hd_parse_token(&p, ids->id[i], &test_err));
    assert_ok(hd_parse_finish(&p, true, &test_err));
}

static void show(const struct hd_ids *ids, const struct hd_call_tool *tool, int n)
{
    struct hd_str s;

    hd_str_init(&s, 0);
    hd_detokenize(tok, ids->id, ids->n, true, &s);
    for (int i = 0; i < n; i++)
        print_message("%s: %s\n", tool[i].name, json_dumps(tool[i].parameters, JSON_ENCODE_ANY));
    print_message("wrote: %s\n", hd_str_get(&s));
    hd_str_release(&s);
}

static const char *wrong(const struct hd_parse_message *m, const struct hd_call_tool *tool, int n_tool, bool one)
{
    if (m->how != HD_PARSE_HOW_EOS)
        return hd_parse_how_name(m->how);
    if (!m->n_call || (one && m->n_call > 1) || m->content.n)
        return "not calls alone";
    for (size_t i = 0; i < m->n_call; i++) {
        const struct hd_parse_call *c = &m->call[i];
        json_t *args = hd_py_json_parse(hd_str_get(&c->arguments), c->arguments.n);
        bool fits = false;

        for (int k = 0; k < n_tool; k++)
            if (!strcmp(hd_str_get((struct hd_str *)&c->name), tool[k].name)) {
                root = tool[k].parameters;
                fits = root ? valid(root, args) : json_is_object(args) && !json_object_size(args);
            }
        json_decref(args);
        if (!c->complete || !fits)
            return c->complete ? "the arguments do not fit" : "incomplete";
    }
    return NULL;
}

static const enum hd_parse_family families[] = {HD_PARSE_V4, HD_PARSE_V41, HD_PARSE_V31, HD_PARSE_R1};

/* n texts; how many came to their end. */
static int check(const struct hd_call_request *r, int n, int n_token)
{
    struct hd_grammar *g;
    int n_whole = 0;

    assert_ok(hd_call_grammar(&g, r, &test_err));
    for (int i = 0; i < n; i++) {
        struct hd_parse_message m;
        struct hd_ids ids = {0};
        const char *why;

        if (scribble(g, -1, NULL, n_token, &ids)) {
            parse(r->family, r->begin == HD_CALLS_OPENED ? HD_PARSE_IN_CALLS : HD_PARSE_IN_CONTENT, &ids, &m);
            why = wrong(&m, r->tool, r->n_tool, r->one);
            if (why) {
                show(&ids, r->tool, r->n_tool);
                fail_msg("family %d: %s", r->family, why);
            }
            hd_parse_message_release(&m);
            n_whole++;
        }
        hd_ids_release(&ids);
    }
    hd_grammar_release(g);
    return n_whole;
}

static void test_random(void **state)
{
    int n_grammar = 0, n_refused = 0, n = 0;

    for (int i = 0; i < some_of(400, 10000); i++) {
        json_t *s[2] = {random_object(3), below(4) ? random_object(2) : NULL};
        struct hd_call_tool tool[2] = {{"run", s[0], true}, {"read-file.v2", s[1], true}};
        struct hd_call_request r = {.family = families[below(HD_LEN(families))], .tok = tok, .tool = tool, .n_tool = 2, .one = below(2)};
        struct hd_grammar *g;

        r.begin = r.family >= HD_PARSE_V4 && below(2) ? HD_CALLS_OPENED : HD_CALLS_ALONE;
        if (hd_call_grammar(&g, &r, &test_err) < 0) {
            assert_true(strstr(test_err.msg, "no value fits") || strstr(test_err.msg, "refers to itself") || strstr(test_err.msg, "ways"));
            n_refused++;
        } else {
            hd_grammar_release(g);
            n += check(&r, 2, 300);
            n_grammar++;
        }
        json_decref(s[0]);
        json_decref(s[1]);
    }
    print_message("%d grammars, %d refused; %d of %d texts came to an end\n", n_grammar, n_refused, n, 2 * n_grammar);
    assert_true(n_grammar > 300 && n > n_grammar);
}

/* ---- by hand ---- */

static json_t *load(const char *s)
{
    json_t *v = json_loads(s, JSON_DECODE_ANY, NULL);

    assert_non_null(v);
    return v;
}

/* Does the grammar take the text, markers spelled out, and may it end there? */
static bool takes(struct hd_grammar *g, const char *text)
{
    struct hd_grammar_mask *m;
    struct hd_ids ids = {0};
    bool whole;

    assert_ok(hd_tokenize(tok, text, strlen(text), HD_TOK_SPECIAL, &ids, &test_err));
    assert_ok(hd_grammar_mask_create(&m, g, vocab, -1, NULL, &test_err));
    for (size_t i = 0; i < ids.n; i++) {
        memset(logits, 0, sizeof logits);
        hd_grammar_mask_apply(m, logits, N_PIECE);
        whole = logits[ids.id[i]] == 0;
        hd_grammar_mask_take(m, ids.id[i]);
        if (!whole)
            break;
    }
    whole = hd_grammar_mask_whole(m);
    hd_grammar_mask_free(m);
    hd_ids_release(&ids);
    return whole;
}

#define D "｜DSML｜"
#define CALL(params) "\n\n<" D "tool_calls>\n<" D "invoke name=\"f\">\n" params "\n</" D "invoke>\n</" D "tool_calls>"
#define PARAM(k, string, v) "<" D "parameter name=\"" k "\" string=\"" string "\">" v "</" D "parameter>"

static void test_dsml(void **state)
{
    static const struct {
        const char *schema, *text;
        bool fits;
    } cases[] = {
        {"{\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}", CALL(PARAM("a", "true", "ls \"<x>\\\n\té</y>")), true},
        {"{\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}", CALL(PARAM("a", "false", "\"x\"")), false},
        {"{\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}", CALL(""), false},
        {"{\"properties\":{\"a\":{\"type\":\"string\"}}}", CALL(""), true},
        {"{\"properties\":{\"a\":{\"type\":\"string\"}}}", CALL(PARAM("b", "true", "x")), false},
        {"{\"properties\":{\"a\":{\"type\":\"string\"}},\"additionalProperties\":true}", CALL(PARAM("a", "true", "x") "\n" PARAM("ab", "false", "[1, {\"k\": null}]")), true},
        {"{\"properties\":{\"a\":{\"type\":\"string\"}},\"additionalProperties\":true}", CALL(PARAM("a", "true", "x") "\n" PARAM("a", "true", "y")), false},
        {"{\"properties\":{\"a\":{\"type\":[\"integer\",\"string\"]}}}", CALL(PARAM("a", "false", "17")), true},
        {"{\"properties\":{\"a\":{\"type\":[\"integer\",\"string\"]}}}", CALL(PARAM("a", "true", "17")), true},
        {"{\"properties\":{\"a\":{\"type\":\"integer\"}}}", CALL(PARAM("a", "true", "17")), false},
        {"{\"properties\":{\"a\":{\"enum\":[\"on\",\"off\",1]}}}", CALL(PARAM("a", "true", "off")), true},
        {"{\"properties\":{\"a\":{\"enum\":[\"on\",\"off\",1]}}}", CALL(PARAM("a", "true", "of")), false},
        {"{\"properties\":{\"a\":{\"enum\":[\"on\",\"off\",1]}}}", CALL(PARAM("a", "false", "1")), true},
        {"{\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^[a-z]+$\",\"maxLength\":3}}}", CALL(PARAM("a", "true", "abc")), true},
        {"{\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^[a-z]+$\",\"maxLength\":3}}}", CALL(PARAM("a", "true", "abcd")), false},
        {"{\"anyOf\":[{\"properties\":{\"a\":{\"type\":\"null\"}},\"required\":[\"a\"]},{\"properties\":{\"b\":{\"const\":\"x\"}},\"required\":[\"b\"]}]}", CALL(PARAM("b", "true", "x")), true},
    };

    for (int i = 0; i < HD_LEN(cases); i++) {
        json_t *s = load(cases[i].schema);
        struct hd_call_tool tool = {"f", s, true};
        struct hd_grammar *g;

        assert_ok(hd_call_grammar(&g, &(struct hd_call_request){.family = HD_PARSE_V4, .tok = tok, .tool = &tool, .n_tool = 1}, &test_err));
        if (takes(g, cases[i].text) != cases[i].fits)
            fail_msg("case %d: %s", i, cases[i].text);
        hd_grammar_release(g);
        json_decref(s);
    }
}

/* A strict tool that cannot be kept is refused by name and place; one that is not strict takes any arguments. */
static void test_refused(void **state)
{
    json_t *s = load("{\"properties\":{\"a\":{\"type\":\"string\",\"patternProperties\":{}}}}"), *list = load("{\"type\":\"array\"}");
    struct hd_call_tool tool = {"f", s, true};
    struct hd_call_request r = {.family = HD_PARSE_V4, .tok = tok, .tool = &tool, .n_tool = 1};
    struct hd_grammar *g;

    assert_int_equal(hd_call_grammar(&g, &r, &test_err), HD_ERR_UNSUPPORTED);
    assert_non_null(strstr(test_err.msg, "\"f\": parameters: #/properties/a/patternProperties: "));
    tool.strict = false;
    assert_ok(hd_call_grammar(&g, &r, &test_err));
    assert_true(takes(g, CALL(PARAM("zz", "false", "[]"))));
    hd_grammar_release(g);
    tool = (struct hd_call_tool){"f", list, true};
    assert_int_equal(hd_call_grammar(&g, &r, &test_err), HD_ERR_UNSUPPORTED);
    r.family = HD_PARSE_PLAIN;
    assert_int_equal(hd_call_grammar(&g, &r, &test_err), HD_ERR_UNSUPPORTED);
    json_decref(s);
    json_decref(list);
}

/* Reasoning is free but calls nothing; text is free until the marker that begins calls; both then keep to the grammar. */
static void test_phases(void **state)
{
    json_t *s = load("{\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]}");
    struct hd_call_tool tool = {"f", s, true};
    struct hd_call_request r = {.family = HD_PARSE_V4, .tok = tok, .tool = &tool, .n_tool = 1, .begin = HD_CALLS_TRIGGERED};
    int32_t dsml = id_of(D), end = id_of("<｜end▁of▁sentence｜>"), behind = id_of("</think>");
    struct hd_grammar_trigger t;
    struct hd_grammar_mask *m;
    struct hd_grammar *g;
    struct hd_ids ids = {0};
    struct hd_parse_message msg;

    assert_ok(hd_call_grammar(&g, &r, &test_err));
    assert_true(hd_call_trigger(r.family, tok, &t));
    assert_ok(hd_grammar_mask_create(&m, g, vocab, behind, &t, &test_err));
    memset(logits, 0, sizeof logits);
    hd_grammar_mask_apply(m, logits, N_PIECE);
    assert_true(logits[end] != 0 && logits[dsml] != 0 && logits['x'] == 0);
    hd_grammar_mask_take(m, behind);
    memset(logits, 0, sizeof logits);
    hd_grammar_mask_apply(m, logits, N_PIECE);
    assert_true(logits[end] == 0 && logits[dsml] != 0 && logits['x'] == 0);
    hd_grammar_mask_take(m, vocab->byte['<']);
    memset(logits, 0, sizeof logits);
    hd_grammar_mask_apply(m, logits, N_PIECE);
    assert_true(logits[dsml] == 0 && logits['x'] == 0);
    hd_grammar_mask_free(m);

    assert_ok(hd_tokenize(tok, "hm</think>Well:\n\n<" D, strlen("hm</think>Well:\n\n<" D), HD_TOK_SPECIAL, &ids, &test_err));
    assert_true(scribble(g, behind, &t, 400, &ids));
    parse(r.family, HD_PARSE_IN_REASONING, &ids, &msg);
    assert_string_equal(hd_str_get(&msg.content), "Well:");
    msg.content.n = 0;
    assert_null(wrong(&msg, &tool, 1, false));
    hd_parse_message_release(&msg);
    hd_ids_release(&ids);
    hd_grammar_release(g);
    json_decref(s);
}

/* A format beside tools: either a value, or calls. */
static void test_format(void **state)
{
    json_t *s = load("{}"), *format = load("{\"const\":{\"k\":1}}");
    struct hd_call_tool tool = {"f", s, false};
    struct hd_grammar *g;

    assert_ok(hd_call_grammar(&g, &(struct hd_call_request){.family = HD_PARSE_V4, .tok = tok, .tool = &tool, .n_tool = 1, .format = format}, &test_err));
    assert_true(takes(g, "{\"k\": 1}") && takes(g, CALL("")) && !takes(g, "{\"k\": 2}") && !takes(g, "{\"k\": 1}" CALL("")));
    hd_grammar_release(g);
    json_decref(s);
    json_decref(format);
}

static void test_memory(void **state)
{
    json_t *s = load("{\"properties\":{\"a\":{\"type\":[\"integer\",\"string\"]}},\"additionalProperties\":true}");

    for (int n = 1; n < 400; n++) {
        struct hd_call_tool tool = {"f", s, n & 1};
        struct hd_grammar *g;
        int rc;

        hd_fault_arm(HD_FAULT_ALLOC, n);
        rc = hd_call_grammar(&g, &(struct hd_call_request){.family = HD_PARSE_V4, .tok = tok, .tool = &tool, .n_tool = 1}, &test_err);
        hd_fault_disarm();
        if (rc == HD_OK)
            hd_grammar_release(g);
        else
            assert_true(rc == HD_ERR_MEMORY || rc == HD_ERR_LIMIT);
    }
    json_decref(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dsml),   cmocka_unit_test(test_refused), cmocka_unit_test(test_phases),
                                       cmocka_unit_test(test_format), cmocka_unit_test(test_random),  cmocka_unit_test(test_memory)};

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
