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
from .options import (
    Bus, Candle, ChannelMessage, ChannelsOptions, ConnectionOptions, Data, DevicesOptions, Interval, LevelsOptions, Trade, TradesOptions, Url,
)
from .sessions import Push

__all__ = [
    "Candle", "ChannelMessage", "Channels", "Close", "Connection", "Devices", "Gap", "Levels", "Push", "RequestError", "Status",
    "Subscription", "Trade", "Trades", "connect",
]

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
        return self._run(self._start(lambda: self._inner.send(text)))

    def on(self, type: str, function: Callable[..., Any]) -> Callable[[], None]:
        """Calls `function` on each event of `type`, in the client's thread; returns a function that removes the listener."""
        return self._inner.on(type, function)

    def iterate(self, type: str | None = None, timeout_s: float | None = None) -> Iterator[Any]:
        """As `weirgate.Connection.iterate`. TimeoutError when nothing comes for `timeout_s`."""
        return self._items(self._run(self._start(lambda: self._inner.iterate(type))), timeout_s)

    def _items(self, items: Any, timeout_s: float | None) -> Iterator[Any]:
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

    async def _start(self, make: Callable[[], Any]) -> Any:
        """What `make` makes, in the client's thread."""
        return make()

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


async def _wait(subscription: aio.Subscription[Any]) -> None:
    await subscription


async def _next(items: Any, timeout_s: float | None) -> Any:
    return await asyncio.wait_for(anext(items), timeout_s)


class Subscription(Generic[Item]):
    """As `weirgate.Subscription`; `wait()` in place of `await`. Without a handler, messages from `subscribe` on wait for the
    first loop; if more than `queue_max` wait, that loop raises RequestError `late`."""

    def __init__(self, client: Connection[Any], inner: aio.Subscription[Item], early: Any) -> None:
        self._client, self._inner, self._early = client, inner, early

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
        self._client._run(_wait(self._inner))
        return self

    def unsubscribe(self) -> None:
        if self._client._thread.is_alive():
            self._client._loop.call_soon_threadsafe(self._inner.unsubscribe)

    def iterate(self, timeout_s: float | None = None) -> Iterator[Item]:
        """The messages of the names. TimeoutError when nothing comes for `timeout_s`."""
        items, self._early = self._early, None
        return self._client._items(items or self._client._run(self._client._start(self._inner.__aiter__)), timeout_s)

    def __iter__(self) -> Iterator[Item]:
        return self.iterate()


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
        return self._subscription(handler, lambda: self._inner.subscribe(names, handler))

    def ping(self) -> dict[str, Any]:
        return self._run(self._inner.ping())

    def _subscription(self, handler: Callable[..., object] | None, subscribe: Callable[[], aio.Subscription[Any]]) -> Subscription[Any]:
        def make() -> Subscription[Any]:
            inner = subscribe()
            return Subscription(self, inner, None if handler else aiter(inner))
        # A handler may subscribe.
        return make() if threading.current_thread() is self._thread else self._run(self._start(make))


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
        return self._subscription(handler, lambda: self._inner.subscribe_candles(symbols, interval, handler))


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
        return self._run(self._inner.identify(device_id))

    def request(self, event: str, data: dict[str, Any] | None = None) -> Any:
        return self._run(self._inner.request(event, data))


def connect(url: Url, **options: Unpack[ConnectionOptions]) -> Connection[str]:
    """A connection without a contract: iteration takes unchanged messages."""
    return Connection(url, **options)
