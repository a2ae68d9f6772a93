"""`weirgate channels --history`: a client that was away gets what it missed, or is told that it does not. On both buses."""
import asyncio
import json
import signal

import clients
import nats as nats_py
import pytest
import weirgate as client_library
from link import Link
from prometheus import scrape
from waiting import until

MESSAGES = 100
HISTORY = ("--history", "200")


class OnRedis:
    name = "redis"
    pattern = "ticks:*"

    def __init__(self, request):
        self.server = request.getfixturevalue("redis_server")
        self.start = lambda *flags, **kwargs: request.getfixturevalue("start_weirgate")(
            "channels", *flags, redis=self.server, **kwargs)

    async def publish(self, *values, channel="ticks:A"):
        client = self.server.client()
        for value in values:
            await asyncio.to_thread(client.publish, channel, json.dumps(value))


class OnNats:
    name = "nats"
    pattern = "ticks.*"

    def __init__(self, request):
        self.server = request.getfixturevalue("start_nats")()
        self.start = lambda *flags, **kwargs: request.getfixturevalue("start_weirgate")(
            "channels", "--bus", self.server.url, *flags, **kwargs)

    async def publish(self, *values, channel="ticks.A"):
        client = await nats_py.connect(self.server.url, allow_reconnect=False, connect_timeout=5)
        for value in values:
            await client.publish(channel, json.dumps(value).encode())
        await client.flush()
        await client.close()


@pytest.fixture(params=[OnRedis, OnNats], ids=lambda bus: bus.name)
def bus(request):
    """A bus, and gateways on it: bus.start(*flags), bus.publish(values…)."""
    return request.param(request)


def gateway(bus, *flags, env=None):
    return bus.start(*(flags or HISTORY), env=env or {"DEFAULT_ROLE": "internal"}).wait_ready()


class Reader(clients.Client):
    """A client that keeps answers and data apart."""

    def __init__(self, *args):
        super().__init__(*args)
        self.answers, self.data = [], []

    def take(self, opcode, payload):
        super().take(opcode, payload)
        if opcode == clients.TEXT:
            message = json.loads(payload)
            (self.data if message["type"] == "data" else self.answers).append(message)


async def ask(weirgate, name, **since):
    """A new connection that subscribes to the name, and the answer."""
    client = await clients.connect(weirgate.port, path="/ws", make=Reader)
    client.say({"action": "subscribe", "channels": [name], **since})
    await client.wait_for(lambda c: len(c.answers) == 2, 20, "the answer")
    return client, client.answers[1]


async def connect(weirgate, name):
    """A new client that holds the name, and where the name is."""
    client, answer = await ask(weirgate, name)
    return client, answer["positions"][name]


async def resume(weirgate, name, position):
    return await ask(weirgate, name, since={name: position})


async def test_the_client_library_is_away_for_two_seconds(bus):
    """100 messages while the only client is away; all come, in order, once, behind `recovered`."""
    weirgate = gateway(bus)
    acknowledgements, gaps, got = [], [], []
    async with Link(weirgate.port).running() as link:
        url = link.url.replace("nats://", "ws://") + "/ws"
        channels = client_library.Channels(url, on_subscribed=acknowledgements.append, on_gap=gaps.append,
                                           on_data=lambda message: got.append(message["data"]))
        async with channels:
            await channels.subscribe(bus.pattern)
            await bus.publish("before")
            await until(lambda: got == ["before"], 10, "the first message")
            link.cut()
            await until(lambda: weirgate.health()["clients_connected"] == 0, 10, "the loss noticed")
            for n in range(MESSAGES):
                await bus.publish(n)
                await asyncio.sleep(2 / MESSAGES)
            link.mend()
            await until(lambda: len(got) == MESSAGES + 1, 20, "what was missed")
            await bus.publish("after")
            await until(lambda: got[-1] == "after", 10, "what is new")
    assert got == ["before", *range(MESSAGES), "after"]
    assert acknowledgements[-1]["recovered"] == {bus.pattern: True} and len(acknowledgements) == 2
    assert gaps == []
    await until(lambda: scrape(weirgate).sum("weirgate_resumes_total", outcome="recovered") == 1, 10, "weirgate_resumes_total")


async def test_a_window_that_is_too_small(bus):
    weirgate = gateway(bus, "--history", "10")
    client, position = await connect(weirgate, bus.pattern)
    await bus.publish(*range(20))
    await client.wait_for(lambda c: len(c.data) == 20, 10, "all of it")
    assert [message["offset"] for message in client.data] == list(range(1, 21))
    client.abort()
    _, answer = await resume(weirgate, bus.pattern, {**position, "offset": 9})
    assert answer["recovered"] == {bus.pattern: False}
    assert answer["positions"] == {bus.pattern: {**position, "offset": 20}}
    back, answer = await resume(weirgate, bus.pattern, {**position, "offset": 10})
    assert answer["recovered"] == {bus.pattern: True}
    await back.wait_for(lambda c: len(c.data) == 10, 10, "the window")
    assert [message["data"] for message in back.data] == list(range(10, 20))
    await until(lambda: scrape(weirgate).sum("weirgate_history_messages") == 10, 10, "weirgate_history_messages")


async def test_the_bus_was_away_in_between(bus):
    """What was published while the gateway did not hear it is never said to be recovered."""
    weirgate = gateway(bus)
    client, position = await connect(weirgate, bus.pattern)
    stays, _ = await connect(weirgate, bus.pattern)
    client.abort()
    bus.server.kill()
    connected = f"{bus.name}_connected"
    await until(lambda: not weirgate.health()[connected], 20, "the loss noticed")
    await asyncio.to_thread(bus.server.start)
    await until(lambda: weirgate.health()[connected], 20, "the bus back")
    await until(lambda: scrape(weirgate).sum("weirgate_history_names") == 1, 20, "the name confirmed")
    await bus.publish("new")
    await stays.wait_for(lambda c: c.data, 10, "the first message since")
    assert stays.data[0]["offset"] == 1 and stays.data[0]["epoch"] != position["epoch"]
    _, answer = await resume(weirgate, bus.pattern, position)
    assert answer["recovered"] == {bus.pattern: False}
    _, answer = await resume(weirgate, bus.pattern, {"epoch": stays.data[0]["epoch"], "offset": 1})
    assert answer["recovered"] == {bus.pattern: True}
    await until(lambda: scrape(weirgate).sum("weirgate_resumes_total", outcome="epoch") == 1, 10, "weirgate_resumes_total")


async def test_a_name_without_clients_is_given_up(bus):
    weirgate = gateway(bus, *HISTORY, "--history-ms", "300")
    client, position = await connect(weirgate, bus.pattern)
    client.abort()
    await until(lambda: scrape(weirgate).sum("weirgate_subscribed_names") == 0, 10, "the name given up")
    await bus.publish("lost")
    _, answer = await resume(weirgate, bus.pattern, position)
    assert answer["recovered"] == {bus.pattern: False}


async def test_a_role_that_lost_the_right(bus, tmp_path):
    table = tmp_path / "roles.json"
    table.write_text(json.dumps({"user": [bus.pattern]}))
    weirgate = gateway(bus, *HISTORY, "--acl", str(table), env={"DEFAULT_ROLE": "user"})
    client, position = await connect(weirgate, bus.pattern)
    client.abort()
    await bus.publish("secret")
    table.write_text(json.dumps({"user": ["other"]}))
    weirgate.send(signal.SIGHUP)
    await until(lambda: "SIGHUP: " in weirgate.log(), 10, "the table read again")
    back, answer = await resume(weirgate, bus.pattern, position)
    assert answer["errors"] == [f"Access denied to channel: {bus.pattern}"]
    assert answer["recovered"] == {} and back.data == []
