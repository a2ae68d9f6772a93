"""What comes up with each compose file on a bus: the gateway with its environment, the feed, a client that sees it move."""
import asyncio
import json
import os
import re
import subprocess
import sys

import pytest
import websockets
import yaml
from processes import ROOT, Process, Weirgate, weirgate_binary
from recipes import with_mounts
from tokens import fresh_token

SECRET = "a secret of the tests, long enough"
ASKED = {"trades": ("/", {"action": "subscribe", "symbols": ["AAPL"]}),
         "channels": ("/ws", {"action": "subscribe", "channels": ["market:tick:NIFTY"]}),
         "levels": ("/ws/stream", None)}


def services(kind):
    return yaml.safe_load((ROOT / "deploy" / f"compose.{kind}.yaml").read_text())["services"]


def here(value, bus):
    """A value of the compose file with the bus of the test in place of the container, and secrets that somebody set."""
    value = re.sub(r"\$\{\w+:\?[^}]*\}", SECRET, str(value))
    for there in ("redis://redis:6379", "nats://nats:4222"):
        value = value.replace(there, bus.url)
    return value


def environment(kind, bus):
    gateway = next(service for service in services(kind).values() if "build" in service)
    env = {name: with_mounts(gateway, here(value, bus)) for name, value in gateway["environment"].items()}
    if "REDIS_HOST" in env:
        env.update(REDIS_HOST="127.0.0.1", REDIS_PORT=str(bus.port))
    # The port is the test's, the other values are those of the file.
    return {name: value for name, value in env.items() if not name.endswith("_PORT") or name == "REDIS_PORT"}


def start_feed(started, kind, bus):
    feed = services(kind)["feed"]
    [volume] = feed["volumes"]
    file, inside, _ = volume.split(":")
    assert feed["command"][:2] == ["python", inside]
    script = (ROOT / "deploy" / file).resolve()
    started.append(Process([sys.executable, script, *(here(word, bus) for word in feed["command"][2:])]))


def price(message):
    """The moving number of a message, None where it has none."""
    data = message.get("flow", {}) if "flow" in message else message.get("data", {})
    return data.get("price", data.get("spot")) if isinstance(data, dict) else None


async def prices(gateway, kind, count):
    path, request = ASKED[kind]
    query = "?token=" + fresh_token(SECRET, role="user") if kind == "channels" else ""
    seen = set()
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}{path}{query}") as client:
        if request:
            await client.send(json.dumps(request))
        while len(seen) < count:
            seen.add(price(json.loads(await asyncio.wait_for(client.recv(), 60))))
            seen.discard(None)


@pytest.mark.parametrize("kind", ["levels", "trades", "channels"])
async def test_something_moves_after_compose_up(started, request, kind):
    bus = request.getfixturevalue("nats" if kind == "levels" else "redis_server")
    gateway = Weirgate(kind, env=environment(kind, bus))
    started.append(gateway)
    gateway.wait_ready()
    start_feed(started, kind, bus)
    await prices(gateway, kind, 3)


async def test_the_feed_comes_back_after_its_bus(started, redis_server):
    gateway = Weirgate("trades", env=environment("trades", redis_server))
    started.append(gateway)
    gateway.wait_ready()
    start_feed(started, "trades", redis_server)
    await prices(gateway, "trades", 2)
    redis_server.kill()
    redis_server.start()
    await prices(gateway, "trades", 2)


def test_the_roles_of_the_compose_file_are_the_built_in_roles():
    """So that the file changes nothing until somebody writes into it."""
    printed = subprocess.run([weirgate_binary(), "channels", "--print-acl"], stdout=subprocess.PIPE, check=True).stdout
    assert json.loads((ROOT / "deploy" / "channels" / "roles.json").read_text()) == json.loads(printed)


def test_no_compose_file_has_a_secret_of_its_own():
    for file in (ROOT / "deploy").glob("compose.*.yaml"):
        for service in yaml.safe_load(file.read_text())["services"].values():
            for name, value in service.get("environment", {}).items():
                if name.endswith("_FILE"):
                    assert str(value).startswith("/run/secrets/"), f"{file.name}: {name} is no secret of compose"
                elif re.search("SECRET|TOKEN|PASSWORD|API_KEY", name):
                    assert re.fullmatch(r"\$\{\w+:\?.+\}", str(value)), f"{file.name}: {name} has a value"


def test_the_feed_tells_how_to_use_it():
    done = subprocess.run([sys.executable, ROOT / "examples" / "feed.py"], stderr=subprocess.PIPE, text=True,
                          env=dict(os.environ))
    assert done.returncode == 1 and "python3 examples/feed.py trades redis://" in done.stderr
