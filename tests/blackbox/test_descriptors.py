"""Few descriptors: the bus and services keep theirs, newcomers are refused, and let in once there is room."""
import asyncio
import contextlib
import json
import os
import resource
import socket
import time
from pathlib import Path

import pytest
from bus import publisher
from clients import connect, upgrade_request
from prometheus import scrape
from services import device
from waiting import patient, until

FILES_MAX = 80
CALM_S = 3


@pytest.mark.parametrize("flags, descriptors_min", [
    ([], 32 * 1024),
    (["--connections-max", "3000"], 3_000),
])
def test_the_table_of_descriptors_does_not_grow_under_clients(start_weirgate, flags, descriptors_min):
    weirgate = start_weirgate("demo", *flags).wait_ready()
    status = Path(f"/proc/{weirgate.pid}/status").read_text()
    [size] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("FDSize:")]
    assert size >= min(descriptors_min, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


async def test_running_out_of_descriptors_is_survived(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats, files_max=FILES_MAX).wait_ready()
    client = await connect(weirgate.port)
    crowd = []
    async with publisher(nats) as bus:
        try:
            for _ in range(2 * FILES_MAX):
                s = socket.socket()
                s.setblocking(False)
                crowd.append(s)
                s.connect_ex(("127.0.0.1", weirgate.port))
            await asyncio.sleep(0.5)
            log_before, cpu_before = len(weirgate.log()), weirgate.cpu_seconds()
            for n in range(10 * CALM_S):
                await bus.flow({"n": n})
                await asyncio.sleep(0.1)
            cpu = (weirgate.cpu_seconds() - cpu_before) / CALM_S
            lines = weirgate.log()[log_before:].count("\n")
            assert weirgate.alive()
            assert cpu < 0.25, f"{cpu:.0%} of a core while there is nothing to accept with"
            assert lines <= 3 * CALM_S + 10, f"{lines} log lines in {CALM_S} s"
            assert client.messages == 10 * CALM_S, "the client that was there got everything"
        finally:
            for s in crowd:
                s.close()
        begin = time.monotonic()
        while True:
            try:
                late = await asyncio.wait_for(connect(weirgate.port), 3)
                break
            except (OSError, TimeoutError, AssertionError):  # The last: a 503 while the ends of the crowd are still being read.
                assert time.monotonic() - begin < patient(10), "does not accept again"
        await late.wait_for(lambda c: c.messages == 1, 3, "the cached state")
        await bus.flow({"after": True})
        for c in (client, late):
            await c.wait_for(lambda c: c.state()["flow"] == {"after": True}, 3, "the feed")
    await until(lambda: weirgate.health()["connections"] == 2, 15, "the crowd forgotten")


async def crowd_of(count, port):
    """Connections that ask for a WebSocket and stay, whatever they are told; those that were taken or refused."""
    crowd = []
    for _ in range(count):
        s = socket.socket()
        s.setblocking(False)
        crowd.append(s)
        s.connect_ex(("127.0.0.1", port))
    await asyncio.sleep(0.3)
    for s in crowd:
        with contextlib.suppress(OSError):
            s.send(upgrade_request(port))
    await asyncio.sleep(0.5)
    return crowd


def open_files(weirgate):
    return len(os.listdir(f"/proc/{weirgate.pid}/fd"))


async def test_clients_leave_descriptors_for_the_bus(nats, start_weirgate):
    files_max = 96
    weirgate = start_weirgate(nats=nats, files_max=files_max).wait_ready()
    crowd = await crowd_of(120, weirgate.port)
    try:
        weirgate.logs("connections_max=32")
        assert open_files(weirgate) < files_max - 8
        nats.kill()
        await until(lambda: "NATS is away" in weirgate.log(), 5, "the loss noticed")
        nats.start()
        await until(lambda: weirgate.log().count("subscribed") >= 2, 12, "subscribed again")
        assert open_files(weirgate) < files_max
    finally:
        for s in crowd:
            s.close()


async def test_idle_connections_to_services_leave_descriptors_for_calls_and_clients(service, start_weirgate):
    """Nine calls at a time, to one service after the other; no service closes a connection."""
    services = [service(lambda asked: time.sleep(0.3)) for _ in range(8)]
    names = ["lobby.x", "measurement.create_job", "simulation.x"] + [f"r{n}.x" for n in range(5)]
    env = dict(zip(["LOBBY_URL", "MEASUREMENT_URL", "SIMULATION_URL"], [one.url for one in services]))
    routes = [flag for name, one in list(zip(names, services))[3:] for flag in ("--route", f"{name}={one.url}")]
    weirgate = start_weirgate("events", *routes, env=env, files_max=100).wait_ready()
    async with contextlib.AsyncExitStack() as stack:
        def one(n):
            return stack.enter_async_context(device(weirgate, f"d{n}", local_addr=(f"127.0.1.{n + 1}", 0)))
        devices = [await one(n) for n in range(10)]
        for name in names:
            for client in devices:
                await client.send(json.dumps({"event": name, "data": {}}))
            for client in devices:
                answer = json.loads(await asyncio.wait_for(client.recv(), patient(20)))
                assert (answer["event"], answer["error"]) == (name, None)
        devices.append(await one(10))
        await until(lambda: scrape(weirgate).sum("weirgate_held", of="service_connections") == 0, patient(10), "all are closed")


async def test_clients_leave_descriptors_for_services(service, start_weirgate):
    lobby = service(lambda asked: {"ok": 1})
    weirgate = start_weirgate("events", env={"LOBBY_URL": lobby.url}, files_max=100).wait_ready()
    async with device(weirgate, "good") as client:
        crowd = await crowd_of(150, weirgate.port)
        try:
            for n in range(3):
                await client.send('{"event": "lobby.x", "request_id": "%d"}' % n)
                answer = json.loads(await asyncio.wait_for(client.recv(), 60))
                assert (answer["request_id"], answer["data"]) == (str(n), {"ok": 1})
        finally:
            for s in crowd:
                s.close()
