"""Channels without input or output: subscriptions, and new tokens before old ones end."""
from __future__ import annotations

import base64
import json
import math
import re
from datetime import datetime
from typing import Any, cast

from .answer_wait import AnswerWait
from .core import Gap, RequestError, Status, text_of
from .outputs import Renew
from .sessions import Request, is_pictured
from .subscriptions import ALL, SubscriberCore

# A new token: asked for so long before the end of the old one, and after waits of this range.
_BEFORE_MS = 5_000.0
_RENEWAL_MIN_MS = 1_000.0
_RENEWAL_MAX_MS = 1e9
# Refusals of a new token that pass.
_PASSING = re.compile(r"Too many|Keys|Token is")


class ChannelsCore(SubscriberCore):
    """`weirgate channels`."""

    kind = "data"
    part_max = 1_000
    _seq = 0
    _counts = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._address, self._token = "", cast("str | None", None)
        # Of the token; then the time for a new token, and the wait for the token.
        self._ends_at = self._renew_at = math.inf
        self._token_wait: AnswerWait | None = None
        self._is_asking = False

    def message(self, action: str, names: list[str], request_id: str, group: str, more: dict[str, Any]) -> dict[str, Any]:
        return {"action": action, "channels": names} | more | {"requestId": request_id}

    def ping_message(self, request_id: str) -> dict[str, Any]:
        return {"action": "ping", "requestId": request_id}

    @property
    def query(self) -> dict[str, Any]:
        return super().query | {"payload": self.options.payload}

    def opened(self, address: str, token: str | None) -> None:
        self._seq = 0
        self._address, self._token = address, token
        super().opened(address, token)

    def changed(self, status: Status) -> None:
        super().changed(status)
        if status not in ("open", "stale"):
            self._plan_renewal(math.nan)

    # ---- A new token before the end of the old one

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        if now >= self._renew_at:
            self._renew_at, self._token_wait = math.inf, AnswerWait(now, self.options.request_ms)
            self._is_asking = True
            self._outputs.append(Renew(True))
        elif self._token_wait is not None and self._token_wait.is_over(now):
            self._failed_token(TimeoutError("no new token in time"))

    def poll_deadline(self) -> float | None:
        due_at = super().poll_deadline()
        late_at = self._token_wait.due_at if self._token_wait is not None else math.inf
        due_at = min(math.inf if due_at is None else due_at, self._renew_at, late_at)
        return None if due_at == math.inf else due_at

    def handle_token(self, now: float, token: str | None) -> None:
        """The new token requested by `Renew`."""
        self.now = now
        if not self._is_asking:
            return
        self._is_asking = False
        if not token or token == self._token:
            return self._plan_renewal(self._ends_at)
        wait = self._token_wait

        def done(request: Request) -> None:
            # Otherwise too late, or on a connection that is lost.
            if self._token_wait is wait and request.error is not None and request.error.code == "refused":
                self._plan_renewal(self._ends_at if _PASSING.match(str(request.error)) else math.nan)

        self.ask(now, lambda request_id: {"action": "authenticate", "token": token, "requestId": request_id},
                 is_bound=True, on_done=done)

    def handle_no_token(self, now: float, error: BaseException) -> None:
        """The function for tokens has failed."""
        self.now = now
        if self._is_asking:
            self._is_asking = False
            self._failed_token(error)

    def _failed_token(self, error: BaseException) -> None:
        self._plan_renewal(self._ends_at)
        self._emit("error", RequestError("token", text_of(error), error))

    def _admit(self, message: dict[str, Any], request: Request | None) -> None:
        if request is not None:
            self._token = request.message["token"]
        self.admitted(self._address, self._token)
        self.revoked(message.get("revoked", []))
        # The gateway's clock tells how long the token lasts: a client's clock may be wrong.
        left = _end_of(self._token) - unix_ms(message.get("timestamp"))
        is_renewable = self.takes_tokens and self.options.has_token
        self._plan_renewal(self.now + left if is_renewable else math.nan)

    def _plan_renewal(self, ends_at: float) -> None:
        """Asks for a new token at a random time, because many clients may have connected at once."""
        self._ends_at, self._token_wait, self._renew_at = ends_at, None, math.inf
        left = ends_at - self.now
        if left > 0:
            wait = min(left * (0.6 + 0.2 * self.random()), left - _BEFORE_MS, _RENEWAL_MAX_MS)
            self._renew_at = self.now + max(_RENEWAL_MIN_MS, wait)
        if self._is_asking:
            self._is_asking = False
            self._outputs.append(Renew(False))

    # ---- Messages

    def parse(self, data: Any) -> Any:
        """A binary message is a line of JSON and the payload."""
        if not self.options.payload or isinstance(data, str):
            return super().parse(data)
        head, _, payload = data.partition(b"\n")
        message = super().parse(head)
        return message | {"data": None if message.get("deleted") else payload}

    def receive(self, message: Any, kept: bool) -> None:
        type = message.get("type")
        if type in ("data", "last"):
            name = message["channel"] if message.get("pattern") is None else message["pattern"]
            is_for_us = self.hear_of(name, message)
            self._count_seq(message.get("seq", 0))
            if is_for_us and type == "data":
                is_for_us = self.deliver(name, "", message, message.get("data"), message)
            return self._emit(type, message) if is_for_us else None
        self.hear(message)
        self._count_seq(message.get("seq", 0))
        if type == "status":
            return self.reported(message)
        if type == "retained":
            return self._emit("retained", message) if self.ended(message["channel"], message.get("cut", "")) else None
        request_id = message.get("requestId")
        request = None if request_id is None else self._asked(request_id)
        if type == "connected":
            self.begun()
        if type in ("connected", "authenticated"):
            self._admit(message, request)
        if type == "connected":
            return self._emit("welcome", message)
        if type == "error" and request is None and self.barred(message.get("error")):
            return None
        if type == "error":
            return self._refuse_request(request, "refused", message.get("error"))
        if type == "subscribed":
            if "brings" in message:
                self.brought(message.get("channels", []), message["brings"])
            acknowledgement = self.judged(message, message.get("channels", []), request)
            self.recovered = acknowledgement.get("recovered", self.recovered)
            self._emit("subscribed", acknowledgement)
        if request is not None:
            self._settle(request, message)
        if type != "subscribed":
            return
        channels = message.get("channels", [])
        if request is None:
            # After the timeout of the request.
            self.granted(channels)
            return
        if request.message.get("last") == ALL:
            return
        # A response that grants nothing says nothing about the history.
        is_recovered = not channels or True in message.get("recovered", {}).values()
        self.acknowledged(message.get("pos"), is_recovered, is_pictured(request, message.get("why", {}).values()))

    def _count_seq(self, seq: int) -> None:
        # The replaced gateway counts over all clients: the numbers show no losses of this client.
        if self._seq == 0:
            self._counts = seq == 1
        if self._counts and seq > self._seq + 1:
            self._emit("gap", Gap(self._seq + 1, seq - 1))
        self._seq = seq


def _end_of(token: str | None) -> float:
    """The end of a JWT, Unix time in ms; NaN for another token, and without an end."""
    try:
        body = str(token).split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["exp"]) * 1000
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):
        return math.nan


def unix_ms(timestamp: Any) -> float:
    """Unix time in ms of a text in ISO 8601; NaN of anything else."""
    try:
        return datetime.fromisoformat(timestamp).timestamp() * 1000
    except (TypeError, ValueError, OverflowError):
        return math.nan
