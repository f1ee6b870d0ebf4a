/* optim.h: updates: AdamW for what is no matrix, Muon (or AdamW) for matrices, touched rows only for tables.
 *
 * Source   Loshchilov and Hutter 2019; Jordan 2024; DeepSeek-V4's report, algorithm 1 (momentum and Nesterov, 8 + 2 Newton-Schulz steps,
 *          updates rescaled to a root mean square of 0.18 so that AdamW's learning rate serves both)
 * Threads  the engine thread; sums in an order fixed by shapes: the same bits for any number of workers */
#ifndef HD_TRAIN_OPTIM_H
#define HD_TRAIN_OPTIM_H

#include "base/pool.h"
#include "train/newton_schulz.h"
#include "train/param.h"

struct hd_optim_hp {
    bool muon, muon_experts;          /* matrices of experts may stay with AdamW: theirs is the larger part of Newton-Schulz */
    bool muon_heads;                  /* query projections by head: the rows of each for themselves */
    double beta1, beta2, eps, decay;
    double momentum;                  /* Muon */
    int ns_steps, ns_last;            /* Newton-Schulz: 8 that inflate, 2 that settle */
    double table_lr;                  /* times the learning rate, for tables */
    double clip;                      /* of the gradient's norm; 0: none */
};
extern const struct hd_optim_hp hd_optim_default;

struct hd_optim {
    struct hd_optim_hp hp;
    struct hd_params *ps;
    float *m, *v;                     /* laid out as ps->w; v of Muon's matrices stays zero */
    int64_t step;                     /* updates done */
    struct hd_pool *pool;
    struct hd_newton_schulz ns;
    struct hd_ns_matrix *matrix;      /* what it has to do in an update */
    double *part;                     /* partial sums of the norm */
    size_t n_part;
};

int hd_optim_init(struct hd_optim *o, const struct hd_optim_hp *hp, struct hd_params *ps, struct hd_pool *pool, const struct hd_backend *be, struct hd_err *err);
void hd_optim_release(struct hd_optim *o);
int64_t hd_optim_bytes(const struct hd_model *m, const struct hd_optim_hp *hp);

/* Norm of all gradients times scale; not finite when any is. */
double hd_grad_norm(struct hd_optim *o, double scale);

/* One update with gradients times scale (clipping included). Gradients of tables are zero then; the others' are left, and count no more: the caller's tape has them blank (tape.h).
 * Errors: MEMORY. */
int hd_optim_step(struct hd_optim *o, double lr, double scale, struct hd_err *err);

#endif
