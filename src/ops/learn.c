/* learn.c: see learn.h. */
#include "ops/learn.h"

#include "ops/dispatch.h"

#define LOGITS_AT_ONCE ((int64_t)1 << 24)      /* of a round (ops.def: XENT): when all fit, a tape keeps them */

bool hd_learns(const struct hd_stream *s, enum hd_learn_kind kind)
{
    return s->learn && s->target && s->learn->weight[kind] > 0;
}

void hd_learn_loss(struct hd_stream *s, enum hd_learn_kind kind, const struct hd_tensor *loss, const int32_t *target)
{
    struct hd_learn *l = s->learn;

    if (l->n == HD_LEARN_MAX) {
        hd_stream_fail(s, HD_ERR_LIMIT, "training: more than %d losses", HD_LEARN_MAX);
        return;
    }
    l->loss[l->n].kind = kind;
    l->loss[l->n].loss = loss;
    l->loss[l->n++].target = target;
}

void hd_detach(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x)
{
    if (hd_require(s, hd_rows(out) == hd_rows(x) && hd_cols(out) == hd_cols(x), HD_OP_DETACH, out, x))
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_DETACH, .n_out = 1, .out = {out}, .in = {x}});
}

void hd_index_loss(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *iq, const struct hd_tensor *wt, const struct hd_tensor *q, const struct hd_tensor *kv,
                   const struct hd_tensor *sel, const struct hd_tensor *sink, const struct hd_ragged *b, const int32_t *target, const struct hd_index_loss_hp *hp)
{
    const struct hd_attend_sel_hp *a = &hp->attend;

    if (!hd_require(s, hd_rows(iq) == b->n_tok && hd_cols(iq) == hp->index_heads * hp->index_dim && hd_cols(wt) == hp->index_heads && hd_rows(wt) == b->n_tok, HD_OP_INDEX_LOSS, iq, wt) ||
        !hd_require(s, hd_rows(q) == b->n_tok && hd_cols(q) == a->n_head * a->head_dim && (kv ? hd_cols(kv) == a->head_dim && hd_rows(kv) == b->n_tok : !a->window), HD_OP_INDEX_LOSS, q,
                    kv ? kv : q) ||
        !hd_require(s, hd_rows(out) == b->n_tok && hd_cols(out) == 1 && a->part_entry >= 0 && (!sel || hd_rows(sel) == b->n_tok), HD_OP_INDEX_LOSS, out, q))
        return;
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_INDEX_LOSS,
                                     .n_out = 1,
                                     .out = {out},
                                     .in = {iq, wt, q, kv, sel, sink},
                                     .batch = b,
                                     .rows = target,
                                     .i = {a->part_entry, hp->part_key, a->n_head, a->head_dim, a->window, a->ratio, sel ? hd_cols(sel) : 0, hp->index_heads, hp->index_dim},
                                     .f = {a->scale}});
}

void hd_learn_index(struct hd_stream *s, const struct hd_tensor *iq, const struct hd_tensor *wt, const struct hd_tensor *q, const struct hd_tensor *kv, const struct hd_tensor *sel,
                    const struct hd_tensor *sink, const struct hd_ragged *b, const struct hd_index_loss_hp *hp)
{
    struct hd_tensor *loss = hd_new_kept(s, HD_F32, hd_rows(q), 1);

    hd_index_loss(s, loss, iq, wt, q, kv, sel, sink, b, s->target, hp);
    hd_learn_loss(s, HD_LEARN_INDEX, loss, s->target);
}

const struct hd_tensor *hd_learn_input(struct hd_stream *s, const struct hd_tensor *x)
{
    struct hd_tensor *y;

    if (!hd_learns(s, HD_LEARN_INDEX))
        return x;
    y = hd_new(s, HD_F32, hd_rows(x), hd_cols(x));
    hd_detach(s, y, x);
    return y;
}

bool hd_learn_dense(const struct hd_stream *s)
{
    return hd_learns(s, HD_LEARN_INDEX) && s->learn->index_dense;
}

void hd_attend_block(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *q, const struct hd_tensor *kv, const struct hd_tensor *main, const struct hd_tensor *sink,
                     const struct hd_ragged *b, const int32_t *anchor, const struct hd_attend_block_hp *hp)
{
    if (!hd_require(s, hd_rows(q) == hd_rows(kv) && hd_rows(q) % hp->block == 0 && hd_cols(q) == hp->n_head * hp->head_dim && hd_cols(kv) == hp->head_dim, HD_OP_ATTEND_BLOCK, q, kv) ||
        !hd_require(s, hd_rows(main) == b->n_tok && hd_cols(main) == hp->head_dim && hd_elems(sink) == hp->n_head, HD_OP_ATTEND_BLOCK, main, sink) ||
        !hd_require(s, hd_rows(out) == hd_rows(q) && hd_cols(out) == hd_cols(q), HD_OP_ATTEND_BLOCK, out, q))
        return;
    s->cost.flops += 4.0 * (double)(hd_elems(q) * (hp->window + hp->block));
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_ATTEND_BLOCK,
                                     .n_out = 1,
                                     .out = {out},
                                     .in = {q, kv, main, sink},
                                     .batch = b,
                                     .rows = anchor,
                                     .i = {hp->n_head, hp->head_dim, hp->window, hp->block},
                                     .f = {hp->scale}});
}

const struct hd_ragged *hd_ahead(struct hd_stream *s, const struct hd_ragged *b, int64_t ahead, const int32_t **target)
{
    int32_t *id = hd_new(s, HD_I32, 1, b->n_tok)->data, *wanted = hd_new(s, HD_I32, 1, b->n_tok)->data;
    struct hd_ragged *out = hd_stream_ok(s) ? hd_arena_alloc(s->step, sizeof *out) : NULL;

    s->used += ((int64_t)sizeof *out + 63) / 64 * 64;
    if (!out) {
        hd_stream_fail(s, HD_ERR_MEMORY, "step: no memory for %lld tokens ahead", (long long)b->n_tok);
        return b;
    }
    for (int64_t q = 0; q < b->n_seq && s->be; q++)
        for (int64_t t = b->span[q].tok0, end = t + b->span[q].n_tok; t < end; t++) {
            int32_t last = s->target[end - 1];

            id[t] = t + ahead < end ? b->ids[t + ahead] : t + ahead == end && last >= 0 ? last : 0;
            wanted[t] = t + ahead < end ? s->target[t + ahead] : -1;
        }
    *out = *b;
    out->ids = id;
    *target = wanted;
    return out;
}

/* x w^T, and x2 w2^T where there is one: then the head learns nothing from it. z: the z-loss, or NULL; soft: what a teacher says, or NULL. */
static void xent(struct hd_stream *s, struct hd_tensor *out, struct hd_tensor *z, const struct hd_tensor *x, const struct hd_tensor *w, const struct hd_tensor *x2, const struct hd_tensor *w2,
                 const int32_t *target, const struct hd_soft *soft)
{
    int64_t n = hd_rows(x), V = hd_rows(w), at_once = LOGITS_AT_ONCE / (V > 0 ? V : 1), room;
    struct hd_stream_mark mark = hd_stream_mark(s);

    at_once = at_once < 64 ? 64 : at_once;
    room = n < at_once ? n : at_once;
    if (!hd_require(s, hd_rows(out) == n && hd_cols(out) == 1 && hd_cols(x) == hd_cols(w), HD_OP_XENT, x, w))
        return;
    if (soft && !hd_require(s, hd_rows(&soft->id) >= n && hd_rows(&soft->p) >= n && hd_cols(&soft->id) == hd_cols(&soft->p), HD_OP_XENT, &soft->id, &soft->p))
        return;
    s->cost.flops += 2.0 * (double)n * (double)(hd_elems(w) + (w2 ? hd_elems(w2) : 0));
    hd_dispatch(s, &(struct hd_call){.op = HD_OP_XENT, .n_out = z ? 2 : 1, .out = {out, z},
                                     .in = {x, w, hd_new(s, HD_F32, room, (V + 15) / 16 * 16 + HD_XENT_SUMS), x2, w2, soft ? &soft->id : NULL, soft ? &soft->p : NULL},
                                     .rows = target, .i = {x2 != NULL}, .f = {soft ? soft->share : 0}});
    hd_stream_rewind(s, mark);
}

void hd_model_loss(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w)
{
    struct hd_tensor *z = hd_learns(s, HD_LEARN_Z) ? hd_new(s, HD_F32, hd_rows(x), 1) : NULL;

    xent(s, out, z, x, w, NULL, NULL, s->target, s->soft);
    if (z)
        hd_learn_loss(s, HD_LEARN_Z, z, s->target);
}

void hd_token_loss(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, const int32_t *target)
{
    xent(s, out, NULL, x, w, NULL, NULL, target, NULL);
}

void hd_draft_loss(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *x, const struct hd_tensor *w, const struct hd_tensor *x2, const struct hd_tensor *w2,
                   const int32_t *target)
{
    if (hd_require(s, hd_rows(x2) == hd_rows(x) && hd_cols(x2) == hd_cols(w2) && hd_rows(w2) == hd_rows(w), HD_OP_XENT, x2, w2))
        xent(s, out, NULL, x, w, x2, w2, target, NULL);
}

void hd_confidence_loss(struct hd_stream *s, struct hd_tensor *out, const struct hd_tensor *z, const struct hd_tensor *loss, const int32_t *target)
{
    if (hd_require(s, hd_cols(z) == 1 && hd_rows(z) == hd_rows(loss) && hd_rows(out) == hd_rows(z), HD_OP_CONFIDENCE, z, loss))
        hd_dispatch(s, &(struct hd_call){.op = HD_OP_CONFIDENCE, .n_out = 1, .out = {out}, .in = {z, loss}, .rows = target});
}
