/* arch_deepseek_v3.c: DeepSeek-V3, V3.1, R1: sigmoid gate with a bias for the choice, groups by their two best.
 *
 * Source   DeepSeek-V3 inference code; transformers' deepseek_v3
 */
#include <string.h>

#include "model/latent.h"

static int load(struct hd_model *m, struct hd_err *err)
{
    struct hd_latent *d;
    bool norm;

    HD_TRY(hd_latent_config(m, &d, err));
    HD_TRY(hd_json_bool_or(m->store.config, "norm_topk_prob", true, &norm, m->store.config_path, err));
    d->moe.gate.fn = HD_GATE_SIGMOID;
    d->moe.gate.norm = norm;
    d->moe.gate.norm_eps = 1e-20f;
    d->moe.gate.group_top2 = true;
    d->gate_bias = true;
    return hd_latent_bind(m, d, err);
}

const struct hd_arch hd_arch_deepseek_v3 = {.name = "deepseek_v3", .gguf_name = "", .load = load, .forward = hd_latent_forward, .each_weight = hd_latent_each_weight,
                                            .n_idle = hd_latent_idle, .each_draft = hd_latent_each_draft, .draft = hd_latent_draft};
