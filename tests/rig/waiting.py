"""Waiting for something to become true, with a deadline, from a coroutine."""
import asyncio
import time

# A busy machine takes so many times as long as a test allows.
PATIENCE = 3


async def until(condition, seconds, what, every=0.05):
    """Calls `condition` (a plain function, run in a thread) until true; returns the seconds waited."""
    begin = time.monotonic()
    while True:
        got = await asyncio.to_thread(condition)
        took = time.monotonic() - begin
        if got:
            return took
        assert took < PATIENCE * seconds, f"not within {took:.0f} s: {what}"
        await asyncio.sleep(every)
