"""Names that are not UTF-8: two of them would become one text, so no client gets their messages, on any bus. They are skipped, counted
and logged, and the messages around them come."""
import socket

import clients
import nats as nats_py
import pytest
from prometheus import scrape
from test_resume import HISTORY, Reader
from waiting import until

NOT_TEXT = (b"t.a\xffb", b"t.a\xfeb", b"t.\xc3\x28", b"t.\xed\xa0\x80")
#: U+FFFD itself is a letter as any other.
TEXT = ("t.é", "t.a\ufffdb")


class Bus:
    """Publishes on names of any bytes."""

    def __init__(self, server, stream):
        self.server, self.stream = server, stream


class OnNats(Bus):
    pattern = "t.>"

    def flags(self):
        names = ("--stream", self.stream) if self.stream else ("--history-names", self.pattern)
        return ("--bus", self.server.url, *HISTORY, *names)

    async def make(self):
        if self.stream:
            bus = await nats_py.connect(self.server.url)
            await bus.jetstream().add_stream(name=self.stream, subjects=[self.pattern])
            await bus.close()

    def publish(self, *names):
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as link:
            lines = [b"PUB %s 1\r\n1\r\n" % name for name in names]
            link.sendall(b'CONNECT {"verbose":false}\r\n%sPING\r\n' % b"".join(lines))
            told = b""
            while b"PONG" not in told:
                told += link.recv(4096)


class OnRedis(Bus):
    pattern = "t.*"

    def flags(self):
        names = ("--stream", self.stream) if self.stream else ("--history-names", self.pattern)
        return ("--redis-url", self.server.url, *HISTORY, *names)

    async def make(self):
        pass

    def publish(self, *names):
        for name in names:
            if self.stream:
                self.server.client().xadd(self.stream, {"channel": name, "data": "1"})
            else:
                self.server.client().publish(name, "1")


@pytest.fixture(params=[(OnNats, None), (OnNats, "T"), (OnRedis, None), (OnRedis, "T")],
                ids=["nats", "nats-stream", "redis", "redis-stream"])
def odd_bus(request, start_nats, redis_server):
    kind, stream = request.param
    return kind(start_nats() if kind is OnNats else redis_server, stream)


async def holds(weirgate, *names):
    client = await clients.connect(weirgate.port, path="/ws", make=Reader)
    client.say({"action": "subscribe", "channels": list(names)})
    await client.wait_for(lambda c: len(c.answers) == 2, 20, "subscribed")
    return client


async def test_two_names_never_become_one(odd_bus, start_weirgate):
    await odd_bus.make()
    weirgate = start_weirgate("channels", *odd_bus.flags(), env={"DEFAULT_ROLE": "internal"}).wait_ready()
    client = await holds(weirgate, odd_bus.pattern)
    first, last = (name.encode() for name in ("t.first", "t.last"))
    odd_bus.publish(first, *NOT_TEXT, *(name.encode() for name in TEXT), last)
    await client.wait_for(lambda c: c.data and c.data[-1]["channel"] == "t.last", 20, "the last message")
    assert [message["channel"] for message in client.data] == ["t.first", *TEXT, "t.last"]
    assert not any(status.get("lost") for status in client.statuses)
    await until(lambda: scrape(weirgate).sum("weirgate_bus_messages_bad_total") == len(NOT_TEXT), 10, "the count")
    weirgate.logs("bad message skipped", "a name that is not UTF-8")


async def test_last_values_of_such_names_are_not_sent(start_nats, start_weirgate):
    bus = OnNats(start_nats(), "T")
    await bus.make()
    weirgate = start_weirgate("channels", "--bus", bus.server.url, "--retained", env={"DEFAULT_ROLE": "internal"}).wait_ready()
    bus.publish(b"t.a", *NOT_TEXT, *(name.encode() for name in TEXT))
    client = await holds(weirgate, "t.*")
    await client.wait_for(lambda c: len(c.data) == 1 + len(TEXT), 20, "the values")
    assert sorted(message["channel"] for message in client.data) == sorted(["t.a", *TEXT])
    await until(lambda: scrape(weirgate).sum("weirgate_bus_retained_limited_total") == 1, 10, "the count")
    weirgate.logs("last values of a name that is not UTF-8")
