"""lane_litellm.py URL MODEL: LiteLLM's openai, deepseek and anthropic providers against a scripted server (run.sh)."""
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

litellm.telemetry = False
litellm.suppress_debug_info = True
url, model = sys.argv[1:3]
TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {"command": {"type": "string"}}}}}]
n = 0


def ok(what, got=True):
    global n
    if not got:
        sys.exit("litellm: " + what)
    n += 1


for provider, base in [("openai", url + "/v1"), ("deepseek", url + "/beta"), ("anthropic", url)]:
    args = {"model": provider + "/" + model, "api_base": base, "api_key": "x", "num_retries": 0}
    r = litellm.completion(messages=[{"role": "user", "content": "hi"}], max_tokens=500, **args)
    ok(provider, "Hello there" in r.choices[0].message.content)
    text = "".join(x.choices[0].delta.content or "" for x in litellm.completion(messages=[{"role": "user", "content": "hi"}], max_tokens=500, stream=True, **args))
    ok(provider + " stream", "Hello there" in text)
    r = litellm.completion(messages=[{"role": "user", "content": "use the tool"}], max_tokens=2000, tools=TOOLS, **args)
    ok(provider + " tools", r.choices[0].message.tool_calls[0].function.name == "bash" and r.choices[0].finish_reason == "tool_calls")
print("%d passed, 0 failed" % n)
