"""Four hundred hostile clients of one kind, in a process of their own, that together send so many bytes a second."""
import json
import multiprocessing
import select
import socket
import time

from clients import client_frame, upgrade_request
from raw import DEFLATE, bomb

# Not the address of the bystander: some limits are shares of an address.
SOURCE = "127.0.0.2"
LARGE = 1_000_000


class Crowd:
    """A kind of hostile clients: what each sends at its start, and then again and again."""
    name, gateway = "", ""
    upgrades, deflate, path = True, False, "/ws"

    def opening(self, port):
        """The first bytes of a connection."""
        return upgrade_request(port, self.path, (DEFLATE,) if self.deflate else ())

    def unit(self):
        """The bytes that each sends in turn."""
        raise NotImplementedError


class Echo(Crowd):
    """Small compressed requests whose `requestId` comes back, a megabyte each."""
    name, gateway, deflate = "echo", "channels", True

    def __init__(self):
        self.bytes = bomb(json.dumps({"action": "ping", "requestId": "x" * LARGE}).encode())

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


class SlowBodies(Crowd):
    """Uploads through the proxy that never end, some bytes at a time."""
    name, gateway, upgrades = "slow bodies", "events", False

    def opening(self, port):
        return b"POST /v1/measurement/up HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"

    def unit(self):
        return b"x" * 100


class Attack:
    """A crowd at work in a process of its own, from `start` until `stop`."""

    def __init__(self, crowd, port, count, bytes_per_s):
        self.ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=work, args=(crowd, port, count, bytes_per_s, theirs), daemon=True)

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
    """One hostile connection."""

    def __init__(self, crowd, port):
        self.sock = socket.create_connection(("127.0.0.1", port), 20, source_address=(SOURCE, 0))
        self.sock.sendall(crowd.opening(port))
        if crowd.upgrades:
            head = b""
            while b"\r\n\r\n" not in head:
                data = self.sock.recv(65_536)
                assert data, f"refused: {head[:100]!r}"
                head += data
        self.sock.setblocking(False)
        self.left = b""


def work(crowd, port, count, bytes_per_s, pipe):
    """The process of the crowd: every member in turn gets its share of the bytes; all read what they get."""
    members = [Member(crowd, port) for _ in range(count)]
    by_fd = {member.sock.fileno(): member for member in members}
    poll = select.epoll()
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    pipe.send("connected")
    sent = got = ended = turn = 0
    began = time.monotonic()
    while not pipe.poll():
        for fd, _ in poll.poll(0.002):
            member = by_fd[fd]
            try:
                data = member.sock.recv(1 << 18)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            got += len(data)
            if not data:
                ended += 1
                replace(crowd, port, members, by_fd, poll, member)
        allowed = bytes_per_s * (time.monotonic() - began)
        for _ in range(count):
            if sent >= allowed:
                break
            member, turn = members[turn % count], turn + 1
            member.left = member.left or crowd.unit()
            try:
                went = member.sock.send(member.left)
            except OSError:
                continue
            sent += went
            member.left = member.left[went:]
    seconds = time.monotonic() - began
    for member in members:
        member.sock.close()
    pipe.send({"sent_per_s": sent / seconds, "got_per_s": got / seconds, "ended": ended})


def replace(crowd, port, members, by_fd, poll, member):
    """A new connection in place of one that the gateway has ended."""
    poll.unregister(member.sock.fileno())
    del by_fd[member.sock.fileno()]
    member.sock.close()
    try:
        fresh = Member(crowd, port)
    except (OSError, AssertionError):
        # Its place stays empty: sends on the closed socket fail and cost nothing.
        return
    members[members.index(member)] = fresh
    by_fd[fresh.sock.fileno()] = fresh
    poll.register(fresh.sock.fileno(), select.EPOLLIN)
