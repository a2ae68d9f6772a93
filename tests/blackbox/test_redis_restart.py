"""redis-server is killed under subscribed clients and comes back: nobody is dropped, and data flows again.

TEST_CLIENTS sets how many clients there are; `make redis-restart` runs it with 1,000.
"""
import asyncio
import os
import time

import pytest
from prometheus import scrape
from redis_gateways import BOTH, publish, subscriber
from waiting import patient, until

CLIENTS = int(os.environ.get("TEST_CLIENTS", "200"))
SYMBOLS = 100
BACK_WITHIN_S = 3


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
async def test_redis_killed_and_back_under_subscribed_clients(kind, redis_server, start_weirgate):
    weirgate = start_weirgate(kind.name, redis=redis_server).wait_ready()
    names = [f"S{n}" for n in range(SYMBOLS)]
    clients = []
    while len(clients) < CLIENTS:
        some = range(len(clients), min(len(clients) + 50, CLIENTS))
        clients += await asyncio.gather(*(subscriber(kind, weirgate, [names[n % SYMBOLS]]) for n in some))
    redis_server.kill()
    await until(lambda: not weirgate.health()["redis_connected"], 20, "the loss noticed")
    # Long enough for the wait between two attempts to have grown to its most.
    await asyncio.sleep(4)
    assert all(client.open for client in clients)
    assert all(client.prices == [] for client in clients)

    back_at = time.monotonic()
    await asyncio.to_thread(redis_server.start)
    with redis_server.client() as redis:
        def all_heard():
            """Each name is published until Redis has somebody who listens to it."""
            waiting = [name for name in names if publish(redis, kind, name, 1) == 0]
            names[:] = waiting
            return not waiting
        await until(all_heard, BACK_WITHIN_S + 10, "Redis asked for every name again")
    for client in clients:
        await client.wait_for(lambda c: c.prices, 10, "data after the restart")
    took = time.monotonic() - back_at
    assert took < patient(BACK_WITHIN_S), f"{took:.1f} s until all {CLIENTS} clients had data again"
    assert all(client.open and client.prices == [1] for client in clients)
    assert scrape(weirgate).sum("weirgate_client_closes_total") == 0
    for client in clients:
        client.abort()
