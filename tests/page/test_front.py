"""The address bar on a gateway without a page: Chromium shows what to do next, and every other client gets the bytes of the contract."""
import http.client

import pytest
from browser import open_page

pytestmark = pytest.mark.chromium

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
NOT_FOUND = (404, "application/json", b'{"detail":"Not Found"}')
UPGRADE = (426, "text/plain", b"Upgrade Required")


def answer(port, path, accept=None, method="GET"):
    """(status, content type, body)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Accept": accept} if accept else {})
    response = connection.getresponse()
    result = response.status, response.headers["Content-Type"], response.read()
    connection.close()
    return result


@pytest.mark.parametrize("gateway, path, plain", [("channels", "/ws", NOT_FOUND), ("trades", "/", UPGRADE), ("events", "/ws", NOT_FOUND)])
async def test_the_address_bar_shows_what_to_do_next(redis_server, start_weirgate, gateway, path, plain):
    weirgate = start_weirgate(gateway, redis=None if gateway == "events" else redis_server).wait_ready()
    for accept in (None, "*/*", "application/json"):
        for here in ("/", path, "/elsewhere"):
            assert answer(weirgate.port, here, accept) == plain, (here, accept)
    assert answer(weirgate.port, "/elsewhere", BROWSER) == plain
    assert answer(weirgate.port, "/", BROWSER, "POST") == plain
    status, content_type, body = answer(weirgate.port, "/", BROWSER)
    assert (status, content_type) == (plain[0], "text/html; charset=utf-8") and body.startswith(b"<!doctype html>")
    assert answer(weirgate.port, "/", BROWSER, "HEAD") == (status, content_type, b"")
    async with open_page(f"http://127.0.0.1:{weirgate.port}/") as page:
        text = await page.js("document.body.innerText")
        url = f"ws://127.0.0.1:{weirgate.port}{path}"
        assert f"weirgate {gateway}" in text and f"weirgate tail {url} --subscribe" in text, text
        assert "docs/guides/hello/" in text and "docs/reference/protocol-" in text
        links = await page.js("[...document.links].map(link => link.getAttribute('href'))")
        assert links == [f"/{gateway}.js", "/health"]
        for link in links:
            assert answer(weirgate.port, link)[0] == 200
        assert "system-ui" in await page.js("getComputedStyle(document.querySelector('main')).fontFamily"), "the style counts"
        loaded = await page.js("performance.getEntriesByType('resource').map(entry => entry.name)")
        assert all(name.startswith("data:") for name in loaded), loaded
