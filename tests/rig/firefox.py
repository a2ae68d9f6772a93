"""Firefox without a window, driven over WebDriver BiDi, which it speaks itself: one page."""
import asyncio
import contextlib
import itertools
import json
import pathlib
import shutil
import tempfile
import time

import websockets
from processes import Process, StartError

# Nothing leaves this machine: no updates, no services of Mozilla, no proxy of the system.
PREFS = {
    "app.normandy.enabled": False, "app.update.auto": False, "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False, "browser.search.update": False, "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0, "datareporting.policy.dataSubmissionEnabled": False, "extensions.update.enabled": False,
    "extensions.systemAddon.update.enabled": False, "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False, "network.proxy.type": 0, "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
}


def firefox_binary():
    """Debian's Firefox."""
    path = shutil.which("firefox-esr") or shutil.which("firefox")
    if path is None:
        raise StartError("no Firefox: run `apt-get install -y firefox-esr`")
    return path


@contextlib.asynccontextmanager
async def open_page(url, hosts=()):
    """A page of a new Firefox with an empty profile, loaded; Firefox ends with the block. `hosts` are names that mean 127.0.0.1."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="weirgate-firefox-"))
    prefs = {**PREFS, "network.dns.localDomains": ",".join(hosts)}
    (folder / "user.js").write_text("".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in prefs.items()))
    process = Process([firefox_binary(), "--headless", "--no-remote", "--profile", folder, "--remote-debugging-port", "0", "about:blank"])
    try:
        async with websockets.connect(await bidi_url(process, folder), max_size=None, ping_interval=None) as link:
            page = Page(link)
            reading = asyncio.create_task(page.read())
            try:
                await page.begin()
                await page.goto(url)
                yield page
            finally:
                reading.cancel()
    finally:
        process.discard()
        shutil.rmtree(folder, ignore_errors=True)


async def bidi_url(process, folder, seconds=60):
    """Where Firefox listens; it writes that into its profile."""
    end, told = time.monotonic() + seconds, folder / "WebDriverBiDiServer.json"
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            where = json.loads(told.read_text())
            return f"ws://{where['ws_host']}:{where['ws_port']}/session"
        if not process.alive():
            break
        await asyncio.sleep(0.05)
    raise StartError(f"Firefox did not start\n{process.log_tail()}")


class Page:
    """One tab."""

    def __init__(self, link):
        self.link, self.numbers, self.answers, self.context = link, itertools.count(1), {}, None

    async def read(self):
        async for text in self.link:
            message = json.loads(text)
            if message.get("id") in self.answers:
                self.answers.pop(message["id"]).set_result(message)

    async def call(self, method, **params):
        """A command's result."""
        number = next(self.numbers)
        answer = self.answers[number] = asyncio.get_running_loop().create_future()
        await self.link.send(json.dumps({"id": number, "method": method, "params": params}))
        got = await asyncio.wait_for(answer, 60)
        assert got["type"] == "success", f"{method}: {got}"
        return got["result"]

    async def begin(self):
        await self.call("session.new", capabilities={})
        self.context = (await self.call("browsingContext.getTree"))["contexts"][0]["context"]

    async def goto(self, url):
        await self.call("browsingContext.navigate", context=self.context, url=url, wait="complete")

    async def js(self, expression):
        """The value of an expression, if it is none of an object; a promise is awaited."""
        got = await self.call("script.evaluate", expression=expression, target={"context": self.context}, awaitPromise=True)
        assert got["type"] == "success", f"{expression}: {got}"
        return got["result"].get("value")
