"""The clients that each gateway serves, imported by a page of another origin in Chromium."""
import asyncio
import contextlib
import http.client
import http.server
import json
import threading

import pytest
from browser import open_page
from processes import ROOT
from prometheus import scrape
from services import TOKEN, push
from waiting import until

pytestmark = pytest.mark.xdist_group("chromium")

FILES = {
    "levels": [], "trades": ["session", "subscriber", "trades"], "channels": ["session", "subscriber", "channels"], "events": ["session", "events"],
}


class Empty(http.server.BaseHTTPRequestHandler):
    """A page without anything."""

    def do_GET(self):
        body = b"<!doctype html><title>empty</title><link rel=icon href=data:,>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def empty_page():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def ask(weirgate, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", weirgate.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


@pytest.fixture
def gateways(start_weirgate, redis_server, service):
    """Each gateway by its name, started when it is asked for."""
    def start(name):
        if name == "events":
            lobby = service(lambda asked: {"device": asked["client"]["device_id"]})
            return start_weirgate("events", "--lobby-url", lobby.url, env={"INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()
        if name == "levels":
            return start_weirgate("demo").wait_ready()
        return start_weirgate(name, redis=redis_server).wait_ready()
    return start


@pytest.mark.parametrize("name", FILES)
def test_a_gateway_serves_its_client_with_types_and_a_tag(gateways, name):
    weirgate = gateways(name)
    served = ["weirgate", "event-stream", *FILES[name]]
    for file in served:
        for path, kind in ((f"/{file}.js", "text/javascript"), (f"/{file}.d.ts", "text/plain")):
            status, headers, body = ask(weirgate, path, Origin="https://page.example")
            assert status == 200 and body == (ROOT / f"clients/js{path}").read_bytes(), path
            assert headers["content-type"] == f"{kind}; charset=utf-8" and headers["cache-control"] == "no-cache"
            assert headers["access-control-allow-origin"] == "*"
            status, again, body = ask(weirgate, path, If_None_Match=headers["etag"])
            assert (status, body, again["etag"]) == (304, b"", headers["etag"])
            assert ask(weirgate, path, "HEAD")[0] == 200
            status, headers, _ = ask(weirgate, path, "POST")
            assert status == 405 and "GET" in headers["allow"]
    others = {file for files in FILES.values() for file in files} - set(served)
    unknown = 426 if name == "trades" else 404
    assert {ask(weirgate, f"/{file}.js")[0] for file in others} <= {unknown}
    assert ask(weirgate, "/v1/weirgate.js")[0] == unknown


@contextlib.asynccontextmanager
async def proxy_without_upgrades(weirgate):
    """A port that leads to weirgate and answers requests for a WebSocket with 403; also a list with one entry for each."""
    refused, tasks = [], set()

    async def pipe(reader, writer):
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        if b"\r\nupgrade: websocket" in head.lower():
            refused.append(head)
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        inner, out = await asyncio.open_connection("127.0.0.1", weirgate.port)
        out.write(head)
        await asyncio.gather(pipe(reader, out), pipe(inner, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], refused
    finally:
        server.close()
        for task in tasks:
            task.cancel()


FALLBACK = """(async () => {
  const at = "127.0.0.1:%d";
  const [{ Levels }, { withFallback }] = await Promise.all(["weirgate", "event-stream"].map((name) => import(`http://${at}/${name}.js`)));
  globalThis.spots = new Set();
  globalThis.client = new Levels(`ws://${at}/ws/stream`, {
    WebSocket: withFallback(),
    onState: ({ levels }) => levels && spots.add(levels.es.spot),
  });
})()"""


async def test_a_page_behind_a_proxy_without_websockets_gets_fresh_states(start_weirgate):
    weirgate = start_weirgate("demo", "--rate-hz", "10").wait_ready()
    with empty_page() as url:
        async with proxy_without_upgrades(weirgate) as (port, refused), open_page(url) as page:
            await page.js(FALLBACK % port)
            await page.until("spots.size > 5 && client.status === 'open'", 20, "fresh prices")
            assert len(refused) == 1
            # The next attempt does not begin with a WebSocket.
            await page.js("spots.clear(), client.reconnect()")
            await page.until("spots.size > 1 && client.status === 'open'", 20, "fresh prices again")
            assert len(refused) == 1
            await page.js("client.close()")
            await until(lambda: scrape(weirgate).sum("weirgate_clients") == 0, 10, "the page has left")


IMPORT = """(async () => {
  const module = await import("http://127.0.0.1:%d/%s.js");
  const client = new module.%s("ws://127.0.0.1:%d%s", { %s: (value) => { globalThis.got = value; } });
  globalThis.client = client;
  return %s;
})()"""


async def imported(page, weirgate, module, name, path, callback, then):
    return await page.js(IMPORT % (weirgate.port, module, name, weirgate.port, path, callback, then))


async def test_a_page_gets_trades_with_the_module_of_the_gateway(gateways, redis_server):
    weirgate = gateways("trades")
    with empty_page() as url:
        async with open_page(url) as page:
            done = await imported(page, weirgate, "trades", "Trades", "/", "onTrade", 'await client.subscribe("aapl")')
            assert done["granted"] == ["AAPL"]
            redis_server.client().publish("channel:trade:AAPL", json.dumps({"price": 1.5}))
            await page.until("globalThis.got?.price === 1.5", 10, "a trade")
            assert page.problems == []


async def test_a_page_gets_messages_with_the_module_of_the_gateway(gateways, redis_server):
    weirgate = gateways("channels")
    with empty_page() as url:
        async with open_page(url) as page:
            done = await imported(page, weirgate, "channels", "Channels", "/ws", "onData", 'await client.subscribe("market:tick")')
            assert done["granted"] == ["market:tick"]
            redis_server.client().publish("market:tick", json.dumps({"n": 1}))
            await page.until("globalThis.got?.data.n === 1", 10, "a message")
            assert page.problems == []


async def test_a_page_gets_pushes_with_the_module_of_the_gateway(gateways):
    weirgate = gateways("events")
    with empty_page() as url:
        async with open_page(url) as page:
            then = 'await client.identify("d1"), await client.request("lobby.create", {})'
            assert await imported(page, weirgate, "events", "Devices", "/ws", "onPush", then) == {"device": "d1"}
            assert await asyncio.to_thread(push, weirgate, "lobby.updated", {"n": 1}, "d1") == (200, {"sent": 1})
            await page.until("globalThis.got?.data.n === 1", 10, "a push")
            assert page.problems == []
