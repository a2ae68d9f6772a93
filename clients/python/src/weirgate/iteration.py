"""Iterations over what a client gets. To wait and to take are two things: a wait that is cancelled or times out has taken
nothing, and the next one goes on."""
from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Self

from .core import RequestError


class Inbox:
    """Messages that wait for an iteration. The thread of the client puts; any thread may take, without a lock: a signal
    handler may have interrupted the thread that holds it."""

    def __init__(self, queue_max: int, is_newest: bool, ending: Callable[[], tuple[bool, RequestError | None]]) -> None:
        # Of states only the newest waits: a deque of length 1 drops the older state.
        self.waiting: deque[Any] = deque(maxlen=1 if is_newest else None)
        self._queue_max, self._ending = queue_max, ending
        self._is_late = self._has_ended = False
        self._wakes: deque[Callable[[], None]] = deque()
        # A program drops an iteration with `break`. Weak, because who waits holds the iteration, and `wake` holds who waits.
        self._owner: Callable[[], object | None] | None = None

    def belongs_to(self, iteration: object) -> None:
        self._owner = weakref.ref(iteration)

    @property
    def is_left(self) -> bool:
        """Whether nobody takes any more."""
        return self._has_ended or (self._owner is not None and self._owner() is None)

    def put(self, item: Any) -> None:
        self._is_late = self._is_late or (self.waiting.maxlen is None and len(self.waiting) >= self._queue_max)
        if not self._is_late:
            self.waiting.append(item)
        self.wake()

    def wake(self) -> None:
        """Wakes everybody who waits, to look again."""
        with suppress(IndexError):
            for _ in range(len(self._wakes)):
                self._wakes.popleft()()

    def wake_with(self, wake: Callable[[], None]) -> None:
        """Calls `wake` once, at the next message or end. What has come before this call has to be looked for after it."""
        self._wakes.append(wake)

    def forget(self, wake: Callable[[], None]) -> None:
        with suppress(ValueError):
            self._wakes.remove(wake)

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self._has_ended or self._is_late or self._ending()[0]

    def finish(self) -> None:
        """Ends the iteration, empty and over. Raises RequestError, once, if the end has a reason."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._is_late:
            raise RequestError("late", "more messages wait than queue_max")
        if (error := self._ending()[1]) is not None:
            raise error

    def end(self) -> None:
        self._has_ended = True
        self.waiting.clear()
        self.wake()


class Inboxes(list[Inbox]):
    """The inboxes of all iterations over something. Any thread adds; the thread of the client puts."""

    def add(self, inbox: Inbox) -> None:
        self._forget_left()
        self.append(inbox)

    def put(self, item: Any) -> None:
        self._forget_left()
        for inbox in tuple(self):
            inbox.put(item)

    def wake(self) -> None:
        for inbox in tuple(self):
            inbox.wake()

    def _forget_left(self) -> None:
        for inbox in tuple(self):
            if inbox.is_left:
                # Another thread may have removed it.
                with suppress(ValueError):
                    self.remove(inbox)


class Iteration(AsyncIterator[Any]):
    """Takes from an inbox. Several tasks may take from the same iteration."""

    def __init__(self, inbox: Inbox, check_loop: Callable[[], None]) -> None:
        self._inbox, self._check_loop = inbox, check_loop
        inbox.belongs_to(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        inbox = self._inbox
        while not inbox.waiting:
            if inbox.is_over:
                inbox.finish()
                raise StopAsyncIteration
            self._check_loop()
            woken = asyncio.get_running_loop().create_future()

            def wake() -> None:
                if not woken.done():
                    woken.set_result(None)

            inbox.wake_with(wake)
            try:
                await woken
            finally:
                inbox.forget(wake)
        return inbox.waiting.popleft()

    async def aclose(self) -> None:
        """Ends the iteration."""
        self._inbox.end()
