"""Pushes of random sizes over two instances of random settings: each reaches the other instance whole, or is told as missing.

More of them: EVENTS_BUS_PUSHES=1000; other choices: EVENTS_BUS_SEED=N."""
import asyncio
import json
import os
import random

import pytest
from instances import ENV, bus_flags, id_of, know_each_other, pushed
from memory import memory_for
from prometheus import scrape
from services import device, push
from waiting import until

PUSHES = int(os.environ.get("EVENTS_BUS_PUSHES", "20"))
SEED = int(os.environ.get("EVENTS_BUS_SEED", "1"))
PER_ROUND = 50 if PUSHES > 50 else 10
IGNORED = "weirgate_events_bus_messages_ignored_total"
KIB, MIB = 1024, 1024 * 1024


@pytest.fixture(params=["redis", "nats"])
def server(request):
    """A bus of each kind, which takes messages of any size that an instance may be set to."""
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        server.client().config_set("client-output-buffer-limit", "pubsub 0 0 0")
        return server
    return request.getfixturevalue("start_nats")(max_payload=20 * MIB)


def size(choice, least, most):
    """Small sizes are as likely as large ones."""
    return int(least * (most / least) ** choice.random())


def data_of(number, length):
    """Text in which each piece says where it is."""
    return {"n": number, "text": "".join(f"{at:07};" for at in range(length // 8))}


def start(start_weirgate, server, *, part, whole, wait_ms=8_000):
    """An instance that sends parts of so many bytes and takes bodies of so many, which are 3 % of its memory."""
    flags = bus_flags(server, "--events-bus-message-bytes-max", str(part), "--memory-max", str(memory_for(whole, 30)))
    return start_weirgate("events", *flags, "--events-bus-wait-ms", str(wait_ms), env=ENV)


async def read(client, sizes, came):
    """Takes events until the last, and notes the numbers of those that came, each of which has to be whole."""
    while True:
        data = json.loads(await asyncio.wait_for(client.recv(), 60))["data"]
        if data == {"end": True}:
            return
        number = data["n"]
        assert data == data_of(number, sizes[number]), f"push {number} was changed on the way"
        came.append(number)


async def a_round(start_weirgate, server, choice, count):
    """Returns how many pushes came at the other instance, and how many were told as missing there."""
    wholes = [size(choice, 2 * MIB, 8 * MIB) // 30 * 30 for _ in range(2)]
    # Each push that the other instance refuses waits for so long, or for a tenth of that.
    settings = [{"part": size(choice, KIB, 4 * MIB), "whole": whole, "wait_ms": 2_000} for whole in wholes]
    instances = [start(start_weirgate, server, **one) for one in settings]
    await know_each_other(instances)
    ids, sizes, origins, missing, came = [id_of(one) for one in instances], {}, {}, set(), ([], [])
    async with device(instances[0], "a", compression=None) as one, device(instances[1], "a", compression=None) as two:
        readers = [asyncio.create_task(read(client, sizes, numbers)) for client, numbers in zip((one, two), came)]
        for number in range(count):
            origin = choice.randrange(2)
            origins[number], sizes[number] = origin, size(choice, 16, wholes[origin] - KIB)
            answer = await pushed(instances[origin], data_of(number, sizes[number]), "a")
            assert answer["bus"] == "up", answer
            assert answer["missing"] in ([], [ids[1 - origin]]), answer
            assert answer["sent"] == 2 - len(answer["missing"]), answer
            if answer["missing"]:
                missing.add(number)
            # A device that reads too slowly would be dropped.
            await until(lambda: number in came[origin], 60, f"push {number}", every=0.01)
        for one in instances:
            await pushed(one, {"end": True}, "a")
        await asyncio.gather(*readers)
    for number, origin in origins.items():
        assert came[origin].count(number) == 1, "the instance that took it"
        times = came[1 - origin].count(number)
        assert times == 1 or (times == 0 and number in missing), f"push {number} came {times} times"
    # Over the limit of the other instance: the only reason here, if the machine is not too busy.
    over = {number for number, origin in origins.items() if sizes[number] > wholes[1 - origin]}
    assert over <= missing
    if over:
        assert sum(scrape(one).sum(IGNORED, reason="too_large") for one in instances) >= len(over)
    for one in instances:
        one.child.terminate()
        await asyncio.to_thread(one.wait, 20)
    return sum(number not in missing for number in origins), len(missing)


@pytest.mark.timeout(240 + 2 * PUSHES)
async def test_pushes_of_any_size_come_whole_or_are_missing(start_weirgate, server):
    choice = random.Random(SEED)
    whole = missing = 0
    for begin in range(0, PUSHES, PER_ROUND):
        there, not_there = await a_round(start_weirgate, server, choice, min(PER_ROUND, PUSHES - begin))
        whole, missing = whole + there, missing + not_there
    print(f"{whole} whole, {missing} missing")
    assert whole >= PUSHES / 4


async def test_instances_may_differ_in_the_size_of_messages(start_weirgate, server):
    large = start(start_weirgate, server, part=16 * MIB, whole=32 * MIB)
    small = start(start_weirgate, server, part=100 * KIB, whole=32 * MIB)
    await know_each_other([large, small])
    data = data_of(1, 12 * MIB)
    for origin, other in ((large, small), (small, large)):
        async with device(other, "a", compression=None) as client:
            answer = await pushed(origin, data, "a")
            assert (answer["sent"], answer["missing"]) == (1, []), answer
            assert json.loads(await asyncio.wait_for(client.recv(), 60))["data"] == data


async def test_a_message_over_the_limit_of_the_bus_is_counted_and_reaches_nobody(start_weirgate, redis_server):
    redis_server.client().config_set("client-output-buffer-limit", "pubsub 0 0 0")
    instance = start(start_weirgate, redis_server, part=KIB, whole=64 * MIB)
    await know_each_other([instance])
    body = json.dumps({"event": "e", "data": data_of(1, 17 * MIB), "targets": {"device_ids": ["a"]}})
    async with device(instance, "a", compression=None) as client:
        redis_server.client().publish("weirgate.events", f"weirgate-events/1 x push 1 0 1 {len(body)}\n{body}")
        # Behind it on the same connection.
        text = body[:60] + "}"
        short = json.dumps({"event": "e", "data": {"n": 2}, "targets": {"device_ids": ["a"]}})
        redis_server.client().publish("weirgate.events", f"weirgate-events/1 x push 2 0 1 {len(text) + 1}\n{text}")
        redis_server.client().publish("weirgate.events", f"weirgate-events/1 x push 3 0 1\n{short}")
        redis_server.client().publish("weirgate.events", f"weirgate-events/1 x push 4 0 1 {len(short)}\n{short}")
        assert json.loads(await asyncio.wait_for(client.recv(), 60))["data"] == {"n": 2}
        assert await asyncio.to_thread(push, instance, "e", {"n": 3}, "a")
        assert json.loads(await asyncio.wait_for(client.recv(), 60))["data"] == {"n": 3}
    metrics = scrape(instance)
    assert [metrics.sum(IGNORED, reason=reason) for reason in ("too_large", "incomplete", "bad")] == [1, 1, 1]
