"""After the 200 of a cut nothing more is done for who was cut off, at whichever door: plain HTTP, the proxy of events, calls
that wait, pushes, the admin address. No test here waits for a time: what a service was not asked shows after it was asked
for something later."""
import asyncio
import json
import queue
import signal
import socket
import subprocess
import threading

import pytest
from accepting import Accepting
from event_stream import Stream
from processes import free_port, weirgate_binary
from services import Service, device, post, push
from tls import get
from waiting import until

TOKEN = "a-token-of-the-tests"
HERE, THERE = "127.0.0.1", "127.0.0.77"


class Held(Accepting):
    """An HTTP service of raw sockets. Each request waits in `asked` until the test answers it."""

    def __init__(self):
        self.asked, self.paths = queue.Queue(), []
        super().__init__()

    def serve(self, link):
        """Requests have no body, or one of 2 bytes."""
        reader = link.makefile("rb")
        while line := reader.readline().decode():
            length = 0
            while header := reader.readline().decode().strip():
                name, _, value = header.lower().partition(": ")
                length = int(value) if name == "content-length" else length
            reader.read(length)
            path = line.split()[1]
            self.paths.append(path)
            self.asked.put((path, link))

    def next(self):
        return self.asked.get(timeout=20)


def answer(link, text="HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"):
    link.sendall(text.encode())


class Client:
    """A connection for plain HTTP from an address of this machine."""

    def __init__(self, port, source):
        self.link = socket.create_connection((HERE, port), 20, (source, 0))
        self.reader = self.link.makefile("rb")

    def send(self, text):
        self.link.sendall(text.encode())
        return self

    def ask(self, method, path, *headers, body=""):
        length = [f"Content-Length: {len(body)}"] if body else []
        return self.send("\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {HERE}", *length, *headers, "", body]))

    def rest(self):
        """Everything to the end of the connection."""
        try:
            return self.reader.read()
        except ConnectionError:
            return b""

    def reply(self):
        """(status, headers, body); None for the end."""
        try:
            line = self.reader.readline().decode()
            if not line:
                return None
            lines = iter(lambda: self.reader.readline().decode().strip(), "")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            return int(line.split()[1]), headers, self.reader.read(int(headers.get("content-length", 0))).decode()
        except ConnectionError:
            return None


class Events:
    def __init__(self, start_weirgate, url, *flags, **env):
        self.admin = free_port()
        env = {"LOBBY_URL": url, "MEASUREMENT_URL": url, "SIMULATION_URL": url, "INTERNAL_AUTH_TOKEN": TOKEN, **env}
        flags = ("--admin-addr", f"{HERE}:{self.admin}", "--event-stream", *flags)
        self.weirgate = start_weirgate("events", *flags, env=env).wait_for("/health")
        self.port = self.weirgate.port

    def client(self, source=HERE):
        return Client(self.port, source)

    def ask(self, path, source=HERE, *headers, method="GET", body="", port=None):
        """(status, headers, body) of a connection of its own."""
        return Client(port or self.port, source).ask(method, path, *headers, body=body).reply()

    def cut(self, **what):
        return post(f"http://{HERE}:{self.admin}/operator/disconnect", what)

    def allow(self, **what):
        return post(f"http://{HERE}:{self.admin}/operator/allow", what)

    def count(self, name):
        lines = [line for line in self.ask("/metrics", port=self.admin)[2].splitlines() if line.startswith(name)]
        return float(lines[0].split()[-1])

    def user(self):
        """The user of the only client, as the operator's page shows it."""
        survey = json.loads(self.ask("/operator/state", port=self.admin)[2])["survey"] or {"busiest": []}
        return next((client["user"] for client in survey["busiest"]), None)


@pytest.fixture
def held():
    service = Held()
    yield service
    service.discard()


@pytest.fixture
def events(start_weirgate, held):
    return lambda *flags, **env: Events(start_weirgate, held.url, *flags, **env)


def is_refused(reply):
    return reply is not None and reply[0] == 403 and json.loads(reply[2]) == {"detail": "revoked"} and reply[1]["connection"] == "close"


@pytest.mark.plain("addresses of the clients")
def test_a_cut_address_gets_no_plain_answer(events, held):
    gateway = events()
    kept = gateway.client(THERE).ask("GET", "/v1/jobs/first")
    _, link = held.next()
    answer(link)
    assert kept.reply()[0] == 200
    assert gateway.cut(address=THERE)[0] == 200
    assert is_refused(kept.ask("GET", "/v1/jobs/kept").reply()) and kept.reply() is None
    for method, path in [("GET", "/v1/jobs/new"), ("POST", "/v1/simulation/new"), ("GET", "/health"), ("GET", "/events.js"), ("GET", "/"), ("OPTIONS", "/v1/x")]:
        assert is_refused(gateway.ask(path, THERE, method=method)), path
    stream = Stream(gateway.port, "/ws?device_id=d", link=socket.create_connection((HERE, gateway.port), 20, (THERE, 0)))
    assert "1008" in str(stream.end())
    # Others, and the same again once the cut is taken back.
    other = gateway.client().ask("GET", "/v1/jobs/other")
    assert held.next()[0] == "/v1/jobs/other"
    assert held.paths == ["/v1/jobs/first", "/v1/jobs/other"]
    other.link.close()
    assert gateway.count('weirgate_client_closes_total{reason="revoked"}') >= 7
    gateway.weirgate.logs("plain HTTP connection ended", f"client={THERE}", 'reason="revoked"')
    assert gateway.allow(address=THERE) == (200, {"was_refused": True})
    assert gateway.ask("/health", THERE)[0] == 200


@pytest.mark.plain("addresses of the clients")
async def test_what_a_cut_address_has_under_way_ends_and_what_waits_is_not_begun(events, held):
    gateway = events("--proxy-connections-max", "4")
    mine = [gateway.client(THERE) for _ in range(3)]
    mine[0].ask("GET", "/v1/jobs/streams")
    path, link = held.next()
    answer(link, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    assert mine[0].reply()[0] == 200
    assert [mine[0].reader.readline() for _ in range(2)] == [b"3\r\n", b"one\r\n"]
    # The body is owed.
    mine[1].ask("POST", "/v1/jobs/owed", "Content-Length: 2")
    # Otherwise this one might be the one that waits.
    under_way = 'weirgate_proxy_requests_in_flight{service="measurement"}'
    await until(lambda: gateway.count(under_way) == 2, 20, "a request without its body")
    # An address gets no more connections than are free: this one waits.
    mine[2].ask("GET", "/v1/jobs/second")
    assert held.next()[0] == "/v1/jobs/second"
    waits = gateway.client(THERE).ask("POST", "/v1/jobs/waits", body="{}")
    name = 'weirgate_proxy_address_waits_total{service="measurement"}'
    await until(lambda: gateway.count(name) >= 1, 20, "a request that waits for a connection")
    status, cut = gateway.cut(address=THERE)
    assert (status, cut["disconnected"], cut["requests_ended"]) == (200, 0, 4), cut
    assert [client.rest() for client in [*mine, waits]] == [b""] * 4
    assert "requests_ended" not in gateway.cut(address=THERE)[1]
    # Everything is free for the others.
    others = [gateway.client().ask("GET", f"/v1/jobs/other{n}") for n in range(2)]
    assert {held.next()[0] for _ in others} == {"/v1/jobs/other0", "/v1/jobs/other1"}
    assert set(held.paths) == {"/v1/jobs/streams", "/v1/jobs/second", "/v1/jobs/other0", "/v1/jobs/other1"}


@pytest.mark.plain("a trusted proxy")
def test_behind_a_proxy_the_client_is_cut_off_and_the_proxy_stays(events, held):
    gateway = events(FORWARDED_ALLOW_IPS=HERE)
    assert gateway.cut(address="192.0.2.9")[0] == 200
    assert is_refused(gateway.ask("/v1/jobs/x", HERE, "X-Forwarded-For: 192.0.2.9"))
    assert is_refused(gateway.ask("/v1/jobs/x", HERE, "Forwarded: for=192.0.2.9"))
    proxy = gateway.client().ask("GET", "/v1/jobs/other", "X-Forwarded-For: 192.0.2.9, 192.0.2.8")
    path, link = held.next()
    answer(link)
    assert proxy.reply()[0] == 200 and held.paths == ["/v1/jobs/other"]
    # The request in progress ends, though the connection is the proxy's.
    proxy.ask("GET", "/v1/jobs/late", "X-Forwarded-For: 192.0.2.8")
    held.next()
    assert gateway.cut(address="192.0.2.8")[0] == 200
    assert proxy.reply() is None


@pytest.fixture(params=[1, 2])
def of_processes(request, events):
    """Starts a gateway of one process, or of two."""
    flags = ("--processes", 2, "--events-bus", request.getfixturevalue("redis_server").url) if request.param > 1 else ()

    def start(*more, **env):
        gateway = events(*flags, *more, **env)
        asyncio.run(until(lambda: gateway.ask("/ready", port=gateway.admin)[0] == 200, 20, "ready"))
        return gateway
    return start


@pytest.mark.plain("addresses of the clients")
def test_on_the_admin_address_only_probes_and_this_machine_go_on(of_processes):
    gateway = of_processes()
    for address in [THERE, HERE]:
        assert gateway.cut(address=address)[0] == 200
    for path, status in [("/ready", 200), ("/health", 200), ("/metrics", 200), ("/stats", 200), ("/operator/state", 403), ("/operator/", 403)]:
        assert gateway.ask(path, THERE, port=gateway.admin)[0] == status, path
    assert is_refused(gateway.ask("/internal/broadcast", THERE, f"X-Internal-Token: {TOKEN}", method="POST", body="{}", port=gateway.admin))
    assert is_refused(gateway.ask("/operator/allow", THERE, method="POST", body=json.dumps({"address": THERE}), port=gateway.admin))
    # Whoever has cut off this machine takes it back.
    assert is_refused(gateway.ask("/health"))
    assert gateway.ask("/operator/state", port=gateway.admin)[0] == 200
    assert gateway.allow(address=HERE) == (200, {"was_refused": True})
    assert gateway.ask("/health")[0] == 200


@pytest.mark.plain("addresses of the clients")
def test_a_cut_ends_what_is_under_way_at_the_admin_address(of_processes):
    gateway = of_processes()
    # The body is owed.
    push = Client(gateway.admin, THERE).ask("POST", "/internal/broadcast", "Content-Length: 2", f"X-Internal-Token: {TOKEN}")
    # Its turn comes after that of the push.
    assert gateway.ask("/stats", THERE, port=gateway.admin)[0] == 200
    status, cut = gateway.cut(address=THERE)
    assert (status, cut.get("requests_ended")) == (200, 1), cut
    assert push.rest() == b""
    gateway.weirgate.logs("plain HTTP connection ended", f"client={THERE}", 'reason="revoked"')


@pytest.mark.plain("addresses of the clients")
def test_the_admin_address_refuses_whom_the_file_refuses(of_processes, tmp_path):
    file = tmp_path / "revoked"
    file.write_text(json.dumps({"address": THERE}))
    gateway = of_processes("--revoked-file", file, FORWARDED_ALLOW_IPS="127.0.0.5")

    def state(source, *headers):
        return gateway.ask("/operator/state", source, *headers, port=gateway.admin)
    assert is_refused(state(THERE)) and is_refused(state("127.0.0.5", f"X-Forwarded-For: {THERE}"))
    assert state("127.0.0.5")[0] == state("127.0.0.6", f"X-Forwarded-For: {THERE}")[0] == 200
    file.write_text(json.dumps({"address": "127.0.0.6"}))
    gateway.weirgate.child.send_signal(signal.SIGHUP)
    gateway.weirgate.logs("the list of refused users and tokens has changed")
    asyncio.run(until(lambda: is_refused(state("127.0.0.6")) and state(THERE)[0] == 200, 20, "the new list"))


@pytest.mark.parametrize("leaves_first", [False, True])
async def test_of_a_cut_device_only_the_call_in_flight_goes_on(start_weirgate, leaves_first):
    begun, go_on = threading.Event(), threading.Event()

    def serve(asked):
        begun.set()
        go_on.wait(60)
        return {}
    service = Service(serve)
    gateway = Events(start_weirgate, service.url, RATE_LIMIT_BURST="1000")
    client = await device(gateway.weirgate, "evil")
    for n in range(60):
        await client.send(json.dumps({"event": f"lobby.{n}", "request_id": str(n), "data": {}}))
    assert await asyncio.to_thread(begun.wait, 20)
    user = None
    while user is None:
        user = await asyncio.to_thread(gateway.user)
        await asyncio.sleep(0.1)
    if leaves_first:
        await client.close()
        await until(lambda: gateway.count("weirgate_clients ") == 0, 20, "the end of the device")
    status, cut = await asyncio.to_thread(lambda: gateway.cut(user=user))
    assert status == 200 and cut["disconnected"] == (0 if leaves_first else 1), cut
    status, sent = await asyncio.to_thread(lambda: push(gateway.weirgate, "x.y", {}, "evil", token=TOKEN, port=gateway.admin))
    assert (status, sent) == (200, {"sent": 0})
    go_on.set()
    async with device(gateway.weirgate, "good") as other:
        await other.send(json.dumps({"event": "lobby.good", "request_id": "1", "data": {}}))
        assert json.loads(await asyncio.wait_for(other.recv(), 20))["event"] == "lobby.good"
        await other.send(json.dumps({"event": "lobby.good", "request_id": "2", "data": {}}))
        assert json.loads(await asyncio.wait_for(other.recv(), 20))["request_id"] == "2"
    assert service.events() == ["lobby.0", "lobby.good", "lobby.good"]
    # A page of metrics may be a quarter of a second old.
    await until(lambda: gateway.count("weirgate_messages_forgotten_total") == 59, 20, "the count")
    if not leaves_first:
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (1008, "revoked")
    again = await device(gateway.weirgate, "evil")
    await again.wait_closed()
    assert again.close_code == 1008
    service.stop()


@pytest.mark.plain("certificates of the clients")
def test_the_holder_of_a_cut_certificate_gets_no_plain_answer(start_tls, authority):
    admin = free_port()
    weirgate = start_tls("demo", "--tls-client-ca", str(authority.ca), "--admin-addr", f"{HERE}:{admin}")
    weirgate.logs("weirgate is listening")
    eve, ann = (authority.context(certificate=authority.sign(name, f"DNS:{name}.example.test")) for name in ("eve", "ann"))
    assert get(weirgate.tls_port, "/health", eve)[0] == 200
    assert post(f"http://{HERE}:{admin}/operator/disconnect", {"user": "eve"})[0] == 200
    assert get(weirgate.tls_port, "/health", eve) == (403, '{"detail":"revoked"}')
    assert get(weirgate.tls_port, "/health", ann)[0] == 200


async def test_the_id_of_a_device_stands_nowhere_in_clear(start_weirgate):
    """Not in `/operator/state`, `weirgate top`, /metrics or the log: whoever knows it gets its pushes."""
    ids = ["device-that-is-hard-to-guess", "another-id-of-a-device"]
    service = Service(lambda asked: {})
    gateway = Events(start_weirgate, service.url, "--log-filter", "trace", "--history-ms", "60000", RATE_LIMIT_BURST="1000")
    async with device(gateway.weirgate, ids[0]) as one, device(gateway.weirgate) as two:
        await two.send(json.dumps({"event": "identify", "data": {"device_id": ids[1]}}))
        for client in (one, two):
            await client.send(json.dumps({"event": "lobby.x", "request_id": "1", "data": {}}))
        for _ in range(3):
            await asyncio.to_thread(lambda: push(gateway.weirgate, "x.y", {}, *ids, token=TOKEN, port=gateway.admin))

        found = []

        def surveyed():
            survey = json.loads(gateway.ask("/operator/state", port=gateway.admin)[2])["survey"] or {"busiest": [], "busiest_topics": []}
            if [len(survey["busiest"]), len(survey["busiest_topics"])] == [2, 2]:
                found.append(survey)
            return found
        await until(surveyed, 20, "a survey with both devices", every=0.2)
        survey = found[0]
        assert all(row["topic"] == row["user"] and row["user"].startswith("sha256:") for row in survey["busiest"]), survey
        assert {row["name"] for row in survey["busiest_topics"]} == {row["user"] for row in survey["busiest"]}
        status, cut = await asyncio.to_thread(lambda: gateway.cut(user=survey["busiest"][0]["topic"]))
        assert cut["disconnected"] == 1
        top = await asyncio.to_thread(subprocess.run, [weirgate_binary(), "top", "--once", f"{HERE}:{gateway.admin}"], capture_output=True, text=True)
        pages = [gateway.ask(path, port=gateway.admin)[2] for path in ("/operator/state", "/metrics", "/stats")]
    for text in [top.stdout, *pages, gateway.weirgate.log()]:
        assert text and not [one for one in ids if one in text], text
    service.stop()
