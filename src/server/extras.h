/* extras.h: fields of other servers' dialects, for all OpenAI protocols: what can be done is, what cannot and would change the answer is refused.
 *
 *   done       min_tokens, stop_token_ids, repeat_penalty; guided_json, guided_regex, guided_choice, structured_outputs (vLLM), json_schema (llama-server)
 *   refused    the table in extras.c, unless they say what is done anyway; docs/serve.md lists them
 */
#ifndef HD_SERVER_EXTRAS_H
#define HD_SERVER_EXTRAS_H

#include "server/ask.h"

int hd_extras_read(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p);

/* min_tokens as a constraint: no end and none of stop_token_ids before. Errors: MEMORY. */
int hd_extras_min(const struct hd_server *s, const struct hd_ask *a, struct hd_constraint *out, struct hd_err *err);
bool hd_extras_is_stop(const struct hd_ask *a, int32_t id);

#endif
