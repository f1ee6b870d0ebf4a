/* arch_llama.c: Llama 1 to 3 and everything published in their form (SmolLM2, R1-Distill-Llama).
 *
 * Source   transformers' configuration_llama.py and modeling_llama.py; llama.cpp's names for GGUF
 */
#include "model/decoder.h"

static int load(struct hd_model *m, struct hd_err *err)
{
    bool attn_bias = false, ffn_bias = false;
    struct hd_decoder *d;

    HD_TRY(hd_decoder_config(m, &d, err));
    if (m->store.kind == HD_STORE_DIR) {
        HD_TRY(hd_json_bool_or(m->store.config, "attention_bias", false, &attn_bias, m->store.config_path, err));
        HD_TRY(hd_json_bool_or(m->store.config, "mlp_bias", false, &ffn_bias, m->store.config_path, err));
    } else {
        d->attn.rope_interleaved = true;              /* the converter permutes the rows of Wq and Wk */
        attn_bias = hd_store_find(&m->store, "blk.0.attn_q.bias") != NULL;
        ffn_bias = hd_store_find(&m->store, "blk.0.ffn_gate.bias") != NULL;
    }
    return hd_decoder_bind(m, d, hd_decoder_rows, hd_decoder_n_row, attn_bias, attn_bias, ffn_bias, err);
}

const struct hd_arch hd_arch_llama = {.name = "llama", .load = load, .forward = hd_decoder_forward, .each_weight = hd_decoder_each_weight};
