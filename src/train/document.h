/* document.h: a line of JSON as a document: its tokens, and which of them are to be learned.
 *
 * Shapes   {"text"}                                       all of it, an end token behind it
 *          {"messages": [{"role", "content", ...}]}       docs/messages.md, by the model's own chat format; "weight": 0 takes a message out
 *          {"conversations": [{"from", "value"}]}         ShareGPT: human, user, gpt, chatgpt, assistant, system
 *          {"instruction", "input", "output"}             Alpaca: with "system" and "history" [[question, answer], ..]
 *          {"prompt", "completion"}                       texts: nothing between them, an end token behind
 * Targets  what an assistant says, its end token included, and completions; with all: every token
 * Source   the names of the fields: OpenAI's fine-tuning format, ShareGPT, Stanford Alpaca, TRL */
#ifndef HD_TRAIN_DOCUMENT_H
#define HD_TRAIN_DOCUMENT_H

#include "base/json.h"
#include "token/token.h"

struct hd_document {
    struct hd_ids ids;
    uint8_t *skip;                    /* [ids.n] 1: no target */
    size_t cap;
};

/* Replaces *d. Errors: FORMAT (no such shape, a field's type, a role), UNSUPPORTED (no chat format), MEMORY. */
int hd_document_read(struct hd_document *d, struct hd_tokenizer *tok, const json_t *line, bool all, struct hd_err *err);
void hd_document_release(struct hd_document *d);

/* Every text of such a line, whatever its shape: what a tokenizer learns from. */
void hd_document_texts(const json_t *line, void (*fn)(void *arg, const char *text, size_t n), void *arg);

#endif
