"""wire_ops.py: ledger, prices, budgets, hadal usage; metrics; logs."""
import re
import sqlite3
import subprocess

from wire import *

SECRET = "marker-of-a-prompt"
RUNS = {"runs": [{"when": "say hello", "text": "Let me think.</think>Hello" + EOS}, {"when": "one call", "text": "</think>" + calls(("f", [("a", False, "1")])) + EOS},
                 {"when": "slowly", "text": "</think>" + "word " * 100, "delay_ms": 10}, {"when": "breaks", "text": "</think>x", "error": "the disk is gone"}, {"text": "</think>ok" + EOS}]}
PRICES = os.path.join(TMP, "prices.json")
LEDGER = os.path.join(TMP, "usage.db")
with open(PRICES, "w") as f:
    json.dump({"currency": "USD", "hit": 0.003, "miss": 0.15, "output": 0.6, "budgets": {"key2": 0.0001}}, f)
s = Server(RUNS, "--ledger", LEDGER, "--prices", PRICES, "--api-key", "key-0001", "--api-key", "key-0002", "--metrics-compat", "vllm,llamacpp,sglang")
K1, K2 = {"x-api-key": "key-0001"}, {"x-api-key": "key-0002"}
P = "/v1/chat/completions"


def rows(path=LEDGER):
    db = sqlite3.connect("file:%s?mode=ro" % path, uri=True)
    db.row_factory = sqlite3.Row
    out = db.execute("SELECT * FROM request ORDER BY at").fetchall()
    db.close()
    return out


def cost(u):
    return round((u["prompt_cache_hit_tokens"] * 0.003 + u["prompt_cache_miss_tokens"] * 0.15 + u["completion_tokens"] * 0.6) * 1000)


@case("every request has a row that says what its reply said; costs by the table")
def _():
    spent = 0
    for i in range(3):
        u = s.post(P, s.chat("say hello " + SECRET, stream=False), K1).json()["usage"]
        r = rows()[-1]
        assert (r["key"], r["path"], r["status"], r["finish"]) == ("key1", P, 200, "stop") and r["model"] == s.name
        assert (r["prompt"], r["cached"], r["completion"], r["reasoning"]) == (u["prompt_tokens"], u["prompt_cache_hit_tokens"], u["completion_tokens"], u["completion_tokens_details"]["reasoning_tokens"])
        assert r["cost"] == cost(u) and r["total_s"] > 0 and r["first_s"] > 0 and r["id"].startswith("req_")
        spent += r["cost"]
    b = s.get("/user/balance", K1).json()
    assert b["is_available"] is True and abs(b["spent"] * 1e9 - spent) < 1 and b["balance_infos"][0]["currency"] == "USD" and b["balance_infos"][0]["total_balance"] == "0.00"
    n = len(rows())
    u = s.events(P, s.chat("say hello", stream=True), K1)[-2][1]["usage"]
    assert len(rows()) == n + 1 and rows()[-1]["completion"] == u["completion_tokens"] and rows()[-1]["stream"] == 1


@case("requests that fail or are left have rows too")
def _():
    s.post(P, s.chat("breaks"), K1)
    assert (rows()[-1]["status"], rows()[-1]["finish"]) == (500, "error")
    c = s.conn()
    c.send(s.bytes("POST", P, s.chat("slowly", stream=True), K1))
    c.until(b"reasoning_content")
    c.until(b"\"content\":\"w\"")
    c.close()
    assert wait_for(lambda: (rows()[-1]["status"], rows()[-1]["finish"]) == (499, "abort")) and rows()[-1]["completion"] > 0


@case("a budget: 402 when it is spent, balance says so, others go on")
def _():
    b = s.get("/user/balance", K2).json()["balance_infos"][0]
    assert b["granted_balance"] == "0.00" and all(isinstance(v, str) for v in b.values())
    for i in range(100):
        r = s.post(P, s.chat("say hello"), K2)
        if r.status != 200:
            break
    error_of(r, 402, message="Insufficient Balance")
    assert i > 1 and s.get("/user/balance", K2).json()["is_available"] is False and s.post(P, s.chat("say hello"), K1).status == 200
    r = s.post("/v1/messages", {"model": s.name, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}, K2)
    assert r.status == 402 and r.json()["error"]["type"] == "billing_error"


@case("hadal usage: by key, model, day and path, as text and JSON; errors")
def _():
    def usage(*args):
        return subprocess.run([HADAL, "usage"] + list(args), capture_output=True, text=True, timeout=60)
    total = len(rows())
    j = json.loads(usage(LEDGER, "--json").stdout)
    assert [x["what"] for x in j] == ["key1", "key2"] and sum(x["requests"] for x in j) == total
    assert abs(sum(x["cost"] for x in j) - sum(r["cost"] for r in rows()) / 1e9) < 1e-8
    for by in ["key", "model", "day", "path"]:
        t = usage(LEDGER, "--by", by)
        assert t.returncode == 0 and t.stdout.startswith(by) and len(t.stdout.splitlines()) >= 2, t
    assert json.loads(usage(LEDGER, "--json", "--since", "2100-01-01").stdout) == []
    assert usage(LEDGER, "--by", "moon").returncode == 2 and usage(LEDGER, "--since", "tomorrow").returncode == 2 and usage(LEDGER + "x").returncode == 1 and usage(PRICES).returncode == 1


@case("kill -9 loses no row that a client has seen the end of; sums go on after a restart")
def _():
    path = os.path.join(TMP, "kill.db")
    k = Server(RUNS, "--ledger", path, "--prices", PRICES)
    ids = []
    for i in range(50):
        r = k.post(P, k.chat("say hello"))
        ids.append(r.headers["x-request-id"])
    k.p.kill()
    k.p.wait()
    SERVERS.remove(k)
    k.p.stdout.close()
    k.err_file.close()
    assert [r["id"] for r in rows(path)] == ids
    k = Server(RUNS, "--ledger", path, "--prices", PRICES)
    assert abs(k.get("/user/balance").json()["spent"] * 1e9 - sum(r["cost"] for r in rows(path))) < 1
    k.stop()


@case("prices and ledgers that are none are refused at the start")
def _():
    for text in ["[]x", "{\"miss\": \"much\"}", "{\"miss\": -1}", "{\"budgets\": 5}", "{\"budgets\": {\"a\": \"b\"}}"]:
        bad_path = os.path.join(TMP, "bad.json")
        with open(bad_path, "w") as f:
            f.write(text)
        bad = Server(RUNS, "--prices", bad_path, expect_fail=True)
        assert bad.p.returncode == 1 and "bad.json" in bad.stderr(), (text, bad.stderr())
    bad = Server(RUNS, "--ledger", PRICES, expect_fail=True)
    assert bad.p.returncode == 1
    bad = Server(RUNS, "--ledger", TMP + "/no/such/dir.db", expect_fail=True)
    assert bad.p.returncode == 1


def metrics():
    r = s.get("/metrics", K1)
    assert r.status == 200 and r.headers["content-type"].startswith("text/plain; version=0.0.4")
    out, types, helped = {}, {}, set()
    for line in r.text().splitlines():
        if line.startswith("# HELP "):
            assert line.split()[2] not in helped, "HELP twice: " + line
            helped.add(line.split()[2])
        elif line.startswith("# TYPE "):
            _, _, n, t = line.split()
            types[n] = t
            assert (t == "counter") <= n.endswith("_total"), n
        else:
            m = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-z_]+="[^"\\]*",?)*\})? (\S+)', line)
            assert m, line
            base = re.sub("_(bucket|sum|count)$", "", m.group(1))
            assert m.group(1) in types or types.get(base) == "histogram", line
            assert m.group(1) + (m.group(2) or "") not in out, line
            out[m.group(1) + (m.group(2) or "")] = float(m.group(3))
    return out


@case("metrics: text that parses, counters that count, histograms whose buckets grow, other servers' names")
def _():
    a = metrics()
    for i in range(5):
        s.post(P, s.chat("say hello"), K1)
    s.post(P, s.chat("one call", tools=[{"type": "function", "function": {"name": "f"}}]), K1)
    s.get("/v1/models")
    b = metrics()
    http = 'ds_http_requests_total{path="/v1/chat/completions",method="POST",code="200"}'
    assert b[http] - a[http] == 6 and b["ds_auth_failures_total"] - a["ds_auth_failures_total"] == 1
    assert b['ds_requests_finished_total{reason="stop"}'] - a['ds_requests_finished_total{reason="stop"}'] == 5
    assert b['ds_requests_finished_total{reason="tool_calls"}'] - a['ds_requests_finished_total{reason="tool_calls"}'] == 1 and b['ds_toolcall_total{outcome="ok"}'] > a['ds_toolcall_total{outcome="ok"}']
    assert b['ds_client_disconnects_total{phase="decode"}'] == 1
    assert b["ds_generation_tokens_total"] > a["ds_generation_tokens_total"]
    for name in ["ds_request_seconds", "vllm:e2e_request_latency_seconds", "sglang:e2e_request_latency_seconds", "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"]:
        buckets = [v for k, v in b.items() if k.startswith(name + "_bucket")]
        assert buckets == sorted(buckets) and len(buckets) > 10
        counts = [v for k, v in b.items() if k.startswith(name + "_count")]
        assert counts == [buckets[-1]]
    label = '{model_name="%s",engine="0"}' % s.name
    for name in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"]:
        assert name + label in b, name
    for name in ["llamacpp:requests_processing", "llamacpp:tokens_predicted_total", "sglang:num_running_reqs", "sglang:gen_throughput", "ds_kv_disk_bytes", "ds_http_inflight"]:
        assert name in b, name
    assert not any(SECRET in k for k in b)


@case("labels cannot be made by asking")
def _():
    n = len(metrics())
    for i in range(50):
        s.get("/nothing-%d" % i, K1)
        s.post(P, s.chat("say hello", model="model-%d" % i, user="user-%d" % i), K1)
        s.request("BREW", "/x", None, K1)
    m = metrics()
    assert len(m) <= n + 8 and not any("nothing-" in k or "user-" in k or "model-" in k for k in m)


@case("logs: one line of JSON a request, with numbers and without a word of what was said; nothing can be forged")
def _():
    path = os.path.join(TMP, "log")
    l = Server(RUNS, "--log", path, "--api-key", "sk-secret-key-0001", "--any-model")
    h = {"x-api-key": "sk-secret-key-0001", "Cookie": "c=" + SECRET}
    l.post(P + "?q=" + SECRET, l.chat("say hello " + SECRET, user="user-" + SECRET), h)
    l.post(P, l.chat("say hello", model="a\"\n{\"forged\":1}\x1b[31m"), h)
    l.post(P, l.chat(SECRET, n=99), h)
    l.post(P, b"{" + SECRET.encode(), h)
    l.get("/" + SECRET, h)
    l.get("/v1/models", {"x-api-key": "wrong-" + SECRET})
    l.get("/health")
    l.stop()
    with open(path) as f:
        lines = f.read().splitlines()
    assert len(lines) == 6, lines
    j = [json.loads(x) for x in lines]
    assert SECRET not in "".join(lines) and "sk-secret" not in "".join(lines) and "Hello" not in "".join(lines)
    assert j[0]["path"] == P and j[0]["status"] == 200 and j[0]["key"] == "key1" and j[0]["prompt_tokens"] > 0 and j[0]["finish"] == "stop" and re.fullmatch("[0-9a-f]{8}", j[0]["user"]) and j[0]["time"].endswith("Z")
    assert [x["status"] for x in j] == [200, 200, 422, 400, 404, 401] and j[4]["path"] == "other"
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert '"path":"/v1/chat/completions"' in s.stderr()
    q = Server(RUNS, "--quiet")
    q.post(P, q.chat("say hello"))
    q.stop()
    with open(q.err_path) as f:
        assert f.read() == ""


@case("the page: one document and its own files, a strict policy, nothing from elsewhere; programs get facts")
def _():
    html = s.get("/", {"Accept": "text/html,application/xhtml+xml"})
    assert html.headers["content-type"] == "text/html; charset=utf-8" and s.get("/").json()["server"] == "hadal"
    for path, type in [("/page.css", "text/css; charset=utf-8"), ("/page.js", "text/javascript; charset=utf-8"), ("/openapi.yaml", "application/yaml")]:
        r = s.get(path)
        assert r.status == 200 and r.headers["content-type"] == type and len(r.body) > 1000
        policy = r.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert path.endswith("yaml") or not re.search(rb"https?://", r.body)
    assert not re.search(rb"https?://|<script>|style=| on[a-z]+=", html.body) and b"innerHTML" not in s.get("/page.js").body
    used = set(re.findall(rb'(?:src|href)="(/[^"]*)"', html.body))
    assert used == {b"/page.css", b"/page.js"}


@case("openapi.yaml: every path that it names is there, with that method and behind the key that it says")
def _():
    text = s.get("/openapi.yaml").text()
    paths = re.findall(r"^  (/\S*):\n    (get|post):\n((?:      .*\n)+)", text, re.M)
    assert len(paths) >= 15 and ('enum: ["%s"]' % s.name) in text
    for path, method, rest in paths:
        path = path.replace("{id}", s.name)
        r = s.request(method.upper(), path, b"{}" if method == "post" else None)
        assert r.status == (200 if "security: []" in rest else 401), (path, r.status)
        r = s.request(method.upper(), path, b"{}" if method == "post" else None, K1)
        assert r.status == (400 if method == "post" else 200), (path, r.status)
        assert s.request("PUT", path, None, K1).status == 405


@case("metrics of a model bigger than memory: experts from disk, and records of its pack that are damaged")
def _():
    model = os.path.join(TMP, "packed")
    shutil.copytree("tests/golden/v41-f32-a", model)
    subprocess.run([HADAL, "pack", model, "-q"], check=True, stdout=subprocess.DEVNULL)
    pack = os.path.join(model, "experts.hdpack")
    plan = json.loads(subprocess.run([HADAL, "inspect", model, "--plan", "--ctx", "256", "--json"], check=True, stdout=subprocess.PIPE).stdout)["memory"]
    room = plan["weights"] + plan["cache"] + plan["step"] + (64 << 20) - 4096           # not quite enough
    for damaged in (False, True):
        if damaged:
            with open(pack, "r+b") as f:
                f.seek(4096)
                f.write(bytes(os.path.getsize(pack) // 2))
        d = Server(None, "--ctx", "256", "--memory", str(room), "--threads", "1", "--sampling", "open", model=model)
        assert "(experts in a pack)" in d.stderr(), d.stderr()
        r = d.post("/v1/completions", {"model": "packed", "prompt": "the sea is salty " * 5, "max_tokens": 20, "temperature": 0})
        assert r.status == 200, r.body
        text = r.json()["choices"][0]["text"] if not damaged else text
        assert r.json()["choices"][0]["text"] == text
        m = {k: float(v) for k, v in re.findall(r"^(ds_expert_\w+) ([0-9.e+-]+)$", d.get("/metrics").text(), re.M)}
        assert m["ds_expert_misses_total"] > 0 and (m["ds_expert_damaged_total"] > 0) == damaged, m


run()
