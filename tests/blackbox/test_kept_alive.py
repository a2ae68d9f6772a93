"""WebSockets on connections that served plain HTTP before, byte by byte; and the admin address."""
import asyncio
import json
import signal
import socket
import urllib.error
import urllib.request

from bus import publisher
from clients import CLOSE, TEXT, FrameReader, client_frame, connect, upgrade_request
from processes import free_port
from waiting import until

GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class Raw:
    """A connection on which a test decides what goes into each packet."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(reader, writer)

    async def send(self, *packets):
        for packet in packets:
            self.writer.write(packet)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def head(self):
        """(status, headers with lower-case names) of the next answer."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 60)).decode()
        status, *lines = head.rstrip().split("\r\n")
        return int(status.split()[1]), {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    async def answer(self):
        """(status, body) of the next answer."""
        status, headers = await self.head()
        return status, await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), 60)

    async def message(self):
        """The next text message."""
        frames = FrameReader()
        while True:
            data = await asyncio.wait_for(self.reader.read(1 << 16), 60)
            assert data, "the connection ended"
            for opcode, payload in frames.feed(data):
                if opcode == TEXT:
                    return json.loads(payload)


async def test_an_upgrade_may_follow_plain_requests_in_any_packets(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    port = weirgate.port
    async with publisher(nats) as bus:
        await bus.flow({"n": 1})
        await until(lambda: weirgate.health()["last_message_ts"], 5, "the message in the cache")
        upgrade, frames = upgrade_request(port), client_frame(TEXT, b"ignored") + client_frame(TEXT, b"too")
        every_byte = [bytes([byte]) for byte in GET_HEALTH + upgrade]
        head = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
        unknown = b"DELETE /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        clients = []
        for plain, packets in (
                ([200], [GET_HEALTH + upgrade]),
                ([200], [GET_HEALTH, upgrade + frames]),
                ([200, 405, 200], [GET_HEALTH + unknown, GET_HEALTH + upgrade[:70], upgrade[70:] + frames]),
                ([200], every_byte),
                ([200] * 500, [GET_HEALTH * 500 + upgrade + frames])):
            raw = await Raw.connect(port)
            await raw.send(*packets)
            for status in plain:
                assert (await raw.answer())[0] == status
            assert (await raw.head())[0] == 101
            assert await raw.message() == {"flow": {"n": 1}}
            clients.append(raw)
        raw = await Raw.connect(port)
        await raw.send(head)
        assert (await raw.head())[0] == 200
        await raw.send(upgrade)
        assert (await raw.head())[0] == 101
        clients.append(raw)
        await until(lambda: weirgate.health()["connections"] == len(clients), 5, "all of them open")
        assert await raw.message() == {"flow": {"n": 1}}
        await bus.flow({"n": 2})
        for raw in clients:
            assert await raw.message() == {"flow": {"n": 2}}
            raw.writer.close()
    await until(lambda: weirgate.health()["connections"] == 0, 5, "all of them gone")


async def test_a_thousand_requests_of_both_kinds(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    opened = 0
    for _ in range(20):
        many = await asyncio.gather(*(Raw.connect(weirgate.port) for _ in range(10)))
        for raw in many:
            await raw.send(GET_HEALTH * 2)
        for n, raw in enumerate(many):
            for _ in range(2):
                assert (await raw.answer())[0] == 200
            await raw.send(GET_HEALTH, upgrade_request(weirgate.port))
            assert (await raw.answer())[0] == 200
            assert (await raw.head())[0] == 101
            opened += 1
        for raw in many:
            raw.writer.close()
    assert opened == 200
    await until(lambda: stats(weirgate.http_url)["connections"]["open"] == 0, 10, "all closed")
    assert stats(weirgate.http_url)["outcomes"]["opened"] == opened
    assert stats(weirgate.http_url)["returned"] == opened


def stats(url):
    with urllib.request.urlopen(url + "/stats", timeout=5) as answer:
        return json.load(answer)


async def test_an_upgrade_on_a_kept_connection_is_refused_while_stopping(nats, start_weirgate):
    weirgate = start_weirgate("levels", "--drain-ms", "5000", nats=nats).wait_ready()
    client = await connect(weirgate.port)
    kept = await Raw.connect(weirgate.port)
    await kept.send(GET_HEALTH)
    assert (await kept.answer())[0] == 200
    weirgate.send(signal.SIGTERM)
    await until(lambda: weirgate.ready_status() in (503, 0), 2, "/ready 503 while draining", every=0.02)
    await kept.send(upgrade_request(weirgate.port))
    status, headers = await kept.head()
    assert (status, headers["retry-after"]) == (503, "1")
    client.abort()
    assert await asyncio.to_thread(weirgate.wait, 10) == 0


async def test_upgrades_in_the_moment_of_a_stop_end_one_way_or_the_other(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    kept = await asyncio.gather(*(Raw.connect(weirgate.port) for _ in range(150)))
    for raw in kept:
        await raw.send(GET_HEALTH)
        assert (await raw.answer())[0] == 200

    async def ask(number, raw):
        """What came of an upgrade: a close code after the 101, a status, or None for a cut connection."""
        await asyncio.sleep(number * 0.002)
        try:
            await raw.send(upgrade_request(weirgate.port))
            if (status := (await raw.head())[0]) != 101:
                return status
            frames = FrameReader().feed(await asyncio.wait_for(raw.reader.read(), 60))
            return next((int.from_bytes(payload[:2], "big") for opcode, payload in frames if opcode == CLOSE), None)
        except (ConnectionError, asyncio.IncompleteReadError):
            return None
        finally:
            raw.writer.close()

    asked = [asyncio.create_task(ask(number, raw)) for number, raw in enumerate(kept)]
    await until(lambda: weirgate.health()["connections"] > 0, 10, "the first one open", every=0)
    weirgate.send(signal.SIGTERM)
    outcomes = set(await asyncio.gather(*asked))
    assert outcomes <= {1012, 503, None}, outcomes
    assert 1012 in outcomes, "the one that was open"
    assert await asyncio.to_thread(weirgate.wait, 10) == 0


def status_of(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


async def test_the_admin_address_has_the_operators_pages(nats, start_weirgate):
    admin = free_port()
    weirgate = start_weirgate("levels", "--admin-addr", f"127.0.0.1:{admin}", nats=nats)
    await until(lambda: status_of(admin, "/ready") == 200, 20, "/ready 200 on the admin address")
    client = await connect(weirgate.port)
    for path, public, private in (
            ("/health", 200, 200), ("/", 200, 200), ("/weirgate.js", 200, 404), ("/ready", 404, 200), ("/stats", 404, 200),
            ("/metrics", 404, 200), ("/operator/", 404, 200), ("/operator/state", 404, 200)):
        assert (status_of(weirgate.port, path), status_of(admin, path)) == (public, private), path
    raw = await Raw.connect(admin)
    await raw.send(upgrade_request(admin))
    assert await raw.answer() == (403, b'{"detail":"No WebSocket here"}')
    weirgate.send(signal.SIGTERM)
    await asyncio.wait_for(client.ended, 60)
    assert await asyncio.to_thread(weirgate.wait, 5) == 0


def test_an_admin_address_in_use_ends_the_start(nats, start_weirgate):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        weirgate = start_weirgate("levels", "--admin-addr", address, nats=nats)
        assert weirgate.wait(10) == 1
    assert f"cannot listen on {address}: Address already in use" in weirgate.log()
