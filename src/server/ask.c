/* ask.c: see ask.h. */
#include "server/ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "server/extras.h"
#include "server/forcing.h"
#include "server/prep.h"
#include "token/chat.h"

void hd_ask_init(struct hd_ask *a, const struct hd_exchange *x, json_t *body)
{
    memset(a, 0, sizeof *a);
    snprintf(a->key, sizeof a->key, "%s", x->tenant);
    a->body = body;
    a->model = a->user = "";
    a->thinking = "off";
    a->n = 1;
    a->n_max = -1;
    hd_sample_defaults(&a->sample);
    a->sample.n_logprob = -1;
}

void hd_ask_release(struct hd_ask *a)
{
    for (int i = 0; i < a->n_prompt; i++)
        hd_ids_release(&a->prompt[i]);
    hd_free(a->prompt);
    hd_free(a->bias);
    hd_grammar_release(a->grammar);
    for (int i = 0; i < a->n_spot; i++)
        hd_replay_spot_release(&a->spot[i]);
    hd_free(a->spot);
    json_decref(a->format);
    json_decref(a->strict_tools);
    json_decref(a->doc);
    json_decref(a->body);
    memset(a, 0, sizeof *a);
}

int hd_ask_model(const struct hd_server *s, struct hd_ask *a, bool anthropic, struct hd_problem *p)
{
    int legacy = 0;

    HD_TRY(hd_field_str(a->body, "model", &a->model, p));
    if (!a->model[0])
        return hd_problem_set(p, 400, "model", "model: a name is missing");
    if (!hd_model_known(s, (struct hd_view){a->model, strlen(a->model)}, anthropic, &legacy)) {
        int rc = hd_problem_set(p, 400, "model", "The supported API model names are %s%s, but you passed %.100s.", s->opt.model_id,
                                s->deepseek ? ", deepseek-flash, deepseek-v4-flash, deepseek-v4-pro" : "", a->model);

        p->code = "model_not_found";
        return rc;
    }
    a->thinking = !s->thinks || legacy == 1 ? "off" : legacy == 2 && !strcmp(s->thinking, "off") ? "high" : s->thinking;
    return HD_OK;
}

int hd_ask_stops(struct hd_ask *a, const char *key, struct hd_problem *p)
{
    const json_t *v = hd_field(a->body, key), *item;
    size_t i;

    if (json_is_string(v)) {
        if (json_string_length(v) > 1024)
            return hd_problem_set(p, 400, key, "%s: a text of more than 1024 bytes", key);
        if (json_string_length(v))
            a->stop[a->n_stop++] = json_string_value(v);
        return HD_OK;
    }
    if (v && !json_is_array(v))
        return hd_problem_set(p, 400, key, "%s: expected a string or a list of strings", key);
    if (json_array_size(v) > HD_STOP_MAX)
        return hd_problem_set(p, 400, key, "%s: found %zu; at most %d expected", key, json_array_size(v), HD_STOP_MAX);
    json_array_foreach((json_t *)v, i, item)
    {
        if (!json_is_string(item) || json_string_length(item) > 1024 || strlen(json_string_value(item)) != json_string_length(item))
            return hd_problem_set(p, 400, key, "%s[%zu]: expected a string of at most 1024 bytes", key, i);
        if (json_string_length(item))
            a->stop[a->n_stop++] = json_string_value(item);
    }
    return HD_OK;
}

static int read_bias(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    json_t *v = (json_t *)hd_field(a->body, "logit_bias"), *item;
    const char *key;

    if (!v)
        return HD_OK;
    if (!json_is_object(v))
        return hd_problem_set(p, 400, "logit_bias", "logit_bias: expected an object of token ids and numbers");
    if (json_object_size(v) > HD_BIAS_MAX)
        return hd_problem_set(p, 422, "logit_bias", "logit_bias: found %zu entries; at most %d expected", json_object_size(v), HD_BIAS_MAX);
    a->bias = hd_calloc(json_object_size(v) + 1, sizeof *a->bias);
    if (!a->bias)
        return hd_problem_set(p, 500, NULL, "no memory");
    a->sample.bias = a->bias;
    json_object_foreach(v, key, item)
    {
        int64_t id;

        if (!hd_parse_i64(key, 0, hd_tokenizer_size(s->tok) - 1, &id))
            return hd_problem_set(p, 422, "logit_bias", "logit_bias: found \"%.40s\"; expected a token id below %lld", key, (long long)hd_tokenizer_size(s->tok));
        if (!json_is_number(item))
            return hd_problem_set(p, 400, "logit_bias", "logit_bias: %lld: expected a number", (long long)id);
        if (!(json_number_value(item) >= -100 && json_number_value(item) <= 100))
            return hd_problem_set(p, 422, "logit_bias", "logit_bias: %lld: expected a number from -100 to 100", (long long)id);
        a->bias[a->sample.n_bias++] = (struct hd_logit_bias){(int32_t)id, (float)json_number_value(item)};
    }
    return HD_OK;
}

int hd_ask_seed(struct hd_ask *a, struct hd_problem *p)
{
    int64_t seed = 0;

    if (!hd_field(a->body, "seed")) {
        struct timespec t;

        clock_gettime(CLOCK_REALTIME, &t);
        a->sample.seed = (uint64_t)t.tv_nsec * 0x9E3779B97F4A7C15u ^ (uint64_t)t.tv_sec;
        return HD_OK;
    }
    HD_TRY(hd_field_int(a->body, "seed", INT64_MIN, INT64_MAX, &seed, p));
    a->sample.seed = (uint64_t)seed;
    return HD_OK;
}

static int read_sampling(struct hd_ask *a, struct hd_problem *p)
{
    struct hd_sample_params *q = &a->sample;

    HD_TRY(hd_field_real(a->body, "temperature", 0, 2, &q->temperature, p));
    HD_TRY(hd_field_real(a->body, "top_p", 0, 1, &q->top_p, p));
    HD_TRY(hd_field_int(a->body, "top_k", -1, 1 << 30, &q->top_k, p));
    HD_TRY(hd_field_real(a->body, "min_p", 0, 1, &q->min_p, p));
    HD_TRY(hd_field_real(a->body, "presence_penalty", -2, 2, &q->presence, p));
    HD_TRY(hd_field_real(a->body, "frequency_penalty", -2, 2, &q->frequency, p));
    HD_TRY(hd_field_real(a->body, "repetition_penalty", 0.01, 100, &q->repetition, p));
    if (q->top_k < 0)
        q->top_k = 0;
    if (q->top_p <= 0)
        q->top_k = 1;                 /* no mass at all: the most probable one */
    q->top_p = q->top_p <= 0 ? 1 : q->top_p;
    return hd_ask_seed(a, p);
}

int hd_ask_common(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    const json_t *options = hd_field(a->body, "stream_options");
    int64_t n = 1, completion = -1;

    HD_TRY(hd_ask_model(s, a, false, p));
    HD_TRY(hd_field_bool(a->body, "stream", &a->stream, p));
    if (options && !json_is_object(options))
        return hd_problem_set(p, 400, "stream_options", "stream_options: expected an object");
    HD_TRY(hd_field_bool(options, "include_usage", &a->include_usage, p));
    HD_TRY(hd_field_int(a->body, "n", 1, s->opt.n_max, &n, p));
    a->n = (int)n;
    HD_TRY(hd_field_int(a->body, "max_tokens", a->raw ? 0 : 1, (int64_t)1 << 40, &a->n_max, p));
    HD_TRY(hd_field_int(a->body, "max_completion_tokens", 1, (int64_t)1 << 40, &completion, p));
    if (completion >= 0 && (a->n_max < 0 || completion < a->n_max))
        a->n_max = completion;
    HD_TRY(read_sampling(a, p));
    HD_TRY(read_bias(s, a, p));
    HD_TRY(hd_ask_stops(a, "stop", p));
    HD_TRY(hd_field_bool(a->body, "ignore_eos", &a->ignore_end, p));
    HD_TRY(hd_extras_read(s, a, p));
    HD_TRY(hd_field_str(a->body, "user", &a->user, p));
    return hd_field_str(a->body, "user_id", &a->user, p);
}

/* ---- thinking ---- */

static const struct {
    const char *said, *level;
} efforts[] = {{"none", "off"},   {"minimal", "low"}, {"low", "low"},   {"medium", "high"},
               {"high", "high"}, {"xhigh", "high"},  {"max", "max"},   {"ultra", "max"}};

static int read_effort(const char *said, const char **level, struct hd_problem *p)
{
    for (int i = 0; i < HD_LEN(efforts); i++)
        if (!strcmp(said, efforts[i].said)) {
            *level = efforts[i].level;
            return HD_OK;
        }
    return hd_problem_set(p, 400, "reasoning_effort", "reasoning_effort: found \"%.40s\"; expected none, low, high or max", said);
}

int hd_ask_thinking(const struct hd_server *s, struct hd_ask *a, const char *effort, struct hd_problem *p)
{
    const json_t *t = hd_field(a->body, "thinking"), *kwargs = hd_field(a->body, "chat_template_kwargs");
    const char *type = hd_text_of(t, "type"), *level = NULL;
    bool on = strcmp(a->thinking, "off") != 0, alias = on;

    if (t && !json_is_object(t))
        return hd_problem_set(p, 400, "thinking", "thinking: expected an object");
    if (kwargs && !json_is_object(kwargs))
        return hd_problem_set(p, 400, "chat_template_kwargs", "chat_template_kwargs: expected an object");
    if (!effort[0])
        effort = hd_text_of(kwargs, "reasoning_effort");
    HD_TRY(hd_field_bool(kwargs, "thinking", &alias, p));
    HD_TRY(hd_field_bool(kwargs, "enable_thinking", &alias, p));
    HD_TRY(hd_field_bool(a->body, "enable_thinking", &alias, p));
    on = alias;
    if (effort[0]) {
        HD_TRY(read_effort(effort, &level, p));
        on = strcmp(level, "off") != 0;
    }
    if (t) {
        if (!strcmp(type, "disabled"))
            on = false;
        else if (!strcmp(type, "enabled") || !strcmp(type, "adaptive") || !strcmp(type, "between_tools") || !strcmp(type, "auto"))
            on = true;
        else
            return hd_problem_set(p, 400, "thinking.type", "thinking: type: found \"%.40s\"; expected enabled or disabled", type);
    }
    if (!s->thinks)
        on = false;
    a->thinking = !on ? "off" : level && strcmp(level, "off") ? level : strcmp(s->thinking, "off") ? s->thinking : "high";
    return HD_OK;
}

void hd_ask_thinking_sampling(const struct hd_server *s, struct hd_ask *a)
{
    if (s->opt.honour_sampling || !strcmp(a->thinking, "off"))
        return;
    a->sample.temperature = 1;
    a->sample.top_p = a->sample.top_p < 0.95 ? 0.95 : a->sample.top_p;
    a->sample.presence = a->sample.frequency = 0;
}

/* ---- prompts ---- */

/* required and named, without thinking: the prompt itself opens the block of calls. */
static void open_calls(const struct hd_server *s, struct hd_chat_text *c)
{
    hd_chat_mark(c, s->parse_family == HD_PARSE_V41 ? "\n\n<｜DSML｜ calls>\n" : "\n\n<｜DSML｜tool_calls>\n");
}

/* Of how many tokens that is. A marker stands before it, so that it is cut the same alone. */
static size_t n_opened(struct hd_server *s)
{
    struct hd_chat_text c;
    struct hd_ids ids = {0};
    struct hd_err err;
    size_t n;

    hd_chat_text_init(&c);
    open_calls(s, &c);
    n = hd_chat_ids(hd_prep_tokenizer(s), &c, &ids, &err) == HD_OK ? ids.n : 0;
    hd_ids_release(&ids);
    hd_chat_text_release(&c);
    return n;
}

/* Reasoning of earlier turns stays where tools have been used. */
static bool any_calls(const json_t *messages)
{
    const json_t *m;
    size_t i;

    json_array_foreach((json_t *)messages, i, m) if (json_array_size(json_object_get(m, "tool_calls"))) return true;
    return false;
}

static bool continues_last(const json_t *doc)
{
    const json_t *messages = json_object_get(doc, "messages");

    return json_is_true(json_object_get(json_array_get(messages, json_array_size(messages) - 1), "prefix"));
}

/* A last message that has only begun to reason: its text, taken off the messages, so that it is written behind the open marker. A new
 * reference, or NULL. */
static json_t *take_open_reasoning(const struct hd_ask *a)
{
    json_t *messages = json_object_get(a->doc, "messages"), *last = json_array_get(messages, json_array_size(messages) - 1), *text;

    if (!strcmp(a->thinking, "off") || !json_is_true(json_object_get(last, "prefix")) || hd_text_of(last, "content")[0] || !hd_text_of(last, "reasoning_content")[0] ||
        json_array_size(messages) < 2)
        return NULL;
    text = json_incref(json_object_get(last, "reasoning_content"));
    json_array_remove(messages, json_array_size(messages) - 1);
    return text;
}

void hd_ask_tenant(const struct hd_ask *a, char out[HD_TENANT_MAX])
{
    uint64_t h = hd_hash(HD_HASH_INIT, a->user, strlen(a->user));
    int n = snprintf(out, HD_TENANT_MAX, "%s/%.512s", a->key, a->user);

    if (strlen(a->user) > 512)
        snprintf(out + n, HD_TENANT_MAX - (size_t)n, "~%016llx", (unsigned long long)h);
}

int hd_ask_render(struct hd_server *s, struct hd_ask *a, struct hd_str *text, struct hd_problem *p)
{
    struct hd_chat_options opt = {0};
    struct hd_chat_text c;
    struct hd_err err;
    json_t *reasoning;
    int rc, n_exact = 0;

    if (!s->chat_family)
        return hd_problem_set(p, 400, NULL, "this model has no chat template that is known here; use /v1/completions");
    json_object_set_new(a->doc, "thinking", json_string(a->thinking));
    if (any_calls(json_object_get(a->doc, "messages")))
        json_object_set_new(a->doc, "drop_thinking", json_false());
    a->prompt = hd_calloc(1, sizeof *a->prompt);
    if (!a->prompt)
        return hd_problem_set(p, 500, NULL, "no memory");
    a->n_prompt = 1;
    a->continued = continues_last(a->doc);
    a->partial_turn = a->force != HD_TOOLS_AUTO || a->continued;
    HD_TRY(hd_force(s, a, p));
    reasoning = take_open_reasoning(a);
    hd_chat_text_init(&c);
    rc = hd_chat_render(s->tok, a->doc, &opt, &c, &err);
    if (rc == HD_OK && hd_force_opens(s, a)) {
        open_calls(s, &c);
        a->n_opened = n_opened(s);
    }
    a->start = hd_parse_start(s->parse_family, hd_str_get(&c.text), c.text.n);
    if (rc == HD_OK && reasoning)
        hd_chat_put_value(&c, reasoning);
    if (rc == HD_OK)
        rc = hd_replay_ids(hd_prep_tokenizer(s), &c, a->spot, a->n_spot, &a->prompt[0], &n_exact, &err);
    hd_metrics_count(&s->metrics.replays[HD_REPLAY_EXACT], (uint64_t)n_exact);
    hd_metrics_count(&s->metrics.replays[HD_REPLAY_CANONICAL], (uint64_t)(a->n_spot - n_exact));
    if (rc < 0)
        hd_problem_from(p, &err);
    json_decref(reasoning);
    if (rc == HD_OK && text)
        hd_str_add(text, hd_str_get(&c.text), c.text.n);
    hd_chat_text_release(&c);
    return rc;
}

static int64_t default_max(const struct hd_ask *a)
{
    return a->raw ? 16 : !strcmp(a->thinking, "off") ? 8192 : !strcmp(a->thinking, "max") ? 131072 : 65536;
}

/* More tokens than fit are no error: clients ask for a model's whole output length as a matter of course. */
int hd_ask_fit(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    if (a->n_max < 0)
        a->n_max = default_max(a);
    for (int i = 0; i < a->n_prompt; i++) {
        int64_t n = (int64_t)a->prompt[i].n, room = s->runner.n_ctx - n;

        if (n < 1)
            return hd_problem_set(p, 400, "prompt", "the prompt is empty");
        if (room < 1)
            return hd_problem_too_long(p, n, a->n_max < 1 ? 1 : a->n_max < s->runner.n_ctx ? a->n_max : 1, s->runner.n_ctx);
    }
    return HD_OK;
}
