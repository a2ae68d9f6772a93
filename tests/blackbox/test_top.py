"""`weirgate top` as a program: live in a terminal, once in a pipe, with real gateways and with what is none."""
import asyncio
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
from bus import publisher
from clients import connect
from ports import listens
from processes import free_port, weirgate_binary
from terminal import Terminal, screen
from waiting import until

ENV = {"TERM": "xterm", "WEIRGATE_ADMIN_ADDR": "", "WEIRGATE_AUTHORIZATION": ""}


def is_ready(admin):
    with contextlib.suppress(OSError):
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=3) as answer:
            return answer.status == 200
    return False


async def gateway(start_weirgate, *args, admin=None, **kwargs):
    """(weirgate, port of its admin address), once it is ready."""
    admin = admin or free_port()
    weirgate = start_weirgate(*args, "--admin-addr", f"127.0.0.1:{admin}", **kwargs)
    await until(lambda: is_ready(admin), 20, "ready")
    return weirgate, admin


def run(*args, **env):
    """(status, standard output, standard error) of a run that ends by itself."""
    done = subprocess.run([weirgate_binary(), "top", *map(str, args)], env={**os.environ, **ENV, **env}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
    return done.returncode, done.stdout, done.stderr


async def top(*args, **env):
    return await asyncio.to_thread(run, *args, **env)


class Top:
    """A live view in a terminal."""

    def __init__(self, *args, columns=80, lines=24, **env):
        self.terminal = Terminal(columns, lines)
        self.before = self.terminal.settings()
        slave = self.terminal.slave
        self.child = subprocess.Popen([weirgate_binary(), "top", *map(str, args)], env={**os.environ, **ENV, **env},
                                      stdin=slave, stdout=slave, stderr=slave, start_new_session=True)

    def log_tail(self):
        return f"--- last output ---\n{self.terminal.text[-3000:]!r}"

    def discard(self):
        self.child.kill()
        self.child.wait(10)

    async def shows(self, pattern, seconds=15):
        """Waits until the screen has this; returns the screen."""
        shown = lambda: "\n".join(screen(self.terminal.text))
        try:
            await until(lambda: re.search(pattern, shown()), seconds, pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{shown()}") from None
        return shown()

    async def ends(self):
        """The exit status; the terminal is as before, and no mode of it was ever changed."""
        status = await asyncio.to_thread(self.child.wait, 10)
        assert self.terminal.settings() == self.before and "\x1b[?" not in self.terminal.text
        return status


@pytest.fixture
def start_top(started):
    """start_top(*args, **env) → a running Top"""
    def start(*args, **kwargs):
        started.append(Top(*args, **kwargs))
        return started[-1]
    return start


@pytest.mark.plain("the address has TLS 1.3 behind")
async def test_a_client_that_connects_is_seen(start_weirgate, start_top):
    weirgate, admin = await gateway(start_weirgate, "demo")
    view = start_top(f"127.0.0.1:{admin}", "--interval-ms", "250", lines=40)
    shown = await view.shows(r"Ready")
    assert re.search(r"^Process +demo \S+  Ready  up [\d.]+ m?s  127.0.0.1:", shown, re.M), shown
    await view.shows(r"Clients +clients 0 [\s\S]*\nLIMITS")
    client = await connect(weirgate.port)
    await view.shows(r"Clients +clients 1 ")
    await view.shows(r"bus_messages \d+\.\d  messages_sent [1-9]")
    await view.shows(r"127\.0\.0\.1 +levels")
    client.abort()
    await view.shows(r"Clients +clients 0 ")
    await view.shows(r"peer_gone|socket_error")
    view.terminal.type("\x03")
    view.child.send_signal(signal.SIGINT)
    assert await view.ends() == 0


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_every_end_leaves_the_terminal_as_it_was(start_weirgate, start_top, end):
    _, admin = await gateway(start_weirgate, "demo")
    view = start_top(f"127.0.0.1:{admin}")
    await view.shows("Ready")
    assert view.terminal.settings() == view.before
    view.child.send_signal(end)
    assert await view.ends() == 0


async def test_another_size_is_drawn_anew(start_weirgate, start_top):
    _, admin = await gateway(start_weirgate, "demo")
    view = start_top(f"127.0.0.1:{admin}", "--interval-ms", "250")
    await view.shows("Process")
    for columns, lines in (120, 40), (30, 6):
        view.terminal.resize(columns, lines)
        await asyncio.sleep(0.6)
        await view.shows("Process")
        drawn = screen(view.terminal.text)
        assert max(map(len, drawn)) <= columns and len(drawn) <= lines, drawn


async def test_a_terminal_that_is_gone_ends_it(start_weirgate):
    """Without the signal that most such processes get."""
    _, admin = await gateway(start_weirgate, "demo")
    # Now and then in the middle of the first picture.
    for _ in range(5):
        master, slave = os.openpty()
        child = subprocess.Popen([weirgate_binary(), "top", f"127.0.0.1:{admin}"], env={**os.environ, **ENV},
                                 stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        try:
            os.close(slave)
            assert await asyncio.to_thread(os.read, master, 65536)
            os.close(master)
            assert await asyncio.to_thread(child.wait, 10) == 1
        finally:
            child.kill()
            child.wait(10)


async def test_a_gateway_that_is_away_comes_back_by_itself(start_weirgate, start_top):
    first, admin = await gateway(start_weirgate, "demo")
    _, other = await gateway(start_weirgate, "demo")
    view = start_top(f"127.0.0.1:{admin}", f"http://127.0.0.1:{other}/operator/", "--interval-ms", "250")
    await view.shows(r"Ready[\s\S]*Ready")
    first.kill()
    # The answer under way at the kill breaks off: the words of the next look are meant.
    shown = await view.shows(r"Away for[\s\S]*no connection")
    assert "Ready" in shown
    await gateway(start_weirgate, "demo", admin=admin)
    await view.shows(r"Ready[\s\S]*Ready")


async def test_a_dumb_terminal_gets_a_plain_table(start_weirgate, start_top):
    _, admin = await gateway(start_weirgate, "demo")
    view = start_top(f"127.0.0.1:{admin}", TERM="dumb")
    assert await asyncio.to_thread(view.child.wait, 20) == 0
    await until(lambda: "LIMITS" in view.terminal.text, 5, "the table")
    assert "\x1b" not in view.terminal.text and "demo 0." in view.terminal.text


async def test_once_in_a_pipe_prints_rates_and_all_tables(start_weirgate):
    weirgate, admin = await gateway(start_weirgate, "demo")
    client = await connect(weirgate.port)
    status, out, err = await top("--once", f"127.0.0.1:{admin}")
    assert (status, err) == (0, ""), err
    assert "\x1b" not in out and re.search(r"^Process +demo \S+  Ready  up ", out)
    assert re.search(r"^Clients +clients 1  connections \d+  connections_max \d+", out, re.M)
    assert re.search(r"^Per s +bus_messages [1-9][\d.]*  messages_sent [1-9]", out, re.M), out
    assert re.search(r"^levels +1 +[\d.]+ +[\d.]+ (?:[KM]i)?B$", out, re.M), out
    for title in ("TOPICS", "BUSY CLIENTS", "LIMITS"):
        assert f"\n{title}  " in out, out
    status, in_pipe, _ = await top(f"127.0.0.1:{admin}")
    assert status == 0 and "\nLIMITS  " in in_pipe, "a pipe needs no --once"
    client.abort()


async def test_once_of_gateways_with_a_bus_over_a_unix_socket(nats, start_weirgate, tmp_path):
    path = tmp_path / "admin.sock"
    weirgate = start_weirgate("levels", "--admin-addr", f"unix:{path}", nats=nats)
    await until(lambda: listens(path), 20, "the socket")
    weirgate.logs("weirgate is listening")
    client = await connect(weirgate.port)
    async with publisher(nats) as bus:
        await bus.flow({"n": 1})
        await client.wait_for(lambda c: c.messages == 1, 10, "the message")
        status, out, err = await top("--once", f"unix:{path}")
    assert (status, err) == (0, ""), err
    assert re.search(r"^Process +levels \S+  Ready  up .*  unix:", out), out
    assert re.search(r"^Bus +connected true  subscribed true  reconnects 0[\s\S]*bus_last_message [\d.]+ m?s ago", out, re.M), out
    # The address of the gateway's own settings will do.
    status, out, _ = await top("--once", WEIRGATE_ADMIN_ADDR=f"unix:{path}")
    assert status == 0 and "levels 0." in out
    client.abort()


async def test_the_states_are_json_a_line_each(start_weirgate):
    _, admin = await gateway(start_weirgate, "demo")
    away = free_port()
    status, out, err = await top("--once", "--json", f"127.0.0.1:{admin}", f"127.0.0.1:{away}")
    here, gone = map(json.loads, out.splitlines())
    assert status == 1 and f"127.0.0.1:{away}" in err
    assert (here["address"], here["state"]["gateway"], here["state"]["ready"]) == (f"127.0.0.1:{admin}", "demo", True)
    assert here["state"]["survey"]["interval_ms"] is not None and "error" not in here
    assert gone["state"] is None and "no connection" in gone["error"]
    # Without --once it goes on, also in a pipe.
    child = subprocess.Popen([weirgate_binary(), "top", "--json", "--interval-ms", "250", f"127.0.0.1:{admin}"],
                             env={**os.environ, **ENV}, text=True, stdout=subprocess.PIPE)
    try:
        lines = [json.loads(await asyncio.to_thread(child.stdout.readline)) for _ in range(4)]
        assert lines[-1]["state"]["now_unix_ms"] > lines[1]["state"]["now_unix_ms"]
        child.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(child.wait, 10) == 0
    finally:
        child.kill()
        child.wait(10)


async def test_a_reader_that_has_seen_enough_ends_it_quietly(start_weirgate):
    _, admin = await gateway(start_weirgate, "demo")
    child = subprocess.Popen([weirgate_binary(), "top", "--json", "--interval-ms", "250", f"127.0.0.1:{admin}"], env={**os.environ, **ENV},
                             text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert await asyncio.to_thread(child.stdout.readline)
    child.stdout.close()
    assert await asyncio.to_thread(child.wait, 20) == 0
    assert child.stderr.read() == ""


async def test_a_reader_that_pauses_gets_new_lines_afterwards_and_a_signal_ends_it_meanwhile(start_weirgate):
    _, admin = await gateway(start_weirgate, "demo")
    child = subprocess.Popen([weirgate_binary(), "top", "--json", "--interval-ms", "250", f"127.0.0.1:{admin}"],
                             env={**os.environ, **ENV}, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    page_bytes = fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, 4_096)
    read = lambda: asyncio.to_thread(child.stdout.readline)
    try:
        first = json.loads(await read())
        await asyncio.sleep(6)
        resumed_ms = time.time() * 1_000
        # Those in the pipe and the one that was being written are of the pause; there are few of them.
        stale = 0
        while (state := json.loads(await read())["state"])["now_unix_ms"] < resumed_ms - 1_000:
            stale += 1
        assert stale <= page_bytes / len(json.dumps(first)) + 4, stale
        times = [state["now_unix_ms"]] + [json.loads(await read())["state"]["now_unix_ms"] for _ in range(4)]
        assert times == sorted(set(times)), "no sample comes twice"
        await asyncio.sleep(3)
        child.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(child.wait, 5) == 0
        assert child.stderr.read() == ""
    finally:
        child.kill()
        child.wait(10)


async def test_without_an_address_or_an_answer_it_says_what_to_do(start_weirgate):
    status, out, err = await top("--once")
    assert (status, out) == (2, "") and "--admin-addr 127.0.0.1:9100" in err
    port = free_port()
    status, out, err = await top("--once", f"127.0.0.1:{port}")
    assert status == 1 and f"error: no answer from 127.0.0.1:{port}: no connection" in err, err
    assert "Away for" in out
    weirgate = start_weirgate("demo").wait_ready()
    status, _, err = await top("--once", f"127.0.0.1:{weirgate.port}")
    assert status == 1 and "is this the address of --admin-addr?" in err, err


@pytest.mark.parametrize("answer, words", [
    (b"hello\r\n\r\n", "is not HTTP"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{\"a\":", "is not a gateway"),
    (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000_000, "larger than"),
], ids=["no HTTP", "half an object", "100 MB"])
async def test_a_server_that_is_no_gateway_is_bounded(answer, words):
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(answer)
    threading.Thread(target=serve, daemon=True).start()
    status, _, err = await top("--once", f"127.0.0.1:{server.getsockname()[1]}")
    assert status == 1 and words in err, err
