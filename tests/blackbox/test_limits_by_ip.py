"""Limits by address: off unless set, before the upgrade, for WebSockets and plain HTTP together."""
import asyncio
import http.client
import time

import pytest
from clients import connect, connect_many, upgrade_request
from prometheus import scrape
from waiting import until

pytestmark = pytest.mark.plain("over TLS a refused client is closed before its handshake, without a status: test_tls_limits.py")

CROWD, OTHER = "127.0.0.2", "127.0.0.3"


async def status_of(port, source, *headers):
    """(status, headers with lower-case names) of a handshake from `source`; the connection ends with it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        writer.write(upgrade_request(port, extra=headers))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    finally:
        writer.close()
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}


def ask(link, path="/health", **headers):
    """The status of a page over a connection that is kept."""
    link.request("GET", path, headers=headers)
    answer = link.getresponse()
    answer.read()
    return answer.status


def kept_connection(port, source):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(source, 0))


def closes(weirgate, reason):
    return scrape(weirgate).sum("weirgate_client_closes_total", reason=reason)


async def test_an_address_has_so_many_connections(start_weirgate):
    weirgate = start_weirgate("demo", "--connections-per-ip-max", "5").wait_ready()
    port = weirgate.port
    clients = [await connect(port, source=CROWD) for _ in range(4)]
    page = kept_connection(port, CROWD)
    assert await asyncio.to_thread(ask, page) == 200, "the fifth speaks plain HTTP and is kept open"
    status, headers = await status_of(port, CROWD)
    assert (status, int(headers["retry-after"])) == (503, 1)
    refused = kept_connection(port, CROWD)
    assert await asyncio.to_thread(ask, refused) == 503, "plain HTTP counts equally"
    assert (await status_of(port, OTHER))[0] == 101, "another address is not concerned"
    assert closes(weirgate, "connections_per_ip") == 2
    await until(lambda: scrape(weirgate).sum("weirgate_addresses") >= 2, 10, "weirgate_addresses")
    page.close()
    await until(lambda: ask(kept_connection(port, CROWD)) == 200, 5, "the place of the HTTP connection")
    clients[0].abort()
    # One that comes in the same turn of the loop as the end of the other is still refused.
    await until(lambda: scrape(weirgate).sum("weirgate_clients") == 3, 5, "the end of the client")
    again = await connect(port, source=CROWD)
    assert all(c.open for c in [*clients[1:], again])


async def test_an_address_opens_so_many_connections_a_second(start_weirgate):
    weirgate = start_weirgate("demo", "--connection-rate-per-ip", "1").wait_ready()
    begin = time.monotonic()
    answers = [await status_of(weirgate.port, CROWD) for _ in range(60)]
    came_back = time.monotonic() - begin
    let_in = [status for status, _ in answers].count(101)
    assert 20 <= let_in <= 21 + came_back, f"{let_in} of 60 in {came_back:.1f} s"
    assert {status for status, _ in answers} == {101, 429}
    assert {int(headers["retry-after"]) for status, headers in answers if status == 429} == {1}
    assert (await status_of(weirgate.port, OTHER))[0] == 101, "another address is not concerned"
    assert closes(weirgate, "connection_rate_per_ip") == 60 - let_in
    await asyncio.sleep(1.1)
    assert (await status_of(weirgate.port, CROWD))[0] == 101, "it may come back as often as it was told"


async def test_behind_a_trusted_proxy_each_client_counts_for_itself(start_weirgate):
    env = {"FORWARDED_ALLOW_IPS": CROWD}
    weirgate = start_weirgate("demo", "--connections-per-ip-max", "2", env=env).wait_ready()
    port = weirgate.port
    for n in range(5):
        ip = f"X-Forwarded-For: 203.0.113.9, 198.51.100.{n}"
        clients = [await connect(port, source=CROWD, extra=[ip]) for _ in range(2)]
        assert (await status_of(port, CROWD, ip))[0] == 503
        assert all(c.open for c in clients)
    pooled = [kept_connection(port, CROWD) for _ in range(5)]
    for link in pooled:
        assert await asyncio.to_thread(ask, link, **{"X-Forwarded-For": "198.51.100.50"}) == 200
    own = [await connect(port, source=CROWD, extra=["X-Forwarded-For: 198.51.100.50"]) for _ in range(2)]
    assert all(c.open for c in own), "connections that a proxy keeps are not its clients'"
    forged = ["X-Forwarded-For: 198.51.100.77"]
    strangers = [await connect(port, source=OTHER, extra=forged) for _ in range(2)]
    assert (await status_of(port, OTHER, *forged))[0] == 503, "nobody asked a stranger who it is"
    assert all(c.open for c in strangers)


async def test_nothing_is_limited_by_address_unless_it_is_set(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    clients = await connect_many(200, weirgate.port)
    assert weirgate.health()["connections"] == 200
    assert all(c.open for c in clients)
