"""The messages that are published, and how each gateway delivers them: levels through a relay, trades, channels."""
import json
import random
import re

import nats
from nats.js.api import StorageType, StreamConfig
from processes import NatsServer, RedisServer

# Nothing is dropped here for a client that is stopped for some seconds.
LARGE_QUEUES = ["--send-queue-hard-bytes", "200000000", "--send-queue-soft-bytes", "200000000"]
TOPICS = ["AAA", "BBB", "CCC"]


def bodies(count):
    """`count` JSON texts of 1 byte to 300 kB: a book of prices of which some change, words, and noise that does not shrink."""
    draw = random.Random(7692)
    book = [draw.randrange(10_000_000) for _ in range(35_000)]
    for n in range(count):
        size = 1 if n % 20 == 3 else 300_000 if n % 60 == 9 else 60_000 if n % 60 == 16 else round(10 ** draw.uniform(0.5, 4.3))
        for _ in range(min(20, size)):
            book[draw.randrange(1 + size // 9)] = draw.randrange(10_000_000)
        kind = draw.choice(["book", "book", "words", "noise", "wide noise"])
        if size == 1:
            yield str(n % 10)
        elif kind == "book":
            yield json.dumps([n, *book[:size // 9]], separators=(",", ":"))
        elif kind == "words":
            yield json.dumps(f"{n} żółw 龍 🜁 \\ \" \u2028 " + f"{n % 7} of the same " * (size // 15), ensure_ascii=False)
        elif kind == "noise":
            yield json.dumps(f"{n} " + "".join(draw.choices("abcdefghijklmnopqrstuvwxyz0123456789+/", k=size)))
        else:
            yield json.dumps(f"{n} " + "".join(map(chr, draw.choices(range(0x400, 0x3000), k=size // 3))), ensure_ascii=False)


class Levels:
    """A relay of a NATS subject; a slow client skips states."""
    name, path, skips, subscriptions = "levels", "/ws/stream", True, []
    flags = ["--relay", "mixed.state=m"]

    async def start(self):
        self.broker = NatsServer()
        self.connection = await nats.connect(self.broker.url)
        self.stream = self.connection.jetstream()
        await self.stream.add_stream(StreamConfig(name="MIXED", subjects=["mixed.*"], storage=StorageType.MEMORY))
        return {"nats": self.broker}

    async def publish(self, n, body):
        await self.stream.publish("mixed.state", body.encode())

    def expected(self, n, body):
        return body

    def read(self, text):
        """The body of the message; None for a message that is no state."""
        assert text.startswith('{"m":'), text[:200]
        return text[len('{"m":'):-1]

    async def stop(self):
        await self.connection.close()
        self.broker.discard()


class OnRedis:
    """What trades and channels have in common: three topics in one connection, and no message may be missing."""
    skips = False
    flags = LARGE_QUEUES

    async def start(self):
        self.broker = RedisServer()
        self.client = self.broker.client()
        return {"redis": self.broker}

    async def publish(self, n, body):
        self.client.publish(self.channel(TOPICS[n % 3]), self.expected(n, body))

    def read(self, text):
        if found := self.shape.fullmatch(text):
            return found[1]
        assert json.loads(text)["type"] in ("success", "connected", "subscribed"), text[:200]
        return None

    async def stop(self):
        self.client.close()
        self.broker.discard()


class Trades(OnRedis):
    name, path = "trades", "/"
    subscriptions = [json.dumps({"action": "subscribe", "symbols": [topic]}) for topic in TOPICS]
    shape = re.compile(r'\{"type":"trade","data":(.*),"timestamp":\d+\}')

    def channel(self, topic):
        return f"channel:trade:{topic}"

    def expected(self, n, body):
        return f'{{"symbol":"{TOPICS[n % 3]}","price":{n},"volume":1,"timestamp":{n},"conditions":{body},"exchange":"X"}}'


class Channels(OnRedis):
    name, path = "channels", "/ws"
    subscriptions = [json.dumps({"action": "subscribe", "channels": [f"market:tick:{topic}"]}) for topic in TOPICS]
    shape = re.compile(r'\{"type":"data","seq":\d+,"channel":"[^"]*","pattern":null,"data":(.*),"timestamp":"[^"]*"\}')

    def channel(self, topic):
        return f"market:tick:{topic}"

    def expected(self, n, body):
        return body
