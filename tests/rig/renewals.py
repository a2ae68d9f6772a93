"""New certificates under clients that come and go over TLS: what was refused, cut, missed, or shown of a replaced certificate."""
import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import random
import re
import signal
import socket
import ssl
import time

from clients import CLOSE, TEXT, Client, client_frame
from processes import RedisServer, Weirgate, free_port
from prometheus import scrape
from tls import Authority
from waiting import until

CHANNEL = "news"
NUMBER = re.compile(rb'"type":"data".*"data":(\d+)')
MESSAGES_PER_S = 5
SECONDS_MAX = 20


@dataclasses.dataclass
class Plan:
    """`stay_s`: the mean time that a client stays. Every `looked_for`-th renewal has no SIGHUP: weirgate looks at the files itself.
    `pause_s`: between two renewals, so that clients come with each certificate."""
    renewals: int
    clients: int
    stay_s: float
    looked_for: int = 2
    pause_s: float = 0.2
    seed: int = 21


@dataclasses.dataclass
class Report:
    """What came of the visits. `faults` has words for each fault."""
    visits: int = 0
    messages: int = 0
    resumed: int = 0
    seconds: float = 0.0
    faults: list = dataclasses.field(default_factory=list)


class Certificates:
    """The two files that the gateway reads, and which certificate is in force."""

    def __init__(self, folder):
        self.folder, self.authority = folder, Authority(folder)
        self.files = folder / "chain.pem", folder / "key.pem"
        self.numbers, self.in_force = {}, 0
        self.put(self.make(0))

    def make(self, number):
        """A pair for this renewal."""
        pair = self.authority.sign(f"n{number}", "IP:127.0.0.1", "DNS:localhost")
        self.numbers[hashlib.sha256(ssl.PEM_cert_to_DER_cert(pair[0].read_text())).digest()] = number
        return pair

    def put(self, pair, pause_s=0.0):
        """The pair in place of the one before, a file after the other, as certbot writes them."""
        for file, new in zip(self.files, pair):
            (self.folder / "next").write_bytes(new.read_bytes())
            (self.folder / "next").rename(file)
            time.sleep(pause_s)

    def number(self, der):
        return self.numbers[hashlib.sha256(der).digest()]


class Visitor(Client):
    """A client that notes what it misses of the numbers."""

    def __init__(self, port):
        super().__init__(port, path="/ws")
        self.last, self.count, self.missed, self.leaves = None, 0, [], False

    def take(self, opcode, payload):
        super().take(opcode, payload)
        found = NUMBER.search(payload) if opcode == TEXT else None
        if found:
            number = int(found[1])
            if self.last not in (None, number - 1):
                self.missed.append((self.last, number))
            self.last, self.count = number, self.count + 1


class Crowd:
    """Clients that connect, subscribe, read for a while, leave and come back."""

    def __init__(self, port, certificates, plan):
        self.port, self.certificates, self.plan = port, certificates, plan
        self.context = certificates.authority.context()
        self.draw, self.report, self.is_over, self.here = random.Random(plan.seed), Report(), False, 0

    async def come_and_go(self):
        # They do not come all at once.
        await asyncio.sleep(self.draw.uniform(0, self.plan.stay_s))
        while not self.is_over:
            try:
                await asyncio.wait_for(self.visit(), SECONDS_MAX + 20 * self.plan.stay_s)
            except (OSError, AssertionError, TimeoutError) as error:
                self.report.faults.append(f"refused: {error!r}")

    async def visit(self):
        oldest = self.certificates.in_force
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: Visitor(self.port), "127.0.0.1", self.port, ssl=self.context, server_hostname="localhost")
        self.here += 1
        try:
            shown = self.certificates.number(client.transport.get_extra_info("ssl_object").getpeercert(True))
            if shown < oldest:
                self.report.faults.append(f"old: certificate {shown} while {oldest} was in force")
            head = await asyncio.wait_for(client.upgraded, SECONDS_MAX)
            assert head.startswith("HTTP/1.1 101"), head
            client.say({"action": "subscribe", "channels": [CHANNEL]})
            with contextlib.suppress(TimeoutError):
                error = await asyncio.wait_for(asyncio.shield(client.ended), min(self.draw.expovariate(1 / self.plan.stay_s), 10 * self.plan.stay_s))
                self.report.faults.append(f"cut: close code {client.close_code}, {error!r}")
                return
            await self.leave(client)
        finally:
            client.abort()
            self.here -= 1
            self.report.visits += 1
            self.report.messages += client.count
            self.report.faults += [f"lost: {one}" for one in client.missed]

    async def leave(self, client):
        """Half say goodbye, and the others just go."""
        if self.draw.random() < 0.5:
            client.transport.write(client_frame(CLOSE, (1000).to_bytes(2, "big")))
            await asyncio.wait_for(client.ended, SECONDS_MAX)
            if client.close_code != 1000:
                self.report.faults.append(f"cut: close code {client.close_code} after 1000")


def handshake(port, context, session=None):
    """(the certificate, whether the session was resumed, the next session) of a request over TLS."""
    with socket.create_connection(("127.0.0.1", port), SECONDS_MAX) as plain:
        with context.wrap_socket(plain, server_hostname="localhost", session=session) as tls:
            tls.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert tls.recv(1000).startswith(b"HTTP/1.1 200")
            return tls.getpeercert(True), tls.session_reused, tls.session


async def renew(weirgate, port, crowd, certificates, plan):
    """All renewals, each until a handshake shows the new certificate."""
    context, session = certificates.authority.context(), None
    for number in range(1, plan.renewals + 1):
        pair = await asyncio.to_thread(certificates.make, number)
        # Until the key is there too, the files do not belong together.
        await asyncio.to_thread(certificates.put, pair, 0.01)
        if number % plan.looked_for:
            weirgate.send(signal.SIGHUP)
        end = time.monotonic() + SECONDS_MAX
        while certificates.number((await asyncio.to_thread(handshake, port, context))[0]) != number:
            assert time.monotonic() < end, f"certificate {number} is not shown\n{weirgate.log_tail()}"
            await asyncio.sleep(0.02)
        certificates.in_force = number
        # A ticket of the certificate before is still good.
        _, resumed, session = await asyncio.to_thread(handshake, port, context, session)
        crowd.report.resumed += resumed
        await asyncio.sleep(plan.pause_s)


async def publish(redis):
    """The numbers, for ever."""
    for number in itertools.count():
        await asyncio.to_thread(redis.publish, CHANNEL, str(number))
        await asyncio.sleep(1 / MESSAGES_PER_S)


async def renew_under_clients(weirgate, port, redis, certificates, plan):
    """The report of a gateway of channels, with TLS at the port, whose certificate is renewed."""
    crowd, began = Crowd(port, certificates, plan), time.monotonic()
    feed = asyncio.create_task(publish(redis))
    visitors = [asyncio.create_task(crowd.come_and_go()) for _ in range(plan.clients)]
    try:
        await until(lambda: crowd.here >= plan.clients * 0.8, 60 + plan.stay_s, "most clients are there")
        await renew(weirgate, port, crowd, certificates, plan)
        crowd.is_over = True
        await asyncio.gather(*visitors)
    finally:
        for task in [feed, *visitors]:
            task.cancel()
    crowd.report.seconds = time.monotonic() - began
    crowd.report.faults += await asyncio.to_thread(counted_faults, weirgate, crowd.report, plan)
    return crowd.report


def counted_faults(weirgate, report, plan):
    """What the gateway itself counted, in words."""
    metrics, faults = scrape(weirgate), []
    if count := metrics.sum("weirgate_tls_handshakes_total", outcome="failed"):
        faults.append(f"refused: {count} handshakes failed")
    for reason in ("tls_error", "handshake_timeout"):
        if count := metrics.sum("weirgate_client_closes_total", reason=reason):
            faults.append(f"cut: {count} clients with the reason {reason}")
    changed = metrics.sum("weirgate_reloads_total", what="tls", outcome="changed")
    if changed != plan.renewals:
        faults.append(f"renewals: {changed} were counted of {plan.renewals}")
    # The first has no ticket.
    if report.resumed != plan.renewals - 1:
        faults.append(f"tickets: {report.resumed} of {plan.renewals - 1} were good after a renewal")
    return faults


@contextlib.contextmanager
def gateway(folder):
    """(a gateway of channels, its port for TLS, its redis-server, its certificates)"""
    (folder / "roles.json").write_text('{"user": ["*"]}')
    certificates, port = Certificates(folder), free_port()
    with contextlib.ExitStack() as stack:
        redis = RedisServer()
        stack.callback(redis.discard)
        weirgate = Weirgate("channels", "--acl", str(folder / "roles.json"), "--tls-port", str(port), "--tls-cert", str(certificates.files[0]),
                            "--tls-key", str(certificates.files[1]), redis=redis)
        stack.callback(weirgate.discard)
        yield weirgate.wait_ready(), port, redis, certificates
