"""Tiny random checkpoints of llama and qwen2 with transformers' logits: python3 tools/golden/tiny.py [NAME...]

Writes tests/golden/NAME. Every variant is there for one thing that is easy to get wrong.
"""
import os
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from common import fresh, randomise, reference, tokens_for, write_config, write_golden, write_weights

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden")
LLAMA = dict(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
QWEN = dict(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256, rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2)
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN_ROPE = dict(rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0)


def fp8_128(w, block=(128, 128), ue8m0=False):
    """[O, I] -> e4m3 data, scales of block, what they stand for."""
    o, i = w.shape
    bo, bi = block
    s = torch.zeros(-(-o // bo), -(-i // bi))
    q = torch.zeros(o, i, dtype=torch.float8_e4m3fn)
    d = torch.zeros(o, i)
    for r in range(s.shape[0]):
        for c in range(s.shape[1]):
            part = w[r * bo:(r + 1) * bo, c * bi:(c + 1) * bi]
            scale = part.abs().max().clamp(min=1e-9) / 448.0
            if ue8m0:
                scale = torch.exp2(torch.ceil(torch.log2(scale)))
            s[r, c] = scale
            f = (part / scale).to(torch.float8_e4m3fn)
            q[r * bo:(r + 1) * bo, c * bi:(c + 1) * bi] = f
            d[r * bo:(r + 1) * bo, c * bi:(c + 1) * bi] = f.float() * scale
    return q, (s.to(torch.float8_e8m0fnu) if ue8m0 else s), d


E2M1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])


def fp4(w, block, e4m3):
    """[O, I] -> packed nibbles (low one first), scales of 1 x block, what they stand for. e4m3: with a global f32 scale."""
    o, i = w.shape
    p = w.reshape(o, i // block, block)
    amax = p.abs().amax(-1).clamp(min=1e-9)
    glob = None
    if e4m3:
        glob = amax.max() / (448.0 * 6.0)
        stored = (amax / 6.0 / glob).to(torch.float8_e4m3fn)
        scale = stored.float() * glob
    else:
        scale = torch.exp2(torch.ceil(torch.log2(amax / 6.0)))
        stored = scale.to(torch.float8_e8m0fnu)
    x = p / scale.clamp(min=1e-30)[..., None]
    code = (x[..., None] - E2M1).abs().argmin(-1).to(torch.uint8)
    d = (E2M1[code.long()] * scale[..., None]).reshape(o, i)
    code = code.reshape(o, i)
    return code[:, 0::2] | code[:, 1::2] << 4, stored, glob, d


def quantise(model, state, how):
    """Replaces the layers' matrices in state by quantised ones, and the model's weights by what those stand for."""
    out = {}
    params = dict(model.named_parameters())
    for name, w in state.items():
        if not (name.endswith("proj.weight") and "layers" in name):
            out[name] = w
            continue
        stem = name[:-len(".weight")]
        if how == "fp8":
            out[name], out[name + "_scale_inv"], d = fp8_128(w)
        elif how == "fp8-32":
            out[name], out[stem + ".scale"], d = fp8_128(w, (32, 32), True)
        elif how == "fp8-1x32":
            out[name], out[stem + ".scale"], d = fp8_128(w, (1, 32), True)
        elif how == "fp4":
            q, s, _, d = fp4(w, 32, False)
            out[name], out[stem + ".scale"] = q.view(torch.int8), s
        elif how == "nvfp4":
            q, s, g, d = fp4(w, 16, True)
            out[name], out[stem + ".weight_scale"], out[stem + ".weight_scale_2"] = q, s, g.reshape(1)
        with torch.no_grad():
            params[name].copy_(d)
    return out


def make(name, cls, config, seed, dtype=torch.float32, n_shard=1, n_tok=48, quant=None, extra=None):
    path = fresh(os.path.join(ROOT, name))
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = cls(config)
    randomise(model, seed)
    with torch.no_grad():
        for p in model.parameters():      # rounded as stored, computed in f32: buffers (inv_freq) stay f32, as from_pretrained keeps them
            p.copy_(p.to(dtype).float())
    state = {k: v.to(dtype) for k, v in model.state_dict().items() if not (config.tie_word_embeddings and k == "lm_head.weight")}
    config.dtype = dtype
    if quant:
        state = quantise(model, state, quant)
    write_config(path, config, architectures=[cls.__name__], **(extra or {}))
    write_weights(path, state, n_shard)
    tokens = tokens_for(seed, n_tok, config.vocab_size)
    logits, trace = reference(model, tokens)
    write_golden(path, tokens, logits, trace if not quant else {})
    print(name, "max |logit| %.3f" % logits.abs().max())


def all_of_them():
    L, Q = (lambda **k: LlamaConfig(**{**LLAMA, **k})), (lambda **k: Qwen2Config(**{**QWEN, **k}))
    big = dict(hidden_size=128, intermediate_size=256, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=1)
    f8 = lambda b: dict(quantization_config=dict(quant_method="fp8", fmt="e4m3", weight_block_size=b))
    return {
        "llama-a": lambda n: make(n, LlamaForCausalLM, L(rope_parameters=LLAMA3_ROPE), 11, n_tok=96),
        "llama-b": lambda n: make(n, LlamaForCausalLM, L(tie_word_embeddings=True), 12, torch.bfloat16, 3),
        "llama-f16": lambda n: make(n, LlamaForCausalLM, L(head_dim=24, attention_bias=True, mlp_bias=True, num_key_value_heads=4), 13, torch.float16),
        "llama-mqa": lambda n: make(n, LlamaForCausalLM, L(num_key_value_heads=1, intermediate_size=100, vocab_size=131, rms_norm_eps=1e-3), 14, torch.bfloat16),
        "llama-linear": lambda n: make(n, LlamaForCausalLM, L(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)), 15, torch.bfloat16),
        "llama-yarn": lambda n: make(n, LlamaForCausalLM, L(rope_parameters=YARN_ROPE), 16, torch.bfloat16, n_tok=96),
        "qwen2-a": lambda n: make(n, Qwen2ForCausalLM, Q(tie_word_embeddings=True), 21),
        "qwen2-b": lambda n: make(n, Qwen2ForCausalLM, Q(rope_parameters=dict(rope_type="default", rope_theta=1e6)), 22, torch.bfloat16, 2),
        "qwen2-window": lambda n: make(n, Qwen2ForCausalLM, Q(use_sliding_window=True, sliding_window=16, max_window_layers=1), 23, torch.bfloat16, n_tok=96),
        "llama-fp8": lambda n: make(n, LlamaForCausalLM, L(**{**big, "hidden_size": 160, "intermediate_size": 288, "head_dim": 32, "num_attention_heads": 5,
                                                              "num_key_value_heads": 1}), 31, quant="fp8", extra=f8([128, 128])),
        "llama-fp8-32": lambda n: make(n, LlamaForCausalLM, L(**big), 32, quant="fp8-32", extra=f8([32, 32])),
        "llama-fp8-1x32": lambda n: make(n, LlamaForCausalLM, L(**big), 33, quant="fp8-1x32", extra=f8([1, 32])),
        "llama-fp4": lambda n: make(n, LlamaForCausalLM, L(**big), 34, quant="fp4"),
        "llama-nvfp4": lambda n: make(n, LlamaForCausalLM, L(**big), 35, quant="nvfp4"),
    }


if __name__ == "__main__":
    for name, fn in all_of_them().items():
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            fn(name)
