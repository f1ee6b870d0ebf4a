"""Tiny random checkpoints of deepseek_v4 with transformers' logits and choices: python3 tools/golden/v4_tiny.py [NAME...]"""
import json
import os
import sys

import torch
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

from latent_tiny import Margins
from common import fresh, randomise, tokens_for, write_config, write_golden, write_weights

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden")
BASE = dict(vocab_size=128, hidden_size=56, moe_intermediate_size=24, num_attention_heads=4, num_key_value_heads=1, head_dim=32, q_lora_rank=36,
            n_routed_experts=7, n_shared_experts=1, num_experts_per_tok=3, o_groups=2, o_lora_rank=20, index_n_heads=6, index_head_dim=32, index_topk=6,
            sliding_window=12, max_position_embeddings=4096, partial_rotary_factor=0.5, rms_norm_eps=1e-6, num_nextn_predict_layers=0, hc_sinkhorn_iters=20)
W, C, H = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
CONFIGS = {
    # the order of layers, windows, streams, hash layers: all different
    "v4-hf-a": dict(layer_types=[H, C, W, C], mlp_layer_types=["hash_moe"] * 3 + ["moe"], hc_mult=2, sliding_window=20, routed_scaling_factor=2.0, swiglu_limit=1.5),
    "v4-hf-b": dict(layer_types=[C, W, H], mlp_layer_types=["moe"] * 3, hc_mult=4, index_topk=4, hidden_size=72, num_experts_per_tok=2, norm_topk_prob=True, n_shared_experts=1),
    "v4-hf-c": dict(layer_types=[W, W, C, C], mlp_layer_types=["hash_moe"] + ["moe"] * 3, hc_mult=3, sliding_window=5, o_groups=4, index_topk=9, routed_scaling_factor=1.0,
                    rope_parameters={"main": {"rope_type": "default", "rope_theta": 10000.0},
                                     "compress": {"rope_type": "yarn", "rope_theta": 160000.0, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                                                  "original_max_position_embeddings": 64, "attention_factor": 1.0}}),
    # heads enough, and widths of 32, for attention in bf16; all experts are used, since one other choice in the first entry changes every row
    "v4-hf-d": dict(layer_types=[W, C, H], mlp_layer_types=["moe"] * 3, hc_mult=2, hidden_size=64, num_attention_heads=18, o_lora_rank=32, index_topk=20, n_routed_experts=3),
}


def valid(out):
    """[T, k]; entries that are not complete yet, which only fill the list, become -1."""
    idx = (out[0] if isinstance(out, tuple) else out)[0]
    t = torch.arange(idx.shape[0])[:, None]
    return torch.where((idx >= 0) & (idx < (t + 1) // 4), idx, -1).to(torch.int32)


def make(name, seed, dtype, n_shard, n_tok):
    path = fresh(os.path.join(ROOT, name))
    kw = {**BASE, **CONFIGS[name]}
    config = DeepseekV4Config(num_hidden_layers=len(kw["layer_types"]), **kw)
    config._attn_implementation = "eager"
    model = DeepseekV4ForCausalLM(config)
    randomise(model, seed)
    g = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for k, p in list(model.named_parameters()) + list(model.named_buffers()):
            if "inv_freq" in k:
                continue
            if k.endswith("tid2eid"):
                for r in range(p.shape[0]):
                    p[r] = torch.randperm(config.n_routed_experts, generator=g)[:p.shape[1]]
            elif k.endswith("e_score_correction_bias"):
                p.copy_(0.3 * torch.randn(p.shape, generator=g))
            elif k.endswith("gate.weight"):
                p.copy_(torch.randn(p.shape, generator=g) * 2 / p.shape[-1] ** 0.5)
            elif k.endswith((".scale", "_scale")):
                p.copy_(0.7 + 0.2 * torch.randn(p.shape, generator=g))
            elif k.endswith((".base", "sinks", "position_bias")):
                p.copy_(0.5 * torch.randn(p.shape, generator=g))
            if p.is_floating_point():
                p.copy_(p.to(dtype).float())
    found = {}
    for i, layer in enumerate(model.model.layers):
        layer.mlp.experts.register_forward_pre_hook(lambda m, a, i=i: found.__setitem__("layers.%d.ffn.experts" % i, a[1].reshape(-1, a[1].shape[-1]).to(torch.int32)))
        indexer = getattr(getattr(layer.self_attn, "compressor", None), "indexer", None)
        if indexer is not None:
            indexer.register_forward_hook(lambda m, a, out, i=i: found.__setitem__("layers.%d.attn.selected" % i, valid(out)))
    tokens = tokens_for(seed, n_tok, config.vocab_size)
    model = model.float().eval()
    with torch.no_grad(), Margins() as m:
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    if m.gap < 3e-5:                               # a choice that hangs on rounding tests nothing
        return make(name, seed + 100, dtype, n_shard, n_tok)
    state = {k: v.to(dtype) if v.is_floating_point() and "bias" not in k else v for k, v in model.state_dict().items()}
    config.dtype = dtype
    write_config(path, config, architectures=["DeepseekV4ForCausalLM"])
    write_weights(path, state, n_shard)
    write_golden(path, tokens, logits, found)
    print(name, "seed %d, max |logit| %.3f, margin %.2g" % (seed, logits.abs().max(), m.gap), json.dumps(sorted(found)))


if __name__ == "__main__":
    for seed, name in enumerate(CONFIGS):
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            make(name, 70 + seed, torch.bfloat16, 1 + seed % 2, 60 if name == "v4-hf-c" else 290)
