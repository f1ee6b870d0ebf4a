/* history.h: a conversation as OpenAI's protocols send it, as the messages that token/chat.h renders. */
#ifndef HD_SERVER_HISTORY_H
#define HD_SERVER_HISTORY_H

#include "server/ask.h"

#define HD_MESSAGES_MAX 10000
#define HD_PARTS_MAX 10000
#define HD_TOOLS_MAX 128

/* Text of a content: a string, or parts joined by an empty line (images become what text models are told of them). NULL with *p set
 * on failure; a new reference. param: the field, for messages. */
json_t *hd_content_text(const json_t *content, const char *param, struct hd_problem *p);
/* An image's source: data: URLs pass, everything that would have to be fetched is refused. */
int hd_check_image_url(const char *url, const char *param, struct hd_problem *p);

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
