"""Twelve complaints of users, each explained by what the operator's page says once the user's name is in *Find*."""
import asyncio
import json
import subprocess
import time

import clients
import nats as nats_py
import pytest
import websockets
from browser import open_page
from nats.js.api import DiscardPolicy, StreamConfig
from operated import Operated
from processes import weirgate_binary

pytestmark = pytest.mark.chromium

ROLES = {"user": ["market.>", "markt.>"]}
KIB = 1024
FIND = """(() => {
  document.getElementById('find-by').value = %s;
  document.getElementById('find-text').value = %s;
  document.getElementById('found').replaceChildren();
  document.getElementById('find').requestSubmit();
})()"""

# Values of the bus of which a part is outside of the card: a long sentence wraps.
OUTSIDE_OF_THE_CARD = """(() => {
  const card = document.getElementById('bus').getBoundingClientRect();
  const outside = box => box.left < card.left || box.right > card.right + 1 || box.width < 20;
  return [...document.querySelectorAll('#bus dd')].filter(dd => outside(dd.getBoundingClientRect()) || dd.scrollWidth > dd.clientWidth + 1).map(dd => dd.textContent);
})()"""


async def explained(page, by, text, *words):
    """Asks the page until it says all words of somebody, and returns what it says."""
    said = ""
    for _ in range(60):
        await page.js(FIND % (json.dumps(by), json.dumps(text)))
        await page.until("document.getElementById('found').children.length > 0", 20, "an answer")
        said = await page.js("[...document.querySelectorAll('#found > p, #found .sentence')].map(p => p.textContent).join('\\n')")
        if all(word in said for word in words):
            return said
        await asyncio.sleep(0.5)
    raise AssertionError(f"{by} {text}: {words} not in {said!r}")


class Market:
    """A stream, and a task that publishes some names of it."""

    def __init__(self, link):
        self.stream = link.jetstream()
        self.names = {"market.a": b"1"}

    async def publish(self):
        while True:
            for name, data in list(self.names.items()):
                await self.stream.publish(name, data)
            await asyncio.sleep(0.05)


async def test_a_stranger_who_has_only_the_page_finds_the_cause_of_each(nats, start_weirgate, tmp_path):
    link = await nats_py.connect(nats.url)
    config = StreamConfig(name="MARKET", subjects=["market.>"])
    await link.jetstream().add_stream(config)
    gateway = Operated(start_weirgate, tmp_path, nats.url, "--stream", "MARKET", "--history-ms", "60000", "--history-bytes-max", "262144",
                      "--send-queue-soft-for-ms", "60000", "--send-queue-stall-ms", "60000", "--send-queue-hard-bytes", str(256 * KIB * KIB), roles=ROLES)
    market = Market(link)
    market.names["market.quiet"] = b"1"
    publishing = asyncio.create_task(market.publish())
    held = {user: (await gateway.connect(user, *names, more=more))[0] for user, names, more in [
        ("healthy", ["market.a"], ""),
        ("refused", ["secret.a"], ""),
        ("typo", ["markt.a"], ""),
        ("patient", ["market.quiet"], ""),
        ("rated", ["market.a"], "&max_hz=2"),
        ("cut", ["market.a"], ""),
    ]}
    slow = await clients.connect(gateway.port, path=f"/ws?token={gateway.token('slow')}", receive_bytes=4 * KIB)
    slow.say({"action": "subscribe", "channels": ["market.big"]})
    slow.stop_reading()
    expiring, _ = await gateway.connect("expiring", "market.a", exp=int(time.time()) + 3)

    async with open_page(f"http://127.0.0.1:{gateway.admin}/") as page:
        await page.until("document.getElementById('status').textContent === 'Ready'", 20, "ready")
        await explained(page, "user", "refused", "does not get secret.a", "role does not grant")
        await explained(page, "user", "typo", "none of its 1 names has had a message")
        await explained(page, "user", "rated", "at most 2 states a second")
        await explained(page, "user", "elsewhere", "no client of this instance")
        said = await explained(page, "user", "healthy", "healthy", "newest message of its names")
        assert "stream" not in said, said
        del market.names["market.quiet"]
        market.names["market.big"] = b"x" * 16 * KIB
        await explained(page, "user", "slow", "slow for")
        await explained(page, "user", "healthy", "the history of market.a reaches back", "--history-bytes-max")
        said = await explained(page, "user", "patient", "nothing is published for market.quiet", "before there was one every")
        await explained(page, "user", "expiring", "the last connection ended", "expired")
        await asyncio.to_thread(subprocess.run, [weirgate_binary(), "disconnect", "--user", "cut", f"127.0.0.1:{gateway.admin}"], check=True, timeout=30)
        await explained(page, "user", "cut", "revoked", "an operator has cut this client off")
        with pytest.raises(websockets.exceptions.WebSocketException):
            async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/ws", local_addr=("127.0.0.2", 0)) as ws:
                await ws.recv()
        await explained(page, "address", "127.0.0.2", "the last connection ended", "token")
        publishing.cancel()
        config.max_msgs, config.discard = 1, DiscardPolicy.NEW
        await link.jetstream().update_stream(config)
        said = await explained(page, "user", "healthy", "the stream MARKET is full", "max_msgs")
        assert not said.startswith("healthy"), said
        for width in (1440, 1280, 768, 390):
            await page.resize(width, 900)
            assert await page.js(OUTSIDE_OF_THE_CARD) == [], width
        assert [p for p in page.problems if "WebSocket" not in p] == []
    for ws in [*held.values(), expiring]:
        ws.transport.abort()
    slow.abort()
    await link.close()
