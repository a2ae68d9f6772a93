"""`weirgate channels --retained`: a key-value bucket of any size comes whole, to clients of any speed, while it changes, and over
an outage of NATS."""
import asyncio
import json
import os
import random

import clients
import pytest
from prometheus import scrape
from redis_gateways import CHANNELS
from test_channels_nats import Reader, bus, on_nats  # noqa: F401
from test_channels_nats_last_values import Slow
from waiting import until

BUCKET = "$KV.rows.>"
#: Of the test in which a bucket changes; `TEST_BUCKET_RUNS=1000 make pytest ARGS='-k buckets_that_change'` takes a quarter of an hour.
RUNS = int(os.environ.get("TEST_BUCKET_RUNS", "3"))


class Rows(Reader):
    """The rows of the bucket, as a page keeps them: `rows` by key, `end` once they are whole."""

    def __init__(self, *args):
        super().__init__(*args)
        self.rows, self.end, self.values = {}, None, 0

    def take(self, opcode, payload):
        self.data.clear()
        super().take(opcode, payload)
        for message in self.data:
            key = message["channel"].removeprefix("$KV.rows.")
            self.values += message.get("retained", False)
            assert self.rows.get(key, 0) <= message["data"][0] if message["data"] else True, (self.rows.get(key), message)
            if message["data"] is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = message["data"][0]
        if self.answers and self.answers[-1]["type"] == "retained":
            self.end = self.answers.pop()


class SlowRows(Rows, Slow):
    """The same, through a small socket."""


async def bucket(publisher, rows, row_bytes):
    """A bucket of so many rows, each of these bytes: [1, "xxx"]."""
    streams = publisher.jetstream(timeout=30)
    await streams.add_stream(name="KV_rows", subjects=["$KV.rows.>"], max_msgs_per_subject=1)
    text = json.dumps([1, "x" * max(row_bytes - 8, 0)]).encode()
    for n in range(rows):
        await publisher.publish(f"$KV.rows.k{n}", text)
        if n % 1_000 == 0:
            await publisher.flush(30)
    await publisher.flush(30)

    async def stored():
        return (await streams.stream_info("KV_rows")).state.messages
    for _ in range(600):
        if await stored() == rows:
            break
        await asyncio.sleep(0.05)
    assert await stored() == rows
    return streams


async def reader(weirgate, make=Rows, room=None):
    client = await clients.connect(weirgate.port, *([room] if room else []), path=CHANNELS.path, make=make)
    await client.wait_for(lambda c: c.answers, 20, "connected")
    client.say({"action": "subscribe", "channels": [BUCKET], "status": True})
    return client


def is_whole(client, rows, weirgate):
    assert client.end.get("cut") is None, client.end
    assert (client.end["count"], client.values, len(client.rows)) == (rows, rows, rows)
    # While a server on a busy machine makes a consumer, it may be silent for so long that weirgate connects again.
    assert client.missing <= scrape(weirgate).sum("weirgate_bus_gaps_total")


async def no_consumer_is_left(streams):
    for _ in range(200):
        if (await streams.stream_info("KV_rows")).state.consumer_count == 0:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("a consumer is left")


@pytest.mark.parametrize("rows, row_bytes", [(10, 20), (1_500, 4_000), (100_000, 20), (200, 64_000), (3, 900_000)])
async def test_a_bucket_of_any_size_comes_whole(rows, row_bytes, nats, on_nats):  # noqa: F811
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    streams = await bucket(publisher, rows, row_bytes)
    client = await reader(weirgate)
    await client.wait_for(lambda c: c.end, 60, "the end")
    is_whole(client, rows, weirgate)
    assert scrape(weirgate).sum("weirgate_retained_waiting") == 0
    await until(lambda: scrape(weirgate).sum("weirgate_retained_bytes") == 0, 10, "nothing waits")
    await no_consumer_is_left(streams)
    await publisher.close()


async def test_ten_at_once_one_slow_and_one_that_leaves(nats, on_nats):  # noqa: F811
    """They share the work, the slow one is whole too, later, and the memory for values is bounded all the time."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    streams = await bucket(publisher, 2_000, 2_000)
    slow = await reader(weirgate, SlowRows, 8_192)
    ten = await asyncio.gather(*(reader(weirgate) for _ in range(10)))
    leaves = await reader(weirgate, SlowRows, 8_192)
    await leaves.wait_for(lambda c: len(c.rows) > 100, 30, "a part")
    leaves.abort()
    for client in ten:
        await client.wait_for(lambda c: c.end, 60, "the end")
        is_whole(client, 2_000, weirgate)
        assert scrape(weirgate).sum("weirgate_retained_bytes") < 64 << 20
    await slow.wait_for(lambda c: c.end, 120, "the end of the slow one")
    is_whole(slow, 2_000, weirgate)
    await no_consumer_is_left(streams)
    await publisher.close()


async def test_a_bucket_is_whole_over_an_outage(nats, on_nats):  # noqa: F811
    """The server is killed while a slow client reads, and comes back with its store."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    await bucket(publisher, 3_000, 1_000)
    await publisher.close()
    slow = await reader(weirgate, SlowRows, 8_192)
    await slow.wait_for(lambda c: len(c.rows) > 200, 30, "a part")
    assert slow.end is None
    nats.kill()
    await until(lambda: scrape(weirgate).sum("weirgate_bus_connected") == 0, 10, "the outage")
    nats.start()
    await slow.wait_for(lambda c: c.end, 120, "the end")
    assert slow.end.get("cut") is None and len(slow.rows) == 3_000
    # Those on their way at the kill may have come twice, and no more than a page.
    assert 3_000 <= slow.values == slow.end["count"] <= 3_000 + 2_048


class Followed(Rows):
    """The rows, and all that came of each key, in its order, stored and live: a number, or None for a deletion."""

    def __init__(self, *args):
        super().__init__(*args)
        self.stored, self.live = {}, {}

    def take(self, opcode, payload):
        super().take(opcode, payload)
        for message in self.data:
            key, number = message["channel"].removeprefix("$KV.rows."), message["data"] and message["data"][0]
            assert not (message.get("retained") and key in self.live), message
            (self.stored if message.get("retained") else self.live).setdefault(key, []).append(number)


class SlowFollowed(Followed, Slow):
    """The same, through a small socket."""


class ChangedBucket:
    """A bucket, its model, and what was put and deleted of each key in this run: first what the bucket had before."""

    def __init__(self, publisher, rows, seed):
        self.publisher, self.chosen, self.number = publisher, random.Random(seed), 1
        self.keys = [f"k{n}" for n in range(rows * 11 // 10)]
        self.changes, self.stops, self.said = {f"k{n}": [1] for n in range(rows)}, False, 0

    def model(self):
        return {key: said[-1] for key, said in self.changes.items() if said[-1] is not None}

    def begin(self):
        self.changes = {key: said[-1:] for key, said in self.changes.items()}
        self.stops = False
        return asyncio.create_task(self.change())

    async def change(self):
        """100 puts and deletes a second, half of them of a few keys."""
        while not self.stops:
            self.number, self.said = self.number + 1, self.said + 1
            key = self.chosen.choice(self.chosen.choice([self.keys, self.keys[::100]]))
            said = self.changes.setdefault(key, [None])
            # What is said of a key is never the same twice in a row.
            is_deleted = said[-1] is not None and self.chosen.random() < 0.4
            said.append(None if is_deleted else self.number)
            if is_deleted:
                await self.publisher.publish(f"$KV.rows.{key}", b"", headers={"KV-Operation": "DEL"})
            else:
                await self.publisher.publish(f"$KV.rows.{key}", json.dumps([self.number, "x" * 500]).encode())
            await asyncio.sleep(0.01)
        await self.publisher.flush(30)

    def check(self, client):
        """Of each key, the client has got what was stored, perhaps something newer, and then, from the first live message on, all
        that was said, each once and in this order. What was delivered just before the client came may be stored a little later."""
        assert client.rows == self.model()
        for key, said in self.changes.items():
            stored, live = client.stored.get(key, []), client.live.get(key, [])
            before = iter(said[:len(said) - len(live)])
            assert said[len(said) - len(live):] == live and all(one in before for one in stored), (key, said, stored, live)


@pytest.mark.timeout(240 + 6 * RUNS)
async def test_buckets_that_change_meanwhile(nats, on_nats):  # noqa: F811
    """No row is lost, none that was deleted comes back, and no client goes back to an older one."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    streams = await bucket(publisher, 1_500, 800)
    changed, readers = ChangedBucket(publisher, 1_500, RUNS), 0
    chosen = random.Random(RUNS)
    for run in range(RUNS):
        changing = changed.begin()
        clients_of_run = []
        for n in range(chosen.randint(2, 6)):
            is_slow = n == 0 and run % 2 == 0
            clients_of_run.append(await reader(weirgate, *([SlowFollowed, 8_192] if is_slow else [Followed])))
            await asyncio.sleep(chosen.random() / 20)
        for client in clients_of_run:
            await client.wait_for(lambda c: c.end, 60, f"the end in run {run}")
            assert "cut" not in client.end, client.end
        changed.stops = True
        await changing
        model = changed.model()
        for client in clients_of_run:
            await client.wait_for(lambda c, model=model: c.rows == model, 20, f"every row in run {run}")
            changed.check(client)
            assert client.missing == 0
            client.abort()
        readers += len(clients_of_run)
    print(f"{RUNS} runs, {readers} readers, {changed.said} puts and deletes, {len(model)} rows in the end")
    await no_consumer_is_left(streams)
    await publisher.close()
