"""Large answers and broadcasts of the events gateway: whole, in order, and nothing that everybody waits for."""
import asyncio
import json

from prometheus import scrape
from services import TOKEN, Service, device, push

MIB = 1024 * 1024


async def received(client):
    return json.loads(await asyncio.wait_for(client.recv(), 30))


async def test_what_is_too_large_to_compress_comes_plain_and_whole(start_weirgate):
    sizes = {"small": 1000, "large": 3 * MIB}
    lobby = Service(lambda asked: {"text": "x" * sizes[asked["message"]["request_id"]]})
    env = {"LOBBY_URL": lobby.url, "INTERNAL_AUTH_TOKEN": TOKEN}
    weirgate = start_weirgate("events", env=env).wait_ready()

    def deflated():
        return sum(scrape(weirgate).sum("weirgate_deflate_encodings_total", kind=kind) for kind in ("alone", "chained"))
    try:
        async with device(weirgate, "d", compression="deflate") as client:
            assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
            for request_id, frames in [("small", 1), ("large", 1), ("small", 2)]:
                await client.send(json.dumps({"event": "lobby.x", "request_id": request_id}))
                answer = await received(client)
                assert (answer["request_id"], answer["error"]) == (request_id, None)
                assert answer["data"] == {"text": "x" * sizes[request_id]}
                assert deflated() == frames, request_id
            data = {"list": [{"n": n} for n in range(200_000)]}
            assert await asyncio.to_thread(push, weirgate, "lobby.list", data, "d") == (200, {"sent": 1})
            assert (await received(client))["data"] == data
            assert deflated() == 2
    finally:
        lobby.stop()


async def test_a_broadcast_to_very_many_devices_has_many_turns(start_weirgate):
    weirgate = start_weirgate("events", env={"INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()

    def turns():
        return scrape(weirgate).sum("weirgate_loop_turns_total")
    ids = [f"d{n}" for n in range(500_000)]
    async with device(weirgate, "d0") as first, device(weirgate, "d499999") as last:
        before = turns()
        assert await asyncio.to_thread(push, weirgate, "lobby.x", {}, *ids) == (200, {"sent": 2})
        assert turns() - before > len(ids) / 500 / 64
        for client in [first, last]:
            assert (await received(client))["event"] == "lobby.x"


async def test_a_broadcast_to_very_many_devices_delays_no_response(start_weirgate):
    lobby = Service(lambda asked: {})
    env = {"LOBBY_URL": lobby.url, "INTERNAL_AUTH_TOKEN": TOKEN, "RATE_LIMIT_BURST": "100000", "RATE_LIMIT_RPS": "100000"}
    weirgate = start_weirgate("events", "--history-ms", "60000", env=env).wait_ready()
    ids = [f"d{n}" for n in range(200_000)]
    clock = asyncio.get_running_loop().time
    try:
        async with device(weirgate, ids[0]) as first, device(weirgate, ids[-1]) as last, device(weirgate, "other") as other:
            for client in [first, last, other]:
                await received(client)
            responses, done = [], asyncio.Event()

            async def call():
                while not done.is_set():
                    await other.send(json.dumps({"event": "lobby.x", "request_id": "1"}))
                    await received(other)
                    responses.append(clock())

            async def arrival(client):
                await received(client)
                return clock()
            calls = asyncio.create_task(call())
            pushed = asyncio.to_thread(push, weirgate, "lobby.x", {}, *ids)
            begin, end, answer = await asyncio.gather(arrival(first), arrival(last), pushed)
            done.set()
            await calls
            assert answer == (200, {"sent": 2})
            between = [at for at in responses if begin < at < end]
            # A response that waited for the whole broadcast would be the only one.
            assert len(between) > 2, (len(between), end - begin)
    finally:
        lobby.stop()
