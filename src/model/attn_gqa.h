/* attn_gqa.h: grouped-query attention: n_head query heads share n_kv_head key/value heads; keys and values are cached.
 *
 * Math     q, k, v = x Wq, x Wk, x Wv (+ biases); RoPE on q and k; o = softmax(q k / sqrt(Dh)) v; y = o Wo (+ bias)
 * Source   Ainslie et al. 2023; transformers' modeling_llama.py and modeling_qwen2.py
 * Traps    GGUF files of the llama family hold Wq and Wk with rows permuted for interleaved pairs; qwen2's do not
 */
#ifndef HD_MODEL_ATTN_GQA_H
#define HD_MODEL_ATTN_GQA_H

#include "cache/cache.h"
#include "model/rope.h"
#include "ops/ops.h"

struct hd_gqa_hp {
    int64_t n_head, n_kv_head, head_dim, window;      /* window 0: all positions */
    bool rope_interleaved;
    enum hd_dtype kv_type;                            /* F32 or F16 */
};

struct hd_gqa_weights {
    struct hd_tensor q, k, v, o;                      /* [H Dh, D], [G Dh, D], [G Dh, D], [D, H Dh] */
    struct hd_tensor q_bias, k_bias, v_bias, o_bias;  /* f32, dim 0 when absent */
};

#define HD_GQA_PARTS 2
int hd_gqa_parts(const struct hd_gqa_hp *hp, int layer, struct hd_cache_part *part);

/* out[T, D] = attention of x[T, D]; keys and values of the step go to the parts part_k and part_k + 1. */
void hd_attn_gqa(struct hd_stream *s, const struct hd_gqa_hp *hp, const struct hd_gqa_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope,
                 int part_k, const struct hd_tensor *x, struct hd_tensor *out, int layer);

/* What attention would keep of x[T, D], and nothing else. */
void hd_gqa_keep(struct hd_stream *s, const struct hd_gqa_hp *hp, const struct hd_gqa_weights *w, const struct hd_ragged *b, const struct hd_tensor *rope, int part_k,
                 const struct hd_tensor *x, int layer);

#endif
