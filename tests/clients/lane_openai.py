"""lane_openai.py URL MODEL: openai-python against a scripted server (run.sh): chat, streams, tools, completions, responses, errors."""
import sys

import openai

url, model = sys.argv[1:3]
c = openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0)
TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {"command": {"type": "string"}}}}}]
n = 0


def ok(what, got=True):
    global n
    if not got:
        sys.exit("openai-python: " + what)
    n += 1


ok("models", c.models.list().data[0].id == model)
r = c.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
ok("create", r.choices[0].message.content == "Hello there" and r.choices[0].message.reasoning_content == "Let me think.")
ok("usage", r.usage.prompt_tokens_details.cached_tokens >= 0 and r.usage.completion_tokens_details.reasoning_tokens > 0 and r._request_id.startswith("req_"))
chunks = list(c.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}], stream=True, stream_options={"include_usage": True}))
ok("stream", "".join(x.choices[0].delta.content or "" for x in chunks if x.choices) == "Hello there" and chunks[-1].usage.total_tokens > 0)
with c.chat.completions.stream(model=model, messages=[{"role": "user", "content": "use the tool"}], tools=TOOLS) as s:
    for _ in s:
        pass
    f = s.get_final_completion()
ok("stream helper", f.choices[0].finish_reason == "tool_calls" and f.choices[0].message.tool_calls[0].function.arguments == '{"command": "echo hi"}')
m = f.choices[0].message
r = c.chat.completions.create(model=model, tools=TOOLS, messages=[{"role": "user", "content": "use the tool"}, {"role": "assistant", "content": None, "tool_calls": [t.to_dict() for t in m.tool_calls]},
                                                                  {"role": "tool", "tool_call_id": m.tool_calls[0].id, "content": "hi"}])
ok("second turn", r.choices[0].message.content == "It said hi." and r.usage.prompt_tokens_details.cached_tokens >= 0.95 * f.usage.total_tokens if f.usage else True)
r = c.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=2, n=2)
ok("logprobs, n", len(r.choices) == 2 and bytes(b for t in r.choices[0].logprobs.content for b in t.bytes).decode() == "Hello there")
r = c.completions.create(model=model, prompt="x", max_tokens=5, logprobs=2, echo=True)
ok("completions", len(r.choices[0].logprobs.tokens) > 5)
r = c.responses.create(model=model, input="hi")
ok("responses", r.output_text == "Hello there" and r.usage.input_tokens > 0)
with c.responses.stream(model=model, input="use the tool", tools=[dict(TOOLS[0]["function"], type="function")]) as s:
    for _ in s:
        pass
    f = s.get_final_response()
ok("responses stream", f.output[-1].type == "function_call" and f.output[-1].arguments == '{"command": "echo hi"}')
for what, kind, body in [("unknown model", openai.BadRequestError, {"model": "nope"}), ("no messages", openai.BadRequestError, {"messages": []}), ("range", openai.UnprocessableEntityError, {"n": 99}),
                         ("full", openai.RateLimitError, {"messages": [{"role": "user", "content": "full house"}]}), ("failure", openai.InternalServerError, {"messages": [{"role": "user", "content": "breaks"}]})]:
    try:
        c.chat.completions.create(**dict({"model": model, "messages": [{"role": "user", "content": "hi"}]}, **body))
        ok(what, False)
    except openai.APIStatusError as e:
        ok(what, type(e) is kind)
try:
    list(c.chat.completions.create(model=model, messages=[{"role": "user", "content": "breaks"}], stream=True))
    ok("failure in a stream", False)
except openai.APIError as e:
    ok("failure in a stream", "disk" in str(e))
print("%d passed, 0 failed" % n)
