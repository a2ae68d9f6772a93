"""`--stamp`: the time at the bus socket in each message; without the flag no byte more."""
import time

import pytest
from bus import publisher
from clients import connect
from prometheus import scrape
from redis_gateways import CHANNELS, TRADES, publish, subscriber


def now_us():
    return time.time_ns() // 1_000


@pytest.mark.parametrize("kind", [CHANNELS, TRADES])
@pytest.mark.parametrize("flags", [["--stamp"], []])
async def test_messages_from_redis_have_the_time_at_the_socket(redis_server, start_weirgate, kind, flags):
    weirgate = start_weirgate(kind.name, *flags, redis=redis_server).wait_ready()
    client = await subscriber(kind, weirgate, ["A"])
    before = now_us()
    publish(redis_server.client(), kind, "A", 7)
    await client.wait_for(lambda c: c.prices == [7], 5, "the message")
    stamp = client.state().get("recv_us")
    assert before <= stamp <= now_us() if flags else stamp is None
    assert not any("recv_us" in answer for answer in client.answers)


async def test_states_have_the_time_and_the_bus_has_its_stage(nats, start_weirgate):
    weirgate = start_weirgate("levels", "--stamp", nats=nats).wait_ready()
    client = await connect(weirgate.port)
    before = now_us()
    async with publisher(nats) as bus:
        await bus.flow({"n": 1})
        await client.wait_for(lambda c: c.messages == 1, 5, "the state")
        late = await connect(weirgate.port)
        await late.wait_for(lambda c: c.messages == 1, 5, "the state for a new client")
    stamp = client.state()["recv_us"]
    assert before <= stamp <= now_us() and late.state() == client.state()
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_stage_duration_seconds_count", stage="bus") == 1
    assert 0 < metrics.sum("weirgate_stage_duration_seconds_sum", stage="bus") < 5
