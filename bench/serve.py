"""serve.py: what the server itself costs, and what it saves.

    python3 bench/serve.py [PART ...] [--hadal build/release/hadal] [--model models/nano] [--threads N] [--rounds N]

Parts, all of them by default; from the top of the tree:

  rates     requests a second of /health and /v1/models (needs wrk)
  streams   64 streams, alone and beside prompts of 1 and 8 MB: how late chunks are, bytes lost or mixed
  memory    memory and open files over 10,000 requests
  prefix    time to the first token of a question about 50,000 known tokens: from memory, from disk after a restart
  fair      8 users: the slowest one's share of the mean throughput
  agent     a conversation with tools, replayed as clients write it: prompt tokens computed over tokens that are new

The first three have answers from a script (hadal serve --script), the others a model. A chunk's delay is how much later than the script's own pause
it follows the one before, as a client of 64 streams in one process sees it, whose own time is in it.
"""
import argparse
import json
import os
import random
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PARTS = ["rates", "streams", "memory", "prefix", "fair", "agent"]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("part", nargs="*", help="which (default: all)")
parser.add_argument("--hadal", default="build/release/hadal", help="the program (default: build/release/hadal)")
parser.add_argument("--model", default="models/nano", help="for prefix, fair and agent: a model with a chat template and tools (default: models/nano)")
parser.add_argument("--threads", type=int, default=0, help="workers of the model (default: physical cores)")
parser.add_argument("--rounds", type=int, default=5, help="how often prefix, fair and agent are measured (default: 5)")
args = parser.parse_args()
for p in args.part:
    if p not in PARTS:
        parser.error("found part %s; expected %s" % (p, ", ".join(PARTS)))
os.environ["HADAL"] = os.path.abspath(args.hadal)
sys.path.insert(0, "tests/wire")
from wire import D, EOS, SERVERS, TMP, Server  # noqa: E402

STREAMS, CHUNKS, PAUSE_MS = 64, 150, 20
P = "/v1/chat/completions"
WORK = tempfile.mkdtemp(prefix="hadal-bench-")


def row(name, *cells):
    print("| %-46s | %s |" % (name, " | ".join(cells)), flush=True)


# ---- requests a second ----

def rates():
    s = Server({"runs": [{"text": "</think>ok" + EOS}]}, "--quiet")
    for path in ["/health", "/v1/models"]:
        if not shutil.which("wrk"):
            row(path, "wrk is not installed")
            continue
        best = 0
        for _ in range(3):
            out = subprocess.run(["wrk", "-t1", "-c64", "-d2s", "http://127.0.0.1:%d%s" % (s.port, path)], capture_output=True, text=True).stdout
            bad = re.search(r"Non-2xx.*: (\d+)", out)
            assert not bad, out
            best = max(best, float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)))
        row("requests/s, " + path, "%.0f" % best)
    s.stop()


# ---- streams ----

def tag(i):
    return "[%02d]" % i


def long_prompts(s, stop, n_bytes, sent):
    """One long prompt after the other, as an agent's history has them."""
    words = "The harbour opened at dawn; 17 boats left, and #%d came back with \"news\".\\n"
    text = "".join(words % i for i in range(n_bytes // len(words)))
    while not stop.is_set():
        r = s.post(P, s.chat("a long one " + text, max_tokens=4))
        assert r.status == 200, r.body
        sent.append(len(text))


def streams(name, n_bytes=0):
    runs = [{"when": "stream-%02d-" % i, "text": "</think>" + tag(i) * CHUNKS + EOS, "burst": len(tag(i)), "delay_ms": PAUSE_MS} for i in range(STREAMS)]
    s = Server({"n_ctx": 8000000, "slots": 80, "runs": runs + [{"text": "</think>ok" + EOS}]}, "--quiet")
    sel = selectors.DefaultSelector()
    for i in range(STREAMS):
        c = socket.create_connection(s.address)
        c.sendall(s.bytes("POST", P, s.chat("stream-%02d-" % i, stream=True, max_tokens=100000)))
        sel.register(c, selectors.EVENT_READ, {"i": i, "data": b"", "last": None})
    stop, sent = threading.Event(), []
    child = 0
    if n_bytes:
        child = os.fork()             # a process of its own, so that its work is not the readers'
        if not child:
            try:
                long_prompts(s, stop, n_bytes, sent)
            finally:
                os._exit(0)
    delays, wrong, left, seconds = [], 0, STREAMS, time.monotonic()
    while left:
        for key, _ in sel.select(30):
            d, now = key.data, time.monotonic()
            got = key.fileobj.recv(1 << 16)
            d["data"] += got
            if b"data: " in got:
                if d["last"] is not None:
                    delays.append(max(0.0, (now - d["last"]) * 1e3 - PAUSE_MS))
                d["last"] = now
            if got and not d["data"].endswith(b"0\r\n\r\n"):
                continue
            sel.unregister(key.fileobj)
            key.fileobj.close()
            left -= 1
            text = "".join(re.findall(r'"content":"((?:\[\d\d\]|[\[\]\d])+)"', d["data"].decode()))
            wrong += text != tag(d["i"]) * CHUNKS
    seconds = time.monotonic() - seconds
    if child:
        os.kill(child, 9)
        os.waitpid(child, 0)
    delays.sort()
    row(name, "%d chunks in %.1f s" % (len(delays), seconds), "p50 %.1f ms" % delays[len(delays) // 2], "p99 %.1f ms" % delays[len(delays) * 99 // 100], "worst %.1f ms" % delays[-1], "%d streams wrong" % wrong)
    s.stop()


# ---- memory ----

def held(s):
    with open("/proc/%d/status" % s.p.pid) as f:
        rss = int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))
    return rss, len(os.listdir("/proc/%d/fd" % s.p.pid))


def requests(s, n):
    bodies = [s.bytes("POST", P, s.chat("hi %d" % (i % 97), stream=bool(i % 2), **({"response_format": {"type": "json_object"}, "messages": [{"role": "user", "content": "json"}]} if i % 5 == 0 else {}))) for i in range(200)]
    bad = [s.bytes("POST", P, b"{"), s.bytes("GET", "/nothing"), s.bytes("POST", P, {"model": s.name})]
    for i in range(n):
        c = s.conn()
        c.send(bad[i % 3] if i % 17 == 0 else bodies[i % 200])
        if i % 29 == 0:
            c.close()                 # gone before the reply
            continue
        c.reply()
        c.close()


def leaks():
    s = Server({"n_ctx": 4000, "runs": [{"text": "</think>Hello, " + "world " * 20 + EOS}, {"random": 3, "burst": 64}]}, "--quiet")
    requests(s, 3000)
    before = held(s)
    requests(s, 10000)
    time.sleep(0.5)
    after = held(s)
    row("10,000 requests after 3,000", "memory %+d KiB of %d" % (after[0] - before[0], before[0]), "open files %+d" % (after[1] - before[1]))
    s.stop()


# ---- a model ----

WORDS = "harbour dawn boat letter stone river garden kite fox drum hill wood seed friend evening lamp street window bread winter".split()


def sentences(seed, n_words):
    r = random.Random(seed)
    out = []
    while len(out) < n_words:
        out += ["The", r.choice(WORDS), "of", "the", r.choice(WORDS), "was", "near", "a", r.choice(WORDS) + "."]
    return " ".join(out)


def widened(n_ctx):
    """The model, with a window of n_ctx tokens at least, and a token for the markup of calls: what it was not trained for costs as much, whatever it says."""
    path = os.path.join(WORK, "model-%d" % n_ctx)
    if not os.path.isdir(args.model) or os.path.isdir(path):
        return args.model if not os.path.isdir(args.model) else path
    os.mkdir(path)
    for name in os.listdir(args.model):
        os.symlink(os.path.abspath(os.path.join(args.model, name)), os.path.join(path, name))
    with open(os.path.join(path, "config.json")) as f:
        config = json.load(f)
    inner = config.get("text_config", config)
    inner["max_position_embeddings"] = max(inner["max_position_embeddings"], n_ctx)
    replace(path, "config.json", config)
    with open(os.path.join(path, "tokenizer.json"), encoding="utf-8") as f:
        tokenizer = json.load(f)
    if not any(t["content"] == D for t in tokenizer["added_tokens"]):
        spare = next(t for t in tokenizer["added_tokens"] if "noise" in t["content"] or "pad" in t["content"])
        tokenizer["model"]["vocab"].pop(spare["content"], None)
        tokenizer["model"]["vocab"][D] = spare["id"]
        spare.update(content=D, special=False)
        replace(path, "tokenizer.json", tokenizer)
    return path


def replace(path, name, value):
    os.remove(os.path.join(path, name))
    with open(os.path.join(path, name), "w", encoding="utf-8") as f:
        json.dump(value, f)


def serve(n_ctx, *more):
    threads = ["--threads", str(args.threads)] if args.threads else []
    return Server(None, "--quiet", "--ctx", str(n_ctx), *threads, *more, model=widened(n_ctx))


def first_token(s, body):
    """Seconds until the first text of a stream, and its usage."""
    c, data, first = s.conn(), b"", None
    message = s.bytes("POST", P, dict(body, stream=True, stream_options={"include_usage": True}))
    c.s.settimeout(600)
    begin = time.monotonic()
    c.send(message)
    status, _ = c.head()
    assert status == 200, c.reply(True).status
    for chunk in c.chunks():
        data += chunk
        if first is None and re.search(rb'"content":"[^"]', data):
            first = time.monotonic() - begin
    c.close()
    usage = re.search(rb'"usage":(\{"prompt.*?\}\})', data)
    assert first is not None and usage, data[-500:]
    return first, json.loads(usage.group(1))


def about(s, text, question):
    return s.chat(text + " " + question, thinking={"type": "disabled"}, max_tokens=8, temperature=0, ignore_eos=True)


def ms(values):
    return "median %.0f ms, worst %.0f ms" % (statistics.median(values) * 1e3, max(values) * 1e3)


def prefix():
    kept = os.path.join(WORK, "kept")
    text = sentences(1, 43000)
    s = serve(65536, "--kv-disk-dir", kept)
    cold, usage = first_token(s, about(s, text, "Who was it?"))
    row("first token of %d tokens" % usage["prompt_tokens"], "cold %.0f ms" % (cold * 1e3))
    seen = []
    for i in range(args.rounds):
        t, usage = first_token(s, about(s, text, "What was near the %s?" % WORDS[i]))
        seen.append(t)
        assert usage["prompt_cache_hit_tokens"] > 0.99 * usage["prompt_tokens"], usage
    row("the same prompt, another question, from memory", ms(seen), "%d of %d tokens known" % (usage["prompt_cache_hit_tokens"], usage["prompt_tokens"]))
    seen = []
    for i in range(args.rounds):
        s.stop()
        s = serve(65536, "--kv-disk-dir", kept)
        t, usage = first_token(s, about(s, text, "Where was the %s?" % WORDS[i]))
        seen.append(t)
        assert usage["prompt_cache_hit_tokens"] > 0.99 * usage["prompt_tokens"], usage
    row("after a restart, from disk", ms(seen), "%d of %d tokens known" % (usage["prompt_cache_hit_tokens"], usage["prompt_tokens"]))
    s.stop()


# ---- fairness ----

def user(s, i, n_at_once, until, count):
    """Back to back requests of one user; counts chunks of text while the clock runs."""
    def one(k):
        n = 0
        while time.monotonic() < until:
            body = s.chat(sentences(100 * i + k + n, 150), thinking={"type": "disabled"}, max_tokens=128, ignore_eos=True, stream=True, user_id="user%d" % i)
            c = s.conn()
            c.send(s.bytes("POST", P, body))
            c.head()
            for chunk in c.chunks():
                if time.monotonic() < until:
                    count[i] += chunk.count(b'"content":"') - chunk.count(b'"content":""')
            c.close()
            n += 1
    ts = [threading.Thread(target=one, args=(k,)) for k in range(n_at_once)]
    for t in ts:
        t.start()
    for t in ts:
        t.join()


def users(name, n_at_once, *more):
    s = serve(32768, *more)
    shares, rate, least = [], 0, []
    for _ in range(args.rounds):
        count, seconds = [0] * 8, 8
        until = time.monotonic() + seconds
        ts = [threading.Thread(target=user, args=(s, i, n_at_once if i == 0 else 1, until, count)) for i in range(8)]
        for t in ts:
            t.start()
        for t in ts:
            t.join()
        shares.append(min(count) / (sum(count) / 8))
        least.append(min(count) / seconds)
        rate = max(rate, sum(count) / seconds)
    row(name, "slowest / mean: median %.2f, worst %.2f" % (statistics.median(shares), min(shares)), "slowest %.0f, all %.0f chunks/s" % (statistics.median(least), rate))
    s.stop()


def fair():
    users("8 users, a request each", 1)
    users("8 users, the first with 8 requests at once", 8)
    users("the same, 4 answered at once", 8, "--max-running", "4")


# ---- agents ----

# Short arguments: a call that is cut off at max_tokens is no turn that could come back as it was.
TOOLS = [{"type": "function", "function": {"name": n, "description": d, "strict": True, "parameters": {
              "type": "object", "properties": {k: t, "why": {"type": "string", "maxLength": 40}, "n": {"type": "number", "minimum": 0, "maximum": 100}}, "required": [k, "why", "n"], "additionalProperties": False}}}
         for n, d, k, t in [("bash", "runs a command", "command", {"type": "string", "maxLength": 60}), ("read", "reads a file", "path", {"enum": ["a.c", "b.c", "Makefile"]}), ("wait", "waits", "s", {"type": "integer", "minimum": 0, "maximum": 9})]]


def as_clients_write(m):
    """Compact arguments through JavaScript's numbers, no reasoning, null for empty content."""
    def number(v):
        return int(v) if isinstance(v, float) and v == int(v) else v
    out = {"role": "assistant", "content": m["content"]}
    if m.get("tool_calls"):
        out["content"] = m["content"] or None
        out["tool_calls"] = [dict(c, function={"name": c["function"]["name"], "arguments": json.dumps({k: number(v) for k, v in json.loads(c["function"]["arguments"]).items()}, separators=(",", ":"))})
                             for c in m["tool_calls"]]
    return out


def trace(s, seed, thinking):
    messages = [{"role": "system", "content": "You are an agent. " + sentences(seed, 800)}, {"role": "user", "content": "Look around and say what you see."}]
    computed = new = before = 0
    for turn in range(16):
        call = turn % 4 != 3          # three calls, then an answer and another question
        body = {"model": s.name, "messages": messages, "tools": TOOLS, "seed": turn, "max_tokens": 1000, "user_id": "agent%d" % seed,
                "thinking": {"type": "enabled" if thinking else "disabled"}}
        r = s.post(P, dict(body, tool_choice="required") if call else body)
        assert r.status == 200, r.body
        j = r.json()
        u = j["usage"]
        computed += u["prompt_cache_miss_tokens"]
        new += u["prompt_tokens"] - before
        m = j["choices"][0]["message"]
        whole = j["choices"][0]["finish_reason"] != "length"
        before = u["prompt_tokens"] + u["completion_tokens"] * whole
        if whole:                     # clients do not send back what was cut off
            messages.append(as_clients_write(m))
        else:
            m = {}
        for c in m.get("tool_calls", []):
            messages.append({"role": "tool", "tool_call_id": c["id"], "content": sentences(seed * 100 + turn, 60)})
        if not m.get("tool_calls"):
            messages.append({"role": "user", "content": "And then? " + sentences(seed * 100 + turn, 20)})
    return computed, new


def agent():
    s = serve(65536)
    for name, thinking in [("16 turns with tools, by force", False), ("16 turns with tools, thinking", True)]:
        ratios = []
        for seed in range(args.rounds):
            computed, new = trace(s, seed + 1 + 1000 * thinking, thinking)
            ratios.append(computed / new)
        row("%d agents, %s" % (args.rounds, name), "computed / new: median %.3f, worst %.3f" % (statistics.median(ratios), max(ratios)))
    s.stop()


def all_streams():
    streams("64 streams, a chunk each 20 ms")
    streams("beside prompts of 1 MB", 1 << 20)
    streams("beside prompts of 8 MB", 8 << 20)


if __name__ == "__main__":
    try:
        for p in args.part or PARTS:
            {"rates": rates, "streams": all_streams, "memory": leaks, "prefix": prefix, "fair": fair, "agent": agent}[p]()
    finally:
        for s in list(SERVERS):
            s.stop()
        shutil.rmtree(WORK)
        shutil.rmtree(TMP)
