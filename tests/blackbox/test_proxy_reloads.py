"""Reloads of a proxy with its recipe: nobody is cut before the time of the recipe, and no old process stays after it."""
import asyncio
import time
import urllib.request

import pytest
from clients import connect_many
from proxies import Caddy, Haproxy, Nginx
from waiting import patient, until

STAYS_S = 6
RELOADS = 4
CLIENTS = 5


def is_there(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    except OSError:
        return False


async def reloaded(proxy):
    """Reloads, and waits for the new process: on a busy machine, the next clients could otherwise still come to the old one. HAProxy
    takes no signal while it is about the reload before. Returns the earliest time at which the old process may have begun to end."""
    before, begun = proxy.workers(), time.monotonic()
    for _ in range(20):
        await asyncio.to_thread(proxy.reload)
        if isinstance(proxy, Caddy):
            return begun
        for _ in range(60):
            if await asyncio.to_thread(proxy.workers) - before:
                return begun
            await asyncio.sleep(0.05)
    raise AssertionError("no new process")


@pytest.mark.parametrize("kind", [Nginx, Haproxy, Caddy])
async def test_clients_stay_over_a_reload_for_the_time_of_the_recipe(start_weirgate, started, kind):
    weirgate = start_weirgate("demo").wait_ready()
    proxy = kind(weirgate.port, stays_s=STAYS_S)
    started.append(proxy)
    await until(lambda: is_there(proxy.port), 10, "the proxy serves")
    rounds = []
    for _ in range(RELOADS):
        clients = await connect_many(CLIENTS, proxy.port)
        rounds.append((clients, await reloaded(proxy)))
        await asyncio.sleep(STAYS_S / 6)
    newest = await connect_many(CLIENTS, proxy.port)
    for clients, reloaded_at in rounds:
        await asyncio.sleep(max(0, reloaded_at + STAYS_S - 0.7 - time.monotonic()))
        if time.monotonic() < reloaded_at + STAYS_S - 0.3:
            assert [client.open for client in clients] == [True] * CLIENTS, "cut before the time"
        await asyncio.wait_for(asyncio.gather(*(client.ended for client in clients)), patient(10))
    await until(lambda: proxy.old_processes() == 0, 5, "the end of the old processes")
    assert all(client.open for client in newest)
    for client in newest:
        await client.wait_for(lambda c, n=client.messages: c.messages > n, 10, "messages go on")
        client.abort()
