"""A publisher that sends 20 MiB a second into the stream, under watching clients.

`make test` publishes for seconds; TEST_PUBLISHER_S and TEST_PUBLISHER_MIB_S ask for more.
"""
import asyncio
import os
import re
import time

from bus import FLOW, publisher
from clients import TEXT, Client, connect
from prometheus import scrape
from test_bursts import balance
from waiting import until

KIB, MIB = 1024, 1024 * 1024
SECONDS = float(os.environ.get("TEST_PUBLISHER_S", "4"))
MIB_S = int(os.environ.get("TEST_PUBLISHER_MIB_S", "20"))
MESSAGE_BYTES = 64 * KIB
# What may wait between the bus and the loop: 64 MiB of messages, and messages without an acknowledgement.
BUS_QUEUE_BYTES, UNACKNOWLEDGED = 64 * MIB, 512 * MESSAGE_BYTES
# The allocator, send queues (two of --send-queue-hard-bytes), and the frames of a turn.
REST_BYTES = 48 * MIB


class Numbered(Client):
    """Keeps the number of each message instead of the message."""

    def __init__(self, *args):
        super().__init__(*args)
        self.numbers = []

    def take(self, opcode, payload):
        super().take(opcode, payload[:40] if opcode == TEXT else payload)
        if opcode == TEXT:
            self.numbers.append(int(re.match(rb'\{"flow":\{"n":(\d+)', payload)[1]))


async def watch(weirgate, ready, resident):
    """Looks at /ready and at the memory, again and again."""
    while True:
        status, _, text = await asyncio.to_thread(weirgate.get, "/ready")
        ready.append((status, text))
        resident.append(scrape(weirgate).sum("process_resident_memory_bytes"))
        await asyncio.sleep(0.1)


async def test_twenty_mib_a_second_fill_no_memory_and_keep_their_order(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    clients = [await connect(weirgate.port, make=Numbered) for _ in range(3)]
    slow = await connect(weirgate.port, receive_bytes=4096, make=Numbered)
    slow.stop_reading()
    before = scrape(weirgate).sum("process_resident_memory_bytes")
    ready, resident = [], []
    watching = asyncio.create_task(watch(weirgate, ready, resident))
    count, pad = int(MIB_S * MIB * SECONDS / MESSAGE_BYTES), b"x" * (MESSAGE_BYTES - 30)
    last = count - 1
    async with publisher(nats) as bus:
        begun = time.monotonic()
        for n in range(count):
            await bus.connection.publish(FLOW, b'{"n":%d,"pad":"%s"}' % (n, pad))
            ahead_s = n * MESSAGE_BYTES / (MIB_S * MIB) - (time.monotonic() - begun)
            if n % 16 == 0:
                await bus.connection.flush(timeout=30)
                await asyncio.sleep(max(0, ahead_s))
        await bus.connection.flush(timeout=30)
        took_s = time.monotonic() - begun
        for client in clients:
            await client.wait_for(lambda c: c.numbers[-1:] == [last], 60, "the last message")
        slow.transport.resume_reading()
        await slow.wait_for(lambda c: c.numbers[-1:] == [last], 30, "the last message, for the slow client")
    watching.cancel()
    assert not [look for look in ready if look[0] != 200], "messages come all the time"
    grown = max(resident) - before
    assert grown <= BUS_QUEUE_BYTES + UNACKNOWLEDGED + REST_BYTES, f"{grown / MIB:.0f} MiB more"
    for client in [*clients, slow]:
        assert client.open
        assert all(a < b for a, b in zip(client.numbers, client.numbers[1:])), "in the order of the stream, none twice"
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_bus_messages_total", subject=FLOW) == count, "the bus lost nothing"
    assert metrics.sum("weirgate_bus_messages_bad_total") == metrics.sum("weirgate_bus_gaps_total") == 0
    await until(lambda: balance(scrape(weirgate))[1]["waiting"] == 0, 10, "empty queues")
    came_in, went = balance(scrape(weirgate))
    assert came_in == sum(went.values()) == 4 * count, f"{came_in} came in, but {went}"
    assert went["dropped"] == went["shed"] == 0
    missed = sum(count - len(c.numbers) for c in [*clients, slow])
    assert went["conflated"] == missed > 0, "what a client did not get is counted"
    print(f"{count} messages in {took_s:.1f} s ({count * MESSAGE_BYTES / MIB / took_s:.1f} MiB/s), "
          f"{grown / MIB:.0f} MiB more memory, {missed} conflated")
