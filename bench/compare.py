"""compare.py DIR ROUNDS JSON MODEL THREADS: medians and ratios of what compare.sh measured."""
import json
import os
import statistics
import sys


def llama_figures(path):
    out = {}
    for run in json.load(open(path)):
        if run["n_prompt"]:
            if run["n_depth"] == 0:
                out["prefill 512"] = run["avg_ts"]
        else:
            out["decode, depth %d" % run["n_depth"]] = run["avg_ts"]
    return out


def hadal_figures(path):
    run = json.load(open(path))
    out = {"prefill 512": p["tps"] for p in run["prefill"] if p["tokens"] == 512}
    for d in run["decode"]:
        if d["batch"] == 1:
            out["decode, depth %d" % (0 if d["depth"] == 16 else d["depth"])] = d["tps"]
    return out, run["probes"]


def main():
    where, rounds, as_json, model, threads = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1", sys.argv[4], int(sys.argv[5])
    theirs = [llama_figures(os.path.join(where, "llama.%d" % i)) for i in range(rounds)]
    ours, probes = zip(*[hadal_figures(os.path.join(where, "hadal.%d" % i)) for i in range(rounds)])
    rows = []
    for what in ours[0]:
        if what in theirs[0]:
            a, b = statistics.median(r[what] for r in ours), statistics.median(r[what] for r in theirs)
            rows.append({"what": what, "hadal_tps": round(a, 1), "llama_tps": round(b, 1), "ratio": round(a / b, 2)})
    probe = {k: round(statistics.median(p[k] for p in probes), 1) for k in probes[0]}
    if as_json:
        print(json.dumps({"model": os.path.basename(model), "threads": threads, "rounds": rounds, "probes": probe, "figures": rows}, indent=1))
        return
    print("%s, %d threads, medians of %d alternating rounds; read %.1f GB/s, fma %.0f GF/s, int8 %.0f GOP/s"
          % (os.path.basename(model), threads, rounds, probe["read_gbs"], probe["fma_gflops"], probe["int8_gops"]))
    for r in rows:
        print("%-20s hadal %8.1f tok/s   llama.cpp %8.1f tok/s   %.2fx" % (r["what"], r["hadal_tps"], r["llama_tps"], r["ratio"]))


main()
