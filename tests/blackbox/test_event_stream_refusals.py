"""Refusals that pass, of requests for event streams: an EventSource never comes back after another status than 200."""
import contextlib
import json
import re
import signal
import socket

import pytest
from clients import upgrade_request
from event_stream import ACCEPT, Stream
from prometheus import scrape
from waiting import until

PAGE = "https://page.example"
HEADERS = {"content-type": "text/event-stream", "cache-control": "no-store, no-transform", "x-accel-buffering": "no", "connection": "close",
           "access-control-allow-origin": PAGE, "access-control-allow-credentials": "true", "vary": "Origin"}
BEHIND = ("--trusted-proxies", "127.0.0.1", "--log-format", "json")
OF_CLIENT = "X-Forwarded-For: 198.51.100.7"


@pytest.fixture
def stream():
    """stream(port, *headers, …) → Stream of the demo, closed with the test"""
    with contextlib.ExitStack() as stack:
        yield lambda port, *headers, **more: stack.enter_context(contextlib.closing(Stream(port, "/ws/stream", *headers, **more)))


def response(port, request):
    """All bytes of the response to a request, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(request)
        return b"".join(iter(lambda: link.recv(4096), b"")).decode()


def upgrade(port, *headers):
    """The response to a request for a WebSocket that is refused."""
    return response(port, upgrade_request(port, extra=headers))


def refusal(status, detail):
    body = json.dumps({"detail": detail}, separators=(",", ":"))
    return (f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\nRetry-After: 1\r\n\r\n{body}")


def assert_refused_for_now(refused):
    """The response has a time to come back, and ends."""
    assert refused.status == 200
    body = refused.reader.read().decode()
    assert refused.headers == {**HEADERS, "content-length": str(len(body))}
    assert 1_000 <= int(re.fullmatch(r"retry: (\d+)\n\n", body)[1]) < 5_000, body
    # The log line comes with the end.
    refused.close()


async def logged_codes(weirgate, reason, count):
    """The statuses in the log lines with the reason, which the metric has so often."""
    assert scrape(weirgate).sum("weirgate_client_closes_total", reason=reason) == count

    def codes():
        lines = [json.loads(line) for line in weirgate.log().splitlines()]
        return sorted(line["code"] for line in lines if line.get("reason") == reason)
    await until(lambda: len(codes()) == count, 10, f"{count} lines with {reason}")
    return codes()


async def test_an_address_that_has_too_many_connections(start_weirgate, stream):
    weirgate = start_weirgate("demo", *BEHIND, "--connections-per-ip-max", "2", "--allowed-origins", PAGE).wait_ready()
    port, detail = weirgate.port, "Too many connections from this address"
    first, _ = (stream(port, OF_CLIENT, f"Origin: {PAGE}") for _ in range(2))
    assert first.status == 200 and "levels" in json.loads(first.event()[1])
    assert_refused_for_now(stream(port, OF_CLIENT, f"Origin: {PAGE}"))
    # What is no request for an event stream, or from a page that may not connect, gets the same bytes as ever.
    foreign = f"GET /ws/stream HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\nOrigin: https://other.example\r\n{OF_CLIENT}\r\n\r\n".encode()
    page = f"GET /ws/stream HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n{OF_CLIENT}\r\n\r\n".encode()
    elsewhere = f"GET /health HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n{OF_CLIENT}\r\n\r\n".encode()
    for got in (upgrade(port, OF_CLIENT, f"Origin: {PAGE}"), *(response(port, request) for request in (foreign, page, elsewhere))):
        assert got == refusal("503 Service Unavailable", detail)
    assert await logged_codes(weirgate, "connections_per_ip", 5) == [200, 503, 503, 503, 503]
    first.close()
    await until(lambda: "content-length" not in stream(port, OF_CLIENT, f"Origin: {PAGE}").headers, 10, "the place is free")


async def test_an_address_that_connects_too_fast(start_weirgate, stream):
    # A burst has 20; of the ends of connections the log has ten lines a second.
    flags = ("--connection-rate-per-ip", "1", "--allowed-origins", PAGE)
    weirgate = start_weirgate("demo", *BEHIND, *flags).wait_ready()
    tries = [stream(weirgate.port, OF_CLIENT, f"Origin: {PAGE}") for _ in range(27)]
    refused = [one for one in tries if "content-length" in one.headers]
    assert refused and len(refused) < len(tries)
    for one in refused:
        assert_refused_for_now(one)
    assert await logged_codes(weirgate, "connection_rate_per_ip", len(refused)) == [200] * len(refused)


async def test_a_gateway_that_stops(start_weirgate, stream):
    weirgate = start_weirgate("demo", *BEHIND, "--drain-ms", "4000", "--allowed-origins", PAGE).wait_ready()
    port = weirgate.port
    clients = [stream(port, f"Origin: {PAGE}") for _ in range(8)]
    # A connection that has carried a page before.
    kept = socket.create_connection(("127.0.0.1", port))
    page = Stream(port, "/health", link=kept)
    page.reader.read(int(page.headers["content-length"]))
    weirgate.send(signal.SIGTERM)
    await until(lambda: weirgate.ready_status() == 503, 2, "the stop has begun", every=0.01)
    assert_refused_for_now(stream(port, f"Origin: {PAGE}"))
    assert_refused_for_now(stream(port, f"Origin: {PAGE}", link=kept))
    page.close()
    # The stop comes before what is wrong with the request, but not before a page that may not connect.
    assert_refused_for_now(stream(port, f"Origin: {PAGE}", sends=["x"] * 33))
    foreign = stream(port, "Origin: https://other.example")
    assert foreign.status == 503
    foreign.close()
    assert upgrade(port) == refusal("503 Service Unavailable", "Shutting down")
    assert {scrape(weirgate).sum("weirgate_client_closes_total", reason=reason) for reason in ("bad_request", "policy")} == {0}
    for client in clients:
        kind, data = client.end()[-1]
        assert (kind, json.loads(data)["code"]) == ("close", 1012)
        client.close()
    assert weirgate.wait(10) == 0
    lines = [json.loads(line) for line in weirgate.log().splitlines()]
    refused = [line["code"] for line in lines if line.get("reason") == "shutting_down" and line.get("code") != 1012]
    assert sorted(refused) == [200, 200, 200, 503, 503]


def test_a_stream_that_ends_at_a_stop_says_when_to_come_back(start_weirgate, stream):
    weirgate = start_weirgate("demo", "--close-retry-after-ms", "60000").wait_ready()
    client = stream(weirgate.port)
    client.event()
    weirgate.send(signal.SIGTERM)
    last = client.reader.read().decode().rsplit("\n\n", 2)[-2]
    retry, *event = last.split("\n")
    assert 60_000 <= int(retry.removeprefix("retry: ")) < 64_000
    assert event == ["event: close", 'data: {"code":1012,"reason":"retry_after_ms=60000"}']
    client.close()
    assert weirgate.wait(10) == 0


@pytest.mark.plain("over TLS a refused client is closed before its handshake, without a status")
@pytest.mark.parametrize("flag, detail", [("--connections-max", "Too many connections"),
                                          ("--connections-per-ip-max", "Too many connections from this address")])
async def test_a_refusal_before_the_head_is_read_is_a_status(start_weirgate, stream, flag, detail):
    weirgate = start_weirgate("demo", flag, "1").wait_ready()

    def is_first():
        first = stream(weirgate.port)
        if first.status != 200:
            # A refused connection counts until its end.
            first.close()
        return first.status == 200
    # The last request of the start may still have the place.
    await until(is_first, 10, "the first client")
    request = f"GET /ws/stream HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n\r\n".encode()
    assert response(weirgate.port, request) == refusal("503 Service Unavailable", detail)
