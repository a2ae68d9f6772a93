"""A machine whose wall clock is set while it runs: by an hour, a day, to 1971, and before 1970, as some say until they have asked
the network."""
import asyncio
import json
import ssl
import time

import pytest
import redis.asyncio
import websockets
from bus import publisher
from clients import PING, TEXT, client_frame, upgrade_request
from clock import Clock
from event_stream import Stream
from services import TOKEN, push
from tls import get
from waiting import patient, until

HOUR_S, DAY_S = 3600, 86_400
YEAR_S = 365 * DAY_S
# Each step is from the right time, so that the clock goes forward and back by all of them.
STEPS_S = [HOUR_S, -HOUR_S, DAY_S, YEAR_S - time.time(), 0, -time.time() - DAY_S, 0]


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path)


@pytest.mark.plain("the clock of a test client is not the gateway's")
async def test_a_clock_before_1970_ends_nothing(start_tls, clock, authority):
    clock.step(-time.time() - DAY_S)
    weirgate = start_tls("demo", env=clock.env)
    weirgate.logs("weirgate is listening")
    for _ in range(3):
        status, _, body = weirgate.get("/health")
        assert (status, json.loads(body)) == (503, {"detail": "The clock of this machine is before 1970"})
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/ws/stream") as client:
        assert "levels" in json.loads(await client.recv())
    for version in [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]:
        context = authority.context(version=version)
        async with websockets.connect(f"wss://127.0.0.1:{weirgate.tls_port}/ws/stream", ssl=context) as client:
            assert "levels" in json.loads(await client.recv())
        assert (await asyncio.to_thread(get, weirgate.tls_port, "/health", context))[0] == 503
    # Once it is set, all is well, and clients that come back have tickets.
    clock.step(0)
    await until(lambda: get(weirgate.tls_port, "/health", authority.context())[0] == 200, 10, "the clock is set")
    assert "panicked" not in weirgate.log()


class Clients:
    """A client in each state: quiet, over TLS, with a begun head, with a begun message, and a stream of events."""

    def __init__(self, weirgate, path, message, authority):
        self.weirgate, self.path, self.message, self.authority = weirgate, path, message, authority

    async def come(self):
        port = self.weirgate.port
        self.plain = await websockets.connect(f"ws://127.0.0.1:{port}{self.path}")
        self.over_tls = await websockets.connect(f"wss://127.0.0.1:{self.weirgate.tls_port}{self.path}", ssl=self.authority.context())
        self.stream = await asyncio.to_thread(Stream, port, self.path, sends=[self.message] if self.message else ())
        self.unfinished = await self.raw(upgrade_request(port, self.path))
        await asyncio.wait_for(self.unfinished[0].readuntil(b"\r\n\r\n"), patient(10))
        self.unfinished[1].write(client_frame(TEXT, b"x" * 10)[:10])
        for client in [self.plain, self.over_tls]:
            if self.message:
                await client.send(json.dumps(self.message))

    async def raw(self, data):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.weirgate.port)
        writer.write(data)
        return reader, writer

    async def stay(self, clock, ahead_s):
        """A step, with a head that begins before it and ends behind it: everybody is still there."""
        request = upgrade_request(self.weirgate.port, self.path)
        reader, writer = await self.raw(request[:60])
        await asyncio.sleep(0.05)
        clock.step(ahead_s)
        await asyncio.sleep(0.2)
        writer.write(request[60:])
        assert (await asyncio.wait_for(reader.readline(), patient(10))).startswith(b"HTTP/1.1 101"), ahead_s
        writer.close()
        for client in [self.plain, self.over_tls]:
            await asyncio.wait_for(await client.ping(), patient(10))
        assert not self.unfinished[0].at_eof() and self.weirgate.alive(), self.weirgate.log_tail()

    async def get(self, publish):
        """What is published comes to everybody."""
        async def comes(take):
            while "423" not in str(await take()):
                pass

        everybody = [self.plain.recv, self.over_tls.recv, lambda: asyncio.to_thread(self.stream.event)]
        coming = asyncio.gather(*map(comes, everybody))
        end, failed = time.monotonic() + patient(20), None
        while not coming.done():
            assert time.monotonic() < end, f"not everybody got a message; the last fault of the publisher: {failed!r}"
            try:
                await publish()
            except Exception as error:  # The bus has just started, and may take nothing yet.
                failed = error
            await asyncio.wait([coming], timeout=0.1)
        await coming

    async def go(self):
        """The begun message may end, and everybody leaves."""
        self.unfinished[1].write(b"x" * 6 + client_frame(PING, b"still here"))
        await asyncio.wait_for(self.unfinished[0].readuntil(b"still here"), patient(10))
        for client in [self.plain, self.over_tls]:
            await client.close()
        self.stream.link.close()
        self.unfinished[1].close()


FLAGS = ["--event-stream", "--ping-interval-ms", "500", "--pong-timeout-ms", "120000", "--bus-away-exit-s", "600"]


async def steps(weirgate, clock, clients, bus, publish):
    """All steps, with the bus there, silent, away and back."""
    await clients.come()
    await clients.get(publish)
    states = [lambda: None] + ([bus.freeze, bus.kill, bus.start] if bus else [])
    for change in states:
        await asyncio.to_thread(change)
        for ahead_s in STEPS_S:
            await clients.stay(clock, ahead_s)
    await clients.get(publish)
    await until(lambda: weirgate.ready_status() == 200, 10, "ready")
    assert "panicked" not in weirgate.log() and weirgate.get("/health")[0] == 200
    await clients.go()


@pytest.mark.plain("it has clients of both kinds")
async def test_steps_of_the_clock_end_nothing_while_nats_comes_and_goes(nats, start_tls, clock, authority):
    async def publish():
        # The connection of the last call may have ended with its server.
        async with publisher(nats) as bus:
            await bus.flow({"price": 423})

    await publish()
    weirgate = start_tls("levels", *FLAGS, env=clock.env, nats=nats).wait_ready()
    await steps(weirgate, clock, Clients(weirgate, "/ws/stream", None, authority), nats, publish)


@pytest.mark.plain("it has clients of both kinds")
@pytest.mark.parametrize("gateway, path, message, flags", [
    ("trades", "/", {"action": "subscribe", "symbols": ["ABC"]}, ["--history-ms", "20000"]),
    ("channels", "/ws", {"action": "subscribe", "channels": ["news"]}, ["--history-ms", "20000", "--history-names", "news"]),
    ("channels", "/ws", {"action": "subscribe", "channels": ["news"]}, ["--history-ms", "20000", "--stream", "ticks"]),
])
async def test_steps_of_the_clock_end_nothing_while_redis_comes_and_goes(redis_server, start_tls, clock, authority, tmp_path, gateway, path, message, flags):
    (tmp_path / "roles.json").write_text('{"user": ["*"]}')
    roles = ["--acl", str(tmp_path / "roles.json")] if gateway == "channels" else []
    weirgate = start_tls(gateway, *FLAGS, *roles, *flags, env=clock.env, redis=redis_server).wait_ready()
    client = redis.asyncio.Redis(port=redis_server.port)

    async def publish():
        name = "channel:trade:ABC" if gateway == "trades" else "news"
        text = json.dumps({"price": 423, "volume": 1})
        if "--stream" in flags:
            await client.xadd("ticks", {"channel": name, "data": text})
        else:
            await client.publish(name, text)

    await steps(weirgate, clock, Clients(weirgate, path, message, authority), redis_server, publish)
    await client.aclose()


@pytest.mark.plain("it has clients of both kinds")
async def test_steps_of_the_clock_end_nothing_for_devices(service, start_tls, clock, authority):
    lobby = service(lambda asked: {"n": 423})
    weirgate = start_tls("events", *FLAGS[:-2], env={**clock.env, "INTERNAL_AUTH_TOKEN": TOKEN, "LOBBY_URL": lobby.url}).wait_ready()
    clients = Clients(weirgate, "/ws?device_id=d1", None, authority)

    async def publish():
        await clients.plain.send(json.dumps({"event": "lobby.a"}))
        await asyncio.to_thread(push, weirgate, "a", {"n": 423}, "d1")

    await steps(weirgate, clock, clients, None, publish)
