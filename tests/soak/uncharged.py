#!/usr/bin/env python3
"""What clients make a gateway hold that no sum counts: 2,500 clients in one state, then the same in the next state.

    uncharged.py [--clients 2500] [--only NAME]

Each state meets a fresh gateway. The clients connect and are idle, which is the documented cost of a connection; then all enter the
state. What resident memory grows by from there, less what the sums of `weirgate_held` and of frames grow by, has no charge.
Memory of clients that have ended is free, and goes back to the system within six seconds once half of all have ended: from there
on only the last look counts. Exit status 1 if more than 32 MiB have no charge in any state.
"""
import argparse
import contextlib
import pathlib
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1] / "rig")]

import measured
from held_states import STATES
from measures import resident_kib
from prometheus import scrape
from stage import Stage

MIB = 1024 * 1024
UNCHARGED_MIB_MAX = 32
# Seconds in which the state is looked at, after the last client has entered it: a request head ends after 10 s, a connection that is
# closed 5 s later, and its memory goes back 6 s after that.
LOOK_S = 24


def charged(metrics):
    """{sum: bytes} of all that has a limit over all clients."""
    sums = {labels["of"]: value for name, labels, value in metrics.samples if name == "weirgate_held"}
    held = {of: value for of, value in sums.items() if of.endswith("_bytes")}
    return {**held, "frames": metrics.sum("weirgate_frame_bytes_alive"),
            "inflate windows": metrics.sum("weirgate_inflate_window_bytes")}


def settled(weirgate, seconds=5):
    """Resident bytes once they change no more."""
    before, end = 0, time.monotonic() + seconds
    while (now := resident_kib(weirgate.pid)) != before and time.monotonic() < end:
        before = now
        time.sleep(0.5)
    return now * 1024


def look_at(weirgate, idle, before, count):
    """((bytes without a charge, bytes grown, {sum: bytes more}), clients ended so far, those of plain HTTP among them)."""
    grown = resident_kib(weirgate.pid) * 1024 - idle
    metrics = scrape(weirgate)
    after = charged(metrics)
    more = {of: after[of] - before.get(of, 0) for of in after}
    # A connection that has ended has no charge at once, and its memory goes back to the system later.
    more["connection_bytes"] = max(0, more["connection_bytes"])
    ended = max(metrics.sum("weirgate_client_closes_total"), count - metrics.sum("weirgate_connections"))
    return (grown - sum(more.values()), grown, more), ended


def measure(state, count):
    """One state on a fresh gateway: its figures."""
    with contextlib.ExitStack() as stack:
        stage = Stage(state, stack)
        weirgate = stage.weirgate
        fresh = settled(weirgate)
        clients = []
        stack.callback(lambda: [client.close() for client in clients])
        for n in range(count):
            clients.append(state.connect(stage, n))
        idle, before = settled(weirgate) + state.more_each * count, charged(scrape(weirgate))
        state.enter(stage, clients)
        looks = []
        end = time.monotonic() + LOOK_S
        while time.monotonic() < end:
            look, closes = look_at(weirgate, idle, before, count)
            if closes <= count / 2:
                looks.append(look)
            time.sleep(0.25)
        worst = max([*looks, look], key=lambda look: look[0])
        paused = scrape(weirgate).sum("weirgate_clients_paused")
        assert weirgate.alive(), weirgate.log_tail()
    uncharged, grown, more = worst
    largest = sorted(((value, of) for of, value in more.items() if abs(value) > 100_000), reverse=True)[:3]
    return {"state": state.name, "gateway": state.gateway, "idle KiB each": (idle - fresh) / 1024 / count, "grown MiB": grown / MIB,
            "charged MiB": sum(more.values()) / MIB, "without MiB": uncharged / MIB, "bytes each": uncharged / count, "paused": paused,
            "ended": closes, "largest sums": ", ".join(f"{of} {value / MIB:.1f}" for value, of in largest) or "-"}


def show(rows):
    """The table."""
    cell = lambda value: value if isinstance(value, str) else f"{value:.1f}" if isinstance(value, float) and abs(value) < 1_000 else f"{value:.0f}"
    table = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(text.rjust(width) if 1 < column < len(line) - 1 else text.ljust(width)
                        for column, (text, width) in enumerate(zip(line, widths))).rstrip())


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=2_500)
    parser.add_argument("--only", default="", help="the states whose names begin so")
    return parser


def main(args):
    rows = []
    for state in STATES:
        if state.name.startswith(args.only):
            rows.append(measure(state, min(args.clients, state.count_max)))
            print(f"uncharged: {state.name}: {rows[-1]['without MiB']:.1f} MiB without a charge", flush=True)
    show(rows)
    over = [row for row in rows if row["without MiB"] > UNCHARGED_MIB_MAX]
    for row in over:
        print(f"uncharged: WRONG {row['state']}: {row['without MiB']:.1f} MiB is over {UNCHARGED_MIB_MAX}")
    return 1 if over else 0


if __name__ == "__main__":
    measured.run(arguments(), main)
