"""Iterations over what a client on asyncio gets."""
from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from .core import RequestError


class Inbox:
    """Messages that wait for an iteration."""

    def __init__(self, waiting: deque[Any], most: int) -> None:
        self.waiting, self.most = waiting, most
        self.is_late, self.wake = False, asyncio.Event()

    def put(self, detail: Any = None, *_: Any) -> None:
        # Only the newest state waits: a deque of length 1 drops the older state.
        self.is_late = self.is_late or (self.waiting.maxlen is None and len(self.waiting) >= self.most)
        if not self.is_late:
            self.waiting.append(detail)
        self.wake.set()


async def take(inbox: Inbox, offs: list[Callable[[], None]], ending: Callable[[], tuple[bool, RequestError | None]]) -> AsyncIterator[Any]:
    try:
        while True:
            is_over, error = ending()
            if inbox.waiting:
                yield inbox.waiting.popleft()
            elif inbox.is_late:
                raise RequestError("late", "more messages wait than queue_max")
            elif not is_over:
                inbox.wake.clear()
                await inbox.wake.wait()
            elif error is not None:
                raise error
            else:
                return
    finally:
        for off in offs:
            off()
