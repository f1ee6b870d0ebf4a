/* answering.h: a request that runs: its choices go to the runner, tokens come back, and a shape writes them down in some protocol's words.
 *
 * Tokens are parsed (token/parse.h), content is searched for stop strings, logprobs are kept beside the text that they belong to. All of
 * what a choice says is kept until its end, for replies in one piece and for what protocols repeat at the end of a stream.
 *
 * An answer lives until the runner has ended each of its choices, however long its client is gone.
 */
#ifndef HD_SERVER_ANSWERING_H
#define HD_SERVER_ANSWERING_H

#include "server/ask.h"

struct hd_tool_call {
    struct hd_str name, id, args;
    bool sound;                       /* args are a JSON object; known at the end */
    bool complete;                    /* the model closed it */
};

/* One token's logprobs. */
struct hd_pick_line {
    int32_t id;
    double logprob;
    int n_top;
    int32_t top_id[HD_TOP_MAX + 1];
    double top_logprob[HD_TOP_MAX + 1];
};

struct hd_pick_list {
    struct hd_pick_line *line;
    size_t n, cap;
    size_t n_shown;                   /* of them, streamed already */
};

struct hd_choice {
    struct hd_answer *answer;
    int index, prompt;                /* prompt: which one */
    uint64_t run;                     /* the runner's id */
    struct hd_inbox_slot slot;
    bool submitted, ended, over;      /* over: what the client gets is complete, whatever the runner still says */
    struct hd_parse parse;
    struct hd_text_stream stops;
    struct hd_str reasoning, content;
    struct hd_tool_call *call;
    size_t n_call, cap_call;
    struct hd_ids ids;                /* generated */
    bool in_reasoning;
    struct hd_pick_list reasoning_picks, content_picks, waiting_picks, prompt_picks;
    int64_t n_token, n_reasoning, n_cached;
    const char *finish;               /* "stop", "length", "tool_calls"; NULL: not yet */
    const char *stop;                 /* the stop string that was found */
    bool window;                      /* the window, not max_tokens, ended it */
    bool began;                       /* the shape's own: a role was sent, a block is open, ... */
    int item, part;
    double queue_s, prefill_s, decode_s, first_t, last_t;
    int64_t n_drafted, n_accepted;
};

/* What a protocol writes. Functions append to out; NULL ones write nothing. */
struct hd_shape {
    const char *name;                 /* for logs */
    bool anthropic;
    bool ends_cleanly;                /* an error is an event like others: the stream is not cut behind it */
    const char *alive;                /* while a stream has nothing to say */
    void (*begin)(struct hd_answer *a, struct hd_str *out);           /* the prompt's length and cache hits are known */
    void (*text)(struct hd_choice *c, bool reasoning, struct hd_view text, struct hd_str *out);
    void (*call)(struct hd_choice *c, struct hd_tool_call *call, struct hd_str *out);
    void (*args)(struct hd_choice *c, struct hd_tool_call *call, struct hd_view text, struct hd_str *out);
    void (*call_end)(struct hd_choice *c, struct hd_tool_call *call, struct hd_str *out);
    void (*finish)(struct hd_choice *c, struct hd_str *out);
    void (*end)(struct hd_answer *a, struct hd_str *out);
    void (*whole)(struct hd_answer *a, struct hd_str *out);           /* not streaming: the body */
    void (*error)(struct hd_answer *a, const struct hd_problem *p, struct hd_str *out);       /* in a stream */
    void (*free_extra)(void *extra);
};

struct hd_answer {
    struct hd_answer *prev, *next;
    struct hd_server *server;
    struct hd_exchange *x;            /* NULL: the client is gone */
    const struct hd_shape *shape;
    struct hd_ask ask;
    struct hd_choice *choice;
    int n_choice, n_open;             /* n_open: the runner has not ended */
    char id[48];                      /* hex, for response ids */
    time_t created;
    double t0, written;               /* began; something was last sent */
    bool begun, failed, paused;
    struct hd_problem problem;        /* why it failed */
    char tenant[HD_TENANT_MAX], key[32], request_id[40];
    const char *path;
    double at;                        /* seconds since 1970 */
};

/* Renders, checks limits and submits; replies with the problem if there is one. Takes what is in *ask. */
void hd_answer_start(struct hd_server *s, struct hd_exchange *x, struct hd_ask *ask, const struct hd_shape *shape);
/* The same when rc is HD_OK; otherwise replies with the problem that the request was read with. */
void hd_answer_or_refuse(struct hd_server *s, struct hd_exchange *x, int rc, struct hd_ask *ask, const struct hd_shape *shape, struct hd_problem *p);

/* For the server. */
void hd_answer_note(const struct hd_note *n);         /* arg is a choice */
void hd_answer_gone(struct hd_answer *a);
void hd_answer_flows(struct hd_answer *a);
void hd_answer_tick(struct hd_answer *a, double now);
void hd_answer_fail(struct hd_answer *a, const struct hd_problem *p);

/* Sums over choices. */
struct hd_usage {
    int64_t prompt, cached, completion, reasoning;
};
struct hd_usage hd_answer_usage(const struct hd_answer *a);
/* ,"timings":{...}: as llama-server has them. */
void hd_answer_timings(const struct hd_answer *a, struct hd_str *out);

#endif
