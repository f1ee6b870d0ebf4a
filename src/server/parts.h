/* parts.h: what a message's content is made of: texts, images, files. */
#ifndef HD_SERVER_PARTS_H
#define HD_SERVER_PARTS_H

#include "base/json.h"
#include "server/problem.h"

#define HD_PARTS_MAX 10000

/* Text of a content: a string, or parts joined by an empty line. Images become what text models are told of them; a file's text stands behind its
 * name, and files that are no text are refused. NULL with *p set on failure; a new reference. param: the field, for messages. */
json_t *hd_content_text(const json_t *content, const char *param, struct hd_problem *p);
/* An image's source: data: URLs pass, everything that would have to be fetched is refused. */
int hd_check_image_url(const char *url, const char *param, struct hd_problem *p);
/* Base64: its alphabet (either one), blanks, padding at the end. */
bool hd_is_base64(const char *s);

#endif
