"""Channels: a payload that is JSON comes as it is and any other as `{"raw":…}`, however it comes from the bus and however large it is."""
import json

import clients
import pytest
from redis_gateways import CHANNELS
from test_channels_nats import EVERYTHING, Reader, bus

LONG = 400_000
# Around the size from which a text is made before the loop gets the message, and from which frames share it.
PAYLOADS = [b'{"n": 1.50}', b"no json", b"[1,]", b"\xff\xfe", b'{"a":' + b"[" * 600 + b"]" * 600 + b"}",
            json.dumps(["x" * 100] * 4_000).encode(), b"line\r\n\"" * (LONG // 7), b"\xc3" * (LONG // 3), b"1" * LONG]
HISTORY = ("--history-ms", "60000")


def as_text(payload):
    """What a client gets as `data`."""
    try:
        text = payload.decode()
        return {"raw": text} if payload.startswith(b'{"a":[[') else json.loads(text, parse_int=str)
    except ValueError:
        return {"raw": payload.decode(errors="replace")}


class Texts(Reader):
    """Keeps the data with long numbers as texts."""

    def take(self, opcode, payload):
        clients.Client.take(self, opcode, payload)
        if opcode != clients.TEXT:
            return
        message = json.loads(payload, parse_int=str)
        (self.data if message["type"] == "data" else self.answers).append(message)


async def subscribed(weirgate, name, **more):
    client = await clients.connect(weirgate.port, path=CHANNELS.path, make=Texts)
    await client.wait_for(lambda c: c.answers, 20, "connected")
    client.say({"action": "subscribe", "channels": [name], **more})
    await client.wait_for(lambda c: len(c.answers) > 1, 20, "subscribed")
    return client


async def has_all(client, payloads=PAYLOADS):
    await client.wait_for(lambda c: len(c.data) >= len(payloads), 30, f"{len(payloads)} messages")
    wanted = sorted(json.dumps(as_text(payload)) for payload in payloads)
    assert sorted(json.dumps(message["data"]) for message in client.data) == wanted


@pytest.mark.parametrize("kept", [False, True], ids=["live", "stream"])
async def test_on_redis(start_weirgate, redis_server, kept):
    flags = ("--stream", "ticks", *HISTORY) if kept else ()
    weirgate = start_weirgate("channels", *flags, redis=redis_server, env=EVERYTHING).wait_ready()
    client = await subscribed(weirgate, "a")
    with redis_server.client() as publisher:
        for payload in PAYLOADS:
            if kept:
                publisher.xadd("ticks", {"channel": "a", "data": payload})
            else:
                publisher.publish("a", payload)
    await has_all(client)
    if kept:
        await has_all(await subscribed(weirgate, "a", last="all"))


@pytest.mark.parametrize("kept", [(), ("--stream", "KEPT", *HISTORY), ("--retained",)], ids=["live", "stream", "retained"])
async def test_on_nats(start_weirgate, nats, kept):
    publisher = await bus(nats)
    if kept:
        await publisher.jetstream(timeout=10).add_stream(name="KEPT", subjects=["kept.>"])
    weirgate = start_weirgate("channels", "--bus", nats.url, *kept, env=EVERYTHING).wait_ready()
    name = "kept.*"
    client = await subscribed(weirgate, name)
    for number, payload in enumerate(PAYLOADS):
        await publisher.publish(f"kept.{number}", payload)
        await publisher.flush()
    await has_all(client)
    if kept:
        await has_all(await subscribed(weirgate, name, **({} if "--retained" in kept else {"last": "all"})))
    await publisher.close()
