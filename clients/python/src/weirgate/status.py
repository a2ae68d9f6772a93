"""One state of a client and its cause, of all that a program would have to combine, without input or output."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from .core import Core, RequestError
from .latency import LatencyCore

State = Literal["closed", "waiting", "connecting", "away", "stale", "missing", "failed", "late", "loading", "refused", "open"]
"""The worst first. closed, waiting, connecting: as of `status`, no connection; away: the server's bus is away, so nothing new comes;
stale: nothing has come for `stale_ms`; missing: messages were lost, for this client, on the bus, or while it was away, or were bad, or
a name has more last values than come; failed: a request was refused or had no response, or there is no new token; late: messages come more than
`late_ms` late; loading: a name has no answer yet, or its last values are coming; refused: the server refuses names; open: none of these."""

_OF_NAMES = ("status", "refused", "unanswered", "coming", "subscribed")
"""The events after which a name may be in another state."""

_STATES: tuple[State, ...] = State.__args__  # type: ignore[attr-defined]


class Cause(NamedTuple):
    state: State
    cause: str
    """A sentence."""


class FeedStatus(NamedTuple):
    state: State
    cause: str
    causes: tuple[Cause, ...]
    """All that holds now, the worst first: `state` and `cause` are the first."""


class _Recent(NamedTuple):
    cause: Cause
    count: int
    at: float


class StatusCore:
    """The state of a client; `changed` is called now and at each change."""

    def __init__(self, core: Core, changed: Callable[[FeedStatus], object], latency: LatencyCore | None = None,
                 late_ms: float = 1_000.0, recent_ms: float = 10_000.0) -> None:
        self.types = ("status", "bus", "refused", "unanswered", "coming", "subscribed", "identified", "error", "bad", "gap", *([core.kind] if latency else ()))
        self._core, self._changed, self._latency = core, changed, latency
        self._late_ms, self._recent_ms = late_ms, recent_ms
        # What has happened within `recent_ms`.
        self._recent: dict[str, _Recent] = {}
        self._shown: list[Cause] = []
        # Found anew only when names have changed: there may be very many.
        self._of_names = self._causes_of_names()
        self._show()

    # ---- Reports of the driver

    def handle_event(self, type: str, args: tuple[Any, ...]) -> None:
        if type in _OF_NAMES:
            self._of_names = self._causes_of_names()
        if type == "bus" and args[1]:
            self._happened("missing", "bus", lambda _: "The server's bus has lost messages.")
        elif type in ("subscribed", "identified"):
            self._resumed(args[0])
        elif type == "error":
            self._failed(args[0])
        elif type == "bad":
            self._happened("missing", "bad", lambda count: f"Bad messages: {count}.")
        elif type == "gap":
            self._skipped(args[0])
        elif type == self._core.kind:
            self._arrived()
        self._show()

    def handle_timer(self, now: float) -> None:
        self._recent = {what: one for what, one in self._recent.items() if now < one.at + self._recent_ms}
        self._show()

    def poll_deadline(self) -> float | None:
        return min((one.at + self._recent_ms for one in self._recent.values()), default=None)

    # ---- Inside

    def _resumed(self, answer: dict[str, Any]) -> None:
        recovered, why = answer.get("recovered"), answer.get("why")
        brings = answer.get("brings", {})
        # Last values show what has changed meanwhile.
        all_names = "the pushes" if self._core.kind == "push" else "the symbols"
        lost = [name for name, is_recovered in (recovered if isinstance(recovered, dict) else {all_names: recovered}).items()
                if is_recovered is False and brings.get(name, {}).get("from") != "retained"]
        if lost:
            reasons = dict.fromkeys(why.get(name) if isinstance(why, dict) else why for name in lost)
            self._happened("missing", "recovered",
                           lambda _: f"What was missed of {_some(lost)} does not follow: {', '.join(map(str, reasons))}.")

    def _failed(self, error: RequestError) -> None:
        # Of names the client has the reasons; the handler is the program's own.
        if error.code == "handler" or (error.code == "refused" and error.details):
            return
        what = "There is no new token" if error.code == "token" else "A request has failed"
        self._happened("failed", "request", lambda _: f"{what}: {error}.")

    def _skipped(self, gap: tuple[int, int]) -> None:
        # A new state is whole, and who asks for a rate wants gaps.
        if self._core.kind != "state" and not self._core.options.max_hz:
            self._happened("missing", "gap", lambda count:
                           f"Missing messages: {count}; this client was too slow for them, or the bus has lost them.",
                           gap[1] - gap[0] + 1)

    def _arrived(self) -> None:
        if self._latency is not None and (self._latency.ms or 0) > self._late_ms:
            self._happened("late", "late", lambda _: f"Messages come more than {_number(self._late_ms)} ms late.")

    def _happened(self, state: State, what: str, cause: Callable[[int], str], more: int = 1) -> None:
        count = more + (self._recent[what].count if what in self._recent else 0)
        self._recent[what] = _Recent(Cause(state, cause(count)), count, self._core.now)

    def _causes(self) -> list[Cause]:
        core = self._core
        causes = [one.cause for one in self._recent.values()]
        if core.status not in ("open", "stale"):
            causes.append(Cause(core.status, self._cause_of_close()))
        elif core.is_away:
            causes.append(Cause("away", "The server gets no messages from its bus."))
        elif core.status == "stale":
            causes.append(Cause("stale", f"Nothing has come for {_number(core.stale_ms)} ms."))
        causes += self._of_names
        return sorted(causes or [Cause("open", "All is well.")], key=lambda one: _STATES.index(one.state))

    def _causes_of_names(self) -> list[Cause]:
        core = self._core
        causes: list[Cause] = []
        if core.status in ("open", "stale") and (unanswered := getattr(core, "unanswered", [])):
            causes.append(Cause("loading", f"The server has not answered yet for {_some(unanswered)}."))
        cuts = getattr(core, "cuts", {})
        for cut in dict.fromkeys(cuts.values()):
            causes.append(Cause("missing", f"Not all last values of {_some([name for name, one in cuts.items() if one == cut])} have come: {cut}."))
        if due := [name for name in getattr(core, "coming", ()) if name not in cuts]:
            causes.append(Cause("loading", f"The last values of {_some(due)} are coming."))
        if refused := [f"{name} ({why})" for name, why in getattr(core, "refused", {}).items()]:
            causes.append(Cause("refused", f"The server refuses {_some(refused)}."))
        return causes

    def _cause_of_close(self) -> str:
        status, close = self._core.status, self._core.last_close
        why = f"{close.code} {close.reason}".strip() if close else ""
        if status == "closed":
            return f"The server refuses this client: {why}." if self._core.refusal else "The program has closed the connection."
        if status == "waiting":
            return f"The connection is lost: {why}."
        return f"Connecting again after {why}." if why else "Connecting."

    def _show(self) -> None:
        if self._core.status not in ("open", "stale"):
            self._recent = {}
        causes = self._causes()
        if causes != self._shown:
            self._shown = causes
            self._changed(FeedStatus(*causes[0], tuple(causes)))


def _some(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")


def _number(ms: float) -> str:
    return f"{ms:f}".rstrip("0").rstrip(".")
