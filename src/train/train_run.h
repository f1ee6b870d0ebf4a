/* train_run.h: a training run in a directory: begun or resumed, taken step by step, saved.
 *
 *   OUT/config.json, model.safetensors, tokenizer.json, generation_config.json      the model as it was saved last: `hadal run OUT`
 *   OUT/best/                    the same, where the validation loss was least
 *   OUT/ema/                     the weights' moving average, where one is kept
 *   OUT/native/                  with "qat": the same in the formats that DeepSeek publishes (quant.h)
 *   OUT/state.safetensors        everything to go on with: masters, averages, cursor. One file, written whole or not at all
 *   OUT/train.json               the run's configuration
 *
 * A resumed run computes the bits that the uninterrupted one would have computed. */
#ifndef HD_TRAIN_TRAIN_RUN_H
#define HD_TRAIN_TRAIN_RUN_H

#include "train/curriculum.h"
#include "train/average.h"
#include "train/teacher.h"
#include "train/train_config.h"

struct hd_train_run {
    struct hd_train_config c;
    struct hd_pool *pool;
    struct hd_backend be;
    struct hd_model m;
    struct hd_tokenizer *tok;
    struct hd_data train, val;
    struct hd_loader loader;
    struct hd_batch batch;
    struct hd_trainer trainer;
    struct hd_teacher teacher;        /* opened where the configuration names one */
    struct hd_average average;
    struct hd_trainer_plan plan;
    int64_t step;                     /* updates done */
    int64_t n_tok;                    /* tokens seen */
    double seconds, since;            /* that the run took up to `since`, on the clock: evaluations and saving included */
    double smooth;                    /* the loss, smoothed; 0 before the first step */
    double gain;                      /* of the last evaluation's first batch (gain.h) */
    double best;                      /* validation loss; INFINITY before the first */
    bool opened;
};

/* path: a configuration, or (resume) a run's directory. Reads data and makes the model, then the plan; nothing large is allocated yet, but a teacher is loaded.
 * Errors: IO, FORMAT, USAGE (a run is already there; changed data), MEMORY when the plan exceeds the machine. */
int hd_train_run_prepare(struct hd_train_run *r, const char *path, bool resume, int n_thread, struct hd_err *err);
/* r->plan, for `have` free bytes (0: not known). Where a step would not fit otherwise its layers are computed again, unless the configuration says. Part of
 * hd_train_run_prepare(). Errors: MEMORY: it does not fit; says what would need less. */
int hd_train_run_plan(struct hd_train_run *r, int64_t have, struct hd_err *err);
/* Weights, optimiser, step memory; the state where one is resumed. */
int hd_train_run_open(struct hd_train_run *r, bool resume, struct hd_err *err);
void hd_train_run_close(struct hd_train_run *r);           /* after a failed prepare or open too */

/* What of it is done, 0 .. 1, by steps or by time. */
double hd_train_run_done(struct hd_train_run *r);
/* One update. */
int hd_train_run_step(struct hd_train_run *r, struct hd_step_result *out, double *lr, struct hd_err *err);
/* Over the whole validation split: mean loss in nats a token, and in bits a byte of its text (0 where that is not known); MaxVio of all its tokens (balance.h). */
struct hd_eval_result {
    double loss, bits_per_byte, max_vio;
};
int hd_train_run_eval(struct hd_train_run *r, struct hd_eval_result *out, struct hd_err *err);
/* The model, then the state; best: the model into OUT/best, too. */
int hd_train_run_save(struct hd_train_run *r, bool best, struct hd_err *err);

#endif
