/* chat_deepseek.c: see chat_deepseek.h. Works on copies of the messages, in the encoders' own steps: normalise, merge tool
 * results into user turns, sort them by call, drop old reasoning, render one message after the other. */
#include "token/chat_deepseek.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "token/py_json.h"

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"
#define SYSTEM "<｜System｜>"
#define REMINDER "<｜latest_reminder｜>"
#define IMAGE "<｜deepseek_image｜>"
#define DSML "｜DSML｜"

static const char *const tasks[][2] = {{"action", "<｜action｜>"}, {"query", "<｜query｜>"}, {"authority", "<｜authority｜>"},
                                       {"domain", "<｜domain｜>"}, {"title", "<｜title｜>"}, {"read_url", "<｜read_url｜>"}};

static const char effort_absolute[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, rigorously stress-testing your logic against all "
    "potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, and rejected hypothesis to ensure absolutely no "
    "assumption is left unchecked.\n\n";
static const char effort_beyond[] =
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles and are certain that no assumption remains unchecked and no error remains undiscovered.\n\n";

struct job {
    const struct hd_chat_deepseek *kind;
    const struct hd_chat_options *opt;
    struct hd_chat_text *out;
    bool thinking, drop;
    int effort;                       /* V4.1: 1..100 */
    const char *effort_text;          /* V4: written before anything else; NULL: none */
    json_t *all;                      /* messages as they are rendered, context first */
    size_t n_context;
    struct hd_err *err;
};

static const char *text_of(const json_t *m, const char *key)
{
    const char *s = json_string_value(json_object_get(m, key));

    return s ? s : "";
}

static bool role_is(const json_t *m, const char *role)
{
    return !strcmp(text_of(m, "role"), role);
}

static void mark(struct job *j, const char *s)
{
    hd_chat_mark(j->out, s);
}

/* ---- normalising ---- */

static bool has_image(const json_t *v)
{
    return json_is_string(v) && strstr(json_string_value(v), IMAGE);
}

/* The texts of a list of blocks, joined; other blocks as unsupported (or left out). */
static json_t *join_texts(const json_t *blocks, bool unsupported)
{
    struct hd_str s;
    const json_t *b;
    json_t *out;
    size_t i;
    bool first = true;

    hd_str_init(&s, 0);
    json_array_foreach((json_t *)blocks, i, b)
    {
        bool text = !strcmp(text_of(b, "type"), "text");

        if (!text && !unsupported)
            continue;
        if (!first)
            hd_str_puts(&s, "\n\n");
        first = false;
        if (text)
            hd_str_add(&s, text_of(b, "text"), json_string_length(json_object_get(b, "text")));
        else
            hd_str_printf(&s, "[Unsupported %s]", json_is_string(json_object_get(b, "type")) ? text_of(b, "type") : "None");
    }
    out = json_stringn(hd_str_get(&s), s.n);
    hd_str_release(&s);
    return out;
}

/* V4.1: images become the placeholder, also inside tool results; the placeholder in text is refused. */
static int image_blocks(json_t *blocks, size_t at, struct hd_err *err)
{
    json_t *b;
    size_t i;

    json_array_foreach(blocks, i, b)
    {
        const char *type = text_of(b, "type");

        if (!json_is_object(b))
            return hd_err_set(err, HD_ERR_FORMAT, "messages[%zu]: content[%zu]: expected an object", at, i);
        if (!strcmp(type, "image") || !strcmp(type, "image_url"))
            json_array_set_new(blocks, i, json_pack("{s:s, s:s}", "type", "text", "text", IMAGE));
        else if (!strcmp(type, "tool_result") && json_is_array(json_object_get(b, "content")))
            HD_TRY(image_blocks(json_object_get(b, "content"), at, err));
        else if (!strcmp(type, "text") && has_image(json_object_get(b, "text")))
            return hd_err_set(err, HD_ERR_FORMAT, "messages[%zu]: content[%zu]: text contains the image placeholder", at, i);
    }
    return HD_OK;
}

static int check_tools(const json_t *tools, const char *where, struct hd_err *err)
{
    const json_t *t;
    size_t i;

    if (!tools || json_is_null(tools))
        return HD_OK;
    if (!json_is_array(tools))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: tools: expected a list", where);
    json_array_foreach((json_t *)tools, i, t) if (!json_is_object(json_object_get(t, "function")))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: tools[%zu]: function: expected an object", where, i);
    return HD_OK;
}

static int check_calls(const json_t *calls, const char *where, struct hd_err *err)
{
    const json_t *c;
    size_t i;

    if (!calls || json_is_null(calls))
        return HD_OK;
    if (!json_is_array(calls))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: tool_calls: expected a list", where);
    json_array_foreach((json_t *)calls, i, c)
    {
        const json_t *f = json_object_get(c, "function");

        if (!json_is_string(json_object_get(f, "name")) || !json_object_get(f, "arguments"))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: tool_calls[%zu]: function: expected {\"name\", \"arguments\"}", where, i);
    }
    return HD_OK;
}

static int check_message(const struct job *j, json_t *m, size_t i, struct hd_err *err)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool", "latest_reminder", "developer"};
    const json_t *role = json_object_get(m, "role"), *task = json_object_get(m, "task");
    json_t *content = json_object_get(m, "content");
    int n_role = j->kind->v41 ? 5 : 6, k = 0;
    char where[40];

    snprintf(where, sizeof where, "messages[%zu]", i);
    if (!json_is_object(m) || !json_is_string(role))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: role: expected a string", where);
    while (k < n_role && strcmp(json_string_value(role), roles[k]))
        k++;
    if (k == n_role)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: role: found \"%.40s\"; expected system, user, assistant, tool%s or latest_reminder", where, json_string_value(role),
                          j->kind->v41 ? "" : ", developer");
    if (task && !json_is_null(task)) {
        for (k = 0; k < HD_LEN(tasks) && (!json_is_string(task) || strcmp(json_string_value(task), tasks[k][0])); k++) {
        }
        if (k == HD_LEN(tasks))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: task: expected action, query, authority, domain, title or read_url", where);
    }
    HD_TRY(check_tools(json_object_get(m, "tools"), where, err));
    HD_TRY(check_calls(json_object_get(m, "tool_calls"), where, err));
    if (content && !json_is_string(content) && !json_is_null(content) && !(json_is_array(content) && (j->kind->v41 || role_is(m, "tool"))))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: content: expected a string%s", where, j->kind->v41 ? " or a list of blocks" : "");
    if (role_is(m, "developer") && !text_of(m, "content")[0])
        return hd_err_set(err, HD_ERR_FORMAT, "%s: content: a developer message must not be empty", where);
    if (!j->kind->v41)
        return HD_OK;
    if (has_image(content) || has_image(json_object_get(m, "reasoning_content")))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: text contains the image placeholder", where);
    if (json_is_array(content)) {
        HD_TRY(image_blocks(content, i, err));
        json_object_set(m, "content_blocks", content);
        json_object_set_new(m, "content", join_texts(content, false));
    }
    return HD_OK;
}

/* A tool's answer becomes a block of the user turn; users and tools in a row are one turn. */
static json_t *merge(const struct job *j, const json_t *messages)
{
    json_t *out = json_array(), *m;
    size_t i;

    json_array_foreach((json_t *)messages, i, m)
    {
        json_t *last = json_array_size(out) ? json_array_get(out, json_array_size(out) - 1) : NULL, *open = last && role_is(last, "user") ? json_object_get(last, "content_blocks") : NULL;
        json_t *content = json_object_get(m, "content");

        if (role_is(m, "tool")) {
            json_t *b = json_pack("{s:s, s:s}", "type", "tool_result", "tool_use_id", text_of(m, "tool_call_id"));

            if (json_is_array(content))
                json_object_set_new(b, "content", join_texts(content, true));
            else
                json_object_set_new(b, "content", json_is_string(content) ? json_incref(content) : json_string(""));
            if (open)
                json_array_append_new(open, b);
            else
                json_array_append_new(out, json_pack("{s:s, s:[o]}", "role", "user", "content_blocks", b));
        } else if (role_is(m, "user")) {
            json_t *blocks = json_object_get(m, "content_blocks"), *task = last ? json_object_get(last, "task") : NULL;

            blocks = json_is_array(blocks) ? json_incref(blocks)
                                           : json_pack("[{s:s, s:o}]", "type", "text", "text", json_is_string(content) ? json_incref(content) : json_string(""));
            if (open && (!task || json_is_null(task))) {
                json_array_extend(open, blocks);
            } else {
                json_t *copy = json_copy(m);

                if (!j->kind->v41) {      /* V4 keeps these alone */
                    json_object_del(copy, "tools");
                    json_object_del(copy, "response_format");
                }
                json_object_set(copy, "content_blocks", blocks);
                json_array_append_new(out, copy);
            }
            json_decref(blocks);
        } else {
            json_array_append(out, m);
        }
    }
    return out;
}

static json_int_t order_of(const json_t *order, const json_t *block)
{
    return json_integer_value(json_object_get(order, text_of(block, "tool_use_id")));      /* unknown: 0 */
}

/* Tool results of a turn in the order of the latest calls; stable, other blocks keep their places. */
static void sort_results(json_t *messages)
{
    json_t *order = json_object(), *m, *b;
    size_t i, k;

    json_array_foreach(messages, i, m)
    {
        const json_t *calls = json_object_get(m, "tool_calls");
        json_t *blocks = json_object_get(m, "content_blocks"), *results;

        if (role_is(m, "assistant") && json_array_size(calls)) {
            json_object_clear(order);
            json_array_foreach((json_t *)calls, k, b)
            {
                const char *id = text_of(b, "id");

                if (!id[0])
                    id = text_of(json_object_get(b, "function"), "id");
                if (id[0])
                    json_object_set_new(order, id, json_integer((json_int_t)k));
            }
        }
        if (!role_is(m, "user") || !json_array_size(blocks) || !json_object_size(order))
            continue;
        results = json_array();
        json_array_foreach(blocks, k, b) if (!strcmp(text_of(b, "type"), "tool_result")) json_array_append(results, b);
        for (size_t x = 1; x < json_array_size(results); x++)
            for (size_t y = x; y > 0 && order_of(order, json_array_get(results, y - 1)) > order_of(order, json_array_get(results, y)); y--) {
                json_t *t = json_incref(json_array_get(results, y - 1));

                json_array_set(results, y - 1, json_array_get(results, y));
                json_array_set_new(results, y, t);
            }
        for (size_t x = 0, y = 0; x < json_array_size(blocks); x++)
            if (!strcmp(text_of(json_array_get(blocks, x), "type"), "tool_result"))
                json_array_set(blocks, x, json_array_get(results, y++));
        json_decref(results);
    }
    json_decref(order);
}

/* A user boundary: what the assistant answers. */
static bool asks(const struct job *j, const json_t *m, size_t i)
{
    return role_is(m, "user") || (j->kind->v41 ? role_is(m, "system") && i > 0 : role_is(m, "developer"));
}

static long last_ask(const struct job *j, const json_t *messages)
{
    for (size_t i = json_array_size(messages); i-- > 0;)
        if (asks(j, json_array_get(messages, i), i))
            return (long)i;
    return -1;
}

static json_t *drop_reasoning(const struct job *j, const json_t *messages)
{
    json_t *out = json_array(), *m;
    long last = last_ask(j, messages);
    size_t i;

    json_array_foreach((json_t *)messages, i, m)
    {
        if ((long)i >= last || role_is(m, "user") || role_is(m, "system") || role_is(m, "tool") || role_is(m, "latest_reminder")) {
            json_array_append(out, m);
        } else if (role_is(m, "assistant")) {
            json_t *copy = json_copy(m);

            json_object_del(copy, "reasoning_content");
            json_array_append_new(out, copy);
        }
    }
    return out;
}

/* ---- rendering ---- */

static const char *tag(const struct job *j, int i)
{
    static const char *const names[2][3] = {{"tool_calls", "invoke", "parameter"}, {" calls", " invoke", " parameter"}};

    return names[j->kind->v41][i];
}

static void mark3(struct job *j, const char *a, const char *b, const char *c)
{
    mark(j, a);
    mark(j, b);
    mark(j, c);
}

static void put_tools(struct job *j, const json_t *tools)
{
    const char *calls = tag(j, 0), *invoke = tag(j, 1), *param = tag(j, 2);
    const json_t *t;
    size_t i;

    mark3(j, "\n\n## Tools\n\nYou have access to a set of tools to help answer the user's question. You can invoke tools by writing a \"<" DSML, calls,
          ">\" block like the following:\n\n");
    mark3(j, "<" DSML, calls, ">\n");
    mark3(j, "<" DSML, invoke, " name=\"$TOOL_NAME\">\n");
    mark3(j, "<" DSML, param, " name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</" DSML);
    mark3(j, param, ">\n...\n</" DSML, invoke);
    mark3(j, ">\n<" DSML, invoke, " name=\"$TOOL_NAME2\">\n...\n</" DSML);
    mark3(j, invoke, ">\n</" DSML, calls);
    mark(j, ">\n\nString parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON "
            "format and set `string=\"false\"`.\n\nIf thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> "
            "BEFORE any tool calls or final response.\n\nOtherwise, output directly after </think> with tool calls or final response.\n\n### Available Tool Schemas\n\n");
    json_array_foreach((json_t *)tools, i, t)
    {
        if (i)
            mark(j, "\n");
        hd_chat_put_json(j->out, json_object_get(t, "function"));
    }
    mark(j, "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n");
}

static void put_extras(struct job *j, const json_t *m)
{
    const json_t *tools = json_object_get(m, "tools"), *rf = json_object_get(m, "response_format");

    if (json_array_size(tools))
        put_tools(j, tools);
    if (rf && !json_is_null(rf) && !json_is_false(rf)) {
        mark(j, "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n");
        hd_chat_put_json(j->out, rf);
    }
}

static void put_blocks(struct job *j, const json_t *blocks)
{
    const json_t *b;
    size_t i;

    json_array_foreach((json_t *)blocks, i, b)
    {
        const char *type = text_of(b, "type");
        const json_t *content = json_object_get(b, "content");

        if (i)
            mark(j, "\n\n");
        if (!strcmp(type, "text")) {
            if (has_image(json_object_get(b, "text")))
                mark(j, IMAGE);       /* ours: a caller's own was refused */
            else
                hd_chat_put_value(j->out, json_object_get(b, "text"));
        } else if (!strcmp(type, "tool_result")) {
            json_t *joined = json_is_array(content) ? join_texts(content, true) : NULL;

            mark(j, "<tool_result>");
            hd_chat_put_value(j->out, joined ? joined : content);
            mark(j, "</tool_result>");
            json_decref(joined);
        } else {
            mark3(j, "[Unsupported ", json_is_string(json_object_get(b, "type")) ? type : "None", "]");
        }
    }
}

/* Arguments as an object: JSON text (V4.1: even twice encoded), or the raw text under the name "arguments". */
static json_t *arguments_of(const struct job *j, const json_t *f)
{
    json_t *raw = json_object_get(f, "arguments"), *v = json_incref(raw);

    for (int k = 0; k < (j->kind->v41 ? 2 : 1) && json_is_string(v); k++) {
        json_t *next = hd_py_json_parse(json_string_value(v), json_string_length(v));

        if (!next)
            break;
        json_decref(v);
        v = next;
    }
    if (json_is_object(v) && (j->kind->v41 || !json_is_object(raw)))
        return v;
    json_decref(v);
    return json_pack("{s:O}", "arguments", raw);
}

static void put_calls(struct job *j, const json_t *calls)
{
    const json_t *c, *v;
    const char *key;
    size_t i, len;

    mark3(j, "\n\n<" DSML, tag(j, 0), ">\n");
    json_array_foreach((json_t *)calls, i, c)
    {
        const json_t *f = json_object_get(c, "function");
        json_t *args = arguments_of(j, f);
        bool first = true;

        if (i)
            mark(j, "\n");
        mark3(j, "<" DSML, tag(j, 1), " name=\"");
        hd_chat_put_value(j->out, json_object_get(f, "name"));
        mark(j, "\">\n");
        json_object_keylen_foreach(args, key, len, v)
        {
            if (!first)
                mark(j, "\n");
            first = false;
            mark3(j, "<" DSML, tag(j, 2), " name=\"");
            hd_chat_put(j->out, key, len);
            mark(j, hd_py_json_is_string(v) ? "\" string=\"true\">" : "\" string=\"false\">");
            if (hd_py_json_is_string(v))
                hd_chat_put_value(j->out, v);
            else
                hd_chat_put_json(j->out, v);
            mark3(j, "</" DSML, tag(j, 2), ">");
        }
        mark3(j, "\n</" DSML, tag(j, 1), ">");
        json_decref(args);
    }
    mark3(j, "\n</" DSML, tag(j, 0), ">");
}

static bool has_task(const json_t *m)
{
    const json_t *t = json_object_get(m, "task");

    return t && !json_is_null(t);
}

static void render_assistant(struct job *j, const json_t *m, size_t i, long last)
{
    const json_t *calls = json_object_get(m, "tool_calls");
    bool open = json_is_true(json_object_get(m, "wo_eos")) || (json_is_true(json_object_get(m, "prefix")) && i + 1 == json_array_size(j->all));

    if (j->thinking && !(i > 0 && has_task(json_array_get(j->all, i - 1))) && (!j->drop || (long)i > last)) {
        hd_chat_put_value(j->out, json_object_get(m, "reasoning_content"));
        mark(j, "</think>");
    }
    hd_chat_put_value(j->out, json_object_get(m, "content"));
    if (json_array_size(calls))
        put_calls(j, calls);
    if (!open)
        mark(j, EOS);
}

/* What stands between a message and the answer to it. */
static void render_tail(struct job *j, const json_t *m, size_t i, long last)
{
    const json_t *next = i + 1 < json_array_size(j->all) ? json_array_get(j->all, i + 1) : NULL;

    if (next ? !role_is(next, "assistant") && !role_is(next, "latest_reminder") : j->opt->no_generation_prompt)
        return;
    if (has_task(m)) {
        const char *task = text_of(m, "task");

        if (!strcmp(task, "action")) {
            mark(j, ASSISTANT);
            mark(j, j->thinking ? "<think>" : "</think>");
        }
        for (int k = 0; k < HD_LEN(tasks); k++)
            if (!strcmp(task, tasks[k][0]))
                mark(j, tasks[k][1]);
    } else if (asks(j, m, i)) {
        mark(j, ASSISTANT);
        mark(j, j->thinking && (!j->drop || (long)i >= last) ? "<think>" : "</think>");
    }
}

static void render_message(struct job *j, size_t i)
{
    const json_t *m = json_array_get(j->all, i), *blocks = json_object_get(m, "content_blocks");
    long last = last_ask(j, j->all);
    bool system = role_is(m, "system");

    if (i == 0 && j->kind->v41 && (j->thinking || system))
        mark(j, SYSTEM);
    if (i == 0 && j->kind->v41 && j->thinking) {
        char text[128];

        snprintf(text, sizeof text, "Reasoning Effort: %d (range 1-100, the higher the value, the more thorough the reasoning)\n\n", j->effort);
        mark(j, text);
    }
    if (i == 0 && !j->kind->v41 && j->thinking && j->effort_text)
        mark(j, j->effort_text);
    if (system) {
        if (i > 0 && j->kind->v41)
            mark(j, SYSTEM);
        hd_chat_put_value(j->out, json_object_get(m, "content"));
        put_extras(j, m);
    } else if (role_is(m, "developer")) {
        mark(j, USER);
        hd_chat_put_value(j->out, json_object_get(m, "content"));
        put_extras(j, m);
    } else if (role_is(m, "user")) {
        mark(j, USER);
        put_blocks(j, blocks);
    } else if (role_is(m, "latest_reminder")) {
        mark(j, REMINDER);
        hd_chat_put_value(j->out, json_object_get(m, "content"));
    } else {
        render_assistant(j, m, i, last);
    }
    render_tail(j, m, i, last);
}

/* ---- the document ---- */

static int read_thinking(struct job *j, const json_t *doc, struct hd_err *err)
{
    const json_t *t = json_object_get(doc, "thinking");
    const char *s = t ? json_string_value(t) : j->opt->thinking ? j->opt->thinking : "off";
    static const char *const level[] = {"off", "on", "low", "high", "max"};
    int k = 0;

    if (json_is_integer(t) && j->kind->v41) {
        if (json_integer_value(t) < 1 || json_integer_value(t) > 100)
            return hd_err_set(err, HD_ERR_FORMAT, "thinking: found %lld; expected off, on, low, high, max or 1 to 100", (long long)json_integer_value(t));
        j->thinking = true;
        j->effort = (int)json_integer_value(t);
        return HD_OK;
    }
    while (k < HD_LEN(level) && (!s || strcmp(s, level[k])))
        k++;
    if (k == HD_LEN(level)) {
        char brief[64];

        return hd_err_set(err, HD_ERR_FORMAT, "thinking: found %s; expected off, on, low, high%s", t ? hd_json_brief(t, brief) : s, j->kind->v41 ? ", max or 1 to 100" : " or max");
    }
    j->thinking = k > 0;
    j->effort = k == 2 ? 50 : k == 4 ? 100 : 75;
    if (j->kind->ga)
        j->effort_text = k == 3 ? effort_absolute : k == 4 ? effort_beyond : NULL;
    else
        j->effort_text = k == 4 ? effort_absolute : NULL;
    return HD_OK;
}

/* Tools and response_format of the document belong to a system message at the front, made if there is none. */
static void attach(json_t *first_list, const json_t *doc)
{
    const json_t *tools = json_object_get(doc, "tools"), *rf = json_object_get(doc, "response_format");
    const char *type = text_of(rf, "type");
    json_t *m = json_array_get(first_list, 0);

    if (!strcmp(type, "json_schema") && json_object_get(json_object_get(rf, "json_schema"), "schema"))
        rf = json_object_get(json_object_get(rf, "json_schema"), "schema");
    else if (!strcmp(type, "text") || json_is_null(rf))
        rf = NULL;
    if (!json_array_size(tools) && !rf)
        return;
    if (!m || (!role_is(m, "system") && !role_is(m, "developer"))) {
        json_array_insert_new(first_list, 0, json_pack("{s:s, s:s}", "role", "system", "content", ""));
        m = json_array_get(first_list, 0);
    }
    if (json_array_size(tools))
        json_object_set(m, "tools", (json_t *)tools);
    if (rf)
        json_object_set(m, "response_format", (json_t *)rf);
}

static int check_list(const struct job *j, json_t *list, const char *name, struct hd_err *err)
{
    json_t *m;
    size_t i;

    if (!json_is_array(list))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: expected a list", name);
    json_array_foreach(list, i, m) HD_TRY(check_message(j, m, i, err));
    return HD_OK;
}

static bool any_tools(const json_t *list)
{
    const json_t *m;
    size_t i;

    json_array_foreach((json_t *)list, i, m) if (json_array_size(json_object_get(m, "tools"))) return true;
    return false;
}

static int render(struct job *j, json_t *context, json_t *messages, const json_t *doc, struct hd_err *err)
{
    json_t *merged_context, *merged, *drop = json_object_get(doc, "drop_thinking");
    size_t n_render;

    HD_TRY(check_list(j, context, "context", err));
    HD_TRY(check_list(j, messages, "messages", err));
    if (!json_array_size(messages))
        return hd_err_set(err, HD_ERR_FORMAT, "messages: the list is empty");
    HD_TRY(check_tools(json_object_get(doc, "tools"), "messages", err));
    HD_TRY(read_thinking(j, doc, err));
    attach(json_array_size(context) ? context : messages, doc);
    merged_context = merge(j, context);
    merged = merge(j, messages);
    n_render = json_array_size(merged);
    j->all = json_copy(merged_context);
    json_array_extend(j->all, merged);
    sort_results(j->all);
    j->drop = !json_is_false(drop) && !any_tools(j->all);
    if (j->thinking && j->drop) {
        json_t *all = drop_reasoning(j, j->all), *before = drop_reasoning(j, merged_context);

        n_render = json_array_size(all) - json_array_size(before);
        json_decref(j->all);
        j->all = all;
        json_decref(before);
    }
    if (!json_array_size(merged_context))
        mark(j, BOS);
    for (size_t i = json_array_size(j->all) - n_render; i < json_array_size(j->all); i++)
        render_message(j, i);
    json_decref(merged);
    json_decref(merged_context);
    json_decref(j->all);
    return HD_OK;
}

int hd_chat_deepseek(const struct hd_chat_deepseek *kind, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err)
{
    struct job j = {.kind = kind, .opt = opt, .out = out, .err = err};
    const json_t *context = json_object_get(doc, "context");
    json_t *c = context && !json_is_null(context) ? json_deep_copy(context) : json_array(), *m = json_deep_copy(json_object_get(doc, "messages"));
    int rc = c && m ? render(&j, c, m, doc, err) : hd_err_set(err, HD_ERR_FORMAT, "messages: expected a list");

    json_decref(c);
    json_decref(m);
    return rc;
}
