#!/usr/bin/env python3
"""Pictures of the page for the documents: docs/images/page-*.png, from `weirgate demo` with a fixed seed.

    make screenshots

It watches the market for two minutes, so that the charts are full, and on until both signals are there to be seen;
then it takes all pictures of the same page.

    .venv/bin/python scripts/screenshots.py report target/compare

The second command takes docs/images/compare-*.png from a report of `loadtest compare`.
Needs the release build, Chromium (scripts/install-test-deps.sh), and pngquant where the pictures should be small.
"""
import asyncio
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "rig"))

from browser import open_page  # noqa: E402
from processes import Weirgate  # noqa: E402

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
        shrink(path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


async def take_report(folder):
    """The report's plots of ratios and latencies, light and dark."""
    url = (folder / "index.html").resolve().as_uri()
    for scheme in ("light", "dark"):
        path = FOLDER / f"compare-{scheme}.png"
        async with open_page(url, width=1200, height=900, scheme=scheme, reduced_motion=True) as page:
            bottom = await page.js("document.querySelector('#percentiles').getBoundingClientRect().bottom")
            await page.resize(1200, round(bottom) + 20)
            await page.screenshot(path)
        shrink(path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def shrink(path):
    """A palette instead of full colours: a third of the size."""
    if shutil.which("pngquant"):
        subprocess.run(["pngquant", "--force", "--skip-if-larger", "--output", path, "128", path], check=False)
    if path.stat().st_size > BYTES_MAX:
        sys.exit(f"{path} is over {BYTES_MAX:,} bytes: install pngquant (Debian package pngquant)")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    if sys.argv[1:2] == ["report"]:
        asyncio.run(take_report(pathlib.Path(sys.argv[2])))
        return
    weirgate = Weirgate("demo", "--seed", SEED)
    try:
        weirgate.wait_ready()
        asyncio.run(take(weirgate, sys.argv[1:] or PICTURES))
    finally:
        weirgate.discard()


main()
