"""The clients for programs without asyncio: the same clients, on an event loop in a separate thread.

    from weirgate.sync import Levels

    with Levels("ws://localhost:8000/ws/stream") as levels:
        for state in levels:
            print(state)

Callbacks run in this thread. Any thread may use a client; `close()` in one of them, or in a signal handler, ends the waits of
all.
"""
from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar, Unpack

from . import aio
from . import connection as asynchronous
from . import watching
from .core import Close, Gap, RequestError, Status, check_close
from .options import (
    Brings, Bus, Candle, ChannelMessage, ChannelsOptions, ConnectionOptions, Data, DevicesOptions, Interval, Last, LevelsOptions,
    Trade, TradesOptions, Url,
)
from .sessions import Push
from .status import FeedStatus
from .threads import SharedIteration, Worker
from .watching import Latency

__all__ = [
    "Candle", "ChannelMessage", "Channels", "Close", "Connection", "Devices", "FeedStatus", "Gap", "Latency", "Levels", "Push",
    "RequestError", "Status", "Subscription", "Trade", "Trades", "connect", "latency_of", "status_of",
]

Item = TypeVar("Item")


class Connection(Generic[Item]):
    """A connection that reconnects until `close()`, or the end of the `with` block. Options as for `weirgate.Connection`.
    After a fork, only the process that made the client can use it."""

    _type: type[asynchronous.Connection[Any]] = asynchronous.Connection

    def __init__(self, url: Url, **options: Unpack[ConnectionOptions]) -> None:
        self._begin(url, {**options})

    def _begin(self, url: Url, options: dict[str, Any]) -> None:
        self._made: Any = None
        self._worker = Worker()
        self._thread = self._worker.thread

        def make() -> None:
            self._made = self._type(url, **options)

        try:
            self._worker.wait_for(make)
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

        def end() -> Awaitable[None] | None:
            if self._made is None:
                return None
            self._made._end(code, reason)
            return self._made._ends()

        if not self._worker.is_elsewhere():
            self._worker.close(end)

    def reconnect(self) -> None:
        """A new connection at once. Raises RequestError `closed` after `close()`."""
        if self._worker.is_over or not self._worker.post(self._inner.reconnect):
            raise RequestError("closed")

    def send(self, text: str) -> bool:
        """Sends now; False where there is no open connection: nothing is kept for later."""
        inner = self._inner
        return False if self._worker.is_over else self._worker.wait_for(lambda: inner.send(text))

    def on(self, type: str, function: Callable[..., Any]) -> Callable[[], None]:
        """Calls `function` on each event of `type`, in the client's thread; returns a function that removes the listener."""
        return self._inner.on(type, function)

    def iterate(self, type: str | None = None, timeout_s: float | None = None) -> Iterator[Any]:
        """As `weirgate.Connection.iterate`. TimeoutError when nothing comes for `timeout_s`; the next `next()` goes on."""
        inner = self._inner
        return SharedIteration(self._worker, inner._inbox(type or inner._core.kind), timeout_s)

    def __iter__(self) -> Iterator[Item]:
        return self.iterate()

    @property
    def _inner(self) -> Any:
        self._worker.check_process()
        return self._made


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

    @property
    def coming(self) -> list[str]:
        return self._inner.coming

    def wait(self) -> Self:
        """Returns once the server has answered for each name; raises RequestError as `await` of `weirgate.Subscription`."""
        inner = self._inner

        async def answer() -> None:
            await inner

        self._client._worker.wait_for(answer)
        return self

    def unsubscribe(self) -> None:
        self._client._worker.post(self._inner.unsubscribe)

    def iterate(self, timeout_s: float | None = None) -> Iterator[Item]:
        """The messages of the names. TimeoutError when nothing comes for `timeout_s`; the next `next()` goes on."""
        inner = self._inner
        try:
            inbox = self._early.pop()
        except IndexError:
            inbox = inner._inbox()
        return SharedIteration(self._client._worker, inbox, timeout_s)

    def __iter__(self) -> Iterator[Item]:
        return self.iterate()

    @property
    def _inner(self) -> aio.Subscription[Item]:
        self._client._worker.check_process()
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
    def refused(self) -> dict[str, str]:
        return self._inner.refused

    @property
    def unanswered(self) -> list[str]:
        return self._inner.unanswered

    @property
    def coming(self) -> list[str]:
        return self._inner.coming

    @property
    def cuts(self) -> dict[str, str]:
        return self._inner.cuts

    @property
    def bus(self) -> Bus | None:
        return self._inner.bus

    @property
    def lost(self) -> int:
        return self._inner.lost

    @property
    def recovered(self) -> bool | dict[str, bool] | None:
        return self._inner.recovered

    def subscribe(self, names: str | Iterable[str], handler: Callable[..., object] | None = None, *,
                  last: Last | None = None) -> Subscription[Item]:
        """Wants the names until `unsubscribe()` of the returned Subscription; does not wait for the server. `last`: as the
        option, for these names, or "all"."""
        return self._subscription(handler, lambda inner: inner.subscribe(names, handler, last=last))

    def ping(self) -> dict[str, Any]:
        return self._worker.wait_for(self._inner.ping)

    def _subscription(self, handler: Callable[..., object] | None, subscribe: Callable[[Any], aio.Subscription[Any]]) -> Subscription[Any]:
        inner = self._inner
        made: list[Subscription[Any]] = []

        def make() -> None:
            made.append(Subscription(self, subscribe(inner), handler is not None))

        def undo() -> None:
            for one in made:
                one._made.unsubscribe()

        try:
            self._worker.wait_for(make)
        except BaseException:
            # After a Ctrl-C nobody has the subscription.
            self._worker.post(undo)
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

    @property
    def brings(self) -> dict[str, Brings]:
        return self._inner.brings


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
        return self._worker.wait_for(lambda: inner.identify(device_id))

    def request(self, event: str, data: dict[str, Any] | None = None) -> Any:
        inner = self._inner
        return self._worker.wait_for(lambda: inner.request(event, data))


def connect(url: Url, **options: Unpack[ConnectionOptions]) -> Connection[str]:
    """A connection without a contract: iteration takes unchanged messages."""
    return Connection(url, **options)


def latency_of(client: _Subscriber[Any], *, ping_ms: float = 60_000.0) -> Latency:
    """As `weirgate.latency_of`."""
    inner = client._inner
    return client._worker.wait_for(lambda: watching.latency_of(inner, ping_ms=ping_ms))


def status_of(client: Connection[Any], changed: Callable[[FeedStatus], object], *, latency: Latency | None = None,
              late_ms: float = 1_000.0, recent_ms: float = 10_000.0) -> Callable[[], None]:
    """As `weirgate.status_of`; `changed` is called in the client's thread."""
    inner = client._inner
    return client._worker.wait_for(lambda: watching.status_of(inner, changed, latency=latency, late_ms=late_ms, recent_ms=recent_ms))
