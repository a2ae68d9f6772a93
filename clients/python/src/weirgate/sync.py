"""The clients for programs without asyncio: the same clients, on an event loop in a separate thread.

    from weirgate.sync import Levels

    with Levels("ws://localhost:8000/ws/stream") as levels:
        for state in levels:
            print(state)

Callbacks run in this thread. Any thread may use a client; `close()` in one of them, or in a signal handler, ends the waits of
all.
"""
from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Generic, Self, TypeVar, Unpack

from . import aio
from .core import Close, Gap, RequestError, Status, check_close
from .iteration import Inbox
from .options import (
    Bus, Candle, ChannelMessage, ChannelsOptions, ConnectionOptions, Data, DevicesOptions, Interval, LevelsOptions, Trade, TradesOptions, Url,
)
from .sessions import Push

__all__ = [
    "Candle", "ChannelMessage", "Channels", "Close", "Connection", "Devices", "Gap", "Levels", "Push", "RequestError", "Status",
    "Subscription", "Trade", "Trades", "connect",
]

Item = TypeVar("Item")

# Longest wait of `close()` for the thread: a function of the program may block it.
_CLOSE_S = 3.0
# Longest wait for tasks that were cancelled.
_CANCEL_S = 0.5


class _Wait:
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
        self._lock.acquire(timeout=-1 if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX))


class _Call(_Wait):
    """Work for the client's thread, a function or a coroutine function, for whose result another thread waits."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work
        self._task: asyncio.Task[Any] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._do())
        self._task.add_done_callback(lambda _: self.end())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def result(self) -> Any:
        if self._task is None or not self._task.done() or self._task.cancelled():
            # The client has ended before.
            raise RequestError("closed")
        return self._task.result()

    async def _do(self) -> Any:
        result = self._work()
        return await result if inspect.iscoroutine(result) else result


class _Iteration(Iterator[Any]):
    """Takes from an inbox. Several threads may take from the same iteration."""

    def __init__(self, client: Connection[Any], inbox: Inbox, timeout_s: float | None) -> None:
        self._client, self._inbox, self._timeout_s = client, inbox, timeout_s
        inbox.belongs_to(self)

    def __next__(self) -> Any:
        self._client._check_process()
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
        return self._client._is_over or self._inbox.is_over

    def _wait(self, ends_at: float | None) -> None:
        wait = _Wait()
        self._inbox.wake_with(wait.end)
        try:
            if not self._inbox.waiting and not self._is_over:
                self._client._block(wait, None if ends_at is None else ends_at - time.monotonic())
        finally:
            self._inbox.forget(wait.end)


class Connection(Generic[Item]):
    """A connection that reconnects until `close()`, or the end of the `with` block. Options as for `weirgate.Connection`.
    After a fork, only the process that made the client can use it."""

    _type: type[aio.Connection[Any]] = aio.Connection

    def __init__(self, url: Url, **options: Unpack[ConnectionOptions]) -> None:
        self._begin(url, {**options})

    def _begin(self, url: Url, options: dict[str, Any]) -> None:
        self._process = os.getpid()
        self._made: Any = None
        self._waits: set[_Wait] = set()
        self._is_over = self._is_closing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="weirgate", daemon=True)
        self._thread.start()

        def make() -> None:
            self._made = self._type(url, **options)

        try:
            self._wait_for(make)
        except BaseException:
            self.close()
            raise

    @property
    def status(self) -> Status:
        return self._inner.status

    @property
    def last_close(self) -> Close | None:
        return self._inner.last_close

    @property
    def reconnects(self) -> int:
        return self._inner.reconnects

    @property
    def retry_in_ms(self) -> float:
        return self._inner.retry_in_ms

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends the connection, the thread, and the waits of all threads, for good; returns within 3 s. A callback may call it,
        and a signal handler. In a process that was forked from that of the client it does nothing."""
        check_close(code, reason)
        if os.getpid() != self._process:
            return
        self._post(lambda: self._close(code, reason))
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_S)
            self._end_waits()

    def reconnect(self) -> None:
        """A new connection at once. Raises RequestError `closed` after `close()`."""
        if self._is_over or not self._post(self._inner.reconnect):
            raise RequestError("closed")

    def send(self, text: str) -> bool:
        """Sends now; False where there is no open connection: nothing is kept for later."""
        inner = self._inner
        return False if self._is_over else self._wait_for(lambda: inner.send(text))

    def on(self, type: str, function: Callable[..., Any]) -> Callable[[], None]:
        """Calls `function` on each event of `type`, in the client's thread; returns a function that removes the listener."""
        return self._inner.on(type, function)

    def iterate(self, type: str | None = None, timeout_s: float | None = None) -> Iterator[Any]:
        """As `weirgate.Connection.iterate`. TimeoutError when nothing comes for `timeout_s`; the next `next()` goes on."""
        inner = self._inner
        return _Iteration(self, inner._inbox(type or inner._core.kind), timeout_s)

    def __iter__(self) -> Iterator[Item]:
        return self.iterate()

    # ---- The client's thread

    @property
    def _inner(self) -> Any:
        self._check_process()
        return self._made

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("this client was made before a fork, and its thread is in the other process: make a client in this process")

    def _live(self) -> None:
        """The thread."""
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._end_tasks())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._end_waits()
            self._loop.close()

    async def _end_tasks(self) -> None:
        """Ends what is left, such as a function for tokens."""
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CANCEL_S)

    def _close(self, code: int, reason: str) -> None:
        if self._is_closing:
            return
        self._is_closing = True

        async def close() -> None:
            try:
                if self._made is not None:
                    await self._made.close(code, reason)
            finally:
                self._loop.stop()

        self._closing = self._loop.create_task(close())

    def _end_waits(self) -> None:
        self._is_over = True
        for wait in tuple(self._waits):
            wait.end()

    def _post(self, work: Callable[[], object]) -> bool:
        """Runs `work` in the client's thread, soon; False after the end."""
        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:
            return False
        return True

    def _wait_for(self, work: Callable[[], Any]) -> Any:
        """The result of `work` in the client's thread. An exception of this thread, such as KeyboardInterrupt, cancels `work`."""
        self._check_process()
        call = _Call(work)
        try:
            self._block(call, then=lambda: self._post(call.start))
        except BaseException:
            self._post(call.cancel)
            raise
        return call.result()

    def _block(self, wait: _Wait, timeout_s: float | None = None, then: Callable[[], object] = bool) -> None:
        """Waits, at most until the end of the client, after the call of `then`."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a callback cannot wait: it runs in the client's own thread")
        self._waits.add(wait)
        try:
            then()
            if not self._is_over:
                wait.wait(timeout_s)
        finally:
            self._waits.discard(wait)


class Levels(Connection[dict[str, Any]]):
    """`weirgate levels`. Iteration takes the newest state, as in `state`."""

    _type = aio.Levels

    def __init__(self, url: Url, **options: Unpack[LevelsOptions]) -> None:
        self._begin(url, {**options})

    @property
    def state(self) -> dict[str, Any] | None:
        return self._inner.state


class Subscription(Generic[Item]):
    """As `weirgate.Subscription`; `wait()` in place of `await`. Without a handler, messages from `subscribe` on wait for the
    first loop; if more than `queue_max` wait, that loop raises RequestError `late`."""

    def __init__(self, client: Connection[Any], made: aio.Subscription[Item], has_handler: bool) -> None:
        self._client, self._made = client, made
        self._early = [] if has_handler else [made._inbox()]
        for inbox in self._early:
            inbox.belongs_to(self)

    @property
    def names(self) -> list[str]:
        return self._inner.names

    @property
    def granted(self) -> list[str]:
        return self._inner.granted

    @property
    def refused(self) -> dict[str, str]:
        return self._inner.refused

    def wait(self) -> Self:
        """Returns once the server has answered for each name; raises RequestError as `await` of `weirgate.Subscription`."""
        inner = self._inner

        async def answer() -> None:
            await inner

        self._client._wait_for(answer)
        return self

    def unsubscribe(self) -> None:
        self._client._post(self._inner.unsubscribe)

    def iterate(self, timeout_s: float | None = None) -> Iterator[Item]:
        """The messages of the names. TimeoutError when nothing comes for `timeout_s`; the next `next()` goes on."""
        inner = self._inner
        try:
            inbox = self._early.pop()
        except IndexError:
            inbox = inner._inbox()
        return _Iteration(self._client, inbox, timeout_s)

    def __iter__(self) -> Iterator[Item]:
        return self.iterate()

    @property
    def _inner(self) -> aio.Subscription[Item]:
        self._client._check_process()
        return self._made


class _Subscriber(Connection[Item]):
    @property
    def subscriptions(self) -> list[str]:
        """The names granted on this connection."""
        return self._inner.subscriptions

    @property
    def position(self) -> str | None:
        return self._inner.position

    @property
    def bus(self) -> Bus | None:
        return self._inner.bus

    @property
    def lost(self) -> int:
        return self._inner.lost

    @property
    def recovered(self) -> bool | dict[str, bool] | None:
        return self._inner.recovered

    def subscribe(self, names: str | Iterable[str], handler: Callable[..., object] | None = None) -> Subscription[Item]:
        """Wants the names until `unsubscribe()` of the returned Subscription; does not wait for the server."""
        return self._subscription(handler, lambda inner: inner.subscribe(names, handler))

    def ping(self) -> dict[str, Any]:
        return self._wait_for(self._inner.ping)

    def _subscription(self, handler: Callable[..., object] | None, subscribe: Callable[[Any], aio.Subscription[Any]]) -> Subscription[Any]:
        inner = self._inner
        made: list[Subscription[Any]] = []

        def make() -> None:
            made.append(Subscription(self, subscribe(inner), handler is not None))

        def undo() -> None:
            for one in made:
                one._made.unsubscribe()

        if threading.current_thread() is self._thread:
            # A handler may subscribe.
            make()
            return made[0]
        try:
            self._wait_for(make)
        except BaseException:
            # After a Ctrl-C nobody has the subscription.
            self._post(undo)
            raise
        return made[0]


class Trades(_Subscriber[Trade]):
    """`weirgate trades`. Iteration takes trades, `iterate("candle")` candles."""

    _type = aio.Trades

    def __init__(self, url: Url, **options: Unpack[TradesOptions]) -> None:
        self._begin(url, {**options})

    @property
    def candles(self) -> dict[str, list[str]]:
        return self._inner.candles

    def subscribe_candles(self, symbols: str | Iterable[str], interval: Interval,
                          handler: Callable[[Candle], object] | None = None) -> Subscription[Candle]:
        return self._subscription(handler, lambda inner: inner.subscribe_candles(symbols, interval, handler))


class Channels(_Subscriber[ChannelMessage[Data]], Generic[Data]):
    """`weirgate channels`. Iteration takes messages."""

    _type = aio.Channels

    def __init__(self, url: Url, **options: Unpack[ChannelsOptions[Data]]) -> None:
        self._begin(url, {**options})


class Devices(Connection[Push]):
    """`weirgate events`: a device. Iteration takes pushes."""

    _type = aio.Devices

    def __init__(self, url: Url, **options: Unpack[DevicesOptions]) -> None:
        self._begin(url, {**options})

    @property
    def position(self) -> str | None:
        return self._inner.position

    def identify(self, device_id: str) -> dict[str, Any]:
        inner = self._inner
        return self._wait_for(lambda: inner.identify(device_id))

    def request(self, event: str, data: dict[str, Any] | None = None) -> Any:
        inner = self._inner
        return self._wait_for(lambda: inner.request(event, data))


def connect(url: Url, **options: Unpack[ConnectionOptions]) -> Connection[str]:
    """A connection without a contract: iteration takes unchanged messages."""
    return Connection(url, **options)
