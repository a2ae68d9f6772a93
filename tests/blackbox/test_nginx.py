"""nginx in front, as deploy/nginx/weirgate.conf sets it up: kept-alive connections, upgrades, idling, stops."""
import asyncio
import http.client
import json
import signal
import socket
import types

import pytest
import websockets
from bus import publisher
from clients import connect, connect_many
from event_stream import Stream
from prometheus import scrape
from proxies import Nginx
from waiting import until


@pytest.fixture
def start_nginx(started):
    """start_nginx(weirgate, …, replace=[(line, other line)]) → Nginx before them"""
    def start(*weirgates, replace=()):
        started.append(Nginx(*(w.port for w in weirgates), replace=replace))
        return started[-1]
    return start


def get(port, path, method="GET", source=None):
    """(status, body) of one request on a connection of its own."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5, source_address=source and (source, 0))
    try:
        link.request(method, path)
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()


async def test_plain_requests_and_upgrades_share_kept_alive_connections(nats, start_weirgate, start_nginx):
    weirgate = start_weirgate(nats=nats).wait_ready()
    nginx = start_nginx(weirgate)
    before = scrape(weirgate).sum("weirgate_connections_accepted_total")
    async with publisher(nats) as bus:
        await bus.flow({"n": 1})
        await until(lambda: weirgate.health()["last_message_ts"], 5, "the message in the cache")
        asked = scrape(weirgate).sum("weirgate_connections_accepted_total") - before
        rounds, plain = 40, 4
        for n in range(rounds):
            for path, status in (("/health", 200), ("/", 200), ("/nothing", 404), ("/health", 200)):
                assert (await asyncio.to_thread(get, nginx.port, path))[0] == status
            client = await connect(nginx.port)
            await client.wait_for(lambda c: c.messages == 1, 5, "the state as first message")
            assert client.state() == {"flow": {"n": 1}}
            client.abort()
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_client_connections_total", outcome="opened") == rounds
    assert metrics.sum("weirgate_connections_returned_total") >= rounds - 1, "upgrades came on connections of their own"
    # One for each WebSocket, and what /health and /metrics took without nginx.
    direct = asked + 3
    accepted = metrics.sum("weirgate_connections_accepted_total") - before
    assert accepted <= rounds + direct + 2, f"{accepted} connections for {rounds * (plain + 1)} requests"
    await until(lambda: scrape(weirgate).sum("weirgate_clients") == 0, 5, "all clients gone")


async def test_messages_come_through_compressed_and_plain(nats, start_weirgate, start_nginx):
    weirgate = start_weirgate(nats=nats).wait_ready()
    nginx = start_nginx(weirgate)
    assert get(nginx.port, "/health")[0] == 200
    url = f"ws://127.0.0.1:{nginx.port}/ws/stream"
    plain, deflated = await asyncio.gather(
        websockets.connect(url, compression=None, max_size=None), websockets.connect(url, max_size=None))
    try:
        assert [e.name for e in deflated.protocol.extensions] == ["permessage-deflate"]
        async with publisher(nats) as bus:
            for n in range(20):
                state = {"n": n, "pad": "abc" * (n * 2_000)}
                await bus.flow(state)
                texts = [await asyncio.wait_for(ws.recv(), 60) for ws in (plain, deflated)]
                assert [json.loads(text) for text in texts] == [{"flow": state}] * 2
        # A client's close is answered with its own code, through nginx too.
        await deflated.close(code=4001)
        assert deflated.close_code == 4001
    finally:
        await plain.close()
        await deflated.close()


SHORT = [("proxy_read_timeout 60s;", "proxy_read_timeout 2s;"), ("proxy_send_timeout 60s;", "proxy_send_timeout 2s;")]


async def test_pings_keep_an_idle_client_beyond_the_timeout_of_nginx(nats, start_weirgate, start_nginx):
    pinged = start_weirgate("levels", "--ping-interval-ms", "500", nats=nats).wait_ready()
    silent = start_weirgate("levels", "--ephemeral", "--ping-interval-ms", "0", nats=nats).wait_ready()
    kept = await connect(start_nginx(pinged, replace=SHORT).port)
    cut = await connect(start_nginx(silent, replace=SHORT).port)
    # Without pings nginx ends it: what follows is the pings' merit.
    await asyncio.wait_for(cut.ended, 60)
    await asyncio.sleep(3)
    assert kept.open
    async with publisher(nats) as bus:
        await bus.flow({"late": True})
        await kept.wait_for(lambda c: c.messages == 1, 5, "a message after a long while")
    kept.abort()


async def test_an_event_stream_comes_through_at_once_and_ends_with_its_client(nats, start_weirgate, start_nginx):
    weirgate = start_weirgate("levels", "--event-stream", nats=nats).wait_ready()
    nginx = start_nginx(weirgate)
    assert get(nginx.port, "/health")[0] == 200
    # HTTP/1.0: nginx sends the body as it is, not in chunks.
    client = await asyncio.to_thread(Stream, nginx.port, "/ws/stream", version="1.0")
    assert client.status == 200 and client.headers["content-type"] == "text/event-stream"
    async with publisher(nats) as bus:
        for n in range(3):
            await bus.flow({"n": n})
            kind, data = await asyncio.to_thread(client.event)
            assert (kind, json.loads(data)) == ("message", {"flow": {"n": n}})
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_event_stream_clients") == 1
    assert metrics.sum("weirgate_connections_returned_total") == 1, "on the kept connection"
    client.close()
    await until(lambda: scrape(weirgate).sum("weirgate_clients") == 0, 5, "the client is gone")


async def test_newcomers_go_to_the_next_instance_while_one_stops(nats, start_weirgate, start_nginx):
    drain = ("--ephemeral", "--drain-ms", "4000")
    one, two = (start_weirgate("levels", *drain, nats=nats).wait_ready() for _ in range(2))
    nginx = start_nginx(one, two)
    old = await connect_many(20, nginx.port)
    assert {w.health()["connections"] > 0 for w in (one, two)} == {True}, "both have clients"
    one.send(signal.SIGTERM)
    await until(lambda: one.ready_status() in (503, 0), 2, "/ready 503 while draining", every=0.02)
    # While it refuses, and when it is gone: nobody sees a 502 or a 503.
    newcomers = []
    while one.alive():
        newcomers += await connect_many(5, nginx.port)
        await asyncio.sleep(0.1)
    assert len(newcomers) >= 10
    newcomers += await connect_many(5, nginx.port)
    assert two.health()["connections"] >= len(newcomers)
    closed = [client for client in old if not client.open]
    assert closed and {client.close_code for client in closed} == {1012}
    assert one.wait(10) == 0
    for client in (*old, *newcomers):
        client.abort()


# Nobody else connects to this address: nginx has it from its configuration alone.
BACKEND = "127.0.0.77"


def head_that_reaches_the_backend(start_nginx, request):
    """The request head that nginx sends on, as the backend gets it."""
    with socket.create_server((BACKEND, 0)) as listener:
        listener.settimeout(10)
        port = listener.getsockname()[1]
        nginx = start_nginx(types.SimpleNamespace(port=port), replace=[(f"server 127.0.0.1:{port} ", f"server {BACKEND}:{port} ")])
        with socket.create_connection(("127.0.0.1", nginx.port), source_address=("127.0.0.9", 0)) as link:
            link.sendall(request)
            backend, _ = listener.accept()
            with backend:
                backend.settimeout(10)
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = backend.recv(4096)
                    assert piece, f"nginx left after {head!r}"
                    head += piece
    first, *fields = head.decode().rstrip().split("\r\n")
    return first, {name.lower(): value for name, _, value in (line.partition(": ") for line in fields)}


def test_what_nginx_tells_of_the_client(start_nginx):
    upgrade = b"GET /ws/stream?x=1 HTTP/1.1\r\nHost: a.example:81\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    first, headers = head_that_reaches_the_backend(start_nginx, upgrade)
    assert first == "GET /ws/stream?x=1 HTTP/1.1"
    assert headers["host"] == "a.example:81", "Origin is compared with what the browser asked for"
    assert headers["x-forwarded-for"] == "127.0.0.9"
    assert (headers["upgrade"], headers["connection"]) == ("websocket", "upgrade")
    plain = b"GET /health HTTP/1.0\r\nHost: a.example\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n"
    first, headers = head_that_reaches_the_backend(start_nginx, plain)
    assert first == "GET /health HTTP/1.1"
    assert headers["x-forwarded-for"] == "10.9.9.9, 127.0.0.9", "the last address is the one that nginx saw"
    assert "upgrade" not in headers and "connection" not in headers, "the connection is kept"


async def test_the_clients_address_is_known_and_limited_through_nginx(nats, start_weirgate, start_nginx):
    flags = ("--trusted-proxies", "127.0.0.1", "--connections-per-ip-max", "2")
    weirgate = start_weirgate("levels", *flags, nats=nats).wait_ready()
    nginx = start_nginx(weirgate)
    for n in range(5):
        # The upgrade comes on the connection that another client's request has used.
        assert get(nginx.port, "/health", source="127.0.0.8")[0] == 200
        clients = [await connect(nginx.port, source="127.0.0.9") for _ in range(2)]
        with pytest.raises(AssertionError, match="HTTP/1.1 503"):
            await connect(nginx.port, source="127.0.0.9")
        other = await connect(nginx.port, source="127.0.0.7")
        for client in (*clients, other):
            client.abort()
        await until(lambda: weirgate.health()["connections"] == 0, 5, "their places given back")
    await until(lambda: scrape(weirgate).sum("weirgate_connections_returned_total") >= 5, 10, "weirgate_connections_returned_total")

    def logged(address):
        ends = (line for line in weirgate.log().splitlines() if "connection ended" in line)
        return any(f"client={address} " in line and "peer=127.0.0.1:" in line for line in ends)

    for address in ("127.0.0.9", "127.0.0.7"):
        await until(lambda: logged(address), 5, f"{address} in the log")


def test_the_operators_pages_are_not_for_the_public(nats, start_weirgate, start_nginx):
    weirgate = start_weirgate(nats=nats).wait_ready()
    nginx = start_nginx(weirgate)
    for path in ("/metrics", "/stats", "/ready", "/internal/broadcast"):
        assert get(nginx.port, path)[0] == 404, path
    assert get(nginx.port, "/health")[0] == 200
    assert get(nginx.port, "/health", method="HEAD") == (200, b"")
    assert get(nginx.port, "/health", method="DELETE")[0] == 405
