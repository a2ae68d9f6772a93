"""A nats-server that stands still under clients: everything that was published meanwhile arrives when it goes on."""
import asyncio
import json
import time

import clients
import pytest
from test_channels_nats import EVERYTHING, bus, connect, say
from waiting import until

SECONDS = 4
MESSAGES = 100
SUBJECTS = {"levels": "market.flow", "channels": "market.tick.A"}


class Flow(clients.Client):
    """A client of levels that keeps every flow message."""

    def __init__(self, *args):
        super().__init__(*args)
        self.data = []

    def take(self, opcode, payload):
        super().take(opcode, payload)
        if opcode == clients.TEXT:
            self.data.append({"data": json.loads(payload)["flow"]})


@pytest.mark.parametrize("kind", ["channels", "levels"])
async def test_a_server_that_stands_still_costs_no_message(nats, start_weirgate, kind):
    subject = SUBJECTS[kind]
    if kind == "channels":
        weirgate = start_weirgate("channels", "--bus", nats.url, env=EVERYTHING).wait_ready()
        client = await connect(weirgate, subject)
    else:
        weirgate = start_weirgate("levels", nats=nats).wait_ready()
        client = await clients.connect(weirgate.port, make=Flow)
    publisher = await bus(nats)
    await say(publisher, subject, -1)
    await client.wait_for(lambda c: c.data, 10, "the first message")
    nats.freeze()
    frozen = time.monotonic()
    for n in range(MESSAGES):
        await publisher.publish(subject, json.dumps(n).encode())
    await asyncio.wait_for(publisher._flush_pending(), 60)
    await until(lambda: not weirgate.health()["nats_connected"], 10, "the silence is noticed")
    await asyncio.sleep(SECONDS - (time.monotonic() - frozen))
    nats.thaw()
    await client.wait_for(lambda c: len(c.data) > MESSAGES, 15, "all messages")
    await until(lambda: weirgate.health()["nats_connected"], 10, "the end of the silence")
    assert [m["data"] for m in client.data] == list(range(-1, MESSAGES))
    assert getattr(client, "missing", 0) == 0
    await publisher.close()
