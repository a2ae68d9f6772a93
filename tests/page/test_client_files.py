"""The clients that each gateway serves, imported by a page of another origin in Chromium."""
import asyncio
import contextlib
import functools
import gzip
import http.client
import http.server
import json
import re
import shutil
import socket
import subprocess
import threading

import pytest
from browser import open_page
from processes import ROOT, node_binary
from prometheus import scrape
from services import TOKEN, push
from waiting import until

pytestmark = pytest.mark.chromium

# The file of each gateway's client.
FILES = {"levels": "weirgate", "trades": "trades", "channels": "channels", "events": "events"}
# With the modules that each imports, which come first.
MODULES = {"weirgate": ["weirgate"], "trades": ["weirgate", "session", "subscriber", "trades"],
           "channels": ["weirgate", "session", "subscriber", "channels"], "events": ["weirgate", "session", "events"],
           "event-stream": ["event-stream"]}
# Bytes that a browser loads at most.
SIZES = {"weirgate": 4_000, "trades": 10_300, "channels": 10_600, "events": 5_100, "event-stream": 3_400}


EMPTY = "<!doctype html><title>empty</title><link rel=icon href=data:,>"


class Empty(http.server.BaseHTTPRequestHandler):
    """A page without anything."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(EMPTY)))
        self.end_headers()
        self.wfile.write(EMPTY.encode())

    def log_message(self, *_):
        pass


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder."""

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def listening(handler):
    """The URL of a server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
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


def types_of(file):
    """The declarations of a client's modules as one file."""
    text = "".join((ROOT / f"clients/js/{name}.d.ts").read_text() for name in MODULES[file])
    return re.sub(r"^(import|export \{) .*\n", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", FILES)
def test_a_gateway_serves_its_client_as_one_file_with_types_and_a_tag(gateways, name):
    weirgate = gateways(name)
    own = FILES[name]
    for file in (own, "event-stream"):
        for end, kind in (("js", "text/javascript"), ("d.ts", "text/plain")):
            path = f"/{file}.{end}"
            status, headers, body = ask(weirgate, path, Origin="https://page.example")
            wanted = (ROOT / f"clients/js/served{path}").read_text() if end == "js" else types_of(file)
            assert status == 200 and body.decode() == wanted, path
            assert headers["content-type"] == f"{kind}; charset=utf-8" and headers["cache-control"] == "no-cache"
            assert headers["access-control-allow-origin"] == "*" and headers["vary"] == "Accept-Encoding"
            status, again, body = ask(weirgate, path, If_None_Match=headers["etag"])
            assert (status, body, again["etag"]) == (304, b"", headers["etag"])
            assert ask(weirgate, path, "HEAD")[0] == 200
            status, headers, _ = ask(weirgate, path, "POST")
            assert status == 405 and "GET" in headers["allow"]
    others = {"weirgate", "session", "subscriber", "trades", "channels", "events"} - {own}
    unknown = 426 if name == "trades" else 404
    assert {ask(weirgate, f"/{file}.js")[0] for file in others} == {unknown}
    assert ask(weirgate, f"/v1/{own}.js")[0] == unknown


@pytest.mark.parametrize("name", FILES)
def test_the_sizes_in_the_documents_are_the_sizes_on_the_wire(gateways, name):
    weirgate = gateways(name)
    document = (ROOT / "docs/reference/clients.md").read_text()
    for file in (FILES[name], "event-stream"):
        plain = ask(weirgate, f"/{file}.js")
        status, headers, body = ask(weirgate, f"/{file}.js", Accept_Encoding="gzip, deflate, br, zstd")
        assert status == 200 and headers["content-encoding"] == "gzip" and headers["vary"] == "Accept-Encoding"
        assert gzip.decompress(body) == plain[2] and headers["content-length"] == str(len(body))
        assert len(body) <= SIZES[file]
        row = re.search(rf"^\|.*`/{file}\.js`.*\| ([0-9.]+) kB", document, re.MULTILINE)
        assert abs(float(row[1]) * 1_000 - len(body)) <= 250, f"/{file}.js has {len(body)} bytes"
        # Each form has its tag: only who has this form gets a 304.
        assert headers["etag"] != plain[1]["etag"]
        for known, status in ((headers["etag"], 304), (f"W/{headers['etag']}", 304), (plain[1]["etag"], 200)):
            answer = ask(weirgate, f"/{file}.js", Accept_Encoding="gzip", If_None_Match=known)
            assert (answer[0], answer[1]["vary"]) == (status, "Accept-Encoding")
        status, head, none = ask(weirgate, f"/{file}.js", "HEAD", Accept_Encoding="gzip")
        assert (status, head["content-length"], head["content-encoding"], none) == (200, str(len(body)), "gzip", b"")
        for refused in ("gzip;q=0", "br", "identity, gzip;q=0.5"):
            status, headers, body = ask(weirgate, f"/{file}.js", Accept_Encoding=refused)
            assert "content-encoding" not in headers and body == plain[2]


def test_an_old_proxy_gets_both_forms(gateways):
    weirgate = gateways("levels")
    plain = ask(weirgate, "/weirgate.js")[2]
    for accept, encoding in (("", None), ("Accept-Encoding: gzip\r\n", b"gzip")):
        with socket.create_connection(("127.0.0.1", weirgate.port), 10) as client:
            client.sendall(f"GET /weirgate.js HTTP/1.0\r\n{accept}\r\n".encode())
            answer = b"".join(iter(lambda: client.recv(65_536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 ") and b"transfer-encoding" not in head.lower()
        assert (b"content-encoding: gzip" in head.lower()) == (encoding is not None)
        assert (gzip.decompress(body) if encoding else body) == plain


@pytest.fixture
def served(gateways, tmp_path):
    """A folder like `clients`, with the served files in place of the modules of `clients/js`."""
    js = tmp_path / "js"
    shutil.copytree(ROOT / "clients/js/test", js / "test")
    shutil.copytree(ROOT / "clients/conformance", tmp_path / "conformance")
    (js / "package.json").write_text('{"type":"module"}')
    # These are not served, and need no other module.
    for name in ("latency", "status"):
        shutil.copy(ROOT / "clients/js" / f"{name}.js", js)
    for name, file in FILES.items():
        weirgate = gateways(name)
        for end in ("js", "d.ts"):
            (js / f"{file}.{end}").write_bytes(ask(weirgate, f"/{file}.{end}")[2])
    return tmp_path


def test_the_served_files_pass_the_cases_and_their_types_hold_in_node(served):
    cases = served / "js/test/conformance.test.mjs"
    done = subprocess.run([node_binary(), "--test", "--test-reporter=tap", cases], capture_output=True, text=True)
    assert done.returncode == 0 and int(re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)[1]) > 100, done.stdout[-5_000:]
    (served / "js/use.ts").write_text("""
        import { connect, Levels, RequestError as OfLevels } from "./weirgate.js";
        import { Trades, RequestError as OfTrades } from "./trades.js";
        import { Channels, RequestError } from "./channels.js";
        import { Devices } from "./events.js";
        const channels = new Channels<{ n: number }>("ws://localhost/ws", { onData: ({ data }) => data.n.toFixed() });
        channels.subscribe("a").catch((error: RequestError) => error.code);
        export const all = [connect, Levels, Trades, Devices, OfLevels, OfTrades];
    """)
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]
    compiler = ROOT / "tests/node/node_modules/typescript/bin/tsc"
    done = subprocess.run([node_binary(), compiler, *options, served / "js/use.ts"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# What the cases need of Node, for a worker of a browser.
OF_NODE = {
    "test": """
        export const cases = [];
        export const test = (name, run) => cases.push([name, run]);""",
    "fs": """
        export const readdirSync = () => %s;
        export function readFileSync(url) {
          const request = new XMLHttpRequest();
          request.open("GET", url, false);
          request.send();
          return request.responseText;
        }""",
    "assert": """
        const same = (a, b) => {
          if (Object.is(a, b)) return true;
          if (typeof a !== "object" || typeof b !== "object" || !a || !b || Array.isArray(a) !== Array.isArray(b)) return false;
          const keys = Object.keys(a);
          return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
        };
        const fail = (...what) => { throw new Error(what.map((one) => JSON.stringify(one)).join(" is not ")); };
        const ok = (value, message) => value || fail(message);
        const deepEqual = (a, b) => same(a, b) || fail(a, b);
        const equal = (a, b) => Object.is(a, b) || fail(a, b);
        const throws = (run) => {
          try { run(); } catch { return; }
          fail("nothing thrown");
        };
        export default { ok, equal, deepEqual, throws };""",
    "worker": """
        import { cases } from "./test.mjs";
        await import("../conformance.test.mjs");
        const failed = [];
        for (const [name, run] of cases) {
          try { await run(); } catch (error) { failed.push(`${name}: ${error.message}`); }
        }
        postMessage({ count: cases.length, failed });""",
}


async def test_the_served_files_pass_the_cases_in_a_worker_of_chromium(served):
    """A worker, because the cases have a `document` of their own, and a page cannot replace its document."""
    test = served / "js/test"
    for file in [test / "conformance.test.mjs", test / "expectations.mjs"]:
        file.write_text(re.sub(r'"node:(\w+)[/\w]*"', r'"./node/\1.mjs"', file.read_text()))
    names = json.dumps([path.name for path in (served / "conformance").glob("*.json")])
    (test / "node").mkdir()
    for name, text in OF_NODE.items():
        (test / f"node/{name}.mjs").write_text(text % names if name == "fs" else text)
    (served / "index.html").write_text(EMPTY)
    with listening(functools.partial(Quiet, directory=str(served))) as url:
        async with open_page(url) as page:
            done = await page.js("""new Promise((resolve, reject) => {
              const worker = new Worker("/js/test/node/worker.mjs", { type: "module" });
              worker.onmessage = ({ data }) => resolve(JSON.stringify(data));
              worker.onerror = ({ message }) => reject(new Error(message));
            })""")
            done = json.loads(done)
            assert done["failed"] == [] and done["count"] > 100


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
    with listening(Empty) as url:
        async with open_page(url) as page:
            done = await imported(page, weirgate, "trades", "Trades", "/", "onTrade", 'await client.subscribe("aapl")')
            assert done["granted"] == ["AAPL"]
            redis_server.client().publish("channel:trade:AAPL", json.dumps({"price": 1.5}))
            await page.until("globalThis.got?.price === 1.5", 10, "a trade")
            assert page.problems == []


async def test_a_page_gets_messages_with_the_module_of_the_gateway(gateways, redis_server):
    weirgate = gateways("channels")
    with listening(Empty) as url:
        async with open_page(url) as page:
            done = await imported(page, weirgate, "channels", "Channels", "/ws", "onData", 'await client.subscribe("market:tick")')
            assert done["granted"] == ["market:tick"]
            redis_server.client().publish("market:tick", json.dumps({"n": 1}))
            await page.until("globalThis.got?.data.n === 1", 10, "a message")
            assert page.problems == []


async def test_a_page_gets_pushes_with_the_module_of_the_gateway(gateways):
    weirgate = gateways("events")
    with listening(Empty) as url:
        async with open_page(url) as page:
            then = 'await client.identify("d1"), await client.request("lobby.create", {})'
            assert await imported(page, weirgate, "events", "Devices", "/ws", "onPush", then) == {"device": "d1"}
            assert await asyncio.to_thread(push, weirgate, "lobby.updated", {"n": 1}, "d1") == (200, {"sent": 1})
            await page.until("globalThis.got?.data.n === 1", 10, "a push")
            assert page.problems == []
