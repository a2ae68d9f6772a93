"""A client that reads slowly, or not at all, costs the others nothing; why it left can be read in /metrics."""
import asyncio
import json
import time

from bus import publisher
from clients import connect_many, throttled_messages
from prometheus import scrape
from waiting import patient, until

KIB = 1024


async def steady_feed(bus, every_s, pad_bytes, stop):
    """One flow message every `every_s`, stamped and padded, until `stop` is set; how many there were."""
    sent, due = 0, time.monotonic()
    while not stop.is_set():
        await bus.flow({"n": sent, "sent_at": time.time(), "pad": "x" * pad_bytes})
        sent, due = sent + 1, due + every_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    return sent


async def test_clients_that_never_read_are_dropped_with_the_reason(nats, start_weirgate):
    stall_ms, stuck_count, good_count = 3_000, 10, 90
    weirgate = start_weirgate("levels", "--send-queue-stall-ms", str(stall_ms), nats=nats).wait_ready()
    good = await connect_many(good_count, weirgate.port)
    stuck = await connect_many(stuck_count, weirgate.port, receive_bytes=4096)
    for client in stuck:
        client.stop_reading()
    stop = asyncio.Event()
    async with publisher(nats) as bus:
        feed = asyncio.create_task(steady_feed(bus, 0.02, 8 * KIB, stop))
        took = await until(lambda: weirgate.health()["connections"] == good_count, stall_ms / 1000 + 10, "the stuck clients gone")
        assert took > stall_ms / 1000 - 1, f"dropped after {took:.1f} s, before the stall limit"
        await asyncio.sleep(1)
        stop.set()
        sent = await feed
    for client in good:
        await client.wait_for(lambda c: c.state()["flow"]["n"] == sent - 1, 5, "the last message")
        # A busy machine may make this process slow for a moment, and then it is treated as slow.
        assert client.messages > 0.95 * sent, f"{client.messages} of {sent} messages"
        assert client.longest_gap_s < patient(1.5), f"a reader waited {client.longest_gap_s:.2f} s"
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_client_closes_total", reason="send_stalled") == stuck_count
    assert metrics.sum("weirgate_client_closes_total") == stuck_count
    for client in stuck:
        client.abort()


async def test_a_throttled_reader_stays_and_sees_fresh_data(nats, start_weirgate):
    """64 kbit/s against 8 KB frames ten times a second: it can have one in ten, and that one has to be new."""
    weirgate = start_weirgate(nats=nats).wait_ready()
    stop, ages, seconds = asyncio.Event(), [], 20
    async with publisher(nats) as bus:
        feed = asyncio.create_task(steady_feed(bus, 0.1, 8_000, stop))
        async for payload, whole_at in throttled_messages(weirgate.port, 64_000, seconds):
            ages.append(whole_at - json.loads(payload)["flow"]["sent_at"])
        stop.set()
        sent = await feed
    assert weirgate.health()["connections"] <= 1
    assert len(ages) > 0.4 * seconds, f"only {len(ages)} messages came through"
    # Four at most on an idle machine; without skipping it would be 18.
    assert max(ages) < 14, f"data {max(ages):.1f} s old ({len(ages)} of {sent} messages)"
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_client_closes_total", reason="send_stalled") == 0
    assert metrics.sum("weirgate_messages_conflated_total") > 0
