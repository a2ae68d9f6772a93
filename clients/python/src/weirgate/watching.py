"""Latency and status of a client on asyncio: what `latency.py` and `status.py` find is driven by the events of the client."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from .aio import _Subscriber
from .connection import Connection, plain
from .latency import LatencyCore
from .status import FeedStatus, StatusCore


class _Watch:
    """Rules beside those of a client: gets their events, and keeps their timer."""

    def __init__(self, client: Connection[Any], rules: LatencyCore | StatusCore) -> None:
        self._client, self._rules = client, rules
        self._timer: asyncio.TimerHandle | None = None
        self._offs = [client.on(type, partial(self._event, type)) for type in rules.types]
        self._arm()

    def end(self) -> None:
        """In any thread: `weirgate.sync` has the client in another one."""
        # Where the loop is closed, there is nothing to end.
        with suppress(RuntimeError):
            self._client._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        for off in self._offs:
            off()
        self._offs = []
        self._arm()

    def _event(self, type: str, *args: Any) -> None:
        self._rules.handle_event(type, args)
        self._arm()

    def _tick(self) -> None:
        self._rules.handle_timer(self._client._now())
        self._client._pump()
        self._arm()

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
        due = self._rules.poll_deadline() if self._offs else None
        wait_ms = None if due is None else max(0.0, due - self._client._now())
        self._timer = None if wait_ms is None else self._client._loop.call_later(wait_ms / 1000, self._tick)


class Latency:
    """How late the messages of a client come, and how old they are, by the server's clock."""

    def __init__(self, client: _Subscriber[Any], ping_ms: float) -> None:
        self._client, self._core = client, LatencyCore(client._core, ping_ms)
        self._watch = _Watch(client, self._core)

    @property
    def ms(self) -> float | None:
        """How late the newest live message came: from the bus to this client with a gateway with `--stamp`, else from the
        gateway to this client. None before the first message, and until the server's clock is known."""
        return self._core.ms

    @property
    def error_ms(self) -> float | None:
        """`ms`, `server_now` and `age_of` are wrong by at most so much: half of the best round trip, and what clocks drift
        since."""
        return self._core.error_ms(self._client._time())

    @property
    def round_trip_ms(self) -> float | None:
        """Of the newest ping."""
        return self._core.round_trip_ms

    def server_now(self) -> float | None:
        """The time of the server now, Unix time in ms."""
        return self._core.server_now(self._client._time())

    def age_of(self, message: Mapping[str, Any]) -> float | None:
        """How old a message is now, in ms: since the bus with `--stamp`, else since its `timestamp`."""
        return self._core.age_of(self._client._time(), message)

    def end(self) -> None:
        self._watch.end()


def latency_of(client: _Subscriber[Any], *, ping_ms: float = 60_000.0) -> Latency:
    """Finds the offset of the server's clock: four pings after each connection, then one each `ping_ms`, half to one and a half
    times at random. With `fallback` on an event stream the clock stays unknown, since the client answers pings itself."""
    return Latency(client, ping_ms)


def status_of(client: Connection[Any], changed: Callable[[FeedStatus], object], *, latency: Latency | None = None,
              late_ms: float = 1_000.0, recent_ms: float = 10_000.0) -> Callable[[], None]:
    """Calls `changed` now and at each change of what is wrong with a client. With a `latency` of the client "late" is known too.
    "missing", "failed" and "late" stay for `recent_ms` after the last time. Returns a function that ends it."""
    call = plain(changed)
    core = StatusCore(client._core, lambda now: client._call(call, (now,)), latency and latency._core, late_ms, recent_ms)
    return _Watch(client, core).end
