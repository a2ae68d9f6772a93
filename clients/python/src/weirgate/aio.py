"""The clients on asyncio."""
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Any, Generic, Self, TypeVar, Unpack

from .channels import ChannelsCore
from .connection import Connection, plain, raise_end, value_of
from .core import LevelsCore, RequestError, text_of
from .iteration import Inbox, Inboxes, Iteration
from .options import (
    Brings, Bus, Candle, ChannelMessage, ChannelsOptions, ConnectionOptions, Data, DevicesOptions, Interval, Last, LevelsOptions,
    Trade, TradesOptions, Url,
)
from .sessions import DevicesCore, Push, Request, SessionCore
from .subscriptions import SubscriberCore, SubscriptionCore, TradesCore

Item = TypeVar("Item")


class Levels(Connection[dict[str, Any]]):
    """`weirgate levels`. Iteration takes the newest state, as in `state`."""

    _core_type = LevelsCore
    _core: LevelsCore

    def __init__(self, url: Url, **options: Unpack[LevelsOptions]) -> None:
        self._begin(url, {**options}, LevelsOptions)

    @property
    def state(self) -> dict[str, Any] | None:
        """The newest state; None before the first."""
        return self._core.state


class _Session(Connection[Item]):
    _core_type = SessionCore
    _core: SessionCore

    @property
    def position(self) -> str | None:
        """With a history on the server: the position up to which the client has all messages."""
        return self._core.position

    async def _answer(self, request: Request) -> Any:
        """Returns the response; raises RequestError without a response. A cancelled caller waits no longer."""
        done: asyncio.Future[None] = self._loop.create_future()
        request.on_done = lambda _: None if done.done() else done.set_result(None)
        self._pump()
        try:
            if not request.is_done:
                await done
        except asyncio.CancelledError:
            self._core.abort(self._now(), request)
            self._pump()
            raise
        if request.error is not None:
            raise request.error
        return request.response


class Subscription(Generic[Item]):
    """Names that a part of the program wants until `unsubscribe()`, over all connections.

    `await` returns the subscription once the server has answered for each name; raises RequestError: `refused` if no name
    is granted, `timeout` (the names stay wanted), `closed`. `async for` takes the messages of the names, from the begin
    of the loop; the loop ends with `unsubscribe()` or `close()`, and raises RequestError if the server refuses all names
    (`refused`) or the client (`closed`) for good, or if more than `queue_max` messages wait (`late`)."""

    def __init__(self, client: _Subscriber[Any], inner: SubscriptionCore) -> None:
        self._client, self._inner = client, inner
        self._inboxes = Inboxes()
        self._waiters: list[asyncio.Future[None]] = []
        inner.on_change, inner.on_item = self._changed, self._inboxes.put

    @property
    def names(self) -> list[str]:
        return self._inner.names

    @property
    def granted(self) -> list[str]:
        """The names granted on this connection."""
        return self._inner.granted

    @property
    def refused(self) -> dict[str, str]:
        """The names refused by the server, with the reasons."""
        return self._inner.refused

    @property
    def coming(self) -> list[str]:
        """The names whose last values are still coming to this subscription."""
        return self._inner.coming

    def unsubscribe(self) -> None:
        """Gives up the names: each name with the last of its subscriptions. No call of the handler follows."""
        self._client._core.unsubscribe(self._client._now(), self._inner)
        self._client._pump()

    def __await__(self) -> Generator[Any, None, Self]:
        if not self._inner.is_done:
            self._client._check_loop()
            done: asyncio.Future[None] = self._client._loop.create_future()
            self._waiters.append(done)
            try:
                yield from done
            finally:
                self._waiters.remove(done)
        self._inner.is_heard = True
        if self._inner.error is not None:
            raise self._inner.error
        return self

    def __aiter__(self) -> AsyncIterator[Item]:
        return Iteration(self._inbox(), self._client._check_loop)

    def _inbox(self) -> Inbox:
        inbox = Inbox(self._client._core.options.queue_max, False, lambda: (self._inner.is_over, self._inner.ending))
        self._inboxes.add(inbox)
        return inbox

    def _changed(self) -> None:
        for done in self._waiters if self._inner.is_done else ():
            if not done.done():
                done.set_result(None)
        self._inboxes.wake()


class _Subscriber(_Session[Item]):
    _core_type = SubscriberCore
    _core: SubscriberCore

    @property
    def subscriptions(self) -> list[str]:
        """The names granted on this connection."""
        return self._core.subscriptions

    @property
    def refused(self) -> dict[str, str]:
        """The wanted names that the server refuses, with the reasons: without those that were granted or given up since."""
        return self._core.refused

    @property
    def unanswered(self) -> list[str]:
        """The wanted names that the server has neither granted nor refused on this connection."""
        return self._core.unanswered

    @property
    def coming(self) -> list[str]:
        """The names whose last values are coming to a subscription."""
        return self._core.coming

    @property
    def cuts(self) -> dict[str, str]:
        """Why not all last values of names, or newest messages, have come; lost: newer ones may be missing."""
        return self._core.cuts

    @property
    def bus(self) -> Bus | None:
        """As the server has said on this connection; None before. While it is "away", `status` is "stale"."""
        return self._core.bus

    @property
    def lost(self) -> int:
        """How often the bus has lost messages so far."""
        return self._core.lost

    @property
    def recovered(self) -> bool | dict[str, bool] | None:
        """The `recovered` of the newest answer that has one: whether the missed messages have followed."""
        return self._core.recovered

    def subscribe(self, names: str | Iterable[str], handler: Callable[..., object] | None = None, *,
                  last: Last | None = None) -> Subscription[Item]:
        """Wants the names until `unsubscribe()` of the returned Subscription, connected or not. `handler` gets each message
        of these names. `last`: as the option of the client, for these names, or "all"; of two subscriptions of a name the larger
        counts. Raises ValueError over `names_max`."""
        return self._subscription(self._core.subscribe(self._now(), names, handler and plain(handler), last=last))

    async def ping(self) -> dict[str, Any]:
        """The server's pong."""
        return await self._answer(self._core.ping(self._now()))

    def _subscription(self, inner: SubscriptionCore) -> Subscription[Any]:
        subscription: Subscription[Any] = Subscription(self, inner)
        self._pump()
        return subscription

    def _deliver(self, subscription: SubscriptionCore, item: Any, details: tuple[Any, ...]) -> None:
        if subscription.is_left:
            return
        if subscription.on_item is not None:
            subscription.on_item(item)
        if subscription.handler is not None and (error := self._call(subscription.handler, details)):
            self._core.report(RequestError("handler", text_of(error), error))


class Trades(_Subscriber[Trade]):
    """`weirgate trades`. Iteration takes trades, `iterate("candle")` candles. Handlers get a trade, and the time of its
    broadcast by the gateway (Unix time in ms)."""

    _core_type = TradesCore
    _core: TradesCore

    def __init__(self, url: Url, **options: Unpack[TradesOptions]) -> None:
        self._begin(url, {**options}, TradesOptions)

    @property
    def candles(self) -> dict[str, list[str]]:
        """The symbols with candles granted on this connection, by interval."""
        return self._core.candles

    def subscribe_candles(self, symbols: str | Iterable[str], interval: Interval,
                          handler: Callable[[Candle], object] | None = None) -> Subscription[Candle]:
        """As `subscribe`, for candles. For a gateway with `--candles`; any other refuses the symbols."""
        return self._subscription(self._core.subscribe_candles(self._now(), symbols, interval, handler and plain(handler)))


class Channels(_Subscriber[ChannelMessage[Data]], Generic[Data]):
    """`weirgate channels`, with the type of `data`: `Channels[Tick]`. Iteration takes messages: channel, pattern, data, seq,
    timestamp. Handlers get the data, and the message."""

    _core_type = ChannelsCore
    _core: ChannelsCore

    def __init__(self, url: Url, **options: Unpack[ChannelsOptions[Data]]) -> None:
        self._begin(url, {**options}, ChannelsOptions)

    @property
    def brings(self) -> dict[str, Brings]:
        """What each name brings, as the server has said last: where its messages come from, and how far back they reach."""
        return self._core.brings

    async def _renew(self) -> None:
        try:
            token = await value_of(self._token(False))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            raise_end(error)
            self._core.handle_no_token(self._now(), error)
        else:
            self._core.handle_token(self._now(), token)
        self._pump()


class Devices(_Session[Push]):
    """`weirgate events`: a device. Iteration takes pushes."""

    _core_type = DevicesCore
    _core: DevicesCore

    def __init__(self, url: Url, **options: Unpack[DevicesOptions]) -> None:
        self._begin(url, {**options}, DevicesOptions)

    async def identify(self, device_id: str) -> dict[str, Any]:
        """For a device without the option `device_id`."""
        return await self._answer(self._core.identify(self._now(), device_id))

    async def request(self, event: str, data: dict[str, Any] | None = None) -> Any:
        """Returns the response of the service. A lost request is not sent again."""
        return await self._answer(self._core.request(self._now(), event, data))


def connect(url: Url, **options: Unpack[ConnectionOptions]) -> Connection[str]:
    """A connection without a contract: iteration takes unchanged messages."""
    return Connection(url, **options)
