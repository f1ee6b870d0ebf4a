"""wire_admin.py: what runs and how it is stopped, and who may ask; connections that wait; long bodies, which another thread reads."""
import socket
import threading
import time

from wire import *

P = "/v1/chat/completions"
LONG = "</think>" + "word " * 400
RUNS = {"n_ctx": 4000000, "runs": [{"when": "slowly", "text": LONG, "delay_ms": 10}, {"when": "one call", "text": "</think>" + calls(("f", [("a", False, "1")])) + EOS}, {"text": "</think>ok" + EOS}]}
s = Server(RUNS)


def stream(server, text, headers=None):
    c = server.conn()
    c.send(server.bytes("POST", P, server.chat(text, stream=True, max_tokens=100000), headers))
    head = c.until(b"\r\n\r\n").decode("latin-1")
    return c, [l.split(": ")[1] for l in head.split("\r\n") if l.lower().startswith("x-request-id")][0]


def slots(server, headers=None):
    return server.get("/slots", headers).json()


@case("/slots lists what runs, without a word of it; /admin/abort ends it with an error, and its slot is free")
def _():
    assert s.get("/admin/slots").json() == []
    c, rid = stream(s, "slowly secret")
    wait_for(lambda: slots(s) and slots(s)[0]["state"] == "decode")
    got = slots(s)[0]
    assert got["id_task"] == rid and got["path"] == P and got["is_processing"] and got["prompt_tokens"] > 0 and got["stream"] and "secret" not in json.dumps(got)
    for bad in [{"id": "req_none"}, {}, {"id": 3}]:
        assert s.post("/admin/abort", bad).status == 404
    assert s.post("/admin/abort", b"{").status == 400
    assert s.post("/admin/abort", {"id": rid}).json() == {"id": rid, "aborted": True}
    rest = b""
    try:
        while True:
            more = c.s.recv(65536)
            if not more:
                break
            rest += more
    except ConnectionResetError:
        pass
    assert b"aborted by the operator" in rest, rest[-300:]
    c.close()
    wait_for(lambda: slots(s) == [] and s.running() == 0)


@case("only from this machine while there are no keys, and not through a proxy; with keys an admin's key, and that opens nothing else")
def _():
    paths = [("GET", "/slots"), ("GET", "/admin/slots"), ("POST", "/admin/abort"), ("POST", "/admin/flush"), ("POST", "/admin/drain")]
    for method, path in paths:
        body = {} if method == "POST" else None
        for h in [{"X-Forwarded-For": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}, {"X-Real-IP": "10.0.0.1"}]:
            error_of(s.request(method, path, body, h), 403)
        assert s.request(method, path, body, {"Host": "evil.example"}).status == 403
    k = Server(RUNS, "--api-key", "key-0001")
    for method, path in paths:
        for h in [{}, {"x-api-key": "key-0001"}]:
            error_of(k.request(method, path, {} if method == "POST" else None, h), 403)
    k.stop()
    k = Server(RUNS, "--api-key", "key-0001", env={"HADAL_ADMIN_KEY": "admin-0001"})
    for method, path in paths[:-1]:
        for h in [{}, {"x-api-key": "key-0001"}, {"x-api-key": "admin-000"}]:
            error_of(k.request(method, path, {} if method == "POST" else None, h), 401)
    assert slots(k, {"Authorization": "Bearer admin-0001", "X-Forwarded-For": "10.0.0.1"}) == []
    assert k.post("/admin/flush", {}, {"x-api-key": "admin-0001"}).json() == {"flushed": True}
    error_of(k.post(P, k.chat("hi"), {"x-api-key": "admin-0001"}), 401)
    k.stop()


@case("/admin/flush forgets prefixes and turns")
def _():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    def hits(text):
        return s.post(P, s.chat(text, thinking={"type": "disabled"})).json()["usage"]["prompt_cache_hit_tokens"]
    hits("a prompt that comes again and again")
    assert hits("a prompt that comes again and again") > 5
    assert s.post("/admin/flush", {}).status == 200
    assert hits("a prompt that comes again and again") <= 1
    m = s.post(P, s.chat("one call", tools=tools, thinking={"type": "disabled"})).json()["choices"][0]["message"]
    body = {"model": s.name, "tools": tools, "thinking": {"type": "disabled"}, "messages": [{"role": "user", "content": "one call"}, m, {"role": "tool", "tool_call_id": m["tool_calls"][0]["id"], "content": "r"}]}
    miss = 'ds_replay_total{result="miss"}'
    def misses():
        return int([l for l in s.get("/metrics").text().splitlines() if l.startswith(miss)][0].split()[1])
    before = misses()
    assert s.post(P, body).status == 200 and misses() == before
    s.post("/admin/flush", {})
    assert s.post(P, body).status == 200 and misses() == before + 1


@case("/admin/drain is SIGTERM: no new work, what runs may end, status 0")
def _():
    d = Server(RUNS)
    c, _ = stream(d, "slowly")
    assert d.post("/admin/drain", {}).json()["draining"] is True
    error_of(d.post(P, d.chat("hi")), 503)
    assert d.get("/health").status == 503
    rest = c.until(b"data: [DONE]")
    assert rest
    c.close()
    assert d.p.wait(timeout=20 * SLOW) == 0
    d.stop()


@case("connections of one address that wait: the oldest of too many is closed, those that work are not")
def _():
    d = Server(RUNS, "--max-idle", "5")
    busy, _ = stream(d, "slowly")
    held = []
    for i in range(9):
        held.append(socket.create_connection(d.address))
        d.get("/health")
    closed = 0
    for c in held:
        c.settimeout(0.3)
        try:
            closed += c.recv(1) == b""
        except TimeoutError:
            pass
    assert 4 <= closed <= 6, closed
    assert busy.until(b"data: [DONE]")
    for c in held:
        c.close()
    d.stop()


@case("long bodies: the same replies, errors too, in every protocol; clients that go meanwhile; a drain that waits for them")
def _():
    text = "wide words 123, and so on.\\n" * 40000
    assert len(text) > 1000000
    n = s.post("/tokenize", {"content": text}).json()["count"]
    assert n > 100000
    j = s.post(P, s.chat(text, max_tokens=20)).json()
    assert j["choices"][0]["message"]["content"] == "ok" and j["usage"]["prompt_tokens"] >= n
    assert s.post("/v1/completions", {"model": s.name, "prompt": text, "max_tokens": 5}).json()["usage"]["prompt_tokens"] >= n
    assert s.post("/v1/responses", {"model": s.name, "input": text}).json()["usage"]["input_tokens"] >= n
    m = {"model": s.name, "max_tokens": 20, "messages": [{"role": "user", "content": text}]}
    assert s.post("/v1/messages", m).json()["usage"]["output_tokens"] > 0
    assert s.post("/v1/messages/count_tokens", m).json()["input_tokens"] >= n
    assert s.post("/apply-template", s.chat(text)).json()["count"] >= n
    error_of(s.post(P, b'{"model": "x", "messages": [' + b" " * 100000), 400)
    error_of(s.post(P, s.chat(text, temperature=9)), 422)
    error_of(s.post(P, dict(s.chat(text), messages=[{"role": "user", "content": text * 6}])), 400) if n * 6 > 4000000 else None
    for i in range(12):
        c = s.conn()
        c.send(s.bytes("POST", P, s.chat(text + str(i), stream=i % 2 == 0)))
        time.sleep(0.01 * (i % 4))
        c.close()
    wait_for(lambda: slots(s) == [] and s.running() == 0, 20)
    d = Server(RUNS)
    c = d.conn()
    c.send(d.bytes("POST", P, d.chat(text)))
    time.sleep(0.05)
    d.p.send_signal(signal.SIGTERM)
    try:
        r = c.reply()
        assert r.status in (200, 503), r.status
    except EOFError:
        pass                          # the signal came before its body
    c.close()
    assert d.p.wait(timeout=20 * SLOW) == 0
    d.stop()


@case("while a long prompt is read, others' requests are answered")
def _():
    text = "wide words 123, and so on.\\n" * 200000
    t = threading.Thread(target=lambda: s.post("/tokenize", {"content": text}))
    t.start()
    n = 0
    while t.is_alive():
        assert s.post(P, s.chat("hi")).status == 200
        n += 1
    t.join()
    assert n > 2, n


run()
