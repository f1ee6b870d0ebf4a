/* dtype.h: number formats: what dtype.def lists, with sizes and exact row decoders.
 *
 * Decoders are the definition of a format: element by element, no shortcuts. The kernels agree with them.
 */
#ifndef HD_TENSOR_DTYPE_H
#define HD_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stdint.h>

enum hd_dtype {
#define HD_DTYPE(id, name, len, bytes, gguf, st) HD_##id,
#include "tensor/dtype.def"
#undef HD_DTYPE
    HD_N_DTYPE
};

struct hd_dtype_info {
    const char *name;
    int block_len, block_bytes;
    int gguf;                     /* ggml type number or -1 */
    const char *safetensors;      /* or NULL */
};

extern const struct hd_dtype_info hd_dtypes[HD_N_DTYPE];

/* Bytes of n elements in a row; n must be a multiple of the block length (asserted). */
int64_t hd_row_bytes(enum hd_dtype t, int64_t n);

int hd_dtype_find(const char *name);                 /* "q4_k" -> HD_Q4_K, -1 when unknown */
int hd_dtype_of_gguf(uint32_t ggml_type);            /* -1 when unknown */
int hd_dtype_of_safetensors(const char *name);       /* -1 when unknown; "F8_E5M2" and other strangers are unknown */
bool hd_dtype_is_float(enum hd_dtype t);             /* a format weights of a matrix may have: floats and quantised blocks */

/* Scales that lie beside the data: element (r, c) is scaled by data[r / block_rows][c / block_cols].
 * A row of scales has n_col entries, the last block of a row or column may be partial. */
struct hd_scale {
    enum hd_dtype type;           /* F32, BF16, F8_E8M0, or F8_E4M3 (fp4 block 16) */
    const void *data;             /* NULL: no scales */
    int64_t n_row, n_col;
    int block_rows, block_cols;
    float global;                 /* one more factor (nvfp4's weight_scale_2); 1 when there is none */
};

/* Row r of a matrix whose rows lie row_bytes apart, as n f32. scale may be NULL. Exact: the product is rounded once. */
void hd_decode_row(enum hd_dtype t, const void *data, int64_t row_bytes, const struct hd_scale *scale, int64_t r, int64_t n, float *out);

/* n f32 -> the format's nearest value (ties to even); n a multiple of the block length. Only formats that hadal writes:
 * F32 F16 BF16 F8_E4M3 (no scale: clamps to 448), Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q6_K MXFP4. false for the others. */
bool hd_encode_row(enum hd_dtype t, const float *x, int64_t n, void *out);

#endif
