/* dtype.c: the table of formats, look-ups, and the exact decoder. */
#include "tensor/dtype.h"

#include <string.h>

#include "base/err.h"
#include "tensor/decode_rows.h"

const struct hd_dtype_info hd_dtypes[HD_N_DTYPE] = {
#define HD_DTYPE(id, name, len, bytes, gguf, st) {name, len, bytes, gguf, st},
#include "tensor/dtype.def"
#undef HD_DTYPE
};

int64_t hd_row_bytes(enum hd_dtype t, int64_t n)
{
    HD_ASSERT(n % hd_dtypes[t].block_len == 0);
    return n / hd_dtypes[t].block_len * hd_dtypes[t].block_bytes;
}

int hd_dtype_find(const char *name)
{
    for (int i = 0; i < HD_N_DTYPE; i++)
        if (!strcmp(hd_dtypes[i].name, name))
            return i;
    return -1;
}

int hd_dtype_of_gguf(uint32_t ggml_type)
{
    for (int i = 0; i < HD_N_DTYPE; i++)
        if (hd_dtypes[i].gguf >= 0 && (uint32_t)hd_dtypes[i].gguf == ggml_type)
            return i;
    return -1;
}

int hd_dtype_of_safetensors(const char *name)
{
    for (int i = 0; i < HD_N_DTYPE; i++)
        if (hd_dtypes[i].safetensors && !strcmp(hd_dtypes[i].safetensors, name))
            return i;
    return -1;
}

bool hd_dtype_is_float(enum hd_dtype t)
{
    switch (t) {
    case HD_F8_E8M0:
    case HD_I8:
    case HD_U8:
    case HD_I16:
    case HD_I32:
    case HD_I64:
    case HD_BOOL:
    case HD_Q16:
    case HD_Q8: return false;
    default: return true;
    }
}

void hd_decode_row(enum hd_dtype t, const void *data, int64_t row_bytes, const struct hd_scale *scale, int64_t r, int64_t n, float *out)
{
    HD_ASSERT(hd_dtype_is_float(t));
    hd_decode_any(t, (const uint8_t *)data + r * row_bytes, scale, r, n, out);
}
