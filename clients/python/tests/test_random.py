"""Random programs against servers of a few lines, in virtual time: whatever was lost, refused or given up in between, at the
end the server holds what the program wants and may have. clients/js/test/random.test.mjs has the same for JavaScript."""
import base64
import json
import math
import random
from datetime import UTC, datetime

import pytest
from virtual_time import advance
from weirgate.channels import ChannelsCore
from weirgate.core import Dial, Drop, Options, Renew, Send
from weirgate.subscriptions import TradesCore

SEEDS, STEPS, MOST = 150, 60, 5
NAMES = ["A", "B", "C", "D", "E", "F", "G", "H", "X1", "X2"]


LASTS_MS = 20_000


def token_of(letter, now):
    """A token, with the letter that forbidden names begin with."""
    body = base64.urlsafe_b64encode(json.dumps({"letter": letter, "exp": (now + LASTS_MS) / 1000}).encode()).rstrip(b"=")
    return f"e30.{body.decode()}.sig"


class ChannelsServer:
    """Each name that begins with X is forbidden; a client that holds `MOST` names is granted none, not even a held name."""

    forbidden = "X"
    ends_at = math.inf

    def __init__(self, token=None, now=0.0):
        self.held = set()

    def welcome(self, now):
        return None

    def answer(self, message, now):
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
            if name.startswith(self.forbidden):
                errors.append(f"Access denied to channel: {name}")
            else:
                granted.append(name)
                self.held.add(name)
        return {"type": "subscribed", "channels": granted, "errors": errors, "requestId": request_id, "seq": 1}


class TokensServer(ChannelsServer):
    """The same with tokens: a new token may forbid other names, or be refused."""

    is_calm = False

    def __init__(self, token, now):
        super().__init__()
        self.admit(token, now)

    def admit(self, token, now):
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        self.forbidden, self.ends_at = claims["letter"], claims["exp"] * 1000
        return {"timestamp": datetime.fromtimestamp(now / 1000, UTC).isoformat(), "seq": 1}

    def welcome(self, now):
        return {"type": "connected", "timestamp": datetime.fromtimestamp(now / 1000, UTC).isoformat(), "seq": 1}

    def answer(self, message, now):
        if message["action"] != "authenticate":
            return super().answer(message, now)
        why = {1: "Too many new tokens", 2: "Authentication failed"}.get(int(now) % 10)
        if why and not self.is_calm:
            return {"type": "error", "error": why, "requestId": message["requestId"], "seq": 1}
        admitted = self.admit(message["token"], now)
        revoked = [name for name in self.held if name.startswith(self.forbidden)]
        self.held -= set(revoked)
        return admitted | {"type": "authenticated", "revoked": revoked, "requestId": message["requestId"]}


class TradesServer:
    """The same rules, a request as a whole."""

    forbidden = "X"
    ends_at = math.inf

    def __init__(self, token=None, now=0.0):
        self.held = {}

    def welcome(self, now):
        return None

    def answer(self, message, now):
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
        self.core = core_type(Options(has_token=server_type is TokensServer), self.random.random, lambda: self.now)
        self.is_up, self.server, self.waiting, self.subscriptions = False, None, [], []
        self.token, self.is_calm, self.is_asked = None, False, False
        self.core.start(self.now)
        self.drain()

    def drain(self):
        while (output := self.core.poll_output()) is not None:
            match output:
                case Dial():
                    self.is_up, self.server, self.waiting = False, None, []
                    self.token = self.new_token()
                case Renew(is_wanted):
                    self.is_asked = is_wanted
                case Drop():
                    self.is_up = False
                case Send(text):
                    self.waiting.append(json.loads(text))

    def new_token(self):
        return token_of(self.random.choice("XXAB"), self.now)

    def renew(self):
        """Answers a question for a token: with a new token, the same, none or a failure."""
        how = 1 if self.is_calm else self.random.random()
        if not self.is_asked or 0.3 <= how < 0.4:
            return
        self.is_asked = False
        if how < 0.1:
            self.core.handle_no_token(self.now, OSError("offline"))
        elif how < 0.2:
            self.core.handle_token(self.now, None)
        else:
            self.token = self.token if how < 0.3 else self.new_token()
            self.core.handle_token(self.now, self.token)
        self.drain()

    def serve(self, share):
        """Opens the connection, and answers requests, each with this probability."""
        if self.core.status == "connecting" and not self.is_up and self.random.random() < share:
            self.is_up, self.server = True, self.server_type(self.token, self.now)
            self.core.handle_opened(self.now, "ws://feed.example/", self.token)
            self.drain()
            if welcome := self.server.welcome(self.now):
                self.core.handle_message(self.now, json.dumps(welcome))
                self.drain()
        if self.is_up and self.server.ends_at <= self.now:
            self.is_up = False
            self.core.handle_closed(self.now, 1008, "Authentication failed")
            return self.drain()
        self.renew()
        while self.is_up and self.waiting and self.random.random() < share:
            self.core.handle_message(self.now, json.dumps(self.server.answer(self.waiting.pop(0), self.now)))
            self.drain()

    def step(self):
        names = self.random.choices(NAMES, k=2)
        match self.random.randrange(10):
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
                advance(self, self.random.random() * 100)
            case 8 if self.is_up and self.random.random() < 0.4:
                self.is_up = False
                self.core.handle_closed(self.now, 1006)
            case 9 if self.is_up and self.random.random() < 0.4:
                self.serve(1.0)
                advance(self, 11_000)
        self.drain()
        if self.random.random() < 0.5:
            advance(self, 0)


@pytest.mark.parametrize(("core_type", "server_type"), [(ChannelsCore, ChannelsServer), (ChannelsCore, TokensServer), (TradesCore, TradesServer)])
def test_a_program_ends_with_what_it_wants(core_type, server_type):
    for seed in range(SEEDS):
        world = World(seed, core_type, server_type)
        for _ in range(STEPS):
            world.step()
        # From here on nothing fails.
        world.is_calm = True
        for _ in range(100):
            if world.server:
                world.server.is_calm = True
            world.serve(1.0)
            advance(world, 500)
        wanted = {name for one in world.subscriptions for name in one.names}
        held = set(world.server.held)
        assert world.core.status == "open"
        assert set(world.core.subscriptions) == held <= wanted, f"seed {seed}"
        assert len(held) == min(MOST, sum(not name.startswith(world.server.forbidden) for name in wanted)), f"seed {seed}"
        for one in world.subscriptions:
            assert {*one.granted, *one.refused} == set(one.names) and one.is_done, f"seed {seed}"
        world.core.close(world.now)
        assert world.core.poll_deadline() is None, f"seed {seed}"
