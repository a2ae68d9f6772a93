"""A page in Chromium that asks for binary messages: a plain WebSocket, and an unmodified EventSource with the payload in base64."""
import base64
import os

import pytest
from browser import open_page
from foreign_pages import Site

pytestmark = pytest.mark.chromium

# Not UTF-8, a line feed inside, and every byte.
PAYLOADS = [b"\xff\xfe\x00", b"line\nfeed", bytes(range(256)), b'{"price":1}', os.urandom(20_000)]
LISTEN = """void (() => {
  globalThis.seen = { socket: [], stream: [], up: 0 };
  const send = JSON.stringify({ action: "subscribe", channels: ["market:tick:A"] });
  const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  globalThis.socket = new WebSocket("ws://127.0.0.1:%(port)d/ws?payload=binary");
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { socket.send(send); };
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") { seen.up += JSON.parse(data).type === "subscribed"; return; }
    const bytes = new Uint8Array(data);
    const end = bytes.indexOf(10);
    seen.socket.push([JSON.parse(new TextDecoder().decode(bytes.subarray(0, end))), base64(bytes.subarray(end + 1))]);
  };
  globalThis.source = new EventSource("http://127.0.0.1:%(port)d/ws?payload=binary&send=" + encodeURIComponent(send));
  source.onmessage = ({ data }) => { seen.up += JSON.parse(data).type === "subscribed"; };
  source.addEventListener("binary", ({ data }) => {
    const [head, payload] = data.split("\\n");
    seen.stream.push([JSON.parse(head), payload]);
  });
})()"""


async def test_a_page_gets_payloads_byte_for_byte(start_weirgate, redis_server):
    weirgate = start_weirgate("channels", "--event-stream", redis=redis_server, env={"DEFAULT_ROLE": "internal"}).wait_ready()
    # The front page of a gateway connects to nothing.
    async with Site(None) as site, open_page(f"http://127.0.0.1:{site.port}/page") as page:
        await page.js(LISTEN % {"port": weirgate.port})
        await page.until("seen.up === 2", 20, "both are subscribed")
        for payload in PAYLOADS:
            redis_server.client().publish("market:tick:A", payload)
        for where in ("socket", "stream"):
            await page.until(f"seen.{where}.length === {len(PAYLOADS)}", 20, f"all payloads by the {where}")
            got = await page.js(f"seen.{where}")
            assert [base64.b64decode(payload) for _, payload in got] == PAYLOADS
            assert [(head["type"], head["channel"], head["seq"]) for head, _ in got] == [
                ("data", "market:tick:A", number) for number in range(3, len(PAYLOADS) + 3)]
        await page.js("socket.close(), source.close()")
