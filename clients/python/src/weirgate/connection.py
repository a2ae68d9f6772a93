"""A connection on asyncio and the library websockets: carries out the outputs of a core, and reports events to the core."""
from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Generic, Self, TypeVar, Unpack
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from . import fallback
from .core import Close, Core, Options, Status, check_close, text_of
from .iteration import Inbox, Inboxes, Iteration
from .options import ConnectionOptions, Url
from .outputs import Deliver, Dial, Drop, Emit, Output, Renew, Report, Send, Warn
from .subscriptions import SubscriptionCore
from .websocket import connect as open_websocket

Item = TypeVar("Item")

_LOG = logging.getLogger("weirgate")
# What a network may do to an attempt; anything else is a mistake of the program.
_NETWORK = (OSError, EOFError, InvalidHandshake, ConnectionClosed)
# Until a connection whose task somebody else has cancelled counts as lost: at the end of a program, never.
_CANCELLED_S = 0.1
# Until a refusal of which nobody has heard is in the log: a thread may be about to wait for the answer.
_UNHEARD_S = 1.0


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
            plain(options["retry"])
        self._listeners: dict[str, list[Callable[..., Any]]] = {}
        for name in [name for name in options if name.startswith("on_")]:
            if (listener := options.pop(name)) is not None:
                self.on(name.removeprefix("on_"), listener)
        self._inboxes: defaultdict[str, Inboxes] = defaultdict(Inboxes)
        self._loop, self._thread_id = asyncio.get_running_loop(), threading.get_ident()
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
        return max(0.0, self._core.retry_at - self._time())

    # ---- Actions

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends the connection for good, except for `reconnect()`; returns after the closing handshake, within 2 s. Raises
        ValueError for a code or reason that a WebSocket cannot send."""
        self._end(code, reason)
        await self._ends()

    def _end(self, code: int, reason: str) -> None:
        check_close(code, reason)
        if self.status != "closed":
            self._core.close(self._now(), code, reason)
            self._pump()

    async def _ends(self) -> None:
        if self._closing:
            await asyncio.wait(list(self._closing), timeout=2)

    def reconnect(self) -> None:
        """Starts a new connection immediately, in any status."""
        self._core.reconnect(self._now())
        self._pump()

    def send(self, text: str) -> bool:
        """Sends now; False where there is no open connection: nothing is kept for later. Raises TypeError or ValueError for
        what a WebSocket cannot send."""
        if not isinstance(text, str | bytes | bytearray | memoryview):
            raise TypeError(f"a message is a text, not {type(text).__name__}")
        if isinstance(text, str):
            text.encode()
        self._check_loop()
        is_sent = self._core.send(text)
        self._pump()
        return is_sent

    def on(self, type: str, function: Callable[..., Any]) -> Callable[[], None]:
        """Calls `function` on each event of `type`, in the event loop; returns a function that removes the listener. Raises
        TypeError for a coroutine function: nobody would await it. An exception of `function` goes to the exception handler
        of the loop, and changes nothing."""
        listeners = self._listeners.setdefault(type, [])
        listeners.append(plain(function))

        def off() -> None:
            with suppress(ValueError):
                listeners.remove(function)

        return off

    def iterate(self, type: str | None = None) -> AsyncIterator[Any]:
        """The details of an event type, from this call until `close()`. Of states only the newest waits. A wait that is
        cancelled or times out takes nothing and ends nothing. Raises RequestError `closed` when the server refused for
        good, `late` when more than `queue_max` wait."""
        return Iteration(self._inbox(type or self._core.kind), self._check_loop)

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
            case Warn(text, type):
                self._loop.call_later(_UNHEARD_S, self._warn, text, type)
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
            self._report(f"callback {text_of(listener)}", error)
            return error
        return None

    def _warn(self, text: Callable[[], str], type: str) -> None:
        if not self._listeners.get(type) and (said := text()):
            _LOG.warning("%s", said)

    def _report(self, what: str, error: BaseException) -> None:
        raise_end(error)
        self._loop.call_exception_handler({"message": f"weirgate: {what} failed", "exception": error})

    def _now(self) -> float:
        """Milliseconds on the clock of the event loop. Raises RuntimeError as `_check_loop`."""
        self._check_loop()
        return self._time()

    def _time(self) -> float:
        """The same for every thread, to read."""
        return self._loop.time() * 1000

    def _check_loop(self) -> None:
        """Raises RuntimeError in another event loop or thread than the client's, where a wait would have no end."""
        running = asyncio._get_running_loop()
        is_idle = running is None and threading.get_ident() == self._thread_id and not self._loop.is_closed()
        if running is not self._loop and not is_idle:
            raise RuntimeError("a client belongs to the event loop in which it was made: use its loop.call_soon_threadsafe, or weirgate.sync")

    def _tick(self) -> None:
        self._core.handle_timer(self._now())
        self._pump()

    async def _run(self, refused: bool, out: asyncio.Queue[str | bytes]) -> None:
        """An attempt: from the token to the end of the connection."""
        task = asyncio.current_task()
        assert task is not None
        try:
            address = await value_of(self._url() if callable(self._url) else self._url)
            token = await value_of(self._token(refused) if callable(self._token) else self._token)
            # A function of the program may catch the end of its attempt, and return.
            if task in self._closing:
                return
            if not self._core.handle_dial(self._now(), token):
                self._pump()
                return
            link = await self._dial(address, token)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if task not in self._closing:
                if not isinstance(error, _NETWORK):
                    self._report("an attempt to connect", error)
                self._lost(1006, **_why(error))
            return
        writer = self._loop.create_task(self._write(link, out))
        try:
            takes_tokens = not isinstance(link, fallback.Link) or link.takes_tokens
            self._core.handle_opened(self._now(), address, token, takes_tokens)
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


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Raises TypeError for what is no function, or starts nothing when it is called."""
    for one in (function, getattr(function, "__call__", None)):
        if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) or inspect.isgeneratorfunction(one):
            raise TypeError(f"{function!r} would not run: a callback is a plain function; to await, use `async for`, or asyncio.create_task")
    if not callable(function):
        raise TypeError(f"{function!r} is no function")
    return function


async def value_of(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


def _address(url: str, query: list[tuple[str, str]]) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise ValueError(f"{url!r} is no address: it begins with ws://, wss://, http:// or https://, and a host")
    names = {name for name, _ in query}
    kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in names]
    return urlunsplit((scheme, parts.netloc, parts.path, urlencode(kept + query), ""))


def raise_end(error: BaseException) -> None:
    """Raises an error by which the program ends itself. In the thread of `weirgate.sync` only the thread would end."""
    if isinstance(error, KeyboardInterrupt | SystemExit) and threading.current_thread() is threading.main_thread():
        raise error


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _why(error: BaseException) -> dict[str, Any]:
    """The error and status of a failed attempt."""
    if isinstance(error, InvalidStatus):
        status, wait = error.response.status_code, error.response.headers.get("Retry-After", "")
        return {"reason": f"HTTP status {status}", "status": status, "retry_after_ms": 1000.0 * int(wait) if wait.isdecimal() else 0.0}
    name = errno.errorcode.get(error.errno) if isinstance(error, OSError) and error.errno else None
    return {"reason": _said(error) or type(error).__name__, "error": name}
