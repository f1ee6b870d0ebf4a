/* logprobs.h: log-probabilities of tokens as OpenAI's protocols write them. */
#ifndef HD_SERVER_LOGPROBS_H
#define HD_SERVER_LOGPROBS_H

#include "server/answering.h"

/* A token's text for people: what is not whole UTF-8 is spelled bytes:\xNN. A JSON string is appended. */
void hd_logprob_token(const struct hd_server *s, int32_t id, struct hd_str *out);
/* JSON has no infinity: -9999.0 stands for it. */
void hd_logprob_value(double v, struct hd_str *out);

/* Chat: [{"token", "logprob", "bytes", "top_logprobs"}, ...] of lines from..n. */
void hd_logprob_list(const struct hd_answer *a, const struct hd_pick_list *l, size_t from, struct hd_str *out);

#endif
