"""serve.py: what the server itself costs, without a model: requests a second, 64 streams beside long prompts, memory over 10,000 requests.

    python3 bench/serve.py [build/release/hadal]        (from the top of the tree; wrk, where it is installed, asks for the first table)

Answers come from a script (hadal serve --script). A chunk's delay is how much later than the script's own pause it follows the one before, as a
client of 64 streams in one process sees it, whose own time is in it.
"""
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import time

if len(sys.argv) > 1:
    os.environ["HADAL"] = os.path.abspath(sys.argv[1])
sys.path.insert(0, "tests/wire")
from wire import EOS, Server  # noqa: E402

STREAMS, CHUNKS, PAUSE_MS = 64, 150, 20
P = "/v1/chat/completions"


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


if __name__ == "__main__":
    rates()
    streams("64 streams, a chunk each 20 ms")
    streams("beside prompts of 1 MB", 1 << 20)
    streams("beside prompts of 8 MB", 8 << 20)
    leaks()
