/* tensor.h: a view of numbers that lie somewhere: a mapped file, an arena, a cache page.
 *
 * Row-major, outermost dimension first: x[T, D] has dim {T, D}. The innermost dimension is contiguous in its format's
 * blocks; rows (all outer dimensions flattened) lie row_bytes apart. Views own nothing.
 */
#ifndef HD_TENSOR_TENSOR_H
#define HD_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

#define HD_MAX_DIM 4

struct hd_panels;

struct hd_tensor {
    enum hd_dtype type;
    int n_dim;
    int64_t dim[HD_MAX_DIM];      /* unused ones are 1 */
    int64_t row_bytes;
    void *data;                   /* NULL in a dry run */
    struct hd_scale scale;        /* weights only; scale.data NULL elsewhere */
    const struct hd_panels *panels;       /* weights: the same in the kernels' order (panel.h), or NULL */
    const char *name;             /* weights: the checkpoint's name; borrowed */
    bool exact;                   /* weights: multiplied in f32 while training, whatever the step's precision is */
};

static inline int64_t hd_cols(const struct hd_tensor *t) { return t->dim[t->n_dim - 1]; }
static inline int64_t hd_elems(const struct hd_tensor *t) { return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]; }
static inline int64_t hd_rows(const struct hd_tensor *t) { return hd_cols(t) ? hd_elems(t) / hd_cols(t) : 0; }

struct hd_tensor hd_view1(enum hd_dtype type, void *data, int64_t n);
struct hd_tensor hd_view2(enum hd_dtype type, void *data, int64_t rows, int64_t cols);
int64_t hd_tensor_bytes(const struct hd_tensor *t);             /* data without scales */

/* Element i of a row of I64 or I32; files need not align it. */
int64_t hd_int_at(enum hd_dtype type, const void *row, int64_t i);

/* "[576, 1536]"; returns buf */
const char *hd_shape_str(char buf[96], int n_dim, const int64_t *dim);

#endif
