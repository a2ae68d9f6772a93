"""A deploy: everyone is told, newcomers are sent elsewhere, and the process is gone in time."""
import asyncio
import contextlib
import signal
import time

import pytest
import websockets
from bus import publisher
from clients import connect, connect_many, upgrade_request
from waiting import patient, until


async def answer_to_newcomer(port):
    """Status line and headers (lower-case names) of a handshake; None when the connection is refused."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    try:
        writer.write(upgrade_request(port))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    finally:
        writer.close()
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}


async def one_good_and_one_stuck(weirgate, bus):
    """A client that has message 99, and one with a full socket that never reads."""
    good, stuck = await connect(weirgate.port), await connect(weirgate.port, receive_bytes=4096)
    stuck.stop_reading()
    for n in range(100):
        await bus.flow({"n": n, "pad": "x" * 10_000})
    await good.wait_for(lambda c: c.newest and c.state()["flow"]["n"] == 99, 10, "the newest state")
    return good, stuck


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_everyone_is_told_1012_and_the_status_is_0(nats, start_weirgate, sig):
    weirgate = start_weirgate(nats=nats).wait_ready()
    clients = await connect_many(50, weirgate.port)
    async with publisher(nats) as bus:
        await bus.flow({"last": True})
        for client in clients:
            await client.wait_for(lambda c: c.messages == 1, 5, "a message")
    begin = time.monotonic()
    weirgate.send(sig)
    for client in clients:
        await asyncio.wait_for(client.ended, 60)
        assert client.close_code == 1012
    assert await asyncio.to_thread(weirgate.wait, 5) == 0
    assert time.monotonic() - begin < patient(5), "the stop took too long"


@pytest.mark.parametrize("name, code, text", [
    ("levels", 1001, ""), ("channels", 1001, ""), ("events", 1001, ""), ("levels", 1012, "retry_after_ms=2500")])
async def test_the_code_of_a_stop_is_that_of_the_settings(nats, redis_server, start_weirgate, name, code, text):
    flags = ["--stop-code", str(code), *(["--close-retry-after-ms", "2500"] if text else [])]
    weirgate = start_weirgate(name, *flags, nats=nats, redis=redis_server).wait_ready()
    path = "/ws/stream" if name == "levels" else "/ws"
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}{path}") as client:
        weirgate.send(signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                await asyncio.wait_for(client.recv(), 10)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, text)
    assert await asyncio.to_thread(weirgate.wait, 10) == 0
    weirgate.logs(f'reason="shutting_down" code={code}')


async def test_a_client_that_never_reads_does_not_delay_the_stop(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats).wait_ready()
    async with publisher(nats) as bus:
        good, stuck = await one_good_and_one_stuck(weirgate, bus)
    begin = time.monotonic()
    weirgate.send(signal.SIGTERM)
    await asyncio.wait_for(good.ended, 60)
    assert good.close_code == 1012
    assert await asyncio.to_thread(weirgate.wait, 10) == 0
    took = time.monotonic() - begin
    assert took < 5, f"the stop took {took:.3f} s"
    stuck.abort()


async def test_a_drain_spreads_the_closes_and_refuses_newcomers(nats, start_weirgate):
    drain_s, count = 4, 40
    weirgate = start_weirgate("levels", "--drain-ms", str(drain_s * 1000), nats=nats).wait_ready()
    clients = await connect_many(count, weirgate.port)
    begin = time.monotonic()
    weirgate.send(signal.SIGTERM)
    await until(lambda: weirgate.ready_status() in (503, 0), 1, "/ready 503 while draining", every=0.02)
    status, headers = await answer_to_newcomer(weirgate.port)
    assert status == 503
    assert int(headers["retry-after"]) >= 1
    ended_at = []
    for client in clients:
        client.ended.add_done_callback(lambda _: ended_at.append(time.monotonic() - begin))
    await asyncio.gather(*(asyncio.wait_for(c.ended, drain_s + 5) for c in clients))
    assert {c.close_code for c in clients} == {1012}
    early = sum(at < drain_s / 2 for at in ended_at)
    assert count / 5 < early < count * 4 / 5, f"{early} of {count} were closed in the first half of the drain"
    assert await asyncio.to_thread(weirgate.wait, drain_s + 5) == 0


@pytest.mark.parametrize("phase", ["--drain-delay-ms", "--drain-ms"])
async def test_a_second_signal_ends_at_once(nats, start_weirgate, phase):
    weirgate = start_weirgate("levels", phase, "60000", nats=nats).wait_ready()
    clients = await connect_many(5, weirgate.port)
    weirgate.send(signal.SIGTERM)
    await until(lambda: weirgate.ready_status() in (503, 0), 2, "/ready 503 while draining", every=0.02)
    assert weirgate.alive()
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 2) == 0
    for client in clients:
        await asyncio.wait_for(client.ended, 60)


async def test_the_delay_is_kept_without_clients_too(nats, start_weirgate):
    """A balancer that has not noticed yet still sends somebody."""
    weirgate = start_weirgate("levels", "--drain-delay-ms", "1500", nats=nats).wait_ready()
    begin = time.monotonic()
    weirgate.send(signal.SIGTERM)
    await until(lambda: weirgate.ready_status() == 503, 1, "/ready 503 during the delay", every=0.02)
    late = await connect(weirgate.port)
    await asyncio.wait_for(late.ended, 60)
    assert late.close_code == 1012
    assert time.monotonic() - begin > 1.4
    assert await asyncio.to_thread(weirgate.wait, 5) == 0


async def test_delay_and_drain_come_on_top_of_the_five_seconds_and_no_more(nats, start_weirgate):
    weirgate = start_weirgate("levels", "--drain-delay-ms", "700", "--drain-ms", "700", nats=nats).wait_ready()
    async with publisher(nats) as bus:
        good, stuck = await one_good_and_one_stuck(weirgate, bus)
        begin = time.monotonic()
        weirgate.send(signal.SIGTERM)
        await bus.flow({"n": 100})
        await good.wait_for(lambda c: c.state()["flow"]["n"] == 100, 0.6, "news during the delay")
    assert await asyncio.to_thread(weirgate.wait, 10) == 0
    took = time.monotonic() - begin
    assert 1.4 < took < 5 + 1.4, f"the stop took {took:.3f} s"
    assert good.close_code == 1012
    stuck.abort()


async def test_the_drain_delay_tells_the_balancer_first(nats, start_weirgate):
    delay_s = 2
    weirgate = start_weirgate("levels", "--drain-delay-ms", str(delay_s * 1000), nats=nats).wait_ready()
    client = await connect(weirgate.port)
    begin = time.monotonic()
    weirgate.send(signal.SIGTERM)
    await until(lambda: weirgate.ready_status() == 503, 1, "/ready 503 during the delay", every=0.02)
    assert (await answer_to_newcomer(weirgate.port))[0] == 101, "newcomers are still let in during the delay"
    await asyncio.wait_for(client.ended, delay_s + 5)
    assert client.close_code == 1012
    assert time.monotonic() - begin > delay_s - 0.3
    assert await asyncio.to_thread(weirgate.wait, 5) == 0


async def test_clients_that_come_back_at_once_do_not_hold_up_the_stop(nats, start_weirgate):
    """Each connects again as soon as it is closed or refused, until nobody listens any more."""
    weirgate = start_weirgate("levels", "--drain-ms", "1000", nats=nats).wait_ready()

    async def come_back():
        client = await connect(weirgate.port)
        while True:
            with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError):
                await asyncio.wait_for(client.ended, 10)
            try:
                if await answer_to_newcomer(weirgate.port) is None:
                    return
            except (OSError, asyncio.IncompleteReadError):
                continue

    returning = [asyncio.create_task(come_back()) for _ in range(20)]
    await until(lambda: weirgate.health()["connections"] == 20, 5, "20 clients")
    begin = time.monotonic()
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 10) == 0
    took = time.monotonic() - begin
    assert took < 1 + patient(0.6), f"the stop took {took:.3f} s"
    await asyncio.wait_for(asyncio.gather(*returning), 60)
