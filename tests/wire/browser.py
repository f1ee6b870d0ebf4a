"""browser.py: headless Chromium over the DevTools protocol's pipe; only the standard library.

A Browser has one tab. do() sends a command and returns its result; js() evaluates an expression; key() presses one; requests holds the addresses of
whatever the tab has asked for, troubles what its console complained of.
"""
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

PROGRAM = next((p for p in map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]) if p), None)
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), " ": (32, " "), "n": (78, "n"), "End": (35, "")}
ALT, SHIFT = 1, 8


class Browser:
    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="hadal-browser-")
        down, up = os.pipe(), os.pipe()
        quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--disable-default-apps", "--disable-extensions", "--mute-audio", "--no-default-browser-check", "--disable-features=Translate,OptimizationHints,MediaRouter"]

        def plumb():                  # the browser reads 3 and writes 4
            os.dup2(os.dup(down[0]), 103)
            os.dup2(os.dup(up[1]), 104)
            os.dup2(103, 3)
            os.dup2(104, 4)
        self.p = subprocess.Popen([PROGRAM, *quiet, "--remote-debugging-pipe", "--user-data-dir=" + self.home, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  preexec_fn=plumb, pass_fds=(3, 4), env=dict(os.environ, HOME=self.home))
        os.close(down[0])
        os.close(up[1])
        self.to, self.of, self.buf, self.n, self.session = down[1], up[0], b"", 0, None
        self.requests, self.bodies, self.troubles = [], [], []
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.do(domain + ".enable")

    def message(self, seconds):
        while b"\0" not in self.buf:
            if not select.select([self.of], [], [], seconds)[0]:
                return None
            got = os.read(self.of, 1 << 16)
            if not got:
                raise EOFError("the browser has gone")
            self.buf += got
        one, self.buf = self.buf.split(b"\0", 1)
        m = json.loads(one)
        self.note(m.get("method"), m.get("params", {}))
        return m

    def note(self, method, p):
        if method == "Network.requestWillBeSent":
            self.requests.append(p["request"]["url"])
            self.bodies.append(p["request"].get("postData"))
        if method == "Runtime.exceptionThrown":
            self.troubles.append(p["exceptionDetails"].get("exception", {}).get("description") or p["exceptionDetails"]["text"])
        if method == "Log.entryAdded" and p["entry"]["level"] == "error":
            self.troubles.append(p["entry"]["text"])

    def do(self, method, **params):
        self.n += 1
        m = {"id": self.n, "method": method, "params": params}
        if self.session:
            m["sessionId"] = self.session
        os.write(self.to, json.dumps(m).encode() + b"\0")
        while True:
            m = self.message(60)
            assert m, method + ": no answer"
            if m.get("id") == self.n:
                assert "error" not in m, (method, m["error"])
                return m["result"]

    def js(self, expression):
        r = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in r, (expression, r["exceptionDetails"])
        return r["result"].get("value")

    def until(self, expression, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            v = self.js(expression)
            if v:
                return v
            time.sleep(0.02)
        raise AssertionError("never so: " + expression + "; the page says: " + str(self.js("document.body.innerText"))[-600:])

    def open(self, url):
        self.do("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href.startsWith(%s)" % json.dumps(url))

    def key(self, name, modifiers=0):
        code, text = KEYS[name]
        event = {"key": name, "code": "Key" + name.upper() if len(name) == 1 and name != " " else name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.do("Input.dispatchKeyEvent", type="keyDown" if text and modifiers != ALT else "rawKeyDown", **dict(event, **({"text": text} if text and modifiers != ALT else {})))
        self.do("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text):
        self.do("Input.insertText", text=text)

    def look(self, scheme="light", width=1280, height=800):
        self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def close(self):
        try:
            self.session = None
            self.do("Browser.close")
        except (AssertionError, OSError, EOFError):
            pass
        try:
            self.p.wait(10)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        os.close(self.to)
        os.close(self.of)
        shutil.rmtree(self.home, ignore_errors=True)
