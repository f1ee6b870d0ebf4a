/* arch_deepseek_v32.c: DeepSeek-V3.2: V3 with an indexer that chooses the tokens a query attends to.
 *
 * Source   DeepSeek-V3.2-Exp inference code as corrected (the indexer's RoPE is not interleaved); transformers' deepseek_v32
 */
#include <string.h>

#include "model/latent.h"

static int load(struct hd_model *m, struct hd_err *err)
{
    struct hd_latent *d;
    const json_t *c = m->store.config;
    bool norm;

    HD_TRY(hd_latent_config(m, &d, err));
    HD_TRY(hd_json_bool_or(c, "norm_topk_prob", true, &norm, m->store.config_path, err));
    HD_TRY(hd_json_int_or(c, "index_n_heads", 1, 65536, 64, &d->attn.index_heads, m->store.config_path, err));
    HD_TRY(hd_json_int_or(c, "index_head_dim", 2, 65536, 128, &d->attn.index_dim, m->store.config_path, err));
    HD_TRY(hd_json_int_or(c, "index_topk", 1, (int64_t)1 << 20, 2048, &d->attn.index_top_k, m->store.config_path, err));
    if (!d->attn.q_rank)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: q_lora_rank: found nothing; the indexer needs it", m->store.config_path);
    if (d->attn.rope_dim > d->attn.index_dim)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: index_head_dim: found %lld; expected at least qk_rope_head_dim %lld", m->store.config_path, (long long)d->attn.index_dim,
                          (long long)d->attn.rope_dim);
    d->moe.gate.fn = HD_GATE_SIGMOID;
    d->moe.gate.norm = norm;
    d->moe.gate.norm_eps = 1e-20f;
    d->moe.gate.group_top2 = true;
    d->gate_bias = true;
    return hd_latent_bind(m, d, err);
}

const struct hd_arch hd_arch_deepseek_v32 = {.name = "deepseek_v32", .gguf_name = "deepseek32", .load = load, .forward = hd_latent_forward, .each_weight = hd_latent_each_weight,
                                            .n_idle = hd_latent_idle, .each_draft = hd_latent_each_draft, .draft = hd_latent_draft};
