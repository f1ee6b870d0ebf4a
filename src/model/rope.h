/* rope.h: rotary frequencies and their stretching for long contexts, from config.json or GGUF metadata.
 *
 * Source   transformers' modeling_rope_utils (default, linear, dynamic, llama3, yarn), the papers behind them
 * Traps    llama3 with GGUF: the stretching is stored as rope_freqs.weight (divisors), not as numbers in the metadata;
 *          yarn's attention factor multiplies cos and sin, not the logits
 */
#ifndef HD_MODEL_ROPE_H
#define HD_MODEL_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"

enum hd_rope_kind { HD_ROPE_DEFAULT, HD_ROPE_LINEAR, HD_ROPE_DYNAMIC, HD_ROPE_LLAMA3, HD_ROPE_YARN };

struct hd_rope_hp {
    enum hd_rope_kind kind;
    int64_t dim;                      /* rotated dims of a head, even */
    double theta, factor;
    double low_freq, high_freq;       /* llama3 */
    double beta_fast, beta_slow;      /* yarn */
    double mscale, mscale_all;        /* yarn, DeepSeek's form; 0 when absent */
    double attn_factor;               /* yarn; 0 when absent */
    bool truncate;                    /* yarn: round the ramp's ends to whole dims */
    int64_t n_ctx_orig;
};

/* Reads rope_theta / rope_scaling, or transformers 5's rope_parameters, from a text config. hp->dim is set by the caller. */
int hd_rope_config(struct hd_rope_hp *hp, const json_t *config, int64_t n_ctx, const char *file, struct hd_err *err);

/* inv_freq[dim / 2] f32, and the factor for cos and sin. */
void hd_rope_freqs(const struct hd_rope_hp *hp, float *inv_freq, float *scale);

#endif
