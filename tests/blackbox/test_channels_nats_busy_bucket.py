"""`weirgate channels --retained` on a key-value bucket in use: each key of a pattern comes, or the end of the values says `cut`."""
import asyncio
import collections
import json
import os
import random

import clients
import pytest
from redis_gateways import CHANNELS
from test_channels_nats import Reader, bus, on_nats  # noqa: F401

#: TEST_BUCKET_ROUNDS=50 takes some minutes.
ROUNDS = int(os.environ.get("TEST_BUCKET_ROUNDS", "5"))
SEED = int(os.environ.get("TEST_BUCKET_SEED", "0"))
WRITERS, READERS = 3, 4
PATTERN = "$KV.b.*"


class Bucket:
    """A bucket, and what is in it: the messages of each key, each the number of its write, or None for a marker."""

    def __init__(self, streams, history, rng):
        self.streams, self.history, self.rng = streams, history, rng
        self.writes, self.keys = 0, 0
        self.in_use = True
        self.stored = collections.defaultdict(list)
        self.locks = collections.defaultdict(asyncio.Lock)

    async def make(self):
        await self.streams.add_stream(name="KV_b", subjects=["$KV.b.>"], max_msgs_per_subject=self.history, allow_rollup_hdrs=True,
                                      discard="new")
        self.keys = 100
        for n in range(self.keys * self.history):
            await self.write("put", f"k{n % self.keys}")

    async def write(self, kind, key):
        async with self.locks[key]:
            self.writes += 1
            messages = self.stored[key]
            number = self.writes if kind == "put" else None
            headers = {"KV-Operation": "DEL"} if kind == "delete" else {"KV-Operation": "PURGE", "Nats-Rollup": "sub"} if kind == "purge" else None
            payload = json.dumps(number).encode() if kind == "put" else b""
            ack = await self.streams.publish(f"$KV.b.{key}", payload, headers=headers)
            if kind == "purge":
                messages.clear()
            messages.append((ack.seq, number))
            del messages[:-self.history]

    async def go_on(self, kinds):
        """Writes while the bucket is in use: few keys often, all others now and then, and new ones."""
        while self.in_use:
            kind, hot = self.rng.choice(kinds), self.rng.random() < 0.3
            if kind == "new":
                self.keys += 1
            at = self.keys if kind == "new" else self.rng.randrange(5 if hot else self.keys)
            await self.write("put" if kind == "new" else kind, f"k{at}")
            await asyncio.sleep(self.rng.random() * 0.002)

    def newest(self):
        return {key: messages[-1][1] for key, messages in self.stored.items() if messages and messages[-1][1] is not None}


async def read(weirgate, bucket):
    """Subscribes. Returns whether the values were cut, and the keys of which the newest value is missing."""
    client = await clients.connect(weirgate.port, path=CHANNELS.path, make=Reader)
    await client.wait_for(lambda c: c.answers, 20, "connected")
    before = bucket.newest()
    client.say({"action": "subscribe", "channels": [PATTERN], "status": True})

    def ends(c):
        return [m for m in c.answers if m["type"] == "retained"]
    await client.wait_for(ends, 60, "the end of the values")
    # Live messages may be on their way.
    await asyncio.sleep(0.05)
    come = collections.defaultdict(list)
    for message in client.data:
        come[message["channel"].removeprefix("$KV.b.")].append(message["data"])
    client.abort()

    def has_newest(key):
        # After a deletion, or a number that is as new.
        return any(data is None or data >= before[key] for data in come[key])
    missing = [key for key in before if not has_newest(key)]
    return "cut" in ends(client)[0], missing


@pytest.mark.parametrize("kinds", [
    pytest.param(["put"], id="puts"), pytest.param(["put", "delete", "purge", "new"], id="deletions")])
@pytest.mark.parametrize("history", [1, 3, 5])
async def test_each_key_of_a_busy_bucket_comes(nats, on_nats, history, kinds):  # noqa: F811
    weirgate, publisher = on_nats(nats, "--retained"), await bus(nats)
    rng = random.Random(f"{SEED} {history}")
    bucket = Bucket(publisher.jetstream(timeout=10), history, rng)
    await bucket.make()
    writers = [asyncio.create_task(bucket.go_on(kinds)) for _ in range(WRITERS)]
    whole = 0
    for n in range(ROUNDS):
        async def reader():
            await asyncio.sleep(rng.random() * 0.1)
            return await read(weirgate, bucket)
        for is_cut, missing in await asyncio.gather(*(reader() for _ in range(READERS))):
            whole += not is_cut
            assert is_cut or not missing, f"seed {SEED}, round {n}: {missing}"
        assert not any(writer.done() for writer in writers)
    bucket.in_use = False
    await asyncio.gather(*writers)
    await publisher.close()
    # A busy machine may send some values too late.
    assert whole > ROUNDS * READERS / 2
