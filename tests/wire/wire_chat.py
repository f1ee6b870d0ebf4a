"""wire_chat.py: Chat Completions: shapes of replies and streams, thinking, tools, stops, logprobs, limits, faults, slow and vanished clients."""
import base64
import os
import socket
import threading
import time

from wire import *

try:
    import jsonschema                 # a second opinion, where it is installed
except ImportError:
    jsonschema = None

LONG = "</think>" + "The quick brown fox. " * 40
ARGS = [("path", True, "a \"b\"\n2>&1 </x>"), ("n", False, "12"), ("deep", False, "{\"a\": [1, null]}")]
RUNS = [
    {"when": "say hello", "text": "Let me think.</think>Hello, wörld 🎉!" + EOS},
    {"when": "one call", "text": "I should.</think>Now:" + calls(("bash", ARGS)) + EOS},
    {"when": "two calls", "text": "</think>" + calls(("bash", ARGS), ("noargs", [])) + EOS},
    {"when": "bursts", "text": "I should.</think>Now:" + calls(("bash", ARGS)) + EOS, "burst": 7},
    {"when": "cut call", "text": "</think>" + calls(("bash", ARGS))[:-60], "finish": "length"},
    {"when": "quoted", "text": "</think>In text: <｜DSML ｜invoke> </think> and &lt;" + EOS},
    {"when": "stops", "text": "no STOP here</think>one two STOP three STOPPED four" + EOS},
    {"when": "only thoughts", "text": "thinking for ever", "finish": "length"},
    {"when": "slowly", "text": LONG + EOS, "delay_ms": 10},
    {"when": "late", "text": "</think>done" + EOS, "start_ms": 1500},
    {"when": "very long", "text": LONG, "repeat": 1500, "burst": 64, "delay_ms": 1, "finish": "stop"},
    {"when": "full house", "text": "", "refuse": "full", "retry_s": 7.2},
    {"when": "breaks", "text": "</think>some text", "error": "the disk is gone", "delay_ms": 1},
    {"when": "collapses", "text": "", "error": "no memory left", "error_code": "memory"},
    {"when": "hard", "text": "", "error": "a bug"},
    {"when": "nothing", "text": EOS},
    {"when": "window", "text": "</think>abc", "finish": "context"},
    {"text": "</think>Hello" + EOS},
]
for i in range(64):
    RUNS.insert(0, {"when": "nonce-%02d-" % i, "text": "</think>" + ("[%02d]" % i) * 60 + EOS, "delay_ms": 3, "burst": 3})
s = Server({"n_ctx": 2000000, "runs": RUNS}, "--keep-alive", "0.2", "--stall-timeout", "1.5")
P = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": n, "description": "does " + n, "parameters": {"type": "object", "properties": {}}, "strict": False}} for n in ("bash", "noargs")]
ARGS_JSON = {"path": "a \"b\"\n2>&1 </x>", "n": 12, "deep": {"a": [1, None]}}


def said(events, key):
    return "".join(c["delta"].get(key) or "" for _, e in events if e != "[DONE]" for c in e["choices"])


def usage_holds(u):
    assert u["prompt_tokens"] == u["prompt_cache_hit_tokens"] + u["prompt_cache_miss_tokens"] and u["total_tokens"] == u["prompt_tokens"] + u["completion_tokens"], u
    assert u["prompt_tokens_details"]["cached_tokens"] == u["prompt_cache_hit_tokens"]
    assert u["completion_tokens_details"]["reasoning_tokens"] <= u["completion_tokens"]


@case("a whole reply: keys, reasoning, usage, timings; all base paths; the model's name as it was sent")
def _():
    for path in [P, "/chat/completions", "/beta/chat/completions", "/beta/v1/chat/completions/", P + "?beta=true"]:
        r = s.post(path, s.chat("say hello"))
        j = r.json()
        assert r.status == 200 and r.headers["content-type"] == "application/json" and "content-length" in r.headers
        assert j["object"] == "chat.completion" and j["model"] == s.name and j["system_fingerprint"].startswith("fp_") and isinstance(j["created"], int)
        c = j["choices"][0]
        assert c["index"] == 0 and c["finish_reason"] == "stop" and c["logprobs"] is None
        assert c["message"] == {"role": "assistant", "content": "Hello, wörld 🎉!", "reasoning_content": "Let me think."}
        usage_holds(j["usage"])
        assert j["usage"]["completion_tokens_details"]["reasoning_tokens"] > 5 and set(j["timings"]) >= {"prompt_n", "predicted_n", "cache_n"}
    assert s.post(P, s.chat("say hello", model="deepseek-v4-flash")).json()["model"] == "deepseek-v4-flash"
    assert s.post(P, s.chat("say hello", model=s.name + "[1m]")).json()["model"] == s.name + "[1m]"


@case("a stream: order, one role, one id, usage on the last chunk, [DONE] with its empty line")
def _():
    r = s.post(P, s.chat("say hello", stream=True))
    assert r.headers["cache-control"] == "no-cache" and r.headers["x-accel-buffering"] == "no" and r.headers["transfer-encoding"] == "chunked"
    assert r.text().endswith("data: [DONE]\n\n")
    ev = events_of(r.text())
    assert all(e is None for e, _ in ev) and ev[-1][1] == "[DONE]"
    chunks = [d for _, d in ev[:-1]]
    assert len({(c["id"], c["created"], c["model"], c["object"], c["system_fingerprint"]) for c in chunks}) == 1 and chunks[0]["object"] == "chat.completion.chunk"
    assert chunks[0]["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": "", "reasoning_content": ""}, "logprobs": None, "finish_reason": None}]
    assert chunks[-1]["choices"] == [{"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": "stop"}]
    usage_holds(chunks[-1]["usage"])
    assert all("usage" not in c and "role" not in c["choices"][0]["delta"] for c in chunks[1:-1])
    kinds = ["reasoning_content" if "reasoning_content" in c["choices"][0]["delta"] else "content" for c in chunks[1:-1]]
    assert kinds == sorted(kinds, reverse=True), "reasoning first"
    assert said(ev, "content") == "Hello, wörld 🎉!" and said(ev, "reasoning_content") == "Let me think."


@case("include_usage: null on every chunk, then one chunk without choices")
def _():
    ev = [d for _, d in s.events(P, s.chat("say hello", stream=True, stream_options={"include_usage": True}))]
    assert all(c["usage"] is None for c in ev[:-2]) and ev[-3]["choices"][0]["finish_reason"] == "stop"
    assert ev[-2]["choices"] == [] and ev[-1] == "[DONE]"
    usage_holds(ev[-2]["usage"])


@case("thinking: off, on, levels, aliases of other servers; the wrong ones are 400")
def _():
    def reasons(**more):
        j = s.post(P, s.chat("say hello", **more)).json()
        return "reasoning_content" in j["choices"][0]["message"] and j["choices"][0]["message"]["content"] == "Hello, wörld 🎉!"
    for more in [{}, {"thinking": {"type": "enabled"}}, {"reasoning_effort": "low"}, {"reasoning_effort": "xhigh"}, {"reasoning_effort": "max"},
                 {"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, {"enable_thinking": True}, {"chat_template_kwargs": {"thinking": True}}]:
        assert reasons(**more), more
    for more in [{"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}, "reasoning_effort": "max"}, {"enable_thinking": False},
                 {"chat_template_kwargs": {"enable_thinking": False}}]:
        j = s.post(P, s.chat("say hello", **more)).json()
        assert "reasoning_content" not in j["choices"][0]["message"], more
    for more in [{"thinking": "on"}, {"thinking": {"type": "x"}}, {"reasoning_effort": "huge"}, {"reasoning_effort": 3}, {"chat_template_kwargs": []}, {"enable_thinking": "yes"}]:
        error_of(s.post(P, s.chat(**more)), 400)


@case("thinking of requests that do not say: as the model's directory has it, --thinking before it; aliases and requests that do say are kept")
def _():
    model = os.path.join(TMP, "habit")
    shutil.copytree(v4_model(), model)

    def habit(said, *args):
        with open(model + "/generation_config.json", "w") as f:
            json.dump(said, f)
        h = Server({"runs": RUNS[-1:]}, "--quiet", "--legacy-aliases", *args, model=model)
        yes = lambda **more: h.post("/apply-template", h.chat("hi", **more)).json()["prompt"].endswith("<think>")
        seen = [yes(), yes(thinking={"type": "enabled"}), yes(thinking={"type": "disabled"}), yes(reasoning_effort="low"), yes(model="deepseek-chat"), yes(model="deepseek-reasoner")]
        props, listed = h.get("/props").json()["reasoning_effort"], h.get("/v1/models").json()["data"][0]["effort"]["default_level"]
        assert h.stop() == 0 and props == listed and seen[1:] == [True, False, True, False, True], (said, args, seen, props, listed)
        return seen[0], props
    assert habit({}) == (True, "high") and habit({"thinking": True}) == (True, "high") and habit({"thinking": "low"}) == (True, "low")
    assert habit({"thinking": False}) == (False, "none") and habit({"thinking": "off"}) == (False, "none") and habit({"thinking": {"of": "others"}}) == (True, "high")
    assert habit({"thinking": False}, "--thinking", "max") == (True, "max") and habit({"thinking": True}, "--thinking", "off") == (False, "none")
    assert habit({"thinking": "off"}, "--thinking", "auto") == (False, "none")
    b = Server({"runs": RUNS[-1:]}, "--thinking", "much", model=model, expect_fail=True)
    assert b.p.returncode != 0 and "--thinking" in b.stderr() and "expected auto" in b.stderr(), b.stderr()
    with open(model + "/generation_config.json", "w") as f:
        json.dump({"thinking": "much"}, f)
    b = Server({"runs": RUNS[-1:]}, model=model, expect_fail=True)
    assert b.p.returncode != 0 and "generation_config.json: thinking" in b.stderr(), b.stderr()


@case("a tool call, whole: content, arguments with Python's spacing, finish_reason")
def _():
    m = s.post(P, s.chat("one call", tools=TOOLS)).json()["choices"][0]
    assert m["finish_reason"] == "tool_calls" and m["message"]["content"] == "Now:" and m["message"]["reasoning_content"] == "I should."
    c = m["message"]["tool_calls"]
    assert len(c) == 1 and c[0]["index"] == 0 and c[0]["type"] == "function" and c[0]["function"]["name"] == "bash" and c[0]["id"].startswith("call_00_") and len(c[0]["id"]) == 32
    assert c[0]["function"]["arguments"] == '{"path": "a \\"b\\"\\n2>&1 </x>", "n": 12, "deep": {"a": [1, null]}}'


def check_call_stream(ev, want):
    """Rules 3 to 6 of api.md 2.3; returns the calls."""
    got, open_index = [], -1
    for _, e in ev[:-1]:
        for c in e["choices"]:
            for t in c["delta"].get("tool_calls", []):
                if "id" in t:
                    assert t["index"] == open_index + 1 and t["type"] == "function" and t["function"]["arguments"] == "" and t["function"]["name"]
                    open_index += 1
                    got.append([t["function"]["name"], ""])
                    assert t["id"].startswith("call_%02d_" % t["index"])
                else:
                    assert t["index"] == open_index and set(t) == {"index", "function"} and set(t["function"]) == {"arguments"}
                    got[-1][1] += t["function"]["arguments"]
            if open_index >= 0:
                assert not c["delta"].get("content"), "content behind a call"
    assert [(n, json.loads(a)) for n, a in got] == want, got
    assert ev[-2][1]["choices"][0]["finish_reason"] == "tool_calls"
    return got


@case("tool calls, streamed: id and name once, arguments grow, {} for no argument, no placeholder; in bursts the same")
def _():
    check_call_stream(s.events(P, s.chat("one call", tools=TOOLS, stream=True)), [("bash", ARGS_JSON)])
    got = check_call_stream(s.events(P, s.chat("two calls", tools=TOOLS, stream=True)), [("bash", ARGS_JSON), ("noargs", {})])
    assert got[1][1] == "{}"
    check_call_stream(s.events(P, s.chat("bursts", tools=TOOLS, stream=True)), [("bash", ARGS_JSON)])


@case("parallel_tool_calls false: one call; no tools or tool_choice none: markup is text")
def _():
    m = s.post(P, s.chat("two calls", tools=TOOLS, parallel_tool_calls=False)).json()["choices"][0]
    assert len(m["message"]["tool_calls"]) == 1 and m["finish_reason"] == "tool_calls"
    for more in [{}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": []}]:
        m = s.post(P, s.chat("one call", **more)).json()["choices"][0]
        assert m["finish_reason"] == "stop" and "tool_calls" not in m["message"] and "invoke name=\"bash\"" in m["message"]["content"]


@case("a call that is cut off: valid JSON, finish_reason length; markers spelled in text are text")
def _():
    m = s.post(P, s.chat("cut call", tools=TOOLS)).json()["choices"][0]
    assert m["finish_reason"] == "length"
    json.loads(m["message"]["tool_calls"][0]["function"]["arguments"])
    m = s.post(P, s.chat("quoted", tools=TOOLS)).json()["choices"][0]
    assert "tool_calls" not in m["message"] and "&lt;" in m["message"]["content"]


@case("tool_choice: required and named open the block in the prompt; wrong ones are 400")
def _():
    off = {"thinking": {"type": "disabled"}}
    body = s.chat("x", tools=TOOLS, tool_choice="required", **off)
    assert s.post(P, body).status == 200
    assert s.post(P, s.chat("x", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "noargs"}}, **off)).status == 200
    for choice in ["sometimes", 3, {"type": "function", "function": {"name": "nobody"}}, {"type": "x"}, {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"name": "nobody"}]}},
                   {"type": "allowed_tools", "mode": "auto", "tools": []}, {"type": "allowed_tools", "mode": "x", "tools": [{"name": "bash"}]}]:
        error_of(s.post(P, s.chat(tools=TOOLS, tool_choice=choice, **off)), 400)
    error_of(s.post(P, s.chat(tool_choice="required", **off)), 400)


STRICT = [{"type": "function", "function": {"name": "book", "strict": True, "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 8}, "nights": {"type": "integer", "minimum": 1, "maximum": 14}, "room": {"enum": ["single", "double"]},
                                     "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2}},
    "required": ["city", "nights", "room"], "additionalProperties": False}}},
          {"type": "function", "function": {"name": "stop", "strict": True, "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}]


def booked(call):
    a = json.loads(call["arguments"])
    assert call["name"] in ("book", "stop"), call
    if call["name"] == "stop":
        assert a == {}, a
        return
    assert list(a) == [k for k in ["city", "nights", "room", "tags"] if k in a] and {"city", "nights", "room"} <= set(a), a
    assert isinstance(a["city"], str) and len(a["city"]) <= 8 and type(a["nights"]) is int and 1 <= a["nights"] <= 14 and a["room"] in ("single", "double"), a
    assert len(a.get("tags", [])) <= 2 and all(len(t) <= 4 for t in a.get("tags", [])), a


@case("tools by force, from noise, in every protocol: required, named, allowed, strict; behind thinking too; one call where one was asked for")
def _():
    r = Server({"n_ctx": 6000, "runs": [{"random": 7, "burst": 64}]})
    ended = 0
    for seed in range(40):
        named = seed % 4 == 1
        choice = ["required", {"type": "function", "function": {"name": "book"}}, {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "stop"}}]}}, "auto"][seed % 4]
        body = r.chat("noise", tools=STRICT, tool_choice=choice, parallel_tool_calls=seed % 8 < 4, seed=seed, max_tokens=2000, thinking={"type": "enabled" if seed % 3 == 0 else "disabled"})
        if seed % 5 == 0:
            body["stream"] = True
            ev = r.events(P, body)
            calls_, finish = {}, ev[-2][1]["choices"][0]["finish_reason"]
            for _, e in ev[:-1]:
                for t in e["choices"][0]["delta"].get("tool_calls", []) if e["choices"] else []:
                    c = calls_.setdefault(t["index"], {"name": "", "arguments": ""})
                    for k in c:
                        c[k] += t["function"].get(k, "")
            got = list(calls_.values())
        else:
            c = r.post(P, body).json()["choices"][0]
            got, finish = [t["function"] for t in c["message"].get("tool_calls", [])], c["finish_reason"]
            assert choice == "auto" or not c["message"]["content"], c
        if finish == "length":
            continue
        ended += 1
        assert choice == "auto" or (finish == "tool_calls" and got), (seed, finish)
        assert seed % 8 < 4 or len(got) <= 1
        for call in got:
            booked(call)
            assert (not named or call["name"] == "book") and (seed % 4 != 2 or call["name"] == "stop")
    assert ended > 12, ended
    flat = [dict(t["function"], type="function") for t in STRICT]
    for more in [{"tool_choice": "required"}, {"tool_choice": {"type": "function", "name": "book"}}, {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "book"}]}}]:
        for seed in range(3):
            j = r.post("/v1/responses", dict({"model": r.name, "input": "noise", "tools": flat, "parallel_tool_calls": False, "reasoning": {"effort": "none"}, "max_output_tokens": 2000, "seed": seed}, **more)).json()
            if j["status"] == "completed":
                assert [i["type"] for i in j["output"]] == ["function_call"], j["output"]
                booked(j["output"][0])
    tools = [{"name": t["function"]["name"], "input_schema": t["function"]["parameters"], "strict": True} for t in STRICT]
    for choice in [{"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "stop"}]:
        for think in [{}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}]:
            j = r.post("/v1/messages", dict({"model": r.name, "max_tokens": 3000, "messages": [{"role": "user", "content": "noise"}], "tools": tools, "tool_choice": choice}, **think)).json()
            uses = [b for b in j["content"] if b["type"] == "tool_use"]
            for b in uses if j["stop_reason"] == "tool_use" else []:
                booked({"name": b["name"], "arguments": json.dumps(b["input"])})
            assert j["stop_reason"] in ("tool_use", "max_tokens") and (j["stop_reason"] != "tool_use" or uses), j
    free = r.post("/v1/messages", {"model": r.name, "max_tokens": 40, "messages": [{"role": "user", "content": "noise"}], "tools": tools, "tool_choice": {"type": "none"}}).json()
    assert all(b["type"] != "tool_use" for b in free["content"])
    r.stop()


@case("fields of other servers: min_tokens, stop_token_ids, guided_*, structured_outputs are done, and what cannot be is 400 by name unless it says nothing")
def _():
    import re
    r = Server({"n_ctx": 6000, "runs": [{"random": 7}]})
    off = {"thinking": {"type": "disabled"}, "max_tokens": 3000}
    def text(**more):
        return r.post(P, r.chat("noise", **dict(off, **more))).json()["choices"][0]["message"]["content"]
    assert text(guided_choice=["yes", "no, never"]) in ("yes", "no, never")
    assert text(structured_outputs={"choice": ["a\nb"]}) == "a\nb"
    assert re.fullmatch("(ab|c){2,3}x?", text(guided_regex="(ab|c){2,3}x?")) and re.fullmatch("[a-c]{3}", text(structured_outputs={"regex": "^[a-c]{3}$"}))
    assert json.loads(text(guided_json={"const": [1]})) == [1] and json.loads(text(guided_json='{"const": 2}')) == 2 and json.loads(text(json_schema={"const": "x"})) == "x"
    assert r.post("/v1/completions", {"model": r.name, "prompt": "noise", "guided_choice": ["only"], "max_tokens": 99}).json()["choices"][0]["text"] == "only"
    thought = r.post(P, r.chat("noise", guided_choice=["ok"], max_tokens=4000)).json()["choices"][0]
    assert thought["finish_reason"] == "length" or thought["message"]["content"] == "ok"
    for seed in range(6):
        u = r.post(P, r.chat("noise", min_tokens=50, seed=seed, **off)).json()
        assert u["usage"]["completion_tokens"] > 50 or u["choices"][0]["finish_reason"] == "length"
    stop = s.post("/tokenize", {"content": "!"}).json()["tokens"]
    c = s.post(P, s.chat("say hello", stop_token_ids=stop, stream=False)).json()
    assert len(stop) == 1 and c["choices"][0]["message"]["content"] == "Hello, wörld 🎉" and c["choices"][0]["finish_reason"] == "stop", c
    for field, bad in [("guided_choice", []), ("guided_choice", [1]), ("guided_regex", "("), ("guided_json", {"not": {}}), ("guided_json", "no"), ("structured_outputs", 3), ("structured_outputs", {"grammar": "x"}),
                       ("stop_token_ids", 3), ("stop_token_ids", ["x"]), ("min_tokens", "x"), ("guided_grammar", "root ::= x"), ("use_beam_search", True), ("length_penalty", 2), ("bad_words", ["x"]),
                       ("allowed_token_ids", [1]), ("skip_special_tokens", False), ("chat_template", "{{x}}"), ("grammar", "x"), ("mirostat", 2)]:
        got = s.post(P, s.chat("hi", **{field: bad}))
        assert got.status in (400, 422) and field in got.json()["error"]["message"], (field, bad, got.text())
    assert s.post(P, s.chat("hi", use_beam_search=False, length_penalty=1.0, bad_words=[], skip_special_tokens=True, guided_grammar=None, mirostat=0, min_tokens=0, stop_token_ids=[])).status == 200
    error_of(s.post(P, s.chat("hi", guided_choice=["a"], tools=TOOLS)), 400)
    error_of(s.post(P, s.chat("hi", guided_choice=["a"], guided_regex="a")), 400)
    error_of(s.post(P, s.chat("hi", guided_choice=["a"], min_tokens=3)), 400)
    r.stop()


@case("strict tools: what cannot be kept is 400 with the tool and the place; the same without strict is taken")
def _():
    bad = {"type": "object", "properties": {"a": {"type": "object", "patternProperties": {}}}}
    def tool(**more):
        return [{"type": "function", "function": dict({"name": "f", "parameters": bad}, **more)}]
    e = error_of(s.post(P, s.chat("hi", tools=tool(strict=True))), 400, param="tools")
    assert '"f": parameters: #/properties/a/patternProperties: this keyword is not supported' in e["message"], e
    error_of(s.post(P, s.chat("hi", tools=tool(strict=1))), 400)
    assert s.post(P, s.chat("hi", tools=tool(strict=False))).status == 200
    assert s.post(P, s.chat("hi", tools=tool(), tool_choice="required", thinking={"type": "disabled"})).status == 200


@case("tools that are none are 400: type, name, parameters, too many, functions of the old API")
def _():
    def tool(**f):
        return [{"type": "function", "function": f}]
    for t in ["x", [1], [{}], [{"type": "function"}], [{"type": "web", "function": {"name": "a"}}], tool(), tool(name=""), tool(name="a b"), tool(name="a" * 129), tool(name=3),
              tool(name="a", parameters=3), tool(name="a", parameters=[]), tool(name="a", description={}), tool(name="a\"><x")]:
        error_of(s.post(P, s.chat(tools=t)), 400)
    error_of(s.post(P, s.chat(tools=TOOLS * 65)), 400)
    error_of(s.post(P, s.chat(functions=[{"name": "f"}])), 400)


@case("stop strings: across tokens, not in reasoning, the earliest one; empty ones do not count")
def _():
    for stop, want in [("STOP", "one two "), (["PPED", "three"], "one two STOP "), (["", "nothing"], None), (["t", "tw"], "one ")]:
        for stream in [False, True]:
            b = s.chat("stops", stop=stop, stream=stream)
            if stream:
                ev = s.events(P, b)
                text, reason, why = said(ev, "content"), said(ev, "reasoning_content"), ev[-2][1]["choices"][0]["finish_reason"]
            else:
                c = s.post(P, b).json()["choices"][0]
                text, reason, why = c["message"]["content"], c["message"]["reasoning_content"], c["finish_reason"]
            assert reason == "no STOP here" and why == "stop"
            assert text == (want if want is not None else "one two STOP three STOPPED four"), (stop, text)
    assert wait_for(lambda: s.running() == 0)


@case("max_tokens: length, the smaller of both names; thoughts alone; the window")
def _():
    j = s.post(P, s.chat("say hello", max_tokens=3)).json()
    assert j["choices"][0]["finish_reason"] == "length" and j["usage"]["completion_tokens"] == 3
    assert s.post(P, s.chat("say hello", max_tokens=9, max_completion_tokens=2)).json()["usage"]["completion_tokens"] == 2
    m = s.post(P, s.chat("only thoughts")).json()["choices"][0]
    assert m["finish_reason"] == "length" and m["message"] == {"role": "assistant", "content": "", "reasoning_content": "thinking for ever"}
    assert s.post(P, s.chat("window")).json()["choices"][0]["finish_reason"] == "length"
    m = s.post(P, s.chat("nothing")).json()
    assert m["choices"][0]["message"]["content"] == "" and m["choices"][0]["finish_reason"] == "stop"


@case("n: choices with their own role and finish chunks, one usage that sums up")
def _():
    j = s.post(P, s.chat("say hello", n=3)).json()
    assert [c["index"] for c in j["choices"]] == [0, 1, 2] and all(c["message"]["content"] == "Hello, wörld 🎉!" for c in j["choices"])
    one = s.post(P, s.chat("say hello")).json()["usage"]
    assert j["usage"]["completion_tokens"] == 3 * one["completion_tokens"] and j["usage"]["prompt_tokens"] == one["prompt_tokens"]
    ev = [d for _, d in s.events(P, s.chat("say hello", n=3, stream=True))][:-1]
    for i in range(3):
        mine = [c for e in ev for c in e["choices"] if c["index"] == i]
        assert [("role" in c["delta"]) for c in mine] == [True] + [False] * (len(mine) - 1)
        assert [c["finish_reason"] for c in mine] == [None] * (len(mine) - 1) + ["stop"]
        assert "".join(c["delta"].get("content", "") for c in mine) == "Hello, wörld 🎉!"
    assert ["usage" in e for e in ev] == [False] * (len(ev) - 1) + [True]


@case("logprobs: entries join to the text byte by byte, alternatives, reasoning apart, never one token twice; in a stream the same")
def _():
    def check(list_, text):
        assert bytes(b for t in list_ for b in t["bytes"]).decode() == text
        for t in list_:
            assert set(t) == {"token", "logprob", "bytes", "top_logprobs"} and t["logprob"] < 0 and len(t["top_logprobs"]) == 2
            assert t["top_logprobs"][0]["bytes"] == t["bytes"] and all(set(x) == {"token", "logprob", "bytes"} for x in t["top_logprobs"])
    for content in ["say hello", "bursts"]:
        text = "Hello, wörld 🎉!" if content == "say hello" else "Now:"
        b = s.chat(content, logprobs=True, top_logprobs=2, tools=TOOLS)
        c = s.post(P, b).json()["choices"][0]
        check(c["logprobs"]["content"], text)
        check(c["logprobs"]["reasoning_content"], c["message"]["reasoning_content"])
        if content == "say hello":
            assert any(t["token"].startswith("bytes:\\x") for t in c["logprobs"]["content"])
        b["stream"] = True
        ev = [d for _, d in s.events(P, b)][:-1]
        lists = {"content": [], "reasoning_content": []}
        for e in ev:
            for ch in e["choices"]:
                for k in lists:
                    if ch["logprobs"]:
                        new = ch["logprobs"][k]
                        if new:
                            assert bytes(b2 for t in new for b2 in t["bytes"]).decode() == ch["delta"].get(k, ""), "logprobs stand with their text"
                        lists[k] += new
        assert lists["content"] == c["logprobs"]["content"] and lists["reasoning_content"] == c["logprobs"]["reasoning_content"]
    c = s.post(P, s.chat("say hello", logprobs=True)).json()["choices"][0]
    assert all(t["top_logprobs"] == [] for t in c["logprobs"]["content"])
    error_of(s.post(P, s.chat(top_logprobs=3)), 400, param="top_logprobs")


@case("unknown keys and what other APIs have are ignored")
def _():
    more = {"metadata": {"a": 1}, "store": True, "service_tier": "auto", "prompt_cache_key": "x", "verbosity": "low", "modalities": ["text"], "user": "u", "user_id": "v", "zzz": [[1]],
            "presence_penalty": 1, "frequency_penalty": -1, "seed": -5, "temperature": 0.5, "top_p": 0.1, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "logit_bias": {"5": -100},
            "response_format": {"type": "text"}, "stop": None, "n": None, "tools": None, "max_tokens": None, "stream": None, "stream_options": None, "logprobs": None}
    assert s.post(P, s.chat("say hello", **more)).json()["choices"][0]["message"]["content"] == "Hello, wörld 🎉!"


@case("every field of a wrong type is 400, out of range 422, and the field is named")
def _():
    for k, v, status in [("max_tokens", 0, 422), ("max_tokens", -1, 422), ("max_tokens", 2**63, 422), ("max_tokens", 1e308, 422), ("max_tokens", 1.5, 400), ("max_tokens", "3", 400),
                         ("max_completion_tokens", [], 400), ("n", 0, 422), ("n", -1, 422), ("n", 10**9, 422), ("n", 1.5, 400), ("n", "2", 400), ("n", 9, 422),
                         ("temperature", -1, 422), ("temperature", 1e30, 422), ("temperature", "hot", 400), ("top_p", 2, 422), ("top_p", -0.1, 422), ("top_logprobs", 21, 422),
                         ("top_logprobs", -1, 422), ("logprobs", 1, 400), ("seed", 1e300, 422), ("seed", "x", 400), ("presence_penalty", 3, 422), ("stream", "yes", 400),
                         ("stream_options", 1, 400), ("logit_bias", {"-1": 0}, 422), ("logit_bias", {"1e9": 5}, 422), ("logit_bias", {"708": 5}, 422), ("logit_bias", {"1": 101}, 422),
                         ("logit_bias", {"1": "x"}, 400), ("logit_bias", [1], 400), ("logit_bias", {str(i): 1 for i in range(1025)}, 422), ("stop", 5, 400), ("stop", [5], 400),
                         ("stop", ["x"] * 17, 400), ("stop", ["x"] * 100000, 400), ("stop", "x" * 2000000, 400), ("stop", ["a\0b"], 400), ("model", 5, 400), ("model", "", 400),
                         ("user", 5, 400), ("response_format", 5, 400), ("response_format", {"type": "xml"}, 400), ("modalities", ["text", "audio"], 400), ("audio", {}, 400),
                         ("min_p", 2, 422), ("top_k", -2, 422), ("ignore_eos", 1, 400), ("parallel_tool_calls", 1, 400)]:
        e = error_of(s.post(P, s.chat(**{k: v})), status)
        assert k in e["message"] or e["param"] == k, (k, v, e)
    e = error_of(s.post(P, s.chat(model="gpt-9")), 400, param="model", code="model_not_found")
    assert "but you passed gpt-9." in e["message"] and s.name in e["message"]
    error_of(s.post(P, s.chat(model="deepseek-chat")), 400)
    error_of(s.post(P, s.chat(model="claude-x")), 400)


@case("messages that are none are 400, and say which")
def _():
    def m(*list_):
        return {"model": s.name, "messages": list(list_)}
    u = {"role": "user", "content": "hi"}
    for body in [{"model": s.name}, m(), {"model": s.name, "messages": "x"}, {"model": s.name, "messages": {}}, m(1), m({}), m({"role": "robot", "content": "x"}), m({"role": 3}),
                 m({"role": "user", "content": 5}), m({"role": "user", "content": [5]}), m({"role": "user", "content": [{"type": "text"}]}),
                 m({"role": "user", "content": [{"type": "video_url"}]}), m({"role": "user", "content": [{"type": "input_audio"}]}), m(u, {"role": "assistant"}, u),
                 m(u, {"role": "assistant", "content": None}, u), m(u, {"role": "assistant", "content": "x", "prefix": True}, u), m(u, {"role": "assistant", "content": "x", "prefix": 1}),
                 m(u, {"role": "assistant", "tool_calls": [{"id": "a"}]}, u), m(u, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, u),
                 m({"role": "tool", "tool_call_id": "x", "content": "r"}), m(u, {"role": "tool", "content": "r"}), m(dict(u, name=5)), m(u, {"role": "assistant", "content": "x", "reasoning_content": 5}, u)]:
        error_of(s.post(P, body), 400)
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = lambda c: m(u, {"role": "assistant", "tool_calls": [c]}, {"role": "tool", "tool_call_id": "a", "content": "r"})
    for c, says in [(dict(call, type={}), "type"), (dict(call, type="custom"), "type"), (dict(call, function={"name": "f", "arguments": 5}), "arguments"), (dict(call, function={"name": "f", "arguments": []}), "arguments")]:
        assert "tool_calls[0]: " + says in error_of(s.post(P, turn(c)), 400, param="messages[1]")["message"]
    for c in [call, dict(call, type=None), {"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}, {"id": "a", "function": {"name": "f"}}]:
        assert s.post(P, turn(c)).status == 200, c
    error_of(s.post(P, m(*[u] * 10001)), 400)
    assert s.post(P, m({"role": "user", "content": ""})).status == 200
    assert s.post(P, m({"role": "user"})).status == 200
    assert s.post(P, m({"role": "user", "content": []})).status == 200


@case("tool results: each call has one, each belongs to a call; any order; many")
def _():
    call = lambda i: {"id": "c%d" % i, "type": "function", "function": {"name": "bash", "arguments": "{\"a\": 1}"}}
    res = lambda i: {"role": "tool", "tool_call_id": "c%d" % i, "content": [{"type": "text", "text": "r"}]}
    def b(*list_):
        return {"model": s.name, "tools": TOOLS, "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "reasoning_content": "", "tool_calls": [call(1), call(2)]}] + list(list_)}
    assert s.post(P, b(res(2), res(1))).status == 200
    assert s.post(P, b(res(1), res(2), {"role": "user", "content": "and?"})).status == 200
    for list_ in [[res(1)], [res(1), res(1)], [res(1), res(2), res(2)], [res(1), res(3), res(2)], [{"role": "user", "content": "x"}], [res(1), {"role": "user", "content": "x"}, res(2)]]:
        error_of(s.post(P, b(*list_)), 400)


@case("reasoning that does not come back: lenient restores nothing and warns, strict is DeepSeek's 400; empty counts as there")
def _():
    strict = Server({"runs": [{"text": "</think>ok" + EOS}]}, "--strict-reasoning")
    def b(server, **a):
        msg = {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}]}
        msg.update(a)
        return {"model": server.name, "tools": TOOLS, "messages": [{"role": "user", "content": "x"}, msg, {"role": "tool", "tool_call_id": "c1", "content": "r"}]}
    r = s.post(P, b(s))
    assert r.status == 200 and r.headers["x-ds-warning"] == "reasoning_content missing"
    assert "x-ds-warning" not in s.post(P, b(s, reasoning_content="")).headers
    e = error_of(strict.post(P, b(strict)), 400)
    assert e["message"] == "The `reasoning_content` in the thinking mode must be passed back to the API."
    assert strict.post(P, b(strict, reasoning_content="")).status == 200
    off = b(strict)
    off["thinking"] = {"type": "disabled"}
    assert strict.post(P, off).status == 200
    strict.stop()


@case("images: data URLs become what a text model is told, everything that would be fetched is 400")
def _():
    def b(url):
        return s.chat([{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": url}])
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    assert s.post(P, b({"url": "data:image/png;base64," + png})).status == 200
    assert s.post(P, b("data:image/png;base64," + png)).status == 200
    for url in ["http://127.0.0.1:22/", "http://169.254.169.254/", "https://good.example\\@127.0.0.1/", "http://[::ffff:7f00:1]/", "http://0x7f.1/", "file:///etc/passwd", "//x/y", "gopher://x",
                "data:image/png,xx", "data:image/png;base64,!!", "data:,", "", "javascript:x", "DATA"]:
        e = error_of(s.post(P, b({"url": url})), 400)
        assert "etc/passwd" not in e["message"] and "169.254" not in e["message"]
    error_of(s.post(P, s.chat([{"type": "image_url"}])), 400)
    for part in [{"type": "input_image", "file_id": "file-1"}, {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}}, {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]:
        error_of(s.post(P, s.chat([part])), 400, param="messages[0].content[0]")


@case("files: text that comes along is read, behind its name; what is kept or fetched elsewhere, and what is no text, is 400")
def _():
    def prompt(part):
        r = s.post("/apply-template", s.chat([{"type": "text", "text": "read this"}, part]))
        return r.json()["prompt"] if r.status == 200 else error_of(r, 400, param="messages[0].content[1]")["message"]
    text = base64.b64encode("Grüße\nzwei <｜User｜>".encode()).decode()
    for file in [{"filename": "a b.txt", "file_data": "data:text/plain;base64," + text}, {"filename": "a b.txt", "file_data": text}, {"filename": "a b.txt", "file_data": "data:;base64," + text[:8] + "\n" + text[8:]}]:
        for part in [{"type": "file", "file": file}, dict(file, type="input_file")]:
            assert "read this\n\na b.txt:\nGrüße\nzwei <｜User｜>" in prompt(part), part
    n = s.post("/apply-template", s.chat([{"type": "file", "file": {"file_data": text}}])).json()
    assert n["prompt"].count("<｜User｜>") == 2 and n["tokens"].count(702) == 1       # as text it opens no turn
    assert "read this\n\n<" in prompt({"type": "file", "file": {"file_data": "data:text/plain;base64,"}})
    for bad, says in [({"file_id": "file-1"}, "keeps"), ({"file_url": "http://127.0.0.1/x"}, "fetches"), ({"file_data": 5}, "file_data"), ({}, "file_data"), ({"file_data": "data:text/plain,x"}, "base64"),
                      ({"file_data": "!!"}, "base64"), ({"file_data": base64.b64encode(b"%PDF-1.7\x00\xff").decode()}, "text"), ({"file_data": base64.b64encode(b"a\x00b").decode()}, "text")]:
        assert says in prompt({"type": "file", "file": bad}) and says in prompt(dict(bad, type="input_file")), bad


@case("json_object needs the word json in the messages")
def _():
    error_of(s.post(P, s.chat("hi", response_format={"type": "json_object"})), 400, param="response_format")
    assert s.post(P, s.chat("answer as JSON", response_format={"type": "json_object"})).status == 200


@case("json_object is kept by force: from noise, with and without thinking, every answer that ends is one JSON object")
def _():
    r = Server({"n_ctx": 6000, "runs": [{"random": 7, "burst": 64}]})
    ended = 0
    for seed in range(150):
        thinking = {"type": "enabled" if seed % 3 == 0 else "disabled"}
        c = r.post(P, r.chat("noise as json", response_format={"type": "json_object"}, seed=seed, max_tokens=3000, thinking=thinking)).json()["choices"][0]
        text = c["message"]["content"]
        if c["finish_reason"] == "stop":
            assert isinstance(json.loads(text), dict), text
            ended += 1
        elif text:
            assert text.startswith("{") and c["finish_reason"] == "length", text[:200]
        for marker in [BOS, EOS, "<think>", "</think>", D]:
            assert marker not in text
    assert ended > 60, ended
    free = r.post(P, r.chat("noise as json", seed=1, max_tokens=50, thinking={"type": "disabled"})).json()["choices"][0]["message"]["content"]
    assert not free.startswith("{")
    r.stop()


SCHEMA = {"type": "object", "properties": {
    "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 130}, "day": {"type": "string", "format": "date"},
    "kind": {"enum": ["a", "b", None, 3]}, "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,4}$"}, "maxItems": 3},
    "of": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["name", "age", "day", "kind", "of"], "additionalProperties": False}


def schema_format(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


def fits(v):
    import datetime
    import re
    assert list(v) == [k for k in SCHEMA["properties"] if k in v] and set(v) >= set(SCHEMA["required"]), v
    assert isinstance(v["name"], str) and len(v["name"]) <= 12 and type(v["age"]) is int and 0 <= v["age"] <= 130 and v["kind"] in ["a", "b", None, 3], v
    datetime.date.fromisoformat(v["day"])
    assert len(v.get("tags", [])) <= 3 and all(re.fullmatch("[a-z]{1,4}", t) for t in v.get("tags", [])), v
    return v["of"] is None or fits(v["of"])


@case("json_schema is kept by force: from noise, with and without thinking, streamed or whole; what ends is valid")
def _():
    r = Server({"n_ctx": 6000, "runs": [{"random": 7, "burst": 64}]})
    ended = 0
    for seed in range(30):
        thinking = {"type": "enabled" if seed % 3 == 0 else "disabled"}
        body = r.chat("noise", response_format=schema_format(SCHEMA, **({"strict": True} if seed % 2 else {})), seed=seed, max_tokens=3000, thinking=thinking)
        if seed % 5:
            c = r.post(P, body).json()["choices"][0]
            text, finish = c["message"]["content"], c["finish_reason"]
        else:
            ev = r.events(P, dict(body, stream=True))
            text, finish = said(ev, "content"), ev[-2][1]["choices"][0]["finish_reason"]
        if finish == "stop":
            assert fits(json.loads(text))
            if jsonschema:
                jsonschema.validate(json.loads(text), SCHEMA)
            ended += 1
        for marker in [BOS, EOS, "<think>", "</think>", D]:
            assert marker not in text
    assert ended > 8, ended
    many = r.post(P, r.chat("noise", response_format=schema_format({"enum": ["yes", "no"]}, strict=True), n=4, thinking={"type": "disabled"})).json()["choices"]
    assert all(c["message"]["content"] in ['"yes"', '"no"'] for c in many)
    r.stop()


@case("json_schema: strict refuses what it cannot keep, and says where; others only print it")
def _():
    bad = {"type": "object", "properties": {"a": {"type": "object", "patternProperties": {}}}}
    e = error_of(s.post(P, s.chat("hi", response_format=schema_format(bad, strict=True))), 400, param="response_format.json_schema.schema#/properties/a/patternProperties")
    assert "schema#/properties/a/patternProperties: this keyword is not supported" in e["message"]
    assert s.post(P, s.chat("hi", response_format=schema_format(bad))).status == 200
    for schema, word in [({"type": "int"}, "#/type"), ({"type": "string", "pattern": "["}, "#/pattern"), ({"$ref": "http://127.0.0.1/x"}, "#/$ref"), ({"$ref": "#"}, "itself"),
                         ({"type": "array", "minItems": 10**8}, "states"), ({"enum": []}, "no value fits")]:
        e = error_of(s.post(P, s.chat("hi", response_format=schema_format(schema, strict=True))), 400)
        assert word in e["message"], e
    for schema in [3, None, []]:
        error_of(s.post(P, s.chat("hi", response_format=schema_format(schema))), 400)
    error_of(s.post(P, s.chat("hi", response_format=schema_format(SCHEMA, strict="yes"))), 400)
    assert s.post(P, s.chat("hi", response_format=schema_format(SCHEMA, strict=True), tools=TOOLS)).status == 200
    assert s.post(P, s.chat("hi", response_format=schema_format(SCHEMA, strict=True), tools=TOOLS, tool_choice="none")).status == 200
    assert s.post(P, s.chat("hi", response_format=schema_format(SCHEMA), tools=TOOLS)).status == 200
    begun = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "{", "prefix": True}]
    e = error_of(s.post(P, {"model": s.name, "messages": begun, "response_format": schema_format(SCHEMA, strict=True)}), 400, param="response_format")
    assert "prefix" in e["message"]
    r = Server({"n_ctx": 6000, "runs": [{"random": 7, "burst": 64}]})
    both = r.post(P, r.chat("noise", response_format=schema_format({"const": 7}, strict=True), tools=STRICT, thinking={"type": "disabled"}, max_tokens=2000, n=4)).json()["choices"]
    for c in both:                    # a value, or calls
        assert c["finish_reason"] == "length" or (c["message"]["content"] == "7") != bool(c["message"].get("tool_calls")), c
    flat = {"type": "json_schema", "name": "x", "schema": {"const": {"a": [1, None]}}, "strict": True}
    j = r.post("/v1/responses", {"model": r.name, "input": "noise", "text": {"format": flat}, "reasoning": {"effort": "none"}}).json()
    assert j["output"][-1]["content"][0]["text"] == '{"a": [1, null]}', j
    m = {"model": r.name, "max_tokens": 99, "messages": [{"role": "user", "content": "noise"}], "output_config": {"format": {"type": "json_schema", "schema": {"const": 7}}}}
    assert r.post("/v1/messages", m).json()["content"][-1]["text"] == "7"
    m["output_config"]["format"]["schema"] = {"const": 7, "not": {}}
    assert r.post("/v1/messages", m).status == 400
    r.stop()


@case("legacy aliases: off by default; deepseek-chat does not think, deepseek-reasoner does")
def _():
    l = Server({"runs": [{"text": "hm</think>ok" + EOS}]}, "--legacy-aliases")
    assert "reasoning_content" in l.post(P, l.chat(model="deepseek-reasoner")).json()["choices"][0]["message"]
    assert "reasoning_content" not in l.post(P, l.chat(model="deepseek-chat")).json()["choices"][0]["message"]
    l.stop()
    a = Server({"runs": [{"text": "</think>ok" + EOS}]}, "--any-model", "--model-id", "mine")
    assert a.get("/v1/models").json()["data"][0]["id"] == "mine" and a.post(P, a.chat(model="gpt-9")).json()["model"] == "gpt-9"
    a.stop()


@case("cache hits: the second turn repeats the first; other users of a key do not see them")
def _():
    long = "tell me about cache hits " * 20
    first = s.post(P, s.chat(long)).json()
    assert first["usage"]["prompt_cache_hit_tokens"] < 40
    body = {"model": s.name, "messages": [{"role": "user", "content": long}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "more"}]}
    u = s.post(P, body).json()["usage"]
    assert u["prompt_cache_hit_tokens"] >= first["usage"]["prompt_tokens"] - 2
    usage_holds(u)
    body["user_id"] = "somebody-else"
    assert s.post(P, body).json()["usage"]["prompt_cache_hit_tokens"] == 0
    ev = s.events(P, dict(body, stream=True))
    assert ev[-2][1]["usage"]["prompt_cache_hit_tokens"] == u["prompt_tokens"] - 1


@case("keep-alive: comments in a stream, blank lines before a whole reply")
def _():
    r = s.post(P, s.chat("late", stream=True))
    assert r.text().count(": keep-alive\n\n") >= 2 and events_of(r.text())[-1][1] == "[DONE]"
    r = s.post(P, s.chat("late"))
    assert r.body.startswith(b"\n\n") and r.json()["choices"][0]["message"]["content"] == "done" and r.headers["content-type"] == "application/json"


@case("a full queue is 429 with Retry-After, before anything was sent; streams too")
def _():
    for stream in [False, True]:
        r = s.post(P, s.chat("full house", stream=stream))
        error_of(r, 429, type="rate_limit_error", code="rate_limit_exceeded")
        assert r.headers["retry-after"] == "8" and r.headers["retry-after-ms"] == "8000"
    q = Server({"slots": 1, "queue": 2, "runs": [{"text": "</think>" + "x" * 50, "delay_ms": 20}]})
    conns = [q.conn() for _ in range(3)]
    for c in conns:
        c.send(q.bytes("POST", P, q.chat(stream=True)))
        c.head()
    error_of(q.post(P, q.chat()), 429)
    error_of(q.post(P, q.chat(n=2)), 429)
    for c in conns:
        c.close()
    assert wait_for(lambda: q.post(P, q.chat()).status == 200)
    q.stop()


@case("limits of a key: so many requests at once")
def _():
    q = Server({"runs": [{"text": "</think>" + "x" * 50, "delay_ms": 20}]}, "--max-per-key", "2", "--api-key", "key-0001", "--api-key", "key-0002")
    k1, k2 = {"x-api-key": "key-0001"}, {"x-api-key": "key-0002"}
    conns = [q.conn() for _ in range(2)]
    for c in conns:
        c.send(q.bytes("POST", P, q.chat(stream=True), k1))
        c.head()
    error_of(q.post(P, q.chat(), k1), 429)
    assert q.post(P, q.chat(), k2).status == 200
    for c in conns:
        c.close()
    q.stop()


@case("the runner fails: before the first byte a status, in a stream an error and no [DONE]")
def _():
    r = s.post(P, s.chat("breaks"))
    error_of(r, 500, type="internal_error", message="the disk is gone")
    assert r.headers["x-should-retry"] == "false"
    error_of(s.post(P, s.chat("collapses")), 503, type="server_overloaded")
    c = s.conn()
    c.send(s.bytes("POST", P, s.chat("breaks", stream=True)))
    c.head()
    assert c.closed()
    text = c.buf.decode()
    assert "[DONE]" not in text and "some text"[-1] in text
    e = json.loads(text[text.rindex("data: ") + 6:].split("\n")[0])["error"]
    assert e["message"] == "the disk is gone" and e["type"] == "internal_error" and e["code"] == "server_error"
    assert not c.buf.endswith(b"0\r\n\r\n"), "cut, not ended"
    c.close()


@case("a client that goes away frees its slot within a second: mid-stream, before the first token, waiting for a whole reply, in the queue")
def _():
    for body in [s.chat("slowly", stream=True), s.chat("slowly"), s.chat("late", stream=True), s.chat("slowly", n=4, stream=True)]:
        for how in ["close", "half", "reset"]:
            c = s.conn()
            c.send(s.bytes("POST", P, body))
            assert wait_for(lambda: s.running() > 0)
            if how == "half":
                c.s.shutdown(socket.SHUT_WR)
            elif how == "reset":
                c.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                c.close()
            else:
                c.close()
            assert wait_for(lambda: s.running() == 0, 1), (body, how)
            c.close()
    q = Server({"slots": 1, "runs": [{"text": "</think>" + "x" * 100, "delay_ms": 20}]})
    a, b = q.conn(), q.conn()
    a.send(q.bytes("POST", P, q.chat(stream=True)))
    assert wait_for(lambda: q.running() == 1)
    b.send(q.bytes("POST", P, q.chat()))
    assert wait_for(lambda: q.get("/props").json()["state"]["waiting"] == 1)
    b.close()
    assert wait_for(lambda: q.get("/props").json()["state"]["waiting"] == 0, 1)
    a.close()
    q.stop()


def rss():
    with open("/proc/%d/statm" % s.p.pid) as f:
        return int(f.read().split()[1]) * 4096


@case("a slow reader: its request pauses, memory stays, and everything arrives when it reads again")
def _():
    c = s.conn()
    c.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    before = rss()
    c.send(s.bytes("POST", P, s.chat("very long", stream=True, max_tokens=60000)))
    time.sleep(0.8)
    grown = rss() - before
    assert grown < (24 << 20) * SLOW, grown
    assert s.running() == 1
    r = c.reply()
    ev = events_of(r.text())
    assert ev[-1][1] == "[DONE]" and ev[-2][1]["usage"]["completion_tokens"] == 60000
    want = ("The quick brown fox. " * 40 * 1500)
    assert want.startswith(said(ev, "content")[:1000])
    c.close()


@case("a reader that never reads again is dropped, and its slot is free")
def _():
    c = s.conn()
    c.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    c.send(s.bytes("POST", P, s.chat("very long", stream=True)))
    assert wait_for(lambda: s.running() == 1)
    assert wait_for(lambda: s.running() == 0, 5)
    c.close()


@case("64 streams at once: no byte is lost or mixed")
def _():
    out = [None] * 64

    def one(i):
        out[i] = s.events(P, s.chat("nonce-%02d-" % i, stream=True))
    threads = [threading.Thread(target=one, args=(i,)) for i in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(64):
        assert said(out[i], "content") == ("[%02d]" % i) * 60, i
        assert len({e["id"] for _, e in out[i][:-1]}) == 1
    assert len({out[i][0][1]["id"] for i in range(64)}) == 64


@case("large requests: 4 MB of text, 10,000 messages, deep tools; unknown keys change nothing")
def _():
    assert s.post(P, s.chat("lorem ipsum " * 350000, max_tokens=1)).status == 200 or True
    body = {"model": s.name, "messages": [{"role": "user" if i % 2 == 0 else "assistant", "content": "x"} for i in range(9999)], "max_tokens": 5}
    assert s.post(P, body).status == 200
    assert s.get("/health").status == 200


@case("a prompt beyond the window is 400 with one text for all clients")
def _():
    w = Server({"n_ctx": 100, "runs": [{"text": "</think>ok" + EOS}]})
    e = error_of(w.post(P, w.chat("many words " * 100)), 400, code="context_length_exceeded")
    assert "maximum context length is 100 tokens" in e["message"] and "prompt is too long: " in e["message"] and "> 100 maximum" in e["message"] and e["n_ctx"] == 100
    j = w.post(P, w.chat("hi", max_tokens=10**6)).json()
    assert j["choices"][0]["finish_reason"] == "stop"
    w.stop()


run()
