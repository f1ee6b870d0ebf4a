#!/usr/bin/env python3
"""Assembles the corpus of hadal-nano: plain text and conversations in simple English.

    tools/corpus/build.py OUT [--stories 18000] [--talks 45000] [--lookups 20000] [--written FILE.jsonl ...]

Sources  debian.py (packages of free text, pinned and hashed), stories.py, skills.py and lookup.py (written by rules), and what write.py
         let a small model write (--written; optional, it is not rebuilt here).
Writes   OUT/text.jsonl {"text"}, OUT/chat.jsonl {"messages"} and {"prompt", "completion"}, OUT/val.jsonl (all kinds, not in the others),
         OUT/report.json: documents, bytes and hashes of each source, licences, what was dropped and why.
The same arguments write the same bytes. Needs Debian's apt-get and dpkg-deb; Python 3.9 or later, nothing else.
"""
import argparse
import collections
import hashlib
import json
import os
import random
import re

import debian
import lookup
import skills
import stories

COMMON_WORDS = 9000                  # natural text may use these, ranked by how many documents of all sources have them
VAL = 0.006


def words(text):
    return re.findall(r"[a-z']+", text.lower())


def natural(cache, written, dropped):
    """[(source, document)]: a text, or messages."""
    out = []
    for source, text in debian.texts(cache):
        out.append((source, text))
    for path in written:
        for line in open(path):
            d = json.loads(line)
            if debian.RUDE.search(d["text"]) or re.search(r"\b(kill|murder|drug|blood|dead body)", d["text"]):
                dropped["rude"] += 1
            else:
                out.append(("written by SmolLM2-135M-Instruct", d))
    return out


def known(rank, text, limit):
    w = words(text)
    return sum(rank.get(x, limit) < limit for x in w) >= 0.96 * len(w)


def definition(rng, text):
    """A question that a dictionary's sentence answers, or None."""
    m = re.match(r"(An?) ([a-z]+) is [^.]+\.", text)
    if not m or rng.random() < 0.3:
        return None
    return skills.turn(rng.choice(["What is {}?", "What does {} mean?", "Can you tell me what {} is?"]).format(f"{m.group(1).lower()} {m.group(2)}"), m.group(0))


def lookups(a, told, found):
    texts = [t for _, _, t in told[:4000]] + [t for source, t in found if isinstance(t, str) and source != "wordnet-base"]
    hay = lookup.sentences(texts) if a.lookups else []
    return [("lookups", "line", lookup.document(random.Random(f"lookup {a.seed} {i}"), hay, a.lookup_words)) for i in range(a.lookups)]


def documents(a, dropped):
    """[(source, kind, value)] in a fixed order: kind is the line's field, or "line" where value is the whole line."""
    rng = random.Random(a.seed)
    told = [("stories", "text", stories.tell(random.Random(f"story {a.seed} {i}")).text) for i in range(a.stories)]
    talks = [("talks", "messages", skills.talk(random.Random(f"talk {a.seed} {i}"))) for i in range(a.talks)]
    found = natural(a.cache, a.written, dropped)
    count = collections.Counter()
    for _, _, t in told[:4000]:
        count.update(set(words(t)))
    for source, t in found:
        count.update(set(words(t if isinstance(t, str) else t["text"])))
    rank = {w: i for i, (w, _) in enumerate(sorted(count.items(), key=lambda x: (-x[1], x[0])))}
    out = told + talks + lookups(a, told, found)
    for source, t in found:
        text = t if isinstance(t, str) else t["text"]
        if rng.random() >= a.natural:
            dropped["not asked for"] += 1
        elif source != "bible-kjv-text" and not known(rank, text, a.words):
            dropped["rare words"] += 1
        elif isinstance(t, dict):
            out.append((source, "messages", skills.turn(t["title"], text)))
        else:
            talk = definition(rng, text) if source == "wordnet-base" else None
            out.append((source, "messages", talk) if talk else (source, "text", text))
    return out


def texts_of(line):
    return [m["content"] for m in line["messages"]] if "messages" in line else list(line.values())


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out")
    p.add_argument("--cache", help="where packages are fetched to and unpacked (default: OUT/cache)")
    p.add_argument("--stories", type=int, default=18000)
    p.add_argument("--talks", type=int, default=45000)
    p.add_argument("--lookups", type=int, default=0, help="documents that tell facts drawn at random and ask for them")
    p.add_argument("--lookup-words", type=int, default=500, help="the longest of them, in words")
    p.add_argument("--thoughts", type=float, default=0.2, help="share of conversations in thinking mode")
    p.add_argument("--natural", type=float, default=1, help="share of the texts that no rule wrote")
    p.add_argument("--val", type=float, default=VAL, help="share of all documents that is held out")
    p.add_argument("--words", type=int, default=COMMON_WORDS)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--written", action="append", default=[], help="what write.py wrote")
    a = p.parse_args()
    a.cache = a.cache or os.path.join(a.out, "cache")
    os.makedirs(a.out, exist_ok=True)
    os.makedirs(a.cache, exist_ok=True)
    dropped, seen, report = collections.Counter(), set(), collections.defaultdict(lambda: {"documents": 0, "bytes": 0, "hash": hashlib.sha256()})
    docs = documents(a, dropped)
    rng = random.Random(a.seed)
    rng.shuffle(docs)
    files = {k: open(os.path.join(a.out, k + ".jsonl"), "w") for k in ("text", "chat", "val")}
    held = set()
    for source, kind, value in docs:
        value = value if kind == "line" else {kind: value}
        line = json.dumps(skills.with_thought(random.Random(f"thought {len(seen)}"), value[kind]) if source == "talks" and rng.random() < a.thoughts else value)
        key = hashlib.sha256(line.encode()).digest()
        if key in held or (source != "talks" and key in seen):        # short turns of talk may come again, but nothing that is held out
            dropped["seen before"] += 1
            continue
        r = report[source]
        r["documents"] += 1
        r["bytes"] += sum(len(t) for t in texts_of(value))
        r["hash"].update(key)
        to = "val" if key not in seen and int.from_bytes(key[:4], "big") < a.val * 2**32 else "text" if kind == "text" else "chat"
        (held if to == "val" else seen).add(key)
        files[to].write(line + "\n")
    licences = {name: f"{version}: {licence}" for name, version, _, licence in debian.PACKAGES}
    for r in report.values():
        r["hash"] = r["hash"].hexdigest()
    json.dump({"sources": {s: {**r, **({"version and licence": licences[s]} if s in licences else {})} for s, r in sorted(report.items())}, "dropped": dict(dropped)}, open(os.path.join(a.out, "report.json"), "w"), indent=1)
    print(open(os.path.join(a.out, "report.json")).read())


if __name__ == "__main__":
    main()
