/* latent.h: the decoder that DeepSeek-V2, V3 and V3.2 share: latent attention, some dense layers, then experts. What differs is
 * data: gate, groups, the indexer; read by their arch_*.c.
 */
#ifndef HD_MODEL_LATENT_H
#define HD_MODEL_LATENT_H

#include "model/attn_mla.h"
#include "model/ffn.h"
#include "model/model.h"
#include "model/moe.h"
#include "model/mtp.h"
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
    struct hd_mtp_weights mtp;                        /* of the layer behind the last only */
};

struct hd_latent {
    int64_t n_layer, d_model, n_vocab, d_ff, d_expert, n_shared;
    int64_t n_mtp;                                    /* that the config tells of */
    float norm_eps, rope_scale;
    struct hd_mla_hp attn;
    struct hd_moe_block_hp moe;
    struct hd_rope_hp rope;
    bool tied, fused, gate_bias, attn_bias;
    bool kv_halves;                                   /* GGUF: k_b and v_b instead of kv_b */
    struct hd_tensor embed, norm, head, inv_freq;
    struct hd_latent_layer *layer;                    /* [n_layer + 1]: the MTP module's behind them */
    struct hd_mtp mtp;
    struct hd_symbol sym[24];
    struct hd_weight_list list[2];                    /* the model, the MTP module (n_layer 0: none) */
};

/* Everything that the three have in common; then the caller adjusts the gate and calls _bind. */
int hd_latent_config(struct hd_model *m, struct hd_latent **out, struct hd_err *err);
int hd_latent_bind(struct hd_model *m, struct hd_latent *d, struct hd_err *err);

struct hd_tensor *hd_latent_forward(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, const int32_t *out_rows, int64_t n_out);
void hd_latent_each_weight(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg);
int64_t hd_latent_idle(const struct hd_model *m);

/* z[T, D] goes through a layer; u and y[T, D] are scratch. */
void hd_latent_layer_run(struct hd_stream *s, const struct hd_latent *d, int layer, const struct hd_ragged *b, const struct hd_tensor *rope, struct hd_tensor *z,
                         struct hd_tensor *u, struct hd_tensor *y);

/* ---- latent_mtp.c ---- */

bool hd_latent_has_mtp(const struct hd_model *m, int64_t n_layer);
/* The module's list, from the rows that every layer has; says to m that it is there. Errors: MEMORY. */
int hd_latent_mtp_list(struct hd_model *m, struct hd_latent *d, const struct hd_weight_row *layer_rows, int n_row, struct hd_err *err);
#define HD_LATENT_MTP_PARTS (HD_MLA_PARTS + 1)
int hd_latent_mtp_parts(struct hd_latent *d, int first, struct hd_cache_part *part);
void hd_latent_draft(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, struct hd_draft_out *out);
void hd_latent_each_draft(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg);

#endif
