"""Faults of the bus with clients attached: nobody is dropped, /ready tells of it, the newest state arrives.

How long an outage may last is tried in test_broker_away.py; here each kind of fault comes once, and short.
"""
import asyncio
import contextlib
import json
import zlib

import pytest
from bus import FLOW, publisher
from clients import connect, connect_many
from link import Link
from waiting import patient, until

CLIENTS = 20
GRACE_MS = 500
# A silent bus is noticed after three seconds at most, and attempts come every two.
PATIENCE_S = 10


async def flow_until_all_have(server, clients, value):
    """Publishes `value` until every client has it: the streams may still be coming back."""
    has = lambda c: c.newest and c.state().get("flow") == value
    end = asyncio.get_running_loop().time() + patient(PATIENCE_S)
    while not all(has(c) for c in clients):
        assert asyncio.get_running_loop().time() < end, f"{sum(map(has, clients))} of {len(clients)} have {value}"
        with contextlib.suppress(Exception):  # nats-py has many ways to say "not yet"
            async with publisher(server) as bus:
                await bus.streams.publish(FLOW, json.dumps(value).encode())
        await asyncio.sleep(0.1)


async def attached(weirgate, nats):
    """Clients that all have a first message."""
    clients = await connect_many(CLIENTS, weirgate.port)
    await flow_until_all_have(nats, clients, {"before": 1})
    return clients


async def all_is_well_again(weirgate, nats, clients):
    await until(lambda: weirgate.ready_status() == 200, PATIENCE_S, "/ready 200 again")
    await flow_until_all_have(nats, clients, {"after": 1})
    assert all(c.open for c in clients)
    assert weirgate.health()["connections"] == CLIENTS


@pytest.mark.parametrize("fault", ["killed", "killed-store-lost", "frozen", "black-holed"])
async def test_the_bus_is_away_and_comes_back(nats, start_weirgate, fault):
    async with Link(nats.port).running() as link:
        url = {"NATS_URL": link.url if fault == "black-holed" else nats.url}
        weirgate = start_weirgate("levels", "--ready-bus-grace-ms", str(GRACE_MS), env=url)
        await until(lambda: weirgate.ready_status() == 200, PATIENCE_S, "/ready")
        clients = await attached(weirgate, nats)
        strike, mend = {
            "killed": (nats.kill, nats.start),
            "killed-store-lost": (lambda: (nats.kill(), nats.forget_everything()), nats.start),
            "frozen": (nats.freeze, nats.thaw),
            "black-holed": (link.black_hole, link.mend),
        }[fault]
        strike()
        await until(lambda: weirgate.ready_status() == 503, PATIENCE_S, "/ready 503")
        late = await connect(weirgate.port)
        await late.wait_for(lambda c: c.state() == {"flow": {"before": 1}}, 5, "the last state, for a newcomer")
        late.abort()
        await until(lambda: weirgate.health()["connections"] == CLIENTS, 5, "the newcomer's end")
        mend()
        await all_is_well_again(weirgate, nats, clients)


@pytest.mark.parametrize("gone", ["stream", "consumer", "consumer-and-streams"])
async def test_what_was_deleted_on_a_bus_that_is_well_is_made_again(nats, start_weirgate, gone):
    weirgate = start_weirgate("levels", "--ready-bus-grace-ms", str(GRACE_MS), nats=nats).wait_ready()
    clients = await attached(weirgate, nats)
    async with publisher(nats) as bus:
        if "consumer" in gone:
            await bus.streams.delete_consumer("MARKET_DATA", "gateway_flow")
        if "stream" in gone:
            await bus.streams.delete_stream("MARKET_DATA")
        if "streams" in gone:
            await bus.streams.delete_stream("LEVEL_SIGNALS")

        async def is_there(stream, consumer):
            with contextlib.suppress(Exception):
                return (await bus.streams.consumer_info(stream, consumer)).push_bound

        # The bus answered all the time, so nobody is sent elsewhere.
        async with asyncio.timeout(patient(PATIENCE_S)):
            while not (await is_there("MARKET_DATA", "gateway_flow") and await is_there("LEVEL_SIGNALS", "gateway_levels")):
                assert weirgate.ready_status() == 200
                await asyncio.sleep(0.05)
    await all_is_well_again(weirgate, nats, clients)


async def test_a_bus_away_for_too_long_ends_the_process_where_that_is_asked_for(nats, start_weirgate):
    weirgate = start_weirgate("levels", "--bus-away-exit-s", "1", nats=nats).wait_ready()
    clients = await attached(weirgate, nats)
    nats.kill()
    for client in clients:
        await asyncio.wait_for(client.ended, patient(PATIENCE_S))
        assert client.close_code == 1012
    assert await asyncio.to_thread(weirgate.wait, PATIENCE_S) == 1
    weirgate.logs("error: the bus was away for 1 s (--bus-away-exit-s)")


@pytest.mark.parametrize("asked_for, shown", [
    ("authorization { token: \"s3cr et\" }", {"NATS_TOKEN": "s3cr et"}),
    ("authorization { user: gateway, password: \"s3cr/et@\" }", {"NATS_USER": "gateway", "NATS_PASSWORD": "s3cr/et@"}),
])
async def test_the_environment_lets_it_in_and_shows_no_secret(start_nats, start_weirgate, asked_for, shown):
    nats = start_nats(config=asked_for)
    refused = start_weirgate(nats=nats)
    await until(lambda: "Authorization Violation" in refused.log(), PATIENCE_S, "the reason in the log")
    weirgate = start_weirgate(nats=nats, env=shown).wait_ready()
    checked = start_weirgate("levels", "--check", nats=nats, env=shown)
    assert await asyncio.to_thread(checked.wait, PATIENCE_S) == 0
    checked.logs("--nats-", "***")
    for text in [weirgate.log(), checked.log(), json.dumps(weirgate.health())]:
        assert "s3cr" not in text


def sums(numbers):
    """What clients keep of flow messages with these numbers."""
    return [zlib.crc32(b'{"flow":{"n":%d}}' % n) for n in numbers]


def one_after_the_other(client, until_n):
    """Fails unless the client saw each number once, from its first on."""
    expected = sums(range(until_n))
    assert client.sums, "it saw nothing"
    first = expected.index(client.sums[0])
    assert client.sums == expected[first:first + len(client.sums)]
    return first, first + len(client.sums)


async def test_instances_take_the_durables_over_from_one_another(nats, start_weirgate):
    """Two start at once; one is drained, a third comes, one is killed: whoever watches any of them misses nothing."""
    published = 0

    async def publish():
        nonlocal published
        async with publisher(nats) as bus:
            while True:
                await bus.connection.publish(FLOW, b'{"n":%d}' % published)
                published += 1
                await asyncio.sleep(0.02)

    async def somebody_has_the_durable(bus):
        # Who is gone shows at once here: its socket was closed.
        await asyncio.sleep(0.2)
        async with asyncio.timeout(patient(PATIENCE_S)):
            while not (await bus.streams.consumer_info("MARKET_DATA", "gateway_flow")).push_bound:
                await asyncio.sleep(0.05)

    async with publisher(nats) as bus:
        first, second = start_weirgate(nats=nats), start_weirgate(nats=nats)
        watching = [await connect(w.wait_ready().port, keep_sums=True) for w in (first, second)]
        publishing = asyncio.create_task(publish())
        for client in watching:
            await client.wait_for(lambda c: c.messages >= 25, PATIENCE_S, "25 messages")
        first.send(15)
        await asyncio.wait_for(watching[0].ended, patient(PATIENCE_S))
        assert watching[0].close_code == 1012
        await somebody_has_the_durable(bus)
        # That is the second, and the third does not wait for it to give the durable up.
        third = start_weirgate(nats=nats).wait_ready()
        watching.append(await connect(third.port, keep_sums=True))
        before = watching[1].messages
        await watching[1].wait_for(lambda c: c.messages >= before + 75, PATIENCE_S, "1.5 s of messages")
        second.kill()
        await asyncio.wait_for(watching[1].ended, patient(PATIENCE_S))
        before = watching[2].messages
        await watching[2].wait_for(lambda c: c.messages >= before + 75, PATIENCE_S, "1.5 s of messages")
        await somebody_has_the_durable(bus)
        publishing.cancel()
        last = sums([published - 1])
        await watching[2].wait_for(lambda c: c.sums[-1:] == last, PATIENCE_S, "the last message")
    spans = [one_after_the_other(client, published) for client in watching]
    assert spans[0][0] == spans[1][0] == 0 and spans[2][1] == published
    # While each was there, some other was too: what one saw last, another saw as well.
    assert spans[1][0] < spans[0][1] <= spans[1][1] and spans[2][0] < spans[1][1]
