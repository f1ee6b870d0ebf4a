#!/usr/bin/env python3
"""Which experts should stay in memory? Replays the routing of a traced run through caches of several sizes and policies.

    hadal logits MODEL --tokens @ids --out trace.safetensors --trace
    bench/expert_policies.py trace.safetensors [--skip 256]

Tokens come one after the other, as in decoding; a token's experts of a layer are wanted together. Prints the share of wanted experts that
were in memory, after the first --skip tokens. "optimal" evicts what is wanted again last (Belady): nobody can know that, nobody does better.
"""
import argparse
import bisect
import json
import math
import struct


def routing(path):
    """[token][layer] -> experts"""
    with open(path, "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        base = f.tell()
        layers = sorted((n for n in head if n.startswith("layers.") and n.endswith(".ffn.experts")), key=lambda n: int(n.split(".")[1]))
        out = []
        for name in layers:
            n_tok, k = head[name]["shape"]
            begin, end = head[name]["data_offsets"]
            f.seek(base + begin)
            raw = f.read(end - begin)
            v = struct.unpack("<%d%s" % (n_tok * k, "i" if len(raw) == 4 * n_tok * k else "f"), raw)
            out.append([[int(x) for x in v[t * k:(t + 1) * k]] for t in range(n_tok)])
    return [[layer[t] for layer in out] for t in range(len(out[0]))]


class Keyed:
    """Evicts the smallest key."""

    def __init__(self):
        self.key = {}

    def evict(self, cached, now, layer):
        return min(cached, key=lambda e: self.key.get(e, -math.inf))


class Lru(Keyed):
    name = "LRU"

    def use(self, e, now, layer):
        self.key[e] = now * 1000 + layer


class Lfu(Keyed):
    name = "LFU"

    def use(self, e, now, layer):
        self.key[e] = self.key.get(e, 0) + 1


class Decayed(Keyed):
    def __init__(self, half):
        super().__init__()
        self.half = half
        self.name = "LFU, half-life %d" % half

    def use(self, e, now, layer):
        t = now / self.half
        self.key[e] = math.log2(2 ** (self.key.get(e, -math.inf) - t) + 1) + t


class Optimal:
    name = "optimal"

    def __init__(self, trace):
        self.uses = {}
        for now, token in enumerate(trace):
            for layer, experts in enumerate(token):
                for e in experts:
                    self.uses.setdefault((layer, e), []).append(now * 1000 + layer)

    def use(self, e, now, layer):
        pass

    def evict(self, cached, now, layer):
        at = now * 1000 + layer

        def again(e):
            u = self.uses[e]
            i = bisect.bisect_right(u, at)
            return u[i] if i < len(u) else math.inf
        return max(cached, key=again)


def hit_rate(trace, policy, size, skip):
    cached, hits, wanted = set(), 0, 0
    for now, token in enumerate(trace):
        for layer, experts in enumerate(token):
            now_wanted = {(layer, e) for e in experts}
            for e in now_wanted:
                policy.use(e, now, layer)
            if now >= skip:
                wanted += len(now_wanted)
                hits += len(now_wanted & cached)
            for e in now_wanted - cached:
                if len(cached) >= size:
                    cached.remove(policy.evict(cached - now_wanted, now, layer))
                cached.add(e)
    return hits / wanted


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("trace")
    a.add_argument("--skip", type=int, default=256)
    a.add_argument("--shares", default="0.07,0.2,0.35,0.5,0.78")
    a = a.parse_args()
    trace = routing(a.trace)
    seen = {(layer, e) for token in trace for layer, experts in enumerate(token) for e in experts}
    n = len(trace[0]) * (1 + max(e for _, e in seen))
    shares = [float(s) for s in a.shares.split(",")]
    print("%d tokens, %d layers, %d experts, %d of them wanted at all" % (len(trace), len(trace[0]), n, len(seen)))
    print("%-22s" % "in memory" + "".join("%8.0f %%" % (100 * s) for s in shares))
    for make in [Lru, Lfu] + [lambda h=h: Decayed(h) for h in (4, 16, 32, 64, 128, 256, 1024)] + [lambda: Optimal(trace)]:
        print("%-22s" % make().name + "".join("%9.3f " % hit_rate(trace, make(), max(int(s * n), 2 * len(trace[0][0])), a.skip) for s in shares), flush=True)


if __name__ == "__main__":
    main()
