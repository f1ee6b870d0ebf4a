/* kv_row.h: cached vectors in few bytes: the formats that DeepSeek-V4 and V4.1 were trained to keep theirs in.
 *
 * Layout   codes of the first n values; one scale byte per block of them; padding to an even offset; tail values as bf16;
 *          padding to a multiple of 4. V4: 448 fp8 in blocks of 64 and 64 rotated bf16 = 584 bytes; V4.1: 512 fp4 in blocks of
 *          16 = 288; index keys: 128 fp4 in blocks of 32 = 68
 * Panels   sixteen fp4 rows with blocks of 32 and no tail may lie side by side, a row a lane, as panel.h has raw codes: four bytes of each row after the other,
 *          then the scales of each block; padded to what sixteen rows take. A product reads them as they lie
 * Rounding that of tensor/simulate.h, so that a vector rounded there comes back unchanged
 */
#ifndef HD_TENSOR_KV_ROW_H
#define HD_TENSOR_KV_ROW_H

#include <stdbool.h>
#include <stdint.h>

enum hd_kv_code {
    HD_KV_NONE,               /* not packed */
    HD_KV_FP8,                /* e4m3, ue8m0 scales */
    HD_KV_FP4,                /* e2m1, ue8m0 scales */
    HD_KV_FP4_E4M3            /* e2m1, e4m3 scales */
};

#define HD_KV_ROW_MAX 1024    /* values in a packed row */

struct hd_kv_row {
    enum hd_kv_code code;
    int block;
    int64_t n, tail;          /* n even; 0: all bf16 */
};

/* The row that packs n values and a tail so, or one of code NONE where they do not fit (odd, too long). */
struct hd_kv_row hd_kv_row(enum hd_kv_code code, int block, int64_t n, int64_t tail);
int64_t hd_kv_row_bytes(const struct hd_kv_row *r);
void hd_kv_encode(const struct hd_kv_row *r, const float *x, void *row);
void hd_kv_decode(const struct hd_kv_row *r, const void *row, float *x);

/* May such rows lie in panels? And one of them into its lane, 0 to 15, and back; hd_kv_row_bytes() of it. */
bool hd_kv_in_panels(const struct hd_kv_row *r);
void hd_kv_panel_put(const struct hd_kv_row *r, const void *row, int lane, void *panel);
void hd_kv_panel_get(const struct hd_kv_row *r, const void *panel, int lane, void *row);

#endif
