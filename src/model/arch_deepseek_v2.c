/* arch_deepseek_v2.c: DeepSeek-V2 and V2-Lite: softmax gate, greedy or limited to the best groups; weights are not normalised.
 *
 * Source   transformers' deepseek_v2 (which ignores norm_topk_prob, as no release sets it)
 */
#include <string.h>

#include "model/latent.h"

static int load(struct hd_model *m, struct hd_err *err)
{
    struct hd_latent *d;
    const char *method;

    HD_TRY(hd_latent_config(m, &d, err));
    HD_TRY(hd_json_str_or(m->store.config, "topk_method", "greedy", &method, m->store.config_path, err));
    if (strcmp(method, "greedy") && strcmp(method, "group_limited_greedy"))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: topk_method: found \"%s\"; expected greedy or group_limited_greedy", m->store.config_path, method);
    if (!strcmp(method, "greedy"))
        d->moe.gate.n_group = 1;
    d->moe.gate.fn = HD_GATE_SOFTMAX;
    return hd_latent_bind(m, d, err);
}

const struct hd_arch hd_arch_deepseek_v2 = {
    .name = "deepseek_v2", .gguf_name = "deepseek2", .load = load, .forward = hd_latent_forward, .each_weight = hd_latent_each_weight, .n_idle = hd_latent_idle};
