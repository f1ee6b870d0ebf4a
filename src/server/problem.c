/* problem.c: see problem.h. */
#include "server/problem.h"

#include <stdio.h>
#include <string.h>

int hd_problem_set(struct hd_problem *p, int status, const char *param, const char *fmt, ...)
{
    struct hd_err clean;
    va_list ap;

    memset(p, 0, sizeof *p);
    p->status = status;
    va_start(ap, fmt);
    hd_err_setv(&clean, HD_ERR_USAGE, fmt, ap);
    va_end(ap);
    snprintf(p->message, sizeof p->message, "%.*s", (int)hd_utf8_whole(clean.msg, strnlen(clean.msg, sizeof p->message - 1)), clean.msg);
    hd_err_set(&clean, 0, "%s", param ? param : "");
    snprintf(p->param, sizeof p->param, "%.*s", (int)hd_utf8_whole(clean.msg, strnlen(clean.msg, sizeof p->param - 1)), clean.msg);
    return HD_ERR_USAGE;
}

int hd_problem_from(struct hd_problem *p, const struct hd_err *err)
{
    int status = err->code == HD_ERR_FORMAT || err->code == HD_ERR_UNSUPPORTED || err->code == HD_ERR_USAGE || err->code == HD_ERR_LIMIT ? 400 : 500;

    return hd_problem_set(p, status, NULL, "%s", err->msg);
}

int hd_problem_too_long(struct hd_problem *p, int64_t n_prompt, int64_t n_max, int64_t n_ctx)
{
    int rc = hd_problem_set(p, 400, NULL,
                            "This model's maximum context length is %lld tokens. However, you requested %lld tokens (%lld in the prompt, %lld for the answer). "
                            "prompt is too long: %lld tokens > %lld maximum",
                            (long long)n_ctx, (long long)(n_prompt + n_max), (long long)n_prompt, (long long)n_max, (long long)(n_prompt + n_max), (long long)n_ctx);

    p->code = "context_length_exceeded";
    p->n_prompt = n_prompt;
    p->n_ctx = n_ctx;
    return rc;
}

static const struct {
    int status;
    const char *openai, *anthropic;
} types[] = {{400, "invalid_request_error", "invalid_request_error"}, {401, "authentication_error", "authentication_error"},
             {402, "insufficient_balance", "billing_error"},          {403, "permission_error", "permission_error"},
             {404, "invalid_request_error", "not_found_error"},       {413, "invalid_request_error", "request_too_large"},
             {429, "rate_limit_error", "rate_limit_error"},           {500, "internal_error", "api_error"},
             {503, "server_overloaded", "api_error"},                 {529, "server_overloaded", "overloaded_error"}};

const char *hd_problem_type(const struct hd_problem *p, bool anthropic)
{
    if (p->type && !anthropic)
        return p->type;
    for (int i = 0; i < HD_LEN(types); i++)
        if (types[i].status == p->status)
            return anthropic ? types[i].anthropic : types[i].openai;
    return p->status < 500 ? "invalid_request_error" : anthropic ? "api_error" : "internal_error";
}

static const char *code_of(const struct hd_problem *p)
{
    return p->code ? p->code : p->status == 404 ? "not_found" : p->status == 429 ? "rate_limit_exceeded" : p->status >= 500 ? "server_error" : "invalid_request_error";
}

void hd_problem_json(const struct hd_problem *p, bool anthropic, const char *request_id, struct hd_str *out)
{
    hd_str_printf(out, anthropic ? "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":" : "{\"error\":{\"type\":\"%s\",\"message\":", hd_problem_type(p, anthropic));
    hd_str_json(out, p->message, strlen(p->message));
    if (anthropic) {
        hd_str_printf(out, "},\"request_id\":\"%s\"}", request_id);
        return;
    }
    hd_str_puts(out, ",\"param\":");
    if (p->param[0])
        hd_str_json(out, p->param, strlen(p->param));
    else
        hd_str_puts(out, "null");
    hd_str_printf(out, ",\"code\":\"%s\"", code_of(p));
    if (p->n_ctx)
        hd_str_printf(out, ",\"n_prompt_tokens\":%lld,\"n_ctx\":%lld", (long long)p->n_prompt, (long long)p->n_ctx);
    hd_str_puts(out, "}}");
}
