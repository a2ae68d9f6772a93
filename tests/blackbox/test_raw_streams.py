"""`?payload=raw` in Chromium: an unmodified EventSource on a Redis stream and on JetStream, over reloads of the page and new processes of
the gateway: each payload once, in order and byte for byte."""
import asyncio
import hashlib
import http.server
import json
import threading

import nats as nats_client
import pytest
from browser import open_page
from processes import free_port

pytestmark = pytest.mark.chromium

COUNT = 3_000
NAME = {"redis": "answer:7", "jetstream": "answer.7"}
# Keeps the digest of what came over a reload, as a page keeps its text. What it has of the position is what EventSource has.
PAGE = """<!doctype html><link rel=icon href=data:,><script>
  const url = new URL("http://127.0.0.1:%d/ws?payload=raw");
  url.searchParams.set("send", JSON.stringify({ action: "subscribe", channels: ["%s"] }));
  globalThis.got = JSON.parse(sessionStorage.getItem("got") ?? "[]");
  if (sessionStorage.getItem("id")) url.searchParams.set("lastEventId", sessionStorage.getItem("id"));
  const source = new EventSource(url);
  const keep = (id) => id && sessionStorage.setItem("id", id);
  source.onmessage = ({ data, lastEventId }) => {
    got.push(data);
    keep(lastEventId);
    sessionStorage.setItem("got", JSON.stringify(got.map((one) => one.slice(0, 6))));
  };
  globalThis.problems = [];
  source.addEventListener("control", ({ data, lastEventId }) => {
    const { type, errors, recovered } = JSON.parse(data);
    keep(lastEventId);
    if (type === "subscribed" && (errors.length || Object.values(recovered ?? {}).includes(false))) problems.push(data);
  });
</script>"""


def payloads():
    """Texts of 20 bytes to 20 kB, of one line and of several."""
    for n in range(COUNT):
        size = 20 if n % 50 else 20_000
        text = f"{n:06} " + hashlib.sha256(str(n).encode()).hexdigest() * (size // 64 + 1)
        yield (text[:size] + ("\nsecond: line\n" if n % 7 == 0 else "")).encode()


@pytest.fixture
def page_server(tmp_path):
    """serve(html) → its URL."""
    servers = []

    def serve(html):
        class One(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(html.encode())))
                self.end_headers()
                self.wfile.write(html.encode())

            def log_message(self, *_):
                pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), One)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("bus", ["redis", "jetstream"])
async def test_each_payload_comes_once_over_reloads_and_new_processes(bus, request, start_weirgate, page_server):
    port = free_port()
    flags = ["--event-stream", "--history-ms", "600000", "--history-bytes-max", "100000000"]
    env = {"REDIS_WS_GATEWAY_PORT": str(port), "DEFAULT_ROLE": "internal"}
    if bus == "redis":
        redis = request.getfixturevalue("redis_server")
        client = redis.client()

        async def publish(payload):
            client.xadd("answers", {"channel": NAME[bus], "data": payload})
        start = lambda: start_weirgate("channels", "--stream", "answers", *flags, redis=redis, env=env)  # noqa: E731
    else:
        server = request.getfixturevalue("nats")
        connection = await nats_client.connect(server.url)
        jetstream = connection.jetstream()
        await jetstream.add_stream(name="ANSWERS", subjects=["answer.*"])

        async def publish(payload):
            await jetstream.publish(NAME[bus], payload)
        start = lambda: start_weirgate("channels", "--bus", server.url, "--stream", "ANSWERS", *flags, env=env)  # noqa: E731
    await publish(b"before")
    weirgate = start()
    all_payloads = [payload.decode() for payload in payloads()]
    async with open_page(page_server(PAGE % (port, NAME[bus]))) as page:
        await page.until("sessionStorage.getItem('id')", 30, "a position")
        for n, payload in enumerate(all_payloads):
            await publish(payload.encode())
            if n in (COUNT // 4, COUNT // 2):
                await page.js("location.reload()")
            if n in (COUNT // 3, 2 * COUNT // 3):
                weirgate.kill()
                weirgate = start()
            if n % 20 == 0:
                await asyncio.sleep(0.005)
        await page.until(f"globalThis.got?.length >= {COUNT}", 120, "all of them")
        await asyncio.sleep(0.5)
        got, since = json.loads(await page.js("JSON.stringify([got, problems])"))
        assert since == []
        assert [text[:6] for text in got] == [f"{n:06}" for n in range(COUNT)]
        whole = [text for text in got if len(text) > 6]
        # Those that came before the last reload are kept by their number.
        assert whole == all_payloads[-len(whole):] and len(whole) > COUNT // 4
