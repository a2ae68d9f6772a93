"""The page beside relays alone, in Chromium: each key of the state, its age and its newest text, and no market."""
import asyncio
import json

import nats as nats_py
import pytest
from browser import open_page
from nats.js.api import StreamConfig
from waiting import until

pytestmark = pytest.mark.chromium

RELAYS = ["--relay", "news.flash=news", "--relay", "depth.ES=depth", "--relay", "news.later=later"]
# Each row of the table: key, age, text.
ROWS = "[...document.querySelectorAll('#keys tr')].map(tr => [...tr.children].map(cell => cell.textContent))"
SHOWN = "[...document.querySelectorAll('main section, .quote')].filter(e => e.offsetParent !== null).map(e => e.querySelector('h2')?.id ?? e.className)"
ATTACK = "<img src=x onerror=\"document.title='broken'\">"
# The least contrast of a cell with its card, as WCAG 2 counts.
CONTRAST = """(() => {
  const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
  const ground = light(getComputedStyle(document.querySelector('.of-relays')).backgroundColor);
  return Math.min(...[...document.querySelectorAll('#relayed td, #relayed th')].map(e => light(getComputedStyle(e).color))
    .map(text => (Math.max(text, ground) + .05) / (Math.min(text, ground) + .05)));
})()"""


async def rows(page):
    return {key: (age, text) for key, age, text in await page.js(ROWS)}


async def shows(page, key, text):
    await page.until(f"{ROWS}.some(([key, , text]) => key === {json.dumps(key)} && text === {json.dumps(text)})", 10, f"{key}: {text[:40]}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_each_key_has_its_age_and_its_newest_text_and_there_is_no_market(nats, start_weirgate, tmp_path, scheme):
    connection = await nats_py.connect(nats.url)
    streams = connection.jetstream(timeout=10)
    await streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*", "depth.*"]))
    weirgate = start_weirgate("levels", *RELAYS, nats=nats).wait_ready()
    await streams.publish("depth.ES", b'{"ask": 1e400, "n": [2.50, "]}\\""]}')
    await asyncio.sleep(3)
    async with open_page(weirgate.http_url, scheme=scheme) as page:
        await shows(page, "depth", '{"ask": 1e400, "n": [2.50, "]}\\""]}')
        assert await page.js(SHOWN) == ["relayed-h", "connection-h"]
        # Kept by the server, from before the page was open.
        await page.until(f"{ROWS}.some(([key, age]) => key === 'depth' && parseFloat(age) >= 3 && age.endsWith(' s'))", 10, "the age of a kept value")
        assert (await rows(page))["later"] == ("–", "No value")
        await streams.publish("news.flash", json.dumps(ATTACK).encode())
        await shows(page, "news", json.dumps(ATTACK))
        age, _ = (await rows(page))["news"]
        assert age.endswith(" ms") or float(age.split()[0]) < 3, age
        # The same text again is a newer message.
        await asyncio.sleep(4)
        await streams.publish("depth.ES", b'{"ask": 1e400, "n": [2.50, "]}\\""]}')
        await page.until(f"{ROWS}.some(([key, age]) => key === 'depth' && (age.endsWith(' ms') || parseFloat(age) < 3))", 10, "it is young again")
        await streams.publish("news.later", json.dumps("x" * 100_000).encode())
        await page.until(f"{ROWS}.some(([key, , text]) => key === 'later' && text.length === 501 && text.endsWith('…'))", 10, "a long text is cut")
        # Long strings of quotes, and keys of the language itself.
        long = "JSON.stringify({ a: '\"\\\\'.repeat(4e6), __proto__: 1, ['b\"']: { c: [1, ','] }, d: 'e' })"
        taken = await page.js(f"import('/page/relays.js').then(({{ parts }}) => [...parts({long})].map(([key, text]) => [key, text.length, text.slice(0, 12)]))")
        assert taken == [["a", 16_000_002, ('"' + r'\"\\' * 3)[:12]], ['b"', 13, '{"c":[1,","]'], ["d", 3, '"e"']], taken
        # A relayed subject may be silent and well.
        await page.until("document.getElementById('status').textContent === 'Quiet'", 10, "quiet, not stale")
        assert await page.js("document.body.classList.contains('is-old')") is False
        assert await page.js(CONTRAST) >= 4.5
        await page.screenshot(tmp_path / f"{scheme}.png")
        await streams.publish("news.later", b"null")
        await shows(page, "later", "No value")
        assert await page.js("document.querySelectorAll('main img').length") == 0 and await page.js("document.title") == "weirgate · levels"
        assert page.problems == [] and page.hosts() == {f"127.0.0.1:{weirgate.port}"}
        # With the first stream of the market the page is the market's.
        await streams.add_stream(StreamConfig(name="MARKET_DATA", subjects=["market.*"]))
        await page.until("!document.body.classList.contains('is-relays')", 20, "the market's page")
        assert "ladder-h" in await page.js(SHOWN) and "relayed-h" not in await page.js(SHOWN)
    await connection.close()


async def test_a_bus_that_is_away_is_no_quiet_subject(start_nats, start_weirgate):
    nats = start_nats()
    connection = await nats_py.connect(nats.url, allow_reconnect=False)
    streams = connection.jetstream(timeout=10)
    await streams.add_stream(StreamConfig(name="NEWS", subjects=["news.*"]))
    weirgate = start_weirgate("levels", *RELAYS[:2], nats=nats).wait_ready()
    async with open_page(weirgate.http_url, width=320, height=700) as page:
        await shows(page, "news", "No value")
        assert await page.js("document.body.classList.contains('is-relays')"), "the relays' page"
        assert await rows(page) == {"news": ("–", "No value")}
        await streams.publish("news.flash", json.dumps("word" * 60).encode())
        await shows(page, "news", json.dumps("word" * 60))
        assert await page.js("document.documentElement.scrollWidth") <= 320
        nats.kill()
        await until(lambda: not weirgate.health()["nats_connected"], 20, "the loss is noticed")
        await page.until("document.getElementById('status').textContent === 'NATS is away'", 20, "the bus is away")
