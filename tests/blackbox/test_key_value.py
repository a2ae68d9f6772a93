"""A key-value bucket of NATS in every way that weirgate shows it: keys that are put, deleted, purged, expired and put again,
for connected, new and returning clients, WebSockets and event streams, over a restart of the server and of weirgate."""
import asyncio
import json
import threading

import event_stream
import pytest
from test_channels_nats import EVERYTHING, bus
from waiting import until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as websocket

HISTORY = ("--history-ms", "60000")
SECOND_NS = 1_000_000_000
CHANNELS = {"plain": (), "retained": ("--retained",), "kept": (*HISTORY, "--history-names", "$KV.cfg.>", "--bus-settle-ms", "0"),
            "stream": (*HISTORY, "--stream", "KV_cfg")}
NAMES = ("$KV.cfg.*", "$KV.cfg.a", "$KV.cfg.b", "$KV.cfg.e")
PUT = [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]
#: Deleted, purged, expired with a marker; deleted and put again.
CHANGED = [("b", None), ("c", None), ("d", None), ("e", None), ("e", 2)]
NEWEST = [("a", 1), ("b", None), ("c", None), ("d", None), ("e", 2)]


class Watch:
    """A client that keeps all messages as JSON. `pos` is the newest position."""

    def __init__(self, weirgate, path, is_stream, *sends, since=None):
        self.messages, self.pos = [], since
        if is_stream:
            again = [f"Last-Event-ID: {since}"] if since else []
            link = event_stream.Stream(weirgate.port, path, *again, sends=sends)
            assert link.status == 200
            texts = (text for kind, text in iter(link.event, None) if kind == "message")
        else:
            texts = self._websocket(f"ws://127.0.0.1:{weirgate.port}{path}", [{**one, **({"since": since} if since else {})} for one in sends])
        threading.Thread(target=self._read, args=(texts,), daemon=True).start()

    @staticmethod
    def _websocket(url, sends):
        with websocket(url, compression=None) as link:
            for message in sends:
                link.send(json.dumps(message))
            yield from link

    def _read(self, texts):
        try:
            for text in texts:
                message = json.loads(text)
                self.pos = message.get("pos", self.pos)
                self.messages.append(message)
        except (OSError, ValueError, ConnectionClosed):
            pass

    def answer(self):
        return next((m for m in self.messages if m["type"] == "subscribed"), None)

    def came(self, name):
        """(key, data) for this name, in order; a deletion has no data, and says so."""
        found = []
        for message in list(self.messages):
            if message["type"] == "data" and name == (message["pattern"] or message["channel"]):
                assert ("deleted" in message) == (message["data"] is None), message
                found.append((message["channel"].removeprefix("$KV.cfg."), message["data"]))
        return found

    async def has(self, wanted, what, in_order=True):
        """Waits until each name has got exactly this."""
        order = list if in_order else sorted

        def differs():
            of = lambda name: [one for one in wanted if name in ("$KV.cfg.*", f"$KV.cfg.{one[0]}")]
            return [(name, self.came(name)) for name in NAMES if order(self.came(name)) != order(of(name))]
        try:
            await until(lambda: not differs(), 5, what)
        except AssertionError:
            raise AssertionError(f"{what}: {differs()} for {wanted}") from None


async def a_bucket(nats, **more):
    """A connection, and a function that puts a value, or removes a key in one of the three ways."""
    connection = await bus(nats)
    stream = connection.jetstream()
    config = {"name": "KV_cfg", "subjects": ["$KV.cfg.>"], "max_msgs_per_subject": 3, "allow_rollup_hdrs": True, "max_consumers": -1,
              "retention": "limits", "storage": "file", "num_replicas": 1, **more}
    answer = json.loads((await connection.request("$JS.API.STREAM.CREATE.KV_cfg", json.dumps(config).encode())).data)
    assert "error" not in answer, answer

    bucket = await stream.key_value("cfg")

    async def change(key, value, how=0):
        if value is not None:
            await bucket.put(key, json.dumps(value).encode())
        elif how == 2:
            await stream.publish(f"$KV.cfg.{key}", b"", headers={"Nats-Marker-Reason": "MaxAge"})
        else:
            await (bucket.purge(key) if how else bucket.delete(key))
    return connection, change


async def all_of(change, changes):
    for at, (key, value) in enumerate(changes):
        await change(key, value, at % 3)


@pytest.mark.parametrize("is_stream", [False, True], ids=["websocket", "event-stream"])
@pytest.mark.parametrize("how", CHANNELS)
async def test_channels(how, is_stream, nats, start_weirgate):
    connection, change = await a_bucket(nats)
    start = lambda: start_weirgate("channels", "--bus", nats.url, "--event-stream", *CHANNELS[how], env=EVERYTHING).wait_ready()
    one, request = start(), {"action": "subscribe", "channels": list(NAMES)}
    has_positions = how in ("kept", "stream")

    async def come(weirgate, what, more=None, **kwargs):
        client = Watch(weirgate, "/ws", is_stream, {**request, **(more or {})}, **kwargs)
        await until(client.answer, 5, f"{what}: the answer")
        return client

    live = await come(one, "connected")
    await all_of(change, PUT)
    await live.has(PUT, "the values")
    before = live.pos
    await all_of(change, CHANGED)
    await live.has(PUT + CHANGED, "the changes")
    assert [message["seq"] for message in live.messages] == list(range(1, len(live.messages) + 1))

    async def newest(weirgate, what, wanted):
        """What a new client gets."""
        client = await come(weirgate, what, {"last": 1} if has_positions else None)
        await client.has([] if how == "plain" else wanted, what, in_order=False)
        assert all(m.get("retained", False) == (how == "retained") for m in client.messages if m["type"] == "data")

    await newest(one, "a new client", NEWEST)
    if has_positions:
        back = await come(one, "a client that comes back", since=before)
        assert all(back.answer()["recovered"].values()), back.answer()
        await back.has(CHANGED, "what it missed")
    nats.kill()
    nats.start()
    connection, put = await connection_again(nats, connection)
    await until(lambda: one.ready_status() == 200, 20, "the bus again")
    await until(lambda: any(m["type"] == "status" and m.get("bus") == "up" for m in live.messages) or not has_positions, 20, "its status")
    seen = len(live.came(NAMES[0]))
    await until_it_comes(put, live, seen)
    await newest(one, "a new client after a restart of the server", [("a", 3), *NEWEST[1:]])
    one.send(15)
    one.wait(10)
    other = start()
    if how == "stream":
        back = await come(other, "a client that comes back to another instance", since=before)
        assert all(back.answer()["recovered"].values()), back.answer()
        await until(lambda: back.came(NAMES[0])[:len(CHANGED)] == CHANGED and back.came(NAMES[0])[-1] == ("a", 3), 5, "what it missed")
        assert back.came("$KV.cfg.b") == [("b", None)]
    await newest(other, "a new client after a restart", [] if how == "kept" else [("a", 3), *NEWEST[1:]])
    await connection.close()


async def connection_again(nats, old):
    """A connection to the server after its restart, and a function that puts a value."""
    await old.close()
    connection = await bus(nats)
    bucket = await connection.jetstream().key_value("cfg")

    async def put(key, value):
        await bucket.put(key, json.dumps(value).encode())
    return connection, put


async def until_it_comes(put, live, seen):
    """Puts until the client has a value: without positions nobody says when the names are subscribed again."""
    came = lambda: live.came(NAMES[0])[seen:]
    for _ in range(100):
        await put("a", 3)
        for _ in range(10):
            if ("a", 3) in came():
                assert set(came()) <= {("a", 3), *NEWEST}, "last values may come again"
                return
            await asyncio.sleep(0.05)
    raise AssertionError(f"no value after the outage: {came()}")


def levels_of(client):
    """The newest state."""
    return client.messages[-1] if client.messages else None


@pytest.mark.parametrize("is_stream", [False, True], ids=["websocket", "event-stream"])
@pytest.mark.parametrize("flags", [(), ("--ephemeral",)], ids=["durable", "ephemeral"])
async def test_levels(flags, is_stream, nats, start_weirgate):
    connection, change = await a_bucket(nats)
    relays = [flag for key in "abcde" for flag in ("--relay", f"$KV.cfg.{key}={key}")]
    start = lambda: start_weirgate("levels", "--event-stream", *relays, *flags, nats=nats).wait_ready()
    one = start()

    async def shows(client, wanted, what):
        state = {key: value for key, value in wanted if value is not None}
        await until(lambda: levels_of(client) == state, 10, f"{what}: {levels_of(client)} for {state}")

    live = Watch(one, "/ws/stream", is_stream)
    await all_of(change, PUT)
    await shows(live, PUT, "the values")
    await all_of(change, CHANGED)
    await shows(live, NEWEST, "the changes")
    await shows(Watch(one, "/ws/stream", is_stream), NEWEST, "a new client")
    nats.kill()
    nats.start()
    connection, put = await connection_again(nats, connection)
    await put("a", 3)
    await shows(live, [("a", 3), *NEWEST[1:]], "after a restart of the server")
    one.send(15)
    one.wait(10)
    other = start()
    await shows(Watch(other, "/ws/stream", is_stream), [("a", 3), *NEWEST[1:]], "after a restart")
    await put("b", 4)
    await shows(Watch(other, "/ws/stream", is_stream), [("a", 3), ("b", 4), *NEWEST[2:]], "put again")
    await connection.close()


async def expiring(nats):
    """A bucket with a key that is about to expire, and whether the server writes a marker then: nats-server 2.11 does."""
    # The marker stays as long as the value did.
    connection, change = await a_bucket(nats, max_age=6 * SECOND_NS, allow_msg_ttl=True, subject_delete_marker_ttl=60 * SECOND_NS)
    version = connection.connected_server_version
    writes_markers = (version.major, version.minor) >= (2, 11)

    async def is_gone():
        """Waits until the value is out of the bucket."""
        for _ in range(300):
            info = json.loads((await connection.request("$JS.API.STREAM.INFO.KV_cfg", b"")).data)["state"]
            if info["last_seq"] > 1 if writes_markers else info["messages"] == 0:
                return await connection.close()
            await asyncio.sleep(0.1)
        raise AssertionError(info)
    return writes_markers, change, is_gone


@pytest.mark.parametrize("how", CHANNELS)
async def test_a_key_of_channels_expires(how, nats, start_weirgate):
    """The server stores the marker, and does not publish it: only a stream has it live."""
    writes_markers, change, is_gone = await expiring(nats)
    weirgate = start_weirgate("channels", "--bus", nats.url, *CHANNELS[how], env=EVERYTHING).wait_ready()
    request = {"action": "subscribe", "channels": list(NAMES)}
    live = Watch(weirgate, "/ws", False, request)
    await until(live.answer, 5, "the answer")
    await change("a", 1)
    gone = [("a", None)] if writes_markers else []
    wanted = [("a", 1), *(gone if how == "stream" else [])]
    await is_gone()
    await live.has(wanted, "a connected client")
    new = Watch(weirgate, "/ws", False, {**request, **({"last": 1} if how in ("kept", "stream") else {})})
    await until(new.answer, 5, "the answer")
    await new.has({"plain": [], "retained": gone}.get(how, wanted[-1:]), "a new client")
    await live.has(wanted, "a connected client, later")


async def test_a_key_of_levels_expires(nats, start_weirgate):
    """Without a marker the value stays until a restart."""
    writes_markers, change, is_gone = await expiring(nats)
    start = lambda: start_weirgate("levels", "--relay", "$KV.cfg.a=a", "--relay", "$KV.cfg.b=b", "--ephemeral", nats=nats).wait_ready()
    weirgate = start()
    live = Watch(weirgate, "/ws/stream", False)
    await change("a", 1)
    await until(lambda: levels_of(live) == {"a": 1}, 10, "the value")
    await is_gone()
    await until(lambda: levels_of(live) == ({} if writes_markers else {"a": 1}), 10, "what is left")
    other = start()
    connection = await bus(nats)
    await connection.jetstream().publish("$KV.cfg.b", b"2")
    new = Watch(other, "/ws/stream", False)
    await until(lambda: levels_of(new) == {"b": 2}, 10, "the state after a restart")
    await connection.close()
