"""`--stream`: the stream of the bus keeps the messages, so no restart loses any: of the bus, of one instance or of all."""
import asyncio
import dataclasses
import datetime
import json
import re
import signal

import clients
import nats as nats_py
import pytest
from link import Link
from nats.js.api import ConsumerConfig, StreamConfig
from processes import RedisServer, free_port
from prometheus import scrape
from redis_gateways import CHANNELS, TRADES
from test_check import check, has
from test_publish import publish
from test_resume import Reader, got, recovered
from waiting import until

HISTORY = ("--history-ms", "60000")
KEY = "ticks"


@dataclasses.dataclass
class OnRedis:
    """A gateway that reads a Redis stream, and the publisher's side of the stream."""
    kind: object
    server: RedisServer

    def flags(self):
        return ("--redis-url", self.server.url, "--stream", KEY)

    async def publish(self, name, *prices):
        client = self.server.client()
        for price in prices:
            client.xadd(KEY, {"channel": self.kind.channel(name), "data": json.dumps({"price": price})})

    async def lose(self, how):
        """The ways to lose messages: `trim` leaves an empty stream, `anew` makes another one of this name."""
        if how == "trim":
            self.server.client().xtrim(KEY, maxlen=0, approximate=False)
        else:
            self.server.client().delete(KEY)


@dataclasses.dataclass
class OnNats:
    """The same for a JetStream stream."""
    kind: object
    server: object
    replicas: int = 1

    def flags(self):
        return ("--bus", self.server.url, "--stream", KEY)

    async def _do(self, what):
        bus = await nats_py.connect(self.server.url)
        try:
            return await what(bus.jetstream(timeout=10))
        finally:
            await bus.close()

    async def make(self, **more):
        config = StreamConfig(name=KEY, subjects=["market.>", "channel.>"], num_replicas=self.replicas, **more)
        return await self._do(lambda stream: stream.add_stream(config))

    async def publish(self, name, *prices):
        async def store(stream):
            for price in prices:
                await stream.publish(self.kind.channel(name), json.dumps({"price": price}).encode())
        await self._do(store)

    async def lose(self, how):
        async def lose(stream):
            await (stream.purge_stream(KEY) if how == "trim" else stream.delete_stream(KEY))
            if how == "anew":
                await self.make()
        await self._do(lose)


@dataclasses.dataclass
class Url:
    """The address of a server, or of several, with a log-in."""
    url: str


ON_NATS = dataclasses.replace(
    CHANNELS, subscribe=lambda names: {"action": "subscribe", "channels": [f"market.tick.{name}" for name in names]},
    channel=lambda name: f"market.tick.{name}")


@pytest.fixture(params=["trades on Redis", "channels on Redis", "channels on NATS"])
def feed(request, started, start_nats):
    """The stream, on a server that keeps the stream over a restart."""
    if request.param == "channels on NATS":
        feed = OnNats(ON_NATS, start_nats())
        asyncio.run(feed.make())
        return feed
    started.append(RedisServer("--appendonly", "yes", "--appendfsync", "always"))
    return OnRedis(TRADES if request.param.startswith("trades") else CHANNELS, started[-1])


@pytest.fixture
def start(start_weirgate):
    """start(feed) → a gateway on the stream, not waited for"""
    return lambda feed, *more, **kwargs: start_weirgate(
        feed.kind.name, *HISTORY, *feed.flags(), *more, env={"DEFAULT_ROLE": "internal"}, **kwargs)


async def ready(*instances):
    for one in instances:
        await asyncio.to_thread(one.wait_ready)


async def subscribe(instance, feed, names, **since):
    """A new client, as soon as the port is there, and the answer to its request."""
    while True:
        try:
            client = await clients.connect(instance.port, path=feed.kind.path, make=Reader)
            break
        except ConnectionRefusedError:
            assert instance.alive(), instance.log_tail()
            await asyncio.sleep(0.01)
    client.say({**feed.kind.subscribe(names), **since})
    is_answer = lambda a: a["type"] == feed.kind.subscribed and "clientId" not in a and "serverId" not in a.get("data", {})
    await client.wait_for(lambda c: any(is_answer(a) for a in c.answers), 20, "the answer")
    return client, next(filter(is_answer, client.answers))


async def test_all_instances_are_killed_and_nothing_is_lost(start, feed):
    """The first clients of the new processes come before the stream is read: they wait for a moment."""
    await feed.publish("QUIET", 7)
    one, other = start(feed), start(feed)
    client, answer = await subscribe(one, feed, ["A", "QUIET", "NEVER"])
    assert "pos" in answer
    await feed.publish("A", *range(3))
    await feed.publish("B", 100)
    assert await got(client, 3) == [0, 1, 2]
    for instance in (one, other):
        instance.kill()
    await feed.publish("A", *range(3, 300))
    for round_ in range(2):
        new = start(feed)
        client, answer = await subscribe(new, feed, ["A", "QUIET", "NEVER"], since=client.pos)
        assert recovered(feed.kind, answer) == (True, None), answer
        await feed.publish("A", 300 + round_)
        wanted = [*range(3, 301)] if round_ == 0 else [301]
        assert await got(client, len(wanted)) == wanted
        times = [message.get("timestamp") for message in client.data]
        assert times == sorted(times), "of storage, or of the broadcast"


async def test_a_restart_of_the_bus_loses_nothing(start, feed):
    """What is published before weirgate is connected again, too. Clients hear that the bus was away, and of no loss."""
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    await feed.publish("A", 0)
    await got(client, 1)
    for round_ in range(3):
        feed.server.kill()
        await client.wait_for(lambda c: c.statuses and c.statuses[-1]["bus"] == "away", 20, "away")
        await asyncio.to_thread(feed.server.start)
        await feed.publish("A", 2 * round_ + 1, 2 * round_ + 2)
        await client.wait_for(lambda c: c.statuses[-1]["bus"] == "up", 20, "up")
        assert await got(client, 2 * round_ + 3) == [*range(2 * round_ + 3)]
    assert not any(status.get("lost") for status in client.statuses), client.statuses
    assert scrape(one).sum("weirgate_bus_gaps_total") == 0
    back, answer = await subscribe(one, feed, ["A"], since=client.pos)
    assert recovered(feed.kind, answer) == (True, None), "a position from before an outage is good"
    back.abort()


async def test_what_is_stored_while_the_bus_is_away_at_the_start_comes_late(start, feed):
    """Clients are taken after 5 s. Nothing that is stored from then on was stored before them."""
    await feed.publish("A", 0)
    link = Link(feed.server.port)
    async with link.running():
        link.cut()
        url = feed.server.url.replace(str(feed.server.port), str(link.port))
        one = start(dataclasses.replace(feed, server=Url(url)))
        client, answer = await subscribe(one, feed, ["A"])
        assert "pos" not in answer, answer
        await feed.publish("A", 1, 2, 3)
        link.mend()
        await client.wait_for(lambda c: c.statuses and c.statuses[-1]["bus"] == "up", 20, "up")
        await feed.publish("A", 4)
        assert await got(client, 4) == [1, 2, 3, 4]
        late, answer = await subscribe(one, feed, ["A"], last=5)
        assert await got(late, 5) == [0, 1, 2, 3, 4], "the history has all"
    assert not any(status.get("lost") for status in client.statuses), client.statuses


async def test_a_frozen_server_loses_nothing(start, feed):
    """Silence is an outage after 3 s; the connections of before say nothing twice when the server goes on."""
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    await feed.publish("A", 0)
    await got(client, 1)
    feed.server.freeze()
    await client.wait_for(lambda c: c.statuses and c.statuses[-1]["bus"] == "away", 20, "away")
    feed.server.thaw()
    await feed.publish("A", 1, 2)
    await client.wait_for(lambda c: c.statuses[-1]["bus"] == "up", 20, "up")
    assert await got(client, 3) == [0, 1, 2]
    assert scrape(one).sum("weirgate_bus_gaps_total") == 0


async def test_a_pause_within_a_large_message_costs_nothing(start, feed):
    """The line stands still for 2 s in the middle of a message: the message is not read again."""
    size, back = 900_000, 0

    def count(data):
        nonlocal back
        if back < size / 3 <= back + len(data):
            link.black_hole()
            asyncio.get_running_loop().call_later(2, link.mend)
        back += len(data)
        return data
    port = feed.server.port
    async with Link(port, change=count).running() as link:
        far = dataclasses.replace(feed, server=Url(feed.server.url.replace(str(port), str(link.port))))
        weirgate = start(far)
        await ready(weirgate)
        client, _ = await subscribe(weirgate, feed, ["A"])
        back = 0
        await feed.publish("A", "x" * size, 1)
        assert await got(client, 2) == ["x" * size, 1]
    assert back < 1.5 * size and not any(answer.get("lost") for answer in client.answers)


@pytest.mark.parametrize("how", ["trim", "anew"])
async def test_what_the_stream_has_lost_is_told(start, feed, how):
    """Trimmed or purged, or deleted and made anew: the numbers of the new stream name other messages."""
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    await feed.publish("A", 0, 1, 2)
    await got(client, 3)
    before = client.pos
    one.send(signal.SIGSTOP)
    # What waits in the connection would not be lost.
    feed.server.kill()
    await asyncio.to_thread(feed.server.start)
    await feed.publish("A", 3, 4)
    await feed.lose(how)
    one.send(signal.SIGCONT)
    await client.wait_for(lambda c: any(status.get("lost") for status in c.statuses), 30, "the loss")
    await feed.publish("A", 5, 6)
    await client.wait_for(lambda c: c.values[-2:] == [5, 6], 20, "the messages behind")
    _, answer = await subscribe(one, feed, ["A"], since=before)
    assert recovered(feed.kind, answer)[0] is False, answer
    new = start(feed)
    _, answer = await subscribe(new, feed, ["A"], since=before)
    assert recovered(feed.kind, answer)[0] is False, answer
    late, answer = await subscribe(new, feed, ["A"], since=client.pos)
    assert recovered(feed.kind, answer) == (True, None), answer
    late.abort()


async def test_a_redis_stream_made_anew_with_lower_ids_is_sent_from_its_first_entry(start, redis_server):
    """The publisher's clock is behind, or its ids are its own. The new entries are there before weirgate sees them."""
    feed = OnRedis(CHANNELS, redis_server)
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    await feed.publish("A", 1, 2)
    await got(client, 2)
    pipe = redis_server.client().pipeline(transaction=True)
    pipe.delete(KEY)
    for price in (3, 4, 5):
        pipe.xadd(KEY, {"channel": feed.kind.channel("A"), "data": json.dumps({"price": price})}, id=f"{price}-0")
    pipe.execute()
    assert await got(client, 5) == [1, 2, 3, 4, 5]
    late, answer = await subscribe(one, feed, ["A"], last=2)
    assert await got(late, 2) == [4, 5] and "why" not in answer
    await client.wait_for(lambda c: any(status.get("lost") for status in c.statuses), 20, "the loss")


async def test_a_position_of_a_redis_stream_before_is_no_position_of_the_one_with_the_same_ids(start, redis_server):
    feed = OnRedis(CHANNELS, redis_server)
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    redis = redis_server.client()
    outcome = lambda answer, member: answer[member][feed.kind.channel("A")]

    def anew(*prices):
        pipe = redis.pipeline(transaction=True)
        pipe.delete(KEY)
        for at, price in enumerate(prices, 1):
            pipe.xadd(KEY, {"channel": feed.kind.channel("A"), "data": json.dumps({"price": price})}, id=f"{at}-1")
        pipe.execute()

    anew(1, 2)
    await got(client, 2)
    old = client.pos
    anew(3, 4, 5)
    assert await got(client, 5) == [1, 2, 3, 4, 5]
    await client.wait_for(lambda c: any(status.get("lost") for status in c.statuses), 20, "the loss")
    new = client.pos
    _, answer = await subscribe(one, feed, ["A"], since=old)
    assert outcome(answer, "why") == "gap"
    everything, answer = await subscribe(one, feed, ["A"], since=old, last="all")
    assert await got(everything, 3) == [3, 4, 5] and outcome(answer, "why") == "gap"
    _, answer = await subscribe(one, feed, ["A"], since=new)
    assert outcome(answer, "recovered") is True


@pytest.mark.parametrize("kind", [CHANNELS, TRADES], ids=lambda kind: kind.name)
async def test_a_position_whose_id_a_promoted_replica_gave_to_another_entry_is_no_position_there(start, redis_server, started, kind):
    """Publishers still write to the old master for a moment, and both give ids by the time."""
    started.append(RedisServer("--replicaof", "127.0.0.1", str(redis_server.port)))
    old, new = OnRedis(kind, redis_server), OnRedis(kind, started[-1])
    await old.publish("A", 0)
    is_there = lambda: new.server.client().info("replication")["master_link_status"] == "up" and new.server.client().xlen(KEY) == 1
    await until(is_there, 20, "replication")
    on_old, on_new = start(old), start(new)
    await ready(on_old, on_new)
    client, _ = await subscribe(on_old, old, ["A"])
    new.server.client().replicaof("NO", "ONE")
    [[first, _]] = redis_server.client().xrange(KEY)
    ms = int(first.split(b"-")[0])

    def add(feed, at, price):
        fields = {"channel": kind.channel("A"), "data": json.dumps({"price": price})}
        feed.server.client().xadd(KEY, fields, id=f"{ms + at}-0")
    for at, price in ((10, 1), (20, 2), (30, 3)):
        add(old, at, price)
    # The second one is the same on both.
    for at, price in ((5, 11), (10, 12), (20, 2), (30, 13)):
        add(new, at, price)
    await got(client, 3)
    positions = [message["pos"] for message in client.data]
    on_new_later = start(new)
    await ready(on_new_later)
    for instance in (on_new, on_new_later):
        known, _ = await subscribe(instance, new, ["A"], last=1)
        assert await got(known, 1) == [13]
        for pos, missed in ((positions[0], None), (positions[1], [13]), (positions[2], None), (known.pos, [])):
            again, answer = await subscribe(instance, new, ["A"], since=pos)
            assert recovered(kind, answer) == ((False, "epoch") if missed is None else (True, None)), answer
            assert await got(again, len(missed or [])) == (missed or [])
        if kind is CHANNELS:
            again, _ = await subscribe(instance, new, ["A"], since=positions[0], last="all")
            assert await got(again, 5) == [0, 11, 12, 2, 13]
            # It may lack later messages of the old master.
            await again.wait_for(lambda c: c.answers[-1]["type"] == "last", 20, "the end")
            assert again.answers[-1]["cut"] == "window"


class ClockAhead(Link):
    """A link on which the server's clock seems to be an hour ahead, until it is right."""

    def __init__(self, to_port):
        super().__init__(to_port, self._seen)
        self.is_ahead = True

    def _seen(self, data):
        if not self.is_ahead:
            return data
        later = lambda ns: b"%d" % (int(ns) + 3_600_000_000_000)
        data = re.sub(rb"(\$JS\.ACK\.\S+\.)(\d{19})(?=\.)", lambda found: found[1] + later(found[2]), data)
        hour = lambda text: (datetime.datetime.fromisoformat(text.decode()) + datetime.timedelta(hours=1)).isoformat().encode()
        return re.sub(rb'("last_ts":")(20\d\d-\d\d-\d\dT[\d:]{8})', lambda found: found[1] + hour(found[2]), data)


async def test_what_comes_after_a_loss_is_read_though_the_clock_was_ahead_before(start, start_nats):
    """As after a failover to a server whose clock is behind."""
    feed = OnNats(ON_NATS, start_nats())
    await feed.make()
    async with ClockAhead(int(feed.server.url.rsplit(":", 1)[1])).running() as link:
        one = start(OnNats(ON_NATS, Url(link.url)))
        await ready(one)
        client, _ = await subscribe(one, feed, ["A"])
        await feed.publish("A", 0, 1, 2)
        await got(client, 3)
        link.is_ahead = False
        await feed.lose("anew")
        await client.wait_for(lambda c: any(status.get("lost") for status in c.statuses), 30, "the loss")
        await feed.publish("A", 3, 4)
        assert await got(client, 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "older"])
@pytest.mark.parametrize("how", ["purged", "expired", "newest"])
async def test_what_is_gone_after_it_was_read_is_no_loss_over_a_restart_of_the_server(start, start_nats, how, is_read):
    """All messages or the newest, read or from before the start. The number of the newest message stays; nats-server 2.9.10
    forgets the time of one that was deleted."""
    feed = OnNats(ON_NATS, start_nats())
    await feed.make(max_age=2 if how == "expired" else None)
    connection = await nats_py.connect(feed.server.url)
    stream = connection.jetstream()

    async def remove():
        if how == "newest":
            return await stream.delete_msg(KEY, (await stream.stream_info(KEY)).state.last_seq)
        if how == "purged":
            await stream.purge_stream(KEY)
        while (await stream.stream_info(KEY)).state.messages > 0:
            await asyncio.sleep(0.1)
    await feed.publish("A", 0, 1)
    if not is_read:
        await remove()
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    if is_read:
        await feed.publish("A", 2, 3)
        await got(client, 2)
        await remove()
    await connection.close()
    feed.server.process.send(signal.SIGTERM)
    await client.wait_for(lambda c: c.statuses and c.statuses[-1]["bus"] == "away", 20, "away")
    await asyncio.to_thread(feed.server.start)
    await client.wait_for(lambda c: c.statuses[-1]["bus"] == "up", 20, "up again")
    await feed.publish("A", 4)
    await client.wait_for(lambda c: c.values[-1:] == [4], 20, "the message behind")
    assert not any(status.get("lost") for status in client.statuses), client.statuses
    assert scrape(one).sum("weirgate_bus_gaps_total") == 0


async def test_the_position_of_another_feed_is_bad(start, feed):
    one = start(feed)
    await ready(one)

    async def are_bad(**last):
        for since in ("s1.1.1", "m1.7f3a09c2b11e.1.1"):
            _, answer = await subscribe(one, feed, ["A"], since=since, **last)
            assert recovered(feed.kind, answer) == (False, "bad"), (since, last)

    last = ({}, {"last": "all"}) if feed.kind.name == "channels" else ({},)
    for more in last:
        await are_bad(**more)
    await feed.publish("A", 0)
    await until(lambda: scrape(one).sum("weirgate_history_messages") == 1, 20, "the message")
    for more in last:
        await are_bad(**more)
    client, _ = await subscribe(one, feed, ["A"])
    _, answer = await subscribe(one, feed, ["A"], since="s" + client.pos[1:].replace(client.pos[1], "1", 1) + "1")
    assert recovered(feed.kind, answer)[0] is False, answer


async def test_entries_that_are_no_messages_are_counted_and_nobody_notices(start, redis_server):
    """Also an entry for another gateway: of the stream's channels trades reads those of trades."""
    feed = OnRedis(TRADES, redis_server)
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    bus = redis_server.client()
    bad = bus.xadd(KEY, {"x": "y"})
    bus.xadd(KEY, {"channel": "market:tick:A", "data": "{}"})
    bus.xadd(KEY, {"channel": b"\xff", "data": "{}"})
    await feed.publish("A", 1)
    assert await got(client, 1) == [1]
    assert scrape(one).sum("weirgate_bus_messages_bad_total") == 2
    one.logs("bad message skipped", f'id="{bad.decode()}"', "no field channel")
    bus.delete(KEY)
    bus.set(KEY, "no stream")
    await until(lambda: "WRONGTYPE" in one.log_tail(), 20, "the reason")
    await client.wait_for(lambda c: c.statuses and c.statuses[-1]["bus"] == "away", 20, "away")


async def test_entries_deleted_after_they_were_read_are_no_loss(start, redis_server):
    """`XDEL` of the newest entry that was read, while older ones are left, and what comes then. An entry that was deleted
    unread, together with the newest that was read, is a loss."""
    feed = OnRedis(TRADES, redis_server)
    await feed.publish("A", *range(600))
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    bus = redis_server.client()
    for round_ in range(3):
        await feed.publish("A", 1_000 + round_)
        assert await got(client, round_ + 1) == [1_000 + past for past in range(round_ + 1)]
        [(newest, _)] = bus.xrevrange(KEY, count=1)
        assert bus.xdel(KEY, newest) == 1
        # The reader asks once a second.
        await asyncio.sleep(1.5 * round_)
    assert scrape(one).sum("weirgate_bus_gaps_total") == 0
    assert not any(status.get("lost") for status in client.statuses), client.statuses
    await feed.publish("A", 2_000)
    await got(client, 4)
    [(newest, _)] = bus.xrevrange(KEY, count=1)
    both = bus.pipeline(transaction=True)
    fields = {"channel": feed.kind.channel("A"), "data": "{}"}
    both.xadd(KEY, fields, id="9000000000000-1").xdel(KEY, newest, "9000000000000-1").execute()
    await client.wait_for(lambda c: any(status.get("lost") for status in c.statuses), 30, "the loss")


async def test_a_stream_may_hold_the_heartbeats_of_another_consumer(start, start_nats):
    """The deliver subject of a push consumer lies in the stream: JetStream stores the heartbeats as messages."""
    feed = OnNats(ON_NATS, start_nats())
    await feed.make()
    bus = await nats_py.connect(feed.server.url)
    stream = bus.jetstream()
    await stream.add_stream(StreamConfig(name="SOURCE", subjects=["source.>"]))
    listener = await bus.subscribe("market.copy")
    await stream.add_consumer("SOURCE", ConsumerConfig(
        durable_name="copy", deliver_subject="market.copy", idle_heartbeat=0.2, ack_policy="none"))

    async def stored():
        return (await stream.stream_info(KEY)).state
    while (await stored()).messages < 2:
        await asyncio.sleep(0.1)
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    before = (await stored()).messages
    while (await stored()).messages < before + 2:
        await asyncio.sleep(0.1)
    await feed.publish("A", 1, 2)
    assert await got(client, 2) == [1, 2]
    assert (await stored()).consumer_count == 1
    await listener.unsubscribe()
    await bus.close()


async def test_a_small_stream_with_a_fast_publisher_says_what_it_lost(start, redis_server):
    """The publisher trims what was not read: told as a loss, never silent."""
    feed = OnRedis(CHANNELS, redis_server)
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    await feed.publish("A", -1)
    await got(client, 1)
    lines = redis_server.client().pipeline(transaction=False)
    for n in range(20_000):
        lines.xadd(KEY, {"channel": "market:tick:A", "data": json.dumps({"price": n})}, maxlen=100, approximate=False)
    one.send(signal.SIGSTOP)
    lines.execute()
    one.send(signal.SIGCONT)
    await client.wait_for(lambda c: c.data and c.values[-1] == 19_999, 30, "the newest message")
    values = client.values
    holes = sum(later != earlier + 1 for earlier, later in zip(values, values[1:]))
    assert holes <= scrape(one).sum("weirgate_bus_gaps_total"), holes
    assert len(values) == len(set(values))


def test_the_right_to_read_is_checked_before_a_start(start_nats, redis_server):
    redis_server.client().execute_command("ACL", "SETUSER", "u", "on", ">p", "+@all", "-xread", "~*", "&*")
    nats = start_nats(config="""authorization { users = [ { user: u, password: p, permissions: {
        publish: ["$JS.API.STREAM.>"], subscribe: ["_INBOX.>"] } }, { user: a, password: a } ] }""")
    permitted = OnNats(ON_NATS, Url(nats.url.replace("//", "//a:a@")))
    asyncio.run(permitted.make())
    for feed, words in (
        (OnRedis(CHANNELS, Url(redis_server.url.replace("//", "//u:p@"))), "cannot read the stream ticks"),
        (OnNats(ON_NATS, Url(nats.url.replace("//", "//u:p@"))), "CONSUMER.CREATE.ticks"),
    ):
        status, lines = check("channels", *HISTORY, *feed.flags())
        assert status == 1 and has(lines, "error", words), lines
    for feed, words in ((OnRedis(CHANNELS, redis_server), "may read the stream ticks"),
                        (permitted, "may read the stream ticks")):
        asyncio.run(feed.publish("A", 1))
        status, lines = check("channels", *HISTORY, *feed.flags())
        assert status == 0 and has(lines, "ok", words), "\n".join(lines)


@pytest.mark.parametrize("given, lacking", [("$JS.ACK.>", "$JS.FC.>"), ("$JS.FC.>", "$JS.ACK.>")])
async def test_large_messages_and_one_consumer_without_the_optional_rights(start, start_nats, given, lacking):
    """The user may not answer flow control or acknowledge, and not delete consumers: everything comes all the same."""
    nats = start_nats(max_payload=2**20, config="""authorization { users = [ { user: u, password: p, permissions: {
        publish: ["$JS.API.STREAM.INFO.ticks", "$JS.API.CONSUMER.CREATE.ticks", "%s"], subscribe: ["_INBOX.>"] } }, { user: a, password: a } ] }""" % given)
    maker = OnNats(ON_NATS, Url(nats.url.replace("//", "//a:a@")))
    await maker.make()
    for number in range(8):
        await maker.publish("A", "x" * 900_000 + str(number))
    weirgate = start(OnNats(ON_NATS, Url(nats.url.replace("//", "//u:p@"))))
    await until(lambda: weirgate.ready_status() == 200, 20, "all messages are read")
    weirgate.logs(f"may not publish to {lacking}")
    assert "Slow Consumer" not in nats.process.log_tail()


async def test_a_stream_in_memory_with_holes_is_read_from_the_history_on(start_weirgate, start_nats):
    """nats-server 2.9.10 crashes while it looks for a time among numbers that are free."""
    feed = OnNats(ON_NATS, start_nats())
    await feed.make(storage="memory")
    await feed.publish("A", *range(10))
    connection = await nats_py.connect(feed.server.url)
    for number in range(3, 10):
        await connection.jetstream().delete_msg(KEY, number)
    await asyncio.sleep(21)
    await feed.publish("A", 10, 11)
    one = start_weirgate(feed.kind.name, "--history-ms", "20000", *feed.flags(), env={"DEFAULT_ROLE": "internal"})
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"], last=100)
    await feed.publish("A", 12)
    assert await got(client, 3) == [10, 11, 12]
    assert connection.stats["reconnects"] == 0
    await connection.close()


async def test_a_stream_that_comes_late_and_one_that_is_a_work_queue(start, start_nats):
    nats = start_nats()
    feed = OnNats(ON_NATS, nats)
    weirgate = start(feed)
    await until(lambda: "the stream ticks does not exist; make it: nats stream add ticks" in weirgate.log(), 10, "the reason")
    assert "cannot read the stream ticks yet; trying again" in weirgate.log() and "NATS is away" not in weirgate.log()
    await until(lambda: weirgate.ready_status() == 503, 10, "clients are taken without the stream")
    assert scrape(weirgate).sum("weirgate_bus_connected") == 1
    await feed.make()
    await until(lambda: weirgate.ready_status() == 200, 10, "the stream is there")
    connection = await nats_py.connect(nats.url)
    stream = connection.jetstream()
    assert len(await stream.consumers_info("ticks")) == 1
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 10) == 0
    assert await stream.consumers_info("ticks") == [], "a stop leaves no consumer behind"
    await stream.delete_stream("ticks")
    await stream.add_stream(name="ticks", subjects=["ticks.>"], retention="workqueue")
    other = start(feed)
    await until(lambda: "the stream ticks is a work queue (retention: workqueue)" in other.log(), 10, "the reason")
    await connection.close()


async def test_the_right_may_come_later(start_weirgate, redis_server):
    admin = redis_server.client()
    admin.execute_command("ACL", "SETUSER", "u", "on", ">p", "+@all", "-xread", "~*", "&*")
    one = start_weirgate("channels", *HISTORY, "--redis-url", redis_server.url.replace("//", "//u:p@"), "--stream", KEY)
    await until(lambda: "xread" in one.log_tail().lower(), 20, "the reason")
    admin.execute_command("ACL", "SETUSER", "u", "+xread")
    await ready(one)


async def test_the_command_adds_to_a_stream(start, redis_server):
    feed = OnRedis(CHANNELS, redis_server)
    one = start(feed)
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    told = await publish(redis_server.url, "market:tick:A", '{"price":{number}}', "--stream", KEY, "--count", "3")
    assert "published 3 messages on market:tick:A: stored in stream ticks, up to" in told[1], told
    assert await got(client, 3) == [1, 2, 3]


async def test_a_failover_of_the_stream_loses_nothing(start, start_nats):
    """A cluster of three: the server with the consumer, the leader of the stream or of JetStream, is killed."""
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = await asyncio.gather(*(asyncio.to_thread(start_nats, config=f"""
        server_name: n{index}
        cluster {{ name: test, listen: "127.0.0.1:{port}", routes: [{routes}] }}
        """) for index, port in enumerate(ports)))
    feed = OnNats(ON_NATS, servers[0], replicas=3)

    def made():
        try:
            return asyncio.run(feed.make())
        except (nats_py.errors.Error, asyncio.TimeoutError):
            return None
    await until(made, 60, "a leader of JetStream")
    one = start(OnNats(ON_NATS, Url(",".join(server.url for server in servers))))
    await ready(one)
    client, _ = await subscribe(one, feed, ["A"])
    bus = await nats_py.connect([server.url for server in servers], max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    stream = bus.jetstream(timeout=2)
    sent, killed = [], None
    for n in range(60):
        if n == 20:
            leader = (await stream.stream_info(KEY)).cluster.leader
            killed = servers[int(leader[1:])]
            killed.kill()
        while True:
            try:
                await stream.publish("market.tick.A", json.dumps({"price": n}).encode(), headers={"Nats-Msg-Id": str(n)})
                break
            except (nats_py.errors.Error, asyncio.TimeoutError, OSError):
                await asyncio.sleep(0.1)
        sent.append(n)
        await asyncio.sleep(0.02)
    await bus.close()
    assert await got(client, len(sent)) == sent
    assert scrape(one).sum("weirgate_bus_gaps_total") == 0

