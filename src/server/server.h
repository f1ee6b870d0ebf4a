/* server.h: a model behind HTTP: OpenAI's and Anthropic's protocols over a runner.
 *
 * Threads  create, run and free on one thread (the loop's); the runner has its own
 */
#ifndef HD_SERVER_SERVER_H
#define HD_SERVER_SERVER_H

#include "base/err.h"
#include "engine/runner.h"

struct hd_server;

/* Zeroes are not defaults here: hd_server_defaults() has them. Strings live as long as the server. */
struct hd_server_options {
    const char *host;                 /* a numeric address or "localhost" */
    int port;                         /* 0: any free one */
    const char *unix_path;            /* NULL: none */
    const char *const *api_key;
    int n_api_key;
    const char *api_key_file;         /* NULL: none; read again on SIGHUP */
    const char *admin_key, *admin_key_file;           /* for /slots and /admin; NULL: none */
    const char *allowed_hosts, *allowed_origins;      /* with commas between; NULL: none */
    bool open;                        /* other addresses than this machine's without keys */

    const char *model_id;             /* what the model is called */
    const char *tokenizer;            /* where a second tokenizer is read from, for long prompts; NULL: they are read on the loop's thread */
    const char *thinking;             /* of requests that do not say: off, on, low, high, max; NULL: what the model's directory says, or else on */
    bool any_model, legacy_aliases, strict_reasoning;
    bool honour_sampling;             /* also while thinking, where DeepSeek's API ignores temperature and such */
    const char *version;              /* of the program */

    int n_idle_max;                   /* connections of one address that wait for a request */
    int n_conn_max, n_max, n_per_key;         /* n_max: choices a request; n_per_key: requests at once, 0: no limit */
    int64_t body_max;
    double head_s, idle_s, body_s, stall_s, request_s, drain_s;
    double keep_alive_s;              /* until the first byte; three times that between later ones; 0: none */

    int log_fd;                       /* a line of JSON for each request; -1: none */
    const char *turns_dir;            /* turns with tool calls are kept in files here too (replay.h); NULL: in memory only */
    const char *ledger;               /* SQLite file of usage; NULL: none */
    const char *prices;               /* JSON file; NULL: all is free */
    const char *metrics_compat;       /* whose names /metrics has beside ours: "vllm,llamacpp,sglang" */
};

void hd_server_defaults(struct hd_server_options *o);

/* Listens at once. runner and tok outlive the server. Errors: USAGE (refused addresses, keys), IO, MEMORY. */
int hd_server_create(struct hd_server **out, const struct hd_server_options *o, const struct hd_runner *runner, struct hd_tokenizer *tok, struct hd_err *err);
const char *hd_server_url(const struct hd_server *s);
/* Until SIGTERM or SIGINT, and then until what runs has ended (or drain_s are over). */
int hd_server_run(struct hd_server *s, struct hd_err *err);
void hd_server_free(struct hd_server *s);

#endif
