#!/usr/bin/env python3
"""Pictures of the pages for the documents: docs/images, from `weirgate demo` with a fixed seed, and from a gateway on NATS.

    make screenshots

It watches the market for two minutes, so that the charts are full, and on until both signals are there to be seen;
then it takes all pictures of the same page. Then come the slowed tab, and the operator's page.

    .venv/bin/python scripts/screenshots.py slow-tab operator

The names choose some of the pictures: those of PICTURES, `slow-tab`, `operator`.

    .venv/bin/python scripts/screenshots.py report target/compare
    .venv/bin/python scripts/screenshots.py growth target/growth

These take docs/images/compare-*.png and growth-*.png from reports of `loadtest compare`, the second with several numbers
of clients.
Needs the release build, Chromium (scripts/install-test-deps.sh), and pngquant where the pictures should be small.
"""
import asyncio
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "rig"))

import clients  # noqa: E402
from browser import open_page  # noqa: E402
from bus import publisher  # noqa: E402
from processes import NatsServer, Weirgate, free_port  # noqa: E402
from waiting import until  # noqa: E402

FOLDER = ROOT / "docs" / "images"
SEED, CHART_S = "7", 122
BOTH_SIGNALS = "document.querySelector('tr[data-signal=BREAK]') && document.querySelector('tr[data-signal=BOUNCE]')"
BYTES_MAX = 150_000
# name: width, height, theme
PICTURES = {"light": (1440, 900, "light"), "dark": (1440, 900, "dark"), "phone": (390, 844, "light"), "phone-dark": (390, 844, "dark")}


async def take(weirgate, names):
    paths = [FOLDER / f"page-{name}.png" for name in names]
    async with open_page(weirgate.http_url, reduced_motion=True) as page:
        await asyncio.sleep(CHART_S)
        await page.until(BOTH_SIGNALS, 600, "a BREAK and a BOUNCE")
        for name, path in zip(names, paths):
            width, height, scheme = PICTURES[name]
            await page.resize(width, height)
            await page.media(scheme, reduced_motion=True)
            # Two ticks of the page: figures and layout have settled.
            await asyncio.sleep(0.5)
            await page.screenshot(path)
    for path in paths:
        done(path)


def done(path):
    shrink(path)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


async def take_slow_tab(weirgate):
    """The demo's page after the tab was slowed for a while, light and dark: only the part that shows it."""
    async with open_page(weirgate.http_url, width=1100, height=900, reduced_motion=True) as page:
        await page.until("!document.getElementById('slow').hidden", 20, "the control")
        await page.js("document.getElementById('slow-button').click()")
        skipped = "document.querySelector('#slow-this [data-key=skipped]').textContent.replace(',', '')"
        await page.until(f"Number({skipped}) > 200", 120, "many skipped states")
        await take_part(page, "#slow", "slow-tab")


async def take_part(page, of, name):
    """One part of a page, light and dark."""
    for scheme in ("light", "dark"):
        await page.media(scheme, reduced_motion=True)
        await asyncio.sleep(0.5)
        path = FOLDER / f"{name}-{scheme}.png"
        await page.screenshot(path, of=of)
        done(path)


async def take_operator():
    """The operator's page of a gateway on NATS: with a slow client and some ends, then with the bus away."""
    nats, admin = NatsServer(), free_port()
    flags = ["--admin-addr", f"127.0.0.1:{admin}", "--send-queue-stall-ms", "6000", "--endpoint", "/ws/flow=flow"]
    weirgate = Weirgate("levels", *flags, nats=nats)
    try:
        await until(lambda: weirgate.get("/health")[0] == 200, 20, "it listens")
        async with publisher(nats) as bus, open_page(f"http://127.0.0.1:{admin}/", reduced_motion=True) as page:
            await operator_pictures(weirgate, nats, bus, page)
    finally:
        weirgate.discard()
        nats.discard()


async def operator_pictures(weirgate, nats, bus, page):
    stop = asyncio.Event()

    async def feed():
        n = 0
        while not stop.is_set():
            n += 1
            await bus.flow({"n": n, "pad": "x" * 6_000})
            await asyncio.sleep(0.05)
    feeding = asyncio.create_task(feed())
    stalled = [await clients.connect(weirgate.port, receive_bytes=4096, source=f"127.0.0.{n}") for n in (21, 22)]
    paths = ["/ws/stream", "/ws/flow", "/ws/stream"] * 4
    good = [await clients.connect(weirgate.port, source=f"127.0.0.{n}", path=path) for n, path in enumerate(paths, 30)]
    for client in stalled:
        client.stop_reading()
    await page.until("document.getElementById('reasons').textContent.includes('send_stalled 2')", 60, "two ends")
    for client in good[:3]:
        client.abort()
    slow = [await clients.connect(weirgate.port, receive_bytes=4096, source=f"127.0.0.{n}") for n in (23, 24)]
    for client in slow:
        client.stop_reading()
        await asyncio.sleep(1.2)
    await page.until("document.querySelectorAll('#slowest td[data-tone=wait]').length === 2", 20, "two slow clients")
    for name, (width, height, scheme) in {"light": PICTURES["light"], "dark": PICTURES["dark"], "phone": PICTURES["phone"]}.items():
        await page.resize(width, height)
        await page.media(scheme, reduced_motion=True)
        await asyncio.sleep(0.3)
        path = FOLDER / f"operator-{name}.png"
        await page.screenshot(path, whole=name != "phone")
        done(path)
    stop.set()
    await feeding
    await page.resize(*PICTURES["light"][:2])
    await page.media("light", reduced_motion=True)
    nats.kill()
    await page.until("document.getElementById('status').textContent === 'Bus away'", 20, "the bus is away")
    await asyncio.sleep(12)
    path = FOLDER / "operator-bus-away.png"
    await page.screenshot(path)
    done(path)


async def take_report(kind, folder):
    """Light and dark, of a report: `report`, the plot of ratios alone; `growth`, the plot over clients."""
    url = (folder / "index.html").resolve().as_uri()
    # Warnings are for whoever measures, and stand beside the figures; the rows of the ratios have the names of the legend.
    name, width, shown, gone = {
        "report": ("compare", 900, "#ratio", "#warnings, nav"), "growth": ("growth", 760, "#clients", "#warnings")}[kind]
    for scheme in ("light", "dark"):
        async with open_page(url, width=width, height=900, scheme=scheme, reduced_motion=True) as page:
            await page.js(f"document.querySelectorAll('main section:not({shown}), {gone}').forEach((other) => other.remove())")
            bottom = await page.js(f"document.querySelector('{shown}').getBoundingClientRect().bottom")
            await page.resize(width, round(bottom) + 20)
            path = FOLDER / f"{name}-{scheme}.png"
            await page.screenshot(path)
        done(path)


def shrink(path):
    """A palette instead of full colours: a third of the size."""
    if shutil.which("pngquant"):
        subprocess.run(["pngquant", "--force", "--skip-if-larger", "--output", path, "128", path], check=False)
    if path.stat().st_size > BYTES_MAX:
        sys.exit(f"{path} is over {BYTES_MAX:,} bytes: install pngquant (Debian package pngquant)")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    if sys.argv[1:2] in (["report"], ["growth"]):
        asyncio.run(take_report(sys.argv[1], pathlib.Path(sys.argv[2])))
        return
    names = sys.argv[1:] or [*PICTURES, "slow-tab", "operator"]
    weirgate = Weirgate("demo", "--seed", SEED)
    try:
        weirgate.wait_ready()
        of_page = [name for name in names if name in PICTURES]
        if of_page:
            asyncio.run(take(weirgate, of_page))
        if "slow-tab" in names:
            asyncio.run(take_slow_tab(weirgate))
    finally:
        weirgate.discard()
    if "operator" in names:
        asyncio.run(take_operator())


main()
