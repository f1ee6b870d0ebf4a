/* test_token.c: ids equal to the tokenizers library's, any bytes back as they were, streams and stop strings, broken vocabularies. */
#include "support.h"

#include "base/json.h"
#include "base/rng.h"
#include "token/pretoken.h"
#include "token/token.h"

static const char *const families[] = {"gpt2", "llama3", "qwen2", "deepseek", "digits"};

static struct hd_tokenizer *open_family(const char *name)
{
    struct hd_tokenizer *t;
    char path[128];

    snprintf(path, sizeof path, "tests/golden/tokenizer/%s", name);
    assert_ok(hd_tokenizer_open(&t, path, 0, &test_err));
    return t;
}

static void check_ids(struct hd_tokenizer *t, const char *text, size_t n, int flags, const json_t *want, const char *name, size_t at)
{
    struct hd_ids ids = {0};

    assert_ok(hd_tokenize(t, text, n, flags, &ids, &test_err));
    if (ids.n != json_array_size(want))
        fail_msg("%s case %zu: %zu ids; expected %zu", name, at, ids.n, json_array_size(want));
    for (size_t i = 0; i < ids.n; i++)
        if (ids.id[i] != json_integer_value(json_array_get(want, i)))
            fail_msg("%s case %zu: id %zu is %d; expected %lld", name, at, i, ids.id[i], (long long)json_integer_value(json_array_get(want, i)));
    hd_ids_release(&ids);
}

static void test_reference(void **state)
{
    for (int f = 0; f < HD_LEN(families); f++) {
        struct hd_tokenizer *t = open_family(families[f]);
        char path[128];
        json_t *cases, *c;
        size_t i;

        snprintf(path, sizeof path, "tests/golden/tokenizer/%s/cases.json", families[f]);
        assert_non_null(cases = hd_json_read(path, (size_t)1 << 26, &test_err));
        json_array_foreach(cases, i, c)
        {
            const json_t *text = json_object_get(c, "text");

            check_ids(t, json_string_value(text), json_string_length(text), 0, json_object_get(c, "plain"), families[f], i);
            check_ids(t, json_string_value(text), json_string_length(text), HD_TOK_SPECIAL, json_object_get(c, "special"), families[f], i);
        }
        assert_true(json_array_size(cases) > 100);
        json_decref(cases);
        hd_tokenizer_free(t);
    }
}

/* Byte-level vocabularies give any bytes back, malformed UTF-8 included (the NFC family excepted: it changes text by design). */
static void test_any_bytes(void **state)
{
    struct hd_rng rng;

    hd_rng_seed(&rng, 7);
    for (int f = 0; f < HD_LEN(families); f++) {
        struct hd_tokenizer *t;

        if (!strcmp(families[f], "qwen2"))
            continue;
        t = open_family(families[f]);
        for (int k = 0; k < 400; k++) {
            char text[200];
            size_t n = hd_rng_next(&rng) % sizeof text;
            struct hd_ids ids = {0};
            struct hd_str back;

            for (size_t i = 0; i < n; i++)
                text[i] = k % 2 ? (char)hd_rng_next(&rng) : "ab \n\xc3\xa9\xe4\xb8\xad\xff"[hd_rng_next(&rng) % 10];
            hd_str_init(&back, 0);
            assert_ok(hd_tokenize(t, text, n, 0, &ids, &test_err));
            hd_detokenize(t, ids.id, ids.n, true, &back);
            assert_int_equal(back.n, n);
            assert_memory_equal(hd_str_get(&back), text, n);
            hd_str_release(&back);
            hd_ids_release(&ids);
        }
        hd_tokenizer_free(t);
    }
}

/* Time grows with the length, not with its square: runs and long words included. */
static void test_long(void **state)
{
    struct hd_tokenizer *t = open_family("llama3");
    size_t n = (size_t)2 << 20;
    char *text = hd_malloc(n);

    for (int k = 0; k < 3; k++) {
        struct hd_ids ids = {0};
        struct hd_str back;

        for (size_t i = 0; i < n; i++)
            text[i] = k == 0 ? 'a' : k == 1 ? ' ' : (char)("abcdefghijklmnopqrstuvwxyz"[(i * i + i / 7) % 26]);
        assert_ok(hd_tokenize(t, text, n, 0, &ids, &test_err));
        hd_str_init(&back, 0);
        hd_detokenize(t, ids.id, ids.n, true, &back);
        assert_int_equal(back.n, n);
        hd_str_release(&back);
        hd_ids_release(&ids);
    }
    hd_free(text);
    hd_tokenizer_free(t);
}

/* Pieces of a stream join to the text, each piece whole UTF-8; a stop string never shows, wherever token borders fall. */
static void test_stream(void **state)
{
    struct hd_tokenizer *t = open_family("gpt2");
    static const char text[] = "light 中文 \xf0\x9f\x91\x8d sea STOP never";
    static const char *const stop[] = {"STOP", "zzz"};
    struct hd_ids ids = {0};

    assert_ok(hd_tokenize(t, text, strlen(text), 0, &ids, &test_err));
    for (int n_stop = 0; n_stop <= 2; n_stop += 2) {
        struct hd_text_stream ts;
        struct hd_str all, piece;

        hd_text_stream_init(&ts, t, stop, n_stop);
        hd_str_init(&all, 0);
        hd_str_init(&piece, 0);
        for (size_t i = 0; i < ids.n && !ts.stopped; i++) {
            hd_str_reset(&piece);
            hd_text_stream_push(&ts, ids.id[i], &piece);
            assert_int_equal(hd_utf8_whole(hd_str_get(&piece), piece.n), piece.n);
            hd_str_add(&all, hd_str_get(&piece), piece.n);
        }
        hd_text_stream_finish(&ts, &all);
        assert_int_equal(ts.stopped, n_stop > 0);
        assert_string_equal(hd_str_get(&all), n_stop ? "light 中文 \xf0\x9f\x91\x8d sea " : text);
        hd_str_release(&all);
        hd_str_release(&piece);
        hd_text_stream_release(&ts);
    }
    hd_ids_release(&ids);
    hd_tokenizer_free(t);
}

#define BPE(vocab, merges, added)                                                                                                                     \
    "{\"added_tokens\": [" added "], \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}, "                 \
    "\"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {" vocab "}, \"merges\": [" merges "]}}"

/* Every broken vocabulary: refused with one line that names what is wrong, never a crash. */
static void test_broken(void **state)
{
    static const struct {
        const char *json, *says;
    } bad[] = {
        {"", ""},
        {"[]", ""},
        {"{", ""},
        {"{}", "model"},
        {"{\"model\": 5}", "model"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}", "Unigram"},
        {BPE("\"a\": 0, \"b\": 0", "", ""), "id 0"},
        {BPE("\"a\": -1", "", ""), "-1"},
        {BPE("\"a\": 4000000000", "", ""), "4000000000"},
        {BPE("\"a\": 1.5", "", ""), "1.5"},
        {BPE("\"a\": \"x\"", "", ""), ""},
        {BPE("\"a\": 0, \"b\": 1", "\"a b\"", ""), "merge"},
        {BPE("\"a\": 0, \"b\": 1, \"ab\": 2", "\"a  b\"", ""), "merge"},
        {BPE("\"a\": 0, \"b\": 1, \"ab\": 2", "\"a\"", ""), "merge"},
        {BPE("\"a\": 0, \"b\": 1, \"ab\": 2", "\" b\"", ""), "merge"},
        {BPE("\"a\": 0, \"b\": 1, \"ab\": 2", "\"a b\", \"a b\"", ""), "merge"},
        {BPE("\"a\": 0, \"b\": 1, \"ab\": 2", "[\"a\"]", ""), "merge"},
        {BPE("\"a\": 0, \"b\": 1, \"ab\": 2", "[\"a\", \"q\"]", ""), "merge"},
        {BPE("\"a\": 0", "", "{\"id\": 0, \"content\": \"<x>\", \"special\": true}"), ""},
        {BPE("\"a\": 0", "", "{\"id\": 1, \"content\": \"<x>\"}, {\"id\": 1, \"content\": \"<y>\"}"), ""},
        {BPE("\"a\": 0", "", "{\"id\": -3, \"content\": \"<x>\"}"), "-3"},
        {BPE("\"a\": 0", "", "{\"content\": \"<x>\"}"), "id"},
        {BPE("\"a\": 0", "", "7"), "added_tokens"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Isolated\"}}", ""},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"pre_tokenizer\": {\"type\": \"Nonsense\"}}", "Nonsense"},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"normalizer\": {\"type\": \"Nonsense\"}}", "Nonsense"},
    };

    for (int i = 0; i < HD_LEN(bad); i++) {
        struct hd_tokenizer *t = NULL;
        int rc;

        test_err.msg[0] = 0;
        rc = hd_tokenizer_parse(&t, bad[i].json, strlen(bad[i].json), "tokenizer.json", 0, &test_err);
        if (rc == HD_OK)
            fail_msg("case %d was taken: %s", i, bad[i].json);
        if (!strstr(test_err.msg, bad[i].says))
            fail_msg("case %d: \"%s\" does not name %s", i, test_err.msg, bad[i].says);
        assert_null(strchr(test_err.msg, '\n'));
    }
}

static void test_vocab_limit(void **state)
{
    struct hd_tokenizer *t;

    assert_int_equal(hd_tokenizer_open(&t, "tests/golden/tokenizer/gpt2", 600, &test_err), HD_ERR_FORMAT);
    assert_non_null(strstr(test_err.msg, "600"));
}

static int add_word(void *arg, const char *word, size_t n, struct hd_err *err)
{
    struct hd_str *s = arg;

    hd_str_add(s, word, n);
    return hd_str_puts(s, "|") ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory");
}

/* Pre-tokenizers that GGUF files only name: words as the tokenizers library makes them from the same splits. DeepSeek LLM's third
 * split cuts out of words what the second kept whole: its class of marks has the small letters, too. */
static void test_named(void **state)
{
    static const char text[] = "Don't \u00e9t\u00e9, 123 abc\u4e2d\u6587\u0434\u0430 x=1\u3002 \n\n y  ";
    static const struct {
        const char *name, *words;
    } known[] = {{"deepseek-llm", "Don|'|t| \u00e9|t|\u00e9|,| |1|2|3| abc|\u4e2d\u6587|\u0434\u0430| x|=|1|\u3002| |\n|\n| y|  |"},
                 {"deepseek-coder", "Don|'|t| \u00e9t\u00e9|,| |1|2|3| abc|\u4e2d\u6587|\u0434\u0430| x|=|1|\u3002| |\n|\n| y|  |"}};

    for (int i = 0; i < HD_LEN(known); i++) {
        struct hd_pretoken *p;
        struct hd_str s;

        hd_str_init(&s, 0);
        assert_ok(hd_pretoken_named(&p, (struct hd_view){known[i].name, strlen(known[i].name)}, "test", &test_err));
        assert_ok(hd_pretoken_run(p, text, sizeof text - 1, add_word, &s, &test_err));
        assert_string_equal(hd_str_get(&s), known[i].words);
        hd_str_release(&s);
        hd_pretoken_free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference), cmocka_unit_test(test_any_bytes), cmocka_unit_test(test_long),
                                       cmocka_unit_test(test_stream),    cmocka_unit_test(test_broken),    cmocka_unit_test(test_vocab_limit),
                                       cmocka_unit_test(test_named)};

    return cmocka_run_group_tests_name("token", tests, NULL, NULL);
}
