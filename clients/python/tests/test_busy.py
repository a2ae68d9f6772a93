"""A long task blocks the event loop: neither the connection is given up, nor do WebSockets count as broken."""
import asyncio
import time

import pytest
import weirgate
from prometheus import scrape
from waiting import patient
from websockets.utils import accept_key
from weirgate import fallback

# Longer than each wait for a WebSocket.
TASK_S = 6


@pytest.fixture(autouse=True)
def unknown_networks(monkeypatch):
    monkeypatch.setattr(fallback, "_networks", {})


async def until(condition, seconds, what):
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < patient(seconds), f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


def clients_of(server):
    """WebSockets and streams; streams."""
    return [int(scrape(server).sum(f"weirgate_{name}")) for name in ("clients", "event_stream_clients")]


async def test_while_a_websocket_opens(start_weirgate):
    server = start_weirgate("demo").wait_ready()
    async with weirgate.Levels(server.http_url + "/ws/stream", fallback=True) as levels:
        # The connection needs several turns of the loop.
        for _ in range(2):
            time.sleep(TASK_S)
            await asyncio.sleep(0)
        await until(lambda: levels.state, 10, "a state")
        assert (levels.last_close, clients_of(server)) == (None, [1, 0])


async def test_before_the_first_message():
    async def speak(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(accepted(head))
        await asyncio.sleep(0.3)
        writer.write(b"\x81\x02{}")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        def opened():
            asyncio.get_running_loop().call_later(0.1, time.sleep, TASK_S)
        async with weirgate.Levels(url, fallback=True, on_open=opened) as levels:
            await until(lambda: levels.state is not None, 10, "a state")
            assert levels.last_close is None


async def test_while_messages_come(start_weirgate):
    server = start_weirgate("demo", "--rate-hz", "10").wait_ready()
    async with weirgate.Levels(server.http_url + "/ws/stream", fallback=True) as levels:
        await until(lambda: levels.state, 10, "a state")
        time.sleep(9)
        await asyncio.sleep(2)
        await until(lambda: levels.status == "open", 5, "a fresh state")
        assert (levels.last_close, clients_of(server)) == (None, [1, 0])


async def test_before_the_answer_to_a_ping(start_weirgate, redis_server):
    server = start_weirgate("channels", "--event-stream", redis=redis_server).wait_ready()
    async with weirgate.Channels(server.http_url + "/ws", fallback=True) as channels:
        await channels.subscribe("market:tick:a")
        answer = asyncio.ensure_future(channels.ping())
        await asyncio.sleep(0)
        # Longer than `request_ms`, before the task that sends has run.
        time.sleep(11)
        assert (await answer)["type"] == "pong"
        assert (channels.last_close, clients_of(server)) == (None, [1, 0])


async def test_so_long_that_the_gateway_gives_up_twice_and_the_next_is_a_websocket_again(start_weirgate):
    server = start_weirgate("demo", "--rate-hz", "10", "--ping-interval-ms", "1000", "--pong-timeout-ms", "2000").wait_ready()
    async with weirgate.Levels(server.http_url + "/ws/stream", fallback=True) as levels:
        for n in range(2):
            await until(lambda n=n: levels.reconnects == n and levels.status == "open", 10, "a connection")
            time.sleep(TASK_S)
        await until(lambda: levels.reconnects == 2 and levels.status == "open", 10, "the next connection")
        assert clients_of(server) == [1, 0]


def accepted(head):
    """The response to a handshake (RFC 6455 §4.2.2)."""
    [key] = [line.split(": ")[1] for line in head.decode().split("\r\n") if line.lower().startswith("sec-websocket-key")]
    return f"HTTP/1.1 101 a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode()
