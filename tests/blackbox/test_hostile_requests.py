"""Hostile and unlucky requests through every recipe of a proxy: nothing passes that the recipe hides, no POST is made twice, nobody
speaks for the proxy, no query is in a log, and an answer that comes early arrives."""
import asyncio
import contextlib
import itertools
import re
import socket
import subprocess
import time

import pytest
from accepting import Accepting
from proxies import Apache, Caddy, Envoy, Haproxy, Nginx, Traefik, Varnish
from waiting import until

RECIPES = [Nginx, Haproxy, Caddy, Apache, Varnish, Envoy, Traefik]
SECRET = "s3cret-of-a-client"
INTERNAL = "thirty-two bytes of an inner token"


class CountingService(Accepting):
    """Keeps each request, (method, headers), and answers by its path: `/…/503`, `/…/silent` (no answer at all), `/…/slow` (after two
    seconds), `/…/early` (an answer before the body is read), and anything else with 200."""

    def __init__(self):
        self.seen = []
        super().__init__()

    def serve(self, link):
        with link, link.makefile("rb") as read:
            while line := read.readline():
                method, target, _ = line.split(b" ", 2)
                headers = []
                while (field := read.readline()) not in (b"\r\n", b""):
                    name, _, value = field.partition(b":")
                    headers.append((name.decode().lower(), value.strip().decode()))
                self.seen.append((method.decode(), headers))
                path = target.split(b"?")[0]
                if path.endswith(b"/early"):
                    link.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly")
                    # As a server that ends its side, and takes what still comes for a moment.
                    link.shutdown(socket.SHUT_WR)
                    end = time.monotonic() + 2
                    while time.monotonic() < end and link.recv(65_536):
                        pass
                    return
                length = next((int(value) for name, value in headers if name == "content-length"), 0)
                chunked = ("transfer-encoding", "chunked") in headers
                while chunked and (size := int(read.readline(), 16)) >= 0:
                    read.read(size + 2)
                    chunked = size > 0
                read.read(length)
                if path.endswith(b"/silent"):
                    return
                if path.endswith(b"/slow"):
                    time.sleep(2)
                status = b"503 Service Unavailable" if path.endswith(b"/503") else b"200 OK"
                link.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


def conversation(port, sent, seconds=3, source="127.0.0.9"):
    """All bytes that come until the end of the connection, or until nothing has come for some time."""
    with socket.create_connection(("127.0.0.1", port), 10, (source, 0)) as link:
        link.settimeout(seconds)
        came = b""
        try:
            link.sendall(sent)
            while piece := link.recv(65_536):
                came += piece
        except OSError:
            pass
        return came


def request(method, path, *lines, body=b""):
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: feed.example", *length, *lines, "", ""]).encode() + body


def status(came):
    found = re.match(rb"HTTP/1\.[01] (\d{3})", came)
    return int(found.group(1)) if found else None


def ask(port, method, path, *lines, body=b""):
    return conversation(port, request(method, path, "Connection: close", *lines, body=body), 10)


@pytest.fixture
def front(start_weirgate, started):
    """front(kind) → (proxy, service, weirgate): a recipe before events and its service."""
    stopping = []

    def start(kind):
        service = CountingService()
        stopping.append(service)
        urls = {name: service.url for name in ("LOBBY_URL", "MEASUREMENT_URL", "SIMULATION_URL")}
        env = {**urls, "INTERNAL_AUTH_TOKEN": INTERNAL, "WEIRGATE_TRUSTED_PROXIES": "127.0.0.1"}
        weirgate = start_weirgate("events", env=env).wait_ready()
        started.append(proxy := kind(weirgate.port))
        return proxy, service, weirgate
    yield start
    for service in stopping:
        service.discard()


async def serves(proxy):
    await until(lambda: status(ask(proxy.port, "GET", "/health")) == 200, 20, "the proxy serves")


@pytest.mark.parametrize("kind", RECIPES)
async def test_a_post_is_made_once(front, kind):
    proxy, service, _ = front(kind)
    await serves(proxy)
    for path, expected in [("/v1/jobs/order/503", {503}), ("/v1/jobs/order/silent", {502, 503}), ("/v1/jobs/order", {200})]:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            service.seen.clear()
            came = await asyncio.to_thread(ask, proxy.port, method, path, "Content-Type: application/json", body=b'{"buy": 1}')
            assert status(came) in expected, (method, path, came[:200])
            assert [seen[0] for seen in service.seen] == [method], f"{method} {path}: {len(service.seen)} requests at the service"


@pytest.mark.parametrize("kind", RECIPES)
async def test_nobody_speaks_for_the_proxy(front, kind):
    proxy, service, weirgate = front(kind)
    await serves(proxy)
    words = ["X-Forwarded-Host: evil.example", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https", "X-Forwarded-Port: 444",
             "X-Forwarded-Prefix: /evil", "X-Forwarded-Server: evil.example", "X-Forwarded-Scheme: https", "X-Forwarded-Ssl: on",
             "Forwarded: for=6.6.6.6;host=evil.example;proto=https", "X-Real-IP: 6.6.6.6", "X_Forwarded_Host: evil.example",
             "X-Forwarded-For: 6.6.6.6"]
    service.seen.clear()
    assert status(await asyncio.to_thread(ask, proxy.port, "GET", "/v1/jobs/1", *words)) == 200
    [(_, headers)] = service.seen
    for name, value in headers:
        if name == "x-forwarded-for":
            # The list is the way of the request; services count from its end.
            assert re.split(r",\s*", value)[-2:][0] == "127.0.0.9", value
            continue
        assert "evil" not in value and "6.6.6.6" not in value and value not in ("https", "444", "on"), f"{name}: {value}"
    assert ("x-forwarded-proto", "http") in headers and ("x-forwarded-host", "feed.example") in headers
    assert "6.6.6.6" not in weirgate.log()


SPELLINGS = ["/metrics", "/metrics?a", "//metrics", "/./metrics", "/a/../metrics", "/%6detrics", "/METRICS", "/metrics/", "/metrics;a",
             "/metrics%20", "/stats", "/ready", "/internal/broadcast", "//internal/broadcast", "/%69nternal/broadcast", "http://feed.example/metrics",
             "http://feed.example//metrics", "/v1/../metrics", "/ws/../internal/broadcast", "/%2e/metrics", "/%2e%2e/metrics", "/metrics%2f",
             "/metrics%00", "/metrics%0a", "/metrics#a", "/internal%2fbroadcast", "/internal;a/broadcast", "/v1/..;/metrics", "/v1/%2e%2e/internal/broadcast",
             "/v1\\..\\metrics", "/metrics?/../health", "/stats/./", "/Ready", "/internal/../internal/broadcast", "*", "metrics"]


@pytest.mark.parametrize("kind", RECIPES)
async def test_nobody_takes_the_words_of_the_proxy_away(front, kind):
    """A header that `Connection` names is for the next hop alone: it must not take the address from a request."""
    proxy, service, weirgate = front(kind)
    await serves(proxy)
    names = ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Host", "Content-Length", "Cookie"]
    for lines in ([f"Connection: close, {', '.join(names)}"], [f"Connection: {name}" for name in [*names, "close"]], ["Connection: close", "X-Forwarded-For:"],
                  ["Connection: close", "X-Forwarded-For: 127.0.0.1, 127.0.0.1"], ["Connection: close", "X-Forwarded-For: ,,;\"", "Forwarded: for=127.0.0.1"]):
        service.seen.clear()
        body = b'{"a": 1}'
        came = await asyncio.to_thread(conversation, proxy.port, request("POST", "/v1/jobs/1", *lines, body=body), 5)
        if status(came) == 400 and not service.seen:
            continue
        assert status(came) == 200, (lines, came[:300])
        [(_, headers)] = service.seen
        assert [value for name, value in headers if name == "x-forwarded-for"][-1].replace(" ", "").split(",")[-2:] == ["127.0.0.9", "127.0.0.1"], (lines, headers)
        assert ("x-forwarded-proto", "http") in headers and ("x-forwarded-host", "feed.example") in headers, (lines, headers)
    # Limits and cuts by address count the client.
    upgrade = ["Upgrade: websocket", f"Connection: Upgrade, {', '.join(names)}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    came = await asyncio.to_thread(conversation, proxy.port, request("GET", "/ws?device_id=d", *upgrade), 1)
    if status(came) == 101:
        await until(lambda: "connection ended" in weirgate.log(), 10, "the line of the client")
    assert all("client=127.0.0.9 " in line for line in weirgate.log().splitlines() if "connection ended" in line and "peer=127.0.0.1" in line)


@pytest.mark.parametrize("kind", RECIPES)
async def test_a_post_is_made_once_where_an_instance_dies(start_weirgate, started, kind):
    """The other instance gets no POST that the dead one had."""
    service = CountingService()
    try:
        urls = {name: service.url for name in ("LOBBY_URL", "MEASUREMENT_URL", "SIMULATION_URL")}
        env = {**urls, "INTERNAL_AUTH_TOKEN": INTERNAL, "WEIRGATE_TRUSTED_PROXIES": "127.0.0.1"}
        instances = [start_weirgate("events", env=env).wait_ready() for _ in range(2)]
        started.append(proxy := kind(*(one.port for one in instances)))
        await serves(proxy)
        # Whichever has it.
        waiting = [asyncio.create_task(asyncio.to_thread(ask, proxy.port, "POST", "/v1/jobs/slow", "Idempotency-Key: a", body=b"{}")) for _ in range(4)]
        await until(lambda: len(service.seen) == 4, 10, "all are at the service")
        instances[0].kill()
        came = [status(one) for one in await asyncio.gather(*waiting)]
        assert len(service.seen) == 4, came
        assert 200 in came or set(came) <= {502, 503, 504, None}, came
        assert status(await asyncio.to_thread(ask, proxy.port, "POST", "/v1/jobs/1", body=b"{}")) in (200, 502, 503)
    finally:
        service.discard()


@pytest.mark.parametrize("kind", RECIPES)
async def test_pages_of_operators_have_no_other_spelling(front, kind):
    proxy, _, _ = front(kind)
    await serves(proxy)

    async def is_refused(path):
        came = await asyncio.to_thread(ask, proxy.port, "GET", path)
        assert b"weirgate_clients" not in came and status(came) not in (200, 401, 403, 405), (path, came[:300])

    await asyncio.gather(*map(is_refused, SPELLINGS))


@pytest.mark.parametrize("kind", RECIPES)
async def test_nothing_follows_a_refused_upgrade_past_the_recipe(front, kind):
    proxy, service, weirgate = front(kind)
    await serves(proxy)
    after = request("GET", "/metrics", "X-Forwarded-For: 6.6.6.6") + request("POST", "/internal/broadcast", f"X-Internal-Token: {INTERNAL}", body=b"{}")

    async def follows(path, connection, upgrade):
        lines = [upgrade] + ([f"Connection: {connection}"] if connection else [])
        came = await asyncio.to_thread(conversation, proxy.port, request("GET", path, *lines) + after, 0.5)
        assert b"weirgate_clients" not in came and b'"sent"' not in came, (path, lines, came[:2_000])

    await asyncio.gather(*itertools.starmap(follows, itertools.product(
        ("/health", "/ws", "/v1/jobs/1", "/nowhere"), ("keep-alive", "Upgrade", "keep-alive, Upgrade", "close", ""),
        ("Upgrade: websocket", "Upgrade: WebSocket", "Upgrade: h2c", "Accept: text/event-stream"))))
    assert not [seen for seen in service.seen if seen[0] == "POST"] and "6.6.6.6" not in weirgate.log()


@pytest.mark.parametrize("kind", RECIPES)
async def test_no_query_is_in_a_log(front, kind):
    proxy, _, weirgate = front(kind)
    await serves(proxy)
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    query = f"?token={SECRET}&device_id={SECRET}"

    paths = [("/ws", upgrade), ("/ws", ["Accept: text/event-stream"]), ("/v1/jobs/1", []), ("/v1/jobs/silent", []), ("/nowhere", []), ("/metrics", [])]
    requests = [request("GET", path + query, *lines) for path, lines in paths]
    requests += [request("POST", path + query, body=b"{}") for path, _ in paths]
    requests.append(request("GET", "/v1/jobs/1" + query, f"Referer: http://feed.example/{query}", f"Authorization: Bearer {SECRET}",
                            f"Cookie: feed={SECRET}", f"Sec-WebSocket-Protocol: bearer, {SECRET}"))
    # A request that is none.
    requests.append(f"GET /ws{query} HTTP/9.9\r\nHost\r\n\r\n".encode())

    async def all_requests():
        await asyncio.gather(*(asyncio.to_thread(conversation, proxy.port, one, 0.5) for one in requests))
    await all_requests()
    # Nobody there: what a proxy tells of errors.
    weirgate.kill()
    await all_requests()
    # What is logged at the end comes too. As one process, Apache may hang there, after its last line.
    proxy.process.send(15)
    with contextlib.suppress(subprocess.TimeoutExpired):
        proxy.process.child.wait(10)
    assert SECRET not in proxy.log(), [line for line in proxy.log().splitlines() if SECRET in line][:3]
    assert SECRET not in weirgate.log()


@pytest.mark.parametrize("kind", RECIPES)
async def test_an_early_answer_arrives(front, kind):
    """A refusal while the body is still on its way: of a service, of weirgate for a path that is not there, and for a wrong token."""
    proxy, service, _ = front(kind)
    await serves(proxy)
    # nginx takes 1 MiB unless its client_max_body_size says otherwise.
    body = b"x" * 1_000_000
    for path, expected in [("/v1/jobs/early", 413), ("/nowhere", 404), ("/health", 405)]:
        for _ in range(5):
            service.seen.clear()
            came = await asyncio.to_thread(ask, proxy.port, "POST", path, body=body)
            assert status(came) == expected, (path, came[:300])
            assert len(service.seen) == (path == "/v1/jobs/early")


async def test_a_proxy_that_sends_slowly_reads_the_answer_after_the_body(front):
    """As Apache and Varnish: all of the body first, at the pace of their client."""
    _, _, weirgate = front(Nginx)

    def slowly():
        with socket.create_connection(("127.0.0.1", weirgate.port), 10) as link:
            link.settimeout(10)
            link.sendall(request("POST", "/nowhere", "Content-Length: 800000"))
            for _ in range(8):
                link.sendall(b"x" * 100_000)
                time.sleep(0.4)
            return link.recv(1_000)
    assert status(await asyncio.to_thread(slowly)) == 404
