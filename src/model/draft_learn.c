/* draft_learn.c: see draft_learn.h. */
#include "model/draft_learn.h"

/* n integers of the step. */
static int32_t *ints(struct hd_stream *s, int64_t n)
{
    return hd_new(s, HD_I32, 1, n ? n : 1)->data;
}

static int64_t most_blocks(const struct hd_ragged *b, int64_t block)
{
    return b->n_tok / block + b->n_seq;
}

/* Row i of a block behind token t, whose sequence ends before token end. */
static void lay_row(const struct hd_dspark *d, const struct hd_ragged *b, const int32_t *target, int64_t t, int64_t end, int64_t i, int64_t r, int32_t *id, int32_t *pos, int32_t *before,
                    int32_t *wanted)
{
    int64_t at = t + 1 + i;

    id[r] = i ? (int32_t)d->noise : b->ids[t + 1];
    pos[r] = b->pos[t] + 1 + (int32_t)i;
    before[r] = at < end ? b->ids[at] : (int32_t)d->noise;
    wanted[r] = at < end ? target[at] : -1;
}

bool hd_draft_blocks(struct hd_stream *s, const struct hd_dspark *d, const struct hd_ragged *b, struct hd_draft_blocks *k)
{
    int64_t most = most_blocks(b, d->block), B = d->block, rows = most * B;
    int32_t *id = ints(s, rows), *pos = ints(s, rows), *before = ints(s, rows);
    struct hd_span *span = (struct hd_span *)ints(s, most * (int64_t)(sizeof *span / 4));

    *k = (struct hd_draft_blocks){.anchor = ints(s, most), .target = ints(s, rows), .n = s->be ? 0 : most};
    s->used += 2 * (((int64_t)sizeof *k->b + 63) / 64 * 64);
    if (!hd_stream_ok(s) || !(k->b = hd_arena_alloc(s->step, sizeof *k->b)) || !(k->before = hd_arena_alloc(s->step, sizeof *k->b))) {
        hd_stream_fail(s, HD_ERR_MEMORY, "step: no memory for %lld draft blocks", (long long)most);
        return false;
    }
    for (int64_t q = 0; q < b->n_seq && s->be; q++) {
        const struct hd_span *sp = &b->span[q];
        int64_t end = sp->tok0 + sp->n_tok;

        for (int64_t t = sp->tok0 + s->learn->draw % B; t + 1 < end; t += B) {
            for (int64_t i = 0; i < B; i++)
                lay_row(d, b, s->target, t, end, i, k->n * B + i, id, pos, before, k->target);
            span[k->n] = (struct hd_span){.tok0 = k->n * B, .n_tok = B};
            k->anchor[k->n++] = (int32_t)t;
        }
    }
    *k->b = (struct hd_ragged){.n_tok = k->n * B, .n_seq = k->n, .ids = id, .pos = pos, .span = span, .max_pos = b->max_pos + B};
    *k->before = *k->b;
    k->before->ids = before;
    return k->n > 0;
}

void hd_draft_losses(struct hd_stream *s, const struct hd_draft_blocks *k, const struct hd_tensor *y, const struct hd_draft_head *d)
{
    int64_t n = k->b->n_tok, D = hd_cols(y), rank = hd_cols(d->markov_embed);
    struct hd_tensor *yn = hd_new(s, HD_F32, n, D), *m = hd_new(s, HD_F32, n, rank), *loss = hd_new(s, HD_F32, n, 1), *seen, *z, *doubt;

    hd_rmsnorm(s, yn, y, d->norm, d->norm_eps);
    hd_embed(s, m, d->markov_embed, k->before);
    hd_draft_loss(s, loss, yn, d->head, m, d->markov_head, k->target);
    hd_learn_loss(s, HD_LEARN_DRAFT, loss, k->target);
    if (!hd_learns(s, HD_LEARN_CONFIDENCE))
        return;
    seen = hd_new(s, HD_F32, n, D + rank);
    z = hd_new(s, HD_F32, n, 1);
    doubt = hd_new(s, HD_F32, n, 1);
    hd_detach(s, hd_slice(s, seen, 0, D), y);
    hd_detach(s, hd_slice(s, seen, D, rank), m);
    hd_linear(s, z, seen, d->confidence, 0);
    hd_confidence_loss(s, doubt, z, loss, k->target);
    hd_learn_loss(s, HD_LEARN_CONFIDENCE, doubt, k->target);
}
