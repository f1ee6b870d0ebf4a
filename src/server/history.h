/* history.h: a conversation as OpenAI's protocols send it, as the messages that token/chat.h renders. */
#ifndef HD_SERVER_HISTORY_H
#define HD_SERVER_HISTORY_H

#include "server/ask.h"

#define HD_MESSAGES_MAX 10000
#define HD_TOOLS_MAX 128

/* Adds a->body's messages to a->doc. */
int hd_history_read(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p);
/* Adds tools, and applies tool_choice. */
int hd_tools_read(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p);
/* One tool for a->doc: name, description and parameters. name is checked; strict: NULL, or a boolean. */
int hd_tools_add(struct hd_ask *a, const char *name, const json_t *description, const json_t *parameters, const json_t *strict, size_t i, struct hd_problem *p);
/* tool_choice of the OpenAI protocols; NULL: none was sent. */
int hd_tools_choice(const struct hd_server *s, struct hd_ask *a, const json_t *choice, struct hd_problem *p);
/* choice: "auto", "none", "required" or, with name, "function". */
int hd_tools_choose(const struct hd_server *s, struct hd_ask *a, const char *choice, const char *name, struct hd_problem *p);
/* text, json_object, json_schema. */
int hd_format_read(struct hd_ask *a, const json_t *format, struct hd_problem *p);

/* After all messages are there: turns that are known are restored; each tool's result belongs to a call before it, and each call has one; reasoning that is missing. */
int hd_history_check(struct hd_server *s, struct hd_ask *a, struct hd_problem *p);

#endif
