"""How GGUF lays out DeepSeek's checkpoints: deepseek2, deepseek32 and deepseek4. Names, shapes and metadata, no numbers.

A state is anything that gives arrays by the checkpoint's names: [name], and `name in state`.
"""
import numpy as np

GATES = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}


def arch_of(cfg):
    return {"deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2", "deepseek_v32": "deepseek32", "deepseek_v4": "deepseek4"}[cfg["model_type"]]


# ---- names and layouts: a GGUF tensor is a view of one or more tensors of the checkpoint ----

class Same:
    def __init__(self, name):
        self.name = name

    def get(self, state):
        return state[self.name]

    def set(self, state, value):
        state[self.name] = value.reshape(state[self.name].shape)


class Stack:
    def __init__(self, names):
        self.names = names

    def get(self, state):
        return np.stack([state[n] for n in self.names])

    def set(self, state, value):
        for n, v in zip(self.names, value):
            state[n] = v


class Half:
    """The key rows of kv_b, transposed per head; or its value rows."""

    def __init__(self, name, cfg, keys):
        self.name, self.cfg, self.keys = name, cfg, keys

    def heads(self, w):
        return w.reshape(self.cfg["num_attention_heads"], -1, self.cfg["kv_lora_rank"])

    def get(self, state):
        w, n = self.heads(state[self.name]), self.cfg["qk_nope_head_dim"]
        return np.ascontiguousarray(w[:, :n].swapaxes(1, 2)) if self.keys else np.ascontiguousarray(w[:, n:])

    def set(self, state, value):
        w, n = self.heads(state[self.name].copy()), self.cfg["qk_nope_head_dim"]
        if self.keys:
            w[:, :n] = value.swapaxes(1, 2)
        else:
            w[:, n:] = value
        state[self.name] = w.reshape(state[self.name].shape)


def latent_map(cfg, state, legacy=False):
    m = {"token_embd.weight": Same("model.embed_tokens.weight"), "output_norm.weight": Same("model.norm.weight"), "output.weight": Same("lm_head.weight")}
    names = {"input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight", "self_attn.q_proj.weight": "attn_q.weight",
             "self_attn.q_a_proj.weight": "attn_q_a.weight", "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight", "self_attn.q_b_proj.weight": "attn_q_b.weight",
             "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight", "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
             "self_attn.o_proj.weight": "attn_output.weight", "self_attn.indexer.wq_b.weight": "indexer.attn_q_b.weight", "self_attn.indexer.wk.weight": "indexer.attn_k.weight",
             "self_attn.indexer.k_norm.weight": "indexer.k_norm.weight", "self_attn.indexer.k_norm.bias": "indexer.k_norm.bias",
             "self_attn.indexer.weights_proj.weight": "indexer.proj.weight", "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
             "mlp.down_proj.weight": "ffn_down.weight", "mlp.gate.weight": "ffn_gate_inp.weight", "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
             "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight", "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
             "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight"}
    for i in range(cfg["num_hidden_layers"]):
        hf, g = "model.layers.%d." % i, "blk.%d." % i
        for a, b in names.items():
            if hf + a in state:
                m[g + b] = Same(hf + a)
        kv = hf + "self_attn.kv_b_proj.weight"
        if legacy:
            m[g + "attn_kv_b.weight"] = Same(kv)
        else:
            m[g + "attn_k_b.weight"], m[g + "attn_v_b.weight"] = Half(kv, cfg, True), Half(kv, cfg, False)
        for p in ("gate", "up", "down"):
            experts = [hf + "mlp.experts.%d.%s_proj.weight" % (e, p) for e in range(cfg["n_routed_experts"])]
            if experts[0] in state:
                m[g + "ffn_%s_exps.weight" % p] = Stack(experts)
    return m


def v4_map(cfg, state):
    m = {"token_embd.weight": Same("embed.weight"), "output_norm.weight": Same("norm.weight"), "output.weight": Same("head.weight")}
    m.update({"output_hc_%s.weight" % p: Same("hc_head_" + p) for p in ("fn", "base", "scale")})
    names = {"hc_%s_%s" % (a, b): "hc_%s_%s" % (a, b) for a in ("attn", "ffn") for b in ("fn", "base", "scale")}
    names.update({"attn.attn_sink": "attn_sinks", "attn.wq_a.weight": "attn_q_a", "attn.wq_b.weight": "attn_q_b", "attn.q_norm.weight": "attn_q_a_norm",
                  "attn.wkv.weight": "attn_kv", "attn.kv_norm.weight": "attn_kv_a_norm", "attn.wo_a.weight": "attn_output_a", "attn.wo_b.weight": "attn_output_b",
                  "attn.indexer.wq_b.weight": "indexer.attn_q_b", "attn.indexer.weights_proj.weight": "indexer.proj", "attn_norm.weight": "attn_norm",
                  "ffn_norm.weight": "ffn_norm", "ffn.gate.weight": "ffn_gate_inp", "ffn.gate.tid2eid": "ffn_gate_tid2eid",
                  "ffn.shared_experts.w1.weight": "ffn_gate_shexp", "ffn.shared_experts.w3.weight": "ffn_up_shexp", "ffn.shared_experts.w2.weight": "ffn_down_shexp"})
    for hf, g in (("attn.compressor.", "attn_compressor_"), ("attn.indexer.compressor.", "indexer_compressor_")):
        names.update({hf + "ape": g + "ape", hf + "wkv.weight": g + "kv", hf + "wgate.weight": g + "gate", hf + "norm.weight": g + "norm"})
    for i in range(cfg["num_hidden_layers"]):
        hf, g = "layers.%d." % i, "blk.%d." % i
        for a, b in names.items():
            if hf + a in state:
                m[g + b + ".weight"] = Same(hf + a)
        if hf + "ffn.gate.bias" in state and i >= cfg["num_hash_layers"]:
            m[g + "exp_probs_b.bias"] = Same(hf + "ffn.gate.bias")
        for p, w in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
            m[g + "ffn_%s_exps.weight" % p] = Stack([hf + "ffn.experts.%d.%s.weight" % (e, w) for e in range(cfg["n_routed_experts"])])
    return m


# ---- metadata ----

def rope_of(cfg):
    r = cfg.get("rope_parameters") or cfg.get("rope_scaling") or {}
    return {"rope_theta": cfg.get("rope_theta"), **r}


def metadata(w, arch, cfg, legacy=False):
    def u(key, v):
        w.add_uint32(arch + "." + key, v)

    def f(key, v):
        w.add_float32(arch + "." + key, v)

    rope, n = rope_of(cfg), cfg["num_hidden_layers"]
    u("block_count", n)
    u("context_length", cfg["max_position_embeddings"])
    u("embedding_length", cfg["hidden_size"])
    u("attention.head_count", cfg["num_attention_heads"])
    f("attention.layer_norm_rms_epsilon", cfg["rms_norm_eps"])
    f("rope.freq_base", rope["rope_theta"])
    u("rope.dimension_count", cfg["qk_rope_head_dim"])
    u("expert_count", cfg["n_routed_experts"])
    u("expert_used_count", cfg["num_experts_per_tok"])
    u("expert_shared_count", cfg["n_shared_experts"])
    u("expert_feed_forward_length", cfg["moe_intermediate_size"])
    f("expert_weights_scale", cfg["routed_scaling_factor"])
    if cfg.get("scoring_func"):
        u("expert_gating_func", GATES[cfg["scoring_func"]])
    if cfg.get("norm_topk_prob"):
        w.add_bool(arch + ".expert_weights_norm", True)
    if cfg.get("q_lora_rank"):
        u("attention.q_lora_rank", cfg["q_lora_rank"])
    if rope.get("rope_type", rope.get("type", "default")) == "yarn":
        w.add_string(arch + ".rope.scaling.type", "yarn")
        f("rope.scaling.factor", rope["factor"])
        u("rope.scaling.original_context_length", rope["original_max_position_embeddings"])
        f("rope.scaling.yarn_beta_fast", rope["beta_fast"])
        f("rope.scaling.yarn_beta_slow", rope["beta_slow"])
        if rope.get("mscale_all_dim") is not None:
            f("rope.scaling.yarn_log_multiplier", 0.1 * rope["mscale_all_dim"])
    if arch != "deepseek2":
        u("attention.indexer.head_count", cfg["index_n_heads"])
        u("attention.indexer.key_length", cfg["index_head_dim"])
        u("attention.indexer.top_k", cfg["index_topk"])
    if arch == "deepseek4":
        u("attention.head_count_kv", 1)
        u("attention.key_length", cfg["head_dim"])
        u("attention.value_length", cfg["head_dim"])
        u("attention.sliding_window", cfg["sliding_window"])
        u("attention.output_group_count", cfg["o_groups"])
        u("attention.output_lora_rank", cfg["o_lora_rank"])
        w.add_array(arch + ".attention.compress_ratios", cfg["compress_ratios"])
        f("attention.compress_rope_freq_base", cfg["compress_rope_theta"])
        u("hyper_connection.count", cfg["hc_mult"])
        u("hyper_connection.sinkhorn_iterations", cfg["hc_sinkhorn_iters"])
        f("hyper_connection.epsilon", cfg["hc_eps"])
        u("hash_layer_count", cfg["num_hash_layers"])
        u("embedding_length_out", cfg["hc_mult"] * cfg["hidden_size"])
        for key in ("swiglu_clamp_exp", "swiglu_clamp_shexp"):
            w.add_array(arch + "." + key, [float(cfg["swiglu_limit"])] * n)
        return
    rank, rope_dim = cfg["kv_lora_rank"], cfg["qk_rope_head_dim"]
    u("vocab_size", cfg["vocab_size"])
    u("feed_forward_length", cfg["intermediate_size"])
    u("leading_dense_block_count", cfg["first_k_dense_replace"])
    u("attention.kv_lora_rank", rank)
    u("attention.head_count_kv", cfg["num_attention_heads"] if legacy else 1)
    for key, v in (("expert_group_count", cfg.get("n_group")), ("expert_group_used_count", cfg.get("topk_group"))):
        if v is not None:
            u(key, v)
    head = cfg["qk_nope_head_dim"] + rope_dim
    u("attention.key_length", head if legacy else rank + rope_dim)
    u("attention.value_length", cfg["v_head_dim"] if legacy else rank)
    if not legacy:
        u("attention.key_length_mla", head)
        u("attention.value_length_mla", cfg["v_head_dim"])
