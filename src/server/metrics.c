/* metrics.c: see metrics.h. One table of numbers; what other servers call them stands beside our names. */
#include "server/metrics.h"

#include <string.h>

#include "base/err.h"

/* ---- histograms ---- */

static const double bounds_first[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560};
static const double bounds_between[] = {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
static const double bounds_whole[] = {.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
static const double bounds_count[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000};
static const double bounds_bytes[] = {100, 1000, 10000, 100000, 1e6, 1e7, 1e8};

struct histogram_row {
    const char *name, *help;
    size_t at;
    const double *bound;
    int n;
    const char *vllm, *sglang;
};

#define AT(member) offsetof(struct hd_metrics, member)
#define BOUNDS(b) b, HD_LEN(b)
_Static_assert(HD_LEN(bounds_first) <= HD_BUCKETS, "HD_BUCKETS");

static const struct histogram_row histograms[] = {
    {"ds_time_to_first_token_seconds", "From the request to its first token.", AT(first), BOUNDS(bounds_first), "time_to_first_token_seconds", "time_to_first_token_seconds"},
    {"ds_inter_token_latency_seconds", "Between two tokens of an answer.", AT(between), BOUNDS(bounds_between), "inter_token_latency_seconds", "inter_token_latency_seconds"},
    {"ds_request_seconds", "From the request to the end of its reply.", AT(whole), BOUNDS(bounds_whole), "e2e_request_latency_seconds", "e2e_request_latency_seconds"},
    {"ds_request_queue_seconds", "Waiting for the model.", AT(queue), BOUNDS(bounds_whole), "request_queue_time_seconds", NULL},
    {"ds_request_prefill_seconds", "Reading the prompt.", AT(prefill), BOUNDS(bounds_whole), "request_prefill_time_seconds", NULL},
    {"ds_request_decode_seconds", "Answering.", AT(decode), BOUNDS(bounds_whole), "request_decode_time_seconds", NULL},
    {"ds_request_prompt_tokens", "Tokens of a prompt.", AT(n_prompt), BOUNDS(bounds_count), "request_prompt_tokens", NULL},
    {"ds_request_generation_tokens", "Tokens of an answer.", AT(n_generated), BOUNDS(bounds_count), "request_generation_tokens", NULL},
    {"ds_http_body_bytes", "Bytes of request bodies.", AT(body), BOUNDS(bounds_bytes), NULL, NULL},
};

void hd_metrics_observe(struct hd_metrics *m, struct hd_histogram *h, double v)
{
    size_t at = (size_t)((char *)h - (char *)m);

    for (int i = 0; i < HD_LEN(histograms); i++) {
        const struct histogram_row *r = &histograms[i];
        int k = 0;

        if (r->at != at)
            continue;
        while (k < r->n && v > r->bound[k])
            k++;
        h->count[k]++;
        h->sum += v;
        return;
    }
    HD_ASSERT(!"a histogram without bounds");
}

/* ---- counting ---- */

static const int codes[HD_METRIC_CODES] = {200, 204, 400, 401, 402, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503, 0};

void hd_metrics_http(struct hd_metrics *m, const struct hd_route *r, int status)
{
    int i = 0, k = 0;

    while (hd_route_at(i) && hd_route_at(i) != r)
        i++;
    while (k < HD_METRIC_CODES - 1 && codes[k] != status)
        k++;
    m->http[i < HD_METRIC_ROUTES ? i : HD_METRIC_ROUTES - 1][k]++;
}

void hd_metrics_record(struct hd_metrics *m, const struct hd_record *r)
{
    static const char *const endings[HD_N_ENDING] = {"stop", "length", "tool_calls", "abort", "error"};

    for (int i = 0; i < HD_N_ENDING; i++)
        m->endings[i] += !strcmp(r->finish, endings[i]);
    m->prompt += (uint64_t)r->prompt;
    m->cached += (uint64_t)r->cached;
    m->generated += (uint64_t)r->completion;
    m->cost += r->cost;
    if (r->first_s > 0)
        hd_metrics_observe(m, &m->first, r->first_s);
    hd_metrics_observe(m, &m->whole, r->total_s);
    hd_metrics_observe(m, &m->queue, r->queue_s);
    hd_metrics_observe(m, &m->prefill, r->prefill_s);
    hd_metrics_observe(m, &m->decode, r->decode_s);
    hd_metrics_observe(m, &m->n_prompt, (double)r->prompt);
    hd_metrics_observe(m, &m->n_generated, (double)r->completion);
}

/* ---- text ---- */

struct writer {
    const struct hd_metrics *m;
    const char *model, *compat;
    struct hd_str *out;
};

static bool wants(const struct writer *w, const char *set)
{
    const char *p = strstr(w->compat, set);

    return p && (p == w->compat || p[-1] == ',') && (!p[strlen(set)] || p[strlen(set)] == ',');
}

static void head(const struct writer *w, const char *prefix, const char *name, const char *type, const char *help)
{
    hd_str_printf(w->out, "# HELP %s%s %s\n# TYPE %s%s %s\n", prefix, name, help, prefix, name, type);
}

/* What vLLM's dashboards select by. */
static void labels(const struct writer *w, bool vllm, const char *more)
{
    if (!vllm && !*more)
        return;
    hd_str_putc(w->out, '{');
    if (vllm) {
        hd_str_puts(w->out, "model_name=");
        hd_str_json(w->out, w->model, strlen(w->model));
        hd_str_puts(w->out, ",engine=\"0\"");
    }
    if (*more)
        hd_str_printf(w->out, "%s%s", vllm ? "," : "", more);
    hd_str_putc(w->out, '}');
}

struct number_row {
    const char *name, *type, *help;
    double value;
    const char *vllm, *llamacpp, *sglang;
};

static void one(const struct writer *w, const char *prefix, const char *name, bool vllm, const struct number_row *r)
{
    if (!name)
        return;
    head(w, prefix, name, r->type, r->help);
    hd_str_printf(w->out, "%s%s", prefix, name);
    labels(w, vllm, "");
    hd_str_printf(w->out, " %.10g\n", r->value);
}

static void put_number(const struct writer *w, const struct number_row *r)
{
    one(w, "", r->name, false, r);
    one(w, "vllm:", wants(w, "vllm") ? r->vllm : NULL, true, r);
    one(w, "llamacpp:", wants(w, "llamacpp") ? r->llamacpp : NULL, false, r);
    one(w, "sglang:", wants(w, "sglang") ? r->sglang : NULL, false, r);
}

static void histogram(const struct writer *w, const char *prefix, const char *name, bool vllm, const struct histogram_row *r)
{
    const struct hd_histogram *h = (const struct hd_histogram *)((const char *)w->m + r->at);
    uint64_t n = 0;
    char le[40];

    if (!name)
        return;
    head(w, prefix, name, "histogram", r->help);
    for (int i = 0; i <= r->n; i++) {
        n += h->count[i];
        if (i < r->n)
            snprintf(le, sizeof le, "le=\"%g\"", r->bound[i]);
        else
            snprintf(le, sizeof le, "le=\"+Inf\"");
        hd_str_printf(w->out, "%s%s_bucket", prefix, name);
        labels(w, vllm, le);
        hd_str_printf(w->out, " %llu\n", (unsigned long long)n);
    }
    hd_str_printf(w->out, "%s%s_sum", prefix, name);
    labels(w, vllm, "");
    hd_str_printf(w->out, " %.10g\n%s%s_count", h->sum, prefix, name);
    labels(w, vllm, "");
    hd_str_printf(w->out, " %llu\n", (unsigned long long)n);
}

/* name{label="value"} of a fixed list. */
static void family(const struct writer *w, const char *name, const char *help, const char *label, const char *const *value, const uint64_t *count, int n)
{
    head(w, "", name, "counter", help);
    for (int i = 0; i < n; i++)
        hd_str_printf(w->out, "%s{%s=\"%s\"} %llu\n", name, label, value[i], (unsigned long long)count[i]);
}

static void put_http(const struct writer *w)
{
    head(w, "", "ds_http_requests_total", "counter", "Requests by path and status.");
    for (int i = 0; i < HD_METRIC_ROUTES; i++)
        for (int k = 0; k < HD_METRIC_CODES; k++)
            if (w->m->http[i][k]) {
                const struct hd_route *r = hd_route_at(i);

                hd_str_printf(w->out, "ds_http_requests_total{path=\"%s\",method=\"%s\",code=\"", r ? r->path : "other", !r ? "other" : r->method == HD_METHOD_GET ? "GET" : "POST");
                if (codes[k])
                    hd_str_printf(w->out, "%d", codes[k]);
                else
                    hd_str_puts(w->out, "other");
                hd_str_printf(w->out, "\"} %llu\n", (unsigned long long)w->m->http[i][k]);
            }
}

static void put_results(const struct writer *w)
{
    static const char *const phases[HD_N_PHASE] = {"queue", "prefill", "decode"}, *const outcomes[HD_N_CALL_OUTCOME] = {"ok", "recovered", "malformed"};
    static const char *const replays[HD_N_REPLAY] = {"exact", "canonical", "miss"};
    static const char *const endings[HD_N_ENDING] = {"stop", "length", "tool_calls", "abort", "error"};
    char more[48];

    family(w, "ds_client_disconnects_total", "Clients that left before their reply was complete.", "phase", phases, w->m->disconnects, HD_N_PHASE);
    family(w, "ds_toolcall_total", "Tool calls of the model.", "outcome", outcomes, w->m->calls, HD_N_CALL_OUTCOME);
    family(w, "ds_replay_total", "Turns with calls in histories: known to the token, known and rendered, changed or unknown.", "result", replays, w->m->replays, HD_N_REPLAY);
    family(w, "ds_requests_finished_total", "Requests by how they ended.", "reason", endings, w->m->endings, HD_N_ENDING);
    if (!wants(w, "vllm"))
        return;
    head(w, "vllm:", "request_success_total", "counter", "Requests by how they ended.");
    for (int i = 0; i < HD_END_ERROR; i++) {
        snprintf(more, sizeof more, "finished_reason=\"%s\"", i == HD_END_TOOLS ? "tool_calls" : endings[i]);
        hd_str_puts(w->out, "vllm:request_success_total");
        labels(w, true, more);
        hd_str_printf(w->out, " %llu\n", (unsigned long long)w->m->endings[i]);
    }
}

void hd_metrics_text(const struct hd_metrics *m, const struct hd_run_stats *st, int n_inflight, const char *model, const char *version, const char *compat, struct hd_str *out)
{
    struct writer w = {m, model, compat, out};
    double prefill_tps = st->prefill_s > 0 ? (double)(st->n_prompt - st->n_cached) / st->prefill_s : 0, decode_tps = st->decode_s > 0 ? (double)st->n_generated / st->decode_s : 0;
    const struct number_row numbers[] = {
        {"ds_requests_running", "gauge", "Requests that the model works on.", (double)st->n_running, "num_requests_running", "requests_processing", "num_running_reqs"},
        {"ds_requests_waiting", "gauge", "Requests that wait for the model.", (double)st->n_waiting, "num_requests_waiting", "requests_deferred", "num_queue_reqs"},
        {"ds_cache_usage_ratio", "gauge", "Share of the cache that is used.", st->ctx_tokens ? (double)st->ctx_used / (double)st->ctx_tokens : 0, "kv_cache_usage_perc", NULL, "token_usage"},
        {"ds_cache_sessions", "gauge", "Kept prefixes.", (double)st->n_session, NULL, NULL, NULL},
        {"ds_prefix_cache_queries_total", "counter", "Prompt tokens that were looked up.", (double)st->n_prompt, "prefix_cache_queries_total", NULL, NULL},
        {"ds_prefix_cache_hits_total", "counter", "Prompt tokens that were not computed again.", (double)st->n_cached, "prefix_cache_hits_total", NULL, "cached_tokens_total"},
        {"ds_prompt_tokens_total", "counter", "Prompt tokens.", (double)st->n_prompt, "prompt_tokens_total", "prompt_tokens_total", "prompt_tokens_total"},
        {"ds_generation_tokens_total", "counter", "Tokens generated.", (double)st->n_generated, "generation_tokens_total", "tokens_predicted_total", "generation_tokens_total"},
        {"ds_prompt_seconds_total", "counter", "Time in steps that read prompts.", st->prefill_s, NULL, "prompt_seconds_total", NULL},
        {"ds_generation_seconds_total", "counter", "Time in steps that generate.", st->decode_s, NULL, "tokens_predicted_seconds_total", NULL},
        {"ds_prompt_tokens_per_second", "gauge", "Mean speed of reading.", prefill_tps, NULL, "prompt_tokens_seconds", NULL},
        {"ds_generation_tokens_per_second", "gauge", "Mean speed of generating.", decode_tps, NULL, "predicted_tokens_seconds", "gen_throughput"},
        {"ds_steps_total", "counter", "Steps of the engine.", (double)st->n_step, NULL, "n_decode_total", NULL},
        {"ds_preemptions_total", "counter", "Requests that were put back.", (double)st->n_preempted, "num_preemptions_total", NULL, NULL},
        {"ds_draft_tokens_total", "counter", "Tokens proposed by speculation.", (double)st->n_drafted, "spec_decode_num_draft_tokens_total", NULL, NULL},
        {"ds_draft_tokens_accepted_total", "counter", "Proposed tokens that stood.", (double)st->n_accepted, "spec_decode_num_accepted_tokens_total", NULL, NULL},
        {"ds_kv_disk_bytes", "gauge", "Bytes of prefixes on disk.", (double)st->disk_bytes, NULL, NULL, NULL},
        {"ds_kv_disk_hits_total", "counter", "Prefixes read from disk.", (double)st->disk_hits, NULL, NULL, NULL},
        {"ds_kv_disk_evictions_total", "counter", "Prefixes pushed out from disk.", (double)st->disk_evictions, NULL, NULL, NULL},
        {"ds_expert_hits_total", "counter", "Experts that were in memory when a step wanted them, of models bigger than memory.", (double)st->expert_hits, NULL, NULL, NULL},
        {"ds_expert_misses_total", "counter", "Experts that a step had to wait for.", (double)st->expert_misses, NULL, NULL, NULL},
        {"ds_expert_ahead_total", "counter", "Experts read ahead.", (double)st->expert_ahead, NULL, NULL, NULL},
        {"ds_expert_ahead_used_total", "counter", "Experts read ahead that a step then wanted.", (double)st->expert_ahead_used, NULL, NULL, NULL},
        {"ds_expert_read_bytes_total", "counter", "Bytes of experts read from disk.", (double)st->expert_bytes, NULL, NULL, NULL},
        {"ds_table_read_bytes_total", "counter", "Bytes of table rows read from disk.", (double)st->row_bytes, NULL, NULL, NULL},
        {"ds_expert_damaged_total", "counter", "Experts whose record in their pack is damaged: they come from the checkpoint.", (double)st->expert_damaged, NULL, NULL, NULL},
        {"ds_expert_wait_seconds_total", "counter", "Time in which steps waited for experts.", st->expert_wait_s, NULL, NULL, NULL},
        {"ds_http_inflight", "gauge", "Requests that run or wait.", n_inflight, NULL, NULL, NULL},
        {"ds_auth_failures_total", "counter", "Requests with a wrong key or none.", (double)m->auth_failures, NULL, NULL, NULL},
        {"ds_ledger_failures_total", "counter", "Rows that the ledger did not take.", (double)m->ledger_failures, NULL, NULL, NULL},
        {"ds_cost_total", "counter", "Cost of all requests, in the price table's currency.", (double)m->cost / 1e9, NULL, NULL, NULL},
    };

    head(&w, "", "ds_build_info", "gauge", "What runs.");
    hd_str_puts(out, "ds_build_info{version=");
    hd_str_json(out, version, strlen(version));
    hd_str_puts(out, ",model=");
    hd_str_json(out, model, strlen(model));
    hd_str_puts(out, "} 1\n");
    for (int i = 0; i < HD_LEN(numbers); i++)
        put_number(&w, &numbers[i]);
    put_http(&w);
    put_results(&w);
    for (int i = 0; i < HD_LEN(histograms); i++) {
        histogram(&w, "", histograms[i].name, false, &histograms[i]);
        histogram(&w, "vllm:", wants(&w, "vllm") ? histograms[i].vllm : NULL, true, &histograms[i]);
        histogram(&w, "sglang:", wants(&w, "sglang") ? histograms[i].sglang : NULL, false, &histograms[i]);
    }
}
