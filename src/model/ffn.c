/* ffn.c: see ffn.h. */
#include "model/ffn.h"

void hd_ffn(struct hd_stream *s, const struct hd_ffn_weights *w, const struct hd_tensor *x, struct hd_tensor *out)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *gate = hd_new(s, HD_F32, hd_rows(x), hd_rows(&w->gate)), *up = hd_new(s, HD_F32, hd_rows(x), hd_rows(&w->up)), *act;

    hd_matmul_n(s, 2, (struct hd_tensor *[]){gate, up}, x, (const struct hd_tensor *[]){&w->gate, &w->up});
    if (hd_elems(&w->gate_bias)) {
        hd_add_row(s, gate, &w->gate_bias);
        hd_add_row(s, up, &w->up_bias);
    }
    act = hd_over(s, gate);
    hd_silu_mul(s, act, gate, up);
    hd_matmul(s, out, act, &w->down);
    if (hd_elems(&w->down_bias))
        hd_add_row(s, out, &w->down_bias);
    hd_stream_rewind(s, mark);
}
