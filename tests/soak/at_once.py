#!/usr/bin/env python3
"""1,000 honest clients of a gateway for a minute beside all attacks on that gateway at once: turns, and what the clients notice.

    at_once.py [--gateway NAME] [--clients 1000] [--seconds 60] [--only ATTACK | --without ATTACK | --calm] [--first]

The gateways take their turn, each a fresh one. Exit status 1 if one turn of a thousand takes over 20 ms, or an honest client is dropped,
refused, or waits longer than a second for a message or an answer.
"""
import argparse
import contextlib
import multiprocessing
import os
import pathlib
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1] / "rig")]

import honest
from arena import ARENAS, Arena
from processes import StartError
from prometheus import native, scrape

TURN_MS_MAX, LATE_MS_MAX = 20, 1_000
TURN = "weirgate_loop_turn_duration_seconds"


def share(rows, part):
    """The bound in ms under which this part of the turns lies; between two bounds as if turns were spread evenly."""
    wanted, below, lower = part * sum(count for _, count in rows), 0, 0.0
    for bound, count in rows:
        if below + count >= wanted and count:
            return lower + (bound - lower) * (wanted - below) / count
        below, lower = below + count, bound
    return lower


def run(attack, at, over, is_first):
    """A process with one attack; what it loses, it begins again."""
    # The attackers have other machines; here they must not take the gateway's.
    if not is_first:
        os.nice(10)
    while not over.is_set():
        try:
            attack(at, over)
        except (OSError, AssertionError, EOFError, ValueError) as error:
            if os.environ.get("SHOW"):
                print(f"at_once: {attack.__name__}: {error!r}"[:300], flush=True)
            over.wait(0.5)


def measure(arena_class, args):
    """One gateway under all its attacks: its row and what is wrong."""
    with contextlib.ExitStack() as stack:
        arena = Arena(arena_class, stack, args.first)
        weirgate = arena.weirgate
        over = multiprocessing.Event()
        stack.callback(over.set)
        crowd = honest.Crowd(arena.at, args.clients, args.first)
        stack.callback(crowd.kill)
        crowd.wait_connected()
        attacks = [attack for attack in arena.attacks if attack.__name__.startswith(args.only) and attack.__name__ != args.without]
        crowd.begin()
        processes = [multiprocessing.Process(target=run, args=(attack, arena.at, over, args.first), daemon=True) for attack in attacks if not args.calm]
        for process in processes:
            process.start()
        # The first seconds belong to the attackers, who connect and fill what they fill.
        time.sleep(args.warm_up)
        before, turns, cpu = scrape(weirgate), native(weirgate, TURN), weirgate.cpu_seconds()
        time.sleep(args.seconds)
        after, turns, cpu = scrape(weirgate), native(weirgate, TURN) - turns, weirgate.cpu_seconds() - cpu
        figures = crowd.end()
        over.set()
        for process in processes:
            process.join(5)
            process.kill()
        assert weirgate.alive(), weirgate.log_tail()
        ready, held = after.sum("weirgate_ready"), {labels["of"]: (after.sum("weirgate_held_refused_total", **labels), after.sum("weirgate_held_gave_way_total", **labels))
                                                    for name, labels, _ in after.samples if name == "weirgate_held"}
    rows = [(1e3 * bound, count) for bound, count in sorted(turns.items())]
    row = {"gateway": arena_class.name, "attacks": len(processes), "cpu %": 100 * cpu / args.seconds, "turns": sum(count for _, count in rows),
           "p50 ms": share(rows, 0.5), "p99 ms": share(rows, 0.99), "p99.9 ms": share(rows, 0.999), "worst up to ms": max((b for b, c in rows if c), default=0),
           **figures}
    print(f"at_once: {arena_class.name}: turns " + ", ".join(f"≤{bound:.3g} ms {count:.0f}" for bound, count in rows if count), flush=True)
    spent = {labels["budget"]: value - before.sum(name, **labels) for name, labels, value in after.samples if name == "weirgate_loop_budgets_spent_total"}
    print(f"at_once: {arena_class.name}: budgets used up {spent}; refused and gave way { {of: counts for of, counts in held.items() if any(counts)} }", flush=True)
    closes = {labels["reason"]: value - before.sum(name, **labels) for name, labels, value in after.samples if name == "weirgate_client_closes_total"}
    print(f"at_once: {arena_class.name}: closes { {reason: value for reason, value in closes.items() if value} }, ready {ready:.0f}", flush=True)
    return row, list(wrong(row))


def wrong(row):
    """Yields what is over its bound."""
    if row["p99.9 ms"] > TURN_MS_MAX:
        yield f"one turn of a thousand takes over {row['p99.9 ms']:.1f} ms"
    for what in ("dropped", "refused"):
        if row[what]:
            yield f"{row[what]} honest clients {what}"
    for what in ("late ms", "new ms"):
        if row[what] > LATE_MS_MAX:
            yield f"an honest client waited {row[what]:.0f} ms"


def show(rows):
    """The table."""
    cell = lambda value: value if isinstance(value, str) else f"{value:.1f}" if isinstance(value, float) and abs(value) < 100 else f"{value:.0f}"
    table = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(text.rjust(width) if column else text.ljust(width) for column, (text, width) in enumerate(zip(line, widths))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gateway", default="", help="the arenas whose names begin so")
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=10)
    parser.add_argument("--only", default="", help="the attacks whose names begin so")
    parser.add_argument("--without", default=None, help="an attack to leave out")
    parser.add_argument("--first", action="store_true",
                        help="on a busy machine, as root: the gateway, its broker or service and the honest clients run before all other programs")
    parser.add_argument("--calm", action="store_true", help="no attack: what the machine does by itself")
    args = parser.parse_args()
    rows, problems = [], []
    for arena in ARENAS:
        if arena.name.startswith(args.gateway):
            row, faults = measure(arena, args)
            rows.append(row)
            problems += [f"{arena.name}: {fault}" for fault in faults]
    show(rows)
    for problem in problems:
        print(f"at_once: WRONG {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StartError as error:
        sys.exit(f"at_once: {error}")
