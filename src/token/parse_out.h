/* parse_out.h: the half of a parse that writes: what the scanner (parse.c) has understood leaves as events; text as whole characters, arguments as JSON. */
#ifndef HD_TOKEN_PARSE_OUT_H
#define HD_TOKEN_PARSE_OUT_H

#include "token/parse.h"

enum mode {
    REASON, CONTENT,
    OPEN, CLOSE,                      /* behind "<DSML" and "</DSML": the tag's name */
    BLOCK, IN_CALL, AFTER,            /* between tags: of the block, of a call, behind everything */
    HEAD, NAME, PARAM, KEY,           /* attributes of invoke and parameter */
    VALUE, SKIP,                      /* a parameter's text; one without a name */
    LIST, TYPE, FUNC, ARGS,           /* V3: between calls; behind the call's marker; behind the separator; arguments */
    DONE, N_MODE
};

void hd_parse_send(struct hd_parse *p, const struct hd_parse_event *e);
/* Deltas that wait leave. */
void hd_parse_flush(struct hd_parse *p);
/* Something had to be recovered from. */
void hd_parse_malformed(struct hd_parse *p);

/* Bytes for the mode's text, whatever it is. final: what was cut in the middle of a character leaves too. */
void hd_parse_text(struct hd_parse *p, const char *s, size_t n);
void hd_parse_whole_characters(struct hd_parse *p, bool final);

/* Calls and their parameters. type and name may lie in p->name; proper: the closing tag was there. */
void hd_parse_begin_call(struct hd_parse *p, const char *name, int n_name, const char *type, int n_type);
void hd_parse_end_call(struct hd_parse *p, bool proper);
void hd_parse_begin_value(struct hd_parse *p, int kind);
void hd_parse_end_value(struct hd_parse *p);

#endif
