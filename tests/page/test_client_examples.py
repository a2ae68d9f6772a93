"""The pages of clients/js/examples in Chromium, on a gateway of another origin."""
import asyncio
import contextlib
import functools
import http.server
import pathlib
import threading

import pytest
from browser import open_page
from processes import ROOT, free_port

pytestmark = pytest.mark.chromium

EXAMPLES, PACKAGES = ROOT / "clients/js/examples", ROOT / "tests/node/node_modules"


class Files(http.server.SimpleHTTPRequestHandler):
    """The examples, as if `npm install` had been run in their folders."""

    def translate_path(self, path):
        wanted = path.partition("?")[0].partition("/node_modules/")[2]
        if not wanted:
            return super().translate_path(path)
        package, _, file = wanted.partition("/")
        return str((ROOT / "clients/js" if package == "weirgate" else PACKAGES / package) / pathlib.PurePosixPath(file))

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served():
    """The URL of the examples."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(EXAMPLES)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


NUMBER = "/^[0-9.]+$/.test(document.getElementById('spot')?.textContent)"


@pytest.mark.parametrize(("path", "status"), [("page.html", "how"), ("dashboard/index.html", "status")])
async def test_an_example_shows_prices_and_how_it_is(start_weirgate, path, status):
    weirgate = start_weirgate("demo").wait_ready()
    with served() as url:
        async with open_page(f"{url}/{path}?gateway=127.0.0.1:{weirgate.port}") as page:
            await page.until(NUMBER, 10, "a price")
            assert await page.text(f"#{status}") == "open"
            before = await page.text("#spot")
            await page.until(f"document.getElementById('spot').textContent !== '{before}'", 10, "another price")
            if "dashboard" in path:
                assert await page.js("document.querySelectorAll('tbody tr').length") > 3
            weirgate.kill()
            await page.until(f"['waiting', 'connecting'].includes(document.getElementById('{status}').textContent)", 10, "the loss")
            problems = [one for one in page.problems if "favicon" not in one and "ws/stream" not in one]
            assert problems == []


NAMES = ["market:tick:A", "market:tick:B", "indicators:C"]
DRAWN = """(() => {
  globalThis.drawn = Object.fromEntries(%s.map((name) => [name, new Set()]));
  const look = () => Object.entries(drawn).forEach(([name, seen]) => seen.add(document.getElementById(name).textContent));
  new MutationObserver(look).observe(document, { subtree: true, childList: true, characterData: true });
})()""" % NAMES


async def publishing(redis_server, hz=20):
    """Publishes a number on each name, each in its own hundred thousand."""
    publish = redis_server.client().publish
    for n in range(100_000):
        for at, name in enumerate(NAMES, 1):
            publish(name, str(at * 100_000 + n))
        await asyncio.sleep(1 / hz)


@pytest.mark.parametrize("path", ["channels/react.html", "channels/vue.html"])
async def test_a_page_opened_before_the_gateway_draws_each_of_its_three_names(start_weirgate, redis_server, path):
    port = free_port()
    with served() as url:
        async with open_page(f"{url}/{path}?gateway=127.0.0.1:{port}&names={','.join(NAMES)}") as page:
            await page.js(DRAWN)
            await page.until("document.querySelectorAll('b').length === 3", 10, "three components")
            assert await page.text("#root b") == "–"
            start_weirgate("channels", redis=redis_server, env={"REDIS_WS_GATEWAY_PORT": str(port)})
            task = asyncio.create_task(publishing(redis_server))
            await page.until("Object.values(drawn).every((seen) => seen.size > 40)", 30, "40 values of each name")
            task.cancel()
            seen = await page.js("Object.values(drawn).map((seen) => [...seen].filter((text) => text !== '–').map(Number))")
            for at, values in enumerate(seen, 1):
                assert values == sorted(values) and {value // 100_000 for value in values} == {at}
            problems = [one for one in page.problems if "favicon" not in one and f":{port}" not in one]
            assert problems == []
