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
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "rig"))

from browser import open_page  # noqa: E402

SITE = ROOT / "target" / "site"
WIDTHS = [390, 768, 1280, 1920]
# What people type, and the pages of which one has to come first.
SEARCHES = {
    "slow client": ["docs/guides/slow-clients.html", "docs/reference/what-happens.html"],
    "auth": ["docs/reference/tokens.html"],
    "authentication": ["docs/reference/tokens.html"],
    "JWT": ["docs/reference/tokens.html"],
    "cookie": ["docs/guides/cookies.html"],
    "scale": ["docs/guides/how-large.html"],
    "capacity": ["docs/guides/how-large.html"],
    "docker": ["docs/guides/deploy.html", "docs/guides/install.html"],
    "kubernetes": ["docs/guides/kubernetes.html"],
    "benchmark": ["PERF.html"],
    "throughput": ["PERF.html"],
    "install": ["docs/guides/install.html"],
    "react": ["clients/js/index.html"],
    "latency": ["docs/guides/latency.html"],
    "TLS": ["docs/guides/tls.html"],
    "how many clients": ["docs/guides/how-large.html"],
    "roles.json": ["docs/reference/protocol-channels.html"],
}
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


async def search(browser, words):
    """The first page that the dialog of the search finds."""
    dialog = "[...document.querySelectorAll('div')].find(one => one.shadowRoot?.querySelector('input'))?.shadowRoot"
    # The first click may only load the dialog.
    for _ in range(20):
        if await browser.js(f"Boolean({dialog}?.querySelector('dialog')?.open)"):
            break
        await browser.js("document.querySelector('.md-search__button').click()")
        await asyncio.sleep(1)
    await browser.js(f"(input => {{ input.focus(); input.select(); }})({dialog}.querySelector('input'))")
    await browser.call("Input.insertText", text=words)
    # Each answer has the words that were searched for in its address.
    first = f"{dialog}.querySelector('a')?.getAttribute('href')"
    asked = urllib.parse.quote_plus(words)
    await browser.until(f"{first}?.includes({json.dumps(f'h={asked}')})", 20, f"answers to {words!r}")
    # The list is filled again while answers come.
    await asyncio.sleep(0.5)
    return urllib.parse.urlsplit(await browser.js(first)).path.lstrip("/")


async def searches(browser, address):
    """The number of searches whose first page is the wrong one."""
    await browser.resize(1280, 900)
    await browser.goto(address)
    wrong = 0
    for words, right in SEARCHES.items():
        first = await search(browser, words)
        if first not in right:
            wrong += 1
            print(f"search {words!r}: {first}, not {' or '.join(right)}")
    return wrong


async def main():
    # A page of code has the name of its file, with another ending before `.html`.
    pages = sys.argv[1:] or sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html") if "." not in path.stem)
    wrong = 0
    with served() as address:
        async with open_page(address) as browser:
            missed = await searches(browser, address)
            for page in pages:
                async for width, what in look(browser, address, page):
                    wrong += 1
                    print(f"{page} at {width}: {what}")
    print(f"site: {len(pages)} pages at {len(WIDTHS)} widths, {wrong} faults; {len(SEARCHES)} searches, {missed} wrong")
    sys.exit(wrong + missed > 0)


if __name__ == "__main__":
    asyncio.run(main())
