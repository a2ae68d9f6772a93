"""What `weirgate trades` says of itself: banner, pages, log; and what its settings do, from outside."""
import asyncio
import hashlib
import http.client
import json
import re
import signal

import pytest
import websockets
from prometheus import scrape
from redis_gateways import TRADES, publish, subscriber
from tokens import fresh_token
from waiting import until


@pytest.fixture
def start_trades(redis_server, start_weirgate):
    """start_trades(*flags, env=…) → a trades gateway that has subscribed."""
    return lambda *flags, env=None: start_weirgate("trades", *flags, redis=redis_server, env=env).wait_ready()


async def test_the_banner_says_where_and_what(start_trades):
    weirgate = start_trades(env={"NODE_ENV": "production"})
    for line in ["weirgate trades", r"  Redis:       redis://127.0.0.1:\d+", f"  WebSocket:   ws://localhost:{weirgate.port}",
                 f"  Health:      http://localhost:{weirgate.port}/health",
                 "  Environment: production", r"  Server:      ws-gateway-[0-9a-f]{8}"]:
        assert re.search(f"^{line}$", weirgate.log(), re.M), weirgate.log()


async def test_pages_and_what_is_none(start_trades, redis_server):
    weirgate = start_trades()
    client = await subscriber(TRADES, weirgate, ["A", "B"])
    health = weirgate.health()
    assert health == {"service": "gateway", "status": "healthy", "redis_connected": True, "last_message_ts": None, "connections": 1}
    with redis_server.client() as redis:
        publish(redis, TRADES, "A", 1)
    await client.wait_for(lambda c: c.prices, 10, "the trade")
    health = weirgate.health()
    assert (health["service"], health["status"], health["redis_connected"], health["connections"]) == ("gateway", "healthy", True, 1)
    assert health["last_message_ts"] > 1_700_000_000_000
    # The loop stores its counters when a turn ends.
    await until(lambda: json.loads(weirgate.get("/stats")[2])["messagesSent"] == 3, 10, "all counted")
    stats = json.loads(weirgate.get("/stats")[2])
    names = ["activeConnections", "totalSymbolSubscriptions", "messagesSent", "messagesReceived", "uptimeSeconds", "serverId", "totalConnections"]
    assert list(stats)[:7] == names
    assert [stats[name] for name in names if name not in ("uptimeSeconds", "serverId")] == [1, 2, 3, 1, 1]
    assert re.fullmatch("ws-gateway-[0-9a-f]{8}", stats["serverId"])
    assert client.answers[0]["data"]["serverId"] == stats["serverId"]
    await until(lambda: scrape(weirgate).sum("weirgate_subscriptions") == 2, 10, "weirgate_subscriptions")
    for path in ["/", "/ws", "/nowhere?x=1"]:
        status, headers, body = weirgate.get(path)
        assert (status, headers["Content-Type"], body) == (426, "text/plain", "Upgrade Required"), path
    assert weirgate.get("/ready")[0] == 200
    client.abort()
    await until(lambda: json.loads(weirgate.get("/stats")[2])["totalSymbolSubscriptions"] == 0, 10, "nothing held")


async def test_it_logs_its_numbers(start_trades):
    weirgate = start_trades("--stats-log-interval-ms", "50", "--log-format", "json")
    await subscriber(TRADES, weirgate, ["A", "B"])

    def line():
        lines = [json.loads(line) for line in weirgate.log().splitlines() if "gateway stats" in line]
        return next((line for line in lines if line["totalSymbolSubscriptions"] == 2), None)

    await until(line, 20, "a line of numbers")
    numbers = line()
    assert (numbers["activeConnections"], numbers["messagesSent"], numbers["messagesReceived"]) == (1, 2, 1)
    assert numbers["uptimeSeconds"] >= 0


async def test_both_stacks_are_listened_on(start_trades):
    weirgate = start_trades()
    for host in ["127.0.0.1", "::1"]:
        link = http.client.HTTPConnection(host, weirgate.port, timeout=10)
        link.request("GET", "/health")
        assert link.getresponse().status == 200, host


async def test_the_log_tells_who_it_was(start_trades):
    secret = "thirty-two bytes of a test secret"
    weirgate = start_trades(env={"JWT_SECRET": secret})
    for query in ["?userId=ann.smith", "?userId=" + "x" * 200, "", "?userId=a%22%0Ab"]:
        async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/{query}") as client:
            welcome = json.loads(await client.recv())
            assert welcome["data"]["maxSymbolsPerConnection"] == 5
    token = fresh_token(secret, role="user", sub="y" * 200)
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/?token={token}") as client:
        await client.recv()
    await until(lambda: weirgate.log().count("connection ended") == 5, 10, "all of them in the log")
    assert f'user="{"y" * 64}"' in weirgate.log(), "the user of a token is cut"
    for user in ["ann.smith", "x" * 200, 'a"\nb']:
        shown = hashlib.sha256(user.encode()).hexdigest()[:12]
        assert f'user="sha256:{shown}"' in weirgate.log(), "a hash, by which the lines of a user are found"
    assert weirgate.log().count("user=") == 4
    assert "ann.smith" not in weirgate.log() and "xxx" not in weirgate.log(), "nothing of a query"


async def test_symbols_and_rate_are_settings(start_trades):
    weirgate = start_trades("--messages-per-second-max", "2", env={"MAX_SYMBOLS_PER_CONNECTION": "1"})
    async with websockets.connect(f"ws://127.0.0.1:{weirgate.port}/") as client:
        assert json.loads(await client.recv())["data"]["maxSymbolsPerConnection"] == 1
        await client.send(json.dumps({"action": "subscribe", "symbols": ["A", "B"]}))
        assert "maximum of 1 symbols" in json.loads(await client.recv())["message"]
        for _ in range(3):
            await client.send('{"action":"ping"}')
        assert json.loads(await client.recv())["type"] == "pong"
        assert json.loads(await client.recv())["message"] == "Rate limit exceeded"
    await until(lambda: scrape(weirgate).sum("weirgate_requests_limited_total") == 2, 10, "both counted")


async def test_required_tokens(start_trades):
    weirgate = start_trades(env={"REQUIRE_AUTH": "true", "GATEWAY_API_KEY": "the-key"})
    url = f"ws://127.0.0.1:{weirgate.port}/"
    async with websockets.connect(url, subprotocols=["bearer", "the-key"]) as client:
        assert client.subprotocol == "bearer"
        assert json.loads(await client.recv())["type"] == "success"
    async with websockets.connect(url + "?token=wrong") as client:
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(client.recv(), 10)
        assert (client.close_code, client.close_reason) == (1008, "Authentication failed")
    await until(lambda: scrape(weirgate).sum("weirgate_auth_refusals_total", reason="not_a_token") == 1, 10, "weirgate_auth_refusals_total")
    assert "the-key" not in weirgate.log()


async def test_a_stop_is_the_same_whether_redis_is_there_or_not(redis_server, start_trades):
    for redis_is_there in [True, False]:
        weirgate = start_trades()
        client = await subscriber(TRADES, weirgate, ["A"])
        if not redis_is_there:
            redis_server.kill()
            await until(lambda: not weirgate.health()["redis_connected"], 20, "the loss noticed")
        weirgate.send(signal.SIGTERM)
        assert await asyncio.to_thread(weirgate.wait, 10) == 0
        await asyncio.wait_for(client.ended, 60)
        assert client.close_code == 1001
