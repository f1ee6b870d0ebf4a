"""wire_messages.py: Anthropic's Messages: order of events, blocks, usage, tools, what Claude Code sends, errors."""
from wire import *

ARGS = [("path", True, "a \"b\"\n2>&1 </x>"), ("n", False, "12"), ("deep", False, "{\"a\": [1, null]}")]
ARGS_JSON = {"path": "a \"b\"\n2>&1 </x>", "n": 12, "deep": {"a": [1, None]}}
s = Server({"runs": [
    {"when": "say hello", "text": "Let me think.</think>Hello, wörld 🎉!" + EOS},
    {"when": "one call", "text": "I should.</think>Now:" + calls(("bash", ARGS), ("noargs", [])) + EOS},
    {"when": "cut call", "text": "</think>" + calls(("bash", ARGS))[:-60], "finish": "length"},
    {"when": "late", "text": "</think>done" + EOS, "start_ms": 1500},
    {"when": "breaks", "text": "</think>some text", "error": "the disk is gone", "delay_ms": 1},
    {"when": "full house", "text": "", "refuse": "full", "retry_s": 7},
    {"when": "window", "text": "abc", "finish": "context"},
    {"when": "slowly", "text": "word " * 200, "delay_ms": 10},
    {"text": "one two STOP three" + EOS}]}, "--keep-alive", "0.2")
P = "/v1/messages"
ON = {"thinking": {"type": "enabled", "budget_tokens": 1000}}
TOOLS = [{"name": n, "description": "does " + n, "input_schema": {"type": "object", "properties": {}}} for n in ("bash", "noargs")]


def body(content="hi", **more):
    return dict({"model": s.name, "max_tokens": 1000, "messages": [{"role": "user", "content": content}]}, **more)


def error(r, status, type):
    assert r.status == status, (r.status, r.body[:400])
    j = r.json()
    assert j["type"] == "error" and j["error"]["type"] == type and j["error"]["message"] and j["request_id"] == r.headers["request-id"] == r.headers["x-request-id"], j
    return j["error"]["message"]


def prompt(b):
    """The prompt that a request's messages become, by way of a script that is chosen by it."""
    return s.post(P + "/count_tokens", b).json()["input_tokens"]


@case("a whole message: thinking with a signature, text, stop_reason, usage; all paths, any query string")
def _():
    for path in [P, P + "?beta=true", "/anthropic/v1/messages?beta=true", "/anthropic/messages"]:
        r = s.post(path, body("say hello", **ON))
        j = r.json()
        assert r.status == 200 and j["type"] == "message" and j["role"] == "assistant" and j["id"].startswith("msg_") and j["model"] == s.name and r.headers["request-id"]
        t, x = j["content"]
        assert t["type"] == "thinking" and t["thinking"] == "Let me think." and len(t["signature"]) >= 32
        assert x == {"type": "text", "text": "Hello, wörld 🎉!"}
        assert j["stop_reason"] == "end_turn" and j["stop_sequence"] is None and set(j["usage"]) == {"input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"}


@case("thinking: off unless asked for; adaptive; disabled; effort in output_config")
def _():
    first = lambda **m: s.post(P, body("say hello", **m)).json()["content"][0]["type"]
    assert first() == "text" and first(thinking={"type": "disabled"}) == "text" and first(output_config={"effort": "max"}) == "text"
    assert first(thinking={"type": "adaptive"}) == "thinking" and first(output_config={"effort": "low"}, **ON) == "thinking"
    for more in [{"thinking": {"type": "x"}}, {"thinking": 1}, {"output_config": 1}, {"output_config": {"effort": 5}}]:
        error(s.post(P, body(**more)), 400, "invalid_request_error")


def check_stream(ev):
    """Order of events; returns (blocks with their text, message_delta, message)."""
    kinds = [e for e, d in ev]
    assert all(e == d["type"] for e, d in ev)
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    m = ev[0][1]["message"]
    assert m["content"] == [] and m["stop_reason"] is None and m["usage"]["output_tokens"] >= 1
    blocks, is_open = [], False
    for e, d in ev[1:-2]:
        if e == "ping":
            continue
        if e == "content_block_start":
            assert not is_open and d["index"] == len(blocks)
            is_open = True
            blocks.append([d["content_block"], "", 0])
        elif e == "content_block_delta":
            assert is_open and d["index"] == len(blocks) - 1
            b, t = blocks[-1], d["delta"]["type"]
            assert t in {"thinking": ("thinking_delta", "signature_delta"), "text": ("text_delta",), "tool_use": ("input_json_delta",)}[b[0]["type"]]
            assert b[2] == 0, "nothing behind a signature"
            if t == "signature_delta":
                b[2] += 1
                assert d["delta"]["signature"]
            else:
                b[1] += d["delta"].get("thinking") or d["delta"].get("text") or d["delta"].get("partial_json") or ""
        else:
            assert e == "content_block_stop" and is_open and d["index"] == len(blocks) - 1
            assert (blocks[-1][2] == 1) == (blocks[-1][0]["type"] == "thinking")
            is_open = False
    assert not is_open and all(b[1] or b[0]["type"] == "tool_use" for b in blocks), "no empty blocks"
    return blocks, ev[-2][1], m


@case("a stream: thinking, signature, text; ends without [DONE]")
def _():
    r = s.post(P, body("say hello", stream=True, **ON))
    assert r.headers["content-type"].startswith("text/event-stream") and "[DONE]" not in r.text() and r.text().endswith("\n\n")
    blocks, delta, _ = check_stream(events_of(r.text()))
    assert [(b[0]["type"], b[1]) for b in blocks] == [("thinking", "Let me think."), ("text", "Hello, wörld 🎉!")]
    assert blocks[0][0] == {"type": "thinking", "thinking": "", "signature": ""} and delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] > 20


@case("tool_use: ids, input as one JSON object, {} for none; whole and streamed")
def _():
    blocks, delta, _ = check_stream(s.events(P, body("one call", stream=True, tools=TOOLS, **ON)))
    assert [b[0]["type"] for b in blocks] == ["thinking", "text", "tool_use", "tool_use"] and delta["delta"]["stop_reason"] == "tool_use"
    assert [(b[0]["name"], b[0]["input"], json.loads(b[1])) for b in blocks[2:]] == [("bash", {}, ARGS_JSON), ("noargs", {}, {})]
    assert all(b[0]["id"].startswith("toolu_0%d_" % i) for i, b in enumerate(blocks[2:]))
    c = s.post(P, body("one call", tools=TOOLS, **ON)).json()
    assert c["stop_reason"] == "tool_use" and [(b["name"], b["input"]) for b in c["content"][2:]] == [("bash", ARGS_JSON), ("noargs", {})]
    c = s.post(P, body("one call", tools=TOOLS, tool_choice={"type": "auto", "disable_parallel_tool_use": True}, **ON)).json()
    assert len([b for b in c["content"] if b["type"] == "tool_use"]) == 1
    c = s.post(P, body("cut call", tools=TOOLS)).json()
    assert c["stop_reason"] == "max_tokens" and isinstance(c["content"][-1]["input"], dict)
    for choice in [{"type": "any"}, {"type": "tool", "name": "bash"}]:
        assert s.post(P, body("x", tools=TOOLS, tool_choice=choice)).status == 200
        assert s.post(P, body("x", tools=TOOLS, tool_choice=choice, **ON)).status == 200


@case("stop_reason: stop_sequence with its text, max_tokens, the window")
def _():
    j = s.post(P, body("x", stop_sequences=["NO", "STOP"])).json()
    assert j["stop_reason"] == "stop_sequence" and j["stop_sequence"] == "STOP" and j["content"] == [{"type": "text", "text": "one two "}]
    _, d, _ = check_stream(s.events(P, body("x", stop_sequences=["STOP"], stream=True)))
    assert d["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "STOP"}
    assert s.post(P, body("say hello", max_tokens=2)).json()["stop_reason"] == "max_tokens"
    assert s.post(P, body("window")).json()["stop_reason"] == "model_context_window_exceeded"


@case("usage: input_tokens leaves cached ones out, the three sum to the prompt")
def _():
    text = "tell me of caches " * 20
    n = s.post(P + "/count_tokens", body(text)).json()["input_tokens"]
    a, b = s.post(P, body(text)).json()["usage"], s.post(P, body(text)).json()["usage"]
    for u in (a, b):
        assert u["input_tokens"] + u["cache_creation_input_tokens"] + u["cache_read_input_tokens"] == n
    assert b["cache_read_input_tokens"] == n - 1
    _, d, m = check_stream(s.events(P, body(text, stream=True)))
    assert m["usage"]["cache_read_input_tokens"] == n - 1 and d["usage"]["input_tokens"] == 1


@case("what Claude Code sends: billing line, cache_control, system turns, JSON user_id, server tools, unknown keys: same prompt, no refusal")
def _():
    def request(billing, cc, text="say hello"):
        return {"model": "claude-opus-4-1-20250805", "max_tokens": 32000, "temperature": 1, "stream": False, "thinking": {"type": "adaptive"},
                "system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=" + billing}, dict({"type": "text", "text": "You are a tool."}, **cc), {"type": "text", "text": "More."}],
                "messages": [{"role": "user", "content": [{"type": "text", "text": "<system-reminder>x</system-reminder>"}, dict({"type": "text", "text": text}, **cc)]},
                             {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "abc"}, {"type": "redacted_thinking", "data": "x"},
                                                               {"type": "text", "text": "ok"}, {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"n": 1.0, "s": "é"}}]},
                             {"role": "user", "content": [{"type": "text", "text": "first"}, dict({"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True,
                                                                                                    "content": [{"type": "text", "text": "r"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]}, **cc)]},
                             {"role": "system", "content": "in the middle"}, {"role": "user", "content": "go on"}],
                "tools": [dict(t, **cc) for t in TOOLS] + [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "auto"}, "output_config": {"effort": "high"},
                "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}, "metadata": {"user_id": "{\"device_id\": \"x\"}"}, "betas": ["x"], "service_tier": "auto"}
    r = s.post(P + "?beta=true", request("1.0", {}), {"anthropic-version": "2023-06-01", "anthropic-beta": "a,b"})
    assert r.status == 200, r.body
    assert r.json()["model"] == "claude-opus-4-1-20250805"
    u = s.post(P + "?beta=true", request("2.0", {"cache_control": {"type": "ephemeral"}})).json()["usage"]
    assert u["input_tokens"] == 1, u


@case("a last assistant message is continued")
def _():
    b = body()
    b["messages"].append({"role": "assistant", "content": "The answer is"})
    assert s.post(P, b).json()["content"][0]["text"].startswith("one two")
    b["messages"][-1]["content"] = [{"type": "text", "text": "The answer is"}]
    assert s.post(P, b).status == 200


@case("count_tokens counts what the message would")
def _():
    for more in [{}, {"tools": TOOLS}, {"system": "x"}, ON]:
        b = body("say hello", **more)
        n = s.post("/anthropic/v1/messages/count_tokens?beta=true", b).json()
        u = s.post(P, b).json()["usage"]
        assert n == {"input_tokens": u["input_tokens"] + u["cache_read_input_tokens"]}
    error(s.post(P + "/count_tokens", {"model": s.name}), 400, "invalid_request_error")


@case("requests that are none: 400 in this protocol's words")
def _():
    m = lambda *l: {"model": s.name, "max_tokens": 5, "messages": list(l)}
    u = {"role": "user", "content": "x"}
    for b in [m(), {"model": s.name, "messages": "x"}, m(1), m({"role": "robot", "content": "x"}), m({"role": "user", "content": 5}), m({"role": "user", "content": [5]}),
              m({"role": "user", "content": [{}]}), m({"role": "user", "content": [{"type": "text"}]}), m({"role": "user", "content": [{"type": "tool_result"}]}),
              m({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "r"}]}), m(u, {"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]}, u),
              m(u, {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": 5}]}, u), m(u, {"role": "assistant", "content": [{"type": "thinking"}]}, u),
              m({"role": "user", "content": [{"type": "image"}]}), m({"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/"}}]}),
              m({"role": "user", "content": [{"type": "document", "source": {"type": "base64", "data": "x"}}]}), body(system=5), body(system=[{"type": "image"}]), body(tools=5), body(tools=[5]),
              body(tools=[{"name": "a b"}]), body(tools=[{"name": "a", "description": {}}]), m({"role": "user", "content": [{"type": "video", "source": {}}]}),
              m({"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "!!"}}]}), m({"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}), body(tools=[{"name": "f", "input_schema": []}]), body(tool_choice={"type": "any"}), body(stop_sequences=5), body(max_tokens="x"), body(stream=1),
              body(metadata={"user_id": 5}), body(model="gpt-9")]:
        error(s.post(P, b), 400, "invalid_request_error")
    for b in [body(max_tokens=0), body(temperature=3), body(top_p=2)]:
        error(s.post(P, b), 422, "invalid_request_error")
    error(s.post(P, b"{"), 400, "invalid_request_error")
    error(s.get("/anthropic/v1/nothing"), 404, "not_found_error")
    msg = error(s.post(P, body("many words " * 3000)), 400, "invalid_request_error")
    assert "prompt is too long: " in msg


@case("documents of text and of content are read; blocks that Anthropic's servers would have made are passed over")
def _():
    n = lambda *blocks: s.post(P + "/count_tokens", {"model": s.name, "messages": [{"role": "user", "content": list(blocks)}]})
    text = {"type": "text", "text": "hello there"}
    assert n({"type": "document", "source": {"type": "text", "data": "hello there"}}).json() == n(text).json()
    assert n({"type": "document", "source": {"type": "content", "content": [text]}}).json() == n(text).json()
    assert n({"type": "document", "source": {"type": "content", "content": "hello there"}}).json() == n(text).json()
    assert n({"type": "search_result", "source": "x", "title": "t", "content": [text]}).json() == n(text).json()
    for t in ["redacted_thinking", "server_tool_use", "web_search_tool_result", "mcp_tool_use", "mcp_tool_result", "tool_reference", "compaction"]:
        assert n(text, {"type": t}).json() == n(text).json(), t
    error(n(text, {"type": "container_upload", "file_id": "f"}), 400, "invalid_request_error")


@case("a full queue is 529 with Retry-After; failures in a stream are an error event")
def _():
    r = s.post(P, body("full house", stream=True))
    error(r, 529, "overloaded_error")
    assert r.headers["retry-after"] == "7"
    error(s.post(P, body("breaks")), 500, "api_error")
    r = s.post(P, body("breaks", stream=True))
    ev = events_of(r.text())
    assert ev[-1][0] == "error" and ev[-1][1]["error"] == {"type": "api_error", "message": "the disk is gone"} and "message_stop" not in [e for e, _ in ev]


@case("keep-alive: pings behind message_start")
def _():
    r = s.post(P, body("late", stream=True))
    kinds = [e for e, _ in events_of(r.text())]
    assert kinds.count("ping") >= 2 and kinds[0] == "message_start"


@case("a client that goes away frees its slot")
def _():
    c = s.conn()
    c.send(s.bytes("POST", P, body("slowly", stream=True)))
    assert wait_for(lambda: s.running() == 1)
    c.close()
    assert wait_for(lambda: s.running() == 0, 1)


@case("keys by x-api-key; claude names only where nobody else can ask or keys are")
def _():
    k = Server({"runs": [{"text": "ok" + EOS}]}, "--api-key", "key-0001")
    error(k.post(P, body()), 401, "authentication_error")
    assert k.post(P, dict(body(), model="claude-sonnet-x"), {"x-api-key": "key-0001"}).status == 200
    k.stop()


run()
