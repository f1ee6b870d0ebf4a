/* chat_r1.c: see chat_r1.h. */
#include "token/chat_r1.h"

#include <stdio.h>
#include <string.h>

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define ASSISTANT "<｜Assistant｜>"
#define CALLS "<｜tool▁calls▁begin｜>"
#define CALLS_END "<｜tool▁calls▁end｜>"
#define CALL "<｜tool▁call▁begin｜>"
#define CALL_END "<｜tool▁call▁end｜>"
#define SEP "<｜tool▁sep｜>"
#define OUTPUTS "<｜tool▁outputs▁begin｜>"
#define OUTPUTS_END "<｜tool▁outputs▁end｜>"
#define OUTPUT "<｜tool▁output▁begin｜>"
#define OUTPUT_END "<｜tool▁output▁end｜>"

struct job {
    struct hd_chat_text *out;
    bool newer;                       /* calls are told by the key tool_calls rather than by a null content */
    bool join_system, think, split, break_outputs;
    bool is_first, is_tool, output_seen;      /* the template's own state, never reset between rounds */
};

bool hd_chat_is_r1(const char *tpl)
{
    /* editions that write the assistant's header behind the user's text are others */
    return strstr(tpl, "<｜User｜>") && strstr(tpl, CALLS) && strstr(tpl, "is_output_first") && !strstr(tpl, "is_last_user");
}

static void put_call(struct job *j, const json_t *call)
{
    const json_t *f = json_object_get(call, "function"), *type = json_object_get(call, "type");

    hd_chat_mark(j->out, CALL);
    if (json_is_string(type))
        hd_chat_put_value(j->out, type);
    else
        hd_chat_mark(j->out, "function");
    hd_chat_mark(j->out, SEP);
    hd_chat_put_value(j->out, json_object_get(f, "name"));
    hd_chat_mark(j->out, "\n```json\n");
    hd_chat_put_value(j->out, json_object_get(f, "arguments"));
    hd_chat_mark(j->out, "\n```" CALL_END);
}

static void put_calls(struct job *j, const json_t *m)
{
    const json_t *c;
    size_t i;

    j->is_tool = false;
    json_array_foreach(json_object_get(m, "tool_calls"), i, c)
    {
        if (!j->is_first) {
            hd_chat_mark(j->out, ASSISTANT);
            if (j->newer)
                hd_chat_put_value(j->out, json_object_get(m, "content"));
            hd_chat_mark(j->out, CALLS);
            put_call(j, c);
            j->is_first = true;
        } else {
            hd_chat_mark(j->out, "\n");
            put_call(j, c);
            if (!j->newer)
                hd_chat_mark(j->out, CALLS_END EOS);
        }
    }
    if (j->newer)
        hd_chat_mark(j->out, CALLS_END EOS);
}

static void put_answer(struct job *j, const json_t *m, bool open)
{
    const json_t *content = json_object_get(m, "content");
    const char *p = json_string_value(content), *at, *from = p;
    size_t n = json_string_length(content);

    if (j->is_tool) {
        hd_chat_mark(j->out, OUTPUTS_END);
        j->is_tool = false;
    } else {
        hd_chat_mark(j->out, ASSISTANT);
        for (at = p; j->split && (at = strstr(at, "</think>")); at += 8)
            from = at + 8;
    }
    hd_chat_put(j->out, from, n - (size_t)(from - p));
    if (!open)
        hd_chat_mark(j->out, EOS);
}

static void put_output(struct job *j, const json_t *m)
{
    j->is_tool = true;
    hd_chat_mark(j->out, !j->output_seen ? OUTPUTS : j->break_outputs ? "\n" : "");
    j->output_seen = true;
    hd_chat_mark(j->out, OUTPUT);
    hd_chat_put_value(j->out, json_object_get(m, "content"));
    hd_chat_mark(j->out, OUTPUT_END);
}

/* All system messages first: joined, or (the older edition) the last one. */
static void put_system(struct job *j, const json_t *messages)
{
    const json_t *m, *last = NULL;
    bool first = true;
    size_t i;

    json_array_foreach((json_t *)messages, i, m)
    {
        if (!hd_chat_role_is(m, "system"))
            continue;
        last = json_object_get(m, "content");
        if (j->join_system) {
            hd_chat_mark(j->out, first ? "" : "\n\n");
            hd_chat_put_value(j->out, last);
            first = false;
        }
    }
    if (!j->join_system)
        hd_chat_put_value(j->out, last);
}

int hd_chat_r1(const char *tpl, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err)
{
    struct job j = {.out = out,
                    .newer = strstr(tpl, "'tool_calls' in message") != NULL,
                    .join_system = strstr(tpl, "is_first_sp") != NULL,
                    .think = strstr(tpl, ASSISTANT "<think>") != NULL,
                    .split = strstr(tpl, "split('</think>')") != NULL,
                    .break_outputs = strstr(tpl, "\\n" OUTPUT) || strstr(tpl, "\n" OUTPUT)};
    const json_t *messages = json_object_get(doc, "messages");
    size_t n = json_array_size(messages);

    HD_TRY(hd_chat_check(messages, false, err));
    hd_chat_mark(out, BOS);
    put_system(&j, messages);
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(messages, i), *content = json_object_get(m, "content"), *calls = json_object_get(m, "tool_calls");

        if (hd_chat_role_is(m, "user")) {
            j.is_tool = false;
            hd_chat_mark(out, "<｜User｜>");
            hd_chat_put_value(out, content);
        } else if (hd_chat_role_is(m, "assistant") && (j.newer ? calls != NULL : !json_is_string(content))) {
            put_calls(&j, m);
        } else if (hd_chat_role_is(m, "assistant")) {
            bool open = i + 1 == n && json_is_true(json_object_get(m, "prefix"));

            put_answer(&j, m, open);
            if (open)
                return HD_OK;
        } else if (hd_chat_role_is(m, "tool")) {
            put_output(&j, m);
        }
    }
    if (j.is_tool)
        hd_chat_mark(out, OUTPUTS_END);
    else if (!opt->no_generation_prompt)
        hd_chat_mark(out, j.think ? ASSISTANT "<think>\n" : ASSISTANT);
    return HD_OK;
}
