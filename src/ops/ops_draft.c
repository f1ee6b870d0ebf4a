/* ops_draft.c: front ends of what draft modules need beside the model's own ops: a token and what the token before it left behind. */
#include "ops/ops.h"

#include "ops/dispatch.h"

void hd_shift(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_ragged *b, int part)
{
    if (!hd_require(s, hd_rows(out) == b->n_tok && (x ? hd_rows(x) == b->n_tok && hd_cols(x) == hd_cols(out) : b->n_tok == b->n_seq), HD_OP_SHIFT, out, x ? x : out))
        return;
    s->cost.kv_bytes += (double)b->n_seq * (double)out->row_bytes;
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_SHIFT, .n_out = 1, .out = {out}, .in = {x}, .batch = b, .i = {part}});
}

const struct hd_ragged *hd_before(struct hd_stream *s, const struct hd_ragged *b)
{
    static const struct hd_ragged none;
    struct hd_ragged *out = hd_stream_ok(s) ? hd_arena_alloc(s->step, sizeof *out) : NULL;
    struct hd_span *span = out ? hd_arena_alloc(s->step, (size_t)b->n_seq * sizeof *span) : NULL;
    int32_t *pos = span ? hd_arena_alloc(s->step, (size_t)b->n_tok * sizeof *pos) : NULL;

    if (!pos) {
        hd_stream_fail(s, HD_ERR_MEMORY, "step: no memory for a batch of %lld tokens", (long long)b->n_tok);
        return &none;
    }
    for (int64_t i = 0; i < b->n_seq; i++) {
        int64_t skip = b->span[i].pos0 == 0;

        span[i] = (struct hd_span){b->span[i].tok0 + skip, b->span[i].n_tok - skip, b->span[i].pos0 - 1 + skip, b->span[i].raw0};
        for (int64_t k = 0; k < b->span[i].n_tok; k++)
            pos[b->span[i].tok0 + k] = (int32_t)(b->span[i].pos0 + k > 0 ? b->span[i].pos0 + k - 1 : 0);
    }
    s->used += 3 * 64 + (int64_t)sizeof *out + b->n_seq * (int64_t)sizeof *span + b->n_tok * 4;
    if (s->used > s->cost.arena_peak)
        s->cost.arena_peak = s->used;
    *out = *b;
    out->pos = pos;
    out->span = span;
    return out;
}
