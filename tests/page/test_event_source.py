"""A native EventSource in Chromium comes back by itself, whatever a restart or a limit answers it."""
import asyncio
import contextlib
import signal

import pytest
from browser import open_page
from event_stream import Stream
from foreign_pages import Site
from processes import free_port
from prometheus import scrape
from proxies import Caddy, Haproxy, Nginx
from waiting import until

pytestmark = pytest.mark.chromium

# CLOSED: such an EventSource never connects again.
IS_DEAD = "source.readyState === 2"
LISTEN = """void (() => {
  globalThis.counts = { opens: 0, ends: 0, messages: 0 };
  globalThis.source = new EventSource("%s", { withCredentials: %s });
  source.onopen = () => { counts.opens += 1; };
  source.onerror = () => { counts.ends += 1; };
  source.onmessage = () => { counts.messages += 1; };
})()"""


@contextlib.asynccontextmanager
async def listening_to(port):
    """A page of another origin, with an EventSource at the demo's path on `port` if there is one."""
    async with Site(None) as site, page_of(site) as page:
        if port:
            await page.js(listen(port))
        yield page


def page_of(site):
    return open_page(origin_of(site) + "/page")


def origin_of(site):
    return site.origin("127.0.0.1")


def listen(port, with_cookies=False):
    return LISTEN % (url_at(port), str(with_cookies).lower())


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
    """Of a page that sends cookies, too."""
    port = free_port()
    async with Site(None) as site, page_of(site) as page:
        flags = ("--allowed-origins", origin_of(site))
        weirgate = start_demo(start_weirgate, port, *flags)
        proxy = kind(port)
        started.append(proxy)
        await until(lambda: is_served(proxy.port), 10, "the proxy serves")
        await page.js(listen(proxy.port, with_cookies=True))
        await page.until("counts.messages > 0", 20, "the first state")
        weirgate.kill()
        # The end of the stream, and of two streams that only say when to come back.
        await page.until(f"counts.ends >= 3 || {IS_DEAD}", 20, "two attempts in vain")
        assert not await page.js(IS_DEAD)
        assert await page.js("counts.opens") >= 3
        start_demo(start_weirgate, port, *flags)
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
        await until(lambda: "stopping" in weirgate.log(), 15, "the stop has begun")
        await page.js(listen(port))
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


LISTEN_TO_NUMBERS = """void (() => {
  const send = JSON.stringify({ action: "subscribe", channels: ["market:*"] });
  globalThis.numbers = [];
  globalThis.refused = [];
  globalThis.source = new EventSource("http://127.0.0.1:%d/ws?send=" + encodeURIComponent(send));
  source.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "data") numbers.push(message.data);
    if (message.recovered && !message.recovered["market:*"]) refused.push(message.why);
  };
})()"""


async def test_nothing_is_lost_when_instances_are_killed(start_weirgate, redis_server, started):
    """An unmodified EventSource, nginx with the recipe, and two instances that are killed in turn."""
    ports = [free_port(), free_port()]

    def start(port):
        weirgate = start_weirgate("channels", "--port", str(port), "--event-stream", "--history-ms", "60000", "--history-names",
                                  "market:*", redis=redis_server, env={"DEFAULT_ROLE": "internal"})
        weirgate.port, weirgate.http_url = port, f"http://127.0.0.1:{port}"
        return weirgate.wait_ready()

    instances = [start(port) for port in ports]
    nginx = Nginx(*ports)
    started.append(nginx)
    published, over = 0, asyncio.Event()

    async def publish():
        nonlocal published
        bus = redis_server.client()
        while not over.is_set():
            published += 1
            await asyncio.to_thread(bus.publish, "market:a", str(published))
            await asyncio.sleep(0.05)

    for one in instances:
        await until(lambda: scrape(one).sum("weirgate_positions_shared") == 1, 10, "shared positions")
    async with listening_to(None) as page:
        await page.js(LISTEN_TO_NUMBERS % nginx.port)
        await page.until("source.readyState === 1", 20, "the stream is open")
        await asyncio.sleep(0.3)
        publishing = asyncio.create_task(publish())
        for round_ in range(4):
            await asyncio.sleep(2)
            at = 0 if scrape(instances[0]).sum("weirgate_clients") == 1 else 1
            instances[at].kill()
            before = await page.js("numbers.length")
            await page.until(f"numbers.length > {before} || {IS_DEAD}", 20, f"the stream is back after kill {round_}")
            instances[at] = start(ports[at])
        over.set()
        await publishing
        await page.until(f"numbers.at(-1) === {published} || {IS_DEAD}", 20, "the last number")
        numbers = await page.js("numbers")
        assert await page.js("refused") == []
    assert numbers == list(range(numbers[0], published + 1)), "each once, in order"
    assert numbers[0] <= 2


async def test_a_page_in_the_list_may_send_credentials(start_weirgate):
    async with Site(None) as site, page_of(site) as page:
        listed = start_weirgate("demo", "--allowed-origins", origin_of(site)).wait_ready()
        anybody = start_weirgate("demo").wait_ready()
        for weirgate, expected in ((listed, 1), (anybody, 2)):
            await page.js(listen(weirgate.port, with_cookies=True))
            await page.until("source.readyState > 0", 20, "an answer")
            assert await page.js("source.readyState") == expected
            assert await page.js(f"fetch('{weirgate.http_url}/health', {{ credentials: 'include' }}).then(() => 1, () => 2)") == expected
            await page.js("source.close()")
