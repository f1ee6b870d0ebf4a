"""Random conversations rendered by the chat template of V3.1, Terminus or V3.2-Exp: chat_v31.py NAME TOKENIZER_CONFIG.json [N]

Writes tests/golden/chat/v31/cases_NAME.json: documents in the shape of docs/messages.md, add_generation_prompt, and the prompt that jinja2
makes of them, called as transformers calls it. Arguments are text where the template takes text, else what the text stands for. Tools are
drawn only where the template writes them. Nothing of the file is kept.
"""
import copy
import json
import os
import random
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

name, path = sys.argv[1:3]
count = int(sys.argv[3]) if len(sys.argv) > 3 else 60
rng = random.Random(7)
env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
env.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
source = json.load(open(path))["chat_template"]
template, as_json, with_tools = env.from_string(source), "['arguments']|tojson" in source, "## Tools" in source
TOOLS = [{"type": "function", "function": {"name": n, "description": "Does %s – 你好." % n, "parameters": {"type": "object", "properties": {"x": {"type": "number", "maximum": 1e22}}}}}
         for n in ("f", "search_web")]


def text():
    return rng.choice(["hi", "a\nb", "<｜User｜>x", "中文", "a</think>b</think>c", " t ", "", "</think>", "{{ x }}"])


def conversation():
    out = []
    if rng.random() < .5:
        out += [{"role": "system", "content": text()} for _ in range(rng.randrange(1, 3))]
    for _ in range(rng.randrange(0 if out else 1, 4)):
        if rng.random() < .95:
            out.append({"role": "user", "content": text()})
        if rng.random() < .1:
            out.append({"role": "system", "content": text()})
        k = rng.random()
        if k < .4:
            out.append({"role": "assistant", "content": text()})
        elif k < .8:
            args = ["{\"x\": %d, \"y\": [1.50, null, {}]}" % i for i in range(rng.randrange(1, 4))]
            calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": a}} for a in args]
            out.append({"role": "assistant", "content": rng.choice([None, text()]), "tool_calls": calls})
            out += [{"role": "tool", "content": text()} for _ in calls]
            if rng.random() < .6:
                out.append({"role": "assistant", "content": text()})
    if not out:
        return conversation()
    return out


cases = []
for _ in range(count):
    messages, ask, thinking = conversation(), rng.random() < .8, rng.random() < .5
    doc = {"messages": messages, "thinking": "on" if thinking else "off"}
    if with_tools and rng.random() < .4:
        doc["tools"] = TOOLS[:rng.randrange(1, 3)]
    given = copy.deepcopy(messages)
    for m in given if as_json else []:
        for c in m.get("tool_calls", []):
            c["function"]["arguments"] = json.loads(c["function"]["arguments"])
    want = template.render(messages=given, tools=doc.get("tools"), add_generation_prompt=ask, thinking=thinking, bos_token="<｜begin▁of▁sentence｜>")
    cases.append({"doc": doc, "ask": ask, "prompt": want})
out = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden", "chat", "v31")
os.makedirs(out, exist_ok=True)
with open(os.path.join(out, "cases_%s.json" % name), "w") as f:
    f.write("[" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "]\n")
print(name, len(cases))
