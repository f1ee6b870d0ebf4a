/* latent_mtp.c: the MTP module of DeepSeek-V3 and V3.2: a further layer, behind the last, that guesses the token after next.
 *
 * Math     z = eh_proj [norm_e(embed(t[i+1])) | norm_h(h[i])], h: the model's output after its last norm;
 *          logits = head(norm(layer(z))) are of t[i+2]
 * Source   the DeepSeek-V3 technical report, 2.2, and README_WEIGHTS.md; the order of the halves, and h after the norm, as vLLM and SGLang run it
 * Traps    what the layer keeps at i needs token i + 1: every step completes the row before its first
 */
#include <stdio.h>
#include <string.h>

#include "model/latent.h"
#include "ops/learn.h"

#define DEPTH 8                       /* tokens proposed at most: behind the first one, the module is fed with its own output */

#define L(f) offsetof(struct hd_latent_layer, f)
#define NAME(own) "model.layers.%d." own "|layers.%d." own
#define BLK(gguf) "blk.%d.nextn." gguf

static const struct hd_weight_row rows[] = {
    {L(mtp.enorm), HD_W_VECTOR, 0, NAME("enorm.weight"), BLK("enorm.weight"), "D", NULL},
    {L(mtp.hnorm), HD_W_VECTOR, 0, NAME("hnorm.weight"), BLK("hnorm.weight"), "D", NULL},
    {L(mtp.eh_proj), HD_W_MATRIX, HD_W_FP8, NAME("eh_proj.weight"), BLK("eh_proj.weight"), "D,2*D", NULL},
    {L(mtp.norm), HD_W_VECTOR, 0, NAME("shared_head.norm.weight"), BLK("shared_head_norm.weight"), "D", NULL},
    {0, HD_W_MATRIX, HD_W_STORED_ONLY, NAME("embed_tokens.weight"), BLK("embed_tokens.weight"), "", NULL},      /* the model's own, once more */
    {0, HD_W_MATRIX, HD_W_STORED_ONLY, NAME("shared_head.head.weight"), BLK("shared_head_head.weight"), "", NULL},
};

bool hd_latent_has_mtp(const struct hd_model *m, int64_t n_layer)
{
    static const char *const names[] = {"model.layers.%d.eh_proj.weight", "layers.%d.eh_proj.weight", "blk.%d.nextn.eh_proj.weight"};
    bool found = false;
    char name[64];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    for (int i = 0; i < HD_LEN(names); i++) {
        snprintf(name, sizeof name, names[i], (int)n_layer);
        found = found || hd_store_find(&m->store, name);
    }
#pragma GCC diagnostic pop
    return found;
}

int hd_latent_mtp_list(struct hd_model *m, struct hd_latent *d, const struct hd_weight_row *layer_rows, int n_row, struct hd_err *err)
{
    struct hd_weight_row *all = hd_arena_alloc(&m->arena, sizeof rows + (size_t)n_row * sizeof *all);

    if (!all)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", m->store.path);
    memcpy(all, layer_rows, (size_t)n_row * sizeof *all);
    memcpy(all + n_row, rows, sizeof rows);
    d->list[1] = d->list[0];
    d->list[1].row = all;
    d->list[1].n_row = n_row + HD_LEN(rows);
    d->list[1].n_layer = 1;
    d->list[1].first_layer = d->n_layer;
    d->list[1].layers = &d->layer[d->n_layer];
    if (m->wants_draft)
        m->draft = (struct hd_draft){DEPTH, 1, 0, true};
    return HD_OK;
}

int hd_latent_mtp_parts(struct hd_latent *d, int first, struct hd_cache_part *part)
{
    int n = hd_mla_parts(&d->attn, (int)d->n_layer, part);

    d->layer[d->n_layer].part0 = first;
    for (int i = 0; i < n; i++)
        part[i].hint = part[i].behind = true;
    d->part_hidden = first + n;
    part[n] = (struct hd_cache_part){.name = "hidden", .layer = (int)d->n_layer, .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = d->d_model, .ratio = 1, .window = 1,
                                     .slack = 2 * DEPTH, .hint = true};
    return n + 1;
}

/* z[T, D] of what the model said of the tokens before, before[T, D], and the tokens themselves. */
static struct hd_tensor *input(struct hd_stream *s, const struct hd_latent *d, const struct hd_ragged *b, const struct hd_tensor *before)
{
    const struct hd_latent_layer *l = &d->layer[d->n_layer];
    struct hd_tensor *z = hd_new(s, HD_F32, b->n_tok, d->d_model), *both = hd_new(s, HD_F32, b->n_tok, 2 * d->d_model);
    struct hd_tensor *e = hd_slice(s, both, 0, d->d_model), *h = hd_slice(s, both, d->d_model, d->d_model);

    hd_embed(s, e, &d->embed, b);
    hd_rmsnorm(s, e, e, &l->mtp.enorm, d->norm_eps);
    hd_rmsnorm(s, h, before, &l->mtp.hnorm, d->norm_eps);
    hd_matmul(s, z, both, &l->mtp.eh_proj);
    return z;
}

static struct hd_tensor *rope_of(struct hd_stream *s, const struct hd_latent *d, const struct hd_ragged *slots)
{
    struct hd_tensor *rope = hd_new(s, HD_F32, slots->n_tok, d->attn.rope_dim);

    hd_rope_table(s, rope, slots, &d->inv_freq, d->rope_scale);
    return rope;
}

void hd_latent_mtp_keep(struct hd_stream *s, const struct hd_latent *d, const struct hd_ragged *b, const struct hd_tensor *x)
{
    const struct hd_latent_layer *l = &d->layer[d->n_layer];
    const struct hd_ragged *slots = hd_before(s, b);
    struct hd_stream_mark mark = hd_stream_mark(s);
    struct hd_tensor *h = hd_new(s, HD_F32, b->n_tok, d->d_model), *before = hd_new(s, HD_F32, b->n_tok, d->d_model), *z;

    hd_rmsnorm(s, h, x, &d->norm, d->norm_eps);
    hd_shift(s, before, h, b, d->part_hidden);
    hd_ring_put(s, h, b, d->part_hidden);
    z = input(s, d, b, before);
    hd_rmsnorm(s, z, z, &l->attn_norm, d->norm_eps);
    hd_mla_keep(s, &d->attn, &l->attn, slots, rope_of(s, d, slots), l->part0, z, (int)d->n_layer);
    hd_stream_rewind(s, mark);
}

/* At i it has what the model says of token i, and token i + 1, and is asked for token i + 2. Embedding and head are the model's and learn from it too. */
void hd_latent_mtp_learn(struct hd_stream *s, const struct hd_latent *d, const struct hd_ragged *b, const struct hd_tensor *x, const struct hd_tensor *rope)
{
    const int32_t *target = NULL;
    const struct hd_ragged *next = hd_ahead(s, b, 1, &target);
    struct hd_tensor *h = hd_new(s, HD_F32, b->n_tok, d->d_model), *u = hd_new(s, HD_F32, b->n_tok, d->d_model), *y = hd_new(s, HD_F32, b->n_tok, d->d_model);
    struct hd_tensor *loss = hd_new(s, HD_F32, b->n_tok, 1), *z;

    hd_rmsnorm(s, h, x, &d->norm, d->norm_eps);
    z = input(s, d, next, h);
    hd_latent_layer_run(s, d, (int)d->n_layer, b, rope, z, u, y);
    hd_rmsnorm(s, u, z, &d->layer[d->n_layer].mtp.norm, d->norm_eps);
    hd_token_loss(s, loss, u, d->head.n_dim ? &d->head : &d->embed, target);
    hd_learn_loss(s, HD_LEARN_DRAFT, loss, target);
}

void hd_latent_draft(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, struct hd_draft_out *out)
{
    const struct hd_latent *d = m->impl;
    const struct hd_ragged *slots = hd_before(s, b);
    struct hd_tensor *before = hd_new(s, HD_F32, b->n_tok, d->d_model), *u = hd_new(s, HD_F32, b->n_tok, d->d_model), *y = hd_new(s, HD_F32, b->n_tok, d->d_model), *z;

    *out = (struct hd_draft_out){.logits = hd_new(s, HD_F32, b->n_tok, d->n_vocab)};
    hd_shift(s, before, NULL, b, d->part_hidden);
    z = input(s, d, b, before);
    hd_latent_layer_run(s, d, (int)d->n_layer, slots, rope_of(s, d, slots), z, u, y);
    hd_rmsnorm(s, u, z, &d->layer[d->n_layer].mtp.norm, d->norm_eps);
    hd_ring_put(s, u, b, d->part_hidden);             /* stands for what the model will say of the token */
    hd_logits(s, out->logits, u, d->head.n_dim ? &d->head : &d->embed);
    hd_trace(s, out->logits, "draft.logits");
}

void hd_latent_each_draft(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    hd_bind_each(&((const struct hd_latent *)m->impl)->list[1], fn, arg);
}
