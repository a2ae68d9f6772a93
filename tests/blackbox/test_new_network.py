"""A user of trades on a new network, while the connection on the old one is dead without a word and holds all symbols of the user."""
import asyncio

import pytest
import weirgate
from link import Link
from proxies import Nginx
from redis_gateways import TRADES, publish
from tokens import fresh_token
from waiting import until

SECRET = "a-secret-of-32-bytes-for-the-tests!"


@pytest.mark.plain("the link is between")
@pytest.mark.parametrize("pause_s", [0, 3])
@pytest.mark.parametrize("proxy", [None, Nginx])
async def test_the_symbols_come_on_the_new_network(start_weirgate, started, redis_server, proxy, pause_s):
    server = start_weirgate("trades", redis=redis_server, env={"JWT_SECRET": SECRET, "REQUIRE_AUTH": "1"}).wait_ready()
    port = server.port
    if proxy:
        started.append(made := proxy(port))
        port = made.port
    token, prices = fresh_token(SECRET, sub="ann", maxSymbols=2), []
    async with Link(port).running() as wifi:
        async with weirgate.Trades(f"ws://127.0.0.1:{wifi.port}/", token=token) as old:
            await old.subscribe(["A", "B"])
            wifi.black_hole()
            await asyncio.sleep(pause_s)
            async with weirgate.Trades(f"ws://127.0.0.1:{port}/", token=token) as new:
                new.subscribe(["A", "B"], lambda trade, _: prices.append(trade["price"]))
                redis = redis_server.client()

                async def feed():
                    while True:
                        for name in ("A", "B"):
                            publish(redis, TRADES, name, 1.5)
                        await asyncio.sleep(0.2)
                feeding = asyncio.create_task(feed())
                # At most two seconds for the old connection, whenever it was heard.
                await until(lambda: len(prices) > 4, 10, "trades on the new network")
                assert sorted(new.subscriptions) == ["A", "B"]
                feeding.cancel()
            await until(lambda: "pong_timeout" in server.log(), 10, "the end of the dead connection")
