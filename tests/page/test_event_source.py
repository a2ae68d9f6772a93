"""A native EventSource in Chromium comes back by itself, whatever a restart or a limit answers it."""
import asyncio
import contextlib
import signal

import pytest
from browser import open_page
from event_stream import Stream
from foreign_pages import Site
from processes import free_port
from proxies import Caddy, Haproxy, Nginx
from waiting import until

pytestmark = pytest.mark.xdist_group("chromium")

# CLOSED: such an EventSource never connects again.
IS_DEAD = "source.readyState === 2"
LISTEN = """void (() => {
  globalThis.counts = { opens: 0, ends: 0, messages: 0 };
  globalThis.source = new EventSource("%s");
  source.onopen = () => { counts.opens += 1; };
  source.onerror = () => { counts.ends += 1; };
  source.onmessage = () => { counts.messages += 1; };
})()"""


@contextlib.asynccontextmanager
async def listening_to(port):
    """A page of another origin, with an EventSource at the demo's path on `port` if there is one."""
    async with Site(None) as site, open_page(site.origin("127.0.0.1") + "/page") as page:
        if port:
            await page.js(LISTEN % url_at(port))
        yield page


def start_demo(start_weirgate, port, *flags):
    """The demo on this port, which a second one takes when the first has ended."""
    weirgate = start_weirgate("demo", "--port", str(port), *flags)
    weirgate.port, weirgate.http_url = port, f"http://127.0.0.1:{port}"
    return weirgate.wait_ready()


async def test_a_restart_behind_a_proxy_without_the_recipe_ends_it_for_ever(start_weirgate, started):
    """What the recipes are for."""
    weirgate = start_weirgate("demo").wait_ready()
    nginx = Nginx(weirgate.port, replace=[("error_page 502 503 504 = @weirgate_away;", "")])
    started.append(nginx)
    async with listening_to(nginx.port) as page:
        await page.until("counts.messages > 0", 20, "the first state")
        weirgate.kill()
        await page.until(IS_DEAD, 20, "Chromium gives up after a 502")


@pytest.mark.parametrize("kind", [Nginx, Haproxy, Caddy])
async def test_a_killed_gateway_behind_a_recipe(start_weirgate, started, kind):
    port = free_port()
    weirgate = start_demo(start_weirgate, port)
    proxy = kind(port)
    started.append(proxy)
    await until(lambda: is_served(proxy.port), 10, "the proxy serves")
    async with listening_to(proxy.port) as page:
        await page.until("counts.messages > 0", 20, "the first state")
        weirgate.kill()
        # The end of the stream, and of two streams that only say when to come back.
        await page.until(f"counts.ends >= 3 || {IS_DEAD}", 20, "two attempts in vain")
        assert not await page.js(IS_DEAD)
        assert await page.js("counts.opens") >= 3
        start_demo(start_weirgate, port)
        await page.js("void (counts.messages = 0)")
        await page.until(f"counts.messages > 0 || {IS_DEAD}", 20, "the stream is back")
        assert not await page.js(IS_DEAD)


async def test_a_gateway_that_refuses_for_now(start_weirgate):
    flags = ("--trusted-proxies", "127.0.0.1", "--connections-per-ip-max", "1")
    weirgate = start_weirgate("demo", *flags).wait_ready()
    holder = Stream(weirgate.port, "/ws/stream")
    assert holder.event()[0] == "message", "the only place is taken"
    async with listening_to(weirgate.port) as page:
        await page.until(f"counts.ends >= 2 || {IS_DEAD}", 20, "two refusals")
        assert not await page.js(IS_DEAD)
        assert await page.js("counts.messages") == 0
        holder.close()
        await page.until(f"counts.messages > 0 || {IS_DEAD}", 20, "accepted once the place is free")
        assert not await page.js(IS_DEAD)


async def test_a_gateway_that_stops(start_weirgate):
    port = free_port()
    weirgate = start_demo(start_weirgate, port, "--drain-ms", "8000")
    others = [Stream(port, "/ws/stream") for _ in range(8)]
    async with listening_to(None) as page:
        weirgate.send(signal.SIGTERM)
        await page.js(LISTEN % url_at(port))
        await page.until(f"counts.ends > 0 || {IS_DEAD}", 20, "a refusal")
        assert not await page.js(IS_DEAD)
        assert await page.js("[counts.opens, counts.messages].join()") == "1,0"
        for other in others:
            other.close()
        assert await asyncio.to_thread(weirgate.wait, 30) == 0
        start_demo(start_weirgate, port)
        await page.until(f"counts.messages > 0 || {IS_DEAD}", 20, "the first state of the next process")
        assert not await page.js(IS_DEAD)


def url_at(port):
    return f"http://127.0.0.1:{port}/ws/stream"


def is_served(port):
    with contextlib.closing(Stream(port, "/health", version="1.0")) as answer:
        return answer.status == 200
