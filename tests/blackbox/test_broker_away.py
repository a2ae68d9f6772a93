"""The broker goes away and comes back: clients stay, /ready tells of it, the feed returns by itself.

`make test` keeps it away for seconds; `make outages` for longer (TEST_AWAY_S, TEST_READY_GRACE_MS).
"""
import asyncio
import os
import time

import pytest
from bus import publisher
from clients import connect, connect_many
from waiting import until

AWAY_S = float(os.environ.get("TEST_AWAY_S", "12"))
GRACE_MS = int(os.environ.get("TEST_READY_GRACE_MS", "3000"))
BACK_WITHIN_S = 5
CLIENTS = 20


def connected(weirgate):
    return weirgate.health()["nats_connected"]


async def feed_until(server, client, marker):
    """Publishes `marker` over and over until the client has it; the broker may still be waking up."""
    while not (client.newest and client.state().get("flow") == marker):
        try:
            async with publisher(server) as bus:
                while not (client.newest and client.state().get("flow") == marker):
                    await bus.flow(marker)
                    await asyncio.sleep(0.1)
        except Exception:  # nats-py has many ways to say "not yet"; the caller has the deadline
            await asyncio.sleep(0.1)


@pytest.mark.timeout(120 + 3 * AWAY_S)
@pytest.mark.parametrize("fault", ["killed", "killed-store-lost", "frozen"])
async def test_clients_stay_and_the_feed_returns(nats, start_weirgate, fault):
    weirgate = start_weirgate("levels", "--ready-bus-grace-ms", str(GRACE_MS), nats=nats).wait_ready()
    clients = await connect_many(CLIENTS, weirgate.port)
    async with publisher(nats) as bus:
        await bus.flow({"before": 1})
        for client in clients:
            await client.wait_for(lambda c: c.messages > 0, 5, "the first message")
        if fault == "frozen":
            nats.freeze()
        else:
            nats.kill()
    gone_at = time.monotonic()

    # A dead connection shows at once. A silent one shows when its pings stay unanswered.
    notice_s = 2 if fault != "frozen" else AWAY_S - GRACE_MS / 1000 - 1
    noticed_s = await until(lambda: not connected(weirgate), notice_s, "nats_connected false in /health")
    unready_s = await until(lambda: weirgate.ready_status() == 503, GRACE_MS / 1000 + 2, "/ready 503 past the grace")
    if fault != "frozen":
        assert unready_s + noticed_s > GRACE_MS / 1000 - 0.5, "/ready gave up before the grace was over"

    # Newcomers are let in meanwhile and see the last state.
    late = await connect(weirgate.port)
    await late.wait_for(lambda c: c.state() and c.state()["flow"] == {"before": 1}, 2, "the cached state")
    while time.monotonic() < gone_at + AWAY_S:
        assert weirgate.ready_status() == 503, "/ready while the broker is away"
        health = weirgate.health()
        assert (health["status"], health["nats_connected"]) == ("healthy", False)
        assert health["connections"] == CLIENTS + 1
        await asyncio.sleep(0.5)

    if fault == "frozen":
        nats.thaw()
        nats.wait_until_it_answers()
    else:
        if fault == "killed-store-lost":
            nats.forget_everything()
        nats.start()
    back_at = time.monotonic()
    feeding = asyncio.create_task(feed_until(nats, late, {"after": fault}))
    for client in [*clients, late]:
        left = back_at + BACK_WITHIN_S - time.monotonic()
        await client.wait_for(lambda c: c.state()["flow"] == {"after": fault}, left, "the feed after the broker's return")
    await feeding
    await until(lambda: weirgate.ready_status() == 200, max(0.5, back_at + BACK_WITHIN_S - time.monotonic()), "/ready 200 again")
    assert connected(weirgate)
    assert all(c.open for c in clients)
    assert weirgate.health()["connections"] == CLIENTS + 1


async def test_nothing_is_broadcast_because_of_a_reconnection(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    client = await connect(weirgate.port)
    async with publisher(nats) as bus:
        for n in range(3):
            await bus.flow({"n": n})
        await client.wait_for(lambda c: c.messages == 3, 5, "three messages")
    nats.kill()
    await until(lambda: not connected(weirgate), 3, "nats_connected false")
    nats.start()
    await until(lambda: connected(weirgate), 5, "nats_connected true")
    await asyncio.sleep(1.5)
    assert client.messages == 3, f"a reconnection broadcast {client.messages - 3} times"
    async with publisher(nats) as bus:
        await bus.flow({"n": 3})
    await client.wait_for(lambda c: c.messages == 4, 5, "the next message")


async def test_starts_without_a_broker_and_serves_once_there_is_one(start_nats, start_weirgate):
    nats = start_nats()
    nats.kill()
    weirgate = start_weirgate(nats=nats)
    await until(lambda: weirgate.get("/health")[0] == 200, 5, "/health without a broker")
    assert weirgate.ready_status() == 503, "not ready before the subscriptions stand"
    client = await connect(weirgate.port)
    nats.start()
    await until(lambda: weirgate.ready_status() == 200, 5, "/ready once the broker is there")
    async with publisher(nats) as bus:
        await bus.flow({"first": True})
    await client.wait_for(lambda c: c.state() == {"flow": {"first": True}}, 5, "the first message")
