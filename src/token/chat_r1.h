/* chat_r1.h: the prompt format of DeepSeek-V3, R1 and R1-Distill, as their chat_template writes it; two editions, told apart by what
 * the template's text holds.
 *
 * Traps    kept from the templates: a conversation's second round of tool calls or outputs lacks the opening marker, and in the
 *          older edition every call but the first closes the list
 */
#ifndef HD_TOKEN_CHAT_R1_H
#define HD_TOKEN_CHAT_R1_H

#include "token/chat.h"

bool hd_chat_is_r1(const char *tpl);
int hd_chat_r1(const char *tpl, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err);

#endif
