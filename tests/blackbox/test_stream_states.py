"""A JetStream stream that stands still: what the server says of it is on the operator's page, in its state and in the log."""
import asyncio
import contextlib
import json
import time

import nats as nats_py
import pytest
from nats.js.api import DiscardPolicy, StreamConfig, StreamSource
from nats.js.errors import APIError
from processes import free_port
from prometheus import Metrics
from test_check import check, has
from test_nats_cluster import again, is_joined
from test_operator_state import get, state
from waiting import until
from websockets.asyncio.client import connect

LIMITED = """accounts { A { jetstream { max_mem: 1M, max_file: 64000 }, users: [
  { user: all, password: pw }, { user: gw, password: pw, permissions: { publish: { deny: [%s] } } } ] } }"""
BYTES = 1_000


@contextlib.asynccontextmanager
async def jetstream(url):
    connection = await nats_py.connect(url)
    try:
        yield connection.jetstream()
    finally:
        await connection.close()


async def fill(stream, name):
    """Publishes until the server refuses."""
    for _ in range(1_000):
        try:
            await stream.publish(name, b"x" * BYTES)
        except APIError:
            return
    raise AssertionError("it is never full")


async def started(start_weirgate, gateway, url, *more):
    admin = free_port()
    args = {
        "channels": ("channels", "--bus", url, "--stream", "MARKET", "--history-ms", "60000"),
        "levels": ("levels",),
    }[gateway]
    weirgate = start_weirgate(*args, "--admin-addr", f"127.0.0.1:{admin}", *more, env={"NATS_URL": url})
    await until(lambda: get(admin, "/ready")[0] == 200, 30, "ready")
    return weirgate, admin


async def said(admin, word, seconds=30):
    """The first sentence about a stream in this state."""
    found = []

    def look():
        found[:] = [one for one in state(admin)["bus"]["streams"] if one["state"] == word]
        return bool(found)
    await until(look, seconds, f"{word}: {state(admin)['bus']}", 0.5)
    return found[0]


async def test_a_stream_that_is_full_and_one_that_gets_messages_again(nats, start_weirgate):
    async with jetstream(nats.url) as stream:
        config = StreamConfig(name="MARKET", subjects=["market.*"], max_bytes=20_000, discard=DiscardPolicy.NEW)
        await stream.add_stream(config)
        weirgate, admin = await started(start_weirgate, "channels", nats.url)
        await fill(stream, "market.a")
        now = await said(admin, "full")
        assert now["stopped"] and "of 20000 bytes (max_bytes)" in now["sentence"], now
        assert now["sentence"].startswith("MARKET is full and refuses new messages (discard: new)"), now
        await stream.purge_stream("MARKET")
        await stream.publish("market.a", b"x")
        await said(admin, "moving")
        now = await said(admin, "quiet")
        assert not now["stopped"] and now["sentence"] == "MARKET takes messages: its publishers are quiet", now
    lines = [line for line in weirgate.log().splitlines() if "the stream" in line]
    assert sum("is full and refuses" in line and "WARN" in line for line in lines) == 1, lines
    assert sum("gets messages again" in line for line in lines) == 1, lines


async def test_a_full_stream_is_the_cause_for_clients_of_its_keys_alone(nats, start_weirgate):
    """levels with two relays from two streams, and a path for each."""
    async with jetstream(nats.url) as stream:
        for name, count in (("NEWS", 3), ("PRICES", 1_000)):
            config = StreamConfig(name=name, subjects=[f"{name.lower()}.x"], max_msgs=count, discard=DiscardPolicy.NEW)
            await stream.add_stream(config)
        for _ in range(3):
            await stream.publish("news.x", b"{}")
        relays = [word for key in ("news", "prices") for word in ("--relay", f"{key}.x={key}", "--endpoint", f"/ws/{key}={key}")]
        weirgate, admin = await started(start_weirgate, "levels", nats.url, "--market", "off", "--ephemeral", *relays)
        async with contextlib.AsyncExitStack() as held:
            for path in ("/ws/news", "/ws/prices", "/ws/stream"):
                await held.enter_async_context(connect(f"ws://127.0.0.1:{weirgate.port}{path}"))
            await said(admin, "full")
            await stream.publish("prices.x", b"{}")
            found = (await asyncio.to_thread(get, admin, "/operator/clients?address=127.0.0.1"))[2]
            causes = {row["path"]: row["cause"] for row in json.loads(found)["clients"]}
    assert causes == {"/ws/news": "stream_stopped", "/ws/prices": "healthy", "/ws/stream": "stream_stopped"}, found


async def test_a_stream_whose_names_are_full(nats, start_weirgate):
    async with jetstream(nats.url) as stream:
        config = {"name": "MARKET", "subjects": ["tick.*"], "storage": "file", "retention": "limits", "num_replicas": 1, "discard": "new",
                  "max_msgs_per_subject": 5, "discard_new_per_subject": True}
        await stream._api_request("$JS.API.STREAM.CREATE.MARKET", json.dumps(config).encode())
        _, admin = await started(start_weirgate, "channels", nats.url)
        await fill(stream, "tick.a")
        await stream.publish("tick.b", b"x")
        assert not (await said(admin, "quiet"))["stopped"], "there is room for tick.b"
        await stream.publish("tick.b", b"x")
        now = await said(admin, "moving")
        assert "refuses more than 5 of a name" in now["sentence"], now
        await fill(stream, "tick.b")
        now = await said(admin, "full")
        assert "10 of 10 messages of its names (max_msgs_per_subject)" in now["sentence"], now


async def test_a_mirror_whose_stream_is_gone(nats, start_weirgate):
    async with jetstream(nats.url) as stream:
        await stream.add_stream(name="FAR", subjects=["tick.*"])
        await stream.add_stream(name="MARKET", mirror=StreamSource(name="FAR"))
        _, admin = await started(start_weirgate, "channels", nats.url)
        await stream.publish("tick.a", b"x")
        await said(admin, "quiet")
        await stream.delete_stream("FAR")
        now = await said(admin, "copy_away")
        assert now["sentence"].startswith("MARKET copies FAR, of which its server has heard nothing for 1"), now


@pytest.mark.parametrize("may_ask", [True, False])
async def test_an_account_whose_storage_is_used_up(start_nats, start_weirgate, may_ask):
    server = start_nats(config=LIMITED % ("" if may_ask else '"$JS.API.INFO"'))
    of = lambda user: server.url.replace("//", f"//{user}:pw@")  # noqa: E731
    async with jetstream(of("all")) as stream:
        await stream.add_stream(name="MARKET", subjects=["market.*"])
        weirgate, admin = await started(start_weirgate, "channels", of("gw"))
        await fill(stream, "market.a")
        if may_ask:
            now = await said(admin, "account_full")
            assert now["stopped"] and "the file storage of the account is full, " in now["sentence"] and "of 64000 bytes" in now["sentence"], now
        else:
            await until(lambda: any("may not ask" in one["sentence"] for one in state(admin)["bus"]["streams"]), 30, "the refusal is told")
    refusals = [line for line in weirgate.log().splitlines() if "$JS.API.INFO" in line and "WARN" in line]
    assert len(refusals) == (0 if may_ask else 1), refusals
    _, lines = check("channels", "--bus", of("gw"), "--stream", "MARKET", "--history-ms", "60000")
    assert has(lines, "warning", "$JS.API.INFO") == (not may_ask), lines


async def test_levels_says_it_of_its_streams_too(nats, start_weirgate):
    weirgate, admin = await started(start_weirgate, "levels", nats.url)
    name = (await said(admin, "quiet"))["name"]
    async with jetstream(nats.url) as stream:
        config = (await stream.stream_info(name)).config
        await stream.update_stream(config, sealed=True, deny_delete=True, deny_purge=True)
    now = await said(admin, "sealed")
    assert now == {"name": name, "state": "sealed", "stopped": True, "sentence": f"{name} is sealed: it takes no message any more"}, now
    assert len([line for line in weirgate.log().splitlines() if "is sealed" in line and "WARN" in line]) == 1


@pytest.mark.parametrize("gateway", ["channels", "levels"])
async def test_jetstream_that_is_switched_off_for_the_account_is_the_cause_in_the_log(gateway, start_nats, start_weirgate):
    config = "accounts { A { %s users: [ { user: gw, password: pw } ] } }"
    server = start_nats(config=config % "jetstream: enabled,")
    url = server.url.replace("//", "//gw:pw@")
    async with jetstream(url) as stream:
        await stream.add_stream(name="MARKET", subjects=["tick.*"])
        weirgate, admin = await started(start_weirgate, gateway, url)
        await said(admin, "quiet")
        server.reload(config % "")
        error = "error 10039: JetStream not enabled for account"
        await until(lambda: [line for line in weirgate.log().splitlines() if "WARN" in line and error in line], 30, "the cause")
        # As long as a stream without a leader is not reported.
        await asyncio.sleep(6)
    wrong = [line for line in weirgate.log().splitlines() if "no leader" in line or "does not answer" in line]
    assert not wrong, wrong


@contextlib.asynccontextmanager
async def cluster(start_nats, count=3):
    """Servers with routes to one another."""
    ports = [free_port() for _ in range(count)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = [await asyncio.to_thread(start_nats, config=f"""
        server_name: n{index}
        cluster {{ name: test, listen: "127.0.0.1:{port}", routes: [{routes}] }}
        """) for index, port in enumerate(ports)]
    await is_joined(servers)
    yield servers


def alerts_of_silence(admin):
    """The subjects for which the expression of the alert WeirgateFeedQuiet is true."""
    of = {}
    for name, labels, value in Metrics(get(admin, "/metrics")[2]).samples:
        of.setdefault(name, {})[labels.get("subject")] = value
    last = of.get("weirgate_feed_last_message_timestamp_seconds", {})
    return [subject for subject, after in of.get("weirgate_feed_quiet_after_seconds", {}).items() if time.time() - last[subject] > after]


@pytest.mark.long
@pytest.mark.parametrize("kept", [0, 2], ids=["the_server_in_use_stays", "another_server_stays"])
@pytest.mark.parametrize("how", ["frozen", "killed"])
@pytest.mark.parametrize("gateway", ["channels", "levels"])
async def test_a_stream_whose_servers_have_lost_their_majority(gateway, how, kept, start_nats, start_weirgate):
    """Two of three servers are away: weirgate looks for one that reaches the leader, and says meanwhile why it finds none."""
    names = {"channels": {"MARKET": "market.a"}, "levels": {"MARKET_DATA": "market.flow", "LEVEL_SIGNALS": "levels.signals"}}[gateway]
    subject = next(iter(names.values()))
    async with cluster(start_nats) as servers, jetstream(servers[kept].url) as stream:
        for name, of in names.items():
            await again(lambda name=name, of=of: stream.add_stream(name=name, subjects=[of], num_replicas=3))
        urls = ",".join(server.url for server in servers)
        weirgate, admin = await started(start_weirgate, gateway, urls, "--ready-bus-grace-ms", "3000")
        for n in range(20):
            await again(lambda n=n: stream.publish(subject, b'{"n": %d}' % n))
        away = [server for at, server in enumerate(servers) if at != kept]
        for server in away:
            server.freeze() if how == "frozen" else server.kill()
        now = await said(admin, "no_leader", 60)
        assert now["stopped"] and now["sentence"] == f"{now['name']} has no leader: no server takes messages for it" and now["name"] in names, now
        await until(lambda: alerts_of_silence(admin), 20, "the alert")
        # It is said as long as it is so, whatever weirgate tries meanwhile.
        reasons = set()
        for _ in range(20):
            now = state(admin)
            reasons.update(now["reasons"])
            assert any(one["state"] == "no_leader" for one in now["bus"]["streams"]), now["bus"]
            await asyncio.sleep(0.3)
        assert reasons and reasons <= {"bus_away", "subject_away", "feed_silent"}, reasons
        assert get(admin, "/ready")[0] == 503 and get(admin, "/health")[0] == 200
        for server in away:
            server.thaw() if how == "frozen" else await asyncio.to_thread(server.start)
        for n, of in enumerate(names.values()):
            await again(lambda n=n, of=of: stream.publish(of, b'{"n": %d}' % (20 + n)))
        await until(lambda: get(admin, "/ready")[0] == 200, 60, "ready again")

        def is_over():
            states = [one["state"] for one in state(admin)["bus"]["streams"]]
            return "no_leader" not in states and len(states) == len(names)
        await until(is_over, 30, "the states of all streams")
    lines = [line for line in weirgate.log().splitlines() if "the stream has no leader" in line and "WARN" in line]
    assert 1 <= len(lines) <= len(names), lines
