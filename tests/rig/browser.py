"""Chromium without a window, driven over its DevTools protocol: one page, what it asked for and what it complained of."""
import asyncio
import base64
import contextlib
import itertools
import json
import pathlib
import shutil
import tempfile
import time
import urllib.parse

import websockets
from processes import Process, StartError

# Nothing leaves this machine: no updates, no sync, and names that the test does not give do not resolve. Without the
# sandbox, which needs rights that containers lack: it loads only our own page.
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--remote-debugging-port=0",
]
KEYS = {"Tab": 9, "Enter": 13, " ": 32}


def chromium_binary():
    """Debian's Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise StartError("no Chromium: run `scripts/install-test-deps.sh` (Debian package chromium)")
    return path


@contextlib.asynccontextmanager
async def open_page(url, width=1440, height=900, scheme="light", reduced_motion=False, hosts=()):
    """A page of a new Chromium with an empty profile, loaded; Chromium ends with the block. `hosts` are names that mean 127.0.0.1."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-chromium-"))
    rules = ", ".join([*(f"MAP {host} 127.0.0.1" for host in hosts), "MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1"])
    process = Process([chromium_binary(), *FLAGS, f"--host-resolver-rules={rules}", f"--user-data-dir={folder}", "about:blank"])
    try:
        async with websockets.connect(await devtools_url(process, folder), max_size=None, ping_interval=None) as link:
            page = Page(link)
            reading = asyncio.create_task(page.read())
            try:
                await page.attach()
                await page.resize(width, height)
                await page.media(scheme, reduced_motion)
                await page.goto(url)
                yield page
            finally:
                reading.cancel()
    finally:
        process.discard()
        shutil.rmtree(folder, ignore_errors=True)


async def devtools_url(process, folder, seconds=30):
    """Where Chromium listens; it writes that into its profile."""
    end, told = time.monotonic() + seconds, folder / "DevToolsActivePort"
    while time.monotonic() < end:
        lines = told.read_text().split() if told.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        if not process.alive():
            break
        await asyncio.sleep(0.05)
    raise StartError(f"Chromium did not start\n{process.log_tail()}")


class Page:
    """One tab. `requests` are all URLs that it asked for; `problems` its errors and warnings."""

    def __init__(self, link):
        self.link, self.numbers, self.answers = link, itertools.count(1), {}
        self.session = None
        self.requests, self.problems, self.loaded = [], [], asyncio.Event()

    async def read(self):
        async for text in self.link:
            message = json.loads(text)
            if "id" in message:
                self.answers.pop(message["id"]).set_result(message)
            elif message.get("sessionId") == self.session:
                self.event(message["method"], message["params"])

    def event(self, method, params):
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def call(self, method, **params):
        """A DevTools command's result."""
        number = next(self.numbers)
        self.answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        answer = self.answers[number]
        await self.link.send(json.dumps(message))
        got = await asyncio.wait_for(answer, 30)
        assert "error" not in got, f"{method}: {got['error']}"
        return got["result"]

    async def attach(self):
        targets = (await self.call("Target.getTargets"))["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            await self.call(f"{domain}.enable")

    async def goto(self, url):
        self.loaded.clear()
        got = await self.call("Page.navigate", url=url)
        assert "errorText" not in got, f"{url}: {got['errorText']}"
        await asyncio.wait_for(self.loaded.wait(), 30)

    async def resize(self, width, height):
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    async def media(self, scheme, reduced_motion=False):
        features = [{"name": "prefers-color-scheme", "value": scheme},
                    {"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def js(self, expression):
        """The value of an expression; a promise is awaited."""
        got = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in got, f"{expression}: {got['exceptionDetails']}"
        return got["result"].get("value")

    async def text(self, selector):
        return await self.js(f"document.querySelector({json.dumps(selector)}).textContent")

    async def until(self, expression, seconds, what):
        """Returns once the expression is true; the seconds that it took."""
        begin = time.monotonic()
        while not await self.js(f"Boolean({expression})"):
            assert time.monotonic() - begin < seconds, f"not within {seconds} s: {what}"
            await asyncio.sleep(0.05)
        return time.monotonic() - begin

    async def press(self, key):
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        typed = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
        await self.call("Input.dispatchKeyEvent", type="keyDown", **common, **typed)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def screenshot(self, path, whole=False, of=None):
        """The window, the `whole` page, or the element that a selector finds."""
        more = {}
        if of:
            box = await self.js(f"(({{ x, y, width, height }}) => [x + scrollX, y + scrollY, width, height])(document.querySelector({json.dumps(of)}).getBoundingClientRect())")
            more = {"clip": {**dict(zip(("x", "y", "width", "height"), box)), "scale": 1}}
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=bool(whole or of), **more)
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))

    def hosts(self):
        """Hosts that were asked for anything; `data:` has none."""
        return {urllib.parse.urlsplit(url).netloc for url in self.requests} - {""}
