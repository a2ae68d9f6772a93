"""A dead bus is seen without a history: by clients that ask for the status, and by nobody else."""
import asyncio
import contextlib
import json
import time

import pytest
import weirgate as clients
import websockets
from event_stream import Stream
from redis_gateways import BOTH
from waiting import patient, until

AWAY_S = 2


async def told(client, seconds=AWAY_S):
    """The next status."""
    async with asyncio.timeout(patient(seconds)):
        while (message := json.loads(await client.recv()))["type"] != "status":
            pass
    return message["bus"], message.get("lost", False)


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_a_dead_redis_is_told_within_two_seconds_and_its_end_too(kind, redis_server, start_weirgate):
    server = start_weirgate(kind.name, "--event-stream", redis=redis_server).wait_ready()
    url, ask = f"ws://127.0.0.1:{server.port}{kind.path}", kind.subscribe(["A"])
    make = {"trades": clients.Trades, "channels": clients.Channels}[kind.name]
    async with websockets.connect(url) as plain, websockets.connect(url) as old, make(url) as client:
        with contextlib.closing(Stream(server.port, kind.path, sends=[ask | {"status": True}])) as stream:
            await plain.send(json.dumps(ask | {"status": True}))
            await old.send(json.dumps(ask | {"status": False}))
            await client.subscribe((ask.get("symbols") or ask["channels"])[0])
            for one in (plain, old):
                for _ in range(2):
                    assert json.loads(await asyncio.wait_for(one.recv(), 60))["type"] != "status"
            assert stream.until(lambda message: message["type"] == kind.subscribed)
            redis_server.kill()
            assert (await told(plain))[0] == "away"
            await until(lambda: (client.bus, client.status) == ("away", "stale"), AWAY_S, "the client says so")
            began = time.monotonic()
            assert stream.until(lambda message: message["type"] == "status")["bus"] == "away"
            assert time.monotonic() - began < patient(AWAY_S)
            # Who comes meanwhile is told at once.
            async with websockets.connect(url) as late:
                await late.send(json.dumps(ask | {"status": True}))
                assert (await told(late))[0] == "away"
            await asyncio.sleep(9)
            assert client.status == "stale"
            await asyncio.to_thread(redis_server.start)
            news = []
            while ("up", True) not in news and news[-1:] != [("up", False)]:
                news.append(await told(plain, 10))
            await until(lambda: (client.bus, client.status) == ("up", "open"), 10, "the client says so")
            assert client.lost == 1
            assert stream.until(lambda message: message["type"] == "status" and message["bus"] == "up")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(old.recv(), 0.5)


async def test_a_dead_nats_is_told(nats, start_weirgate):
    server = start_weirgate("channels", "--bus", f"nats://127.0.0.1:{nats.port}", env={"DEFAULT_ROLE": "admin"}).wait_ready()
    url = f"ws://127.0.0.1:{server.port}/ws"
    async with websockets.connect(url) as old, clients.Channels(url) as client:
        await client.subscribe("market.tick.A")
        await old.send('{"action":"subscribe","channels":["market.tick.A"]}')
        for _ in range(2):
            await asyncio.wait_for(old.recv(), 60)
        nats.kill()
        await until(lambda: (client.bus, client.status) == ("away", "stale"), AWAY_S, "the client says so")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(old.recv(), 3)
        await asyncio.to_thread(nats.start)
        await until(lambda: (client.bus, client.status) == ("up", "open"), 10, "the client says so")
        assert client.lost == 1


@pytest.mark.parametrize("bus", ["redis", "nats"])
async def test_a_frozen_bus_is_told_and_loses_nothing(bus, request, start_weirgate):
    """The connection is kept: clients get the messages of the freeze, and both statuses without a loss."""
    broker = request.getfixturevalue({"redis": "redis_server", "nats": "nats"}[bus])
    server = start_weirgate("channels", "--bus", f"{bus}://127.0.0.1:{broker.port}", env={"DEFAULT_ROLE": "admin"}).wait_ready()
    url, name = f"ws://127.0.0.1:{server.port}/ws", {"redis": "market:tick:A", "nats": "market.tick.A"}[bus]
    values = []
    async with websockets.connect(url) as old, clients.Channels(url) as client, socket_of(broker) as publish:
        await client.subscribe(name, lambda data, message: values.append(data))
        await old.send(json.dumps({"action": "subscribe", "channels": [name]}))
        for _ in range(2):
            await asyncio.wait_for(old.recv(), 60)
        await publish(bus, name, 0)
        await until(lambda: values == [0], 5, "the first message")
        broker.freeze()
        try:
            await until(lambda: (client.bus, client.status) == ("away", "stale"), 3 + AWAY_S, "the client says so")
            await publish(bus, name, 1)
        finally:
            broker.thaw()
        await until(lambda: (client.bus, client.status) == ("up", "open"), 10, "its end")
        await publish(bus, name, 2)
        await until(lambda: len(values) == 3, 10, "all messages")
        assert (values, client.lost) == ([0, 1, 2], 0)
        assert [json.loads(await asyncio.wait_for(old.recv(), 60))["data"] for _ in range(3)] == [0, 1, 2]


@contextlib.asynccontextmanager
async def socket_of(broker):
    """A publisher that waits for no response, so that it can publish while the broker is frozen."""
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    started = False

    async def publish(bus, name, value):
        nonlocal started
        data = json.dumps(value)
        if bus == "nats":
            head = "" if started else 'CONNECT {"verbose":false}\r\n'
            line = f"{head}PUB {name} {len(data)}\r\n{data}\r\n"
        else:
            line = f"PUBLISH {name} {data}\r\n"
        started = True
        writer.write(line.encode())
        await writer.drain()
    try:
        yield publish
    finally:
        writer.close()
