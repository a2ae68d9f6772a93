"""A page in Chromium whose token is in a cookie that no script can read: WebSocket, client package and unmodified EventSource."""
import urllib.request

import pytest
from browser import open_page
from cookie_application import CookieApplication
from waiting import until

pytestmark = pytest.mark.chromium

SECRET = "thirty-two bytes of a test secret"
LOG_IN = """fetch("/login", { method: "POST", body: new URLSearchParams({ user: "ann" }), redirect: "manual" }).then(() => "done")"""
LISTEN = """void (() => {
  globalThis.seen = { socket: [], stream: [] };
  const send = JSON.stringify({ action: "subscribe", channels: ["market:tick:A"] });
  globalThis.socket = new WebSocket("ws://127.0.0.1:%(port)d/ws");
  socket.onmessage = ({ data }) => { seen.socket.push(JSON.parse(data)); };
  socket.onopen = () => { socket.send(send); };
  socket.onclose = ({ code, reason }) => { seen.socket.push({ type: "close", code, reason }); };
  globalThis.source = new EventSource("http://127.0.0.1:%(port)d/ws?send=" + encodeURIComponent(send), { withCredentials: %(with)s });
  source.onmessage = ({ data }) => { seen.stream.push(JSON.parse(data)); };
  source.addEventListener("close", ({ data }) => { seen.stream.push({ type: "close", ...JSON.parse(data) }); });
})()"""


def listen(weirgate, with_cookies=True):
    return LISTEN % {"port": weirgate.port, "with": str(with_cookies).lower()}


def is_up(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


async def test_a_cookie_of_the_application_opens_a_socket_and_an_event_source(start_weirgate, redis_server, started, tmp_path):
    application = CookieApplication(tmp_path, SECRET)
    started.append(application)
    await until(lambda: is_up(application.port), 20, "Flask")
    origin = f"http://127.0.0.1:{application.port}"
    weirgate = start_weirgate("channels", "--event-stream", "--token-cookie", "feed", "--allowed-origins", origin, redis=redis_server,
                              env={"REQUIRE_AUTH": "true", "JWT_SECRET": SECRET}).wait_ready()
    kinds = lambda where: f"seen.{where}.map(({{ type }}) => type)"
    async with open_page(origin + "/") as page:
        # Before the login nobody is let in, by either door.
        await page.js(listen(weirgate))
        await page.until("seen.socket.some(({ code }) => code === 1008)", 20, "the refusal of the socket")
        await page.until("source.readyState === 2 || seen.stream.some(({ type }) => type === 'close')", 20, "the refusal of the stream")
        await page.js("source.close()")
        assert await page.js(LOG_IN) == "done"
        assert await page.js("document.cookie") == "", "no script can read the cookie"
        await page.js(listen(weirgate))
        for where in ("socket", "stream"):
            await page.until(f"{kinds(where)}.includes('subscribed')", 20, f"the {where} is subscribed")
            assert await page.js(f"seen.{where}[0].role") == "user"
        redis_server.client().publish("market:tick:A", '{"price":1}')
        for where in ("socket", "stream"):
            await page.until(f"{kinds(where)}.includes('data')", 20, f"a message for the {where}")
        await page.js("socket.close(), source.close()")
        # Without credentials the browser sends no cookie with an EventSource of another origin.
        await page.js(listen(weirgate, with_cookies=False))
        await page.until("source.readyState === 2 || seen.stream.some(({ type }) => type === 'close')", 20, "no cookie, no stream")
        assert not await page.js(f"{kinds('stream')}.includes('connected')")
