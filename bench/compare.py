"""compare.py DIR ROUNDS JSON NAME THREADS CLOCK: medians and ratios of what compare.sh measured."""
import array
import json
import os
import statistics
import sys

ENGINES = {"checkpoint": "hadal, checkpoint", "hadal": "hadal", "llama": "llama.cpp", "ik": "ik_llama.cpp"}


def bench_rows(text):
    """llama-bench writes a list, or an object a line; ik_llama.cpp's says more, behind the list's bracket."""
    if text.lstrip().startswith("["):
        return json.loads("[" + text[text.index("\n  {"):])
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def llama_figures(text):
    out = {}
    for run in bench_rows(text):
        if run["n_gen"] == 0:
            out["prefill 512"] = run["avg_ts"]
        else:                                          # ik_llama.cpp: n_prompt tokens before; llama.cpp: n_depth
            out["decode, depth %d" % run.get("n_depth", run["n_prompt"])] = run["avg_ts"]
    return out


def hadal_figures(text):
    run = json.loads(text)
    out = {"prefill %d" % p["tokens"]: p["tps"] for p in run["prefill"]}
    out.update({"decode, depth %d" % d["depth"]: d["tps"] for d in run["decode"]})
    return out, run["probes"]


def read(where, name, i):
    with open(os.path.join(where, "%s.%d" % (name, i))) as f:
        return f.read()


def logits(where):
    """How far llama.cpp's logits and hadal's are apart: the largest difference of the median position, over its largest logit; positions with the same
    first choice."""
    path = os.path.join(where, "llama.logits")
    if not os.path.exists(path):
        return None
    a, b = array.array("f"), array.array("f")
    with open(os.path.join(where, "logits"), "rb") as f:
        raw = f.read()
    head = 8 + int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8:head])["logits"]
    first, last = entry["data_offsets"]
    a.frombytes(raw[head + first : head + last])
    with open(path, "rb") as f:
        b.frombytes(f.read())
    n, v = entry["shape"]
    apart, same = [], 0
    for t in range(n):
        x, y = a[t * v : (t + 1) * v], b[t * v : (t + 1) * v]
        apart.append(max(abs(p - q) for p, q in zip(x, y)) / max(abs(p) for p in x))
        same += x.index(max(x)) == y.index(max(y))
    return {"apart": round(statistics.median(apart), 4), "same_first_choice": same, "of": n}


def main():
    where, rounds, as_json, model, threads, clock = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1", sys.argv[4], int(sys.argv[5]), sys.argv[6] == "1"
    runs, probes = {}, []
    for key in ENGINES:
        if not os.path.exists(os.path.join(where, key + ".0")):
            continue
        runs[key] = []
        for i in range(rounds):
            if key in ("llama", "ik"):
                figures = llama_figures(read(where, key, i))
                if key == "llama":
                    figures.update(llama_figures(read(where, "llama.more", i)))
            else:
                figures, probe = hadal_figures(read(where, key, i))
                probes.append(probe)
            runs[key].append(figures)
    rows = []
    for what in runs["hadal"][0]:
        tps = {key: statistics.median(r[what] for r in runs[key]) for key in runs}
        row = {"what": what, "tps": {ENGINES[key]: round(v, 2) for key, v in tps.items()}, "ratio": {}}
        for ours in ("checkpoint", "hadal"):
            for theirs in ("llama", "ik"):
                if ours in tps and theirs in tps:      # of each round, then their median: what shook a round shook both
                    pairs = [a[what] / b[what] for a, b in zip(runs[ours], runs[theirs])]
                    row["ratio"]["%s / %s" % (ENGINES[ours], ENGINES[theirs])] = round(statistics.median(pairs), 2)
        rows.append(row)
    probe = {k: round(statistics.median(p[k] for p in probes), 1) for k in probes[0]}
    if as_json:
        print(json.dumps({"model": model, "threads": threads, "clock": "processor" if clock else "wall", "rounds": rounds, "probes": probe, "logits": logits(where), "figures": rows}, indent=1))
        return
    print("%s, %d threads%s, medians of %d alternating rounds; read %.1f GB/s, fma %.0f GF/s, int8 %.0f GOP/s"
          % (model, threads, " by processor time" if clock else "", rounds, probe["read_gbs"], probe["fma_gflops"], probe["int8_gops"]))
    check = logits(where)
    if check:
        print("logits of hadal and llama.cpp: %.2g of the largest apart (median position), the same first choice at %d of %d" % (check["apart"], check["same_first_choice"], check["of"]))
    for r in rows:
        print(r["what"])
        for name, v in r["tps"].items():
            print("    %-20s %9.2f tok/s" % (name, v))
        for name, v in r["ratio"].items():
            print("    %-36s %6.2fx" % (name, v))


main()
