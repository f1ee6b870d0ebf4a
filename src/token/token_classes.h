/* token_classes.h: tokens that mean the same when case, accents and spaces are ignored: what Engram hashes instead of ids.
 *
 * Source   DeepSeek-V4.1's engram code: decode, NFKC, NFD, strip accents, lowercase, squeeze and trim spaces
 * Traps    ids whose bytes are no text, or hold U+FFFD, keep their byte-level spelling; a token that is only spaces stays one space; what
 *          normalises to nothing keeps its text; classes are numbered in the order in which they are first met
 */
#ifndef HD_TOKEN_TOKEN_CLASSES_H
#define HD_TOKEN_TOKEN_CLASSES_H

#include "token/token.h"

/* map[n] gets the class of ids 0 .. n - 1 (ids without text share one class of their own); *n_class how many there are. */
int hd_token_classes(const struct hd_tokenizer *t, int64_t n, int32_t *map, int64_t *n_class, struct hd_err *err);

#endif
