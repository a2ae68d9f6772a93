"""A unix socket to listen on: its file, its clients, the proxies in front that deploy/ has recipes for."""
import asyncio
import http.client
import json
import os
import signal
import socket
import stat
import subprocess

import pytest
from clients import connect, connect_many
from ports import listens
from processes import Process, weirgate_binary
from prometheus import scrape
from proxies import Haproxy, Nginx
from waiting import until


@pytest.fixture
def path(tmp_path):
    """Where a socket is to be: short enough wherever tests keep their files."""
    where = tmp_path / "a.sock"
    assert len(str(where)) <= 107
    return where


@pytest.fixture
def start_proxy(started):
    """start_proxy(Nginx or Haproxy, path, …) → the proxy before these sockets"""
    def start(kind, *backends, **kwargs):
        started.append(kind(*backends, **kwargs))
        return started[-1]
    return start


def both(path, *flags):
    """Flags of a gateway that listens on its port and on a unix socket."""
    return ("demo", "--listen", "127.0.0.1", "--listen", f"unix:{path}", *flags)


class UnixHttp(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=5)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def get(link, page, headers=None):
    """(status, body) of one request."""
    try:
        link.request("GET", page, headers=headers or {})
        answer = link.getresponse()
        return answer.status, answer.read().decode()
    finally:
        link.close()


def run(*argv):
    done = subprocess.run([weirgate_binary(), *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=20)
    return done.returncode, done.stderr


def ends(weirgate):
    return [line for line in weirgate.log().splitlines() if "connection ended" in line]


async def test_clients_and_pages_over_a_socket_alone(started, path):
    started.append(Process([weirgate_binary(), "demo", "--listen", f"unix:{path}", "--rate-hz", "50"]))
    weirgate = started[-1]
    await until(lambda: listens(path), 10, "the socket")
    weirgate.logs(f"ws+unix:{path}:/ws/stream")
    client = await connect(0, unix=path)
    await client.wait_for(lambda c: c.messages >= 5, 5, "messages")
    for page, status in (("/health", 200), ("/", 200), ("/nothing", 404), ("/ready", 200)):
        assert get(UnixHttp(path), page)[0] == status, page
    # A kept connection is handed to HTTP and comes back for its upgrade.
    link = UnixHttp(path)
    link.request("GET", "/health")
    assert link.getresponse().read()
    link.request("GET", "/ws/stream", headers={"Upgrade": "websocket", "Connection": "Upgrade",
                                               "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    assert link.getresponse().status == 101
    link.close()
    assert run("health", "demo", "--listen", f"unix:{path}") == (0, "")
    weirgate.send(signal.SIGTERM)
    await asyncio.wait_for(client.ended, 60)
    assert client.close_code == 1012
    assert weirgate.wait(10) == 0
    assert not path.exists()
    status, text = run("health", "demo", "--listen", f"unix:{path}")
    assert status == 1 and f"http://unix:{path}/health" in text


async def test_the_file_of_the_socket(start_weirgate, path):
    weirgate = start_weirgate(*both(path)).wait_ready()
    found = os.stat(path)
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o660
    status, text = run("demo", "--port", "0", "--listen", f"unix:{path}")
    assert status == 1
    assert f"cannot listen on unix:{path}: another process listens there" in text
    assert get(UnixHttp(path), "/health")[0] == 200, "the first one has it still"
    weirgate.kill()
    assert path.exists(), "nobody removed it"
    flags = both(path, "--unix-socket-mode", "0600", "--unix-socket-owner", f"{os.getuid()}:{os.getgid()}")
    second = start_weirgate(*flags).wait_ready()
    assert get(UnixHttp(path), "/health")[0] == 200, "what a killed process left is replaced"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    second.send(signal.SIGTERM)
    assert second.wait(10) == 0 and not path.exists()


def test_no_other_file_is_touched_and_errors_name_what_is_wrong(path):
    path.write_text("kept")
    status, text = run("demo", "--listen", f"unix:{path}")
    assert status == 1 and f"cannot listen on unix:{path}: a file that is not a socket is there" in text
    assert path.read_text() == "kept"
    long = "/" + "x" * 107
    status, text = run("demo", "--listen", f"unix:{long}")
    assert status == 2 and f'--listen is "unix:{long}"; allowed:' in text and "at most 107 bytes" in text
    status, text = run("demo", "--listen", f"unix:{path.parent}/b.sock", "--unix-socket-owner", "nobody-of-this-name")
    assert status == 2 and "no \"nobody-of-this-name\" in /etc/passwd" in text
    status, text = run("demo", "--listen", f"unix:{path.parent}/none/b.sock")
    assert status == 1 and "its directory" in text


async def test_the_log_says_which_program_it_was(start_weirgate, path):
    weirgate = start_weirgate(*both(path)).wait_ready()
    client = await connect(0, unix=path)
    client.abort()
    who = f"client=unix peer=unix:pid={os.getpid()},uid={os.getuid()} "
    await until(lambda: any(who in line for line in ends(weirgate)), 5, f"{who} in the log")


async def test_an_address_that_a_trusted_proxy_tells_is_limited(start_weirgate, path):
    limit = ("--connections-per-ip-max", "2")
    weirgate = start_weirgate(*both(path, *limit, "--trusted-proxies", "unix")).wait_ready()

    def of(address):
        return connect(0, unix=path, extra=[f"X-Forwarded-For: 203.0.113.9, {address}"])

    clients = [await of("198.51.100.1") for _ in range(2)]
    with pytest.raises(AssertionError, match="HTTP/1.1 503"):
        await of("198.51.100.1")
    clients.append(await of("198.51.100.2"))
    for client in clients:
        client.abort()
    await until(lambda: any("client=198.51.100.2 peer=unix:" in line for line in ends(weirgate)), 5, "the address in the log")
    # Over TCP nobody is believed.
    await connect(weirgate.port, extra=["X-Forwarded-For: 198.51.100.3"])
    await connect(weirgate.port, extra=["X-Forwarded-For: 198.51.100.4"])
    with pytest.raises(AssertionError, match="HTTP/1.1 503"):
        await connect(weirgate.port, extra=["X-Forwarded-For: 198.51.100.5"])


async def test_without_trust_all_of_a_socket_count_together(start_weirgate, path):
    weirgate = start_weirgate(*both(path, "--connections-per-ip-max", "2")).wait_ready()
    weirgate.logs("--connections-per-ip-max applies to all clients of the socket together")
    for address in ("198.51.100.1", "198.51.100.2"):
        await connect(0, unix=path, extra=[f"X-Forwarded-For: {address}"])
    with pytest.raises(AssertionError, match="HTTP/1.1 503"):
        await connect(0, unix=path, extra=["X-Forwarded-For: 198.51.100.3"])
    await connect(weirgate.port)


async def test_a_client_that_does_not_read_skips_and_is_fresh_again(start_weirgate, path):
    weirgate = start_weirgate(*both(path, "--rate-hz", "500", "--levels", "200")).wait_ready()
    slow, other = await connect(0, unix=path), await connect(0, unix=path)
    slow.stop_reading()
    await until(lambda: scrape(weirgate).sum("weirgate_messages_conflated_total") > 100, 20, "skipped messages")
    before = other.messages
    await other.wait_for(lambda c: c.messages > before + 100, 10, "the other one is served")
    slow.transport.resume_reading()
    taken = slow.messages
    await slow.wait_for(lambda c: c.messages > taken + 100, 10, "messages again")
    assert slow.open and other.open


async def test_the_loop_sleeps_while_clients_read(start_weirgate, path):
    # 20 messages of 17 KB a second: a socket holds those of half a second, far more than come while a client waits below.
    weirgate = start_weirgate(*both(path, "--rate-hz", "10", "--levels", "10")).wait_ready()
    clients = [await connect(0, unix=path) for _ in range(40)]
    for client in clients:
        client.stop_reading()
    # Every socket is full once. The kernel then tells of room in a unix socket with each read of its client.
    await until(lambda: scrape(weirgate).sum("weirgate_messages_conflated_total") > 40 * 20, 30, "skipped messages")

    def counts():
        stats = json.loads(weirgate.get("/stats")[2])
        subjects = stats["bus"]["subjects"].values()
        return stats["loop"]["turns"], sum(subject["messages"] for subject in subjects), scrape(weirgate).sum("weirgate_messages_conflated_total")

    async def reads():
        """Turns and messages while the clients read one after the other, so that each read would be an event of its own: 800 of them; and skipped messages."""
        for client in clients:
            client.transport.resume_reading()
        taken = [client.messages for client in clients]
        for client, n in zip(clients, taken):
            await client.wait_for(lambda c, n=n: c.messages > n + 20, 20, "messages again")
        for client in clients:
            client.stop_reading()
        before = counts()
        for _ in range(20):
            for client in clients:
                client.transport.resume_reading()
                await asyncio.sleep(0.002)
                client.stop_reading()
        return [now - then for now, then in zip(counts(), before)]

    # On a busy machine the clients are slow, and their sockets full: then the loop has to hear of each read.
    for _ in range(20):
        turns, messages, skipped = await reads()
        if not skipped:
            break
    assert not skipped, "the sockets were full each time"
    assert turns < 400, f"{turns} turns for {messages} messages and 800 reads"


async def test_the_admin_pages_have_a_socket_too(start_weirgate, path):
    admin = path.with_name("admin.sock")
    weirgate = start_weirgate("demo", "--admin-addr", f"unix:{admin}")
    await until(lambda: listens(admin), 10, "the socket")
    await until(lambda: get(UnixHttp(admin), "/ready")[0] == 200, 10, "ready")
    assert "weirgate_clients" in get(UnixHttp(admin), "/metrics")[1]
    assert weirgate.get("/metrics")[0] == 404, "not on the public port"
    weirgate.send(signal.SIGTERM)
    assert weirgate.wait(10) == 0 and not admin.exists()


def through(proxy, page, address="127.0.0.1"):
    return get(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5, source_address=(address, 0)), page)


@pytest.mark.parametrize("kind", [Nginx, Haproxy])
async def test_the_recipes_work_over_a_unix_socket(start_weirgate, start_proxy, path, kind):
    flags = ("--trusted-proxies", "unix", "--connections-per-ip-max", "2", "--rate-hz", "50")
    weirgate = start_weirgate(*both(path, *flags)).wait_ready()
    proxy = start_proxy(kind, path)
    await until(lambda: through(proxy, "/health")[0] == 200, 5, "a way through")
    assert through(proxy, "/")[0] == 200
    for page in ("/metrics", "/stats", "/ready", "/internal/broadcast"):
        assert through(proxy, page)[0] == 404, "for operators"
    clients = [await connect(proxy.port, source="127.0.0.9") for _ in range(2)]
    await clients[0].wait_for(lambda c: c.messages >= 20, 10, "messages")
    with pytest.raises(AssertionError, match="HTTP/1.1 503"):
        await connect(proxy.port, source="127.0.0.9")
    clients.append(await connect(proxy.port, source="127.0.0.7"))
    for client in clients:
        client.abort()
    for address in ("127.0.0.9", "127.0.0.7"):
        logged = lambda: any(f"client={address} peer=unix:pid=" in line for line in ends(weirgate))
        await until(logged, 5, f"{address} in the log")


@pytest.mark.parametrize("kind", [Nginx, Haproxy])
async def test_newcomers_go_to_the_other_socket_while_one_stops(start_weirgate, start_proxy, tmp_path, kind):
    paths = [tmp_path / "a.sock", tmp_path / "b.sock"]
    one, two = (start_weirgate(*both(path, "--drain-ms", "3000")).wait_ready() for path in paths)
    proxy = start_proxy(kind, *paths)
    await until(lambda: through(proxy, "/health")[0] == 200, 5, "a way through")
    old = await connect_many(20, proxy.port)
    assert all(w.health()["connections"] > 0 for w in (one, two)), "both have clients"
    one.send(signal.SIGTERM)
    newcomers = []
    while one.alive():
        newcomers += await connect_many(5, proxy.port)
        await asyncio.sleep(0.1)
    newcomers += await connect_many(5, proxy.port)
    assert len(newcomers) >= 10 and one.wait(10) == 0
    assert two.health()["connections"] >= len(newcomers)
    assert {client.close_code for client in old if not client.open} == {1012}
    assert not paths[0].exists() and paths[1].exists()
