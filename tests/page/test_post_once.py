"""A service that dies behind the head of its answer: a browser and a proxy that have got not one byte of an answer send the
request again by themselves, also a POST. So they get the head."""
import asyncio
import http.client

import pytest
from browser import open_page
from proxies import Haproxy
from services import TOKEN, RawService

pytestmark = pytest.mark.chromium

HEAD = b"HTTP/1.1 201 Created\r\nContent-Type: text/plain\r\n"
DEATHS = {
    "length": (HEAD + b"Content-Length: 50\r\n\r\n", False),
    "chunked": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", False),
    "bad chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n", False),
    "reset": (HEAD + b"Content-Length: 50\r\n\r\npart", True),
}
POSTS = 20
# The connection is kept, so that the browser may take a silent end for the end of an idle connection.
POST = """(async () => {
  const seen = [];
  for (let n = 0; n < %d; n++) {
    await fetch("/health").then((answer) => answer.text());
    seen.push(await fetch("/v1/simulation/x", { method: "POST", body: "{}" }).then((answer) => answer.status, () => "failed"));
  }
  return seen;
})()""" % POSTS


@pytest.fixture
def events(start_weirgate):
    services = []

    def start(death):
        services.append(RawService(*DEATHS[death]))
        names = ("LOBBY_URL", "MEASUREMENT_URL", "SIMULATION_URL")
        env = {**{name: services[-1].url for name in names}, "INTERNAL_AUTH_TOKEN": TOKEN}
        return services[-1], start_weirgate("events", env=env).wait_for("/health")
    yield start
    for service in services:
        service.listener.close()


@pytest.mark.parametrize("death", DEATHS)
async def test_a_browser_sends_a_post_once(events, death):
    service, weirgate = events(death)
    async with open_page(f"http://127.0.0.1:{weirgate.port}/health") as page:
        seen = await page.js(POST)
    # After a reset the head may be lost on its way from the service: that is a 502.
    assert len(seen) == POSTS and set(seen) <= ({201, 502} if DEATHS[death][1] else {201}), seen
    assert len(service.asked) == POSTS, service.asked


@pytest.mark.parametrize("death", DEATHS)
async def test_a_proxy_sends_a_post_once(events, started, death):
    service, weirgate = events(death)
    started.append(Haproxy(weirgate.port))

    def post():
        connection = http.client.HTTPConnection("127.0.0.1", started[-1].port, timeout=20)
        try:
            connection.request("POST", "/v1/simulation/x", "{}")
            return connection.getresponse().status
        finally:
            connection.close()
    seen = [await asyncio.to_thread(post) for _ in range(POSTS)]
    assert set(seen) <= ({201, 502} if DEATHS[death][1] else {201}), seen
    assert len(service.asked) == POSTS, service.asked
