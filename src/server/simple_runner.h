/* simple_runner.h: a runner on a model, one request after the other. Stands in until engine/schedule.h is there, and goes then.
 *
 * One session is kept: a prompt that begins as the last one (and its answer) did, of the same tenant, continues it.
 */
#ifndef HD_SERVER_SIMPLE_RUNNER_H
#define HD_SERVER_SIMPLE_RUNNER_H

#include "engine/runner.h"

struct hd_simple_runner;

/* The engine is the runner's alone until it is freed. tok: whose end tokens end an answer; read only. Errors: MEMORY. */
int hd_simple_runner_create(struct hd_simple_runner **out, struct hd_engine *e, const struct hd_tokenizer *tok, struct hd_err *err);
void hd_simple_runner_get(struct hd_simple_runner *s, struct hd_runner *out);
void hd_simple_runner_free(struct hd_simple_runner *s);      /* cancels what is left */

#endif
