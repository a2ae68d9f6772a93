"""Floods of names that clients do not get, over WebSockets and event streams: all are counted, what the log, the state and the
memory take of them is bounded, and the other clients get what they subscribed to."""
import asyncio
import json
import pathlib
import re
import socket
import time
import urllib.request

import event_stream
from operated import Operated
from test_find import find, get, get_metrics
from waiting import until

A_SECOND = 1_000
SECONDS = 3
#: As in the log: at most so many lines a second, and one more for each second that has begun.
LINES_PER_SECOND = 10
ROWS_MAX, KEPT_OF_ONE_MAX = 20, 8
#: 20 clients, topics and names of 128 characters, escaped: the flood must not be seen in it.
STATE_BYTES_MAX = 64 * 1024
GROWTH_MAX = 8 * 1024 * 1024
#: No script of a page, no line of a log and no terminal may take these for more than text.
HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a\nWARN forged line", "a\x1b[2Jb", "a\u202egpj.exe", 'a"} 1\nforged 1', "\x00",
           "名" * 3_000, "y" * 60_000]


def resident_bytes(weirgate):
    status = pathlib.Path(f"/proc/{weirgate.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


class Bystander:
    """A client with a name that it may have, and a publisher of numbers."""

    def __init__(self, gateway, redis_server):
        self.gateway, self.redis = gateway, redis_server.client()
        self.got, self.said, self.is_over = [], 0, False

    async def __aenter__(self):
        self.ws, answer = await self.gateway.connect("bob", "news")
        assert answer["channels"] == ["news"]
        self.tasks = [asyncio.create_task(one()) for one in (self.read, self.speak)]
        return self

    async def read(self):
        async for text in self.ws:
            message = json.loads(text)
            if message["type"] == "data":
                self.got.append(message["data"])

    async def speak(self):
        while not self.is_over:
            await asyncio.to_thread(self.redis.publish, "news", str(self.said))
            self.said += 1
            await asyncio.sleep(0.05)

    async def __aexit__(self, kind, *_):
        self.is_over = True
        await self.tasks[1]
        if kind is None:
            await until(lambda: len(self.got) == self.said, 10, "every message for the others")
            assert self.got == list(range(self.said)) and self.said > 10
        self.tasks[0].cancel()
        await self.ws.close()


async def refused(gateway, count):
    """The state, once so many names are counted."""
    found = []

    def look():
        body = get(gateway.admin, "/operator/state")[1]
        found[:] = [body]
        return sum(body["names_refused"].values()) >= count
    await until(look, 20, f"{count} refused names")
    # The rows are those of a survey, one a second at most.
    for _ in range(2):
        await asyncio.sleep(1.2)
        look()
    body, = found
    assert sum(body["names_refused"].values()) == count, body["names_refused"]
    counted = {name: value for name, value in get_metrics(gateway.admin).items() if name.startswith("weirgate_names_refused_total")}
    assert sum(counted.values()) == count, counted
    assert len(json.dumps(body)) < STATE_BYTES_MAX and len(body["refused_names"]) <= ROWS_MAX, body
    return body


def lines_are_bounded(gateway, begun):
    """Whether the lines about names since `begun` are within the budget, and are lines. Returns them."""
    log = gateway.weirgate.log()
    lines = [line for line in log.splitlines() if "a name was refused" in line]
    assert len(lines) <= LINES_PER_SECOND * (time.monotonic() - begun + 2), f"{len(lines)} lines"
    assert all(len(line) < 2_000 for line in lines), max(lines, key=len)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", log) and "\nWARN forged" not in log
    return lines


async def test_one_client_that_asks_for_a_thousand_others_a_second(redis_server, start_weirgate, tmp_path):
    gateway = Operated(start_weirgate, tmp_path, redis_server.url)
    begun, asked = time.monotonic(), 0
    async with Bystander(gateway, redis_server):
        ws, _ = await gateway.connect("ann")

        async def flood(seconds):
            nonlocal asked
            for second in range(seconds):
                for _ in range(10):
                    names = [f"bad.{asked + n}" for n in range(A_SECOND // 10)]
                    asked += len(names)
                    await ws.send(json.dumps({"action": "subscribe", "channels": names}))
                    answer = json.loads(await ws.recv())
                    assert len(answer["errors"]) == len(names) and answer["channels"] == [], answer
                await asyncio.sleep(0.9)
        await flood(SECONDS)
        now = await refused(gateway, asked)
        assert [one["user"] for one in now["refused_names"]] == ["ann"] * KEPT_OF_ONE_MAX
        assert now["refused_names"][0]["name"] == f"bad.{asked - 1}"
        before = resident_bytes(gateway.weirgate)
        await flood(SECONDS)
        await refused(gateway, asked)
        assert resident_bytes(gateway.weirgate) - before < GROWTH_MAX
        found = await find(gateway.admin, user="ann")
        assert len(found["refused_names"]) == KEPT_OF_ONE_MAX and found["clients"][0]["cause"] == "refused_name"
        await ws.close()
    await asyncio.sleep(1.5)
    assert lines_are_bounded(gateway, begun)
    assert "lines_left_out" in gateway.weirgate.log()


async def test_names_that_are_long_or_no_text_for_a_terminal_or_a_page(redis_server, start_weirgate, tmp_path):
    gateway = Operated(start_weirgate, tmp_path, redis_server.url)
    begun = time.monotonic()
    async with Bystander(gateway, redis_server):
        ws, answer = await gateway.connect("<b>ann\u202e\x1b", *HOSTILE)
        assert len(answer["errors"]) == len(HOSTILE), answer
        now = await refused(gateway, len(HOSTILE))
        # As they were asked for, and cut: JSON escapes what is no text, and the page makes no elements of them.
        assert {row["name"] for row in now["refused_names"]} <= {name[:128] for name in HOSTILE}
        assert len(now["refused_names"]) == KEPT_OF_ONE_MAX
        raw = urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin}/operator/state", timeout=20).read().decode()
        assert not re.search(r"[\x00-\x1f\x7f]", raw) and len(raw) < STATE_BYTES_MAX
        found = await find(gateway.admin, "names", name="<script>")
        assert found["count"] == 0
        await ws.close()
    assert lines_are_bounded(gateway, begun)


def ask(port, address, path, sends):
    """The answers of an event stream from this address of the loopback network; it stays open until then."""
    link = socket.socket()
    link.bind((address, 0))
    link.connect(("127.0.0.1", port))
    stream = event_stream.Stream(port, path, sends=sends, link=link)
    assert stream.status == 200
    errors = 0
    for _ in sends:
        answer = stream.until(lambda message: message["type"] == "subscribed")
        errors += len(answer["errors"])
    stream.close()
    return errors


async def test_event_streams_from_many_addresses(redis_server, start_weirgate, tmp_path):
    gateway = Operated(start_weirgate, tmp_path, redis_server.url, "--event-stream")
    begun, streams, names = time.monotonic(), 300, 40
    async with Bystander(gateway, redis_server):
        ann, _ = await gateway.connect("ann", "mine")
        path = f"/ws?token={gateway.token('eve')}"

        def one(at):
            sends = [{"action": "subscribe", "channels": [f"bad.{at}.{part}.{n}" for n in range(names // 2)]} for part in range(2)]
            return ask(gateway.port, f"127.0.{1 + at // 200}.{1 + at % 200}", path, sends)
        total = 0
        for begin in range(0, streams, 30):
            total += sum(await asyncio.gather(*(asyncio.to_thread(one, at) for at in range(begin, begin + 30))))
        assert total == streams * names
        now = await refused(gateway, total + 1)
        assert len(now["refused_names"]) == ROWS_MAX
        # What is kept of the others is what has room: 16 addresses of eve.
        found = await find(gateway.admin, user="eve")
        assert len(found["refused_names"]) <= ROWS_MAX
        before = resident_bytes(gateway.weirgate)
        more = sum(await asyncio.gather(*(asyncio.to_thread(one, at) for at in range(60))))
        await refused(gateway, total + 1 + more)
        assert resident_bytes(gateway.weirgate) - before < GROWTH_MAX
        await ann.close()
    await asyncio.sleep(1.5)
    assert lines_are_bounded(gateway, begun)


async def test_many_clients_that_get_nothing(redis_server, start_weirgate, tmp_path):
    gateway = Operated(start_weirgate, tmp_path, redis_server.url)
    begun, users, names = time.monotonic(), 200, 100
    async with Bystander(gateway, redis_server):
        async def one(at):
            ws, answer = await gateway.connect(f"user{at}", *(f"bad.{at}.{n}" for n in range(names)))
            assert len(answer["errors"]) == names
            answered.append(at)
            return ws
        held, answered = [], []
        for begin in range(0, users, 20):
            held += await asyncio.gather(*(one(at) for at in range(begin, begin + 20)))
        now = await refused(gateway, users * names)
        assert len(now["refused_names"]) == ROWS_MAX
        # Each is told why it gets nothing, if its refusals are kept; the newest clients are.
        found = await find(gateway.admin, user=f"user{answered[-1]}")
        assert found["clients"][0]["cause"] == "refused_name" and len(found["refused_names"]) == KEPT_OF_ONE_MAX, found
        for ws in held:
            await ws.close()
    await asyncio.sleep(1.5)
    assert lines_are_bounded(gateway, begun)
