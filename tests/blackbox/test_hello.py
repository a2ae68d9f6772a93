"""The pages of docs/guides/hello, word for word: each block of commands in a shell, each output that the page shows, and the
HTML in Chromium until its value has moved."""
import json
import re

import pytest
from browser import open_page
from processes import ROOT
from walkthrough import Walkthrough, different, values

pytestmark = pytest.mark.chromium

HELLO = ROOT / "docs" / "guides" / "hello"


@pytest.fixture
def hello(tmp_path):
    """hello(name) → the page of that name, its shells ended with the test."""
    pages = []

    def page(name):
        folder = tmp_path / name
        folder.mkdir()
        pages.append(Walkthrough((HELLO / f"{name}.md").read_text(), folder))
        assert {"sh", "text", "html"} == {kind for kind, _, _ in pages[-1].parts}, name
        return pages[-1]
    yield page
    for one in pages:
        print(one.terminals())
        one.discard()


async def prices(page):
    """All prices that the page of levels shows, as one text."""
    return json.dumps(re.findall(r"\b(?:99|100|101)\.\d\d\b", await page.js("document.body.innerText")))


def names():
    return sorted(path.stem for path in HELLO.glob("*.md"))


async def rows(page):
    """The keys of the page of the key-value bucket with their numbers, as one text."""
    return await page.js("JSON.stringify([...document.querySelectorAll('tr')].map(row => row.innerText.split('\\t')))")


def test_there_are_six_pages():
    assert names() == ["events", "key-value", "levels", "nats", "redis", "trades"]


@pytest.mark.parametrize("name", names())
async def test_a_page_ends_with_something_that_moves(hello, name):
    page = hello(name)
    await page.run()
    assert " WARN " not in page.terminals(), page.terminals()
    async with open_page(page.url(), width=900, height=500) as browser:
        if name == "key-value":
            await different(browser, lambda: rows(browser))
            for there in (True, False, True):
                await browser.until(f"document.body.innerText.includes('pears') === {json.dumps(there)}", 20, "the pears")
                shown = dict(json.loads(await rows(browser)))
                assert shown["plums"] == "7" and int(shown["apples"]) > 0
            assert await browser.text("#how") == "open"
        else:
            await values(browser)
        if name == "events":
            assert await browser.text("#rt60") == "0.805"
            assert re.fullmatch(r"[0-9a-f]{16}", await browser.text("#job"))
        if name == "levels":
            assert await browser.text("#count") == "2"
        assert browser.problems == []


async def test_the_pages_of_levels_and_demo_have_what_the_page_of_levels_says(hello):
    page = hello("levels")
    await page.run()
    port = page.env["GATEWAY_PORT"]
    async with open_page(f"http://127.0.0.1:{port}/") as browser:
        both = "['99.00', '101.00'].every(price => document.body.innerText.includes(price))"
        await browser.until(both, 20, "both levels")
        await different(browser, lambda: prices(browser))


async def test_with_a_wrong_token_the_browser_is_told(hello):
    page = hello("redis")
    await page.run()
    async with open_page(page.url().partition("#")[0] + "#wrong") as browser:
        told = "document.getElementById('how').textContent === 'closed: 1008 Authentication failed'"
        await browser.until(told, 20, "the close")
        assert await browser.text("#value") == "–"
