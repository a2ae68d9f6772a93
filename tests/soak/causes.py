#!/usr/bin/env python3
"""30 clients of known causes at once beside 10 healthy ones: which causes the gateway names, and when.

    causes.py [--seconds 30] [--seed 1]

Runs in user and network namespaces of its own. The gateway's side of the line shapes the path of each address; the clients read never, slowly
(3 to 40 kB/s), whatever comes over a thin line (32 to 400 kbit/s), through a trusted proxy that stalls, or lose their address and fall silent.
Exit status 1 if under 99 % of the verdicts are right, if the first one of a client comes more than 2 s (and a look) after the wait began, or if a healthy
client has one.
"""
import argparse
import asyncio
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/rig"), str(ROOT / "tests/blackbox")]

from thin_line import GATEWAY, far_side, run, state

FIRST, HEALTHY = 10, 10
EVERY_S, BYTES, RIGHT_MIN, FIRST_S_MAX = 0.05, 6_144, 0.99, 2.4
CAUSE = {"never": "client", "slowly": "client", "thin": "network", "proxied": "proxy", "silent": "silent"}


def plan(seed):
    """{address: (kind, figure, receive buffer)} of the 30, in no order."""
    draw = random.Random(seed)
    kinds = [("never", 0)] * 7 + [("slowly", draw.randrange(3, 40) * 1_000) for _ in range(7)]
    kinds += [("thin", draw.choice([32, 64, 100, 150, 200, 300, 400])) for _ in range(6)]
    kinds += [("proxied", draw.randrange(0, 20) * 1_000) for _ in range(5)] + [("silent", 0)] * 5
    draw.shuffle(kinds)
    return {f"10.9.0.{FIRST + n}": (*kind, draw.choice([4_096, 8_192, 16_384, 65_536])) for n, kind in enumerate(kinds)}


# ---- the far side: all clients, in a process of its own


async def reads(address, port, kind, figure, receive_bytes):
    """One client, for ever."""
    from clients import small_socket, upgrade_request
    loop = asyncio.get_running_loop()
    line = small_socket(262_144 if kind in ("thin", "silent", "healthy") else receive_bytes)
    line.bind((address, 0))
    await loop.sock_connect(line, (GATEWAY, port))
    await loop.sock_sendall(line, upgrade_request(port))
    await loop.sock_recv(line, 4_096)
    while kind == "never" or kind == "proxied" and not figure:
        await asyncio.sleep(1)
    while True:
        if kind in ("slowly", "proxied"):
            await asyncio.sleep(0.1)
            await loop.sock_recv(line, max(1, figure // 10))
        elif not await loop.sock_recv(line, 262_144):
            return


async def all_read(port, clients):
    await asyncio.gather(*(reads(address, port, *client) for address, client in clients.items()))


# ---- the near side


def shape(clients):
    """Makes the line thin for some."""
    run("tc", "qdisc", "add", "dev", "near", "root", "handle", "1:", "htb", "r2q", "1")
    for n, (address, (kind, kbit, _)) in enumerate(clients.items(), 10):
        if kind == "thin":
            run("tc", "class", "add", "dev", "near", "parent", "1:", "classid", f"1:{n}", "htb", "rate", f"{kbit}kbit", "quantum", "1514")
            run("tc", "filter", "add", "dev", "near", "parent", "1:", "protocol", "ip", "u32", "match", "ip", "dst", address, "flowid", f"1:{n}")


async def look(admin, seconds, after=lambda now: None):
    """(verdicts by client with their number, seconds from the first wait to the first verdict by client)."""
    verdicts, waits_since, first_s = collections.defaultdict(collections.Counter), {}, {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = await asyncio.to_thread(state, admin)
        at = time.monotonic()
        rows = {row["client"]: row for row in (now["survey"] or {"slowest": []})["slowest"] if row["queue_bytes"] or row["why"]}
        # The wait before the first verdict is one without a pause.
        waits_since = {client: waits_since.get(client, at) for client in rows}
        for client, row in rows.items():
            if row["why"]:
                verdicts[client][row["why"]] += 1
                first_s.setdefault(client, at - waits_since[client])
        after(now)
        await asyncio.sleep(0.4)
    return verdicts, first_s


async def measure(args):
    from bus import publisher
    from processes import NatsServer, Weirgate, free_port
    from test_slow_clients import steady_feed
    clients = plan(args.seed)
    healthy = {f"10.9.0.{100 + n}": ("healthy", 0, 262_144) for n in range(HEALTHY)}
    far = far_side(GATEWAY, [*clients, *healthy], args.seconds + 120)
    shape(clients)
    nats = NatsServer()
    nats.start()
    admin = free_port()
    # These clients answer no pings, so none may come: a late pong has a cause of its own.
    patient = ["--send-queue-stall-ms", "600000", "--ping-interval-ms", "0"]
    proxies = ",".join(address for address, (kind, *_) in clients.items() if kind == "proxied")
    weirgate = Weirgate("levels", "--ephemeral", "--listen", "0.0.0.0", "--admin-addr", f"127.0.0.1:{admin}", "--trusted-proxies", proxies, *patient,
                        nats=nats).wait_for("/health")
    text = json.dumps({**clients, **healthy})
    readers = subprocess.Popen(["nsenter", "-t", str(far.pid), "-n", sys.executable, __file__, "--far", str(weirgate.port), text])
    stop = asyncio.Event()
    try:
        while not (now := state(admin))["ready"] or now["numbers"]["clients"] < len(clients) + HEALTHY:
            await asyncio.sleep(0.1)
        async with publisher(nats) as bus:
            feed = asyncio.create_task(steady_feed(bus, EVERY_S, BYTES, stop))
            await asyncio.sleep(1)
            for address, (kind, *_) in clients.items():
                if kind == "silent":
                    run("ip", "addr", "del", f"{address}/32", "dev", "far", within=far.pid)
            counts = []
            found = await look(admin, args.seconds, lambda now: counts.append({why: n for why, n in now["slow"].items() if n}))
            stop.set()
            await feed
        return clients, healthy, found, counts
    finally:
        for process in (readers, far, weirgate, nats):
            process.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--far", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.far:
        return asyncio.run(all_read(int(args.far[0]), json.loads(args.far[1])))
    if os.environ.get("CAUSES_INSIDE") != "1":
        os.execvpe("unshare", ["unshare", "-Urn", sys.executable, *sys.argv], {**os.environ, "CAUSES_INSIDE": "1"})
    clients, healthy, (verdicts, first_s), counts = asyncio.run(measure(args))
    right = wrong = 0
    for address, (kind, figure, receive_bytes) in sorted(clients.items(), key=lambda item: item[1]):
        seen = verdicts[address]
        right += seen[CAUSE[kind]]
        wrong += seen.total() - seen[CAUSE[kind]]
        first = f"{first_s[address]:.1f} s" if address in first_s else "-"
        print(f"causes: {address:<11} {kind:<8} {figure:>6} {receive_bytes:>6}  first after {first:>6}  {dict(seen)}")
    print(f"causes: counts at the end {counts[-1]}")
    accused = {address: dict(verdicts[address]) for address in healthy if verdicts[address]}
    late = {address: seconds for address, seconds in first_s.items() if seconds > FIRST_S_MAX}
    share = right / max(1, right + wrong)
    print(f"causes: {right} of {right + wrong} verdicts right, {100 * share:.2f} %; healthy with a verdict: {accused or 'none'}; first too late: {late or 'none'}")
    return 1 if share < RIGHT_MIN or accused or late else 0


if __name__ == "__main__":
    sys.exit(main())
