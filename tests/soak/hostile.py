#!/usr/bin/env python3
"""What 400 hostile clients that send half a megabyte a second in all do to another client and to the memory.

    hostile.py [--clients 400] [--rate 500000] [--seconds 10] [--only NAME]

Each attack meets a fresh gateway. Exit status 1 if a round trip of the bystander or the memory is over its bound.
"""
import argparse
import asyncio
import contextlib
import http.client
import multiprocessing
import pathlib
import socket
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1] / "rig")]

import crowds
from clients import FrameReader, client_frame, upgrade_request
from measures import deployed_environment, resident_kib
from processes import NatsServer, RedisServer, StartError, Weirgate
from service import Service

PING, PONG = 9, 10
P50_MS_MAX, MAX_MS_MAX = 5, 100
# The heap takes its shape in the first attacks; later attacks must not add to it.
WARM_UPS = 2
GROWTH_MIB_MAX, LEFT_MAX = 64, 0.10
ATTACKS = [crowds.Echo(), crowds.Bombs("levels", "/ws/stream"), crowds.Bombs("events", "/ws?device_id=a"), crowds.Pings(),
           crowds.Heads(), crowds.SlowBodies()]
PATHS = {"levels": "/ws/stream", "channels": "/ws", "events": "/ws?device_id=bystander"}


class Bystander:
    """A client that sends a ping each 20 ms and waits for the pong."""

    def __init__(self, port, path):
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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


@contextlib.contextmanager
def gateway(name):
    """A fresh gateway with its broker or service."""
    with contextlib.ExitStack() as stack:
        env = deployed_environment()
        if name == "levels":
            server = NatsServer()
            stack.callback(server.discard)
            weirgate = Weirgate(name, nats=server, env=env)
        elif name == "channels":
            server = RedisServer()
            stack.callback(server.discard)
            weirgate = Weirgate(name, redis=server, env=env)
        else:
            ours, theirs = multiprocessing.Pipe()
            service = multiprocessing.Process(target=serve_measurement, args=(theirs,), daemon=True)
            service.start()
            stack.callback(service.kill)
            weirgate = Weirgate(name, env={**env, "MEASUREMENT_URL": ours.recv()})
        stack.callback(weirgate.discard)
        yield weirgate.wait_ready()


def peak_kib(pid, reset=False):
    """The highest resident memory since the last reset."""
    if reset:
        pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def get_ms(port):
    """A request through the proxy, milliseconds; None if its answer is not 200."""
    began = time.monotonic()
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    link.request("GET", "/v1/measurement/good")
    status = link.getresponse().status
    link.close()
    return (time.monotonic() - began) * 1e3 if status == 200 else None


def measure(crowd, args):
    """One attack on a fresh gateway: its figures, and what is wrong with these, in words.

    Short attacks of the same size come first: what stays after the measured attack and not after these is lost.
    """
    with gateway(crowd.gateway) as weirgate:
        fresh_kib = resident_kib(weirgate.pid)
        for _ in range(WARM_UPS):
            warm_up = crowds.Attack(crowd, weirgate.port, args.clients, args.rate)
            warm_up.start()
            time.sleep(3)
            warm_up.stop()
            wait_idle(weirgate)
        bystander = Bystander(weirgate.port, PATHS[crowd.gateway])
        # The gateway learns from the first message that this client costs little.
        bystander.round_trip_ms()
        alone = bystander.round_trips_ms(1)
        before = resident_kib(weirgate.pid)
        peak_kib(weirgate.pid, reset=True)
        cpu, began = weirgate.cpu_seconds(), time.monotonic()
        attack = crowds.Attack(crowd, weirgate.port, args.clients, args.rate)
        attack.start()
        trips = bystander.round_trips_ms(args.seconds)
        get = get_ms(weirgate.port) if crowd.gateway == "events" else None
        figures = attack.stop()
        cpu = (weirgate.cpu_seconds() - cpu) / (time.monotonic() - began)
        peak = peak_kib(weirgate.pid)
        after = settled_kib(weirgate.pid, before)
        alive = weirgate.alive()
    row = {"attack": crowd.name, "sent KB/s": figures["sent_per_s"] / 1e3, "got KB/s": figures["got_per_s"] / 1e3,
           "ended": figures["ended"], "alone p50 ms": alone[len(alone) // 2], "p50 ms": trips[len(trips) // 2],
           "p99 ms": trips[int(len(trips) * 0.99)], "max ms": trips[-1], "cpu %": cpu * 100, "fresh MiB": fresh_kib / 1024,
           "before MiB": before / 1024, "peak MiB": peak / 1024, "after MiB": after / 1024, "GET ms": get}
    return row, list(wrong(row, alive, crowd))


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


def wrong(row, alive, crowd):
    """Yields what is over its bound."""
    if not alive:
        yield "the gateway ended"
    if row["p50 ms"] > P50_MS_MAX:
        yield f"p50 {row['p50 ms']:.1f} ms is over {P50_MS_MAX}"
    if row["max ms"] > MAX_MS_MAX:
        yield f"max {row['max ms']:.1f} ms is over {MAX_MS_MAX}"
    if row["peak MiB"] - row["fresh MiB"] > GROWTH_MIB_MAX:
        yield f"memory grew by {row['peak MiB'] - row['fresh MiB']:.1f} MiB"
    if row["after MiB"] > row["before MiB"] * (1 + LEFT_MAX):
        yield f"memory stayed {row['after MiB'] / row['before MiB'] - 1:+.0%}"
    if crowd.gateway == "events" and row["GET ms"] is None:
        yield "a request through the proxy was not answered"


def show(rows):
    """The table."""
    cell = lambda value: value if isinstance(value, str) else "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
    table = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(text.rjust(width) if column else text.ljust(width)
                        for column, (text, width) in enumerate(zip(line, widths))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=400)
    parser.add_argument("--rate", type=float, default=500_000, help="bytes a second of all hostile clients together")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--only", help="one attack, by its name")
    args = parser.parse_args()
    rows, problems = [], []
    for crowd in ATTACKS:
        if args.only in (None, crowd.name):
            row, faults = measure(crowd, args)
            rows.append(row)
            problems += [f"{crowd.name}: {fault}" for fault in faults]
            print(f"hostile: {crowd.name}: {'; '.join(faults) or 'within its bounds'}", flush=True)
    show(rows)
    for problem in problems:
        print(f"hostile: WRONG {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StartError as error:
        sys.exit(f"hostile: {error}")
