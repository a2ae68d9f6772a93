"""`"last":"all"` on a raw event stream, read as an EventSource reads it: each kept message once, over reloads and new processes."""
import asyncio
import hashlib
import json
import urllib.parse

import nats as nats_client
import pytest
from processes import free_port

COUNT = 10_000
NAME = {"redis": "answer:7", "jetstream": "answer.7"}


def payload(n):
    """20 bytes to 20 kB."""
    text = f"{n:06} " + hashlib.sha256(str(n).encode()).hexdigest() * 320
    return text[:20_000 if n % 50 == 0 else 20]


class Page:
    """Reads like an EventSource: the id holds over the end of a connection, and the connection is made again."""

    def __init__(self, port, name):
        self.port, self.id, self.got, self.ends, self.opened = port, "", [], [], 0
        self.query = urllib.parse.urlencode({"payload": "raw", "send": json.dumps({"action": "subscribe", "channels": [name], "last": "all"})})
        self.task = asyncio.create_task(self.run())

    async def run(self):
        while True:
            try:
                await self.read()
            except (OSError, asyncio.IncompleteReadError, ValueError):
                pass
            await asyncio.sleep(0.1)

    async def read(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        try:
            last = f"Last-Event-ID: {self.id}\r\n" if self.id else ""
            writer.write(f"GET /ws?{self.query} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{last}\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert " 200 " in head, head
            self.opened += 1
            is_chunked, text = "chunked" in head.lower(), b""
            while True:
                if is_chunked:
                    size = int(await reader.readline(), 16)
                    text += (await reader.readexactly(size + 2))[:-2]
                else:
                    more = await reader.read(65536)
                    if not more:
                        return
                    text += more
                *events, text = text.split(b"\n\n")
                for event in events:
                    self.take(event.decode())
        finally:
            writer.close()

    def take(self, event):
        fields, data = {}, []
        for line in event.split("\n"):
            key, _, value = line.partition(":")
            data += [value.removeprefix(" ")] if key == "data" else []
            fields[key] = value.removeprefix(" ")
        self.id = fields.get("id", self.id)
        if fields.get("event") == "control":
            answer = json.loads("\n".join(data))
            assert not answer.get("errors"), answer
            self.ends += [answer] if answer["type"] == "last" else []
        elif data:
            self.got.append("\n".join(data))


@pytest.mark.parametrize("bus", ["redis", "jetstream"])
async def test_each_kept_message_comes_once_over_reloads_and_new_processes(bus, request, start_weirgate):
    port = free_port()
    # The history has a small part of the stream.
    flags = ["--event-stream", "--history-ms", "600000", "--history-bytes-max", "1000000"]
    env = {"REDIS_WS_GATEWAY_PORT": str(port), "DEFAULT_ROLE": "internal"}
    if bus == "redis":
        redis = request.getfixturevalue("redis_server")
        client = redis.client()

        async def publish(text):
            client.xadd("answers", {"channel": NAME[bus], "data": text})
        start = lambda: start_weirgate("channels", "--stream", "answers", *flags, redis=redis, env=env)  # noqa: E731
    else:
        server = request.getfixturevalue("nats")
        connection = await nats_client.connect(server.url)
        jetstream = connection.jetstream()
        await jetstream.add_stream(name="ANSWERS", subjects=["answer.*"])

        async def publish(text):
            await jetstream.publish(NAME[bus], text.encode())
        start = lambda: start_weirgate("channels", "--bus", server.url, "--stream", "ANSWERS", *flags, env=env)  # noqa: E731
    for n in range(COUNT // 2):
        await publish(payload(n))
    weirgate = start()
    pages = [Page(port, NAME[bus])]
    for n in range(COUNT // 2, COUNT):
        await publish(payload(n))
        if n == COUNT * 5 // 8:
            pages.append(Page(port, NAME[bus]))
        if n == COUNT * 3 // 4:
            pages.append(Page(port, NAME[bus]))
            await asyncio.sleep(0.02)
            weirgate.kill()
            weirgate = start()
        if n % 20 == 0:
            await asyncio.sleep(0.002)
    pages.append(Page(port, NAME[bus]))
    for page in pages:
        for _ in range(600):
            if len(page.got) >= COUNT and page.ends:
                break
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    for page in pages:
        page.task.cancel()
        numbers = [int(text[:6]) for text in page.got]
        missed, doubled = set(range(COUNT)) - set(numbers), len(numbers) - len(set(numbers))
        assert (len(missed), doubled) == (0, 0), (sorted(missed)[:5], page.ends, page.opened)
        assert page.got == [payload(n) for n in range(COUNT)]
        assert all("cut" not in end for end in page.ends) and page.ends
