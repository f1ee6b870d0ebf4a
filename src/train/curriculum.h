/* curriculum.h: batches of the recall task (recall.h) in stages: the next one begins when the model answers well enough.
 *
 * Everything is a function of the seed, the step and the stage, so that a cursor is two numbers: stage and running accuracy. A question counts as answered
 * when the model gives the answer more than half of the probability. */
#ifndef HD_TRAIN_CURRICULUM_H
#define HD_TRAIN_CURRICULUM_H

#include "base/json.h"
#include "train/data.h"
#include "train/recall.h"

#define HD_STAGES 32

struct hd_stage {
    struct hd_recall_size size;
    double accuracy;                  /* running accuracy at which the next stage begins; above 1: the last one */
    bool sparse;                      /* attention sees what the indexer selects */
};

struct hd_curriculum {
    struct hd_recall task;            /* n_symbol 0: there is none */
    struct hd_stage stage[HD_STAGES];
    int n_stage;
    uint64_t seed;
    /* the cursor */
    int at;
    double running;
};

/* The config's "task". Errors: FORMAT. */
int hd_curriculum_read(struct hd_curriculum *c, const json_t *j, int64_t context, uint64_t seed, const char *file, struct hd_err *err);
/* The batch `which` of a step: as many sequences as it has room for. */
int hd_curriculum_next(const struct hd_curriculum *c, int64_t step, int64_t which, int64_t batch_tokens, int64_t max_seq, struct hd_batch *b, struct hd_err *err);
/* After an update: the share of questions that were answered. */
void hd_curriculum_took(struct hd_curriculum *c, double accuracy);

#endif
