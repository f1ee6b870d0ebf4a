/* cmd_serve.c: hadal serve: a model behind HTTP. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "engine/schedule.h"
#include "server/script.h"
#include "server/server.h"

struct model {
    struct hd_tokenizer *tok;
    struct hd_engine engine;
    bool engine_open;
    struct hd_schedule *schedule;
    struct hd_script *script;
    struct hd_runner runner;
    char id[128];
};

/* What the model is called: the last part of its path, without what says its format. */
static void name_model(struct model *m, const struct hd_args *a)
{
    char path[4096];
    size_t n;

    snprintf(path, sizeof path, "%s", a->positional[0]);
    for (n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = 0;
    snprintf(m->id, sizeof m->id, "%.120s", hd_args_text(a, "model-id", hd_path_base(path)));
    n = strlen(m->id);
    if (!hd_args_has(a, "model-id") && n > 5 && !strcmp(m->id + n - 5, ".gguf"))
        m->id[n - 5] = 0;
}

static int open_engine(struct model *m, const struct hd_args *a, struct hd_err *err)
{
    struct hd_schedule_options so = {.tok = m->tok,
                                     .max_running = (int)hd_args_int(a, "max-running", 0),
                                     .max_per_user = (int)hd_args_int(a, "max-per-user", 0),
                                     .max_waiting = hd_args_int(a, "queue", 0),
                                     .max_waiting_tokens = hd_args_int(a, "queue-tokens", 0),
                                     .disk_dir = hd_args_text(a, "kv-disk-dir", NULL),
                                     .disk_bytes = hd_args_int(a, "kv-disk-mib", 0) << 20};
    struct hd_engine_options o;

    HD_TRY(hd_engine_args(a, &o, err));
    HD_TRY(hd_draft_args(a, &o, &so.draft, err));
    o.cache_share = 0.25;
    o.planned = hd_args_has(a, "quiet") ? NULL : hd_cli_planned;
    if (!hd_args_has(a, "quiet"))
        fprintf(stderr, "loading %s\n", hd_path_base(a->positional[0]));
    HD_TRY(hd_engine_open(&m->engine, a->positional[0], &o, err));
    m->engine_open = true;
    if (hd_tokenizer_size(m->tok) > m->engine.model.hp.n_vocab)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: the tokenizer has %lld tokens, the model %lld", a->positional[0], (long long)hd_tokenizer_size(m->tok),
                          (long long)m->engine.model.hp.n_vocab);
    HD_TRY(hd_schedule_create(&m->schedule, &m->engine, &so, err));
    hd_schedule_runner(m->schedule, &m->runner);
    return HD_OK;
}

static int open_model(struct model *m, const struct hd_args *a, struct hd_err *err)
{
    const char *script = hd_args_text(a, "script", NULL);

    name_model(m, a);
    HD_TRY(hd_model_tokenizer(&m->tok, a->positional[0], err));
    if (!script)
        return open_engine(m, a, err);
    HD_TRY(hd_script_open(&m->script, script, m->tok, err));
    hd_script_runner(m->script, &m->runner);
    return HD_OK;
}

static void close_model(struct model *m)
{
    if (m->schedule)
        hd_schedule_free(m->schedule);
    if (m->script)
        hd_script_close(m->script);
    if (m->engine_open)
        hd_engine_close(&m->engine);
    if (m->tok)
        hd_tokenizer_free(m->tok);
}

/* Lines of JSON: to stderr, to a file, or nowhere. */
static int open_log(const struct hd_args *a, int *fd, struct hd_err *err)
{
    const char *path = hd_args_text(a, "log", NULL);

    *fd = hd_args_has(a, "quiet") ? -1 : 2;
    if (path && (*fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0)
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot open", path);
    return HD_OK;
}

static int read_options(struct hd_server_options *o, const struct hd_args *a, const char *model_id, struct hd_err *err)
{
    const char *sampling = hd_args_text(a, "sampling", "deepseek"), *thinking = hd_args_text(a, "thinking", NULL), *env = getenv("HADAL_API_KEY");
    static const char *from_env[1];

    hd_server_defaults(o);
    o->host = hd_args_text(a, "host", o->host);
    o->port = (int)hd_args_int(a, "port", o->port);
    o->unix_path = hd_args_text(a, "unix", NULL);
    o->api_key = a->list;
    o->n_api_key = a->n_list;
    if (!a->n_list && env && *env) {
        from_env[0] = env;
        o->api_key = from_env;
        o->n_api_key = 1;
    }
    o->admin_key = getenv("HADAL_ADMIN_KEY");
    o->admin_key_file = hd_args_text(a, "admin-key-file", NULL);
    o->n_idle_max = (int)hd_args_int(a, "max-idle", o->n_idle_max);
    o->api_key_file = hd_args_text(a, "api-key-file", NULL);
    o->allowed_hosts = hd_args_text(a, "allowed-hosts", NULL);
    o->allowed_origins = hd_args_text(a, "allowed-origins", NULL);
    o->open = hd_args_has(a, "i-know-this-is-open");
    o->model_id = model_id;
    o->tokenizer = a->positional[0];
    o->thinking = thinking && strcmp(thinking, "auto") ? thinking : NULL;
    o->any_model = hd_args_has(a, "any-model");
    o->legacy_aliases = hd_args_has(a, "legacy-aliases");
    o->strict_reasoning = hd_args_has(a, "strict-reasoning");
    o->version = HD_VERSION;
    o->n_max = (int)hd_args_int(a, "max-n", o->n_max);
    o->n_per_key = (int)hd_args_int(a, "max-per-key", 0);
    o->body_max = hd_args_int(a, "max-body", o->body_max >> 20) << 20;
    o->keep_alive_s = hd_args_real(a, "keep-alive", o->keep_alive_s);
    o->head_s = hd_args_real(a, "head-timeout", o->head_s);
    o->stall_s = hd_args_real(a, "stall-timeout", o->stall_s);
    o->request_s = hd_args_real(a, "request-timeout", o->request_s);
    o->drain_s = hd_args_real(a, "drain-timeout", o->drain_s);
    o->ledger = hd_args_text(a, "ledger", NULL);
    o->prices = hd_args_text(a, "prices", NULL);
    o->metrics_compat = hd_args_text(a, "metrics-compat", o->metrics_compat);
    HD_TRY(open_log(a, &o->log_fd, err));
    if (strcmp(sampling, "deepseek") && strcmp(sampling, "open"))
        return hd_err_set(err, HD_ERR_USAGE, "--sampling: found \"%.40s\"; expected deepseek or open", sampling);
    if (o->thinking && !hd_is_thinking_level(o->thinking))
        return hd_err_set(err, HD_ERR_USAGE, "--thinking: found \"%.40s\"; expected auto, off, on, low, high or max", o->thinking);
    o->honour_sampling = !strcmp(sampling, "open");
    return HD_OK;
}

/* Beside the kept prefixes. */
static char *turns_dir(const struct hd_args *a)
{
    const char *dir = hd_args_text(a, "kv-disk-dir", NULL);

    if (dir)
        mkdir(dir, 0700);             /* whoever needs it says why it cannot be used */
    return dir ? hd_path_join(dir, "turns") : NULL;
}

static int serve(const struct hd_args *a, struct model *m, struct hd_err *err)
{
    struct hd_server_options o;
    struct hd_server *s;
    char *dir;
    int rc;

    HD_TRY(read_options(&o, a, m->id, err));
    HD_TRY(open_model(m, a, err));
    o.turns_dir = dir = turns_dir(a);
    rc = hd_server_create(&s, &o, &m->runner, m->tok, err);
    hd_free(dir);
    HD_TRY(rc);
    hd_out_printf("listening on %s\n", hd_server_url(s));
    rc = hd_out_flush(err);
    if (rc == HD_OK)
        rc = hd_server_run(s, err);
    hd_server_free(s);
    return rc;
}

static int run(struct hd_args *a, struct hd_err *err)
{
    struct model m = {0};
    int rc = serve(a, &m, err);

    close_model(&m);
    return rc;
}

static const struct hd_opt opts[] = {
    {"host", 0, HD_OPT_TEXT, "ADDR", 0, 0, "numeric address to listen at (default 127.0.0.1); others than this machine's own need keys"},
    {"port", 'p', HD_OPT_INT, "N", 0, 65535, "port (default 8080); 0: any free one"},
    {"unix", 0, HD_OPT_TEXT, "PATH", 0, 0, "listen at this Unix socket too (mode 660)"},
    {"api-key", 0, HD_OPT_LIST, "KEY", 0, 0, "who asks must send this key; may be repeated (others on this machine see it: prefer --api-key-file or HADAL_API_KEY)"},
    {"api-key-file", 0, HD_OPT_TEXT, "FILE", 0, 0, "keys, one a line, KEY or LABEL:KEY; mode 600; read again on SIGHUP"},
    {"admin-key-file", 0, HD_OPT_TEXT, "FILE", 0, 0, "keys for /slots and /admin, one a line, mode 600 (or HADAL_ADMIN_KEY)"},
    {"allowed-hosts", 0, HD_OPT_TEXT, "A,B", 0, 0, "names in Host that are accepted without keys, beside this machine's own"},
    {"allowed-origins", 0, HD_OPT_TEXT, "A,B", 0, 0, "web pages that may ask, as https://page.example"},
    {"i-know-this-is-open", 0, HD_OPT_FLAG, NULL, 0, 0, "listen at any address without keys"},
    {"model-id", 0, HD_OPT_TEXT, "NAME", 0, 0, "what the model is called (default: its file's name)"},
    {"any-model", 0, HD_OPT_FLAG, NULL, 0, 0, "answer whatever model is asked for"},
    {"legacy-aliases", 0, HD_OPT_FLAG, NULL, 0, 0, "answer to deepseek-chat (without thinking) and deepseek-reasoner"},
    {"thinking", 0, HD_OPT_TEXT, "LEVEL", 0, 0, "reasoning where a request does not say: off, on, low, high, max, or auto: as the model's generation_config.json has it, else on (default auto)"},
    {"sampling", 0, HD_OPT_TEXT, "PROFILE", 0, 0, "deepseek: temperature and such are ignored while thinking, as the hosted API does (default); open: honoured"},
    {"strict-reasoning", 0, HD_OPT_FLAG, NULL, 0, 0, "refuse histories with tools that lack reasoning_content, as the hosted API does"},
    {"max-n", 0, HD_OPT_INT, "N", 1, 64, "most choices of a request (default 8)"},
    {"max-per-key", 0, HD_OPT_INT, "N", 0, 100000, "most requests of a key at once (default 0: no limit)"},
    {"max-running", 0, HD_OPT_INT, "N", 0, 1024, "requests answered at once (default 32); others wait"},
    {"max-per-user", 0, HD_OPT_INT, "N", 0, 1024, "of them, most of one user (default 0: no limit)"},
    {"queue", 0, HD_OPT_INT, "N", 0, 100000, "requests that may wait (default 256); more get 429"},
    {"queue-tokens", 0, HD_OPT_INT, "N", 0, (int64_t)1 << 40, "tokens of waiting prompts (default 1048576)"},
    {"kv-disk-dir", 0, HD_OPT_TEXT, "DIR", 0, 0, "keep prefixes of finished requests in files here, over restarts too"},
    {"kv-disk-mib", 0, HD_OPT_INT, "MIB", 0, (int64_t)1 << 40, "of all those files (default 16384)"},
    HD_OPT_DRAFT,
    {"max-idle", 0, HD_OPT_INT, "N", 0, 100000, "connections of one address that may wait without a request (default 256; 0: no limit)"},
    {"max-body", 0, HD_OPT_INT, "MIB", 1, 1024, "largest request in MiB (default 48)"},
    {"keep-alive", 0, HD_OPT_REAL, "S", 0, 3600, "seconds without output until a comment is sent, three times that between tokens (default 5; 0: never)"},
    {"head-timeout", 0, HD_OPT_REAL, "S", 0.1, 3600, "seconds for the head of a request to arrive (default 10)"},
    {"stall-timeout", 0, HD_OPT_REAL, "S", 0.1, 3600, "seconds until a client that does not read its stream is dropped (default 60)"},
    {"request-timeout", 0, HD_OPT_REAL, "S", 1, 1e6, "seconds that a request may take (default 3600)"},
    {"drain-timeout", 0, HD_OPT_REAL, "S", 0, 1e6, "seconds that requests have to end after SIGTERM (default 120)"},
    {"ledger", 0, HD_OPT_TEXT, "FILE", 0, 0, "SQLite file that keeps what every request used; hadal usage prints it"},
    {"prices", 0, HD_OPT_TEXT, "FILE", 0, 0, "JSON: currency, prices of a million tokens (hit, miss, output), budgets by key label"},
    {"log", 0, HD_OPT_TEXT, "FILE", 0, 0, "append a line of JSON for each request here (default: stderr; --quiet: none); never what was said"},
    {"metrics-compat", 0, HD_OPT_TEXT, "A,B", 0, 0, "whose names /metrics has beside its own: vllm, llamacpp, sglang (default: none)"},
    {"script", 0, HD_OPT_TEXT, "FILE", 0, 0, "answers from this file instead of the model, whose tokenizer is enough then (docs/serve.md)"},
    HD_OPT_MODEL_COMMON,
};
_Static_assert(HD_LEN(opts) + 5 <= HD_MAX_OPT, "HD_MAX_OPT in cli.h");

const struct hd_cmd hd_cmd_serve = {"serve", "a model behind HTTP: OpenAI's and Anthropic's protocols", "serve MODEL [--port N] [--host ADDR --api-key-file FILE]",
                                    "Prints \"listening on URL\" when it is ready. SIGTERM lets requests end first. docs/serve.md describes endpoints and clients.", opts,
                                    HD_LEN(opts), 1, run, NULL};
