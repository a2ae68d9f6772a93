"""Several instances of the events gateway on one bus."""
import asyncio
import json

from prometheus import scrape
from services import TOKEN, push
from waiting import until

ENV = {"INTERNAL_AUTH_TOKEN": TOKEN}
UP = "weirgate_events_bus_up"
INSTANCES = "weirgate_events_bus_instances"


def bus_flags(server, *more):
    """Flags that join an instance to the others; counts may be late on a busy machine."""
    return ["--events-bus", server.url, "--events-bus-wait-ms", "5000", *more]


def start_instances(start_weirgate, server, count, *more):
    """Instances, not waited for."""
    return [start_weirgate("events", *bus_flags(server, *more), env=ENV) for _ in range(count)]


async def know_each_other(instances, count=None, seconds=20):
    """Waits until every instance counts all (or `count`) instances, with the bus up."""
    count = count or len(instances)
    for one in instances:
        await asyncio.to_thread(one.wait_ready)
        await until(lambda: knows(one, count), seconds, f"{count} instances on the bus\n{one.log_tail()}")


def knows(instance, count):
    """Whether the bus of an instance is up, with so many instances."""
    metrics = scrape(instance)
    return metrics.sum(UP) == 1 and metrics.sum(INSTANCES) == count


def id_of(instance):
    """The id of an instance."""
    return instance.health()["events_bus"]["instance"]


async def pushed(instance, data, *devices):
    """Pushes and returns the body of the response, which must be 200."""
    status, answer = await asyncio.to_thread(push, instance, "e", data, *devices)
    assert status == 200, answer
    return answer


async def received(client, seconds=20):
    """The data of the next event."""
    return json.loads(await asyncio.wait_for(client.recv(), seconds))["data"]


async def is_silent(client, seconds=0.3):
    """Whether nothing comes for a while."""
    try:
        await asyncio.wait_for(client.recv(), seconds)
    except TimeoutError:
        return True
    return False
