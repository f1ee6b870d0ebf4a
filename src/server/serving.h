/* serving.h: the inside of a server, for the files that answer requests. */
#ifndef HD_SERVER_SERVING_H
#define HD_SERVER_SERVING_H

#include "base/json.h"
#include "server/http.h"
#include "server/inbox.h"
#include "server/keys.h"
#include "server/metrics.h"
#include "server/problem.h"
#include "server/server.h"
#include "token/parse.h"
#include "token/token.h"

struct hd_answer;
struct hd_json_vocab;
struct hd_replay;

struct hd_server {
    struct hd_server_options opt;
    struct hd_runner runner;
    struct hd_tokenizer *tok;
    const char *chat_family;          /* NULL: the model has no chat template that is known */
    enum hd_parse_family parse_family;
    bool deepseek, thinks, tools;     /* the family: DeepSeek's V4 protocol; reasons; knows tools */
    const char *thinking;             /* of requests that do not say: "off", "low", "high" or "max" */
    int32_t think_id, think_end_id;
    char fingerprint[24];
    time_t started;

    struct event_base *base;
    struct hd_http *http;
    struct hd_inbox inbox;
    struct hd_prep_queue *prep;       /* NULL: bodies are read on the loop */
    int n_prep;                       /* bodies that are being read */
    struct hd_keys keys, admin_keys;
    struct event *on_term, *on_int, *on_hup, *deadline;
    char url[160];
    int port;
    bool draining, stopped;

    struct hd_answer *answers;        /* what runs */
    int n_answer;
    struct hd_ledger *ledger;
    struct hd_replay *replay;
    struct hd_json_vocab *json_vocab; /* NULL: the tokenizer has no end token, and JSON cannot be forced */
    struct hd_metrics metrics;
    struct hd_str out;                /* scratch */
};

void hd_server_stop_if_idle(struct hd_server *s);
void hd_server_drain(struct hd_server *s);            /* as SIGTERM does */

/* ---- for handlers ---- */

void hd_reply_json(struct hd_exchange *x, int status, const struct hd_str *body);
void hd_reply_value(struct hd_exchange *x, int status, json_t *body);         /* takes the reference */
/* In the words of the path's protocol. */
void hd_reply_problem(struct hd_server *s, struct hd_exchange *x, const struct hd_problem *p);
bool hd_speaks_anthropic(const struct hd_exchange *x);

/* The body as a JSON object within the limits on depth and size. NULL with *p set on failure; release with json_decref(). */
json_t *hd_body_json(const struct hd_exchange *x, struct hd_problem *p);

/* Is this what the model may be called? Strips what clients put behind names; *legacy says which kind of retired alias it was
 * (0 none, 1 without thinking, 2 with). */
bool hd_model_known(const struct hd_server *s, struct hd_view id, bool anthropic, int *legacy);

#endif
