/* decoder.h: the dense pre-norm decoder that llama and qwen2 share: what differs between them is data (biases, windows, the
 * order of rotated pairs), read and bound by their arch_*.c. */
#ifndef HD_MODEL_DECODER_H
#define HD_MODEL_DECODER_H

#include "model/attn_gqa.h"
#include "model/ffn.h"
#include "model/model.h"
#include "weights/bind.h"

struct hd_decoder_layer {
    struct hd_tensor attn_norm, ffn_norm;             /* f32 [D] */
    struct hd_gqa_weights attn;
    struct hd_ffn_weights ffn;
    int64_t window;                                   /* 0: all positions */
};

struct hd_decoder {
    int64_t n_layer, d_model, d_ff, n_vocab;
    float norm_eps;
    struct hd_gqa_hp attn;
    struct hd_rope_hp rope;
    float rope_scale;
    bool tied;
    struct hd_tensor token_embd, output_norm, output; /* [V, D], f32 [D], [V, D]: output is token_embd when tied */
    struct hd_tensor rope_div;                        /* f32 [Dh / 2]: GGUF's rope_freqs, divides the frequencies; may be absent */
    struct hd_tensor inv_freq;                        /* f32 [Dh / 2] */
    struct hd_decoder_layer *layer;
    struct hd_symbol sym[16];
    struct hd_weight_list list;
};

/* Common fields from config.json (sources' names) or GGUF metadata (arch.*); then the caller adjusts and calls _bind. */
int hd_decoder_config(struct hd_model *m, struct hd_decoder **out, struct hd_err *err);
int hd_decoder_bind(struct hd_model *m, struct hd_decoder *d, const struct hd_weight_row *rows, int n_row, int q_bias, int o_bias, int ffn_bias,
                    struct hd_err *err);

struct hd_tensor *hd_decoder_forward(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, const int32_t *out_rows, int64_t n_out);
void hd_decoder_each_weight(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg);

/* The weight list of both architectures. */
extern const struct hd_weight_row hd_decoder_rows[];
extern const int hd_decoder_n_row;

#endif
