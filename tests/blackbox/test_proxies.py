"""Each recipe of a proxy with its own line about --trusted-proxies: weirgate knows the clients' addresses."""
import asyncio
import http.client
import json
import os
import re
import signal

import pytest
import websockets
from bus import publisher
from clients import connect, connect_many
from processes import ROOT
from proxies import Apache, Caddy, Envoy, Haproxy, Nginx, Traefik, Varnish, caddy_binary
from recipes import run
from waiting import until

RECIPES = {"nginx/weirgate.conf": Nginx, "haproxy/weirgate.cfg": Haproxy, "caddy/Caddyfile": Caddy, "apache/weirgate.conf": Apache,
           "varnish/weirgate.vcl": Varnish, "envoy/envoy.yaml": Envoy, "traefik/traefik.yaml": Traefik}


def trusted(recipe):
    """The value of the line that a recipe has for weirgate."""
    text = (ROOT / "deploy" / recipe).read_text()
    [line] = re.findall(r"^#   WEIRGATE_TRUSTED_PROXIES=(\S+) +\(or --trusted-proxies (\S+)\)$", text, re.M)
    assert line[0] == line[1]
    return line[0]


@pytest.mark.parametrize("recipe", RECIPES)
async def test_with_the_line_of_the_recipe_clients_have_their_own_addresses(nats, start_weirgate, started, recipe):
    env = {"WEIRGATE_TRUSTED_PROXIES": trusted(recipe), "WEIRGATE_CONNECTIONS_PER_IP_MAX": "2"}
    weirgate = start_weirgate("levels", nats=nats, env=env).wait_ready()
    proxy = RECIPES[recipe](weirgate.port)
    started.append(proxy)

    async def client_of(address):
        return await connect(proxy.port, source=address)

    # A proxy that looks at /ready first may need a moment.
    await until(lambda: is_there(proxy.port), 10, "the proxy serves")
    clients = [await client_of("127.0.0.9"), await client_of("127.0.0.9"), await client_of("127.0.0.7")]
    with pytest.raises(AssertionError, match="HTTP/1.1 503"):
        await client_of("127.0.0.9")
    for client in clients:
        client.abort()
    for address in ("127.0.0.9", "127.0.0.7"):
        await until(lambda: f"client={address} " in weirgate.log(), 5, f"{address} in the log")


@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("inner", [Nginx, Haproxy])
async def test_behind_two_proxies_clients_have_their_own_addresses(start_weirgate, started, tmp_path, inner, over):
    """What the client writes itself into the header, and the proxy behind nginx, count nowhere."""
    path = tmp_path / "http.sock"
    listen = ("--listen", f"unix:{path}", "--listen", "127.0.0.1") if over == "unix" else ()
    weirgate = start_weirgate("demo", *listen, "--trusted-proxies", "127.0.0.1,unix").wait_ready()
    behind = path if over == "unix" else weirgate.port
    for kind in (inner, Nginx):
        started.append(proxy := kind(behind))
        await until(lambda port=proxy.port: is_there(port), 20, f"{kind.__name__} serves")
        behind = proxy.port
    client = await connect(proxy.port, source="127.0.0.9", extra=["X-Forwarded-For: 203.0.113.7", "Forwarded: for=203.0.113.8"])
    client.abort()
    await until(lambda: "client=127.0.0.9 " in weirgate.log(), 10, "the address in the log")
    assert "203.0.113" not in weirgate.log()


def status_of(port, path):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        link.request("GET", path)
        return link.getresponse().status
    finally:
        link.close()


def is_there(port):
    return status_of(port, "/health") == 200


def test_the_caddyfile_is_valid(tmp_path):
    program, knows_delay = caddy_binary()
    text = (ROOT / "deploy" / "caddy" / "Caddyfile").read_text()
    (tmp_path / "Caddyfile").write_text(text if knows_delay else text.replace("stream_close_delay 10m", ""))
    status, text = run([program, "validate", "--adapter", "caddyfile", "--config", tmp_path / "Caddyfile"], dict(os.environ))
    assert status == 0 and "Valid configuration" in text, text


@pytest.mark.parametrize("kind", [Caddy, Apache, Varnish, Envoy, Traefik])
async def test_messages_pass_and_the_pages_of_operators_are_hidden(nats, start_weirgate, started, kind):
    one, two = (start_weirgate("levels", "--ephemeral", "--event-stream", "--drain-delay-ms", "3000", nats=nats).wait_ready() for _ in range(2))
    proxy = kind(one.port, two.port)
    started.append(proxy)
    await until(lambda: is_there(proxy.port), 10, "the proxy serves")
    for path in ("/metrics", "/stats", "/ready", "/internal/broadcast"):
        assert status_of(proxy.port, path) == 404, path
    async with publisher(nats) as bus, websockets.connect(f"ws://127.0.0.1:{proxy.port}/ws/stream", max_size=None) as client:
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        await bus.flow({"n": 1, "pad": "abc" * 5_000})
        assert json.loads(await asyncio.wait_for(client.recv(), 60))["flow"]["n"] == 1
        await client.send("x" * 300_000)
        # An event comes at once, however small, and the next one though nothing follows.
        stream = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        stream.request("GET", "/ws/stream", headers={"Accept": "text/event-stream"})
        events = await asyncio.to_thread(stream.getresponse)

        def next_state():
            line = next(line for line in iter(events.readline, b"") if line.startswith(b"data: "))
            return json.loads(line.removeprefix(b"data: "))
        assert (await asyncio.to_thread(next_state))["flow"]["n"] == 1
        await bus.flow({"n": 2})
        assert (await asyncio.to_thread(next_state))["flow"]["n"] == 2
        assert json.loads(await asyncio.wait_for(client.recv(), 60))["flow"]["n"] == 2
        stream.close()
    # New clients reach the other instance while one stops, and when it is gone.
    one.send(signal.SIGTERM)
    while one.alive():
        for client in await connect_many(3, proxy.port):
            client.abort()
        await asyncio.sleep(0.1)
    for client in await connect_many(3, proxy.port):
        client.abort()
    assert one.wait(10) == 0
