"""The states of a client in which a gateway holds something for it, for uncharged.py."""
import asyncio
import json
import random
import ssl
import struct
import time
import urllib.parse

from clients import client_frame
from raw import DEFLATE, RSV1, TEXT, deflated, frame
from stage import push_all
from tls_records import Sealer

PING, CONTINUATION = 9, 0


class State:
    """`connect` gives an idle client of the kind, `enter` brings all clients into the state. `answer_bytes`: of a service's large answer.
    `more_each`: what an idle client of the kind needs beyond what `connect` gives."""
    more_each = 0
    # So many that most stay below the limit: memory of those that are ended stays with the process for a while.
    count_max = 10_000
    name, gateway, flags, tls, on_nats, answer_bytes = "", "demo", (), False, False, 0
    path, receive_bytes, extra, env = "/ws/stream", None, (), {}

    def prepare(self, stage):
        """Before the gateway starts."""

    def connect(self, stage, n):
        return stage.opened(n, self.path, self.extra, self.receive_bytes)

    def enter(self, stage, clients):
        raise NotImplementedError


class HalfHead(State):
    """A head of 15 KB without its end."""
    name = "half a request head"

    def connect(self, stage, n):
        return stage.plain(n)

    def enter(self, stage, clients):
        push_all(clients, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: %s\r\n" % (b"b" * 1_000) * 15)


class HalfFrame(State):
    """The first 20 KB of a message of a megabyte."""
    name = "half a frame"

    def enter(self, stage, clients):
        push_all(clients, struct.pack("!BBQI", 0x81, 0xFF, 1_000_000, 0) + b"x" * 20_000)


class Fragments(State):
    """5,000 fragments of a byte, without the last."""
    name = "half a message of fragments"

    def enter(self, stage, clients):
        push_all(clients, frame(TEXT, b"x", final=False) + frame(CONTINUATION, b"y", final=False) * 5_000)


class HalfDeflated(State):
    """Half of a compressed message: 20 KB of text behind inflating."""
    name, extra = "half a compressed message", (DEFLATE,)

    def enter(self, stage, clients):
        text = "".join(random.Random(1).choices("abcdefghijklmnop", k=20_000)).encode()
        push_all(clients, frame(TEXT, deflated(text), final=False, reserved=RSV1))


class DeflateWindow(State):
    """Whole compressed messages of 20 KB, to which the next one may refer."""
    name, extra = "a window of compressed messages", (DEFLATE,)

    def enter(self, stage, clients):
        text = "".join(random.Random(1).choices("abcdefghijklmnop", k=20_000)).encode()
        push_all(clients, frame(TEXT, deflated(text), reserved=RSV1) * 2)


class HalfRecord(State):
    """A record of TLS of 16 KB without its last byte."""
    name, tls = "half a TLS record", True

    def connect(self, stage, n):
        return stage.opened_tls(n, self.path)

    def enter(self, stage, clients):
        for client in clients:
            client.tls.write(frame(TEXT, b"x" * 15_900))
        records = [client.outgoing.read()[:-1] for client in clients]
        push_all([client.socket for client in clients], lambda n: records[n])


class InHandshake(State):
    """A whole hello, and nothing behind it."""
    name, tls, sent = "a TLS handshake", True, None

    def connect(self, stage, n):
        return stage.plain(n, stage.tls_port)

    def enter(self, stage, clients):
        outgoing = ssl.MemoryBIO()
        tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            push_all(clients, outgoing.read()[:self.sent])


class HalfHello(InHandshake):
    """A hello of 16 KB without its last byte."""
    name = "half a TLS hello"

    def enter(self, stage, clients):
        # A hello of the length that a record may have.
        push_all(clients, b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb" + bytes(16_000))


class KeyUpdates(State):
    """As many key updates as are taken at once, each asking for one of the gateway's, whose records nobody reads."""
    name, tls = "key updates of TLS", True

    def connect(self, stage, n):
        return Sealer(stage.plain(n, stage.tls_port, 2_048), stage.authority, self.path)

    def enter(self, stage, clients):
        push_all([client.socket for client in clients], lambda n: b"".join(clients[n].key_update(1) for _ in range(9)))


class PausedForPongs(State):
    """64 KB of pings from a client that reads no pongs."""
    name, receive_bytes = "paused for its pongs", 2_048

    def enter(self, stage, clients):
        push_all(clients, frame(PING, b"x" * 125) * 500)


class PausedUnanswered(State):
    """Messages of devices behind as many as may wait for a service that does not answer."""
    name, gateway, path = "paused for its answers", "events", "/ws?device_id=d{}"
    env = {"RATE_LIMIT_RPS": "100000", "RATE_LIMIT_BURST": "100000"}

    def connect(self, stage, n):
        return stage.opened(n, self.path.format(n))

    def enter(self, stage, clients):
        few = frame(TEXT, b'{"event":"lobby.x"}') + frame(2, b"") * 64
        push_all(clients, few + frame(TEXT, b"{}") * ((65_536 - len(few)) // 8))


class OwnRate(State):
    """Clients of `?max_hz=`: the newest message of each of 40 names waits for the next slot."""
    name, gateway, path = "paused by its own rate", "channels", "/ws?max_hz=0.1"
    flags = ("--conflate", "market:*")

    def enter(self, stage, clients):
        push_all(clients, client_frame(TEXT, json.dumps({"action": "subscribe", "channels": [f"market:{n}" for n in range(40)]}).encode()))
        time.sleep(3)
        for n in range(40):
            stage.publish(f"market:{n}", ['"%s"' % ("x" * 500)] * 3)


class Http(State):
    """Kept connections of plain HTTP."""
    gateway, request, behind = "events", b"", 0

    def connect(self, stage, n):
        return stage.kept(n, self.receive_bytes)

    def enter(self, stage, clients):
        push_all(clients, self.request + b"x" * self.behind)


class BegunBody(Http):
    """30 KB of an upload of 60 KB, which is read before a connection to the service is taken."""
    name, behind = "a begun body", 30_000
    request = b"POST /v1/measurement/up HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n"


class BodyHandedOver(Http):
    """A large upload to a service that does not read, for all that find a connection to it."""
    name, behind = "a large body, not read", 300_000
    request = b"POST /v1/measurement/up HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"


class BodyFromLoop(BodyHandedOver):
    """The same as the first request of a connection: the loop reads the head."""
    name, more_each = "a large body behind the first head", 13 * 1024

    def connect(self, stage, n):
        return stage.plain(n)


class Pipelined(Http):
    """60 KB of further requests behind one that is not answered."""
    name, behind = "requests behind a request", 0
    request = b"GET /v1/measurement/x HTTP/1.1\r\nHost: h\r\n\r\n" * 1_400


class UnreadAnswer(Http):
    """An answer of a service of 300 KB that the client does not read."""
    name, answer_bytes, receive_bytes = "an answer that is not read", 300_000, 2_048
    request = b"GET /v1/measurement/big HTTP/1.1\r\nHost: h\r\n\r\n"


class UnreadSmallAnswer(UnreadAnswer):
    """One of 30 KB: the service has done its part, and the client still reads nothing."""
    name, answer_bytes, count_max = "a small answer that is not read", 30_000, 1_000


class UnreadPages(Http):
    """A page of the gateway itself, of which the client reads nothing."""
    name, receive_bytes, count_max = "own pages that are not read", 2_048, 800
    request = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"


class Resuming(State):
    """1,500 missed messages for a client that does not read."""
    name, gateway, path, receive_bytes = "resuming", "channels", "/ws", 4_096
    flags = ("--history-ms", "600000", "--history-names", "market:*")
    request = {"channels": ["market:a"]}

    def connect(self, stage, n):
        if n == 0:
            self.since = self.fill(stage)
        return super().connect(stage, n)

    def fill(self, stage):
        """A position before the missed messages."""
        link = stage.opened(0, self.path)
        said = lambda: link.send(client_frame(TEXT, b'{"action":"subscribe","channels":["market:a"]}'))
        got, end = b"", time.monotonic() + 20
        said()
        while b'"pos":"' not in got and time.monotonic() < end:
            got += link.recv(65_536)
            if b'"pos":"' not in got and b"subscribed" in got:
                stage.publish("market:a", ["1"])
        link.close()
        stage.publish("market:a", ['{"n":%d,"x":"%s"}' % (n, "x" * 100) for n in range(1_500)])
        return got.partition(b'"pos":"')[2].partition(b'"')[0].decode()

    def enter(self, stage, clients):
        push_all(clients, client_frame(TEXT, json.dumps({"action": "subscribe", **self.request, **self.wants()}).encode()))

    def wants(self):
        return {"since": self.since}


class ResumingPatterns(Resuming):
    """The same by five patterns, each with its own copies."""
    name = "resuming by patterns"
    request = {"channels": ["market:*", "market:a*", "market:?", "market:[a]", "market:[ab]"]}


class Last(Resuming):
    """The newest 100 messages of a name."""
    name = "last messages"

    def wants(self):
        return {"last": 100}


class Retained(State):
    """Last values of 900 subjects, 500 bytes each, by a pattern."""
    name, gateway, on_nats, path, receive_bytes, flags = "last values", "channels", True, "/ws", 4_096, ("--retained",)

    def prepare(self, stage):
        asyncio.run(self.fill(stage.nats.url))

    async def fill(self, url):
        import nats
        client = await nats.connect(url)
        jetstream = client.jetstream()
        await jetstream.add_stream(name="M", subjects=["market.tick.>"], max_msgs_per_subject=1, storage="memory")
        for n in range(900):
            await client.publish(f"market.tick.s{n}", json.dumps({"n": n, "pad": "x" * 500}).encode())
        await client.flush()
        await client.close()

    def enter(self, stage, clients):
        push_all(clients, client_frame(TEXT, b'{"action":"subscribe","channels":["market.tick.*"]}'))


class FullQueue(State):
    """Clients that read nothing, with so many bytes of messages that they may just stay."""
    name, gateway, path, receive_bytes, body_bytes, count = "a full send queue", "channels", "/ws", 2_048, 400, 550

    def connect(self, stage, n):
        link = super().connect(stage, n)
        link.sendall(client_frame(TEXT, b'{"action":"subscribe","channels":["market:a"]}'))
        return link

    def enter(self, stage, clients):
        stage.publish("market:a", ['"%s"' % ("x" * self.body_bytes)] * self.count)


class FullQueueOfSmall(FullQueue):
    """The same with the smallest messages."""
    name, body_bytes, count = "a full send queue, small messages", 1, 2_000


class EventStream(FullQueue):
    """The same as an event stream."""
    name, flags = "an event stream that is not read", ("--event-stream",)

    def connect(self, stage, n):
        link = stage.plain(n, receive_bytes=self.receive_bytes)
        send = urllib.parse.quote('{"action":"subscribe","channels":["market:a"]}')
        link.sendall(f"GET /ws?send={send} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        assert b" 200 " in link.recv(65_536)
        return link


class Names(State):
    """40 names of 150 bytes of its own for each client, and patterns for some."""
    name, gateway, path = "names and patterns", "channels", "/ws"

    def enter(self, stage, clients):
        pad = "x" * 140

        def request(n):
            names = [f"market:{n}:{k}:{pad}" for k in range(36)] + [f"market:{n}:{k}:*" for k in range(4 if n < 200 else 0)]
            return client_frame(TEXT, json.dumps({"action": "subscribe", "channels": names}).encode())
        push_all(clients, request)


class NamesOfPatterns(State):
    """Few names for all, which many patterns match: what is remembered for each name."""
    name, gateway, path = "names times patterns", "channels", "/ws"
    flags = ("--history-ms", "600000", "--history-names", "market:*")

    def enter(self, stage, clients):
        request = lambda n: {"action": "subscribe", "channels": [f"market:[a{n % 200}{k}]*" for k in "bcdef"]}
        push_all(clients, lambda n: client_frame(TEXT, json.dumps(request(n)).encode()))
        time.sleep(2)
        for n in range(500):
            stage.publish(f"market:a{n}", ["1"])


STATES = [HalfHead(), HalfFrame(), Fragments(), HalfDeflated(), DeflateWindow(), HalfRecord(), InHandshake(), HalfHello(), KeyUpdates(),
          PausedForPongs(), PausedUnanswered(), OwnRate(), BegunBody(), BodyHandedOver(), BodyFromLoop(), Pipelined(),
          UnreadAnswer(), UnreadSmallAnswer(), UnreadPages(), Resuming(), ResumingPatterns(), Last(), Retained(), FullQueue(), FullQueueOfSmall(), EventStream(), Names(),
          NamesOfPatterns()]
