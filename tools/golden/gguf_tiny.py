"""Tiny GGUF models in every number format, with transformers' logits: python3 tools/golden/gguf_tiny.py [NAME...]

The gguf package packs the formats it can; for the K formats it cannot, blocks are random bytes with sane scales. Either way
the reference runs on what gguf's own dequantisation says the bytes mean.
"""
import os
import sys

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from common import fresh, randomise, reference, tokens_for, write_golden

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden")
D_OFFSETS = {T.Q2_K: (80, 82), T.Q3_K: (108,), T.Q4_K: (0, 2), T.Q5_K: (0, 2), T.Q6_K: (208,)}


def random_blocks(shape, t, rng):
    """Bytes [rows, row_bytes] of a K format whose values have a standard deviation of about 1.5 / sqrt(columns)."""
    block, size = gguf.GGML_QUANT_SIZES[t]
    n = shape[0] * shape[1] // block
    b = rng.integers(0, 256, (n, size), dtype=np.uint8)

    def with_d(d):
        for k, off in enumerate(D_OFFSETS[t]):
            v = (d * (1 if k == 0 else 0.7) * rng_scale).astype(np.float16)
            b[:, off:off + 2] = v.view(np.uint8).reshape(n, 2)
        return b.reshape(shape[0], -1)

    rng_scale = rng.uniform(0.5, 1.5, n)
    std = gguf.quants.dequantize(with_d(0.01), t).std()
    return with_d(0.01 * 1.5 / shape[1] ** 0.5 / std)


def pack(w, t, rng):
    """-> (bytes or array for the writer, float32 values they stand for)"""
    if t in D_OFFSETS:
        raw = random_blocks(w.shape, t, rng)
        return raw, gguf.quants.dequantize(raw, t)
    raw = gguf.quants.quantize(w, t).copy()          # for F32 it is w itself, which the reference overwrites
    return raw, gguf.quants.dequantize(raw, t)


def to_hf(w, n_head):
    """GGUF's llama q and k rows are ordered for interleaved rotation; Hugging Face's for halves."""
    return w.reshape(n_head, w.shape[0] // n_head // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def make(name, arch, kinds, seed, n_head=4, n_kv=4, tied=False, rope_factors=None, version=3):
    path = fresh(os.path.join(ROOT, name))
    rng = np.random.default_rng(seed)
    kw = dict(vocab_size=128, hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=n_head, num_key_value_heads=n_kv,
              max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=tied)
    rope = dict(rope_type="default", rope_theta=5000.0)
    if rope_factors:
        rope = dict(rope_type="llama3", rope_theta=5000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
    cls = LlamaForCausalLM if arch == "llama" else Qwen2ForCausalLM
    cfg = (LlamaConfig if arch == "llama" else Qwen2Config)(rope_parameters=rope, **kw)
    cfg._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = cls(cfg)
    randomise(model, seed)
    w = gguf.GGUFWriter(os.path.join(path, "model.gguf"), arch)
    w.add_context_length(128)
    w.add_embedding_length(256)
    w.add_block_count(1)
    w.add_feed_forward_length(256)
    w.add_head_count(n_head)
    w.add_head_count_kv(n_kv)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(5000.0)
    w.add_vocab_size(128)
    if arch == "llama":
        w.add_rope_dimension_count(256 // n_head)
    if rope_factors:
        inv = 5000.0 ** -(np.arange(0, 256 // n_head, 2, dtype=np.float64) / (256 // n_head))
        # what the converter writes: old frequency / new frequency
        new = model.model.rotary_emb.inv_freq.double().numpy()
        w.add_tensor("rope_freqs.weight", (inv / new).astype(np.float32))
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for hf, g in {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
                  "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
                  "post_attention_layernorm": "ffn_norm"}.items():
        names["model.layers.0." + hf] = "blk.0." + g
    with torch.no_grad():
        for full, p in model.named_parameters():
            stem, kind = full.rsplit(".", 1)
            stem_g = names[stem]
            heads = {"attn_q": n_head, "attn_k": n_kv}.get(stem_g.rsplit(".")[-1], 0) if arch == "llama" else 0
            if p.dim() == 1:
                w.add_tensor(stem_g + "." + kind, p.numpy())
                continue
            t = kinds.get(stem_g.rsplit(".")[-1], kinds[""])
            raw, value = pack(p.numpy(), t, rng)
            w.add_tensor(stem_g + "." + kind, raw, raw_dtype=t)
            p.copy_(torch.from_numpy(np.ascontiguousarray(to_hf(value, heads) if heads else value)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    if version == 2:                      # v2 and v3 differ in the number only
        with open(os.path.join(path, "model.gguf"), "r+b") as f:
            f.seek(4)
            f.write((2).to_bytes(4, "little"))
    tokens = tokens_for(seed, 40, 128)
    logits, _ = reference(model, tokens)
    write_golden(path, tokens, logits, {})
    print(name, "max |logit| %.3f" % logits.abs().max())


ALL = {
    "gguf-legacy": lambda n: make(n, "llama", {"": T.Q4_0, "attn_q": T.Q4_1, "attn_k": T.Q5_0, "attn_v": T.Q5_1, "ffn_gate": T.Q8_0, "token_embd": T.Q8_0}, 41),
    "gguf-k": lambda n: make(n, "llama", {"": T.Q4_K, "attn_q": T.Q2_K, "attn_k": T.Q3_K, "attn_v": T.Q5_K, "ffn_down": T.Q6_K, "token_embd": T.Q6_K}, 42, n_kv=2, tied=True),
    "gguf-mxfp4": lambda n: make(n, "llama", {"": T.MXFP4, "attn_q": T.F32, "attn_k": T.F16, "attn_v": T.BF16, "output": T.BF16, "token_embd": T.F16}, 43,
                                 rope_factors=True),
    "gguf-qwen2": lambda n: make(n, "qwen2", {"": T.Q8_0, "attn_v": T.F16, "token_embd": T.Q4_0}, 44, n_kv=2, version=2),
}

if __name__ == "__main__":
    for name, fn in ALL.items():
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            fn(name)
