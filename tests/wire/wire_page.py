"""wire_page.py: the page in headless Chromium: streams, thinking, keys, dark and light, a phone's width, nothing asked of anybody else.

Where there is no Chromium the suite is skipped, and says so; with HD_NEED_BROWSER set that is a failure.
"""
import sys

import browser
from wire import *

if not browser.PROGRAM:
    print("not ok 1 - no Chromium" if os.environ.get("HD_NEED_BROWSER") else "ok 1 - the page in a browser # SKIP no Chromium is installed")
    shutil.rmtree(TMP)
    sys.exit(1 if os.environ.get("HD_NEED_BROWSER") else 0)

EVIL = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
RUNS = [
    {"when": "slowly", "text": "I wonder.</think>" + "one two three four " * 10 + EOS, "delay_ms": 8},
    {"when": "for ever", "text": "</think>" + "on and on " * 1000, "delay_ms": 5},
    {"when": "markup", "text": "</think>" + EVIL + " and `code`:\n```c\nint x = 1 < 2;\n```\n" + EOS},
    {"when": "wide", "text": "W" * 300 + "</think>" + "w" * 400 + "\n```\n" + "c" * 400 + "\n```\n" + EOS},
    {"when": "full house", "text": "", "refuse": "full", "retry_s": 1},
    {"text": "Let me think.</think>Hello there" + EOS},
]
s = Server({"n_ctx": 200000, "runs": RUNS})
locked = Server({"n_ctx": 200000, "runs": RUNS}, "--api-key", "sekret", "--thinking", "off")
b = browser.Browser()
LAST = "document.querySelector('#talk article:last-of-type')"
IDLE = "document.getElementById('send').textContent === 'Send' && document.querySelectorAll('#talk article.assistant').length === %d"


def home(server, **look):
    b.look(**look)
    b.open(server_url(server))
    b.until("/tokens of context|wants an API key/.test(document.getElementById('facts').textContent)")


def server_url(server):
    return "http://127.0.0.1:%d/" % server.port


def ask(text, n, wait=True):
    b.js("document.getElementById('text').focus()")
    b.type(text)
    b.key("Enter")
    if wait:
        b.until(IDLE % n)


def bodies():
    return [json.loads(t) for t in b.bodies if t and "messages" in t]


@case("an answer streams in, thinking is shown folded, and what it cost; the next request has the conversation")
def _():
    home(s)
    assert b.js("document.activeElement.id") == "text" and s.name in b.js("document.getElementById('facts').textContent")
    ask("slowly please", 1, wait=False)
    seen = set()
    b.until(LAST + ".querySelector('.content').textContent.length > 0")
    while b.js("document.getElementById('send').textContent") == "Stop":
        seen.add(b.js(LAST + ".querySelector('.content').textContent.length"))
    assert len(seen) >= 3, seen
    assert b.js(LAST + ".querySelector('.content').textContent").strip() == ("one two three four " * 10).strip()
    assert b.js(LAST + ".querySelector('.thought').textContent") == "I wonder." and b.js(LAST + ".querySelector('details').hidden") is False
    b.js(LAST + ".querySelector('summary').focus()")
    b.key("Enter")
    assert b.until(LAST + ".querySelector('details').open") and b.js(LAST + ".querySelector('.thought').offsetHeight > 0")
    assert "tokens read" in b.js(LAST + ".querySelector('.speed').textContent")
    ask("and now", 2)
    roles = [m["role"] for m in bodies()[-1]["messages"]]
    assert roles == ["user", "assistant", "user"] and bodies()[-1]["reasoning_effort"] == "high", bodies()[-1]


@case("what the model writes is text: no markup of its own; code is shown as code")
def _():
    home(s)
    ask("markup", 1)
    assert b.js(LAST + ".querySelectorAll('img, script').length") == 0 and b.js("document.title") == "hadal"
    assert EVIL in b.js(LAST + ".querySelector('.content').textContent")
    assert b.js(LAST + ".querySelector('code').textContent") == "code" and b.js(LAST + ".querySelector('pre').textContent") == "int x = 1 < 2;\n"


@case("keys alone: Shift+Enter is a new line, Escape stops, Tab reaches everything and shows where it is, Alt+N starts over")
def _():
    home(s)
    b.type("a")
    b.key("Enter", browser.SHIFT)
    assert b.js("document.getElementById('text').value") == "a\n" and b.js("document.querySelectorAll('article').length") == 0
    b.js("document.getElementById('text').value = ''")
    ask("for ever", 1, wait=False)
    b.until(LAST + ".querySelector('.content').textContent.length > 20")
    b.key("Escape")
    b.until(IDLE % 1)
    assert b.js(LAST + ".querySelector('.speed').textContent") == "stopped"
    assert wait_for(lambda: s.running() == 0, 2)
    reached = set()
    for _ in range(24):
        b.key("Tab")
        reached.add(b.js("document.activeElement.id || document.activeElement.tagName"))
        if b.js("document.activeElement.tagName") == "SUMMARY" and not b.js("document.getElementById('settings').open"):
            b.key("Enter")
        if b.js("document.activeElement !== document.body"):
            assert b.js("getComputedStyle(document.activeElement).outlineStyle") != "none", b.js("document.activeElement.outerHTML")
    assert {"text", "send", "new", "SUMMARY", "effort", "temperature", "max", "system", "key"} <= reached, reached
    b.key("n", browser.ALT)
    assert b.js("document.querySelectorAll('article').length") == 0 and b.js("document.activeElement.id") == "text"


def contrast(fg, bg):
    def light(rgb):
        v = [x / 255 for x in rgb]
        v = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in v]
        return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]
    a, c = sorted([light(fg), light(bg)])
    return (c + 0.05) / (a + 0.05)


def rgb(expression):
    return [float(x) for x in b.js(expression).strip("rgba()").split(",")[:3]]


@case("dark and light as the system has it, readable in both")
def _():
    pages = {}
    for scheme in ["light", "dark"]:
        home(s, scheme=scheme)
        ask("hello", 1)
        bg = rgb("getComputedStyle(document.body).backgroundColor")
        pages[scheme] = sum(bg)
        mine = rgb("getComputedStyle(document.querySelector('article.user')).backgroundColor")
        for what, behind in [("document.body", bg), ("document.getElementById('facts')", bg), ("document.querySelector('.speed')", bg), ("document.querySelector('article.user')", mine), ("document.getElementById('send')", bg)]:
            assert contrast(rgb("getComputedStyle(%s).color" % what), behind) >= 4.5, (scheme, what)
    assert pages["dark"] < 200 < 600 < pages["light"], pages


@case("a phone's width: nothing is cut off or scrolls sideways, long words and code neither; the field is at hand")
def _():
    for width in [320, 390]:
        home(s, width=width, height=700)
        ask("wide " + "x" * 200, 1)
        b.js(LAST + ".querySelector('details').open = true")
        b.js("document.getElementById('settings').open = true")
        assert b.js("document.documentElement.scrollWidth") <= width, width
        for e in ["text", "send", "new", "effort", "key"]:
            box = b.js("(r => [r.left, r.right, r.top, r.bottom])(document.getElementById('%s').getBoundingClientRect())" % e)
            assert box[0] >= 0 and box[1] <= width and box[2] >= 0 and box[3] <= 700, (width, e, box)
        assert b.js(LAST + ".getBoundingClientRect().right") <= width
    home(s)


@case("a failure is said in the server's words, and the question can be asked again")
def _():
    home(s)
    ask("full house", 1)
    assert b.js(LAST + ".querySelector('.speed').classList.contains('error')") and b.js(LAST + ".querySelector('.speed').textContent")
    ask("hello", 2)
    assert [m["content"] for m in bodies()[-1]["messages"]] == ["hello"]


@case("a key: asked for, kept for the session and nowhere else; thinking starts as the server has it")
def _():
    home(locked)
    assert "API key" in b.js("document.getElementById('facts').textContent")
    b.js("document.getElementById('settings').open = true; document.getElementById('key').focus()")
    b.type("sekret")
    b.key("Tab")
    b.until("document.getElementById('facts').textContent.includes('tokens of context')")
    assert b.js("document.getElementById('effort').value") == "none"
    ask("hello", 1)
    assert bodies()[-1]["reasoning_effort"] == "none"
    assert b.js("sessionStorage.getItem('key')") == "sekret" and b.js("localStorage.length") == 0 and b.js("document.cookie") == ""
    home(locked)
    assert "tokens of context" in b.js("document.getElementById('facts').textContent")


@case("nobody else was asked anything, nothing was complained of, and the policy would have stopped it")
def _():
    own = [server_url(s), server_url(locked), "data:", "about:blank"]
    assert len(b.requests) > 20 and all(any(u.startswith(o) for o in own) for u in b.requests), [u for u in b.requests if not u.startswith("http://127.0.0.1")][:5]
    known = [t for t in b.troubles if "401" not in t and "429" not in t]
    assert not known, known
    home(s)
    assert b.js("fetch(%s).then(() => 'went', () => 'stopped')" % json.dumps(server_url(locked) + "health")) == "stopped"
    assert b.js("new Promise(r => { const i = new Image(); i.onload = i.onerror = () => r(i.naturalWidth); i.src = %s; })" % json.dumps(server_url(locked) + "x.png")) == 0


try:
    run()
finally:
    b.close()
