"""Real clients in two languages, with and without permessage-deflate: all get the same text."""
import asyncio
import contextlib
import json
import random

import websockets
from browser import open_page
from bus import publisher
from memory import memory_for
from processes import ROOT, node_binary
from prometheus import scrape
from waiting import until

STATES = [
    {"n": 0},
    {"n": 1, "text": "żółw 龍 🜁 \u0000 \" \\"},
    {"n": 2, "pad": "abc" * 50_000},
    {"n": 3, "list": list(range(5_000))},
    {"n": 4, "big": 12345678901234567890, "small": 1e-300},
    {"n": 5, "noise": "".join(chr(33 + (i * i * 7919 + i // 3) % 90) for i in range(70_000))},
    {"n": 6, "empty": {}},
]


async def python_client(url, compression, count=len(STATES)):
    """(extensions agreed on, texts) of the Python library."""
    async with websockets.connect(url, compression=compression, max_size=None) as ws:
        texts = [await asyncio.wait_for(ws.recv(), 20) for _ in range(count)]
        assert all(isinstance(text, str) for text in texts)
        return [e.name for e in ws.protocol.extensions], texts


async def node_client(url, encoding, count=len(STATES)):
    """The same of the package ws."""
    child = await asyncio.create_subprocess_exec(
        node_binary(), ROOT / "tests" / "node" / "collect.mjs", url, str(count), encoding,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 24)
    try:
        out, err = await asyncio.wait_for(child.communicate(), 30)
    except BaseException:
        child.kill()
        raise
    assert child.returncode == 0, err.decode()
    extensions, *texts = [json.loads(line) for line in out.decode().splitlines()]
    return [extensions.partition(";")[0]] if extensions else [], texts


async def test_compressed_clients_get_the_same_text_as_plain_ones(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    url = weirgate.ws_url
    running = [asyncio.create_task(c) for c in (
        python_client(url, None), python_client(url, "deflate"), node_client(url, "plain"), node_client(url, "deflate"))]
    try:
        await until(lambda: weirgate.health()["connections"] == 4, 10, "four clients")
        async with publisher(nats) as bus:
            for state in STATES:
                await bus.flow(state)
                await asyncio.sleep(0.05)
        plain, deflated, node_plain, node_deflated = await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
    assert [plain[0], node_plain[0]] == [[], []]
    assert [deflated[0], node_deflated[0]] == [["permessage-deflate"]] * 2
    assert [json.loads(text) for text in plain[1]] == [{"flow": state} for state in STATES]
    for texts in (deflated[1], node_plain[1], node_deflated[1]):
        assert texts == plain[1]


async def test_a_compressed_newcomer_gets_the_cached_state(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, websockets.connect(weirgate.ws_url) as early:
        await bus.flow(STATES[2])
        text = await asyncio.wait_for(early.recv(), 60)
        async with websockets.connect(weirgate.ws_url, max_size=None) as late:
            assert await asyncio.wait_for(late.recv(), 60) == text


class Raw:
    """A client that counts the bytes of its data frames, and sees whether each is compressed."""

    def __init__(self, reader, head):
        self.reader, self.head, self.bytes, self.uncompressed = reader, head, [], 0

    @classmethod
    async def connect(cls, port, offer, path="/ws/stream"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                     f"{offer}\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        raw = cls(reader, head.decode())
        raw.writer = writer
        return raw

    async def message(self):
        while True:
            first, length = await asyncio.wait_for(self.reader.readexactly(2), 20)
            wide = {126: 2, 127: 8}.get(length, 0)
            if wide:
                length = int.from_bytes(await self.reader.readexactly(wide))
            await self.reader.readexactly(length)
            if first & 0x08 == 0:
                self.bytes.append(2 + wide + length)
                self.uncompressed += first & 0x40 == 0
                return


def documents(count):
    """A book of prices of which a few change each time, and now and then most; short and long ones between."""
    draw = random.Random(4)
    book = [draw.randrange(10_000_000) for _ in range(700)]
    for n in range(count):
        for _ in range(draw.choice([1, 20, 20, 600])):
            book[draw.randrange(len(book))] = draw.randrange(10_000_000)
        shown = {7: book[:3], 8: book * 8}.get(n % 20, list(book))
        yield {"n": n, "book": shown}


COLLECT = """
(() => {
  window.texts = [];
  const socket = new WebSocket(%s);
  socket.onopen = () => { window.extensions = socket.extensions; };
  socket.onmessage = (event) => window.texts.push(event.data);
  socket.onclose = (event) => { window.closed = event.code; };
})()
"""


async def test_messages_that_refer_to_earlier_ones_inflate_in_three_clients(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    url, count = weirgate.ws_url, 120
    async with open_page(weirgate.http_url) as page, publisher(nats) as bus:
        await page.js(COLLECT % json.dumps(url))
        browser = await Raw.connect(weirgate.port, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n")
        running = [asyncio.create_task(c) for c in (
            python_client(url, None, count), python_client(url, "deflate", count), node_client(url, "deflate", count))]
        try:
            # The page itself is a client, too.
            await until(lambda: weirgate.health()["connections"] == 6, 20, "six clients")
            for state in documents(count):
                await bus.flow(state)
                await browser.message()
            plain, deflated, node = await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
        await page.until(f"texts.length >= {count}", 20, "all messages in Chromium")
        texts, extensions = await page.js("texts"), await page.js("extensions")
    assert [json.loads(text) for text in plain[1]] == [{"flow": state} for state in documents(count)]
    assert plain[0] == [] and deflated[0] == ["permessage-deflate"] and node[0] == ["permessage-deflate"]
    assert extensions == "permessage-deflate"  # nothing that was not offered: some clients fail on it
    assert deflated[1] == plain[1] and node[1] == plain[1] and texts == plain[1]
    assert "server_no_context_takeover" not in browser.head and browser.uncompressed == 0
    browser.writer.close()
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_deflate_encodings_total", kind="chained") > count / 2


async def test_the_demo_sends_browsers_a_twentieth(start_weirgate):
    demo = start_weirgate("demo", "--rate-hz", "20").wait_ready()
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    plain, browser = await Raw.connect(demo.port, ""), await Raw.connect(demo.port, offer)
    for _ in range(40):
        await plain.message()
        await browser.message()
    share = sum(browser.bytes[2:]) / sum(plain.bytes[2:])
    print(f"demo: {share:.1%} of the plain bytes")
    assert share <= 0.06
    for client in (plain, browser):
        client.writer.close()


REQUESTS = [json.dumps({"action": "subscribe", "channels": [f"market:tick:S{n % 40:03}"], "requestId": "x" * (n * 37 % 900)})
            for n in range(100)]

ASK = """
((url, requests) => {
  window.answers = [];
  const socket = new WebSocket(url);
  const next = () => requests.length > 0 && socket.send(requests.shift());
  socket.onopen = () => { window.extensions = socket.extensions; };
  let greeted = false;
  socket.onmessage = (event) => {
    if (greeted) window.answers.push(event.data);
    greeted = true;
    next();
  };
  socket.onclose = (event) => { window.closed = event.code; };
})(%s, %s)
"""


async def ask_in_python(url):
    async with websockets.connect(url, compression="deflate") as ws:
        await asyncio.wait_for(ws.recv(), 20)
        answers = []
        for request in REQUESTS:
            await ws.send(request)
            answers.append(await asyncio.wait_for(ws.recv(), 20))
        return ws.response.headers["Sec-WebSocket-Extensions"], answers


async def ask_in_node(url):
    child = await asyncio.create_subprocess_exec(
        node_binary(), ROOT / "tests" / "node" / "ask.mjs", url, "1", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 24)
    try:
        out, err = await asyncio.wait_for(child.communicate("\n".join(REQUESTS).encode()), 60)
    except BaseException:
        child.kill()
        raise
    assert child.returncode == 0, err.decode()
    extensions, *answers = [json.loads(line) for line in out.decode().splitlines()]
    return extensions, answers


def asked(answers):
    """What was answered, each request once and in its order."""
    answers = [json.loads(answer) for answer in answers]
    assert {answer["type"] for answer in answers} == {"subscribed"}
    return [{"action": "subscribe", "channels": answer["channels"], "requestId": answer["requestId"]} for answer in answers]


async def test_requests_that_refer_to_earlier_ones_are_read_from_three_clients(redis_server, start_weirgate):
    weirgate = start_weirgate("channels", redis=redis_server, env={"DEFAULT_ROLE": "internal"}).wait_ready()
    url = f"ws://127.0.0.1:{weirgate.port}/ws"
    async with open_page(weirgate.http_url + "/health") as page:
        await page.js(ASK % (json.dumps(url), json.dumps(REQUESTS)))
        python, node = await asyncio.gather(ask_in_python(url), ask_in_node(url))
        await page.until(f"answers.length >= {len(REQUESTS)}", 20, "all answers in Chromium")
        browser = await page.js("extensions"), await page.js("answers")
        metrics = scrape(weirgate)
    # Nothing that was not offered: some clients fail on it.
    for extensions, answers in (python, node, browser):
        assert extensions == "permessage-deflate"
        assert asked(answers) == [json.loads(request) for request in REQUESTS]
    # The browser is still connected.
    assert 0 < metrics.sum("weirgate_inflate_window_bytes") <= 32_768
    assert metrics.sum("weirgate_inflate_window_bytes_granted") == 32_768
    assert metrics.sum("weirgate_inflate_windows_refused_total") == 0


async def test_over_the_limit_of_all_clients_further_ones_are_told_and_nobody_is_closed(redis_server, start_weirgate):
    windows = 180
    memory = memory_for(windows * 32_768 + 1_000, 60)
    weirgate = start_weirgate("channels", "--memory-max", str(memory), redis=redis_server,
                              env={"DEFAULT_ROLE": "internal"}).wait_ready()
    url = f"ws://127.0.0.1:{weirgate.port}/ws"
    async with contextlib.AsyncExitStack() as stack:
        first, *_ = [await stack.enter_async_context(websockets.connect(url)) for _ in range(windows)]
        assert first.response.headers["Sec-WebSocket-Extensions"] == "permessage-deflate"
        for _ in range(2):
            extensions, answers = await ask_in_python(url)
            assert extensions == "permessage-deflate; client_no_context_takeover"
            assert asked(answers) == [json.loads(request) for request in REQUESTS]
        await first.recv()
        for request in REQUESTS[:3]:
            await first.send(request)
            assert json.loads(await asyncio.wait_for(first.recv(), 20))["type"] == "subscribed"
        await until(lambda: scrape(weirgate).sum("weirgate_inflate_windows_refused_total") == 2, 10, "weirgate_inflate_windows_refused_total")
    await until(lambda: scrape(weirgate).sum("weirgate_inflate_window_bytes_granted") == 0, 10, "the window is free again")
    assert (await ask_in_python(url))[0] == "permessage-deflate"
