"""Names that are wanted until they are given up, over all connections, without input or output; and trades."""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from .answer_wait import AnswerWait
from .core import RequestError, Status
from .options import Brings, Bus, Last
from .outputs import Deliver, Warn
from .sessions import PROBE_MS, Request, SessionCore, is_pictured

# A refusal by a limit passes.
_LIMITED = re.compile(r"Max |Server limit |Cannot subscribe")
# No other name has room either.
_FULL = re.compile(r"would exceed maximum")
# Limits that other clients, or other connections of the user, share: asked again after this time, up to doubled at random,
# then less often.
_SHARED = re.compile(r"per user|^Server limit|too many symbols")
# A name that the server has granted, and that its bus refuses for now.
_BARRED = re.compile(r"Refused by the bus: (.*)", re.DOTALL)
# Within a second of this error trades drops further messages without one.
_OVER_RATE = "Rate limit exceeded"
_AFTER_DROP_MS = 1_100.0
# What a name brings if the server keeps no messages of it.
_SHORT = ("retained", "live")
# Why the newest messages of a name have not come: reasons that pass, and all.
_PASSING = ("away", "refused", "unreadable", "limit")
# The newest messages may be outdated: the bus has lost messages since.
_LOST = "lost"
_LACKS = (*_PASSING, "unnamed", "large", _LOST)
# Of the newest messages of a name, those that the client keeps for later subscriptions.
_KEPT_MAX = 10_000
_AGAIN_MIN_MS = 5_000.0
_AGAIN_MAX_MS = 60_000.0
_TELL_MS = 200.0
# A change of one name that goes through all names may cost as much as this many names.
_NAMES_A_CHANGE = 64

ALL: Literal["all"] = "all"
"""Of `last`."""

State = Literal["wanted", "asked", "live", "refused", "limited", "gone"]
"""Of a name: "limited" is refused for now."""


@dataclass(eq=False)
class _Entry:
    """A name, with the subscriptions that want the name."""

    name: str
    group: str
    subscriptions: dict[SubscriptionCore, None] = field(default_factory=dict)
    state: State = "wanted"
    why: str = ""
    is_alone: bool = False
    since: str | None = None
    """The position up to which the client has all messages of the name."""
    is_own: bool = False
    """`since` is a position of the name's own: of what comes from the beginning, until the position of the client is as far."""
    is_coming: bool = False
    """What comes from the beginning has not ended."""
    is_known: bool = False
    """Whether the server has granted the name before."""
    was_live: bool = False
    """The name was live when the connection was lost, and has not been granted since."""
    told: str | None = None
    """The reason that the listeners of errors know."""
    warned: str | None = None
    """The reason that is in the log."""
    is_retained: bool = False
    """The server has last values. They come to the subscriptions that are `due`; those that have joined since (`fresh`) are `asked`
    for next. Each has the count of messages at which it joined: of a channel that was `heard` since then it needs no last value.
    They stay due if the bus does not give all values in time (`cut`): the rest may still come."""
    fresh: dict[SubscriptionCore, int] = field(default_factory=dict)
    asked: dict[SubscriptionCore, int] | None = None
    due: dict[SubscriptionCore, int] | None = None
    is_whole: bool = True
    """The last values that are due come to all subscriptions."""
    is_held_up: bool = False
    """The server does not answer the question for last values, for now."""
    heard: dict[str, int] = field(default_factory=dict)
    count: int = 0
    cut: str = ""
    """Why last values have not all come."""
    keeps: int = 0
    """How many of the newest messages of each channel are `kept` for who joins."""
    kept: dict[str, list[tuple[int, Any, tuple[Any, ...]]]] = field(default_factory=dict)
    lack: str = ""
    """Why its newest messages are missing."""
    is_filling: bool = False
    """The newest messages are coming: if they may be outdated, they do not end the lack."""
    is_asked_again: bool = False
    """The client has asked for them again (`SubscriberCore._ask_newest`)."""
    past: list[tuple[str, Any, tuple[Any, ...]]] | None = None
    """The newest messages that follow the answer."""
    lacks_still: str = ""
    """The reason once all have come."""

    @property
    def last(self) -> Last | None:
        """The largest of its subscriptions."""
        return max((one.last for one in self.subscriptions), key=_size, default=None)

    @property
    def missing(self) -> str:
        """Why newest messages that somebody wants are missing."""
        return self.lack if self.lack and _number(self.last) else ""

    @property
    def is_refused(self) -> bool:
        return self.state in ("refused", "limited")

    @property
    def is_barred(self) -> bool:
        """Granted, and refused by the bus of the server."""
        return self.state == "live" and bool(self.why)

    @property
    def waits(self) -> list[dict[SubscriptionCore, int]]:
        """The subscriptions to which last values come."""
        if self.state != "live" or not self.is_retained or self.is_held_up:
            return []
        return [some for some in (self.fresh, self.asked, None if self.cut else self.due) if some]


@dataclass(eq=False)
class SubscriptionCore:
    """Names that a part of the program wants until `SubscriberCore.unsubscribe`. `on_change` is called when the wait for
    the server ends, and when no more messages come."""

    core: SubscriberCore
    entries: list[_Entry]
    handler: Callable[..., object] | None
    wait: AnswerWait
    last: Last | None = None
    """How many of the newest messages of each name it wants."""
    is_done: bool = False
    """The wait for the server is over."""
    is_left: bool = False
    is_heard: bool = False
    """Of the driver: somebody has waited for the server, and so has heard of a refusal."""
    error: RequestError | None = None
    on_change: Callable[[], None] | None = None
    on_item: Callable[[Any], None] | None = None
    """Of the driver: for the iterations."""

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    @property
    def granted(self) -> list[str]:
        """The names granted on this connection."""
        return [entry.name for entry in self.entries if entry.state == "live" and not entry.why]

    @property
    def refused(self) -> dict[str, str]:
        """The reasons by name."""
        return {entry.name: entry.why for entry in self.entries if entry.is_refused or entry.is_barred}

    @property
    def coming(self) -> list[str]:
        """The names whose last values are coming to this subscription."""
        return [entry.name for entry in self.entries if any(self in some for some in entry.waits)]

    @property
    def is_over(self) -> bool:
        """Whether no more messages come; `ending` has the reason."""
        return self.is_left or self.core.status == "closed" or all(entry.is_refused for entry in self.entries)

    @property
    def ending(self) -> RequestError | None:
        """None after `unsubscribe` and `close`."""
        if self.is_left:
            return None
        return _refusal(self.entries) if all(entry.is_refused for entry in self.entries) else self.core.refusal

    def check(self) -> None:
        """After a change of its names, or of the connection."""
        if self.is_over:
            self.settle(self.ending or RequestError("closed"))
        elif not self.is_done and all(entry.state == "live" or entry.is_refused for entry in self.entries):
            self.settle(None)

    def settle(self, error: RequestError | None) -> None:
        if not self.is_done:
            self.is_done, self.error = True, error
            self.core.settled(self)
        if self.on_change is not None:
            self.on_change()


class SubscriberCore(SessionCore):
    """The common base of trades and channels."""

    part_max = 0
    """Most names of a request."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._names: dict[tuple[str, str], _Entry] = {}
        # Subscriptions that wait for the server, in the order of their deadlines.
        self._waiting: dict[SubscriptionCore, None] = {}
        self._count = 0
        self._is_up = False
        self._is_planned = False
        # Of an event stream, which begins anew for each request: then all last values come to all.
        self._begins = 0
        self._again_ms, self._again_at = _AGAIN_MIN_MS, math.inf
        self._recall_at = self._tell_at = math.inf
        # The changes of names since the last events.
        self._changes = 0
        self._has_lost = False
        self._asking = 0
        # Requests in flight with a position.
        self._resuming = 0
        self._given = self.options.since
        self.bus: Bus | None = None
        self.brings: dict[str, Brings] = {}
        self.lost = 0
        self.recovered: bool | dict[str, bool] | None = None
        # The names of the last events.
        self._emitted: dict[str, Any] = {"refused": {}, "unanswered": [], "coming": [], "cuts": {}}
        self._admitted_as: tuple[str, str | None] | None = None

    # ---- For programs

    @property
    def subscriptions(self) -> list[str]:
        return self.live("")

    @property
    def refused(self) -> dict[str, str]:
        """A name that is asked for again stays until it is granted."""
        return _reasons([entry for entry in self._names.values() if entry.why and entry.subscriptions])

    @property
    def unanswered(self) -> list[str]:
        return [entry.name for entry in self._all("wanted", "asked") if not entry.why and entry.subscriptions]

    def is_unanswered(self, name: str, group: str = "") -> bool:
        """Whether the server has not answered yet for a name."""
        entry = self._names.get((group, name))
        return entry is not None and entry.state in ("wanted", "asked")

    @property
    def coming(self) -> list[str]:
        """The names whose last values are coming."""
        return [entry.name for entry in self._all("live") if entry.waits]

    @property
    def cuts(self) -> dict[str, str]:
        """Why last values of names, or newest messages, have not all come."""
        return {entry.name: why for entry in self._all("live") if (why := entry.cut or entry.missing)}

    def subscribe(self, now: float, names: str | Iterable[str], handler: Callable[..., object] | None = None,
                  group: str = "", last: Last | None = None) -> SubscriptionCore:
        """Names of different groups are different names. `last`: as the option, for these names. Raises ValueError over
        `names_max`."""
        self.now = now
        wanted = list(dict.fromkeys(self.names(names)))
        if not wanted or not all(isinstance(name, str) for name in wanted):
            raise TypeError("a name is a text")
        most = self.options.names_max
        if self._count + len(wanted) > most:
            raise ValueError(f"more than names_max ({most:,}) names")
        entries = [self._entry(name, group) for name in wanted]
        last = self.options.last if last is None else last
        subscription = SubscriptionCore(self, entries, handler, AnswerWait(now, self.options.request_ms), last)
        for entry in entries:
            entry.subscriptions[subscription] = None
            if not group:
                entry.fresh[subscription] = entry.count
            entry.keeps = max(entry.keeps, _number(last))
        self._waiting[subscription] = None
        self._plan(len(wanted))
        subscription.check()
        return subscription

    def unsubscribe(self, now: float, subscription: SubscriptionCore) -> None:
        self.now = now
        if subscription.is_left:
            return
        subscription.is_left = True
        for entry in subscription.entries:
            for all_of in (entry.subscriptions, entry.fresh, entry.asked, entry.due):
                if all_of is not None:
                    all_of.pop(subscription, None)
        self._plan(-len(subscription.entries))
        subscription.check()

    def ping(self, now: float, **how: Any) -> Request:
        return self.ask(now, self.ping_message, **how)

    # ---- For typed clients to override.

    def names(self, names: str | Iterable[str]) -> list[str]:
        return [names] if isinstance(names, str) else list(names)

    def message(self, action: str, names: list[str], request_id: str, group: str, more: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def ping_message(self, request_id: str) -> dict[str, Any]:
        return {"action": "ping"}

    # ---- For typed clients to call.

    def live(self, group: str) -> list[str]:
        """The names granted on this connection."""
        return [entry.name for entry in self._all("live") if entry.group == group]

    def granted(self, names: Iterable[str], part: list[_Entry] | None = None) -> None:
        """`part`: None in a response after the timeout of its request."""
        granted = set(names)
        asked = self._all("asked") if part is None else _in_state(part, "asked")
        entries = [entry for entry in asked if entry.name in granted]
        for entry in entries:
            entry.state, entry.is_known, entry.was_live, entry.told, entry.why = "live", True, False, None, ""
            entry.cut, entry.is_held_up, entry.asked, entry.due = "", False, None, None
            entry.is_retained = self._brings_retained(entry)
            if self._source(entry.name) in _SHORT:
                entry.lack = ""
            if entry.is_retained:
                self._expect(entry, entry.subscriptions)
                entry.fresh.clear()
            else:
                self._replay(entry)
        _check(entries)

    def reported(self, message: dict[str, Any]) -> None:
        bus, is_lost = message.get("bus"), message.get("lost", False)
        # A loss may be told between two messages.
        if message.get("pos") or not is_lost:
            self._show_past()
        if bus != self.bus or is_lost:
            was_away, self.bus = self.is_away, bus
            self.lost += bool(is_lost)
            self._emit("bus", bus, is_lost)
            self._plan_recall(is_lost, was_away)
            self.refresh()

    @property
    def is_away(self) -> bool:
        return self.bus == "away"

    def admitted(self, address: str, token: str | None) -> None:
        """The server has admitted the client with a token. Another token may be granted more."""
        is_other = self._admitted_as != (address, token)
        for entry in self._all("limited", "refused") if is_other else self._all("limited"):
            entry.state, entry.why = "wanted", ""
        self._admitted_as = (address, token)
        self._free()
        self._ask()

    def revoked(self, names: Iterable[str]) -> None:
        """A new token does not grant the names."""
        lost = set(names)
        part = [entry for entry in self._all("live") if entry.name in lost]
        for entry in part:
            entry.state = "asked"
        self._refuse(part, ["not granted by the new token"])

    def judged(self, response: dict[str, Any], names: Iterable[str], request: Request | None) -> dict[str, Any]:
        """The response about names, some of which may have been live on an earlier connection. If it does not say whether their
        missed messages follow, the server keeps none: then none follows. Only of a stream, all follow from the beginning."""
        asks_all = request is not None and request.message.get("last") == ALL
        lost = [name for name in names if (entry := self._names.get(("", name))) is not None and entry.was_live
                and not (asks_all and self._source(name) == "stream")]
        if not lost or "recovered" in response:
            return response
        is_by_name = self.kind == "data"
        return response | {"recovered": dict.fromkeys(lost, False) if is_by_name else False,
                           "why": dict.fromkeys(lost, "off") if is_by_name else "off"}

    def brought(self, names: Iterable[str], brings: dict[str, Brings]) -> None:
        """What the names of a response bring. What the bus refuses brings nothing, and a name may be given up before its response."""
        for name in names:
            if name in brings and ("", name) in self._names:
                self.brings[name] = brings[name]
            else:
                self.brings.pop(name, None)

    def begun(self) -> None:
        """The connection begins, or another stream of it."""
        self._begins += 1

    def deliver(self, name: str, group: str, item: Any, *details: Any) -> bool:
        """Passes a message to the subscriptions of a name. Returns whether it is for all, and not a last value that only newer
        subscriptions still need."""
        entry = self._names.get((group, name))
        if entry is None:
            return True
        is_data = self.kind == "data"
        channel, is_retained = (item.get("channel", name), item.get("retained", False)) if is_data else (name, False)
        if entry.is_barred:
            entry.why, entry.told = "", None
            self._look_soon()
        if entry.past is not None:
            entry.past.append((channel, item, details))
            return False
        if is_retained and entry.asked is not None:
            # What an earlier question has left on its way comes again.
            return False
        if is_retained and entry.due is not None:
            for subscription, joined in entry.due.items():
                if entry.heard.get(channel, 0) <= joined:
                    self._outputs.append(Deliver(subscription, item, details))
            return entry.is_whole
        if not is_retained:
            self._take(entry, channel, item, details)
        for subscription in list(entry.subscriptions):
            self._outputs.append(Deliver(subscription, item, details))
        return True

    def ended(self, name: str, cut: str) -> bool:
        """The last values of a name have come. Returns whether to all."""
        entry = self._names.get(("", name))
        if entry is None:
            return True
        if entry.asked is not None:
            return False
        is_whole = entry.due is None or entry.is_whole
        entry.due, entry.cut = entry.due if cut == "refused" else None, cut
        if not entry.fresh:
            entry.heard.clear()
        self._look_soon()
        return is_whole

    def barred(self, why: Any) -> bool:
        """The bus refuses a name that is granted: it stays so, and its messages come once the bus permits it. Returns whether that
        is it."""
        entry = self._names.get(("", _barred_name(why) or ""))
        if entry is None or entry.state != "live" or not entry.subscriptions:
            return False
        entry.why = why
        # Nobody waits any more for an answer.
        self._tell([entry], [entry] if entry.told != why else [], is_heard=False)
        self._look_soon()
        entry.told = why
        return True

    def hear_of(self, name: str, message: dict[str, Any]) -> bool:
        """A message of a name, or the end of what comes from the beginning. Returns whether it is for the client: what an earlier
        subscription to all of the name has left on its way is not."""
        entry, pos = self._names.get(("", name)), message.get("pos")
        if entry is None or (entry.is_coming and entry.state != "live"):
            return entry is None
        if message.get("type") == "last":
            entry.is_coming = False
        if entry.is_own and pos:
            entry.since = pos
        if not entry.is_coming:
            self.hear(message)
            entry.is_own = entry.is_own and (not pos or pos != self.position)
        return True

    def settled(self, subscription: SubscriptionCore) -> None:
        self._waiting.pop(subscription, None)

    # ---- Of a connection

    def opened(self, address: str, token: str | None) -> None:
        self._is_up = True
        self.bus = None
        self._again_ms = _AGAIN_MIN_MS
        self._begins = 0
        for entry in self._names.values():
            entry.is_alone, entry.told = False, None
        self.admitted(address, token)
        super().opened(address, token)

    def changed(self, status: Status) -> None:
        if status not in ("open", "stale"):
            self._is_up = False
        super().changed(status)
        if status in ("open", "stale"):
            return
        self._again_at = self._recall_at = math.inf
        self._has_lost = False
        for entry in self._all("live"):
            entry.was_live = True
            if not entry.is_own:
                entry.since = self.position
        for entry in self._all("live", "asked"):
            entry.state = "wanted"
        for entry in self._names.values():
            entry.asked = entry.due = entry.past = None
            if not entry.lack:
                entry.heard.clear()
        self._emit_names()
        if status == "closed":
            _check(list(self._names.values()))

    def handle_timer(self, now: float) -> None:
        self.now = now
        while self._waiting and (first := next(iter(self._waiting))).wait.due_at <= now:
            # All waits are equally long, so whoever waits on is the last.
            self._waiting[first] = self._waiting.pop(first)
            if first.wait.is_over(now):
                first.settle(RequestError("timeout", "no answer"))
        super().handle_timer(now)
        if now >= self._again_at:
            self._again_at, self._again_ms = math.inf, min(2 * self._again_ms, _AGAIN_MAX_MS)
            for entry in self._shared():
                entry.state = "wanted"
            self._ask_newest()
            self._is_planned = True
        if now >= self._recall_at:
            self._recall()
            self._is_planned = True
        if now >= self._tell_at:
            self._look()
        if self._is_planned:
            self._is_planned = False
            self._ask()

    def poll_deadline(self) -> float | None:
        # The changes of a tick go together: the driver is back at once.
        dues = [self.now] if self._is_planned else [next(iter(self._waiting)).wait.due_at] if self._waiting else []
        if (due_at := super().poll_deadline()) is not None:
            dues.append(due_at)
        dues += [due_at for due_at in (self._again_at, self._recall_at, self._tell_at) if due_at < math.inf]
        return min(dues, default=None)

    def probe(self) -> float:
        self.ping(self.now)
        return PROBE_MS

    # ---- Inside

    def _plan(self, more: int) -> None:
        self._count += more
        self._is_planned = True

    def _all(self, *states: State) -> list[_Entry]:
        return _in_state(self._names.values(), *states)

    def _retained(self) -> list[_Entry]:
        """The names with last values. Values that have changed in a loss come only if the client asks again."""
        return [entry for entry in self._all("live") if entry.is_retained]

    def _brings_retained(self, entry: _Entry) -> bool:
        return not entry.group and self._source(entry.name) == "retained"

    def _source(self, name: str) -> str | None:
        """Where the messages of a name come from, if the server has said it."""
        brought = self.brings.get(name)
        return None if brought is None else brought.get("from")

    def _expect(self, entry: _Entry, subscriptions: Iterable[SubscriptionCore]) -> None:
        """Last values come to these subscriptions; who has joined since the question asks next."""
        joined = {**entry.fresh, **(entry.asked or {})}
        entry.due = {one: joined.get(one, entry.count) for one in subscriptions}
        entry.is_whole = entry.subscriptions.keys() <= entry.due.keys() | entry.fresh.keys()

    def _ask_last_values(self) -> None:
        """Who joins a name gets its last values too: the client asks again, one question of a name at a time."""
        if not self._is_up:
            return
        part = [entry for entry in self._retained() if entry.fresh and entry.asked is None and (entry.cut or not entry.due) and not entry.is_held_up]
        for at in range(0, len(part), self.part_max or 1):
            self._ask_again(part[at:at + self.part_max])

    def _ask_again(self, part: list[_Entry]) -> None:
        names = [entry.name for entry in part]
        for entry in part:
            # What is still to come would be taken for an answer to this question: so the question is for those that it is due to,
            # too.
            late = dict.fromkeys(entry.due or (), entry.count)
            entry.asked, entry.fresh, entry.due = {**late, **entry.fresh}, {}, None

        def done(request: Request) -> None:
            error, response = request.error, request.response or {}
            reasons = _why_not(part, response.get("channels", []), response.get("errors", []))
            lost: dict[_Entry, str] = {}
            for entry in part:
                if entry.asked is None:
                    continue
                is_granted = error is None and entry not in reasons
                if is_granted:
                    entry.is_retained = self._brings_retained(entry)
                if is_granted and entry.is_retained:
                    self._expect(entry, entry.subscriptions if self._begins > 1 else entry.asked)
                else:
                    entry.fresh = {**entry.asked, **entry.fresh}
                why = reasons.get(entry, "") if error is None else str(error) or error.code if error.code == "refused" else ""
                # A limit takes no name away, and may pass.
                entry.is_held_up = bool(why) and (error is not None or bool(_LIMITED.match(why)))
                entry.cut, entry.asked = why if entry.is_held_up else "", None
                if entry.is_held_up:
                    entry.heard.clear()
                elif why and entry.state == "live":
                    entry.state, lost[entry] = "asked", why
            self._refuse(list(lost), list(lost.values()))
            if error is not None and error.code == "timeout":
                self._emit("error", error)
            self._ask()

        self.ask(self.now, lambda request_id: self.message("subscribe", names, request_id, "", {"status": True}),
                 is_safe=False, is_quiet=True, is_bound=True, on_done=done)

    def _free(self) -> None:
        """What was held up by a limit may be asked again."""
        for entry in self._names.values():
            entry.is_held_up = False

    def _take(self, entry: _Entry, channel: str, item: Any, details: tuple[Any, ...]) -> None:
        """A message that is no last value. The newest ones are kept for who joins: the server sends them to new names only."""
        entry.count += 1
        if not entry.is_retained:
            self._replay(entry)
        if entry.waits if entry.is_retained else self.kind == "data" and entry.lack in _PASSING:
            entry.heard.pop(channel, None)
            entry.heard[channel] = entry.count
            if not entry.is_retained and len(entry.heard) > _KEPT_MAX:
                # The newest message of a channel that is forgotten may come twice.
                del entry.heard[next(iter(entry.heard))]
        if entry.lack and channel == entry.name and not (entry.is_filling and entry.lack == _LOST):
            # Other channels of a pattern still lack theirs.
            entry.lack = ""
            self._look_soon()
        if not entry.keeps or entry.group or self._source(entry.name) in _SHORT:
            return
        # The channels in the order of their changes.
        newest = entry.kept.pop(channel, [])
        newest.append((entry.count, item, details))
        del newest[:-entry.keeps]
        entry.kept[channel] = newest
        if len(entry.kept) * entry.keeps > _KEPT_MAX:
            del entry.kept[next(iter(entry.kept))]

    def _replay(self, entry: _Entry) -> None:
        if entry.state != "live":
            return
        for subscription in entry.fresh:
            count = _number(subscription.last)
            newest = [one for kept in entry.kept.values() for one in kept[-count:]] if count else []
            for _, item, details in sorted(newest, key=lambda one: one[0]):
                self._outputs.append(Deliver(subscription, item, details))
        entry.fresh.clear()

    def _entry(self, name: str, group: str) -> _Entry:
        since = self.position if self.position == self._given else None
        entry = self._names.setdefault((group, name), _Entry(name, group, since=since))
        if entry.is_refused:
            entry.state, entry.told, entry.why = "wanted", None, ""
        return entry

    def _ask(self) -> None:
        """Gives up what nobody wants any more, and asks for what is wanted."""
        for entry in self._all("live"):
            if not entry.is_retained:
                self._replay(entry)
        self._ask_all()
        self._is_resuming = self._resuming > 0 or any(_is_resuming(self._more(entry)) for entry in self._all("wanted"))
        self._emit_names()

    def _look_soon(self) -> None:
        """After a change of one name: asks for what may be asked for by now, and tells of the names. At once for few names. Very
        many names may change one after the other, so these are looked at together."""
        self._changes += 1
        if self._changes * _NAMES_A_CHANGE >= len(self._names):
            self._look()
        else:
            self._tell_at = min(self._tell_at, self.now + _TELL_MS)

    def _look(self) -> None:
        self._ask_last_values()
        self._emit_names()

    def _emit_names(self) -> None:
        self._changes, self._tell_at = 0, math.inf
        if (cuts := self.cuts) != self._emitted["cuts"]:
            # Names whose cuts have changed are told again.
            self._emitted["cuts"], self._emitted["coming"] = cuts, None
        for type, names in (("refused", self.refused), ("unanswered", self.unanswered), ("coming", self.coming)):
            if names != self._emitted[type]:
                self._emitted[type] = names
                self._emit(type, names)

    def _ask_all(self) -> None:
        while not (self.is_serial and self._asking):
            gone = [entry for entry in self._names.values() if not entry.subscriptions]
            held = self._part(_in_state(gone, "live", "asked") if self._is_up else [])
            for entry in held or gone:
                del self._names[entry.group, entry.name]
                if not entry.group:
                    self.brings.pop(entry.name, None)
            if held:
                self._request("unsubscribe", held, "gone")
                continue
            self._ask_last_values()
            if wanted := self._part(self._all("wanted") if self._is_up else []):
                self._request("subscribe", wanted, "asked")
            else:
                return

    def _plan_recall(self, has_lost: bool, was_away: bool) -> None:
        """Last values that have changed in a loss come again, and newest messages once the bus is back: at a random time,
        because all clients of the bus ask."""
        self._has_lost = self._has_lost or (has_lost and bool(self._retained()))
        is_back = any(was_away or entry.lack == "away" for entry in self._lacking())
        if self._recall_at == math.inf and (self._has_lost or is_back):
            self._recall_at = self.now + _AGAIN_MIN_MS * self.random()

    def _recall(self) -> None:
        self._recall_at = math.inf
        lost, self._has_lost = self._retained() if self._has_lost else [], False
        for entry in lost:
            entry.fresh, entry.due = dict.fromkeys(entry.subscriptions, entry.count), None
        if lost:
            self._free()
        self._again_ms = _AGAIN_MIN_MS
        self._ask_newest()

    def _lacking(self) -> list[_Entry]:
        """The names whose newest messages the server may have by now. It gives those of trades, and of event streams, only once."""
        if self.is_away or self._begins > 1 or self.kind != "data":
            return []
        return [entry for entry in self._all("live") if entry.missing in _PASSING and not entry.is_asked_again and entry.past is None]

    def _note_lacks(self, part: list[_Entry], recovered: Any, why: Any, has_since: bool) -> None:
        """What the response to a request with `last` says about the newest messages."""
        for entry in _in_state(part, "live"):
            # Then the newest messages do not follow.
            if _of(recovered, entry.name) is True or _of(why, entry.name) == "off":
                continue
            reason = _lack(why, entry.name)
            # With a position, the missed messages may be too large: without one, the server says it of the newest.
            entry.lack = "limit" if has_since and reason == "large" else reason
            entry.is_filling = True
            entry.heard.clear()

    def _ask_newest(self) -> None:
        lacking = self._lacking()
        for last in dict.fromkeys(entry.last for entry in lacking):
            same = [entry for entry in lacking if entry.last == last]
            for at in range(0, len(same), self.part_max):
                self._ask_newest_of(same[at:at + self.part_max], last)

    def _ask_newest_of(self, part: list[_Entry], last: Last | None) -> None:
        """They follow the answer, up to a status, and no live message in between."""
        names = [entry.name for entry in part]
        for entry in part:
            entry.is_asked_again = True

        def done(request: Request) -> None:
            response = request.response or {}
            held = _in_state(part, "live") if request.error is None else []
            # The reasons are those of all names of the request, and some may have been given up meanwhile.
            reasons = _why_not(part, response.get("channels", []), response.get("errors", []))
            # A limit takes no name away, and may pass.
            lost = {entry: reasons[entry] for entry in held if entry in reasons and not _LIMITED.match(reasons[entry])}
            for entry in part:
                entry.is_asked_again = False
            for entry in held:
                if entry in reasons:
                    continue
                if self._source(entry.name) in _SHORT:
                    # The server keeps nothing of it any more: nothing follows, and no status may ever come.
                    entry.lack = ""
                else:
                    entry.past, entry.lacks_still, entry.is_filling = [], _lack(response.get("why"), entry.name), True
            self._emit_names()
            for entry in lost:
                entry.state = "asked"
            self._refuse(list(lost), list(lost.values()))
            if response.get("pos"):
                # Then nothing follows.
                self._show_past()
            self._plan_again()

        self.ask(self.now, lambda request_id: self.message("subscribe", names, request_id, "", {"last": last, "status": True}),
                 is_safe=False, is_quiet=True, is_bound=True, is_patient=True, on_done=done)

    def _show_past(self) -> None:
        """All together, so that a lost connection leaves no gap. The client knows newer messages of channels that it has heard of
        since."""
        shown = [(entry, entry.past) for entry in self._names.values() if entry.past is not None]
        for entry, past in shown:
            silent = [one for one in past if one[0] not in entry.heard]
            entry.past, entry.lack = None, entry.lack and entry.lacks_still
            for channel, item, details in silent:
                self._take(entry, channel, item, details)
                for subscription in list(entry.subscriptions):
                    self._outputs.append(Deliver(subscription, item, details))
                self._emit(self.kind, item)
            if entry.lack not in _PASSING:
                entry.heard.clear()
        for entry in self._names.values():
            entry.is_filling = False
        if shown:
            self._emit_names()
            self._plan_again()

    def _part(self, entries: list[_Entry]) -> list[_Entry]:
        """The first names that go in a request together."""
        if not entries or entries[0].is_alone:
            return entries[:1]
        kind = self._kind(entries[0])
        return [entry for entry in entries if self._kind(entry) == kind and not entry.is_alone][:self.part_max]

    def _kind(self, entry: _Entry) -> tuple[str, dict[str, Any]]:
        return entry.group, self._more(entry) if entry.state == "wanted" else {}

    def _more(self, entry: _Entry) -> dict[str, Any]:
        """The members of a request. A position that has moved without the name would skip messages of the name."""
        if entry.group:
            return {"status": True}
        last = entry.last
        if last == ALL:
            return ({"since": entry.since} if entry.since else {}) | {"last": ALL, "status": True}
        is_resumed = self.position and entry.since == self.position
        more: dict[str, Any] = {"since": entry.since} if is_resumed else {}
        if last is not None and (more or not entry.is_known):
            more["last"] = last
        return more | {"status": True}

    def _request(self, action: str, part: list[_Entry], state: State) -> None:
        names, more = [entry.name for entry in part], self._more(part[0]) if state == "asked" else {}
        is_resuming = _is_resuming(more)
        for entry in part:
            entry.state = state
            if more.get("last") == ALL:
                entry.is_own = entry.is_coming = True
        self._asking += 1
        self._resuming += is_resuming

        def done(request: Request) -> None:
            self._asking -= 1
            self._resuming -= is_resuming
            error = request.error
            if error is None:
                self._answered(part, request.response, more)
            else:
                self._failed(part, error)
            if action == "unsubscribe":
                held = [entry for entry in part if (entry.group, entry.name) not in self._names]
                if held and error is not None and error.code == "timeout":
                    self._request(action, held, state)
                for entry in self._all("limited"):
                    entry.state = "wanted"
                self._free()
            self._ask()

        self.ask(self.now, lambda request_id: self.message(action, names, request_id, part[0].group, more),
                 is_safe=False, is_quiet=True, is_bound=True, on_done=done)

    def _answered(self, part: list[_Entry], response: dict[str, Any], more: dict[str, Any]) -> None:
        last = more.get("last")
        granted, recovered = set(response.get("channels", [entry.name for entry in part])), response.get("recovered")
        for entry in part:
            # The newest messages follow, unless the missed ones do.
            if _number(last) and _of(recovered, entry.name) is not True:
                entry.kept.clear()
        self.granted(granted, part)
        errors = response.get("errors", [])
        reasons = _why_not(part, granted, errors)
        self._refuse(list(reasons), list(reasons.values()))
        for why in errors:
            self.barred(why)
        if _number(last):
            self._note_lacks(part, recovered, response.get("why"), "since" in more)
        self._plan_again()

    def _failed(self, part: list[_Entry], error: RequestError) -> None:
        is_refusal = error.code == "refused"
        if is_refusal and len(part) == 1:
            self._refuse(part, [str(error)])
        else:
            for entry in _in_state(part, "asked"):
                # A single bad name refuses a whole request.
                entry.state, entry.is_alone = "wanted", is_refusal
        if error.code == "timeout":
            self._emit("error", error)

    def _refuse(self, part: list[_Entry], errors: list[str]) -> None:
        """The reasons come in the order of the names; the last reason goes for the rest."""
        last = errors[-1] if errors else "not granted"
        for at, entry in enumerate(part):
            entry.why = errors[at] if at < len(errors) else last
        full = self._all("wanted") if _FULL.search(last) else []
        for entry in full:
            entry.why = last
        # Only what is still waited for.
        left = _in_state(part, "asked") + full
        for entry in left:
            entry.state = "limited" if _LIMITED.match(entry.why) else "refused"
            entry.past = None
            if not entry.lack:
                entry.heard.clear()
        news = [entry for entry in left if entry.why != entry.told]
        self._tell(left, news)
        self._emit_names()
        for entry in left:
            entry.told = entry.why
        self._plan_again()

    def _plan_again(self) -> None:
        """One time for all that is asked for again, less and less often."""
        if self._is_up and self._again_at == math.inf and (self._shared() or self._lacking()):
            self._again_at = self.now + self._again_ms * (1 + self.random())

    def _tell(self, entries: list[_Entry], news: list[_Entry], is_heard: bool = True) -> None:
        """`is_heard`: who waits for an answer hears of the refusal."""
        silent = [(entry.name, entry.why, tuple(entry.subscriptions) if is_heard else ()) for entry in news if entry.warned != entry.why]
        _check(entries)
        if news:
            self._emit("error", _refusal(news))
        if silent:
            self._outputs.append(Warn(lambda: _unheard(silent)))
        for entry in news:
            entry.warned = entry.why

    def _shared(self) -> list[_Entry]:
        return [entry for entry in self._all("limited") if _SHARED.search(entry.why)]


def _number(last: Last | None) -> int:
    """How many of the newest messages."""
    return last if isinstance(last, int) else 0


def _size(last: Last | None) -> float:
    return math.inf if last == ALL else _number(last)


def _of(said: Any, name: str) -> Any:
    """What the response says about a name, or about all names."""
    return said.get(name) if isinstance(said, dict) else said


def _lack(why: Any, name: str) -> str:
    """Why the newest messages of a name are missing."""
    reason = _of(why, name)
    return reason if reason in _LACKS else ""


def _barred_name(why: Any) -> str | None:
    found = _BARRED.match(str(why))
    return found[1] if found else None


def _why_not(part: list[_Entry], granted: Iterable[str], errors: list[str]) -> dict[_Entry, str]:
    """Why names are not granted: the reasons come in the order of the names; the last one goes for the rest."""
    names = set(granted)
    own = [why for why in errors if _barred_name(why) not in names]
    denied = [entry for entry in part if entry.name not in names]
    return {entry: (own[min(at, len(own) - 1)] if own else "") or "not granted" for at, entry in enumerate(denied)}


def _in_state(entries: Iterable[_Entry], *states: State) -> list[_Entry]:
    return [entry for entry in entries if entry.state in states]


def _is_resuming(more: dict[str, Any]) -> bool:
    """Whether the response says how the position of the client goes on."""
    return "since" in more and more.get("last") != ALL


def _unheard(refused: list[tuple[str, str, tuple[SubscriptionCore, ...]]]) -> str:
    """The names of which nobody has heard, with the reasons."""
    silent = {name: why for name, why, subscriptions in refused if not any(one.is_heard for one in subscriptions)}
    return f"refused {silent!r:.1000}" if silent else ""


def _reasons(entries: list[_Entry]) -> dict[str, str]:
    return {entry.name: entry.why for entry in entries}


def _refusal(entries: list[_Entry]) -> RequestError:
    reasons = _reasons(entries)
    return RequestError("refused", "; ".join(dict.fromkeys(reasons.values())), reasons)


def _check(entries: list[_Entry]) -> None:
    for subscription in {subscription: None for entry in entries for subscription in entry.subscriptions}:
        subscription.check()


class TradesCore(SubscriberCore):
    """`weirgate trades`."""

    kind = "trade"
    is_serial = True
    part_max = 5
    stamps: Mapping[str, Any] = {}
    """The times of the newest trade: of the broadcast (`timestamp`) and, with `--stamp`, of the arrival (`recv_us`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # The request that the server has dropped for the rate of the client, and when it goes again.
        self._dropped: Request | None = None
        self._repeat_at = math.inf
        # The symbols whose trades the server sends, by its newest response.
        self._held: set[str] = set()
        self._has_warned = False

    def names(self, names: str | Iterable[str]) -> list[str]:
        return [name.upper() for name in super().names(names)]

    def message(self, action: str, names: list[str], request_id: str, group: str, more: dict[str, Any]) -> dict[str, Any]:
        own = {"action": action + "_candles", "interval": group} if group else {"action": action}
        return own | {"symbols": names} | more

    def subscribe_candles(self, now: float, symbols: str | Iterable[str], interval: str,
                          handler: Callable[..., object] | None = None) -> SubscriptionCore:
        return self.subscribe(now, symbols, handler, interval)

    @property
    def candles(self) -> dict[str, list[str]]:
        """The symbols with candles granted on this connection, by interval."""
        return {interval: symbols for interval in ("1s", "1m", "5m") if (symbols := self.live(interval))}

    def changed(self, status: Status) -> None:
        if status not in ("open", "stale"):
            self._repeat_at = math.inf
            self._held = set()
        super().changed(status)

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        if now >= self._repeat_at:
            self._repeat_at = math.inf
            if self._dropped is not None:
                self._dropped.is_sent = False
                self._flush()

    def poll_deadline(self) -> float | None:
        due_at = super().poll_deadline()
        due_at = min(math.inf if due_at is None else due_at, self._repeat_at)
        return None if due_at == math.inf else due_at

    def receive(self, message: Any, kept: bool) -> None:
        self.hear(message)
        type, data, timestamp = message.get("type"), message.get("data"), message.get("timestamp")
        if type == "trade":
            own = data.get("symbol") if isinstance(data, dict) else None
            symbol = self._symbol(str(own).upper())
            self.stamps = message
            if symbol is not None:
                self.deliver(symbol, "", data, data, timestamp)
            self._emit("trade", data, timestamp)
            if symbol is None:
                self._skip(own)
            return
        if type == "candle":
            self.deliver(data.get("symbol"), data.get("interval"), data, data)
            return self._emit("candle", data)
        if type == "status":
            return self.reported(message)
        data = data or {}
        if data.get("connectionId"):
            return self._emit("welcome", data)
        request = self._asked()
        if type == "error":
            why = message.get("message")
            if request is not None and why == _OVER_RATE:
                # A drop refuses no request. The dropped message may be another one, which the program has sent: then the response
                # comes.
                self._dropped, self._repeat_at, request = request, self.now + _AFTER_DROP_MS, None
            return self._refuse_request(request, "refused", why)
        interval, current = data.get("interval"), data.get("currentSubscriptions", [])
        if "currentSubscriptions" in data and not interval:
            self._held = set(current)
        action = "ping" if type == "pong" else "subscribe" if "subscribed" in data else "unsubscribe"
        asked = None if request is None else (request.message["action"], request.message.get("interval"))
        acknowledgement = self.judged(data, data.get("subscribed", []), request)
        # Otherwise a late response, after a timeout of the request.
        is_asked = request is not None and asked == (action + "_candles" if interval else action, interval)
        if request is not None and is_asked and (action != "subscribe" or set(request.message["symbols"]) <= set(current)):
            self._settle(request, data or {"timestamp": timestamp})
        if action == "subscribe" and not interval:
            self.recovered = acknowledgement.get("recovered", self.recovered)
            self.acknowledged(message.get("pos"), data.get("recovered"), is_pictured(request, [data.get("why")]))
            self._emit("subscribed", acknowledgement)

    def _symbol(self, own: str) -> str | None:
        """The symbol of a trade; None if no subscription matches. The server sends a trade by its channel, whose symbol is not in the
        message: that of the payload (`own`) may be another, or missing. With a single symbol, the trade is of this symbol."""
        held = self._held
        if not held or own in held or self.is_unanswered(own):
            return own
        return None if len(held) > 1 else next(iter(held))

    def _skip(self, own: Any) -> NoReturn:
        """A trade for no subscription is bad, as what cannot be read."""
        text = f"no subscription matches the symbol {own} of a trade"[:1_000]
        if not self._has_warned:
            self._has_warned = True
            self._outputs.append(Warn(lambda: text, "bad"))
        raise ValueError(text)
