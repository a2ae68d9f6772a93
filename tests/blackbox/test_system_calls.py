"""System calls of the loop for what a client does most, counted one by one with strace: each of them is CPU in every storm."""
import asyncio
import collections
import pathlib
import re
import tempfile

import pytest
from clients import PING, client_frame, upgrade_request
from processes import system_binary

# A call that has ended, with its result.
CALL = re.compile(r"^(\w+)\(.* = (-?\d+)", re.MULTILINE)
# Events of other threads and of the clock, which no client causes; a debug build looks at a descriptor before the close.
LOG = ("futex", "brk", "write", "madvise", "fcntl")
CONNECTIONS = 6


class Loop:
    """weirgate under strace, which follows the loop's thread alone."""

    def __init__(self, start_weirgate, nats, path):
        self.path = path
        # With -D weirgate, not strace, is the child that the test ends.
        strace = [system_binary("strace", "strace"), "-D", "-q", "-o", path]
        self.weirgate = start_weirgate("levels", "--ping-interval-ms", "0", nats=nats, under=strace).wait_ready(60)
        self.seen = 0

    async def calls(self):
        """Calls since the last call of this method, once no more come; turns without an event are left out."""
        before, text = None, self.path.read_text()
        while text != before:
            await asyncio.sleep(0.15)
            before, text = text, self.path.read_text()
        new, self.seen = text[self.seen:], text.rfind("\n") + 1
        ended = [(name, int(result)) for name, result in CALL.findall(new[:new.rfind("\n") + 1])]
        return [name for name, result in ended if name not in LOG and (name, result) != ("epoll_wait", 0)]


def usual(counted):
    """What most connections have: now and then the bus wakes the loop meanwhile, and a busy machine is late with a call."""
    [(calls, _)] = collections.Counter(map(tuple, counted)).most_common(1)
    return [*calls]


@pytest.fixture
def loop(start_weirgate, nats):
    with tempfile.TemporaryDirectory() as folder:
        yield Loop(start_weirgate, nats, pathlib.Path(folder) / "calls")


@pytest.mark.plain("counts the calls of a plain connection")
async def test_a_handshake_is_seven_calls_and_a_ping_three(loop):
    port = loop.weirgate.port
    handshakes, pings, ends = [], [], []
    for _ in range(CONNECTIONS):
        await loop.calls()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # From afar, the request comes after the loop has accepted the connection.
        accepted = await loop.calls()
        writer.write(upgrade_request(port))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert head.startswith(b"HTTP/1.1 101"), head
        handshakes.append(accepted + await loop.calls())
        for _ in range(2):
            writer.write(client_frame(PING))
            assert await asyncio.wait_for(reader.readexactly(2), 60) == b"\x8a\x00"
            pings.append(await loop.calls())
        writer.close()
        ends.append(await loop.calls())
    assert usual(handshakes) == ["epoll_wait", "accept4", "epoll_ctl", "accept4", "epoll_wait", "recvfrom", "sendto"]
    assert usual(pings) == ["epoll_wait", "recvfrom", "sendto"]
    assert usual(ends) == ["epoll_wait", "recvfrom", "close"]


async def test_a_request_that_is_there_at_the_accept_saves_a_wake_up(loop):
    port = loop.weirgate.port
    counted = []
    # After a try in vain the loop leaves out 63 accepts.
    for n in range(70):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(upgrade_request(port))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert head.startswith(b"HTTP/1.1 101"), head
        writer.close()
    for _ in range(CONNECTIONS):
        await loop.calls()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(upgrade_request(port))
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        counted.append(await loop.calls())
        writer.close()
    assert len(usual(counted)) <= 7, counted
