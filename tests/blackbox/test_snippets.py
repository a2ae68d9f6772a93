"""What the replaced gateway's documents tell people to run, word for word, from tests/snippets.

The documents' ports are replaced by the test's. `uv run` is stood in for: it would make an environment of its own.
"""
import asyncio
import contextlib
import json
import os
import pty
import re
import sys

import pytest
from bus import publisher
from processes import ROOT, node_binary
from waiting import until

SNIPPETS = ROOT / "tests" / "snippets"
NODE = ROOT / "tests" / "node"
SPY = {"spot": 687.5, "bid": 687.49, "ask": 687.51}
LEVELS = {"ts": 1703123456000, "spy": SPY, "es": {"spot": 6920.25},
          "levels": [{"id": "a"}, {"id": "b"}], "viewport": {"targets": []}}
FLOW = {"n": 1}


def text_of(name, port):
    """A snippet for this port, without the line that says where it stands."""
    _, text = (SNIPPETS / name).read_text().split("\n", 1)
    text, found = re.subn(r"localhost:\d+", f"localhost:{port}", text)
    assert found, name
    return text


@pytest.fixture
def shell(tmp_path):
    """The argv and environment of a person's shell, in a folder as the documents assume it."""
    (tmp_path / "backend").mkdir()
    uv = tmp_path / "uv"
    uv.write_text(f'#!/bin/sh\n[ "$1 $2" = "run python" ] || exit 9\nshift 2\nexec "{sys.executable}" "$@"\n')
    uv.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(NODE / "node_modules" / ".bin"), os.environ["PATH"]])
    return {"cwd": tmp_path, "env": {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}}


@contextlib.asynccontextmanager
async def running(*argv, **kwargs):
    """A child, its output as a stream of lines; ended with the test."""
    child = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, **kwargs)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def line_of(child):
    return (await asyncio.wait_for(child.stdout.readline(), 20)).decode().rstrip("\n")


@contextlib.asynccontextmanager
async def gateway(nats, start_weirgate):
    """One that knows flow and levels, and what publishes to it."""
    async with publisher(nats) as bus:
        weirgate = start_weirgate(nats=nats).wait_ready()
        await bus.levels(LEVELS)
        await bus.flow(FLOW)
        yield weirgate, bus


async def test_curl_shows_the_health_page(nats, start_weirgate, shell):
    async with gateway(nats, start_weirgate) as (weirgate, _):
        async with running("bash", "-c", text_of("health.sh", weirgate.port).replace("curl", "curl -sS"), **shell) as child:
            out, _ = await asyncio.wait_for(child.communicate(), 20)
        health = json.loads(out)
        documented = {"service": "gateway", "status": "healthy", "nats_url": nats.url, "connections": 0}
        assert list(health.items())[:4] == list(documented.items())


async def test_the_first_message_in_python(nats, start_weirgate, shell):
    async with gateway(nats, start_weirgate) as (weirgate, _):
        async with running("bash", "-c", text_of("first_message.sh", weirgate.port), **shell) as child:
            out, _ = await asyncio.wait_for(child.communicate(), 20)
        assert (child.returncode, out.decode()) == (0, "SPY: 687.5\n")


async def test_the_test_client_in_python(nats, start_weirgate, shell):
    async with gateway(nats, start_weirgate) as (weirgate, bus):
        async with running(sys.executable, "-c", text_of("client.py", weirgate.port), **shell) as child:
            assert await line_of(child) == "ES: 6920.25, Levels: 2"
            await bus.levels({**LEVELS, "es": {"spot": 6921}, "levels": []})
            assert await line_of(child) == "ES: 6921, Levels: 0"


async def test_the_client_in_typescript(nats, start_weirgate, shell):
    async with gateway(nats, start_weirgate) as (weirgate, bus):
        argv = [node_binary(), NODE / "run_snippet.mjs", SNIPPETS / "client.ts", str(weirgate.port)]
        async with running(*argv, **shell) as child:
            assert await line_of(child) == "Connected to Gateway"
            levels = json.loads(await line_of(child))["levels"]
            assert (levels["spy"], len(levels["levels"])) == (SPY, 2)
            assert json.loads(await line_of(child)) == {"flow": FLOW}
            await bus.flow(None)
            assert "levels" in json.loads(await line_of(child))
            await bus.flow({"n": 2})
            await line_of(child)
            assert json.loads(await line_of(child)) == {"flow": {"n": 2}}
            weirgate.kill()
            assert await line_of(child) == "Disconnected"


class Terminal:
    """The other end of a child's terminal; colours and the like are left out."""

    def __init__(self, descriptor):
        self.descriptor, self.raw = descriptor, b""
        os.set_blocking(descriptor, False)

    def text(self):
        with contextlib.suppress(OSError):
            self.raw += os.read(self.descriptor, 1 << 16)
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self.raw.decode(errors="replace"))

    async def shows(self, pattern):
        """Waits for the pattern; what its group matches, all of them so far."""
        await until(lambda: re.search(pattern, self.text()), 20, f"{pattern} in the terminal")
        return re.findall(pattern, self.text())


    def type(self, line):
        os.write(self.descriptor, line.encode() + b"\r")


@contextlib.asynccontextmanager
async def in_a_terminal(command, shell):
    """A command line with a terminal before it; ended with the test."""
    node_binary()  # wscat is one of its packages
    ours, theirs = pty.openpty()
    child = await asyncio.create_subprocess_exec("bash", "-c", "exec " + command, stdin=theirs, stdout=theirs, stderr=theirs, **shell)
    os.close(theirs)
    try:
        yield Terminal(ours)
    finally:
        child.kill()
        await child.wait()
        os.close(ours)


async def test_wscat_prints_each_message(nats, start_weirgate, shell):
    async with gateway(nats, start_weirgate) as (weirgate, bus):
        async with in_a_terminal(text_of("wscat.sh", weirgate.port), shell) as terminal:
            [first] = await terminal.shows(r"< (\{.*?\})\r?\n")
            state = json.loads(first)
            assert (state["flow"], state["levels"]["spy"]) == (FLOW, SPY)
            await bus.flow({"n": 2})
            await terminal.shows(r'< (\{"flow":\{"n": 2\}.*?\})\r?\n')


async def test_the_trades_session_in_wscat(redis_server, start_weirgate, shell):
    weirgate = start_weirgate("trades", redis=redis_server).wait_ready()
    command, *typed = text_of("trades_wscat.txt", weirgate.port).splitlines()
    subscribe, ping, unsubscribe = (line.removeprefix("> ") for line in typed)
    async with in_a_terminal(command, shell) as terminal:
        await terminal.shows(r'< \{"type":"success","message":"Connected to WebSocket Gateway"')
        terminal.type(subscribe)
        await terminal.shows(r'< \{[^<]*"subscribed":\["AAPL","GOOGL"\],"currentSubscriptions":\["AAPL","GOOGL"\]')
        with redis_server.client() as redis:
            redis.publish("channel:trade:AAPL", '{"symbol":"AAPL","price":150.25}')
        await terminal.shows(r'< \{"type":"trade","data":\{"symbol":"AAPL","price":150.25\},"timestamp":\d+\}')
        terminal.type(ping)
        await terminal.shows(r'< \{"type":"pong","timestamp":\d+\}')
        terminal.type(unsubscribe)
        await terminal.shows(r'< \{[^<]*"unsubscribed":\["AAPL"\],"currentSubscriptions":\["GOOGL"\]')


async def test_the_channels_client_in_javascript(redis_server, start_weirgate, shell):
    weirgate = start_weirgate("channels", redis=redis_server, env={"DEFAULT_ROLE": "admin"}).wait_ready()
    argv = [node_binary(), NODE / "run_snippet.mjs", SNIPPETS / "channels.js", str(weirgate.port)]
    async with running(*argv, **shell) as child:
        async def message():
            """What one message was printed as, on however many lines."""
            lines = [await line_of(child)]
            assert lines[0].startswith("Message: {"), lines
            while lines[-1] != "}" and not lines[-1].endswith(" }"):
                lines.append(await line_of(child))
            return " ".join(line.strip() for line in lines)

        assert "type: 'connected'" in await message()
        subscribed = await message()
        assert "channels: [ 'market:tick:BANKNIFTY', 'engine:signal:*' ]" in subscribed and "requestId: 'req-1'" in subscribed
        with redis_server.client() as redis:
            redis.publish("market:tick:BANKNIFTY", '{"price":1}')
            redis.publish("engine:signal:NIFTY", '{"side":"buy"}')
        tick, signal = await message(), await message()
        assert "seq: 3" in tick and "channel: 'market:tick:BANKNIFTY'" in tick and "data: { price: 1 }" in tick
        assert "pattern: 'engine:signal:*'" in signal and "data: { side: 'buy' }" in signal
