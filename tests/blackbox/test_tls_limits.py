"""Limits of TLS: handshakes under way, clients that begin one and say nothing, and clients that read nothing."""
import asyncio
import signal
import socket
import ssl
import threading

import pytest
import websockets
from clients import upgrade_request
from prometheus import scrape
from tls import MemoryClient, get
from waiting import until


def silent(weirgate, count, source="127.0.0.1"):
    """Connections that say nothing."""
    return [socket.create_connection(("127.0.0.1", weirgate.tls_port), 20, source_address=(source, 0)) for _ in range(count)]


def hello():
    """The first message of a client of TLS."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def begun(weirgate, count, source="127.0.0.1"):
    """Connections that begin a handshake and say no more."""
    clients, first = silent(weirgate, count, source), hello()
    for client in clients:
        client.sendall(first)
    return clients


def open_handshakes(weirgate):
    """(under way, waiting)"""
    metrics = scrape(weirgate)
    return tuple(int(metrics.sum("weirgate_tls_handshakes_open", state=state)) for state in ("under_way", "waiting"))


async def page(weirgate, authority):
    return (await asyncio.to_thread(get, weirgate.tls_port, "/health", authority.context()))[0]


async def test_handshakes_under_way_are_bounded_and_others_wait(start_tls, authority):
    weirgate = start_tls("demo", "--tls-handshakes-max", "2", "--handshake-timeout-ms", "60000").wait_ready()
    strangers = begun(weirgate, 20, "127.0.0.2") + begun(weirgate, 20, "127.0.0.3")
    seen = []

    def both():
        seen.append(open_handshakes(weirgate))
        return seen[-1][0] == 2 and seen[-1][1] > 0
    await until(both, 20, "two under way, others that wait")
    assert await page(weirgate, authority) == 200
    for stranger in strangers:
        stranger.close()
    await until(lambda: open_handshakes(weirgate) == (0, 0), 20, "none left")
    assert max(under_way for under_way, _ in seen) == 2


async def test_clients_that_are_silent_or_slow_with_their_first_message_take_no_place(start_tls, authority):
    weirgate = start_tls("demo", "--tls-handshakes-max", "1", "--handshake-timeout-ms", "60000").wait_ready()
    strangers = silent(weirgate, 20, "127.0.0.2") + silent(weirgate, 20, "127.0.0.3")
    slow, first = silent(weirgate, 20, "127.0.0.4"), hello()
    for at in range(len(first) - 1):
        for client in slow:
            client.sendall(first[at:at + 1])
    assert await page(weirgate, authority) == 200
    # The numbers are those of the last turn.
    await until(lambda: open_handshakes(weirgate) == (0, 0), 20, "nobody has a place")
    assert closes(weirgate, "tls_error") == 0
    slow[0].sendall(first[-1:])
    assert await asyncio.to_thread(slow[0].recv, 1) == b"\x16", "the last byte begins the handshake"
    for client in slow:
        client.close()
    await until(lambda: closes(weirgate, "tls_error") == 20, 20, "begun handshakes have failed")
    for stranger in strangers:
        stranger.close()
    await until(lambda: closes(weirgate, "peer_gone") == 40, 20, "their end is seen")
    assert closes(weirgate, "tls_error") == 20


async def test_an_address_that_begins_handshakes_delays_no_other(start_tls, authority):
    weirgate = start_tls("demo", "--tls-handshakes-max", "6", "--handshake-timeout-ms", "60000").wait_ready()
    strangers = begun(weirgate, 50, "127.0.0.2")
    await until(lambda: open_handshakes(weirgate) == (3, 47), 20, "three of the address under way")
    for _ in range(5):
        assert get(weirgate.tls_port, "/health", authority.context())[0] == 200
    assert open_handshakes(weirgate) == (3, 47)
    for stranger in strangers:
        stranger.close()
    await until(lambda: open_handshakes(weirgate) == (0, 0), 20, "none left")


async def test_handshakes_that_stand_still_give_way_and_one_that_moves_does_not(start_tls, authority):
    """Each of its own address: no address keeps a place by having no other."""
    weirgate = start_tls("demo", "--tls-handshakes-max", "8", "--handshake-timeout-ms", "60000").wait_ready()
    [slow], context = silent(weirgate, 1, "127.0.0.2"), authority.context()
    # A first message of 6 KB: it takes a place with 4 KiB.
    context.set_alpn_protocols(["http/1.1", *(f"{n:0200}" for n in range(30))])
    slow = MemoryClient.on(slow, context)
    with pytest.raises(ssl.SSLWantReadError):
        slow.tls.do_handshake()
    first, stop = slow.outgoing.read(), threading.Event()
    slow.socket.sendall(first[:4096])

    def move():
        """A byte at a time, to the last."""
        for at in range(4096, len(first) - 1):
            slow.socket.sendall(first[at:at + 1])
            stop.wait(0.03)
        stop.wait(60)
        slow.socket.sendall(first[-1:])
    mover = threading.Thread(target=move)
    mover.start()
    await until(lambda: open_handshakes(weirgate) == (1, 0), 20, "the slow one is under way")
    strangers = [begun(weirgate, 1, f"127.0.1.{n}")[0] for n in range(1, 31)]
    for _ in range(3):
        assert await page(weirgate, authority) == 200
    await until(lambda: closes(weirgate, "tls_error") >= 22, 20, "the strangers made way for one another")
    assert open_handshakes(weirgate)[0] <= 8
    stop.set()
    await asyncio.to_thread(mover.join)
    (await asyncio.to_thread(slow.greet)).close()
    for stranger in strangers:
        stranger.close()
    await until(lambda: open_handshakes(weirgate) == (0, 0), 20, "none left")


async def test_a_client_over_a_limit_is_closed_before_its_handshake(start_tls, authority):
    weirgate = start_tls("demo", "--connections-per-ip-max", "2").wait_ready()
    clients = begun(weirgate, 2, "127.0.0.2")
    await until(lambda: open_handshakes(weirgate) == (2, 0), 20, "both under way")
    [third] = silent(weirgate, 1, "127.0.0.2")
    assert await asyncio.to_thread(third.recv, 100) in (b"", None), "no alert, no page"
    await until(lambda: scrape(weirgate).sum("weirgate_client_closes_total", reason="connections_per_ip") == 1, 20, "counted")
    assert open_handshakes(weirgate) == (2, 0)
    for client in clients:
        client.close()


async def test_handshakes_end_with_the_process(start_tls):
    weirgate = start_tls("demo", "--handshake-timeout-ms", "60000").wait_ready()
    strangers = begun(weirgate, 20)
    await until(lambda: open_handshakes(weirgate)[0] == 20, 20, "all under way")
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 20) == 0
    for stranger in strangers:
        stranger.close()


@pytest.mark.parametrize("reads", [True, False])
async def test_what_tls_holds_for_clients_is_bounded_and_drops_none(start_tls, authority, redis_server, tmp_path, reads):
    """Whether they read over slow lines, or not at all: the rest of a message waits in their send queues."""
    (tmp_path / "roles.json").write_text('{"user": ["*"]}')
    weirgate = start_tls("channels", "--acl", str(tmp_path / "roles.json"), "--tls-held-bytes-max", "400000",
                         "--tcp-notsent-lowat-bytes", "16384", redis=redis_server).wait_ready()

    def subscriber():
        client = MemoryClient(weirgate.tls_port, authority.context())
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.greet()
        client.write(upgrade_request(weirgate.tls_port, "/ws", ()))
        client.read_until(b'"connected"')
        text = b'{"action":"subscribe","channels":["news"]}'
        client.write(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
        client.read_until(b'"subscribed"')
        return client
    clients = [await asyncio.to_thread(subscriber) for _ in range(40)]
    reader = await websockets.connect(f"wss://127.0.0.1:{weirgate.tls_port}/ws", ssl=authority.context(), max_size=None)
    await reader.send('{"action":"subscribe","channels":["news"]}')
    while b"subscribed" not in (await reader.recv()).encode():
        pass
    bytes_of = dict.fromkeys(clients, 0)
    if reads:
        for client in clients:
            client.socket.setblocking(False)
            asyncio.get_running_loop().add_reader(client.socket, read_some, client, bytes_of)
    largest, messages = 0, 12
    with redis_server.client() as redis:
        for _ in range(messages):
            redis.publish("news", '"' + "x" * 60_000 + '"')
            assert len(await asyncio.wait_for(reader.recv(), 20)) > 60_000, "a client that reads gets all"
            largest = max(largest, held(weirgate))
            if reads:
                await asyncio.sleep(0.1)
    if reads:
        await until(lambda: min(bytes_of.values()) > messages * 60_000, 60, "all messages")
    # A quarter, and what the last client has of a message.
    assert 50_000 < largest < 200_000, largest
    assert closes(weirgate, "tls_memory") == 0
    for client in clients:
        asyncio.get_running_loop().remove_reader(client.socket)
        client.close()
    await reader.close()
    await until(lambda: scrape(weirgate).sum("weirgate_tls_held_bytes") == 0, 20, "nothing is left")


async def test_pages_over_tls_that_nobody_reads_yet_end_no_connection(start_tls, authority):
    weirgate = start_tls("demo", "--tls-held-bytes-max", "200000").wait_ready()
    clients = [MemoryClient(weirgate.tls_port, authority.context()) for _ in range(40)]
    for client in clients:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        await asyncio.to_thread(client.greet)
        client.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 12)
    await until(lambda: held(weirgate) > 50_000, 20, "records that the kernel does not take")
    bytes_of = dict.fromkeys(clients, 0)
    for client in clients:
        client.socket.setblocking(False)
        asyncio.get_running_loop().add_reader(client.socket, read_some, client, bytes_of)
    page_bytes = len(get(weirgate.tls_port, "/metrics", authority.context())[1])
    await until(lambda: min(bytes_of.values()) > 11 * page_bytes, 30, "all pages")
    assert closes(weirgate, "tls_memory") == 0
    for client in clients:
        asyncio.get_running_loop().remove_reader(client.socket)
        client.close()


def read_some(client, bytes_of):
    """Counts the sealed bytes that have come."""
    bytes_of[client] += len(client.socket.recv(1 << 20))


def closes(weirgate, reason):
    return scrape(weirgate).sum("weirgate_client_closes_total", reason=reason)


def held(weirgate):
    return scrape(weirgate).sum("weirgate_tls_held_bytes")


async def test_unfinished_records_of_plain_http_are_bounded_and_have_the_time_of_a_head(start_tls, authority):
    weirgate = start_tls("demo", "--tls-held-bytes-max", "200000").wait_ready()

    def asked_and_begun():
        client = MemoryClient(weirgate.tls_port, authority.context()).greet()
        client.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.read_until(b"}")
        client.tls.write(b"x" * 16_000)
        client.socket.sendall(client.outgoing.read()[:-1])
        return client
    clients = [await asyncio.to_thread(asked_and_begun) for _ in range(30)]

    def has_ended(client):
        client.socket.setblocking(False)
        try:
            return client.socket.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
    await until(lambda: sum(map(has_ended, clients)) >= 18, 5, "those over the limit are gone")
    await until(lambda: 150_000 < held(weirgate) <= 200_000, 5, "the others count")
    assert closes(weirgate, "tls_memory") >= 18, "for a reason that operators see"
    for _ in range(5):
        # A head in a record of 12,000 bytes, a part at a time: over the limit with the first parts.
        moving = MemoryClient(weirgate.tls_port, authority.context()).greet()
        moving.tls.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 12_000 + b"\r\n\r\n")
        record = moving.outgoing.read()
        for at in range(0, len(record), 4_000):
            moving.socket.sendall(record[at:at + 4_000])
            await asyncio.sleep(0.02)
        moving.read_until(b"}")
        moving.close()
        clients.append(await asyncio.to_thread(asked_and_begun))
    await until(lambda: all(map(has_ended, clients)), 20, "the others have the time of a head, not that of an idle connection")
    await until(lambda: held(weirgate) == 0, 5, "nothing is left")
    for client in clients:
        client.close()


async def test_bytes_of_handshakes_under_way_are_bounded_with_the_others(start_tls, authority):
    weirgate = start_tls("demo", "--tls-held-bytes-max", "70000").wait_ready()
    clients = silent(weirgate, 10)
    for client in clients:
        # The header of a record of 12,000 bytes, and of a first message of them.
        client.sendall(bytes.fromhex("1603012ee0 01002edc".replace(" ", "")) + b"\3\3" + bytes(9_000))
    await until(lambda: scrape(weirgate).sum("weirgate_client_closes_total", reason="tls_memory") >= 3, 20, "some were dropped")
    await until(lambda: 50_000 < held(weirgate) <= 70_000, 20, "the others count")
    assert get(weirgate.tls_port, "/health", authority.context())[0] == 200
    for client in clients:
        client.close()
    await until(lambda: held(weirgate) == 0, 20, "nothing is left")


async def test_a_violation_of_tls_is_counted_on_the_thread_of_http_too(start_tls, authority):
    weirgate = start_tls("demo").wait_ready()
    client = MemoryClient(weirgate.tls_port, authority.context()).greet()
    client.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    client.read_until(b"}")
    client.socket.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    await until(lambda: closes(weirgate, "tls_error") == 1, 20, "counted")
    client.close()
