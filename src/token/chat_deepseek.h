/* chat_deepseek.h: the prompt formats of DeepSeek-V4 and V4.1, which have no template: messages, tools, reasoning, tasks.
 *
 * Source   the encoders published with the checkpoints (encoding_dsv4, V4.1's encoding); shape of the input: docs/messages.md
 * Traps    reasoning of turns before the last user turn is dropped, unless any message has tools; tool results join the user
 *          turn before them, in the order of the calls; "<think>" belongs to the user turn's tail
 */
#ifndef HD_TOKEN_CHAT_DEEPSEEK_H
#define HD_TOKEN_CHAT_DEEPSEEK_H

#include "token/chat.h"

struct hd_chat_deepseek {
    bool v41;
    bool ga;                          /* V4 of July or later: its own effort texts */
};

int hd_chat_deepseek(const struct hd_chat_deepseek *kind, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err);

#endif
