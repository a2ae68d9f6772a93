"""`last` on a JetStream stream: what the history does not have comes from the stream."""
import asyncio
import json

import nats as nats_py
import pytest
import weirgate as weirgate_py
from nats.js.api import StreamConfig
from prometheus import scrape
from redis_gateways import CHANNELS
from test_beside_stream import start, subscribe  # noqa: F401
from waiting import until


async def rows(weirgate, name="market.row.*", last=1, status=True):
    """The rows that a client gets before the status, and the answer."""
    client, answer = await subscribe(weirgate, [name], last=last, status=status)
    await client.wait_for(lambda c: c.of("status") or "pos" in answer, 20, "the end of `last`")
    client.abort()
    return [(m["channel"], m["data"]) for m in client.of("data")], answer


@pytest.fixture
def restart(start, start_weirgate):  # noqa: F811
    """A stream with 300 old rows, of which some were replaced and deleted, and a gateway whose history has none of them."""
    async def restart():
        server, connection, first = await start()
        streams = connection.jetstream()
        for n in range(300):
            await connection.publish(f"market.row.r{n}", b"1")
        for n in range(100):
            await connection.publish(f"market.row.r{n}", b"2")
        await streams.publish("market.row.r7", b"", headers={"KV-Operation": "DEL"})
        first.kill()
        # The shortest history, which reaches back from the newest message.
        await asyncio.sleep(20.5)
        await connection.jetstream().publish("market.now", b"1")
        weirgate = start_weirgate("channels", "--bus", server.url, "--stream", "MARKET", "--history-ms", "20000", env={"DEFAULT_ROLE": "internal"})
        await until(lambda: weirgate.ready_status() == 200, 20, "ready")
        return connection, weirgate, server
    return restart


@pytest.mark.long
async def test_rows_from_before_the_history_come_from_the_stream(restart):
    connection, weirgate, _ = await restart()
    streams = connection.jetstream()
    want = {f"market.row.r{n}": 2 if n < 100 else 1 for n in range(300)} | {"market.row.r7": None}
    for _ in range(2):
        got, answer = await rows(weirgate)
        assert len(got) == 300 and dict(got) == want and answer["errors"] == []
    assert (await rows(weirgate, "market.row.r5"))[0] == [("market.row.r5", 2)]
    assert (await rows(weirgate, "market.row.none"))[0] == []
    # What is in the history counts, and what has come live since.
    await streams.publish("market.row.r9", b"3")
    await streams.publish("market.row.new", b"4")
    want |= {"market.row.r9": 3, "market.row.new": 4}
    # The stream has them; weirgate gets them a moment later.
    for _ in range(100):
        got, _ = await rows(weirgate)
        # A message that comes live while the rows are read adds one.
        if dict(got) == want and len(got) == 301:
            break
        await asyncio.sleep(0.05)
    assert len(got) == 301 and dict(got) == want
    for got, _ in await asyncio.gather(*(rows(weirgate) for _ in range(10))):
        assert len(got) == 301 and dict(got) == want

    async def consumers():
        return (await streams.stream_info("MARKET")).state.consumer_count
    for _ in range(100):
        if await consumers() == 1:
            break
        await asyncio.sleep(0.05)
    assert await consumers() == 1, "that of the reader"
    assert scrape(weirgate).sum("weirgate_retained_questions", stage="asked") == 0


@pytest.mark.long
async def test_the_rows_of_last_are_in_the_order_of_the_stream_and_live_messages_follow(restart):
    connection, weirgate, _ = await restart()
    streams, stops, n = connection.jetstream(), False, 10

    async def publish():
        nonlocal n
        while not stops:
            n += 1
            await streams.publish(f"market.row.r{n % 300}", json.dumps(n).encode())

    task = asyncio.create_task(publish())
    clients = [await subscribe(weirgate, ["market.row.*"], last=1, status=True) for _ in range(5)]
    await asyncio.sleep(0.5)
    stops = True
    await task
    last = f"market.row.r{n % 300}"
    for client, _ in clients:
        await client.wait_for(lambda c: (c.data(last) or [None])[-1] == n, 20, "the newest")
        newest = {}
        for message in client.of("data"):
            before = newest.get(message["channel"], -1)
            assert message["data"] is None or before is None or before < message["data"], (before, message)
            newest[message["channel"]] = message["data"]
        assert len(newest) == 300
        positions = [int(m["pos"].split(".")[1], 36) for m in client.of("data")]
        assert positions == sorted(positions) and len(set(positions)) == len(positions)


@pytest.mark.long
async def test_many_clients_that_ask_at_once_and_while_nats_is_away_get_their_rows(restart):
    _, weirgate, server = await restart()
    server.kill()
    await until(lambda: not weirgate.health()["nats_connected"], 20, "away")
    asked = [asyncio.create_task(rows(weirgate, f"market.row.r{n}")) for n in range(100)]
    await asyncio.sleep(1)
    assert not any(task.done() for task in asked), "they wait"
    server.start()
    for n, (got, answer) in enumerate(await asyncio.gather(*asked)):
        assert got == [(f"market.row.r{n}", None if n == 7 else 2)] and "why" not in answer, (n, got, answer)
    # For longer than the answer waits: the answer says so, and the next request brings the row.
    server.kill()
    await until(lambda: not weirgate.health()["nats_connected"], 20, "away")
    client, answer = await subscribe(weirgate, ["market.row.r200"], last=1, status=True)
    assert answer["why"] == {"market.row.r200": "away"} and not client.of("data")
    client.abort()
    server.start()
    await until(lambda: weirgate.ready_status() == 200, 20, "ready")
    assert (await rows(weirgate, "market.row.r200"))[0] == [("market.row.r200", 1)]


DENIED = '["$JS.API.STREAM.MSG.GET.MARKET", "$JS.API.CONSUMER.MSG.NEXT.>"]'


def access(deny):
    """A user that may not ask for messages for a while stands for an election: the stream gives no answer, and then it does."""
    return f"""authorization {{ users: [
        {{ user: admin, password: p }}
        {{ user: wg, password: p, permissions: {{ publish: {{ allow: ">", deny: {deny} }}, subscribe: ">" }} }}
    ] }}"""


@pytest.fixture
def denied(start_weirgate, start_nats):
    """A stream with a row that is older than the history, and a gateway that may not ask for it."""
    async def denied():
        server = start_nats(jetstream=True, config=access(DENIED))
        connection = await nats_py.connect(server.url.replace("nats://", "nats://admin:p@"))
        await connection.jetstream().add_stream(StreamConfig(name="MARKET", subjects=["market.>"]))
        await connection.jetstream().publish("market.old", b"7")
        for n in range(3000):
            await connection.publish("market.z", str(n).encode())
        await connection.flush()
        url = server.url.replace("nats://", "nats://wg:p@")
        weirgate = start_weirgate("channels", "--bus", url, "--stream", "MARKET", "--history-ms", "60000", "--history-bytes-max", "65536",
                                  env={"DEFAULT_ROLE": "internal"})
        await until(lambda: weirgate.ready_status() == 200, 20, "ready")
        return server, connection, weirgate
    return denied


async def test_an_election_of_the_stream_keeps_no_row_back(denied):
    server, _, weirgate = await denied()
    got, answer = await rows(weirgate, "market.old")
    assert (got, answer["why"]) == ([], {"market.old": "refused"})
    server.reload(access("[]"))
    await until_row(weirgate)


async def test_a_client_asks_again_and_neither_misses_nor_repeats_what_comes_meanwhile(denied):
    server, connection, weirgate = await denied()
    got, causes = [], []
    async with weirgate_py.Channels(weirgate.http_url + CHANNELS.path, last=1) as client:
        watched = weirgate_py.status_of(client, lambda status: causes.append(status.cause))
        sub = client.subscribe(["market.*"], lambda data, message: got.append((message["channel"], data)))
        exact = client.subscribe("market.old", lambda data, _: got.append(("exact", data)))
        await sub
        await exact
        assert client.cuts == {"market.*": "refused", "market.old": "refused"}

        async def publish():
            for n in range(100_000):
                await connection.publish("market.busy", str(n).encode())
                await asyncio.sleep(0.001)
        task = asyncio.create_task(publish())
        await asyncio.sleep(1)
        server.reload(access("[]"))
        await until(lambda: ("market.old", 7) in got and ("exact", 7) in got, 40, "the row")
        await until(lambda: len(got) > 1_100, 60, "many messages")
        task.cancel()
        busy = [data for channel, data in got if channel == "market.busy"]
        assert len(busy) > 1_000 and busy == list(range(busy[0], busy[0] + len(busy))), "each once, in order"
        assert [one for one in got if one[1] == 7 and one[0] in ("market.old", "exact")] != [] and got.count(("market.old", 7)) == 1
        assert got.count(("exact", 7)) == 1 and client.cuts == {} and causes[-1] == "All is well."
        watched()


async def until_row(weirgate):
    for _ in range(50):
        if (await rows(weirgate, "market.old"))[0] == [("market.old", 7)]:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("no row")
