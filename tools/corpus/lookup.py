"""Things told and asked for: the recall curriculum of hadal-nano. Keys and values are drawn anew every time, so only who finds them in the text can answer.

document(rng, sentences, most) -> a line of a corpus, of about `most` words at the utmost: a conversation ({"messages"}), or a text that
goes on with questions and answers ({"prompt", "completion"}). sentences: what the facts are hidden in.
"""
import re

import word
from skills import OKAY, turn
from word import a, cap

ADJECTIVES = """old new big small red blue green yellow white black brown pink golden silver wooden stone iron glass broken clean dirty dark bright quiet loud cold warm wet dry high low long
short wide narrow round flat soft hard heavy light empty full open closed first second third last northern southern eastern western upper lower young tall thin thick sweet sour sharp smooth rough
deep rich poor wild calm brave clever funny happy sad angry tired famous secret lost hidden strange simple royal holy grey crooked rusty dusty frozen burning distant lonely proud gentle lazy
plain striped copper marble velvet wandering sleeping dancing painted forgotten""".split()
NOUNS = """house garden river bridge tower castle church school shop market street road hill mountain valley forest field farm barn mill well lake sea island beach harbour ship boat train station
tree flower rose apple pear bread cake cheese soup book letter map key door window table chair bed lamp clock mirror picture box basket bag bottle cup bowl knife spoon coat hat shoe scarf ring
crown coin sword shield drum bell flute piano violin kite ball doll puzzle bicycle wagon wheel rope ladder hammer nail saw brush pen pencil paper candle fire stone rock sand cloud star moon sun
dog cat horse cow sheep goat pig hen duck goose owl crow swan eagle fox wolf bear lion tiger monkey mouse rabbit frog fish whale snake spider bee ant king queen prince knight farmer baker
doctor teacher sailor painter singer gardener hunter miner judge office library museum theatre hotel kitchen cellar attic room hall gate wall fence roof tent cave nest pond path park
camera radio engine machine robot rocket planet temple palace prison hospital bakery factory orchard meadow desert canyon glacier lantern compass telescope""".split()
ATTRIBUTES = "code number password key secret word price name owner colour age weight address letter answer sign symbol date time room guard friend colour code number".split()
SYLLABLES = "ba be bo da de di do fa fi fo ga go ka ke ki ko la le li lo lu ma me mi mo mu na ne ni no pa pe pi po ra re ri ro ru sa se si so ta te ti to tu va ve vi vo za ze zo".split()
CITIES = "Paris London Rome Berlin Madrid Vienna Lisbon Athens Cairo Tokyo Oslo Dublin Prague Delhi Lima Quito Boston Sydney Geneva Moscow".split()
SUBJECTS = "The teacher|A traveller|My neighbour|The old clock|A cat|The river|The train|A painter|Somebody|The wind|A little bird|The man with the hat|Two children|Nobody|The music|An old woman|The mayor".split("|")
VERBS = "waited near|walked slowly to|turned towards|stayed close to|could be seen from|was remembered in|passed|looked at|stood behind|came from|slept beside|spoke about|liked".split("|")
OBJECTS = "the open field|the long road|the fence|the quiet square|the edge of the wood|the kitchen window|the winter garden|the market|the next village|a pile of leaves|the water|the last house|the school".split("|")


def sentences(texts):
    """Those of texts, side by side, without the longest and the shortest."""
    return [s for t in texts for s in map(str.strip, re.findall(r"[^.?!]+[.?!]+[\"']?", " ".join(t.split()))) if 2 < len(s.split()) < 30]


def made_up(rng):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4)))


def digits(rng):
    n = rng.choice([1, 2, 2, 3, 3, 4, 4, 4, 4, 5, 6])
    return str(rng.randint(10 ** (n - 1), 10**n - 1))


def four(rng):
    return str(rng.randint(1000, 9999))


VALUES = [digits, digits, digits, four, four, made_up, lambda r: cap(made_up(r)), lambda r: r.choice(word.BOYS + word.GIRLS), lambda r: r.choice(word.COLORS), lambda r: r.choice(NOUNS),
          lambda r: f"{r.choice(ADJECTIVES)} {r.choice(NOUNS)}", lambda r: r.choice("ABCDEFGHKLMNPRSTUVWXYZ") + digits(r), lambda r: r.choice(CITIES), lambda r: f"{r.randint(1, 12)}:{r.randint(0, 59):02}"]


def key(rng):
    return rng.choice([lambda: f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"] * 4 + [lambda: rng.choice(NOUNS), lambda: made_up(rng), lambda: f"{rng.choice(NOUNS)} {digits(rng)}"])()


def of_thing(rng, attribute, v):
    k = key(rng)
    return k, f"The {attribute} of the {k} is {v}.", f"What is the {attribute} of the {k}?", f"The {attribute} of the {k} is", f" {v}."


def of_person(rng, attribute, v):
    who = rng.choice(word.BOYS + word.GIRLS)
    return who, f"{who}'s {attribute} is {v}.", f"What is {who}'s {attribute}?", f"{who}'s {attribute} is", f" {v}."


def has(rng, _, v):
    who, what = rng.choice(word.BOYS + word.GIRLS), a(f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" if rng.random() < 0.4 else rng.choice(NOUNS))
    verb, does = rng.choice([("has", "have"), ("sees", "see"), ("wants", "want"), ("likes", "like"), ("lost", "lose"), ("found", "find"), ("bought", "buy")])
    return who, f"{who} {verb} {what}.", f"What {'did' if verb in ('lost', 'found', 'bought') else 'does'} {who} {does}?", f"{who} {verb}", f" {what}."


def lives(rng, _, v):
    who, city = rng.choice(word.BOYS + word.GIRLS), rng.choice(CITIES)
    verb, does = rng.choice([("lives in", "live"), ("works in", "work"), ("was born in", None)])
    return who, f"{who} {verb} {city}.", f"Where does {who} {does}?" if does else f"Where was {who} born?", f"{who} {verb}", f" {city}."


def opens(rng, attribute, v):
    k = key(rng)
    return k, f"To open the {k}, say {v}.", f"What do I say to open the {k}?", f"To open the {k}, say", f" {v}."


def means(rng, _, v):
    w = made_up(rng)
    v = rng.choice(NOUNS)
    return w, f"The word {w} means {v}.", f"What does {w} mean?", f"The word {w} means", f" {v}."


def row(rng, _, v):
    k = key(rng)
    return k, f"{k}: {v}", f"{k}?", f"{k}:", f" {v}"


SECRET = ["secret number", "magic word", "password", "code", "secret word", "number", "answer", "lucky number", "room number", "phone number"]


def secret(rng, _, v):
    what = rng.choice(SECRET)
    the, ask = rng.choice([("The", "the"), ("My", "my"), ("The", "the")])
    said = {"The": "The", "My": "Your"}[the]
    return what, f"{the} {what} is {v}.", f"What is {ask} {what}?", f"{said} {what} is", f" {v}."


def facts(rng, n):
    """n facts, keys of their own: (what is told, question, how the answer begins, how it ends). Mostly of one kind, and their values too, which is the harder."""
    kinds = [of_thing] * 5 + [of_person, has, lives, opens, means, row, secret]
    one = rng.choice(kinds) if rng.random() < 0.7 else None
    value = rng.choice(VALUES) if rng.random() < 0.7 else None
    attribute = rng.choice(ATTRIBUTES)
    out, used = [], set()
    for _ in range(20 * n):
        if len(out) == n:
            break
        k, *f = (one or rng.choice(kinds))(rng, attribute if rng.random() < 0.9 else rng.choice(ATTRIBUTES), (value or rng.choice(VALUES))(rng))
        if k not in used:
            used.add(k)
            out.append(f)
    return out


def hay(rng, sentences, n_word):
    """Sentences of about so many words: one text's neighbours, or made of three parts."""
    out, n = [], 0
    at = rng.randrange(len(sentences))
    own = rng.random() < 0.4
    while n < n_word:
        s = f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}." if own else sentences[at % len(sentences)]
        at += 1
        out.append(s)
        n += len(s.split())
    return out


def told(rng, sentences, fs, n_word):
    """The facts in some hay, and where they stand in the order of telling."""
    text = hay(rng, sentences, n_word) if n_word > 4 else []
    at = sorted(rng.randint(0, len(text)) for _ in fs)
    for i, f in reversed(list(zip(at, fs))):
        text.insert(i, f[0])
    return ("\n" if fs[0][2].endswith(":") else " ").join(text)


def spread(rng, most):
    """A number of words, as often between 20 and 40 as between 200 and 400."""
    return int(20 * (most / 20) ** rng.random())


def conversation(rng, sentences, most):
    n_word = spread(rng, most)
    fs = facts(rng, rng.randint(1, max(1, min(16, n_word // 12))))
    text = told(rng, sentences, fs, (n_word - 10 * len(fs)) * (rng.random() < 0.8))
    asked = rng.sample(fs, min(len(fs), rng.randint(1, 6)))
    say = lambda f: f[2] + f[3] if rng.random() < 0.85 or f[3].strip() == "" else cap(f[3].strip())
    q = asked[0]
    k = rng.random()
    if k < 0.5:
        m = turn(f"{text}{rng.choice([' ', chr(10), chr(10) + chr(10)])}{q[1]}", q[2] + q[3])
    elif k < 0.65:
        m = turn(f"{q[1]}\n\n{text}", q[2] + q[3])
    elif k < 0.75:
        m = turn(f"Read this text. {text}\n\nQuestion: {q[1]}", q[2] + q[3])
    else:
        m = turn(rng.choice(["Please remember this: ", "", "", "Read this: "]) + text, rng.choice(OKAY), q[1], q[2] + q[3])
    for f in asked[1:]:
        m += turn(f[1], f[2] + f[3])
    return {"messages": m}


def passage(rng, sentences, most):
    """Text that goes on: questions behind it, each with its answer; learned from the first answer on."""
    n_word = spread(rng, most)
    fs = facts(rng, rng.randint(1, max(1, min(20, n_word // 12))))
    text = told(rng, sentences, fs, n_word - 10 * len(fs))
    asked = rng.sample(fs, min(len(fs), rng.randint(1, 8)))
    lead = rng.random() < 0.15                                     # no question, the sentence begins again
    lines = [(f[2] if lead else f"{f[1]} {f[2]}", f[3]) for f in asked]
    out = lines[0][1]
    for q, r in lines[1:]:
        out += f"\n{q}{r}"
    return {"prompt": f"{text}\n{lines[0][0]}", "completion": out}


def again(rng, sentences, most):
    """Words that come a second time, in the order in which they came."""
    n = rng.randint(3, max(4, min(60, most // 5)))
    words = [rng.choice([lambda: rng.choice(NOUNS), lambda: rng.choice(ADJECTIVES), lambda: made_up(rng), lambda: digits(rng), lambda: rng.choice(word.BOYS + word.GIRLS)])() for _ in range(n)]
    if rng.random() < 0.3:
        words = rng.choice(sentences).split()
    text = " ".join(words)
    if rng.random() < 0.5:
        return {"messages": turn(rng.choice(["Say: {}", "Repeat this: {}", "Please say this again: {}", "Copy these words: {}", "Repeat after me: {}", "{}\n\nRepeat the text above."]).format(text), text)}
    rest = hay(rng, sentences, spread(rng, most // 2)) if rng.random() < 0.3 else []
    k = rng.randint(1, min(3, n - 1))
    return {"prompt": "\n".join([text, " ".join(rest), " ".join(words[:k])]) if rest else "\n".join([text, " ".join(words[:k])]), "completion": "".join(" " + w for w in words[k:])}


def document(rng, sentences, most):
    return rng.choices([conversation, passage, again], [50, 40, 10])[0](rng, sentences, most)
