/* stream.c: see stream.h. */
#include "ops/stream.h"

#include <stdio.h>
#include <string.h>

#include "ops/tape.h"

const struct hd_op_info hd_ops[HD_N_OP] = {
#define HD_OP(id, name, need, shard, bwd) {name, HD_NEED_##need, HD_SHARD_##shard, HD_BWD_##bwd},
#include "ops/ops.def"
#undef HD_OP
};

void hd_stream_init(struct hd_stream *s, const struct hd_backend *be, struct hd_arena *step, enum hd_exact exact)
{
    memset(s, 0, sizeof *s);
    s->be = be;
    s->step = step;
    s->exact = exact;
}

bool hd_stream_ok(const struct hd_stream *s)
{
    return s->err.code == HD_OK;
}

void hd_stream_fail(struct hd_stream *s, int code, const char *fmt, ...)
{
    va_list ap;

    if (!hd_stream_ok(s))
        return;
    va_start(ap, fmt);
    hd_err_setv(&s->err, code, fmt, ap);
    va_end(ap);
}

int hd_stream_end(struct hd_stream *s, struct hd_err *err)
{
    if (!hd_stream_ok(s) && err)
        *err = s->err;
    return s->err.code;
}

struct hd_tensor *hd_new(struct hd_stream *s, enum hd_dtype type, int64_t rows, int64_t cols)
{
    static struct hd_tensor nothing = {.n_dim = 2};
    struct hd_tensor *t = hd_stream_ok(s) ? hd_arena_alloc(s->step, sizeof *t) : NULL;
    int64_t bytes;

    if (!t) {
        hd_stream_fail(s, HD_ERR_MEMORY, "step: no memory for a tensor [%lld, %lld]", (long long)rows, (long long)cols);
        return &nothing;
    }
    *t = hd_view2(type, NULL, rows, cols);
    bytes = (hd_tensor_bytes(t) + 63) & ~(int64_t)63;
    s->used += (s->within_layer ? 0 : bytes) + ((int64_t)sizeof *t + 63) / 64 * 64;
    s->layer_used += s->within_layer ? bytes : 0;
    if (s->used > s->cost.arena_peak)
        s->cost.arena_peak = s->used;
    if (s->layer_used > s->cost.layer_peak)
        s->cost.layer_peak = s->layer_used;
    if (s->be && bytes && !(t->data = hd_arena_alloc(s->within_layer ? &s->tape->layer : s->step, (size_t)bytes)))
        hd_stream_fail(s, HD_ERR_MEMORY, "step: no memory for a tensor [%lld, %lld] of %lld bytes", (long long)rows, (long long)cols, (long long)bytes);
    return t;
}

struct hd_tensor *hd_over(struct hd_stream *s, struct hd_tensor *x)
{
    return s->tape ? hd_new(s, x->type, hd_rows(x), hd_cols(x)) : x;
}

struct hd_tensor *hd_new_kept(struct hd_stream *s, enum hd_dtype type, int64_t rows, int64_t cols)
{
    bool within = s->within_layer;
    struct hd_tensor *t;

    s->within_layer = false;
    t = hd_new(s, type, rows, cols);
    s->within_layer = within;
    return t;
}

void hd_layer_begin(struct hd_stream *s, const struct hd_tensor *x)
{
    if (!s->tape || !s->tape->again || !hd_stream_ok(s))
        return;
    HD_ASSERT(!s->within_layer);
    s->within_layer = true;
    s->layer_used = 0;
    s->cost.layer_in += hd_tensor_bytes(x);
    hd_tape_layer(s, true);
}

void hd_layer_end(struct hd_stream *s)
{
    if (s->within_layer)
        hd_tape_layer(s, false);
    s->within_layer = false;
}

struct hd_stream_mark hd_stream_mark(const struct hd_stream *s)
{
    return (struct hd_stream_mark){hd_arena_mark(s->step), s->used};
}

void hd_stream_rewind(struct hd_stream *s, struct hd_stream_mark m)
{
    if (s->tape)
        return;                       /* a tape needs every intermediate tensor until the backward pass */
    hd_arena_rewind(s->step, m.arena);
    s->used = m.used;
}

void hd_trace(struct hd_stream *s, const struct hd_tensor *x, const char *fmt, ...)
{
    char name[128];
    va_list ap;

    if (!s->trace || !s->be || !hd_stream_ok(s))
        return;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    if (hd_cols(x) * 4 != x->row_bytes) {             /* a view: its rows, without what lies between them */
        struct hd_tensor *t = hd_new(s, x->type, hd_rows(x), hd_cols(x));

        for (int64_t r = 0; hd_stream_ok(s) && r < hd_rows(x); r++)
            memcpy((char *)t->data + r * t->row_bytes, (char *)x->data + r * x->row_bytes, (size_t)hd_row_bytes(x->type, hd_cols(x)));
        if (!hd_stream_ok(s))
            return;
        s->trace(s->trace_arg, name, t);
        return;
    }
    s->trace(s->trace_arg, name, x);
}
