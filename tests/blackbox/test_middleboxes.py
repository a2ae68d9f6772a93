"""Proxies without a recipe, as people set them up first: what they break is told, and what they may change changes nothing."""
import http.client
import json
import urllib.parse

import pytest
from processes import free_port
from prometheus import scrape
from proxies import Apache, Caddy, Nginx, Varnish
from waiting import until

PATHS = {"levels": "/ws/stream", "trades": "/", "channels": "/ws", "events": "/ws"}
KEY = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
# nginx without a line about upgrades speaks HTTP/1.0 or HTTP/1.1, and takes both headers off.
PLAIN = [("proxy_set_header Upgrade $http_upgrade;", ""), ("proxy_set_header Connection $weirgate_connection;", "")]
STRIPPING = {
    "nginx": lambda port: Nginx(port, replace=[*PLAIN, ("proxy_http_version 1.1;", "")]),
    "nginx with HTTP/1.1": lambda port: Nginx(port, replace=PLAIN),
    "nginx with Upgrade alone": lambda port: Nginx(port, replace=PLAIN[1:]),
    "nginx with HTTP/1.0 and both": lambda port: Nginx(port, replace=[("proxy_http_version 1.1;", "")]),
    "Apache": lambda port: Apache(port, replace=[(" upgrade=websocket", "")]),
    "Varnish": lambda port: Varnish(port, replace=[("return (pipe);", "return (pass);")]),
}


def ask(port, path, method="GET", **headers):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        link.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = link.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        link.close()


@pytest.mark.parametrize("gateway", PATHS)
@pytest.mark.parametrize("proxy", STRIPPING)
async def test_a_handshake_without_its_upgrade_is_told(start_weirgate, started, request, gateway, proxy):
    servers = {"levels": {"nats": "nats"}, "trades": {"redis": "redis_server"}, "channels": {"redis": "redis_server"}}
    kwargs = {name: request.getfixturevalue(fixture) for name, fixture in servers.get(gateway, {}).items()}
    weirgate = start_weirgate(gateway, **kwargs).wait_ready()
    started.append(made := STRIPPING[proxy](weirgate.port))
    await until(lambda: ask(made.port, "/health")[0] == 200, 10, "the proxy serves")
    status, _, body = ask(made.port, PATHS[gateway], **KEY)
    assert status == 426 and b"a proxy on the way took them off" in body, (status, body)
    header = "Connection" if "alone" in proxy else "HTTP/1.1" if "both" in proxy else "Upgrade"
    weirgate.lines_with("WARN", "deploy/", f'header="{header}"')
    assert scrape(weirgate).sum("weirgate_client_closes_total", reason="upgrade_lost") == 1


async def test_caddy_that_compresses_holds_no_event_back(start_weirgate, started):
    weirgate = start_weirgate("demo").wait_ready()
    started.append(caddy := Caddy(weirgate.port, replace=[("\t@operators path", "\tencode gzip\n\t@operators path")]))
    await until(lambda: ask(caddy.port, "/health")[0] == 200, 10, "the proxy serves")
    assert ask(caddy.port, "/weirgate.js", Accept_Encoding="gzip")[1]["content-encoding"] == "gzip"
    link = http.client.HTTPConnection("127.0.0.1", caddy.port, timeout=10)
    link.request("GET", "/ws/stream", headers={"Accept": "text/event-stream", "Accept-Encoding": "gzip"})
    stream = link.getresponse()
    assert stream.status == 200 and "content-encoding" not in stream.headers
    for _ in range(3):
        data = next(line for line in iter(stream.readline, b"") if line.startswith(b"data: "))
        assert json.loads(data.removeprefix(b"data: "))
    link.close()


async def test_the_operators_page_below_a_prefix(start_weirgate, started):
    weirgate = start_weirgate("demo", "--admin-addr", f"127.0.0.1:{(admin := free_port())}")
    started.append(nginx := Nginx(admin, replace=[("location / {", "location /gw/ {"), ("proxy_pass http://weirgate;", "proxy_pass http://weirgate/;")]))
    await until(lambda: ask(nginx.port, "/gw/health")[0] == 200, 10, "the proxy serves")
    for path in ("/gw/", "/gw/operator"):
        status, headers, _ = ask(nginx.port, path)
        assert status == 307
        there = urllib.parse.urlsplit(urllib.parse.urljoin(f"http://127.0.0.1:{nginx.port}{path}", headers["location"]))
        assert there.path == "/gw/operator/"
        status, headers, body = ask(nginx.port, there.path)
        assert status == 200 and headers["content-type"].startswith("text/html") and b'src="main.js"' in body
    assert ask(nginx.port, "/gw/operator/state")[0] == 200
    assert weirgate.alive()


@pytest.mark.parametrize("gateway", ["trades", "channels", "demo"])
async def test_a_monitor_asks_for_the_head_of_an_event_stream(start_weirgate, redis_server, gateway):
    weirgate = start_weirgate(gateway, "--event-stream", "--allowed-origins", "https://a.example", redis=redis_server).wait_ready()
    path, accept = {"demo": "/ws/stream"}.get(gateway, "/ws"), {"Accept": "text/event-stream"}
    status, headers, body = ask(weirgate.port, path, "HEAD", **accept)
    assert (status, headers["content-type"], body) == (200, "text/event-stream", b"")
    assert ask(weirgate.port, path, "HEAD", Origin="https://b.example", **accept)[0] == 403
    # On a connection that has served a page too.
    link = http.client.HTTPConnection("127.0.0.1", weirgate.port, timeout=10)
    link.request("GET", "/health")
    link.getresponse().read()
    link.request("HEAD", path, headers=accept)
    assert link.getresponse().status == 200
    link.close()
    # Without the type it is as GET.
    assert ask(weirgate.port, path, "HEAD")[0] == ask(weirgate.port, path)[0]
    assert scrape(weirgate).sum("weirgate_clients") == 0


async def test_pages_of_listed_origins_may_send_credentials(start_weirgate):
    listed = start_weirgate("demo", "--allowed-origins", "https://a.example").wait_ready()
    anybody = start_weirgate("demo").wait_ready()
    for weirgate, expected in ((listed, "true"), (anybody, None)):
        for path, accept in (("/ws/stream", "text/event-stream"), ("/weirgate.js", "*/*"), ("/health", "*/*")):
            headers = ask(weirgate.port, path, "HEAD", Origin="https://a.example", Accept=accept)[1]
            assert headers.get("access-control-allow-credentials") == expected, path
        preflight = ask(weirgate.port, "/ws/stream", "OPTIONS", Origin="https://a.example", Access_Control_Request_Method="GET")[1]
        assert preflight.get("access-control-allow-credentials") == expected
    assert "access-control-allow-credentials" not in ask(listed.port, "/health", Origin="https://b.example")[1]
