/* ask.h: what a request wants, whichever protocol said it. */
#ifndef HD_SERVER_ASK_H
#define HD_SERVER_ASK_H

#include "sample/grammar_mask.h"
#include "server/fields.h"
#include "server/replay.h"
#include "server/serving.h"

#define HD_STOP_MAX 16
#define HD_BIAS_MAX 1024
#define HD_TOP_MAX 20

enum hd_tool_force { HD_TOOLS_AUTO, HD_TOOLS_REQUIRED };

struct hd_ask {
    json_t *body;                     /* the request; strings below are borrowed from it */
    const char *model;                /* as the client named it */
    const char *user;                 /* "" when it named none */
    char key[32];                     /* label of the key */
    bool stream, include_usage, raw;  /* raw: prompts as they are, no chat */

    json_t *doc;                      /* chat: what hd_chat_render() takes */
    const char *thinking;             /* "off", or a level */
    struct hd_replay_spot *spot;      /* earlier turns that are known exactly, in order; for rendering at once, not for later */
    int n_spot;
    uint64_t chain;                   /* of all messages (replay.h) */
    json_t *format;                   /* a schema that the answer fits, or NULL */
    bool strict_format;               /* it must be kept, or refused */
    json_t *strict_tools;             /* names of tools whose parameters must be kept, as keys; or NULL */
    struct hd_grammar *grammar;       /* of the answer, or (triggered) of the calls in it; NULL: none */
    bool triggered;
    struct hd_grammar_trigger trigger;
    bool partial_turn;                /* the prompt holds the beginning of the answer, or it is held to calls */
    bool continued;                   /* the beginning is the client's */
    size_t n_opened;                  /* tokens of the prompt's end that are the answer's beginning, where ours is */
    bool has_tools, one_call;
    enum hd_tool_force force;
    bool reasoning_missing;           /* an earlier turn's; it was rendered without */

    struct hd_ids *prompt;            /* one, or raw: many */
    int n_prompt;
    enum hd_parse_start start;

    int n;                            /* choices of each prompt */
    int64_t n_max;                    /* tokens; -1: not said */
    struct hd_sample_params sample;
    struct hd_logit_bias *bias;
    const char *stop[HD_STOP_MAX];
    int n_stop;
    int32_t stop_id[HD_STOP_MAX];
    int n_stop_id;
    int64_t n_min;                    /* tokens before an end may come */
    bool logprobs, echo, ignore_end;
    int n_top;
    void *extra;                      /* the protocol's own; the shape frees it with the answer */
};

/* Takes the reference to body; x says whose key was sent. */
void hd_ask_init(struct hd_ask *a, const struct hd_exchange *x, json_t *body);
void hd_ask_release(struct hd_ask *a);

/* The fields that the OpenAI protocols share: model, stream, n, seed, temperature, ..., stop, logit_bias, user. */
int hd_ask_common(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p);
int hd_ask_model(const struct hd_server *s, struct hd_ask *a, bool anthropic, struct hd_problem *p);
int hd_ask_seed(struct hd_ask *a, struct hd_problem *p);      /* the one that was sent, or any */
int hd_ask_stops(struct hd_ask *a, const char *key, struct hd_problem *p);
/* Thinking from "thinking", an effort ("reasoning_effort" or such, "" when not given) and aliases of other servers. */
int hd_ask_thinking(const struct hd_server *s, struct hd_ask *a, const char *effort, struct hd_problem *p);

/* DeepSeek's API leaves sampling alone while the model thinks; so does this, unless the server is told to honour it. */
void hd_ask_thinking_sampling(const struct hd_server *s, struct hd_ask *a);

/* Sets doc's tools and response_format, renders it, and makes ids. */
int hd_ask_render(struct hd_server *s, struct hd_ask *a, struct hd_str *text, struct hd_problem *p);
/* Whose prefixes and turns the request may reuse: those of its key and user. */
#define HD_TENANT_MAX 640
void hd_ask_tenant(const struct hd_ask *a, char out[HD_TENANT_MAX]);
/* Limits: the window; the default of n_max. */
int hd_ask_fit(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p);

#endif
