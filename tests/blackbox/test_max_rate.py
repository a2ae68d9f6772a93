"""A client's own rate, `?max_hz=`: fewer messages, and the newest always."""
import asyncio
import dataclasses
import itertools
import json
import time

import pytest
import websockets
import weirgate as weirgate_clients
from bus import publisher
from clients import connect, upgrade_request
from event_stream import Stream
from prometheus import scrape
from redis_gateways import CHANNELS, subscriber
from test_compression import Raw
from waiting import patient, until

HZ, SECONDS = 20, 6
COUNT = HZ * SECONDS
REFUSAL = {"detail": "max_hz must be a number from 0.1 to 1000"}


async def steady(publish):
    """`COUNT` values by `publish`, `HZ` times a second at the most; returns the seconds taken."""
    begin = time.monotonic()
    for n in range(COUNT):
        await publish({"n": n, "price": n, "pad": "weirgate " * 40})
        await asyncio.sleep(max(0.0, begin + (n + 1) / HZ - time.monotonic()))
    return time.monotonic() - begin


async def test_one_state_a_second_of_twenty_and_the_last_within_a_second(nats, start_weirgate):
    weirgate = start_weirgate("levels", "--state-seq", nats=nats).wait_ready()
    path = "/ws/stream?max_hz=1"
    slow, fast = await connect(weirgate.port, path=path, keep_sums=True), await connect(weirgate.port)
    async with publisher(nats) as bus:
        seconds = await steady(bus.flow)
    ended = time.monotonic()
    await slow.wait_for(lambda c: c.newest and c.state()["flow"]["n"] == COUNT - 1, 5, "the newest state")
    took = time.monotonic() - ended
    assert took < patient(2), f"the last state came {took:.1f} s behind the end"
    await fast.wait_for(lambda c: c.messages == COUNT, 5, "every state")
    # At once, then at most once a second, on a busy machine less often.
    assert SECONDS / 2 <= slow.messages <= seconds + 2, (slow.messages, seconds)
    assert slow.state() == fast.state(), "the same bytes, with the number of the broadcast"
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_messages_conflated_total") == COUNT - slow.messages
    assert metrics.sum("weirgate_messages_waiting") == 0


async def test_a_rate_of_one_saves_four_fifths_of_the_compressed_bytes(nats, start_weirgate):
    """A message of a client that skips refers to no earlier message, and is longer."""
    weirgate = start_weirgate("levels", nats=nats).wait_ready()
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    clients = [await Raw.connect(weirgate.port, offer, path) for path in ("/ws/stream", "/ws/stream?max_hz=1")]

    async def read(client):
        while True:
            await client.message()

    readers = [asyncio.create_task(read(client)) for client in clients]
    async with publisher(nats) as bus:
        seconds = await steady(bus.flow)
    await asyncio.sleep(1.5)
    for reader in readers:
        reader.cancel()
    full, some = (sum(client.bytes) for client in clients)
    assert len(clients[0].bytes) == COUNT and len(clients[1].bytes) >= SECONDS / 2
    assert some <= full / 5 * max(1, seconds / SECONDS), f"{some} of {full} bytes in {seconds:.1f} s"


async def test_of_channels_the_conflated_names_wait_and_no_others(redis_server, start_weirgate):
    weirgate = start_weirgate("channels", "--conflate", "market:tick:*", redis=redis_server).wait_ready()
    kind = dataclasses.replace(CHANNELS, path="/ws?max_hz=1")
    conflated = await subscriber(kind, weirgate, ["A", "B"])
    plain = dataclasses.replace(kind, subscribe=lambda names: {"action": "subscribe", "channels": names})
    other = await subscriber(plain, weirgate, ["indicators:A"])
    publish = redis_server.client().publish

    async def all_names(value):
        for name in ("market:tick:A", "market:tick:B", "indicators:A"):
            publish(name, json.dumps(value))

    seconds = await steady(all_names)
    await other.wait_for(lambda c: c.messages == 2 + COUNT, 5, "every message of a name that is not conflated")
    assert other.missing == 0
    await conflated.wait_for(lambda c: c.prices[-2:] == [COUNT - 1] * 2, 5, "the newest of both names")
    assert SECONDS <= len(conflated.prices) <= 2 * (seconds + 2), (conflated.prices, seconds)
    # Each skipped message has kept its number.
    assert conflated.missing == 2 * COUNT - len(conflated.prices)
    # Responses do not wait: in slots of a second these would take 20.
    asked = time.monotonic()
    for answers in range(3, 23):
        conflated.say({"action": "ping"})
        await conflated.wait_for(lambda c: len(c.answers) == answers, 5, "the answer")
    assert time.monotonic() - asked < patient(5)


async def test_an_event_stream_and_both_clients_have_the_rate(start_weirgate):
    weirgate = start_weirgate("demo", "--rate-hz", "20").wait_ready()
    stream = Stream(weirgate.port, "/ws/stream?max_hz=2")
    times = []
    # Two more than the bound needs: this program may be late for the first.
    for _ in range(7):
        await asyncio.to_thread(stream.event)
        times.append(time.monotonic())
    stream.close()
    gaps = [late - early for early, late in itertools.pairwise(times[1:])]
    assert sum(gaps) > 1.2, gaps
    async with weirgate_clients.Levels(weirgate.ws_url, max_hz=2) as levels:
        times = []
        async for _ in levels:
            times.append(time.monotonic())
            if len(times) == 7:
                break
        assert times[-1] - times[0] > 1.2, times
    await until(lambda: scrape(weirgate).sum("weirgate_clients") == 0, 10, "both gone")
    assert scrape(weirgate).sum("weirgate_messages_conflated_total") > 20


@pytest.mark.parametrize("name, path", [("demo", "/ws/stream"), ("channels", "/ws")])
async def test_a_value_out_of_range_is_refused_with_its_reason(start_weirgate, redis_server, name, path):
    weirgate = start_weirgate(name, redis=redis_server).wait_ready()
    values = ["0", "0.09", "1000.1", "-1", "two", "", "NaN", "1e2"]
    for value in values:
        reader, writer = await asyncio.open_connection("127.0.0.1", weirgate.port)
        writer.write(upgrade_request(weirgate.port, f"{path}?max_hz={value}"))
        head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), (value, head)
        assert json.loads(body) == REFUSAL, value
        writer.close()
    assert scrape(weirgate).sum("weirgate_client_closes_total", reason="bad_request") == len(values)
    weirgate.logs("bad_request")


async def rate(client, max_hz):
    """Asks for a rate, and returns the response; what came before is thrown away."""
    await client.send(json.dumps({"action": "rate", "max_hz": max_hz}))
    while (message := json.loads(await asyncio.wait_for(client.recv(), 60))).get("type") not in ("rate", "error"):
        pass
    return message


@pytest.mark.long
async def test_a_client_of_levels_changes_its_rate_while_connected(start_weirgate):
    weirgate = start_weirgate("demo", "--rate-hz", "20").wait_ready()
    uri = f"ws://127.0.0.1:{weirgate.port}/ws/stream"
    async with websockets.connect(uri) as client, websockets.connect(uri) as other:
        for noise in ("", "hello", "[1]", '{"action":"ping"}', json.dumps({"action": "rate", "max_hz": 1, "pad": "x" * 300})):
            await client.send(noise)
        for wrong in (0, "2", None, [2], 1e9):
            if wrong is not None:
                assert (await rate(client, wrong))["error"] == "max_hz must be a number from 0.1 to 1000, or null"
        assert await rate(client, 0.5) == {"type": "rate", "max_hz": 0.5}
        begin = time.monotonic()
        for _ in range(4):
            await client.recv()
        assert time.monotonic() - begin > 3, "three slots of two seconds, and less of the first"
        assert await rate(client, None) == {"type": "rate", "max_hz": None}
        # At the old rate these would take 40 s.
        async with asyncio.timeout(patient(5)):
            for _ in range(20):
                assert "type" not in json.loads(await client.recv()), "every state again"
        for _ in range(100):
            assert "type" not in json.loads(await asyncio.wait_for(other.recv(), 60)), "nobody else notices"


async def test_trades_know_no_rate(redis_server, start_weirgate):
    """As before: the parameter has no meaning there."""
    weirgate = start_weirgate("trades", redis=redis_server).wait_ready()
    client = await connect(weirgate.port, path="/?max_hz=nonsense")
    await client.wait_for(lambda c: c.messages == 1, 5, "the welcome")
