/* tensor.c: see tensor.h. */
#include "tensor/tensor.h"

#include <stdio.h>
#include <string.h>

struct hd_tensor hd_view1(enum hd_dtype type, void *data, int64_t n)
{
    return (struct hd_tensor){.type = type, .n_dim = 1, .dim = {n, 1, 1, 1}, .row_bytes = hd_row_bytes(type, n), .data = data};
}

struct hd_tensor hd_view2(enum hd_dtype type, void *data, int64_t rows, int64_t cols)
{
    return (struct hd_tensor){.type = type, .n_dim = 2, .dim = {rows, cols, 1, 1}, .row_bytes = hd_row_bytes(type, cols), .data = data};
}

int64_t hd_tensor_bytes(const struct hd_tensor *t)
{
    return t->n_dim ? hd_rows(t) * t->row_bytes : 0;
}

const char *hd_shape_str(char buf[96], int n_dim, const int64_t *dim)
{
    int n = snprintf(buf, 96, "[");

    for (int i = 0; i < n_dim && n < 90; i++)
        n += snprintf(buf + n, 96 - (size_t)n, "%s%lld", i ? ", " : "", (long long)dim[i]);
    snprintf(buf + (n < 94 ? n : 94), 2, "]");
    return buf;
}

int64_t hd_int_at(enum hd_dtype type, const void *row, int64_t i)
{
    int64_t wide;
    int32_t narrow;

    if (type == HD_I64) {
        memcpy(&wide, (const char *)row + 8 * i, 8);
        return wide;
    }
    memcpy(&narrow, (const char *)row + 4 * i, 4);
    return narrow;
}
