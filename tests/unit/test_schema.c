/* test_schema.c: whatever noise writes under a schema's grammar is valid, ends where it may end, and bad schemas are refused with their place. */
#include "support.h"

#include <locale.h>
#include <regex.h>

#include "base/clock.h"
#include "base/json.h"
#include "sample/grammar_mask.h"
#include "sample/schema.h"
#include "schema_noise.h"

static struct hd_tokenizer *tok;
static struct hd_json_vocab *vocab;
static float *logits;

static int set_up(void **state)
{
    assert_ok(hd_tokenizer_open(&tok, "tests/golden/tokenizer/deepseek", 0, &test_err));
    assert_ok(hd_json_vocab_create(&vocab, tok, &test_err));
    logits = hd_malloc((size_t)vocab->n * sizeof *logits);
    return 0;
}

static int tear_down(void **state)
{
    hd_free(logits);
    hd_json_vocab_free(vocab);
    hd_tokenizer_free(tok);
    return 0;
}

/* ---- noise ---- */

/* Text that noise writes; false: not whole after n tokens. Closing marks are likelier towards the end. */
static bool scribble(struct hd_grammar *g, int n, struct hd_str *out)
{
    struct hd_grammar_mask *m;
    bool whole = false;

    assert_ok(hd_grammar_mask_create(&m, g, vocab, -1, NULL, &test_err));
    hd_str_reset(out);
    for (int i = 0; i < n && !whole; i++) {
        int32_t best = -1;

        for (int64_t id = 0; id < vocab->n; id++)
            logits[id] = 0;
        hd_grammar_mask_apply(m, logits, vocab->n);
        whole = hd_grammar_mask_whole(m);
        for (int64_t k = 0, at = (int64_t)(draw() >> 20) % vocab->n; k < vocab->n && best < 0; k++, at = at + 1 == vocab->n ? 0 : at + 1)
            if (logits[at] == 0 && vocab->class[at] != HD_TOKEN_END)
                best = (int32_t)at;
        if (best < 0 && !whole)
            fail_msg("nothing may come behind: %s", hd_str_get(out));
        whole &= best < 0 || i > n / 2 || below(4) == 0;
        if (whole)
            break;
        for (int k = 0; k < 6 && (i > n / 3 || below(3) == 0); k++) {
            int32_t id = vocab->byte[(unsigned char)"}]\"0, "[k]];

            if (logits[id] == 0) {
                best = id;
                break;
            }
        }
        hd_grammar_mask_take(m, best);
        hd_detokenize(tok, &best, 1, false, out);
    }
    assert_true(hd_grammar_mask_bytes(m) < (int64_t)96 << 20);
    hd_grammar_mask_free(m);
    return whole;
}

/* How many of n attempts came to an end; each is valid. */
static int check(const json_t *schema, int n, int n_token)
{
    struct hd_grammar *g;
    struct hd_str text;
    int n_whole = 0;

    hd_str_init(&text, 0);
    if (hd_schema_compile(&g, schema, &test_err) < 0)
        fail_msg("%s: %s", json_dumps(schema, JSON_ENCODE_ANY), test_err.msg);
    root = schema;
    for (int i = 0; i < n; i++)
        if (scribble(g, n_token, &text)) {
            json_error_t e;
            json_t *v = json_loads(hd_str_get(&text), JSON_DECODE_ANY, &e);

            if (!v)
                fail_msg("%s\nwrote %s: %s", json_dumps(schema, JSON_ENCODE_ANY), hd_str_get(&text), e.text);
            if (!valid(schema, v))
                fail_msg("%s\nwrote %s", json_dumps(schema, JSON_ENCODE_ANY), hd_str_get(&text));
            json_decref(v);
            n_whole++;
        }
    hd_str_release(&text);
    hd_grammar_release(g);
    return n_whole;
}

static const char *const by_hand[] = {
    "{}", "true", "{\"type\":\"object\"}", "{\"type\":\"string\"}", "{\"type\":[\"integer\",\"null\"]}",
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"},\"c\":{\"type\":\"boolean\"}},\"required\":[\"b\"],\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"ab\":{\"type\":\"null\"},\"\":{\"type\":\"null\"}},\"additionalProperties\":{\"type\":\"boolean\"}}",
    "{\"type\":\"object\",\"properties\":{\"q\\\"\\\\\\né/\":{\"const\":\"x\\u0001\\n\"}},\"required\":[\"q\\\"\\\\\\né/\"],\"additionalProperties\":{\"type\":\"null\"}}",
    "{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":-17,\"maximum\":230},\"minItems\":2,\"maxItems\":5}",
    "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"string\",\"maxLength\":3},{\"type\":\"null\"}],\"items\":{\"type\":\"boolean\"},\"minItems\":1}",
    "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"null\"}],\"items\":false}",
    "{\"type\":\"number\",\"minimum\":-0.25,\"exclusiveMaximum\":1.5}", "{\"type\":\"number\",\"exclusiveMinimum\":0.1,\"maximum\":0.100002}",
    "{\"type\":\"integer\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":2}", "{\"type\":\"integer\",\"minimum\":99999999,\"maximum\":100000001}", "{\"type\":\"number\"}",
    "{\"type\":\"string\",\"minLength\":2,\"maxLength\":4}", "{\"enum\":[1,\"a\",null,[1,2],{\"k\":[]},true,\"ab\",\"abc\",-1.5]}", "{\"enum\":[1,2,3,\"x\"],\"type\":\"integer\",\"minimum\":2}",
    "{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}]}", "{\"oneOf\":[{\"type\":\"string\",\"maxLength\":5},{\"type\":\"integer\"},{\"const\":null}]}",
    "{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"a\"},\"x\":{\"type\":\"null\"}},\"required\":[\"k\"],\"additionalProperties\":false},"
    "{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"b\"},\"y\":{\"type\":\"null\"}},\"required\":[\"k\",\"y\"],\"additionalProperties\":false}]}",
    "{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":[\"integer\",\"string\"]}},\"required\":[\"a\"]},{\"properties\":{\"a\":{\"type\":[\"integer\",\"null\"],\"minimum\":5},\"b\":{\"type\":\"null\"}}}]}",
    "{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"],\"additionalProperties\":false}",
    "{\"$ref\":\"#/$defs/tree\",\"$defs\":{\"tree\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/tree\"},\"maxItems\":3}}}",
    "{\"$ref\":\"#/$defs/a\",\"description\":\"x\",\"$defs\":{\"a\":{\"type\":\"string\",\"enum\":[\"on\",\"off\"]}}}",
    "{\"type\":\"object\",\"required\":[\"z\"]}", "{\"properties\":{\"a\":false,\"b\":true}}",
    "{\"anyOf\":[{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"maxItems\":9},{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":1,\"maxItems\":10},{\"type\":\"null\"}]}",
};

static void test_by_hand(void **state)
{
    int n = 0;

    for (int i = 0; i < HD_LEN(by_hand); i++) {
        json_error_t e;
        json_t *s = json_loads(by_hand[i], JSON_DECODE_ANY, &e);

        assert_non_null(s);
        n += check(s, 4, 60);
        json_decref(s);
    }
    print_message("%d of %d answers came to an end\n", n, 4 * HD_LEN(by_hand));
    assert_true(n > 3 * HD_LEN(by_hand));
}

/* ---- schemas from noise ---- */

/* A schema that no value fits, or that says itself, is refused; any other writes what is valid. */
static void test_random(void **state)
{
    int n_schema = 0, n_refused = 0, n = 0;

    for (int i = 0; i < some_of(400, 10000); i++) {
        json_t *s = below(2) ? random_object(3) : random_array(3);
        struct hd_grammar *g;

        if (hd_schema_compile(&g, s, &test_err) < 0) {
            assert_true(strstr(test_err.msg, "no value fits") || strstr(test_err.msg, "refers to itself") || strstr(test_err.msg, "ways"));
            n_refused++;
        } else {
            hd_grammar_release(g);
            n += check(s, 2, 120);
            n_schema++;
        }
        json_decref(s);
    }
    print_message("%d schemas, %d refused; %d of %d answers came to an end\n", n_schema, n_refused, n, 2 * n_schema);
    assert_true(n_schema > 300 && n > n_schema);
}

/* ---- patterns ---- */

static void test_patterns(void **state)
{
    static const struct {
        const char *pattern, *posix;      /* what regcomp() calls the same thing */
    } cases[] = {
        {"^a+$", "^a+$"}, {"^[a-c]{2,4}$", "^[a-c]{2,4}$"}, {"b", "b"}, {"^(foo|ba[rz])?x$", "^(foo|ba[rz])?x$"}, {"^\\d{3}-\\d{2,}$", "^[0-9]{3}-[0-9]{2,}$"},
        {"^[^\\W_]+$", "^[A-Za-z0-9]+$"}, {"^a|b$", "^a|b$"}, {"^(?:ab*?c){1,3}$", "^(ab*c){1,3}$"}, {"^\\u00e9\\x41\\/\\.$", "^éA/[.]$"}, {"^[^a\"\\\\]$", "^[^a\"\\\\]$"},
        {"^\\S\\s\\D$", "^[^ ][[:space:]][^0-9]$"}, {"^(a|a)*b$", "^a*b$"}, {"^((a*)*)*$", "^a*$"}, {"^$", "^$"}, {"^[\\w.+-]+@\\w+\\.com$", "^[A-Za-z0-9_.+-]+@[A-Za-z0-9_]+[.]com$"},
        {"^.$", "^.$"}, {"(^)?x", NULL}, {"(?=a)b", NULL}, {"(a)\\1", NULL}, {"[", NULL}, {"a{3,1}", NULL}, {"*a", NULL}, {"a)", NULL}, {"(a", NULL}, {"\\p{L}", NULL},
        {"\\ba", NULL}, {"a**", NULL}, {"(?<n>a)", NULL}, {"[z-a]", NULL}, {"\\", NULL}, {"a{99999999}", NULL}, {"((((a{99}){99}){99}){99}){99}", NULL}, {"x$y", NULL},
    };
    struct hd_str text;

    hd_str_init(&text, 0);
    assert_non_null(setlocale(LC_ALL, "C.UTF-8"));
    for (int i = 0; i < HD_LEN(cases); i++) {
        json_t *s = json_pack("{s:{s:{s:s, s:s}}}", "properties", "p", "type", "string", "pattern", cases[i].pattern), *v;
        struct hd_grammar *g;
        regex_t re;
        int rc = hd_schema_compile(&g, s, &test_err);

        if (!cases[i].posix) {
            if (rc == HD_OK || strncmp(test_err.msg, "#/properties/p/pattern: ", 24))
                fail_msg("%s: %d, %s", cases[i].pattern, rc, test_err.msg);
            json_decref(s);
            continue;
        }
        assert_ok(rc);
        hd_grammar_release(g);
        assert_ok(hd_schema_compile(&g, json_object_get(json_object_get(s, "properties"), "p"), &test_err));
        assert_int_equal(regcomp(&re, cases[i].posix, REG_EXTENDED | REG_NOSUB), 0);
        for (int k = 0; k < 8; k++)
            if (scribble(g, 40, &text)) {
                v = json_loads(hd_str_get(&text), JSON_DECODE_ANY, NULL);
                if (!v || regexec(&re, json_string_value(v), 0, NULL, 0))
                    fail_msg("%s: %s", cases[i].pattern, hd_str_get(&text));
                json_decref(v);
            }
        regfree(&re);
        hd_grammar_release(g);
        json_decref(s);
    }
    hd_str_release(&text);
}

/* ---- what is refused, and where ---- */

static void test_refused(void **state)
{
    static const struct {
        const char *schema, *says;
    } cases[] = {
        {"3", "#: expected a schema"}, {"{\"type\":\"int\"}", "#/type: "}, {"{\"type\":[\"object\",7]}", "#/type: "}, {"{\"properties\":[]}", "#/properties: "},
        {"{\"properties\":{\"a/~\":{\"patternProperties\":{}}}}", "#/properties/a~1~0/patternProperties: this keyword is not supported"},
        {"{\"items\":[{}]}", "#/items: expected a schema"}, {"{\"not\":{}}", "#/not: "}, {"{\"if\":{}}", "#/if: "}, {"{\"uniqueItems\":true}", "#/uniqueItems: "},
        {"{\"$ref\":\"http://x/y\"}", "#/$ref: "}, {"{\"$ref\":\"#/nowhere\"}", "#/$ref: there is no schema"}, {"{\"$ref\":\"#\"}", "#: it refers to itself"},
        {"{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", "refers to itself"}, {"{\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/$defs/a\"}},\"$ref\":\"#/$defs/a\"}", "#/$defs/"},
        {"{\"type\":\"object\",\"properties\":{\"n\":{\"$ref\":\"#\"}},\"required\":[\"n\"]}", "no value fits"}, {"false", "no value fits"}, {"{\"enum\":[]}", "no value fits"},
        {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "no value fits"}, {"{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}", "no value fits"},
        {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "#/oneOf: "}, {"{\"oneOf\":[{\"properties\":{\"a\":true}},{\"type\":\"string\"}]}", "#/oneOf: "},
        {"{\"multipleOf\":3}", "#/multipleOf: "}, {"{\"type\":\"string\",\"format\":\"moon\"}", "#/format: "}, {"{\"pattern\":\"a\",\"format\":\"date\"}", "#/pattern: "},
        {"{\"minLength\":-1}", "#/minLength: "}, {"{\"minLength\":1.5}", "#/minLength: "}, {"{\"maximum\":\"3\"}", "#/maximum: "}, {"{\"minimum\":1e30}", "#/minimum: this bound"},
        {"{\"type\":\"string\",\"minLength\":900000000}", "#/minLength: "}, {"{\"type\":\"string\",\"maxLength\":1000000}", "it needs more than"}, {"{\"type\":\"array\",\"minItems\":900000000}", "it needs more than"},
        {"{\"type\":\"object\",\"minProperties\":2}", "#/minProperties: "}, {"{\"required\":[1]}", "#/required: "}, {"{\"anyOf\":[]}", "#/anyOf: "}, {"{\"const\":{\"a\":1},\"properties\":{}}", "#/properties: "},
        {"{\"anyOf\":[{\"type\":\"array\",\"items\":{\"description\":3,\"what\":1}}]}", "#/anyOf/0/items/what: "},
    };

    for (int i = 0; i < HD_LEN(cases); i++) {
        json_t *s = json_loads(cases[i].schema, JSON_DECODE_ANY, NULL);
        struct hd_grammar *g;

        assert_non_null(s);
        if (hd_schema_compile(&g, s, &test_err) == HD_OK || !strstr(test_err.msg, cases[i].says))
            fail_msg("%s: %s", cases[i].schema, test_err.msg);
        json_decref(s);
    }
}

/* ---- bounds ---- */

static json_t *enum_of(int n)
{
    json_t *list = json_array();
    char text[40];

    for (int i = 0; i < n; i++) {
        snprintf(text, sizeof text, "value %d", i * 7919 % 1000003);
        json_array_append_new(list, json_string(text));
    }
    return json_pack("{s:o}", "enum", list);
}

static json_t *nested(int n, const char *key)
{
    json_t *s = json_pack("{s:s}", "type", "null");

    while (n--)
        s = !strcmp(key, "anyOf") ? json_pack("{s:[o, o]}", key, s, json_deep_copy(s)) : json_pack("{s:o}", key, s);
    return s;
}

/* 2^n ways of a product. */
static json_t *product(int n)
{
    json_t *list = json_array();

    while (n--)
        json_array_append_new(list, json_pack("{s:[{s:i}, {s:i}]}", "anyOf", "minLength", n, "maxLength", 100 + n));
    return json_pack("{s:o}", "allOf", list);
}

static json_t *optionals(int n)
{
    json_t *p = json_object();
    char name[20];

    while (n--) {
        snprintf(name, sizeof name, "p%d", n);
        json_object_set_new(p, name, json_pack("{s:s, s:i}", "type", "integer", "minimum", n));
    }
    return json_pack("{s:s, s:o, s:s%}", "type", "object", "properties", p, "description", "", (size_t)0);
}

/* Compiled or refused in a moment, and what was compiled is followed in bounded time. */
static void test_hostile(void **state)
{
    json_t *cases[] = {enum_of(10000), nested(40, "items"), nested(1000, "items"), nested(11, "anyOf"), product(6), product(20), optionals(200), optionals(3000),
                       json_pack("{s:s, s:s}", "type", "string", "pattern", "^(a|b)*a(a|b){12}$"), json_pack("{s:s}", "pattern", "^(([a-z]+)+)+$"),
                       json_pack("{s:s, s:i, s:i}", "pattern", "(x+x+)+y", "minLength", 50, "maxLength", 300), json_pack("{s:s, s:i}", "type", "string", "maxLength", 50000),
                       json_loads(by_hand[HD_LEN(by_hand) - 1], 0, NULL)};
    struct hd_str text;

    hd_str_init(&text, 0);
    for (int i = 0; i < HD_LEN(cases); i++) {
        struct hd_grammar *g;
        double begin = hd_now(), took;
        int rc = hd_schema_compile(&g, cases[i], &test_err);

        took = hd_now() - begin;
        if (took > 3)
            fail_msg("case %d took %.1f s: %s", i, took, rc < 0 ? test_err.msg : "");
        if (rc == HD_OK) {
            begin = hd_now();
            scribble(g, 40, &text);
            took = hd_now() - begin;
            if (took > 20)
                fail_msg("case %d: 40 tokens took %.1f s", i, took);
            hd_grammar_release(g);
        } else {
            assert_true(rc == HD_ERR_LIMIT || rc == HD_ERR_UNSUPPORTED);
        }
        json_decref(cases[i]);
    }
    hd_str_release(&text);
}

/* Failing memory anywhere is an error, and nothing leaks. */
static void test_memory(void **state)
{
    json_t *s = json_loads(by_hand[6], 0, NULL);
    struct hd_grammar *g;

    for (int n = 1; n < 400; n++) {
        int rc;

        hd_fault_arm(HD_FAULT_ALLOC, n);
        rc = hd_schema_compile(&g, s, &test_err);
        hd_fault_disarm();
        if (rc == HD_OK)
            hd_grammar_release(g);
        else
            assert_true(rc == HD_ERR_MEMORY || rc == HD_ERR_LIMIT);
    }
    json_decref(s);
}

/* ---- masks, the long way ---- */

/* After these ids, may anything follow, or is it whole? */
static bool goes_on(struct hd_grammar *g, const int32_t *ids, int n)
{
    struct hd_grammar_mask *m;
    bool on;

    assert_ok(hd_grammar_mask_create(&m, g, vocab, -1, NULL, &test_err));
    for (int i = 0; i < n; i++)
        hd_grammar_mask_take(m, ids[i]);
    on = hd_grammar_mask_whole(m);
    for (int64_t id = 0; id < vocab->n; id++)
        logits[id] = 0;
    hd_grammar_mask_apply(m, logits, vocab->n);
    for (int64_t id = 0; id < vocab->n; id++)
        on |= logits[id] == 0 && vocab->class[id] != HD_TOKEN_END;
    hd_grammar_mask_free(m);
    return on;
}

/* A mask allows a token just when the token can be taken: plain tokens by length, the trie and single steps agree. */
static void test_masks(void **state)
{
    static const char *const schemas[] = {"{\"type\":\"string\",\"maxLength\":3}", "{\"type\":\"string\",\"minLength\":2,\"maxLength\":40}", "{}", "{\"enum\":[\"the end\",\"<the>\"]}",
                                          "{\"anyOf\":[{\"type\":\"string\",\"maxLength\":2},{\"const\":\"Hello world\"}]}", "{\"type\":\"string\",\"pattern\":\"^[^<]{2,5}$\"}",
                                          "{\"type\":\"string\",\"pattern\":\"^(ab|.)+e$\"}"};
    float *allowed = hd_malloc((size_t)vocab->n * sizeof *allowed);
    int n_plain = 0;

    for (int i = 0; i < HD_LEN(schemas); i++) {
        json_t *s = json_loads(schemas[i], 0, NULL);
        struct hd_grammar_mask *m;
        struct hd_grammar *g;
        int32_t ids[5];

        assert_ok(hd_schema_compile(&g, s, &test_err));
        assert_ok(hd_grammar_mask_create(&m, g, vocab, -1, NULL, &test_err));
        for (int n = 0; n < HD_LEN(ids); n++) {
            memset(allowed, 0, (size_t)vocab->n * sizeof *allowed);
            hd_grammar_mask_apply(m, allowed, vocab->n);
            for (int32_t id = below(3); id < vocab->n; id += 3) {
                int class = vocab->class[id];

                ids[n] = id;
                n_plain += class == HD_TOKEN_PLAIN && allowed[id] == 0;
                if ((class == HD_TOKEN_PLAIN || class == HD_TOKEN_OTHER) && (allowed[id] == 0) != goes_on(g, ids, n + 1))
                    fail_msg("%s: after %d tokens %d should%s come", schemas[i], n, id, allowed[id] == 0 ? " not" : "");
            }
            ids[n] = below((int)vocab->n);
            for (int64_t k = 0; k < vocab->n && allowed[ids[n]] != 0; k++)
                ids[n] = (ids[n] + 1) % (int32_t)vocab->n;
            if (allowed[ids[n]] != 0 || vocab->class[ids[n]] == HD_TOKEN_END)
                break;                /* only an end may come */
            hd_grammar_mask_take(m, ids[n]);
        }
        hd_grammar_mask_free(m);
        hd_grammar_release(g);
        json_decref(s);
    }
    assert_true(n_plain > 300);
    hd_free(allowed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_hand), cmocka_unit_test(test_random), cmocka_unit_test(test_patterns),
                                       cmocka_unit_test(test_refused), cmocka_unit_test(test_hostile), cmocka_unit_test(test_memory),   cmocka_unit_test(test_masks)};

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
