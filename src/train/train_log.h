/* train_log.h: what a run has measured: metrics.jsonl, one object a line; the same as metrics.csv and as events for TensorBoard; loss.svg. Files are written
 * whole, together with a checkpoint, so that they always fit the state that lies beside them. */
#ifndef HD_TRAIN_TRAIN_LOG_H
#define HD_TRAIN_TRAIN_LOG_H

#include "train/train_run.h"

struct hd_train_curve {
    double *x, *y;
    size_t n, cap_x, cap_y;
};

struct hd_train_log {
    struct hd_str lines;
    struct hd_train_curve loss, val;  /* over tokens */
    double ngram;                     /* the n-gram model's validation loss, drawn and written beside the run's; 0: none */
};

void hd_train_log_init(struct hd_train_log *l);
void hd_train_log_release(struct hd_train_log *l);
/* The lines of OUT/metrics.jsonl up to step: what a resumed run goes on from. No file: nothing. */
int hd_train_log_read(struct hd_train_log *l, const char *out, int64_t step, struct hd_err *err);

void hd_train_log_step(struct hd_train_log *l, const struct hd_train_run *r, const struct hd_step_result *s, double lr, double tokens_per_s);
void hd_train_log_eval(struct hd_train_log *l, const struct hd_train_run *r, const struct hd_eval_result *e);
int hd_train_log_write(const struct hd_train_log *l, const char *out, struct hd_err *err);

#endif
