#!/usr/bin/env python3
"""The 10.65M-parameter character model (6 layers of 384, 6 heads, 16 x 256 tokens, AdamW), here and in PyTorch, in turns.

usage: bench/train_compare.py TEXT [HADAL ...] [--precision f32,bf16] [--threads N] [--steps N] [--rounds N] [--torch PYTHON]

TEXT is what hadal trains on (its content does not matter for speed). Every HADAL (default: build/release/hadal) and PyTorch
(in the interpreter PYTHON, when given) train with every precision (PyTorch's bf16 is torch.autocast) N steps after a first one that does not count. Printed are tokens per second of processor time
(of the whole process, so that others on the machine matter little) and of the clock, and GFLOP/s at 6 parameters a token plus attention.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

LAYERS, D, HEADS, FF, T, B = 6, 384, 6, 1024, 256, 16
TORCH = r"""
import json, sys, time, torch, torch.nn as nn, torch.nn.functional as F
L, D, H, FF, T, B, V, threads, steps, precision = json.loads(sys.argv[1])
torch.set_num_threads(threads); torch.manual_seed(1)
Norm = getattr(nn, "RMSNorm", nn.LayerNorm)
def attend(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    a = (q @ k.transpose(-2, -1)) * (D // H) ** -0.5          # PyTorch 1 has neither that nor RMSNorm nor a fused AdamW
    return a.masked_fill(past, float("-inf")).softmax(-1) @ v
past = torch.ones(T, T, dtype=torch.bool).triu(1)
class Layer(nn.Module):
    def __init__(s):
        super().__init__()
        s.n1, s.n2 = Norm(D), Norm(D)
        s.qkv, s.o = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        s.gu, s.down = nn.Linear(D, 2 * FF, bias=False), nn.Linear(FF, D, bias=False)
    def forward(s, x, cos, sin):
        q, k, v = (a.view(B, T, H, D // H).transpose(1, 2) for a in s.qkv(s.n1(x)).split(D, 2))
        def turn(a):
            h = a.shape[-1] // 2
            return a * cos + torch.cat((-a[..., h:], a[..., :h]), -1) * sin
        a = attend(turn(q), turn(k), v)
        x = x + s.o(a.transpose(1, 2).reshape(B, T, D))
        g, u = s.gu(s.n2(x)).split(FF, 2)
        return x + s.down(F.silu(g) * u)
class Model(nn.Module):
    def __init__(s):
        super().__init__()
        s.e, s.layers, s.n = nn.Embedding(V, D), nn.ModuleList(Layer() for _ in range(L)), Norm(D)
    def forward(s, x, y, cos, sin):
        h = s.e(x)
        for l in s.layers:
            h = l(h, cos, sin)
        return F.cross_entropy((s.n(h) @ s.e.weight.T).view(-1, V), y.view(-1))
m = Model(); opt = torch.optim.AdamW(m.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, **({"fused": True} if torch.__version__ >= "2.4" else {}))
f = torch.outer(torch.arange(T).float(), 10000 ** (-torch.arange(0, D // H, 2).float() / (D // H))); f = torch.cat((f, f), 1)
for i in range(1 + steps):
    x, y = torch.randint(V, (B, T)), torch.randint(V, (B, T))
    opt.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = m(x, y, f.cos(), f.sin())
    loss.backward(); nn.utils.clip_grad_norm_(m.parameters(), 1.0); opt.step()
    print(time.process_time(), time.time(), flush=True)
"""


def config(text, out, precision):
    model = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": D, "intermediate_size": FF, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
             "max_position_embeddings": T, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    return {"model": model, "out": out, "tokenizer": "used-bytes", "data": {"train": text}, "context": T, "batch_tokens": T * B, "steps": 1000000, "log_every": 1,
            "eval_every": 1000000, "save_every": 1000000, "precision": precision, "optimizer": {"name": "adamw", "lr": 1e-3}}


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        field = f.read().rsplit(")", 1)[1].split()
    return (int(field[11]) + int(field[12])) / os.sysconf("SC_CLK_TCK")


def run_hadal(binary, text, threads, steps, precision):
    """Seconds of processor and clock for every step after the first, and the probe's GFLOP/s."""
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "run.json")
        with open(path, "w") as f:
            json.dump(config(text, os.path.join(tmp, "out"), precision), f)
        p = subprocess.Popen([binary, "train", path, "--threads", str(threads), "--steps", str(steps + 1)], stderr=subprocess.PIPE, text=True)
        marks, peak = [], 0
        for line in p.stderr:
            if (m := re.search(r"probe's (\d+) GF/s", line)):
                peak = float(m[1])
            if re.match(r"step \d+/\d+  loss", line):
                marks.append((cpu_seconds(p.pid), time.time()))
        if p.wait() or len(marks) <= steps:
            sys.exit(f"{binary}: did not train")
    return marks, peak


def run_torch(python, threads, steps, precision):
    out = subprocess.run([python, "-c", TORCH, json.dumps([LAYERS, D, HEADS, FF, T, B, 65, threads, steps, precision])], capture_output=True, text=True)
    if out.returncode:
        sys.exit(out.stderr)
    return [tuple(map(float, line.split())) for line in out.stdout.splitlines()], 0


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("text")
    ap.add_argument("hadal", nargs="*", default=["build/release/hadal"])
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--steps", type=int, default=3)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--torch", metavar="PYTHON")
    ap.add_argument("--precision", default="f32,bf16")
    a = ap.parse_args()
    n_param = LAYERS * (4 * D * D + 3 * D * FF) + 65 * D
    flop = T * B * (6 * n_param + 3 * 4 * LAYERS * D * (T + 1) / 2)
    seen = {}
    for _ in range(a.rounds):
        for program in a.hadal + (["PyTorch"] if a.torch else []):
            for precision in a.precision.split(","):
                name = f"{program} {precision}"
                how = (a.threads, a.steps, precision)
                marks, peak = run_torch(a.torch, *how) if program == "PyTorch" else run_hadal(program, os.path.abspath(a.text), *how)
                for (c0, w0), (c1, w1) in zip(marks, marks[1:]):
                    seen.setdefault(name, []).append((c1 - c0, w1 - w0, peak))
                    print(f"{name}: a step {c1 - c0:.2f} processor seconds, {w1 - w0:.2f} by the clock", file=sys.stderr, flush=True)
    for name, s in seen.items():
        cpu, wall, peak = (statistics.median(x[i] for x in s) for i in range(3))
        share = f", {100 * flop / cpu / 1e9 / (peak / a.threads):.0f} % of the probe a core" if peak else ""
        print(f"{name}: {T * B / cpu:.0f} tokens a processor second, {flop / cpu / 1e9:.1f} GFLOP/s a core{share}; {T * B / wall:.0f} tokens/s by the clock")


if __name__ == "__main__":
    main()
