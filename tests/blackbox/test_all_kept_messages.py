"""`"last":"all"` on a raw event stream, read as an EventSource reads it: each kept message once, over reloads and new processes, and
a hole is said."""
import asyncio
import hashlib
import json
import urllib.parse

import nats as nats_client
import pytest
from processes import free_port
from prometheus import scrape
from waiting import until

COUNT = 10_000
NAME = {"redis": "answer:7", "jetstream": "answer.7"}


def payload(n):
    """20 bytes to 20 kB."""
    text = f"{n:06} " + hashlib.sha256(str(n).encode()).hexdigest() * 320
    return text[:20_000 if n % 50 == 0 else 20]


class Page:
    """Reads like an EventSource: the id holds over the end of a connection, and the connection is made again."""

    def __init__(self, port, *names, reads=None):
        self.port, self.id, self.got, self.ends, self.answers, self.opened = port, "", [], [], [], 0
        # The page reads while this is set.
        self.reads = reads or asyncio.Event()
        if not reads:
            self.reads.set()
        send = json.dumps({"action": "subscribe", "channels": names, "last": "all"})
        self.query = urllib.parse.urlencode({"payload": "raw", "send": send})
        self.task = asyncio.create_task(self.run())

    def numbers(self):
        return [int(text[:6]) for text in self.got]

    async def has(self, count, ends=1, seconds=20):
        await until(lambda: len(self.got) >= count and len(self.ends) >= ends, seconds, f"{count} messages and {ends} ends")

    async def run(self):
        while True:
            try:
                await self.read()
            except (OSError, asyncio.IncompleteReadError, ValueError):
                pass
            await asyncio.sleep(0.1)

    async def read(self):
        # Small buffers: what the page does not read, weirgate has.
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 16)
        try:
            last = f"Last-Event-ID: {self.id}\r\n" if self.id else ""
            writer.write(f"GET /ws?{self.query} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{last}\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert " 200 " in head, head
            self.opened += 1
            is_chunked, text = "chunked" in head.lower(), b""
            while await self.reads.wait():
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
            self.answers.append(answer)
            assert not answer.get("errors"), answer
            self.ends += [answer] if answer["type"] == "last" else []
        elif data:
            self.got.append("\n".join(data))


class Feed:
    """A stream of one of the buses, and gateways on it."""
    # The history has a small part of the stream.
    flags = ("--event-stream", "--history-ms", "600000", "--history-bytes-max", "1000000")

    def __init__(self, start_weirgate, server, port):
        self.start_weirgate, self.server, self.port = start_weirgate, server, port

    def start(self, *flags, env=None):
        env = {"REDIS_WS_GATEWAY_PORT": str(self.port), "DEFAULT_ROLE": "internal", **(env or {})}
        weirgate = self.start_weirgate("channels", *self.of_bus(), *self.flags, *flags, env=env)
        weirgate.http_url = f"http://127.0.0.1:{self.port}"
        return weirgate

    async def ready(self, *flags, env=None):
        weirgate = self.start(*flags, env=env)
        await until(lambda: weirgate.ready_status() == 200, 20, "ready")
        return weirgate

    async def publish(self, numbers, name=None, make=None):
        for n in numbers:
            await self.store(name or self.name, (make or payload)(n))


class RedisFeed(Feed):
    name, other, pattern = "answer:7", "answer:8", "answer:*"

    async def open(self):
        self.client = self.server.client()

    def of_bus(self):
        return ["--redis-url", self.server.url, "--stream", "answers"]

    async def store(self, name, text):
        self.client.xadd("answers", {"channel": name, "data": text})

    async def trim(self, count):
        self.client.xtrim("answers", maxlen=count, approximate=False)

    async def make_anew(self):
        self.client.delete("answers")

    async def break_connections(self):
        self.client.client_kill_filter(_type="normal", skipme=True)


class JetStreamFeed(Feed):
    name, other, pattern = "answer.7", "answer.8", "answer.*"

    async def connect(self):
        self.client = await nats_client.connect(self.server.url)
        self.jetstream = self.client.jetstream()

    async def open(self):
        await self.connect()
        await self.jetstream.add_stream(name="ANSWERS", subjects=["answer.*"])

    def of_bus(self):
        return ["--bus", self.server.url, "--stream", "ANSWERS"]

    async def store(self, name, text):
        await self.jetstream.publish(name, text.encode())

    async def trim(self, count):
        await self.jetstream.purge_stream("ANSWERS", keep=count)

    async def make_anew(self):
        await self.jetstream.delete_stream("ANSWERS")
        await self.open()

    async def break_connections(self):
        await self.client.close()
        self.server.kill()
        self.server.start()
        await self.connect()


@pytest.fixture(params=["redis", "jetstream"])
def open_feed(request, start_weirgate):
    """await open_feed() → an empty Feed"""
    server = request.getfixturevalue("redis_server" if request.param == "redis" else "nats")
    feed = {"redis": RedisFeed, "jetstream": JetStreamFeed}[request.param](start_weirgate, server, free_port())

    async def open_feed():
        await feed.open()
        return feed
    return open_feed


def check(page, count, cut=None):
    """The page has each number once, in order, and was told so."""
    page.task.cancel()
    numbers = page.numbers()
    missed, doubled = set(range(count)) - set(numbers), len(numbers) - len(set(numbers))
    assert (len(missed), doubled) == (0, 0), (sorted(missed)[:5], page.ends, page.opened)
    assert numbers == sorted(numbers)
    assert [end.get("cut") for end in page.ends] == [cut] * len(page.ends), page.ends
    texts = (json.loads(text) if text.startswith('"') else text for text in page.got)
    assert all(text == payload(int(text[:6])) for text in texts)


async def test_each_kept_message_comes_once_over_reloads_and_new_processes(open_feed):
    feed = await open_feed()
    await feed.publish(range(COUNT // 2))
    weirgate = feed.start()
    pages = [Page(feed.port, feed.name)]
    for n in range(COUNT // 2, COUNT):
        await feed.publish([n])
        if n == COUNT * 5 // 8:
            pages.append(Page(feed.port, feed.name))
        if n == COUNT * 3 // 4:
            pages.append(Page(feed.port, feed.name))
            await asyncio.sleep(0.02)
            weirgate.kill()
            weirgate = feed.start()
        if n % 20 == 0:
            await asyncio.sleep(0.002)
    pages.append(Page(feed.port, feed.name))
    for page in pages:
        await page.has(COUNT)
    await asyncio.sleep(0.5)
    for page in pages:
        check(page, COUNT)


async def test_a_page_that_is_loaded_again_goes_on(open_feed):
    feed = await open_feed()
    await feed.publish(range(2_000))
    await feed.ready()
    page = Page(feed.port, feed.name)
    await until(lambda: len(page.got) > 500, 30, "a part")
    page.task.cancel()
    again = Page(feed.port, feed.name)
    again.id, again.got = page.id, page.got
    await again.has(2_000)
    assert again.answers[1]["recovered"] == {feed.name: True}
    assert again.ends[0]["count"] < 2_000
    check(again, 2_000)


async def test_a_message_that_is_too_large_is_said(open_feed):
    feed = await open_feed()
    await feed.publish(range(10), make=lambda n: payload(n)[:20] + "x" * (5_000 if n == 4 else 0))
    weirgate = await feed.ready("--bus-message-bytes-max", "2000")
    page = Page(feed.port, feed.name)
    await page.has(9)
    page.task.cancel()
    assert page.numbers() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert (page.ends[0]["count"], page.ends[0]["cut"]) == (9, "large")
    assert scrape(weirgate).sum("weirgate_bus_messages_bad_total") > 0
    weirgate.logs("are more than the allowed 2000")


async def test_small_messages_after_large_ones_all_come(open_feed):
    """How many messages a page asks for follows the size of those before."""
    feed = await open_feed()
    await feed.publish(range(4_000), make=lambda n: f"{n:06} " + "x" * (20_000 if n < 200 else 20))
    await feed.ready()
    page = Page(feed.port, feed.name)
    await page.has(4_000)
    page.task.cancel()
    assert page.numbers() == list(range(4_000))
    assert page.ends[0]["count"] == 4_000 and "cut" not in page.ends[0], page.ends


async def page_that_stands(feed, count):
    """A page that has its answer and reads no more, of a stream with so many messages of 4 kB."""
    await feed.publish(range(count), make=lambda n: f"{n:06} " + "x" * 4_000)
    await feed.ready()
    page = Page(feed.port, feed.name, reads=asyncio.Event())
    await until(lambda: page.opened, 10, "an answer")
    await asyncio.sleep(1)
    return page


async def test_what_is_trimmed_under_the_reading_is_said(open_feed):
    """The reader stops, and the stream loses what it was about to get."""
    feed = await open_feed()
    page = await page_that_stands(feed, 4_000)
    await feed.trim(20)
    page.reads.set()
    await page.has(100)
    page.task.cancel()
    numbers = page.numbers()
    assert numbers == sorted(set(numbers)) and numbers[0] == 0 and numbers[-1] == 3_999 and len(numbers) < 4_000
    assert (page.ends[0]["count"], page.ends[0]["cut"]) == (len(numbers), "window")


@pytest.mark.parametrize("then", [0, 5], ids=["empty", "published"])
@pytest.mark.parametrize("how", ["trimmed", "anew"])
async def test_a_stream_that_loses_all_under_the_reading_ends_and_says_it(open_feed, how, then):
    """The client lacks messages, whatever became of the stream: not "epoch", of which it lacks none."""
    feed = await open_feed()
    page = await page_that_stands(feed, 4_000)
    await (feed.trim(0) if how == "trimmed" else feed.make_anew())
    await feed.publish(range(4_000, 4_000 + then))
    page.reads.set()
    await page.has(10, seconds=15)
    await feed.publish([5_000])
    await until(lambda: page.numbers()[-1] == 5_000, 10, "a live message")
    page.task.cancel()
    numbers = page.numbers()
    old = [n for n in numbers if n < 4_000]
    assert old == sorted(set(old)) and len(old) < 4_000, "each once"
    assert [n for n in numbers if n >= 4_000] == [*range(4_000, 4_000 + then), 5_000]
    assert [end["cut"] for end in page.ends] == ["window"], page.ends


@pytest.mark.parametrize("count", [5, 30], ids=["shorter", "longer"])
async def test_clients_that_come_just_after_a_stream_was_recreated_get_its_messages_once(open_feed, count):
    """weirgate needs up to a second to notice."""
    feed = await open_feed()
    await feed.publish(range(20))
    await feed.ready()
    await feed.make_anew()
    await feed.publish(range(100, 100 + count))
    pages = []
    for _ in range(6):
        pages.append(Page(feed.port, feed.name))
        await asyncio.sleep(0.25)
    for page in pages:
        await until(lambda page=page: page.ends, 15, "the end")
    await feed.publish([1_000])
    for page in pages:
        await until(lambda page=page: 1_000 in page.numbers(), 10, "a live message")
        page.task.cancel()
        assert [n for n in page.numbers() if n >= 100] == [*range(100, 100 + count), 1_000]


async def test_messages_of_a_subject_that_the_stream_gave_up_come_or_are_missed(start_weirgate, nats):
    """A consumer reads what is within one subject of the stream, and the stream keeps what it has of others."""
    feed = JetStreamFeed(start_weirgate, nats, free_port())
    await feed.open()
    page = await page_that_stands(feed, 4_000)
    await feed.publish(range(4_000, 4_010), name=feed.other)
    await feed.jetstream.update_stream(name="ANSWERS", subjects=[feed.other])
    page.reads.set()
    await until(lambda: page.ends, 30, "the end")
    assert len(page.numbers()) < 4_000 and page.ends[0]["cut"] == "off", page.ends
    pattern = Page(feed.port, feed.pattern)
    await pattern.has(4_010)
    assert pattern.numbers() == list(range(4_010)) and "cut" not in pattern.ends[0], pattern.ends
    for one in (page, pattern):
        one.task.cancel()


async def test_the_bus_is_away_in_the_middle(open_feed):
    feed = await open_feed()
    page = await page_that_stands(feed, 3_000)
    await feed.break_connections()
    page.reads.set()
    await until(lambda: len(page.got) > 500, 30, "a part")
    await feed.break_connections()
    await feed.publish(range(3_000, 3_010), make=lambda n: f"{n:06} ")
    await page.has(3_010)
    page.task.cancel()
    assert page.numbers() == list(range(3_010))
    assert "cut" not in page.ends[0], page.ends


async def test_a_pattern_and_several_names_come_in_the_order_of_the_stream(open_feed):
    feed = await open_feed()
    for n in range(0, 300, 2):
        await feed.publish([n])
        await feed.publish([n + 1], name=feed.other)
    await feed.ready()
    pages = [Page(feed.port, feed.pattern), Page(feed.port, feed.name, feed.other)]
    for page, ends in zip(pages, (1, 2), strict=True):
        await page.has(300, ends)
        assert sum(end["count"] for end in page.ends) == 300
        check(page, 300)


async def test_slow_readers_hold_a_share_and_delay_nobody(open_feed):
    feed = await open_feed()
    await feed.publish(range(3_000), make=lambda n: f"{n:06} " + "x" * 4_000)
    weirgate = await feed.ready()
    reads = asyncio.Event()
    slow = [Page(feed.port, feed.name, reads=reads) for _ in range(20)]
    await until(lambda: all(page.opened for page in slow), 20, "answers")
    page = Page(feed.port, feed.name)
    await page.has(3_000)
    metrics = scrape(weirgate)
    # A page of each, of the history or of the stream, and what is around the messages.
    assert metrics.sum("weirgate_retained_bytes") <= metrics.sum("weirgate_retained_bytes_max")
    assert metrics.sum("weirgate_send_queue_bytes") < 20 * 1_100_000, metrics.sum("weirgate_send_queue_bytes")
    assert metrics.sum("weirgate_retained_waiting") == 20
    reads.set()
    for one in slow:
        await one.has(3_000)
        one.task.cancel()
        assert one.numbers() == list(range(3_000)) and "cut" not in one.ends[0]
    assert scrape(weirgate).sum("weirgate_retained_waiting") == 0
