#!/usr/bin/env python3
"""All four gateways under moderate load for an hour, with visitors, hostile clients, outages of brokers and services.

    soak.py [--seconds 3600] [--out target/soak] [--seed N]

The run begins with a minute of load in which each attack happens twice and each outage once. Then the load is taken away: only
the watchers stay, idle, and the resident memory, the descriptors and the threads of each gateway are noted. After the
rest of the time under load the same is noted in the same state. docs/contributing/soak.md says what is judged.
"""
import argparse
import asyncio
import contextlib
import json
import pathlib
import random
import signal
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1] / "rig")]

import attackers
import clients
import measured
import measures
import verdict
from faults import Faults
from gateways import Channels, Events, Levels, Trades
from ledger import Spans
from processes import NatsServer, RedisServer
from service import Service

FIRST_MINUTE_S = 60
VISITORS, ATTACKS_AT_ONCE = 6, 3
# A burst takes some turns of this program's loop: watchers whose turns are so late may have been conflated.
STALL_S = 0.1
GROWTH_MAX = 0.05
# Kept connections to services are closed after their idle time, kept threads of HTTP too.
SETTLE_S = 60


class GatewayEnded(Exception):
    """A gateway ended by itself; there is nothing left to soak."""


async def guarded(stage, work):
    """Runs a part of the load; a failure is something wrong with the gateway and ends this part alone."""
    try:
        await work
    except (AssertionError, OSError, TimeoutError, ValueError, KeyError) as error:
        stage.complain(f"{work.__qualname__} ended: {error!r}")


async def cancelled(tasks):
    """Cancels tasks until all have ended: a `wait_for` of Python 3.11 that is just done swallows the cancellation."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1)


class Soak:
    """The programs, the load on them, and what was noticed."""

    def __init__(self, seconds, out, seed):
        self.seconds, self.rng = seconds, random.Random(seed)
        self.began = time.monotonic()
        self.out = out
        self.lines = open(out, "w", encoding="utf-8")
        self.outages = {name: Spans() for name in ("nats", "redis", "services")}
        self.stalls = Spans()
        self.services = {name: Service(name) for name in ("lobby", "measurement", "simulation")}
        self.problems, self.attacked, self.visited = [], 0, 0
        self.load_is_on = asyncio.Event()
        self.memory = {}

    def say(self, text):
        print(f"soak {time.monotonic() - self.began:6.0f} s  {text}", flush=True)

    async def start(self, stack):
        for service in self.services.values():
            await service.start()
        # A connection that a frozen server leaves behind ends with the server's next ping.
        self.nats, self.redis = NatsServer(config='ping_interval: "15s"'), RedisServer()
        stack.callback(self.nats.discard)
        stack.callback(self.redis.discard)
        self.stages = [
            Levels(self.nats, self.outages["nats"], self.stalls), Trades(self.redis, self.outages["redis"], self.stalls),
            Channels(self.redis, self.outages["redis"], self.stalls), Events(self.services, self.outages["services"], self.stalls)]
        for stage in self.stages:
            stage.start()
            stack.callback(stage.weirgate.discard)
        for stage in self.stages:
            await asyncio.to_thread(stage.weirgate.wait_ready)
            await stage.open()
        self.fds_at_start = {name: numbers["fds"] for name, numbers in (await self.look()).items()}
        self.faults = Faults(self.nats, self.redis, self.services, self.outages, self.rng, self.say)

    # Load.

    async def attack(self, stage, deck):
        """Crowds of attackers for as long as the load is on; the attackers of a stage share a deck of kinds."""
        while True:
            await self.load_is_on.wait()
            if not deck:
                deck += self.rng.sample(attackers.ATTACKS, len(attackers.ATTACKS))
            entry = deck.pop()
            await attackers.run(entry, stage, self.rng, 60)
            self.attacked += entry[1]

    async def every_attack(self, stage):
        """Two crowds of each kind, most of them at once: more than at any later time."""
        async def one(entry):
            await asyncio.sleep(self.rng.uniform(0, 10))
            await attackers.run(entry, stage, self.rng, 45)
            self.attacked += entry[1]
        await asyncio.gather(*(one(entry) for entry in attackers.ATTACKS * 2))

    async def visit(self, stage):
        """A client that comes, does something, stays a while and goes in one of the ways to go."""
        while True:
            await self.load_is_on.wait()
            with contextlib.suppress(OSError, TimeoutError):
                client = await clients.connect(stage.port, path=stage.path)
                try:
                    await stage.visit(client, self.rng)
                    await asyncio.sleep(self.rng.expovariate(1))
                    if self.rng.random() < 0.5:
                        client.transport.write(clients.client_frame(clients.CLOSE, b"\x03\xe8"))
                        await asyncio.sleep(0.05)
                finally:
                    client.abort()
                self.visited += 1
            await asyncio.sleep(self.rng.expovariate(2))

    async def watch_ourselves(self):
        """Notes when this program did not run: its watchers were slow then."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(0.05)
            now = time.monotonic()
            if now - before > STALL_S:
                self.stalls.note(before, now)
            before = now

    async def sample_memory(self):
        """Resident memory of each gateway each second, while the load is on."""
        while True:
            if self.load_is_on.is_set():
                for stage in self.stages:
                    self.memory[stage.name].append((time.monotonic(), measures.resident_kib(stage.weirgate.pid)))
            await asyncio.sleep(1)

    async def probe(self):
        """A ping from one watcher of each gateway, twice a second."""
        while True:
            for stage in self.stages:
                stage.watchers[0].probe()
            await asyncio.sleep(0.5)

    async def under_load(self, seconds, *extra):
        """Runs the load for so long, then takes it away; attackers and visitors are cut off where they are."""
        load = []
        for stage in self.stages:
            deck = []
            load += [guarded(stage, self.attack(stage, deck)) for _ in range(ATTACKS_AT_ONCE)]
            load += [guarded(stage, self.visit(stage)) for _ in range(VISITORS)]
        self.load_is_on.set()
        for stage in self.stages:
            stage.loaded.set()
        tasks = [asyncio.create_task(each) for each in [*load, *extra]]
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                done, _ = await asyncio.wait([*tasks, *self.background], timeout=min(left, 60),
                                             return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
                await self.line()
        finally:
            # An outage is ended by its own coroutine.
            self.load_is_on.clear()
            await cancelled(tasks)

    # Numbers.

    async def line(self):
        """One line for each gateway, to the terminal and to the file."""
        for stage in self.stages:
            if not stage.weirgate.alive():
                raise GatewayEnded(stage.name)
            process = measures.process_numbers(stage.weirgate.pid)
            try:
                metrics = await measures.scrape(stage.weirgate)
            except AssertionError as error:
                stage.complain(str(error))
                continue
            for text in measures.unbalanced(metrics):
                self.problems.append(f"{stage.name}: {text}")
            count = measures.counters(metrics)
            trips, stage.watchers[0].round_trips = sorted(stage.watchers[0].round_trips), []
            trip = {"p50_ms": trips[len(trips) // 2] * 1e3, "max_ms": trips[-1] * 1e3} if trips else {}
            line = {"at_s": round(time.monotonic() - self.began, 1), "gateway": stage.name, **process, **count,
                    "seen": stage.messages_seen, "wrong": len(stage.wrong), "round_trip": trip}
            self.lines.write(json.dumps(line) + "\n")
            self.say(f"{stage.name:8} rss {process['rss_kib']:6} KiB  fds {process['fds']:3}  threads {process['threads']:2}  "
                     f"clients {count['clients']:3}  accepted {count['accepted']:7}  queued {count['queued']:8}  "
                     f"conflated {count['conflated']:5}  dropped {count['dropped']:6}  bus {count['bus']:7}  "
                     f"ping p50 {trip.get('p50_ms', 0):5.1f} max {trip.get('max_ms', 0):6.1f} ms")
        self.lines.flush()

    async def caught_up(self):
        """Waits until every watcher has the newest of everything, the feeds being off."""
        end = time.monotonic() + 20
        while (behind := sum(stage.behind() for stage in self.stages)) and time.monotonic() < end:
            await asyncio.sleep(0.2)
        if behind:
            self.say(f"{behind} watchers are behind")

    async def rest(self):
        """The numbers of each gateway with its watchers alone, idle, once the traces of the load are gone.

        Kept connections to services, the last closes, and what a frozen NATS left behind need some seconds: waits until
        the descriptors are as many as at the start, or for SETTLE_S.
        """
        for stage in self.stages:
            stage.loaded.clear()
        await asyncio.sleep(12)
        await self.caught_up()
        end = time.monotonic() + SETTLE_S
        while True:
            found = await self.look()
            if {name: numbers["fds"] for name, numbers in found.items()} == self.fds_at_start or time.monotonic() > end:
                return found
            await asyncio.sleep(5)

    async def look(self):
        """The median of a few looks at each process, a second apart."""
        looks = []
        for _ in range(5):
            looks.append({stage.name: measures.process_numbers(stage.weirgate.pid) for stage in self.stages})
            await asyncio.sleep(1)
        return {stage.name: measures.median_of([look[stage.name] for look in looks]) for stage in self.stages}

    # The whole.

    async def run(self):
        """The soak; returns the problems found."""
        async with contextlib.AsyncExitStack() as stack:
            await self.start(stack)
            feeds = [asyncio.create_task(guarded(stage, feed)) for stage in self.stages for feed in stage.feeds()]
            self.background = [*feeds, asyncio.create_task(self.watch_ourselves()), asyncio.create_task(self.probe()),
                               asyncio.create_task(self.sample_memory())]
            self.memory = {stage.name: [] for stage in self.stages}
            try:
                await self.both_parts()
            except GatewayEnded as gateway:
                self.say(f"{gateway} ended by itself")
            await cancelled(self.background)
            await self.stop()
        return self.problems

    async def both_parts(self):
        """The first minute, the rest of the time, and the verdict."""
        self.say("the first minute: each attack twice, each outage once")
        every_attack = [self.every_attack(stage) for stage in self.stages]
        await self.under_load(FIRST_MINUTE_S, self.faults.first_minute(), *every_attack)
        loaded = {name: measures.loaded_kib(samples) for name, samples in self.memory.items()}
        before = await self.at_rest("after the first minute")
        for name, kib in loaded.items():
            before[name]["loaded_kib"] = kib
            self.memory[name].clear()
        period_s = min(max(self.seconds / 20, 10), 120)
        left = max(self.seconds - FIRST_MINUTE_S, FIRST_MINUTE_S)
        await self.under_load(left, self.faults.for_ever(period_s))
        after = await self.at_rest("after the load")
        for name, samples in self.memory.items():
            self.lines.write(json.dumps({"gateway": name, "resident_kib_each_10_s": [kib for _, kib in samples[::10]]}) + "\n")
        self.lines.flush()
        await self.judge(before, after)

    async def at_rest(self, when):
        """Numbers at rest, with a line of them for each gateway."""
        self.say("the load is taken away")
        found = await self.rest()
        for name, numbers in found.items():
            self.lines.write(json.dumps({"rest": when, "gateway": name, **numbers}) + "\n")
            self.say(f"{when}, at rest: {name:8} " + "  ".join(f"{key} {number}" for key, number in numbers.items()))
        return found

    async def judge(self, before, after):
        """Adds what is wrong to the problems."""
        for stage in self.stages:
            for text in measures.grown(before[stage.name], after[stage.name], GROWTH_MAX):
                self.problems.append(f"{stage.name}: {text}")
            self.problems += [f"{stage.name}: {text}" for text in measures.trend(self.memory[stage.name], GROWTH_MAX)]
            self.problems += [f"{stage.name}: {text}" for text in stage.wrong]
            metrics = await measures.scrape(stage.weirgate)
            self.problems += [f"{stage.name}: {text}" for text in measures.unbalanced(metrics)]
            self.problems += [f"{stage.name}: {text}" for text in verdict.of_stage(stage, metrics)]
            self.say(verdict.summary(stage, metrics))
        self.say(f"{self.attacked} hostile connections, {self.visited} visitors, outages {self.faults.done}, "
                 f"{len(self.stalls.spans)} times this program was late by {STALL_S} s")

    async def stop(self):
        """Stops the gateways as an operator would; each must end with status 0 and without a panic."""
        for stage in self.stages:
            weirgate = stage.weirgate
            await stage.close()
            if not weirgate.alive():
                self.problems.append(f"{stage.name}: ended by itself with status {weirgate.child.returncode}")
            else:
                weirgate.send(signal.SIGTERM)
                status = await asyncio.to_thread(weirgate.wait, 20)
                if status != 0:
                    self.problems.append(f"{stage.name}: status {status} after SIGTERM")
            log = weirgate.log()
            self.problems += [f"{stage.name}: {line}" for line in log.splitlines() if "panicked" in line]
            self.log_of(stage).write_text(log)

    def log_of(self, stage):
        return self.out.with_suffix(f".{stage.name}.log")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("target/soak"))
    parser.add_argument("--seed", type=int, default=None)
    return parser


def main(args):
    args.out.mkdir(parents=True, exist_ok=True)
    seed = random.randrange(10**6) if args.seed is None else args.seed
    out = args.out / time.strftime("%Y%m%d-%H%M%S.jsonl")
    print(f"soak: {args.seconds:.0f} s, seed {seed}, lines in {out}", flush=True)
    problems = asyncio.run(Soak(args.seconds, out, seed).run())
    for problem in problems[:100]:
        print(f"soak: WRONG {problem}")
    print(f"soak: {f'{len(problems)} things are wrong' if problems else 'passed'}")
    return 1 if problems else 0


if __name__ == "__main__":
    measured.run(arguments(), main)
