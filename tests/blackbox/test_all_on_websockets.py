"""`"last":"all"` on WebSockets: each name comes once, by itself, over lost connections and killed processes, and other names come
live meanwhile."""
import asyncio
import json
import random

import pytest
import weirgate as weirgate_client
import websockets
from link import Link
from processes import free_port
from prometheus import scrape
from services import post
from test_all_kept_messages import open_feed  # noqa: F401
from tokens import fresh_token
from waiting import until

SECRET = "thirty-two bytes of a test secret"
COUNT, MORE = 2_000, 600


def number(text):
    return int(text[:6])


class Reader:
    """A WebSocket that reads when it is told to."""

    async def open(self, port, token="", more=""):
        # A small buffer: what the client does not read, weirgate has.
        self.ws = await websockets.connect(f"ws://127.0.0.1:{port}/ws?token={token}{more}", max_queue=4)
        self.got, self.ends = {}, []
        await self.answer("connected")
        return self

    async def send(self, **request):
        await self.ws.send(json.dumps(request))

    async def all(self, *names, **more):
        await self.send(action="subscribe", channels=names, last="all", **more)

    async def read(self):
        message = await asyncio.wait_for(self.ws.recv(), 20)
        head, _, payload = message.partition(b"\n") if isinstance(message, bytes) else (message, None, None)
        message = json.loads(head)
        if message["type"] == "data":
            name = message["pattern"] or message["channel"]
            data = payload.decode() if payload else message["data"]
            self.got.setdefault(name, []).append(number(data["raw"] if isinstance(data, dict) else data))
        elif message["type"] == "last":
            self.ends.append(message)
        return message

    async def answer(self, kind):
        while (message := await self.read())["type"] != kind:
            pass
        return message

    async def has(self, condition):
        while not condition():
            await self.read()


async def test_each_message_comes_once_over_lost_connections_and_killed_processes(open_feed):  # noqa: F811
    feed = await open_feed()
    names = [feed.name.replace("7", each) for each in "1234"]
    stored = {name: [] for name in names}

    async def publish(numbers):
        for n in numbers:
            name = names[n % 4]
            stored[name].append(n)
            await feed.publish([n], name=name)

    await publish(range(COUNT))
    process = await feed.ready()
    chance, got = random.Random(7), {name: [] for name in names}
    ends = []
    async with Link(feed.port).running() as link, \
            weirgate_client.Channels(f"ws://127.0.0.1:{link.port}/ws", backoff_min_ms=10, backoff_max_ms=50, on_last=ends.append) as client:
        for name in names:
            def take(data, message, into=got[name]):
                into.append(number(data["raw"] if isinstance(data, dict) else data))
            # The last one is live alone.
            client.subscribe(name, take, last=None if name == names[-1] else "all")
        wholes, in_the_middle = names[:-1], 0
        for n in range(COUNT, COUNT + MORE):
            await publish([n])
            if n % 10 == 0:
                await asyncio.sleep(0.005)
            if n % 30 == 0 and n < COUNT + MORE - 100:
                await until(lambda: client.status == "open", 20, "a connection")
                await asyncio.sleep(chance.random() * 0.03)
                in_the_middle += any(len(got[name]) < len(stored[name]) - 20 for name in wholes)
                link.cut()
                await until(lambda: client.status != "open", 20, "the end of the connection")
                link.mend()
            if n in (COUNT + 150, COUNT + 350):
                process.kill()
                process = feed.start()
        await until(lambda: all(len(got[name]) >= len(stored[name]) for name in wholes), 60, "all messages")
        await asyncio.sleep(0.5)
    for name in wholes:
        assert got[name] == stored[name], name
    live = got[names[-1]]
    assert live and live == stored[names[-1]][-len(live):], live[:5]
    assert client.reconnects >= 16 and in_the_middle >= 3, (client.reconnects, in_the_middle)
    assert all("cut" not in end for end in ends), ends


async def test_requests_in_flight_each_have_their_names_and_others_come_live_between(open_feed):  # noqa: F811
    feed = await open_feed()
    for n in range(0, 1_200, 3):
        for at, name in enumerate((feed.name, feed.other, feed.pattern.replace("*", "9"))):
            await feed.publish([n + at], name=name, make=lambda n: f"{n:06} " + "x" * 4_000)
    live = feed.pattern.replace("*", "live")
    weirgate = await feed.ready()
    reader = await Reader().open(feed.port)
    await reader.send(action="subscribe", channels=[live])
    await reader.answer("subscribed")
    await reader.all(feed.name, requestId=1)
    await reader.all(feed.other, feed.pattern.replace("*", "9"), requestId=2)
    await reader.all(feed.name, requestId=3)
    answers = [await reader.answer("subscribed") for _ in range(3)]
    assert [answer["requestId"] for answer in answers] == [1, 2, 3]
    assert answers[2]["why"] == {feed.name: "off"}, answers
    await reader.has(lambda: len(reader.got.get(feed.name, ())) > 20)
    await feed.publish(range(5), name=live)
    await reader.has(lambda: len(reader.got.get(live, ())) == 5)
    assert len(reader.ends) < 3, "they come between the pages"
    await reader.has(lambda: len(reader.ends) == 3)
    for at, name in enumerate((feed.name, feed.other, feed.pattern.replace("*", "9"))):
        assert reader.got[name] == list(range(at, 1_200, 3)), name
    assert sorted((end["channel"], end["count"], end.get("cut")) for end in reader.ends) == sorted(
        (name, 400, None) for name in (feed.name, feed.other, feed.pattern.replace("*", "9")))
    assert scrape(weirgate).sum("weirgate_retained_waiting") == 0
    await reader.ws.close()


async def test_a_name_that_is_given_up_or_no_longer_granted_ends_in_the_middle(open_feed):  # noqa: F811
    feed = await open_feed()
    for n in range(1_500):
        await feed.publish([n], make=lambda n: f"{n:06} " + "x" * 4_000)
    weirgate = await feed.ready(env={"JWT_SECRET": SECRET, "REQUIRE_AUTH": "true"})
    reader = await Reader().open(feed.port, fresh_token(SECRET, role="internal"))
    await reader.all(feed.name)
    await reader.has(lambda: len(reader.got.get(feed.name, ())) > 20)
    await reader.send(action="unsubscribe", channels=[feed.name])
    assert (await reader.answer("unsubscribed"))["channels"] == [feed.name]
    first = reader.got.pop(feed.name)
    assert first == list(range(len(first))) and len(first) < 1_500
    await feed.publish([2_000])
    # All of it again, and the end of the right in the middle.
    await reader.all(feed.name)
    await reader.has(lambda: len(reader.got.get(feed.name, ())) > 20)
    await reader.send(action="authenticate", token=fresh_token(SECRET, role="user"))
    assert (await reader.answer("authenticated"))["revoked"] == [feed.name]
    got = reader.got[feed.name]
    assert got == list(range(len(got))) and len(got) < 1_500 and reader.ends == []
    await feed.publish([2_001])
    await reader.send(action="ping")
    await reader.answer("pong")
    assert len(reader.got[feed.name]) == len(got), "nothing came after the answer"
    assert scrape(weirgate).sum("weirgate_retained_waiting") == 0
    await reader.ws.close()


async def test_as_bytes_they_come_once_each_with_the_new_ones(open_feed):  # noqa: F811
    feed = await open_feed()
    await feed.publish(range(COUNT))
    await feed.ready()
    readers = [await Reader().open(feed.port, more="&payload=binary") for _ in range(3)]
    for at, reader in enumerate(readers):
        await reader.all(feed.name)
        await feed.publish(range(COUNT + 20 * at, COUNT + 20 * at + 20))
    for reader in readers:
        await reader.has(lambda reader=reader: len(reader.got.get(feed.name, [])) >= COUNT + 60 and reader.ends)
        assert reader.got[feed.name] == list(range(COUNT + 60)) and "cut" not in reader.ends[0], reader.ends


async def test_the_rate_of_a_client_is_for_new_messages_alone(open_feed):  # noqa: F811
    feed = await open_feed()
    await feed.publish(range(COUNT))
    await feed.ready("--conflate", feed.name)
    reader = await Reader().open(feed.port, more="&max_hz=2")
    await reader.all(feed.name)
    await reader.has(lambda: reader.ends)
    got = reader.got[feed.name]
    assert got == list(range(COUNT))

    async def publish():
        for n in range(COUNT, COUNT + 100):
            await feed.publish([n])
            await asyncio.sleep(0.02)
    publishing = asyncio.create_task(publish())
    await reader.has(lambda: got[-1] == COUNT + 99)
    await publishing
    new = got[COUNT:]
    assert new == sorted(set(new)) and len(new) < 50, new


async def test_who_is_cut_off_gets_no_more_of_them(open_feed):  # noqa: F811
    feed, admin = await open_feed(), free_port()
    await feed.publish(range(4_000), make=lambda n: f"{n:06} " + "x" * 4_000)
    process = feed.start("--admin-addr", f"127.0.0.1:{admin}")
    process.http_url = f"http://127.0.0.1:{admin}"
    await until(lambda: process.ready_status() == 200, 20, "ready")
    readers = [await Reader().open(feed.port) for _ in range(2)]
    for reader in readers:
        await reader.all(feed.name)
        await reader.has(lambda reader=reader: reader.got.get(feed.name))
    await asyncio.sleep(1)
    status, answer = await asyncio.to_thread(post, f"{process.http_url}/operator/disconnect", {"address": "127.0.0.1"})
    assert status == 200 and answer["disconnected"] == 2, answer
    for reader in readers:
        with pytest.raises(websockets.ConnectionClosed):
            await reader.has(lambda: False)
        # What the kernel had already taken, in order.
        got = reader.got[feed.name]
        assert got == list(range(len(got))) and len(got) < 4_000 and not reader.ends
