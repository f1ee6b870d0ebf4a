/* api.h: the handlers of endpoints, by protocol. Each file api_*.c holds one. */
#ifndef HD_SERVER_API_H
#define HD_SERVER_API_H

#include "server/ask.h"
#include "server/serving.h"

/* OpenAI */
void hd_api_chat(struct hd_server *s, struct hd_exchange *x);
void hd_api_completions(struct hd_server *s, struct hd_exchange *x);
void hd_api_responses(struct hd_server *s, struct hd_exchange *x);
void hd_api_stored_response(struct hd_server *s, struct hd_exchange *x);
/* Anthropic */
void hd_api_messages(struct hd_server *s, struct hd_exchange *x);
void hd_api_count_tokens(struct hd_server *s, struct hd_exchange *x);
/* both */
void hd_api_models(struct hd_server *s, struct hd_exchange *x);
void hd_api_model(struct hd_server *s, struct hd_exchange *x);
void hd_api_balance(struct hd_server *s, struct hd_exchange *x);
/* text and tokens */
void hd_api_tokenize(struct hd_server *s, struct hd_exchange *x);
void hd_api_detokenize(struct hd_server *s, struct hd_exchange *x);
void hd_api_tokenizer_info(struct hd_server *s, struct hd_exchange *x);
void hd_api_apply_template(struct hd_server *s, struct hd_exchange *x);
/* the server itself */
void hd_api_health(struct hd_server *s, struct hd_exchange *x);
void hd_api_ping(struct hd_server *s, struct hd_exchange *x);
void hd_api_version(struct hd_server *s, struct hd_exchange *x);
void hd_api_metrics(struct hd_server *s, struct hd_exchange *x);
void hd_api_props(struct hd_server *s, struct hd_exchange *x);
void hd_api_file(struct hd_server *s, struct hd_exchange *x);
void hd_api_description(struct hd_server *s, struct hd_exchange *x);          /* /openapi.yaml */
void hd_api_root(struct hd_server *s, struct hd_exchange *x);

/* whoever runs it */
void hd_api_slots(struct hd_server *s, struct hd_exchange *x);
void hd_api_abort(struct hd_server *s, struct hd_exchange *x);
void hd_api_flush(struct hd_server *s, struct hd_exchange *x);
void hd_api_drain(struct hd_server *s, struct hd_exchange *x);

/* A chat request's fields and messages, for chat and apply-template. */
int hd_chat_read(struct hd_server *s, struct hd_ask *a, struct hd_problem *p);

#endif
