"""How late messages come and how old they are, by the server's clock, without input or output. The offset of the clock is found from
round trips, as NTP does."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from .channels import unix_ms
from .sessions import Request
from .subscriptions import SubscriberCore, TradesCore

# Two clocks of quartz drift apart by so much (RFC 5905 §7.3, PHI).
_DRIFT = 15e-6
# The newest round trips, of which the best counts (RFC 5905 §10, the clock filter).
_TRIPS_MAX = 8
# The first ones follow soon: a single one may have been slow.
_FIRST = 4
_FIRST_MS = 500.0


class _Trip(NamedTuple):
    """A round trip; the server's clock is ahead by `offset_ms`, give or take `error_ms` at the time `at`."""

    trip_ms: float
    offset_ms: float
    error_ms: float
    at: float


class LatencyCore:
    """The latency of a client of trades or channels. It makes pings by itself: the driver pumps the client behind each call."""

    def __init__(self, core: SubscriberCore, ping_ms: float = 60_000.0) -> None:
        self.types = ("status", "subscribed", core.kind)
        self.ms: float | None = None
        self._core, self._ping_ms = core, ping_ms
        self._trips: list[_Trip] = []
        self._made = 0
        self._is_up = False
        self._ping_at = math.inf
        # Of the ping in flight.
        self._sent_at: float | None = None
        self._subscribed_at = core.now
        self._begin()

    # ---- For programs

    # Of `weirgate.sync` other threads call these: each reads the trips once.

    def error_ms(self, now: float) -> float | None:
        best = self._best(now)
        return None if best is None else _error(best, now)

    @property
    def round_trip_ms(self) -> float | None:
        trips = self._trips
        return trips[-1].trip_ms if trips else None

    def server_now(self, now: float) -> float | None:
        best = self._best(now)
        return None if best is None else now + best.offset_ms

    def age_of(self, now: float, message: Mapping[str, Any]) -> float | None:
        server_ms = self.server_now(now)
        return None if server_ms is None else max(0.0, server_ms - _stamp(message))

    # ---- Reports of the driver

    def handle_event(self, type: str, args: tuple[Any, ...]) -> None:
        now = self._core.now
        if type == "status":
            self._begin()
        elif type == "subscribed":
            self._subscribed_at = now
        elif best := self._best(now):
            message = self._core.stamps if isinstance(self._core, TradesCore) else args[0]
            # What the subscription brings from before it, such as missed messages, is old and not late.
            if not message.get("retained") and _stamp(message) - best.offset_ms >= self._subscribed_at:
                self.ms = self.age_of(now, message)

    def handle_timer(self, now: float) -> None:
        if now >= self._ping_at:
            self._ping_at, self._sent_at = math.inf, now
            self._core.ping(now, is_bound=True, is_quiet=True, on_done=lambda request: self._done(request, now))

    def poll_deadline(self) -> float | None:
        return None if self._ping_at == math.inf else self._ping_at

    # ---- Inside

    def _begin(self) -> None:
        """Another connection may lead to another machine, with another clock."""
        is_up = self._core.status in ("open", "stale")
        if is_up == self._is_up:
            return
        self._is_up, self._trips, self._made, self._sent_at, self.ms = is_up, [], 0, None, None
        # Many clients may have connected at once.
        self._ping_at = self._core.now + _FIRST_MS * self._core.random() if is_up else math.inf

    def _done(self, request: Request, sent_at: float) -> None:
        if self._sent_at != sent_at:
            return
        now, timestamp = self._core.now, (request.response or {}).get("timestamp")
        server_ms = float(timestamp) if isinstance(timestamp, int | float) else unix_ms(timestamp)
        if not math.isnan(server_ms):
            trip_ms = now - sent_at
            # The server's time is cut to whole ms, and lies between the two.
            self._take(_Trip(trip_ms, server_ms + 0.5 - (sent_at + now) / 2, trip_ms / 2 + 0.5, now))
        self._sent_at = None
        self._made += 1
        self._ping_at = now + (_FIRST_MS if self._made < _FIRST else self._ping_ms * (0.5 + self._core.random()))

    def _take(self, trip: _Trip) -> None:
        """Earlier trips that contradict the new one are from before a clock was set."""
        kept = [one for one in self._trips if abs(one.offset_ms - trip.offset_ms) <= trip.error_ms + _error(one, trip.at)]
        self._trips = [*kept, trip][-_TRIPS_MAX:]

    def _best(self, now: float) -> _Trip | None:
        """The round trip that says most."""
        return min(reversed(self._trips), key=lambda trip: _error(trip, now), default=None)


def _error(trip: _Trip, now: float) -> float:
    return trip.error_ms + _DRIFT * (now - trip.at)


def _stamp(message: Mapping[str, Any]) -> float:
    if recv_us := message.get("recv_us"):
        return float(recv_us) / 1000
    timestamp = message.get("timestamp")
    return float(timestamp) if isinstance(timestamp, int | float) else unix_ms(timestamp)
