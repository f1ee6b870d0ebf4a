"""lane_nginx.py URL KEY: docs/clients/nginx.conf itself, with ports and a certificate of this run put in, in front of a scripted server."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

url, key = sys.argv[1:3]
work = tempfile.mkdtemp(prefix="hadal-nginx-")
os.chmod(work, 0o755)                 # its workers are somebody else
passed = failed = 0


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


port = free_port()
subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hadal.example", "-addext", "subjectAltName=DNS:hadal.example", "-keyout", work + "/k.pem", "-out", work + "/c.pem"],
               check=True, capture_output=True)
with open("docs/clients/nginx.conf") as f:
    site = f.read()
for old, new in [("127.0.0.1:8080", url.split("//")[1]), ("listen 443", "listen 127.0.0.1:%d" % port), ("/etc/ssl/hadal.pem", work + "/c.pem"), ("/etc/ssl/hadal.key", work + "/k.pem")]:
    assert old in site, old
    site = site.replace(old, new)
with open(work + "/nginx.conf", "w") as f:
    temp = "".join("%s_temp_path %s/t_%s;\n" % (n, work, n) for n in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    f.write("daemon off;\nerror_log %s/err.log;\npid %s/pid;\nevents {}\nhttp {\naccess_log off;\n%s%s}\n" % (work, work, temp, site))
nginx = subprocess.Popen([shutil.which("nginx") or "/usr/sbin/nginx", "-p", work, "-c", work + "/nginx.conf"], stderr=subprocess.PIPE)
context = ssl.create_default_context(cafile=work + "/c.pem")


class Named(http.client.HTTPSConnection):
    """hadal.example, which is here."""
    def connect(self):
        self.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 20), server_hostname="hadal.example")


def ask(method, path, body=None, k=key, **more):
    c = Named("hadal.example", timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
    c.request(method, path, data, {**({"Authorization": "Bearer " + k} if k else {}), **({"Content-Type": "application/json"} if data else {}), **more})
    return c, c.getresponse()


def direct(path):
    return json.load(urllib.request.urlopen(urllib.request.Request(url + path, headers={"Authorization": "Bearer " + key})))


def chat(text, **more):
    return {"model": "v4", "messages": [{"role": "user", "content": text}], **more}


def check(what, ok, seen=None):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print("not so: " + what, seen if seen is not None else "")


def wait_for(f):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if f():
            return True
        time.sleep(0.05)
    return False


try:
    assert wait_for(lambda: not socket.socket().connect_ex(("127.0.0.1", port))), nginx.stderr.read1(2000)
    check("health", ask("GET", "/health", k=None)[1].status == 200)
    _, r = ask("GET", "/", k=None, Accept="text/html")
    check("the page", r.status == 200 and b"<title>hadal" in r.read())
    _, r = ask("POST", "/v1/chat/completions", chat("hi"), k="wrong")
    check("a wrong key", r.status == 401 and json.load(r)["error"]["type"] == "authentication_error")
    _, r = ask("POST", "/v1/chat/completions", chat("hi"))
    check("an answer", r.status == 200 and json.load(r)["choices"][0]["message"]["content"] == "Hello there")
    _, r = ask("POST", "/v1/messages", {"model": "v4", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]})
    check("a message", r.status == 200 and json.load(r)["content"][0]["text"].endswith("Hello there"))
    c, r = ask("POST", "/v1/chat/completions", chat("slowly", stream=True))
    first = r.readline() + r.readline() + r.readline()
    check("the first event is here while the rest is being said", first.startswith(b"data: ") and direct("/props")["state"]["running"] == 1)
    rest = r.read()
    check("the whole stream", rest.endswith(b"data: [DONE]\n\n") and rest.count(b"data: ") > 50)
    c, r = ask("POST", "/v1/chat/completions", chat("slowly", stream=True))
    r.readline()
    c.sock.close()
    r.close()
    c.close()
    check("a client that goes frees its slot", wait_for(lambda: direct("/props")["state"]["running"] == 0))
    _, r = ask("POST", "/v1/chat/completions", chat("hi " + "word " * 1500000))
    check("7 MB", r.status == 400 and json.load(r)["error"]["code"] == "context_length_exceeded", r.status)
    try:
        _, r = ask("POST", "/v1/chat/completions", b"x" * (50 << 20))
        check("50 MB are too much, in hadal's words", r.status == 413 and "application/json" in r.getheader("Content-Type"), r.status)
    except (BrokenPipeError, ConnectionResetError, ssl.SSLError) as e:
        check("50 MB: %r" % e, False)
    _, r = ask("GET", "/slots")
    check("nobody is the administrator through a proxy", r.status in (401, 403))
finally:
    nginx.send_signal(signal.SIGTERM)
    nginx.wait(20)
    shutil.rmtree(work)
print("%d passed, %d failed" % (passed, failed))
