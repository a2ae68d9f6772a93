"""The cases of clients/conformance against the Python clients, in virtual time. The README there has the format."""
import base64
import json
import pathlib
import re

import pytest
from weirgate.channels import ChannelsCore
from weirgate.core import Core, Deliver, Dial, Drop, Emit, LevelsCore, Options, Renew, RequestError, Send
from weirgate.latency import LatencyCore
from weirgate.sessions import DevicesCore
from weirgate.status import StatusCore
from weirgate.subscriptions import SubscriptionCore, TradesCore

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "conformance"
CORES = {"connection": Core, "levels": LevelsCore, "trades": TradesCore, "channels": ChannelsCore, "events": DevicesCore}
CASES = [(file.name, case) for file in sorted(FOLDER.glob("*.json")) for case in json.loads(file.read_text())["cases"]]


def shown(data):
    """Bytes as base64."""
    return {"base64": base64.b64encode(data).decode()} if isinstance(data, bytes) else data


# The form of an event in a case.
TOLD = {
    "status": lambda status: ["status", status],
    "state": lambda state, kept: ["state", state, *(["kept"] if kept else [])],
    "message": lambda data, kept: ["message", data, *(["kept"] if kept else [])],
    "bad": lambda error, data: ["bad"],
    "welcome": lambda welcome: ["welcome"],
    "identify": lambda hint: ["identify"],
    "identified": lambda data: ["identified", data.get("recovered"), *([data["why"]] if "why" in data else [])],
    "error": lambda error: ["error", error.code],
    "trade": lambda trade, timestamp: ["trade", trade, timestamp],
    "candle": lambda candle: ["candle", candle["symbol"], candle["close"], candle["closed"]],
    "data": lambda message: ["data", message["channel"], shown(message["data"])],
    "subscribed": lambda told: ["subscribed", told["channels"] if "channels" in told else told["subscribed"], told.get("recovered"),
                                *([told["why"]] if "why" in told else [])],
    "bus": lambda bus, lost: ["bus", bus, *(["lost"] if lost else [])],
    "gap": lambda gap: ["gap", *gap],
    "retained": lambda end: ["retained", end["channel"], end["count"], *([end["cut"]] if "cut" in end else [])],
    "last": lambda end: ["last", end["channel"], end["count"], *([end["cut"]] if "cut" in end else [])],
    "push": lambda push: ["push", push.event, push.data],
}


def text_of(token):
    """A token of a case: a text, or the claims of a JWT."""
    if isinstance(token, str):
        return token
    body = base64.urlsafe_b64encode(json.dumps(token, separators=(",", ":"), ensure_ascii=False).encode()).rstrip(b"=")
    return f"e30.{body.decode()}.sig"


def snake(name):
    return re.sub("[A-Z]", lambda found: "_" + found.group().lower(), name)


class Run:
    """A client in a world with virtual time; plays the driver, the network and the token's source."""

    def __init__(self, case):
        self.now, self.numbers, self.wall_offset = 1000.0, [0.5], 1.7e12
        self.attempts_made, self.sent_texts, self.told, self.calls = 0, [], [], {}
        self.asked, self.tokens_used, self.last_drop = [], [], None
        self.handled, self.failing = {}, set()
        # Rules beside those of the client.
        self.latency, self.watches, self.refusals, self.statuses, self.newest = None, [], None, [], None
        self.has_token = case.get("token", False)
        options = Options(has_token=self.has_token, **{snake(name): value for name, value in case.get("options", {}).items()})
        self.hidden = "state" if case["client"] == "connection" else "message"
        self.core = CORES[case["client"]](options, self.random_number, lambda: self.now + self.wall_offset)
        self.core.start(self.now)
        self.drain()

    def random_number(self):
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]

    def drain(self):
        while (output := self.core.poll_output()) is not None:
            match output:
                case Dial(refused):
                    self.asked.append({"refused": refused, "is_awaited": self.has_token, "is_renewal": False})
                    if not self.has_token:
                        self.dialed(None)
                case Renew(is_wanted):
                    self.asked[-1]["is_awaited"] = False
                    if is_wanted:
                        self.asked.append({"refused": False, "is_awaited": True, "is_renewal": True})
                case Send(text):
                    self.sent_texts.append(text)
                case Drop(code, reason):
                    self.last_drop = [code, reason]
                    self.asked[-1]["is_awaited"] = False
                case Deliver(subscription, _, details):
                    self.handle(subscription, details)
                case Emit(type, args):
                    if type in TOLD and type != self.hidden:
                        self.told.append(TOLD[type](*args))
                    if type == "refused" and self.refusals is not None:
                        self.refusals.append(*args)
                    for watch in self.watches:
                        if type in watch.types:
                            watch.handle_event(type, args)

    def handle(self, subscription, details):
        if subscription.is_left:
            return
        [label] = [label for label, call in self.calls.items() if call is subscription]
        if label in self.failing:
            self.core.report(RequestError("handler"))
        else:
            self.handled[label].append(shown(details[0]))

    def dialed(self, token):
        self.attempts_made += 1
        self.sent_texts = []
        self.tokens_used.append(token)

    def advance(self, end):
        """Lets time pass to `end`; due timers fire on the way."""
        while (due := self.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            for one in [self.core, *self.watches]:
                if (own := one.poll_deadline()) is not None and own <= self.now:
                    one.handle_timer(self.now)
            self.drain()
        self.now = max(self.now, end)

    def deadline(self):
        dues = [one.poll_deadline() for one in [self.core, *self.watches]]
        return min((due for due in dues if due is not None), default=None)

    def play(self, verb, *args):
        getattr(self, "do_" + verb)(*args)
        self.drain()
        if verb != "sleep":
            # What the driver does at once.
            self.advance(self.now)

    # ---- Actions

    def do_random(self, values):
        self.numbers = list(values)

    def do_pass(self, ms):
        self.advance(self.now + ms)

    def do_sleep(self, ms):
        self.now += ms

    def do_accept(self, kind="WebSocket"):
        self.core.handle_opened(self.now, "ws://feed.example/", self.tokens_used[-1], kind != "event stream")

    def do_refuse(self, status, retry_after_s=0):
        self.core.handle_closed(self.now, 1006, f"HTTP status {status}", status=status, retry_after_ms=1000 * retry_after_s)

    def do_unreachable(self, name):
        self.core.handle_closed(self.now, 1006, f"connect {name}", error=name)

    def do_message(self, value):
        self.core.handle_message(self.now, json.dumps(value))

    def do_text(self, text):
        self.core.handle_message(self.now, text)

    def do_binary(self, head, text):
        self.core.handle_message(self.now, json.dumps(head).encode() + b"\n" + base64.b64decode(text))

    def do_end(self, code, reason=""):
        self.core.handle_closed(self.now, code, reason)

    def do_token(self, token):
        assert self.asked[-1]["is_awaited"]
        self.asked[-1]["is_awaited"] = False
        if self.asked[-1]["is_renewal"]:
            self.core.handle_token(self.now, text_of(token))
        elif self.core.handle_dial(self.now, text_of(token)):
            self.dialed(text_of(token))

    def do_late_token(self, number, token):
        assert not self.asked[number - 1]["is_awaited"], "the driver was told to stop"

    def do_no_token(self, why):
        self.asked[-1]["is_awaited"] = False
        if self.asked[-1]["is_renewal"]:
            self.core.handle_no_token(self.now, Exception(why))
        else:
            self.core.handle_closed(self.now, 1006, why)

    def do_subscribe(self, label, names, options=None):
        self.handled[label] = []
        self.calls[label] = self.core.subscribe(self.now, names, print, **(options or {}))

    def do_subscribe_candles(self, label, symbols, interval):
        self.handled[label] = []
        self.calls[label] = self.core.subscribe_candles(self.now, symbols, interval, print)

    def do_unsubscribe(self, label):
        self.core.unsubscribe(self.now, self.calls[label])

    def do_fails(self, label):
        self.failing.add(label)

    def do_together(self, steps):
        for verb, *args in steps:
            getattr(self, "do_" + verb)(*args)

    def do_call(self, label, method, *args):
        self.calls[label] = getattr(self.core, snake(method))(self.now, *args)

    def do_abort(self, label):
        self.core.abort(self.now, self.calls[label])
        self.calls[label] = "aborted"

    def do_close(self, *args):
        self.core.close(self.now, *args)

    def do_reconnect(self):
        self.core.reconnect(self.now)

    def do_watch_refused(self):
        self.refusals = []

    def do_watch_latency(self, options=None):
        self.latency = LatencyCore(self.core, **{snake(name): value for name, value in (options or {}).items()})
        self.watches.append(self.latency)

    def do_watch_status(self, options=None):
        self.watches.append(StatusCore(self.core, self.show, self.latency, **{snake(name): value for name, value in (options or {}).items()}))

    def do_end_watches(self):
        self.watches = []

    def show(self, now):
        assert now.causes[0] == (now.state, now.cause)
        self.newest = now
        self.statuses.append([now.state, now.cause])

    # ---- Expectations

    def do_refused(self, wanted):
        assert self.core.refused == wanted

    def do_refused_events(self, wanted):
        refusals, self.refusals = self.refusals, []
        assert refusals == wanted

    def do_latency(self, *wanted):
        got = self.latency.ms, self.latency.error_ms(self.now), self.latency.round_trip_ms
        assert got == tuple(None if one is None else pytest.approx(one, abs=0.01) for one in wanted)

    def do_server_now(self, wanted):
        assert self.latency.server_now(self.now) == (None if wanted is None else pytest.approx(wanted, abs=0.01))

    def do_age(self, message, wanted):
        assert self.latency.age_of(self.now, message) == (None if wanted is None else pytest.approx(wanted, abs=0.01))

    def do_status_events(self, wanted):
        statuses, self.statuses = self.statuses, []
        assert statuses == wanted

    def do_causes(self, wanted):
        assert [list(one) for one in self.newest.causes] == wanted

    def do_send(self, text, is_sent):
        assert self.core.send(text) == is_sent

    def do_status(self, status):
        assert self.core.status == status

    def do_attempts(self, count):
        assert self.attempts_made == count

    def do_next_attempt(self, ms):
        made, since = self.attempts_made, self.now
        for _ in range(1000):
            due = self.deadline()
            assert due is not None, "no timer makes an attempt"
            self.advance(max(self.now, due))
            if self.attempts_made > made:
                break
        assert self.now - since == pytest.approx(ms, abs=0.01)

    def do_position(self, wanted):
        assert self.core.position == wanted

    def do_brings(self, wanted):
        assert self.core.brings == wanted

    def do_reconnects(self, count):
        assert self.core.reconnects == count

    def do_last_close(self, wanted):
        assert {key: getattr(self.core.last_close, snake(key)) for key in wanted} == wanted

    def do_dropped(self, *wanted):
        assert self.last_drop == list(wanted)

    def do_sent(self, wanted):
        sent, self.sent_texts = self.sent_texts, []
        wanted = [one | {"token": text_of(one["token"])} if isinstance(one, dict) and "token" in one else one
                  for one in wanted]
        assert [text if wanted and isinstance(wanted[0], str) else json.loads(text) for text in sent] == wanted

    def do_events(self, wanted):
        told, self.told = self.told, []
        assert told == wanted

    def do_throws(self, names):
        with pytest.raises((TypeError, ValueError)):
            self.core.subscribe(self.now, names)

    def do_handled(self, label, wanted):
        handled, self.handled[label] = self.handled[label], []
        assert handled == wanted

    def do_closes(self, label, wanted):
        handled, self.handled[label] = self.handled[label], []
        assert [candle["close"] for candle in handled] == wanted

    def do_response(self, label, value):
        call = self.calls[label]
        assert call.is_done and call.error is None
        if isinstance(call, SubscriptionCore):
            assert {"granted": call.granted, "refused": call.refused} == value
        else:
            assert call.response == value

    def do_error(self, label, code, message=None):
        error = self.calls[label].error
        assert error is not None and error.code == code
        assert message is None or str(error) == message

    def do_aborted(self, label):
        assert self.calls[label] == "aborted"

    def do_pending(self, label):
        assert not self.calls[label].is_done

    def do_subscriptions(self, wanted):
        assert sorted(self.core.subscriptions) == sorted(wanted)

    def do_candles(self, interval, wanted):
        assert sorted(self.core.candles.get(interval, ())) == sorted(wanted)

    def do_token_asked(self, refused):
        assert self.asked[-1]["refused"] == refused

    def do_questions(self, count):
        assert len(self.asked) == count

    def do_token_used(self, token):
        assert self.tokens_used[-1] == text_of(token)

    def do_query(self, name, wanted):
        assert self.core.query.get(name) == wanted

    def do_device_id(self, device_id):
        assert self.core.options.device_id == device_id


@pytest.mark.parametrize(("file", "case"), CASES, ids=[f"{file}: {case['name']}" for file, case in CASES])
def test_case(file, case):
    run = Run(case)
    for number, step in enumerate(case["steps"], 1):
        try:
            run.play(*step)
        except AssertionError as error:
            raise AssertionError(f"step {number}, {json.dumps(step)}: {error}") from error
    run.core.close(run.now)
    run.drain()
    assert run.deadline() is None, "no timer is left"
