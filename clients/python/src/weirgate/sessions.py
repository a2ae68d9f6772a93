"""The clients with requests, without input or output: requests and responses, and renewed subscriptions."""
from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .answer_wait import AnswerWait
from .core import Core, RequestError, Status

# Longest wait for the response to a ping on a link that may be dead.
PROBE_MS = 3_000.0


class Push(NamedTuple):
    """A push of a service to the device."""

    event: str
    data: Any


@dataclass(eq=False)
class Request:
    """A request and, at the end, the response or error. `on_done` is called at the end."""

    id: str
    message: dict[str, Any]
    wait: AnswerWait | None
    is_safe: bool = True
    is_quiet: bool = False
    is_bound: bool = False
    is_sent: bool = False
    is_done: bool = False
    response: Any = None
    error: RequestError | None = None
    on_done: Callable[[Request], None] | None = None


class SessionCore(Core):
    """A connection with requests. The feed may be quiet, so silence alone is no fault: the client probes."""

    default_stale_ms = 0.0
    is_serial = False
    """Whether a request waits for the previous response, because responses do not name the request."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pending: list[Request] = []
        self._made = 0
        # Whether the server still has to answer a position of this connection.
        self._is_resuming = False
        # Whether the newest messages of a name come, which may be older than the position, until the next status or response
        # with a position.
        self._is_picturing = False

    @property
    def position(self) -> str | None:
        return self.options.since

    def hear(self, message: dict[str, Any]) -> None:
        """A position from before the answer would hide missed messages that still come."""
        if not (pos := message.get("pos")) or self._is_resuming:
            return
        if message.get("type") != self.kind:
            self._is_picturing = False
        if not self._is_picturing:
            self.options.since = pos

    def acknowledged(self, pos: str | None, is_recovered: bool | None, is_pictured: bool = False) -> None:
        """With `is_recovered` the missed messages follow, and have the next position; with `is_pictured` the newest
        messages."""
        if self._is_resuming or is_recovered:
            return
        self._is_picturing = is_pictured and pos is None and self.position is not None
        if not self._is_picturing:
            self.options.since = pos

    def ask(self, now: float, make: Callable[[str], dict[str, Any]], *, is_safe: bool = True, is_quiet: bool = False,
            is_bound: bool = False, is_patient: bool = False, on_done: Callable[[Request], None] | None = None) -> Request:
        """Makes a request with the message that `make` returns for an id. Without a connection the request waits for the next
        connection, unless `is_bound` to this one. A request in flight at the end of a connection is sent again only if
        `is_safe`. If `is_patient`, it has no timeout."""
        self.now = now
        self._made += 1
        request_id = str(self._made)
        wait = None if is_patient else AnswerWait(now, self.options.request_ms)
        request = Request(request_id, make(request_id), wait, is_safe, is_quiet, is_bound, on_done=on_done)
        if self.status == "closed":
            self._settle(request, error=self.closed_error())
            return request
        self._pending.append(request)
        self._flush()
        return request

    def abort(self, now: float, request: Request) -> None:
        """Ends the caller's wait. The response to a sent request must not be taken for the next response."""
        self.now = now
        if request.is_done:
            return
        request.is_safe = False
        request.on_done = None
        if not request.is_sent:
            self._settle(request, error=RequestError("aborted"))

    def handle_timer(self, now: float) -> None:
        self.now = now
        for request in self._pending:
            if request.wait is not None and request.wait.is_over(now):
                self._settle(request, error=RequestError("timeout", "no answer"))
        super().handle_timer(now)

    def poll_deadline(self) -> float | None:
        due_at = min([self._due_at, *(request.wait.due_at for request in self._pending if request.wait is not None)])
        return None if due_at == math.inf else due_at

    def opened(self, address: str, token: str | None) -> None:
        self._flush()

    def changed(self, status: Status) -> None:
        if status in ("open", "stale"):
            return
        self._is_picturing = False
        for request in self._pending:
            if status == "closed":
                self._settle(request, error=self.closed_error())
            elif request.is_bound or (request.is_sent and not request.is_safe):
                self._settle(request, error=RequestError("lost", "connection lost before the answer"))
            else:
                request.is_sent = False

    def _asked(self, request_id: Any = None) -> Request | None:
        """The request in flight with the id, or the oldest."""
        in_flight = (request for request in self._pending if request.is_sent)
        return next((request for request in in_flight if request_id is None or request.id == request_id), None)

    def _refuse_request(self, request: Request | None, code: str, message: Any, details: Any = None) -> None:
        error = RequestError(code, message, details)
        if request is not None:
            self._settle(request, error=error)
        if request is None or not request.is_quiet:
            self._emit("error", error)

    def _settle(self, request: Request, response: Any = None, error: RequestError | None = None) -> None:
        request.is_done, request.response, request.error = True, response, error
        self._pending = [other for other in self._pending if other is not request]
        if request.on_done is not None:
            request.on_done(request)
        self._flush()

    def _flush(self) -> None:
        for request in self._pending:
            request.is_sent = request.is_sent or self.send(json.dumps(request.message, separators=(",", ":")))
            if self.is_serial or not request.is_sent:
                return


class DevicesCore(SessionCore):
    """`weirgate events`: a device."""

    kind = "push"

    @property
    def query(self) -> dict[str, Any]:
        return super().query | {"since": self.position}

    def opened(self, address: str, token: str | None) -> None:
        self._is_resuming = bool(self.position)
        super().opened(address, token)

    def identify(self, now: float, device_id: str, **how: Any) -> Request:
        return self.ask(now, _identify(device_id, self.position), **how)

    def request(self, now: float, event: str, data: dict[str, Any] | None = None, **how: Any) -> Request:
        data = data or {}
        return self.ask(now, lambda request_id: {"event": event, "request_id": request_id, "data": data}, is_safe=False, **how)

    def probe(self) -> float:
        """A second `identify` is refused, changes nothing, and reaches no service. Earlier requests get responses first."""
        self.ask(self.now, _identify(self.options.device_id), is_safe=False, is_quiet=True)
        return self.options.request_ms

    def receive(self, message: Any, kept: bool) -> None:
        self.hear(message)
        type, event, data, error = (message.get(key) for key in ("type", "event", "data", "error"))
        if event == "gateway.identify_required":
            return self._emit("identify", data)
        if type == "event":
            return self._emit("push", Push(event, data))
        request_id = message.get("request_id")
        # Responses come in the order of the requests: a message refused unread is the oldest in flight.
        request = self._asked(request_id) if request_id is not None or event == "gateway" else None
        if event == "identify" and not error:
            if request_id is not None:
                # Later connections identify by the address. The id of a token is that of its user: the next token may be another
                # user's.
                self.options.device_id = data["device_id"]
            # A server that says nothing about the position sends nothing that was missed.
            is_unsaid = self._is_resuming and "recovered" not in data
            self._is_resuming = False
            self.acknowledged(message.get("pos"), data.get("recovered"))
            self._emit("identified", data | {"recovered": False, "why": "off"} if is_unsaid else data)
        if error:
            self._refuse_request(request, error["code"], error["message"], error.get("details"))
        elif request is not None:
            self._settle(request, data)


def is_pictured(request: Request | None, why: Iterable[str | None]) -> bool:
    """Whether the newest messages may follow the response, with these reasons against missed messages."""
    asked = request.message if request is not None else {}
    return "last" in asked and ("since" not in asked or any(one not in (None, "off") for one in why))


def _identify(device_id: str | None, since: str | None = None) -> Callable[[str], dict[str, Any]]:
    data = {"device_id": device_id} | ({"since": since} if since else {})
    return lambda request_id: {"event": "identify", "request_id": request_id, "data": data}
