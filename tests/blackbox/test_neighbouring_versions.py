"""The version that was released last beside the one under test: instances of both on one bus, and the clients of each on the
gateway of the other, as docs/reference/versions.md promises. scripts/previous_build.sh makes the former."""
import asyncio
import contextlib
import json
import os
import pathlib
import subprocess
import sys

import pytest
from instances import ENV, bus_flags, is_silent, know_each_other, pushed, received
from processes import ROOT, node_binary
from prometheus import scrape
from redis_gateways import BOTH
from services import device, push
from test_resume import HISTORY, flags_of, got, publish, recovered, shares, subscribe
from test_streams import OnRedis
from waiting import until

GATEWAYS = {kind.name: kind for kind in BOTH}
ORDERS = pytest.mark.parametrize("old_first", [True, False], ids=["old-first", "new-first"])


@pytest.fixture(scope="module")
def previous():
    """The folder of the version released last. It is compiled before the tests, as they run beside each other."""
    [commit] = [line for line in (ROOT / "tests/previous_version").read_text().split("\n") if line and line[0] != "#"]
    built = subprocess.run([ROOT / "scripts/previous_build.sh"], capture_output=True, text=True, check=False)
    if built.returncode == 3:
        pytest.skip(f"the sources have no history with {commit}")
    assert built.returncode == 0, built.stderr
    return pathlib.Path(built.stdout.strip())


@pytest.fixture
def programs(previous, old_first):
    """The two programs; `None` is the one under test."""
    return [previous / "weirgate", None] if old_first else [None, previous / "weirgate"]


@ORDERS
@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_a_position_of_one_version_is_good_on_the_other(start_weirgate, redis_server, kind, programs):
    one, other = (start_weirgate(kind.name, *flags_of(kind), redis=redis_server, env={"DEFAULT_ROLE": "internal"}, program=program)
                  for program in programs)
    await shares(one, other)
    client, _ = await subscribe(one, kind, ["A"])
    publish(redis_server, kind, "A", *range(3))
    assert await got(client, 3) == [0, 1, 2]
    one.kill()
    publish(redis_server, kind, "A", *range(3, 6))
    client, answer = await subscribe(other, kind, ["A"], since=client.pos)
    assert recovered(kind, answer) == (True, None), answer
    assert await got(client, 3) == [3, 4, 5]


@ORDERS
@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_a_position_in_a_redis_stream_is_good_on_the_newer_and_none_on_the_older(start_weirgate, redis_server, kind, programs, old_first):
    """The older one does not know that of the newer: it says so, and hides no loss."""
    feed = OnRedis(kind, redis_server)
    one, other = (start_weirgate(kind.name, *HISTORY, *feed.flags(), env={"DEFAULT_ROLE": "internal"}, program=program)
                  for program in programs)
    for instance in (one, other):
        await asyncio.to_thread(instance.wait_ready)
    client, _ = await subscribe(one, kind, ["A"])
    await feed.publish("A", *range(3))
    assert await got(client, 3) == [0, 1, 2]
    one.kill()
    await feed.publish("A", 3, 4)
    client, answer = await subscribe(other, kind, ["A"], since=client.pos)
    assert recovered(kind, answer) == ((True, None) if old_first else (False, "bad")), answer
    await feed.publish("A", 5)
    missed = [3, 4] if old_first else []
    assert await got(client, len(missed) + 1) == [*missed, 5]


@ORDERS
@pytest.mark.parametrize("bus", ["redis_server", "nats"])
async def test_pushes_reach_the_devices_of_both(start_weirgate, request, bus, programs):
    """Also one that is longer than a message on the bus."""
    server = request.getfixturevalue(bus)
    instances = [start_weirgate("events", *bus_flags(server), env=ENV, program=program) for program in programs]
    await know_each_other(instances)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(device(one, "a")) for one in instances]
        for n, one in enumerate(instances):
            for data in ({"n": n}, {"large": "x" * 1_500_000}):
                assert await pushed(one, data, "a") == {"sent": 2, "bus": "up", "instances": 2, "missing": []}
                assert [await received(client) for client in clients] == [data, data]
        for client in clients:
            assert await is_silent(client)
    assert all(scrape(one).sum("weirgate_events_bus_messages_ignored_total") == 0 for one in instances)


def command_of(language, clients, *words):
    """A program around the client of a version, whose folder of clients this is; (arguments, environment)."""
    if language == "javascript":
        return [node_binary(), ROOT / "tests/node/neighbour.mjs", clients / "js", *words], {}
    return [sys.executable, ROOT / "tests/rig/neighbour.py", *words], {"PYTHONPATH": str(clients / "python/src")}


async def send(gateway, weirgate, redis, price):
    if gateway == "events":
        status, answer = await asyncio.to_thread(push, weirgate, "e", {"price": price}, "a")
        assert status == 200, answer
    else:
        redis.client().publish(GATEWAYS[gateway].channel("A"), json.dumps({"symbol": "A", "price": price}))


async def connected(gateway, weirgate):
    """Waits until the client is ready to get messages."""
    if gateway == "events":
        await until(lambda: scrape(weirgate).sum("weirgate_clients") == 1, 30, "the device")
    else:
        await until(lambda: scrape(weirgate).sum("weirgate_subscriptions") == 1, 30, "the subscription")


@pytest.mark.parametrize("old_gateway", [True, False], ids=["new-client", "old-client"])
@pytest.mark.parametrize("language", ["javascript", "python"])
@pytest.mark.parametrize("gateway", ["trades", "channels", "events"])
async def test_the_client_of_one_version_works_with_the_other(start_weirgate, redis_server, previous, gateway, language, old_gateway):
    program, clients = (previous / "weirgate", ROOT / "clients") if old_gateway else (None, previous / "clients")
    weirgate = start_weirgate(gateway, redis=redis_server, env={**ENV, "DEFAULT_ROLE": "internal"}, program=program)
    await asyncio.to_thread(weirgate.wait_ready)
    words, env = command_of(language, clients, gateway, weirgate.port, 3)
    child = await asyncio.create_subprocess_exec(*map(str, words), env={**os.environ, **env},
                                                 stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    try:
        await connected(gateway, weirgate)
        for price in range(3):
            await send(gateway, weirgate, redis_server, price)
        out, err = await asyncio.wait_for(child.communicate(), 60)
    finally:
        if child.returncode is None:
            child.kill()
    assert (child.returncode, [json.loads(line) for line in out.splitlines()]) == (0, [0, 1, 2]), err.decode()
