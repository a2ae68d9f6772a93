"""The page for everyone: keyboard, screen reader, contrast, phones, less motion."""
import pytest
from access import FOCUS, OUTSIDE, TEXTS, contrast, is_large
from browser import open_page
from bus import publisher

pytestmark = pytest.mark.chromium

SIGNALS = ("BREAK", "REJECT", "CHOP", "CONTESTED")
STATES = ("WALL", "ABSORPTION", "VACUUM", "CONSUMED", "NEUTRAL")
STATE = {
    "es": {"spot": 5300.0, "bid": 5299.75, "ask": 5300.0},
    "levels": [{"id": f"L{n}", "price": 5290.25 + n * 2, "kind": "SESSION_HIGH", "note": "large orders hold the price at this level", "signal": SIGNALS[n % 4],
                "barrier": {"state": STATES[n % 5], "depth_in_zone": 4000}, "break_score_raw": 40 + n, "confidence": ("LOW", "MEDIUM", "HIGH")[n % 3]}
               for n in range(10)],
    "viewport": {"targets": [{"level_id": f"L{n}", "level_price": 5290.25 + n * 2, "p_tradeable_2": 0.5, "p_break": 0.4, "p_bounce": 0.6, "strength_signed": -0.5}
                             for n in range(10)]},
}
FLOW = {"symbol": "ES", "buy_vol": 1722, "sell_vol": 750, "cvd": -3274700, "book": {"bids": [[5299.75, 590]], "asks": [[5300.0, 170]]}}


async def filled(page, bus):
    """The page with all that it can show."""
    await bus.levels(STATE)
    await bus.flow(FLOW)
    await page.until("document.querySelectorAll('#rows tr').length === 11 && document.querySelector('.book tbody')", 10, "a full page")


async def test_the_keyboard_reaches_everything_and_shows_where_it_is(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, open_page(weirgate.http_url) as page:
        await filled(page, bus)
        walked = []
        for _ in range(9):
            await page.press("Tab")
            name, is_seen = await page.js(FOCUS)
            assert is_seen, f"no outline on {name}"
            walked.append(name)
        assert walked == ["Skip to the levels", "scroll", "pause", "again", "health", "ready", "stats", "metrics", "weirgate.js"]

        await page.js("document.activeElement.blur(), scrollTo(0, 0), document.querySelector('.skip').focus()")
        await page.press("Enter")
        assert await page.js("document.activeElement.id") == "scroll", "the link skips to the levels"
        await page.js("document.getElementById('pause').focus()")
        await page.press(" ")
        assert await page.text("#pause") == "Resume"
        before = await page.js("document.getElementById('main').dataset.drawn")
        # A page that connected late has got both messages as one.
        counted = int(await page.text("#messages"))
        await bus.flow({"while": "paused"})
        await page.until(f"Number(messages.textContent) > {counted}", 5, "counted while paused")
        assert await page.js("document.getElementById('main').dataset.drawn") == before
        await page.press(" ")
        await page.until("document.getElementById('flow').textContent.includes('While')", 5, "drawn again")
        await page.js("document.getElementById('again').focus()")
        await page.press("Enter")
        await page.until("reconnects.textContent === '1'", 5, "a new connection")
        assert page.problems == []


async def test_a_screen_reader_gets_names_tables_and_news(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, open_page(weirgate.http_url) as page:
        await filled(page, bus)
        nodes = await page.accessible()
        of = lambda role: [n.get("name", {}).get("value", "") for n in nodes if not n["ignored"] and n["role"]["value"] == role]
        assert of("button") == ["Pause", "Reconnect"]
        assert of("heading") == ["weirgate", "Levels", "Viewport predictions", "Flow", "Connection"]
        assert of("main") and of("banner") and of("contentinfo") and of("complementary") == ["Flow and connection"]
        assert sorted(of("table")) == ["Price levels, highest first, with the spot between them", "The book, best prices first",
                                       "What the model expects of the levels near the spot"]
        assert {"Price", "Distance", "Barrier", "Break score, last 2 min", "Signal", "Confidence", "Break / bounce"} <= set(of("columnheader"))
        assert len(of("rowheader")) == 10 + 6
        for role in ("button", "link", "table", "region", "heading"):
            assert all(of(role)), f"a {role} without a name"
        assert len(of("status")) == 1
        await page.until("document.getElementById('live').textContent.includes('Connected')", 10, "what is read aloud")
        assert await page.js("document.documentElement.lang") == "en"
        ids = await page.js("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        assert await page.js("document.querySelectorAll('[tabindex]:not([tabindex=\"0\"]), img:not([alt]), th:not([scope])').length") == 0


async def test_every_text_has_enough_contrast_in_both_themes(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, open_page(weirgate.http_url) as page:
        await filled(page, bus)
        grounds = set()
        for status in ("open", "stale", "waiting", "closed"):
            await page.js(f"document.getElementById('pill').dataset.status = '{status}'")
            for scheme in ("light", "dark"):
                await page.media(scheme)
                # Old prices are pale, and the machine may be slow.
                await filled(page, bus)
                texts = await page.js(TEXTS)
                assert len(texts) > 150
                grounds.add(await page.js("getComputedStyle(document.body).backgroundColor"))
                for text, colour, ground, size, weight, opacity in texts:
                    ratio = contrast(colour, ground)
                    assert opacity == 1 and ratio >= (3 if is_large(size, weight) else 4.5), f"{scheme}, {status}: {text!r} {colour} on {ground}: {ratio:.2f}"
        assert len(grounds) == 2, "two themes"


CUT = """[...document.querySelectorAll('#ladder th, #ladder td, #predictions th, #predictions td, dd, .chip')]
  .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth).map(e => e.textContent)"""


async def test_phones_and_windows_of_any_width_need_no_sideways_scroll(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus, open_page(weirgate.http_url, width=360, height=740) as page:
        await filled(page, bus)
        for width in (320, 360, 390, 480, 620, 768, 861, 1024, 1061, 1200, 1241, 1366, 1421, 1440, 1920):
            await page.resize(width, 800)
            await page.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            assert await page.js(OUTSIDE) == [0], f"at {width} px"
            if width >= 360:
                assert await page.js(CUT) == [], f"cut off at {width} px"


async def test_who_wants_less_motion_gets_none(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    for reduced, moving in ((False, 10), (True, 0)):
        async with publisher(nats) as bus, open_page(weirgate.http_url, reduced_motion=reduced) as page:
            await filled(page, bus)
            drawn = int(await page.js("document.getElementById('main').dataset.drawn"))
            changed = [{**level, "signal": "BREAK" if level["signal"] != "BREAK" else "CHOP"} for level in STATE["levels"]]
            # In one go with the change: the animations last 0.7 s.
            await page.js("""window.moved = new Promise(done => new MutationObserver(() => done(document.getAnimations().length))
                .observe(document.getElementById('main'), { attributes: true, attributeFilter: ['data-drawn'] })); 0""")
            await bus.levels({**STATE, "levels": changed})
            assert await page.js("moved") == moving
            assert int(await page.js("document.getElementById('main').dataset.drawn")) == drawn + 1
