"""What the golden makers share: writing a checkpoint as Hugging Face lays it out, and the reference's answer beside it.

A golden directory holds a checkpoint and golden.safetensors:
    tokens   i64 [T]
    logits   f32 [T, V]      transformers, float32, eager attention, on the weights as stored (dequantised)
    NAME     f32 [T, D]      layer by layer: embed, layers.L.out, norm
"""
import json
import os
import shutil

import numpy as np
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def randomise(model, seed):
    """Weights large enough that attention and gates are far from uniform; norms around 1; biases not zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                base = 0.0 if name.endswith("bias") else 1.0
                p.copy_(base + 0.3 * torch.randn(p.shape, generator=g))
            elif "embed" in name:
                p.copy_(torch.randn(p.shape, generator=g))
            else:
                p.copy_(torch.randn(p.shape, generator=g) * 1.5 / p.shape[-1] ** 0.5)


def write_config(path, config, **extra):
    d = config.to_dict()
    d.update(extra)
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(d, f, indent=1, sort_keys=True)
        f.write("\n")


def write_weights(path, state, n_shard=1):
    state = {k: v.contiguous() for k, v in state.items()}
    if n_shard == 1:
        save_file(state, os.path.join(path, "model.safetensors"))
        return
    names = sorted(state)
    index = {"metadata": {"total_size": sum(v.numel() * v.element_size() for v in state.values())}, "weight_map": {}}
    for s in range(n_shard):
        part = names[s::n_shard]
        file = "model-%05d-of-%05d.safetensors" % (s + 1, n_shard)
        save_file({k: state[k] for k in part}, os.path.join(path, file))
        index["weight_map"].update({k: file for k in part})
    with open(os.path.join(path, "model.safetensors.index.json"), "w") as f:
        json.dump(index, f, indent=1, sort_keys=True)
        f.write("\n")


def reference(model, tokens):
    model = model.float().eval()
    with torch.no_grad():
        out = model(torch.tensor([tokens]), output_hidden_states=True, use_cache=False)
    hs = out.hidden_states
    r = {"embed": hs[0][0], "norm": hs[-1][0]}
    for i in range(1, len(hs) - 1):
        r["layers.%d.out" % (i - 1)] = hs[i][0]
    return out.logits[0], r


def write_golden(path, tokens, logits, trace):
    t = {"tokens": torch.tensor(tokens, dtype=torch.int64), "logits": logits.float()}
    t.update({k: v.float() if v.is_floating_point() else v for k, v in trace.items()})
    save_file({k: v.contiguous().clone() for k, v in t.items()}, os.path.join(path, "golden.safetensors"))


def tokens_for(seed, n, n_vocab):
    return [int(x) for x in np.random.default_rng(seed).integers(0, n_vocab, n)]
