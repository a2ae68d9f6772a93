"""TLS towards clients: pages, WebSockets, versions, names, certificates of clients, and new certificates under clients."""
import asyncio
import datetime
import http.client
import json
import os
import signal
import socket
import re
import ssl
import subprocess
import urllib.request

import pytest
import websockets
from clients import FrameReader, upgrade_request
from processes import free_port, loadtest_binary, weirgate_binary
from prometheus import scrape
from services import TOKEN, Service
from tls import Authority, MemoryClient, get, is_there
from waiting import until

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def count(weirgate, metric, **labels):
    return scrape(weirgate).sum(metric, **labels)


async def subscriber(weirgate, context, name="news", **kwargs):
    """A client of channels that has subscribed."""
    client = await websockets.connect(f"wss://127.0.0.1:{weirgate.tls_port}/ws", ssl=context, **kwargs)
    await client.send(json.dumps({"action": "subscribe", "channels": [name]}))
    while json.loads(await asyncio.wait_for(client.recv(), 20))["type"] != "subscribed":
        pass
    return client


@pytest.fixture
def channels(start_tls, redis_server, tmp_path):
    """A gateway of channels with a TLS port; every client may subscribe to everything."""
    (tmp_path / "roles.json").write_text('{"user": ["*"]}')

    def start(*flags, **kwargs):
        return start_tls("channels", "--acl", str(tmp_path / "roles.json"), *flags, redis=redis_server, **kwargs).wait_ready()
    return start


async def test_pages_and_websockets_come_over_tls_and_plain(channels, authority, redis_server):
    weirgate = channels()
    for version in VERSIONS:
        status, body = get(weirgate.tls_port, "/health", authority.context(version=version))
        assert status == 200 and json.loads(body)["status"] == "healthy"
    assert weirgate.get("/health")[0] == 200, "the plain port is there"
    clients = [await subscriber(weirgate, authority.context(version=version)) for version in VERSIONS]
    with redis_server.client() as redis:
        for n in range(100):
            redis.publish("news", json.dumps({"n": n, "text": "x" * (n * 700)}))
    for client in clients:
        got = [json.loads(await asyncio.wait_for(client.recv(), 20))["data"]["n"] for _ in range(100)]
        assert got == list(range(100))
        await client.close()
        assert client.close_code == 1000
    assert count(weirgate, "weirgate_tls_handshakes_total", outcome="full") == 4


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_request_in_single_bytes_and_right_behind_the_handshake(channels, authority, version):
    weirgate = channels()
    for cut in (1, None):
        client = MemoryClient(weirgate.tls_port, authority.context(version=version), cut)
        await asyncio.to_thread(client.greet)
        assert client.tls.version() == {VERSIONS[0]: "TLSv1.2", VERSIONS[1]: "TLSv1.3"}[version]
        # A record for each byte.
        for byte in upgrade_request(weirgate.tls_port, "/ws", ()):
            client.write(bytes([byte]))
        head = await asyncio.to_thread(client.read_until, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        client.close()


async def test_a_kept_connection_asks_for_a_page_and_then_for_a_websocket(channels, authority):
    weirgate = channels()
    client = await asyncio.to_thread(MemoryClient(weirgate.tls_port, authority.context()).greet)
    for _ in range(3):
        client.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await asyncio.to_thread(client.read_until, b"}")
        assert answer.startswith(b"HTTP/1.1 200"), answer
    # With messages in the same record, more than the HTTP thread reads at a time.
    pings = [json.dumps({"action": "ping", "requestId": f"{n}{'x' * 3900}"}).encode() for n in range(3)]
    messages = b"".join(bytes([0x81, 0x80 | 126]) + len(ping).to_bytes(2, "big") + bytes(4) + ping for ping in pings)
    client.write(upgrade_request(weirgate.tls_port, "/ws", ()) + messages)
    answer = await asyncio.to_thread(client.read_until, b'"2xxx')
    assert answer.startswith(b"HTTP/1.1 101") and answer.count(b'"pong"') == 3, answer
    client.close()


async def test_a_client_that_reads_late_gets_everything_in_order(channels, authority, redis_server):
    weirgate = channels("--send-queue-soft-bytes", "60000000", "--send-queue-hard-bytes", "80000000", "--ping-interval-ms", "0")
    client = await asyncio.to_thread(MemoryClient(weirgate.tls_port, authority.context()).greet)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    client.write(upgrade_request(weirgate.tls_port, "/ws", ()))
    await asyncio.to_thread(client.read_until, b'"connected"')
    text = json.dumps({"action": "subscribe", "channels": ["news"]}).encode()
    client.write(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
    await asyncio.to_thread(client.read_until, b'"subscribed"')
    sizes = [1, 100, 16_000, 40_000, 70_000, 300_000, 5] * 12
    with redis_server.client() as redis:
        for n, size in enumerate(sizes):
            redis.publish("news", json.dumps({"n": n, "text": "x" * size}))
    await until(lambda: count(weirgate, "weirgate_messages_waiting") > 0, 20, "messages that wait")
    frames, got = FrameReader(), []

    def read_all():
        while len(got) < len(sizes):
            part = client.read()
            assert part, "the connection ended"
            got.extend(json.loads(payload)["data"] for opcode, payload in frames.feed(part) if opcode == 1)
    await asyncio.wait_for(asyncio.to_thread(read_all), 60)
    assert [(one["n"], len(one["text"])) for one in got] == list(enumerate(sizes))
    client.close()


def health(weirgate, certificate, key, *more):
    flags = ["--port", "off", "--tls-port", str(weirgate.tls_port), "--tls-cert", str(certificate), "--tls-key", str(key), *more]
    return subprocess.run([weirgate_binary(), "health", "demo", *flags], capture_output=True, text=True, timeout=20)


def becomes_healthy(*arguments):
    """The outcome of a check. On a busy machine, a handshake may take longer than a check waits: 2 s."""
    for _ in range(10):
        checked = health(*arguments)
        if "timed out" not in checked.stderr:
            break
    return checked


async def test_the_port_without_tls_may_be_off(start_tls, authority, local_certificate, tmp_path):
    weirgate = start_tls("demo", "--port", "off")
    await until(lambda: is_there(weirgate.tls_port, authority.context()), 20, "an answer over TLS")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", weirgate.port), 5)
    certificate, key = local_certificate
    weirgate.logs(f"WebSocket: wss://localhost:{weirgate.tls_port}/ws/stream", f"tls=127.0.0.1:{weirgate.tls_port}")

    for file in (certificate, authority.sign("another", "IP:127.0.0.1")[0], tmp_path / "missing.pem"):
        checked = becomes_healthy(weirgate, file, key)
        assert checked.returncode == 0, f"a process that serves is alive, whatever {file} says: {checked}"
    weirgate.send(signal.SIGTERM)
    assert await asyncio.to_thread(weirgate.wait, 20) == 0
    gone = health(weirgate, certificate, key)
    assert gone.returncode == 1 and f"no answer from https://127.0.0.1:{weirgate.tls_port}/health" in gone.stderr, gone


async def test_a_gateway_that_asks_for_certificates_is_healthy(start_tls, authority, local_certificate):
    flags = ("--port", "off", "--tls-client-ca", str(authority.ca))
    weirgate = start_tls("demo", *flags)
    weirgate.logs("WebSocket: wss://localhost")
    for more in (flags[2:], ()):
        checked = becomes_healthy(weirgate, *local_certificate, *more)
        assert checked.returncode == 0, checked
    with pytest.raises(OSError):
        get(weirgate.tls_port, "/health", authority.context())
    weirgate.send(signal.SIGSTOP)
    assert health(weirgate, *local_certificate).returncode == 1, "a loop that does not accept"
    weirgate.send(signal.SIGCONT)


# A network of this process and its children alone, with an address that is no loopback address.
ELSEWHERE, NETWORK = "192.0.2.7", ["unshare", "--user", "--map-root-user", "--net", "sh", "-c"]


def test_a_gateway_at_an_address_of_this_machine_is_healthy_whatever_the_files_say(authority, local_certificate, tmp_path):
    flags = f"demo --listen {ELSEWHERE} --port off --tls-port 8443 --tls-client-ca {authority.ca}"
    good, other = local_certificate, authority.sign("yet-another", "IP:127.0.0.1")
    pair = lambda files: f"--tls-cert {files[0]} --tls-key {files[1]}"
    script = f"""ip link set lo up && ip addr add {ELSEWHERE}/32 dev lo
        {weirgate_binary()} {flags} {pair(good)} & gateway=$!
        becomes_healthy() {{
            for n in $(seq 100); do {weirgate_binary()} health {flags} $1 && echo "$2: 0" && return; sleep 0.1; done
        }}
        becomes_healthy "{pair(good)}" right
        becomes_healthy "{pair(other)}" other
        kill $gateway; wait $gateway
        {weirgate_binary()} health {flags} {pair(good)}; echo "gone: $?" """
    done = subprocess.run([*NETWORK, script], capture_output=True, text=True, timeout=60)
    told = [line for line in done.stdout.splitlines() if line.startswith(("right", "other", "gone"))]
    assert told == ["right: 0", "other: 0", "gone: 1"], done


async def test_the_page_at_the_address_names_the_address_with_tls(channels, authority):
    weirgate = channels()
    connection = http.client.HTTPSConnection("127.0.0.1", weirgate.tls_port, context=authority.context(), timeout=20)
    connection.request("GET", "/", headers={"Accept": "text/html"})
    assert f"<code>wss://127.0.0.1:{weirgate.tls_port}/ws</code>" in connection.getresponse().read().decode()
    connection.close()


async def test_a_service_is_told_that_the_client_came_over_tls(start_tls, authority):
    service = Service(lambda asked: {"asked": asked})
    urls = {name: service.url for name in ("LOBBY_URL", "MEASUREMENT_URL", "SIMULATION_URL")}
    weirgate = start_tls("events", env={**urls, "INTERNAL_AUTH_TOKEN": TOKEN}).wait_for("/health")
    connection = http.client.HTTPSConnection("127.0.0.1", weirgate.tls_port, context=authority.context(), timeout=20)
    connection.request("POST", "/v1/jobs/9/run", b'{"n":1}', {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (200, {"asked": {"n": 1}})
    connection.close()
    assert service.headers[0]["X-Forwarded-Proto"] == "https"
    service.stop()


async def test_versions_and_protocols(start_tls, authority):
    weirgate = start_tls("demo", "--tls-min", "1.3").wait_ready()
    with pytest.raises(ssl.SSLError):
        get(weirgate.tls_port, "/health", authority.context(version=VERSIONS[0]))
    context = authority.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", weirgate.tls_port), 20) as plain:
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
            assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
    old = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{weirgate.tls_port}", "-tls1_1"], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, timeout=20)
    assert old.returncode != 0 and "alert" in old.stderr, old.stderr
    await until(lambda: count(weirgate, "weirgate_tls_handshakes_total", outcome="failed") == 2, 20, "both counted")


async def test_bytes_that_are_no_tls_end_the_connection_with_a_reason(start_tls, authority):
    weirgate = start_tls("demo").wait_ready()
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 100):
        with socket.create_connection(("127.0.0.1", weirgate.tls_port), 20) as plain:
            plain.sendall(data)
            while plain.recv(1000):
                pass
    # And behind a good handshake.
    client = await asyncio.to_thread(MemoryClient(weirgate.tls_port, authority.context()).greet)
    client.socket.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    assert await asyncio.to_thread(client.socket.recv, 1000)
    client.close()
    await until(lambda: count(weirgate, "weirgate_client_closes_total", reason="tls_error") == 4, 20, "four ends with a reason")
    assert get(weirgate.tls_port, "/health", authority.context())[0] == 200, "nobody else notices"


async def test_a_silent_handshake_ends_with_the_deadline_of_the_head(start_tls, authority):
    weirgate = start_tls("demo", "--handshake-timeout-ms", "1000").wait_ready()
    silent = socket.create_connection(("127.0.0.1", weirgate.tls_port), 20)
    greeted = await asyncio.to_thread(MemoryClient(weirgate.tls_port, authority.context()).greet)
    assert await asyncio.to_thread(silent.recv, 1) == b""
    # One deadline for the handshake and the head; the client is told inside of TLS.
    assert b"408" in await asyncio.to_thread(greeted.read)
    greeted.close()
    silent.close()
    await until(lambda: count(weirgate, "weirgate_client_closes_total", reason="handshake_timeout") == 2, 20, "both counted")
    assert count(weirgate, "weirgate_tls_handshakes_open", state="under_way") == 0


async def test_a_client_gets_the_certificate_of_the_name_that_it_asks_for(start_tls, authority):
    pairs = [authority.sign(f"n{n}", *names) for n, names in enumerate([["DNS:a.test"], ["DNS:b.test", "DNS:*.c.test"]])]
    both = [",".join(str(pair[at]) for pair in pairs) for at in (0, 1)]
    weirgate = start_tls("demo", certificate=both).wait_ready()
    context = authority.context()
    context.check_hostname = False
    for name, subject in [("a.test", "n0"), ("b.test", "n1"), ("B.Test", "n1"), ("x.c.test", "n1"), ("x.y.c.test", "n0"),
                          ("other.test", "n0"), (None, "n0")]:
        with socket.create_connection(("127.0.0.1", weirgate.tls_port), 20) as plain:
            with context.wrap_socket(plain, server_hostname=name) as tls:
                assert dict(part[0] for part in tls.getpeercert()["subject"])["commonName"] == subject, name


async def test_only_clients_with_a_certificate_get_in(start_tls, authority, tmp_path):
    weirgate = start_tls("demo", "--tls-client-ca", str(authority.ca)).wait_ready()
    good = authority.context(certificate=authority.sign("ann", "email:ann@example.test"))
    assert get(weirgate.tls_port, "/health", good)[0] == 200
    stranger = Authority(tmp_path, "strangers").sign("eve", "email:eve@example.test")
    for context in (authority.context(), authority.context(certificate=stranger)):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get(weirgate.tls_port, "/health", context)


async def test_certificates_beside_a_clients_own_count_with_its_connection(start_tls, authority, tmp_path):
    """TLS keeps them as long as the connection, whoever has signed them."""
    weirgate = start_tls("demo", "--tls-client-ca", str(authority.ca)).wait_ready()
    certificate, key = authority.sign("ann", "email:ann@example.test")
    names = [f"DNS:{n}.{'x' * 60}.example.test" for n in range(40)]
    others = [Authority(tmp_path, "strangers").sign(f"other-{n}", *names)[0].read_text() for n in range(8)]
    chain = tmp_path / "chain.pem"
    chain.write_text("".join([certificate.read_text(), *others]))
    sizes = [len(ssl.PEM_cert_to_DER_cert(pem)) for pem in (certificate.read_text(), *others)]
    held = lambda: count(weirgate, "weirgate_held", of="connection_bytes")
    for version in VERSIONS:
        for file, least in ((certificate, sizes[0]), (chain, sum(sizes))):
            before = held()
            client = await asyncio.to_thread(MemoryClient(weirgate.tls_port, authority.context((file, key), version)).greet)
            client.write(upgrade_request(weirgate.tls_port))
            await asyncio.to_thread(client.read_until, b"\r\n\r\n")
            taken = held() - before - 6.25 * 1024
            assert least <= taken < least + 1_000, (version, file, taken)
            client.close()
            await until(lambda: held() == before, 20, "all given back")


def test_a_check_makes_a_handshake_with_itself(authority, local_certificate, redis_server, tmp_path):
    wild = authority.sign("wild", "DNS:*.example.test", days=20)
    files = [",".join(str(one[at]) for one in (local_certificate, wild)) for at in (0, 1)]
    flags = ["--tls-port", str(free_port()), "--tls-cert", files[0], "--tls-key", files[1], "--port", str(free_port()),
             "--tls-client-ca", str(authority.ca), "--bus", redis_server.url]

    def check(*more):
        return subprocess.run([weirgate_binary(), "channels", "--check", "--connect", *flags, *more], capture_output=True, text=True, timeout=30)
    good = check()
    assert good.returncode == 0, good.stderr
    handshake = f"TLS: a handshake of version 1.3 with the certificate of {local_certificate[0]}, for 127.0.0.1, localhost, which ends in "
    # Signed for 30 days: there are 29 whole ones left from the second after.
    assert any(f"{handshake}{days} days" in good.stdout for days in (29, 30)), good.stdout
    assert f"can listen on 127.0.0.1:{flags[1]}" in good.stdout or f"can listen on 0.0.0.0:{flags[1]}" in good.stdout, good.stdout
    with socket.create_server(("0.0.0.0", int(flags[1]))):
        taken = check()
    assert taken.returncode == 1 and f":{flags[1]}" in taken.stdout + taken.stderr, taken


async def test_operators_see_versions_handshakes_certificates_and_the_names_of_clients(start_tls, authority):
    admin = free_port()
    flags = ("--tls-client-ca", str(authority.ca), "--admin-addr", f"127.0.0.1:{admin}")
    weirgate = start_tls("demo", *flags)
    weirgate.logs("weirgate is listening")

    def context(name, *names, version=None):
        return authority.context(certificate=authority.sign(name, *names), version=version)
    clients = [await websockets.connect(f"wss://127.0.0.1:{weirgate.tls_port}/ws/stream", ssl=one, max_size=None)
               for one in (context("ann", "email:ann@example.test", version=VERSIONS[0]), context("bob", "DNS:bob.example.test"))]
    # A kept connection has the name too, once it is a WebSocket.
    kept = await asyncio.to_thread(MemoryClient(weirgate.tls_port, context("cid", "DNS:cid.example.test")).greet)
    kept.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.to_thread(kept.read_until, b"}")
    kept.write(upgrade_request(weirgate.tls_port))
    await asyncio.to_thread(kept.read_until, b"\r\n\r\n")

    def state():
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/operator/state", timeout=20) as answer:
            return json.loads(answer.read())

    def seen():
        survey = state()["survey"]
        return sorted((one["user"], one["tls"]) for one in survey["busiest"]) if survey else []
    await until(lambda: seen() == [("ann", "1.2"), ("bob", "1.3"), ("cid", "1.3")], 20, "three users")
    tls = state()["tls"]
    assert (tls["handshakes_full"], tls["handshakes_failed"], tls["handshakes_open"]) == (3, 0, 0)
    assert 29 * 86_400_000 < tls["certificate_ends_unix_ms"] - state()["now_unix_ms"] < 30 * 86_400_000
    top = await asyncio.to_thread(subprocess.run, [weirgate_binary(), "top", "--once", f"http://127.0.0.1:{admin}"],
                                  capture_output=True, text=True, timeout=30)
    assert re.search(r"^127\.0\.0\.1 +ann .* 1\.2 +\S+$", top.stdout, re.M), top.stdout + top.stderr
    assert "certificate_ends in 29 d" in top.stdout
    for client in clients:
        await client.close()
    weirgate.lines_with("connection ended", 'user="ann"', 'tls="1.2"')


async def test_a_new_certificate_counts_for_new_clients_and_cuts_nobody(channels, authority, redis_server, tmp_path):
    files = [tmp_path / "chain.pem", tmp_path / "key.pem"]

    def put(pair):
        for file, new in zip(files, pair):
            (tmp_path / "next").write_bytes(new.read_bytes())
            (tmp_path / "next").rename(file)
    put(authority.sign("first", "IP:127.0.0.1"))
    weirgate = channels(certificate=files)
    client = await subscriber(weirgate, authority.context())

    def subject():
        with socket.create_connection(("127.0.0.1", weirgate.tls_port), 20) as plain:
            with authority.context().wrap_socket(plain, server_hostname="127.0.0.1") as tls:
                return dict(part[0] for part in tls.getpeercert()["subject"])["commonName"]
    assert subject() == "first"
    put(authority.sign("second", "IP:127.0.0.1"))
    await until(lambda: subject() == "second", 20, "the new certificate")
    files[1].write_text("no key")
    weirgate.send(signal.SIGHUP)
    weirgate.logs("key.pem", "the certificates stay as they were")
    assert subject() == "second"
    assert count(weirgate, "weirgate_reloads_total", what="tls", outcome="failed") >= 1
    with redis_server.client() as redis:
        redis.publish("news", '"still here"')
    assert json.loads(await asyncio.wait_for(client.recv(), 20))["data"] == "still here"
    await client.close()


async def test_the_log_warns_of_a_certificate_that_ends_soon_while_the_gateway_runs(start_tls, authority):
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=14, seconds=10)
    weirgate = start_tls("demo", certificate=authority.sign_until(end, "soon", "IP:127.0.0.1")).wait_ready()
    warning = "the certificate expires in 13 days"
    await until(lambda: warning in weirgate.log(), 30, "the warning of the first day")
    # What a start complains of comes before.
    assert weirgate.log().index("weirgate is listening") < weirgate.log().index(warning)
    weirgate.send(signal.SIGHUP)
    await until(lambda: weirgate.log().count(warning) == 2, 20, "the warning of the signal")


def greeting(weirgate, context, session=None):
    """(whether the handshake was resumed, the session for the next) of a connection that asks for a page."""
    with socket.create_connection(("127.0.0.1", weirgate.tls_port), 20) as plain:
        with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as tls:
            tls.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert tls.recv(1000).startswith(b"HTTP/1.1 200")
            return tls.session_reused, tls.session


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_that_comes_back_needs_no_whole_handshake(start_tls, authority, tmp_path, version):
    files = [tmp_path / "chain.pem", tmp_path / "key.pem"]

    def put(name):
        for file, new in zip(files, authority.sign(name, "IP:127.0.0.1")):
            file.write_bytes(new.read_bytes())
    put("before")
    weirgate = start_tls("demo", certificate=files).wait_ready()
    context = authority.context(version=version)
    _, session = greeting(weirgate, context)
    resumed, session = greeting(weirgate, context, session)
    assert resumed
    put("after")
    weirgate.send(signal.SIGHUP)
    await until(lambda: count(weirgate, "weirgate_reloads_total", what="tls", outcome="changed") == 1, 20, "the new certificate")
    assert greeting(weirgate, context, session)[0], "the ticket is good over a renewal"
    await until(lambda: count(weirgate, "weirgate_tls_handshakes_total", outcome="resumed") == 2, 20, "both counted")
    assert count(weirgate, "weirgate_tls_handshakes_total", outcome="full") == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_no_ticket_admits_a_client_of_a_removed_authority(start_tls, authority, tmp_path, version):
    authorities, stays = tmp_path / "clients.pem", Authority(tmp_path, "stays")
    authorities.write_bytes(authority.ca.read_bytes() + stays.ca.read_bytes())
    weirgate = start_tls("demo", "--tls-client-ca", str(authorities)).wait_ready()
    context = authority.context(authority.sign("ann", "DNS:ann"), version)
    session = greeting(weirgate, context)[1]
    resumed, session = greeting(weirgate, context, session)
    assert not resumed, "the certificate is checked each time"
    authorities.write_bytes(stays.ca.read_bytes())
    weirgate.send(signal.SIGHUP)
    await until(lambda: count(weirgate, "weirgate_reloads_total", what="tls", outcome="changed") == 1, 20, "the new authorities")
    for known in (None, session):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            greeting(weirgate, context, known)


@pytest.mark.parametrize("gateway", ["demo", "channels"])
async def test_a_stop_says_goodbye_inside_of_tls(start_tls, redis_server, authority, gateway):
    weirgate = start_tls(gateway, redis=redis_server).wait_ready()
    path = "/ws/stream" if gateway == "demo" else "/ws"
    client = await websockets.connect(f"wss://127.0.0.1:{weirgate.tls_port}{path}", ssl=authority.context())
    silent = socket.create_connection(("127.0.0.1", weirgate.tls_port), 20)
    weirgate.send(signal.SIGTERM)
    with pytest.raises(websockets.ConnectionClosed):
        while True:
            await asyncio.wait_for(client.recv(), 20)
    assert client.close_code == 1012
    assert await asyncio.to_thread(weirgate.wait, 20) == 0
    silent.close()


async def test_the_load_test_speaks_tls(start_tls, authority):
    weirgate = start_tls("demo").wait_ready()
    command = [loadtest_binary(), "clients", f"wss://127.0.0.1:{weirgate.tls_port}/ws/stream", "--ca-file", str(authority.ca),
               "-n", "20", "--seconds", "2"]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended
    readers = next(line for line in ended.stdout.splitlines() if line.startswith("readers"))
    assert readers.split()[1] == "20" and "messages/s" in ended.stdout, ended.stdout
    assert count(weirgate, "weirgate_tls_handshakes_total", outcome="full") == 20


@pytest.mark.parametrize("flags, told", [
    (["--tls-port", "0"], "--tls-port (flag) is set without --tls-cert"),
    (["--tls-port", "0", "--tls-cert", "DIR/c.pem"], "--tls-cert (flag) is set without --tls-key"),
    (["--tls-port", "0", "--tls-cert", "DIR/c.pem,DIR/d.pem", "--tls-key", "DIR/c.key"], "as many files as --tls-cert, 2"),
    (["--tls-port", "0", "--tls-cert", "DIR/none.pem", "--tls-key", "DIR/c.key"], "none.pem: "),
    (["--tls-port", "0", "--tls-cert", "DIR/c.pem", "--tls-key", "DIR/other.key"], "does not belong to the first certificate"),
    (["--tls-port", "0", "--tls-cert", "DIR/c.key", "--tls-key", "DIR/c.key"], "c.key: it has none"),
    (["--port", "off"], "--port is \"off\"; allowed: a port, unless"),
])
def test_wrong_files_are_told_at_the_start(authority, tmp_path, flags, told):
    for name, file in [("c", "c.pem"), ("other", "other.pem")]:
        certificate, key = authority.sign(name, "DNS:localhost")
        (tmp_path / file).write_bytes(certificate.read_bytes())
        (tmp_path / f"{name}.key").write_bytes(key.read_bytes())
    flags = [flag.replace("DIR", str(tmp_path)) for flag in flags]
    for more in ([], ["--check"]):
        ended = subprocess.run([weirgate_binary(), "demo", "--port", "0", *flags, *more], capture_output=True, text=True, timeout=20,
                               env={"PATH": os.environ["PATH"]})
        assert ended.returncode == 2 and told in ended.stderr, (more, ended)


async def test_a_pipe_in_place_of_a_certificate_is_refused_and_keeps_nothing_else_from_being_read(start_tls, authority, tmp_path, redis_server):
    chain, key = authority.sign("piped", "IP:127.0.0.1")
    filter_ = tmp_path / "filter"
    filter_.write_text("info\n")
    failing = lambda: count(weirgate, "weirgate_reloads_failing", what="tls")
    weirgate = start_tls("demo", "--log-filter-file", str(filter_), certificate=(chain, key)).wait_ready()
    assert failing() == 0
    kept = chain.rename(tmp_path / "kept.pem")
    os.mkfifo(chain)
    filter_.write_text("info,weirgate_server::http=debug\n")
    weirgate.send(signal.SIGHUP)
    await until(lambda: count(weirgate, "weirgate_reloads_total", what="log_filter", outcome="changed") == 1, 20, "the new filter")
    await until(lambda: failing() == 1, 20, "the pipe is seen")
    weirgate.logs("not a regular file; the certificates stay as they were")
    assert is_there(weirgate.tls_port, authority.context())
    started = start_tls("demo", certificate=(chain, key))
    assert await asyncio.to_thread(started.wait, 20) == 2, "an error, and no wait for somebody who writes"
    chain.unlink()
    kept.rename(chain)
    await until(lambda: failing() == 0, 20, "the file is good again")
