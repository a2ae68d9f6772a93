"""Threads, processes and signals beside a client on asyncio: for `weirgate.sync`."""
from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, ClassVar

from .core import RequestError
from .iteration import Inbox

# Longest wait of `close()` for the thread: a function of the program may block it.
_CLOSE_S = 3.0
# Longest wait for tasks that were cancelled.
_CANCEL_S = 0.5


class Wait:
    """A wait of a thread, ended by another thread. A lock, because to release a lock waits for nobody: not even for a thread
    that a signal handler has interrupted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def end(self) -> None:
        # It may have ended already.
        with suppress(RuntimeError):
            self._lock.release()

    def wait(self, timeout_s: float | None = None) -> None:
        self._lock.acquire(timeout=-1 if timeout_s is None else min(max(0.0, timeout_s), threading.TIMEOUT_MAX))


class Call(Wait):
    """Work for the client's thread, a function or a coroutine function, for whose result another thread waits."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self._value: Any = None
        # Unless the work is done before the client ends.
        self._error: BaseException | None = RequestError("closed")

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._do())
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        # The waiting thread must not be the last to hold the task: what runs in Python when a task goes would swallow a Ctrl-C.
        self._task = None
        if not task.cancelled():
            self._error = task.exception()
            self._value = None if self._error else task.result()
        self.end()

    def cancel(self) -> None:
        if (task := self._task) is not None:
            task.cancel()

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value

    async def _do(self) -> Any:
        result = self._work()
        return await result if inspect.iscoroutine(result) else result


class SharedIteration(Iterator[Any]):
    """Takes from an inbox. Several threads may take from the same iteration."""

    def __init__(self, worker: Worker, inbox: Inbox, timeout_s: float | None) -> None:
        self._worker, self._inbox, self._timeout_s = worker, inbox, timeout_s
        inbox.belongs_to(self)

    def __next__(self) -> Any:
        self._worker.check_process()
        ends_at = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
            # Looked at before the messages, because the last ones may come just before the end.
            is_over = self._is_over
            try:
                # In C from the inbox to the caller's `for`: a Ctrl-C cannot come between, and lose the message.
                for item in map(deque.popleft, (self._inbox.waiting,)):
                    return item
            except IndexError:
                pass
            if is_over:
                self._inbox.finish()
                raise StopIteration
            if ends_at is not None and time.monotonic() >= ends_at:
                raise TimeoutError(f"nothing has come for {self._timeout_s} s")
            self._wait(ends_at)

    @property
    def _is_over(self) -> bool:
        return self._worker.is_over or self._inbox.is_over

    def _wait(self, ends_at: float | None) -> None:
        wait = Wait()
        self._inbox.wake_with(wait.end)
        try:
            if not self._inbox.waiting and not self._is_over:
                self._worker.block(wait, None if ends_at is None else ends_at - time.monotonic())
        finally:
            self._inbox.forget(wait.end)


class Thread(threading.Thread):
    """A thread with an event loop, for a client. Green threads (gevent, eventlet) are all in the same thread of the system,
    which runs one loop at a time: there the clients share a loop."""

    _green: ClassVar[Thread | None] = None

    @classmethod
    def start_for(cls, worker: Worker) -> Thread:
        thread = cls._green
        if thread is None or not thread.workers or not thread.is_green():
            thread = cls()
            try:
                thread.start()
            except BaseException:
                # A Ctrl-C.
                thread.loop.call_soon_threadsafe(thread.loop.stop)
                raise
            cls._green = thread if thread.is_green() else None
        thread.workers.add(worker)
        return thread

    def __init__(self) -> None:
        super().__init__(name="weirgate", daemon=True)
        self.process = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.workers: set[Worker] = set()

    def is_green(self) -> bool:
        return self.process == os.getpid() and self.native_id == threading.get_native_id()

    def run(self) -> None:
        try:
            self.loop.run_forever()
            self.loop.run_until_complete(_end_tasks())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            for worker in tuple(self.workers):
                worker.end_waits()
            self.loop.close()

    def leave(self, worker: Worker) -> None:
        """In this thread: ends it after the last client."""
        self.workers.discard(worker)
        if not self.workers:
            self.loop.stop()


async def _end_tasks() -> None:
    """Ends what is left, such as a function for tokens."""
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CANCEL_S)


def _at_once(work: Callable[[], Any]) -> Any:
    """Does `work` in the client's thread."""
    result = work()
    if inspect.iscoroutine(result):
        result.close()
        raise _cannot_wait()
    return result


def _cannot_wait() -> RuntimeError:
    return RuntimeError("a callback cannot wait: it runs in the client's own thread")


class Worker:
    """The thread of a client as other threads see it: they give it work, and wait."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._waits: set[Wait] = set()
        self._closing: asyncio.Task[None] | None = None
        self.is_over = False
        self.thread = Thread.start_for(self)

    def check_process(self) -> None:
        """Raises RuntimeError in a process that was forked from that of the thread."""
        if self.is_elsewhere():
            raise RuntimeError("this client was made before a fork, and its thread is in the other process: make a client in this process")

    def is_elsewhere(self) -> bool:
        return os.getpid() != self._process

    def is_here(self) -> bool:
        """Whether a callback of the client calls."""
        return threading.current_thread() is self.thread

    def post(self, work: Callable[[], object]) -> bool:
        """Runs `work` in the thread: soon, or at once if a callback calls, so that it sees no message that comes after. False
        after the end."""
        if self.is_here():
            work()
            return True
        try:
            self.thread.loop.call_soon_threadsafe(work)
        except RuntimeError:
            return False
        return True

    def wait_for(self, work: Callable[[], Any]) -> Any:
        """The result of `work`, a function or a coroutine function, in the thread. An exception of the calling thread, such as
        KeyboardInterrupt, cancels `work`. A callback cannot wait for a coroutine."""
        self.check_process()
        if self.is_here():
            return _at_once(work)
        call = Call(work)
        try:
            self.block(call, then=lambda: self.post(call.start))
        except BaseException:
            self.post(call.cancel)
            raise
        return call.result()

    def block(self, wait: Wait, timeout_s: float | None = None, then: Callable[[], object] = bool) -> None:
        """Waits, at most until the end of the client, after the call of `then`."""
        if self.is_here():
            raise _cannot_wait()
        self._waits.add(wait)
        try:
            then()
            if not self.is_over:
                wait.wait(timeout_s)
        finally:
            self._waits.discard(wait)

    def end_waits(self) -> None:
        self.is_over = True
        for wait in tuple(self._waits):
            wait.end()

    def close(self, end: Callable[[], Awaitable[None] | None]) -> None:
        """Ends the client with `end`, and when what it returns is over, the waits of all threads, then the thread."""
        self.post(lambda: self._close(end))
        if not self.is_here():
            self.block(Wait(), _CLOSE_S)
            self.end_waits()
            if not self.thread.workers:
                self.thread.join(2 * _CANCEL_S)

    def _close(self, end: Callable[[], Awaitable[None] | None]) -> None:
        async def leave(ends: Awaitable[None] | None) -> None:
            try:
                if ends is not None:
                    await ends
            finally:
                self.end_waits()
                self.thread.leave(self)

        if self._closing is None:
            ends = None
            try:
                ends = end()
            finally:
                self._closing = self.thread.loop.create_task(leave(ends))
