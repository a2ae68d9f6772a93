"""Headers of the PROXY protocol from load balancers of TCP: plain and TLS, both versions, limits by address, and what is no header."""
import asyncio
import http.client
import json
import re
import socket
import ssl
import struct
import subprocess
import time

import pytest
import websockets
from clients import client_frame, upgrade_request
from processes import weirgate_binary
from prometheus import Metrics, scrape
from proxies import Haproxy, NginxTcp
from tls import is_there
from waiting import until

FLAGS = ("--trusted-proxies", "127.0.0.0/8", "--proxy-protocol")


def v1(address="198.51.100.7", port=4711):
    family = "TCP6" if ":" in address else "TCP4"
    own = "::1" if ":" in address else "10.0.0.1"
    return f"PROXY {family} {address} {own} {port} 443\r\n".encode()


def v2(address="198.51.100.7", port=4711, extensions=b"", command=1):
    addresses = socket.inet_aton(address) + socket.inet_aton("10.0.0.1") + struct.pack("!HH", port, 443)
    rest = addresses + extensions
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20 | command, 0x11]) + struct.pack("!H", len(rest)) + rest


class Balanced:
    """A connection of a load balancer: a header, then TLS if there is a context, then the client's bytes."""

    def __init__(self, port, header, context=None, step=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(header), step or len(header) or 1):
            self.socket.sendall(header[at:at + (step or len(header))])
            if step:
                time.sleep(0.001)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def ask(self, request):
        """The first bytes of the answer; b"" where the gateway closes."""
        try:
            self.socket.sendall(request)
            return self.socket.recv(65536)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            return b""

    def upgrade(self, port):
        answer = self.ask(upgrade_request(port))
        assert answer.startswith(b"HTTP/1.1 101"), answer
        return self

    def close(self):
        self.socket.close()


HEADERS = {"1": lambda port: (v1(port=port), f"198.51.100.7:{port}"),
           "1 of IPv6": lambda port: (v1("2001:db8::7", port), f"[2001:db8::7]:{port}"),
           "2": lambda port: (v2(port=port), f"198.51.100.7:{port}"),
           "2 with extensions": lambda port: (v2(port=port, extensions=b"\x04\x00\x03abc" * 200), f"198.51.100.7:{port}")}


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_clients_have_the_addresses_of_their_headers(start_tls, authority, over_tls):
    weirgate = start_tls("demo", *FLAGS)
    weirgate.logs("weirgate is listening")
    port, context = (weirgate.tls_port, authority.context()) if over_tls else (weirgate.port, None)
    for n, make in enumerate(HEADERS.values()):
        # Whole, and byte by byte with the client's bytes right behind.
        for step in (None, 1):
            header, peer = make(4711 + 10 * n + bool(step))
            client = Balanced(port, header, context, step).upgrade(port)
            client.ask(client_frame(8, b"\x03\xe8"))
            client.close()
            address = peer.rsplit(":", 1)[0].strip("[]")
            weirgate.lines_with("connection ended", f"client={address} peer={peer} ", *(['tls="1.3"'] if over_tls else []))


def test_a_health_check_of_the_balancer_and_its_pages_need_no_client(start_tls, authority):
    weirgate = start_tls("demo", *FLAGS)
    weirgate.logs("weirgate is listening")
    for header in (b"PROXY UNKNOWN\r\n", v2(command=0)):
        for port, context in ((weirgate.port, None), (weirgate.tls_port, authority.context())):
            client = Balanced(port, header, context)
            answer = client.ask(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            client.close()
    # The gateway's own check connects from a trusted address too.
    flags = [*FLAGS[:3], "--port", str(weirgate.port)]
    health = subprocess.run([weirgate_binary(), "health", "demo", *flags], capture_output=True, text=True, timeout=20)
    assert health.returncode == 0, health.stderr


async def test_checks_of_balancers_that_say_no_more_than_a_header_write_no_line(start_tls):
    weirgate = start_tls("demo", *FLAGS, "--log-format", "json")
    weirgate.logs("weirgate is listening")
    for header in (b"", b"PROXY UNKNOWN\r\n", v2(command=0), v1(), v2()):
        for port in (weirgate.port, weirgate.tls_port):
            for is_reset in (False, True):
                check = socket.create_connection(("127.0.0.1", port), timeout=20)
                check.sendall(header)
                # The header has arrived.
                await asyncio.sleep(0.02)
                check.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", is_reset, 0))
                check.close()
    await until(lambda: closes(weirgate, "peer_gone") + closes(weirgate, "socket_error") >= 20, 20, "all have gone")
    assert closes(weirgate, "tls_error") == 0
    assert "connection ended" not in weirgate.log()


def closes(weirgate, reason):
    admin = Balanced(weirgate.port, b"PROXY UNKNOWN\r\n")
    answer = admin.ask(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    while part := admin.socket.recv(65536):
        answer += part
    admin.close()
    return Metrics(answer.decode().partition("\r\n\r\n")[2]).sum("weirgate_client_closes_total", reason=reason)


async def test_what_is_no_header_is_closed_counted_and_told(start_tls):
    weirgate = start_tls("demo", *FLAGS, "--handshake-timeout-ms", "1000")
    weirgate.logs("weirgate is listening")
    no_headers = [b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00" + b"\x01" * 500, b"PROXY TCP4 1.2.3.4 x 1 2\r\n",
                  b"PROXY TCP4 " + b"1" * 200, v2()[:14] + b"\xff\xff" + b"\0" * 5_000]
    for port in (weirgate.port, weirgate.tls_port):
        for bytes_ in no_headers:
            client = Balanced(port, b"")
            assert client.ask(bytes_) == b"", bytes_[:40]
            client.close()
    await until(lambda: closes(weirgate, "proxy_header") == 10, 20, "ten ends with a reason")
    weirgate.lines_with("connection ended", 'reason="proxy_header"', "client=127.0.0.1 ")
    # A header that never ends has the time of a handshake; a balancer that leaves has told nothing.
    slow = Balanced(weirgate.tls_port, v1()[:10])
    assert await asyncio.to_thread(slow.ask, b"") == b""
    slow.close()
    await until(lambda: closes(weirgate, "handshake_timeout") == 1, 20, "the end of its time")
    Balanced(weirgate.port, v1()[:5]).close()
    await until(lambda: closes(weirgate, "peer_gone") == 1, 20, "the end of a connection")


def test_limits_by_address_count_the_clients_of_the_header(start_tls, authority):
    weirgate = start_tls("demo", *FLAGS, "--connections-per-ip-max", "2")
    weirgate.logs("weirgate is listening")
    for port, context, address in ((weirgate.port, None, "203.0.113.1"), (weirgate.tls_port, authority.context(), "203.0.113.2")):
        clients = [Balanced(port, v1(address), context).upgrade(port) for _ in range(2)]
        if context is None:
            refused = Balanced(port, v1(address)).ask(upgrade_request(port))
            assert refused.startswith(b"HTTP/1.1 503"), refused
        else:
            # A refusal comes before the handshake.
            with pytest.raises((ssl.SSLError, ConnectionError)):
                Balanced(port, v1(address), context)
        other = Balanced(port, v1("203.0.113.3"), context).upgrade(port)
        for client in (*clients, other):
            client.close()
    # Another header changes nothing: X-Forwarded-For of a client that is no proxy.
    forged = Balanced(weirgate.port, v1("203.0.113.9"))
    request = upgrade_request(weirgate.port).replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.55\r\n\r\n")
    assert forged.ask(request).startswith(b"HTTP/1.1 101")
    forged.close()
    weirgate.lines_with("connection ended", "client=203.0.113.9 ")
    assert "192.0.2.55" not in weirgate.log()


async def test_others_send_no_header_and_a_header_of_theirs_is_a_bad_head(start_tls, authority):
    weirgate = start_tls("demo", "--trusted-proxies", "10.0.0.7", "--proxy-protocol").wait_ready()
    assert weirgate.get("/health")[0] == 200
    for header in (v1(), v2()):
        client = Balanced(weirgate.port, b"")
        assert client.ask(header + b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 400")
        client.close()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Balanced(weirgate.tls_port, v1(), authority.context())
    assert scrape(weirgate).sum("weirgate_client_closes_total", reason="bad_request") == 2
    assert scrape(weirgate).sum("weirgate_client_closes_total", reason="tls_error") == 1


def test_over_a_unix_socket(start_weirgate, tmp_path):
    path = tmp_path / "http.sock"
    flags = ("--listen", f"unix:{path}", "--trusted-proxies", "unix", "--proxy-protocol")
    weirgate = start_weirgate("demo", *flags)
    weirgate.logs("weirgate is listening")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(v2() + upgrade_request(80))
        assert client.recv(65536).startswith(b"HTTP/1.1 101")
    weirgate.lines_with("connection ended", "client=198.51.100.7 ")


def test_the_way_of_a_request_through_a_balancer_and_proxies_of_http(start_tls, service):
    jobs = service(lambda asked: (200, b"{}"))
    flags = ("--trusted-proxies", "127.0.0.0/8,203.0.113.0/24", "--proxy-protocol")
    weirgate = start_tls("events", *flags, env={"MEASUREMENT_URL": jobs.url})
    weirgate.logs("weirgate is listening")

    def way(header, *lines):
        """(the client of a WebSocket, the list that a service gets)."""
        said = "".join(f"\r\nX-Forwarded-For: {line}" for line in lines).encode()
        client = Balanced(weirgate.port, header)
        request = upgrade_request(weirgate.port, "/ws?device_id=a").replace(b"\r\n\r\n", said + b"\r\n\r\n")
        assert client.ask(request).startswith(b"HTTP/1.1 101")
        client.ask(client_frame(8, b"\x03\xe8"))
        client.close()
        ended = len(clients) + 1
        while len(lines_of_ends := weirgate.lines_with("connection ended")) < ended:
            time.sleep(0.02)
        clients.append(re.search(r"client=(\S+)", lines_of_ends[-1])[1])
        asked = Balanced(weirgate.port, header)
        asked.ask(b"POST /v1/measurement/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2" + said + b"\r\n\r\n{}")
        asked.close()
        return clients[-1], jobs.headers[-1]["X-Forwarded-For"]

    clients = []
    assert way(v1("198.51.100.7")) == ("198.51.100.7", "198.51.100.7")
    # The client writes what it likes; a proxy of HTTP with headers of both kinds says the same twice.
    assert way(v1("198.51.100.7"), "192.0.2.55") == ("198.51.100.7", "192.0.2.55, 198.51.100.7")
    assert way(v2("198.51.100.7"), "192.0.2.55, 198.51.100.7") == ("198.51.100.7", "192.0.2.55, 198.51.100.7")
    # A trusted proxy of HTTP, before or behind others, in front of the balancer.
    assert way(v1("203.0.113.9"), "192.0.2.55, 198.51.100.7") == ("198.51.100.7", "192.0.2.55, 198.51.100.7, 203.0.113.9")
    assert way(v2("203.0.113.9"), "192.0.2.55", "198.51.100.7, 203.0.113.8") == (
        "198.51.100.7", "192.0.2.55, 198.51.100.7, 203.0.113.8, 203.0.113.9")
    assert way(v1("203.0.113.9"), "198.51.100.7, 203.0.113.9") == ("198.51.100.7", "198.51.100.7, 203.0.113.9")
    # A client that the balancer does not name has written the rest itself.
    for unnamed in (b"PROXY UNKNOWN\r\n", v2(command=0)):
        assert way(unnamed, "192.0.2.55") == ("127.0.0.1", "127.0.0.1")


def test_a_kept_connection_stays_with_its_client(start_tls):
    weirgate = start_tls("demo", *FLAGS)
    weirgate.logs("weirgate is listening")
    client = Balanced(weirgate.port, v1("203.0.113.7"))
    link = http.client.HTTPConnection("127.0.0.1", weirgate.port)
    link.sock = client.socket
    for _ in range(3):
        link.request("GET", "/health")
        assert json.loads(link.getresponse().read())["status"] == "healthy"
    client.upgrade(weirgate.port)
    client.close()
    weirgate.lines_with("connection ended", "client=203.0.113.7 ")


@pytest.mark.parametrize("balancer", [lambda port: Haproxy(port, recipe="tcp.cfg"), NginxTcp], ids=["HAProxy", "nginx"])
async def test_the_recipes_for_balancers_of_tcp(start_tls, authority, started, balancer):
    weirgate = start_tls("demo", "--trusted-proxies", "127.0.0.1", "--proxy-protocol", "--connections-per-ip-max", "2")
    weirgate.logs("weirgate is listening")
    proxy = balancer(weirgate.tls_port)
    started.append(proxy)

    async def client_of(address):
        return await websockets.connect(f"wss://localhost:{proxy.port}/ws/stream", ssl=authority.context(), local_addr=(address, 0), max_size=None)

    # HAProxy looks at /ready first.
    await until(lambda: is_there(proxy.port, authority.context()), 10, "an answer through the load balancer")
    clients = [await client_of(address) for address in ("127.0.0.9", "127.0.0.9", "127.0.0.8")]
    with pytest.raises((OSError, websockets.InvalidMessage, EOFError)):
        await client_of("127.0.0.9")
    for client in clients:
        assert json.loads(await asyncio.wait_for(client.recv(), 20))
        await client.close()
    for address in ("127.0.0.9", "127.0.0.8"):
        await asyncio.to_thread(weirgate.lines_with, "connection ended", f"client={address} ", 'tls="1.3"')


def test_without_proxies_the_setting_is_an_error():
    check = subprocess.run([weirgate_binary(), "demo", "--check", "--proxy-protocol"], capture_output=True, text=True, timeout=20)
    assert check.returncode == 2
    assert '--proxy-protocol is "true"; allowed: false, unless --trusted-proxies names the proxies' in check.stderr
