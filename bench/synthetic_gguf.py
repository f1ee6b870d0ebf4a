"""A checkpoint of `hadal bench --synthetic` as GGUF, the same weights: python3 bench/synthetic_gguf.py DIR OUT.gguf [--type q8_0]

fp4 matrices (E2M1, a UE8M0 scale for 32) become MXFP4 without loss: the two differ in the order of nibbles. fp8 ones, which GGUF lacks, are rounded
once to --type; so are bf16 ones, unless the checkpoint has fp8: there they stay. Vectors, what is f32 and routers are f32. Needs numpy and gguf.
"""
import argparse
import json
import os
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "golden"))
from gguf_layout import Stack, arch_of, latent_map, metadata, v4_map  # noqa: E402

NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I8": "u1", "F8_E4M3": "u1", "F8_E8M0": "u1"}


def e4m3_table():
    b = np.arange(256)
    e, m = (b >> 3 & 15).astype(np.float64), (b & 7).astype(np.float64)
    v = np.where(e == 0, m / 8 * 2.0**-6, (1 + m / 8) * 2.0 ** (e - 7)) * np.where(b & 128, -1, 1)
    v[(b & 127) == 127] = np.nan
    return v.astype(np.float32)


E4M3 = e4m3_table()


class Checkpoint:
    """A safetensors file by name: float32 values, or the bytes as they lie."""

    def __init__(self, path):
        with open(path, "rb") as f:
            n = int.from_bytes(f.read(8), "little")
            self.entry = json.loads(f.read(n))
        self.entry.pop("__metadata__", None)
        self.data = np.memmap(path, np.uint8, "r", 8 + n)

    def __contains__(self, name):
        return name in self.entry

    def type(self, name):
        return self.entry[name]["dtype"]

    def raw(self, name):
        e = self.entry[name]
        a, b = e["data_offsets"]
        return self.data[a:b].view(NUMPY[e["dtype"]]).reshape(e["shape"])

    def scale(self, name):
        return self.raw(name[: -len("weight")] + "scale")

    def __getitem__(self, name):
        raw, kind = self.raw(name), self.type(name)
        if kind == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        if kind == "F8_E4M3":
            scale = np.ldexp(np.float32(1), self.scale(name).astype(np.int32) - 127)
            return E4M3[raw] * np.repeat(np.repeat(scale, 128, 0)[: raw.shape[0]], 128, 1)[:, : raw.shape[1]]
        if kind == "I8":
            raise ValueError("%s: packed: take its bytes" % name)
        return raw if kind in ("I64", "I32") else raw.astype(np.float32)


class Shapes:
    """The checkpoint's shapes, as arrays of nothing."""

    def __init__(self, state):
        self.state = state

    def __getitem__(self, name):
        *rows, n = self.state.entry[name]["shape"]
        return np.broadcast_to(np.int8(0), (*rows, 2 * n if self.state.type(name) == "I8" else n))


def mxfp4(raw, scale):
    """[rows, columns / 2] bytes, two neighbours each, and [rows, columns / 32] exponents -> blocks of 17 bytes: exponent, then value i beside i + 16."""
    rows, blocks = scale.shape
    q = raw.reshape(rows, blocks, 16)
    value = np.stack([q & 15, q >> 4], -1).reshape(rows, blocks, 32)
    out = np.empty((rows, blocks, 17), np.uint8)
    out[:, :, 0] = scale
    out[:, :, 1:] = value[:, :, :16] | value[:, :, 16:] << 4
    return out.reshape(rows, blocks * 17)


def first_of(view):
    return view.names[0] if isinstance(view, Stack) else view.name


def kind_of(state, name, view, fp8, kind):
    """The GGML type of a tensor; None: integers."""
    src = first_of(view)
    have, dims = state.type(src), len(state.entry[src]["shape"])
    if have in ("I64", "I32"):
        return None
    if have == "I8":
        return T.MXFP4
    if have == "F8_E4M3":
        return kind
    if dims == 1 or have == "F32" or "ffn_gate_inp" in name:
        return T.F32
    return T.BF16 if fp8 else kind


def bytes_of(state, view, kind):
    """What stands in the file."""
    if kind is None:
        return view.get(state).astype(np.int32)
    if kind == T.MXFP4:
        return np.stack([mxfp4(state.raw(n), state.scale(n)) for n in view.names])
    x = np.ascontiguousarray(view.get(state), np.float32)
    raw = gguf.quants.quantize(x.reshape(-1, x.shape[-1]), kind)
    return np.ascontiguousarray(raw).reshape(*x.shape[:-1], raw.shape[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("checkpoint")
    p.add_argument("out")
    p.add_argument("--type", default="q8_0", choices=("q8_0", "q4_0", "q4_1", "q5_0", "bf16", "f16", "f32"))
    a = p.parse_args()
    with open(os.path.join(a.checkpoint, "config.json")) as f:
        cfg = json.load(f)
    state, arch, kind = Checkpoint(os.path.join(a.checkpoint, "model.safetensors")), arch_of(cfg), T[a.type.upper()]
    views = v4_map(cfg, state) if arch == "deepseek4" else latent_map(cfg, state)
    fp8 = any(e["dtype"] == "F8_E4M3" for e in state.entry.values())
    kinds = {name: kind_of(state, name, view, fp8, kind) for name, view in views.items()}
    w = gguf.GGUFWriter(a.out + ".part", arch)
    metadata(w, arch, cfg)
    w.add_string("tokenizer.ggml.model", "none")
    if arch == "deepseek4":
        w.add_vocab_size(cfg["vocab_size"])
    for name, view in views.items():
        shape = view.get(Shapes(state)).shape
        block, size = gguf.GGML_QUANT_SIZES[T.I32 if kinds[name] is None else kinds[name]]
        w.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(shape)) // block * size, raw_dtype=T.I32 if kinds[name] is None else kinds[name])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    for name, view in views.items():
        w.write_tensor_data(bytes_of(state, view, kinds[name]))
    w.close()
    os.replace(a.out + ".part", a.out)


if __name__ == "__main__":
    main()
