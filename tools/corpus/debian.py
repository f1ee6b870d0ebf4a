"""English prose out of Debian packages: fetched by name and version with apt-get download, checked by hash, unpacked, cut into plain sentences.

texts(cache) -> [(source, text)]: each text a document. What is not simple prose is left out (simple()).
"""
import glob
import hashlib
import html
import os
import re
import subprocess
import sys

# package, version, sha256 of the .deb, licence of the texts taken
PACKAGES = [
    ("wordnet-base", "1:3.0-37", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752", "WordNet 3.0 licence (permissive, Princeton University)"),
    ("bible-kjv-text", "4.38", "d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a", "public domain"),
    ("bible-kjv", "4.38", "75a49c032a6efa9faa2beb4a9acb70974380122906329d0e100de36cc88ff02d", "GPL-2+ (the program that prints the text)"),
    ("fortunes", "1:1.99.1-7.3", "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5", "BSD and public domain"),
    ("fortunes-min", "1:1.99.1-7.3", "9eed5b45064e41133dae0967cf3a17588ad77c014fcc7bf1527fa3ea48e44d07", "BSD and public domain"),
    ("gnome-user-docs", "43.0-2", "0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f", "CC-BY-SA-3.0"),
    ("endless-sky-data", "0.9.8-1.2", "e45835e05a11e84bb1a890a0ded390246a53b8318f21a25925aa70fa54f80c13", "GPL-3+"),
    ("tuxpaint-stamps-default", "2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34", "GPL-2+ and public domain"),
    ("anarchism", "15.3-3", "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948", "GFDL-1.1 or GPL-2+"),
]
BOOKS = "Genesis Ruth Jonah Mark Luke".split()


def fetch(cache, packages=PACKAGES):
    """Each package's tree under cache/NAME."""
    os.makedirs(cache, exist_ok=True)
    for name, version, sha, _ in packages:
        tree = os.path.join(cache, name)
        if os.path.isdir(tree):
            continue
        if subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=cache, stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"{name} {version} is not in the archives that apt knows; its index may be old (apt-get update), or a newer version has taken its place")
        deb = glob.glob(os.path.join(cache, f"{name}_*.deb"))[0]
        found = hashlib.sha256(open(deb, "rb").read()).hexdigest()
        if found != sha:
            sys.exit(f"{deb}: sha256 {found}; expected {sha}")
        subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)


def plain(text):
    """One line, quotes and dashes as ASCII has them."""
    for x, y in (("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u2014", " - "), ("\u2013", "-"), ("\u2026", "..."), ("\u00a0", " "), ("``", '"'), ("''", '"')):
        text = text.replace(x, y)
    return re.sub(r"\s+", " ", text).strip()


def simple(text, longest=34, letters=5.0):
    """Whole sentences of common length and short words, no markup."""
    words = re.findall(r"[A-Za-z']+", text)
    if len(words) < 4 or re.search(r"[^ -~]|[\[\]{}<>|\\^~_=*/@#]|--|\.\.\.\.", text) or not text[0].isupper() and text[0] != '"' or text[-1] not in '.!?"':
        return False
    if sum(map(len, words)) > letters * len(words) or sum(w.isupper() and len(w) > 1 for w in words) > 0.1 * len(words) or sum(c.isdigit() for c in text) > 0.04 * len(text):
        return False
    return max(len(s.split()) for s in re.split(r"[.!?]\s", text)) <= longest


RUDE = re.compile(r"\b(fuck|shit|sex|bitch|bastard|whore|damn|penis|breast|rape|nazi|nigger|queer|naked|orgasm|suicide|condom|drunk|cunt|fart|pregnan)", re.I)


def wordnet(tree):
    out = []
    for pos in ("noun", "verb", "adj", "adv"):
        for line in open(f"{tree}/usr/share/wordnet/data.{pos}", encoding="latin-1"):
            if line.startswith(" "):
                continue
            head, gloss = line.split(" | ", 1)
            word = head.split()[4].replace("_", " ").split("(")[0]
            parts = re.findall(r'"([^"]+)"', gloss)
            means = re.sub(r"\([^)]*\)", "", gloss.split('; "')[0]).strip().split("; ")[0].strip()
            lines = []
            if pos == "noun" and word.islower() and re.match(r"(a|an|the|any|someone|something) ", means):
                lines.append(f"{('An ' if word[0] in 'aeiou' else 'A ') + word} is {means}.")
            elif pos == "verb" and word.islower() and re.match(r"[a-z]+ ", means):
                lines.append(f"To {word} is to {means}.")
            lines += [p[0].upper() + p[1:] + ("" if p[-1] in ".!?" else ".") for p in (plain(p) for p in parts) if len(p.split()) >= 4]
            lines = [x for x in map(plain, lines) if simple(x, 24)]
            if lines:
                out.append(" ".join(lines))
    return out


def bible(tree, program):
    out = []
    for book in BOOKS:
        r = subprocess.run([os.path.abspath(program), "-f", f"{book}1:1-{book}50:99"], cwd=f"{tree}/usr/lib", capture_output=True, text=True)
        verses = [plain(re.sub(r"^\S+ ", "", v)) for v in r.stdout.splitlines() if re.match(r"^\S+:\d+ ", v)]
        for i in range(0, len(verses), 6):
            out.append(" ".join(verses[i:i + 6]))
    return [t for t in out if simple(t, 70)]


def fortunes(tree, names):
    out = []
    for name in names:
        path = f"{tree}/usr/share/games/fortunes/{name}"
        if not os.path.exists(path):
            continue
        for item in open(path, encoding="utf-8", errors="replace").read().split("\n%\n"):
            t = plain(re.sub(r"\s+--.*", "", item, flags=re.S))
            if simple(t, 40) and len(t) > 30:
                out.append(t)
    return out


def mallard(tree):
    out = []
    for path in sorted(glob.glob(f"{tree}/usr/share/help/C/gnome-help/*.page")):
        body = open(path, encoding="utf-8").read()
        body = re.sub(r"<info>.*?</info>|<comment.*?</comment>|<!--.*?-->", "", body, flags=re.S)
        paras = [plain(html.unescape(re.sub(r"<[^>]+>", "", p))) for p in re.findall(r"<p>(.*?)</p>", body, flags=re.S)]
        paras = [p for p in paras if simple(p)]
        if paras:
            out.append(" ".join(paras))
    return out


def endless_sky(tree):
    out = []
    for path in sorted(glob.glob(f"{tree}/usr/share/games/endless-sky/data/**/*.txt", recursive=True)):
        talk = []
        for line in open(path, encoding="utf-8"):
            m = re.match(r"^\s*`\s*(.*?)`\s*$", line)
            t = plain(m.group(1)) if m else ""
            if t and simple(t, 40):
                talk.append(t)
            elif talk and not m:
                out.append(" ".join(talk))
                talk = []
        if talk:
            out.append(" ".join(talk))
    return out


def stamps(tree):
    return [t for path in sorted(glob.glob(f"{tree}/usr/share/tuxpaint/stamps/**/*.txt", recursive=True)) for t in [plain(open(path, encoding="utf-8", errors="replace").readline())] if simple(t)]


def anarchism(tree):
    out = []
    for path in sorted(glob.glob(f"{tree}/usr/share/doc/anarchism/html/sec*.html")):
        for p in re.findall(r"<p[^>]*>(.*?)</p>", open(path, encoding="utf-8", errors="replace").read(), flags=re.S):
            t = plain(html.unescape(re.sub(r"<[^>]+>", "", p)))
            if simple(t, 28, 4.75):
                out.append(t)
    return out


def texts(cache):
    fetch(cache)
    tree = {name: os.path.join(cache, name) for name, *_ in PACKAGES}
    found = {"wordnet-base": wordnet(tree["wordnet-base"]), "bible-kjv-text": bible(tree["bible-kjv-text"], tree["bible-kjv"] + "/usr/bin/bible"),
             "fortunes": fortunes(tree["fortunes"], "kids food love wisdom work people pets science riddles humorists cookie education sports travel".split()) + fortunes(tree["fortunes-min"], ["fortunes", "riddles", "literature"]),
             "gnome-user-docs": mallard(tree["gnome-user-docs"]), "endless-sky-data": endless_sky(tree["endless-sky-data"]), "tuxpaint-stamps-default": stamps(tree["tuxpaint-stamps-default"]), "anarchism": anarchism(tree["anarchism"])}
    return [(source, t) for source, ts in found.items() for t in ts if not RUDE.search(t)]


if __name__ == "__main__":
    import collections
    import random
    all_texts = texts(sys.argv[1])
    n = collections.Counter()
    for source, t in all_texts:
        n[source] += len(t)
    print(n)
    for source, t in random.Random(1).sample(all_texts, 30):
        print(source, "|", t[:400])
