"""Several processes on one port (--reuse-port)."""
import asyncio
import signal

import pytest
from clients import connect, connect_many
from processes import Process, free_port, weirgate_binary
from prometheus import scrape
from waiting import until

GATEWAY_PORT = "GATEWAY_PORT"


@pytest.fixture
def start_beside(start_weirgate):
    """start_beside(other, *flags) → a demo on the port of the other one; `admin` is where its own pages are"""
    def start(other=None, *flags):
        admin = free_port()
        env = {} if other is None else {GATEWAY_PORT: str(other.port)}
        weirgate = start_weirgate("demo", "--admin-addr", f"127.0.0.1:{admin}", *flags, env=env)
        weirgate.port = weirgate.port if other is None else other.port
        # Its pages are asked where no other process answers.
        weirgate.http_url = f"http://127.0.0.1:{admin}"
        return weirgate
    return start


def clients(weirgate):
    return scrape(weirgate).sum("weirgate_clients")


async def test_two_processes_share_a_port_and_its_clients(start_beside):
    one = start_beside(None, "--reuse-port").wait_ready()
    two = start_beside(one, "--reuse-port").wait_ready()
    open_clients = await connect_many(200, one.port)
    await until(lambda: clients(one) + clients(two) == 200, 5, "all of them")
    # By a hash of addresses and ports: fewer than 60 of 200 for one of two comes once in 10^8 runs.
    assert min(clients(one), clients(two)) >= 60
    before = [client.messages for client in open_clients]
    await until(lambda: all(c.messages > n for c, n in zip(open_clients, before)), 5, "messages for all")


async def test_without_the_setting_a_second_start_fails(start_beside, started):
    for first, second in [([], []), (["--reuse-port"], []), ([], ["--reuse-port"])]:
        one = start_beside(None, *first).wait_ready()
        other = Process([weirgate_binary(), "demo", "--port", one.port, *second])
        started.append(other)
        assert other.wait(10) == 1
        assert f"cannot listen on 127.0.0.1:{one.port}: Address already in use" in other.log()
        assert one.alive()


async def test_a_process_that_stops_leaves_new_clients_to_the_others(start_beside):
    one = start_beside(None, "--reuse-port", "--drain-ms", "2000").wait_ready()
    two = start_beside(one, "--reuse-port").wait_ready()
    old = await connect_many(100, one.port)
    moved = int(clients(one))
    assert moved > 0
    refused, newcomers, stopping = 0, [], True

    async def newcomer():
        nonlocal refused
        try:
            newcomers.append(await connect(one.port))
        except (AssertionError, OSError):
            refused += 1

    async def keep_coming():
        while stopping:
            await asyncio.gather(*(newcomer() for _ in range(10)))

    coming = asyncio.create_task(keep_coming())
    await asyncio.sleep(0.3)
    one.send(signal.SIGTERM)
    await until(lambda: not one.alive(), 10, "the end of the stop")
    stopping = False
    await coming
    assert one.wait(1) == 0
    # In the handshake or in the queue at the moment of the stop, and no one after that.
    assert len(newcomers) > 100 and refused <= 10, f"{refused} of {refused + len(newcomers)} refused"
    assert {client.close_code for client in old if not client.open} == {1012}
    assert sum(client.open for client in old) == 100 - moved, "the other one has its clients still"
    await connect_many(20, two.port)


async def test_connections_that_wait_at_the_stop_are_answered(start_beside):
    one = start_beside(None, "--reuse-port").wait_ready()
    # Nobody is open, so that the stop would be over at once.
    links = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(50)]
    one.send(signal.SIGTERM)
    for _, writer in links:
        writer.write(b"GET /ws/stream HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    heads = await asyncio.gather(*(asyncio.wait_for(reader.readline(), 60) for reader, _ in links))
    # 101 is of those whose request came before the signal was seen; a reset would be an empty line, or an error.
    assert {head.split(b" ")[1] for head in heads} <= {b"101", b"503"}, set(heads)
    assert one.wait(5) == 0
    for _, writer in links:
        writer.close()
