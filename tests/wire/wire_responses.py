"""wire_responses.py: OpenAI's Responses: order of events, items, tools of every kind, what Codex sends, errors."""
from wire import *

ARGS = [("path", True, "a \"b\"\n2>&1 </x>"), ("n", False, "12")]
ARGS_JSON = {"path": "a \"b\"\n2>&1 </x>", "n": 12}
PATCH = "*** Begin Patch\n\"x\"\n*** End Patch"
s = Server({"n_ctx": 20000, "runs": [
    {"when": "say hello", "text": "Let me think.</think>Hello, wörld 🎉!" + EOS},
    {"when": "one call", "text": "I should.</think>Now:" + calls(("bash", ARGS), ("noargs", [])) + EOS},
    {"when": "patch it", "text": "</think>" + calls(("apply_patch", [("input", True, PATCH)])) + EOS},
    {"when": "late", "text": "</think>done" + EOS, "start_ms": 1500},
    {"when": "breaks", "text": "</think>some text", "error": "the disk is gone", "delay_ms": 1},
    {"when": "full house", "text": "", "refuse": "full", "retry_s": 7},
    {"when": "nothing", "text": "</think>" + EOS},
    {"when": "slowly", "text": "word " * 200, "delay_ms": 10},
    {"text": "</think>ok" + EOS}]}, "--keep-alive", "0.2")
P = "/v1/responses"
TOOLS = [{"type": "function", "name": n, "description": "does " + n, "parameters": {"type": "object", "properties": {}, "maximum": 18446744073709551615}, "strict": False} for n in ("bash", "noargs")]
TYPES = {"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added", "response.reasoning_text.delta", "response.reasoning_text.done",
         "response.content_part.done", "response.output_item.done", "response.output_text.delta", "response.output_text.done", "response.function_call_arguments.delta",
         "response.function_call_arguments.done", "response.custom_tool_call_input.delta", "response.custom_tool_call_input.done", "response.completed", "response.incomplete", "response.failed"}


def body(input="hi", **more):
    return dict({"model": s.name, "input": input}, **more)


def check_stream(ev):
    """The rules of api.md 2.7; returns the last response and the items."""
    assert all(e == d["type"] and e in TYPES for e, d in ev), [e for e, _ in ev]
    assert [d["sequence_number"] for _, d in ev] == list(range(len(ev)))
    assert [e for e, _ in ev[:2]] == ["response.created", "response.in_progress"]
    last = ev[-1][1]["response"]
    assert len({d["response"]["id"] for _, d in ev if "response" in d}) == 1
    assert ev[0][1]["response"]["status"] == "in_progress" and ev[0][1]["response"]["output"] == [] and ev[0][1]["response"]["usage"] is None
    items, cur, part, text = [], None, False, ""
    for e, d in ev[2:-1]:
        if e == "response.output_item.added":
            assert cur is None and d["output_index"] == len(items)
            cur, part, text = d["item"], False, ""
            assert cur["id"] and cur["id"] not in [i["id"] for i in items]
            continue
        if e == "response.output_item.done":
            assert d["item"]["id"] == cur["id"] and d["item"]["type"] == cur["type"] and d["output_index"] == len(items)
            items.append(d["item"])
            cur = None
            continue
        assert d["item_id"] == cur["id"] and d["output_index"] == len(items), (e, d)
        if e == "response.content_part.added":
            assert cur["type"] in ("reasoning", "message") and d["part"]["text"] == ""
            part = True
        elif e.endswith(".delta"):
            assert part or cur["type"] in ("function_call", "custom_tool_call")
            text += d["delta"]
        elif e in ("response.output_text.done", "response.reasoning_text.done"):
            assert d["text"] == text
        elif e == "response.function_call_arguments.done":
            assert d["arguments"] == text and d["name"] == cur["name"]
        elif e == "response.custom_tool_call_input.done":
            assert d["input"] == text
    assert cur is None
    if last["status"] in ("completed", "incomplete"):
        assert last["output"] == items, (last["output"], items)
        u = last["usage"]
        assert u["total_tokens"] == u["input_tokens"] + u["output_tokens"] and u["output_tokens_details"]["reasoning_tokens"] <= u["output_tokens"]
    return last, items


@case("a stream: reasoning, message; the golden order; no [DONE]")
def _():
    for path in [P, "/responses"]:
        r = s.post(path, body("say hello", stream=True))
        assert "[DONE]" not in r.text()
        last, items = check_stream(events_of(r.text()))
        assert last["status"] == "completed" and [i["type"] for i in items] == ["reasoning", "message"]
        assert items[0]["content"] == [{"type": "reasoning_text", "text": "Let me think."}] and items[0]["summary"] == [] and items[0]["encrypted_content"] is None
        assert items[1]["content"][0]["text"] == "Hello, wörld 🎉!" and items[1]["status"] == "completed" and items[1]["role"] == "assistant"


@case("a whole response is what a stream ends with")
def _():
    j = s.post(P, body("say hello")).json()
    last, _ = check_stream(s.events(P, body("say hello", stream=True)))
    assert set(j) == set(last) and [i["type"] for i in j["output"]] == ["reasoning", "message"] and j["object"] == "response" and j["status"] == "completed" and j["store"] is False
    assert j["error"] is None and j["incomplete_details"] is None and j["model"] == s.name
    j = s.post(P, body("say hello", reasoning={"effort": "none"})).json()
    assert [i["type"] for i in j["output"]] == ["message"]
    j = s.post(P, body("nothing")).json()
    assert j["output"] == [] and j["status"] == "completed"


@case("function calls: ids, names, arguments; a custom tool's input is raw text; namespaces")
def _():
    last, items = check_stream(s.events(P, body("one call", tools=TOOLS, stream=True)))
    assert [i["type"] for i in items] == ["reasoning", "message", "function_call", "function_call"]
    assert items[2]["name"] == "bash" and json.loads(items[2]["arguments"]) == ARGS_JSON and items[2]["call_id"].startswith("call_00_") and items[3]["arguments"] == "{}"
    custom = [{"type": "custom", "name": "apply_patch", "description": "d", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}}]
    last, items = check_stream(s.events(P, body("patch it", tools=TOOLS + custom, stream=True)))
    assert items[0]["type"] == "custom_tool_call" and items[0]["input"] == PATCH and items[0]["id"].startswith("ctc_")
    j = s.post(P, body("patch it", tools=custom)).json()
    assert j["output"][0]["input"] == PATCH and j["output"][0]["call_id"]
    r = s.post(P, body("x", tools=[{"type": "namespace", "name": "ns", "tools": TOOLS}, {"type": "web_search", "external_web_access": True}, {"type": "local_shell"}]))
    assert r.status == 200, r.body


@case("what Codex sends: developer items at the front, private fields, tools of every type, reasoning, calls, outputs: next turn hits the cache")
def _():
    first = {"model": s.name, "stream": True, "store": False, "tool_choice": "auto", "parallel_tool_calls": True, "reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"],
             "prompt_cache_key": "0f", "client_metadata": {"a": "b"}, "text": {"verbosity": "low"}, "tools": TOOLS + [{"type": "custom", "name": "apply_patch"}],
             "input": [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You are Codex. " * 20}]}, {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "More."}]},
                       {"type": "message", "role": "user", "id": "m1", "content": [{"type": "input_text", "text": "one call please"}]}]}
    h = {"session-id": "x", "originator": "codex_exec", "x-codex-foo": "1"}
    last, items = check_stream(events_of(s.post("/responses", first, h).text()))
    n = last["usage"]["input_tokens"]
    again = dict(first, input=first["input"] + items + [{"type": "function_call_output", "call_id": items[2]["call_id"], "output": "a b"},
                                                       {"type": "function_call_output", "call_id": items[3]["call_id"], "output": [{"type": "input_text", "text": "c"}]}])
    last, _ = check_stream(events_of(s.post("/responses", again, h).text()))
    assert last["usage"]["input_tokens_details"]["cached_tokens"] >= 0.95 * n, (last["usage"], n)
    more = again["input"] + [{"type": "web_search_call", "id": "w"}, {"type": "compaction", "x": 1}, {"type": "message", "role": "system", "content": "be brief"}, {"role": "user", "content": "go on"}]
    assert s.post(P, dict(again, input=more, stream=False)).status == 200


@case("limits: incomplete with its reason; instructions; max_output_tokens")
def _():
    last, _ = check_stream(s.events(P, body("say hello", stream=True, max_output_tokens=20)))
    assert last["status"] == "incomplete" and last["incomplete_details"] == {"reason": "max_output_tokens"}
    j = s.post(P, body("x", instructions="say hello")).json()
    assert j["output"][-1]["content"][0]["text"] == "Hello, wörld 🎉!"


@case("previous_response_id, conversation and background are 400; stored responses are 404")
def _():
    for more in [{"previous_response_id": "resp_1"}, {"conversation": "c"}, {"conversation": {"id": "c"}}, {"background": True}]:
        error_of(s.post(P, body(**more)), 400, code="unsupported_parameter")
    assert s.post(P, body(previous_response_id=None, background=False, metadata={"a": "b"}, truncation="auto", service_tier="auto", user="u")).status == 200
    for path in ["/v1/responses/resp_1", "/v1/responses/resp_1/input_items", "/responses/resp_1"]:
        error_of(s.get(path), 404, code="not_found")


@case("requests that are none are 400, and name the item")
def _():
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    out = {"type": "function_call_output", "call_id": "c1", "output": "r"}
    for input in [None, [], {}, 5, [5], [{}], [{"type": "message", "role": "robot", "content": "x"}], [{"type": "message", "role": "user", "content": [{"type": "input_audio"}]}],
                  [{"type": "item_reference", "id": "x"}], [out], [call, call, out], [call, dict(out, call_id="c2")], [dict(call, call_id="")], [dict(call, arguments=5)], [call, dict(out, call_id="")],
                  [{"type": "function_call", "call_id": "c"}], [{"type": "reasoning", "content": 5}], [call, {"role": "user", "content": "x"}],
                  [{"role": "user", "content": [{"type": "input_image", "image_url": "http://127.0.0.1/"}]}]]:
        error_of(s.post(P, body(input)), 400)
    for more in [{"reasoning": 5}, {"reasoning": {"effort": "huge"}}, {"tools": 5}, {"tools": [5]}, {"tools": [{"type": "function", "name": "a b"}]}, {"tool_choice": 5}, {"instructions": 5}, {"stream": 5},
                 {"max_output_tokens": "x"}, {"text": {"format": {"type": "xml"}}}, {"model": "gpt-9"}]:
        error_of(s.post(P, body(**more)), 400)
    error_of(s.post(P, body(max_output_tokens=0)), 422)


@case("failures: a full queue is 429; in a stream response.failed; comments keep it alive; a gone client frees its slot")
def _():
    r = s.post(P, body("full house", stream=True))
    error_of(r, 429)
    ev = s.events(P, body("breaks", stream=True))
    assert ev[-1][0] == "response.failed" and ev[-1][1]["response"]["status"] == "failed" and ev[-1][1]["response"]["error"] == {"code": "server_error", "message": "the disk is gone"}
    r = s.post(P, body("late", stream=True))
    assert r.text().count(": keep-alive") >= 2
    check_stream(events_of(r.text()))
    c = s.conn()
    c.send(s.bytes("POST", P, body("slowly", stream=True)))
    assert wait_for(lambda: s.running() == 1)
    c.close()
    assert wait_for(lambda: s.running() == 0, 1)
    e = error_of(s.post(P, body("many words " * 10000)), 400, code="context_length_exceeded")


run()
