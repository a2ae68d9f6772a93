"""A machine whose clock says a year before 1970, as some do until they have asked the network."""
import json
import subprocess

import pytest
import websockets

BEFORE_1970 = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec = -1000000;
    return failed;
}
"""


@pytest.fixture
def old_clock(tmp_path):
    """A library for LD_PRELOAD that sets the wall clock alone, made by the linker that Rust needs too."""
    (tmp_path / "clock.c").write_text(BEFORE_1970)
    library = tmp_path / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c"], check=True)
    return {"LD_PRELOAD": str(library)}


async def test_a_clock_before_1970_ends_nothing(start_weirgate, old_clock):
    weirgate = start_weirgate("demo", env=old_clock)
    weirgate.logs("weirgate is listening")
    for _ in range(3):
        status, _, body = weirgate.get("/health")
        assert (status, json.loads(body)) == (503, {"detail": "The clock of this machine is before 1970"})
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/ws/stream") as client:
        assert "levels" in json.loads(await client.recv())
    assert "panicked" not in weirgate.log()
