/* chat.h: conversations as the prompts that models were trained on.
 *
 * Templates in checkpoints are programs; they are recognised, never run. A family (a row in chat.c's table) renders a list of
 * messages (the shape of docs/messages.md) into text whose markers are remembered, so that ids of markers come from
 * markers only: what users, tools and systems write can never become one.
 */
#ifndef HD_TOKEN_CHAT_H
#define HD_TOKEN_CHAT_H

#include "base/json.h"
#include "token/token.h"

struct hd_chat_span {
    size_t begin, end;
    bool marker;                      /* written by the template: may become special tokens */
};

struct hd_chat_text {
    struct hd_str text;
    struct hd_chat_span *span;
    size_t n_span, cap_span;
};

struct hd_chat_options {
    bool no_generation_prompt;
    const char *thinking;             /* NULL: what the messages say */
};

void hd_chat_text_init(struct hd_chat_text *c);
void hd_chat_text_release(struct hd_chat_text *c);

/* doc: the whole messages object. Errors: FORMAT (a message is malformed), UNSUPPORTED (the template is unknown). */
int hd_chat_render(const struct hd_tokenizer *t, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err);
/* For families in files of their own: text that may become special tokens, and text that may not. */
void hd_chat_mark(struct hd_chat_text *c, const char *s);
void hd_chat_put(struct hd_chat_text *c, const char *p, size_t n);
void hd_chat_put_value(struct hd_chat_text *c, const json_t *v);      /* a string's text; nothing for anything else */
void hd_chat_put_json(struct hd_chat_text *c, const json_t *v);       /* as py_json.h writes it */
bool hd_chat_role_is(const json_t *message, const char *role);
/* Messages of system, user, assistant and tool with string contents, and calls whose arguments are strings (or, objects, those too). */
int hd_chat_check(const json_t *messages, bool objects, struct hd_err *err);

int hd_chat_ids(struct hd_tokenizer *t, const struct hd_chat_text *c, struct hd_ids *out, struct hd_err *err);

/* The name of the family that the tokenizer's template belongs to, or NULL. */
const char *hd_chat_family(const struct hd_tokenizer *t);

/* Builds {"messages": [...]} from roles and contents. */
json_t *hd_chat_messages(const char *const *role, const char *const *content, int n);

#endif
