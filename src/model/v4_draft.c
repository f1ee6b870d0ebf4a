/* v4_draft.c: the draft modules of DeepSeek-V4: MTP (base and April checkpoints), and DSpark.
 *
 * Math     MTP: streams X = e_proj norm(embed(t[i+1])) on all of them + h_proj norm(X[i]), then a layer of window attention, a head's collapse and norm, the
 *          model's head; DSpark: dspark.h
 * Source   the published inference code and model cards
 * Traps    what the layer keeps at i needs token i + 1: every step completes the row before its first; DSpark of V4 taps what layers give (V4.1: what they get)
 */
#include <stdio.h>

#include "model/draft_learn.h"
#include "model/v4.h"

#define MTP_DEPTH 8                   /* tokens that one module proposes, fed with its own streams behind the first */

int hd_v4_draft_find(struct hd_model *m, struct hd_v4 *d, struct hd_err *err)
{
    static const char *const fused[] = {"model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.ffn.experts.gate_up_proj", "blk.0.ffn_gate_up_exps.weight"};
    char name[64];

    d->dspark = hd_store_find(&m->store, "mtp.0.main_proj.weight") != NULL;
    for (d->n_mtp = 0; d->n_mtp < 16; d->n_mtp++) {
        snprintf(name, sizeof name, "mtp.%d.attn_norm.weight", (int)d->n_mtp);
        if (!hd_store_find(&m->store, name))
            break;
    }
    if (m->planned) {
        d->dspark = json_object_get(m->store.config, "dspark_target_layer_ids") != NULL;
        HD_TRY(hd_json_int_or(m->store.config, "num_nextn_predict_layers", 0, 16, 0, &d->n_mtp, m->store.config_path, err));
    }
    HD_TRY(hd_dspark_config(&d->spark, m->store.config, d->n_layer, d->n_vocab, d->dspark && d->n_mtp && (m->wants_draft || m->wants_learn), m->store.config_path, err));
    if (d->n_mtp && m->wants_draft)
        m->draft = d->dspark ? (struct hd_draft){d->spark.block, d->spark.block, (int32_t)d->spark.noise, false} : (struct hd_draft){MTP_DEPTH, 1, 0, true};
    m->draft_learns = m->wants_learn && d->n_mtp;
    for (int i = 0; i < HD_LEN(fused); i++)
        d->fused = d->fused || hd_store_find(&m->store, fused[i]);
    if (d->n_mtp && !(d->mtp = hd_arena_zalloc(&m->arena, (size_t)d->n_mtp * sizeof *d->mtp)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld draft modules", m->store.path, (long long)d->n_mtp);
    return HD_OK;
}

int hd_v4_draft_parts(const struct hd_model *m, struct hd_v4 *d, int first, struct hd_cache_part *part)
{
    int n = 0;

    for (int64_t i = 0; i < d->n_mtp; i++)
        d->mtp[i].part0 = -1;                         /* learns from whole sequences */
    for (int64_t i = 0; m->draft.depth && i < (d->dspark ? d->n_mtp : 1); i++) {
        d->mtp[i].part0 = first + n;
        hd_csa_parts(&d->attn, 0, (int)(d->n_layer + i), part + n);
        part[n++].hint = true;
    }
    if (m->draft.depth && !d->dspark) {
        d->part_stream = first + n;
        part[n++] = (struct hd_cache_part){.name = "streams", .layer = (int)d->n_layer, .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = d->mhc.n_hc * d->d_model, .ratio = 1,
                                           .window = 1, .slack = 2 * MTP_DEPTH, .hint = true};
    }
    return n;
}

/* Positions of a draft batch, or of one whose latents are kept. */
static void draft_begin(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, bool block, struct hd_csa_step *st)
{
    *st = (struct hd_csa_step){.b = b, .rope = hd_new(s, HD_F32, b->n_tok, d->attn.rope_dim), .block = block};
    hd_rope_table(s, st->rope, b, &d->inv_freq, 1);
}

/* The streams of x[T, C D] as rows: [T C, D]. */
static struct hd_tensor *streams(struct hd_stream *s, const struct hd_tensor *x, int64_t hc)
{
    struct hd_tensor *v = hd_slice(s, x, 0, hd_cols(x) / hc);

    if (hd_stream_ok(s))
        *v = hd_view2(x->type, x->data, hd_rows(x) * hc, hd_cols(x) / hc);
    return v;
}

/* z[T, C D] of the streams of the tokens before, before[T, C D], and the tokens themselves. */
static void mtp_input(struct hd_stream *s, const struct hd_v4 *d, const struct hd_v4_layer *l, const struct hd_ragged *b, const struct hd_tensor *before, struct hd_tensor *z)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    int64_t n = b->n_tok, hc = d->mhc.n_hc, D = d->d_model;
    struct hd_tensor *e = hd_new(s, HD_F32, n, D), *pe = hd_new(s, HD_F32, n, D), *all = hd_new(s, HD_F32, n, hc * D);

    hd_embed(s, e, &d->embed, b);
    hd_rmsnorm(s, e, e, &l->enorm, d->norm_eps);
    hd_bf16(s, e);
    hd_linear(s, pe, e, &l->e_proj, d->attn.act_block);
    hd_rmsnorm(s, all, before, &l->hnorm, d->norm_eps);
    hd_bf16(s, all);
    hd_linear(s, streams(s, z, hc), streams(s, all, hc), &l->h_proj, d->attn.act_block);
    all = hd_new(s, HD_F32, n, hc * D);
    hd_copies(s, all, pe);
    hd_add(s, z, z, all);
    hd_bf16(s, z);
    hd_stream_rewind(s, mark);
}

/* MTP: after the last layer. Its window has at i what the streams of token i and the token behind it make of each other: with every token, the row of
 * the one before is complete. */
static void mtp_keep(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, const struct hd_tensor *x)
{
    const struct hd_v4_layer *l = &d->mtp[0];
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *before = hd_new(s, HD_F32, b->n_tok, hd_cols(x));
    struct hd_v4_work k;

    hd_v4_work_new(s, d, b->n_tok, &k);
    hd_shift(s, before, x, b, d->part_stream);
    hd_ring_put(s, x, b, d->part_stream);
    mtp_input(s, d, l, b, before, k.x);
    draft_begin(s, d, hd_before(s, b), false, &k.st);
    hd_v4_enter(s, d, &l->hc_attn, &l->attn_norm, "attn", (int)d->n_layer, &k);
    hd_csa_keep(s, &d->attn, &l->attn, l->part0, &k.st, k.u, (int)d->n_layer);
    hd_stream_rewind(s, mark);
}

static void mtp_draft(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, struct hd_draft_out *out)
{
    const struct hd_v4_layer *l = &d->mtp[0];
    const struct hd_ragged *slots = hd_before(s, b);
    struct hd_tensor *before = hd_new(s, HD_F32, b->n_tok, d->mhc.n_hc * d->d_model);
    struct hd_v4_work k;

    *out = (struct hd_draft_out){.logits = hd_new(s, HD_F32, b->n_tok, d->n_vocab)};
    hd_v4_work_new(s, d, b->n_tok, &k);
    hd_shift(s, before, NULL, b, d->part_stream);
    mtp_input(s, d, l, b, before, k.x);
    draft_begin(s, d, slots, false, &k.st);
    hd_v4_layer_run(s, d, l, NULL, slots, (int)d->n_layer, &k);
    hd_ring_put(s, k.x, b, d->part_stream);           /* stands for the token's own streams until the model has seen it */
    hd_v4_head(s, d, &l->norm, hd_v4_collapse(s, d, &l->hc_head, k.x), out->logits);
    hd_trace(s, out->logits, "draft.logits");
}

/* MTP while it learns: module k sees the streams behind module k - 1 (the model's, for the first) and the token k + 1 places on, and is asked for the one after it.
 * Embedding and head are the model's and learn from it too, as in V3. */
static void mtp_learn(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, const struct hd_tensor *x)
{
    for (int i = 0; i < d->n_mtp && hd_stream_ok(s); i++) {
        const struct hd_v4_layer *l = &d->mtp[i];
        const int32_t *target = NULL;
        const struct hd_ragged *next = hd_ahead(s, b, i + 1, &target);
        struct hd_tensor *loss = hd_new(s, HD_F32, b->n_tok, 1), *u;
        struct hd_v4_work k;

        hd_v4_work_new(s, d, b->n_tok, &k);
        mtp_input(s, d, l, next, x, k.x);
        draft_begin(s, d, b, false, &k.st);
        hd_v4_layer_run(s, d, l, NULL, b, (int)d->n_layer + i, &k);
        u = hd_v4_collapse(s, d, &l->hc_head, k.x);
        hd_rmsnorm(s, u, u, &l->norm, d->norm_eps);
        hd_bf16(s, u);
        hd_token_loss(s, loss, u, &d->head, target);
        hd_learn_loss(s, HD_LEARN_DRAFT, loss, target);
        x = k.x;
    }
}

/* DSpark: the latents of all stages, from the taps. */
static void spark_keep(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, const struct hd_tensor *taps)
{
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *main = hd_new(s, HD_F32, b->n_tok, d->d_model);
    struct hd_csa_step st;

    hd_dspark_main(s, main, taps, &d->mtp[0].main_proj, &d->mtp[0].main_norm, d->attn.act_block, d->norm_eps);
    draft_begin(s, d, b, false, &st);
    for (int i = 0; i < d->n_mtp; i++)
        hd_csa_keep(s, &d->attn, &d->mtp[i].attn, d->mtp[i].part0, &st, main, (int)d->n_layer + i);
    hd_stream_rewind(s, mark);
}

/* All stages on the tokens in k->u; what the last collapses for its head. */
static struct hd_tensor *spark_stages(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, struct hd_v4_work *k)
{
    hd_copies(s, k->x, k->u);
    for (int i = 0; i < d->n_mtp; i++) {
        hd_v4_layer_run(s, d, &d->mtp[i], NULL, b, (int)d->n_layer + i, k);
        hd_trace(s, k->x, "draft.stage.%d", i);
    }
    return hd_v4_collapse(s, d, &d->mtp[d->n_mtp - 1].hc_head, k->x);
}

static void spark_draft(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, struct hd_draft_out *out)
{
    const struct hd_v4_layer *last = &d->mtp[d->n_mtp - 1];
    struct hd_tensor *u;
    struct hd_v4_work k;

    *out = (struct hd_draft_out){.logits = hd_new(s, HD_F32, b->n_tok, d->n_vocab), .y = hd_new(s, HD_F32, b->n_tok, d->d_model)};
    hd_v4_work_new(s, d, b->n_tok, &k);
    hd_embed(s, k.u, &d->embed, b);
    draft_begin(s, d, b, true, &k.st);
    u = spark_stages(s, d, b, &k);
    hd_copies(s, out->y, u);
    hd_v4_head(s, d, &last->norm, u, out->logits);
}

/* DSpark while it learns (draft_learn.h): blocks all over the batch, behind detached taps. */
static void spark_learn(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, const struct hd_tensor *taps)
{
    const struct hd_v4_layer *last = &d->mtp[d->n_mtp - 1];
    struct hd_tensor *seen = hd_new(s, HD_F32, b->n_tok, hd_cols(taps)), *main = hd_new(s, HD_F32, b->n_tok, d->d_model), *e;
    struct hd_draft_blocks blocks;
    struct hd_csa_blocks window;
    struct hd_csa_step plain;
    struct hd_v4_work k;

    if (!hd_draft_blocks(s, &d->spark, b, &blocks))
        return;
    hd_detach(s, seen, taps);
    hd_dspark_main(s, main, seen, &d->mtp[0].main_proj, &d->mtp[0].main_norm, d->attn.act_block, d->norm_eps);
    draft_begin(s, d, b, false, &plain);
    window = (struct hd_csa_blocks){b, main, plain.rope, blocks.anchor, d->spark.block};
    hd_v4_work_new(s, d, blocks.b->n_tok, &k);
    e = hd_new(s, HD_F32, blocks.b->n_tok, d->d_model);
    hd_embed(s, e, &d->embed, blocks.b);
    hd_detach(s, k.u, e);
    draft_begin(s, d, blocks.b, true, &k.st);
    k.st.learn = &window;
    hd_draft_losses(s, &blocks, spark_stages(s, d, blocks.b, &k),
                    &(struct hd_draft_head){&last->norm, &d->head, &last->markov_w1, &last->markov_w2, &last->confidence, d->norm_eps});
}

void hd_v4_draft_keep(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, const struct hd_tensor *x, const struct hd_tensor *taps)
{
    if (d->dspark)
        spark_keep(s, d, b, taps);
    else
        mtp_keep(s, d, b, x);
}

void hd_v4_draft_learn(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, const struct hd_tensor *x, const struct hd_tensor *taps)
{
    if (d->dspark)
        spark_learn(s, d, b, taps);
    else
        mtp_learn(s, d, b, x);
}

void hd_v4_draft(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, struct hd_draft_out *out)
{
    const struct hd_v4 *d = m->impl;

    if (d->dspark)
        spark_draft(s, d, b, out);
    else
        mtp_draft(s, d, b, out);
}

struct hd_tensor *hd_v4_draft_next(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *prev, const int32_t *which, const struct hd_draft_out *of,
                                    struct hd_tensor **confidence)
{
    const struct hd_v4 *d = m->impl;
    const struct hd_v4_layer *last = &d->mtp[d->n_mtp - 1];

    return hd_dspark_next(s, &last->markov_w1, &last->markov_w2, &last->confidence, prev, which, of, confidence);
}
