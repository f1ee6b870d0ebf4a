/* param.h: the weights of a model as things that learn: f32 masters, their gradients, and what each of them is.
 *
 * What a weight is follows from its checkpoint name, by one table for all families (param.c): how it begins, which optimiser has it,
 * whether it decays. A new architecture needs a line there only for what no line fits. */
#ifndef HD_TRAIN_PARAM_H
#define HD_TRAIN_PARAM_H

#include "base/rng.h"
#include "model/model.h"

enum hd_param_kind {
    HD_PARAM_MATRIX,                  /* y = W x inside a layer: Muon may have it */
    HD_PARAM_EMBED,                   /* token embedding and head */
    HD_PARAM_VECTOR,                  /* norms, biases, scales, small tensors that are no products: no decay */
    HD_PARAM_TABLE,                   /* n-gram rows: a step touches few of them; no decay */
    HD_PARAM_BALANCE,                 /* experts' biases: balanced, not differentiated */
    HD_PARAM_FROZEN                   /* integers, and what text does not use */
};

struct hd_param {
    const char *name;                 /* borrowed from the model */
    struct hd_tensor *t;              /* the model's: its data are w */
    float *w, *grad;                  /* [rows, cols]; FROZEN integers: NULL */
    int64_t rows, cols, n;
    int64_t heads;                    /* a query projection's: rows / heads of it are one's; 1: no such matrix */
    enum hd_param_kind kind;
    enum hd_dtype store;              /* the format it is to have (quant.h); F32 until somebody says so */
    struct hd_scale blocks;           /* and its blocks, without data */
    unsigned char *touched;           /* TABLE: a bit per row that had a gradient since the last update */
};

struct hd_params {
    struct hd_param *p;
    int n;
    float *w, *grad;                  /* of all, 64-byte aligned each */
    float *q;                         /* rounded weights, where w's are (quant.h); NULL: none */
    size_t n_float;                   /* of each of the two blocks, padding included */
};

enum hd_param_kind hd_param_kind(const char *name, int n_dim);

/* Does an optimiser have it? */
static inline bool hd_param_learns(const struct hd_param *p)
{
    return p->kind != HD_PARAM_FROZEN && p->kind != HD_PARAM_BALANCE;
}

/* Values that a weight begins with. std: of matrices; those that write into the stream get std / sqrt(2 n_layer). n_choice: what the integers of
 * hash tables choose from. */
struct hd_param_init {
    struct hd_rng rng;
    double std;
    int64_t n_layer, n_choice;
};
void hd_param_init(struct hd_param_init *in, const struct hd_tensor *t, float *w);
void hd_param_init_table(struct hd_param_init *in, int64_t n, int64_t cols, int64_t *w);

/* Every weight that learns: the model's, then the draft module's. */
void hd_params_each(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg);

/* Each of them becomes f32 in the block of w; m must have been opened with its weights. Errors: MEMORY. On failure the model may be half taken: close it. */
int hd_params_take(struct hd_params *ps, struct hd_model *m, struct hd_err *err);
void hd_params_release(struct hd_params *ps);          /* before the model is closed; its weights are gone then */

/* Bytes that hd_params_take() will ask for. */
int64_t hd_params_bytes(const struct hd_model *m);

static inline bool hd_param_touched(const struct hd_param *p, int64_t row)
{
    return p->touched[row / 8] >> row % 8 & 1;
}

#endif
