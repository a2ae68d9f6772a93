"""The newest messages of a stream are bad, and weirgate is started again: clients get the last good state."""
import json

import pytest
from bus import FLOW, LEVELS, publisher
from clients import connect
from waiting import until

BAD = b'{"cut off'
NOISE = "market.noise"


async def published(nats, good_flow, good_levels, bad, noise=0):
    """A good message of each subject, with others of the stream between it and so many bad ones."""
    async with publisher(nats) as bus:
        await bus.streams.publish(FLOW, json.dumps(good_flow).encode())
        await bus.levels(good_levels)
        for _ in range(bad):
            for _ in range(noise):
                await bus.connection.publish(NOISE, b"{}")
            await bus.streams.publish(FLOW, BAD)
            await bus.streams.publish(LEVELS, BAD)


def metric(weirgate, name):
    [line] = [line for line in weirgate.get("/metrics")[2].splitlines() if line.startswith(name + " ")]
    return float(line.split()[1])


@pytest.mark.parametrize("was_there", [True, False], ids=["bad-while-it-ran", "bad-while-it-was-away"])
@pytest.mark.parametrize("noise", [0, 50])
async def test_a_restart_keeps_the_last_good_state(nats, start_weirgate, was_there, noise):
    good, levels = {"n": 1}, {"ts": 1_700_000_000_000, "levels": []}
    first = start_weirgate(nats=nats).wait_ready()
    if was_there:
        await published(nats, good, levels, 3, noise)
        await until(lambda: first.get("/stats")[2].count('"bad":3') == 2, 10, "three bad messages of each subject")
    first.send(15)
    first.wait(10)
    if not was_there:
        await published(nats, good, levels, 3, noise)
    weirgate = start_weirgate(nats=nats).wait_ready()
    client = await connect(weirgate.port)
    await client.wait_for(lambda c: c.messages > 0, 5, "the state")
    assert client.state()["flow"] == good and client.state()["levels"]["ts"] == levels["ts"]
    for subject in [FLOW, LEVELS]:
        [line] = weirgate.lines_with("the newest messages of a subject are bad", subject)
        assert "bad=3" in line, line
    assert metric(weirgate, "weirgate_bus_look_backs_limited_total") == 0
    # What comes next is taken as ever.
    async with publisher(nats) as bus:
        await bus.flow({"n": 2})
    await client.wait_for(lambda c: c.state()["flow"] == {"n": 2}, 5, "the next message")
