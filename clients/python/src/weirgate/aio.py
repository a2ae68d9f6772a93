"""The clients on asyncio and the library websockets: carries out the outputs of the cores, and reports events to the cores."""
from __future__ import annotations

import asyncio
import errno
import inspect
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import suppress
from typing import Any, Generic, Self, TypeVar, Unpack
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from . import fallback
from .channels import ChannelsCore
from .core import Close, Core, Deliver, Dial, Drop, Emit, LevelsCore, Options, Output, Renew, Report, RequestError, Send, Status, check_close
from .iteration import Inbox, Inboxes, Iteration
from .options import (
    Bus, Candle, ChannelMessage, ChannelsOptions, ConnectionOptions, Data, DevicesOptions, Interval, LevelsOptions, Trade, TradesOptions, Url,
)
from .sessions import DevicesCore, Push, Request, SessionCore
from .subscriptions import SubscriberCore, SubscriptionCore, TradesCore
from .websocket import connect as open_websocket

Item = TypeVar("Item")

# What a network may do to an attempt; anything else is a mistake of the program.
_NETWORK = (OSError, EOFError, InvalidHandshake, ConnectionClosed)
# Until a connection whose task somebody else has cancelled counts as lost: at the end of a program, never.
_CANCELLED_S = 0.1


class Connection(Generic[Item]):
    """A WebSocket that reconnects until `close()`, or the end of the `async with` block. Must be made inside a running event loop.
    Options: `weirgate.options`."""

    _core_type: type[Core] = Core

    def __init__(self, url: Url, **options: Unpack[ConnectionOptions]) -> None:
        self._begin(url, {**options}, ConnectionOptions)

    def _begin(self, url: Url, options: dict[str, Any], known: Any) -> None:
        if unknown := sorted(options.keys() - known.__annotations__.keys()):
            hint = "; options of the connection, such as ssl, go in connect_options={\"ssl\": …}"
            raise TypeError(f"unknown option: {', '.join(unknown)}{hint}")
        if isinstance(url, str):
            _address(url, [])
        self._url, self._token, self._token_in = url, options.pop("token", None), options.pop("token_in", "header")
        self._connect_options = {"max_size": None, **options.pop("connect_options", {})}
        self._has_fallback = options.pop("fallback", False)
        if options.get("retry") is not None:
            _plain(options["retry"])
        self._listeners: dict[str, list[Callable[..., Any]]] = {}
        for name in [name for name in options if name.startswith("on_")]:
            if (listener := options.pop(name)) is not None:
                self.on(name.removeprefix("on_"), listener)
        self._inboxes: defaultdict[str, Inboxes] = defaultdict(Inboxes)
        self._loop = asyncio.get_running_loop()
        self._core = self._core_type(Options(has_token=callable(self._token), **options))
        self._link: asyncio.Task[None] | None = None
        self._out: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._closing: dict[asyncio.Task[None], tuple[int, str]] = {}
        self._is_pumping = False
        self._core.start(self._now())
        self._pump()

    # ---- Status

    @property
    def status(self) -> Status:
        """connecting, open, stale (nothing new for `stale_ms`), waiting (for the next attempt) or closed (for good)."""
        return self._core.status

    @property
    def last_close(self) -> Close | None:
        """The end of the last connection or attempt."""
        return self._core.last_close

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return self._core.reconnects

    @property
    def retry_in_ms(self) -> float:
        """While waiting: how long until the next attempt."""
        return max(0.0, self._core.retry_at - self._now())

    # ---- Actions

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends the connection for good, except for `reconnect()`; returns after the closing handshake, within 2 s. Raises
        ValueError for a code or reason that a WebSocket cannot send."""
        check_close(code, reason)
        if self.status != "closed":
            self._core.close(self._now(), code, reason)
            self._pump()
        if self._closing:
            await asyncio.wait(list(self._closing), timeout=2)

    def reconnect(self) -> None:
        """Starts a new connection immediately, in any status."""
        self._core.reconnect(self._now())
        self._pump()

    def send(self, text: str) -> bool:
        """Sends now; False where there is no open connection: nothing is kept for later."""
        if not isinstance(text, str | bytes | bytearray | memoryview):
            raise TypeError(f"a message is a text, not {type(text).__name__}")
        is_sent = self._core.send(text)
        self._pump()
        return is_sent

    def on(self, type: str, function: Callable[..., Any]) -> Callable[[], None]:
        """Calls `function` on each event of `type`, in the event loop; returns a function that removes the listener. Raises
        TypeError for a coroutine function: nobody would await it. An exception of `function` goes to the exception handler
        of the loop, and changes nothing."""
        listeners = self._listeners.setdefault(type, [])
        listeners.append(_plain(function))

        def off() -> None:
            with suppress(ValueError):
                listeners.remove(function)

        return off

    def iterate(self, type: str | None = None) -> AsyncIterator[Any]:
        """The details of an event type, from this call until `close()`. Of states only the newest waits. A wait that is
        cancelled or times out takes nothing and ends nothing. Raises RequestError `closed` when the server refused for
        good, `late` when more than `queue_max` wait."""
        return Iteration(self._inbox(type or self._core.kind))

    def __aiter__(self) -> AsyncIterator[Item]:
        return self.iterate()

    def _inbox(self, type: str) -> Inbox:
        inbox = Inbox(self._core.options.queue_max, type == "state", lambda: (self.status == "closed", self._core.refusal))
        self._inboxes[type].add(inbox)
        return inbox

    # ---- The driver

    def _pump(self) -> None:
        """Carries out the outputs of the core, and sets the timer. If a callback calls the client, the outer call continues."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while (output := self._core.poll_output()) is not None:
                self._do(output)
        finally:
            self._is_pumping = False
        if self._timer:
            self._timer.cancel()
        due = self._core.poll_deadline()
        self._timer = None if due is None else self._loop.call_later(max(0.0, due - self._now()) / 1000, self._tick)

    def _do(self, output: Output) -> None:
        match output:
            case Dial(refused):
                self._out = asyncio.Queue()
                self._link = self._loop.create_task(self._run(refused, self._out))
                self._link.add_done_callback(self._ended)
            case Send(text):
                self._out.put_nowait(text)
            case Drop(code, reason):
                if self._link and not self._link.done():
                    self._closing[self._link] = (code, reason)
                    self._link.cancel()
                self._link = None
            case Emit(type, args):
                self._inboxes[type].put(args[0] if args else None)
                if type == "status":
                    for inboxes in tuple(self._inboxes.values()):
                        inboxes.wake()
                for listener in tuple(self._listeners.get(type, ())):
                    self._call(listener, args)
            case Report(what, error):
                self._report(what, error)
            case Deliver(subscription, item, details):
                self._deliver(subscription, item, details)
            case Renew(is_wanted):
                if self._renewal:
                    self._renewal.cancel()
                self._renewal = self._loop.create_task(self._renew()) if is_wanted else None

    async def _renew(self) -> None:
        raise NotImplementedError

    def _deliver(self, subscription: SubscriptionCore, item: Any, details: tuple[Any, ...]) -> None:
        raise NotImplementedError

    def _call(self, listener: Callable[..., Any], args: tuple[Any, ...]) -> BaseException | None:
        # A failing callback must not end the connection of the other listeners.
        try:
            result = listener(*args)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("the callback returns a coroutine, and nobody awaits it: use `async for`, or asyncio.create_task")
        except BaseException as error:
            # The program ends itself. In the thread of `weirgate.sync` only the thread would end.
            if isinstance(error, KeyboardInterrupt | SystemExit) and threading.current_thread() is threading.main_thread():
                raise
            self._report(f"callback {listener!r}", error)
            return error
        return None

    def _report(self, what: str, error: BaseException) -> None:
        self._loop.call_exception_handler({"message": f"weirgate: {what} failed", "exception": error})

    def _now(self) -> float:
        """Milliseconds on the clock of the event loop."""
        return self._loop.time() * 1000

    def _tick(self) -> None:
        self._core.handle_timer(self._now())
        self._pump()

    async def _run(self, refused: bool, out: asyncio.Queue[str | bytes]) -> None:
        """An attempt: from the token to the end of the connection."""
        task = asyncio.current_task()
        assert task is not None
        try:
            address = await _value(self._url() if callable(self._url) else self._url)
            token = await _value(self._token(refused) if callable(self._token) else self._token)
            # A function of the program may catch the end of its attempt, and return.
            if task in self._closing:
                return
            if not self._core.handle_dial(self._now(), token):
                self._pump()
                return
            link = await self._dial(address, token)
        except Exception as error:
            if task not in self._closing:
                if not isinstance(error, _NETWORK):
                    self._report("an attempt to connect", error)
                self._lost(1006, **_why(error))
            return
        writer = self._loop.create_task(self._write(link, out))
        try:
            self._core.handle_opened(self._now(), address, token)
            self._pump()
            await self._read(link)
            if task not in self._closing:
                self._lost(link.close_code or 1006, link.close_reason or "")
        except asyncio.CancelledError:
            if task not in self._closing:
                raise
            await link.close(*self._closing[task])
        finally:
            writer.cancel()
            link.transport.abort()

    async def _read(self, link: ClientConnection | fallback.Link) -> None:
        with suppress(ConnectionClosed):
            async for data in link:
                self._core.handle_message(self._now(), data)
                self._pump()
                # A coroutine that awaits a response runs before the next message, so a new loop there misses no message.
                await asyncio.sleep(0)

    async def _write(self, link: ClientConnection | fallback.Link, out: asyncio.Queue[str | bytes]) -> None:
        while True:
            try:
                await link.send(await out.get())
            except ConnectionClosed:
                return
            except Exception as error:
                self._report("a message", error)

    def _lost(self, code: int, reason: str, **why: Any) -> None:
        self._core.handle_closed(self._now(), code, reason, **why)
        self._pump()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The task of a connection has ended; the core knows, unless somebody else has cancelled it, or it has failed."""
        self._closing.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._report("the connection", error)
        if task is self._link and (error is not None or task.cancelled()):
            self._loop.call_later(_CANCELLED_S, lambda: self._lost(1006, "cancelled") if task is self._link else None)

    async def _dial(self, url: str, token: str | None) -> ClientConnection | fallback.Link:
        options = {**self._connect_options}
        query = [(name, str(value)) for name, value in self._core.query.items() if value]
        if token and self._token_in == "query":
            query.append(("token", token))
        elif token:
            options["additional_headers"] = {**dict(options.get("additional_headers") or {}), "Authorization": f"Bearer {token}"}
        if self._has_fallback:
            return await fallback.dial(_address(url, query), options)
        # The core has the deadline of the handshake.
        return await open_websocket(_address(url, query), open_timeout=None, **options)


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

    def unsubscribe(self) -> None:
        """Gives up the names: each name with the last of its subscriptions. No call of the handler follows."""
        self._client._core.unsubscribe(self._client._now(), self._inner)
        self._client._pump()

    def __await__(self) -> Generator[Any, None, Self]:
        if not self._inner.is_done:
            done: asyncio.Future[None] = self._client._loop.create_future()
            self._waiters.append(done)
            try:
                yield from done
            finally:
                self._waiters.remove(done)
        if self._inner.error is not None:
            raise self._inner.error
        return self

    def __aiter__(self) -> AsyncIterator[Item]:
        return Iteration(self._inbox())

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

    def subscribe(self, names: str | Iterable[str], handler: Callable[..., object] | None = None) -> Subscription[Item]:
        """Wants the names until `unsubscribe()` of the returned Subscription, connected or not. `handler` gets each message
        of these names. Raises ValueError over `names_max`."""
        return self._subscription(self._core.subscribe(self._now(), names, handler and _plain(handler)))

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
            self._core.report(RequestError("handler", repr(error), error))


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
        return self._subscription(self._core.subscribe_candles(self._now(), symbols, interval, handler and _plain(handler)))


class Channels(_Subscriber[ChannelMessage[Data]], Generic[Data]):
    """`weirgate channels`, with the type of `data`: `Channels[Tick]`. Iteration takes messages: channel, pattern, data, seq,
    timestamp. Handlers get the data, and the message."""

    _core_type = ChannelsCore
    _core: ChannelsCore

    def __init__(self, url: Url, **options: Unpack[ChannelsOptions[Data]]) -> None:
        self._begin(url, {**options}, ChannelsOptions)

    async def _renew(self) -> None:
        try:
            token = await _value(self._token(False))
        except Exception as error:
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


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Raises TypeError for what is no function, or starts nothing when it is called."""
    for one in (function, getattr(function, "__call__", None)):
        if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) or inspect.isgeneratorfunction(one):
            raise TypeError(f"{function!r} would not run: a callback is a plain function; to await, use `async for`, or asyncio.create_task")
    if not callable(function):
        raise TypeError(f"{function!r} is no function")
    return function


async def _value(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


def _address(url: str, query: list[tuple[str, str]]) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise ValueError(f"{url!r} is no address: it begins with ws://, wss://, http:// or https://, and a host")
    names = {name for name, _ in query}
    kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in names]
    return urlunsplit((scheme, parts.netloc, parts.path, urlencode(kept + query), ""))


def _why(error: Exception) -> dict[str, Any]:
    """The error and status of a failed attempt."""
    if isinstance(error, InvalidStatus):
        status, wait = error.response.status_code, error.response.headers.get("Retry-After", "")
        return {"reason": f"HTTP status {status}", "status": status, "retry_after_ms": 1000.0 * int(wait) if wait.isdecimal() else 0.0}
    name = errno.errorcode.get(error.errno) if isinstance(error, OSError) and error.errno else None
    return {"reason": str(error) or type(error).__name__, "error": name}
