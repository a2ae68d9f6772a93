"""`weirgate channels --retained` with many or large last values: clients of any speed, and a bus that does not answer."""
import asyncio
import contextlib
import datetime
import json
import os
import pathlib
import random

import clients
import pytest
from nats.js.api import StreamSource
from nats.js.errors import BadRequestError
from prometheus import scrape
from redis_gateways import CHANNELS
from test_channels_nats import Reader, bus, connect, goes_on, on_nats  # noqa: F401
from waiting import until

#: TEST_MADE_ROUNDS=200 takes a minute.
MADE_ROUNDS = int(os.environ.get("TEST_MADE_ROUNDS", "20"))
NAMES = [f"kept.{n}" for n in range(50)]
FILL = "x" * 40_000


class Slow(Reader):
    """Takes what its small socket holds, a hundred times a second."""

    def data_received(self, data):
        super().data_received(data)
        if self.open:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.01, self.read_on)

    def read_on(self):
        if self.open and not self.transport.is_closing():
            self.transport.resume_reading()


def resident_bytes(weirgate):
    status = pathlib.Path(f"/proc/{weirgate.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024


async def keep(publisher, **kwargs):
    """A stream with a large value for each name."""
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="KEPT", subjects=["kept.>"], max_msgs_per_subject=1, **kwargs)
    for name in NAMES:
        await streams.publish(name, json.dumps([0, FILL]).encode())
    return streams


async def test_a_slow_client_gets_all_its_last_values(nats, on_nats):  # noqa: F811
    """50 names of 40 KB for a client that takes some hundred KB a second, beside live messages: none is older than the one before."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    streams = await keep(publisher)
    client = await clients.connect(weirgate.port, 8_192, path=CHANNELS.path, make=Slow)
    await client.wait_for(lambda c: c.answers, 20, "connected")
    assert (await client.ask("subscribe", *NAMES))["channels"] == NAMES
    # Of some the last value comes, of some a newer message, of some both.
    for name in NAMES[::7]:
        await streams.publish(name, json.dumps([1, ""]).encode())
        await asyncio.sleep(0.05)

    def newest(c):
        return {m["channel"]: m["data"][0] for m in c.data}
    want = {name: int(n % 7 == 0) for n, name in enumerate(NAMES)}
    await client.wait_for(lambda c: newest(c) == want, 60, "everything")
    assert client.open and client.missing == 0
    for name in NAMES:
        assert goes_on([m for m in client.data if m["channel"] == name]), name
    assert all(m["retained"] for m in client.data if m["data"][0] == 0)
    await until(lambda: scrape(weirgate).sum("weirgate_retained_bytes") == 0, 10, "everything taken")
    assert scrape(weirgate).sum("weirgate_retained_waiting") == 0
    await publisher.close()


async def test_a_pattern_of_everything_gets_no_old_message_as_a_new_one(nats, on_nats):  # noqa: F811
    """`>` also matches the inboxes of all consumers: what JetStream delivers there was published before."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="KEPT", subjects=["kept.>"])
    for number in range(3):
        await streams.publish(f"kept.{number}", json.dumps(number).encode())
    client = await connect(weirgate)
    await client.ask("subscribe", ">")

    def kept(c):
        return [(m["channel"], m["data"], m.get("retained", False)) for m in c.data if m["channel"].startswith("kept.")]
    last = [(f"kept.{number}", number, True) for number in range(3)]
    await client.wait_for(lambda c: len(kept(c)) >= 3, 20, "the last values")
    # A consumer of somebody else reads the same messages again.
    for message in await (await streams.pull_subscribe("kept.>", "other")).fetch(3):
        await message.ack()
    await streams.publish("kept.9", b"9")
    await client.wait_for(lambda c: ("kept.9", 9, False) in kept(c), 20, "a new message")
    assert kept(client) == [*last, ("kept.9", 9, False)]
    await publisher.close()


async def test_a_last_value_has_the_time_at_which_it_was_stored(nats, on_nats):  # noqa: F811
    """Its age is not that of the subscription: published before the gateway starts, also without `--stream`."""
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="KEPT", subjects=["kept.>"], max_msgs_per_subject=1)
    await streams.publish("kept.old", b"1")
    await asyncio.sleep(1.1)
    now = datetime.datetime.now(datetime.UTC)
    weirgate = on_nats(nats, "--retained")
    client = await connect(weirgate)
    await client.ask("subscribe", "kept.old", "kept.*")
    await client.wait_for(lambda c: len(c.data) == 2, 20, "the value by name and by pattern")
    ages = [(now - datetime.datetime.fromisoformat(m["timestamp"])).total_seconds() for m in client.data]
    assert all(1 < age < 600 for age in ages), ages
    await publisher.close()


async def test_the_end_says_whether_a_pattern_is_whole(nats, on_nats):  # noqa: F811
    """Buckets of 0, 10 and 1,500 rows, one with a deleted row: the count of what came."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=10)
    for name, count in (("none", 0), ("few", 10), ("many", 1_500)):
        bucket = await streams.create_key_value(bucket=name)
        for n in range(count):
            await bucket.put(f"k{n}", b"1")
    await (await streams.key_value("few")).delete("k3")
    client = await connect(weirgate)
    patterns = [f"$KV.{name}.*" for name in ("none", "few", "many")]
    client.say({"action": "subscribe", "channels": patterns, "status": True})
    ends = lambda: {m["channel"]: m for m in client.answers if m["type"] == "retained"}  # noqa: E731
    await client.wait_for(lambda c: len(ends()) == 3, 20, "three ends")
    assert [(ends()[name]["count"], ends()[name].get("cut")) for name in patterns] == [(0, None), (10, None), (1_500, None)]
    for name in patterns:
        come = [m["seq"] for m in client.data if m["pattern"] == name]
        assert len(come) == ends()[name]["count"] and all(seq < ends()[name]["seq"] for seq in come)
    assert client.missing == 0
    await publisher.close()


async def last_values(weirgate, name):
    """The sizes of the last values of a name, and their end."""
    client = await connect(weirgate)
    client.say({"action": "subscribe", "channels": [name], "status": True})

    def ends(c):
        return [m for m in c.answers if m["type"] == "retained"]
    await client.wait_for(ends, 20, f"the end of {name}")
    client.abort()
    end, sizes = ends(client)[0], sorted(len(m["data"]) for m in client.data)
    assert end["count"] == len(sizes)
    return sizes, end.get("cut")


async def test_last_values_follow_once_inboxes_are_permitted_again(start_nats, on_nats):  # noqa: F811
    """A server ends the subscription for answers when the permission is taken away, and keeps the connection."""
    def config(*names):
        rights = ", ".join(f'"{name}"' for name in ("kept.>", *names))
        gateway = f"{{ user: gw, password: p, permissions: {{ subscribe: [{rights}] }} }}"
        return f"authorization {{ users: [{gateway}, {{ user: feed, password: f }}] }}"
    server = start_nats(config=config("_INBOX.>"))
    weirgate = on_nats(server, "--retained", url=server.url.replace("://", "://gw:p@"))
    publisher = await bus(server, user="feed", password="f")
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="KEPT", subjects=["kept.>"], storage="memory")
    await streams.publish("kept.a", b'"one"')
    assert await last_values(weirgate, "kept.a") == ([3], None)
    server.reload(config())
    async with asyncio.timeout(20):
        while await last_values(weirgate, "kept.*") != ([], "refused"):
            await asyncio.sleep(0.05)
    waiting = await connect(weirgate, "kept.*")
    server.reload(config("_INBOX.>"))
    await waiting.wait_for(lambda c: c.data, 30, "the value follows")
    assert await last_values(weirgate, "kept.a") == ([3], None)
    await publisher.close()


async def test_a_pattern_is_whole_though_the_server_permits_only_small_requests(start_nats, on_nats, tmp_path):  # noqa: F811
    limited = f'jetstream {{ store_dir: "{tmp_path}", limits {{ max_request_batch: 10 }} }}'
    nats = start_nats(jetstream=False, config=limited)
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="MANY", subjects=["many.>"])
    for n in range(300):
        await streams.publish(f"many.{n}", b'"x"')
    assert await last_values(on_nats(nats, "--retained"), "many.*") == ([1] * 300, None)
    await publisher.close()


async def test_a_value_within_the_limit_comes_by_its_name_and_by_a_pattern(nats, on_nats):  # noqa: F811
    """JetStream answers the question of a name in base64, which is a third longer. A value over the limit is told as such."""
    weirgate = on_nats(nats, "--retained", "--bus-message-bytes-max", "100000")
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="SIZES", subjects=["size.>"])
    for bytes_ in (74_000, 76_000, 99_000, 101_000, 900_000):
        # Two are the quotes.
        value = b'"' + b"x" * (bytes_ - 2) + b'"'
        await streams.publish(f"size.{bytes_}.a", value)
        want = ([], "large") if bytes_ > 100_000 else ([bytes_ - 2], None)
        assert await last_values(weirgate, f"size.{bytes_}.*") == want
        assert await last_values(weirgate, f"size.{bytes_}.a") == want, bytes_
    assert await last_values(weirgate, "size.none") == ([], None)
    await until(lambda: scrape(weirgate).sum("weirgate_bus_messages_bad_total") == 4, 10, "two of each")
    await until(lambda: "size.900000.a" in weirgate.log(), 10, "a line with the subject")
    await publisher.close()


async def test_a_copy_is_found_in_a_list_of_streams_that_is_longer_than_the_limit(nats, on_nats):  # noqa: F811
    weirgate = on_nats(nats, "--retained", "--bus-message-bytes-max", "1024")
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=20)
    await streams.add_stream(name="ORIGIN", subjects=["copied.>"], storage="memory")
    await streams.publish("copied.a", b'"one"')
    await streams.add_stream(name="COPY", sources=[StreamSource(name="ORIGIN")], storage="memory")

    async with asyncio.timeout(30):
        while (await streams.stream_info("COPY")).state.messages < 1:
            await asyncio.sleep(0.05)
    await streams.delete_stream("ORIGIN")
    for n in range(150):
        await streams.add_stream(name=f"OTHER{n}", subjects=[f"other{n}.>"], storage="memory")
    assert await last_values(weirgate, "copied.a") == ([3], None)
    await publisher.close()


async def test_clients_that_stop_reading_keep_nobody_waiting(nats, on_nats):  # noqa: F811
    """Each of them has a bounded part, another client has its values meanwhile, and the stall limit ends them."""
    weirgate = on_nats(nats, "--retained", "--send-queue-stall-ms", "5000")
    publisher = await bus(nats)
    await keep(publisher)
    stopped = []
    for _ in range(8):
        client = await clients.connect(weirgate.port, 4_096, path=CHANNELS.path, make=Reader)
        await client.wait_for(lambda c: c.answers, 20, "connected")
        client.say({"action": "subscribe", "channels": NAMES})
        client.stop_reading()
        stopped.append(client)
    await until(lambda: scrape(weirgate).sum("weirgate_retained_bytes") > 8 * 300_000, 20, "their values wait")
    assert scrape(weirgate).sum("weirgate_retained_bytes") <= 8 * 512 * 1024
    reader = await connect(weirgate, *NAMES)
    await reader.wait_for(lambda c: len(c.data) == 50, 20, "its values")
    await until(lambda: scrape(weirgate).sum("weirgate_client_closes_total", reason="send_stalled") == 8, 30, "their ends")
    await until(lambda: scrape(weirgate).sum("weirgate_retained_bytes") == 0, 10, "nothing of them is left")
    assert scrape(weirgate).sum("weirgate_retained_waiting") == 0 and reader.open
    for client in stopped:
        client.abort()
    await publisher.close()


# A program subscribes to the requests, and does not answer.
SILENT = 'mappings { "$JS.API.>": "silent.>" }'


@pytest.mark.parametrize("away", [True, False], ids=["away", "silent"])
async def test_questions_that_nobody_answers_fill_no_memory(start_nats, on_nats, away):  # noqa: F811
    """One client subscribes to other names all the time while NATS is away, or JetStream says nothing."""
    server = start_nats(config="" if away else SILENT)
    weirgate = on_nats(server, "--retained")
    client = await connect(weirgate)
    if away:
        server.kill()
        await until(lambda: not weirgate.health()["nats_connected"], 20, "the loss noticed")
    else:
        program = await bus(server)
        await program.subscribe("silent.>")
        await program.flush()
    before = None
    for n in range(150):
        names = [f"kept.{n}.{k}.{'x' * 440}" for k in range(50)]
        assert (await client.ask("subscribe", *names))["channels"] == names
        if n == 20:
            before = resident_bytes(weirgate)
            metrics = scrape(weirgate)
            assert metrics.sum("weirgate_retained_waiting") == 50
            assert metrics.sum("weirgate_retained_questions", stage="waiting") <= (0 if away else 50)
            assert metrics.sum("weirgate_retained_questions", stage="asked") <= (0 if away else 64)
        assert (await client.ask("unsubscribe", *names))["channels"] == names
        client.answers.clear()
    assert resident_bytes(weirgate) - before < 4 * 1024 * 1024
    client.abort()
    await until(lambda: scrape(weirgate).sum("weirgate_retained_waiting") == 0, 10, "nothing of it is left")


async def test_who_waits_while_nats_is_away_is_asked_for_when_it_is_back(nats, on_nats):  # noqa: F811
    """And who has left meanwhile is not."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    await keep(publisher)
    await publisher.close()
    nats.kill()
    await until(lambda: not weirgate.health()["nats_connected"], 20, "the loss noticed")
    stays, leaves = await connect(weirgate, "kept.1", "kept.*"), await connect(weirgate, "kept.2")
    leaves.abort()
    await until(lambda: scrape(weirgate).sum("weirgate_retained_waiting") == 2, 10, "two names waited for")
    await asyncio.to_thread(nats.start)
    await stays.wait_for(lambda c: len(c.data) >= 51, 30, "the last values")
    assert [m["data"][0] for m in stays.data if m["pattern"] is None] == [0]
    await until(lambda: scrape(weirgate).sum("weirgate_retained_waiting") == 0, 10, "nobody waits")


async def test_values_come_from_streams_that_no_publisher_reaches(nats, on_nats):  # noqa: F811
    """A copy whose origin is gone, and a transform (nats-server 2.10): JetStream finds a stream by the subjects of publishers alone."""
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="O", subjects=["o.>"])
    for name, value in (("o.a", b"1"), ("o.b", b"2")):
        await streams.publish(name, value)

    async def add(name, **config):
        answer = await publisher.request(f"$JS.API.STREAM.CREATE.{name}", json.dumps({"name": name, "storage": "memory", **config}).encode(), timeout=10)
        assert "error" not in json.loads(answer.data), answer.data

    await add("COPY", sources=[{"name": "O"}])

    async with asyncio.timeout(30):
        while (await streams.stream_info("COPY")).state.messages < 2:
            await asyncio.sleep(0.05)
    await streams.delete_stream("O")
    weirgate = on_nats(nats, "--retained")
    version = publisher.connected_server_version
    is_new = (version.major, version.minor) >= (2, 10)
    # An old server makes no consumer of a pattern there, so values of a pattern are missing if the copy has any.
    for name, values in (("o.a", {"o.a": 1}), ("o.*", {"o.a": 1, "o.b": 2} if is_new else {}), ("x.*", {})):
        client = await connect(weirgate)
        client.say({"action": "subscribe", "channels": [name], "status": True})
        await client.wait_for(lambda c: any(m["type"] == "retained" for m in c.answers), 20, f"the end of {name}")
        assert {m["channel"]: m["data"] for m in client.data} == values
        end = next(m for m in client.answers if m["type"] == "retained")
        assert end.get("cut") == ("refused" if name == "o.*" and not is_new else None), end
    if is_new:
        await add("MADE", subjects=["in.>"], subject_transform={"src": "in.>", "dest": "out.>"})
        await streams.publish("in.a", b"1")
        # The list of all streams is up to a second old.
        await asyncio.sleep(1.1)
        for name in ("out.a", "out.>"):
            client = await connect(weirgate, name)
            await client.wait_for(lambda c: [(m["channel"], m["data"]) for m in c.data] == [("out.a", 1)], 20, "the value of the transform")
    other = await connect(weirgate, "other")
    assert other.data == []
    # Another thread writes the log.
    lines = 0 if is_new else 1
    await until(lambda: weirgate.log().count("gives no last values") == lines, 10, "the line of o.* alone")
    await publisher.close()


async def stored(streams, subject, payload):
    """Publishes until the stream says that it has the message: one that is being made may swallow some."""
    for _ in range(5):
        with contextlib.suppress(TimeoutError):
            return await streams.publish(subject, payload)
    raise AssertionError(f"not stored: {subject}")


async def test_values_of_a_stream_that_is_being_made(nats, on_nats):  # noqa: F811
    """A pattern and a name are asked for while four clients make the stream and publish: each value comes, and nothing is refused."""
    weirgate = on_nats(nats, "--retained")
    makers = [await bus(nats) for _ in range(4)]
    soon = lambda: asyncio.sleep(0.004 * random.random())  # noqa: E731
    for n in range(MADE_ROUNDS):
        async def make(at, maker, n=n):
            await soon()
            streams = maker.jetstream(timeout=10)
            for _ in range(3):
                # While nats-server makes it for one, it tells another that it overlaps with itself.
                with contextlib.suppress(BadRequestError):
                    await streams.add_stream(name=f"MADE{n}", subjects=[f"made.{n}.>"], max_msgs_per_subject=1)
            await stored(streams, f"made.{n}.{at}", str(at).encode())
        client = await connect(weirgate)
        making = asyncio.gather(*(make(at, maker) for at, maker in enumerate(makers)))
        await soon()
        names = [f"made.{n}.*", f"made.{n}.0"]
        client.say({"action": "subscribe", "channels": names, "status": True})
        await making

        def ends(c, names=names):
            return [m for m in c.answers if m["type"] == "retained" and m["channel"] in names]
        await client.wait_for(lambda c: len(ends(c)) == 2, 20, f"round {n}: the ends")
        assert not any("cut" in end for end in ends(client)), ends(client)
        await client.wait_for(lambda c, n=n: {m["channel"] for m in c.data if m["pattern"]} == {f"made.{n}.{at}" for at in range(4)}, 20,
                              f"round {n}: all values")
        client.abort()
        await makers[0].jetstream(timeout=10).delete_stream(f"MADE{n}")
    assert "last values" not in weirgate.log()
    for maker in makers:
        await maker.close()
