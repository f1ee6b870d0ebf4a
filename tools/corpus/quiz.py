#!/usr/bin/env python3
"""Asks a served model what skills.py, knowledge.py and lookup.py teach, in conversations that no corpus holds, and says what share of answers was right.

    hadal serve models/nano --port 8080 &
    tools/corpus/quiz.py http://127.0.0.1:8080 [--each 50] [--json]

A skill's last question is asked behind the true answers to those before it, greedily. Right means: word for word one of the answers that the
skill's rule gives to this conversation. Skills whose answers are free (stories, small talk, lists, verses) are left out.
"""
import argparse
import concurrent.futures
import http.client
import json
import random
import urllib.parse

import knowledge
import lookup
import skills
import stories

HAY = lookup.sentences(stories.tell(random.Random(f"quiz hay {i}")).text for i in range(200))


def told(most):
    """Facts drawn at random, hidden in up to so many words of stories."""
    return lambda rng: lookup.conversation(rng, HAY, most)["messages"]


ASKED = {"recall": skills.recall, "needle": skills.needle, "about a story": skills.about_story, "copy": skills.copy, "sums": skills.sums, "count": skills.count, "order": skills.order, "bigger": skills.bigger, "color": skills.color,
         "capital": knowledge.capital, "science": knowledge.science, "letter": knowledge.letter, "compare": knowledge.compare, "thought": knowledge.thought, "yes or no": knowledge.yes_no, "lookup": told(150),
         "lookup, long": told(900)}


def ask(url, messages):
    c = http.client.HTTPConnection(url.hostname, url.port, timeout=600)
    c.request("POST", "/v1/chat/completions", json.dumps({"model": "nano", "messages": messages, "temperature": 0, "max_tokens": 120, "thinking": {"type": "disabled"}}), {"Content-Type": "application/json"})
    r = json.loads(c.getresponse().read())
    c.close()
    return r["choices"][0]["message"]["content"]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("url")
    p.add_argument("--each", type=int, default=50)
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    url, result = urllib.parse.urlparse(a.url), {}
    with concurrent.futures.ThreadPoolExecutor(8) as ex:
        for name, skill in ASKED.items():
            talks = [skill(random.Random(f"quiz {name} {i}")) for i in range(a.each)]
            answers = ex.map(lambda m: ask(url, m[:-1]), talks)
            result[name] = sum(m[-1]["content"].strip() == x.strip() for m, x in zip(talks, answers)) / a.each
            if not a.json:
                print(f"{name:16} {100 * result[name]:5.1f} %", flush=True)
    if a.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
