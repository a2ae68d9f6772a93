"""Random programs on a stream that cannot give the newest messages for a while, in virtual time, with cuts in every place: each handler
gets each message once and in order from its first one on, and in the end the newest one of each channel.
clients/js/test/newest-random.test.mjs has the same for JavaScript."""
import json
import random

from virtual_time import advance
from weirgate.channels import ChannelsCore
from weirgate.core import Dial, Drop, Options, Send
from weirgate.outputs import Deliver

SEEDS, STEPS = 80, 150
# Names, with the channels that they match.
NAMES = {"A": "A", "B": "B", "C": "C", "R": "STUV", "P": "XYZ"}
REASONS = ["refused", "unreadable", "limit"]


class Stream:
    """A stream of messages, which all servers read. A position is the number of the newest message before a client goes on."""

    def __init__(self):
        self.messages, self.reason, self.is_up = [], "", True
        # What a server has itself.
        self.history = 0

    def of(self, name, channel=None):
        return [n for n, one in enumerate(self.messages, 1) if one in NAMES[name] and channel in (None, one)]

    def newest(self, name, last):
        why = self.reason if self.is_up else "away"
        first = self.history if why else 0
        found = [n for channel in NAMES[name] for n in [n for n in self.of(name, channel) if n > first][-last:]]
        return found, why


class Server:
    """A connection: frames wait until the network delivers them, and answers for the stream, in which names are joined. `last` brings
    the newest messages of a name that is joined already, too."""

    def __init__(self, stream):
        self.stream = stream
        self.held, self.frames, self.answers = set(), [], []

    def publish(self, channel):
        number = len(self.stream.messages)
        self.frames += [self.message(name, number) | {"pos": str(number)} for name in self.held if channel in NAMES[name]]

    def status(self, **more):
        pos = {"pos": str(len(self.stream.messages))} if self.held else {}
        self.frames.append({"type": "status", "bus": "up" if self.stream.is_up else "away", "timestamp": 1, **pos, **more})

    def message(self, name, number):
        channel = self.stream.messages[number - 1]
        return {"type": "data", "channel": channel, "pattern": None if NAMES[name] == name else name, "data": number}

    def serve(self, message):
        names, is_new = set(message.get("channels", [])), message["action"] == "subscribe"
        if message["action"] == "unsubscribe":
            self.held -= names
            for _, joining in self.answers:
                joining -= names
        if is_new:
            assert "last" in message and "since" not in message or not self.held & names, f"{names}: held already"
        self.answers.append((message, names if is_new else set()))

    def answer(self):
        """The next answer."""
        if not self.answers:
            return
        message, joining = self.answers.pop(0)
        own = {"requestId": message["requestId"], "timestamp": 1}
        if message["action"] == "ping":
            return self.frames.append({"type": "pong", **own})
        if message["action"] == "unsubscribe":
            return self.frames.append({"type": "unsubscribed", "channels": message["channels"], **own})
        since, found, why = message.get("since"), [], {}
        for name in joining:
            if since is not None:
                found += [(n, name) for n in self.stream.of(name) if n > int(since)]
            elif message.get("last"):
                newest, why[name] = self.stream.newest(name, message["last"])
                found += [(n, name) for n in newest]
        # A cut among the first newest messages of a name leaves some out.
        is_first = since is None and not joining <= self.held
        self.held |= joining
        told = {name: reason for name, reason in why.items() if reason}
        self.frames.append({"type": "subscribed", "channels": message["channels"], "errors": [], **own} | ({"why": told} if told else {}) | (
            {"recovered": dict.fromkeys(message["channels"], True)} if since is not None
            else {} if found else {"pos": str(len(self.stream.messages))}))
        self.frames += [self.message(name, n) | {"pos": str(n), "is_first": is_first} for n, name in sorted(found)]
        if found and since is None:
            self.status(is_first=is_first)


class World:
    """A program with handlers that check what they get."""

    def __init__(self, seed):
        self.random, self.now, self.stream = random.Random(seed), 1000.0, Stream()
        self.names, self.channels = list(NAMES), "".join(NAMES.values())
        self.server, self.is_dialed, self.sent, self.asked = None, False, [], 0
        self.subscriptions, self.got, self.is_ending = {}, {}, False
        self.core = ChannelsCore(Options(last=self.random.choice([1, 3]), silence_ms=0), self.random.random, lambda: self.now)
        for _ in range(self.random.randrange(20)):
            self.stream.messages.append(self.any_channel())
        self.stream.reason, self.stream.history = "refused", len(self.stream.messages) // 2
        self.core.start(self.now)
        for name in self.names:
            self.subscribe(name)
        self.drain()

    def any_channel(self):
        """Some are busy, and some have no message for long."""
        return self.channels[int(self.random.random() ** 12 * len(self.channels))]

    def subscribe(self, name):
        self.subscriptions[name] = self.core.subscribe(self.now, name)

    def drain(self):
        while (output := self.core.poll_output()) is not None:
            match output:
                case Dial():
                    self.server, self.is_dialed, self.sent = None, True, []
                case Drop():
                    self.server, self.is_dialed = None, False
                case Send(text):
                    self.sent.append(json.loads(text))
                case Deliver(subscription, item):
                    self.take(subscription, item["channel"], item["data"])

    def take(self, subscription, channel, number):
        got = self.got.setdefault((subscription, channel), [])
        if got:
            wanted = next((n for n in self.stream.of(subscription.names[0], channel) if n > got[-1]), None)
            assert number == wanted, f"{channel}: {number} after {got}, not {wanted}"
        got.append(number)

    def publish(self):
        if self.stream.is_up:
            self.stream.messages.append(self.any_channel())
            if self.server:
                self.server.publish(self.stream.messages[-1])

    def deliver(self, most):
        """The server reads and answers some requests, and the network delivers some frames."""
        server = self.server
        while server is not None and server is self.server and most > 0:
            most -= 1
            if self.sent and self.random.random() < 0.5:
                message = self.sent.pop(0)
                self.asked += message["action"] == "subscribe" and bool(server.held & set(message["channels"]))
                server.serve(message)
            elif server.answers and self.random.random() < 0.5:
                server.answer()
            elif server.frames:
                self.core.handle_message(self.now, json.dumps({**server.frames.pop(0), "is_first": None}))
                self.drain()
            if not self.is_ending and self.random.random() < 0.02:
                self.publish()

    def open(self):
        if self.core.status == "waiting":
            advance(self, 500)
        if self.core.status == "connecting" and self.is_dialed and self.server is None:
            self.server = Server(self.stream)
            self.core.handle_opened(self.now, "ws://feed.example/")
            self.drain()

    def is_first(self):
        """Whether the first newest messages of a name are on their way."""
        return any(frame.get("is_first") for frame in self.server.frames)

    def step(self):
        self.open()
        name = self.random.choice(self.names)
        match self.random.randrange(15):
            case 0 | 1 | 2:
                self.publish()
            case 3 | 4 | 5 | 6:
                self.deliver(self.random.randrange(40))
            case 7 if name not in self.subscriptions and not (self.sent or self.server and (self.server.answers or self.server.frames)):
                self.subscribe(name)
            case 8 if name in self.subscriptions and self.random.random() < 0.3:
                self.core.unsubscribe(self.now, self.subscriptions.pop(name))
            case 9 if self.server:
                self.stream.is_up = self.random.random() < 0.7
                self.server.status()
            case 10 if self.server and self.random.random() < 0.3 and not self.is_first():
                self.server, self.is_dialed = None, False
                self.core.handle_closed(self.now, 1006)
            case 11:
                self.stream.reason = self.random.choice(["", *REASONS])
                self.stream.history = self.random.randrange(len(self.stream.messages) + 1)
            case 12 | 13 | 14:
                # Shorter than the wait for an answer.
                advance(self, self.random.random() * 6_000)
                self.deliver(400)
        self.drain()
        advance(self, 0)

    def end(self):
        """The stream gives all: each handler has the newest message of each channel, and nothing is asked for any more."""
        self.stream.reason, self.stream.is_up, self.is_ending = "", True, True
        for _ in range(250):
            self.open()
            if self.server and not self.server.frames and self.random.random() < 0.1:
                self.server.status()
            self.deliver(60)
            advance(self, 1_000)
        assert self.core.cuts == {}, self.core.cuts
        for name, subscription in self.subscriptions.items():
            for channel in NAMES[name]:
                newest = self.stream.of(name, channel)[-1:]
                assert self.got.get((subscription, channel), [])[-1:] == newest, f"{name}, {channel}"
        asked, _ = self.asked, advance(self, 200_000)
        assert self.asked == asked


def test_each_handler_gets_each_message_once_and_the_newest_of_each_channel():
    count = asked = 0
    for seed in range(SEEDS):
        world = World(seed)
        try:
            for _ in range(STEPS):
                world.step()
            world.end()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        count, asked = count + sum(map(len, world.got.values())), asked + world.asked
    assert count > 2_000 and asked > 100, f"{count} messages, {asked} requests"
