"""A night on call: seven faults, one after the other, and each is named by the page, by `top --once` and by the log."""
import asyncio
import contextlib
import json
import os
import re
import signal

import pytest
import websockets
from clients import connect
from link import Link
from test_operator_state import get, started, state
from test_top import run, top
from tokens import fresh_token
from waiting import until

SECRET, STREAM, NAME = "thirty-two bytes of a test secret", "ticks", "market:tick:A"
GOOD, FORGED = (fresh_token(secret, role="user", sub="ann") for secret in (SECRET, "another secret of thirty-two bytes"))


class Night:
    """A gateway of channels on a stream behind a link that can fail, with tokens and a limit by address."""

    def __init__(self, weirgate, admin, redis, link):
        self.weirgate, self.admin, self.redis, self.link = weirgate, admin, redis, link
        self.clients = []

    async def client(self, receive_bytes=None):
        self.clients.append(await connect(self.weirgate.port, receive_bytes, path=f"/ws?token={GOOD}"))
        self.clients[-1].say({"action": "subscribe", "channels": [NAME]})
        return self.clients[-1]

    def store(self, body='{"price":1}', count=1):
        pipe = self.redis.pipeline()
        for _ in range(count):
            pipe.xadd(STREAM, {"channel": NAME, "data": body})
        pipe.execute()

    async def shows(self, on_page, in_top, in_log):
        """Waits for the word in all three places: a condition of the state, patterns of `top`, and texts of the log."""
        await until(lambda: on_page(state(self.admin)), 20, "the page", every=0.1)
        missing = lambda: [text for text in in_top if not re.search(text, run("--once", f"127.0.0.1:{self.admin}")[1], re.M)]
        await until(lambda: not missing(), 20, f"top: {in_top}")
        await until(lambda: any(all(text in line for text in in_log) for line in self.weirgate.log().splitlines()), 20, f"the log: {in_log}")


async def slow_client(night):
    client = await night.client(4_096)
    client.stop_reading()
    for _ in range(20):
        night.store(json.dumps("x" * 20_000), 2)
        await asyncio.sleep(0.05)
    is_slow = lambda now: now["slow"].get("client") and any(row["say"] for row in (now["survey"] or {"slowest": []})["slowest"])
    await until(lambda: is_slow(state(night.admin)), 20, "the page")
    _, shown, _ = await top("--once", f"127.0.0.1:{night.admin}")
    assert re.search(r"^Slow +client 1$[\s\S]*^SLOW CLIENTS .*\n127\.0\.0\.1 +ann ", shown, re.M), shown
    while state(night.admin)["closes"].get("send_queue_soft", 0) + state(night.admin)["closes"].get("send_queue_hard", 0) == 0:
        night.store(json.dumps("x" * 60_000), 4)
        await asyncio.sleep(0.05)
    is_shown = lambda now: any(end["reason"].startswith("send_queue") and end["why"] == "client" for end in now["ends"])
    await night.shows(is_shown, ["send_queue_"], ["WARN", "connection ended", "send_queue_", 'why="client"', "waited_bytes=", "--send-queue-"])


async def dead_broker(night):
    night.link.black_hole()
    await night.shows(lambda now: now["bus"]["away_ms"] is not None and now["status"] == "Bus away", ["Bus away", r"^Bus .* away [\d.]+ "], ["WARN", "Redis is away"])
    night.link.mend()
    await until(lambda: state(night.admin)["bus"]["away_ms"] is None, 30, "the bus is back")


async def bad_messages(night):
    for _ in range(3):
        night.redis.xadd(STREAM, {"chanel": NAME, "data": "{}"})
    await night.shows(lambda now: now["numbers"]["bus_messages_bad"] == 3, ["bad 3"], ["WARN", "bad message skipped", "id=", "no field channel"])


async def refused_tokens(night):
    for _ in range(3):
        async with websockets.connect(f"ws://127.0.0.1:{night.weirgate.port}/ws?token={FORGED}") as client:
            await asyncio.wait_for(client.wait_closed(), 60)
    is_shown = lambda now: any((end["reason"], end["refusal"]) == ("policy", "signature") for end in now["ends"])
    await night.shows(is_shown, ["policy +signature"], ["connection ended", 'refusal="signature"', "client=127.0.0.1"])


async def full_limit(night):
    for _ in range(14):
        with contextlib.suppress(AssertionError, ConnectionError):
            await night.client()
    is_shown = lambda now: any(end["limit"] == "--connections-per-ip-max 10" for end in now["ends"])
    await night.shows(is_shown, ["connections_per_ip", "--connections-per-ip-max"],
                      ["WARN", "connection ended", 'reason="connections_per_ip"', "--connections-per-ip-max 10"])


async def late_loop(night):
    os.kill(night.weirgate.pid, signal.SIGSTOP)
    await asyncio.sleep(2.5)
    os.kill(night.weirgate.pid, signal.SIGCONT)
    await night.shows(lambda now: now["late_all_ms"] >= 2_000, [r"late_all [2-9]\."], ["WARN", "the loop was late", "late_ms="])


async def reader_behind(night):
    night.link.bytes_per_s = 200_000
    stored = asyncio.create_task(store_steadily(night))
    try:
        await night.shows(lambda now: (now["bus"]["stream_behind_ms"] or 0) > 5_000, ["stream_behind [1-9]"], ["WARN", "behind the stream"])
        assert "stream_behind" in get(night.admin, "/ready")[2]
    finally:
        stored.cancel()
        night.link.bytes_per_s = None


async def store_steadily(night):
    while True:
        night.store(json.dumps("x" * 20_000), 5)
        await asyncio.sleep(0.1)


FAULTS = [slow_client, bad_messages, refused_tokens, full_limit, late_loop, dead_broker, reader_behind]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_each_fault_is_named_wherever_somebody_looks(redis_server, start_weirgate, fault):
    async with Link(redis_server.port).running() as link:
        env = {"REQUIRE_AUTH": "true", "REDIS_URL": f"redis://127.0.0.1:{link.port}", "JWT_SECRET": SECRET}
        flags = ["--stream", STREAM, "--history-ms", "60000", "--connections-per-ip-max", "10"]
        weirgate, admin = await started(start_weirgate, "channels", *flags, env=env)
        night = Night(weirgate, admin, redis_server.client(), link)
        reader = await night.client()
        night.store()
        await reader.wait_for(lambda c: c.messages >= 2, 10, "the feed")
        await fault(night)
