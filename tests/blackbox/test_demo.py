"""What a newcomer tries first: the demo, and the Python client that the gateway's documents show."""
import asyncio
import json
import sys
import time

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
        states = [json.loads(await asyncio.wait_for(ws.recv(), 3)) for _ in range(12)]
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
            line = await asyncio.wait_for(child.stdout.readline(), 5)
        assert line.decode().strip() == "ES: 5301.25, Levels: 2"
    finally:
        child.kill()
        await child.wait()


def tab(weirgate, name):
    """(status, value) of what the demo says of a connection."""
    status, _, body = weirgate.get(f"/page/tab?name={name}")
    return status, json.loads(body)


async def test_a_tab_may_be_slowed_and_asks_how_its_connection_does(start_weirgate):
    weirgate = start_weirgate("demo", "--rate-hz", "20").wait_ready()
    async with websockets.connect(weirgate.ws_url, compression=None, max_size=None) as slow, websockets.connect(weirgate.ws_url) as fast:
        await slow.send(json.dumps({"tab": "one tab", "bytes_per_second": 20_000}))
        # Neither a name that another connection has, nor anything else that it says, changes anything.
        await fast.send(json.dumps({"tab": "one tab"}))
        await fast.send("hello")
        got = 0

        async def read():
            nonlocal got
            async for text in slow:
                got += len(text)
        reading = asyncio.create_task(read())
        # The full rate goes on until the gateway has read the request.
        await until(lambda: tab(weirgate, "one%20tab")[1] is not None, 10, "the pace is known")
        before, begin = got, time.monotonic()
        await asyncio.sleep(6)
        got, took = got - before, time.monotonic() - begin
        # What was queued before the pace came, and the message that was begun, come on top.
        assert got < 20_000 * took + 60_000, f"{got} bytes in {took:.1f} s"
        status, said = await asyncio.to_thread(tab, weirgate, "one%20tab")
        assert status == 200 and said["state"] in ("conflating", "blocked") and said["conflated"] > 20, said
        assert said["oldest_ms"] < 5_000 and said["queue_messages"] >= 1, said
        await slow.send(json.dumps({"tab": "one tab", "bytes_per_second": None}))
        await until(lambda: tab(weirgate, "one%20tab")[1]["state"] == "idle", 10, "the pace is over")
        reading.cancel()
        assert await asyncio.to_thread(tab, weirgate, "another") == (200, None)
    await until(lambda: tab(weirgate, "one%20tab") == (200, None), 5, "the connection has ended")
