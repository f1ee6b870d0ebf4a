/* api_responses.c: OpenAI's Responses, the part that Codex and OpenAI's libraries use. Nothing is stored.
 *
 * Its clients reject events of types they do not know: whatever is not in their list must not be sent here.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "server/answering.h"
#include "server/api.h"
#include "server/prep.h"
#include "server/history.h"
#include "server/parts.h"
#include "token/py_json.h"

#define CUSTOM_MAX 8

/* What the reply must know of the request; hd_ask.extra. */
struct extra {
    char *custom[CUSTOM_MAX];         /* names of custom tools: their one parameter is raw text */
    int n_custom;
    int seq;                          /* of events */
};

/* ---- the request: items ---- */

struct reader {
    struct hd_server *s;
    struct hd_ask *a;
    struct hd_problem *p;
    json_t *out;
    json_t *turn;                     /* the assistant's turn that items are being gathered into, borrowed; NULL: none */
    json_t *seen;                     /* call ids */
    char where[48];
};

static int bad(struct reader *r, const char *what)
{
    return hd_problem_set(r->p, 400, r->where, "%s: %s", r->where, what);
}

static int append(struct reader *r, json_t *m)
{
    if (!m || json_array_append_new(r->out, m))
        return hd_problem_set(r->p, 500, NULL, "no memory");
    return HD_OK;
}

/* The assistant's turn: begun if there is none. Reasoning, a message and calls in a row are one. */
static json_t *turn(struct reader *r)
{
    if (!r->turn && append(r, json_pack("{s:s, s:s}", "role", "assistant", "content", "")) == HD_OK)
        r->turn = json_array_get(r->out, json_array_size(r->out) - 1);
    return r->turn;
}

/* Adds text to a field of the turn, as a paragraph of its own. */
static int add_to_turn(struct reader *r, const char *key, const json_t *text)
{
    json_t *t = turn(r);
    struct hd_str s;

    if (!t)
        return HD_ERR_USAGE;
    hd_str_init(&s, 0);
    hd_str_add(&s, hd_text_of(t, key), json_string_length(json_object_get(t, key)));
    if (s.n && json_string_length(text))
        hd_str_puts(&s, "\n\n");
    hd_str_add(&s, json_string_value(text), json_string_length(text));
    json_object_set_new(t, key, json_stringn(hd_str_get(&s), s.n));
    hd_str_release(&s);
    return HD_OK;
}

static int read_message(struct reader *r, const json_t *item)
{
    const char *role = hd_text_of(item, "role");
    json_t *text = hd_content_text(json_object_get(item, "content"), r->where, r->p);
    bool developer = !strcmp(role, "developer"), system = !strcmp(role, "system"), first = json_array_size(r->out) == 0;
    int rc;

    if (!text)
        return HD_ERR_USAGE;
    if (!strcmp(role, "assistant")) {
        rc = add_to_turn(r, "content", text);
    } else if (developer || system) {
        json_t *lead = json_array_size(r->out) == 1 && hd_text_is(json_array_get(r->out, 0), "role", "system") ? json_array_get(r->out, 0) : NULL;

        r->turn = NULL;
        if (lead) {                   /* those at the front are one system text */
            const json_t *before = json_object_get(lead, "content");

            json_object_set_new(lead, "content", json_pack("s%++%", json_string_value(before), json_string_length(before), "\n\n", json_string_value(text), json_string_length(text)));
            rc = HD_OK;
        } else {
            rc = append(r, json_pack("{s:s, s:O}", "role", first || r->s->parse_family != HD_PARSE_V4 ? "system" : "user", "content", text));
        }
    } else if (!strcmp(role, "user")) {
        r->turn = NULL;
        rc = append(r, json_pack("{s:s, s:O}", "role", "user", "content", text));
    } else {
        rc = bad(r, "role: expected user, assistant, system or developer");
    }
    json_decref(text);
    return rc;
}

static int read_reasoning(struct reader *r, const json_t *item)
{
    const json_t *content = hd_field(item, "content"), *part;
    struct hd_str s;
    json_t *text;
    size_t i;
    int rc;

    if (content && !json_is_array(content))
        return bad(r, "content: expected a list");
    hd_str_init(&s, 0);
    json_array_foreach((json_t *)content, i, part) hd_str_puts(&s, hd_text_of(part, "text"));
    text = json_stringn(hd_str_get(&s), s.n);
    hd_str_release(&s);
    if (json_object_get(r->turn, "tool_calls"))
        r->turn = NULL;               /* it belongs to what follows */
    rc = add_to_turn(r, "reasoning_content", text);
    json_decref(text);
    return rc;
}

/* custom: the text is the one parameter "input". */
static int read_call(struct reader *r, const json_t *item, bool custom)
{
    const char *id = hd_text_of(item, "call_id"), *name = hd_text_of(item, "name");
    const json_t *args = json_object_get(item, custom ? "input" : "arguments");
    struct hd_str text;
    json_t *t, *calls;

    if (!id[0] || !name[0] || !json_is_string(args))
        return bad(r, "a call needs call_id, name and arguments");
    if (json_object_get(r->seen, id))
        return bad(r, "this call_id has been used before");
    json_object_set_new(r->seen, id, json_true());
    if (!(t = turn(r)))
        return HD_ERR_USAGE;
    if (!(calls = json_object_get(t, "tool_calls")))
        json_object_set_new(t, "tool_calls", calls = json_array());
    hd_str_init(&text, 0);
    if (custom)
        hd_str_puts(&text, "{\"input\": ");
    if (custom)
        hd_str_json(&text, json_string_value(args), json_string_length(args));
    else
        hd_str_add(&text, json_string_value(args), json_string_length(args));
    if (custom)
        hd_str_putc(&text, '}');
    json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s, s:s%}}", "id", id, "type", "function", "function", "name", name, "arguments", hd_str_get(&text), text.n));
    hd_str_release(&text);
    return HD_OK;
}

static int read_output(struct reader *r, const json_t *item)
{
    const char *id = hd_text_of(item, "call_id");
    json_t *text;

    if (!id[0])
        return bad(r, "an output needs call_id");
    if (!json_object_get(r->seen, id))
        return hd_problem_set(r->p, 400, r->where, "%s: the call_id \"%.80s\" belongs to no call before it", r->where, id);
    if (!(text = hd_content_text(json_object_get(item, "output"), r->where, r->p)))
        return HD_ERR_USAGE;
    r->turn = NULL;
    return append(r, json_pack("{s:s, s:s, s:o}", "role", "tool", "tool_call_id", id, "content", text));
}

static int read_item(struct reader *r, const json_t *item)
{
    const char *type = hd_text_of(item, "type");

    if (!json_is_object(item))
        return bad(r, "expected an object");
    if (!strcmp(type, "message") || (!type[0] && hd_text_of(item, "role")[0]))
        return read_message(r, item);
    if (!strcmp(type, "reasoning"))
        return read_reasoning(r, item);
    if (!strcmp(type, "function_call") || !strcmp(type, "custom_tool_call"))
        return read_call(r, item, type[0] == 'c');
    if (!strcmp(type, "function_call_output") || !strcmp(type, "custom_tool_call_output"))
        return read_output(r, item);
    if (!strcmp(type, "item_reference"))
        return bad(r, "item_reference: this server stores nothing; send the items themselves");
    return type[0] ? HD_OK : bad(r, "an item without a type");     /* of servers that search, compact, ... */
}

static int read_input(struct reader *r)
{
    const json_t *input = hd_field(r->a->body, "input"), *item;
    const char *instructions = "";
    size_t i;

    HD_TRY(hd_field_str(r->a->body, "instructions", &instructions, r->p));
    if (instructions[0])
        HD_TRY(append(r, json_pack("{s:s, s:s}", "role", "system", "content", instructions)));
    if (json_is_string(input))
        return append(r, json_pack("{s:s, s:O}", "role", "user", "content", input));
    if (!json_is_array(input) || !json_array_size(input) || json_array_size(input) > HD_MESSAGES_MAX)
        return hd_problem_set(r->p, 400, "input", "input: expected a string, or a list of 1 to %d items", HD_MESSAGES_MAX);
    json_array_foreach((json_t *)input, i, item)
    {
        snprintf(r->where, sizeof r->where, "input[%zu]", i);
        HD_TRY(read_item(r, item));
    }
    if (r->turn && !json_object_get(r->turn, "tool_calls"))
        json_object_set_new(r->turn, "prefix", json_true());
    return HD_OK;
}

/* ---- the request: tools ---- */

static int add_custom(struct reader *r, struct extra *e, const json_t *t, size_t i)
{
    json_t *schema = json_pack("{s:s, s:{s:{s:s}}, s:[s]}", "type", "object", "properties", "input", "type", "string", "required", "input");
    int rc = HD_OK;

    if (e->n_custom == CUSTOM_MAX)
        rc = hd_problem_set(r->p, 400, "tools", "tools: at most %d custom ones", CUSTOM_MAX);
    if (rc == HD_OK)
        rc = hd_tools_add(r->a, hd_text_of(t, "name"), hd_field(t, "description"), schema, NULL, i, r->p);
    if (rc == HD_OK)
        e->custom[e->n_custom++] = hd_strdup(hd_text_of(t, "name"));
    json_decref(schema);
    return rc;
}

/* A namespace's tools are called ns::name. */
static int add_tool(struct reader *r, struct extra *e, const json_t *t, const char *ns, size_t i)
{
    char name[300];
    const json_t *inner;
    size_t k;

    if (!json_is_object(t))
        return hd_problem_set(r->p, 400, "tools", "tools[%zu]: expected an object", i);
    snprintf(name, sizeof name, "%.140s%s%.140s", ns, ns[0] ? "::" : "", hd_text_of(t, "name"));
    if (hd_text_is(t, "type", "function"))
        return hd_tools_add(r->a, name, hd_field(t, "description"), hd_field(t, "parameters"), hd_field(t, "strict"), i, r->p);
    if (hd_text_is(t, "type", "custom"))
        return add_custom(r, e, t, i);
    if (hd_text_is(t, "type", "namespace") && !ns[0])
        json_array_foreach(json_object_get(t, "tools"), k, inner) HD_TRY(add_tool(r, e, inner, hd_text_of(t, "name"), i));
    return HD_OK;                     /* what OpenAI's servers would run */
}

static int read_tools(struct reader *r, struct extra *e)
{
    const json_t *tools = hd_field(r->a->body, "tools"), *choice = hd_field(r->a->body, "tool_choice"), *t;
    bool parallel = true;
    size_t i;

    if (tools && !json_is_array(tools))
        return hd_problem_set(r->p, 400, "tools", "tools: expected a list");
    json_array_foreach((json_t *)tools, i, t) HD_TRY(add_tool(r, e, t, "", i));
    if (r->a->has_tools && !r->s->tools)
        return hd_problem_set(r->p, 400, "tools", "tools: this model's chat template has no form for them");
    HD_TRY(hd_field_bool(r->a->body, "parallel_tool_calls", &parallel, r->p));
    r->a->one_call = !parallel;
    return hd_tools_choice(r->s, r->a, choice, r->p);
}

/* Ignoring these would give wrong answers. */
static int refuse_stored(const struct hd_ask *a, struct hd_problem *p)
{
    static const char *const keys[] = {"previous_response_id", "conversation"};
    bool background = false;

    HD_TRY(hd_field_bool(a->body, "background", &background, p));
    for (int i = 0; i < 2; i++)
        if (hd_field(a->body, keys[i])) {
            hd_problem_set(p, 400, keys[i], "%s: this server stores no responses; send the whole input", keys[i]);
            p->code = "unsupported_parameter";
            return HD_ERR_USAGE;
        }
    if (background) {
        hd_problem_set(p, 400, "background", "background: this server answers at once only");
        p->code = "unsupported_parameter";
        return HD_ERR_USAGE;
    }
    return HD_OK;
}

static int read_request(struct hd_server *s, struct hd_ask *a, struct extra *e, struct hd_problem *p)
{
    struct reader r = {.s = s, .a = a, .p = p, .seen = json_object()};
    const json_t *reasoning = hd_field(a->body, "reasoning"), *text = hd_field(a->body, "text");
    const char *effort = "";
    int rc;

    if (reasoning && !json_is_object(reasoning))
        rc = hd_problem_set(p, 400, "reasoning", "reasoning: expected an object");
    else
        rc = refuse_stored(a, p);
    if (rc == HD_OK)
        rc = hd_ask_common(s, a, p);
    if (rc == HD_OK)
        rc = hd_field_int(a->body, "max_output_tokens", 1, (int64_t)1 << 40, &a->n_max, p);
    if (rc == HD_OK)
        rc = hd_field_str(reasoning, "effort", &effort, p);
    if (rc == HD_OK)
        rc = hd_ask_thinking(s, a, effort, p);
    if (rc == HD_OK && !(a->doc = json_pack("{s:[]}", "messages")))
        rc = hd_problem_set(p, 500, NULL, "no memory");
    r.out = json_object_get(a->doc, "messages");
    if (rc == HD_OK)
        rc = read_input(&r);
    if (rc == HD_OK)
        rc = read_tools(&r, e);
    if (rc == HD_OK)
        rc = hd_format_read(a, hd_field(text, "format"), p);
    if (rc == HD_OK)
        rc = hd_history_check(s, a, p);
    a->n = 1;
    hd_ask_thinking_sampling(s, a);
    json_decref(r.seen);
    return rc;
}

/* ---- the reply: items ---- */

enum { NOTHING, REASONING, MESSAGE, CALL };      /* hd_choice.part: which item is open; .item: its index */

static struct extra *extra_of(const struct hd_choice *c)
{
    return c->answer->ask.extra;
}

static bool is_custom(const struct hd_choice *c, const struct hd_tool_call *call)
{
    const struct extra *e = extra_of(c);

    for (int i = 0; i < e->n_custom; i++)
        if (e->custom[i] && !strcmp(e->custom[i], hd_str_get(&call->name)))
            return true;
    return false;
}

static void put_id(const struct hd_choice *c, const char *kind, int n, struct hd_str *out)
{
    hd_str_printf(out, "\"%s_%s%02d\"", kind, c->answer->id, n);
}

/* What stood in the parameter of a custom tool, as a JSON string. */
static void put_custom_input(const struct hd_tool_call *call, struct hd_str *out)
{
    json_t *v = hd_py_json_parse(hd_str_get(&call->args), call->args.n);
    const json_t *s = json_object_get(v, "input");

    if (json_is_string(s))
        hd_str_json(out, json_string_value(s), json_string_length(s));
    else
        hd_str_json(out, hd_str_get(&call->args), call->args.n);
    json_decref(v);
}

static void put_reasoning_item(const struct hd_choice *c, int n, bool done, struct hd_str *out)
{
    hd_str_puts(out, "{\"id\":");
    put_id(c, "rs", n, out);
    hd_str_puts(out, ",\"type\":\"reasoning\",\"summary\":[],\"content\":[");
    if (done) {
        hd_str_puts(out, "{\"type\":\"reasoning_text\",\"text\":");
        hd_str_json(out, hd_str_get(&c->reasoning), c->reasoning.n);
        hd_str_puts(out, "}],\"encrypted_content\":null}");
    } else {
        hd_str_puts(out, "]}");
    }
}

static void put_message_item(const struct hd_choice *c, int n, bool done, struct hd_str *out)
{
    hd_str_puts(out, "{\"id\":");
    put_id(c, "msg", n, out);
    hd_str_printf(out, ",\"type\":\"message\",\"status\":\"%s\",\"role\":\"assistant\",\"content\":[", done ? "completed" : "in_progress");
    if (done) {
        hd_str_puts(out, "{\"type\":\"output_text\",\"text\":");
        hd_str_json(out, hd_str_get(&c->content), c->content.n);
        hd_str_puts(out, ",\"annotations\":[],\"logprobs\":[]}");
    }
    hd_str_puts(out, "]}");
}

static void put_call_item(const struct hd_choice *c, const struct hd_tool_call *call, int n, bool done, struct hd_str *out)
{
    bool custom = is_custom(c, call);

    hd_str_puts(out, "{\"id\":");
    put_id(c, custom ? "ctc" : "fc", n, out);
    hd_str_printf(out, ",\"type\":\"%s\",\"status\":\"%s\",\"call_id\":", custom ? "custom_tool_call" : "function_call", done ? "completed" : "in_progress");
    hd_str_json(out, hd_str_get(&call->id), call->id.n);
    hd_str_puts(out, ",\"name\":");
    hd_str_json(out, hd_str_get(&call->name), call->name.n);
    hd_str_puts(out, custom ? ",\"input\":" : ",\"arguments\":");
    if (!done)
        hd_str_puts(out, "\"\"");
    else if (custom)
        put_custom_input(call, out);
    else
        hd_str_json(out, hd_str_get(&call->args), call->args.n);
    hd_str_puts(out, "}");
}

/* All items, in the order in which they were opened: reasoning, message, calls. */
static void put_output(const struct hd_choice *c, struct hd_str *out)
{
    int n = 0;

    hd_str_putc(out, '[');
    if (c->reasoning.n)
        put_reasoning_item(c, n++, true, out);
    if (c->content.n) {
        hd_str_puts(out, n ? "," : "");
        put_message_item(c, n++, true, out);
    }
    for (size_t i = 0; i < c->n_call; i++) {
        hd_str_puts(out, n ? "," : "");
        put_call_item(c, &c->call[i], n++, true, out);
    }
    hd_str_putc(out, ']');
}

/* ---- the reply: the response ---- */

static void put_usage(const struct hd_answer *a, struct hd_str *out)
{
    struct hd_usage u = hd_answer_usage(a);

    hd_str_printf(out,
                  "{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld},\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":%lld},"
                  "\"total_tokens\":%lld}",
                  (long long)u.prompt, (long long)u.cached, (long long)u.completion, (long long)u.reasoning, (long long)(u.prompt + u.completion));
}

/* status: in_progress (no output yet), completed, incomplete or failed. */
static void put_response(const struct hd_answer *a, const char *status, const struct hd_problem *p, struct hd_str *out)
{
    const struct hd_choice *c = &a->choice[0];
    bool done = status[0] == 'c' || status[2] == 'c';
    const json_t *tools = hd_field(a->ask.body, "tools"), *text = hd_field(a->ask.body, "text");

    hd_str_printf(out, "{\"id\":\"resp_%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"model\":", a->id, (long long)a->created, status);
    hd_str_json(out, a->ask.model, strlen(a->ask.model));
    hd_str_puts(out, ",\"output\":");
    if (done)
        put_output(c, out);
    else
        hd_str_puts(out, "[]");
    hd_str_puts(out, ",\"error\":");
    if (p) {
        hd_str_printf(out, "{\"code\":\"%s\",\"message\":", p->code ? p->code : "server_error");
        hd_str_json(out, p->message, strlen(p->message));
        hd_str_puts(out, "}");
    } else {
        hd_str_puts(out, "null");
    }
    hd_str_puts(out, status[0] == 'i' && done ? ",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}" : ",\"incomplete_details\":null");
    hd_str_puts(out, ",\"usage\":");
    if (done)
        put_usage(a, out);
    else
        hd_str_puts(out, "null");
    hd_str_printf(out, ",\"instructions\":null,\"max_output_tokens\":null,\"metadata\":{},\"parallel_tool_calls\":%s,\"previous_response_id\":null,\"reasoning\":{\"effort\":%s%s%s,\"summary\":null},"
                       "\"store\":false,\"temperature\":%.6g,\"top_p\":%.6g,\"truncation\":\"disabled\",\"tool_choice\":\"auto\",\"text\":",
                  a->ask.one_call ? "false" : "true", strcmp(a->ask.thinking, "off") ? "\"" : "", strcmp(a->ask.thinking, "off") ? a->ask.thinking : "null",
                  strcmp(a->ask.thinking, "off") ? "\"" : "", a->ask.sample.temperature, a->ask.sample.top_p);
    if (text)
        hd_py_json(text, out);
    else
        hd_str_puts(out, "{\"format\":{\"type\":\"text\"}}");
    hd_str_puts(out, ",\"tools\":");
    if (tools)
        hd_py_json(tools, out);
    else
        hd_str_puts(out, "[]");
    hd_str_puts(out, "}");
}

static const char *status_of(const struct hd_choice *c)
{
    return !strcmp(c->finish, "length") ? "incomplete" : "completed";
}

/* ---- the reply: events ---- */

static void open_event(const struct hd_choice *c, const char *type, struct hd_str *out)
{
    hd_str_printf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d", type, type, extra_of(c)->seq++);
}

static void close_event(struct hd_str *out)
{
    hd_str_puts(out, "}\n\n");
}

static void put_lifecycle(struct hd_answer *a, const char *type, const char *status, const struct hd_problem *p, struct hd_str *out)
{
    open_event(&a->choice[0], type, out);
    hd_str_puts(out, ",\"response\":");
    put_response(a, status, p, out);
    close_event(out);
}

static void on_begin(struct hd_answer *a, struct hd_str *out)
{
    a->choice[0].item = -1;
    put_lifecycle(a, "response.created", "in_progress", NULL, out);
    put_lifecycle(a, "response.in_progress", "in_progress", NULL, out);
}

static const char *kind_of(const struct hd_choice *c)
{
    if (c->part == CALL)
        return is_custom(c, &c->call[c->n_call - 1]) ? "ctc" : "fc";
    return c->part == REASONING ? "rs" : "msg";
}

/* ,"item_id":...,"output_index":N */
static void put_place(const struct hd_choice *c, struct hd_str *out)
{
    hd_str_puts(out, ",\"item_id\":");
    put_id(c, kind_of(c), c->item, out);
    hd_str_printf(out, ",\"output_index\":%d", c->item);
}

static void put_open_item(const struct hd_choice *c, bool done, struct hd_str *out)
{
    open_event(c, done ? "response.output_item.done" : "response.output_item.added", out);
    hd_str_printf(out, ",\"output_index\":%d,\"item\":", c->item);
    if (c->part == REASONING)
        put_reasoning_item(c, c->item, done, out);
    else if (c->part == MESSAGE)
        put_message_item(c, c->item, done, out);
    else
        put_call_item(c, &c->call[c->n_call - 1], c->item, done, out);
    close_event(out);
}

static void put_part(const struct hd_choice *c, bool done, struct hd_str *out)
{
    const struct hd_str *text = c->part == REASONING ? &c->reasoning : &c->content;

    open_event(c, done ? "response.content_part.done" : "response.content_part.added", out);
    put_place(c, out);
    hd_str_printf(out, ",\"content_index\":0,\"part\":{\"type\":\"%s\",\"text\":", c->part == REASONING ? "reasoning_text" : "output_text");
    hd_str_json(out, done ? hd_str_get(text) : "", done ? text->n : 0);
    hd_str_puts(out, c->part == REASONING ? "}" : ",\"annotations\":[],\"logprobs\":[]}");
    close_event(out);
}

static void close_text(const struct hd_choice *c, struct hd_str *out)
{
    const struct hd_str *text = c->part == REASONING ? &c->reasoning : &c->content;

    open_event(c, c->part == REASONING ? "response.reasoning_text.done" : "response.output_text.done", out);
    put_place(c, out);
    hd_str_puts(out, ",\"content_index\":0,\"text\":");
    hd_str_json(out, hd_str_get(text), text->n);
    hd_str_puts(out, c->part == REASONING ? "" : ",\"logprobs\":[]");
    close_event(out);
    put_part(c, true, out);
}

static void close_call(const struct hd_choice *c, struct hd_str *out)
{
    const struct hd_tool_call *call = &c->call[c->n_call - 1];

    if (is_custom(c, call)) {
        open_event(c, "response.custom_tool_call_input.delta", out);      /* all at once: it is unwrapped from its JSON */
        put_place(c, out);
        hd_str_puts(out, ",\"delta\":");
        put_custom_input(call, out);
        close_event(out);
        open_event(c, "response.custom_tool_call_input.done", out);
        put_place(c, out);
        hd_str_puts(out, ",\"input\":");
        put_custom_input(call, out);
    } else {
        open_event(c, "response.function_call_arguments.done", out);
        put_place(c, out);
        hd_str_puts(out, ",\"name\":");
        hd_str_json(out, hd_str_get(&call->name), call->name.n);
        hd_str_puts(out, ",\"arguments\":");
        hd_str_json(out, hd_str_get(&call->args), call->args.n);
    }
    close_event(out);
}

static void close_item(struct hd_choice *c, struct hd_str *out)
{
    if (c->part == NOTHING)
        return;
    if (c->part == CALL)
        close_call(c, out);
    else
        close_text(c, out);
    put_open_item(c, true, out);
    c->part = NOTHING;
}

static void open_item(struct hd_choice *c, int part, struct hd_str *out)
{
    close_item(c, out);
    c->part = part;
    c->item++;
    put_open_item(c, false, out);
    if (part != CALL)
        put_part(c, false, out);
}

static void on_text(struct hd_choice *c, bool reasoning, struct hd_view text, struct hd_str *out)
{
    int part = reasoning ? REASONING : MESSAGE;

    if (c->part != part)
        open_item(c, part, out);
    open_event(c, reasoning ? "response.reasoning_text.delta" : "response.output_text.delta", out);
    put_place(c, out);
    hd_str_puts(out, ",\"content_index\":0,\"delta\":");
    hd_str_json(out, text.p, text.n);
    hd_str_puts(out, reasoning ? "" : ",\"logprobs\":[]");
    close_event(out);
}

static void on_call(struct hd_choice *c, struct hd_tool_call *call, struct hd_str *out)
{
    open_item(c, CALL, out);
}

static void on_args(struct hd_choice *c, struct hd_tool_call *call, struct hd_view text, struct hd_str *out)
{
    if (!text.n || is_custom(c, call))
        return;
    open_event(c, "response.function_call_arguments.delta", out);
    put_place(c, out);
    hd_str_puts(out, ",\"delta\":");
    hd_str_json(out, text.p, text.n);
    close_event(out);
}

static void on_call_end(struct hd_choice *c, struct hd_tool_call *call, struct hd_str *out)
{
    close_item(c, out);
}

static void on_finish(struct hd_choice *c, struct hd_str *out)
{
    close_item(c, out);
}

static void on_end(struct hd_answer *a, struct hd_str *out)
{
    const char *status = status_of(&a->choice[0]);

    put_lifecycle(a, status[0] == 'i' ? "response.incomplete" : "response.completed", status, NULL, out);
}

static void on_error(struct hd_answer *a, const struct hd_problem *p, struct hd_str *out)
{
    put_lifecycle(a, "response.failed", "failed", p, out);
}

static void on_whole(struct hd_answer *a, struct hd_str *out)
{
    put_response(a, status_of(&a->choice[0]), NULL, out);
}

static void free_extra(void *arg)
{
    struct extra *e = arg;

    for (int i = 0; i < e->n_custom; i++)
        hd_free(e->custom[i]);
    hd_free(e);
}

static const struct hd_shape response_shape = {.name = "responses",
                                               .alive = ": keep-alive\n\n",
                                               .ends_cleanly = true,
                                               .begin = on_begin,
                                               .text = on_text,
                                               .call = on_call,
                                               .args = on_args,
                                               .call_end = on_call_end,
                                               .finish = on_finish,
                                               .end = on_end,
                                               .whole = on_whole,
                                               .error = on_error,
                                               .free_extra = free_extra};

static int prepare(struct hd_server *s, const struct hd_exchange *x, struct hd_ask *a, struct hd_problem *p)
{
    struct extra *e = hd_calloc(1, sizeof *e);
    json_t *body = hd_body_json(x, p);
    int rc = body ? HD_OK : HD_ERR_USAGE;

    hd_ask_init(a, x, body);
    if (rc == HD_OK && !e)
        rc = hd_problem_set(p, 500, NULL, "no memory");
    if (rc == HD_OK)
        rc = read_request(s, a, e, p);
    if (rc == HD_OK)
        rc = hd_ask_render(s, a, NULL, p);
    if (rc == HD_OK)
        rc = hd_ask_fit(s, a, p);
    if (rc == HD_OK)
        a->extra = e;
    else if (e)
        free_extra(e);
    return rc;
}

static void done(struct hd_server *s, struct hd_exchange *x, int rc, struct hd_ask *a, struct hd_problem *p)
{
    hd_answer_or_refuse(s, x, rc, a, &response_shape, p);
}

void hd_api_responses(struct hd_server *s, struct hd_exchange *x)
{
    static const struct hd_prep_kind kind = {prepare, done, free_extra};

    hd_prep(s, x, &kind);
}

void hd_api_stored_response(struct hd_server *s, struct hd_exchange *x)
{
    struct hd_problem p;

    hd_problem_set(&p, 404, NULL, "this server stores no responses");
    hd_reply_problem(s, x, &p);
}
