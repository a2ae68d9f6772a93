"""Chromium and Firefox without a window, each driven over the browser's native protocol: one page."""
import asyncio
import atexit
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
from waiting import patient

# Nothing leaves this machine: no updates, no sync, no services of Google or Mozilla, no proxy of the system. Chromium without
# the sandbox, which needs rights that containers lack: Chromium loads only the test's own page.
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--remote-debugging-port=0",
]
PREFS = {
    "app.normandy.enabled": False, "app.update.auto": False, "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False, "browser.search.update": False, "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0, "datareporting.policy.dataSubmissionEnabled": False, "extensions.update.enabled": False,
    "extensions.systemAddon.update.enabled": False, "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False, "network.proxy.type": 0, "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
}
KEYS = {"Tab": 9, "Enter": 13, " ": 32}
START_S = 20


class Navigated(AssertionError):
    """The page went away while a command was under way."""


class Page:
    """A tab. A subclass is a browser with a protocol; `session` is the protocol's addition to each command. A browser that
    `STAYS` serves all pages of the program, each with an empty profile of its own; of another each page has one."""

    def __init__(self, link):
        self.link, self.numbers, self.answers, self.session = link, itertools.count(1), {}, {}

    async def read(self):
        async for text in self.link:
            message = json.loads(text)
            if answer := self.answers.pop(message.get("id"), None):
                answer.set_result(message)
            elif "method" in message:
                self.event(message["method"], message["params"])

    def event(self, method, params):
        """Takes an event from the browser."""

    async def call(self, method, **params):
        """A command's result."""
        number = next(self.numbers)
        answer = self.answers[number] = asyncio.get_running_loop().create_future()
        await self.link.send(json.dumps({"id": number, "method": method, "params": params, **self.session}))
        got = await asyncio.wait_for(answer, patient(START_S))
        if "navigated" in got.get("error", {}).get("message", ""):
            raise Navigated(f"{method}: {got}")
        assert "result" in got, f"{method}: {got}"
        return got["result"]

    async def js(self, expression):
        """The value of an expression; a promise is awaited."""
        got = await self.evaluate(expression)
        assert "exceptionDetails" not in got, f"{expression}: {got['exceptionDetails']}"
        return got["result"].get("value")

    async def text(self, selector):
        return await self.js(f"document.querySelector({json.dumps(selector)}).textContent")

    async def is_true(self, expression):
        """False too while the page loads anew."""
        try:
            return await self.js(f"Boolean({expression})")
        except Navigated:
            return False

    async def until(self, expression, seconds, what):
        """Waits until the expression is true; returns the seconds waited."""
        begin = time.monotonic()
        while not await self.is_true(expression):
            took = time.monotonic() - begin
            assert took < patient(seconds), f"not within {took:.0f} s: {what}"
            await asyncio.sleep(0.05)
        return time.monotonic() - begin


class Chromium(Page):
    """A tab over DevTools. `requests` are all requested URLs; `problems` all errors and warnings; `key_exchanges` the
    groups of all TLS connections that answered."""
    PROGRAMS, PACKAGE, PORT_FILE = ("chromium", "chromium-browser"), "chromium", "DevToolsActivePort"
    # A start costs a second of CPU time.
    STAYS = True

    def __init__(self, link):
        super().__init__(link)
        self.requests, self.problems, self.key_exchanges = [], [], set()
        self.loaded, self.has_loaded = set(), asyncio.Event()

    @staticmethod
    def arguments(folder, hosts):
        # Names not given by the test do not resolve.
        rules = ", ".join([*(f"MAP {host} 127.0.0.1" for host in hosts), "MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1"])
        return [*FLAGS, f"--host-resolver-rules={rules}", f"--user-data-dir={folder}"]

    @staticmethod
    def url(told):
        port, path = told.split()
        return f"ws://127.0.0.1:{port}{path}"

    def event(self, method, params):
        if method == "Page.lifecycleEvent" and params["name"] == "load":
            self.loaded.add(params["loaderId"])
            self.has_loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.responseReceived" and "securityDetails" in params["response"]:
            self.key_exchanges.add(params["response"]["securityDetails"].get("keyExchangeGroup"))
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def begin(self, width=1440, height=900, scheme="light", reduced_motion=False):
        # Cookies, stores, cache and connections of its own, and gone with the link.
        context = (await self.call("Target.createBrowserContext", disposeOnDetach=True))["browserContextId"]
        target = (await self.call("Target.createTarget", url="about:blank", browserContextId=context, newWindow=True))["targetId"]
        self.session = {"sessionId": (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.setLifecycleEventsEnabled", enabled=True)
        await self.resize(width, height)
        await self.media(scheme, reduced_motion)

    async def goto(self, url):
        """Returns once this page has loaded: the browser's first page may load late, and takes no command with it."""
        got = await self.call("Page.navigate", url=url)
        assert "errorText" not in got, f"{url}: {got['errorText']}"
        async with asyncio.timeout(patient(START_S)):
            while got["loaderId"] not in self.loaded:
                self.has_loaded.clear()
                await self.has_loaded.wait()

    async def evaluate(self, expression):
        """The handle keeps a promise: one that only DevTools awaits may be collected before it is settled."""
        got = await self.call("Runtime.evaluate", expression=expression)
        handle = got["result"].get("objectId")
        if handle is None or "exceptionDetails" in got:
            return got
        if got["result"].get("subtype") == "promise":
            return await self.call("Runtime.awaitPromise", promiseObjectId=handle, returnByValue=True)
        return await self.call("Runtime.callFunctionOn", objectId=handle, functionDeclaration="function() { return this; }", returnByValue=True)

    async def resize(self, width, height):
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    async def media(self, scheme, reduced_motion=False):
        features = [{"name": "prefers-color-scheme", "value": scheme},
                    {"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def press(self, key):
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        typed = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
        await self.call("Input.dispatchKeyEvent", type="keyDown", **common, **typed)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def accessible(self):
        """The nodes that a screen reader gets. Asked for when it is wanted: kept up to date, they cost a page that moves a tenth of its time."""
        return (await self.call("Accessibility.getFullAXTree"))["nodes"]

    async def screenshot(self, path, **what):
        """Saves a `picture`."""
        pathlib.Path(path).write_bytes(await self.picture(**what))

    async def picture(self, whole=False, of=None):
        """A PNG of the window, of the `whole` page, or of the element that a selector finds."""
        more = {}
        if of:
            box = await self.js(f"(({{ x, y, width, height }}) => [x + scrollX, y + scrollY, width, height])(document.querySelector({json.dumps(of)}).getBoundingClientRect())")
            more = {"clip": {**dict(zip(("x", "y", "width", "height"), box)), "scale": 1}}
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=bool(whole or of), **more)
        return base64.b64decode(shot["data"])

    def hosts(self):
        """Hosts of all requests; `data:` has no host."""
        return {urllib.parse.urlsplit(url).netloc for url in self.requests} - {""}


class Firefox(Page):
    """A tab over WebDriver BiDi. `js` returns no objects."""
    PROGRAMS, PACKAGE, PORT_FILE = ("firefox-esr", "firefox"), "firefox-esr", "WebDriverBiDiServer.json"
    STAYS = False

    @staticmethod
    def arguments(folder, hosts):
        prefs = {**PREFS, "network.dns.localDomains": ",".join(hosts)}
        (folder / "user.js").write_text("".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in prefs.items()))
        return ["--headless", "--no-remote", "--profile", folder, "--remote-debugging-port", "0"]

    @staticmethod
    def url(told):
        return "ws://{ws_host}:{ws_port}/session".format(**json.loads(told))

    async def begin(self):
        await self.call("session.new", capabilities={})
        self.context = (await self.call("browsingContext.getTree"))["contexts"][0]["context"]

    async def goto(self, url):
        await self.call("browsingContext.navigate", context=self.context, url=url, wait="complete")

    async def evaluate(self, expression):
        return await self.call("script.evaluate", target={"context": self.context}, expression=expression, awaitPromise=True)


# The browsers that stay, by their arguments.
running = {}


class Running:
    """A browser that runs, and its address; `discard` ends it."""

    def __init__(self, folder, process, url):
        self.folder, self.process, self.url = folder, process, url

    def discard(self):
        self.process.discard()
        self.folder.cleanup()


async def running_browser(browser, hosts):
    """A browser that runs, maybe one that ran before."""
    key = tuple(browser.arguments(pathlib.Path(), hosts)) if browser.STAYS else None
    if key in running and running[key].process.alive():
        return running[key]
    program = next(filter(None, map(shutil.which, browser.PROGRAMS)), None)
    if program is None:
        raise StartError(f"no {browser.__name__}: run `scripts/apt-install.sh {browser.PACKAGE}`")
    folder = tempfile.TemporaryDirectory(prefix="weirgate-browser-", ignore_cleanup_errors=True)
    path = pathlib.Path(folder.name)
    started_now = Running(folder, *await started(lambda: Process([program, *browser.arguments(path, hosts), "about:blank"]), browser, path))
    if browser.STAYS:
        running[key] = started_now
        atexit.register(started_now.discard)
    return started_now


@contextlib.asynccontextmanager
async def open_page(page_url, browser=Chromium, hosts=(), **more):
    """A page with an empty profile, loaded; it ends with the block. `hosts` are names for 127.0.0.1, `more` is for `begin`."""
    at = await running_browser(browser, hosts)
    try:
        async with websockets.connect(at.url, max_size=None, ping_interval=None) as link:
            page = browser(link)
            reading = asyncio.create_task(page.read())
            try:
                await page.begin(**more)
                await page.goto(page_url)
                yield page
            finally:
                reading.cancel()
    finally:
        if not browser.STAYS:
            at.discard()


async def started(start, browser, folder):
    """A browser that runs, and its address. On a machine without a process to spare a browser ends at its own start: once more."""
    for tries_left in (1, 0):
        process = start()
        try:
            return process, await browser_url(process, browser, folder)
        except StartError:
            process.discard()
            if not tries_left:
                raise
        await asyncio.sleep(1)


async def browser_url(process, browser, folder):
    """The address of the browser, written into the profile by the browser."""
    end = time.monotonic() + patient(START_S)
    while process.alive() and time.monotonic() < end:
        # No file yet, or a part of it.
        with contextlib.suppress(OSError, ValueError):
            return browser.url((folder / browser.PORT_FILE).read_text())
        await asyncio.sleep(0.05)
    raise StartError(f"{browser.__name__} did not start\n{process.log_tail()}")
