"""Much at once: one message larger than the hard limit of a queue, and hundreds in one go."""
import asyncio
import json
import zlib

from bus import publisher
from clients import connect, connect_many
from prometheus import scrape
from redis_gateways import CHANNELS, subscriber
from services import TOKEN, push
from waiting import until

KIB, MIB = 1024, 1024 * 1024
# The kernel takes everything at once: whatever waits in these queues waits for the loop, which is no fault of a client.
SMALL_QUEUES = ["--send-queue-soft-bytes", "32768", "--send-queue-hard-bytes", "65536", "--tcp-notsent-lowat-bytes", "0"]
READERS, BURST, PAD_BYTES = 400, 60, 8_000


async def test_one_message_over_the_hard_limit_reaches_everyone(start_nats, start_weirgate):
    nats = start_nats(max_payload=16 * MIB)
    weirgate = start_weirgate("levels", "--send-queue-hard-bytes", str(MIB), nats=nats).wait_ready()
    clients = await connect_many(100, weirgate.port)
    pad = "weir" * (2 * MIB)
    async with publisher(nats) as bus:
        await bus.flow({"pad": pad})
        for client in clients:
            await client.wait_for(lambda c: c.messages == 1, 60, "the large message")
        first = clients[0].newest
        assert json.loads(first) == {"flow": {"pad": pad}}
        sum_of_first = zlib.crc32(first)
        assert all(zlib.crc32(c.newest) == sum_of_first for c in clients)
        await bus.flow({"after": 1})
        for client in clients:
            await client.wait_for(lambda c: c.messages == 2, 10, "the message after it")
            assert client.state() == {"flow": {"after": 1}}
    assert weirgate.health()["connections"] == 100
    assert scrape(weirgate).sum("weirgate_client_closes_total") == 0


def balance(metrics):
    """(frames handed to queues, where they are now); the two are equal at any moment."""
    came_in = metrics.sum("weirgate_messages_queued_total")
    went = {
        "sent": metrics.sum("weirgate_frames_sent_total"),
        "conflated": metrics.sum("weirgate_messages_conflated_total"),
        "shed": metrics.sum("weirgate_messages_shed_total"),
        "dropped": metrics.sum("weirgate_messages_dropped_total"),
        "waiting": metrics.sum("weirgate_messages_waiting"),
    }
    return came_in, went


async def test_a_burst_drops_nobody_and_everyone_ends_with_the_newest(nats, start_weirgate):
    count, messages = 200, 400
    weirgate = start_weirgate(nats=nats).wait_ready()
    clients = await connect_many(count, weirgate.port)
    gone = await connect(weirgate.port, receive_bytes=4096)
    gone.stop_reading()
    async with publisher(nats) as bus:
        for n in range(messages):
            await bus.flow({"n": n, "pad": "x" * 8 * KIB}, flush=False)
        await bus.connection.flush(timeout=30)
        for client in clients:
            await client.wait_for(lambda c: c.newest and c.state()["flow"]["n"] == messages - 1, 30, "the newest state")
    assert all(c.open for c in clients)
    # One leaves with its queue full, so that "dropped" is counted too.
    gone.abort()
    await until(lambda: weirgate.health()["connections"] == count, 5, "the leaver gone")
    came_in, went = balance(scrape(weirgate))
    assert came_in >= count, f"weirgate_messages_queued_total is {came_in}"
    assert came_in == sum(went.values()), f"{came_in} came in, but {went}"
    assert went["sent"] >= sum(c.messages for c in clients)
    assert went["waiting"] == 0


def assert_nobody_was_dropped(weirgate, messages):
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_client_closes_total") == 0
    assert metrics.sum("weirgate_frames_sent_total") == messages
    assert metrics.sum("weirgate_send_queue_peak_bytes") <= 32_768, "nobody was slow"


async def test_a_burst_on_a_channel(redis_server, start_weirgate):
    weirgate = start_weirgate("channels", *SMALL_QUEUES, redis=redis_server).wait_ready()
    clients = []
    while len(clients) < READERS:
        clients += await asyncio.gather(*(subscriber(CHANNELS, weirgate, ["A"]) for _ in range(50)))
    before = scrape(weirgate).sum("weirgate_frames_sent_total")
    burst = redis_server.client().pipeline(transaction=False)
    for n in range(BURST):
        burst.publish(CHANNELS.channel("A"), json.dumps({"price": n, "x": "x" * PAD_BYTES}))
    burst.execute()
    for client in clients:
        await client.wait_for(lambda c: len(c.prices) == BURST, 60, "the whole burst")
    assert all(client.prices == list(range(BURST)) for client in clients)
    assert_nobody_was_dropped(weirgate, before + READERS * BURST)


async def test_a_burst_of_pushes(start_weirgate):
    weirgate = start_weirgate("events", *SMALL_QUEUES, env={"INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()
    clients = await connect_many(READERS, weirgate.port, path="/ws?device_id=all")
    before = [client.messages for client in clients]
    frames_before = scrape(weirgate).sum("weirgate_frames_sent_total")
    data = {"x": "x" * PAD_BYTES}
    pushes = [asyncio.to_thread(push, weirgate, "e", data, "all") for _ in range(BURST)]
    answers = await asyncio.gather(*pushes)
    assert answers == [(200, {"sent": READERS})] * BURST
    for client, earlier in zip(clients, before):
        await client.wait_for(lambda c: c.messages == earlier + BURST, 60, "all pushes")
    assert_nobody_was_dropped(weirgate, frames_before + READERS * BURST)
