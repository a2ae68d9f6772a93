"""The gateways of at_once.py: how each is started, what feeds it, and who attacks it."""
import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import tempfile
import time

import redis

import attacks
from measures import deployed_environment
from processes import NatsServer, RedisServer, Weirgate, free_port
from tls import Authority

SMALL = str(1 << 20)


@dataclasses.dataclass
class At:
    """What honest clients and attackers know of a gateway."""
    port: int
    tls_port: int
    admin_port: int
    path: str
    subscribe: bytes
    by_request: bool
    ca: object
    certificate: object
    redis_port: int = 0
    nats_url: str = ""
    pid: int = 0


def publish_times(at, channel, form, each_s):
    """`each_s` messages a second with the time."""
    while True:
        with contextlib.suppress(redis.RedisError):
            client = redis.Redis(port=at.redis_port, socket_timeout=5)
            while True:
                client.publish(channel, form % time.time())
                time.sleep(1 / each_s)


async def publish_times_on_nats(at, subject):
    import nats
    client = await nats.connect(at.nats_url)
    while True:
        await client.publish(subject, b'{"price":%f}' % time.time())
        await asyncio.sleep(0.5)


class Kind:
    """A gateway with its feed and attacks."""
    name, gateway, path, subscribe, by_request, flags = "", "", "/ws", b"", False, ()
    tls_flags, client_ca, attacks, feed = ("--tls-held-bytes-max", SMALL), False, (), None


class Levels(Kind):
    name, gateway, path, flags = "levels", "demo", "/ws/stream", ("--rate-hz", "5")
    attacks = [attacks.endless_streams, attacks.begun_records, attacks.pings_unread, attacks.key_updates, attacks.large_records,
               attacks.silent_handshakes]


class Trades(Kind):
    name, gateway, path, client_ca = "trades", "trades", "/", True
    subscribe = b'{"action":"subscribe","symbols":["H"]}'
    flags = ("--history-ms", "60000")
    attacks = [attacks.replays_unread, attacks.made_up_chains, attacks.pings_unread, attacks.bus_cuts]

    @staticmethod
    def feed(at):
        publish_times(at, "channel:trade:H", '{"symbol":"H","price":%f}', 2)


class Channels(Kind):
    name, gateway = "channels", "channels"
    subscribe = b'{"action":"subscribe","channels":["market:tick:honest"]}'
    flags = ("--history-ms", "60000", "--history-names", "market:*", "--bus-message-bytes-max", "65536", "--event-stream")
    attacks = [attacks.endless_streams, attacks.resume_loops, attacks.left_out, attacks.all_names, attacks.all_patterns, attacks.copies,
               attacks.resumes_unread, attacks.live_unread, attacks.bus_cuts]

    @staticmethod
    def feed(at):
        publish_times(at, "market:tick:honest", '{"price":%f}', 2)


class ChannelsPlain(Channels):
    """The same without a history: the bus matches the patterns."""
    name, flags = "plain channels", ("--event-stream",)
    attacks = [attacks.endless_streams, attacks.all_names, attacks.all_patterns, attacks.copies, attacks.live_unread, attacks.bus_cuts]


class ChannelsNats(Kind):
    name, gateway, flags = "channels on NATS", "channels", ("--retained",)
    subscribe = b'{"action":"subscribe","channels":["market.tick.honest"]}'
    attacks = [attacks.retained_unread]

    @staticmethod
    def feed(at):
        asyncio.run(publish_times_on_nats(at, "market.tick.honest"))


class Stream(Kind):
    """A bucket of JetStream, whose rows go over and over."""
    name, gateway, flags = "channels on a stream", "channels", ("--history-ms", "60000", "--stream", "KV")
    subscribe = b'{"action":"subscribe","channels":["k.honest"]}'
    attacks = [attacks.holes]

    @staticmethod
    def feed(at):
        asyncio.run(publish_times_on_nats(at, "k.honest"))


class Events(Kind):
    name, gateway, path, by_request = "events", "events", "/ws?device_id={}", True
    flags = ("--proxy-silence-timeout-ms", "5000")
    attacks = [attacks.begun_records, attacks.unanswered, attacks.handed_over, attacks.idle_admins, attacks.slow_calls, attacks.orphans,
               attacks.slow_uploads, attacks.begun_uploads]


ARENAS = [Levels, Trades, Channels, ChannelsPlain, ChannelsNats, Stream, Events]


def serve(pipe):
    """The service of events: answers at once, or after a minute where the request says `slow`."""
    async def one(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?im)^content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                if b"slow" in body or b"slow" in head.split(b"\r\n", 1)[0]:
                    await asyncio.sleep(60)
                answer = b'{"ok":true}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def run():
        server = await asyncio.start_server(one, "127.0.0.1", 0, backlog=1_024)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()
    asyncio.run(run())


async def fill_nats(url, kind):
    import nats
    client = await nats.connect(url)
    jetstream = client.jetstream()
    if kind is Stream:
        await jetstream.add_stream(name="KV", subjects=["k.>"], max_msgs_per_subject=1, storage="memory")
    else:
        await jetstream.add_stream(name="M", subjects=["market.tick.>"], max_msgs_per_subject=1, storage="memory")
        for n in range(900):
            await client.publish(f"market.tick.s{n}", json.dumps({"n": n, "pad": "x" * 500}).encode())
    await client.flush()
    await client.close()


def put_first(pid, priority):
    """All threads of a process run before other programs."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setscheduler(int(thread), os.SCHED_RR, os.sched_param(priority))


class Arena:
    """A started gateway with its brokers and feed, all ended by the stack. `is_first`: all of them run before other programs."""

    def __init__(self, kind, stack, is_first=False):
        helpers = []
        self.attacks = kind.attacks
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weirgate-arena-")))
        authority = Authority(folder)
        certificate, key = authority.sign("local", "IP:127.0.0.1", "DNS:localhost")
        tls_port, admin_port = free_port(), free_port()
        flags = ["--tls-port", str(tls_port), "--tls-cert", str(certificate), "--tls-key", str(key), *kind.tls_flags, *kind.flags]
        if kind.client_ca:
            flags += ["--tls-client-ca", str(authority.ca)]
        bus, env, nats_url = None, dict(deployed_environment()), ""
        if kind in (ChannelsNats, Stream):
            server = NatsServer()
            stack.callback(server.discard)
            helpers.append(server.process.pid)
            nats_url = server.url
            asyncio.run(fill_nats(nats_url, kind))
            flags += ["--bus", nats_url]
        elif kind.gateway in ("trades", "channels"):
            bus = RedisServer()
            stack.callback(bus.discard)
            helpers.append(bus.process.pid)
        elif kind.gateway == "events":
            flags += ["--admin-addr", f"127.0.0.1:{admin_port}"]
            ours, theirs = multiprocessing.Pipe()
            service = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
            service.start()
            stack.callback(service.kill)
            helpers.append(service.pid)
            url = f"http://127.0.0.1:{ours.recv()}"
            env |= {"MEASUREMENT_URL": url, "LOBBY_URL": url, "SIMULATION_URL": url, "HTTP_TIMEOUT_SECONDS": "5"}
        if kind.gateway == "channels":
            roles = folder / "roles.json"
            roles.write_text('{"user": ["%s"]}' % (">" if nats_url else "*"))
            flags += ["--acl", str(roles)]
        self.weirgate = Weirgate(kind.gateway, *flags, redis=bus, env=env)
        stack.callback(self.weirgate.discard)
        self.weirgate.wait_for("/health")
        if kind.gateway == "events":
            # The pages are on the admin address alone.
            self.weirgate.http_url = f"http://127.0.0.1:{admin_port}"
        self.at = At(self.weirgate.port, tls_port, admin_port, kind.path, kind.subscribe, kind.by_request, authority.ca,
                     authority.sign("visitor", "DNS:visitor") if kind.client_ca else None, bus.port if bus else 0, nats_url, self.weirgate.pid)
        if kind.feed:
            feed = multiprocessing.Process(target=kind.feed, args=(self.at,), daemon=True)
            feed.start()
            stack.callback(feed.kill)
            helpers.append(feed.pid)
        time.sleep(1)
        if is_first:
            put_first(self.weirgate.pid, 2)
            for helper in helpers:
                put_first(helper, 1)
