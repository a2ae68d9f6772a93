#!/usr/bin/env python3
"""One core that is not enough: 2,000 clients of levels, 2 KB a state, and a gateway that runs a tenth of the time.

    behind.py [--clients 2000] [--rates 50 250 500 1000]

The gateway is stopped for 90 ms of each 100 ms, as by a CPU quota. TEST_BINARY is another build. Exit status 1 if over the load that fits the median
age of a state is over 200 ms, if a client got less than 0.8 of the states of another, or if a state was left out at 50 messages a second.
"""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/rig")]

import processes
from prometheus import scrape

LOADTEST = ROOT / "target/release/loadtest"
RUNS_S, RESTS_S = 0.01, 0.09
SECONDS, BYTES, FITS = 12, 2_048, 50
AGE_MAX_MS, SHARE_MIN = 200, 0.8


class Quota(threading.Thread):
    """Lets a process run for a part of the time."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.is_over = pid, threading.Event()
        self.start()

    def run(self):
        while not self.is_over.is_set():
            os.kill(self.pid, signal.SIGSTOP)
            time.sleep(RESTS_S)
            os.kill(self.pid, signal.SIGCONT)
            time.sleep(RUNS_S)

    def end(self):
        self.is_over.set()
        self.join()


def run(rate, clients):
    """Returns what the clients got, and the gateway's numbers."""
    nats = processes.NatsServer()
    nats.start()
    weirgate = processes.Weirgate("levels", "--ephemeral", nats=nats)
    try:
        weirgate.wait_ready()
        with tempfile.NamedTemporaryFile() as result:
            readers = subprocess.Popen([LOADTEST, "clients", f"ws://127.0.0.1:{weirgate.port}/ws/stream", "-n", str(clients), "--conflating",
                                        "--seconds", str(SECONDS + 4), "--json", result.name], stdout=subprocess.DEVNULL)
            while scrape(weirgate).sum("weirgate_clients") < clients:
                time.sleep(0.1)
            quota = Quota(weirgate.pid)
            subprocess.run([LOADTEST, "publish", "nats", "--nats", nats.url, "--bytes", str(BYTES), "--rate", str(rate), "--count",
                            str(rate * SECONDS)], check=True, stdout=subprocess.DEVNULL)
            readers.wait()
            quota.end()
            return json.loads(pathlib.Path(result.name).read_text()), scrape(weirgate)
    finally:
        weirgate.discard()
        nats.discard()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("--clients", type=int, default=2_000)
    arguments.add_argument("--rates", type=int, nargs="*", default=[FITS, 250, 500, 1_000])
    given = arguments.parse_args()
    faults = 0
    print(f"{'messages/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'of a client':>13} {'share':>6} {'deliveries/s':>13} {'behind s':>9}")
    for rate in given.rates:
        got, numbers = run(rate, given.clients)
        latency, least, most = got["readers"]["latency"], got["fewest_of_a_client"], got["most_of_a_client"]
        behind_s = numbers.sum("weirgate_behind_seconds_total")
        wrong = []
        if rate <= FITS and least < rate * SECONDS:
            wrong.append("left out")
        if rate > FITS:
            wrong += ["old"] * (latency["p50_ms"] > AGE_MAX_MS) + ["unfair"] * (least < SHARE_MIN * most)
        faults += bool(wrong)
        print(f"{rate:10} {latency['p50_ms']:8.0f} {latency['p99_ms']:8.0f} {f'{least}-{most}':>13} {least / max(most, 1):6.2f} "
              f"{got['readers']['deliveries'] / SECONDS:13.0f} {behind_s:9.1f}  {', '.join(wrong)}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
