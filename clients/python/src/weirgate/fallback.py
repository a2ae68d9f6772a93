"""Networks that break WebSockets: when an event stream takes the place of a WebSocket. The rules of `withFallback` of the
JavaScript clients, in docs/reference/event-stream.md."""
from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .answer_wait import AnswerWait
from .event_stream import EventStream
from .websocket import connect

# Longest wait for a WebSocket to open; a stream gets twice as long. Then for its first message: every gateway speaks first.
_OPEN_MS = 4_000.0
_FIRST_MS = 4_000.0
# Failures before a stream is tried, if a WebSocket was open before: an outage is more likely than a bad network.
_FAILURES_MAX = 3
# A WebSocket that brought messages for so long is not broken by the network.
_STANDS_MS = 60_000.0
_BROKEN_MAX = 2
# Ends that a network makes: without a close code, and by a gateway that hears no pong.
_BREAKS = {1006, 1011}
# A client that gives up after such a silence, with or without a request in it, has found the WebSocket dead.
_UNANSWERED_MS = 2_500.0
_SILENT_MS = 25_000.0
# Between two looks at the clock, and a time between two looks after which the event loop was blocked, or the machine slept.
_LOOK_MS = 1_000.0
_ASLEEP_MS = 3_000.0
# A WebSocket is tried again.
_BACK_MS = 3_600_000.0


@dataclass
class Network:
    """What is known of the way to an origin. Times in ms."""

    stood: bool = False
    """A WebSocket opened last."""
    failed: int = 0
    broken: int = 0
    first_ms: float = _FIRST_MS
    streams_since: float = math.inf

    @property
    def is_for_streams(self) -> bool:
        return self.broken >= _BROKEN_MAX or self.failed >= (_FAILURES_MAX if self.stood else 1)

    def missed(self, is_stream: bool) -> None:
        """An attempt has failed."""
        self.failed = 0 if is_stream else self.failed + 1
        if is_stream:
            self.broken = 0
            self.first_ms *= 4

    def opened(self, is_stream: bool, now: float) -> None:
        # A stream that opened first after an outage: next time a WebSocket is tried once.
        self.failed = 1 if is_stream and not self.stood else 0
        self.stood = not is_stream
        if is_stream:
            self.streams_since = min(self.streams_since, now)

    def ended(self, heard_ms: float, is_broken: bool) -> None:
        """A WebSocket has ended that brought messages for `heard_ms`."""
        if heard_ms >= _STANDS_MS:
            self.broken = 0
        elif is_broken:
            self.broken += 1 if heard_ms > 0 else _BROKEN_MAX


_networks: dict[str, Network] = {}


def _network(url: str, now: float) -> Network:
    origin = urlsplit(url).netloc
    known = _networks.get(origin)
    if known is None or now - known.streams_since > _BACK_MS:
        known = _networks[origin] = Network()
    return known


class _Watch:
    """Notices whether the event loop was blocked, or the machine slept: a WebSocket without answers breaks in any network."""

    def __init__(self) -> None:
        self._looked_at, self._was_away = time.time(), False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_LOOK_MS / 1000, self._look)

    @property
    def was_away(self) -> bool:
        now = time.time()
        self._was_away = self._was_away or now - self._looked_at > _ASLEEP_MS / 1000
        self._looked_at = now
        return self._was_away

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if not self.was_away:
            self._timer = self._loop.call_later(_LOOK_MS / 1000, self._look)


@contextlib.asynccontextmanager
async def _within(ms: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`, but by the rule of `AnswerWait`."""
    loop, wait = asyncio.get_running_loop(), AnswerWait(_now(), ms)
    async with asyncio.timeout(None) as scope:
        def look() -> None:
            nonlocal timer
            if wait.is_over(_now()):
                scope.reschedule(loop.time())
            else:
                timer = loop.call_later((wait.due_at - _now()) / 1000, look)

        timer = loop.call_later((wait.due_at - _now()) / 1000, look)
        try:
            yield
        finally:
            timer.cancel()


async def dial(url: str, options: dict[str, Any]) -> Link:
    """An open WebSocket, or the event stream in its place; `options` are those of `connect` of websockets. A refusal with an
    HTTP status is a failure of the network, because the next attempt may be another kind of request."""
    network = _network(url, _now())
    is_stream = network.is_for_streams
    watch = _Watch()
    try:
        async with _within(_OPEN_MS * (2 if is_stream else 1)):
            inner = await (EventStream.open(url, options) if is_stream else connect(url, open_timeout=None, **options))
    except BaseException as error:
        watch.end()
        if not isinstance(error, Exception):
            raise
        if is_stream or not watch.was_away:
            network.missed(is_stream)
        if isinstance(error, InvalidStatus):
            wait = error.response.headers.get("Retry-After", "")
            asked = f" retry_after_ms={int(wait) * 1000}" if wait.isdecimal() else ""
            raise ConnectionError(f"HTTP status {error.response.status_code}{asked}") from error
        raise
    network.opened(is_stream, _now())
    return Link(inner, network, watch)


class Link:
    """A connection of either kind, in the shape of that of websockets; its end tells about the network."""

    close_code: int | None = None
    close_reason: str | None = None

    def __init__(self, inner: ClientConnection | EventStream, network: Network, watch: _Watch) -> None:
        self._inner, self._network, self._watch = inner, network, watch
        self.takes_tokens = not isinstance(inner, EventStream)
        self._opened_at = self._heard_at = _now()
        self._sent_at = -math.inf

    @property
    def transport(self) -> Self:
        """As of a WebSocket, for `abort`."""
        return self

    def abort(self) -> None:
        self._watch.end()
        self._inner.transport.abort()

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        messages = aiter(self._inner)
        try:
            async with contextlib.nullcontext() if isinstance(self._inner, EventStream) else _within(self._network.first_ms):
                message = await anext(messages)
            while True:
                self._heard_at = _now()
                yield message
                message = await anext(messages)
        except TimeoutError:
            self.close_code, self.close_reason = 1006, "silent"
            self.abort()
        except (ConnectionClosed, StopAsyncIteration):
            self.close_code, self.close_reason = self._inner.close_code or 1006, self._inner.close_reason
        self._judge(self.close_code in _BREAKS)

    async def send(self, message: str | bytes) -> None:
        self._sent_at = _now()
        await self._inner.send(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Perhaps because nothing comes any more."""
        if self.close_code is None:
            silent_ms = _now() - self._heard_at
            self._judge(silent_ms >= (_UNANSWERED_MS if self._sent_at > self._heard_at else _SILENT_MS))
        await self._inner.close(code, reason)

    def _judge(self, is_broken: bool) -> None:
        if not isinstance(self._inner, EventStream):
            self._network.ended(self._heard_at - self._opened_at, is_broken and not self._watch.was_away)


def _now() -> float:
    return time.monotonic() * 1000
