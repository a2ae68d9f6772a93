"""`?payload=binary`: 1,000 payloads of nine kinds on real buses come byte for byte, beside JSON clients of the same names."""
import asyncio
import base64
import dataclasses
import gzip
import http.client
import json
import random
import struct
import urllib.request

import clients
import pytest
from event_stream import Stream
from processes import ROOT, node_binary
from test_channels_nats import bus

COUNT = 1_000
BINARY = "/ws?payload=binary"


def msgpack(r):
    """{"bid": float64, "ask": nil}"""
    return b"\x82\xa3bid\xcb" + struct.pack(">d", r.uniform(0, 1e6)) + b"\xa3ask\xc0"


def protobuf(r):
    """Field 1: a varint; field 2: bytes."""
    text = r.randbytes(r.randrange(100))
    return bytes([0x08, 0x80 | r.randrange(128), r.randrange(1, 128), 0x12, len(text)]) + text


def sbe(r):
    """Little-endian: a head of four uint16, then fields without names."""
    return struct.pack("<4HqiB", 19, 1, 1, 0, r.randrange(1 << 60), r.randrange(1 << 30), 10)


def broken(r):
    """UTF-8 that ends too early, in the middle and at the end."""
    return "é\n".encode() + b"\xc3" + str(r.random()).encode() + b"\xe2\x82"


KINDS = [
    msgpack, protobuf, sbe, lambda r: gzip.compress(r.randbytes(50) * 20), lambda r: r.randbytes(r.randrange(1, 2_000)), lambda r: b"",
    lambda r: f"text {r.random()} \r\n\0{{}}".encode(), broken, lambda r: json.dumps({"n": r.random(), "é": "\n"}, indent=1).encode(),
]


def payloads():
    r = random.Random(7)
    return [KINDS[n % len(KINDS)](r) for n in range(COUNT)]


def as_json(payload):
    """What a client of JSON gets as `data`."""
    def no_constant(name):
        raise ValueError(name)
    try:
        return json.loads(payload.decode(), parse_constant=no_constant)
    except ValueError:
        return {"raw": payload.decode(errors="replace")}


class Reader(clients.Client):
    """A client that keeps answers and (pattern, data) apart, binary or not, and counts missing numbers."""

    def __init__(self, *args):
        super().__init__(*args)
        self.answers, self.data, self.positions = [], [], []
        self.missing, self._seq = 0, 0

    def take(self, opcode, payload):
        super().take(opcode, payload)
        if opcode not in (clients.TEXT, clients.BINARY):
            return
        head, found, rest = payload.partition(b"\n") if opcode == clients.BINARY else (payload, b"", None)
        message = json.loads(head)
        self.missing += message["seq"] - self._seq - 1
        self._seq = message["seq"]
        if message["type"] != "data":
            assert opcode == clients.TEXT
            return self.answers.append(message)
        assert (opcode == clients.BINARY) == ("binary" in self.path) and ("data" in message) == (opcode == clients.TEXT)
        assert opcode == clients.TEXT or found == b"\n"
        self.data.append((message["pattern"], message["data"] if rest is None else rest))
        self.positions.append(message.get("pos"))


@dataclasses.dataclass
class Feed:
    gateway: object
    publish: object
    names: list
    slow: str


@pytest.fixture(params=["redis", "nats"])
def feed(request, start_weirgate):
    """A gateway with a history, and a function that publishes payloads on a channel."""
    env, is_redis = {"DEFAULT_ROLE": "internal"}, request.param == "redis"
    kept, names, slow = ("market:*", ["market:a", "market:*"], "slow") if is_redis else ("market.>", ["market.a", "market.*"], "slow")
    flags = ("--history-ms", "60000", "--history-names", kept, "--conflate", slow, "--event-stream", "--bus-settle-ms", "0")
    server = request.getfixturevalue(f"{request.param}_server" if is_redis else request.param)
    at = {"redis": server} if is_redis else {}
    gateway = start_weirgate("channels", *flags, *(() if is_redis else ("--bus", server.url)), env=env, **at).wait_ready()

    async def publish(name, contents):
        if is_redis:
            with server.client() as publisher:
                for content in contents:
                    publisher.publish(name, content)
            return
        publisher = await bus(server)
        for content in contents:
            await publisher.publish(name, content)
        await publisher.drain()
    return Feed(gateway, publish, names, slow)


async def subscribe(feed, path, names, **more):
    client = await clients.connect(feed.gateway.port, path=path, make=Reader)
    client.say({"action": "subscribe", "channels": names, **more})
    await client.wait_for(lambda c: any(one["type"] == "subscribed" for one in c.answers), 20, "subscribed")
    return client


def of(client, pattern):
    return [data for own, data in client.data if own == pattern]


async def node(feed, names, count, since=""):
    """The JavaScript client on the package ws, compressed: what it has got, and its position."""
    url = f"ws://127.0.0.1:{feed.gateway.port}/ws"
    child = await asyncio.create_subprocess_exec(
        node_binary(), ROOT / "tests/node/payloads.mjs", url, ",".join(names), str(count), since,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 24)
    return child


async def ended(child):
    out, err = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == 0, err.decode()
    *got, position = [json.loads(line) for line in out.decode().splitlines() if line != '"connected"']
    return [(pattern, base64.b64decode(text)) for pattern, text in got], position


async def test_live_resumed_and_last_payloads_are_whole(feed):
    sent = payloads()
    texts = [as_json(payload) for payload in sent if payload]
    exact, pattern = feed.names[0], feed.names[1]
    child = await node(feed, feed.names, 2 * COUNT)
    binary, text = await subscribe(feed, BINARY, feed.names), await subscribe(feed, "/ws", feed.names)
    assert json.loads(await child.stdout.readline()) == "connected"
    await until_subscribed(feed, 3 * len(feed.names))
    await feed.publish(exact, sent)
    await binary.wait_for(lambda c: len(c.data) == 2 * COUNT, 30, "all payloads")
    await text.wait_for(lambda c: len(c.data) == 2 * len(texts), 30, "all texts")
    assert of(binary, None) == of(binary, pattern) == sent
    assert of(text, None) == of(text, pattern) == texts
    assert (binary.missing, text.missing) == (0, 0)
    got, position = await ended(child)
    assert got == binary.data and position == binary.positions[-1]

    # Who comes back, from the position of a client of either kind.
    half = binary.positions[COUNT - 1]
    again, texts_again = await subscribe(feed, BINARY, feed.names, since=half), await subscribe(feed, "/ws", feed.names, since=half)
    await again.wait_for(lambda c: len(c.data) == COUNT, 20, "what was missed")
    assert again.data == binary.data[COUNT:]
    wanted = [(own, as_json(data)) for own, data in again.data if data]
    await texts_again.wait_for(lambda c: len(c.data) == len(wanted), 20, "the texts that were missed")
    assert texts_again.data == wanted
    assert [again.answers[-1]["recovered"], texts_again.answers[-1]["recovered"]] == [dict.fromkeys(feed.names, True)] * 2
    got, _ = await ended(await node(feed, feed.names, COUNT, half))
    assert got == again.data

    newest = await subscribe(feed, BINARY, [exact], last=100)
    newest_texts = await subscribe(feed, "/ws", [exact], last=100)
    await newest.wait_for(lambda c: len(c.data) == 100, 20, "the newest")
    await newest_texts.wait_for(lambda c: len(c.data) == 100, 20, "the newest texts")
    assert (of(newest, None), of(newest_texts, None)) == (sent[-100:], texts[-100:])

    stream = await asyncio.to_thread(
        Stream, feed.gateway.port, BINARY, f"Last-Event-ID: {half}", sends=[{"action": "subscribe", "channels": feed.names}])
    events = await asyncio.to_thread(lambda: [stream.event() for _ in range(2 + COUNT)])
    assert [json.loads(data)["type"] for _, data in events[:2]] == ["connected", "subscribed"]
    pairs = [(kind, *data.split("\n")) for kind, data in events[2:]]
    assert [(json.loads(head)["pattern"], base64.b64decode(body)) for _, head, body in pairs] == again.data
    assert {kind for kind, *_ in pairs} == {"binary"} and stream.last_id == position
    stream.close()


async def until_subscribed(feed, memberships):
    """The names of so many clients stand at the bus."""
    for _ in range(200):
        stats = json.loads(await asyncio.to_thread(lambda: urllib.request.urlopen(feed.gateway.http_url + "/stats").read()))
        if stats["total_subscriptions"] == memberships:
            # Each client's answer waits for the bus; that of Node is not seen here.
            return await asyncio.sleep(1)
        await asyncio.sleep(0.05)
    raise AssertionError(stats)


async def test_slow_clients_of_both_kinds_get_the_newest_payload(feed):
    sent = [payload + bytes([n % 256, n // 256, 0xFF]) for n, payload in enumerate(payloads())]
    binary, text = [await subscribe(feed, path, [feed.slow]) for path in (f"{BINARY}&max_hz=2", "/ws?max_hz=2")]
    await feed.publish(feed.slow, sent)
    for client, newest in ((binary, sent[-1]), (text, as_json(sent[-1]))):
        await client.wait_for(lambda c, newest=newest: c.data and c.data[-1][1] == newest, 20, "the newest")
        assert len(client.data) < COUNT / 2 and client.missing == COUNT - len(client.data)
    places = [sent.index(data) for _, data in binary.data]
    assert places == sorted(places)


@pytest.mark.parametrize("kind, path", [("demo", "/ws/stream"), ("trades", "/"), ("events", "/ws")])
def test_the_other_gateways_say_that_they_have_no_binary_messages(start_weirgate, redis_server, kind, path):
    server = start_weirgate(kind, "--event-stream", **({"redis": redis_server} if kind == "trades" else {})).wait_ready()
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "=="}
    for headers in ({"Accept": "text/event-stream"}, upgrade):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", f"{path}?payload=binary", headers=headers)
        response = connection.getresponse()
        assert response.status == 400
        assert json.loads(response.read()) == {"detail": "payload=binary is for weirgate channels only"}
        connection.close()
