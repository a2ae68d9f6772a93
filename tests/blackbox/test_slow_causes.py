"""Why a client is slow: real clients of known causes, and healthy ones beside them."""
import asyncio
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from bus import publisher
from clients import Client, connect, small_socket
from link import Link
from processes import weirgate_binary
from prometheus import Metrics
from test_operator_state import get, started, state
from test_slow_clients import steady_feed
from waiting import until

pytestmark = pytest.mark.plain("the kernel's numbers are those of the socket, whatever is sealed above it")

RIG = pathlib.Path(__file__).parent.parent / "rig"
READER = f"""
import socket, sys
sys.path.insert(0, {str(RIG)!r})
from clients import upgrade_request, small_socket
line = small_socket(16384)
line.setblocking(True)
line.bind((sys.argv[2], 0))
line.connect(("127.0.0.1", int(sys.argv[1])))
line.sendall(upgrade_request(int(sys.argv[1])))
while line.recv(65536):
    pass
"""
NEVER, STOPPED, SLOW, BEHIND, HEALTHY = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"


async def connected(port, source, receive_bytes=16_384):
    """A client of a source address of its own, with a small receive buffer."""
    s = small_socket(receive_bytes)
    s.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(s, ("127.0.0.1", port))
    _, client = await asyncio.get_running_loop().create_connection(lambda: Client(port), sock=s)
    await asyncio.wait_for(client.upgraded, 60)
    return client


async def reads_slowly(client, bytes_per_s, stop):
    """Lets a client read some bytes each tenth of a second."""
    client.stop_reading()
    sock = client.transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(sock.fileno())) as line:
        while not stop.is_set():
            await asyncio.sleep(0.1)
            try:
                line.recv(bytes_per_s // 10)
            except BlockingIOError:
                pass


def calls(admin):
    return Metrics(get(admin, "/metrics")[2]).sum("weirgate_tcp_info_calls_total")


def causes(admin):
    """The causes that the page names, by the client's address."""
    survey = state(admin)["survey"]
    return {row["client"]: row["why"] for row in survey["slowest"] if row["why"]} if survey else {}


async def test_each_client_is_slow_for_its_cause_and_healthy_ones_cost_no_call(nats, start_weirgate):
    weirgate, admin = await started(start_weirgate, "levels", "--trusted-proxies", BEHIND, nats=nats)
    port, stop = weirgate.port, asyncio.Event()
    async with publisher(nats) as bus, Link(port, delay_s=0.15).running() as far:
        feed = asyncio.create_task(steady_feed(bus, 0.05, 4_096, stop))
        healthy = [await connected(port, HEALTHY, size) for size in (8_192, 16_384, 65_536) for _ in range(4)]
        healthy += [await connected(far.port, HEALTHY) for _ in range(2)]
        await asyncio.sleep(3)
        assert (calls(admin), causes(admin)) == (0, {}), "nobody waits"
        assert sum(state(admin)["slow"].values()) == 0

        stopped = subprocess.Popen([sys.executable, "-c", READER, str(port), STOPPED])
        never, slow, behind = [await connected(port, source, 4_096) for source in (NEVER, SLOW, BEHIND)]
        count = len(healthy) + 4
        await until(lambda: weirgate.health()["connections"] == count, 10, "all connected")
        stopped.send_signal(signal.SIGSTOP)
        for client in (never, behind):
            client.stop_reading()
        reader = asyncio.create_task(reads_slowly(slow, 10_000, stop))
        want = {NEVER: "client", STOPPED: "client", SLOW: "client", BEHIND: "proxy"}
        begin = time.monotonic()
        await until(lambda: causes(admin) == want, 20, "the cause of each", every=0.2)
        took = time.monotonic() - begin
        now = state(admin)
        rows = {row["client"]: row for row in now["survey"]["slowest"]}
        assert now["slow"]["client"] == 3 and now["slow"]["proxy"] == 1, now["slow"]
        assert rows[NEVER]["say"].startswith("takes nothing for") and rows[NEVER]["slow_ms"] > 0, rows[NEVER]
        assert rows[NEVER]["kernel"]["window"] < 1_448 and rows[SLOW]["say"].startswith(("reads", "takes")), rows[SLOW]
        await asyncio.sleep(2)
        assert causes(admin) == want
        assert calls(admin) <= 4 * (took + 8), "one call a second for each"
        stop.set()
        await asyncio.gather(feed, reader)
        assert all(client.open for client in healthy)
    stopped.kill()
    stopped.wait(10)
    for client in (*healthy, never, slow, behind):
        client.abort()
    await until(lambda: sum(state(admin)["slow"].values()) == 0, 10, "nobody is slow")


async def test_a_slowed_tab_of_the_demo_is_paced(start_weirgate):
    weirgate, admin = await started(start_weirgate, "demo")
    tab = await connect(weirgate.port, path="/page/slow/ws/stream?name=tab&bytes_per_second=2000")
    await until(lambda: causes(admin) == {"127.0.0.1": "paced"}, 20, "the slow tab has its cause")
    tab.abort()


def test_a_thin_line_is_the_network(capsys):
    """Where user namespaces and their interfaces are allowed; elsewhere the recorded samples have to do."""
    argv = ["unshare", "-Urn", sys.executable, RIG / "thin_line.py", weirgate_binary()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    if done.returncode != 0 and "Error" in done.stderr and not done.stdout:
        with capsys.disabled():
            print(f"no thin line here: {done.stderr.splitlines()[-1]}")
        return
    [row] = json.loads(done.stdout)
    assert row["why"] == "network" and row["say"].startswith("its path "), row
    assert row["kernel"]["in_flight"] > 0, row


async def test_a_stopped_process_of_our_own_is_not_the_fault_of_clients(nats, start_weirgate):
    """The whole gateway stands still for 400 ms each second: whatever waits meanwhile is not `client`."""
    weirgate, admin = await started(start_weirgate, "levels", nats=nats)
    stop = asyncio.Event()
    reading = [await connected(weirgate.port, HEALTHY, 4_096) for _ in range(5)]
    async with publisher(nats) as bus:
        feed = asyncio.create_task(steady_feed(bus, 0.05, 8_192, stop))
        for _ in range(4):
            weirgate.send(signal.SIGSTOP)
            await asyncio.sleep(0.4)
            weirgate.send(signal.SIGCONT)
            await asyncio.sleep(0.6)
            assert set(causes(admin).values()) <= {"gateway", "unclear"}, causes(admin)
        now = Metrics(get(admin, "/metrics")[2])
        assert now.sum("weirgate_late_seconds_total") > 0.3
        stop.set()
        await feed
    for client in reading:
        client.abort()
