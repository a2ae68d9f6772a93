"""The rules of a connection with reconnects, without input or output: a driver reports events with their times, and
carries out the outputs of `poll_output`. clients/conformance has the rules as cases; weirgate.js follows the same rules.

All times are milliseconds on the driver's monotonic clock.
"""
from __future__ import annotations

import math
import random as _random
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, NamedTuple

from .answer_wait import AnswerWait
from .outputs import Deliver, Dial, Drop, Emit, Output, Report, Send
from .outputs import Renew as Renew
from .strict_json import read_json

Status = Literal["connecting", "open", "stale", "waiting", "closed"]

# The server leaves in good order: not a failure.
_LEAVES = {1001, 1012}
# Another instance reads the bus independently, and may be some milliseconds behind.
_SETTLE_MS = 100.0
# "Try again later" (1013).
_LATER_MS = 2_000.0
# The end of a close reason with a requested wait, and the longest such wait.
_RETRY_AFTER = re.compile(r"\bretry_after_ms=([0-9]+)\Z")
_RETRY_AFTER_MAX_MS = 300_000.0
# The same would happen again: this client broke a rule, or has no permission.
_FINAL = {1002, 1003, 1007, 1008, 1009, 1010}
_SENDABLE = {*range(1000, 1004), *range(1007, 1015)}
# A refused handshake with status 4xx is final, except for these.
_PASSING = {408, 425, 429}
# With a timer so late, or a wall clock so far off, the machine was asleep, or the event loop was blocked.
_ASLEEP_MS = 5_000.0
# Until what has come in such a time is read.
_CATCH_UP_MS = 500.0
_SILENCE_DOUBLINGS_MAX = 4


@dataclass(frozen=True)
class Close:
    """The end of a connection, or of an attempt to connect."""

    code: int
    """The close code; 1006 where there was none."""
    reason: str
    opened: bool
    """Whether the handshake had succeeded."""
    attempt: int
    """Earlier failures in a row; 0 after `stable_ms` of success."""
    status: int | None = None
    """The HTTP status of a refused handshake."""
    error: str | None = None
    """The name of the system's error, such as ECONNREFUSED."""
    retry_after_ms: float = 0.0
    """The wait requested by the server: `retry_after_ms=N` at the end of the reason, or `Retry-After` of a refused handshake."""


@dataclass
class Options:
    """The limits for a stale, silent or failed connection, and the waits. 0 switches `stale_ms` and `silence_ms` off."""

    stale_ms: float | None = None
    """3,000 for levels and `connect`; 0 for the other clients, because of quiet feeds."""
    silence_ms: float = 30_000.0
    handshake_ms: float = 10_000.0
    stable_ms: float = 5_000.0
    backoff_min_ms: float = 300.0
    backoff_max_ms: float = 15_000.0
    request_ms: float = 10_000.0
    queue_max: int = 10_000
    names_max: int = 10_000
    device_id: str | None = None
    max_hz: float | None = None
    payload: Literal["binary"] | None = None
    since: str | None = None
    """The position, which moves with the messages."""
    last: int | None = None
    retry: Callable[[Close], float | bool | None] | None = None
    has_token: bool = False
    """Whether new tokens are available: after a refusal by the server, and before the end of a token."""


class RequestError(Exception):
    """Why a request has no response. `code` is a word for programs: refused (`details`: the reasons by name), timeout,
    lost, closed (`details`: the Close, if the server refused the client), late, handler and token (`details`: the
    exception, of a subscription's handler or of the function for tokens), or the gateway's own, such as rate_limited."""

    def __init__(self, code: str, message: str | None = None, details: Any = None) -> None:
        super().__init__(code if message is None else message)
        self.code = code
        self.details = details


class Gap(NamedTuple):
    """The first and the last missing `seq`. Channels: messages shed by the gateway, or lost between the bus and the gateway.
    Levels: states skipped by the gateway for this client."""

    first: int
    last: int


def check_close(code: int, reason: str) -> None:
    """Raises ValueError for a close code or reason that a client cannot send (RFC 6455 §7.4, §5.5)."""
    if not (code in _SENDABLE or 3_000 <= code < 5_000) or len(reason.encode()) > 123:
        raise ValueError(f"{code} {reason!r} is no close: a code such as 1000 or 3000 to 4999, and a reason of at most 123 bytes")


def text_of(given: object) -> str:
    """What `repr` says, also where it fails."""
    try:
        return repr(given)
    except Exception:
        return f"a {type(given).__name__}"


@dataclass
class _Link:
    """The state of a connection, or of an attempt to connect."""

    wait: AnswerWait | None
    """For the answer to the handshake, or a sign of life."""
    opened_at: float | None = None
    heard_at: float = 0.0
    silence_ms: float = 0.0
    is_first: bool = True


@dataclass
class Core:
    """A connection of any kind: `connect`."""

    options: Options = field(default_factory=Options)
    random: Callable[[], float] = _random.random
    wall: Callable[[], float] = lambda: time.time() * 1000

    kind = "message"
    """The event type of iteration; clients with another type get each message parsed."""
    default_stale_ms = 3_000.0

    def __post_init__(self) -> None:
        stale_ms = self.options.stale_ms
        self.stale_ms = self.default_stale_ms if stale_ms is None else stale_ms
        self.status: Status = "connecting"
        self.last_close: Close | None = None
        self.reconnects = 0
        self.retry_at = 0.0
        self.refusal: RequestError | None = None
        self.now = 0.0
        self._outputs: deque[Output] = deque()
        self._link: _Link | None = None
        self._attempt = 0
        # Of the newest attempt; then the refused token, and the close that refused it.
        self._dialed: str | None = None
        self._refused: tuple[str | None, Close] | None = None
        self._lost_at = 0.0
        self._ever_open = False
        self.takes_tokens = True
        self._fresh_at = -math.inf
        self._silences = 0
        self._last: Any = None
        self._due_at = math.inf
        self._clock_offset = 0.0

    # ---- Reports of the driver.

    def start(self, now: float) -> None:
        self.now = now
        self._open()

    def close(self, now: float, code: int = 1000, reason: str = "") -> None:
        """Ends the connection for good, except for `reconnect`."""
        self.now = now
        # Earlier events are not reported after the end.
        self._outputs = deque(one for one in self._outputs if not isinstance(one, Emit | Deliver))
        self._forget(code, reason)
        self.refusal = None
        self._due_at = math.inf
        self._become("closed")

    def reconnect(self, now: float) -> None:
        """Starts a new connection immediately, in any status."""
        self.now = now
        self._attempt = 0
        self._refused = None
        self._forget()
        self._open()

    def send(self, text: str) -> bool:
        """Sends now; False where there is no open connection: nothing is kept for later."""
        if self._link is None or self._link.opened_at is None:
            return False
        self._outputs.append(Send(text))
        return True

    def handle_dial(self, now: float, token: str | None) -> bool:
        """The token of the attempt; to be called before the handshake. Returns False where the server has refused this token
        already: then the connection is closed for good, and there is no handshake."""
        self.now, self._dialed = now, token
        if self._refused and self._refused[0] == token:
            self._finish(self._refused[1])
            return False
        return True

    def handle_opened(self, now: float, address: str = "", token: str | None = None, takes_tokens: bool = True) -> None:
        """The handshake has succeeded, with this address and token, on a connection that takes new tokens or not."""
        link = self._link
        assert link is not None and link.opened_at is None
        self.now = link.opened_at = link.heard_at = now
        link.wait = None
        link.silence_ms = self.options.silence_ms * 2**self._silences * (1 + self.random())
        if self._ever_open:
            self.reconnects += 1
        else:
            self._fresh_at = now
        self._ever_open = True
        self.takes_tokens = takes_tokens
        self.opened(address, token)
        self._become("stale" if self._is_stale() else "open")
        self._arm()
        self._emit("open")

    def handle_message(self, now: float, data: Any) -> None:
        """A message has come."""
        link = self._link
        assert link is not None
        self.now = link.heard_at = now
        link.wait = None
        # A new client gets the kept state. If the state is the same as before, nothing new has come.
        kept = link.is_first and data == self._last
        link.is_first = False
        self._last = data
        if not kept:
            self._fresh_at = now
            self._silences = 0
            self.refresh()
        self._emit("message", data, kept)
        if self.kind == "message":
            return
        try:
            state = self.parse(data)
            if not isinstance(state, dict):
                raise ValueError("not an object")
            self.receive(state, kept)
        except Exception as error:
            # Not JSON, or against the contract. Listeners run later, so no error of a listener comes here.
            self._emit("bad", error, data)

    def handle_closed(self, now: float, code: int, reason: str = "", *, status: int | None = None,
                      error: str | None = None, retry_after_ms: float = 0.0) -> None:
        """The connection has ended, or could not be made."""
        self.now = now
        opened = self._link is not None and self._link.opened_at is not None
        stood = opened and now - self._link.opened_at >= self.options.stable_ms  # type: ignore[union-attr,operator]
        if stood or code in _LEAVES:
            self._attempt = 0
        if stood:
            self._refused = None
        if self._attempt == 0:
            self._lost_at = now
        self._link = None
        if asked := _RETRY_AFTER.search(reason):
            retry_after_ms = float(asked[1])
        close = self.last_close = Close(code, reason, opened, self._attempt, status, error, retry_after_ms)
        wait = self._retry(close)
        if self.status == "closed" or self._link is not None:
            # `retry` has called `close` or `reconnect`.
            return
        if wait is None:
            wait = self._delay(close)
        if wait is False:
            self._finish(close)
            return
        self._attempt += 1
        self.retry_at = now + wait
        self._become("waiting")
        self._arm()

    def handle_timer(self, now: float) -> None:
        """Time has passed; to be called at `poll_deadline`, and harmless before."""
        self.now = now
        link = self._link
        if self.status == "closed":
            return
        if self.status == "waiting":
            if now >= self.retry_at:
                self._open()
                return
        elif link is not None and link.opened_at is None:
            if link.wait is not None and link.wait.is_over(now):
                self._give_up("no answer to the handshake")
                return
        elif link is not None and self._is_over(link):
            return
        self._arm()

    def report(self, error: RequestError) -> None:
        """Reports a failure of the program, such as an exception of a handler, to the listeners of `error`."""
        self._emit("error", error)

    def closed_error(self) -> RequestError:
        """Why requests fail after the end."""
        return self.refusal or RequestError("closed")

    def poll_output(self) -> Output | None:
        """Returns the next output; None if there is no output."""
        return self._outputs.popleft() if self._outputs else None

    def poll_deadline(self) -> float | None:
        """When `handle_timer` is due; None while nothing is."""
        return None if self._due_at == math.inf else self._due_at

    # ---- Methods for typed clients to override.
    @property
    def query(self) -> dict[str, Any]:
        """The parameters of the address, without those that are None."""
        return {"device_id": self.options.device_id, "max_hz": self.options.max_hz}

    def opened(self, address: str, token: str | None) -> None:
        pass

    def changed(self, status: Status) -> None:
        pass

    def parse(self, data: Any) -> Any:
        return read_json(data)

    def receive(self, message: Any, kept: bool) -> None:
        self._emit("state", message, kept)

    def probe(self) -> float:
        """Requests a response; returns the longest wait in ms, 0 if the protocol has no such request."""
        return 0.0

    # Whether the server has said that its bus is away: it has nothing new.
    @property
    def is_away(self) -> bool:
        return False

    def refresh(self) -> None:
        status: Status = "stale" if self._is_stale() else "open"
        if self.status in ("open", "stale") and status != self.status:
            self._become(status)
            self._arm()

    # ---- Inside

    def _finish(self, close: Close) -> None:
        """The end for good."""
        self._link = None
        self.refusal = RequestError("closed", f"{close.code} {close.reason}", close)
        self._due_at = math.inf
        self._become("closed")

    def _open(self) -> None:
        self._link = _Link(AnswerWait(self.now, self.options.handshake_ms))
        self.refusal = None
        self._outputs.append(Dial(refused=self._refused is not None))
        self._become("connecting")
        self._arm()

    def _give_up(self, reason: str) -> None:
        self._outputs.append(Drop(1000, ""))
        self.handle_closed(self.now, 1006, reason)

    def _is_over(self, link: _Link) -> bool:
        """Handles the time on an open connection; returns whether the connection was replaced, or is armed already."""
        now = self.now
        drift = abs(self.wall() - now - self._clock_offset)
        is_late = link.wait is None and max(now - self._due_at, drift) > _ASLEEP_MS
        if link.wait is not None and link.wait.is_over(now):
            self._again("no sign of life")
            return True
        if now >= self._silent_at(link) and not is_late:
            probe_ms = self.probe()
            if not probe_ms:
                self._silences = min(self._silences + 1, _SILENCE_DOUBLINGS_MAX)
                self._again("silent")
                return True
            link.wait = AnswerWait(now, probe_ms)
            return False
        if self.status == "open" and self._is_stale():
            self._become("stale")
        if is_late:
            self._check(link)
        return False

    def _check(self, link: _Link) -> None:
        """The machine slept: a dead link says nothing by itself, so wait for a sign of life."""
        stale_ms, probe_ms = self.stale_ms, self.probe()
        is_silent = not probe_ms and self.now - link.heard_at >= stale_ms
        if probe_ms or stale_ms > 0:
            link.wait = AnswerWait(self.now, _CATCH_UP_MS if is_silent else probe_ms or stale_ms)

    def _again(self, why: str) -> None:
        self.last_close = Close(1006, why, True, self._attempt)
        self._forget()
        self._open()

    def _forget(self, code: int = 1000, reason: str = "") -> None:
        if self._link is not None:
            self._link = None
            self._outputs.append(Drop(code, reason))

    def _retry(self, close: Close) -> float | Literal[False] | None:
        """The wait that the program chooses; None as usual, also where its function fails."""
        if self.options.retry is None:
            return None
        try:
            wait = self.options.retry(close)
            if wait is None or wait is True:
                return None
            if not isinstance(wait, Real) or math.isnan(wait):
                raise TypeError(f"{wait!r} is no wait: a number of ms, False, or None")
            return False if wait is False else max(0.0, float(wait))
        except BaseException as failure:
            self._outputs.append(Report("the function `retry`", failure))
            return None

    def _delay(self, close: Close) -> float | Literal[False]:
        """Full jitter, because every client lost the same server in the same moment. The random part is at most the
        time since the loss, so clients are back soon after a short outage."""
        options, status = self.options, close.status or 0
        # An operator has cut the client off, and the new token too.
        is_cut = close.reason == "revoked" and self._refused is not None and self._refused[1].reason == "revoked"
        if options.has_token and not is_cut and (close.code == 1008 or status == 401):
            # A new token may be admitted.
            self._refused = (self._dialed, close)
        elif close.code in _FINAL or (400 <= status < 500 and status not in _PASSING):
            return False
        least = _LATER_MS if close.code == 1013 else _SETTLE_MS if close.opened else options.backoff_min_ms
        away = max(options.backoff_min_ms, self.now - self._lost_at)
        window = min(options.backoff_max_ms, options.backoff_min_ms * 2 ** min(close.attempt, 64), away)
        return max(least, min(close.retry_after_ms, _RETRY_AFTER_MAX_MS)) + self.random() * window

    def _is_stale(self) -> bool:
        return self.is_away or 0 < self.stale_ms <= self.now - self._fresh_at

    def _silent_at(self, link: _Link) -> float:
        return link.heard_at + link.silence_ms if link.silence_ms > 0 and link.wait is None else math.inf

    def _arm(self) -> None:
        """Finds the next deadline."""
        link = self._link
        if self.status == "closed":
            self._due_at = math.inf
        elif link is None:
            self._due_at = self.retry_at
        elif link.opened_at is None:
            self._due_at = link.wait.due_at if link.wait else math.inf
        else:
            is_open = self.stale_ms > 0 and self.status == "open"
            stale_at = self._fresh_at + self.stale_ms if is_open else math.inf
            self._due_at = min(stale_at, self._silent_at(link), link.wait.due_at if link.wait else math.inf)
        self._clock_offset = self.wall() - self.now

    def _become(self, status: Status) -> None:
        if status != self.status:
            self.status = status
            self.changed(status)
            self._emit("status", status)

    def _emit(self, type: str, *args: Any) -> None:
        self._outputs.append(Emit(type, args))


class LevelsCore(Core):
    """`weirgate levels`: the newest state."""

    kind = "state"
    state: Any = None
    _seq: Any = None

    def opened(self, address: str, token: str | None) -> None:
        self._seq = None

    def receive(self, message: Any, kept: bool) -> None:
        seq, last = message.get("seq"), self._seq
        self._seq = seq if type(seq) is int else None
        if last is not None and self._seq is not None and seq > last + 1:
            self._emit("gap", Gap(last + 1, seq - 1))
        self.state = message
        super().receive(message, kept)
