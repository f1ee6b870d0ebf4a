"""Small byte-level BPE tokenizers with the pre-tokenizers of real families, and ids of awkward texts by the tokenizers library.

Writes tests/golden/tokenizer/NAME/{tokenizer.json,config.json,cases.json}. The patterns are those that the families publish in
their tokenizer.json.
"""
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from common import fresh

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden", "tokenizer")
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]


def pre(*patterns):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in patterns] + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


KINDS = {
    "gpt2": (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), None, "gpt2"),
    "llama3": (pre(LLAMA3), None, "llama"),
    "qwen2": (pre(QWEN2), normalizers.NFC(), "qwen2"),
    "deepseek": (pre(*DEEPSEEK), None, "deepseek_v3"),
    "digits": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]), None, "llama"),
}
ADDED = [AddedToken("<|begin|>", special=True, normalized=False), AddedToken("<|end|>", special=True, normalized=False),
         AddedToken("<tool>", special=False, normalized=False), AddedToken("<tool>x", special=False, normalized=False),
         AddedToken("<strip>", special=True, normalized=False, lstrip=True, rstrip=True)]


def corpus(rng):
    words = "the a sea deep trench of and light fish hadal zone pressure water don't I'll it's 1234 12 int main(void) return x_y = 0; // comment él niño Straße".split()
    for _ in range(3000):
        yield " ".join(rng.choice(words) for _ in range(rng.randrange(2, 12))) + rng.choice([".\n", "!\n\n", "\n", "  \n", "?", "\r\n"])
    for _ in range(300):
        yield "".join(chr(rng.randrange(0x4E00, 0x4E60)) for _ in range(8)) + "。" + "".join(chr(rng.randrange(0x0621, 0x0640)) for _ in range(8))


def texts(rng):
    yield from ["", " ", "  ", "\n", "a", "Hello, world", "Hello  world ", " \n \n  x", "\t\tif (x) {\r\n\r\n}", "don't I'LL we'Ve 'tis it's'", "1234567 12 3.14 ３４ ٣٤",
                "é é ñ ñ Å Å", "中文字符，测试。混合text中文", "ひらがなカタカナ漢字", "مرحبا بالعالم", "สวัสดีชาวโลก", "\U0001F468‍\U0001F469‍\U0001F467\U0001F44D\U0001F3FD!",
                "x̧̀̂ combining", "a" * 300, " " * 70 + "x", "=" * 90 + "\n", "<|begin|>hi<|end|>", "a<tool>x<tool>b", "x <strip>  y", " <strip> <strip>", "<|begin|",
                "  　\u180e​", "a\u0000b", "\u2028\u2029\u0085", "ᄀ가힣", "ﬁ ½ ²", "‘s ’s", "_a_b __", "#include <stdio.h>", "https://example.org/?q=1&r=2"]
    pool = [lambda: chr(rng.randrange(32, 127)), lambda: chr(rng.randrange(0xA0, 0x250)), lambda: chr(rng.randrange(0x300, 0x370)), lambda: chr(rng.randrange(0x4E00, 0x4E60)),
            lambda: chr(rng.randrange(0x621, 0x64A)), lambda: chr(rng.randrange(0xE01, 0xE5B)), lambda: chr(rng.randrange(0x1F300, 0x1F650)), lambda: rng.choice(" \n\t\r  "),
            lambda: rng.choice(["the", " sea", "'s", "12", "<tool>", "<|end|>", "‍", "️"]), lambda: chr(rng.choice([rng.randrange(0x370, 0xD800), rng.randrange(0xE000, 0x10FFFF)]))]
    for _ in range(120):
        chosen = rng.sample(pool, 4)
        yield "".join(rng.choice(chosen)() for _ in range(rng.randrange(1, 60)))


for name, (p, norm, model_type) in KINDS.items():
    path = fresh(os.path.join(ROOT, name))
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = p
    tok.decoder = decoders.ByteLevel()
    if norm:
        tok.normalizer = norm
    tok.train_from_iterator(corpus(random.Random(1)), trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    plain = Tokenizer.from_str(tok.to_str())
    tok.add_tokens(ADDED)
    tok.save(os.path.join(path, "tokenizer.json"), pretty=False)
    json.dump({"model_type": model_type, "vocab_size": tok.get_vocab_size()}, open(os.path.join(path, "config.json"), "w"))
    cases = [{"text": t, "plain": plain.encode(t, add_special_tokens=False).ids, "special": tok.encode(t, add_special_tokens=False).ids} for t in texts(random.Random(2))]
    with open(os.path.join(path, "cases.json"), "w") as f:
        f.write("[" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]\n")
    print(name, tok.get_vocab_size(), len(cases))
