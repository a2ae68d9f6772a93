#!/usr/bin/env python3
"""Pictures of the page for the documents: docs/images/page-*.png, from `weirgate demo` with a fixed seed.

    make screenshots

It watches the market for a bit over two minutes, so that the charts are full, then takes all pictures of the same page.
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
SEED, CHART_S = "7", 132
BYTES_MAX = 150_000
# name: width, height, theme
PICTURES = {"light": (1440, 900, "light"), "dark": (1440, 900, "dark"), "phone": (390, 844, "light"), "phone-dark": (390, 844, "dark")}


async def take(weirgate, names):
    async with open_page(weirgate.http_url) as page:
        await asyncio.sleep(CHART_S)
        for name in names:
            width, height, scheme = PICTURES[name]
            await page.resize(width, height)
            await page.media(scheme)
            await asyncio.sleep(1)
            path = FOLDER / f"page-{name}.png"
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
    weirgate = Weirgate("demo", "--seed", SEED)
    try:
        weirgate.wait_ready()
        asyncio.run(take(weirgate, sys.argv[1:] or PICTURES))
    finally:
        weirgate.discard()


main()
