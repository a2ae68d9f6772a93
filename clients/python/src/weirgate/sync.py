"""The clients for programs without asyncio: the same clients, on an event loop in a separate thread.

    from weirgate.sync import Levels

    with Levels("ws://localhost:8000/ws/stream") as levels:
        for state in levels:
            print(state)

Callbacks run in this thread.
"""
from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar, Unpack

from . import aio
from .core import Close, Gap, RequestError, Status
from .options import ChannelsOptions, ConnectionOptions, DevicesOptions, Interval, LevelsOptions, TradesOptions, Url
from .sessions import Push

__all__ = ["Channels", "Close", "Connection", "Devices", "Gap", "Levels", "Push", "RequestError", "Status", "Trades", "connect"]

Item = TypeVar("Item")


class Connection(Generic[Item]):
    """A connection that reconnects until `close()`, or the end of the `with` block. Options as for `weirgate.Connection`."""

    _type: type[aio.Connection[Any]] = aio.Connection

    def __init__(self, url: Url, **options: Unpack[ConnectionOptions]) -> None:
        self._begin(url, {**options})

    def _begin(self, url: Url, options: dict[str, Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="weirgate", daemon=True)
        self._thread.start()

        async def make() -> aio.Connection[Any]:
            return self._type(url, **options)

        self._early: Any = None
        try:
            self._inner: Any = self._run(make())
        except BaseException:
            self._stop()
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
        """Ends the connection and the thread for good."""
        if self._thread.is_alive():
            self._run(self._inner.close(code, reason))
            self._stop()

    def reconnect(self) -> None:
        """A new connection at once; not after `close()`."""
        self._loop.call_soon_threadsafe(self._inner.reconnect)

    def send(self, text: str) -> bool:
        async def send() -> bool:
            return self._inner.send(text)
        return self._run(send())

    def on(self, type: str, function: Callable[..., Any]) -> Callable[[], None]:
        """Calls `function` on each event of `type`, in the client's thread; returns a function that removes the listener."""
        return self._inner.on(type, function)

    def iterate(self, type: str | None = None, timeout_s: float | None = None) -> Iterator[Any]:
        """As `weirgate.Connection.iterate`. TimeoutError when nothing comes for `timeout_s`."""
        items, self._early = (None, self._early) if type else (self._early, None)
        items = items or self._run(self._start(type))
        try:
            while True:
                try:
                    yield self._run(_next(items, timeout_s))
                except StopAsyncIteration:
                    return
        finally:
            if self._thread.is_alive():
                self._run(items.aclose())

    def __iter__(self) -> Iterator[Item]:
        return self.iterate()

    async def _start(self, type: str | None) -> Any:
        return self._inner.iterate(type)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a callback cannot wait: it runs in the client's own thread")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Levels(Connection[dict[str, Any]]):
    """`weirgate levels`. Iteration takes the newest state, as in `state`."""

    _type = aio.Levels

    def __init__(self, url: Url, **options: Unpack[LevelsOptions]) -> None:
        self._begin(url, {**options})

    @property
    def state(self) -> dict[str, Any] | None:
        return self._inner.state


async def _next(items: Any, timeout_s: float | None) -> Any:
    return await asyncio.wait_for(anext(items), timeout_s)


class _Subscriber(Connection[Item]):
    @property
    def subscriptions(self) -> list[str]:
        return self._inner.subscriptions

    def subscribe(self, names: str | Iterable[str]) -> dict[str, Any]:
        """Returns the server's acknowledgement. Messages from now on wait for the first iteration."""
        self._early = self._early or self._run(self._start(None))
        return self._run(self._inner.subscribe(names))

    def unsubscribe(self, names: str | Iterable[str]) -> dict[str, Any]:
        return self._run(self._inner.unsubscribe(names))

    def ping(self) -> dict[str, Any]:
        return self._run(self._inner.ping())


class Trades(_Subscriber[dict[str, Any]]):
    """`weirgate trades`. Iteration takes trades, `iterate("candle")` candles."""

    _type = aio.Trades

    def __init__(self, url: Url, **options: Unpack[TradesOptions]) -> None:
        self._begin(url, {**options})

    @property
    def candles(self) -> dict[str, list[str]]:
        return self._inner.candles

    def subscribe_candles(self, symbols: str | Iterable[str], interval: Interval) -> dict[str, Any]:
        return self._run(self._inner.subscribe_candles(symbols, interval))

    def unsubscribe_candles(self, symbols: str | Iterable[str], interval: Interval) -> dict[str, Any]:
        return self._run(self._inner.unsubscribe_candles(symbols, interval))


class Channels(_Subscriber[dict[str, Any]]):
    """`weirgate channels`. Iteration takes `data` messages."""

    _type = aio.Channels

    def __init__(self, url: Url, **options: Unpack[ChannelsOptions]) -> None:
        self._begin(url, {**options})


class Devices(Connection[Push]):
    """`weirgate events`: a device. Iteration takes pushes."""

    _type = aio.Devices

    def __init__(self, url: Url, **options: Unpack[DevicesOptions]) -> None:
        self._begin(url, {**options})

    def identify(self, device_id: str) -> dict[str, Any]:
        return self._run(self._inner.identify(device_id))

    def request(self, event: str, data: dict[str, Any] | None = None) -> Any:
        return self._run(self._inner.request(event, data))


def connect(url: Url, **options: Unpack[ConnectionOptions]) -> Connection[str]:
    """A connection without a contract: iteration takes unchanged messages."""
    return Connection(url, **options)
