/* vit.h: the vision tower of DeepSeek-V4-Flash-Vision-Exp and V4.1-Flash: its weights. Images themselves are not read yet.
 *
 * Source   the published tensors: vision.*, aligner.*, image_*
 */
#ifndef HD_MODEL_VIT_H
#define HD_MODEL_VIT_H

#include "model/model.h"
#include "weights/bind.h"

struct hd_vit_block {
    struct hd_tensor norm1, norm2, wqkv, wqkv_bias, wo, wo_bias, w1, w2;
};

struct hd_vit {
    int64_t n_block;                  /* 0: the model has no eyes */
    struct hd_tensor patch, patch_bias, norm, a1, a1_bias, a2, a2_bias, start, newline, end, pad;
    struct hd_vit_block *block;
    struct hd_symbol sym[6];
};

/* Reads vision_config, or vision_* of older configs, and prepares list for hd_bind_lists(). n_block stays 0 where the config has
 * neither or the checkpoint no vision tensors. d_model: the text model's. Errors: FORMAT, MEMORY. */
int hd_vit_list(struct hd_model *m, struct hd_vit *v, int64_t d_model, struct hd_weight_list *list, struct hd_err *err);

#endif
