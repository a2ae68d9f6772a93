"""What systemd hears of the process, over a socket that we hold in its place."""
import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import time

import pytest
from clients import connect
from waiting import until

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


class FakeSystemd:
    """The receiving end of NOTIFY_SOCKET: every datagram with the time it came."""

    def __init__(self, folder):
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.heard = []

    def take(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                text = self.socket.recv(4096).decode()
                self.heard += [(time.monotonic(), line) for line in text.split("\n") if line]
        return [line for _, line in self.heard]

    def count(self, line):
        return self.take().count(line)

    def env(self, watchdog_s=None):
        env = {"NOTIFY_SOCKET": self.path}
        if watchdog_s is not None:
            env["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        return env


@pytest.fixture
def systemd(tmp_path):
    fake = FakeSystemd(tmp_path)
    yield fake
    fake.socket.close()


@contextlib.contextmanager
def first_thread_stopped(pid):
    """Stops the event loop's thread and no other one, as a debugger does."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ptrace(request):
        assert libc.ptrace(request, pid, None, None) == 0, os.strerror(ctypes.get_errno())

    ptrace(PTRACE_SEIZE)
    ptrace(PTRACE_INTERRUPT)
    os.waitpid(pid, WALL)
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH)


async def test_ready_comes_with_the_listener_and_not_with_the_bus(start_nats, start_weirgate, systemd):
    nats = start_nats()
    nats.kill()
    weirgate = start_weirgate(nats=nats, env=systemd.env())
    await until(lambda: systemd.count("READY=1") == 1, 10, "READY=1 without a broker")
    assert weirgate.get("/health")[0] == 200, "it listens by then"
    assert weirgate.ready_status() == 503


async def test_a_stop_is_told_with_the_time_it_may_take(nats, start_weirgate, systemd):
    flags = ["--drain-delay-ms", "1000", "--drain-ms", "500", "--stop-timeout-ms", "4000"]
    weirgate = start_weirgate("levels", *flags, nats=nats, env=systemd.env()).wait_ready()
    assert "STOPPING=1" not in systemd.take()
    weirgate.send(signal.SIGTERM)
    await until(lambda: systemd.count("STOPPING=1") == 1, 0.9, "STOPPING=1 before the drain is over")
    assert "EXTEND_TIMEOUT_USEC=9500000" in systemd.take()
    assert await asyncio.to_thread(weirgate.wait, 8) == 0
    assert systemd.take().count("STOPPING=1") == 1
    assert "WATCHDOG=1" not in systemd.take(), "nobody asked for it"


async def test_the_watchdog_is_fed_until_the_loop_hangs(nats, start_weirgate, systemd):
    watchdog_s = 4
    weirgate = start_weirgate(nats=nats, env=systemd.env(watchdog_s)).wait_ready()
    client = await connect(weirgate.port)
    await until(lambda: systemd.count("WATCHDOG=1") >= 4, 3 * watchdog_s, "four heartbeats")
    times = [at for at, line in systemd.heard if line == "WATCHDOG=1"]
    assert max(b - a for a, b in zip(times, times[1:])) < watchdog_s, "systemd would have ended it"

    with first_thread_stopped(weirgate.pid):
        await asyncio.sleep(watchdog_s / 2 + 0.5)
        fed = systemd.count("WATCHDOG=1")
        await asyncio.sleep(watchdog_s)
        assert systemd.count("WATCHDOG=1") == fed, "a loop that hangs was covered up"
        assert weirgate.get("/ready", timeout=5)[0] != 200, "nobody is told that it is ready"
    await until(lambda: systemd.count("WATCHDOG=1") > fed, watchdog_s, "heartbeats of a loop that turns again")
    assert client.open


async def test_without_systemd_nothing_is_said(nats, start_weirgate):
    weirgate = start_weirgate(nats=nats, env={"NOTIFY_SOCKET": ""}).wait_ready()
    assert "systemd" not in weirgate.log()
