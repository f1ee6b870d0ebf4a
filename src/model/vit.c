/* vit.c: see vit.h. */
#include "model/vit.h"

#include <string.h>

#define G(f) offsetof(struct hd_vit, f)
#define L(f) offsetof(struct hd_vit_block, f)
#define M HD_W_MATRIX
#define V HD_W_VECTOR

static const struct hd_weight_row rows[] = {
    {G(patch), M, HD_W_GLOBAL, "vision.patch_embed.proj.weight", NULL, "Dv,3*P*P", NULL},
    {G(patch_bias), V, HD_W_GLOBAL, "vision.patch_embed.proj.bias", NULL, "Dv", NULL},
    {G(norm), V, HD_W_GLOBAL, "vision.norm.weight", NULL, "Dv", NULL},
    {G(a1), M, HD_W_GLOBAL, "aligner.w1.weight", NULL, "D,Dv*R*R", NULL},
    {G(a1_bias), V, HD_W_GLOBAL, "aligner.w1.bias", NULL, "D", NULL},
    {G(a2), M, HD_W_GLOBAL, "aligner.w2.weight", NULL, "D,D", NULL},
    {G(a2_bias), V, HD_W_GLOBAL, "aligner.w2.bias", NULL, "D", NULL},
    {G(start), V, HD_W_GLOBAL, "image_start", NULL, "D", NULL},
    {G(newline), V, HD_W_GLOBAL, "image_newline", NULL, "D", NULL},
    {G(end), V, HD_W_GLOBAL, "image_end", NULL, "D", NULL},
    {G(pad), V, HD_W_GLOBAL | HD_W_OPTIONAL, "image_pad", NULL, "D", NULL},
    {L(norm1), V, 0, "vision.blocks.%d.norm1.weight", NULL, "Dv", NULL},
    {L(norm2), V, 0, "vision.blocks.%d.norm2.weight", NULL, "Dv", NULL},
    {L(wqkv), M, 0, "vision.blocks.%d.attn.wqkv.weight", NULL, "3*Dv,Dv", NULL},
    {L(wqkv_bias), V, 0, "vision.blocks.%d.attn.wqkv.bias", NULL, "3*Dv", NULL},
    {L(wo), M, 0, "vision.blocks.%d.attn.wo.weight", NULL, "Dv,Dv", NULL},
    {L(wo_bias), V, 0, "vision.blocks.%d.attn.wo.bias", NULL, "Dv", NULL},
    {L(w1), M, 0, "vision.blocks.%d.mlp.w1.weight", NULL, "2*F,Dv", NULL},
    {L(w2), M, 0, "vision.blocks.%d.mlp.w2.weight", NULL, "Dv,F", NULL},
};

int hd_vit_list(struct hd_model *m, struct hd_vit *v, int64_t d_model, struct hd_weight_list *list, struct hd_err *err)
{
    const json_t *c = json_object_get(m->store.config, "vision_config");
    const char *f = m->store.config_path;
    bool nested = json_is_object(c);
    int64_t width, hidden, patch, down;

    memset(list, 0, sizeof *list);
    if (!nested)
        c = m->store.config;
    if (!json_object_get(c, nested ? "hidden_size" : "vision_dim") || (!m->planned && !hd_store_find(&m->store, "vision.norm.weight")))
        return HD_OK;
    HD_TRY(hd_json_int(c, nested ? "num_hidden_layers" : "vision_n_layers", 1, 1024, &v->n_block, f, err));
    HD_TRY(hd_json_int(c, nested ? "hidden_size" : "vision_dim", 1, 1 << 20, &width, f, err));
    HD_TRY(hd_json_int(c, nested ? "intermediate_size" : "vision_inter_dim", 1, 1 << 20, &hidden, f, err));
    HD_TRY(hd_json_int_or(c, nested ? "patch_size" : "vision_patch_size", 1, 256, 14, &patch, f, err));
    HD_TRY(hd_json_int_or(c, nested ? "downsample_ratio" : "vision_downsample_ratio", 1, 64, 3, &down, f, err));
    if (!(v->block = hd_arena_zalloc(&m->arena, (size_t)v->n_block * sizeof *v->block)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld vision blocks", f, (long long)v->n_block);
    memcpy(v->sym, (struct hd_symbol[]){{"D", d_model}, {"Dv", width}, {"F", hidden}, {"P", patch}, {"R", down}}, 5 * sizeof *v->sym);
    *list = (struct hd_weight_list){.row = rows, .n_row = HD_LEN(rows), .sym = v->sym, .n_sym = 5, .n_layer = v->n_block, .globals = v, .layers = v->block,
                                    .layer_bytes = sizeof *v->block};
    return HD_OK;
}
