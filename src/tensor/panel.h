/* panel.h: weights in the order in which the fast kernels read them: panels of sixteen rows, side by side in a vector's lanes.
 *
 * Why: with a row a lane, one broadcast of four activations meets sixteen rows at once; sums never cross lanes, scales are a vector, an
 * element's order does not depend on the vector's width, and a matrix is one stream of memory, aligned, in huge pages.
 *
 * A panel is codes, then scales, then (q4_1) minima, padded to 64 bytes:
 *   nibbles   q4_0 q4_1 mxfp4 f4_e2m1    a block of 32 columns: 4 groups of 16 lanes of 4 bytes; the low nibbles of group g are columns
 *             q5_0 q5_1 q4_k q5_k q6_k   4g .. 4g+3, the high ones columns 16+4g ..; behind them 16 lanes of 4 bytes of fifth bits (bit g
 *                                        of byte k: column 4g+k), or twice 16 lanes of fifth and sixth ones (bits 2g and 2g+1 of byte k
 *                                        of the first: column 4g+k; of the second: column 16+4g+k)
 *   bytes     q8_0                       8 groups of 16 lanes of 4 bytes: columns 4g .. 4g+3
 *   fp8       f8_e4m3                    four columns after the other: 16 lanes of 4 bytes, columns 0, 2, 1, 3: its even and its odd
 *                                        bytes are pairs of columns
 *   bf16      bf16                       two columns after the other: 16 lanes of 2 values; those below 2^-50 are zero (act_bf16.h)
 * Scales of nibbles and bytes: 16 a block, f16 (or ue8m0, a byte). q4_k, q5_k and q6_k have a record for every 256 columns (struct
 * hd_panel_k4, hd_panel_k6). Scales of fp8: f32, 16 a block of 32 columns where every row has its own,
 * otherwise one for each block of columns that the checkpoint has.
 * Rows behind the matrix's last one are zero.
 */
#ifndef HD_TENSOR_PANEL_H
#define HD_TENSOR_PANEL_H

#include "tensor/tensor.h"

#define HD_PANEL_ROWS 16

/* Scales of 256 columns: a block's scale is d times its own, the minimum that is taken off dmin times its own. */
struct hd_panel_k4 {
    uint16_t d[HD_PANEL_ROWS], dmin[HD_PANEL_ROWS];           /* f16 */
    uint8_t scale[8][HD_PANEL_ROWS], min[8][HD_PANEL_ROWS];   /* 6 bits */
};
struct hd_panel_k6 {
    uint16_t d[HD_PANEL_ROWS];
    int8_t scale[16][HD_PANEL_ROWS];                          /* every 16 columns */
};

enum hd_panel_kind { HD_PANEL_NONE, HD_PANEL_NIBBLES, HD_PANEL_BYTES, HD_PANEL_FP8, HD_PANEL_BF16 };

struct hd_panels {
    enum hd_dtype type;               /* of the weights that they were made from */
    enum hd_panel_kind kind;
    int64_t n, n_row;                 /* columns, rows */
    int64_t bytes;                    /* of a panel, a multiple of 64 */
    int64_t scale_at, min_at;         /* bytes from a panel's begin */
    int64_t scale_cols;               /* columns that a scale is for */
    bool scale_rows;                  /* every row has scales of its own */
    float global;                     /* one more factor for everything */
    const uint8_t *data;              /* panel p begins at data + p * bytes; 64-byte aligned */
};

/* Describes the panels of w, data aside. false: w has a format, scales or a number of columns that panels are not made for. */
bool hd_panels_describe(const struct hd_tensor *w, struct hd_panels *p);
/* Fills panel i at out, p->bytes of it. */
void hd_panel_pack(const struct hd_tensor *w, const struct hd_panels *p, int64_t i, void *out);

/* What tells one layout of panels from another: a sum over panels of made-up weights in every format, at whatever level. Files that hold panels carry it. */
uint64_t hd_panel_layout(void);

/* Bits of a code behind its nibble. */
static inline int hd_panel_high_bits(enum hd_dtype t)
{
    return t == HD_Q6_K ? 2 : t == HD_Q5_0 || t == HD_Q5_1 || t == HD_Q5_K;
}

static inline bool hd_panel_has_min(enum hd_dtype t)
{
    return t == HD_Q4_1 || t == HD_Q5_1 || t == HD_Q4_K || t == HD_Q5_K;
}

/* Bytes of the codes of a block of 32 columns, nibbles and bytes. */
static inline int hd_panel_block_bytes(enum hd_dtype t)
{
    return t == HD_Q8_0 ? 512 : 256 + 64 * hd_panel_high_bits(t);
}

static inline int64_t hd_panel_count(const struct hd_panels *p)
{
    return (p->n_row + HD_PANEL_ROWS - 1) / HD_PANEL_ROWS;
}

#endif
