"""Random programs on a feed with a history, in virtual time, with cuts in every place: what `recovered` promises is there,
message by message. clients/js/test/resume-random.test.mjs has the same for JavaScript."""
import json
import random

import pytest
from virtual_time import advance
from weirgate.channels import ChannelsCore
from weirgate.core import Dial, Drop, Emit, Options, Send
from weirgate.outputs import Deliver
from weirgate.subscriptions import TradesCore

SEEDS, STEPS, KEPT, NAMES = 100, 120, 60, "ABCDEFGHIJKL"


class Feed:
    """The messages of a bus, which all servers read. A position is the number of the message that a client has last."""

    def __init__(self):
        self.messages, self.floor = [], 0

    def why(self, since):
        if int(since) < self.floor:
            return "gap"
        return "window" if int(since) < len(self.messages) - KEPT else None


class Server:
    """A connection: frames wait until the network delivers them. `how`: with a history ("kept"), without ("off"), or from before
    histories ("old")."""

    def __init__(self, feed, how, chance):
        self.feed, self.how, self.chance = feed, how, chance
        self.held, self.frames = set(), []

    def pos(self):
        return {"pos": str(len(self.feed.messages))} if self.how == "kept" else {}

    def publish(self, name):
        if name in self.held:
            self.frames.append(self.message(name, len(self.feed.messages)) | self.pos())

    def status(self):
        if self.how == "kept":
            self.frames.append({"type": "status", "seq": 0, "bus": "up", **(self.pos() if self.held else {})})

    def serve(self, message):
        action, since, names = message["action"], message.get("since"), message.get("symbols") or message.get("channels")
        if action == "ping":
            return self.frames.append({"type": "pong", "requestId": message.get("requestId"), "seq": 0})
        if action == "unsubscribe":
            self.held -= set(names)
            return self.frames.append(self.left(message, names))
        granted = self.granted(message, names)
        if granted is None:
            return None
        why = ("off" if self.held & set(granted) else self.feed.why(since or 0)) if self.how == "kept" else "off"
        is_asked = since is not None and self.how != "old"
        told = {"recovered": not why, **({"why": why} if why else {})} if is_asked else {}
        is_recovered = told.get("recovered", False)
        answer = self.answer(message, granted, told)
        self.frames.append(answer | {"head": len(self.feed.messages)} | ({} if is_recovered else self.pos()))
        self.held |= set(granted)
        if is_recovered:
            for number, name in enumerate(self.feed.messages, 1):
                if number > int(since) and name in granted:
                    self.frames.append(self.message(name, number) | {"pos": str(number)})
        return None


class TradesServer(Server):
    def message(self, name, number):
        return {"type": "trade", "data": {"symbol": name, "price": number}, "timestamp": 1}

    def granted(self, message, names):
        if self.chance() > 0.15:
            return names
        return self.frames.append({"type": "error", "message": "Not now", "timestamp": 1})

    def left(self, message, names):
        return {"type": "success", "data": {"unsubscribed": names, "currentSubscriptions": list(self.held)}, "timestamp": 1}

    def answer(self, message, granted, told):
        current = list(self.held | set(granted))
        return {"type": "success", "data": {"subscribed": granted, "currentSubscriptions": current, **told}, "timestamp": 1}


class ChannelsServer(Server):
    def message(self, name, number):
        return {"type": "data", "seq": 0, "channel": name, "pattern": None, "data": number}

    def granted(self, message, names):
        if self.chance() > 0.1:
            return [name for name in names if self.chance() > 0.1]
        return self.frames.append({"type": "error", "seq": 0, "error": "Invalid", "requestId": message["requestId"]})

    def left(self, message, names):
        return {"type": "unsubscribed", "seq": 0, "channels": names, "requestId": message["requestId"]}

    def answer(self, message, granted, told):
        errors = [f"Access denied to channel: {name}" for name in message["channels"] if name not in granted]
        told = {key: dict.fromkeys(granted, value) for key, value in told.items()}
        return {"type": "subscribed", "seq": 0, "channels": granted, "errors": errors, "requestId": message["requestId"], **told}


class AllServer(ChannelsServer):
    """The first names come from the beginning, page by page, with the messages of others between."""

    def __init__(self, *args):
        super().__init__(*args)
        # By name, how far it has come.
        self.coming = {}

    def serve(self, message):
        if message["action"] == "unsubscribe":
            for name in message["channels"]:
                self.coming.pop(name, None)
        if message.get("last") != "all":
            return super().serve(message)
        if (granted := self.granted(message, message["channels"])) is None:
            return None
        since = message.get("since")
        answer = self.answer(message, granted, {} if since is None else {"recovered": True})
        self.frames.append(answer | {"head": len(self.feed.messages)} | (self.pos() if self.held else {}))
        for name in granted:
            if name in self.held:
                self.frames.append({"type": "last", "seq": 0, "channel": name, "count": 0, "cut": "off"})
            else:
                self.coming.setdefault(name, int(since or 0))
        return None

    def page(self):
        for name, since in list(self.coming.items()):
            end = min(len(self.feed.messages), since + int(self.chance() * 40))
            for number in range(since + 1, end + 1):
                if self.feed.messages[number - 1] == name:
                    self.frames.append(self.message(name, number) | {"pos": str(number)})
            self.coming[name] = end
            if end == len(self.feed.messages):
                del self.coming[name]
                self.held.add(name)
                self.frames.append({"type": "last", "seq": 0, "channel": name, "count": 0} | self.pos())


class World:
    """A program that checks that no message is missing between two that came, unless the client has told a loss."""

    def __init__(self, seed, core_type, server_type):
        self.random, self.now, self.feed, self.server_type = random.Random(seed), 1000.0, Feed(), server_type
        # Those that come from the beginning, and the newest message of each.
        self.wholes, self.whole, self.last = (set(NAMES[:6]) if server_type is AllServer else set()), 0, {}
        self.is_mixed, self.server, self.is_dialed, self.sent, self.head = seed % 2 == 1 and not self.wholes, None, False, [], 0
        # The newest message of each name, or the head of the feed at the last grant without the missed messages.
        self.at, self.checked, self.resumed, self.subscriptions = {}, 0, 0, {}
        # Names that the client holds on servers with a history: now, and before this connection.
        self.held, self.before = set(), set()
        self.core = core_type(Options(), self.random.random, lambda: self.now)
        self.core.start(self.now)
        for name in NAMES[:8]:
            self.subscribe(name)
        self.drain()

    def subscribe(self, name):
        self.last[name] = 0
        self.subscriptions[name] = self.core.subscribe(self.now, name, last="all" if name in self.wholes else None)

    def drain(self):
        while (output := self.core.poll_output()) is not None:
            match output:
                case Dial():
                    self.server, self.is_dialed, self.sent = None, True, []
                case Drop():
                    self.server, self.is_dialed = None, False
                case Send(text):
                    self.sent.append(json.loads(text))
                case Emit("trade", (data, _)):
                    self.got(data["symbol"], data["price"])
                case Deliver(subscription, message) if subscription.names[0] in self.wholes:
                    self.got_whole(subscription.names[0], message["data"])
                case Emit("data", (message,)) if message["channel"] not in self.wholes:
                    self.got(message["channel"], message["data"])
                case Emit("subscribed", (told,)):
                    self.acknowledged(told)
                case Emit("error", (error,)):
                    for name in error.details or {}:
                        self.gave_up(name)

    def got_whole(self, name, number):
        """Each message of a name comes once, from the first on."""
        last = self.last[name]
        assert number == self.feed.messages.index(name, last) + 1, f"{name}: {number} after {last}"
        self.last[name] = number
        self.whole += 1

    def gave_up(self, name):
        self.at.pop(name, None)
        self.held.discard(name)
        self.before.discard(name)

    def acknowledged(self, told):
        recovered = told.get("recovered")
        if self.how != "kept":
            self.held.clear()
            self.before.clear()
        for name in told.get("channels") or told.get("subscribed") or []:
            if name in self.wholes:
                continue
            is_recovered = recovered.get(name) if isinstance(recovered, dict) else recovered
            assert is_recovered is not None or name not in self.before, f"{name}: neither asked for nor reported"
            self.before.discard(name)
            self.resumed += bool(is_recovered)
            if not is_recovered:
                self.at[name] = self.head
            # Otherwise the name was given up meanwhile.
            if self.how == "kept" and name in self.core.subscriptions:
                self.held.add(name)

    def got(self, name, number):
        last = self.at.get(name)
        if last is not None:
            assert name not in self.feed.messages[last:number - 1], f"{name}: missing between {last} and {number}"
            self.checked += 1
        self.at[name] = max(number, last or 0)

    def publish(self):
        name = self.random.choice(NAMES)
        self.feed.messages.append(name)
        if self.server:
            self.server.publish(name)

    def deliver(self, most):
        while self.server and self.sent:
            self.server.serve(self.sent.pop(0))
        if self.server and self.wholes:
            self.server.page()
        while self.server and self.server.frames and most > 0:
            most -= 1
            frame = self.server.frames.pop(0)
            self.head = frame.pop("head", self.head)
            self.core.handle_message(self.now, json.dumps(frame))
            self.drain()

    def step(self):
        if self.core.status == "waiting":
            advance(self, 500)
        if self.core.status == "connecting" and self.is_dialed and self.server is None:
            self.how = self.random.choice(["kept", "kept", "kept", "off", "old"]) if self.is_mixed else "kept"
            self.server = self.server_type(self.feed, self.how, self.random.random)
            self.before = set(self.held)
            self.core.handle_opened(self.now, "ws://feed.example/")
        name = self.random.choice(NAMES)
        match self.random.randrange(12):
            case 0 | 1 | 2 | 3:
                for _ in range(self.random.randrange(8)):
                    self.publish()
            case 4 | 5 | 6:
                self.deliver(self.random.randrange(12))
            case 7 if name not in self.subscriptions:
                self.subscribe(name)
            case 8 if name in self.subscriptions:
                self.gave_up(name)
                self.core.unsubscribe(self.now, self.subscriptions.pop(name))
            case 9 if self.server:
                self.server.status()
            case 10 if self.server:
                self.server, self.is_dialed = None, False
                self.core.handle_closed(self.now, 1006)
                if self.random.random() < 0.1:
                    self.feed.floor = len(self.feed.messages)
            case 11:
                is_late = self.server_type is ChannelsServer and self.random.random() < 0.1
                advance(self, 11_000 if is_late else self.random.random() * 500)
        self.drain()
        advance(self, 0)


@pytest.mark.parametrize(("core_type", "server_type"), [
    (TradesCore, TradesServer), (ChannelsCore, ChannelsServer), (ChannelsCore, AllServer)])
def test_nothing_is_missing_behind_recovered(core_type, server_type):
    checked = resumed = whole = 0
    for seed in range(SEEDS):
        world = World(seed, core_type, server_type)
        try:
            for _ in range(STEPS):
                world.step()
            for _ in range(20):
                world.publish()
                world.deliver(10_000)
            for name in world.wholes & set(world.core.subscriptions) & (world.server.held if world.server else set()):
                assert world.last[name] == max((n for n, one in enumerate(world.feed.messages, 1) if one == name), default=0), name
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        checked, resumed, whole = checked + world.checked, resumed + world.resumed, whole + world.whole
    least = 1_000 if server_type is AllServer else 2_000
    assert checked > least and resumed > 200, f"{checked} messages, {resumed} resumed"
    assert whole > 2_000 or server_type is not AllServer, whole
