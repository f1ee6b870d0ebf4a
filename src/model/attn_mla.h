/* attn_mla.h: multi-head latent attention: keys and values of all heads come from one cached latent per token; optionally an
 * indexer chooses which tokens a query sees (DeepSeek sparse attention).
 *
 * Math     absorbed: s = scale (Wk_h^T q_nope . c + q_pe . k_pe), o_h = Wv_h sum softmax(s) c; equal to the naive form, where
 *          Wkv_b c is formed for every token
 * Source   DeepSeek-V2 and V3 papers and inference code; V3.2-Exp for the indexer; transformers deepseek_v2, _v3, _v32
 * Traps    the main RoPE is interleaved and rotates the last dims of q; the indexer's is not, and rotates the first; latent
 *          norms use eps 1e-6 whatever the config says; the softmax scale carries YaRN's mscale_all_dim squared
 */
#ifndef HD_MODEL_ATTN_MLA_H
#define HD_MODEL_ATTN_MLA_H

#include "base/json.h"
#include "cache/cache.h"
#include "model/rope.h"
#include "ops/ops.h"

struct hd_mla_hp {
    int64_t n_head, nope_dim, rope_dim, v_dim, q_rank, kv_rank;       /* q_rank 0: queries straight from x */
    int64_t index_heads, index_dim, index_top_k;      /* index_heads 0: every query sees every token before it */
    float scale, latent_eps;
    bool rope_interleaved;
    bool native;                      /* latents and index keys are kept as bf16, as DeepSeek-V3's code does; also where f16 was asked for */
};

struct hd_mla_weights {
    struct hd_tensor q, q_a, q_norm, q_b, kv_a, kv_norm, o;
    struct hd_tensor kv_b;                            /* [H (nope + v), rank]; or, dim 0, its halves as GGUF has them: */
    struct hd_tensor k_b, v_b;                        /* [H, rank, nope], transposed; [H, v, rank] */
    struct hd_tensor q_a_bias, kv_a_bias, o_bias;     /* dim 0 when absent */
    struct hd_tensor index_q_b, index_k, index_k_norm, index_k_bias, index_weights;
};

/* The fields of a config but the indexer's; scale without YaRN's part: hd_mla_stretch() puts that in. */
int hd_mla_config(struct hd_mla_hp *hp, const json_t *c, const char *file, struct hd_err *err);
void hd_mla_stretch(struct hd_mla_hp *hp, const struct hd_rope_hp *rope);

#define HD_MLA_PARTS 2
int hd_mla_parts(const struct hd_mla_hp *hp, int layer, struct hd_cache_part *part);

/* out[T, D] from x[T, D]; rope: table of the step; parts from part0 on. */
void hd_attn_mla(struct hd_stream *s, const struct hd_mla_hp *hp, const struct hd_mla_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope, int part0,
                 const struct hd_tensor *x, struct hd_tensor *out, int layer);

/* What attention would keep of x[T, D], and nothing else. */
void hd_mla_keep(struct hd_stream *s, const struct hd_mla_hp *hp, const struct hd_mla_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope, int part0,
                 const struct hd_tensor *x, int layer);

#endif
