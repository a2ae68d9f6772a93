"""Waiting for something to become true, with a deadline, from a coroutine."""
import asyncio
import os
import time

# A busy machine takes so many times as long as a test allows.
PATIENCE = 3
# Less than the limit of pytest.ini on a case, so that a wait that fails names what it waited for.
LONGEST_WAIT_S = 200


def patient(seconds):
    """The seconds after which a test that allows `seconds` gives up: more while other programs want the cores, too."""
    busy = max(1, os.getloadavg()[0] / os.cpu_count())
    return max(seconds, min(PATIENCE * seconds * busy, LONGEST_WAIT_S))


async def until(condition, seconds, what, every=0.05):
    """Calls `condition` (a plain function, run in a thread) until true; returns the seconds waited."""
    begin = time.monotonic()
    while True:
        got = await asyncio.to_thread(condition)
        took = time.monotonic() - begin
        if got:
            return took
        assert took < patient(seconds), f"not within {took:.0f} s: {what}"
        await asyncio.sleep(every)
