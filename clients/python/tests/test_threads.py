"""`weirgate.sync` beside signals, threads, processes and green threads, against a server of a few lines."""
import asyncio
import importlib.util
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import weirgate
import weirgate.sync
from waiting import patient
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

SOURCE = pathlib.Path(weirgate.__file__).parents[1]
MOMENTS = int(os.environ.get("CLIENT_MOMENTS", "40"))


class Server:
    """Channels: grants each name, answers pings, and numbers messages of the names `ticks`, one each ms, and `burst`, at once."""

    def __init__(self):
        self.server = serve(self.talk, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self.server.socket.getsockname()[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def talk(self, link):
        try:
            for text in link:
                message = json.loads(text)
                kind = {"subscribe": "subscribed", "ping": "pong", "unsubscribe": "unsubscribed"}[message["action"]]
                link.send(json.dumps({"type": kind, "channels": message.get("channels"), "requestId": message["requestId"], "seq": 0}))
                for name, count in {"ticks": 1_000_000, "burst": 100}.items():
                    if message["action"] == "subscribe" and name in message["channels"]:
                        threading.Thread(target=self.tick, args=[link, name, count], daemon=True).start()
        except ConnectionClosed:
            pass

    def tick(self, link, name, count):
        try:
            for number in range(count):
                link.send(json.dumps({"type": "data", "seq": 0, "channel": name, "pattern": None, "data": number}))
                if name == "ticks":
                    time.sleep(0.001)
        except ConnectionClosed:
            pass

    def stop(self):
        self.server.shutdown()
        self.thread.join()


@pytest.fixture(scope="module")
def server():
    one = Server()
    yield one
    one.stop()


def program(code, *args, **how):
    """Starts Python code with the client."""
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    # Whoever started the tests may ignore Ctrl-C, as a shell does for what runs in its background.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + code
    return subprocess.Popen([sys.executable, "-c", code, *args], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)


def outcome(process):
    """The lines of a program that has to end by itself, without a word on stderr."""
    try:
        out, err = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"hangs: {out} {err}") from None
    assert not err, err
    return out.splitlines()


INTERRUPTED = """
import contextlib, os, signal, sys
from weirgate.sync import Channels

armed, moments, done = False, int(sys.argv[2]), 0
def interrupt(*_):
    global armed
    os.write(1, b"interrupted\\n")
    if armed:
        armed = False
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupt)

got, pings = [], 0
with Channels(sys.argv[1]) as client:
    ticks = client.subscribe("ticks")
    items = ticks.iterate(timeout_s=float(sys.argv[3]) or None)
    os.write(1, b"ready\\n")
    while done < moments:
        try:
            armed = True
            if done % 4 == 1:
                while True:
                    client.ping()
            elif done % 4 == 2:
                while True:
                    client.subscribe("other").wait().unsubscribe()
            while True:
                for message in items:
                    got.append(message["data"])
        except TimeoutError:
            pass
        except KeyboardInterrupt:
            done += 1
    while len(got) <= 2 * moments:
        with contextlib.suppress(TimeoutError):
            got.append(next(items)["data"])
    assert got == list(range(len(got))), "messages are missing"
    assert client.ping()["type"] == "pong"
    assert client.status == "open" and client.reconnects == 0
    names = set(client.subscriptions)
print("kept", "ticks" in names, flush=True)
"""


@pytest.mark.parametrize("timeout_s", ["0", "0.002"])
def test_an_interrupt_at_any_moment_is_a_keyboard_interrupt_and_the_client_goes_on(server, timeout_s):
    chance = random.Random(1)
    process = program(INTERRUPTED, server.url, str(MOMENTS), timeout_s)
    assert process.stdout.readline() == "ready\n"
    while True:
        time.sleep(0.02 * chance.random())
        process.send_signal(signal.SIGINT)
        if (line := process.stdout.readline()) != "interrupted\n":
            break
        if process.poll() is not None:
            break
    assert [line.strip(), *outcome(process)][0] == "kept True"


CTRL_C = """
import sys
from weirgate.sync import Channels
client = Channels(sys.argv[1])
waits = {
    "for": lambda: [None for _ in client.subscribe("a")],
    "client": lambda: next(iter(client)),
    "timeout": lambda: next(client.iterate(timeout_s=60)),
    "wait": lambda: Channels("ws://127.0.0.1:1/").subscribe("a").wait(),
    "ping": lambda: Channels("ws://127.0.0.1:1/").ping(),
}
print("ready", flush=True)
try:
    waits[sys.argv[2]]()
except KeyboardInterrupt:
    print("interrupted", client.ping()["type"], flush=True)
"""


@pytest.mark.parametrize("what", ["for", "client", "timeout", "wait", "ping"])
def test_ctrl_c_ends_each_wait(server, what):
    process = program(CTRL_C, server.url, what)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert outcome(process) == ["interrupted pong"]


CLOSED_BY_A_SIGNAL = """
import signal, sys
from weirgate.sync import Channels, RequestError
url, what = sys.argv[1:]
client = Channels("ws://127.0.0.1:1/" if what in ("wait", "ping") else url)
signal.signal(signal.SIGTERM, lambda *_: client.close())
print("ready", flush=True)
try:
    match what:
        case "for": print("ended", len(list(client)))
        case "timeout": print("ended", len(list(client.iterate(timeout_s=60))))
        case "wait": client.subscribe("a").wait()
        case "ping": client.ping()
except RequestError as error:
    print(error.code)
print(client.status, flush=True)
"""


@pytest.mark.parametrize(("what", "said"), [("for", "ended 0"), ("timeout", "ended 0"), ("wait", "closed"), ("ping", "closed")])
def test_close_in_a_signal_handler_ends_the_wait_of_the_main_thread(server, what, said):
    process = program(CLOSED_BY_A_SIGNAL, server.url, what)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert outcome(process) == [said, "closed"]


FORKED = """
import os, sys, warnings
from weirgate.sync import Channels
# Python 3.12 and newer warn of a fork beside threads.
warnings.simplefilter("ignore", DeprecationWarning)
url = sys.argv[1]
client = Channels(url)
wanted = client.subscribe("a").wait()
items = iter(wanted)
uses = {
    "ping": client.ping, "subscribe": lambda: client.subscribe("b"), "wait": wanted.wait, "next": lambda: next(items),
    "iterate": lambda: wanted.iterate(timeout_s=2), "client": lambda: client.iterate(), "send": lambda: client.send("x"),
    "status": lambda: client.status, "granted": lambda: wanted.granted, "unsubscribe": wanted.unsubscribe,
    "reconnect": client.reconnect, "on": lambda: client.on("data", print),
}
if (pid := os.fork()) == 0:
    said = []
    for name, use in uses.items():
        try:
            use()
        except RuntimeError as error:
            said.append("fork" in str(error))
    client.close()
    with Channels(url) as own:
        print(said == [True] * len(uses), own.ping()["type"], flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(client.ping()["type"], client.reconnects, client.status, flush=True)
client.close()
"""


def test_a_client_says_that_it_was_made_before_a_fork(server):
    assert outcome(program(FORKED, server.url)) == ["True pong", "pong 0 open"]


def in_thread(work):
    """The thread of `work`, and a list for its outcome."""
    said = []

    def run():
        try:
            said.append(work())
        except Exception as error:
            said.append(error)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, said


def has_ended(client):
    """Whether the thread of a client that is closed ends."""
    client._thread.join(patient(5))
    return not client._thread.is_alive()


AWAY = "ws://127.0.0.1:1/"


@pytest.mark.parametrize("is_there", [True, False])
def test_close_ends_the_waits_of_all_threads(server, is_there):
    client = weirgate.sync.Channels(server.url if is_there else AWAY)
    wanted = client.subscribe("a")
    waits = [in_thread(lambda: list(wanted)), in_thread(lambda: list(client)), in_thread(lambda: list(client.iterate(timeout_s=60)))]
    if not is_there:
        waits += [in_thread(client.ping), in_thread(wanted.wait)]
    time.sleep(0.1)
    others = [in_thread(client.close) for _ in range(2)]
    client.close()
    for thread, said in waits + others:
        thread.join(patient(5))
        assert not thread.is_alive()
        assert said in ([[]], [None]) or said[0].code == "closed"
    # `close()` waits for it, but not for ever.
    assert has_ended(client) and client.status == "closed"
    # After the end.
    assert list(client) == [] and list(wanted) == [] and client.send("x") is False
    for use in (client.ping, client.reconnect, wanted.wait, lambda: client.subscribe("b").wait()):
        with pytest.raises(weirgate.RequestError) as refused:
            use()
        assert refused.value.code == "closed"
    wanted.unsubscribe()
    client.close()


def test_close_ends_the_waits_beside_a_function_that_blocks_the_thread():
    blocked, on = threading.Event(), threading.Event()

    asked = []

    def token(refused):
        asked.append(refused)
        if len(asked) == 2:
            blocked.set()
            on.wait(30)
    client = weirgate.sync.Channels(AWAY, token=token)
    assert blocked.wait(patient(5))
    thread, said = in_thread(lambda: next(iter(client), "over"))
    time.sleep(0.1)
    client.close()
    thread.join(patient(5))
    assert said == ["over"] and client._thread.is_alive(), "while the function still blocks the thread"
    on.set()
    assert has_ended(client)


def test_threads_share_an_iteration_and_have_their_own(server):
    with weirgate.sync.Channels(server.url) as client:
        wanted = client.subscribe("ticks")
        shared = wanted.iterate(timeout_s=5)

        def some(items, count):
            return [next(items)["data"] for _ in range(count)]
        threads = [in_thread(lambda: some(shared, 200)) for _ in range(3)] + [in_thread(lambda: some(client.iterate(timeout_s=5), 200)) for _ in range(2)]
        for thread, _ in threads:
            thread.join(20)
        together = sorted(number for _, [numbers] in threads[:3] for number in numbers)
        assert together == list(range(600))
        for _, [numbers] in threads[3:]:
            assert numbers == list(range(numbers[0], numbers[0] + 200))
        # Requests of several threads.
        pings = [in_thread(client.ping) for _ in range(10)]
        for thread, said in pings:
            thread.join(10)
            assert said[0]["type"] == "pong"


def test_a_timeout_ends_nothing(server):
    with weirgate.sync.Channels(server.url) as client:
        items = client.subscribe("ticks").wait().iterate(timeout_s=0)
        got, waits = [], 0
        end = time.monotonic() + 20
        while len(got) < 100 and time.monotonic() < end:
            try:
                got.append(next(items)["data"])
            except TimeoutError:
                waits += 1
                time.sleep(0.001)
        assert got == list(range(100)) and waits > 0


def test_an_iteration_that_nobody_has_any_more_keeps_nothing(server):
    with weirgate.sync.Channels(server.url) as client:
        wanted = client.subscribe("ticks", lambda data, message: None)
        for _ in range(20):
            for _ in wanted:
                break
            for _ in client:
                break
        next(iter(wanted))
        assert len(client._inner._inboxes["data"]) <= 2 and len(wanted._inner._inboxes) <= 2


@pytest.mark.parametrize("name", ["ticks", "burst"])
def test_a_callback_may_close_and_its_exit_ends_nothing(server, name):
    failures = []
    client = weirgate.sync.Channels(server.url, on_data=lambda message: sys.exit(1))
    client._thread.loop.call_soon_threadsafe(client._thread.loop.set_exception_handler, lambda loop, context: failures.append(context["exception"]))
    seen = []

    def close_at_five(data, message):
        seen.append(data)
        if data == 5:
            client.close()
    wanted = client.subscribe(name, close_at_five)
    assert [message["data"] for message in wanted][-1:] in ([], [5])
    assert has_ended(client) and client.status == "closed" and seen == list(range(6))
    assert {type(one) for one in failures} == {SystemExit}


def test_what_a_callback_does_counts_before_the_next_message(server):
    seen, said, is_there = [], [], threading.Event()
    with weirgate.sync.Channels(server.url) as client:
        def at_five(data, message):
            seen.append(data)
            if data == 5:
                is_there.wait()
                said.append(client.send(json.dumps({"action": "ping", "requestId": "own"})))
                said.append(client.subscribe("other").names)
                for wait in (client.ping, wanted.wait, lambda: next(iter(client))):
                    with pytest.raises(RuntimeError, match="a callback cannot wait"):
                        wait()
                wanted.unsubscribe()
        wanted = client.subscribe("burst", at_five)
        is_there.set()
        # Ends with the subscription.
        for _ in wanted:
            pass
        assert client.ping()["type"] == "pong"
        assert seen == list(range(6)) and said == [True, ["other"]]
    with weirgate.sync.Channels(server.url) as client:
        seen.clear()
        client.on("data", lambda message: seen.append(message["data"]) or client.reconnect())
        client.subscribe("burst")
        while client.reconnects < 3:
            time.sleep(0.01)
        assert set(seen) == {0}


GREEN = """
import sys
if sys.argv[2] == "gevent":
    from gevent import monkey, sleep, spawn
    monkey.patch_all()
else:
    import eventlet
    from eventlet import sleep, spawn
    eventlet.monkey_patch()
from weirgate.sync import Channels
clients = [Channels(sys.argv[1]) for _ in range(2)]
items = [client.subscribe("ticks").wait().iterate(timeout_s=5) for client in clients]
got, others = [], []
for one in items:
    spawn(lambda one=one: got.append([next(one)["data"] for _ in range(50)]))
spawn(lambda: [others.append(sleep(0.001)) for _ in range(20)])
while len(got) < 2 or len(others) < 20:
    sleep(0.01)
assert got == [list(range(50))] * 2 and len(others) == 20
try:
    next(clients[0].iterate("gap", timeout_s=0.05))
except TimeoutError:
    pass
clients[0].close()
print(clients[1].ping()["type"], flush=True)
clients[1].close()
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_green_threads_have_several_clients(server, library):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs pip install {library}")
    process = program(GREEN, server.url, library)
    out, err = process.communicate(timeout=30)
    assert out == "pong\n", err
