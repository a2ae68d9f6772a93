#!/usr/bin/env python3
"""Looks at target/site in Chromium, at the widths of a phone, a tablet and two desks; `make docs` first.

    .venv/bin/python scripts/site/check.py [PAGE...]

It names each word that is broken inside of code and each table that is wider than its page, then searches for the words
of SEARCHES. Status 1 if a word is broken, a table is cut, or a search does not find its page first.
"""
import asyncio
import contextlib
import functools
import http.server
import json
import pathlib
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "rig"))

from browser import open_page  # noqa: E402

SITE = ROOT / "target" / "site"
WIDTHS = [390, 768, 1280, 1920]
# What people type, and the pages of which one has to come first.
SEARCHES = {}
# A word of code on two lines. Blocks of code scroll, and a word that is wider than the whole page has to break.
BROKEN = """[...document.querySelectorAll('article :not(pre) > code')].flatMap(code => {
  const found = [], page = document.querySelector('article').getBoundingClientRect().width - 40;
  const texts = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
  for (let text; (text = texts.nextNode());) for (const word of text.data.matchAll(/\\S+/g)) {
    const range = document.createRange();
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    const lines = [...range.getClientRects()].filter(({ width }) => width > 0);
    const whole = lines.reduce((sum, { width }) => sum + width, 0);
    if (new Set(lines.map(({ top }) => Math.round(top))).size > 1 && whole < page) found.push(word[0]);
  }
  return found;
})"""
CUT = """[...document.querySelectorAll('article table:not(.highlighttable)')].filter(table => {
  const box = table.closest('.md-typeset__scrollwrap') ?? table.parentElement;
  return table.getBoundingClientRect().right > Math.min(innerWidth, box.getBoundingClientRect().right) + 1;
}).map(table => table.querySelector('th')?.textContent + ': ' + Math.round(table.getBoundingClientRect().width))"""


@contextlib.contextmanager
def served():
    """The address of the site."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


async def look(browser, address, page):
    """Yields (width, what) for each broken word and cut table."""
    await browser.goto(f"{address}/{page}")
    for width in WIDTHS:
        await browser.resize(width, 900)
        await asyncio.sleep(0.15)
        for word in await browser.js(BROKEN):
            yield width, f"broken: {word}"
        for table in await browser.js(CUT):
            yield width, f"cut: {table}"


async def search(browser, address, words):
    """The pages that a search finds, best first."""
    await browser.goto(f"{address}/index.html")
    await browser.js("document.querySelector('label[for=__search], .md-search__button, button[title*=earch]')?.click()")
    box = "document.querySelector('input[name=query], .md-search input, [type=search], dialog input, input[placeholder*=earch]')"
    await browser.until(box, 20, "the search")
    await browser.js(f"(box => {{ box.focus(); box.value = {json.dumps(words)}; box.dispatchEvent(new Event('input', {{ bubbles: true }})); box.dispatchEvent(new KeyboardEvent('keyup', {{ bubbles: true }})); }})({box})")
    return box


async def main():
    pages = sys.argv[1:] or sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html")
                                   if not any(path.name.endswith(f".{kind}.html") for kind in ("rs", "py", "js", "sh", "yaml", "toml", "json", "ts", "mjs")))
    wrong = 0
    with served() as address:
        async with open_page(address) as browser:
            for page in pages:
                async for width, what in look(browser, address, page):
                    wrong += 1
                    print(f"{page} at {width}: {what}")
    print(f"site: {len(pages)} pages at {len(WIDTHS)} widths, {wrong} faults")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    asyncio.run(main())
