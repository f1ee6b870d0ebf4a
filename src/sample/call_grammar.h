/* call_grammar.h: tool calls as a grammar, in the words of a model's chat format: a block of calls, each of a declared tool with arguments that
 * fit its parameters.
 *
 *   V4, V4.1   <DSML tool_calls>, <DSML invoke name="...">, parameters (schema.h), in the encoder's own line breaks
 *   V3.1       <calls><call>NAME<sep>JSON<call end>...<calls end>;  V3, R1: the same with types, newlines and a fence around the JSON
 *
 * Source   as token/parse.h, which reads what this writes
 */
#ifndef HD_SAMPLE_CALL_GRAMMAR_H
#define HD_SAMPLE_CALL_GRAMMAR_H

#include "sample/grammar_mask.h"
#include "sample/schema.h"
#include "token/parse.h"

struct hd_call_tool {
    const char *name;
    const json_t *parameters;         /* a schema of objects; NULL: none */
    bool strict;                      /* must be kept; otherwise a schema that cannot be is left to the model */
};

struct hd_call_request {
    enum hd_parse_family family;
    const struct hd_tokenizer *tok;
    const struct hd_call_tool *tool;
    int n_tool;
    bool one;                         /* no second call */
    enum { HD_CALLS_ALONE, HD_CALLS_OPENED, HD_CALLS_TRIGGERED } begin;       /* ALONE: the block from its first byte; OPENED: the prompt
                                         holds its head (V4); TRIGGERED: from behind hd_call_trigger()'s marker on */
    const json_t *format;             /* ALONE: or a value of this schema; NULL: calls only */
};

/* Errors: UNSUPPORTED (the family or the vocabulary has no markers for calls; a strict tool's schema: the message names tool and place), LIMIT,
 * MEMORY. */
int hd_call_grammar(struct hd_grammar **out, const struct hd_call_request *r, struct hd_err *err);

/* What begins a block in free text. false: the family has none. */
bool hd_call_trigger(enum hd_parse_family family, const struct hd_tokenizer *tok, struct hd_grammar_trigger *out);

#endif
