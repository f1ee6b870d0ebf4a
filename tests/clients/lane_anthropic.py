"""lane_anthropic.py URL MODEL: anthropic-python against a scripted server (run.sh): messages, streams, a tool loop with thinking, errors."""
import sys

import anthropic

url, model = sys.argv[1:3]
c = anthropic.Anthropic(base_url=url, api_key="x", max_retries=0)
TOOLS = [{"name": "bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}]
THINK = {"type": "enabled", "budget_tokens": 1024}
n = 0


def ok(what, got=True):
    global n
    if not got:
        sys.exit("anthropic-python: " + what)
    n += 1


ok("models", [m.id for m in c.models.list()] == [model])
r = c.messages.create(model=model, max_tokens=2000, thinking=THINK, messages=[{"role": "user", "content": "hi"}])
ok("create", [b.type for b in r.content] == ["thinking", "text"] and r.content[1].text == "Hello there" and r.stop_reason == "end_turn")
with c.messages.stream(model="claude-sonnet-4-5", max_tokens=2000, thinking=THINK, tools=TOOLS, messages=[{"role": "user", "content": "use the tool"}]) as s:
    for _ in s:
        pass
    m = s.get_final_message()
ok("stream", m.stop_reason == "tool_use" and m.content[-1].input == {"command": "echo hi"} and m.content[0].type == "thinking" and m.content[0].signature)
messages = [{"role": "user", "content": "use the tool"}, {"role": "assistant", "content": [b.to_dict() for b in m.content]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": m.content[-1].id, "content": "hi"}]}]
r = c.messages.create(model="claude-sonnet-4-5", max_tokens=2000, thinking=THINK, tools=TOOLS, messages=messages)
first = m.usage.input_tokens + m.usage.cache_read_input_tokens + m.usage.output_tokens
ok("tool loop", r.content[-1].text == "It said hi." and r.usage.cache_read_input_tokens >= 0.95 * first)
ok("count_tokens", c.messages.count_tokens(model=model, messages=[{"role": "user", "content": "hi"}]).input_tokens > 3)
for what, kind, body in [("no messages", anthropic.BadRequestError, {"messages": []}), ("unknown model", anthropic.BadRequestError, {"model": "nope"}),
                         ("failure", anthropic.InternalServerError, {"messages": [{"role": "user", "content": "breaks"}]})]:
    try:
        c.messages.create(**dict({"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}, **body))
        ok(what, False)
    except anthropic.APIStatusError as e:
        ok(what, type(e) is kind and e.request_id.startswith("req_"))
try:
    with c.messages.stream(model=model, max_tokens=100, messages=[{"role": "user", "content": "breaks"}]) as s:
        for _ in s:
            pass
    ok("failure in a stream", False)
except anthropic.APIStatusError as e:
    ok("failure in a stream", "disk" in str(e))
print("%d passed, 0 failed" % n)
