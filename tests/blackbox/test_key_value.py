"""A key-value bucket of NATS: a key that is deleted or purged is gone for everybody, also for new clients and after a restart."""
import asyncio
import json

import pytest
import websockets
from nats.js.api import KeyValueConfig
from test_channels_nats import EVERYTHING, bus, connect

HISTORY = ("--history-ms", "60000")


async def a_bucket(nats):
    connection = await bus(nats)
    return connection, await connection.jetstream().create_key_value(KeyValueConfig(bucket="cfg", history=3))


async def state(weirgate, condition):
    """The first state of a new client for which the condition holds."""
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/ws/stream") as client:
        while True:
            value = json.loads(await asyncio.wait_for(client.recv(), 10))
            if condition(value):
                return value


@pytest.mark.parametrize("removes", ["delete", "purge"])
async def test_levels_forget_a_key_also_after_a_restart(removes, nats, start_weirgate):
    connection, bucket = await a_bucket(nats)
    await connection.jetstream().add_stream(name="MARKET_DATA", subjects=["market.flow"])
    await bucket.put("banner", b'{"text": "hello"}')
    start = lambda: start_weirgate("levels", "--relay", "$KV.cfg.banner=banner", "--ephemeral", nats=nats).wait_ready()
    one = start()
    await connection.jetstream().publish("market.flow", b"1")
    assert (await state(one, lambda s: "banner" in s))["banner"] == {"text": "hello"}
    async with websockets.connect(f"ws://127.0.0.1:{one.port}/ws/stream") as client:
        while json.loads(await asyncio.wait_for(client.recv(), 10)) != {"flow": 1, "banner": {"text": "hello"}}:
            pass
        await getattr(bucket, removes)("banner")
        assert json.loads(await asyncio.wait_for(client.recv(), 10)) == {"flow": 1}
    other = start()
    for instance in (one, other):
        assert await state(instance, lambda s: "flow" in s) == {"flow": 1}, "no older value comes back"
    await bucket.put("banner", b"2")
    for instance in (one, other):
        assert (await state(instance, lambda s: "banner" in s))["banner"] == 2
    await connection.close()


@pytest.mark.parametrize("how", ["plain", "retained", "kept", "stream"])
async def test_channels_say_what_was_deleted(how, nats, start_weirgate):
    connection, bucket = await a_bucket(nats)
    flags = {"plain": (), "retained": ("--retained",), "kept": (*HISTORY, "--history-names", "$KV.cfg.>"),
             "stream": (*HISTORY, "--stream", "KV_cfg")}[how]
    weirgate = start_weirgate("channels", "--bus", nats.url, *flags, env=EVERYTHING).wait_ready()
    names = ("$KV.cfg.a", "$KV.cfg.*")
    client = await connect(weirgate, *names)
    await bucket.put("a", b"1")
    await client.wait_for(lambda c: len(c.data) == 2, 10, "the value, for each name")
    before = client.data[-1].get("pos")
    await bucket.delete("a")
    await client.wait_for(lambda c: len(c.data) == 4, 10, "the deletion, for each name")
    assert all(m["data"] is None and m["deleted"] is True for m in client.data[2:]) and client.missing == 0
    assert not any("deleted" in m for m in client.data[:2])
    late = await connect(weirgate)
    request = {"action": "subscribe", "channels": list(names)}
    if before:
        for more, count in (({"since": before}, 2), ({"last": 1}, 2)):
            late = await connect(weirgate)
            late.say({**request, **more})
            await late.wait_for(lambda c, count=count: len(c.data) == count, 10, "the deletion")
            assert all(m["data"] is None and m["deleted"] is True for m in late.data), more
    elif how == "retained":
        late.say(request)
        await late.wait_for(lambda c: len(c.data) == 2, 10, "the last value, for each name")
        assert all(m["data"] is None and m["deleted"] is True and m["retained"] is True for m in late.data)
    await connection.close()
