#!/usr/bin/env python3
"""Pictures of the pages for the documents: docs/images, from `weirgate demo` with a fixed seed, and from a gateway on NATS.

    make screenshots

It takes the demo's card with the slowed tab, in motion, and the operator's page.

    .venv/bin/python scripts/screenshots.py slow-tab operator

The names choose some of the pictures.

    .venv/bin/python scripts/screenshots.py report target/compare
    .venv/bin/python scripts/screenshots.py growth target/growth

These take docs/images/compare-*.png and growth-*.png from reports of `loadtest compare`, the second with several numbers
of clients.
Needs the release build, Chromium (scripts/install-test-deps.sh) and Pillow.
"""
import asyncio
import io
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "rig"))

import clients  # noqa: E402
from browser import open_page  # noqa: E402
from bus import publisher  # noqa: E402
from processes import NatsServer, Weirgate, free_port  # noqa: E402
from waiting import until  # noqa: E402

try:
    from PIL import Image
except ImportError:
    sys.exit("screenshots: run `.venv/bin/pip install pillow`, as `make screenshots` does")

FOLDER = ROOT / "docs" / "images"
SEED = "7"
BYTES_MAX = 190_000
# The picture of the slowed tab: at full speed, slowed, the pause of the last frame, and the time of each frame.
FAST_S, SLOW_S, LAST_S, FRAME_S = 3, 12, 2, 0.25
# name: width, height, theme
PICTURES = {"light": (1440, 900, "light"), "dark": (1440, 900, "dark"), "phone": (390, 844, "light")}


def done(path):
    shrink(path)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


async def take_slow_tab(weirgate, scheme):
    """The demo's card in motion: at full speed, then slowed."""
    path = FOLDER / f"slow-tab-{scheme}.webp"
    async with open_page(weirgate.http_url, width=900, height=900, scheme=scheme, reduced_motion=True) as page:
        await page.until("Number(document.querySelector('#slow-this [data-key=received]').textContent) > 20", 20, "both connections")
        frames, durations = [], []
        before = end = time.monotonic()
        for seconds, pressed in ((FAST_S, None), (SLOW_S, "slow-button")):
            if pressed:
                await page.js(f"document.getElementById('{pressed}').click()")
            end += seconds
            while (now := time.monotonic()) < end:
                frames.append(Image.open(io.BytesIO(await page.picture(of="#slow"))).convert("RGB"))
                durations.append(round(1000 * (now - before)))
                before = now
                await asyncio.sleep(max(0, FRAME_S - (time.monotonic() - now)))
        durations = [*durations[1:], round(1000 * LAST_S)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, lossless=True, quality=100, method=4)
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
    for name, (width, height, scheme) in PICTURES.items():
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
    if path.suffix == ".png":
        Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > BYTES_MAX:
        sys.exit(f"{path} is over {BYTES_MAX:,} bytes")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    if sys.argv[1:2] in (["report"], ["growth"]):
        asyncio.run(take_report(sys.argv[1], pathlib.Path(sys.argv[2])))
        return
    names = sys.argv[1:] or ["slow-tab", "operator"]
    if "slow-tab" in names:
        weirgate = Weirgate("demo", "--seed", SEED)
        try:
            weirgate.wait_ready()
            for scheme in ("light", "dark"):
                asyncio.run(take_slow_tab(weirgate, scheme))
        finally:
            weirgate.discard()
    if "operator" in names:
        asyncio.run(take_operator())


main()
