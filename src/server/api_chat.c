/* api_chat.c: OpenAI's Chat Completions with DeepSeek's reasoning_content, thinking and usage. */
#include <stdio.h>
#include <string.h>

#include "server/answering.h"
#include "server/api.h"
#include "server/history.h"
#include "server/logprobs.h"
#include "server/prep.h"

/* ---- the request ---- */

static int read_logprobs(struct hd_ask *a, struct hd_problem *p)
{
    int64_t n = 0;

    HD_TRY(hd_field_bool(a->body, "logprobs", &a->logprobs, p));
    HD_TRY(hd_field_int(a->body, "top_logprobs", 0, HD_TOP_MAX, &n, p));
    if (n && !a->logprobs)
        return hd_problem_set(p, 400, "top_logprobs", "top_logprobs needs logprobs: true");
    a->n_top = (int)n;
    if (a->logprobs)
        a->sample.n_logprob = (int)n;
    return HD_OK;
}

static int refuse_modalities(const struct hd_ask *a, struct hd_problem *p)
{
    const json_t *list = hd_field(a->body, "modalities"), *m;
    size_t i;

    json_array_foreach((json_t *)list, i, m) if (!json_is_string(m) || strcmp(json_string_value(m), "text"))
        return hd_problem_set(p, 400, "modalities", "modalities: this server answers with text only");
    if (hd_field(a->body, "audio"))
        return hd_problem_set(p, 400, "audio", "audio: this server answers with text only");
    return HD_OK;
}

int hd_chat_read(struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    const char *effort = "";

    HD_TRY(hd_ask_common(s, a, p));
    HD_TRY(hd_field_str(a->body, "reasoning_effort", &effort, p));
    HD_TRY(hd_ask_thinking(s, a, effort, p));
    HD_TRY(refuse_modalities(a, p));
    HD_TRY(read_logprobs(a, p));
    HD_TRY(hd_history_read(s, a, p));
    HD_TRY(hd_tools_read(s, a, p));
    HD_TRY(hd_format_read(a, hd_field(a->body, "response_format"), p));
    HD_TRY(hd_history_check(s, a, p));
    hd_ask_thinking_sampling(s, a);
    return HD_OK;
}

/* ---- the reply ---- */

static void put_usage(const struct hd_answer *a, struct hd_str *out)
{
    struct hd_usage u = hd_answer_usage(a);

    hd_str_printf(out,
                  "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,\"prompt_cache_hit_tokens\":%lld,\"prompt_cache_miss_tokens\":%lld,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%lld},\"completion_tokens_details\":{\"reasoning_tokens\":%lld}}",
                  (long long)u.prompt, (long long)u.completion, (long long)(u.prompt + u.completion), (long long)u.cached, (long long)(u.prompt - u.cached),
                  (long long)u.cached, (long long)u.reasoning);
}

/* {"id", ..., "choices":[ */
static void put_head(const struct hd_answer *a, const char *object, struct hd_str *out)
{
    hd_str_printf(out, "{\"id\":\"chatcmpl-%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", a->id, object, (long long)a->created);
    hd_str_json(out, a->ask.model, strlen(a->ask.model));
    hd_str_printf(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", a->server->fingerprint);
}

static bool thinks(const struct hd_answer *a)
{
    return strcmp(a->ask.thinking, "off") != 0;
}

static void put_logprobs(struct hd_choice *c, bool rest, struct hd_str *out)
{
    struct hd_pick_list *content = &c->content_picks, *reasoning = &c->reasoning_picks;

    if (!c->answer->ask.logprobs || (rest && content->n_shown == content->n && reasoning->n_shown == reasoning->n)) {
        hd_str_puts(out, ",\"logprobs\":null");
        return;
    }
    hd_str_puts(out, ",\"logprobs\":{\"content\":");
    hd_logprob_list(c->answer, content, rest ? content->n_shown : 0, out);
    if (thinks(c->answer)) {
        hd_str_puts(out, ",\"reasoning_content\":");
        hd_logprob_list(c->answer, reasoning, rest ? reasoning->n_shown : 0, out);
    }
    hd_str_puts(out, "}");
    content->n_shown = content->n;
    reasoning->n_shown = reasoning->n;
}

/* ---- in pieces ---- */

static void open_chunk(const struct hd_choice *c, struct hd_str *out)
{
    hd_str_puts(out, "data: ");
    put_head(c->answer, "chat.completion.chunk", out);
    hd_str_printf(out, "{\"index\":%d,\"delta\":{", c->index);
}

static void close_chunk(struct hd_choice *c, struct hd_str *out)
{
    hd_str_puts(out, "}");
    put_logprobs(c, true, out);
    hd_str_puts(out, c->answer->ask.include_usage ? ",\"finish_reason\":null}],\"usage\":null}\n\n" : ",\"finish_reason\":null}]}\n\n");
}

static void chat_begin(struct hd_answer *a, struct hd_str *out)
{
    for (int i = 0; i < a->n_choice; i++) {
        open_chunk(&a->choice[i], out);
        hd_str_puts(out, thinks(a) ? "\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":\"\"" : "\"role\":\"assistant\",\"content\":\"\"");
        close_chunk(&a->choice[i], out);
    }
}

static void chat_text(struct hd_choice *c, bool reasoning, struct hd_view text, struct hd_str *out)
{
    open_chunk(c, out);
    hd_str_puts(out, reasoning ? "\"reasoning_content\":" : "\"content\":");
    hd_str_json(out, text.p, text.n);
    close_chunk(c, out);
}

static int call_index(const struct hd_choice *c, const struct hd_tool_call *call)
{
    return (int)(call - c->call);
}

static void chat_call(struct hd_choice *c, struct hd_tool_call *call, struct hd_str *out)
{
    open_chunk(c, out);
    hd_str_printf(out, "\"tool_calls\":[{\"index\":%d,\"id\":", call_index(c, call));
    hd_str_json(out, hd_str_get(&call->id), call->id.n);
    hd_str_puts(out, ",\"type\":\"function\",\"function\":{\"name\":");
    hd_str_json(out, hd_str_get(&call->name), call->name.n);
    hd_str_puts(out, ",\"arguments\":\"\"}}]");
    close_chunk(c, out);
}

static void chat_args(struct hd_choice *c, struct hd_tool_call *call, struct hd_view text, struct hd_str *out)
{
    if (!text.n)
        return;
    open_chunk(c, out);
    hd_str_printf(out, "\"tool_calls\":[{\"index\":%d,\"function\":{\"arguments\":", call_index(c, call));
    hd_str_json(out, text.p, text.n);
    hd_str_puts(out, "}}]");
    close_chunk(c, out);
}

/* DeepSeek has the usage on the last chunk; who asked for it OpenAI's way gets a chunk of its own (chat_end). */
static void chat_finish(struct hd_choice *c, struct hd_str *out)
{
    struct hd_answer *a = c->answer;
    bool last = a->n_open == 0;

    open_chunk(c, out);
    hd_str_puts(out, "\"content\":\"\"}");
    put_logprobs(c, true, out);
    hd_str_printf(out, ",\"finish_reason\":\"%s\"}]", c->finish);
    if (a->ask.include_usage) {
        hd_str_puts(out, ",\"usage\":null");
    } else if (last) {
        hd_str_putc(out, ',');
        put_usage(a, out);
        hd_answer_timings(a, out);
    }
    hd_str_puts(out, "}\n\n");
}

static void chat_end(struct hd_answer *a, struct hd_str *out)
{
    if (a->ask.include_usage) {
        hd_str_puts(out, "data: ");
        put_head(a, "chat.completion.chunk", out);
        hd_str_puts(out, "],");
        put_usage(a, out);
        hd_answer_timings(a, out);
        hd_str_puts(out, "}\n\n");
    }
    hd_str_puts(out, "data: [DONE]\n\n");
}

static void chat_error(struct hd_answer *a, const struct hd_problem *p, struct hd_str *out)
{
    hd_str_puts(out, "data: ");
    hd_problem_json(p, false, "", out);
    hd_str_puts(out, "\n\n");
}

/* ---- in one piece ---- */

static void put_calls(const struct hd_choice *c, struct hd_str *out)
{
    hd_str_puts(out, ",\"tool_calls\":[");
    for (size_t i = 0; i < c->n_call; i++) {
        const struct hd_tool_call *call = &c->call[i];

        hd_str_printf(out, "%s{\"index\":%zu,\"id\":", i ? "," : "", i);
        hd_str_json(out, hd_str_get(&call->id), call->id.n);
        hd_str_puts(out, ",\"type\":\"function\",\"function\":{\"name\":");
        hd_str_json(out, hd_str_get(&call->name), call->name.n);
        hd_str_puts(out, ",\"arguments\":");
        hd_str_json(out, hd_str_get(&call->args), call->args.n);
        hd_str_puts(out, "}}");
    }
    hd_str_puts(out, "]");
}

static void put_choice(struct hd_choice *c, struct hd_str *out)
{
    hd_str_printf(out, "%s{\"index\":%d,\"finish_reason\":\"%s\"", c->index ? "," : "", c->index, c->finish);
    put_logprobs(c, false, out);
    hd_str_puts(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
    hd_str_json(out, hd_str_get(&c->content), c->content.n);
    if (thinks(c->answer) || c->reasoning.n) {
        hd_str_puts(out, ",\"reasoning_content\":");
        hd_str_json(out, hd_str_get(&c->reasoning), c->reasoning.n);
    }
    if (c->n_call)
        put_calls(c, out);
    hd_str_puts(out, "}}");
}

static void chat_whole(struct hd_answer *a, struct hd_str *out)
{
    put_head(a, "chat.completion", out);
    for (int i = 0; i < a->n_choice; i++)
        put_choice(&a->choice[i], out);
    hd_str_puts(out, "],");
    put_usage(a, out);
    hd_answer_timings(a, out);
    hd_str_puts(out, "}");
}

static const struct hd_shape chat_shape = {.name = "chat",
                                           .alive = ": keep-alive\n\n",
                                           .begin = chat_begin,
                                           .text = chat_text,
                                           .call = chat_call,
                                           .args = chat_args,
                                           .finish = chat_finish,
                                           .end = chat_end,
                                           .whole = chat_whole,
                                           .error = chat_error};

static int prepare(struct hd_server *s, const struct hd_exchange *x, struct hd_ask *a, struct hd_problem *p)
{
    json_t *body = hd_body_json(x, p);

    hd_ask_init(a, x, body);
    if (!body)
        return HD_ERR_USAGE;
    HD_TRY(hd_chat_read(s, a, p));
    HD_TRY(hd_ask_render(s, a, NULL, p));
    return hd_ask_fit(s, a, p);
}

static void done(struct hd_server *s, struct hd_exchange *x, int rc, struct hd_ask *a, struct hd_problem *p)
{
    hd_answer_or_refuse(s, x, rc, a, &chat_shape, p);
}

void hd_api_chat(struct hd_server *s, struct hd_exchange *x)
{
    static const struct hd_prep_kind kind = {prepare, done, NULL};

    hd_prep(s, x, &kind);
}
