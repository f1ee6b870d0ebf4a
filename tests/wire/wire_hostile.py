"""wire_hostile.py: inputs that have broken servers like this one, by class: tokenisers, patterns and schemas, templates, images, names, and what a model may say."""
import base64
import struct
import zlib

from wire import *

RUNS = [
    {"when": "endless markup", "text": "</think>\n\n<%stool_calls>\n" % D + ("<%sinvoke name=\"" % D), "repeat": 20000, "burst": 4096, "finish": "length"},
    {"when": "parentheses", "text": "</think>" + "f(a=" * 2000, "repeat": 50, "burst": 4096, "finish": "length"},
    {"when": "python", "text": "</think>" + calls(("bash", [("command", True, "__import__('os').system('touch %s/taken')" % TMP), ("n", False, "__import__('os')")])) + EOS},
    {"text": "</think>ok" + EOS},
]
s = Server({"n_ctx": 8000000, "runs": RUNS})
P = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]


def fine(r, *want):
    """An answer, or the protocol's own error: nothing of the inside in it."""
    assert r.status in (want or (200, 400, 422)), (r.status, r.body[:300])
    if r.status != 200:
        e = error_of(r, r.status)
        assert "0x" not in e["message"] and "/" + TMP not in e["message"] and len(e["message"]) < 1000, e
    assert s.get("/health").status == 200
    return r


@case("the tokeniser's worst: long runs of one character, blanks, marks, joined emoji, no word's end; all come back as they were")
def _():
    family = "👨‍👩‍👧‍👦"
    for text in ["a" * 900000, " " * 900000, "a" + "\u0300" * 300000, family * 20000, (family[0] + "\u200d") * 60000, "漢" * 200000, "1" * 500000, "\n" * 500000, "'s" * 300000, "ab" * 400000, "_-" * 300000]:
        t = fine(s.post("/tokenize", {"prompt": text, "add_special_tokens": False}), 200).json()["tokens"]
        assert fine(s.post("/detokenize", {"tokens": t}), 200).json()["prompt"] == text
    for text in ["a" * 1000000, "\u0300" * 300000]:
        fine(s.post(P, s.chat(text)), 200)


PATTERNS = ["(?<=a)b", "(?", "[z-a]", "a{2,1}", "a{999999999}", "(" * 60000, "((((", "\\", "((a*)*)*b", "(a|a)*", "((a{0,999}){0,999}){0,999}", "[" + "a-z" * 50000 + "]", "(?R)", "\\1(a)", "(?i)a", "a" * 200000, "[[:alpha:]]", "\\p{L}" * 1000,
            "^" * 10000 + "a", "(?>a)", "(" * 2000 + "a" + ")" * 2000, "|" * 50000, "\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace"), "\x00"]


@case("patterns: look-behind, open groups, turned ranges, counts without end, nesting: an answer or 400, everywhere a pattern can stand")
def _():
    for pattern in PATTERNS:
        fine(s.post(P, s.chat(guided_regex=pattern, max_tokens=5)))
        for strict in [True, False]:
            schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}, "required": ["a"], "additionalProperties": False}
            fine(s.post(P, s.chat("json", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}, max_tokens=5)))
            fine(s.post(P, s.chat(tools=[{"type": "function", "function": {"name": "f", "strict": strict, "parameters": schema}}], max_tokens=5)))


def chain(n):
    return {"$defs": {"r%d" % i: {"$ref": "#/$defs/r%d" % (i + 1)} for i in range(n)} | {"r%d" % n: {"type": "null"}}, "$ref": "#/$defs/r0"}


@case("schemas: wrong types, circles, chains, remote references, enums without end, deep ones; a thousand different ones leave no memory behind")
def _():
    deep = {"type": "string"}
    for _ in range(40):
        deep = {"type": "array", "items": deep}
    for schema in [{"type": "int"}, {"type": ["object", 7]}, {"type": 7}, {"$ref": "#/a"}, {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, {"$ref": "http://127.0.0.1:1/x"}, {"$ref": "file:///etc/passwd"},
                   chain(5000), {"enum": list(range(100000))}, {"enum": []}, {"const": None}, deep, {"type": "object", "properties": {str(i): {} for i in range(20000)}}, {"allOf": [{}] * 10000}, {"minLength": -1}, {"minimum": 1e308, "maximum": -1e308},
                   {"type": "array", "minItems": 10**9}, {"type": "string", "maxLength": 2**63}, {"not": {}}, {"type": "object", "required": ["a"] * 100000}, {"type": "string", "format": "../../x"}, {}, {"type": "object", "properties": 5}]:
        for strict in [True, False]:
            fine(s.post(P, s.chat("json", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}, max_tokens=5)))
        fine(s.post(P, s.chat(tools=[{"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}], max_tokens=5)))

    def different(n):
        for i in n:
            fine(s.post(P, s.chat("json", response_format={"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "object", "properties": {"k%d" % i: {"enum": ["v%d" % i, i]}}}}}, max_tokens=5)), 200)

    def resident():
        with open("/proc/%d/status" % s.p.pid) as f:
            return int([l for l in f if l.startswith("VmRSS")][0].split()[1])
    different(range(300))
    before = resident()
    different(range(300, 1300))
    assert SLOW > 1 or resident() - before < 8192, (before, resident())


@case("templates and their variables: none is run; deep and wide ones are refused or passed over")
def _():
    for t in ["{{ cycler.__init__.__globals__ }}", "{% for x in range(10**9) %}{% endfor %}"]:
        fine(s.post(P, s.chat(chat_template=t)), 400)
    wide = {"k%d" % i: i for i in range(100000)}
    nest = {"x": None}
    for _ in range(50):
        nest = {"x": nest}
    for kwargs in [wide, nest, {"thinking": True, "tools": ["{{x}}"]}]:
        fine(s.post(P, s.chat(chat_template_kwargs=kwargs)), 200)
    fine(s.post(P, b'{"model":"v4","messages":[{"role":"user","content":"x"}],"chat_template_kwargs":' + b'{"a":' * 100000 + b"1" + b"}" * 100000 + b"}"), 400)
    fine(s.post(P, s.chat(prompt_embeds="gASVAA==", embeddings=[1e308] * 1000)), 200)


def png(w, h, data=b""):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@case("images: of one dot, of none, of billions; bombs, cut ones, frames without end, hundreds at once: text stands for them, nothing is unpacked")
def _():
    bomb = zlib.compress(b"\0" * 30000000)
    for image in [png(1, 1), png(0, 0), png(1, 8192), png(2**31 - 1, 2**31 - 1), png(65535, 65535, bomb), png(8, 8)[:20], b"\0\0\0\x0cjP  \r\n\x87\n", b"GIF89a" + b"\x2c" * 100000, b"\xff\xd8\xff" * 1000, b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"<svg onload='x'/>"]:
        url = "data:image/png;base64," + base64.b64encode(image).decode()
        for part in [{"type": "image_url", "image_url": {"url": url}}, {"type": "image", "image": url}]:
            fine(s.post(P, s.chat([part])), 200)
        fine(s.post("/v1/responses", {"model": s.name, "input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}), 200)
    dot = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png(1, 1)).decode()}}
    fine(s.post(P, s.chat([dot, {"type": "text", "text": "long " * 1000}] * 600)), 200)
    fine(s.post(P, s.chat("<｜deepseek_image｜><｜place▁holder▁no▁1｜>" * 20000)), 200)


@case("names are names: of models, users and tools, as paths they lead nowhere")
def _():
    kept = os.path.join(TMP, "kept")
    h = Server({"n_ctx": 100000, "runs": RUNS}, "--kv-disk-dir", kept)
    for name in ["../../../../tmp/x", "/dev/zero", "/dev/random", "..", "a/b", "C:\\x", "%2e%2e%2f", "x" * 500, "\u202e", "a\nb: c"]:
        fine(h.post(P, h.chat("python", user_id=name, tools=TOOLS)), 200)
        error_of(h.post(P, h.chat(model=name)), 400)
        error_of(h.get("/v1/models/" + "".join("%%%02x" % c for c in name.encode())), 404)
    found = [os.path.join(d, f) for d, _, files in os.walk(kept) for f in files]
    assert found and all(re_ok(f) for f in map(os.path.basename, found)), found
    assert h.stop() == 0


def re_ok(name):
    return all(c in "0123456789abcdefghijklmnopqrstuvwxyz.-_" for c in name.lower())


@case("what a model says is data: markup without end, thousands of open calls, programs")
def _():
    for text in ["endless markup", "parentheses"]:
        fine(s.post(P, s.chat(text, tools=TOOLS, thinking={"type": "disabled"})), 200)
    m = fine(s.post(P, s.chat("python", tools=TOOLS)), 200).json()["choices"][0]["message"]
    assert "__import__" in m["tool_calls"][0]["function"]["arguments"] and not os.path.exists(TMP + "/taken")


run()
