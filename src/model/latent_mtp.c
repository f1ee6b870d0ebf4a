/* latent_mtp.c: the MTP module of DeepSeek-V3 and V3.2 (mtp.h): its weights, and its layer, which is like any of the model's.
 *
 * Source   README_WEIGHTS.md of DeepSeek-V3: names, and that embedding and head are the model's once more
 */
#include <stdio.h>
#include <string.h>

#include "model/latent.h"

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

static const struct hd_mtp_weights *weights(const void *arch, int i)
{
    const struct hd_latent *d = arch;

    return &d->layer[d->n_layer + i].mtp;
}

static struct hd_tensor *rope_of(struct hd_stream *s, const struct hd_latent *d, const struct hd_ragged *b)
{
    struct hd_tensor *rope = hd_new(s, HD_F32, b->n_tok, d->attn.rope_dim);

    hd_rope_table(s, rope, b, &d->inv_freq, d->rope_scale);
    return rope;
}

static void run(struct hd_stream *s, const void *arch, int i, const struct hd_ragged *b, struct hd_tensor *z)
{
    const struct hd_latent *d = arch;
    struct hd_tensor *rope = rope_of(s, d, b), *u = hd_new(s, HD_F32, b->n_tok, d->d_model), *y = hd_new(s, HD_F32, b->n_tok, d->d_model);

    hd_latent_layer_run(s, d, (int)d->n_layer + i, b, rope, z, u, y);
}

static void keep(struct hd_stream *s, const void *arch, int i, const struct hd_ragged *b, const struct hd_tensor *z)
{
    const struct hd_latent *d = arch;
    const struct hd_latent_layer *l = &d->layer[d->n_layer + i];
    struct hd_tensor *u = hd_new(s, HD_F32, b->n_tok, d->d_model);

    hd_rmsnorm(s, u, z, &l->attn_norm, d->norm_eps);
    hd_mla_keep(s, &d->attn, &l->attn, b, rope_of(s, d, b), l->part0, u, (int)d->n_layer + i);
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
        m->draft = hd_mtp_draft_kind();
    return HD_OK;
}

int hd_latent_mtp_parts(struct hd_latent *d, int first, struct hd_cache_part *part)
{
    int n = hd_mla_parts(&d->attn, (int)d->n_layer, part);

    d->layer[d->n_layer].part0 = first;
    d->mtp = (struct hd_mtp){1, d->d_model, d->n_vocab, d->norm_eps, &d->embed, &d->norm, d->head.n_dim ? &d->head : &d->embed, .run = run, .keep = keep, .weights = weights, .arch = d};
    return n + hd_mtp_part(&d->mtp, (int)d->n_layer, first + n, part, n);
}

void hd_latent_draft(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, struct hd_draft_out *out)
{
    hd_mtp_draft(s, &((const struct hd_latent *)m->impl)->mtp, b, out);
}

void hd_latent_each_draft(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    hd_bind_each(&((const struct hd_latent *)m->impl)->list[1], fn, arg);
}
