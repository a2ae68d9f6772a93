"""Functions of the program that fail, or that would never run: the client reports them and goes on."""
import asyncio
import json
import math
import time
from functools import partial

import pytest
import weirgate
import weirgate.sync
from weirgate.connection import _UNHEARD_S
from weirgate.core import Core, Options, Report
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.http11 import Response


class Feed:
    """A server that sends a message each time a client has come, and ends the connection if it `cuts`."""

    def __init__(self, cuts=False, message=None):
        self.cuts, self.message, self.connections, self.got = cuts, message, 0, []

    async def __aenter__(self):
        self.server = await serve(self.talk, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/"
        self.failures = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.failures.append(context["exception"]))
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def talk(self, link):
        self.connections += 1
        await link.send(json.dumps(self.message or {"n": self.connections}))
        if self.cuts:
            # After a subscription that the client may send.
            await asyncio.sleep(0.02)
            return await link.close(1012)
        async for text in link:
            self.got.append(text)

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)


FAST = {"backoff_min_ms": 20, "backoff_max_ms": 50}


def fails(*_):
    raise ValueError("of the program")


def cancels(*_):
    raise asyncio.CancelledError


class Mute(Exception):
    """Whose texts fail."""

    def __str__(self):
        raise ValueError("of the program")

    __repr__ = __str__


def fails_mutely(*_):
    raise Mute


@pytest.mark.parametrize("why", [fails, cancels, fails_mutely])
@pytest.mark.parametrize("where", ["on_status", "on_open", "on_message", "on_state", "retry"])
async def test_a_function_that_fails_is_reported_and_changes_nothing(where, why):
    async with Feed(cuts=True) as feed, weirgate.Levels(feed.url, **FAST, **{where: why}) as levels:
        await feed.until(lambda: feed.connections >= 4)
        assert feed.failures and {type(one) for one in feed.failures} == {{fails: ValueError, cancels: asyncio.CancelledError, fails_mutely: Mute}[why]}
        assert levels.state["n"] >= 3


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, Mute])
@pytest.mark.parametrize("where", ["retry", "token", "url", "on_status", "on_message", "handler"])
async def test_what_a_function_raises_does_not_end_the_thread_of_a_client(where, error):
    """As sys.exit() in `retry` or in the function for tokens."""
    raised = []

    def fails(*_):
        if len(raised) < 3:
            raised.append(where)
            raise error
        return feed.url if where == "url" else None

    def run():
        given = {} if where in ("url", "handler") else {where: fails}
        with weirgate.sync.Channels(fails if where == "url" else feed.url, **FAST, **given) as client:
            client._thread.loop.call_soon_threadsafe(client._thread.loop.set_exception_handler, lambda loop, context: None)
            if where == "handler":
                client.subscribe("a", fails)
            end = time.monotonic() + 20
            while (len(raised) < 3 or client.reconnects < 2) and time.monotonic() < end:
                time.sleep(0.01)
            assert client._thread.is_alive() and len(raised) == 3 and client.reconnects >= 2
    async with Feed(cuts=True, message={"type": "data", "channel": "a", "pattern": None, "data": 1, "seq": 1}) as feed:
        await asyncio.to_thread(run)


@pytest.mark.parametrize("value", ["soon", math.nan, [], 1j, object()])
def test_a_wait_that_is_none_counts_as_none_given(value):
    core = Core(Options(retry=lambda close: value), lambda: 0.5)
    core.start(0)
    core.handle_closed(0, 1006)
    assert core.status == "waiting" and core.retry_at == 450
    outputs = []
    while (output := core.poll_output()) is not None:
        outputs.append(output)
    assert [type(output.error) for output in outputs if isinstance(output, Report)] == [TypeError]


@pytest.mark.parametrize(("value", "status", "retry_at"), [(None, "waiting", 450), (True, "waiting", 450), (5, "waiting", 5), (-5, "waiting", 0), (False, "closed", None), (math.inf, "waiting", math.inf)])
def test_a_program_chooses_the_wait(value, status, retry_at):
    core = Core(Options(retry=lambda close: value), lambda: 0.5)
    core.start(0)
    core.handle_closed(0, 1006)
    assert core.status == status and retry_at in (None, core.retry_at)


@pytest.mark.parametrize("how", ["close", "reconnect"])
def test_retry_may_use_the_client(how):
    core = Core(Options(retry=lambda close: getattr(core, how)(5)), lambda: 0.5)
    core.start(0)
    core.handle_closed(5, 1006)
    assert core.status == {"close": "closed", "reconnect": "connecting"}[how]
    assert (core.poll_deadline() is None) == (how == "close")


async def test_what_would_never_run_is_refused():
    async def later(*_):
        pass

    class Later:
        async def __call__(self, *_):
            pass

    def generates(*_):
        yield
    for function in (later, partial(later, 1), Later(), generates, "text", 5):
        for make in (lambda one: weirgate.Levels("ws://127.0.0.1:1/", on_state=one), lambda one: weirgate.Levels("ws://127.0.0.1:1/", retry=one),
                     lambda one: weirgate.sync.Levels("ws://127.0.0.1:1/", on_state=one)):
            with pytest.raises(TypeError):
                make(function)
        async with weirgate.Trades("ws://127.0.0.1:1/", on_status=None) as trades:
            for use in (lambda one: trades.on("trade", one), lambda one: trades.subscribe("A", one), lambda one: trades.subscribe_candles("A", "1s", one)):
                with pytest.raises(TypeError):
                    use(function)
    # What a function returns may run by itself.
    async with Feed() as feed, weirgate.Levels(feed.url, on_state=lambda state, kept: later(), on_open=lambda: asyncio.create_task(later())) as levels:
        await feed.until(lambda: levels.state)
        await feed.until(lambda: feed.failures)
        assert [type(one) for one in feed.failures] == [TypeError] and "asyncio.create_task" in str(feed.failures[0])


async def test_a_message_that_cannot_be_sent_stops_no_other():
    async with Feed() as feed, weirgate.connect(feed.url) as client:
        await feed.until(lambda: client.status == "open")
        for bad in ({"a": 1}, None, 5, ["a"], "\ud800"):
            with pytest.raises((TypeError, ValueError)):
                client.send(bad)
        assert client.send("good")
        await feed.until(lambda: feed.got == ["good"])
        for code, reason in ((999, ""), (1005, ""), (1006, ""), (5000, ""), (1000, "x" * 124)):
            with pytest.raises(ValueError, match="close"):
                await client.close(code, reason)
        assert client.status == "open" and not feed.failures


async def test_a_mistake_of_the_program_in_an_attempt_is_reported_and_the_network_is_not():
    async with Feed() as feed:
        mistakes = [False, True, True]

        def token(refused):
            if mistakes and mistakes.pop(0):
                raise KeyError("of the program")
            if mistakes:
                raise ConnectionError("the network")
        async with weirgate.connect(feed.url, token=token, **FAST) as client:
            await feed.until(lambda: client.status == "open")
            assert [type(one) for one in feed.failures] == [KeyError, KeyError]


async def test_tasks_that_somebody_else_cancels_cost_a_connection_and_no_more():
    async with Feed() as feed, weirgate.connect(feed.url, stale_ms=0) as client:
        await feed.until(lambda: client.status == "open")
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if "Connection._run" in str(task):
                task.cancel()
        await feed.until(lambda: client.reconnects == 1)
        assert client.last_close.reason == "cancelled" and not feed.failures


async def test_a_function_for_tokens_may_outlast_its_attempt():
    asked = []

    async def token(refused):
        asked.append(refused)
        if len(asked) == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "too late"
        return "in time"
    async with Feed() as feed, weirgate.connect(feed.url, token=token, handshake_ms=500, **FAST) as client:
        await feed.until(lambda: client.status == "open")
        await asyncio.sleep(0.05)
        assert feed.connections == 1 and not feed.failures


@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize("token_in", ["header", "query"])
async def test_no_redirect_is_followed(fallback, token_in):
    stolen = []

    def redirect(link, request):
        return Response(302, "Found", Headers(Location=f"ws://localhost:{port(thief)}/steal", Content_Length="0"))

    async def steal(link):
        stolen.append(link.request)

    def port(server):
        return server.sockets[0].getsockname()[1]
    async with serve(steal, "127.0.0.1", 0) as thief, serve(steal, "127.0.0.1", 0, process_request=redirect) as front:
        async with weirgate.Channels(f"ws://127.0.0.1:{port(front)}/", token="a.secret.token", token_in=token_in, fallback=fallback, **FAST) as client:
            async with asyncio.timeout(20):
                while client.last_close is None or client.last_close.attempt < 4:
                    await asyncio.sleep(0.01)
            assert "302" in client.last_close.reason and not stolen


class Gate:
    """A gateway that refuses all names but `granted`."""

    async def __aenter__(self):
        self.server = await serve(self.talk, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def talk(self, link):
        async for text in link:
            request = json.loads(text)
            granted = [name for name in request["channels"] if name == "granted"]
            refused = [f"Access denied to channel: {name}" for name in request["channels"] if name != "granted"]
            await link.send(json.dumps({"type": "subscribed", "channels": granted, "errors": refused, "requestId": request["requestId"], "seq": 1}))


async def test_a_refused_name_is_in_the_log_where_nobody_hears_of_it(caplog):
    async with Gate() as gate, weirgate.Channels(gate.url) as channels:
        names = channels.subscribe(["granted", "wrong"], print)
        while "wrong" not in names.refused or not caplog.records:
            await asyncio.sleep(0.01)
        assert [(one.name, one.levelname, one.getMessage()) for one in caplog.records if one.name == "weirgate"] == [
            ("weirgate", "WARNING", "refused {'wrong': 'Access denied to channel: wrong'}")]


@pytest.mark.parametrize("is_heard", [False, True])
async def test_trades_that_match_no_subscription_are_one_line_of_the_log_or_bad(caplog, is_heard):
    async def talk(link):
        await link.recv()
        data = {"subscribed": ["A", "B"], "currentSubscriptions": ["A", "B"]}
        await link.send(json.dumps({"type": "success", "data": data, "timestamp": 1}))
        for data in ({"price": 1}, {"symbol": "X"}, {"symbol": "a"}):
            await link.send(json.dumps({"type": "trade", "data": data, "timestamp": 1}))
        await link.wait_closed()
    bad, came = [], asyncio.Event()
    options = {"on_bad": lambda error, data: bad.append((str(error), json.loads(data)["data"]))} if is_heard else {}
    async with serve(talk, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with weirgate.Trades(url, on_error=print, **options) as trades:
            trades.subscribe(["A", "B"], lambda *_: came.set())
            await came.wait()
            await asyncio.sleep(_UNHEARD_S + 0.1)
    assert [one.getMessage() for one in caplog.records if one.name == "weirgate"] == (
        [] if is_heard else ["no subscription matches the symbol None of a trade"])
    assert bad == ([("no subscription matches the symbol None of a trade", {"price": 1}),
                    ("no subscription matches the symbol X of a trade", {"symbol": "X"})] if is_heard else [])


@pytest.mark.parametrize("how", ["on_error", "on", "await", "wait"])
async def test_who_hears_of_a_refused_name_finds_nothing_in_the_log(caplog, how):
    async with Gate() as gate:
        if how == "wait":
            def run():
                with weirgate.sync.Channels(gate.url) as channels:
                    wrong = channels.subscribe("wrong")
                    # As on a busy machine: the answer comes before the wait.
                    while not wrong.refused:
                        time.sleep(0.01)
                    with pytest.raises(weirgate.RequestError, match="denied"):
                        wrong.wait()
                    time.sleep(_UNHEARD_S + 0.1)
            await asyncio.to_thread(run)
        else:
            async with weirgate.Channels(gate.url, **({"on_error": print} if how == "on_error" else {})) as channels:
                if how == "on":
                    channels.on("error", print)
                wrong = channels.subscribe("wrong", print)
                if how == "await":
                    with pytest.raises(weirgate.RequestError, match="denied"):
                        await wrong
                while not wrong.refused:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(_UNHEARD_S + 0.1)
        assert [one for one in caplog.records if one.name == "weirgate"] == []
