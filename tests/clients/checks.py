"""The checks that every client has to pass: the columns of the matrix. Each starts the gateway that it needs."""
import asyncio
import contextlib
import json
import random
import re
import signal
import string
import time

from feeds import Channels, Levels, Trades, bodies
from link import Link
from processes import Weirgate
from program import Fault, Program
from waiting import until

BODIES = 500
STOPPED_S = 3
# Numbers of the published message at which the others join, and one client is stopped and goes on.
SECOND_JOINS, STOPS, GOES_ON, THIRD_JOINS = 60, 150, 300, 320
TOKEN = "s3cret"


class Bench:
    """Starts gateways and programs of one client, and ends them with the check; with `trust` the clients come over TLS."""

    def __init__(self, command, log, trust=None):
        self.command, self.log, self.trust = command, log, trust
        self.stack = contextlib.AsyncExitStack()
        self.facts = {}

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self.stack.aclose()

    async def feed(self, make, *flags, **env):
        """A feed with its broker, and a ready gateway on it."""
        feed = make()
        brokers = await feed.start()
        self.stack.push_async_callback(feed.stop)
        tls_flags, port = self.trust.flags() if self.trust else ([], None)
        gateway = Weirgate(feed.name, *feed.flags, *flags, *tls_flags, env=env, **brokers)
        self.stack.callback(gateway.discard)
        gateway.client_port = port or gateway.port
        return feed, gateway.wait_ready()

    async def channels(self, *flags, **env):
        """A ready gateway of channels."""
        return (await self.feed(Channels, *flags, **env))[1]

    async def program(self, port, target="/ws", *protocols):
        """A program of the client; `opened()` waits for its WebSocket."""
        scheme, env = ("wss", self.trust.env) if self.trust else ("ws", {})
        program = await Program.start(self.command, self.log, f"{scheme}://127.0.0.1:{port}{target}", *protocols, env=env)
        self.stack.push_async_callback(program.discard)
        return program


class Reader:
    """A program that takes part in a feed: subscribed, with the bodies that it showed since message `first`."""

    def __init__(self, feed, program, first):
        self.feed, self.program, self.first = feed, program, first

    @classmethod
    async def join(cls, bench, feed, port, first):
        """A reader that has subscribed; one of levels that joins late has the newest state."""
        reader = cls(feed, await (await bench.program(port, feed.path)).opened(), first)
        for done, text in enumerate(feed.subscriptions, 1):
            await reader.program.send(text)
            await reader.program.until(lambda: len(reader.program.texts) > done, f"the answer to subscription {done}")
        return reader

    def bodies(self):
        """The bodies shown so far."""
        return [body for text in self.program.texts if (body := self.feed.read(text)) is not None]

    async def shows(self, count):
        """Returns once the client has shown so many bodies."""
        count += len(self.feed.subscriptions) and len(self.feed.subscriptions) + 1
        await self.program.until(lambda: len(self.program.texts) >= count, f"text {count}")


async def mixed(bench, make):
    """All bodies, in order and to the byte, on four connections: from the start, through a narrow link and stopped for some
    seconds, and two that join later. The next message is published when all that read have the one before."""
    feed, gateway = await bench.feed(make)
    narrow = await bench.stack.enter_async_context(Link(gateway.client_port, buffer_bytes=16_384).running())
    first, stopped = await Reader.join(bench, feed, gateway.client_port, 0), await Reader.join(bench, feed, narrow.port, 0)
    if not bench.trust:
        bench.facts.update(offer=extensions(narrow.heads["there"]), answer=extensions(narrow.heads["back"]))
    reading, published, stopped_at = [first, stopped], [], 0
    for n, body in enumerate(bodies(BODIES)):
        if n in (SECOND_JOINS, THIRD_JOINS):
            # A new client of levels gets the newest state, one of the others what is published next.
            reading.append(await Reader.join(bench, feed, gateway.client_port, n - 1 if feed.skips else n))
        elif n == STOPS:
            stopped.program.signal(signal.SIGSTOP)
            reading.remove(stopped)
            stopped_at = time.monotonic()
        elif n == GOES_ON:
            await asyncio.sleep(max(0, stopped_at + STOPPED_S - time.monotonic()))
            stopped.program.signal(signal.SIGCONT)
        await feed.publish(n, body)
        published.append(feed.expected(n, body))
        for reader in reading:
            await reader.shows(n + 1 - reader.first)
    await stopped.program.until(lambda: stopped.bodies()[-1:] == published[-1:], "the last message")
    for reader in reading:
        equal(reader.bodies(), published[reader.first:])
    if feed.skips:
        in_order(stopped.bodies(), published)
    else:
        equal(stopped.bodies(), published)
    if "permessage-deflate" in bench.facts.get("offer", "") and "permessage-deflate" not in bench.facts["answer"]:
        raise Fault("weirgate declined permessage-deflate")


def extensions(head):
    """The value of `Sec-WebSocket-Extensions` in the head of a handshake; empty without one."""
    return ", ".join(re.findall(r"(?im)^sec-websocket-extensions: *(.*?)\r?$", head.partition(b"\r\n\r\n")[0].decode(errors="replace")))


def equal(got, published):
    for n, (one, other) in enumerate(zip(got, published)):
        if one != other:
            raise Fault(f"message {n} is another text: {one[:80]!r} in place of {other[:80]!r}")
    if len(got) != len(published):
        raise Fault(f"{len(got)} messages in place of {len(published)}")


def in_order(got, published):
    """Each text is one that was published, after the one before."""
    rest = iter(published)
    for body in got:
        if body not in rest:
            raise Fault(f"no text that was published, or not in order: {body[:80]!r}")


async def levels(bench):
    await mixed(bench, Levels)


async def trades(bench):
    await mixed(bench, Trades)


async def channels(bench):
    await mixed(bench, Channels)


async def sends(bench):
    """Messages of the client, one after the other, come back whole: small ones, twice the same, and 1.9 MB."""
    program = await (await bench.program((await bench.channels()).client_port)).opened()
    draw = random.Random(6455)
    for size in (10, 10, 3_000, 3_000, 100_000, 1_500_000, 1_900_000):
        text = "".join(draw.choices(string.ascii_letters + string.digits, k=min(size, 60_000))) * (size // min(size, 60_000))
        count = len(program.texts)
        await program.send(json.dumps({"action": "ping", "requestId": text}))
        await program.until(lambda: len(program.texts) > max(1, count), f"the answer to {size} bytes")
        if f'"requestId":"{text}"' not in program.texts[-1]:
            raise Fault(f"{size} bytes came back as {len(program.texts[-1])} characters: {program.texts[-1][:100]!r}")


async def pongs(bench):
    """A client that only reads is still there after several times the wait for a pong."""
    gateway = await bench.channels("--ping-interval-ms", "300", "--pong-timeout-ms", "1000")
    program = await (await bench.program(gateway.client_port)).opened()
    await asyncio.sleep(3.5)
    if program.ended or gateway.health()["clients_connected"] != 1:
        raise Fault(program.ended or "the client is gone")


async def quiet(bench, port):
    """A program that has shown the first message, so that nothing is under way when the connection ends."""
    program = await bench.program(port)
    await program.until(lambda: program.texts, "the first message")
    return program


async def too_big(bench):
    """2.2 MB of the client end with 1009."""
    program = await (await bench.program((await bench.channels()).client_port)).opened()
    await program.send(json.dumps({"action": "ping", "requestId": "".join(map(chr, range(0x100, 0x2d00))) * 110}, ensure_ascii=False))
    shows(await program.end(), "closed 1009")


async def client_closes(bench):
    """The gateway logs the client's code, and the client shows the same."""
    gateway = await bench.channels()
    program = await quiet(bench, gateway.client_port)
    await program.close(3999)
    ended = await program.end()
    await until(lambda: 'reason="peer_closed" code=3999' in gateway.log(), 10, "the code in the log")
    shows(ended, "closed 3999")


async def channels_stop(bench):
    """The client shows the code of a stop of channels right behind the first message; so of levels and events."""
    await stop(bench, Channels, "closed 1012")


async def trades_stop(bench):
    """The same of trades."""
    await stop(bench, Trades, "closed 1001")


async def stop(bench, make, code):
    _, gateway = await bench.feed(make)
    program = await (await bench.program(gateway.client_port)).opened()
    gateway.send(signal.SIGTERM)
    shows(await program.end(), code)


async def in_subprotocol(bench):
    """A token as a subprotocol, of which only `bearer` comes back."""
    await with_token(bench, "/ws", "bearer", TOKEN)


async def in_query(bench):
    """A token in the query."""
    await with_token(bench, f"/ws?token={TOKEN}")


async def with_token(bench, target, *protocols):
    gateway = await with_tokens(bench)
    program = await (await bench.program(gateway.client_port, target, *protocols)).opened()
    await program.until(lambda: program.texts, "the first message")
    shows(program.protocol, "bearer" if protocols else "")
    shows(json.loads(program.texts[0])["role"], "admin")


async def bad_token(bench):
    """A wrong token: the WebSocket opens and closes with 1008."""
    gateway = await with_tokens(bench)
    program = await bench.program(gateway.client_port, "/ws?token=wrong")
    shows(await program.end(), "closed 1008")


async def with_tokens(bench):
    return await bench.channels("--require-auth", GATEWAY_API_KEY=TOKEN)


def shows(got, want):
    if got != want:
        raise Fault(f"{got!r} in place of {want!r}")


CHECKS = {
    "levels": levels, "trades": trades, "channels": channels, "sends": sends, "pongs": pongs, "1009": too_big,
    "3999": client_closes, "1012": channels_stop, "1001": trades_stop, "subprotocol": in_subprotocol, "query": in_query, "1008": bad_token,
}
