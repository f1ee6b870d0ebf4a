/* chat_v31.c: see chat_v31.h. */
#include "token/chat_v31.h"

#include <string.h>

#include "base/err.h"
#include "token/py_json.h"

#define EOS "<｜end▁of▁sentence｜>"
#define ASSISTANT "<｜Assistant｜>"

struct job {
    struct hd_chat_text *out;
    bool thinking, arguments_as_json;
    bool heads_alone;                 /* a header also where no user's text came before it */
    bool is_tool, is_last_user, is_only_sys, is_prefix;      /* the template's own state */
};

bool hd_chat_is_v31(const char *tpl)
{
    return strstr(tpl, "<｜User｜>") && strstr(tpl, "is_last_user") && strstr(tpl, "<｜tool▁call▁begin｜>") && strstr(tpl, "<｜tool▁sep｜>") && strstr(tpl, "thinking");
}

static int check(const json_t *doc, struct hd_err *err)
{
    const json_t *t;
    size_t i;

    HD_TRY(hd_chat_check(json_object_get(doc, "messages"), true, err));
    json_array_foreach(json_object_get(doc, "tools"), i, t)
    {
        if (!json_is_string(json_object_get(json_object_get(t, "function"), "name")))
            return hd_err_set(err, HD_ERR_FORMAT, "tools[%zu]: function: expected an object with a name", i);
    }
    return HD_OK;
}

/* What the messages say, or the option: off (NULL) or on in any degree. */
static int read_thinking(const json_t *doc, const struct hd_chat_options *opt, bool *on, struct hd_err *err)
{
    static const char *const level[] = {"off", "on", "low", "high", "max"};
    const json_t *v = json_object_get(doc, "thinking");
    const char *s = v ? json_string_value(v) : opt->thinking ? opt->thinking : "off";
    char brief[64];

    for (int i = 0; s && i < HD_LEN(level); i++)
        if (!strcmp(s, level[i])) {
            *on = i > 0;
            return HD_OK;
        }
    return hd_err_set(err, HD_ERR_FORMAT, "thinking: found %s; expected off, on, low, high or max", v ? hd_json_brief(v, brief) : s);
}

/* What the model card of V3.1 has for tools; the checkpoints' own templates leave it to the caller. */
static void put_tools(struct job *j, const json_t *tools)
{
    const json_t *t;
    size_t i;

    hd_chat_mark(j->out, "\n\n## Tools\nYou have access to the following tools:\n");
    json_array_foreach((json_t *)tools, i, t)
    {
        const json_t *f = json_object_get(t, "function"), *parameters = json_object_get(f, "parameters");

        hd_chat_mark(j->out, "\n### ");
        hd_chat_put_value(j->out, json_object_get(f, "name"));
        hd_chat_mark(j->out, "\nDescription: ");
        hd_chat_put_value(j->out, json_object_get(f, "description"));
        hd_chat_mark(j->out, "\n\nParameters: ");
        if (parameters)
            hd_chat_put_json(j->out, parameters);
        else
            hd_chat_mark(j->out, "{}");
        hd_chat_mark(j->out, "\n");
    }
    hd_chat_mark(j->out, "\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
                         "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜>{{additional_tool_calls}}"
                         "<｜tool▁calls▁end｜>\n\nWhere:\n\n- `tool_call_name` must be an exact match to one of the available tools\n"
                         "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
                         "- For multiple tool calls, chain them directly without separators or spaces\n");
}

static void put_arguments(struct job *j, const json_t *a)
{
    json_t *v = j->arguments_as_json && json_is_string(a) ? hd_py_json_parse(json_string_value(a), json_string_length(a)) : NULL;

    if (json_is_string(a) && !j->arguments_as_json)
        hd_chat_put_value(j->out, a);
    else
        hd_chat_put_json(j->out, v ? v : a);
    json_decref(v);
}

static void put_calls(struct job *j, const json_t *m)
{
    const json_t *calls = json_object_get(m, "tool_calls"), *c;
    size_t i;

    if (j->is_last_user || (j->heads_alone && j->is_only_sys))
        hd_chat_mark(j->out, ASSISTANT "</think>");
    j->is_last_user = j->is_tool = false;
    json_array_foreach((json_t *)calls, i, c)
    {
        const json_t *f = json_object_get(c, "function");

        if (!i) {
            hd_chat_put_value(j->out, json_object_get(m, "content"));
            hd_chat_mark(j->out, "<｜tool▁calls▁begin｜>");
        }
        hd_chat_mark(j->out, "<｜tool▁call▁begin｜>");
        hd_chat_put_value(j->out, json_object_get(f, "name"));
        hd_chat_mark(j->out, "<｜tool▁sep｜>");
        put_arguments(j, json_object_get(f, "arguments"));
        hd_chat_mark(j->out, "<｜tool▁call▁end｜>");
    }
    hd_chat_mark(j->out, "<｜tool▁calls▁end｜>" EOS);
}

static void put_answer(struct job *j, const json_t *m, bool open)
{
    const json_t *content = json_object_get(m, "content");
    const char *p = json_string_value(content), *at = strstr(p, "</think>");
    bool prefix = json_is_true(json_object_get(m, "prefix"));
    size_t n = json_string_length(content), skip = at && !j->is_tool ? (size_t)(at - p) + 8 : 0;

    if (j->is_last_user)
        hd_chat_mark(j->out, prefix && j->thinking ? ASSISTANT "<think>" : ASSISTANT "</think>");
    j->is_prefix |= prefix;
    j->is_last_user = j->is_tool = false;
    hd_chat_put(j->out, p + skip, n - skip);
    if (!open)
        hd_chat_mark(j->out, EOS);
}

int hd_chat_v31(const char *tpl, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err)
{
    struct job j = {.out = out, .arguments_as_json = strstr(tpl, "['arguments']|tojson") != NULL, .heads_alone = strstr(tpl, "is_only_sys") != NULL};
    const json_t *messages = json_object_get(doc, "messages"), *tools = json_object_get(doc, "tools"), *m;
    size_t n = json_array_size(messages), i;

    HD_TRY(read_thinking(doc, opt, &j.thinking, err));
    HD_TRY(check(doc, err));
    hd_chat_mark(out, "<｜begin▁of▁sentence｜>");
    json_array_foreach((json_t *)messages, i, m)
    {
        if (!hd_chat_role_is(m, "system"))
            continue;
        if (j.is_only_sys)
            hd_chat_mark(out, "\n\n");
        hd_chat_put_value(out, json_object_get(m, "content"));
        j.is_only_sys = true;
    }
    if (json_array_size(tools))
        put_tools(&j, tools);
    json_array_foreach((json_t *)messages, i, m)
    {
        bool open = i + 1 == n && json_is_true(json_object_get(m, "prefix"));

        if (hd_chat_role_is(m, "user")) {
            j.is_tool = false;
            j.is_last_user = true;
            hd_chat_mark(out, "<｜User｜>");
            hd_chat_put_value(out, json_object_get(m, "content"));
        } else if (hd_chat_role_is(m, "assistant") && json_is_array(json_object_get(m, "tool_calls"))) {
            put_calls(&j, m);
        } else if (hd_chat_role_is(m, "assistant")) {
            put_answer(&j, m, open);
            if (open)
                return HD_OK;
        } else if (hd_chat_role_is(m, "tool")) {
            j.is_last_user = false;
            j.is_tool = true;
            hd_chat_mark(out, "<｜tool▁output▁begin｜>");
            hd_chat_put_value(out, json_object_get(m, "content"));
            hd_chat_mark(out, "<｜tool▁output▁end｜>");
        }
        if (!hd_chat_role_is(m, "system"))
            j.is_only_sys = false;
    }
    if (!opt->no_generation_prompt && !j.is_tool && (j.is_last_user || (j.heads_alone && (j.is_only_sys || !j.is_prefix))))
        hd_chat_mark(out, j.thinking ? ASSISTANT "<think>" : ASSISTANT "</think>");
    return HD_OK;
}
