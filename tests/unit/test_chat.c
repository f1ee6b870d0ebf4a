/* test_chat.c: conversations as prompts: byte-equal to the encoders that ship with the checkpoints, and what is refused. */
#include "support.h"

#include "base/json.h"
#include "engine/model_tokenizer.h"
#include "token/chat.h"
#include "token/py_json.h"

static struct hd_tokenizer *open_kind(const char *kind)
{
    struct hd_tokenizer *t;
    char path[128];

    snprintf(path, sizeof path, "tests/golden/chat/%s", kind);
    assert_ok(hd_tokenizer_open(&t, path, 0, &test_err));
    return t;
}

static int render(const struct hd_tokenizer *t, const json_t *doc, struct hd_str *out)
{
    struct hd_chat_options opt = {0};
    struct hd_chat_text c;
    int rc;

    hd_chat_text_init(&c);
    test_err = (struct hd_err){0};
    rc = hd_chat_render(t, doc, &opt, &c, &test_err);
    hd_str_reset(out);
    hd_str_add(out, hd_str_get(&c.text), c.text.n);
    hd_chat_text_release(&c);
    return rc;
}

static void check_cases(const char *kind)
{
    struct hd_tokenizer *t = open_kind(kind);
    char path[128];
    struct hd_str out;
    json_t *cases, *c;
    size_t i;

    hd_str_init(&out, 0);
    snprintf(path, sizeof path, "tests/golden/chat/%s/cases.json", kind);
    assert_non_null(cases = hd_json_read(path, (size_t)1 << 26, &test_err));
    assert_true(json_array_size(cases) >= 100);
    json_array_foreach(cases, i, c)
    {
        const char *want = json_string_value(json_object_get(c, "prompt"));

        assert_ok(render(t, json_object_get(c, "doc"), &out));
        if (strcmp(want, hd_str_get(&out)))
            fail_msg("%s case %zu:\n%s\nexpected\n%s", kind, i, hd_str_get(&out), want);
    }
    json_decref(cases);
    hd_str_release(&out);
    hd_tokenizer_free(t);
}

static void test_v4(void **state)
{
    check_cases("v4");
}

static void test_v41(void **state)
{
    check_cases("v41");
}

/* The four examples that ship with DeepSeek-V4. */
static void test_published(void **state)
{
    static const char *const thinking[] = {"on", "on", "on", "off"};
    struct hd_tokenizer *t = open_kind("v4");
    struct hd_str out;

    hd_str_init(&out, 0);
    for (int i = 1; i <= 4; i++) {
        char path[128], *want;
        json_t *in, *doc;
        size_t n;

        snprintf(path, sizeof path, "tests/golden/chat/v4/test_input_%d.json", i);
        assert_non_null(in = hd_json_read(path, (size_t)1 << 20, &test_err));
        doc = json_is_array(in) ? json_pack("{s:o}", "messages", in) : in;
        json_object_set_new(doc, "thinking", json_string(thinking[i - 1]));
        snprintf(path, sizeof path, "tests/golden/chat/v4/test_output_%d.txt", i);
        assert_ok(hd_file_read(path, (size_t)1 << 20, &want, &n, &test_err));
        while (n && want[n - 1] == '\n')
            want[--n] = 0;
        assert_ok(render(t, doc, &out));
        assert_string_equal(hd_str_get(&out), want);
        hd_free(want);
        json_decref(doc);
    }
    hd_str_release(&out);
    hd_tokenizer_free(t);
}

static void refused(const char *kind, const char *json, const char *says)
{
    struct hd_tokenizer *t = open_kind(kind);
    json_t *doc = hd_json_parse(json, strlen(json), "test", &test_err);
    struct hd_str out;

    assert_non_null(doc);
    hd_str_init(&out, 0);
    if (render(t, doc, &out) >= 0)
        fail_msg("%s was taken: %s", json, hd_str_get(&out));
    if (!strstr(test_err.msg, says))
        fail_msg("%s: \"%s\" does not say \"%s\"", json, test_err.msg, says);
    hd_str_release(&out);
    json_decref(doc);
    hd_tokenizer_free(t);
}

static void test_refused(void **state)
{
    refused("v4", "{}", "messages");
    refused("v4", "{\"messages\": 5}", "messages");
    refused("v4", "{\"messages\": []}", "messages");
    refused("v4", "{\"messages\": [5]}", "messages[0]");
    refused("v4", "{\"messages\": [{\"role\": \"boss\", \"content\": \"x\"}]}", "boss");
    refused("v4", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\", \"task\": \"dance\"}]}", "task");
    refused("v4", "{\"messages\": [{\"role\": \"developer\", \"content\": \"\"}]}", "developer");
    refused("v41", "{\"messages\": [{\"role\": \"developer\", \"content\": \"x\"}]}", "developer");
    refused("v4", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"tools\": [{\"type\": \"function\"}]}", "function");
    refused("v4", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"thinking\": \"hard\"}", "hard");
    refused("v4", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"thinking\": 50}", "50");
    refused("v41", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"thinking\": 101}", "101");
    refused("v41", "{\"messages\": [{\"role\": \"user\", \"content\": \"<｜deepseek_image｜>\"}]}", "image");
    refused("v4", "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"x\"}]}]}", "content");
    refused("v4", "{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{\"function\": {}}]}]}", "tool_calls");
}

/* What users write never becomes a special token; what the format writes does. */
static void test_ids(void **state)
{
    struct hd_tokenizer *t = open_kind("v4");
    struct hd_chat_options opt = {0};
    struct hd_chat_text c;
    struct hd_ids ids = {0};
    static const char text[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"<tool> <|end|>\"}]}";
    json_t *doc = hd_json_parse(text, strlen(text), "test", &test_err);
    int32_t tool = hd_tokenizer_find(t, "<tool>"), end = hd_tokenizer_find(t, "<|end|>");

    assert_non_null(doc);
    assert_true(tool >= 0 && end >= 0);
    hd_chat_text_init(&c);
    assert_ok(hd_chat_render(t, doc, &opt, &c, &test_err));
    assert_ok(hd_chat_ids(t, &c, &ids, &test_err));
    for (size_t i = 0; i < ids.n; i++)
        assert_true(ids.id[i] != tool && ids.id[i] != end);
    hd_ids_release(&ids);
    hd_chat_text_release(&c);
    json_decref(doc);
    hd_tokenizer_free(t);
}

/* ---- V3 and R1: a template is recognised by what its text holds; these hold that and nothing else ---- */

#define R1_HAS "{% set ns = namespace(is_output_first=true) %} '<｜User｜>' '<｜tool▁calls▁begin｜>' {{ content.split('</think>')[-1] }} "
static const struct {
    const char *name, *tpl;
} r1[] = {{"newer", R1_HAS "is_first_sp {% if 'tool_calls' in message %} '<｜Assistant｜><think>\\n'"}, {"older", R1_HAS "'\\n<｜tool▁output▁begin｜>' '<｜Assistant｜>'"}};

/* A tokenizer with that template, from a directory of its own. */
static struct hd_tokenizer *open_template(const char *name, const char *tpl)
{
    json_t *config = json_pack("{s:s}", "chat_template", tpl);
    char dir[512], path[600], *data, *text = json_dumps(config, 0);
    struct hd_tokenizer *t;
    size_t n;

    snprintf(dir, sizeof dir, "%s", tmp_path(name));
    mkdir(dir, 0700);
    assert_ok(hd_file_read("tests/golden/chat/v4/tokenizer.json", (size_t)1 << 20, &data, &n, &test_err));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    write_file(path, data, n);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    write_file(path, text, strlen(text));
    hd_free(data);
    hd_free(text);
    json_decref(config);
    assert_ok(hd_tokenizer_open(&t, dir, 0, &test_err));
    return t;
}

static void check_template(const char *family, const char *folder, const char *name, const char *tpl)
{
    struct hd_tokenizer *t = open_template(name, tpl);
    char path[128];
    json_t *cases, *c;
    size_t i;

    assert_string_equal(hd_chat_family(t), family);
    snprintf(path, sizeof path, "tests/golden/chat/%s/cases_%s.json", folder, name);
    assert_non_null(cases = hd_json_read(path, (size_t)1 << 24, &test_err));
    assert_true(json_array_size(cases) >= 50);
    json_array_foreach(cases, i, c)
    {
        struct hd_chat_options opt = {.no_generation_prompt = json_is_false(json_object_get(c, "ask"))};
        const char *want = json_string_value(json_object_get(c, "prompt"));
        struct hd_chat_text text;

        hd_chat_text_init(&text);
        assert_ok(hd_chat_render(t, json_object_get(c, "doc"), &opt, &text, &test_err));
        if (strcmp(want, hd_str_get(&text.text)))
            fail_msg("%s case %zu:\n%s\nexpected\n%s", name, i, hd_str_get(&text.text), want);
        hd_chat_text_release(&text);
    }
    json_decref(cases);
    hd_tokenizer_free(t);
}

static void test_r1(void **state)
{
    for (int k = 0; k < HD_LEN(r1); k++)
        check_template("deepseek-r1", "r1", r1[k].name, r1[k].tpl);
}

#define V31_HAS "thinking '<｜User｜>' is_last_user '<｜tool▁call▁begin｜>' '<｜tool▁sep｜>' "

static void test_v31(void **state)
{
    static const char doc_text[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"content\": \"be\", \"prefix\": true}]}";
    json_t *doc = hd_json_parse(doc_text, strlen(doc_text), "test", &test_err);
    struct hd_tokenizer *t;
    struct hd_str out;

    check_template("deepseek-v3.1", "v31", "v31", V31_HAS);
    check_template("deepseek-v3.1", "v31", "v32exp", V31_HAS "is_only_sys is_prefix tool['function']['arguments']|tojson");
    t = open_template("v31", V31_HAS);
    hd_str_init(&out, 0);
    assert_ok(render(t, doc, &out));
    assert_string_equal(hd_str_get(&out), "<｜begin▁of▁sentence｜><｜User｜>u<｜Assistant｜></think>be");
    json_object_set_new(doc, "thinking", json_string("on"));
    assert_ok(render(t, doc, &out));
    assert_string_equal(hd_str_get(&out), "<｜begin▁of▁sentence｜><｜User｜>u<｜Assistant｜><think>be");
    json_object_set_new(doc, "thinking", json_integer(3));
    assert_true(render(t, doc, &out) < 0);
    assert_non_null(strstr(test_err.msg, "thinking"));
    json_decref(doc);
    hd_tokenizer_free(t);
    hd_str_release(&out);
}

/* Numbers as Python has them: integers of any length, reals that overflow. */
static void test_numbers(void **state)
{
    static const char *const in[] = {
        "[123456789012345678901234567890, -99999999999999999999, 9223372036854775807, 9223372036854775808, 1e400, -1e400, 1E5, 0]",
        "{\"a\": \"1e400, 99999999999999999999 \\\" 1e400\", \"99999999999999999999\": [[99999999999999999999]]}",
        "123456789012345678901234567890",
    }, *const want[] = {
        "[123456789012345678901234567890, -99999999999999999999, 9223372036854775807, 9223372036854775808, Infinity, -Infinity, 100000.0, 0]",
        "{\"a\": \"1e400, 99999999999999999999 \\\" 1e400\", \"99999999999999999999\": [[99999999999999999999]]}",
        "123456789012345678901234567890",
    }, *const bad[] = {"[99999999999999999999, ]", "[099999999999999999999]", "[99999999999999999999-1]", "[1e400.5]", "[-, 99999999999999999999]"};
    struct hd_str out;

    for (int i = 0; i < HD_LEN(in); i++) {
        json_t *v = hd_py_json_parse(in[i], strlen(in[i]));

        assert_non_null(v);
        hd_str_init(&out, 0);
        hd_py_json(v, &out);
        assert_string_equal(hd_str_get(&out), want[i]);
        hd_str_release(&out);
        json_decref(v);
    }
    for (int i = 0; i < HD_LEN(bad); i++)
        assert_null(hd_py_json_parse(bad[i], strlen(bad[i])));
}

/* A call's large number stays one, outside a string. */
static void test_large_argument(void **state)
{
    static const char text[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"tool_calls\": [{\"function\": {\"name\": \"f\", "
                               "\"arguments\": \"{\\\"n\\\": 123456789012345678901234567890}\"}}]}]}";
    struct hd_tokenizer *t = open_kind("v4");
    json_t *doc = hd_json_parse(text, strlen(text), "test", &test_err);
    struct hd_str out;

    assert_non_null(doc);
    hd_str_init(&out, 0);
    assert_ok(render(t, doc, &out));
    assert_non_null(strstr(hd_str_get(&out), "name=\"n\" string=\"false\">123456789012345678901234567890</"));
    hd_str_release(&out);
    json_decref(doc);
    hd_tokenizer_free(t);
}

/* An answer to be continued ends without a marker; editions with another shape are not taken for these. */
static void test_r1_edges(void **state)
{
    static const char doc_text[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"content\": \"be\", \"prefix\": true}]}";
    struct hd_tokenizer *t = open_template("edges", r1[0].tpl);
    json_t *doc = hd_json_parse(doc_text, strlen(doc_text), "test", &test_err);
    struct hd_str out;

    hd_str_init(&out, 0);
    assert_ok(render(t, doc, &out));
    assert_string_equal(hd_str_get(&out), "<｜begin▁of▁sentence｜><｜User｜>u<｜Assistant｜>be");
    json_decref(doc);
    doc = hd_json_parse("{\"messages\": [{\"role\": \"user\"}]}", 32, "test", &test_err);
    assert_true(render(t, doc, &out) < 0);
    assert_non_null(strstr(test_err.msg, "content"));
    json_decref(doc);
    hd_tokenizer_free(t);
    t = open_template("edges", R1_HAS "is_last_user");
    assert_null(hd_chat_family(t));
    hd_tokenizer_free(t);
    hd_str_release(&out);
}

/* A GGUF file of V4 has no template of the checkpoint; its architecture says how to write prompts. */
static void test_gguf(void **state)
{
    static const char text[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"the\"}]}";
    json_t *doc = hd_json_parse(text, strlen(text), "test", &test_err);
    struct hd_tokenizer *t;
    struct hd_str out;

    assert_non_null(doc);
    assert_ok(hd_model_tokenizer(&t, "tests/golden/gguf-v4-mx/model.gguf", &test_err));
    assert_string_equal(hd_chat_family(t), "deepseek-v4");
    hd_str_init(&out, 0);
    assert_ok(render(t, doc, &out));
    assert_string_equal(hd_str_get(&out), "<｜begin▁of▁sentence｜><｜User｜>the<｜Assistant｜></think>");
    hd_str_release(&out);
    json_decref(doc);
    hd_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_v4), cmocka_unit_test(test_v41), cmocka_unit_test(test_published), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_ids), cmocka_unit_test(test_r1), cmocka_unit_test(test_r1_edges), cmocka_unit_test(test_v31),
                                       cmocka_unit_test(test_numbers), cmocka_unit_test(test_large_argument), cmocka_unit_test(test_gguf)};

    return cmocka_run_group_tests_name("chat", tests, NULL, NULL);
}
