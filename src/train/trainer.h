/* trainer.h: a model that learns: forward and backward over a batch, an update, the loss of a split.
 *
 *     hd_trainer_plan()      what it will take, before anything is allocated
 *     hd_trainer_open()      the model's weights become f32 masters
 *     hd_trainer_batch() x n, hd_trainer_update()      a step; gradients of n batches add up
 *
 * Threads  the engine thread; the same bits for any number of workers */
#ifndef HD_TRAIN_TRAINER_H
#define HD_TRAIN_TRAINER_H

#include "ops/learn.h"
#include "ops/tape.h"
#include "train/balance.h"
#include "train/data.h"
#include "train/optim.h"

struct hd_trainer_hp {
    int64_t context, batch_tokens;
    struct hd_optim_hp optim;
    double bias_speed, balance;       /* of experts: balance.h */
    bool bias_sign;
    double learn[HD_LEARN_KINDS];     /* weights of the losses beside the logits' (ops/learn.h) */
    bool index_dense;
    bool bf16;                        /* products of a step, and Newton-Schulz's, round their operands (tape.h); masters, sums and evaluations stay f32 */
    bool again;                       /* layers are computed again on the way back instead of kept (tape.h): the same bits, less memory, more time */
};

struct hd_trainer_plan {
    int64_t weights, optim, step, kept, cache, total;      /* bytes; weights: gradients included; step: activations and theirs; kept: what is overwritten, and scratch */
    double flops;                     /* of a batch, forward */
};

struct hd_trainer {
    struct hd_trainer_hp hp;
    struct hd_model *m;
    struct hd_pool *pool;
    const struct hd_backend *be;
    struct hd_params ps;
    struct hd_optim optim;
    struct hd_balance balance, seen;  /* seen: the loads of evaluations */
    struct hd_cache cache;
    struct hd_seq **seq;              /* one per sequence of a batch, made when a batch first has as many */
    struct hd_paged *part;
    int64_t max_seq;
    struct hd_arena step;
    struct hd_tape tape;
    char *step_base, *step_grad;
    size_t n_step;
    char *page_grad;                  /* of the cache's pages */
    size_t n_page_grad;
    struct hd_profile *profile;       /* charged with the time of steps; NULL: none */
    const struct hd_soft *soft;       /* set by the caller: what a teacher says of a batch's targets (teacher.h); NULL: there is none */
    bool rounded, stale;              /* steps compute with rounded weights (quant.h); they are older than the masters */
    /* since the last update */
    double loss;                      /* sum over targets, nats */
    double aux;                       /* sequence-wise loss, likewise */
    double learnt[HD_LEARN_KINDS];    /* the other losses, likewise, as if they had as many targets; the indexer's by layer */
    int64_t n_batch;
    int64_t n_target, n_tok;
    int64_t n_sure;                   /* targets that had more than half of the probability */
    double flops;                     /* three times the forward's */
};

int hd_trainer_plan(const struct hd_model *m, const struct hd_trainer_hp *hp, struct hd_trainer_plan *plan, struct hd_err *err);

/* m: opened with its weights and HD_KV_F32, and its classes taken; it stays the caller's, to be closed after the trainer. */
int hd_trainer_open(struct hd_trainer *t, struct hd_model *m, const struct hd_trainer_hp *hp, struct hd_pool *pool, const struct hd_backend *be, struct hd_err *err);
void hd_trainer_close(struct hd_trainer *t);

/* From now on steps and hd_trainer_eval() compute with weights rounded to their formats (hd_quant_plan() on t->ps before). Errors: MEMORY. */
int hd_trainer_round(struct hd_trainer *t, struct hd_err *err);

/* Forward and back. Errors: FORMAT when the loss is not finite: names the first tensor that is not; LIMIT, MEMORY. */
int hd_trainer_batch(struct hd_trainer *t, const struct hd_batch *b, struct hd_err *err);

struct hd_step_result {
    double loss, aux, grad_norm, flops;
    double max_vio, max_vio_window;   /* of the step's loads, and of the last hundred steps' (balance.h) */
    double sure;                      /* share of targets that had more than half of the probability */
    double learnt[HD_LEARN_KINDS];    /* means; the indexer's over its layers too */
    int64_t n_tok;
};
/* Applies the mean gradient over all targets since the last update; biases of experts move by bias_scale times their speed. Errors: FORMAT when its norm is not finite: names a weight. */
int hd_trainer_update(struct hd_trainer *t, double lr, double bias_scale, struct hd_step_result *r, struct hd_err *err);

/* Sum of losses and number of targets of a batch; loads go to t->seen, nothing else changes. */
int hd_trainer_eval(struct hd_trainer *t, const struct hd_batch *b, double *loss, int64_t *n, struct hd_err *err);

/* The gain of a batch's composite mixes (gain.h); 0: no streams. */
int hd_trainer_gain(struct hd_trainer *t, const struct hd_batch *b, double *gain, struct hd_err *err);

#endif
