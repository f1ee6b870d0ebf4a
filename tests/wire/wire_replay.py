"""wire_replay.py: turns come back changed by clients, and the cache is hit all the same; nobody else's turn is ever put in."""
from wire import *

ARGS = [("path", True, "é \"b\"\n"), ("n", False, "1.0"), ("big", False, "12345678901234567890"), ("deep", False, "{\"b\": [1, null],  \"a\": 2.50}")]
TEXT = "I should look.</think>Now:" + calls(("bash", ARGS), ("noargs", [])) + EOS
# The same text in other tokens than the tokenizer would choose: characters one by one.
probe = Server({"runs": [{"text": "x"}]})


def spelled(text):
    ids = []
    for piece in text.replace("</think>", "\1</think>\1").replace(D, "\1" + D + "\1").replace(EOS, "\1").split("\1"):
        special = piece in ("</think>", D)
        for part in [piece] if special else piece:
            ids += probe.post("/tokenize", {"prompt": part, "add_special_tokens": False, "parse_special": special}).json()["tokens"]
    return ids


one_by_one, odd, thought = spelled(TEXT), spelled("An odd answer."), spelled("I think.</think>An odd answer.")
probe.stop()
s = Server({"n_ctx": 100000, "runs": [{"when": "call it oddly", "ids": one_by_one}, {"when": "say it oddly", "ids": odd}, {"when": "think it oddly", "ids": thought}, {"when": "by force", "random": 5}, {"when": "call it", "text": TEXT}, {"text": "</think>fine" + EOS}]})
P = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": n, "description": "d", "parameters": {"type": "object"}}} for n in ("bash", "noargs")]


def js(text):
    """Arguments as a JavaScript client writes them: compact, numbers through doubles."""
    def through(v):
        if isinstance(v, dict):
            return {k: through(x) for k, x in v.items()}
        if isinstance(v, list):
            return [through(x) for x in v]
        if isinstance(v, (int, float)) and not isinstance(v, bool):
            f = float(v)
            return int(f) if f == int(f) else f
        return v
    return json.dumps(through(json.loads(text)), separators=(",", ":"), ensure_ascii=False)


def first(text, **more):
    j = s.post(P, s.chat(text, tools=TOOLS, **more)).json()
    m, u = j["choices"][0]["message"], j["usage"]
    return m, u["prompt_tokens"] + u["completion_tokens"] - 2      # the end token is none, and one token is always computed


def second(text, m, **more):
    results = [{"role": "tool", "tool_call_id": c["id"], "content": "r"} for c in m["tool_calls"]]
    body = dict({"model": s.name, "tools": TOOLS, "messages": [{"role": "user", "content": text}, m] + results}, **more)
    r = s.post(P, body)
    assert r.status == 200, r.body
    return r, r.json()["usage"]["prompt_cache_hit_tokens"]


def counter(result):
    return int([l for l in s.get("/metrics").text().splitlines() if l.startswith('ds_replay_total{result="%s"}' % result)][0].split()[1])


@case("handed back as it was: every token of the first turn is a hit")
def _():
    for text in ["call it plainly", "call it oddly"]:
        m, n = first(text)
        r, hit = second(text, m)
        assert hit >= n and "x-ds-warning" not in r.headers, (hit, n)


@case("compact arguments, numbers through doubles, no reasoning, null content: still every token")
def _():
    for text in ["call it compactly", "call it oddly again"]:
        m, n = first(text)
        back = {"role": "assistant", "content": m["content"] + "\n", "tool_calls": [{"id": c["id"], "type": "function", "function": {"name": c["function"]["name"], "arguments": js(c["function"]["arguments"])}} for c in m["tool_calls"]]}
        assert back["tool_calls"][0]["function"]["arguments"] != m["tool_calls"][0]["function"]["arguments"]
        r, hit = second(text, back)
        assert hit >= n and "x-ds-warning" not in r.headers, (text, hit, n)
    assert counter("exact") >= 4


@case("turns without calls: behind the same conversation every token; behind another, of another user, or changed: as they are")
def _():
    off = {"thinking": {"type": "disabled"}}

    def turns(ask, more, content=None, said="An odd answer.", who=""):
        u = {"role": "user", "content": ask}
        j = s.post(P, dict({"model": s.name, "messages": [u], "user_id": "odd" + who}, **more)).json()
        n = j["usage"]["prompt_tokens"] + j["usage"]["completion_tokens"] - 2
        assert j["choices"][0]["message"]["content"] == "An odd answer."
        before = counter("exact")
        body = dict({"model": s.name, "messages": [dict(u, content=content or ask), {"role": "assistant", "content": said}, {"role": "user", "content": "and?"}], "user_id": "odd"}, **more)
        r = s.post(P, body)
        assert r.status == 200, r.body
        return r.json()["usage"]["prompt_cache_hit_tokens"] >= n, counter("exact") - before
    assert turns("say it oddly", off) == (True, 1)
    assert turns("say it oddly, An odd answer.", off, said="\nAn odd answer.\n") == (True, 1)       # the words stand in the question too
    assert turns("think it oddly", {"tools": TOOLS}) == (True, 1)                                     # with tools reasoning stays, and this client has lost it
    assert turns("say it oddly 2", off, content="say it oddly 3") == (False, 0)
    assert turns("say it oddly 4", off, said="An even answer.") == (False, 0)
    assert turns("say it oddly 5", off, who="2") == (False, 0)


@case("calls by force: the prompt began them, and all of it comes back")
def _():
    tools = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {"k": {"enum": ["a", "b"]}}, "required": ["k"], "additionalProperties": False}}}]
    for more in [{"thinking": {"type": "disabled"}}, {}]:
        for seed in range(4):
            text = "by force %d" % seed
            body = {"model": s.name, "tools": tools, "tool_choice": "required", "seed": seed, "max_tokens": 3000, "messages": [{"role": "user", "content": text}], **more}
            j = s.post(P, body).json()
            c, u = j["choices"][0], j["usage"]
            if c["finish_reason"] != "tool_calls":
                continue
            n, before = u["prompt_tokens"] + u["completion_tokens"] - 2, counter("exact")
            m = dict(c["message"], content=None)
            m.pop("reasoning_content", None)
            r = s.post(P, dict(body, messages=body["messages"] + [m] + [{"role": "tool", "tool_call_id": t["id"], "content": "r"} for t in m["tool_calls"]]))
            assert r.json()["usage"]["prompt_cache_hit_tokens"] >= n and counter("exact") == before + 1, (more, seed, r.json()["usage"], n)
            break
        else:
            raise AssertionError("no call ended")


@case("a history that somebody has changed is taken as it is")
def _():
    text = "call it to be changed"
    m, n = first(text)
    miss = counter("miss")
    for change in [lambda c: c[0]["function"].update(arguments='{"path": "other"}'), lambda c: c[0]["function"].update(name="noargs"), lambda c: c.reverse(), lambda c: c.pop()]:
        back = json.loads(json.dumps(m))
        change(back["tool_calls"])
        _, hit = second(text, back)
        assert hit < n - 3
    assert counter("miss") == miss + 4
    _, hit = second(text, dict(m, content="Later:"))
    assert hit < n - 3
    _, hit = second(text, dict(m, reasoning_content="I never said that."))
    assert hit < n - 3


@case("ids of other users and of nobody find nothing")
def _():
    text = "call it for alice"
    m, n = first(text, user_id="alice")
    del m["reasoning_content"]
    r, _ = second(text, m, user_id="alice")
    assert "x-ds-warning" not in r.headers
    r, hit = second(text, m, user_id="bob")
    assert r.headers["x-ds-warning"] and hit < n
    m["tool_calls"][0]["id"] = "call_00_guessed"
    r, _ = second(text, m, user_id="alice")
    assert r.headers["x-ds-warning"]


@case("streams are remembered as whole replies are; n choices each")
def _():
    text = "call it in a stream"
    ids = []
    for _, e in s.events(P, s.chat(text, tools=TOOLS, stream=True, n=2))[:-1]:
        for c in e["choices"]:
            ids += [t["id"] for t in c["delta"].get("tool_calls", []) if "id" in t and c["index"] == 1]
    back = {"role": "assistant", "content": "Now:", "tool_calls": [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in
            zip(ids, ("bash", "noargs"), ('{"path":"é \\"b\\"\\n","n":1,"big":12345678901234567000,"deep":{"b":[1,null],"a":2.5}}', "{}"))]}
    r, hit = second(text, back)
    assert "x-ds-warning" not in r.headers


@case("Anthropic's Messages: input through JavaScript, thinking dropped: every token")
def _():
    text = "call it, says Claude"
    tools = [{"name": "bash", "input_schema": {"type": "object"}}, {"name": "noargs", "input_schema": {"type": "object"}}]
    b = {"model": s.name, "max_tokens": 2000, "tools": tools, "thinking": {"type": "enabled"}, "messages": [{"role": "user", "content": text}]}
    r = s.post("/v1/messages", b).json()
    u = r["usage"]
    n = u["input_tokens"] + u["cache_read_input_tokens"] + u["output_tokens"] - 2
    for content in [r["content"], r["content"][1:], [dict(x, input=json.loads(js(json.dumps(x["input"])))) if x["type"] == "tool_use" else x for x in r["content"]]]:
        results = [{"type": "tool_result", "tool_use_id": x["id"], "content": "r"} for x in content if x["type"] == "tool_use"]
        u = s.post("/v1/messages", dict(b, messages=b["messages"] + [{"role": "assistant", "content": content}, {"role": "user", "content": results}])).json()["usage"]
        assert u["cache_read_input_tokens"] >= n, (u, n)


@case("Responses: items handed back without their reasoning: every token")
def _():
    text = "call it, says Codex"
    tools = [dict(t["function"], type="function") for t in TOOLS]
    b = {"model": s.name, "tools": tools, "input": [{"role": "user", "content": text}]}
    r = s.post("/v1/responses", b).json()
    n = r["usage"]["total_tokens"] - 2
    for out in [r["output"], r["output"][1:]]:
        outputs = [{"type": "function_call_output", "call_id": x["call_id"], "output": "r"} for x in out if x["type"] == "function_call"]
        u = s.post("/v1/responses", dict(b, input=b["input"] + out + outputs)).json()["usage"]
        assert u["input_tokens_details"]["cached_tokens"] >= n, (u, n)


@case("thousands of turns: memory stays, old ones go")
def _():
    for i in range(300):
        first("call it number %d" % i, stream=False)
    m, n = first("call it a last time")
    hit = second("call it a last time", m)[1]
    assert hit >= n, (hit, n)


@case("with a directory turns survive a restart, a killed server too: for the tenant that they were said to; torn files are left out")
def _():
    import signal
    global s
    old, where = s, os.path.join(TMP, "kept")
    script = {"n_ctx": 100000, "runs": [{"when": "call it", "text": TEXT}, {"text": "</think>fine" + EOS}]}
    s = Server(script, "--kv-disk-dir", where)
    turns = os.path.join(where, "turns")
    m, n = first("call it plainly")
    wait_for(lambda: len(os.listdir(turns)) == 1 and os.listdir(turns)[0].endswith(".turn"))
    assert os.stat(os.path.join(turns, os.listdir(turns)[0])).st_mode & 0o77 == 0
    s.p.send_signal(signal.SIGKILL)
    s.p.wait()
    s.stop()
    with open(os.path.join(turns, os.listdir(turns)[0])) as f:
        whole = f.read()
    name = os.listdir(turns)[0]
    others = [d for d in "01234" if d != name[-6]]      # numbers beside the turn's own
    for digit, rest, text in zip(others, (".turn", ".turn", ".turn.tmpAAAAAA", ".turn"), (whole[:-40], "{}", whole, "")):
        with open(os.path.join(turns, name[:-6] + digit + rest), "w") as f:
            f.write(text)
    with open(os.path.join(turns, "note.txt"), "w") as f:
        f.write("somebody else's")
    s = Server(script, "--kv-disk-dir", where)
    lost = {"role": "assistant", "content": m["content"], "tool_calls": m["tool_calls"]}
    exact = counter("exact")
    r, _ = second("call it plainly", lost)
    assert "x-ds-warning" not in r.headers and counter("exact") == exact + 1
    miss = counter("miss")
    second("call it plainly", lost, user="another")
    assert counter("miss") == miss + 1
    wait_for(lambda: sorted(os.listdir(turns)) == sorted([name, "note.txt"]))
    assert s.post("/admin/flush", {}).status == 200
    wait_for(lambda: os.listdir(turns) == ["note.txt"])
    s.stop()
    s = old


run()
