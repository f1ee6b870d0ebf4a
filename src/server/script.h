/* script.h: a runner that reads its answers from a file: everything of the server can be tested without a model.
 *
 * The file is a JSON object:
 *   n_ctx     tokens of the window (default 4096)
 *   slots     requests at once (default 64);  queue: requests that wait (default 64)
 *   runs      list of answers. A request takes the first one whose "when" (text that the prompt must hold, in its first or last 8192 tokens) fits; among those
 *             without "when" they go round in order
 * and a run:
 *   text      what is said; markers that are special tokens of the tokenizer become their ids     or  ids: [...]
 *   start_ms, delay_ms    before the first token and between bursts (default 0);  burst: tokens at once (default 1)
 *   finish    "stop" (default), "length", "context" or "cancelled", after the text;  repeat: how many times the text is said
 *   error     instead of an end: this message, after the text;  error_code: "memory", "limit" or "io" (default)
 *   refuse    the request is refused: "full" (with retry_s) or "long"
 *   random    instead of text: tokens drawn from noise with this seed, through the request's constraint; punctuation and ends a little likelier
 * Cached tokens are counted as a model's runner would: the longest beginning that an earlier prompt and answer of the tenant had.
 * Log-probabilities are made up of the ids: -(1 + id % 97) / 10.
 */
#ifndef HD_SERVER_SCRIPT_H
#define HD_SERVER_SCRIPT_H

#include "base/err.h"
#include "engine/runner.h"
#include "token/token.h"

struct hd_script;

/* Errors: IO, FORMAT (names the run and the field), MEMORY. tok outlives it. */
int hd_script_open(struct hd_script **out, const char *path, struct hd_tokenizer *tok, struct hd_err *err);
void hd_script_runner(struct hd_script *s, struct hd_runner *out);
void hd_script_close(struct hd_script *s);

#endif
