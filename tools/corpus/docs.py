#!/usr/bin/env python3
"""Debian's documentation as a corpus: manuals, references and dictionaries as their authors wrote them, nothing simplified.

    tools/corpus/docs.py OUT [--cache DIR]

Writes   OUT/train.jsonl and OUT/val.jsonl {"text"}, a manual's chapter, a page or a run of dictionary entries each; of every source about one document in 100
         is for validation, chosen by the hash of its text. OUT/report.json: documents, bytes and hashes of each source, licences.
The same packages write the same bytes. Documents that occur twice are kept once. Needs Debian's apt-get and dpkg-deb; Python 3.9 or later, nothing else.
"""
import argparse
import glob
import gzip
import hashlib
import html.parser
import json
import os
import random
import re

import debian

PACKAGES = [
    ("linux-doc-6.1", "6.1.192-3", "f18dfe28dcab7bdbf9185be16b9521f5841277a6a96c374a6683a648d5d5fa4f", "GPL-2 and, file by file, others"),
    ("python3.11-doc", "3.11.2-6+deb12u9", "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be", "PSF-2"),
    ("perl-doc", "5.36.0-7+deb12u4", "f4269cff4576d6f02a6756df842988e58451c7e945b08517dd235531b24e48f8", "GPL-1+ or Artistic"),
    ("postgresql-doc-15", "15.20-0+deb12u1", "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7", "PostgreSQL"),
    ("manpages", "6.03-2", "efa1ba4cd19ad7baeae959c9209a7eb74be2ebb858bcabb412597bfc9f588c91", "GPL-2+ and permissive ones, page by page"),
    ("manpages-dev", "6.03-2", "96f55cb5e26231d5567c89b692bced63825a14a2d5bd18fdf16ea2ed44eb9838", "GPL-2+ and permissive ones, page by page"),
    ("debian-reference-en", "2.100", "9f31d3a17df505de09689ca255512ea58c1fc47c59bb1b0c7bf1c23362e9743f", "GPL-2+"),
    ("dict-gcide", "0.48.5+nmu2", "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f", "GPL-3+ (Webster's of 1913: public domain)"),
    ("dict-foldoc", "20230119-1", "745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3", "GFDL-1.2+"),
    ("dict-jargon", "4.4.7-3.1", "405f8168d7994ed2cb71407bb95493daec2e9aa66fc0461dafa74a9d6728a8c1", "public domain"),
    ("anarchism", "15.3-3", "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948", "GFDL-1.1 or GPL-2+"),
]
BLOCKS = {"p", "pre", "li", "dt", "dd", "tr", "h1", "h2", "h3", "h4", "h5", "div", "br", "table", "blockquote"}
SILENT = {"script", "style", "head", "nav"}


def read(path):
    return (gzip.open if path.endswith((".gz", ".dz")) else open)(path, "rb").read().decode("utf-8", "replace")


class Page(html.parser.HTMLParser):
    """An HTML page's text: blocks on lines of their own, <pre> as it stands, without navigation."""

    def __init__(self):
        super().__init__()
        self.out, self.pre, self.skipped = [], 0, []

    def handle_starttag(self, tag, attrs):
        if tag in SILENT or any(k == "class" and re.search(r"nav(header|footer|igation)|toc\b", v or "") for k, v in attrs):
            self.skipped.append(tag)
        elif self.skipped and tag == self.skipped[-1]:
            self.skipped.append(tag)                   # the same tag once more inside: its end is not the end
        self.pre += tag == "pre"
        if tag in BLOCKS:
            self.out.append("\n\n" if tag in ("p", "pre", "h1", "h2", "h3", "h4") else "\n")

    def handle_endtag(self, tag):
        if self.skipped and tag == self.skipped[-1]:
            self.skipped.pop()
        self.pre -= tag == "pre"

    def handle_data(self, data):
        if not self.skipped:
            self.out.append(data if self.pre else re.sub(r"\s+", " ", data))


def page(path):
    p = Page()
    p.feed(read(path))
    return re.sub(r"\n[ \t]*(\n[ \t]*)+", "\n\n", re.sub(r"[ \t]+\n", "\n", "".join(p.out)))


def roff(path):
    """A manual page without its macros: section titles and words stay."""
    out = []
    for line in read(path).splitlines():
        if line.startswith((".\\\"", "'\\\"", ".TH", ".nf", ".fi", ".ie", ".el", ".if", ".de", ".ds", ".in")):
            continue
        m = re.match(r"\.\s*([A-Za-z]+)\s*(.*)", line)
        if m and m.group(1) in ("PP", "P", "LP", "IP", "TP", "SH", "SS", "RS", "RE"):
            out.append("\n" + m.group(2).strip('"') if m.group(2) and m.group(1) in ("SH", "SS", "IP") else "")
            continue
        t = m.group(2) if m else line
        if m and m.group(1) in ("BR", "RB", "IR", "RI", "BI", "IB"):
            t = "".join(x[1:-1] if x.startswith('"') else x for x in re.findall(r'"[^"]*"|\S+', t))
        t = re.sub(r"\\f(\[\w*\]|\w|\(\w\w)|\\[&%|/,]", "", t)
        out.append(re.sub(r"\\\((en|em|hy|mi)", "-", t).replace("\\-", "-").replace("\\e", "\\").replace("\\(aq", "'").replace("\\(dq", '"'))
    return "\n".join(out)


def entries(path):
    """Runs of a dictionary's entries, some 4,000 characters each: what stands in one place of the book stays together."""
    out, run, size = [], [], 0
    for part in re.split(r"\n\n(?=\S)", read(path)):
        run.append(part)
        size += len(part)
        if size > 4000:
            out.append("\n\n".join(run))
            run, size = [], 0
    return out + ["\n\n".join(run)]


def sources(tree):
    """{package: its documents}"""
    def every(pattern):
        return sorted(p for p in glob.glob(os.path.join(tree, pattern), recursive=True) if "/translations/" not in p and os.path.isfile(p) and not os.path.islink(p))

    doc = "usr/share/doc"
    found = {name: [read(p) for p in every(f"{name}/{doc}/**/_sources/**/*.rst.txt")] for name in ("linux-doc-6.1", "python3.11-doc")}
    found["perl-doc"] = [read(p) for p in every("perl-doc/usr/share/perl/**/*.pod")]
    found["postgresql-doc-15"] = [page(p) for p in every(f"postgresql-doc-15/{doc}/**/*.html")]
    found["debian-reference-en"] = [page(p) for p in every("debian-reference-en/usr/share/**/*.en.html")]
    found["anarchism"] = [page(p) for p in every(f"anarchism/{doc}/anarchism/html/*.html")]
    for name in ("manpages", "manpages-dev"):
        found[name] = [roff(p) for p in every(f"{name}/usr/share/man/man*/*.gz")]
    for name in ("gcide", "foldoc", "jargon"):
        found[f"dict-{name}"] = [t for p in every(f"dict-{name}/usr/share/dictd/*.dict.dz") for t in entries(p)]
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("out")
    p.add_argument("--cache", help="where packages are kept (OUT/cache)")
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    cache = a.cache or os.path.join(a.out, "cache")
    debian.fetch(cache, PACKAGES)
    report, parts, seen = {}, {"train": [], "val": []}, set()
    found = sources(cache)
    for name, version, sha, licence in PACKAGES:
        r = report[name] = {"version": version, "sha256": sha, "licence": licence, "documents": 0, "bytes": 0, "val_documents": 0, "val_bytes": 0, "duplicates": 0, "short": 0}
        for text in found[name]:
            text = text.strip() + "\n"
            key = hashlib.sha256(text.encode()).digest()
            if len(text) < 200 or key in seen:
                r["short" if len(text) < 200 else "duplicates"] += 1
                continue
            seen.add(key)
            val = int.from_bytes(key[:4], "big") % 100 == 0
            parts["val" if val else "train"].append(text)
            prefix = "val_" if val else ""
            r[prefix + "documents"] += 1
            r[prefix + "bytes"] += len(text.encode())
    for part, texts in parts.items():
        random.Random(1).shuffle(texts)
        data = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts).encode()
        open(os.path.join(a.out, part + ".jsonl"), "wb").write(data)
        report[part] = {"documents": len(texts), "bytes": sum(len(t.encode()) for t in texts), "sha256": hashlib.sha256(data).hexdigest()}
    json.dump(report, open(os.path.join(a.out, "report.json"), "w"), indent=1)
    for name, r in report.items():
        print(f"{name:20} {r['documents']:7} documents {r['bytes'] / 1e6:8.2f} MB" + (f", {r['val_documents']} and {r['val_bytes'] / 1e3:.0f} kB for validation" if "val_bytes" in r else ""))


if __name__ == "__main__":
    main()
