"""lane_open_webui.py URL PROGRAM: Open WebUI in front of a scripted server: its list of models, an answer and a stream as its page asks for them."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

url, program = sys.argv[1:3]
work = tempfile.mkdtemp(prefix="hadal-webui-")
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
# docs/clients/open-webui.md has the first three; the others keep it from asking anybody else
env = {"OPENAI_API_BASE_URL": url + "/v1", "OPENAI_API_KEY": "k", "ENABLE_OLLAMA_API": "False", "WEBUI_AUTH": "False", "WEBUI_SECRET_KEY": "x", "DATA_DIR": work + "/data", "RAG_EMBEDDING_ENGINE": "openai",
       "OFFLINE_MODE": "true", "HF_HUB_OFFLINE": "1", "ENABLE_VERSION_UPDATE_CHECK": "False", "ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "1", "HOME": work, "LANG": "C.UTF-8",
       "PATH": os.path.dirname(program) + ":" + os.environ["PATH"]}
with open(work + "/log", "w") as log:
    p = subprocess.Popen([program, "serve", "--host", "127.0.0.1", "--port", str(port)], cwd=work, env=env, stdout=log, stderr=log)
token = ""


def ask(path, body=None):
    headers = {"Content-Type": "application/json", **({"Authorization": "Bearer " + token} if token else {})}
    with urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:%d%s" % (port, path), json.dumps(body).encode() if body is not None else None, headers), timeout=60) as r:
        return r.read().decode()


def up():
    try:
        return ask("/health")
    except OSError:
        return None


passed, n = 0, 3
try:
    end = time.monotonic() + 400
    while not up() and p.poll() is None and time.monotonic() < end:
        time.sleep(1)
    token = json.loads(ask("/api/v1/auths/signin", {"email": "", "password": ""}))["token"]
    passed += "v4" in [m["id"] for m in json.loads(ask("/api/models"))["data"]]
    chat = {"model": "v4", "messages": [{"role": "user", "content": "hi"}]}
    m = json.loads(ask("/api/chat/completions", dict(chat, stream=False)))["choices"][0]["message"]
    passed += m["content"] == "Hello there" and m["reasoning_content"] == "Let me think."
    parts = [json.loads(l[6:]) for l in ask("/api/chat/completions", dict(chat, stream=True)).splitlines() if l.startswith("data: {")]
    passed += "".join(c["delta"].get("content") or "" for e in parts for c in e["choices"]) == "Hello there"
finally:
    p.send_signal(signal.SIGTERM)
    try:
        p.wait(30)
    except subprocess.TimeoutExpired:
        p.kill()
    if passed < n:
        print(open(work + "/log").read()[-2000:])
    shutil.rmtree(work, ignore_errors=True)
    print("%d passed, %d failed" % (passed, n - passed))
