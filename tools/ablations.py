#!/usr/bin/env python3
"""What every part of the architecture is worth in small: trains a base model and variants that differ in one thing, several seeds each, and writes the table.

    tools/ablations.py TEXT [--out DIR] [--hadal PATH] [--threads N] [--seeds N] [--only ARM,...] [--steps N] [--table FILE]

TEXT is any text file; characters are its tokens. A finished run is a file of results in DIR (DIR/ARM.SEED.json) and is not run again, so the script may be
stopped and started at any time; seeds go round the arms, so that a table can be made early. --table writes a table of what there is, in Markdown.
"""
import argparse
import copy
import json
import os
import re
import resource
import shutil
import subprocess
import sys

BASE = {"architectures": ["HadalForCausalLM"], "model_type": "hadal", "hidden_size": 64, "num_hidden_layers": 4, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "rope_theta": 10000,
        "attention_type": "csa2", "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32, "qk_rope_head_dim": 16, "q_lora_rank": 64, "o_lora_rank": 32, "o_groups": 1,
        "sliding_window": 16, "compress_ratios": [0, 2, 1, 1], "kv_source_layer_ids": [1, 2], "index_source_layer_ids": [1, 2], "index_n_heads": 2, "index_head_dim": 16, "index_topk": 16,
        "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "scoring_func": "sqrtsoftplus", "routed_scaling_factor": 1.5, "swiglu_limit": 10.0,
        "residual_type": "mhc_v41", "hc_mult": 4, "hc_sinkhorn_iters": 20,
        "engram_type": "v41", "engram_layer_ids": [0, 2], "engram_max_ngram_size": 4, "engram_n_heads": 1, "engram_head_dim": 32, "engram_vocab_size": 4096}
NO_ENGRAM = {"engram_type": "none", "engram_layer_ids": None}
V4 = {"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32,
      "qk_rope_head_dim": 16, "q_lora_rank": 64, "o_lora_rank": 32, "o_groups": 1, "sliding_window": 16, "compress_ratios": [0, 4, 4, 4, 0], "index_n_heads": 2, "index_head_dim": 16, "index_topk": 8,
      "moe_intermediate_size": 32, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "num_hash_layers": 0, "scoring_func": "sqrtsoftplus", "norm_topk_prob": True,
      "routed_scaling_factor": 1.5, "swiglu_limit": 10.0, "rms_norm_eps": 1e-6, "hc_mult": 4, "hc_sinkhorn_iters": 20, "max_position_embeddings": 4096, "rope_theta": 10000, "num_nextn_predict_layers": 1}
DEEP = {"architectures": ["HadalForCausalLM"], "model_type": "hadal", "hidden_size": 32, "num_hidden_layers": 32, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "rope_theta": 10000,
        "attention_type": "gqa", "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64, "residual_type": "mhc_v41", "hc_mult": 4, "hc_sinkhorn_iters": 20}
TRAIN = {"tokenizer": "used-bytes", "context": 64, "batch_tokens": 512, "steps": 240, "log_every": 1000000, "init_std": 0.02, "optimizer": {"name": "muon", "lr": 3e-3, "ns_steps": 5},
         "schedule": {"name": "cosine", "warmup": 12, "last": 0.1}}

# name, what it is, what is measured against, fields of the model, fields of the run
ARMS = [
    ("base", "csa2, mHC of 4 streams, 8 experts (2 used, 1 shared), Engram", None, BASE, {}),
    ("no-engram", "no Engram: the same backbone, the same operations but the tables'", "base", {**BASE, **NO_ENGRAM}, {}),
    ("deep-mhc", "32 narrow layers, mHC", None, DEEP, {"steps": 160, "batch_tokens": 256}),
    ("deep-hc", "the same with HC", "deep-mhc", {**DEEP, "residual_type": "hc"}, {"steps": 160, "batch_tokens": 256}),
    ("adamw", "AdamW (rate 3e-3) instead of Muon", "base", BASE, {"optimizer": {"name": "adamw", "lr": 3e-3}}),
    ("no-bias", "experts' biases stay zero", "base", BASE, {"balance": {"bias_speed": 0}}),
    ("engram-as-experts", "no Engram, 40 experts instead of 8: as many parameters, the same operations", "base", {**BASE, **NO_ENGRAM, "n_routed_experts": 40}, {}),
    ("hc", "HC: mixes of streams unconstrained", "base", {**BASE, "residual_type": "hc"}, {}),
    ("plain", "one residual stream", "base", {**BASE, "residual_type": "plain"}, {}),
    ("mla", "MLA instead of csa2", "base", {**BASE, "attention_type": "mla", "kv_lora_rank": 32, "qk_nope_head_dim": 16, "v_head_dim": 32}, {}),
    ("fp4", "rounded to fp4 (experts) and fp8 from 0.8 of the run on", "base", BASE, {"qat": {"from": 0.8}}),
    ("v4-mtp", "V4's blocks with an MTP module", None, V4, {}),
    ("v4", "the same without it", "v4-mtp", {**V4, "num_nextn_predict_layers": 0}, {}),
    ("adamw-6", "AdamW (rate 6e-3) instead of Muon", "base", BASE, {"optimizer": {"name": "adamw", "lr": 6e-3}}),
]


def config(text, arm, seed, steps, out):
    model = {k: v for k, v in arm[3].items() if v is not None}
    run = {**copy.deepcopy(TRAIN), **arm[4]}
    run["steps"] = max(8, run["steps"] * steps // TRAIN["steps"])
    return {**run, "model": model, "out": out, "data": {"train": text, "val_part": 0.01}, "seed": seed, "eval_every": max(1, run["steps"] // 4), "save_every": 0}


def train(a, arm, seed):
    """Trains one run; its results."""
    out, path = os.path.join(a.out, f"{arm[0]}.{seed}"), os.path.join(a.out, f"{arm[0]}.{seed}.config.json")
    shutil.rmtree(out, ignore_errors=True)
    c = config(a.text, arm, seed, a.steps, out)
    with open(path, "w") as f:
        json.dump(c, f)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    p = subprocess.run([a.hadal, "train", path, "--threads", str(a.threads)], stderr=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if p.returncode:
        sys.exit(f"{arm[0]}, seed {seed}: {p.stderr}")
    size = re.search(r": ([\d.]+\S?) parameters, ([\d.]+\S?) active", p.stderr)
    with open(os.path.join(out, "metrics.jsonl")) as f:
        lines = [json.loads(line) for line in f]
    evals = [x for x in lines if "val_loss" in x]
    r = {"arm": arm[0], "seed": seed, "parameters": size[1], "active": size[2], "tokens": evals[-1]["tokens"], "val_loss": evals[-1]["val_loss"], "max_vio": evals[-1].get("val_max_vio"),
         "gain": evals[-1].get("mhc_gain"), "curve": [[x["tokens"], x["val_loss"]] for x in evals], "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)}
    shutil.rmtree(out)
    os.remove(path)
    with open(result_path(a, arm, seed) + ".new", "w") as f:
        json.dump(r, f)
    os.rename(result_path(a, arm, seed) + ".new", result_path(a, arm, seed))
    return r


def result_path(a, arm, seed):
    return os.path.join(a.out, f"{arm[0]}.{seed}.json")


def results(a, arm):
    """Its results by seed, of the runs that are finished."""
    out = {}
    for seed in range(1, a.seeds + 1):
        if os.path.exists(result_path(a, arm, seed)):
            with open(result_path(a, arm, seed)) as f:
                out[seed] = json.load(f)
    return out


def tokens_to(curve, loss):
    """Where a validation curve first is at most `loss`, between its points by a straight line; None: nowhere."""
    for (t0, l0), (t1, l1) in zip(curve, curve[1:]):
        if l1 <= loss:
            return t1 if l0 == l1 or l0 <= loss else t0 + (t1 - t0) * (l0 - loss) / (l0 - l1)
    return None


def mean_range(v, form):
    if not v or any(x is None for x in v):
        return ""
    mean = form % (sum(v) / len(v))
    return mean if len(v) == 1 else f"{mean} ({form % min(v)} to {form % max(v)})"


def table(a):
    found = {arm[0]: results(a, arm) for arm in ARMS}
    lines = ["| arm | what differs | parameters, active | runs | validation loss, nats | against its base, seed by seed | MaxVio | gain |", "|---|---|---|---|---|---|---|---|"]
    for name, what, against, _, _ in ARMS:
        r = found[name]
        if not r:
            continue
        pairs = [r[s]["val_loss"] - found[against][s]["val_loss"] for s in r if against and s in found[against]]
        first = next(iter(r.values()))
        lines.append(f"| {name} | {what} | {first['parameters']}, {first['active']} | {len(r)} | {mean_range([x['val_loss'] for x in r.values()], '%.3f')} | "
                     f"{'' if not against else mean_range(pairs, '%+.3f')} | {mean_range([x['max_vio'] for x in r.values()], '%.2f')} | {mean_range([x['gain'] for x in r.values()], '%.4g')} |")
    lines += [""] + figures(found)
    return "\n".join(lines) + "\n"


def ratios(found, arm, against, key):
    return [found[arm][s][key] / found[against][s][key] for s in found[arm] if s in found[against] and found[arm][s][key] and found[against][s][key]]


def figures(found):
    lines = []
    for arm in ("adamw", "adamw-6"):
        speed = []
        for s, r in found[arm].items():
            t = tokens_to(found["base"][s]["curve"], r["val_loss"]) if s in found["base"] else None
            speed += [r["tokens"] / t] if t else []
        if speed:
            lines.append(f"- Muon is where {arm} ends after 1/{mean_range(speed, '%.2f')} of the tokens (both on schedules for the whole length: Muon's rate is still high there).")
    for arm, against, key, what in (("no-bias", "base", "max_vio", "MaxVio without biases over with"), ("deep-hc", "deep-mhc", "gain", "Composite gain, HC over mHC, 32 layers"),
                                    ("hc", "base", "gain", "Composite gain, HC over mHC, 4 layers")):
        r = ratios(found, arm, against, key)
        if r:
            lines.append(f"- {what}: {mean_range(r, '%.3g')}.")
    return lines


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("text")
    p.add_argument("--out", default="build/ablations")
    p.add_argument("--hadal", default="build/release/hadal")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--only", default="")
    p.add_argument("--steps", type=int, default=TRAIN["steps"], help="of the base's runs; others in proportion")
    p.add_argument("--table", metavar="FILE", help="write the table of what there is, and train nothing")
    a = p.parse_args()
    only = [x for x in a.only.split(",") if x]
    for name in only:
        if name not in [arm[0] for arm in ARMS]:
            p.error(f"--only: found {name}; expected some of {', '.join(arm[0] for arm in ARMS)}")
    os.makedirs(a.out, exist_ok=True)
    if a.table:
        with open(a.table, "w") as f:
            f.write(table(a))
        return
    for seed in range(1, a.seeds + 1):
        for arm in ARMS:
            if (not only or arm[0] in only) and not os.path.exists(result_path(a, arm, seed)):
                r = train(a, arm, seed)
                print(f"{arm[0]}, seed {seed}: {r['val_loss']:.4f} nats after {r['tokens']} tokens, {r['cpu_s']} processor seconds", flush=True)


if __name__ == "__main__":
    main()
