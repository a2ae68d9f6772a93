"""Clients of channels that want other names all the time: memory stays, and the others are served."""
import asyncio
import json
import pathlib

import clients
from prometheus import scrape
from redis_gateways import CHANNELS, publish, subscriber
from waiting import until

MIB = 1 << 20
NAMES = 50
#: As long as a name may be.
PAD = "x" * 450


def resident_bytes(weirgate):
    status = pathlib.Path(f"/proc/{weirgate.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


async def storm(weirgate, name, rounds):
    """Subscribes to new names and leaves them, round after round; returns the client."""
    client = await clients.connect(weirgate.port, path="/ws")
    for round_ in range(rounds):
        names = [f"{name}:{round_}:{n}:{PAD}" for n in range(NAMES)]
        client.say(CHANNELS.subscribe(names))
        client.say({**CHANNELS.subscribe(names), "action": "unsubscribe"})
        # About as fast as a client may send.
        await asyncio.sleep(0.002)
    return client


async def test_storms_while_redis_hangs_leave_nothing(redis_server, start_weirgate):
    weirgate = start_weirgate("channels", redis=redis_server).wait_ready()
    stays = await subscriber(CHANNELS, weirgate, ["stays"])
    before = resident_bytes(weirgate)
    redis_server.freeze()
    storms = await asyncio.gather(*(storm(weirgate, n, 100) for n in range(3)))

    def changes(*stages):
        metrics = scrape(weirgate)
        return sum(metrics.sum("weirgate_subscription_changes", stage=stage) for stage in stages)
    # 15,000 names of 500 bytes were asked for and given up. The last requests may be under way.
    await until(lambda: changes("waiting", "queued") <= 2 * len(storms) * NAMES, 5, "what was given up is gone")
    assert changes("asked") <= 1_024
    grown = resident_bytes(weirgate) - before
    assert grown < 8 * MIB, f"{grown / MIB:.1f} MiB"
    redis_server.thaw()
    with redis_server.client() as redis:
        await until(lambda: redis.pubsub_channels() == [CHANNELS.channel("stays").encode()], 20, "nothing of theirs left in Redis")
        await until(lambda: publish(redis, CHANNELS, "stays", 1) == 1, 20, "the connection kept or made again")
    await stays.wait_for(lambda c: c.prices[-1:] == [1], 10, "the publication")


async def test_storms_do_not_hold_up_the_subscriptions_of_others(redis_server, start_weirgate):
    weirgate = start_weirgate("channels", redis=redis_server).wait_ready()
    storms = [asyncio.ensure_future(storm(weirgate, n, 300)) for n in range(4)]
    confirmed = []
    with redis_server.client() as redis:
        while not all(task.done() for task in storms):
            name = f"other{len(confirmed)}"
            client = await subscriber(CHANNELS, weirgate, [name])
            # Answered unconfirmed after a second, Redis would not know of the name.
            confirmed.append(publish(redis, CHANNELS, name, 1) == 1)
            client.abort()
            await asyncio.sleep(0.02)
    # On a busy machine some confirmations take more than a second.
    assert sum(confirmed) > len(confirmed) / 3, confirmed


async def test_names_of_all_clients_are_bounded(redis_server, start_weirgate):
    weirgate = start_weirgate("channels", "--all-channels-max", "5", redis=redis_server).wait_ready()
    first = await subscriber(CHANNELS, weirgate, ["a", "b*"])
    second = await subscriber(CHANNELS, weirgate, ["b*", "c", "d"])
    answer = json.loads(second.newest)
    assert answer["channels"] == ["market:tick:b*", "market:tick:c"]
    assert answer["errors"] == ["Server limit of channels exceeded (5)"]
    metrics = scrape(weirgate)
    assert (metrics.sum("weirgate_subscribed_names"), metrics.sum("weirgate_held_max", of="names")) == (3, 5), "half, and a bit"
    assert metrics.sum("weirgate_subscribed_name_bytes") == len("market:tick:" * 3) + len("ab*c")
    assert metrics.sum("weirgate_subscriptions_limited_total") == 1
    for client in first, second:
        client.abort()


async def test_overlapping_patterns_of_one_address_cost_redis_few_copies(redis_server, start_weirgate):
    weirgate = start_weirgate("channels", redis=redis_server).wait_ready()
    honest = await subscriber(CHANNELS, weirgate, ["A", "?"])
    holders = []
    for n in range(12):
        client = await clients.connect(weirgate.port, path="/ws", source="127.0.0.9")
        client.say(CHANNELS.subscribe([f"[A{a}{n}]*" for a in "bcdef"]))
        await client.wait_for(lambda c: b'"subscribed"' in c.newest, 20, "the answer")
        holders.append(client)
    with redis_server.client() as redis:
        # Five as they are, and the entry of the table that covers the others.
        assert redis.pubsub_numpat() == 6
        for price in range(200):
            publish(redis, CHANNELS, "A", price)
        await honest.wait_for(lambda c: len(c.prices) == 400, 20, "a copy for the name and one for its pattern")
        assert honest.prices == sorted(2 * list(range(200)))
        refused = scrape(weirgate).sum("weirgate_subscriptions_limited_total", limit="copies")
        assert refused >= 60 - 5 - 16
        for client in holders:
            client.abort()
        await until(lambda: redis.pubsub_numpat() == 1, 10, "only the pattern of the other client is left")
