"""The clients with requests, without input or output: requests and responses, and renewed subscriptions."""
from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .core import Core, Gap, RequestError, Status

# Longest wait for the response to a ping on a link that may be dead.
_PROBE_MS = 3_000.0


class Push(NamedTuple):
    """A push of a service to the device."""

    event: str
    data: Any


@dataclass(eq=False)
class Request:
    """A request and, at the end, the response or error. `on_done` is called at the end."""

    id: str
    message: dict[str, Any]
    due_at: float
    is_safe: bool = True
    is_quiet: bool = False
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

    def ask(self, now: float, make: Callable[[str], dict[str, Any]], *, is_safe: bool = True, is_quiet: bool = False,
            place: int | None = None, on_done: Callable[[Request], None] | None = None) -> Request:
        """Makes a request with the message that `make` returns for an id. Without a connection the request waits for the next
        connection. A request in flight at the end of a connection is sent again only if `is_safe`."""
        self.now = now
        self._made += 1
        request_id = str(self._made)
        due_at = now + self.options.request_ms
        request = Request(request_id, make(request_id), due_at, is_safe, is_quiet, on_done=on_done)
        if self.status == "closed":
            self._settle(request, error=RequestError("closed"))
            return request
        self._pending.insert(len(self._pending) if place is None else place, request)
        self._flush()
        return request

    def abort(self, now: float, request: Request) -> None:
        """Ends the caller's wait. The response to a sent request must not be taken for the next response."""
        self.now = now
        request.is_safe = False
        request.on_done = None
        if not request.is_sent:
            self._settle(request, error=RequestError("aborted"))

    def handle_timer(self, now: float) -> None:
        self.now = now
        for request in self._pending:
            if now >= request.due_at:
                self._settle(request, error=RequestError("timeout", "no answer"))
        super().handle_timer(now)

    def poll_deadline(self) -> float | None:
        due_at = min([self._due_at, *(request.due_at for request in self._pending)])
        return None if due_at == math.inf else due_at

    def opened(self) -> None:
        self._flush()

    def changed(self, status: Status) -> None:
        if status in ("open", "stale"):
            return
        for request in self._pending:
            if status == "closed":
                self._settle(request, error=RequestError("closed"))
            elif request.is_sent and not request.is_safe:
                self._settle(request, error=RequestError("lost", "connection lost before the answer"))
            else:
                request.is_sent = False

    def _asked(self, request_id: Any = None) -> Request | None:
        """The request in flight with the id, or the oldest."""
        in_flight = (request for request in self._pending if request.is_sent)
        return next((request for request in in_flight if request_id is None or request.id == request_id), None)

    def _refuse(self, request: Request | None, code: str, message: Any, details: Any = None) -> None:
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


class SubscriberCore(SessionCore):
    """The common base of trades and channels: names to subscribe to, and to subscribe to again."""

    names_max = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        # The names granted by the server, the oldest first.
        self.subscriptions: dict[str, None] = {}

    def names(self, names: str | Iterable[str]) -> list[str]:
        return [names] if isinstance(names, str) else list(names)

    def message(self, action: str, names: list[str], request_id: str, group: str | None) -> dict[str, Any]:
        raise NotImplementedError

    def groups(self) -> list[tuple[str | None, dict[str, None]]]:
        """Every set of granted names; the names of a set are requested apart from others."""
        return [(None, self.subscriptions)]

    def held(self, group: str | None) -> dict[str, None]:
        return self.subscriptions

    def ping_message(self, request_id: str) -> dict[str, Any]:
        return {"action": "ping"}

    def subscribe(self, now: float, names: str | Iterable[str], group: str | None = None, **how: Any) -> Request:
        return self._change(now, "subscribe", self.names(names), group, **how)

    def unsubscribe(self, now: float, names: str | Iterable[str], group: str | None = None, **how: Any) -> Request:
        gone = self.names(names)
        self._granted([], gone, group)
        return self._change(now, "unsubscribe", gone, group, **how)

    def ping(self, now: float, **how: Any) -> Request:
        return self.ask(now, self.ping_message, **how)

    def probe(self) -> float:
        self.ping(self.now)
        return _PROBE_MS

    def opened(self) -> None:
        place = 0
        for group, held in self.groups():
            names = list(held)
            for start in range(0, len(names), self.names_max):
                part = names[start:start + self.names_max]
                done = self._asked_again(part, group)
                self._change(self.now, "subscribe", part, group, place=place, is_safe=False, on_done=done)
                place += 1
        super().opened()

    def _asked_again(self, names: list[str], group: str | None) -> Callable[[Request], None]:
        def done(request: Request) -> None:
            # After a loss the next connection asks again.
            if request.error is not None and request.error.code == "refused":
                self._granted([], names, group)
            if request.error is not None and request.error.code == "timeout":
                self._emit("error", request.error)
        return done

    def _granted(self, names: Iterable[str], gone: Iterable[str] = (), group: str | None = None) -> None:
        held = self.held(group)
        held.update(dict.fromkeys(names))
        for name in gone:
            held.pop(name, None)

    def _change(self, now: float, action: str, names: list[str], group: str | None, **how: Any) -> Request:
        return self.ask(now, lambda request_id: self.message(action, names, request_id, group), **how)


class TradesCore(SubscriberCore):
    """`weirgate trades`."""

    kind = "trade"
    is_serial = True
    names_max = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        # Symbols with granted candles, by interval.
        self.candles: dict[str, dict[str, None]] = {}

    def names(self, names: str | Iterable[str]) -> list[str]:
        return [name.upper() for name in super().names(names)]

    def message(self, action: str, names: list[str], request_id: str, group: str | None) -> dict[str, Any]:
        if group is None:
            return {"action": action, "symbols": names}
        return {"action": action + "_candles", "symbols": names, "interval": group}

    def subscribe_candles(self, now: float, symbols: str | Iterable[str], interval: str, **how: Any) -> Request:
        return self.subscribe(now, symbols, interval, **how)

    def unsubscribe_candles(self, now: float, symbols: str | Iterable[str], interval: str, **how: Any) -> Request:
        return self.unsubscribe(now, symbols, interval, **how)

    def groups(self) -> list[tuple[str | None, dict[str, None]]]:
        return [*super().groups(), *self.candles.items()]

    def held(self, group: str | None) -> dict[str, None]:
        return self.subscriptions if group is None else self.candles.setdefault(group, {})

    def receive(self, message: Any, kept: bool) -> None:
        type, data, timestamp = message.get("type"), message.get("data"), message.get("timestamp")
        if type == "trade":
            return self._emit("trade", data, timestamp)
        if type == "candle":
            return self._emit("candle", data)
        data = data or {}
        if data.get("connectionId"):
            return self._emit("welcome", data)
        request = self._asked()
        if type == "error":
            return self._refuse(request, "refused", message.get("message"))
        interval = data.get("interval")
        self._granted(data.get("currentSubscriptions", ()), data.get("unsubscribed", ()), interval)
        action = "ping" if type == "pong" else "subscribe" if "subscribed" in data else "unsubscribe"
        asked = None if request is None else (request.message["action"], request.message.get("interval"))
        # Otherwise a late response, after a timeout of the request.
        if request is not None and asked == (action + "_candles" if interval else action, interval):
            self._settle(request, data or {"timestamp": timestamp})


class ChannelsCore(SubscriberCore):
    """`weirgate channels`."""

    kind = "data"
    names_max = 1_000
    _seq = 0
    _counts = False
    _resumes = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # The last message of each name, where the server keeps a history.
        self._positions: dict[str, dict[str, Any]] = {}

    def message(self, action: str, names: list[str], request_id: str, group: str | None) -> dict[str, Any]:
        message: dict[str, Any] = {"action": action, "channels": names, "requestId": request_id}
        if self._resumes:
            # A name without a position is requested too: the server reports the name as not recovered.
            nowhere = {"epoch": "", "offset": 0}
            message["since"] = {name: self._positions.get(name, nowhere) for name in names}
        return message

    def ping_message(self, request_id: str) -> dict[str, Any]:
        return {"action": "ping", "requestId": request_id}

    def opened(self) -> None:
        self._seq = 0
        self._resumes = bool(self._positions)
        super().opened()
        self._resumes = False

    def receive(self, message: Any, kept: bool) -> None:
        self._count(message.get("seq", 0))
        type = message.get("type")
        if type == "data":
            self._moved(message)
            return self._emit("data", message)
        if type == "connected":
            return self._emit("welcome", message)
        request_id = message.get("requestId")
        request = None if request_id is None else self._asked(request_id)
        if type == "error":
            return self._refuse(request, "refused", message.get("error"))
        channels, errors = message.get("channels", []), message.get("errors", [])
        if type == "subscribed":
            self._subscribed(message, channels)
        if type == "unsubscribed":
            self._granted([], channels)
            for name in channels:
                self._positions.pop(name, None)
        if errors and not channels:
            self._refuse(request, "refused", "; ".join(errors), errors)
        elif request is not None:
            self._settle(request, message)

    def _moved(self, message: dict[str, Any]) -> None:
        name = message.get("channel") if message.get("pattern") is None else message["pattern"]
        offset, epoch = message.get("offset"), message.get("epoch")
        if epoch is None and name in self._positions:
            epoch = self._positions[name]["epoch"]
        if offset and epoch:
            self._positions[name] = {"epoch": epoch, "offset": offset}

    def _subscribed(self, message: dict[str, Any], channels: list[str]) -> None:
        positions, recovered = message.get("positions", {}), message.get("recovered", {})
        for name in channels:
            # The missed messages follow.
            if recovered.get(name) is True:
                continue
            if name in positions:
                self._positions[name] = positions[name]
            else:
                self._positions.pop(name, None)
        self._granted(channels)
        self._emit("subscribed", message)

    def _count(self, seq: int) -> None:
        # The replaced gateway counts over all clients: the numbers show no losses of this client.
        if self._seq == 0:
            self._counts = seq == 1
        if self._counts and seq > self._seq + 1:
            self._emit("gap", Gap(self._seq + 1, seq - 1))
        self._seq = seq


class DevicesCore(SessionCore):
    """`weirgate events`: a device."""

    kind = "push"

    def identify(self, now: float, device_id: str, **how: Any) -> Request:
        return self.ask(now, _identify(device_id), **how)

    def request(self, now: float, event: str, data: dict[str, Any] | None = None, **how: Any) -> Request:
        data = data or {}
        return self.ask(now, lambda request_id: {"event": event, "request_id": request_id, "data": data}, is_safe=False, **how)

    def probe(self) -> float:
        """A second `identify` is refused, changes nothing, and reaches no service. Earlier requests get responses first."""
        self.ask(self.now, _identify(self.options.device_id), is_safe=False, is_quiet=True)
        return self.options.request_ms

    def receive(self, message: Any, kept: bool) -> None:
        type, event, data, error = (message.get(key) for key in ("type", "event", "data", "error"))
        if event == "gateway.identify_required":
            return self._emit("identify", data)
        if type == "event":
            return self._emit("push", Push(event, data))
        request_id = message.get("request_id")
        # Responses come in the order of the requests: a message refused unread is the oldest in flight.
        request = self._asked(request_id) if request_id is not None or event == "gateway" else None
        # Later connections identify by the address.
        if type == "response" and event == "identify":
            self.options.device_id = data["device_id"]
        if error:
            self._refuse(request, error["code"], error["message"], error.get("details"))
        elif request is not None:
            self._settle(request, data)


def _identify(device_id: str | None) -> Callable[[str], dict[str, Any]]:
    return lambda request_id: {"event": "identify", "request_id": request_id, "data": {"device_id": device_id}}
