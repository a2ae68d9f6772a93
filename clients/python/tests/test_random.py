"""Random programs against servers of a few lines, in virtual time: whatever was lost, refused or given up in between, at the
end the server holds what the program wants and may have. clients/js/test/random.test.mjs has the same for JavaScript."""
import json
import random

import pytest
from weirgate.channels import ChannelsCore
from weirgate.core import Dial, Drop, Options, Send
from weirgate.subscriptions import TradesCore

SEEDS, STEPS, MOST = 150, 60, 5
NAMES = ["A", "B", "C", "D", "E", "F", "G", "H", "X1", "X2"]


class ChannelsServer:
    """Each name that begins with X is forbidden; a client that holds `MOST` names is granted none, not even a held name."""

    def __init__(self):
        self.held = set()

    def answer(self, message):
        action, names, request_id = message["action"], message.get("channels", []), message["requestId"]
        if action == "ping":
            return {"type": "pong", "requestId": request_id, "seq": 1}
        if action == "unsubscribe":
            self.held -= set(names)
            return {"type": "unsubscribed", "channels": names, "requestId": request_id, "seq": 1}
        granted, errors = [], []
        for name in names:
            if len(self.held) >= MOST:
                errors.append(f"Max channels exceeded ({MOST})")
                break
            if name.startswith("X"):
                errors.append(f"Access denied to channel: {name}")
            else:
                granted.append(name)
                self.held.add(name)
        return {"type": "subscribed", "channels": granted, "errors": errors, "requestId": request_id, "seq": 1}


class TradesServer:
    """The same rules, a request as a whole."""

    def __init__(self):
        self.held = {}

    def answer(self, message):
        action, names = message["action"], message.get("symbols", [])
        if action == "ping":
            return {"type": "pong", "timestamp": 1}
        if action == "unsubscribe":
            data = {"unsubscribed": [name for name in names if self.held.pop(name, None)]}
        elif any(name.startswith("X") for name in names):
            return {"type": "error", "message": "Invalid subscribe message: symbols[0]", "timestamp": 1}
        elif len({*self.held, *names}) > MOST:
            return {"type": "error", "message": f"Cannot subscribe: would exceed maximum of {MOST} symbols per connection.", "timestamp": 1}
        else:
            self.held |= dict.fromkeys(names, True)
            data = {"subscribed": names}
        return {"type": "success", "message": "", "data": {**data, "currentSubscriptions": list(self.held)}, "timestamp": 1}


class World:
    """A program, its client, and a server that may be lost; responses come in order, within the time of a request."""

    def __init__(self, seed, core_type, server_type):
        self.random, self.now, self.server_type = random.Random(seed), 1000.0, server_type
        self.core = core_type(Options(), self.random.random, lambda: self.now)
        self.is_up, self.server, self.waiting, self.subscriptions = False, None, [], []
        self.core.start(self.now)
        self.drain()

    def drain(self):
        while (output := self.core.poll_output()) is not None:
            match output:
                case Dial():
                    self.is_up, self.server, self.waiting = False, None, []
                case Drop():
                    self.is_up = False
                case Send(text):
                    self.waiting.append(json.loads(text))

    def advance(self, ms):
        end = self.now + ms
        while (due := self.core.poll_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.core.handle_timer(self.now)
            self.drain()
        self.now = end

    def serve(self, share):
        """Opens the connection, and answers requests, each with this probability."""
        if self.core.status == "connecting" and not self.is_up and self.random.random() < share:
            self.is_up, self.server = True, self.server_type()
            self.core.handle_opened(self.now)
            self.drain()
        while self.is_up and self.waiting and self.random.random() < share:
            self.core.handle_message(self.now, json.dumps(self.server.answer(self.waiting.pop(0))))
            self.drain()

    def step(self):
        names = self.random.choices(NAMES, k=2)
        match self.random.randrange(9):
            case 0 | 1:
                self.subscriptions.append(self.core.subscribe(self.now, names[0]))
            case 2:
                self.subscriptions.append(self.core.subscribe(self.now, names))
            case 3 | 4 if self.subscriptions:
                gone = self.subscriptions.pop(self.random.randrange(len(self.subscriptions)))
                self.core.unsubscribe(self.now, gone)
            case 5 | 6:
                self.serve(0.6)
            case 7:
                self.advance(self.random.random() * 100)
            case 8 if self.is_up and self.random.random() < 0.4:
                self.is_up = False
                self.core.handle_closed(self.now, 1006)
        self.drain()
        if self.random.random() < 0.5:
            self.advance(0)


@pytest.mark.parametrize(("core_type", "server_type"), [(ChannelsCore, ChannelsServer), (TradesCore, TradesServer)])
def test_a_program_ends_with_what_it_wants(core_type, server_type):
    for seed in range(SEEDS):
        world = World(seed, core_type, server_type)
        for _ in range(STEPS):
            world.step()
        for _ in range(100):
            world.serve(1.0)
            world.advance(500)
        wanted = {name for one in world.subscriptions for name in one.names}
        held = set(world.server.held)
        assert world.core.status == "open"
        assert set(world.core.subscriptions) == held <= wanted, f"seed {seed}"
        assert len(held) == min(MOST, sum(not name.startswith("X") for name in wanted)), f"seed {seed}"
        for one in world.subscriptions:
            assert {*one.granted, *one.refused} == set(one.names) and one.is_done, f"seed {seed}"
        world.core.close(world.now)
        assert world.core.poll_deadline() is None, f"seed {seed}"
