"""A publisher of invented market data, as small as one can be: the compose files of deploy/ run it beside a bus.

    python3 examples/feed.py trades redis://127.0.0.1:6379      trades on channel:trade:AAPL and others
    python3 examples/feed.py channels redis://127.0.0.1:6379    ticks on market:tick:NIFTY and others
    python3 examples/feed.py levels nats://127.0.0.1:4222       levels.signals and market.flow

Python's standard library only: both protocols are lines of text. It starts again when the bus was away.
"""
import itertools
import json
import random
import socket
import sys
import time
from urllib.parse import urlparse

PERIOD_S = 0.25
PRICES = {"AAPL": 150.25, "GOOGL": 175.5, "MSFT": 420.0, "SPY": 685.0, "NIFTY": 24100.0, "BANKNIFTY": 51900.0}


class Redis:
    """PUBLISH, as an array of bulk strings."""

    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port or 6379), timeout=5)
        self.answers = self.socket.makefile("rb")

    def publish(self, channel, payload):
        words = [word.encode() for word in ("PUBLISH", channel, payload)]
        self.socket.sendall(b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        answer = self.answers.readline()
        if not answer.startswith(b":"):
            raise OSError(f"Redis says {answer!r}")


class Nats:
    """PUB. `weirgate levels` makes the streams that keep these messages."""

    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port or 4222), timeout=5)
        self.lines = self.socket.makefile("rb")
        self.line()
        self.socket.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')

    def line(self):
        line = self.lines.readline()
        if line.startswith(b"PING"):
            self.socket.sendall(b"PONG\r\n")
        if not line or line.startswith(b"-ERR"):
            raise OSError(f"NATS says {line!r}")
        return line

    def publish(self, subject, payload):
        data = payload.encode()
        # The PING makes the server say something, so that its own PINGs are read and answered.
        self.socket.sendall(b"PUB %s %d\r\n%s\r\nPING\r\n" % (subject.encode(), len(data), data))
        while not self.line().startswith(b"PONG"):
            pass


def walk(symbol):
    """The next price: a random step of a few hundredths of a percent."""
    PRICES[symbol] = round(PRICES[symbol] * (1 + random.gauss(0, 0.0002)), 2)
    return PRICES[symbol]


def trades(_):
    for symbol in ("AAPL", "GOOGL", "MSFT"):
        trade = {"symbol": symbol, "price": walk(symbol), "volume": random.randint(1, 500),
                 "timestamp": time.time_ns() // 1_000_000, "conditions": ["@", "T"], "exchange": "NASDAQ"}
        yield f"channel:trade:{symbol}", trade


def channels(_):
    for symbol in ("NIFTY", "BANKNIFTY"):
        yield f"market:tick:{symbol}", {"symbol": symbol, "price": walk(symbol), "timestamp": time.time_ns() // 1_000_000}


def levels(number):
    spot = walk("SPY")
    ts = time.time_ns() // 1_000_000
    yield "market.flow", {"ts": ts, "spot": spot, "volume": random.randint(1, 5000)}
    if number % 4 == 1:
        ladder = [{"id": f"ROUND_{price}", "kind": "ROUND", "price": float(price), "distance": round(abs(price - spot), 2),
                   "direction": "RESISTANCE" if price > spot else "SUPPORT"}
                  for price in range(int(spot) - 3, int(spot) + 5)]
        quote = {"spot": spot, "bid": round(spot - 0.01, 2), "ask": round(spot + 0.01, 2)}
        yield "levels.signals", {"ts": ts, "spy": quote, "levels": ladder, "viewport": {"targets": []}}


FEEDS = {"trades": (Redis, trades), "channels": (Redis, channels), "levels": (Nats, levels)}


def run(kind, url):
    bus_of, messages = FEEDS[kind]
    address = urlparse(url)
    for number in itertools.count(1):
        if number == 1:
            bus = bus_of(address.hostname, address.port)
            print(f"feed: {kind} to {url}", flush=True)
        for name, message in messages(number):
            bus.publish(name, json.dumps(message))
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in FEEDS:
        sys.exit(__doc__)
    while True:
        try:
            run(*sys.argv[1:])
        except OSError as error:
            print(f"feed: {error}; again in a second", flush=True)
            time.sleep(1)
