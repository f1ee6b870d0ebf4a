/* pretoken.h: what happens to text before BPE: a sequence of splits, each cutting the pieces of the one before. */
#ifndef HD_TOKEN_PRETOKEN_H
#define HD_TOKEN_PRETOKEN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/json.h"
#include "base/str.h"

struct hd_pretoken;

/* From tokenizer.json's pre_tokenizer (NULL or null: no splits). */
int hd_pretoken_create(struct hd_pretoken **out, const json_t *j, const char *file, struct hd_err *err);
/* From GGUF's name of a pre-tokenizer. */
int hd_pretoken_named(struct hd_pretoken **out, struct hd_view name, const char *file, struct hd_err *err);
void hd_pretoken_free(struct hd_pretoken *p);

/* Calls fn for every word in order. fn's negative status ends the walk and is returned. */
typedef int (*hd_word_fn)(void *arg, const char *word, size_t n, struct hd_err *err);
int hd_pretoken_run(struct hd_pretoken *p, const char *text, size_t n, hd_word_fn fn, void *arg, struct hd_err *err);

#endif
