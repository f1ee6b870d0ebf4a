/* api_messages.c: Anthropic's Messages, as Claude Code and Anthropic's libraries speak it, and count_tokens. */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "server/answering.h"
#include "server/api.h"
#include "server/prep.h"
#include "server/history.h"
#include "server/parts.h"
#include "token/py_json.h"

/* ---- the request: blocks ---- */

struct reader {
    struct hd_server *s;
    struct hd_ask *a;
    struct hd_problem *p;
    json_t *out;                      /* the messages of the document */
    char where[48];
};

static int bad(struct reader *r, const char *what)
{
    return hd_problem_set(r->p, 400, r->where, "%s: %s", r->where, what);
}

static void put_paragraph(struct hd_str *out, const char *p, size_t n)
{
    if (out->n && n)
        hd_str_puts(out, "\n\n");
    hd_str_add(out, p, n);
}

static int put_text(struct reader *r, const json_t *v, struct hd_str *out)
{
    if (!json_is_string(v))
        return bad(r, "text: expected a string");
    put_paragraph(out, json_string_value(v), json_string_length(v));
    return HD_OK;
}

static int put_image(struct reader *r, const json_t *block, struct hd_str *out)
{
    static const char unsupported[] = "[Unsupported image]";
    const json_t *source = json_object_get(block, "source");

    if (hd_text_is(source, "type", "url"))
        HD_TRY(hd_check_image_url(hd_text_of(source, "url"), r->where, r->p));
    else if (hd_text_is(source, "type", "file"))
        return bad(r, "this server keeps no files; send the image as base64");
    else if (!hd_text_is(source, "type", "base64") || !hd_text_of(source, "data")[0] || !hd_is_base64(hd_text_of(source, "data")))
        return bad(r, "an image needs a source of type base64, and data");
    put_paragraph(out, unsupported, sizeof unsupported - 1);
    return HD_OK;
}

/* Text, or a list of text and images. */
static int put_content(struct reader *r, const json_t *content, struct hd_str *out)
{
    json_t *text = hd_content_text(content, r->where, r->p);

    if (!text)
        return HD_ERR_USAGE;
    put_paragraph(out, json_string_value(text), json_string_length(text));
    json_decref(text);
    return HD_OK;
}

static int put_document(struct reader *r, const json_t *block, struct hd_str *out)
{
    const json_t *source = json_object_get(block, "source");

    if (hd_text_is(source, "type", "content"))
        return put_content(r, json_object_get(source, "content"), out);
    if (!hd_text_is(source, "type", "text"))
        return bad(r, "documents are read as text only");
    return put_text(r, json_object_get(source, "data"), out);
}

/* Calls and results have places of their own; what Anthropic's servers would have run, or hidden, says nothing here. */
static bool says_nothing(const char *type)
{
    static const char *const ends[] = {"tool_use", "tool_result", "thinking", "tool_reference", "compaction"};

    for (int i = 0; i < HD_LEN(ends); i++)
        if (hd_ends_with(type, ends[i]))
            return true;
    return false;
}

/* A block that has a text, of users and of tools' results. */
static int put_block(struct reader *r, const json_t *block, struct hd_str *out)
{
    const char *type = hd_text_of(block, "type");

    if (!strcmp(type, "text"))
        return put_text(r, json_object_get(block, "text"), out);
    if (!strcmp(type, "image"))
        return put_image(r, block, out);
    if (!strcmp(type, "document"))
        return put_document(r, block, out);
    if (!strcmp(type, "search_result"))
        return put_content(r, json_object_get(block, "content"), out);
    if (!type[0])
        return bad(r, "a block without a type");
    return says_nothing(type) ? HD_OK : hd_problem_set(r->p, 400, r->where, "%s: unsupported content block \"%.40s\"", r->where, type);
}

/* A content's text. What only an assistant may have is no part of it. */
static int content_text(struct reader *r, const json_t *content, struct hd_str *out)
{
    const json_t *block;
    size_t i;

    if (!content || json_is_null(content))
        return HD_OK;
    if (json_is_string(content))
        return put_text(r, content, out);
    if (!json_is_array(content) || json_array_size(content) > HD_PARTS_MAX)
        return bad(r, "content: expected a string or a list of blocks");
    json_array_foreach((json_t *)content, i, block) HD_TRY(put_block(r, block, out));
    return HD_OK;
}

static int append(struct reader *r, json_t *message)
{
    if (!message || json_array_append_new(r->out, message))
        return hd_problem_set(r->p, 500, NULL, "no memory");
    return HD_OK;
}

static int append_text(struct reader *r, const char *role, const json_t *content)
{
    struct hd_str text;
    int rc;

    hd_str_init(&text, 0);
    rc = content_text(r, content, &text);
    if (rc == HD_OK && (text.n || json_is_string(content)))
        rc = append(r, json_pack("{s:s, s:s%}", "role", role, "content", hd_str_get(&text), text.n));
    hd_str_release(&text);
    return rc;
}

static int read_result(struct reader *r, const json_t *block)
{
    const char *id = hd_text_of(block, "tool_use_id");
    struct hd_str text;
    int rc;

    if (!id[0])
        return bad(r, "a tool_result without tool_use_id");
    hd_str_init(&text, 0);
    rc = content_text(r, json_object_get(block, "content"), &text);
    if (rc == HD_OK)
        rc = append(r, json_pack("{s:s, s:s, s:s%}", "role", "tool", "tool_call_id", id, "content", hd_str_get(&text), text.n));
    hd_str_release(&text);
    return rc;
}

/* Results first: they belong to the turn before. */
static int read_user(struct reader *r, const json_t *content)
{
    const json_t *block;
    size_t i;

    if (json_is_array(content))
        json_array_foreach((json_t *)content, i, block)
        {
            if (!json_is_object(block))
                return bad(r, "content: expected blocks");
            if (hd_text_is(block, "type", "tool_result"))
                HD_TRY(read_result(r, block));
        }
    return append_text(r, "user", content);
}

static int add_use(struct reader *r, const json_t *block, json_t *calls)
{
    const json_t *input = hd_field(block, "input");
    struct hd_str args;

    if (!hd_text_of(block, "id")[0] || !hd_text_of(block, "name")[0] || (input && !json_is_object(input)))
        return bad(r, "a tool_use needs an id, a name and an input that is an object");
    hd_str_init(&args, 0);
    if (input)
        hd_py_json(input, &args);
    else
        hd_str_puts(&args, "{}");
    json_array_append_new(calls, json_pack("{s:O, s:s, s:{s:O, s:s%}}", "id", json_object_get(block, "id"), "type", "function", "function", "name", json_object_get(block, "name"),
                                           "arguments", hd_str_get(&args), args.n));
    hd_str_release(&args);
    return HD_OK;
}

static int read_assistant_block(struct reader *r, const json_t *block, struct hd_str *text, struct hd_str *thinking, json_t *calls, bool *thought)
{
    const char *type = hd_text_of(block, "type");

    if (!json_is_object(block))
        return bad(r, "content: expected blocks");
    if (!strcmp(type, "thinking")) {
        *thought = true;
        return put_text(r, json_object_get(block, "thinking"), thinking);
    }
    if (!strcmp(type, "tool_use"))
        return add_use(r, block, calls);
    return put_block(r, block, text);
}

static int read_assistant(struct reader *r, const json_t *content, bool last)
{
    struct hd_str text, thinking;
    json_t *calls = json_array(), *m = NULL;
    const json_t *block;
    bool thought = false;
    size_t i;
    int rc = HD_OK;

    hd_str_init(&text, 0);
    hd_str_init(&thinking, 0);
    if (json_is_array(content)) {
        json_array_foreach((json_t *)content, i, block)
        {
            if (rc == HD_OK)
                rc = read_assistant_block(r, block, &text, &thinking, calls, &thought);
        }
    } else {
        rc = content_text(r, content, &text);
    }
    if (rc == HD_OK)
        m = json_pack("{s:s, s:s%}", "role", "assistant", "content", hd_str_get(&text), text.n);
    if (m && thought)
        json_object_set_new(m, "reasoning_content", json_stringn(hd_str_get(&thinking), thinking.n));
    if (m && json_array_size(calls))
        json_object_set(m, "tool_calls", calls);
    else if (m && last)
        json_object_set_new(m, "prefix", json_true());
    if (rc == HD_OK)
        rc = append(r, m);
    json_decref(calls);
    hd_str_release(&text);
    hd_str_release(&thinking);
    return rc;
}

static int read_message(struct reader *r, const json_t *m, bool last)
{
    const json_t *content = json_object_get(m, "content");
    const char *role = hd_text_of(m, "role");

    if (!strcmp(role, "user"))
        return read_user(r, content);
    if (!strcmp(role, "assistant"))
        return read_assistant(r, content, last);
    /* In the middle of a conversation: where it stands, so that what is before keeps its place in the cache. V4 has no such turn. */
    if (!strcmp(role, "system"))
        return append_text(r, r->s->parse_family == HD_PARSE_V4 ? "user" : "system", content);
    return bad(r, "role: expected user or assistant");
}

static int read_system(struct reader *r)
{
    const json_t *system = hd_field(r->a->body, "system"), *block;
    struct hd_str text;
    size_t i;
    int rc = HD_OK;

    if (!system)
        return HD_OK;
    snprintf(r->where, sizeof r->where, "system");
    hd_str_init(&text, 0);
    if (json_is_array(system)) {
        json_array_foreach((json_t *)system, i, block)
        {
            /* changes from turn to turn, and would keep every prompt from the cache */
            bool billing = !strncmp(hd_text_of(block, "text"), "x-anthropic-billing-header:", 27);

            if (rc == HD_OK && !billing)
                rc = hd_text_is(block, "type", "text") ? put_text(r, json_object_get(block, "text"), &text) : bad(r, "expected text blocks");
        }
    } else {
        rc = put_text(r, system, &text);
    }
    if (rc == HD_OK && text.n)
        rc = append(r, json_pack("{s:s, s:s%}", "role", "system", "content", hd_str_get(&text), text.n));
    hd_str_release(&text);
    return rc;
}

static int read_messages(struct reader *r)
{
    const json_t *list = json_object_get(r->a->body, "messages"), *m;
    size_t i, n = json_array_size(list);

    if (!json_is_array(list) || n < 1 || n > HD_MESSAGES_MAX)
        return hd_problem_set(r->p, 400, "messages", "messages: expected a list of 1 to %d", HD_MESSAGES_MAX);
    json_array_foreach((json_t *)list, i, m)
    {
        snprintf(r->where, sizeof r->where, "messages.%zu", i);
        if (!json_is_object(m))
            return bad(r, "expected an object");
        HD_TRY(read_message(r, m, i + 1 == n));
    }
    return HD_OK;
}

/* ---- the request: everything else ---- */

static int read_tools(struct reader *r)
{
    const json_t *tools = hd_field(r->a->body, "tools"), *choice = hd_field(r->a->body, "tool_choice"), *t;
    const char *type = hd_text_of(choice, "type"), *name = "";
    bool one = false;
    size_t i;

    if (tools && !json_is_array(tools))
        return hd_problem_set(r->p, 400, "tools", "tools: expected a list");
    json_array_foreach((json_t *)tools, i, t)
    {
        if (!json_is_object(t))
            return hd_problem_set(r->p, 400, "tools", "tools.%zu: expected an object", i);
        if (hd_text_of(t, "type")[0] && !hd_text_is(t, "type", "custom"))
            continue;                 /* a tool that Anthropic's servers would run */
        HD_TRY(hd_tools_add(r->a, hd_text_of(t, "name"), hd_field(t, "description"), hd_field(t, "input_schema"), hd_field(t, "strict"), i, r->p));
    }
    if (r->a->has_tools && !r->s->tools)
        return hd_problem_set(r->p, 400, "tools", "tools: this model's chat template has no form for them");
    if (!choice)
        return HD_OK;
    HD_TRY(hd_field_bool(choice, "disable_parallel_tool_use", &one, r->p));
    HD_TRY(hd_field_str(choice, "name", &name, r->p));
    r->a->one_call = one;
    if (!strcmp(type, "tool"))
        return hd_tools_choose(r->s, r->a, "function", name, r->p);
    return hd_tools_choose(r->s, r->a, !strcmp(type, "any") ? "required" : type, NULL, r->p);
}

/* Off unless it is asked for, as in Anthropic's protocol; the effort says how much. */
static int read_thinking(struct reader *r)
{
    const json_t *config = hd_field(r->a->body, "output_config");
    const char *effort = "";

    if (config && !json_is_object(config))
        return hd_problem_set(r->p, 400, "output_config", "output_config: expected an object");
    HD_TRY(hd_field_str(config, "effort", &effort, r->p));
    if (!hd_field(r->a->body, "thinking")) {
        r->a->thinking = "off";
        return HD_OK;
    }
    return hd_ask_thinking(r->s, r->a, effort, r->p);
}

static int read_request(struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    struct reader r = {.s = s, .a = a, .p = p};
    const json_t *metadata = hd_field(a->body, "metadata");
    struct hd_sample_params *q = &a->sample;

    HD_TRY(hd_ask_model(s, a, true, p));
    HD_TRY(hd_field_bool(a->body, "stream", &a->stream, p));
    HD_TRY(hd_field_int(a->body, "max_tokens", 1, (int64_t)1 << 40, &a->n_max, p));
    HD_TRY(hd_field_real(a->body, "temperature", 0, 2, &q->temperature, p));
    HD_TRY(hd_field_real(a->body, "top_p", 0, 1, &q->top_p, p));
    HD_TRY(hd_field_int(a->body, "top_k", 0, 1 << 30, &q->top_k, p));
    q->top_k = q->top_p <= 0 ? 1 : q->top_k;
    q->top_p = q->top_p <= 0 ? 1 : q->top_p;
    HD_TRY(hd_ask_stops(a, "stop_sequences", p));
    if (json_is_object(metadata))
        HD_TRY(hd_field_str(metadata, "user_id", &a->user, p));
    HD_TRY(hd_ask_seed(a, p));
    HD_TRY(read_thinking(&r));
    if (!(a->doc = json_pack("{s:[]}", "messages")))
        return hd_problem_set(p, 500, NULL, "no memory");
    r.out = json_object_get(a->doc, "messages");
    HD_TRY(read_system(&r));
    HD_TRY(read_messages(&r));
    HD_TRY(read_tools(&r));
    HD_TRY(hd_format_read(a, hd_field(hd_field(a->body, "output_config"), "format"), p));
    HD_TRY(hd_history_check(s, a, p));
    hd_ask_thinking_sampling(s, a);
    return HD_OK;
}

/* ---- the reply ---- */

enum { NOTHING, THINKING, TEXT, TOOL };       /* hd_choice.part: which block is open; .item: its index */

/* Cached tokens are no input here; clients add the three. */
static void put_usage(const struct hd_answer *a, int64_t output, struct hd_str *out)
{
    struct hd_usage u = hd_answer_usage(a);

    hd_str_printf(out, "{\"input_tokens\":%lld,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%lld,\"output_tokens\":%lld}", (long long)(u.prompt - u.cached),
                  (long long)u.cached, (long long)output);
}

static void put_message_head(const struct hd_answer *a, struct hd_str *out)
{
    hd_str_printf(out, "{\"id\":\"msg_%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", a->id);
    hd_str_json(out, a->ask.model, strlen(a->ask.model));
    hd_str_puts(out, ",\"content\":[");
}

/* Says nothing of the text: a client only hands it back. */
static void put_signature(struct hd_str *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char b[44];

    if (getrandom(b, sizeof b, 0) != sizeof b)
        memset(b, 0, sizeof b);
    hd_str_putc(out, '"');
    for (int i = 0; i < 44; i++)
        hd_str_putc(out, digits[b[i] & 63]);
    hd_str_putc(out, '"');
}

static void open_event(const char *type, struct hd_str *out)
{
    hd_str_printf(out, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

static void close_event(struct hd_str *out)
{
    hd_str_puts(out, "}\n\n");
}

static void on_begin(struct hd_answer *a, struct hd_str *out)
{
    a->choice[0].item = -1;
    open_event("message_start", out);
    hd_str_puts(out, ",\"message\":");
    put_message_head(a, out);
    hd_str_puts(out, "],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
    put_usage(a, 1, out);
    hd_str_puts(out, "}");
    close_event(out);
}

static void close_block(struct hd_choice *c, struct hd_str *out)
{
    if (c->part == NOTHING)
        return;
    if (c->part == THINKING) {
        open_event("content_block_delta", out);
        hd_str_printf(out, ",\"index\":%d,\"delta\":{\"type\":\"signature_delta\",\"signature\":", c->item);
        put_signature(out);
        hd_str_puts(out, "}");
        close_event(out);
    }
    open_event("content_block_stop", out);
    hd_str_printf(out, ",\"index\":%d", c->item);
    close_event(out);
    c->part = NOTHING;
}

static void open_block(struct hd_choice *c, int part, struct hd_str *out)
{
    close_block(c, out);
    c->part = part;
    c->item++;
    open_event("content_block_start", out);
    hd_str_printf(out, ",\"index\":%d,\"content_block\":", c->item);
}

static void on_text(struct hd_choice *c, bool reasoning, struct hd_view text, struct hd_str *out)
{
    int part = reasoning ? THINKING : TEXT;

    if (c->part != part) {
        open_block(c, part, out);
        hd_str_puts(out, reasoning ? "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}" : "{\"type\":\"text\",\"text\":\"\"}");
        close_event(out);
    }
    open_event("content_block_delta", out);
    hd_str_printf(out, ",\"index\":%d,\"delta\":{\"type\":\"%s\":", c->item, reasoning ? "thinking_delta\",\"thinking" : "text_delta\",\"text");
    hd_str_json(out, text.p, text.n);
    hd_str_puts(out, "}");
    close_event(out);
}

static void put_partial(const struct hd_choice *c, struct hd_view text, struct hd_str *out)
{
    open_event("content_block_delta", out);
    hd_str_printf(out, ",\"index\":%d,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":", c->item);
    hd_str_json(out, text.p, text.n);
    hd_str_puts(out, "}");
    close_event(out);
}

static void put_use(const struct hd_tool_call *call, const char *input, struct hd_str *out)
{
    hd_str_puts(out, "{\"type\":\"tool_use\",\"id\":");
    hd_str_json(out, hd_str_get(&call->id), call->id.n);
    hd_str_puts(out, ",\"name\":");
    hd_str_json(out, hd_str_get(&call->name), call->name.n);
    hd_str_printf(out, ",\"input\":%s}", input);
}

static void on_call(struct hd_choice *c, struct hd_tool_call *call, struct hd_str *out)
{
    open_block(c, TOOL, out);
    put_use(call, "{}", out);
    close_event(out);
    put_partial(c, (struct hd_view){"", 0}, out);
}

static void on_args(struct hd_choice *c, struct hd_tool_call *call, struct hd_view text, struct hd_str *out)
{
    if (text.n)
        put_partial(c, text, out);
}

static void on_call_end(struct hd_choice *c, struct hd_tool_call *call, struct hd_str *out)
{
    close_block(c, out);
}

static void on_finish(struct hd_choice *c, struct hd_str *out)
{
    close_block(c, out);
}

/* "stop_reason":...,"stop_sequence":... */
static void put_stop(const struct hd_choice *c, struct hd_str *out)
{
    const char *reason = "end_turn";

    if (!strcmp(c->finish, "length"))
        reason = c->window ? "model_context_window_exceeded" : "max_tokens";
    else if (!strcmp(c->finish, "tool_calls"))
        reason = "tool_use";
    else if (c->stop)
        reason = "stop_sequence";
    hd_str_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (c->stop && !strcmp(reason, "stop_sequence"))
        hd_str_json(out, c->stop, strlen(c->stop));
    else
        hd_str_puts(out, "null");
}

static void on_end(struct hd_answer *a, struct hd_str *out)
{
    open_event("message_delta", out);
    hd_str_puts(out, ",\"delta\":{");
    put_stop(&a->choice[0], out);
    hd_str_puts(out, "},\"usage\":");
    put_usage(a, hd_answer_usage(a).completion, out);
    close_event(out);
    open_event("message_stop", out);
    close_event(out);
}

static void on_error(struct hd_answer *a, const struct hd_problem *p, struct hd_str *out)
{
    hd_str_puts(out, "event: error\ndata: ");
    hd_problem_json(p, true, a->x ? a->x->id : a->id, out);
    hd_str_puts(out, "\n\n");
}

static void on_whole(struct hd_answer *a, struct hd_str *out)
{
    const struct hd_choice *c = &a->choice[0];
    int n = 0;

    put_message_head(a, out);
    if (c->reasoning.n) {
        hd_str_puts(out, "{\"type\":\"thinking\",\"thinking\":");
        hd_str_json(out, hd_str_get(&c->reasoning), c->reasoning.n);
        hd_str_puts(out, ",\"signature\":");
        put_signature(out);
        hd_str_puts(out, "}");
        n++;
    }
    if (c->content.n) {
        hd_str_puts(out, n++ ? ",{\"type\":\"text\",\"text\":" : "{\"type\":\"text\",\"text\":");
        hd_str_json(out, hd_str_get(&c->content), c->content.n);
        hd_str_puts(out, "}");
    }
    for (size_t i = 0; i < c->n_call; i++) {
        hd_str_puts(out, n++ ? "," : "");
        put_use(&c->call[i], c->call[i].sound ? hd_str_get(&c->call[i].args) : "{}", out);
    }
    hd_str_puts(out, "],");
    put_stop(c, out);
    hd_str_puts(out, ",\"usage\":");
    put_usage(a, hd_answer_usage(a).completion, out);
    hd_str_puts(out, "}");
}

static const struct hd_shape message_shape = {.name = "messages",
                                              .anthropic = true,
                                              .ends_cleanly = true,
                                              .alive = "event: ping\ndata: {\"type\":\"ping\"}\n\n",
                                              .begin = on_begin,
                                              .text = on_text,
                                              .call = on_call,
                                              .args = on_args,
                                              .call_end = on_call_end,
                                              .finish = on_finish,
                                              .end = on_end,
                                              .whole = on_whole,
                                              .error = on_error};

static int read_prompt(struct hd_server *s, const struct hd_exchange *x, struct hd_ask *a, struct hd_problem *p)
{
    json_t *body = hd_body_json(x, p);

    hd_ask_init(a, x, body);
    if (!body)
        return HD_ERR_USAGE;
    HD_TRY(read_request(s, a, p));
    return hd_ask_render(s, a, NULL, p);
}

static int prepare(struct hd_server *s, const struct hd_exchange *x, struct hd_ask *a, struct hd_problem *p)
{
    HD_TRY(read_prompt(s, x, a, p));
    return hd_ask_fit(s, a, p);
}

static void done(struct hd_server *s, struct hd_exchange *x, int rc, struct hd_ask *a, struct hd_problem *p)
{
    hd_answer_or_refuse(s, x, rc, a, &message_shape, p);
}

void hd_api_messages(struct hd_server *s, struct hd_exchange *x)
{
    static const struct hd_prep_kind kind = {prepare, done, NULL};

    hd_exchange_header(x, "request-id", x->id);
    hd_prep(s, x, &kind);
}

static void counted(struct hd_server *s, struct hd_exchange *x, int rc, struct hd_ask *a, struct hd_problem *p)
{
    if (rc == HD_OK)
        hd_reply_value(x, 200, json_pack("{s:I}", "input_tokens", (json_int_t)a->prompt[0].n));
    else
        hd_reply_problem(s, x, p);
    hd_ask_release(a);
}

void hd_api_count_tokens(struct hd_server *s, struct hd_exchange *x)
{
    static const struct hd_prep_kind kind = {read_prompt, counted, NULL};

    hd_exchange_header(x, "request-id", x->id);
    hd_prep(s, x, &kind);
}
