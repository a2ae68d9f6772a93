"""The page in Chromium: what it shows is what another client got, and it tells when that is old or gone."""
import asyncio
import json
import re
import signal

import pytest
import websockets
from browser import open_page
from bus import publisher
from processes import free_port
from prometheus import scrape
from waiting import until

pytestmark = pytest.mark.chromium

LEVELS = {
    "ts": 1715629300123,
    "spy": {"spot": 530.12, "bid": 530.11, "ask": 530.13},
    "es": {"spot": 5301.25, "bid": 5301.0, "ask": 5301.5},
    "levels": [
        {"id": "A", "price": 5310.5, "kind": "SESSION_HIGH", "direction": "RESISTANCE", "signal": "REJECT", "confidence": "HIGH",
         "barrier": {"state": "WALL", "depth_in_zone": 9000}, "break_score_raw": 31.2, "confluence_level_name": "PREMIUM"},
        {"id": "B", "price": 5302.0, "kind": "VWAP", "direction": "RESISTANCE", "signal": "BREAK", "confidence": "MEDIUM",
         "barrier": {"state": "VACUUM"}, "break_score_raw": 80.0, "break_score_smooth": 77.7, "note": "thin"},
        {"id": "C", "price": 5299.75, "kind": "STRIKE", "direction": "SUPPORT", "signal": "CHOP", "confidence": "LOW",
         "barrier": {"state": "CONSUMED"}, "break_score_raw": 50.4},
        {"id": "D", "price": 5280.0, "kind": "PM_LOW", "direction": "SUPPORT", "signal": "CONTESTED",
         "barrier": {"state": "ABSORPTION"}, "break_score_raw": 12.0},
    ],
    "viewport": {"targets": [
        {"level_id": "B", "level_price": 5302.0, "p_tradeable_2": 0.62, "p_break": 0.713, "p_bounce": 0.287, "strength_signed": 1.5,
         "time_to_threshold": {"t1": {"60": 0.41, "120": 0.66}}, "retrieval": {"n_neighbors": 52}},
        {"level_id": "C", "level_price": 5299.75, "p_tradeable_2": 0.18, "p_break": 0.4, "p_bounce": 0.6, "strength_signed": -0.25,
         "time_to_threshold": {"t1": {"60": 0.07, "120": 0.11}}, "retrieval": {"n_neighbors": 24}},
    ]},
}
FLOW = {"ts": 1715629300100, "symbol": "ES", "buy_vol": 1722, "sell_vol": 750, "delta": 972, "vwap": 5300.125, "cvd": -32747,
        "book": {"bids": [[5301.0, 59], [5300.75, 62]], "asks": [[5301.5, 170], [5301.75, 88]]}}

# Each row of a table: the text of its cells, as who reads aloud gets them.
ROWS = """[...document.querySelectorAll('%s tbody tr')].map(tr => [...tr.children].map(cell => cell.innerText.replace(/\\s+/g, ' ').trim()))"""


def minus(text):
    return text.replace("-", "−")


def price(value):
    return minus(f"{value:,.2f}")


def words(name):
    text = " ".join(w if w in ("VWAP", "PM") else w.lower() for w in name.split("_"))
    return text[:1].upper() + text[1:]


def odds(of):
    breaks = round(of["p_break"] * 100)
    return f"{breaks} % {100 - breaks} %"


def expected_level(level, spot):
    """What the ladder has to say of a level that a client got."""
    strength = level["note"] or ("" if level["confluence_level_name"] == "UNDEFINED" else words(level["confluence_level_name"]))
    predictions = level.get("ml_predictions")
    return [
        price(level["level_price"]), f"{words(level['level_kind_name'])} {strength}".strip(),
        ("+" if level["level_price"] > spot else "") + price(level["level_price"] - spot),
        words(level["barrier_state"]), f"{level['break_score_smooth']:.0f}",
        f"{'▲' if level['direction'] == 'UP' else '▼'}{words(level['signal'])} {level['direction'].lower()}",
        words(level["confidence"]), odds(predictions) if predictions else "– –",
    ]


def expected_target(target, names):
    times = target["time_to_threshold"]["t1"]
    strength = target["strength_signed"]
    return [f"{price(target['level_price'])} {names[target['level_id']]}", f"{target['p_tradeable_2']:.0%}".replace("%", " %"), odds(target),
            ("+" if strength > 0 else "") + minus(f"{strength:.2f}"), f"{times['60'] * 100:.0f} %", f"{times['120'] * 100:.0f} %",
            str(target["retrieval"]["n_neighbors"])]


async def whole(socket):
    """The first state with all of its parts."""
    state = {}
    while not {"levels", "flow"} <= state.keys():
        state = json.loads(await asyncio.wait_for(socket.recv(), 60))
    return state


async def connected(page):
    """From here on each message is one more on the page; what came before is one state."""
    await page.until("document.getElementById('pill').dataset.status === 'open'", 15, "the page connected")


async def shows(page, messages):
    await page.until(f"document.getElementById('main').dataset.drawn === '{messages}'", 10, f"{messages} messages on the page")


# What a request meets that is sent, under way, or begun while the server is killed.
SERVER_GONE = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")


def nothing_wrong(page, weirgate, expected_problems=()):
    assert page.hosts() == {f"127.0.0.1:{weirgate.port}"}, "the page asks nobody else"
    assert [p for p in page.problems if not any(expected in p for expected in expected_problems)] == []


async def test_it_shows_what_another_client_got(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, websockets.connect(weirgate.ws_url) as other, open_page(weirgate.http_url) as page:
        assert "Waiting for the first message" in await page.text("#rows")
        await connected(page)
        await bus.levels(LEVELS)
        await bus.flow(FLOW)
        got = await whole(other)
        await shows(page, 2)

        levels, spot = got["levels"]["levels"], got["levels"]["es"]["spot"]
        rows = [expected_level(level, spot) for level in levels]
        assert await page.js(ROWS % "#ladder") == [*rows[:2], ["ES spot 5,301.25"], *rows[2:]]
        names = {level["id"]: words(level["level_kind_name"]) for level in levels}
        targets = [expected_target(target, names) for target in got["viewport"]["targets"]]
        assert await page.js(ROWS % "#predictions") == targets
        assert [await page.text(f"#{part}") for part in ("symbol", "spot", "bidask")] == ["ES", "5,301.25", "5,301.00 / 5,301.50"]

        flow = (await page.js("document.getElementById('flow').innerText")).split("\n")
        for text in (f"Buy {got['flow']['buy_vol']:,}", f"Sell {got['flow']['sell_vol']}", "Cumulative delta", minus(f"{got['flow']['cvd']:,}")):
            assert text in flow, text
        book = await page.js(ROWS % ".book")
        assert book == [["59", "5,301.00", "5,301.50", "170"], ["62", "5,300.75", "5,301.75", "88"]]
        nothing_wrong(page, weirgate)


ODD = [
    {"levels": []}, {"levels": "none"}, {"levels": [{}]}, {"ts": 0, "spy": None, "es": {"spot": "x"}, "levels": [None, {"price": None, "signal": None}]},
    {"levels": [{"id": 7, "price": "5301.5", "kind": None, "direction": 4, "confidence": {}, "break_score_raw": [], "confluence_level_name": {}}]},
    {"levels": [{"price": 1e300, "break_score_raw": -1e300}], "viewport": {"targets": [{}, {"level_id": [], "p_break": "a"}, 5]}},
    {"es": {"spot": 1}, "levels": [{"id": "same", "price": n} for n in (5300, 5301, 5302)], "viewport": {"targets": "x"}},
]
ATTACK = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


async def test_odd_parts_are_shown_as_far_as_they_go_and_never_run(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, open_page(weirgate.http_url) as page:
        await connected(page)
        sent = 0
        for flow in (0, False, "", [], "text", [1, {"a": 2}], {}, {"book": 5, "buy_vol": -1, "a": {}}, {ATTACK: ATTACK, "symbol": ATTACK}, None):
            await bus.flow(flow)
            sent += 1
        for levels in ODD:
            await bus.levels(levels)
            sent += 1
        level = {key: ATTACK for key in ("id", "kind", "direction", "signal", "confidence", "note", "confluence_level_name")}
        await bus.levels({ATTACK: {"spot": 5300.0}, "levels": [{**level, "price": 5300.0, "barrier": {"state": ATTACK}}]})
        await shows(page, sent + 1)
        assert ATTACK.lower()[:40] in (await page.text("#rows")).lower(), "shown as text"
        assert await page.js("document.querySelectorAll('main img, main script').length") == 0
        assert await page.js("document.title") == "weirgate · levels"

        many = [{"id": f"L{n}", "price": 5000 + n * 0.25} for n in range(300)]
        await bus.levels({"es": {"spot": 5030.0}, "levels": many[:200]})
        await shows(page, sent + 2)
        assert len(await page.js(ROWS % "#ladder")) == 201
        await page.until("""(() => { const box = document.getElementById('scroll').getBoundingClientRect();
            const spot = document.querySelector('tr.spot').getBoundingClientRect();
            return box.top <= spot.top && spot.top <= box.bottom; })()""", 2, "the spot is in sight")
        await bus.levels({"es": {"spot": 5030.0}, "levels": many})
        await shows(page, sent + 3)
        rows = await page.js(ROWS % "#ladder")
        assert len(rows) == 202 and rows[-1] == ["100 more levels farther away"]
        nothing_wrong(page, weirgate)


# Notes, on the page's own clock, when a message last came and when the status changed.
WATCH = """(() => {
  window.seen = [];
  const note = () => seen.push([pill.dataset.status, messages.textContent, performance.now()]);
  new MutationObserver(note).observe(pill, { attributes: true, attributeFilter: ['data-status'] });
})()"""


async def test_a_feed_that_stops_is_stale_within_3_s(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, open_page(weirgate.http_url) as page:
        await connected(page)
        await page.js(WATCH)
        for n in range(20):
            await bus.flow({"n": n})
            await asyncio.sleep(0.1)
        stopped = await page.js("performance.now()")
        await page.until("document.getElementById('pill').dataset.status === 'stale'", 20, "stale")
        status, _, at = (await page.js("seen"))[-1]
        assert status == "stale" and 2_000 < at - stopped < 3_000, f"stale after {at - stopped:.0f} ms"
        assert await page.text("#status") == "Stale"
        await page.until("document.getElementById('about').textContent.includes('Stale')", 1, "the next drawing says so")
        await page.until("document.getElementById('live').textContent.includes('stale')", 5, "it is read aloud too")
        await bus.flow({"n": 20})
        await page.until("document.getElementById('pill').dataset.status === 'open'", 5, "fresh again")
        assert await page.js("document.querySelector('.is-grey')") is None
        nothing_wrong(page, weirgate)


async def test_a_paused_view_says_so_and_its_price_is_dimmed(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    async with open_page(weirgate.http_url) as page:
        await connected(page)
        await page.until("document.getElementById('spot').textContent !== '–'", 10, "a price")
        await page.js("document.getElementById('pause').click()")
        assert await page.text("#status") == "Paused"
        assert await page.js("document.getElementById('pill').dataset.status") == "paused"
        held = await page.text("#spot")
        opacity = "Number(getComputedStyle(document.getElementById('spot')).opacity)"
        assert await page.js(opacity) < 0.6
        for old in ("#rows", "#flow"):
            assert await page.js(f"getComputedStyle(document.querySelector('{old}')).filter") == "grayscale(1)", old
        await asyncio.sleep(1.5)
        assert await page.text("#spot") == held
        await page.js("document.getElementById('pause').click()")
        await page.until(f"document.getElementById('spot').textContent !== '{held}'", 10, "it moves again")
        assert await page.text("#status") == "Live"
        assert await page.js(opacity) == 1
        assert await page.js("document.querySelector('.is-grey')") is None
        nothing_wrong(page, weirgate)


async def test_every_name_of_the_demos_market_has_a_tooltip(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    async with open_page(weirgate.http_url) as page:
        await page.until("document.querySelectorAll('#flow dt').length > 4 && document.querySelectorAll('#flow th').length === 4", 10, "a flow")
        without = "[...document.querySelectorAll('.of-market th[scope=col], #flow dt')].filter((name) => !name.title).map((name) => name.textContent)"
        assert await page.js(without) == []
        nothing_wrong(page, weirgate)


async def test_an_invented_market_is_called_simulated_and_a_real_one_is_not(nats, start_weirgate):
    shown = "!document.getElementById('simulated').hidden"
    demo, real = start_weirgate("demo").wait_ready(), start_weirgate(nats=nats).wait_ready()
    async with open_page(demo.http_url) as page:
        await page.until(shown, 10, "the badge")
        nothing_wrong(page, demo)
    async with open_page(real.http_url) as page:
        await connected(page)
        await asyncio.sleep(1)
        assert not await page.js(shown)
        nothing_wrong(page, real)


async def test_a_bus_that_is_away_is_told_apart_from_a_quiet_market(start_nats, start_weirgate):
    nats = start_nats()
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, open_page(weirgate.http_url) as page:
        await connected(page)
        await bus.flow({"n": 1})
        await page.until("document.getElementById('status').textContent === 'Stale'", 20, "a quiet market")
        nats.kill()
        await page.until("document.getElementById('status').textContent === 'NATS is away'", 20, "the bus is away")
        nats.start()
        await page.until("document.getElementById('status').textContent === 'Stale'", 30, "quiet again")


HOUR_MS = 3_600_000
MONDAY = 1715608800000  # 10:00 in New York, half an hour after the open


@pytest.mark.parametrize(("ts", "about"), [
    (MONDAY, "1 level · minute 30 of the session"), (MONDAY - HOUR_MS / 3, "1 level · first 15 minutes"), (MONDAY - HOUR_MS, "1 level"),
    (MONDAY + 5 * HOUR_MS, "1 level"), (MONDAY - 48 * HOUR_MS, "1 level"),
], ids=["session", "open", "before", "after", "saturday"])
async def test_the_minute_of_a_session_is_shown_during_the_session(nats, start_weirgate, ts, about):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, open_page(weirgate.http_url) as page:
        await connected(page)
        await bus.levels({"ts": int(ts), "levels": [{"id": "a", "price": 100}]})
        await page.until(f"document.getElementById('about').textContent === {json.dumps(about)}", 10, about)
        assert await page.js("document.querySelector('.chip').title.includes('no signal')"), "a level without a signal is told as one"
        hole = "document.getElementById('pill').getBoundingClientRect().left - document.getElementById('spot').getBoundingClientRect().right"
        assert await page.js(hole) < 50, "no room is kept for a badge of the demo"
        nothing_wrong(page, weirgate)


async def test_all_files_of_the_pages_come_compressed(start_weirgate):
    admin = free_port()
    weirgate = start_weirgate("demo", "--admin-addr", f"127.0.0.1:{admin}")
    await until(lambda: weirgate.get("/health")[0] == 200, 10, "it listens")
    sizes = """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
        .filter(({ name }) => /(\\/|\\.css|\\.js)$/.test(name)).map(({ name, encodedBodySize, decodedBodySize }) => [name, encodedBodySize, decodedBodySize])"""
    for url, least in ((weirgate.http_url, 10), (f"http://127.0.0.1:{admin}/operator/", 8)):
        async with open_page(url) as page:
            await page.until(f"({sizes}).length >= {least}", 10, "the files are there")
            for name, sent, whole in await page.js(sizes):
                assert 0 < sent < whole, name


async def test_pages_of_operators_elsewhere_have_no_link(start_weirgate):
    weirgate = start_weirgate("demo", "--admin-addr", "127.0.0.1:0")
    await until(lambda: weirgate.get("/health")[0] == 200, 10, "it listens")
    async with open_page(weirgate.http_url) as page:
        await connected(page)
        assert await page.js("document.getElementById('operators') === null")
        assert "weirgate.js" in await page.text("footer")
        nothing_wrong(page, weirgate)


async def test_at_320_px_every_price_is_whole(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    async with open_page(weirgate.http_url, width=320, height=700) as page:
        await connected(page)
        await page.until("document.querySelectorAll('#ladder .price').length > 3", 10, "prices")
        cut = "[...document.querySelectorAll('#ladder .price')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert await page.js(cut) == 0
        await page.until("!document.getElementById('simulated').hidden", 10, "the badge")
        assert await page.js("document.getElementById('simulated').getBoundingClientRect().right") <= 320


async def test_a_server_that_is_killed_and_started_is_back_within_5_s(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    async with open_page(weirgate.http_url) as page:
        # So long that the back-off starts from its beginning.
        await page.until("parseInt(document.getElementById('open-for').textContent.replace('open for ', '')) >= 6", 20, "a stable connection")
        weirgate.send(signal.SIGKILL)
        await page.until("document.getElementById('pill').dataset.status === 'waiting'", 5, "the loss is noticed")
        assert (await page.text("#status")).startswith("Reconnecting")
        assert (await page.text("#last-close")).startswith("1006")
        await asyncio.sleep(1)
        before = int((await page.text("#messages")).replace(",", ""))
        start_weirgate("demo", "--port", str(weirgate.port))
        fresh = f"pill.dataset.status === 'open' && Number(messages.textContent.replace(',', '')) > {before + 2}"
        await page.until(fresh, 5, "live again")
        assert await page.text("#reconnects") == "1"
        nothing_wrong(page, weirgate, expected_problems=SERVER_GONE)


# Of both connections: age of the newest value in ms, messages, what the server says, skipped.
SIDES = """['slow-this', 'slow-other'].map(id => Object.fromEntries([...document.querySelectorAll(`#${id} dd`)]
  .map(cell => [cell.dataset.key, cell.textContent])))"""


def milliseconds(text):
    number, unit = text.split(" ")
    return float(number) * {"ms": 1, "s": 1000}[unit]


async def test_a_slowed_tab_skips_to_the_newest_and_a_fast_connection_beside_it_does_not(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    async with open_page(weirgate.http_url) as page:
        both = f"{SIDES}.every(side => Number(side.received) > 2 && side.state === 'nothing waits' && side.skipped === '0')"
        await page.until(both, 10, "both connections count before anything is pressed")
        assert await page.text("#slow-about") == "Both at full speed"
        assert scrape(weirgate).sum("weirgate_clients") == 2
        first = "document.querySelector('#main section:not([hidden])').id"
        assert await page.js(first) == "slow", "what weirgate does comes before the market"
        await page.js("document.getElementById('slow-button').click()")
        skipped = "Number(document.querySelector('#slow-this [data-key=skipped]').textContent.replace(',', ''))"
        await page.until(f"{skipped} > 20", 60, "the server skips for the slow tab")
        assert await page.js("[document.getElementById('pill').dataset.status, document.getElementById('status').textContent]") == [
            "slowed", "Slowed"]
        ages, fast_ages = [], []
        for _ in range(20):
            slow, fast, shown = await page.js(f"[...{SIDES}, document.getElementById('age').textContent]")
            assert shown == slow["age"], "one age"
            assert slow["state"] in ("skips to the newest", "waits for the client"), slow
            assert fast["skipped"] == "0" and fast["state"] == "nothing waits", fast
            ages.append(milliseconds(slow["age"]))
            fast_ages.append(milliseconds(fast["age"]))
            await asyncio.sleep(0.25)
        # A busy machine makes single values late.
        assert min(fast_ages) < 1000, fast_ages
        # Two KiB/s against one message of 3 kB at a time: what it gets is new, and it never falls behind.
        assert max(ages) < 10_000 and max(ages) > 500, ages
        assert int(fast["received"]) > 2 * int(slow["received"]), (slow, fast)
        clients = scrape(weirgate)
        assert clients.sum("weirgate_clients") == 2 and clients.sum("weirgate_messages_conflated_total") > 20

        await page.js("document.getElementById('slow-rate').value = 0; document.getElementById('slow-rate').oninput()")
        assert await page.text("#slow-shown") == "0.5 KiB/s"
        await page.js("document.getElementById('slow-button').click()")
        await page.until("document.querySelector('#slow-this [data-key=state]').textContent === 'nothing waits'", 10, "full speed again")
        assert await page.text("#slow-about") == "Both at full speed"
        await page.until("document.getElementById('status').textContent === 'Live'", 10, "live again")
        before = await page.js(skipped)
        await asyncio.sleep(1.5)
        assert await page.js(skipped) == before
        fresh = f"{SIDES}[0].age.endsWith(' ms')"
        await page.until(fresh, 10, "new values again")
        nothing_wrong(page, weirgate)


async def test_the_names_of_the_market_have_a_tooltip(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    async with open_page(weirgate.http_url) as page:
        await page.until("document.querySelectorAll('#rows .barrier').length > 3", 10, "the levels")
        bare = "[...document.querySelectorAll('#ladder thead th, #predictions thead th')].filter(th => !th.title).map(th => th.textContent)"
        assert await page.js(bare) == []
        titles = "[...document.querySelectorAll('#rows .barrier')].map(cell => [cell.dataset.state, cell.title])"
        states = dict(await page.js(titles))
        assert states and all("level" in title.split(",")[0] for title in states.values()), states


async def test_a_real_market_has_no_control_that_slows(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    assert weirgate.get("/page/tab?name=a")[0] == 404
    async with open_page(weirgate.http_url) as page:
        await connected(page)
        await asyncio.sleep(1)
        assert await page.js("document.getElementById('slow')") is None
        nothing_wrong(page, weirgate)


async def test_the_card_says_that_the_server_is_gone_and_how_the_connection_ended(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    async with open_page(weirgate.http_url) as page:
        await page.until("document.getElementById('slow-about').textContent === 'Both at full speed'", 10, "both")
        weirgate.send(signal.SIGTERM)
        await page.until("document.getElementById('slow-about').textContent === 'Not connected'", 10, "the end")
        # Attempts that fail after it are no news.
        await page.until("document.getElementById('pill').dataset.status === 'waiting'", 10, "an attempt")
        await asyncio.sleep(2)
        assert await page.text("#last-close") == "1012 restart"
