"""Limits on what clients and the bus may send, and the closes of a turn."""
import asyncio
import json
import signal

import pytest
import websockets
from bus import publisher
from clients import connect, connect_many
from prometheus import scrape
from redis_gateways import BOTH, CHANNELS, publish, subscriber
from waiting import until

@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_message_over_its_limit_is_closed_with_1009(start_weirgate, compression):
    weirgate = start_weirgate("demo", "--message-bytes-max", "1000").wait_ready()
    async with websockets.connect(weirgate.ws_url, compression=compression, max_size=None) as ws:
        await ws.send("x" * 1000)
        await ws.send(["y" * 500, "y" * 500])
        await asyncio.wait_for(await ws.ping(), 60)
        for too_big in (["z" * 500, "z" * 501], "x" * 100_000):
            async with websockets.connect(weirgate.ws_url, compression=compression, max_size=None) as other:
                await other.send(too_big)
                with pytest.raises(websockets.ConnectionClosed):
                    while True:
                        await asyncio.wait_for(other.recv(), 10)
                assert other.close_code == 1009
        await asyncio.wait_for(await ws.ping(), 10)
    await until(lambda: scrape(weirgate).sum("weirgate_client_closes_total", reason="message_too_big") == 2, 10, "weirgate_client_closes_total")


async def test_clients_that_leave_at_once_are_closed_in_many_turns(start_weirgate):
    """They leave while the process is stopped, so that it sees all of them in one turn."""
    weirgate = start_weirgate("demo").wait_ready()
    stays, *leave = await connect_many(1_000, weirgate.port)
    weirgate.send(signal.SIGSTOP)
    try:
        for client in leave:
            client.transport.abort()
        await asyncio.sleep(0.2)
    finally:
        weirgate.send(signal.SIGCONT)
    await until(lambda: scrape(weirgate).sum("weirgate_clients") == 1, 30, "the others to be closed")
    await until(lambda: scrape(weirgate).sum("weirgate_loop_budgets_spent_total", budget="closes") >= 1, 10, "weirgate_loop_budgets_spent_total")
    before = stays.messages
    await stays.wait_for(lambda c: c.messages > before, 10, "the feed")


async def test_bus_messages_over_a_limit_are_skipped_and_counted(nats, start_weirgate):
    weirgate = start_weirgate("levels", "--bus-message-bytes-max", "2000", nats=nats).wait_ready()
    client = await connect(weirgate.port)
    deep = []
    for _ in range(600):
        deep = [deep]
    async with publisher(nats) as bus:
        for value in ({"n": 1}, {"pad": "x" * 2000}, deep, {"n": 2}):
            await bus.flow(value)
        await client.wait_for(lambda c: c.newest and c.state() == {"flow": {"n": 2}}, 10, "the message after them")
    assert client.messages == 2
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_bus_messages_bad_total", subject="market.flow") == 2
    await until(lambda: weirgate.log().count("bad message skipped") == 2, 5, "a line for each")


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_messages_of_names_over_a_limit_are_skipped_and_counted(kind, redis_server, start_weirgate):
    """A client may hold names of 512 bytes; longer ones come by its patterns, up to 4,096 bytes."""
    weirgate = start_weirgate(kind.name, redis=redis_server).wait_ready()
    exact = await subscriber(kind, weirgate, ["A"])
    clients = [exact] + ([await subscriber(CHANNELS, weirgate, ["*"])] if kind is CHANNELS else [])
    longest = 4_096 - len(kind.channel(""))
    with redis_server.client() as redis:
        for price, length in enumerate([longest, longest + 1, 5_000_000]):
            redis.publish(kind.channel("\x01" * length), json.dumps({"price": price}))
        publish(redis, kind, "A", 7)
    for client, prices in zip(clients, [[7], [0, 7]]):
        await client.wait_for(lambda c: c.prices[-1:] == [7], 10, "the message after them")
        assert client.prices == prices
    assert [client.missing for client in clients] == [0, 2][:len(clients)]
    assert scrape(weirgate).sum("weirgate_bus_messages_bad_total") == 2
    await until(lambda: weirgate.log().count("a name of over 4,096 bytes") == 2, 5, "a line for each")
    assert max(map(len, weirgate.log().splitlines())) < 1_000
