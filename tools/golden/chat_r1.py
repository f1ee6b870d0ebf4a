"""Random conversations rendered by a checkpoint's chat template: chat_r1.py newer|older TOKENIZER_CONFIG.json [N]

Writes tests/golden/chat/r1/cases_EDITION.json: messages, add_generation_prompt and the prompt that jinja2 makes of them. newer: the
template that tells calls by the key tool_calls (R1 and its distillations since 2025); older: by a null content (V3). Nothing of the file is kept.
"""
import copy
import json
import os
import random
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

edition, path = sys.argv[1:3]
count = int(sys.argv[3]) if len(sys.argv) > 3 else 60
rng = random.Random(3)
env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
template = env.from_string(json.load(open(path))["chat_template"])


def text():
    return rng.choice(["hi", "a\nb", "<｜User｜>x", "中文", "a</think>b</think>c", " t ", "", "</think>"])


def conversation():
    out = []
    if rng.random() < .5:
        out.append({"role": "system", "content": text()})
    for _ in range(rng.randrange(1, 4)):
        out.append({"role": "user", "content": text()})
        if rng.random() < .1:
            out.append({"role": "system", "content": text()})
        k = rng.random()
        if k < .4:
            out.append({"role": "assistant", "content": text()})
        elif k < .8:
            calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": %d}" % i}} for i in range(rng.randrange(1, 4))]
            out.append({"role": "assistant", "content": None if edition == "older" or rng.random() < .5 else text(), "tool_calls": calls})
            out += [{"role": "tool", "content": text()} for _ in calls]
            if rng.random() < .6:
                out.append({"role": "assistant", "content": text()})
    return out


cases = []
for _ in range(count):
    messages, ask = conversation(), rng.random() < .8
    want = template.render(messages=copy.deepcopy(messages), add_generation_prompt=ask, bos_token="<｜begin▁of▁sentence｜>")
    cases.append({"doc": {"messages": messages}, "ask": ask, "prompt": want})
out = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden", "chat", "r1")
os.makedirs(out, exist_ok=True)
with open(os.path.join(out, "cases_%s.json" % edition), "w") as f:
    f.write("[" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "]\n")
print(edition, len(cases))
