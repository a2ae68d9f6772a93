"""What a newcomer tries first: the demo, and the Python client that the gateway's documents show."""
import asyncio
import json
import signal
import socket
import sys
import time

import pytest
import websockets
from bus import publisher
from waiting import until

CLIENT = """
import asyncio, json, sys
import websockets

async def main():
    async with websockets.connect(f"ws://localhost:{sys.argv[1]}/ws/stream") as ws:
        while True:
            data = json.loads(await ws.recv())
            if "levels" in data:
                spot = data["levels"].get("es", {}).get("spot")
                print(f"ES: {spot}, Levels: {len(data['levels'].get('levels', []))}", flush=True)

asyncio.run(main())
"""


async def test_demo_serves_its_page_and_moves(start_weirgate):
    weirgate = start_weirgate("demo")
    await until(lambda: weirgate.get("/")[0] == 200, 5, "the page")
    status, headers, page = weirgate.get("/")
    assert headers["content-type"].startswith("text/html") and "<html" in page.lower()
    weirgate.logs(f"{weirgate.port}")
    async with websockets.connect(weirgate.ws_url) as ws:
        states = [json.loads(await asyncio.wait_for(ws.recv(), 60)) for _ in range(12)]
    assert all("levels" in state for state in states[2:])
    assert len({state["levels"]["spy"]["spot"] for state in states[2:]}) > 1, "the spot price does not move"
    assert weirgate.ready_status() == 200


async def test_the_documents_python_client_runs(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(weirgate.port), stdout=asyncio.subprocess.PIPE)
    try:
        await until(lambda: weirgate.health()["connections"] == 1, 10, "the client connected")
        async with publisher(nats) as bus:
            await bus.flow({"ignored": 1})
            await bus.levels({"ts": 1715629300123, "es": {"spot": 5301.25}, "levels": [{"id": "a"}, {"id": "b"}]})
            line = await asyncio.wait_for(child.stdout.readline(), 60)
        assert line.decode().strip() == "ES: 5301.25, Levels: 2"
    finally:
        child.kill()
        await child.wait()


FULL_SPEED = 1_000_000_000


def tab(weirgate, name, bytes_per_second=None):
    """(status, value) of what the demo says of a connection; a pace is for a tab on the slow line."""
    pace = "" if bytes_per_second is None else f"&bytes_per_second={bytes_per_second}"
    status, _, body = weirgate.get(f"/page/tab?name={name}{pace}")
    return status, json.loads(body)


def slow_url(weirgate, name, bytes_per_second):
    """Where a tab connects over the slow line."""
    return f"ws://127.0.0.1:{weirgate.port}/page/slow/ws/stream?name={name}&bytes_per_second={bytes_per_second}"


async def test_a_tab_may_be_slowed_and_asks_how_its_connection_does(start_weirgate):
    weirgate = start_weirgate("demo", "--rate-hz", "20").wait_ready()
    url = slow_url(weirgate, "one%20tab", 20_000)
    fast_url = f"{weirgate.ws_url}?name=one%20tab"
    # Neither connection is read at its end: no wait for the closing handshake.
    options = {"max_size": None, "close_timeout": 0.1}
    async with (websockets.connect(url, compression=None, **options) as slow,
                websockets.connect(fast_url, **options) as fast):
        # A message changes nothing, and a name stays with the connection that had the name first.
        await fast.send("hello")
        got, begin = 0, time.monotonic()

        async def read():
            nonlocal got
            async for text in slow:
                got += len(text)
        reading = asyncio.create_task(read())
        await asyncio.sleep(3)
        took = time.monotonic() - begin
        # What the client's library had read before, and the message that was begun, come on top.
        assert got < 20_000 * took + 60_000, f"{got} bytes in {took:.1f} s"
        status, said = await asyncio.to_thread(tab, weirgate, "one%20tab")
        assert status == 200 and said["state"] in ("conflating", "blocked") and said["conflated"] > 20, said
        assert said["oldest_ms"] < 5_000 and said["queue_messages"] >= 1 and said["path"] == "/ws/stream", said
        await until(lambda: tab(weirgate, "one%20tab", FULL_SPEED)[1]["state"] == "idle", 10, "the pace is over")
        reading.cancel()
        assert await asyncio.to_thread(tab, weirgate, "another") == (200, None)
    await until(lambda: tab(weirgate, "one%20tab") == (200, None), 5, "the connection has ended")


async def refusal(url, **options):
    """The status of a handshake that is refused."""
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(url, **options)
    return refused.value.response.status_code


@pytest.mark.plain("over TLS a refused client is closed before its handshake, without a status")
async def test_the_slow_line_has_few_places_and_the_rules_of_the_gateway(start_weirgate):
    weirgate = start_weirgate("demo", "--connections-per-ip-max", "1").wait_ready()
    url = slow_url(weirgate, "a", 2_000)
    # The place of the request that found the gateway ready is given back with its connection.
    async for slow in websockets.connect(url, process_exception=lambda error: None):
        # A tab counts once in the limits of the gateway.
        assert "levels" in json.loads(await asyncio.wait_for(slow.recv(), 60))
        assert await refusal(slow_url(weirgate, "b", 2_000)) == 503
        await slow.close()
        break
    free = start_weirgate("demo", "--allowed-origins", "https://example.com").wait_ready()
    assert await refusal(slow_url(free, "b", 2_000), origin="https://other.example") == 403
    async with websockets.connect(slow_url(free, "a", 2_000), origin="https://example.com") as slow:
        assert await refusal(slow_url(free, "a", 2_000), origin="https://example.com") == 503, "the name is in use"
        free.send(signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                await asyncio.wait_for(slow.recv(), 10)
        assert closed.value.rcvd.code == 1012, "the close comes over the slow line too"
    assert free.wait(10) == 0


async def test_the_demo_is_at_both_loopbacks_unless_one_is_chosen(start_weirgate):
    """`localhost` is `::1` first on many machines."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        # Without IPv6 the demo starts all the same.
        start_weirgate("demo").wait_ready()
        return
    weirgate = start_weirgate("demo").wait_ready()
    with socket.create_connection(("::1", weirgate.port), 20) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    chosen = start_weirgate("demo", "--listen", "127.0.0.1").wait_ready()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("::1", chosen.port), 20)
