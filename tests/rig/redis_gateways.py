"""The two gateways on Redis for tests: subscriptions, channels, messages."""
import dataclasses
import json
from collections.abc import Callable

import clients


@dataclasses.dataclass(frozen=True)
class Kind:
    """A gateway: subcommand, path of the WebSocket, and the form of requests and messages."""
    name: str
    path: str
    subscribe: Callable
    channel: Callable
    subscribed: str
    data: str


TRADES = Kind("trades", "/", lambda names: {"action": "subscribe", "symbols": names}, lambda name: f"channel:trade:{name}",
              "success", "trade")
CHANNELS = Kind("channels", "/ws", lambda names: {"action": "subscribe", "channels": [f"market:tick:{name}" for name in names]},
                lambda name: f"market:tick:{name}", "subscribed", "data")
BOTH = [TRADES, CHANNELS]


class Subscriber(clients.Client):
    """A client that counts responses and data separately; `prices` are the prices of the data, in order; None without a price.

    `missing` counts the skipped numbers of a channels client."""

    def __init__(self, *args):
        super().__init__(*args)
        self.answers, self.prices = [], []
        self.missing, self._seq = 0, 0

    def take(self, opcode, payload):
        super().take(opcode, payload)
        if opcode != clients.TEXT:
            return
        message = json.loads(payload)
        if "seq" in message:
            assert message["seq"] > self._seq, message
            self.missing += message["seq"] - self._seq - 1
            self._seq = message["seq"]
        if message["type"] in ("trade", "data"):
            self.prices.append(message["data"].get("price"))
        else:
            self.answers.append(message)


async def subscriber(kind, weirgate, names, receive_bytes=None):
    """A client with an acknowledged subscription."""
    client = await clients.connect(weirgate.port, receive_bytes, path=kind.path, make=Subscriber)
    client.say(kind.subscribe(names))
    await client.wait_for(lambda c: len(c.answers) == 2, 20, "the answer to its request")
    assert client.answers[1]["type"] == kind.subscribed, client.answers
    return client


def publish(redis, kind, name, price, pad=""):
    """Publishes a trade or tick on the name's channel; returns the number of receiving connections of Redis."""
    return redis.publish(kind.channel(name), json.dumps({"symbol": name, "price": price, "conditions": [pad]}))
