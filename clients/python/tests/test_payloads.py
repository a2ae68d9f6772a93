"""The option `payload` against the program itself, with a redis-server: over WebSockets, and over event streams."""
import asyncio
import time

import pytest
import weirgate
from waiting import patient
from weirgate import fallback

PAYLOADS = [b"\x82\xa3bid\xcb@Y\xa0\0\0\0\0\0\n\xff", b"", b"\n", b'{"n":1.50}', "tëxt".encode(), bytes(range(256))]



async def until(condition, seconds, what):
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < patient(seconds), f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("options", [{}, {"fallback": True}])
async def test_payloads_come_byte_for_byte_also_after_a_cut(start_weirgate, redis_server, options, monkeypatch):
    flags = ("--event-stream", "--history-ms", "60000", "--history-names", "market:*")
    server = start_weirgate("channels", *flags, redis=redis_server).wait_ready()
    redis, got, url = redis_server.client(), [], server.http_url + "/ws"
    if options:
        # As in a network that breaks WebSockets.
        monkeypatch.setitem(fallback._networks, url.split("/")[2], fallback.Network(broken=2))

    def publish(payloads):
        for payload in payloads:
            redis.publish("market:tick:A", payload)
    async with weirgate.Channels(url, payload="binary", backoff_min_ms=50, **options) as channels:
        await channels.subscribe(["market:tick:A", "market:tick:*"], lambda data, message: got.append((data, message["pattern"])))
        publish(PAYLOADS)
        await until(lambda: len(got) == 2 * len(PAYLOADS), 5, "live")
        first = channels.position
        channels.reconnect()
        publish(PAYLOADS)
        await until(lambda: len(got) == 4 * len(PAYLOADS), 5, "what came over the cut")
        assert [data for data, pattern in got if pattern is None] == [data for data, pattern in got if pattern] == 2 * PAYLOADS
        assert channels.reconnects == 1 and channels.position != first
    got.clear()
    async with weirgate.Channels(url, payload="binary", since=first, **options) as channels:
        channels.subscribe("market:tick:A", lambda data, _: got.append(data))
        await until(lambda: len(got) == len(PAYLOADS), 5, "what was missed")
        assert got == PAYLOADS
