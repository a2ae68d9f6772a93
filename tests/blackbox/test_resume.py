"""`--history-ms`: a client that was away gets what it missed from whichever instance, or is told that it does not."""
import asyncio
import json
import signal

import clients
import nats as nats_py
import pytest
import redis
from event_stream import Stream
from processes import RedisServer
from prometheus import scrape
from redis_gateways import BOTH, CHANNELS, TRADES
from test_check import check, has
from waiting import until

HISTORY = ("--history-ms", "60000")
KEPT = ("--history-names", "market:*")
SHARED = "weirgate_positions_shared"


class Reader(clients.Client):
    """A client that keeps answers, data and statuses apart, and the newest position."""

    def __init__(self, *args):
        super().__init__(*args)
        self.answers, self.data, self.statuses, self.pos = [], [], [], None

    def take(self, opcode, payload):
        super().take(opcode, payload)
        if opcode == clients.TEXT:
            message = json.loads(payload)
            self.pos = message.get("pos", self.pos)
            kinds = {"data": self.data, "trade": self.data, "status": self.statuses}
            kinds.get(message["type"], self.answers).append(message)

    @property
    def values(self):
        return [message["data"]["price"] for message in self.data]


def flags_of(kind):
    return (*HISTORY, *KEPT) if kind is CHANNELS else HISTORY


def start(start_weirgate, kind, redis, *more):
    return start_weirgate(kind.name, *flags_of(kind), *more, redis=redis, env={"DEFAULT_ROLE": "internal"})


async def shares(*instances):
    """Waits until the positions of each instance are valid on the others."""
    for one in instances:
        await asyncio.to_thread(one.wait_ready)
        await until(lambda: scrape(one).sum(SHARED) == 1, 10, f"shared positions\n{one.log_tail()}")


async def subscribe(instance, kind, names, **since):
    """A new client that has asked for these names, and the answer."""
    client = await clients.connect(instance.port, path=kind.path, make=Reader)
    client.say({**kind.subscribe(names), **since})
    await client.wait_for(lambda c: any(a["type"] == kind.subscribed and "clientId" not in a and
                                        "serverId" not in a.get("data", {}) for a in c.answers), 20, "the answer")
    return client, client.answers[-1]


def publish(redis, kind, name, *prices):
    client = redis.client()
    for price in prices:
        client.publish(kind.channel(name), json.dumps({"price": price}))


def recovered(kind, answer):
    """Whether all names of an answer were resumed, and why not."""
    if kind is TRADES:
        return answer["data"]["recovered"], answer["data"].get("why")
    reasons = set(answer.get("why", {}).values())
    return all(answer["recovered"].values()), reasons.pop() if reasons else None


async def got(client, count):
    await client.wait_for(lambda c: len(c.data) >= count, 20, f"{count} messages")
    return client.values


@pytest.fixture(params=BOTH, ids=lambda kind: kind.name)
def kind(request):
    return request.param


async def test_an_instance_is_killed_and_the_other_knows_what_was_missed(start_weirgate, redis_server, kind):
    """Also of a name that was quiet for long, and of one on which nothing ever came."""
    one, other = (start(start_weirgate, kind, redis_server) for _ in range(2))
    await shares(one, other)
    client, answer = await subscribe(one, kind, ["A", "QUIET", "NEVER"])
    assert "pos" in answer
    publish(redis_server, kind, "QUIET", 7)
    publish(redis_server, kind, "A", *range(3))
    publish(redis_server, kind, "B", 100)
    await until(lambda: len(client.data) == 4, 10, "live messages")
    one.kill()
    publish(redis_server, kind, "A", *range(3, 6))
    publish(redis_server, kind, "B", 101)
    for round_ in range(3):
        client, answer = await subscribe(other, kind, ["A", "QUIET", "NEVER"], since=client.pos)
        assert recovered(kind, answer) == (True, None), answer
        assert "pos" not in answer, "the missed messages say where the client is"
        publish(redis_server, kind, "A", 6 + round_)
        wanted = [3, 4, 5, 6] if round_ == 0 else [6 + round_]
        assert await got(client, len(wanted)) == wanted
        client.abort()
    assert scrape(other).sum("weirgate_resumes_total", outcome="recovered") == 9, "three names, three times"


async def test_a_stop_tells_the_last_position_and_a_new_instance_takes_it(start_weirgate, redis_server, kind):
    """A roll: the new instance is there for a moment only, and the client's names were quiet."""
    one = start(start_weirgate, kind, redis_server)
    await shares(one)
    client, _ = await subscribe(one, kind, ["QUIET"])
    before = client.pos
    other = start(start_weirgate, kind, redis_server)
    await shares(other)
    # The first mark of the new instance reaches the old one.
    await asyncio.sleep(0.2)
    one.send(signal.SIGTERM)
    await asyncio.wait_for(client.ended, 60)
    assert client.statuses and client.pos not in (None, before)
    publish(redis_server, kind, "QUIET", 1)
    client, answer = await subscribe(other, kind, ["QUIET"], since=client.pos)
    assert recovered(kind, answer) == (True, None), answer
    assert await got(client, 1) == [1]
    # A position of before the new instance is in doubt.
    client, answer = await subscribe(other, kind, ["QUIET"], since=before)
    assert recovered(kind, answer)[0] is False and client.data == []


async def test_a_loss_of_the_bus_is_told_and_no_resume_hides_it(start_weirgate, redis_server, kind):
    one = start(start_weirgate, kind, redis_server)
    await shares(one)
    client, _ = await subscribe(one, kind, ["A"])
    publish(redis_server, kind, "A", 1)
    assert await got(client, 1) == [1]
    before = client.pos
    redis_server.kill()
    await client.wait_for(lambda c: c.statuses, 20, "the loss told")
    away = client.statuses[0]
    assert (away["bus"], away["lost"], "pos" in away) == ("away", True, False)
    _, answer = await subscribe(one, kind, ["A"], since=before)
    assert recovered(kind, answer) == (False, "gap") and "pos" not in answer
    await asyncio.to_thread(redis_server.start)
    await client.wait_for(lambda c: c.statuses[-1]["bus"] == "up", 20, "the return told")
    assert "lost" not in client.statuses[-1] and client.statuses[-1]["pos"]
    _, answer = await subscribe(one, kind, ["A"], since=before)
    assert recovered(kind, answer) == (False, "gap")
    await shares(one)
    publish(redis_server, kind, "A", 2)
    assert await got(client, 2) == [1, 2]
    client, answer = await subscribe(one, kind, ["A"], since=client.pos)
    assert recovered(kind, answer) == (True, None)


async def test_without_the_right_to_publish_marks_a_client_resumes_on_its_own_instance(start_weirgate, redis_server, kind):
    admin = redis_server.client()
    admin.acl_setuser("gate", enabled=True, passwords=["+secret"], keys=[], channels=["channel:trade:*", "market:*"],
                      commands=["+@all", "-publish"], reset=True)
    admin.acl_setuser("reader", enabled=True, passwords=["+secret"], channels=["*"], commands=["+@all", "-publish"], reset=True)
    for user, line in (("gate", "may not subscribe to the marks"), ("reader", "may not publish marks")):
        url = redis_server.url.replace("://", f"://{user}:secret@")
        one = start_weirgate(kind.name, *flags_of(kind), env={"REDIS_URL": url, "DEFAULT_ROLE": "internal"}).wait_ready()
        client, _ = await subscribe(one, kind, ["A"])
        await until(lambda: one.lines_with(line), 10, line)
        client.abort()
        publish(redis_server, kind, "A", 1)
        back, answer = await subscribe(one, kind, ["A"], since=client.pos)
        assert recovered(kind, answer) == (True, None), answer
        assert await got(back, 1) == [1]
        assert scrape(one).sum(SHARED) == 0
        other = start(start_weirgate, kind, redis_server)
        await asyncio.to_thread(other.wait_ready)
        _, answer = await subscribe(other, kind, ["A"], since=client.pos)
        assert recovered(kind, answer) == (False, "epoch")
        assert len(one.lines_with(line)) == 1, "once"
        for instance in (one, other):
            instance.kill()


async def test_a_replica_gives_no_positions(start_weirgate, redis_server, started, kind):
    """It may be filled anew from its master: messages are lost, and no connection ends."""
    replica = RedisServer("--replicaof", "127.0.0.1", str(redis_server.port))
    started.append(replica)
    await until(lambda: replica.client().info("replication")["master_link_status"] == "up", 20, "replication")
    on_master, on_replica = (start(start_weirgate, kind, redis) for redis in (redis_server, replica))
    await shares(on_master)
    await asyncio.to_thread(on_replica.wait_ready)
    client, _ = await subscribe(on_replica, kind, ["A"])
    publish(replica, kind, "A", 1)
    publish(redis_server, kind, "A", 2)
    assert await got(client, 2) == [1, 2]
    assert client.pos is None
    known, _ = await subscribe(on_master, kind, ["A"])
    publish(redis_server, kind, "A", 3)
    # The instance on the master may get to the message before only now.
    await known.wait_for(lambda c: c.values[-1:] == [3], 20, "the newest message")
    _, answer = await subscribe(on_replica, kind, ["A"], since=known.pos)
    assert recovered(kind, answer) == (False, "off")
    if kind is CHANNELS:
        _, answer = await subscribe(on_replica, kind, ["A"], status=True)
        assert {name: brings["from"] for name, brings in answer["brings"].items()} == {kind.channel("A"): "live"}
    assert scrape(on_replica).sum(SHARED) == 0
    assert len(on_replica.lines_with("messages have no positions")) == 1
    status, lines = check(kind.name, *flags_of(kind), "--redis-url", replica.url)
    assert status == 0 and has(lines, "warning", "--stream"), lines


async def test_a_replica_that_is_filled_anew_is_a_loss(start_weirgate, redis_server, started, kind):
    """Its subscribers stay connected, and it has nothing that was published before."""
    replica = RedisServer("--replicaof", "127.0.0.1", str(redis_server.port))
    started.append(replica)
    is_up = lambda: replica.client().info("replication")["master_link_status"] == "up"  # noqa: E731
    await until(is_up, 20, "replication")
    one = start(start_weirgate, kind, replica)
    await asyncio.to_thread(one.wait_ready)
    client, _ = await subscribe(one, kind, ["A"])
    publish(redis_server, kind, "A", 1)
    assert await got(client, 1) == [1]
    # No loss: the replica goes on where it was.
    assert redis_server.client().client_kill_filter(_type="replica") == 1
    await asyncio.sleep(2.5)
    await until(is_up, 20, "replication again")
    assert scrape(one).sum("weirgate_bus_gaps_total") == 0
    other = RedisServer()
    started.append(other)
    replica.client().replicaof("127.0.0.1", other.port)
    await until(lambda: scrape(one).sum("weirgate_bus_gaps_total") > 0, 20, "the loss")
    await until(is_up, 20, "replication from the other")
    # Once it is there, once more with the link: what came in between is gone too.
    await asyncio.sleep(1.5)
    publish(other, kind, "A", 2)
    assert await got(client, 2) == [1, 2]
    if kind is CHANNELS:
        assert client.data[-1]["seq"] > client.data[0]["seq"] + 1
    await client.wait_for(lambda c: any(status.get("lost") for status in c.statuses), 20, "the word")


@pytest.mark.parametrize("may_publish", [True, False])
async def test_a_master_that_becomes_a_replica_ends_the_positions(start_weirgate, redis_server, started, kind, may_publish):
    """Its subscribers stay connected."""
    admin = redis_server.client()
    commands = ["+@all"] if may_publish else ["+@all", "-publish"]
    admin.acl_setuser("reader", enabled=True, passwords=["+secret"], channels=["*"], commands=commands, reset=True)
    url = redis_server.url.replace("://", "://reader:secret@")
    one = start_weirgate(kind.name, *flags_of(kind), env={"REDIS_URL": url, "DEFAULT_ROLE": "internal"})
    await asyncio.to_thread(one.wait_ready)
    client, _ = await subscribe(one, kind, ["A"])
    publish(redis_server, kind, "A", 1)
    assert await got(client, 1) == [1]
    other = RedisServer()
    started.append(other)
    admin.replicaof("127.0.0.1", other.port)
    await until(lambda: one.lines_with("messages have no positions"), 20, "the new role")
    await asyncio.to_thread(one.wait_ready)
    await client.wait_for(lambda c: any(status.get("lost") for status in c.statuses), 20, "the word about the loss")
    _, answer = await subscribe(one, kind, ["A"], since=client.pos)
    assert recovered(kind, answer) == (False, "off")


async def test_an_instance_that_may_not_publish_takes_no_marks_of_others(start_weirgate, redis_server, kind):
    """Nobody would tell the instance that its server became a replica."""
    admin = redis_server.client()
    admin.acl_setuser("reader", enabled=True, passwords=["+secret"], channels=["*"], commands=["+@all", "-publish"], reset=True)
    url = redis_server.url.replace("://", "://reader:secret@")
    other = start(start_weirgate, kind, redis_server)
    await shares(other)
    one = start_weirgate(kind.name, *flags_of(kind), env={"REDIS_URL": url, "DEFAULT_ROLE": "internal"})
    await asyncio.to_thread(one.wait_ready)
    await until(lambda: one.lines_with("may not publish marks"), 10, "the refusal")
    # Some marks of the other instance.
    await asyncio.sleep(2.5)
    client, _ = await subscribe(one, kind, ["A"])
    publish(redis_server, kind, "A", 1)
    assert await got(client, 1) == [1]
    assert scrape(one).sum(SHARED) == 0
    _, answer = await subscribe(other, kind, ["A"], since=client.pos)
    assert recovered(kind, answer) == (False, "epoch")
    _, answer = await subscribe(one, kind, ["A"], since=client.pos)
    assert recovered(kind, answer) == (True, None)


def starts_failover(sentinel):
    """Whether the sentinel took the order: a replica that is new, or did not answer for a while, is none to promote yet."""
    try:
        return redis.Redis(port=sentinel).execute_command("SENTINEL", "failover", "main")
    except redis.ResponseError as refusal:
        assert "NOGOODSLAVE" in str(refusal), refusal
        return False


async def test_after_a_failover_positions_are_shared_on_the_new_master(start_weirgate, redis_server, sentinel, started, kind):
    """What was published before is in doubt: a replica may lack some of it."""
    replica = RedisServer("--replicaof", "127.0.0.1", str(redis_server.port))
    started.append(replica)
    await until(lambda: replica.client().info("replication")["master_link_status"] == "up", 20, "replication")
    env = {"REDIS_SENTINELS": f"127.0.0.1:{sentinel}", "REDIS_SENTINEL_MASTER": "main", "DEFAULT_ROLE": "internal"}
    one, other = (start_weirgate(kind.name, *flags_of(kind), env=env) for _ in range(2))
    await shares(one, other)
    client, _ = await subscribe(one, kind, ["A"])
    publish(redis_server, kind, "A", 1)
    assert await got(client, 1) == [1]
    before = client.pos
    await until(lambda: starts_failover(sentinel), 60, "a replica that the sentinel finds good enough")
    await client.wait_for(lambda c: any(s["bus"] == "away" for s in c.statuses), 40, "the loss told")
    await client.wait_for(lambda c: c.statuses[-1]["bus"] == "up", 40, "the return told")
    for each in (one, other):
        await until(lambda: scrape(each).sum("weirgate_bus_reconnects_total") == 1, 40, "both on the new master")
    await shares(one, other)
    publish(replica, kind, "A", 2)
    assert await got(client, 2) == [1, 2]
    back, answer = await subscribe(other, kind, ["A"], since=client.pos)
    assert recovered(kind, answer) == (True, None), "the marks are those of the new master"
    _, answer = await subscribe(other, kind, ["A"], since=before)
    assert recovered(kind, answer)[0] is False
    publish(replica, kind, "A", 3)
    assert await got(back, 1) == [3]


async def test_marks_reach_no_client_and_junk_among_them_is_nothing(start_weirgate, redis_server):
    one = start_weirgate("channels", *HISTORY, "--history-names", "market:*", redis=redis_server, env={"DEFAULT_ROLE": "internal"})
    await shares(one)
    client = await clients.connect(one.port, path="/ws", make=Reader)
    client.say({"action": "subscribe", "channels": ["*", "weirgate:*", "weirgate:mark"]})
    await client.wait_for(lambda c: len(c.answers) == 2, 10, "the answer")
    assert client.answers[1]["errors"] == ["Access denied to channel: weirgate:mark"]
    publisher = redis_server.client()
    for junk in (b"", b"x", b"\xff" * 100, b"000000000001.1", b"000000000001.1", b"0" * 1_000_000):
        publisher.publish("weirgate:mark", junk)
    reader, _ = await subscribe(one, CHANNELS, ["A"])
    publish(redis_server, CHANNELS, "A", 1)
    assert await got(reader, 1) == [1]
    _, answer = await subscribe(one, CHANNELS, ["A"], since=reader.pos)
    assert recovered(CHANNELS, answer) == (True, None)
    await asyncio.sleep(1.5)
    assert [message["channel"] for message in client.data] == ["market:tick:A"], "by the pattern *, without a position"
    assert "pos" not in client.data[0]


async def test_without_a_history_too_no_client_gets_the_marks_of_other_instances(start_weirgate, redis_server):
    """Their names, and a pattern that matches the channel: as in a deploy that adds `--history-ms`."""
    one = start(start_weirgate, TRADES, redis_server)
    live = start_weirgate("channels", redis=redis_server, env={"DEFAULT_ROLE": "internal"})
    redis_server.client().xadd("ticks", {"channel": "other", "data": "1"})
    stream = start_weirgate("channels", *HISTORY, "--stream", "ticks", redis=redis_server, env={"DEFAULT_ROLE": "internal"})
    await shares(one)
    for instance in (live, stream):
        instance.wait_ready()
        client = await clients.connect(instance.port, path="/ws", make=Reader)
        client.say({"action": "subscribe", "channels": ["*", "weirgate:*", "weirgate:mark"]})
        await client.wait_for(lambda c: len(c.answers) == 2, 10, "the answer")
        assert client.answers[1]["errors"] == ["Access denied to channel: weirgate:mark"]
        await asyncio.sleep(2.5)
        redis_server.client().publish("other", 2)
        redis_server.client().xadd("ticks", {"channel": "other", "data": "2"})
        await client.wait_for(lambda c: c.data, 10, "a message of another channel")
        assert {message["channel"] for message in client.data} == {"other"}


async def test_a_role_that_lost_the_right_resumes_nothing(start_weirgate, redis_server, tmp_path):
    table = tmp_path / "roles.json"
    table.write_text(json.dumps({"internal": ["market:*"]}))
    one = start(start_weirgate, CHANNELS, redis_server, "--acl", str(table))
    await shares(one)
    client, _ = await subscribe(one, CHANNELS, ["A"])
    client.abort()
    publish(redis_server, CHANNELS, "A", 1)
    table.write_text(json.dumps({"internal": ["other"]}))
    one.send(signal.SIGHUP)
    await until(lambda: "SIGHUP: " in one.log(), 10, "the table read again")
    back, answer = await subscribe(one, CHANNELS, ["A"], since=client.pos)
    assert answer["errors"] == ["Access denied to channel: market:tick:A"]
    assert answer["recovered"] == {} and back.data == []


async def test_a_hundred_requests_with_bad_positions_disturb_nobody(start_weirgate, redis_server, kind):
    one = start(start_weirgate, kind, redis_server)
    await shares(one)
    stays, _ = await subscribe(one, kind, ["A"])
    loud, _ = await subscribe(one, kind, ["B"])
    tokens = ["", "m", "0" * 64, "m" * 65, stays.pos[:-1], stays.pos + ".0", "\u0000", 5, 1.5, True, [], {}, "s1.2"]
    # A symbol that is held: every answer is the same.
    for n in range(100):
        loud.say({**kind.subscribe(["B"]), "since": tokens[n % len(tokens)]})
    await loud.wait_for(lambda c: len(c.answers) >= 101, 20, "an answer to each")
    assert all(recovered(kind, answer)[0] is False for answer in loud.answers[2:])
    publish(redis_server, kind, "A", 1)
    assert await got(stays, 1) == [1]


async def test_an_event_stream_says_where_it_was_when_it_comes_back(start_weirgate, redis_server, kind):
    """`id:` is the position, and `Last-Event-ID` the `since` of each request in the query; statuses have it too."""
    one, other = (start(start_weirgate, kind, redis_server, "--event-stream") for _ in range(2))
    await shares(one, other)
    sends = [kind.subscribe(["A"]), kind.subscribe(["B"])]
    stream = Stream(one.port, kind.path, sends=sends)
    # The last answer.
    answer = await asyncio.to_thread(stream.until, lambda value: "pos" in value)
    assert answer["type"] == kind.subscribed and "B" in json.dumps(answer)
    publish(redis_server, kind, "A", 1)
    first = await asyncio.to_thread(stream.until, lambda value: value["type"] in ("data", "trade"))
    assert first["pos"] == stream.last_id
    one.kill()
    publish(redis_server, kind, "B", 2)
    publish(redis_server, kind, "A", 3)
    back = Stream(other.port, kind.path, f"Last-Event-ID: {stream.last_id}", sends=sends)
    got = [json.loads(back.event()[1]) for _ in range(5 if kind is CHANNELS else 5)]
    prices = [message["data"]["price"] for message in got if message["type"] in ("data", "trade")]
    assert sorted(prices) == [2, 3], got
    answers = [answer for answer in got if answer["type"] == kind.subscribed and "recovered" in json.dumps(answer)]
    assert [recovered(kind, answer) for answer in answers] == [(True, None)] * 2
    # An id that is no position, and a `since` of the request, which counts more.
    broken = Stream(other.port, kind.path, "Last-Event-ID: junk", sends=[sends[0], {**sends[1], "since": stream.last_id}])
    got = [json.loads(broken.event()[1]) for _ in range(4)]
    answers = [answer for answer in got if "recovered" in json.dumps(answer)]
    assert [recovered(kind, answer) for answer in answers] == [(False, "bad"), (True, None)]
    for each in (stream, back, broken):
        each.close()


async def test_on_nats_a_client_resumes_on_the_same_connection_of_the_bus(start_weirgate, start_nats):
    """Two connections to NATS may see another order, so another instance knows nothing."""
    nats = start_nats()
    names = ("--history-names", "market.*", "--bus", nats.url, "--bus-settle-ms", "0")
    one, other = (start_weirgate("channels", *HISTORY, *names, env={"DEFAULT_ROLE": "internal"}).wait_ready() for _ in range(2))

    async def ask(instance, **since):
        client = await clients.connect(instance.port, path="/ws", make=Reader)
        client.say({"action": "subscribe", "channels": ["market.*", "market.a"], **since})
        await client.wait_for(lambda c: len(c.answers) == 2, 20, "the answer")
        return client, client.answers[1]

    client, _ = await ask(one)
    bus = await nats_py.connect(nats.url)
    await bus.publish("market.a", b'{"price": 1}')
    assert await got(client, 2) == [1, 1], "for the name and for the pattern"
    client.abort()
    for price in (2, 3):
        await bus.publish("market.a", json.dumps({"price": price}).encode())
    await bus.flush()
    await until(lambda: scrape(one).sum("weirgate_history_messages") == 3, 10, "three messages")
    back, answer = await ask(one, since=client.pos)
    assert answer["recovered"] == {"market.*": True, "market.a": True}
    assert await got(back, 4) == [2, 2, 3, 3]
    _, answer = await ask(other, since=client.pos)
    assert answer["why"] == {"market.*": "epoch", "market.a": "epoch"}
    await bus.close()
