#!/usr/bin/env python3
"""What it costs to watch slow clients: CPU time of the loop with 100 of 10,000 clients that wait, beside the same clients while nobody waits.

    slow_cost.py [--clients 10000] [--slow 100] [--seconds 20] [--rounds 3]

Nothing is published while the time is counted and no ping is due, so only looks, samples and bookkeeping differ. Exit status 1 if the slow clients cost
more than 0.05 % of a core, if a client was sampled that does not wait, or if the slow clients were not all seen.
"""
import argparse
import asyncio
import json
import pathlib
import socket
import statistics
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "rig")]

from bus import FLOW, publisher
from clients import upgrade_request
from processes import NatsServer, Weirgate
from prometheus import scrape

SHARE_MAX = 0.0005
MESSAGE = json.dumps({"pad": "x" * 8_000}).encode()
SETTLE_S = 3


class Reader(asyncio.Protocol):
    """A client that reads, until it stops."""

    def __init__(self, port):
        self.port = port

    def connection_made(self, transport):
        self.transport = transport
        transport.write(upgrade_request(self.port, "/ws/stream"))


async def connect(port, number):
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    link.setblocking(False)
    link.bind((f"127.0.1.{1 + number % 4}", 0))
    loop = asyncio.get_running_loop()
    await loop.sock_connect(link, ("127.0.0.1", port))
    _, reader = await loop.create_connection(lambda: Reader(port), sock=link)
    return reader


def loop_cpu_s(pid):
    """CPU time of the first thread, which runs the loop."""
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


async def counted(weirgate, seconds):
    """Share of a core, and samples, in so much time."""
    before, began, calls = loop_cpu_s(weirgate.pid), time.monotonic(), scrape(weirgate).sum("weirgate_tcp_info_calls_total")
    await asyncio.sleep(seconds)
    share = (loop_cpu_s(weirgate.pid) - before) / (time.monotonic() - began)
    return share, scrape(weirgate).sum("weirgate_tcp_info_calls_total") - calls


async def fill(bus, readers, weirgate):
    """Publishes until all these clients wait."""
    for reader in readers:
        reader.transport.pause_reading()
    for _ in range(60):
        await bus.streams.publish(FLOW, MESSAGE)
        await asyncio.sleep(0.2)
        if scrape(weirgate).sum("weirgate_slow_clients") >= len(readers):
            return True
    return False


async def measure(options, server, weirgate):
    readers = []
    while len(readers) < options.clients:
        some = range(len(readers), min(len(readers) + 200, options.clients))
        readers += await asyncio.gather(*(connect(weirgate.port, number) for number in some))
    slow, is_good, costs = readers[:options.slow], True, []
    async with publisher(server) as bus:
        for _ in range(options.rounds):
            await asyncio.sleep(SETTLE_S)
            alone, alone_calls = await counted(weirgate, options.seconds)
            is_good &= await fill(bus, slow, weirgate)
            await asyncio.sleep(SETTLE_S)
            beside, calls = await counted(weirgate, options.seconds)
            for reader in slow:
                reader.transport.resume_reading()
            costs.append(beside - alone)
            is_good &= alone_calls == 0 and calls > 0
            print(f"{options.clients} clients: loop {100 * alone:.3f} % of a core; {options.slow} of them wait: {100 * beside:.3f} %, "
                  f"{calls / options.seconds:.0f} samples a second ({alone_calls:.0f} before)", flush=True)
    cost = statistics.median(costs)
    print(f"slow_cost: {options.slow} slow clients cost {100 * cost:.3f} % of a core", flush=True)
    return is_good and cost <= SHARE_MAX


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    server = NatsServer()
    try:
        weirgate = Weirgate("levels", "--ping-interval-ms", "3600000", "--send-queue-stall-ms", "600000", nats=server).wait_ready()
        try:
            return 0 if asyncio.run(measure(options, server, weirgate)) else 1
        finally:
            weirgate.discard()
    finally:
        server.discard()


if __name__ == "__main__":
    sys.exit(main())
