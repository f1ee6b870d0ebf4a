"""Tiny random checkpoints of deepseek_v2, _v3, _v32 with transformers' logits: python3 tools/golden/latent_tiny.py [NAME...]

Written under the names of the released checkpoints (a matrix per expert), and one as save_pretrained writes it (fused).
"""
import os
import sys

import torch
from safetensors.torch import save_file
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer
from transformers import (DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM, DeepseekV32Config, DeepseekV32ForCausalLM)

from common import fresh, randomise, reference, tokens_for, write_config, write_golden, write_weights
from tiny import fp8_128

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden")
BASE = dict(vocab_size=128, hidden_size=64, intermediate_size=96, moe_intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
            n_routed_experts=8, n_shared_experts=2, num_experts_per_tok=3, first_k_dense_replace=1, kv_lora_rank=32, q_lora_rank=48, qk_rope_head_dim=16,
            qk_nope_head_dim=24, v_head_dim=20, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1)
YARN = dict(rope_type="yarn", rope_theta=1000.0, factor=8.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0)


def unfuse(state):
    out = {}
    for k, v in state.items():
        if k.endswith("experts.gate_up_proj"):
            for e in range(v.shape[0]):
                g, u = v[e].chunk(2, 0)
                out[k.replace("gate_up_proj", "%d.gate_proj.weight" % e)] = g
                out[k.replace("gate_up_proj", "%d.up_proj.weight" % e)] = u
        elif k.endswith("experts.down_proj"):
            for e in range(v.shape[0]):
                out[k.replace("down_proj", "%d.down_proj.weight" % e)] = v[e]
        else:
            out[k] = v
    return out


def quantise(model, state):
    """FP8 128x128 on every matrix but embeddings, head, gates and norms; the model gets what they stand for."""
    out, params = {}, dict(model.named_parameters())
    for k, v in state.items():
        if v.dim() != 2 or "embed" in k or "lm_head" in k or k.endswith("gate.weight") or "weights_proj" in k:
            out[k] = v
            continue
        out[k], out[k + "_scale_inv"], d = fp8_128(v.float())
        with torch.no_grad():
            if k in params:
                params[k].copy_(d)
            else:                                  # an expert of a fused parameter
                stem, e, proj = k[:-len(".weight")].rsplit(".", 2)
                p = params[stem + (".down_proj" if proj == "down_proj" else ".gate_up_proj")]
                half = p.shape[1] // 2
                (p[int(e)] if proj == "down_proj" else p[int(e), :half] if proj == "gate_proj" else p[int(e), half:]).copy_(d)
    return out


class Margins:
    """The smallest gap between the last chosen and the first rejected index score, relative to the scores' rms: a golden whose
    choice hangs on rounding would test nothing. Seeds are taken from the first with a gap above 1e-4."""

    def __enter__(self):
        self.plain, self.gap = torch.Tensor.topk, float("inf")

        def topk(x, k, *args, **kw):
            if x.dim() == 3 and k < x.shape[-1]:
                v = self.plain(x, k + 1, dim=-1).values
                seen = torch.isfinite(v[..., -1]) & (v[..., -1] > torch.finfo(torch.float32).min / 2)
                if seen.any():
                    rms = v[seen][..., :-1].pow(2).mean().sqrt()
                    self.gap = min(self.gap, ((v[..., -2] - v[..., -1])[seen] / rms).min().item())
            return self.plain(x, k, *args, **kw)

        torch.Tensor.topk = topk
        return self

    def __exit__(self, *_):
        torch.Tensor.topk = self.plain


class Choices:
    """Who was chosen: the experts of every layer, and the rows that an indexer selected."""

    def __init__(self, model):
        self.found = {}
        for i, layer in enumerate(model.model.layers):
            if hasattr(layer.mlp, "experts"):
                layer.mlp.experts.register_forward_pre_hook(lambda m, a, i=i: self.experts(i, a))
            if hasattr(layer.self_attn, "indexer"):
                layer.self_attn.indexer.register_forward_hook(lambda m, a, out, i=i: self.rows(i, out))

    def experts(self, i, args):
        self.found["layers.%d.ffn.experts" % i] = args[1].to(torch.int32)

    def rows(self, i, out):
        """[T, k]; rows after the query, which only fill the list, become -1."""
        idx = (out[0] if isinstance(out, tuple) else out)[0]
        t = torch.arange(idx.shape[0])[:, None]
        self.found["layers.%d.attn.selected" % i] = torch.where(idx <= t, idx, -1).to(torch.int32)


class Mtp(torch.nn.Module):
    """The module behind the last layer, as DeepSeek-V3's report (2.2) and its README_WEIGHTS.md have it, around transformers' own layer: embedding half
    first, hidden states after the model's norm."""

    def __init__(self, config, layer):
        super().__init__()
        self.layer, norm = layer(config, config.num_hidden_layers), type(layer(config, 0).input_layernorm)
        self.enorm, self.hnorm, self.norm = (norm(config.hidden_size, config.rms_norm_eps) for _ in range(3))
        self.eh_proj = torch.nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)

    def forward(self, model, tokens):
        body = model.model
        h = body(tokens[None]).last_hidden_state[:, :-1]
        z = self.eh_proj(torch.cat([self.enorm(body.embed_tokens(tokens[None, 1:])), self.hnorm(h)], -1))
        pos = torch.arange(z.shape[1])[None]
        mask = torch.full((z.shape[1],) * 2, torch.finfo(z.dtype).min).triu(1)[None, None]
        out = self.layer(z, attention_mask=mask, position_ids=pos, position_embeddings=body.rotary_emb(z, pos))
        return model.lm_head(self.norm(out[0] if isinstance(out, tuple) else out))[0]

    def names(self, config):
        """As the released checkpoints name them."""
        p = "model.layers.%d." % config.num_hidden_layers
        return {p + (k[len("layer."):] if k.startswith("layer.") else "shared_head.norm.weight" if k == "norm.weight" else k): v for k, v in self.state_dict().items()}


def random_weights(model, seed, dtype):
    randomise(model, seed)
    g = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for k, p in list(model.named_parameters()) + list(model.named_buffers()):
            if k.endswith("e_score_correction_bias"):
                p.copy_(0.3 * torch.randn(p.shape, generator=g))
            elif k.endswith("gate.weight"):
                p.copy_(torch.randn(p.shape, generator=g) * 2 / p.shape[-1] ** 0.5)
            if p.is_floating_point() and "inv_freq" not in k and not k.endswith("correction_bias"):
                p.copy_(p.to(dtype).float())


def make(name, cls, config, seed, dtype=torch.float32, fused=False, n_shard=1, n_tok=90, fp8=False, mtp=None):
    path = fresh(os.path.join(ROOT, name))
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = cls(config)
    random_weights(model, seed, dtype)
    state = dict(model.state_dict())
    if mtp:
        mtp = Mtp(config, mtp).eval()
        random_weights(mtp, seed + 2, dtype)
        state.update(mtp.names(config))
    state = {k: (v if k.endswith("correction_bias") else v.to(dtype)) for k, v in state.items()}
    if not fused:
        state = unfuse(state)
    extra = {}
    if fp8:
        state = quantise(model, state)
        extra = dict(quantization_config=dict(quant_method="fp8", fmt="e4m3", weight_block_size=[128, 128]))
    config.dtype = dtype
    write_config(path, config, architectures=[cls.__name__], **extra)
    write_weights(path, state, n_shard)
    tokens = tokens_for(seed, n_tok, config.vocab_size)
    choices = Choices(model)
    with Margins() as m:
        logits, trace = reference(model, tokens)
    trace.update(choices.found)
    if m.gap < 1e-4:
        return make(name, cls, config, seed + 100, dtype, fused, n_shard, n_tok, fp8, mtp and type(mtp.layer))
    write_golden(path, tokens, logits, trace)
    if mtp:
        with torch.no_grad():
            save_file({"mtp_logits": mtp(model, torch.as_tensor(tokens)).contiguous()}, os.path.join(path, "mtp.safetensors"))
    print(name, "seed %d, max |logit| %.3f, margin %.2g" % (seed, logits.abs().max(), m.gap))


ALL = {
    "v2-lite": lambda n: make(n, DeepseekV2ForCausalLM, DeepseekV2Config(**{**BASE, "q_lora_rank": None, "topk_method": "greedy", "routed_scaling_factor": 1.0}), 51,
                              torch.bfloat16),
    "v2-yarn": lambda n: make(n, DeepseekV2ForCausalLM, DeepseekV2Config(**{**BASE, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2,
                                                                           "routed_scaling_factor": 16.0}, rope_parameters={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}), 52,
                              torch.bfloat16, fused=True, n_shard=2),
    "v3-a": lambda n: make(n, DeepseekV3ForCausalLM, DeepseekV3Config(**{**BASE, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}, rope_parameters=YARN), 53,
                           torch.bfloat16),
    "v3-mtp": lambda n: make(n, DeepseekV3ForCausalLM, DeepseekV3Config(**{**BASE, "n_group": 4, "topk_group": 2, "num_hidden_layers": 2, "routed_scaling_factor": 2.5},
                                                                       rope_parameters=YARN), 59, torch.bfloat16, mtp=DeepseekV3DecoderLayer),
    "v3-fp8": lambda n: make(n, DeepseekV3ForCausalLM, DeepseekV3Config(**{**BASE, "hidden_size": 144, "n_shared_experts": 1, "n_group": 2, "topk_group": 1,
                                                                           "routed_scaling_factor": 2.5, "num_hidden_layers": 2}), 54, fp8=True),
    "v3-mscale": lambda n: make(n, DeepseekV3ForCausalLM, DeepseekV3Config(**{**BASE, "n_group": 1, "topk_group": 1, "attention_bias": True, "num_hidden_layers": 2},
                                                                          rope_parameters={**YARN, "mscale": 0.7, "mscale_all_dim": 1.0}), 55, torch.bfloat16),
    "v32-a": lambda n: make(n, DeepseekV32ForCausalLM, DeepseekV32Config(**{**BASE, "n_group": 4, "topk_group": 2, "index_topk": 24, "index_head_dim": 32, "index_n_heads": 6},
                                                                       rope_parameters=YARN), 56, torch.bfloat16),
    "v32-b": lambda n: make(n, DeepseekV32ForCausalLM, DeepseekV32Config(**{**BASE, "hidden_size": 56, "num_attention_heads": 3, "num_key_value_heads": 3, "n_group": 1,
                                                                           "topk_group": 1, "index_topk": 7, "index_head_dim": 32, "index_n_heads": 10, "v_head_dim": 28,
                                                                           "kv_lora_rank": 20, "q_lora_rank": 36}), 57, torch.bfloat16, n_shard=2, n_tok=60),
    "v32-c": lambda n: make(n, DeepseekV32ForCausalLM, DeepseekV32Config(**{**BASE, "hidden_size": 48, "num_hidden_layers": 2, "first_k_dense_replace": 0, "n_group": 2,
                                                                           "topk_group": 1, "index_topk": 16, "index_head_dim": 48, "index_n_heads": 8, "n_routed_experts": 6,
                                                                           "num_experts_per_tok": 2, "n_shared_experts": 1, "norm_topk_prob": False},
                                                                       rope_parameters={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}), 58, torch.bfloat16, fused=True, n_tok=70),
}

if __name__ == "__main__":
    for name, fn in ALL.items():
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            fn(name)
