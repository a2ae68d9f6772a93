#!/usr/bin/env python3
"""What 400 hostile clients that send half a megabyte a second in all do to another client and to the memory.

    hostile.py [--clients 400] [--rate 500000] [--seconds 10] [--only NAME]

Each attack meets a fresh gateway. Exit status 1 if a round trip of the bystander or the memory is over its bound.
OVER_TLS=1: all attacks come over TLS; without it only the attacks on TLS itself.
"""
import argparse
import asyncio
import collections
import contextlib
import http.client
import multiprocessing
import pathlib
import socket
import sys
import tempfile
import threading
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1] / "rig")]

import crowds
import measured
import over_tls
import tls_crowds
from clients import FrameReader, client_frame, upgrade_request
from measures import deployed_environment, resident_kib
from processes import NatsServer, RedisServer, Weirgate, free_port
from prometheus import scrape
from service import Service
from tls import Authority

TEXT, PING, PONG = 1, 9, 10
P50_MS_MAX, MAX_MS_MAX = 5, 100
# The heap takes its shape in the first attacks; later attacks must not add to it.
WARM_UPS, WARM_UP_SECONDS = 2, 3
# What is left may be more than a tenth of so little memory.
GROWTH_MIB_MAX, LEFT_MAX, LEFT_MIB_MAX = 64, 0.10, 2
OF_CHANNELS = [crowds.Echo(), crowds.Names("names", 50), crowds.Names("very many names", 5_000), crowds.Leavers(), crowds.IdleRequests()]
ATTACKS = [*OF_CHANNELS, crowds.Bombs("levels", "/ws/stream"), crowds.Bombs("events", "/ws?device_id=a"), crowds.Pings(),
           *(crowds.EchoStorm(addresses) for addresses in (1, 10, 100)), crowds.Heads(), crowds.SlowBodies(), crowds.Together(OF_CHANNELS), *tls_crowds.CROWDS]
PATHS = {"levels": "/ws/stream", "channels": "/ws", "events": "/ws?device_id=bystander"}


class Bystander:
    """A client that sends a ping each 20 ms and waits for the pong."""

    def __init__(self, port, path, context=None):
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context:
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        self.sock.sendall(upgrade_request(port, path))
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.sock.recv(65_536)
        assert head.startswith(b"HTTP/1.1 101"), head
        self.frames = FrameReader()
        list(self.frames.feed(head.partition(b"\r\n\r\n")[2]))
        self.sock.settimeout(60)

    def round_trip_ms(self):
        began = time.monotonic()
        self.sock.sendall(client_frame(PING, b"bystander"))
        while True:
            for opcode, payload in self.frames.feed(self.sock.recv(65_536)):
                if opcode == PONG:
                    return (time.monotonic() - began) * 1e3
                if opcode == PING:
                    self.sock.sendall(client_frame(PONG, payload))

    def round_trips_ms(self, seconds):
        """Sorted."""
        trips, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            trips.append(self.round_trip_ms())
            time.sleep(0.02)
        return sorted(trips)


def serve_measurement(pipe):
    """The service behind the proxy, in a process of its own."""
    async def run():
        service = Service("measurement")
        await service.start()
        pipe.send(service.url)
        await asyncio.Event().wait()
    asyncio.run(run())


class Target:
    """A fresh gateway with its broker or service; `port` is the port for TLS if the attack comes over TLS."""

    def __init__(self, crowd, stack):
        flags, self.authority, self.context = [], None, None
        if over_tls.is_on() or crowd.needs_tls:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weirgate-hostile-")))
            authority = Authority(folder)
            self.authority, self.context, self.port = authority.ca, authority.context(), free_port()
            certificate, key = authority.sign("local", "IP:127.0.0.1", "DNS:localhost")
            flags = ["--tls-port", str(self.port), "--tls-cert", str(certificate), "--tls-key", str(key)]
        self.weirgate, self.redis = start(crowd.gateway, [*crowd.flags, *flags], stack)
        if not self.context:
            self.port = self.weirgate.port

    def bystander(self, crowd):
        """A client that is subscribed to the feed, if the attack has one."""
        bystander = Bystander(self.port, PATHS[crowd.gateway], self.context)
        if crowd.feed:
            bystander.sock.sendall(client_frame(TEXT, b'{"action":"subscribe","channels":["news"]}'))
        return bystander

    def get_ms(self, path):
        """A request of a new connection, milliseconds; None if its answer is not 200."""
        began = time.monotonic()
        link = (http.client.HTTPSConnection("localhost", self.port, context=self.context, timeout=90) if self.context
                else http.client.HTTPConnection("127.0.0.1", self.port, timeout=90))
        link.request("GET", path)
        status = link.getresponse().status
        link.close()
        return (time.monotonic() - began) * 1e3 if status == 200 else None

    @contextlib.contextmanager
    def feed(self, size):
        """20 messages a second of this size, within the block; none if the size is 0."""
        if not size:
            yield
            return
        client = self.redis.client()
        with every(0.05, lambda: client.publish("news", '"' + "x" * size + '"')):
            yield


@contextlib.contextmanager
def every(seconds, call):
    """Calls in a thread, again and again, within the block."""
    over = threading.Event()

    def run():
        while not over.wait(seconds):
            call()
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def attacked(crowd, target, args):
    """The clients attack within the block, in equal parts if several crowds come at once; afterwards the sums of their figures."""
    figures = collections.Counter()
    attacks = [crowds.Attack(part, target.port, args.clients // len(crowd.parts), args.rate / len(crowd.parts), target.authority)
               for part in crowd.parts]
    for attack in attacks:
        attack.start()
    yield figures
    for attack in attacks:
        figures.update(attack.stop())


def start(name, flags, stack):
    """(the gateway, its redis-server)"""
    env, server = deployed_environment(), None
    if name == "levels":
        server = NatsServer()
        weirgate = Weirgate(name, *flags, nats=server, env=env)
    elif name == "channels":
        server = RedisServer()
        roles = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weirgate-hostile-"))) / "roles.json"
        roles.write_text('{"user": ["*"]}')
        weirgate = Weirgate(name, "--acl", str(roles), *flags, redis=server, env=env)
    else:
        ours, theirs = multiprocessing.Pipe()
        service = multiprocessing.Process(target=serve_measurement, args=(theirs,), daemon=True)
        service.start()
        stack.callback(service.kill)
        weirgate = Weirgate(name, *flags, env={**env, "MEASUREMENT_URL": ours.recv()})
    if server:
        stack.callback(server.discard)
    stack.callback(weirgate.discard)
    return weirgate.wait_ready(), server


def peak_kib(pid, reset=False):
    """The highest resident memory since the last reset."""
    if reset:
        pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def measure(crowd, args):
    """One attack on a fresh gateway: its figures, and what is wrong with these, in words.

    Short attacks of the same size come first: what stays after the measured attack and not after these is lost.
    """
    with contextlib.ExitStack() as stack:
        target = Target(crowd, stack)
        weirgate = target.weirgate
        fresh_kib = resident_kib(weirgate.pid)
        for _ in range(WARM_UPS):
            with attacked(crowd, target, args), target.feed(crowd.feed):
                # What waits for clients that do not read grows with time.
                time.sleep(args.seconds if crowd.feed else WARM_UP_SECONDS)
            wait_idle(weirgate)
        bystander = target.bystander(crowd)
        # The gateway learns from the first message that this client costs little.
        bystander.round_trip_ms()
        alone = bystander.round_trips_ms(1)
        before = resident_kib(weirgate.pid)
        peak_kib(weirgate.pid, reset=True)
        cpu, began = weirgate.cpu_seconds(), time.monotonic()
        held = [0]
        with attacked(crowd, target, args) as figures:
            with target.feed(crowd.feed), every(1, lambda: held.append(scrape(weirgate).sum("weirgate_tls_held_bytes"))):
                trips = bystander.round_trips_ms(args.seconds)
            get = target.get_ms("/v1/measurement/good" if crowd.gateway == "events" else "/health")
        cpu = (weirgate.cpu_seconds() - cpu) / (time.monotonic() - began)
        peak = peak_kib(weirgate.pid)
        after = settled_kib(weirgate.pid, before)
        alive = weirgate.alive()
    row = {"attack": crowd.name, "sent KB/s": figures["sent_per_s"] / 1e3, "got KB/s": figures["got_per_s"] / 1e3,
           "ended": figures["ended"], "alone p50 ms": alone[len(alone) // 2], "p50 ms": trips[len(trips) // 2],
           "p99 ms": trips[int(len(trips) * 0.99)], "max ms": trips[-1], "cpu %": cpu * 100, "fresh MiB": fresh_kib / 1024,
           "before MiB": before / 1024, "peak MiB": peak / 1024, "after MiB": after / 1024, "held MiB": max(held) / 2**20, "GET ms": get}
    return row, list(wrong(row, alive))


def wait_idle(weirgate, seconds=60):
    """Returns once the clients of an attack are forgotten, their last messages too; closes take 5 s."""
    time.sleep(6)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = weirgate.cpu_seconds()
        time.sleep(1)
        if weirgate.cpu_seconds() - before < 0.05:
            return


def settled_kib(pid, before):
    """Resident memory once it is back, or after 15 s; closes take 5 s."""
    end = time.monotonic() + 15
    while resident_kib(pid) > before * (1 + LEFT_MAX) and time.monotonic() < end:
        time.sleep(0.5)
    return resident_kib(pid)


def wrong(row, alive):
    """Yields what is over its bound."""
    if not alive:
        yield "the gateway ended"
    if row["p50 ms"] > P50_MS_MAX:
        yield f"p50 {row['p50 ms']:.1f} ms is over {P50_MS_MAX}"
    if row["max ms"] > MAX_MS_MAX:
        yield f"max {row['max ms']:.1f} ms is over {MAX_MS_MAX}"
    if row["peak MiB"] - row["fresh MiB"] > GROWTH_MIB_MAX:
        yield f"memory grew by {row['peak MiB'] - row['fresh MiB']:.1f} MiB"
    if row["after MiB"] > max(row["before MiB"] * (1 + LEFT_MAX), row["before MiB"] + LEFT_MIB_MAX):
        yield f"memory stayed {row['after MiB'] / row['before MiB'] - 1:+.0%}"
    if row["GET ms"] is None:
        yield "a request beside the attack was not answered"


def show(rows):
    """The table."""
    cell = lambda value: value if isinstance(value, str) else "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
    table = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(text.rjust(width) if column else text.ljust(width)
                        for column, (text, width) in enumerate(zip(line, widths))))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=400)
    parser.add_argument("--rate", type=float, default=500_000, help="bytes a second of all hostile clients together")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", default="", help="the attacks whose names begin so")
    return parser


def main(args):
    rows, problems = [], []
    for crowd in ATTACKS:
        if crowd.name.startswith(args.only):
            row, faults = measure(crowd, args)
            rows.append(row)
            problems += [f"{crowd.name}: {fault}" for fault in faults]
            print(f"hostile: {crowd.name}: {'; '.join(faults) or 'within its bounds'}", flush=True)
    show(rows)
    for problem in problems:
        print(f"hostile: WRONG {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    measured.run(arguments(), main)
