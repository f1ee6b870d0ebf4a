/* draft_learn.c: see draft_learn.h. */
#include "model/draft_learn.h"

#include <math.h>

#include "model/attn_csa.h"

int hd_draft_learn_config(struct hd_draft_learn *d, const struct hd_moe_block_hp *moe, const json_t *c, int64_t n_layer, int64_t n_vocab, const char *f, struct hd_err *err)
{
    const json_t *taps = json_object_get(c, "dspark_target_layer_ids");
    int64_t n_expert, n_used;

    HD_TRY(hd_json_int_or(c, "dspark_block_size", 1, 64, 5, &d->block, f, err));
    HD_TRY(hd_json_int_or(c, "dspark_noise_token_id", 0, n_vocab - 1, n_vocab - 1, &d->noise, f, err));
    HD_TRY(hd_json_int_or(c, "dspark_n_routed_experts", 1, 4096, moe->gate.n_expert, &n_expert, f, err));
    HD_TRY(hd_json_int_or(c, "dspark_num_experts_per_tok", 1, 64, moe->gate.n_used < n_expert ? moe->gate.n_used : n_expert, &n_used, f, err));
    if (n_used > n_expert)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: dspark_num_experts_per_tok: found %lld of %lld experts", f, (long long)n_used, (long long)n_expert);
    d->moe = *moe;
    d->moe.gate.n_expert = d->moe.moe.n_expert = n_expert;
    d->moe.gate.n_used = n_used;
    d->n_tap = json_array_size(taps) ? (int64_t)json_array_size(taps) : 3;
    if (d->n_tap > HD_DRAFT_TAPS || (!json_array_size(taps) && n_layer < 3))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: dspark_target_layer_ids: found %lld of %lld layers; expected at most %d", f, (long long)d->n_tap, (long long)n_layer, HD_DRAFT_TAPS);
    for (int64_t i = 0; i < d->n_tap; i++) {
        const json_t *v = json_array_get(taps, (size_t)i);

        d->tap[i] = taps ? (json_is_integer(v) ? json_integer_value(v) : -1) : n_layer - d->n_tap + i;
        if (d->tap[i] < 0 || d->tap[i] >= n_layer)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: dspark_target_layer_ids: expected layers below %lld", f, (long long)n_layer);
    }
    return HD_OK;
}

void hd_draft_learn_tap(struct hd_stream *s, const struct hd_draft_learn *d, struct hd_tensor *taps, const struct hd_tensor *x, int64_t layer)
{
    int64_t D = hd_cols(x) / d->mhc->n_hc;

    for (int64_t i = 0; i < d->n_tap; i++)
        if (d->tap[i] == layer) {
            struct hd_tensor *mean = hd_new(s, HD_F32, hd_rows(x), D);

            hd_mhc_mean(s, mean, x, d->mhc->n_hc);
            hd_detach(s, hd_slice(s, taps, i * D, D), mean);
        }
}

/* ---- the blocks of a batch ---- */

struct blocks {
    struct hd_ragged *b;              /* every block a sequence of its own; in the step's arena, since the tape keeps it */
    struct hd_ragged *before;         /* the same rows, each the token before what it is asked for */
    int32_t *anchor, *target;
    int64_t n;
};

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
static void lay_row(const struct hd_draft_learn *d, const struct hd_ragged *b, const int32_t *target, int64_t t, int64_t end, int64_t i, int64_t r, int32_t *id, int32_t *pos, int32_t *before,
                    int32_t *wanted)
{
    int64_t at = t + 1 + i;

    id[r] = i ? (int32_t)d->noise : b->ids[t + 1];
    pos[r] = b->pos[t] + 1 + (int32_t)i;
    before[r] = at < end ? b->ids[at] : (int32_t)d->noise;
    wanted[r] = at < end ? target[at] : -1;
}

static bool lay_blocks(struct hd_stream *s, const struct hd_draft_learn *d, const struct hd_ragged *b, struct blocks *k)
{
    int64_t most = most_blocks(b, d->block), B = d->block, rows = most * B;
    int32_t *id = ints(s, rows), *pos = ints(s, rows), *before = ints(s, rows);
    struct hd_span *span = (struct hd_span *)ints(s, most * (int64_t)(sizeof *span / 4));

    *k = (struct blocks){.anchor = ints(s, most), .target = ints(s, rows), .n = s->be ? 0 : most};
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

/* ---- stages ---- */

static void rotate(struct hd_stream *s, const struct hd_csa2_hp *a, struct hd_tensor *x, const struct hd_tensor *table, bool inverse)
{
    hd_rope_at(s, x, table, a->head_dim, true, a->head_dim - a->rope_dim, inverse);
}

static struct hd_tensor *latents(struct hd_stream *s, const struct hd_csa2_hp *a, const struct hd_csa2_weights *w, const struct hd_tensor *x, const struct hd_tensor *rope)
{
    struct hd_tensor *kv = hd_new(s, HD_F32, hd_rows(x), a->head_dim);

    hd_linear(s, kv, x, &w->wkv, a->act_block);
    hd_rmsnorm(s, kv, kv, &w->kv_norm, a->norm_eps);
    rotate(s, a, kv, rope, false);
    return kv;
}

static void attention(struct hd_stream *s, const struct hd_draft_learn *d, const struct hd_csa2_weights *w, const struct hd_ragged *b, const struct blocks *k, const struct hd_tensor *main,
                      const struct hd_tensor *rope, const struct hd_tensor *rope_rows, const struct hd_tensor *u, struct hd_tensor *y)
{
    const struct hd_csa2_hp *a = d->attn;
    struct hd_attend_block_hp hp = {a->n_head, a->head_dim, a->window, d->block, (float)(1 / sqrt((double)a->head_dim))};
    int64_t n = hd_rows(u), wide = a->n_head * a->head_dim;
    struct hd_tensor *qr = hd_new(s, HD_F32, n, a->q_rank), *q = hd_new(s, HD_F32, n, wide), *o = hd_new(s, HD_F32, n, wide);

    hd_linear(s, qr, u, &w->wq_a, a->act_block);
    hd_rmsnorm(s, qr, qr, &w->q_norm, a->norm_eps);
    hd_linear(s, q, qr, &w->wq_b, a->act_block);
    rotate(s, a, q, rope_rows, false);
    hd_attend_block(s, o, q, latents(s, a, w, u, rope_rows), latents(s, a, w, main, rope), &w->sink, b, k->anchor, &hp);
    rotate(s, a, o, rope_rows, true);
    hd_grouped_out(s, o, &w->wo_a, &w->wo_b, a->o_groups, a->act_block, y, -1);
}

static void ask(struct hd_stream *s, const struct hd_draft_learn *d, const struct blocks *k, const struct hd_tensor *y)
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

void hd_draft_learn(struct hd_stream *s, const struct hd_draft_learn *d, const struct hd_ragged *b, const struct hd_tensor *taps, const struct hd_tensor *rope)
{
    int64_t hc = d->mhc->n_hc, D = hd_cols(taps) / d->n_tap, n;
    struct hd_tensor *main, *x, *u, *y, *mix_a, *mix_f, *rows;
    struct blocks k;

    if (!lay_blocks(s, d, b, &k))
        return;
    n = k.b->n_tok;
    main = hd_new(s, HD_F32, b->n_tok, D);
    x = hd_new(s, HD_F32, n, hc * D);
    u = hd_new(s, HD_F32, n, D);
    y = hd_new(s, HD_F32, n, D);
    mix_a = hd_new(s, HD_F32, n, hc * (2 + hc));
    mix_f = hd_new(s, HD_F32, n, hc * (2 + hc));
    rows = hd_new(s, HD_F32, n, d->attn->rope_dim);
    hd_linear(s, main, taps, d->main_proj, d->attn->act_block);
    hd_rmsnorm(s, main, main, d->main_norm, d->norm_eps);
    hd_rope_table(s, rows, k.b, d->inv_freq, 1);
    hd_embed(s, y, d->embed, k.b);
    hd_detach(s, u, y);
    hd_copies(s, x, u);
    for (int64_t i = 0; i < d->n_stage; i++) {
        const struct hd_draft_stage *l = &d->stage[i];

        hd_mhc_mix(s, mix_a, x, &l->hc_attn->fn, &l->hc_attn->base, &l->hc_attn->scale, d->mhc);
        hd_mhc_pre(s, u, x, i ? mix_f : NULL, hc);
        hd_rmsnorm(s, u, u, l->attn_norm, d->norm_eps);
        attention(s, d, l->attn, b, &k, main, rope, rows, u, y);
        hd_mhc_post(s, x, y, mix_a, hc);
        hd_mhc_mix(s, mix_f, x, &l->hc_ffn->fn, &l->hc_ffn->base, &l->hc_ffn->scale, d->mhc);
        hd_mhc_pre(s, u, x, mix_a, hc);
        hd_rmsnorm(s, u, u, l->ffn_norm, d->norm_eps);
        hd_moe_block(s, &d->moe, l->ffn, k.b, u, y, -1);
        hd_mhc_post(s, x, y, mix_f, hc);
    }
    hd_mhc_pre(s, u, x, mix_f, hc);
    ask(s, d, &k, u);
}
