"""What idle connections take together is a part of `--memory-max`: one address fills at most its share, and others are
served. A refusal names the limit that counted."""
import contextlib
import json
import socket
import time

import pytest

from clients import upgrade_request
from prometheus import scrape
from redis_gateways import CHANNELS
from tls import MemoryClient

MIB = 1024 * 1024
# The connections have 11 MiB of this.
MEMORY = 96 * MIB
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def connect(port, at):
    link = socket.create_connection(("127.0.0.1", port), 20, source_address=(at, 0))
    link.settimeout(20)
    return link


def head(link):
    data = b""
    with contextlib.suppress(OSError):
        while b"\r\n\r\n" not in data and (piece := link.recv(4096)):
            data += piece
    return data


def websocket(weirgate, at, authority):
    """A WebSocket; `None` if it is refused."""
    link = connect(weirgate.port, at)
    link.sendall(upgrade_request(weirgate.port, CHANNELS.path))
    return link if b" 101 " in head(link)[:13] else None


def over_tls(weirgate, at, authority):
    try:
        client = MemoryClient.on(connect(weirgate.tls_port, at), authority.context()).greet()
        client.write(upgrade_request(weirgate.tls_port, CHANNELS.path))
    except OSError:
        return None
    return client


def plain_http(weirgate, at, authority):
    link = connect(weirgate.port, at)
    link.sendall(GET)
    return link if b" 200 " in head(link)[:13] else None


def held(weirgate):
    metrics = scrape(weirgate)
    return metrics, metrics.sum("weirgate_held", of="connection_bytes")


@pytest.mark.parametrize("kind, count, evicts", [(websocket, 6_000, False), (over_tls, 1_500, False), (plain_http, 1_500, True)])
def test_idle_connections_of_one_address_leave_room_for_others(kind, count, evicts, start_tls, authority, redis_server):
    weirgate = start_tls("channels", "--memory-max", str(MEMORY), redis=redis_server).wait_ready()
    before, _ = held(weirgate)
    most = before.sum("weirgate_held_max", of="connection_bytes")
    refused, kept = 0, []
    for _ in range(count):
        one = kind(weirgate, "127.0.0.2", authority)
        refused += one is None
        kept.append(one)
        if refused > 20:
            break
    metrics, bytes_held = held(weirgate)
    assert most / 4 < bytes_held <= most / 2 + 20_000, f"{bytes_held} of {most}"
    evicted = metrics.sum("weirgate_client_closes_total", reason="evicted")
    by_memory = metrics.sum("weirgate_client_closes_total", reason="connection_memory")
    # Plain HTTP without a request ends for the next connection; others stay, and the next ones are refused.
    assert (evicted > 0, by_memory > 0) == (evicts, not evicts), f"{evicted} evicted, {by_memory} refused"
    assert metrics.sum("process_resident_memory_bytes") - before.sum("process_resident_memory_bytes") < 1.5 * most
    if not evicts:
        weirgate.logs('reason="connection_memory"', "limit=connection-bytes", "a share of --memory-max")
    # Others are served, each kind of them.
    for other in (websocket, over_tls, plain_http):
        assert other(weirgate, "127.0.0.3", authority), other.__name__
    del kept


def test_idle_connections_of_many_addresses_take_no_more(start_weirgate, redis_server):
    weirgate = start_weirgate("channels", "--memory-max", str(MEMORY), redis=redis_server).wait_ready()
    most = held(weirgate)[0].sum("weirgate_held_max", of="connection_bytes")
    kept = [plain_http(weirgate, f"127.1.{n // 200}.{1 + n % 200}", None) for n in range(1_500)]
    metrics, bytes_held = held(weirgate)
    assert most / 2 < bytes_held <= most
    assert metrics.sum("weirgate_client_closes_total", reason="evicted") > 0
    assert websocket(weirgate, "127.0.0.3", None)
    # Who asks again on a connection that is still there gets an answer, and no other reply than that.
    answered = 0
    for link in kept[-100:]:
        with contextlib.suppress(OSError):
            link.sendall(GET)
            answered += b" 200 " in head(link)[:13]
    assert answered > 50


@pytest.mark.parametrize("flags, files_max, reason, limit", [
    (("--connections-max", "20"), None, "connection_limit", "limit=--connections-max 20"),
    ((), 128, "open_files", "limit=ulimit -n 128"),
    (("--memory-max", "67108864"), None, "connection_memory", "limit=connection-bytes 6291450 (a share of --memory-max)"),
])
def test_a_refusal_names_the_limit_that_counted(flags, files_max, reason, limit, start_weirgate, redis_server):
    weirgate = start_weirgate("channels", *flags, redis=redis_server, files_max=files_max).wait_ready()
    kept, refused = [], []
    while not refused:
        link = connect(weirgate.port, "127.0.0.2")
        link.sendall(upgrade_request(weirgate.port, CHANNELS.path))
        answer = head(link)
        kept.append(link)
        if b" 101 " not in answer[:13]:
            refused.append(answer)
    assert b" 503 " in refused[0][:13] and b"Retry-After: 1" in refused[0]
    detail = {"connection_limit": "Too many connections", "open_files": "Too many connections for the limit on open files",
              "connection_memory": "Too many connections from this address for the memory of all connections"}[reason]
    assert json.loads(refused[0].partition(b"\r\n\r\n")[2]) == {"detail": detail}
    weirgate.logs(f'reason="{reason}"', limit)
    # A probe is answered nevertheless, and its connection ends. Of the memory, other addresses still have their part.
    address = "127.0.0.2" if reason == "connection_memory" else "127.0.0.3"
    for path, status in (("/health", b" 200 "), ("/ready", b" 200 "), ("/stats", b" 503 ")):
        with connect(weirgate.port, address) as probe:
            probe.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            answer = b"".join(iter(lambda: probe.recv(65536), b""))
        assert status in answer[:13] and b"connection: close" in answer.lower(), (path, answer)
    for link in kept:
        link.close()
    until_served(weirgate)
    assert scrape(weirgate).sum("weirgate_client_closes_total", reason=reason) > 0


def until_served(weirgate):
    for _ in range(100):
        # A probe is answered whatever the limit.
        if weirgate.get("/metrics")[0] == 200:
            return
        time.sleep(0.05)
    raise AssertionError("not served")
