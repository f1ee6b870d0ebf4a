#!/usr/bin/env python3
"""Lets a model behind `hadal serve` write simple text: stories, descriptions, small talk.

    hadal serve models/cache/SmolLM2-135M-Instruct.Q4_1.gguf --port 8080 &
    tools/corpus/write.py http://127.0.0.1:8080 OUT.jsonl --seed 1 --texts 5000 --at-once 14

Requests are made of word lists below, so that no two ask the same; several run at once and share the engine's steps. Whatever is not
plain English, is too short, repeats itself, speaks of being a program or refuses is dropped (keep() says why). Each line of OUT.jsonl:
{"kind", "title", "text"}; appending to a file goes on where its count of lines ends.
"""
import argparse
import collections
import concurrent.futures
import hashlib
import http.client
import json
import random
import re
import sys
import threading
import urllib.parse

NAMES = """Tom Lily Ben Mia Sam Anna Max Lucy Jack Emma Tim Rosa Leo Nina Dan Sara Finn Ella Bob Kate Will Amy Joe Zoe Paul Ruth Adam Jane
Mark Eva Peter Alice Luke Grace Nick Clara Henry Ivy Oscar Maya Hugo June Omar Leila Ravi Mei Kofi Yuki""".split()
ANIMALS = """cat dog fox bear rabbit mouse bird duck frog horse cow pig sheep goat hen owl bee ant fish turtle lion elephant monkey squirrel
hedgehog deer wolf crow swan donkey spider snail whale seal penguin camel""".split()
THINGS = """ball hat box kite boat cup book lamp shoe key bell drum spoon basket blanket ladder bucket candle clock coat umbrella stone shell
feather ribbon button wheel rope map letter cake apple pear carrot pumpkin bread cookie flower seed tree leaf toy train bike wagon tent chair
table bed door window mirror garden bridge pond river hill cave nest farm barn mill well castle tower island forest beach""".split()
PLACES = ["in the garden", "by the river", "in the forest", "at school", "on a farm", "at the beach", "in a small village", "on a hill", "at home", "in the park", "at the market",
          "near the pond", "in the kitchen", "on a boat", "in the snow", "under a big tree", "at grandma's house", "in the barn", "in the city", "on a train"]
MOODS = "happy sad kind brave shy proud angry lonely tired curious clever lazy hungry scared gentle funny careful small old young".split()
DEEDS = ["find a friend", "share a toy", "help someone", "learn to swim", "bake a cake", "plant a seed", "fix a broken toy", "climb a tree", "say sorry", "find the way home", "catch a fish",
         "build a house", "look for something lost", "make a gift", "tell the truth", "wait for the rain to stop", "learn to read", "sing a song", "clean a room", "keep a secret",
         "feed the animals", "count the stars", "stop a fight", "carry something heavy", "try something new", "wake up early", "write a letter", "paint a picture", "cross the river", "go to bed"]
ASKED = """rain snow wind sun moon star cloud river sea mountain forest bread milk honey salt sugar water fire ice wood iron gold paper glass wool cotton clock
bicycle car train ship bridge house school hospital library market farm garden kitchen bedroom doctor teacher baker farmer cook sailor king queen
friend family mother father baby child birthday holiday winter spring summer autumn morning night dream music song dance book letter map game
apple banana orange grape potato tomato carrot onion rice egg cheese soup cake tea coffee hand foot eye ear nose mouth heart tooth hair""".split() + ANIMALS
TALK = ["I am happy today.", "I am sad today.", "I am tired.", "I am bored. What can I do?", "I lost my {thing}.", "I found a {thing}.", "I saw a {animal}.", "My {animal} is sick.", "I want to {deed}.",
        "How do I {deed}?", "I like my {thing}.", "Tell me about your day.", "What should I eat for dinner?", "It is raining.", "It is very hot today.", "I cannot sleep.", "My friend is angry with me.",
        "I am afraid of the {animal}.", "Can you help me {deed}?", "What is a good name for a {animal}?", "I have a new {thing}.", "I am going to the beach.", "Today is my birthday.",
        "Why should I {deed}?", "What does a {animal} eat?", "Where does a {animal} live?", "What can I do with a {thing}?", "What color is a {thing}?", "Is a {animal} big or small?"]
ASKS = ["What is {x}?", "What is {x} for?", "Tell me about {x}.", "Why do people like {x}?", "Where can I find {x}?", "Explain {x} to a child.", "Describe {x}.", "What do you know about {x}?"]


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def make(rng):
    """One request: its kind, and what is asked."""
    fill = dict(name=rng.choice(NAMES), other=rng.choice(NAMES), animal=rng.choice(ANIMALS), thing=rng.choice(THINGS), deed=rng.choice(DEEDS),
                place=rng.choice(PLACES), mood=rng.choice(MOODS), x=rng.choice(ASKED))
    k = rng.random()
    if k < 0.72:
        who = rng.choice([f"{article(fill['mood'])} {fill['animal']}", f"{article(fill['mood'])} child named {fill['name']}", f"{fill['name']} and {fill['other']}", f"{fill['name']} and {article(fill['animal'])}"])
        what = rng.choice([f"and {article(fill['thing'])}", fill["place"], f"and {article(fill['thing'])} {fill['place']}", f"who wanted to {fill['deed']}"])
        return "story", rng.choice(["Tell me a story about {}.", "Write a short story about {}.", "Tell me a short story about {}."]).format(f"{who} {what}")
    if k < 0.88:
        return "ask", rng.choice(ASKS).format(x=fill["x"])
    return "talk", rng.choice(TALK).format(**fill)


# What the writer is shown first, so that it writes as simply. Ours.
SHOWN = {
    "story": [
        ("Tell me a story about a sad duck and a boat.",
         "There was a small duck named Dot. Dot was sad because she had no one to play with. One day she saw a red boat on the pond. A boy named Will sat in the boat. \"Hello, duck,\" said Will. "
         "\"Do you want to ride with me?\" Dot jumped into the boat. They went around the pond and looked at the fish. When the sun went down, Will gave Dot some bread. Dot was not sad anymore. Now she had a friend."),
        ("Tell me a story about Amy who wanted to bake a cake.",
         "Amy wanted to bake a cake for her father. She put milk, eggs and flour in a big bowl. Then her dog Max ran into the kitchen and hit the table. The bowl fell down and broke. Amy began to cry. "
         "Her mother came in and smiled. \"We can try again,\" she said. They cleaned the floor and made a new cake. In the evening her father ate two big pieces. \"This is the best cake,\" he said, and Amy was proud."),
        ("Write a short story about a lazy bear in the snow.",
         "One cold morning a bear looked out of his cave. There was snow on the hill and on the trees. The bear was lazy. He wanted to sleep all day. But his friend the fox came and called him. "
         "\"Come out! We can make a snow bear,\" said the fox. The bear walked out slowly. They pushed the snow into three big balls. They used a carrot for the nose and two stones for the eyes. "
         "The bear laughed. He was glad that he did not stay in bed."),
        ("Tell me a short story about Ben and Rosa and a kite.",
         "Ben and Rosa had a blue kite. They took it to the hill because the wind was strong. The kite went up and up. Then the rope broke and the kite flew into a tall tree. Ben wanted to climb the tree, but it was too high. "
         "Rosa asked a man for help. The man had a long ladder. He climbed up and got the kite. \"Thank you,\" said the children. They tied a new rope to the kite and played until dinner."),
    ],
    "ask": [
        ("What is a bridge for?", "A bridge helps people cross a river or a road. Cars and trains can go over it. Some bridges are made of wood, and some are made of stone or steel."),
        ("Tell me about horses.", "A horse is a big animal with four long legs. It eats grass and can run very fast. People ride horses and keep them on farms."),
    ],
    "talk": [
        ("I broke my cup.", "Oh no, I am sorry about your cup. Be careful with the sharp pieces. Maybe you can find a new cup that you like."),
        ("What can I do with a box?", "You can keep your toys in a box. You can also paint it and make a little house for a doll."),
    ],
}


BAD = re.compile(r"language model|as an ai|\bAI\b|assistant|i cannot|i can't|i'm sorry|SmolLM|Hugging|http|www|```|\bprompt\b|\*\*|#|\[|\]|\{|\}|<|>|_|\|", re.I)


def keep(kind, text):
    """None if the text is fit, otherwise why not."""
    words = re.findall(r"[A-Za-z']+", text)
    if BAD.search(text):
        return "phrase"
    if any(ord(c) > 126 for c in text):
        return "letters"
    if len(words) < {"story": 40, "ask": 12, "talk": 6}[kind] or len(words) > 260:
        return "length"
    if not text[0].isupper() and text[0] != '"' or text[-1] not in '.!?"':
        return "ends"
    if re.search(r"^\s*(\d+[.)]|[-*])\s", text, re.M):
        return "list"
    if sum(map(len, words)) / len(words) > 5.6:
        return "long words"
    four = collections.Counter(tuple(words[i:i + 4]) for i in range(len(words) - 3))
    if four and (max(four.values()) > 3 or len(four) < 0.8 * sum(four.values())):
        return "repeats"
    common = sum(w.lower() in COMMON for w in words)
    return None if common > 0.25 * len(words) else "not English"


COMMON = set("the a an and of to in is was it he she they you i his her that with for on at as had have be not but are we my so very one all there this said were from up out them can will when would".split())


def clean(text):
    for a, b in (("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u2014", " - "), ("\u2013", "-"), ("\u2026", "..."), ("\u00a0", " ")):
        text = text.replace(a, b)
    text = re.sub(r"[ \t]+", " ", text.strip())
    return re.sub(r"\s*\n\s*", "\n", text)


def ask(url, shown, prompt, seed, temperature, max_tokens):
    c = http.client.HTTPConnection(url.hostname, url.port, timeout=900)
    body = {"model": "writer", "messages": [{"role": role, "content": text} for pair in shown + [(prompt,)] for role, text in zip(("user", "assistant"), pair)], "temperature": temperature, "top_p": 0.95, "seed": seed, "max_tokens": max_tokens}
    c.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    r = json.loads(c.getresponse().read())
    c.close()
    if "choices" not in r:
        raise OSError(json.dumps(r)[:200])
    return r["choices"][0]["message"]["content"] or "", r["choices"][0]["finish_reason"], r["usage"]["completion_tokens"]


def cut(text):
    """The text up to its last whole sentence: what max_tokens cut off goes."""
    m = list(re.finditer(r'[.!?]"?(?=\s|$)', text))
    return text[:m[-1].end()] if m else ""


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("url")
    p.add_argument("out")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--texts", type=int, default=5000, help="lines that OUT shall have")
    p.add_argument("--at-once", type=int, default=14)
    p.add_argument("--temperature", type=float, default=0.7)
    a = p.parse_args()
    url, lock, seen, dropped = urllib.parse.urlparse(a.url), threading.Lock(), set(), collections.Counter()
    try:
        with open(a.out) as f:
            for line in f:
                seen.add(hashlib.sha256(json.loads(line)["text"].encode()).digest())
    except FileNotFoundError:
        pass
    state = {"n": len(seen), "tokens": 0, "at": 0}
    f = open(a.out, "a")

    def worker():
        while True:
            with lock:
                if state["n"] >= a.texts:
                    return
                state["at"] += 1
                seed = a.seed * 1000003 + len(seen) * 7919 + state["at"]
            rng = random.Random(seed)
            kind, title = make(rng)
            shown = rng.sample(SHOWN[kind], 2)
            text, why, n = ask(url, shown, title, seed, a.temperature, 230 if kind == "story" else 110)
            text = clean(text)
            if why == "length":
                text = cut(text)
            no = "empty" if not text else "copied" if any(text[:40] == t[:40] for _, t in shown) else keep(kind, text)
            key = hashlib.sha256(text.encode()).digest()
            with lock:
                state["tokens"] += n
                if no or key in seen:
                    dropped[no or "seen"] += 1
                else:
                    seen.add(key)
                    f.write(json.dumps({"kind": kind, "title": title, "text": text}) + "\n")
                    f.flush()
                    state["n"] += 1
                if state["at"] % 100 == 0:
                    print(f"{state['n']} texts, {state['tokens']} tokens written by the model, dropped {dict(dropped)}", file=sys.stderr, flush=True)

    with concurrent.futures.ThreadPoolExecutor(a.at_once) as ex:
        for job in [ex.submit(worker) for _ in range(a.at_once)]:
            job.result()


if __name__ == "__main__":
    main()
