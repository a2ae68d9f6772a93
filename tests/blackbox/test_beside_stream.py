"""`--stream` with names that the stream does not hold: each name says where it comes from, and comes from there."""
import asyncio
import json

import clients
import nats as nats_py
import pytest
from nats.js.api import StreamConfig
from redis_gateways import CHANNELS
from waiting import until

EVERYTHING = {"DEFAULT_ROLE": "internal"}


class Reader(clients.Client):
    """A client that keeps its messages by type."""

    def __init__(self, *args):
        super().__init__(*args)
        self.all = []

    def take(self, opcode, payload):
        super().take(opcode, payload)
        if opcode == clients.TEXT:
            self.all.append(json.loads(payload))

    def of(self, kind):
        return [message for message in self.all if message["type"] == kind]

    def data(self, name):
        return [m["data"] for m in self.of("data") if name in (m["channel"], m["pattern"])]


async def subscribe(weirgate, names, **more):
    client = await clients.connect(weirgate.port, path=CHANNELS.path, make=Reader)
    client.say({"action": "subscribe", "channels": names, **more})
    await client.wait_for(lambda c: c.of("subscribed"), 20, "an answer")
    return client, client.of("subscribed")[0]


@pytest.fixture
def start(start_weirgate, start_nats):
    """await start(*flags) → server, its connection, a gateway on the stream MARKET with the subject market.>"""
    async def start(*flags):
        server = start_nats(jetstream=True)
        connection = await nats_py.connect(server.url)
        await connection.jetstream().add_stream(StreamConfig(name="MARKET", subjects=["market.>"]))
        weirgate = start_weirgate("channels", "--bus", server.url, "--stream", "MARKET", "--history-ms", "60000", *flags, env=EVERYTHING)
        await until(lambda: weirgate.ready_status() == 200, 20, "ready")
        return server, connection, weirgate
    return start


async def test_each_name_comes_from_where_it_says(start):
    _, connection, weirgate = await start("--retained")
    bucket = await connection.jetstream().create_key_value(bucket="stock")
    await bucket.put("plums", b"7")
    await connection.jetstream().publish("market.a", b"1")
    names = ["market.a", "market.*", "markt.a", "$KV.stock.*", "*.a"]
    client, answer = await subscribe(weirgate, names, last=1, status=True)
    assert answer["channels"] == names and answer["errors"] == []
    brings = answer["brings"]
    assert [brings[name]["from"] for name in names] == ["stream", "stream", "retained", "retained", "stream"]
    assert all("reach_ms" in brings[name] for name in names if brings[name]["from"] == "stream")
    assert "reach_ms" not in brings["markt.a"] and brings["market.a"]["newest_age_ms"] >= 0
    await client.wait_for(lambda c: c.data("$KV.stock.*") == [7] and c.data("market.a"), 20, "the last values")
    await connection.publish("markt.a", b"2")
    await bucket.put("plums", b"8")
    await connection.jetstream().publish("market.a", b"3")
    await client.wait_for(lambda c: c.data("markt.a") == [2] and c.data("$KV.stock.*") == [7, 8] and 3 in c.data("*.a"), 20, "live")
    assert {m["channel"] for m in client.of("data") if "pos" in m} == {"market.a"}
    again, answer = await subscribe(weirgate, ["markt.a", "market.a"], since=client.of("data")[-1].get("pos") or "x")
    assert answer["recovered"]["markt.a"] is False and answer["why"]["markt.a"] == "off" and "brings" not in answer
    client.abort()
    again.abort()
    await connection.close()


async def test_an_outage_loses_nothing_of_the_stream_and_says_what_it_loses_beside_it(start):
    server, connection, weirgate = await start()
    inside, _ = await subscribe(weirgate, ["market.a"], status=True)
    beside, _ = await subscribe(weirgate, ["markt.a"], status=True)
    await connection.close()
    server.kill()
    await inside.wait_for(lambda c: [m["bus"] for m in c.of("status")][-1:] == ["away"], 30, "away")
    server.start()
    for client in (inside, beside):
        await client.wait_for(lambda c: c.of("status") and c.of("status")[-1]["bus"] == "up", 60, "up")
    assert not any(m.get("lost") for m in inside.of("status"))
    assert any(m.get("lost") for m in beside.of("status"))
    connection = await nats_py.connect(server.url)
    await connection.jetstream().publish("market.a", b"1")
    await connection.publish("markt.a", b"2")
    await inside.wait_for(lambda c: c.data("market.a") == [1], 30, "the stream")
    await beside.wait_for(lambda c: c.data("markt.a") == [2], 30, "the bus")
    await connection.close()


async def test_names_move_when_the_stream_gets_other_subjects(start):
    _, connection, weirgate = await start()
    client, answer = await subscribe(weirgate, ["markt.a", "market.a"], status=True)
    assert answer["brings"]["markt.a"]["from"] == "live"
    await connection.jetstream().update_stream(StreamConfig(name="MARKET", subjects=["markt.>"]))
    for _ in range(200):
        other, answer = await subscribe(weirgate, ["markt.a"], status=True)
        other.abort()
        if answer["brings"]["markt.a"]["from"] == "stream":
            break
        await asyncio.sleep(0.1)
    assert answer["brings"]["markt.a"]["from"] == "stream"
    # What was published of a name between the two is lost, and its clients hear so when the bus brings the name.
    await client.wait_for(lambda c: any(m.get("lost") for m in c.of("status")), 20, "the loss")
    await connection.jetstream().publish("markt.a", b"1")
    await connection.publish("market.a", b"2")
    await client.wait_for(lambda c: c.data("markt.a") and c.data("market.a"), 20, "both")
    assert client.data("markt.a") == [1] and client.data("market.a") == [2]
    client.say({"action": "unsubscribe", "channels": ["markt.a", "market.a"]})
    await client.wait_for(lambda c: c.of("unsubscribed"), 20, "given up")
    await connection.close()


async def test_a_last_value_beside_the_stream_comes_though_nats_was_away_at_the_start(start_weirgate, start_nats):
    server = start_nats(jetstream=True)
    connection = await nats_py.connect(server.url)
    await connection.jetstream().add_stream(StreamConfig(name="MARKET", subjects=["market.>"]))
    bucket = await connection.jetstream().create_key_value(bucket="stock")
    await bucket.put("plums", b"7")
    await connection.close()
    server.kill()
    weirgate = start_weirgate("channels", "--bus", server.url, "--stream", "MARKET", "--history-ms", "60000", "--retained", env=EVERYTHING)
    await asyncio.sleep(5.5)
    client, _ = await subscribe(weirgate, ["$KV.stock.plums", "market.a"], status=True)
    server.start()
    await client.wait_for(lambda c: c.data("$KV.stock.plums") == [7], 30, "the last value")
    client.abort()
