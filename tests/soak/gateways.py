"""The four gateways of the soak: how each is started, fed and watched."""
import asyncio
import contextlib
import json
import time

import clients
import nats
import redis.asyncio
from ledger import Follower, Sequence
from measures import deployed_environment
from nats.js.api import StorageType, StreamConfig
from processes import Weirgate
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from services import TOKEN

NAMES = [f"SOAK{n}" for n in range(10)]


class Watcher(clients.Client):
    """A client that stays from the first minute to the last and checks every message."""

    def __init__(self, stage, *args):
        super().__init__(*args)
        self.stage = stage
        self.round_trips, self._asked_at = [], None

    def take(self, opcode, payload):
        super().take(opcode, payload)
        if opcode == clients.TEXT:
            self.stage.messages_seen += 1
            self.message(json.loads(payload))
        elif opcode == clients.PONG and self._asked_at is not None:
            self.round_trips.append(time.monotonic() - self._asked_at)
            self._asked_at = None

    def probe(self):
        """Sends a ping, unless the pong of the one before is still missing."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self.transport.write(clients.client_frame(clients.PING, b"soak"))

    def message(self, message):
        """One message of the gateway."""


class Stage:
    """A gateway under soak. `loaded` is set while its feed flows; the watchers stay also without."""
    name = path = ""
    ask = b"{}"
    watchers_count = 30

    def __init__(self, outages, stalls):
        self.outages, self.stalls = outages, stalls
        self.watchers, self.sequences, self.wrong = [], [], []
        self.loaded = asyncio.Event()
        self.messages_seen = 0
        # Messages that the broker handed to the gateway: surely, and perhaps.
        self.handed, self.handed_perhaps = 0, 0
        self.weirgate = None
        self.env = deployed_environment()

    @property
    def port(self):
        return self.weirgate.port

    def start(self):
        """Starts the gateway; not waited for."""
        raise NotImplementedError

    async def connect(self, make, path=None):
        return await clients.connect(self.port, path=path or self.path, make=lambda *args: make(self, *args))

    async def open(self):
        """Connects the watchers."""
        raise NotImplementedError

    def feeds(self):
        """The coroutines that feed the gateway while `loaded`, for ever."""
        raise NotImplementedError

    async def visit(self, client, rng):
        """What a visitor does with an open connection before it leaves."""
        await asyncio.sleep(rng.random())

    def explanations(self):
        return (self.outages,)

    def sequence(self, name):
        self.sequences.append(Sequence(f"{self.name} {name}"))
        return self.sequences[-1]

    def complain(self, text):
        """Notes something wrong, the first few times."""
        if len(self.wrong) < 50:
            self.wrong.append(text)

    async def every(self, seconds, act):
        """Calls `act` while loaded."""
        while True:
            await self.loaded.wait()
            await act()
            await asyncio.sleep(seconds)

    def followers(self):
        for watcher in self.watchers:
            yield from getattr(watcher, "followers", {}).values()

    def behind(self):
        """How many watchers do not have the newest message yet."""
        return sum(f.last is not None and f.last < (f.sequence.newest() or 0) for f in self.followers())


# A time of 0 counts as missing.
FIRST_TS = 1_000


class LevelsWatcher(Watcher):
    """Each state must have a newer part than the state before, and none older."""

    def __init__(self, stage, *args):
        super().__init__(stage, *args)
        self.followers = {"flow": Follower(stage.flow), "levels": Follower(stage.levels)}
        self.state_before = None

    def message(self, message):
        state = {"flow": message.get("flow", {}).get("n"), "levels": message.get("levels", {}).get("ts")}
        if state["levels"] is not None:
            state["levels"] -= FIRST_TS
        if state == self.state_before:
            self.stage.complain(f"the same state twice: {state}")
        for key, n in state.items():
            if n is not None and (self.state_before is None or self.state_before[key] != n):
                self.followers[key].see(n)
        self.state_before = state


class Levels(Stage):
    """NATS JetStream: two subjects, with numbers that rise; slow clients are conflated."""
    name, path = "levels", "/ws/stream"
    STREAMS = (("LEVEL_SIGNALS", ["levels.*"]), ("MARKET_DATA", ["market.*", "market.*.*"]))

    def __init__(self, server, outages, stalls):
        super().__init__(outages, stalls)
        self.server, self.connection, self.streams = server, None, None
        self.flow, self.levels = self.sequence("market.flow"), self.sequence("levels.signals")

    def explanations(self):
        # A watcher that this program does not read in time is a slow client, whose states are conflated.
        return (self.outages, self.stalls)

    def start(self):
        self.weirgate = Weirgate("levels", nats=self.server, env=self.env)

    async def open(self):
        self.watchers = [await self.connect(LevelsWatcher) for _ in range(self.watchers_count)]

    async def linked(self):
        """A connection to NATS that works, made anew after each failure, and without a buffer of its own."""
        if self.connection is None or not self.connection.is_connected:
            self.connection = await nats.connect(self.server.url, allow_reconnect=False, connect_timeout=2, error_cb=quiet)
            self.streams = self.connection.jetstream(timeout=10)
            for name, subjects in self.STREAMS:
                try:
                    await self.streams.stream_info(name)
                except nats.js.errors.NotFoundError:
                    await self.streams.add_stream(
                        StreamConfig(name=name, subjects=subjects, max_age=86_400, storage=StorageType.FILE))
        return self.streams

    async def publish(self, subject, payload, sequence=None, n=None):
        """One message with its acknowledgement."""
        try:
            await (await self.linked()).publish(subject, payload)
            self.handed += 1
        except (nats.errors.Error, OSError, TimeoutError):
            self.handed_perhaps += 1
            if sequence is not None:
                sequence.unsure.add(n)
            with contextlib.suppress(Exception):
                await self.connection.close()
            self.connection = None
            await asyncio.sleep(0.3)

    async def one_flow(self, pad=1000):
        n = self.flow.next()
        await self.publish("market.flow", json.dumps({"n": n, "pad": "x" * pad}).encode(), self.flow, n)

    async def one_levels(self):
        n = self.levels.next()
        levels = [{"id": f"L{i}", "price": 100.0 + i, "direction": "SUPPORT"} for i in range(10)]
        await self.publish("levels.signals", json.dumps({"ts": FIRST_TS + n, "spy": {"spot": 1.0}, "levels": levels}).encode(),
                           self.levels, n)

    async def burst(self):
        for _ in range(40):
            await self.one_flow(4000)

    async def bad(self):
        await self.publish("market.flow", b"{this is no JSON")

    def feeds(self):
        # One coroutine, because both subjects use one connection.
        async def feed():
            turn = 0
            while True:
                await self.loaded.wait()
                await (self.burst() if turn % 300 == 30 else self.one_flow())
                if turn % 5 == 0:
                    await self.one_levels()
                if turn % 50 == 10:
                    await self.bad()
                turn += 1
                await asyncio.sleep(0.2)
        return [feed()]

    async def close(self):
        if self.connection is not None:
            with contextlib.suppress(Exception):
                await self.connection.close()


async def quiet(_error):
    """The NATS client would log each outage."""


class OnRedis(Stage):
    """What trades and channels share: names of Redis with a sequence each."""
    bad_payload = b""

    def __init__(self, server, outages, stalls):
        super().__init__(outages, stalls)
        self.server, self.publisher = server, None
        self.by_name = {name: self.sequence(name) for name in NAMES}

    def channel(self, name):
        raise NotImplementedError

    def payload(self, name, n, pad):
        raise NotImplementedError

    async def hand(self, channel, payload):
        """PUBLISH; whether Redis says that the gateway got it. Raises what Redis raises."""
        if self.publisher is None:
            self.publisher = redis.asyncio.Redis(port=self.server.port, socket_timeout=10, retry=Retry(NoBackoff(), 0))
        heard = await self.publisher.publish(channel, payload)
        self.handed += heard
        return heard > 0

    async def publish(self, name, pad=300):
        sequence = self.by_name[name]
        n = sequence.next()
        try:
            if not await self.hand(self.channel(name), self.payload(name, n, pad)) \
                    and not self.outages.covers(sequence.at[n]):
                self.complain(f"nobody was subscribed to {name} at {n}, without an outage")
        except (RedisError, OSError, TimeoutError):
            self.handed_perhaps += 1
            sequence.unsure.add(n)
            await asyncio.sleep(0.2)

    async def bad(self):
        try:
            await self.hand(self.channel("SOAK0"), self.bad_payload)
        except (RedisError, OSError, TimeoutError):
            self.handed_perhaps += 1

    def feeds(self):
        async def feed():
            turn = 0
            while True:
                await self.loaded.wait()
                for name in NAMES:
                    await self.publish(name)
                if turn % 60 == 20:
                    for _ in range(40):
                        await self.publish(NAMES[0], 4000)
                if turn % 20 == 5:
                    await self.bad()
                turn += 1
                await asyncio.sleep(0.5)
        return [feed()]

    async def open(self):
        for index in range(self.watchers_count):
            watcher = await self.connect(self.watcher)
            wanted = [NAMES[(index + step) % len(NAMES)] for step in range(3)]
            watcher.follow(wanted, index % 3 == 0)
            await watcher.wait_for(lambda w: w.subscribed, 20, "the response to its subscription")
            self.watchers.append(watcher)

    async def close(self):
        if self.publisher is not None:
            await self.publisher.aclose()


class TradesWatcher(Watcher):
    """Follows three symbols; the price of a trade is its number."""
    subscribed = False

    def follow(self, names, _pattern):
        self.followers = {name: Follower(self.stage.by_name[name]) for name in names}
        self.say({"action": "subscribe", "symbols": names})

    def message(self, message):
        if message["type"] == "trade":
            data = message["data"]
            self.followers[data["symbol"]].see(data["price"])
        elif message["type"] == "success":
            self.subscribed |= "subscribed" in message["data"]
        else:
            self.stage.complain(f"a watcher got {message}")


class Trades(OnRedis):
    name, path, watcher = "trades", "/", TradesWatcher
    ask = b'{"action":"subscribe","symbols":["SOAK0","SOAK1","SOAK2"]}'
    bad_payload = b"[1"

    def start(self):
        self.weirgate = Weirgate("trades", redis=self.server, env=self.env)

    def channel(self, name):
        return f"channel:trade:{name}"

    def payload(self, name, n, pad):
        return json.dumps({"symbol": name, "price": n, "conditions": ["x" * pad]})

    async def visit(self, client, rng):
        for _ in range(rng.randrange(1, 6)):
            names = [rng.choice(NAMES), f"V{rng.randrange(10**6)}"]
            client.say({"action": rng.choice(["subscribe", "subscribe", "unsubscribe", "ping"]), "symbols": names})
            await asyncio.sleep(rng.random())


class ChannelsWatcher(Watcher):
    """Follows three names, or all by a pattern; `seq` counts the messages of the connection."""
    subscribed, seq = False, 0

    def follow(self, names, pattern):
        names = NAMES if pattern else names
        self.followers = {f"market:tick:{name}": Follower(self.stage.by_name[name]) for name in names}
        self.say({"action": "subscribe", "channels": ["market:tick:SOAK?"] if pattern else list(self.followers)})

    def message(self, message):
        self.seq += 1
        if message["seq"] != self.seq:
            self.stage.complain(f"seq is {message['seq']} and should be {self.seq}")
            self.seq = message["seq"]
        if message["type"] == "data":
            # A payload that is no JSON arrives as text.
            if "raw" not in message["data"]:
                self.followers[message["channel"]].see(message["data"]["n"])
        elif message["type"] == "subscribed":
            self.subscribed = not message["errors"]
        elif message["type"] != "connected":
            self.stage.complain(f"a watcher got {message}")


class Channels(OnRedis):
    name, path, watcher = "channels", "/ws", ChannelsWatcher
    ask = b'{"action":"subscribe","channels":["market:tick:SOAK*","market:tick:SOAK1"]}'
    bad_payload = b"{this is no JSON"

    def start(self):
        self.weirgate = Weirgate("channels", redis=self.server, env=self.env)

    def channel(self, name):
        return f"market:tick:{name}"

    def payload(self, name, n, pad):
        return json.dumps({"n": n, "pad": "x" * pad})

    async def visit(self, client, rng):
        for _ in range(rng.randrange(1, 6)):
            names = [f"market:tick:{rng.choice(NAMES)}", f"indicators:{rng.randrange(10**6)}",
                     rng.choice(["market:tick:*", "market:tick:SOAK[0-4]", "engine:*"])]
            client.say({"action": rng.choice(["subscribe", "subscribe", "unsubscribe", "ping"]), "channels": names})
            await asyncio.sleep(rng.random())


EVENTS = ["lobby.x", "measurement.get_job", "simulation.x"]


class DeviceWatcher(Watcher):
    """A device: its responses in the order of its requests, its pushes in the order of the pushes."""

    def __init__(self, stage, *args):
        super().__init__(stage, *args)
        self.followers = {}
        self.responses = asyncio.Queue()

    def message(self, message):
        if message["type"] == "event":
            self.followers["pushes"].see(message["data"]["n"])
        else:
            self.responses.put_nowait(message)


class Events(Stage):
    """Devices with requests to three services, pushes, and requests through the proxy."""
    name, path = "events", "/ws?device_id=visitor"
    ask = b'{"event":"lobby.x","request_id":"h","data":{"a":1}}'
    watchers_count = 20

    def __init__(self, services, outages, stalls):
        super().__init__(outages, stalls)
        self.services = services
        self.pushes, self.requests, self.errors, self.proxied, self.proxy_errors = 0, 0, 0, 0, 0

    def start(self):
        env = {f"{name.upper()}_URL": service.url for name, service in self.services.items()}
        self.weirgate = Weirgate("events", env={**self.env, **env, "INTERNAL_AUTH_TOKEN": TOKEN, "HTTP_TIMEOUT_SECONDS": "3"})

    async def open(self):
        for index in range(self.watchers_count):
            watcher = await self.connect(DeviceWatcher, path=f"/ws?device_id=steady-{index}")
            watcher.followers["pushes"] = Follower(self.sequence(f"pushes to steady-{index}"))
            self.watchers.append(watcher)

    async def converse(self, watcher):
        """Requests of one device for ever; each must have one response, the right one."""
        asked = 0
        while True:
            await self.loaded.wait()
            began, asked, event = time.monotonic(), asked + 1, EVENTS[asked % len(EVENTS)]
            watcher.say({"event": event, "request_id": str(asked), "data": {"n": asked}})
            response = await asyncio.wait_for(watcher.responses.get(), 60)
            self.requests += 1
            if response["request_id"] != str(asked):
                self.complain(f"a response to {response['request_id']}, not to {asked}: {response}")
            elif response["type"] == "response":
                if response["data"] != {"n": asked}:
                    self.complain(f"the response of another request: {response}")
            else:
                self.errors += 1
                if response["error"]["code"] != "upstream_error" or not self.outages.covers(began):
                    self.complain(f"{response['error']} without an outage")
            await asyncio.sleep(2)

    async def http(self, method, path, body=b"", headers=""):
        """(status, body) of one request on a connection of its own; status 0 if there is no answer."""
        request = f"{method} {path} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n{headers}"
        request += f"Content-Length: {len(body)}\r\n\r\n" if body else "\r\n"
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(request.encode() + body)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 90)
                return int(head.split()[1]), await asyncio.wait_for(reader.read(), 90)
            finally:
                writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return 0, b""

    async def push(self):
        targets = [self.watchers[(self.pushes + step) % len(self.watchers)] for step in range(5)]
        numbered = [watcher.followers["pushes"].sequence for watcher in targets]
        # Each device has its own numbers, so each push is of its own body.
        for index, sequence in enumerate(numbered):
            body = json.dumps({"event": "soak.push", "data": {"n": sequence.next(), "pad": "x" * 500},
                               "targets": {"device_ids": [sequence.name.rsplit(" ", 1)[1]]}}).encode()
            status, answer = await self.http("POST", "/internal/broadcast", body,
                                             f"X-Internal-Token: {TOKEN}\r\nContent-Type: application/json\r\n")
            if (status, answer) != (200, b'{"sent":1}'):
                self.complain(f"a push to a connected device: {status} {answer[:100]}")
            self.pushes += 1 if index == 0 else 0
            self.handed += 1

    async def proxy(self):
        began, body = time.monotonic(), b"y" * 100_000
        status, answer = await self.http("POST", "/v1/measurement/soak", body)
        self.proxied += 1
        if status != 200:
            self.proxy_errors += 1
            if not self.outages.covers(began):
                self.complain(f"the proxy answered {status} without an outage")
        elif answer != body:
            self.complain(f"the proxy changed a body: {len(answer)} bytes")

    def feeds(self):
        return [*(self.converse(watcher) for watcher in self.watchers), self.every(1.0, self.push), self.every(1.0, self.proxy)]

    async def visit(self, client, rng):
        for _ in range(rng.randrange(1, 6)):
            client.say({"event": rng.choice([*EVENTS, "nothing", "identify"]), "request_id": "v", "data": {"device_id": "v"}})
            await asyncio.sleep(rng.random())

    async def close(self):
        pass
