"""Instructions of each thread of weirgate for one message, counted by callgrind: `make instructions`.

One client, messages of 300 bytes, each in a turn of its own. Instructions, unlike CPU time, do not depend on other load. The program fails if a
count is more than a hundredth over its limit in benches/instructions.toml.
"""
import argparse
import asyncio
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "rig"))
os.environ.setdefault("TEST_BINARY", str(ROOT / "target" / "release" / "weirgate"))

from bus import FLOW, publisher  # noqa: E402
from clients import connect  # noqa: E402
from processes import NatsServer, RedisServer, Weirgate, system_binary  # noqa: E402
from redis_gateways import CHANNELS, TRADES, subscriber  # noqa: E402
import nats  # noqa: E402

LIMITS = ROOT / "benches" / "instructions.toml"
MESSAGE_BYTES = 300
# Under callgrind a turn takes about a millisecond.
PAUSE_S = 0.005
TOLERANCE = 1.01
TOTALS = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)
THREAD = re.compile(r"^thread: (\d+)", re.MULTILINE)


def payload(number):
    """A message of a feed: 300 bytes, a few fields."""
    fields = {"symbol": "A", "price": 100 + number / 100, "size": number, "pad": ""}
    fields["pad"] = "." * (MESSAGE_BYTES - len(json.dumps(fields)))
    return json.dumps(fields).encode()


class Counted:
    """A gateway under callgrind."""

    def __init__(self, folder, *command, **environment):
        self.folder = folder
        under = [system_binary("valgrind", "valgrind"), "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={folder}/out"]
        self.weirgate = Weirgate(*command, under=under, **environment)

    def __enter__(self):
        self.weirgate.wait_ready(120)
        return self

    def __exit__(self, *error):
        self.weirgate.discard()

    def control(self, order):
        """Orders callgrind to count from zero, or to write the counts."""
        subprocess.run(["callgrind_control", order, str(self.weirgate.pid)], check=True, stdout=subprocess.DEVNULL)

    def threads(self):
        """{thread: instructions} since the counts were set to zero; thread 1 is the loop."""
        counts = {}
        for path in self.folder.glob("out.1-*"):
            text = path.read_text()
            counts[int(THREAD.search(text)[1])] = sum(int(total) for total in TOTALS.findall(text)[:1])
        return counts

    def names(self):
        """The names of the threads, in the order of their numbers."""
        tasks = sorted(pathlib.Path(f"/proc/{self.weirgate.pid}/task").iterdir(), key=lambda task: int(task.name))
        return [(task / "comm").read_text().strip() for task in tasks]


async def measured(counted, client, publish, messages):
    """{name of the thread: instructions for a message}; the first tenth of the messages warms up."""
    warm = messages // 10
    for number in range(warm + messages):
        if number == warm:
            await client.wait_for(lambda c: c.messages >= first + warm, 60, "the first messages")
            counted.control("--zero")
        if number == 0:
            first = client.messages
        await publish(payload(number))
        await asyncio.sleep(PAUSE_S)
    await client.wait_for(lambda c: c.messages >= first + warm + messages, 60, "all messages")
    names = counted.names()
    counted.control("--dump")
    threads = counted.threads()
    loop = threads.pop(1)
    source = names.index("source") + 1
    return {"loop": loop / messages, "source": threads.pop(source) / messages, "others": sum(threads.values()) / messages}


async def levels(folder, messages, server):
    """Levels on JetStream."""
    with Counted(folder, "levels", nats=server) as counted:
        client = await connect(counted.weirgate.port)
        async with publisher(server) as bus:
            return await measured(counted, client, lambda data: bus.streams.publish(FLOW, data), messages)


async def on_names(kind, folder, messages, server):
    """Trades or channels on Redis, or channels on NATS."""
    bus_flag = "--bus" if kind is CHANNELS else "--redis-url"
    with Counted(folder, kind.name, bus_flag, server.url, env={"DEFAULT_ROLE": "internal"}) as counted:
        client = await subscriber(kind, counted.weirgate, ["A"])
        bus = await nats.connect(server.url) if server.url.startswith("nats:") else server.client()

        async def publish(data):
            sent = bus.publish(kind.channel("A"), data)
            if asyncio.iscoroutine(sent):
                await sent
                await bus.flush()
        return await measured(counted, client, publish, messages)


GATEWAYS = {
    "levels on JetStream": (NatsServer, levels),
    "channels on NATS": (NatsServer, functools.partial(on_names, CHANNELS)),
    "channels on Redis": (RedisServer, functools.partial(on_names, CHANNELS)),
    "trades on Redis": (RedisServer, functools.partial(on_names, TRADES)),
}


def count(gateway, messages):
    """The instructions of one gateway."""
    make_server, run = GATEWAYS[gateway]
    server = make_server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(run(pathlib.Path(folder), messages, server))
    finally:
        server.discard()


def main():
    """Prints a table; status 1 if a count is over its limit."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--messages", type=int, default=1_000, help="messages counted (default: 1000)")
    options.add_argument("gateways", nargs="*", default=list(GATEWAYS), help="such as 'levels on JetStream'; default: all")
    options = options.parse_args()
    limits = tomllib.loads(LIMITS.read_text())
    over = []
    print(f"{'instructions for a message':26} {'loop':>8} {'limit':>8} {'source':>8} {'limit':>8} {'others':>8}")
    for gateway in options.gateways:
        counts, limit = count(gateway, options.messages), limits[gateway]
        print(f"{gateway:26} {counts['loop']:8.0f} {limit['loop']:8} {counts['source']:8.0f} {limit['source']:8} {counts['others']:8.0f}", flush=True)
        over += [f"{thread} of {gateway}" for thread in limit if counts[thread] > limit[thread] * TOLERANCE]
    if over:
        sys.exit(f"over the limit of {LIMITS.relative_to(ROOT)}: {', '.join(over)}")


if __name__ == "__main__":
    main()
