"""GGUF files of the DeepSeek architectures as llama.cpp writes them: python3 tools/golden/gguf_deepseek.py --converter DIR [NAME...]

DIR is a checkout of llama.cpp with conversion/ and gguf-py/. Where its converter takes the tiny checkpoints, the file is the
converter's own (marked below), and what this script would have written is compared with it, key by key and tensor by tensor: so
are the files that the converter cannot make (older layouts, formats it does not pack, float32 experts of V4) known to be right.

Files of an existing checkpoint take its golden numbers: gguf-NAME has those of NAME. Quantised ones have their own: transformers
on what gguf's dequantisation says the bytes mean.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM

from common import fresh, randomise, tokens_for, write_golden
from gguf_layout import arch_of, latent_map, metadata, v4_map
from gguf_tiny import pack
from latent_tiny import BASE, YARN, Margins, unfuse

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden")


def write(path, arch, cfg, state, kind_of, seed=0, legacy=False, three=False, draft=False, part=0):
    """Returns the state as the file holds it. three: V4's grouped output projection as [groups, rank, columns], which llama.cpp
    takes as well. draft: a draft module behind the layers, or what suffices to see one. part: tensors of a
    file, the model in several."""
    rng, held = np.random.default_rng(seed), dict(state)
    w = gguf.GGUFWriter(path, arch, split_max_tensors=part)
    metadata(w, arch, {**cfg, "num_hidden_layers": cfg["num_hidden_layers"] + draft}, legacy)
    if draft:
        d = cfg["hidden_size"]
        w.add_uint32(arch + ".nextn_predict_layers", 1)
        for name in ("attn_norm", "nextn.enorm", "nextn.hnorm"):
            w.add_tensor("blk.%d.%s.weight" % (cfg["num_hidden_layers"], name), np.ones(d, np.float32))
        w.add_tensor("blk.%d.nextn.eh_proj.weight" % cfg["num_hidden_layers"], pack(np.ones((d, 2 * d), np.float32), T.Q2_K, rng)[0], raw_dtype=T.Q2_K)
    for name, t in (v4_map(cfg, state) if arch == "deepseek4" else latent_map(cfg, state, legacy)).items():
        x = t.get(state)
        if x.dtype.kind == "i":
            w.add_tensor(name, x.astype(np.int32))
            continue
        kind = kind_of(name, x.shape)
        raw, value = pack(np.ascontiguousarray(x.reshape(-1, x.shape[-1])), kind, rng)
        shape = (cfg["o_groups"], -1) if "attn_output_a" in name and three else x.shape[:-1]
        w.add_tensor(name, np.ascontiguousarray(raw).reshape(*shape, raw.shape[-1]), raw_dtype=kind)
        t.set(held, value.reshape(x.shape))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return held


# ---- llama.cpp's converter ----

LETTERS = "abcdefghijklmnopqrstuvwxyz.,!?0123456789"
SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]


def write_tokenizer(path):
    """A byte-level BPE of few pieces: enough for the converter, and for a file that hadal can chat with."""
    vocab = {t: i for i, t in enumerate(SPECIAL + list(LETTERS) + ["Ġ", "Ċ", "th", "the", "Ġthe"])}
    added = [dict(id=i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True) for i, t in enumerate(SPECIAL)]
    split = [dict(type="Split", pattern=dict(Regex=p), behavior="Isolated", invert=False) for p in ("\\p{N}{1,3}",)]
    byte = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    doc = dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None, pre_tokenizer=dict(type="Sequence", pretokenizers=split + [byte]),
               post_processor=None, decoder=byte, model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False,
                                                             byte_fallback=False, vocab=vocab, merges=["t h", "th e", "Ġ the"]))
    with open(os.path.join(path, "tokenizer.json"), "w") as f:
        json.dump(doc, f)
    with open(os.path.join(path, "tokenizer_config.json"), "w") as f:
        json.dump(dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=SPECIAL[0], eos_token=SPECIAL[1], add_bos_token=True, add_eos_token=False), f)


DRIVER = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "deepseek-v3"    # known by a hash of real vocabularies
import transformers
transformers.PreTrainedTokenizerFast.add_bos_token = True       # as the published tokenizer's class has it
conversion.base.gguf.GGUFWriter.add_chat_template = lambda self, value: None           # the converter's own file, not the checkpoint's
import convert_hf_to_gguf
sys.argv = ["convert"] + sys.argv[2:]
convert_hf_to_gguf.main()
"""


def convert(converter, src, out, outtype):
    r = subprocess.run([sys.executable, "-c", DRIVER, converter, src, "--outfile", out, "--outtype", outtype], capture_output=True, text=True)
    if r.returncode:
        sys.exit("converter: " + r.stderr[-2000:])


def values(reader):
    out = {}
    for t in reader.tensors:
        x = t.data if t.tensor_type in (T.I32, T.F32) else gguf.quants.dequantize(t.data, t.tensor_type)
        out[t.name] = np.asarray(x).reshape([int(n) for n in reversed(t.shape)])
    return out


def compare(name, theirs, ours):
    """Of the keys that both write, and of those only one does."""
    a, b = gguf.GGUFReader(theirs), gguf.GGUFReader(ours)
    ka = {k: f.contents() for k, f in a.fields.items() if k.startswith("deepseek")}
    kb = {k: f.contents() for k, f in b.fields.items() if k.startswith("deepseek")}
    for k in sorted(set(ka) | set(kb)):
        if ka.get(k) != kb.get(k):
            print("  %s: %s: converter %s, this script %s" % (name, k, ka.get(k), kb.get(k)))
    va, vb = values(a), values(b)
    assert set(va) == set(vb), sorted(set(va) ^ set(vb))
    for k in va:
        assert va[k].shape == vb[k].shape and np.array_equal(va[k], vb[k]), k
    print("  %s: %d tensors agree with the converter's" % (name, len(va)))


# ---- checkpoints ----

def read_checkpoint(path):
    with open(os.path.join(path, "config.json")) as f:
        cfg = json.load(f)
    state = {}
    for file in sorted(os.listdir(path)):
        if file.startswith("model") and file.endswith(".safetensors"):
            state.update(load_file(os.path.join(path, file)))
    return cfg, unfuse(state)


def as_numpy(state):
    return {k: (v.numpy() if v.dtype in (torch.int64, torch.int32) else v.float().numpy()) for k, v in state.items()}


def write_checkpoint(path, cfg, state):
    os.makedirs(path, exist_ok=True)                  # the directory's name goes into the file
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(cfg, f)
    save_file({k: v.contiguous() for k, v in state.items()}, os.path.join(path, "model.safetensors"))


def logits_of(cfg, state, tokens):
    """transformers on a state of numpy arrays; also the indexer's margin."""
    with tempfile.TemporaryDirectory() as tmp:
        cfg = {k: v for k, v in cfg.items() if k != "quantization_config"}
        write_checkpoint(tmp, {**cfg, "dtype": "float32", "torch_dtype": "float32"}, {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()})
        model = AutoModelForCausalLM.from_pretrained(tmp, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad(), Margins() as m:
            return model(torch.tensor([tokens]), use_cache=False).logits[0], m.gap


def with_gate(cfg):
    """What the published config.json of V3 and V3.2 says and transformers' class does not."""
    return {**cfg, "scoring_func": "softmax" if cfg["model_type"] == "deepseek_v2" else "sigmoid"} if cfg["model_type"] != "deepseek_v4" else cfg


def keep(name, src, converter):
    """The file of an existing checkpoint; its numbers are those of that checkpoint."""
    path, own = fresh(os.path.join(ROOT, name)), os.path.join(ROOT, src)
    cfg, state = read_checkpoint(own)
    cfg = with_gate(cfg)
    arch, dtype = arch_of(cfg), next(v.dtype for k, v in state.items() if "proj" in k or "wq" in k)
    kind = T.BF16 if dtype == torch.bfloat16 else T.F32
    out = os.path.join(path, "model.gguf")
    if arch == "deepseek4":                           # the converter takes packed experts only
        write(out, arch, cfg, as_numpy(state), lambda n, s: T.F32, three=True, part=40)
    else:
        with tempfile.TemporaryDirectory() as tmp:
            src = os.path.join(tmp, "tiny")
            write_checkpoint(src, cfg, state)
            write_tokenizer(src)
            convert(converter, src, out, "bf16" if kind == T.BF16 else "f32")
            ours = os.path.join(tmp, "ours.gguf")
            write(ours, arch, cfg, as_numpy(state), lambda n, s: T.F32 if len(s) == 1 or "ffn_gate_inp" in n else kind)
            compare(name, out, ours)
    print(name, os.listdir(path))


def make_latent(name, cls, config, kinds, seed, legacy=False, gate_key=True, draft=False):
    """A random model in mixed formats, written by this script; kinds: stem -> format, "" the others."""
    path = fresh(os.path.join(ROOT, name))
    torch.manual_seed(seed)
    model = cls(config)
    randomise(model, seed)
    g = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for k, p in list(model.named_parameters()) + list(model.named_buffers()):
            if k.endswith("e_score_correction_bias"):
                p.copy_(0.3 * torch.randn(p.shape, generator=g))
            elif k.endswith("gate.weight"):
                p.copy_(torch.randn(p.shape, generator=g) * 2 / p.shape[-1] ** 0.5)
    cfg = with_gate(config.to_dict())
    state = as_numpy(unfuse(model.state_dict()))
    if not gate_key:
        del cfg["scoring_func"]

    def kind_of(n, shape):
        stem = n.split(".", 2)[2] if n.startswith("blk.") else n
        return T.F32 if len(shape) == 1 or "ffn_gate_inp" in n else kinds.get(stem.rsplit(".", 1)[0], kinds[""])

    held = write(os.path.join(path, "model.gguf"), arch_of(cfg), cfg, state, kind_of, seed, legacy, draft=draft)
    tokens = tokens_for(seed, 60, cfg["vocab_size"])
    logits, _ = logits_of(cfg, held, tokens)
    write_golden(path, tokens, logits, {})
    print(name, "max |logit| %.3f" % logits.abs().max(), os.path.getsize(os.path.join(path, "model.gguf")))


# ---- V4 as published: fp8 matrices, fp4 experts ----

V4 = dict(vocab_size=96, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, head_dim=32, qk_rope_head_dim=16, q_lora_rank=64, o_lora_rank=32, o_groups=2,
          sliding_window=24, index_n_heads=16, index_head_dim=32, index_topk=28, moe_intermediate_size=32, n_routed_experts=6, n_shared_experts=1, num_experts_per_tok=2,
          num_hash_layers=1, hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6, rms_norm_eps=1e-6, routed_scaling_factor=1.5, norm_topk_prob=True, scoring_func="sqrtsoftplus",
          swiglu_limit=2.0, rope_theta=10000, compress_rope_theta=160000, compress_ratios=[0, 4, 128, 0], max_position_embeddings=4096, num_nextn_predict_layers=1,
          num_key_value_heads=1, tie_word_embeddings=False, hidden_act="silu", attention_bias=False, bos_token_id=0, eos_token_id=1, topk_method="noaux_tc",
          rope_scaling=dict(type="yarn", factor=8, original_max_position_embeddings=128, beta_fast=32, beta_slow=1), model_type="deepseek_v4",
          architectures=["DeepseekV4ForCausalLM"], dtype="bfloat16", torch_dtype="bfloat16", quantization_config=dict(quant_method="fp8", fmt="e4m3", weight_block_size=[128, 128]))


def v4_shapes(c):
    d, hd, h, r, f, e, hc = c["hidden_size"], c["head_dim"], c["num_attention_heads"], c["q_lora_rank"], c["moe_intermediate_size"], c["n_routed_experts"], c["hc_mult"]
    s = {"embed.weight": (c["vocab_size"], d), "norm.weight": (d,), "head.weight": (c["vocab_size"], d), "hc_head_fn": (hc, hc * d), "hc_head_base": (hc,), "hc_head_scale": (1,)}
    for i in range(c["num_hidden_layers"]):
        p, ratio = "layers.%d." % i, c["compress_ratios"][i]
        s.update({p + k: v for k, v in {
            "attn_norm.weight": (d,), "ffn_norm.weight": (d,), "attn.wq_a.weight": (r, d), "attn.q_norm.weight": (r,), "attn.wq_b.weight": (h * hd, r), "attn.wkv.weight": (hd, d),
            "attn.kv_norm.weight": (hd,), "attn.attn_sink": (h,), "attn.wo_a.weight": (c["o_groups"] * c["o_lora_rank"], h * hd // c["o_groups"]),
            "attn.wo_b.weight": (d, c["o_groups"] * c["o_lora_rank"]), "ffn.gate.weight": (e, d)}.items()})
        for b in ("attn", "ffn"):
            s.update({p + "hc_%s_fn" % b: (hc * (2 + hc), hc * d), p + "hc_%s_base" % b: (hc * (2 + hc),), p + "hc_%s_scale" % b: (3,)})
        if ratio:
            w = hd * (2 if ratio == 4 else 1)
            s.update({p + "attn.compressor." + k: v for k, v in {"ape": (ratio, w), "wkv.weight": (w, d), "wgate.weight": (w, d), "norm.weight": (hd,)}.items()})
        if ratio == 4:
            ih, idim = c["index_n_heads"], c["index_head_dim"]
            s.update({p + "attn.indexer." + k: v for k, v in {
                "wq_b.weight": (ih * idim, r), "weights_proj.weight": (ih, d), "compressor.ape": (4, 2 * idim), "compressor.wkv.weight": (2 * idim, d),
                "compressor.wgate.weight": (2 * idim, d), "compressor.norm.weight": (idim,)}.items()})
        if i >= c["num_hash_layers"]:
            s[p + "ffn.gate.bias"] = (e,)
        for x in ["experts.%d" % k for k in range(e)] + ["shared_experts"]:
            s.update({p + "ffn.%s.w1.weight" % x: (f, d), p + "ffn.%s.w3.weight" % x: (f, d), p + "ffn.%s.w2.weight" % x: (d, f)})
    return s


def v4_published(c, seed):
    """Random weights in the published formats."""
    g, out = torch.Generator().manual_seed(seed), {}
    for k, shape in v4_shapes(c).items():
        x = torch.randn(shape, generator=g)
        if ".experts." in k:                          # fp4 e2m1, two values a byte, a ue8m0 scale for 32
            out[k] = torch.randint(0, 256, (shape[0], shape[1] // 2), generator=g).to(torch.uint8).view(torch.int8)
            scale = torch.randint(124, 127, (shape[0], shape[1] // 32), generator=g).to(torch.uint8)
            out[k[:-len("weight")] + "scale"] = scale.view(torch.float8_e8m0fnu)
        elif len(shape) == 2 and any(n in k for n in ("wq_a", "wq_b", "attn.wkv", "wo_a", "wo_b", "shared_experts")) and "compressor" not in k:
            out[k] = (x * 1.5 / shape[1] ** 0.5 * 16).to(torch.float8_e4m3fn)
            out[k[:-len("weight")] + "scale"] = torch.full(((shape[0] + 127) // 128, (shape[1] + 127) // 128), 123, dtype=torch.uint8).view(torch.float8_e8m0fnu)
        elif k.endswith("norm.weight"):
            out[k] = (1 + 0.3 * x).to(torch.bfloat16)
        elif any(n in k for n in ("hc_", "attn_sink", "ape", "gate.bias")):
            out[k] = x * (0.3 if x.dim() == 1 else 1 / shape[-1] ** 0.5)
        else:
            out[k] = (x * (1 if k == "embed.weight" else 1.5 / shape[-1] ** 0.5)).to(torch.bfloat16)
    for i in range(c["num_hash_layers"]):
        out["layers.%d.ffn.gate.tid2eid" % i] = torch.stack([torch.randperm(c["n_routed_experts"], generator=g)[:c["num_experts_per_tok"]] for _ in range(c["vocab_size"])])
    return out


def make_v4(name, seed, converter):
    path = fresh(os.path.join(ROOT, name))
    out = os.path.join(path, "model.gguf")
    with tempfile.TemporaryDirectory() as tmp:
        src = os.path.join(tmp, "tiny")
        write_checkpoint(src, V4, v4_published(V4, seed))
        write_tokenizer(src)
        convert(converter, src, out, "bf16")
        held = values(gguf.GGUFReader(out))
        state = {k: np.zeros(s, np.float32) for k, s in v4_shapes(V4).items()}
        state.update({"layers.%d.ffn.gate.tid2eid" % i: np.zeros((V4["vocab_size"], V4["num_experts_per_tok"]), np.int64) for i in range(V4["num_hash_layers"])})
        m = v4_map(V4, state)
        assert set(m) == set(held), sorted(set(m) ^ set(held))
        for k, t in m.items():
            t.set(state, held[k].astype(np.int64) if "tid2eid" in k else held[k].astype(np.float32))
        ours = os.path.join(tmp, "ours.gguf")
        write(ours, "deepseek4", V4, state, lambda n, s: T.F32)
        compare(name, out, ours)
    tokens = tokens_for(seed, 140, V4["vocab_size"])
    cfg = {**V4, "compress_ratios": V4["compress_ratios"][:V4["num_hidden_layers"]], "num_nextn_predict_layers": 0}
    logits, gap = logits_of(cfg, state, tokens)
    if gap < 1e-3:                                    # fast modes must choose alike, too
        return make_v4(name, seed + 100, converter)
    write_golden(path, tokens, logits, {})
    print(name, "seed %d, max |logit| %.3f, margin %.2g, %d bytes" % (seed, logits.abs().max(), gap, os.path.getsize(out)))


QUANT = {**BASE, "vocab_size": 64, "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 64, "moe_intermediate_size": 32, "n_routed_experts": 6, "n_shared_experts": 1,
         "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 4}
V2_LEGACY = {**QUANT, "hidden_size": 128, "q_lora_rank": None, "topk_method": "greedy", "kv_lora_rank": 64, "routed_scaling_factor": 1.0}
V3_K = {**QUANT, "num_hidden_layers": 1, "first_k_dense_replace": 0, "q_lora_rank": 64, "kv_lora_rank": 256, "n_group": 3, "topk_group": 2, "routed_scaling_factor": 2.5}

ALL = {
    "gguf-v2-yarn": lambda n, c: keep(n, "v2-yarn", c),               # the converter's
    "gguf-v3-a": lambda n, c: keep(n, "v3-a", c),                     # the converter's
    "gguf-v32-a": lambda n, c: keep(n, "v32-a", c),                   # the converter's
    "gguf-v4-f32-mini": lambda n, c: keep(n, "v4-f32-mini", c),
    "gguf-v4-mx": lambda n, c: make_v4(n, 61, c),                     # the converter's
    "gguf-v2-legacy": lambda n, c: make_latent(n, DeepseekV2ForCausalLM, DeepseekV2Config(**V2_LEGACY, rope_parameters={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}),
                                               {"": T.Q8_0, "attn_output": T.Q5_1, "attn_kv_b": T.Q5_0, "ffn_gate_exps": T.Q4_0, "ffn_up_exps": T.Q4_1, "token_embd": T.F16}, 71,
                                               legacy=True, gate_key=False),
    "gguf-v3-k": lambda n, c: make_latent(n, DeepseekV3ForCausalLM, DeepseekV3Config(**V3_K, rope_parameters=YARN),
                                          {"": T.Q4_K, "attn_k_b": T.Q8_0, "attn_v_b": T.Q6_K, "attn_kv_a_mqa": T.Q5_K, "attn_output": T.Q8_0, "attn_q_b": T.Q5_0,
                                           "ffn_down_exps": T.MXFP4, "ffn_up_exps": T.Q3_K, "ffn_down_shexp": T.Q4_0, "output": T.Q6_K}, 72, draft=True),
}

if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--converter", required=True)
    p.add_argument("names", nargs="*")
    a = p.parse_args()
    for name, fn in ALL.items():
        if not a.names or name in a.names:
            fn(name, a.converter)
