/* history.c: see history.h. Liberal in what it takes: unknown keys are skipped, null counts as absent. */
#include "server/history.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "sample/json_vocab.h"
#include "sample/schema.h"
#include "server/parts.h"

/* ---- messages ---- */

static int add_calls(const json_t *m, json_t *out, const char *where, struct hd_problem *p)
{
    const json_t *calls = hd_field(m, "tool_calls"), *c;
    json_t *list;
    size_t i;

    if (!calls)
        return HD_OK;
    if (!json_is_array(calls) || json_array_size(calls) > 1000)
        return hd_problem_set(p, 400, where, "%s: tool_calls: expected a list", where);
    if (!json_array_size(calls))
        return HD_OK;
    list = json_array();
    json_object_set_new(out, "tool_calls", list);
    json_array_foreach((json_t *)calls, i, c)
    {
        const json_t *f = json_object_get(c, "function"), *args = hd_field(f, "arguments"), *type = hd_field(c, "type");
        char *text;

        if (!json_is_string(json_object_get(f, "name")) || !hd_text_of(c, "id")[0])
            return hd_problem_set(p, 400, where, "%s: tool_calls[%zu]: expected an id and a function with a name", where, i);
        if (type && !hd_text_is(c, "type", "function"))
            return hd_problem_set(p, 400, where, "%s: tool_calls[%zu]: type: expected \"function\"", where, i);
        if (args && !json_is_string(args) && !json_is_object(args))
            return hd_problem_set(p, 400, where, "%s: tool_calls[%zu]: arguments: expected a string of JSON", where, i);
        text = json_is_string(args) ? NULL : json_is_object(args) ? json_dumps(args, 0) : hd_strdup("{}");
        json_array_append_new(list, json_pack("{s:O, s:s, s:{s:O, s:o}}", "id", json_object_get(c, "id"), "type", "function", "function", "name",
                                              json_object_get(f, "name"), "arguments",
                                              json_is_string(args) ? json_incref((json_t *)args) : json_string(text ? text : "{}")));
        hd_free(text);
    }
    return HD_OK;
}

static int add_assistant(const json_t *m, json_t *out, bool last, const char *where, struct hd_problem *p)
{
    const json_t *reasoning = hd_field(m, "reasoning_content"), *prefix = hd_field(m, "prefix");

    if (reasoning && !json_is_string(reasoning))
        return hd_problem_set(p, 400, where, "%s: reasoning_content: expected a string", where);
    if (!reasoning)
        reasoning = hd_field(m, "reasoning");
    if (json_is_string(reasoning))
        json_object_set(out, "reasoning_content", (json_t *)reasoning);
    HD_TRY(add_calls(m, out, where, p));
    if (!hd_field(m, "content") && !json_object_get(out, "tool_calls") && !json_is_string(reasoning))
        return hd_problem_set(p, 400, where, "%s: an assistant message needs content or tool_calls", where);
    if (prefix && !json_is_boolean(prefix))
        return hd_problem_set(p, 400, where, "%s: prefix: expected true or false", where);
    if (json_is_true(prefix) && !last)
        return hd_problem_set(p, 400, where, "%s: prefix: only the last message can be continued", where);
    if (last && !json_object_get(out, "tool_calls"))
        json_object_set_new(out, "prefix", json_true());      /* there is nothing else that could be asked for */
    return HD_OK;
}

/* The role as the model's encoder knows it, or NULL. */
static const char *role_of(const struct hd_server *s, const char *role)
{
    static const char *const known[] = {"system", "user", "assistant", "tool", "latest_reminder"};

    if (!strcmp(role, "developer"))
        return s->parse_family == HD_PARSE_V4 ? "developer" : "system";
    if (!strcmp(role, "function"))
        return "tool";
    for (int i = 0; i < HD_LEN(known) - !s->deepseek; i++)
        if (!strcmp(role, known[i]))
            return known[i];
    return NULL;
}

static int add_message(const struct hd_server *s, struct hd_ask *a, const json_t *m, size_t i, bool last, struct hd_problem *p)
{
    const char *role = role_of(s, hd_text_of(m, "role"));
    json_t *out, *text;
    char where[40], content[60];

    snprintf(where, sizeof where, "messages[%zu]", i);
    snprintf(content, sizeof content, "messages[%zu].content", i);
    if (!json_is_object(m) || !role)
        return hd_problem_set(p, 400, where, "%s: role: found \"%.40s\"; expected system, user, assistant or tool", where, hd_text_of(m, "role"));
    if (hd_field(m, "name") && !json_is_string(hd_field(m, "name")))
        return hd_problem_set(p, 400, where, "%s: name: expected a string", where);
    if (!(text = hd_content_text(json_object_get(m, "content"), content, p)))
        return HD_ERR_USAGE;
    if (!strcmp(role, "developer") && !json_string_length(text)) {
        json_decref(text);
        return HD_OK;                 /* the encoder has no form for an empty one */
    }
    out = json_pack("{s:s, s:o}", "role", role, "content", text);
    if (!out)
        return hd_problem_set(p, 500, NULL, "no memory");
    json_array_append_new(json_object_get(a->doc, "messages"), out);
    if (!strcmp(role, "assistant"))
        return add_assistant(m, out, last, where, p);
    if (!strcmp(role, "tool")) {
        if (!hd_text_of(m, "tool_call_id")[0])
            return hd_problem_set(p, 400, where, "%s: tool_call_id is missing", where);
        json_object_set(out, "tool_call_id", json_object_get(m, "tool_call_id"));
    }
    return HD_OK;
}

int hd_history_read(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    const json_t *messages = json_object_get(a->body, "messages"), *m;
    size_t i, n = json_array_size(messages);

    if (!json_is_array(messages))
        return hd_problem_set(p, 400, "messages", "messages: expected a list");
    if (n < 1 || n > HD_MESSAGES_MAX)
        return hd_problem_set(p, 400, "messages", "messages: found %zu; expected 1 to %d", n, HD_MESSAGES_MAX);
    a->doc = json_pack("{s:[]}", "messages");
    if (!a->doc)
        return hd_problem_set(p, 500, NULL, "no memory");
    json_array_foreach((json_t *)messages, i, m) HD_TRY(add_message(s, a, m, i, i + 1 == n, p));
    return HD_OK;
}

/* ---- results and calls ---- */

static const json_t *call_with(const json_t *calls, const char *id)
{
    const json_t *c;
    size_t i;

    json_array_foreach((json_t *)calls, i, c) if (!strcmp(hd_text_of(c, "id"), id)) return c;
    return NULL;
}

/* Are there as many results as calls behind message i? */
static int check_results(const json_t *messages, size_t i, struct hd_problem *p)
{
    const json_t *calls = json_object_get(json_array_get(messages, i), "tool_calls"), *m, *c;
    json_t *seen = json_object();
    size_t k, n = json_array_size(messages);
    int rc = HD_OK;

    for (k = i + 1; rc == HD_OK && k < n && hd_text_is(m = json_array_get(messages, k), "role", "tool"); k++) {
        const char *id = hd_text_of(m, "tool_call_id");

        if (!call_with(calls, id))
            rc = hd_problem_set(p, 400, "messages", "messages: tool_call_id \"%.80s\" belongs to no call of the message before", id);
        else if (json_object_get(seen, id))
            rc = hd_problem_set(p, 400, "messages", "messages: there are two results of the call \"%.80s\"", id);
        else
            json_object_set_new(seen, id, json_true());
    }
    json_array_foreach((json_t *)calls, k, c)
    {
        if (rc == HD_OK && i + 1 < n && !json_object_get(seen, hd_text_of(c, "id")))
            rc = hd_problem_set(p, 400, "messages", "messages: the call \"%.80s\" has no result", hd_text_of(c, "id"));
    }
    json_decref(seen);
    return rc;
}

/* Turns that this server has said come back as they were. */
static void restore_turns(struct hd_server *s, struct hd_ask *a)
{
    json_t *messages = json_object_get(a->doc, "messages"), *m;
    char tenant[HD_TENANT_MAX];
    size_t i;

    hd_ask_tenant(a, tenant);
    a->spot = hd_calloc(json_array_size(messages) + 1, sizeof *a->spot);
    json_array_foreach(messages, i, m)
    {
        struct hd_replay_spot *spot = a->spot + a->n_spot;
        bool calls = json_array_size(json_object_get(m, "tool_calls")) > 0, said = hd_text_is(m, "role", "assistant") && !json_is_true(json_object_get(m, "prefix"));

        if (a->spot && (calls || said)) {
            if (hd_replay_restore(s->replay, tenant, a->chain, m, spot)) {
                hd_replay_text(s->tok, spot, m, a->thinking);
                a->n_spot++;
            } else if (calls) {
                hd_metrics_count(&s->metrics.replays[HD_REPLAY_MISS], 1);
            }
        }
        a->chain = hd_replay_chain(a->chain, m);
    }
}

int hd_history_check(struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    const json_t *messages = json_object_get(a->doc, "messages"), *m;
    bool thinking = strcmp(a->thinking, "off") != 0, tools = a->has_tools;
    size_t i;

    restore_turns(s, a);
    json_array_foreach((json_t *)messages, i, m)
    {
        bool calls = json_array_size(json_object_get(m, "tool_calls")) > 0;

        if (hd_text_is(m, "role", "tool") && (i == 0 || (!hd_text_is(json_array_get(messages, i - 1), "role", "tool") && !json_array_size(json_object_get(json_array_get(messages, i - 1), "tool_calls")))))
            return hd_problem_set(p, 400, "messages", "messages: tool_call_id \"%.80s\" belongs to no call of the message before", hd_text_of(m, "tool_call_id"));
        if (calls)
            HD_TRY(check_results(messages, i, p));
        tools |= calls;
        if (thinking && tools && hd_text_is(m, "role", "assistant") && !json_object_get(m, "reasoning_content") && !json_is_true(json_object_get(m, "prefix")))
            a->reasoning_missing = true;
    }
    if (a->reasoning_missing && s->opt.strict_reasoning)
        return hd_problem_set(p, 400, NULL, "The `reasoning_content` in the thinking mode must be passed back to the API.");
    return HD_OK;
}

/* ---- tools ---- */

static bool good_name(const char *s, size_t max)
{
    size_t n = strlen(s);

    return n >= 1 && n <= max && strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-:.") == n;
}

int hd_tools_add(struct hd_ask *a, const char *name, const json_t *description, const json_t *parameters, const json_t *strict, size_t i, struct hd_problem *p)
{
    json_t *f, *tools = json_object_get(a->doc, "tools");
    char where[40];

    snprintf(where, sizeof where, "tools[%zu]", i);
    if (!good_name(name, 128))
        return hd_problem_set(p, 400, where, "%s: name: found \"%.140s\"; expected 1 to 128 letters, digits, _ or -", where, name);
    if (parameters && !json_is_object(parameters))
        return hd_problem_set(p, 400, where, "%s: parameters: expected an object", where);
    if (description && !json_is_string(description))
        return hd_problem_set(p, 400, where, "%s: description: expected a string", where);
    if (strict && !json_is_boolean(strict))
        return hd_problem_set(p, 400, where, "%s: strict: expected true or false", where);
    if (json_is_true(strict) && !a->strict_tools)
        a->strict_tools = json_object();
    if (json_is_true(strict))
        json_object_set_new(a->strict_tools, name, json_true());
    if (!tools)
        json_object_set_new(a->doc, "tools", tools = json_array());
    if (json_array_size(tools) >= HD_TOOLS_MAX)
        return hd_problem_set(p, 400, "tools", "tools: at most %d expected", HD_TOOLS_MAX);
    f = json_pack("{s:s}", "name", name);
    if (!f)
        return hd_problem_set(p, 500, NULL, "no memory");
    if (description)
        json_object_set(f, "description", (json_t *)description);
    if (parameters)
        json_object_set(f, "parameters", (json_t *)parameters);
    json_array_append_new(tools, json_pack("{s:s, s:o}", "type", "function", "function", f));
    a->has_tools = true;
    return HD_OK;
}

/* Drops tools whose names are not keys of it. */
static void keep_only(json_t *tools, const json_t *names)
{
    for (size_t i = json_array_size(tools); i-- > 0;)
        if (!json_object_get(names, hd_text_of(json_object_get(json_array_get(tools, i), "function"), "name")))
            json_array_remove(tools, i);
}

static bool has_tool(const json_t *tools, const char *name)
{
    const json_t *t;
    size_t i;

    json_array_foreach((json_t *)tools, i, t) if (hd_text_is(json_object_get(t, "function"), "name", name)) return true;
    return false;
}

/* {"mode", "tools": [{"type": "function", "function": {"name"}}]}; Responses has the name outside. */
static int allow_tools(const struct hd_server *s, struct hd_ask *a, const json_t *choice, struct hd_problem *p)
{
    const json_t *list = hd_field(choice, "tools"), *t;
    json_t *tools = json_object_get(a->doc, "tools"), *names = json_object();
    int rc = HD_OK;
    size_t i;

    if (!json_array_size(list))
        rc = hd_problem_set(p, 400, "tool_choice", "tool_choice: allowed_tools: tools: expected a list of tools");
    json_array_foreach((json_t *)list, i, t)
    {
        const json_t *f = json_object_get(t, "function");
        const char *name = hd_text_of(json_is_object(f) ? f : t, "name");

        if (rc == HD_OK && !has_tool(tools, name))
            rc = hd_problem_set(p, 400, "tool_choice", "tool_choice: there is no tool named \"%.80s\"", name);
        json_object_set_new(names, name, json_true());
    }
    if (rc == HD_OK)
        keep_only(tools, names);
    json_decref(names);
    return rc < 0 ? rc : hd_tools_choose(s, a, hd_text_of(choice, "mode"), NULL, p);
}

int hd_tools_choice(const struct hd_server *s, struct hd_ask *a, const json_t *choice, struct hd_problem *p)
{
    const json_t *f = json_object_get(choice, "function"), *inner = json_object_get(choice, "allowed_tools");

    if (json_is_string(choice))
        return hd_tools_choose(s, a, json_string_value(choice), NULL, p);
    if (hd_text_is(choice, "type", "allowed_tools"))
        return allow_tools(s, a, json_is_object(inner) ? inner : choice, p);
    if (json_is_object(choice))
        return hd_tools_choose(s, a, hd_text_is(choice, "type", "custom") ? "function" : hd_text_of(choice, "type"), hd_text_of(json_is_object(f) ? f : choice, "name"), p);
    return choice ? hd_problem_set(p, 400, "tool_choice", "tool_choice: expected a string or an object") : HD_OK;
}

int hd_tools_choose(const struct hd_server *s, struct hd_ask *a, const char *choice, const char *name, struct hd_problem *p)
{
    json_t *tools = json_object_get(a->doc, "tools");

    if (!strcmp(choice, "auto"))
        return HD_OK;
    if (!strcmp(choice, "none")) {
        json_object_del(a->doc, "tools");
        a->has_tools = false;
        return HD_OK;
    }
    if (strcmp(choice, "required") && strcmp(choice, "function"))
        return hd_problem_set(p, 400, "tool_choice", "tool_choice: found \"%.40s\"; expected auto, none, required or a function", choice);
    if (!a->has_tools)
        return hd_problem_set(p, 400, "tool_choice", "tool_choice: there are no tools to choose from");
    if (name && !has_tool(tools, name))
        return hd_problem_set(p, 400, "tool_choice", "tool_choice: there is no tool named \"%.80s\"", name);
    if (name) {
        json_t *only = json_pack("{s:b}", name, 1);

        keep_only(tools, only);
        json_decref(only);
    }
    a->force = HD_TOOLS_REQUIRED;
    return HD_OK;
}

int hd_tools_read(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    const json_t *tools = hd_field(a->body, "tools"), *choice = hd_field(a->body, "tool_choice"), *t;
    bool parallel = true;
    size_t i;

    if (hd_field(a->body, "functions") || hd_field(a->body, "function_call"))
        return hd_problem_set(p, 400, "functions", "functions and function_call are of an older API; use tools and tool_choice");
    if (tools && !json_is_array(tools))
        return hd_problem_set(p, 400, "tools", "tools: expected a list");
    json_array_foreach((json_t *)tools, i, t)
    {
        const json_t *f = json_object_get(t, "function");

        if (!hd_text_is(t, "type", "function") || !json_is_object(f))
            return hd_problem_set(p, 400, "tools", "tools[%zu]: expected {\"type\": \"function\", \"function\": {...}}", i);
        HD_TRY(hd_tools_add(a, hd_text_of(f, "name"), hd_field(f, "description"), hd_field(f, "parameters"), hd_field(f, "strict"), i, p));
    }
    if (a->has_tools && !s->tools)
        return hd_problem_set(p, 400, "tools", "tools: this model's chat template has no form for them");
    HD_TRY(hd_field_bool(a->body, "parallel_tool_calls", &parallel, p));
    a->one_call = !parallel;
    return hd_tools_choice(s, a, choice, p);
}

/* ---- formats ---- */

static bool says_json(const json_t *messages)
{
    const json_t *m;
    size_t i;

    json_array_foreach((json_t *)messages, i, m) if (strcasestr(hd_text_of(m, "content"), "json")) return true;
    return false;
}

/* Who did not say strict gets what can be kept by force, too. Messages has no such word, and means it. */
static int read_schema(struct hd_ask *a, const json_t *format, struct hd_problem *p)
{
    const json_t *nested = hd_field(format, "json_schema"), *holder = nested ? nested : format, *schema = json_object_get(holder, "schema");

    if (!json_is_object(schema))
        return hd_problem_set(p, 400, "response_format", "response_format: json_schema: schema: expected an object");
    a->strict_format = !nested;
    HD_TRY(hd_field_bool(holder, "strict", &a->strict_format, p));
    json_object_set_new(a->doc, "response_format", json_pack("{s:s, s:{s:O}}", "type", "json_schema", "json_schema", "schema", schema));
    a->format = json_incref((json_t *)schema);
    return HD_OK;
}

int hd_format_read(struct hd_ask *a, const json_t *format, struct hd_problem *p)
{
    const char *type = hd_text_of(format, "type");

    if (!format)
        return HD_OK;
    if (!json_is_object(format))
        return hd_problem_set(p, 400, "response_format", "response_format: expected an object");
    if (!strcmp(type, "text"))
        return HD_OK;
    if (!strcmp(type, "json_object")) {
        if (!says_json(json_object_get(a->doc, "messages")))
            return hd_problem_set(p, 400, "response_format", "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'.");
        json_object_set_new(a->doc, "response_format", json_pack("{s:s}", "type", "json_object"));
        a->format = json_pack("{s:s}", "type", "object");
        return HD_OK;
    }
    if (!strcmp(type, "json_schema"))
        return read_schema(a, format, p);
    return hd_problem_set(p, 400, "response_format", "response_format: type: found \"%.40s\"; expected text, json_object or json_schema", type);
}
