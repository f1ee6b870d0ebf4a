/* bench_grammar.h: what a constraint costs a token. */
#ifndef HD_CLI_BENCH_GRAMMAR_H
#define HD_CLI_BENCH_GRAMMAR_H

#include <stdbool.h>

#include "base/err.h"

/* Needs the model's tokenizer only. */
int hd_bench_grammar(const char *model, bool json, struct hd_err *err);

#endif
