"""wire.py: what the wire suites share: a server on a scripted runner, requests byte by byte, and TAP.

A case is a function with @case("what it checks"); run() runs them all and prints one line each. Only the standard library.
HADAL is the program.
"""
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

HADAL = os.environ.get("HADAL", os.path.join(os.getcwd(), "build/release/hadal"))
SLOW = 4 if "asan" in HADAL or "tsan" in HADAL or "ubsan" in HADAL else 1    # sanitizers
CASES = []
SERVERS = []
TMP = tempfile.mkdtemp(prefix="hadal-wire-")

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
D = "｜DSML｜"


def case(name):
    def add(f):
        CASES.append((name, f))
        return f
    return add


def run():
    failed = 0
    for i, (name, f) in enumerate(CASES):
        try:
            begin = time.monotonic()
            f()
            print("ok %d - %s" % (i + 1, name))
            if os.environ.get("WIRE_TIMES"):
                print("# %.2f s" % (time.monotonic() - begin))
        except Exception:
            failed += 1
            for line in traceback.format_exc().splitlines()[-12:]:
                print("# " + line[:1500])
            print("not ok %d - %s" % (i + 1, name))
        sys.stdout.flush()
    for s in list(SERVERS):
        code = s.stop()
        if code != 0:
            failed += 1
            print("# exit %s: %s" % (code, s.stderr()[-3000:]))
            print("not ok %d - the server ends with 0" % (len(CASES) + 1))
    shutil.rmtree(TMP, ignore_errors=True)
    sys.exit(1 if failed else 0)


def v4_model(kind="deepseek_v4"):
    """A directory with a small byte-level tokenizer that has DeepSeek's markers as tokens."""
    path = os.path.join(TMP, kind)
    if os.path.isdir(path):
        return path
    os.mkdir(path)
    with open("tests/golden/chat/v4/tokenizer.json", encoding="utf-8") as f:
        t = json.load(f)
    markers = [BOS, EOS, "<｜User｜>", "<｜Assistant｜>", "<｜System｜>", "<think>", "</think>", D]
    t["added_tokens"] = [{"id": 700 + i, "content": m, "special": i < 5, "lstrip": False, "rstrip": False, "single_word": False,
                          "normalized": False} for i, m in enumerate(markers)]
    with open(path + "/tokenizer.json", "w", encoding="utf-8") as f:
        json.dump(t, f)
    with open(path + "/config.json", "w") as f:
        json.dump({"model_type": kind, "vocab_size": 708, "bos_token_id": 700, "eos_token_id": 701}, f)
    return path


def calls(*pairs):
    """A block of calls as a V4 model writes it. A call: name, then (key, is_string, text) ..."""
    out = "\n\n<%stool_calls>\n" % D
    for name, params in pairs:
        out += '<%sinvoke name="%s">\n' % (D, name)
        out += "\n".join('<%sparameter name="%s" string="%s">%s</%sparameter>' % (D, k, "true" if s else "false", v, D) for k, s, v in params)
        out += "\n</%sinvoke>\n" % D
    return out + "</%stool_calls>" % D


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body.decode("utf-8"))

    def text(self):
        return self.body.decode("utf-8")


class Conn:
    """A socket and what was read from it."""
    def __init__(self, address):
        self.s = socket.socket(socket.AF_UNIX) if isinstance(address, str) else socket.create_connection(address, 10)
        if isinstance(address, str):
            self.s.connect(address)
        self.s.settimeout(20 * SLOW)
        self.buf = b""

    def send(self, data):
        self.s.sendall(data)

    def more(self):
        d = self.s.recv(65536)
        self.buf += d
        return bool(d)

    def until(self, mark):
        while mark not in self.buf:
            if not self.more():
                raise EOFError("closed after %r" % self.buf[-300:])
        at = self.buf.index(mark) + len(mark)
        out, self.buf = self.buf[:at], self.buf[at:]
        return out

    def exactly(self, n):
        while len(self.buf) < n:
            if not self.more():
                raise EOFError("closed")
        out, self.buf = self.buf[:n], self.buf[n:]
        return out

    def head(self):
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {}
        for l in lines[1:]:
            if l:
                k, v = l.split(":", 1)
                headers[k.lower()] = v.strip()
        return int(lines[0].split()[1]), headers

    def chunks(self):
        while True:
            n = int(self.until(b"\r\n").split(b";")[0], 16)
            data = self.exactly(n)
            assert self.exactly(2) == b"\r\n"
            if n == 0:
                return
            yield data

    def reply(self, head_only=False):
        status, headers = self.head()
        if status == 100:
            status, headers = self.head()
        if head_only or status == 204:
            return Reply(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Reply(status, headers, b"".join(self.chunks()))
        if "content-length" in headers:
            return Reply(status, headers, self.exactly(int(headers["content-length"])))
        while self.more():
            pass
        return Reply(status, headers, self.buf)

    def closed(self):
        """Has the other side closed (after what it sent)?"""
        try:
            while self.more():
                pass
            return True
        except (ConnectionResetError, BrokenPipeError):
            return True
        except socket.timeout:
            return False

    def close(self):
        self.s.close()


class Server:
    def __init__(self, script=None, *args, model=None, env=None, expect_fail=False):
        self.err_path = os.path.join(TMP, "err%d" % time.monotonic_ns())
        self.model = model or v4_model()
        cmd = [HADAL, "serve", self.model, "--port", "0"]
        if script is not None:
            path = os.path.join(TMP, "script%d.json" % time.monotonic_ns())
            with open(path, "w", encoding="utf-8") as f:
                json.dump(script, f)
            cmd += ["--script", path]
        e = dict(os.environ)
        e.pop("HADAL_API_KEY", None)
        e.update(env or {})
        self.err_file = open(self.err_path, "w")
        self.p = subprocess.Popen(cmd + list(args), stdout=subprocess.PIPE, stderr=self.err_file, env=e)
        self.name = os.path.basename(self.model)
        if expect_fail:
            self.p.wait(timeout=30)
            return
        SERVERS.append(self)
        line = self.line(60 * SLOW)
        assert line.startswith("listening on http://"), (line, self.stderr())
        self.port = int(line.rsplit(":", 1)[1])
        self.address = ("127.0.0.1", self.port)

    def line(self, seconds):
        r, _, _ = select.select([self.p.stdout], [], [], seconds)
        return self.p.stdout.readline().decode().strip() if r else ""

    def stderr(self):
        if not self.err_file.closed:
            self.err_file.flush()
        with open(self.err_path) as f:
            return f.read()

    def conn(self):
        return Conn(self.address)

    def raw(self, data):
        """Sends bytes, returns the reply and whether the server closed behind it."""
        c = self.conn()
        try:
            c.send(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        r = c.reply()
        c.close()
        return r

    def request(self, method, path, body=None, headers=None):
        return self.raw(self.bytes(method, path, body, headers))

    def bytes(self, method, path, body=None, headers=None):
        h = {"Host": "127.0.0.1:%d" % self.port}
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            h["Content-Type"] = "application/json"
            h["Content-Length"] = str(len(data))
        h.update(headers or {})
        return ("%s %s HTTP/1.1\r\n%s\r\n" % (method, path, "".join("%s: %s\r\n" % (k, v) for k, v in h.items() if v is not None))).encode("latin-1") + data

    def get(self, path, headers=None):
        return self.request("GET", path, None, headers)

    def post(self, path, body, headers=None):
        return self.request("POST", path, body, headers)

    def chat(self, content="hi", **more):
        body = {"model": self.name, "messages": [{"role": "user", "content": content}]}
        body.update(more)
        return body

    def events(self, path, body, headers=None):
        """The events of a stream: (event or None, data as JSON, or text) in order; comments are left out."""
        r = self.post(path, body, headers)
        assert r.status == 200, (r.status, r.body)
        assert r.headers["content-type"].startswith("text/event-stream"), r.headers
        return events_of(r.text())

    def running(self):
        return self.get("/props").json()["state"]["running"]

    def stop(self):
        if self in SERVERS:
            SERVERS.remove(self)
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
            try:
                self.p.wait(timeout=20 * SLOW)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()
        self.p.stdout.close()
        self.err_file.close()
        return self.p.returncode


def events_of(text):
    out = []
    assert text.endswith("\n\n"), text[-100:]
    for block in text.split("\n\n"):
        event, data = None, []
        for line in block.split("\n"):
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: "):
                data.append(line[6:])
            else:
                assert line == "" or line.startswith(":"), line
        if data:
            joined = "\n".join(data)
            out.append((event, joined if joined == "[DONE]" else json.loads(joined)))
    return out


def error_of(r, status, **want):
    """Checks that a reply is an OpenAI error, and returns it."""
    assert r.status == status, (r.status, r.body[:500])
    assert r.headers["content-type"] == "application/json", r.headers
    e = r.json()["error"]
    assert set(e) >= {"message", "type", "param", "code"} and isinstance(e["message"], str) and e["message"], e
    for k, v in want.items():
        assert e[k] == v, (k, e)
    return e


def wait_for(f, seconds=5):
    end = time.monotonic() + seconds * SLOW
    while time.monotonic() < end:
        if f():
            return True
        time.sleep(0.02)
    return False
