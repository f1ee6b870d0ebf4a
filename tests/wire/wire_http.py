"""wire_http.py: HTTP itself: what is no request, limits, keys, hosts and origins, errors, health, drain."""
import os
import re
import signal
import socket
import time

from wire import *

HELLO = {"runs": [{"text": "</think>Hello" + EOS}]}
s = Server(HELLO)
keyed = Server(HELLO, "--api-key", "first-key-0001", "--api-key", "second-key-0002")
H = "Host: 127.0.0.1\r\n"


def refused(data, status):
    """Bytes that are no request: a JSON error of that status, and the connection is closed."""
    c = s.conn()
    try:
        c.send(data)
    except (BrokenPipeError, ConnectionResetError):
        pass
    r = c.reply()
    error_of(r, status)
    assert r.headers["connection"] == "close"
    assert c.closed()
    c.close()
    assert s.get("/health").status == 200
    return r


@case("health, ready, ping and the version answer as JSON, with a request id")
def _():
    for path in ["/health", "/v1/health", "/ready", "/ping", "/version", "/"]:
        r = s.get(path)
        assert r.status == 200 and r.headers["content-type"] == "application/json", (path, r.status)
        assert re.fullmatch("req_[0-9a-f]{32}", r.headers["x-request-id"])
        r.json()
    assert s.get("/health").json() == {"status": "ok"}


@case("models: one object for every lister, under each base path, and by id")
def _():
    for path in ["/models", "/v1/models", "/v1/models/", "/anthropic/v1/models", "/v1/models?limit=3"]:
        j = s.get(path).json()
        assert j["object"] == "list" and j["has_more"] is False and j["first_id"] == j["last_id"] == s.name
        m = j["data"][0]
        assert m["id"] == s.name and m["object"] == "model" and m["type"] == "model" and m["max_model_len"] == 4096 and isinstance(m["created"], int)
        assert m["display_name"] and m["created_at"].endswith("Z") and m["context_window"] == m["context_length"] == 4096
    assert s.get("/v1/models/" + s.name).json()["id"] == s.name
    assert s.get("/v1/models/deepseek%2dv4-flash").json()["id"] == "deepseek-v4-flash"
    error_of(s.get("/v1/models/nobody"), 404, code="model_not_found")
    assert s.get("/anthropic/v1/models/nobody").json()["error"]["type"] == "not_found_error"
    error_of(s.get("/v1/models/%zz"), 404)


@case("HEAD of base paths and of GET paths: 200 without a body")
def _():
    for path in ["/", "/anthropic", "/anthropic/", "/v1", "/beta", "/health", "/v1/models"]:
        c = s.conn()
        c.send(s.bytes("HEAD", path))
        r = c.reply(head_only=True)
        assert r.status == 200, (path, r.status)
        c.send(s.bytes("GET", "/health"))
        assert c.reply().json() == {"status": "ok"}, "HEAD had a body"
        c.close()


@case("unknown paths are 404, wrong methods 405 with Allow, both JSON")
def _():
    for path in ["/nothing", "/v1", "/V1/models", "//v1/models", "/v1/../v1/models", "/v1/models%00", "/%2e%2e/etc/passwd", "/v1/chat/completions.", "/invocations"]:
        error_of(s.get(path), 404)
    for method in ["GET", "PUT", "DELETE", "PATCH", "TRACE", "BREW"]:
        r = s.request(method, "/v1/chat/completions")
        error_of(r, 405)
        assert r.headers["allow"] == "POST, OPTIONS"
    r = s.request("POST", "/v1/models", {})
    error_of(r, 405)
    assert r.headers["allow"] == "GET, HEAD, OPTIONS"
    error_of(s.post("/v1/embeddings", {}), 404, message="This engine does not serve embeddings.")
    for r in [s.get("/v1/files"), s.get("/v1/files/file-1"), s.post("/v1/files", b"--x--", {"Content-Type": "multipart/form-data; boundary=x"})]:
        error_of(r, 404, message="This engine stores no files.")
    for method in ["GET", "POST"]:
        assert "batches" in error_of(s.request(method, "/v1/batches"), 404)["message"]
        e = s.request(method, "/v1/messages/batches").json()
        assert e["type"] == "error" and e["error"]["type"] == "not_found_error" and "batches" in e["error"]["message"]


@case("bytes that are no request get 400 and a closed connection")
def _():
    for data in [b"\r\n\r\n", b"garbage\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1 x\r\n" + H.encode() + b"\r\n", b"GET health HTTP/1.1\r\n\r\n", b"G\x00T / HTTP/1.1\r\n\r\n",
                 b"GET /health HTTP/1.1\n" + H.encode() + b"\n\n", b"GET /health HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", b"GET /h\xc3\xa4 HTTP/1.1\r\n" + H.encode() + b"\r\n",
                 b"GET /health HTTP/1.1\r\n" + H.encode() + b"X : y\r\n\r\n", b"GET /health HTTP/1.1\r\n" + H.encode() + b"X: a\r\n b\r\n\r\n",
                 b"GET /health HTTP/1.1\r\n" + H.encode() + b"X: a\x00b\r\n\r\n", b"GET /health HTTP/1.1\r\n" + H.encode() + b": y\r\n\r\n",
                 b"GET /health HTTP/1.1\r\n" + H.encode() + b"no colon\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.1\r\n" + (H * 2).encode() + b"\r\n",
                 b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET http:// HTTP/1.1\r\n" + H.encode() + b"\r\n"]:
        refused(data, 400)
    refused(b"GET /health HTTP/2.0\r\n" + H.encode() + b"\r\n", 505)
    refused(b"PRI * HTTP/2.0\r\n\r\n", 505)


@case("smuggling: what two parsers could read differently is refused")
def _():
    post = "POST /v1/chat/completions HTTP/1.1\r\n" + H + "Content-Type: application/json\r\n"
    for extra in ["Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Content-Length: 4\r\nContent-Length: 4\r\n", "Content-Length: 4\r\nContent-Length: 5\r\n", "Content-Length: +4\r\n",
                  "Content-Length: -1\r\n", "Content-Length: 0x4\r\n", "Content-Length: 4,4\r\n", "Content-Length: 99999999999999999999\r\n", "Content-Length:\r\n",
                  "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: chunked, identity\r\n", "Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: identity\r\n",
                  "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: \x0bchunked\r\n"]:
        refused((post + extra + "\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n" + H + "\r\n").encode(), 400)
    refused(("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").encode(), 400)


@case("limits on the head: 414, 431, and many headers")
def _():
    refused(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H.encode() + b"\r\n", 414)
    refused(b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n" + H.encode() + b"\r\n", 414)
    refused(b"GET /?" + b"a" * 5000 + b" HTTP/1.1\r\n" + H.encode() + b"\r\n", 414)
    refused(b"GET /health HTTP/1.1\r\n" + H.encode() + b"X: " + b"a" * 9000 + b"\r\n\r\n", 431)
    refused(b"GET /health HTTP/1.1\r\n" + H.encode() + b"X: " + b"a" * 8000 * 5 + b"\r\n\r\n", 431)
    refused(b"GET /health HTTP/1.1\r\n" + H.encode() + b"".join(b"X%d: y\r\n" % i for i in range(101)) + b"\r\n", 431)
    refused(b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 100000, 431)
    refused(b"A" * 100000, 414)


@case("a 10 MB header costs the server nothing")
def _():
    c = s.conn()
    try:
        c.send(b"GET /health HTTP/1.1\r\nX: " + b"a" * (10 << 20))
    except (BrokenPipeError, ConnectionResetError):
        pass
    c.close()
    assert s.get("/health").status == 200


@case("bodies: too large is 413 before it is read; the wrong type or coding 415; no body 400")
def _():
    r = s.raw(("POST /v1/chat/completions HTTP/1.1\r\n" + H + "Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n").encode())
    error_of(r, 413)
    r = s.raw(("POST /v1/chat/completions HTTP/1.1\r\n" + H + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").encode() + b"ffffffffffffffff\r\n")
    error_of(r, 400)
    for type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "multipart/form-data", "", None]:
        error_of(s.post("/v1/chat/completions", s.chat(), {"Content-Type": type}), 415)
    for type in ["application/json", "application/json; charset=utf-8", "Application/JSON"]:
        assert s.post("/v1/chat/completions", s.chat(), {"Content-Type": type}).status == 200
    error_of(s.post("/v1/chat/completions", b"\x1f\x8b", {"Content-Encoding": "gzip"}), 415)
    error_of(s.request("POST", "/v1/chat/completions", None, {"Content-Type": "application/json"}), 400)


@case("chunked bodies, with extensions and trailers, in any pieces; malformed ones are 400")
def _():
    data = json.dumps(s.chat()).encode()
    head = ("POST /v1/chat/completions HTTP/1.1\r\n" + H + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").encode()
    body = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(data[i:i + 7]), data[i:i + 7]) for i in range(0, len(data), 7)) + b"0\r\nTrailer: x\r\n\r\n"
    assert s.raw(head + body).json()["choices"][0]["message"]["content"] == "Hello"
    c = s.conn()
    for b in head + body:
        c.send(bytes([b]))
    assert c.reply().status == 200
    c.close()
    for bad in [b"zz\r\n", b"\r\n", b"5\nhello", b"5\r\nhelloX", b"1" * 20, b"5;" + b"x" * 400, b"0\r\n" + b"T: x\r\n" * 2000, b"-1\r\n"]:
        error_of(s.raw(head + bad), 400)


@case("Expect: 100-continue is answered, and not when the request is refused")
def _():
    data = json.dumps(s.chat()).encode()
    c = s.conn()
    c.send(("POST /v1/chat/completions HTTP/1.1\r\n" + H + "Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(data)).encode())
    assert c.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    c.send(data)
    assert c.reply().status == 200
    c.close()
    error_of(s.raw(("POST /v1/nothing HTTP/1.1\r\n" + H + "Expect: 100-continue\r\nContent-Length: 10\r\n\r\n").encode()), 404)
    refused(("GET /health HTTP/1.1\r\n" + H + "Expect: tea\r\n\r\n").encode(), 417)


@case("pipelined requests are answered one after the other, in order")
def _():
    c = s.conn()
    c.send(s.bytes("GET", "/health") + s.bytes("POST", "/v1/chat/completions", s.chat()) + s.bytes("GET", "/v1/models") + s.bytes("GET", "/nothing"))
    assert c.reply().json() == {"status": "ok"}
    assert c.reply().json()["object"] == "chat.completion"
    assert c.reply().json()["object"] == "list"
    assert c.reply().status == 404
    c.close()


@case("a second request during a stream waits, and ends nothing")
def _():
    c = s.conn()
    c.send(s.bytes("POST", "/v1/chat/completions", s.chat(stream=True)) + s.bytes("GET", "/health"))
    assert events_of(c.reply().text())[-1][1] == "[DONE]"
    assert c.reply().json() == {"status": "ok"}
    c.close()


@case("Connection: close closes, HTTP/1.0 closes, a half-closed client still gets its reply")
def _():
    c = s.conn()
    c.send(s.bytes("GET", "/health", None, {"Connection": "close"}))
    assert c.reply().headers["connection"] == "close" and c.closed()
    c = s.conn()
    c.send(b"GET /health HTTP/1.0\r\n\r\n")
    assert c.reply().json() == {"status": "ok"} and c.closed()
    c = s.conn()
    c.send(s.bytes("GET", "/health"))
    c.s.shutdown(socket.SHUT_WR)
    assert c.reply().json() == {"status": "ok"}
    c.close()


@case("a stream to an HTTP/1.0 client has no chunks")
def _():
    data = json.dumps(s.chat(stream=True)).encode()
    c = s.conn()
    c.send(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    r = c.reply()
    assert "transfer-encoding" not in r.headers and events_of(r.text())[-1][1] == "[DONE]"


@case("a head that does not come is 408, and other requests do not wait")
def _():
    slow = Server(HELLO, "--head-timeout", "0.4")
    conns = [slow.conn() for _ in range(20)]
    for c in conns:
        c.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
    t = time.monotonic()
    assert slow.get("/health").status == 200 and time.monotonic() - t < 0.3 * SLOW
    for c in conns:
        error_of(c.reply(), 408)
        c.close()
    c = slow.conn()
    t = time.monotonic()
    assert c.closed() and time.monotonic() - t < 3 * SLOW, "a silent connection stays"
    slow.stop()


@case("keys: every path but the public ones needs one; Bearer, x-api-key and api-key; Authorization wins")
def _():
    for path in ["/v1/models", "/models", "/props", "/version", "/user/balance", "/nothing", "//health", "/health/../props", "/v1/models/x", "/HEALTH"]:
        r = keyed.get(path)
        error_of(r, 401, type="authentication_error")
        assert r.headers["www-authenticate"] == "Bearer" and r.headers["x-request-id"] in r.json()["error"]["message"]
    for path in ["/health", "/ready", "/ping", "/v1/health", "/health/"]:
        assert keyed.get(path).status == 200
    for h in [{"Authorization": "Bearer first-key-0001"}, {"authorization": "bearer second-key-0002"}, {"x-api-key": "first-key-0001"}, {"api-key": "second-key-0002"},
              {"Authorization": "Bearer first-key-0001", "x-api-key": "wrong"}]:
        assert keyed.get("/v1/models", h).status == 200, h
    for h in [{"Authorization": "Bearer first-key-000"}, {"Authorization": "Bearer first-key-00011"}, {"Authorization": "Basic first-key-0001"}, {"Authorization": "Bearer "}, {"x-api-key": ""},
              {"Authorization": "Bearer wrong", "x-api-key": "first-key-0001"}, {"X": "first-key-0001"}, {"Authorization": "Bearer " + "k" * 5000}]:
        error_of(keyed.get("/v1/models", h), 401)
    assert keyed.get("/v1/models?api_key=first-key-0001").status == 401


@case("a wrong key is refused before the body is read, and its text is not repeated")
def _():
    t = time.monotonic()
    r = keyed.raw(("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-secret-abcdefgh1234\r\nContent-Type: application/json\r\nContent-Length: 40000000\r\n\r\n").encode())
    e = error_of(r, 401)
    assert "****1234 is invalid" in e["message"] and "abcdefgh" not in e["message"] and time.monotonic() - t < 1 * SLOW
    r = keyed.post("/anthropic/v1/models", {})
    assert r.status == 401 and r.json()["type"] == "error" and r.json()["error"]["type"] == "authentication_error" and r.headers["request-id"] == r.json()["request_id"]


@case("a key file: labels, comments, mode 600, SIGHUP; the environment")
def _():
    path = os.path.join(TMP, "keys")
    with open(path, "w") as f:
        f.write("# keys\n\nalice:key-of-alice\nkey-of-nobody\n")
    os.chmod(path, 0o644)
    bad = Server(HELLO, "--api-key-file", path, expect_fail=True)
    assert bad.p.returncode == 1 and "600" in bad.stderr()
    os.chmod(path, 0o600)
    k = Server(HELLO, "--api-key-file", path)
    assert k.get("/v1/models", {"x-api-key": "key-of-alice"}).status == 200
    assert k.get("/v1/models", {"x-api-key": "key-of-nobody"}).status == 200
    assert k.get("/v1/models", {"x-api-key": "key-of-bob"}).status == 401
    with open(path, "w") as f:
        f.write("bob: key-of-bob\n")
    k.p.send_signal(signal.SIGHUP)
    assert wait_for(lambda: k.get("/v1/models", {"x-api-key": "key-of-bob"}).status == 200)
    assert k.get("/v1/models", {"x-api-key": "key-of-alice"}).status == 401
    with open(path, "w") as f:
        f.write("a key with blanks in it\x01\n")
    k.p.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert k.get("/v1/models").status == 401, "a broken file must not open the server"
    k.stop()
    e = Server(HELLO, env={"HADAL_API_KEY": "from-env-1"})
    assert e.get("/v1/models").status == 401 and e.get("/v1/models", {"x-api-key": "from-env-1"}).status == 200
    e.stop()


@case("other addresses than this machine's are refused without keys")
def _():
    for host in ["0.0.0.0", "::", "192.0.2.1"]:
        bad = Server(HELLO, "--host", host, expect_fail=True)
        assert bad.p.returncode == 2 and "without a key" in bad.stderr(), bad.stderr()
    bad = Server(HELLO, "--host", "nowhere.example", expect_fail=True)
    assert bad.p.returncode == 2
    for args in [("--host", "0.0.0.0", "--api-key", "k-0001"), ("--host", "0.0.0.0", "--i-know-this-is-open"), ("--host", "localhost",), ("--host", "127.0.0.2",)]:
        Server(HELLO, *args).stop()
    bad = Server(HELLO, "--port", str(s.port), expect_fail=True)
    assert bad.p.returncode == 1 and "cannot listen" in bad.stderr()


@case("DNS rebinding: without keys a Host that is not ours is 403, whatever the path")
def _():
    for host in ["evil.example", "evil.example:%d" % s.port, "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1].evil", "0.0.0.0", "127.0.0.1@evil.example"]:
        for path in ["/health", "/v1/models", "/v1/chat/completions"]:
            error_of(s.request("GET", path, None, {"Host": host}), 403)
    for host in ["localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:8080"]:
        assert s.get("/health", {"Host": host}).status == 200, host
    error_of(s.raw(b"GET http://evil.example/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"), 403)
    assert s.raw(b"GET http://localhost/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").status == 200
    assert keyed.get("/v1/models", {"Host": "llm.example", "x-api-key": "first-key-0001"}).status == 200
    named = Server(HELLO, "--allowed-hosts", "llm.example,other:8080")
    assert named.get("/health", {"Host": "llm.example:443"}).status == 200 and named.get("/health", {"Host": "evil.example"}).status == 403
    named.stop()


@case("pages of other origins are 403, own and allowed ones are not; preflight")
def _():
    own = "http://127.0.0.1:%d" % s.port
    for origin in ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1", "file://"]:
        error_of(s.post("/v1/chat/completions", s.chat(), {"Origin": origin}), 403)
        assert s.request("OPTIONS", "/v1/chat/completions", None, {"Origin": origin}).status == 403
        assert "access-control-allow-origin" not in s.get("/health", {"Origin": origin}).headers
    assert s.post("/v1/chat/completions", s.chat(), {"Origin": own}).status == 200
    assert s.request("OPTIONS", "/v1/chat/completions").status == 204
    a = Server(HELLO, "--allowed-origins", "https://page.example")
    r = a.request("OPTIONS", "/v1/chat/completions", None, {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"})
    assert r.status == 204 and r.headers["access-control-allow-origin"] == "https://page.example" and "authorization" in r.headers["access-control-allow-headers"]
    r = a.post("/v1/chat/completions", a.chat(), {"Origin": "https://page.example"})
    assert r.status == 200 and r.headers["access-control-allow-origin"] == "https://page.example" and r.headers["vary"] == "Origin"
    a.stop()


@case("a Unix socket: mode 660, no Host check, removed at the end")
def _():
    path = os.path.join(TMP, "sock")
    u = Server(HELLO, "--unix", path)
    assert os.stat(path).st_mode & 0o777 == 0o660
    c = Conn(path)
    c.send(b"GET /v1/models HTTP/1.1\r\nHost: whatever\r\n\r\n")
    assert c.reply().status == 200
    c.close()
    u.stop()
    assert not os.path.exists(path)


@case("JSON: malformed, too deep, too many values, not UTF-8, not an object: 400 with what is wrong")
def _():
    def bad(data, status=400):
        return error_of(s.post("/v1/chat/completions", data), status)
    for data in [b"", b"{", b"[]", b"null", b"\"x\"", b"{\"a\":1}x", b"{\"a\":\"\xff\"}", b"{\"a\":1e999}", b"{\"a\":NaN}", b"{\"a\":\"\\ud800\"}", b"{'a':1}", b"[" * 100000,
                 b"{\"a\":" * 65 + b"1" + b"}" * 65, b"{\"a\":[" + b"1," * 1000001 + b"1]}", b"\xef\xbb\xbf{}", b"{\"model\":\"\\u0000\"}"]:
        if data:
            bad(data)
    assert "line 1" in bad(b"{\"a\":}")["message"]
    assert s.post("/v1/chat/completions", json.dumps(s.chat()).encode()[:-1] + b',"x":{"a":1,"a":2}}').status == 200


@case("SIGTERM: health says draining, what runs ends, new work is 503 with Retry-After, exit 0")
def _():
    d = Server({"runs": [{"text": "</think>" + "word " * 20 + EOS, "delay_ms": 20}]})
    c, idle, h = d.conn(), d.conn(), d.conn()
    c.send(d.bytes("POST", "/v1/chat/completions", d.chat(stream=True)))
    c.until(b"data: ")
    h.send(d.bytes("GET", "/health"))
    h.reply()
    d.p.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    h.send(d.bytes("GET", "/health"))
    r = h.reply()
    assert r.status == 503 and r.json() == {"status": "draining"}
    h.send(d.bytes("POST", "/v1/chat/completions", d.chat()))
    r = h.reply()
    error_of(r, 503)
    assert int(r.headers["retry-after"]) > 0
    rest = c.until(b"data: [DONE]\n\n")
    assert rest.count(b"\"content\":\"w\"") == 20
    assert d.stop() == 0 and idle.closed()


@case("SIGTERM with requests that do not end: an error in the stream, exit 0 after the time given")
def _():
    d = Server({"runs": [{"text": "</think>" + "word " * 1000 + EOS, "delay_ms": 20}]}, "--drain-timeout", "0.3")
    c = d.conn()
    c.send(d.bytes("POST", "/v1/chat/completions", d.chat(stream=True)))
    c.until(b"\"content\":\"w\"")
    d.p.send_signal(signal.SIGTERM)
    assert b"shutting down" in c.until(b"shutting down")
    assert c.closed() and b"[DONE]" not in c.buf
    assert d.stop() == 0


@case("two signals end it at once")
def _():
    d = Server({"runs": [{"text": "</think>" + "word " * 1000 + EOS, "delay_ms": 50}]})
    c = d.conn()
    c.send(d.bytes("POST", "/v1/chat/completions", d.chat(stream=True)))
    c.until(b"\"content\":\"w\"")
    d.p.send_signal(signal.SIGINT)
    time.sleep(0.1)
    t = time.monotonic()
    assert d.stop() == 0 and time.monotonic() - t < 5 * SLOW


@case("thousands of requests leave no memory and no files behind")
def _():
    def facts():
        with open("/proc/%d/statm" % s.p.pid) as f:
            rss = int(f.read().split()[1]) * 4096
        return rss, len(os.listdir("/proc/%d/fd" % s.p.pid))

    def some(n):
        c = s.conn()
        one, two = s.bytes("POST", "/v1/chat/completions", s.chat(stream=True)), s.bytes("GET", "/v1/models")
        for i in range(n):
            c.send(one if i % 4 == 0 else two)
            c.reply()
        c.close()
        for i in range(n // 10):
            s.post("/v1/chat/completions", b"{")
    some(1000)
    before = facts()
    some(4000)
    wait_for(lambda: facts()[1] <= before[1])
    after = facts()
    assert after[1] <= before[1], (before, after)
    if SLOW == 1:
        assert after[0] - before[0] < (2 << 20), (before, after)


@case("a thousand connections at once, and the server lives")
def _():
    conns = []
    for i in range(900):
        conns.append(socket.create_connection(s.address, 10))
    assert s.get("/health").status == 200
    for c in conns:
        c.close()
    assert wait_for(lambda: s.get("/health").status == 200)


run()
