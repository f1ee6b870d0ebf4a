/* parse.h: what a model writes, as it streams in, told apart: reasoning, content, tool calls with arguments as JSON text.
 *
 * The way back from chat.h. Pieces may be cut anywhere, in the middle of a character or a marker: what the deltas of an event
 * add up to depends on the bytes alone. A byte is held back only while it may belong to a marker (at most 63) or to a character;
 * the head of a tool call until its name is complete. Nothing is allocated; time is linear; memory is this struct.
 *
 * Deltas are whole UTF-8; malformed bytes become U+FFFD. Well-formed completions are read as the parsers published with the
 * checkpoints read them. Others are recovered from, and counted in n_malformed; docs/messages.md says how, case by case.
 *
 * Source   encoding_dsv4 and V4.1's encoding (parse_message_from_completion_text); chat templates of V3 and R1
 * Traps    exactly two newlines before a V4 call block belong to it, others to the content; "invoke" and "parameter" text is raw,
 *          entities are no entities; in R1 newlines around </think> belong to the marker
 * Threads  one at a time
 */
#ifndef HD_TOKEN_PARSE_H
#define HD_TOKEN_PARSE_H

#include <jansson.h>

#include "token/json_scan.h"
#include "token/token.h"

/* R1 is the format of V3, R1 and R1-Distill. PLAIN knows no marker: all is content. */
enum hd_parse_family { HD_PARSE_PLAIN, HD_PARSE_R1, HD_PARSE_V31, HD_PARSE_V4, HD_PARSE_V41 };

/* Where the prompt left the model. CALLS: the prompt opened a V4 call block. TASK: content that answers a task token. */
enum hd_parse_start { HD_PARSE_IN_CONTENT, HD_PARSE_IN_REASONING, HD_PARSE_IN_CALLS, HD_PARSE_IN_TASK };

enum hd_parse_kind {
    HD_PARSE_REASONING,               /* text */
    HD_PARSE_CONTENT,                 /* text */
    HD_PARSE_CALL_BEGIN,              /* index, name, id, type */
    HD_PARSE_CALL_ARGS,               /* index, text: JSON text that grows */
    HD_PARSE_CALL_END,                /* index, complete */
    HD_PARSE_END                      /* how; once, from hd_parse_finish() */
};

enum hd_parse_how {
    HD_PARSE_HOW_EOS,                 /* the model ended */
    HD_PARSE_HOW_TASK,                /* the model ended the output of a task */
    HD_PARSE_HOW_CUT_REASONING,       /* the text ends inside */
    HD_PARSE_HOW_CUT_CONTENT,
    HD_PARSE_HOW_CUT_CALL,
    HD_PARSE_HOW_MALFORMED            /* the model ended, and something had to be recovered from */
};

struct hd_parse_event {
    enum hd_parse_kind kind;
    int index;                        /* of the call, from 0 */
    struct hd_view text, name, id, type;      /* borrowed for the call */
    bool complete;                    /* the call was closed and its arguments are a JSON object */
    enum hd_parse_how how;
};

/* HD_OK, or a status below zero (and *err) that ends the parse and is what feed or finish return. */
typedef int (*hd_parse_event_fn)(void *arg, const struct hd_parse_event *e, struct hd_err *err);

struct hd_parse_options {
    enum hd_parse_family family;
    enum hd_parse_start start;
    bool no_tools;                    /* the request has none: markup of calls is text */
    const struct hd_tokenizer *tok;   /* for hd_parse_token(); else NULL */
    hd_parse_event_fn event;
    void *arg;
    void (*make_id)(void *arg, int index, char id[64]);       /* NULL: call_0, call_1, ... */
};

#define HD_PARSE_HOLD 64
#define HD_PARSE_NAME 1024            /* longer names are malformed */
#define HD_PARSE_RAW 2048             /* longest head of a call that can still turn out to be content */
#define HD_PARSE_READY 1024
#define HD_PARSE_KEYS 256             /* duplicates are noticed among this many names */
#define HD_PARSE_WORDS 16
#define HD_PARSE_MODES 18

struct hd_parse {
    struct hd_parse_options opt;
    struct hd_err *err;
    int rc;                           /* of the event function */
    uint64_t rules[HD_PARSE_MODES];   /* by mode: which rows of parse.c's table apply */
    int32_t word_id[HD_PARSE_WORDS];
    bool words_known;                 /* the tokenizer has an id for each marker: spelled ones are text */
    uint8_t first[HD_PARSE_MODES][32];        /* by mode: the bytes that a rule begins with, as a bit set */

    uint8_t mode, back;               /* back: where the call block was opened */
    bool fresh, ended, in_block, in_call, value_open, closes_value, raw_on;
    int skip_newline, n_malformed;
    enum hd_parse_how how;

    char hold[HD_PARSE_HOLD];         /* may become a marker */
    uint64_t literal;                 /* a bit for each held byte: cannot be part of a special token */
    int n_hold;
    char cut[4];                      /* a character's first bytes */
    int n_cut;

    enum hd_parse_kind ready_kind;    /* of what waits in ready for the end of the feed */
    char ready[HD_PARSE_READY];
    int n_ready;

    char raw[HD_PARSE_RAW];           /* the block so far, while no call has begun */
    int n_raw, malformed_before;
    char name[HD_PARSE_NAME];         /* of the tool or the parameter that is being read; V3: the type, then the name */
    int n_name, n_type;
    int n_tag;                        /* bytes of a tag that mean nothing */
    int n_gap, n_gap_newline, gap_max;        /* between tags */

    int index, n_param;
    bool sound;                       /* arguments so far are the beginning of a JSON object */
    enum { HD_PARSE_VALUE_STRING, HD_PARSE_VALUE_HELD, HD_PARSE_VALUE_JSON, HD_PARSE_VALUE_AS_IS } value;
    char scalar[HD_PARSE_HOLD];       /* of a value that is a number, or true, or no JSON at all */
    int n_scalar;
    struct hd_json_scan scan;
    uint64_t key[HD_PARSE_KEYS];
    int n_key;
};

/* The family of hd_chat_family()'s name (NULL: PLAIN), and where a rendered prompt leaves the model. */
enum hd_parse_family hd_parse_family(const char *name);
enum hd_parse_start hd_parse_start(enum hd_parse_family family, const char *prompt, size_t n);

void hd_parse_init(struct hd_parse *p, const struct hd_parse_options *opt);
/* Bytes. literal: they come from ordinary tokens, so that spelled markers in them are text. */
int hd_parse_feed(struct hd_parse *p, const char *s, size_t n, bool literal, struct hd_err *err);
/* One id of opt.tok: an end id ends, ids of markers are markers, everything else is literal. */
int hd_parse_token(struct hd_parse *p, int32_t id, struct hd_err *err);
/* What was held back, open calls closed, HD_PARSE_END. ended: the model ended by itself (where the end token was not fed). */
int hd_parse_finish(struct hd_parse *p, bool ended, struct hd_err *err);
/* The end-of-sentence marker was seen; what is fed now is dropped. */
static inline bool hd_parse_ended(const struct hd_parse *p) { return p->ended; }

const char *hd_parse_how_name(enum hd_parse_how how);         /* "end", "task", "cut in reasoning", ... */

/* ---- events as a message ---- */

struct hd_parse_call {
    struct hd_str name, id, type, arguments;
    bool complete;
};

struct hd_parse_message {
    struct hd_str reasoning, content;
    struct hd_parse_call *call;
    size_t n_call, cap_call;
    enum hd_parse_how how;
};

void hd_parse_message_init(struct hd_parse_message *m);
void hd_parse_message_release(struct hd_parse_message *m);
/* An hd_parse_event_fn; arg is the message. Errors: MEMORY. */
int hd_parse_gather(void *arg, const struct hd_parse_event *e, struct hd_err *err);
/* {"role", "content"} and, where there are any, "reasoning_content", "tool_calls": the shape of docs/messages.md; content is null
 * where there are calls only. NULL: no memory. */
json_t *hd_parse_message_json(const struct hd_parse_message *m);

#endif
