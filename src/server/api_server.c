/* api_server.c: what a server says of itself: health, models, version, properties. */
#include <stdio.h>
#include <string.h>

#include "server/api.h"
#include "server/page.h"
#include "server/routes.h"

void hd_api_health(struct hd_server *s, struct hd_exchange *x)
{
    static const char ok[] = "{\"status\":\"ok\"}", draining[] = "{\"status\":\"draining\"}";

    hd_exchange_header(x, "Cache-Control", "no-store");
    if (s->draining)
        hd_exchange_reply(x, 503, "application/json", draining, sizeof draining - 1);
    else
        hd_exchange_reply(x, 200, "application/json", ok, sizeof ok - 1);
}

void hd_api_ping(struct hd_server *s, struct hd_exchange *x)
{
    hd_exchange_reply(x, 200, "application/json", "{}", 2);
}

static void say_policy(struct hd_exchange *x)
{
    hd_exchange_header(x, "Content-Security-Policy",
                       "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    hd_exchange_header(x, "Referrer-Policy", "no-referrer");
    hd_exchange_header(x, "Cache-Control", "no-cache");
}

void hd_api_file(struct hd_server *s, struct hd_exchange *x)
{
    const struct hd_page_file *f = hd_page_find(x->head.path);
    struct hd_problem p;

    if (!f) {                         /* a slash too many */
        hd_problem_set(&p, 404, NULL, "there is no such file");
        hd_reply_problem(s, x, &p);
        return;
    }
    say_policy(x);
    hd_exchange_reply(x, 200, f->type, f->text.p, f->text.n);
}

/* The description, with the model's name where it says THE-MODEL. */
void hd_api_description(struct hd_server *s, struct hd_exchange *x)
{
    static const char mark[] = "THE-MODEL";
    const struct hd_page_file *f = hd_page_find((struct hd_view){"/openapi.yaml", 13});
    const char *at = memmem(f->text.p, f->text.n, mark, sizeof mark - 1);
    struct hd_str out;

    hd_str_init(&out, 0);
    hd_str_add(&out, f->text.p, (size_t)(at - f->text.p));
    hd_str_json(&out, s->opt.model_id, strlen(s->opt.model_id));
    at += sizeof mark - 1;
    hd_str_add(&out, at, (size_t)(f->text.p + f->text.n - at));
    say_policy(x);
    hd_exchange_reply(x, out.failed ? 500 : 200, f->type, hd_str_get(&out), out.n);
    hd_str_release(&out);
}

/* A browser gets the page, a program a few facts. */
void hd_api_root(struct hd_server *s, struct hd_exchange *x)
{
    struct hd_view accept = hd_http_head_get(&x->head, "accept");

    if (accept.p && memmem(accept.p, accept.n, "text/html", 9)) {
        hd_api_file(s, x);
        return;
    }
    hd_reply_value(x, 200, json_pack("{s:s, s:s, s:s}", "server", "hadal", "version", s->opt.version, "model", s->opt.model_id));
}

void hd_api_version(struct hd_server *s, struct hd_exchange *x)
{
    hd_reply_value(x, 200, json_pack("{s:s}", "version", s->opt.version));
}

/* As reasoning_effort has it. */
static const char *default_effort(const struct hd_server *s)
{
    return strcmp(s->thinking, "off") ? s->thinking : "none";
}

/* One object for every lister: OpenAI's, Anthropic's, DeepSeek's, vLLM's and llama-server's fields. */
static json_t *model_value(const struct hd_server *s)
{
    json_int_t n_ctx = s->runner.n_ctx;
    char when[32];
    struct tm tm;
    json_t *m;

    gmtime_r(&s->started, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    m = json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:s}", "id", s->opt.model_id, "object", "model", "type", "model", "created", (json_int_t)s->started, "owned_by", "hadal",
                  "name", s->opt.model_id, "display_name", s->opt.model_id, "created_at", when);
    json_object_set_new(m, "context_window", json_integer(n_ctx));
    json_object_set_new(m, "context_length", json_integer(n_ctx));
    json_object_set_new(m, "max_model_len", json_integer(n_ctx));
    json_object_set_new(m, "max_output_tokens", json_integer(n_ctx));
    json_object_set_new(m, "input_modalities", json_pack("[s]", "text"));
    json_object_set_new(m, "output_modalities", json_pack("[s]", "text"));
    if (s->thinks)
        json_object_set_new(m, "effort", json_pack("{s:[s,s,s], s:s}", "supported_levels", "low", "high", "max", "default_level", default_effort(s)));
    json_object_set_new(m, "meta", json_pack("{s:I, s:I}", "n_ctx_train", n_ctx, "n_vocab", (json_int_t)hd_tokenizer_size(s->tok)));
    return m;
}

void hd_api_models(struct hd_server *s, struct hd_exchange *x)
{
    hd_reply_value(x, 200, json_pack("{s:s, s:[o], s:b, s:s, s:s}", "object", "list", "data", model_value(s), "has_more", 0, "first_id", s->opt.model_id, "last_id", s->opt.model_id));
}

void hd_api_model(struct hd_server *s, struct hd_exchange *x)
{
    struct hd_problem p;
    char id[256];
    int legacy;

    if (hd_route_rest(x, id, sizeof id) && hd_model_known(s, (struct hd_view){id, strlen(id)}, hd_speaks_anthropic(x), &legacy)) {
        json_t *m = model_value(s);

        json_object_set_new(m, "id", json_string(id));
        hd_reply_value(x, 200, m);
        return;
    }
    hd_problem_set(&p, 404, "model", "there is no such model here; /v1/models lists them");
    p.code = "model_not_found";
    hd_reply_problem(s, x, &p);
}

/* Strings, as DeepSeek's API has them. Without a budget there is nothing to run out of. */
void hd_api_balance(struct hd_server *s, struct hd_exchange *x)
{
    int64_t budget = 0, left = 0;
    bool limited = hd_ledger_budget(s->ledger, x->tenant, &budget);
    char total[40], granted[40];

    if (limited)
        left = budget - hd_ledger_spent(s->ledger, x->tenant);
    snprintf(total, sizeof total, "%.2f", (double)(left > 0 ? left : 0) / 1e9);
    snprintf(granted, sizeof granted, "%.2f", (double)budget / 1e9);
    hd_reply_value(x, 200,
                   json_pack("{s:b, s:[{s:s, s:s, s:s, s:s}], s:f}", "is_available", !limited || left > 0, "balance_infos", "currency", hd_ledger_currency(s->ledger), "total_balance", total,
                             "granted_balance", granted, "topped_up_balance", "0.00", "spent", (double)hd_ledger_spent(s->ledger, x->tenant) / 1e9));
}

void hd_api_metrics(struct hd_server *s, struct hd_exchange *x)
{
    struct hd_run_stats st = {0};
    struct hd_str out;

    hd_str_init(&out, 0);
    s->runner.stats(s->runner.self, &st);
    hd_metrics_text(&s->metrics, &st, s->n_answer, s->opt.model_id, s->opt.version, s->opt.metrics_compat, &out);
    hd_exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", hd_str_get(&out), out.n);
    hd_str_release(&out);
}

void hd_api_props(struct hd_server *s, struct hd_exchange *x)
{
    struct hd_run_stats st = {0};

    s->runner.stats(s->runner.self, &st);
    hd_reply_value(x, 200,
                   json_pack("{s:s, s:s, s:I, s:I, s:s, s:s, s:s, s:s, s:[s], s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I}}", "model", s->opt.model_id, "version", s->opt.version, "n_ctx",
                             (json_int_t)s->runner.n_ctx, "n_vocab", (json_int_t)hd_tokenizer_size(s->tok), "chat_family", s->chat_family ? s->chat_family : "none",
                             "sampling_profile", s->opt.honour_sampling ? "open" : "deepseek", "reasoning_passback", s->opt.strict_reasoning ? "strict" : "lenient",
                             "reasoning_effort", default_effort(s), "modalities", "text", "state", "running", (json_int_t)st.n_running, "waiting", (json_int_t)st.n_waiting, "ctx_tokens", (json_int_t)st.ctx_tokens,
                             "ctx_used", (json_int_t)st.ctx_used, "prompt_tokens", (json_int_t)st.n_prompt, "cached_tokens", (json_int_t)st.n_cached, "generated_tokens", (json_int_t)st.n_generated));
}
