"""Event streams behind the recipes of deploy/ while no gateway responds: an EventSource never comes back after 502, 503 or 504."""
import contextlib
import http.client
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from clients import upgrade_request
from event_stream import Stream
from proxies import Caddy, Haproxy, Nginx
from waiting import until

PROXIES = [Nginx, Haproxy, Caddy]
# As browsers and other clients of event streams write the header, and headers that accept none.
ACCEPTS = ["text/event-stream", "Text/Event-Stream", "text/html, text/event-stream;q=0.9, */*;q=0.1"]
OTHERS = ["*/*", "text/html", "text/event-streams", "x-text/event-stream"]
REFUSAL = b'{"detail":"Not now"}'


class Refusing:
    """A server in place of a gateway: refuses everything but /ready with a status."""

    def __init__(self, status):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.send_response(200 if self.path == "/ready" else status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(REFUSAL)))
                self.send_header("Retry-After", "7")
                self.end_headers()
                self.wfile.write(REFUSAL)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def ask(port, path="/ws/stream", method="GET", **headers):
    """(status, headers with lower-case names, body) of one request on its own connection."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        link.request(method, path, headers=headers)
        answer = link.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        link.close()


def status_of_upgrade(port):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    link.connect()
    with contextlib.closing(link.sock) as sock:
        # A browser sends no such `Accept` with an upgrade, another client might.
        sock.sendall(upgrade_request(port, extra=["Accept: text/event-stream"]))
        return int(sock.makefile("rb").readline().split()[1])


def assert_comes_back(port, accept):
    status, headers, body = ask(port, Accept=accept, Origin="https://page.example")
    assert (status, body) == (200, b"retry: 2000\n\n"), accept
    names = ("content-type", "cache-control", "access-control-allow-origin", "access-control-allow-credentials", "vary")
    # A page that sends cookies may not read what any page may read.
    assert [headers.get(name) for name in names] == ["text/event-stream", "no-store", "https://page.example", "true", "Origin"]
    assert "retry-after" not in headers
    same_origin = ask(port, Accept=accept)
    assert (same_origin[0], same_origin[2]) == (200, b"retry: 2000\n\n")
    assert not same_origin[1].get("access-control-allow-origin")


@pytest.mark.parametrize("kind", PROXIES)
async def test_while_the_gateway_is_away(start_weirgate, started, kind):
    weirgate = start_weirgate("demo").wait_ready()
    proxy = kind(weirgate.port)
    started.append(proxy)
    await until(lambda: ask(proxy.port, "/health")[0] == 200, 10, "the proxy serves")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)) as link:
        link.request("GET", "/ws/stream", headers={"Accept": ACCEPTS[0]})
        stream = link.getresponse()
        assert stream.status == 200 and next(line for line in stream if line.startswith(b"data: "))
        weirgate.kill()
        # At once, before a check of the proxy notices, and later.
        assert_comes_back(proxy.port, ACCEPTS[0])
    for accept in ACCEPTS:
        assert_comes_back(proxy.port, accept)
    for accept in OTHERS:
        assert ask(proxy.port, Accept=accept)[0] in (502, 503), accept
    assert ask(proxy.port, method="POST", Accept=ACCEPTS[0])[0] in (502, 503)
    assert status_of_upgrade(proxy.port) in (502, 503)
    assert ask(proxy.port, "/metrics", Accept=ACCEPTS[0])[0] == 404


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("kind", PROXIES)
async def test_while_the_gateway_refuses(started, kind, status):
    refusing = Refusing(status)
    try:
        proxy = kind(refusing.port)
        started.append(proxy)
        await until(lambda: ask(proxy.port, "/health")[2] == REFUSAL, 10, "the proxy has found the server")
        for accept in ACCEPTS:
            assert_comes_back(proxy.port, accept)
        for accept in OTHERS:
            got, headers, body = ask(proxy.port, Accept=accept)
            assert (got, headers.get("retry-after"), body) == (status, "7", REFUSAL), accept
        assert ask(proxy.port, method="POST", Accept=ACCEPTS[0])[::2] == (status, REFUSAL)
        assert status_of_upgrade(proxy.port) == status
    finally:
        refusing.stop()


@pytest.mark.parametrize("kind", PROXIES)
async def test_while_the_gateway_stops(start_weirgate, started, kind):
    weirgate = start_weirgate("demo", "--drain-ms", "2000").wait_ready()
    proxy = kind(weirgate.port)
    started.append(proxy)
    await until(lambda: ask(proxy.port, "/health")[0] == 200, 10, "the proxy serves")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Stream(weirgate.port, "/ws/stream"))) for _ in range(8)]
        weirgate.send(signal.SIGTERM)
        await until(lambda: weirgate.ready_status() in (503, 0), 2, "the stop has begun", every=0.01)
        # The gateway's own time to come back, or that of the proxy.
        while weirgate.alive():
            status, headers, body = ask(proxy.port, Accept=ACCEPTS[0])
            assert (status, headers["content-type"], body[:7]) == (200, "text/event-stream", b"retry: "), (status, body)
            assert body.endswith(b"\n\n") and body.count(b"\n") == 2, body
            for client in clients:
                client.link.settimeout(0.01)
                with contextlib.suppress(OSError):
                    client.link.recv(1 << 20)
        assert_comes_back(proxy.port, ACCEPTS[0])
    assert weirgate.wait(10) == 0
