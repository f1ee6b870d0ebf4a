/* problem.h: what a client is told when a request is refused or fails, in the words of the protocol it speaks. */
#ifndef HD_SERVER_PROBLEM_H
#define HD_SERVER_PROBLEM_H

#include "base/err.h"
#include "base/str.h"

struct hd_problem {
    int status;                       /* HTTP; 0: none */
    const char *type, *code;          /* static; type NULL: what belongs to the status */
    char param[128];                  /* the field, or "" */
    char message[480];
    int retry_s;                      /* > 0: when to come again */
    int64_t n_prompt, n_ctx;          /* of prompts that are too long, else 0 */
};

/* Fills *p and returns HD_ERR_USAGE. param may be NULL. Untrusted text in the message is made printable. */
int hd_problem_set(struct hd_problem *p, int status, const char *param, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* From an error of the library: the message, and a status for its code. */
int hd_problem_from(struct hd_problem *p, const struct hd_err *err);
/* The prompt does not fit. One text that the clients of every protocol recognise. */
int hd_problem_too_long(struct hd_problem *p, int64_t n_prompt, int64_t n_max, int64_t n_ctx);

/* The body: {"error": {...}}, or with anthropic {"type": "error", ...} with the request's id. */
void hd_problem_json(const struct hd_problem *p, bool anthropic, const char *request_id, struct hd_str *out);
/* What type of error a status is, for OpenAI and for Anthropic. */
const char *hd_problem_type(const struct hd_problem *p, bool anthropic);

#endif
