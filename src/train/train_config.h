/* train_config.h: what a training run is told: a JSON file, read once, every field checked by name (docs/training.md lists them). */
#ifndef HD_TRAIN_TRAIN_CONFIG_H
#define HD_TRAIN_TRAIN_CONFIG_H

#include <jansson.h>

#include "train/curriculum.h"
#include "train/lr_schedule.h"
#include "train/trainer.h"

#define HD_MAX_DATA 1024
#define HD_MAX_SPECIAL 64

struct hd_train_config {
    json_t *json;                     /* owned; strings below lie in it */
    json_t *model;                    /* config.json: inline, or read from a path; owned */
    const char *out;
    const char *tokenizer;            /* "bytes", "used-bytes", "bpe", or a directory with a tokenizer.json */
    int64_t bpe_vocab;
    const char *special[HD_MAX_SPECIAL];              /* tokens with ids of their own in a tokenizer that is learned */
    int n_special;
    const char *init;                 /* a model's directory to begin with; NULL: random weights */
    const char *teacher;              /* a model to learn from beside the text (teacher.h); NULL: none */
    double teacher_share;             /* of the loss */
    int64_t teacher_top;              /* ids of a token that it gives chances to */
    const char *train[HD_MAX_DATA], *val[HD_MAX_DATA];
    int n_train, n_val;
    struct hd_curriculum task;        /* instead of data and tokenizer; its n_symbol 0: none */
    double val_part;                  /* of every training document, where no val files are named */
    enum { HD_STREAM_AUTO, HD_STREAM_ALWAYS, HD_STREAM_NEVER } stream;      /* token ids on disk; auto: when they would take an eighth of the memory that is free */
    bool all_targets;                 /* of conversations: not only what the assistant says */
    struct hd_trainer_hp hp;
    bool again_if_needed;             /* hp.again is decided by the plan */
    int64_t step_tokens;              /* tokens of an update; batch_tokens of them at once */
    struct hd_schedule schedule;
    const json_t *qat;                /* NULL: weights are never rounded */
    double qat_from;                  /* of all steps: where rounding begins */
    bool bias_follows;                /* experts' biases move slower as the learning rate falls */
    double init_std;
    uint64_t seed;
    double ema;                       /* decay of the weights' average; 0: none is kept */
    int ngram;                        /* order of the n-gram model whose loss stands beside; 0: none */
    int64_t eval_every, save_every, log_every;
    int64_t sample_tokens;            /* 0: none */
    const char *sample_prompt;
};

/* Errors: IO, FORMAT: file and field, what was found, what was expected. Release after failure too. */
int hd_train_config_read(struct hd_train_config *c, const char *path, struct hd_err *err);
void hd_train_config_release(struct hd_train_config *c);

#endif
