"""Random completions as the official parsers read them: parse.py v4|v41 ENCODING.py [N], parse.py r1 TOKENIZER_CONFIG.json [N]

Writes tests/golden/chat/KIND/parse.json: {"text", "start", "want"}: want is the message, or null where the parser refuses the text.
v4, v41: turns rendered by the encoder that ships with a checkpoint, whole and damaged, read by its own
parse_message_from_completion_text. r1: turns rendered by the checkpoint's chat template; the message rendered is what is wanted.
Nothing of the files given is kept. Left out is where hadal differs by design (docs/messages.md): see differs().
"""
import importlib.util
import json
import os
import random
import re
import sys

kind, path = sys.argv[1:3]
count = int(sys.argv[3]) if len(sys.argv) > 3 else 160
rng = random.Random(11)
EOS, D = "<｜end▁of▁sentence｜>", "｜DSML｜"
plain = ["hello", "the sea", "中文内容", "line\nbreak", "\"quoted\" \\ back", "emoji 👍🏽", "", "  spaces  ", "a<b>&c", "\ttab", "\n\n", "&lt;&amp;", "2>&1", "</", "\r\n",
         "</thinkx>", "<thinking>", "<|DSML|", "<｜", "\n\n<", "<|end▁of▁sentence|>", "\x00nul", "\u2028"]
lookalike = ["<｜DSM", "\n\n<｜DSML", "</｜DSM", "<think", "</think", "<｜end▁of▁sentence", "｜DSML"]
in_args = ["<think>x</think>", "<｜User｜>", "<" + D + "invoke name=\"x\">", "\" string=\"true\">", ">", "<"]


def words(more=()):
    return " ".join(rng.choice(plain + list(more)) for _ in range(rng.randrange(0, 4)))


def value(depth=0):
    k = rng.random()
    if k < .5:
        return words(in_args if kind != "r1" else ["<think>x</think>", "```", "\n```\n"])
    if k < .65:
        return rng.choice([0, -5, 123456789012345, 1.5, 1e-7, 1e22, 0.1, -0.0, 3.0, 1e16, 123456.789])
    if k < .75 or depth > 2:
        return rng.choice([True, False, None])
    if k < .88:
        return {rng.choice("abcdé\"") + str(i): value(depth + 1) for i in range(rng.randrange(0, 3))}
    return [value(depth + 1) for _ in range(rng.randrange(0, 3))]


def calls():
    out = []
    for i in range(rng.randrange(1, 4)):
        args = {rng.choice(["k", "path", "ключ", "a b", "q\"", ""]) + str(z): value() for z in range(rng.randrange(0, 4))}
        out.append({"id": "c%d" % i, "type": "function", "function": {"name": rng.choice(["search", "f", "打开", "ns::get", "say \"x\""]),
                                                                      "arguments": json.dumps(args, ensure_ascii=False)}})
    return out


def message():
    m = {"role": "assistant", "content": words(lookalike), "reasoning_content": words(lookalike)}
    if rng.random() < .6:
        m["tool_calls"] = calls()
    return m


def damage(text):
    tags = [EOS, "</think>", "<think>", "\n\n<" + D, "<" + D, "</" + D, D, ">", "\n", " ", "\"", "x", "invoke", " string=\"true\"", "tool_calls", "｜", ">\n", "parameter"]
    for _ in range(rng.randrange(1, 3)):
        at, n = rng.randrange(len(text) + 1), rng.randrange(0, 12)
        k = rng.random()
        if k < .3:
            text = text[:at] + text[at + n:]
        elif k < .5:
            text = text[:at] + rng.choice(tags) + text[at:]
        elif k < .6:
            text = text[:at]
        elif k < .75:
            marks = [m.start() for m in re.finditer(D + "|\n|>", text)]
            at = rng.choice(marks) if marks else at
            text = text[:at] + text[at + rng.randrange(1, 9):]
        elif k < .9:
            pieces = re.split("(<" + D + ")", text)
            i = rng.randrange(len(pieces))
            text = "".join(pieces[:i] + pieces[i:i + 2] + pieces[i:])
        else:
            text += rng.choice(tags)
    return text


def no_constant(_):
    raise ValueError


def differs(text, want):
    """Accepted by the official parser, read otherwise here."""
    tag = D + ("tool_calls" if kind == "v4" else " calls")
    if want is None:
        return False
    if text.endswith("<" + tag) or "<\n/" + D in text:
        return True
    for c in want["tool_calls"]:
        f = c["function"]
        if "</" + D in f["arguments"] or EOS in f["arguments"] or "\">" in f["name"] or "<" + D in f["name"]:
            return True
        try:
            args = json.loads(f["arguments"], parse_constant=no_constant)
        except ValueError:
            return True
        if any("\">" in k or "<" + D in k for k in args):
            return True
    return False


def from_encoder():
    spec = importlib.util.spec_from_file_location("encoding", path)
    enc = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(enc)
    cases = []
    while len(cases) < count:
        mode = rng.choice(["thinking", "chat"])
        user, m = {"role": "user", "content": "x"}, message()
        before = enc.encode_messages([user], thinking_mode=mode)
        text = enc.encode_messages([user, m], thinking_mode=mode)[len(before):]
        if len(cases) % 2:
            text = damage(text)
        try:
            want = enc.parse_message_from_completion_text(text, mode)
        except (AssertionError, ValueError):
            want = None
        if not differs(text, want):
            cases.append({"text": text, "start": "reasoning" if mode == "thinking" else "content", "want": want})
    return cases


def from_template():
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = env.from_string(json.load(open(path))["chat_template"])
    cases = []
    while len(cases) < count:
        m = message()
        think = "<think>" + "\n" + m["reasoning_content"] + "\n</think>\n\n"
        rendered = {k: v for k, v in m.items() if k != "reasoning_content"}
        old = "'tool_calls' in message" not in json.load(open(path))["chat_template"]
        if "tool_calls" in m and old:
            m["tool_calls"], rendered["content"], m["content"] = m["tool_calls"][:2], None, ""
            rendered["tool_calls"] = m["tool_calls"]
            if len(m["tool_calls"]) < 2:
                continue
        text = template.render(messages=[{"role": "user", "content": "x"}, rendered], bos_token="", add_generation_prompt=False)
        text = text[len("<｜User｜>x<｜Assistant｜>"):]
        want = {"role": "assistant", "content": m["content"], "tool_calls": m.get("tool_calls", []), "reasoning_content": ""}
        start = "content"
        if rng.random() < .5 and not m["content"].startswith("\n") and not m["reasoning_content"].startswith("\n") and not m["reasoning_content"].endswith("\n"):
            start = rng.choice(["content", "reasoning"])
            text = (think if start == "content" else think[len("<think>\n"):]) + text
            want["reasoning_content"] = m["reasoning_content"]
        cases.append({"text": text, "start": start, "want": want})
    return cases


cases = from_template() if kind == "r1" else from_encoder()
out = os.environ.get("OUT") or os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden", "chat", kind)
os.makedirs(out, exist_ok=True)
with open(os.path.join(out, "parse.json"), "w") as f:
    f.write("[" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "]\n")
print(kind, len(cases), "refused:", sum(c["want"] is None for c in cases))
