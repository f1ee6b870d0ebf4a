"""Ids of `hadal tokenize` against the tokenizers library on a mixed corpus: compare_tokenizer.py HADAL DIR_WITH_TOKENIZER_JSON [MB]

The corpus is made here: Python and C sources, documentation, random pieces of the vocabulary (hundreds of languages), Chinese,
Arabic, Thai, emoji with joiners, combining marks, long runs of one character, special tokens spelled out, random code points.
Prints the first difference, or the sizes. Pieces are compared one by one, so that a difference is found where it is.
"""
import glob
import json
import os
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

hadal, path = sys.argv[1:3]
want = int(float(sys.argv[3]) * 1e6) if len(sys.argv) > 3 else 6_000_000
rng = random.Random(5)
tok = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
# Without the added tokens' text being special: hadal's plain mode matches none of them.
doc = json.load(open(os.path.join(path, "tokenizer.json")))
added = [t["content"] for t in doc.get("added_tokens", [])]
plain = dict(doc, added_tokens=[])
vocab = doc["model"]["vocab"]
plain_tok = Tokenizer.from_str(json.dumps(plain))
n_vocab = tok.get_vocab_size()


def span(lo, hi, n):
    return "".join(chr(rng.randrange(lo, hi)) for _ in range(n))


def sources():
    files = sorted(glob.glob("/usr/lib/python3*/**/*.py", recursive=True) + glob.glob("/usr/share/doc/**/*", recursive=True) + glob.glob("/usr/include/**/*.h", recursive=True))
    rng.shuffle(files)
    for f in files:
        if os.path.isfile(f):
            try:
                yield open(f, encoding="utf-8").read()[:40000]
            except (UnicodeDecodeError, OSError):
                pass


def pieces():
    src = sources()
    emoji = ["\U0001F468\u200D\U0001F469\u200D\U0001F467", "\U0001F1E9\U0001F1EA", "\U0001F44D\U0001F3FD", "\u2764\uFE0F", "\U0001F3F3\uFE0F\u200D\U0001F308", "\u263A"]
    while True:
        k = rng.random()
        if k < 0.35:
            yield next(src, "the end of the sources\n")
        elif k < 0.50:
            yield plain_tok.decode([rng.randrange(n_vocab - len(added)) for _ in range(300)]) if len(vocab) else ""
        elif k < 0.58:
            yield " ".join(span(0x4E00, 0x9FA5, rng.randrange(1, 30)) + rng.choice("，。！？ \n") for _ in range(60))
        elif k < 0.64:
            yield " ".join(span(0x0621, 0x064A, rng.randrange(1, 9)) for _ in range(200))
        elif k < 0.70:
            yield span(0x0E01, 0x0E5B, 600)
        elif k < 0.76:
            yield "".join(rng.choice(emoji) + rng.choice(["", " ", "x", "\n", "!?"]) for _ in range(200))
        elif k < 0.80:
            yield "".join(rng.choice("aeioun") + span(0x0300, 0x036F, rng.randrange(0, 4)) for _ in range(200))
        elif k < 0.84:
            yield rng.choice(["a", " ", "\n", "0", "=", "é", "中", "\t", "\r\n", "ab", "- "]) * rng.randrange(1, 3000)
        elif k < 0.88:
            yield "".join(rng.choice(added or ["<x>"]) + rng.choice(["", " ", "text", "\n"]) for _ in range(40))
        elif k < 0.93:
            yield "".join(chr(c) for c in (rng.choice([rng.randrange(0x20, 0x3000), rng.randrange(0x3000, 0xD800), rng.randrange(0xE000, 0x10FFFF), rng.randrange(0, 128)]) for _ in range(300)))
        elif k < 0.97:
            yield "".join(rng.choice([" ", "  ", "\n", "\t", "1234567890", "12", "it's", "I'LL", "don't", "x_y", "--", "...", "\r\n", "\u00a0", "\u3000", "A", "bC", "'s", "’s", "３４"]) for _ in range(400))
        else:
            yield span(0xAC00, 0xD7A3, 100) + span(0x0400, 0x04FF, 100) + span(0x0900, 0x097F, 100) + span(0x3040, 0x30FF, 100)


def ids_of(text, special):
    with tempfile.NamedTemporaryFile("wb", delete=False) as f:
        f.write(text.encode())
    out = subprocess.run([hadal, "tokenize", path, "--text-file", f.name] + (["--special"] if special else []), capture_output=True, check=True).stdout.decode().strip()
    os.unlink(f.name)
    return [int(x) for x in out.split(",")] if out else []


for special in (False, True):
    ref, total, n_ids, batch, gen = (tok if special else plain_tok), 0, 0, [], pieces()
    while total < want:
        batch = [next(gen) for _ in range(400)]
        batch = [b for b in batch if b]
        # pieces are joined by a newline run that no pre-tokenizer glues: they are compared as a whole, then bisected
        text = "\n\nq\n\n".join(batch)
        a, b = ids_of(text, special), ref.encode(text, add_special_tokens=False).ids
        if a != b:
            for p in batch:
                x, y = ids_of(p, special), ref.encode(p, add_special_tokens=False).ids
                if x != y:
                    i = next((i for i in range(min(len(x), len(y))) if x[i] != y[i]), min(len(x), len(y)))
                    print("DIFFERENT (special=%s) at id %d: hadal %s..., tokenizers %s... near %r" % (special, i, x[i:i + 5], y[i:i + 5], ref.decode(y[max(0, i - 3):i + 6], skip_special_tokens=False)))
                    sys.exit(1)
            print("DIFFERENT only when joined (special=%s)" % special)
            sys.exit(1)
        total += len(text.encode())
        n_ids += len(a)
    print("equal: special=%s, %.1f MB, %d ids" % (special, total / 1e6, n_ids))
