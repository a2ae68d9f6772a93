#!/usr/bin/env python3
"""Idle clients of each gateway: resident memory of each, and a stop that tells all of them.

    how_large.py [--gateways channels levels] [--clients 19000] [--processes 1]

The processes share a port (--reuse-port), and each has a program of clients of its own, with as many clients. A client of channels and trades holds one
name. TEST_BINARY is another build. Exit status 1 if a client did not open, if the stop did not tell a client, or if a client takes more than the limit.
"""
import argparse
import asyncio
import json
import multiprocessing
import pathlib
import signal
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/rig")]

import measured
import processes
from clients import client_frame, upgrade_request
from ports import free_port

# The path, the request for a name, and the most bytes of a client.
GATEWAYS = {
    "levels": ("/ws/stream", None, 1_100),
    "channels": ("/ws", {"action": "subscribe", "channels": ["market:tick:A"]}, 1_100),
    "trades": ("/", {"action": "subscribe", "symbols": ["A"]}, 1_300),
    "events": ("/ws", None, 1_300),
}
OPEN_S, SETTLE_S, END_S = 120, 4, 120


class Idle(asyncio.Protocol):
    """A client that subscribes, answers pings, and notes the code of the close."""

    def __init__(self, fleet):
        self.fleet, self.is_open = fleet, False

    def connection_made(self, transport):
        self.transport = transport
        transport.write(upgrade_request(self.fleet.port, self.fleet.path))

    def data_received(self, data):
        if not self.is_open:
            self.is_open = b"101" in data[:20]
            self.fleet.opened += self.is_open
            if self.is_open and self.fleet.request:
                self.transport.write(client_frame(1, json.dumps(self.fleet.request).encode()))
            return
        if data[:1] == b"\x89":
            self.transport.write(client_frame(10, data[2:2 + data[1]]))
        # The last frame; a text of the gateways has no such byte.
        at = data.rfind(b"\x88")
        if at >= 0:
            self.fleet.told += 1
            self.transport.write(client_frame(8, data[at + 2:at + 4]))

    def connection_lost(self, error):
        self.fleet.ended += 1


class Fleet:
    """The clients of a program."""

    def __init__(self, port, number, clients, path, request):
        self.port, self.number, self.clients, self.path, self.request = port, number, clients, path, request
        self.opened = self.told = self.ended = 0

    async def run(self, queue):
        loop = asyncio.get_running_loop()
        for n in range(self.clients):
            source = f"127.0.{self.number + 1}.{1 + n % 4}"
            await loop.create_connection(lambda: Idle(self), "127.0.0.1", self.port, local_addr=(source, 0))
        await self.until(OPEN_S, lambda: self.opened == self.clients)
        queue.put(self.opened)
        await self.until(END_S, lambda: self.ended == self.clients)
        queue.put(self.told)

    @staticmethod
    async def until(seconds, is_so):
        end = time.monotonic() + seconds
        while not is_so() and time.monotonic() < end:
            await asyncio.sleep(0.05)


def resident(gateways):
    lines = (line for gateway in gateways for line in pathlib.Path(f"/proc/{gateway.pid}/status").read_text().splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def run_fleet(queue, *fleet):
    asyncio.run(Fleet(*fleet).run(queue))


def measure(name, clients, count):
    """Returns whether all clients opened, were small enough, and were told of the stop."""
    path, request, bytes_max = GATEWAYS[name]
    bus = {"levels": processes.NatsServer, "events": None}.get(name, processes.RedisServer)
    bus = bus and bus()
    flags, port = [], free_port()
    if bus:
        bus.start()
    if count > 1:
        flags = ["--reuse-port", "--port", str(port)]
    bus_of = {"nats": bus} if name == "levels" else {"redis": bus}
    gateways = [processes.Weirgate(name, *flags, **bus_of) for _ in range(count)]
    try:
        for gateway in gateways:
            if count > 1:
                gateway.http_url = f"http://127.0.0.1:{port}"
            gateway.wait_ready()
        port = port if count > 1 else gateways[0].port
        before, queue = resident(gateways), multiprocessing.Queue()
        fleets = [multiprocessing.Process(target=run_fleet, args=(queue, port, number, clients, path, request)) for number in range(count)]
        for fleet in fleets:
            fleet.start()
        opened = sum(queue.get() for _ in fleets)
        time.sleep(SETTLE_S)
        each = (resident(gateways) - before) / max(opened, 1)
        start = time.monotonic()
        for gateway in gateways:
            gateway.send(signal.SIGTERM)
        for gateway in gateways:
            gateway.wait(60)
        took_s = time.monotonic() - start
        told = sum(queue.get() for _ in fleets)
        print(f"{name}: {opened} of {clients * count} open over {count} process(es), {each:.0f} bytes each; stop {took_s:.1f} s, {told} told", flush=True)
        return opened == told == clients * count and each <= bytes_max
    finally:
        for gateway in gateways:
            gateway.discard()
        if bus:
            bus.discard()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateways", nargs="+", choices=GATEWAYS, default=list(GATEWAYS))
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=1)
    return parser


def main(args):
    good = [measure(name, args.clients, args.processes) for name in args.gateways]
    return 0 if all(good) else 1


if __name__ == "__main__":
    measured.run(arguments(), main)
