/* mtp.c: see mtp.h. */
#include "model/mtp.h"

#include "ops/learn.h"

#define DEPTH 8                       /* tokens proposed at most */

struct hd_draft hd_mtp_draft_kind(void)
{
    return (struct hd_draft){DEPTH, 1, 0, true};
}

int hd_mtp_part(struct hd_mtp *d, int layer, int part_hidden, struct hd_cache_part *part, int n_part)
{
    for (int i = 0; i < n_part; i++) {
        part[i].hint = true;
        part[i].behind = part[i].kind == HD_PART_PAGED;
    }
    d->part_hidden = part_hidden;
    part[n_part] = (struct hd_cache_part){.name = "hidden", .layer = layer, .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = d->d_model, .ratio = 1, .window = 1,
                                          .slack = 2 * DEPTH, .hint = true};
    return 1;
}

/* z[T, D] of what was said of the tokens before, before[T, D], and the tokens themselves. */
static struct hd_tensor *input(struct hd_stream *s, const struct hd_mtp *d, int i, const struct hd_ragged *b, const struct hd_tensor *before)
{
    const struct hd_mtp_weights *w = d->weights(d->arch, i);
    struct hd_tensor *z = hd_new(s, HD_F32, b->n_tok, d->d_model), *both = hd_new(s, HD_F32, b->n_tok, 2 * d->d_model);
    struct hd_tensor *e = hd_slice(s, both, 0, d->d_model), *h = hd_slice(s, both, d->d_model, d->d_model);

    hd_embed(s, e, d->embed, b);
    hd_rmsnorm(s, e, e, &w->enorm, d->norm_eps);
    hd_rmsnorm(s, h, before, &w->hnorm, d->norm_eps);
    hd_matmul(s, z, both, &w->eh_proj);
    return z;
}

void hd_mtp_keep(struct hd_stream *s, const struct hd_mtp *d, const struct hd_ragged *b, const struct hd_tensor *x)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *h = hd_new(s, HD_F32, b->n_tok, d->d_model), *before = hd_new(s, HD_F32, b->n_tok, d->d_model);

    hd_rmsnorm(s, h, x, d->norm, d->norm_eps);
    hd_shift(s, before, h, b, d->part_hidden);
    hd_ring_put(s, h, b, d->part_hidden);
    d->keep(s, d->arch, 0, hd_before(s, b), input(s, d, 0, b, before));
    hd_stream_rewind(s, mark);
}

void hd_mtp_learn(struct hd_stream *s, const struct hd_mtp *d, const struct hd_ragged *b, const struct hd_tensor *x)
{
    struct hd_tensor *h = hd_new(s, HD_F32, b->n_tok, d->d_model);

    hd_rmsnorm(s, h, x, d->norm, d->norm_eps);
    for (int i = 0; i < d->n && hd_stream_ok(s); i++) {
        const int32_t *target = NULL;
        const struct hd_ragged *next = hd_ahead(s, b, i + 1, &target);
        struct hd_tensor *loss = hd_new(s, HD_F32, b->n_tok, 1), *z = input(s, d, i, next, h);

        d->run(s, d->arch, i, b, z);
        h = hd_new(s, HD_F32, b->n_tok, d->d_model);
        hd_rmsnorm(s, h, z, &d->weights(d->arch, i)->norm, d->norm_eps);
        hd_token_loss(s, loss, h, d->head, target);
        hd_learn_loss(s, HD_LEARN_DRAFT, loss, target);
    }
}

void hd_mtp_draft(struct hd_stream *s, const struct hd_mtp *d, const struct hd_ragged *b, struct hd_draft_out *out)
{
    struct hd_tensor *before = hd_new(s, HD_F32, b->n_tok, d->d_model), *u = hd_new(s, HD_F32, b->n_tok, d->d_model), *z;

    *out = (struct hd_draft_out){.logits = hd_new(s, HD_F32, b->n_tok, d->n_vocab)};
    hd_shift(s, before, NULL, b, d->part_hidden);
    z = input(s, d, 0, b, before);
    d->run(s, d->arch, 0, hd_before(s, b), z);
    hd_rmsnorm(s, u, z, &d->weights(d->arch, 0)->norm, d->norm_eps);
    hd_ring_put(s, u, b, d->part_hidden);             /* stands for what the model will say of the token */
    hd_logits(s, out->logits, u, d->head);
    hd_trace(s, out->logits, "draft.logits");
}
