/* pattern.h: strings of some length that match a regular expression, as a part of a grammar.
 *
 * Of ECMA-262's expressions: . [] [^] \d \D \w \W \s \S, escapes, groups, alternatives, * + ? {m,n} and their lazy forms, ^ and $ at the ends of an
 * alternative that stands in no group. Look-around, back references, \b, \p and named groups are refused. Where dialects differ about a class
 * outside of ASCII, only what all of them take is written.
 *
 * Every text has one spelling: in JSON the short escapes where JSON wants one; other control characters are never written.
 */
#ifndef HD_SAMPLE_PATTERN_H
#define HD_SAMPLE_PATTERN_H

#include "sample/grammar.h"

struct hd_spelling {
    struct hd_grammar *g;
    bool raw;                         /* characters as they are; else inside a JSON string */
    struct hd_spelled_class *class;   /* rules of one character that are there */
    size_t n_class, cap_class;
};

void hd_spelling_init(struct hd_spelling *s, struct hd_grammar *g, bool raw);
void hd_spelling_release(struct hd_spelling *s);

/* The rule of any one character. */
uint32_t hd_spelling_any(struct hd_spelling *s);
/* Of one that is among c, or (without) that is not. false: n is more than can be told apart. */
bool hd_spelling_set(struct hd_spelling *s, const uint32_t *c, int n, bool without, uint32_t *rule);

/* Between two states: texts of len_min to len_max characters (-1: any number) that match; pattern NULL: all. Nothing is added when the
 * pattern is refused. Errors: UNSUPPORTED, LIMIT, MEMORY; the message says where in the pattern. */
int hd_pattern_add(struct hd_spelling *s, const char *pattern, int64_t len_min, int64_t len_max, uint32_t from, uint32_t to, struct hd_err *err);

#endif
