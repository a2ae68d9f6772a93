"""`weirgate channels` on a NATS cluster whose routes are slow: what `subscribed` and a position promise.

TEST_CLUSTER_ROUNDS=1000 makes the rounds many (two minutes)."""
import asyncio
import contextlib
import os
import time

import nats as nats_py
import pytest
from link import Link
from processes import free_port
from prometheus import scrape
from test_channels_nats import EVERYTHING, bus, connect, say, waiting_changes
from waiting import until

ROUNDS = int(os.environ.get("TEST_CLUSTER_ROUNDS", "40"))
# A third of the default of `--bus-settle-ms`: a busy machine delays the links more than they are meant to.
ROUTE_S = 0.1
HISTORY = ("--history-ms", "60000")
CLIENTS = 10


@pytest.fixture
def start_cluster(start_nats):
    """start_cluster(delay_s) as a context: three servers, each reached from the others over a slow link."""
    @contextlib.asynccontextmanager
    async def start(delay_s=ROUTE_S):
        ports = [free_port() for _ in range(3)]
        links = [Link(port, delay_s=delay_s) for port in ports]
        async with contextlib.AsyncExitStack() as running:
            for link in links:
                await running.enter_async_context(link.running())
            advertised = [link.url.removeprefix("nats://") for link in links]
            routes = ", ".join(f'"nats://{address}"' for address in advertised)
            # In threads: the links are served here meanwhile.
            servers = [await asyncio.to_thread(start_nats, config=f"""
                server_name: n{index}
                cluster {{ name: test, listen: "127.0.0.1:{port}", advertise: "{advertised[index]}", routes: [{routes}] }}
                """) for index, port in enumerate(ports)]
            await is_joined(servers)
            yield servers
    return start


async def is_joined(servers):
    """Returns once a message from each server arrives at each other one."""
    connections = [await bus(server) for server in servers]
    came = set()
    for at, connection in enumerate(connections):
        async def take(message, at=at):
            came.add((at, message.data))
        await connection.subscribe("joined", cb=take)
    end = time.monotonic() + 20
    while len(came) < len(servers) ** 2:
        assert time.monotonic() < end, came
        for at, connection in enumerate(connections):
            await connection.publish("joined", b"%d" % at)
        await asyncio.sleep(0.1)
    for connection in connections:
        await connection.close()


async def gateway(start_weirgate, server, *flags, env=None):
    weirgate = start_weirgate("channels", "--bus", server.url, *flags, env={**EVERYTHING, **(env or {})})
    await until(lambda: weirgate.ready_status() == 200, 20, "/ready")
    return weirgate


async def test_what_is_published_after_subscribed_comes_from_every_server(start_cluster, start_weirgate):
    """New names, and publishers at the other servers that have heard of `subscribed`."""
    async with start_cluster() as servers:
        weirgate = await gateway(start_weirgate, servers[0], env={"MAX_CHANNELS_PER_CLIENT": "2000"})
        publishers = [await bus(server) for server in servers[1:]]

        async def rounds(number):
            client, names = await connect(weirgate), []
            for n in range(-(-ROUNDS // CLIENTS)):
                name = f"c{number}.r{n}"
                await client.ask("subscribe", name)
                names.append(name)
                for at, publisher in enumerate(publishers):
                    await say(publisher, name, at)
            await asyncio.sleep(1)
            got = sorted((m["channel"], m["data"]) for m in client.data)
            want = sorted((name, at) for name in names for at in range(len(publishers)))
            return len(want) - len(got), got == want

        results = await asyncio.gather(*(rounds(number) for number in range(CLIENTS)))
        print(f"{ROUNDS} rounds, {2 * ROUNDS} messages: {sum(lost for lost, _ in results)} lost")
        assert all(equal for _, equal in results), results
        for publisher in publishers:
            await publisher.close()


async def test_nobody_resumes_where_a_route_can_lose_messages_unseen(start_cluster, start_weirgate):
    """Live messages come from every server, and a position would promise more than that."""
    async with start_cluster() as servers:
        weirgate = await gateway(start_weirgate, servers[0], "--history-ms", "60000", "--history-names", "*.*")
        publishers = [await bus(server) for server in servers[1:]]
        live = await connect(weirgate)
        answer = await live.ask("subscribe", "a.b")
        for at, publisher in enumerate(publishers):
            await say(publisher, "a.b", at)
        await live.wait_for(lambda c: len(c.data) == 2, 20, "both messages")
        assert not any("pos" in m for m in [answer, *live.data])
        late = await connect(weirgate)
        late.say({"action": "subscribe", "channels": ["a.b"], "since": "7f3a09c2b11e.1.1", "last": 1})
        await late.wait_for(lambda c: len(c.answers) == 2, 20, "the answer")
        assert late.answers[1]["recovered"] == {"a.b": False} and late.answers[1]["why"] == {"a.b": "off"}
        weirgate.logs("nobody resumes", "--stream")
        for publisher in publishers:
            await publisher.close()


@pytest.mark.parametrize("settle_ms, has_positions", [("300", False), ("0", True), (None, False)])
async def test_the_settings_say_whether_all_publishers_are_on_the_server(nats, start_weirgate, settle_ms, has_positions):
    """The server does not: neither its leaf nodes nor the imports of the account, which can break unseen."""
    flags = ("--bus-settle-ms", settle_ms) if settle_ms else ()
    weirgate = await gateway(start_weirgate, nats, "--history-ms", "60000", "--history-names", "*.*", *flags)
    client = await connect(weirgate)
    assert ("pos" in await client.ask("subscribe", "a.b")) == has_positions
    weirgate.logs("nobody resumes", "--stream")
    assert ("--bus-settle-ms 0" in weirgate.log()) != has_positions


async def test_nobody_resumes_over_an_import_that_was_away(start_nats, start_weirgate):
    """A reload takes the import of the account away and gives it back; the server says nothing of it to its clients."""
    def accounts(on):
        ends = ("exports: [{ stream: m.> }]", "imports: [{ stream: { account: P, subject: m.> } }]") if on else ("", "")
        return ("accounts { P { users: [{ user: p, password: p }], %s }, C { users: [{ user: c, password: c }], %s } }" % ends)
    server = await asyncio.to_thread(start_nats, config=accounts(True), jetstream=False)
    url = server.url.replace("://", "://c:c@")
    flags = ("--history-ms", "60000", "--history-names", "m.>")
    weirgate = start_weirgate("channels", "--bus", url, *flags, env=EVERYTHING).wait_ready()
    client = await connect(weirgate)
    answer = await client.ask("subscribe", "m.a")
    publisher = await bus(server, user="p", password="p")
    await say(publisher, "m.a", 1)
    await client.wait_for(lambda c: c.data, 20, "a message over the import")
    server.reload(accounts(False))
    await until(lambda: server.process.log().count("Reloaded server configuration") == 1, 20, "the import taken away")
    await say(publisher, "m.a", 2)
    server.reload(accounts(True))
    await until(lambda: server.process.log().count("Reloaded server configuration") == 2, 20, "the import given back")
    await say(publisher, "m.a", 3)
    await client.wait_for(lambda c: c.data[-1]["data"] == 3, 20, "messages again")
    assert [message["data"] for message in client.data] == [1, 3]
    assert not any("pos" in message for message in [answer, *client.data])
    await publisher.close()


@pytest.mark.parametrize("kind", ["levels", "channels"])
async def test_a_server_that_is_cut_off_from_its_cluster_is_left(kind, start_nats, start_weirgate):
    """The first server of the URL takes clients and pings, and its JetStream has no leader any more."""
    ports = [free_port() for _ in range(3)]
    async with contextlib.AsyncExitStack() as running:
        links = [await running.enter_async_context(Link(port).running()) for port in ports[1:]]
        routes = [[link.port for link in links], ports[2:], ports[1:2]]
        servers = [await asyncio.to_thread(start_nats, config=f"""
            server_name: n{index}
            cluster {{ name: test, listen: "127.0.0.1:{port}", advertise: "127.0.0.1:{port if index else 9}", no_advertise: true,
                       routes: [{", ".join(f'"nats://127.0.0.1:{to}"' for to in routes[index])}] }}
            """) for index, port in enumerate(ports)]
        publisher = await bus(servers[1])
        stream = publisher.jetstream(timeout=1)
        names = {"levels": {"LEVEL_SIGNALS": "levels.signals", "MARKET_DATA": "market.flow"}, "channels": {"TICKS": "m.a"}}[kind]
        for name, subject in names.items():
            await again(lambda name=name, subject=subject: stream.add_stream(name=name, subjects=[subject], num_replicas=3))
        urls = ",".join(server.url for server in servers)
        flags = {"levels": ("--nats-url", urls, "--ephemeral"), "channels": ("--bus", urls, *HISTORY, "--stream", "TICKS")}
        weirgate = start_weirgate(kind, *flags[kind], env=EVERYTHING)
        await until(lambda: weirgate.ready_status() == 200, 30, "/ready")
        for link in links:
            link.cut()
        for subject in names.values():
            await again(lambda subject=subject: stream.publish(subject, b'{"n": 1}'))
        # Until then a server that was the leader takes itself for it.
        cut_off = await bus(servers[0])
        for name in names:
            await until_leaderless(cut_off.jetstream(timeout=1), name)
        await cut_off.close()
        count = lambda: scrape(weirgate).sum("weirgate_bus_messages_total") + scrape(weirgate).sum("weirgate_bus_messages_bad_total")
        await until(lambda: count() >= len(names), 30, "what the others have stored")
        await publisher.close()


async def until_leaderless(stream, name):
    """Returns once JetStream names no leader of the stream."""
    end = time.monotonic() + 120
    while True:
        try:
            if not (await stream.stream_info(name)).cluster.leader:
                return
        except (nats_py.errors.Error, asyncio.TimeoutError):
            return
        assert time.monotonic() < end
        await asyncio.sleep(0.5)


async def again(ask):
    """Asks until JetStream has a leader and answers."""
    end = time.monotonic() + 60
    while True:
        try:
            return await ask()
        except (nats_py.errors.Error, asyncio.TimeoutError):
            assert time.monotonic() < end
            await asyncio.sleep(0.2)


async def test_without_the_wait_the_next_message_may_be_lost(start_cluster, start_weirgate):
    """What the wait is for."""
    async with start_cluster(1.0) as servers:
        weirgate = await gateway(start_weirgate, servers[0], "--bus-settle-ms", "0")
        publisher = await bus(servers[1])
        client = await connect(weirgate, "a")
        await say(publisher, "a", 1)
        await asyncio.sleep(3)
        await say(publisher, "a", 2)
        await client.wait_for(lambda c: c.data, 10, "the second message")
        assert client.short() == [("a", None, 2)] and client.missing == 0
        await publisher.close()


async def test_names_wait_together_and_longer_than_the_bus_may_take(nats, start_weirgate):
    """A thousand long names: were they to wait one after the other, it would take half a minute. A setting counts on a
    single server too, which may be the leaf of others."""
    flags = ("--bus-settle-ms", "2000", "--channels-max", "1000")
    weirgate = await gateway(start_weirgate, nats, *flags)
    client = await connect(weirgate)
    begun = time.monotonic()
    for part in range(10):
        names = [f"{part}.{n}.{'x' * 400}" for n in range(100)]
        client.say({"action": "subscribe", "channels": names})
    await client.wait_for(lambda c: len(c.answers) == 11, 15, "all answers")
    assert time.monotonic() - begun >= 2
    await until(lambda: waiting_changes(weirgate) == 0, 15, "all names have settled")
    publisher = await bus(nats)
    again = await connect(weirgate, names[0])
    await say(publisher, names[0], 1)
    await again.wait_for(lambda c: c.data, 5, "a message")
    await publisher.close()


async def test_values_of_a_stream_whose_server_hangs_come_when_it_is_back(start_nats, start_weirgate):
    """The client knows meanwhile, and gets each value once."""
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = {f"n{index}": await asyncio.to_thread(start_nats, config=f"""
        server_name: n{index}
        cluster {{ name: test, listen: "127.0.0.1:{port}", routes: [{routes}] }}""") for index, port in enumerate(ports)}
    publisher = await bus(servers["n0"])
    stream = publisher.jetstream(timeout=1)
    leaders = {}
    for n in range(9):
        info = await again(lambda n=n: stream.add_stream(name=f"S{n}", subjects=[f"s.{n}"], num_replicas=1))
        leaders[f"s.{n}"] = info.cluster.leader
        await again(lambda n=n: stream.publish(f"s.{n}", b"%d" % n))
    hangs = leaders["s.0"]
    others = [name for name in servers if name != hangs]
    weirgate = start_weirgate("channels", "--bus", servers[others[0]].url, "--retained", env=EVERYTHING)
    await until(lambda: weirgate.ready_status() == 200, 30, "/ready")
    client = await connect(weirgate)
    await publisher.close()
    servers[hangs].freeze()
    ends = lambda: [m.get("cut") for m in client.answers if m["type"] == "retained"]
    values = lambda: sorted(m["channel"] for m in client.data)
    client.say({"action": "subscribe", "channels": ["s.*"], "status": True})
    await client.wait_for(lambda _: ends() == ["refused"], 60, "the word that values are missing")
    # The error is a message of its own, behind all that waits for the client.
    await client.wait_for(lambda c: any(m.get("error") == "No last values from the bus: s.*" for m in c.answers), 20, "the error")
    assert "s.0" not in values()
    servers[hangs].thaw()
    await client.wait_for(lambda _: len(ends()) == 2, 90, "the rest of the values")
    assert (ends(), values()) == (["refused", None], sorted(leaders))
