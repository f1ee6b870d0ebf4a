/* latent.h: the decoder that DeepSeek-V2, V3 and V3.2 share: latent attention, some dense layers, then experts. What differs is
 * data: gate, groups, the indexer; read by their arch_*.c.
 */
#ifndef HD_MODEL_LATENT_H
#define HD_MODEL_LATENT_H

#include "model/attn_mla.h"
#include "model/ffn.h"
#include "model/model.h"
#include "model/moe.h"
#include "model/rope.h"
#include "weights/bind.h"

struct hd_latent_layer {
    struct hd_tensor attn_norm, ffn_norm;
    struct hd_mla_weights attn;
    struct hd_ffn_weights ffn;                        /* dense layers */
    struct hd_moe_weights moe;
    struct hd_tensor gate_up_exps, down_exps;         /* transformers' fused form */
    bool dense;
    int part0;
};

struct hd_latent {
    int64_t n_layer, d_model, n_vocab, d_ff, d_expert, n_shared;
    float norm_eps, rope_scale;
    struct hd_mla_hp attn;
    struct hd_moe_block_hp moe;
    struct hd_rope_hp rope;
    bool tied, fused, gate_bias, attn_bias;
    bool kv_halves;                                   /* GGUF: k_b and v_b instead of kv_b */
    struct hd_tensor embed, norm, head, inv_freq;
    struct hd_latent_layer *layer;
    struct hd_symbol sym[24];
    struct hd_weight_list list;
};

/* Everything that the three have in common; then the caller adjusts the gate and calls _bind. */
int hd_latent_config(struct hd_model *m, struct hd_latent **out, struct hd_err *err);
int hd_latent_bind(struct hd_model *m, struct hd_latent *d, struct hd_err *err);

struct hd_tensor *hd_latent_forward(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, const int32_t *out_rows, int64_t n_out);
void hd_latent_each_weight(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg);
int64_t hd_latent_idle(const struct hd_model *m);

#endif
