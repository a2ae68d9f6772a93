"""`--history-ms` on bad days: a slow reader, a client of many patterns, every encoding at once, conflated names, and the marks' cost."""
import asyncio
import base64
import contextlib
import json
import os

import clients
import pytest
from event_stream import Stream
from prometheus import scrape
from redis_gateways import CHANNELS, TRADES
from waiting import until

HISTORY = ("--history-ms", "60000")
KEPT = ("--history-names", "market:*")
INTERNAL = {"DEFAULT_ROLE": "internal"}
MIB = 1024 * 1024


class Reader(clients.Client):
    """A client that keeps every message, parsed."""

    def __init__(self, *args):
        super().__init__(*args)
        self.all = []

    def take(self, opcode, payload):
        super().take(opcode, payload)
        if opcode == clients.TEXT:
            self.all.append(json.loads(payload))

    @property
    def values(self):
        return [message["data"] for message in self.all if message["type"] in ("data", "trade")]

    @property
    def pos(self):
        return [message["pos"] for message in self.all if "pos" in message][-1]

    def answer(self, kind):
        """The newest answer to a request; None before the first."""
        told = [m for m in self.all if m["type"] == kind.subscribed and "serverId" not in m.get("data", {})]
        return told[-1] if told else None


async def subscribed(weirgate, kind, names, receive_bytes=None, **since):
    client = await clients.connect(weirgate.port, receive_bytes, path=kind.path, make=Reader)
    client.say({**kind.subscribe(names), **since})
    await client.wait_for(lambda c: c.answer(kind), 20, "the answer")
    return client


async def left(client):
    """Ends the client's connection."""
    client.abort()
    await client.ended


@pytest.mark.long
async def test_a_reader_of_1_mbit_resumes_4_mib_while_the_feed_goes_on(start_weirgate, redis_server):
    """33 s for what was missed, longer than the stall limit of 30 s; newer trades wait behind."""
    weirgate = start_weirgate("trades", *HISTORY, redis=redis_server).wait_ready()
    client = await subscribed(weirgate, TRADES, ["A"])
    since, bus, missed = client.pos, redis_server.client(), 520
    await left(client)
    for n in range(missed):
        bus.publish("channel:trade:A", json.dumps({"price": n, "conditions": ["x" * 7_900]}))
    await until(lambda: scrape(weirgate).sum("weirgate_history_messages") == missed, 20, "all kept")
    request = json.dumps({**TRADES.subscribe(["A"]), "since": since}).encode()
    got, sizes, ended = [], 0, asyncio.Event()

    async def feed():
        n = missed
        while not ended.is_set():
            await asyncio.to_thread(bus.publish, "channel:trade:A", json.dumps({"price": n}))
            n += 1
            await asyncio.sleep(0.1)

    publishing = asyncio.create_task(feed())
    async with contextlib.aclosing(clients.throttled_messages(weirgate.port, 1_000_000, 60, path=TRADES.path, request=request)) as reading:
        async for payload, _ in reading:
            message = json.loads(payload)
            if message["type"] == "trade":
                got.append(message["data"]["price"])
                sizes += len(payload)
            elif "recovered" in message.get("data", {}):
                assert message["data"]["recovered"] is True, message
            if len(got) >= missed + 100:
                break
    ended.set()
    await publishing
    assert got == list(range(missed + 100)), f"{len(got)} in order"
    assert sizes > 0.98 * 4 * MIB
    closes = "weirgate_client_closes_total"
    await until(lambda: scrape(weirgate).sum(closes) == 2, 10, "both clients gone")
    by_peer = [scrape(weirgate).sum(closes, reason=reason) for reason in ("peer_gone", "socket_error")]
    assert sum(by_peer) == 2, "weirgate dropped neither"


async def test_patterns_of_one_client_leave_nothing_on_the_bus(start_weirgate, redis_server):
    """A name without members stayed subscribed for the time of the history, so that one client could leave a thousand patterns behind."""
    weirgate = start_weirgate("channels", *HISTORY, *KEPT, redis=redis_server, env=INTERNAL).wait_ready()
    bystander = await subscribed(weirgate, CHANNELS, ["A"])
    since, bus = bystander.pos, redis_server.client()
    await left(bystander)
    for n in range(3):
        bus.publish("market:tick:A", n)
    hostile = await clients.connect(weirgate.port, path="/ws", make=Reader)
    # Within the kept feed, beyond what is sure to be within, and outside.
    spelled = ["market:tick:" + "*" * (n + 1) for n in range(40)] + ["ma" + "?" * n + "*" for n in range(40)] + [f"other:{n}:*" for n in range(40)]
    for at in range(0, len(spelled), 5):
        for action in ("subscribe", "unsubscribe"):
            before = len(hostile.all)
            hostile.say({"action": action, "channels": spelled[at:at + 5]})
            await hostile.wait_for(lambda c: len(c.all) > before, 20, action)
    assert sum(len(m["channels"]) for m in hostile.all if m["type"] == "subscribed") == len(spelled)
    await until(lambda: bus.execute_command("PUBSUB", "NUMPAT") == 1, 10, "the kept pattern alone")
    assert bus.publish("market:tick:A", 3) == 1, "Redis delivers a message once"
    back = await subscribed(weirgate, CHANNELS, ["A"], since=since)
    assert back.answer(CHANNELS)["recovered"] == {"market:tick:A": True}
    await back.wait_for(lambda c: len(c.values) == 4, 10, "what was missed")
    assert back.values == [0, 1, 2, 3]


async def test_what_is_kept_stays_within_its_bytes_whatever_clients_negotiate(start_weirgate, redis_server):
    """The encodings that clients made necessary are kept with a message, and count."""
    limit = 8 * MIB
    weirgate = start_weirgate("channels", *HISTORY, *KEPT, "--history-bytes-max", str(limit), "--event-stream",
                              # Some readers answer no ping.
                              "--ping-interval-ms", "0", redis=redis_server, env=INTERNAL).wait_ready()
    offers = ["permessage-deflate", "permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_no_context_takeover"]
    # Compressed clients are read as bytes: what they get is of no interest here.
    readers = [await subscribed(weirgate, CHANNELS, ["A"])]
    request = json.dumps(CHANNELS.subscribe(["A"])).encode()
    drains = [asyncio.create_task(drained(weirgate.port, offer, request)) for offer in offers]
    stream = Stream(weirgate.port, CHANNELS.path, sends=[CHANNELS.subscribe(["A"])])
    draining = asyncio.create_task(asyncio.to_thread(stream.until, lambda value: value.get("data") == "end"))
    await until(lambda: scrape(weirgate).sum("weirgate_clients") == 5, 10, "all clients")
    bus = redis_server.client()
    for n in range(2 * limit // 8_000):
        bus.publish("market:tick:A", json.dumps(base64.b64encode(os.urandom(6_000)).decode()))
        if n % 20 == 0:
            # On a busy machine the readers of this process are slow, and they must not be dropped.
            await until(lambda: scrape(weirgate).sum("weirgate_send_queue_bytes") < MIB, 30, "what the readers have")
    bus.publish("market:tick:A", '"end"')
    await draining
    await until(lambda: scrape(weirgate).sum("weirgate_frame_bytes_alive") < 1.5 * limit, 5, "frames within the limit")
    metrics = scrape(weirgate)
    assert 0.5 * limit < metrics.sum("weirgate_history_bytes") <= limit
    assert scrape(weirgate).sum("weirgate_clients") == 5, "nobody was dropped"
    for task in drains:
        task.cancel()
    stream.close()
    readers[0].abort()


async def drained(port, offer, request):
    """A client whose messages nobody looks at."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(clients.upgrade_request(port, CHANNELS.path, [f"Sec-WebSocket-Extensions: {offer}"]))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(clients.client_frame(clients.TEXT, request))
    while await reader.read(MIB):
        pass


@pytest.mark.parametrize("flags", [(), ("--conflate", "market:tick:*")], ids=["whole", "conflated"])
async def test_a_client_with_a_small_buffer_gets_everything_missed_of_conflated_names_too(start_weirgate, redis_server, flags):
    """`--conflate` skips to the newest for a slow client; what was missed carries an old time, and was skipped too."""
    weirgate = start_weirgate("channels", *HISTORY, *KEPT, *flags, redis=redis_server, env=INTERNAL).wait_ready()
    client = await subscribed(weirgate, CHANNELS, ["A"])
    since, bus = client.pos, redis_server.client()
    await left(client)
    for n in range(300):
        bus.publish("market:tick:A", json.dumps({"n": n, "pad": "x" * 8_000}))
    await asyncio.sleep(1.6)
    back = await subscribed(weirgate, CHANNELS, ["A"], receive_bytes=32_768, since=since)
    back.stop_reading()
    for n in range(300, 303):
        bus.publish("market:tick:A", json.dumps({"n": n}))
        await asyncio.sleep(0.4)
    back.transport.resume_reading()
    await back.wait_for(lambda c: c.values and c.values[-1]["n"] == 302, 20, "the newest")
    numbers = [value["n"] for value in back.values]
    assert back.answer(CHANNELS)["recovered"] == {"market:tick:A": True}
    assert numbers[:300] == list(range(300)), "everything that was missed"
    assert len(numbers) == 303 or flags, numbers[300:]


async def test_marks_cost_one_publish_a_second_for_each_instance(start_weirgate, redis_server):
    """And one HELLO beside it, which says whether the server is still the master."""
    instances = [start_weirgate("trades", *HISTORY, redis=redis_server).wait_ready() for _ in range(2)]
    bus = redis_server.client()
    await until(lambda: all(scrape(one).sum("weirgate_positions_shared") == 1 for one in instances), 10, "shared positions")

    def calls():
        stats = bus.info("commandstats")
        return [stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("publish", "hello")]

    before, seconds = calls(), 5
    await asyncio.sleep(seconds)
    made = [now - then for now, then in zip(calls(), before, strict=True)]
    for count in made:
        assert 2 * (seconds - 1) <= count <= 2 * (seconds + 1), made
    quiet = start_weirgate("trades", redis=redis_server).wait_ready()
    for one in instances:
        one.kill()
    before = calls()
    await asyncio.sleep(2)
    assert calls() == before, "no marks without a history"
    quiet.kill()
