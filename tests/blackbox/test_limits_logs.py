"""The log: one line per ended connection, bounded, without secrets, and nobody waits for who reads it."""
import asyncio
import fcntl
import json
import os
import re
import signal

import pytest
import websockets
from bus import publisher
from clients import connect, connect_many
from processes import Weirgate
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
        text = await asyncio.wait_for(ws.recv(), 10)
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
        await asyncio.wait_for(ws.recv(), 10)
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
