"""Hostile clients that attack TLS itself."""
import json
import ssl

from clients import client_frame
from crowds import Crowd

PING, PONG, TEXT = 9, 10, 1


class Silent(Crowd):
    """Clients that subscribe to a feed of large messages and never read; one that the gateway has dropped comes back."""
    name, gateway, needs_tls, reads = "tls: never read", "channels", True, False
    feed, rate, receive_bytes = 20_000, 0, 4096

    def opening(self, port):
        subscribe = json.dumps({"action": "subscribe", "channels": ["news"]}).encode()
        return super().opening(port) + client_frame(TEXT, subscribe)


class SingleBytes(Crowd):
    """Pings, each byte in a record of its own."""
    name, gateway, path, needs_tls = "tls: one byte a record", "levels", "/ws/stream", True

    def unit(self):
        return client_frame(PING, b"x" * 125)

    def sealed(self, member):
        return member.seal(self.unit(), record_bytes=1)


class Unended(Crowd):
    """Records of the largest size, whose last byte comes with the next record."""
    name, gateway, path, needs_tls = "tls: records without their last byte", "levels", "/ws/stream", True

    def unit(self):
        return client_frame(PONG, b"x" * 125) * 125

    def sealed(self, member):
        data = member.late + member.seal(self.unit())
        member.late = data[-1:]
        return data[:-1]


class Hellos(Crowd):
    """What the clients send for a handshake."""
    gateway, needs_tls, greets, upgrades = "levels", True, False, False

    def __init__(self):
        outgoing = ssl.MemoryBIO()
        client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            self.hello = outgoing.read()


class Trickle(Hellos):
    """Hellos that come byte by byte and never end; a refused connection is replaced."""
    # For 400 members 10 bytes a second each: no hello, of 517 bytes, ends in a run.
    name, rate = "tls: hellos that never end", 4_000

    def opening(self, port):
        return self.hello[:100]

    def unit(self):
        return b"\0"


class Unfinished(Hellos):
    """Whole hellos, and nothing behind them: the gateway has sent its certificate and waits."""
    name, rate = "tls: handshakes without an end", 0

    def opening(self, port):
        return self.hello


class Flood(Hellos):
    """Whole hellos and then a record that ends the handshake, again and again, as fast as the clients can."""
    name = "tls: a flood of hellos"

    def opening(self, port):
        return self.hello

    def unit(self):
        return b"\x17\x03\x03\x00\x20" + b"x" * 32


CROWDS = [Silent(), SingleBytes(), Unended(), Trickle(), Unfinished(), Flood()]
