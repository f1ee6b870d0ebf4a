/* chat_v31.h: the prompt format of DeepSeek-V3.1, V3.1-Terminus and V3.2-Exp, as their chat_template writes it.
 *
 * The assistant's header stands behind the user's text, with </think> unless it thinks. Editions are told apart by what the template's text
 * holds: is_only_sys and is_prefix (a header without a user's text before it), arguments through tojson, tools in the system text.
 *
 * Traps    kept from the templates: no prompt for an answer after a tool's output (V3.1); an answer to be continued is closed by an
 *          end-of-sentence all the same, so prefix: true leaves it out here
 */
#ifndef HD_TOKEN_CHAT_V31_H
#define HD_TOKEN_CHAT_V31_H

#include "token/chat.h"

bool hd_chat_is_v31(const char *tpl);
/* doc: the whole messages object; its thinking, or the option's, in any degree is on. */
int hd_chat_v31(const char *tpl, const json_t *doc, const struct hd_chat_options *opt, struct hd_chat_text *out, struct hd_err *err);

#endif
