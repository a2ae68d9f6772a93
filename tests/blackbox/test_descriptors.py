"""No descriptors left: it stays calm, serves whom it has, and lets newcomers in once there is room."""
import asyncio
import socket
import time

from bus import publisher
from clients import connect
from waiting import until

FILES_MAX = 80
CALM_S = 3


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
            except (OSError, TimeoutError):
                assert time.monotonic() - begin < 5, "does not accept again"
        await late.wait_for(lambda c: c.messages == 1, 3, "the cached state")
        await bus.flow({"after": True})
        for c in (client, late):
            await c.wait_for(lambda c: c.state()["flow"] == {"after": True}, 3, "the feed")
    await until(lambda: weirgate.health()["connections"] == 2, 15, "the crowd forgotten")
