"""`weirgate tail` as a program: real gateways, what it prints, and how it ends."""
import asyncio
import contextlib
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess

import pytest
from ports import listens
from processes import Process, free_port, weirgate_binary
from services import push
from terminal import Terminal
from tokens import fresh_token
from waiting import until
from websockets.asyncio.server import serve
from websockets.utils import accept_key

SECRET = "0123456789abcdef0123456789abcdef"
TOKEN = "a-token-of-the-tests"


def run(*args, seconds=30, **env):
    """(status, standard output, standard error) of a run that ends by itself."""
    done = subprocess.run([weirgate_binary(), *map(str, args)], env={"PATH": os.environ["PATH"], **env}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=seconds)
    return done.returncode, done.stdout, done.stderr


async def tail(*args, **env):
    """The same, while this test serves or publishes."""
    return await asyncio.to_thread(run, "tail", *args, **env)


class Tail(Process):
    """A tail that runs, with standard output in a file of its own."""

    def __init__(self, folder, *args, **env):
        self.out = folder / f"tail-{len(list(folder.iterdir()))}.out"
        script = f'exec "$0" tail "$@" > {self.out}'
        super().__init__(["bash", "-c", script, weirgate_binary(), *args], {"WEIRGATE_TOKEN": "", **env})

    def lines(self):
        return self.out.read_text().splitlines() if self.out.exists() else []

    async def prints(self, number, seconds=20):
        """Waits for so many lines; returns them parsed."""
        await until(lambda: len(self.lines()) >= number, seconds, f"{number} lines\n{self.log_tail()}")
        return [json.loads(line) for line in self.lines()]

    async def says(self, words, seconds=20):
        await until(lambda: words in self.log(), seconds, f"{words!r}\n{self.log_tail()}")


@pytest.fixture
def start_tail(started, tmp_path):
    """start_tail(*args, **env) → a running Tail"""
    def start(*args, **env):
        started.append(Tail(tmp_path, *map(str, args), **env))
        return started[-1]
    return start


@contextlib.asynccontextmanager
async def server_of(handler, **kwargs):
    """The URL of a WebSocket server of the test."""
    async with serve(handler, "127.0.0.1", 0, **kwargs) as server:
        yield f"{'wss' if 'ssl' in kwargs else 'ws'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_trades_of_a_symbol_are_lines_and_the_rest_is_status(redis_server, start_weirgate, start_tail):
    weirgate = start_weirgate("trades", redis=redis_server).wait_ready()
    by_name = start_tail("trades", "--subscribe", "AAPL", "MSFT", "--count", 2, WS_PORT=str(weirgate.port))
    by_url = start_tail(f"localhost:{weirgate.port}", "--subscribe", "AAPL", "--count", 2)
    for one in (by_name, by_url):
        await one.says("Successfully subscribed to")
    with redis_server.client() as redis:
        for price in ("1.50", "2"):
            redis.publish("channel:trade:AAPL", '{"symbol":"AAPL","price":%s}' % price)
        for one in (by_name, by_url):
            assert [line["data"]["price"] for line in await one.prints(2)] == [1.5, 2]
            assert one.wait(10) == 0
            assert '"price":1.50' in one.lines()[0], "digits are kept"
    by_url.logs("the server speaks as weirgate trades")
    by_url.logs(f"connected to ws://localhost:{weirgate.port}/")


async def test_a_subscription_that_is_refused_is_told(redis_server, start_weirgate, start_tail):
    weirgate = start_weirgate("channels", redis=redis_server).wait_ready()
    one = start_tail("channels", "--subscribe", "market:tick:*", "engine:signal", "--port", weirgate.port)
    await one.says("subscribed to market:tick:*; the gateway refuses: Access denied to channel: engine:signal")
    with redis_server.client() as redis:
        redis.publish("market:tick:A", "[1]")
    [line] = await one.prints(1)
    assert (line["channel"], line["data"]) == ("market:tick:A", [1])
    one.send(signal.SIGINT)
    assert one.wait(10) == 0
    await until(lambda: 'reason="peer_closed" code=1000' in weirgate.log(), 10, "a close by the client")


@pytest.mark.parametrize("style", [[], ["--raw"], ["--reconnect"]], ids=["lines", "raw", "reconnect"])
async def test_a_tail_that_is_granted_nothing_ends_with_1(redis_server, start_weirgate, style):
    channels = start_weirgate("channels", redis=redis_server).wait_ready()
    status, _, told = await tail("channels", "--subscribe", "engine:signal", "--port", channels.port, *style)
    assert status == 1 and "subscribed to nothing; the gateway refuses: Access denied" in told, told
    assert told.endswith("error: the gateway grants nothing of --subscribe; check the names, and the rights of the token or of DEFAULT_ROLE; "
                         "--print-acl of weirgate channels shows the table of roles, and --acl FILE replaces the table\n"), told
    trades = start_weirgate("trades", redis=redis_server).wait_ready()
    status, _, told = await tail("trades", "--subscribe", "A-NAME-THAT-IS-TOO-LONG", "--port", trades.port, *style)
    assert status == 1 and told.endswith("error: the gateway grants nothing of --subscribe; check the symbols, and how many the gateway "
                                         "(--symbols-max) or the token (maxSymbols) allows\n"), told


async def test_a_refused_symbol_refuses_no_other(redis_server, start_weirgate, start_tail):
    weirgate = start_weirgate("trades", redis=redis_server).wait_ready()
    one = start_tail("trades", "--subscribe", "AAPL", "TOOLONGSYMBOL", "--count", 1, "--port", weirgate.port)
    await one.says("refused: TOOLONGSYMBOL")
    with redis_server.client() as redis:
        redis.publish("channel:trade:AAPL", '{"symbol":"AAPL","price":1}')
    assert [line["data"]["symbol"] for line in await one.prints(1)] == ["AAPL"]
    assert one.wait(10) == 0


async def test_a_token_is_sent_refused_in_words_and_hidden(redis_server, start_weirgate, start_tail):
    env = {"JWT_SECRET": SECRET, "REQUIRE_AUTH": "true"}
    weirgate = start_weirgate("channels", redis=redis_server, env=env).wait_ready()
    token, port = fresh_token(SECRET, role="user"), str(weirgate.port)
    for wrong in ({}, {"WEIRGATE_TOKEN": token + "x"}):
        status, out, told = await tail("channels", "--port", port, "--subscribe", "market:tick:*", **wrong)
        assert (status, out) == (1, "")
        assert "code 1008 (Authentication failed)" in told and "weirgate token inspect" in told, told
        assert token not in told
    from_env = start_tail("channels", "--port", port, "--subscribe", "market:tick:*", WEIRGATE_TOKEN=token)
    as_flag = start_tail("channels", "--port", port, "--token", token, "--subscribe", "market:tick:*")
    for one in (from_env, as_flag):
        await one.says("the gateway gives the role user")
        await one.says("subscribed to market:tick:*")
        line = pathlib.Path(f"/proc/{one.pid}/cmdline").read_bytes().split(b"\0")
        assert b"tail" in line and token.encode() not in b" ".join(line), line


async def test_the_state_of_levels_in_three_styles_and_by_rate(start_weirgate, start_tail):
    weirgate = start_weirgate("demo").wait_ready()
    port = str(weirgate.port)
    status, out, _ = await tail("demo", "--count", 1, GATEWAY_PORT=port)
    assert status == 0 and out.count("\n") == 1 and "levels" in json.loads(out)
    status, out, _ = await tail("demo", "--count", 1, "--pretty", "--port", port)
    assert status == 0 and out.count("\n") > 50 and "levels" in json.loads(out)
    status, out, _ = await tail(f"ws://127.0.0.1:{port}/ws/stream", "--count", 2, "--raw")
    assert status == 0 and all("flow" in json.loads(line) or "levels" in json.loads(line) for line in out.splitlines())
    rate = start_tail("demo", "--rate", "--port", port)
    await rate.says("messages/s, ")
    line = next(line for line in rate.log().splitlines() if "messages/s" in line)
    assert float(line.split()[0]) > 1 and len(rate.lines()) > 1, line


async def test_binary_messages_are_lines_too_and_raw_is_every_byte(redis_server, start_weirgate, start_tail):
    weirgate = start_weirgate("channels", redis=redis_server).wait_ready()
    url = f"ws://localhost:{weirgate.port}/ws?payload=binary"
    shown = start_tail(url, "--subscribe", "market:tick", "--count", 2)
    await shown.says("subscribed to market:tick")
    raw = start_tail(url, "--subscribe", "market:tick", "--count", 4, "--raw")
    await raw.says("subscribed to market:tick")
    payloads = [b"\x82\xa3bid\n\0", b"7"]
    for payload in payloads:
        redis_server.client().publish("market:tick", payload)
    assert [one.wait(10) for one in (shown, raw)] == [0, 0]
    first, second = shown.lines()
    head, payload = first.rsplit(" ", 1)
    assert json.loads(head)["seq"] == 3 and payload == r"\x82\xa3bid\u000a\u0000"
    assert json.loads(second.rsplit(" ", 1)[0])["channel"] == "market:tick" and second.endswith("} 7")
    assert [b'"}\n' + payload + b"\n" in raw.out.read_bytes() for payload in payloads] == [True, True]


async def test_a_device_says_who_it_is_sends_and_gets_pushes(start_weirgate, start_tail, service):
    lobby = service(lambda asked: {"code": "ABC123"})
    weirgate = start_weirgate("events", env={"LOBBY_URL": lobby.url, "INTERNAL_AUTH_TOKEN": TOKEN}).wait_ready()
    one = start_tail("events", "--subscribe", "ann", "--send", '{"event":"lobby.create"}', "--count", 2, "--port", weirgate.port)
    [answer] = await one.prints(1)
    assert (answer["type"], answer["data"]) == ("response", {"code": "ABC123"})
    await asyncio.to_thread(push, weirgate, "hello", {"n": 1}, "ann")
    assert (await one.prints(2))[1]["event"] == "hello"
    assert one.wait(10) == 0
    one.logs("this is the device ann")
    by_url = start_tail(f"ws://127.0.0.1:{weirgate.port}/ws", "--subscribe", "bob")
    await by_url.says("the server speaks as weirgate events")
    await by_url.says("this is the device bob")


async def test_a_unix_socket(start_weirgate, tmp_path):
    path = tmp_path / "gateway.sock"
    start_weirgate("demo", "--listen", f"unix:{path}")
    await until(lambda: listens(path), 10, "the socket")
    status, out, told = await tail("demo", "--count", 1, "--listen", f"unix:{path}")
    assert status == 0 and "levels" in json.loads(out), told
    assert f"connected to unix:{path}" in told


async def test_a_reader_that_goes_away_ends_it_quietly(start_weirgate):
    weirgate = start_weirgate("demo").wait_ready()
    script = '"$0" tail demo --port "$1" | head -n 1; echo "status ${PIPESTATUS[0]}"'
    done = await asyncio.to_thread(subprocess.run, ["bash", "-c", script, weirgate_binary(), str(weirgate.port)], timeout=30,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line, status = done.stdout.splitlines()
    assert "levels" in json.loads(line) and status == "status 0"
    assert done.stderr.splitlines() == [f"connected to ws://127.0.0.1:{weirgate.port}/ws/stream"]


def test_where_nobody_is_ends_with_words():
    for target, words in [
        (f"ws://127.0.0.1:{free_port()}/ws", "Connection refused"),
        ("ws://no-such-host.invalid:8000/ws", "failed to lookup address"),
    ]:
        status, out, told = run("tail", target)
        assert (status, out) == (1, "")
        assert told.startswith(f"error: no connection to {target}: ") and words in told and "check the address" in told, told
        assert told.count("\n") == 1, told
    status, _, told = run("tail", "trades", "--port", free_port())
    assert status == 1 and "no connection to ws://" in told


async def test_what_is_no_websocket_ends_with_words(start_weirgate, nats):
    weirgate = start_weirgate("demo").wait_ready()
    status, _, told = await tail(f"ws://127.0.0.1:{weirgate.port}/ws?token=secret")
    assert status == 1 and "status 403" in told and "levels /ws/stream, trades /, channels /ws" in told, told
    assert "secret" not in told
    status, _, told = await tail(f"ws://127.0.0.1:{nats.port}/")
    assert status == 1 and "does not speak WebSocket" in told and told.count("\n") == 1, told
    silent = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        status, _, told = await tail(f"ws://127.0.0.1:{port}/", "--timeout-s", 1)
        assert status == 1 and "no whole response to the handshake: its time is over" in told, told


@pytest.mark.parametrize(("args", "words"), [
    ((), "GATEWAY|URL"),
    (("trade",), '"trade" is neither a gateway (levels, trades, channels, events, demo) nor a URL'),
    (("nats://127.0.0.1:4222",), "that of a broker"),
    (("ftp://h/",), "does not begin with ws://"),
    (("ws://u:secret@h/",), "use --token"),
    (("levels", "--subscribe", "x"), "leave --subscribe out"),
    (("trades", "--count", "0"), "--count"),
    (("trades", "--pretty", "--raw"), "cannot be used with"),
    (("trades", "--port", "x"), "--port"),
])
def test_wrong_use_ends_with_2(args, words):
    status, out, told = run("tail", *args)
    assert (status, out) == (2, "") and words in told and "secret" not in told, told


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, "--timeout-s"])
async def test_it_ends_while_its_reader_pauses(how):
    """As `weirgate tail … | less`, or a log shipper that waits for its server."""
    async def much(client):
        while True:
            await client.send(json.dumps({"text": "x" * 10_000}))
    reader, writer = os.pipe()
    async with server_of(much) as url:
        flags = ["--timeout-s", "3"] if how == "--timeout-s" else []
        one = subprocess.Popen([weirgate_binary(), "tail", url, *flags], stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        await asyncio.sleep(2)
        assert one.poll() is None
        if not flags:
            one.send_signal(how)
        assert await asyncio.to_thread(one.wait, 5) == 0, one.stderr.read()
    one.stderr.close()
    os.close(reader)


async def test_a_wait_that_the_server_asks_for_is_kept():
    opened = []

    async def later(client):
        opened.append(asyncio.get_running_loop().time())
        await client.close(1013, "Token is not valid yet retry_after_ms=3000")
    async with server_of(later) as url:
        status, _, told = await tail(url, "--reconnect", "--timeout-s", "5")
    assert status == 0 and "the token counts only later (its nbf); connect again later" in told and "; again in 3.0 s" in told
    assert len(opened) == 2 and opened[1] - opened[0] >= 3, opened


async def test_a_close_is_told_with_its_code_and_what_to_do():
    for code, reason, words in [
        (1012, "", "code 1012: the server stops or is replaced; connect again, or use --reconnect"),
        (1000, "Heartbeat timeout", "code 1000 (Heartbeat timeout): this client sent no pong in time"),
        (1009, "too big", "code 1009 (too big): a message of this client is too large; shorten --send"),
        (4001, "own\nwords", "code 4001 (own\\u000awords): "),
    ]:
        async def end(client):
            await client.send("{}")
            await client.close(code, reason)
        async with server_of(end) as url:
            status, out, told = await tail(url)
        assert (status, out) == (1, "{}\n")
        assert f"error: the server closed the connection with {words}" in told, told


async def test_an_end_without_a_close_frame_is_told(start_weirgate, start_tail):
    weirgate = start_weirgate("demo").wait_ready()
    one = start_tail("demo", "--port", weirgate.port)
    await one.prints(1)
    weirgate.kill()
    assert one.wait(10) == 1
    one.logs("error: the connection ended without a close code", "--reconnect")


async def test_it_comes_back_if_asked_to(redis_server, start_weirgate, start_tail):
    port = str(free_port())
    one = start_tail("trades", "--subscribe", "AAPL", "--reconnect", "--count", 2, WS_PORT=port)
    await one.says("again in 0.5 s")
    env = {"WS_PORT": port}
    for price in (1, 2):
        weirgate = start_weirgate("trades", redis=redis_server, env=env)
        weirgate.port, weirgate.http_url = int(port), f"http://127.0.0.1:{port}"
        weirgate.wait_ready()
        await until(lambda: one.log().count("Successfully subscribed") == price, 30, "the subscription")
        with redis_server.client() as redis:
            redis.publish("channel:trade:AAPL", '{"price":%d}' % price)
        await one.prints(price)
        if price == 1:
            weirgate.send(signal.SIGTERM)
            await one.says("the server closed the connection with code 1001")
            weirgate.wait(10)
    assert one.wait(10) == 0
    assert [json.loads(line)["data"]["price"] for line in one.lines()] == [1, 2]


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_it_comes_back_after_a_connection_that_ends_before_the_response(scheme, start_tail):
    """As behind docker's proxy, `kubectl port-forward` or a balancer of TCP while the gateway restarts."""
    accepted = 0

    async def end(reader, writer):
        nonlocal accepted
        accepted += 1
        if accepted == 2 and scheme == "ws":
            writer.write(b"HTTP/1.1 101 Swit")
        writer.close()
    async with await asyncio.start_server(end, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        one = start_tail(f"{scheme}://127.0.0.1:{port}/", "--reconnect")
        await until(lambda: accepted >= 3, 20, "three attempts")
        assert one.alive(), one.log_tail()
        one.send(signal.SIGTERM)
        assert one.wait(5) == 0
    # Without --reconnect, it is the end.
    status, _, told = await tail(f"{scheme}://127.0.0.1:{port}/")
    assert status == 1 and "error: no connection to" in told, told


@pytest.mark.parametrize("where", ["handshake", "tls", "connect"])
async def test_a_signal_ends_it_with_0_before_it_is_connected(where, start_tail):
    """To a server that never accepts or answers."""
    with contextlib.ExitStack() as held:
        silent = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0 if where == "connect" else 5))
        if where == "connect":
            # The backlog is full: the system drops further connections' first packets.
            for _ in range(3):
                one = held.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(silent.getsockname())
        scheme = "wss" if where == "tls" else "ws"
        one = start_tail(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/", "--reconnect")
        await asyncio.sleep(1)
        assert one.alive(), one.log_tail()
        one.send(signal.SIGTERM)
        assert one.wait(3) == 0, one.log_tail()


@pytest.mark.parametrize("count, status, says", [([], 0, ""), (["--count", 1], 1, "0 of 1 messages within --timeout-s")])
async def test_the_time_is_over_without_a_connection(count, status, says):
    url = f"ws://127.0.0.1:{free_port()}/"
    ended, _, told = await tail(url, "--reconnect", "--timeout-s", 1, *count)
    assert (ended, says in told, told.count("\n") < 10) == (status, True, True), told


async def test_a_url_needs_no_settings_of_a_gateway():
    async def one_message(client):
        await client.send('{"n":1}')
        await client.wait_closed()
    async with server_of(one_message) as url:
        assert (await tail(url, "--count", 1, PORT="another program's"))[:2] == (0, '{"n":1}\n')


async def test_a_refused_token_is_not_tried_again(redis_server, start_weirgate):
    env = {"JWT_SECRET": SECRET, "REQUIRE_AUTH": "true"}
    weirgate = start_weirgate("channels", redis=redis_server, env=env).wait_ready()
    status, _, told = await tail("channels", "--port", weirgate.port, "--reconnect")
    assert status == 1 and told.count("code 1008") == 1, told


async def test_the_time_is_over():
    async def one_message(client):
        await client.send('{"n":1}')
        await client.wait_closed()
    async with server_of(one_message) as url:
        assert (await tail(url, "--timeout-s", 1))[:2] == (0, '{"n":1}\n')
        status, out, told = await tail(url, "--timeout", 1, "--count", 2)
    assert (status, out) == (1, '{"n":1}\n')
    assert told.endswith("error: 1 of 2 messages within --timeout-s\n")


async def test_messages_of_another_server_are_lines():
    async def others(client):
        await client.send('{"a":\n 1.50}')
        await client.send("no JSON \u00e4")
        await client.send(b"\xff\x00")
        await client.close()
    async with server_of(others) as url:
        _, line, _ = await tail(url, "--count", 2)
        _, pretty, _ = await tail(url, "--count", 2, "--pretty")
        done = await asyncio.to_thread(subprocess.run, [weirgate_binary(), "tail", url, "--raw"], capture_output=True, timeout=30)
        status, _, told = await tail(url, "--subscribe", "x", "--count", 1)
    assert line == '{"a":  1.50}\nno JSON \u00e4\n'
    assert pretty == '{\n  "a": 1.50\n}\nno JSON \u00e4\n'
    assert done.stdout == '{"a":\n 1.50}\nno JSON \u00e4\n'.encode() + b"\xff\x00\n"
    assert status == 0 and "--subscribe was not sent" in told


async def test_nothing_of_a_message_steers_a_terminal():
    sent = '{"a":"\u009b2J\x7f","b":\t"\x1b[2J"}'

    async def steering(client):
        await client.send(sent)
        await client.send(b"\x9b2J\xff")
        await client.close(1000, "\x1b[2J")
    for style in ([], ["--raw"]):
        async with server_of(steering) as url:
            terminal = Terminal()
            args = [weirgate_binary(), "tail", url, "--count", "2", *style]
            on_terminal = await asyncio.create_subprocess_exec(*args, stdout=terminal.slave, stderr=terminal.slave)
            assert await on_terminal.wait() == 0
            piped = await asyncio.to_thread(subprocess.run, args, capture_output=True, timeout=30)
        await until(lambda: "\\xff\n" in terminal.text, 10, "the last message")
        assert '{"a":"\\u009b2J\\u007f","b":\t"\\u001b[2J"}\n\\x9b2J\\xff\n' in terminal.text.replace("        ", "\t"), terminal.text
        assert "\x1b" not in terminal.text and "\x9b" not in terminal.text
        assert piped.stdout == sent.encode() + b"\n\x9b2J\xff\n"


async def test_wss_needs_a_certificate_that_is_trusted(tmp_path, authority, local_certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*local_certificate)

    async def hello(client):
        await client.send("hello")
        await client.wait_closed()
    async with server_of(hello, ssl=context) as url:
        assert (await tail(url, "--count", 1, "--ca-file", authority.ca))[:2] == (0, "hello\n")
        status, out, told = await tail(url, "--count", 1)
        assert (status, out) == (1, "") and f"error: no TLS with {url}" in told and "--ca-file" in told, told
        status, _, told = await tail(url, "--ca-file", tmp_path / "missing.pem")
        assert status == 1 and "missing.pem" in told, told


def frame_of(text):
    """The bytes of a WebSocket message of over 64 KiB."""
    return b"\x81\x7f" + len(text).to_bytes(8) + text


@contextlib.asynccontextmanager
async def server_of_bytes(bytes_of):
    """The URL of a WebSocket server that sends these parts, as (seconds to wait, bytes), and then waits."""
    async def handler(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        writer.write(f"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            for seconds, part in bytes_of:
                await asyncio.sleep(seconds)
                writer.write(part)
                await writer.drain()
            await reader.read()
        writer.close()
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.long
@pytest.mark.parametrize("pause", [0.02, 1.5])
async def test_a_large_message_that_arrives_for_longer_than_a_silence_is_whole(start_tail, pause):
    frame = frame_of(b"x" * 100_000)
    # For 27 s, with pauses that are shorter and longer than a read waits.
    part = len(frame) * pause / 27
    parts = [(pause, frame[int(n * part):int((n + 1) * part)]) for n in range(int(27 / pause) + 1)]
    async with server_of_bytes(parts) as url:
        tail = start_tail(url, "--count", "1", "--rate")
        assert await asyncio.to_thread(tail.wait, 60) == 0, tail.log_tail()
        assert tail.out.read_bytes() == b"x" * 100_000 + b"\n"
    assert tail.log().count("messages/s") > 10, "time passes while it arrives"


async def test_the_time_is_over_and_a_signal_ends_it_while_a_message_arrives(start_tail):
    trickle = [(0.02, b"x")] * 5_000
    async with server_of_bytes([(0, frame_of(b"x" * 100_000)[:10]), *trickle]) as url:
        assert (await tail(url, "--timeout-s", "1"))[0] == 0
        stopped = start_tail(url)
        await stopped.says("connected to")
        stopped.child.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(stopped.wait, 5) == 0


@pytest.mark.long
async def test_a_server_that_hangs_is_given_up_and_a_quiet_one_is_not(start_weirgate, start_tail):
    async def quiet(client):
        await client.wait_closed()
    weirgate = start_weirgate("demo").wait_ready()
    async with server_of(quiet, ping_interval=None) as url:
        patient = start_tail(url)
        await patient.says("connected to")
        frozen = start_tail("demo", "--port", weirgate.port)
        await frozen.prints(1)
        weirgate.freeze()
        # Both were silent for as long; one answers a ping.
        await until(lambda: not frozen.alive(), 40, "the end")
        assert frozen.wait(1) == 1 and "error: nothing came for 20 s" in frozen.log(), frozen.log_tail()
        assert patient.alive(), patient.log_tail()


async def test_the_bus_away_and_back_are_on_standard_error_and_no_message(start_nats, start_weirgate, start_tail, tmp_path):
    nats = start_nats()
    table = tmp_path / "roles.json"
    table.write_text('{"user": ["market.>"]}')
    weirgate = start_weirgate("channels", "--bus", nats.url, "--acl", str(table)).wait_ready()
    nats.kill()
    late = start_tail("channels", "--subscribe", "market.>", "--count", 1, "--port", weirgate.port)
    await late.says("the bus of the gateway is away: no messages until it is back")
    nats.start()
    await late.says("the bus of the gateway is back", 40)
    assert late.lines() == [], "a status is no message"
    with_history = start_weirgate("channels", "--bus", nats.url, "--history-ms", "60000", "--history-names", "market.>", "--acl", str(table)).wait_ready()
    told = start_tail("channels", "--subscribe", "market.>", "--port", with_history.port)
    await told.says("subscribed to market.>")
    nats.kill()
    await told.says("the bus of the gateway is away", 40)
    nats.start()
    await told.says("the bus of the gateway is back", 40)
    assert told.lines() == [] and told.log().count("is away") == 1, told.log()
