"""`weirgate trades --candles`, from Redis to a client, by the real clock."""
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time

import websockets
from processes import ROOT
from prometheus import scrape
from waiting import until

PROGRAM = ROOT / "tests/trades_gateway/candles/day.py"


def now_ms():
    return time.time_ns() // 1_000_000


# A symbol has candles of three intervals.
SYMBOLS_MAX = 10_000


def by_the_program(trades):
    """The candles of one second, each as a line."""
    done = subprocess.run([sys.executable, PROGRAM], input=json.dumps(trades), capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if " 1s " in line]


def line(candle):
    keys = ("symbol", "interval", "start", "open", "high", "low", "close", "volume", "trades")
    return " ".join(str(candle[key]) for key in keys)


async def test_closed_candles_are_those_of_another_program_over_the_same_trades(start_weirgate, redis_server):
    weirgate = start_weirgate("trades", "--candles", redis=redis_server).wait_ready()
    trades, closed, running, numbers = [], [], 0, random.Random(1)
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/") as client:
        await client.send(json.dumps({"action": "subscribe_candles", "symbols": ["A", "B"], "interval": "1s"}))
        with redis_server.client() as redis:
            for _ in range(300):
                trade = {"symbol": numbers.choice("AB"), "timestamp": now_ms() - numbers.randrange(100),
                         "price": numbers.randrange(100, 200), "volume": numbers.randrange(10)}
                trades.append(trade)
                redis.publish(f"channel:trade:{trade['symbol']}", json.dumps(trade))
                await asyncio.sleep(0.01)
        while sum(candle["trades"] for candle in closed) < len(trades):
            message = json.loads(await asyncio.wait_for(client.recv(), 20))
            if message["type"] == "candle":
                running += not message["data"]["closed"]
                closed += [message["data"]] * message["data"]["closed"]
    assert sorted(map(line, closed)) == sorted(by_the_program(trades))
    assert running > 4
    assert scrape(weirgate).sum("weirgate_candle_trades_dropped_total") == 0


async def test_candles_of_a_start_and_of_a_loss_say_so(start_weirgate, redis_server):
    before_start_ms = now_ms()
    weirgate = start_weirgate("trades", "--candles", redis=redis_server).wait_ready()
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/") as client:
        for interval in ("1s", "5m"):
            await client.send(json.dumps({"action": "subscribe_candles", "symbols": ["A"], "interval": interval}))
        with redis_server.client() as redis:
            async def candle(is_wanted):
                while True:
                    redis.publish("channel:trade:A", json.dumps({"price": 1, "timestamp": now_ms()}))
                    with contextlib.suppress(TimeoutError):
                        message = json.loads(await asyncio.wait_for(client.recv(), 0.05))
                        if message["type"] == "candle" and is_wanted(message["data"]):
                            return message["data"]

            async def whole_one():
                for _ in range(5):
                    if "partial" not in await candle(lambda candle: candle["closed"]):
                        return True
                return False
            of_start = await candle(lambda candle: candle["interval"] == "5m")
            assert "partial" in of_start or of_start["start"] > before_start_ms
            assert await whole_one()
            redis.client_kill_filter(_type="pubsub")
            assert (await candle(lambda candle: candle["closed"]))["partial"]
            assert await whole_one()


async def test_metrics_tell_of_candles_and_of_trades_that_candles_lack(start_weirgate, redis_server):
    weirgate = start_weirgate("trades", "--candles", redis=redis_server).wait_ready()
    with redis_server.client() as redis:
        pipe = redis.pipeline(transaction=False)
        for n in range(SYMBOLS_MAX - 1):
            pipe.publish(f"channel:trade:S{n}", json.dumps({"price": 1}))
        pipe.execute()
        for symbol, trade in (("A", {"price": 1}), ("B", {"price": 1}), ("A", {"price": "x"}),
                              ("A", {"price": 1, "timestamp": 5}), ("A", {"price": 1, "timestamp": now_ms() + 60_000})):
            redis.publish(f"channel:trade:{symbol}", json.dumps(trade))

    def dropped():
        metrics = scrape(weirgate)
        return {reason: metrics.sum("weirgate_candle_trades_dropped_total", reason=reason)
                for reason in ("pairs_max", "unreadable", "late", "early")}
    await until(lambda: dropped() == {"pairs_max": 1, "unreadable": 1, "late": 3, "early": 1}, 30, "all counted")
    metrics = scrape(weirgate)
    assert metrics.sum("weirgate_candle_pairs") == metrics.sum("weirgate_candle_pairs_max") == 3 * SYMBOLS_MAX
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/") as client:
        await client.recv()
        await client.send(json.dumps({"action": "subscribe_candles", "symbols": ["B"], "interval": "1s"}))
        assert json.loads(await client.recv())["message"] == "Cannot subscribe: too many symbols have candles."
    assert scrape(weirgate).sum("weirgate_subscriptions_limited_total", limit="candle_pairs") == 1


async def test_candles_of_a_busy_stream_that_was_read_in_time_are_whole(start_weirgate, redis_server):
    """Each burst fills an answer of Redis, so that the reader of the stream is behind it for some milliseconds."""
    stream = ("--stream", "trades", "--history-ms", "20000")
    weirgate = start_weirgate("trades", "--candles", *stream, redis=redis_server).wait_ready()
    published, closed = 0, []
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/") as client:
        await client.send(json.dumps({"action": "subscribe_candles", "symbols": ["A"], "interval": "1s"}))

        async def publish():
            nonlocal published
            with redis_server.client() as redis:
                for _ in range(800):
                    pipe = redis.pipeline()
                    for _ in range(20):
                        trade = {"price": 1, "timestamp": now_ms()}
                        pipe.xadd("trades", {"channel": "channel:trade:A", "data": json.dumps(trade)})
                    await asyncio.to_thread(pipe.execute)
                    published += 20
                    await asyncio.sleep(0.01)
        publishing = asyncio.create_task(publish())
        async with asyncio.timeout(60):
            while not publishing.done() or sum(candle["trades"] for candle in closed) < published:
                message = json.loads(await client.recv())
                if message["type"] == "candle":
                    closed += [message["data"]] * message["data"]["closed"]
        await publishing
    # The first candle began before weirgate read the stream.
    assert [candle for candle in closed[1:] if "partial" in candle] == []
    assert scrape(weirgate).sum("weirgate_candle_trades_dropped_total") == 0
