"""Relays in a NATS without a market: only the relays are read and made, and /ready, /health, metrics and --check follow them alone."""
import asyncio
import json
import subprocess
import time

import nats as nats_py
import pytest
import websockets
from nats.js.api import ConsumerConfig, StreamConfig
from processes import weirgate_binary
from prometheus import scrape
from waiting import patient, until

RELAY = ["--relay", "news.flash=news"]
MARKET_STREAMS = ["LEVEL_SIGNALS", "MARKET_DATA"]
USER = """authorization {{ users: [
    {{ user: gw, password: pw, permissions: {{ publish: {publish}, subscribe: ["_INBOX.>", "chosen.>"] }} }}
    {{ user: all, password: pw }} ] }}"""
# Of a user who may read this stream, and neither ask for another nor make one.
READS = ["$JS.API.STREAM.INFO.NEWS", "$JS.API.STREAM.MSG.GET.NEWS", "$JS.API.CONSUMER.INFO.NEWS.*", "$JS.ACK.>", "_INBOX.>"]
MAKES_CONSUMERS = ["$JS.API.CONSUMER.DURABLE.CREATE.NEWS.*", "$JS.API.CONSUMER.CREATE.NEWS"]


def a_server_with_user(start_nats, publish):
    server = start_nats(config=USER.format(publish=publish))
    return server, {"NATS_URL": f"nats://gw:pw@127.0.0.1:{server.port}"}


async def owner(server, user="all:pw@"):
    connection = await nats_py.connect(f"nats://{user}127.0.0.1:{server.port}", allow_reconnect=False, connect_timeout=5)
    return connection, connection.jetstream(timeout=10)


async def names(streams):
    return sorted(info.config.name for info in await streams.streams_info())


async def durables(streams, stream):
    return sorted(info.name for info in await streams.consumers_info(stream))


async def got(client, seconds=10):
    return json.loads(await asyncio.wait_for(client.recv(), seconds))


def check(*flags, env):
    argv = [weirgate_binary(), "levels", "--check", "--connect", "--listen", "127.0.0.1", "--port", "0", *flags]
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return done.returncode, done.stdout


async def ready_within_2_s(weirgate):
    begin = time.monotonic()
    await until(lambda: weirgate.ready_status() == 200, 10, "/ready")
    assert time.monotonic() - begin < patient(2)


async def relays_alone(weirgate, streams, value):
    """What a gateway shows that reads `news.flash` and nothing else."""
    async with websockets.connect(weirgate.ws_url) as client:
        await streams.publish("news.flash", json.dumps(value).encode())
        assert await got(client) == {"news": value}
    assert json.loads(weirgate.get("/ready")[2]) == {"ready": True, "reasons": []}
    health = weirgate.health()
    assert health["nats_connected"] and list(health["consumer_lag"]) == ["gateway_news"]
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_bus_messages_total", subject="news.flash") > 0
    for name in ("weirgate_consumer_away", "weirgate_consumer_setups_failed_total"):
        assert metrics.sum(name) == 0 and metrics.sum(name, consumer="gateway_levels") == 0
    assert "gateway_levels" not in weirgate.get("/metrics")[2]
    assert await names(streams) == ["NEWS"], "no stream is made"
    assert await durables(streams, "NEWS") == ["gateway_news"]


@pytest.mark.parametrize("publish", [
    '{ deny: ["$JS.API.STREAM.CREATE.>"] }',
    json.dumps(READS + MAKES_CONSUMERS),
], ids=["no-stream-made", "no-other-stream-asked-for"])
async def test_a_user_who_may_make_no_stream_is_ready_within_2_s(start_nats, start_weirgate, publish):
    server, env = a_server_with_user(start_nats, publish)
    connection, streams = await owner(server)
    await streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    relay = ["--relay", "news.flash=news,stream=NEWS"]
    status, said = check(*relay, env=env)
    assert status == 0 and "no stream LEVEL_SIGNALS and MARKET_DATA" in said and "may read and acknowledge news.flash" in said, said
    assert "market.flow" not in said and "levels.signals" not in said, said
    weirgate = start_weirgate("levels", *relay, env=env)
    await ready_within_2_s(weirgate)
    await relays_alone(weirgate, streams, {"n": 1})
    # Nobody waits for the market, or calls it silent: the readiness stays.
    await asyncio.sleep(8)
    assert weirgate.ready_status() == 200
    weirgate.logs("only the relays are read")
    assert "does not answer" not in weirgate.log() and "cannot be relayed" not in weirgate.log()
    await connection.close()


async def test_the_log_names_the_missing_right_not_jetstream(start_nats, start_weirgate):
    """Of two relayed subjects, the user may not ask about the stream of one; then it loses the right to ask about the consumer of the other."""
    server, env = a_server_with_user(start_nats, json.dumps(READS + MAKES_CONSUMERS))
    connection, streams = await owner(server)
    for name in ("NEWS", "DEPTH"):
        await streams.add_stream(StreamConfig(name=name, subjects=[f"{name.lower()}.*"]))
    weirgate = start_weirgate("levels", "--market", "off", "--relay", "news.flash=news,stream=NEWS", "--relay", "depth.es=depth,stream=DEPTH", env=env)
    weirgate.logs("a subject cannot be relayed", "publish to $JS.API.STREAM.INFO.DEPTH")
    server.reload(USER.format(publish=json.dumps([right for right in READS + MAKES_CONSUMERS if "CONSUMER.INFO" not in right])))
    # JetStream counts as silent after 6 s without an answer.
    weirgate.logs("nothing is known about a consumer", "publish to $JS.API.CONSUMER.INFO.NEWS.gateway_news")
    assert "-js" not in weirgate.log() and "JetStream does not answer" not in weirgate.log(), weirgate.log()
    server.reload(USER.format(publish=json.dumps([*READS, *MAKES_CONSUMERS, "$JS.API.*.INFO.DEPTH", "$JS.API.CONSUMER.*.>", "$JS.API.STREAM.MSG.GET.*"])))
    await until(lambda: weirgate.ready_status() == 200, 30, "/ready")
    weirgate.logs("a subject is relayed again", "depth.es")
    await connection.close()


async def test_a_user_who_may_make_nothing_reads_the_durable_of_an_administrator(start_nats, start_weirgate):
    server, env = a_server_with_user(start_nats, json.dumps(READS))
    connection, streams = await owner(server)
    await streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    await streams.add_consumer("NEWS", ConsumerConfig(durable_name="gateway_news", deliver_subject="chosen.news", filter_subject="news.flash",
                                                      ack_policy="explicit"))
    weirgate = start_weirgate("levels", "--relay", "news.flash=news,stream=NEWS", env=env)
    await ready_within_2_s(weirgate)
    await relays_alone(weirgate, streams, "read only")
    await connection.close()


async def test_a_free_user_gets_no_stream_and_no_durable_of_the_market(nats, start_weirgate):
    connection, streams = await owner(nats, "")
    await streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    status, said = check(*RELAY, env={"NATS_URL": nats.url})
    assert status == 0 and "market.flow" not in said and "a start makes none" in said, said
    weirgate = start_weirgate("levels", *RELAY, nats=nats)
    await ready_within_2_s(weirgate)
    await relays_alone(weirgate, streams, [1, 2])
    await connection.close()


async def test_a_market_that_comes_later_is_read_from_then_on_and_stays(start_nats, start_weirgate):
    nats = start_nats()
    connection, streams = await owner(nats, "")
    await streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    first = start_weirgate("levels", *RELAY, nats=nats).wait_ready()
    await relays_alone(first, streams, 1)
    second = start_weirgate("levels", *RELAY, nats=nats).wait_ready()
    await streams.add_stream(StreamConfig(name="MARKET_DATA", subjects=["market.*", "market.*.*"]))
    for weirgate in (first, second):
        await until(lambda w=weirgate: "gateway_flow" in w.health()["consumer_lag"], 20, "the market is read")
        weirgate.logs("one of these streams is there by now")
    async with websockets.connect(first.ws_url) as one, websockets.connect(second.ws_url) as other:
        for client in (one, other):
            assert await got(client) == {"news": 1}
        await streams.publish("market.flow", b"7")
        for client in (one, other):
            assert await got(client) == {"flow": 7, "news": 1}
        await until(lambda: first.health()["consumer_lag"]["gateway_levels"] is not None, 20, "the other stream is made and read")
        assert await names(streams) == ["LEVEL_SIGNALS", "MARKET_DATA", "NEWS"]
    await connection.close()
    # The market was there: an empty store gets its streams again, as without relays.
    nats.kill()
    nats.forget_everything()
    nats.start()
    connection, streams = await owner(nats, "")
    async with asyncio.timeout(patient(20)):
        while await names(streams) != MARKET_STREAMS:
            await asyncio.sleep(0.2)
    await connection.close()


async def test_nats_that_comes_late_is_read_as_one_that_was_there(start_nats, start_weirgate):
    nats = start_nats()
    connection, streams = await owner(nats, "")
    await streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    await connection.close()
    nats.kill()
    weirgate = start_weirgate("levels", *RELAY, nats=nats)
    weirgate.logs("NATS is away")
    nats.start()
    await until(lambda: weirgate.ready_status() == 200, 20, "/ready")
    connection, streams = await owner(nats, "")
    await relays_alone(weirgate, streams, "late")
    await connection.close()


async def test_market_on_makes_the_streams_and_off_leaves_those_that_are_there(nats, start_weirgate):
    connection, streams = await owner(nats, "")
    await streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    weirgate = start_weirgate("levels", *RELAY, "--market", "on", nats=nats).wait_ready()
    assert list(weirgate.health()["consumer_lag"]) == ["gateway_levels", "gateway_flow", "gateway_news"]
    assert await names(streams) == [*MARKET_STREAMS, "NEWS"]
    weirgate.kill()
    for stream in MARKET_STREAMS:
        for durable in await durables(streams, stream):
            await streams.delete_consumer(stream, durable)
    status, said = check(*RELAY, "--market", "off", env={"NATS_URL": nats.url})
    assert status == 0 and "market.flow" not in said, said
    weirgate = start_weirgate("levels", *RELAY, "--market", "off", nats=nats).wait_ready()
    assert list(weirgate.health()["consumer_lag"]) == ["gateway_news"]
    async with websockets.connect(weirgate.ws_url) as client:
        await streams.publish("market.flow", b"1")
        await streams.publish("news.flash", b"2")
        assert await got(client) == {"news": 2}
    assert [await durables(streams, stream) for stream in MARKET_STREAMS] == [[], []]
    await connection.close()


def test_market_off_without_a_relay_has_nothing_to_read():
    status, said = check("--market", "off", env={})
    assert status == 2 and "--market" in said and "--relay" in said, said
