"""`weirgate channels` on NATS: what clients get, what they are refused, and what an outage tells them."""
import asyncio
import json
import urllib.request

import clients
import nats as nats_py
import pytest
from processes import free_port
from prometheus import scrape
from redis_gateways import CHANNELS
from waiting import until

EVERYTHING = {"DEFAULT_ROLE": "internal"}


class Reader(clients.Client):
    """A client that keeps answers and data apart; `missing` counts the numbers that it saw skipped."""

    def __init__(self, *args):
        super().__init__(*args)
        self.answers, self.data = [], []
        self.missing, self._seq = 0, 0

    def take(self, opcode, payload):
        super().take(opcode, payload)
        if opcode != clients.TEXT:
            return
        message = json.loads(payload)
        self.missing += message["seq"] - self._seq - 1
        self._seq = message["seq"]
        (self.data if message["type"] == "data" else self.answers).append(message)

    def short(self):
        """(channel, pattern, data) of what came, in its order."""
        return [(m["channel"], m["pattern"], m["data"]) for m in self.data]

    async def ask(self, action, *names):
        """The response to a request."""
        count = len(self.answers)
        self.say({"action": action, "channels": list(names)})
        await self.wait_for(lambda c: len(c.answers) > count, 20, "a response")
        return self.answers[count]


async def connect(weirgate, *names):
    """A client that has been told that these names are granted."""
    client = await clients.connect(weirgate.port, path=CHANNELS.path, make=Reader)
    await client.wait_for(lambda c: c.answers, 20, "connected")
    if names:
        answer = await client.ask("subscribe", *names)
        assert answer["channels"] == list(names) and answer["errors"] == [], answer
    return client


@pytest.fixture
def on_nats(start_weirgate):
    """on_nats(server, *flags, env=…): a gateway on this server, ready."""
    def start(server, *flags, env=EVERYTHING, url=None):
        weirgate = start_weirgate("channels", "--bus", url or server.url, *flags, env=env)
        return weirgate.wait_ready()
    return start


async def bus(server, **kwargs):
    """A NATS client that publishes."""
    return await nats_py.connect(kwargs.pop("url", server.url), allow_reconnect=False, connect_timeout=5, **kwargs)


async def say(connection, subject, value):
    """One JSON message; it has reached the server."""
    await connection.publish(subject, json.dumps(value).encode())
    await connection.flush()


def waiting_changes(weirgate):
    """Changes of interest that the server has not answered."""
    return scrape(weirgate).sum("weirgate_subscription_changes")


async def test_names_patterns_and_both(nats, on_nats):
    """One copy for each matching subscription of the client's own, whatever others hold."""
    weirgate = on_nats(nats)
    exact, pattern, both = [await connect(weirgate, *names) for names in (
        ["a.b"], ["a.*"], ["a.b", "a.*", "a.>"])]
    publisher = await bus(nats)
    await say(publisher, "a.b", {"n": 1.50})
    await say(publisher, "a.c.d", 2)
    await say(publisher, "a.c", 3)
    await publisher.publish("a.b", b"no json", headers={"X": "y"})
    await publisher.publish("a.b", b"")
    await say(publisher, "a.b", "end")
    for client, count in ((exact, 3), (pattern, 4), (both, 12)):
        await client.wait_for(lambda c, count=count: len(c.data) == count, 10, "its messages")
    assert exact.short() == [("a.b", None, {"n": 1.5}), ("a.b", None, {"raw": "no json"}), ("a.b", None, "end")]
    assert pattern.short() == [("a.b", "a.*", {"n": 1.5}), ("a.c", "a.*", 3), ("a.b", "a.*", {"raw": "no json"}),
                               ("a.b", "a.*", "end")]
    assert sorted(both.short(), key=str) == sorted(
        [("a.b", p, d) for p in (None, "a.*", "a.>") for d in ({"n": 1.5}, {"raw": "no json"}, "end")]
        + [("a.c.d", "a.>", 2), ("a.c", "a.*", 3), ("a.c", "a.>", 3)], key=str)
    assert [c.missing for c in (exact, pattern, both)] == [0, 0, 0]
    health = weirgate.health()
    assert health["nats_connected"] is True and "redis_connected" not in health
    await publisher.close()


async def test_roles_and_subjects_that_are_none(nats, on_nats):
    """The table of roles with dots, and names that NATS would not take."""
    weirgate = on_nats(nats, env={})
    client = await connect(weirgate, "market.tick", "market.tick.NIFTY", "market.tick.*", "indicators.>")
    answer = await client.ask("subscribe", "market.*", ">", "engine.signal", "market:tick", "a..b", "a b", "market.tick.x*",
                              "market.>.x", "x\r\nSUB secret 1")
    assert answer["channels"] == []
    assert answer["errors"] == [
        "Access denied to channel: market.*", "Access denied to channel: >", "Access denied to channel: engine.signal",
        "Access denied to channel: market:tick", "Invalid subject: a..b", "Invalid subject: a b",
        "Invalid subject: market.tick.x*", "Invalid subject: market.>.x", "Invalid subject: x\r\nSUB secret 1"]
    assert client.open


async def test_what_the_server_does_not_permit(start_nats, on_nats):
    """The client is told that it is subscribed, and then that the bus refuses the name; the refusal is counted and logged."""
    server = start_nats(config="""authorization { users: [
        { user: gw, password: p, permissions: { subscribe: { deny: "secret.>" } } }
        { user: feed, password: f } ] }""")
    weirgate = on_nats(server, url=server.url.replace("://", "://gw:p@"))
    client = await connect(weirgate, "secret.a", "open.a")
    publisher = await bus(server, user="feed", password="f")
    await say(publisher, "secret.a", 1)
    await say(publisher, "open.a", 2)
    await client.wait_for(lambda c: c.data, 10, "what is open")
    assert client.short() == [("open.a", None, 2)]
    assert [m["error"] for m in client.answers if m["type"] == "error"] == ["Refused by the bus: secret.a"]
    await until(lambda: scrape(weirgate).sum("weirgate_bus_subscriptions_refused_total") == 1, 10, "weirgate_bus_subscriptions_refused_total")
    weirgate.logs("NATS refused a subscription", "secret.a")
    assert "gw:p@" not in weirgate.log()
    await publisher.close()


async def test_names_over_the_subscriptions_of_the_server_are_told_and_asked_for_again(start_nats, on_nats):
    """A server with room for 5: the clients of the others hear of it, and get messages as soon as a name is given up."""
    server = start_nats(config="max_subscriptions: 5")
    weirgate = on_nats(server)
    publisher = await bus(server)
    holds, waits = await connect(weirgate), await connect(weirgate)
    assert (await holds.ask("subscribe", *"abcde"))["channels"] == [*"abcde"]
    assert (await waits.ask("subscribe", *"fgh"))["channels"] == [*"fgh"]
    errors = lambda client: sorted(m["error"] for m in client.answers if m["type"] == "error")
    await waits.wait_for(lambda c: errors(c) == [f"Refused by the bus: {name}" for name in "fgh"], 10, "the errors")
    assert errors(holds) == [] and scrape(weirgate).sum("weirgate_bus_subscriptions_refused_total") == 3
    weirgate.logs("NATS refused a subscription")

    async def come(names):
        """Which of the names get messages."""
        before = len(waits.data)
        for name in "fgh":
            await say(publisher, name, 1)
        await waits.ask("ping")
        await waits.wait_for(lambda c: len(c.data) - before >= names, 5, f"messages of {names} names")
        assert len(waits.data) - before == names
    await come(0)
    for given_up, names in (("a", 1), ("b", 2)):
        await holds.ask("unsubscribe", given_up)
        await until(lambda: waiting_changes(weirgate) == 0, 10, "asked again")
        await come(names)
    assert holds.open and waits.missing == 0 and len(errors(waits)) == 3
    await holds.ask("unsubscribe", *"cde")
    await until(lambda: waiting_changes(weirgate) == 0, 10, "asked again")
    await come(3)
    await publisher.close()


async def test_a_name_without_positions_is_not_said_to_be_kept(nats, on_nats):
    """Core NATS gives positions only where the operator says that one server has all publishers."""
    for flags, expected in ((("--bus-settle-ms", "0"), "kept"), ((), "live")):
        weirgate = on_nats(nats, "--history-ms", "60000", "--history-names", "kept.>", *flags)
        client = await connect(weirgate)
        client.say({"action": "subscribe", "channels": ["kept.a"], "status": True})
        await client.wait_for(lambda c: any("brings" in answer for answer in c.answers), 20, "the answer")
        [brings] = [answer["brings"]["kept.a"] for answer in client.answers if "brings" in answer]
        assert (brings["from"], "reach_ms" in brings) == (expected, expected == "kept")


async def test_a_right_that_is_taken_away_is_a_loss(start_nats, on_nats):
    """Of a kept name everybody hears, and no resume hides the hole; of another name its members miss a number. Who holds the name gets
    an error."""
    def config(*taken):
        rights = ", ".join(f'"{name}"' for name in ("kept.>", "plain.a", "open.>", "_INBOX.>") if name not in taken)
        gateway = f"{{ user: gw, password: p, permissions: {{ subscribe: [{rights}] }} }}"
        return f"authorization {{ users: [{gateway}, {{ user: feed, password: f }}] }}"
    server = start_nats(config=config())
    history = ("--history-ms", "60000", "--history-names", "kept.>", "--history-names", "open.>", "--bus-settle-ms", "0")
    weirgate = on_nats(server, *history, url=server.url.replace("://", "://gw:p@"))
    client, plain = await connect(weirgate, "kept.a", "open.a"), await connect(weirgate, "plain.a")
    publisher = await bus(server, user="feed", password="f")
    await say(publisher, "kept.a", 1)
    await client.wait_for(lambda c: c.data, 10, "a message with a position")
    before = client.data[-1]["pos"]
    for taken, hears in ((("plain.a",), plain), (("plain.a", "kept.>"), client)):
        server.reload(config(*taken))
        await until(lambda name=taken[-1]: name in weirgate.log(), 10, "the refusal")
        await say(publisher, "open.a", taken)
        await client.wait_for(lambda c, taken=taken: c.data[-1]["data"] == list(taken), 10, "what is open")
        await hears.ask("ping")
        assert (plain.missing, client.missing) == (1, int(hears is client))
        assert scrape(weirgate).sum("weirgate_bus_gaps_total") == len(taken)
        assert [m["error"] for m in hears.answers if m["type"] == "error"] == [f"Refused by the bus: {'plain.a' if hears is plain else 'kept.a'}"]
    late = await connect(weirgate)
    late.say({"action": "subscribe", "channels": ["kept.a", "open.a"], "since": before})
    await late.wait_for(lambda c: len(c.answers) >= 2, 20, "the answer")
    assert late.answers[1]["recovered"] == {"kept.a": False, "open.a": False}
    await publisher.close()


async def test_interest_follows_the_clients(start_nats, on_nats):
    """The first member subscribes at the server, and the last one that leaves unsubscribes."""
    port = free_port()
    weirgate = on_nats(start_nats(config=f"http: 127.0.0.1:{port}"))

    def at_the_server():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/connz?subs=1", timeout=5) as answer:
            connections = json.load(answer)["connections"]
        ours = [c for c in connections if c.get("name") == "weirgate"]
        return sorted(s for c in ours for s in c.get("subscriptions_list", []))

    assert at_the_server() == []
    first, second = await connect(weirgate, "a.1", "b.*"), await connect(weirgate, "a.1")
    assert at_the_server() == ["a.1", "b.*"]
    assert (await first.ask("unsubscribe", "a.1"))["channels"] == ["a.1"]
    assert at_the_server() == ["a.1", "b.*"]
    second.abort()
    await until(lambda: at_the_server() == ["b.*"], 10, "the name given up")
    assert json.loads(weirgate.get("/stats")[2])["channels_subscribed"] == 0
    # Quick changes of mind end in the last one.
    for _ in range(20):
        await first.ask("unsubscribe", "b.*")
        await first.ask("subscribe", "b.*")
    assert at_the_server() == ["b.*"]
    first.abort()
    await until(lambda: at_the_server() == [], 10, "everything given up")


async def test_a_restart_is_told_and_everything_comes_back(nats, on_nats):
    """One number is missing for each client that held something; nobody is dropped."""
    weirgate = on_nats(nats)
    holding = await connect(weirgate, "a.1", "b.>")
    idle = await connect(weirgate)
    nats.kill()
    await until(lambda: not weirgate.health()["nats_connected"], 20, "the loss noticed")
    late = await connect(weirgate, "c.1")
    await asyncio.to_thread(nats.start)
    await until(lambda: weirgate.health()["nats_connected"], 20, "the server back")
    await until(lambda: waiting_changes(weirgate) == 0, 10, "names stand again")
    publisher = await bus(nats)
    for subject in ("a.1", "b.2", "c.1"):
        await say(publisher, subject, 1)
    await holding.wait_for(lambda c: len(c.data) == 2, 10, "data after the restart")
    await late.wait_for(lambda c: len(c.data) == 1, 10, "data of a name asked for meanwhile")
    await idle.ask("ping")
    assert [c.missing for c in (holding, idle, late)] == [1, 0, 0]
    assert all(c.open for c in (holding, idle, late))
    await until(lambda: scrape(weirgate).sum("weirgate_gaps_told_total") == 1, 10, "weirgate_gaps_told_total")
    await publisher.close()


async def test_a_thousand_subjects(nats, on_nats):
    """Twenty clients of fifty names each, and one message on every name."""
    weirgate = on_nats(nats)
    names = [f"t.{n}" for n in range(1_000)]
    readers = await asyncio.gather(*(connect(weirgate, *names[at:at + 50]) for at in range(0, 1_000, 50)))
    publisher = await bus(nats)
    for name in names:
        await publisher.publish(name, json.dumps(name).encode())
    await publisher.flush()
    for at, reader in enumerate(readers):
        await reader.wait_for(lambda c: len(c.data) == 50, 20, "a message on every name")
        assert [d for _, _, d in reader.short()] == names[50 * at:50 * at + 50]
    assert json.loads(weirgate.get("/stats")[2])["channels_subscribed"] == 1_000
    await publisher.close()


async def test_settings_of_the_bus(start_weirgate):
    """What does not fit together ends the start."""
    for flags, says in (
            (["--bus", "nats://a,redis://b"], "one URL of Redis, or URLs of NATS servers"),
            (["--bus", "http://a"], "nats://HOST:PORT"),
            (["--bus", "redis://a", "--redis-url", "redis://b"], "beside --redis-url"),
            (["--retained"], "unless --bus names NATS")):
        weirgate = start_weirgate("channels", *flags)
        assert weirgate.wait(10) == 2
        weirgate.logs(says)


async def test_the_last_value_comes_behind_subscribed(nats, on_nats):
    """What the stream holds is the first message; what is in no stream has no such value."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="KEPT", subjects=["kept.>"])
    for n in range(3):
        await streams.publish("kept.a", json.dumps(n).encode())
    await streams.publish("kept.text", b"no json", headers={"X": "y"})
    client = await connect(weirgate, "kept.a", "kept.none", "loose.a", "kept.text", "loose.*")
    await client.wait_for(lambda c: len(c.data) == 2, 10, "the last values")
    assert sorted(client.short(), key=str) == [("kept.a", None, 2), ("kept.text", None, {"raw": "no json"})]
    assert all(m["retained"] is True for m in client.data)
    answered = client.answers[-1]["seq"]
    assert sorted(m["seq"] for m in client.data) == [answered + 1, answered + 2]
    # A second client gets the value too, the first one does not get it again.
    second = await connect(weirgate, "kept.a")
    await second.wait_for(lambda c: c.data, 10, "the last value")
    await streams.publish("kept.a", b"3")
    for one, count in ((client, 3), (second, 2)):
        await one.wait_for(lambda c, count=count: len(c.data) == count, 10, "the live message")
    assert second.short() == [("kept.a", None, 2), ("kept.a", None, 3)]
    assert "retained" not in second.data[1]
    # Who asks again gets the newest one again.
    await second.ask("subscribe", "kept.a")
    await second.wait_for(lambda c: len(c.data) == 3, 10, "the last value again")
    assert second.short()[2] == ("kept.a", None, 3) and second.data[2]["retained"] is True
    assert (client.missing, second.missing) == (0, 0)
    await publisher.close()


def goes_on(messages):
    """No message of a subject is older than the one before. One may come twice, as the last value and then live: a
    nats-server stores a message and delivers it in no fixed order."""
    def follows(before, after):
        is_twice = before.get("retained", False) and not after.get("retained", False)
        return before["data"] < after["data"] or before["data"] == after["data"] and is_twice
    return all(follows(*pair) for pair in zip(messages, messages[1:]))


async def test_no_last_value_is_older_than_a_live_message(nats, on_nats):
    """Clients come and go while a publisher counts: nobody sees the count go back."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="KEPT", subjects=["kept.>"])
    await streams.publish("kept.n", b"0")
    ended = False

    async def count():
        n = 0
        while not ended:
            n += 1
            await publisher.publish("kept.n", str(n).encode())
            await asyncio.sleep(0.001)
    counting = asyncio.create_task(count())
    for _ in range(40):
        some = await asyncio.gather(*(connect(weirgate, "kept.n") for _ in range(3)))
        for client in some:
            await client.wait_for(lambda c: len(c.data) >= 5, 10, "a few messages")
            assert goes_on(client.data), client.data
            assert client.data[0]["seq"] == client.answers[-1]["seq"] + 1 or client.data[0]["seq"] < client.answers[-1]["seq"]
            client.abort()
    ended = True
    await counting
    await publisher.close()


async def test_last_values_without_jetstream_or_its_permission(start_nats, on_nats):
    """Nobody waits for what is not there, and live messages come."""
    server = start_nats(config="""authorization { users: [
        { user: gw, password: p, permissions: { publish: { deny: ">" } } }
        { user: feed, password: f } ] }""")
    weirgate = on_nats(server, "--retained", url=server.url.replace("://", "://gw:p@"))
    client = await connect(weirgate, "a.1", "a.2")
    publisher = await bus(server, user="feed", password="f")
    await say(publisher, "a.1", 1)
    await client.wait_for(lambda c: c.data, 10, "the live message")
    await until(lambda: "this user may not publish to $JS.API.STREAM.LIST" in weirgate.log(), 10, "the missing permission told")
    assert client.short() == [("a.1", None, 1)]
    await client.wait_for(lambda c: any(m.get("error") == "No last values from the bus: a.2" for m in c.answers), 20, "the error")
    await publisher.close()


async def test_slow_clients_get_the_newest_of_each_subject(nats, on_nats):
    """One pattern with many subjects: a client that does not read for a while gets the newest of each, and stays."""
    weirgate = on_nats(nats, "--conflate", "price.>", "--send-queue-stall-ms", "60000")
    fast = await connect(weirgate, "price.*")
    slow = await clients.connect(weirgate.port, 4096, path=CHANNELS.path, make=Reader)
    await slow.wait_for(lambda c: c.answers, 20, "connected")
    await slow.ask("subscribe", "price.*", "price.s1")
    slow.stop_reading()
    publisher = await bus(nats)
    rounds, subjects = 60, 100
    for n in range(rounds):
        for s in range(subjects):
            await publisher.publish(f"price.s{s}", json.dumps([n, "x" * 1_000]).encode())
        await publisher.flush()
        await fast.wait_for(lambda c, n=n: len(c.data) == (n + 1) * subjects, 20, "every message")
    conflated = scrape(weirgate).sum("weirgate_messages_conflated_total")
    assert conflated > (rounds - 20) * subjects, conflated
    slow.transport.resume_reading()

    def newest(client, pattern):
        return {m["channel"]: m["data"][0] for m in client.data if m["pattern"] == pattern}
    last = {f"price.s{s}": rounds - 1 for s in range(subjects)}
    await slow.wait_for(lambda c: newest(c, "price.*") == last and newest(c, None) == {"price.s1": rounds - 1}, 20,
                        "the newest of each subject")
    assert len(slow.data) < rounds * subjects / 2 and slow.missing > 0
    for pattern in ("price.*", None):
        for channel in last:
            seen = [m["data"][0] for m in slow.data if (m["channel"], m["pattern"]) == (channel, pattern)]
            assert seen == sorted(set(seen)), (channel, seen)
    assert fast.missing == 0 and slow.open
    await publisher.close()


async def test_conflation_on_redis_is_by_glob(redis_server, start_weirgate):
    """The same with the patterns of Redis; other names are not conflated."""
    weirgate = start_weirgate("channels", "--conflate", "price:[a-c]*,other:*", redis=redis_server, env=EVERYTHING).wait_ready()
    slow = await clients.connect(weirgate.port, 4096, path=CHANNELS.path, make=Reader)
    await slow.wait_for(lambda c: c.answers, 20, "connected")
    await slow.ask("subscribe", "price:a", "price:z")
    slow.stop_reading()
    with redis_server.client() as redis:
        redis.publish("price:z", '"kept"')
        for n in range(3_000):
            redis.publish("price:a", json.dumps([n, "x" * 2_000]))
    await until(lambda: scrape(weirgate).sum("weirgate_messages_conflated_total") > 0, 10, "conflation")
    slow.transport.resume_reading()
    await slow.wait_for(lambda c: c.data and c.data[-1]["data"][0] == 2_999, 20, "the newest")
    assert len(slow.data) < 3_000 and slow.data[0]["channel"] == "price:z" and slow.open


async def test_last_values_of_a_pattern(nats, on_nats):
    """One value for each subject, from each stream that holds some; none behind a live message."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="ONE", subjects=["kept.one.*", "many.>"])
    await streams.add_stream(name="TWO", subjects=["kept.two.>"])
    for n in range(3):
        for subject in ("kept.one.a", "kept.one.b", "kept.two.c.d"):
            await streams.publish(subject, json.dumps(n).encode())
    client = await connect(weirgate, "kept.>", "*.*.b")
    await client.wait_for(lambda c: len(c.data) == 4, 10, "the last values")
    assert sorted(client.short()) == [("kept.one.a", "kept.>", 2), ("kept.one.b", "*.*.b", 2), ("kept.one.b", "kept.>", 2),
                                      ("kept.two.c.d", "kept.>", 2)]
    assert all(m["retained"] is True and m["seq"] > client.answers[-1]["seq"] for m in client.data)
    await streams.publish("kept.one.a", b"3")
    await client.wait_for(lambda c: len(c.data) == 5, 10, "the live message")
    assert client.short()[4] == ("kept.one.a", "kept.>", 3) and "retained" not in client.data[4]

    for n in range(1_030):
        await publisher.publish(f"many.{n}", b"1")
    await publisher.flush()
    await streams.publish("many.last", b"1")
    many = await connect(weirgate, "many.*")
    await many.wait_for(lambda c: len(c.data) == 1_031, 20, "all of them")
    await many.ask("ping")
    assert len(many.data) == 1_031 and many.missing == 0

    async def consumers():
        return sum([(await streams.stream_info(name)).state.consumer_count for name in ("ONE", "TWO")])
    for _ in range(100):
        if await consumers() == 0:
            break
        await asyncio.sleep(0.05)
    assert await consumers() == 0, "every consumer is deleted"
    await publisher.close()


async def test_no_last_value_of_a_pattern_is_older_than_a_live_message(nats, on_nats):
    """The same as for an exact name, for twenty subjects of a pattern."""
    weirgate = on_nats(nats, "--retained")
    publisher = await bus(nats)
    streams = publisher.jetstream(timeout=10)
    await streams.add_stream(name="KEPT", subjects=["kept.>"])
    for s in range(20):
        await streams.publish(f"kept.{s}", b"0")
    ended = False

    async def count():
        n = 0
        while not ended:
            n += 1
            await publisher.publish(f"kept.{n % 20}", str(n).encode())
            await asyncio.sleep(0.0005)
    counting = asyncio.create_task(count())
    for _ in range(25):
        client = await connect(weirgate, "kept.*")
        await client.wait_for(lambda c: len(c.data) >= 60, 10, "messages")
        for s in range(20):
            of_one = [m for m in client.data if m["channel"] == f"kept.{s}"]
            assert of_one and goes_on(of_one), of_one
        client.abort()
    ended = True
    await counting
    await publisher.close()
