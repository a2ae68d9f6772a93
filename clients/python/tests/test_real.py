"""The Python clients against the program itself, with a redis-server and small services."""
import asyncio
import base64
import hashlib
import hmac
import json
import signal
import time

import pytest
import weirgate
import weirgate.sync
from processes import free_port
from services import TOKEN, push
from waiting import patient

SECRET = "a-secret-of-32-bytes-for-the-tests!"


async def until(condition, seconds, what):
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < patient(seconds), f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


def token(**claims):
    """A JWT with HS256."""
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")
    body = b".".join(part(json.dumps(value).encode()) for value in ({"alg": "HS256", "typ": "JWT"}, claims))
    return (body + b"." + part(hmac.digest(SECRET.encode(), body, hashlib.sha256))).decode()


async def test_levels_come_are_stale_when_the_server_is_frozen_and_come_back_after_a_stop(start_weirgate):
    server = start_weirgate("demo", "--rate-hz", "10").wait_ready()
    said, closes = [], []

    def note(status):
        said.append(status)
        closes.append(levels.last_close)
    async with weirgate.Levels(server.http_url + "/ws/stream", stale_ms=600, on_status=note) as levels:
        seen = []
        async for state in levels:
            seen.append(state)
            if len(seen) == 3:
                break
        assert seen[-1]["levels"]["levels"] and levels.state is not None
        server.send(signal.SIGSTOP)
        await until(lambda: levels.status == "stale", 5, "stale")
        server.send(signal.SIGCONT)
        await until(lambda: levels.status == "open", 5, "fresh again")
        server.send(signal.SIGTERM)
        await until(lambda: levels.last_close and levels.last_close.error == "ECONNREFUSED", 5, "nobody listens")
        first = next(close for close in closes if close)
        assert first.code == 1012 and first.opened
    assert levels.status == "closed"
    assert said[:3] == ["open", "stale", "open"]


@pytest.mark.parametrize("gateway, code, reason", [
    ("demo", 1012, "retry_after_ms=2500"), ("trades", 1001, "Server shutting down retry_after_ms=2500")])
async def test_a_server_that_stops_can_ask_for_a_wait(start_weirgate, redis_server, gateway, code, reason):
    server = start_weirgate(gateway, "--close-retry-after-ms", "2500", redis=redis_server).wait_ready()
    path = "/ws/stream" if gateway == "demo" else "/"
    async with weirgate.connect(server.http_url + path) as client:
        await until(lambda: client.status == "open", 5, "open")
        server.send(signal.SIGTERM)
        await until(lambda: client.last_close, 5, "the close")
        assert (client.last_close.code, client.last_close.reason) == (code, reason)
        assert client.last_close.retry_after_ms == 2500 and client.status == "waiting"
        assert 1500 < client.retry_in_ms <= 2800


async def test_a_slow_client_of_levels_knows_how_many_states_it_skipped(start_weirgate):
    server = start_weirgate("demo", "--rate-hz", "50", "--state-seq", "--send-queue-soft-bytes", "20000").wait_ready()
    states, gaps = [], []
    # The demo has a line that is as slow as a client wants.
    tab = "?name=slow&bytes_per_second="
    async with weirgate.Levels(f"{server.http_url}/page/slow/ws/stream{tab}1000000000",
                               on_state=lambda state, _: states.append(state["seq"]), on_gap=gaps.append):
        await until(lambda: len(states) > 5, 5, "states")
        # A busy machine may skip here too.
        skipped_before = len(gaps)
        assert server.get(f"/page/tab{tab}20000")[0] == 200
        await until(lambda: len(gaps) > skipped_before + 1, 20, "states were skipped")
        assert server.get(f"/page/tab{tab}1000000000")[0] == 200
        newest = states[-1]
        await until(lambda: states[-1] > newest + 100, 10, "all states again")
    missing = set(range(states[0], states[-1])) - set(states)
    assert missing == {number for first, last in gaps for number in range(first, last + 1)}


async def test_a_wrong_path_is_refused_for_good_and_says_why(start_weirgate):
    server = start_weirgate("demo").wait_ready()
    async with weirgate.Levels(f"ws://127.0.0.1:{server.port}/wrong") as levels:
        with pytest.raises(weirgate.RequestError, match="403"):
            async for _ in levels:
                pass
        assert levels.last_close.status == 403


async def test_trades_are_acknowledged_and_subscribed_again_after_a_restart(start_weirgate, redis_server):
    server = start_weirgate("trades", redis=redis_server).wait_ready()
    publish = redis_server.client().publish
    welcomes, closes = [], []
    async with weirgate.Trades(f"ws://127.0.0.1:{server.port}/", on_welcome=welcomes.append,
                               on_status=lambda _: closes.append(trades.last_close)) as trades:
        wanted = await trades.subscribe(["aapl", "GOOGL"])
        assert (wanted.granted, wanted.refused) == (["AAPL", "GOOGL"], {})
        # Published before anybody iterates: the loop below starts in the same step.
        publish("channel:trade:AAPL", json.dumps({"symbol": "AAPL", "price": 150.25}))
        async for trade in trades:
            assert trade["price"] == 150.25
            break
        more = await trades.subscribe(["A", "B", "C", "D"])
        assert more.granted == ["A", "B", "C"] and "maximum of 5" in more.refused["D"]
        with pytest.raises(weirgate.RequestError) as refused:
            await trades.subscribe("E")
        assert refused.value.code == "refused" and "maximum of 5" in str(refused.value)
        more.unsubscribe()
        assert "timestamp" in await trades.ping()
        server.send(signal.SIGTERM)
        await asyncio.to_thread(server.wait, 10)
        start_weirgate("trades", redis=redis_server, env={"WS_PORT": str(server.port)})
        await until(lambda: len(welcomes) == 2 and trades.status == "open", 10, "a second connection")
        stream = aiter(wanted)
        end = time.monotonic() + 10
        while time.monotonic() < end and not publish("channel:trade:GOOGL", "{}"):
            await asyncio.sleep(0.05)
        await until(lambda: {"AAPL", "GOOGL"} <= set(trades.subscriptions), 10, "both symbols")
        publish("channel:trade:GOOGL", json.dumps({"symbol": "GOOGL", "price": 7}))
        async for trade in stream:
            assert trade["symbol"] == "GOOGL"
            if trade.get("price") == 7:
                break
        assert trades.reconnects == 1 and next(close for close in closes if close).code == 1001


@pytest.mark.parametrize("gateway, client, path, names", [
    ("channels", weirgate.Channels, "/ws", ("--history-names", "market:*")), ("trades", weirgate.Trades, "/", ()),
])
async def test_a_program_that_starts_again_goes_on_from_its_position(start_weirgate, redis_server, gateway, client, path, names):
    server = start_weirgate(gateway, "--history-ms", "60000", *names, redis=redis_server).wait_ready()
    url, name = server.http_url + path, {"channels": "market:tick", "trades": "AAPL"}[gateway]
    got, told = [], []

    def publish(number):
        content = {"symbol": name, "price": number}
        redis_server.client().publish({"channels": name, "trades": f"channel:trade:{name}"}[gateway], json.dumps(content))

    def made(since=None):
        return client(url, since=since, on_subscribed=lambda answer: told.append(answer.get("recovered")))

    def take(data, _):
        got.append(data["price"])
    async with made() as first:
        await first.subscribe(name, take)
        publish(0)
        await until(lambda: got == [0], 5, "the first message")
    for number in range(1, 30):
        publish(number)
    async with made(first.position) as second:
        second.subscribe(name, take)
        await until(lambda: len(got) == 30, 5, "what was missed")
        assert got == list(range(30)) and second.position != first.position
    assert told == [None, {"channels": {name: True}, "trades": True}[gateway]]


async def test_a_device_that_comes_back_gets_the_pushes_that_it_missed(start_weirgate):
    server = start_weirgate("events", "--history-ms", "60000", env={"INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()
    url, got, told = f"ws://127.0.0.1:{server.port}/ws", [], []

    def made(**options):
        return weirgate.Devices(url, on_push=lambda push: got.append(push.data["n"]), on_identified=told.append, **options)

    async def pushed(*numbers):
        for number in numbers:
            await asyncio.to_thread(push, server, "e", {"n": number}, "d1")
    async with made(device_id="d1") as first:
        await until(lambda: first.position, 5, "a position before the first push")
    await pushed(0, 1)
    async with made(device_id="d1", since=first.position) as second:
        await until(lambda: got == [0, 1], 5, "the missed pushes")
    await pushed(2)
    async with made(since=second.position) as third:
        assert await third.identify("d1") == {"device_id": "d1", "recovered": True}
        await until(lambda: got == [0, 1, 2], 5, "the missed push")
    assert told == [{"device_id": "d1"}] + 2 * [{"device_id": "d1", "recovered": True}]


async def test_the_user_of_a_token_is_the_device_and_a_refused_token_is_replaced(start_weirgate):
    env = {"INTERNAL_AUTH_TOKEN": TOKEN, "REQUIRE_AUTH": "true", "JWT_SECRET": SECRET}
    server = start_weirgate("events", env=env).wait_ready()
    url, asked = f"ws://127.0.0.1:{server.port}/ws", []

    def fetched(refused):
        asked.append(refused)
        return token(sub="ann", exp=int(time.time()) + (600 if refused else -600))
    async with weirgate.Devices(url, token=fetched) as device:
        await until(lambda: device.status == "open" and len(asked) == 2, 10, "the second token")
        pushes = device.iterate()
        # The server may not know the device in the moment in which its connection is open.
        while (await asyncio.to_thread(push, server, "e", {"n": 1}, "ann"))[1]["sent"] == 0:
            await asyncio.sleep(0.02)
        assert (await anext(pushes)).data == {"n": 1}
    for options in ({"device_id": "ann"}, {"device_id": "bob", "token": token(sub="ann")}):
        async with weirgate.Devices(url, **options) as refused:
            await until(lambda: refused.status == "closed", 5, "the refusal")
            assert (refused.last_close.code, refused.last_close.reason) == (1008, "Authentication failed")
    assert asked == [False, True]


@pytest.mark.parametrize("auth", ["true", "false"])
async def test_a_device_with_a_token_gets_what_it_missed_and_after_a_login_the_pushes_of_the_other_user(start_weirgate, auth):
    env = {"INTERNAL_AUTH_TOKEN": TOKEN, "REQUIRE_AUTH": auth, "JWT_SECRET": SECRET}
    server = start_weirgate("events", "--history-ms", "60000", env=env).wait_ready()
    url, got, users = f"ws://127.0.0.1:{server.port}/ws", [], ["ann"]

    def made(since=None):
        return weirgate.Devices(url, since=since, token=lambda _: token(sub=users[-1], exp=int(time.time()) + 600), on_push=lambda push: got.append(push.data["n"]))
    async with made() as first:
        await until(lambda: first.position, 5, "a position")
    await asyncio.to_thread(push, server, "e", {"n": "ann 1"}, "ann")
    async with made(first.position) as device:
        await until(lambda: got, 5, "the missed push")
        users.append("bob")
        device.reconnect()
        await until(lambda: device.reconnects, 5, "the connection of the other user")
        for user in users:
            await asyncio.to_thread(push, server, "e", {"n": f"{user} 2"}, user)
        await until(lambda: "bob 2" in got, 5, "the push to the other user")
        assert (got, device.status) == (["ann 1", "bob 2"], "open")


async def test_candles_come_at_once_and_when_they_are_closed(start_weirgate, redis_server):
    server = start_weirgate("trades", "--candles", redis=redis_server).wait_ready()
    publish = redis_server.client().publish
    publish("channel:trade:AAPL", json.dumps({"price": 1.5, "volume": 3, "timestamp": int(time.time() * 1000)}))
    async with weirgate.Trades(f"ws://127.0.0.1:{server.port}/") as trades:
        candles = trades.iterate("candle")
        assert (await trades.subscribe_candles(["aapl"], "5m")).granted == ["AAPL"]
        running = await anext(candles)
        assert (running["close"], running["volume"], running["closed"]) == (1.5, 3, False)
        seconds = await trades.subscribe_candles("AAPL", "1s")
        publish("channel:trade:AAPL", json.dumps({"price": 2, "timestamp": int(time.time() * 1000)}))
        async for candle in candles:
            if candle["closed"] and candle["close"] == 2:
                assert candle["interval"] == "1s"
                break
        assert trades.candles == {"5m": ["AAPL"], "1s": ["AAPL"]}
        seconds.unsubscribe()
        await trades.ping()
        assert trades.candles == {"5m": ["AAPL"]}


async def test_a_gateway_without_candles_refuses_them(start_weirgate, redis_server):
    server = start_weirgate("trades", redis=redis_server).wait_ready()
    async with weirgate.Trades(f"ws://127.0.0.1:{server.port}/") as trades:
        with pytest.raises(weirgate.RequestError, match="Unknown action: subscribe_candles"):
            await trades.subscribe_candles("AAPL", "1m")


async def test_a_refused_token_is_replaced_once(start_weirgate, redis_server):
    server = start_weirgate("trades", redis=redis_server, env={"REQUIRE_AUTH": "true", "JWT_SECRET": SECRET}).wait_ready()
    asked = []

    async def fetch_token(refused):
        asked.append(refused)
        return token(sub="ann", exp=int(time.time()) + 600) if refused else "nonsense"
    async with weirgate.Trades(f"ws://127.0.0.1:{server.port}/", token=fetch_token) as trades:
        await trades.subscribe("AAPL")
        assert asked == [False, True]
        assert trades.last_close.code == 1008
    async with weirgate.Trades(f"ws://127.0.0.1:{server.port}/", token=lambda refused: "nonsense", token_in="query") as trades:
        with pytest.raises(weirgate.RequestError, match="1008 Authentication failed") as refused:
            await trades.subscribe("AAPL")
        assert refused.value.code == "closed" and trades.status == "closed" and refused.value.details.code == 1008


async def test_new_tokens_replace_those_that_end_without_a_cut(start_weirgate, redis_server):
    server = start_weirgate("channels", redis=redis_server, env={"REQUIRE_AUTH": "true", "JWT_SECRET": SECRET}).wait_ready()
    roles, asked, errors, statuses, got = ["admin", "user"], [], [], [], []

    async def fetch(refused):
        asked.append(refused)
        return token(sub="ann", role=roles.pop(0) if roles else "admin", jti=len(asked), exp=int(time.time()) + 5)
    async with weirgate.Channels(f"ws://127.0.0.1:{server.port}/ws", token=fetch, on_error=errors.append, on_status=statuses.append) as channels:
        names = await channels.subscribe(["market:tick", "engine:signal"], lambda data, _: got.append(data))
        assert names.granted == ["market:tick", "engine:signal"]
        await until(lambda: errors, 5, "the second token revokes a name")
        assert errors[0].code == "refused" and errors[0].details == {"engine:signal": "not granted by the new token"}
        assert names.granted == ["market:tick"]
        await until(lambda: len(names.granted) == 2, 5, "the third token grants the name again")
        # Longer than any of the tokens lasts.
        await until(lambda: len(asked) >= 8, 20, "further tokens")
        redis_server.client().publish("engine:signal", "7")
        await until(lambda: got, 5, "a message")
        assert statuses == ["open"] and channels.reconnects == 0 and len(errors) == 1 and got == [7] and not any(asked)


async def test_a_slow_or_failing_function_for_tokens_is_told_stopped_and_asked_again(start_weirgate, redis_server):
    server = start_weirgate("channels", redis=redis_server, env={"REQUIRE_AUTH": "true", "JWT_SECRET": SECRET}).wait_ready()
    asked, errors, stopped = [], [], []

    async def fetch(refused):
        asked.append(refused)
        if len(asked) == 2:
            raise OSError("offline")
        if len(asked) in (3, 5):
            try:
                await asyncio.sleep(60)
            finally:
                stopped.append(len(asked))
        return token(sub="ann", jti=len(asked), exp=int(time.time()) + 6)
    channels = weirgate.Channels(f"ws://127.0.0.1:{server.port}/ws", token=fetch, on_error=errors.append, request_ms=1_000)
    try:
        await channels.subscribe("market:tick")
        await until(lambda: len(asked) == 5, 15, "a token in the fourth call, and a fifth call")
        assert [error.code for error in errors] == ["token", "token"] and "offline" in str(errors[0]) and isinstance(errors[0].details, OSError)
        assert stopped == [3] and channels.status == "open" and channels.reconnects == 0
    finally:
        await channels.close()
    await until(lambda: stopped == [3, 5], 5, "nothing of the client is left")


async def test_a_token_may_be_a_text_and_is_not_replaced(start_weirgate, redis_server):
    server = start_weirgate("channels", redis=redis_server, env={"REQUIRE_AUTH": "true", "JWT_SECRET": SECRET}).wait_ready()
    text = token(sub="ann", exp=int(time.time()) + 5)
    async with weirgate.Channels(f"ws://127.0.0.1:{server.port}/ws", token=text) as channels:
        await channels.subscribe("market:tick")
        await until(lambda: channels.status == "closed", 10, "the end of the token")
        assert channels.last_close.code == 1008 and channels.reconnects == 0


async def test_channels_count_their_messages_and_grant_in_part(start_weirgate, redis_server):
    server = start_weirgate("channels", redis=redis_server, env={"MAX_MESSAGES_PER_SECOND": "5"}).wait_ready()
    publish = redis_server.client().publish
    gaps = []
    async with weirgate.Channels(f"ws://127.0.0.1:{server.port}/ws", on_gap=gaps.append) as channels:
        wanted = await channels.subscribe(["market:tick:*", "engine:signal"])
        assert wanted.granted == ["market:tick:*"] and wanted.refused == {"engine:signal": "Access denied to channel: engine:signal"}
        with pytest.raises(weirgate.RequestError, match="Access denied"):
            await channels.subscribe("engine:signal")
        assert channels.subscriptions == ["market:tick:*"]
        stream = channels.iterate()
        for n in range(40):
            publish("market:tick:A", json.dumps(n))
        got = [await anext(stream) for _ in range(5)]
        assert [message["data"] for message in got] == [0, 1, 2, 3, 4] and got[0]["pattern"] == "market:tick:*"
        # The gateway shed most of the other messages: the next message shows the gap.
        await channels.ping()
        assert gaps[0].first > got[-1]["seq"] and gaps[0].last >= gaps[0].first
        wanted.unsubscribe()
        await channels.ping()
        assert channels.subscriptions == []


async def test_a_device_asks_its_services_and_gets_pushes(start_weirgate, service):
    def answer(asked):
        if asked["message"]["event"] == "lobby.join":
            return 404, {"detail": "Lobby not found"}
        return {"device": asked["client"]["device_id"], **asked["message"]["data"]}
    lobby = service(answer)
    server = start_weirgate("events", "--lobby-url", lobby.url, env={"INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()
    async with weirgate.Devices(f"ws://127.0.0.1:{server.port}/ws", device_id="d 1") as device:
        pushes = device.iterate()
        assert await device.request("lobby.create", {"name": "x"}) == {"device": "d 1", "name": "x"}
        with pytest.raises(weirgate.RequestError) as refused:
            await device.request("lobby.join")
        assert refused.value.code == "upstream_error" and "Lobby not found" in str(refused.value)
        assert await asyncio.to_thread(push, server, "lobby.updated", {"n": 1}, "d 1") == (200, {"sent": 1})
        assert await anext(pushes) == weirgate.Push("lobby.updated", {"n": 1})
    async with weirgate.Devices(f"ws://127.0.0.1:{server.port}/ws") as device:
        assert await device.identify("d2") == {"device_id": "d2"}
        assert (await device.request("lobby.create"))["device"] == "d2"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(device.request("lobby.slow", {"n": 1}), 0)


async def test_opened_before_the_gateway_every_wanted_name_is_live_with_the_first_connection(start_weirgate, redis_server):
    port, trades_port, got = free_port(), free_port(), []
    channels = weirgate.Channels(f"ws://127.0.0.1:{port}/ws", request_ms=500)
    trades = weirgate.Trades(f"ws://127.0.0.1:{trades_port}/", request_ms=500)
    async with channels, trades:
        tick = channels.subscribe("market:tick", lambda value, message: got.append(("tick", value)))
        channels.subscribe("indicators:*", lambda value, message: got.append((message["channel"], value)))
        trades.subscribe("aapl", lambda trade, timestamp: got.append(("AAPL", trade["price"])))
        with pytest.raises(weirgate.RequestError) as late:
            await tick
        assert late.value.code == "timeout"
        await asyncio.sleep(1.5)
        for gateway, variable, at in (("channels", "REDIS_WS_GATEWAY_PORT", port), ("trades", "WS_PORT", trades_port)):
            start_weirgate(gateway, redis=redis_server, env={variable: str(at)})
        await until(lambda: len(channels.subscriptions) == 2 and trades.subscriptions == ["AAPL"], 20, "all names")
        publish = redis_server.client().publish
        await until(lambda: publish("channel:trade:AAPL", json.dumps({"symbol": "AAPL", "price": 3})), 10, "the bus")
        publish("market:tick", "1")
        publish("indicators:a", "2")
        await until(lambda: len(got) == 3, 5, "a message of each name")
        assert sorted(got) == [("AAPL", 3), ("indicators:a", 2), ("tick", 1)]
        tick.unsubscribe()
        await channels.ping()
        assert channels.subscriptions == ["indicators:*"]


async def test_a_loop_over_a_subscription_takes_its_messages_and_ends_with_it(start_weirgate, redis_server):
    server = start_weirgate("channels", redis=redis_server).wait_ready()
    publish = redis_server.client().publish
    told = []
    async with weirgate.Channels(f"ws://127.0.0.1:{server.port}/ws", queue_max=2, on_error=told.append) as channels:
        mine, other = await channels.subscribe("market:tick:A"), await channels.subscribe("market:tick:B")
        publish("market:tick:B", "1")
        publish("market:tick:A", "2")
        publish("market:tick:A", "3")
        got = []
        async for message in mine:
            got.append((message["channel"], message["data"]))
            if len(got) == 2:
                break
        assert got == [("market:tick:A", 2), ("market:tick:A", 3)]
        late, rest = aiter(other), aiter(mine)
        for n in range(3):
            publish("market:tick:B", str(n))
        await until(lambda: len(other._inboxes[0].waiting) == 2, 5, "two messages")
        assert [(await anext(late))["data"] for _ in range(2)] == [0, 1]
        with pytest.raises(weirgate.RequestError, match="queue_max"):
            await anext(late)
        mine.unsubscribe()
        with pytest.raises(StopAsyncIteration):
            await anext(rest)
        with pytest.raises(weirgate.RequestError, match="Access denied"):
            async for _ in channels.subscribe("engine:signal"):
                pass
        assert [(error.code, list(error.details)) for error in told] == [("refused", ["engine:signal"])]
    async for _ in other:
        raise AssertionError("nothing comes after the end")


async def test_a_handler_that_fails_is_told_and_keeps_no_other_from_its_message(start_weirgate, redis_server):
    server = start_weirgate("channels", redis=redis_server).wait_ready()
    logged, told, got = [], [], []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: logged.append(context["exception"]))

    def fails(value, message):
        raise ValueError("of the handler")
    async with weirgate.Channels(f"ws://127.0.0.1:{server.port}/ws", on_error=told.append) as channels:
        channels.subscribe("market:tick", fails)
        both = channels.subscribe("market:tick", lambda value, message: (got.append(value), both.unsubscribe() if value == 2 else None))
        await both
        for n in (1, 2, 3):
            redis_server.client().publish("market:tick", str(n))
        await until(lambda: len(told) == 3, 5, "three failures")
        assert got == [1, 2] and channels.status == "open" and channels.subscriptions == ["market:tick"]
        assert [(error.code, error.details) for error in told] == [("handler", error) for error in logged]


async def test_a_caller_that_waits_no_longer_gives_up_nothing(start_weirgate, redis_server):
    port = free_port()
    async with weirgate.Channels(f"ws://127.0.0.1:{port}/ws") as channels:
        wanted = channels.subscribe("market:tick")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wanted, 0.05)
        start_weirgate("channels", redis=redis_server, env={"REDIS_WS_GATEWAY_PORT": str(port)})
        await until(lambda: channels.subscriptions == ["market:tick"], 20, "the name")
        assert await wanted is wanted


def test_the_same_without_asyncio(start_weirgate, redis_server):
    server = start_weirgate("trades", redis=redis_server).wait_ready()
    publish, got = redis_server.client().publish, []
    with weirgate.sync.Trades(f"ws://127.0.0.1:{server.port}/") as trades:
        wanted = trades.subscribe("AAPL").wait()
        trades.subscribe("aapl", lambda trade, timestamp: got.append(trade["price"])).wait()
        for price in range(3):
            publish("channel:trade:AAPL", json.dumps({"symbol": "AAPL", "price": price}))
        assert [trade["price"] for _, trade in zip(range(3), wanted)] == [0, 1, 2] == got
        with pytest.raises(TimeoutError):
            next(wanted.iterate(timeout_s=0.05))
        with pytest.raises(TimeoutError):
            next(trades.iterate(timeout_s=0.05))
        assert trades.subscriptions == wanted.granted == ["AAPL"] and trades.status == "open"
        wanted.unsubscribe()
        trades.ping()
        assert list(wanted) == [] and trades.subscriptions == ["AAPL"]
        # A handler may subscribe, and give up.
        more = []
        first = trades.subscribe("MSFT", lambda trade, timestamp: (more.append(trades.subscribe("GOOGL")), first.unsubscribe())).wait()
        publish("channel:trade:MSFT", json.dumps({"symbol": "MSFT", "price": 5}))
        end = time.monotonic() + 10
        while set(trades.subscriptions) != {"AAPL", "GOOGL"}:
            assert time.monotonic() < end, trades.subscriptions
            time.sleep(0.02)
        publish("channel:trade:GOOGL", json.dumps({"symbol": "GOOGL", "price": 6}))
        assert next(more[0].iterate(timeout_s=10))["price"] == 6
    assert trades.status == "closed"
    trades.close()


async def test_options_that_nobody_reads_are_refused_and_nobody_there_is_no_error():
    with pytest.raises(TypeError, match="on_sate"):
        weirgate.Levels("ws://127.0.0.1:1/", on_sate=print)
    with pytest.raises(TypeError, match="connect_options"):
        weirgate.Channels("wss://127.0.0.1:1/", ssl=None)
    for address in ("127.0.0.1:1/ws", "localhost:1/ws", "ftp://localhost/ws", "ws:/ws", ""):
        with pytest.raises(ValueError, match="ws://, wss://, http:// or https://"):
            weirgate.Channels(address)
        with pytest.raises(ValueError, match="wss://"):
            weirgate.sync.Trades(address)
    async with weirgate.connect(lambda: f"ws://127.0.0.1:{free_port()}/") as feed:
        await until(lambda: feed.status == "waiting", 5, "the first failure")
        assert feed.last_close.error == "ECONNREFUSED" and feed.retry_in_ms <= 600


async def test_latency_and_status_of_a_gateway_with_stamps(start_weirgate, redis_server):
    """On one machine the clock of the server is that of the client: the offset found is that of the two clocks."""
    server = start_weirgate("channels", "--stamp", redis=redis_server, env={"DEFAULT_ROLE": "user"}).wait_ready()
    publish, states, refusals, got = redis_server.client().publish, [], [], []
    async with weirgate.Channels(f"ws://127.0.0.1:{server.port}/ws", on_refused=refusals.append) as channels:
        latency = weirgate.latency_of(channels)
        end = weirgate.status_of(channels, lambda now: states.append((now.state, now.cause)), latency=latency)
        denied = channels.subscribe("engine:signal")
        await channels.subscribe("market:tick", lambda data, message: got.append(message))
        await until(lambda: latency.server_now() is not None, 10, "a round trip")
        assert abs(latency.server_now() - time.time() * 1000) <= latency.error_ms + 1
        begin = time.time()
        publish("market:tick", "1")
        await until(lambda: latency.ms is not None, 10, "a message")
        elapsed_ms = (time.time() - begin) * 1000
        assert 0 <= latency.ms <= elapsed_ms + latency.error_ms and latency.round_trip_ms >= 0
        assert 0 <= latency.age_of(got[0]) <= (time.time() - begin) * 1000 + latency.error_ms + 1
        assert states[-1] == ("refused", "The server refuses engine:signal (Access denied to channel: engine:signal).")
        denied.unsubscribe()
        await until(lambda: states[-1][0] in ("open", "late"), 10, "nothing is refused any more")
        assert refusals == [{"engine:signal": "Access denied to channel: engine:signal"}, {}] and channels.refused == {}
        server.kill()
        await until(lambda: states[-1][0] in ("waiting", "connecting"), 10, "the loss")
        assert latency.server_now() is None
        end()
        latency.end()
        await asyncio.sleep(0)
        count = len(states)
    assert len(states) == count


def test_latency_and_status_without_asyncio(start_weirgate, redis_server):
    server = start_weirgate("channels", redis=redis_server).wait_ready()
    states = []
    with weirgate.sync.Channels(f"ws://127.0.0.1:{server.port}/ws") as channels:
        latency = weirgate.sync.latency_of(channels)
        end = weirgate.sync.status_of(channels, states.append, latency=latency)
        begin = time.monotonic()
        while latency.server_now() is None:
            assert time.monotonic() - begin < 10
            time.sleep(0.02)
        assert abs(latency.server_now() - time.time() * 1000) <= latency.error_ms + 1
        assert states[-1] == ("open", "All is well.", (("open", "All is well."),)) and channels.retry_in_ms == 0
        end()
        latency.end()
    assert states[-1].state == "open"
