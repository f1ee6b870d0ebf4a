/* lr_schedule.h: the learning rate of a step. */
#ifndef HD_TRAIN_LR_SCHEDULE_H
#define HD_TRAIN_LR_SCHEDULE_H

#include <stdint.h>

enum hd_schedule_kind { HD_SCHEDULE_CONSTANT, HD_SCHEDULE_COSINE, HD_SCHEDULE_WSD };

struct hd_schedule {
    enum hd_schedule_kind kind;
    double lr;
    double last;                      /* of lr, at the end: 0.1 */
    int64_t n_step, warmup;
    double decay;                     /* WSD: the last part of all steps, over which the rate falls in a line */
    double minutes;                   /* the run ends after them, too, and falls with whichever is nearer its end; 0: steps alone count */
};

/* What of a run is done, 0 .. 1, after that many steps and that much time. */
double hd_schedule_done(const struct hd_schedule *s, int64_t step, double seconds);

/* step from 0; warm-up ends with the full rate at step warmup - 1. */
double hd_schedule_lr(const struct hd_schedule *s, int64_t step, double seconds);

#endif
