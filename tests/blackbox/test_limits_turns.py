"""Limits on what clients and the bus may send, and the budgets of a turn with values so small that every turn hits them."""
import asyncio
import json
import signal
import socket

import pytest
import websockets
from bus import publisher
from clients import TEXT, client_frame, connect, connect_many, upgrade_request
from prometheus import scrape
from waiting import until

KIB = 1024


async def test_a_full_backlog_is_served_once_there_is_time(start_weirgate):
    weirgate = start_weirgate("demo", "--listen-backlog", "1").wait_ready()
    weirgate.send(signal.SIGSTOP)
    loop = asyncio.get_running_loop()
    sockets = [socket.socket() for _ in range(8)]
    try:
        for s in sockets:
            s.setblocking(False)
        connecting = [asyncio.create_task(loop.sock_connect(s, ("127.0.0.1", weirgate.port))) for s in sockets]
        done, waiting = await asyncio.wait(connecting, timeout=0.5)
        assert len(done) < len(sockets), "the kernel took more than its backlog"
        weirgate.send(signal.SIGCONT)
        await asyncio.wait_for(asyncio.gather(*waiting), 20)
        for s in sockets:
            await loop.sock_sendall(s, upgrade_request(weirgate.port))
            assert (await asyncio.wait_for(loop.sock_recv(s, 12), 10)) == b"HTTP/1.1 101"
    finally:
        weirgate.send(signal.SIGCONT)
        for s in sockets:
            s.close()


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_message_over_its_limit_is_closed_with_1009(start_weirgate, compression):
    weirgate = start_weirgate("demo", "--message-bytes-max", "1000").wait_ready()
    async with websockets.connect(weirgate.ws_url, compression=compression, max_size=None) as ws:
        await ws.send("x" * 1000)
        await ws.send(["y" * 500, "y" * 500])
        await asyncio.wait_for(await ws.ping(), 10)
        for too_big in (["z" * 500, "z" * 501], "x" * 100_000):
            async with websockets.connect(weirgate.ws_url, compression=compression, max_size=None) as other:
                await other.send(too_big)
                with pytest.raises(websockets.ConnectionClosed):
                    while True:
                        await asyncio.wait_for(other.recv(), 10)
                assert other.close_code == 1009
        await asyncio.wait_for(await ws.ping(), 10)
    await until(lambda: scrape(weirgate).sum("weirgate_client_closes_total", reason="message_too_big") == 2, 10, "weirgate_client_closes_total")


@pytest.mark.parametrize("budget, turns_min", [
    (["--turn-message-bytes-max", "1"], 1_000),
    (["--read-bytes-per-turn-max", "1024"], 100),
])
async def test_a_client_that_floods_has_its_share_and_no_more(start_weirgate, budget, turns_min):
    """What it sent while the process was stopped lies in the kernel, so that only the budget cuts it into turns."""
    messages = 1_000
    weirgate = start_weirgate("demo", *budget).wait_ready()
    flooder, other = await connect(weirgate.port), await connect(weirgate.port)
    weirgate.send(signal.SIGSTOP)
    try:
        flooder.transport.write(client_frame(TEXT, b"x" * 100) * messages)
        await asyncio.sleep(0.2)
    finally:
        weirgate.send(signal.SIGCONT)
    before = other.messages
    await until(lambda: scrape(weirgate).sum("weirgate_received_messages_total") == messages, 30, "all messages heard")
    turns = scrape(weirgate).sum("weirgate_loop_turns_total")
    assert turns >= turns_min, f"{messages} messages in {turns} turns"
    await other.wait_for(lambda c: c.messages > before, 10, "the feed")
    assert flooder.open and other.open


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


async def test_small_budgets_lose_nothing(nats, start_weirgate):
    flags = ["--accepts-per-turn-max", "1", "--write-bytes-max", "1024", "--turn-publication-bytes-max", "1024",
             "--bus-queue-messages-max", "1", "--read-bytes-per-turn-max", "1024"]
    weirgate = start_weirgate("levels", *flags, nats=nats).wait_ready()
    clients = await connect_many(100, weirgate.port)
    messages = 200
    async with publisher(nats) as bus:
        for n in range(messages):
            await bus.flow({"n": n, "pad": "x" * 8 * KIB}, flush=False)
        await bus.connection.flush(timeout=30)
        for client in clients:
            await client.wait_for(lambda c: c.newest and c.state()["flow"]["n"] == messages - 1, 60, "the newest state")
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_bus_messages_total") == messages, "the bus waited, and nothing is missing"
    assert metrics.sum("weirgate_client_closes_total") == 0
    sent = metrics.sum("weirgate_frames_sent_total") + metrics.sum("weirgate_messages_conflated_total")
    assert sent == metrics.sum("weirgate_messages_queued_total") == messages * len(clients)


async def test_bus_messages_over_a_limit_are_skipped_and_counted(nats, start_weirgate):
    flags = ["--bus-message-bytes-max", "2000", "--json-depth-max", "10"]
    weirgate = start_weirgate("levels", *flags, nats=nats).wait_ready()
    client = await connect(weirgate.port)
    deep = json.loads("[" * 20 + "]" * 20)
    async with publisher(nats) as bus:
        for value in ({"n": 1}, {"pad": "x" * 2000}, deep, {"n": 2}):
            await bus.flow(value)
        await client.wait_for(lambda c: c.newest and c.state() == {"flow": {"n": 2}}, 10, "the message after them")
    assert client.messages == 2
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_bus_messages_bad_total", subject="market.flow") == 2
    await until(lambda: weirgate.log().count("bad message skipped") == 2, 5, "a line for each")
