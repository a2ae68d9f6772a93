"""Attacks on a gateway, for at_once.py: each runs in a process of its own until `over` is set, and begins again after an error."""
import asyncio
import contextlib
import json
import os
import pathlib
import select
import socket
import ssl
import subprocess
import tempfile
import time

import redis

from clients import FrameReader, client_frame, small_socket, upgrade_request
from raw import TEXT, frame
from tls import MemoryClient
from tls_records import Sealer

PING = 9
FIRST, SECOND = "127.0.0.2", "127.0.0.3"


# ---- clients

def plain(at, source, port=None, receive_bytes=None):
    """A connection that has sent nothing."""
    link = small_socket(receive_bytes) if receive_bytes else socket.socket()
    link.settimeout(20)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    link.bind((source, 0))
    link.connect(("127.0.0.1", port or at.port))
    return link


def context(at):
    made = ssl.create_default_context(cafile=str(at.ca))
    made.check_hostname = False
    if at.certificate:
        made.load_cert_chain(*map(str, at.certificate))
    return made


class Ws:
    """A WebSocket whose messages are read on request."""

    def __init__(self, at, source, path=None, receive_bytes=None):
        self.sock = plain(at, source, receive_bytes=receive_bytes)
        self.sock.sendall(upgrade_request(at.port, (path or at.path).format("x")))
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.sock.recv(4_096)
            assert data, "refused"
            head += data
        assert b" 101 " in head, head
        self.frames, self.waiting = FrameReader(), []
        self.waiting += self.frames.feed(head.partition(b"\r\n\r\n")[2])

    def say(self, value):
        self.sock.sendall(client_frame(TEXT, json.dumps(value).encode()))

    def until(self, *kinds, seconds=10):
        """The next JSON message of one of these types."""
        self.sock.settimeout(seconds)
        while True:
            while self.waiting:
                opcode, payload = self.waiting.pop(0)
                if opcode == TEXT and (message := json.loads(payload)).get("type") in kinds:
                    return message
            data = self.sock.recv(1 << 16)
            assert data, "dropped"
            self.waiting += self.frames.feed(data)

    def close(self):
        self.sock.close()


class Fleet:
    """Connections that are replaced once the gateway ends them; `open_one(n)` gives one."""

    def __init__(self, count, open_one, reads=False):
        self.open_one, self.reads, self.poll, self.links = open_one, reads, select.epoll(), {}
        self.count = count
        for n in range(count):
            self.add(n)

    def add(self, n):
        try:
            link = self.open_one(n)
        except (OSError, AssertionError):
            return
        sock = getattr(link, "sock", None) or getattr(link, "socket", None) or link
        sock.setblocking(False)
        self.links[sock.fileno()] = (n, link, sock)
        self.poll.register(sock.fileno(), (select.EPOLLIN if self.reads else 0) | select.EPOLLRDHUP)

    def tend(self, seconds):
        """Replaces those that were ended, for so long; reads what came if the fleet reads."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for fd, what in self.poll.poll(min(left, 0.1), 64):
                n, _, sock = self.links[fd]
                try:
                    gone = bool(what & (select.EPOLLHUP | select.EPOLLERR)) or (not sock.recv(1 << 16) if self.reads else True)
                except BlockingIOError:
                    gone = False
                except OSError:
                    gone = True
                if gone:
                    self.poll.unregister(fd)
                    del self.links[fd]
                    sock.close()
                    self.add(n)
            if len(self.links) < self.count:
                missing = set(range(self.count)) - {n for n, _, _ in self.links.values()}
                for n in list(missing)[:20]:
                    self.add(n)
                time.sleep(0.05)

    def send(self, data):
        """Sends the same bytes on all; what the kernel does not take is lost."""
        for _, _, sock in list(self.links.values()):
            with contextlib.suppress(OSError):
                sock.send(data)


def hold(fleet, over):
    """Keeps a fleet alive."""
    while not over.is_set():
        fleet.tend(1)


def publish_many(at, channel, bodies, over=None):
    """As fast as they go; `channel` may be a function of the number."""
    client = redis.Redis(port=at.redis_port, socket_timeout=20)
    for first in range(0, len(bodies), 500):
        pipe = client.pipeline(transaction=False)
        for n, body in enumerate(bodies[first:first + 500], first):
            pipe.publish(channel(n) if callable(channel) else channel, body)
        pipe.execute()


# ---- any gateway

def endless_streams(at, over):
    """Event streams with 20,000 bytes behind the request, plain and over TLS."""
    send = "?send=" + "%7B%22action%22%3A%22subscribe%22%2C%22channels%22%3A%5B%22market%3Atick%3AA%22%5D%7D" if at.subscribe else ""
    ask = f"GET {at.path}{send} HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n".encode() + bytes(20_000)
    kept = []
    while not over.wait(0.05):
        link = plain(at, FIRST, at.tls_port if len(kept) % 2 else at.port)
        if len(kept) % 2:
            client = MemoryClient.on(link, context(at)).greet()
            client.write(ask)
        else:
            link.sendall(ask)
        kept.append(link)
        if len(kept) > 40:
            kept.pop(0).close()
            kept.pop(0).close()


def begun_records(at, over):
    """Requests over TLS of which a record never ends: 98 connections fill a megabyte."""
    shared = context(at)

    def begin(n):
        client = MemoryClient.on(plain(at, SECOND, at.tls_port), shared).greet()
        client.write(b"POST /v1/measurement/never HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n")
        client.tls.write(bytes((16_000, 2_000, 200)[n % 3]))
        client.socket.sendall(client.outgoing.read()[:-1])
        return client
    hold(Fleet(98, begin), over)


def large_records(at, over):
    """WebSockets over TLS that hold a record of 16 KB and renew it all the time."""
    shared = context(at)

    def begin(n):
        client = MemoryClient.on(plain(at, f"127.0.3.{1 + n}", at.tls_port), shared).greet()
        client.write(upgrade_request(at.tls_port, at.path))
        assert b" 101 " in client.read_until(b"\r\n\r\n")
        client.late = b""
        return client
    fleet = Fleet(62, begin)
    while not over.is_set():
        for _, client, sock in list(fleet.links.values()):
            client.tls.write(frame(2, bytes(15_900)))
            data = client.late + client.outgoing.read()
            client.late = data[-1:]
            with contextlib.suppress(OSError):
                sock.send(data[:-1])
        fleet.tend(0.8)


def pings_unread(at, over):
    """500 clients with 64 KB of pings that read no pongs."""
    burst = frame(PING, bytes(125)) * 500

    def begin(n):
        link = Ws(at, (FIRST, SECOND)[n % 2], receive_bytes=2_048)
        link.sock.setblocking(False)
        with contextlib.suppress(OSError):
            link.sock.send(burst)
        return link
    fleet = Fleet(500, begin)
    while not over.is_set():
        fleet.tend(5)
        fleet.send(burst)


def key_updates(at, over):
    """TLS with 31 key updates before each byte, again and again."""
    class Authority:
        ca = at.ca

        @staticmethod
        def context(version=None):
            made = context(at)
            made.minimum_version = made.maximum_version = version
            return made
    while not over.is_set():
        sealer = Sealer(plain(at, FIRST, at.tls_port), Authority, at.path)
        ping = client_frame(PING)
        with contextlib.suppress(OSError):
            for _ in range(8):
                sealer.socket.sendall(b"".join([sealer.key_update() for _ in range(31)] + [sealer.record(ping[:1])]))
                ping = ping[1:] or client_frame(PING)
        sealer.close()


def silent_handshakes(at, over):
    """Silent connections to the port of TLS, each from an address of its own."""
    hold(Fleet(2_200, lambda n: plain(at, f"127.77.{n // 250}.{1 + n % 250}", at.tls_port)), over)


def made_up_chains(at, over):
    """Handshakes with a certificate behind 70 authorities of one name."""
    with tempfile.TemporaryDirectory(prefix="weirgate-chain-") as name:
        folder = pathlib.Path(name)
        made = lambda out: subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9",
                                           "-keyout", str(folder / "key.pem"), "-out", str(folder / out), "-subj", "/CN=x"], check=True, capture_output=True)
        chain = b""
        for _ in range(70):
            made("one.pem")
            chain += (folder / "one.pem").read_bytes()
        made("leaf.pem")
        (folder / "chain.pem").write_bytes((folder / "leaf.pem").read_bytes() + chain)
        shared = ssl.create_default_context(cafile=str(at.ca))
        shared.load_cert_chain(folder / "chain.pem", folder / "key.pem")
        n = 0
        while not over.is_set():
            n += 1
            with contextlib.suppress(OSError, ssl.SSLError):
                client = MemoryClient.on(plain(at, f"127.88.0.{1 + n % 40}", at.tls_port), shared).greet()
                client.read()
            client.close()


def bus_cuts(at, over):
    """Redis ends the connection of the gateway, so that all clients hear of a loss."""
    while not over.wait(10):
        redis.Redis(port=at.redis_port).execute_command("CLIENT", "KILL", "TYPE", "pubsub")


# ---- trades and channels

def replays_unread(at, over):
    """60 clients resume 17,000 trades and read nothing, while trades come."""
    link = Ws(at, FIRST)
    link.say({"action": "subscribe", "symbols": ["A"]})
    link.until("success")
    body = json.dumps({"symbol": "A", "price": 1, "exchange": "x" * 60})
    redis.Redis(port=at.redis_port).publish("channel:trade:A", body)
    since = link.until("trade")["pos"]
    publish_many(at, "channel:trade:A", [body] * 17_000)

    def begin(n):
        one = Ws(at, (FIRST, SECOND)[n % 2], receive_bytes=4_096)
        one.say({"action": "subscribe", "symbols": ["A"], "since": since})
        return one
    fleet = Fleet(60, begin)
    while not over.is_set():
        publish_many(at, "channel:trade:A", [body] * 300)
        fleet.tend(0.3)


def position(at, name):
    """The position of now."""
    link = Ws(at, FIRST)
    link.say({"action": "subscribe", "channels": [name]})
    link.until("subscribed")
    end = time.monotonic() + 10
    while time.monotonic() < end:
        redis.Redis(port=at.redis_port).publish(name, "1")
        with contextlib.suppress(TimeoutError):
            message = link.until("data", seconds=1)
            if "pos" in message:
                link.close()
                return message["pos"]
    raise ValueError("no position")


def resume_loops(at, over):
    """One client subscribes with an old position by five patterns and leaves them, in a loop."""
    since = position(at, "market:loop:q")
    publish_many(at, lambda n: f"market:loop:{n % 1_000}", [json.dumps({"pad": "x" * 100})] * 20_000)
    names = ["market:loop:*", "market:loop:?*", "market:loop:1*", "market:loop:2*", "market:loop:3*"]
    link = Ws(at, SECOND)
    while not over.is_set():
        link.say({"action": "subscribe", "channels": names, "since": since})
        link.until("subscribed")
        link.say({"action": "unsubscribe", "channels": names})
        link.until("unsubscribed")


def left_out(at, over):
    """A message over the limit in the window, and resumes of 50 names over it."""
    since = position(at, "market:out:q")
    publish_many(at, "market:out:large", ["x" * 70_000])
    publish_many(at, lambda n: f"market:out:{n % 2_000}", ["{}"] * 30_000)
    while not over.is_set():
        link = Ws(at, FIRST)
        link.say({"action": "subscribe", "channels": [*(f"market:out:quiet{n}" for n in range(49)), "market:out:q"], "since": since})
        link.until("subscribed")
        link.close()


def subscribers(at, over, count, request, source=FIRST, reads=True, receive_bytes=None):
    """A fleet with a subscription each."""
    def begin(n):
        link = Ws(at, source(n) if callable(source) else source, receive_bytes=receive_bytes)
        link.say({"action": "subscribe", "channels": request(n)})
        return link
    hold(Fleet(count, begin, reads), over)


def all_names(at, over):
    """700 connections with 50 long names each."""
    subscribers(at, over, 700, lambda n: [f"other:{n}:{k}:{'x' * 480}" for k in range(50)], SECOND)


def all_patterns(at, over):
    """Two addresses with five patterns on each of 110 connections."""
    subscribers(at, over, 220, lambda n: [f"other:{n}:{k}:*" for k in range(5)], lambda n: (FIRST, SECOND)[n % 2])


def copies(at, over):
    """500 overlapping patterns of one address, and 400 messages a second that they all match."""
    child = os.fork()
    if child == 0:
        body = json.dumps({"pad": "x" * 400})
        while not over.wait(0.05):
            with contextlib.suppress(redis.RedisError):
                publish_many(at, "market:copies:A", [body] * 20)
        os._exit(0)
    subscribers(at, over, 100, lambda n: [f"market:copies:[A{a}{n:03d}]*" for a in "bcdef"], SECOND)


def resumes_unread(at, over):
    """250 clients of five addresses resume 24,000 small messages and read none."""
    since = position(at, "market:unread:N")
    publish_many(at, "market:unread:N", ["1"] * 24_000)

    def begin(n):
        link = Ws(at, f"127.0.0.{20 + n % 5}", receive_bytes=4_096)
        link.say({"action": "subscribe", "channels": ["market:unread:N"], "since": since})
        return link
    hold(Fleet(250, begin), over)


def live_unread(at, over):
    """1,000 clients of one address that read nothing, and 200 small messages a second for them."""
    child = os.fork()
    if child == 0:
        while not over.wait(0.05):
            with contextlib.suppress(redis.RedisError):
                publish_many(at, "market:live", ["1"] * 10)
        os._exit(0)
    subscribers(at, over, 1_000, lambda n: ["market:live"], FIRST, reads=False, receive_bytes=4_096)


def retained_unread(at, over):
    """140 clients that do not take the last values of 900 subjects."""
    subscribers(at, over, 140, lambda n: ["market.tick.*"], SECOND, reads=False, receive_bytes=4_096)


def holes(at, over):
    """2,000 updates a second over 100 rows of a bucket: the stream has holes all the time, and clients that resume over them."""
    async def run():
        import nats
        client = await nats.connect(at.nats_url)
        n = 0
        while not over.is_set():
            for _ in range(100):
                await client.publish(f"k.{n * 7_919 % 100}", b"%d" % n)
                n += 1
            await client.flush()
            await asyncio.sleep(0.05)
        await client.close()
    asyncio.run(run())


# ---- events

def unanswered(at, over):
    """500 devices with messages for a service that takes a minute, and 64 KB behind them."""
    few = frame(TEXT, b'{"event":"simulation.slow"}') + frame(2, b"") * 64
    burst = few + frame(TEXT, b"{}") * ((65_536 - len(few)) // 8)

    def begin(n):
        link = Ws(at, (FIRST, SECOND)[n % 2], f"/ws?device_id=u{n}")
        link.sock.setblocking(False)
        with contextlib.suppress(OSError):
            link.sock.send(burst)
        return link
    hold(Fleet(500, begin), over)


def handed_over(at, over):
    """500 connections with a request that takes a minute and 64 KB behind it."""
    def begin(n):
        link = plain(at, FIRST)
        link.setblocking(False)
        with contextlib.suppress(OSError):
            link.send(b"GET /v1/measurement/slow HTTP/1.1\r\nHost: h\r\n\r\n" + bytes(64_000))
        return link
    hold(Fleet(500, begin), over)


def begun_uploads(at, over):
    """500 small uploads that never end."""
    def begin(n):
        link = plain(at, SECOND)
        link.sendall(b"POST /v1/measurement/up HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n" + bytes(50_000))
        return link
    hold(Fleet(500, begin), over)


def slow_uploads(at, over):
    """Two addresses with 128 large uploads each, a byte each half second."""
    def begin(n):
        link = plain(at, (FIRST, SECOND)[n % 2])
        link.sendall(b"POST /v1/jobs/up HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\nx")
        return link
    fleet = Fleet(256, begin)
    while not over.is_set():
        fleet.send(b"x")
        fleet.tend(0.5)


def idle_admins(at, over):
    """64 connections to the admin address that have asked once."""
    def begin(n):
        link = plain(at, FIRST, at.admin_port)
        link.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert link.recv(4_096)
        return link
    hold(Fleet(64, begin), over)


def slow_calls(at, over):
    """120 devices of an address whose calls take longer than the limit."""
    def begin(n):
        link = Ws(at, SECOND, f"/ws?device_id=s{n}")
        link.say({"event": "lobby.slow", "request_id": "2"})
        return link
    fleet = Fleet(120, begin, reads=True)
    while not over.is_set():
        fleet.send(client_frame(TEXT, b'{"event":"lobby.slow","request_id":"2"}'))
        fleet.tend(2)


def orphans(at, over):
    """Devices that leave 60 messages for the slow service behind."""
    n = 0
    while not over.wait(0.02):
        n += 1
        link = Ws(at, FIRST, f"/ws?device_id=o{n}")
        link.sock.sendall(client_frame(TEXT, b'{"event":"simulation.slow"}') * 60)
        time.sleep(0.02)
        link.sock.sendall(client_frame(8, b"\x03\xe8"))
        link.close()
