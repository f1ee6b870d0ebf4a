"""wire_draft.py: hadal serve on a model with a draft module: answers are the same whoever guesses, and what came of the guesses is counted."""
import re

from wire import *

MODEL = "tests/golden/v41-f32-dspark-a"
HOW = ["off", "auto", "3", "ngram", "ngram:9"]
P, C = "/v1/chat/completions", "/v1/completions"
servers = {h: Server(None, "--draft", h, "--sampling", "open", "--threads", "1", "--ctx", "1024", model=MODEL) for h in HOW}


def metric(s, name):
    return float(re.search(r"^%s ([0-9.e+]+)$" % name, s.get("/metrics").text(), re.M).group(1))


def everywhere(path, body):
    """What every server answers; they must agree on all that is no measurement or name of a reply."""
    seen = []
    for h in HOW:
        r = servers[h].post(path, body)
        assert r.status == 200, (h, r.status, r.body)
        d = r.json()
        seen.append([d["choices"], d["usage"]])
        assert seen[-1] == seen[0], (h, seen[-1], seen[0])
    return seen[0][0]


def chat(**more):
    return servers["off"].chat("json: one two one two", **dict({"max_tokens": 40, "seed": 5}, **more))


@case("greedy, seeds, penalties, log-probabilities")
def _():
    everywhere(P, chat(temperature=0))
    everywhere(P, chat(temperature=1))
    everywhere(P, chat(temperature=0.8, top_p=0.9, frequency_penalty=0.7, logprobs=True, top_logprobs=3))
    everywhere(C, {"model": servers["off"].name, "prompt": "hello hello hello", "max_tokens": 50, "temperature": 0.5, "seed": 9, "logprobs": 2})


@case("several choices")
def _():
    c = everywhere(P, chat(temperature=1, n=4))
    assert len(c) == 4


@case("JSON objects")
def _():
    everywhere(P, chat(temperature=1, response_format={"type": "json_object"}, max_tokens=60))


@case("stop strings end an answer where they did, in the middle of what was guessed too")
def _():
    body = {"model": servers["off"].name, "prompt": "hello", "max_tokens": 40, "temperature": 0, "logit_bias": {"65": 100}}
    text = everywhere(C, body)[0]["text"]
    assert text == text[0] * 40
    c = everywhere(C, dict(body, stop=[text[:7]]))
    assert c[0]["finish_reason"] == "stop" and c[0]["text"] == ""


@case("a stream has the same text as a reply")
def _():
    for h in HOW:
        whole = servers[h].post(P, chat(temperature=1, seed=11)).json()["choices"][0]["message"]
        text = "".join(d["choices"][0]["delta"].get("content") or "" for _, d in servers[h].events(P, chat(temperature=1, seed=11, stream=True)) if isinstance(d, dict) and d["choices"])
        assert text == (whole["content"] or ""), h


@case("what came of guesses is counted")
def _():
    for h in HOW:
        drafted, accepted = metric(servers[h], "ds_draft_tokens_total"), metric(servers[h], "ds_draft_tokens_accepted_total")
        assert accepted <= drafted and (drafted > 0) == (h != "off"), (h, drafted, accepted)
    assert metric(servers["ngram:9"], "ds_draft_tokens_accepted_total") > 20
    r = servers["ngram:9"].post(C, {"model": servers["off"].name, "prompt": "hello", "max_tokens": 40, "temperature": 0, "logit_bias": {"65": 100}, "timings_per_token": True}).json()
    if "timings" in r:
        assert r["timings"]["draft_n"] >= r["timings"]["draft_n_accepted"] > 20


@case("a draft module that cannot be used is left out, unless guesses of it are asked for")
def _():
    broken = os.path.join(TMP, "broken")
    os.mkdir(broken)
    for f in ("model.safetensors", "tokenizer.json"):
        os.symlink(os.path.abspath(os.path.join(MODEL, f)), os.path.join(broken, f))
    with open(MODEL + "/config.json", encoding="utf-8") as f:
        c = json.load(f)
    del c["text_config"]["dspark_block_size"]
    with open(broken + "/config.json", "w", encoding="utf-8") as f:
        json.dump(c, f)
    s = Server(None, "--threads", "1", "--ctx", "256", model=broken)
    assert s.post(C, {"model": "broken", "prompt": "hello", "max_tokens": 5}).json()["usage"]["completion_tokens"] == 5
    assert s.stderr().count("draft module not used: ") == 1 and "dspark_block_size" in s.stderr(), s.stderr()
    f = Server(None, "--draft", "2", model=broken, expect_fail=True)
    assert f.p.returncode == 1 and "dspark_block_size" in f.stderr(), f.stderr()


run()
