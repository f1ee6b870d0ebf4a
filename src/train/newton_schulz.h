/* newton_schulz.h: matrices to the nearest orthogonal ones, nearly, for Muon: U V^T of a singular value decomposition, by products alone.
 *
 * Source   Jordan 2024; DeepSeek-V4's report, algorithm 1: steps x -> c0 x + c1 x^3 + c2 x^5 on singular values, first some that lift small ones fast, then some that settle at 1
 * Threads  the engine thread. Many small matrices lie side by side, each on one worker; large ones are the whole team's. The same bits either way. */
#ifndef HD_TRAIN_NEWTON_SCHULZ_H
#define HD_TRAIN_NEWTON_SCHULZ_H

#include "backend/backend.h"

struct hd_ns_matrix {
    float *x;                         /* [m, n], replaced */
    int64_t m, n;
};

struct hd_newton_schulz {
    int n_lift, n_settle;
    bool bf16;                        /* products round their operands */
    struct hd_newton_schulz_places *places;
};

/* pool and be are borrowed. Errors: MEMORY. */
int hd_newton_schulz_init(struct hd_newton_schulz *ns, struct hd_pool *pool, const struct hd_backend *be, int n_lift, int n_settle, struct hd_err *err);
void hd_newton_schulz_release(struct hd_newton_schulz *ns);

/* n matrices. Errors: MEMORY. */
int hd_newton_schulz(struct hd_newton_schulz *ns, const struct hd_ns_matrix *x, int64_t n, struct hd_err *err);

#endif
