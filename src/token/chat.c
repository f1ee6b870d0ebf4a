/* chat.c: see chat.h. */
#include "token/chat.h"

#include <string.h>

#include "base/mem.h"
#include "token/chat_deepseek.h"
#include "token/chat_r1.h"
#include "token/chat_v31.h"
#include "token/py_json.h"
#include "token/vocab.h"

void hd_chat_text_init(struct hd_chat_text *c)
{
    memset(c, 0, sizeof *c);
    hd_str_init(&c->text, (size_t)1 << 30);
}

void hd_chat_text_release(struct hd_chat_text *c)
{
    hd_str_release(&c->text);
    hd_free(c->span);
    memset(c, 0, sizeof *c);
}

static void put(struct hd_chat_text *c, const char *p, size_t n, bool marker)
{
    size_t begin = c->text.n;

    if (!n || !hd_str_add(&c->text, p, n))
        return;
    if (c->n_span && c->span[c->n_span - 1].marker == marker) {
        c->span[c->n_span - 1].end = c->text.n;
        return;
    }
    if (!HD_GROW(c->span, c->cap_span, c->n_span + 1, (size_t)1 << 28)) {
        c->text.failed = true;
        return;
    }
    c->span[c->n_span++] = (struct hd_chat_span){begin, c->text.n, marker};
}

static void mark(struct hd_chat_text *c, const char *s)
{
    put(c, s, strlen(s), true);
}

void hd_chat_mark(struct hd_chat_text *c, const char *s)
{
    mark(c, s);
}

void hd_chat_put(struct hd_chat_text *c, const char *p, size_t n)
{
    put(c, p, n, false);
}

void hd_chat_put_value(struct hd_chat_text *c, const json_t *v)
{
    if (json_is_string(v))
        put(c, json_string_value(v), json_string_length(v), false);
}

void hd_chat_put_json(struct hd_chat_text *c, const json_t *v)
{
    struct hd_str s;

    hd_str_init(&s, 0);
    hd_py_json(v, &s);
    put(c, hd_str_get(&s), s.n, false);
    c->text.failed |= s.failed;
    hd_str_release(&s);
}

bool hd_chat_role_is(const json_t *message, const char *role)
{
    const char *s = json_string_value(json_object_get(message, "role"));

    return s && !strcmp(s, role);
}

int hd_chat_check(const json_t *messages, bool objects, struct hd_err *err)
{
    const json_t *m;
    size_t i;

    json_array_foreach((json_t *)messages, i, m)
    {
        const json_t *content = json_object_get(m, "content"), *calls = json_object_get(m, "tool_calls"), *c;
        bool null = !content || json_is_null(content), assistant = hd_chat_role_is(m, "assistant");
        size_t k;

        if (!hd_chat_role_is(m, "system") && !hd_chat_role_is(m, "user") && !assistant && !hd_chat_role_is(m, "tool"))
            return hd_err_set(err, HD_ERR_FORMAT, "messages[%zu]: role: expected system, user, assistant or tool", i);
        if (!json_is_string(content) && !(null && assistant && json_is_array(calls)))
            return hd_err_set(err, HD_ERR_FORMAT, "messages[%zu]: content: expected a string", i);
        if (calls && !json_is_array(calls) && !json_is_null(calls))
            return hd_err_set(err, HD_ERR_FORMAT, "messages[%zu]: tool_calls: expected a list", i);
        json_array_foreach((json_t *)calls, k, c)
        {
            const json_t *f = json_object_get(c, "function"), *a = json_object_get(f, "arguments");

            if (!json_is_string(json_object_get(f, "name")) || !(json_is_string(a) || (objects && json_is_object(a))))
                return hd_err_set(err, HD_ERR_FORMAT, "messages[%zu]: tool_calls[%zu]: function: expected {\"name\", \"arguments\"}%s", i, k, objects ? "" : " with strings");
        }
    }
    return HD_OK;
}

struct message {
    const char *role, *content;
    size_t n_content;
};

static bool known_role(const char *role, bool tool)
{
    return !strcmp(role, "system") || !strcmp(role, "user") || !strcmp(role, "assistant") || (tool && !strcmp(role, "tool"));
}

static int get_message(const json_t *m, size_t i, struct message *out, struct hd_err *err)
{
    const json_t *role = json_object_get(m, "role"), *content = json_object_get(m, "content");

    if (!json_is_object(m) || !json_is_string(role))
        return hd_err_set(err, HD_ERR_FORMAT, "messages[%zu]: role: expected a string", i);
    if (!known_role(json_string_value(role), false))
        return hd_err_set(err, HD_ERR_FORMAT, "messages[%zu]: role: found \"%.40s\"; expected system, user or assistant", i, json_string_value(role));
    if (content && !json_is_string(content) && !json_is_null(content))
        return hd_err_set(err, HD_ERR_FORMAT, "messages[%zu]: content: expected a string", i);
    *out = (struct message){json_string_value(role), json_is_string(content) ? json_string_value(content) : "", json_is_string(content) ? json_string_length(content) : 0};
    return HD_OK;
}

static bool continues(const json_t *messages)
{
    return json_is_true(json_object_get(json_array_get(messages, json_array_size(messages) - 1), "prefix"));
}

/* ---- ChatML: <|im_start|>role\ncontent<|im_end|>\n ---- */

static bool is_chatml(const char *tpl)
{
    return strstr(tpl, "<|im_start|>") && strstr(tpl, "<|im_end|>");
}

/* The system text that the template itself writes when the conversation has none: the literal between "<|im_start|>system\n"
 * and "<|im_end|>" that no quote interrupts. */
static struct hd_view default_system(const char *tpl)
{
    static const char head[] = "<|im_start|>system\\n", real[] = "<|im_start|>system\n";

    for (const char *p = strstr(tpl, "<|im_start|>system"); p; p = strstr(p + 1, "<|im_start|>system")) {
        const char *text = !strncmp(p, head, sizeof head - 1) ? p + sizeof head - 1 : !strncmp(p, real, sizeof real - 1) ? p + sizeof real - 1 : NULL, *end;

        if (text && (end = strstr(text, "<|im_end|>")) && !memchr(text, '\'', (size_t)(end - text)) && !memchr(text, '{', (size_t)(end - text)))
            return (struct hd_view){text, (size_t)(end - text)};
    }
    return (struct hd_view){NULL, 0};
}

static int render_chatml(const char *tpl, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err)
{
    const json_t *messages = json_object_get(doc, "messages");
    struct hd_view sys = default_system(tpl);
    size_t n = json_array_size(messages);
    struct message m;

    for (size_t i = 0; i < n; i++) {
        bool open = i + 1 == n && continues(messages);

        HD_TRY(get_message(json_array_get(messages, i), i, &m, err));
        if (i == 0 && sys.p && strcmp(m.role, "system")) {
            mark(out, "<|im_start|>system\n");
            put(out, sys.p, sys.n, false);
            mark(out, "<|im_end|>\n");
        }
        mark(out, "<|im_start|>");
        mark(out, m.role);
        mark(out, "\n");
        put(out, m.content, m.n_content, false);
        if (open)
            return HD_OK;
        mark(out, "<|im_end|>\n");
    }
    if (!opt->no_generation_prompt)
        mark(out, "<|im_start|>assistant\n");
    return HD_OK;
}

/* ---- Llama 3: <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>, content trimmed ---- */

static bool is_llama3(const char *tpl)
{
    return strstr(tpl, "<|start_header_id|>") && strstr(tpl, "<|eot_id|>") && !strstr(tpl, "Cutting Knowledge Date");
}

static void put_trimmed(struct hd_chat_text *out, const char *p, size_t n)
{
    while (n && strchr(" \t\r\n\v\f", *p)) {
        p++;
        n--;
    }
    while (n && p[n - 1] && strchr(" \t\r\n\v\f", p[n - 1]))
        n--;
    put(out, p, n, false);
}

static int render_llama3(const char *tpl, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err)
{
    const json_t *messages = json_object_get(doc, "messages");
    size_t n = json_array_size(messages);
    struct message m;

    mark(out, "<|begin_of_text|>");
    for (size_t i = 0; i < n; i++) {
        HD_TRY(get_message(json_array_get(messages, i), i, &m, err));
        mark(out, "<|start_header_id|>");
        mark(out, m.role);
        mark(out, "<|end_header_id|>\n\n");
        put_trimmed(out, m.content, m.n_content);
        if (i + 1 == n && continues(messages))
            return HD_OK;
        mark(out, "<|eot_id|>");
    }
    if (!opt->no_generation_prompt)
        mark(out, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    return HD_OK;
}

static const struct family {
    const char *name;
    bool tools;                       /* has a form for them, or leaves them out as its template does */
    bool (*is)(const char *tpl);
    int (*render)(const char *tpl, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err);
} families[] = {{"chatml", false, is_chatml, render_chatml}, {"llama3", false, is_llama3, render_llama3}, {"deepseek-r1", true, hd_chat_is_r1, hd_chat_r1},
                {"deepseek-v3.1", true, hd_chat_is_v31, hd_chat_v31}};

static const struct family *find_family(const struct hd_tokenizer *t)
{
    for (int i = 0; i < HD_LEN(families); i++)
        if (families[i].is(hd_tokenizer_template(t)))
            return &families[i];
    return NULL;
}

static bool is_deepseek(const struct hd_tokenizer *t, struct hd_chat_deepseek *kind)
{
    *kind = (struct hd_chat_deepseek){!strncmp(t->model_type, "deepseek_v41", 12), t->ga};
    return !strcmp(t->model_type, "deepseek_v4") || kind->v41;
}

const char *hd_chat_family(const struct hd_tokenizer *t)
{
    const struct family *f = find_family(t);
    struct hd_chat_deepseek kind;

    if (is_deepseek(t, &kind))
        return kind.v41 ? "deepseek-v4.1" : "deepseek-v4";
    return f ? f->name : NULL;
}

int hd_chat_render(const struct hd_tokenizer *t, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err)
{
    const json_t *messages = json_object_get(doc, "messages");
    const struct family *f = find_family(t);
    struct hd_chat_deepseek kind;

    if (json_is_object(doc) && is_deepseek(t, &kind)) {
        HD_TRY(hd_chat_deepseek(&kind, doc, opt, out, err));
        return out->text.failed ? hd_err_set(err, HD_ERR_MEMORY, "no memory for the prompt") : HD_OK;
    }
    if (!json_is_object(doc) || !json_is_array(messages))
        return hd_err_set(err, HD_ERR_FORMAT, "messages: expected a list");
    if (!json_array_size(messages))
        return hd_err_set(err, HD_ERR_FORMAT, "messages: the list is empty");
    if (!f)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, hd_tokenizer_template(t)[0] ? "the model's chat template is of no known family (--raw takes the text as it is)"
                                                                                : "the model has no chat template (--raw takes the text as it is)");
    if (json_array_size(json_object_get(doc, "tools")) && !f->tools)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "tools: the %s template has no form for them here", f->name);
    HD_TRY(f->render(hd_tokenizer_template(t), doc, opt, out, err));
    return out->text.failed ? hd_err_set(err, HD_ERR_MEMORY, "no memory for the prompt") : HD_OK;
}

/* Added tokens are looked for in markers only. Everything between two of them is one text, as the reference sees it: the
 * newline of a marker and what a user wrote behind it are split together. */
int hd_chat_ids(struct hd_tokenizer *t, const struct hd_chat_text *c, struct hd_ids *out, struct hd_err *err)
{
    const char *text = hd_str_get(&c->text);
    size_t from = 0;

    for (size_t i = 0; i < c->n_span; i++) {
        for (size_t at = c->span[i].begin; c->span[i].marker && at < c->span[i].end;) {
            const struct hd_added *a = hd_added_find(t, text + at, c->span[i].end - at);

            if (!a) {
                at++;
                continue;
            }
            HD_TRY(hd_tokenize(t, text + from, at - from, 0, out, err));
            if (!hd_ids_push(out, a->id))
                return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu token ids", out->n);
            from = at += a->text.n;
        }
    }
    return hd_tokenize(t, text + from, c->text.n - from, 0, out, err);
}

json_t *hd_chat_messages(const char *const *role, const char *const *content, int n)
{
    json_t *list, *doc;

    hd_json_init();
    list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s%}", "role", role[i], "content", content[i], strlen(content[i])));
    doc = json_pack("{s:o}", "messages", list);
    return doc;
}
