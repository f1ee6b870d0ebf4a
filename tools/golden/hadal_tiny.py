"""Tiny random models of hadal's own architecture: python3 tools/golden/hadal_tiny.py

The reference is this file: every block written out in float64 from the papers' formulas (DeepSeek-V2/V3 for MLA and experts, arXiv
2409.19606 for hyper-connections, 2512.24880 for mHC, 2601.07372 for Engram), in their plainest form: per-head keys, full masks, no cache.
"""
import json
import os
import shutil
import unicodedata

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from common import fresh, write_golden, write_weights

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden")
TOKENIZER = os.path.join(ROOT, "v41-f32-a", "tokenizer.json")           # 304 ids, 252 classes

BASE = dict(architectures=["HadalForCausalLM"], model_type="hadal", vocab_size=304, hidden_size=48, num_hidden_layers=4, rms_norm_eps=1e-6,
            max_position_embeddings=4096, rope_theta=10000, bos_token_id=0, eos_token_id=1)
CONFIGS = {
    "hadal-a": dict(BASE, attention_type="mla", num_attention_heads=3, q_lora_rank=32, kv_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12,
                    rope_scaling=dict(rope_type="yarn", factor=4, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0, original_max_position_embeddings=64),
                    residual_type="mhc_paper", hc_mult=4, engram_type="paper", engram_layer_ids=[1, 2], engram_max_ngram_size=3, engram_n_heads=2, engram_head_dim=16,
                    engram_vocab_size=[40, 60], engram_compressed_vocab_size=252, engram_pad_token_id=2, intermediate_size=64, first_k_dense_replace=1,
                    n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, moe_intermediate_size=20, scoring_func="sigmoid", n_group=4, topk_group=2,
                    routed_scaling_factor=1.5, num_nextn_predict_layers=1),
    "hadal-b": dict(BASE, attention_type="gqa", num_attention_heads=6, num_key_value_heads=2, head_dim=16, sliding_window=24, residual_type="mhc_v4", hc_mult=3,
                    engram_type="v41", engram_layer_ids=[0], engram_max_ngram_size=4, engram_n_heads=2, engram_head_dim=32, engram_vocab_size=40,
                    engram_compressed_vocab_size=252, engram_pad_token_id=2, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=2, moe_intermediate_size=24,
                    scoring_func="sqrtsoftplus", gate_temp=0.8, swiglu_limit=2.0, routed_scaling_factor=2.5, tie_word_embeddings=True),
    "hadal-c": dict(BASE, attention_type="mla", num_attention_heads=4, kv_lora_rank=24, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=16, residual_type="plain",
                    engram_type="v41", engram_layer_ids=[1], engram_max_ngram_size=2, engram_n_heads=3, engram_head_dim=16, engram_vocab_size=30,
                    engram_compressed_vocab_size=252, intermediate_size=80),
    "hadal-d": dict(BASE, attention_type="gqa", num_attention_heads=4, num_key_value_heads=4, head_dim=12, residual_type="mhc_v41", hc_mult=2, n_routed_experts=6,
                    num_experts_per_tok=3, moe_intermediate_size=24, scoring_func="softmax", norm_topk_prob=False, routed_scaling_factor=1.0),
    "hadal-e": dict(BASE, hidden_size=32, num_hidden_layers=2, attention_type="gqa", num_attention_heads=2, num_key_value_heads=1, head_dim=16, residual_type="hc", hc_mult=3,
                    intermediate_size=48),
    "hadal-f": dict(BASE, hidden_size=32, num_hidden_layers=2, attention_type="gqa", num_attention_heads=4, num_key_value_heads=2, head_dim=8, residual_type="mhc_v4", hc_mult=2,
                    n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=16, scoring_func="sqrtsoftplus", intermediate_size=40,
                    first_k_dense_replace=1, routed_scaling_factor=1.0, num_nextn_predict_layers=2),
}


# ---- hashes ----

def classes(n):
    t = Tokenizer.from_file(TOKENIZER)
    seen, out = {}, []
    for i in range(n):
        raw, text = t.id_to_token(i), t.decode([i], skip_special_tokens=False)
        if raw is None:
            key = None
        elif "\ufffd" in text:
            key = raw
        else:
            y = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
            y = "".join(c for c in y if not unicodedata.category(c).startswith("M"))
            y = "".join(c.lower() for c in y)
            words, run = "", False
            for c in y:
                if c in " \t\r\n":
                    words += "" if run else " "
                    run = True
                else:
                    words += c
                    run = False
            y = "\ue000" if words == " " else words
            y = y.strip().replace("\ue000", " ")
            key = y or text
        out.append(seen.setdefault(key, len(seen)))
    return out, len(seen)


def is_prime(x):
    return x > 1 and all(x % d for d in range(2, int(x ** 0.5) + 1))


def hashes(c):
    """Per layer: multipliers, primes [order][head], offsets."""
    orders, heads, seen, out = c["engram_max_ngram_size"] - 1, c["engram_n_heads"], set(), []
    start = c["engram_vocab_size"] if isinstance(c["engram_vocab_size"], list) else [c["engram_vocab_size"]] * orders
    for layer in c["engram_layer_ids"]:
        half = max(1, (2 ** 63 - 1) // c["engram_compressed_vocab_size"] // 2)
        mult = [int(x) * 2 + 1 for x in np.random.default_rng(10007 * layer).integers(0, half, orders + 1, dtype=np.int64)]
        primes, offset, at = [], [], 0
        for o in range(orders):
            p = start[o] - 1
            for _ in range(heads):
                p += 1
                while not is_prime(p) or p in seen:
                    p += 1
                seen.add(p)
                primes.append(p)
                offset.append(at)
                at += p
        out.append((mult, primes, offset, at))
    return out


# ---- blocks ----

def rms(x, w, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * w


def inv_freq(dim, c):
    """YaRN as DeepSeek's code has it; returns frequencies and the factor of cos and sin."""
    f = c["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    s = c.get("rope_scaling")
    if not s:
        return f, 1.0
    def correction(rot):
        return dim * np.log(s["original_max_position_embeddings"] / (rot * 2 * np.pi)) / (2 * np.log(c["rope_theta"]))
    lo, hi = max(np.floor(correction(s["beta_fast"])), 0), min(np.ceil(correction(s["beta_slow"])), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float64) - lo) / max(hi - lo, 0.001)).clamp(0, 1)
    m = lambda k: 0.1 * k * np.log(s["factor"]) + 1
    return f * (1 - ramp) + f / s["factor"] * ramp, m(s["mscale"]) / m(s["mscale_all_dim"])


def rotate(x, f, scale, interleaved):
    """x [T, H, d]"""
    a = torch.arange(x.shape[0], dtype=torch.float64)[:, None] * f
    cos, sin = (a.cos() * scale)[:, None], (a.sin() * scale)[:, None]
    if interleaved:
        u, v = x[..., 0::2], x[..., 1::2]
        return torch.stack([u * cos - v * sin, u * sin + v * cos], -1).flatten(-2)
    u, v = x.chunk(2, -1)
    return torch.cat([u * cos - v * sin, u * sin + v * cos], -1)


def attend(q, k, v, scale, window):
    """q, k [T, H, d], v [T, H, e]"""
    n = q.shape[0]
    s = torch.einsum("thd,shd->hts", q, k) * scale
    i, j = torch.arange(n)[:, None], torch.arange(n)[None]
    mask = j > i
    if window:
        mask |= j <= i - window
    return torch.einsum("hts,she->the", s.masked_fill(mask, -torch.inf).softmax(-1), v).flatten(1)


def mla(x, w, p, c):
    H, nope, r, e, T = c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], x.shape[0]
    f, m = inv_freq(r, c)
    q = rms(x @ w[p + "wq_a.weight"].T, w[p + "q_norm.weight"], 1e-6) @ w[p + "wq_b.weight"].T if c.get("q_lora_rank") else x @ w[p + "wq.weight"].T
    q = q.view(T, H, nope + r)
    kv = x @ w[p + "wkv_a.weight"].T
    latent, pe = rms(kv[:, :-r], w[p + "kv_norm.weight"], 1e-6), rotate(kv[:, None, -r:], f, m, True)
    kv = (latent @ w[p + "wkv_b.weight"].T).view(T, H, nope + e)
    q = torch.cat([q[..., :nope], rotate(q[..., nope:], f, m, True)], -1)
    k = torch.cat([kv[..., :nope], pe.expand(T, H, r)], -1)
    scale = (nope + r) ** -0.5
    if c.get("rope_scaling"):
        scale *= (0.1 * c["rope_scaling"]["mscale_all_dim"] * np.log(c["rope_scaling"]["factor"]) + 1) ** 2
    return attend(q, k, kv[..., nope:], scale, 0) @ w[p + "wo.weight"].T


def gqa(x, w, p, c):
    H, G, d, T = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], x.shape[0]
    f, m = inv_freq(d, c)
    q, k, v = ((x @ w[p + n + ".weight"].T).view(T, -1, d) for n in ("wq", "wk", "wv"))
    q, k = rotate(q, f, m, False), rotate(k, f, m, False)
    k, v = k.repeat_interleave(H // G, 1), v.repeat_interleave(H // G, 1)
    return attend(q, k, v, d ** -0.5, c.get("sliding_window", 0)) @ w[p + "wo.weight"].T


def swiglu(x, w, p, limit):
    g, u = x @ w[p + "w1.weight"].T, x @ w[p + "w3.weight"].T
    if limit:
        g, u = g.clamp(max=limit), u.clamp(-limit, limit)
    return (g * torch.sigmoid(g) * u) @ w[p + "w2.weight"].T


def experts(x, w, p, c):
    E, k, limit = c["n_routed_experts"], c["num_experts_per_tok"], c.get("swiglu_limit", 0)
    z = x @ w[p + "gate.weight"].T / c.get("gate_temp", 1.0)
    fn = c["scoring_func"]
    s = z.softmax(-1) if fn == "softmax" else torch.sigmoid(z) if fn == "sigmoid" else torch.nn.functional.softplus(z).sqrt()
    choice = s + w[p + "gate.bias"] if p + "gate.bias" in w else s
    n = c.get("n_group", 1)
    if n > 1:
        by_group = choice.view(-1, n, E // n)
        best = by_group.topk(2 if fn != "softmax" else 1, -1)[0].sum(-1).topk(c["topk_group"], -1)[1]
        keep = torch.zeros(x.shape[0], n, dtype=torch.bool).scatter_(1, best, True)
        choice = by_group.masked_fill(~keep[..., None], -torch.inf).flatten(1)
    idx = choice.topk(k, -1)[1]
    weight = s.gather(1, idx)
    if c.get("norm_topk_prob", True):
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
    weight = weight * c["routed_scaling_factor"]
    y = torch.zeros_like(x)
    for t in range(x.shape[0]):
        for e, a in zip(idx[t], weight[t]):
            y[t] += a * swiglu(x[t], w, p + "experts.%d." % e, limit)
    return y + swiglu(x, w, p + "shared_experts.", limit) if c.get("n_shared_experts") else y


def mixes(X, w, p, c):
    """pre [T, n], post [T, n], M [T, to, from]"""
    T, n, _ = X.shape
    x = X.flatten(1)
    m = (x @ w[p + "_fn"].T) / torch.sqrt((x * x).mean(-1, keepdim=True) + c["rms_norm_eps"])
    a, eps = w[p + "_scale"], 1e-6
    if c["residual_type"] == "hc":
        m, b = torch.tanh(m), w[p + "_static"]
        return m[:, :n] * a[0] + b[:n], m[:, n:2 * n] * a[1] + b[n:2 * n], (m[:, 2 * n:] * a[2] + b[2 * n:]).view(T, n, n).transpose(1, 2)
    b = w[p + "_base"]
    pre, post, res = (m[:, :n] * a[0] + b[:n]), (m[:, n:2 * n] * a[1] + b[n:2 * n]), (m[:, 2 * n:] * a[2] + b[2 * n:]).view(T, n, n)
    pre, post = torch.sigmoid(pre), 2 * torch.sigmoid(post)
    if c["residual_type"] == "mhc_paper":
        M = res.exp()
        for _ in range(20):
            M = M / M.sum(1, keepdim=True)
            M = M / M.sum(2, keepdim=True)
        return pre, post, M
    M = res.softmax(-1) + eps
    M = M / (M.sum(1, keepdim=True) + eps)
    for _ in range(19):
        M = M / (M.sum(2, keepdim=True) + eps)
        M = M / (M.sum(1, keepdim=True) + eps)
    return pre + eps, post, M.transpose(1, 2)


def engram(X, w, p, c, ids, h, lookup):
    T, n, d = X.shape
    mult, primes, offset, _ = h
    orders, heads, pad, e = c["engram_max_ngram_size"] - 1, c["engram_n_heads"], lookup[c.get("engram_pad_token_id", 2)], []
    for t in range(T):
        x, rows = lookup[ids[t]] * mult[0], []
        for o in range(orders):
            x ^= (lookup[ids[t - o - 1]] if t > o else pad) * mult[o + 1]
            rows += [offset[o * heads + j] + x % primes[o * heads + j] for j in range(heads)]
        e.append(w[p + "embed.weight"][rows].flatten())
    kv = torch.stack(e) @ w[p + "wkv.weight"].T
    if p + "wkv.bias" in w:
        kv = kv + w[p + "wkv.bias"]
    key, value = kv[:, :n * d].view(T, n, d), kv[:, None, n * d:]
    g = (rms(X, w[p + "q_weight"], c["rms_norm_eps"]) * rms(key, w[p + "k_weight"], c["rms_norm_eps"])).sum(-1) / d ** 0.5
    v = torch.sigmoid(g.sign() * g.abs().clamp(min=1e-6).sqrt())[..., None] * value
    if c["engram_type"] == "v41":
        return X + v
    u, K, dil, y = rms(v, w[p + "conv_norm.weight"], 1e-5).flatten(1), 4, orders + 1, torch.zeros(T, n * d, dtype=X.dtype)
    for k in range(K):
        back = (K - 1 - k) * dil
        if back < T:
            y[back:] += w[p + "conv.weight"][:, k] * u[:T - back]
    return X + v + (y * torch.sigmoid(y)).view(T, n, d)


def layer(X, before, w, p, c, dense):
    """The streams X[T, n, D] behind the layer named p, and its last pre."""
    kind, eps = c["residual_type"], c["rms_norm_eps"]
    for site in ("attn", "ffn"):
        if kind == "plain":
            u = X[:, 0]
        else:
            pre, post, M = mixes(X, w, p + "hc_" + site, c)
            use = pre if kind != "mhc_v41" else before
            u = X[:, 0] if use is None else torch.einsum("tn,tnd->td", use, X)
            before = pre
        u = rms(u, w[p + site + "_norm.weight"], eps)
        if site == "attn":
            y = (mla if c["attention_type"] == "mla" else gqa)(u, w, p + "attn.", c)
        elif dense:
            y = swiglu(u, w, p + "ffn.", 0)
        else:
            y = experts(u, w, p + "ffn.", c)
        X = X + y[:, None] if kind == "plain" else post[..., None] * y[:, None] + torch.einsum("tkj,tjd->tkd", M, X)
    return X, before


def collapse(X, before, w, c):
    kind = c["residual_type"]
    if kind == "plain":
        return X[:, 0]
    if kind in ("hc", "mhc_paper"):
        return X.mean(1)
    if kind == "mhc_v41":
        return torch.einsum("tn,tnd->td", before, X)
    x = X.flatten(1)
    m = (x @ w["hc_head_fn"].T) / torch.sqrt((x * x).mean(-1, keepdim=True) + c["rms_norm_eps"])
    return torch.einsum("tn,tnd->td", torch.sigmoid(m * w["hc_head_scale"] + w["hc_head_base"]) + 1e-6, X)


def n_streams(c):
    return c.get("hc_mult", 1) if c["residual_type"] != "plain" else 1


def head(u, w, c):
    return u @ (w["embed.weight"] if c.get("tie_word_embeddings") else w["head.weight"]).T


def forward(w, c, ids):
    lookup, trace = classes(c["vocab_size"])[0], {}
    hs = hashes(c) if c.get("engram_layer_ids") else []
    h = w["embed.weight"][ids]
    trace["embed"] = h
    X, before = h[:, None].repeat(1, n_streams(c), 1), None
    for i in range(c["num_hidden_layers"]):
        p = "layers.%d." % i
        if i in c.get("engram_layer_ids", []):
            X = engram(X, w, p + "engram.", c, ids, hs[c["engram_layer_ids"].index(i)], lookup)
        X, before = layer(X, before, w, p, c, i < c.get("first_k_dense_replace", 0) or not c.get("n_routed_experts"))
        trace["layers.%d.stream" % i] = X.flatten(1)
    u = rms(collapse(X, before, w, c), w["norm.weight"], c["rms_norm_eps"])
    trace["final.norm"] = u
    return head(u, w, c), trace


def mtp(w, c, ids, h):
    """What the modules say, in DeepSeek-V3's form (its report, 2.2): [logits of module 1 for all tokens but the last, of module 2 for all but two, ..]; h: the
    model's output after its last norm."""
    out, eps = [], c["rms_norm_eps"]
    for k in range(c["num_nextn_predict_layers"]):
        p = "mtp.%d." % k
        e = rms(w["embed.weight"][ids[k + 1:]], w[p + "enorm.weight"], eps)
        z = torch.cat([e, rms(h[:-1], w[p + "hnorm.weight"], eps)], 1) @ w[p + "eh_proj.weight"].T
        X, before = layer(z[:, None].repeat(1, n_streams(c), 1), None, w, p, c, not c.get("n_routed_experts"))
        h = rms(collapse(X, before, w, c), w[p + "norm.weight"], eps)
        out.append(head(h, w, c))
    return out


# ---- weights ----

def shapes(c):
    D, s, n = c["hidden_size"], {}, c.get("hc_mult", 1) if c["residual_type"] != "plain" else 1
    V, hs = c["vocab_size"], hashes(c) if c.get("engram_layer_ids") else []
    s["embed.weight"], s["norm.weight"] = (V, D), (D,)
    if not c.get("tie_word_embeddings"):
        s["head.weight"] = (V, D)
    if c["residual_type"] == "mhc_v4":
        s.update({"hc_head_fn": (n, n * D), "hc_head_base": (n,), "hc_head_scale": (1,)})
    for i in range(c["num_hidden_layers"] + c.get("num_nextn_predict_layers", 0)):
        mtp = i >= c["num_hidden_layers"]
        p = "mtp.%d." % (i - c["num_hidden_layers"]) if mtp else "layers.%d." % i
        if mtp:
            s.update({p + "enorm.weight": (D,), p + "hnorm.weight": (D,), p + "norm.weight": (D,), p + "eh_proj.weight": (D, 2 * D)})
        for site in ("attn", "ffn"):
            s[p + site + "_norm.weight"] = (D,)
            if n > 1:
                s.update({p + "hc_%s_fn" % site: (n * (2 + n), n * D), p + "hc_%s_%s" % (site, "static" if c["residual_type"] == "hc" else "base"): (n * (2 + n),), p + "hc_%s_scale" % site: (3,)})
        a, H = p + "attn.", c["num_attention_heads"]
        if c["attention_type"] == "mla":
            dq, r, e = c["qk_nope_head_dim"] + c["qk_rope_head_dim"], c["kv_lora_rank"], c["v_head_dim"]
            if c.get("q_lora_rank"):
                s.update({a + "wq_a.weight": (c["q_lora_rank"], D), a + "q_norm.weight": (c["q_lora_rank"],), a + "wq_b.weight": (H * dq, c["q_lora_rank"])})
            else:
                s[a + "wq.weight"] = (H * dq, D)
            s.update({a + "wkv_a.weight": (r + c["qk_rope_head_dim"], D), a + "kv_norm.weight": (r,), a + "wkv_b.weight": (H * (c["qk_nope_head_dim"] + e), r),
                      a + "wo.weight": (D, H * e)})
        else:
            d, G = c["head_dim"], c["num_key_value_heads"]
            s.update({a + "wq.weight": (H * d, D), a + "wk.weight": (G * d, D), a + "wv.weight": (G * d, D), a + "wo.weight": (D, H * d)})
        f, swi = p + "ffn.", lambda q, F: {q + "w1.weight": (F, D), q + "w3.weight": (F, D), q + "w2.weight": (D, F)}
        if not c.get("n_routed_experts") or (not mtp and i < c.get("first_k_dense_replace", 0)):
            s.update(swi(f, c["intermediate_size"]))
        else:
            s[f + "gate.weight"] = (c["n_routed_experts"], D)
            if c["scoring_func"] != "softmax":
                s[f + "gate.bias"] = (c["n_routed_experts"],)
            for e in range(c["n_routed_experts"]):
                s.update(swi(f + "experts.%d." % e, c["moe_intermediate_size"]))
            if c.get("n_shared_experts"):
                s.update(swi(f + "shared_experts.", c["n_shared_experts"] * c["moe_intermediate_size"]))
        if not mtp and i in c.get("engram_layer_ids", []):
            g, width = p + "engram.", (c["engram_max_ngram_size"] - 1) * c["engram_n_heads"] * c["engram_head_dim"]
            s.update({g + "embed.weight": (hs[c["engram_layer_ids"].index(i)][3], c["engram_head_dim"]), g + "wkv.weight": ((n + 1) * D, width), g + "q_weight": (n, D),
                      g + "k_weight": (n, D)})
            if c["engram_type"] == "paper":
                s.update({g + "wkv.bias": ((n + 1) * D,), g + "conv.weight": (n * D, 4), g + "conv_norm.weight": (n, D)})
    return s


def draw(name, shape, g):
    x = torch.randn(shape, generator=g)
    if name.endswith(("norm.weight", "q_weight", "k_weight", "hnorm.weight", "enorm.weight")) and "wk_" not in name:
        return 1 + 0.3 * x
    if name.endswith("_scale"):
        return 0.7 + 0.2 * x
    if name.endswith(("_base", "_static", "bias")):
        return 0.4 * x
    if "embed" in name:
        return x
    if "conv.weight" in name:
        return 0.6 * x
    return 1.5 * x / shape[-1] ** 0.5


def main():
    for seed, (name, c) in enumerate(CONFIGS.items()):
        path = fresh(os.path.join(ROOT, name))
        g = torch.Generator().manual_seed(100 + seed)
        w = {k: draw(k, v, g).bfloat16() for k, v in shapes(c).items()}
        ids = torch.randint(3, 300, (90,), generator=g).tolist()
        ids[40:60] = ids[10:30]
        assert not c.get("engram_layer_ids") or classes(c["vocab_size"])[1] == c["engram_compressed_vocab_size"], classes(c["vocab_size"])[1]
        logits, trace = forward({k: v.double() for k, v in w.items()}, c, ids)
        drafts = mtp({k: v.double() for k, v in w.items()}, c, ids, trace["final.norm"]) if c.get("num_nextn_predict_layers") else []
        trace = {k: v for k, v in trace.items() if k in ("final.norm", "layers.1.stream")}
        with open(os.path.join(path, "config.json"), "w") as f:
            json.dump(c, f, indent=1)
            f.write("\n")
        if c.get("engram_layer_ids"):
            shutil.copy(TOKENIZER, path)
        write_weights(path, w)
        write_golden(path, ids, logits, trace)
        if drafts:
            save_file({"mtp_logits" if k == 0 else "mtp_logits.%d" % (k + 1): v.float().contiguous() for k, v in enumerate(drafts)}, os.path.join(path, "mtp.safetensors"))
        print(name, sum(v.numel() for v in w.values()), "parameters")


if __name__ == "__main__":
    main()
