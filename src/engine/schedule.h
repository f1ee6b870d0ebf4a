/* schedule.h: a runner on a model: continuous batching, prefix reuse, fairness, bounded queues.
 *
 * A thread of its own takes steps as long as there is work (turns.h); submit, cancel and the rest only leave word for it. Answers are those of
 * hd_generate() alone, bit by bit, whoever else is in a step and wherever a prompt's beginning came from.
 *
 * With options.manual there is no thread: the caller steps, which makes tests and batch jobs deterministic.
 */
#ifndef HD_ENGINE_SCHEDULE_H
#define HD_ENGINE_SCHEDULE_H

#include "engine/runner.h"

/* Zeroes are sensible defaults. */
struct hd_schedule_options {
    int max_running;                  /* requests at once; 0: 32, fewer where their rings would take over a quarter of the memory. Always
                                         fewer than the engine's chunk */
    int max_per_user;                 /* of them; 0: no limit */
    int64_t max_waiting;              /* requests; 0: 256 */
    int64_t max_waiting_tokens;       /* of their prompts, but one may always wait; 0: 1 Mi */
    int64_t chunk_busy;               /* tokens of a step while somebody decodes; 0: 128 */
    int64_t quantum;                  /* tokens a user may take before the next one's turn; 0: 64 */
    int64_t keep_bytes;               /* kept prefixes; 0: as large as the cache, and as many rings as requests have at most; below zero: none */
    int64_t checkpoint_tokens;        /* between checkpoints inside prompts, for caches with rings; 0: 2048; below zero: none */
    const char *disk_dir;             /* finished prefixes go to files here; NULL: none */
    int64_t disk_bytes;               /* of all files; 0: 16 GiB */
    int64_t disk_tokens_min;          /* shorter ones do not; 0: 512 */
    const struct hd_tokenizer *tok;   /* whose end tokens end an answer; read while creating only; NULL: none */
    struct hd_speculate_options draft;        /* what proposes tokens; answers are the same with and without */
    bool manual;
};

struct hd_schedule;

/* The engine is the scheduler's alone until it is freed. Errors: MEMORY, USAGE, IO (the directory). */
int hd_schedule_create(struct hd_schedule **out, struct hd_engine *e, const struct hd_schedule_options *opt, struct hd_err *err);
/* Cancels what is left, ENDs included, and closes files. */
void hd_schedule_free(struct hd_schedule *s);
/* Lives as long as the scheduler. */
void hd_schedule_runner(struct hd_schedule *s, struct hd_runner *out);

/* Accepts nothing from now on, and returns when all that was accepted has ended: by itself (pauses no longer count), or cancelled. Not
 * from an event. */
void hd_schedule_drain(struct hd_schedule *s, bool finish);

/* manual: one step at most; false: there was nothing to do. */
bool hd_schedule_step(struct hd_schedule *s);

#endif
