/* stream.h: where model code puts its operations.
 *
 * One text of the model, several purposes; the stream decides:
 *   run    a backend computes
 *   dry    nothing is computed: exact bytes of the step arena, flops and bytes read are counted (tensors have no data)
 *   trace  in addition to run: hd_trace() hands named tensors to a callback
 *   tape   in addition to run: every call is recorded, to be undone in reverse by the backend's back[]
 * No call returns an error. The first failure stays in the stream, later calls do nothing, hd_stream_end() reports once.
 */
#ifndef HD_OPS_STREAM_H
#define HD_OPS_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "ops/paged.h"
#include "ops/profile.h"
#include "ops/source.h"
#include "tensor/tensor.h"

enum hd_op {
#define HD_OP(id, name, need, shard, bwd) HD_OP_##id,
#include "ops/ops.def"
#undef HD_OP
    HD_N_OP
};

enum hd_bwd { HD_BWD_PURE, HD_BWD_INOUT, HD_BWD_FLAT, HD_BWD_NONE };
enum hd_need { HD_NEED_MUST, HD_NEED_FUSED };
enum hd_shard { HD_SHARD_LOCAL, HD_SHARD_ROWS, HD_SHARD_OUT_IN, HD_SHARD_HEADS, HD_SHARD_VOCAB, HD_SHARD_NONE };

struct hd_ngram;

/* One call of an op, whatever the op: what a backend gets and a tape keeps. Unused fields are zero. */
struct hd_call {
    enum hd_op op;
    int n_out;
    struct hd_tensor *out[3];
    const struct hd_tensor *in[7];
    const struct hd_ragged *batch;
    const int32_t *rows;              /* GATHER */
    const struct hd_tensor *const *list;      /* MOE: x, idx, weight, then scratch */
    const struct hd_ngram *ngram;     /* NGRAM */
    int64_t i[12];
    float f[4];
};

/* What another model says about each row's target: its likeliest ids and their chances, which sum to one. */
struct hd_soft {
    struct hd_tensor id, p;           /* i32 and f32 [n, k]; rows without a target are not looked at */
    float share;                      /* of the loss, 0 .. 1; the rest is the target's */
};

struct hd_stream;
typedef void (*hd_op_fn)(void *backend, struct hd_stream *s, const struct hd_call *c);
/* Adds to the gradients of c's inputs (hd_grad(), tape.h). dout[k]: the gradient of output k, compact f32 rows; NULL where the output is
 * no f32. Gradients where outputs lie have been cleared before, so that an output may lie on an input; but not ADD's whose output is its first input:
 * dout[0] is that input's gradient then, in its place, and stays. */
typedef void (*hd_back_fn)(void *backend, struct hd_stream *s, const struct hd_call *c, const struct hd_tensor *const *dout);

struct hd_op_info {
    const char *name;
    enum hd_need need;
    enum hd_shard shard;
    enum hd_bwd bwd;
};

extern const struct hd_op_info hd_ops[HD_N_OP];

/* What a backend offers. run[] may hold NULL for FUSED ops only. */
struct hd_backend {
    const char *name;
    void *self;
    hd_op_fn run[HD_N_OP];
    hd_back_fn back[HD_N_OP];         /* NULL for FLAT and NONE ops */
    /* rows of so many bytes from one place to another, each row_bytes apart; from NULL: zeros */
    void (*move)(void *self, int64_t rows, int64_t bytes, void *to, int64_t to_bytes, const void *from, int64_t from_bytes);
    enum hd_dtype (*act_type)(void *self, const struct hd_tensor *w, int64_t row0);      /* what the fast mode multiplies w's rows from row0 on with: F32, BF16, Q16 or Q8 */
};

enum hd_exact { HD_EXACT_NONE, HD_EXACT_F32, HD_EXACT_OFFICIAL };

struct hd_cost {
    double flops;
    double weight_bytes;              /* each weight counted once a step, with its scales */
    double kv_bytes;                  /* cache rows read and written */
    int64_t arena_peak;               /* bytes of the step arena */
    int64_t layer_peak;               /* bytes of the largest layer, where they are computed again: they lie apart */
    int64_t layer_in;                 /* and of what went into all of them */
    int64_t n_call;
};

/* A tensor that model code named. x is only valid during the call. */
typedef void (*hd_trace_fn)(void *arg, const char *name, const struct hd_tensor *x);

struct hd_tape;                       /* tape.h */
struct hd_learn;

/* Dry runs: who wants to know which weights a step meets, in its order. Any function may be NULL. */
struct hd_meet {
    void *arg;
    void (*matrix)(void *arg, const struct hd_tensor *w);     /* of a product */
    /* Of a mixture: arrays [n]; route: the table that chooses by token id, or NULL. NULL: experts are told as matrices. */
    void (*experts)(void *arg, const struct hd_tensor *gate, const struct hd_tensor *up, const struct hd_tensor *down, int64_t n, const struct hd_tensor *route);
    void (*table)(void *arg, const struct hd_tensor *w);      /* read by the row */
};

struct hd_stream {
    const struct hd_backend *be;      /* NULL: dry */
    struct hd_arena *step;
    enum hd_exact exact;
    struct hd_err err;                /* err.code 0: fine so far */
    struct hd_cost cost;
    int64_t used;                     /* bytes of tensors now, as the step arena counts them */
    bool within_layer;                /* that will be computed again (tape.h); layer_used: its bytes so far */
    int64_t layer_used;
    hd_trace_fn trace;
    void *trace_arg;
    struct hd_tape *tape;             /* NULL: not recording */
    struct hd_meet meet;
    const struct hd_tensor *route;    /* the table that the last hd_gate() chose by, or NULL */
    const struct hd_source *source;   /* of weights that are not all in memory; NULL: they are */
    struct hd_profile *profile;       /* where the time goes; NULL: nobody asks */
    struct hd_learn *learn;           /* learn.h: losses beside that of the logits; NULL: none */
    const struct hd_soft *soft;       /* those losses are mixed with the cross-entropy against these; NULL: they are not. Lives as long as the step */
    const int32_t *target;            /* hd_logits() gives losses against these ids, one per row; NULL: logits. Lives as long as the step */
};

/* be NULL: a dry run (weights then may have no data). step holds descriptors and, when running, the numbers. */
void hd_stream_init(struct hd_stream *s, const struct hd_backend *be, struct hd_arena *step, enum hd_exact exact);
int hd_stream_end(struct hd_stream *s, struct hd_err *err);           /* HD_OK or the first error; rewinds nothing */
bool hd_stream_ok(const struct hd_stream *s);
void hd_stream_fail(struct hd_stream *s, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* A tensor of the step, not cleared. Never NULL: after a failure it is an empty one that ops ignore. */
struct hd_tensor *hd_new(struct hd_stream *s, enum hd_dtype type, int64_t rows, int64_t cols);

/* Where a result may lie that takes x's place: x; on a tape, which would have to keep x's numbers, a new tensor of its shape. */
struct hd_tensor *hd_over(struct hd_stream *s, struct hd_tensor *x);

/* A tensor that outlives the layer it is made in, on a tape that computes layers again too: later layers or the trainer look at it. Otherwise hd_new(). */
struct hd_tensor *hd_new_kept(struct hd_stream *s, enum hd_dtype type, int64_t rows, int64_t cols);

/* The ops of a layer, from the streams x on that it changes, stand between these two. On a tape that computes layers again (tape.h) its tensors last until the
 * end, and once more on the way back; everywhere else they say nothing. Layers do not nest; what later code looks at was made before or by hd_new_kept(). */
void hd_layer_begin(struct hd_stream *s, const struct hd_tensor *x);
void hd_layer_end(struct hd_stream *s);

/* Scratch of a layer: everything made after the mark is given back. */
struct hd_stream_mark {
    struct hd_arena_mark arena;
    int64_t used;
};
struct hd_stream_mark hd_stream_mark(const struct hd_stream *s);
void hd_stream_rewind(struct hd_stream *s, struct hd_stream_mark m);

/* Names a tensor for whoever compares layer by layer: hd_trace(s, x, "layers.%d.attn_norm", layer). */
void hd_trace(struct hd_stream *s, const struct hd_tensor *x, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
