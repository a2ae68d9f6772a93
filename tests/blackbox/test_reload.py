"""SIGHUP: what is in files is read again, and nobody who is connected notices."""
import asyncio
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import time

import pytest
from bus import publisher
from clients import connect
from processes import ROOT, weirgate_binary
from redis_gateways import BOTH, CHANNELS, publish, subscriber
from waiting import until

TOKENS = ROOT / "tests" / "vectors" / "tokens"
CLIENTS = 10
HANGUPS = 12


def replace(file, text):
    """As a deployment replaces a file: at once, by another one."""
    following = file.with_name("next")
    following.write_text(text)
    following.rename(file)


def count(weirgate, what, outcome):
    """How often a part was read again with that outcome."""
    found = re.search(rf'weirgate_reloads_total{{what="{what}",outcome="{outcome}"}} (\d+)', weirgate.get("/metrics")[2])
    return int(found[1]) if found else None


async def hang_up(weirgate):
    """SIGHUP, and waits until everything was read again."""
    done = weirgate.log().count("SIGHUP: ")
    weirgate.send(signal.SIGHUP)
    await until(lambda: weirgate.log().count("SIGHUP: ") > done, 10, "a line about the signal", every=0.02)


async def listening(weirgate):
    await until(lambda: weirgate.get("/health")[0] == 200, 20, "a gateway that listens")
    return weirgate


def settings(folder, kind):
    """Files of every kind that the gateway reads, and the flags and environment that name them."""
    keys, filter_, table = folder / "jwks.json", folder / "filter", folder / "acl.json"
    keys.write_text((TOKENS / "jwks.json").read_text())
    filter_.write_text("info\n")
    table.write_text(json.dumps({"user": ["market:tick:*"]}))
    flags = ["--log-filter-file", str(filter_)] + (["--acl", str(table)] if kind is CHANNELS else [])
    return keys, filter_, table, flags, {"JWT_JWKS_FILE": str(keys)}


@pytest.mark.parametrize("flags", [[], ["--processes", "1"]], ids=["default", "one"])
async def test_the_signal_for_a_roll_ends_no_gateway_without_a_supervisor(start_weirgate, flags):
    weirgate = start_weirgate("events", *flags).wait_for("/health")
    weirgate.send(signal.SIGUSR2)
    await until(lambda: "SIGUSR2 has no effect without --processes" in weirgate.log(), 10, "a warning")
    assert weirgate.get("/health")[0] == 200


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_hangups_during_traffic_cut_nobody_and_lose_nothing(redis_server, start_weirgate, tmp_path, kind):
    keys, filter_, table, flags, env = settings(tmp_path, kind)
    weirgate = start_weirgate(kind.name, *flags, redis=redis_server, env=env).wait_ready()
    subscribers = [await subscriber(kind, weirgate, ["A"]) for _ in range(CLIENTS)]
    redis, sent, ends = redis_server.client(), 0, asyncio.Event()

    async def traffic():
        nonlocal sent
        while not ends.is_set():
            assert await asyncio.to_thread(publish, redis, kind, "A", sent) == 1, "Redis lost its subscriber"
            sent += 1

    talking = asyncio.create_task(traffic())
    key_set = json.loads(keys.read_text())
    for n in range(HANGUPS):
        # Good, good and other, broken, gone.
        replace(keys, [json.dumps(key_set), json.dumps({"keys": key_set["keys"][:1]}), "{", ""][n % 4])
        replace(filter_, ["info\n", "debug\n", "loud\n", ""][n % 4])
        replace(table, ['{"user": ["market:tick:*"]}', '{"user": ["x"], "y": []}', '{"user": 1}', ""][n % 4])
        await hang_up(weirgate)
        newcomer = await connect(weirgate.port, path=kind.path)
        await newcomer.wait_for(lambda c: c.messages == 1, 10, "the welcome")
        newcomer.abort()
    ends.set()
    await talking
    for one in subscribers:
        await one.wait_for(lambda c: len(c.prices) == sent, 20, "every message")
        assert one.prices == list(range(sent)), "each once, in order"
    assert sent > HANGUPS
    assert count(weirgate, "keys", "failed") >= HANGUPS / 2 and count(weirgate, "keys", "changed") >= HANGUPS / 4
    assert count(weirgate, "log_filter", "failed") == HANGUPS / 2
    if kind is CHANNELS:
        assert count(weirgate, "acl", "failed") == HANGUPS / 2
        assert count(weirgate, "acl", "changed") == HANGUPS / 2 - 1, "the first one is in force already"
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 10) == 0


@pytest.mark.plain("a gateway with TLS has a file to read again")
async def test_levels_and_events_stay_too(nats, start_weirgate):
    weirgate = start_weirgate("levels", nats=nats).wait_ready()
    client = await connect(weirgate.port, keep_sums=True)
    async with publisher(nats) as bus:
        for n in range(30):
            await bus.flow({"n": n})
            if n % 10 == 5:
                await hang_up(weirgate)
        await client.wait_for(lambda c: c.messages >= 1 and c.state()["flow"] == {"n": 29}, 10, "the last state")
    assert client.open and client.messages == 30
    weirgate.logs("no setting of this gateway is in a file")
    events = await listening(start_weirgate("events"))
    device = await connect(events.port, path="/ws")
    await hang_up(events)
    device.say({"v": 1})
    await device.wait_for(lambda c: c.messages >= 1, 10, "an answer")


async def test_a_new_table_decides_what_is_asked_for_from_then_on(redis_server, start_weirgate, tmp_path):
    _, _, table, flags, env = settings(tmp_path, CHANNELS)
    weirgate = start_weirgate("channels", *flags, redis=redis_server, env=env).wait_ready()
    redis = redis_server.client()
    client = await subscriber(CHANNELS, weirgate, ["A", "B"])
    replace(table, json.dumps({"user": ["market:tick:C"], "desk": ["*"]}))
    await hang_up(weirgate)
    weirgate.logs('the table of roles has changed roles=2 added="desk" removed="" changed="user"')
    # Names that it holds stay, and new ones are judged by the new table.
    for name in "AB":
        assert publish(redis, CHANNELS, name, 1) == 1
    await client.wait_for(lambda c: c.prices == [1, 1], 10, "what it holds")
    client.say(CHANNELS.subscribe(["C", "D", "A"]))
    await client.wait_for(lambda c: len(c.answers) == 3, 10, "an answer")
    answer = client.answers[2]
    assert answer["channels"] == ["market:tick:C"]
    assert answer["errors"] == [f"Access denied to channel: market:tick:{name}" for name in "DA"]
    # The name that was refused is held no longer; the one that was not asked for is.
    await until(lambda: publish(redis, CHANNELS, "A", 2) == 0, 10, "nobody holds it")
    assert publish(redis, CHANNELS, "B", 3) == publish(redis, CHANNELS, "C", 4) == 1
    await client.wait_for(lambda c: c.prices[-2:] == [3, 4], 10, "the others")
    assert 2 not in client.prices
    # A broken table changes nothing, and is told and counted.
    replace(table, '{"user": "*"}')
    await hang_up(weirgate)
    weirgate.logs('role "user": not a list of texts; the table stays as it was')
    assert (count(weirgate, "acl", "failed"), count(weirgate, "acl", "changed")) == (1, 1)
    client.say(CHANNELS.subscribe(["D"]))
    await client.wait_for(lambda c: len(c.answers) == 4, 10, "an answer")
    assert client.answers[3]["channels"] == []


async def test_the_log_filter_changes_and_a_broken_one_does_not_count(start_weirgate, tmp_path):
    file = tmp_path / "filter"
    file.write_text("warn\n")
    weirgate = await listening(start_weirgate("demo", "--log-filter-file", str(file)))
    ended = lambda: weirgate.log().count("connection ended")
    (await connect(weirgate.port)).abort()
    await until(lambda: weirgate.health()["connections"] == 0, 10, "an end")
    assert ended() == 0
    file.write_text("# while we look for something\ninfo\n")
    await hang_up(weirgate)
    weirgate.logs('the log filter has changed filter="info"')
    (await connect(weirgate.port)).abort()
    await until(lambda: ended() == 1, 10, "a line")
    file.write_text("loud\n")
    await hang_up(weirgate)
    weirgate.logs("the log filter stays as it was")
    (await connect(weirgate.port)).abort()
    await until(lambda: ended() == 2, 10, "a line")
    assert [count(weirgate, "log_filter", outcome) for outcome in ("changed", "unchanged", "failed")] == [1, 0, 1]


async def test_what_a_pipe_said_is_not_asked_for_again(redis_server, start_weirgate, tmp_path):
    """A path that is no file any more would hold up the thread that reads, for ever."""
    _, _, table, flags, env = settings(tmp_path, CHANNELS)
    weirgate = start_weirgate("channels", *flags, redis=redis_server, env=env).wait_ready()
    table.unlink()
    os.mkfifo(table)
    await hang_up(weirgate)
    weirgate.logs("not a regular file; the table stays as it was")
    await hang_up(weirgate)


async def test_a_signal_during_the_start_ends_nothing(redis_server, start_weirgate, tmp_path):
    """The start waits for the table, which comes through a pipe; the signal comes meanwhile."""
    _, _, table, flags, env = settings(tmp_path, CHANNELS)
    text = table.read_text()
    table.unlink()
    os.mkfifo(table)
    weirgate = start_weirgate("channels", *flags, redis=redis_server, env=env)
    status = pathlib.Path(f"/proc/{weirgate.pid}/status")
    caught = lambda: int(re.search(r"SigCgt:\s+(\w+)", status.read_text())[1], 16)
    await until(lambda: caught() & 1 << signal.SIGHUP - 1, 10, "a gateway that expects the signal", every=0.005)
    # The kernel knows the handler a moment before the handler knows what to note.
    await asyncio.sleep(0.05)
    weirgate.send(signal.SIGHUP)
    await asyncio.to_thread(table.write_text, text)
    weirgate.wait_ready()
    await until(lambda: "SIGHUP: files read again" in weirgate.log(), 10, "the files read again")
    await subscriber(CHANNELS, weirgate, ["A"])


@pytest.mark.parametrize("is_check", [False, True])
def test_a_stop_signal_during_the_start_is_a_stop(is_check, tmp_path):
    """The start waits for the table. A check that is interrupted is no good check."""
    table = tmp_path / "roles.json"
    os.mkfifo(table)
    command = [weirgate_binary(), "channels", "--port", "0", "--acl", str(table), *["--check"] * is_check]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with open(table, "wb"):  # waits for somebody who reads
            child.send_signal(signal.SIGTERM)
            assert child.wait(10) == (-signal.SIGTERM if is_check else 0)
    finally:
        child.kill()


@pytest.mark.parametrize("flags", [(), ("--processes", "2", "--admin-addr", "127.0.0.1:0")], ids=["alone", "several"])
def test_a_gateway_in_a_terminal_ends_with_it(flags, tmp_path):
    """The terminal is closed: the gateway stops as at Ctrl-C, and no process stays behind."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(weirgate_binary(), ["weirgate", "demo", "--port", "0", *flags])
    shown, end = b"", time.monotonic() + 20
    while b"WebSocket" not in shown and time.monotonic() < end:
        shown += os.read(terminal, 4096)
    os.kill(pid, signal.SIGHUP)
    while b"SIGHUP: " not in shown and time.monotonic() < end:
        shown += os.read(terminal, 4096)
    assert b"SIGHUP: no setting" in shown, "with its terminal open it reads again"
    os.close(terminal)
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("still running without its terminal")
