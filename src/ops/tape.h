/* tape.h: calls that were recorded, to be undone in reverse.
 *
 * A gradient lies in the shadow of what it belongs to: the tape knows ranges of memory (the step arena, weights, cache pages)
 * and for each a second range of the same size, so that views, columns and rows of a tensor find theirs by address alone and
 * model code knows nothing of it. What a call overwrites that was written before is kept and put back on the way.
 *
 * A step on a tape is one of whole documents from position 0 on; hd_stream.exact must be F32 (products of f32 activations).
 *
 *     hd_tape_init(); hd_tape_range() ...     once
 *     hd_tape_begin(); forward; d = hd_grad(&s, logits); fill d; hd_tape_backward()     per step
 *
 * Recomputation. With hd_tape_layers() what a layer makes (between hd_layer_begin() and hd_layer_end()) lies in memory that all layers share. Of what lay there
 * before, a layer's calls keep what others than they themselves still need; on the way back that is put back, the calls are run once more, in order, and then
 * undone. Ops compute the same bits from the same bits, so losses and gradients do not change; a step costs one forward pass more and holds one layer at a time.
 *
 * Verified by checkgrad (op by op, in double) and test_grad (whole models).
 *
 * Threads: the engine thread. Memory: what is kept and scratch grow to the largest step and stay. */
#ifndef HD_OPS_TAPE_H
#define HD_OPS_TAPE_H

#include <stddef.h>

#include "base/arena.h"
#include "ops/stream.h"

struct hd_tape_range {
    char *base, *grad;                /* both borrowed */
    size_t n;
};

struct hd_tape_entry {
    struct hd_call call;
    void *old[3];                     /* compact rows of what out[k] held before; NULL: nothing that anybody wrote */
};

/* Memory that tensors are made in: who wrote every 64 bytes of it last. */
struct hd_tape_area {
    char *base;
    size_t n;
    uint16_t *mark;                   /* 0: nobody; 2 who, + 1: somebody else looked at it since. who: layers from 1; 0x7fff: outside of them */
};

/* The gradient of a weight, n bytes, of which those from `done` on are blank: they count as zeros whatever lies there, until the first gradient of a step takes their place. */
struct hd_tape_blank {
    char *grad;                       /* borrowed */
    size_t n, done;
};

struct hd_tape_save {                 /* what a layer overwrote and others need */
    struct hd_tensor x;
    void *old;
};

struct hd_tape_layer {
    size_t first, end;                /* its calls */
    size_t save0, save_end;
};

struct hd_tape {
    struct hd_tape_entry *entry;
    size_t n, cap;
    struct hd_tape_range *range;      /* ascending */
    size_t n_range, cap_range;
    struct hd_tape_blank *blank;      /* ascending */
    size_t n_blank, cap_blank, blank_bytes;
    struct hd_arena kept, scratch;
    struct hd_tape_area step_area, layer_area;
    bool bf16;                        /* products round their operands (kernels.h), but for exact weights; the caller's to set */
    bool clean;                       /* the step's gradients are all zero: every one was taken on the last way back */
    /* layers that are computed again */
    bool again;
    struct hd_arena layer;
    char *layer_grad;
    struct hd_tape_layer *part;
    size_t n_part, cap_part;
    struct hd_tape_save *save;
    size_t n_save, cap_save;
    uint16_t who;                     /* writes now */
};

void hd_tape_init(struct hd_tape *t);
void hd_tape_release(struct hd_tape *t);

/* n bytes at base have gradients at grad (f32, cleared by the caller). step: the range that tensors of the step lie in: hd_tape_begin() clears its gradients.
 * Ranges must not overlap. Errors: MEMORY. */
int hd_tape_range(struct hd_tape *t, void *base, void *grad, size_t n, bool step, struct hd_err *err);

/* n bytes of a range's gradients, 64-byte aligned, behind those named before, need not be cleared: they are blank now and after every hd_tape_blank_all(). Who asks for them by
 * hd_grad() finds zeros, filled in then. Errors: MEMORY. */
int hd_tape_blank(struct hd_tape *t, void *grad, size_t n, struct hd_err *err);
void hd_tape_blank_all(struct hd_tape *t);
/* What is still blank becomes zeros. */
void hd_tape_fill(const struct hd_stream *s);

/* From now on layers are computed again; the largest makes n bytes of tensors (hd_cost.layer_peak). n 0: of dry runs, which only count. Errors: MEMORY. */
int hd_tape_layers(struct hd_tape *t, size_t n, struct hd_err *err);

/* Forgets the last step's calls; clears gradients of the step's range. The caller sets s->tape = t. */
void hd_tape_begin(struct hd_tape *t);

/* Undoes all calls; gradients of outputs have been filled in. Errors are sticky in s: UNSUPPORTED names an op without a backward. */
void hd_tape_backward(struct hd_stream *s);

/* The gradient of x, rows as far apart as x's; data NULL where it has none (no range, or no f32). */
struct hd_tensor hd_grad(const struct hd_stream *s, const struct hd_tensor *x);
float *hd_grad_at(const struct hd_stream *s, const void *p);          /* NULL likewise */

/* The same for who may take the place of blanks: what lies there counts only if hd_tape_claim() says no. */
struct hd_tensor hd_grad_place(const struct hd_stream *s, const struct hd_tensor *x);
/* Before rows at such a place, n bytes at grad, are written: whether they are blank, and the caller now writes all of them; otherwise it adds. Engine thread. */
bool hd_tape_claim(const struct hd_stream *s, void *grad, size_t n);

/* Scratch of a back function, until it returns (forward: of an op that rewinds it itself): f32, not cleared. NULL (and the error in s) when there is no memory. */
float *hd_tape_scratch(struct hd_stream *s, int64_t rows, int64_t cols);

/* For hd_layer_begin() and hd_layer_end(). */
void hd_tape_layer(struct hd_stream *s, bool begin);

/* For hd_dispatch(): false when the stream has failed. */
bool hd_tape_record(struct hd_stream *s, const struct hd_call *c);

#endif
