"""Instances of the events gateway that share pushes over Redis or NATS: a push that reaches one reaches the devices of all."""
import asyncio
import contextlib
import json

import pytest
from instances import ENV, bus_flags, id_of, is_silent, know_each_other, knows, pushed, received, start_instances
from prometheus import scrape
from services import device, push
from waiting import until


@pytest.fixture(params=["redis", "nats"])
def server(request):
    """A bus of each kind."""
    return request.getfixturevalue("redis_server" if request.param == "redis" else "nats")


async def test_a_push_reaches_a_device_on_every_instance_once(start_weirgate, server):
    instances = start_instances(start_weirgate, server, 3)
    await know_each_other(instances)
    async with contextlib.AsyncExitStack() as stack:
        async def join(instance, name):
            return await stack.enter_async_context(device(instance, name))
        clients = [await join(one, "a") for one in instances[:2]]
        other = await join(instances[2], "b")
        for n, one in enumerate(instances):
            want = {"sent": 2, "bus": "up", "instances": 3, "missing": []}
            assert await pushed(one, {"n": n}, "a", "nobody") == want
        for client in clients:
            assert [await received(client) for _ in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]
        want = {"sent": 2, "bus": "up", "instances": 3, "missing": []}
        assert await pushed(instances[0], {"n": 3}, "b", "b") == want, "named twice, sent twice"
        assert [await received(other) for _ in range(2)] == [{"n": 3}] * 2
        for client in [*clients, other]:
            assert await is_silent(client)
    await until(lambda: [scrape(one).sum("weirgate_events_bus_pushes_sent_total") for one in instances] == [2, 1, 1], 10, "weirgate_events_bus_pushes_sent_total")
    await until(lambda: [scrape(one).sum("weirgate_events_bus_pushes_received_total") for one in instances] == [2, 3, 3], 10, "weirgate_events_bus_pushes_received_total")
    assert all(scrape(one).sum("weirgate_events_bus_messages_ignored_total") == 0 for one in instances)


async def test_a_thousand_devices_on_two_instances(start_weirgate, server):
    instances = start_instances(start_weirgate, server, 2)
    await know_each_other(instances)
    names = [f"d{n}" for n in range(1_000)]
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for n, name in enumerate(names):
            clients.append(await stack.enter_async_context(device(instances[n % 2], name, compression=None)))
        for n in range(3):
            want = {"sent": 1_000, "bus": "up", "instances": 2, "missing": []}
            assert await pushed(instances[n % 2], {"n": n}, *names) == want
        for client in clients:
            assert [(await received(client))["n"] for _ in range(3)] == [0, 1, 2]
        for client in clients[:20]:
            assert await is_silent(client, 0.02)


async def test_pushes_of_one_instance_keep_their_order_on_the_other(start_weirgate, server):
    instances = start_instances(start_weirgate, server, 2)
    await know_each_other(instances)
    async with device(instances[1], "a", compression=None) as client:
        async def read():
            return [(await received(client))["n"] for _ in range(60)]
        # It reads all the time: large events that wait would have it dropped as slow.
        reader = asyncio.create_task(read())
        for n in range(60):
            # Some go in several messages, and some are read aside.
            pad = "x" * (1_500_000 if n % 20 == 7 else 10)
            answer = await pushed(instances[0], {"n": n, "pad": pad}, "a")
            assert answer == {"sent": 1, "bus": "up", "instances": 2, "missing": []}, n
        assert await reader == list(range(60))


async def test_a_killed_instance_is_missing_and_then_forgotten(start_weirgate, server):
    instances = start_instances(start_weirgate, server, 3, "--events-bus-wait-ms", "300")
    await know_each_other(instances)
    killed = id_of(instances[2])
    async with device(instances[0], "a") as here, device(instances[1], "a") as there:
        instances[2].kill()
        answer = await pushed(instances[0], {"n": 1}, "a")
        assert answer["missing"] == [killed], answer
        assert (await received(here), await received(there)) == ({"n": 1}, {"n": 1})
        await until(lambda: knows(instances[0], 2), 20, "the killed instance is forgotten")
        want = {"sent": 2, "bus": "up", "instances": 2, "missing": []}
        # The first one after a while may find a busy machine.
        answers = [await pushed(instances[0], {"n": 2}, "a") for _ in range(5)]
        assert want in answers, answers
    await until(lambda: scrape(instances[0]).sum("weirgate_events_bus_pushes_incomplete_total") >= 1, 10, "weirgate_events_bus_pushes_incomplete_total")


async def test_a_stopped_instance_is_no_longer_waited_for(start_weirgate, server):
    instances = start_instances(start_weirgate, server, 2)
    await know_each_other(instances)
    instances[1].child.terminate()
    assert await asyncio.to_thread(instances[1].wait, 10) == 0
    # It has said so, so nobody finds out by its silence.
    await until(lambda: knows(instances[0], 1), 2, "the stopped instance is gone")
    answer = await pushed(instances[0], {}, "a")
    assert answer == {"sent": 0, "bus": "up", "instances": 1, "missing": []}


async def test_with_the_bus_away_own_devices_are_served(start_weirgate, server):
    instances = start_instances(start_weirgate, server, 2)
    await know_each_other(instances)
    ids = [id_of(one) for one in instances]
    async with device(instances[0], "a") as here, device(instances[1], "a") as there:
        server.kill()
        await until(lambda: not instances[0].health()["events_bus"]["up"], 20, "the loss of the bus")
        begin = asyncio.get_running_loop().time()
        answer = await pushed(instances[0], {"n": 1}, "a")
        assert asyncio.get_running_loop().time() - begin < 4, "nobody is waited for"
        assert answer == {"sent": 1, "bus": "away", "instances": 1, "missing": [ids[1]]}
        assert await received(here) == {"n": 1}
        for one in instances:
            assert (one.ready_status(), one.health()["status"]) == (200, "healthy")
            stats = json.loads(one.get("/stats")[2])
            assert stats["events_bus"]["up"] is False
        await asyncio.to_thread(server.start)
        await know_each_other(instances)
        answer = await pushed(instances[1], {"n": 2}, "a")
        assert answer == {"sent": 2, "bus": "up", "instances": 2, "missing": []}
        assert await received(here) == {"n": 2}
        assert await received(there) == {"n": 2}, "what was pushed meanwhile does not come late"


async def test_an_instance_that_starts_without_the_bus_joins_later(start_weirgate, server):
    server.kill()
    instances = start_instances(start_weirgate, server, 2)
    for one in instances:
        one.wait_ready()
        assert (await pushed(one, {}, "a"))["bus"] == "away"
    await asyncio.to_thread(server.start)
    await know_each_other(instances)


async def test_groups_of_other_names_share_nothing(start_weirgate, server):
    one, = start_instances(start_weirgate, server, 1)
    other, = start_instances(start_weirgate, server, 1, "--events-bus-name", "other.events")
    await know_each_other([one, other], 1)
    async with device(other, "a") as client:
        assert (await pushed(one, {}, "a"))["sent"] == 0
        assert await is_silent(client)


async def test_without_a_bus_the_answer_is_as_it_was(start_weirgate):
    weirgate = start_weirgate("events", env=ENV).wait_ready()
    assert push(weirgate, "e", {}, "a") == (200, {"sent": 0})
    assert set(weirgate.health()) == {"service", "status", "connections", "services_away"}
    assert not scrape(weirgate).has("weirgate_events_bus_up")


async def test_the_password_of_the_bus_is_shown_nowhere(start_weirgate, redis_server):
    redis_server.client().config_set("requirepass", "s3cret-of-the-bus")
    url = f"redis://:s3cret-of-the-bus@127.0.0.1:{redis_server.port}"
    weirgate = start_weirgate("events", "--events-bus", url, "--log-filter", "debug", env=ENV)
    await know_each_other([weirgate])
    weirgate.logs(f"Bus:         redis://127.0.0.1:{redis_server.port}")
    shown = [weirgate.log(), *(weirgate.get(path)[2] for path in ["/health", "/stats", "/metrics"])]
    assert not any("s3cret" in text for text in shown)


async def test_a_nats_server_that_takes_too_little_is_told(start_weirgate, start_nats):
    server = start_nats(max_payload=65_536)
    weirgate = start_weirgate("events", *bus_flags(server), env=ENV).wait_ready()
    await until(lambda: "takes messages of at most 65536 bytes (max_payload)" in weirgate.log(), 20, "the reason in the log")
    assert (await pushed(weirgate, {}, "a"))["bus"] == "away"
    smaller = start_instances(start_weirgate, server, 2, "--events-bus-message-bytes-max", "60000")
    await know_each_other(smaller)
    async with device(smaller[1], "a", compression=None) as client:
        data = {"x": "y" * 300_000}
        assert (await pushed(smaller[0], data, "a"))["sent"] == 1
        assert await received(client) == data
