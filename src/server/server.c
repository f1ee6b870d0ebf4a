/* server.c: see server.h: the loop, who may ask, and what becomes of requests until a handler has them. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <event2/thread.h>

#include "base/hash.h"
#include "base/mem.h"
#include "sample/json_vocab.h"
#include "server/access_log.h"
#include "server/answering.h"
#include "server/fields.h"
#include "server/prep.h"
#include "server/replay.h"
#include "server/routes.h"
#include "token/chat.h"
#include "token/py_json.h"

#define JSON_DEPTH 64
#define JSON_VALUES 1000000

void hd_server_defaults(struct hd_server_options *o)
{
    *o = (struct hd_server_options){.host = "127.0.0.1",
                                    .port = 8080,
                                    .version = "",
                                    .metrics_compat = "",
                                    .n_conn_max = 1024,
                                    .n_idle_max = 256,
                                    .n_max = 8,
                                    .body_max = (int64_t)48 << 20,
                                    .head_s = 10,
                                    .idle_s = 75,
                                    .body_s = 120,
                                    .stall_s = 60,
                                    .request_s = 3600,
                                    .drain_s = 120,
                                    .keep_alive_s = 5,
                                    .log_fd = -1};
}

/* ---- replies ---- */

bool hd_speaks_anthropic(const struct hd_exchange *x)
{
    const struct hd_route *r = x->route;

    return r ? r->flags & HD_ROUTE_ANTHROPIC : x->head.path.n > 10 && !memcmp(x->head.path.p, "/anthropic", 10);
}

void hd_reply_json(struct hd_exchange *x, int status, const struct hd_str *body)
{
    hd_exchange_header(x, "Cache-Control", "no-store");
    if (body->failed)
        hd_exchange_cut(x);
    else
        hd_exchange_reply(x, status, "application/json", hd_str_get(body), body->n);
}

void hd_reply_value(struct hd_exchange *x, int status, json_t *body)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;

    json_decref(body);
    hd_exchange_header(x, "Cache-Control", "no-store");
    hd_exchange_reply(x, text ? status : 500, "application/json", text ? text : "{}", text ? strlen(text) : 2);
    hd_free(text);
}

void hd_reply_problem(struct hd_server *s, struct hd_exchange *x, const struct hd_problem *p)
{
    struct hd_str body;
    char text[24];

    if (p->retry_s > 0) {
        snprintf(text, sizeof text, "%d", p->retry_s);
        hd_exchange_header(x, "Retry-After", text);
        snprintf(text, sizeof text, "%d000", p->retry_s);
        hd_exchange_header(x, "retry-after-ms", text);
    }
    if (p->status == 401)
        hd_exchange_header(x, "WWW-Authenticate", "Bearer");
    if (p->status == 500)
        hd_exchange_header(x, "x-should-retry", "false");
    if (hd_speaks_anthropic(x) && !x->body)
        hd_exchange_header(x, "request-id", x->id);   /* later, the handler has */
    hd_str_init(&body, 0);
    hd_problem_json(p, hd_speaks_anthropic(x), x->id, &body);
    hd_reply_json(x, p->status, &body);
    hd_str_release(&body);
}

/* ---- bodies ---- */

/* Integers of any length are Python's to write, and schemas of other languages' largest ones are common. */
static json_t *parse_body(const struct hd_exchange *x, struct hd_err *err)
{
    json_error_t e;
    json_t *v;

    hd_json_init();
    v = json_loadb(x->body, x->n_body, JSON_ALLOW_NUL, &e);
    if (!v && json_error_code(&e) == json_error_numeric_overflow && strstr(e.text, "integer"))
        v = hd_py_json_parse(x->body, x->n_body);
    if (!v)
        hd_json_error(&e, "the body", err);
    return v;
}

json_t *hd_body_json(const struct hd_exchange *x, struct hd_problem *p)
{
    struct hd_err err;
    json_t *v;

    if (!x->n_body) {
        hd_problem_set(p, 400, NULL, "the body is empty; expected a JSON object");
        return NULL;
    }
    if (!hd_json_within(x->body, x->n_body, JSON_DEPTH, JSON_VALUES)) {
        hd_problem_set(p, 400, NULL, "the body is nested deeper than %d levels, or holds more than %d values", JSON_DEPTH, JSON_VALUES);
        return NULL;
    }
    if (!(v = parse_body(x, &err))) {
        hd_problem_set(p, err.code == HD_ERR_MEMORY ? 500 : 400, NULL, "%s", err.msg);
        return NULL;
    }
    if (!json_is_object(v)) {
        hd_problem_set(p, 400, NULL, "the body is not a JSON object");
        json_decref(v);
        return NULL;
    }
    return v;
}

/* ---- models ---- */

bool hd_model_known(const struct hd_server *s, struct hd_view id, bool anthropic, int *legacy)
{
    static const char *const deepseek[] = {"deepseek-flash", "deepseek-v4-flash", "deepseek-v4-pro"};

    *legacy = 0;
    if (id.n > 4 && !memcmp(id.p + id.n - 4, "[1m]", 4))
        id.n -= 4;
    if (hd_view_is(id, s->opt.model_id) || s->opt.any_model)
        return true;
    for (int i = 0; i < HD_LEN(deepseek) && s->deepseek; i++)
        if (hd_view_is(id, deepseek[i]))
            return true;
    if (s->opt.legacy_aliases) {
        *legacy = hd_view_is(id, "deepseek-chat") ? 1 : hd_view_is(id, "deepseek-reasoner") ? 2 : 0;
        if (*legacy)
            return true;
    }
    return anthropic && id.n > 7 && !memcmp(id.p, "claude-", 7) && (!s->keys.n || hd_http_is_loopback(s->opt.host));
}

/* ---- who may ask ---- */

/* Is item in the list (commas between)? */
static bool listed(const char *list, struct hd_view item)
{
    while (list && *list) {
        size_t n = strcspn(list, ",");

        if (n == item.n && !strncasecmp(list, item.p, n))
            return true;
        list += n + (list[n] == ',');
    }
    return false;
}

static struct hd_view without_port(struct hd_view host)
{
    const char *close = memchr(host.p, ']', host.n);
    size_t from = close ? (size_t)(close - host.p) : 0;
    const char *colon = memchr(host.p + from, ':', host.n - from);

    return (struct hd_view){host.p, colon ? (size_t)(colon - host.p) : host.n};
}

/* Names that lead here from this machine only. Any other one may be a web page's that has pointed its name at us. */
static bool host_is_ours(const struct hd_server *s, struct hd_view host)
{
    struct hd_view name;
    char bracketed[72];

    if (!host.p)
        return true;                  /* HTTP/1.0: no browser */
    name = without_port(host);
    snprintf(bracketed, sizeof bracketed, "[%.60s]", s->opt.host);
    return hd_view_is_nocase(name, "localhost") || hd_view_is(name, "127.0.0.1") || hd_view_is(name, "[::1]") || hd_view_is(name, s->opt.host) || hd_view_is(name, bracketed) ||
           listed(s->opt.allowed_hosts, name) || listed(s->opt.allowed_hosts, host);
}

/* Pages of this server, and those that were named. */
static bool origin_is_fine(const struct hd_server *s, const struct hd_exchange *x, struct hd_view origin)
{
    struct hd_view host = x->head.host;

    if (listed(s->opt.allowed_origins, origin))
        return true;
    for (int k = 0; k < 2; k++) {
        size_t n = k ? 8 : 7;

        if (host.p && origin.n == host.n + n && !memcmp(origin.p, k ? "https://" : "http://", n) && !memcmp(origin.p + n, host.p, host.n))
            return true;
    }
    return false;
}

static struct hd_view presented_key(const struct hd_exchange *x)
{
    struct hd_view v = hd_http_head_get(&x->head, "authorization");

    if (v.p && v.n > 7 && !strncasecmp(v.p, "bearer ", 7))
        return (struct hd_view){v.p + 7, v.n - 7};
    if (v.p)
        return (struct hd_view){"", 0};
    v = hd_http_head_get(&x->head, "x-api-key");
    return v.p ? v : hd_http_head_get(&x->head, "api-key");
}

static int check_key(struct hd_server *s, struct hd_exchange *x, struct hd_problem *p)
{
    struct hd_view key = presented_key(x);
    const char *label = s->keys.n ? hd_keys_check(&s->keys, key) : "";
    int rc;

    if (label) {
        snprintf(x->tenant, sizeof x->tenant, "%s", label);
        return HD_OK;
    }
    s->metrics.auth_failures++;
    if (!key.p)
        rc = hd_problem_set(p, 401, NULL, "Authentication Fails: no API key was sent (request_id: %s)", x->id);
    else
        rc = hd_problem_set(p, 401, NULL, "Authentication Fails, Your api key: ****%.*s is invalid (request_id: %s)", key.n > 8 ? 4 : 0, key.n > 8 ? key.p + key.n - 4 : "", x->id);
    p->code = "invalid_request_error";
    return rc;
}

/* Behind a proxy on this machine everybody seems to come from it: then only a key will do. */
static int check_admin(struct hd_server *s, struct hd_exchange *x, struct hd_problem *p)
{
    bool forwarded = hd_http_head_get(&x->head, "forwarded").p || hd_http_head_get(&x->head, "x-forwarded-for").p || hd_http_head_get(&x->head, "x-real-ip").p;

    snprintf(x->tenant, sizeof x->tenant, "admin");
    if (!s->admin_keys.n && !s->keys.n && (x->loopback || x->local) && !forwarded)
        return HD_OK;
    if (!s->admin_keys.n)
        return hd_problem_set(p, 403, NULL, "this path is for whoever runs the server: from this machine while there are no keys, or with an admin key (--admin-key-file)");
    if (hd_keys_check(&s->admin_keys, presented_key(x)))
        return HD_OK;
    s->metrics.auth_failures++;
    hd_problem_set(p, 401, NULL, "Authentication Fails: an admin key is needed (request_id: %s)", x->id);
    p->code = "invalid_request_error";
    return HD_ERR_USAGE;
}

static int check_content(const struct hd_exchange *x, struct hd_problem *p)
{
    struct hd_view type = hd_http_head_get(&x->head, "content-type"), coding = hd_http_head_get(&x->head, "content-encoding");
    struct hd_view media = type;

    if (coding.p && !hd_view_is_nocase(coding, "identity"))
        return hd_problem_set(p, 415, NULL, "Content-Encoding: only identity is understood");
    if (x->head.method != HD_METHOD_POST)
        return HD_OK;
    for (media.n = 0; media.n < type.n && type.p[media.n] != ';' && type.p[media.n] != ' '; media.n++)
        ;
    return hd_view_is_nocase(media, "application/json") ? HD_OK : hd_problem_set(p, 415, NULL, "Content-Type: expected application/json");
}

/* The order matters: what costs little and says little comes first. */
static int admit(struct hd_server *s, struct hd_exchange *x, struct hd_problem *p)
{
    struct hd_view origin = hd_http_head_get(&x->head, "origin");
    const struct hd_route *r;
    const char *allow;

    r = x->route = hd_route_find(x->head.path, x->head.method, &allow);
    if (!s->keys.n && !x->local && !host_is_ours(s, x->head.host))
        return hd_problem_set(p, 403, NULL, "the Host header names another server than this one");
    if (origin.p && !origin_is_fine(s, x, origin))
        return hd_problem_set(p, 403, NULL, "requests from pages of this origin are not allowed");
    if (r && r->flags & HD_ROUTE_ADMIN)
        HD_TRY(check_admin(s, x, p));
    else if (!(r && r->flags & HD_ROUTE_PUBLIC))
        HD_TRY(check_key(s, x, p));
    if (!r && *allow) {
        hd_exchange_header(x, "Allow", allow);
        return hd_problem_set(p, 405, NULL, "this path does not answer %.*s", (int)x->head.method_name.n, x->head.method_name.p);
    }
    if (!r)
        return hd_problem_set(p, 404, NULL, "there is nothing at %.*s", (int)(x->head.path.n < 200 ? x->head.path.n : 200), x->head.path.p);
    if (!(r->flags & HD_ROUTE_ABSENT))
        HD_TRY(check_content(x, p));
    if (s->draining && r->flags & HD_ROUTE_WORK) {
        hd_problem_set(p, 503, NULL, "the server is shutting down");
        p->retry_s = 5;
        return HD_ERR_USAGE;
    }
    return HD_OK;
}

/* A browser asks before it lets a page ask. */
static void preflight(struct hd_server *s, struct hd_exchange *x, struct hd_view origin)
{
    struct hd_problem p;
    const char *allow;

    hd_route_find(x->head.path, HD_METHOD_OTHER, &allow);
    if (origin.p && !origin_is_fine(s, x, origin)) {
        hd_problem_set(&p, 403, NULL, "requests from pages of this origin are not allowed");
        hd_reply_problem(s, x, &p);
        return;
    }
    hd_exchange_header(x, "Allow", *allow ? allow : "OPTIONS");
    if (origin.p) {
        hd_exchange_header(x, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        hd_exchange_header(x, "Access-Control-Allow-Headers", "authorization, content-type, x-api-key, anthropic-version, anthropic-beta");
        hd_exchange_header(x, "Access-Control-Max-Age", "600");
    }
    hd_exchange_reply(x, 204, NULL, NULL, 0);
}

static void allow_origin(const struct hd_server *s, struct hd_exchange *x, struct hd_view origin)
{
    char text[256];

    if (!origin.p || origin.n >= sizeof text || !origin_is_fine(s, x, origin))
        return;
    snprintf(text, sizeof text, "%.*s", (int)origin.n, origin.p);
    hd_exchange_header(x, "Access-Control-Allow-Origin", text);
    hd_exchange_header(x, "Vary", "Origin");
}

/* ---- from HTTP ---- */

static bool on_head(void *arg, struct hd_exchange *x)
{
    struct hd_server *s = arg;
    struct hd_view origin = hd_http_head_get(&x->head, "origin");
    struct hd_problem p = {0};

    allow_origin(s, x, origin);
    if (x->head.method == HD_METHOD_OPTIONS) {
        preflight(s, x, origin);
        return false;
    }
    if (admit(s, x, &p) < 0) {
        hd_reply_problem(s, x, &p);
        return false;
    }
    return true;
}

static void on_request(void *arg, struct hd_exchange *x)
{
    const struct hd_route *r = x->route;

    r->fn(arg, x);
}

static void on_refused(void *arg, struct hd_exchange *x, int status, const char *why)
{
    struct hd_problem p;

    hd_problem_set(&p, status, NULL, "%s", why);
    hd_reply_problem(arg, x, &p);
}

static void on_flows(void *arg, struct hd_exchange *x)
{
    if (x->owner)
        hd_answer_flows(x->owner);
}

/* Probes of load balancers are not worth a line. */
static void note_exchange(struct hd_server *s, const struct hd_exchange *x, int status)
{
    const struct hd_route *r = x->route;

    hd_metrics_http(&s->metrics, r, status);
    if (x->n_body)
        hd_metrics_observe(&s->metrics, &s->metrics.body, (double)x->n_body);
    if (!x->answered && !(r && r->flags & HD_ROUTE_PUBLIC && status < 400))
        hd_log_request(s->opt.log_fd, x->id, x->tenant, r ? r->path : "other", status, hd_http_now() - x->t0);
}

static void on_gone(void *arg, struct hd_exchange *x)
{
    note_exchange(arg, x, 499);
    hd_prep_gone(x);
    if (x->owner)
        hd_answer_gone(x->owner);
}

static void on_done(void *arg, struct hd_exchange *x)
{
    note_exchange(arg, x, x->status);
}

static void on_tick(void *arg, double now)
{
    struct hd_server *s = arg;

    for (struct hd_answer *a = s->answers, *next; a; a = next) {
        next = a->next;
        hd_answer_tick(a, now);
    }
}

/* ---- the end ---- */

void hd_server_stop_if_idle(struct hd_server *s)
{
    if (s->draining && !s->n_answer && !s->n_prep && !s->stopped) {
        struct timeval soon = {0, 200000};    /* last replies leave */

        s->stopped = true;
        hd_http_close_idle(s->http);
        event_base_loopexit(s->base, &soon);
    }
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    struct hd_server *s = arg;
    struct hd_problem p;

    hd_problem_set(&p, 503, NULL, "the server is shutting down");
    for (struct hd_answer *a = s->answers; a; a = a->next)
        hd_answer_fail(a, &p);
    hd_server_stop_if_idle(s);
}

static void drain(evutil_socket_t sig, short what, void *arg)
{
    struct hd_server *s = arg;
    struct timeval tv = {(time_t)s->opt.drain_s, (suseconds_t)((s->opt.drain_s - (double)(time_t)s->opt.drain_s) * 1e6)};

    if (s->draining) {                /* a second signal: at once */
        on_deadline(-1, 0, s);
        event_base_loopbreak(s->base);
        return;
    }
    s->draining = true;
    event_add(s->deadline, &tv);
    hd_server_stop_if_idle(s);
}

void hd_server_drain(struct hd_server *s)
{
    if (!s->draining)
        drain(-1, 0, s);
}

static int read_keys(struct hd_server *s, struct hd_keys *keys, struct hd_err *err)
{
    for (int i = 0; i < s->opt.n_api_key; i++)
        HD_TRY(hd_keys_add(keys, NULL, (struct hd_view){s->opt.api_key[i], strlen(s->opt.api_key[i])}, err));
    return s->opt.api_key_file ? hd_keys_read(keys, s->opt.api_key_file, err) : HD_OK;
}

/* A file that cannot be read leaves the keys as they were: neither locked out nor open. */
static void on_hup(evutil_socket_t sig, short what, void *arg)
{
    struct hd_server *s = arg;
    struct hd_keys keys = {0};
    struct hd_err err;

    if (s->opt.api_key_file && read_keys(s, &keys, &err) == HD_OK && keys.n) {
        hd_keys_release(&s->keys);
        s->keys = keys;
    } else {
        hd_keys_release(&keys);
    }
}

/* ---- from the runner ---- */

static void on_notes(evutil_socket_t fd, short what, void *arg)
{
    struct hd_server *s = arg;
    struct hd_note note;

    while (hd_inbox_take(&s->inbox, &note))
        hd_answer_note(&note);
    hd_server_stop_if_idle(s);
}

/* ---- set-up ---- */

static void know_the_model(struct hd_server *s)
{
    uint64_t h = hd_hash(hd_hash(HD_HASH_INIT, s->opt.model_id, strlen(s->opt.model_id)), s->opt.version, strlen(s->opt.version));

    s->chat_family = hd_chat_family(s->tok);
    s->parse_family = hd_parse_family(s->chat_family);
    s->deepseek = s->parse_family == HD_PARSE_V4 || s->parse_family == HD_PARSE_V41;
    s->thinks = s->parse_family != HD_PARSE_PLAIN;
    s->thinking = s->opt.thinking ? s->opt.thinking : hd_tokenizer_thinking(s->tok);
    s->thinking = !s->thinks ? "off" : !s->thinking || !strcmp(s->thinking, "on") ? "high" : s->thinking;
    s->tools = s->parse_family != HD_PARSE_PLAIN;
    s->think_id = hd_tokenizer_find(s->tok, "<think>");
    s->think_end_id = hd_tokenizer_find(s->tok, "</think>");
    snprintf(s->fingerprint, sizeof s->fingerprint, "fp_%010llx_%s", (unsigned long long)(h & 0xFFFFFFFFFFu), s->opt.honour_sampling ? "open" : "ds");
}

static int check_address(const struct hd_server *s, struct hd_err *err)
{
    if (s->keys.n || s->opt.open || hd_http_is_loopback(s->opt.host))
        return HD_OK;
    return hd_err_set(err, HD_ERR_USAGE, "--host %.60s: other machines could use this server without a key; give --api-key-file or --api-key (or --i-know-this-is-open)",
                      s->opt.host);
}

static int listen_all(struct hd_server *s, struct hd_err *err)
{
    bool v6 = strchr(s->opt.host, ':') != NULL;

    HD_TRY(hd_http_listen(s->http, s->opt.host, s->opt.port, &s->port, err));
    if (s->opt.unix_path)
        HD_TRY(hd_http_listen_unix(s->http, s->opt.unix_path, err));
    snprintf(s->url, sizeof s->url, v6 ? "http://[%.100s]:%d" : "http://%.100s:%d", s->opt.host, s->port);
    return HD_OK;
}

static bool has_end(const struct hd_tokenizer *t)
{
    for (int32_t id = 0; id < hd_tokenizer_size(t); id++)
        if (hd_tokenizer_is_end(t, id))
            return true;
    return false;
}

static int set_up(struct hd_server *s, struct hd_err *err)
{
    static const struct hd_http_calls calls = {on_head, on_request, on_refused, on_flows, on_gone, on_done, on_tick};
    struct hd_http_limits lim = {(size_t)s->opt.body_max, s->opt.n_conn_max, s->opt.n_idle_max, s->opt.head_s, s->opt.idle_s, s->opt.body_s, s->opt.stall_s};

    HD_TRY(read_keys(s, &s->keys, err));
    if (s->opt.admin_key)
        HD_TRY(hd_keys_add(&s->admin_keys, "admin", (struct hd_view){s->opt.admin_key, strlen(s->opt.admin_key)}, err));
    if (s->opt.admin_key_file)
        HD_TRY(hd_keys_read(&s->admin_keys, s->opt.admin_key_file, err));
    HD_TRY(hd_replay_create(&s->replay, s->opt.turns_dir, s->tok, err));
    if (has_end(s->tok))
        HD_TRY(hd_json_vocab_create(&s->json_vocab, s->tok, err));
    HD_TRY(hd_ledger_open(&s->ledger, s->opt.ledger, s->opt.prices, err));
    HD_TRY(check_address(s, err));
    evthread_use_pthreads();
    if (!(s->base = event_base_new()))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the event loop");
    HD_TRY(hd_inbox_init(&s->inbox, s->base, on_notes, s, err));
    HD_TRY(hd_prep_init(s, err));
    HD_TRY(hd_http_create(&s->http, s->base, &lim, &calls, s, err));
    s->on_term = evsignal_new(s->base, SIGTERM, drain, s);
    s->on_int = evsignal_new(s->base, SIGINT, drain, s);
    s->on_hup = evsignal_new(s->base, SIGHUP, on_hup, s);
    s->deadline = event_new(s->base, -1, 0, on_deadline, s);
    if (!s->on_term || !s->on_int || !s->on_hup || !s->deadline || event_add(s->on_term, NULL) || event_add(s->on_int, NULL) || event_add(s->on_hup, NULL))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for signals");
    return listen_all(s, err);
}

int hd_server_create(struct hd_server **out, const struct hd_server_options *o, const struct hd_runner *runner, struct hd_tokenizer *tok, struct hd_err *err)
{
    struct hd_server *s = hd_calloc(1, sizeof *s);
    int rc;

    if (!s)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the server");
    hd_json_init();
    s->opt = *o;
    s->runner = *runner;
    s->tok = tok;
    s->started = time(NULL);
    hd_str_init(&s->out, 0);
    know_the_model(s);
    rc = set_up(s, err);
    if (rc < 0)
        hd_server_free(s);
    else
        *out = s;
    return rc;
}

const char *hd_server_url(const struct hd_server *s)
{
    return s->url;
}

int hd_server_run(struct hd_server *s, struct hd_err *err)
{
    if (event_base_dispatch(s->base) < 0)
        return hd_err_set(err, HD_ERR_IO, "the event loop failed");
    return HD_OK;
}

/* What still runs is cancelled; the runner's ENDs are waited for, because they hold pointers to what would be freed. */
static void end_answers(struct hd_server *s)
{
    struct hd_problem p;

    hd_problem_set(&p, 503, NULL, "the server is shutting down");
    for (struct hd_answer *a = s->answers; a; a = a->next)
        hd_answer_fail(a, &p);
    while (s->n_answer)
        event_base_loop(s->base, EVLOOP_ONCE);
}

void hd_server_free(struct hd_server *s)
{
    struct event *events[] = {s->on_term, s->on_int, s->on_hup, s->deadline};

    hd_prep_release(s);
    if (s->base)
        end_answers(s);
    hd_http_free(s->http);
    for (int i = 0; i < HD_LEN(events); i++)
        if (events[i])
            event_free(events[i]);
    hd_inbox_release(&s->inbox);
    if (s->base)
        event_base_free(s->base);
    hd_keys_release(&s->keys);
    hd_keys_release(&s->admin_keys);
    hd_ledger_close(s->ledger);
    hd_replay_free(s->replay);
    hd_json_vocab_free(s->json_vocab);
    hd_str_release(&s->out);
    hd_free(s);
}
