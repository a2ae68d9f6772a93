"""Four hundred hostile clients of one kind, in a process of their own, that together send so many bytes a second."""
import contextlib
import json
import multiprocessing
import select
import socket
import ssl
import time

from clients import client_frame, upgrade_request
from raw import DEFLATE, bomb
from tls import MemoryClient

# Not the address of the bystander: some limits are shares of an address.
SOURCES = [f"127.0.0.{n}" for n in range(2, 255)]
LARGE = 1_000_000


class Crowd:
    """A kind of hostile clients: what each sends at its start, and then again and again.

    `needs_tls`: the attack is one on TLS. `greets`: over TLS the members make a whole handshake. `rate`: bytes a second of all members, if
    not the rate of the run. `feed`: bytes of a message that the gateway sends to all, 20 times a second. `addresses`: of the members together.
    """
    name, gateway = "", ""
    upgrades, deflate, path = True, False, "/ws"
    needs_tls, greets, reads, rate, feed, receive_bytes, addresses = False, True, True, None, 0, None, 1
    flags = ()

    def opening(self, port):
        """The first bytes of a connection."""
        return upgrade_request(port, self.path, (DEFLATE,) if self.deflate else ())

    def sealed(self, member):
        """The next bytes of a member on the wire: a unit, in one record of TLS if the member has it."""
        return member.seal(self.unit())

    def unit(self):
        """The bytes that each sends in turn."""
        raise NotImplementedError

    @property
    def parts(self):
        """The crowds that come at once."""
        return [self]


class Echo(Crowd):
    """Small compressed requests whose `requestId` comes back, a megabyte each."""
    name, gateway, deflate = "echo", "channels", True

    def __init__(self):
        self.bytes = bomb(json.dumps({"action": "ping", "requestId": "x" * LARGE}).encode())

    def unit(self):
        return self.bytes


class EchoStorm(Crowd):
    """Pings and a small request, sent as fast as the gateway takes them; all answers are read."""
    gateway, rate = "channels", float("inf")

    def __init__(self, addresses):
        self.name, self.addresses = f"echo storm, addresses: {addresses}", addresses
        self.bytes = client_frame(9, b"storm") * 32 + client_frame(1, b'{"action":"ping","requestId":1}')

    def unit(self):
        return self.bytes


class Bombs(Crowd):
    """Compressed messages of a megabyte that the gateway throws away."""
    deflate = True

    def __init__(self, gateway, path):
        self.name, self.gateway, self.path = f"bombs, {gateway}", gateway, path
        self.bytes = bomb(b"x" * LARGE)

    def unit(self):
        return self.bytes


class Pings(Crowd):
    """Pings of the largest size."""
    name, gateway, path = "pings", "levels", "/ws/stream"

    def unit(self):
        return client_frame(9, b"x" * 125) * 4


class Heads(Crowd):
    """Request heads that never end, a header at a time; a refused connection is replaced."""
    name, gateway, upgrades = "heads", "levels", False

    def opening(self, port):
        return b"GET /ws/stream HTTP/1.1\r\nHost: x\r\n"

    def unit(self):
        return b"X-A: %s\r\n" % (b"b" * 100)


class Names(Crowd):
    """Requests for many names, which the next request gives up: 200,000 names a second in all."""
    gateway = "channels"

    def __init__(self, name, count):
        self.name, self.flags = name, ("--channels-max", "5000")
        self.requests = [client_frame(1, json.dumps({"action": action, "channels": [f"n{n}" for n in range(count)]}).encode())
                         for action in ("subscribe", "unsubscribe")]
        self.rate, self.turn = 200_000 / count * len(self.requests[0]), 0

    def unit(self):
        self.turn += 1
        return self.requests[self.turn // 400 % 2]


class Leavers(Crowd):
    """They resume, read nothing, and give names up. The history keeps one attack: it takes as much before an attack as after it."""
    name, gateway, reads, receive_bytes, feed = "leavers", "channels", False, 2304, 100
    flags = ("--history-ms", "20000", "--history-names", "news", "--conflate", "news")

    def opening(self, port):
        return super().opening(port) + client_frame(1, json.dumps({"action": "subscribe", "channels": ["news"], "last": 100}).encode())

    def unit(self):
        return client_frame(1, json.dumps({"action": "unsubscribe", "channels": [f"n{n}" for n in range(48)]}).encode())


class IdleRequests(Crowd):
    """Kept connections that have asked for a page, more than there is memory for."""
    name, gateway, upgrades, rate, flags = "idle requests", "channels", False, 2_000, ("--memory-max", "67108864")

    def opening(self, port):
        return b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"

    def unit(self):
        return self.opening(0)


class Together(Crowd):
    """These at once, at one gateway."""
    name, gateway = "together", "channels"

    def __init__(self, parts):
        self.all, self.feed = parts, max(part.feed for part in parts)
        flags = [part.flags for part in parts]
        self.flags = [flag for at, flag in enumerate(flags) if flag not in flags[:at]]
        self.flags = [word for flag in self.flags for word in flag]

    @property
    def parts(self):
        return self.all


class SlowBodies(Crowd):
    """Uploads through the proxy that never end, some bytes at a time."""
    name, gateway, upgrades = "slow bodies", "events", False

    def opening(self, port):
        return b"POST /v1/measurement/up HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"

    def unit(self):
        return b"x" * 100


class Attack:
    """A crowd at work in a process of its own, from `start` until `stop`; over TLS with the authority of the gateway's certificate."""

    def __init__(self, crowd, port, count, bytes_per_s, authority=None):
        self.ours, theirs = multiprocessing.Pipe()
        rate = bytes_per_s if crowd.rate is None else crowd.rate
        self.process = multiprocessing.Process(target=work, args=(crowd, port, count, rate, authority, theirs), daemon=True)

    def start(self):
        """Returns once all are connected."""
        self.process.start()
        assert self.ours.poll(60), "the crowd does not get in"
        assert self.ours.recv() == "connected"

    def stop(self):
        """Ends all connections; {"sent", "got", "ended"}."""
        self.ours.send("stop")
        figures = self.ours.recv() if self.ours.poll(30) else {}
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
        return figures


class Member:
    """One hostile connection; with a context over TLS."""

    def __init__(self, crowd, port, context, source):
        self.source, self.sock = source, socket.socket()
        if crowd.receive_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, crowd.receive_bytes)
        self.sock.settimeout(20)
        self.sock.bind((source, 0))
        self.sock.connect(("127.0.0.1", port))
        self.tls = MemoryClient.on(self.sock, context).greet() if context and crowd.greets else None
        self.sock.sendall(self.seal(crowd.opening(port)))
        if crowd.upgrades:
            head = b""
            while b"\r\n\r\n" not in head:
                data = self.tls.read() if self.tls else self.sock.recv(65_536)
                assert data, f"refused: {head[:100]!r}"
                head += data
        self.sock.setblocking(False)
        self.left, self.late = b"", b""

    def seal(self, data, record_bytes=16_384):
        """These bytes on the wire, in records of this size at most."""
        if not self.tls:
            return data
        for at in range(0, len(data), record_bytes):
            self.tls.tls.write(data[at:at + record_bytes])
        return self.tls.outgoing.read()


class Place:
    """The members of a crowd, and what they wait for."""

    def __init__(self, crowd, port, count, authority):
        self.crowd, self.port = crowd, port
        self.context = ssl.create_default_context(cafile=authority) if authority else None
        self.members = [self.member(SOURCES[n % crowd.addresses]) for n in range(count)]
        self.by_fd, self.poll = {}, select.epoll()
        for member in self.members:
            self.add(member)

    def member(self, source, tries=20):
        """A member that gets in. A gateway whose memory is full of connections resets some before another one gives way."""
        for _ in range(tries - 1):
            with contextlib.suppress(ConnectionResetError):
                return Member(self.crowd, self.port, self.context, source)
        return Member(self.crowd, self.port, self.context, source)

    def add(self, member):
        self.by_fd[member.sock.fileno()] = member
        self.poll.register(member.sock.fileno(), select.EPOLLIN if self.crowd.reads else select.EPOLLRDHUP)

    def receive(self):
        """(bytes that came, connections that the gateway has ended)"""
        got = ended = 0
        for fd, _ in self.poll.poll(0.002):
            member = self.by_fd[fd]
            try:
                data = member.sock.recv(1 << 18) if self.crowd.reads else b""
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            got += len(data)
            if not data:
                ended += 1
                self.replace(member)
        return got, ended

    def replace(self, member):
        """A new connection in place of one that the gateway has ended."""
        self.poll.unregister(member.sock.fileno())
        del self.by_fd[member.sock.fileno()]
        member.sock.close()
        try:
            fresh = Member(self.crowd, self.port, self.context, member.source)
        except (OSError, AssertionError):
            # Its place stays empty: sends on the closed socket fail and cost nothing.
            return
        self.members[self.members.index(member)] = fresh
        self.add(fresh)


def work(crowd, port, count, bytes_per_s, authority, pipe):
    """The process of the crowd: every member in turn gets its share of the bytes; all read what they get."""
    place = Place(crowd, port, count, authority)
    pipe.send("connected")
    sent = got = ended = turn = 0
    began = time.monotonic()
    while not pipe.poll():
        more, gone = place.receive()
        got, ended = got + more, ended + gone
        allowed = bytes_per_s * (time.monotonic() - began)
        for _ in range(count):
            if sent >= allowed:
                break
            member, turn = place.members[turn % count], turn + 1
            member.left = member.left or crowd.sealed(member)
            try:
                went = member.sock.send(member.left)
            except OSError:
                continue
            sent += went
            member.left = member.left[went:]
    seconds = time.monotonic() - began
    for member in place.members:
        member.sock.close()
    pipe.send({"sent_per_s": sent / seconds, "got_per_s": got / seconds, "ended": ended})
