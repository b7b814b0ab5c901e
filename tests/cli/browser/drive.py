# SPDX-License-Identifier: Apache-2.0
"""Opens a page in headless Chromium over its debugging pipe and checks it as a reader meets it.

drive.py BROWSER PAGE [SHOTS]   every check; with SHOTS, pictures of the page are left there
drive.py BROWSER --self-test    pages with one fault each: every check must find its own
"""
import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

LIMIT = 60  # seconds for any answer: a machine under load is slow to start a browser

# Text by text: its colour against what lies behind it, as WCAG 2 computes it.
PROBE = r"""(() => {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d", {willReadFrequently: true});
  canvas.width = canvas.height = 1;
  const seen = new Map();
  const rgba = css => {
    if (seen.has(css)) return seen.get(css);
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = css; pen.fillRect(0, 0, 1, 1);
    const d = pen.getImageData(0, 0, 1, 1).data, v = [d[0], d[1], d[2], d[3] / 255];
    seen.set(css, v); return v;
  };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = c => { const v = c.slice(0, 3).map(x => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const page = getComputedStyle(document.documentElement).colorScheme.includes("dark") && matchMedia("(prefers-color-scheme:dark)").matches && !matchMedia("print").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
  const known = new Map();  // what lies behind an element, and how much of it shows through
  const around = e => {
    if (!e) return {back: page, opacity: 1};
    if (!known.has(e)) {
      const s = getComputedStyle(e), p = around(e.parentElement);
      known.set(e, {back: over(rgba(s.backgroundColor), p.back), opacity: p.opacity * parseFloat(s.opacity), clipped: p.clipped || s.clipPath !== "none"});
    }
    return known.get(e);
  };
  const behind = e => around(e).back;
  const faint = [], checked = [0];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.closest("script,style,title,.skip")) continue;
    const s = getComputedStyle(e), svg = e.closest("svg");
    const back = behind(svg ? svg.parentElement : e), ink = rgba(svg ? s.fill : s.color).slice();
    ink[3] *= around(e).opacity;
    const a = light(over(ink, back)), b = light(back), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    checked[0]++;
    if (ratio < 4.5) faint.push(ratio.toFixed(2) + " " + (e.getAttribute("class") || e.tagName) + ": " + walk.currentNode.data.trim().slice(0, 40));
  }
  const wide = [], width = document.documentElement.clientWidth;
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest(".skip,script,style") || e.closest("svg") && e.tagName !== "svg") continue;
    const r = e.getBoundingClientRect();
    if (r.right <= width + 1 || around(e).clipped) continue;  // clipped by intent: a table head that its cells repeat
    if (r.width > 0) wide.push(Math.round(r.right) + " " + e.tagName + "." + e.className + " " + (e.textContent || "").trim().slice(0, 30));
  }
  const marks = [];
  for (const e of document.querySelectorAll(".swatch,svg .line,svg circle,svg g path,svg g rect,svg .bar,svg .lost")) {
    const s = getComputedStyle(e), css = e.classList.contains("swatch") ? s.backgroundColor : s.stroke !== "none" ? s.stroke : s.fill;
    if (e.classList.contains("raw")) continue;
    const back = behind(e.closest("svg") ? e.closest("svg").parentElement : e.parentElement);
    const a = light(over(rgba(css), back)), b = light(back), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 3) marks.push(ratio.toFixed(2) + " " + (e.getAttribute("class") || e.tagName) + " " + css);
  }
  return {texts: checked[0], faint, marks: [...new Set(marks)], wide, scroll: document.documentElement.scrollWidth, inner: window.innerWidth,
          folded: document.querySelectorAll("details:not([open])").length};
})()"""


class Browser:
    def __init__(self, program):
        self.home = tempfile.mkdtemp()
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()

        def pipes():  # the browser reads commands from 3 and writes to 4
            keep = os.dup(to_browser), os.dup(from_browser)
            high = [os.dup2(fd, 200 + i, inheritable=True) for i, fd in enumerate(keep)]
            os.dup2(high[0], 3, inheritable=True), os.dup2(high[1], 4, inheritable=True)

        # Whatever it wants from elsewhere goes to a port where nobody listens; that it wants it is what the checks see.
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={self.home}", "--disable-gpu",
             "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars",
             "--disable-component-update", "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=pipes, start_new_session=True)
        os.close(to_browser), os.close(from_browser)
        self.buffer, self.number, self.events = b"", 0, []

    def receive(self, until):
        while b"\0" not in self.buffer:
            if not select.select([self.read_end], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self.read_end, 1 << 20)
            if not part:
                raise EOFError("the browser has ended")
            self.buffer += part
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, session=None, **params):
        self.number += 1
        message = dict(id=self.number, method=method, params=params, **({"sessionId": session} if session else {}))
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write_end, data):]
        until = time.monotonic() + LIMIT
        while True:
            answer = self.receive(until)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait(self, method, session):
        until = time.monotonic() + LIMIT
        while not any(e.get("method") == method and e.get("sessionId") == session for e in self.events):
            self.events.append(self.receive(until))

    def close(self):
        try:
            self.call("Browser.close")
        except (RuntimeError, TimeoutError, EOFError, OSError):
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)


class Page:
    """One tab with the page loaded at a width, in a scheme, for a medium, with scripts or without."""

    def __init__(self, browser, url, width=1280, scheme="light", media="screen", scripts=True):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        browser.events.clear()
        self.call("Page.navigate", url=url)
        browser.wait("Page.loadEventFired", self.session)
        self.loaded = url

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def run(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"])[:400])
        return result["result"].get("value")

    def text(self):
        """All text, shown or folded, as the document holds it now."""
        return self.run("(() => { const b = document.body.cloneNode(true); b.querySelectorAll('script,style').forEach(e => e.remove()); return b.textContent.replace(/\\s+/g, ' '); })()")

    def messages(self):
        """What went to the console, and what was asked for from anywhere."""
        self.run("0")
        out = []
        for e in self.browser.events:
            if e.get("sessionId") != self.session:
                continue
            p = e.get("params", {})
            if e["method"] == "Runtime.exceptionThrown":
                out.append("console: " + p["exceptionDetails"].get("exception", {}).get("description", p["exceptionDetails"]["text"]))
            elif e["method"] == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
                out.append("console: " + p["type"])
            elif e["method"] == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
                out.append("console: " + p["entry"]["text"])
            elif e["method"] == "Network.requestWillBeSent":
                url = p["request"]["url"]
                if not url.startswith("data:") and url.split("#")[0] != self.loaded:
                    out.append("request: " + url[:200])
        return out

    def shot(self, path, height=None):
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = dict(x=0, y=0, width=size["width"], height=min(size["height"], height or 12000), scale=1)
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def close(self):
        self.call("Page.close")


VIEWS = {"light": dict(), "dark": dict(scheme="dark"), "narrow": dict(width=420), "print": dict(width=718, media="print", scheme="dark"),
         "no scripts": dict(scripts=False)}


def check(browser, url, shots=None, only=None):
    """Faults of the page, as text."""
    faults, texts = [], {}
    for name, view in VIEWS.items():
        if only and name not in only:
            continue
        page = Page(browser, url, **view)
        faults += [f"{name}: {m}" for m in page.messages()]
        texts[name] = page.text()
        if shots:
            page.shot(f"{shots}/{name.replace(' ', '_')}.png")
            page.shot(f"{shots}/{name.replace(' ', '_')}_first.png", 900)
        folded = page.run("document.querySelectorAll('details:not([open])').length")
        if name != "print":  # what is folded must be readable too; print must show it by itself
            page.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        found = page.run(PROBE)
        if found["texts"] < 3:
            faults.append(f"{name}: hardly any text")
        faults += [f"{name}: faint text: {f}" for f in found["faint"][:8]]
        faults += [f"{name}: faint mark: {f}" for f in found["marks"][:8]]
        if found["scroll"] > found["inner"] or name.startswith("narrow") and found["wide"]:
            faults.append(f"{name}: {found['scroll']} pixels in a window of {found['inner']}: {found['wide'][:4]}")
        if name == "print" and folded:
            hidden = page.run("[...document.querySelectorAll('details:not([open])')].filter(d => d.getBoundingClientRect().height < d.querySelector('summary').getBoundingClientRect().height + 8).length")
            if hidden:
                faults.append(f"print: {hidden} of {folded} folded parts stay hidden")
        if shots and name == "print":
            data = page.call("Page.printToPDF", printBackground=False, preferCSSPageSize=False, paperWidth=8.27, paperHeight=11.69)["data"]
            pathlib.Path(f"{shots}/report.pdf").write_bytes(base64.b64decode(data))
        page.close()
    for name, text in texts.items():
        if text != texts.get("light", text):
            faults.append(f"{name}: other content than in light")
    return faults


SELF_TEST = [
    (("light",), "console", "<script>undefined_function()</script>"),
    (("light",), "request", "<img src='http://192.0.2.1/x.png'>"),
    (("light",), "faint text", "<p style='color:#888'>grey</p>"),
    (("narrow",), "narrow:", "<div style='width:600px'>wide</div>"),
    (("light",), "faint mark", "<svg><g style='fill:#eee;stroke:#eee'><circle r='3'/></g></svg>"),
    (("print",), "stay hidden", "<style>@media print{details::details-content{display:none}}</style><details><summary>s</summary><p>never printed</p></details>"),
    (("light", "no scripts"), "other content", "<script>document.body.append('only with scripts')</script>"),
]
FRAME = "<!doctype html><meta name='viewport' content='width=device-width'><link rel='icon' href='data:,'><body style='background:#fff;color:#000'><h1>one</h1><p>two</p><p>three</p>"


def main():
    browser = Browser(sys.argv[1])
    begin = time.monotonic()
    try:
        if sys.argv[2] == "--self-test":
            with tempfile.TemporaryDirectory() as folder:
                file = pathlib.Path(folder, "page.html")
                for views, wanted, body in SELF_TEST:
                    file.write_text(FRAME + body)
                    faults = check(browser, file.as_uri(), only=views)
                    if not any(wanted in f for f in faults):
                        sys.exit(f"FAILED: a page with this is not found at fault: {body}: {faults}")
                file.write_text(FRAME)
                if faults := check(browser, file.as_uri(), only=("light",)):
                    sys.exit(f"FAILED: a plain page is found at fault: {faults}")
            print(f"ok: {len(SELF_TEST)} faulty pages are found, {time.monotonic() - begin:.1f} s")
            return
        faults = check(browser, pathlib.Path(sys.argv[2]).resolve().as_uri(), sys.argv[3] if len(sys.argv) > 3 else None)
        print(*faults, sep="\n")
        if faults:
            sys.exit(f"FAILED: {len(faults)} faults of the page")
        print(f"ok: light, dark, narrow, print, without scripts: {time.monotonic() - begin:.1f} s")
    finally:
        browser.close()


main()
