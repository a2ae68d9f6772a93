"""A stop of the events gateway: what was received is answered first, and nobody waits for a service for ever."""
import asyncio
import json
import signal
import threading
import time

import pytest
from prometheus import scrape
from services import TOKEN, Service, device, post, push
from waiting import patient, until
from websockets.exceptions import ConnectionClosed


class World:
    """The gateway, and a service that answers once it is let."""

    def __init__(self, start_weirgate, *flags):
        self.let = threading.Event()
        self.lobby = Service(self.answer)
        env = {"LOBBY_URL": self.lobby.url, "INTERNAL_AUTH_TOKEN": TOKEN, "MEASUREMENT_URL": self.lobby.url, "HTTP_TIMEOUT_SECONDS": "60"}
        self.weirgate = start_weirgate("events", *flags, env=env).wait_ready()

    def answer(self, asked):
        self.let.wait(60)
        return asked["message"]["data"]

    async def ask(self, client, *numbers):
        """Sends requests; returns once all were received and the first has reached the service."""
        before = scrape(self.weirgate).sum("weirgate_received_messages_total")
        asked = len(self.lobby.asked)
        for n in numbers:
            await client.send(json.dumps({"event": "lobby.x", "request_id": str(n), "data": {"n": n}}))
        want = before + len(numbers)
        await until(lambda: scrape(self.weirgate).sum("weirgate_received_messages_total") == want, 20, "messages received")
        await until(lambda: len(self.lobby.asked) > asked, 20, "the call")

    async def stop(self):
        """SIGTERM; returns once the closes have begun."""
        async with device(self.weirgate, "idle") as idle:
            self.weirgate.send(signal.SIGTERM)
            assert await close_of(idle) == 1012

    async def ended(self, seconds=20):
        assert await asyncio.to_thread(self.weirgate.wait, seconds) == 0


@pytest.fixture
def world(start_weirgate):
    """world(*flags) → World, whose service ends with the test."""
    worlds = []

    def start(*flags):
        worlds.append(World(start_weirgate, *flags))
        return worlds[-1]
    yield start
    for one in worlds:
        one.let.set()
        one.lobby.stop()


async def received(client):
    return json.loads(await asyncio.wait_for(client.recv(), 20))


async def close_of(client):
    """The code that a client with nothing more to read is closed with."""
    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(client.recv(), 20)
    return closed.value.rcvd.code if closed.value.rcvd else None


@pytest.mark.parametrize("flags", [[], ["--drain-ms", "500"], ["--drain-delay-ms", "500"]])
async def test_what_was_received_is_answered_before_the_close(world, flags):
    world = world(*flags)
    async with device(world.weirgate, "d") as client:
        await world.ask(client, 1, 2, 3)
        await world.stop()
        assert await asyncio.to_thread(push, world.weirgate, "lobby.updated", {}, "d") == (200, {"sent": 1})
        assert (await received(client))["event"] == "lobby.updated"
        world.let.set()
        for n in [1, 2, 3]:
            assert (await received(client))["data"] == {"n": n}
        assert await close_of(client) == 1012
    await world.ended()
    assert len(world.lobby.asked) == 3


async def test_who_waits_for_an_answer_is_closed_all_the_same(world):
    world = world("--stop-timeout-ms", "2000")
    async with device(world.weirgate, "d") as client:
        await world.ask(client, 1)
        begin = time.monotonic()
        await world.stop()
        assert await close_of(client) == 1012
        await world.ended()
        took = time.monotonic() - begin
    assert 1 < took < 2 + patient(3), f"the stop took {took:.3f} s"


async def test_messages_of_clients_that_have_gone_are_forwarded_before_the_end(world):
    world = world()
    async with device(world.weirgate, "d") as client:
        await world.ask(client, 1, 2, 3)
    await world.stop()
    world.let.set()
    await world.ended()
    assert [asked["message"]["data"]["n"] for asked in world.lobby.asked] == [1, 2, 3]


async def test_nothing_is_taken_on_any_more(world):
    world = world()
    async with device(world.weirgate, "d") as client:
        await world.ask(client, 1)
        await world.stop()
        await client.send(json.dumps({"event": "lobby.x", "request_id": "2", "data": {}}))
        world.let.set()
        assert (await received(client))["request_id"] == "1"
        assert await close_of(client) == 1012
    await world.ended()
    assert len(world.lobby.asked) == 1


def proxied(world):
    """A request to the service through the proxy, on its way: its status, later."""
    return asyncio.create_task(asyncio.to_thread(post, world.weirgate.http_url + "/v1/jobs/x", {"message": {"data": 1}}))


async def proxied_at_the_service(world):
    request = proxied(world)
    await until(lambda: world.lobby.asked, 20, "the request at the service")
    return request


async def test_a_proxied_request_has_the_time_of_the_stop(world):
    world = world("--stop-timeout-ms", "60000")
    request = await proxied_at_the_service(world)
    begin = time.monotonic()
    world.weirgate.send(signal.SIGTERM)
    await asyncio.sleep(1)
    assert world.weirgate.alive()
    world.let.set()
    assert await request == (200, 1)
    await world.ended(10)
    assert time.monotonic() - begin < patient(10)


async def test_a_second_signal_waits_for_no_proxied_request(world):
    world = world("--stop-timeout-ms", "60000")
    request = await proxied_at_the_service(world)
    world.weirgate.send(signal.SIGTERM)
    await asyncio.sleep(0.5)
    world.weirgate.send(signal.SIGTERM)
    await world.ended(5)
    with pytest.raises(OSError):
        await request


async def test_a_second_signal_waits_for_no_answer(world):
    world = world("--stop-timeout-ms", "60000")
    async with device(world.weirgate, "d") as client:
        await world.ask(client, 1)
        await world.stop()
        assert world.weirgate.alive()
        world.weirgate.send(signal.SIGTERM)
        await world.ended(5)
        await close_of(client)
