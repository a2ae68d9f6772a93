"""The two gateways on Redis as a test needs them: how to subscribe, where to publish, what comes."""
import dataclasses
import json
from collections.abc import Callable

import clients


@dataclasses.dataclass(frozen=True)
class Kind:
    """One gateway: its subcommand, the path of its WebSocket, and its words for the same things."""
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
    """A client that counts answers and data apart; `prices` are those of its data, in their order; None where there is none.

    `missing` counts the numbers that a channels client saw skipped."""

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
    """A client that has been told that it is subscribed."""
    client = await clients.connect(weirgate.port, receive_bytes, path=kind.path, make=Subscriber)
    client.say(kind.subscribe(names))
    await client.wait_for(lambda c: len(c.answers) == 2, 20, "the answer to its request")
    assert client.answers[1]["type"] == kind.subscribed, client.answers
    return client


def publish(redis, kind, name, price, pad=""):
    """One trade or tick on the name's channel; how many connections of Redis got it."""
    return redis.publish(kind.channel(name), json.dumps({"symbol": name, "price": price, "conditions": [pad]}))
