"""The log: one line per ended connection, bounded, without secrets, and nobody waits for who reads it."""
import asyncio
import fcntl
import json
import os
import re
import signal
import socket
import ssl
import struct

import pytest
import websockets
from bus import publisher
from clients import connect, connect_many
from processes import Weirgate
from prometheus import scrape
from waiting import until

SECRET = "opensesame"
F_SETPIPE_SZ = 1031


def json_lines(weirgate):
    """Every line as an object: one that is none fails."""
    return [json.loads(line) for line in weirgate.log().splitlines()]


def ends(weirgate):
    return [line for line in json_lines(weirgate) if line["message"] == "connection ended"]


async def test_one_line_says_how_a_connection_ended(nats, start_weirgate):
    flags = ["--log-format", "json", "--trusted-proxies", "127.0.0.0/8"]
    weirgate = start_weirgate("levels", *flags, nats=nats).wait_ready()
    headers = {"X-Forwarded-For": "203.0.113.1, 198.51.100.7"}
    async with publisher(nats) as bus, websockets.connect(
            f"{weirgate.ws_url}?token={SECRET}", additional_headers=headers, compression=None) as ws:
        await bus.flow({"n": 1})
        text = await asyncio.wait_for(ws.recv(), 60)
        await ws.send("a")
        await ws.send(b"b")
        await ws.close(4001, "enough")
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://127.0.0.1:{weirgate.port}/{'p' * 300}")
    await until(lambda: len(ends(weirgate)) == 2, 10, "two lines")
    closed, refused = ends(weirgate)
    assert closed["client"] == "198.51.100.7"
    assert re.fullmatch(r"127\.0\.0\.1:\d+", closed["peer"])
    assert (closed["reason"], closed["code"], closed["path"]) == ("peer_closed", 4001, "/ws/stream")
    assert (closed["messages_in"], closed["messages_out"], closed["conflated"]) == (2, 1, 0)
    assert closed["bytes_out"] > len(text) and closed["bytes_in"] > 200 and 0 <= closed["age_ms"] < 60_000
    assert (refused["reason"], refused["refusal"], refused["code"], refused["client"]) == ("policy", "path", 403, "127.0.0.1")
    assert "refusal" not in closed
    assert refused["path"] == "/" + "p" * 127
    assert closed["lines_left_out"] == refused["lines_left_out"] == 0


async def test_the_line_says_that_an_origin_is_refused(start_weirgate):
    weirgate = start_weirgate("demo", "--log-format", "json", "--allowed-origins", "https://example.com").wait_ready()
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(weirgate.ws_url, origin="https://example.org")
    await until(lambda: ends(weirgate), 10, "the line")
    [refused] = ends(weirgate)
    assert (refused["reason"], refused["refusal"], refused["code"], refused["path"]) == ("policy", "origin", 403, "/ws/stream")


async def test_a_flood_of_ends_is_no_flood_of_lines(start_weirgate):
    weirgate = start_weirgate("demo", "--log-format", "json").wait_ready()
    count = 300
    for client in await connect_many(count, weirgate.port):
        client.abort()
    await until(lambda: weirgate.health()["connections"] == 0, 10, "everyone gone")
    # Nothing else ends, and the number comes all the same.
    left_out = lambda: sum(line.get("lines_left_out", 0) for line in json_lines(weirgate))
    await until(lambda: len(ends(weirgate)) + left_out() == count, 10, "each end told of or counted")
    (await connect(weirgate.port)).abort()
    await until(lambda: len(ends(weirgate)) + left_out() == count + 1, 10, "lines again")
    assert ends(weirgate)[-1]["lines_left_out"] == 0
    assert len([line for line in json_lines(weirgate) if line["message"] == "more connections ended"]) <= 5
    assert len(ends(weirgate)) < count / 2, "no line was left out"


async def test_a_stop_says_how_many_lines_were_left_out(start_weirgate):
    weirgate = start_weirgate("demo", "--log-format", "json").wait_ready()
    clients = await connect_many(100, weirgate.port)
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 20) == 0
    told = sum(1 for _ in ends(weirgate)) + sum(line.get("lines_left_out", 0) for line in json_lines(weirgate))
    assert told == 100 and len(ends(weirgate)) < 50, weirgate.log_tail()
    for client in clients:
        client.abort()


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_no_secret_is_in_any_log(start_nats, start_weirgate, log_format):
    nats = start_nats()
    url = nats.url.replace("//", f"//someone:{SECRET}@")
    env = {"NATS_URL": url, "RUST_LOG": "trace"}
    weirgate = start_weirgate("levels", "--log-format", log_format, env=env).wait_ready()
    headers = {"Authorization": f"Bearer {SECRET}", "Cookie": f"session={SECRET}"}
    async with publisher(nats) as bus, websockets.connect(
            f"{weirgate.ws_url}?token={SECRET}", additional_headers=headers, subprotocols=["bearer", SECRET]) as ws:
        await bus.flow({"n": 1})
        await asyncio.wait_for(ws.recv(), 60)
        await ws.send("a")
    for path in (f"/health?token={SECRET}", f"/nothing?token={SECRET}", "/metrics"):
        await asyncio.to_thread(weirgate.get, path)
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://127.0.0.1:{weirgate.port}/?token={SECRET}", additional_headers=headers)
    nats.kill()
    await until(lambda: not weirgate.health()["nats_connected"], 10, "the loss noticed")
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 10) == 0
    weirgate.logs("connection ended", "***@")
    assert SECRET not in weirgate.log()
    if log_format == "json":
        assert len(json_lines(weirgate)) > 5


def start_into_pipe(started, *args):
    """(weirgate, the reading end): its output goes into a pipe that holds 4 KiB, and nobody reads it."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, F_SETPIPE_SZ, 4096)
    started.append(Weirgate(*args, output=write_end))
    os.close(write_end)
    return started[-1].wait_ready(), read_end


async def test_who_does_not_read_the_log_holds_up_nobody(started):
    weirgate, read_end = start_into_pipe(started, "demo", "--log-format", "json")
    client = await connect(weirgate.port)
    for _ in range(6):
        # Ten lines a second, of some 300 bytes each.
        for other in await connect_many(10, weirgate.port):
            other.abort()
        await asyncio.sleep(1)
    before = client.messages
    await client.wait_for(lambda c: c.messages > before + 2, 10, "the feed")
    assert weirgate.health()["status"] == "healthy"
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 10) == 0
    os.close(read_end)


async def test_a_reader_of_the_log_that_goes_away_ends_nothing(started):
    weirgate, read_end = start_into_pipe(started, "demo")
    os.close(read_end)
    for client in await connect_many(10, weirgate.port):
        client.abort()
    await until(lambda: weirgate.health()["connections"] == 0, 10, "everyone gone")
    assert weirgate.alive()
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 10) == 0


def ask(port, request):
    """The whole answer to these bytes, or to what comes of them until the end."""
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(request)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer.decode(errors="replace")


async def test_a_websocket_whose_upgrade_a_proxy_took_off_is_told_with_the_header(start_weirgate):
    weirgate = start_weirgate("demo", "--log-format", "json").wait_ready()
    head = "GET /ws/stream HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    page = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    lost = {"Connection: close": "Upgrade", "Connection: keep-alive\r\nUpgrade: websocket": "Connection"}
    for lines, header in lost.items():
        # Also on a connection that has served a page.
        for before in ("", page):
            answer = await asyncio.to_thread(ask, weirgate.port, f"{before}{head}{lines}\r\n\r\n".encode())
            answer = answer[answer.index("HTTP/1.1 426"):]
            assert "Upgrade: websocket" in answer and "a proxy on the way took them off" in answer
        told = lambda: [line for line in json_lines(weirgate) if line.get("header") == header]
        await until(lambda: len(told()) == 2, 10, "two lines")
        assert all(line["level"] == "WARN" and "deploy/" in line["message"] for line in told())
    assert scrape(weirgate).sum("weirgate_client_closes_total", reason="upgrade_lost") == 4
    # Without the key of a WebSocket it is a request like any other.
    plain = await asyncio.to_thread(ask, weirgate.port, page.replace("/health", "/ws/stream").encode()[:-2] + b"Connection: close\r\n\r\n")
    assert plain.startswith("HTTP/1.1 404")


async def test_load_balancers_that_say_nothing_write_no_line_and_are_no_failure(start_tls):
    weirgate = start_tls("demo", "--log-format", "json").wait_ready()
    begun = scrape(weirgate).sum("weirgate_connections_accepted_total")
    for port in [weirgate.port, weirgate.tls_port] * 3:
        socket.create_connection(("127.0.0.1", port), 20).close()
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await until(lambda: scrape(weirgate).sum("weirgate_connections_accepted_total") >= begun + 12, 10, "twelve connections")
    await until(lambda: scrape(weirgate).sum("weirgate_connections", phase="head") == 0, 10, "none is left")
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_client_closes_total", reason="tls_error") == metrics.sum("weirgate_tls_handshakes_total", outcome="failed") == 0
    assert ends(weirgate) == []


async def test_tls_on_the_plain_port_and_the_reverse_are_named(start_tls):
    weirgate = start_tls("demo", "--log-format", "json").wait_ready()
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="a").do_handshake()
    assert "this port is not for TLS" in await asyncio.to_thread(ask, weirgate.port, hello.read())
    await asyncio.to_thread(ask, weirgate.tls_port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    def named():
        return [(line["level"], line["reason"], line["refusal"]) for line in json_lines(weirgate) if "refusal" in line]
    await until(lambda: len(named()) == 2, 10, "two lines")
    assert named() == [("WARN", "bad_request", "tls"), ("WARN", "tls_error", "plain_http")]
